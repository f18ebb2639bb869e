"What the supervisor of a hub knows of one connection, why it ended, and what the hub has counted so far."
import asyncio
import threading
from dataclasses import dataclass, field
from typing import NamedTuple

from .events import EventReader

ROOM = 16  # messages of the transport that may wait for the loop; then the socket is not read, and the server waits. An order's answer stands behind them: 256 cost 50 ms, 16 cost 7, at the same speed


class End(NamedTuple):
    "Why a connection ended, and how to go on."
    why: str
    force: bool = False   # the next token comes from a new login
    calm: bool = False    # nothing is wrong: no back-off
    logout: bool = False


@dataclass
class Counters:
    "What a hub has seen since it was made."
    messages: int = 0        # events of the server
    unreadable: int = 0      # records left out
    refused_calls: int = 0
    handler_errors: int = 0
    rebuilds: int = 0        # connections begun after the first
    last_why: str = ""       # why the last connection, or attempt at one, ended


@dataclass
class Connection:
    "One connection, from the asking for its token to its end."
    ended: asyncio.Future           # -> End
    born: float                     # s on the clock, as all times here
    heard: float                    # when the server last showed a sign of life
    renew: float = float("inf")     # when its token will be too old
    transport: object = None
    reader: EventReader | None = None # there is one once the handshake is done
    calls: dict[str, str] = field(default_factory=dict) # invocation id -> call, those not answered yet
    settled: bool = True            # all calls are answered and the owner has been told
    room: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(ROOM))

    def end(self, end: End) -> None:
        "The first reason counts."
        if not self.ended.done(): self.ended.set_result(end)
