"""A day of trades worked by hand: five bars on paper, each rule of DESIGN section 4 once (BT-1, BT-2, RSK-1, RSK-2, RSK-7, LIV-4).

Unless a case says otherwise: one MES contract, tick $1.25, stop 8 ticks, target 12, $0.42 a side, one tick of slippage, the signal at the close of
the first bar, so the entry is at the open of the second."""
import numpy as np
import pandas as pd
import pytest

from mesbot.bars import make_bars
from mesbot.calendar import NY
from mesbot.config import load_config
from mesbot.core import SECOND
from mesbot.sim import backtest

FLAT, UP, DOWN, NONE = (.1, .8, .1), (.1, .2, .7), (.7, .2, .1), (np.nan,) * 3
QUIET = (1000, 1000, 1000, 1000)
FEES = .84


def ns(clock, date="2024-01-03"): return pd.Timestamp(f"{date} {clock}", tz=NY).value


def play(bars, says, start="10:00:00", gap_s=1, date="2024-01-03", **settings):
    "Trade bars of (open, high, low, close), a prediction each, `gap_s` apart or at the listed seconds."
    seconds = np.arange(len(bars)) * gap_s if np.isscalar(gap_s) else np.array(gap_s)
    o, h, l, c = np.array(bars).T
    made = make_bars(ns(start, date) + seconds * SECOND, o, h, l, c, np.ones(len(bars), int))
    settings["trader"] = {"cooldown_s": 0} | settings.get("trader", {})
    return backtest(made, np.array(says, float), load_config(**settings))


def only(result):
    assert len(result.trades) == 1, result.trades
    t = result.trades.iloc[0]
    return t.side, round(t.entry_price * 4), round(t.exit_price * 4), t.reason_out, round(t.net_usd, 2)


ENTRY = [QUIET, (1001, 1003, 999, 1002)]  # decided on the first, bought at 1001 + 1 = 1002: stop 994, target 1014
SAY = [UP, FLAT, FLAT, FLAT, FLAT]


@pytest.mark.parametrize("name,third,want", [
    ("target traded through: 12 ticks, no slippage", (1010, 1015, 1009, 1013), ("long", 1002, 1014, "target", 15 - FEES)),
    ("target only touched: still held, out at the data's end", (1010, 1014, 1009, 1013), ("long", 1002, 1012, "data_end", 12.5 - FEES)),
    ("stop touched: one tick of slippage", (1000, 1001, 994, 995), ("long", 1002, 993, "stop", -11.25 - FEES)),
    ("gap through the stop: the open, one tick worse", (985, 986, 984, 985), ("long", 1002, 984, "stop", -22.5 - FEES)),
    ("both in one bar: the stop", (1002, 1016, 993, 1000), ("long", 1002, 993, "stop", -11.25 - FEES)),
    ("opens beyond the target: the target, not the open", (1020, 1021, 1019, 1020), ("long", 1002, 1014, "target", 15 - FEES)),
])
def test_one_bar_decides(name, third, want):
    rest = third[3:] * 4
    assert only(play(ENTRY + [third, rest, rest], SAY)) == (*want[:4], round(want[4], 2)), name


def test_entry_and_stop_in_the_entry_bar():
    "The bracket rests from the moment of the fill: bought at 1002 on a bar that falls to 990."
    assert only(play([QUIET, (1001, 1001, 990, 995), QUIET, QUIET, QUIET], SAY)) == ("long", 1002, 993, "stop", round(-11.25 - FEES, 2))


def test_no_signal_no_trade_and_every_refusal_is_named():
    result = play([QUIET] * 5, [NONE, FLAT, NONE, FLAT, (.3, .11, .59)])
    assert len(result.trades) == 0 and result.summary["refusals"] == {"no_prediction": 2, "low_confidence": 3}


def test_the_last_bar_cannot_fill():
    assert len(play([QUIET] * 5, [FLAT] * 4 + [UP]).trades) == 0


def test_latency_lets_one_bar_pass():
    "With 1.5 s of latency a decision at 10:00:01 first fills at the bar of 10:00:03."
    bars = [QUIET, (1001,) * 4, (1002,) * 4, (1003,) * 4, (1003,) * 4]
    assert only(play(bars, SAY, trader={"latency_s": 1.5}))[1] == 1004
    assert only(play(bars, SAY))[1] == 1002


def test_opposite_signal_leaves_at_the_next_open():
    "Bought at 1002, told DOWN at the close of the third bar, sold at 1005 - 1 = 1004."
    bars = ENTRY + [(1003, 1004, 1002, 1003), (1005, 1006, 1004, 1005), (1005,) * 4]
    assert only(play(bars, [UP, FLAT, DOWN, FLAT, FLAT])) == ("long", 1002, 1004, "opposite_signal", round(2.5 - FEES, 2))


def test_time_stop_after_sixty_seconds():
    "Bars 20 s apart: bought at 10:00:20, so the order leaves at 10:01:20 and is sold at the open of that second, 1005 - 1 = 1004."
    bars = ENTRY + [(1002,) * 4, (1003,) * 4, (1005,) * 4]
    assert only(play(bars, SAY, gap_s=20)) == ("long", 1002, 1004, "time_stop", round(2.5 - FEES, 2))


def test_the_stop_tightens_after_half_the_hold():
    "8 ticks become 6: with 31 s passed, a bar at 995 hits the stop at 996 where one at 10:00:03 would not have hit 994."
    bars = ENTRY + [(1002,) * 4, (1000, 1000, 995, 998), (998,) * 4]
    assert only(play(bars, SAY, gap_s=[0, 1, 31, 40, 41])) == ("long", 1002, 995, "stop", round(-8.75 - FEES, 2))
    assert only(play(bars, SAY, gap_s=[0, 1, 2, 3, 4]))[3] == "data_end"


def test_a_trailing_stop_only_tightens():
    "Trailing by 4: after a high of 1010 the stop stands at 1006; the next high of 1009 does not loosen it."
    bars = ENTRY + [(1004, 1010, 1004, 1009), (1008, 1009, 1007, 1008), (1007, 1008, 1006, 1007)]
    assert only(play(bars, SAY, stops={"trail_ticks": 4})) == ("long", 1002, 1005, "stop", round(3.75 - FEES, 2))


def test_end_of_day_flattens_at_market():
    "Entered at 16:14 (all hours), out at the open of 16:25:00; a signal at 16:15 makes no position."
    bars = ENTRY + [(1003,) * 4, (1004,) * 4, (1005,) * 4]
    at = [0, 60, 120, 690, 720]  # from 16:13:30
    held = dict(stops={"max_hold_s": 86_400}, trader={"hours": "ALL"})
    thin = 2  # outside regular hours
    side, entry, exit, reason, net = only(play(bars, SAY, start="16:13:30", gap_s=at, **held))
    assert (side, entry, exit, reason) == ("long", 1001 + thin, 1004 - thin, "end_of_day")
    late = play(bars, [UP] * 5, start="16:15:00", gap_s=at, **held)
    assert len(late.trades) == 0 and late.summary["refusals"] == {"end_of_day": 5}


def test_early_close_moves_the_whole_day():
    "The Friday after Thanksgiving closes at 13:15, 3 h 45 min early: no entry from 12:30, out at 12:40, flat by 12:45."
    held = dict(stops={"max_hold_s": 86_400}, trader={"hours": "ALL"}, date="2024-11-29")
    bars = ENTRY + [(1003,) * 4, (1004,) * 4, (1005,) * 4]
    t = play(bars, SAY, start="12:29:00", gap_s=[0, 10, 20, 659, 662], **held).trades.iloc[0]
    assert t.reason_out == "end_of_day" and f"{t.exit_time:%H:%M:%S}" == "12:40:02"
    assert play(bars, [UP] * 5, start="12:30:00", **held).summary["refusals"] == {"end_of_day": 5}


def test_the_topstep_preset_is_flat_by_1605():
    bars = ENTRY + [(1003,) * 4, (1004,) * 4, (1005,) * 4]
    t = play(bars, SAY, start="15:49:00", gap_s=[0, 10, 20, 659, 662], preset="topstepx-2026", stops={"max_hold_s": 86_400}, trader={"hours": "ALL"}).trades.iloc[0]
    assert t.reason_out == "end_of_day" and f"{t.exit_time:%H:%M:%S}" == "16:00:02" and round(t.fees_usd, 2) == 1.22


def test_outside_hours_and_unknown_days_are_refused():
    assert play([QUIET] * 5, [UP] * 5, start="09:00:00").summary["refusals"] == {"outside_hours": 5}
    assert play([QUIET] * 5, [UP] * 5, date="2024-03-29").summary["refusals"] == {"unknown_day": 5}  # Good Friday
    assert play([QUIET] * 5, [UP] * 5, date="2035-01-03").summary["refusals"] == {"unknown_day": 5}  # beyond the calendar


def test_cooldown():
    "Stopped out at 10:00:02; with a cooldown of 60 s the signals after it are refused."
    result = play(ENTRY + [(985,) * 4, (985,) * 4, (985,) * 4], [UP] * 5, trader={"cooldown_s": 60})
    assert len(result.trades) == 1 and result.summary["refusals"] == {"cooldown": 3}


def losing(n, **settings):
    "n entries that are each stopped out in the bar of the entry, $12.09 gone every time."
    return play([QUIET, (1001, 1001, 990, 1000)] * n + [QUIET], [UP, FLAT] * n + [UP], **settings)


def test_five_losses_in_a_row_pause_for_half_an_hour():
    wide = dict(day_loss_usd=500, day_drawdown_usd=500)
    result = losing(7, risk=wide)
    assert len(result.trades) == 5 and result.summary["refusals"]["loss_streak"] == 3
    after = losing(7, risk=wide | dict(pause_min=0))
    assert len(after.trades) == 7


def test_day_loss_ends_the_day_and_the_next_day_trades_again():
    "Four losses of $12.09 are $48.36; the fifth makes it $60.45: no more today."
    rows, says = [QUIET, (1001, 1001, 990, 1000)] * 7, [UP, FLAT] * 7
    o, h, l, c = np.array(rows * 2).T
    ts = np.concatenate([ns("10:00:00", d) + np.arange(14) * SECOND for d in ("2024-01-03", "2024-01-04")])
    bars = make_bars(ts, o, h, l, c, np.ones(28, int))
    result = backtest(bars, np.array(says * 2), load_config(trader={"cooldown_s": 0}, risk={"loss_streak": 100}))
    assert result.daily.round(2).tolist() == [-60.45, -60.45] and result.summary["refusals"]["day_loss"] > 0


def test_day_loss_closes_an_open_position():
    "Down 45 ticks with a stop 60 away is $56: out at the next open, as a FLATTEN with the limit's name."
    bars = ENTRY + [(960, 960, 956, 957), (955,) * 4, (955,) * 4]
    t = only(play(bars, SAY, stops=dict(stop_ticks=60), risk=dict(trade_risk_usd=100)))
    assert t == ("long", 1002, 954, "day_loss", round(-60 - FEES, 2))


def test_day_drawdown_counts_from_the_days_best():
    "Up 80 ticks ($100), then 65 back: $81 below the best of the day, still $19 up on it."
    bars = ENTRY + [(1082,) * 4, (1017,) * 4, (1017,) * 4]
    t = only(play(bars, SAY, stops=dict(stop_ticks=60, target_ticks=200), risk=dict(trade_risk_usd=100), costs=dict(slippage="fixed")))
    assert t == ("long", 1002, 1016, "day_drawdown", round(17.5 - FEES, 2))


def test_kill_is_for_good_and_review_waits_for_a_person():
    loose = dict(day_loss_usd=1e4, day_drawdown_usd=1e4, loss_streak=1000, min_balance_usd=0)
    killed = losing(40, risk=loose | dict(review_drawdown_usd=1e4))
    assert killed.summary["killed"] and len(killed.trades) == 25 and killed.summary["refusals"]["kill"] > 0  # 25 x $12.09 is the first over $300
    review = losing(40, risk=loose)
    assert review.summary["review"] and not review.summary["killed"] and len(review.trades) == 17  # 17 x $12.09 is the first over $200


def test_a_balance_under_the_minimum_and_a_stop_too_wide_are_refused():
    assert losing(3, risk=dict(min_balance_usd=980)).summary["refusals"]["low_balance"] > 0  # two losses of $12.09 leave $975.82
    with pytest.raises(ValueError, match="start_balance_usd must be at least min_balance_usd 700, got 699"): load_config(risk=dict(start_balance_usd=699))
    assert play([QUIET] * 5, [UP] * 5, stops=dict(stop_ticks=20)).summary["refusals"] == {"trade_risk": 5}


@pytest.mark.parametrize("balance,confidence,contracts", [(1000, .65, 1), (2000, .75, 2), (2000, .65, 1), (4000, .85, 2), (9000, .85, 2)])
def test_size_by_tier_and_confidence_within_the_trade_risk(balance, confidence, contracts):
    "$25 pays for two stops of $12.09 and no more."
    sure = (.05, .95 - confidence, confidence)
    t = play(ENTRY + [(1002,) * 4] * 3, [sure, FLAT, FLAT, FLAT, FLAT], risk=dict(start_balance_usd=balance)).trades.iloc[0]
    assert t.contracts == contracts and round(t.fees_usd, 2) == round(FEES * contracts, 2)


def test_slippage_grows_in_thin_and_wild_markets():
    "Two ticks before the open; four when one-second ranges run at 16 ticks."
    assert play([QUIET] * 5, SAY, start="09:00:00", trader={"hours": "ALL"}).trades.iloc[0].slippage_ticks == 4
    wild = [(1000, 1008, 992, 1000)] * 5
    assert play(wild, SAY, stops=dict(stop_ticks=50, target_ticks=50), risk=dict(trade_risk_usd=1e3)).trades.iloc[0].slippage_ticks == 8


def test_a_position_is_never_carried_over_a_session():
    o, h, l, c = np.array([QUIET, QUIET, (1002,) * 4, QUIET, QUIET]).T
    ts = np.array([ns("15:59:57"), ns("15:59:58"), ns("15:59:59"), ns("10:00:00", "2024-01-04"), ns("10:00:01", "2024-01-04")])
    bars = make_bars(ts, o, h, l, c, np.ones(5, int))
    result = backtest(bars, np.array([UP, FLAT, FLAT, FLAT, FLAT]), load_config(stops={"max_hold_s": 86_400}))
    t = result.trades.iloc[0]
    assert t.reason_out == "data_end" and t.exit_ns == ts[2] + SECOND and result.daily.iloc[1] == 0


def test_an_order_in_flight_dies_with_its_session():
    o, h, l, c = np.array([QUIET] * 5).T
    ts = np.array([ns("15:00:00"), ns("15:00:01"), ns("10:00:00", "2024-01-04"), ns("10:00:01", "2024-01-04"), ns("10:00:02", "2024-01-04")])
    bars = make_bars(ts, o, h, l, c, np.ones(5, int))
    assert len(backtest(bars, np.array([FLAT, UP, FLAT, FLAT, FLAT]), load_config(trader={"entry_valid_s": 86_400})).trades) == 0


def test_mirrored_prices_give_mirrored_trades_and_the_books_add_up():
    rng = np.random.default_rng(8)
    close = 1000 + rng.integers(-3, 4, 4000).cumsum()
    open = np.r_[1000, close[:-1]]
    high, low = np.maximum(open, close) + rng.integers(0, 3, 4000), np.minimum(open, close) - rng.integers(0, 3, 4000)
    ts = ns("10:00:00") + np.arange(4000) * SECOND
    says = np.array([UP, FLAT, DOWN])[rng.integers(0, 3, 4000)]
    config = load_config(risk=dict(day_loss_usd=1e5, day_drawdown_usd=1e5, total_loss_usd=1e5, review_drawdown_usd=1e5, start_balance_usd=1e5, loss_streak=10_000), trader={"cooldown_s": 0})
    one = backtest(make_bars(ts, open, high, low, close, np.ones(4000, int)), says, config)
    other = backtest(make_bars(ts, 2000 - open + 5000, 2000 - low + 5000, 2000 - high + 5000, 2000 - close + 5000, np.ones(4000, int)), says[:, ::-1], config)
    assert len(one.trades) > 100 and set(one.trades["side"]) == {"long", "short"}
    np.testing.assert_allclose(one.trades["net_usd"], other.trades["net_usd"])
    assert (one.trades["side"] != other.trades["side"]).all()
    np.testing.assert_allclose(one.equity[-1], 1e5 + one.trades["net_usd"].sum())
    np.testing.assert_allclose(one.trades["fees_usd"], 2 * .42 * one.trades["contracts"])
    np.testing.assert_allclose(one.trades["net_usd"], one.trades["gross_usd"] - one.trades["fees_usd"])
    assert (one.trades["entry_ns"].iloc[1:].to_numpy() > one.trades["exit_ns"].iloc[:-1].to_numpy() - 1).all()


def test_the_clock_runs_while_nothing_trades():
    "Held 60 s at 10:01:01; the next print comes at 10:05: the order was waiting for it, and does not wait for another. It waited too long: four ticks."
    bars = ENTRY + [(1003,) * 4, (1004,) * 4, (1005,) * 4]
    t = play(bars, SAY, gap_s=[0, 1, 2, 300, 301]).trades.iloc[0]
    assert t.reason_out == "time_stop" and round(t.exit_price * 4) == 1000 and f"{t.exit_time:%H:%M:%S}" == "10:05:00"


def test_flat_by_the_deadline_even_when_nothing_trades():
    "No print between 16:20 and 16:45: out by 16:30 at the worse of the last close 1002 and the next open 1010, four ticks of slippage for having waited so long."
    bars = ENTRY + [(1002,) * 4, (1010,) * 4, (1010,) * 4]
    t = play(bars, SAY, start="16:10:00", gap_s=[0, 1, 600, 2100, 2101], stops={"max_hold_s": 86_400}, trader={"hours": "ALL"}).trades.iloc[0]
    assert t.reason_out == "end_of_day" and f"{t.exit_time:%H:%M:%S}" == "16:30:00" and round(t.exit_price * 4) == 998


def test_an_entry_that_finds_no_print_before_the_last_entry_time_dies():
    bars = [QUIET] * 5
    assert len(play(bars, SAY, start="16:14:50", gap_s=[0, 11, 12, 13, 14], trader={"hours": "ALL"}).trades) == 0
    assert len(play(bars, SAY, start="16:14:50", gap_s=[0, 9, 12, 13, 14], trader={"hours": "ALL"}).trades) == 1


@pytest.mark.parametrize("seed", range(6))
def test_no_position_outlives_the_flat_time_on_sparse_bars(seed):
    "RSK-7 on random days, normal and short, with minutes between prints."
    rng = np.random.default_rng(seed)
    date = ("2024-01-03", "2024-11-29", "2024-07-03")[seed % 3]
    ts = ns("11:00:00", date) + np.unique(rng.integers(0, (2 * 3600 if seed % 3 else 6 * 3600), 200)) * SECOND
    price = 1000 + rng.integers(-2, 3, len(ts)).cumsum()
    says = np.array([UP, FLAT, DOWN])[rng.integers(0, 3, len(ts))]
    config = load_config(stops={"max_hold_s": 86_400, "stop_ticks": 15, "target_ticks": 100}, trader={"hours": "ALL", "cooldown_s": 0, "latency_s": 2, "exit_on_opposite": False})
    trades = backtest(make_bars(ts, price, price, price, price, np.ones(len(ts), int)), says, config).trades
    flat = ns("12:45:00", date) if seed % 3 else ns("16:30:00", date)
    assert len(trades) and trades["exit_ns"].max() <= flat and trades["entry_ns"].max() < flat


def test_an_exit_in_flight_dies_with_its_position():
    "The opposite signal's exit is 2 s away when the stop is hit: nothing may come of it, least of all a short position."
    bars = [(1000,) * 4] * 5 + [(990, 990, 985, 985)] + [(985,) * 4] * 6
    says = [UP, FLAT, FLAT, FLAT, DOWN] + [FLAT] * 7
    result = play(bars, says, trader={"latency_s": 2, "cooldown_s": 600})
    assert [t.reason_out for t in result.trades.itertuples()] == ["stop"] and (result.trades["side"] == "long").all()


def test_an_entry_that_found_no_bar_in_time_is_forgotten():
    bars = [QUIET] * 5
    assert len(play(bars, SAY, gap_s=[0, 302, 303, 304, 305]).trades) == 0
    assert len(play(bars, SAY, gap_s=[0, 301, 302, 303, 304]).trades) == 1
    assert len(play(bars, SAY, gap_s=[0, 301, 302, 303, 304], trader={"entry_valid_s": 60}).trades) == 0


def test_the_days_worst_price_counts_even_when_the_target_fills():
    "Bought at 1002, the bar falls to 995 and rises through 1014: the adverse excursion is 7, not 3."
    assert play(ENTRY + [(1002, 1016, 995, 1010), (1010,) * 4, (1010,) * 4], SAY).trades.iloc[0].mae_ticks == 7


def two_days(rows, says, **settings):
    "The same bars at 10:00 on two days."
    o, h, l, c = np.array(rows * 2).T
    ts = np.concatenate([ns("10:00:00", d) + np.arange(len(rows)) * SECOND for d in ("2024-01-03", "2024-01-04")])
    settings["trader"] = {"cooldown_s": 0} | settings.get("trader", {})
    return backtest(make_bars(ts, o, h, l, c, np.ones(2 * len(rows), int)), np.array(says * 2, float), load_config(**settings))


def test_latches_and_pauses_outlive_the_night():
    "Kill and review are for good; a pause of 24 hours is not forgotten at the open."
    loose = dict(day_loss_usd=1e4, day_drawdown_usd=1e4, min_balance_usd=0)
    rows, says = [QUIET, (1001, 1001, 990, 1000)] * 20, [UP, FLAT] * 20
    assert two_days(rows, says, risk=loose | dict(loss_streak=1000)).daily.iloc[1] == 0                                   # review
    assert two_days(rows, says, risk=loose | dict(loss_streak=1000, review_drawdown_usd=1e4, total_loss_usd=200)).daily.iloc[1] == 0  # kill
    paused = two_days(rows, says, risk=loose | dict(loss_streak=20, pause_min=1440, review_drawdown_usd=1e4))
    assert (paused.trades["entry_ns"].iloc[20:] >= paused.trades["exit_ns"].iloc[19] + 86_400 * SECOND).all() and len(paused.trades) <= 21


def test_review_stays_when_the_drawdown_is_made_good():
    "Down $203 with a position that then recovers to where it began: out at the next open, and nothing more."
    wide = dict(stop_ticks=400, target_ticks=900)
    bars = ENTRY + [(840,) * 4, (1002,) * 4, (1002,) * 4, (1002,) * 4]
    result = play(bars, [UP, FLAT, FLAT, FLAT, UP, UP], stops=wide, risk=dict(trade_risk_usd=1e4, day_loss_usd=1e4, day_drawdown_usd=1e4), costs=dict(slippage="fixed"))
    assert result.summary["review"] and len(result.trades) == 1 and result.trades.iloc[0].reason_out == "review" and result.summary["refusals"]["review"] > 0


def test_hours_are_kept():
    "RTH does not trade at 09:29:55, ETH does not trade at 10:00, and the holiday part of a joined trade date is not traded at all."
    assert play([QUIET] * 5, [UP] * 5, trader={"hours": "ETH"}).summary["refusals"] == {"outside_hours": 5}
    assert len(play([QUIET] * 5, SAY, start="08:00:00", trader={"hours": "ETH"}).trades) == 1
    assert play([QUIET] * 5, [UP] * 5, date="2024-01-15", trader={"hours": "ALL"}).summary["refusals"] == {"outside_hours": 5}  # Martin Luther King Day, 10:00


def test_half_size_overnight_and_near_the_end_of_the_day():
    "RSK-2: $9,000 and a confidence of .75 are 5 contracts; half of it at night and after 16:00."
    rich = dict(risk=dict(start_balance_usd=9000, trade_risk_usd=1e3), trader={"hours": "ALL"})
    sure = [(.05, .20, .75), FLAT, FLAT, FLAT, FLAT]
    sizes = [play([QUIET] * 5, sure, start=at, **rich).trades.iloc[0].contracts for at in ("10:00:00", "08:00:00", "16:01:00")]
    assert sizes == [5, 2, 2]


def test_a_wild_market_makes_the_size_smaller():
    "With 4 ticks of slippage a contract risks $15.84: $25 pays for one, not for two."
    wild = [(1000, 1010, 990, 1000)] * 5
    risk = dict(start_balance_usd=2000)
    assert play([QUIET] * 5, [(.05, .20, .75)] + [FLAT] * 4, risk=risk).trades.iloc[0].contracts == 2
    assert play(wild, [(.05, .20, .75)] + [FLAT] * 4, risk=risk).trades.iloc[0].contracts == 1


def test_the_night_does_not_make_the_morning_wild():
    "ATR starts afresh at each session: yesterday's wild close costs nothing today."
    o, h, l, c = np.array([(1000, 1020, 980, 1000)] * 5 + [QUIET] * 3).T
    ts = np.concatenate([ns("15:00:00") + np.arange(5) * SECOND, ns("10:00:00", "2024-01-04") + np.arange(3) * SECOND])
    t = backtest(make_bars(ts, o, h, l, c, np.ones(8, int)), np.array([FLAT] * 5 + [UP, FLAT, FLAT], float)).trades.iloc[0]
    assert t.slippage_ticks == 2  # one tick in, one out


def test_a_trade_that_only_fees_make_a_loss_counts_as_a_loss():
    "Gross zero is net -$0.84: five of them pause the trader."
    rows = [(1000, 1000, 1000, 1000), (1000, 1000, 1000, 1000), (1002, 1002, 1002, 1002)] * 7
    says = [UP, DOWN, FLAT] * 7  # in at 1001, told the opposite, out at 1001
    result = play(rows, says, risk=dict(day_loss_usd=500))
    assert (result.trades["gross_usd"] == 0).all() and len(result.trades) == 5 and "loss_streak" in result.summary["refusals"]


def test_an_open_position_is_valued_with_all_its_contracts():
    "Two contracts, 4 ticks up: $10 less the entry fee."
    bars = ENTRY + [(1006,) * 4, (1006,) * 4, (1006,) * 4]
    result = play(bars, [(.05, .20, .75), FLAT, FLAT, FLAT, FLAT], risk=dict(start_balance_usd=2000))
    assert result.trades.iloc[0].contracts == 2
    np.testing.assert_allclose(result.equity[2], 2000 + 2 * 4 * 1.25 - 2 * .42)


def test_a_confidence_of_exactly_the_minimum_trades():
    assert len(play([QUIET] * 5, [(.2, .2, .6)] + [FLAT] * 4).trades) == 1 and len(play([QUIET] * 5, [(.2, .2001, .5999)] + [FLAT] * 4).trades) == 0


def test_an_opposite_signal_can_be_told_to_change_nothing():
    bars = ENTRY + [(1003, 1004, 1002, 1003), (1005, 1006, 1004, 1005), (1005,) * 4]
    assert only(play(bars, [UP, FLAT, DOWN, FLAT, FLAT], trader={"exit_on_opposite": False}))[3] == "data_end"


def test_a_stop_whose_bar_only_touches_the_target_is_not_ambiguous():
    assert not play(ENTRY + [(1002, 1014, 994, 1000), QUIET, QUIET], SAY).trades.iloc[0].ambiguous


def test_slippage_does_not_know_its_own_bar():
    "The bar of the entry turns out wild; its open was filled before anybody could know."
    bars = [QUIET, (1001, 1009, 995, 1001), QUIET, QUIET, QUIET]
    t = play(bars, SAY, stops=dict(stop_ticks=30, target_ticks=50), risk=dict(trade_risk_usd=1e3), costs=dict(volatile_atr_ticks=.5)).trades.iloc[0]
    assert round(t.entry_price * 4) == 1002


def test_an_exit_on_its_way_gets_no_more_than_the_resting_target():
    "Told DOWN, but before the order fills the bar opens at 1100: the target at 1014 was met on the way."
    bars = ENTRY + [(1002,) * 4, (1100, 1100, 1002, 1002), (1002,) * 4]
    assert only(play(bars, [UP, FLAT, DOWN, FLAT, FLAT])) == ("long", 1002, 1014, "target", round(15 - FEES, 2))


def test_an_entry_that_would_fill_outside_its_hours_is_forgotten():
    "Decided at 15:59:58 with 5 s of latency: the regular session is over."
    assert len(play([QUIET] * 12, [UP] + [FLAT] * 11, start="15:59:57", trader={"latency_s": 5}).trades) == 0
    assert len(play([QUIET] * 12, [UP] + [FLAT] * 11, start="15:59:47", trader={"latency_s": 5}).trades) == 1


@pytest.mark.parametrize("seed", range(40))
def test_whatever_the_market_does(seed):
    "Random bars, gaps, settings and predictions: the books add up, nothing is better than its bar, hours and cooldowns hold, and the future changes nothing."
    from mesbot.bars import cut_bars
    rng, n = np.random.default_rng(seed), 300
    ts = np.concatenate([ns(start, date) + np.cumsum(rng.choice([1, 1, 2, 5, 30, 200], n, p=[.5, .2, .14, .1, .05, .01])) * SECOND
                         for date, start in (("2024-01-12", "15:50:00"), ("2024-01-16", "09:20:00"), ("2024-11-29", "12:00:00"))])
    ts = ts[(ts < ns("13:15:00", "2024-11-29"))]
    close = 10_000 + rng.integers(-3, 4, len(ts)).cumsum() + (rng.random(len(ts)) < .02) * rng.integers(-40, 40, len(ts))
    open = close + rng.integers(-2, 3, len(ts))
    high, low = np.maximum(open, close) + rng.integers(0, 4, len(ts)), np.minimum(open, close) - rng.integers(0, 4, len(ts))
    bars = make_bars(ts, open, high, low, close, np.ones(len(ts), int))
    says = np.array([UP, FLAT, DOWN, NONE])[rng.choice(4, len(ts), p=[.3, .35, .3, .05])]
    hours, cooldown, latency = str(rng.choice(["RTH", "ETH", "ALL"])), float(rng.choice([0, 5])), float(rng.choice([0, 0, 1.5, 5]))
    config = load_config(risk=dict(day_loss_usd=1e5, day_drawdown_usd=1e5, total_loss_usd=1e5, review_drawdown_usd=1e5, start_balance_usd=3000, trade_risk_usd=60),
                         trader=dict(hours=hours, cooldown_s=cooldown, latency_s=latency, exit_on_opposite=bool(rng.random() < .5)),
                         stops=dict(stop_ticks=int(rng.choice([1, 4, 8])), target_ticks=int(rng.choice([1, 8, 12])), trail_ticks=int(rng.choice([0, 3])), max_hold_s=int(rng.choice([10, 60, 600]))))
    result = backtest(bars, says, config)
    t = result.trades
    np.testing.assert_allclose([t["net_usd"].sum(), result.equity[-1] - 3000], result.daily.sum(), atol=1e-6)
    side, entry = np.where(t["side"] == "long", 1, -1), np.round(t["entry_price"] * 4).to_numpy(int)
    at, out = np.searchsorted(ts, t["entry_ns"]), np.minimum(np.searchsorted(ts, t["exit_ns"]), len(ts) - 1)
    assert (ts[at] == t["entry_ns"]).all() and (side * (entry - open[at]) >= 0).all()                          # at a bar, never better than its open
    exit, marked = np.round(t["exit_price"] * 4).to_numpy(int), (t["reason_out"] != "data_end").to_numpy()
    assert (side * (exit - np.where(side > 0, high[out], low[out])) <= 0)[marked].all()                        # never better than its bar's best
    assert (side * (exit - np.round(t["target_price"] * 4)) <= 0)[marked].all()                                # never more than the target
    clock = t["entry_time"].dt.strftime("%H:%M:%S")
    regular = (clock >= "09:30:00") & (clock < np.where(t["trade_date"].astype(str) == "2024-11-29", "13:15:00", "16:00:00"))
    assert regular.all() if hours == "RTH" else (not regular.any() if hours == "ETH" else True)
    assert (t["entry_ns"].to_numpy()[1:] - t["exit_ns"].to_numpy()[:-1] >= cooldown * SECOND).all()
    cut = int(rng.integers(2, len(ts)))
    short = backtest(cut_bars(bars, cut), says[:cut], config)
    done = t[t["exit_ns"] <= ts[cut - 1]]
    pd.testing.assert_frame_equal(short.trades.iloc[:len(done)], done)


def test_no_rule_loosens_what_another_has_tightened():
    "Trailed to 1006; after half of the hold the time rule would put the stop at 996, and may not."
    bars = ENTRY + [(1004, 1010, 1004, 1009), (1008,) * 4, (1007, 1007, 1005, 1006)]
    assert only(play(bars, SAY, gap_s=[0, 1, 2, 40, 41], stops={"trail_ticks": 4})) == ("long", 1002, 1005, "stop", round(3.75 - FEES, 2))
