"FEA-6, LIV-3: batch = stream = saved, loaded and gone on, bit for bit, on synthetic, real and adversarial bars, with and without the empty seconds."
import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from mesbot.bars import import_bars, load_bars, make_bars, n_bars, n_sessions, take_sessions
from mesbot.core import SECOND
from mesbot.features import FEATURES, FeatureStream, compute_features
from mesbot.synth import synthetic_market

HOUR = 3600
OPEN = int(pd.Timestamp("2024-01-02 18:00", tz="America/New_York").value)  # a session of 23 hours, the next one a day later


def rows_of(bars): return zip(*(column.tolist() for column in bars[:6]))


def streamed(bars, saves=()):
    "Every bar through the stream; after the rows in `saves` it dies, and another goes on from its snapshot."
    stream, out = FeatureStream(bars.symbol), []
    for i, bar in enumerate(rows_of(bars)):
        out.append(stream.update(*bar))
        if i in saves:
            snapshot = stream.snapshot()
            assert len(snapshot) < 8192
            stream = FeatureStream(bars.symbol)
            stream.restore(snapshot)
            assert stream.snapshot() == snapshot
    return np.array(out, np.float32).reshape(-1, len(FEATURES))


def spelled_out(bars):
    "The same bars with a bar for every empty second inside each session: last close, no volume; and which of them traded."
    parts, kept = [], []
    for a, b in zip(bars.sessions[:-1], bars.sessions[1:]):
        ts = np.arange(bars.ts[a], bars.ts[b - 1] + SECOND, SECOND)
        at = np.searchsorted(bars.ts[a:b], ts, side="right") - 1 + a
        there = bars.ts[at] == ts
        parts.append([ts, *(np.where(there, column[at], bars.close[at]) for column in bars[1:5]), np.where(there, bars.volume[at], 0)])
        kept.append(there)
    return make_bars(*(np.concatenate(column) for column in zip(*parts)), bars.symbol), np.concatenate(kept)


def agree(bars, saves):
    batch = compute_features(bars)
    assert batch.tobytes() == streamed(bars, saves).tobytes() == compute_features(bars, threads=1).tobytes() == compute_features(bars, threads=7).tobytes()
    for k in range(n_sessions(bars)):  # begun in the middle of a day with the bars so far
        a, b = bars.sessions[k], bars.sessions[k + 1]
        middle, stream = (a + b) // 2, FeatureStream(bars.symbol)
        if middle == a: continue
        early = make_bars(*(column[:middle] for column in bars[:6]), bars.symbol)
        assert stream.replay(early).tobytes() == batch[middle - 1].tobytes()
        assert stream.update(*(column[middle].item() for column in bars[:6])).tobytes() == batch[middle].tobytes()
    return batch


def test_whole_synthetic_sessions_with_holes():
    bars = synthetic_market(2, seed=8, alpha=.05).bars
    rng = np.random.default_rng(0)
    keep = rng.random(n_bars(bars)) > .3
    keep[n_bars(bars) // 3:n_bars(bars) // 3 + 2000] = False
    thin = make_bars(*(column[keep] for column in bars[:6]))
    assert np.isfinite(agree(thin, set(rng.integers(0, n_bars(thin), 20)))).all(1).mean() > .2


def test_every_second_spelled_out():
    "Bars of no volume for empty seconds change nothing for the bars that traded, nor between batch and stream."
    bars = take_sessions(synthetic_market(1, seed=9).bars, 0, 1)
    full, there = spelled_out(bars)
    assert n_bars(full) > 1.5 * n_bars(bars)
    assert agree(full, {100, 40_000})[there].tobytes() == compute_features(bars).tobytes()


@pytest.mark.parametrize("name,symbol", [("es_1s_20180507.csv.gz", "ES"), ("spy_1s_201310.csv.gz", "SPY")])
def test_real_seconds(shared_data, tmp_path, name, symbol):
    import_bars(shared_data / name, symbol, tmp_path)
    bars = load_bars(symbol, store=tmp_path)
    batch = agree(bars, set(np.random.default_rng(1).integers(0, n_bars(bars), 25)))
    full, there = spelled_out(bars)
    assert agree(full, {7, n_bars(full) // 2})[there].tobytes() == batch.tobytes()


bar = st.tuples(st.sampled_from([1, 1, 1, 2, 59, 60, 61, 299, 3599, 7 * HOUR, 19 * HOUR]),      # seconds since the last bar
                st.sampled_from([0, 0, 1, -1, 3, -40, 25_000, -25_000]),                          # move of the close, ticks
                st.integers(0, 3), st.integers(0, 500), st.sampled_from([0, 1, 7, 3_000_000_000]))  # wicks, volume


@settings(deadline=None, max_examples=60, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(start=st.sampled_from([0, 1, 59, 15 * HOUR + 1800, 22 * HOUR + 3599]), bars=st.lists(bar, min_size=1, max_size=60), save=st.integers(0, 60))
@example(start=0, bars=[(1, 0, 0, 0, 0)], save=0)                                 # one bar in the first second of the session, nothing traded
@example(start=0, bars=[(1, 0, 0, 0, 5)] * 400, save=301)                         # a price that never moves
@example(start=0, bars=[(1, 1, 0, 0, 0)] * 400, save=350)                         # a file without volume
@example(start=22 * HOUR + 3599, bars=[(1, 0, 0, 0, 1), (HOUR + 1, 5, 0, 0, 1)], save=0)   # last second of one session, first of the next
@example(start=0, bars=[(1, 0, 0, 0, 9), (22 * HOUR, 0, 0, 0, 0), (60, 0, 0, 0, 0)], save=1)   # everything has faded
def test_adversarial_bars(start, bars, save):
    "One bar, constant price, huge gaps and moves, no volume, the first and last second of a session."
    ts, close, rows = OPEN + (start - 1) * SECOND, 26_000, []
    for gap, move, up, down, volume in bars:
        ts += gap * SECOND
        if not rows: ts = OPEN + start * SECOND
        into = (ts - OPEN) % (24 * HOUR * SECOND)
        if into >= 23 * HOUR * SECOND: ts += 24 * HOUR * SECOND - into  # the daily break
        if ts >= OPEN + 2 * 24 * HOUR * SECOND: break                   # two sessions are enough
        open, close = close, max(close + move, 600)
        rows.append((ts, open, max(open, close) + up, max(min(open, close) - down, 1), close, volume))
    made = make_bars(*(np.array(column, np.int64) for column in zip(*rows)))
    features = agree(made, {save})
    assert not np.isinf(features).any()
    first = features[made.sessions[:-1]]
    assert np.isnan(first[:, [FEATURES.index(name) for name in ("ret_1", "rsi_14", "ema_9", "flow_25", "rv_600")]]).all()  # every session begins afresh
    shares = features[:, [FEATURES.index(name) for name in ("imb_10", "imb_60", "imb_volume")]]
    assert not (np.abs(shares) > 1 + 1e-6).any()
    for name, most in (("rsi_14", 100), ("stoch_k", 100), ("pos_60", 1), ("pos_day", 1), ("body", 1)):
        column = features[:, FEATURES.index(name)]
        assert not ((column < 0) | (column > most)).any(), name


def test_a_snapshot_of_other_features_is_refused(monkeypatch):
    "A stream whose features changed between saving and loading does not go on from what they were."
    import mesbot.features as room
    stream = FeatureStream()
    stream.update(OPEN, 10, 10, 10, 10, 1)
    snapshot = stream.snapshot()
    monkeypatch.setattr(room, "feature_hash", lambda: "0" * 12)
    with pytest.raises(ValueError, match="snapshot must be whole and of features 000000000000"): FeatureStream().restore(snapshot)
