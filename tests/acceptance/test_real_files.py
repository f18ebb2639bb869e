"Every real price file imports, comes back and is audited, with the row counts its description gives (DAT-4, DAT-5, DAT-6, DAT-10)."
import zipfile

import numpy as np
import pandas as pd
import pytest

from mesbot.bars import audit_bars, audit_store, import_bars, load_bars, n_bars, raw_bars, resample_bars, session_info
from mesbot.core import SECOND
from mesbot.dbn import read_dbn

DBN = "dbn/"
# file, symbol, options, series, rows, trade dates, span of the bars' opens (UTC); counts and spans from the description beside the files
BARS = [
    ("es_1s_20180507.csv.gz", "ES", {}, "1s", 9_780, 1, "2018-05-07 13:30:00", "2018-05-07 16:59:59"),
    ("spy_1s_201310.csv.gz", "SPY", {}, "1s", 100_184, 5, "2013-10-07 08:00:00", "2013-10-11 23:59:32"),
    ("mes_1m_202605.txt", "MES", {}, "1m", 17_899, 14, "2026-05-26 04:00", "2026-06-12 03:59"),          # stamps mark the close
    ("es_1m_20251121.csv", "ES", {}, "1m", 1_320, 1, "2025-11-21 00:00", "2025-11-21 21:59"),
    ("es_1m_20251121.csv", "ES", {"column": "DateTime_ET", "tz": "America/New_York"}, "1m", 1_320, 1, "2025-11-21 00:00", "2025-11-21 21:59"),
    ("tsla_1m_202210.csv.gz", "TSLA", {"snap": True}, "1m", 7_008, 18, "2022-10-19 13:30", "2022-11-11 20:59"),
    (DBN + "test_data.ohlcv-1s.dbn.zst", "ES", {}, "1s", 4, 1, "2020-12-28 00:00:00", "2020-12-28 00:00:07"),
    (DBN + "test_data.ohlcv-1m.dbn.zst", "ES", {}, "1m", 4, 1, "2020-12-28 00:00", "2020-12-28 00:03"),
    (DBN + "futures_ohlcv-1m_2024-05-09T09-55_2024-05-09T10-05.dbn.zst", "ES", {}, "1m", 10, 1, "2024-05-09 09:55", "2024-05-09 10:04"),      # half of the 20 records
    (DBN + "futures_ohlcv-1m_2024-07-01T23-40_2024-07-02T00-10.dbn.zst", "ES", {}, "1m", 30, 1, "2024-07-01 23:40", "2024-07-02 00:09"),      # half of the 60
    (DBN + "futures_ohlcv-1m_2024-07-01T23-40_2024-07-02T00-10.dbn.zst", "MNQ", {"contract": "NQU4"}, "1m", 30, 1, "2024-07-01 23:40", "2024-07-02 00:09"),
    (DBN + "futures_ohlcv-1m_2026-01-09T20-55_2026-01-09T21-05.dbn.zst", "MES", {"contract": "ESH6"}, "1m", 10, 1, "2026-01-09 20:55", "2026-01-09 21:04"),
]
TRADES = [("test_data.trades.dbn.zst", 4, "2020-12-28 00:00:00"), ("test_data.tbbo.dbn.zst", 4, "2020-12-28 00:00:00"),
          ("futures_trades_2024-07-01T23-58_2024-07-02T00-02.dbn.zst", 120, "2024-07-01 23:58:01"), ("futures_mbp-1_2024-07-01T23-58_2024-07-02T00-02.dbn.zst", 120, "2024-07-01 23:58:01")]
REFUSED = ["ohlcv-1h", "ohlcv-1d", "mbo", "bbo-1s", "bbo-1m", "statistics", "definition"]


def utc(text): return pd.Timestamp(text, tz="UTC").value


@pytest.mark.parametrize("file, symbol, options, series, rows, dates, first, last", BARS)
def test_bars(file, symbol, options, series, rows, dates, first, last, shared_data, tmp_path):
    "DAT-6: row counts, trade dates and span as described; the same file again changes nothing."
    done = import_bars(shared_data / file, symbol, tmp_path, **options)
    assert (done.rows, done.added, done.sessions, done.series) == (rows, rows, dates, (series,))
    assert (done.first, done.last) == (utc(first), utc(last))
    bars = load_bars(symbol, store=tmp_path, series=series)
    assert (n_bars(bars), bars.bar_s, len(session_info(bars))) == (rows, 60 if series == "1m" else 1, dates)
    assert import_bars(shared_data / file, symbol, tmp_path, **options).added == 0


@pytest.mark.parametrize("file, trades, first", TRADES)
def test_trades_become_seconds(file, trades, first, shared_data, tmp_path):
    "DAT-6: every trade of the description is in exactly one bar."
    done = import_bars(shared_data / DBN / file, "ES", tmp_path)
    bars = load_bars("ES", store=tmp_path)
    assert (done.trades, done.first) == (trades, utc(first)) and bars.bar_s == 1
    assert bars.volume.sum() == read_dbn(shared_data / DBN / file, "ES").size.sum()


def test_seconds_of_trades_make_the_vendor_s_minutes(shared_data, tmp_path):
    "DAT-4, DAT-6: ESU4's trades as seconds, resampled to minutes, are Databento's own minute bars."
    import_bars(shared_data / DBN / TRADES[2][0], "ES", tmp_path)
    import_bars(shared_data / DBN / "futures_ohlcv-1m_2024-07-01T23-40_2024-07-02T00-10.dbn.zst", "ES", tmp_path)
    ours = resample_bars(load_bars("ES", store=tmp_path), 60, keep_last=True)
    theirs = load_bars("ES", utc("2024-07-01 23:58"), utc("2024-07-02 00:02"), store=tmp_path, series="1m")
    assert n_bars(ours) == n_bars(theirs) == 4
    for name in ("ts", "open", "high", "low", "close", "volume"): np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name), err_msg=name)


@pytest.mark.parametrize("schema", REFUSED)
def test_other_schemas_are_refused(schema, shared_data, tmp_path):
    "DAT-6: what holds neither bars of a second or a minute nor trades is refused by name, and the store is not made."
    with pytest.raises(ValueError, match=f"^test_data.{schema}.dbn.zst: holds {schema}, which cannot become bars; known: ohlcv-1s, ohlcv-1m, trades, tbbo, mbp-1$"):
        import_bars(shared_data / DBN / f"test_data.{schema}.dbn.zst", "ES", tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_files_that_hold_nothing_of_the_symbol(shared_data, tmp_path):
    "DAT-6: a book without trades, and a file of other contracts, are refused in a line that says what is in them."
    for file, symbol, words in (("test_data.mbp-1.dbn.zst", "ES", "holds no trades of ESH1"), ("test_data.trades.dbn.zst", "MES", "holds ESH1, not MES; to read one of them as MES name it with --contract"),
                                ("futures_ohlcv-1m_2024-05-09T09-55_2024-05-09T10-05.dbn.zst", "GC", "holds ESM4, NQM4, not GC")):
        with pytest.raises(ValueError, match=words) as e: import_bars(shared_data / DBN / file, symbol, tmp_path / "store")
        assert str(e.value).startswith(file) and "\n" not in str(e.value)
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("day, rows", [("20131007", 27_409), ("20131008", 29_832)])
def test_quotes(day, rows, shared_data, tmp_path):
    "DAT-6: a day of quotes becomes bars of the bid and bars of the ask; the line at the closing second is left out, all others come back."
    file = shared_data / "spy_quotes_201310" / f"{day}_quote.zip"
    done = import_bars(file, "SPY", tmp_path)
    assert (done.rows, done.left_out, done.series, done.added) == (rows, 1, ("1s_bid", "1s_ask"), 2 * (rows - 1))
    with zipfile.ZipFile(file) as zipped, zipped.open(zipped.namelist()[0]) as inner: source = pd.read_csv(inner, header=None)
    bid, ask = (load_bars("SPY", store=tmp_path, series=f"1s_{side}") for side in ("bid", "ask"))
    midnight = pd.Timestamp(day, tz="America/New_York").value
    np.testing.assert_array_equal(bid.ts, midnight + source[0].to_numpy()[:-1] * (SECOND // 1000))
    for side, first in ((bid, 1), (ask, 6)):
        for k, name in enumerate(("open", "high", "low", "close")): np.testing.assert_array_equal(getattr(side, name) * 100, source[first + k].to_numpy()[:-1])
        np.testing.assert_array_equal(side.volume, source[first + 4].to_numpy()[:-1])
    assert (bid.close <= ask.close).all() and (bid.close == ask.close).sum() == {"20131007": 481, "20131008": 627}[day] and np.median(ask.close - bid.close) == 1
    assert import_bars(file, "SPY", tmp_path).added == 0


def test_tsla_is_off_the_grid(shared_data, tmp_path):
    "DAT-6: refused without snap; with it the number of prices and the farthest one are told, and none moves by more than half a cent."
    with pytest.raises(ValueError, match="^tsla_1m_202210.csv.gz line 2: open 220.8600006 is not on TSLA's tick grid of 0.01"): import_bars(shared_data / "tsla_1m_202210.csv.gz", "TSLA", tmp_path / "store")
    assert not (tmp_path / "store").exists()
    done = import_bars(shared_data / "tsla_1m_202210.csv.gz", "TSLA", tmp_path / "store", snap=True)
    source = pd.read_csv(shared_data / "tsla_1m_202210.csv.gz")
    prices = source[["Open", "High", "Low", "Close"]].to_numpy()
    distance = np.abs(prices - np.rint(prices * 100) / 100)
    assert done.snapped == int((distance * 100 > 1e-6).sum()) and abs(done.snapped_points - distance.max()) < 1e-9 and distance.max() <= 0.005
    bars = load_bars("TSLA", store=tmp_path / "store", series="1m")
    np.testing.assert_array_equal(bars.close, np.rint(prices[:, 3] * 100))


def test_a_column_of_utc_is_not_read_as_new_york(shared_data, tmp_path):
    "DAT-6: a file with both times: the zone of the other column is refused, not applied to UTC."
    with pytest.raises(ValueError, match="column DateTime_UTC says UTC and is to be read as America/New_York"): import_bars(shared_data / "es_1m_20251121.csv", "ES", tmp_path / "store", tz="America/New_York")
    assert not (tmp_path / "store").exists()


def test_minute_files_agree_with_pandas(shared_data, tmp_path):
    "DAT-4: five minutes of MES and ES, and a quarter of an hour, as pandas makes them."
    for file, symbol in (("mes_1m_202605.txt", "MES"), ("es_1m_20251121.csv", "ES")):
        import_bars(shared_data / file, symbol, tmp_path)
        bars = load_bars(symbol, store=tmp_path, series="1m")
        for bar_s in (300, 900):
            ours = resample_bars(bars, bar_s, keep_last=True)
            frame = pd.DataFrame(dict(zip(("open", "high", "low", "close", "volume"), bars[1:6])), index=pd.DatetimeIndex(bars.ts))
            theirs = frame.resample(f"{bar_s}s").agg(dict(open="first", high="max", low="min", close="last", volume="sum")).dropna()
            np.testing.assert_array_equal(ours.ts, theirs.index.asi8)
            for name in theirs: np.testing.assert_array_equal(getattr(ours, name), theirs[name], err_msg=f"{file} {name}")


def audit_of(shared_data, file, symbol, **options): return audit_bars(*raw_bars(shared_data / file, symbol, **options).values())


def kinds(audit, severity=None): return {row.kind: row.count for row in audit.findings[["kind", "severity", "count"]].itertuples(index=False) if severity in (None, row.severity)} if len(audit.findings) else {}


@pytest.mark.parametrize("file, symbol, options, series, rows, dates, first, last", BARS)
def test_what_is_stored_audits_as_the_file_does(file, symbol, options, series, rows, dates, first, last, shared_data, tmp_path):
    "DAT-5: every file audits, before the import and after, with the same findings."
    import_bars(shared_data / file, symbol, tmp_path, **options)
    before, after = audit_of(shared_data, file, symbol, **options), audit_store(symbol, tmp_path, series)
    assert after.rows == rows
    pd.testing.assert_frame_equal(before.findings, after.findings)
    np.testing.assert_array_equal(before.gaps, after.gaps)


def test_quotes_audit(shared_data, tmp_path):
    "DAT-5: the two days of quotes audit too, bid and ask."
    for day in ("20131007", "20131008"): import_bars(shared_data / "spy_quotes_201310" / f"{day}_quote.zip", "SPY", tmp_path)
    for side, rows in (("bid", 57_239), ("ask", 57_239)): assert audit_store("SPY", tmp_path, f"1s_{side}").rows == rows


def test_a_file_in_the_wrong_zone_is_named(shared_data, tmp_path):
    "DAT-5, DAT-6: the New York column read as UTC puts bars into the break: the import refuses it, the audit says by how many hours."
    wrong = dict(column="DateTime_ET", tz="UTC")
    text = (shared_data / "mes_1m_202605.txt").read_text().splitlines()[1100:6000]
    (tmp_path / "mes.txt").write_text("\n".join(text))
    with pytest.raises(ValueError, match="lies outside trading hours .* is the time zone right"): import_bars(tmp_path / "mes.txt", "MES", tmp_path / "store", tz="America/New_York")
    audit = audit_of(tmp_path, "mes.txt", "MES", tz="America/New_York")
    assert not audit.ok and "outside_hours" in kinds(audit, "fault")
    assert audit_of(shared_data, "es_1m_20251121.csv", "ES").ok and not audit_of(shared_data, "es_1m_20251121.csv", "ES", **wrong).gaps.size
