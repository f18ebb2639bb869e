"""The end of a day: everything that happened, in a folder that `mesbot review` holds against a back-test; and its trades, written down while it runs.

FOLDER/days/2024-01-31/ holds trades_2024-01-31.csv and trades.parquet, session_metrics.json and .csv, bars.parquet, predictions.npy, config.toml and, last of all, day.json with the hashes
of the others: a folder without it, or with files that it does not name so, is not finished. Nothing in it depends on when it was written, so writing it again changes nothing."""
import hashlib
import io
import json
import math
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
from mesbot.bars import Bars
from mesbot.config import Config, config_hash, to_toml
from mesbot.core import cache_dir, instrument

LAYOUT = 1  # of the folder
COLUMNS = ("ts", "open", "high", "low", "close", "volume")


class Day(NamedTuple):
    "A trade date as the runner lived it."
    symbol: str                            # a key of `core.INSTRUMENTS`
    config: Config                         # it traded with
    mode: str                              # paper, observe or live
    date: np.datetime64                    # the trade date, or as text: 2024-01-31
    lots: np.ndarray                       # (t,) of `core.TRADE`, closed on this date, in the order of their exits
    start: np.record | None = None         # of `core.STATE`: the account before the first of the bars
    bars: Bars | None = None               # n bars of the session, those before the runner came too
    predictions: np.ndarray | None = None  # (n, 3) what the model said at the close of each bar, NaN where it was not asked; (n, 4): and its volatility, ticks
    bid: np.ndarray | None = None          # (n,) best bid as each second began, ticks; 0: not known
    ask: np.ndarray | None = None          # (n,) likewise
    features: np.ndarray | None = None     # (n, k) as seen at each bar; None leaves the snapshots of the trade log empty
    refusals: dict = {}                    # name of a reason -> on how many bars it kept us out
    latency: dict = {}                     # name -> facts of a `metrics.Latency`
    differences: tuple = ()                # between us and the venue, in words
    alerts: tuple = ()                     # what a person was told, in words
    facts: dict = {}                       # whatever else is worth knowing: account, contract, hash of the model


def day_folder(
    folder: Path, # of an account
    date,         # trade date
) -> Path:
    "Where a day lies; it need not be there."
    return Path(folder) / "days" / str(np.datetime64(date, "D"))


def trade_table(day: Day): # a DataFrame, a row a lot
    "The day's trade log, with the columns of a back-test's."
    from mesbot.trade_log import trade_log
    return trade_log(day.lots, instrument(day.symbol), day.config, day.mode, np.full(len(day.lots), day.date, "M8[D]"), day.features, int(day.start["bars"]) if day.start is not None else 0)


# -- while it runs ----------------------------------------------------------------------------------------------------------------------------------------

def append_trades(
    folder: Path, # of an account
    day: Day,     # so far: its lots are all that were closed on this date
) -> int: # rows written
    "Write down those lots that the day's CSV does not have yet; OSError when the disk will not take them, and then none of them is in it. What a kill left of a row is taken out first."
    path = day_folder(folder, day.date) / f"trades_{np.datetime64(day.date, 'D')}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        whole, lines = _whole_lines(handle)
        table = trade_table(day).iloc[max(lines - 1, 0):]
        rows = table.to_csv(index=False, header=not lines) if len(table) or not lines else ""
        if rows: _append(handle, rows.encode(), whole)
    finally: os.close(handle)
    if not lines: _sync_folder(path.parent)
    return len(table)


def _whole_lines(handle: int) -> tuple[int, int]: # bytes, lines
    "How much of a file is whole lines; a line of our CSV holds no line break."
    data = b"".join(iter(lambda: os.read(handle, 1 << 20), b""))
    whole = data.rfind(b"\n") + 1
    if whole < len(data): os.ftruncate(handle, whole)
    return whole, data.count(b"\n")


def _append(handle: int, rows: bytes, whole: int):
    "All of it in one write, on the disk; or the file as it was."
    try:
        if os.write(handle, rows) < len(rows): raise OSError(f"the disk took a part of {len(rows)} bytes of a trade log")
        os.fsync(handle)
    except OSError:
        os.ftruncate(handle, whole)
        raise


# -- when it is over --------------------------------------------------------------------------------------------------------------------------------------

def write_day(
    folder: Path, # of an account
    day: Day,     # all of it; a day without a trade, and one without a bar, too
) -> Path: # its folder
    "Write the day, or write it again; ValueError for parts that do not fit each other, OSError when the disk will not take it."
    bars, predictions, bid, ask = _parts(day)
    where, table, files = day_folder(folder, day.date), trade_table(day), {}
    where.mkdir(parents=True, exist_ok=True)
    files[f"trades_{where.name}.csv"] = table.to_csv(index=False).encode()
    files["trades.parquet"] = _parquet(table.to_parquet, index=False)
    files["bars.parquet"], files["predictions.npy"] = _bars_file(bars, bid, ask), _array_file(predictions)
    files["config.toml"] = to_toml(day.config).encode()
    for name, data in files.items(): _put(where / name, data)
    summary = _write_metrics(table, day, where)
    for name in ("session_metrics.json", "session_metrics.csv"): files[name] = (where / name).read_bytes()
    _put(where / "day.json", json.dumps(_facts(day, len(bars.ts), summary, files), indent=1, allow_nan=False).encode())
    _sync_folder(where)
    return where


def _parts(day: Day) -> tuple: # Bars, (n, 3) or (n, 4) predictions, (n,) bid, (n,) ask
    "Everything that has a row a bar; ValueError when the lengths differ."
    bars = day.bars or Bars(*(np.zeros(0, np.int64) for _ in COLUMNS), np.zeros(1, np.int64), day.symbol)
    n = len(bars.ts)
    predictions = np.full((n, 3), np.nan, np.float32) if day.predictions is None else np.asarray(day.predictions, np.float32)
    quotes = [np.zeros(n, np.int32) if side is None else np.asarray(side, np.int32) for side in (day.bid, day.ask)]
    if predictions.shape not in ((n, 3), (n, 4)): raise ValueError(f"predictions of {n} bars must have shape ({n}, 3) or ({n}, 4), got {predictions.shape}")
    for name, side in zip(("bid", "ask"), quotes):
        if side.shape != (n,): raise ValueError(f"{name} of {n} bars must have shape ({n},), got {side.shape}")
    return bars, predictions, *quotes


def _bars_file(bars: Bars, bid: np.ndarray, ask: np.ndarray) -> bytes:
    "Bars and quotes in ticks."
    import pandas as pd
    table = pd.DataFrame({name: getattr(bars, name) for name in COLUMNS} | {"bid": bid, "ask": ask})
    return _parquet(table.to_parquet, index=False, compression="zstd")


def _parquet(write, **how) -> bytes:
    "What a table writes into a file."
    into = io.BytesIO()
    write(into, **how)
    return into.getvalue()


def _array_file(values: np.ndarray) -> bytes:
    into = io.BytesIO()
    np.save(into, values)
    return into.getvalue()


def _write_metrics(table, day: Day, where: Path) -> dict:
    "The session metrics, by the lines of code that make those of a back-test; what they say of the whole day."
    from mesbot.session_metrics import write_session_metrics
    write_session_metrics(table, instrument(day.symbol).tick_usd, where, [np.datetime64(day.date, "D")])
    return json.loads((where / "session_metrics.json").read_text())["total"]


def _facts(day: Day, n: int, summary: dict, files: dict) -> dict:
    "What day.json says."
    start = None if day.start is None else {name: day.start[name].tolist() for name in day.start.dtype.names}
    own = {"layout": LAYOUT, "symbol": day.symbol, "date": str(np.datetime64(day.date, "D")), "mode": day.mode, "config_hash": config_hash(day.config), "code_hash": cache_dir().name,
           "bars": n, "summary": summary, "refusals": day.refusals, "latency": day.latency, "differences": day.differences, "alerts": day.alerts, "facts": day.facts, "start": start,
           "files": {name: hashlib.sha256(data).hexdigest() for name, data in sorted(files.items())}}
    return _plain(own)


def _plain(value):
    "As JSON knows it; NaN and infinity become null."
    if isinstance(value, dict): return {str(key): _plain(own) for key, own in value.items()}
    if isinstance(value, (list, tuple)): return [_plain(own) for own in value]
    if isinstance(value, (np.generic, np.ndarray)): return _plain(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _put(path: Path, data: bytes):
    "A file with these bytes: aside, on the disk, then renamed."
    aside = path.with_name(f"{path.name}.next")
    with aside.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(aside, path)


def _sync_folder(folder: Path):
    "Have the names of a folder on the disk."
    handle = os.open(folder, os.O_RDONLY)
    try: os.fsync(handle)
    finally: os.close(handle)
