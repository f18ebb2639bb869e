"Indicators against TA-Lib, an outside opinion, to nine digits in float64 from the first number on (FEA-1)."
import numpy as np
import pytest
import talib

from mesbot.bars import make_bars, session_info
from mesbot.core import SECOND, kernel
from mesbot.features import FEATURES, WARMUP_S, compute_features, new_feature_state, step
from mesbot.smoothing import row_type

OPEN = int(np.datetime64("2024-01-03T14:30", "ns").astype(np.int64))  # 09:30 New York


@kernel
def exact_nb(s, ts, open, high, low, close, volume, rows):
    for i in range(len(ts)): step(s, ts[i], open[i], high[i], low[i], close[i], volume[i], rows[i])


def gapless(n, seed, wild=3, base=26_000):
    "A walk in whole ticks, a trade in every second."
    rng = np.random.default_rng(seed)
    close = base + rng.integers(-wild, wild + 1, n).cumsum()
    open = np.r_[close[0], close[:-1]] + rng.integers(-1, 2, n)
    high, low = np.maximum(open, close) + rng.integers(0, wild, n), np.minimum(open, close) - rng.integers(0, wild, n)
    return make_bars(OPEN + np.arange(n) * SECOND, open, high, low, close, rng.integers(1, 50, n))


def exact(bars):
    "Every feature in float64, by the very step that makes the matrix."
    rows = np.zeros(len(bars.ts), row_type(FEATURES, "f8"))
    exact_nb(new_feature_state(session_info(bars)[0]), *(np.asarray(column, np.int64) for column in bars[:6]), rows)
    return rows


def oracle(bars):
    "TA-Lib on prices above the first close, where its float sums are exact enough for nine digits."
    high, low, close = ((column - bars.close[0]).astype(float) for column in (bars.high, bars.low, bars.close))
    found = {f"ema_{n}": close - talib.EMA(close, n) for n in (9, 21, 50, 200)}
    found["rsi_14"], found["atr_14"] = talib.RSI(close, 14), talib.ATR(high, low, close, 14)
    found["macd"], found["macd_signal"], _ = talib.MACD(close, 12, 26, 9)
    found["stoch_k"], found["stoch_d"] = talib.STOCHF(high, low, close, 14, 3, 0)
    upper, middle, lower = talib.BBANDS(close, 20, 2, 2)
    found["bb_width"] = upper - lower
    found["bb_pos"] = np.divide(close - middle, (upper - lower) / 4, out=np.zeros(len(close)), where=upper > lower)
    found |= {f"ret_{n}": talib.MOM(close, n) for n in (1, 5, 10, 30, 60)}
    found["range_60"], found["range_300"] = (talib.MAX(high, n) - talib.MIN(low, n) for n in (60, 300))
    return found


@pytest.mark.parametrize("seed,wild", [(0, 3), (1, 1), (2, 40)])
def test_equal_to_talib_from_the_first_number_on(seed, wild):
    bars = gapless(5000, seed, wild)
    ours, book = exact(bars), oracle(bars)
    for name, theirs in book.items():
        first = np.flatnonzero(np.isfinite(theirs))[0]
        moving = slice(max(first, WARMUP_S[name] - 1), None)
        assert first + 1 == {"macd": 34, "bb_pos": 1, "stoch_k": 16}.get(name, WARMUP_S[name]), name  # TA-Lib waits with macd for its signal, with %K for %D
        assert np.isnan(ours[name][:WARMUP_S[name] - 1]).all() and np.isfinite(ours[name][moving]).all(), name
        np.testing.assert_allclose(ours[name][moving], theirs[moving], rtol=1e-9, atol=1e-9, err_msg=name)


def test_the_matrix_is_what_the_step_says():
    "Nothing but rounding to float32 stands between the float64 that TA-Lib agrees with and the feature matrix."
    bars = gapless(3000, 5)
    rows, matrix = exact(bars), compute_features(bars)
    for k, name in enumerate(FEATURES): np.testing.assert_array_equal(matrix[:, k], rows[name].astype(np.float32), err_msg=name)


def test_deliberate_differences_hold():
    "A price that never moves: RSI 50 and stochastic 50 here, 0 there; Bollinger position 0."
    n = 400
    flat = np.full(n, 26_000)
    bars = make_bars(OPEN + np.arange(n) * SECOND, flat, flat, flat, flat, np.ones(n, int))
    rows, zero = exact(bars), np.zeros(n)
    assert (rows["rsi_14"][14:] == 50).all() and (talib.RSI(zero, 14)[14:] == 0).all()
    assert (rows["stoch_k"][13:] == 50).all() and (talib.STOCHF(zero, zero, zero, 14, 3, 0)[0][15:] == 0).all()
    assert (rows["bb_pos"][19:] == 0).all() and (rows["pos_60"][59:] == .5).all() and (rows["bb_width"][19:] == 0).all()
