"Databento: files read, months downloaded, killed and resumed (DAT-6, DAT-7). The official client talks to a stand-in on this machine."
import json
import multiprocessing
import random
import time
import traceback
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from databento_server import KEY, Desk, made_up_bars, ns, run_download

from mesbot.bars import load_bars
from mesbot.calendar import MINUTE, utc_text
from mesbot.dbn import BAR_SCHEMAS, Trades, _check_one_series, dbn_schema, read_dbn, records_of
from mesbot.download import Downloaded, download
from mesbot.store import lock_file
from mesbot.tables import Columns
from mesbot.vendor import DATASET, PAUSES_S, SCHEMA, FixTheConfig, RetryLater, connect

MONTHS = [("MES.v.0", ns("2024-01-01"), ns("2024-02-01")), ("MES.v.0", ns("2024-02-01"), ns("2024-03-01")), ("MES.v.0", ns("2024-03-01"), ns("2024-03-20T12:00"))]
TS, PRICES = made_up_bars()


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("DATABENTO_API_KEY", KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def desk():
    with Desk() as server: yield server


def fetch(desk, store, start="2024-01-01", slept=None, **kw):
    return download("MES", start, store=store, gateway=desk.url, progress=False, show=lambda line: None, sleep=(lambda s: None) if slept is None else slept.append,
                    **({} if "max_cost_usd" in kw else dict(yes=True)), **kw)


def files(store):
    "Everything that counts: bars, paid-for files, ledger."
    return {str(p.relative_to(store)): p.read_bytes() for p in sorted(Path(store).rglob("*")) if p.is_file() and p.name != "lock" and p.suffix not in (".tmp", ".part")}


def bars_in(store): return {name: data for name, data in files(store).items() if name.endswith(".parquet")}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    "The files of a download that nothing disturbed."
    store = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch, Desk() as server:
        patch.setenv("DATABENTO_API_KEY", KEY)
        assert fetch(server, store) == Downloaded(3, len(TS), len(TS), pytest.approx(len(TS) / 10_000))
        assert server.asked() == MONTHS
    return files(store)


# ---- files ----

# name, symbol, contract, kind, rows, first, last: the numbers of shared/data/README.md
FIXTURES = [
    ("test_data.ohlcv-1s", "ES", None, "ohlcv-1s", 4, "2020-12-28T00:00:00", "2020-12-28T00:00:07"),
    ("test_data.ohlcv-1m", "ES", None, "ohlcv-1m", 4, "2020-12-28T00:00:00", "2020-12-28T00:03:00"),
    ("test_data.trades", "ES", None, "trades", 4, "2020-12-28T00:00:00.247", "2020-12-28T00:00:00.722"),
    ("test_data.tbbo", "ES", "ESH1", "tbbo", 4, "2020-12-28T00:00:00.247", "2020-12-28T00:00:00.722"),
    ("futures_trades_2024-07-01T23-58_2024-07-02T00-02", "ES", None, "trades", 120, "2024-07-01T23:58:01.218", "2024-07-02T00:01:52.814"),
    ("futures_mbp-1_2024-07-01T23-58_2024-07-02T00-02", "ES", None, "mbp-1", 120, "2024-07-01T23:58:01.218", "2024-07-02T00:01:52.814"),
    ("futures_ohlcv-1m_2024-05-09T09-55_2024-05-09T10-05", "ES", None, "ohlcv-1m", 10, "2024-05-09T09:55", "2024-05-09T10:04"),
    ("futures_ohlcv-1m_2024-05-09T09-55_2024-05-09T10-05", "NQ", None, "ohlcv-1m", 10, "2024-05-09T09:55", "2024-05-09T10:04"),
    ("futures_ohlcv-1m_2024-07-01T23-40_2024-07-02T00-10", "ES", None, "ohlcv-1m", 30, "2024-07-01T23:40", "2024-07-02T00:09"),
    ("futures_ohlcv-1m_2024-07-01T23-40_2024-07-02T00-10", "MES", "ESU4", "ohlcv-1m", 30, "2024-07-01T23:40", "2024-07-02T00:09"),
    ("futures_ohlcv-1m_2026-01-09T20-55_2026-01-09T21-05", "ES", None, "ohlcv-1m", 10, "2026-01-09T20:55", "2026-01-09T21:04"),
]


@pytest.mark.parametrize("name, symbol, contract, kind, rows, first, last", FIXTURES)
def test_real_files(shared_data, name, symbol, contract, kind, rows, first, last):
    "DAT-6: every Databento file with bars or trades, DBN 1 and 3, row for row as its README says."
    path = shared_data / "dbn" / f"{name}.dbn.zst"
    read = read_dbn(path, symbol, contract)
    assert dbn_schema(path) == kind and isinstance(read, Columns if kind in BAR_SCHEMAS else Trades) and len(read.ts) == rows
    for stamp, told in ((read.ts[0], first), (read.ts[-1], last)): assert abs(int(stamp) - ns(told)) <= 500_000   # the README rounds to a millisecond
    prices = [read.price] if isinstance(read, Trades) else [read.open, read.high, read.low, read.close]
    for points in prices: assert points.dtype == np.float64 and (points / 0.25 == np.rint(points / 0.25)).all() and 3000 < points[0] < 25_000
    assert read.where(rows - 1).startswith(f"{path.name} record ")


@pytest.mark.parametrize("name, words", [("test_data.ohlcv-1h", "holds ohlcv-1h, which cannot become bars; known: ohlcv-1s, ohlcv-1m, trades, tbbo, mbp-1"), ("test_data.ohlcv-1d", "holds ohlcv-1d"),
                                         ("test_data.mbo", "holds mbo"), ("test_data.bbo-1s", "holds bbo-1s"), ("test_data.statistics", "holds statistics"), ("definition-glbx-es-fut", "holds definition"),
                                         ("test_data.mbp-1", "holds no trades of ESH1"), ("futures_ohlcv-1m_2024-05-09T09-55_2024-05-09T10-05", "holds ESM4, NQM4, not MES")])
def test_files_that_are_refused(shared_data, name, words):
    "DAT-6: a schema without bars, a book in which nothing traded, another root: one line."
    with pytest.raises(ValueError, match="^" + name.replace(".", r"\.")) as refused: read_dbn(shared_data / "dbn" / f"{name}.dbn.zst", "MES" if "MES" in words else "ES")
    assert words in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize("kind", ["trades", "mbp-1"])
def test_trades_add_up_to_databentos_own_minutes(shared_data, kind):
    "DAT-6: trades summed by their stamp are the minute bars that Databento sells, in every number."
    trades = read_dbn(shared_data / "dbn" / f"futures_{kind}_2024-07-01T23-58_2024-07-02T00-02.dbn.zst", "ES")
    bars = read_dbn(shared_data / "dbn" / "futures_ohlcv-1m_2024-07-01T23-40_2024-07-02T00-10.dbn.zst", "ES")
    ours = pd.DataFrame(trades._asdict()).groupby(trades.ts // MINUTE * MINUTE).agg(open=("price", "first"), high=("price", "max"), low=("price", "min"), close=("price", "last"), volume=("size", "sum"))
    theirs = pd.DataFrame({name: getattr(bars, name) for name in ours}, index=bars.ts).loc[ours.index]
    assert len(ours) == 4
    pd.testing.assert_frame_equal(ours, theirs, check_names=False)


def test_every_truncation_of_a_real_file_is_refused(shared_data, tmp_path):
    "DAT-6: cut anywhere, a file is refused in one line, never read in part."
    whole = (shared_data / "dbn" / "futures_ohlcv-1m_2024-07-01T23-40_2024-07-02T00-10.dbn.zst").read_bytes()
    path = tmp_path / "cut.dbn.zst"
    for n in [0, 1, 3, 4, 7, 8, *range(20, len(whole), 97), len(whole) - 1]:
        path.write_bytes(whole[:n])
        with pytest.raises(ValueError, match=r"^cut\.dbn\.zst: cannot be read as DBN, is it cut off or damaged\?") as refused: read_dbn(path, "ES")
        assert "\n" not in str(refused.value)
    path.write_bytes(whole)
    assert len(read_dbn(path, "ES").ts) == 30


# ---- downloads ----

def test_three_months(whole, tmp_path, desk):
    "DAT-7: a request a month, what is stored is what was served, and nothing is asked for again."
    fetch(desk, tmp_path)
    assert files(tmp_path) == whole and sorted(bars_in(tmp_path)) == [f"MES/1s/2024/0{m}.parquet" for m in (1, 2, 3)]
    bars = load_bars("MES", store=tmp_path)
    np.testing.assert_array_equal(bars.ts, TS)
    np.testing.assert_array_equal(np.stack([bars.open, bars.high, bars.low, bars.close], 1), PRICES // 250_000_000)
    np.testing.assert_array_equal(bars.volume, 1 + TS // 10**9 % 50)
    desk.seen.clear()
    assert fetch(desk, tmp_path) == fetch(desk, tmp_path, None) == Downloaded(0, 0, 0, 0.0)
    assert desk.asked() == [] and files(tmp_path) == whole


def test_progress_is_shown(tmp_path, desk, capfd):
    "DAT-7: a bar over the requests on stderr, the price on stdout."
    download("MES", "2024-01-01", store=tmp_path, gateway=desk.url, max_cost_usd=2)
    out, err = capfd.readouterr()
    assert out == "Databento quotes 10,800 bars in 3 requests for $1.08\n" and "MES from Databento" in err and "3/3" in err


def test_incremental(whole, tmp_path, desk):
    "DAT-7: the running month is fetched as far as it goes and extended next time, without start and end."
    desk.newest = "2024-02-05T10:09:59Z"
    assert fetch(desk, tmp_path).requests == 2 and desk.asked() == [MONTHS[0], ("MES.v.0", ns("2024-02-01"), ns("2024-02-05T10:00"))]
    desk.newest = "2024-03-20T12:04:30Z"
    desk.seen.clear()
    assert fetch(desk, tmp_path, None).requests == 2 and desk.asked() == [("MES.v.0", ns("2024-02-05T10:00"), ns("2024-03-01")), MONTHS[2]]
    assert bars_in(tmp_path) == {name: data for name, data in whole.items() if name.endswith(".parquet")}


def test_files_without_a_ledger(whole, tmp_path, desk):
    "DAT-7: what lies whole on the disk is imported, never bought again, even when the ledger is gone and Databento has more by now."
    desk.newest = "2024-02-05T10:09:59Z"
    fetch(desk, tmp_path)
    (tmp_path / "MES/downloads/ledger.json").unlink()
    for path in tmp_path.glob("MES/1s/2024/*.parquet"): path.unlink()
    desk.newest = "2024-03-20T12:04:30Z"
    desk.seen.clear()
    assert fetch(desk, tmp_path) == Downloaded(2, 3600 + 1800, len(TS), pytest.approx(0.54))
    assert desk.asked() == [("MES.v.0", ns("2024-02-05T10:00"), ns("2024-03-01")), MONTHS[2]]
    assert bars_in(tmp_path) == {name: data for name, data in whole.items() if name.endswith(".parquet")}


def test_end_is_honoured(tmp_path, desk):
    "DAT-7: a range ends where it was told to, on the next ten minutes."
    fetch(desk, tmp_path, "2024-01-03T15:05", end="2024-01-03T15:12:01")
    assert desk.asked() == [("MES.v.0", ns("2024-01-03T15:00"), ns("2024-01-03T15:20"))]
    assert [utc_text(t) for t in load_bars("MES", store=tmp_path).ts[[0, -1]]] == ["2024-01-03T15:00:00Z", "2024-01-03T15:19:59Z"]


def test_nothing_is_done_before_it_exists(tmp_path, desk):
    "DAT-7: an end in the future asks for no more than there is, and leaves nothing marked as done."
    fetch(desk, tmp_path, end="2024-12-31")
    assert desk.asked()[-1][2] == ns("2024-03-20T12:00")
    desk.newest = "2024-03-20T13:00:00Z"
    desk.seen.clear()
    fetch(desk, tmp_path, end="2024-12-31")
    assert desk.asked() == [] or desk.asked() == [("MES.v.0", ns("2024-03-20T12:00"), ns("2024-03-20T13:00"))]
    assert ("2024-03-20T12:00:00Z", "2024-03-20T13:00:00Z") in [(row["start"], row["end"]) for row in json.loads((tmp_path / "MES/downloads/ledger.json").read_text())["done"]]


def test_records_of_one_name():
    "DAT-6: a day's mapping does not hold for the first instant after it; two names in one second are two series at once."
    piece = np.zeros(3, [("instrument_id", "u4"), ("ts_event", "u8")])
    piece["instrument_id"], piece["ts_event"] = 7, [9, 10, 20]
    assert records_of(piece, "ts_event", [(7, 10, 20)]).tolist() == [False, True, False]
    _check_one_series({"MESH4": (1, 5), "MESM4": (6, 9)}, "x")
    with pytest.raises(ValueError, match="at the same time"): _check_one_series({"MESH4": (1, 5), "MESM4": (5, 9)}, "x")


def test_gap_backfill(whole, tmp_path, desk):
    "DAT-7: audited gaps are filled and nothing else is fetched; a gap that Databento had nothing for is not asked for twice."
    fetch(desk, tmp_path, "2024-01-01", end="2024-01-31T15:10")
    fetch(desk, tmp_path, "2024-02-14", end="2024-03-20")
    desk.seen.clear()
    gaps = [(ns("2024-01-31T15:10"), ns("2024-02-01T15:30")), (ns("2024-02-05T15:00"), ns("2024-02-05T15:00:30"))]
    assert fetch(desk, tmp_path, None, gaps=gaps) == Downloaded(2, 3000, 3000, pytest.approx(0.3))
    assert desk.asked() == [("MES.v.0", gaps[0][0], ns("2024-02-01")), ("MES.v.0", ns("2024-02-01"), gaps[0][1])]
    assert bars_in(tmp_path) == {name: data for name, data in whole.items() if name.endswith(".parquet")}
    assert fetch(desk, tmp_path, None, gaps=gaps) == Downloaded(0, 0, 0, 0.0)
    with pytest.raises(ValueError, match="not both"): fetch(desk, tmp_path, "2024-01-01", gaps=gaps)


def test_rows_lost_from_the_store_come_back(whole, tmp_path, desk):
    "DAT-7: a month that went missing is filled from the kept answer without a request; without that answer it is asked for again."
    fetch(desk, tmp_path)
    february, gaps = tmp_path / "MES/1s/2024/02.parquet", [(ns("2024-02-14T15:00"), ns("2024-02-14T15:10"))]
    for kept, requests in ((True, 0), (False, 1)):
        february.unlink()
        if not kept: next(tmp_path.glob("MES/downloads/*20240201T000000_2024*.dbn.zst")).unlink()
        desk.seen.clear()
        done = fetch(desk, tmp_path, None, gaps=gaps)
        assert (done.requests, len(desk.asked())) == (requests, requests) and done.added > 0
        if kept: assert bars_in(tmp_path) == {name: data for name, data in whole.items() if name.endswith(".parquet")}


def test_contracts_by_a_calendar_rule(tmp_path):
    "DAT-7: by rule monday each contract is asked for in its own sessions only; another rule for the same store is refused."
    from mesbot.calendar import session_table
    from mesbot.rolls import front_contracts
    table = session_table("2024-03-01", "2024-03-29")
    front = front_contracts(table["date"].astype("M8[D]"), "MES", "monday")
    assert list(dict.fromkeys(front)) == ["MESH4", "MESM4"]
    turn = int(table["open"][list(front).index("MESM4")])
    days = ("2024-03-04", "2024-03-19")
    with Desk({name: made_up_bars(60, days, seed=k) for k, name in enumerate(("MESH4", "MESM4"))}) as desk:
        fetch(desk, tmp_path, "2024-03-01", roll="monday")
        assert desk.asked() == [("MESH4", ns("2024-03-01"), turn), ("MESM4", turn, ns("2024-03-20T12:00"))]
        bars, (h, m) = load_bars("MES", store=tmp_path), [made_up_bars(60, days, seed=k)[1][:, 3] // 250_000_000 for k in (0, 1)]
        np.testing.assert_array_equal(bars.close, np.r_[h[:60], m[60:]])
        before = files(tmp_path)
        with pytest.raises(ValueError, match="was downloaded with roll monday; use it again, or another store for volume"): fetch(desk, tmp_path, "2024-03-01")
        assert files(tmp_path) == before


# ---- the price ----

def test_what_is_no_future_is_not_asked_for(tmp_path, desk):
    "DAT-7: the dataset is CME's; a share or a coin is refused before anything is sent."
    for symbol in ("SPY", "BTC-USD"):
        with pytest.raises(ValueError, match=f"{symbol} has no contracts to roll"): download(symbol, "2024-01-01", store=tmp_path, gateway=desk.url, yes=True, progress=False)
    assert desk.seen == [] and list(tmp_path.iterdir()) == []


def test_nothing_is_bought_unasked(tmp_path, desk):
    "DAT-7: the price comes first, and nothing is fetched before it was agreed to."
    shown = []
    for agreed in (dict(), dict(max_cost_usd=1.0), dict(max_cost_usd=0.0), dict(yes=True, max_cost_usd=1.0)):
        with pytest.raises(FixTheConfig, match=r"10,800 bars in 3 requests for \$1\.08.*nothing was downloaded"):
            download("MES", "2024-01-01", store=tmp_path, gateway=desk.url, progress=False, show=shown.append, **agreed)
    assert desk.asked() == [] and list(tmp_path.iterdir()) == [] and shown == ["Databento quotes 10,800 bars in 3 requests for $1.08"] * 4
    assert fetch(desk, tmp_path, max_cost_usd=1.08).requests == 3


# ---- trouble ----

@pytest.mark.parametrize("troubles, slept", [([("get_range", (429, [("Retry-After", "9")]))], [9]), ([("get_range", 500), ("get_range", 503)], [1, 2]), ([("get_range", "reset"), ("get_range", "silent")], [1, 2]),
                                             ([("get_range", "empty")], [1]), ([("get_dataset_range", 504), ("get_record_count", 429), ("get_cost", 502)], [1, 1, 1]), ([("get_range", 408)], [1])])
def test_passing_trouble_is_ridden_out(whole, tmp_path, desk, troubles, slept):
    "DAT-7: busy, broken, cut off and empty answers are asked for again, with pauses; the store is as if nothing had happened."
    desk.troubles, pauses = list(troubles), []
    fetch(desk, tmp_path, slept=pauses)
    assert pauses == slept and desk.troubles == [] and files(tmp_path) == whole and len(desk.asked()) == 3 + sum(name == "get_range" for name, _ in troubles)


@pytest.mark.filterwarnings("error::databento.common.error.BentoWarning")
def test_a_cut_that_the_client_does_not_notice(tmp_path):
    "DAT-7: half a month, ended cleanly between two packed blocks: the official client takes it for the whole, the download asks again."
    with Desk({"MES.v.0": made_up_bars(20_000, ["2024-02-14"])}) as desk:
        desk.troubles = [("get_range", "silent")] * 2
        taken = connect(desk.url).timeseries.get_range(DATASET, *MONTHS[1][1:], "MES.v.0", SCHEMA, "continuous", path=tmp_path / "half.dbn.zst")
        assert 9_000 < len(taken.to_ndarray()) < 11_000   # half of the 20,000, without a word
        pauses = []
        assert fetch(desk, tmp_path, "2024-02-01", end="2024-03-01", slept=pauses).added == 20_000 and pauses == [1]


def test_a_silent_server(whole, tmp_path, desk, monkeypatch):
    "DAT-7: no answer in time counts as trouble that passes."
    monkeypatch.setattr("databento.common.http.BentoHttpAPI.TIMEOUT", 0.2)
    desk.troubles, desk.hang_s, pauses = [("get_range", "hang"), ("get_dataset_range", "hang")], 0.6, []
    fetch(desk, tmp_path, slept=pauses)
    assert pauses == [1] and files(tmp_path) == whole


@pytest.mark.parametrize("what", [500, 429, "reset", "silent"])
def test_lasting_trouble_gives_up_and_goes_on_later(whole, tmp_path, desk, what):
    "DAT-7: after a bounded number of tries RetryLater, with nothing of the bad month stored; the next run fetches only what is missing."
    fetch(desk, tmp_path, end="2024-02-01")
    before, pauses = files(tmp_path), []
    desk.troubles = [("get_range", what)] * (len(PAUSES_S) + 1)
    desk.seen.clear()
    with pytest.raises(RetryLater, match="does not deliver .*; run the same command again later") as told: fetch(desk, tmp_path, slept=pauses)
    assert pauses == list(PAUSES_S) and files(tmp_path) == before and "\n" not in str(told.value) and desk.asked() == [MONTHS[1]] * 6
    assert not list(tmp_path.rglob("*.part"))
    desk.seen.clear()
    fetch(desk, tmp_path)
    assert desk.asked() == MONTHS[1:] and files(tmp_path) == whole


def test_no_server(tmp_path):
    "DAT-7: nobody there is RetryLater."
    with Desk() as gone: url = gone.url
    with pytest.raises(RetryLater, match="does not deliver"): download("MES", "2024-01-01", store=tmp_path, yes=True, gateway=url, progress=False, sleep=lambda s: None)


@pytest.mark.parametrize("bad", ["db-this-is-not-the-right-key", "", "  ", "db-wröng", None])
def test_a_bad_key(tmp_path, desk, monkeypatch, capfd, caplog, bad):
    "DAT-7: a bad or missing key is FixTheConfig at once, and the key is in no output, even when the server repeats it."
    caplog.set_level(0)
    if bad is None: monkeypatch.delenv("DATABENTO_API_KEY")
    else: monkeypatch.setenv("DATABENTO_API_KEY", bad)
    with pytest.raises(FixTheConfig, match="DATABENTO_API_KEY") as told: fetch(desk, tmp_path)
    out, err = capfd.readouterr()
    said = "".join((out, err, caplog.text, str(told.value), repr(told.value), *traceback.format_exception(told.value)))
    assert "\n" not in str(told.value) and len(desk.seen) <= 1 and files(tmp_path) == {}
    if bad and bad.strip(): assert bad not in said


@pytest.mark.parametrize("status, words", [(401, "refuses the key"), (403, "licensed"), (402, "refuses the request"), (422, "refuses the request"), (400, "refuses the request"), (404, "refuses the request")])
def test_refusals_are_final(tmp_path, desk, status, words):
    "DAT-7: no licence, no money, a bad request: FixTheConfig at once, never tried again."
    desk.troubles, pauses = [("get_range", status)], []
    with pytest.raises(FixTheConfig, match=words): fetch(desk, tmp_path, slept=pauses)
    assert pauses == [] and len(desk.asked()) == 1 and bars_in(tmp_path) == {}


def test_an_unknown_symbol(tmp_path, desk):
    "DAT-7: a symbol that Databento does not know is FixTheConfig, in its words."
    with pytest.raises(FixTheConfig, match="422 .*None of the symbols could be resolved: ES.v.0"): download("ES", "2024-01-01", store=tmp_path, yes=True, gateway=desk.url, progress=False)


@pytest.mark.parametrize("what, words", [("schema", "sent ohlcv-1m of MES.v.0, asked for was ohlcv-1s of MES.v.0"), ("symbol", "sent ohlcv-1s of MES.c.0, asked"), ("late", "record 3601: is not of MES.v.0 from 2024-02-01T00:00:00Z")])
def test_something_else_came(tmp_path, desk, what, words):
    "DAT-7: another schema, symbol or time than asked for is refused, the store unchanged."
    fetch(desk, tmp_path, end="2024-02-01")
    before = files(tmp_path)
    desk.troubles = [("get_range", what)]
    with pytest.raises(ValueError, match=words) as told: fetch(desk, tmp_path)
    assert files(tmp_path) == before and not list(tmp_path.rglob("*.part")) and "\n" not in str(told.value) and len(desk.asked()) == 2


def test_bars_that_contradict_the_store(tmp_path, desk):
    "DAT-7: a paid-for month that the store contradicts is kept, not stored, and not bought again."
    fetch(desk, tmp_path, end="2024-02-01")
    desk.held["MES.v.0"] = (TS, PRICES + 250_000_000)
    (tmp_path / "MES/downloads/ledger.json").unlink()
    for path in tmp_path.glob("MES/downloads/*.zst"): path.unlink()
    before = bars_in(tmp_path)
    for _ in range(2):
        with pytest.raises(ValueError, match=r"MES\.v\.0_20240101T000000_20240201T000000\.dbn\.zst record 1: the store has another bar at 2024-01-03T15:00:00Z"): fetch(desk, tmp_path)
    assert bars_in(tmp_path) == before and desk.asked() == [MONTHS[0]] * 2    # once before, once for the new bars


def test_one_at_a_time(tmp_path, desk):
    "DAT-7: a second download into the same store is told to wait."
    from filelock import FileLock
    with FileLock(lock_file(tmp_path / "MES" / "downloads")), pytest.raises(RetryLater, match="another download into .* is running"): fetch(desk, tmp_path)
    assert desk.asked() == []


# ---- kill -9 ----

@pytest.fixture(scope="module")
def start_process():
    "Starts `run_download` in a process of its own, from a server that has the rooms loaded."
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["mesbot.download", "databento", "databento_server"])
    def start(*args, **kw):
        process = context.Process(target=run_download, args=args, kwargs=kw)
        process.start()
        return process
    return start


def resume(desk, store, whole):
    "Run to the end: as if nothing had happened, and no month that lies whole on the disk is asked for again."
    have = {path.name for path in store.glob("MES/downloads/*.dbn.zst")}
    desk.seen.clear()
    fetch(desk, store)
    assert files(store) == whole
    again = {f"{series}_{utc_text(a)}_{utc_text(b)}.dbn.zst".replace("-", "").replace(":", "").replace("Z", "") for series, a, b in desk.asked()}
    assert not again & have and len(again) == len(desk.asked()) == sum(name.endswith(".zst") for name in whole) - len(have)
    assert not [p for p in store.rglob("*.part")]


def test_killed_before_every_step_to_the_disk(tmp_path, start_process):
    "DAT-7: kill -9 before each rename and each flush to the disk of a whole download, one after the other; each time it resumes to the same bytes."
    with Desk({"MES.v.0": made_up_bars(60, ["2024-01-31", "2024-02-01"])}, newest="2024-02-02T00:00:00Z") as desk:
        fetch(desk, tmp_path / "whole")
        whole = files(tmp_path / "whole")
        for step in range(1, 100):
            store = tmp_path / str(step)
            process = start_process(str(store), desk.url, step)
            process.join(30)
            if process.exitcode == 0: break
            assert process.exitcode == -9
            resume(desk, store, whole)
        assert 10 < step < 60 and files(store) == whole


@pytest.mark.parametrize("month", [0, 1])
def test_killed_in_the_middle_of_an_answer(whole, tmp_path, desk, start_process, month):
    "DAT-7: kill -9 while a month is half way down the line."
    desk.troubles = [("get_range", "hang")] * month + [("get_range", "pause")]
    desk.hang_s = 0
    process = start_process(str(tmp_path), desk.url)
    assert desk.paused.wait(20)
    for _ in range(500):  # until the client has opened its file
        if list(tmp_path.rglob("*.part")): break
        time.sleep(0.01)
    process.kill()
    process.join(20)
    desk.go_on.set()
    assert process.exitcode == -9 and len(list(tmp_path.glob("MES/downloads/*.dbn.zst"))) == month and list(tmp_path.rglob("*.part"))
    resume(desk, tmp_path, whole)


def test_killed_at_any_time(whole, tmp_path, desk, start_process):
    "DAT-7: kill -9 at six random moments of one download, then to the end: the same bytes, and no finished month was fetched twice."
    desk.chunk_s, chance, codes = 0.08, random.Random(7), []  # three months take half a second at least, nobody gets that long
    for _ in range(6):
        have, seen = {path.name for path in tmp_path.glob("MES/downloads/*.dbn.zst")}, len(desk.asked())
        process = start_process(str(tmp_path), desk.url)
        time.sleep(chance.uniform(0.08, 0.35))
        process.kill()
        process.join(20)
        codes.append(process.exitcode)
        asked = {a for _, a, _ in desk.asked()[seen:]}
        assert not asked & {ns(f"{name[8:12]}-{name[12:14]}-01") for name in have}
    assert codes[0] == -9 and set(codes) <= {-9, 0}
    desk.chunk_s = 0
    resume(desk, tmp_path, whole)
