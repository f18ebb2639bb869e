"BT-7, BT-8: every configuration ever scored is a row of the ledger, once and whole, whoever was killed and whoever else was writing."
import json
import os
import sqlite3
import stat
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mesbot.ledger as room
from mesbot.bars import session_info, take_sessions
from mesbot.config import Config, load_config
from mesbot.features import feature_hash
from mesbot.ledger import Ledger, Trial, ledger_path, session_fingerprints, trial_hash, trial_settings
from mesbot.synth import synthetic_market

DAYS = np.arange(np.datetime64("2024-01-02"), np.datetime64("2024-01-02") + 250)

WRITER = """
import sys
import numpy as np
from mesbot.ledger import Ledger, Trial
path, name, first, last, batch = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])
days = np.arange(np.datetime64("2024-01-02"), np.datetime64("2024-01-02") + 250)
ledger = Ledger(path)
print("ready", flush=True)
for k in range(first, last, batch):
    ledger.record([Trial("search", name, f"{j:012x}", "{}", days, np.arange(250), np.full(250, float(j))) for j in range(k, k + batch)])
    print(k + batch, flush=True)
"""


def writer(path, name, first, last, batch=1):
    "A process of its own that writes trials first .. last and says after each batch that it is written."
    return subprocess.Popen([sys.executable, "-c", WRITER, str(path), name, str(first), str(last), str(batch)], stdout=subprocess.PIPE, text=True)


def trial(k=0, predictor="logistic", kind="walk", sessions=None, daily=None):
    "A made-up trial."
    sessions = np.arange(250) if sessions is None else np.asarray(sessions)
    return Trial(kind, predictor, f"{k:012x}", "{}", DAYS[:len(sessions)], sessions, np.full(len(sessions), float(k)) if daily is None else np.asarray(daily))


@pytest.fixture
def ledger(tmp_path): return Ledger(tmp_path / "ledger.sqlite")


def complaint(call, *args):
    "What it raises: one line of ValueError or OSError."
    with pytest.raises((ValueError, OSError)) as e: call(*args)
    assert "\n" not in str(e.value) and not isinstance(e.value, sqlite3.Error)
    return str(e.value)


@pytest.mark.parametrize("batch", [1, 7])
def test_killed_at_any_moment(tmp_path, batch):
    "Eight writers, each killed with -9 somewhere; a new one goes on after what is there. All that was said to be written is, each once and whole, batches never in part."
    path, rng, done, most = tmp_path / "runs" / "ledger.sqlite", np.random.default_rng(batch), 0, 10_000
    for _ in range(8):
        process = writer(path, "logistic", done, most, batch)
        assert process.stdout.readline() == "ready\n"
        time.sleep(rng.uniform(0, .1))
        process.kill()
        said = [int(line) for line in process.stdout if line.endswith("\n")]
        process.wait()
        found = Ledger(path).read()
        numbers = sorted(int(t.hash, 16) for t in found)
        assert numbers == list(range(len(numbers))) and len(numbers) % batch == 0
        assert all(len(t.daily_usd) == len(t.days) == 250 and (t.daily_usd == int(t.hash, 16)).all() for t in found)
        assert max([done, *said]) <= len(numbers) <= max([done, *said]) + batch       # at most the one in flight was written and not said
        done = len(numbers)
    assert 0 < done < most


def test_killed_while_it_is_made(tmp_path):
    "A process killed before its first write leaves no ledger, or one that is whole."
    for k in range(4):
        path = tmp_path / f"{k}.sqlite"
        process = subprocess.Popen([sys.executable, "-c", f"from mesbot.ledger import Ledger; print('ready', flush=True); Ledger({str(path)!r})"], stdout=subprocess.PIPE)
        process.stdout.readline()
        time.sleep(k * .002)
        process.kill()
        process.wait()
        assert Ledger(path).record([trial()]) == 1 and len(Ledger(path).read()) == 1


def test_two_processes_write_at_the_same_time(tmp_path):
    "Both into a ledger that neither finds: every row of both is there; what both scored is one row a predictor."
    path = tmp_path / "ledger.sqlite"
    both = [writer(path, name, first, first + 60) for name, first in (("logistic", 0), ("logistic", 30), ("boosting", 0))]
    assert [process.wait() for process in both if process.stdout.read()] == [0, 0, 0]
    found = Ledger(path).read()
    assert sorted((t.predictor, int(t.hash, 16)) for t in found) == [("boosting", k) for k in range(60)] + [("logistic", k) for k in range(90)]
    assert not list(tmp_path.glob("*-wal"))                                             # nothing waits beside the file when all are done


def test_a_new_ledger_never_replaces_one_that_has_just_come(ledger):
    "Two processes find none and both put one in place: the second one finds that of the first, with what is in it."
    ledger.record([trial()])
    room._new_ledger(ledger.path)
    assert len(ledger.read()) == 1 and [p.name for p in ledger.path.parent.iterdir()] == ["ledger.sqlite"]


def test_written_while_another_reads(ledger):
    process = writer(ledger.path, "logistic", 0, 100)
    counts = []
    while process.poll() is None: counts.append(ledger.count(np.arange(3)))
    process.stdout.close()
    assert counts == sorted(counts) and ledger.count(np.arange(3)) == 100 and process.returncode == 0


def test_the_same_trial_twice_is_one_row(ledger):
    ledger.record([trial(1), trial(1)])
    ledger.record([trial(1, daily=np.arange(250.))])
    [row] = ledger.read()
    np.testing.assert_array_equal(row.daily_usd, np.arange(250.))                       # as it was scored last
    ledger.record([trial(1, kind="search"), trial(1, sessions=np.arange(249)), trial(1, sessions=[*range(100), 999, *range(101, 250)])])  # scored elsewhere: rows of their own
    assert len(ledger.read()) == 4 and ledger.count(np.arange(250)) == 1
    ledger.record([trial(1, "boosting")])
    assert ledger.count(np.arange(250)) == 2


def test_doing_nothing_is_no_trial(ledger):
    assert ledger.record([trial(0, "always_flat")]) == 0 and ledger.read() == [] and ledger.count(np.arange(250)) == 0


def test_a_longer_history_still_knows_the_trial(ledger):
    "What was tried on four sessions is known when ten are loaded, or only two of them; not on another made-up market."
    bars, config = synthetic_market(10, seed=5).bars, load_config()
    early, marks = take_sessions(bars, 2, 6), session_fingerprints(bars)
    hashed = trial_hash(config, "logistic", feature_hash())
    ledger.record([Trial("walk", "logistic", hashed, trial_settings(config, "logistic"), session_info(early)["date"].astype("M8[D]"), session_fingerprints(early), np.array([1., -2, 3, 0]))])
    assert ledger.count(marks) == ledger.count(session_fingerprints(take_sessions(bars, 5, 10))) == 1
    assert ledger.count(session_fingerprints(take_sessions(bars, 6, 10))) == ledger.count(session_fingerprints(synthetic_market(10, seed=6).bars)) == 0
    names, daily = ledger.matrix(session_fingerprints(take_sessions(bars, 3, 5)))
    assert names == [f"logistic {hashed}"] and daily.tolist() == [[-2], [3]]
    assert ledger.matrix(marks)[1].shape == (10, 0)                                     # does not cover them all
    assert ledger.trials(marks)[["days", "shared", "net_usd"]].to_numpy().tolist() == [[4, 4, 2]] and ledger.trials(marks[5:])["shared"].tolist() == [1]


def test_a_session_is_known_by_every_bar_of_it():
    bars = synthetic_market(2, seed=5).bars
    before = session_fingerprints(bars)
    for column in ("ts", "open", "high", "low", "close", "volume"):
        changed = getattr(bars, column).copy()
        changed[bars.sessions[1] - 1] += 1
        assert (session_fingerprints(bars._replace(**{column: changed})) == before).tolist() == [False, True], column
    np.testing.assert_array_equal(before, session_fingerprints(bars._replace(close=np.asfortranarray(bars.close.astype(np.int32)))))


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
def test_every_section_of_the_settings_is_decided_upon():
    "A section that cannot change a trade is named as such; a new one counts until somebody says otherwise."
    config = load_config()
    aside = {"version", "preset", "market", "verdict", "resampling", "search", "paths"}
    usual = trial_hash(config, "logistic", "f")
    for name in set(Config.model_fields) - aside - {"seed", "networks"}:
        section = getattr(config, name)
        for key, value in section.model_dump().items():
            if (name, key) in {("models", "predictors"), ("models", "importance_rows"), ("models", "ablation"), ("models", "max_latency_ms"), ("models", "weights"),
                               ("folds", "combinatorial"), ("folds", "choose"), ("costs", "measured")}: continue
            other = config.model_copy(update={name: section.model_copy(update={key: 97})})
            assert trial_hash(other, "logistic", "f") != usual, (name, key)
            if not hasattr(value, "__len__") or isinstance(value, str): assert json.loads(trial_settings(other, "logistic")) == {f"{name}.{key}": 97}


def test_measured_slippage_counts_by_its_content(tmp_path):
    one, other = tmp_path / "a.json", tmp_path / "b.json"
    one.write_text("{}"); other.write_text("{}")
    a, b = (trial_hash(load_config(costs={"slippage": "measured", "measured": str(path)}), "logistic", "f") for path in (one, other))
    other.write_text("[1]")
    assert a == b != trial_hash(load_config(costs={"slippage": "measured", "measured": str(other)}), "logistic", "f")


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from(["logistic", "boosting"]), st.sampled_from(["walk", "search", "paths"]), st.integers(0, 5), st.integers(1, 6), st.integers(-9, 9)), max_size=8),
       st.lists(st.integers(0, 11), min_size=1, unique=True))
def test_counts_and_columns_are_those_of_a_plain_list(rows, asked):
    "Against the same written with dicts: what touches a session, what covers all of them."
    with tempfile.TemporaryDirectory() as folder:
        ledger, kept = Ledger(Path(folder) / "ledger.sqlite"), {}
        for k, predictor, kind, first, length, value in rows:
            ledger.record([trial(k, predictor, kind, range(first, first + length), np.full(length, float(value)))])
            kept[k, predictor, kind, first, length] = value
        names, daily = ledger.matrix(np.array(asked))
        touched = {(k, p) for k, p, _, first, length in kept if set(asked) & set(range(first, first + length))}
        covers = {(k, p) for k, p, kind, first, length in kept if kind != "paths" and set(asked) <= set(range(first, first + length))}
        assert len(ledger.read()) == len(kept) and ledger.count(np.array(asked)) == len(touched)
        assert names == sorted(f"{p} {k:012x}" for k, p in covers) and daily.shape == (len(asked), len(covers))
        for name, column in zip(names, daily.T):
            walked = {v for (k, p, kind, *_), v in kept.items() if kind == "walk" and name == f"{p} {k:012x}"}
            assert len(set(column)) == 1 and (not walked or column[0] in {v for (k, p, kind, first, length), v in kept.items() if name == f"{p} {k:012x}"})


def test_a_walk_goes_before_a_search(ledger):
    "The same settings scored twice on the same sessions: the matrix has the column of the walk, whichever came first."
    ledger.record([trial(1, kind="walk", daily=np.full(250, 5.))._replace(created_utc="2024-01-01T00:00:00+00:00"), trial(1, kind="search", daily=np.full(250, 7.)), trial(1, kind="paths", daily=np.full(250, 9.))])
    names, daily = ledger.matrix(np.arange(250))
    assert len(names) == 1 and (daily == 5).all()


def test_what_was_trained_on_the_future_is_counted_and_is_no_column(ledger):
    ledger.record([trial(1, kind="paths")])
    assert ledger.count(np.arange(250)) == 1 and ledger.matrix(np.arange(250))[0] == []


@pytest.mark.parametrize("wrong", [dict(daily_usd=np.full(250, np.nan)), dict(daily_usd=np.full(250, np.inf)), dict(days=DAYS[:9]), dict(sessions=np.zeros(250, int))], ids=str)
def test_what_is_no_trial_is_refused_and_nothing_is_written(ledger, wrong):
    complaint(ledger.record, [trial(1), trial(2)._replace(**wrong)])
    assert ledger.read() == []


@pytest.mark.parametrize("share", [0, .01, .2, .5, .9, .99])
def test_a_truncated_file_is_refused_at_the_door(ledger, share):
    ledger.record([trial(k) for k in range(20)])
    whole = ledger.path.read_bytes()
    ledger.path.write_bytes(whole[:int(len(whole) * share)])
    assert str(ledger.path) in complaint(Ledger, ledger.path)
    ledger.path.write_bytes(whole)
    assert len(Ledger(ledger.path).read()) == 20                                       # the copy put back


def test_a_changed_byte_is_seen(ledger):
    "SQLite itself does not look into the numbers."
    ledger.record([trial(k, daily=np.full(250, 1000.0 + k)) for k in range(20)])
    raw = ledger.path.read_bytes()
    at = raw.index(np.float64(1007).tobytes())
    ledger.path.write_bytes(raw[:at + 6] + bytes([raw[at + 6] ^ 16]) + raw[at + 7:])
    assert f"{7:012x} is not as it was written" in complaint(Ledger, ledger.path)


def test_what_is_something_else_is_refused_at_the_door(tmp_path):
    (tmp_path / "text").write_text("day,net_usd\n" * 500)
    with closing(sqlite3.connect(tmp_path / "study")) as db: db.execute("CREATE TABLE trials(number)")
    (tmp_path / "folder").mkdir()
    for name in ("text", "study", "folder", "text/ledger.sqlite"):
        before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
        assert str(tmp_path) in complaint(Ledger, tmp_path / name)
        assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before   # and left as it was


def test_a_place_where_nothing_can_be_written_is_told_at_the_door():
    "As a user who may read and not write: a folder for a new ledger, and a ledger that is there."
    with tempfile.TemporaryDirectory() as folder:
        there = Ledger(Path(folder) / "ledger.sqlite")
        there.record([trial()])
        for path, mode in ((folder, 0o555), (there.path, 0o444)): os.chmod(path, mode)
        reading, writing = os.pipe()
        if not (child := os.fork()):
            if os.getuid() == 0: os.setuid(65534)
            for path in (there.path, Path(folder) / "new.sqlite", Path(folder) / "runs" / "new.sqlite"):
                try: line = f"opened {Ledger(path).path}"
                except OSError as e: line = str(e)
                os.write(writing, (line.replace("\n", " NEWLINE ") + "\n").encode())
            os._exit(0)
        os.close(writing)
        with os.fdopen(reading) as pipe: lines = pipe.read().splitlines()
        assert os.waitpid(child, 0)[1] == 0
        os.chmod(folder, stat.S_IRWXU)
        assert len(lines) == 3 and all(folder in line and "NEWLINE" not in line and not line.startswith("opened") for line in lines), lines


def test_a_ledger_that_was_deleted_is_missed(ledger):
    "It never begins anew by itself in the middle of a run."
    ledger.path.unlink()
    assert "cannot be used" in complaint(ledger.record, [trial()]) and not ledger.path.exists()


def test_it_lies_beside_the_runs():
    assert ledger_path(load_config(paths={"runs": "x/runs"})) == Path("x/runs/ledger.sqlite")
