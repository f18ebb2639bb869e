"The calendar: sessions, clocks, holidays (DAT-1, DAT-3, RSK-7)."
import datetime as dt

import numpy as np
import pandas as pd
import pandas_market_calendars
import pytest

from mesbot.calendar import DAY, FIRST_DAY, HOUR, LAST_DAY, MINUTE, NY, next_trade_dates, ny_time, session_table, sessions_of
from mesbot.core import INSTRUMENTS, MES, SECOND, Instrument, instrument

BOTH = ("cme_equity", "us_equity")


def one(date, hours="cme_equity"):
    table = session_table(date, date, hours)
    assert len(table) == 1, f"{len(table)} sessions on {date}"
    return table[0]


def clock(ns): return f"{ny_time([ns])[0]:%a %H:%M}"


@pytest.mark.parametrize("hours", BOTH)
def test_every_session_of_18_years(hours):
    "DAT-1, RSK-7: order, wall-clock times and shift hold on every day of the table, clock changes included."
    t = session_table(FIRST_DAY, LAST_DAY, hours)
    assert (np.diff(t["date"]) > 0).all() and (t["open"][1:] >= t["close"][:-1]).all()
    for a, b in (("open", "halt"), ("halt", "trade_from"), ("trade_from", "rth_open"), ("rth_open", "rth_close"), ("rth_close", "close")): assert (t[a] <= t[b]).all(), (a, b)
    assert set(pd.DatetimeIndex(t["date"].astype("M8[D]")).day_of_week) == {0, 1, 2, 3, 4}
    assert set(clock(x)[4:] for x in t["open"]) == ({"18:00"} if hours == "cme_equity" else {"04:00"})
    assert set(clock(x)[4:] for x in t["rth_open"]) == {"09:30"}
    early = t["shift"] > 0
    ends = {(clock(c)[4:], clock(r)[4:], int(s)) for c, r, s in zip(t["close"], t["rth_close"], t["shift"])}
    assert ends == ({("17:00", "16:00", 0), ("13:15", "13:15", 3 * HOUR + 45 * MINUTE)} if hours == "cme_equity" else {("20:00", "16:00", 0), ("17:00", "13:00", 3 * HOUR)})
    years = pd.DatetimeIndex(t["date"].astype("M8[D]")).year
    assert all(1 <= early[years == y].sum() <= 3 for y in range(2010, 2028))
    if hours == "cme_equity": np.testing.assert_array_equal(t["close"] - t["trade_from"], 23 * HOUR - t["shift"])


# NYSE's own count of trading days; https://www.nyse.com/trade/hours-calendars and its historical lists
@pytest.mark.parametrize("year, days", [(2010, 252), (2012, 250), (2013, 252), (2018, 251), (2019, 252), (2020, 253), (2021, 252), (2022, 251), (2023, 250), (2024, 252), (2025, 250)])
def test_trading_days_of_nyse(year, days):
    "DAT-3: as many share sessions a year as the exchange held."
    assert len(session_table(f"{year}-01-01", f"{year}-12-31", "us_equity")) == days


@pytest.mark.parametrize("date", ["2024-07-03", "2024-11-29", "2024-12-24", "2025-07-03", "2025-11-28", "2025-12-24", "2023-07-03", "2023-11-24", "2026-11-27", "2026-12-24", "2018-07-03", "2019-12-24"])
def test_early_closes(date):
    "DAT-3, RSK-7: the short days, in both calendars."
    assert clock(one(date)["close"])[4:] == "13:15" and one(date)["known"] == 1
    assert clock(one(date, "us_equity")["rth_close"])[4:] == "13:00"


@pytest.mark.parametrize("date", ["2022-07-01", "2026-07-02", "2021-07-02", "2020-07-02", "2021-12-23", "2022-12-23", "2021-12-31", "2024-12-31"])
def test_days_that_look_short_and_are_not(date):
    "RSK-7: the day before a holiday that falls on or next to a weekend is a normal one."
    assert one(date)["shift"] == one(date, "us_equity")["shift"] == 0


@pytest.mark.parametrize("holiday, trade_date, opens", [
    ("2024-01-15", "2024-01-16", "Sun 18:00"), ("2024-05-27", "2024-05-28", "Sun 18:00"), ("2024-06-19", "2024-06-20", "Tue 18:00"), ("2024-07-04", "2024-07-05", "Wed 18:00"),
    ("2024-09-02", "2024-09-03", "Sun 18:00"), ("2024-11-28", "2024-11-29", "Wed 18:00"), ("2026-06-19", "2026-06-22", "Thu 18:00"), ("2026-07-03", "2026-07-06", "Thu 18:00"),
    ("2022-06-20", "2022-06-21", "Sun 18:00"), ("2021-07-05", "2021-07-06", "Sun 18:00"), ("2025-02-17", "2025-02-18", "Sun 18:00")])
def test_a_holiday_joins_the_next_trade_date(holiday, trade_date, opens):
    "DAT-3: CME's holiday trading belongs to the next business day, is loaded and never traded; shares are closed."
    assert len(session_table(holiday, holiday)) == len(session_table(holiday, holiday, "us_equity")) == 0
    s = one(trade_date)
    assert (clock(s["open"]), clock(s["halt"])[4:], clock(s["trade_from"])[4:]) == (opens, "13:00", "18:00")
    assert s["trade_from"] % DAY in (22 * HOUR, 23 * HOUR) and s["close"] - s["trade_from"] == 23 * HOUR - s["shift"]
    noon = pd.Timestamp(f"{holiday} 12:00", tz=NY).value
    assert list(sessions_of(np.array([noon, s["trade_from"]]), "cme_equity")[0]) == [0, 2]
    with pytest.raises(ValueError, match="closed .*13:00.*18:00"): sessions_of(np.array([noon, noon + HOUR]), "cme_equity")


def test_juneteenth_only_from_2022():
    "DAT-3: in 2020 and 2021 Juneteenth was a normal day."
    for date in ("2020-06-19", "2021-06-18"):
        for hours in BOTH: assert one(date, hours)["known"] == 1 and one(date, hours)["shift"] == 0


@pytest.mark.parametrize("date", ["2024-01-01", "2024-12-25", "2022-12-26", "2023-01-02", "2021-12-24", "2027-12-24", "2010-12-24"])
def test_closed(date):
    "DAT-3: New Year's Day and Christmas, as observed."
    for hours in BOTH: assert len(session_table(date, date, hours)) == 0


@pytest.mark.parametrize("date", ["2012-10-29", "2012-10-30", "2018-12-05", "2025-01-09", "2023-04-07", "2024-03-29", "2025-04-18", "2026-04-03"])
def test_doubtful_days_are_loaded_and_not_traded(date):
    "RSK-7: special closures and Good Friday: CME bars are accepted, known = 0; shares are closed."
    assert one(date)["known"] == 0 and len(session_table(date, date, "us_equity")) == 0
    assert len(sessions_of(np.array([pd.Timestamp(f"{date} 09:00", tz=NY).value]), "cme_equity")[1]) == 1


@pytest.mark.parametrize("date", ["2009-12-31", "2028-01-03", "2035-12-25"])
def test_outside_the_table_nothing_is_known(date):
    "RSK-7: a day beyond the table has a session and no trading."
    for hours in BOTH: assert one(date, hours)["known"] == 0


def test_cme_is_vouched_for_from_its_present_close_on():
    "RSK-7: until 2015-09-18 CME closed at another time than today, so nothing is traded before."
    t = session_table(FIRST_DAY, "2015-12-31")
    np.testing.assert_array_equal(t["known"], t["date"] >= np.datetime64("2015-09-21").astype(int))


def test_next_trade_dates_are_known():
    "RSK-7: 504 days for a synthetic market, all vouched for."
    days = next_trade_dates(dt.date(2024, 1, 2), 504)
    assert len(days) == 504 and (days["known"] == 1).all() and (np.diff(days["date"]) > 0).all()
    with pytest.raises(ValueError, match="ends on 2027-12-31"): next_trade_dates("2030-01-01", 1)


def test_every_second_of_two_weeks():
    "DAT-1: every second around a clock change falls into the session that holds it."
    table = session_table("2024-03-04", "2024-03-15")
    ts = np.concatenate([np.r_[np.arange(s["open"], s["halt"], SECOND), np.arange(s["trade_from"], s["close"], SECOND)] for s in table])
    pointers, found = sessions_of(ts, "cme_equity")
    np.testing.assert_array_equal(found, table)
    np.testing.assert_array_equal(np.diff(pointers), (table["close"] - table["trade_from"]) // SECOND)
    for edge in (table["open"][0] - SECOND, table["close"][3]):
        with pytest.raises(ValueError, match="outside trading hours"): sessions_of(np.array([edge]), "cme_equity")


def test_cached_tables_cannot_be_spoilt():
    "What a caller does to its table does not reach the next caller."
    one("2024-01-03")
    table = session_table("2024-01-03", "2024-01-03")
    table["known"] = 7
    assert one("2024-01-03")["known"] == 1


def test_instruments():
    "DAT-10: eight instruments with tick, value of a tick, hours and unit."
    facts = {"MES": (0.25, 1.25, "cme_equity", "contract"), "ES": (0.25, 12.5, "cme_equity", "contract"), "MNQ": (0.25, 0.5, "cme_equity", "contract"), "M2K": (0.1, 0.5, "cme_equity", "contract"),
             "GC": (0.1, 10.0, "cme_metals", "contract"), "SPY": (0.01, 1.0, "us_equity", "lot of 100 shares"), "TSLA": (0.01, 1.0, "us_equity", "lot of 100 shares"), "BTC-USD": (0.01, 0.01, "crypto", "coin")}
    assert {s: (i.tick, i.tick_usd, i.hours, i.unit) for s, i in INSTRUMENTS.items()} == facts
    assert all(i is instrument(s) and isinstance(i, Instrument) and i.symbol == s for s, i in INSTRUMENTS.items()) and instrument("MES") is MES
    for i in INSTRUMENTS.values(): assert len(session_table("2024-01-02", "2024-01-02", i.hours)) == 1


def test_a_tick_of_a_tenth():
    "DAT-10: 4321.7 is on the grid of 0.1 although no binary fraction is a tenth; 4321.75 is not, and half a tick never is."
    gold = instrument("GC")
    np.testing.assert_array_equal(gold.to_ticks([4321.7, 4321.6999999999998, 1999.9]), [43217, 43217, 19999])
    prices = np.round(np.arange(1, 100_000) * 0.1, 1)  # as a file has them
    assert gold.on_grid(prices).all() and not gold.on_grid(prices + 0.05).any()
    np.testing.assert_array_equal(gold.to_ticks(prices), np.arange(1, 100_000))
    with pytest.raises(ValueError, match="4321.75 at row 0 is not on GC's tick grid of 0.1"): gold.to_ticks([4321.75])


# pandas_market_calendars 5.5.0 against our table: (date) -> why we differ on purpose
GOOD_FRIDAY = "Good Friday: it says closed or 09:15, sources contradict each other, so ours is loaded to 17:00 with known = 0"
DISAGREE = {"CME Globex Equity": {d: GOOD_FRIDAY for d in ("2018-03-30", "2019-04-19", "2020-04-10", "2021-04-02", "2022-04-15", "2023-04-07", "2024-03-29", "2025-04-18", "2026-04-03", "2027-03-26")}, "NYSE": {}}


def our_days(hours):
    "date -> (first, last) instant of trading; a holiday that CME joins to the next trade date stands for itself, as in the library."
    days = {}
    for s in session_table("2018-01-01", "2027-12-31", hours):
        if s["halt"] > s["open"]: days[str(ny_time([s["halt"]])[0].date())] = s["open"], s["halt"]
        days[str(s["date"].astype("M8[D]"))] = (s["rth_open"], s["rth_close"]) if hours == "us_equity" else (s["trade_from"], s["close"])
    return days


@pytest.mark.parametrize("name, hours, n", [("CME Globex Equity", "cme_equity", 2587), ("NYSE", "us_equity", 2513)])
def test_every_day_of_ten_years_against_another_calendar(name, hours, n):
    "DAT-1, RSK-7: dates, opens and closes of 2018 to 2027 as pandas_market_calendars has them, but for the days listed with a reason; one that vanishes from the list is news, too."
    theirs = pandas_market_calendars.get_calendar(name).schedule("2018-01-01", "2027-12-31")
    stamps = lambda column: theirs[column].dt.tz_convert("UTC").dt.as_unit("ns").astype("int64")
    theirs = dict(zip(theirs.index.strftime("%Y-%m-%d"), zip(stamps("market_open"), stamps("market_close"))))
    assert len(theirs) == n
    ours = our_days(hours)
    differ = {d for d in theirs.keys() | ours.keys() if theirs.get(d) != ours.get(d)}
    assert differ == set(DISAGREE[name]), f"unlisted: {sorted(differ - set(DISAGREE[name]))}; listed, but agree: {sorted(set(DISAGREE[name]) - differ)}"
    for d in differ: assert one(d, hours)["known"] == 0


def test_mourning_days_differ_in_trust_not_in_time():
    "RSK-7: on the two mourning days the other calendar has a normal CME session; ours has the same hours and known = 0, because New York's exchanges were shut and CME halted early."
    theirs = pandas_market_calendars.get_calendar("CME Globex Equity").schedule("2018-12-05", "2025-01-09")
    for date in ("2018-12-05", "2025-01-09"):
        assert theirs["market_close"][date].value == one(date)["close"] and one(date)["known"] == 0


EARLY = {2018: "07-03 11-23 12-24", 2019: "07-03 11-29 12-24", 2020: "11-27 12-24", 2021: "11-26", 2022: "11-25", 2023: "07-03 11-24", 2024: "07-03 11-29 12-24", 2025: "07-03 11-28 12-24", 2026: "11-27 12-24", 2027: "11-26"}


@pytest.mark.parametrize("date", [f"{year}-{day}" for year, days in EARLY.items() for day in days.split()])
def test_every_early_close_of_ten_years(date):
    "RSK-7: one by one, 13:15 for CME equity futures, 13:00 for shares; and gold, whose time nobody agrees on, is loaded and not traded."
    s = one(date)
    assert clock(s["close"])[4:] == clock(s["rth_close"])[4:] == "13:15" and s["shift"] == 3 * HOUR + 45 * MINUTE and s["known"] == 1
    assert clock(one(date, "us_equity")["rth_close"])[4:] == "13:00"
    gold = one(date, "cme_metals")
    assert (gold["known"], gold["shift"], clock(gold["close"])[4:]) == (0, 0, "17:00")


def test_there_are_no_other_early_closes():
    "RSK-7: the list above is the whole of it."
    t = session_table("2018-01-01", "2027-12-31")
    assert [str(d) for d in t["date"][t["shift"] > 0].astype("M8[D]")] == [f"{year}-{day}" for year, days in EARLY.items() for day in days.split()]


@pytest.mark.parametrize("monday, hour", [("2024-03-11", 22), ("2024-11-04", 23), ("2025-03-10", 22), ("2025-11-03", 23), ("2026-03-09", 22), ("2026-11-02", 23)])
def test_weeks_of_the_clock_change(monday, hour):
    "DAT-1: the Friday before keeps the old hour, the Monday after has the new one; every CME session lasts 23 hours and the coin's Sunday 23 or 25."
    day = np.datetime64(monday)
    friday, after = one(day - 3), one(day)
    assert [int(s["open"] % DAY // HOUR) for s in (friday, after)] == [45 - hour, hour]
    assert {int(s["close"] - s["open"]) for s in session_table(day - 7, day + 4)} == {23 * HOUR}
    for s in session_table(day - 7, day + 4):
        assert (clock(s["open"])[4:], clock(s["rth_open"])[4:], clock(s["close"])[4:]) == ("18:00", "09:30", "17:00")
    coin = session_table(day - 7, day + 4, "crypto")
    assert [int((s["close"] - s["open"]) // HOUR) for s in coin] == [24] * 6 + [23 if hour == 22 else 25] + [24] * 5


def test_gold_keeps_the_dates_of_cme():
    "DAT-10: gold has CME's trade dates, joins holidays likewise, and takes every hour that another calendar gives it; outside the doubtful days open and close agree with it."
    gold, equity = session_table("2018-01-01", "2027-12-31", "cme_metals"), session_table("2018-01-01", "2027-12-31")
    np.testing.assert_array_equal(gold["date"], equity["date"])
    np.testing.assert_array_equal(gold["trade_from"], equity["trade_from"])
    assert set(clock(x)[4:] for x in gold["close"]) == {"17:00"} and not gold["shift"].any() and (gold["known"] <= equity["known"]).all()
    assert set(clock(x)[4:] for x in gold["halt"][gold["halt"] > gold["open"]]) == {"14:30"}
    theirs = pandas_market_calendars.get_calendar("CMEGlobex_GC").schedule("2018-01-01", "2027-12-31")
    starts, ends = (theirs[c].dt.tz_convert("UTC").dt.as_unit("ns").astype("int64").to_numpy() for c in ("market_open", "market_close"))
    sessions_of(np.sort(np.concatenate([starts, ends - SECOND])), "cme_metals")  # raises at an hour that we refuse
    theirs = dict(zip(theirs.index.strftime("%Y-%m-%d"), ends))
    differ = {str(s["date"].astype("M8[D]")) for s in gold if s["known"] and theirs.get(str(s["date"].astype("M8[D]"))) != s["close"]}
    assert differ == set()


def test_a_coin_never_sleeps():
    "DAT-10: every calendar day of the table, close = next open, always known; an instant on the edge belongs to the day that opens."
    t = session_table(FIRST_DAY, LAST_DAY, "crypto")
    np.testing.assert_array_equal(t["date"], np.arange(FIRST_DAY, LAST_DAY + 1).astype(int))
    np.testing.assert_array_equal(t["open"][1:], t["close"][:-1])
    assert t["known"].all() and not t["shift"].any() and (t["open"] == t["trade_from"]).all() and (t["open"] == t["halt"]).all()
    assert set(clock(x)[4:] for x in t["rth_open"]) == {"09:30"} and set(clock(x)[4:] for x in t["rth_close"]) == {"16:00"}
    assert not session_table("2028-01-01", "2028-12-31", "crypto")["known"].any()
    year = t[(t["date"] >= np.datetime64("2024-01-01").astype(int)) & (t["date"] <= np.datetime64("2024-12-31").astype(int))]
    ts = np.sort(np.concatenate([year["open"], year["close"] - SECOND]))
    pointers, found = sessions_of(ts, "crypto")
    np.testing.assert_array_equal(pointers, np.arange(len(year) + 1) * 2)
    np.testing.assert_array_equal(found, year)
    every = np.arange(year["open"][0], year["close"][-1], 61 * SECOND)          # nothing is ever outside
    assert sessions_of(every, "crypto")[0][-1] == len(every)
