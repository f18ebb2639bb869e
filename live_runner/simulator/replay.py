"The replay moves the market's clock over a tape: step by step for a client that asks for each, or at a pace of its own."
import asyncio
from collections.abc import Iterator

from mesbot.calendar import MINUTE
from mesbot.core import SECOND

from ..clock import WallClock, isotime, ns_of
from .clock import Clock
from .tape import Tape

NEVER, FOREVER = 2**63 - 1, 2**63 - 2
AT_ONCE = 60     # seconds, or bars, of a long step after which the slowest client is waited for
PAUSE_S = 0.02   # paced: how long the replay rests between two looks at the wall clock


class Replay:
    "One tape, played once. Between two sessions the clock leaps to a minute before the next opens, at any speed."

    def __init__(self,
        tape: Tape,
        clock: Clock,             # the market's
        venue,                    # open_session, meet_open, meet_range, end_second, close_session
        emit,                     # emit(event, contract id, payload); `await emit.drain()` tells who asked that a second, or a step, is over, and waits for the slowest client
        speed: float | str = 1.0, # virtual seconds in a real one; "max" or 0: as fast as the slowest client reads; "lockstep": only by `step`
        wall: WallClock = WallClock(),
    ):
        self.tape, self.clock, self.venue, self.emit, self.wall = tape, clock, venue, emit, wall
        self.speed = check_speed(speed)
        self.ended, self.session = False, None   # the session that is open, by its index
        self._lock, self._telling, self._gentle = asyncio.Lock(), None, False
        self._story = self._play()
        self._moment = next(self._story)   # when the next thing happens

    @property
    def now(self) -> int: return self.clock.now     # ns UTC

    @property
    def bars(self) -> int: return self.tape.played  # so far

    async def step(self,
        seconds: float | None = None,    # of virtual time, from now
        bars: int | None = None,         # up to the end of so many bars; with `seconds` no further than that, and no hour of a session is leapt over
        until: int | str | None = None,  # ns UTC or ISO text
    ) -> dict: # ts (ns UTC), iso, ended, bars (played in this step)
        "Lockstep: let the market go on, with all that happens up to and including the moment it ends at; ValueError for anything but one amount above 0, or when the replay goes by itself."
        if self.speed != "lockstep": raise ValueError(f"a step needs a replay in lockstep, this one runs at speed {self.speed}")
        if sum(amount is not None for amount in (seconds, bars, until)) != 1 and (None in (seconds, bars) or until is not None): raise ValueError("give one of seconds, bars and until")
        async with self._lock:
            before, start, self._gentle = self.bars, self.clock.now, None not in (bars, seconds)
            if bars is not None: await self._bars(_whole("bars", bars), FOREVER if seconds is None else self.clock.now + round(_positive("seconds", seconds) * SECOND))
            else: await self._until(self.clock.now + round(_positive("seconds", seconds) * SECOND) if until is None else _moment(until, start))
            await self.emit.drain()
            return {"ts": self.clock.now, "iso": isotime(self.clock.now), "ended": self.ended, "bars": self.bars - before}

    async def run(self) -> None:
        "Play the tape to its end, at its pace; ValueError in lockstep."
        if self.speed == "lockstep": raise ValueError("a replay in lockstep goes on only by steps")
        if self.speed == "max":
            while not self.ended:
                self._advance(self.clock.now // SECOND * SECOND + SECOND)
                await self.emit.drain()
                await asyncio.sleep(0)
            return
        began, start = self.wall.monotonic(), self.clock.now
        while not self.ended:
            target = start + round((self.wall.monotonic() - began) * self.speed * SECOND)
            while self.clock.now < target and not self.ended:
                self._advance(min(target, self.clock.now // SECOND * SECOND + SECOND))
                await self._second_told()
                if self.clock.now > target: began, start = self.wall.monotonic(), self.clock.now  # it leapt
            await self.wall.sleep(PAUSE_S)

    async def _second_told(self):
        "Let those who asked know that the second is over; a market at a pace of its own waits for nobody."
        if self.clock.now % SECOND == 0 and (self._telling is None or self._telling.done()): self._telling = asyncio.create_task(self.emit.drain())
        await asyncio.sleep(0)

    async def keep_time(self) -> None:
        "After the end: the clock goes on with the wall's, for as long as somebody asks the venue anything. Never returns."
        began, start = self.wall.monotonic(), self.clock.now
        while True:
            await self.wall.sleep(PAUSE_S)
            self.clock.run_until(start + round((self.wall.monotonic() - began) * SECOND))

    async def _bars(self, n: int, end: int):
        wanted = self.bars + n
        while self.bars < wanted and self.clock.now < end and not (self.ended and end == FOREVER):
            part = min(wanted, self.bars + AT_ONCE)
            self._advance(end, part)
            self._advance(self.clock.now if self.bars == part or end == FOREVER else end)
            if self.bars < wanted: await self.emit.drain()

    async def _until(self, target: int):
        while self.clock.now < target:
            self._advance(min(target, self.clock.now + AT_ONCE * SECOND))
            if self.clock.now < target: await self.emit.drain()

    def _advance(self, until: int, bars: int = NEVER):
        "Everything that happens up to and including `until`, or to the end of the bar that makes `bars`."
        while self._moment <= until and self.bars < bars:
            self.clock.run_until(self._moment)
            self._moment = next(self._story)
        if bars == NEVER: self.clock.run_until(max(until, self.clock.now))

    def _play(self) -> Iterator[int]:
        "The whole tape: yields each moment at which something happens, and lets it happen when the next one is asked for."
        for k in range(self.tape.first, len(self.tape.info)):
            row, (begin, end) = self.tape.info[k], self.tape.span(k)
            self._leap(begin if begin == self.tape.begin else begin - MINUTE)
            yield begin
            self.session = k
            self.venue.open_session(row)
            yield from self.tape.play(k, self.venue, self.emit)
            yield end
            if self._gentle: yield int(row["close"])
            self._leap(int(row["close"]))
            self.venue.close_session()
            self.session = None
            self._leap(self.clock.now + SECOND)  # what is told of the close
        self.ended = True
        yield NEVER

    def _leap(self, ts: int):
        if ts > self.clock.now: self.clock.run_until(ts)


def check_speed(speed: float | str) -> float | str: # a number above 0, "max" or "lockstep"
    "A speed; ValueError for anything else."
    if speed in ("max", "lockstep"): return speed
    try: number = float(speed)
    except (TypeError, ValueError): number = -1.0
    if not 0 <= number < 1e9: raise ValueError(f"speed must be a number >= 0, max or lockstep, got {speed!r}")
    return number or "max"


def _positive(name: str, value) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= 1e9: raise ValueError(f"{name} must be a number above 0, got {value!r}")
    return value


def _whole(name: str, value) -> int:
    if _positive(name, value) != int(value): raise ValueError(f"{name} must be a whole number, got {value!r}")
    return int(value)


def _moment(until: int | str, now: int) -> int: # ns UTC
    if not isinstance(until, (int, str)) or isinstance(until, bool): raise ValueError(f"until must be ns UTC or an ISO time, got {until!r}")
    ts = ns_of(until) if isinstance(until, str) else until
    if ts < now: raise ValueError(f"until must not be before now, {isotime(now)}, got {until!r}")
    return ts
