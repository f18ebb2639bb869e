"BT-7: a search inside the training part of each fold, that survives being killed and finds the same wherever it runs."
import json
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pandas as pd
import pytest

from mesbot.bars import n_bars, session_info
from mesbot.config import load_config
from mesbot.ledger import Ledger, ledger_path, session_fingerprints
from mesbot.optimize import optimize
from mesbot.synth import synthetic_market

SMALL = {"folds": {"train_sessions": 5, "calibration_sessions": 1, "embargo_sessions": 0, "test_sessions": 2},
         "search": {"trials": 8, "batch": 2, "inner_sessions": 2, "space": "entries"}, "models": {"every_s": 20}}
RUN = """
import sys
from mesbot.config import load_config
from mesbot.optimize import optimize
from mesbot.synth import synthetic_market
import json
optimize(synthetic_market(9, seed=3, alpha=.10).bars, load_config(paths={"runs": sys.argv[1]}, **json.loads(sys.argv[2])), jobs=int(sys.argv[3]), folder=sys.argv[1] + "/run")
"""


@pytest.fixture(scope="module")
def bars(): return synthetic_market(9, seed=3, alpha=.10).bars


def settings(runs, **search): return load_config(paths={"runs": str(runs)}, **SMALL | {"search": SMALL["search"] | search})


@pytest.fixture(scope="module")
def whole(bars, tmp_path_factory):
    "What an uninterrupted search in one process finds, and where its ledger is."
    runs = tmp_path_factory.mktemp("whole")
    return optimize(bars, settings(runs), jobs=1, folder=runs / "run"), Ledger(ledger_path(settings(runs)))


def same(found, whole):
    "Bit for bit."
    pd.testing.assert_frame_equal(found.trials, whole.trials, check_exact=True)
    pd.testing.assert_frame_equal(found.overfit, whole.overfit, check_exact=True)
    pd.testing.assert_series_equal(found.daily, whole.daily, check_exact=True)
    assert found.chosen == whole.chosen and found.summary == whole.summary


def rows(ledger): return ledger.trials().drop(columns="created_utc").sort_values(["hash", "first_day", "note"], ignore_index=True)


def test_killed_again_and_again_it_finds_the_same(bars, whole, tmp_path):
    "BT-7: kill -9 in the middle, several times; then the table of an uninterrupted search, no trial lost or doubled, the ledger alike."
    lines, deaths = tmp_path / "run" / "trials.jsonl", 0
    for more, jobs in ((1, 1), (3, 2), (4, 1)):
        before = len(lines.read_bytes().splitlines()) if lines.exists() else 1
        process = subprocess.Popen([sys.executable, "-c", RUN, str(tmp_path), json.dumps(SMALL), str(jobs)], stderr=subprocess.DEVNULL, start_new_session=True)
        while process.poll() is None and (not lines.exists() or len(lines.read_bytes().splitlines()) < before + more): time.sleep(.01)
        process.send_signal(signal.SIGKILL)
        deaths += process.wait() == -signal.SIGKILL
        time.sleep(1.5)  # until its workers have seen it
    done = len(lines.read_bytes().splitlines()) - 1
    assert deaths == 3 and 8 <= done < 18                             # two folds of eight trials and one that is chosen
    heads = lines.read_bytes().split(b"\n")[:done + 1]
    same(optimize(bars, settings(tmp_path), jobs=1, folder=tmp_path / "run"), whole[0])
    kept = [json.loads(line) for line in lines.read_text().splitlines()[1:]]
    assert lines.read_bytes().split(b"\n")[:done + 1] == heads        # what was there was not made again
    assert len(kept) == len({(row["fold"], row["number"]) for row in kept}) == 18
    pd.testing.assert_frame_equal(rows(Ledger(ledger_path(settings(tmp_path)))), rows(whole[1]))


def test_two_processes_find_the_same(bars, whole, tmp_path):
    "BT-7: how many processes there are changes nothing."
    same(optimize(bars, settings(tmp_path), jobs=2), whole[0])


def test_a_cluster_finds_the_same_when_a_worker_is_killed(bars, whole, tmp_path):
    "BT-7: two dask workers, one killed in the middle of a search: bit for bit the local result, each trial once."
    from distributed import Client, LocalCluster
    lines = tmp_path / "run" / "trials.jsonl"
    with LocalCluster(n_workers=2, processes=True, threads_per_worker=1, dashboard_address=None) as cluster:
        with Client(cluster, set_as_default=False) as client: victim = next(iter(client.run(os.getpid).values()))
        def kill():
            while not lines.exists() or len(lines.read_bytes().splitlines()) < 4: time.sleep(.01)
            os.kill(victim, signal.SIGKILL)
        killer = threading.Thread(target=kill)
        killer.start()
        found = optimize(bars, settings(tmp_path), cluster=cluster.scheduler_address, folder=tmp_path / "run")
        killer.join()
    same(found, whole[0])
    assert len(lines.read_bytes().splitlines()) == 19


def test_trials_never_see_the_test_block(bars, whole, tmp_path):
    "BT-7: other prices in the first test block change what was earned there, and not one trial or choice of its fold."
    (a, b), at = bars.sessions[[5, 7]], np.arange(n_bars(bars))
    shift = np.where((at >= a) & (at < b), 40 + (at // 300) % 2 * 8, 0).astype(bars.close.dtype)
    other = optimize(bars._replace(**{name: getattr(bars, name) + shift for name in ("open", "high", "low", "close")}), settings(tmp_path), jobs=1)
    first = lambda found: found.trials[found.trials["fold"] == 1]
    pd.testing.assert_frame_equal(first(other), first(whole[0]), check_exact=True)
    assert other.chosen[1] == whole[0].chosen[1] and not np.array_equal(other.daily[:2], whole[0].daily[:2])


def test_every_trial_is_in_the_ledger(bars, whole):
    "BT-7: on the inner sessions of its fold each, the chosen one also on the test block."
    found, ledger = whole
    dates, table = session_info(bars)["date"].astype("M8[D]").astype(str), ledger.trials()
    assert len(found.trials) == 16 and len(table) == 18 and set(table["kind"]) == {"search"} and set(table["days"]) == {2}
    assert {tuple(days) for days in table[["first_day", "last_day"]].to_numpy()} == {(dates[a], dates[a + 1]) for a in (3, 5, 7)}  # inner 3-5 and 5-7; test 5-7 and 7-9
    net = table[table["note"].str.startswith("trial")]["net_usd"].sort_values().to_numpy()
    np.testing.assert_allclose(net, found.trials["net_usd"].sort_values())
    assert ledger.count(session_fingerprints(bars)[5:]) == len(table[table["last_day"] >= dates[5]].drop_duplicates("hash"))


@pytest.mark.parametrize("search", [{"method": "grid", "space": "models", "trials": 3}, {"method": "random", "patience": 2}, {"method": "two_phase", "space": "everything"}, {"predictor": "rsi_rule"}], ids=lambda search: "-".join(map(str, search.values())))
def test_all_methods_and_spaces(bars, tmp_path, search):
    "BT-7: each method ends within its trials, tries nothing twice in a fold, and gives the same again."
    found = optimize(bars, settings(tmp_path, **search), jobs=1)
    for _, trials in found.trials.groupby("fold"):
        names = [name for name in trials if "." in name]
        assert 1 <= len(trials) <= search.get("trials", 8) and not trials[names].duplicated().any() and trials["chosen"].sum() <= 1
    pd.testing.assert_frame_equal(found.trials, optimize(bars, settings(tmp_path, **search), jobs=1).trials, check_exact=True)


def test_where_there_is_nothing_the_sentence_says_so(tmp_path):
    "BT-7: on a market without an edge no setting earns its costs, and the table and its sentence do not hide it."
    found = optimize(synthetic_market(13, seed=8).bars, settings(tmp_path, trials=12, method="random", space="exits", predictor="rsi_rule"), jobs=1)
    table = found.overfit
    np.testing.assert_array_equal(table["degradation"], table["inner_sharpe"] - table["outer_sharpe"])
    assert len(table) == 4 and (table["peak_sharpe"] >= table["inner_sharpe"]).all() and (table["outer_sharpe"] < 0).all()
    assert "nothing worth choosing was found" in found.summary["sentence"] and found.daily.sum() < 0 and found.summary["net_usd"] == pytest.approx(table["outer_net_usd"].sum())


def test_the_plateau_is_chosen_not_the_peak(whole):
    "BT-7: in each fold the chosen trial is the one with the best neighbourhood among those with enough trades."
    for _, trials in whole[0].trials.groupby("fold"):
        assert (trials["plateau"].isna() == ((trials["trades"] < 30) | trials["sharpe"].isna())).all()
        assert not trials["chosen"].any() if trials["plateau"].isna().all() else trials.loc[trials["chosen"], "plateau"].item() == trials["plateau"].max()


def test_what_cannot_be_is_told_and_not_chosen(bars, tmp_path):
    "BT-7: settings that contradict each other are a row with a reason; a space of impossible settings is refused."
    space = tmp_path / "mine.toml"
    space.write_text("[stops]\nmin_stop_ticks = [4, 12]\nmax_stop_ticks = [8, 16]\n")
    found = optimize(bars, settings(tmp_path, space=str(space), method="grid"), jobs=1)
    told = found.trials[found.trials["note"].str.contains("min_stop_ticks must be at most")]
    assert len(found.trials) == 8 and len(told) == 2 and not told["chosen"].any() and told["sharpe"].isna().all()
    space.write_text("[stops]\nstop_ticks = [0]\n")
    with pytest.raises(ValueError, match="mine.toml: stops.stop_ticks: input should be greater"): optimize(bars, settings(tmp_path, space=str(space)), jobs=1)


def test_a_folder_of_another_search_is_refused(bars, whole, tmp_path):
    "BT-7: a trial of other bars or settings is never taken for one of this search, and nobody writes into a folder in use."
    runs = settings(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "trials.jsonl").write_text('{"search": "0123456789abcdef"}\n')
    with pytest.raises(ValueError, match="holds a search of other bars or settings"): optimize(bars, runs, jobs=1, folder=tmp_path / "run")
    with pytest.raises(ValueError, match="at least 4 training sessions in a fold, got 2 .*shrunk"): optimize(synthetic_market(6, seed=3).bars, runs, jobs=1)
