"""The whole of a simulated day, checked as a machine: the quick walk is the full step, a restored record goes on as if nothing had happened, and no rule is ever broken
(BT-1, BT-2, RSK-1 to RSK-7, LIV-4).

Bars are made to be nasty: most settings come from short lists, prices move by few ticks and clocks by few seconds, so that a limit is hit to the cent, a bar ends on the stop,
a clock strikes exactly on a bar."""
import math
import warnings
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mesbot.account import add, enter, leave
from mesbot.bars import make_bars
from mesbot.calendar import NY, session_table
from mesbot.config import load_config, with_settings
from mesbot.core import MES, REASONS, SECOND, STATE, TRADE, Reason, kernel, new_state
from mesbot.inputs import Quotes, bar_at, market_of
from mesbot.loop import bar_step, end_session, equity_curve, run_sessions
from mesbot.predictors import Prediction
from mesbot.risk import open_day
from mesbot.rules import rules_of
from mesbot.schedule import day_schedule
from mesbot.sim import backtest, sweep
from mesbot.synth import synthetic_market
from mesbot.trader import Says

FLAT, UP, DOWN, NONE = (.1, .8, .1), (.1, .2, .7), (.7, .2, .1), (np.nan,) * 3
MODES = ("next_open", "price_touch", "signal_close")


def ns(clock, date="2024-01-03"): return pd.Timestamp(f"{date} {clock}", tz=NY).value


# What the random cases are made of -------------------------------------------------------------------------------------------------------

DAYS = [  # trade date, first second, no bar from then on
    ("2024-01-03", "10:00:00", "16:59"), ("2024-01-04", "15:48:00", "16:59"), ("2024-01-05", "08:24:00", "16:59"), ("2024-01-12", "16:12:00", "16:59"),
    ("2024-01-15", "10:00:00", "12:50"),   # the holiday part of a joined trade date
    ("2024-01-16", "09:28:00", "16:59"), ("2024-01-31", "13:54:00", "16:59"),   # the Fed at 14:00
    ("2024-03-29", "08:00:00", "09:10"),   # Good Friday: not traded
    ("2024-06-12", "16:20:00", "16:59"), ("2024-07-03", "12:28:00", "13:10"), ("2024-11-29", "12:25:00", "13:10")]  # the last two close early

ANY = {  # setting -> values, the everyday one first
    "fills.mode": MODES, "fills.entry_offset_ticks": (0, 1, 3), "fills.limit_valid_s": (10., 0., 1., 600.),
    "costs.commission_usd": (.2, 0., 1.25), "costs.fees_usd": (.22, 0.), "costs.slippage": ("liquidity", "fixed", "atr"), "costs.normal_ticks": (1, 0, 3),
    "costs.thin_ticks": (2, 0), "costs.volatile_atr_ticks": (8., 1.), "costs.stale_s": (60., 0., 1.), "costs.stale_ticks": (4, 0),
    "risk.day_loss_usd": (1e5, 5., 12.5, 25.), "risk.day_drawdown_usd": (1e5, 5., 12.5, 25.), "risk.total_loss_usd": (1e5, 12.5, 40.), "risk.review_drawdown_usd": (1e5, 12.5, 40.),
    "risk.trailing_loss_usd": (0., 12.5, 25.), "risk.profit_target_usd": (0., 5., 12.5), "risk.day_profit_usd": (0., 5., 12.5), "risk.trade_risk_usd": (1000., 25., 60.),
    "risk.trade_risk_share": (0., .01), "risk.loss_streak": (10_000, 1, 2), "risk.pause_min": (30., 0., .1, 1440.), "risk.reduce_after_losses": (0, 1, 2),
    "risk.reduce_within_min": (60., 0., .5), "risk.reduce_share": (.5, 0.), "risk.max_contracts": (1000, 1, 2), "risk.calm_atr_ticks": (0., 2.),
    "risk.spike_atr_ticks": (0., 1., 3.), "risk.spike_pause_min": (5., 0., .1), "risk.max_spread_ticks": (0, 1, 2), "risk.stale_data_s": (0., 1., 30.),
    "risk.min_volume_a_minute": (0., 60., 400.), "risk.market_pause_s": (0., 5.), "risk.news_before_min": (0., 2.), "risk.news_after_min": (0., 5.),
    "risk.signals_an_hour": ((0, 0, 0), (1, 1, 2), (2, 3, 20)), "risk.confidence_factors": ((.5, 1., 1.5), (1., 1., 3.)),
    "stops.kind": ("fixed", "atr", "structure", "volatility"), "stops.stop_ticks": (8, 1, 2, 4, 20), "stops.target_ticks": (12, 1, 2, 6, 40),
    "stops.levels": ((), (1,), (2, 4), (1, 3, 5)), "stops.break_even": (True, False), "stops.trail_ticks": (0, 1, 3),
    "stops.trail_atr": (0., .5, 2.), "stops.accelerate": (0., .02, 1.),
    "stops.accelerate_max": (.2, 1.), "stops.max_hold_s": (60, 1, 2, 31, 61, 600, 86_400), "stops.tighten_share": (.25, 0., .5, 1.), "stops.close_min": (10., 0., .5, 60.),
    "stops.close_tighten_share": (.5, 0., 1.), "stops.stall_s": (0, 1, 5, 30), "stops.swing_s": (60, 1, 5), "stops.swing_ticks": (1, 0),
    "stops.min_stop_ticks": (4, 1), "stops.max_stop_ticks": (16, 100),
    "trader.min_confidence": (.6, .7), "trader.hours": ("ALL", "RTH", "ETH"), "trader.cooldown_s": (0., .5, 5.),
    "trader.latency_s": (0., .5, 1., 1.5, 5., 60.), "trader.entry_valid_s": (300., 0., 1.),
    "trader.exit_on_opposite": (True, False), "trader.reverse": (False, True), "trader.reversal_cooldown_s": (0., 30.), "trader.max_reversals": (1000, 0, 1, 2)}
LOOSE = with_settings(load_config(), {name: values[0] for name, values in ANY.items() if name != "stops.levels"} | {"risk.start_balance_usd": 6000., "risk.min_balance_usd": 0.})


def config_with(chosen):
    "The loose settings with some changed; `stops.levels` stands for ticks and shares, of those below the target."
    chosen = dict(chosen)
    levels = [ticks for ticks in chosen.pop("stops.levels", ()) if ticks < chosen.get("stops.target_ticks", 12)]
    return with_settings(LOOSE, chosen | {"stops.level_ticks": levels, "stops.level_shares": [.5, .3, .1][:len(levels)]})


@st.composite
def some_settings(draw, most=12, names=tuple(ANY)):
    return {name: draw(st.sampled_from(ANY[name][1:])) for name in draw(st.lists(st.sampled_from(names), unique=True, max_size=most))}


GAPS = np.array([1, 2, 5, 15, 30, 60, 300, 600])
STYLES = [(.5, .2, .1, .1, .05, .03, .01, .01), (1, 0, 0, 0, 0, 0, 0, 0), (.1, .1, .1, .2, .2, .2, .05, .05), (.9, 0, 0, 0, .05, 0, .03, .02)]


class Case:
    "Bars, predictions and quotes from one number."
    def __init__(self, seed, sessions=3, most=60, gapless=False):
        rng = np.random.default_rng(seed)
        days = [DAYS[k] for k in sorted(rng.choice(len(DAYS), min(sessions, len(DAYS)), replace=False))]
        ts = []
        for date, first, end in days:
            own = ns(first, date) + (np.cumsum(rng.choice(GAPS, int(rng.integers(2, most)), p=STYLES[rng.integers(len(STYLES))])) - 1) * SECOND
            ts.append(own[own < ns(end, date)])
        self.ts = ts = np.concatenate(ts)
        n, reach, jumps = len(ts), int(rng.choice([1, 1, 2, 4])), rng.choice([0, .03])
        self.close = close = 5000 + rng.integers(-reach, reach + 1, n).cumsum() + ((rng.random(n) < jumps) * rng.integers(-40, 41, n)).cumsum()
        before = np.r_[close[:1], close[:-1]]
        self.open = open = before if gapless else np.where(rng.random(n) < .6, before, close) + rng.integers(-reach, reach + 1, n)
        wide = np.where(rng.random(n) < rng.choice([0, .1]), 12, int(rng.integers(1, 4)))
        self.high, self.low = np.maximum(open, close) + rng.integers(0, wide), np.minimum(open, close) - rng.integers(0, wide)
        self.volume = rng.integers(1, 60, n)
        self.bid = np.minimum(before, open) - rng.integers(0, 2, n)
        self.ask = np.maximum(self.bid + rng.integers(0, 4, n), np.maximum(before, open))
        sure = rng.choice([.6, .65, .7, .75, .8, .85, .7], n)
        up, down = np.c_[.1 * (1 - sure), .9 * (1 - sure), sure], np.c_[sure, .9 * (1 - sure), .1 * (1 - sure)]
        often = [(.3, .3, .3, .1), (.05, .05, .85, .05), (.2, .02, .78, 0), (.02, .2, .58, .2)][rng.integers(4)]
        self.probability = np.choose(rng.choice(4, n, p=often)[:, None], [up, down, np.tile(FLAT, (n, 1)), np.tile(NONE, (n, 1))]).astype(np.float32)
        self.volatility = np.where(rng.random(n) < .1, np.nan, rng.exponential(4, n)).astype(np.float32)
        self.quoted = bool(rng.random() < .4)

    def run(self, config, a=0, b=None, state=None, finish=True):
        "What rows `a` to `b` - 1 leave behind, as numbers."
        bars, says, quotes = self.inputs(a, b)
        market, rules = market_of(bars, says, config, quotes), rules_of(config, MES)
        state = new_state(config.risk.start_balance_usd) if state is None else state
        done = run_sessions(market, state, rules, finish)
        return SimpleNamespace(**done._asdict(), equity=equity_curve(done, state, bars.close, rules), state=state, dates=market.info["date"])

    def inputs(self, a=0, b=None):
        "Rows `a` to `b` - 1 as bars, prediction and quotes."
        at = slice(a, b)
        bars = make_bars(*(column[at] for column in (self.ts, self.open, self.high, self.low, self.close, self.volume)))
        quotes = Quotes(self.bid[at].astype(np.int32), self.ask[at].astype(np.int32)) if self.quoted else None
        return bars, Prediction(self.probability[at], self.volatility[at], self.volatility[at]), quotes

    def mirrored(self, around=5000):
        "The same case upside down."
        other = object.__new__(Case)
        of = {"open": "open", "close": "close", "high": "low", "low": "high", "bid": "ask", "ask": "bid"}
        other.__dict__ |= self.__dict__ | {name: 2 * around - getattr(self, of[name]) for name in of}
        other.probability = np.ascontiguousarray(self.probability[:, ::-1])
        return other


cases = st.builds(Case, st.integers(0, 2**32 - 1), st.sampled_from([1, 2, 4]), st.sampled_from([20, 80, 250]))
some = settings(max_examples=150, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))


# The quick walk is the full step ---------------------------------------------------------------------------------------------------------

@kernel
def every_bar(state, columns, day, trades, equity, seen, refusals, rules, over):
    "The full step on each bar of a session; `seen` (n, 4) is side, contracts, position and stop after each."
    open_day(state, day, rules.risk)
    for i in range(len(columns.ts)):
        foretold = np.float64(columns.volatility[i]) if len(columns.volatility) > 0 else np.nan
        bar_step(state, bar_at(columns, i), Says(np.float64(columns.probability[i, 0]), np.float64(columns.probability[i, 2]), foretold), day, trades, refusals, rules)
        equity[i] = state.equity
        seen[i, 0], seen[i, 1], seen[i, 2], seen[i, 3] = state.side, state.contracts, state.position, state.stop
    if over:
        end_session(state, trades, rules)
        equity[len(columns.ts) - 1] = state.equity


def step_by_step(market, state, rules, finish=True):
    "Lots, equity, what was seen after each bar, refusals and what each session gained, by the full step."
    m, n = len(market.schedule), len(market.columns.ts)
    equity, seen, refusals, daily, room = np.zeros(n), np.zeros((n, 4), np.int64), np.zeros(len(REASONS), np.int64), np.zeros(m), np.zeros(8 * n + 8, TRADE)
    state.trades = 0
    for k in range(m):
        at, before = slice(market.pointers[k], market.pointers[k + 1]), state.balance
        every_bar(state, *market.session(k), room, equity[at], seen[at], refusals, rules, finish or k < m - 1)
        daily[k] = state.balance - before
    return room[:state.trades], equity, seen, refusals, daily


def same_by_both(case, config, end=None, finish=True):
    bars, says, quotes = case.inputs(0, end)
    market, rules = market_of(bars, says, config, quotes), rules_of(config, MES)
    quick, full = new_state(config.risk.start_balance_usd), new_state(config.risk.start_balance_usd)
    done = run_sessions(market, quick, rules, finish)
    lots, equity, seen, refusals, daily = step_by_step(market, full, rules, finish)
    assert done.lots.tobytes() == lots.tobytes()
    np.testing.assert_array_equal(done.refusals, refusals)
    np.testing.assert_array_equal(equity_curve(done, quick, bars.close, rules), equity)
    np.testing.assert_array_equal(done.daily, daily)
    for name in STATE.names:
        if name != "trades": np.testing.assert_array_equal(quick[name], full[name], name)  # `trades` counts the rows of the room at hand
    return done


@pytest.mark.parametrize("mode", MODES)
@settings(some, max_examples=60)
@given(cases, some_settings())
def test_the_quick_walk_is_the_full_step(mode, case, chosen):
    "BT-1: lots, refusals, equity, days and the final record, to the last bit, whatever rules are on."
    same_by_both(case, config_with(chosen | {"fills.mode": mode}))


LIMITS = [(f"risk.{name}_usd", limit) for limit in (5., 12.5, 25.)
          for name in ("day_loss", "day_drawdown", "total_loss", "review_drawdown", "trailing_loss", "day_profit", "profit_target")]
PATIENT = {"stops.stop_ticks": 60, "stops.target_ticks": 90, "stops.max_hold_s": 86_400, "trader.exit_on_opposite": False, "stops.close_min": 60.}


@settings(some, max_examples=120)
@given(cases, some_settings(most=4, names=("risk.spike_atr_ticks", "risk.max_contracts", "stops.tighten_share", "stops.max_hold_s", "stops.stall_s", "stops.trail_ticks",
                                           "stops.close_tighten_share", "stops.levels", "risk.min_volume_a_minute", "stops.kind", "fills.mode", "trader.latency_s",
                                           "costs.commission_usd", "costs.fees_usd")),
       st.lists(st.sampled_from(LIMITS), max_size=2))
def test_the_quick_walk_is_the_full_step_for_long_positions(case, chosen, limits):
    "BT-1: the same with a stop so far away that it is a limit or a clock that ends the position, to the cent and the second."
    same_by_both(case, config_with(PATIENT | dict(limits) | chosen))


PASSED = {"stops.trail_ticks": (2, 1), "stops.tighten_share": (1.,), "stops.close_tighten_share": (1.,), "stops.close_min": (60.,), "stops.accelerate": (1.,), "stops.accelerate_max": (1.,),
          "stops.trail_atr": (.5,), "stops.levels": ((1,),), "stops.max_hold_s": (2, 31, 61), "stops.stop_ticks": (4, 20), "stops.stall_s": (5,), "trader.latency_s": (1., 5.), "trader.reverse": (True,)}


@pytest.mark.parametrize("mode", MODES)
@settings(some, max_examples=60)
@given(cases, st.fixed_dictionaries({}, optional={name: st.sampled_from(values) for name, values in PASSED.items()}))
def test_the_quick_walk_is_the_full_step_where_stops_are_passed(mode, case, chosen):
    "BT-1, RSK-3: the same with stops so near that a close often passes them."
    same_by_both(case, config_with({"stops.trail_ticks": 2} | chosen | {"fills.mode": mode}))


def test_the_record_is_the_same_at_every_close_around_a_passed_stop():
    "BT-1, RSK-3: one signal, a rise, a bar that passes the trail, and 3 s until the order arrives: what the quick walk took back, of an accelerating stop too, is gone from the record."
    rows = [QUIET] * 6 + [(5000, 5002, 5000, 5002), (5002, 5004, 5002, 5003), (5003, 5009, 5003, 5004)] + [(5004,) * 4] * 6
    case = object.__new__(Case)
    case.ts, case.volume, case.quoted, case.volatility = ns("10:00:00") + np.arange(len(rows)) * SECOND, np.ones(len(rows), int), False, np.ones(len(rows), np.float32)
    case.bid = case.ask = np.zeros(len(rows), int)
    case.open, case.high, case.low, case.close = np.array(rows).T
    case.probability = np.array([UP] + [FLAT] * (len(rows) - 1), np.float32)
    config, waiting = config_with({"stops.accelerate": .05, "stops.accelerate_max": .5, "stops.trail_ticks": 3, "stops.stop_ticks": 20, "stops.target_ticks": 40, "trader.latency_s": 3.}), 0
    for own in (case, case.mirrored()):
        for end in range(2, len(rows) + 1):
            same_by_both(own, config, end, finish=False)
            state = own.run(config, 0, end, finish=False).state
            waiting += state.side != 0 and state.intent_reason == Reason.STOP
    assert waiting == 8   # long and short: after the bar that passed the stop, and after the three before the order arrives


@pytest.mark.parametrize("mode", MODES)
def test_stops_are_passed_often_enough_for_that(mode):
    "RSK-3: many a position leaves by reason of its stop in a bar that never came near the one that rested."
    passed = 0
    for seed in range(12):
        case = Case(seed, 2, 250)
        lots = same_by_both(case, config_with({"stops.trail_ticks": 1 + seed % 2, "stops.tighten_share": 1., "stops.stop_ticks": 20, "fills.mode": mode})).lots
        out = lots[lots["reason_out"] == Reason.STOP]
        low = np.where(out["side"] > 0, case.low[out["exit_bar"]], -case.high[out["exit_bar"]])
        passed += int((low > out["side"] * out["stop"]).sum())
    assert passed > 50, passed


def test_the_quick_walk_is_the_full_step_where_nobody_wakes_for_long():
    "BT-1: thousands of bars, wakes hundreds of them apart, a long silence; what the market was like goes on from block to block, for a stop by structure, a pulse of the volume and a brake on spikes."
    lots, refused = 0, np.zeros(len(REASONS), np.int64)
    for seed in range(24):
        case, rng = Case(seed, 2, 6000), np.random.default_rng(seed)
        n = len(case.ts)
        case.probability[rng.random(n) > .03] = FLAT
        case.probability[n // 3:n // 2] = NONE
        done = same_by_both(case, config_with({"stops.kind": "structure", "stops.swing_s": (60, 5, 300)[seed % 3], "stops.max_stop_ticks": 100, "risk.min_volume_a_minute": 100., "risk.spike_atr_ticks": 5.,
                                               "risk.start_balance_usd": 1e5, "trader.exit_on_opposite": False, "fills.mode": MODES[seed % 3]}))
        lots, refused = lots + len(done.lots), refused + done.refusals
    assert lots > 80 and refused[Reason.VOLATILITY_SPIKE] > 3 and refused[Reason.LOW_LIQUIDITY] > 3 and refused[Reason.NO_PREDICTION] > 3000, (lots, refused)


def test_more_lots_than_the_room_for_them():
    "BT-1: the log is handed over in rooms of 1024 lots, in the middle of a session too."
    n = 5000
    ts = np.concatenate([ns("10:00:00", date) + np.arange(n // 2) * SECOND for date in ("2024-01-03", "2024-01-04")])
    case = object.__new__(Case)
    case.ts, case.volume, case.quoted, case.volatility = ts, np.ones(n, int), False, np.ones(n, np.float32)
    case.open = case.close = case.high = case.low = 5000 + np.arange(n) % 3
    case.probability = np.tile(np.array([UP, DOWN], np.float32), (n // 2, 1))
    done = same_by_both(case, config_with({"risk.start_balance_usd": 1e6}))
    assert len(done.lots) > 2100 and (np.diff(done.lots["entry_bar"]) > 0).all()


# A restored record goes on as if nothing had happened ------------------------------------------------------------------------------------

def copy_of(state):
    "The record from its bytes, as a restart reads it."
    return np.frombuffer(state.tobytes(), STATE).copy().view(np.recarray)[0]


def resumed(case, config, share):
    "Cut at a share of the rows, keep the bytes of the record, go on with the rest."
    edges = market_of(*case.inputs()[:2], config).pointers[1:-1]   # every third cut is between two sessions
    cut, whole = 1 + int(share * (len(case.ts) - 2)), case.run(config)
    if len(edges) and len(case.ts) % 3 == 0: cut = int(edges[int(share * (len(edges) - 1))])
    first = case.run(config, 0, cut, finish=False)
    rest = case.run(config, cut, None, copy_of(first.state))
    assert np.concatenate([first.lots, rest.lots]).tobytes() == whole.lots.tobytes()
    np.testing.assert_array_equal(first.refusals + rest.refusals, whole.refusals)
    np.testing.assert_allclose(first.daily.sum() + rest.late_usd + rest.daily.sum(), whole.daily.sum(), rtol=0, atol=1e-9)
    equity, night = np.r_[first.equity, rest.equity], first.state.side != 0 and first.dates[-1] != rest.dates[0]
    if night: equity[cut - 1] = whole.equity[cut - 1]   # cut after the last bar of a session: the first part does not know that it is over, and still holds its position
    else:
        days = pd.concat([pd.Series(part.daily, part.dates) for part in (first, rest)]).groupby(level=0).sum()
        np.testing.assert_allclose(days.reindex(whole.dates), whole.daily, rtol=0, atol=1e-9)
    np.testing.assert_array_equal(equity, whole.equity)
    for name in STATE.names:
        if name != "trades": np.testing.assert_array_equal(rest.state[name], whole.state[name], name)  # rows of the log at hand: each part has its own


@some
@given(cases, some_settings(), st.floats(0, 1))
def test_a_restored_record_gives_the_same_trades(case, chosen, share):
    "BT-1, LIV-4: cut at any bar, on with the bytes of the record: trades, days, equity, refusals and the final record are those of one run."
    resumed(case, config_with(chosen), share)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("cut", [2, 3, 5, 6, 7])
def test_the_door_restores_too(mode, cut):
    "BT-1: `backtest` in two parts, with an order on its way (2, 3), in a position (5), between days (6), after the first bar of a day (7): the same trade log."
    rows = [(5000,) * 4, (5000,) * 4, (5001,) * 4, (5001, 5002, 4999, 5001), (5003,) * 4, (5002,) * 4]
    o, h, l, c = np.array(rows * 2).T
    ts = np.concatenate([ns("10:00:00", date) + np.arange(6) * SECOND for date in ("2024-01-03", "2024-01-04")])
    says, config = np.array([FLAT, UP, FLAT, FLAT, FLAT, FLAT] * 2), load_config(fills={"mode": mode}, trader={"cooldown_s": 0, "latency_s": 1})
    def part(a, b, **more):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            return backtest(make_bars(ts[a:b], o[a:b], h[a:b], l[a:b], c[a:b], np.ones(b - a, int)), says[a:b], config, **more)
    whole, first = part(0, 12), part(0, cut, finish=False)
    rest = part(cut, 12, state=copy_of(first.state))
    assert len(whole.trades) == 2
    pd.testing.assert_frame_equal(pd.concat([first.trades, rest.trades], ignore_index=True), whole.trades)
    np.testing.assert_array_equal(np.r_[first.equity, rest.equity][cut:], whole.equity[cut:])
    np.testing.assert_allclose(pd.concat([first.daily, rest.daily]).groupby(level=0).sum(), whole.daily)


# What no bars and no predictions can break -----------------------------------------------------------------------------------------------

def walked(case, config):
    "Market, lots, equity and what was seen after each bar, by the full step."
    market = market_of(*case.inputs()[:2], config, case.inputs()[2])
    return market, *step_by_step(market, new_state(config.risk.start_balance_usd), rules_of(config, MES))[:3]


def positions(lots):
    "First lot of each position, and how many contracts it began with."
    first = np.flatnonzero(np.diff(lots["position"], prepend=0))
    return lots[first], np.add.reduceat(lots["contracts"], first) if len(lots) else np.zeros(0, int)


def check_books(case, config):
    done, fee, start = case.run(config), config.costs.commission_usd + config.costs.fees_usd, config.risk.start_balance_usd
    lots = done.lots
    np.testing.assert_allclose([done.equity[-1], done.state.balance, start + done.daily.sum()], start + lots["net_usd"].sum(), rtol=0, atol=1e-6)
    np.testing.assert_allclose(lots["fees_usd"], 2 * fee * lots["contracts"], rtol=0, atol=1e-9)
    np.testing.assert_allclose(lots["gross_usd"], lots["side"] * lots["contracts"] * (lots["exit"] - lots["entry"]) * 1.25, rtol=0, atol=1e-9)
    np.testing.assert_allclose(lots["net_usd"], lots["gross_usd"] - lots["fees_usd"], rtol=0, atol=1e-9)
    assert (lots["optimistic_usd"] >= lots["net_usd"] - 1e-9).all() and ((lots["ambiguous"] > 0) | (lots["optimistic_usd"] == lots["net_usd"])).all()
    assert (np.diff(lots["position"]) >= 0).all() and (lots["mae_ticks"] >= 0).all() and (lots["mfe_ticks"] >= 0).all()


@some
@given(cases, some_settings())
def test_the_books_add_up(case, chosen):
    "RSK-1, BT-2: equity is start + sum of net, fees are 2 x side x contracts, and the worse reading of a bar is never better than the kinder one."
    check_books(case, config_with(chosen))


@some
@given(st.sampled_from([1, -1]), st.lists(st.tuples(st.integers(1, 7), st.integers(4990, 5010), st.integers(0, 3)), min_size=1, max_size=6), st.data())
def test_an_entry_in_parts_is_right_to_the_cent(side, fills, data):
    """LIV-4: however an entry fills, in whatever lots it leaves, and whenever between: the account is what the prices and fees say, the position's net too, the bracket stays where
    the first fill put it, and the entry is the average of what is held and of what comes, to the nearest tick, halves to the worse."""
    rules, trades, state, paid = rules_of(load_config(), MES), np.zeros(20, TRADE), new_state(1000.), 0.
    for k, (contracts, price, slip) in enumerate(fills):
        held, entry, before, contracts = int(state.contracts), int(state.entry), state.copy(), contracts + (k == 0)   # the first part is never gone before the last has come
        if k == 0:
            state.intent_contracts, state.intent_stop, state.intent_reason = contracts, 8, Reason.SIGNAL
            enter(state, side, price, slip, 7, rules)
        else:
            add(state, contracts, price, slip, rules)
            average = Fraction(held * entry + contracts * price, held + contracts)
            assert state.entry == side * math.floor(side * average + Fraction(1, 2)) and abs(state.entry - average) <= Fraction(1, 2)
            for name in ("stop", "target", "first_stop", "position", "entry_ts", "side", "levels", "best_ts"): assert state[name] == before[name], name
            assert state.contracts == held + contracts and state.first_contracts == before.first_contracts + contracts
            assert state.entry + side * state.parabolic == before.entry + side * before.parabolic   # where the accelerating stop is
            assert min(before.entry_slippage, slip) <= state.entry_slippage <= max(before.entry_slippage, slip)
        paid += -side * contracts * price * 1.25 - contracts * .42
        assert side * (state.entry - state.worst) >= 0 and side * (state.best - state.entry) >= 0
        np.testing.assert_allclose(state.balance, 1000 + paid + side * state.contracts * state.entry * 1.25, rtol=0, atol=1e-6)
        gone = data.draw(st.integers(0, int(state.contracts) - 1))
        if gone:
            out = data.draw(st.integers(4980, 5020))
            leave(state, gone, out, 1, Reason.LEVEL, 8, 0, 0, trades, rules)
            paid += side * gone * out * 1.25 - gone * .42
    last, net = int(state.contracts), float(state.position_usd)
    leave(state, last, 5003, 1, Reason.TARGET, 9, 0, 0, trades, rules)
    np.testing.assert_allclose(state.balance, 1000 + paid + side * last * 5003 * 1.25 - last * .42, rtol=0, atol=1e-6)
    np.testing.assert_allclose(net + trades[state.trades - 1]["net_usd"], state.balance - 1000, rtol=0, atol=1e-6)
    assert state.side == 0 and (state.loss_streak == 1) == (state.balance - 1000 < -1e-9)


def check_stops(case, config):
    market, lots, equity, seen = walked(case, config)
    side, contracts, position, stop = seen.T
    same = (position[1:] == position[:-1]) & (side[1:] != 0) & (side[:-1] != 0)
    assert (side[1:] * np.diff(stop))[same].min(initial=0) >= 0 and np.diff(contracts)[same].max(initial=0) <= 0
    fresh = np.flatnonzero((side != 0) & (np.diff(position, prepend=0) != 0))   # first seen at the close of the entry bar
    entry = dict(zip(lots["position"], lots["entry"]))
    wide = np.array([side[i] * (entry[position[i]] - stop[i]) for i in fresh])
    assert wide.max(initial=0) <= (config.stops.stop_ticks if config.stops.kind == "fixed" else max(config.stops.max_stop_ticks, config.stops.stop_ticks))


@some
@given(cases, some_settings())
def test_a_stop_never_loosens_and_a_position_never_grows(case, chosen):
    "RSK-3: from one close to the next the stop of a position only comes nearer, and its contracts only leave."
    check_stops(case, config_with(chosen))


def check_size(case, config):
    r, costs = config.risk, config.costs
    market, lots, equity, seen = walked(case, config)
    for lot, size in zip(*positions(lots)):
        assert 1 <= size <= r.max_contracts
        width = {"fixed": config.stops.stop_ticks}.get(config.stops.kind, config.stops.min_stop_ticks)
        risk = size * ((width + costs.normal_ticks) * 1.25 + 2 * (costs.commission_usd + costs.fees_usd))
        assert risk <= r.trade_risk_usd + 1e-9
        if lot["reason_in"] != Reason.SIGNAL: continue           # at a reversal's decision the balance is not the equity
        balance = equity[lot["row"]]
        if r.trade_risk_share > 0: assert risk <= r.trade_risk_share * balance + 1e-9
        tier = r.tier_contracts[sum(balance > edge for edge in r.tier_usd)]
        factor = r.confidence_factors[int(lot["confidence"] > r.confidence_steps[1] + 1e-6) + int(lot["confidence"] >= r.confidence_steps[0] - 1e-6)]
        day = market.schedule[np.searchsorted(market.pointers, lot["row"], "right") - 1]
        now = market.columns.ts[lot["row"]] + SECOND
        half = now >= day["half_size"] or not day["rth_open"] <= now < day["rth_close"]
        assert size <= max(1, int(tier * factor * (.5 if half else 1)))


@some
@given(cases, some_settings(), st.sampled_from(["liquidity", "fixed"]), st.sampled_from([2000., 3000., 9000.]))
def test_a_size_is_never_over_any_limit(case, chosen, slippage, balance):
    "RSK-2: at most `max_contracts`, the tier of the balance by confidence and hour, and what a trade may lose with both fees and the least slippage."
    check_size(case, config_with(chosen | {"costs.slippage": slippage, "costs.thin_ticks": 3, "risk.start_balance_usd": balance}))


CALM = tuple(name for name in ANY if name.split(".")[0] in ("stops", "trader", "fills") and name not in ("trader.latency_s", "stops.stop_ticks", "stops.min_stop_ticks"))


def check_day_loss(case, config):
    r, costs = config.risk, config.costs
    market, lots, equity, seen = walked(case, config)
    size = positions(lots)[1].max(initial=0)
    leaving = size * (costs.normal_ticks * 1.25 + costs.commission_usd + costs.fees_usd) if config.trader.reverse else 0.
    before = np.r_[r.start_balance_usd, equity[market.pointers[1:-1] - 1]]
    assert (equity[market.pointers[1:] - 1] - before).min() > -(r.day_loss_usd + r.trade_risk_usd + leaving) - 1e-6


@some
@given(st.builds(Case, st.integers(0, 2**32 - 1), st.just(3), st.just(250), st.just(True)), some_settings(names=CALM, most=8), st.sampled_from([5., 12.5, 25., 50.]),
       st.sampled_from([15., 40.]), st.sampled_from([0, 1]), st.sampled_from([2, 4, 8]))
def test_a_day_never_loses_more_than_its_limit_and_one_stop(case, chosen, limit, risk, slip, stop):
    """RSK-1: where each bar opens at the close before it, without quotes and latency, with a fixed slippage of at most the stop: a day loses less than
    the day's limit + what one trade may lose (stop + slippage and both fees of all contracts) + where positions are reversed, slippage and fee of leaving the old one."""
    case.quoted = False
    check_day_loss(case, config_with(chosen | {"risk.day_loss_usd": limit, "risk.trade_risk_usd": risk, "costs.slippage": "fixed", "costs.normal_ticks": slip,
                                               "costs.stale_s": 86_400.,
                                               "stops.stop_ticks": stop, "stops.min_stop_ticks": 2, "risk.tier_contracts": [1, 2, 2, 2]}))


def check_latches(case, config):
    "No entry is decided at or after the close that latches, or fills after it, in all sessions and with the record restored."
    r, start = config.risk, config.risk.start_balance_usd
    market, lots, equity, seen = walked(case, config)
    hit = (start - equity >= r.total_loss_usd) | (np.maximum.accumulate(np.r_[start, equity])[1:] - equity >= r.review_drawdown_usd)
    first = min([len(equity), *np.flatnonzero(hit)[:1]])
    own = config.fills.mode == "signal_close"   # there the fee of an entry can be what hits the limit, at the close that decided it
    assert lots["entry_bar"].max(initial=-1) <= first and lots["row"].max(initial=-1) < first + own
    if first == len(equity): return
    state = case.run(config).state
    assert state.killed or state.review
    later = Case(5, 1, 250)
    later.ts = ns("10:00:00", "2025-01-08") + np.arange(len(later.ts)) * SECOND
    again = later.run(config, state=copy_of(state))
    assert len(again.lots) == 0 and (again.state.killed, again.state.review) == (state.killed, state.review)


@some
@given(cases, some_settings(most=8), st.sampled_from([5., 12.5, 40.]), st.sampled_from(["risk.total_loss_usd", "risk.review_drawdown_usd"]))
def test_kill_and_review_latch_for_ever(case, chosen, limit, which):
    "RSK-1: from the close that hits the limit on no position begins, in this session, in the next ones, and after the record was restored."
    check_latches(case, config_with(chosen | {which: limit}))


def check_mirror(case, config):
    "Everything about the lots but side and prices is the same."
    runs = []
    for one in (case, case.mirrored()):
        market = market_of(*one.inputs()[:2], config, one.inputs()[2])
        runs.append(run_sessions(market, new_state(config.risk.start_balance_usd), rules_of(config, MES)))
    up, down = runs
    np.testing.assert_array_equal(up.refusals, down.refusals)
    assert len(up.lots) == len(down.lots)
    for name in TRADE.names:
        want = -down.lots[name] if name == "side" else 10_000 - down.lots[name] if name in ("entry", "exit", "stop", "target") else down.lots[name]
        np.testing.assert_allclose(up.lots[name], want, rtol=0, atol=1e-9 if name == "optimistic_usd" else 0, err_msg=name)


@some
@given(cases, some_settings())
def test_mirrored_prices_give_mirrored_trades(case, chosen):
    "BT-1: long and short are one rule, for every kind of stop, every fill mode, reversals, and quotes."
    check_mirror(case, config_with(chosen))


def check_future(case, config, share=.5):
    cut = 1 + int(share * (len(case.ts) - 1))
    whole, part = case.run(config), case.run(config, 0, cut, finish=False)
    assert part.lots.tobytes() == whole.lots[:len(part.lots)].tobytes()
    later = whole.lots[len(part.lots):]
    assert ((later["exit_bar"] >= cut) | ((later["exit_bar"] == cut - 1) & (later["reason_out"] == Reason.DATA_END))).all()   # the cut does not know that its session was over
    np.testing.assert_array_equal(part.equity[:-1], whole.equity[:cut - 1])


@some
@given(cases, some_settings(), st.floats(0, 1))
def test_cutting_the_future_changes_nothing_before_the_cut(case, chosen, share):
    "BT-1: lots that were closed and the account at each close know only the bars up to then."
    check_future(case, config_with(chosen), share)


def check_timing(case, config):
    market, lots, equity, seen = walked(case, config)
    ts, late = market.columns.ts, round(config.trader.latency_s * SECOND)
    if config.fills.mode == "signal_close": assert (lots["entry_bar"] == lots["row"]).all()
    else:
        assert (lots["entry_bar"] > lots["row"]).all() and (lots["entry_ns"] == ts[lots["entry_bar"]]).all()
        assert (lots["entry_ns"] >= ts[lots["row"]] + SECOND + late).all()
    assert (lots["exit_bar"] >= lots["entry_bar"]).all() and (lots["exit_ns"] >= lots["entry_ns"]).all()
    k = np.searchsorted(market.pointers, lots["entry_bar"], "right") - 1
    day = market.schedule[k]
    assert (lots["entry_ns"] < day["last_entry"]).all() and (lots["exit_ns"] <= day["flat"]).all() and (lots["exit_bar"] < market.pointers[k + 1]).all()


@some
@given(cases, some_settings())
def test_a_decision_never_fills_on_its_own_bar(case, chosen):
    "BT-1, RSK-7, LIV-4: the fill is on a later bar and after the latency, except in signal_close; before the last entry, out by the flat time, in its own session."
    check_timing(case, config_with(chosen))


def test_three_modes_fill_differently():
    "BT-1: one signal on one example: the next open and a tick, the close where nobody can trade, the limit at its price once traded through."
    bars = [QUIET, (5002, 5003, 4999, 5001), (5001,) * 4, (5003,) * 4]
    fills = {mode: filled(bars, [UP, FLAT, FLAT, FLAT], fills={"mode": mode})[0] for mode in MODES}
    assert {mode: (lot["entry"], lot["entry_bar"], lot["exit"], round(lot["net_usd"], 2)) for mode, lot in fills.items()} == {
        "next_open": (5003, 1, 5002, -2.09), "price_touch": (5000, 1, 5002, 1.66), "signal_close": (5000, 0, 5002, 1.66)}


# Every session of ten years --------------------------------------------------------------------------------------------------------------

SESSIONS = session_table("2018-01-01", "2027-12-31")
WHEN = [  # seconds of the prints after the entry, from (clock, seconds): around the exit, and none for minutes
    [("exit", -1), ("exit", 0), ("flat", 0), ("flat", 60)], [("exit", -1), ("flat", 0), ("flat", 1)], [("flat", 600), ("flat", 601)], [],
    [("exit", -1), ("exit", 30), ("flat", 300)], [("flat", -1), ("flat", 0)], [("flat", 1)], [("exit", -600), ("flat", 700)]]
GAP = (0, 20, -20, 3)  # where the first print at or after the exit opens, ticks: also far beyond target, level and stop


def ten_years(config, turn):
    "Six sparse bars in every session: a signal 6 s before the last entry, a fill in the last second before it, then what `WHEN` says; bars and predictions."
    day, rows, says = day_schedule(SESSIONS, config), [], []
    for k in range(len(SESSIONS)):
        up = (k + turn) % 2 == 0
        sign, jump = 1 if up else -1, GAP[(k // 2 + turn) % len(GAP)]
        rows.append((day["last_entry"][k] - 6 * SECOND, 5000, 5000, 5000, 5000))
        rows.append((day["last_entry"][k] - SECOND, 5000, 5001, 4999, 5000))
        for clock, seconds in WHEN[(k + turn) % len(WHEN)]:
            price = 5000 + sign * jump if clock == "flat" or seconds >= 0 else 5000
            rows.append((day[clock][k] + seconds * SECOND, price, price, price, price))
        says += [UP if up else DOWN] + [FLAT] * (len(WHEN[(k + turn) % len(WHEN)]) + 1)
    ts, o, h, l, c = np.array(rows).T
    return make_bars(ts, o, h, l, c, np.ones(len(ts), int)), np.array(says)


@pytest.mark.parametrize("mode,latency,levels", [("next_open", 0., ()), ("next_open", 4., (5,)), ("price_touch", 0., ()), ("signal_close", 0., (3, 6))])
@pytest.mark.parametrize("preset,minutes", [("default", 30), ("topstepx-2026", 55)])
def test_no_session_of_ten_years_ends_with_a_position(preset, minutes, mode, latency, levels):
    "RSK-7: in every session of 2018 to 2027 there was a position before the exit, and none after the flat time: 30 (55) minutes before the session closes, early closes too."
    rich = {f"risk.{name}_usd": 1e6 for name in ("start_balance", "day_loss", "day_drawdown", "total_loss", "review_drawdown")} | {
        "risk.min_balance_usd": 0., "risk.trade_risk_usd": 1e3, "risk.loss_streak": 10_000}
    held = {"trader.hours": "ALL", "trader.cooldown_s": 0., "trader.latency_s": latency, "stops.max_hold_s": 86_400, "stops.close_min": 0.}
    config = with_settings(load_config(preset=preset), rich | held | {"fills.mode": mode, "stops.level_ticks": levels, "stops.level_shares": (.5,) * len(levels)})
    flat = SESSIONS["close"] - minutes * 60 * SECOND
    for turn in range(0, 16, 3):
        market = market_of(*ten_years(config, turn), config)
        lots = run_sessions(market, new_state(1e6), rules_of(config, MES)).lots
        k = np.searchsorted(SESSIONS["close"], lots["entry_ns"])
        assert (np.unique(k) == np.flatnonzero(SESSIONS["known"])).all()   # a trade in every session that the calendar vouches for
        assert (lots["exit_ns"] <= flat[k]).all() and (lots["exit_ns"] > SESSIONS["open"][k]).all()
    assert len(SESSIONS) > 2500


# Worked by hand --------------------------------------------------------------------------------------------------------------------------
# One contract, tick $1.25, $0.42 a side, slippage of one tick in and one out, stop 8, target 12; the signal at the close of the first bar.

QUIET, SAY = (5000,) * 4, [UP, FLAT, FLAT, FLAT]


def filled(bars, says, start="10:00:00", gap_s=1, date="2024-01-03", quotes=None, volume=None, door=False, volatility=None, **given):
    "Lots of bars of (open, high, low, close), a prediction each, `gap_s` apart or at the listed seconds; the whole `Backtest` when `door`."
    seconds = np.arange(len(bars)) * gap_s if np.isscalar(gap_s) else np.array(gap_s)
    o, h, l, c = np.array(bars).T
    made = make_bars(ns(start, date) + seconds * SECOND, o, h, l, c, np.ones(len(bars), int) if volume is None else np.array(volume))
    config = load_config(**given | {"trader": {"cooldown_s": 0} | given.get("trader", {}), "costs": {"slippage": "fixed"} | given.get("costs", {})})
    says = np.array(says, np.float32)
    if volatility is not None: says = Prediction(says, says[:, 0], np.array(volatility, np.float32))
    quotes = quotes and Quotes(*np.array(quotes, np.int32).T)
    if door:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            return backtest(made, says, config, quotes=quotes)
    return run_sessions(market_of(made, says, config, quotes), new_state(config.risk.start_balance_usd), rules_of(config, MES)).lots


def told(lots):
    return [("long" if lot["side"] > 0 else "short", int(lot["contracts"]), int(lot["entry"]), int(lot["exit"]), REASONS[lot["reason_out"]], round(float(lot["net_usd"]), 2))
            for lot in lots]


def reasons(lots): return [REASONS[reason] for reason in lots["reason_out"]]


def refused(*args, **given): return filled(*args, door=True, **given).summary["refusals"]


def test_levels_take_their_share_and_the_rest_breaks_even():
    "RSK-4: 4 contracts at 5001; half of them at 5005 (+4: $5 each), the stop goes to 5001, where the rest leaves with a tick of slippage."
    rich = dict(risk=dict(start_balance_usd=9000, trade_risk_usd=1e3, tier_contracts=(1, 2, 3, 4)))
    bars = [QUIET, QUIET, (5003, 5006, 5002, 5004), (5003, 5003, 5001, 5002), QUIET]
    sure = [(.05, .20, .75)] + [FLAT] * 4
    want = [("long", 2, 5001, 5005, "level", 2 * (5 - .84)), ("long", 2, 5001, 5000, "stop", 2 * (-1.25 - .84))]
    assert told(filled(bars, sure, stops=dict(level_ticks=(4,), level_shares=(.5,)), **rich)) == [(*w[:5], round(w[5], 2)) for w in want]
    held = told(filled(bars, sure, stops=dict(level_ticks=(4,), level_shares=(.5,), break_even=False), **rich))
    assert [lot[4] for lot in held] == ["level", "data_end"]
    one = told(filled(bars, [UP] + [FLAT] * 4, stops=dict(level_ticks=(4,), level_shares=(.5,))))   # half of one contract is none: only the stop moves
    assert one == [("long", 1, 5001, 5000, "stop", round(-1.25 - .84, 2))]


def test_three_levels_and_a_target_in_one_bar():
    "RSK-4: 10 contracts, .3 .3 .2 at 2, 4 and 6, the last two at 12, all in one bar that trades through; and the target only touched."
    rich = dict(risk=dict(start_balance_usd=9000, trade_risk_usd=1e4, tier_contracts=(1, 2, 3, 10)), stops=dict(level_ticks=(2, 4, 6), level_shares=(.3, .3, .2)))
    sure = [(.05, .20, .75)] + [FLAT] * 3
    run = filled([QUIET, QUIET, (5002, 5014, 5002, 5013), QUIET], sure, **rich)
    assert [(lot[1], lot[3], lot[4]) for lot in told(run)] == [(3, 5003, "level"), (3, 5005, "level"), (2, 5007, "level"), (2, 5013, "target")] and len(set(run["position"])) == 1
    assert [lot[4] for lot in told(filled([QUIET, QUIET, (5002, 5013, 5002, 5013), (5013,) * 4], sure, **rich))] == ["level"] * 3 + ["data_end"]


def test_a_stalled_position_leaves():
    "RSK-4: a new best at the close of 10:00:03; 4 s later, at the close of 10:00:06, it is over, sold at the next open 5004 - 1."
    bars = [QUIET, QUIET, (5003, 5004, 5003, 5004)] + [(5004,) * 4] * 6
    done = filled(bars, [UP] + [FLAT] * 8, stops=dict(stall_s=4))
    assert told(done) == [("long", 1, 5001, 5003, "stall", round(2.5 - .84, 2))] and done["exit_bar"][0] == 7


REVERSE = dict(reverse=True, reversal_cooldown_s=0)


TRAIL = dict(stops=dict(trail_ticks=2, stop_ticks=8, target_ticks=40))
RISE = [QUIET, QUIET, (5001, 5010, 5001, 5008)]   # bought at 5001; up to 5010: the trail wants 5008


@pytest.mark.parametrize("what,close,after,want", [
    ("a tick above: it rests at 5008, and is hit there", 5009, (5009, 5010, 5008, 5010), (5007, "stop")),
    ("at it: out at the next open, though that is above it", 5008, (5010, 5010, 5009, 5010), (5009, "stop")),
    ("below it: the same", 5004, (5010, 5010, 5009, 5010), (5009, "stop")),
    ("below it, and lower still: no more than the open", 5004, (5002, 5010, 5000, 5010), (5001, "stop")),
])
def test_a_stop_that_has_been_passed_leaves_at_the_next_open(what, close, after, want):
    "RSK-3: no venue takes a sell stop at or above the last price: the whole position leaves at market; a tick of slippage."
    bars = RISE[:2] + [(*RISE[2][:3], close), after, (5010,) * 4]
    lot, = filled(bars, [UP] + [FLAT] * 4, **TRAIL)
    assert (lot["exit"], REASONS[lot["reason_out"]], lot["exit_bar"]) == (*want, 3), what
    short, = filled([tuple(10_000 - np.array(bar)[[0, 2, 1, 3]]) for bar in bars], [DOWN] + [FLAT] * 4, **TRAIL)
    assert (10_000 - short["exit"], REASONS[short["reason_out"]], short["exit_bar"]) == (*want, 3), what


def test_what_rests_until_a_passed_stop_has_left():
    "RSK-3: with 2 s of latency the order of the close of 10:00:04 arrives at 10:00:07; until then the stop is the one of before, 4999, and only that or the target may come first."
    late, says = TRAIL | dict(trader=dict(latency_s=2)), [UP] + [FLAT] * 7
    start = [QUIET] * 4 + [(5001, 5010, 5001, 5004)]
    lot, = filled(start + [(5004, 5004, 5000, 5002)] * 3, says, **late)
    assert (lot["exit"], lot["exit_bar"], lot["stop"], REASONS[lot["reason_out"]]) == (5003, 7, 4999, "stop")
    lot, = filled(start + [(5004, 5004, 4999, 5000)] * 3, says, **late)
    assert (lot["exit"], lot["exit_bar"]) == (4998, 5)
    lot, = filled(start + [(5004, 5042, 5004, 5004)] * 3, says, **late)
    assert (lot["exit"], lot["exit_bar"], REASONS[lot["reason_out"]]) == (5041, 5, "target")


def test_a_passed_stop_at_the_signals_close():
    "BT-1: what is decided at a close fills there, without slippage: in at 5000, out at 5004; and at 5008 where the close is at the stop itself."
    close = TRAIL | dict(fills=dict(mode="signal_close"))
    for at in (5004, 5008):
        assert told(filled([QUIET, (5001, 5010, 5001, at), (5010,) * 4], [UP, FLAT, FLAT], **close)) == [("long", 1, 5000, at, "stop", round(1.25 * (at - 5000) - .84, 2))]


def test_no_decision_is_changed_by_a_passed_stop():
    "RSK-3: told DOWN at the close that passes the stop: a reversal stays one, an exit keeps its reason, and a limit too."
    bars, says = RISE[:2] + [(5001, 5010, 5001, 5004), (5004,) * 4, (5004,) * 4], [UP, FLAT, DOWN, FLAT, FLAT]
    assert reasons(filled(bars, says, **TRAIL)) == ["opposite_signal"]
    assert reasons(filled(bars, says, trader=REVERSE, **TRAIL))[:1] == ["reversal"]
    assert reasons(filled(bars, [UP] + [FLAT] * 4, risk=dict(day_profit_usd=2), **TRAIL))[:1] == ["day_profit"]


def test_break_even_that_the_close_has_passed():
    "RSK-3, RSK-4: one contract reaches its level at 5005, the stop goes to the entry of 5001, the bar closes at 5000: out at the next open, 5003 - 1, not before 5001 comes back."
    bars = [QUIET, QUIET, (5001, 5006, 5000, 5000), (5003, 5004, 5002, 5003), (5003,) * 4]
    lot, = filled(bars, [UP] + [FLAT] * 4, stops=dict(level_ticks=(4,), level_shares=(.5,)))
    assert (lot["entry"], lot["exit"], lot["exit_bar"], lot["stop"], REASONS[lot["reason_out"]]) == (5001, 5002, 3, 5001, "stop")


def ridden(rows, seconds, side, width, target, trail, share, hold, latency):
    "One contract decided at the first close, read rule by rule from a long position's prices; a short one is a long one in the mirror. Entry, exit, reason and second of the exit."
    rows = [[10_000 - price for price in (o, l, h, c)] if side < 0 else [o, h, l, c] for o, h, l, c in rows]
    first = next(k for k, second in enumerate(seconds) if second >= seconds[0] + 1 + latency)
    entry = best = rows[first][0] + 1
    stop, goal, leaving, why = entry - width, entry + target, None, ""
    for (o, h, l, c), second in list(zip(rows, seconds))[first:]:
        if leaving is None and second >= seconds[first] + hold: leaving, why = seconds[first] + hold + latency, "time_stop"
        if o > max(goal, stop): return entry, goal, "target", second           # it opens beyond the target
        if leaving is not None and second >= leaving: return entry, o - 1, why, second
        if o <= stop: return entry, o - 1, "stop", second
        if l <= stop: return entry, stop - 1, "stop", second
        if h > goal: return entry, goal, "target", second
        best, wanted = max(best, h), stop
        if trail: wanted = max(wanted, best - trail)
        if 2 * (second + 1 - seconds[first]) >= hold: wanted = max(wanted, entry - width + int(share * width))
        if c > wanted: stop = wanted                                           # there it can rest
        elif leaving is None: leaving, why = second + 1 + latency, "stop"
    return entry, c - 1, "data_end", second + 1


def test_a_position_is_what_the_rules_read_one_by_one_say():
    "RSK-3, BT-1: a trailing stop, a stop that tightens by the clock to the entry, latency, and closes that pass the stop: against a few lines of Python."
    ways, passed = [], 0
    for seed in range(250):
        rng = np.random.default_rng([seed, 11])
        n, side = 40, (1, -1)[seed % 2]
        close = 5000 + rng.integers(-3, 4, n).cumsum()
        open = np.r_[5000, close[:-1]] + rng.integers(-2, 3, n)
        rows = list(zip(*(x.tolist() for x in (open, np.maximum(open, close) + rng.integers(0, 4, n), np.minimum(open, close) - rng.integers(0, 4, n), close))))
        seconds = np.cumsum(rng.integers(1, 4, n)).tolist()
        width, target, trail, share, hold, latency = (int(rng.choice(of)) for of in ((2, 8, 30), (4, 12, 60), (0, 0, 1, 2, 4), (0, 1), (5, 20, 600), (0, 0, 2)))
        lot, = filled(rows, [UP if side > 0 else DOWN] + [FLAT] * (n - 1), gap_s=seconds, risk=dict(trade_risk_usd=1e3, day_loss_usd=1e4, day_drawdown_usd=1e4), trader=dict(latency_s=latency),
                      stops=dict(stop_ticks=width, target_ticks=target, trail_ticks=trail, tighten_share=share, close_min=0, max_hold_s=hold))
        entry, exit, why, second = ridden(rows, seconds, side, width, target, trail, share, hold, latency)
        seen = [int(x) if side > 0 else 10_000 - int(x) for x in (lot["entry"], lot["exit"])]
        assert (*seen, REASONS[lot["reason_out"]], (lot["exit_ns"] - ns("10:00:00")) // SECOND) == (entry, exit, why, second), seed
        ways.append(why)
        passed += why == "stop" and side * (rows[lot["exit_bar"]][2 if side > 0 else 1] - lot["stop"]) > 0   # a bar that never came near the stop that rested
    counts = {why: ways.count(why) for why in ("stop", "target", "time_stop", "data_end")}
    assert min(counts.values()) > 2 and sum(counts.values()) == 250 and passed > 30, (counts, passed)


def test_a_reversal_is_two_fills_of_one_order():
    "RSK-5: told DOWN at the close of the third bar: sold at 5003 - 1, and short from the same 5002; both trades pay both fees."
    bars = [QUIET, QUIET, (5004,) * 4, (5003,) * 4, (4999,) * 4]
    done = filled(bars, [UP, FLAT, DOWN, FLAT, FLAT], trader=REVERSE)
    assert told(done) == [("long", 1, 5001, 5002, "reversal", .41), ("short", 1, 5002, 5000, "data_end", 1.66)]
    assert done["fees_usd"].round(2).tolist() == [.84, .84] and REASONS[done["reason_in"][1]] == "reversal" and (done["entry_bar"][1], done["exit_bar"][0]) == (3, 3)


def test_reversals_wait_and_end_inside_one_bars_range():
    "RSK-5: two inside the range of the first one's bar, then the exit is only an exit; outside it the count begins anew; 15 s after one only an exit, 45 s after it another."
    says = [UP, FLAT] + [DOWN, UP] * 4
    inside = reasons(filled([QUIET, QUIET, (5000, 5003, 4997, 5000)] + [QUIET] * 7, says, trader=REVERSE))
    assert inside[:3] == ["reversal", "reversal", "opposite_signal"] and "reversal" not in inside[3:]
    assert reasons(filled([QUIET, QUIET] + [(5000 + 3 * (k % 2),) * 4 for k in range(8)], says, trader=REVERSE))[:5] == ["reversal"] * 5
    slow = REVERSE | dict(reversal_cooldown_s=30)
    assert reasons(filled([QUIET] * 10, says, trader=slow))[:2] == ["reversal", "opposite_signal"]
    assert reasons(filled([QUIET] * 10, says, trader=slow, gap_s=15))[:3] == ["reversal", "opposite_signal", "reversal"]


def test_no_entry_after_a_limit_even_by_a_reversal_on_its_way():
    "RSK-1: told DOWN with 5 s of latency; before the order arrives the account is down $26.67 and killed: the order may leave, and must not enter."
    wide = dict(day_loss_usd=1e4, day_drawdown_usd=1e4, review_drawdown_usd=1e4, trade_risk_usd=1e3, total_loss_usd=20)
    says = [UP] + [FLAT] * 7 + [DOWN] + [FLAT] * 8
    bars = [QUIET] * 10 + [(4980,) * 4] * 7
    done = filled(bars, says, stops=dict(stop_ticks=60, target_ticks=90), risk=wide, trader=REVERSE | dict(latency_s=5))
    assert len(done) == 1 and done["side"][0] == 1


def test_as_many_entries_an_hour_as_each_confidence_allows():
    "RSK-2: two an hour below .70; the third signal is refused until the first entry, decided at 10:00:01, is an hour old."
    bars, at = [QUIET] * 8, [0, 1, 2, 3, 4, 5, 3600, 3601]
    sure = [(.05, .30, .65) if up else (.65, .30, .05) for up in (1, 0) * 4]
    limits = dict(risk=dict(signals_an_hour=(2, 0, 0), reduce_after_losses=0))
    done = filled(bars, sure, gap_s=at, door=True, **limits)
    assert done.trades["entry_ns"].sub(ns("10:00:00")).floordiv(SECOND).tolist() == [1, 3, 3601] and done.summary["refusals"]["signal_rate"] == 2
    assert filled(bars, sure, gap_s=at[:6] + [3598, 3599], door=True, **limits).summary["signals"] == 2
    assert "signal_rate" not in refused(bars, sure, gap_s=at, risk=dict(signals_an_hour=(0, 1, 1), reduce_after_losses=0))


def test_no_entry_around_a_release():
    "RSK-6: the Fed at 14:00 on 2024-01-31: refused from the decision at 13:55:00 to 14:04:59, with 5 minutes on both sides."
    block = dict(risk=dict(news_before_min=5, news_after_min=5))
    for clock, trades in (("13:54:58", 1), ("13:54:59", 0), ("14:04:58", 0), ("14:04:59", 1)):
        done = filled([QUIET] * 3, [UP, FLAT, FLAT], start=clock, date="2024-01-31", door=True, **block)
        assert len(done.trades) == trades and done.summary["refusals"].get("news", 0) == 1 - trades, clock
    assert len(filled([QUIET] * 3, [UP, FLAT, FLAT], start="14:00:00", date="2024-01-31")) == 1


def test_a_spike_pauses_entries():
    "RSK-6: a bar of 42 ticks is an ATR(14) of 3.0 after a quiet one: no entry from its close for 6 s after the last wild close."
    bars, at = [QUIET, (5000, 5021, 4979, 5000)] + [QUIET] * 20, [0, 1] + list(range(2, 22))
    spiked = dict(risk=dict(spike_atr_ticks=3.0, spike_pause_min=.1))
    done = filled(bars, [FLAT] + [UP] * 21, gap_s=at, door=True, **spiked)
    assert done.summary["refusals"]["volatility_spike"] == 6 and done.trades["entry_ns"].iloc[0] == ns("10:00:08") 
    assert "volatility_spike" not in refused(bars, [FLAT] + [UP] * 21, gap_s=at, risk=dict(spike_atr_ticks=3.001))


def test_a_poor_market_is_not_entered():
    "RSK-6: stale data (more than 10 s before the bar), a spread over 2 ticks, fewer contracts a minute than asked; the refusal can pause entries."
    says = [FLAT, UP, FLAT]
    assert refused([QUIET] * 3, says, gap_s=[0, 11, 12], risk=dict(stale_data_s=10))["stale_data"] == 1
    assert len(filled([QUIET] * 3, says, gap_s=[0, 10, 11], risk=dict(stale_data_s=10))) == 1
    assert refused([QUIET] * 3, says, quotes=[(4999, 5000), (4998, 5001), (4999, 5000)], risk=dict(max_spread_ticks=2))["wide_spread"] == 1
    assert len(filled([QUIET] * 3, says, quotes=[(4999, 5002), (4998, 5000), (4999, 5002)], risk=dict(max_spread_ticks=2))) == 1
    assert refused([QUIET] * 3, says, volume=[50, 40, 9], risk=dict(min_volume_a_minute=100))["low_liquidity"] == 1   # 50 x e^(-1/60) + 40 = 89.2
    assert len(filled([QUIET] * 3, says, volume=[50, 40, 9], risk=dict(min_volume_a_minute=89))) == 1
    paused = refused([QUIET] * 9, [FLAT] + [UP] * 8, gap_s=[0, 11] + list(range(12, 19)), risk=dict(stale_data_s=10, market_pause_s=3))
    assert paused["stale_data"] == 3   # at the closes of 12, 13 and 14; the pause ends with the close of 15


TOUCH = dict(mode="price_touch", entry_offset_ticks=2)


@pytest.mark.parametrize("what,bars,gap_s,want", [
    ("touched only: not filled", [QUIET, (5000, 5000, 4998, 5000), QUIET, QUIET], 1, []),
    ("traded through: at the limit, no slippage", [QUIET, (5000, 5000, 4997, 5000), QUIET, QUIET], 1, [("long", 1, 4998, 4999, "data_end", 1.25 - .84)]),
    ("opens below: at the limit still, the worse reading", [QUIET, (4990, 4995, 4990, 4992), (4995,) * 4, (4995,) * 4], 1, [("long", 1, 4998, 4989, "stop", -11.25 - .84)]),
    ("taken back after 10 s", [QUIET, QUIET, (5000, 5000, 4997, 5000), QUIET], [0, 1, 12, 13], []),
    ("in time by the last second", [QUIET, QUIET, (5000, 5000, 4997, 5000), QUIET], [0, 1, 11, 12], [("long", 1, 4998, 4999, "data_end", 1.25 - .84)]),
    ("the stop on the bar of the entry", [QUIET, (5000, 5000, 4990, 4995), QUIET, QUIET], 1, [("long", 1, 4998, 4989, "stop", -11.25 - .84)]),
])
def test_an_entry_by_touch(what, bars, gap_s, want):
    "BT-1: a limit 2 ticks under the close of 5000."
    assert told(filled(bars, [UP, FLAT, FLAT, FLAT], gap_s=gap_s, fills=TOUCH)) == [(*w[:5], round(w[5], 2)) for w in want], what


def test_the_kinder_reading_of_an_entry_by_touch():
    "BT-1: the bar of the entry at 4998 trades through the target at 5010 as well, nobody knows when. The trade goes on, and is ambiguous: $15 - $0.84 at best."
    lot = filled([QUIET, (5000, 5011, 4997, 5000), (4995,) * 4, (4990, 4990, 4990, 4990)], [UP, FLAT, FLAT, FLAT], fills=TOUCH)[0]
    assert (lot["ambiguous"], round(lot["optimistic_usd"], 2), REASONS[lot["reason_out"]], lot["exit"]) == (1, 14.16, "stop", 4989)
    assert not filled([QUIET, (5000, 5010, 4997, 5000), (4990,) * 4, (4990,) * 4], [UP, FLAT, FLAT, FLAT], fills=TOUCH)[0]["ambiguous"]


def test_a_bar_that_touches_both_is_read_both_ways():
    "BT-1: stop and target in one bar: out at 4992, kindly at 5013."
    lot = filled([QUIET, QUIET, (5000, 5014, 4993, 5000), QUIET], [UP, FLAT, FLAT, FLAT])[0]
    assert (lot["ambiguous"], lot["exit"], round(lot["net_usd"], 2), round(lot["optimistic_usd"], 2)) == (1, 4992, round(-11.25 - .84, 2), 14.16)


def test_fills_at_the_signals_close():
    "BT-1: in and out at the deciding closes, without slippage, and said to be an optimistic bound; the stop slips as ever."
    close = dict(fills=dict(mode="signal_close"))
    assert told(filled([QUIET, (5003,) * 4, (5005,) * 4, QUIET], [UP, FLAT, DOWN, FLAT], **close))[0] == ("long", 1, 5000, 5005, "opposite_signal", round(6.25 - .84, 2))
    assert told(filled([QUIET, (4995, 4995, 4992, 4995), QUIET, QUIET], [UP, FLAT, FLAT, FLAT], **close))[0] == ("long", 1, 5000, 4991, "stop", round(-11.25 - .84, 2))
    assert any("optimistic bound" in text for text in filled([QUIET] * 3, [UP, FLAT, FLAT], door=True, **close).summary["warnings"])


def test_the_stop_follows_from_the_first_bar_after_a_fill_at_the_close():
    "BT-1: in at 5000; a bar later the stop trails at 4997, and 4996 hits it; inside `close_min` it stands at 4996 by then."
    bars = [QUIET, QUIET, (5000, 5000, 4996, 4996), QUIET]
    assert told(filled(bars, SAY, fills=dict(mode="signal_close"), stops=dict(trail_ticks=3)))[0][3:5] == (4996, "stop")
    near = dict(start="16:00:00", trader=dict(hours="ALL"), fills=dict(mode="signal_close"), stops=dict(close_min=60))
    assert told(filled(bars, SAY, **near))[0][3:5] == (4995, "stop")


def test_quotes_are_crossed():
    "BT-2: bought at the ask of 5002, sold at the bid of 5003; short at the bid, bought back at the ask; only slippage beyond the normal comes on top."
    q = [(4999, 5001), (5000, 5002), (5003, 5005), (5003, 5005), (5003, 5005)]
    bars, says = [QUIET, (5001,) * 4, (5004,) * 4, (5004,) * 4, (5004,) * 4], [UP, FLAT, DOWN, FLAT, FLAT]
    assert told(filled(bars, says, quotes=q)) == [("long", 1, 5002, 5003, "opposite_signal", .41)]
    down = [(5001, 5003), (4999, 5001), (4996, 4998), (4996, 4998)]
    assert told(filled([QUIET, (5000,) * 4, (4997,) * 4, (4997,) * 4], [DOWN, FLAT, UP, FLAT], quotes=down)) == [("short", 1, 4999, 4998, "opposite_signal", .41)]
    wild = [(5000, 5008, 4992, 5000)] * 4   # ATR 16: 4 ticks, 3 more than normal, beyond the quote
    wide = dict(stops=dict(stop_ticks=50, target_ticks=60), risk=dict(trade_risk_usd=1e3))
    assert filled(wild, SAY, quotes=[(4999, 5001)] * 4, costs=dict(slippage="liquidity"), **wide)["entry"][0] == 5004


def test_a_stale_signal_pays_more():
    "BT-2: the next print comes 61 s after the decision: 4 ticks instead of 1; after 60 s still 1."
    assert filled([QUIET] * 3, [UP, FLAT, FLAT], gap_s=[0, 62, 63])["entry"][0] == 5004
    assert filled([QUIET] * 3, [UP, FLAT, FLAT], gap_s=[0, 61, 62])["entry"][0] == 5001


def test_stop_widths():
    """RSK-3: a first bar 6 ticks wide is an ATR(14) of 6, twice that is 12; a volatility of 5.0 x 1.5 is 7.5, so 8; bounds 4 and 16; the target keeps 12:8;
    structure: a tick under the low of the last minute."""
    risk = dict(trade_risk_usd=1e3)
    wide = [(5000, 5003, 4997, 5000), QUIET, QUIET]
    says = [UP, FLAT, FLAT]
    def width(**given):
        lot = filled(*given.pop("rows", (wide, says)), risk=risk, **given)[0]
        return int(lot["entry"] - lot["stop"]), int(lot["target"] - lot["entry"])
    assert width(stops=dict(kind="atr", stop_atr=2.0)) == (12, 18)
    assert width(stops=dict(kind="atr", stop_atr=9.0)) == (16, 24) and width(stops=dict(kind="atr", stop_atr=.1)) == (4, 6)
    assert width(stops=dict(kind="volatility"), volatility=[5.0, 1, 1]) == (8, 12) and width(stops=dict(kind="volatility"), volatility=[4.0, 1, 1]) == (6, 9)
    assert width(stops=dict(kind="volatility"), volatility=[np.nan, 1, 1]) == (8, 12)   # not foretold: the fixed width
    swing = [(5000, 5001, 4990, 5000), QUIET, QUIET, QUIET, QUIET]
    assert width(stops=dict(kind="structure"), rows=(swing, [FLAT, UP, FLAT, FLAT, FLAT])) == (11, 17)   # 5000 - 4990 + 1; (11 x 12 + 4) // 8


# Bad input -------------------------------------------------------------------------------------------------------------------------------

GOOD = make_bars(ns("10:00:00") + np.arange(4) * SECOND, *[np.full(4, 5000)] * 4, np.ones(4, int))
SAYS = np.tile(FLAT, (4, 1))


def with_row(row, i=2):
    says = SAYS.copy()
    says[i] = row
    return says


@pytest.mark.parametrize("what,match", [
    (lambda: backtest(GOOD, with_row((np.nan, .5, .5))), r"prediction row 2 must be three probabilities that sum to 1, or all NaN, got \[nan, 0.5, 0.5\]"),
    (lambda: backtest(GOOD, with_row((.5, .5, .1))), r"prediction row 2 must be three probabilities that sum to 1"),
    (lambda: backtest(GOOD, with_row((.6, .6, -.2))), r"prediction row 2 must be three probabilities"),
    (lambda: backtest(GOOD, with_row((np.inf, 0, 0), 0)), r"prediction row 0 must be three probabilities"),
    (lambda: backtest(GOOD, SAYS[:3]), r"prediction must have shape \(4, 3\), one row a bar, got \(3, 3\)"),
    (lambda: backtest(GOOD, SAYS[:, 0]), r"prediction must have shape \(4, 3\), one row a bar, got \(4,\)"),
    (lambda: backtest(GOOD._replace(ts=GOOD.ts[[0, 2, 1, 3]]), SAYS), r"bars must rise in time: row 2 at .* does not come after"),
    (lambda: backtest(GOOD._replace(ts=GOOD.ts[[0, 1, 1, 3]]), SAYS), r"bars must rise in time: row 2"),
    (lambda: backtest(GOOD._replace(ts=GOOD.ts[[0, 1, 1, 3]]), np.tile(UP, (4, 1)), load_config(trader={"cooldown_s": 0})), r"bars must rise in time: row 2"),
    (lambda: load_config(stops={"stop_ticks": 0}), r"stops.stop_ticks: input should be greater than or equal to 1, got 0"),
    (lambda: with_settings(load_config(), {"stops.stop_ticks": 0}), r"stop_ticks: input should be greater than or equal to 1, got 0"),
    (lambda: load_config(risk={"start_balance_usd": 699.99}), r"start_balance_usd must be at least min_balance_usd 700, got 699.99"),
    (lambda: backtest(GOOD, SAYS, load_config(stops={"kind": "volatility"})), r"stops.kind volatility needs a Prediction with volatility_ticks, got probabilities alone"),
    (lambda: backtest(GOOD, SAYS, quotes=Quotes(np.full(3, 4999), np.full(3, 5001))), r"quotes must have shape \(4,\), one a bar, got \(3,\) and \(3,\)"),
    (lambda: backtest(GOOD, SAYS, quotes=Quotes(np.array([4999, 4999, 5002, 4999]), np.full(4, 5001))), r"quotes must have 0 < bid <= ask, got 5002 and 5001 at row 2"),
    (lambda: backtest(GOOD, SAYS, quotes=Quotes(np.zeros(4), np.full(4, 5001))), r"quotes must have 0 < bid <= ask, got 0 and 5001 at row 0"),
    (lambda: backtest(GOOD._replace(bar_s=60), SAYS), r"one-second bars are needed, got bars of 60 s"),
])
def test_bad_input_is_one_clear_line(what, match):
    "BT-1: refused at the door, in one line with the value."
    with pytest.raises(ValueError, match=match) as caught: what()
    assert "\n" not in str(caught.value)


def test_bad_rows_are_found_in_the_middle_of_anything():
    "BT-1: whatever the trader does when a bad row comes: flat, in a position, with an order on its way; and in a later session."
    ts = np.concatenate([ns("10:00:00", date) + np.arange(30) * SECOND for date in ("2024-01-03", "2024-01-04")])
    bars = make_bars(ts, *[np.full(60, 5000)] * 4, np.ones(60, int))
    for first in (FLAT, UP):
        for row in (1, 2, 20, 31, 59):
            says = np.tile(FLAT, (60, 1))
            says[0] = first
            says[row] = (.5, .6, .7)
            with pytest.raises(ValueError, match=f"prediction row {row} must be three"): backtest(bars, says)
            swapped = ts.copy()
            swapped[row] = swapped[row - 1]
            if row != 30:
                with pytest.raises(ValueError, match=f"bars must rise in time: row {row} "): backtest(bars._replace(ts=swapped), np.tile(first, (60, 1)))


def test_bars_that_the_record_has_seen_are_refused():
    "BT-1: the same bars once more with the record that has seen them."
    first = backtest(GOOD, SAYS, finish=False)
    with pytest.raises(ValueError, match="rise in time|come after"): backtest(GOOD, SAYS, state=first.state)


def test_a_target_under_the_costs_is_warned_of():
    "BT-2: 2 ticks are $2.50, a round trip costs $0.84 + 2 ticks: $3.34."
    with pytest.warns(UserWarning, match=r"stops.target_ticks 2 is \$2.50, and a round trip costs \$3.34: every trade loses"):
        result = backtest(GOOD, SAYS, load_config(stops={"target_ticks": 2}))
    assert len(result.summary["warnings"]) == 1 and "round trip costs $3.34" in result.summary["warnings"][0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert backtest(GOOD, SAYS, load_config(stops={"target_ticks": 3})).summary["warnings"] == []


def test_a_sweep_over_anything_is_its_back_tests():
    "BT-1: settings that change the day's schedule too (its clock, the news block) give each set its own."
    rng, n = np.random.default_rng(3), 3600
    ts = ns("13:45:00", "2024-06-12") + np.arange(n) * SECOND   # the Fed's statement comes at 14:00
    price = 20_000 + rng.integers(-2, 3, n).cumsum()
    bars, says = make_bars(ts, price, price + 1, price - 1, price, np.ones(n, int)), np.array([UP, FLAT, DOWN, FLAT])[rng.integers(0, 4, n)]
    sets = [{}, {"risk.news_before_min": 10.0}, {"risk.news_after_min": 20.0}, {"end_of_day.half_size": "13:50", "end_of_day.last_entry": "14:00", "end_of_day.exit": "14:05", "end_of_day.flat": "14:10"},
            {"stops.kind": "atr"}, {"fills.mode": "price_touch"}, {"risk.max_contracts": 2, "stops.stop_ticks": 4}]
    base = load_config(risk={"day_loss_usd": 1e4, "day_drawdown_usd": 1e4, "review_drawdown_usd": 1e4, "total_loss_usd": 1e4, "loss_streak": 1000, "min_balance_usd": 0})
    table = sweep(bars, says, sets, base)
    alone = [backtest(bars, says, with_settings(base, one)).summary for one in sets]
    for name in ("trades", "net_usd", "signals"): np.testing.assert_allclose(table[name], [one[name] for one in alone], err_msg=name)
    assert table["trades"].nunique() >= 5, table["trades"].tolist()


@pytest.mark.parametrize("row", [(.5, .5, .1), (np.nan, .5, .5)])
def test_a_row_that_is_no_prediction_is_seen_in_the_middle_of_silence_and_of_a_position(row):
    "The trading loop looks at predictions only where the wakes are: a bad row must always be one."
    silent = np.full((4, 3), np.nan)
    silent[3] = row
    held = np.tile(FLAT, (4, 1))
    held[0], held[3] = UP, row
    for says in (silent, held):
        with pytest.raises(ValueError, match="prediction row 3 must be three probabilities"): backtest(GOOD, says)


def test_parts_and_threads_change_nothing(monkeypatch):
    "Wakes found a session at a time on another thread, all at once, or together with other sets: the same lots."
    from mesbot import parts
    bars = synthetic_market(4, seed=3).bars
    rng = np.random.default_rng(0)
    says = np.where(rng.random((len(bars.ts), 1)) < .01, np.where(rng.random((len(bars.ts), 1)) < .5, UP, DOWN), FLAT)
    config = load_config(risk=dict(start_balance_usd=1e6, total_loss_usd=1e6, day_loss_usd=1e6, day_drawdown_usd=1e6, review_drawdown_usd=1e6, loss_streak=1000), trader=dict(hours="ALL"))
    whole = backtest(bars, says, config)
    assert len(whole.trades) > 500
    monkeypatch.setattr(parts, "_PART", 1)
    cut = backtest(bars, says, config)
    pd.testing.assert_frame_equal(whole.trades, cut.trades)
    table = sweep(bars, says, {"stops.stop_ticks": [4, 8], "trader.min_confidence": [.5, .6]}, config)
    for row in table.itertuples(index=False):
        one = backtest(bars, says, with_settings(config, {"stops.stop_ticks": row[0], "trader.min_confidence": row[1]}))
        assert one.summary["trades"] == row.trades and one.summary["net_usd"] == pytest.approx(row.net_usd, abs=1e-6)


class Begun:
    "In place of a thread: a part is found as soon as it may be."
    def __init__(self, find, k): self.part = find(k)
    def done(self): return True
    def cancel(self): return False
    def result(self): return self.part


class Waiting(Begun):
    "A part that is found when somebody waits for it, unless it was taken back."
    def __init__(self, find, k): self.find, self.k, self.taken = find, k, False
    def done(self): return False
    def cancel(self):
        self.taken = True
        return True
    def result(self):
        assert not self.taken, "taken back, and waited for all the same"
        return self.find(self.k)


class Busy(Waiting):
    "The same of a thread that has begun it already."
    def cancel(self): return False


@pytest.mark.parametrize("kind", (Begun, Waiting, Busy))
def test_a_part_is_right_whoever_finds_it(kind, monkeypatch):
    "BT-1: by the other thread long before it is asked for, by the one that trades in place of waiting, or while that one waits; more parts than rooms."
    from mesbot import parts
    bars = synthetic_market(7, seed=3).bars
    says = np.where(np.random.default_rng(0).random((len(bars.ts), 1)) < .01, UP, FLAT)
    market, rules, asked, found = market_of(bars, says, load_config()), rules_of(load_config(), MES), [], []
    alone = [(part.first, part.last, part.wakes.tobytes()) for part in parts.parts_of(market, new_state(1000.), rules, ahead=False, rows=1)]

    class Other:
        def __init__(self, threads): pass
        def __enter__(self): return self
        def __exit__(self, *error): pass
        def submit(self, find, k): return asked.append(k) or kind(lambda j: found.append(j) or find(j), k)
    monkeypatch.setattr(parts, "ThreadPoolExecutor", Other)
    assert [(part.first, part.last, part.wakes.tobytes()) for part in parts.parts_of(market, new_state(1000.), rules, ahead=True, rows=1)] == alone
    assert asked == list(range(7)), "each is asked for once, in order"
    assert found == ([0, 2, 4, 6] if kind is Waiting else asked), "who would have to wait finds the next one here"
