"""The recipe's numbers are those of MES, and a tape written by a recipe does what each of its numbers says (SYN): moods, drift, jumps, prints, echoes and bars, one at a time."""
import math

import numpy as np
import pytest

from mesbot.recipe import LEVEL, RTH_S, SESSION_S, Recipe, check_recipe, mes_curves, mes_recipe
from mesbot.tape import Edge, Shocks, new_tape, write_session

NO_SHOCKS = Shocks(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))
CALM = dict(slow_sd=0, fast_sd=0, quick_day_sd=0, slow_day_sd=0)  # every second and every day alike
MES = mes_recipe()


def flat(seconds, vol, rate, **changes):
    "MES with one volatility and one trade rate all day, and with changes."
    return MES._replace(vol=np.full(seconds, float(vol)), rate=np.full(seconds, float(rate)), **{name: float(value) for name, value in changes.items()})


def write(recipe, seed, edge=Edge(), day=0.0, shocks=NO_SHOCKS):
    "How many seconds traded, and the tape."
    tape = new_tape(len(recipe.vol))
    return write_session(np.random.default_rng(seed), recipe, edge, day, shocks, tape), tape


def prints_of(*args, **how):
    "Prints of every second."
    n, tape = write(*args, **how)
    out = np.zeros(len(tape.bid))
    out[tape.second[:n]] = tape.prints[:n]
    return out


def memory(x, lag):
    "Correlation of values `lag` apart in rows that share one mean."
    x = np.atleast_2d(x) - np.mean(x)
    return (x[:, lag:] * x[:, :-lag]).mean() / (x * x).mean()


# --- the recipe ---

def test_the_constants_of_mes():
    "SYN: every constant of the recipe, in order; whoever turns one must say so here."
    assert MES[2:] == (1, 1, 26_000, .04, .18, .38, 1800, .28, 90, .30, 300, 1, 1.2, .8, 12, .8, 3, 14, .60, 15, 4, .9, 1.5, .60, 1.1, .6, .11, 10)
    assert (SESSION_S, RTH_S, LEVEL) == (23 * 3600, (15.5 * 3600, 22 * 3600), 26_000)


DAY = [  # hours after 18:00 New York, ticks per root second, prints per second: market.md 3.1
    (0, .60, 4.0), (.15, .42, 2.1), (1, .33, 1.0), (2, .40, 1.5), (3, .35, 1.1), (5, .28, .65), (7, .27, .60), (8.5, .33, .90), (9, .47, 2.0), (10, .43, 1.6), (12, .36, 1.2),
    (14, .42, 1.8), (14.5, .62, 3.6), (15.45, .60, 4.2), (15.5, 1.75, 26), (15.75, 1.45, 20), (16.5, 1.15, 15), (17.5, .92, 11), (19, .74, 8), (20, .80, 9), (21, .90, 11), (21.8, 1.05, 15), (22, 1.10, 18)]
LATE = [(22, .55, 3.6), (22.3, .38, 1.7), (23, .30, 1.0)]


@pytest.mark.parametrize("knots", (DAY, LATE))
def test_the_curves_go_through_the_table(knots):
    "SYN: at each knot the table's value, between two the logarithm is a straight line; at 16:00 both curves drop at once."
    curves = mes_curves()
    for k, curve in enumerate(curves, 1):
        for (a, *low), (b, *high) in zip(knots, knots[1:]):
            second = np.arange(math.ceil(a * 3600), round(b * 3600))
            part = (second / 3600 - a) / (b - a)
            np.testing.assert_allclose(curve[second], low[k - 1]**(1 - part) * high[k - 1]**part, rtol=1e-9, err_msg=f"from hour {a}")


LIMITS = dict(
    scale=(1e-6, 1e6), activity=(1e-6, 1e6), level=(1, 2**28), carry=(-1, 1), quick_day_sd=(0, 2), slow_day_sd=(0, 2), slow_tau=(1, 1e9), slow_sd=(0, 1.5), fast_tau=(1, 1e9), fast_sd=(0, 1.5), burst_tau=(1, 1e9),
    news=(0, 100), news_burst=(0, 100), shocks=(0, 10_000), shock_ticks=(0, 1e5), shock_burst=(0, 100), gap_ticks=(0, 1e5), weekend_gap_ticks=(0, 1e5), branching=(0, .99), hawkes_tau=(1, 1e9), batch=(1.001, 1e4),
    rate_power=(0, 3), rate_burst=(0, 100), move_prints=(0, 1), size_extra=(0, 1e6), size_sd=(0, 3), lean=(0, .5), shown=(1, 1e6))


def test_every_constant_has_its_limits():
    "SYN: the limit itself is taken, the next number outside is refused by name, and so are infinity and NaN."
    assert tuple(LIMITS) == Recipe._fields[2:]
    faint = MES._replace(vol=MES.vol * 1e-9, rate=MES.rate * 1e-9)      # so that no limit of a field is too loud or too busy
    for name, (low, high) in LIMITS.items():
        assert [getattr(check_recipe(faint, **{name: value}), name) for value in (low, high)] == [low, high]
        for value in (np.nextafter(low, -np.inf), np.nextafter(high, np.inf), np.inf, -np.inf, np.nan):
            with pytest.raises(ValueError, match=f"^{name} must be from ") as e: check_recipe(faint, **{name: value})
            assert "\n" not in str(e.value)


def test_a_second_has_only_so_many_moves_and_prints():
    "SYN: 100 ticks per root second and 10,000 prints per second are the most, whatever makes them: scale, level, activity or the curves."
    for changes in (dict(scale=100 / 1.75), dict(level=100 / 1.75 * LEVEL), dict(vol=MES.vol * 100 / 1.75)):
        check_recipe(MES, **{name: value * .999 for name, value in changes.items()})
        with pytest.raises(ValueError, match="a volatility of 100 ticks per root second is too much"): check_recipe(MES, **{name: value * 1.001 for name, value in changes.items()})
    check_recipe(MES, scale=100, level=LEVEL / 100)                      # what counts is their product
    for changes in (dict(activity=10_000 / 26), dict(rate=MES.rate * 10_000 / 26)):
        check_recipe(MES, **{name: value * .999 for name, value in changes.items()})
        with pytest.raises(ValueError, match="prints per second are too many"): check_recipe(MES, **{name: value * 1.001 for name, value in changes.items()})


# --- volatility ---

def test_a_session_begins_in_any_mood():
    "SYN: at 18:00 the log volatility already has its spread, .41, and a hidden signal its own, 1; no tape warms up. Standard errors of 6000 tapes: .004 and .009."
    recipe = flat(1, 1, 1)
    tapes = [write(recipe, seed, Edge(0.0, True))[1] for seed in range(6000)]
    np.testing.assert_allclose(np.std([np.log(t.sigma[0]) for t in tapes]), math.hypot(.28, .30), rtol=.08)
    np.testing.assert_allclose(np.std([t.signal[0] for t in tapes]), 1, atol=.06)
    np.testing.assert_allclose(np.mean([t.signal[0] for t in tapes]), 0, atol=.06)


def test_noise_does_not_make_it_louder():
    "SYN: the curve is the mean of volatility over seconds and days: e^noise is divided by its mean, for each of the four noises. Standard error of 4000 tapes: .018."
    for name, level in (("quick_day_sd", .8), ("slow_day_sd", .8)):
        np.testing.assert_allclose(write(flat(1, 1, 1, **CALM | {name: level}), 1)[1].sigma, math.exp(-.32), rtol=1e-6, err_msg=name)   # the day's part comes with `day`
        np.testing.assert_allclose(write(flat(1, 1, 1, **CALM | {name: level}), 1, day=.7)[1].sigma, math.exp(.7 - .32), rtol=1e-6)
    np.testing.assert_allclose(write(flat(1, .5, 1, **CALM, scale=3, level=2 * LEVEL), 1)[1].sigma, 3, rtol=1e-6)                         # in proportion to scale and price
    recipe = flat(1, 1, 1, **CALM | dict(slow_sd=.8, fast_sd=.8))
    np.testing.assert_allclose(np.mean([np.log(write(recipe, seed)[1].sigma[0]) for seed in range(4000)]), -.64, atol=.08)


@pytest.mark.parametrize("part, sd", (("slow", .28), ("fast", .30)))
def test_moods_have_their_spread_and_their_memory(part, sd):
    "SYN: each part of the log volatility alone: its deviation, and e^-1 of it left after its memory. Standard errors of 8000 memories: .003 and .015."
    recipe = flat(82_800, 1e-3, 1e-3, **CALM | {f"{part}_sd": sd, f"{part}_tau": 50})
    x = [np.log(write(recipe, seed)[1].sigma.astype(float)) for seed in range(5)]
    np.testing.assert_allclose(np.std(x), sd, atol=.02)
    np.testing.assert_allclose([memory(x, 50), memory(x, 150)], [math.exp(-1), math.exp(-3)], atol=.08)


def test_a_burst_dies_away():
    "SYN: news of burst 2 makes the second it comes in three times as loud, and what it adds dies with the memory of bursts; to the digit."
    tape = write(flat(2000, .01, 1, **CALM), 1, shocks=Shocks(np.array([500]), np.array([0]), np.array([2.0])))[1]
    after = np.arange(2000) - 500
    np.testing.assert_allclose(tape.sigma, .01 * (1 + 2 * np.exp(-after / 300) * (after >= 0)), rtol=1e-5)


@pytest.mark.parametrize("sigma", (.3, 2.0, 10.0))
def test_moves_are_as_large_as_volatility_says(sigma):
    "SYN: one-second moves of the bid have the variance sigma^2 and no mean, below and above the mean of 12 at which Poisson numbers are rounded normal ones. Standard errors of 250,000 seconds: under 1 % and .002 sigma."
    move = np.concatenate([np.diff(write(flat(82_800, sigma, 1, **CALM), seed)[1].bid, prepend=0) for seed in range(3)])
    np.testing.assert_allclose((move**2.0).mean() / sigma**2, 1, atol=.035)
    assert abs(move.mean()) < .009 * sigma


def test_a_drift_is_alpha_sigmas_and_at_most_nine_tenths():
    "SYN: the mean move of a second is alpha * signal * sigma; of so large an alpha that every move would go one way, nine in ten still are left to. Standard errors: .004 and .0035."
    for sigma in (.5, 2.0):
        tape = write(flat(82_800, sigma, 1, **CALM), 2, Edge(.05, True))[1]
        move, signal = np.diff(tape.bid, prepend=0), tape.signal.astype(float)
        np.testing.assert_allclose((move * signal).sum() / (sigma * (signal**2).sum()), .05, atol=.016)
    tape = write(flat(82_800, 1, 1, **CALM), 1, Edge(1e9, True))[1]
    np.testing.assert_allclose((np.diff(tape.bid, prepend=0) * np.sign(tape.signal)).sum() / (tape.sigma**2.0).sum(), .9, atol=.02)


def test_the_bid_does_not_know_who_traded_last():
    "SYN: with a lean of .5 all prints of a session are on one side; without an edge the bid goes neither towards it nor away. A z-score; half a per cent of the moves would be 11."
    drift = power = 0.0
    for seed in range(4):
        recipe = flat(82_800, 5, 5, lean=.5, **CALM)
        recipe.vol[:60] = 1e-6                                          # until the first print, which is at the bid or the ask of a market that stands
        n, tape = write(recipe, seed)
        move, side = np.diff(tape.bid).astype(float), 2 * (tape.close[0] - tape.bid[tape.second[0]]) - 1
        assert n > 60_000 and side in (-1, 1)
        drift, power = drift + side * move.sum(), power + (move**2).sum()
    assert abs(drift) < 3.5 * math.sqrt(power)


# --- prints ---

def test_orders_come_by_poisson():
    "SYN: without answers and batches the prints of a second are a Poisson number: at a rate of 5 there are none in e^-5 of all seconds. Standard error: .0003."
    prints = prints_of(flat(82_800, 1e-6, 5, branching=0, batch=1.001, **CALM), 1)
    np.testing.assert_allclose((prints == 0).mean(), math.exp(-5), atol=.0015)
    np.testing.assert_allclose([prints.mean(), prints.var()], 5, rtol=.025)


def test_an_order_is_a_batch_of_prints():
    "SYN: as many prints as before, in orders of four on average, so their variance is 2 * 4 - 1 times their mean. Standard errors: .02 and .1."
    prints = prints_of(flat(82_800, 1e-6, 2, branching=0, batch=4, **CALM), 1)
    np.testing.assert_allclose(prints.mean(), 2, atol=.08)
    np.testing.assert_allclose(prints.var() / prints.mean(), 7, atol=.45)


def test_prints_follow_mood_and_news():
    "SYN: a day of log volatility 1 trades e^.9 times as much; a burst of 2 does 1 + 1.5 * 2 times; activity 3 does 3 times. Standard errors: about .4 % each."
    recipe = flat(82_800, 1e-6, 2, branching=0, batch=1.001, **CALM)
    usual = prints_of(recipe, 1).mean()
    news = Shocks(np.array([0]), np.array([0]), np.array([2.0]))
    for more, want in ((prints_of(recipe, 2, day=1.0), math.exp(.9)), (prints_of(recipe._replace(burst_tau=1e9), 3, shocks=news), 4), (prints_of(recipe._replace(activity=3.0), 4), 3)):
        np.testing.assert_allclose(more.mean() / usual, want, rtol=.02)


@pytest.mark.parametrize("tau", (5, 15))
def test_prints_echo_for_so_many_seconds(tau):
    "SYN: three in five orders answer earlier ones within the echo's memory, and bring no more prints: correlations as for a GARCH(1, 1), e^(-1/tau) its memory. Standard errors of 500,000 seconds: .003, mean .01."
    prints = [prints_of(flat(82_800, 1e-6, 2, batch=1.001, hawkes_tau=tau, **CALM), seed) for seed in range(6)]
    decay = math.exp(-1 / tau)
    answer = .60 * (1 - decay)
    stays = answer + decay
    first = answer * (1 - decay * stays) / (1 - stays**2 + answer**2)
    np.testing.assert_allclose([memory(prints, lag) for lag in (1, 10, 30)], [first * stays**(lag - 1) for lag in (1, 10, 30)], atol=.012)
    np.testing.assert_allclose(np.mean(prints), 2, atol=.05)


@pytest.mark.parametrize("vol, jumps", ((.5, 0), (1e-6, 1)))
def test_most_moves_without_a_trade_get_a_print(vol, jumps):
    "SYN: where hardly anyone trades, a moved quote leaves a bar in three cases of five, whether it walked or jumped. Standard error: .004 or .006."
    at = np.arange(10, 82_800, 10)
    shocks = Shocks(at, np.full(len(at), jumps), np.zeros(len(at)))
    shares = []
    for seed in range(3):
        n, tape = write(flat(82_800, vol, 1e-9, branching=0, **CALM), seed, shocks=shocks)
        moved = np.flatnonzero(np.diff(tape.bid, prepend=0))
        shares.append(np.isin(moved, tape.second[:n]).mean())
    np.testing.assert_allclose(np.mean(shares), .60, atol=.025)


def test_shown_prints_shape_the_bar_and_all_of_them_count():
    "SYN: with one print shown a bar has one price; trades and volume are counted all the same, 40 prints a second of 1 + 1.1 contracts each. Standard errors: .12 and .005."
    ranges = []
    for shown in (1, 10, 1e6):
        n, tape = write(flat(20_000, 1, 40, shown=shown, branching=0, **CALM), 5)
        np.testing.assert_allclose(tape.prints[:n].sum() / 20_000, 40, atol=.8)
        np.testing.assert_allclose(tape.volume[:n].sum() / tape.prints[:n].sum(), 2.1, atol=.04)
        ranges.append((tape.high[:n] - tape.low[:n]).mean())
        if shown == 1:
            for price in (tape.open, tape.high, tape.low): np.testing.assert_array_equal(price[:n], tape.close[:n])
    assert 0 == ranges[0] < ranges[1] < .95 * ranges[2]


def test_a_print_repeats_the_side_of_the_one_before():
    "SYN: in a market that stands still a lean of .5 never changes side, of 0 is a coin, of .11 repeats 61 in 100. Standard error: .003."
    for lean, want in ((0, .5), (.11, .61), (.5, 1.0)):
        n, tape = write(flat(82_800, 1e-6, 1, branching=0, batch=1.001, lean=lean, **CALM), 3)
        single = tape.prints[:n] == 1                                   # the last print before such a second and its only one
        same = (np.diff(tape.close[:n]) == 0)[single[1:]]
        np.testing.assert_allclose(same.mean(), want, atol=.015)
