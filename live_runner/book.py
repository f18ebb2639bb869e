"""Our orders as far as we know them, and the fills of the account: what is told, answered or read in a snapshot, in any order and any number of times, comes to the same book.

An order is known by its tag before the venue has given it an id. A fill is counted once, by its id; the position is the sum of the fills."""
from dataclasses import dataclass, field

from .gateway.answers import Fill, Order
from .protocol import WORKING, OrderStatus, OrderType, Side

ENTRY, STOP, TARGET = "entry", "stop", "target"
LEGS = {"-SL": STOP, "-TP": TARGET}  # how the venue calls the legs of an order with a tag


@dataclass
class Ours:
    "One order of ours."
    tag: str
    role: str               # entry, stop or target
    plan: int               # number of the intent that it belongs to
    lot: int                # which part of the position, from 0
    sign: int               # 1 buys, -1 sells
    size: int               # contracts
    placed: int             # ns UTC
    id: int | None = None   # the venue's; None: not told yet
    status: int = int(OrderStatus.PENDING)
    filled: int = 0         # contracts, as the venue tells it
    done: int = 0           # contracts, by the fills that have been told
    stop: int | None = None # ticks
    limit: int | None = None # ticks
    unknown: int = 0        # when the answer was lost, ns UTC; 0: it was not
    shown: bool = False     # the venue has shown it
    missing: int = 0        # snapshots in a row in which it was missing
    gone: bool = False      # taken for cancelled because it was missing, not because the venue said so
    updated: int = 0        # ns UTC, of the newest word of the venue
    command: int = 0        # id of a command about it that is not answered yet
    retry: int = 0          # no further command before, ns UTC

    @property
    def works(self) -> bool:
        "Whether a fill of it may still be told: also when nothing is known of it, and when the venue has called it filled before it told the fills."
        return self.status in WORKING or self.done < self.filled

    @property
    def rests(self) -> bool:
        "Whether the venue has shown it as resting."
        return self.shown and self.status == OrderStatus.OPEN

    @property
    def left(self) -> int: return max(self.size - self.filled, 0)


@dataclass
class Book:
    "All of it. `ticks` turns points into ticks."
    ours: dict = field(default_factory=dict)    # tag -> Ours
    fills: dict = field(default_factory=dict)   # id -> (signed contracts, ns UTC, id of the order)
    since: int = 0                              # ns UTC: what was before is settled
    foreign: dict = field(default_factory=dict) # id -> text: working orders that are not ours
    closers: list = field(default_factory=list) # ids of orders at market that are no order of ours: closings by the venue, and foreign ones

    @property
    def net(self) -> int:
        "The position by its fills, signed contracts."
        return sum(signed for signed, _, _ in self.fills.values())

    def of(self, order_id: int) -> Ours | None:
        "The order with this id of the venue."
        return next((own for own in self.ours.values() if own.id == order_id), None)

    def working(self, role: str | None = None, plan: int | None = None) -> list[Ours]:
        "Orders that may still fill."
        return [own for own in self.ours.values() if own.works and role in (None, own.role) and plan in (None, own.plan)]

    def protected(self, side: int) -> int:
        "Contracts of a position on `side` that stops at the venue would close."
        return sum(own.left for own in self.ours.values() if own.role == STOP and own.rests and own.sign == -side)

    def name(self, own: Ours, order_id: int) -> None:
        "The venue's id of an order of ours; fills of it may have been told before."
        if own.id != order_id: own.done = max(own.done, sum(abs(signed) for signed, _, number in self.fills.values() if number == order_id))
        own.id, own.unknown = order_id, 0

    def place(self, own: Ours) -> None:
        "An order is about to be sent."
        self.ours[own.tag] = own

    def told(self, order: Order, ticks) -> Ours | None: # the order of ours that it is; None: foreign
        "News of an order, or a row of a snapshot; older news than what is known changes nothing."
        own = self.ours.get(order.tag) or self.of(order.id) or self._leg(order)
        if own is None:
            self._stranger(order)
            return None
        self.name(own, order.id)
        own.shown, own.missing = True, 0
        if not (own.works or own.gone) or (order.updated or own.updated) < own.updated: return own
        own.gone, own.updated, own.status, own.filled, own.size = False, order.updated or own.updated, int(order.status), max(own.filled, order.filled), order.size
        if order.stop is not None: own.stop = ticks(order.stop)
        if order.limit is not None: own.limit = ticks(order.limit)
        return own

    def _leg(self, order: Order) -> Ours | None:
        "A leg of an entry of ours, entered into the book when it is seen first."
        entry = self.of(order.parent) if order.parent is not None else None
        if entry is None and order.tag: entry = self.ours.get(order.tag[:-3]) if order.tag[-3:] in LEGS else None
        if entry is None or entry.role != ENTRY: return None
        role = TARGET if order.type == OrderType.LIMIT else STOP
        tag = f"{entry.tag}{'-TP' if role == TARGET else '-SL'}"
        self.ours[tag] = own = Ours(tag, role, entry.plan, entry.lot, -entry.sign, order.size, entry.placed)
        return own

    def _stranger(self, order: Order) -> None:
        if order.type == OrderType.MARKET:
            if order.id not in self.closers: self.closers.append(order.id)
        if order.status in WORKING and order.type != OrderType.MARKET: self.foreign[order.id] = f"{'buy' if order.side == Side.BUY else 'sell'} {order.size}, order {order.id}"
        else: self.foreign.pop(order.id, None)

    def fill(self, fill: Fill) -> int: # signed contracts that are new; 0: known already, voided, or settled
        "Count a fill, once."
        signed = fill.size if fill.side == Side.BUY else -fill.size
        if fill.voided: return -self.fills.pop(fill.id, (0, 0, 0))[0]
        if fill.id in self.fills or fill.ts < self.since: return 0
        self.fills[fill.id] = signed, fill.ts, fill.order
        own = self.of(fill.order)
        if own is not None:
            own.done += fill.size
            own.filled, own.shown, own.unknown = max(own.filled, own.done), True, 0
            if own.done >= own.size: own.status, own.gone = int(OrderStatus.FILLED), False
        return signed

    def spare_sibling(self, own: Ours, until: int) -> None:
        "One leg was filled: the venue takes the other one back by itself, so nothing is sent about it for a while."
        for other in self.ours.values():
            if other.plan == own.plan and other.lot == own.lot and other.role != ENTRY and other is not own: other.retry = until

    def missed(self, shown: set, asked_at: int, settle_ns: int) -> list[Ours]: # orders that are now taken for gone
        "What a snapshot of all orders since `since` did not show: an order that was never answered was never there, one that was is gone when two snapshots miss it."
        gone = []
        for own in self.working():
            if own.id in shown or own.tag in shown or own.command: continue
            if own.unknown:
                if asked_at < own.unknown + settle_ns: continue
            elif asked_at < own.placed + settle_ns // 5: continue
            own.missing += 1
            if own.missing < 2: continue
            own.status, own.gone = int(OrderStatus.CANCELLED), True
            gone.append(own)
        return gone

    def settle(self, at: int) -> None:
        "Nothing is held and nothing works: what was before `at` need not be remembered, unless a round trip straddles it."
        old = {number: signed for number, (signed, ts, _) in self.fills.items() if ts < at}
        if at <= self.since or sum(old.values()): return
        self.since, self.closers = at, []
        self.fills = {number: own for number, own in self.fills.items() if number not in old}
        self.ours = {tag: own for tag, own in self.ours.items() if own.works or own.placed >= at}

    def plain(self) -> dict:
        "As JSON can carry it."
        return {"ours": {tag: vars(own) for tag, own in self.ours.items()}, "fills": [[number, *own] for number, own in self.fills.items()], "since": self.since,
                "foreign": list(self.foreign.items()), "closers": self.closers}

    @classmethod
    def again(cls, plain: dict) -> "Book":
        "What `plain` gave."
        return cls({tag: Ours(**own) for tag, own in plain["ours"].items()}, {number: tuple(own) for number, *own in plain["fills"]}, plain["since"], dict(map(tuple, plain["foreign"])), plain["closers"])
