"""Attempts at prop-firm evaluations (BT-9): hand-worked days, a plain second account, and a race with a known end."""
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesbot.calendar import session_table
from mesbot.challenge import OUTCOMES, PASS_RATE, RULES, ChallengeRules, attempt_nb, challenge
from mesbot.core import MES

DAYS = session_table("2024-01-08", "2024-12-20")["date"].astype("M8[D]")
FIFTY, FTMO = RULES["topstep-50k"], RULES["ftmo-like-100k"]


def attempt(*days, rules=FIFTY, worst=None, kernel=attempt_nb):
    "Days as lists of trades, in this order -> outcome, days, balance, best day, days closed."
    net = np.array([trade for day in days for trade in day], float)
    first = np.cumsum([0] + [len(day) for day in days])
    outcome, *rest = kernel(np.arange(len(days), dtype=np.int32), first, net, net if worst is None else np.minimum(net, np.array(worst, float)), rules)
    return OUTCOMES[outcome], *rest


def test_the_amounts_are_the_firms():
    "topstep_rules.md section 1: start, target, maximum loss, daily loss; consistency 55 %. RSK-9 for the other firm."
    assert {name: r[:3] + (r.day_loss_usd,) for name, r in RULES.items()} == {
        "topstep-50k": (50_000, 3_000, 2_000, 1_000), "topstep-100k": (100_000, 6_000, 3_000, 2_000), "topstep-150k": (150_000, 9_000, 4_500, 3_000), "ftmo-like-100k": (100_000, 10_000, 9_000, 4_500)}
    assert all((r.trailing, r.day_loss_ends, r.best_day_share) == (name != "ftmo-like-100k", name == "ftmo-like-100k", .55 * (name != "ftmo-like-100k")) for name, r in RULES.items())


def test_topsteps_own_example():
    "Example 50K: day 1 +500 -> floor 48,500; day 2 -500 -> still 48,500; 52,000 and more at a day's end -> floor 50,000 for good."
    assert attempt([500], [-500], [-999], [-500])[0] == "undecided" and attempt([500], [-500], [-999], [-501])[:3] == ("max_loss", 4, 48_500)
    assert attempt([500], [-500], [500], [-900], [-900], [-200])[:3] == ("max_loss", 6, 48_500)             # 50,500 again: no new best, no new floor
    assert attempt([1100], [900], [-900], [-900], [-199])[:3] == ("undecided", 5, 50_001) and attempt([1100], [900], [-900], [-900], [-200])[:3] == ("max_loss", 5, 50_000)
    assert attempt([1100], [900], [900], [-900], [-900], [-900], [-199])[0] == "undecided"                   # 52,900: still 50,000
    assert attempt([1900, -1900], [-900], [-900], [-199])[0] == "undecided"                                  # a best during the day lifts nothing


def test_the_daily_loss_closes_the_day_and_not_the_attempt():
    assert attempt([-600, -399, 100]) == ("undecided", 1, 49_101, 0, 0)
    assert attempt([-600, -400, 100]) == ("undecided", 1, 49_000, 0, 1)
    assert attempt([800, -1799, 9]) == ("undecided", 1, 49_010, 0, 0) and attempt([800, -1800, 9]) == ("undecided", 1, 49_000, 0, 1)   # from the day's start, not from its best
    assert attempt([-1000, 500], [-999]) == ("undecided", 2, 48_001, 0, 1) and attempt([-1000, 500], [-1000])[0] == "max_loss"
    assert attempt([-5000], rules=FTMO)[0] == "day_loss" and attempt([-5000], rules=FTMO._replace(day_loss_ends=False)) == ("undecided", 1, 95_000, 0, 1)
    assert attempt([-1999], rules=FIFTY._replace(day_loss_usd=0))[0] == "undecided"


def test_open_losses_count():
    assert attempt([100, 200], worst=[-1999, 0])[2:] == (48_001, 0, 1)          # closed at its worst by the daily loss
    assert attempt([100], worst=[-2000])[0] == "max_loss" and attempt([100], worst=[-999])[2] == 50_100
    log = pd.DataFrame({"trade_date": DAYS[:1], "net_usd": 100.0, "mae_ticks": 2000 / MES.tick_usd, "contracts": 1})
    assert challenge(log, DAYS[:1], attempts=20).breaches == {"max_loss": 20, "day_loss": 0} and challenge(log.drop(columns="mae_ticks"), DAYS[:1], attempts=20).pass_rate == 1


def test_a_best_day_raises_the_target():
    "Consistency: best day <= 55 % of the profit; not a failure, the target rises to best day / 0.55."
    assert attempt([1650], [1350])[:2] == ("passed", 2)                          # exactly 55 %
    assert attempt([1651], [1349])[0] == "undecided" and attempt([1651], [1349], [1.81])[0] == "undecided" and attempt([1651], [1349], [1.82])[:2] == ("passed", 3)
    assert attempt([3000])[0] == attempt([30_000])[0] == "undecided" and attempt([1500], [1500])[0] == "passed"
    assert attempt([2000], [-900], [2536.36])[0] == "undecided"                  # now the best day is another one: 2536.36 / .55 = 4611.56
    assert attempt([3000], rules=FIFTY._replace(best_day_share=0))[:2] == ("passed", 1)
    assert attempt([9000], [1000], [], [0.0], rules=FTMO)[0] == "undecided" and attempt([9000], [1000], [0.0], [0.0], rules=FTMO)[:2] == ("passed", 4)   # days with a trade
    assert attempt([3500, -600], [-500], [500])[0] == "undecided" and attempt([1600], [1600, -201])[0] == "undecided"   # only a day's end counts


money = st.integers(-40, 40).map(lambda x: x * 50.0)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.lists(st.tuples(money, st.integers(0, 30)), max_size=4), min_size=1, max_size=12), st.sampled_from([*RULES.values(), ChallengeRules(10_000, 800, 900, True, 0, False, .4, 3),
       ChallengeRules(10_000, 800, 900, False, 400, True, 0, 1), ChallengeRules(10_000, 800, 900, True, 400, False, .4, 0)]))
def test_it_agrees_with_a_plain_account(days, r):
    nets, worst = [[net for net, _ in day] for day in days], [[min(net, -50.0 * dip) for net, dip in day] for day in days]
    ends, gains, closed, answer = [r.start_usd], [], 0, None
    for k, day in enumerate(nets):
        floor = r.start_usd - r.max_loss_usd if not r.trailing else min(r.start_usd, max(ends) - r.max_loss_usd)
        balance = ends[-1]
        for net, low in zip(day, worst[k]):
            if balance + low <= floor: answer = ("max_loss", k + 1, balance + low, max([0, *gains]), closed)
            elif r.day_loss_usd and balance + low <= ends[-1] - r.day_loss_usd:
                if r.day_loss_ends: answer = ("day_loss", k + 1, balance + low, max([0, *gains]), closed)
                else: closed += 1
                balance += low
            else:
                balance += net
                continue
            break
        if answer: break
        gains.append(balance - ends[-1])
        ends.append(balance)
        profit = balance - r.start_usd
        if profit >= r.target_usd and max(gains) <= (r.best_day_share or 9) * profit + 1e-6 and sum(map(bool, nets[:k + 1])) >= r.min_days:
            answer = ("passed", k + 1, balance, max([0, *gains]), closed)
            break
    answer = answer or ("undecided", len(days), ends[-1], max([0, *gains]), closed)
    flat = [low for day in worst for low in day]
    for kernel in (attempt_nb, attempt_nb.py_func): assert attempt(*nets, rules=r, worst=flat, kernel=kernel) == answer


def log_of(n, seed=4, p=.52):
    rng = np.random.default_rng(seed)
    count = rng.poisson(9, n)
    return pd.DataFrame({"trade_date": np.repeat(DAYS[:n], count), "net_usd": rng.choice([14.16, -12.09], count.sum(), p=[p, 1 - p])})


def test_a_fair_race_ends_as_the_formula_says():
    "±$500 a day, 18 steps down to the floor, 20 up to the target: 18/38 pass. With a floor that climbs fewer do."
    coin = pd.DataFrame({"trade_date": DAYS[:20], "net_usd": [500.0, -500.0] * 10})
    fair = challenge(coin, DAYS[:20], FTMO._replace(day_loss_usd=0.0, min_days=0), 4000, block_sessions=1, sessions=5000)
    assert fair.undecided == 0 and abs(fair.pass_rate - 18 / 38) < 4 * (.25 / 4000)**.5 and fair.pass_low < 18 / 38 + .02 and fair.pass_high > 18 / 38 - .02
    climbing = challenge(coin, DAYS[:20], FTMO._replace(day_loss_usd=0.0, min_days=0, trailing=True), 4000, block_sessions=1, sessions=5000)
    assert climbing.pass_rate < fair.pass_rate - .05


def test_the_answer_adds_up():
    log = log_of(120)
    found = challenge(log, DAYS[:120], "topstep-50k", 500, 20)
    count = found.table["outcome"].value_counts()
    assert count.get("passed") == found.pass_rate * 500 and count.get("max_loss") == found.breaches["max_loss"] and count.sum() == found.attempts == 500
    assert found.pass_low < found.pass_rate < found.pass_high and found.pass_high - found.pass_low < .09 and found.tested_sessions == 120
    assert found.days_to_pass["q50"] == found.table.loc[found.table["outcome"] == "passed", "sessions"].median()
    assert (found.table.loc[found.table["outcome"] == "passed", "final_usd"] >= 53_000).all() and (found.table.loc[found.table["outcome"] == "max_loss", "final_usd"] <= 50_000).all()
    assert found.gate_passed == (found.pass_rate >= PASS_RATE) and PASS_RATE == .7
    again, other = (challenge(log, DAYS[:120], "topstep-50k", 500, 20, seed) for seed in (1, 2))
    assert again.table.equals(found.table) and not other.table.equals(found.table)


def test_size_decides():
    log = log_of(120)
    small, large = (challenge(log, DAYS[:120], "topstep-50k", 500, scale) for scale in (5, 40))
    assert small.gate_passed and small.breaches["max_loss"] < large.breaches["max_loss"] and small.days_to_pass["q50"] > 3 * large.days_to_pass["q50"]
    losing = challenge(log_of(120, p=.44), DAYS[:120], "topstep-50k", 200, 20)
    assert losing.pass_rate < .2 and not losing.gate_passed
    tiny = challenge(log, DAYS[:120], "topstep-150k", 20, .01)
    assert (tiny.pass_rate, tiny.undecided) == (0, 20) and np.isnan(tiny.days_to_pass["q05"])


@pytest.mark.parametrize("wrong, says", [(dict(rules="topstep-1k"), "rules must be one of topstep-50k, topstep-100k"), (dict(attempts=19), "attempts must be from 20"), (dict(scale=0), "scale must be above 0"),
                                         (dict(scale=float("nan")), "scale must"), (dict(sessions=0), "sessions must be"), (dict(seed=-1), "seed must"), (dict(trade_dates=["2030-01-02"]), "lies in none")])
def test_what_cannot_be_is_refused_in_one_line(wrong, says):
    with pytest.raises(ValueError, match=says) as e: challenge(log_of(10), **wrong)
    assert "\n" not in str(e.value)
