"PBO, SPA and StepM against papers and other libraries (BT-8, reference/statistics.md sections 0, 4 and 5)."
import warnings
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import lfilter
from scipy.stats import kstest, rankdata

from mesbot.overfitting import probability_of_backtest_overfitting, superior_predictive_ability, surviving

NOISE = np.random.default_rng(12345).standard_normal((320, 20))
SKILLED = NOISE + .15 * (np.arange(20) == 3)


def pbo(daily, blocks=16): return float(probability_of_backtest_overfitting(daily, blocks))


def by_definition(daily, blocks):
    "λ of every split, straight from the paper: no block sums."
    parts, n, out = np.array_split(np.arange(len(daily)), blocks), daily.shape[1], []
    for taken in combinations(range(blocks), blocks // 2):
        rows = np.concatenate([parts[b] for b in taken])
        inside, outside = daily[rows], np.delete(daily, rows, axis=0)
        best = (inside.mean(0) / inside.std(0, ddof=1)).argmax()
        rank = rankdata(outside.mean(0) / outside.std(0, ddof=1))[best]
        out.append(np.log(rank / (n + 1) / (1 - rank / (n + 1))))
    return np.array(out)


@pytest.mark.parametrize("daily, blocks, value", [(NOISE, 16, 0.7806526806526807), (NOISE, 8, 0.8142857142857143), (SKILLED, 16, 0.14444444444444443), (SKILLED, 8, 0.1)])
def test_pbo_of_the_reference_matrix(daily, blocks, value):
    "BT-8: two independent implementations agree on these to the last digit."
    assert pbo(daily, blocks) == value


@pytest.mark.parametrize("shape, blocks", [((320, 20), 8), ((61, 7), 6), ((200, 2), 10), ((12, 5), 4), ((17, 4), 8)])
def test_pbo_is_what_the_paper_says_and_what_purgedcv_finds(shape, blocks):
    "BT-8: λ, Sharpe ratios and slope agree split by split, blocks of unequal length included; purgedcv lists the splits the other way round."
    purgedcv = pytest.importorskip("purgedcv")
    for seed in range(3):
        daily = np.random.default_rng(seed).standard_normal(shape)
        ours, theirs = probability_of_backtest_overfitting(daily, blocks), purgedcv.probability_of_backtest_overfitting(daily.T, n_splits=blocks)
        np.testing.assert_allclose(ours.logits, by_definition(daily, blocks), atol=1e-12)
        np.testing.assert_allclose(ours.logits, theirs.logits[::-1], atol=1e-12)
        np.testing.assert_allclose(np.column_stack([ours.sharpe_in, ours.sharpe_out]), theirs.is_oos_performance[::-1], atol=1e-10)
        np.testing.assert_allclose(ours.slope, theirs.slope, atol=1e-10)
        assert ours.splits == theirs.n_combos == len(ours.logits) and ours.oos_loss == (theirs.is_oos_performance[:, 1] < 0).mean()
        assert ours.pbo == (theirs.logits <= 1e-12).mean()


def test_the_median_counts_as_overfit():
    "BT-8: λ = 0 is overfit for the paper and for us, and not for purgedcv; on a tiny example that makes 1.0 of 0.333."
    purgedcv = pytest.importorskip("purgedcv")
    tiny = np.random.default_rng(22).integers(-3, 4, (8, 3)).astype(float)
    assert pbo(tiny, 4) == 1
    np.testing.assert_allclose(purgedcv.probability_of_backtest_overfitting(tiny.T, n_splits=4).pbo, 1 / 3)


def test_equal_means_make_the_best_the_worst():
    "BT-8: columns with one mean over all days give exactly 1, always: a known artefact of the method."
    for seed in range(10):
        daily = np.random.default_rng(seed).standard_normal((320, 20))
        assert pbo(daily - daily.mean(0), 8) == 1


def test_one_pbo_is_a_noisy_number():
    "BT-8: over 200 kinds of noise the mean is .501, the standard deviation .178, nine of ten lie in [.218, .806]; four blocks of 200 days by 40 give .47 to .53 on average."
    values = np.array([pbo(np.random.default_rng(seed).standard_normal((1000, 50)), 10) for seed in range(200)])
    np.testing.assert_allclose([values.mean(), values.std()], [.501, .178], atol=.03)
    np.testing.assert_allclose(np.quantile(values, [.05, .95]), [.218, .806], atol=.06)
    assert .01 <= (values < .2).mean() <= .08
    assert .45 < np.mean([pbo(np.random.default_rng(seed).standard_normal((200, 40)), 4) for seed in range(300)]) < .55


def test_skill_is_seen():
    "BT-8: one column with 0.2 standard deviations a day among noise: mean PBO .008, at most .067."
    values = [pbo(np.random.default_rng(seed).standard_normal((1000, 50)) + .2 * (np.arange(50) == 7), 10) for seed in range(50)]
    assert np.mean(values) < .02 and max(values) < .1


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 8), st.integers(1, 4).map(lambda k: 2 * k), st.integers(2, 6))
def test_pbo_is_about_ranks(seed, configurations, blocks, block_days):
    "BT-8: the order of the columns, their size and the direction of time change nothing; λ stays within what N allows."
    rng = np.random.default_rng(seed)
    daily = rng.standard_normal((max(blocks * block_days, 4), configurations))
    one = probability_of_backtest_overfitting(daily, blocks)
    assert 0 <= one.pbo <= 1 and 0 <= one.oos_loss <= 1 and np.abs(one.logits).max() <= np.log(configurations) + 1e-12
    for other in (daily[:, rng.permutation(configurations)], daily * rng.uniform(.1, 100, configurations), 7 * daily): assert pbo(other, blocks) == one.pbo
    if len(daily) == blocks * block_days: assert pbo(daily[::-1], blocks) == one.pbo


def test_configurations_that_did_not_trade():
    "BT-8: no variation is a Sharpe ratio of 0, so doing nothing beats losing and loses to winning; nothing becomes NaN."
    winner, idle = np.random.default_rng(0).normal(1, 1, 64), np.zeros(64)
    assert pbo(np.column_stack([idle, winner])) == 0 and pbo(np.column_stack([idle, -winner])) == 0
    seldom = np.where(np.arange(64) == 5, 40., 0)                       # one trade in all: flat in one half of every split
    mixed = probability_of_backtest_overfitting(np.column_stack([idle, seldom, -winner]))
    assert np.isfinite(mixed.logits).all() and np.isfinite(mixed.sharpe_out).all() and mixed.oos_loss == 0


@pytest.mark.parametrize("daily, blocks, says", [(NOISE, 7, "even number from 2 to 20, got 7"), (NOISE, 0, "got 0"), (NOISE, 22, "got 22"), (NOISE[:9], 16, "at least 16 days"), (NOISE[:3], 2, "at least 4 days"),
                                                 (NOISE[:, :1], 16, "2 configurations"), (NOISE[:, 0], 16, "got shape (320,)"), (np.where(NOISE > 3, np.nan, NOISE), 8, "finite, got nan")])
def test_what_cannot_be_judged_is_refused(daily, blocks, says):
    "BT-8: one clear line."
    with pytest.raises(ValueError) as e: probability_of_backtest_overfitting(daily, blocks)
    assert says in str(e.value) and "\n" not in str(e.value)


def one_good(seed=0, t=5.14):
    "500 days by 20: the first column has this t, the others are noise of up to 25 times its standard deviation."
    daily = np.random.default_rng(seed).standard_normal((500, 20))
    daily[:, 0] = (daily[:, 0] - daily[:, 0].mean()) / daily[:, 0].std() + t / 500**.5
    return daily * np.linspace(1, 25, 20)


def test_a_wild_column_does_not_hide_a_good_one():
    "BT-8: t = 5.14 beside 25 times as wild noise: p is about 0, where a test that does not divide by the standard error says some .5."
    daily, arch = one_good(), pytest.importorskip("arch.bootstrap")
    ours = superior_predictive_ability(daily, np.random.default_rng(1))
    assert ours.p_value <= .001 and ours.best == 0
    np.testing.assert_allclose(superior_predictive_ability(daily, np.random.default_rng(1), block_sessions=1).statistic, 5.14, rtol=1e-9)
    raw = arch.SPA(np.zeros(500), -daily, block_size=2, reps=500, seed=1)
    raw.compute()
    assert raw.pvalues["consistent"] > .2


def long_run(x, q):
    "ω² as Hansen writes it: covariances γ_i with the kernel of Politis and Romano."
    n, e = len(x), x - x.mean()
    return e @ e / n + 2 * sum(((n - i) / n * (1 - q)**i + i / n * (1 - q)**(n - i)) * (e[:-i] @ e[i:] / n) for i in range(1, n))


@pytest.mark.parametrize("block", (1, 4))
def test_spa_agrees_with_arch_on_standardised_columns(block):
    "BT-8: the statistic by Hansen's formula, all three p-values by arch, on days that depend on each other too."
    arch = pytest.importorskip("arch.bootstrap")
    for seed in range(4):
        rng = np.random.default_rng(seed)
        daily = rng.normal(rng.uniform(-.25, .08, 12), 1, (400, 12))
        if block > 1: daily[1:] += .3 * daily[:-1]
        ours, omega = superior_predictive_ability(daily, rng, 8000, block), np.array([long_run(x, 1 / block)**.5 for x in daily.T])
        np.testing.assert_allclose(ours.statistic, max(0, (20 * daily.mean(0) / omega).max()), rtol=1e-9)
        theirs = arch.SPA(np.zeros(400), -daily / omega, block_size=block, reps=3000, seed=seed)
        theirs.compute()
        np.testing.assert_allclose(ours[:3], theirs.pvalues[["consistent", "lower", "upper"]], atol=.03)


def test_p_is_even_on_noise_and_small_on_skill():
    "BT-8: 200 kinds of noise, p uniform by the Kolmogorov-Smirnov test. Where half of a day carries over to the next, day by day would call every second noise skill; blocks mend most of it, not all."
    def p_values(carry, block, runs):
        out = []
        for seed in range(runs):
            rng = np.random.default_rng(seed)
            daily = lfilter([1], [1, -carry], rng.standard_normal((300, 8)), axis=0)
            out.append(superior_predictive_ability(daily, rng, 300, block).p_value)
        return np.array(out)
    assert kstest(p_values(0, 1, 200), "uniform").pvalue > .01
    assert (p_values(.5, 1, 60) < .05).mean() > .35 and (p_values(.5, 12, 60) < .05).mean() < .25


@pytest.mark.parametrize("t", (5.0, 2.6))
def test_rubbish_does_not_hide_a_good_one(t):
    "BT-8: 200 clearly losing columns beside it move the consistent p by at most .02; White's reality check is moved."
    for seed in range(3):
        rng, daily = np.random.default_rng(seed), one_good(seed, t)
        rubbish = np.column_stack([daily, rng.normal(-.3, 1, (500, 200))])
        alone, beside = (superior_predictive_ability(x, rng, 4000, 1) for x in (daily, rubbish))
        assert abs(alone.p_value - beside.p_value) <= .02 and alone.best == beside.best
        if t < 5: assert beside.upper > beside.p_value + .02
        assert beside.lower <= beside.p_value <= beside.upper


def test_spa_where_there_is_nothing_to_test():
    "BT-8: columns without variation are left out; all of them: NaN, never 0; losers only: 1."
    rng, daily = np.random.default_rng(0), one_good()
    beside = superior_predictive_ability(np.column_stack([np.zeros(500), np.full(500, .1), daily]), rng, block_sessions=1)
    np.testing.assert_allclose(beside.statistic, 5.14, rtol=1e-9)
    assert beside.best == 2 and np.isnan(superior_predictive_ability(np.zeros((30, 2)), rng)[:4]).all()
    assert superior_predictive_ability(-np.abs(daily), rng).p_value == 1
    for bad in (daily[:2], daily[:, 0], np.where(daily > 50, np.inf, daily)):
        with pytest.raises(ValueError, match="daily must be"): superior_predictive_ability(bad, rng)


def test_the_survivors_are_those_of_arch():
    "BT-8: the step-wise test of Romano and Wolf on standardised columns finds what arch's StepM finds."
    arch = pytest.importorskip("arch.bootstrap")
    for seed in range(5):
        rng = np.random.default_rng(seed)
        daily = rng.standard_normal((500, 30))
        daily[:, :4] += [.35, .25, .3, .4]
        t, daily = daily.mean(0) / daily.std(0) * 500**.5, daily * rng.uniform(1, 20, 30)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            theirs = arch.StepM(np.zeros(500), -daily / daily.std(0), block_size=1, reps=2000, seed=seed)
            theirs.compute()
        ours, clear = surviving(daily, rng, block_sessions=1), np.abs(t - 2.9) > .2     # at the bar itself chance decides
        assert ours[:4].all() and np.array_equal(ours[clear], np.isin(np.arange(30), list(theirs.superior_models))[clear])


def test_the_bar_is_lowered_for_the_rest():
    "BT-8: with 30 sure ones among 40, one with t = 2.8 stands against the nine left, and would not against 40."
    rng = np.random.default_rng(0)
    daily = rng.standard_normal((500, 40))
    daily = (daily - daily.mean(0)) / daily.std(0) + np.repeat([9, 2.8, 0], [30, 1, 9]) / 500**.5
    assert np.flatnonzero(surviving(daily, rng, 8000, 1)).tolist() == list(range(31))
    daily[:, :30] -= daily[:, :30].mean(0)
    assert not surviving(daily, rng, 8000, 1).any()


def test_survivors_of_noise_are_rare():
    "BT-8: some column of 20 survives in about 5 % of 200 kinds of noise; with a bar of 1.64 for each it would be in 64 %."
    false = np.mean([surviving(np.random.default_rng(seed).standard_normal((250, 20)), np.random.default_rng(seed), 400, 1).any() for seed in range(200)])
    assert false <= .1


def test_the_same_seed_gives_the_same_answer():
    daily = one_good(3, 2.)
    assert superior_predictive_ability(daily, np.random.default_rng(4)) == superior_predictive_ability(daily, np.random.default_rng(4))
