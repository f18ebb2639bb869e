"The market as a tape: each one-second bar becomes quotes and prints at fixed moments of its second, and they make the same bar again at the other end."
import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import structlog

from mesbot.bars import Bars, check_seconds, n_sessions, session_info
from mesbot.calendar import MINUTE, utc_ns
from mesbot.core import SECOND, Bar, Instrument

from ..protocol import DepthType, TradeType
from .contracts import Contracts

PRINT_NS, RANGE_NS, CLOSE_NS = 200_000_000, 500_000_000, 800_000_000  # after the start of the second: its open prints, its extremes, its close
CHUNK = 4096                                                          # bars whose texts and numbers are made at a time
LEVELS, SIZES = 3, (9, 14, 11, 23, 17, 31, 12, 19)                    # of the book shown on each side, and the contracts that rest there, in turn
BUY, SELL = int(TradeType.BUY), int(TradeType.SELL)
log = structlog.get_logger("tape")


class Prints(NamedTuple):
    "How n bars print: the open, then the nearer extreme, then the farther, then the close; each (n,)."
    near: np.ndarray      # ticks; the extreme closer to the open
    far: np.ndarray       # ticks
    has_near: np.ndarray  # bool: it is printed
    has_far: np.ndarray
    has_close: np.ndarray
    size: np.ndarray      # contracts of every print but the close
    last_size: np.ndarray # contracts of the close
    short: np.ndarray     # bool: fewer contracts than prints, so one each


def plan_prints(
    bars: Bars, # n bars
) -> Prints:
    "Which prints a bar takes and how large they are. A print that would only repeat a price is left out where the contracts do not reach."
    open, high, low, close, volume = (column.astype(np.int64) for column in bars[1:6])
    up_first = high - open < open - low
    near, far = np.where(up_first, high, low), np.where(up_first, low, high)
    has_near, has_far = near != open, far != open
    def closes(has_near): return close != np.where(has_far, far, np.where(has_near, near, open))
    tight = volume < 1 + has_near + has_far + closes(has_near)
    has_near &= ~(tight & (near == close))     # the close prints that price anyway
    has_close = closes(has_near)
    short = volume < 1 + has_near + has_far + has_close
    has_close |= volume > 1 + has_near + has_far  # contracts are left: the close once more
    n = 1 + has_near + has_far + has_close
    size = np.maximum(volume // n, 1)
    return Prints(near, far, has_near, has_far, has_close, size, np.maximum(volume - (n - 1) * size, 1), short)


class Tape:
    "Bars, played a session at a time from `first` on; those before are history only."

    def __init__(self,
        instrument: Instrument,        # what is traded
        bars: Bars,                    # n one-second bars of it, n > 0
        bid: np.ndarray | None = None, # (n,) ticks, best bid as each second began; 0 = not known
        ask: np.ndarray | None = None, # (n,) ticks, best ask likewise
        first: int = 0,                # session where the replay begins
        contracts: Contracts | None = None, # the catalogue; None = that of the first session played
    ):
        check_seconds(bars)
        if not len(bars.ts): raise ValueError("a tape needs at least one bar, got none")
        if not 0 <= first < n_sessions(bars): raise ValueError(f"first must be a session from 0 to {n_sessions(bars) - 1}, got {first}")
        if (bid is None) != (ask is None): raise ValueError("bid and ask go together, got one of them")
        none = np.zeros(len(bars.ts), np.int32)
        self.bid, self.ask = (none, none) if bid is None else (np.asarray(bid), np.asarray(ask))
        if not len(self.bid) == len(self.ask) == len(bars.ts): raise ValueError(f"bid and ask must have a row for each of {len(bars.ts)} bars, got {len(self.bid)} and {len(self.ask)}")
        self.instrument, self.bars, self.first, self.info = instrument, bars, first, session_info(bars)
        self.contracts = contracts or Contracts(instrument.symbol, self.info["date"][first].astype("M8[D]"))
        self.contract, self.short = self.contracts.contract_id, 0   # bars that had fewer contracts than prints
        self.played = 0                                              # bars so far
        self.begin = 0                                               # ns UTC: where in its first session the replay begins; 0 = with its first bar
        self.symbol_id = self.contract.removeprefix("CON.").rpartition(".")[0]
        self._screen, self._drawn = {}, 0

    def snapshot(self) -> dict:
        "All that a quote can say, as of now: what a new subscriber is told first."
        return dict(self._screen)

    def rows(self, k: int) -> tuple[int, int]:
        "First row of session `k`, and the one past its last."
        return int(self.bars.sessions[k]), int(self.bars.sessions[k + 1])

    def begin_at(self,
        clock: str, # New York time of day, "09:25"
    ) -> None:
        "Begin in the midst of the first session: the bars before are history. ValueError when no bar comes after, or none before."
        if not re.fullmatch(r"([01]\d|2[0-3]):[0-5]\d", clock, re.ASCII): raise ValueError(f"a time of day must look like 09:25, got {clock!r}")
        (a, b), row = self.rows(self.first), self.info[self.first]
        moments = [int(utc_ns(np.array([row["date"]]).astype("M8[D]"), clock, days)[0]) for days in (-1, 0)]
        self.begin = next((ts for ts in moments if self.bars.ts[a] < ts <= self.bars.ts[b - 1]), 0)
        if not self.begin: raise ValueError(f"the first session has no bars before or none after {clock} New York")

    def _skipped(self, k: int) -> int:
        "Rows of session `k` that are history already."
        a, b = self.rows(k)
        return int(np.searchsorted(self.bars.ts[a:b], self.begin)) if k == self.first else 0

    def span(self, k: int) -> tuple[int, int]:
        "From when to when session `k` is played, ns UTC; more than a minute of silence at either end of it is left out."
        a, b = self.rows(k)
        row, first, last = self.info[k], int(self.bars.ts[a]), int(self.bars.ts[b - 1])
        return self.begin if self._skipped(k) else max(int(row["open"]), first - MINUTE), min(int(row["close"]), last + SECOND + MINUTE)

    def play(self,
        k: int,         # session
        venue,          # is told of each bar in its three moments
        emit: Callable, # emit(event, contract id, payload)
    ) -> Iterator[int]: # ns UTC
        "Yields each moment at which something happens; it happens when the next one is asked for."
        contract, quote = self.contract, self._quote
        self._new_session()
        for ts, bar, second, shown, prints, day in self._seconds(k):
            yield ts
            quote(emit, second + ".0000000+00:00", bestBid=shown[0], bestAsk=shown[1])
            yield ts + PRINT_NS
            first, middle, last = prints
            venue.meet_open(bar)
            emit("GatewayTrade", contract, [first])
            quote(emit, first["timestamp"], lastPrice=first["price"])
            yield ts + RANGE_NS
            venue.meet_range(bar)
            if middle: emit("GatewayTrade", contract, middle)
            yield ts + CLOSE_NS
            if last: emit("GatewayTrade", contract, [last])
            quote(emit, second + ".8000000+00:00", **day)
            yield ts + SECOND
            venue.end_second(bar)
            self.played += 1

    def _quote(self, emit: Callable, stamp: str, **fields):
        "Tell what has changed on the screen, if anything has."
        screen = self._screen
        if not screen: fields = {"symbol": self.symbol_id, "contract": self.contract, **fields}
        changed = {name: value for name, value in fields.items() if screen.get(name) != value}
        if not changed: return
        changed["lastUpdated"] = changed["timestamp"] = stamp
        screen.update(changed)
        emit("GatewayQuote", self.contract, changed)
        if "bestBid" in changed or "bestAsk" in changed: self._book(emit, stamp)

    def _book(self, emit: Callable, stamp: str):
        "A few levels of resting orders around the best prices, for whoever looks at the book; the sizes are made up."
        if not emit.listening("GatewayDepth", self.contract): return
        def level(kind, price, size): return {"timestamp": stamp, "type": int(kind), "price": price, "volume": size, "currentVolume": size}
        rows, tick = [level(DepthType.RESET, 0.0, 0)], self.instrument.tick
        for away in range(LEVELS):
            self._drawn += 1
            for best, price, way in ((DepthType.BEST_BID, self._screen["bestBid"], -1), (DepthType.BEST_ASK, self._screen["bestAsk"], 1)):
                kind = best if away == 0 else DepthType.BID if way < 0 else DepthType.ASK
                rows.append(level(kind, round(price + way * away * tick, 9), SIZES[(self._drawn + way) % len(SIZES)]))
        emit("GatewayDepth", self.contract, rows)

    def _new_session(self):
        "The day's own numbers go from the screen; the last price stays."
        for name in ("open", "high", "low", "volume", "change", "changePercent"): self._screen.pop(name, None)

    def _points(self, ticks: np.ndarray) -> np.ndarray: return np.round(self.instrument.to_points(ticks), 9)

    def _seconds(self, k: int) -> Iterator[tuple]: # ts, Bar, text of the second, (bid, ask) shown, (open print, middle prints, close print or None), the day so far
        "The bars of a session, with everything that will be told of them made ready."
        a, b = self.rows(k)
        bars = self.bars._replace(**{name: getattr(self.bars, name)[a:b] for name in Bars._fields[:6]})
        plan, points = plan_prints(bars), self._points
        if plan.short.any():
            if not self.short: log.warning("bars with fewer contracts than prints; each print has one", session=k, bars=int(plan.short.sum()))
            self.short += int(plan.short.sum())
        before = np.append(self.bars.close[a - 1] if a else bars.open[0], bars.close[:-1])     # last price as each second begins
        bid, ask = self.bid[a:b], self.ask[a:b]
        shown = np.where(bid > 0, bid, before), np.where(bid > 0, ask, before + 1)
        settled = int(self.bars.close[a - 1] if a else bars.open[0])                         # change is counted from here
        traded = np.where(plan.has_close, plan.last_size, 0) + plan.size * (1 + plan.has_near + plan.has_far)
        day = {"lastPrice": points(bars.close), "open": np.full(b - a, points(bars.open[0])), "high": points(np.maximum.accumulate(bars.high)),
               "low": points(np.minimum.accumulate(bars.low)), "volume": traded.cumsum(), "change": points(bars.close - settled),
               "changePercent": np.round((bars.close - settled) / settled * 100, 4)}
        buys = np.where(bid > 0, bars.open >= ask, bars.open >= before)                       # who crossed the spread at the open
        last = np.where(plan.has_far, plan.far, np.where(plan.has_near, plan.near, bars.open))
        columns = [*bars[:6], bid, ask, *map(points, shown), *map(points, bars[1:5]), points(plan.near), plan.near >= bars.open, points(plan.far), plan.far >= bars.open,
                   plan.has_near, plan.has_far, plan.has_close, plan.size, plan.last_size, buys, bars.close >= last]
        for c in range(self._skipped(k), b - a, CHUNK):
            rows = slice(c, c + CHUNK)
            texts = np.datetime_as_string(bars.ts[rows].view("M8[ns]"), unit="s").tolist()
            days = (dict(zip(day, values)) for values in zip(*(column[rows].tolist() for column in day.values())))
            yield from map(self._second, texts, days, *(column[rows].tolist() for column in columns))

    def _second(self, text, day, ts, open, high, low, close, volume, bid, ask, shown_bid, shown_ask, p_open, p_high, p_low, p_close, near, near_up, far, far_up, has_near, has_far, has_close,
                size, last_size, buys, closes_up) -> tuple:
        "One bar as `_seconds` gives it."
        symbol, contract = self.symbol_id, self.contract
        def print_(price, stamp, buy, contracts):
            return {"symbolId": symbol, "price": price, "timestamp": stamp, "type": BUY if buy else SELL, "volume": contracts, "contractId": contract}
        first, middle, last, stamp = print_(p_open, text + ".2000000+00:00", buys, size), [], None, text + ".5000000+00:00"
        if has_near: middle.append(print_(near, stamp, near_up, size))
        if has_far: middle.append(print_(far, stamp, far_up, size))
        if has_close: last = print_(p_close, text + ".8000000+00:00", closes_up, last_size)
        return ts, Bar(ts, open, high, low, close, volume, bid, ask), text, (shown_bid, shown_ask), (first, middle, last), day
