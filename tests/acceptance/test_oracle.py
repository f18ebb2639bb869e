"""Issue 4, alpha > 0: what is planted is found, in all three modes, within three standard errors of session bootstraps; and the formulas agree with paper, quadrature and the perfect trader."""
import math
from statistics import NormalDist

import numpy as np
import pytest

from mesbot.bars import Bars
from mesbot.days import DAY
from mesbot.market import Market, synthetic_market
from mesbot.oracle import edge_seconds, oracle_ic, oracle_sharpe, perfect_trader, planted_ic, planted_slope
from mesbot.recipe import RTH_S, SESSION_S, mes_recipe

ALPHAS, COST = (.02, .05, .10), 1.672
MES_RECIPE = mes_recipe()


def summary(alpha, mode):
    "Of 60 sessions: measured correlation, its error by a bootstrap of sessions, slope, perfect trader and formula."
    market = synthetic_market(60, seed=11, alpha=alpha, mode=mode)
    t = np.arange(RTH_S[0], RTH_S[1] - 30)
    sums = []
    for bid, signal, sigma in zip(market.bid, market.signal, market.sigma):
        live = t[sigma[t + 29] > 0]
        x, y = signal[live].astype(float), (bid[live + 29] - bid[live - 1]) / sigma[live].astype(float)
        sums.append(((x * y).sum(), (x * x).sum(), (y * y).sum()))
    picks = np.array(sums)[np.random.default_rng(0).integers(0, 60, (500, 60))].sum(1)
    sigma = market.sigma[:, RTH_S[0] - 1:RTH_S[1] - 1:30]
    return dict(ic=planted_ic(market), ic_error=(picks[:, 0] / np.sqrt(picks[:, 1] * picks[:, 2])).std(), slope=planted_slope(market, alpha),
                trader=perfect_trader(market, alpha, COST, recipe=MES_RECIPE), formula=oracle_sharpe(alpha, sigma, COST, recipe=MES_RECIPE))


@pytest.fixture(scope="session")
def found(): return {(mode, a): summary(a, mode) for mode in ("latent", "leak", "observable") for a in ALPHAS}


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("mode", ("latent", "leak"))
def test_a_hidden_edge_is_there_as_the_formula_says(found, mode, alpha):
    case = found[mode, alpha]
    assert abs(case["ic"].pearson - oracle_ic(alpha, lag_s=0, recipe=MES_RECIPE)) < 3 * case["ic_error"] + .01 * case["ic"].pearson, case
    assert .87 < case["ic"].pearson / oracle_ic(alpha, lag_s=0) + 3 * case["ic_error"] / oracle_ic(alpha, lag_s=0) and case["ic"].pearson < oracle_ic(alpha, lag_s=0) + 3 * case["ic_error"]
    slope, error = case["slope"]
    assert .9 - 3 * error < slope < 1.0 + 3 * error, case               # the band of market.md 3.8
    assert case["ic_error"] < .006 and error < .13                      # sixty sessions do know it


@pytest.mark.parametrize("alpha,ratio,slope", ((.02, .94, 1.0), (.05, .97, 1.1), (.10, .96, 1.24)))
def test_an_observable_edge_is_there_as_measured_before(found, alpha, ratio, slope):
    "Its memory grows with alpha, because the leaning price feeds the signal: the centre of each band is the mean of 480 other sessions."
    case = found["observable", alpha]
    assert abs(case["ic"].pearson - ratio * oracle_ic(alpha, lag_s=0)) < 3 * case["ic_error"] + .01 * case["ic"].pearson, case
    assert abs(case["slope"].slope - slope) < 3 * case["slope"].error + .02, case


@pytest.mark.parametrize("mode", ("latent", "leak", "observable"))
def test_measured_correlations_lie_on_a_line_of_slope_nine_tenths_to_one(found, mode):
    "Theory against measurement over the three alphas, through the origin: the slope of market.md 3.8, in every mode."
    theory, measured = (np.array(x) for x in zip(*((oracle_ic(a, lag_s=0), found[mode, a]["ic"].pearson) for a in ALPHAS)))
    assert .9 < (theory * measured).sum() / (theory**2).sum() < 1.0


def test_ranks_lose_little(found):
    for case in found.values(): assert .88 < case["ic"].rank / case["ic"].pearson < 1.02


def test_a_leak_changes_the_prints_and_not_the_bid(found):
    for a in ALPHAS: assert found["leak", a]["trader"] == found["latent", a]["trader"]


@pytest.mark.parametrize("alpha, sd_ticks", ((.05, 11.5), (.10, 9.2)))
def test_the_perfect_trader_earns_what_the_formula_says(found, alpha, sd_ticks):
    "Four standard errors of everything: the number of trades varies by 1.2 % (alpha .05) and .6 % between seeds, a trade by 11.5 and 9.2 ticks, because only loud seconds are traded (360 sessions of other seeds)."
    trader, formula = found["latent", alpha]["trader"], found["latent", alpha]["formula"]
    np.testing.assert_allclose(trader.trades_per_day, formula.trades_per_day, rtol=.05 if alpha < .1 else .025)
    luck = sd_ticks / math.sqrt(60 * trader.trades_per_day)
    assert abs(trader.net_ticks_per_trade - formula.net_ticks_per_trade) < 4 * luck, (trader, formula)
    assert abs(trader.sharpe - formula.sharpe) < 4 * math.sqrt(252 / 60 * (1 + formula.sharpe**2 / 252 / 2))


@pytest.mark.parametrize("alpha", (.05, .10))
def test_an_observable_edge_is_worth_more_than_the_formula(found, alpha):
    trader, formula = found["observable", alpha]["trader"], found["observable", alpha]["formula"]
    assert 1.5 < trader.usd_per_day / formula.usd_per_day < 3.5


def test_without_alpha_there_is_nothing():
    market = synthetic_market(24, seed=2)
    assert abs(planted_ic(market).pearson) < .02
    assert abs(planted_slope(market, .10).slope) < .15
    blind = perfect_trader(market, .10, COST)                           # trades on a forecast of something that is not there
    assert blind.trades_per_day > 100 and abs(blind.net_ticks_per_trade + COST) < 4 * 9.2 / math.sqrt(24 * blind.trades_per_day)


def test_the_yardsticks_of_the_reference():
    "market.md 3.8: IC .063, .156 and .313 at 30 s, 3.13 alpha; section 6: RTH sigma 1.3 needs an IC of .29 to pay 1.672 ticks on every signal."
    np.testing.assert_allclose([oracle_ic(a) for a in ALPHAS], [.063, .156, .313], atol=6e-4)
    rho = math.exp(-1 / 25)
    for h, lag in ((1, 0), (7, 3), (300, 1)): np.testing.assert_allclose(edge_seconds(h, lag), rho**lag * (1 - rho**h) / (1 - rho))
    sd = 1.3 * math.sqrt(30) * .2866                                    # of the forecast, when the IC is that
    alpha = sd / (1.3 * edge_seconds(30))
    always = oracle_sharpe(alpha, 1.3, 0.0)
    np.testing.assert_allclose(always.net_ticks_per_trade, COST, rtol=.03)
    assert always.trades_per_day == 780


@pytest.mark.parametrize("sigma,alpha,cost,horizon", ((.9, .10, 1.672, 30), (2.5, .02, .5, 30), (1.3, .05, 1.976, 60), (.4, .10, 1.672, 30)))
def test_money_against_quadrature(sigma, alpha, cost, horizon):
    "Mean and spread of a chance integrated over the forecast, with the luck of an AR(1) edge summed second by second."
    rho, f = math.exp(-1 / 25), edge_seconds(horizon)
    x = np.linspace(-9, 9, 2_000_001)
    weight = np.exp(-x * x / 2) / math.sqrt(2 * math.pi) * (x[1] - x[0])
    e = alpha * sigma * f * x
    take = np.abs(e) > cost
    chain = sum(rho**abs(j - k) for j in range(horizon) for k in range(horizon))
    luck = sigma**2 * (horizon + alpha**2 * (chain - f**2))
    share, net = weight[take].sum(), ((np.abs(e) - cost) * weight)[take].sum()
    square = (((np.abs(e) - cost)**2 + luck) * weight)[take].sum()
    n = (RTH_S[1] - RTH_S[0]) // horizon
    got = oracle_sharpe(alpha, sigma, cost, horizon)
    np.testing.assert_allclose(got, [n * share, net / share, 1.25 * n * net, math.sqrt(252 * n) * net / math.sqrt(square - net**2)], rtol=2e-3)
    normal, z = NormalDist(), cost / (alpha * sigma * f)                # and as market.md writes it
    np.testing.assert_allclose(got.usd_per_day, 1.25 * n * 2 * (alpha * sigma * f * normal.pdf(z) - cost * (1 - normal.cdf(z))), rtol=1e-6)


def test_loud_and_calm_days_are_a_risk():
    mixed, apart = oracle_sharpe(.10, [.8, 1.6], COST), oracle_sharpe(.10, [[.8, .8], [1.6, 1.6]], COST)
    np.testing.assert_allclose(mixed[:3], apart[:3])
    low, high = (oracle_sharpe(.10, s, COST) for s in (.8, 1.6))
    mean = (low.usd_per_day + high.usd_per_day) / 2
    within = sum((x.usd_per_day / x.sharpe)**2 for x in (low, high)) / 2 * 252
    between = ((high.usd_per_day - low.usd_per_day) / 2)**2
    np.testing.assert_allclose(apart.sharpe, mean / math.sqrt(within + between) * math.sqrt(252))   # law of total variance
    assert apart.sharpe < mixed.sharpe


def test_more_edge_is_more_and_more_cost_is_less():
    for a, b in ((.02, .05), (.05, .10)):
        assert oracle_ic(a, recipe=MES_RECIPE) < oracle_ic(b, recipe=MES_RECIPE) < oracle_ic(b)
        assert 0 < oracle_sharpe(a, 1.0, COST).usd_per_day < oracle_sharpe(b, 1.0, COST).usd_per_day
    dear = [oracle_sharpe(.10, 1.0, c) for c in (0, .5, 1, 2, 4)]
    assert all(a.usd_per_day > b.usd_per_day and a.trades_per_day > b.trades_per_day for a, b in zip(dear, dear[1:]))
    assert oracle_ic(0) == oracle_ic(0, recipe=MES_RECIPE) == 0 and math.isnan(oracle_sharpe(0, 1.0, COST).sharpe)


def test_trades_do_not_run_over_an_early_close():
    market = synthetic_market(3, seed=1, alpha=.10, start="2024-07-01") # the third closes at 13:15
    only = market._replace(bid=market.bid[2:], signal=market.signal[2:], sigma=market.sigma[2:])
    last = 13 * 3600 + 15 * 60 + 6 * 3600                               # 13:15, seconds after 18:00
    assert only.sigma[0, last - 1] > 0 == only.sigma[0, last]
    eager = only._replace(signal=np.full_like(only.signal, 4))          # trades at every chance
    jump = eager._replace(bid=np.where(np.arange(SESSION_S) < last, only.bid, 10**6))
    for horizon in (30, 37):
        np.testing.assert_array_equal(perfect_trader(jump, .30, .1, horizon)[:3], perfect_trader(eager, .30, .1, horizon)[:3])
        assert perfect_trader(eager, .30, .1, horizon).trades_per_day == (last - RTH_S[0]) // horizon
    rows = slice(market.bars.sessions[2], None)
    short = only._replace(bars=market.bars._replace(sessions=market.bars.sessions[2:] - rows.start), second=market.second[rows])
    assert planted_ic(short).n == ((short.second >= RTH_S[0]) & (short.second + 30 < last)).sum()


@pytest.fixture(scope="module")
def drawn():
    "One session of drawn bids, signals and volatilities that differ from second to second, and a bar in every third of them."
    rng, second = np.random.default_rng(5), np.arange(0, SESSION_S, 3, dtype=np.int32)
    price = np.full(len(second), 26_000, np.int32)
    bars = Bars(second * 10**9, price, price, price, price, np.ones(len(second), np.int64), np.array([0, len(second)]))
    bid, signal, sigma = 26_000 + rng.integers(-2, 3, SESSION_S).cumsum(), rng.standard_normal(SESSION_S), rng.uniform(.2, 5, SESSION_S)
    return Market(bars, bid[None].astype(np.int32), signal[None].astype(np.float32), sigma[None].astype(np.float32), second, np.ones(len(second), np.int32), np.zeros(1, DAY))


@pytest.mark.parametrize("horizon, rth_only", ((30, True), (29, True), (31, False)))
def test_the_measured_correlation_second_by_second(drawn, horizon, rth_only):
    "Signal and volatility of the second after the bar, the bid's move up to the last second of its hours and no further; correlation of numbers and of ranks, by hand."
    low, high = RTH_S if rth_only else (0, SESSION_S)
    at = [t for t in drawn.second.tolist() if t >= low and t + horizon <= high - 1]
    x = np.array([drawn.signal[0, t + 1] for t in at], float)
    y = np.array([(drawn.bid[0, t + horizon] - drawn.bid[0, t]) / drawn.sigma[0, t + 1] for t in at])
    def ranks(v):
        values, which, counts = np.unique(v, return_inverse=True, return_counts=True)
        return (counts.cumsum() - (counts - 1) / 2)[which]              # equal ones share their mean
    got = planted_ic(drawn, horizon, rth_only)
    assert got.n == len(at)
    np.testing.assert_allclose(got[:2], [np.corrcoef(x, y)[0, 1], np.corrcoef(ranks(x), ranks(y))[0, 1]], atol=1e-9)


def test_the_measured_slope_second_by_second(drawn):
    "The forecast is alpha times seconds of drift times the volatility and the signal of the second after the bar; a recipe changes those seconds and nothing else."
    at = [t for t in drawn.second.tolist() if RTH_S[0] <= t <= RTH_S[1] - 1 - 30]
    x = np.array([float(drawn.sigma[0, t + 1]) * float(drawn.signal[0, t + 1]) for t in at])
    y = np.array([drawn.bid[0, t + 30] - drawn.bid[0, t] for t in at])
    for recipe in (None, mes_recipe(fast_sd=1.0, fast_tau=10)):
        forecast = .1 * edge_seconds(30, 0, recipe) * x
        np.testing.assert_allclose(planted_slope(drawn, .1, recipe=recipe).slope, (forecast * y).sum() / (forecast**2).sum(), rtol=1e-6)


@pytest.mark.parametrize("lag", (0, 1, 3))
def test_the_perfect_trader_second_by_second(drawn, lag):
    "One chance every half minute of regular hours; a trade when the forecast of that many seconds before exceeds the cost, with the recipe's seconds of drift; by hand."
    recipe = mes_recipe(fast_sd=1.0, fast_tau=10)
    for given in (None, recipe):
        held, day = .2 * edge_seconds(30, lag, given), []
        for t in range(RTH_S[0], RTH_S[1], 30):
            forecast = held * float(drawn.sigma[0, t - lag]) * float(drawn.signal[0, t - lag])
            if abs(forecast) > 2: day.append(np.sign(forecast) * (int(drawn.bid[0, t + 29]) - int(drawn.bid[0, t - 1])) - 2)
        got = perfect_trader(drawn, .2, 2.0, lag_s=lag, recipe=given)
        assert 100 < len(day) == got.trades_per_day
        np.testing.assert_allclose([got.net_ticks_per_trade, got.usd_per_day], [np.mean(day), 1.25 * np.sum(day)])


def test_moving_volatility_is_counted_exactly():
    "Against the covariances of the log volatility themselves: E[exp(v.w)] = exp(v' S v / 2) for every pair of seconds."
    for horizon, lag, recipe in ((30, 0, MES_RECIPE), (30, 1, MES_RECIPE), (12, 3, mes_recipe(slow_sd=.5, slow_tau=200, fast_sd=.6, fast_tau=10))):
        k = np.arange(lag, lag + horizon)
        apart = np.abs(np.subtract.outer(np.append(0, k), np.append(0, k)))
        S = recipe.slow_sd**2 * np.exp(-apart / recipe.slow_tau) + recipe.fast_sd**2 * np.exp(-apart / recipe.fast_tau)
        def mean(v): return math.exp(v @ S @ v / 2)
        one = np.eye(horizon + 1)
        drift = sum(math.exp(-x / 25) * mean(one[i + 1] - one[0]) for i, x in enumerate(k))
        pairs = np.array([[mean(one[i + 1] + one[j + 1] - 2 * one[0]) for j in range(horizon)] for i in range(horizon)])
        for alpha in (.02, .20):
            spread = np.trace(pairs) + alpha**2 * (np.exp(-np.abs(np.subtract.outer(k, k)) / 25) * pairs).sum()
            np.testing.assert_allclose(oracle_ic(alpha, horizon, lag, recipe), alpha * drift / math.sqrt(spread), rtol=1e-9)
        ticks = sum(math.exp(-x / 25) * mean(one[i + 1] + one[0]) for i, x in enumerate(k)) / mean(2 * one[0])
        np.testing.assert_allclose(edge_seconds(horizon, lag, recipe), ticks, rtol=1e-9)


@pytest.mark.parametrize("bad,word", ((dict(alpha=-.1), "alpha must be a number >= 0 and finite, got -0.1"), (dict(alpha=float("nan")), "alpha"), (dict(horizon_s=0), "horizon_s must be a whole number from 1"),
                                      (dict(horizon_s=2.5), "got 2.5"), (dict(horizon_s=SESSION_S), "horizon_s"), (dict(lag_s=-1), "lag_s must be a whole number from 0"), (dict(cost_ticks=float("nan")), "cost_ticks"),
                                      (dict(cost_ticks=-1), "cost_ticks must be >= 0"), (dict(sigma=[[1.0, -1.0]]), "sigma must be >= 0 and finite, got -1.0"), (dict(sigma=np.zeros((2, 2, 2))), "sigma must have values")))
def test_bad_arguments_are_refused_in_one_line(bad, word):
    calls = [lambda **k: oracle_sharpe(**(dict(sigma=1.0, alpha=.1, cost_ticks=1.0) | k))]
    if not {"sigma", "cost_ticks"} & set(bad): calls.append(lambda **k: oracle_ic(**(dict(alpha=.1) | k)))
    for call in calls:
        with pytest.raises(ValueError, match=word) as caught: call(**bad)
        assert "\n" not in str(caught.value)
