"Every feature against an independent reading of its definition: pandas on dense seconds (FEA-1, FEA-2, FEA-3, FEA-4)."
import numpy as np
import pandas as pd
import pytest

from mesbot.bars import make_bars, n_bars, session_info
from mesbot.core import SECOND
from mesbot.features import FEATURES, WARMUP_S, compute_features
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


def smooth(x, length, usual=None):
    "Exponential average whose first `length` values are averaged evenly; `usual` share of the newest later on, 2 / (length + 1) when None."
    usual, out, mean = usual or 2 / (length + 1), np.empty(len(x)), 0.0
    for i, value in enumerate(x):
        mean = np.mean(x[:i + 1]) if i < length else mean + usual * (value - mean)
        out[i] = mean
    return pd.Series(out, getattr(x, "index", None))


def running_z(x, length):
    "z of each value against mean and variance of those before it, evenly weighted at first, exponentially after `length`."
    out, mean, var = np.zeros(len(x)), x.iloc[0], 0.0
    for i, value in enumerate(x, 1):
        gap, weight = value - mean, 1 / min(i, length)
        if var > 0: out[i - 1] = gap / var**.5
        mean, var = mean + weight * gap, var + weight * (gap * gap - var)
    return pd.Series(out, x.index)


def reference(bars, d):
    "All features by the book, one row a second."
    c, move, day = d["close"], d["close"].diff().fillna(0.0), session_info(bars)[0]
    n = np.arange(1, len(c) + 1)
    f = {f"ret_{k}": c - c.shift(k) for k in (1, 5, 10, 30, 60)}
    low, high = d["low"].rolling(14).min(), d["high"].rolling(14).max()
    f["stoch_k"] = (100 * (c - low) / (high - low)).where(high > low, 50.0).where(low.notna())
    f["stoch_d"] = f["stoch_k"].rolling(3).mean()
    windows = np.lib.stride_tricks.sliding_window_view(c.to_numpy(), 20)  # pandas' rolling std drifts
    mean, sd = (pd.Series(np.r_[np.full(19, np.nan), of(windows, axis=1)], c.index) for of in (np.mean, np.std))
    f["bb_pos"], f["bb_width"] = ((c - mean) / sd).where(sd > 1e-9, 0.0).where(sd.notna()), 4 * sd
    for name, top, bottom in (("60", d["high"].rolling(60).max(), d["low"].rolling(60).min()), ("300", d["high"].rolling(300).max(), d["low"].rolling(300).min()),
                              ("day", d["high"].cummax(), d["low"].cummin())):
        f[f"range_{name}"] = top - bottom
        f[f"pos_{name}"] = ((c - bottom) / (top - bottom)).where(top > bottom, .5).where(top.notna())
    for length in (9, 21, 50, 200): f[f"ema_{length}"] = c - smooth(c, length)
    gain, loss = (smooth(side.clip(lower=0).iloc[1:], 14, 1 / 14).reindex(c.index) for side in (move, -move))
    f["rsi_14"] = (100 * gain / (gain + loss)).fillna(50.0)
    slow, fast = smooth(c, 26), smooth(c.iloc[14:], 12).reindex(c.index)
    f["macd"] = fast - slow
    f["macd_signal"] = smooth(f["macd"].iloc[25:], 9).reindex(c.index)
    reach = (np.maximum(d["high"], c.shift()) - np.minimum(d["low"], c.shift())).iloc[1:]
    f["atr_14"] = smooth(reach, 14, 1 / 14).reindex(c.index)
    rth = d.index >= day["rth_open"]
    price, volume = (d["high"] + d["low"] + c) / 3 - c.iloc[0], d["volume"].where(rth, 0.0)
    vwap = ((price * volume).cumsum() / volume.cumsum()).where(rth)
    spread = ((price**2 * volume).cumsum() / volume.cumsum() - vwap**2).clip(lower=0)**.5
    f["vwap_dist"], f["vwap_slope"], f["vwap_sd"] = c - c.iloc[0] - vwap, vwap - vwap.shift(60), spread
    f["vwap_z"] = (f["vwap_dist"] / spread).where(spread > 0, 0.0).where(vwap.notna())
    known = pd.DatetimeIndex(d.index + SECOND, tz="UTC").tz_convert("America/New_York")
    clock = pd.DatetimeIndex(d.index, tz="UTC").tz_convert("America/New_York")
    f["min_to_close"] = ((day["rth_close"] - d.index - SECOND) / 60e9).to_series(d.index).clip(0, 390)
    angle = 2 * np.pi * (clock.hour * 60 + clock.minute) / 1440
    f["tod_sin"], f["tod_cos"], f["weekday"] = np.sin(angle), np.cos(angle), float(clock[0].weekday())
    hour = clock.hour + clock.minute / 60
    f["asia"], f["europe"] = ((hour >= 18) | (hour < 3)).astype(float), ((hour >= 3) & (hour < 9.5)).astype(float)
    f["rth"] = ((hour >= 9.5) & (hour < 16)).astype(float)
    for name, minutes in (("m1", 1), ("m5", 5), ("m15", 15)):
        done = c[(known.minute % minutes == 0) & (known.second == 0)]  # closes at the moment their last second is over
        trend = smooth(done, 3) - smooth(done, 8)
        f[f"{name}_trend"] = trend.where(np.arange(len(done)) >= 7).reindex(d.index).ffill()
        f[f"{name}_mom"] = (done - done.shift(3)).reindex(d.index).ffill()
    x = np.sign(move) * np.sqrt(d["volume"])
    flow = pd.Series(_sum_with_memory(x.to_numpy(), np.exp(-1 / 25)), x.index)
    size = (flow**2).ewm(alpha=1 - np.exp(-1 / 900), adjust=True).mean()  # a weighted mean of all seconds so far
    f["flow_25"] = (flow / np.sqrt(size)).clip(-4, 4)
    signed = np.sign(move).replace(0.0, np.nan).ffill().fillna(0.0) * d["volume"]  # tick rule
    for k in (10, 60):
        f[f"imb_{k}"] = _sum_with_memory(signed.to_numpy(), 1 - 1 / k) / _sum_with_memory(d["volume"].to_numpy(), 1 - 1 / k)
    f["imb_volume"] = _volume_clock(signed.to_numpy(), d["volume"].to_numpy())
    last = pd.Series(np.where(d["traded"], n, np.nan)).shift().ffill().to_numpy()
    f["since_trade"] = np.minimum(n - last, 600)
    f["volume_z"] = running_z(np.sqrt(d["volume"]), 300)
    rv = {k: np.sqrt(smooth((move**2).iloc[1:], k, 1 / k).reindex(d.index)) for k in (5, 30, 120, 600)}
    for k, value in rv.items(): f[f"rv_{k}"] = value
    f["vola_z"] = running_z(rv[30].iloc[60:], 1800).reindex(d.index)
    f["regime"] = 1.0 + (f["vola_z"] > 1).astype(float) - (f["vola_z"] < -1).astype(float)
    return pd.DataFrame({name: np.asarray(column, float) for name, column in f.items()}, index=d.index)


def _volume_clock(signed, volume):
    "Average whose memory is a usual minute of contracts: each second's share is its volume in (a minute + its volume)."
    out, mean, total = np.zeros(len(volume)), 0.0, 0.0
    for i, (sold, v) in enumerate(zip(signed, volume)):
        total += v
        minute = 60 * total / (i + 1)
        if v: mean = (minute * mean + sold) / (minute + v)
        out[i] = mean
    return out


def _sum_with_memory(x, keep):
    out, total = np.empty(len(x)), 0.0
    for i, value in enumerate(x):
        total = keep * total + value
        out[i] = total
    return out


ANCHORED = ("vwap_", "m1_", "m5_", "m15_")  # warm-up counts from 09:30, or is at most what the table says: the reference has their NaN
SHAPE = ("direction", "body", "upper_wick", "lower_wick")


@pytest.fixture(scope="module")
def both(bars, dense):
    ours = pd.DataFrame(compute_features(bars), bars.ts, FEATURES)
    return ours, reference(bars, dense).reindex(bars.ts)


@pytest.mark.parametrize("name", [name for name in FEATURES if name not in SHAPE])
def test_feature_is_what_its_definition_says(name, both, bars):
    ours, book = both[0][name].to_numpy(float), both[1][name].to_numpy(float)
    seconds = (bars.ts - bars.ts[0]) // SECOND + 1
    given = seconds >= (0 if name.startswith(ANCHORED) else WARMUP_S[name])
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


def test_the_night_changes_hands_to_the_second():
    "FEA-1: Asia ends and Europe begins with the bar of 03:00:00; Europe ends and regular hours begin with the bar of 09:30:00; regular hours end with that of 16:00:00."
    at = lambda clock: pd.Timestamp(f"2024-01-03 {clock}", tz="America/New_York").value
    clocks = ("02:59:59", "03:00:00", "09:29:59", "09:30:00", "15:59:59", "16:00:00")
    bars = make_bars(np.array([at(clock) for clock in clocks]), *[np.full(6, 1000)] * 4, np.ones(6, int))
    found = compute_features(bars)[:, [FEATURES.index(name) for name in ("asia", "europe", "rth")]]
    np.testing.assert_array_equal(found, [[1, 0, 0], [0, 1, 0], [0, 1, 0], [0, 0, 1], [0, 0, 1], [0, 0, 0]])


def test_a_session_that_begins_at_midnight_has_a_time_of_day():
    "FEA-1: data whose first bar lies in the minute of midnight stand at the top of the circle, not in its middle."
    start = pd.Timestamp("2024-01-03 00:00:30", tz="America/New_York").value
    found = compute_features(make_bars(start + np.arange(2) * SECOND, *[np.full(2, 1000)] * 4, np.ones(2, int)))
    np.testing.assert_allclose(found[:, [FEATURES.index(name) for name in ("tod_sin", "tod_cos")]], [[0, 1], [0, 1]], atol=1e-7)


def test_a_file_without_volume_knows_when_it_traded():
    "FEA-1: with no volume at all a move or a bar with a range is a trade, and a bar that neither moved nor had a range is none."
    close = np.array([1000, 1000, 1001, 1001, 1001, 1001, 1001])
    high = close + np.array([0, 0, 0, 0, 1, 0, 0])
    bars = make_bars(int(np.datetime64("2024-01-03T15:00", "ns").astype(np.int64)) + np.arange(7) * SECOND, close, high, close, close, np.zeros(7, int))
    np.testing.assert_array_equal(compute_features(bars)[1:, FEATURES.index("since_trade")], [2, 3, 1, 2, 1, 2])


def test_the_hash_covers_every_room_that_makes_features(tmp_path, monkeypatch):
    "FEA-4: one comment more in any room whose code the step runs is another hash; one in a room behind them is not."
    import shutil
    from pathlib import Path

    import mesbot
    import mesbot.features as room
    copy = tmp_path / "mesbot"
    shutil.copytree(mesbot.__path__[0], copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(mesbot, "__path__", [str(copy)])
    first = room.feature_hash()
    for name in ("core", "smoothing", "windows", "averages", "daytime", "minutes", "flow", "volatility", "features", "gates"):
        source = Path(copy, f"{name}.py")
        kept = source.read_bytes()
        source.write_bytes(kept + b"# one more line\n")
        assert (room.feature_hash() == first) is (name == "gates"), name
        source.write_bytes(kept)


def test_vwap_begins_with_the_bar_of_the_open():
    "FEA-2: the second from 09:30:00 on counts, the one before does not; the slope comes with the 61st second."
    start = pd.Timestamp("2024-01-03 09:29:59", tz="America/New_York").value
    close = 1000 + np.arange(63)
    found = compute_features(make_bars(start + np.arange(63) * SECOND, close, close, close, close, np.ones(63, int)))
    dist, slope = (found[:, FEATURES.index(name)] for name in ("vwap_dist", "vwap_slope"))
    np.testing.assert_allclose(dist[:4], [np.nan, 0, .5, 1])
    assert np.isnan(slope[:61]).all() and np.isfinite(slope[61:]).all()


def test_a_small_number_divides_like_any_other():
    "Only what is nothing in float32 counts as nothing: a calm market has small deviations."
    from mesbot.smoothing import quotient
    assert quotient(1.0, 1e-9) == np.float32(1) / np.float32(1e-9)
