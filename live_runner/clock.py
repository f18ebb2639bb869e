"Time: ISO text of the wire to ns UTC and back, the clock everything waits on, and one that tests move by hand."
import asyncio
import heapq
import re
import time
from datetime import datetime, timedelta, timezone

EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
ISO = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)", re.ASCII)


def isotime(
    ns: int, # UTC
) -> str:
    "ISO text in UTC with six digits of a second, cut and not rounded: 2026-11-20T14:30:00.123456+00:00."
    return (EPOCH + timedelta(microseconds=ns // 1000)).isoformat(timespec="microseconds")


def ns_of(
    text: str, # ISO with Z or an offset, and up to nine digits of a second
) -> int: # ns UTC
    "The moment of an ISO text; ValueError for any other text, and for one that does not say its offset."
    match = ISO.fullmatch(text)
    if not match: raise ValueError(f"time must look like 2026-11-20T14:30:00.1234567+00:00 or end in Z, got {text!r}")
    whole = datetime.fromisoformat(match[1] + match[3].replace("Z", "+00:00")) - EPOCH
    return (whole.days * 86_400 + whole.seconds) * 1_000_000_000 + int((match[2] or "0").ljust(9, "0"))


class WallClock:
    "The real time."

    def now(self) -> int:
        "ns UTC."
        return time.time_ns()

    def monotonic(self) -> float:
        "Seconds since some moment; never goes back."
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        "Waits."
        await asyncio.sleep(seconds)


class FakeClock(WallClock):
    "Time for tests: it stands still until `advance`, which wakes who waits on it in the order of their due times."

    def __init__(self,
        start: int = 1_700_000_000_000_000_000, # ns UTC
    ):
        self.ns, self._start = start, start
        self._sleepers = []  # heap of (due ns, running number, future)
        self._count = 0

    def now(self) -> int: return self.ns

    def monotonic(self) -> float: return (self.ns - self._start) / 1e9

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0: return await asyncio.sleep(0)
        waiter = asyncio.get_running_loop().create_future()
        self._count += 1
        heapq.heappush(self._sleepers, (self.ns + max(1, round(seconds * 1e9)), self._count, waiter))
        await waiter

    async def advance(self, seconds: float) -> None:
        "Moves time on; each sleeper that comes due runs until it waits again before the next one is woken. Sockets are not waited for."
        end = self.ns + round(seconds * 1e9)
        await _settle()
        while self._sleepers and self._sleepers[0][0] <= end:
            due, _, waiter = heapq.heappop(self._sleepers)
            if waiter.done(): continue  # its task was cancelled
            self.ns = max(self.ns, due)
            waiter.set_result(None)
            await _settle()
        self.ns = end


async def _settle() -> None:
    "Lets every task run until all of them wait."
    loop = asyncio.get_running_loop()
    await asyncio.sleep(0)
    while loop._ready: await asyncio.sleep(0)  # asyncio has no public word for "nothing left to run"
