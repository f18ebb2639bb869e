"""What a day's folder is made of: the account as it was before the first bar, and, out of the journal, every bar of the session with its quote and what the model said of it.

The model is asked once more for the whole day: batch and stream agree to the last bit. Bars that came as history were never asked about, and stay without an answer."""
import asyncio
import base64
import json
import threading
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path

import numpy as np

from mesbot.calendar import session_table
from mesbot.core import REASONS, STATE, instrument

from . import logs
from .halt import read_object, write_whole
from .messages import Alert, Note, Past, Second

FILE = "start.json"  # in the folder of an account: date, journal, state

log = logs.logger("live_runner.today")


class Today:
    "Keeps the account as each day found it, and writes the day down when it is over."

    def __init__(self,
        folder: Path,            # of the account
        setup,                   # of `core.Setup`
        journal,                 # an open `Journal`
        predictor,
        meters,
        facts: dict,             # of the run: code, model ...
        written: Callable = lambda path: None, # told the day's folder
    ):
        self.folder, self.setup, self.journal, self.predictor, self.meters, self.facts, self.written = Path(folder), setup, journal, predictor, meters, facts, written
        self.date, self.start, self._one = None, None, threading.Lock()

    def opened(self,
        date,              # datetime64[D], of the session that a step has opened
        before: np.record, # of STATE: the account before that step
    ) -> None:
        "A session began, or we came into the midst of one: then what was kept of it holds."
        kept = read_object(self.folder / FILE)
        if kept.get("date") == str(date) and kept.get("journal") == self.journal.id: before = np.frombuffer(base64.b85decode(kept["state"]), STATE).copy().view(np.recarray)[0]
        else:
            try: write_whole(self.folder / FILE, json.dumps({"date": str(date), "journal": self.journal.id, "state": base64.b85encode(before.tobytes()).decode()}))
            except OSError as error: log.warning("what the day began with could not be kept", why=str(error))
        self.date, self.start = str(date), before.copy()

    def over(self,
        date: str,  # 2024-01-31
        core,
    ) -> Awaitable: # to be awaited: it writes, in a thread of its own
        "What is known of the day now; the core may go on."
        (lots, seen), refusals = self._closed(core), {name: int(count) for name, count in zip(REASONS, core.refusals) if count and name not in ("none", "signal")}
        facts = self.facts | {"signals": int(core.refusals[REASONS.index("signal")]), "balance_usd": float(core.state.balance)}
        return asyncio.to_thread(self._write, date, lots, seen, refusals, self.meters.facts(), facts, self.start if self.date == date else None)

    def closed(self, core) -> Awaitable: # to be awaited, likewise
        "A lot was closed: its row goes into the day's CSV."
        return asyncio.to_thread(self._append, self.date, *self._closed(core))

    def _closed(self, core) -> tuple: # (t,) lots whose `row` counts from 0, (t, k) features at their entries
        "The day's lots and what the model saw before each."
        lots, unknown = core.lots.copy(), np.full_like(core.market.row, np.nan)
        seen = np.array([core.seen.get(int(row), unknown) for row in lots["row"]], np.float32).reshape(len(lots), len(unknown))
        lots["row"] = np.arange(len(lots))
        return lots, seen

    def _append(self, date: str, lots: np.ndarray, seen: np.ndarray) -> None:
        from .day import Day, append_trades
        with self._one: append_trades(self.folder, Day(self.setup.symbol, self.setup.config, self.setup.mode, np.datetime64(date), lots, features=seen))

    def _write(self, date: str, lots: np.ndarray, seen: np.ndarray, refusals: dict, latency: dict, facts: dict, start) -> None:
        from .day import Day, write_day
        rows, differences, told = read_day(self.journal.path, self.setup.symbol, date)
        if start is not None: lots["row"] += int(start["bars"])
        bars, bid, ask, asked = columns(rows, self.setup.symbol)
        with self._one: path = write_day(self.folder, Day(self.setup.symbol, self.setup.config, self.setup.mode, np.datetime64(date), lots, start, bars, self._says(bars, asked), bid, ask, seen,
                                                          refusals, latency, tuple(differences), tuple(told), facts))
        self.written(path)
        from .archive import keep_house
        for file in keep_house(self.journal.path, self.folder / "archive", self.setup.settings.keep_days): log.info("a month was archived", file=str(file))

    def _says(self, bars, asked: np.ndarray) -> np.ndarray | None: # (n, 3) and, where it says one, its volatility as a fourth
        "The model's word on every bar of the session."
        from mesbot.features import compute_features
        if bars is None: return None
        said = self.predictor.predict(compute_features(bars))
        volatility = getattr(said, "volatility_ticks", None)
        out = np.column_stack([said.probability] + ([volatility] if volatility is not None and len(volatility) else [])).astype(np.float32)
        out[~asked] = np.nan
        return out


def read_day(
    path: Path,  # of the journal; it may be in use
    symbol: str, # a key of `core.INSTRUMENTS`
    date: str,   # trade date
) -> tuple[dict, list, list]: # ts -> (bar, bid, ask, whether the model was asked); differences with the venue, and alerts, in words
    "The bars of one session, from every run that saw a part of it."
    from .journal_file import JournalReader
    session = session_table(date, date, instrument(symbol).hours)[0]
    begin, end, rows, differences, told = int(session["open"]), int(session["close"]), {}, [], []
    with closing(JournalReader(path)) as journal:
        runs = journal.runs()
        first = max((run["number"] for run in runs if run["at_ns"] <= begin), default=0)
        for run in runs:
            if run["number"] < first or run["at_ns"] >= end: continue
            for _, message in journal.rows(run["number"]): _collect(message, begin, end, rows, differences, told)
    return rows, differences, told


def _collect(message, begin: int, end: int, rows: dict, differences: list, told: list) -> None:
    "What one message says of the session; what was told live stays as it was told."
    if isinstance(message, Second) and message.bar and begin <= message.bar[0] < end: rows[message.bar[0]] = (message.bar, message.bid, message.ask, True)
    elif isinstance(message, Past):
        for ts, prices, volume in zip(message.ts.tolist(), message.prices.tolist(), message.volume.tolist()):
            if begin <= ts < end: rows.setdefault(ts, ((ts, *prices, volume), 0, 0, False))
    elif isinstance(message, Note) and message.kind == "difference": differences.append(message.text)
    elif isinstance(message, Alert): told.append(f"{message.severity}: {message.text}")


def columns(
    rows: dict, # of `read_day`
    symbol: str,
) -> tuple: # Bars or None, bid (n,), ask (n,), asked (n,) bool
    "The same as arrays."
    from mesbot.sessions import make_bars
    if not rows: return None, None, None, None
    told = [rows[ts] for ts in sorted(rows)]
    bars = make_bars(*np.array([bar for bar, *_ in told], np.int64).T, symbol)
    return bars, *(np.array([row[k] for row in told], np.int32) for k in (1, 2)), np.array([row[3] for row in told])
