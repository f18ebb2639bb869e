"BT-8, BT-10, BT-11: whatever is scored is counted, the gates pay for it, a walk that is killed goes on, and nothing is lost or doubled."
import inspect
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mesbot.config import load_config, with_settings
from mesbot.gates import LUCK, SAFETY
from mesbot.ledger import Ledger, ledger_path, session_fingerprints
from mesbot.luck import against_all, against_luck
from mesbot.report import WORK, make_report, plain, read_run
from mesbot.synth import synthetic_market
from mesbot.walkforward import LUCK_NUMBERS, walk_forward, walk_identity

SMALL = dict(folds=dict(train_sessions=3, calibration_sessions=1, embargo_sessions=0, test_sessions=2), models=dict(predictors=["always_flat", "rsi_rule", "logistic"], importance_rows=0))


@pytest.fixture(scope="module")
def market(): return synthetic_market(9, seed=21, alpha=.1)


def settings(tmp, **more): return load_config(**SMALL | more, paths=dict(runs=str(tmp)))


@pytest.fixture(scope="module")
def walk(market, tmp_path_factory): return walk_forward(market.bars, settings(tmp_path_factory.mktemp("walk")))


# --- the ledger ---

def test_every_walk_is_written_into_the_ledger(market, tmp_path):
    "A row a predictor that may trade, the same ones again are no new ones, other settings are; and there is no switch."
    marks = session_fingerprints(market.bars)
    seen = []
    for config in (settings(tmp_path), settings(tmp_path), settings(tmp_path, stops=dict(stop_ticks=7))):
        walk = walk_forward(market.bars, config)
        seen.append((Ledger(ledger_path(config)).count(marks), walk.summary["ledger"]["trials"], walk.summary["luck"]["logistic"]["trials"], len(walk.trials)))
    assert seen == [(2, 2, 2, 2), (2, 2, 2, 2), (4, 4, 4, 4)]
    assert list(inspect.signature(walk_forward).parameters) == ["bars", "config", "planted", "progress", "folder", "jobs", "cluster"]


def test_without_a_ledger_there_is_no_walk(market, tmp_path):
    (tmp_path / "ledger.sqlite").write_text("no ledger")
    with pytest.raises(ValueError, match="no ledger of trials"): walk_forward(market.bars, settings(tmp_path))


def test_every_try_makes_the_same_result_less_sure(market, tmp_path):
    "The days are the same; only the number of tries is not."
    first = walk_forward(market.bars, settings(tmp_path)).summary["luck"]["logistic"]
    for stop in (6, 7): walk_forward(market.bars, settings(tmp_path, stops=dict(stop_ticks=stop)))
    last = walk_forward(market.bars, settings(tmp_path)).summary["luck"]["logistic"]
    assert last["psr"] == first["psr"] and (first["trials"], last["trials"]) == (2, 6)
    assert last["dsr"] < first["dsr"] <= first["psr"] and last["benchmark_sharpe"] > first["benchmark_sharpe"]


def test_the_best_of_many_coins_is_refused_and_an_edge_is_not():
    "BT-8, over fifty ledgers of forty worthless configurations: the best one passes the deflated Sharpe ratio, overfitting and SPA together in at most one in twenty."
    passed = {"coins": 0, "edge": 0}
    for seed in range(50):
        rng = np.random.default_rng(seed)
        daily = rng.normal(0, 20, (120, 40))
        for name, matrix in (("coins", daily), ("edge", daily + np.where(np.arange(40) == 3, 14, 0))):
            whole, sharpes = against_all(matrix, 40, [seed], 200), matrix.mean(0) / matrix.std(0, ddof=1)
            found = against_luck(matrix[:, sharpes.argmax()], whole, sharpes)
            passed[name] += found["dsr"] >= .95 and whole["oos_loss"] <= .2 and (whole["pbo"] <= .2 or whole["oos_loss"] <= .05) and whole["spa"] <= .05
    assert passed["coins"] <= 2 and passed["edge"] >= 45, passed


# --- gates ---

def test_the_table_of_gates_and_the_verdict_agree(walk):
    for name, table in walk.gates.groupby("predictor"):
        assert len(table) == len(LUCK + SAFETY) + 3 and name != "always_flat"
        assert ((table["reason"].eq("") | table["reason"].str.startswith("passed all the same")) == table["passed"])[table["gates"]].all() and (table["value"].notna() | ~table["passed"] | table["gate"].str.startswith("latency"))[table["gates"]].all()
    passed = walk.gates[walk.gates["gates"]].groupby("predictor")["passed"].all()
    assert passed.any() == (walk.summary["verdict"]["answer"] == "yes")
    accuracy = walk.gates[~walk.gates["gates"]]
    assert accuracy["gate"].str.contains("always saying FLAT").all() and len(accuracy) == 2        # shown, never a gate
    assert set(walk.summary["luck"]["logistic"]) == set(LUCK_NUMBERS)


def test_what_a_report_needs_is_there(walk):
    assert list(dict.fromkeys(walk.stress["case"]))[:4] == ["as traded", "costs × 1.5", "one tick more", "one second later"]
    by = walk.stress[walk.stress["predictor"] == "logistic"].set_index("case")
    assert by.loc["as traded", "net_usd"] == pytest.approx(walk.summary["predictors"]["logistic"]["net_usd"]) and by.loc["one tick more", "net_usd"] < by.loc["as traded", "net_usd"]
    assert {"session", "q05", "q50", "q95", "predictor"} <= set(walk.fan.columns) and walk.fan["session"].max() == 252
    assert {(c["predictor"], c["rules"]) for c in walk.summary["challenge"]} >= {("logistic", "topstep-50k"), ("logistic", "ftmo-like-100k")}
    assert walk.summary["overfitting"]["configurations"] == walk.summary["ledger"]["covering"] == 2


def test_cores_change_no_result(market, walk, tmp_path):
    other = walk_forward(market.bars, settings(tmp_path), jobs=2)
    for name in ("folds", "trades", "daily", "equity", "skill", "stress", "fan"): pd.testing.assert_frame_equal(getattr(other, name), getattr(walk, name))
    timeless = [table[~table["gate"].str.startswith("latency")] for table in (other.gates, walk.gates)]
    pd.testing.assert_frame_equal(*timeless)


# --- what a kill leaves ---

SCRIPT = """
import sys
from mesbot.config import load_config
from mesbot.report import make_report
from mesbot.synth import synthetic_market
bars = synthetic_market(9, seed=21, alpha=.1).bars
make_report(bars, load_config(**{small}, paths=dict(runs=sys.argv[1])), {{"kind": "synthetic", "title": "to be killed", "alpha": .1}}, jobs=int(sys.argv[2]))
"""


def killed_after(runs, count, jobs):
    "Start the report, and kill it with everything it began when so many steps are kept; the steps that were."
    process = subprocess.Popen([sys.executable, "-c", SCRIPT.format(small=SMALL), str(runs), str(jobs)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    steps = lambda: sorted(Path(runs).glob(f"*/{WORK}/*/*.pickle"))
    until = time.monotonic() + 300
    while len(steps()) < count and process.poll() is None and time.monotonic() < until: time.sleep(.01)
    assert process.poll() is None, "it ended before it could be killed"
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return {path: path.stat().st_mtime_ns for path in steps()}


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_report_that_was_killed_goes_on(market, walk, tmp_path, jobs):
    "BT-8: kill -9 twice, then run again: one folder, what was done is not done again, the numbers are those of an uninterrupted walk, and the ledger holds each trial once."
    first = killed_after(tmp_path, 1, jobs)
    second = killed_after(tmp_path, len(first) + 2, jobs)
    assert set(second.items()) >= set(first.items()) and len(second) > len(first)
    config = settings(tmp_path)
    made, page = make_report(market.bars, config, {"kind": "synthetic", "title": "goes on", "alpha": .1})
    assert [folder.name for folder in tmp_path.glob("*_report*")] == [page.parent.name] and not (page.parent / WORK).exists() and page.is_file()
    for name in ("folds", "trades", "daily", "equity", "skill"): pd.testing.assert_frame_equal(getattr(made, name), getattr(walk, name).assign(**({"config_hash": getattr(made, name)["config_hash"]} if name == "trades" else {})))
    assert plain(made.summary["luck"]) == plain(walk.summary["luck"])
    table = Ledger(ledger_path(config)).trials()
    assert len(table) == 2 and not table.duplicated(["hash", "predictor", "kind"]).any()


def test_kept_work_of_another_walk_is_not_looked_at(market, tmp_path):
    config = settings(tmp_path)
    one, other = (walk_identity(market.bars, c) for c in (config, with_settings(config, {"stops.stop_ticks": 9})))
    assert one != other and walk_identity(market.bars, config, np.ones(3)) not in (one, other)
    assert walk_identity(market.bars, config) == one == walk_identity(market.bars, settings(tmp_path / "elsewhere"))


# --- the commands ---

def mesbot(*args, cwd=None):
    return subprocess.run([str(Path(sys.executable).with_name("mesbot")), *map(str, args)], capture_output=True, text=True, cwd=cwd)


@pytest.fixture(scope="module")
def runs(market, tmp_path_factory):
    "Two finished run folders: the same walk under two stops."
    home = tmp_path_factory.mktemp("runs")
    return [make_report(market.bars, settings(home, **more), {"kind": "synthetic", "title": title, "alpha": .1})[1].parent for title, more in (("one", {}), ("two", dict(stops=dict(stop_ticks=6))))]


def test_gates_of_a_run(runs):
    verdict = read_run(runs[0]).metrics["verdict"]
    done = mesbot("gates", runs[0])
    assert done.returncode == (0 if verdict["answer"] == "yes" else 1) and verdict["sentence"] in done.stdout, done.stderr
    rule = mesbot("gates", runs[0], "--predictor", "rsi_rule")
    assert rule.returncode == 1 and "FAIL  net ticks a contract, lower bound" in rule.stdout and "rsi_rule fails" in rule.stdout
    for args, says in (((runs[0] / "gone",), "no run folder"), ((runs[0], "--predictor", "lstm"), "rsi_rule, logistic"), ((), "RUN")):
        done = mesbot("gates", *args)
        assert done.returncode == 2 and done.stderr.count("\n") == 1 and says.lower() in done.stderr.lower(), done.stderr


def test_gates_that_pass_exit_with_zero(runs, tmp_path):
    "The exit code follows the table, not the text."
    import shutil
    folder = tmp_path / "passes"
    shutil.copytree(runs[0], folder)
    gates = pd.read_parquet(folder / "gates.parquet")
    gates.assign(passed=True).to_parquet(folder / "gates.parquet")
    assert mesbot("gates", folder).returncode == 0
    gates.assign(passed=gates["gate"] != "timing, p").to_parquet(folder / "gates.parquet")
    assert mesbot("gates", folder).returncode == 1


def test_two_runs_side_by_side(runs):
    done = mesbot("compare", *runs)
    assert done.returncode == 0, done.stderr[-1500:]
    page = Path(done.stdout.strip().split("\n")[-1]).read_text()
    assert "stop_ticks" in page and all(read_run(run).metrics["verdict"]["sentence"] in page for run in runs)
    assert mesbot("compare", runs[0], runs[0] / "gone").returncode == 2


def test_honesty_counts_and_goes_on(tmp_path):
    "Two markets of each kind, killed after the first rows, run again: every market once; the exit code follows the rates."
    rows = tmp_path / "rows.jsonl"
    (tmp_path / "small.toml").write_text('[models]\npredictors = ["always_flat", "logistic"]\n')
    args = [str(Path(sys.executable).with_name("mesbot")), "honesty", "--seeds", "2", "--out", str(rows), "--jobs", "1", "--config", "small.toml"]
    process = subprocess.Popen(args, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and not (rows.is_file() and rows.read_text().count("\n") >= 1): time.sleep(.02)
    process.kill(); process.wait()
    before = rows.read_text().split("\n")[0]
    done = subprocess.run(args, cwd=tmp_path, capture_output=True, text=True)
    found = [json.loads(line) for line in rows.read_text().splitlines()]
    assert sorted((row["seed"], row["alpha"]) for row in found) == [(1, 0.0), (1, .1), (2, 0.0), (2, .1)] and rows.read_text().startswith(before)
    assert [row["answer"] for row in found if row["alpha"] == 0] == ["no", "no"] and "without an edge: 0 of 2 markets say yes" in done.stdout
    planted = [row for row in found if row["alpha"]]
    assert all(row["recovered_share"] > .7 for row in planted) and done.returncode == (0 if all(row["answer"] == "yes" for row in planted) else 1)


def test_the_base_rate_is_counted_on_the_past_only(market, tmp_path, monkeypatch):
    "What hour and volatility know is learnt before the test block: as many moved rows as there are before it, and no other."
    import mesbot.fold_run as room
    from mesbot.folds import rolling_folds
    from mesbot.study import prepare
    study, seen, real = prepare(market.bars, settings(tmp_path)), [], room.base_rates
    fold = rolling_folds(9, study.config.folds)[1]
    monkeypatch.setattr(room, "base_rates", lambda up, hour, volatility: seen.append(len(up)) or real(up, hour, volatility))
    room.run_fold(study, fold, "rsi_rule")
    first = market.bars.sessions[fold.test[0]]
    moved = study.traded & (np.abs(study.moves) >= 3) & np.isfinite(study.scaled)
    assert seen == [moved[:first].sum()] and moved[first:].any()


def test_what_is_refused_leaves_nothing_behind(tmp_path):
    "A cluster that is none, too few sessions: one line, and no run folder that holds nothing."
    for args in (("report", "--sessions", 3, "--cluster", "nonsense"), ("optimize", "--sessions", 12, "--jobs", 0), ("optimize", "--sessions", 4), ("optimize", "--sessions", 12, "--cluster", "nonsense")):
        done = mesbot(*args, cwd=tmp_path)
        assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
        assert done.stderr.strip().split("\n")[-1].startswith(("mesbot: ", "walk-forward", "search")) and not list((tmp_path / "runs").glob("2*")), args
