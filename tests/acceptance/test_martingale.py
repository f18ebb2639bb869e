"""Issue 4, alpha = 0: the bid is a martingale, and every rule that does not see the future loses exactly its costs at quotes, while a rule filled at its signal's close shows a phantom edge."""
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesbot.bars import Bars
from mesbot.days import DAY
from mesbot.market import MODES, Market, at_bars, synthetic_market
from mesbot.martingale import close_trades, martingale_z, mean_trip, quote_trades
from mesbot.recipe import SESSION_S


def made_of(bid, rows, closes):
    "A market of given bids (sessions, seconds), bars in `rows` (a list of seconds a session) at `closes`."
    second = np.array([t for session in rows for t in session], np.int32)
    closes = np.array(closes, np.int32)
    bars = Bars(np.arange(len(second)), closes, closes, closes, closes, np.ones(len(second), np.int64), np.append(0, np.cumsum([len(r) for r in rows])))
    return Market(bars, np.array(bid, np.int32), *[np.ones(np.shape(bid), np.float32)] * 2, second, np.ones(len(second), np.int32), np.zeros(len(bid), DAY))


@st.composite
def markets(draw, sessions=4, seconds=12):
    "Any bids, any seconds that traded, any closes, any wishes; sessions without a bar too."
    n = draw(st.integers(1, sessions))
    bid = draw(st.lists(st.lists(st.integers(-2**30, 2**30), min_size=seconds, max_size=seconds), min_size=n, max_size=n))
    rows = [sorted(draw(st.sets(st.integers(0, seconds - 1)))) for _ in range(n)]
    k = sum(map(len, rows))
    return made_of(bid, rows, draw(st.lists(st.integers(-2**30, 2**30), min_size=k, max_size=k))), np.array(draw(st.lists(st.integers(-1, 1), min_size=k, max_size=k)), int)


def by_hand(market, position, commission):
    "One bar after the other, as a trader would: (session, side, entry row, exit row, ticks) of every trip at quotes."
    trips = []
    for d, (lo, hi) in enumerate(zip(market.bars.sessions, market.bars.sessions[1:])):
        side = entry = row = 0
        for i in range(lo, hi):
            bid = int(market.bid[d, market.second[i]])
            if position[i] != side:
                if side: trips.append((d, side, row, i, (bid - entry if side > 0 else entry - (bid + 1)) - commission))
                side, entry, row = int(position[i]), bid + 1 if position[i] > 0 else bid, i
        if side: trips.append((d, side, row, hi, (int(market.bid[d, -1]) - entry if side > 0 else entry - (int(market.bid[d, -1]) + 1)) - commission))
    return trips


@given(markets(), st.sampled_from((0, .5, .75)))
@settings(max_examples=200, deadline=None, derandomize=True)
def test_trips_are_those_of_a_trader_who_goes_bar_by_bar(case, commission):
    market, position = case
    trips = quote_trades(market, position, commission)
    assert list(zip(*trips)) == by_hand(market, position, commission)


@given(markets(), st.sampled_from((0, .5, .75)))
@settings(max_examples=200, deadline=None, derandomize=True)
def test_the_books_balance_to_the_tick(case, commission):
    "Sum of P&L = sum of position * move of the bid - spread and commission of every entry, on any market whatever."
    market, position = case
    bid, moves, entries = at_bars(market, market.bid).astype(float), 0.0, 0
    for d, (lo, hi) in enumerate(zip(market.bars.sessions, market.bars.sessions[1:])):
        p = position[lo:hi]
        moves += (p * np.diff(bid[lo:hi], append=float(market.bid[d, -1]))).sum()
        entries += ((p != 0) & (p != np.append(0, p)[:-1])).sum()
    trips = quote_trades(market, position, commission)
    assert len(trips.ticks) == entries and trips.ticks.sum() == moves - entries * (1 + commission)


@given(markets(), st.integers(0, 48), st.integers(0, 2**31))
@settings(max_examples=200, deadline=None, derandomize=True)
def test_nothing_that_comes_later_changes_a_finished_trip(case, row, seed):
    market, position = case
    row, rng = min(row, len(position)), np.random.default_rng(seed)
    changed = position.copy()
    changed[row:] = rng.integers(-1, 2, len(position) - row)
    bid, session = market.bid.copy(), np.searchsorted(market.bars.sessions, row, side="right") - 1
    if row < len(position): bid[session, market.second[row]:], bid[session + 1:] = 7, 7
    other = quote_trades(market._replace(bid=bid), changed, 0)
    before, after = ([t for t in zip(*trips) if t[3] < row] for trips in (quote_trades(market, position, 0), other))
    assert before == after


@pytest.fixture(scope="module")
def null(): return synthetic_market(20, seed=3)


def test_the_bid_is_a_martingale_for_twenty_seeds():
    z = np.array([martingale_z(synthetic_market(6, seed).bid) for seed in range(40, 60)])
    assert np.abs(z).max() < 3.3, z
    assert np.abs(z.mean(0) * np.sqrt(len(z))).max() < 3.3


@pytest.mark.parametrize("step_s", (1, 5, 300))
def test_the_bid_is_a_martingale_at_any_step(null, step_s):
    assert np.abs(martingale_z(null.bid, step_s)).max() < 3.3


@pytest.mark.parametrize("mode", MODES)
def test_an_edge_is_noticed(mode):
    assert martingale_z(synthetic_market(24, seed=11, alpha=.10, mode=mode).bid)[1] > 3.3


def test_a_day_cut_short_does_not_bias():
    short = synthetic_market(4, seed=1, start="2024-07-01")             # July 3: 13:15
    last = int(short.second[short.bars.sessions[3] - 1])
    assert last < 70_000 and np.ptp(short.bid[2, 70_000:]) == 0
    np.testing.assert_array_equal(martingale_z(short.bid[2:3]), martingale_z(short.bid[2:3, :70_021]))


def rule(market, weights, step, threshold, low_s, high_s, ahead=0):
    "Any rule of past bars: a weighted sum of the last changes over `step` bars against a threshold, in part of the day, held until it turns. ahead > 0 peeks."
    close = np.log(market.bars.close.astype(float)) * 26_000
    score = np.zeros(len(close))
    for k, weight in enumerate(weights):
        a, b = (np.roll(close, k * step + lag - ahead) for lag in (0, step))
        score += weight * (a - b)
    row = np.arange(len(close)) - market.bars.sessions[:-1].repeat(np.diff(market.bars.sessions))
    usable = (row > (len(weights) + 1) * step) & (market.second >= low_s) & (market.second < high_s)   # no change that reaches over a session's start
    if ahead: usable &= np.roll(usable, -ahead)
    return np.where(usable, np.sign(score) * (np.abs(score) >= threshold), 0)


RULES = dict(weights=st.lists(st.sampled_from((-2, -1, -.5, 0, .5, 1, 2)), min_size=1, max_size=5), step=st.integers(1, 200), threshold=st.sampled_from((.4, 1.5, 3)),
             low_s=st.sampled_from((0, 32_400, 55_800)), high_s=st.sampled_from((70_000, SESSION_S)))


@given(**RULES)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_no_rule_that_does_not_see_the_future_does_better_or_worse_than_its_costs(null, **knobs):
    commission = .672
    found = mean_trip(quote_trades(null, rule(null, **knobs), commission), -1 - commission)
    assert abs(found.z) < 4, found                                      # of sixty rules, not of one


@given(step=st.integers(1, 60), threshold=RULES["threshold"], low_s=RULES["low_s"], high_s=RULES["high_s"])
@settings(max_examples=20, deadline=None, derandomize=True)
def test_a_rule_that_peeks_is_caught(null, **knobs):
    found = mean_trip(quote_trades(null, rule(null, [1], ahead=1, **knobs), 0), -1)
    assert found.z > 3.3 and found.ticks > -.98, found                  # one bar of sixty from the future is enough


@pytest.mark.parametrize("mode", MODES)
def test_fading_five_seconds_is_a_phantom_at_closes_and_a_loss_at_quotes(mode):
    market = synthetic_market(20, seed=5, mode=mode)
    session = np.arange(20).repeat(np.diff(market.bars.sessions))
    key = session * np.int64(10 * SESSION_S) + market.second
    earlier = np.maximum(np.searchsorted(key, key - 5, side="right") - 1, market.bars.sessions[session])
    position = -np.sign(market.bars.close - market.bars.close[earlier])
    quotes, closes = mean_trip(quote_trades(market, position, 0), -1), mean_trip(close_trades(market, position, 0), 0)
    assert abs(quotes.z) < 3.3 and abs(quotes.ticks + 1) < .02
    assert closes.z > 4 and closes.ticks > .2
    np.testing.assert_allclose(close_trades(market, position, .672).ticks.mean(), closes.ticks - .672)


def test_at_closes_the_last_fill_is_the_last_close():
    "Issue 4: two sessions long from the first bar to the end: out at the close of the last bar, though the quotes went on; the commission comes off."
    market = made_of([[10, 20, 30, 90], [50, 60, 10, 5]], [[0, 2], [1, 2]], [11, 31, 60, 10])
    trips = close_trades(market, [1, 1, 1, 1], .5)
    assert trips.ticks.tolist() == [31 - 11 - .5, 10 - 60 - .5] and trips.exit_row.tolist() == [2, 4]
    assert quote_trades(market, [1, 1, 1, 1], .5).ticks.tolist() == [90 - 11 - .5, 5 - 61 - .5]
    assert close_trades(market, [0, -1, 0, 0], 0).ticks.tolist() == [0]  # in and out at the same close


@pytest.mark.parametrize("bad,word", ((dict(position=[1]), "position must have shape"), (dict(position=[2, 0, 0]), "got 2 at row 0"), (dict(position=[0, np.nan, 0]), "got nan at row 1"),
                                      (dict(commission_ticks=np.nan), "commission_ticks"), (dict(commission_ticks=-1), "commission_ticks must be >= 0"), (dict(commission_ticks=np.inf), "got inf")))
@pytest.mark.parametrize("trade", (quote_trades, close_trades))
def test_bad_arguments_are_refused_in_one_line(trade, bad, word):
    with pytest.raises(ValueError, match=word) as caught: trade(**(dict(market=made_of([[1, 2, 3]], [[0, 1, 2]], [1, 2, 3]), position=[0, 1, 0], commission_ticks=0) | bad))
    assert "\n" not in str(caught.value)
