"""What the hubs tell us, as records. Both shapes of every event are read, and the deltas of quotes are merged.

They are tuples, so two of different kinds may be equal: ask for the kind with isinstance or match, not with == or in."""
from typing import Any, NamedTuple

from ..protocol import LOGOUT_EVENT, DepthType, TradeType
from .answers import Account, Fill, Order, Position, UnreadableAnswer, field, known, need

STEP_EVENT = "SimulatorStep"  # an extension of the simulated gateway: everything up to this moment has been sent


class Connected(NamedTuple):
    "A connection stands, and every subscription asked for so far has been sent over it."
    hub: str
    generation: int # counts connections from 1


class Subscribed(NamedTuple):
    "The server has answered every call: from here on nothing is missed, so what was missed before can be asked for by REST."
    hub: str
    generation: int


class Lost(NamedTuple):
    "That connection is gone; what happened since the last event of it was missed."
    hub: str
    generation: int
    why: str


class Logout(NamedTuple):
    "The venue ended our login; a new login and a new connection follow by themselves."
    hub: str
    generation: int


class CallRefused(NamedTuple):
    "The server did not do what a call asked for, so that subscription is missing."
    hub: str
    call: str # as sent: SubscribeOrders(7)
    why: str
    generation: int


class UnreadableEvent(NamedTuple):
    "A record that cannot be believed. It is left out whole; treat it as a gap."
    hub: str
    text: str # why, and how it begins
    generation: int


class Step(NamedTuple):
    "Only from the simulated gateway: all that happens up to this moment has been told."
    hub: str
    ts: int # ns UTC, virtual
    generation: int


class Quote(NamedTuple):
    "The market as last told, merged from deltas since this connection began. None: not told yet, which is never 0."
    contract: str
    last: float | None = None            # points, like all prices here
    bid: float | None = None
    ask: float | None = None
    open: float | None = None            # of the session, as the three below
    high: float | None = None
    low: float | None = None
    volume: int | None = None            # contracts
    change: float | None = None          # points
    change_percent: float | None = None
    ts: int | None = None                # ns UTC, of the newest change
    generation: int = 0


class Print(NamedTuple):
    "One trade of the market."
    ts: int                  # ns UTC
    price: float             # points
    size: int                # contracts
    side: TradeType | None   # who crossed the spread; None: not told

    @classmethod
    def of(cls, row: dict) -> "Print":
        side = field(row, "type", "int")
        return cls(need(row, "timestamp", "time"), need(row, "price", "number"), need(row, "volume", "int"), None if side is None else known(TradeType, side))


class Prints(NamedTuple):
    "Trades of the market in the order they were sent."
    contract: str
    prints: list[Print]
    generation: int


class Level(NamedTuple):
    "One change of the book."
    type: DepthType          # RESET empties the book
    price: float | None      # points
    size: int | None         # contracts resting there
    current: int | None      # the venue's currentVolume
    ts: int | None           # ns UTC

    @classmethod
    def of(cls, row: dict) -> "Level":
        kind = known(DepthType, need(row, "type", "int"))
        price = (field if kind == DepthType.RESET else need)(row, "price", "number")
        return cls(kind, price, field(row, "volume", "int"), field(row, "currentVolume", "int"), field(row, "timestamp", "time"))


class Depth(NamedTuple):
    "Changes of the book in the order they were sent."
    contract: str
    levels: list[Level]
    generation: int


class AccountEvent(NamedTuple):
    "An account as it is now."
    action: int | None # as sent: 0 on fills, 1 new or changed, 2 gone; None where the event came bare
    account: Account
    generation: int


class OrderEvent(NamedTuple):
    "An order as it is now."
    action: int | None
    order: Order
    generation: int


class PositionEvent(NamedTuple):
    "A position as it is now; flat has size 0."
    action: int | None
    position: Position
    generation: int


class FillEvent(NamedTuple):
    "A fill of ours."
    action: int | None
    fill: Fill
    generation: int


USER = {"GatewayUserAccount": (AccountEvent, Account), "GatewayUserOrder": (OrderEvent, Order),
        "GatewayUserPosition": (PositionEvent, Position), "GatewayUserTrade": (FillEvent, Fill)}
LISTS = {"GatewayTrade": (Prints, Print), "GatewayDepth": (Depth, Level)}
QUOTE = {"lastPrice": ("last", "number"), "bestBid": ("bid", "number"), "bestAsk": ("ask", "number"), "open": ("open", "number"), "high": ("high", "number"),
         "low": ("low", "number"), "volume": ("volume", "int"), "change": ("change", "number"), "changePercent": ("change_percent", "number")}


class EventReader:
    "Reads the events of one connection; quotes are merged afresh by each new one."

    def __init__(self,
        hub: str,        # "user" or "market"
        generation: int,
    ):
        self._hub, self._generation, self._quotes = hub, generation, {}

    def read(self,
        target: str,      # name of the event
        arguments: list,
    ) -> NamedTuple:
        "The event as a record; UnreadableAnswer for what cannot be believed and for events we do not know."
        if target == LOGOUT_EVENT: return Logout(self._hub, self._generation)
        if target == STEP_EVENT: return Step(self._hub, *_first(target, arguments, int), self._generation)
        if target in USER:
            event, record = USER[target]
            action, data = _unwrapped(*_first(target, arguments, dict))
            return event(action, record.of(data), self._generation)
        if target == "GatewayQuote": return self._merged(*_first(target, arguments, str, dict))
        if target in LISTS:
            event, record = LISTS[target]
            contract, rows = _first(target, arguments, str, (dict, list))
            return event(contract, [record.of(row) for row in (rows if isinstance(rows, list) else [rows])], self._generation)
        raise UnreadableAnswer(f"event {target!r:.80} is unknown")

    def _merged(self, contract: str, row: dict) -> Quote:
        "The quote after this delta. A delta that cannot be read changes nothing."
        told = {QUOTE[name][0]: field(row, name, QUOTE[name][1]) for name in row if name in QUOTE}
        told["ts"] = field(row, "timestamp", "time") or field(row, "lastUpdated", "time")
        before = self._quotes.get(contract) or Quote(contract, generation=self._generation)
        self._quotes[contract] = quote = before._replace(**{name: value for name, value in told.items() if value is not None})
        return quote


def _first(target: str, arguments: list, *kinds: type) -> list[Any]:
    "The arguments of an event, each of its kind; more of them than we know are let be."
    if len(arguments) < len(kinds) or not all(isinstance(value, kind) for value, kind in zip(arguments, kinds)):
        raise UnreadableAnswer(f"{target} must have {len(kinds)} argument(s) of the right kind, got {arguments!r:.200}")
    return arguments[:len(kinds)]


def _unwrapped(payload: dict) -> tuple[int | None, dict]:
    "Action and data of a user event, which comes as {action, data} or as the data alone."
    return (field(payload, "action", "int"), need(payload, "data", "object")) if "data" in payload else (None, payload)
