"""Labels against independent readings of their definitions (TGT-1, TGT-3), against the simulator itself (TGT-2), and their overlap.

The reference for a barrier label is a back-test of a model that is sure at one bar only, with account limits that nobody can reach."""
import numpy as np
import pandas as pd
import pytest

from mesbot.barriers import barrier_labels
from mesbot.bars import cut_bars, import_bars, load_bars, make_bars, n_bars, n_sessions, resample_bars, take_sessions
from mesbot.calendar import NY
from mesbot.config import load_config
from mesbot.core import MES, REASONS, SECOND, Reason
from mesbot.costs import cost_rules, round_trip_usd
from mesbot.labels import NEVER, class_shares, label_moves, shares_by_hour
from mesbot.sim import backtest
from mesbot.synth import synthetic_market
from mesbot.targets import regression_targets
from mesbot.uniqueness import effective_labels, label_overlap

LOOSE = dict(day_loss_usd=1e6, day_drawdown_usd=1e6, trade_risk_usd=1e6, total_loss_usd=1e6, min_balance_usd=0, review_drawdown_usd=1e6)


def ns(clock, date="2024-01-03"): return pd.Timestamp(f"{date} {clock}", tz=NY).value


def wild_bars(seed, days=(("2024-01-12", "15:40:00"), ("2024-01-16", "08:50:00"), ("2024-11-29", "12:00:00"))):
    "Three short sessions with holes of up to ten minutes, 75 minutes each, jumps and wide bars; a joined holiday and a short day among them."
    rng = np.random.default_rng(seed)
    seconds = [np.cumsum(rng.choice([1, 2, 5, 40, 200, 600], 350, p=[.6, .2, .13, .05, .015, .005])) for _ in days]
    ts = np.concatenate([ns(start, date) + own[own < 4500] * SECOND for (date, start), own in zip(days, seconds)])
    n = len(ts)
    close = 10_000 + rng.integers(-3, 4, n).cumsum() + (rng.random(n) < .02) * rng.integers(-40, 40, n)
    open = close + rng.integers(-2, 3, n)
    wide = np.where(rng.random(n) < .03, 15, 3)
    return make_bars(ts, open, np.maximum(open, close) + rng.integers(0, wide + 1), np.minimum(open, close) - rng.integers(0, wide + 1), close, np.ones(n, int))


def sure_once(bars, i, side, config):
    "The one trade of a model that is sure at bar `i` and says nothing after; None when there is none or its data end."
    says = np.full((n_bars(bars), 3), [.05, .9, .05])
    says[i] = (.02, .03, .95) if side > 0 else (.95, .03, .02)
    trades = backtest(bars, says, config).trades
    if not len(trades) or trades.iloc[0].reason_out == "data_end": return None
    assert len(trades) == 1 and trades.iloc[0].contracts == 1 and trades.iloc[0].side == ("long" if side > 0 else "short")
    return trades.iloc[0]


@pytest.fixture(scope="module")
def market(): return synthetic_market(6, seed=17).bars


@pytest.fixture(scope="module")
def spy(shared_data, tmp_path_factory):
    "The real week of SPY."
    store = tmp_path_factory.mktemp("store")
    import_bars(shared_data / "spy_1s_201310.csv.gz", "SPY", store)
    return load_bars("SPY", store=store)


# TGT-1

@pytest.mark.parametrize("move,label", [(3, 2), (2, 1), (-2, 1), (-3, 0)])
def test_a_move_of_exactly_the_threshold_counts(move, label):
    "TGT-1: at least 3 ticks is a move, 2 is not, in both directions."
    close = np.array([1000] * 30 + [1000 + move])
    bars = make_bars(ns("10:00:00") + np.arange(31) * SECOND, close, close, close, close, np.ones(31, int))
    assert label_moves(bars).label[0] == label


@pytest.mark.parametrize("horizon", [5, 10, 30, 60])
@pytest.mark.parametrize("threshold", [2, 3, 4])
def test_a_label_is_the_move_of_dense_seconds(horizon, threshold):
    "TGT-1: closes carried over empty seconds, `horizon` seconds ahead; known with the first bar at or after that; never over the end of a session."
    bars = wild_bars(horizon)
    found = label_moves(bars, horizon, threshold)
    for a, b in zip(bars.sessions[:-1], bars.sessions[1:]):
        dense = pd.Series(bars.close[a:b], bars.ts[a:b] // SECOND)
        dense = dense.reindex(np.arange(dense.index[0], dense.index[-1] + 1)).ffill()
        move = (dense.shift(-horizon) - dense).loc[bars.ts[a:b] // SECOND].to_numpy()
        np.testing.assert_array_equal(found.move[a:b], move.astype(np.float32))
        np.testing.assert_array_equal(found.label[a:b], np.where(np.isnan(move), -1, np.where(move >= threshold, 2, np.where(move <= -threshold, 0, 1))))
        settled = [next((t + SECOND for t in bars.ts[a:b] if t >= start + horizon * SECOND), NEVER) for start in bars.ts[a:b]]
        np.testing.assert_array_equal(found.known_at[a:b], settled)
    assert (found.label >= 0).sum() > 500 and n_sessions(bars) == 3


def test_class_balance_counts_every_known_label_once(market):
    "TGT-1: the balance is shown, whole and by the hour, for labels of any kind."
    labels = label_moves(market)
    counts = pd.Series(labels.label[labels.label >= 0]).value_counts(normalize=True)
    assert class_shares(labels) == pytest.approx({"DOWN": counts[0], "FLAT": counts[1], "UP": counts[2]})
    hours = shares_by_hour(market, labels)
    assert hours["known"].sum() == (labels.label >= 0).sum() and list(hours.index) == [h % 24 for h in range(18, 41)]
    at = pd.DatetimeIndex(market.ts[labels.label >= 0], tz="UTC").tz_convert("America/New_York").hour == 10
    assert hours.loc[10, "UP"] == pytest.approx((labels.label[labels.label >= 0][at] == 2).mean())


@pytest.mark.parametrize("make", [lambda bars, **kw: label_moves(bars, **kw), lambda bars, **kw: regression_targets(bars, **kw)])
def test_a_horizon_that_makes_no_sense_is_refused(make, market):
    for bad in (0, -1, 1.5, 86_401, "30", None, True, float("nan")):
        with pytest.raises(ValueError, match="horizon_s must be a whole number from 1 to 86400, got "): make(market, horizon_s=bad)
    with pytest.raises(ValueError, match="60 s"): make(resample_bars(market, 60))


def test_a_threshold_that_makes_no_sense_is_refused(market):
    for bad in (0, -3, 2.5, 1001, None):
        with pytest.raises(ValueError, match="threshold_ticks must be a whole number from 1 to 1000, got "): label_moves(market, threshold_ticks=bad)
    for bad in (0, .5, None):
        with pytest.raises(ValueError, match="every_s must be a whole number from 1 to 86400, got "): barrier_labels(market, every_s=bad)
    with pytest.raises(ValueError, match="60 s"): barrier_labels(resample_bars(market, 60))


@pytest.mark.parametrize("make", [label_moves, regression_targets, barrier_labels])
def test_sessions_can_be_made_alone_on_any_number_of_threads(make, market):
    "Same bytes for 1, 2 and 5 threads, and for one session at a time; nothing at all makes nothing."
    whole = make(market, threads=2)
    for threads in (1, 5):
        for a, b in zip(whole, make(market, threads=threads)): np.testing.assert_array_equal(a, b)
    parts = [make(take_sessions(market, k, k + 1), threads=1) for k in range(n_sessions(market))]
    for k, column in enumerate(whole): np.testing.assert_array_equal(column, np.concatenate([part[k] for part in parts]))
    assert [len(column) for column in make(cut_bars(market, 0))] == [0] * len(whole)
    one = make(cut_bars(market, 1))
    assert one.known_at.tolist() == [NEVER] and getattr(one, "label", [-1])[0] == -1


# TGT-3

@pytest.mark.parametrize("seed,horizon", [(0, 1), (1, 5), (2, 30), (3, 60), (4, 300)])
def test_targets_are_what_their_definition_says(seed, horizon):
    "TGT-3: volatility of dense seconds; the best limit is one tick inside the extreme, at the first bar that traded through it."
    bars = wild_bars(seed)
    found, labels = regression_targets(bars, horizon), label_moves(bars, horizon)
    np.testing.assert_array_equal(found.known_at, labels.known_at)
    for a, b in zip(bars.sessions[:-1], bars.sessions[1:]):
        second = bars.ts[a:b] // SECOND
        dense = pd.DataFrame({"close": bars.close[a:b], "high": bars.high[a:b], "low": bars.low[a:b]}, second).reindex(np.arange(second[0], second[-1] + 1))
        square = dense["close"].ffill().diff().fillna(0)**2
        for i in np.r_[a:b:7, b - 3:b]:
            now = bars.ts[i] // SECOND
            if now + horizon > second[-1]:
                assert all(np.isnan(column[i]) for column in found[1:]) and found.known_at[i] == NEVER
                continue
            ahead = dense.loc[now + 1:now + horizon]
            assert found.volatility[i] == pytest.approx((square.loc[now + 1:now + horizon].sum() / horizon)**.5)
            if ahead["high"].isna().all(): assert np.isnan(found.best_long[i]) and np.isnan(found.best_short_s[i])
            else:
                assert found.best_long[i] == ahead["high"].max() - 1 - bars.close[i] and found.best_long_s[i] == ahead["high"].idxmax() - now
                assert found.best_short[i] == bars.close[i] - ahead["low"].min() - 1 and found.best_short_s[i] == ahead["low"].idxmin() - now


def test_the_best_exit_is_the_farthest_target_that_the_simulator_fills():
    "TGT-3: a target there is filled within the horizon, one tick farther is not. No slippage, and a stop out of reach."
    bars, seen = wild_bars(5), 0
    found, wide = regression_targets(bars, 60), dict(stop_ticks=1000, max_hold_s=86_400)
    first = int(np.searchsorted(bars.ts, ns("09:35:00", "2024-01-16")))
    for i in range(first, first + 80):
        if not np.isfinite(found.best_long[i]): continue
        best = int(found.best_long[i] + bars.close[i] - bars.open[i + 1])    # counted from the entry, which is at the next open
        if best < 1: continue
        for extra in (0, 1):
            config = load_config(costs=dict(slippage="fixed", normal_ticks=0), risk=LOOSE, stops=wide | dict(target_ticks=best + extra))
            trade = sure_once(bars, i, 1, config)
            filled = trade is not None and trade.reason_out == "target" and trade.exit_ns <= bars.ts[i] + 60 * SECOND
            assert filled == (extra == 0)
            if not extra: assert trade.exit_ns == bars.ts[i] + int(found.best_long_s[i]) * SECOND
        seen += 1
    assert seen > 20


@pytest.mark.parametrize("seed", range(4))
def test_cutting_the_future_changes_no_known_label_or_target(seed):
    "What is known before a cut stays; what is not yet known is unknown, never a guess."
    bars, rng = wild_bars(seed), np.random.default_rng(seed)
    config = load_config(trader=dict(hours="ALL"))
    for make in (lambda b: label_moves(b, 20), lambda b: regression_targets(b, 20), lambda b: barrier_labels(b, config)):
        whole = make(bars)
        for rows in rng.integers(1, n_bars(bars), 12):
            cut, known = make(cut_bars(bars, int(rows))), whole.known_at[:rows] <= bars.ts[rows - 1] + SECOND
            for name in whole._fields:
                column, short = getattr(whole, name)[:rows], getattr(cut, name)
                if "reason" in name:
                    np.testing.assert_array_equal(short[known], column[known])
                    assert np.isin(short[~known], [Reason.NONE, Reason.END_OF_DAY, Reason.OUTSIDE_HOURS, Reason.UNKNOWN_DAY]).all()
                else:
                    nothing = {"label": -1, "known_at": NEVER}.get(name, np.nan)
                    np.testing.assert_array_equal(short, np.where(known, column, np.array(nothing, column.dtype)))


# TGT-2

def compare(bars, rows, config):
    "Barrier labels of `rows` against the simulator; how many of them are known."
    found, known = barrier_labels(bars, config), 0
    for i in rows:
        long, short = (sure_once(bars, i, side, config) for side in (1, -1))
        if long is None or short is None:
            assert found.label[i] == -1 and found.known_at[i] == NEVER and np.isnan(found.long_usd[i]) and np.isnan(found.short_usd[i])
            continue
        known += 1
        for trade, usd, reason in ((long, found.long_usd[i], found.long_reason[i]), (short, found.short_usd[i], found.short_reason[i])):
            assert usd == pytest.approx(trade.net_usd, abs=1e-3) and REASONS[reason] == trade.reason_out, (i, trade)
        over = max(long.exit_ns, short.exit_ns)
        assert bars.ts[np.searchsorted(bars.ts, over)] + SECOND == found.known_at[i]     # the bar of the fill, or the first one after the flat time
        better = 2 if long.net_usd > max(short.net_usd, 0) else (0 if short.net_usd > max(long.net_usd, 0) else 1)
        if not (long.net_usd == short.net_usd > 0): assert found.label[i] == better
        elif long.exit_ns != short.exit_ns: assert found.label[i] == (2 if long.exit_ns < short.exit_ns else 0)
        else: assert found.label[i] == 1
    return known


@pytest.mark.parametrize("seed", range(24))
def test_a_barrier_label_is_the_trade_of_the_simulator(seed):
    "TGT-2: random bars with holes and jumps, random rules: same net, reason and end as a back-test that is sure at this bar only."
    rng = np.random.default_rng([seed, 2])
    preset = ("default", "topstepx-2026")[seed % 2]
    config = load_config(preset=preset, risk=LOOSE, costs=dict(slippage=("fixed", "liquidity")[rng.integers(2)], volatile_atr_ticks=float(rng.choice([2, 8]))),
                         trader=dict(hours=("RTH", "ETH", "ALL")[seed % 3], latency_s=float(rng.choice([0, 1, 2.5])), entry_valid_s=float(rng.choice([5, 300]))),
                         stops=dict(stop_ticks=int(rng.choice([2, 8, 30])), target_ticks=int(rng.choice([2, 12, 60])), trail_ticks=int(rng.choice([0, 0, 4])),
                                    max_hold_s=int(rng.choice([10, 60, 600, 86_400])), tighten_share=float(rng.choice([0, .25, .9]))))
    bars = wild_bars(seed)
    known = compare(bars, rng.integers(0, n_bars(bars), 25), config)
    assert known >= 1


def test_a_barrier_label_on_the_synthetic_market_with_holes(market):
    session = take_sessions(market, 2, 3)
    kept = np.random.default_rng(5).random(n_bars(session)) > .3
    bars = make_bars(*(column[kept] for column in session[:6]))
    opened = np.searchsorted(bars.ts, ns("09:30:00", "2024-01-04"))
    rows = np.r_[np.random.default_rng(6).integers(opened - 5, n_bars(bars), 25), opened - 1, opened, n_bars(bars) - 1]
    assert compare(bars, rows, load_config()) > 10          # with the limits of the default account too: one trade reaches none of them


@pytest.mark.parametrize("changes", [{}, dict(stops=dict(trail_ticks=3)), dict(trader=dict(latency_s=1, hours="ALL")), dict(preset="topstepx-2026")], ids=["default", "trail", "late, all hours", "topstepx"])
def test_a_barrier_label_on_a_real_week(spy, changes):
    "TGT-2 on SPY: 20 bars of every session."
    config, known = load_config(risk=LOOSE, **changes), 0
    for k in range(n_sessions(spy)):
        bars = take_sessions(spy, k, k + 1)
        known += compare(bars, np.random.default_rng(k).integers(0, n_bars(bars), 20), config)
    assert known >= 40


@pytest.mark.parametrize("hours", ["RTH", "ALL"])
@pytest.mark.parametrize("quiet_end", [False, True])
def test_a_barrier_label_at_the_edges_of_the_day(hours, quiet_end):
    "TGT-2: a bar of 09:29:59 may decide, one of 15:59:59 not; out at 16:25, or by 16:30 at the worse price when the next print comes at 16:31."
    runs = [("09:29:56", 8), ("15:59:56", 8), ("16:14:56", 8)] + ([] if quiet_end else [("16:24:57", 8)]) + [("16:31:00", 3)]
    ts = np.concatenate([ns(clock) + np.arange(n) * SECOND for clock, n in runs])
    price = 10_000 + np.arange(len(ts)) % 5
    price[-3:] += 30
    bars = make_bars(ts, price, price + 1, price - 1, price, np.ones(len(ts), int))
    config = load_config(risk=LOOSE, trader=dict(hours=hours), stops=dict(stop_ticks=500, target_ticks=500, max_hold_s=86_400))
    assert compare(bars, range(len(ts)), config) == (4 + 3 if hours == "RTH" else 7 + 7 + 3)     # the last of a run finds no bar within 300 s


def test_every_refusal_has_its_name():
    "Too early, too late, an unknown day, a holiday part; a trade whose data end has none."
    quiet = lambda start, date: make_bars(ns(start, date) + np.arange(5) * SECOND, *[np.full(5, 1000)] * 4, np.ones(5, int))
    said = lambda bars, **kw: {REASONS[r] for r in barrier_labels(bars, load_config(**kw)).long_reason}
    assert said(quiet("08:00:00", "2024-01-03")) == {"outside_hours"} and said(quiet("10:00:00", "2024-01-03")) == {"none"}
    assert said(quiet("16:20:00", "2024-01-03"), trader={"hours": "ALL"}) == {"end_of_day"} and said(quiet("10:00:00", "2024-03-29")) == {"unknown_day"}
    assert said(quiet("10:00:00", "2024-01-15"), trader={"hours": "ALL"}) == {"outside_hours"}
    assert (barrier_labels(quiet("10:00:00", "2024-01-03")).label == -1).all()


def test_the_mean_of_every_trade_on_a_null_market_is_what_trading_costs():
    "No edge, no gift: each side loses about a round trip of two market orders, in each of six hours."
    bars = synthetic_market(12, seed=23).bars
    found = barrier_labels(bars, every_s=5)
    known = found.label >= 0
    cost = round_trip_usd(cost_rules(load_config(), MES))
    for usd in (found.long_usd[known], found.short_usd[known]): assert -cost - 1 < usd.mean() < -cost + 1
    hour = pd.DatetimeIndex(bars.ts[known], tz="UTC").tz_convert("America/New_York").hour
    both = pd.Series((found.long_usd[known] + found.short_usd[known]) / 2).groupby(hour).mean()
    assert len(both) == 7 and both.between(-cost - 1.5, -cost + 1.5).all(), both       # 9 to 15
    assert known.sum() > 30_000


# overlap

@pytest.mark.parametrize("seed", range(3))
def test_overlap_is_the_count_of_pairs(seed):
    "Concurrency and uniqueness of barrier labels, which are not known in the order of their bars, against a matrix of lives; nothing is shared across a night."
    bars = wild_bars(seed)
    labels = barrier_labels(bars, load_config(trader=dict(hours="ALL")))
    rows = np.random.default_rng(seed).random(n_bars(bars)) < .4
    found = label_overlap(bars, labels, rows)
    session = np.repeat(np.arange(n_sessions(bars)), np.diff(bars.sessions))
    made = np.flatnonzero(rows & (labels.label >= 0))
    assert (np.diff(labels.known_at[made]) < 0).any() and len(made) > 100
    lives = np.array([(bars.ts > bars.ts[i]) & (bars.ts < labels.known_at[i]) for i in made])
    assert all(set(session[life]) == {session[i]} for i, life in zip(made, lives))
    alive = lives.sum(axis=0)
    np.testing.assert_array_equal(found.concurrency, alive)
    np.testing.assert_allclose(found.uniqueness[made], [np.mean(1 / alive[life]) for life in lives], rtol=1e-5)
    assert np.isnan(np.delete(found.uniqueness, made)).all() and effective_labels(found) == pytest.approx(np.nansum(found.uniqueness), rel=1e-5)
    for a, b in zip(found, label_overlap(bars, labels, np.flatnonzero(rows), threads=1)): np.testing.assert_array_equal(a, b)


def test_labels_that_do_not_overlap_are_worth_their_number():
    n = 3001
    bars = make_bars(ns("10:00:00") + np.arange(n) * SECOND, *[np.full(n, 1000)] * 4, np.ones(n, int))
    labels = label_moves(bars, 30)
    assert effective_labels(label_overlap(bars, labels, np.arange(0, n, 30))) == (labels.label[::30] >= 0).sum() == 100
    assert effective_labels(label_overlap(bars, labels)) == pytest.approx(100, rel=.05)       # every bar: no more of them
    with pytest.raises(ValueError, match="one row a bar, 3001, got 3000"): label_overlap(bars, label_moves(cut_bars(bars, 3000)))


def test_a_next_bar_at_the_very_horizon_can_still_be_had():
    "TGT-1: the bar that opens `horizon` seconds later is within the horizon; one a second later is not."
    from mesbot.labels import tradable_move
    bars = make_bars(ns("10:00:00") + np.array([0, 30, 61]) * SECOND, *[np.array([1000, 1004, 1004])] * 4, np.ones(3, int))
    moves = tradable_move(bars, label_moves(bars, 30), 30)
    assert moves[0] == 0 and np.isnan(moves[1:]).all()


def test_a_trade_that_earned_nothing_is_no_better_trade():
    "TGT-2: UP and DOWN are for trades that earned something; nothing is FLAT."
    from mesbot.barriers import better
    assert not better(0.0, 3, -1.0, 9) and better(.01, 3, -1.0, 9) and not better(-.01, 3, -1.0, 9)


def test_a_label_to_learn_from_is_known_both_ways():
    "TGT-2: of data that end in the afternoon, a trade that is over where the move is not yet known is no label to learn from."
    from mesbot.barriers import training_labels
    n = 40                                              # the target is reached after five seconds, the data end after forty
    close = 1000 + 4 * np.arange(n)
    bars = make_bars(ns("10:00:00") + np.arange(n) * SECOND, close, close + 1, close - 1, close, np.ones(n, int))
    config = load_config(labels=dict(kind="barrier"))
    found, moves, trades = training_labels(bars, config), label_moves(bars), barrier_labels(bars, config)
    both = (moves.label >= 0) & (trades.label >= 0)
    assert (trades.label >= 0).sum() > both.sum() > 0
    np.testing.assert_array_equal(found.label, np.where(both, trades.label, -1))
    np.testing.assert_array_equal(found.known_at, np.where(both, np.maximum(moves.known_at, trades.known_at), NEVER))
    np.testing.assert_array_equal(found.move, np.where(both, moves.move, np.float32(np.nan)))
