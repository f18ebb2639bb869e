"""Every kind of predictor, from rows to a folder and back into a process that trades (MOD-1, MOD-2, MOD-4 to MOD-8, FEA-5)."""
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mesbot.config import NET_NAMES, PREDICTORS, load_config
from mesbot.core import Label
from mesbot.ensembles import confidence_tiers, fit_weights, pool
from mesbot.features import FEATURES
from mesbot.fitting import REQUIRES_TRAINING, Material, fit_predictor, moved_rows
from mesbot.folds import rolling_folds
from mesbot.model_files import WrongFeatures, WrongScaler, about_config, load_predictor, save_predictor
from mesbot.portable import TooSlow
from mesbot.registry import load_current, promote, register, roll_back
from mesbot.synth import synthetic_market
from mesbot.fold_run import run_fold
from mesbot.study import material_of, prepare, training_blocks
from mesbot.walkforward import walk_forward

SMALL = dict(folds=dict(train_sessions=3, calibration_sessions=1, embargo_sessions=0, test_sessions=1), networks=dict(epochs=2, length=12, width=8, hidden=[8], batch=256),
             models=dict(predictors=["always_flat", *(name for name in PREDICTORS if name not in ("always_flat", "rsi_rule"))], every_s=20, importance_rows=0))


@pytest.fixture(scope="module")
def study(): return prepare(synthetic_market(5, seed=21, alpha=.1).bars, load_config(**SMALL))


@pytest.fixture(scope="module")
def fitted(study):
    fold = rolling_folds(5, study.config.folds)[0]
    blocks, found = training_blocks(study, fold), {}
    for name in REQUIRES_TRAINING: found[name] = fit_predictor(name, material_of(study), *blocks, study.config, [1, 2], list(found.values()), calls=50)
    return found


def test_every_kind_says_the_same_after_a_journey_through_files(study, fitted, tmp_path):
    "MOD-1, MOD-8: probabilities, moves and volatilities, bit for bit; and of the calibration block no row more is known than is warm."
    a, b = study.bars.sessions[[3, 4]]
    x = study.features[a:b]
    for name, predictor in fitted.items():
        save_predictor(predictor, tmp_path / name, about_config(study.config))
        one, other = predictor.predict(x), load_predictor(tmp_path / name, study.config).predict(x)
        for field in ("probability", "move_ticks", "volatility_ticks"): np.testing.assert_array_equal(getattr(one, field), getattr(other, field), name)
        known = np.isfinite(one.probability[:, 0])
        assert 1000 < known.sum() < len(x), name
        np.testing.assert_allclose(one.probability[known].sum(1), 1, atol=1e-5)
    leave = fitted["hybrid"].predict(x).leave
    assert np.isfinite(leave).sum() > 1000 and np.nanmin(leave) >= 0 and np.nanmax(leave) <= 1


def test_a_live_process_needs_no_torch(study, fitted, tmp_path):
    "MOD-8: loading and asking every kind of model brings in onnxruntime for the nets, and neither torch nor scikit-learn; the answers are the same."
    x = study.features[study.bars.sessions[3]:][5000:5040]
    np.save(tmp_path / "x.npy", x)
    for name, predictor in fitted.items(): promote(tmp_path / "models", name, register(predictor, name, tmp_path / "models", about=about_config(study.config)), "test", "first")
    code = (f"import sys, numpy as np; from mesbot.registry import load_current; x = np.load({str(tmp_path / 'x.npy')!r}); "
            f"np.save({str(tmp_path / 'said.npy')!r}, np.stack([load_current({str(tmp_path / 'models')!r}, name).predict(x).probability for name in {list(fitted)}])); "
            "print(sorted({'torch', 'sklearn', 'onnx', 'safetensors', 'matplotlib'} & set(sys.modules)))")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr
    np.testing.assert_array_equal(np.load(tmp_path / "said.npy"), np.stack([p.predict(x).probability for p in fitted.values()]))


@pytest.mark.parametrize("name", ["logistic", "lstm", "ensemble"])
def test_a_scaler_or_an_order_of_features_that_is_another_is_refused(fitted, study, tmp_path, name):
    "FEA-5, MOD-8: even when the file's own hash is made to fit."
    import hashlib
    save_predictor(fitted[name], tmp_path / "m", about_config(study.config))
    path = tmp_path / "m" / "facts.json"
    facts = json.loads(path.read_text())
    scaler = facts["members"][0]["scaler"] if name == "ensemble" else facts["scaler"]
    scaler["mean"][0] += 1
    path.write_text(json.dumps(facts))
    with pytest.raises(WrongScaler): load_predictor(tmp_path / "m")
    save_predictor(fitted[name], tmp_path / "n", about_config(study.config))
    path = tmp_path / "n" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["features"][0], manifest["features"][1] = manifest["features"][1], manifest["features"][0]
    path.write_text(json.dumps(manifest))
    (tmp_path / "n" / "manifest.sha256").write_text(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  manifest.json\n")
    with pytest.raises(WrongFeatures): load_predictor(tmp_path / "n")


def test_the_drill(fitted, study, tmp_path):
    "MOD-8: a worse model is promoted, the old one comes back with one call, and says what it said."
    x, root = study.features[study.bars.sessions[3]:][5000:5100], tmp_path / "models"
    for predictor in (fitted["logistic"], fitted["boosting"]): promote(root, "direction", register(predictor, "direction", root, about=about_config(study.config)), "test", "better")
    np.testing.assert_array_equal(load_current(root, "direction").predict(x).probability, fitted["boosting"].predict(x).probability)
    assert roll_back(root, "direction", "test", "worse") == "1.0.0"
    np.testing.assert_array_equal(load_current(root, "direction").predict(x).probability, fitted["logistic"].predict(x).probability)


def test_a_window_never_reaches_into_another_session(study, fitted):
    "MOD-3: a session alone, or after another: the same."
    one, two = study.bars.sessions[[3, 4]]
    for name in NET_NAMES:
        alone = fitted[name].predict(study.features[two:two + 3000]).probability
        after = fitted[name].predict(study.features[one:two + 3000], np.array([0, two - one, two - one + 3000])).probability[two - one:]
        np.testing.assert_allclose(alone, after, atol=1e-6, err_msg=name)


def test_a_net_that_is_too_slow_is_no_model(study):
    "MOD-7."
    config = load_config(**SMALL | {"models": SMALL["models"] | dict(max_latency_ms=1e-3)})
    with pytest.raises(TooSlow, match="95th percentile"):
        fit_predictor("lstm", material_of(study), *training_blocks(study, rolling_folds(5, config.folds)[0]), config, [1], calls=50)


def test_training_sees_no_row_whose_label_is_known_too_late(study):
    "Labels of the last fit rows that become known in the rows that decide when to stop change nothing: they are purged."
    material = material_of(study)
    rows = np.flatnonzero(study.traded & (study.labels.label >= 0) & np.isfinite(study.features).all(1))[:4000]
    held = rows[int(len(rows) * .9)]
    late = rows[(rows < held) & (material.known_at[rows] > material.ts[held])]
    assert len(late) > 5
    other = material.label.copy()
    other[late] = 2 - other[late]
    one, two = (fit_predictor("feed_forward", m, rows, rows[:0], study.config, [3], calls=0).weights for m in (material, material._replace(label=other)))
    assert one == two


def test_a_walk_with_every_model_and_an_ensemble(study):
    "MOD-1, MOD-4, MOD-6: each has its row, its trades' regime, its reliability and, a net, its curves."
    walk = walk_forward(study.bars, study.config)
    assert list(walk.summary["predictors"]) == list(study.config.models.predictors) and set(walk.curves["predictor"]) == set(NET_NAMES)
    assert set(walk.reliability["predictor"]) <= set(REQUIRES_TRAINING) and set(walk.summary["recency"]) == set(walk.summary["predictors"])
    assert "regime" in walk.trades and set(walk.trades["regime"]) <= {"ranging", "trending", "volatile", "unknown"}
    assert {"logistic", "boosting", *NET_NAMES} <= {m.kind if m.kind != "net" else m.name for m in walk.predictors["ensemble"].members}


def test_a_killed_walk_goes_on_inside_a_net(study, tmp_path):
    "MOD-2: the checkpoint of each fold's net lies in a folder of its own, and a second walk learns nothing twice."
    fold = rolling_folds(5, study.config.folds)[0]
    one = run_fold(study, fold, "feed_forward", (), tmp_path)
    stamp = (tmp_path / "1_feed_forward" / "training.checkpoint").stat().st_mtime_ns
    two = run_fold(study, fold, "feed_forward", (), tmp_path)
    assert one.predictor.weights == two.predictor.weights and (tmp_path / "1_feed_forward" / "training.checkpoint").stat().st_mtime_ns == stamp


def test_samples_by_event_are_rows_at_another_price(study):
    config = load_config(**SMALL | {"models": SMALL["models"] | dict(sample="event", every_s=1)})
    blocks = training_blocks(study._replace(config=config), rolling_folds(5, config.folds)[0])
    assert len(blocks[0]) > 1000 and (np.diff(study.bars.close[blocks[0]]) != 0).all()


def test_caution_holds_for_an_ensemble_too_and_it_is_timed(study, fitted):
    "MOD-5, MOD-7: calibration of the pool must not take the caution back."
    config = load_config(**SMALL | {"models": SMALL["models"] | dict(humble_share=.3)})
    members, blocks = [fitted["logistic"], fitted["boosting"]], training_blocks(study, rolling_folds(5, config.folds)[0])
    plain, careful = (fit_predictor("ensemble", material_of(study), *blocks, c, [1], members, calls=20) for c in (study.config, config))
    x = study.features[study.bars.sessions[3]:][-3000:]
    one, other = plain.predict(x).probability, careful.predict(x).probability
    np.testing.assert_allclose(other[:, [0, 2]], .7 * one[:, [0, 2]], rtol=1e-4)
    assert careful.latency["calls"] == 20 and careful.latency["p95_us"] > 0
    with pytest.raises(TooSlow): fit_predictor("ensemble", material_of(study), *blocks, load_config(**SMALL | {"models": SMALL["models"] | dict(max_latency_ms=1e-3)}), [1], members, calls=20)


def test_the_expected_move_is_in_the_unit_it_was_measured_in(study, fitted):
    "A hybrid foretells its own volatility; sizes of moves were measured in that of the features."
    from mesbot.predictors import volatility_ticks
    x, net = study.features[study.bars.sessions[3]:][-3000:], fitted["hybrid"]
    said = net.predict(x)
    p = said.probability
    np.testing.assert_allclose(said.move_ticks, (p[:, 2] * net.move_sizes[1] - p[:, 0] * net.move_sizes[0]) * volatility_ticks(x, 30), rtol=1e-5)
    assert np.nanmax(np.abs(said.volatility_ticks - volatility_ticks(x, 30))) > .01


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 2**32 - 1), st.integers(2, 5))
def test_fitted_weights_never_lose_to_equal_ones(seed, members):
    "MOD-6: on the rows they were fitted on; they are weights, and the pool is a probability."
    rng = np.random.default_rng(seed)
    p, y = rng.dirichlet(rng.uniform(.3, 3, 3), (members, 200)), rng.integers(0, 3, 200)
    loss = lambda w: -np.log(np.maximum(pool(p, w)[np.arange(200), y], 1e-12)).mean()
    weights = fit_weights(p, y)
    assert (weights >= 0).all() and abs(weights.sum() - 1) < 1e-9 and loss(weights) <= loss(np.full(members, 1 / members)) + 1e-9
    np.testing.assert_allclose(pool(p, weights).sum(1), 1, atol=1e-9)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(st.sampled_from([.5, .6, .65, .7, .75, .8, .9, float("nan")]), max_size=40), st.integers(1, 4))
def test_tiers_fall_at_once_and_rise_one_by_one(confidence, scans):
    "MOD-6: never above what the confidence says, never up by more than one, and only after so many looks in a row above."
    tiers = confidence_tiers(confidence, (.6, .7, .8), scans)
    wanted = np.sum(np.array(confidence)[:, None] >= [.6, .7, .8], 1) if confidence else np.zeros(0, int)
    assert (tiers <= wanted).all()
    for i, step in enumerate(np.diff(np.r_[0, tiers.astype(int)])):
        if step > 0: assert step == 1 and i + 1 >= scans and (wanted[i + 1 - scans:i + 1] > tiers[i] - 1).all()
        if step < 0: assert tiers[i] == wanted[i]


def test_class_weights_do_not_shift_what_is_said(study):
    "MOD-2: a net trained with weights on its classes claims each class about as often as it comes."
    config = load_config(**SMALL | {"networks": SMALL["networks"] | dict(class_weights=True, loss="focal", focal_gamma=1.0)})
    blocks = training_blocks(study, rolling_folds(5, config.folds)[0])
    net = fit_predictor("feed_forward", material_of(study), *blocks, config, [5], calls=0)
    said = net.at(study.features, blocks[1], study.bars.sessions)
    came = np.bincount(study.labels.label[blocks[1]], minlength=3) / len(blocks[1])
    np.testing.assert_allclose(np.nanmean(said, 0), came, atol=.06)


def test_rare_classes_and_too_few_rows():
    "A class that never came has next to no chance; too few warm rows are refused in one line."
    rng = np.random.default_rng(0)
    n = 3000
    x = rng.normal(size=(n, len(FEATURES))).astype(np.float32)
    ts = np.arange(n, dtype=np.int64) * 10**9
    label = np.where(x[:, 0] > 0, Label.UP, Label.FLAT).astype(np.int8)
    material = Material(x, label, x[:, 0] * 4, ts + 10**9, ts, np.array([0, n]))
    config = load_config(**SMALL)
    for name in ("logistic", "boosting"):
        p = fit_predictor(name, material, np.arange(2000), np.arange(2000, 2500), config, [1], calls=0).predict(x[2500:]).probability
        assert p[:, 0].max() < .35 and (p[:, 2] > p[:, 1])[x[2500:, 0] > 1].mean() > .8, name
    x[::8] = np.nan   # no window of twelve without a hole
    with pytest.raises(ValueError, match="lstm needs at least 100 warm training rows, got 0"): fit_predictor("lstm", material, np.arange(2000), np.arange(2000, 2500), config, [1])
    with pytest.raises(ValueError, match="unknown predictor 'oracle'"): fit_predictor("oracle", material, np.arange(10), np.arange(10), config, [1])
    with pytest.raises(ValueError, match="only class"): fit_predictor("boosting", material._replace(features=np.nan_to_num(x) + rng.normal(size=x.shape).astype("f4"), label=np.ones(n, np.int8)), np.arange(2000), np.arange(2000, 2500), config, [1])
    assert moved_rows(np.arange(3), np.array([1, 1, 2])).tolist() == [0, 2]
