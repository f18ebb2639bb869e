"""`mesbot models practice`: a first model in seconds, never learnt from the days that paper replays (MOD-8); 0 when done, 2 and one line for wrong input."""
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from live_runner.simulator.sources import synthetic_tape
from mesbot import model_commands
from mesbot.bars import data_hash
from mesbot.config import load_config
from mesbot.features import compute_features
from mesbot.model_files import model_hash, read_manifest
from mesbot.practice import APART, fit_practice, practice_market
from mesbot.predictors import RsiRule
from mesbot.registry import current_version, history, load_current, promote, register, versions
from mesbot.sim import backtest


def typed(*args):
    done = CliRunner().invoke(model_commands.models, list(map(str, args)))
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.output


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    "A registry after the command, and what it said."
    root = tmp_path_factory.mktemp("models")
    return root, *typed("practice", "--models", root)


@pytest.fixture(scope="module")
def paper(): return synthetic_tape(2, 1, .1).bars


def test_a_model_is_promoted_and_one_line_says_what_it_is_for(root):
    root, code, output = root
    assert code == 0 and output.count("\n") == 1 and "practice 1.0.0 is current" in output and "for practice only" in output and "never those of seed 1 that paper replays" in output
    assert load_current(root, "practice", load_config()).horizon_s == 30
    assert "for practice only" in history(root, "practice")["why"].iloc[0] and "for practice only" in read_manifest(root / "practice/1.0.0")["about"]["source"]["title"]


def test_it_never_saw_a_day_that_paper_replays(root, paper):
    "Seeds of paper are below a million, those of practice are not; the moves of the same second have nothing to do with each other."
    source = read_manifest(root[0] / "practice/1.0.0")["about"]
    assert source["source"]["seed"] == APART + 1 and source["data_hash"] == data_hash(practice_market(8, 1, .1).bars)
    learnt = practice_market(2, 1, .1).bars
    at, row, other = np.intersect1d(learnt.ts, paper.ts, return_indices=True)      # the same seconds of the same dates
    moves = [np.diff(bars.close[rows].astype(float)) for bars, rows in ((learnt, row), (paper, other))]
    assert len(at) > 40_000 and abs(np.corrcoef(*moves)[0, 1]) < .02 and data_hash(learnt) != data_hash(paper)


def test_paper_has_something_to_trade_by(root, paper):
    "It is sure often enough, on days it never saw, and it has found the edge that was planted."
    said = load_current(root[0], "practice").predict(compute_features(paper), paper.sessions)
    done = backtest(paper, said, load_config())
    assert done.summary["trades"] > 20 and done.summary["net_usd"] > 0


def test_asked_again_it_leaves_the_model_that_is_there_alone(root, tmp_path):
    where = root[0]
    before = model_hash(where / "practice/1.0.0")
    code, output = typed("practice", "--models", where, "--seed", 7)
    assert code == 0 and "practice 1.0.0 is current" in output and "already" in output and "for practice only" in output
    assert versions(where, "practice") == ["1.0.0"] and model_hash(where / "practice/1.0.0") == before
    register(RsiRule(30, low=20), "practice", tmp_path, {"labels": load_config().labels.model_dump(mode="json")})
    promote(tmp_path, "practice", "1.0.0", "Ada", "mine")
    typed("practice", "--models", tmp_path)
    assert isinstance(load_current(tmp_path, "practice"), RsiRule) and versions(tmp_path, "practice") == ["1.0.0"]   # a person's own choice stands


def test_what_cannot_be_used_any_more_is_replaced(tmp_path):
    "A model of other labels, or a damaged one."
    (tmp_path / "far.toml").write_text("[labels]\nhorizon_s = 60\n")
    at = ("--models", tmp_path / "m", "--sessions", 3)
    assert typed("practice", *at)[0] == typed("practice", *at, "--config", tmp_path / "far.toml")[0] == 0
    assert current_version(tmp_path / "m", "practice") == "1.0.1" and load_current(tmp_path / "m", "practice").horizon_s == 60
    (tmp_path / "m/practice/1.0.1/facts.json").unlink()
    assert typed("practice", *at)[0] == 0 and current_version(tmp_path / "m", "practice") == "1.0.2"
    assert history(tmp_path / "m", "practice")["version"].tolist() == ["1.0.0", "1.0.1", "1.0.2"]


def test_same_seed_same_model():
    bars = practice_market(3, 4, .1).bars
    one, other = (fit_practice(bars, load_config(), 4) for _ in range(2))
    np.testing.assert_array_equal(one.weights, other.weights)
    assert one.calibration.facts() == other.calibration.facts()


@pytest.mark.parametrize("args, says", [(("--sessions", "1"), "sessions must be 2 or more"), (("--seed", "-1"), "seed must be from 0"), (("--seed", "1000000"), "seed must be from 0 to 999,999"),
                                        (("--alpha", "9"), "alpha must be from 0"), (("--config", "gone.toml"), "gone.toml: no such config file")])
def test_wrong_input_is_one_line_and_exit_code_2(args, says, tmp_path):
    code, output = typed("practice", "--models", tmp_path / "m", *args)
    assert code == 2 and output.startswith("mesbot: ") and says in output and output.count("\n") == 1 and not Path(tmp_path / "m").exists()
