"""What the account may lose, how much it may hold, when it may enter, and that none of it is forgotten (RSK-1, RSK-2, RSK-5 to RSK-10).

Hand-worked cases with MES (tick $1.25), and random lives of an account held against the plain words of each rule."""
import json
import os
import time
from threading import Thread

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesbot.calendar import FIRST_DAY, LAST_DAY, MINUTE, NY, session_table
from mesbot.config import load_config
from mesbot.core import ENTRIES_AN_HOUR, MES, SECOND, STATE, Bar, Reason, new_state
from mesbot.entries import count_entry, count_reversal, note_spike, rate_refusal, refusal, reversal_refusal
from mesbot.keeper import LATCHES, Keeper, limits_left, load_state, save_state
from mesbot.news import near_news
from mesbot.presets import PRESETS
from mesbot.risk import RISK, book_lot, book_position, limit_reason, mark, open_day, pause, risk_rules, trailing_floor
from mesbot.schedule import NEVER, NEWS_A_DAY, day_schedule
from mesbot.size import contracts, tier
from mesbot.tickfile import sync

some = settings(derandomize=True, deadline=None, max_examples=150)
HOUR = 60 * MINUTE
OPEN = {"killed": 0, "review": 0, "passed": 0, "day_stop": 0}


def rules_of(preset="default", trader={}, **risk): return risk_rules(load_config(preset=preset, risk=risk, trader=trader))
def changed(rules, **numbers):
    other = np.array(rules, RISK).reshape(1).copy().view(np.recarray)[0]
    for name, value in numbers.items(): other[name] = value
    return other


def copy(state): return np.frombuffer(state.tobytes(), STATE).copy().view(np.recarray)[0]
def account(balance=1000.0, **fields):
    state = new_state(balance)
    for name, value in fields.items(): state[name] = value
    return state


def a_day(last_entry): return np.array((last_entry, 0, 0), [("last_entry", "i8"), ("rth_open", "i8"), ("rth_close", "i8")])[()]
def long_one(balance=1000.0, side=1): return account(balance, side=side, contracts=1, entry=26_000)
def marked(state, tick, rules): return Reason(mark(state, tick, MES.tick_usd, rules))


# ---------------------------------------------------------------------------------------------------------------------------- the end of the day

def ny(date, clock): return pd.Timestamp(f"{date} {clock}", tz=NY).value


@pytest.mark.parametrize("preset", PRESETS)
def test_schedule_of_every_day_of_ten_years(preset):
    "RSK-7: on every session of 2018-2027, each clock is New York's own, moved by the early close; in order, and before the close."
    config = load_config(preset=preset)
    sessions = session_table("2018-01-01", "2027-12-31")
    plan = day_schedule(sessions, config)
    assert len(plan) == len(sessions) > 2500
    dates = pd.DatetimeIndex(sessions["date"].astype("M8[D]"))
    for name in ("half_size", "last_entry", "exit", "flat"):
        wanted = (dates + pd.Timedelta(getattr(config.end_of_day, name) + ":00")).tz_localize(NY).as_unit("ns").asi8 - sessions["shift"]
        np.testing.assert_array_equal(plan[name], wanted, err_msg=name)
    known = plan[plan["known"] == 1]
    close = sessions["close"][plan["known"] == 1]
    assert len(known) > 2480
    for early, late in (("rth_open", "half_size"), ("half_size", "last_entry"), ("last_entry", "exit")): assert (known[early] <= known[late]).all()
    assert (known["exit"] < known["flat"]).all() and (known["flat"] < close).all()
    assert (plan["last_entry"][1:] > plan["last_entry"][:-1]).all()  # tells one session from another


@pytest.mark.parametrize("preset", [name for name in PRESETS if name.startswith("topstep")])
def test_flat_before_the_firms_own_clock(preset):
    "RSK-7, RSK-9: flat by 16:05 New York and at least 15 minutes before an early close, every day of ten years."
    sessions = session_table("2018-01-01", "2027-12-31")
    flat, dates = day_schedule(sessions, load_config(preset=preset))["flat"], sessions["date"].astype("M8[D]")
    assert all(f <= ny(d, "16:05") for f, d in zip(flat, dates)) and (flat <= sessions["close"] - 15 * MINUTE).all()


@pytest.mark.parametrize("date, flat", [("2024-03-08", "16:30"), ("2024-03-11", "16:30"), ("2024-11-01", "16:30"), ("2024-11-04", "16:30"), ("2024-11-29", "12:45"), ("2024-07-03", "12:45")])
def test_flat_on_clock_changes_and_short_days(date, flat):
    "RSK-7: the Friday before and the Monday after each clock change, the day after Thanksgiving, the day before July 4."
    assert day_schedule(session_table(date, date), load_config())["flat"][0] == ny(date, flat)


# ---------------------------------------------------------------------------------------------------------------------------- limits

@pytest.mark.parametrize("limits, balance, ticks, said", [
    ({}, 1000, (-39, -40), ("NONE", "DAY_LOSS")),                                            # 40 ticks are $50
    ({}, 1000, (59, 0, -1), ("NONE", "NONE", "DAY_DRAWDOWN")),                               # 60 ticks below the day's best are $75
    ({"day_loss_usd": 1e6, "day_drawdown_usd": 1e6}, 1000, (-159, -160), ("NONE", "REVIEW")),  # $200 below the best ever
    ({"day_loss_usd": 1e6, "day_drawdown_usd": 1e6, "review_drawdown_usd": 1e6}, 1000, (-239, -240, 1000), ("NONE", "KILL", "KILL")),
    ({"day_profit_usd": 25}, 1000, (19, 20, 0), ("NONE", "DAY_PROFIT", "DAY_PROFIT")),
    ({"profit_target_usd": 100}, 1099, (800,), ("NONE",)),                                   # an open gain is not the target ...
    ({"profit_target_usd": 100}, 1100, (0,), ("TARGET_REACHED",)),                           # ... the balance is
    ({"trailing_loss_usd": 30, "day_loss_usd": 1e6}, 1000, (-23, -24), ("NONE", "TRAILING_LOSS")),
    ({"trailing_loss_usd": 30, "total_loss_usd": 30}, 1000, (-24,), ("KILL",)),
])
@pytest.mark.parametrize("side", (1, -1))
def test_each_limit(limits, balance, ticks, said, side):
    "RSK-1: each limit a tick before it is hit and when it is, the same for long and short."
    state, rules = long_one(side=side), rules_of(**limits)
    state.balance = balance
    assert tuple(marked(state, 26_000 + side * tick, rules).name for tick in ticks) == said


def test_the_first_answer_wins():
    "RSK-1, RSK-5: everything forbids at once; taken away one by one, each rule is named in the order that is promised."
    config = load_config(preset="strict")
    rules, day = risk_rules(config), day_schedule(session_table("2024-06-12", "2024-06-12"), config)[0].copy()
    fed = ny("2024-06-12", "14:00")
    state = account(600.0, killed=Reason.KILL, review=Reason.REVIEW, passed=Reason.TARGET_REACHED, day_stop=Reason.DAY_LOSS, pause_until=NEVER, pause_reason=Reason.LOSS_STREAK,
                    cooldown_until=NEVER, gap=99, volume=0.0)
    for _ in range(4): count_entry(state, .65, fed, rules)
    day["known"], day["last_entry"], day["rth_open"], bid = 0, fed, NEVER, 990
    said = []
    def ask():
        said.append(Reason(refusal(copy(state), Bar(fed - SECOND, 1000, 1000, 1000, 1000, 1, bid, 1000), day, .65, rules)).name)
    for latch in OPEN: ask(); state[latch] = 0
    ask(); day["known"] = 1
    ask(); day["last_entry"] = NEVER
    ask(); day["rth_open"] = 0
    ask(); day["news"] = NEVER
    ask(); state.balance = 1000.0
    ask(); state.pause_until = 0
    ask(); state.cooldown_until = 0
    ask(); state.gap = 1
    ask(); bid = 999
    ask(); state.volume = 100.0
    ask(); state.entries[:] = 0
    ask()
    assert said == ["KILL", "REVIEW", "TARGET_REACHED", "DAY_LOSS", "UNKNOWN_DAY", "END_OF_DAY", "OUTSIDE_HOURS", "NEWS", "LOW_BALANCE", "LOSS_STREAK", "COOLDOWN", "STALE_DATA",
                    "WIDE_SPREAD", "LOW_LIQUIDITY", "SIGNAL_RATE", "NONE"]


LIFE = st.lists(st.one_of(
    st.tuples(st.just("mark"), st.integers(-25, 25).map(lambda n: 4 * n)),  # ticks from the entry: $10 a step
    st.tuples(st.just("book"), st.integers(-10, 10).map(lambda n: 10 * n)),  # USD
    st.tuples(st.just("turn"), st.sampled_from((-1, 0, 1))),              # the side
    st.tuples(st.just("day"), st.just(0)),
), max_size=60)
TIGHT = dict(day_loss_usd=60, day_drawdown_usd=75, total_loss_usd=200, trailing_loss_usd=150, review_drawdown_usd=170, profit_target_usd=180, day_profit_usd=90, min_balance_usd=0)
TIGHT_RULES = rules_of(**TIGHT)


@some
@given(life=LIFE, off=st.sampled_from(("trailing_loss", "profit_target", "day_profit", "")))
def test_latches_hold_exactly_what_happened(life, off):
    "RSK-1, RSK-9: over a random life each latch is the first limit that was crossed, never opens by itself, and the floor never falls."
    rules = changed(TIGHT_RULES, **({off: 0} if off else {}))
    state, seen, days, closes = account(entry=1000, contracts=2, side=1), [], 0, [1000.0]
    want, peak, start, best, worst_share, floor = dict(OPEN), 1000.0, 1000.0, 1000.0, 0.0, -np.inf
    for what, n in life:
        if what == "turn": state.side = n
        elif what == "book": book_lot(state, float(n), float(n))
        elif what == "day":
            days, want["day_stop"], start = days + 1, 0, float(state.balance)
            best = start
            closes.append(start)
            open_day(state, a_day(days), rules)
        else:
            equity = float(state.balance) + int(state.side) * 2 * n * MES.tick_usd
            seen.append(equity)
            peak, best = max(peak, equity), max(best, equity)
            worst_share = max(worst_share, (peak - equity) / peak)
            lowest = min(1000.0, max(closes) - rules.trailing_loss)
            if not want["killed"]: want["killed"] = Reason.KILL if 1000 - equity >= 200 else Reason.TRAILING_LOSS if rules.trailing_loss and equity <= lowest else 0
            if peak - equity >= 170: want["review"] = Reason.REVIEW
            if rules.profit_target and state.balance - 1000 >= 180: want["passed"] = Reason.TARGET_REACHED
            if not want["day_stop"]:
                want["day_stop"] = (Reason.DAY_LOSS if start - equity >= 60 else Reason.DAY_DRAWDOWN if best - equity >= 75
                                    else Reason.DAY_PROFIT if rules.day_profit and equity - start >= 90 else 0)
            answer = marked(state, 1000 + n, rules)
            assert answer == next((r for r in want.values() if r), 0) == limit_reason(state)
            np.testing.assert_allclose((state.equity, state.peak_equity, state.drawdown_share), (equity, peak, worst_share))
        assert {name: int(state[name]) for name in OPEN} == want
        assert trailing_floor.py_func(state, rules) >= floor
        floor = trailing_floor.py_func(state, rules)
    if seen: np.testing.assert_allclose(state.drawdown_usd, (np.maximum.accumulate([1000.0, *seen]) - [1000.0, *seen]).max())


@pytest.mark.parametrize("latch", ("killed", "review", "passed"))
def test_a_latch_outlives_days_gains_and_other_limits(latch):
    "RSK-1, RSK-9: latched with its first reason, whatever is earned, lost or opened afterwards; the latch of a day goes with the day."
    first = {"killed": Reason.TRAILING_LOSS, "review": Reason.REVIEW, "passed": Reason.TARGET_REACHED}[latch]
    state, rules = account(day_stop=Reason.DAY_PROFIT, **{latch: first}), changed(TIGHT_RULES)
    for day, balance in enumerate((1000.0, 2000.0, 1000.0, 500.0, 1000.0), 1):
        mark(state, 0, MES.tick_usd, rules)
        open_day(state, a_day(day), rules)
        assert state.day_stop == 0
        state.balance = balance
        book_lot(state, 1.0, 1.0)
        book_position(state, day * HOUR, rules)
        mark(state, 0, MES.tick_usd, rules)
        assert state[latch] == first


def test_a_second_opening_of_the_same_day_forgets_nothing():
    "RSK-1, RSK-5: a restart in the middle of a stopped day does not start it again; the next session does."
    rules, state = rules_of(), account()
    open_day(state, a_day(5), rules)
    state.balance = 940.0
    assert marked(state, 0, rules) == Reason.DAY_LOSS
    before = state.tobytes()
    open_day(state, a_day(5), rules)
    assert state.tobytes() == before
    open_day(state, a_day(6), rules)
    assert (state.day_stop, state.day_start_equity, state.balance) == (0, 940, 940)


# ---------------------------------------------------------------------------------------------------------------------------- prop firms

# reference/topstep_rules.md, section 1: start, target, distance of the maximum loss limit, first floor, daily loss, micros
COMBINES = {"topstep-50k": (50_000, 3_000, 2_000, 48_000, 1_000, 50), "topstep-100k": (100_000, 6_000, 3_000, 97_000, 2_000, 100), "topstep-150k": (150_000, 9_000, 4_500, 145_500, 3_000, 150)}


@pytest.mark.parametrize("preset, facts", COMBINES.items())
def test_combine_limits_one_by_one(preset, facts):
    "RSK-9: target, first floor, daily loss and size of each account, to the dollar; one day never earns over 55 % of the target by more than its last trade."
    start, target, distance, floor, daily, micros = facts
    rules = rules_of(preset)
    def said(usd, balance=start):
        state = account(float(start))
        state.balance = balance + usd
        return marked(state, 0, rules).name
    assert trailing_floor.py_func(account(float(start)), rules) == floor == start - distance
    assert (said(-daily + 1), said(-daily)) == ("NONE", "DAY_LOSS") and said(-distance) in ("KILL", "TRAILING_LOSS") and said(-distance + 1) == "DAY_LOSS"
    assert (said(target - 1), said(target)) == ("DAY_PROFIT", "TARGET_REACHED") and rules.day_profit <= .55 * target
    for balance in (start, start + target, 10 * start): assert 0 < contracts(account(float(balance)), .99, False, .01, rules) <= micros == rules.max_contracts


def test_the_worked_example_of_the_50k_account():
    "RSK-9: day 1 +500: floor 48,500; day 2 -500: still 48,500; 52,000 at a day's end: 50,000 for good. An intraday high moves nothing; touching the floor is the end."
    rules, state, floors = rules_of("topstep-50k"), new_state(50_000.0), []
    for day, usd in enumerate((0, 500, -500, 2_000, 900, -700)):
        state.balance += usd
        mark(state, 0, MES.tick_usd, rules)
        open_day(state, a_day(day + 1), rules)
        floors.append(trailing_floor.py_func(state, rules))
    assert floors == [48_000, 48_500, 48_500, 50_000, 50_000, 50_000]
    state = new_state(50_000.0)
    state.balance = 50_500.0
    open_day(state, a_day(1), rules)
    state.side, state.contracts, state.entry = 1, 10, 26_000                # $12.50 a tick
    assert marked(state, 26_079, rules) == Reason.NONE and trailing_floor.py_func(state, rules) == 48_500   # +987.50 open
    state.contracts = 20                                                    # $25 a tick: 80 ticks are $2,000
    assert marked(state, 25_921, rules) != Reason.TRAILING_LOSS and state.killed == 0
    assert marked(state, 25_920, rules) == Reason.TRAILING_LOSS and state.equity == 48_500


def test_the_ftmo_like_account():
    "RSK-9: 4.5 % of a day and 9 % in all, of 100,000, without a trailing floor."
    rules = rules_of("ftmo-like-100k")
    for usd, want in ((-4_499, "NONE"), (-4_500, "DAY_LOSS"), (-9_000, "KILL")):
        state = account(100_000.0)
        state.balance += usd
        assert marked(state, 0, rules).name == want
    state = account(100_000.0)
    state.balance = 120_000.0
    open_day(state, a_day(1), rules)
    state.balance = 115_600.0
    assert marked(state, 0, changed(rules, profit_target=0)) == Reason.NONE


# ---------------------------------------------------------------------------------------------------------------------------- size

@pytest.mark.parametrize("balance, low, middle, high", [
    (699.99, 0, 0, 0), (700, 1, 1, 1), (1500, 1, 1, 1), (1500.01, 1, 2, 3), (2500, 1, 2, 3), (2500.01, 1, 3, 4), (5000, 1, 3, 4), (5000.01, 2, 5, 7)])
def test_the_tiers_of_the_requirement(balance, low, middle, high):
    "RSK-2: under $700 none; to $1,500 1; to $2,500 2; to $5,000 3; above 5; times 0.5, 1 and 1.5, rounded down, at least 1."
    assert [contracts(account(balance), c, False, 1.0, rules_of()) for c in (.65, .75, .85)] == [low, middle, high]


RISKS = st.floats(.01, 500)


@some
@given(balance=st.floats(0, 2e5), confidence=st.floats(.34, 1), half=st.booleans(), risk=RISKS, reduced=st.booleans(), atr=st.floats(0, 100), share=st.floats(.001, 1), most=st.integers(1, 60),
       calm=st.sampled_from((0.0, 4.0)), cut=st.floats(0, .99), preset=st.sampled_from(list(PRESETS)))
def test_size_is_never_over_any_limit(balance, confidence, half, risk, reduced, atr, share, most, calm, cut, preset):
    "RSK-2, RSK-8, RSK-10: not over the trade's risk in dollars and as a share, the tier, the maximum; each brake only ever brakes; one contract when it can be paid for."
    rules = changed(rules_of(preset), trade_share=share, max_contracts=most, calm_atr=calm, reduce_share=cut)
    state = account(balance, reduced=reduced, atr=atr)
    n = contracts(state, confidence, half, risk, rules)
    assert n == contracts.py_func(state, confidence, half, risk, rules)
    budget = min(rules.trade_risk, share * balance) * (1 - cut if reduced else 1)
    held = rules.tier_contracts[int(np.searchsorted(rules.tier_usd, balance))]
    assert 0 <= n <= most and n * risk <= budget * (1 + 1e-12) and n <= max(held * rules.confidence_factors[tier(confidence, rules)], 1)
    assert (n == 0) == (balance < rules.min_balance or held == 0 or risk > budget)
    calmer = account(balance, reduced=0, atr=0.0)
    assert n <= contracts(state, confidence, False, risk, rules) <= contracts(calmer, confidence, False, risk, rules) and n <= contracts(calmer, confidence, half, risk, rules)


@pytest.mark.parametrize("atr, n", [(0, 24), (4, 24), (4.8, 20), (8, 12), (16, 6), (96, 1), (1000, 1)])
def test_size_falls_as_the_inverse_of_volatility(atr, n):
    "RSK-10: 24 contracts up to an ATR(14) of 4 ticks, then 24 x 4 / ATR, and at least one."
    rules = changed(rules_of(calm_atr_ticks=4), tier_contracts=24, trade_risk=1e6)
    assert contracts(account(atr=atr), .75, False, 1.0, rules) == n


@pytest.mark.parametrize("half, reduced, risk, n", [(False, 0, 1.0, 5), (True, 0, 1.0, 2), (False, 1, 1.0, 2), (True, 1, 1.0, 1), (False, 0, 12.51, 1), (False, 1, 12.5, 1), (False, 1, 12.51, 0)])
def test_half_size_and_reduced_risk(half, reduced, risk, n):
    "RSK-2, RSK-8: five contracts of a $9,000 account, halved, reduced by half, both; and the reduced risk pays for $12.50 only."
    assert contracts(account(9000.0, reduced=reduced), .75, half, risk, rules_of()) == n


def test_two_percent_of_the_account():
    "RSK-2: in the strict preset a trade risks 2 % of the balance at most."
    rules = rules_of("strict")
    assert [contracts(account(1000.0), .75, False, risk, rules) for risk in (20.0, 20.01)] == [1, 0]
    assert [contracts(account(1200.0), .75, False, risk, rules) for risk in (24.0, 24.01)] == [1, 0]
    assert [contracts(account(5000.0), .75, False, risk, rules) for risk in (25.0, 25.01)] == [1, 0]  # and never over $25


# ---------------------------------------------------------------------------------------------------------------------------- breakers

EVENTS = st.lists(st.tuples(st.sampled_from((0, 1, 10, 29, 30, 31, 299, 300, 301, 900, 1799, 1800, 1801)),
                            st.sampled_from(("loss", "loss", "loss", "spike", "calm", "gain", "stale", "wide", "thin", "fine"))), max_size=60)  # seconds since the one before


def live(state, events, rules, day, now=0, also=lambda: None):
    "A market and its trades into `state`; what refusal said after each."
    said = []
    for wait, what in events:
        now += wait * SECOND
        state.atr, state.gap, state.volume = 20.0 if what == "spike" else 3.0, 99 if what == "stale" else 1, 0.0 if what == "thin" else 500.0
        note_spike.py_func(state, now, rules)
        if what in ("loss", "gain"):
            usd = -10.0 if what == "loss" else 10.0
            book_lot(state, usd, usd)
            book_position(state, now, rules)
        said.append(int(refusal(state, Bar(now - SECOND, 1000, 1000, 1000, 1000, 1, 990 if what == "wide" else 999, 1000), day, .75, rules)))
        if said[-1] == 0: count_entry(state, .75, now, rules)
        also()
    return said


ALWAYS = day_schedule(session_table("2024-06-12", "2024-06-12"), load_config())[0].copy()
for _name, _at in dict(entry_from=0, rth_open=0, rth_close=NEVER, half_size=NEVER, last_entry=NEVER, exit=NEVER, flat=NEVER, news=NEVER).items(): ALWAYS[_name] = _at
STRICT = changed(rules_of("strict"), min_balance=0)


@some
@given(events=EVENTS, streak=st.integers(1, 4))
def test_a_pause_never_shortens(events, streak):
    "RSK-5: whatever happens in whatever order, a pause only ever gets longer, is respected to the nanosecond, and carries the reason of the one that lasts longest."
    rules, state, pauses = changed(STRICT, loss_streak=streak), account(), [(0, 0)]
    def also():
        pauses.append((int(state.pause_until), int(state.pause_reason)))
        assert pauses[-1][0] >= pauses[-2][0]
        if pauses[-1][0] == pauses[-2][0]: assert pauses[-1][1] == pauses[-2][1]
    said, now, losses, until = live(state, events, rules, ALWAYS, 10**15, also), 10**15, 0, [(0, 0)]
    for (wait, what), answer in zip(events, said):
        now += wait * SECOND
        losses = losses + 1 if what == "loss" else 0 if what == "gain" else losses
        if what == "spike": until.append((now + 5 * MINUTE, Reason.VOLATILITY_SPIKE))
        if losses == streak: losses, _ = 0, until.append((now + 30 * MINUTE, Reason.LOSS_STREAK))
        longest = max(until, key=lambda pause: pause[0])
        if now < longest[0]: assert answer == longest[1]
        else: assert answer not in (Reason.VOLATILITY_SPIKE, Reason.LOSS_STREAK)
        if answer in (Reason.STALE_DATA, Reason.WIDE_SPREAD, Reason.LOW_LIQUIDITY) and now >= longest[0]: until.append((now + 30 * SECOND, answer))
        if now >= longest[0] and answer == 0: assert what not in ("spike", "stale", "wide", "thin")


def test_five_losses_in_a_row():
    "RSK-1: the fifth loss pauses for thirty minutes, the fourth does not, a gain or the pause starts the count again, and a position of two lots is one."
    rules = rules_of()
    for results, until in (([-9] * 4, 0), ([-9] * 5, 34 * MINUTE), ([-9, -9, 9, -9, -9, -9, -9], 0), ([-9, -9, 0, -9, -9], 0), ([-9] * 6, 34 * MINUTE), ([-9] * 9, 34 * MINUTE),
                           ([-9] * 10, 39 * MINUTE)):
        state = account()
        for minute, usd in enumerate(results):
            for part in (20.0, usd - 20.0): book_lot(state, part, part)
            book_position(state, minute * MINUTE, rules)
        assert state.pause_until == until and state.balance == 1000 + sum(results), results


@pytest.mark.parametrize("config, on", [({}, None), ({"stale_data_s": 10}, 10), ({"stale_data_s": 60}, 60)])
def test_stale_data(config, on):
    "RSK-5: no entry on a bar before which nothing traded for longer than allowed; 0 is off."
    for gap in (0, 1, 10, 11, 60, 61, 3600):
        answer = refusal(account(gap=gap), Bar(0, 9, 9, 9, 9), ALWAYS, .75, rules_of(**config))
        assert answer == (Reason.STALE_DATA if on and gap > on else Reason.NONE)


@some
@given(now=st.integers(0, 23 * 3600), date=st.sampled_from(("2024-06-12", "2024-07-05", "2026-06-17", "2024-06-13")), before=st.integers(0, 90), after=st.integers(0, 90))
def test_no_entry_near_a_release(now, date, before, after):
    "RSK-9, DAT-2: refused from so long before to so long after, by the calendar of releases; the very end is free."
    config = load_config(risk=dict(news_before_min=before, news_after_min=after), trader={"hours": "ALL"}, end_of_day=dict(last_entry="16:40", exit="16:45", flat="16:50"))
    session = session_table(date, date)
    day, now = day_schedule(session, config)[0], int(session["trade_from"][0]) + now * SECOND
    if now >= day["last_entry"]: return
    answer = refusal(account(), Bar(now - SECOND, 9, 9, 9, 9), day, .75, risk_rules(config))
    ends = (np.array(day["news"][day["news"] < NEVER]) + after * MINUTE == now).any()
    assert (answer == Reason.NEWS) == bool(near_news([now], before * 60, after * 60)[0] and not ends)


def test_a_block_reaches_into_the_next_session():
    "RSK-9: ten hours after the Fed's statement of 2024-06-12, 14:00, end at midnight, six hours into the session of the 13th."
    config = load_config(risk=dict(news_after_min=600), trader={"hours": "ALL"})
    day = day_schedule(session_table("2024-06-13", "2024-06-13"), config)[0]
    said = [refusal(account(), Bar(ny(*when) - SECOND, 9, 9, 9, 9), day, .75, risk_rules(config)) for when in (("2024-06-12", "23:59"), ("2024-06-13", "00:00"))]
    assert said == [Reason.NEWS, Reason.NONE]


def test_four_releases_hold_every_day_there_is():
    "RSK-9: no session of the calendar has more releases than its schedule has places for, at the widest block that settings allow."
    plan = day_schedule(session_table(FIRST_DAY, LAST_DAY), load_config(risk=dict(news_before_min=1440, news_after_min=1440)))
    assert (plan["news"][:, NEWS_A_DAY - 1] == NEVER).all() and (plan["news"][:, 1] < NEVER).any() and (np.diff(plan["news"], axis=1) >= 0).all()


# ---------------------------------------------------------------------------------------------------------------------------- losses close together, rates, reversals

@pytest.mark.parametrize("results, reduced", [("0-", 0), ("0- 60-", 1), ("0- 61-", 0), ("0- 1+ 2-", 1), ("0- 1+ 2+ 3+ 60-", 1), ("0- 61- 121-", 1), ("0- 61- 122-", 0), ("0+ 1+", 0)])
def test_two_losses_within_an_hour(results, reduced):
    "RSK-8: minute and sign of each position; a gain between two losses does not part them."
    state = account()
    for result in results.split():
        usd = float(result[-1] + "5")
        book_lot(state, usd, usd)
        book_position(state, int(result[:-1]) * MINUTE, rules_of())
    assert state.reduced == reduced


@some
@given(results=st.lists(st.tuples(st.sampled_from((0, 1, 20, 59, 60, 61)), st.sampled_from((-5.0, 5.0))), max_size=12), after=st.integers(0, 4))
def test_losses_close_together_reduce_the_risk(results, after):
    "RSK-8: so many losses, each within an hour of the one before, reduce risk until the session ends; gains between them change nothing."
    rules, state, now, lost, chain = changed(rules_of(), reduce_after=after), account(), 0, None, 0
    reduced = 0
    for minutes, usd in results:
        now += minutes
        book_lot(state, usd, usd)
        book_position(state, now * MINUTE, rules)
        if usd < 0:
            chain, lost = chain + 1 if lost is not None and now - lost <= 60 else 1, now
            reduced |= after > 0 and chain >= after
        assert state.reduced == reduced
    open_day(state, a_day(1), rules)
    assert state.reduced == 0


@some
@given(seconds=st.lists(st.tuples(st.sampled_from((0, 1, 300, 599, 600, 900, 1800)), st.sampled_from((.65, .75, .75, .75, .85))), max_size=60), allowed=st.tuples(*[st.integers(0, ENTRIES_AN_HOUR)] * 3))
def test_never_more_entries_in_any_hour(seconds, allowed):
    "RSK-8: no hour ever holds more entries of a tier than allowed, nor is one refused that would have fitted."
    rules, state, now, made = changed(rules_of(), entries_an_hour=allowed), account(), 10**18, ([], [], [])
    for wait, confidence in seconds:
        now += wait * SECOND
        k = tier(confidence, rules)
        fits = not allowed[k] or sum(now - HOUR < at <= now for at in made[k]) < allowed[k]
        assert (rate_refusal(state, confidence, now, rules) == Reason.NONE) == fits
        if fits:
            count_entry(state, confidence, now, rules)
            made[k].append(now)
    for k in range(3):
        assert state.entries[k] == len(made[k])
        if allowed[k]: assert all(sum(at <= other < at + HOUR for other in made[k]) <= allowed[k] for at in made[k])


def test_reversals_by_hand():
    "RSK-6: two inside the range of the first one's bar, 30 s apart; a close outside starts anew; a new session too."
    rules, state = rules_of(), account()
    bar = lambda second, low, high, close: Bar(second * SECOND, close, high, low, close)
    steps = [(bar(0, 98, 104, 100), "NONE"), (bar(29, 100, 100, 100), "COOLDOWN"), (bar(30, 90, 110, 104), "NONE"), (bar(60, 98, 98, 98), "REVERSAL"),
             (bar(61, 104, 104, 104), "REVERSAL"), (bar(62, 97, 97, 97), "NONE"), (bar(92, 97, 97, 97), "NONE"), (bar(122, 97, 97, 97), "REVERSAL")]
    for b, said in steps:
        assert Reason(reversal_refusal(state, b, rules)).name == said, b
        if said == "NONE": count_reversal(state, b, rules)
    open_day(state, a_day(1), rules)
    assert reversal_refusal(state, steps[-1][0], rules) == Reason.NONE
    assert reversal_refusal(account(), steps[0][0], rules_of(trader={"max_reversals": 0})) == Reason.REVERSAL


@some
@given(bars=st.lists(st.tuples(st.integers(1, 60), st.integers(90, 110), st.integers(0, 5), st.integers(0, 5)), max_size=60), most=st.integers(0, 3), wait=st.integers(0, 60))
def test_reversals_in_any_market(bars, most, wait):
    "RSK-6: never two closer than the cooldown, never more than allowed on closes inside the range that the first of them opened."
    rules, state, made, now = changed(rules_of(), max_reversals=most, reversal_cooldown_ns=wait * SECOND), account(), [], 0
    for seconds, close, up, down in bars:
        now += seconds * SECOND
        bar = Bar(now, close, close + up, close - down, close)
        if reversal_refusal(state, bar, rules) == Reason.NONE:
            count_reversal(state, bar, rules)
            made.append(bar)
    assert all(b.ts - a.ts >= wait * SECOND for a, b in zip(made, made[1:])) and (most > 0 or not made)
    first = 0
    for i, bar in enumerate(made):
        if not made[first].low <= bar.close <= made[first].high: first = i
        assert i - first < most
    if most and bars: assert made


# ---------------------------------------------------------------------------------------------------------------------------- nothing is forgotten

@some
@given(events=EVENTS, cut=st.integers(0, 60))
def test_a_restored_record_gives_the_same_answers(events, cut, tmp_path_factory):
    "RSK-1, RSK-5: saved and read back at any moment, the account goes on as if nothing had been."
    path, config = tmp_path_factory.mktemp("state") / "account", load_config()
    whole, first = account(), account()
    every = live(whole, events, STRICT, ALWAYS, 10**15)
    before = live(first, events[:cut], STRICT, ALWAYS, 10**15)
    save_state(first, path, config)
    again = load_state(path, config)
    after = live(again, events[cut:], STRICT, ALWAYS, 10**15 + sum(wait for wait, _ in events[:cut]) * SECOND)
    assert before + after == every and again.tobytes() == whole.tobytes()


def test_a_crash_while_saving_leaves_the_old_file(tmp_path, monkeypatch):
    "RSK-1: the disk fails at any step of a save; what is read back is the record before, or the new one, whole."
    path, config = tmp_path / "account", load_config()
    save_state(account(killed=Reason.KILL), path, config)
    for step in ("mesbot.keeper.os.replace", "mesbot.keeper.sync", "mesbot.keeper.Path.write_bytes"):
        def fails(*_, **__): raise OSError("no space left on device")
        with monkeypatch.context() as broken:
            broken.setattr(step, fails)
            with pytest.raises(OSError, match="no space"): save_state(account(5.0), path, config)
        assert load_state(path, config).killed == Reason.KILL
    save_state(account(5.0), path, config)
    assert load_state(path, config).balance == 5


def test_the_record_is_on_the_disk_before_it_is_renamed(tmp_path, monkeypatch):
    "RSK-1: file synced, renamed, folder synced, in this order."
    calls, replace = [], os.replace
    monkeypatch.setattr("mesbot.keeper.sync", lambda path: (calls.append(f"sync {path.name}"), sync(path)))
    monkeypatch.setattr("mesbot.keeper.os.replace", lambda a, b: (calls.append("replace"), replace(a, b)))
    save_state(account(), tmp_path / "account", load_config())
    assert calls == ["sync account.next", "replace", f"sync {tmp_path.name}"]


@pytest.mark.parametrize("spoil, says", [(lambda raw: raw[:-1], "cut or damaged"), (lambda raw: raw[:500], "cut or damaged"), (lambda raw: raw + b"\0", "cut or damaged"),
                                         (lambda raw: b"", "not a saved state"), (lambda raw: raw[:400] + bytes([raw[400] ^ 64]) + raw[401:], "cut or damaged")])
def test_a_bad_file_is_refused_in_one_line(tmp_path, spoil, says):
    "RSK-1: cut, longer, empty, one bit changed."
    path, config = tmp_path / "account", load_config()
    save_state(account(), path, config)
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(ValueError, match=says) as refused: load_state(path, config, any_config=True)
    assert "\n" not in str(refused.value) and str(path) in str(refused.value)


def test_other_settings_must_be_meant(tmp_path):
    "RSK-1: a record is not traded on under other limits by accident; where things lie is no limit."
    path, config = tmp_path / "account", load_config()
    save_state(account(), path, config)
    with pytest.raises(ValueError, match="any_config=True"): load_state(path, load_config(risk={"day_loss_usd": 500}))
    assert load_state(path, load_config(risk={"day_loss_usd": 500}), any_config=True).balance == load_state(path, load_config(paths={"runs": "x"})).balance == 1000
    with pytest.raises(FileNotFoundError, match="no saved state"): load_state(tmp_path / "nowhere", config)


def test_two_threads_never_step_at_once(tmp_path):
    "RSK-1: while one thread is inside, also in a save or a reset, no other is."
    keeper, inside, most = Keeper(account(), tmp_path / "account", load_config()), [], []
    def step(state):
        inside.append(1)
        most.append(len(inside))
        time.sleep(.0005)
        inside.pop()
    def work():
        for _ in range(20):
            keeper.step(step)
            with keeper as state: step(state)
    threads = [Thread(target=work) for _ in range(4)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    assert max(most) == 1 and len(most) == 160


def test_a_save_waits_for_the_step(tmp_path):
    "RSK-1: what is saved is never the middle of a step."
    keeper = Keeper(account(), tmp_path / "account", load_config())
    with keeper as state:
        state.balance = 1.0
        saver = Thread(target=keeper.save)
        saver.start()
        time.sleep(.05)
        assert not keeper.path.exists()
        state.equity = 1.0
    saver.join()
    kept = load_state(keeper.path, keeper.config)
    assert kept.balance == kept.equity == 1


# ---------------------------------------------------------------------------------------------------------------------------- a person's reset

SET = dict(killed=Reason.TRAILING_LOSS, review=Reason.REVIEW, passed=Reason.TARGET_REACHED, day_stop=Reason.DAY_PROFIT)


@pytest.mark.parametrize("latch", LATCHES)
def test_a_reset_is_an_event_with_a_name(latch, tmp_path):
    "RSK-1: who, why, when, what; one latch opens and nothing else, on the disk both."
    state = account(pause_until=100, pause_reason=Reason.VOLATILITY_SPIKE, **SET)
    keeper = Keeper(state, tmp_path / "account", load_config())
    event = keeper.reset(latch, "Ada", "the quote was wrong", now=99)
    assert (event["latch"], event["by"], event["why"], event["at_ns"]) == (latch, "Ada", "the quote was wrong", 99)
    assert event["reason"] == (Reason.VOLATILITY_SPIKE if latch == "pause" else SET[latch]).name.lower()
    kept = load_state(keeper.path, keeper.config)
    assert {name: int(kept[name]) for name in SET} == {**SET, **({latch: 0} if latch in SET else {})}
    assert (kept.pause_until, kept.pause_reason) == ((0, 0) if latch == "pause" else (100, Reason.VOLATILITY_SPIKE))
    with pytest.raises(ValueError, match=f"{latch} is not set"): keeper.reset(latch, "Ada", "once more", now=99)
    assert [json.loads(line) for line in (tmp_path / "account.resets.jsonl").read_text().splitlines()] == [event]


@pytest.mark.parametrize("latch, by, why, says", [("killed", "", "x", "by is empty"), ("killed", "\t ", "x", "by is empty"), ("killed", "Ada", " ", "why is empty"), ("review", "Ada", "x", "review is not set"),
                                                  ("pause", "Ada", "x", "pause is not set"), ("cooldown", "Ada", "x", "known: killed, review")])
def test_no_name_no_reason_no_latch_no_reset(latch, by, why, says, tmp_path):
    "RSK-1: refused in one line, nothing written, nothing changed. A pause that is over is not set."
    state = account(killed=Reason.KILL, pause_until=5, pause_reason=Reason.LOSS_STREAK)
    before = state.tobytes()
    with pytest.raises(ValueError, match=says): Keeper(state, tmp_path / "account", load_config()).reset(latch, by, why, now=5)
    assert state.tobytes() == before and not list(tmp_path.iterdir())


def test_the_event_is_on_the_disk_before_the_latch_opens(tmp_path, monkeypatch):
    "RSK-1: when the event cannot be written the latch stays; when the record cannot be saved the event is there and the saved latch is set."
    state = account(killed=Reason.KILL)
    keeper = Keeper(state, tmp_path / "account", load_config())
    keeper.save()
    def fails(*_): raise OSError("no space left on device")
    with monkeypatch.context() as broken:
        broken.setattr("mesbot.keeper.sync", fails)
        with pytest.raises(OSError): keeper.reset("killed", "Ada", "x")
        assert state.killed == Reason.KILL
    with monkeypatch.context() as broken:
        broken.setattr("mesbot.keeper.save_state", fails)
        with pytest.raises(OSError): keeper.reset("killed", "Bob", "x")
    assert load_state(keeper.path, keeper.config).killed == Reason.KILL and "Bob" in (tmp_path / "account.resets.jsonl").read_text()
    state.killed, synced = Reason.KILL, []
    monkeypatch.setattr("mesbot.keeper.sync", lambda path: (synced.append((path.name, int(state.killed))), sync(path)))
    keeper.reset("killed", "Eve", "x")
    assert synced == [("account.resets.jsonl", Reason.KILL), (tmp_path.name, Reason.KILL), ("account.next", 0), (tmp_path.name, 0)]


def test_a_reset_moves_no_limit_but_the_review(tmp_path):
    "RSK-1: with the money still gone the kill and the day's stop are back at the next mark; the review is measured anew."
    state, config = account(), load_config()
    keeper, rules = Keeper(state, tmp_path / "account", config), risk_rules(config)
    state.balance = 650.0
    assert keeper.step(mark, 0, MES.tick_usd, rules) == Reason.KILL
    for latch in ("killed", "review", "day_stop"): keeper.reset(latch, "Ada", "seen")
    assert keeper.step(mark, 0, MES.tick_usd, rules) == Reason.KILL
    assert (state.killed, state.review, state.day_stop) == (Reason.KILL, 0, Reason.DAY_LOSS) and (state.peak_equity, state.drawdown_usd) == (650, 350)


@some
@given(life=LIFE)
def test_what_is_left_agrees_with_the_limits(life):
    "RSK-1: as long as something is left of every limit none is hit, and the one that hits had nothing left."
    state, days = account(entry=1000, contracts=2, side=1), 0
    names = {Reason.KILL: "total_loss_usd", Reason.TRAILING_LOSS: "trailing_loss_usd", Reason.REVIEW: "review_drawdown_usd", Reason.TARGET_REACHED: "profit_target_usd",
             Reason.DAY_LOSS: "day_loss_usd", Reason.DAY_DRAWDOWN: "day_drawdown_usd", Reason.DAY_PROFIT: "day_profit_usd"}
    for what, n in life:
        if what == "turn": state.side = n
        elif what == "book": book_lot(state, float(n), float(n))
        elif what == "day":
            days += 1
            open_day(state, a_day(days), TIGHT_RULES)
        else:
            for latch in OPEN: state[latch] = 0
            answer, left = marked(state, 1000 + n, TIGHT_RULES), limits_left(state, TIGHT_RULES)
            assert (answer == Reason.NONE) == all(left[name] > 0 for name in names.values())
            if answer != Reason.NONE: assert left[names[answer]] <= 0


@some
@given(untils=st.lists(st.tuples(st.integers(0, 100), st.sampled_from((Reason.LOSS_STREAK, Reason.STALE_DATA))), max_size=30))
def test_the_longest_pause_stays(untils):
    "RSK-5: of several pauses the one that ends last holds, with its own reason; the first of equals."
    state = account()
    for until, reason in untils: pause.py_func(state, until, reason)
    longest = max(untils, key=lambda p: p[0], default=(0, 0))
    assert (state.pause_until, state.pause_reason) == (longest if longest[0] else (0, 0))
