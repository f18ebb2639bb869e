"""What the core is told and what it wants done: plain records, each one row of the journal as JSON and the same record again.

Every event carries `at`: when the runner took it, ns UTC of the market's clock. Prices of events of the gateway are points, as on the wire; those of bars are ticks."""
import base64
import json
import zlib
from typing import NamedTuple

import numpy as np

from .gateway import outcomes
from .gateway.answers import Account, Fill, Order, Position
from .gateway.outcomes import NewOrder, Outcome

# --- events ------------------------------------------------------------------------------------------------------------------------------------------------


class Started(NamedTuple):
    "A run begins; nothing is known of the venue yet."
    at: int
    why: str = ""     # a reason to begin halted, such as an order to stop that was found at the start


class Past(NamedTuple):
    "Today's bars up to now, from history: what the features and the account's view of the market are warmed with."
    at: int
    ts: np.ndarray     # (n,) int64 ns UTC, rising; only of the session in progress
    prices: np.ndarray # (n, 4) int32 ticks: open, high, low, close
    volume: np.ndarray # (n,) int64 contracts


class Second(NamedTuple):
    "A second of the market is over."
    at: int                  # its end, ns UTC, a whole second
    bar: tuple | None = None # ts (= at - 1 s), open, high, low, close, volume: int, ticks; None: nothing traded
    bid: int = 0             # best bid as this second began, ticks; 0: not known
    ask: int = 0
    doubt: str = ""          # why no entry may be decided on it


class Link(NamedTuple):
    "A hub came or went; up means that its subscriptions are answered."
    at: int
    hub: str           # user or market
    up: bool
    why: str = ""


class OrderTold(NamedTuple):
    "An order as the venue has it now."
    at: int
    order: Order


class FillTold(NamedTuple):
    "A fill of the account, perhaps told before."
    at: int
    fill: Fill


class PositionTold(NamedTuple):
    "A position as the venue has it now."
    at: int
    position: Position


class AccountTold(NamedTuple):
    "The account as the venue has it now."
    at: int
    account: Account


class Answered(NamedTuple):
    "What became of a command."
    at: int
    id: int            # of the command
    outcome: Outcome


class Snapshot(NamedTuple):
    "The venue's own words, asked for by `Ask`: each of the four was read after `asked_at`, not all at one moment."
    at: int
    id: int            # of the command
    asked_at: int      # ns UTC
    account: Account | None  # None: the venue does not name it any more
    positions: tuple   # of `Position`, of our contract or not
    orders: tuple      # of `Order`: all made since `since`, whatever became of them
    fills: tuple       # of `Fill` since `since`


class NoSnapshot(NamedTuple):
    "An `Ask` that was not answered: nothing is known, which is never the same as nothing there."
    at: int
    id: int
    why: str


class Kill(NamedTuple):
    "Somebody wants everything closed and nothing opened, now and until a person clears it."
    at: int
    by: str
    why: str


class Clear(NamedTuple):
    "A person opens a latch."
    at: int
    latch: str         # halt, or one of `keeper.LATCHES`
    by: str
    why: str


class Quit(NamedTuple):
    "The runner is asked to end."
    at: int
    why: str


class Trouble(NamedTuple):
    "Something of ours is broken: exits only until it is `Cured`."
    at: int
    what: str          # journal, task, ...
    why: str


class Cured(NamedTuple):
    "That trouble is over."
    at: int
    what: str


# --- commands ----------------------------------------------------------------------------------------------------------------------------------------------

class Place(NamedTuple):
    "Send an order."
    id: int
    order: NewOrder
    why: str
    exit: bool = False


class Modify(NamedTuple):
    "Change a working order."
    id: int
    order_id: int
    stop: float | None # points
    size: int | None
    why: str
    exit: bool = True


class Cancel(NamedTuple):
    "Take a working order back."
    id: int
    order_id: int
    why: str
    exit: bool = True


class Close(NamedTuple):
    "Close the whole position at market."
    id: int
    why: str
    exit: bool = True


class Ask(NamedTuple):
    "Read account, positions, orders and fills; answered by `Snapshot` or `NoSnapshot`."
    id: int
    since: int         # ns UTC: orders and fills made from then on
    why: str = ""


class Alert(NamedTuple):
    "Tell a person."
    severity: str      # info, warning or critical
    key: str           # the same key is the same trouble
    text: str


class Note(NamedTuple):
    "Something to remember: a decision, a difference found, a lot closed."
    kind: str          # decision, difference, lot, halt, clear, state
    text: str


class DayOver(NamedTuple):
    "The trade date is finished: its summary can be written."
    date: str          # 2024-01-31


class Done(NamedTuple):
    "Nothing is left to do: the runner may end."
    why: str


EVENTS = (Started, Past, Second, Link, OrderTold, FillTold, PositionTold, AccountTold, Answered, Snapshot, NoSnapshot, Kill, Clear, Quit, Trouble, Cured)
COMMANDS = (Place, Modify, Cancel, Close, Ask, Alert, Note, DayOver, Done)
SENT = (Place, Modify, Cancel, Close, Ask) # commands that go to the venue and are answered, by their `id`
KINDS = {kind.__name__: kind for kind in (*EVENTS, *COMMANDS, Account, Fill, Order, Position, NewOrder, outcomes.Accepted, outcomes.Refused, outcomes.TurnedAway, outcomes.Unknown)}


def _plain(value):
    "As JSON can carry it."
    if hasattr(value, "_fields"): return {"_": type(value).__name__} | {name: _plain(own) for name, own in zip(value._fields, value)}
    if isinstance(value, np.ndarray): return {"_": "array", "type": value.dtype.str, "shape": value.shape, "data": base64.b64encode(zlib.compress(np.ascontiguousarray(value).tobytes())).decode()}
    if isinstance(value, (tuple, list)): return [_plain(own) for own in value]
    if isinstance(value, np.generic): return value.item()
    if isinstance(value, int) and not isinstance(value, bool): return int(value)
    return value


def _record(value):
    "The record again. Lists come back as tuples, members of enumerations as plain numbers, which are equal to them."
    if isinstance(value, list): return tuple(_record(own) for own in value)
    if not isinstance(value, dict): return value
    kind = value["_"]
    if kind == "array": return np.frombuffer(zlib.decompress(base64.b64decode(value["data"])), value["type"]).reshape(value["shape"])
    return KINDS[kind](**{name: _record(own) for name, own in value.items() if name != "_"})


def to_json(
    message, # one of EVENTS or COMMANDS
) -> str:
    "A message as one line."
    return json.dumps(_plain(message), separators=(",", ":"), allow_nan=False)


def from_json(
    text: str, # of `to_json`
):
    "The message again; ValueError for anything else."
    try: return _record(json.loads(text))
    except (KeyError, TypeError, zlib.error) as error: raise ValueError(f"not a message: {error!r}: {text[:120]}") from error


def same(
    one, other, # messages, arrays in them or not
) -> bool:
    "Whether two messages say the same, to the last bit; arrays make == useless."
    return to_json(one) == to_json(other)


