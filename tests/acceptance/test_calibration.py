"""MOD-5: calibration against scikit-learn and the oracles of the literature; its fall-backs; reliability and ECE against what chance makes."""
import json
import subprocess
import sys

import numpy as np
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator
from sklearn.isotonic import IsotonicRegression
from sklearn.metrics import brier_score_loss
from sklearn.metrics import log_loss as sklearn_log_loss

from mesbot.calibration import KINDS, calibration_from, fit_calibration, fit_temperature, humble, softmax
from mesbot.reliability import brier, ece, ece_null, log_loss, reliability

EVERY = [(kind, direction) for kind in KINDS for direction in (False, True)]


def draw(odds, rng):
    "Labels that come with just these odds."
    return (odds.cumsum(1) < rng.random(len(odds))[:, None]).sum(1).clip(0, odds.shape[1] - 1)


def net(n, seed, scale=2.5, lean=(.4, 0, -.3), spread=1.2):
    "True odds, logits `scale` times too large with an offset a class, and labels."
    rng = np.random.default_rng(seed)
    true = rng.normal(0, spread, (n, 3))
    return softmax(true), scale * true + np.array(lean), draw(softmax(true), rng)


class Told(ClassifierMixin, BaseEstimator):
    "An estimator for scikit-learn that says what it is given."
    def __init__(self, classes=3): self.classes = classes
    def fit(self, x, y): self.classes_, self.fitted_ = np.arange(self.classes), True; return self
    def decision_function(self, x): return x if self.classes > 2 else x[:, 0]
    def predict(self, x): return x.argmax(1)


def by_sklearn(method, fit_on, y, later):
    "scikit-learn's calibration of the same numbers."
    classes = y.max() + 1
    return CalibratedClassifierCV(FrozenEstimator(Told(classes).fit(None, None)), method=method).fit(fit_on, y).predict_proba(later)


def log_odds(logits):
    p = softmax(logits)
    return np.log(p) - np.log1p(-p)


def test_temperature_recovers_what_was_done_to_the_logits():
    "The reference found 2.486 at n = 200,000 where 2.5 is true; the error of such a fit is about 0.01."
    for seed in range(3):
        _, z, y = net(200_000, seed, lean=(0, 0, 0))
        assert fit_temperature(z, y) == pytest.approx(2.5, abs=.03)
        assert fit_calibration(z, y, direction=False).facts()["classes"] == {"kind": "temperature", "temperature": fit_temperature(z, y)}
    assert fit_temperature(z / 2.5, y) == pytest.approx(1, abs=.012) and fit_temperature(z * 4, y) == pytest.approx(10, abs=.12)
    assert fit_temperature(z[:0], y[:0]) == 1
    _, z, y = net(20_000, 5)
    ours = fit_calibration(z, y, direction=False)
    np.testing.assert_allclose(ours(z), by_sklearn("temperature", z, y, z), atol=2e-5)


def test_scores_match_the_oracles():
    four, came = np.array([[.7, .2, .1], [.2, .6, .2], [.1, .3, .6], [.4, .3, .3]]), np.array([0, 1, 2, 1])
    assert brier(four, came) == pytest.approx(.345, abs=1e-12) and log_loss(four, came) == pytest.approx(.6455747489, abs=1e-10)
    assert brier(np.array([.1, .9, .8, .3]), np.array([0, 1, 1, 0])) == pytest.approx(.0375, abs=1e-12)
    claims, hits = np.array([.95, .85, .75, .65, .55, .55, .45, .45]), np.array([1, 1, 1, 0, 1, 0, 0, 1])
    assert ece(claims, hits, bins=10) == pytest.approx(.1625, abs=1e-12)
    assert ece(np.array([.5, .55]), np.array([1, 0])) == pytest.approx(.025)                    # a claim on a cut belongs to the bin above
    odds, _, y = net(500, 1)
    assert brier(odds, y) == pytest.approx(brier_score_loss(y, odds)) and log_loss(odds, y) == pytest.approx(sklearn_log_loss(y, odds))
    assert brier(odds[:, 2], y == 2) == pytest.approx(brier_score_loss(y == 2, odds[:, 2])) and log_loss(odds[:, 2], y == 2) == pytest.approx(sklearn_log_loss(y == 2, odds[:, 2]))
    for score in (brier, log_loss):
        with pytest.raises(ValueError, match="between 0 and 2, got -1"): score(odds, y - 1)    # else UNKNOWN would be read as UP


@pytest.mark.parametrize("block", ["three classes", "given a move"])
def test_platt_is_scikit_learns(block):
    _, z, y = net(8000, 2)
    _, later, _ = net(2000, 3)
    if block == "three classes":
        np.testing.assert_allclose(fit_calibration(z, y, "platt", direction=False)(later), by_sklearn("sigmoid", log_odds(z), y, log_odds(later)), atol=2e-6)
    else:
        p, moved = fit_calibration(z, y, "platt")(later).astype(float), y != 1
        expected = by_sklearn("sigmoid", z[moved][:, [2]] - z[moved][:, [0]], (y[moved] == 2).astype(int), later[:, [2]] - later[:, [0]])
        np.testing.assert_allclose(p[:, 2] / (p[:, 0] + p[:, 2]), expected[:, 1], atol=2e-6)


def test_isotonic_is_scikit_learns_but_never_certain():
    "One-vs-rest, renormalised; the curve is kept off 0 and 1 by Platt's softened goals."
    _, z, y = net(9000, 4)
    _, later, _ = net(2000, 5)
    ours = fit_calibration(z, y, "isotonic", direction=False)
    assert ours.kind == "isotonic"
    ours = ours(later)
    columns = []
    for k, (x, at) in enumerate(zip(log_odds(z).T, log_odds(later).T)):
        hits = (y == k).sum()
        columns.append(IsotonicRegression(y_min=1 / (len(y) - hits + 2), y_max=(hits + 1) / (hits + 2), out_of_bounds="clip").fit(x, y == k).predict(at))
    expected = np.column_stack(columns)
    np.testing.assert_allclose(ours, expected / expected.sum(1, keepdims=True), atol=1e-6)
    np.testing.assert_allclose(ours, by_sklearn("isotonic", log_odds(z), y, log_odds(later)), atol=1e-3)
    assert ours.min() > 0 and ours.max() < 1
    p, moved = fit_calibration(z, y, "isotonic")(later).astype(float), y != 1
    expected = by_sklearn("isotonic", z[moved][:, [2]] - z[moved][:, [0]], (y[moved] == 2).astype(int), later[:, [2]] - later[:, [0]])
    np.testing.assert_allclose(p[:, 2] / (p[:, 0] + p[:, 2]), expected[:, 1], atol=1e-3)


def test_the_likeliest_class_stays_under_a_temperature():
    for seed, scale in enumerate((.3, 1, 5, 15)):
        _, z, y = net(20_000, seed, scale)
        assert (fit_calibration(z, y, direction=False)(z).argmax(1) == z.argmax(1)).mean() > .9999   # float32 may tie what differed by less than 1e-7
        p = fit_calibration(z, y)(z)
        far = np.abs(z[:, 2] - z[:, 0]) > 1e-4
        np.testing.assert_array_equal((p[:, 2] > p[:, 0])[far], (z[:, 2] > z[:, 0])[far])


def test_the_way_is_calibrated_apart():
    "A net that is honest about moves and four times too sure of the way."
    rng = np.random.default_rng(6)
    def market(n):
        move, way = 1 / (1 + np.exp(-rng.normal(0, 1, n))), rng.normal(0, .2, n)
        up, told = 1 / (1 + np.exp(-way)), 1 / (1 + np.exp(-4 * way))
        return up, np.log(np.column_stack([move * (1 - told), 1 - move, move * told])), draw(np.column_stack([move * (1 - up), 1 - move, move * up]), rng)
    _, z, y = market(60_000)
    up, later, _ = market(20_000)
    flat = softmax(later)[:, 1]                                                                                # the net is honest about it
    given = lambda p: p[:, 2].astype(float) / (p[:, 0] + p[:, 2])
    wrong = lambda p: np.abs(given(p) - up).mean()
    one = fit_calibration(z, y, direction=False)(later)
    assert wrong(softmax(later)) > .1 and wrong(one) > .08 and np.abs(one[:, 1] - flat).mean() > .006
    for kind, limit in (("temperature", .006), ("platt", .01), ("isotonic", .02)):
        p = fit_calibration(z, y, kind)(later)
        assert wrong(p) < limit, kind
        assert np.abs(p[:, 1] - flat).mean() < (.015 if kind == "isotonic" else .005), kind                   # whether it moves is another question
    noise = rng.permutation(given(softmax(later)))                                                             # no skill in the way at all
    blind = np.log(np.column_stack([np.full(20_000, .3) * (1 - noise), np.full(20_000, .7), .3 * noise]))
    y = draw(np.tile([.15, .7, .15], (20_000, 1)), rng)
    for kind in ("temperature", "platt", "isotonic"): assert np.abs(given(fit_calibration(blind, y, kind)(blind)) - .5).mean() < .02, kind


@pytest.mark.parametrize("kind, direction", EVERY)
def test_probabilities_are_probabilities_and_travel_as_json(kind, direction):
    _, z, y = net(12_000, 7)
    fit = fit_calibration(z, y, kind, direction)
    assert fit.kind == kind and fit.facts()["note"] == "" and (fit.facts()["move"] is not None) == (direction and kind != "none")
    rng = np.random.default_rng(8)
    wild = np.concatenate([rng.normal(0, 10.0**k, (200, 3)) for k in range(-6, 7)] + [np.zeros((1, 3)), np.eye(3) * 1e30, np.full((1, 3), -1e30), z[:50]])
    holes = wild.copy()
    holes[3, 1], holes[5, 0], holes[7, 2] = np.nan, np.inf, -np.inf
    with np.errstate(all="raise", under="ignore"): p, q = fit(wild), fit(holes)
    assert p.dtype == np.float32 and (p >= 0).all() and (p <= 1).all()
    np.testing.assert_allclose(p.sum(1, dtype=float), 1, atol=3e-7)
    assert np.isnan(q[[3, 5, 7]]).all() and np.isfinite(np.delete(q, [3, 5, 7], 0)).all()
    np.testing.assert_array_equal(np.delete(q, [3, 5, 7], 0), np.delete(p, [3, 5, 7], 0))
    again = calibration_from(json.loads(json.dumps(fit.facts(), allow_nan=False)))
    assert again(wild).tobytes() == p.tobytes() and again.facts() == fit.facts() and again.kind == kind
    np.testing.assert_array_equal(fit(wild[:1]), p[:1])                                        # a row alone, as live
    single = fit(z.astype(np.float32)[:50])
    np.testing.assert_allclose(single, fit(z[:50]), atol=1e-5)
    np.testing.assert_allclose(fit(z[:50] + 40), fit(z[:50]), atol=1e-6)                       # only differences of logits count
    fit.facts()["classes"]["kind"] = "magic"                                                   # facts are a copy
    assert fit.facts() == again.facts()
    with pytest.raises(ValueError, match="shape"): fit(wild[:, :2])


def test_a_block_that_is_too_small_gives_way_and_says_so():
    "1,000 events of each class for isotonic, 50 for Platt, 10 for a temperature."
    rng = np.random.default_rng(9)
    def block(*counts):
        y = rng.permutation(np.repeat([0, 1, 2], counts))
        return 2 * np.eye(3)[y] + rng.normal(0, 2, (len(y), 3)), y
    for asked, counts, found, says in (("isotonic", (1000, 1000, 1000), "isotonic", ""), ("isotonic", (1000, 3000, 999), "platt", "isotonic needs 1,000 of each class, UP has 999"),
                                       ("isotonic", (49, 5000, 5000), "temperature", "platt needs 50 of each class, DOWN has 49"), ("platt", (50, 50, 50), "platt", ""),
                                       ("platt", (50, 49, 50), "temperature", "platt needs 50 of each class, FLAT has 49"), ("temperature", (10, 10, 10), "temperature", ""),
                                       ("temperature", (9, 100, 100), "none", "temperature needs 10 of each class, DOWN has 9"), ("temperature", (0, 0, 0), "none", "DOWN has 0"),
                                       ("none", (0, 0, 0), "none", "")):
        fit = fit_calibration(*block(*counts), asked, direction=False)
        facts = fit.facts()
        assert (fit.kind, facts["asked"], facts["events"], facts["rows"]) == (found, asked, list(counts), sum(counts))
        assert says in facts["note"] and bool(says) == bool(facts["note"]), facts["note"]
    z, y = block(5000, 5000, 20)
    facts = fit_calibration(z, y, "isotonic").facts()
    assert (facts["move"]["kind"], facts["classes"]["kind"]) == ("temperature", "isotonic") and "direction: platt needs 50 of each class, UP has 20" in facts["note"]
    z, y = block(9, 5000, 5000)
    np.testing.assert_allclose(fit_calibration(z, y)(z), softmax(z), atol=1e-6)
    assert fit_calibration(z, y).facts()["move"] is None
    z, y = block(500, 500, 500)
    facts = fit_calibration(-z, y, "platt").facts()                                            # a falling curve would turn the model round
    assert facts["classes"]["kind"] == "temperature" and "platt would turn" in facts["note"]


def test_rows_that_say_nothing_are_left_out_and_wrong_ones_refused():
    _, z, y = net(6000, 10)
    some, unknown = z.copy(), y.astype(np.int8).copy()
    some[::5, 1], some[1::50, 2], unknown[::3] = np.nan, np.inf, -1
    kept = np.isfinite(some).all(1) & (unknown >= 0)
    for kind in KINDS: assert fit_calibration(some, unknown, kind).facts() == fit_calibration(z[kept], y[kept], kind).facts()
    for bad, says in ((dict(kind="beta"), "got 'beta'"), (dict(y=y + 1), "labels must be -1, 0, 1 or 2, got 3"), (dict(logits=z[:, :2]), "one row a label"), (dict(y=y[:-1]), "one row a label")):
        with pytest.raises(ValueError, match=says): fit_calibration(**{"logits": z, "y": y} | bad)
    facts = fit_calibration(z, y).facts()
    for bad, says in (({}, "none of classes, kind, move, shift"), (facts | {"move": {"kind": "beta"}}, "got 'beta'")):
        with pytest.raises(ValueError, match=says): calibration_from(bad)


def test_class_weights_are_taken_back():
    "A net trained with class weights w says w p / sum(w p); no temperature mends that."
    odds, _, _ = net(60_000, 11)
    y, weights = draw(odds, np.random.default_rng(12)), np.array([1.6, .4, 1.0])
    z = np.log(odds * weights)
    back, left = fit_calibration(z, y, weights=weights), fit_calibration(z, y)
    assert np.abs(back(z) - odds).mean() < .004 and np.abs(left(z) - odds).mean() > .05
    np.testing.assert_array_equal(fit_calibration(z, y, weights=[1, 1, 1])(z), left(z))
    assert np.isfinite(fit_calibration(z, y, weights=[1, 1, 0])(z)).all()                      # an absent class has weight 0


def test_applying_needs_numpy_alone():
    "The live process loads a calibration from JSON: none of the libraries that fit it may be asked for."
    _, z, y = net(6000, 13)
    fit = fit_calibration(z, y, "isotonic")
    code = ("import sys, json\nfor name in ('scipy', 'sklearn', 'torch', 'onnx', 'matplotlib', 'pandas'): sys.modules[name] = None\n"
            "from mesbot.calibration import calibration_from\nimport numpy as np\n"
            "given = json.load(sys.stdin)\nprint(json.dumps(calibration_from(given['facts'])(np.array(given['z'])).astype(float).tolist()))")
    done = subprocess.run([sys.executable, "-c", code], input=json.dumps({"facts": fit.facts(), "z": z[:20].tolist()}), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    np.testing.assert_array_equal(np.array(json.loads(done.stdout)), fit(z[:20]))


@pytest.mark.parametrize("equal_mass", [False, True])
def test_an_honest_model_is_inside_its_own_null_and_a_scaled_one_outside(equal_mass):
    inside = outside = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        true = rng.normal(0, 1.2, (1000, 3))
        y = draw(softmax(true), rng)
        p = softmax(true)
        inside += ece(p.max(1), p.argmax(1) == y, 10, equal_mass) <= np.quantile(ece_null(p.max(1), 150, rng, 10, equal_mass), .95)
        p = softmax(2 * true)
        outside += ece(p.max(1), p.argmax(1) == y, 10, equal_mass) > np.quantile(ece_null(p.max(1), 150, rng, 10, equal_mass), .95)
    assert 181 <= inside < 200 and outside == 200


def test_the_null_knows_how_large_chance_is():
    "Perfect models measured .024 at n = 1,000 and .0054 at n = 20,000 (reference/statistics.md section 9)."
    rng = np.random.default_rng(14)
    for n, size in ((1000, .024), (20_000, .0054)):
        found = ece_null(softmax(rng.normal(0, 1.2, (n, 3))).max(1), 200, rng)
        assert found.shape == (200,) and .7 * size < found.mean() < 1.4 * size
    claims = rng.random(500)
    np.testing.assert_array_equal(ece_null(claims, 9, np.random.default_rng(1)), ece_null(claims, 9, np.random.default_rng(1)))


def test_bands_cover_when_sessions_differ_and_plain_ones_would_not():
    "Sessions with moods: the share of bins whose band holds the true mean claim, over many markets."
    held, plain, bins = {}, {}, 0
    for sessions in (5, 10, 40):
        rng, inside, naive, bins = np.random.default_rng(sessions), 0, 0, 0
        for _ in range(60):
            session = np.repeat(np.arange(sessions), 200)
            claim = rng.uniform(.2, .8, len(session))
            came = rng.random(len(session)) < claim + rng.uniform(-.2, .2, sessions)[session]
            table = reliability(claim, came, session, 5)
            assert (table.rows.sum(), len(table)) == (len(session), 5) and (table.sessions == sessions).all() and (table.worth < table.rows).all()
            assert ((0 <= table.low) & (table.low < table.came) & (table.came < table.high) & (table.high <= 1)).all()
            half = 1.96 * (table.came * (1 - table.came) / table.rows)**.5
            inside += ((table.low <= table.said) & (table.said <= table.high)).sum()
            naive += (np.abs(table.said - table.came) <= half).sum()
            bins += 5
        held[sessions], plain[sessions] = inside / bins, naive / bins
    assert all(.92 < share for share in held.values()) and held[40] < .99 and max(plain.values()) < .75, (held, plain)


def test_bands_widen_when_sessions_are_few():
    rng = np.random.default_rng(15)
    claim = rng.uniform(.3, .7, 6000)
    came = rng.random(6000) < claim
    tables = [reliability(claim, came, np.arange(6000) % m, 4) for m in (1, 2, 3, 6, 20, 100)]
    widths = np.array([(table.high - table.low).mean() for table in tables])
    assert (np.diff(widths) < 0).all() and widths[0] == 1 and widths[1] > 3 * widths[-1]
    np.testing.assert_allclose([(table.high - table.low).mean() for table in tables[-1:]], 2 * 1.96 * (.25 / 1500)**.5, rtol=.25)   # many sessions alike: nearly the plain band
    named = reliability(claim, came, np.array(["2024-01-02", "2024-01-03"])[np.arange(6000) % 2], 4)
    np.testing.assert_allclose(named.to_numpy(), tables[1].to_numpy())                         # dates do as well as numbers
    ties = reliability(np.repeat([.3, .6], 300), np.arange(600) % 2, np.arange(600) % 7, 10)
    assert len(ties) == 2 and ties.rows.tolist() == [300, 300]                                 # equal claims share a bin
    with pytest.raises(ValueError, match="between 0 and 1, got nan"): reliability(np.full(3, np.nan), np.ones(3), np.arange(3))


def test_humble_takes_from_directions_and_gives_to_flat():
    p = np.array([[.1, .3, .6], [np.nan] * 3, [0, 1, 0], [.5, 0, .5]], np.float32)
    np.testing.assert_allclose(humble(p, .05), [[.095, .335, .57], [np.nan] * 3, [0, 1, 0], [.475, .05, .475]], rtol=1e-6)
    np.testing.assert_array_equal(humble(p, 0), p)
    np.testing.assert_allclose(humble(p, 1)[0], [0, 1, 0], atol=1e-7)
    assert humble(p, .05).dtype == np.float32 and p[0, 2] == np.float32(.6)                    # the claims given are left alone
    odds, _, _ = net(5000, 16)
    q = humble(odds.astype(np.float32), .2)
    np.testing.assert_allclose(q.sum(1), 1, atol=1e-6)
    np.testing.assert_array_equal(q[:, 2] > q[:, 0], odds.astype(np.float32)[:, 2] > odds.astype(np.float32)[:, 0])
    for share in (-.1, 1.1, np.nan):
        with pytest.raises(ValueError, match=f"got {share}"): humble(p, share)
