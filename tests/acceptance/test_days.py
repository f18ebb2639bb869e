"""Days of a market, its news and gaps, how sessions are joined, and the store they are written to (SYN): each number of the plan by itself, and no market in another's store."""
import shutil

import numpy as np
import pytest

import mesbot.market
from mesbot.calendar import ny_time
from mesbot.core import MES, SECOND
from mesbot.days import GAPS, LEVELS, SESSION, SLOTS_S, chance, day_levels, plan_days, shocks_of_day
from mesbot.market import iter_market, synthetic_market, write_market
from mesbot.recipe import LEVEL, SESSION_S, mes_recipe
from mesbot.store import bars_folder, read_manifest

RECIPE = mes_recipe()
ALIKE = dict(quick_day_sd=0, slow_day_sd=0)
NEW_YEAR = np.datetime64("2024-01-02")


# --- the generators ---

def test_no_two_series_share_their_chance():
    "SYN: seeds, series and dates side by side: no two generators begin alike, so neighbouring seeds are other markets and neighbouring days other days."
    first = [chance(seed, series, NEW_YEAR + day).random() for seed in range(12) for series in (LEVELS, GAPS, SESSION) for day in range(12)]
    assert len(set(first)) == len(first)


def test_neighbouring_seeds_are_other_markets():
    "SYN: no session of one market moves like any of another, nor like another of its own. Standard error of a correlation: .005."
    moves = np.concatenate([np.diff(synthetic_market(3, seed).bid[:, 3600:-3600]) for seed in (7, 8)])
    together = np.corrcoef(np.clip(moves, -3, 3)) - np.eye(6)
    assert np.abs(together).max() < .025


def test_gaps_know_nothing_of_levels():
    "SYN: gaps and levels are drawn from series of their own: no correlation of the numbers behind them. Standard errors: .04 and .027."
    days = plan_days(1500, 7, "2018-01-02", mes_recipe(gap_ticks=1e4, weekend_gap_ticks=1e4, slow_day_sd=0))
    news = days["level"][1:] - .60 * days["level"][:-1]                 # every other number of the series of levels, from the third on
    gap = days["gap_ticks"] / np.exp(days["level"])
    assert abs(np.corrcoef(gap[2::2], news[:749])[0, 1]) < .17
    for series in (LEVELS, SESSION): assert abs(np.corrcoef(gap[1:], chance(7, series, days["date"][0]).standard_normal(1500)[1:])[0, 1]) < .12


# --- levels and gaps ---

def test_levels_forget_in_days_and_in_months():
    "SYN: each part of the level alone: .60 or .97 of it is left the next day, and its spread is the recipe's. Standard errors of 20,000 days: .006 and .002; of the spreads .7 % and 3 %."
    for name, memory, sd, within in (("quick_day_sd", .60, .18, .035), ("slow_day_sd", .97, .38, .13)):
        level = day_levels(20_000, np.random.default_rng(1), mes_recipe(**ALIKE | {name: sd}))
        x = level - level.mean()
        np.testing.assert_allclose((x[1:] * x[:-1]).mean() / (x * x).mean(), memory, atol=.025 if memory < .9 else .008)
        np.testing.assert_allclose(x.std(), sd, rtol=within)


def test_every_market_is_as_loud_as_its_recipe():
    "SYN: over the sessions of any market, one or a thousand, the mean of e^level is e^(variance / 2), which the tape divides by."
    for sessions in (1, 7, 1000):
        np.testing.assert_allclose(np.exp(plan_days(sessions, 3, "2018-01-02", RECIPE)["level"]).mean(), np.exp((.18**2 + .38**2) / 2))


def test_gaps_are_in_proportion_to_the_day():
    "SYN: the same numbers with all days alike and with calm and wild ones: a gap is wider by e^level, by scale and by price. To the tick."
    def gaps(**changes): return plan_days(300, 5, "2024-01-02", mes_recipe(gap_ticks=1e4, weekend_gap_ticks=5e4, **changes))
    alike, wild, dear = gaps(**ALIKE), gaps(), gaps(scale=2, level=3 * LEVEL, **ALIKE)
    assert np.ptp(alike["level"]) == 0 < np.ptp(wild["level"])
    np.testing.assert_allclose(wild["gap_ticks"], alike["gap_ticks"] * np.exp(wild["level"]), atol=3)
    np.testing.assert_allclose(dear["gap_ticks"], 6 * alike["gap_ticks"], atol=4)


def test_a_gap_is_a_weekends_when_a_day_lies_between():
    "SYN: Mondays, and the day after a holiday in mid-week; 2025 has Christmas on a Thursday, so two days from Wednesday to Friday are enough."
    days = plan_days(252, 5, "2025-01-02", mes_recipe(gap_ticks=0, weekend_gap_ticks=1e4))
    apart = np.diff(days["date"].astype(int))
    assert {1, 2, 3} <= set(apart)
    np.testing.assert_array_equal(days["gap_ticks"][1:] != 0, apart > 1)


# --- news ---

@pytest.mark.parametrize("date", ("2024-01-10", "2024-07-10", "2024-03-11", "2024-11-04"))
def test_news_comes_by_new_yorks_clock(date):
    "SYN: 08:30, 10:00 and 14:00, in winter, in summer, and on the day after the clocks were changed."
    day, = plan_days(1, 1, date, RECIPE)
    assert [f"{t:%H:%M:%S}" for t in ny_time(day["open_ns"] + SLOTS_S * SECOND)] == ["08:30:00", "10:00:00", "14:00:00"]


@pytest.fixture(scope="module")
def certain():
    "4000 days on which all three releases come, news twice as strong, of a market twice as volatile at three times the price, on a day of level .5: jumps and bursts, a row a day."
    recipe = mes_recipe(shocks=0, news=2, scale=2, level=3 * LEVEL)
    shocks = [shocks_of_day(np.random.default_rng(k), np.ones(3), .5, SESSION_S, recipe) for k in range(4000)]
    assert all(np.array_equal(s.second, SLOTS_S) for s in shocks)
    return np.array([s.jump for s in shocks]), np.array([s.burst for s in shocks])


def test_news_has_its_strength(certain):
    "SYN: the burst is 1.2 times the strength, whose logarithm has a deviation of .6. Standard errors: .0095 and .007."
    log_strength = np.log(certain[1] / (1.2 * 2))
    np.testing.assert_allclose(log_strength.mean(0), 0, atol=.045)
    np.testing.assert_allclose(log_strength.std(0), .6, atol=.03)


def test_the_jump_of_news_is_that_of_its_hour(certain):
    "SYN: 9, 4 and 10 ticks times strength, scale, price and e^level: over the strength a normal number, so its deviation is known to 1.1 %, its share beyond two of them to .0033."
    jump, burst = certain
    over = jump / (burst / 1.2) / (2 * 3 * np.exp(.5))
    np.testing.assert_allclose(over.std(0), [9, 4, 10], rtol=.05)
    np.testing.assert_allclose((np.abs(over) > 2 * np.array([9, 4, 10])).mean(0), .0455, atol=.014)
    assert np.abs(over.mean(0) / over.std(0)).max() < .065


def test_sudden_jumps_come_by_the_hour_and_by_the_curve():
    "SYN: .8 of them a full session, half of that in half a session; 12 ticks times the curve, scale, price and e^level; a burst of .8 each. Standard errors: .13 jumps and .5 %."
    recipe = mes_recipe(shocks=40, scale=2, level=3 * LEVEL)
    shocks = [shocks_of_day(np.random.default_rng(k), np.zeros(3), .5, SESSION_S // 2, recipe) for k in range(1200)]
    sudden = [(s.second[s.burst > 0], s.jump[s.burst > 0], s.burst[s.burst > 0]) for s in shocks]
    second, jump, burst = (np.concatenate(x) for x in zip(*sudden))
    np.testing.assert_allclose(len(jump) / 1200, 20, atol=.6)
    np.testing.assert_allclose((burst.min(), burst.max()), .8)
    assert .98 * SESSION_S / 2 < second.max() < SESSION_S / 2
    np.testing.assert_allclose((jump / recipe.vol[second]).std() / (2 * 3 * np.exp(.5)), 12, rtol=.025)


# --- sessions joined ---

def test_a_market_uses_its_days(monkeypatch):
    "SYN: a wild day is wild: volatility follows its level, and its shocks are drawn with its news, its level and its length."
    drawn, draw = [], mesbot.market.shocks_of_day
    monkeypatch.setattr(mesbot.market, "shocks_of_day", lambda rng, *asked: (drawn.append(asked), draw(rng, *asked))[1])
    market = synthetic_market(8, 3, start="2024-07-01", threads=1, slow_sd=0, fast_sd=0, shocks=0, news=0)
    days, level = market.days, market.days["level"]
    np.testing.assert_allclose(np.log(market.sigma[:, 3600] / market.sigma[0, 3600]), level - level[0], atol=1e-5)
    assert [(tuple(chances), level, seconds) for chances, level, seconds, recipe in drawn] == [(tuple(day["news"]), day["level"], day["seconds"]) for day in days]


def test_after_an_early_close_the_last_bid_stands():
    "SYN: 3 July 2024 closes at 13:15: from there to 17:00 the bid is that of the last second, and the next session opens from it."
    market = synthetic_market(4, seed=1, start="2024-07-01", gap_ticks=0, weekend_gap_ticks=0, scale=.05)
    seconds = market.days["seconds"]
    assert seconds.tolist() == [SESSION_S, SESSION_S, int(19.25 * 3600), SESSION_S]
    bid = market.bid[2]
    assert bid[0] != bid[seconds[2] - 1] and (bid[seconds[2]:] == bid[seconds[2] - 1]).all()
    assert abs(int(market.bid[3, 0]) - int(bid[-1])) < 3
    for truth in (market.signal, market.sigma): assert (truth[2, seconds[2]:] == 0).all() and truth[2, seconds[2] - 1] != 0


@pytest.mark.parametrize("low, bid, fine", ((-4, 0, True), (-5, 0, False), (0, -4, True), (0, -5, False)))
def test_no_price_below_one_tick(monkeypatch, low, bid, fine):
    "SYN: from a price of 5 ticks, a bar whose low lies 5 below, or a bid there, is refused, though all else is above; 4 below is one tick, and allowed."
    def by_hand(rng, recipe, edge, day, shocks, tape):
        for column in (tape.open, tape.high, tape.close, tape.bid): column[:] = 0
        tape.second[0], tape.low[0], tape.bid[100], tape.sigma[:], tape.volume[0], tape.prints[0] = 50, low, bid, 1, 1, 1
        return 1
    monkeypatch.setattr(mesbot.market, "write_session", by_hand)
    if fine: assert min(synthetic_market(1, 1, level=5).bars.low[0], synthetic_market(1, 1, level=5).bid.min()) == 1
    else:
        with pytest.raises(ValueError, match="^the price fell to 0 ticks on 2024-01-02; raise level, got 5 ticks$"): synthetic_market(1, 1, level=5)


# --- into a store ---

ASKED = dict(sessions=1, seed=5, alpha=.05, mode="latent", start="2024-01-03", scale=1.1)


def bytes_of(folder): return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file() and path.suffix in (".parquet", ".json")}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    store = tmp_path_factory.mktemp("store")
    write_market(store, **ASKED)
    return store


@pytest.mark.parametrize("other", (dict(sessions=2), dict(seed=6), dict(alpha=.06), dict(mode="leak"), dict(mode="observable"), dict(start="2024-01-04"), dict(scale=1.2), dict(quotes=False), dict(activity=1.01), dict(lean=.12), dict(shocks=0),
                                   dict(recipe=RECIPE._replace(vol=RECIPE.vol * 1.001)), dict(recipe=RECIPE._replace(rate=RECIPE.rate * 1.001)), dict(recipe=RECIPE._replace(move_prints=.5))), ids=lambda other: next(iter(other)))
def test_two_markets_never_share_a_store(written, other):
    "SYN: whatever tells one market from another keeps it out of its store, and not a byte there changes."
    before = bytes_of(written)
    with pytest.raises(ValueError, match="holds other bars already; a synthetic market needs a store of its own$"): write_market(written, **ASKED | other)
    assert bytes_of(written) == before


def test_the_same_market_is_welcome_again(written):
    "SYN: a writer that was killed starts again and finishes; said in other words it is the same market."
    before = {name: data for name, data in bytes_of(written).items() if name.endswith(".parquet")}
    assert write_market(written, recipe=mes_recipe(scale=1.1), threads=1, **{name: value for name, value in ASKED.items() if name != "scale"}) > 0
    assert {name: data for name, data in bytes_of(written).items() if name.endswith(".parquet")} == before and len(before) == 3


@pytest.mark.parametrize("left", ("1s_bid", "1s_ask"))
def test_quotes_alone_are_other_bars_too(written, tmp_path, left):
    "SYN: a store in which only the bid or the ask is left takes no other market."
    store = tmp_path / "store"
    shutil.copytree(written, store)
    for series in {"1s", "1s_bid", "1s_ask"} - {left}: shutil.rmtree(bars_folder(MES.symbol, store, series))
    with pytest.raises(ValueError, match=f"{left} holds other bars already"): write_market(store, **ASKED | dict(seed=6))


def test_files_that_nobody_signed_are_other_bars(written, tmp_path):
    "SYN: price files without a manifest, or with one that names no source: nobody knows what they are, so nothing is written beside them."
    store = tmp_path / "store"
    shutil.copytree(written, store)
    manifests = list(store.rglob("manifest.json"))
    for manifest in manifests: manifest.unlink()
    assert len(manifests) == 3 and read_manifest(bars_folder(MES.symbol, store, "1s"))["sources"] == []
    with pytest.raises(ValueError, match="holds other bars already"): write_market(store, **ASKED)


def test_without_quotes_there_are_none(tmp_path):
    "SYN: quotes=False writes the bars and no bid or ask."
    rows = write_market(tmp_path, 1, 5, quotes=False)
    assert rows == len(synthetic_market(1, 5).bars.ts)
    assert list(bars_folder(MES.symbol, tmp_path, "1s").glob("*/*.parquet"))
    assert not any(list(bars_folder(MES.symbol, tmp_path, series).glob("**/*.parquet")) for series in ("1s_bid", "1s_ask"))


def test_months_follow_each_other():
    "SYN: the price of a month begins where the one before it ended, after an early close too, and the pieces are the market."
    whole, pieces = synthetic_market(4, 3, start="2024-06-27"), list(iter_market(4, 3, start="2024-06-27"))
    assert len(pieces) == 2
    for name in ("bid", "signal", "sigma", "second", "prints"): np.testing.assert_array_equal(np.concatenate([getattr(piece, name) for piece in pieces]), getattr(whole, name))
