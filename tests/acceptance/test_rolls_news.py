"Rolls and scheduled news (DAT-10, RSK-7)."
import datetime as dt

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesbot.calendar import ny_time, session_table
from mesbot.core import INSTRUMENTS, SECOND
from mesbot.news import Release, covered, near_news, news_table, source_of
from mesbot.rolls import RULES, contract_code, expiry, front_contracts, roll_dates, volume_roll

# Mondays on which CME lists the next contract as leading; market.md section 1
MONDAYS = "2025-03-17 2025-06-16 2025-09-15 2025-12-15 2026-03-16 2026-06-15 2026-09-14 2026-12-14 2027-03-15 2027-06-14 2027-09-13 2027-12-13".split()


@pytest.mark.parametrize("symbol", ["MES", "ES", "MNQ", "M2K"])
def test_rolls_of_three_years(symbol):
    "Index futures roll on the Mondays that CME lists, and eight days before the third Friday by the old rule."
    assert [str(d) for d in roll_dates("2025-01-01", "2027-12-31", "monday", symbol)] == MONDAYS
    np.testing.assert_array_equal(roll_dates("2025-01-01", "2027-12-31", "thursday8", symbol), np.array(MONDAYS, "M8[D]") - 4)


@pytest.mark.parametrize("roll", MONDAYS)
def test_the_roll_is_on_the_day_itself(roll):
    "The old contract is held on the trade date before the roll, the next one on the roll's own."
    before = session_table(np.datetime64(roll) - 5, np.datetime64(roll) - 1)["date"][-1].astype("M8[D]")
    old, new = front_contracts([before, roll], "MES", "monday")
    month = int(roll[5:7])
    assert old == contract_code("MES", int(roll[:4]), month) and new == contract_code("MES", int(roll[:4]) + month // 12, month % 12 + 3)


def test_expiries():
    "The third Friday; the Thursday where that is Juneteenth."
    ends = {(y, m): expiry(y, m) for y in range(2010, 2028) for m in (3, 6, 9, 12)}
    moved = {k: str(d) for k, d in ends.items() if pd.Timestamp(d).day_of_week != 4}
    assert moved == {(2026, 6): "2026-06-18", (2027, 6): "2027-06-17"}
    assert all(15 <= pd.Timestamp(d).day <= 21 for k, d in ends.items() if k not in moved)
    for d in ends.values(): assert len(session_table(d, d, "us_equity")) == 1


@pytest.mark.parametrize("rule", RULES[1:])
@pytest.mark.parametrize("symbol", ["MES", "GC"])
def test_the_chain_of_ten_years(symbol, rule):
    "Every trade date has one contract, contracts follow each other in order, none is held beyond its last day, and gold is left before first notice."
    hours = INSTRUMENTS[symbol].hours
    dates = session_table("2018-01-01", "2027-12-31", hours)["date"].astype("M8[D]")
    held = front_contracts(dates, symbol, rule)
    change = np.flatnonzero(held[1:] != held[:-1]) + 1
    np.testing.assert_array_equal(dates[change], roll_dates("2018-01-02", "2027-12-31", rule, symbol))
    months = [3, 6, 9, 12] if symbol == "MES" else [2, 4, 6, 8, 10, 12]
    chain = [(y, m) for y in range(2018, 2029) for m in months][:len(change) + 1]
    assert [contract_code(symbol, *c) for c in chain] == [held[0], *held[change]]
    for (y, m), last in zip(chain, dates[change - 1]):
        assert last < (expiry(y, m) if symbol == "MES" else np.datetime64(f"{y}-{m:02}-01"))  # first notice is the last business day of the month before
        if symbol == "GC":
            notice = session_table(np.datetime64(f"{y}-{m:02}-01") - 7, np.datetime64(f"{y}-{m:02}-01") - 1, "us_equity")["date"][-1].astype("M8[D]")
            assert 1 <= int((notice - last).astype(int)) - (8 if rule == "thursday8" else 0) <= 11


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 12), st.integers(1, 4), st.data())
def test_volume_roll(m, k, data):
    "By volume: decided by the day before, never back, and whatever comes from a day on cannot change what is held on that day."
    cell = st.lists(st.integers(0, 5), min_size=k, max_size=k)
    volumes = np.array(data.draw(st.lists(cell, min_size=m, max_size=m)))
    dates = np.datetime64("2024-01-01") + np.arange(m)
    held = volume_roll(dates, volumes)
    assert held[0] == 0 and (np.diff(held) >= 0).all()
    for i in range(1, m): assert held[i] == max(held[i - 1], int(np.flatnonzero(volumes[i - 1] == volumes[i - 1].max())[0]))
    i = data.draw(st.integers(0, m - 1))
    other = volumes.copy()
    other[i:] = np.array(data.draw(st.lists(cell, min_size=m - i, max_size=m - i)))
    np.testing.assert_array_equal(volume_roll(dates, other)[:i + 1], held[:i + 1])


@pytest.mark.parametrize("symbol", ["SPY", "TSLA", "BTC-USD"])
def test_nothing_to_roll(symbol):
    "Stocks and coins are refused, not answered with an empty list."
    for call in (lambda: roll_dates("2024-01-01", "2024-12-31", "monday", symbol), lambda: front_contracts(["2024-01-02"], symbol, "monday"), lambda: expiry(2024, 3, symbol)):
        with pytest.raises(ValueError, match=f"{symbol} has no contracts to roll"): call()


def test_nothing_is_rolled_in_years_without_holidays():
    "A year whose holidays are not known has no expiry and no roll."
    for call in (lambda: expiry(2028, 3), lambda: roll_dates("2028-01-01", "2028-12-31", "monday", "GC")):
        with pytest.raises(ValueError, match="not known"): call()


# A second list for every date of the table, year by year: month and day
SECOND_LIST = {
    Release.FOMC: {  # to 2023 github.com/mih475/test-project round7_fomc_event.py; 2024 USA TODAY; 2025 and 2026 mondovisione.com; 2027 menafn.com 1110023066
        2018: "0131 0321 0502 0613 0801 0926 1108 1219", 2019: "0130 0320 0501 0619 0731 0918 1030 1211", 2020: "0129 0429 0610 0729 0916 1105 1216", 2021: "0127 0317 0428 0616 0728 0922 1103 1215",
        2022: "0126 0316 0504 0615 0727 0921 1102 1214", 2023: "0201 0322 0503 0614 0726 0920 1101 1213", 2024: "0131 0320 0501 0612 0731 0918 1107 1218", 2025: "0129 0319 0507 0618 0730 0917 1029 1210",
        2026: "0128 0318 0429 0617 0729 0916 1028 1209", 2027: "0127 0317 0428 0609 0728 0915 1027 1208"},
    Release.CPI: {  # 2018 three public lists that agree; 2019 inflationdata.com and BLS's year page; 2020 to 2023 mih475 round7_cpi_event_offline.py; 2024 to 2026 BLS's year pages and BLS_2026_RELEASE_CALENDAR, as quoted in public code
        2018: "0112 0214 0313 0411 0510 0612 0712 0810 0913 1011 1114 1212", 2019: "0111 0213 0312 0410 0510 0612 0711 0813 0912 1010 1113 1211", 2020: "0114 0213 0311 0410 0512 0610 0714 0812 0911 1013 1112 1210",
        2021: "0113 0210 0310 0413 0512 0610 0713 0811 0914 1013 1110 1210", 2022: "0112 0210 0310 0412 0511 0610 0713 0810 0913 1013 1110 1213", 2023: "0112 0214 0314 0412 0510 0613 0712 0810 0913 1012 1114 1212",
        2024: "0111 0213 0312 0410 0515 0612 0711 0814 0911 1010 1113 1211", 2025: "0115 0212 0312 0410 0513 0611 0715 0812 0911 1024 1218", 2026: "0113 0213 0311 0410 0512 0610 0714 0812 0911 1014 1110 1210"},
    Release.PAYROLLS: {  # 2018 three public lists that agree; 2019 to 2023 mih475 round7_nfp_event.py; 2022 also blsmon1.bls.gov; 2024 BLS's year page; 2025 bls.gov/cps/publications/release-calendar.htm; 2026 BLS_2026_RELEASE_CALENDAR
        2018: "0105 0202 0309 0406 0504 0601 0706 0803 0907 1005 1102 1207", 2019: "0104 0201 0308 0405 0503 0607 0705 0802 0906 1004 1101 1206", 2020: "0110 0207 0306 0403 0508 0605 0702 0807 0904 1002 1106 1204",
        2021: "0108 0205 0305 0402 0507 0604 0702 0806 0903 1008 1105 1203", 2022: "0107 0204 0304 0401 0506 0603 0708 0805 0902 1007 1104 1202", 2023: "0106 0203 0310 0407 0505 0602 0707 0804 0901 1006 1103 1208",
        2024: "0105 0202 0308 0405 0503 0607 0705 0802 0906 1004 1101 1206", 2025: "0110 0207 0307 0404 0502 0606 0703 0801 0905 1120 1216", 2026: "0109 0211 0306 0403 0508 0605 0702 0807 0904 1002 1106 1204"},
}


def days_of(kind): return [t.date() for t in ny_time(news_table("2018-01-01", "2027-12-31", (kind,))["ts"])]


@pytest.mark.parametrize("kind", Release)
def test_every_date_in_two_lists(kind):
    "Each release was seen twice, and each has a source that can be looked up."
    second = [dt.date(y, int(d[:2]), int(d[2:])) for y, days in SECOND_LIST[kind].items() for d in days.split()]
    assert days_of(kind) == second and covered(kind) == list(SECOND_LIST[kind])
    for day in second:
        source = source_of(kind, day)
        assert source.startswith(("https://", "github.com/")) and "{" not in source


# dates off the usual pattern, each with its reason
ODD = {Release.FOMC: {"2018-11-08": "after the elections", "2020-11-05": "after the elections", "2024-11-07": "after the elections"},
       Release.CPI: {"2025-10-24": "government shut", "2025-12-18": "government shut"},
       Release.PAYROLLS: {"2020-07-02": "before July 4", "2025-07-03": "before July 4", "2025-11-20": "government shut", "2025-12-16": "government shut", "2026-02-11": "government shut", "2026-07-02": "before July 4"}}


@pytest.mark.parametrize("kind, usual", [(Release.FOMC, lambda d: d.weekday() == 2), (Release.CPI, lambda d: 10 <= d.day <= 15 and d.weekday() < 5), (Release.PAYROLLS, lambda d: d.weekday() == 4 and d.day <= 10)])
def test_dates_look_as_they_should(kind, usual):
    "A typing error shows: statements on Wednesdays, prices from the 10th to the 15th, payrolls on an early Friday, but for the days listed; never two in 20 days but after the shutdown."
    days = days_of(kind)
    assert {str(d) for d in days if not usual(d)} == set(ODD[kind])
    assert len(set(days)) == len(days) and min(np.diff(np.array(days, "M8[D]")).astype(int)) >= (20 if kind != Release.PAYROLLS else 23)


def test_payrolls_on_good_friday():
    "The Good Fridays that the calendar calls payrolls days are payrolls days here."
    assert {str(d) for d in days_of(Release.PAYROLLS)} & {"2018-03-30", "2019-04-19", "2020-04-10", "2021-04-02", "2022-04-15", "2023-04-07", "2024-03-29", "2025-04-18", "2026-04-03"} == {"2021-04-02", "2023-04-07", "2026-04-03"}


def test_release_times():
    "14:00 and 08:30 in New York, summer and winter; rising, known kinds."
    news = news_table("2018-01-01", "2027-12-31")
    assert (np.diff(news["ts"]) > 0).all() and len(news) == 79 + 107 + 107
    at = ny_time(news["ts"]).strftime("%H:%M")
    assert [t for t in at] == ["14:00" if k == Release.FOMC else "08:30" for k in news["kind"]]


def test_unscheduled_and_cancelled_are_not_in():
    "No emergency step of 2020, no meeting that was called off, no release that the shutdown cancelled, nothing of 2027 that BLS has not announced."
    for day in ("2020-03-03", "2020-03-15", "2020-03-18"):
        with pytest.raises(ValueError, match=f"no FOMC release is known on {day}"): source_of(Release.FOMC, day)
    assert len(news_table("2025-10-01", "2025-10-23")) == len(news_table("2025-11-01", "2025-11-19")) == 0
    assert set(news_table("2027-01-01", "2027-12-31")["kind"]) == {Release.FOMC}


def test_near_news_ends():
    "Both ends of the span are inside; a second more is not."
    for t in news_table("2018-01-01", "2027-12-31")["ts"]:
        np.testing.assert_array_equal(near_news(t + np.array([-61, -60, 0, 30, 31]) * SECOND, 60, 30), [False, True, True, True, False])
