"DAT-9, FEA (out of core): what lies on disk is what would be computed, found again only while bars, sources and settings are the same, whole or absent, and written in little memory."
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import ROOT

import mesbot.on_disk as room
from mesbot.bars import cut_bars, import_bars, load_bars, n_bars, n_sessions, take_sessions
from mesbot.config import load_config
from mesbot.dataset import dataset
from mesbot.features import FEATURES, compute_features
from mesbot.labels import label_moves
from mesbot.on_disk import FEATURE_RECIPE, ColumnRecipe, cached_features, columns_on_disk
from mesbot.synth import synthetic_market


@pytest.fixture(scope="module")
def bars(): return synthetic_market(5, seed=11).bars


PLAIN = ColumnRecipe("plain", {"close": "i4", "ends": ("f8", (2,))}, lambda part: (part.close - part.close[0], np.stack([part.low, part.high], 1) / 4))


def plain(bars):
    "What the recipe makes, told without sessions on threads."
    starts = np.repeat(bars.close[bars.sessions[:-1]], np.diff(bars.sessions))
    return bars.close - starts, np.stack([bars.low, bars.high], 1) / 4


def same(found, wanted):
    assert found.dtype == wanted.dtype and found.shape == wanted.shape and found.tobytes() == wanted.tobytes() and not found.flags.writeable


def names(folder): return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("sessions, rows", ((5, None), (1, None), (5, 1), (5, 2), (2, -1)))
def test_what_is_on_disk_is_what_would_be_computed(bars, tmp_path, sessions, rows):
    "DAT-9: features and labels bit for bit, made and found again, for whole sessions and for a set cut anywhere."
    part = take_sessions(bars, 0, sessions)
    if rows: part = cut_bars(part, rows % n_bars(part))
    for _ in range(2):
        data = dataset(part, load_config(), tmp_path)
        same(data.features, compute_features(part))
        for found, wanted in zip(data.labels, label_moves(part)): same(found, wanted)
        same(cached_features(part, tmp_path), compute_features(part))
    assert len(names(tmp_path)) == 4


def test_nothing_comes_of_nothing(bars, tmp_path):
    "DAT-9: no bars, no rows, no files."
    data = dataset(cut_bars(bars, 0), folder=tmp_path)
    assert data.features.shape == (0, len(FEATURES)) and [c.shape for c in data.labels] == [(0,)] * 3 and [c.dtype for c in data.labels] == ["i1", "i8", "f4"] and names(tmp_path) == []
    for wrong in (0, -1):
        with pytest.raises(ValueError, match=f"^keep must be >= 1, got {wrong}$"): cached_features(bars, tmp_path, keep=wrong)
    for make in (cached_features, dataset):
        for minutes in (bars._replace(bar_s=60), cut_bars(bars, 0)._replace(bar_s=60)):
            with pytest.raises(ValueError, match="one-second bars are needed, got bars of 60 s"): make(minutes, folder=tmp_path)
    assert names(tmp_path) == []


@pytest.mark.parametrize("threads", (1, 2, 7))
def test_any_number_of_threads_writes_the_same_files(bars, tmp_path, threads):
    "DAT-9: the same names and the same bytes."
    columns_on_disk(bars, [PLAIN, FEATURE_RECIPE], tmp_path / "one", threads=1)
    columns_on_disk(bars, [PLAIN, FEATURE_RECIPE], tmp_path / "many", threads=threads)
    assert names(tmp_path / "one") == names(tmp_path / "many") and len(names(tmp_path / "one")) == 3
    for name in names(tmp_path / "one"): assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "many" / name).read_bytes()


def test_the_files_are_ordinary(bars, tmp_path):
    "DAT-9: any numpy reads them, in memory or mapped."
    columns_on_disk(bars, [PLAIN], tmp_path)
    for name, wanted in zip(names(tmp_path), plain(bars)):
        np.testing.assert_array_equal(np.load(tmp_path / name), wanted)
        assert (tmp_path / name).stat().st_size == 128 + wanted.nbytes


def test_every_change_of_the_bars_is_another_set(bars, tmp_path):
    "DAT-9: one row of one column, the symbol, one bar less: other files."
    dataset(bars, folder=tmp_path, keep=99)
    at = n_bars(bars) // 2
    changed = [bars._replace(**{name: np.where(np.arange(n_bars(bars)) == at, getattr(bars, name) + 1, getattr(bars, name)).astype(getattr(bars, name).dtype)}) for name in ("high", "volume")]
    for k, other in enumerate([*changed, bars._replace(symbol="ES"), cut_bars(bars, n_bars(bars) - 1)]):
        same(dataset(other, folder=tmp_path, keep=99).features, compute_features(other))
        assert len(names(tmp_path)) == 4 * (k + 2)


def test_labels_belong_to_their_settings_and_features_to_none(bars, tmp_path):
    "DAT-9, TGT-1: other label settings give other labels beside the same features; settings that no label depends on change nothing."
    settings = [dict(horizon_s=h, threshold_ticks=t) for h in (5, 30) for t in (2, 3)]
    for labels in settings:
        data = dataset(bars, load_config(labels=labels), tmp_path, keep=4)
        for found, wanted in zip(data.labels, label_moves(bars, **labels)): same(found, wanted)
    inodes = {path.name: path.stat().st_ino for path in tmp_path.iterdir()}
    assert len(inodes) == 1 + 4 * 3
    for labels in settings:
        for found, wanted in zip(dataset(bars, load_config(labels=labels, seed=5, stops=dict(stop_ticks=5)), tmp_path, keep=4).labels, label_moves(bars, **labels)): same(found, wanted)
    assert {path.name: path.stat().st_ino for path in tmp_path.iterdir()} == inodes


def test_a_changed_line_of_the_library_is_another_set(tmp_path):
    "DAT-9: the same bars, one comment more in a room that no feature names: another file."
    shutil.copytree(ROOT / "mesbot", tmp_path / "mesbot", ignore=shutil.ignore_patterns("__pycache__"))
    code = "import mesbot.on_disk as room; from mesbot.bars import make_bars; import numpy as np; t = 1704294000 * 10**9; ones = np.ones(1, int); " \
           "print(room._columns_of(room.FEATURE_RECIPE, make_bars(np.array([t]), ones, ones, ones, ones, ones), 'bars', room.Path('x'))[0].path.name)"
    def told(): return subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, check=True).stdout
    first = told()
    assert first == told() and first.startswith("MES_features-matrix_")
    with (tmp_path / "mesbot" / "gates.py").open("a") as file: file.write("# one more line\n")
    assert told() != first


@pytest.mark.parametrize("spoil", (lambda raw: b"", lambda raw: raw[:100], lambda raw: raw[:-1], lambda raw: raw[:len(raw) // 2], lambda raw: b"\0" * len(raw),
                                   lambda raw: raw.replace(b"'<i4'", b"'<f4'", 1), lambda raw: raw.replace(b"'<i4'", b"'<i2'", 1), lambda raw: raw.replace(b"(", b"(1,", 1)))
def test_a_damaged_file_is_made_again(bars, tmp_path, spoil):
    "DAT-9: empty, cut short, zeros, another kind or shape: absent; who looks into the old one still sees it."
    [(close, ends)] = columns_on_disk(bars, [PLAIN], tmp_path)
    path = next(tmp_path.glob("*_plain-close_*"))
    raw = path.read_bytes()
    path.unlink()
    path.write_bytes(spoil(raw))
    assert spoil(raw) != raw
    [(again, _)] = columns_on_disk(bars, [PLAIN], tmp_path)
    same(again, plain(bars)[0])
    same(close, plain(bars)[0])
    assert path.read_bytes() == raw


def test_only_what_is_missing_is_made(bars, tmp_path):
    "DAT-9: one pass, each recipe once a session, and not at all when its columns are there."
    made = []
    def told(name): return PLAIN._replace(name=name, make=lambda part: made.append((name, int(part.ts[0]))) or PLAIN.make(part))
    columns_on_disk(bars, [told("a")], tmp_path, threads=1)
    columns_on_disk(bars, [told("a"), told("b"), told("c")], tmp_path, threads=1)
    columns_on_disk(bars, [told("c"), told("a")], tmp_path)
    opens = [int(ts) for ts in bars.ts[bars.sessions[:-1]]]
    assert made == [("a", t) for t in opens] + [(name, t) for t in opens for name in "bc"]


@pytest.mark.parametrize("wrong", (lambda part: (part.close,), lambda part: (part.close, part.close, part.close), lambda part: (part.close.astype("i8"), np.zeros((n_bars(part), 2))),
                                   lambda part: (part.close, np.zeros((n_bars(part), 3))), lambda part: (part.close[:-1], np.zeros((n_bars(part), 2))), lambda part: 1 / 0))
def test_a_recipe_that_fails_leaves_nothing(bars, tmp_path, wrong):
    "DAT-9: too few or too many columns, another kind or shape, an error of its own, in a late session: told, and not a file stays."
    late = int(bars.ts[bars.sessions[3]])
    bad = PLAIN._replace(make=lambda part: (wrong if part.ts[0] == late else PLAIN.make)(part))
    with pytest.raises((ValueError, ZeroDivisionError)) as e: columns_on_disk(bars, [bad], tmp_path)
    assert len(str(e.value).splitlines()) == 1 and names(tmp_path) == []


def test_a_full_disk_is_told_beforehand(bars, tmp_path, monkeypatch):
    "DAT-9: refused with what is needed and what is free, before anything is removed or written; what would go anyway counts as free."
    needed = 4 * len(FEATURES) * n_bars(bars)
    cached_features(bars, tmp_path, keep=1)
    other = bars._replace(volume=bars.volume + 1)
    usage = shutil._ntuple_diskusage
    monkeypatch.setattr(room.shutil, "disk_usage", lambda folder: usage(10**12, 10**12, needed - 1))
    with pytest.raises(OSError) as e: cached_features(other, tmp_path, keep=2)
    assert e.value.errno == errno.ENOSPC and f"{needed / 1e6:,.0f} MB do not fit on the disk" in str(e.value) and len(names(tmp_path)) == 1
    same(cached_features(other, tmp_path, keep=1), compute_features(other))
    assert len(names(tmp_path)) == 1


def test_a_disk_that_fills_on_the_way_leaves_nothing(bars, tmp_path, monkeypatch):
    "DAT-9: the error of the system comes through."
    write, calls = os.pwrite, []
    def full(file, rows, at):
        calls.append(at)
        if len(calls) > 3: raise OSError(errno.ENOSPC, "No space left on device")
        return write(file, rows, at)
    monkeypatch.setattr(room.os, "pwrite", full)
    with pytest.raises(OSError, match="No space left"): cached_features(bars, tmp_path)
    assert names(tmp_path) == [] and len(calls) > 3


def test_a_write_may_take_less_than_it_was_given(bars, tmp_path, monkeypatch):
    "DAT-9: the rest follows, at its place."
    write = os.pwrite
    monkeypatch.setattr(room.os, "pwrite", lambda file, rows, at: write(file, rows[:100_001], at))
    for found, wanted in zip(columns_on_disk(bars, [PLAIN], tmp_path)[0], plain(bars)): same(found, wanted)


def test_rows_beyond_four_gigabytes_find_their_place(tmp_path):
    "A file of 5 GB, almost all of it a hole: the last rows lie where numpy looks for them."
    path, shape, rows = tmp_path / "large.npy", (22_000_000, 57), np.arange(3 * 57, dtype=np.float32).reshape(3, 57)
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, dict(descr="<f4", fortran_order=False, shape=shape))
        file.flush()
        start = file.tell()
        room._write_at(file.fileno(), rows, start + (shape[0] - 3) * 4 * 57)
    same(room._whole_file(path, shape[0], np.dtype(("f4", (57,))))[-3:], rows)
    assert path.stat().st_size == start + 4 * 57 * shape[0] > 5e9


def test_the_oldest_files_go_and_nobody_elses(bars, tmp_path):
    "DAT-9: of each column `keep` files at most, the last used stay; other columns, other people's files and fresh parts are left alone."
    sets = [cut_bars(bars, n_bars(bars) - k) for k in range(5)]
    for name, age_s in (("mine.npy", 9e9), ("MES_plain-close-old.npy", 9e9), ("running.part", 1800), ("dead.part", 7200)):
        (tmp_path / name).write_bytes(b"x")
        os.utime(tmp_path / name, (time.time() - age_s,) * 2)
    columns_on_disk(sets[0], [PLAIN._replace(name="more_plain")], tmp_path)
    for k, part in enumerate(sets[:3]):
        for path in {path for path in tmp_path.glob("MES_plain-*_*.npy")}: os.utime(path, ns=(0, path.stat().st_mtime_ns - 10**12))
        columns_on_disk(part, [PLAIN], tmp_path)
    columns_on_disk(sets[0], [PLAIN], tmp_path)                     # used just now
    columns_on_disk(sets[3], [PLAIN], tmp_path)                     # a fourth: sets[1] goes
    left = {column.path.name for k in (0, 2, 3) for column in room._columns_of(PLAIN, sets[k], room.data_hash(sets[k]), tmp_path)}
    assert {name for name in names(tmp_path) if "_plain-" in name and "more" not in name and "old" not in name} == left
    assert len(list(tmp_path.glob("*_more_plain-*"))) == 2 and {"mine.npy", "MES_plain-close-old.npy", "running.part"} < set(names(tmp_path)) and "dead.part" not in names(tmp_path)


PROGRAM = """
import sys, time, json
from pathlib import Path
import mesbot.on_disk as room
from mesbot.bars import take_sessions
from mesbot.synth import synthetic_market
bars, folder = synthetic_market(3, seed=11).bars, Path(sys.argv[1])
{}
"""


def start(program, *args): return subprocess.Popen([sys.executable, "-c", PROGRAM.format(program), *map(str, args)], stdout=subprocess.PIPE, text=True, cwd=ROOT)


def test_a_run_that_was_killed_leaves_no_features(bars, tmp_path):
    "DAT-9: killed in the middle of writing; the next one makes them anew, and the dead part goes when it is old."
    killed = start("""
write, calls = room._write_at, []
def slow(*args):
    write(*args)
    calls.append(1)
    if len(calls) == 2: print("written", flush=True); time.sleep(600)
room._write_at = slow
room.columns_on_disk(bars, [room.FEATURE_RECIPE], folder, threads=1)""", tmp_path)
    assert killed.stdout.readline() == "written\n"
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    [part] = names(tmp_path)
    assert part.endswith(".part") and (tmp_path / part).stat().st_size > 1e6
    three = synthetic_market(3, seed=11).bars
    same(cached_features(three, tmp_path), compute_features(three))
    assert len(names(tmp_path)) == 2 and part in names(tmp_path)
    os.utime(tmp_path / part, (time.time() - 7200,) * 2)
    cached_features(cut_bars(three, 1000), tmp_path)
    assert len(names(tmp_path)) == 2 and part not in names(tmp_path)


def test_users_side_by_side(tmp_path):
    "DAT-9: three processes ask for three sets in turn in a folder that keeps one; each gets what it asked for."
    users = [start("""
from mesbot.features import compute_features
for k in range(6):
    part = take_sessions(bars, k % 3, k % 3 + 1)
    assert room.cached_features(part, folder, keep=1).tobytes() == compute_features(part).tobytes()
print("done")""", tmp_path) for _ in range(3)]
    assert [user.communicate()[0] for user in users] == ["done\n"] * 3
    assert not list(tmp_path.glob("*.part")) and 1 <= len(names(tmp_path)) <= 3


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of one process is told by Linux alone")
def test_what_is_written_does_not_pile_up_in_memory(tmp_path):
    "Out of core: six sessions of 40,000 rows of 2,000 bytes each, 480 MB in all, two at a time, take less than half of that."
    found = start("""
import numpy as np
def peak(): return next(int(line.split()[1]) / 1e3 for line in open("/proc/self/status") if line.startswith("VmHWM"))
bars = synthetic_market(6, seed=11).bars
recipe = room.ColumnRecipe("wide", {"row": ("u1", (2000,))}, lambda part: (np.ones((len(part.ts), 2000), np.uint8),))
before = peak()
[(made,)] = room.columns_on_disk(bars, [recipe], folder, threads=2)
print(json.dumps([made.nbytes / 1e6, peak() - before]))""", tmp_path).communicate()[0]
    whole_mb, grown_mb = json.loads(found)
    assert whole_mb > 400 and grown_mb < whole_mb / 2, (whole_mb, grown_mb)


def test_the_real_week_of_spy(shared_data, tmp_path):
    "DAT-9, on real bars with empty seconds: as computed."
    import_bars(shared_data / "spy_1s_201310.csv.gz", "SPY", tmp_path / "store")
    week = load_bars("SPY", store=tmp_path / "store")
    data = dataset(week, folder=tmp_path / "set")
    same(data.features, compute_features(week))
    assert (n_bars(week), n_sessions(week)) == (100_184, 5) and all(found.tobytes() == wanted.tobytes() for found, wanted in zip(data.labels, label_moves(week)))


def test_the_settings_of_labels_do_not_run_together():
    "DAT-9: 3 s and 31 ticks are not 33 s and 1 tick."
    from mesbot.dataset import label_recipe
    found = [label_recipe(load_config(labels=dict(horizon_s=h, threshold_ticks=t))).settings for h, t in ((3, 31), (33, 1))]
    assert found[0] != found[1]


def test_the_kind_of_a_column_is_part_of_its_name(bars, tmp_path):
    "DAT-9: the same column as another type is another file."
    narrow = ColumnRecipe("plain", {"close": "i4"}, lambda part: (part.close,))
    wide = ColumnRecipe("plain", {"close": "i8"}, lambda part: (part.close.astype("i8"),))
    for recipe in (narrow, wide): columns_on_disk(bars, [recipe], tmp_path)
    assert len(names(tmp_path)) == 2


@pytest.mark.parametrize("lost", ("close", "ends"))
def test_any_column_that_is_lost_is_made_again(bars, tmp_path, lost):
    "DAT-9: whichever file of a recipe is gone, all of it is there again."
    columns_on_disk(bars, [PLAIN], tmp_path)
    next(tmp_path.glob(f"*_plain-{lost}_*")).unlink()
    for found, wanted in zip(columns_on_disk(bars, [PLAIN], tmp_path)[0], plain(bars)): same(found, wanted)
