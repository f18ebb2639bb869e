"""How the market's events come to the feed, and how its time goes on: by itself, or step by step.

In lockstep the market waits for us: a step is over when both hubs have told their `Step` for it, then the account's news is handed on, then the market's, then the time; and no step begins
before everything that this caused is done. So the same day gives the same events in the same order every time."""
import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import NamedTuple

import aiohttp

from . import logs
from .clock import WallClock
from .feed import Feed
from .gateway.events import Lost, Prints, Step, Subscribed
from .market_clock import PacedClock, SteppedClock
from .problems import RetryLater

TICK_S = 0.02              # wall seconds between two looks at the clock
ENDED_S = 1.0              # between two questions whether a simulated market has ended
PATIENCE_S = 30.0          # of the wall: a hub that is away for longer does not hold up the market
CAUGHT_UP = 2**62          # a hub that was subscribed since the step began
ENDED = "the simulated market has come to its end"

log = logs.logger("live_runner.drive")


class FreeMarket:
    "A market that goes by itself: what the hubs tell is handed on at once."

    def __init__(self,
        clock: WallClock,           # a `PacedClock` for a simulated market
        feed: Feed,
        over: Callable = print,     # over(why): a simulated market has come to its end; called once
        lag: Callable = lambda seconds: None, # lag(seconds): how old an event was when it came
        control: str = "",          # url of a simulated gateway's control calls; "": there are none
    ):
        self._clock, self._feed, self._over, self._lag, self._control = clock, feed, over, lag, control

    def user(self, event: NamedTuple) -> None:
        "Take an event of the user's hub."
        self._feed.user(event, self._now(event))

    def market(self, event: NamedTuple) -> None:
        "Take an event of the market's hub."
        now = self._now(event)
        if isinstance(event, Prints) and event.prints: self._lag((now - event.prints[-1].ts) / 1e9)
        self._feed.market(event, now)

    def _now(self, event: NamedTuple) -> int:
        if isinstance(event, Step) and isinstance(self._clock, PacedClock): self._clock.hear(event.ts)
        return self._clock.now()

    async def reach(self, ts: int) -> None:
        "Waits until it is `ts`, ns UTC."
        while self._clock.now() < ts: await self._clock.sleep((ts - self._clock.now()) / 1e9)

    async def run(self) -> None:
        "Ends seconds in time, for ever."
        looked = time.monotonic()
        while True:
            self._feed.tick(self._clock.now())
            await asyncio.sleep(TICK_S)
            if self._control and time.monotonic() - looked >= ENDED_S:
                looked = time.monotonic()
                if (await find_simulator(self._control) or {}).get("ended"):
                    self._control = ""
                    self._over(ENDED)

    async def close(self) -> None:
        "Nothing is held open."


class Lockstep:
    "A simulated market that waits for every decision."

    def __init__(self,
        clock: SteppedClock,
        feed: Feed,
        over: Callable,                        # over(why): its data has come to its end; called once, and the market goes on without bars
        control: str,                          # url of the control calls
        settled: Callable[[], Awaitable],      # waits until nothing is left to do before time goes on
        pace: Callable[[], dict],              # the next step, as /sim/step takes it: `bars` and `seconds`, whichever comes first
    ):
        self._clock, self._feed, self._over, self._control, self._settled, self._pace = clock, feed, over, control, settled, pace
        self._inbox = {"user": [], "market": []}
        self._come, self._moved = {"user": 0, "market": 0}, asyncio.Event()  # hub -> how far it has told, ns UTC
        self._http, self._ended = None, False

    def user(self, event: NamedTuple) -> None:
        "Take an event of the user's hub; it waits for the end of the step."
        self._take("user", event)

    def market(self, event: NamedTuple) -> None:
        "Take an event of the market's hub; it waits for the end of the step."
        self._take("market", event)

    def _take(self, hub: str, event: NamedTuple) -> None:
        if not isinstance(event, Step): self._inbox[hub].append(event)
        match event:
            case Step(ts=ts): self._come[hub] = max(self._come[hub], ts)
            case Subscribed(): self._come[hub] = CAUGHT_UP
            case Lost(): self._come[hub] = 0
            case _: return
        self._moved.set()

    async def reach(self, ts: int) -> None:
        "Goes on to `ts`, ns UTC, if it is later than that."
        if ts > self._clock.now(): await self.step(until=ts)
        else: self._hand_over()

    async def run(self) -> None:
        "Steps the market, for ever."
        while True:
            await self._settled()
            await self.step(**self._pace())

    async def walk(self) -> None:
        "Lets time go on without waiting for anybody, second by second, for ever: for what is done when the runner itself has failed."
        while True:
            await self.step(seconds=1)
            await asyncio.sleep(.05)

    async def close(self) -> None:
        "Ends the connection to the control calls."
        if self._http: await self._http.close()

    async def step(self, **amount) -> None: # of /sim/step
        "One step, and all that is told of it; a hub that has come back since has nothing more to tell."
        if self._http is None: self._http = aiohttp.ClientSession()
        for hub, come in self._come.items():
            if come == CAUGHT_UP: self._come[hub] = 0
        answer = await _control(self._http, f"{self._control}/step", amount)
        end = time.monotonic() + PATIENCE_S
        while min(self._come.values()) < answer["ts"]:
            self._moved.clear()
            try: await asyncio.wait_for(self._moved.wait(), end - time.monotonic())
            except TimeoutError:
                log.warning("a hub did not tell the step", come=self._come, step=answer["ts"])
                break
        self._clock.hear(answer["ts"])
        self._hand_over()
        if answer["ended"] and not self._ended:
            self._ended = True
            self._over(ENDED)

    def _hand_over(self) -> None:
        "The account's news, then the market's, then the time."
        now, inbox = self._clock.now(), self._inbox
        self._inbox = {"user": [], "market": []}
        for event in inbox["user"]: self._feed.user(event, now)
        for event in inbox["market"]: self._feed.market(event, now)
        self._feed.tick(now)


async def _control(http: aiohttp.ClientSession, url: str, body: dict | None = None) -> dict:
    "A control call of a simulated gateway; RetryLater when it is not answered, ValueError when it is refused."
    try:
        async with http.request("GET" if body is None else "POST", url, json=body, timeout=aiohttp.ClientTimeout(total=PATIENCE_S)) as answer:
            said = await answer.json(content_type=None)
    except (aiohttp.ClientError, TimeoutError, OSError) as error: raise RetryLater(f"the simulated gateway does not answer at {url}: {error or type(error).__name__}") from None
    if answer.status != 200: raise ValueError(f"{url}: HTTP {answer.status} {said.get('error', '') if isinstance(said, dict) else said}")
    return said


async def find_simulator(
    control: str, # url of the control calls: that of the gateway on this machine, with /sim behind it
) -> dict | None: # what GET /sim says: ts, speed, ended ...; None: not a simulated one
    "Whether a gateway is a simulated one, and where its market stands."
    try:
        async with aiohttp.ClientSession() as http: return await _control(http, control)
    except (RetryLater, ValueError): return None
