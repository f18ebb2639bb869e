"The journal when the disk, the power or the process fails: nothing that was acknowledged is lost, nothing is there in part, and the next commit goes on."
import multiprocessing
import os
import re
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT

import live_runner.journal
from live_runner import crash
from live_runner.archive import check_journal
from live_runner.journal import Fenced, Journal
from live_runner.journal_file import JournalReader
from live_runner.messages import Note, Second, Trouble
from live_runner.problems import FixTheConfig

NS, T0 = 10**9, 1_700_000_000 * 10**9
KILLS = 100 if os.environ.get("MESBOT_SLOW") else 20
forked = multiprocessing.get_context("fork")


def second(k): return Second(T0 + k * NS, (T0 + (k - 1) * NS, 1, 2, 3, 4, 5), 6, 7)


def story(k, size=50):
    "Transaction k: seconds, an event and its commands."
    return [second(3 * k), second(3 * k + 1), Trouble(T0 + k * NS, str(k), "x" * size)], [Note("decision", str(k)), Note("state", "y" * size)]


def take(journal, k, size=50):
    events, commands = story(k, size)
    for event in events: journal.event(event)
    journal.commands(commands)


def read(path):
    "Messages of all runs."
    with closing(JournalReader(path)) as reader: return [message for run in reader.runs() for _, message in reader.rows(run["number"])]


def transactions(path, size=50):
    "How many transactions are there; each whole and once, in order, the newest snapshot that of the last."
    found = read(path)
    count, left = divmod(len(found), 5)
    assert left == 0 and found == [message for k in range(count) for part in story(k, size) for message in part]
    with closing(JournalReader(path)) as reader: assert reader.last_snapshot() == (b"state %d" % (count - 1) if count else None)
    return count


# --- a disk that fails -------------------------------------------------------------------------------------------------------------------------------------

class Fault:
    "Makes the n-th statement of all its connections fail, and those after it as long as it says."
    def __init__(self, nth, text, lasts=1, after=False): self.nth, self.text, self.lasts, self.after, self.count = nth, text, lasts, after, 0

    def connect(self, *args, **options):
        fault = self
        class Faulty(sqlite3.Connection):
            def execute(self, sql, *values): return fault.meet(sql, lambda: super(Faulty, self).execute(sql, *values))
            def executemany(self, sql, *values): return fault.meet(sql, lambda: super(Faulty, self).executemany(sql, *values))
        return sqlite3.connect(*args, **options, factory=Faulty)

    def meet(self, sql, work):
        self.count += 1
        bad = self.nth <= self.count < self.nth + self.lasts
        if bad and not (self.after and sql == "COMMIT"): raise sqlite3.OperationalError(self.text)
        done = work()
        if bad: raise sqlite3.OperationalError(self.text)
        return done


def insist(work):
    "Until it is done; how often it failed."
    failed = 0
    while failed < 50:
        try: return work(), failed
        except OSError as error: assert "\n" not in str(error) and "journal" in str(error)
        failed += 1
    raise AssertionError("it never goes on")


@pytest.mark.parametrize("text, lasts, after", [("database or disk is full", 1, False), ("disk I/O error", 1, True), ("disk I/O error", 9, True)])
def test_whichever_statement_fails_nothing_is_lost_doubled_or_halved_and_the_next_commit_goes_on(tmp_path, text, lasts, after):
    "Each statement of a little story once; `after`: a COMMIT that did its work says it did not."
    nth, failures = 0, 1
    while failures:
        nth += 1
        path, fault, acknowledged = tmp_path / f"{nth}.db", Fault(nth, text, lasts, after), 0
        journal, failures = insist(lambda: Journal(path, "A", fault.connect))
        _, failed = insist(lambda: journal.begin({"mode": "paper"}))
        failures += failed
        for k in range(3):
            take(journal, k)
            try: journal.commit(b"state %d" % k)
            except OSError as error:
                assert text in str(error)
                failures += 1
                assert journal.pending >= 5 and transactions(path) >= acknowledged
            else: acknowledged = k + 1
        failures += insist(journal.commit)[1] + insist(lambda: journal.end("done"))[1]
        assert journal.pending == 0 and journal.dropped == 0
        journal.close()
        assert transactions(path) == 3 and check_journal(path)["integrity"] == "ok"
        with closing(JournalReader(path)) as reader: assert reader.runs()[-1]["ended"] == "done" and all(reader.lost(run["number"]) == 0 for run in reader.runs())
    assert nth > 25


def test_a_fault_that_even_forbids_to_roll_back_costs_the_connection_and_nothing_else(tmp_path):
    path, fault = tmp_path / "journal.db", Fault(10**9, "disk I/O error", 2)
    with closing(Journal(path, "A", fault.connect)) as journal:
        journal.begin({})
        take(journal, 0)
        fault.nth = fault.count + 4                                       # BEGIN, fence, rows, snapshot; and ROLLBACK
        with pytest.raises(OSError): journal.commit(b"state 0")
        assert journal._db is None and journal.pending == 5
        for name in "abcdefgh": (tmp_path / name).touch()                 # the new log shall not chance to be where the old one was
        journal.tidy()
        journal.commit()
        take(journal, 1)
        journal.commit(b"state 1")
    assert transactions(path) == 2


def test_a_commit_waits_for_the_disk_and_never_writes_the_log_back(tmp_path):
    "Neither a kill nor a full disk would show another setting; only power would."
    path, log = tmp_path / "journal.db", tmp_path / "journal.db-wal"
    with closing(Journal(path, "A")) as journal:
        assert [journal._db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous", "fullfsync")] == ["wal", 2, 1]
        journal.begin({})
        before = path.stat().st_size
        for k in range(100):
            journal.event(Trouble(T0, "x", np.random.default_rng(k).bytes(50_000).hex()))
            journal.commit()
        assert path.stat().st_size == before and log.stat().st_size > 5_000_000           # SQLite's own limit is 4 MB


def test_a_log_that_cannot_be_written_back_is_an_oserror_and_costs_nothing(tmp_path):
    path, fault = tmp_path / "journal.db", Fault(10**9, "disk I/O error")
    with closing(Journal(path, "A", fault.connect)) as journal:
        journal.begin({})
        for k in range(30):
            journal.event(Trouble(T0, "x", np.random.default_rng(k).bytes(50_000).hex()))
            journal.commit()
        fault.nth = fault.count + 1
        with pytest.raises(OSError, match="cannot be written back: disk I/O error"): journal.tidy()
        journal.tidy()
        assert len(read(path)) == 30


def test_a_full_disk_is_an_oserror_and_the_rows_go_in_when_there_is_room(tmp_path):
    "SQLite itself says that it is full."
    path, connections = tmp_path / "journal.db", []
    def opener(*args, **options):
        connections.append(sqlite3.connect(*args, **options))
        return connections[-1]
    with closing(Journal(path, "A", opener)) as journal:
        journal.begin({})
        connections[0].execute("PRAGMA max_page_count=40")
        k = failed = 0
        while failed < 5:
            take(journal, k, 3000)
            try: journal.commit(b"state %d" % k)
            except OSError as error:
                assert "the journal cannot be written: database or disk is full" in str(error)
                failed += 1
            assert transactions(path, 3000) == k + 1 - failed and journal.pending == 5 * failed
            k += 1
        connections[0].execute("PRAGMA max_page_count=4000")
        journal.commit()
    assert transactions(path, 3000) == k > 10


@contextmanager
def files_no_larger_than(size):
    "The system refuses to write any file beyond it."
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try: yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("room", [0, 1, 24, 100, 4096, 4120, 10_000, 15_000, 20_000])
def test_a_write_that_the_system_cuts_short_is_taken_back(tmp_path, room):
    "Real writes of the log that end in the middle, at so many bytes into a transaction."
    path = tmp_path / "journal.db"
    with closing(Journal(path, "A")) as journal:
        journal.begin({})
        take(journal, 0, 3000)
        journal.commit(b"state 0")
        take(journal, 1, 3000)
        with files_no_larger_than(Path(f"{path}-wal").stat().st_size + room):
            for _ in range(2):
                with pytest.raises(OSError, match="the journal cannot be written"): journal.commit(b"state 1")
        assert transactions(path, 3000) == 1 and journal.pending == 5
        journal.commit()
        assert transactions(path, 3000) == 2
        take(journal, 2, 3000)
        journal.commit(b"state 2")
    assert transactions(path, 3000) == 3


def test_what_waits_is_bounded_the_oldest_seconds_go_first_and_are_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(live_runner.journal, "ROOM", 200_000)
    path, fault = tmp_path / "journal.db", Fault(10**9, "disk I/O error", 10**9)
    with closing(Journal(path, "A", fault.connect)) as journal:
        journal.begin({})
        fault.nth = fault.count + 1
        events = []
        for k in range(6000):
            events.append(second(k))
            journal.event(events[-1])
            if k % 100 == 0:
                journal.event(Trouble(T0, "x", str(k)))
                with pytest.raises(OSError): journal.commit(b"state %d" % k)
        assert 0 < journal.dropped == 6060 - journal.pending and journal._room <= 200_000
        fault.lasts = 0
        journal.commit()
        dropped = journal.dropped
        assert journal.lost(1) == dropped and check_journal(path)["lost"] == dropped
    found = read(path)
    assert [int(m.why) for m in found if isinstance(m, Trouble)] == list(range(0, 6000, 100))
    assert [m for m in found if isinstance(m, Second)] == events[dropped:]


def test_where_there_are_no_seconds_left_to_let_go_the_oldest_goes(tmp_path, monkeypatch):
    monkeypatch.setattr(live_runner.journal, "ROOM", 200_000)
    with closing(Journal(tmp_path / "journal.db", "A")) as journal:
        journal.begin({})
        for k in range(600):
            journal.event(second(k))
            journal.event(Trouble(T0, str(k), "x" * 1000))
        journal.commit()
        found = read(journal.path)
        assert not [m for m in found if isinstance(m, Second)] and [int(m.what) for m in found] == list(range(600 - len(found), 600))
        assert journal.dropped == journal.lost(1) == 1200 - len(found)


@pytest.mark.parametrize("end", ["", "-wal"])
def test_a_file_that_was_taken_away_takes_no_row(tmp_path, end):
    path = tmp_path / "journal.db"
    with closing(Journal(path, "A")) as journal:
        journal.begin({})
        os.rename(f"{path}{end}", tmp_path / "away")
        take(journal, 0)
        with pytest.raises(OSError, match="the journal cannot be written"): journal.commit()
        shutil.copy(tmp_path / "away", f"{path}{end}")
        with pytest.raises(OSError, match="moved or replaced"): journal.commit()
        os.rename(tmp_path / "away", f"{path}{end}")
        journal.commit(b"state 0")
    assert transactions(path) == 1


# --- power that fails --------------------------------------------------------------------------------------------------------------------------------------

def test_a_log_that_ends_anywhere_gives_the_last_whole_transaction(tmp_path):
    "Cut after any byte, and with rubbish, zeros or an old end behind the cut."
    path, sizes, rng = tmp_path / "journal.db", [], np.random.default_rng(1)
    with closing(Journal(path, "A")) as journal:
        journal.begin({})
        sizes.append(Path(f"{path}-wal").stat().st_size)
        for k in range(8):
            take(journal, k, 3000)
            journal.commit(b"state %d" % k)
            sizes.append(Path(f"{path}-wal").stat().st_size)
        copy = [shutil.copy(f"{path}{end}", tmp_path / f"copy{end}") for end in ("", "-wal")]
    main, log = (Path(name).read_bytes() for name in copy)
    assert len(log) == sizes[-1] and sizes == sorted(set(sizes))
    cuts = {*rng.integers(sizes[0], len(log), 40).tolist(), *(size + step for size in sizes for step in (-1, 0, 1))} - {sizes[0] - 1, sizes[-1] + 1}
    for n, cut in enumerate(sorted(cuts)):
        tail = [b"", rng.bytes(6000), bytes(6000)][n % 3]
        folder = tmp_path / str(cut)
        folder.mkdir()
        (folder / "j.db").write_bytes(main)
        (folder / "j.db-wal").write_bytes(log[:cut] + tail)
        whole = sum(size <= cut for size in sizes) - 1
        with closing(Journal(folder / "j.db", "A")) as journal:
            assert transactions(folder / "j.db", 3000) == whole and journal.fence == 2 and len(journal.runs()) == 1
            journal.begin({})
            take(journal, whole, 3000)
            journal.commit(b"state %d" % whole)
            assert transactions(folder / "j.db", 3000) == whole + 1
        shutil.rmtree(folder)


def test_a_byte_that_flips_in_the_log_ends_it_there(tmp_path):
    path, sizes = tmp_path / "journal.db", []
    with closing(Journal(path, "A")) as journal:
        journal.begin({})
        for k in range(4):
            sizes.append(Path(f"{path}-wal").stat().st_size)
            take(journal, k)
            journal.commit(b"state %d" % k)
        copy = [shutil.copy(f"{path}{end}", tmp_path / f"copy{end}") for end in ("", "-wal")]
    log = Path(copy[1]).read_bytes()
    for k in range(4):
        at = sizes[k] + 30
        shutil.copy(copy[0], tmp_path / f"{k}.db")
        (tmp_path / f"{k}.db-wal").write_bytes(log[:at] + bytes([log[at] ^ 1]) + log[at + 1:])
        assert transactions(tmp_path / f"{k}.db") == k


# --- processes that die ------------------------------------------------------------------------------------------------------------------------------------

def work(path, out, first, plan=""):
    "A process that commits numbered transactions and says each number when commit has returned; -1 when it is ready."
    crash.arm(plan)
    journal = Journal(path, "A")
    journal.begin({})
    os.write(out, b"-1\n")
    for k in range(first, first + (10 if plan else 100_000)):
        take(journal, k)
        journal.commit(b"state %d" % k)
        os.write(out, b"%d\n" % k)
        if k % 50 == 0: journal._db.execute("PRAGMA wal_checkpoint(PASSIVE)")


def killed(path, first, plan="", after_s=0.0):
    "The numbers such a process said before it was killed."
    ear, out = os.pipe()
    process = forked.Process(target=work, args=(path, out, first, plan))
    process.start()
    os.close(out)
    with open(ear) as heard:
        assert heard.readline() == "-1\n"
        time.sleep(after_s)
        if not plan: process.kill()
        said = [int(line) for line in heard if line.endswith("\n")]
    process.join(10)
    assert process.exitcode == -signal.SIGKILL
    return said


def test_killed_at_any_moment_no_number_that_was_said_is_lost(tmp_path):
    path, rng, done = tmp_path / "journal.db", np.random.default_rng(7), 0
    for n in range(KILLS):
        said = killed(path, done, after_s=rng.uniform(0, .05))
        assert said == list(range(done, done + len(said)))
        found = transactions(path)
        assert done + len(said) <= found <= done + len(said) + 1                          # at most the one in flight was written and not said
        done = found
    facts = check_journal(path)
    assert done > 0 and (facts["integrity"], facts["fence"], facts["runs"], facts["lost"], facts["messages"]) == ("ok", KILLS, KILLS, 0, 5 * done)


@pytest.mark.parametrize("name, times, stored", [("journal.before_commit", 1, 0), ("journal.before_commit", 3, 2), ("journal.after_commit", 1, 1), ("journal.after_commit", 3, 3)])
def test_crash_points_of_the_journal(tmp_path, name, times, stored):
    assert killed(tmp_path / "journal.db", 0, f"{name}:{times}") == list(range(times - 1)) and transactions(tmp_path / "journal.db") == stored


def test_crash_points_are_planned_by_the_environment():
    script = "from live_runner import crash\nfor k in range(5):\n    crash.point('send.after')\n    print(k, flush=True)\n    crash.point('send.before')"
    def run(plan): return subprocess.run([sys.executable, "-c", script], env=os.environ | {"MESBOT_CRASH": plan}, capture_output=True, text=True)
    found = run("send.before:3")
    assert (found.returncode, found.stdout) == (-signal.SIGKILL, "0\n1\n2\n")
    assert (run("").returncode, run("stop.begun:1").returncode) == (0, 0)
    assert "FixTheConfig: MESBOT_CRASH must be name:n" in run("send.befor:1").stderr


@pytest.mark.parametrize("plan", ["send.befor:1", "send.before", "send.before:0", "send.before:x", ":1", "send.before:-1"])
def test_a_plan_that_can_never_come_true_is_refused(plan):
    with pytest.raises(FixTheConfig, match="name:n"): crash.arm(plan)
    crash.arm("")


def test_every_crash_point_that_is_passed_has_a_name():
    passed = {name for path in (ROOT / "live_runner").glob("*.py") for name in re.findall(r"crash\.point\(([^)]*)\)", path.read_text())}
    assert {f'"{name}"' for name in ("journal.before_commit", "journal.after_commit")} <= passed <= {f'"{name}"' for name in crash.NAMES}


def test_opened_by_two_at_once_one_of_them_is_the_owner(tmp_path):
    "The file does not even exist yet: both make it, both open it, the later one writes."
    path = tmp_path / "journal.db"
    for _ in range(3):
        first, second_ = Journal(path, "A"), Journal(path, "A")
        second_.begin({})
        with pytest.raises(Fenced): first.begin({})
        first.close()
        second_.close()
    live_runner.journal_file.new_journal(path, "B")                                       # who came too late to make it changes nothing
    assert check_journal(path)["account"] == "A" and [p.name for p in tmp_path.iterdir()] == ["journal.db"]
