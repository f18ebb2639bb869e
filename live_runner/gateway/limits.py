"Never more requests than the service allows, in any window of its length, and exits first."
import asyncio
import heapq
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from enum import IntEnum

from ..clock import WallClock
from ..problems import RetryLater
from ..protocol import BARS_LIMIT, REST_LIMIT


class Urgency(IntEnum):
    "Who goes first."
    EXIT = 0; ACT = 1; READ = 2


class Limiter:
    """Slots for requests. The server counts a request at a moment that we do not know, between its sending and its answer; so a slot is taken from the
    sending until a whole window after the answer, and no window of the server, sliding or fixed, can hold more than `limit` of them."""

    def __init__(self,
        limit: int,              # requests in a window
        window_s: float,         # its length, seconds
        reserve: int = 0,        # slots that only exits may use
        clock: WallClock | None = None,
        margin_s: float = .5,    # added to each window: the server's clock may run a little slower than ours
        lost_s: float = 15.0,    # added instead where no answer came: the request may still be on its way
    ):
        if not 0 <= reserve < limit: raise ValueError(f"reserve must be >= 0 and below the limit of {limit}, got {reserve}")
        self.limit, self.window_s, self.reserve, self.margin_s, self.lost_s = limit, window_s, reserve, margin_s, lost_s
        self.clock = clock or WallClock()
        self.in_flight = 0
        self._ends = []     # heap: when each answered request stops counting, seconds of clock.monotonic
        self._waiting = []  # heap of (urgency, running number, future)
        self._count = 0
        self._alarm, self._due = None, math.inf  # task that waits for the next end while anybody waits for a slot, and that moment

    @property
    def free(self) -> int:
        "Slots that an exit could have now."
        while self._ends and self._ends[0] <= self.clock.monotonic(): heapq.heappop(self._ends)
        return self.limit - self.in_flight - len(self._ends)

    @asynccontextmanager
    async def slot(self,
        urgency: Urgency = Urgency.READ, # exits first, then acts, then reads; within one urgency who came first
    ) -> AsyncIterator[float]: # seconds waited
        "Waits for a slot and holds it while the request is under way; leaving by an exception means that no answer came."
        began = self.clock.monotonic()
        await self._take(urgency)
        extra_s = self.lost_s
        try:
            yield self.clock.monotonic() - began
            extra_s = self.margin_s
        finally:
            self.in_flight -= 1
            heapq.heappush(self._ends, self.clock.monotonic() + self.window_s + extra_s)
            self._serve()

    async def _take(self, urgency: Urgency) -> None:
        turn = asyncio.get_running_loop().create_future()
        self._count += 1
        heapq.heappush(self._waiting, (urgency, self._count, turn))
        self._serve()
        try: await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled(): self.in_flight -= 1  # given and not used
            self._serve()
            raise

    def _serve(self) -> None:
        "Gives out what is free, most urgent first, and sees that somebody looks again when the next slot ends."
        while self._waiting:
            urgency, _, turn = self._waiting[0]
            if not turn.done():
                if self.free <= (0 if urgency == Urgency.EXIT else self.reserve): break
                self.in_flight += 1
                turn.set_result(None)
            heapq.heappop(self._waiting)
        if self._waiting and self._ends and self._ends[0] < self._due:
            if self._alarm: self._alarm.cancel()
            self._due = self._ends[0]
            self._alarm = asyncio.create_task(self._look_again(self._due))

    async def _look_again(self, due: float) -> None:
        while (left := due - self.clock.monotonic()) > 0: await self.clock.sleep(max(left, .001))  # a clock may be a hair early
        self._alarm, self._due = None, math.inf
        self._serve()

    def close(self) -> None:
        "Sends away who still waits: RetryLater."
        if self._alarm: self._alarm.cancel()
        self._alarm, self._due = None, math.inf
        for *_, turn in self._waiting:
            if not turn.done(): turn.set_exception(RetryLater("the gateway was closed"))
        self._waiting.clear()


def rest_limiter(clock: WallClock) -> Limiter:
    "For everything but bars; the last twenty slots are for exits."
    return Limiter(*REST_LIMIT, reserve=20, clock=clock)


def bars_limiter(clock: WallClock) -> Limiter:
    "For the history of bars."
    return Limiter(*BARS_LIMIT, clock=clock)
