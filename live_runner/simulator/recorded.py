"A recorded feed as a tape: its quotes and trades come at their own times, and the venue meets the bars that the trades make."
import gzip
import json
import zlib
from collections.abc import Callable, Iterator
from heapq import merge
from operator import itemgetter
from pathlib import Path

import numpy as np

from mesbot.calendar import MINUTE
from mesbot.core import SECOND, instrument
from mesbot.sessions import session_info
from mesbot.ticks import trades_to_bars

from ..clock import ns_of
from .contracts import Contracts, symbol_of
from .tape import PRINT_NS, RANGE_NS, Tape

QUOTE, TRADE = "GatewayQuote", "GatewayTrade"


def read_recording(
    path: Path | str, # as `python -m live_runner record` writes it
) -> Iterator[dict]: # {"at": ns UTC of its arrival, "event", "contract", "data"}
    "The lines of a recording, oldest first. One that was cut off in the midst of writing ends with its last whole line; ValueError for anything else that is no line of a recording."
    path, number = Path(path), 0
    try:
        with gzip.open(path, "rb") as file:
            for number, line in enumerate(file, 1):
                row = json.loads(line)
                if not isinstance(row, dict) or not {"at", "event", "contract", "data"} <= row.keys(): raise ValueError("at, event, contract and data are needed")
                yield row
    except EOFError: return                            # cut off
    except (ValueError, zlib.error, gzip.BadGzipFile) as e: raise ValueError(f"{path.name} line {max(number, 1)}: is no line of a recording ({' '.join(str(e).split())})") from None


class RecordedTape(Tape):
    "The tape of a recording of one contract. An event comes at the moment its own timestamp says, never before the one recorded before it."

    def __init__(self,
        path: Path | str, # a recording; ValueError when it holds no trades, or those of several contracts
    ):
        rows = [row for row in read_recording(path) if row["event"] in (QUOTE, TRADE)]
        contracts = sorted({row["contract"] for row in rows})
        if len(contracts) != 1: raise ValueError(f"{Path(path).name} must hold one contract, got {', '.join(contracts) or 'none'}")
        traded = instrument(symbol_of(contracts[0]))
        self._told = _in_order(rows)
        prints = [data for _, event, data in self._told if event == TRADE]
        if not prints: raise ValueError(f"{Path(path).name} holds no trades")
        bars = trades_to_bars(np.array([ns_of(p["timestamp"]) for p in prints]), traded.to_ticks(np.array([p["price"] for p in prints])).astype(np.int64),
                              np.array([p["volume"] for p in prints]), traded.symbol)
        self._moments = np.array([moment for moment, *_ in self._told])
        day = session_info(bars)["date"][0].astype("M8[D]")
        super().__init__(traded, bars, *self._best(bars.ts, traded), contracts=Contracts(traded.symbol, day, contracts[0]))

    def _best(self, ts: np.ndarray, traded) -> tuple[np.ndarray, np.ndarray]: # (n,) ticks, twice; 0 = not known
        "The quote that stood as each second began."
        bid = ask = 0
        moments, stood = [0], [(0, 0)]
        for moment, event, data in self._told:
            if event != QUOTE: continue
            if data.get("bestBid") is not None: bid = int(traded.to_ticks(data["bestBid"]))
            if data.get("bestAsk") is not None: ask = int(traded.to_ticks(data["bestAsk"]))
            moments.append(moment)
            stood.append((bid, ask) if 0 < bid < ask else (0, 0))
        rows = np.array(stood, np.int32)[np.searchsorted(moments, ts, side="right") - 1]
        return rows[:, 0], rows[:, 1]

    def span(self, k: int) -> tuple[int, int]:
        "As of any tape, but quotes before the first trade are played too."
        begin, end = super().span(k)
        told = self._moments[self._moments >= self.info["open"][k]]
        return max(int(self.info["open"][k]), min(begin, int(told[0]) - MINUTE)), end

    def play(self, k: int, venue, emit: Callable) -> Iterator[int]:
        "Yields each moment at which something happens; it happens when the next one is asked for."
        self._new_session()
        a, b = np.searchsorted(self._moments, [self.info["open"][k], self.info["close"][k]])
        for moment, do, what in merge(self._meetings(k, venue), self._events(a, b, emit), key=itemgetter(0)):
            yield moment
            do(what)

    def _meetings(self, k: int, venue) -> Iterator[tuple]: # moment, what is called, the bar
        def end(bar):
            venue.end_second(bar)
            self.played += 1
        for ts, bar, *_ in self._seconds(k):
            yield ts + PRINT_NS, venue.meet_open, bar
            yield ts + RANGE_NS, venue.meet_range, bar
            yield ts + SECOND, end, bar

    def _events(self, a: int, b: int, emit: Callable) -> Iterator[tuple]: # moment, what is called, the event's data
        def trade(print_): emit(TRADE, self.contract, [{"symbolId": self.symbol_id, **print_, "contractId": self.contract}])
        def quote(fields): self._quote(emit, fields["timestamp"], **{name: value for name, value in fields.items() if name not in ("timestamp", "lastUpdated")})
        for moment, event, data in self._told[a:b]: yield moment, trade if event == TRADE else quote, data


def _in_order(rows: list) -> list: # (moment, event, data of one quote or one print), moments never fall
    "Every print and quote by itself, at the moment it comes."
    told, moment = [], 0
    for row in rows:
        for data in row["data"] if row["event"] == TRADE else [row["data"]]:
            moment = max(moment, ns_of(data["timestamp"]))
            told.append((moment, row["event"], data))
    return told
