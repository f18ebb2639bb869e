"The journal: everything in order and whole, for nobody but its owner; replayed, archived, copied."
import json
import re
import sqlite3
import threading
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import live_runner.archive
import live_runner.journal
import live_runner.journal_file
from live_runner.archive import archive, check_journal, keep_days, keep_house
from live_runner.gateway.answers import Account, Fill, Order
from live_runner.gateway.outcomes import Accepted, NewOrder
from live_runner.journal import Fenced, Journal
from live_runner.journal_file import JournalReader
from live_runner.messages import (Alert, Answered, Ask, FillTold, Note, OrderTold, Past, Place, Quit, Second, Snapshot, Started, Trouble, same, to_json)
from live_runner.problems import CallAHuman
from live_runner.protocol import OrderStatus, OrderType, Side
from live_runner.replay import facts_of, replay, setup_of
from live_runner.settings import RunnerSettings
from mesbot.config import load_config

NS, T0, DAY = 10**9, 1_700_000_000 * 10**9, 86_400 * 10**9
ORDER = Order(7, 1, "CON.F.US.MES.Z26", OrderStatus.OPEN, OrderType.STOP, Side.SELL, 1, 0, None, None, 5000.25, None, None, "a1b2c3-1", None, None, T0, T0, "F.US.MES")
FILL = Fill(8, 1, "CON.F.US.MES.Z26", T0, 5001.75, Side.BUY, 1, 7, None, .37, 0.0, False)


def second(k, **changes): return Second(T0 + k * NS, (T0 + (k - 1) * NS, 20_000 + k, 20_002, 19_998, 20_001, 12), 20_000, 20_001)._replace(**changes)


def taken(journal, *rows):
    "Events and commands as they come; commands in lists."
    for row in rows: journal.commands(row) if isinstance(row, list) else journal.event(row)


def flat(*rows):
    return [message for row in rows for message in (row if isinstance(row, list) else [row])]


def read(path, run=1):
    with closing(JournalReader(path)) as reader: return list(reader.rows(run))


@pytest.fixture
def path(tmp_path): return tmp_path / "live" / "A" / "journal.db"


@pytest.fixture
def journal(path):
    with closing(Journal(path, "A")) as journal:
        journal.begin({"mode": "paper"})
        yield journal


# --- order and form ----------------------------------------------------------------------------------------------------------------------------------------

EVERYTHING = [Started(T0, "why"), Past(T0, np.arange(3), np.arange(12, dtype=np.int32).reshape(3, 4), np.ones(3, np.int64)), second(1), second(2, bar=None), second(3, doubt="crossed"),
              [Place(1, NewOrder(1, "MES", OrderType.MARKET, Side.BUY, 1, "tag", stop_ticks=8), "signal"), Note("decision", "é\n\x00" * 3000)], second(4, at=T0 + 4 * NS + 1), second(5),
              OrderTold(T0, ORDER), FillTold(T0, FILL), Answered(T0, 1, Accepted(7)), Snapshot(T0, 2, T0, Account(1, "A", 1000.0, True, True, None), (), (ORDER,) * 40, (FILL,)), [Ask(3, T0)],
              second(6, bar=(T0, 1, 2, 3, 4)), second(7, bid=np.int64(5), bar=(T0 + 6 * NS, *np.arange(5)))]


def test_everything_comes_back_in_order_and_to_the_last_bit(journal):
    taken(journal, *EVERYTHING)
    assert journal.pending == len(flat(*EVERYTHING)) and read(journal.path) == []
    journal.commit()
    found = read(journal.path)
    assert journal.pending == 0 and [to_json(message) for _, message in found] == [to_json(message) for message in flat(*EVERYTHING)]
    assert [kind for kind, _ in found] == [kind for row in EVERYTHING for kind in (["command"] * len(row) if isinstance(row, list) else ["event"])]
    assert all(same(a, b) for (_, a), (_, b) in zip(found, journal.rows(1), strict=True))


small = st.integers(-5, 50_000)


@given(st.lists(st.tuples(st.integers(0, 2 * 10**9), st.none() | st.tuples(small, small, small, small, small), small, small, st.sampled_from(["", "stale", "0"]), st.sampled_from([0, 0, 0, 1]))))
@settings(max_examples=100, deadline=None, derandomize=True, database=None)
def test_packing_seconds_loses_nothing(seconds):
    told = [Second(at * NS + odd, bar and (at * NS - NS, *bar), bid, ask, doubt) for at, bar, bid, ask, doubt, odd in seconds]
    assert [s for s in told if not live_runner.journal_file.packs(s)] == [s for s in told if s.at % NS]
    packed = [s for s in told if live_runner.journal_file.packs(s)]
    assert list(live_runner.journal_file._unpacked(live_runner.journal_file.packed(packed))) == packed


def test_a_day_of_seconds_is_small(journal):
    "82,800 of them, ten at a time: under 5 MB."
    for k in range(1, 8281):
        journal.event(second(k, doubt=""))
        if k % 10 == 0: journal._seal()
    journal.commit()
    with sqlite3.connect(journal.path) as db:
        assert db.execute("SELECT count(*), sum(messages) FROM rows").fetchone() == (828, 8280)
        assert db.execute("SELECT sum(length(text)) FROM rows").fetchone()[0] * 10 < 5_000_000


def test_seconds_share_a_row_only_with_their_neighbours(journal):
    taken(journal, second(1), second(2), Trouble(T0, "a", "b"), second(3), *(second(k) for k in range(4, 700)))
    journal.commit()
    found = journal._all("SELECT number, type, messages FROM rows")
    assert found == [(1, "Seconds", 2), (3, "Trouble", 1), (4, "Seconds", 600), (604, "Seconds", 97)]


def test_nothing_is_taken_before_a_run_begins(path):
    with closing(Journal(path, "A")) as journal:
        with pytest.raises(ValueError, match="a run must begin"): journal.event(Quit(T0, "x"))


# --- runs and snapshots ------------------------------------------------------------------------------------------------------------------------------------

def test_a_restart_finds_the_last_snapshot_and_each_run_the_one_it_began_with(path):
    with closing(Journal(path, "A")) as journal:
        assert journal.last_snapshot() is None and journal.begin({"mode": "paper", "at_ns": T0}) == 1
        for k in range(3):
            journal.event(Trouble(T0 + k, "x", str(k)))
            journal.commit(b"state %d" % k)
        journal.event(second(9))
        journal.end("asked to")
        journal.end("never mind")
    with closing(Journal(path, "A")) as journal:
        assert journal.last_snapshot() == b"state 2" and journal.begin({"mode": "paper"}) == 2
        journal.event(Quit(T0, "x"))
        journal.commit(b"later")
        assert journal.begin({"snapshot": None}) == 3 and journal.last_snapshot() == b"later"
        first, *others = journal.runs()
        assert first == {"number": 1, "at_ns": T0, "facts": {"mode": "paper", "snapshot": None}, "ended": "asked to"}
        assert [(run["facts"]["snapshot"], run["ended"]) for run in others] == [(b"state 2", ""), (None, "")]
        assert journal.begin({}) == 4 and journal.runs()[3]["facts"]["snapshot"] == b"later"
        assert [len(list(journal.rows(run))) for run in (1, 2, 3, 4)] == [4, 1, 0, 0]
        with pytest.raises(ValueError, match="has the runs 1 to 4, got 5"): next(journal.rows(5))
        assert journal._db.execute("SELECT run FROM snapshots").fetchall() == [(0,), (2,), (4,)]


def test_a_new_journal_has_an_id_of_its_own_and_keeps_it(tmp_path):
    ids = []
    for name in "abc":
        with closing(Journal(tmp_path / name, "A")) as journal: ids.append(journal.id)
        with closing(Journal(tmp_path / name, "A")) as journal: assert (journal.id, journal.fence) == (ids[-1], 2)
    assert len(set(ids)) == 3 and all(len(bytes.fromhex(id)) == 3 for id in ids)


def test_facts_must_be_json(journal):
    with pytest.raises(TypeError): journal.begin({"path": Path("x")})
    assert len(journal.runs()) == 1


# --- whose it is -------------------------------------------------------------------------------------------------------------------------------------------

def test_who_opened_it_first_may_not_write_any_more(journal, path):
    journal.event(Quit(T0, "mine"))
    journal.commit(b"mine")
    with closing(Journal(path, "A")) as newer:
        assert (journal.fence, newer.fence) == (1, 2)
        newer.begin({})
        journal.event(Quit(T0, "too late"))
        for refused in (journal.commit, lambda: journal.commit(b"late"), lambda: journal.begin({}), lambda: journal.end("x")):
            with pytest.raises(Fenced, match="another process has opened this journal since") as e: refused()
            assert isinstance(e.value, CallAHuman) and "\n" not in str(e.value)
        newer.event(Quit(T0, "theirs"))
        newer.commit()
        assert [[m.why for _, m in newer.rows(run)] for run in (1, 2)] == [["mine"], ["theirs"]] and newer.last_snapshot() == b"mine" and newer.runs()[0]["ended"] == ""


def test_readers_take_the_journal_from_nobody(journal, path):
    journal.event(Quit(T0, "x"))
    with closing(JournalReader(path)) as reader:
        with pytest.raises(OSError): reader._all("DELETE FROM runs")
        journal.commit(b"s")
        assert reader.last_snapshot() == b"s" and len(list(reader.rows(1))) == 1
    check_journal(path)
    journal.event(Quit(T0, "y"))
    journal.commit()


def complaint(path, account="A"):
    with pytest.raises(CallAHuman) as e: Journal(path, account)
    assert "\n" not in str(e.value) and str(path) in str(e.value)
    return str(e.value)


def test_what_is_no_journal_of_this_account_is_refused_and_left_as_it_is(tmp_path, path):
    Journal(path, "A").close()
    whole = path.read_bytes()
    assert "journal of account A, not of B" in complaint(path, "B")
    for number, (data, word) in enumerate([(b"", "no journal"), (b"what is this" * 500, "no journal"), (whole[:3 * 4096 + 100], "damaged"), (whole[:4096] + b"\xff" * 4096 + whole[8192:], "damaged")]):
        other = tmp_path / f"{number}.db"
        other.write_bytes(data)
        assert word in complaint(other) and other.read_bytes() == data
    with closing(sqlite3.connect(path)) as db: db.execute("PRAGMA user_version=2")
    assert "of layout 2, made by a newer version" in complaint(path)


def test_a_page_that_stands_in_the_wrong_place_is_noticed(journal, path, tmp_path):
    "What can be read and cannot be right."
    taken(journal, *(Trouble(T0 + k, "x", "y" * 3000) for k in range(40)))
    journal.commit()
    journal.backup(tmp_path / "copy.db")
    data = bytearray((tmp_path / "copy.db").read_bytes())
    one, other = [at for at in range(0, len(data), 4096) if data[at] == 13][-2:]          # leaves of `rows`
    data[one:one + 4096] = data[other:other + 4096]
    (tmp_path / "copy.db").write_bytes(data)
    assert "is a damaged journal: " in complaint(tmp_path / "copy.db") and check_journal(tmp_path / "copy.db")["integrity"] != "ok"


def test_a_place_that_takes_no_file_is_an_oserror(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(OSError): Journal(tmp_path / "file" / "journal.db", "A")
    with pytest.raises(OSError): Journal(tmp_path, "A")
    with pytest.raises(FileNotFoundError): JournalReader(tmp_path / "none.db")


@pytest.mark.parametrize("table, column", [("rows", "text"), ("rows", "at_ns"), ("rows", "kind"), ("snapshots", "data")])
def test_a_value_that_changed_on_the_disk_is_noticed(journal, path, table, column):
    taken(journal, Trouble(T0, "a", "1"), [Note("x", "y")], second(3))
    journal.commit(b"state 1")
    assert check_journal(path)["integrity"] == "ok"
    value = {"text": "replace(text, '1', '2')", "at_ns": "at_ns + 1", "kind": "'command'", "data": "X'00'"}[column]
    with sqlite3.connect(path) as db: db.execute(f"UPDATE {table} SET {column} = {value}")
    assert "not as it was written" in check_journal(path)["integrity"]
    with pytest.raises(CallAHuman, match="damaged"): (journal.last_snapshot(), list(journal.rows(1)))


# --- the log and copies ------------------------------------------------------------------------------------------------------------------------------------

def test_the_log_goes_back_into_the_file_when_tidied_and_does_not_grow_on(journal, path):
    log, sizes = Path(f"{path}-wal"), []
    for k in range(60):
        journal.event(Trouble(T0 + k, "x", np.random.default_rng(k).bytes(50_000).hex()))
        journal.commit()
        journal.tidy()
        sizes.append(log.stat().st_size)
    assert max(sizes) < 1_500_000 < path.stat().st_size and len(read(path)) == 60


def test_a_small_log_is_left_alone(journal, path):
    journal.event(Quit(T0, "x"))
    journal.commit()
    before = path.stat().st_mtime_ns
    journal.tidy()
    assert path.stat().st_mtime_ns == before


def test_a_backup_is_whole_and_made_while_the_journal_is_written(journal, path, tmp_path):
    to, stop = tmp_path / "backup.db", threading.Event()
    taken(journal, *(Trouble(T0, "x", "y" * 3000) for _ in range(300)))
    journal.commit(b"state")
    thread = threading.Thread(target=lambda: [journal.backup(to) for _ in range(3)] and stop.set())
    thread.start()
    count = 300
    while not stop.is_set() and thread.is_alive():
        journal.event(Quit(T0, "x"))
        journal.commit(b"state %d" % (count := count + 1))
    thread.join()
    assert stop.is_set() and check_journal(to)["integrity"] == "ok" and 300 <= check_journal(to)["messages"] <= count
    assert {p.name for p in tmp_path.iterdir()} == {"live", "backup.db"} and len(read(path)) == count
    with closing(Journal(to, "A")) as copy: assert copy.id == journal.id and copy.last_snapshot().startswith(b"state")


def test_a_backup_that_fails_leaves_the_one_before(journal, path, tmp_path):
    to = tmp_path / "backup.db"
    journal.backup(to)
    before = to.read_bytes()
    def full(*args, **options):
        db = sqlite3.connect(*args, **options)
        if not options: db.execute("PRAGMA max_page_count=3")
        return db
    journal._opener = full
    with pytest.raises(OSError, match="full"): journal.backup(to)
    assert to.read_bytes() == before and {p.name for p in tmp_path.iterdir()} == {"live", "backup.db"}
    with pytest.raises(OSError, match="a place of its own"): journal.backup(path)
    with closing(Journal(to, "A")), pytest.raises(OSError, match="a journal in use"): journal.backup(to)


# --- months ------------------------------------------------------------------------------------------------------------------------------------------------

NOV = 1_698_796_800 * NS  # 2023-11-01


@pytest.fixture
def months(path):
    "Runs of 2023: one in October, one across November 1, one in November, one in December."
    with closing(Journal(path, "A")) as journal:
        for days in ([-20, -19], [-2, 3], [5, 6], [40, 41]):
            journal.begin({"mode": "paper", "days": days})
            for day in days:
                for k in range(30): taken(journal, Second(NOV + day * DAY + k * NS), Trouble(NOV + day * DAY + k * NS, "x", "y" * 5000))
                journal.commands([Note("decision", str(day))])
                journal.commit(b"state %d" % day)
            journal.end("x")
        yield journal


def table(path):
    import pyarrow.parquet as pq
    return pq.read_table(path).to_pylist(), pq.read_schema(path).metadata


def test_a_month_goes_into_parquet_whole_and_only_then_may_be_dropped(months, path, tmp_path, monkeypatch):
    "61 rows a day: 30 Seconds and 30 troubles, one by one, and a note."
    monkeypatch.setattr(live_runner.archive, "BATCH", 50)
    assert keep_days(path, 1) == 0
    file = archive(path, tmp_path / "old", "2023-10")
    rows, facts = table(file)
    assert file == tmp_path / "old" / f"journal_{months.id}_2023-10.parquet" and [p.name for p in file.parent.iterdir()] == [file.name]
    assert len(rows) == 3 * 61 and [row["number"] for row in rows] == list(range(1, 184)) and rows[1]["text"] == to_json(Trouble(NOV - 20 * DAY, "x", "y" * 5000))
    runs = json.loads(facts[b"runs"])
    assert [run["number"] for run in runs] == [1, 2] and runs[0]["facts"]["days"] == [-20, -19] and runs[1]["facts"]["snapshot"]
    assert keep_days(path, 59) == 61 * 2 and [run["number"] for run in months.runs()] == [2, 3, 4]              # the run across the month is not archived as a whole
    assert archive(path, tmp_path / "old", "2023-10") == file and len(table(file)[0]) == 183                # nothing is written over what is not there any more
    archive(path, tmp_path / "old", "2023-11")
    assert keep_days(path, 36) == 61 * 2 and [run["number"] for run in months.runs()] == [3, 4]            # run 3 is not old enough yet
    assert keep_days(path, 1) == 61 * 2 and [run["number"] for run in months.runs()] == [4] and len(read(path, 4)) == 122
    assert check_journal(path) | {"bytes": 0} == {"integrity": "ok", "id": months.id, "account": "A", "fence": 1, "runs": 1, "rows": 122, "messages": 122, "lost": 0,
                                                  "last_ns": NOV + 41 * DAY + 29 * NS, "bytes": 0}
    file.unlink()
    with pytest.raises(ValueError, match="were archived .* and dropped"): archive(path, tmp_path / "old", "2023-10")


def test_the_house_keeps_itself(months, path, tmp_path):
    "What the runner does after each day: months that are over are archived once, old runs go, and nothing happens the second time."
    files = keep_house(path, tmp_path / "old", 36)
    assert [file.name for file in files] == [f"journal_{months.id}_2023-{month}.parquet" for month in ("10", "11")]
    assert [run["number"] for run in months.runs()] == [3, 4]
    assert keep_house(path, tmp_path / "old", 36) == [] and keep_house(path, tmp_path / "old", 1) == [] and [run["number"] for run in months.runs()] == [4]


def test_months_that_cannot_be_archived(months, path, tmp_path):
    for month, word in (("2023-12", "not over"), ("2023-09", "nothing of 2023-09"), ("2023-13", "must look like"), ("23-10", "must look like")):
        with pytest.raises(ValueError, match=word): archive(path, tmp_path / "old", month)
    with pytest.raises(ValueError, match="days must be >= 1"): keep_days(path, 0)
    assert not (tmp_path / "old").exists()


def test_dropping_rows_leaves_the_runner_alone_and_numbers_are_never_given_again(months, path, tmp_path):
    for month in ("2023-10", "2023-11"): archive(path, tmp_path, month)
    assert keep_days(path, 1) == 61 * 6
    months.begin({})
    months.event(Quit(NOV + 42 * DAY, "x"))
    months.commit(b"more")
    assert months._all("SELECT max(number) FROM rows") == [(61 * 8 + 1,)]
    with closing(Journal(path, "A")) as again: assert again._next == 61 * 8 + 2 and again.last_snapshot() == b"more"


def test_rows_that_came_after_the_archive_are_not_dropped_with_it(months, path, tmp_path):
    "A clock that went back: a row of October in a run that was archived."
    archive(path, tmp_path, "2023-10")
    months.begin({})
    months.event(Quit(NOV - 20 * DAY, "late"))
    months.commit()
    months.begin({})
    months.event(Quit(NOV + 50 * DAY, "x"))
    months.commit()
    keep_days(path, 1)
    assert [m.why for _, m in read(path, 5)] == ["late"] and 1 not in [run["number"] for run in months.runs()]
    rows, _ = table(archive(path, tmp_path / "again", "2023-11"))
    assert len(rows) == 61 * 3


def test_a_damaged_row_is_not_archived(months, path, tmp_path):
    with sqlite3.connect(path) as db: db.execute("UPDATE rows SET at_ns = at_ns + 1 WHERE number = 40")
    with pytest.raises(CallAHuman, match="row 40"): archive(path, tmp_path / "old", "2023-10")
    assert list((tmp_path / "old").iterdir()) == [] and keep_days(path, 1) == 0


# --- replay ------------------------------------------------------------------------------------------------------------------------------------------------

class FakeSetup(NamedTuple):
    config: object; symbol: str; account: int; contract: str; prefix: str; settings: RunnerSettings; mode: str


class FakeCore:
    "Counts seconds; every third one it buys, and says where it is."
    def __init__(self, setup, predictor, snapshot=None): self.setup, self.predictor, self.count = setup, predictor, int(snapshot or b"0")
    def snapshot(self): return b"%d" % self.count
    def step(self, event):
        if isinstance(event, Trouble): raise ArithmeticError(event.why)
        self.count += 1
        if self.count % 3: return []
        return [Place(self.count, NewOrder(self.setup.account, self.setup.contract, OrderType.MARKET, Side.BUY, self.setup.settings.spike_ticks, f"{self.setup.prefix}-{self.count}"), self.predictor),
                Alert("info", "x", str(self.setup.config.seed))]


CORE = SimpleNamespace(Core=FakeCore, Setup=FakeSetup)
SETUP = FakeSetup(load_config(seed=17), "MES", 1, "CON", "abc123", RunnerSettings(spike_ticks=7, ping_url="https://secret.example", alerts=({"url": "json://secret"},)), "paper")


def session(journal, first, last, tamper=lambda commands: commands, predictor="up"):
    "A runner in small."
    core = FakeCore(SETUP, predictor, journal.last_snapshot())
    journal.begin(facts_of(SETUP, predictor=predictor))
    for k in range(first, last):
        journal.event(second(k))
        commands = core.step(second(k))
        journal.commands(tamper(commands))
        if commands: journal.commit(core.snapshot())
    journal.commit()


@pytest.fixture
def days(path):
    with closing(Journal(path, "A")) as journal:
        session(journal, 1, 21)
        session(journal, 21, 45, predictor="down")
        yield journal


def again(path, run=None): return replay(path, lambda facts: facts["predictor"], run, CORE)


def test_a_replay_gives_the_same_commands_whatever_run_and_however_it_is_asked(days, path, monkeypatch):
    assert again(path, 1) == (20, 12, None)
    monkeypatch.setenv("MESBOT_SEED", "99")                                            # the facts of the run decide, not where one is now
    assert again(path) == again(path, 2) == (24, 16, None)
    with pytest.raises(ValueError, match="has the runs 1 to 2, got 3"): again(path, 3)


def test_what_a_replay_needs_is_in_the_facts_and_no_secret_is(days, path):
    assert b"secret" not in path.read_bytes() + Path(f"{path}-wal").read_bytes()
    assert setup_of(days.runs()[0]["facts"], FakeSetup) == SETUP._replace(settings=RunnerSettings(spike_ticks=7))


@pytest.mark.parametrize("tamper, said", [(lambda c: c[::-1], "event 3: the journal has .*Alert.*, the replay .*Place"),
                                          (lambda c: c[:1], "event 3: the journal has no more commands, the replay .*Alert"),
                                          (lambda c: c or [Note("state", "x")], "event 1: the journal has .*Note.*, the replay nothing"), (lambda c: [], "event 3: the journal has no more"),
                                          (lambda c: [m._replace(why=m.why + " ") if isinstance(m, Place) else m for m in c], "event 3: the journal has .*up .*, the replay")])
def test_a_replay_says_where_it_first_differs(path, tamper, said):
    with closing(Journal(path, "A")) as journal: session(journal, 1, 8, tamper)
    assert re.match(said, again(path).first_difference)


def test_commands_of_the_last_event_that_are_missing_are_a_difference(path):
    with closing(Journal(path, "A")) as journal: session(journal, 1, 4, lambda commands: [])
    assert again(path) == (3, 0, again(path).first_difference) and "no more commands" in again(path).first_difference


def test_another_snapshot_is_a_difference_though_every_command_is_equal(path, monkeypatch):
    with closing(Journal(path, "A")) as journal: session(journal, 1, 8)
    monkeypatch.setattr(FakeCore, "snapshot", lambda self: b"%d " % self.count)
    assert again(path).first_difference == "event 6: the commands are equal, the snapshot is not"


def test_a_run_that_crashed_crashes_again_in_the_same_place(path):
    with closing(Journal(path, "A")) as journal:
        session(journal, 1, 8)
        journal.event(Trouble(T0, "x", "boom"))
        journal.commit()
        assert "event 8: the core raised ArithmeticError('boom')" in again(path).first_difference
        journal.end("crashed: ArithmeticError('boom')")
        assert again(path) == (8, 4, None)
        journal.event(second(9))
        journal.commit()
        assert "event 8: the core raised" in again(path).first_difference                  # it went on then, so it had not


def test_a_snapshot_of_the_run_before_is_not_held_against_a_run_that_began_with_none(path):
    with closing(Journal(path, "A")) as journal:
        session(journal, 1, 4)
        journal.begin(facts_of(SETUP, predictor="up", snapshot=None))
        taken(journal, second(5), second(6))
        journal.commit()
    assert again(path) == (2, 0, None)


def test_a_replay_of_a_journal_with_a_hole_says_so(path, monkeypatch):
    monkeypatch.setattr(live_runner.journal, "ROOM", 2000)
    with closing(Journal(path, "A")) as journal:
        journal.begin(facts_of(SETUP, predictor="up"))
        for k in range(1, 21):
            journal.event(second(k, at=T0 + k * NS + 1))
        journal.commit()
        assert 0 < journal.dropped == journal.lost(1) == 20 - len(list(journal.rows(1)))
    assert f"{journal.dropped} messages were never stored" in again(path).first_difference
