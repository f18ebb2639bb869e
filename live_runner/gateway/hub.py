"""A hub that stays connected: an asyncio supervisor over one plain transport after another.

A connection ends when the server says so, is silent, or refuses us, when our login ends or our token grows old. Each end is followed by a new transport with a token asked
afresh and the same subscriptions. What happened in between is lost, so each connection has a number, the generation, and a reader of REST starts over at `Subscribed`."""
import asyncio
import inspect
import logging
import random
import re
from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial
from typing import NamedTuple

from ..clock import WallClock
from ..logs import logger
from ..problems import RetryLater
from ..protocol import MARKET_METHODS, USER_METHODS
from .answers import UnreadableAnswer, field, need
from .connection import ROOM, Connection, Counters, End
from .events import CallRefused, Connected, EventReader, Logout, Lost, Subscribed, UnreadableEvent
from .sessions import HubSessions
from .tokens import token_end
from .transport import SignalRTransport

SUBJECTS = {"user": (*USER_METHODS, "Steps"), "market": (*MARKET_METHODS, "Steps")}  # Steps: an extension of the simulated gateway
PING = {"type": 6}
LOGOUTS, LOGOUTS_S = 5, 120.0  # so many new logins in so many seconds, not more
TOKEN_S = 120.0                # s; asking for a token may take so long
EARLY_S = 300.0                # a connection is renewed so long before its token ends
STOPPED = "stopped"            # why a connection ended that we ended for good
JITTER = 0.25                  # a back-off is up to this share longer, so that two hubs do not come back in step

log = logger("live_runner.hub")


class Hub:
    "One of the two hubs. `on_event` is called in the event loop, in the order received; what it raises is logged and counted."

    def __init__(self,
        name: str,                              # "user" or "market"
        url: str,                               # of the hub, without a token
        token: Callable[[], Awaitable[str]],    # a fresh token; asked with force=True, if it takes that, where a new login is needed
        on_event: Callable[[NamedTuple], None], # of live_runner.gateway.events
        clock: WallClock = WallClock(),
        sessions: HubSessions = HubSessions.shared,
        transport: Callable = SignalRTransport,
        ping_s: float = 15,                     # our sign of life to the server
        silence_s: float = 30,                  # so long without any record from the server, and it is taken for gone
        backoff_s: tuple[float, ...] = (0, 2, 10, 30, 60), # before each attempt; the last one again and again
        token_life_s: float = 22 * 3600,        # a connection is renewed after so long, and earlier where its token says that it ends earlier
    ):
        if name not in SUBJECTS: raise ValueError(f"a hub is one of {', '.join(SUBJECTS)}, got {name!r}")
        if inspect.iscoroutinefunction(on_event): raise ValueError("on_event must be a plain function: it is called, not awaited")
        self.name, self.generation, self.state, self.counters = name, 0, "stopped", Counters() # state: stopped, waiting, connecting or connected
        self._url, self._token, self._on_event, self._clock, self._sessions, self._transport = url, token, on_event, clock, sessions, transport
        self._ping_s, self._silence_s, self._backoff_s, self._token_life_s = ping_s, silence_s, backoff_s, token_life_s
        self._forces = "force" in inspect.signature(token).parameters
        self._subscriptions: dict[tuple, None] = {}  # (subject, *arguments), in the order asked for
        self._calls, self._begun = 0, False
        self._logouts = deque(maxlen=LOGOUTS)
        self._link = self._task = None
        self._is_open, self._is_settled = asyncio.Event(), asyncio.Event()

    async def start(self) -> None:
        "Begins to connect and returns at once; FixTheConfig for a hub session too many. Harmless when started."
        if self._task: return
        self._sessions.open(self.name)
        self._loop = asyncio.get_running_loop()
        self._task = self._loop.create_task(self._supervise(), name=f"{self.name} hub")
        self._task.add_done_callback(self._died)

    async def stop(self) -> None:
        "Ends the connection for good and gives the session back; never takes longer than a second. Subscriptions are kept for a new start."
        task, self._task = self._task, None
        if not task: return
        task.cancel()
        await asyncio.wait({task}, timeout=1)
        self._sessions.close(self.name)
        self.state = "stopped"

    async def connected(self,
        timeout: float = 30.0, # s of real time
    ) -> None:
        "Waits until the handshake of a connection is done; RetryLater when that takes too long."
        await self._until(self._is_open, "connected", timeout)

    async def subscribed(self,
        timeout: float = 30.0, # s of real time
    ) -> None:
        "Waits until connected and every call is answered; RetryLater when that takes too long."
        await self._until(self._is_settled, "subscribed", timeout)

    def _died(self, task: asyncio.Task) -> None:
        "The supervisor ends only by `stop`; anything else is a defect of ours and must be seen."
        if task.cancelled() or not task.exception(): return
        self.state, self.counters.last_why = "stopped", f"{type(task.exception()).__name__}: {task.exception()}"
        log.critical("supervisor died", hub=self.name, exc_info=task.exception())

    def subscribe(self,
        method: str,    # SubscribeOrders, or Orders for short; the names are in protocol.py
        *args: int | str, # the account id or the contract id
    ) -> None:
        "Asks for events from now on, over every connection; ValueError for a method the hub does not have. Twice is once."
        call = (self._subject(method), *args)
        if call in self._subscriptions: return
        self._subscriptions[call] = None
        if self.state == "connected": self._call("Subscribe", call)

    def unsubscribe(self, method: str, *args: int | str) -> None:
        "Takes a subscription back, for later connections too; ValueError for a method the hub does not have."
        call = (self._subject(method), *args)
        if call not in self._subscriptions: return
        del self._subscriptions[call]
        if self.state == "connected": self._call("Unsubscribe", call)

    def _subject(self, method: str) -> str:
        subject = re.sub("^(Uns|S)ubscribe", "", method)
        if subject not in SUBJECTS[self.name]: raise ValueError(f"the {self.name} hub knows {', '.join(SUBJECTS[self.name])}, got {method!r}")
        return subject

    async def _until(self, flag: asyncio.Event, what: str, timeout: float) -> None:
        try: await asyncio.wait_for(flag.wait(), timeout)
        except TimeoutError: raise RetryLater(f"the {self.name} hub is not {what} after {timeout:g} s: {self.counters.last_why or self.state}") from None

    # one connection after another

    async def _supervise(self) -> None:
        attempt, end = 0, End("")
        while True:
            await self._clock.sleep(self._pause(attempt, end))
            if self._begun: self.counters.rebuilds += 1
            self._begun = True
            now = self._clock.monotonic()
            self._link = link = Connection(self._loop.create_future(), born=now, heard=now)
            try: end = await self._live(link, end.force)
            finally: self._finish(link)
            steady = link.reader and self._clock.monotonic() - link.born >= self._silence_s # one who is kicked at once must not come back at once
            attempt = 0 if end.calm or steady else attempt + 1

    def _pause(self, attempt: int, end: End) -> float:
        "Seconds until the next connection."
        now = self._clock.monotonic()
        if end.logout:
            self._logouts.append(now)
            if len(self._logouts) == LOGOUTS: return max(0.0, self._logouts[0] + LOGOUTS_S - now)
        return self._backoff_s[min(attempt, len(self._backoff_s) - 1)] * (1 + JITTER * random.random())

    async def _live(self, link: Connection, force: bool) -> End:
        "From the beginning of a connection to its end."
        self.state = "connecting"
        tasks = [self._loop.create_task(self._or_end(link, work)) for work in (self._open(link, force), self._keep(link))]
        try: return await link.ended
        finally:
            for task in tasks: task.cancel()

    def _finish(self, link: Connection) -> None:
        "Leaves a connection behind, also when the hub is stopped: nothing of it is delivered any more."
        self._link = None
        if link.transport: link.transport.stop()
        link.room.release(ROOM)  # its reader may be waiting
        self._is_open.clear(), self._is_settled.clear()
        self.state = "waiting"
        self.counters.last_why = why = link.ended.result().why if link.ended.done() and not link.ended.cancelled() else "stopped"
        log.log(logging.INFO if why == "stopped" else logging.WARNING, "connection ended", hub=self.name, generation=self.generation, open=bool(link.reader), why=why)
        if link.reader: self._tell(Lost(self.name, self.generation, why))

    async def _or_end(self, link: Connection, work: Awaitable[None]) -> None:
        "Whatever fails in a task of a connection ends the connection."
        try: await work
        except Exception as error: link.end(End(f"{type(error).__name__}: {error}"))

    async def _open(self, link: Connection, force: bool) -> None:
        token = await (self._token(force=True) if force and self._forces else self._token())
        now = self._clock.monotonic()
        link.heard, link.renew = now, now + self._life_s(token)
        link.transport = self._transport(self._url, token, on_message=partial(self._received, link), on_open=partial(self._post, link, self._opened),
                                         on_close=partial(self._post, link, self._closed), on_ping=partial(self._alive, link))
        link.transport.start()

    def _life_s(self, token: str) -> float:
        "How long a connection may live with this token, seconds: it may have been some hours old already when it was given to us."
        end = token_end(token)
        return self._token_life_s if end is None else min(self._token_life_s, max((end - self._clock.now()) / 1e9 - EARLY_S, EARLY_S))

    async def _keep(self, link: Connection) -> None:
        "Pings the server; ends the connection when the server is silent or the token grows old."
        pinged = link.born
        while True:
            limit_s = self._silence_s if link.transport else TOKEN_S
            await self._clock.sleep(max(min(pinged + self._ping_s, link.heard + limit_s, link.renew) - self._clock.monotonic(), 0.001))
            now = self._clock.monotonic()
            if now >= link.heard + limit_s: link.end(End(f"nothing heard for {limit_s:g} s" if link.transport else f"no token for {limit_s:g} s"))
            elif now >= link.renew: link.end(End("planned, before the token is too old", force=True, calm=True))
            elif now >= pinged + self._ping_s:
                pinged = now
                if link.reader: link.transport.send(PING)

    # in the threads of the transport

    def _alive(self, link: Connection) -> None: link.heard = self._clock.monotonic()

    def _received(self, link: Connection, message: list[dict | str]) -> None:
        self._alive(link)
        link.room.acquire()
        self._post(link, self._read, message)

    def _post(self, link: Connection, what: Callable, *args) -> None:
        "Hands over to the event loop, which works off what it is given in order."
        try: self._loop.call_soon_threadsafe(what, link, *args)
        except RuntimeError: link.transport.stop()  # the loop is closed: nobody is left to tell

    # in the event loop

    def _over(self, link: Connection) -> bool: return link is not self._link or link.ended.done()

    def _opened(self, link: Connection) -> None:
        if self._over(link): return
        self._alive(link)
        self.generation += 1
        self.state, link.reader = "connected", EventReader(self.name, self.generation)
        log.info("connected", hub=self.name, generation=self.generation)
        self._is_open.set()
        link.settled = False
        for call in self._subscriptions: self._call("Subscribe", call)
        self._tell(Connected(self.name, self.generation))
        self._settle(link)

    def _closed(self, link: Connection, why: str, status: int | None) -> None: link.end(End(why, force=status == 401))

    def _call(self, verb: str, call: tuple) -> None:
        "Sends one call. It has an id, so the server answers and we learn whether it did it."
        self._calls += 1
        link, number, method, args = self._link, str(self._calls), verb + call[0], list(call[1:])
        link.calls[number], link.settled = f"{method}({', '.join(map(str, args))})", False
        self._is_settled.clear()
        link.transport.send({"type": 1, "invocationId": number, "target": method, "arguments": args})

    def _read(self, link: Connection, message: list[dict | str]) -> None:
        "What came in one message, record by record. A handler may end the connection on the way."
        link.room.release()
        self._alive(link)
        for record in message:
            if self._over(link): return
            wrong = None
            try: self._record(link, record)
            except Exception as error: wrong = error  # whatever is in it, the records after it are read
            if wrong is None: continue
            self.counters.unreadable += 1
            log.error("unreadable record", hub=self.name, why=str(wrong), record=str(record)[:200], exc_info=None if isinstance(wrong, UnreadableAnswer) else wrong)
            self._tell(UnreadableEvent(self.name, f"{wrong}: {str(record)[:200]}", self.generation))

    def _record(self, link: Connection, record: dict | str) -> None:
        kind = record.get("type") if isinstance(record, dict) else None
        if kind == 1:
            self.counters.messages += 1
            event = link.reader.read(need(record, "target", "str"), field(record, "arguments", "list") or [])
            if isinstance(event, Logout): link.end(End("GatewayLogout", force=True, calm=True, logout=True))
            self._tell(event)
        elif kind == 3: self._answered(link, record)
        elif kind == 7: link.end(End(f"the server closed: {record.get('error') or 'no reason given'}"))
        else: raise UnreadableAnswer("a record of an unknown kind")

    def _answered(self, link: Connection, record: dict) -> None:
        "The server's answer to one of our calls."
        call = link.calls.pop(need(record, "invocationId", "str"), None)
        if call is None: raise UnreadableAnswer("an answer to a call that was not made")
        if why := field(record, "error", "str"):
            self.counters.refused_calls += 1
            log.error("call refused", hub=self.name, call=call, why=why)
            self._tell(CallRefused(self.name, call, why, self.generation))
        self._settle(link)

    def _settle(self, link: Connection) -> None:
        "Tells, once, that every call is answered."
        if link.calls or link.settled or self._over(link): return
        link.settled = True
        self._is_settled.set()
        self._tell(Subscribed(self.name, self.generation))

    def _tell(self, event: NamedTuple) -> None:
        try: self._on_event(event)
        except Exception:
            self.counters.handler_errors += 1
            log.error("handler failed", hub=self.name, event_kind=type(event).__name__, exc_info=True)
