"Data: the import door, the store and loading (DAT-1, DAT-2, DAT-3, DAT-6)."
import datetime as dt
import gzip
import hashlib
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import mesbot.store
import mesbot.tables
from mesbot.bars import Imported, cut_bars, filter_hours, import_bars, load_bars, make_bars, n_bars, n_sessions, session_info, take_sessions, write_bars
from mesbot.core import INSTRUMENTS, SECOND
from mesbot.tickfile import COLUMNS

HEADER = "ts,open,high,low,close,volume\n"
GOOD = [f"2018-05-07T13:30:0{s}Z,2670.5,2670.75,2669.75,2670.5,{s}\n" for s in range(8)]


def fingerprint(folder):
    "Every file and folder below, with the hash of its bytes."
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() if p.is_file() else "folder" for p in sorted(Path(folder).glob("**/*"))}


def same(a, b):
    assert a[7:] == b[7:]  # symbol and length
    for name, x, y in zip(a._fields[:7], a[:7], b[:7]):
        np.testing.assert_array_equal(x, y, err_msg=name)
        assert x.dtype == y.dtype, name


def spoilt(row, text):
    "A good file with one data row (from 0) replaced."
    return (HEADER + "".join([*GOOD[:row], text + "\n", *GOOD[row + 1:]])).encode()


def parquet(tmp, **columns):
    rows = dict(ts=pd.date_range("2018-05-07 13:30", periods=3, freq="s", tz="UTC"), open=[2670.5] * 3, high=[2670.75] * 3, low=[2669.75] * 3, close=[2670.5] * 3)
    pq.write_table(pa.Table.from_pandas(pd.DataFrame({**rows, **columns})), tmp / "bad.parquet")
    return (tmp / "bad.parquet").read_bytes()


# what is wrong -> (file name, bytes, options of import_bars, words the one line must hold)
BAD = {
    "empty": ("bad.csv", b"", {}, ["is empty"]),
    "only blank lines": ("bad.csv", b"\n\r\n\n", {}, ["is empty"]),
    "header only": ("bad.csv", HEADER.encode(), {}, ["no rows"]),
    "no header": ("bad.csv", "".join(GOOD).encode(), {}, ["missing column", "open, high, low, close", "found: '2018-05-07T13:30:00Z'"]),
    "missing column": ("bad.csv", (HEADER + "".join(GOOD)).replace("close", "last").encode(), {}, ["missing column close", "'last'"]),
    "missing stamp column": ("bad.csv", (HEADER + "".join(GOOD)).replace("ts", "when").encode(), {}, ["missing column a stamp", "'when'"]),
    "two open columns": ("bad.csv", (HEADER + "".join(GOOD)).replace("volume", "Open").encode(), {}, ["'open' is there 2 times"]),
    "decimal comma": ("bad.csv", (HEADER.replace(",", ";") + "2018-05-07T13:30:00Z;2670,5;2670,75;2669,75;2670,5;1\n").encode(), {}, ["bad.csv line 2", "decimal point", "'2670,5'"]),
    "decimal comma in text": ("bad.txt", b"20180507 133100;2670.5;2670.75;2669.75;2670.5;1\n20180507 133200;2670,5;2670,75;2669,75;2670,5;1\n", {}, ["bad.txt line 2", "open is not a number", "'2670,5'"]),
    "all decimal commas in text": ("bad.txt", b"20180507 133100;2670,5;2670,75;2669,75;2670,5;1\n", {}, ["bad.txt line 1", "decimal point", "'2670,5'"]),
    "text of another export": ("bad.txt", b"20180507 133100 0000000;2670.5;2670.5;2670.75;1\n", {}, ["bad.txt line 1: 5 columns", "yyyyMMdd HHmmss;open;high;low;close;volume"]),
    "hourly bars": ("bad.csv", (HEADER + "".join(f"2018-05-07T{h:02}:00:00Z,2670.5,2670.75,2669.75,2670.5,1\n" for h in range(12))).encode(), {}, ["bars of 3600 s", "1 s and of 60 s"]),
    "text in New York time read as UTC": ("bad.txt", "".join(f"20180507 {h}{m:02}00;2670.5;2670.75;2669.75;2670.5;1\n" for h in (16, 18, 19, 20, 21) for m in range(60)).encode(), {}, ["bad.txt line 242", "outside trading hours", "time zone"]),
    "no such stamp column": ("bad.csv", (HEADER + "".join(GOOD)).encode(), {"column": "when"}, ["missing column when"]),
    "contract of a CSV": ("bad.csv", (HEADER + "".join(GOOD)).encode(), {"contract": "ESU4"}, ["contract ESU4", "Databento"]),
    "tick of another contract": ("bad.csv", (HEADER + "".join(GOOD)).replace("2670.5,", "2670.1,").encode(), {}, ["bad.csv line 2: open 2670.1 is not on ES's tick grid of 0.25", "--snap"]),
    "no dbn": ("bad.dbn", b"DBN\x01not really", {}, ["cannot be read as DBN"]),
    "no packed dbn": ("bad.dbn.zst", b"\x28\xb5\x2f\xfd????", {}, ["cannot be read as DBN"]),
    "unparsable stamp": ("bad.csv", spoilt(3, "7 May 2018,2670.5,2670.75,2669.75,2670.5,1"), {}, ["bad.csv line 5", "'7 May 2018'", "2024-01-05T14:30:00Z"]),
    "missing stamp": ("bad.csv", spoilt(3, ",2670.5,2670.75,2669.75,2670.5,1"), {}, ["bad.csv line 5", "stamp is missing"]),
    "absurd year": ("bad.csv", spoilt(0, "0018-05-07T13:30:00Z,2670.5,2670.75,2669.75,2670.5,1"), {}, ["bad.csv line 2", "0018"]),
    "unsorted": ("bad.csv", spoilt(3, "2018-05-07T13:30:01Z,2670.5,2670.75,2669.75,2670.5,1"), {}, ["bad.csv line 5", "comes before 2018-05-07T13:30:02Z", "sort"]),
    "duplicate": ("bad.csv", spoilt(3, "2018-05-07T13:30:02Z,2670.5,2670.75,2669.75,2670.5,1"), {}, ["bad.csv line 5", "twice"]),
    "half second": ("bad.csv", spoilt(3, "2018-05-07T13:30:02.500Z,2670.5,2670.75,2669.75,2670.5,1"), {}, ["bad.csv line 5", "whole second"]),
    "off grid": ("bad.csv", spoilt(3, "2018-05-07T13:30:03Z,2670.5,2670.75,2669.75,2670.3,1"), {}, ["bad.csv line 5", "close 2670.3", "grid of 0.25"]),
    "hardly off grid": ("bad.csv", spoilt(3, "2018-05-07T13:30:03Z,2670.5,2670.75,2669.75,2670.5001,1"), {}, ["bad.csv line 5", "close 2670.5001", "grid of 0.25"]),
    "huge price": ("bad.csv", spoilt(3, "2018-05-07T13:30:03Z,1e12,1e12,1e12,1e12,1"), {}, ["bad.csv line 5", "open 1e+12"]),
    "high below low": ("bad.csv", spoilt(3, "2018-05-07T13:30:03Z,2670.25,2670.25,2670.5,2670.5,1"), {}, ["bad.csv line 5: high 2670.25 is below low 2670.5"]),
    "open outside": ("bad.csv", spoilt(3, "2018-05-07T13:30:03Z,2671,2670.75,2669.75,2670.5,1"), {}, ["bad.csv line 5: open 2671 is outside low 2669.75 to high 2670.75"]),
    "close outside": ("bad.csv", spoilt(3, "2018-05-07T13:30:03Z,2670.5,2670.75,2669.75,2669.5,1"), {}, ["bad.csv line 5: close 2669.5 is outside"]),
    "price zero": ("bad.csv", spoilt(3, "2018-05-07T13:30:03Z,0,0,0,0,1"), {}, ["bad.csv line 5", "above 0"]),
    "price negative": ("bad.csv", spoilt(3, "2018-05-07T13:30:03Z,-1,-1,-1,-1,1"), {}, ["bad.csv line 5", "above 0"]),
    "empty price": ("bad.csv", spoilt(3, "2018-05-07T13:30:03Z,2670.5,,2669.75,2670.5,1"), {}, ["bad.csv line 5", "high is missing"]),
    "NaN price": ("bad.csv", spoilt(3, "2018-05-07T13:30:03Z,2670.5,NaN,2669.75,2670.5,1"), {}, ["bad.csv line 5", "high is missing"]),
    "inf price": ("bad.csv", spoilt(3, "2018-05-07T13:30:03Z,2670.5,inf,2669.75,2670.5,1"), {}, ["bad.csv line 5", "high is inf"]),
    "text price": ("bad.csv", spoilt(3, "2018-05-07T13:30:03Z,2670.5,halt,2669.75,2670.5,1"), {}, ["bad.csv line 5", "high is not a number: 'halt'"]),
    "negative volume": ("bad.csv", spoilt(3, "2018-05-07T13:30:03Z,2670.5,2670.75,2669.75,2670.5,-1"), {}, ["bad.csv line 5", "volume -1"]),
    "fractional volume": ("bad.csv", spoilt(3, "2018-05-07T13:30:03Z,2670.5,2670.75,2669.75,2670.5,1.5"), {}, ["bad.csv line 5", "volume 1.5"]),
    "empty volume": ("bad.csv", spoilt(3, "2018-05-07T13:30:03Z,2670.5,2670.75,2669.75,2670.5,"), {}, ["bad.csv line 5", "volume is missing"]),
    "short row": ("bad.csv", spoilt(3, "2018-05-07T13:30:03Z,2670.5,2670.75"), {}, ["bad.csv line 5", "3 columns", "6"]),
    "long row": ("bad.csv", spoilt(3, "2018-05-07T13:30:03Z,2670.5,2670.75,2669.75,2670.5,1,9"), {}, ["bad.csv line 5", "7 columns", "6"]),
    "fault after empty lines": ("bad.csv", spoilt(3, "\n\n2018-05-07T13:30:03Z,2670.5,oops,2669.75,2670.5,1"), {}, ["bad.csv line 7", "'oops'"]),
    "short row after empty lines": ("bad.csv", spoilt(3, "\n\n2018-05-07T13:30:03Z,2670.5"), {}, ["bad.csv line 7", "2 columns"]),
    "fault in windows lines": ("bad.csv", spoilt(3, "\n2018-05-07T13:30:03Z,2670.5,oops,2669.75,2670.5,1").replace(b"\n", b"\r\n"), {}, ["bad.csv line 6", "'oops'"]),
    "unknown symbol": ("bad.csv", (HEADER + "".join(GOOD)).encode(), {"symbol": "DOGE"}, ["'DOGE'", "known: MES, ES"]),
    "unknown zone": ("bad.csv", (HEADER + "".join(GOOD)).encode(), {"tz": "New York"}, ["'New York'", "America/New_York"]),
    "unknown convention": ("bad.csv", (HEADER + "".join(GOOD)).encode(), {"stamp": "middle"}, ["'middle'", "'open' or 'close'"]),
    "outside hours": ("bad.csv", spoilt(7, "2018-05-07T21:30:00Z,2670.5,2670.75,2669.75,2670.5,1"), {}, ["bad.csv line 9", "2018-05-07 17:30:00 New York", "closed 17:00-18:00"]),
    "wrong zone": ("bad.csv", (HEADER + "".join(GOOD)).replace("Z", "").encode(), {"tz": "America/Anchorage"}, ["bad.csv line 2", "17:30:00 New York", "time zone"]),
    "weekend": ("bad.csv", spoilt(7, "2018-05-12T15:00:00Z,2670.5,2670.75,2669.75,2670.5,1"), {}, ["bad.csv line 9", "Fri 2018-05-11 17:00 to Sun 2018-05-13 18:00"]),
    "holiday": ("bad.csv", spoilt(7, "2018-12-25T15:00:00Z,2670.5,2670.75,2669.75,2670.5,1"), {}, ["bad.csv line 9", "closed Mon 2018-12-24 13:15 to Tue 2018-12-25 18:00"]),
    "after a holiday's halt": ("bad.csv", spoilt(7, "2018-05-28T17:00:00Z,2670.5,2670.75,2669.75,2670.5,1"), {}, ["bad.csv line 9", "2018-05-28 13:00:00 New York", "closed 13:00-18:00"]),
    "hour that happens twice": ("bad.csv", spoilt(7, "2018-11-04 01:30:00,2670.5,2670.75,2669.75,2670.5,1"), {"tz": "America/New_York"}, ["bad.csv line 9", "twice or never"]),
    "hour that never was": ("bad.csv", spoilt(7, "2019-03-10 02:30:00,2670.5,2670.75,2669.75,2670.5,1"), {"tz": "America/New_York"}, ["bad.csv line 9", "twice or never"]),
    "unknown extension": ("bad.xlsx", b"x", {}, [".csv, .csv.gz, .txt, .txt.gz, .parquet, .dbn, .dbn.zst, .zip"]),
    "cut gzip": ("bad.csv.gz", gzip.compress((HEADER + "".join(GOOD) * 50).encode())[:-20], {}, ["cut off or damaged"]),
    "no gzip": ("bad.csv.gz", (HEADER + "".join(GOOD)).encode(), {}, ["cut off or damaged"]),
    "bytes that are no text": ("bad.csv", spoilt(3, "2018-05-07T13:30:03Z,2670.5,\xff\xfe,2669.75,2670.5,1").decode().encode("latin-1"), {}, []),
    "no parquet": ("bad.parquet", b"PAR1", {}, ["cut off or damaged"]),
}


@pytest.mark.parametrize("stocked", [False, True], ids=["empty store", "stocked store"])
@pytest.mark.parametrize("fault", BAD)
def test_bad_file_is_refused_in_one_line_and_the_store_stays(fault, stocked, tmp_path):
    "DAT-6: a bad file is refused whole; the line names file, row and what is right; not a byte of the store changes."
    name, content, options, words = BAD[fault]
    store = tmp_path / "store"
    if stocked:
        (tmp_path / "good.csv").write_text(HEADER + "".join(GOOD[:2]))
        import_bars(tmp_path / "good.csv", "ES", store)
    (tmp_path / name).write_bytes(content)
    before = fingerprint(tmp_path)
    with pytest.raises(ValueError) as e: import_bars(tmp_path / name, store=store, **{"symbol": "ES", **options})
    text = str(e.value)
    assert text.startswith(name) and "\n" not in text and "Traceback" not in text
    for word in words: assert word in text, text
    assert fingerprint(tmp_path) == before


def test_row_is_named_in_any_piece_of_a_long_file(tmp_path, monkeypatch):
    "DAT-6: a file that is read in pieces counts its lines through."
    monkeypatch.setattr(mesbot.tables, "BLOCK", 150)
    for fault, line in (("text price", 5), ("short row", 5), ("outside hours", 9), ("fault after empty lines", 7)):
        (tmp_path / "bad.csv").write_bytes(BAD[fault][1])
        with pytest.raises(ValueError, match=f"^bad.csv line {line}( |:)"): import_bars(tmp_path / "bad.csv", "ES", tmp_path / "store")
    (tmp_path / "good.csv").write_text(HEADER + "".join(GOOD))
    assert import_bars(tmp_path / "good.csv", "ES", tmp_path / "store")[:2] == (8, 8)


def test_missing_file_and_folder(tmp_path):
    "DAT-6: a missing file and a folder are refused in one line."
    with pytest.raises(FileNotFoundError) as e: import_bars(tmp_path / "no.csv", "ES", tmp_path / "store")
    assert str(e.value).startswith("no.csv: no such file") and "\n" not in str(e.value)
    (tmp_path / "dir.csv").mkdir()
    with pytest.raises(ValueError, match="^dir.csv is a folder"): import_bars(tmp_path / "dir.csv", "ES", tmp_path / "store")
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("columns, words", [
    (dict(high=[2670.75, None, 2670.75]), "bad.parquet row 2: high is missing"),
    (dict(low=[2669.75, 2669.75, 2669.8]), "bad.parquet row 3: low 2669.8 is not on ES's tick grid of 0.25"),
    (dict(volume=[1.0, 2.5, 3.0]), "bad.parquet row 2: volume 2.5"),
    (dict(ts=[1.5, 2.5, 3.5]), "bad.parquet row 1: stamps of type double cannot be read"),
    (dict(ts=[20180507, 20180508, 20180509]), "bad.parquet row 1: stamp 20180507 cannot be read"),
    (dict(open=["2670.5", "x", "1"]), "bad.parquet row 2: open is not a number: 'x'"),
])
def test_bad_parquet(columns, words, tmp_path):
    "DAT-6: the same for parquet, whose rows count from 1."
    parquet(tmp_path, **columns)
    with pytest.raises(ValueError) as e: import_bars(tmp_path / "bad.parquet", "ES", tmp_path / "store")
    assert str(e.value).startswith(words) and "\n" not in str(e.value)
    assert not (tmp_path / "store").exists()


def test_cut_parquet_and_a_month_of_the_store(tmp_path):
    "DAT-6: a cut parquet file is refused, and so is a month of a store, whose prices are ticks."
    content = parquet(tmp_path)
    assert import_bars(tmp_path / "bad.parquet", "ES", tmp_path / "store").rows == 3
    before = fingerprint(tmp_path / "store")
    (tmp_path / "bad.parquet").write_bytes(content[:-50])
    with pytest.raises(ValueError, match="^bad.parquet: cannot be read"): import_bars(tmp_path / "bad.parquet", "ES", tmp_path / "store")
    with pytest.raises(ValueError, match="^05.parquet: this is a month of a mesbot store"): import_bars(tmp_path / "store/ES/1s/2018/05.parquet", "ES", tmp_path / "store")
    assert fingerprint(tmp_path / "store") == before


@pytest.mark.parametrize("stamps, options", [
    (["2018-05-07T13:30:00Z", "2018-05-07T13:30:01Z"], {}),
    (["2018-05-07 13:30:00", "2018-05-07 13:30:01"], {}),
    (["2018-05-07 09:30:00", "2018-05-07 09:30:01"], dict(tz="America/New_York")),
    (["2018-05-07 08:30:00", "2018-05-07 08:30:01"], dict(tz="America/Chicago")),
    (["2018-05-07T09:30:00-04:00", "2018-05-07T15:30:01+0200"], dict(tz="Asia/Tokyo")),
    (["2018-05-07T13:30:01Z", "2018-05-07T13:30:02Z"], dict(stamp="close")),
    ([1525699800, 1525699801], {}), ([1525699800_000, 1525699801_000], {}), ([1525699800 * SECOND, 1525699801 * SECOND], {}),
])
def test_every_way_to_write_a_stamp(stamps, options, tmp_path):
    "DAT-6: stamp convention and time zone are explicit, and give the same two bars in CSV, gzip and parquet."
    rows = "".join(f"{s},2670.5,2670.75,2669.75,2670.5\n" for s in stamps)
    (tmp_path / "a.csv").write_text("Time,Open,High,Low,Close\n" + rows)
    (tmp_path / "b.csv.gz").write_bytes(gzip.compress(("\ufeffDATE , OPEN,HIGH,low,Close,extra\r\n" + rows.replace("\n", ",note\r\n")).encode()))
    parquet(tmp_path, ts=[*stamps, stamps[1]])
    table = pq.read_table(tmp_path / "bad.parquet").slice(0, 2)
    pq.write_table(table, tmp_path / "c.parquet")
    for file in ("a.csv", "b.csv.gz", "c.parquet"):
        report = import_bars(tmp_path / file, "ES", tmp_path / file[0], **options)
        assert report == Imported(2, 2, 1525699800 * SECOND, 1525699801 * SECOND, 1, False, 0)


def test_parquet_datetimes_without_zone(tmp_path):
    "DAT-6: datetimes of a parquet file follow tz when they have no zone of their own."
    naive = pd.date_range("2018-05-07 09:30", periods=3, freq="s")
    for k, (ts, tz) in enumerate([(naive, "America/New_York"), (naive.tz_localize("America/New_York"), "UTC"), (naive.astype("M8[ms]"), "America/New_York")]):
        parquet(tmp_path, ts=ts)
        assert import_bars(tmp_path / "bad.parquet", "ES", tmp_path / str(k), tz=tz).first == 1525699800 * SECOND


REAL = [("es_1s_20180507.csv.gz", "ES", 9_780, 1, False), ("spy_1s_201310.csv.gz", "SPY", 100_184, 5, True)]


@pytest.mark.parametrize("file, symbol, rows, sessions, has_volume", REAL)
def test_real_file_goes_in_and_comes_back(file, symbol, rows, sessions, has_volume, shared_data, tmp_path):
    "DAT-1, DAT-2, DAT-6: every row of a real file comes back as it was; importing again changes no byte."
    report = import_bars(shared_data / file, symbol, tmp_path)
    assert report[:2] == (rows, rows) and report.sessions == sessions and report.has_volume == has_volume
    source = pd.read_csv(shared_data / file)
    bars = load_bars(symbol, store=tmp_path)
    assert n_bars(bars) == rows and n_sessions(bars) == sessions and bars.symbol == symbol
    np.testing.assert_array_equal(bars.ts, pd.DatetimeIndex(pd.to_datetime(source["ts"])).as_unit("ns").asi8)
    for name in ("open", "high", "low", "close"):
        np.testing.assert_allclose(getattr(bars, name) * INSTRUMENTS[symbol].tick, source[name], rtol=0, atol=1e-9)
    np.testing.assert_array_equal(bars.volume, source["volume"])
    before = fingerprint(tmp_path)
    written = [p.stat().st_mtime_ns for p in sorted(tmp_path.glob("**/*.parquet"))]
    assert import_bars(shared_data / file, symbol, tmp_path)[:2] == (rows, 0)
    assert fingerprint(tmp_path) == before and [p.stat().st_mtime_ns for p in sorted(tmp_path.glob("**/*.parquet"))] == written


def test_real_regular_hours(shared_data, tmp_path):
    "DAT-3: SPY's regular hours hold the 86,869 rows its description counts, and the rest is reported as dropped."
    import_bars(shared_data / "spy_1s_201310.csv.gz", "SPY", tmp_path)
    bars = load_bars("SPY", store=tmp_path)
    rth, dropped = filter_hours(bars, "RTH")
    assert (n_bars(rth), dropped) == (86_869, 100_184 - 86_869)
    same(rth, load_bars("SPY", session="RTH", store=tmp_path))
    clock = pd.DatetimeIndex(rth.ts, tz="UTC").tz_convert(ZoneInfo("America/New_York"))
    assert clock.time.min() >= dt.time(9, 30) and clock.time.max() < dt.time(16)
    assert n_bars(load_bars("SPY", session="ETH", store=tmp_path)) == dropped


def seconds(start, n, price=19000, symbol="MES", volume=1):
    "n flat bars from a UTC time on."
    ts = pd.Timestamp(start, tz="UTC").value + np.arange(n) * SECOND
    p = np.full(n, price)
    return make_bars(ts, p, p + 1, p - 1, p, np.full(n, volume), symbol)


def test_months_round_trip(tmp_path):
    "DAT-2: one file a UTC month; a range reads only its months; ticks, symbol and types survive."
    for start, n in (("2023-12-29 21:30", 60), ("2024-01-31 23:59", 60), ("2024-02-29 23:59", 120)): write_bars(seconds(start, n), tmp_path)
    files = [str(p.relative_to(tmp_path)) for p in sorted(tmp_path.glob("**/*.parquet"))]
    assert files == ["MES/1s/2023/12.parquet", "MES/1s/2024/01.parquet", "MES/1s/2024/02.parquet", "MES/1s/2024/03.parquet"]
    schema = pq.read_schema(tmp_path / files[1])
    assert schema.names == list(COLUMNS) and [str(t) for t in schema.types] == ["int64"] + ["int32"] * 4 + ["int64"]
    assert schema.metadata[b"mesbot.symbol"] == b"MES" and schema.metadata[b"mesbot.tick"] == b"0.25"
    bars = load_bars("MES", store=tmp_path)
    assert n_bars(bars) == 240 and n_sessions(bars) == 3
    (tmp_path / files[0]).write_bytes(b"unreadable")
    assert n_bars(load_bars("MES", "2024-02-01", "2024-03-01", store=tmp_path)) == 60       # trade date of 2024-01-31 18:59 NY
    with pytest.raises(ValueError, match="12.parquet cannot be read"): load_bars("MES", store=tmp_path)


def test_overlapping_files_merge(tmp_path):
    "DAT-2: two files that share rows give the union; order of import does not matter."
    whole = seconds("2024-01-31 23:59", 120)
    first, second = cut_bars(whole, 80), make_bars(*(c[40:] for c in whole[:6]))
    for k, pair in enumerate([(first, second), (second, first)]):
        assert [write_bars(b, tmp_path / str(k)) for b in pair] == [n_bars(pair[0]), 40]
        same(load_bars("MES", store=tmp_path / str(k)), whole)


def test_conflict_is_refused(tmp_path):
    "DAT-2: another bar for a stored second is refused with the file's line; months before the conflict stay too."
    write_bars(seconds("2018-05-31 23:59:00", 120, symbol="ES", price=8000), tmp_path)
    before = fingerprint(tmp_path)
    lines = [f"2018-05-31T23:{m}:{s:02}Z,2000,2000.25,1999.75,2000,1\n" for m in (58, 59) for s in range(60)] + ["2018-06-01T00:00:00Z,2000,2000.25,1999.75,2000,2\n"]
    file = tmp_path.parent / f"{tmp_path.name}.csv"
    file.write_text(HEADER + "".join(lines))
    with pytest.raises(ValueError) as e: import_bars(file, "ES", tmp_path)
    assert str(e.value).startswith(f"{file.name} line 122: the store has another bar at 2018-06-01T00:00:00Z") and "\n" not in str(e.value)
    assert fingerprint(tmp_path) == before
    file.write_text(HEADER + "".join(lines[:-1]))
    assert import_bars(file, "ES", tmp_path)[:2] == (120, 60)


def test_failure_half_way_leaves_the_store(tmp_path, monkeypatch):
    "DAT-2: a full disk in the second month leaves the first as it was, and no litter."
    write_bars(seconds("2024-01-31 23:58", 60), tmp_path)
    before, write = fingerprint(tmp_path), mesbot.store.write_file
    def full_disk(path, *rest):
        write(path, *rest)
        if path.name.startswith("02"): raise OSError("no space left on device")
    monkeypatch.setattr(mesbot.store, "write_file", full_disk)
    with pytest.raises(OSError, match="no space"): write_bars(seconds("2024-01-31 23:59", 120), tmp_path)
    with pytest.raises(OSError, match="no space"): write_bars(seconds("2025-02-03 15:00", 60), tmp_path / "new" / "store")
    assert fingerprint(tmp_path) == before


def test_other_ticks_are_not_misread(tmp_path):
    "DAT-2: a month written with another tick or symbol is refused."
    write_bars(seconds("2024-01-31 15:00", 60), tmp_path)
    (tmp_path / "MES").rename(tmp_path / "ES")
    with pytest.raises(ValueError, match="holds MES in ticks of 0.25, expected ES"): load_bars("ES", store=tmp_path)
    with pytest.raises(ValueError, match="holds MES"): write_bars(seconds("2024-01-31 15:00", 60, symbol="ES"), tmp_path)


def test_ranges(tmp_path):
    "DAT-1: a plain date is a New York trade date, a time is UTC, the end is not included."
    whole = make_bars(*(np.concatenate(c) for c in zip(*(seconds(s, 60)[:6] for s in ("2024-03-08 21:59", "2024-03-10 22:00", "2024-03-11 14:00", "2024-03-11 22:00")))))
    write_bars(whole, tmp_path)
    same(load_bars("MES", "2024-03-11", "2024-03-12", store=tmp_path), take_sessions(whole, 1, 2))   # opens on Sunday at 22:00 UTC, after the clocks changed
    same(load_bars("MES", dt.date(2024, 3, 9), store=tmp_path), take_sessions(whole, 1, 3))          # a Saturday: from the next trade date on
    same(load_bars("MES", end=pd.Timestamp("2024-03-10 22:00:30", tz="UTC"), store=tmp_path), cut_bars(whole, 90))
    same(load_bars("MES", end=dt.datetime(2024, 3, 10, 22, 0, 30), store=tmp_path), cut_bars(whole, 90))
    same(load_bars("MES", end=int(whole.ts[90]), store=tmp_path), cut_bars(whole, 90))
    assert [str(d) for d in session_info(whole)["date"].astype("M8[D]")] == ["2024-03-08", "2024-03-11", "2024-03-12"]
    for range_, words in ((("2024-03-13",), "the store has 2024-03-08T21:59:00Z to 2024-03-11T22:00:59Z"), ((None, "2024-03-08"), "no bars of MES"), (("2024-03-12", "2024-03-11"), "start must be before end")):
        with pytest.raises(ValueError, match=words): load_bars("MES", *range_, store=tmp_path)
    with pytest.raises(FileNotFoundError, match="no bars of SPY in .*SPY/1s"): load_bars("SPY", store=tmp_path)
    with pytest.raises(FileNotFoundError, match="no bars of MES in "): load_bars("MES", store=tmp_path / "nowhere")
    with pytest.raises(ValueError, match="session must be RTH, ETH or None"): load_bars("MES", session="rth", store=tmp_path)


def test_minute_bars_are_not_taken_for_seconds(tmp_path):
    "DAT-6: a file whose every stamp is whole minutes apart goes to the store of minutes, and nothing that counts in seconds takes it."
    from mesbot.features import compute_features
    from mesbot.labels import label_moves
    from mesbot.sim import backtest
    file = tmp_path / "minutes.csv"
    file.write_text(HEADER + "".join(f"2018-05-07T13:{m}:00Z,2670.5,2670.75,2669.75,2670.5,1\n" for m in range(30, 50)))
    assert import_bars(file, "ES", tmp_path / "store").bar_s == 60
    assert [p.name for p in (tmp_path / "store/ES").iterdir() if p.is_dir()] == ["1m"]
    bars = load_bars("ES", store=tmp_path / "store", series="1m")
    assert (n_bars(bars), bars.bar_s) == (20, 60)
    with pytest.raises(FileNotFoundError, match="no bars of ES in .*ES/1s"): load_bars("ES", store=tmp_path / "store")
    for call in (compute_features, label_moves, lambda b: backtest(b, np.full((20, 3), 1 / 3))):
        with pytest.raises(ValueError, match="one-second bars are needed, got bars of 60 s"): call(bars)


def test_days_the_calendar_does_not_know_are_counted(tmp_path):
    "RSK-7: they load, but nothing will trade on them, and the import says so."
    file = tmp_path / "later.csv"
    file.write_text(HEADER + "2031-01-07T15:00:00Z,2670.5,2670.75,2669.75,2670.5,1\n")
    assert import_bars(file, "ES", tmp_path / "store").unknown == 1


def test_damage_inside_a_month_is_noticed(tmp_path):
    "A flipped byte inside the data pages is refused by checksum, not read as a price."
    bars = make_bars(*(np.repeat(np.array(c), 1) for c in ([1525699800 * SECOND + k * SECOND for k in range(5000)],)), *(np.arange(5000) % 7 + 10_000 + d for d in (1, 3, 0, 2)), np.arange(5000), "ES")
    write_bars(bars, tmp_path)
    month = next(tmp_path.glob("ES/1s/*/*.parquet"))
    raw = bytearray(month.read_bytes())
    raw[len(raw) // 3] ^= 0xFF
    month.write_bytes(raw)
    with pytest.raises(ValueError, match="damaged"): load_bars("ES", store=tmp_path)
