"`calibrate` gives a known recipe back, describes real bars, and refuses what cannot be fitted (issue 3, SYN)."
import numpy as np
import pytest

from mesbot.bars import cut_bars, filter_hours
from mesbot.calibrate import calibrate, compare
from mesbot.facts import clock_part
from mesbot.importers import read_bars
from mesbot.market import synthetic_market
from mesbot.recipe import LEVEL, RTH_S, SESSION_S, mes_curves, mes_recipe

ALIKE = dict(quick_day_sd=0.0, slow_day_sd=0.0)                       # no calm and wild days: a few sessions cannot tell them
WILD = np.exp(.9**2 * (.18**2 + .38**2) / 2)                          # how much more prints MES's wild days bring on average
WAVE = np.exp(.3 * np.sin(6 * np.pi * np.arange(SESSION_S) / SESSION_S))


@pytest.fixture(scope="module")
def known():
    "A market half as loud again as MES and twice as busy, with curves of another shape, and what is found in it."
    true = mes_recipe(scale=1.5, activity=2.0, vol=mes_curves().vol * WAVE, rate=mes_curves().rate / WAVE, **ALIKE)
    bars = synthetic_market(12, seed=5, recipe=true).bars
    return true, bars, calibrate(bars)


def test_a_known_recipe_comes_back(known):
    "Level of volatility within 8 %, of activity within 15 %; lean .03, batch 10 %, log volatility 15 %, branching .25, jumps .4 a session, sizes 15 % and .25."
    true, bars, (found, _) = known
    for name, tolerance in dict(scale=.08, batch=.10, slow_sd=.15, fast_sd=.15, size_extra=.15).items():
        np.testing.assert_allclose(getattr(found, name), getattr(true, name), rtol=tolerance, err_msg=name)
    np.testing.assert_allclose(found.activity * WILD, true.activity, rtol=.15)
    for name, tolerance in dict(lean=.03, branching=.25, shocks=.4, size_sd=.25).items(): np.testing.assert_allclose(getattr(found, name), getattr(true, name), atol=tolerance, err_msg=name)
    made = synthetic_market(12, seed=6, recipe=found._replace(activity=found.activity * WILD, **ALIKE)).bars
    np.testing.assert_allclose(made.volume.sum() / bars.volume.sum(), 1, atol=.10)   # as many contracts


def test_the_curves_come_back(known):
    "Both curves within 15 % at most seconds (root mean square of the logarithm), with the same geometric mean as MES."
    true, _, (found, _) = known
    for curve, known_curve, mes in zip(found[:2], true[:2], mes_curves()):
        assert np.sqrt(np.mean(np.log(curve / known_curve)**2)) < .15 < np.sqrt(np.mean(np.log(mes / known_curve)**2))   # MES itself is .21 off
        np.testing.assert_allclose(np.log(curve / mes).mean(), 0, atol=1e-9)


def test_the_report_of_a_known_recipe_is_good(known):
    "The fit to a market of our own kind fits; MES itself does not."
    _, bars, (_, fit) = known
    assert fit["verdict"].iloc[:10].isin(["fits", "near"]).all() and (fit["verdict"] == "fits").sum() >= 15, fit
    mes = compare(bars, synthetic_market(6, seed=1, **ALIKE).bars)["verdict"]
    assert mes["contracts"] in ("near", "no fit") and mes["volatility, ticks per root second"] == "no fit"


@pytest.mark.parametrize("turned, name, low, high", [(dict(lean=.3), "lean", .2, .4), (dict(batch=2.0), "batch", 1.7, 2.5), (dict(slow_sd=.42, fast_sd=.45), "fast_sd", .36, .54), (dict(shocks=40.0), "shocks", 12, 60),
                                                     (dict(size_extra=4.0), "size_extra", 3.2, 4.8), (dict(scale=.5), "scale", .44, .56), (dict(level=2 * LEVEL), "scale", .88, 1.12)])
def test_every_knob_is_found(turned, name, low, high):
    "One constant away from MES at a time, in regular hours of eight sessions."
    bars = filter_hours(synthetic_market(8, seed=3, **ALIKE | turned).bars, "RTH")[0]
    found, _ = calibrate(bars, sessions=6, rounds=9)
    assert low < getattr(found, name) < high, {key: getattr(found, key) for key in found._fields[2:]}
    assert (found.vol[:RTH_S[0]] == mes_curves().vol[:RTH_S[0]]).all() and (found.rate[RTH_S[1]:] == mes_curves().rate[RTH_S[1]:]).all()   # the night is a guess: MES


def test_calm_and_wild_days_blur_but_do_not_break_it():
    "With MES's days the level is that of the days there were: within 15 % of the truth behind them."
    market = synthetic_market(16, seed=9, scale=1.3)
    found, _ = calibrate(market.bars)
    mean = market.sigma[:, 3600:].mean()
    np.testing.assert_allclose(found.scale * found.vol[3600:].mean() * found.level / LEVEL / mean, 1, atol=.15)
    assert (found.quick_day_sd, found.slow_day_sd) == (.18, .38)


def test_the_same_bars_give_the_same_recipe():
    "No clock, no global chance."
    bars = clock_part(synthetic_market(2, seed=8).bars, *RTH_S)
    one, two = (calibrate(bars, sessions=2, rounds=2) for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(one.recipe, two.recipe)) and one.fit.equals(two.fit)
    assert not np.array_equal(one.recipe.vol, calibrate(bars, sessions=2, rounds=2, seed=50).recipe.vol)


@pytest.mark.parametrize("file, symbol, level, fitted", [
    ("es_1s_20180507.csv.gz", "ES", 10_703, ["bounce", "flat", "sd of 1 s changes, ticks", "seconds without a change", "kurtosis of 1 s changes", "correlation of changes, 1 s"]),
    ("spy_1s_201310.csv.gz", "SPY", 16_777, ["bounce", "flat", "contracts", "sizes", "sd of 1 s changes, ticks", "seconds without a change"])])
def test_real_bars(shared_data, file, symbol, level, fitted):
    "The level in the instrument's own ticks; volatility and activity by the clock, and what the report says fits, fit."
    bars = filter_hours(read_bars(shared_data / file, symbol).bars["1s"], "RTH")[0]
    found, fit = calibrate(bars)
    assert found.level == np.median(bars.close) == pytest.approx(level, abs=1)
    assert fit.loc[["volatility, ticks per root second", "seconds with a trade", *fitted], "verdict"].isin(["fits", "near"]).all(), fit
    assert (symbol == "ES") == (fit.loc["contracts", "verdict"] == "not in the bars") == (found.size_extra == mes_recipe().size_extra)
    made = synthetic_market(2, seed=4, recipe=found).bars              # and a market can be made of it
    assert abs(made.close[0] - found.level) < 100


def test_what_cannot_be_fitted_is_refused():
    "One line each, with what would be right."
    bars = synthetic_market(1, seed=2).bars
    for bad, words in ((bars._replace(bar_s=60), "one-second bars are needed, got bars of 60 s"), (cut_bars(bars, 999), "a fit needs 1,000 bars or more, got 999"),
                       (bars._replace(close=np.full_like(bars.close, 7)), "a fit needs prices that move"), (clock_part(bars, RTH_S[0], RTH_S[0] + 3000), "a fit needs an hour of bars in one session")):
        with pytest.raises(ValueError, match=words) as e: calibrate(bad)
        assert "\n" not in str(e.value)


def test_a_hole_is_not_taken_for_a_calm_market():
    "Twenty-five minutes missing on one day of three turn no knob; where every hour has its hole there is nothing to fit."
    bars = clock_part(synthetic_market(3, 5, quick_day_sd=0, slow_day_sd=0).bars, *RTH_S)
    hole = (bars.ts < bars.ts[9000]) | (bars.ts > bars.ts[9000] + 1500 * SECOND)
    holed = make_bars(*(column[hole] for column in bars[:6]))
    whole, parted = rulers(bars), rulers(holed)
    assert parted.hours < whole.hours
    np.testing.assert_allclose(parted[["mood", "flurry", "bounce"]], whole[["mood", "flurry", "bounce"]], rtol=.12)
    every = bars.ts % (3600 * SECOND) > 900 * SECOND
    with pytest.raises(ValueError, match="without a hole"): calibrate(make_bars(*(column[every] for column in bars[:6])))
