"The calendar: sessions, clocks, holidays (DAT-1, DAT-3, RSK-7)."
import datetime as dt

import numpy as np
import pandas as pd
import pytest

from mesbot.calendar import DAY, FIRST_DAY, HOUR, LAST_DAY, MINUTE, NY, next_trade_dates, ny_time, session_table, sessions_of
from mesbot.core import SECOND

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
