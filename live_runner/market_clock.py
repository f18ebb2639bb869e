"""The clocks of simulated markets, where time is what the market's events say. A market in lockstep stands still until it is stepped; one at a pace of its own goes on between its events.

Request limits, retries and everything the core is told live on these clocks; log-ins, hubs and signs of life live on the wall's."""
import asyncio
import heapq

from .clock import WallClock

REACH_S = 1.0   # market seconds that a paced clock goes on by itself after an event; the next one comes within a second of the market
SILENT_S = 2.0  # wall seconds without an event after which it goes on at the wall's pace: an ended market, or a hub that is away
LOOK_S = 0.1    # wall seconds between two looks of a sleeper: the market may leap


class SteppedClock(WallClock):
    "The time of a market in lockstep: it moves only by `hear`, which wakes whoever is due, in order."

    def __init__(self,
        start: int, # ns UTC
    ):
        self._ns, self._start = start, start
        self._sleepers, self._count = [], 0  # heap of (due ns, running number, future)

    def now(self) -> int: return self._ns

    def monotonic(self) -> float: return (self._ns - self._start) / 1e9

    @property
    def sleeping(self) -> bool:
        "Whether anybody waits for time to move."
        return any(not waiter.done() for *_, waiter in self._sleepers)

    def hear(self,
        ts: int, # ns UTC; a moment that has passed does nothing
    ) -> None:
        "The market has come so far."
        self._ns = max(self._ns, ts)
        while self._sleepers and self._sleepers[0][0] <= self._ns:
            *_, waiter = heapq.heappop(self._sleepers)
            if not waiter.done(): waiter.set_result(None)

    async def sleep(self, seconds: float) -> None:
        "Waits for the market."
        if seconds <= 0: return await asyncio.sleep(0)
        waiter = asyncio.get_running_loop().create_future()
        self._count += 1
        heapq.heappush(self._sleepers, (self._ns + max(1, round(seconds * 1e9)), self._count, waiter))
        await waiter


class PacedClock(WallClock):
    "The time of a simulated market that goes by itself. It never goes back and never stands still for long, so nothing that waits on it waits for ever."

    def __init__(self,
        start: int,               # ns UTC
        pace: float = 1.0,        # market seconds in one of the wall
        wall: WallClock = WallClock(),
    ):
        self._heard, self._start, self._pace, self._wall = start, start, pace, wall
        self._at, self._latest = wall.monotonic(), start  # when the last event was heard, s of the wall; the latest time told

    def hear(self,
        ts: int, # ns UTC, of an event
    ) -> None:
        "The market has come so far."
        if ts > self._heard: self._heard, self._at = ts, self._wall.monotonic()

    def now(self) -> int:
        "ns UTC."
        silent_s = self._wall.monotonic() - self._at
        since_s = min(silent_s * self._pace, REACH_S) + max(0.0, silent_s - max(SILENT_S, REACH_S / self._pace))
        self._latest = max(self._latest, self._heard + round(since_s * 1e9))
        return self._latest

    def monotonic(self) -> float: return (self.now() - self._start) / 1e9

    async def sleep(self, seconds: float) -> None:
        "Waits for the market."
        due = self.now() + round(seconds * 1e9)
        while True:
            left_s = (due - self.now()) / 1e9
            if left_s <= 0: return await self._wall.sleep(0)
            await self._wall.sleep(min(max(left_s / self._pace, .001), LOOK_S))
