"""What the hubs tell becomes what the core is told: one `Second` for every second of the market, in order, and news of the account at once.

Pure: no clock, no I/O. A second is over at the first event of a later one, at a `Step` of a simulated gateway, or when `now` is past its end by the grace."""
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from mesbot.calendar import DAY, session_table
from mesbot.core import SECOND, instrument
from mesbot.ticks import BarStream

from .gateway.events import AccountEvent, CallRefused, FillEvent, Logout, Lost, OrderEvent, PositionEvent, Prints, Quote, Step, Subscribed, UnreadableEvent
from .messages import AccountTold, FillTold, Link, OrderTold, PositionTold, Second
from .settings import RunnerSettings

SILENT_NS = 60 * SECOND  # so long after the last event empty seconds are still told while the market is closed
AHEAD_NS = 60 * SECOND   # an event from further in the future than this is none


class Feed:
    "One contract's market and one account, as events for the core."

    def __init__(self,
        symbol: str,              # a key of `core.INSTRUMENTS`
        contract: str,            # id; events of others are let pass
        post: Callable,           # post(event), called in order
        grace_ns: int,            # a second is over so long after its end when nothing else has said so
        settings: RunnerSettings, # quote_age_s, spike_ticks, max_skew_s
        account: int = 0,         # id; 0: events of every account are told
        real: bool = True,        # False: a simulated market, whose clock is its events, so that no clock can differ from it
    ):
        self._post, self._contract, self._grace, self._settings, self._account, self._real = post, contract, grace_ns, settings, account, real
        self._instrument, self._stream, self._hours = instrument(symbol), BarStream(symbol), Hours(instrument(symbol).hours)
        self.second = 0              # the one going on, ns UTC; 0 before the first
        self.last_close = 0          # of the last bar, ticks; 0: none yet
        self._quote = self._stood = (0, 0, 0)  # bid, ask (ticks), stamp (ns UTC): as last told, and as this second began
        self._heard = self._newest = 0         # when the last event was heard, and the newest stamp of the market; ns UTC
        self._doubts, self._down, self._refused = {}, "", {}  # of this second, in order; why the market's hub is down; hub -> generation with a call refused

    # --- from outside --------------------------------------------------------------------------------------------------------------------------------------

    def begin(self,
        at: int,            # ns UTC, a whole second
        last_close: int = 0, # ticks; of the bar before, 0: not known
    ) -> None:
        "The first second to be told is the one that begins here."
        self.second, self._stood, self._doubts = at, self._quote, {}
        if last_close: self.last_close = last_close
        self._heard = max(self._heard, at)
        self._stream.advance(at)

    def market(self,
        event: NamedTuple, # of the market's hub
        now: int,          # ns UTC
    ) -> None:
        "Take an event of the market's hub."
        match event:
            case Quote(): self._stamped(event.ts or now, now) and self._quoted(event, event.ts or now)
            case Prints():
                if event.contract == self._contract:
                    for one in event.prints: self._stamped(one.ts, now) and self._printed(one)
            case Step(): self._roll(event.ts // SECOND * SECOND)
            case UnreadableEvent(): self._doubt(f"an event that cannot be read: {event.text[:80]}")
            case _: self._linked(event, now)

    def user(self,
        event: NamedTuple, # of the user's hub
        now: int,          # ns UTC
    ) -> None:
        "Take an event of the user's hub: it is told at once."
        match event:
            case OrderEvent(order=order): self._own(OrderTold(now, order), order.account)
            case FillEvent(fill=fill): self._own(FillTold(now, fill), fill.account)
            case PositionEvent(position=position): self._own(PositionTold(now, position), position.account)
            case AccountEvent(account=account): self._own(AccountTold(now, account), account.id)
            case UnreadableEvent():  # as good as a gap
                self._post(Link(now, event.hub, False, f"an event that cannot be read: {event.text[:80]}"))
                self._post(Link(now, event.hub, True))
            case Step(): pass
            case _: self._linked(event, now)

    def tick(self,
        now: int, # ns UTC
    ) -> None:
        "Time has come so far: end every second that is over."
        if self.second: self._roll((now - self._grace) // SECOND * SECOND)

    # --- what was told -------------------------------------------------------------------------------------------------------------------------------------

    def _own(self, told: NamedTuple, account: int) -> None:
        self._heard = max(self._heard, told.at)
        if self._account in (0, account): self._post(told)

    def _linked(self, event: NamedTuple, now: int) -> None:
        "A hub came or went. With a call refused something is missing, so that connection is not up."
        match event:
            case CallRefused():
                self._refused[event.hub] = event.generation
                self._link(event.hub, f"{event.call} was refused: {event.why}", now)
            case Subscribed():
                if self._refused.get(event.hub) != event.generation: self._link(event.hub, "", now)
            case Lost(): self._link(event.hub, event.why, now)
            case Logout(): self._link(event.hub, "the venue ended our login", now)

    def _link(self, hub: str, why: str, now: int) -> None: # why "": it is up
        if hub == "market":
            if why: self._quote = (0, 0, 0)
            elif self._down: self._doubt("the market's hub came back within this second")
            self._down = why
        self._post(Link(now, hub, not why, why))

    def _stamped(self, ts: int, now: int) -> bool:
        "Whether a stamp of the market can be believed; if so all seconds before it are over."
        if self._real:
            if ts > now + AHEAD_NS: return self._doubt(f"a stamp {(ts - now) / 1e9:.0f} s in the future")
            if ts > self._newest and abs(now - ts) > self._settings.max_skew_s * 1e9: self._doubt(f"our clock and the venue's differ by {(now - ts) / 1e9:.1f} s")
        self._newest = max(self._newest, ts)
        if not self.second:
            self.begin(ts // SECOND * SECOND)
            self._doubt("the feed began within this second")
        self._roll(ts // SECOND * SECOND)
        self._heard = max(self._heard, ts)
        return True

    def _quoted(self, quote: Quote, ts: int) -> None:
        if quote.contract != self._contract: return
        self._quote = self._ticks(quote.bid), self._ticks(quote.ask), ts
        if ts <= self.second: self._stood = self._quote

    def _printed(self, one: NamedTuple) -> None:
        bad = self._stream.bad
        self._stream.update(one.ts, self._ticks(one.price), one.size)
        if self._stream.bad > bad: self._doubt(f"a trade of {one.size} at {one.price:.10g} that can be none")

    def _ticks(self, points: float | None) -> int: # 0: not known
        "A price of the wire in ticks."
        if points is None: return 0
        if not self._instrument.on_grid(points): self._doubt(f"a price off the tick grid: {points:.10g}")
        return round(points / self._instrument.tick)

    def _doubt(self, why: str) -> bool: # False
        self._doubts.setdefault(why)
        return False

    # --- seconds -------------------------------------------------------------------------------------------------------------------------------------------

    def _roll(self, to: int) -> None:
        "Tell every second before `to`, which is whole; while the market is closed only for a minute after the last event."
        if not self.second: return
        while self.second < to:
            is_open, end = self._hours.stretch(self.second)
            if not is_open and self.second - self._heard > SILENT_NS: self._go_on(min(end, to))
            else: self._over()

    def _over(self) -> None:
        "The second going on is over."
        end = self.second + SECOND
        bar = self._stream.advance(end)
        if self._down: self._doubt(f"the market's hub is down: {self._down}")
        if bar: self._judge(bar, end)
        bid, ask, _ = self._stood
        self._go_on(end, Second(end, bar, *((bid, ask) if 0 < bid < ask else (0, 0)), "; ".join(self._doubts)))

    def _judge(self, bar: tuple, end: int) -> None:
        "What speaks against a decision at the close of this bar."
        s, (_, _, high, low, close, _) = self._settings, bar
        for bid, ask, stamp in {self._stood: None, self._quote: None}:
            if not stamp: self._doubt("no quote")
            elif not 0 < bid < ask: self._doubt(f"bid {bid} and ask {ask} make no market")
        if self._quote[2] and end - self._quote[2] > s.quote_age_s * 1e9: self._doubt(f"the quote is {(end - self._quote[2]) / 1e9:.0f} s old")
        jump = max(high - self.last_close, self.last_close - low) if self.last_close else 0
        if jump > s.spike_ticks: self._doubt(f"a jump of {jump} ticks from the last close")
        self.last_close = close

    def _go_on(self, to: int, told=None) -> None:
        "The next second begins, and then what is over is told: who is told may look at us."
        if to - self.second > SECOND: self.last_close = 0  # the market was closed
        self.second, self._stood, self._doubts = to, self._quote, {}
        if told: self._post(told)


class Hours:
    "When a market is open, by the calendar; asked second after second, so the present stretch is kept."

    def __init__(self,
        hours: str, # a key of `calendar.HOURS`
    ):
        self._hours, self._known = hours, (0, 0, False)

    def stretch(self,
        ts: int, # ns UTC
    ) -> tuple[bool, int]: # open; until when, ns UTC
        "Whether the market is open then, and until when it stays so."
        begin, end, is_open = self._known
        if not begin <= ts < end: begin, end, is_open = self._known = self._look(ts)
        return is_open, end

    def session(self,
        ts: int, # ns UTC
    ) -> np.record | None: # of `calendar.SESSION`; None: closed
        "The session going on then."
        return next((row for row in self._table(ts) if row["open"] <= ts < row["close"]), None)

    def _table(self, ts: int) -> np.ndarray:
        day = np.datetime64(ts // DAY, "D")
        return session_table(day - 7, day + 7, self._hours)

    def _look(self, ts: int) -> tuple[int, int, bool]:
        table = self._table(ts)
        parts = sorted((int(a), int(b)) for a, b in (*zip(table["open"], table["halt"]), *zip(table["trade_from"], table["close"])) if a < b)
        for k, (begin, end) in enumerate(parts):
            if ts < begin: return parts[k - 1][1], begin, False
            if ts < end: return begin, end, True
        return parts[-1][1], ts + DAY, False
