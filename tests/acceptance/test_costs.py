"""BT-2: what a fill costs. Commission and fees, four models of slippage, slippage measured from one's own fills, stale signals."""
import json
import os

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesbot.calendar import HOUR, NY, ny_time, session_table
from mesbot.config import load_config
from mesbot.core import INSTRUMENTS, MES, SECOND, instrument, kernel
from mesbot.costs import COSTS, SlippageModel, cost_rules, hundredth, ny_hour, round_trip_usd, slippage_ticks, stale_slippage
from mesbot.slippage import calibrate_slippage, load_slippage, save_slippage, slippage_table

HOURS_OF_DAY = np.dtype([("rth_open", "i8"), ("rth_close", "i8")])


def day_of(row): return np.array([(row["rth_open"], row["rth_close"])], HOURS_OF_DAY).view(np.recarray)[0]


SESSION = session_table("2026-03-10", "2026-03-10")[0]
DAY = day_of(SESSION)
NOON, NIGHT = int(DAY.rth_open + 3 * HOUR), int(DAY.rth_open - 6 * HOUR)


def rules_with(thing=MES, **costs): return cost_rules(load_config(costs=costs), thing)


def measured_rules(table, **costs):
    "Rules that draw from this table."
    rules = rules_with(**costs)
    rules.model, rules.measured = SlippageModel.MEASURED, table
    return rules


@kernel
def draw(times, day, rules):
    ticks = np.empty(len(times), np.int64)
    for i in range(len(times)): ticks[i] = slippage_ticks(0.0, times[i], day, rules)
    return ticks


# One hand-worked case a model ------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("costs, ts, atr, ticks", [
    (dict(slippage="fixed", normal_ticks=3, thin_ticks=7), NIGHT, 40.0, 3),       # always normal
    (dict(), NOON, 7.99, 1), (dict(), NIGHT, 7.99, 2),                            # quiet: by hour
    (dict(), NOON, 8.0, 2), (dict(), NOON, 8.01, 3), (dict(), NOON, 1e9, 4),      # volatile: 2 x ATR / 8, rounded up, 4 at most
    (dict(thin_ticks=9), NIGHT, 1e9, 9),                                          # the bound never lowers the base
    (dict(slippage="atr"), NOON, 3.0, 1), (dict(slippage="atr"), NIGHT, 3.0, 2),  # a quarter of 3, rounded up: 1
    (dict(slippage="atr"), NOON, 9.0, 3), (dict(slippage="atr", atr_share=0.5, volatile_ticks=100), NOON, 9.0, 5), (dict(slippage="atr"), NOON, 1e300, 4),
    (dict(slippage="atr", thin_ticks=9), NIGHT, 1e9, 9),
])
def test_each_model_by_hand(costs, ts, atr, ticks):
    "BT-2: ticks of a market fill, worked on paper."
    rules = rules_with(**costs)
    assert slippage_ticks(atr, ts, DAY, rules) == slippage_ticks.py_func(atr, ts, DAY, rules) == ticks


def test_regular_hours_begin_with_their_first_and_end_before_their_last_instant():
    "BT-2: thin up to 09:30, normal from 09:30:00 to 15:59:59, thin from 16:00."
    rules = rules_with()
    assert [slippage_ticks(0.0, t, DAY, rules) for t in (DAY.rth_open - 1, DAY.rth_open, DAY.rth_close - 1, DAY.rth_close)] == [2, 1, 1, 2]


def test_measured_by_hand():
    "BT-2: the drawn tick is the one at (New York hour, hundredth of the second), whatever ATR says."
    table = np.arange(2400).reshape(24, 100)
    rules = measured_rules(table)
    for ts, hour in ((NOON, 12), (NIGHT, 3), (int(SESSION["open"]), 18), (int(SESSION["close"]) - 1, 16)):
        assert {slippage_ticks(atr, ts, DAY, rules) for atr in (0.0, 99.0)} == {table[hour, hundredth(ts)]}
    with np.errstate(over="ignore"): assert slippage_ticks.py_func(0.0, NOON, DAY, rules) == slippage_ticks(0.0, NOON, DAY, rules)


def test_a_stale_signal_by_hand():
    "BT-2: older than stale_s pays stale_ticks, or the hour's 90th percentile where slippage is measured; never less than without."
    rules, table = rules_with(stale_s=2.5, stale_ticks=6), np.tile(np.arange(100), (24, 1))
    table[12] += 100
    for age, slip, want, want_measured in ((2_500_000_000, 1, 1, 1), (2_500_000_001, 1, 6, 190), (10**12, 300, 300, 300)):
        assert stale_slippage(slip, age, NOON, DAY, rules) == stale_slippage.py_func(slip, age, NOON, DAY, rules) == want
        mine = measured_rules(table, stale_s=2.5, stale_ticks=6)
        assert stale_slippage(slip, age, NOON, DAY, mine) == stale_slippage.py_func(slip, age, NOON, DAY, mine) == want_measured
    assert stale_slippage(0, 10**12, NIGHT, DAY, mine) == 90


def test_fees_and_the_round_trip():
    "BT-2: $0.20 + $0.22 a side by default, $0.61 under topstepx-2026; a round trip of two market orders adds two ticks."
    ours, theirs = cost_rules(load_config(), MES), cost_rules(load_config(preset="topstepx-2026"), MES)
    np.testing.assert_allclose([2 * ours.side_usd, 2 * theirs.side_usd, round_trip_usd(ours), round_trip_usd(theirs)], [0.84, 1.22, 3.34, 3.72])
    np.testing.assert_allclose(round_trip_usd(measured_rules(np.full((24, 100), 3))), 0.84 + 2 * 3 * MES.tick_usd)
    assert cost_rules(load_config(), instrument("ES")).tick_usd == 10 * MES.tick_usd and ours.dtype == COSTS


# Properties of the rules -----------------------------------------------------------------------------------------------------------------

times = st.integers(int(SESSION["open"]), int(SESSION["close"]) - 1)
settings_of_costs = st.fixed_dictionaries(dict(slippage=st.sampled_from(("fixed", "liquidity", "atr")), normal_ticks=st.integers(0, 100), thin_ticks=st.integers(0, 100),
                                               volatile_ticks=st.integers(0, 100), volatile_atr_ticks=st.floats(0.1, 100), atr_share=st.floats(0.01, 10)))


@given(settings_of_costs, times, st.lists(st.floats(0, 1e6), min_size=2, max_size=8))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_a_wilder_market_never_slips_less(costs, ts, atrs):
    "BT-2: slippage rises with ATR, from the hour's base to the bound."
    rules = rules_with(**costs)
    ticks = [slippage_ticks(atr, ts, DAY, rules) for atr in sorted([0.0, *atrs])]
    base = costs["normal_ticks"] if costs["slippage"] == "fixed" or DAY.rth_open <= ts < DAY.rth_close else costs["thin_ticks"]
    assert ticks == sorted(ticks) and ticks[0] == base and ticks[-1] <= max(base, costs["volatile_ticks"])


@given(settings_of_costs, st.booleans(), times, st.floats(0, 1e4), st.integers(0, 10**14), st.integers(0, 100), st.integers(0, 10**6))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_a_stale_fill_never_slips_less(costs, measured, ts, atr, age, stale_ticks, seed):
    "BT-2: a late fill pays at least what a fresh one pays, in each model; and a fresh one just that."
    rules = rules_with(**costs, stale_ticks=stale_ticks)
    if measured: rules.model, rules.measured = SlippageModel.MEASURED, np.sort(np.random.default_rng(seed).integers(0, 50, (24, 100)), axis=1)
    fresh = slippage_ticks(atr, ts, DAY, rules)
    late = stale_slippage(fresh, age, ts, DAY, rules)
    assert late >= fresh and (age > rules.stale_ns or late == fresh) and (age <= rules.stale_ns or measured or late >= stale_ticks)


@given(st.integers(0, 2**62))
@settings(max_examples=200, deadline=None, derandomize=True)
def test_the_luck_of_a_second_is_splitmix64(ts):
    "BT-2: the same second slips the same in any run; the number is splitmix64's, here in whole numbers of Python."
    mask = 2**64 - 1
    z = ts // SECOND * 0x9E3779B97F4A7C15 & mask
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & mask
    z = (z ^ z >> 27) * 0x94D049BB133111EB & mask
    assert hundredth(ts) == (z ^ z >> 31) % 100


@pytest.mark.parametrize("symbol", ["MES", "SPY", "GC", "BTC-USD"])
def test_the_hour_is_new_yorks_on_every_day(symbol):
    "BT-2: slippage by hour uses New York's hour, in every session of ten years; only a coin, awake while the clocks change, is off by one for eight hours on two days a year."
    rules, off = rules_with(instrument(symbol)), 0
    for row in session_table("2018-01-01", "2027-12-31", INSTRUMENTS[symbol].hours):
        stamps = np.append(np.arange(row["open"], row["close"], HOUR), row["close"] - 1)
        assert ny_hour(stamps[-1], day_of(row), rules) == ny_hour.py_func(stamps[-1], day_of(row), rules)
        off += int((ny_hour.py_func(stamps, day_of(row), rules) != ny_time(stamps).hour).sum())
    assert off == (20 * 8 if symbol == "BTC-USD" else 0)


# From fills to the table -----------------------------------------------------------------------------------------------------------------

def fills_of(hours, ticks):
    "Fills at these New York hours."
    return pd.DataFrame({"time": pd.DatetimeIndex(np.datetime64("2026-03-10") + np.asarray(hours).astype("m8[h]")).tz_localize(NY), "slippage_ticks": ticks})


some_fills = st.lists(st.tuples(st.integers(0, 23), st.integers(-5, 40)), min_size=1, max_size=120)


@given(some_fills, st.integers(1, 12))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_the_table_is_the_fills_cut_into_a_hundred_parts(tmp_path_factory, fills, few):
    "BT-2: calibrate -> save -> load -> table: each part is the mean of its hundredth of the sorted fills, rounded up; thin hours are filled up from all; nothing is cheaper than it was."
    hours, ticks = np.array(fills).T
    path = tmp_path_factory.mktemp("slippage") / "mine.json"
    measured = calibrate_slippage(fills_of(hours, ticks), few=few)
    save_slippage(measured, path)
    table = slippage_table(load_slippage(path, "MES"))
    np.testing.assert_array_equal(table, slippage_table(measured))
    paid = np.maximum(ticks, 0)
    for hour in range(24):
        own = paid[hours == hour]
        pool = own if len(own) >= few else np.append(own.repeat(len(paid)), np.tile(paid, few - len(own)))
        parts = np.sort(pool).repeat(100).reshape(100, -1)                         # every fill a hundred times: whole parts
        np.testing.assert_array_equal(table[hour], -(-parts.sum(axis=1) // len(pool)))
        assert pool.mean() <= table[hour].mean() + 1e-9 and table[hour].mean() < pool.mean() + len(np.unique(pool)) / 100
        assert (pool <= table[hour, 90]).mean() >= 0.9 and table[hour, 90] >= table[hour, 50]
    assert (np.diff(table, axis=1) >= 0).all() and table.shape == (24, 100) and table.dtype == np.int64


@given(some_fills)
@settings(max_examples=20, deadline=None, derandomize=True)
def test_what_is_drawn_is_what_was_measured(fills):
    "BT-2: the mean drawn over the seconds of an hour is the mean of the hour's table, within four standard errors."
    hours, ticks = np.array(fills).T
    table = slippage_table(calibrate_slippage(fills_of(hours, ticks)))
    rules = measured_rules(table)
    for hour, start in ((3, NIGHT), (12, NOON)):
        start -= start % HOUR
        drawn = draw(start + np.arange(3600) * SECOND, DAY, rules)
        assert set(drawn) <= set(table[hour]) and abs(drawn.mean() - table[hour].mean()) <= 4 * table[hour].std() / 60


def test_an_error_in_one_second_is_no_trend():
    "BT-2: over a year of regular hours each hundredth is drawn equally often, and neighbouring seconds are strangers."
    table = np.tile(np.arange(100), (24, 1))
    drawn = draw(DAY.rth_open + np.arange(252 * 23_400) * SECOND, DAY, measured_rules(table))
    expected = len(drawn) / 100
    assert ((np.bincount(drawn, minlength=100) - expected)**2 / expected).sum() < 99 + 4 * (2 * 99)**0.5
    for lag in (1, 2, 60, 3600): assert abs(np.corrcoef(drawn[lag:], drawn[:-lag])[0, 1]) < 4 / len(drawn)**0.5


@given(some_fills, st.randoms(use_true_random=False))
@settings(max_examples=50, deadline=None, derandomize=True)
def test_order_and_improvement_change_nothing(fills, random):
    "BT-2: the order of rows does not matter; a fill better than expected counts as 0 ticks; prices say the same as ticks, for buys and sells alike."
    hours, ticks = np.array(fills).T
    want = calibrate_slippage(fills_of(hours, ticks))
    random.shuffle(fills)
    mixed, their = np.array(fills).T
    side = np.array([random.choice((1, -1)) for _ in fills])
    prices = fills_of(mixed, their).drop(columns="slippage_ticks").assign(side=np.where(side > 0, "buy", "sell"), expected_price=6500.0, fill_price=6500.0 + MES.to_points(side * their))
    by_ns = prices.assign(ns=prices["time"].dt.as_unit("ns").astype("int64"), side=side).drop(columns="time")
    for other in (fills_of(hours, np.maximum(ticks, 0)), fills_of(mixed, their), prices, by_ns):
        found = calibrate_slippage(other)
        assert found[:4] == want[:4]
        np.testing.assert_array_equal(found.counts, want.counts)


def test_hours_are_new_yorks_in_summer_and_winter():
    "BT-2: 14:30 UTC is half past nine in winter and half past ten in summer."
    fills = pd.DataFrame({"time": pd.to_datetime(["2026-01-15T14:30Z", "2026-07-15T14:30Z"]), "slippage_ticks": [1, 2]})
    counts = calibrate_slippage(fills).counts
    assert counts[9, 1] == counts[10, 2] == 1 and counts.sum() == 2


# What is refused -------------------------------------------------------------------------------------------------------------------------

GOOD = fills_of([9, 10, 11], [1, 2, 0])
PRICES = GOOD.drop(columns="slippage_ticks").assign(side=["buy", "sell", "buy"], expected_price=6500.0, fill_price=6500.25)


def complaint(f, *given, **named):
    with pytest.raises(ValueError) as caught: f(*given, **named)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("fills, line", [
    (GOOD[:0], "fills: there must be at least one fill, got none"),
    (GOOD.drop(columns="time"), "fills must have a column time or ns, got slippage_ticks"),
    (GOOD.assign(time=GOOD["time"].dt.as_unit("ns").dt.tz_localize(None)), "fills: time must be times with a time zone, got datetime64[ns]"),
    (GOOD.assign(time=["a", "b", "c"]).astype({"time": object}), "fills: time must be times with a time zone, got object"),
    (GOOD.assign(time=GOOD["time"].where([True, False, True])), "fills: row 1: time must not be empty, got NaT"),
    (GOOD.assign(ns=[1.5, 2.0, 3.0]), "fills: ns must be whole ns UTC, got float64"),
    (GOOD.assign(ns=[1_773_149_400_000] * 3), "fills: row 0: ns must be later than the year 2000, got 1773149400000"),
    (GOOD.assign(slippage_ticks=[1, np.nan, 0]), "fills: row 1: slippage_ticks must be a whole number, got nan"),
    (GOOD.assign(slippage_ticks=[1, 2, np.inf]), "fills: row 2: a fill must lie within 1000 ticks of what was expected, got inf"),
    (GOOD.assign(slippage_ticks=[1, 2, 0.25]), "fills: row 2: slippage_ticks must be a whole number, got 0.25"),
    (GOOD.assign(slippage_ticks=["1", "2", "much"]), "fills: row 2: slippage_ticks must be a whole number, got much"),
    (GOOD.assign(slippage_ticks=[1, 2, 1001]), "fills: row 2: a fill must lie within 1000 ticks of what was expected, got 1001"),
    (GOOD.assign(slippage_ticks=[-1001, 2, 1]), "fills: row 0: a fill must lie within 1000 ticks of what was expected, got -1001"),
    (PRICES.drop(columns=["side", "fill_price"]), "fills must have slippage_ticks, or side, expected_price and fill_price; missing: side, fill_price"),
    (PRICES.assign(side=["buy", "long", "sell"]), "fills: row 1: side must be buy or sell, 1 or -1, got long"),
    (PRICES.assign(side=[1, -1, 0]), "fills: row 2: side must be buy or sell, 1 or -1, got 0"),
    (PRICES.assign(expected_price=[6500.0, np.nan, 6500.0]), "price nan at row 1 is not on MES's tick grid of 0.25"),
    (PRICES.assign(fill_price=[6500.0, 6500.25, 6500.1]), "price 6500.1 at row 2 is not on MES's tick grid of 0.25"),
    (PRICES.assign(fill_price=[6500.0, 6800.0, 6500.0]), "fills: row 1: a fill must lie within 1000 ticks of what was expected, got 6800.0"),
], ids=lambda value: value[:60] if isinstance(value, str) else "")
def test_fills_that_cannot_be_are_refused(fills, line):
    "BT-2: one line, with the row, what is wrong and what would be right."
    assert complaint(calibrate_slippage, fills) == line


def test_few_has_bounds():
    "BT-2: how many fills an hour needs."
    assert [complaint(calibrate_slippage, GOOD, few=few) for few in (0, 10_001)] == [f"few must be from 1 to 10000 fills, got {few}" for few in (0, 10_001)]


@pytest.fixture
def file(tmp_path):
    save_slippage(calibrate_slippage(GOOD), tmp_path / "mine.json")
    return tmp_path / "mine.json"


@pytest.mark.parametrize("edit, line", [
    (lambda d: d | {"version": 2}, "version: input should be 1, got 2"),
    (lambda d: {k: v for k, v in d.items() if k != "hours"}, "hours: field required"),
    (lambda d: d | {"hours": {h: c for h, c in d["hours"].items() if h not in ("0", "23")}}, "hours must be all from 0 to 23, missing: 0, 23"),
    (lambda d: d | {"hours": d["hours"] | {"9": {"1": -1}}}, "hours.9.1: input should be greater than or equal to 0, got -1"),
    (lambda d: d | {"hours": d["hours"] | {"9": {"1": 0.5}}}, "hours.9.1: input should be a valid integer, got a number with a fractional part, got 0.5"),
    (lambda d: d | {"hours": dict.fromkeys(d["hours"], {}), "fills": 0}, "fills: input should be greater than or equal to 1, got 0"),
    (lambda d: d | {"hours": dict.fromkeys(d["hours"], {})}, "fills must be the sum of all counts, 0, got 3"),
    (lambda d: d | {"fills": 30}, "fills must be the sum of all counts, 3, got 30"),
    (lambda d: d | {"mean": 1}, "mean: extra inputs are not permitted, got 1"),
])
def test_a_file_that_was_spoilt_is_refused(file, edit, line):
    "BT-2: versioned JSON, checked as a whole; the file and what is wrong in one line."
    content = json.loads(file.read_text())
    assert content["version"] == 1 and load_slippage(file).counts.sum() == content["fills"] == 3
    file.write_text(json.dumps(edit(content)))
    assert complaint(load_slippage, file) == f"{file}: {line}"


def test_what_is_no_file_of_ours_is_refused(file):
    "BT-2: missing, not JSON, cut short, another symbol's; at the door of the settings too."
    assert complaint(load_slippage, file, "ES") == f"{file}: must be measured on ES, got MES"
    assert complaint(rules_with, instrument("ES"), slippage="measured", measured=str(file)) == f"{file}: must be measured on ES, got MES"
    with pytest.raises(FileNotFoundError, match="nowhere.json: no such file of measured slippage$"): load_slippage(file.with_name("nowhere.json"))
    with pytest.raises(FileNotFoundError, match="nowhere.json"): rules_with(slippage="measured", measured=str(file.with_name("nowhere.json")))
    whole = file.read_bytes()
    for content in (b"", b"\xff\xfe", b"ticks", whole[:-5], b"[1]"):
        file.write_bytes(content)
        assert complaint(load_slippage, file).startswith(f"{file}: in")  # invalid JSON, or input should be an object


def test_a_write_that_fails_leaves_the_old_file(file, monkeypatch):
    "BT-2: written aside, then renamed."
    before = file.read_bytes()
    def full(*_): raise OSError("disk full")
    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="disk full"): save_slippage(calibrate_slippage(GOOD[:1]), file)
    assert file.read_bytes() == before and [p.name for p in file.parent.iterdir()] == ["mine.json"]


def test_the_file_reaches_the_rules(file):
    "BT-2: settings -> file -> record: what the kernels draw from is the table of the file."
    rules = rules_with(slippage="measured", measured=str(file))
    np.testing.assert_array_equal(rules.measured, slippage_table(load_slippage(file)))
    assert rules.model == SlippageModel.MEASURED and rules.measured.any()
