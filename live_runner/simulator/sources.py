"Where a tape comes from: a store of real bars, or the synthetic market."
from pathlib import Path

import numpy as np

from mesbot.bars import Bars, iter_bars, load_bars, make_bars, n_bars
from mesbot.calendar import DAY
from mesbot.core import MES, instrument
from mesbot.sessions import session_info
from mesbot.store import bars_folder

from .tape import Tape

HISTORY_DAYS = 7  # of bars before the start that `retrieveBars` can still give


def stored_tape(
    symbol: str,             # a key of `core.INSTRUMENTS`
    data: Path | str,        # root of the store
    start: str | None = None, # trade date or UTC instant, as for `load_bars`; None = from the first bar
    end: str | None = None,   # likewise, not included; None = to the last bar
) -> Tape:
    "Bars of a store with its quotes, where it has them; a week of bars before the start is history. Raises what `load_bars` raises."
    bars, before = load_bars(symbol, start, end, store=data), 0
    opens = int(session_info(bars)["open"][0])
    past = list(iter_bars(symbol, opens - HISTORY_DAYS * DAY, opens, store=data)) if start and Path(data).is_dir() else []
    if past:
        before = sum(len(part.sessions) - 1 for part in past)
        bars = make_bars(*(np.concatenate(columns) for columns in zip(*(part[:6] for part in (*past, bars)))), symbol)
    quotes = [_quote(bars, data, series) for series in ("1s_bid", "1s_ask")]
    known = (quotes[0] > 0) & (quotes[1] > quotes[0])
    return Tape(instrument(symbol), bars, *(np.where(known, side, 0) for side in quotes), first=before)


def _quote(bars: Bars, data: Path | str, series: str) -> np.ndarray: # (n,) ticks, 0 = not known
    "One side of the stored quotes as each second began."
    out = np.zeros(n_bars(bars), np.int32)
    if not any(bars_folder(bars.symbol, data, series).glob("*/*.parquet")): return out
    for part in iter_bars(bars.symbol, int(bars.ts[0]), int(bars.ts[-1]) + 1, store=data, series=series):
        at = np.minimum(np.searchsorted(part.ts, bars.ts), n_bars(part) - 1)
        out = np.where(part.ts[at] == bars.ts, part.open[at], out)
    return out


def synthetic_tape(
    sessions: int = 5,   # trade dates
    seed: int = 1,
    alpha: float = 0.0,  # planted edge; 0 = none
) -> Tape:
    "The synthetic market of MES with its quotes; raises what `synthetic_market` raises."
    from mesbot.synth import quote_bars, synthetic_market
    market = synthetic_market(sessions, seed, alpha)
    return Tape(MES, market.bars, *(side.open for side in quote_bars(market)))
