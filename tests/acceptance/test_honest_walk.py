"FEA-6, FEA-7, TGT-1, TGT-2: every walk checks its features, says what its models lean on, and what its labels are worth."
import json

import numpy as np
import pandas as pd
import pytest

import mesbot.study as room
import mesbot.walkforward
from mesbot.bars import take_sessions
from mesbot.config import load_config
from mesbot.features import FEATURES, GROUPS, compute_features
from mesbot.report import make_report, read_run
from mesbot.synth import synthetic_market
from mesbot.walkforward import walk_forward

SMALL = dict(folds=dict(train_sessions=4, calibration_sessions=1, embargo_sessions=0, test_sessions=2), models=dict(predictors=["always_flat", "logistic"], importance_rows=2000))


@pytest.fixture(scope="module")
def bars(): return synthetic_market(8, seed=19, alpha=.1).bars


@pytest.fixture(scope="module")
def walk(bars): return walk_forward(bars, load_config(**SMALL))


def test_every_walk_checks_its_features(walk):
    assert [(check["name"], check["ok"]) for check in walk.summary["checks"]] == [("look-ahead", True), ("warm-up", True), ("made again", True)]
    assert f"{len(FEATURES)} columns" in walk.summary["checks"][0]["sentence"]


def test_features_that_peek_end_the_study(bars, monkeypatch):
    "One column of the matrix looks one bar ahead: the model earns a fortune, and the verdict is no."
    def peeking(bars, *args, **more):
        matrix = compute_features(bars, *args, **more).copy()
        matrix[:-1, FEATURES.index("ret_1")] = np.diff(bars.close)
        return matrix
    for where in (room, mesbot.walkforward): monkeypatch.setattr(where, "compute_features", peeking)
    verdict = walk_forward(bars, load_config(**SMALL)).summary["verdict"]
    assert verdict["answer"] == "no" and verdict["sentence"].startswith("No verdict: the features fail their own checks")
    assert verdict["reasons"][0].startswith("`ret_1` sees the future: row ")


def test_features_from_elsewhere_end_the_study(bars, monkeypatch):
    "The matrix that models learn from is not what the checked function makes: a stale file, another version."
    monkeypatch.setattr(room, "features_of", lambda bars, config: compute_features(bars) * np.float32(1.001))
    verdict = walk_forward(bars, load_config(**SMALL)).summary["verdict"]
    assert verdict["answer"] == "no" and verdict["reasons"] == ["the numbers of session 5 of 8, made again, are others than the study used"]


def test_features_that_remember_yesterday_are_told(bars):
    "A column that depends on how much history was loaded."
    def remembering(bars, *args, **more):
        matrix = compute_features(bars, *args, **more).copy()
        matrix[:, FEATURES.index("pos_day")] = bars.close - bars.close[0]
        return matrix
    check = room.feature_checks(bars, remembering(bars), remembering)[1]
    assert not check["ok"] and "`pos_day` depends on how much history was loaded" in check["sentence"]


def test_what_models_lean_on_is_measured_on_unseen_sessions(walk):
    "FEA-7: the planted signal comes first by far; a rule leans on nothing that is measured; groups cover all features."
    single, group = (walk.importance[walk.importance["what"] == what] for what in ("feature", "group"))
    assert set(single["predictor"]) == {"logistic"} and set(single["name"]) == set(FEATURES) and list(sorted(group["name"])) == sorted(GROUPS)
    best = single.iloc[0]
    assert best["name"] == "flow_25" and best["ic"] > 3 * single["ic"].iloc[1] and best["ic_low"] > 0
    assert group.iloc[0]["name"] == "flow" and (walk.importance["folds"] == 2).all() and (walk.importance["sessions"] == 4).all()
    assert sum(map(len, GROUPS.values())) == len(FEATURES)


def test_importance_can_be_left_out(bars):
    assert walk_forward(take_sessions(bars, 0, 6), load_config(**SMALL | dict(models=dict(predictors=["logistic"], importance_rows=0)))).importance.empty


def test_importance_changes_no_result(bars, walk):
    "Measuring draws from a generator of its own."
    without = walk_forward(bars, load_config(**SMALL | dict(models=SMALL["models"] | dict(importance_rows=0))))
    pd.testing.assert_frame_equal(without.trades.drop(columns="config_hash"), walk.trades.drop(columns="config_hash"))


def test_features_on_disk_change_no_result(bars, walk, monkeypatch, tmp_path):
    "DAT-9: what does not fit into memory is walked over from files, to the same result."
    monkeypatch.setattr(room, "IN_MEMORY", 0)
    config = load_config(**SMALL, paths=dict(store=str(tmp_path)))
    assert isinstance(room.prepare(bars, config).features, np.memmap) and list((tmp_path / ".features").glob("*.npy"))
    pd.testing.assert_frame_equal(walk_forward(bars, config).trades, walk.trades)


def test_labels_are_counted_and_weighed(walk):
    "Class balance and overlap where models learn: one label of 30 s every 5 s is worth about a sixth, or less where nothing trades."
    s = walk.summary
    assert abs(sum(s["class_shares"].values()) - 1) < 1e-9 and s["label_kind"] == "move"
    assert 8 * 3500 < s["labels"] <= 8 * 23_400 / 5 and 1 / 8 < s["effective_labels"] / s["labels"] < 1 / 4


def test_models_can_learn_what_trades_earn(bars, tmp_path):
    "TGT-2 through the whole report: other labels, other models, and the page says which."
    config = load_config(**SMALL, labels=dict(kind="barrier"), paths=dict(runs=str(tmp_path)))
    walk, page = make_report(bars, config, {"kind": "synthetic", "title": "a planted market", "alpha": .1})
    assert walk.summary["label_kind"] == "barrier" and walk.summary["class_shares"]["FLAT"] > .1
    text = page.read_text()
    assert "Can the features be believed?" in text and "What the models lean on" in text and "without overlap" in text
    run = read_run(page.parent)
    pd.testing.assert_frame_equal(run.importance, walk.importance, check_dtype=False)
    assert json.loads((page.parent / "metrics.json").read_text())["label_kind"] == "barrier"
