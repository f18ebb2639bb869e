"Sessions drawn again, and trades made at other moments (BT-5, BT-8, reference/statistics.md section 7)."
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import lfilter
from scipy.stats import kstest, norm

from mesbot.bars import make_bars
from mesbot.bootstrap import _marks, _shifted, block_length, bootstrap_interval, stationary_bootstrap, timing_test
from mesbot.config import load_config
from mesbot.core import SECOND
from mesbot.sim import backtest
from mesbot.synth import synthetic_market

TEN = np.datetime64("2024-01-03T15:00:00", "ns").astype(np.int64)  # 10:00 New York, a Wednesday


def carried(phi, n, rng): return lfilter([1], [1, -phi], rng.standard_normal(n))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(0, 6), st.floats(1, 60), st.integers(0, 50), st.integers(0, 10**6))
def test_a_path_is_made_of_sessions_in_their_order(sessions, draws, block, length, seed):
    "BT-5: positions inside the history; the same seed, the same paths; with one block for ever, the history itself, turned."
    paths = stationary_bootstrap(sessions, draws, block, np.random.default_rng(seed), length)
    assert paths.shape == (draws, length) and paths.dtype == np.int32 and ((0 <= paths) & (paths < sessions)).all()
    np.testing.assert_array_equal(paths, stationary_bootstrap(sessions, draws, block, np.random.default_rng(seed), length))
    for_ever = stationary_bootstrap(sessions, draws, float("inf"), np.random.default_rng(seed), length)
    np.testing.assert_array_equal(for_ever, (for_ever[:, :1] + np.arange(length)) % sessions)


@pytest.mark.parametrize("block", (1.0, 2.5, 20.0))
def test_blocks_have_a_geometric_length(block):
    "BT-5: every session as often as any other, at every place of the path; a block ends with probability 1 / b."
    paths = stationary_bootstrap(60, 6000, block, np.random.default_rng(1))
    jumps = (np.diff(paths) % 60 != 1).mean() / (1 - 1 / 60)                     # a jump may hit the next session
    np.testing.assert_allclose(jumps, 1 / block, atol=.004)
    for place in (0, 30, 59): np.testing.assert_allclose(np.bincount(paths[:, place], minlength=60) / 6000, 1 / 60, atol=.0085)
    np.testing.assert_allclose(np.bincount(paths.ravel()) / paths.size, 1 / 60, rtol=.1)


def test_block_lengths_of_the_reference():
    "BT-5: Politis and White: 1.467 for independent days, 12.58490 where half of a day carries over; 1 where nothing can be measured."
    assert round(block_length(np.random.default_rng(3).standard_normal(2000)), 3) == 1.467
    e = np.random.default_rng(5).standard_normal(2000)
    e[0] = 0
    assert round(block_length(lfilter([1], [1, -.5], e)), 5) == 12.5849
    for nothing in ([], [1.], np.zeros(100), np.full(100, .1), np.random.default_rng(0).standard_normal(15)): assert block_length(nothing) == 1
    assert block_length(np.append(np.zeros(99), 1)) == 1 and block_length(np.arange(50)) > 5
    for bad in ([1., np.nan], [np.inf] * 30, np.zeros((3, 3))):
        with pytest.raises(ValueError, match="one row of finite numbers"): block_length(bad)


def test_sums_vary_where_a_permutation_has_none():
    "BT-5: final P&L of 500 trades N(.5, 7): a standard deviation of 7√500 = 156.5 when drawn again, none when shuffled."
    trades, rng = np.random.default_rng(0).normal(.5, 7, 500), np.random.default_rng(1)
    drawn = trades[stationary_bootstrap(500, 4000, 1, rng)].sum(1)
    np.testing.assert_allclose(drawn.std(), trades.std() * 500**.5, rtol=.03)
    assert np.std([rng.permutation(trades).sum() for _ in range(200)]) < 1e-9


def test_intervals_hold_what_they_promise():
    "BT-5: 95 % intervals of the mean hold it in about 95 of 100 histories; where half of a day carries over, day by day holds it far too seldom."
    def held(phi, block):
        rng, inside = np.random.default_rng(2), 0
        for _ in range(250):
            low, high = bootstrap_interval(carried(phi, 250, rng), lambda rows: rows.mean(1), rng, 300, block_sessions=block)
            inside += low < 0 < high
        return inside / 250
    assert .90 <= held(0, None) <= .98 and held(.5, 1) < .82 < .86 < held(.5, None)


def test_intervals_at_their_edges():
    "BT-5: one day has no interval; a statistic that is not known on some histories is judged on the others."
    rng = np.random.default_rng(0)
    assert np.isnan(bootstrap_interval([], np.sum, rng)).all() and np.isnan(bootstrap_interval([3.], np.sum, rng)).all()
    assert bootstrap_interval([2.] * 20, lambda rows: rows.mean(1), rng) == (2, 2)
    assert bootstrap_interval([0., 1.], lambda rows: np.where(rows.sum(1) > 0, 5., np.nan), rng) == (5, 5)
    with pytest.raises(ValueError, match="one number a row"): bootstrap_interval([1., 2], np.mean, rng)
    with pytest.raises(ValueError, match="not finite"): bootstrap_interval([1., np.nan], np.mean, rng)


def random_bars(rng, seconds=1800, days=2, sd=1.5, spread=0, empty=0.0):
    "Sessions from 10:00 on whose price is a martingale; `sd` ticks a second, or one for each; prints at bid or ask; a share of seconds without a trade."
    rows = []
    for day in range(days):
        start = TEN + day * 86400 * SECOND
        mid = 20_000 + np.rint(rng.standard_normal(seconds) * sd).cumsum()
        open, close = np.append(20_000, mid[:-1]) + spread * rng.integers(0, 2, seconds), mid + spread * rng.integers(0, 2, seconds)
        keep = (rng.random(seconds) >= empty) | (np.arange(seconds) == 0)
        rows.append([x[keep] for x in (start + np.arange(seconds) * SECOND, open, np.maximum(open, close), np.minimum(open, close), close, np.ones(seconds))])
    return make_bars(*map(np.concatenate, zip(*rows)))


def log_of(bars, first, last, side, contracts=1):
    return pd.DataFrame({"position": np.arange(1, len(first) + 1), "entry_ns": bars.ts[first], "exit_ns": bars.ts[last], "side": np.where(side > 0, "long", "short"), "contracts": contracts})


def moments(bars, every, hold, rng):
    "Rows of entries some `every` rows apart, none so late that it could not be held in its session."
    return np.concatenate([np.arange(a + rng.integers(every), b - hold - 1, every) for a, b in zip(bars.sessions, bars.sessions[1:])])


def moved(gain_open, gain, first, last, side, shift):
    "What trades earn, second by second round a ring: the first second from its open, which is the close before unless it is the first of all."
    total = 0
    for a, b, s in zip(first, last, side):
        held = [(a + shift + j) % len(gain) for j in range(b - a + 1)]
        total += s * (gain_open[held[0]] + sum(gain[j] for j in held[1:]))
    return total


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 25), st.integers(1, 6))
def test_shifts_are_positions_on_a_ring_of_seconds(seed, length, trades):
    "BT-8: every shift, second by second, with gaps in the bars: the same as adding up the moves while a position is held."
    rng = np.random.default_rng(seed)
    bars = random_bars(rng, length, 1, empty=.3)
    opens, closes = _marks(bars.ts, bars.open, bars.close, bars.ts[0], SECOND, length)
    gain = np.diff(closes, prepend=opens[0])                                       # of a second, from the close before
    first = np.sort(rng.integers(0, length, trades))
    last, side = np.minimum(first + rng.integers(0, length, trades), length - 1), rng.integers(-3, 4, trades)
    new, sums = np.append(True, rng.random(trades - 1) < .6), np.zeros((length, 2))
    _shifted(first, last, side, new, opens, closes, np.arange(length), sums)
    positions = [[sum(moved(closes - opens, gain, first[k:k + 1], last[k:k + 1], side[k:k + 1], shift) for k in lots) for lots in np.split(np.arange(trades), np.flatnonzero(new)[1:])] for shift in range(length)]
    assert sums.tolist() == [[sum(ticks), sum(t * t for t in ticks)] for ticks in positions]            # squares of whole positions, not of lots
    assert sums[0, 0] == (side * (closes[last] - opens[first])).sum()
    traded = (bars.ts - bars.ts[0]) // SECOND
    np.testing.assert_array_equal(opens[traded], bars.open)
    np.testing.assert_array_equal(closes[traded], bars.close)


def p_values(market, positions, runs, shifts=200):
    "p of `runs` markets, each with its own trades."
    out = []
    for seed in range(runs):
        rng = np.random.default_rng(seed)
        bars = market(rng)
        out.append(timing_test(positions(bars, rng), bars, rng, shifts))
    return np.array([t.p_value for t in out]), np.array([(t.observed_ticks - t.mean_ticks) / t.sd_ticks for t in out])


def at_random(bars, rng):
    first = moments(bars, 40, 20, rng)
    return log_of(bars, first, first + rng.integers(0, 20, len(first)), rng.choice([-1, 1], len(first)), rng.integers(1, 4, len(first)))


def test_random_positions_have_an_even_p():
    "BT-8: on a martingale, with gaps and with prints at bid and ask, p is uniform."
    for market in (lambda rng: random_bars(rng), lambda rng: random_bars(rng, sd=.5, spread=1, empty=.2)):
        p, _ = p_values(market, at_random, 250)
        assert kstest(p, "uniform").pvalue > .01


def test_trading_when_the_market_is_lively_is_no_skill():
    "BT-8: trades only in lively minutes, with stop and target: p stays uniform, although the plain sum varies much more than its shifts."
    sd = np.where(np.arange(1800) // 300 % 3 == 1, 4.0, .7)
    def lively(bars, rng):
        first = moments(bars, 40, 30, rng)
        first = first[(bars.ts[first] - TEN) // SECOND % 86400 // 300 % 3 == 1]
        side, last = rng.choice([-1, 1], len(first)), []
        for row, way in zip(first, side):
            gain = way * (bars.close[row:row + 30] - bars.open[row])
            out = (gain <= -8) | (gain >= 12)
            last.append(row + (out.argmax() if out.any() else 29))
        edges = log_of(bars, *bars.sessions[[0, 0]][:, None], np.ones(1)), log_of(bars, *(bars.sessions[[1, 1]] - 1)[:, None], np.ones(1))   # so that the calm seconds belong to the hours traded
        return pd.concat([edges[0], log_of(bars, first, np.array(last), side), edges[1]]).assign(position=np.arange(len(first) + 2))
    p, plain = p_values(lambda rng: random_bars(rng, sd=sd), lively, 250)
    assert kstest(p, "uniform").pvalue > .01
    assert plain.std() > 1.3 and kstest(norm.cdf(plain), "uniform").pvalue < .01


def test_the_bounce_between_bid_and_ask_is_no_skill():
    "BT-8: buying after each down-tick earns half a spread against the close before, and nothing against the open of its entry."
    def fade(bars, rng):
        first = moments(bars, 40, 20, rng)
        side = np.sign(bars.close[first - 2] - bars.close[first - 1])
        return log_of(bars, first[side != 0], first[side != 0] + 15, side[side != 0])
    p, _ = p_values(lambda rng: random_bars(rng, sd=.5, spread=2), fade, 250)
    assert kstest(p, "uniform").pvalue > .01


def test_entries_by_limit_are_marked_after_the_fall_that_filled_them():
    "BT-8: who buys where the price falls through a limit and sells where it rises through one has an even p with `limit_entries`, and a bad one without."
    def resting(bars, rng):
        first = moments(bars, 25, 20, rng)
        move = np.sign(bars.close[first] - bars.open[first])
        return log_of(bars, first[move != 0], first[move != 0] + 15, -move[move != 0])
    p = {limit: [] for limit in (True, False)}
    for seed in range(200):
        rng = np.random.default_rng(seed)
        bars = random_bars(rng)
        trades = resting(bars, rng)
        for limit in p: p[limit].append(timing_test(trades, bars, rng, 200, limit).p_value)
    assert kstest(p[True], "uniform").pvalue > .01 and np.mean(p[False]) > .7


def test_who_knows_the_next_seconds_is_found():
    "BT-8: p as small as the number of shifts allows for who knows, and as large as it gets for who does the opposite."
    def knowing(bars, rng, way=1):
        first = moments(bars, 40, 20, rng)
        return log_of(bars, first, first + 10, way * np.sign(bars.close[first + 10] - bars.open[first] + .1))
    p, _ = p_values(random_bars, knowing, 10)
    wrong, _ = p_values(random_bars, lambda bars, rng: knowing(bars, rng, -1), 10)
    assert (p == 1 / 201).all() and (wrong == 1).all()


@pytest.mark.filterwarnings("ignore:fills.mode signal_close")
@pytest.mark.parametrize("mode", ("next_open", "price_touch", "signal_close"))
def test_a_look_ahead_of_one_bar_is_found_in_a_back_test(mode):
    "BT-8: on the market without an edge, predictions that know only the close of the next bar have p near 0, a coin has not; several contracts and profit levels included."
    market, rng = synthetic_market(4, seed=3).bars, np.random.default_rng(0)
    known = np.sign(np.append(np.diff(market.close), 0)) * (rng.random(len(market.ts)) < .02)           # the bar after
    config = load_config(fills=dict(mode=mode), risk=dict(start_balance_usd=1e6, day_loss_usd=1e5, day_drawdown_usd=1e5, total_loss_usd=9e5, review_drawdown_usd=8e5, trade_risk_usd=100, loss_streak=10_000))
    found = []
    for signal in (known, rng.permutation(known)):
        p = np.where(signal[:, None] > 0, [.05, .1, .85], np.where(signal[:, None] < 0, [.85, .1, .05], [.2, .6, .2]))
        trades = backtest(market, p, config).trades
        assert len(trades) > 100
        found.append(timing_test(trades, market, np.random.default_rng(1), limit_entries=mode == "price_touch"))
    if mode != "price_touch": assert found[0].p_value < .01
    assert .01 < found[1].p_value <= 1 and found[1].sessions == 4


def test_size_sides_and_order_do_not_matter():
    "BT-8: twice the contracts, a mirrored market, another order of rows and positions cut into lots: the same p."
    rng = np.random.default_rng(4)
    bars = random_bars(rng, days=3)
    trades = at_random(bars, rng)
    def p(log, market=bars): return timing_test(log, market, np.random.default_rng(9)).p_value
    mirrored = bars._replace(open=40_000 - bars.open, high=40_000 - bars.low, low=40_000 - bars.high, close=40_000 - bars.close)
    one = p(trades)
    assert one == p(trades.assign(contracts=2 * trades["contracts"])) == p(trades.sample(frac=1, random_state=0)) == p(trades.assign(side=trades["side"].map({"long": "short", "short": "long"})), mirrored)
    assert p(pd.concat([trades, trades])) == one and p(trades.drop(columns="position")) == one
    assert timing_test(trades, bars, np.random.default_rng(9)) == timing_test(trades, bars, np.random.default_rng(9))


def test_what_has_no_timing():
    "BT-8: no trade: NaN, never 0; one trade has no other moment; a trade that is not inside a session is refused in one line."
    bars = random_bars(np.random.default_rng(0), 60)
    none = timing_test(log_of(bars, *np.zeros((3, 0), int)), bars, np.random.default_rng(0), 50)
    assert np.isnan(none.p_value) and none.sessions == 0 and none.shifts == 50
    assert timing_test(log_of(bars, np.array([5]), np.array([30]), np.ones(1)), bars, np.random.default_rng(0)).p_value == 1
    for first, last in ((30, 5), (30, 90)):
        with pytest.raises(ValueError, match="is not inside one session of the bars"): timing_test(log_of(bars, np.array([first]), np.array([last]), np.ones(1)), bars, np.random.default_rng(0))
    late = log_of(bars, np.array([5]), np.array([30]), np.ones(1))
    for change in (-3 * 86400 * SECOND, 30 * 86400 * SECOND):
        with pytest.raises(ValueError, match="is not inside one session of the bars"): timing_test(late.assign(entry_ns=late["entry_ns"] + change, exit_ns=late["exit_ns"] + change), bars, np.random.default_rng(0))
