"""Stops, profit levels and targets, worked by hand and over random markets (RSK-3, RSK-4).

A market and its mirror image, p -> 52001 - p, are always played side by side: what is long in one is short in the other, tick for tick."""
import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mesbot.config import load_config
from mesbot.core import SECOND, Bar, new_state
from mesbot.settings import REWARDS
from mesbot.stops import level_contracts, level_price, open_bracket, reach_level, stop_rules, stop_width, tighten_stop
from mesbot.trailing import follow, stalled

MIRROR = 52_001
some = settings(derandomize=True, deadline=None, max_examples=150)
many = settings(some, max_examples=400)


def rules_of(**stops): return stop_rules(load_config(stops=stops))


def exit_at(seconds):
    "A schedule of which only the day's exit is read."
    day = np.zeros(1, [("exit", "i8")]).view(np.recarray)[0]
    day["exit"] = int(seconds * SECOND)
    return day


NEVER = exit_at(10**6)


def opened(side, entry, width, rules, contracts=1, atr=0.0):
    "A position entered in second 0; mesbot's own steps do the rest."
    state = new_state(1000.0)
    state["side"], state["contracts"], state["first_contracts"], state["atr"] = side, contracts, contracts, atr
    open_bracket(state, entry, width, rules)
    return state


def market(atr, low, high, past_low=0, past_high=0):
    state = new_state(1000.0)
    for name, value in dict(atr=atr, swing_low=low, swing_high=high, past_low=past_low, past_high=past_high).items(): state[name] = value
    return state


# widths, by hand
@pytest.mark.parametrize("stops,long,short", [
    (dict(kind="fixed", stop_ticks=8), 8, 8),
    (dict(kind="fixed", stop_ticks=30), 30, 30),                                   # the bounds are not for a fixed stop
    (dict(kind="atr", stop_atr=3.0), 8, 8),                                        # 3 x 2.5 = 7.5
    (dict(kind="atr", stop_atr=2.9), 7, 7),                                        # 7.25
    (dict(kind="atr", stop_atr=9.0), 16, 16),                                      # 22.5
    (dict(kind="atr", stop_atr=0.5), 4, 4),                                        # 1.25
    (dict(kind="structure", swing_ticks=1), 11, 6),                                # 26000 - 25990 + 1; 26005 - 26000 + 1
    (dict(kind="structure", swing_ticks=0), 10, 5),
    (dict(kind="structure", swing_ticks=9), 16, 14),
    (dict(kind="volatility", stop_volatility=1.5), 8, 8),                          # 1.5 x 5 = 7.5
    (dict(kind="volatility", stop_volatility=2.0, max_stop_ticks=9), 9, 9),
])
def test_width_of_each_kind(stops, long, short):
    "RSK-3: fixed ticks, ATR multiple, beyond the recent swing, predicted volatility."
    state, rules = market(2.5, 25_995, 26_005, 25_990, 26_002), rules_of(**stops)
    assert [stop_width(state, side, 26_000, 5.0, rules) for side in (1, -1)] == [long, short]


def test_width_without_a_prediction_or_a_past():
    "RSK-3: no predicted volatility gives the ticks of the fixed stop, within the bounds; the first stretch of a session has none before it."
    state = market(2.5, 25_994, 26_003)
    assert stop_width(state, 1, 26_000, np.nan, rules_of(kind="volatility", stop_ticks=9)) == 9
    assert stop_width(state, 1, 26_000, np.nan, rules_of(kind="volatility", stop_ticks=90)) == 16
    assert [stop_width(state, side, 26_000, np.nan, rules_of(kind="structure")) for side in (1, -1)] == [7, 4]


tick = st.integers(25_800, 26_200)


@st.composite
def stop_settings(draw):
    "Any valid section `stops`, whose numbers are small enough for rounding to matter."
    target = draw(st.integers(2, 40))
    ticks = sorted(draw(st.sets(st.integers(1, target - 1), max_size=3)))
    parts = [draw(st.integers(0, 10)) for _ in ticks]
    rest = draw(st.sampled_from([0, 0, 1, 7]))                     # often nothing is left for the target
    lowest = draw(st.integers(1, 12))
    return dict(
        kind=draw(st.sampled_from(["fixed", "atr", "structure", "volatility"])), stop_ticks=draw(st.integers(1, 30)), target_ticks=target,
        stop_atr=draw(st.floats(0, 20)), stop_volatility=draw(st.floats(0, 20)), swing_ticks=draw(st.integers(0, 5)),
        min_stop_ticks=lowest, max_stop_ticks=draw(st.integers(lowest, 30)),
        level_ticks=ticks, level_shares=[p / max(1, sum(parts) + rest) for p in parts], break_even=draw(st.booleans()),
        trail_ticks=draw(st.sampled_from([0, 1, 5, 12])), trail_atr=draw(st.sampled_from([0.0, 0.7, 4.0])),
        accelerate=draw(st.sampled_from([0.0, 0.02, 0.3, 1.0])), accelerate_max=draw(st.sampled_from([0.0, 0.2, 1.0])),
        max_hold_s=draw(st.integers(1, 60)), tighten_share=draw(st.sampled_from([0.0, 0.25, 0.7, 1.0])),
        close_min=draw(st.sampled_from([0.0, 0.1, 0.5])), close_tighten_share=draw(st.sampled_from([0.0, 0.5, 0.9])), stall_s=draw(st.integers(0, 20)))


@some
@given(stop_settings(), st.floats(0, 60), st.lists(tick, min_size=5, max_size=5), st.booleans(), st.one_of(st.just(np.nan), st.just(np.inf), st.floats(0, 60)))
def test_width_is_within_its_bounds_and_mirrors(stops, atr, prices, first, volatility):
    "RSK-3: a fixed stop is what it says, any other lies within its bounds; the mirrored market gives the mirrored side the same width."
    rules, (low, past_low, price, high, past_high) = rules_of(**stops), sorted(prices)
    if first: past_low = past_high = 0
    state = market(atr, low, high, past_low, past_high)
    flipped = market(atr, MIRROR - high, MIRROR - low, past_high and MIRROR - past_high, past_low and MIRROR - past_low)
    for side in (1, -1):
        width = stop_width(state, side, price, volatility, rules)
        assert width == stop_width(flipped, -side, MIRROR - price, volatility, rules)
        if stops["kind"] == "fixed": assert width == stops["stop_ticks"]
        else: assert stops["min_stop_ticks"] <= width <= stops["max_stop_ticks"]


# brackets and levels
@pytest.mark.parametrize("reward,stop,target", [("1:1", 8, 8), ("1:1.5", 8, 12), ("1:2", 8, 16), ("1:3", 8, 24)])
def test_reward_presets(reward, stop, target):
    "RSK-4: 8/8, 8/12, 8/16 and 8/24 ticks; the ratio holds for a stop of another width."
    assert REWARDS[reward] == (stop, target)
    rules = rules_of(reward=reward)
    for side in (1, -1):
        state = opened(side, 26_000, stop_width(new_state(1000.0), side, 26_000, np.nan, rules), rules)
        assert (state.stop, state.target) == (26_000 - side * stop, 26_000 + side * target)
        state = opened(side, 26_000, 12, rules)
        assert (state.first_stop, state.target) == (26_000 - side * 12, 26_000 + side * target * 12 // 8)


def test_an_earlier_position_leaves_nothing_behind():
    "RSK-3, RSK-4: the next bracket starts afresh."
    rules = rules_of(level_ticks=(4,), level_shares=(.5,), accelerate=.1, trail_ticks=3)
    used, fresh = (opened(1, 26_000, 8, rules, 2) for _ in range(2))
    for second in range(9): follow(used, Bar(second * SECOND, *4 * (26_000 + second,)), NEVER, rules)
    reach_level(used, rules)
    for state in (used, fresh):
        state["side"], state["entry_ts"], state["contracts"], state["first_contracts"] = -1, 20 * SECOND, 3, 3
        open_bracket(state, 26_010, 9, rules)
    assert used == fresh and (used.best_ts, used.levels, used.parabolic, used.acceleration) == (20 * SECOND, 0, -9, .1)


def leave_all(state, rules):
    "Reach every level in turn: (price, contracts leaving, stop after it)."
    out = []
    for k in range(rules.levels):
        at, leaving = int(level_price(state, k, rules)), int(level_contracts(state, k, rules))
        state.contracts -= leaving
        reach_level(state, rules)
        out.append((at, leaving, int(state.stop)))
    return out


def test_levels_of_narrow_stops():
    "RSK-4: levels stay a tick before the target, may then share a tick, and lie on a target that is one tick away."
    rules = rules_of(level_ticks=(4, 6, 10), level_shares=(.5, .25, .1))
    for width, levels, target in ((8, [4, 6, 10], 12), (3, [2, 2, 4], 5), (2, [1, 2, 2], 3), (1, [1, 1, 1], 2)):  # 1.5, 2.25, 3.75 and 4.5; 1, 1.5, 2.5 and 3; .5, .75, 1.25 and 1.5
        for side in (1, -1):
            state = opened(side, 26_000, width, rules)
            assert [side * (level_price(state, k, rules) - 26_000) for k in range(3)] == levels and state.target == 26_000 + side * target
    rules = rules_of(reward="1:1", level_ticks=(4,), level_shares=(.5,))
    state = opened(1, 26_000, 1, rules)
    assert level_price(state, 0, rules) == state.target == 26_001


def test_profit_levels_by_hand():
    "RSK-4: up to three levels with fractions of the contracts at entry, rounded down; the stop goes to break-even after the first."
    rules = rules_of(level_ticks=(4, 6, 10), level_shares=(.5, .25, .1))
    state = opened(1, 26_000, 8, rules, 7)
    assert leave_all(state, rules) == [(26_004, 3, 26_000), (26_006, 2, 26_000), (26_010, 0, 26_000)] and (state.contracts, state.levels) == (2, 3)
    state = opened(-1, 26_000, 16, rules, 1)                       # twice as wide, and one contract cannot be shared
    assert leave_all(state, rules) == [(25_992, 0, 26_000), (25_988, 0, 26_000), (25_980, 0, 26_000)] and state.contracts == 1
    rules = rules_of(level_ticks=(4, 8), level_shares=(.5, .5), break_even=False)
    state = opened(1, 26_000, 8, rules, 3)
    assert leave_all(state, rules) == [(26_004, 1, 25_992), (26_008, 2, 25_992)] and state.contracts == 0
    state = opened(1, 26_000, 8, rules_of(level_ticks=(4,), level_shares=(.5,)), 3)
    tighten_stop(state, 26_002)
    reach_level(state, rules_of())
    assert state.stop == 26_002                                     # break-even is no step back


@some
@given(stop_settings(), st.integers(1, 30), st.integers(1, 200))
def test_levels_share_out_the_contracts_and_stay_inside_the_bracket(stops, width, contracts):
    """RSK-4: never more leave than there are, and all of them when the shares add up to 1. Levels rise, between entry and target: strictly for the
    configured width, and behind a narrower stop two may share a tick; only a target one tick away is itself a level."""
    rules = rules_of(**stops)
    state, other = opened(1, 26_000, width, rules, contracts), opened(-1, MIRROR - 26_000, width, rules, contracts)
    target = state.target - 26_000
    assert target == max(1, (2 * width * stops["target_ticks"] + stops["stop_ticks"]) // (2 * stops["stop_ticks"]))   # the ratio, halves up
    rungs, mirrored = leave_all(state, rules), leave_all(other, rules)
    assert mirrored == [(MIRROR - at, leaving, MIRROR - stop) for at, leaving, stop in rungs]
    gone = [leaving for _, leaving, _ in rungs]
    assert all(n >= 0 for n in gone) and sum(gone) + state.contracts == contracts and state.contracts >= 0
    total = math.fsum(stops["level_shares"])
    if rungs and abs(total - 1) < 1e-12: assert state.contracts == 0
    for k in range(len(gone)):                                      # at most a contract less than the shares say, never more
        said = math.fsum(stops["level_shares"][:k + 1]) * contracts
        assert said - 1 < sum(gone[:k + 1]) <= said + 1e-6
    ticks = [at - 26_000 for at, *_ in rungs]
    assert ticks == sorted(ticks) and all(1 <= t <= max(1, target - 1) for t in ticks)
    if width == stops["stop_ticks"]: assert ticks == stops["level_ticks"] and target == stops["target_ticks"]


@some
@given(stop_settings(), st.integers(1, 50), st.lists(st.integers(0, 10), max_size=3))
def test_contracts_that_left_otherwise_do_not_leave_twice(stops, contracts, others):
    "RSK-4: a level lets go what its shares say less what is gone already, whatever took it."
    assume(stops["level_ticks"])
    rules = rules_of(**stops)
    state = opened(1, 26_000, 8, rules, contracts)
    for k, n in zip(range(rules.levels), others):
        state.contracts -= min(n, state.contracts)
        leaving, before = level_contracts(state, k, rules), contracts - state.contracts
        said = math.floor(math.fsum(stops["level_shares"][:k + 1]) * contracts + 1e-9)
        assert 0 <= leaving <= state.contracts and before + leaving == max(before, said)
        state.contracts -= leaving


# trailing, by hand: bars of one price a second from second 0 on, entry 0, stop 8
def ride(prices, side=1, atr=2.4, day=NEVER, width=8, **stops):
    rules = rules_of(**stops)
    state, out = opened(side, 0, width, rules, atr=atr), []
    for second, price in enumerate(prices):
        follow(state, Bar(second * SECOND, *4 * (side * price,)), day, rules)
        out.append(side * int(state.stop))
    return out


@pytest.mark.parametrize("side", [1, -1])
@pytest.mark.parametrize("prices,settings,want", [
    ([0, 3, 1, 5, 2], dict(trail_ticks=6), [-6, -3, -3, -1, -1]),
    ([0, 3, 1, 5, 2], dict(trail_atr=2.0), [-5, -2, -2, 0, 0]),                     # 4.8 rounds up to 5
    ([0, 3, 1, 5, 2], dict(trail_ticks=6, trail_atr=2.0), [-5, -2, -2, 0, 0]),      # the nearer of the two
    ([0, 2, 1, 4, 4, 4], dict(accelerate=.25, accelerate_max=.5), [-6, -2, 0, 2, 3, 3]),
    ([0, 2, 1], dict(accelerate=.25, accelerate_max=.25), [-6, -4, -3]),            # capped: -6, -4, -2.5
    ([0, 0], dict(accelerate=.5, accelerate_max=.25), [-6, -5]),                    # the cap holds from the start: -6, -4.5
    ([0] * 6, dict(max_hold_s=6), [-8, -8, -6, -6, -6, -6]),                        # a quarter of 8 after 3 of 6 s
    ([0] * 4, dict(max_hold_s=6, tighten_share=.3), [-8, -8, -6, -6]),              # 2.4 rounds down
    ([0] * 4, dict(max_hold_s=6, tighten_share=0), [-8] * 4),
    ([5, 0, 0], dict(), [-8] * 3),                                                  # nothing is on: the stop stays
])
def test_trails_by_hand(prices, settings, want, side):
    "RSK-3: trailing by ticks, by ATR, accelerating; a quarter tighter after half of the longest hold."
    assert ride(prices, side, **settings) == want


@pytest.mark.parametrize("side", [1, -1])
def test_tightening_into_the_close(side):
    "RSK-3: in the last minutes before the day's exit the stop is at most half as wide; the larger of two tightenings holds, they do not add up."
    assert ride([0] * 5, side, day=exit_at(63), close_min=1.0) == [-8, -8, -4, -4, -4]      # the bar of second 2 is known at 3
    assert ride([0] * 5, side, day=exit_at(63), close_min=1.0, close_tighten_share=.9) == [-8, -8, -1, -1, -1]
    assert ride([0] * 5, side, day=exit_at(2), close_min=0.0) == [-8] * 5
    assert ride([0] * 5, side, day=exit_at(64), close_min=1.0, max_hold_s=4) == [-8, -6, -6, -4, -4]
    assert ride([0] * 3, side, day=exit_at(10), width=9) == [-5, -5, -5]                    # half of 9 is 4 ticks nearer, not 5
    assert ride([0], side, day=exit_at(10), width=100, close_tighten_share=.29) == [-71]


def test_stall_by_hand():
    "RSK-3: out when there was no new best price for so long, counted from the entry or from the close of the bar that made it."
    rules = rules_of(stall_s=4)
    state = opened(-1, 100, 8, rules)
    assert [stalled(state, s * SECOND, rules) for s in (3, 4)] == [False, True]
    follow(state, Bar(2 * SECOND, 100, 101, 99, 100), NEVER, rules)                         # a new low
    follow(state, Bar(4 * SECOND, 100, 105, 99, 100), NEVER, rules)                         # the same low is no new one
    assert [stalled(state, s * SECOND, rules) for s in (6, 7)] == [False, True]
    assert (state.best, state.worst, state.best_ts) == (99, 105, 3 * SECOND)
    assert not stalled(state, 10**6 * SECOND, rules_of())


# trailing, over random markets
bar_moves = st.lists(st.tuples(st.integers(1, 4), st.integers(-9, 9), st.integers(0, 6), st.integers(0, 6), st.floats(0, 8)), min_size=1, max_size=40)


def bars_of(moves, start=26_000):
    "Bars of random steps, wicks and holes, and the ATR at each."
    second, price, out = 0, start, []
    for wait, step, above, below, atr in moves:
        open, price, second = price, price + step, second + wait
        out.append((Bar(second * SECOND, open, max(open, price) + above, min(open, price) - below, price), atr))
    return out


def flipped(bar): return Bar(bar.ts, MIRROR - bar.open, MIRROR - bar.low, MIRROR - bar.high, MIRROR - bar.close)


@many
@given(stop_settings(), bar_moves, st.integers(1, 30), st.integers(0, 80), st.sets(st.integers(0, 39), max_size=3))
def test_the_stop_never_loosens_and_long_mirrors_short(stops, moves, width, exit_s, reached):
    "RSK-3: whatever the settings and the market, no close moves the stop away from the market, and a short position is a long one in the mirror."
    rules, day = rules_of(**stops), exit_at(exit_s)
    long, short = opened(1, 26_000, width, rules), opened(-1, MIRROR - 26_000, width, rules)
    before, seen = long.stop, [26_000]
    assert before == 26_000 - width
    for i, (bar, atr) in enumerate(bars_of(moves)):
        long["atr"] = short["atr"] = atr
        for state, own in ((long, bar), (short, flipped(bar))):
            follow(state, own, day, rules)
            if i in reached: reach_level(state, rules)
        seen += [bar.high, bar.low]
        assert long.stop >= before and (long.best, long.worst) == (max(seen), min(seen))
        before = long.stop
        for name in ("stop", "first_stop", "target", "best", "worst", "entry"): assert long[name] == MIRROR - short[name], name
        for name in ("best_ts", "acceleration", "parabolic", "levels"): assert long[name] == short[name], name
        assert stalled(long, bar.ts + SECOND, rules) == stalled(short, bar.ts + SECOND, rules) == (0 < stops["stall_s"] * SECOND <= bar.ts + SECOND - long.best_ts)
        assert (long.first_stop, long.entry) == (26_000 - width, 26_000)


@many
@given(stop_settings(), bar_moves, st.integers(1, 30), st.integers(0, 80))
def test_the_stop_is_the_nearest_level_that_any_rule_ever_proposed(stops, moves, width, exit_s):
    "RSK-3: against the rules read one by one, each for itself, from a long position's prices."
    rules = rules_of(**stops)
    state, proposed, best = opened(1, 26_000, width, rules), [26_000 - width], 26_000
    share, sar = min(stops["accelerate"], stops["accelerate_max"]), float(-width)
    for bar, atr in bars_of(moves):
        state["atr"] = atr
        follow(state, bar, exit_at(exit_s), rules)
        now = bar.ts // SECOND + 1
        if bar.high > best: best, share = bar.high, min(share + stops["accelerate"], stops["accelerate_max"])
        sar += share * (best - 26_000 - sar)
        if stops["trail_ticks"]: proposed.append(best - stops["trail_ticks"])
        if stops["trail_atr"]: proposed.append(best - max(1, math.ceil(stops["trail_atr"] * atr)))
        if stops["accelerate"]: proposed.append(26_000 + math.floor(sar))
        if now >= stops["max_hold_s"] / 2: proposed.append(26_000 - width + math.floor(stops["tighten_share"] * width + 1e-9))
        if 0 < stops["close_min"] and exit_s - now <= stops["close_min"] * 60: proposed.append(26_000 - width + math.floor(stops["close_tighten_share"] * width + 1e-9))
        assert state.stop == max(proposed)
