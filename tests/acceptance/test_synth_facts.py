"The default market looks like MES: every row of the acceptance table over 200 sessions (issue 3, SYN), and the statistics themselves are right."
import numpy as np
import pandas as pd
import pytest

from mesbot.bars import make_bars, n_bars, take_sessions
from mesbot.calendar import NY
from mesbot.core import MES, SECOND
from mesbot.clock import autocorrelations, clock_part, clock_profile, step_shares
from mesbot.facts import ACCEPTANCE, acceptance, market_facts
from mesbot.market import synthetic_market
from mesbot.recipe import RTH_S, SESSION_S

HOUR = 3600
SHORT_SEED = 1   # of twelve sessions that pass in every row that is asked


@pytest.fixture(scope="module")
def table():
    market = synthetic_market(200, seed=7)
    return acceptance(market.bars, market.prints).set_index("statistic")


@pytest.mark.parametrize("name", [band.statistic for band in ACCEPTANCE])
def test_the_default_market_lies_in_its_band(table, name):
    "Reference market.md, section 4: one row of its table each."
    row = table.loc[name]
    assert row.low <= row.value <= row.high and row.ok, row.to_dict()


FOUND_OUT = [
    (dict(scale=2.0), "sd of 1 s changes RTH, ticks"), (dict(scale=.6), "daily range, median, points"), (dict(lean=.45, activity=.3), "seconds without a trade, RTH"), (dict(batch=1.01), "seconds without a trade, Asia"),
    (dict(batch=1.01), "variance / mean of prints a second, RTH"), (dict(activity=2), "contracts a session"), (dict(slow_sd=0, fast_sd=0, quick_day_sd=0, slow_day_sd=0, shocks=0, news=0), "kurtosis of 1 min changes, RTH"),
    (dict(news=0), "sd at 08:30 / ten minutes before"), (dict(lean=.5), "correlation of 1 s changes, night")]


@pytest.fixture(scope="module")
def short():
    "As long as the markets that are found out, and from the same seed."
    market = synthetic_market(12, seed=SHORT_SEED)
    return acceptance(market.bars, market.prints).set_index("statistic")


@pytest.mark.parametrize("changes, name", FOUND_OUT)
def test_another_market_is_found_out(short, changes, name):
    "A band that every market passes would be worth nothing, and so would one that no market of this length passes."
    assert short.loc[name, "ok"], short.loc[name].to_dict()
    market = synthetic_market(12, seed=SHORT_SEED, **changes)
    assert not acceptance(market.bars, market.prints).set_index("statistic").loc[name, "ok"]


# --- a session worked out by hand ---

# from hour, to hour, a bar every so many seconds, ticks: the close goes up and down by that much from bar to bar
PARTS = [(0, 8, 4, 2), (8, 9, 1, 1), (9, 14, 2, 2), (14, 14.5, 1, 1), (14.5, 14.5 + 1 / 60, 1, 2), (14.5 + 1 / 60, 16, 1, 1), (16, 17, 1, 3), (17, 19, 1, 1), (19, 20, 1, 2), (20, 21, 1, 1), (21, 22, 1, 4)]


def zigzag(date: str, top: int):
    "The parts above from 18:00 to 16:00, then an hour that climbs a tick every ten seconds; one high of `top` ticks."
    second, price = [], []
    for low, high, every, ticks in PARTS:
        at = np.arange(round(low * HOUR), round(high * HOUR), every)
        second.append(at); price.append(26_000 + ticks * (np.arange(len(at)) % 2))
    at = np.arange(22 * HOUR, SESSION_S)
    second, close = np.concatenate([*second, at]), np.concatenate([*price, 26_000 + (at - 22 * HOUR) // 10])
    high = close.copy()
    high[5] = 26_000 + top
    start = pd.Timestamp(date, tz=NY).value - 6 * HOUR * SECOND                     # 18:00 of the day before
    rth = (second >= RTH_S[0]) & (second < RTH_S[1])
    return start + second * SECOND, close, high, close, close, np.where(rth, 3, 1)


@pytest.fixture(scope="module")
def by_hand():
    ts, open, high, low, close, volume = (np.concatenate(x) for x in zip(zigzag("2024-01-09", 400), zigzag("2024-01-10", 800)))
    bars = make_bars(ts, open, high, np.minimum(low, 26_000), close, volume)
    prints = np.where(volume == 3, np.where(np.arange(len(ts)) % 2, 1, 5), 1)
    return bars, market_facts(bars, prints)


def test_counts_by_hand(by_hand):
    "Traded seconds, quiet seconds, contracts, prints and their clustering."
    _, facts = by_hand
    quiet = {"Asia": .75, "EU": .5, "RTH": 0}
    traded = SESSION_S - 8 * HOUR * .75 - 5 * HOUR * .5
    rth = RTH_S[1] - RTH_S[0]
    np.testing.assert_allclose([facts[f"seconds without a trade, {zone}"] for zone in quiet], list(quiet.values()))
    np.testing.assert_allclose(facts[["traded seconds a session", "contracts a session", "share of contracts in RTH", "prints a session"]], [traded, traded + 2 * rth, 3 * rth / (traded + 2 * rth), traded + 2 * rth])
    np.testing.assert_allclose(facts["variance / mean of prints a second, RTH"], 4 / 3)   # ones and fives: mean 3, variance 4


def test_movement_by_hand(by_hand):
    "Deviations, their ratios and kurtosis: ticks that go up and down have the deviation of their size."
    _, facts = by_hand
    hours = np.array([.5, 1, 2, 1, 1, 1])                                            # 09:30, 10:00, 11:00 to 13:00, 13:00, 14:00, 15:00
    size = np.array([1., 3, 1, 2, 1, 4])
    second, fourth = (hours * size**2).sum() / 6.5, (hours * size**4).sum() / 6.5
    want = {"sd of 1 s changes RTH, ticks": np.sqrt(second), "kurtosis of 1 s changes, median RTH": fourth / second**2, "sd of 1 s changes Asia, ticks": 2 / np.sqrt(4), "sd of 1 s changes EU, ticks": 2 / np.sqrt(2),
            "sd of the 10:00 hour / 13:00 hour": 1.5, "sd of the 15:00 hour / 13:00 hour": 2, "correlation of 1 s changes, RTH": -1}
    for name, value in want.items(): np.testing.assert_allclose(facts[name], value, rtol=3e-3, err_msg=name)
    np.testing.assert_allclose(facts["sd at 08:30 / ten minutes before"], 2, rtol=.02)
    np.testing.assert_allclose(abs(facts["the same 5 to 60 s apart, largest"]), 1, atol=5e-3)


def test_days_by_hand(by_hand):
    "Ranges of 100 and 200 points, and an hour in which the close climbs three ticks every half minute."
    _, facts = by_hand
    np.testing.assert_allclose(facts["daily range, median, points"], 150)
    np.testing.assert_allclose(facts[["daily range, 5 %, points", "daily range, 95 %, points"]], [105, 195])
    np.testing.assert_allclose(facts["sd of log range"], np.log(2) / np.sqrt(2))
    assert np.isnan(facts["correlation of log range, next day"])                    # two days are not enough
    np.testing.assert_allclose(facts["share of 30 s moves of 3 ticks or more"], HOUR / (SESSION_S - 30), rtol=.02)
    np.testing.assert_allclose(facts["ups minus downs of these"], HOUR / (SESSION_S - 30), rtol=.02)


def test_ranges_are_of_neighbouring_days():
    "Ranges of 1, 2, 1, 2 ... points alternate: their logarithms have a correlation of -1."
    days = pd.bdate_range("2024-02-05", periods=6)
    parts = [zigzag(str(day.date()), 4 * (100 + 100 * (k % 2))) for k, day in enumerate(days)]
    ts, open, high, low, close, volume = (np.concatenate(x) for x in zip(*parts))
    facts = market_facts(make_bars(ts, open, high, np.minimum(low, 26_000), close, volume))
    np.testing.assert_allclose(facts["correlation of log range, next day"], -1)


# --- a second opinion ---

def test_pooled_statistics_are_what_plain_pandas_says():
    "Sizes, minutes and half minutes of two synthetic sessions, from a dense series and the textbook."
    bars = synthetic_market(2, seed=4).bars
    facts, memory, shares = market_facts(bars), autocorrelations(bars, (1, 60, 600)), step_shares(bars, 3)
    days = []
    for a, b in zip(bars.sessions, bars.sessions[1:]):
        close = pd.Series(bars.close[a:b].astype(float), pd.to_datetime(bars.ts[a:b], utc=True).tz_convert(NY))
        days.append(close.resample("1s").last().ffill())
    change = [day.diff().dropna() for day in days]
    pooled = pd.concat(change)
    size = pooled.abs() - pooled.abs().mean()
    for lag in (1, 60, 600):
        product = np.mean(np.concatenate([(x.abs() - pooled.abs().mean()).to_numpy()[lag:] * (x.abs() - pooled.abs().mean()).to_numpy()[:-lag] for x in change]))
        np.testing.assert_allclose([facts[f"correlation of their sizes, {lag} s"], memory["sizes"][lag]], product / (size**2).mean(), atol=5e-3)  # ends of a session count a little differently
    night = np.concatenate([x.to_numpy()[:RTH_S[0] - 1] for x in change])            # 18:00 to 09:30
    np.testing.assert_allclose(facts["correlation of 1 s changes, night"], (night[1:] * night[:-1]).mean() / (night**2).mean(), atol=1e-3)
    minute = [day.groupby(day.index.floor("1min")).last().diff().dropna() for day in days]
    every = pd.concat(minute)
    rth = pd.concat([x.between_time("09:30", "15:59") for x in minute])
    def kurtosis(x): return (x**4).mean() / (x**2).mean()**2
    np.testing.assert_allclose(facts[["kurtosis of 1 min changes, 23 h", "kurtosis of 1 min changes, RTH"]], [kurtosis(every), kurtosis(rth)], rtol=5e-3)
    product = np.mean(np.concatenate([x.to_numpy()[1:] * x.to_numpy()[:-1] for x in minute]))
    np.testing.assert_allclose(facts["correlation of 1 min changes"], product / (every**2).mean(), atol=2e-3)
    move = pd.concat([day.diff(30).dropna() for day in days])
    np.testing.assert_allclose(facts[["share of 30 s moves of 3 ticks or more", "ups minus downs of these"]], [(move.abs() >= 3).mean(), (move >= 3).mean() - (move <= -3).mean()], atol=1e-4)
    np.testing.assert_allclose(shares, pooled.clip(-3, 3).value_counts(normalize=True).sort_index(), atol=1e-4)
    np.testing.assert_allclose(facts["daily range, median, points"], MES.tick * np.median([np.ptp(np.concatenate([bars.high[a:b], bars.low[a:b]])) for a, b in zip(bars.sessions, bars.sessions[1:])]))


def test_the_sharpest_day_does_not_decide():
    "Kurtosis of one-second changes: that of each session by itself, and of these the middle one."
    bars = synthetic_market(5, seed=6).bars
    single = sorted(market_facts(take_sessions(bars, k, k + 1))["kurtosis of 1 s changes, median RTH"] for k in range(5))
    assert single[3] > 1.02 * single[2] > 1.02 * 1.02 * single[1]
    np.testing.assert_allclose(market_facts(bars)["kurtosis of 1 s changes, median RTH"], single[2])


def walk(second, change, day="2024-01-16"):
    "Bars at these seconds after 18:00 with these changes of the close."
    close = 26_000 + np.cumsum(change)
    return make_bars(pd.Timestamp(day, tz=NY).value - 6 * HOUR * SECOND + np.asarray(second) * SECOND, close, close, close, close, np.ones(len(close)))


def test_news_is_measured_against_the_ten_minutes_before():
    "Changes of 3 ticks from 08:20 to 08:30, of 6 in the minute from 08:30, of 1 at any other time: twice, and a minute later is not looked at."
    second = np.arange(50_000, 56_000)
    size = np.where((second >= 51_600) & (second < 52_200), 3, np.where((second >= 52_200) & (second < 52_260), 6, np.where((second >= 52_260) & (second < 53_000), 9, 1)))
    facts = market_facts(walk(second, size * (1 - 2 * (second % 2))))
    np.testing.assert_allclose(facts["sd at 08:30 / ten minutes before"], 2, rtol=1e-9)


@pytest.mark.parametrize("share, whole", ((.92, True), (.88, False), (.5, False)))
def test_a_session_is_whole_with_nine_tenths_of_its_hours(share, whole):
    "What is said of a whole session, its range and its contracts, needs nine tenths of it from the first bar to the last."
    second = np.arange(0, int(share * SESSION_S), 7)
    facts = market_facts(walk(second, 1 - 2 * (second % 2)))
    assert [bool(np.isfinite(facts[name])) for name in ("daily range, median, points", "contracts a session", "traded seconds a session")] == [whole] * 3


def test_the_largest_correlation_is_the_one_that_is_told():
    "Changes that come back after ten seconds, in a random walk otherwise: of the distances 5, 10, 30 and 60 s that one is told, with its sign."
    rng = np.random.default_rng(1)
    for sign in (1, -1):
        x = rng.integers(-2, 3, SESSION_S)
        x[10:] += sign * x[:-10]
        facts = market_facts(walk(np.arange(SESSION_S), x))
        assert .35 < sign * facts["the same 5 to 60 s apart, largest"] < .6


def test_a_part_of_the_day_says_nothing_about_the_rest():
    "A morning: regular hours are known as far as they are covered, the night, the day and the closing hour are not."
    market = synthetic_market(3, seed=4)
    morning, whole = market_facts(clock_part(market.bars, RTH_S[0], 19 * HOUR)), market_facts(market.bars)
    known = morning.index[morning.notna()]
    assert {"seconds without a trade, RTH", "sd of 1 s changes RTH, ticks", "correlation of 1 s changes, RTH", "kurtosis of 1 min changes, RTH"} <= set(known)
    assert not any(word in name for name in known for word in ("session", "Asia", "EU", "night", "range", "08:30", "13:00", "contracts", "23 h") if "hours" not in name)
    assert abs(morning["correlation of 1 s changes, RTH"] - whole["correlation of 1 s changes, RTH"]) < .06


def test_holiday_parts_and_late_hours_stay_out():
    "Only 18:00 to 17:00 of the trade date counts: a holiday's morning does not, a share's evening does not."
    start = pd.Timestamp("2024-01-15 10:00", tz=NY).value                           # a Monday holiday, part of Tuesday's session
    close = np.full(200, 19_000)
    bars = make_bars(start + np.arange(200) * SECOND, close, close, close, close, close)
    with pytest.raises(ValueError, match="between 18:00 and 17:00"): market_facts(bars)
    evening = pd.Timestamp("2024-01-16 16:58:20", tz=NY).value
    shares = make_bars(evening + np.arange(200) * SECOND, close, close, close, close, close, "SPY")
    assert list(clock_profile(shares, 60).index) == [SESSION_S - 60] and n_bars(clock_part(shares, 0, SESSION_S)) == 100


def test_prints_and_volume_that_are_not_there_are_not_made_up():
    "No prints, no volume: NaN, and a band that cannot be judged is not passed."
    bars = take_sessions(synthetic_market(2, seed=1).bars, 0, 1)
    table = acceptance(bars._replace(volume=np.zeros_like(bars.volume))).set_index("statistic")
    for name in ("prints a session", "contracts a session", "share of contracts in RTH", "variance / mean of prints a second, RTH"): assert np.isnan(table.loc[name, "value"]) and not table.loc[name, "ok"]
