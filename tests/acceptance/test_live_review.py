"""LIV-8, LIV-9: the end of a day. Its folder is whole or not there, its trades are in a CSV as they happen, and `mesbot review` says what was not as in the back-test of the same bars."""
import errno
import html
import json
import os
import re

import numpy as np
import pandas as pd
import pytest
import typer
from typer.testing import CliRunner

from live_runner import day as day_room
from live_runner.day import Day, append_trades, day_folder, trade_table, write_day
from live_runner.metrics import Meters
from mesbot.bars import take_sessions
from mesbot.config import load_config
from mesbot.core import MES, REASONS, SECOND, Reason, new_state
from mesbot.features import compute_features
from mesbot.inputs import Quotes, market_of
from mesbot.loop import run_sessions
from mesbot.predictors import Prediction
from mesbot.review import read_day, review as hold_against, review_day, review_page
from mesbot.review_commands import review
from mesbot.rules import rules_of
from mesbot.session_metrics import session_metrics
from mesbot.sim import backtest
from mesbot.synth import quote_bars, synthetic_market
from mesbot.trade_log import read_trade_log

ROOMY = dict(day_loss_usd=900.0, day_drawdown_usd=900.0, review_drawdown_usd=950.0, total_loss_usd=990.0, min_balance_usd=1.0, trade_risk_usd=50.0)


def opinions(n, every, seed):
    "Sure of something now and then, silent until warm."
    said, sure = np.full((n, 3), 1 / 3, np.float32), np.arange(900, n, every)
    said[sure] = np.where(np.random.default_rng(seed).random((len(sure), 1)) < .5, [[.1, .15, .75]], [[.75, .15, .1]])
    said[:600] = np.nan
    return said


def live_day(config=None, session=1, quotes=True, volatility=False, every=500):
    "A day of a runner that does exactly what the back-test does; the account has a day behind it."
    config, market = config or load_config(risk=ROOMY), synthetic_market(2, seed=5)
    sides = [side.open for side in quote_bars(market)]
    account = new_state(config.risk.start_balance_usd)
    for k in range(session + 1):
        a, b = market.bars.sessions[k:k + 2]
        bars, (bid, ask), said = take_sessions(market.bars, k, k + 1), (side[a:b] for side in sides), opinions(b - a, every, k)
        foretold = Prediction(said, None, np.full(b - a, 6, np.float32)) if volatility else said
        start, done = account.copy(), run_sessions(market_of(bars, foretold, config, Quotes(bid, ask) if quotes else None), account, rules_of(config, MES))
    meters, rng = Meters(), np.random.default_rng(1)
    for name, usual in (("bar_to_wire_s", 2e-3), ("feature_s", 3e-5), ("inference_s", 4e-4), ("step_s", 8e-4), ("commit_s", 1.2e-3), ("order_round_trip_s", .12), ("event_lag_s", .03)):
        for took in usual * rng.lognormal(0, .4, 500): meters.latency[name].add(float(took))
    refusals = {name: int(count) for name, count in zip(REASONS, done.refusals) if count and name not in ("none", "signal")}
    return Day("MES", config, "paper", np.datetime64("2024-01-03"), done.lots.copy(), start, bars, np.column_stack([said, foretold.volatility_ticks]) if volatility else said,
               *((bid, ask) if quotes else (None, None)), refusals=refusals, latency=meters.facts(), differences=("14:03:11 a fill was told twice; once is right",),
               alerts=("warning: the market hub was away for 4 s",), facts={"account": "PRACTICE-1", "contract": "CON.F.US.MES.H24", "model": "practice 1.0.0"})


@pytest.fixture(scope="module")
def day(): return live_day()


def planted(day):
    "Four things wrong: a worse price, a trade that is not there, one that nobody ordered, one that left for another reason."
    lots = day.lots.copy()
    lot = lots[2]
    lot["exit"] -= lot["side"]
    lot["gross_usd"] -= 1.25
    lot["net_usd"] -= 1.25
    lots[6]["reason_out"] = Reason.DAY_LOSS
    stranger = lots[:1].copy()
    stranger["entry_ns"] -= 1200 * SECOND
    stranger["exit_ns"] -= 1200 * SECOND
    stranger["position"] = 900
    return day._replace(lots=np.concatenate([stranger, np.delete(lots, 4)]))


def texts(page): return html.unescape(re.sub(r"<(style|script)[^>]*>.*?</\1>|<[^>]+>", " ", page.read_text(), flags=re.S))


# ---- the review

def test_a_day_that_did_what_the_back_test_does_agrees_to_the_cent(day, tmp_path):
    r = review_day(write_day(tmp_path, day))
    net = day.lots["net_usd"].sum()
    assert len(day.lots) > 25 and {Reason.STOP, Reason.TARGET, Reason.TIME_STOP} <= set(day.lots["reason_out"])
    assert r.agree and r.sentence == f"Live and back-test agree to the cent in all {len(day.lots)} trades: the day {'earned' if net >= 0 else 'lost'} ${abs(net):,.2f} net."
    np.testing.assert_array_equal(r.slippage["actual_ticks"], r.slippage["expected_ticks"])
    assert (r.refusals["live"] == r.refusals["again"]).all() and set(r.slippage["what"]) == {"entry", "exit", "stop"}
    pd.testing.assert_frame_equal(r.again.drop(columns="mode"), r.day.trades.drop(columns="mode"))
    assert hold_against(r.day).sentence == r.sentence and r.day.start.tobytes() == day.start.tobytes()   # once more: looking changes nothing


@pytest.mark.parametrize("case", ["no quotes", "some quotes", "volatility stops", "levels", "measured by liquidity", "trailing"])
def test_it_agrees_whatever_the_rules_are(case, tmp_path):
    changes = {"volatility stops": dict(stops=dict(kind="volatility")),
               "levels": dict(stops=dict(level_ticks=[3], level_shares=[.5], stop_ticks=8, target_ticks=16), risk=ROOMY | dict(max_contracts=3, trade_risk_usd=200.0)),
               "measured by liquidity": dict(costs=dict(slippage="liquidity", volatile_atr_ticks=1.5)), "trailing": dict(stops=dict(trail_ticks=3))}.get(case, {})
    own = live_day(load_config(**{"risk": ROOMY} | changes), quotes=case not in ("no quotes",), volatility=case == "volatility stops")
    if case == "some quotes":
        known = np.arange(len(own.bid)) % 7 > 0
        own = own._replace(bid=np.where(known, own.bid, 0), ask=np.where(known, own.ask, 0))
        market = market_of(own.bars, own.predictions, own.config)
        market = market._replace(columns=market.columns._replace(bid=own.bid.astype(np.int32), ask=own.ask.astype(np.int32)))
        own = own._replace(lots=run_sessions(market, own.start.copy(), rules_of(own.config, MES)).lots)
    r = review_day(write_day(tmp_path, own))
    assert r.agree and len(own.lots) > 10, r.sentence
    off = r.slippage[r.slippage["actual_ticks"] != r.slippage["expected_ticks"]]
    assert not len(off), off


def test_the_back_test_begins_with_the_account_of_that_morning(day, tmp_path):
    "Not with a fresh one, and not with what the day made of it."
    assert day.start["position"] > 0 and day.start["balance"] != 1000
    small = day.start.copy()
    small["balance"] = small["equity"] = 60.0                                       # too little for most of the day's trades
    r = review_day(write_day(tmp_path, day._replace(start=small)))
    assert not r.agree and len(r.again) < len(day.lots)


def test_each_planted_difference_is_named_in_plain_words(day, tmp_path):
    r = review_day(write_day(tmp_path, planted(day)))
    said = {pair: "; ".join(words) for pair, words in zip(r.pairs, r.differences) if words}
    assert not r.agree and len(said) == 4
    assert r.sentence.startswith("Live and back-test do not agree: 2 trades differ, 1 missing, 1 extra; the day ")
    worse = next(words for words in said.values() if "worse" in words)
    lot = day.lots[2]
    assert worse.startswith(f"exit 1 tick worse: {(lot['exit'] - lot['side']) / 4:,.2f} instead of {lot['exit'] / 4:,.2f}; net ") and worse.count("instead of") == 2
    assert any(words.startswith("missing: the back-test made it, live did not (1 ") for words in said.values())
    assert any(words.startswith("extra: made live alone (1 ") for words in said.values())
    assert any("left by day loss instead of " in words for words in said.values())
    off = r.slippage[r.slippage["actual_ticks"] != r.slippage["expected_ticks"]]
    if lot["reason_out"] != Reason.TARGET: assert 1.25 in off["cost_usd"].round(2).tolist()
    assert f"the back-test {'−' if day.lots['net_usd'].sum() < 0 else ''}${abs(day.lots['net_usd'].sum()):,.2f}" in r.sentence


def test_a_runner_that_came_at_noon_is_compared_from_noon_on(day, tmp_path):
    "Bars from history were never asked about, so the back-test is silent there too."
    said = day.predictions.copy()
    said[:len(said) // 2] = np.nan
    done = run_sessions(market_of(day.bars, said, day.config, Quotes(day.bid, day.ask)), day.start.copy(), rules_of(day.config, MES))
    r = review_day(write_day(tmp_path, day._replace(predictions=said, lots=done.lots)))
    assert r.agree and 0 < len(done.lots) < len(day.lots)


@pytest.mark.parametrize("bars", [True, False])
def test_a_day_without_a_trade_is_written_and_reviewed_too(day, bars, tmp_path):
    quiet = day._replace(lots=day.lots[:0], predictions=np.full_like(day.predictions, np.nan)) if bars else Day("MES", day.config, "paper", day.date, day.lots[:0])
    folder = write_day(tmp_path, quiet)
    r, log = review_day(folder), read_trade_log(folder / "trades_2024-01-03.csv")
    assert r.agree and r.sentence == ("No trade was made, live or in the back-test: the day earned $0.00 net." if bars else "No bar was seen and no trade was made: the day earned $0.00 net.")
    assert len(log) == 0 and json.loads((folder / "session_metrics.json").read_text())["total"]["trades"] == 0


def test_what_was_only_observed_is_not_called_a_difference(day, tmp_path):
    r = review_day(write_day(tmp_path, day._replace(mode="observe", lots=day.lots[:0])))
    assert r.sentence.startswith(f"Observed only, nothing was sent: the back-test of the same bars made {len(day.lots)} trades")


# ---- the command and its page

def typed(*args):
    app = typer.Typer()
    app.command()(review)
    done = CliRunner().invoke(app, list(map(str, args)))
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.output.rstrip()


def test_the_command_writes_the_page_and_ends_with_its_path(day, tmp_path):
    folder = write_day(tmp_path, day)
    code, said = typed(folder)
    sentence, last = said.splitlines()[-2:]
    assert code == 0 and last == str(folder / "review.html") and sentence == review_day(folder).sentence
    page = texts(folder / "review.html")
    whole = (folder / "review.html").read_text()
    assert page.index(sentence) < 700 and page.count(" same ") >= len(day.lots) and "no-text" not in whole.partition("</style>")[2] and whole.count("<img") == 2
    for words in ("Every fill slipped exactly as the cost model expects", "a fill was told twice", "market hub was away", "PRACTICE-1", "Bar closed to order on the wire"): assert words in page, words
    assert review_day(folder).agree                                                # pages beside the files do not make it another day


def test_the_page_says_each_planted_difference(day, tmp_path):
    folder = write_day(tmp_path, planted(day))
    whole = review_page(folder).read_text()
    page = texts(folder / "review.html")
    assert page.index("Live and back-test do not agree: 2 trades differ, 1 missing, 1 extra") < 700 and 'class="verdict no"' in whole
    for words in ("exit 1 tick worse", "missing: the back-test made it, live did not", "extra: made live alone", "left by day loss instead of"): assert words in page, words
    assert "differs" in page and "Every fill slipped exactly" not in page


@pytest.mark.parametrize("harm, says", [
    (lambda f: (f / "day.json").unlink(), "is no finished day: it has no day.json"), (lambda f: (f / "day.json").write_text("{"), "day.json is damaged"),
    (lambda f: (f / "trades.parquet").write_bytes(b""), "trades.parquet is not the file that day.json names"),
    (lambda f: (f / "predictions.npy").write_bytes(b""), "predictions.npy is not the file that day.json names"),
    (lambda f: (f / "day.json").write_text((f / "day.json").read_text().replace('"trades.parquet"', '"trades.txt"')), "does not name trades.parquet"),
    (lambda f: (f / "bars.parquet").unlink(), "bars.parquet is not the file that day.json names"), (lambda f: (f / "config.toml").write_text(""), "config.toml is not the file that day.json names"),
    (lambda f: (f / "day.json").write_text((f / "day.json").read_text().replace('"layout": 1', '"layout": 9')), "layout 9"),
    (lambda f: (f / "day.json").write_text((f / "day.json").read_text().replace('"killed"', '"kiled"')), "review it with the version that wrote it")])
def test_what_is_no_whole_day_is_refused_in_one_line(day, harm, says, tmp_path):
    folder = write_day(tmp_path, day)
    harm(folder)
    code, said = typed(folder)
    assert code == 2 and said.startswith("mesbot: ") and says in said and "\n" not in said and not (folder / "review.html").exists()


# ---- the folder

def contents(folder): return {p.name: p.read_bytes() for p in folder.iterdir()}


def test_writing_a_day_again_changes_nothing(day, tmp_path):
    first = contents(write_day(tmp_path, day))
    assert contents(write_day(tmp_path, day)) == first
    assert set(first) == {"trades_2024-01-03.csv", "trades.parquet", "session_metrics.json", "session_metrics.csv", "day.json", "bars.parquet", "predictions.npy", "config.toml"}
    assert contents(write_day(tmp_path / "other", day)) == first                     # nor does the place


def test_the_summary_is_that_of_a_back_test_on_the_same_fills(day, tmp_path):
    folder = write_day(tmp_path, day)
    facts, done = json.loads((folder / "day.json").read_text()), backtest(day.bars, day.predictions, day.config, quotes=Quotes(day.bid, day.ask), state=day.start.copy())
    assert len(done.trades) == len(day.lots)
    shared = [name for name in facts["summary"] if name in done.summary and name not in ("exposure_share", "trades_an_hour")]  # they need the hours, which a trade log does not know
    assert len(shared) > 25
    for name in shared: np.testing.assert_allclose(np.nan if facts["summary"][name] is None else facts["summary"][name], done.summary[name], rtol=1e-12, atol=1e-9, err_msg=name)
    assert facts["refusals"] == done.summary["refusals"] and facts["latency"]["commit_s"]["count"] == 500
    want = session_metrics(done.trades, MES.tick_usd, [day.date])
    assert facts["summary"]["largest_loss_usd"] == want["largest_loss_usd"] and facts["summary"]["days"] == 1


def test_the_trade_log_has_the_columns_of_a_back_test_and_what_the_model_saw(day, tmp_path):
    seen = compute_features(day.bars)
    folder = write_day(tmp_path, day._replace(features=seen))
    done = backtest(day.bars, day.predictions, day.config, seen, Quotes(day.bid, day.ask), day.start.copy())
    for name in ("trades_2024-01-03.csv", "trades.parquet"):
        log = read_trade_log(folder / name)
        assert set(log["mode"]) == {"paper"} and (log["features"].str.len() > 500).all()
        pd.testing.assert_frame_equal(log.drop(columns="mode"), done.trades.drop(columns="mode"))


@pytest.mark.parametrize("after", range(9))
def test_a_kill_between_two_files_leaves_a_day_that_is_whole_or_refused(day, after, tmp_path, monkeypatch):
    "And writing it again mends it; nobody reads a mixture of two versions of the day."
    folder, replace, left = write_day(tmp_path, planted(day)), os.replace, [after]
    def stop(source, target):
        left[0] -= 1
        if left[0] < 0: raise KeyboardInterrupt
        replace(source, target)
    monkeypatch.setattr(os, "replace", stop)
    if after < 8:
        with pytest.raises(KeyboardInterrupt): write_day(tmp_path, day)
    else: write_day(tmp_path, day)
    monkeypatch.undo()
    if after in (0, 8): pd.testing.assert_frame_equal(read_day(folder).trades, trade_table(day if after else planted(day)))
    else:
        with pytest.raises(ValueError, match="half written or was changed"): read_day(folder)
    write_day(tmp_path, day)
    pd.testing.assert_frame_equal(read_day(folder).trades, trade_table(day))


def test_parts_that_do_not_fit_are_refused(day, tmp_path):
    for wrong, says in ((dict(predictions=day.predictions[:-1]), "predictions of"), (dict(bid=day.bid[:5]), "bid of")):
        with pytest.raises(ValueError, match=says): write_day(tmp_path, day._replace(**wrong))
    assert not (day_folder(tmp_path, day.date) / "day.json").exists()


# ---- trades as they happen

def test_trades_are_in_the_csv_as_they_happen_and_the_end_of_the_day_says_the_same(day, tmp_path):
    path = day_folder(tmp_path, day.date) / "trades_2024-01-03.csv"
    assert append_trades(tmp_path, day._replace(lots=day.lots[:0])) == 0 and len(read_trade_log(path)) == 0
    for k in (1, 2, 5, 5, len(day.lots)): append_trades(tmp_path, day._replace(lots=day.lots[:k]))
    written = path.read_bytes()
    pd.testing.assert_frame_equal(read_trade_log(path), trade_table(day))
    assert append_trades(tmp_path, day) == 0 and path.read_bytes() == written
    write_day(tmp_path, day)
    assert path.read_bytes() == written


def test_a_row_that_a_kill_has_cut_is_written_again_whole(day, tmp_path):
    "At any byte: rows before it stay, the rest is there once."
    three, path = day._replace(lots=day.lots[:3]), day_folder(tmp_path, day.date) / "trades_2024-01-03.csv"
    append_trades(tmp_path, three)
    whole = path.read_bytes()
    for cut in [*range(0, len(whole), 17), len(whole) - 1]:
        path.write_bytes(whole[:cut])
        append_trades(tmp_path, three)
        assert path.read_bytes() == whole, cut


@pytest.mark.parametrize("short", [True, False])
def test_a_full_disk_leaves_the_csv_as_it_was(day, short, tmp_path, monkeypatch):
    path, write = day_folder(tmp_path, day.date) / "trades_2024-01-03.csv", os.write
    append_trades(tmp_path, day._replace(lots=day.lots[:2]))
    before = path.read_bytes()
    def full(handle, data):
        if short: return write(handle, data[:40])
        raise OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(day_room.os, "write", full)
    with pytest.raises(OSError): append_trades(tmp_path, day)
    monkeypatch.undo()
    assert path.read_bytes() == before and append_trades(tmp_path, day) == len(day.lots) - 2
    pd.testing.assert_frame_equal(read_trade_log(path), trade_table(day))


def test_a_lot_is_one_line_whatever_the_model_saw(day, tmp_path):
    assert append_trades(tmp_path, day._replace(features=compute_features(day.bars))) == len(day.lots)
    assert len((day_folder(tmp_path, day.date) / "trades_2024-01-03.csv").read_text().splitlines()) == len(day.lots) + 1
