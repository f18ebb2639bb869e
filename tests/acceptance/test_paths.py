"BT-8: combinatorial paths: every session in every path, models that never met what they trade, the same numbers wherever they were computed."
import json

import numpy as np
import pytest

from mesbot.bars import session_info, take_sessions
from mesbot.combinatorial import combinatorial_folds
from mesbot.config import load_config, with_settings
from mesbot.fitting import fit_predictor, moved_rows
from mesbot.folds import block_rows, stratified
from mesbot.metrics import sharpe_ratio
from mesbot.paths import run_split, split_blocks, walk_paths
from mesbot.scaling import NotTrainable
from mesbot.sim import backtest
from mesbot.study import material_of, prepare
from mesbot.synth import synthetic_market

SMALL = dict(folds=dict(train_sessions=4, calibration_sessions=2, embargo_sessions=1, test_sessions=2, choose=[4, 2]), models=dict(predictors=["logistic"]))
NEVER = np.iinfo(np.int64).max


@pytest.fixture(scope="module")
def study(): return prepare(synthetic_market(9, seed=23, alpha=.1).bars, load_config(**SMALL))


@pytest.fixture(scope="module")
def splits(study): return combinatorial_folds(9, 4, 2, 1)


@pytest.fixture(scope="module")
def walk(study): return walk_paths(study, "logistic", jobs=1)


def test_every_path_holds_every_session_once(study, walk):
    assert walk.daily.shape == (9, 3) and walk.daily.notna().all(axis=None) and walk.table["path"].tolist() == walk.daily.columns.tolist() == [1, 2, 3]
    assert (walk.daily.index == session_info(study.bars)["date"].astype("M8[ns]")).all() and (walk.table["days"] == 9).all()
    np.testing.assert_allclose(walk.table["net_usd"], walk.daily.sum())
    np.testing.assert_allclose(walk.table["sharpe"], [sharpe_ratio(walk.daily[path]) for path in walk.daily])
    assert walk.table["sharpe"].nunique() == 3


def test_put_together_by_hand(study, splits, walk):
    "Groups 0 to 3 are sessions 0-2, 3-4, 5-6, 7-8. On paper: the first test of a group is path 1, the second path 2, the third path 3."
    by_hand = {0: [1, 2, 3], 1: [1, 4, 5], 2: [2, 4, 6], 3: [3, 5, 6]}   # group -> splits (01, 02, 03, 12, 13, 23) that test it, in order
    found, trades = {split.number: run_split(study, split, "logistic") for split in splits}, np.zeros(3, int)
    for group, numbers in by_hand.items():
        for path, number in enumerate(numbers, 1):
            split = splits[number - 1]
            k = split.groups.index(group)
            np.testing.assert_array_equal(walk.daily[path].iloc[slice(*split.test[k])], found[number][k][0])
            trades[path - 1] += found[number][k][1]
    assert walk.table["trades"].tolist() == trades.tolist() and trades.min() > 10


def test_two_processes_give_the_same_bytes(study, walk):
    again = walk_paths(study, "logistic", jobs=2)
    assert again.table.equals(walk.table) and again.daily.equals(walk.daily)


def test_what_is_tested_or_under_embargo_cannot_change_the_model(study, splits):
    "Labels and features of those sessions are replaced by nonsense: the model stays as it was, to the byte. One session that is trained on: another model."
    split = splits[4]
    assert split.train == ((0, 3), (6, 7)) and split.test == ((3, 5), (7, 9))
    rng = np.random.default_rng(0)
    def weights(sessions):
        rows = np.isin(study.session, sessions)
        features, label, move = study.features.copy(), study.labels.label.copy(), study.labels.move.copy()
        features[rows] = rng.normal(size=(rows.sum(), features.shape[1]))
        rows &= label >= 0
        label[rows], move[rows] = rng.integers(0, 3, rows.sum()), rng.normal(size=rows.sum())
        spoilt = study._replace(features=features, labels=study.labels._replace(label=label, move=move))
        facts, files = fit_predictor("logistic", material_of(spoilt), *split_blocks(spoilt, split), study.config, [1], calls=0).to_files()
        assert not files
        return json.dumps(facts, default=lambda array: np.asarray(array).tolist())
    as_it_is = weights([])
    assert weights([3, 4, 5, 7, 8]) == as_it_is and weights([2]) != as_it_is != weights([6])


def test_rows_are_those_of_the_rules(study, splits):
    "The last sessions of the training part calibrate, a quarter of them at most; the hours, the stride, events and regimes are those of a walk."
    for split in splits:
        learnt = [k for a, b in split.train for k in range(a, b)]
        last = min(2, max(1, len(learnt) // 4))
        for rows, part in zip(split_blocks(study, split), (learnt[:-last], learnt[-last:])):
            np.testing.assert_array_equal(rows, np.concatenate([block_rows(study.bars, study.labels, (k, k + 1), NEVER, study.traded, 5) for k in part]))
    plain = split_blocks(study, splits[2])
    for change, thin in (({"models.sample": "event"}, lambda rows: moved_rows(rows, study.bars.close)), ({"folds.stratify": "regime"}, lambda rows: stratified(rows, study.regimes))):
        fit, calibrate = split_blocks(study._replace(config=with_settings(study.config, change)), splits[2])
        np.testing.assert_array_equal(fit, thin(plain[0]))
        np.testing.assert_array_equal(calibrate, plain[1])
        assert 0 < len(fit) < len(plain[0])


def test_labels_that_reach_into_a_test_are_not_learnt_from(study, splits):
    "Labels known a day later: sessions 2 and 6 end in a test, and session 5 is under embargo anyway."
    late = study._replace(labels=study.labels._replace(known_at=study.labels.known_at + 86_400 * 10**9))
    assert [set(study.session[rows]) for rows in split_blocks(late, splits[4])] == [{0, 1}, set()]
    calm = late._replace(config=with_settings(study.config, {"folds.embargo_sessions": 0}))
    open_splits = combinatorial_folds(9, 4, 2, 0)
    assert 5 in {k for a, b in open_splits[4].train for k in range(a, b)}
    rows = np.concatenate(split_blocks(calm, open_splits[4]))
    reach = study.labels.known_at[(study.session == 4) & (study.labels.label >= 0)].max() + 86_400 * 10**9    # the last tested label, after which may be learnt again
    assert (study.bars.ts[rows[study.session[rows] == 5]] > reach).all()


def test_each_group_trades_a_fresh_account(study):
    "A rule learns nothing, so all its paths are one: each group back-tested alone."
    walk = walk_paths(study, "rsi_rule", jobs=1)
    assert (walk.daily.nunique(axis=1) == 1).all()
    rule = fit_predictor("rsi_rule", material_of(study), None, None, study.config, [1])
    for a, b in ((0, 3), (3, 5), (5, 7), (7, 9)):
        at = slice(study.bars.sessions[a], study.bars.sessions[b])
        alone = backtest(take_sessions(study.bars, a, b), rule.predict(study.features[at]).probability, study.config, study.features[at])
        np.testing.assert_array_equal(walk.daily[1].iloc[a:b], alone.daily)
    assert walk.daily.any(axis=None)


def test_a_silent_path_has_a_sharpe_ratio_of_nothing(study):
    walk = walk_paths(study, "always_flat", jobs=1)
    assert (walk.table[["sharpe", "net_usd", "trades"]] == 0).all(axis=None)


def test_too_little_to_learn_from_is_told(study):
    with pytest.raises(ValueError, match="3 sessions cannot be cut into 4 groups"): walk_paths(study._replace(bars=take_sessions(study.bars, 0, 3)), "logistic", jobs=1)
    with pytest.raises(NotTrainable, match="0 training rows"): walk_paths(study._replace(traded=np.zeros_like(study.traded)), "logistic", jobs=1)
