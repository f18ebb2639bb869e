"BT-7: the same tasks in this process, in processes of this machine and on a dask cluster give the same results, and a worker's death costs nothing but its time."
import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from mesbot.workers import Workers, run_tasks


def work(shared, k, folder=""):
    "A sum whose last bits depend on the number of threads, and who made it."
    if folder: (Path(folder) / f"{k}_{os.getpid()}").touch()
    time.sleep(.2)
    return float((shared["a"][k:] @ shared["b"][:, :900]).sum()), os.getpid()


@pytest.fixture(scope="module")
def shared():
    rng = np.random.default_rng(1)
    return {"a": rng.normal(size=(400, 1000)), "b": rng.normal(size=(1000, 1000)), "words": ("x", None)}


def values(found): return [value for value, _ in found]


def test_processes_find_what_this_one_finds(shared):
    "BT-7: every core or one, the same bits in the order of tasks; `done` hears of each task once."
    heard = {}
    many = run_tasks(work, [(k,) for k in range(6)], shared, jobs=2, done=lambda k, result: heard.__setitem__(k, result))
    assert values(many) == values(run_tasks(work, [(k,) for k in range(6)], shared, jobs=1))
    assert heard == dict(enumerate(many)) and len({pid for _, pid in many}) == 2 and os.getpid() not in {pid for _, pid in many}


def kill_a_busy_one(folder, pids):
    "SIGKILL to the first worker that has begun a task."
    while not (begun := [int(file.name.split("_")[1]) for file in Path(folder).iterdir()]): time.sleep(.02)
    pids.append(begun[0])
    os.kill(begun[0], signal.SIGKILL)


def test_a_killed_process_costs_its_task_only(shared, tmp_path):
    "BT-7: a process killed in the middle is replaced, its task run again, none lost or told twice; finished ones are not run again."
    pids, heard = [], []
    killer = threading.Thread(target=kill_a_busy_one, args=(tmp_path, pids))
    killer.start()
    found = run_tasks(work, [(k, str(tmp_path)) for k in range(8)], shared, jobs=2, done=lambda k, result: heard.append(k))
    killer.join()
    assert values(found) == values(run_tasks(work, [(k,) for k in range(8)], shared, jobs=1)) and sorted(heard) == list(range(8))
    assert pids[0] not in {pid for _, pid in found}


def always_dies(shared, k): os.kill(os.getpid(), signal.SIGKILL)


def test_a_task_that_kills_every_worker_is_given_up():
    "BT-7: after four times it is the task, and one line says so."
    with pytest.raises(OSError, match="workers died 4 times with 2 of 2 tasks undone: out of memory"): run_tasks(always_dies, [(1,), (2,)], jobs=2)


def test_no_process_or_file_outlives_a_killed_parent(tmp_path):
    "BT-7: who is killed with SIGKILL leaves neither busy workers nor the bars of all tasks behind."
    import subprocess
    import sys
    code = "import os, sys; sys.path.insert(0, sys.argv[1]); from test_workers import work; from mesbot.workers import run_tasks; import numpy as np\n" \
           "run_tasks(work, [(k, sys.argv[2]) for k in range(200)], {'a': np.ones((400, 1000)), 'b': np.ones((1000, 1000))}, jobs=2)"
    (tmp_path / "begun").mkdir(); (tmp_path / "temp").mkdir()
    parent = subprocess.Popen([sys.executable, "-c", code, str(Path(__file__).parent), str(tmp_path / "begun")], env=os.environ | {"TMPDIR": str(tmp_path / "temp")}, stderr=subprocess.DEVNULL)
    while len({file.name.split("_")[1] for file in (tmp_path / "begun").iterdir()}) < 2: time.sleep(.05)
    pids = {int(file.name.split("_")[1]) for file in (tmp_path / "begun").iterdir()}
    assert list((tmp_path / "temp").glob("mesbot_*"))
    parent.kill(); parent.wait()
    for _ in range(100):
        if not any(Path(f"/proc/{pid}").exists() for pid in pids) and not list((tmp_path / "temp").glob("mesbot_*")): break
        time.sleep(.1)
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()] and not list((tmp_path / "temp").glob("mesbot_*"))


def test_workers_are_kept(shared):
    "BT-7: a search that asks again and again keeps its processes."
    with Workers(shared, jobs=2) as workers: first, second = ({pid for _, pid in workers.run(work, [(k,) for k in range(4)])} for _ in range(2))
    assert first == second


def test_a_cluster_finds_the_same_when_a_worker_dies(shared, tmp_path):
    "BT-7: two dask workers, one killed in the middle: bit for bit what this process finds."
    from distributed import LocalCluster
    pids, heard = [], []
    with LocalCluster(n_workers=2, processes=True, threads_per_worker=1, dashboard_address=None) as cluster:
        killer = threading.Thread(target=kill_a_busy_one, args=(tmp_path, pids))
        killer.start()
        found = run_tasks(work, [(k, str(tmp_path)) for k in range(8)], shared, cluster=cluster.scheduler_address, done=lambda k, result: heard.append(k))
        killer.join()
    assert values(found) == values(run_tasks(work, [(k,) for k in range(8)], shared, jobs=1)) and sorted(heard) == list(range(8))
    assert pids[0] not in {pid for _, pid in found}


def test_a_cluster_without_workers_is_told_in_one_line(monkeypatch):
    "BT-7: a scheduler that nobody works for is no reason to wait for ever."
    from distributed import LocalCluster
    monkeypatch.setattr("mesbot.workers.NOBODY_S", 1)
    with LocalCluster(n_workers=0, dashboard_address=None) as cluster, pytest.raises(ValueError, match="has no workers; start some with"):
        run_tasks(work, [(1,)], {}, cluster=cluster.scheduler_address)
