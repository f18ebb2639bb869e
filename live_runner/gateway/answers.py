"What the gateway tells us, as records: tolerant of fields that are missing, null or new, strict about ids, sizes and prices."
import math
from typing import Any, NamedTuple

from ..clock import ns_of
from ..protocol import OrderStatus, OrderType, PositionType, Side


class UnreadableAnswer(ValueError):
    "An answer or event that cannot be believed; the text says which field and what it held."


def field(
    row: dict, # an object of the gateway's JSON
    name: str, # as the reference spells it; a capital first letter is accepted too
    kind: str, # "int", "number", "str", "bool", "time" (-> ns UTC), "object" or "list"
) -> Any: # None where absent or null
    "One field of an object; UnreadableAnswer when it is of another kind."
    if not isinstance(row, dict): raise UnreadableAnswer(f"an object with {name} was expected, got {row!r:.80}")
    value = row.get(name)
    if value is None: value = row.get(name[0].upper() + name[1:])
    if value is None: return None
    if kind == "time":
        try: return ns_of(value)
        except (TypeError, ValueError): raise UnreadableAnswer(f"{name} must be a time, got {value!r:.80}") from None
    plain = not isinstance(value, bool)
    right = {"int": plain and isinstance(value, int), "number": plain and isinstance(value, (int, float)) and math.isfinite(value),
             "str": isinstance(value, str), "bool": isinstance(value, bool), "object": isinstance(value, dict), "list": isinstance(value, list)}[kind]
    if not right: raise UnreadableAnswer(f"{name} must be of kind {kind}, got {value!r:.80}")
    return float(value) if kind == "number" else value


def need(row: dict, name: str, kind: str) -> Any:
    "`field`, but UnreadableAnswer also where it is absent or null."
    value = field(row, name, kind)
    if value is None: raise UnreadableAnswer(f"{name} is missing in {row!r:.200}")
    return value


def _member(kind: type, number: int, name: str) -> Any:
    "The member of an enumeration; UnreadableAnswer for a number that nobody told us of."
    try: return kind(number)
    except ValueError: raise UnreadableAnswer(f"{name} {number} is unknown") from None


def known(
    kind: type, # an IntEnum
    number: int,
) -> int: # its member, or the plain number where it has none
    "A number by its name, where it has one."
    return kind(number) if number in kind._value2member_map_ else number


class Account(NamedTuple):
    "One trading account."
    id: int
    name: str
    balance: float           # USD, cash
    can_trade: bool
    visible: bool
    simulated: bool | None   # None: not told

    @classmethod
    def of(cls, row: dict) -> "Account":
        visible = field(row, "isVisible", "bool")
        return cls(need(row, "id", "int"), field(row, "name", "str") or "", need(row, "balance", "number"), need(row, "canTrade", "bool"),
                   True if visible is None else visible, field(row, "simulated", "bool"))


class Contract(NamedTuple):
    "One listed contract."
    id: str            # CON.F.US.MES.Z26
    name: str          # MESZ6
    description: str
    tick: float        # smallest price step, points
    tick_usd: float    # what one tick is worth, USD
    active: bool
    symbol_id: str     # F.US.MES

    @classmethod
    def of(cls, row: dict) -> "Contract":
        return cls(need(row, "id", "str"), field(row, "name", "str") or "", field(row, "description", "str") or "", need(row, "tickSize", "number"),
                   need(row, "tickValue", "number"), need(row, "activeContract", "bool"), field(row, "symbolId", "str") or "")


class Candle(NamedTuple):
    "One bar of the history."
    ts: int        # open of the bar, ns UTC
    o: float       # points
    h: float
    l: float
    c: float
    volume: int    # contracts

    @classmethod
    def of(cls, row: dict) -> "Candle":
        return cls(need(row, "t", "time"), *(need(row, name, "number") for name in "ohlc"), need(row, "v", "int"))


class Order(NamedTuple):
    "One order; None where a field does not apply or was not sent."
    id: int
    account: int
    contract: str
    status: OrderStatus
    type: int                   # OrderType; the plain number where it has no name
    side: Side
    size: int                   # contracts
    filled: int                 # contracts done
    filled_price: float | None  # average, points
    limit: float | None         # points
    stop: float | None          # points
    trail: float | None         # distance, points; signed for the leg of a bracket
    trail_ticks: int | None     # the same in ticks
    tag: str | None             # customTag
    parent: int | None          # id of the entry that this leg protects
    linked: int | None          # id of the other leg
    created: int | None         # ns UTC
    updated: int | None         # ns UTC
    symbol_id: str | None

    @classmethod
    def of(cls, row: dict) -> "Order":
        return cls(need(row, "id", "int"), need(row, "accountId", "int"), need(row, "contractId", "str"), _member(OrderStatus, need(row, "status", "int"), "status"),
                   known(OrderType, need(row, "type", "int")), _member(Side, need(row, "side", "int"), "side"), need(row, "size", "int"),
                   field(row, "fillVolume", "int") or 0, field(row, "filledPrice", "number"), field(row, "limitPrice", "number"), field(row, "stopPrice", "number"),
                   field(row, "trailPrice", "number"), field(row, "trailDistance", "int"), field(row, "customTag", "str"), field(row, "parentOrderId", "int"),
                   field(row, "linkedOrderId", "int"), field(row, "creationTimestamp", "time"), field(row, "updateTimestamp", "time"), field(row, "symbolId", "str"))


class Position(NamedTuple):
    "What an account holds of one contract; flat is size 0."
    id: int
    account: int
    contract: str
    type: PositionType
    size: int              # contracts, never negative
    price: float           # average, points
    created: int | None    # ns UTC

    @property
    def net(self) -> int:
        "Contracts with a sign: above 0 long, below 0 short."
        return {PositionType.LONG: self.size, PositionType.SHORT: -self.size}.get(self.type, 0)

    @classmethod
    def of(cls, row: dict) -> "Position":
        kind, size = _member(PositionType, need(row, "type", "int"), "position type"), need(row, "size", "int")
        if size < 0 or (kind == PositionType.UNDEFINED and size): raise UnreadableAnswer(f"a position of type {kind.name} and size {size} makes no sense")
        return cls(need(row, "id", "int"), need(row, "accountId", "int"), need(row, "contractId", "str"), kind, size, need(row, "averagePrice", "number"),
                   field(row, "creationTimestamp", "time"))


class Fill(NamedTuple):
    "One fill, a HalfTrade of the gateway."
    id: int
    account: int
    contract: str
    ts: int             # ns UTC
    price: float        # points
    side: Side
    size: int           # contracts
    order: int          # id of the order
    pnl: float | None   # USD, gross of costs; None: the fill opened or added
    fees: float         # USD, >= 0
    commissions: float  # USD, >= 0; 0 where not sent
    voided: bool

    @classmethod
    def of(cls, row: dict) -> "Fill":
        return cls(need(row, "id", "int"), need(row, "accountId", "int"), need(row, "contractId", "str"), need(row, "creationTimestamp", "time"), need(row, "price", "number"),
                   _member(Side, need(row, "side", "int"), "side"), need(row, "size", "int"), need(row, "orderId", "int"), field(row, "profitAndLoss", "number"),
                   field(row, "fees", "number") or 0.0, field(row, "commissions", "number") or 0.0, field(row, "voided", "bool") or False)
