"""The runner's mind: `step` takes one event and says what is to be done. No clock, no input or output, no chance: the same events lead to the same commands, bit for bit.

The rules of trading are the kernels of `mesbot`, the same that a back-test loops over; `orders` holds what they want against what works at the venue; `truth` takes in what the venue says."""
import zlib
from collections import deque
from typing import NamedTuple

import numpy as np

from mesbot.config import Config
from mesbot.core import REASON_TEXTS, REASONS, SECOND, Bar, Intent, Reason, instrument
from mesbot.exchange import may_enter
from mesbot.keeper import reset_event
from mesbot.risk import open_day
from mesbot.rules import rules_of
from mesbot.trader import clock_step, close_step, want_out

from . import allowed, memory, orders, truth
from . import messages as m
from .book import ENTRY, Book
from .desk import ENTRIES, Desk
from .market import SILENT, Market
from .plan import check_tradable
from .settings import RunnerSettings


class Setup(NamedTuple):
    "What a core is made for."
    config: Config
    symbol: str          # a key of `core.INSTRUMENTS`
    account: int         # the venue's id
    contract: str        # the venue's id
    prefix: str          # of every customTag: unique to the journal
    settings: RunnerSettings
    mode: str = "paper"  # paper, observe or live: into the trade log


class Core:
    "One account, one contract."

    def __init__(self,
        setup: Setup,
        predictor,                      # of mesbot.predictors, or anything with `predict`
        snapshot: bytes | None = None,  # of `snapshot`; ValueError for one of another layout or another account
    ):
        check_tradable(setup.config)
        self.setup, self.settings, self.instrument = setup, setup.settings, instrument(setup.symbol)
        self.rules = rules_of(setup.config, self.instrument)
        self.market = Market(self.instrument, setup.config, predictor)
        self.desk, self.book = Desk(self.rules, self.instrument, setup.config.risk.start_balance_usd), Book()
        self.plan, self.plans, self.closing, self.seen = None, {}, None, {}
        self.opened = self.before = None  # the session that was opened last, and the account before that
        self.now = self.number = self.plans_made = self.position_plan = self.price = self.bid = self.ask_ = self.strange = self.entered = 0
        self.halted, self.flat_told, self.offset, self.entries, self.foreign_told, self.closing_orders = "", "", None, [], [], []
        self.refused = [0] * len(REASONS)
        self.decisions, self.packed = deque(maxlen=20), (b"", 0, zlib.compress(b"", 1))
        self.fresh()
        if snapshot is not None: memory.restore(self, snapshot)

    def fresh(self) -> None:
        "What a new run knows of the world: nothing."
        self.links, self.reconciled, self.troubles, self.quitting, self.doubt = {"user": "not connected yet", "market": "not connected yet"}, False, {}, "", ""
        self.sent, self.asked, self.waiting, self.others, self.foreign_retry = {}, None, [], [], {}
        self.next_ask = self.last_ask = self.gap = self.verified = self.apart = self.apart_at = self.last_fill = self.naked = self.flat_since = self.extra_since = self.pause_until = self.alarmed = 0
        self.pause_why, self.last_refusal, self.past_flat, self.ended = "", "", False, False

    # --- the step ------------------------------------------------------------------------------------------------------------------------------------------

    def step(self,
        event, # one of messages.EVENTS
    ) -> list: # of messages.COMMANDS
        "One event."
        self.out, self.now = [], max(self.now, event.at)
        HANDLERS[type(event)](self, event)
        orders.settle(self)
        truth.ask(self)
        self._end()
        return self.out

    def _started(self, event: m.Started) -> None:
        "A run begins: what had been sent and not answered may or may not have arrived."
        self.fresh()
        self.market.session_at(event.at)
        self._open_day()
        if not self.book.since: self.book.since = event.at
        if event.why: self.halt(event.why)
        for own in self.book.ours.values():
            if own.works and not own.shown: own.unknown = event.at
            own.command = own.retry = own.missing = 0
        if self.closing and self.closing.state == "sent": self.closing.state = "unknown"

    def _past(self, event: m.Past) -> None:
        "History: the features and the account's own view of the market come up to now. Nothing is entered on it."
        if not len(event.ts) or not self.market.session_at(int(event.ts[0])): return
        self._open_day()
        before = self.desk.last_ts
        for ts, prices, volume in zip(event.ts.tolist(), event.prices.tolist(), event.volume.tolist()):
            if ts > self.market.last_ts: self.market.add((ts, *prices, volume))
            if ts > before:
                self.desk.pass_levels(Bar(ts, *prices, volume, 0, 0))
                self._close(Bar(ts, *prices, volume, 0, 0), SILENT)
            self.price = prices[3]

    def _second(self, event: m.Second) -> None:
        "A second is over: the fills of it are booked already."
        self.doubt, inside = event.doubt, self.market.session_at(event.at - SECOND)
        if inside: self._open_day()
        known = event.bar is None or not inside or event.bar[0] <= max(self.market.last_ts, self.desk.last_ts)
        bar = None if known else Bar(*event.bar, event.bid, event.ask)
        self.bid, self.ask_ = event.bid or self.bid, event.ask or self.ask_
        self.desk.price_fills(bar)
        if bar is not None:
            self.price = bar.close
            self.market.add(bar)
            self.desk.pass_levels(bar)
            says, held = self.market.says(), self.desk.held
            if held == 0 and self.blocked(): says = SILENT
            reason = self._close(bar, says)
            self.refused[reason] += 1
            self.last_refusal = "" if reason in (Reason.NONE, Reason.SIGNAL, Reason.LOW_CONFIDENCE) else self.reason_text(reason)
            if held and self.desk.intent == Intent.REVERSE and self.blocked(): self.desk.state.intent, self.desk.state.intent_reason = Intent.EXIT, Reason.OPPOSITE_SIGNAL
        if self.market.day is None: return
        if self.desk.held: clock_step(self.desk.state, event.at, self.market.day, self.rules)
        self._is_too_late(event.at)
        self._end_of_day(event.at)

    def _close(self, bar: Bar, says) -> int: # the Reason
        "The trader's look at a closed bar."
        reason = close_step(self.desk.state, bar, int(self.desk.bars[0]), says, self.market.day, self.rules)
        self.desk.bars += 1
        return int(reason)

    def _open_day(self) -> None:
        "A new session, where it is one."
        if self.market.day is self.opened: return
        self.opened, self.before = self.market.day, self.desk.state.copy()
        if self.desk.state.day == self.opened["last_entry"]: return
        if self.desk.held: self.alert("critical", "overnight", "a position is still open as a new session begins")
        if self.desk.held == 0:
            open_day(self.desk.state, self.market.day, self.rules.risk)
            self.desk.new_day()
            self.refused, self.seen, self.past_flat, self.entered = [0] * len(REASONS), {}, False, 0

    def _is_too_late(self, now: int) -> None:
        "An entry on its way that the rules would not let fill any more is given up."
        plan = self.plan
        if plan is None or plan.dropped or self.desk.held: return
        trader, state = self.rules.trader, self.desk.state
        if not may_enter(state, now, trader.limit_valid_ns if plan.limit else trader.entry_valid_ns, self.market.day, self.rules): self.drop("too late")

    def _end_of_day(self, now: int) -> None:
        "From the flat time on the venue itself must say that nothing is held and nothing works."
        day, date = self.market.day, str(self.market.date)
        if now < day["flat"]:
            self.past_flat = False
            return
        if self.flat_told == date: return
        self.past_flat = True
        if self.verified >= max(int(day["flat"]), self.last_fill) and not (self.book.net or self.desk.held or self.book.working() or self.book.foreign):
            self.flat_told, self.past_flat = date, False
            self.decide("flat for the night, as the venue says too")
            self.out.append(m.DayOver(date))
        elif now >= day["flat"] + self.settings.alarm_s * SECOND and now >= self.alarmed + 60 * SECOND:
            self.alarmed = now
            self.alert("critical", "not flat", f"the day's flat time is over and the venue does not say that all is closed: position {self.book.net}, {len(self.book.working())} orders")

    def _end(self) -> None:
        "The runner may end when nothing is left to do."
        if not self.quitting or self.ended: return
        keep = self.settings.on_quit == "keep" and not self.book.working(ENTRY)
        flat = not (self.book.net or self.desk.held or self.book.working() or self.closing)
        if (keep or flat) and self.verified >= max(self.quit_at, self.last_fill):
            self.ended = True
            self.out.append(m.Done(self.quitting))

    # --- other events --------------------------------------------------------------------------------------------------------------------------------------

    def _link(self, event: m.Link) -> None:
        "A hub came or went; what happened in between is asked for."
        self.links[event.hub] = "" if event.up else event.why or "lost"
        self.gap, self.reconciled = self.now, self.reconciled and event.hub != "user"
        if event.up: self.ask_soon()

    def _answered(self, event: m.Answered) -> None: truth.answered(self, event)
    def _snapshot(self, event: m.Snapshot) -> None: truth.take_snapshot(self, event)
    def _order(self, event: m.OrderTold) -> None: truth.take_order(self, event.order)
    def _fill(self, event: m.FillTold) -> None: truth.take_fill(self, event.fill)
    def _account(self, event: m.AccountTold) -> None: truth.take_account(self, event.account)

    def _position(self, event: m.PositionTold) -> None:
        "Only a hint: the position is the sum of the fills. Where it differs, the venue is asked."
        if event.position.contract == self.setup.contract and event.position.account == self.setup.account and event.position.net != self.book.net: self.ask_soon()

    def _no_snapshot(self, event: m.NoSnapshot) -> None:
        "No answer is never an absence."
        if self.asked and self.asked[0] == event.id: self.asked = None
        self.reconciled, self.gap = False, self.now
        self.ask_soon()

    def _kill(self, event: m.Kill) -> None: self.halt(f"killed by {event.by}: {event.why}")
    def _trouble(self, event: m.Trouble) -> None:
        self.troubles[event.what] = event.why
        self.alert("critical", f"trouble {event.what}", f"{event.what}: {event.why}; exits only")

    def _cured(self, event: m.Cured) -> None:
        if self.troubles.pop(event.what, None) is not None: self.alert("info", f"trouble {event.what}", f"{event.what}: works again")

    def _quit(self, event: m.Quit) -> None:
        self.quitting, self.quit_at, self.next_ask = event.why or "asked to", self.now, 0
        self.decide(f"the runner ends: {self.quitting}")

    def _clear(self, event: m.Clear) -> None:
        "A person opens a latch; one that is not set stays as it is, and that is said."
        state = self.desk.state
        try:
            if event.latch == "halt":
                if not self.halted: raise ValueError("halt is not set: there is nothing to reset")
                self.halted, self.strange, self.apart = "", 0, 0
            else:
                reset_event(state, event.latch, event.by, event.why, self.now)
                if event.latch == "pause": state.pause_until = state.pause_reason = 0
                else: state[event.latch] = Reason.NONE
                if event.latch == "review": state.peak_equity = state.equity
            self.out.append(m.Note("clear", f"{event.latch} cleared by {event.by}: {event.why}"))
        except ValueError as error: self.differ(str(error))

    # --- words for orders and truth ------------------------------------------------------------------------------------------------------------------------

    def send(self, kind, about: tuple | None, *fields) -> int: # the command's id
        "One command that will be answered; `about` comes back with the answer."
        self.number += 1
        if about: self.sent[self.number] = about
        self.out.append(kind(self.number, *fields))
        return self.number

    def ticks(self, points: float) -> int: return round(points / self.instrument.tick)
    def points(self, ticks: int) -> float: return round(float(self.instrument.to_points(ticks)), 9)
    def reason_text(self, reason: int) -> str: return REASON_TEXTS[Reason(reason)]
    def alert(self, severity: str, key: str, text: str) -> None: self.out.append(m.Alert(severity, key, text))
    def ask_soon(self) -> None: self.next_ask = min(self.next_ask, self.now + SECOND)
    def remember_features(self, row: int) -> None: self.seen[row] = self.market.row.copy()

    def decide(self, text: str) -> None:
        "A decision, in words."
        self.decisions.append((self.now, text))
        self.out.append(m.Note("decision", text))

    def differ(self, text: str) -> None:
        "A difference between the venue and us, by its name."
        self.decisions.append((self.now, text))
        self.out += [m.Note("difference", text), m.Alert("warning", text[:40], text)]

    def halt(self, why: str) -> None:
        "Latched: nothing is entered and everything is closed, until a person clears it."
        if self.halted: return
        self.halted = why
        self.out += [m.Note("halt", why), m.Alert("critical", "halt", f"halted: {why}")]

    def drop(self, why: str) -> None:
        "Give the plan up; what of it works is taken back, what fills all the same is closed."
        plan, state = self.plan, self.desk.state
        if plan is None or plan.dropped: return
        plan.dropped = why
        self.decide(f"the entry is given up: {why}")
        if self.desk.intent in ENTRIES: state.intent = Intent.HOLD
        elif self.desk.intent == Intent.REVERSE: state.intent, state.intent_reason = Intent.EXIT, Reason.OPPOSITE_SIGNAL

    def want_out(self, reason: int) -> None:
        "The whole position at market, for a reason that the trader does not know."
        if self.desk.held and self.desk.intent in (Intent.HOLD, Intent.REVERSE): want_out(self.desk.state, Intent.EXIT, reason, self.now, self.rules.trader)

    def blocked(self) -> list: # of texts
        "Why no position may be opened now, besides what the rules say; empty: it may."
        return allowed.blocked(self)

    def quiet_until(self) -> int:
        "Up to when, ns UTC, nothing but news of the venue can lead to an order: a market that waits for us need not stop on every second before. Now, when that is not certain."
        day, risk = self.market.day, self.rules.risk
        if day is None or self.quitting or self.past_flat or not self.reconciled or self.book.net or self.desk.held or self.book.working() or self.closing or self.plan: return self.now
        if self.flat_told == str(self.market.date): return self.market.closes
        return max(self.now, int(day["rth_open"]) - SECOND) if risk.allow_rth and not risk.allow_eth else self.now

    # --- to keep and to show -------------------------------------------------------------------------------------------------------------------------------

    @property
    def state(self) -> np.record: return self.desk.state
    @property
    def lots(self) -> np.ndarray: return self.desk.lots
    @property
    def refusals(self) -> np.ndarray: return np.array(self.refused)
    @property
    def date(self): return self.market.date

    def snapshot(self) -> bytes:
        "Everything that must survive; the features are made again from the day's bars."
        return memory.save(self)

    def status(self) -> dict:
        "For a person's eyes, as JSON can carry it."
        return memory.status(self)


HANDLERS = {m.Started: Core._started, m.Past: Core._past, m.Second: Core._second, m.Link: Core._link, m.OrderTold: Core._order, m.FillTold: Core._fill, m.PositionTold: Core._position,
            m.AccountTold: Core._account, m.Answered: Core._answered, m.Snapshot: Core._snapshot, m.NoSnapshot: Core._no_snapshot, m.Kill: Core._kill, m.Clear: Core._clear, m.Quit: Core._quit,
            m.Trouble: Core._trouble, m.Cured: Core._cured}
