"Why the venue refuses an order: the rules in the order in which they are looked at, with its own words."
import numpy as np

from ..protocol import ModifyError, OrderType, PlaceError

PLACEABLE = (OrderType.LIMIT, OrderType.MARKET, OrderType.STOP, OrderType.TRAILING_STOP, OrderType.JOIN_BID, OrderType.JOIN_ASK)
MIN_LEG_TICKS, MAX_TRAIL_TICKS = 4, 1000

TAG_USED = "Specified custom tag is already in use"
NOT_TRADING = "Trading is currently unavailable. The instrument is not in an active trading status."
OUT_OF_RANGE = "Invalid price. Price is outside allowed range."
POSITION_BRACKETS = "Brackets cannot be used with Position Brackets. You must enable Auto OCO Brackets."
NO_MARGIN = "Not enough margin."
NO_TRAIL, LONG_TRAIL, NO_LAST = "Trail Distance not set.", f"Trail Distance exceeds maximum ({MAX_TRAIL_TICKS})", "Cannot trail without a last price"


def unaligned(word: str) -> str: return f"Invalid {word} price. Price is not aligned to tick size."


def ticks_of(venue, points: float | None) -> int | None:
    "A price of the wire in ticks; None for none, ValueError for one between two ticks."
    return None if points is None else int(venue.instrument.to_ticks(np.array([points]))[0])


def aligned(venue, body: dict, field: str, word: str) -> tuple:  # ticks or None, refusal or None
    try: return ticks_of(venue, body.get(field)), None
    except ValueError: return None, unaligned(word)


def in_band(venue, ticks: int) -> bool:
    "Whether a price lies inside the day's limits, and inside a narrower band while one is ordered by the plan of faults."
    low, high = venue.limits
    rule = venue.faults.hit("price_band")
    return low <= ticks <= high and (rule is None or venue.last is None or abs(ticks - venue.last) <= rule["ticks"])


def limit_refusal(venue, ticks: int) -> str | None: return None if in_band(venue, ticks) else OUT_OF_RANGE


def stop_refusal(venue, sign: int, ticks: int) -> str | None:
    "A stop to buy must lie above the market, one to sell below it."
    right_side = venue.last is None or sign * (ticks - venue.last) > 0
    return None if right_side and in_band(venue, ticks) else OUT_OF_RANGE


def trail_distance(venue, body: dict, most: int | None) -> tuple:  # ticks or None, refusal or None
    "How far a trailing stop stays behind: from the last price to the level that was sent."
    if body.get("trailPrice") is None: return None, NO_TRAIL
    level, refusal = aligned(venue, body, "trailPrice", "trail")
    if refusal: return None, refusal
    if venue.last is None: return None, NO_LAST
    distance = abs(venue.last - level)
    if distance == 0: return None, NO_TRAIL
    return (distance, None) if most is None or distance <= most else (None, LONG_TRAIL)


def bracket_refusal(venue, account, body: dict, sign: int) -> str | None:
    "Legs are told as signed ticks from the entry."
    for name, word, kinds, way in (("stopLossBracket", "stop loss", (OrderType.STOP, OrderType.TRAILING_STOP), -sign), ("takeProfitBracket", "take profit", (OrderType.LIMIT,), sign)):
        leg = body.get(name)
        if leg is None: continue
        if account.settings.brackets == "position": return POSITION_BRACKETS
        ticks = leg.get("ticks")
        if not isinstance(ticks, int) or isinstance(ticks, bool): return f"Invalid {word} ticks ({ticks})."
        if ticks * way <= 0: return f"Invalid {word} ticks ({ticks}). Ticks should be {'greater' if way > 0 else 'less'} than zero when {'longing' if sign > 0 else 'shorting'}."
        if abs(ticks) < MIN_LEG_TICKS: return f"Invalid {word} ticks ({ticks}). Price should be at least {MIN_LEG_TICKS} ticks away."
        if leg.get("type") not in kinds: return f"Invalid {word} type ({leg.get('type')})."
    return None


def size_refusal(venue, account, size: int, sign: int) -> str | None:
    "No more contracts than the account may hold, were every order on this side filled."
    held = account.positions.get(venue.contract_id)
    working = sum(o.left for o in venue.working.values() if o.account == account.id and o.sign == sign and o.parent is None)
    after = (held.side * held.size if held else 0) * sign + working + size
    return NO_MARGIN if after > account.settings.max_size else None


def account_refusal(venue, account, body: dict) -> tuple | None:  # code and text
    "What is refused before there is an order at all."
    if account is None: return PlaceError.ACCOUNT_NOT_FOUND, None
    contract = venue.contracts.search_by_id(body["contractId"])
    if contract is None: return PlaceError.CONTRACT_NOT_FOUND, None
    if not contract["activeContract"]: return PlaceError.CONTRACT_NOT_ACTIVE, None
    if not account.can_trade: return PlaceError.ACCOUNT_REJECTED, None
    if account.balance <= 0: return PlaceError.INSUFFICIENT_FUNDS, None
    if body.get("customTag") is not None and body["customTag"] in account.tags: return PlaceError.ORDER_REJECTED, TAG_USED
    return None


def place_refusal(venue, account, body: dict, fields: dict) -> str | None:
    "Why the order is rejected, or None; what was understood of its prices goes into `fields`, ticks."
    kind, sign, size = body["type"], 1 if body["side"] == 0 else -1, body["size"]
    if kind not in PLACEABLE: return f"Invalid order type ({kind})."
    if body["side"] not in (0, 1): return f"Invalid order side ({body['side']})."
    if size < 1: return f"Invalid order size ({size})."
    if not venue.is_trading or body["contractId"] != venue.contract_id or venue.faults.hit("halt"): return NOT_TRADING
    refusal = None
    if kind == OrderType.LIMIT:
        if body.get("limitPrice") is None: return "Invalid limit price. Price is not set."
        fields["limit"], refusal = aligned(venue, body, "limitPrice", "limit")
        refusal = refusal or limit_refusal(venue, fields["limit"])
    elif kind == OrderType.STOP:
        if body.get("stopPrice") is None: return "Invalid stop price. Price is not set."
        fields["stop"], refusal = aligned(venue, body, "stopPrice", "stop")
        refusal = refusal or stop_refusal(venue, sign, fields["stop"])
    elif kind == OrderType.TRAILING_STOP:
        fields["trail"], refusal = trail_distance(venue, body, MAX_TRAIL_TICKS)
        if not refusal: fields["stop"] = venue.last + sign * fields["trail"]
    elif kind in (OrderType.JOIN_BID, OrderType.JOIN_ASK):
        if venue.last is None: return NOT_TRADING
        fields["limit"] = venue.bid if kind == OrderType.JOIN_BID else venue.ask
    return refusal or bracket_refusal(venue, account, body, sign) or size_refusal(venue, account, size, sign)


def modify_refusal(venue, order, body: dict, fields: dict) -> tuple | None:  # code and text
    "Why a change is rejected, or None; what it changes goes into `fields`."
    refusal = None
    if body.get("size") is not None:
        if body["size"] <= order.filled: return ModifyError.REJECTED, f"Invalid order size ({body['size']})."
        fields["size"] = body["size"]
    if order.is_limit and body.get("limitPrice") is not None:
        fields["limit"], refusal = aligned(venue, body, "limitPrice", "limit")
        refusal = refusal or limit_refusal(venue, fields["limit"])
    if not refusal and order.type == OrderType.STOP and body.get("stopPrice") is not None:
        fields["stop"], refusal = aligned(venue, body, "stopPrice", "stop")
        refusal = refusal or stop_refusal(venue, order.sign, fields["stop"])
    if not refusal and order.trails and body.get("trailPrice") is not None:
        fields["trail"], refusal = trail_distance(venue, body, None)
        if not refusal: fields["stop"] = venue.last + order.sign * fields["trail"]
    return (ModifyError.REJECTED, refusal) if refusal else None
