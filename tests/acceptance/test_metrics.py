"""The trade log and the numbers taken from it (BT-3, BT-4, LIV-8).

The week on paper: MES, $0.84 a round trip and contract. Trade 3 leaves in two lots; on Wednesday nothing is done.

    Mon   1 long +12 ticks = +14.16, 30 s     2 short -9 = -12.09, 60 s                                  day  +2.07   account 1002.07
    Tue   3 long +8 and +2 = 9.16 + 1.66 = +10.82, 40 and 90 s   4, 5 short -9 = -12.09 each, 20, 10 s   day -13.36   account  988.71
    Thu   6, 7 long +12 = +14.16 each, 120, 30 s                                                         day +28.32   account 1017.03
    Fri   8 long -9 = -12.09, 60 s   9 short +12 = +14.16, 300 s   10 long +2 = +1.66, 60 s              day  +3.73   account 1020.76
"""
import itertools
import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesbot.breakdown import breakdown
from mesbot.config import config_hash, load_config
from mesbot.core import MES, SECOND, TRADE, Reason
from mesbot.features import FEATURES
from mesbot.metrics import longest_run, performance, sharpe_ratio, sortino_ratio, whole_positions, worst_drawdown
from mesbot.session_metrics import daily_net, session_metrics, write_session_metrics
from mesbot.trade_log import LOG, read_trade_log, trade_log, write_trade_log

CONFIG = load_config()
MONDAY = np.datetime64("2024-01-08")
KINDS = ("hour", "weekday", "side", "reason_in", "reason_out", "confidence", "volatility")


def records(lots):
    "TRADE records of (position, day, second of the day, hold_s, side, contracts, ticks)."
    out = np.zeros(len(lots), TRADE)
    for trade, (position, day, second, hold, side, contracts, ticks) in zip(out, lots):
        trade["position"], trade["side"], trade["contracts"], trade["row"] = position, side, contracts, position
        trade["entry_ns"] = (MONDAY + day).astype("M8[ns]").astype(np.int64) + second * SECOND
        trade["exit_ns"], trade["entry"], trade["exit"] = trade["entry_ns"] + hold * SECOND, 20_000, 20_000 + side * ticks
        trade["stop"], trade["target"], trade["reason_in"], trade["reason_out"] = 20_000 - side * 8, 20_000 + side * 12, Reason.SIGNAL, Reason.TARGET if ticks > 0 else Reason.STOP
        trade["gross_usd"], trade["fees_usd"] = contracts * ticks * MES.tick_usd, contracts * .84
        trade["net_usd"] = trade["optimistic_usd"] = trade["gross_usd"] - trade["fees_usd"]
        trade["slippage_ticks"], trade["mae_ticks"], trade["mfe_ticks"], trade["confidence"], trade["atr"] = 1 if ticks > 0 else 2, max(3, -ticks), max(4, ticks + 1), .6 + position % 4 / 10, 1 + position % 5
    return out


def as_log(lots, **kw):
    trades = records(lots)
    return trade_log(trades, MES, CONFIG, "backtest", trades["entry_ns"].view("M8[ns]").astype("M8[D]"), **kw)


TEN = 15 * 3600  # 10:00 New York
WEEK = as_log([(1, 0, TEN, 30, 1, 1, 12), (2, 0, TEN + 4000, 60, -1, 1, -9), (3, 1, TEN, 40, 1, 1, 8), (3, 1, TEN, 90, 1, 1, 2), (4, 1, TEN + 4000, 20, -1, 1, -9), (5, 1, TEN + 5000, 10, -1, 1, -9),
               (6, 3, TEN, 120, 1, 1, 12), (7, 3, TEN + 200, 30, 1, 1, 12), (8, 4, TEN, 60, 1, 1, -9), (9, 4, TEN + 4000, 300, -1, 1, 12), (10, 4, TEN + 8000, 60, 1, 1, 2)])
DATES = MONDAY + np.arange(5)
DAILY = daily_net(WEEK, DATES)


@st.composite
def logs(draw, most=12):
    "Some positions of one to three lots, one after the other, over some days."
    lots, at = [], 0
    for position in range(1, draw(st.integers(0, most)) + 1):
        at += draw(st.integers(1, 60_000))
        side, hold = draw(st.sampled_from((-1, 1))), 0
        for _ in range(draw(st.integers(1, 3))):
            hold += draw(st.integers(0, 40))
            lots.append((position, at // 86_400, at % 86_400, hold, side, draw(st.integers(1, 3)), draw(st.integers(-12, 20))))
        at += hold
    return as_log(lots)


def numbers(log, **kw):
    dates = np.arange(MONDAY, MONDAY + 12)
    return performance(log, daily_net(log, dates), 1000.0, MES.tick_usd, traded_s=12 * 23_400, **kw)


# ---- the numbers, worked on paper

def test_a_week_on_paper():
    "BT-4: net, gross, Sharpe, Sortino, Calmar, drawdown, win rate, profit factor, expectancy, MAE/MFE, frequency, holding time, streaks, consistency."
    got = performance(WEEK, DAILY, 1000.0, MES.tick_usd, traded_s=5 * 6.5 * 3600)
    days = np.array([2.07, -13.36, 0, 28.32, 3.73])
    np.testing.assert_allclose(DAILY, days, atol=1e-9)
    want = dict(days=5, trades=10, lots=11, wins=6, losses=4, trades_a_day=2, net_usd=20.76, gross_usd=30, fees_usd=9.24, slippage_usd=18.75, win_rate=.6, profit_factor=69.12 / 48.36,
                expectancy_usd=2.076, mean_win_usd=11.52, mean_loss_usd=-12.09, payoff_ratio=11.52 / 12.09, best_trade_usd=14.16, worst_trade_usd=-12.09, wins_in_a_row=2, losses_in_a_row=2,
                net_ticks_a_trade=(4 * 11.328 + 4.328 + 1.328 - 4 * 9.672) / 10, hold_s=78, median_hold_s=60, contract_hours=820 / 3600, exposure_share=780 / 117_000, trades_an_hour=10 / 32.5,
                mae_ticks=(6 * 3 + 4 * 9) / 10, mfe_ticks=(4 * 13 + 9 + 4 + 4 * 4) / 10, sharpe=4.152 / 15.10393 * 252**.5, sortino=4.152 / (178.4896 / 5)**.5 * 252**.5,
                sharpe_error=((1 + (4.152 / 15.10393)**2 / 2) / 5 * 252)**.5, max_drawdown_usd=13.36, max_drawdown_share=13.36 / 1002.07, calmar=4.152 * 252 / 13.36,
                winning_days=.6, winning_weeks=1, winning_months=1, best_day_usd=28.32, worst_day_usd=-13.36, best_day_share=28.32 / 20.76, recovery_days=2)
    assert set(got) == set(want)
    for name, value in want.items(): np.testing.assert_allclose(got[name], value, rtol=1e-6, err_msg=name)


def test_published_ratios():
    "BT-4: Sharpe and Sortino of three series whose ratios others have printed."
    x = np.array([.259, .198, .364, -.081, .057, .055, .188, .317, .24, .184, -.01, .526])
    np.testing.assert_allclose(sharpe_ratio(x - .05, 1), .834364, atol=1e-6)
    np.testing.assert_allclose(sortino_ratio([.17, .15, .23, -.05, .12, .09, .13, -.04], 1), 4.417261, atol=1e-6)
    t = np.random.default_rng(42).standard_t(4, 500) * .01 + .0008
    np.testing.assert_allclose(sharpe_ratio(t, 1), .0611160903, rtol=1e-8)
    np.testing.assert_allclose(sharpe_ratio(t), .0611160903 * 252**.5, rtol=1e-8)


def test_weeks_and_months_are_those_of_the_calendar():
    "BT-4, consistency: Friday and Monday lie in two weeks, January and February in two months, and a week whose days add up to a loss is not won."
    daily = pd.Series([1.0, -2, 5, -1], pd.to_datetime(["2024-01-25", "2024-01-26", "2024-01-29", "2024-02-01"]))
    got = performance(WEEK[:0], daily, 1000.0, 1.25)
    assert (got["winning_weeks"], got["winning_months"], got["winning_days"]) == (.5, .5, .5)


def test_profit_levels_do_not_make_more_trades():
    "BT-4: one decision that left in three lots is one trade, its contracts are added, and a loss that was half saved is still a loss."
    got = numbers(as_log([(1, 0, TEN, 10, 1, 1, 4), (1, 0, TEN, 20, 1, 1, 2), (1, 0, TEN, 60, 1, 3, -9), (2, 0, TEN + 900, 30, -1, 1, 12)]))
    assert (got["trades"], got["lots"], got["win_rate"], got["losses_in_a_row"], got["hold_s"]) == (2, 4, .5, 1, 45)
    np.testing.assert_allclose(got["worst_trade_usd"], (4 + 2 - 27) * 1.25 - 5 * .84)
    np.testing.assert_allclose(got["net_ticks_a_trade"], ((4 + 2 - 27) / 5 + 12) / 2 - .84 / 1.25)


def test_a_trade_of_exactly_zero_is_neither_won_nor_lost():
    "BT-4: it ends both streaks, and counts in the means of all trades only."
    got = numbers(WEEK[:3].assign(net_usd=[1.0, 0.0, -2.0]))
    assert (got["trades"], got["wins"], got["losses"], got["win_rate"], got["mean_win_usd"], got["mean_loss_usd"], got["payoff_ratio"]) == (3, 1, 1, 1 / 3, 1, -2, .5)
    assert numbers(WEEK[4:7].assign(net_usd=[-1.0, 0.0, -1.0]))["losses_in_a_row"] == 1


def test_two_accounts_may_number_their_positions_alike():
    "BT-3, BT-4: logs of two folds, joined, keep their trades apart."
    joined = pd.concat([as_log([(1, 0, TEN, 10, 1, 1, 4)]), as_log([(1, 1, TEN, 10, 1, 1, 4)])])
    assert numbers(joined)["trades"] == 2


def test_nothing_and_one_trade():
    "BT-4: what cannot be computed is NaN, never zero and never an error."
    none, one = numbers(WEEK[:0]), numbers(WEEK[:1])
    assert none["trades"] == none["net_usd"] == none["max_drawdown_usd"] == none["trades_an_hour"] == 0 and none["days"] == 12
    assert np.isnan([none[k] for k in ("win_rate", "expectancy_usd", "profit_factor", "payoff_ratio", "sharpe", "sortino", "calmar", "hold_s", "mae_ticks", "best_trade_usd", "best_day_share")]).all()
    assert one["win_rate"] == 1 and one["wins_in_a_row"] == one["best_day_share"] == 1 and np.isnan([one[k] for k in ("profit_factor", "payoff_ratio", "mean_loss_usd", "calmar", "sortino")]).all()
    assert np.isnan(numbers(WEEK[1:2])["best_day_share"])                             # of a loss no day has a share
    assert np.isnan(performance(WEEK, DAILY, 1000.0, 1.25)["exposure_share"])        # not known how long one could trade


def test_the_worst_of_what_is_known():
    "BT-3, BT-4: the drawdown is that of the bars where there are bars, of the ends of days where not, and what a back-test tracked goes before both."
    dip = [1014.16, 1002.07, 940.0, 988.71, 1017.03, 1020.76]
    by_bar, by_day, tracked = (performance(WEEK, DAILY, 1000.0, 1.25, **kw) for kw in (dict(equity_usd=dip), {}, dict(equity_usd=dip, worst=(80.0, .08))))
    np.testing.assert_allclose([by_bar["max_drawdown_usd"], by_bar["max_drawdown_share"], by_day["max_drawdown_usd"]], [74.16, 74.16 / 1014.16, 13.36])
    assert (tracked["max_drawdown_usd"], tracked["max_drawdown_share"]) == (80, .08) and tracked["calmar"] == pytest.approx(4.152 * 252 / 80)


# ---- properties

@settings(derandomize=True, max_examples=30, deadline=None)
@given(log=logs(8))
def test_metrics_of_lots_are_those_of_whole_positions(log):
    "BT-4: adding the lots up first changes nothing but the number of lots and what is counted by lot."
    a, b = numbers(log), numbers(whole_positions(log))
    for name in set(a) - {"lots", "contract_hours", "slippage_usd"}: np.testing.assert_allclose(a[name], b[name], rtol=1e-9, atol=1e-9, err_msg=name)
    np.testing.assert_allclose(a["slippage_usd"], b["slippage_usd"], atol=1e-9)
    assert list(whole_positions(log)) == list(LOG)
    table = whole_positions(log).set_index("position")
    for position, lots in log.groupby("position"):
        whole = table.loc[position]
        assert whole["exit_ns"] == lots["exit_ns"].max() and whole["exit_time"] == lots["exit_time"].max() and whole["contracts"] == lots["contracts"].sum() and whole["mae_ticks"] == lots["mae_ticks"].max()
        side = 1 if whole["side"] == "long" else -1
        np.testing.assert_allclose(side * (whole["exit_price"] - whole["entry_price"]) / MES.tick * MES.tick_usd * whole["contracts"], whole["gross_usd"], atol=1e-6)


@settings(derandomize=True, max_examples=15, deadline=None)
@given(log=logs(), seed=st.integers(0, 99), by=st.sampled_from(KINDS))
def test_the_order_of_rows_does_not_matter(log, seed, by):
    "BT-4, LIV-8: a log that was sorted otherwise gives the same numbers, streaks included."
    mixed = log.sample(frac=1, random_state=seed)
    a, b = numbers(log), numbers(mixed)
    for name in a: np.testing.assert_allclose(a[name], b[name], rtol=1e-9, atol=1e-9, err_msg=name)
    pd.testing.assert_frame_equal(breakdown(log, by, draws=20), breakdown(mixed, by, draws=20), check_exact=False)


@settings(derandomize=True, max_examples=25, deadline=None)
@given(log=logs(), by=st.sampled_from((*KINDS, "label")))
def test_a_breakdown_adds_up(log, by):
    "BT-4, by hour, weekday, regime and the rest: every trade is in one group, and sums are those of the whole log; hours and weekdays without a trade are there."
    whole, table = numbers(log), breakdown(log, np.arange(len(log)) % 3 if by == "label" else by, draws=20)
    for name in ("trades", "net_usd", "gross_usd", "fees_usd"): np.testing.assert_allclose(table[name].sum(), whole[name], atol=1e-9, err_msg=name)
    np.testing.assert_allclose((table["win_rate"].fillna(0) * table["trades"]).sum(), whole["wins"], atol=1e-9)
    np.testing.assert_allclose(table["mean_usd"].fillna(0) * table["trades"], table["net_usd"], atol=1e-9)
    known = table["low_usd"].notna()
    assert ((table["low_usd"] <= table["mean_usd"] + 1e-9) & (table["mean_usd"] <= table["high_usd"] + 1e-9))[known].all() and (table["trades"][known] > 1).all()
    assert by != "hour" or table.index.tolist() == list(range(24))
    assert by != "weekday" or table.index.tolist()[:5] == ["Mon", "Tue", "Wed", "Thu", "Fri"]


@settings(derandomize=True, max_examples=100, deadline=None)
@given(moves=st.lists(st.integers(-40, 40), max_size=30))
def test_drawdown_is_the_worst_of_all_pairs(moves):
    "BT-3, BT-4: the deepest fall is the largest difference of an earlier and a later moment."
    equity = 1000.0 + np.cumsum(moves)
    pairs = list(itertools.combinations_with_replacement([1000.0, *equity], 2))
    usd, share = worst_drawdown(equity, 1000.0)
    np.testing.assert_allclose([usd, share], [max(a - b for a, b in pairs), max((a - b) / a for a, b in pairs)])
    daily = pd.Series(np.array(moves, float))
    under = [min(1, sum(day < earlier for earlier in [0, *np.cumsum(moves)[:i]])) for i, day in enumerate(np.cumsum(moves))]
    assert performance(WEEK[:0], daily, 1000.0, 1.25)["recovery_days"] == max((len(list(g)) for k, g in itertools.groupby(under) if k), default=0)


@settings(derandomize=True, max_examples=100, deadline=None)
@given(flags=st.lists(st.booleans(), max_size=25))
def test_the_longest_run_is_counted_right(flags):
    "BT-4, streaks."
    assert longest_run(flags) == max((len(list(g)) for k, g in itertools.groupby(flags) if k), default=0)


@settings(derandomize=True, max_examples=30, deadline=None)
@given(log=logs(), factor=st.sampled_from((.5, 2.0, 10.0)))
def test_dollars_scale_and_ratios_do_not(log, factor):
    "BT-4: an account and trades twice as large have twice the dollars and the same ratios."
    money = [name for name in LOG if name.endswith("_usd")]
    larger = log.assign(**{name: log[name] * factor for name in money})
    dates = np.arange(MONDAY, MONDAY + 12)
    a, b = (performance(each, daily_net(each, dates), 1000.0 * k, MES.tick_usd * k) for each, k in ((log, 1), (larger, factor)))
    for name in a: np.testing.assert_allclose(b[name], a[name] * (factor if name.endswith("_usd") else 1), rtol=1e-9, atol=1e-9, err_msg=name)


# ---- by hour, by weekday, by regime

def test_the_week_by_hour_and_weekday():
    "BT-4, by hour and weekday on paper, in New York time: entries at 10:00 are trades 1, 3, 6, 7 and 8."
    hours, days = breakdown(WEEK, "hour"), breakdown(WEEK, "weekday")
    assert hours["trades"][[9, 10, 11, 12]].tolist() == [0, 5, 4, 1]
    np.testing.assert_allclose(hours["net_usd"][[9, 10, 11, 12]], [0, 3 * 14.16 + 10.82 - 12.09, -3 * 12.09 + 14.16, 1.66], atol=1e-9)
    np.testing.assert_allclose(days["net_usd"], [2.07, -13.36, 0, 28.32, 3.73], atol=1e-9)
    assert breakdown(WEEK, "side")["trades"].to_dict() == {"long": 6, "short": 4} and breakdown(WEEK, "reason_out")["trades"].to_dict() == {"stop": 4, "target": 6}


def test_the_hour_is_new_yorks_in_summer_and_winter():
    "BT-4: 14:00 UTC is 9 o'clock in January and 10 o'clock in July."
    summer = as_log([(1, 0, 14 * 3600, 30, 1, 1, 12), (2, 182, 14 * 3600, 30, 1, 1, 12)])
    assert breakdown(summer, "hour")["trades"][[9, 10]].tolist() == [1, 1]


def test_a_mean_is_judged_by_sessions():
    "BT-4: the same trades spread over more sessions are surer; over one session nothing can be said."
    lots = [(i + 1, 0, TEN + i * 100, 30, 1, 1, 12 if i % 2 else -9) for i in range(40)]
    spread = [(p, (p - 1) // 2, *rest) for p, _, *rest in lots]
    crowded = [(p, (p - 1) // 10, second, hold, side, contracts, 12 if (p - 1) // 10 % 2 else -9) for p, _, second, hold, side, contracts, _ in lots]
    one, many, few = (breakdown(as_log(each), "side").loc["long"] for each in (lots, spread, crowded))
    assert np.isnan(one["low_usd"]) and many["high_usd"] - many["low_usd"] < .2 * (few["high_usd"] - few["low_usd"])


# ---- the log

def test_a_row_says_what_the_record_says():
    "BT-3: the third trade's second lot: times of New York and ns, points, words, money; and a short in summer."
    row = WEEK.iloc[3].to_dict()
    want = dict(position=3, symbol="MES", side="long", contracts=1, entry_price=5000, exit_price=5000.5, stop_price=4998, target_price=5003, reason_in="signal", reason_out="target", gross_usd=2.5, fees_usd=.84,
                slippage_ticks=1, net_usd=1.66, mae_ticks=3, mfe_ticks=4, confidence=.9, atr_ticks=4, ambiguous=False, optimistic_usd=1.66, features="", mode="backtest", config_hash=config_hash(CONFIG))
    assert list(row) == list(LOG) and {name: row[name] for name in want} == {name: pytest.approx(value) if isinstance(value, float) else value for name, value in want.items()}
    assert [str(row[name]) for name in ("trade_date", "entry_time", "exit_time")] == ["2024-01-09 00:00:00", "2024-01-09 10:00:00-05:00", "2024-01-09 10:01:30-05:00"]
    assert row["entry_time"].value == row["entry_ns"] and row["exit_time"].value == row["exit_ns"] == row["entry_ns"] + 90 * SECOND
    short = as_log([(1, 182, 14 * 3600, 5, -1, 2, -9)]).iloc[0]
    assert (short["side"], short["exit_price"], short["reason_out"], short["net_usd"], str(short["exit_time"])) == ("short", 5002.25, "stop", -24.18, "2024-07-08 10:00:05-04:00")


@settings(derandomize=True, max_examples=25, deadline=None)
@given(log=logs(), unknown=st.booleans())
def test_a_log_survives_the_disk(tmp_path_factory, log, unknown):
    "BT-3: parquet and CSV come back with the same values to the last bit and the same types, empty logs and unknown numbers included."
    folder = tmp_path_factory.mktemp("log")
    if unknown: log = log.assign(confidence=np.nan, atr_ticks=1 / 3, features='{"a": 0.1, "b": null}')
    write_trade_log(log, folder)
    assert sorted(p.name for p in folder.iterdir()) == ["trades.csv", "trades.parquet"]
    for name in ("trades.csv", "trades.parquet"):
        back = read_trade_log(folder / name)
        assert dict(back.dtypes) == LOG | dict(log.dtypes) == dict(log.dtypes)
        pd.testing.assert_frame_equal(back, log, check_exact=True, check_index_type=False)


def test_half_a_log_is_never_seen(tmp_path, monkeypatch):
    "BT-3: when the disk fails on the second file, both are still the old ones."
    write_trade_log(WEEK, tmp_path)
    def full(*a, **kw): raise OSError("no space left")
    with monkeypatch.context() as broken:
        broken.setattr(pd.DataFrame, "to_csv", full)
        with pytest.raises(OSError): write_trade_log(WEEK[:3], tmp_path)
    for name in ("trades.csv", "trades.parquet"): assert len(read_trade_log(tmp_path / name)) == len(WEEK)


@pytest.mark.parametrize("change,says", [
    (lambda log: log.drop(columns=["net_usd", "exit_ns"]), "no column exit_ns, net_usd"), (lambda log: log.assign(net_usd="a lot"), "a lot"), (lambda log: log.assign(contracts=1.5), "invalid value '1.5'"),
    (lambda log: log.assign(net_usd=np.nan), "row 0 has no net_usd"), (lambda log: log.assign(entry_time="noon"), "noon"), (lambda log: log.assign(trade_date=""), "row 0 has no trade_date"),
    (lambda log: log.assign(contracts=""), "row 0 has no contracts"), (lambda log: log.assign(entry_ns=10**30), "invalid value '1000"), (lambda log: log.assign(ambiguous="perhaps"), "perhaps"),
])
def test_a_bad_log_is_one_line(tmp_path, change, says):
    "BT-3: the file, what is wrong, in one line."
    change(WEEK).to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(ValueError) as e: read_trade_log(tmp_path / "t.csv")
    assert says in str(e.value) and str(e.value).startswith(f"{tmp_path / 't.csv'} is no trade log: ") and "\n" not in str(e.value)


def test_the_snapshot_is_of_the_bar_that_decided():
    "BT-3: rows are counted over all bars ever seen; a trade decided on bars that are not at hand has an empty snapshot."
    features = np.arange(3 * len(FEATURES), dtype=np.float32).reshape(3, -1)
    log = as_log([(4, 0, TEN, 9, 1, 1, 1), (5, 0, TEN + 99, 9, 1, 1, 1), (7, 0, TEN + 200, 9, 1, 1, 1), (8, 0, TEN + 300, 9, 1, 1, 1)], features=features, first_row=5)  # `row` is the position here
    assert [text and json.loads(text)[FEATURES[0]] for text in log["features"]] == ["", 0, 2 * len(FEATURES), ""]


# ---- the end of the day

@settings(derandomize=True, max_examples=15, deadline=None)
@given(log=logs())
def test_the_desk_and_the_back_test_say_the_same(log):
    "LIV-8: on the same fills every number that both have is the same to the last bit, and days add up to the whole."
    dates = np.arange(MONDAY, MONDAY + 12)
    desk, test = session_metrics(log, MES.tick_usd, dates), performance(log, daily_net(log, dates), 1000.0, MES.tick_usd)
    np.testing.assert_equal({k: desk[k] for k in set(desk) & set(test)}, {k: test[k] for k in set(desk) & set(test)})
    assert {"wins", "losses", "gross_usd", "fees_usd", "net_usd", "sharpe"} <= set(desk) & set(test)
    by_day = [session_metrics(log[log["trade_date"] == day], MES.tick_usd, [day]) for day in dates]
    for name in ("trades", "lots", "wins", "losses", "gross_usd", "fees_usd", "net_usd", "slippage_usd", "contract_hours"): np.testing.assert_allclose(sum(day[name] for day in by_day), desk[name], atol=1e-9, err_msg=name)
    net = whole_positions(log)["net_usd"]
    np.testing.assert_allclose([desk["largest_win_usd"], desk["largest_loss_usd"]], [net[net > 0].max(), net[net < 0].min()])


def test_the_end_of_the_day_on_disk(tmp_path):
    "LIV-8: JSON and CSV hold a row a trade date, silent ones included, and the whole; written twice they are the same."
    for _ in range(2): write_session_metrics(WEEK, MES.tick_usd, tmp_path, DATES)
    page, rows = json.loads((tmp_path / "session_metrics.json").read_text()), pd.read_csv(tmp_path / "session_metrics.csv", index_col="trade_date")
    assert list(page["days"]) == rows.index.tolist() == [str(date) for date in DATES] and sorted(p.name for p in tmp_path.iterdir()) == ["session_metrics.csv", "session_metrics.json"]
    assert [page["days"][str(date)]["trades"] for date in DATES] == rows["trades"].tolist() == [2, 3, 0, 2, 3]
    np.testing.assert_allclose(rows["net_usd"], [2.07, -13.36, 0, 28.32, 3.73], atol=1e-9)
    np.testing.assert_allclose(rows["largest_loss_usd"], [-12.09, -12.09, np.nan, np.nan, -12.09])
    assert page["days"]["2024-01-10"]["win_rate"] is None and page["total"]["wins"] == 6 and page["total"]["sharpe"] == pytest.approx(4.152 / 15.10393 * 252**.5, rel=1e-5)


def test_a_trade_on_no_trade_date_is_refused():
    "LIV-8: a day that was left out would be left out of the Sharpe ratio too."
    with pytest.raises(ValueError, match="a trade of 2024-01-12 is outside the 4 trade dates given"): session_metrics(WEEK, MES.tick_usd, DATES[:4])
