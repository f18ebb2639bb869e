"The store: round trips, one file and many, a full disk, a kill, memory (DAT-1, DAT-2, DAT-8)."
import hashlib
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mesbot.bars
import mesbot.store
import mesbot.tickfile
from mesbot.bars import Bars, filter_hours, hours_mask, import_bars, iter_bars, load_bars, load_size, make_bars, migrate_bars, n_bars, n_sessions, session_info, stored_span, write_bars
from mesbot.calendar import next_trade_dates, session_table
from mesbot.core import MES, SECOND
from mesbot.store import bars_folder, manifest_faults, read_manifest

modest = settings(max_examples=25, deadline=None, derandomize=True, database=None)


def fingerprint(folder):
    "Every file below, with the hash of its bytes."
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(Path(folder).glob("**/*")) if p.is_file()}


def months(folder): return {name: digest for name, digest in fingerprint(folder).items() if name.endswith(".parquet")}


def same(a, b):
    assert a[7:] == b[7:]
    for name, x, y in zip(a._fields[:7], a[:7], b[:7]):
        np.testing.assert_array_equal(x, y, err_msg=name)
        assert x.dtype == y.dtype, name


def rows_at(ts, bar_s=1, symbol="MES"):
    "Bars at these stamps; prices and volume follow from the stamp, so two sets of bars never conflict."
    ts = np.asarray(ts, np.int64)
    p = 19_000 + ts // SECOND % 997
    return make_bars(ts, p, p + 2, p - 1, p + 1, ts // SECOND % 89, symbol, bar_s=bar_s)


def some_seconds(seed, n, sessions, bar_s=1):
    "n stamps spread over trade dates around the turns of three months, clock change, holiday and early close included."
    table, rng = session_table("2024-10-28", "2025-01-22")[:sessions], np.random.default_rng(seed)
    at = rng.integers(0, len(table), n)
    span = (table["close"] - table["trade_from"]) // (bar_s * SECOND)
    return np.unique(table["trade_from"][at] + (rng.random(n) * span[at]).astype(np.int64) * bar_s * SECOND)


@modest
@given(seed=st.integers(0, 2**31), n=st.integers(1, 400), sessions=st.integers(1, 58), pieces=st.integers(1, 6), bar_s=st.sampled_from([1, 60]))
def test_any_pieces_in_any_order_give_the_same_store(seed, n, sessions, pieces, bar_s):
    "DAT-2: partition and merge: what is written in overlapping pieces, in any order, comes back whole, and the months are the same bytes."
    ts, rng, series = some_seconds(seed, n, sessions, bar_s), np.random.default_rng(seed), "1m" if bar_s == 60 else "1s"
    with tempfile.TemporaryDirectory() as place:
        once, often = Path(place) / "once", Path(place) / "often"
        assert write_bars(rows_at(ts, bar_s), once) == len(ts)
        owner = rng.integers(0, pieces, len(ts))
        parts = [ts[(owner == k) | (rng.random(len(ts)) < 0.2)] for k in range(pieces)]  # every row in one, some in more
        assert sum(write_bars(rows_at(part, bar_s), often) for part in (parts[k] for k in rng.permutation(pieces)) if len(part)) == len(ts)
        assert months(once) == months(often)
        same(load_bars("MES", store=often, series=series), rows_at(ts, bar_s))
        assert manifest_faults(bars_folder("MES", often, series)) == []


@modest
@given(seed=st.integers(0, 2**31), n=st.integers(2, 400), ends=st.tuples(st.floats(0, 1), st.floats(0, 1)), session=st.sampled_from([None, "RTH", "ETH"]), one_file=st.booleans())
def test_a_range_is_what_a_search_in_everything_finds(seed, n, ends, session, one_file):
    "DAT-2, DAT-3: pruning: any range, of a store or of one file, holds exactly the rows that lie in it."
    ts = some_seconds(seed, n, 58)
    low, high = (int(ts[0] + e * (ts[-1] - ts[0] + SECOND)) for e in sorted(ends))
    with tempfile.TemporaryDirectory() as place:
        store = Path(place) / "store"
        write_bars(rows_at(ts), store)
        if one_file:
            migrate_bars(store, Path(place) / "all.parquet", "MES")
            store = Path(place) / "all.parquet"
        inside = ts[(ts >= low) & (ts < high)]
        want = filter_hours(rows_at(inside), session)[0] if len(inside) else rows_at(inside)
        if n_bars(want):
            same(load_bars("MES", low, high, session, store), want)
            for sessions in (1, 7):
                parts = list(iter_bars("MES", low, high, session, store, sessions=sessions))
                for name in Bars._fields[:6]: np.testing.assert_array_equal(np.concatenate([getattr(p, name) for p in parts]), getattr(want, name))
        else:
            with pytest.raises(ValueError, match="start must be before end|no .*bars of MES"): load_bars("MES", low, high, session, store)


@modest
@given(seed=st.integers(0, 2**31), n=st.integers(1, 400), session=st.sampled_from([None, "RTH", "ETH"]))
def test_hours_by_runs_are_hours_by_rows(seed, n, session):
    "DAT-3: the fast way to filter hours agrees with looking at every row on New York's clock."
    bars = rows_at(some_seconds(seed, n, 58))
    got, dropped = filter_hours(bars, session)
    info = session_info(bars)
    owner = np.repeat(np.arange(n_sessions(bars)), np.diff(bars.sessions))
    regular = (bars.ts >= info["rth_open"][owner]) & (bars.ts < info["rth_close"][owner])
    keep = {"RTH": regular, "ETH": ~regular, None: np.ones(n_bars(bars), bool)}[session]
    np.testing.assert_array_equal(hours_mask(bars, session), keep)
    same(got, rows_at(bars.ts[keep]))
    assert dropped == int((~keep).sum())


def python(code, **kw): return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, **kw)


CSV = "ts,open,high,low,close,volume\n" + "".join(f"2024-01-{d:02}T{h:02}:{m:02}:{s:02}Z,4750,4750.25,4749.75,4750,{s}\n" for d in (30, 31) for h in (15, 16) for m in range(60) for s in range(0, 60, 2)) \
    + "".join(f"2024-02-01T15:{m:02}:{s:02}Z,4750,4750.25,4749.75,4750,{1 + (60 * m + s) ** 3 % 10007}\n" for m in range(60) for s in range(60))


@pytest.mark.parametrize("stocked", [False, True])
@pytest.mark.parametrize("room", [100, 3_000, 40_000])
def test_a_file_that_may_not_grow(room, stocked, tmp_path):
    "DAT-2: a quota hit half way (the kernel refuses the write) is one line and exit code 2, and the store is byte for byte as before."
    (tmp_path / "new.csv").write_text(CSV)
    if stocked: write_bars(rows_at(pd.Timestamp("2024-01-30 15:00:01", tz="UTC").value + 2 * SECOND * np.arange(1000)), tmp_path / "store")
    before = fingerprint(tmp_path)
    done = python(f"import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, ({room}, {room}));"
                  f"sys.argv = ['mesbot', 'data', 'import', {str(tmp_path / 'new.csv')!r}, '--symbol', 'MES', '--store', {str(tmp_path / 'store')!r}]; from mesbot.cli import run; run()")
    if room == 40_000: assert done.returncode == 0 and n_bars(load_bars("MES", "2024-02-01T00:00", store=tmp_path / "store")) == 3600   # enough room: the test can tell
    else:
        assert done.returncode == 2 and done.stderr.count("\n") == 1 and "File too large" in done.stderr, done.stderr
        assert fingerprint(tmp_path) == before


def test_a_full_disk(tmp_path):
    "DAT-2: a disk that is full half way leaves the store byte for byte as before."
    disk = tmp_path / "disk"
    disk.mkdir()
    def on_small_disk(code): return subprocess.run(["unshare", "--map-root-user", "--mount", "sh", "-c", f"mount -t tmpfs -o size=64k none {disk} && exec {sys.executable} -c \"$1\"", "sh", code], capture_output=True, text=True)
    if shutil.which("unshare") is None or on_small_disk("").returncode: pytest.skip("this machine lets nobody mount a small disk of his own; the quota test stands in")
    (tmp_path / "new.csv").write_text(CSV)
    found = on_small_disk(f"""
import hashlib, json, os, sys
from pathlib import Path
import numpy as np
from mesbot.bars import make_bars, write_bars
from mesbot.cli import run
disk = Path({str(disk)!r})
def fingerprint(): return {{str(p.relative_to(disk)): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(disk.glob("**/*")) if p.is_file()}}
ts = 1706626801 * 10**9 + 2 * 10**9 * np.arange(1000)
p = np.full(1000, 19000)
write_bars(make_bars(ts, p, p + 1, p - 1, p, np.arange(1000)), disk / "store")
free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
(disk / "filler").write_bytes(bytes(max(0, free - 9000)))
before = fingerprint()
sys.argv = ["mesbot", "data", "import", {str(tmp_path / 'new.csv')!r}, "--symbol", "MES", "--store", str(disk / "store")]
try: run()
except SystemExit as e: print(json.dumps([e.code, fingerprint() == before]))
""")
    assert found.stdout.splitlines()[-1:] == [json.dumps([2, True])], found.stderr + found.stdout
    assert "No space left" in found.stderr and found.stderr.count("\n") == 1


def test_a_killed_import_is_all_or_nothing(tmp_path):
    "DAT-2: an import killed at any time (SIGKILL) leaves whole months that agree with the manifest once the next import has run, and that one completes the work."
    (tmp_path / "new.csv").write_text(CSV)
    import_bars(tmp_path / "new.csv", "MES", tmp_path / "whole")
    code = f"from mesbot.bars import import_bars; import sys; print('go', flush=True); import_bars({str(tmp_path / 'new.csv')!r}, 'MES', sys.argv[1])"
    ended = []
    for k, pause in enumerate(np.linspace(0, 0.25, 6)):
        store = tmp_path / f"store{k}"
        write_bars(rows_at(pd.Timestamp("2024-01-30 15:00:01", tz="UTC").value + 2 * SECOND * np.arange(1000)), store)
        process = subprocess.Popen([sys.executable, "-c", code, str(store)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        process.stdout.readline()
        time.sleep(pause)
        process.send_signal(signal.SIGKILL)
        ended.append(process.wait())
        assert n_bars(load_bars("MES", store=store)) >= 1000   # whatever the moment, every month can be read
        import_bars(tmp_path / "new.csv", "MES", store)
        assert n_bars(load_bars("MES", store=store)) == 1000 + n_bars(load_bars("MES", store=tmp_path / "whole"))
        assert manifest_faults(bars_folder("MES", store)) == [] and not [name for name in fingerprint(store) if name.endswith((".next", ".part"))]
    assert ended[0] == -signal.SIGKILL


def test_a_load_that_does_not_fit_is_refused_with_the_number(tmp_path, monkeypatch):
    "DAT-8: the size is known before the load; what does not fit is refused in one line, a part of it is not."
    write_bars(rows_at(next_trade_dates("2024-01-29", 1)["trade_from"][0] + SECOND * np.arange(70_000)), tmp_path)
    write_bars(rows_at(next_trade_dates("2024-03-05", 1)["trade_from"][0] + SECOND * np.arange(10_000)), tmp_path)
    size = load_size("MES", store=tmp_path)
    assert (size.rows, size.needed_mb) == (80_000, 2.56) and load_size("MES", "2024-03-01", store=tmp_path).rows == 10_000
    monkeypatch.setattr(mesbot.bars, "_available_bytes", lambda: 2_000_000)
    with pytest.raises(ValueError, match="^80,000 bars need 3 MB and 2 MB are free; load a shorter range, or a part at a time with iter_bars$"): load_bars("MES", store=tmp_path)
    assert n_bars(load_bars("MES", "2024-03-01", store=tmp_path)) == 10_000
    assert sum(n_bars(part) for part in iter_bars("MES", store=tmp_path)) == 80_000


def test_one_file_of_anybody_loads(tmp_path):
    "DAT-1, DAT-2: a single big parquet with int64 or datetime stamps and float points loads like the store it came from; a damaged one and one of minutes are refused."
    bars = rows_at(some_seconds(5, 3000, 58))
    prices = {name: MES.to_points(getattr(bars, name)) for name in ("open", "high", "low", "close")}
    for name, ts in (("int64", bars.ts), ("datetime", bars.ts.view("M8[ns]")), ("zoned", pd.DatetimeIndex(bars.ts, tz="UTC").tz_convert("America/New_York"))):
        pd.DataFrame({"ts": ts, **prices, "volume": bars.volume}).to_parquet(tmp_path / f"{name}.parquet", index=False)
        same(load_bars("MES", store=tmp_path / f"{name}.parquet"), bars)
        same(load_bars("MES", "2024-11-29", "2024-12-03", "RTH", tmp_path / f"{name}.parquet"), filter_hours(rows_at(bars.ts[(bars.ts >= session_table("2024-11-29", "2024-11-29")["open"][0]) & (bars.ts < session_table("2024-12-03", "2024-12-03")["open"][0])]), "RTH")[0])
    pd.DataFrame(prices, index=pd.DatetimeIndex(bars.ts, tz="UTC")).to_parquet(tmp_path / "index.parquet")   # stamps in an index without a name
    np.testing.assert_array_equal(load_bars("MES", store=tmp_path / "index.parquet").ts, bars.ts)
    (tmp_path / "cut.parquet").write_bytes((tmp_path / "int64.parquet").read_bytes()[:-40])
    with pytest.raises(ValueError, match="^cut.parquet: cannot be read as parquet, is it cut off"): load_bars("MES", store=tmp_path / "cut.parquet")
    with pytest.raises(ValueError, match="int64.parquet holds the series 1s, not 1m"): load_bars("MES", store=tmp_path / "int64.parquet", series="1m")
    with pytest.raises(ValueError, match="no bars of MES from 2030-01-01 to the last$"): load_bars("MES", "2030-01-01", store=tmp_path / "int64.parquet")


def test_moving_there_and_back(tmp_path):
    "DAT-2: a store becomes one file and the file a store again, every month the same bytes; points of anybody become a store too."
    bars = rows_at(some_seconds(6, 5000, 58))
    write_bars(bars, tmp_path / "store")
    assert migrate_bars(tmp_path / "store", tmp_path / "all.parquet", "MES") == n_bars(bars) == migrate_bars(tmp_path / "all.parquet", tmp_path / "again", "MES")
    assert months(tmp_path / "store") == months(tmp_path / "again")
    before = fingerprint(tmp_path)
    with pytest.raises(ValueError, match="all.parquet exists already"): migrate_bars(tmp_path / "store", tmp_path / "all.parquet", "MES")
    with pytest.raises(FileNotFoundError): migrate_bars(tmp_path / "nowhere", tmp_path / "none.parquet", "MES")
    write_bars(rows_at(bars.ts)._replace(volume=bars.volume + 1), tmp_path / "other")
    other = fingerprint(tmp_path / "other")
    with pytest.raises(ValueError, match="the store has another bar at"): migrate_bars(tmp_path / "all.parquet", tmp_path / "other", "MES")
    assert fingerprint(tmp_path / "other") == other and {k: v for k, v in fingerprint(tmp_path).items() if not k.startswith("other")} == before


def test_a_copy_that_differs_is_not_passed_off(tmp_path, monkeypatch):
    "DAT-2: migration compares every row; a writer that spoils one is found."
    write_bars(rows_at(some_seconds(7, 500, 20)), tmp_path / "store")
    good = mesbot.bars.write_file
    monkeypatch.setattr(mesbot.bars, "write_file", lambda path, columns, *rest: good(path, [*columns[:5], columns[5] + (np.arange(len(columns[5])) == 77)], *rest))
    with pytest.raises(ValueError, match="are not those of"): migrate_bars(tmp_path / "store", tmp_path / "all.parquet", "MES")
    assert not (tmp_path / "all.parquet").exists()


def test_the_manifest_says_where_rows_come_from(tmp_path):
    "DAT-6: file, hash, zone, stamp convention and snapping are recorded; importing the same file again changes no byte."
    (tmp_path / "a.csv").write_text("ts,open,high,low,close\n2024-01-05 09:30:01,4750,4750.3,4750,4750\n2024-01-05 09:30:02,4750,4750,4750,4750\n")
    done = import_bars(tmp_path / "a.csv", "MES", tmp_path / "store", tz="America/New_York", stamp="close", snap=True)
    [source] = read_manifest(bars_folder("MES", tmp_path / "store"))["sources"]
    assert source["file"] == "a.csv" and source["sha256"] == hashlib.sha256((tmp_path / "a.csv").read_bytes()).hexdigest() and source["rows"] == source["added"] == 2
    assert (source["tz"], source["stamp"], source["snapped"]) == ("America/New_York", "close", 1) and abs(source["snapped_points"] - 0.05) < 1e-9 and done.snapped == 1
    assert load_bars("MES", store=tmp_path / "store").ts[0] == pd.Timestamp("2024-01-05 14:30", tz="UTC").value
    (tmp_path / "b.txt").write_text("20240108 143100;4750;4750;4750;4750;1\n20240108 143200;4750;4750;4750;4750;1\n")
    import_bars(tmp_path / "b.txt", "MES", tmp_path / "store")
    [source] = read_manifest(bars_folder("MES", tmp_path / "store", "1m"))["sources"]
    assert (source["tz"], source["stamp"]) == ("UTC", "close")   # said even when nobody chose them
    before = fingerprint(tmp_path)
    assert import_bars(tmp_path / "a.csv", "MES", tmp_path / "store", tz="America/New_York", stamp="close", snap=True).added == 0
    assert fingerprint(tmp_path) == before


@pytest.fixture
def small_groups(monkeypatch):
    "Files of many groups of 100 rows, so that a few hundred rows have edges inside."
    write = mesbot.tickfile.pq.write_table
    monkeypatch.setattr(mesbot.tickfile.pq, "write_table", lambda table, file, **kw: write(table, file, **kw | {"row_group_size": 100}))


def afternoon(n, bar_s=1): return pd.Timestamp("2024-01-08 15:00", tz="UTC").value + bar_s * SECOND * np.arange(n)


def test_edges_of_groups_and_months(small_groups, tmp_path):
    "DAT-2: ranges that begin or end at the edge of a group of rows or of a month lose no row and unpack no group too many."
    ts = afternoon(1000)
    write_bars(rows_at(ts), tmp_path / "one")
    for k in range(0, 1000, 33):
        for low, high in ((k, None), (None, k + 1), (k, k + 1)):
            same(load_bars("MES", None if low is None else int(ts[low]), None if high is None else int(ts[high - 1]) + 1, store=tmp_path / "one"), rows_at(ts[low:high]))
    assert n_bars(load_bars("MES", int(ts[99]), store=tmp_path / "one")) == 901
    assert load_size("MES", int(ts[250]), int(ts[260]), tmp_path / "one").rows == 100
    facts = read_manifest(bars_folder("MES", tmp_path / "one"))["months"]["2024-01"]
    assert (facts["first"], facts["last"]) == stored_span("MES", tmp_path / "one") == (ts[0], ts[-1])
    turn = pd.Timestamp("2024-02-01", tz="UTC").value + SECOND * np.arange(-3, 3)
    write_bars(rows_at(turn), tmp_path / "turn")
    same(load_bars("MES", None, int(turn[3]) + 1, store=tmp_path / "turn"), rows_at(turn[:4]))
    for end in (None, int(turn[-1]) + 1, int(turn[-1])):
        np.testing.assert_array_equal(np.concatenate([p.ts for p in iter_bars("MES", end=end, store=tmp_path / "turn")]), load_bars("MES", end=end, store=tmp_path / "turn").ts)


def test_one_flipped_bit_is_noticed(tmp_path):
    "DAT-2: most flipped bits would still unpack, as other numbers; the checksum of the page tells."
    rng = np.random.default_rng(7)
    bars = rows_at(afternoon(3000))._replace(volume=rng.integers(1, 5000, 3000))
    write_bars(bars, tmp_path)
    [month] = tmp_path.glob("MES/1s/*/*.parquet")
    good, refused = month.read_bytes(), 0
    flipped = range(100, len(good) - 3000, 37)
    for at in flipped:
        month.write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1:])
        try: again = load_bars("MES", store=tmp_path)
        except ValueError as e:
            assert "damaged" in str(e)
            refused += 1
        else: same(again, bars)  # a bit that nobody reads
    assert refused > 0.9 * len(flipped)


def test_a_copy_into_a_store_is_compared_too(tmp_path, monkeypatch):
    "DAT-2: from one file to a store: a spoilt row is found; rows that the store has besides are no fault."
    write_bars(rows_at(afternoon(500)), tmp_path / "store")
    migrate_bars(tmp_path / "store", tmp_path / "one.parquet", "MES")
    write_bars(rows_at(afternoon(500) + 1000 * SECOND), tmp_path / "more")
    write_bars(rows_at(afternoon(1)[:1] - 60 * SECOND), tmp_path / "more")
    assert migrate_bars(tmp_path / "one.parquet", tmp_path / "more", "MES") == 500 and n_bars(load_bars("MES", store=tmp_path / "more")) == 1001
    good = mesbot.store.write_file
    monkeypatch.setattr(mesbot.store, "write_file", lambda path, columns, *rest: good(path, [*columns[:5], columns[5] + (np.arange(len(columns[5])) == 77)], *rest))
    with pytest.raises(ValueError, match="are not those of"): migrate_bars(tmp_path / "one.parquet", tmp_path / "other", "MES")
    for sides in ((tmp_path / "store", tmp_path / "two.csv"), (tmp_path / "one.parquet", tmp_path / "two.parquet")):
        with pytest.raises(ValueError, match="one side must be a store and the other a .parquet file"): migrate_bars(*sides, "MES")


def test_minutes_stay_minutes(tmp_path):
    "DAT-6: minutes are loaded as minutes, whole or in parts, and never written among the seconds."
    minutes = rows_at(afternoon(5, 60), 60)
    write_bars(minutes, tmp_path)
    assert next(iter_bars("MES", store=tmp_path, series="1m")).bar_s == load_bars("MES", store=tmp_path, series="1m").bar_s == 60
    with pytest.raises(ValueError, match="series 1s has bars of 1 s, got bars of 60 s"): write_bars(minutes, tmp_path, series="1s")
    with pytest.raises(ValueError, match="series must be one of 1s, 1m"): write_bars(minutes._replace(bar_s=300), tmp_path)


def test_what_somebody_else_changed_is_not_blessed(tmp_path):
    "DAT-5: a month that was written over, removed, copied or renamed stays a fault whatever is imported next, and a load of rows in the wrong place is refused."
    whole = rows_at(some_seconds(3, 4000, 58))
    write_bars(whole, tmp_path / "good")
    folder = bars_folder("MES", tmp_path / "good")
    months_here = sorted(p.stem for p in folder.glob("2024/*.parquet"))
    assert months_here[:2] == ["10", "11"]
    def copy(name):
        shutil.copytree(tmp_path / "good", tmp_path / name)
        return tmp_path / name, bars_folder("MES", tmp_path / name) / "2024"
    store, year = copy("removed")
    (year / "11.parquet").unlink()
    write_bars(rows_at(afternoon(5)), store)
    assert manifest_faults(bars_folder("MES", store)) == ["2024-11 is in the manifest and not in the store"]
    store, year = copy("over")
    shutil.copy(year / "10.parquet", year / "11.parquet")
    with pytest.raises(ValueError, match="11.parquet is not what the manifest says"): write_bars(rows_at(session_table("2024-11-13", "2024-11-13")["trade_from"][0] + SECOND * np.arange(5)), store)
    with pytest.raises(ValueError, match="do not follow those of the file before it"): load_bars("MES", store=store)
    store, year = copy("renamed")
    (year / "12.parquet").rename(year / "13.parquet")
    (year / "11.parquet").rename(year / "12.parquet")
    with pytest.raises(ValueError, match="rows of 2024-11 in the file of another month"): load_bars("MES", store=store)


@pytest.mark.parametrize("content", ["{}", "[]", '{"months": [], "sources": []}', '{"months": {"2026-05": 3}, "sources": []}', '{"months": {"2026-05": {}}, "sources": []}', '{"months": {}, "sources": null}', "not json"])
def test_a_damaged_manifest(content, tmp_path):
    "DAT-5: one line, no traceback, nothing written."
    write_bars(rows_at(afternoon(50)), tmp_path)
    (bars_folder("MES", tmp_path) / "manifest.json").write_text(content)
    before = fingerprint(tmp_path)
    with pytest.raises(ValueError, match="manifest.json cannot be read, is it damaged"): write_bars(rows_at(afternoon(60)), tmp_path)
    with pytest.raises(ValueError, match="manifest.json cannot be read, is it damaged"): manifest_faults(bars_folder("MES", tmp_path))
    assert fingerprint(tmp_path) == before and n_bars(load_bars("MES", store=tmp_path)) == 50


def test_a_file_read_in_another_way_is_refused(tmp_path):
    "DAT-6: the same file in another zone would put every bar into the store twice."
    (tmp_path / "a.csv").write_text("ts,open,high,low,close\n2024-01-05 09:30:01,4750,4750,4750,4750\n2024-01-05 09:30:02,4750,4750,4750,4750\n")
    import_bars(tmp_path / "a.csv", "MES", tmp_path / "store", tz="America/New_York")
    before = fingerprint(tmp_path)
    for other in (dict(tz="America/Chicago"), dict(tz="America/New_York", stamp="close"), {}):
        with pytest.raises(ValueError, match="^a.csv: this file is in the store already, read with tz America/New_York and stamp open"): import_bars(tmp_path / "a.csv", "MES", tmp_path / "store", **other)
    assert fingerprint(tmp_path) == before


def test_stored_rows_outside_trading_hours_are_audited(tmp_path):
    "DAT-5: rows that got into the store past the door: a load refuses them, the audit names them."
    bars = rows_at(afternoon(300))
    wrong = pd.Timestamp("2024-01-08 22:30", tz="UTC").value  # 17:30 New York
    mesbot.store.write_columns([np.append(column, column[-1:] if k else wrong) for k, column in enumerate(bars[:6])], "MES", tmp_path)
    with pytest.raises(ValueError, match="17:30:00 New York lies outside trading hours"): load_bars("MES", store=tmp_path)
    audit = mesbot.bars.audit_store("MES", tmp_path)
    assert not audit.ok and "outside_hours" in audit.findings["kind"].tolist()
