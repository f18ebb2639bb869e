"MOD-9, FEA-7: regimes known from the past alone, folds stratified by them, an alert for a bad quarter, importance with bands."
import numpy as np
import pandas as pd
import pytest

from mesbot.bars import hours_mask, n_bars, session_info, take_sessions
from mesbot.breakdown import breakdown
from mesbot.calendar import MINUTE, session_table
from mesbot.config import load_config
from mesbot.core import SECOND, instrument
from mesbot.features import FEATURES
from mesbot.folds import block_rows, fit_to, fold_mixture, rolling_folds, stratified, traded_hours
from mesbot.importance import ablation, over_folds, permutation_importance
from mesbot.labels import label_moves
from mesbot.lookahead import lookahead_report
from mesbot.calibration import softmax
from mesbot.predictors import Prediction
from mesbot.recency import by_quarter, recency
from mesbot.regimes import REGIMES, regime_at, regimes
from mesbot.sessions import cut_bars, make_bars
from mesbot.synth import synthetic_market
from mesbot.tables import read_columns

WEEK = session_table("2024-01-22", "2024-01-30")[:7]  # seven sessions of 23 hours


def minutes(moves, table=WEEK):
    "Bars of a minute from (sessions, 1380) moves in ticks."
    close = 30_000 + np.rint(np.cumsum(moves)).astype(np.int32)
    ts = (table["open"][:len(moves), None] + np.arange(1380) * MINUTE).ravel()
    return make_bars(ts, close, close, close, close, np.ones(len(close), np.int64), "MES", bar_s=60)


@pytest.fixture(scope="module")
def bars(): return synthetic_market(9, seed=11, alpha=.1).bars


@pytest.fixture(scope="module")
def codes(bars): return regimes(bars)


def test_regimes_see_no_future(bars, codes):
    "Cut at random and at awkward bars, no regime before the cut changes; sessions after a session change nothing in it."
    report = lookahead_report(bars, regimes, names=["regime"], sessions=None, cuts=10, seed=3)
    assert report.ok, report.sentence
    np.testing.assert_array_equal(regimes(take_sessions(bars, 0, 6)), codes[:bars.sessions[6]])
    for n in (int(bars.sessions[5]) + 40_001, int(bars.sessions[7]) + 1): np.testing.assert_array_equal(regimes(cut_bars(bars, n)), codes[:n])


def test_a_future_that_is_another_changes_nothing(bars, codes):
    cut = int(bars.sessions[6]) + 50_000
    wild = bars.close.copy()
    wild[cut:] += np.random.default_rng(0).integers(-40, 40, n_bars(bars) - cut).astype(np.int32)
    other = regimes(bars._replace(close=wild))
    np.testing.assert_array_equal(other[:cut], codes[:cut])
    assert (other[cut:] != codes[cut:]).mean() > .3


def test_only_the_last_twenty_days_count():
    "A year of history or a month: the same regimes."
    rng, table = np.random.default_rng(5), session_table("2024-02-21", "2024-03-28")
    long = minutes(rng.normal(0, 4, (27, 1380)) * np.exp(rng.normal(0, .4, (27, 1))), table)
    assert not np.array_equal(regimes(take_sessions(long, 2, 27))[-5 * 1380:], regimes(take_sessions(long, 20, 27))[-5 * 1380:])
    np.testing.assert_array_equal(regimes(take_sessions(long, 4, 27))[20 * 1380:], regimes(long)[24 * 1380:])


@pytest.mark.parametrize("seed", range(5))
def test_planted_stretches_are_told_apart(seed):
    "One-second bars, a third of them missing: a walk whose moves are half taken back each minute, a drift of one deviation a minute, and 2.5 times the volatility; the first half hour of each is not judged."
    rng, stretch = np.random.default_rng(seed), 5 * 3600
    moves = rng.normal(0, .6, (7, 82_800))
    day = moves[6]
    day[stretch + 60:2 * stretch] -= .5 * np.repeat(day[stretch:2 * stretch].reshape(-1, 60).mean(1)[:-1], 60)
    day[2 * stretch:3 * stretch] += .6 / 60**.5
    day[3 * stretch:4 * stretch] *= 2.5
    close = 30_000 + np.rint(moves.cumsum()).astype(np.int32)
    ts = (WEEK["open"][:, None] + np.arange(82_800) * SECOND).ravel()
    there = rng.random(len(ts)) < 2 / 3
    there[::82_800] = True
    c = close[there]
    found = regimes(make_bars(ts[there], c, c, c, c, np.ones(len(c), np.int64)))
    at = (ts[there] - WEEK["open"][6]) // SECOND
    def share(part, name): return np.mean(found[(at >= part * stretch + 1830) & (at < (part + 1) * stretch)] == REGIMES.index(name))
    assert share(1, "ranging") > .95 and share(2, "trending") > .9 and share(3, "volatile") > .97
    assert share(0, "volatile") < .02 and share(0, "trending") < .25                        # a plain walk has stretches that look like trends


def test_a_morning_is_wild_only_when_it_is_wilder_than_mornings_are():
    "Every day's tenth hour has three times the volatility; on the last day four times more on top."
    rng = np.random.default_rng(8)
    moves = rng.normal(0, 2, (7, 1380))
    moves[:, 600:660] *= 3
    usual = regimes(minutes(moves)).reshape(7, 1380)[3:, 630:660]
    moves[6, 600:660] *= 4
    assert (usual == 2).mean() < .05 and (regimes(minutes(moves)).reshape(7, 1380)[6, 631:660] == 2).all()


def test_a_steady_trend_is_not_volatile():
    moves = np.random.default_rng(2).normal(0, 3, (7, 1380))
    moves[6, 700:] += 9                                                                      # three deviations a minute: the moves are large, and all alike
    assert (regimes(minutes(moves)).reshape(7, 1380)[6, 731:] == 1).all()


def test_minutes_of_a_real_file(shared_data):
    "Three weeks of MES: nearly all minutes have a regime once there are three days, and efficient ones are about as frequent as in a random walk."
    rows, mes = read_columns(shared_data / "mes_1m_202605.txt"), instrument("MES")
    real = make_bars(rows.ts, *(mes.to_ticks(column) for column in rows[1:5]), rows.volume, "MES", bar_s=rows.bar_s)
    found = regimes(real)
    assert (found[real.sessions[5]:] >= 0).mean() > .95 and .04 < (found[found >= 0] == 1).mean() < .12
    np.testing.assert_array_equal(regimes(cut_bars(real, 9000)), found[:9000])


def test_results_per_regime_add_up(bars, codes):
    "BT-6, MOD-9: a trade has the regime that was known when it was entered: that of the bar that closed last."
    entries = bars.ts[bars.sessions[2]:][::613]
    log = pd.DataFrame({"trade_date": pd.DatetimeIndex(entries.view("M8[ns]")).normalize(), "entry_ns": entries, "exit_ns": entries + SECOND, "contracts": 1,
                        "gross_usd": 1.25, "fees_usd": .84, "net_usd": np.arange(len(entries)) % 7 - 3.})
    names = regime_at(bars, codes, entries)
    table = breakdown(log, names)
    assert table.index.name == "regime" and set(table.index) <= {*REGIMES, "unknown"} and table["trades"].sum() == len(log)
    np.testing.assert_allclose(table["net_usd"].sum(), log["net_usd"].sum())
    for k in range(1, len(entries), 50):
        before = np.flatnonzero(bars.ts + SECOND <= entries[k])[-1]
        own = before >= bars.sessions[np.searchsorted(bars.sessions, np.searchsorted(bars.ts, entries[k]), "right") - 1]
        assert names[k] == ("unknown" if codes[before] < 0 or not own else REGIMES[codes[before]])
    turns = np.flatnonzero(np.diff(codes)) + 1                                                # the bar that turns is known a second after it opens, not when it opens
    turns = turns[(codes[turns] >= 0) & (codes[turns - 1] >= 0)]
    for ns, known in ((bars.ts[turns], codes[turns - 1]), (bars.ts[turns] + SECOND, codes[turns])):
        assert len(turns) > 50 and (regime_at(bars, codes, ns) == np.array(REGIMES)[known]).all()
    at_open = regime_at(bars, codes, bars.ts[bars.sessions[1:-1]])
    assert (at_open == "unknown").all()                                                      # yesterday's last regime is not today's


def test_every_fold_learns_from_the_same_mixture(bars, codes):
    "MOD-9: fit rows are thinned to equal counts a regime; test blocks stay whole and in their order; rows stay purged and in time order."
    config = load_config(folds=dict(train_sessions=4, calibration_sessions=1, embargo_sessions=0, test_sessions=2, stratify="regime"), trader={"hours": "ALL"})
    plan = fit_to(9, config.folds)[0]
    assert plan.stratify == "regime" and fit_to(6, config.folds)[0].stratify == "regime"     # also when the plan had to shrink
    folds, labels, traded, opens = rolling_folds(9, plan), label_moves(bars), traded_hours(bars, config), session_info(bars)["open"]
    assert folds == rolling_folds(9, plan.model_copy(update={"stratify": ""})) and len(folds) == 3
    for fold in folds[1:]:
        rows = block_rows(bars, labels, fold.fit, int(opens[fold.calibrate[0]]), traded, 5)
        kept = stratified(rows, codes)
        counts, had = (np.bincount(codes[at] + 1, minlength=4) for at in (kept, rows))
        common = had >= .05 * len(rows)
        assert np.ptp(counts[common]) == 0 and (counts[~common] == had[~common]).all() and np.ptp(had[common]) > 1000
        assert (np.diff(kept) > 0).all() and set(kept) <= set(rows) and (labels.known_at[kept] <= opens[fold.calibrate[0]]).all()
        early, late = (np.flatnonzero(at < np.median(rows)).size / len(at) for at in (kept, rows))
        assert abs(early - late) < .25                                                        # thinned all over the block, not cut off
        now = cut_bars(bars, int(bars.sessions[fold.calibrate[0]]))                          # at that time nothing later was known
        np.testing.assert_array_equal(stratified(rows, regimes(now)), kept)
    mixture = fold_mixture(bars, codes, traded, folds, "regime").set_index(["block", "fold"])
    assert mixture.loc["test", "rows"].sum() == traded[bars.sessions[folds[0].test[0]]:].sum()
    with pytest.raises(ValueError, match="folds.stratify"): load_config(folds=dict(stratify="regimes"))


class Linear:
    "Leans on the sum of some columns over the last `length` rows of the session, as strongly as it is told."
    def __init__(self, weights, length=1): self.weights, self.length, self.asked, self.missing = weights, length, 0, [name for name in FEATURES if name not in weights]
    def predict(self, features, sessions=None):
        lean = sum(w * features[:, FEATURES.index(name)].astype(np.float64) for name, w in self.weights.items())
        if self.length > 1:
            total = np.full(len(lean), np.nan)
            for a, b in zip(sessions[:-1], sessions[1:]):
                if b - a >= self.length: total[a + self.length - 1:b] = np.convolve(lean[a:b], np.ones(self.length), "valid")
            lean = total / self.length**.5
        self.asked += int(np.isfinite(lean).sum())
        p = softmax(np.stack([-lean, 0 * lean, lean], axis=1)).astype(np.float32)
        return Prediction(p, p[:, 2], p[:, 0])


NOISE = ("ret_5", "rsi_14", "rv_30", "pos_60", "vwap_dist")


def planted(rng, length=1, days=8, bars_a_day=300):
    "Features, pointers, label and move: flow_25 says something, the rest nothing; noise wanders slowly, days have weather of their own."
    n = days * bars_a_day
    x, sessions = np.zeros((n, len(FEATURES)), np.float32), np.arange(0, n + 1, bars_a_day)
    x[:, FEATURES.index("flow_25")] = rng.normal(size=n)
    for name in NOISE:
        slow = rng.normal(size=(days, bars_a_day))
        for i in range(1, bars_a_day): slow[:, i] = .9 * slow[:, i - 1] + .19**.5 * slow[:, i]
        x[:, FEATURES.index(name)] = slow.ravel()
    move = np.convolve(x[:, FEATURES.index("flow_25")], np.ones(length) / length**.5)[:n] * .5 + rng.normal(size=n) * np.repeat(np.exp(rng.normal(0, .4, days)), bars_a_day)
    return x, sessions, np.where(move > .7, 2, np.where(move < -.7, 0, 1)).astype(np.int8), move


@pytest.mark.parametrize("length", [1, 6])
def test_bands_hold_zero_for_noise_and_not_for_the_planted_feature(length):
    "FEA-7: the model leans on five features that say nothing; their bands hold zero about 95 times in 100. That of the planted one never does."
    inside, planted_out = [], []
    for seed in range(50):
        rng = np.random.default_rng([seed, length])
        x, sessions, label, move = planted(rng, length)
        model = Linear({"flow_25": .6} | dict.fromkeys(NOISE, .25), length)
        found = over_folds([permutation_importance(model, x, sessions, label, move, np.arange(0, len(x), 2), rng).loc[["flow_25", *NOISE]]], draws=400)
        for what in ("ic", "loss"): planted_out.append(found.loc["flow_25", f"{what}_low"] > 0)
        inside += [found.loc[name, "ic_low"] <= 0 <= found.loc[name, "ic_high"] for name in NOISE]
    assert all(planted_out) and .90 < np.mean(inside) < .99


def test_only_the_judged_rows_are_forecast():
    "At most so many windows are asked for, however long the sessions: once whole, and once a feature."
    rng = np.random.default_rng(0)
    x, sessions, label, move = planted(rng)
    for length in (1, 6):
        model = Linear({"flow_25": 1., "rsi_14": .1}, length)
        found = permutation_importance(model, x, sessions, label, move, np.arange(300, 2400, 21), rng)
        assert 95 * 3 < model.asked <= 100 * 3 and (found.drop(["flow_25", "rsi_14"])["ic"] == 0).all()


def test_ablation_fits_models_with_windows_on_the_rows_given():
    "Rows, labels and windows arrive in step; what was left out is NaN in all rows; the matrix itself is not touched."
    rng = np.random.default_rng(4)
    x, sessions, label, move = planted(rng, 6)
    before, seen = x.copy(), []
    def fit(small, source, pointers, fit_rows, calibration_rows):
        there = np.isfinite(small).all(0)
        np.testing.assert_array_equal(small[:, there], x[source][:, there])
        assert (np.diff(pointers) == 6).all() and (np.diff(source.reshape(-1, 6)) == 1).all() and (np.ptp(source.reshape(-1, 6) // 300, axis=1) == 0).all() and (source[fit_rows] < 1000).all() and ((source[calibration_rows] >= 1000) & (source[calibration_rows] < 1200)).all()
        seen.append([name for name, ok in zip(FEATURES, there) if not ok])
        return Linear({name: w for name, w in {"flow_25": .6, "rsi_14": .2}.items() if there[FEATURES.index(name)]} or {"hour": 0.}, 6)
    found = over_folds([ablation(fit, x, sessions, label, move, np.arange(1000), np.arange(1000, 1200), np.arange(1200, 2400), 6)])
    np.testing.assert_array_equal(x, before)
    assert seen[0] == [] and "flow_25" in sum(seen, []) and sorted(sum(seen, [])) == sorted(FEATURES)
    assert found.index[0] == "flow" and found["ic_low"].iloc[0] > 0 and found["sessions"].iloc[0] == 4


def days(n, start="2023-01-02"): return pd.bdate_range(start, periods=n)


@pytest.mark.parametrize("kind", ["plain", "fat tails", "few trades", "wild months"])
def test_the_alert_is_false_no_more_often_than_its_rate(kind):
    "MOD-9: on sessions that have not changed, over 400 histories."
    rng, p = np.random.default_rng(6), []
    for seed in range(400):
        x = rng.normal(size=504) if kind != "fat tails" else rng.standard_t(3, 504)
        if kind == "few trades": x *= rng.random(504) < .2
        if kind == "wild months": x *= np.repeat(np.exp(rng.normal(0, .5, 24)), 21)
        p.append(recency(pd.Series(5 * x - 1, days(504)), draws=199, seed=seed).p_value)
    p = np.array(p)
    for rate in (.05, .2): assert (p <= rate).mean() <= rate + 2.6 * (rate * (1 - rate) / 400)**.5
    assert (p <= .2).mean() > .1                                                              # and it does speak


def test_the_alert_comes_when_a_quarter_breaks_and_says_so():
    rng = np.random.default_rng(9)
    daily = pd.Series(rng.normal(4, 10, 504), days(504))
    recent = daily.index >= "2024-10-01"
    broken = daily - 8 * recent
    found = recency(broken)
    assert found.alert and found.quarter == "2024Q4" and found.sessions == recent.sum() and "worse than luck explains" in found.sentence and "\n" not in found.sentence
    np.testing.assert_allclose([found.mean_usd, found.before_usd], [broken[recent].mean(), broken[~recent].mean()])
    assert not recency(broken, error_rate=1e-9).alert and not recency(daily + 8 * recent).alert
    table = by_quarter(broken)
    assert table["sessions"].sum() == 504 and table.index[-1] == "2024Q4" and table["mean_usd"].idxmin() == "2024Q4" and table.loc["2024Q4", "high_usd"] < table["mean_usd"].iloc[:-1].min()


def test_a_wilder_quarter_is_not_taken_for_a_worse_one():
    "Four times the standard deviation in a short last quarter, the same mean: no more alerts than the rate allows, nearly."
    rng, alerts = np.random.default_rng(3), []
    for seed in range(300):
        x = rng.normal(size=441)
        x[-24:] *= 4
        alerts.append(recency(pd.Series(x, pd.bdate_range(end="2024-11-01", periods=441)), draws=199, seed=seed).alert)
    assert np.mean(alerts) < .09


@pytest.mark.parametrize("sessions, says", [(0, "0 sessions in the last quarter and 0 before"), (30, "30 sessions in the last quarter and 0 before"), (70, "5 sessions in the last quarter and 65 before")])
def test_too_little_is_no_alert_and_says_so(sessions, says):
    x = np.full(sessions, 5.)
    x[-5:] = -50 + np.arange(sessions)[-5:]
    found = recency(pd.Series(x, days(sessions)))
    assert not found.alert and np.isnan(found.p_value) and says in found.sentence and "20 and 40 are needed" in found.sentence


def test_hours_of_regimes_are_sane(bars, codes):
    "All three regimes occur in the made-up market, in regular hours too, and regular hours are known from the fourth day on."
    rth = hours_mask(bars, "RTH")
    rth[:bars.sessions[3]] = False
    assert set(np.unique(codes[rth])) == {0, 1, 2}
