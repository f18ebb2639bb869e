"What the venue keeps: orders, positions, fills and accounts, and how each looks on the wire."
from dataclasses import dataclass, field

from mesbot.core import Instrument

from ..clock import isotime
from ..protocol import OrderStatus, OrderType, PositionType, Side
from .settings import AccountSettings


@dataclass(eq=False)
class Order:
    "One order; prices in ticks, times ns UTC."
    id: int
    account: int
    contract: str
    created: int
    updated: int
    status: OrderStatus
    type: OrderType
    side: Side
    size: int
    limit: int | None = None
    stop: int | None = None
    trail: int | None = None      # distance of a trailing stop, or of a leg from its entry (signed), ticks
    tag: str | None = None
    parent: int | None = None     # the entry that this leg protects
    linked: int | None = None     # on a target: its stop
    filled: int = 0               # contracts
    average: float | None = None  # price of what is filled, ticks
    told: int = 0                 # when the last news of it goes out, ns UTC: none overtakes another
    first_ts: int = 0             # the first bar that it can meet, ns UTC
    closes: bool = False          # made by closeContract, not by an order of the client's own
    stop_leg: "Order | None" = None    # legs of an entry
    target_leg: "Order | None" = None

    @property
    def sign(self) -> int: return 1 if self.side == Side.BUY else -1
    @property
    def left(self) -> int: return self.size - self.filled
    @property
    def trails(self) -> bool: return self.type == OrderType.TRAILING_STOP
    @property
    def is_stop(self) -> bool: return self.type in (OrderType.STOP, OrderType.TRAILING_STOP)
    @property
    def is_limit(self) -> bool: return self.type in (OrderType.LIMIT, OrderType.JOIN_BID, OrderType.JOIN_ASK)
    @property
    def legs(self) -> tuple: return tuple(leg for leg in (self.stop_leg, self.target_leg) if leg)


@dataclass(eq=False)
class Position:
    "What an account holds of one contract."
    id: int
    contract: str
    created: int    # ns UTC
    side: int       # 1 long, -1 short
    size: int       # contracts
    average: float  # price, ticks


@dataclass(eq=False)
class Account:
    "One account and everything it ever did."
    settings: AccountSettings
    balance: float
    can_trade: bool
    positions: dict = field(default_factory=dict)  # contract id -> Position
    orders: dict = field(default_factory=dict)     # id -> Order, oldest first
    fills: list = field(default_factory=list)      # as on the wire, oldest first
    tags: set = field(default_factory=set)         # every tag ever used
    closing: Order | None = None                   # the last order that closed a position by its contract

    @property
    def id(self) -> int: return self.settings.id


def account_json(account: Account) -> dict:
    own = account.settings
    return {"id": own.id, "name": own.name, "balance": round(account.balance, 9), "canTrade": account.can_trade, "isVisible": own.visible, "simulated": own.simulated}


def order_json(order: Order, instrument: Instrument) -> dict:
    "An order as REST shows it; the stream leaves the nulls out."
    points = lambda ticks: None if ticks is None else round(float(instrument.to_points(ticks)), 9)
    return {"id": order.id, "accountId": order.account, "contractId": order.contract, "symbolId": symbol_id(order.contract), "creationTimestamp": isotime(order.created), "updateTimestamp": isotime(order.updated),
            "status": int(order.status), "type": int(order.type), "side": int(order.side), "size": order.size, "limitPrice": points(order.limit), "stopPrice": points(order.stop), "fillVolume": order.filled,
            "filledPrice": points(order.average), "customTag": order.tag, "trailDistance": order.trail, "trailPrice": points(order.trail), "parentOrderId": order.parent, "linkedOrderId": order.linked}


def position_json(account: Account, position: Position, instrument: Instrument, name: str) -> dict:
    "A position; one that was closed keeps its average price."
    kind = PositionType.LONG if position.side > 0 else PositionType.SHORT
    return {"id": position.id, "accountId": account.id, "contractId": position.contract, "contractDisplayName": name, "creationTimestamp": isotime(position.created),
            "type": int(kind if position.size else PositionType.UNDEFINED), "size": position.size, "averagePrice": round(float(instrument.to_points(position.average)), 9)}


def symbol_id(contract: str) -> str:
    "`CON.F.US.MES.Z26` belongs to `F.US.MES`."
    return contract.removeprefix("CON.").rpartition(".")[0]
