"What the verdict rests on: rows that train, forecasts that are judged, means and their bounds (FEA-5, BT-4, BT-6, MOD-5)."
import numpy as np
import pandas as pd
import pytest

import mesbot.fitting
import mesbot.fold_run
import mesbot.study
import mesbot.walkforward
from mesbot.bars import hours_mask, n_bars, session_info, take_sessions
from mesbot.config import load_config
from mesbot.core import SECOND
from mesbot.features import compute_features
from mesbot.folds import block_rows, rolling_folds, traded_hours
from mesbot.gates import evidence
from mesbot.labels import label_moves
from mesbot.metrics import bootstrap_mean, directional_auc, forecast_skill, mean_interval, performance
from mesbot.synth import synthetic_market
from mesbot.fold_run import run_fold
from mesbot.study import prepare
from mesbot.walkforward import walk_forward

SMALL = dict(folds=dict(train_sessions=3, calibration_sessions=1, embargo_sessions=0, test_sessions=1), models=dict(predictors=["logistic"]))


@pytest.fixture(scope="module")
def bars(): return synthetic_market(6, seed=17, alpha=.1).bars


def test_one_training_row_in_five_seconds(bars):
    rows = block_rows(bars, label_moves(bars), (0, 2), int(session_info(bars)["open"][2]), traded_hours(bars, load_config()), 5)
    assert (bars.ts[rows] // SECOND % 5 == 0).all() and len(rows) > 1000
    # a deadline beyond all time: what no bar settled is still no lesson
    everything = block_rows(bars, label_moves(bars), (0, 6), np.iinfo(np.int64).max, traded_hours(bars, load_config(trader={"hours": "ALL"})), 1)
    assert (label_moves(bars).label[everything] >= 0).all() and len(everything) < n_bars(bars)


def test_the_calibration_is_fitted_on_the_calibration_block(bars, monkeypatch):
    "Neither on the rows that fitted the weights nor on the test."
    seen = {}
    fit = mesbot.fitting.fit_calibration
    monkeypatch.setattr(mesbot.fitting, "fit_calibration", lambda logits, y, *how, **more: seen.setdefault("rows", len(y)) and fit(logits, y, *how, **more))
    config = load_config(**SMALL)
    study = prepare(bars, config)
    fold = rolling_folds(6, config.folds)[0]
    result = run_fold(study, fold, "logistic")
    opens = session_info(bars)["open"]
    rows = block_rows(bars, study.labels, fold.calibrate, int(opens[fold.test[0]]), study.traded, 5)
    warm = np.isfinite(study.features[rows][:, result.predictor.scaler.columns]).all(1)
    assert seen["rows"] == warm.sum()


def test_forecasts_are_judged_in_traded_hours_only(bars):
    config = load_config(**SMALL)
    walk = walk_forward(bars, config)
    regular = [hours_mask(take_sessions(bars, s, s + 1), "RTH").sum() for s in (3, 4, 5)]
    assert (walk.skill["bars"].to_numpy() <= regular).all() and (walk.skill["bars"].to_numpy() > .8 * np.array(regular)).all()


def test_a_predictor_that_fails_in_one_fold_is_not_judged(monkeypatch):
    "Its row says why; nothing of it is stitched, and its trades are not in the log."
    bars = synthetic_market(8, seed=18, alpha=.1).bars
    config = load_config(**{**SMALL, "folds": SMALL["folds"] | dict(test_sessions=2), "models": dict(predictors=["rsi_rule", "logistic"])})
    real = mesbot.fold_run.fit_predictor
    def breaks(name, *args, **more):
        if name == "logistic" and breaks.calls == 1: raise mesbot.fitting.NotTrainable("planted")
        breaks.calls += name == "logistic"
        return real(name, *args, **more)
    breaks.calls = 0
    monkeypatch.setattr(mesbot.fold_run, "fit_predictor", breaks)
    walk = walk_forward(bars, config)
    assert list(walk.summary["predictors"]) == ["rsi_rule"] and list(walk.daily) == ["rsi_rule"] and set(walk.trades["predictor"]) <= {"rsi_rule"}
    assert "planted" in walk.folds["note"].tolist()


def test_the_seed_reaches_the_models(bars):
    short = {**SMALL, "models": dict(predictors=["feed_forward"]), "networks": dict(epochs=1)}
    nets = []
    for seed in (1, 1, 2):
        config = load_config(seed=seed, **short)
        nets.append(run_fold(prepare(bars, config), rolling_folds(6, config.folds)[0], "feed_forward").predictor.weights)
    assert nets[0] == nets[1] != nets[2]


def test_net_ticks_are_per_contract():
    "Two contracts that earn $5.00 earned 2 ticks each."
    log = pd.DataFrame({"net_usd": [5.0, 5.0, 2.5, 2.5], "contracts": [2, 2, 1, 1], "trade_date": [0, 0, 1, 1], "gross_usd": 0.0, "fees_usd": 0.0, "entry_ns": 0, "exit_ns": 1,
                        "mae_ticks": 0, "mfe_ticks": 0})
    assert evidence(log, pd.DataFrame({"auc": [], "ic": [], "session": []}), load_config(), 1.25)["net_ticks"] == 2
    assert performance(log, pd.Series([10.0, 5.0]), 1000.0, 1.25)["net_ticks_a_trade"] == 2


def test_direction_is_judged_from_the_threshold_on():
    "A move of 3 has a direction, a move of 2 has none."
    p = np.array([[.6, .2, .2], [.2, .2, .6], [.6, .2, .2], [.2, .2, .6]])
    skill = lambda moves: forecast_skill(p, np.ones(4, int), np.array(moves, float), np.array([-1., 1, -1, 1]), np.zeros(4, int), 3).loc[0, "auc"]
    assert skill([-3, 3, 2, -2]) == 1 and np.isnan(skill([-2, 2, 2, -2])) and skill([-3, 3, 3, -3]) == .5


def test_auc_is_about_the_share_of_up_among_moves():
    "A bar with more room for both directions is not a forecast of UP: p_up alone would mislead."
    p = np.array([[.45, .10, .45], [.10, .70, .20]])  # shares .50 and .67
    assert directional_auc(p, np.array([0, 2])) == 1


def test_the_mean_weighs_trades_not_sessions():
    "Three trades of one day and one of another: the mean is over four trades."
    values, sessions = [1.0, 1.0, 1.0, 5.0], [0, 0, 0, 1]
    draws = bootstrap_mean(values, sessions, 4000, np.random.default_rng(0))
    assert set(np.round(np.unique(draws), 9)) == {1.0, 2.0, 5.0}  # both days once: (3 + 5) / 4


def test_the_interval_holds_both_ends():
    "Half of the error lies on each side."
    rng = np.random.default_rng(3)
    x, days = rng.normal(0, 1, 4000), np.repeat(np.arange(200), 20)
    low, high = mean_interval(x, days, .10, 4000, rng)
    reach = 1.6525 * x.std() / 4000**.5  # Student's t, 199 degrees of freedom, 5 % a side
    np.testing.assert_allclose([low, high], [x.mean() - reach, x.mean() + reach], atol=.15 * reach)


def test_evidence_comes_from_sessions_and_pays_for_every_try():
    "The same trades in few sessions say less, and so do more predictors tried."
    rng = np.random.default_rng(5)
    log = pd.DataFrame({"net_usd": 1.25 * rng.normal(.3, 3, 600), "contracts": 1})
    skill = pd.DataFrame({"auc": [], "ic": [], "session": []})
    low = lambda days, tried: evidence(log.assign(trade_date=np.arange(600) * days // 600), skill, load_config(models=dict(predictors=tried)), 1.25)["net_ticks_low"]
    assert low(5, ["logistic"]) < low(300, ["logistic"])
    three = ["rsi_rule", "logistic", "feed_forward"]
    assert low(300, three) < low(300, ["logistic"]) and low(300, ["always_flat", "logistic"]) == low(300, ["logistic"])


def test_the_fold_sharpe_is_a_mean(bars):
    config = load_config(**{**SMALL, "folds": SMALL["folds"] | dict(train_sessions=2, test_sessions=3)})
    long = synthetic_market(8, seed=28, alpha=.1).bars
    walk = walk_forward(long, config)
    np.testing.assert_allclose(walk.summary["predictors"]["logistic"]["mean_fold_sharpe"], walk.folds["sharpe"].fillna(0.0).mean())  # a silent fold earned nothing
    assert walk.folds["sharpe"].nunique() == 2


def test_the_weights_see_the_fit_block_only(bars):
    "Other labels in the calibration block change the calibration and nothing else."
    config = load_config(**SMALL)
    study, fold = prepare(bars, config), rolling_folds(6, config.folds)[0]
    one = run_fold(study, fold, "logistic").predictor
    label = study.labels.label.copy()
    block = slice(bars.sessions[fold.calibrate[0]], bars.sessions[fold.calibrate[1]])
    label[block] = np.where(label[block] >= 0, np.random.default_rng(0).permutation(label[block] % 3), label[block])
    other = run_fold(study._replace(labels=study.labels._replace(label=label)), fold, "logistic").predictor
    np.testing.assert_array_equal(one.weights, other.weights)
    np.testing.assert_array_equal(one.scaler.mean, other.scaler.mean)
    assert one.calibration.facts() != other.calibration.facts()


def test_moves_are_judged_in_units_of_their_volatility(bars):
    study = prepare(bars, load_config(**SMALL))
    from mesbot.predictors import volatility_ticks
    there = np.isfinite(study.scaled)
    np.testing.assert_allclose(study.scaled[there], study.moves[there] / volatility_ticks(study.features, 30)[there], rtol=1e-5)
    assert there.sum() > 100_000


def test_unknown_labels_are_not_judged():
    p = np.array([[.6, .2, .2], [.2, .2, .6], [.2, .2, .6]])
    skill = forecast_skill(p, np.array([0, 2, -1]), np.array([-5., 5, -5]), np.array([-1., 1, -1]), np.zeros(3, int))
    assert skill.loc[0, "bars"] == 2 and skill.loc[0, "auc"] == 1


def test_the_carried_account_is_one_account():
    "The RSI rule ruins a fresh account in every fold; carried through, it is stopped once and for all."
    walk = walk_forward(synthetic_market(14, seed=4).bars, load_config(models=dict(predictors=["rsi_rule"])))
    n = walk.summary["predictors"]["rsi_rule"]
    assert n["carried_review"] and -260 < n["carried_balance_usd"] - 1000 < -150 and n["net_usd"] < 1.5 * (n["carried_balance_usd"] - 1000)


def test_one_lack_is_a_no(good_numbers):
    from mesbot.gates import judge
    good = good_numbers
    summary = lambda n: {"predictors": {"logistic": n}, "tried": ["logistic"], "folds_note": ""}
    assert judge(summary(good), load_config())["answer"] == "yes"
    for lack in (dict(trades=99), dict(net_ticks_low=-.1), dict(auc_low=.49), dict(mean_fold_sharpe=.5), dict(latched=1), dict(dsr=.9), dict(pbo=.5), dict(spa=.06), dict(timing=float("nan"))):
        assert judge(summary(good | lack), load_config())["answer"] == "no", lack


@pytest.mark.parametrize("date,clock,hours", [("2024-01-15", "10:00", "ALL"), ("2024-03-29", "10:00", "ALL"), ("2024-11-29", "12:50", "ALL"), ("2024-01-03", "16:30", "ALL"),
                                              ("2024-01-03", "10:00", "ETH"), ("2024-01-03", "08:00", "RTH")])
def test_nothing_is_judged_where_nothing_may_be_entered(date, clock, hours):
    "Holiday part, unknown day, after the last entry of a short and of a normal day, the other hours."
    from mesbot.bars import make_bars
    from mesbot.sim import backtest
    ts = pd.Timestamp(f"{date} {clock}", tz="America/New_York").value + np.arange(5) * SECOND
    flat = np.full(5, 1000)
    bars, config = make_bars(ts, flat, flat, flat, flat, np.ones(5, int)), load_config(trader={"hours": hours})
    assert not traded_hours(bars, config).any() and len(backtest(bars, np.tile([.1, .2, .7], (5, 1)), config).trades) == 0


def test_the_best_of_several_that_passed_has_the_best_bound(good_numbers):
    from mesbot.gates import judge
    good = good_numbers
    summary = {"predictors": {"logistic": good, "feed_forward": good | dict(net_ticks=1.0, net_ticks_low=.5)}, "tried": ["logistic", "feed_forward"], "folds_note": ""}
    assert judge(summary, load_config())["predictor"] == "feed_forward"


def test_ratios_on_paper():
    "Ten days, 252 of them a year: mean 1, down 4 from the start, one trade of zero is no win."
    daily = pd.Series([-4.0, 2, 2, 2, 2, 2, 2, 2, 2, -2])
    log = pd.DataFrame({"net_usd": [0.0, 1.0, 1.0, -1.0], "contracts": 1, "gross_usd": 0.0, "fees_usd": 0.0, "entry_ns": 0, "exit_ns": 1, "mae_ticks": 0, "mfe_ticks": 0})
    n = performance(log, daily, 1000.0, 1.25)
    assert n["max_drawdown_usd"] == 4 and n["win_rate"] == .5
    np.testing.assert_allclose([n["calmar"], n["sharpe"]], [252 / 4, 1 / daily.std() * 252**.5])


def test_the_embargo_lies_between_calibration_and_test():
    plan = load_config(folds=dict(train_sessions=5, calibration_sessions=2, embargo_sessions=3, test_sessions=4)).folds
    folds = rolling_folds(20, plan)
    assert len(folds) == 3 and all(f.test[0] - f.calibrate[1] == 3 and f.calibrate[1] - f.fit[0] == 5 and f.fit[1] == f.calibrate[0] for f in folds)


def test_two_sessions_say_next_to_nothing():
    "Student's t with one degree of freedom on two session means of 1 and 3: 2 ± 12.71 x 1, the textbook's 95 %."
    low, high = mean_interval([1.0, 3.0], [0, 1], .05, 200_000, np.random.default_rng(0))
    np.testing.assert_allclose([low, high], [2 - 12.706, 2 + 12.706], rtol=.01)


def test_the_checks_of_a_walk_are_made_and_decide(bars, monkeypatch):
    "FEA-6: every walk carries what was found about its own features, and a failed check is a no, whatever was earned."
    quick = load_config(**{**SMALL, "models": dict(predictors=["always_flat"])})
    walk = walk_forward(bars, quick)
    assert walk.summary["checks"] == mesbot.study.feature_checks(bars, compute_features(bars), compute_features)
    assert [c["name"] for c in walk.summary["checks"]] == ["look-ahead", "warm-up", "made again"]
    monkeypatch.setattr(mesbot.walkforward, "feature_checks", lambda *_: [{"name": "look-ahead", "ok": False, "sentence": "`peek` sees the future"}])
    refused = walk_forward(bars, quick).summary["verdict"]
    assert refused["answer"] == "no" and refused["reasons"][0] == "`peek` sees the future" and refused["sentence"].startswith("No verdict")


def test_a_failed_check_does_not_hide_what_else_was_wrong():
    from mesbot.gates import judge
    summary = {"predictors": {}, "tried": [], "folds_note": "1 session is too few", "checks": [{"name": "look-ahead", "ok": False, "sentence": "leak"}]}
    assert judge(summary, load_config())["reasons"] == ["leak", "1 session is too few"]


def test_label_facts_count_what_is_learnt_from(bars):
    "TGT-1: trading hours, whole multiples of `every_s`, known labels; balance and overlap are of these and no others."
    from mesbot.labels import class_shares
    from mesbot.uniqueness import label_overlap
    study = prepare(bars, load_config(models=dict(every_s=7)))
    facts, labels = mesbot.study.label_facts(study), study.labels
    rows = np.flatnonzero(traded_hours(bars, load_config()) & (bars.ts // SECOND % 7 == 0) & (labels.label >= 0))
    found = labels.label[rows]
    assert facts["labels"] == len(rows) and 0 < len(rows) < n_bars(bars) / 10
    assert facts["class_shares"] == {name: (found == k).mean() for k, name in enumerate(("DOWN", "FLAT", "UP"))} != class_shares(labels)
    assert facts["effective_labels"] == pytest.approx(np.nansum(label_overlap(bars, labels, rows).uniqueness[rows]), rel=1e-6)


def test_a_study_learns_from_the_labels_that_were_asked_for(bars):
    "TGT-2: `labels.kind` reaches the models."
    from mesbot.barriers import training_labels
    config = load_config(labels=dict(kind="barrier"))
    study = prepare(bars, config)
    for a, b in zip(study.labels, training_labels(bars, config)): np.testing.assert_array_equal(a, b)
    assert not np.array_equal(study.labels.label, label_moves(bars).label)
