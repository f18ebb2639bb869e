"The data commands: what a script can trust (DAT-5, DAT-6, DAT-7)."
import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

import mesbot.bars
import mesbot.download
import mesbot.synth
from mesbot.bars import audit_bars, audit_store, load_bars, make_bars, write_bars
from mesbot.calendar import session_table
from mesbot.cli import app
from mesbot.core import SECOND


def ns(text): return pd.Timestamp(text, tz="UTC").value


def typed(*args):
    done = CliRunner().invoke(app, ["data", *map(str, args)])
    return done.exit_code, done.output


def regular_hours(*holes):
    "Three days of regular hours, without the half hours that begin at `holes` (UTC)."
    rng, ts = np.random.default_rng(3), np.concatenate([np.arange(d["rth_open"], d["rth_close"], SECOND) for d in session_table("2024-01-08", "2024-01-10")])
    close = 19_000 + rng.integers(-2, 3, len(ts)).cumsum()
    keep = np.all([(ts < ns(h)) | (ts >= ns(h) + 1800 * SECOND) for h in holes], axis=0) if holes else np.ones(len(ts), bool)
    return make_bars(*(c[keep] for c in (ts, close, close + 1, close - 1, close, rng.integers(1, 50, len(ts)))))


def test_check_tells_by_its_exit_code(tmp_path, monkeypatch):
    "DAT-5: 0 for good bars, 1 for a hole, 2 for a store without any."
    monkeypatch.chdir(tmp_path)
    write_bars(regular_hours(), tmp_path / "good")
    write_bars(regular_hours("2024-01-09 16:00"), tmp_path / "bad")
    assert typed("check", "--store", tmp_path / "good")[0] == 0
    code, output = typed("check", "--store", tmp_path / "bad")
    assert code == 1 and "fault gap" in output and output.strip().endswith("audit_MES_1s.html") and (tmp_path / "runs/audit_MES_1s.html").exists()
    assert typed("check", "--store", tmp_path / "none")[0] == 2


def test_gaps_and_the_limit_are_handed_on(tmp_path, monkeypatch):
    "DAT-7: --gaps asks for the holes the audit finds, --max-cost is a limit and no consent."
    write_bars(regular_hours("2024-01-09 16:00", "2024-01-09 18:00"), tmp_path)
    asked = []
    monkeypatch.setattr(mesbot.download, "download", lambda *a: (asked.append(a), mesbot.download.Downloaded(0, 0, 0, 0.0))[1])
    code, output = typed("download", "--symbol", "MES", "--gaps", "--store", tmp_path, "--max-cost", "5")
    assert code == 0, output
    [(symbol, start, end, store, roll, gaps, yes, limit)] = asked
    assert gaps == [(ns(f"2024-01-09 {h}:00"), ns(f"2024-01-09 {h}:30")) for h in (16, 18)] and not yes and (limit, roll, start, end) == (5, "volume", None, None)


NINJA = "20240108 150001;5000;5000.1;5000;5000;1\n20240108 150002;5000;5000;5000;5000;1\n"


def test_options_reach_the_reader(tmp_path):
    "DAT-6: --stamp, --tz and --snap of import, --snap of check."
    (tmp_path / "a.txt").write_text(NINJA)
    code, output = typed("import", tmp_path / "a.txt", "--symbol", "mes", "--stamp", "open", "--tz", "America/New_York", "--snap", "--store", tmp_path / "s")
    assert code == 0 and "rounded: 1, by 0.1 points" in output, output
    assert load_bars("MES", store=tmp_path / "s").ts[0] == ns("2024-01-08 20:00:01")
    said = [typed("check", tmp_path / "a.txt", "--symbol", "MES", "--page", tmp_path / "p.html", *more)[1] for more in ([], ["--snap"])]
    assert "off_grid" in said[0] and "off_grid" not in said[1]


def test_every_option_of_synth_reaches_the_market(tmp_path, monkeypatch):
    "SYN: what is typed is what is made; without options it is the market of the reports, without an edge; points become ticks."
    made = []
    def write_market(store, sessions, seed, alpha=0.0, mode="observable", start="2024-01-02", *, quotes=True, **changes): return made.append(dict(store=store, sessions=sessions, seed=seed, alpha=alpha, mode=mode, start=start, quotes=quotes, **changes)) or 12_345
    monkeypatch.setattr(mesbot.synth, "write_market", write_market)
    code, output = typed("synth", "--store", tmp_path / "a", "--sessions", 3, "--seed", 4, "--alpha", .07, "--mode", "leak", "--start", "2024-05-06", "--scale", 1.5, "--activity", 2.5, "--level", 5000.25, "--no-quotes")
    assert code == 0 and "12,345 synthetic bars of MES in 3 sessions" in output and "with a planted edge of alpha 0.07 (leak)" in output, output
    code, output = typed("synth", "--store", tmp_path / "b")
    assert code == 0 and "in 60 sessions" in output and output.strip().endswith("without any edge"), output
    assert made == [dict(store=tmp_path / "a", sessions=3, seed=4, alpha=.07, mode="leak", start="2024-05-06", quotes=False, scale=1.5, activity=2.5, level=20_001),
                    dict(store=tmp_path / "b", sessions=60, seed=7, alpha=0, mode="observable", start="2024-01-02", quotes=True, scale=1, activity=1, level=26_000)]
    for level in (.2, 1e8, "nan"):
        code, output = typed("synth", "--store", tmp_path / "c", "--level", level)
        assert code == 2 and "level must be from 0.25 to 10,000,000 points" in output and len(made) == 2


def test_one_page_is_for_one_audit(tmp_path):
    "DAT-5: two series and one page: refused before anything is written; a page must be a file."
    c = np.full(2, 20_000)
    for bar_s in (1, 60): write_bars(make_bars(ns("2024-01-08 15:00") + np.arange(2) * bar_s * SECOND, c, c, c, c, np.ones(2), bar_s=bar_s), tmp_path / "s")
    assert typed("check", "--store", tmp_path / "s", "--page", tmp_path / "p.html")[0] == 2 and not (tmp_path / "p.html").exists()
    assert typed("check", "--store", tmp_path / "s", "--series", "1m", "--page", tmp_path / "p.html")[0] == 0
    code, output = typed("check", "--store", tmp_path / "s", "--series", "1m", "--page", tmp_path)
    assert code == 2 and "the page must be a file" in output


def test_one_file_is_audited_as_a_store(tmp_path):
    "DAT-2, DAT-5: what migrate made can be checked too."
    write_bars(regular_hours(), tmp_path / "s")
    assert typed("migrate", tmp_path / "s", tmp_path / "one.parquet", "--symbol", "MES")[0] == 0
    assert typed("check", "--store", tmp_path / "one.parquet", "--symbol", "MES", "--page", tmp_path / "p.html")[0] == 0
    code, output = typed("check", "--store", tmp_path / "one.parquet")
    assert code == 2 and "--symbol is missing" in output


def test_an_audit_that_does_not_fit(tmp_path, monkeypatch):
    "DAT-8: an audit is a load too."
    write_bars(regular_hours(), tmp_path)
    monkeypatch.setattr(mesbot.bars, "_available_bytes", lambda: 3_000_000)
    with pytest.raises(ValueError, match="bars need 4 MB and 3 MB are free"): audit_store("MES", tmp_path)
    with pytest.raises(ValueError, match="bars need 4 MB and 3 MB are free"): load_bars("MES", session="RTH", store=tmp_path)
    assert len(load_bars("MES", store=tmp_path).ts) == 70_200


def test_no_hour_is_more_than_whole():
    "DAT-5: a busy day does not lift an hour above 1, and marks stand on their trade date, an evening's too."
    from mesbot.audit_page import _on_dates
    assert audit_bars(regular_hours()).completeness.max(axis=None) == 1
    evening = pd.Timestamp("2024-01-09 19:10", tz="America/New_York").value
    for symbol, day in (("MES", 10), ("SPY", 9)):
        table = session_table("2024-01-08", "2024-01-12", "cme_equity" if symbol == "MES" else "us_equity")
        ts = np.concatenate([np.arange(d["open"], d["close"], 60 * SECOND) for d in table])
        ts = ts[(ts < evening) | (ts >= evening + 1800 * SECOND)]
        c = 19_000 + np.random.default_rng(1).integers(-2, 3, len(ts)).cumsum()
        audit = audit_bars(make_bars(ts, c, c + 1, c - 1, c, np.full(len(ts), 3) + np.arange(len(ts)) % 2, symbol, bar_s=60))
        assert [audit.days.index[k].day for k in _on_dates(audit, audit.gaps[:, 0])] == [day], symbol
