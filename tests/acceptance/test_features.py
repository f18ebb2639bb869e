"Every feature against an independent reading of its definition: pandas on dense seconds (FEA-1, FEA-2, FEA-3, FEA-4), and labels at their bounds (TGT-1)."
import numpy as np
import pandas as pd
import pytest

from mesbot.bars import make_bars, n_bars, session_info
from mesbot.core import SECOND
from mesbot.features import FEATURES, compute_features
from mesbot.labels import label_moves
from mesbot.synth import synthetic_market


@pytest.fixture(scope="module")
def bars():
    "One session from 08:45 on, with holes."
    market = synthetic_market(1, seed=31, alpha=.05).bars
    keep = (np.random.default_rng(1).random(n_bars(market)) > .2) & (market.ts >= session_info(market)["rth_open"][0] - 2700 * SECOND)
    return make_bars(*(column[keep] for column in market[:6]))


@pytest.fixture(scope="module")
def dense(bars):
    "Every second from the first bar on: empty ones repeat the last close and have no volume."
    ts = np.arange(bars.ts[0], bars.ts[-1] + SECOND, SECOND)
    at = np.searchsorted(bars.ts, ts, side="right") - 1
    traded = bars.ts[at] == ts
    pick = lambda column: np.where(traded, column[at], bars.close[at]).astype(float)
    return pd.DataFrame({"high": pick(bars.high), "low": pick(bars.low), "close": pick(bars.close), "volume": np.where(traded, bars.volume[at], 0).astype(float),
                         "traded": traded}, index=ts)


def smooth(x, alpha, start=None):
    "Exponential average that starts at its first value, or at `start`."
    first = x.iloc[0] if start is None else start
    return pd.concat([pd.Series([first]), x]).ewm(alpha=alpha, adjust=False).mean().iloc[1:].set_axis(x.index)


def running_z(x, length):
    "z against exponentially weighted mean and variance of the values before; weights that have not yet gathered are allowed for."
    keep, mean, out = 1 - 1 / length, x.iloc[0], np.zeros(len(x))
    var = weight = 0.0
    for i, value in enumerate(x):
        if weight > 0 and var > 0: out[i] = (value - mean) / (var / weight)**.5
        var, weight, mean = keep * var + (value - mean)**2 / length, keep * weight + 1 / length, mean + (value - mean) / length
    return pd.Series(out, x.index)


def reference(bars, d):
    "All features by the book, one row a second."
    c, move, day = d["close"], d["close"].diff().fillna(0.0), session_info(bars)[0]
    f = {f"ret_{k}": c - c.shift(k) for k in (1, 5, 10, 30, 60)}
    low, high = d["low"].rolling(14).min(), d["high"].rolling(14).max()
    f["stoch_k"] = (100 * (c - low) / (high - low)).where(high > low, 50.0).where(low.notna())
    f["stoch_d"] = f["stoch_k"].rolling(3).mean()
    windows = np.lib.stride_tricks.sliding_window_view(c.to_numpy(), 20)  # pandas' rolling std drifts
    mean, sd = (pd.Series(np.r_[np.full(19, np.nan), of(windows, axis=1)], c.index) for of in (np.mean, np.std))
    f["bb_pos"], f["bb_width"] = ((c - mean) / sd).where(sd > 1e-9, 0.0).where(sd.notna()), 4 * sd
    for length in (9, 21, 50, 200): f[f"ema_{length}"] = c - smooth(c, 2 / (length + 1))
    gain, loss = smooth(move.clip(lower=0), 1 / 14, 0.0), smooth((-move).clip(lower=0), 1 / 14, 0.0)
    f["rsi_14"] = (100 * gain / (gain + loss)).fillna(50.0)
    f["macd"] = smooth(c, 2 / 13) - smooth(c, 2 / 27)
    f["macd_signal"] = smooth(f["macd"], 2 / 10, 0.0)
    before = c.shift().fillna(c.iloc[0])
    reach = np.maximum(d["high"], before) - np.minimum(d["low"], before)
    f["atr_14"] = smooth(reach, 1 / 14)
    rth = d.index >= day["rth_open"]
    money = (((d["high"] + d["low"] + c) / 3 - c.iloc[0]) * d["volume"]).where(rth, 0.0).cumsum()
    vwap = (money / d["volume"].where(rth, 0.0).cumsum()).where(rth) + c.iloc[0]
    f["vwap_dist"], f["vwap_slope"] = c - vwap, vwap - vwap.shift(60)
    known = pd.DatetimeIndex(d.index + SECOND, tz="UTC").tz_convert("America/New_York")
    clock = pd.DatetimeIndex(d.index, tz="UTC").tz_convert("America/New_York")
    f["min_to_close"] = ((day["rth_close"] - d.index - SECOND) / 60e9).to_series(d.index).clip(0, 390)
    angle = 2 * np.pi * (clock.hour * 3600 + clock.minute * 60 + clock.second) / 86_400
    f["tod_sin"], f["tod_cos"], f["weekday"] = np.sin(angle), np.cos(angle), float(clock[0].weekday())
    hour = clock.hour + clock.minute / 60
    f["asia"], f["europe"] = ((hour >= 18) | (hour < 3)).astype(float), ((hour >= 3) & (hour < 9.5)).astype(float)
    f["rth"] = ((hour >= 9.5) & (hour < 16)).astype(float)
    for name, minutes in (("m1", 1), ("m5", 5)):
        done = c[(known.minute % minutes == 0) & (known.second == 0)]  # closes at the moment their last second is over
        trend = smooth(done, .5) - smooth(done, 2 / 9)
        f[f"{name}_trend"] = trend.where(np.arange(len(done)) >= 7).reindex(d.index).ffill()
        f[f"{name}_mom"] = (done - done.shift(3)).reindex(d.index).ffill()
    x = np.sign(move) * np.sqrt(d["volume"])
    flow = pd.Series(_sum_with_memory(x.to_numpy(), np.exp(-1 / 25)), x.index)
    size = (flow**2).ewm(alpha=1 - np.exp(-1 / 900), adjust=True).mean()  # a weighted mean of all seconds so far
    f["flow_25"] = (flow / np.sqrt(size)).clip(-4, 4)
    f["volume_z"] = running_z(np.log1p(d["volume"]), 300)
    rv30, rv600 = ((move**2).ewm(alpha=1 / length, adjust=True).mean() for length in (30, 600))
    f["rv_30"], f["rv_600"] = np.sqrt(rv30), np.sqrt(rv600)
    f["vola_z"] = running_z(np.log(rv30 + .01).iloc[60:], 1800).reindex(d.index)
    f["regime"] = 1.0 + (f["vola_z"] > 1).astype(float) - (f["vola_z"] < -1).astype(float)
    return pd.DataFrame(f, index=d.index)


def _sum_with_memory(x, keep):
    out, total = np.empty(len(x)), 0.0
    for i, value in enumerate(x):
        total = keep * total + value
        out[i] = total
    return out


WARM_S = {"ema_9": 9, "ema_21": 21, "ema_50": 50, "ema_200": 200, "rsi_14": 15, "macd": 26, "macd_signal": 34, "atr_14": 15, "flow_25": 300, "volume_z": 300,
          "rv_30": 61, "rv_600": 601, "vola_z": 1801, "regime": 1801}  # seconds after which a number is given; the others say so by their window
SHAPE = ("direction", "body", "upper_wick", "lower_wick")


@pytest.fixture(scope="module")
def both(bars, dense):
    ours = pd.DataFrame(compute_features(bars), bars.ts, FEATURES)
    return ours, reference(bars, dense).reindex(bars.ts)


@pytest.mark.parametrize("name", [name for name in FEATURES if name not in SHAPE])
def test_feature_is_what_its_definition_says(name, both, bars):
    ours, book = both[0][name].to_numpy(float), both[1][name].to_numpy(float)
    seconds = (bars.ts - bars.ts[0]) // SECOND + 1
    given = seconds >= WARM_S.get(name, 0)
    assert np.isnan(ours[~given]).all()
    np.testing.assert_array_equal(np.isnan(ours[given]), np.isnan(book[given]))
    assert np.isfinite(ours).sum() > 1000
    np.testing.assert_allclose(ours[given], book[given], rtol=1e-4, atol=2e-4)


def test_shape_of_the_bar(both, bars):
    span = (bars.high - bars.low).astype(float)
    share = lambda part: np.where(span > 0, part / np.where(span > 0, span, 1), 0)
    body = np.maximum(bars.open, bars.close), np.minimum(bars.open, bars.close)
    for name, book in zip(SHAPE, (np.sign(bars.close - bars.open), share(abs(bars.close - bars.open)), share(bars.high - body[0]), share(body[1] - bars.low))):
        np.testing.assert_allclose(both[0][name], book, atol=1e-6)


def test_a_young_session_is_not_taken_for_a_calm_one():
    "Constant volume and volatility from the first second on: z-scores near zero and the right volatility as soon as they are given."
    rng = np.random.default_rng(0)
    found = []
    for _ in range(20):
        n = 2000
        c = 10_000 + rng.choice([-1, 1], n).cumsum()
        bars = make_bars(np.datetime64("2024-01-03T14:30", "ns").astype(np.int64) + np.arange(n) * SECOND, c, c, c, c, rng.integers(20, 31, n))
        x = compute_features(bars)
        found.append([x[300, FEATURES.index("volume_z")], x[601, FEATURES.index("rv_600")], x[1801, FEATURES.index("vola_z")]])
    mean = np.mean(found, axis=0)
    assert abs(mean[0]) < .7 and abs(mean[1] - 1) < .01 and abs(mean[2]) < .7, mean


@pytest.mark.parametrize("move,label", [(3, 2), (2, 1), (-2, 1), (-3, 0)])
def test_a_move_of_exactly_the_threshold_counts(move, label):
    "TGT-1: at least 3 ticks is a move, 2 is not, in both directions."
    close = np.array([1000] * 30 + [1000 + move])
    bars = make_bars(np.datetime64("2024-01-03T15:00", "ns").astype(np.int64) + np.arange(31) * SECOND, close, close, close, close, np.ones(31, int))
    assert label_moves(bars).label[0] == label
