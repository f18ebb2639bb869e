"The promises of the library: nothing sees the future, one code for batch and stream, same seed same bytes."
import json

import numpy as np
import pandas as pd
import pytest

from mesbot.bars import Bars, cut_bars, import_bars, load_bars, make_bars, n_bars, take_sessions
from mesbot.config import load_config
from mesbot.core import SECOND
from mesbot.features import FEATURES, FeatureStream, compute_features
from mesbot.folds import rolling_folds
from mesbot.labels import label_moves
from mesbot.predictors import RsiRule
from mesbot.sim import backtest
from mesbot.synth import known_signal, synthetic_market
from mesbot.fold_run import run_fold
from mesbot.study import prepare
from mesbot.walkforward import walk_forward


@pytest.fixture(scope="module")
def market(): return synthetic_market(3, seed=21, alpha=.05)


def thinned(bars: Bars, seed: int) -> Bars:
    "The same bars with holes: single seconds, minutes and one half hour are missing."
    rng = np.random.default_rng(seed)
    keep = rng.random(n_bars(bars)) > .3
    for start in rng.integers(0, n_bars(bars) - 200, 20): keep[start:start + 120] = False
    keep[n_bars(bars) // 3:n_bars(bars) // 3 + 900] = False
    return make_bars(*(column[keep] for column in bars[:6]), bars.symbol)


def streamed(bars):
    stream = FeatureStream(bars.symbol)
    return np.array([stream.update(*bar) for bar in zip(*(column.tolist() for column in bars[:6]))])


def real(shared_data, tmp_path, name, symbol):
    import_bars(shared_data / name, symbol, tmp_path)
    return load_bars(symbol, store=tmp_path)


# --- FEA-6: batch = stream, bit for bit ---

def test_batch_is_stream_over_sessions_with_gaps(market):
    "FEA-6 on a synthetic market with holes, over a session change."
    bars = thinned(market.bars, 1)
    batch, stream = compute_features(bars), streamed(bars)
    assert batch.tobytes() == stream.tobytes()
    assert np.isfinite(batch).all(1).mean() > .2  # and most of it is warm somewhere


@pytest.mark.parametrize("name,symbol", [("es_1s_20180507.csv.gz", "ES"), ("spy_1s_201310.csv.gz", "SPY")])
def test_batch_is_stream_on_real_bars(shared_data, tmp_path, name, symbol):
    "FEA-6 on the real seconds."
    bars = real(shared_data, tmp_path, name, symbol)
    assert compute_features(bars).tobytes() == streamed(bars).tobytes()


def test_the_kernels_say_what_their_python_says(market):
    "The compiled session loop against the plain Python of its parts, on the first bars of a session with gaps."
    from mesbot import features as F
    from mesbot.bars import session_info
    bars = cut_bars(thinned(take_sessions(market.bars, 0, 1), 2), 400)
    state, rows = F.new_feature_state(session_info(bars)[0]), np.zeros(n_bars(bars), F.row_type(FEATURES))
    F.session_nb.py_func(state, *bars[:6], rows)
    assert rows.tobytes() == compute_features(bars).tobytes()


def test_time_means_seconds(market):
    "A file that spells out the empty seconds gives the same features as one that leaves them out."
    bars = cut_bars(take_sessions(market.bars, 0, 1), 2000)
    full = np.arange(bars.ts[0], bars.ts[-1] + SECOND, SECOND)
    at = np.searchsorted(bars.ts, full, side="right") - 1
    traded = bars.ts[at] == full
    filled = make_bars(full, *(np.where(traded, column[at], bars.close[at]) for column in bars[1:5]), np.where(traded, bars.volume[at], 0))
    np.testing.assert_array_equal(compute_features(filled)[traded], compute_features(bars))


def test_history_before_the_session_changes_nothing(market):
    "State starts afresh at each open: a restart replays one session."
    whole, last = compute_features(market.bars), compute_features(take_sessions(market.bars, 2, 3))
    np.testing.assert_array_equal(whole[market.bars.sessions[2]:], last)


# --- Nothing sees the future ---

def cuts(bars, count=6):
    rng = np.random.default_rng(3)
    inside = rng.integers(n_bars(bars) // 10, n_bars(bars), count)
    return sorted({*inside.tolist(), int(bars.sessions[1]), int(bars.sessions[1]) + 1})


def test_cutting_the_future_changes_no_feature(market):
    bars = thinned(market.bars, 4)
    whole = compute_features(bars)
    for rows in cuts(bars): np.testing.assert_array_equal(compute_features(cut_bars(bars, rows)), whole[:rows])


def test_cutting_the_future_changes_no_known_label(market):
    "A label known before the cut stays; one that is not yet known is UNKNOWN, never a guess."
    bars = thinned(market.bars, 5)
    whole = label_moves(bars)
    for rows in cuts(bars):
        cut, now = label_moves(cut_bars(bars, rows)), bars.ts[rows - 1] + SECOND
        known = whole.known_at[:rows] <= now
        for a, b in zip(cut, whole): np.testing.assert_array_equal(a[known], b[:rows][known])
        assert (cut.label[~known] == -1).all() and np.isnan(cut.move[~known]).all()


def test_cutting_the_future_changes_no_trade_before_the_cut(market):
    bars = thinned(market.bars, 6)
    config = load_config(risk=dict(day_loss_usd=1e5, day_drawdown_usd=1e5, total_loss_usd=1e5, review_drawdown_usd=1e5, min_balance_usd=0, start_balance_usd=1e5,
                                   trade_risk_usd=1e5))
    probability = RsiRule().predict(compute_features(bars)).probability
    whole = backtest(bars, probability, config)
    assert len(whole.trades) > 300
    for rows in cuts(bars):
        cut = backtest(cut_bars(bars, rows), probability[:rows], config)
        done = whole.trades[whole.trades["exit_ns"] <= bars.ts[rows - 1]]
        pd.testing.assert_frame_equal(cut.trades.iloc[:len(done)], done)
        assert (cut.trades["reason_out"].iloc[len(done):] == "data_end").all()
        np.testing.assert_array_equal(cut.equity[:rows - 1], whole.equity[:rows - 1])


def test_a_decision_never_fills_on_its_own_bar(market):
    probability = RsiRule().predict(compute_features(market.bars)).probability
    trades = backtest(market.bars, probability).trades
    sure = (probability[:, [0, 2]] >= .6).any(1)
    decided = np.searchsorted(market.bars.ts, trades["entry_ns"]) - 1
    assert len(trades) and sure[decided].all()


def test_training_knows_nothing_of_the_test(market):
    "Scrambling every bar from the last test on changes no trade and no model of the fold before it."
    bars = synthetic_market(7, seed=10, alpha=.1).bars
    config = load_config(folds=dict(train_sessions=3, calibration_sessions=1, embargo_sessions=0, test_sessions=2), models=dict(predictors=["logistic"]))
    first = bars.sessions[5]
    noise = np.random.default_rng(0).integers(-40, 40, n_bars(bars) - first).astype(np.int32)
    moved = [np.concatenate([column[:first], column[first:] + noise]) for column in bars[1:5]]
    scrambled = bars._replace(open=moved[0], high=moved[1], low=moved[2], close=moved[3])
    one, other = walk_forward(bars, config), walk_forward(scrambled, config)
    fitted = [run_fold(prepare(b, config), rolling_folds(7, config.folds)[0], "logistic").predictor for b in (bars, scrambled)]
    np.testing.assert_array_equal(fitted[0].weights, fitted[1].weights)
    assert fitted[0].calibration.facts() == fitted[1].calibration.facts()
    a, b = (w.trades[w.trades["fold"] == 1].drop(columns="fold") for w in (one, other))
    assert len(a) and not one.trades.equals(other.trades)
    pd.testing.assert_frame_equal(a, b)


# --- Same seed, same bytes ---

def test_same_seed_same_bytes():
    "Market, features, models, trades and the whole table of folds."
    config = load_config(folds=dict(train_sessions=3, calibration_sessions=1, embargo_sessions=0, test_sessions=2), networks=dict(epochs=2))
    def run(seed):
        market = synthetic_market(5, seed=seed, alpha=.1)
        return walk_forward(market.bars, config, planted=known_signal(market))
    one, two, other = run(5), run(5), run(6)
    for name in ("trades", "folds", "daily", "equity", "skill"): pd.testing.assert_frame_equal(getattr(one, name), getattr(two, name), check_exact=True)
    for walk in (one, two):
        for numbers in walk.summary["predictors"].values(): assert numbers.pop("latency_ms") != 0  # measured, not computed
    assert json.dumps(one.summary, default=str) == json.dumps(two.summary, default=str)
    assert not one.trades.equals(other.trades)


def test_the_stream_refuses_what_the_batch_refuses():
    "A stamp inside the holiday halt, in the break, on half a second, or out of order."
    stream = FeatureStream()
    at = lambda clock: int(pd.Timestamp(f"2024-01-15 {clock}", tz="America/New_York").value)
    stream.update(at("12:59:58"), 1000, 1000, 1000, 1000, 1)
    for wrong, says in ((at("14:00"), "outside trading hours"), (at("17:30"), "outside trading hours"), (at("12:59:59") + SECOND // 2, "whole second"), (at("12:59:58"), "must be after")):
        with pytest.raises(ValueError, match=says): stream.update(wrong, 1000, 1000, 1000, 1000, 1)
