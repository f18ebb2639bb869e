"""The loop: one event at a time, durable before anything is done about it.

    hubs -> drive -> feed -> queue -> journal.event, core.step, journal.commands, journal.commit -> executor -> answers -> queue

An event and the commands it caused are one transaction. While the journal cannot be written only exits go out. A task that ends by itself is trouble, which the core answers with
exits only; a core that fails has everything closed at the venue without it."""
import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from mesbot.core import SECOND

from . import crash, logs
from .beat import Beat
from .clock import WallClock
from .drive import FreeMarket, Lockstep
from .executor import Executor
from .feed import Feed
from .journal import Fenced
from .messages import Alert, Ask, Cancel, Clear, Close, Cured, DayOver, Done, Link, Modify, NoSnapshot, Note, OrderTold, Past, Place, Quit, Second, Snapshot, Started, Trouble
from .problems import Problem
from .protocol import WORKING, OrderType

ACTS = (Place, Modify, Cancel, Close)
LIGHT = (Second, Snapshot, NoSnapshot) # what can be asked for again: it becomes durable with the next that is more, unless more than a question comes of it
END_S, GAP_S = 30.0, 3.0 # wall seconds that an end may take, and history while everything else waits for it
BURST = 64          # events after which others have their turn
QUIET_S = 15        # market seconds that a market in lockstep goes on at most without asking
MANY = 10**6        # bars: as many as the seconds hold
REACT_S = 0.3       # an order at market is filled at +200 ms, its fill is told at +208 and its legs at +226

log = logs.logger("live_runner")


class Parts(NamedTuple):
    "What a runner is made of; whoever made a part ends it."
    gateway: object           # a started `Gateway` on `clock`
    journal: object           # an open `Journal`
    core: object              # a `Core` that stands on the journal's last snapshot
    clock: WallClock          # of the market: `WallClock`, `PacedClock` or `SteppedClock`
    hubs: Callable            # hubs(on_user, on_market) -> (user hub, market hub), subscribed to what is needed
    history: Callable         # await history(until) -> ts, prices, volume: the session's bars so far
    alerts: object            # `Alerts`
    meters: object            # `Meters`
    facts: dict               # of this run, for the journal
    control: str = ""         # url of a simulated gateway's control calls
    lockstep: bool = False
    pace: float = 1.0         # market seconds in one of the wall
    ping_url: str = ""
    second: Callable = lambda: None     # a second of the market was taken: for the health
    opened: Callable = lambda date, before: None # a session was opened; the account's record before that
    day_over: Callable = None           # day_over(date): something to be awaited that writes the day down
    orders: Callable = lambda: ""       # why to be halted, as files beside us say now: "" or a reason
    cleared: Callable = lambda: None    # (by, why) of who cleared the last halt; None: nobody
    halted: Callable = lambda why: None # have the halt known beside us
    lots: Callable = None               # lots(): something to be awaited that writes the lots closed so far
    guard: Callable = lambda: None      # sees that a watchdog is there; now and then
    paused: Callable = lambda why: None # no seconds are due: for the health
    rescue: Callable = None             # await rescue(why) -> bool: closes everything without the core


class Runner:
    "One account, from its start to its end."

    def __init__(self,
        setup,          # of `core.Setup`
        folder: Path,   # of the account
        parts: Parts,
    ):
        self.setup, self.folder, self.parts, self.core = setup, Path(folder), parts, parts.core
        self.queue, self.troubles, self._working, self._tasks, self._days, self._lines = asyncio.Queue(), {}, {}, [], set(), logs.Later(log) # _working: orders at the venue, id -> type
        self._sent, self._asked, self._lots, self.stored, self.stopped, self._end, self._whole = False, False, len(self.core.lots), time.monotonic(), "", asyncio.Event(), ""
        self.executor = Executor(parts.gateway, setup, self.post, parts.lockstep, self._took)
        self.feed = Feed(setup.symbol, setup.contract, self.post, 0 if parts.lockstep else round(setup.settings.grace_s * 1e9), setup.settings, setup.account, real=not parts.control)
        if parts.lockstep: self.drive = Lockstep(parts.clock, self.feed, self.quit, parts.control, self._settled, self._pace)
        else: self.drive = FreeMarket(parts.clock, self.feed, self.quit, lambda seconds: self._took("event_lag_s", seconds / parts.pace), parts.control)
        self.hubs = parts.hubs(self.drive.user, self.drive.market)
        self.beat = Beat(self)

    def _took(self, name: str, seconds: float) -> None: self.parts.meters.latency[name].add(seconds)

    # --- from outside --------------------------------------------------------------------------------------------------------------------------------------

    def post(self, event: NamedTuple) -> None:
        "One more event for the core."
        self.queue.put_nowait((time.perf_counter(), event))

    def quit(self, why: str) -> None:
        "The runner shall end: flat, unless told to keep its position; after half a minute in any case."
        if self._whole: return
        self._whole = why
        self.post(Quit(self.parts.clock.now(), why))
        self._tasks.append(asyncio.get_running_loop().create_task(self._last_call(), name="last call"))

    # --- from start to end ---------------------------------------------------------------------------------------------------------------------------------

    async def run(self) -> int: # exit code: 0 ended as asked, 1 not all was closed in time, 3 crashed
        "Starts, works and ends; raises what the start raises, and `Fenced`."
        try:
            try: await self._start()
            except (Problem, OSError): raise
            except Exception as error: return await self._crashed(error)
            return await self._work()
        finally: await self._close()

    async def _start(self) -> None:
        "Hubs first, so that nothing is missed after the history; what they tell meanwhile is taken after it."
        parts, clock = self.parts, self.parts.clock
        crash.point("start.snapshot")
        parts.journal.begin(parts.facts)
        for hub in self.hubs: await hub.start()
        for hub in self.hubs: await hub.subscribed()
        now = clock.now()
        first = -(-now // SECOND) * SECOND if parts.lockstep else now // SECOND * SECOND + SECOND
        self.feed.begin(first)
        await self.drive.reach(first)
        ts, prices, volume = await parts.history(first)
        if len(ts): self.feed.last_close = int(prices[-1, 3])
        self.stopped, at, early = parts.orders(), clock.now(), []
        while not self.queue.empty():
            early.append(self.queue.get_nowait())
            self.queue.task_done()
        since = time.perf_counter()
        if not self.stopped and self.core.status().get("halted") and (who := parts.cleared()): early.insert(0, (since, Clear(at, "halt", *who)))
        for event in (Started(at, self.stopped), Past(at, ts, prices, volume)): self._take(event, since)
        for since, event in early: self._take(event._replace(at=max(event.at, at)), since)

    async def _work(self) -> int:
        "Until there is nothing left to do."
        works = {"market": self.drive.run(), "signs of life": self.beat.run()}
        self._tasks += [asyncio.get_running_loop().create_task(self._watched(name, work), name=name) for name, work in works.items()]
        loop = asyncio.get_running_loop().create_task(self._loop(), name="loop")
        ending = asyncio.get_running_loop().create_task(self._end.wait(), name="end")
        self._tasks += [loop, ending]
        await asyncio.wait({loop, ending}, return_when=asyncio.FIRST_COMPLETED)
        if not loop.done():
            log.critical("not all was closed in time", why=self._whole)
            self._ended(f"{self._whole}; not all was closed within {END_S:g} s")
            return 1
        if not loop.exception():
            self._ended(loop.result())
            return 0
        if isinstance(loop.exception(), Fenced): raise loop.exception()  # the account is not ours any more
        return await self._crashed(loop.exception())

    async def _crashed(self, error: Exception) -> int: # 3
        "Our own code has failed: everything is closed without it."
        why = f"crashed: {type(error).__name__}: {' '.join(str(error).split())}"
        log.critical(why, exc_info=error)
        self.parts.alerts.send("critical", "crashed", f"the runner {why}; everything is being closed")
        for task in self._tasks: task.cancel()
        time_goes_on = asyncio.get_running_loop().create_task(self.drive.walk()) if self.parts.lockstep else None
        flat = await self.parts.rescue(why) if self.parts.rescue else False
        if time_goes_on: time_goes_on.cancel()
        if not flat: self.parts.alerts.send("critical", "not flat", "the runner crashed and the account is NOT flat: close it by hand")
        self._ended(why)
        return 3

    def _ended(self, why: str) -> None:
        try: self.parts.journal.end(why)
        except OSError as error: log.error("the end is not in the journal", why=str(error))

    async def _last_call(self) -> None:
        await asyncio.sleep(END_S)
        self._end.set()

    async def _close(self) -> None:
        for task in self._tasks: task.cancel()
        for hub in self.hubs: await hub.stop()
        await self.executor.close()
        await self.drive.close()
        if self._days: await asyncio.wait(self._days)
        self._lines.write()

    # --- the loop ------------------------------------------------------------------------------------------------------------------------------------------

    async def _loop(self) -> str: # why it ended
        burst = 0
        while True:
            since, event = await self.queue.get()
            try:
                done = self._take(event, since)
                if isinstance(event, Link) and event.hub == "market" and event.up: await self._fill_gap()
            finally: self.queue.task_done()
            if done is not None: return done
            burst += 1
            if burst % BURST == 0 and not self.parts.lockstep: await asyncio.sleep(0)  # in lockstep nobody may come between the events of a step

    async def _fill_gap(self) -> None:
        "The market's hub is back: the bars that it has not told come from history, before the seconds that wait behind them."
        now = self.parts.clock.now()
        try: found = await asyncio.wait_for(self.parts.history(now), GAP_S)
        except (Problem, TimeoutError) as error: return log.warning("the gap stays: bars are missing", why=str(error) or "no answer in time")
        self._take(Past(now, *found), time.perf_counter())

    def _take(self, event: NamedTuple, since: float) -> str | None: # why the runner may end
        "One event: into the journal, through the core, and what it causes into the journal and out."
        crash.point("event.received")
        if isinstance(event, Quit): crash.point("stop.begun")
        event, journal = self._judged(event), self.parts.journal
        journal.event(event)
        began, date = time.perf_counter(), self.core.date
        commands = self.core.step(event)
        if isinstance(event, Second): self._took("step_s", time.perf_counter() - began)
        crash.point("event.stepped")
        journal.commands(commands)
        closed = isinstance(event, Second) and len(self.core.lots) > self._lots  # a lot, and by now it is known what it slipped: its snapshot is not left to the next entry
        if closed or not isinstance(event, LIGHT) or not all(isinstance(command, Ask) for command in commands): self.commit()
        if self.core.date != date: self.parts.opened(self.core.date, self.core.before)
        if isinstance(event, Second):
            self.parts.second()
            if closed and self.parts.lots: self._write_down(str(self.core.date), self.parts.lots())
            self._lots = len(self.core.lots)
        elif isinstance(event, OrderTold):
            if event.order.status in WORKING: self._working[event.order.id] = event.order.type
            else: self._working.pop(event.order.id, None)
        return self._carry_out(commands, since)

    def _judged(self, event: NamedTuple) -> NamedTuple:
        "A second that is looked at too late is no ground for an entry."
        if not isinstance(event, Second) or self.parts.lockstep: return event
        late_s = (self.parts.clock.now() - event.at) / 1e9 / self.parts.pace
        return event._replace(doubt="; ".join(filter(None, (event.doubt, f"looked at {late_s:.1f} s late")))) if late_s > self.setup.settings.late_s else event

    def _carry_out(self, commands: list, since: float) -> str | None:
        acts = [command for command in commands if isinstance(command, ACTS)]
        self._sent = self._sent or bool(acts)
        self.executor.send(commands, since)
        for act in acts: self._lines.info("command", what=type(act).__name__, id=act.id, why=act.why, mode=self.setup.mode)
        if not self._asked and any(isinstance(command, Ask) for command in commands):
            self._asked = True
            crash.point("start.reconciling")
        done = None
        for command in commands:
            match command:
                case Alert(severity, key, text): self.parts.alerts.send(severity, key, text)
                case Note(kind, text):
                    self._lines.info("note", kind=kind, text=text)
                    if kind == "halt": asyncio.get_running_loop().call_soon(self._halted, text)
                case DayOver(date): self._day(date)
                case Done(why): done = why
        return done

    def _halted(self, text: str) -> None:
        "Has a halt known beside us."
        if self.parts.orders(): return
        try: self.parts.halted(text)
        except OSError as error: log.error("the halt could not be written beside the journal", why=str(error))
        self.stopped = self.parts.orders()

    def _day(self, date: str) -> None:
        "Has the day written down, beside the loop."
        self.commit()
        if self.parts.day_over: self._write_down(date, self.parts.day_over(date))

    def _write_down(self, date: str, writing) -> None:
        task = asyncio.get_running_loop().create_task(self._day_down(date, writing))
        self._days.add(task)
        task.add_done_callback(self._days.discard)

    async def _day_down(self, date: str, writing) -> None:
        try: await writing
        except Exception as error:
            log.error("the day could not be written", date=date, exc_info=True)
            self.parts.alerts.send("warning", "day", f"the files of {date} could not be written: {error}")

    # --- the journal ---------------------------------------------------------------------------------------------------------------------------------------

    def commit(self) -> None:
        "All that was taken becomes durable; while that fails only exits go out."
        began = time.perf_counter()
        try: self.parts.journal.commit(self.core.snapshot())
        except OSError as error: return self.trouble("journal", str(error))
        self._took("commit_s", time.perf_counter() - began)
        self.stored = time.monotonic()
        self.cured("journal")

    def trouble(self, what: str, why: str) -> None:
        "Told once, until it is cured."
        if what == "journal": self.executor.broken = True
        if what in self.troubles: return
        self.troubles[what] = why
        self.post(Trouble(self.parts.clock.now(), what, why))

    def cured(self, what: str) -> None:
        if what == "journal": self.executor.broken = False
        if self.troubles.pop(what, None): self.post(Cured(self.parts.clock.now(), what))

    # --- what is watched -----------------------------------------------------------------------------------------------------------------------------------

    async def _watched(self, name: str, work) -> None:
        "A task that the runner cannot do without: its end is trouble."
        try:
            await work
            why = "ended by itself"
        except Exception as error:
            why = f"{type(error).__name__}: {' '.join(str(error).split())}"
            log.critical("a task ended", task=name, exc_info=True)
        self.trouble(f"task: {name}", why)

    # --- lockstep ------------------------------------------------------------------------------------------------------------------------------------------

    async def _settled(self) -> None:
        "Waits until every event is taken and every command answered, as far as that goes while the market stands still."
        while True:
            await self.queue.join()
            await self.executor.settled()
            if self._days: await asyncio.wait(self._days)  # a file that is written beside an order holds it up, and a second of a real market is long enough for both
            if self.queue.empty(): return

    def _pace(self) -> dict: # of /sim/step
        "How far the market may go before it has to ask us again."
        now = self.parts.clock.now()
        if now % SECOND: return {"bars": MANY, "seconds": (SECOND - now % SECOND) / 1e9}
        sent, self._sent, state, quiet_s = self._sent, False, self.core.state, min((self.core.quiet_until() - now) // SECOND, QUIET_S)
        if sent or OrderType.MARKET in self._working.values() or self._working and self.setup.config.stops.level_ticks: return {"bars": MANY, "seconds": REACT_S}
        if quiet_s > 1: return {"bars": MANY, "seconds": quiet_s}
        return {"bars": MANY, "seconds": 1} if self._working or state.side or state.intent else {"bars": 1, "seconds": QUIET_S}
