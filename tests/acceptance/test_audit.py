"The audit: every kind of fault is found where it was planted, and nothing else (DAT-5)."
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesbot.audit import audit_bars
from mesbot.audit_page import audit_page, audit_text
from mesbot.calendar import HOUR, MINUTE, NY, ny_time, session_table
from mesbot.core import SECOND, instrument
from mesbot.findings import FAULTS, NOTES
from mesbot.sessions import Bars, make_bars
from mesbot.tables import read_columns

PRICES = ("open", "high", "low", "close")


def ns(clock): return pd.Timestamp(clock, tz=NY).value


def made_up(first, last, bar_s=1, seed=1):
    "Clean bars of every second (minute) of regular hours and of one second in eight of the rest, at random: quiet, but a market. Holiday parts included."
    rng, table = np.random.default_rng(seed), session_table(first, last)
    table = table[table["known"] == 1]
    ts = np.concatenate([np.arange(a, b, bar_s * SECOND) for s in table for a, b in ((s["open"], s["halt"]), (s["trade_from"], s["close"]))])
    rth = np.zeros(len(ts), bool)
    for s in table: rth |= (ts >= s["rth_open"]) & (ts < s["rth_close"])
    ts = ts[rth | (bar_s == 60) | (rng.random(len(ts)) < 1 / 8)]
    close = 20000 + rng.integers(-1, 2, len(ts)).cumsum()
    open = np.append(20000, close[:-1])
    return make_bars(ts, open, np.maximum(open, close) + rng.integers(0, 2, len(ts)), np.minimum(open, close) - rng.integers(0, 2, len(ts)), close, rng.integers(1, 99, len(ts)), bar_s=bar_s)


@pytest.fixture(scope="module")
def seconds():
    "Three weeks of seconds with Thanksgiving in them: a holiday part, then an early close."
    return made_up("2024-11-11", "2024-12-03")


@pytest.fixture(scope="module")
def spring():
    "Two weeks of seconds around the beginning of summer time, 2024-03-10."
    return made_up("2024-03-04", "2024-03-13")


@pytest.fixture(scope="module")
def minutes():
    "Minutes from the end of October to Thanksgiving's Friday 2024: the change of the clocks on November 3, a holiday part, an early close."
    return made_up("2024-10-28", "2024-11-29", bar_s=60)


def cut(bars, *spans):
    "The bars without [start, end) of New York's clock, sessions cut again."
    keep = np.ones(len(bars.ts), bool)
    for a, b in spans: keep &= (bars.ts < ns(a)) | (bars.ts >= ns(b))
    return make_bars(*(column[keep] for column in bars[:6]), bars.symbol, bar_s=bars.bar_s)


def change(bars, clock, **values):
    "The bars with some values changed in the first bar from `clock` on."
    k = int(np.searchsorted(bars.ts, ns(clock)))
    columns = {name: np.array(getattr(bars, name)) for name in values}
    for name, value in values.items(): columns[name][k] = value(columns[name][k]) if callable(value) else value
    return bars._replace(**columns), f"{ny_time(bars.ts[k:k + 1])[0]:%Y-%m-%d %H:%M:%S}"


def kinds(audit): return {row.kind: row.count for row in audit.findings.itertuples()}


def found(audit, kind):
    row = audit.findings[audit.findings["kind"] == kind].iloc[0]
    assert row["severity"] == ("fault" if kind in FAULTS else "note")
    assert audit.ok == (not audit.findings["kind"].isin(FAULTS).any())
    return row


def test_clean_bars_have_no_finding(seconds, spring, minutes):
    "DAT-5: quiet seconds, weekends, the break, a holiday halt, early closes and both changes of the clocks are no faults."
    for bars in (seconds, spring, minutes):
        audit = audit_bars(bars)
        assert audit.ok and audit.findings.empty and len(audit.gaps) == 0 and audit.places.empty, audit_text(audit)
        assert audit.rows == len(bars.ts) and np.nanmin(audit.completeness) > 0.5  # a holiday morning and the next one share their cells


WHEN = "2024-11-19 11:00"
ROWS = [  # kind, what is changed in one bar
    ("crossed", dict(high=lambda x: x - 40)),
    ("crossed", dict(open=lambda x: x + 4)),
    ("not_positive", dict(low=0)),
    ("not_positive", dict(open=-5, high=-5, low=-5, close=-5)),
    ("negative_volume", dict(volume=-1)),
    ("zero_volume", dict(volume=0)),
    ("bad_stamp", dict(ts=lambda x: x + 1000)),
    ("spike", dict(high=lambda x: x + 60)),
    ("spike", dict(low=lambda x: x - 60)),
    ("spike", dict(open=lambda x: x + 60, high=lambda x: x + 60, low=lambda x: x + 60, close=lambda x: x + 60)),
]


@pytest.mark.parametrize("kind, values", ROWS, ids=[f"{kind}-{'-'.join(values)}" for kind, values in ROWS])
def test_one_bad_bar_is_found_where_it_stands(seconds, kind, values):
    "DAT-5: exactly the planted kind, once, at its second."
    bars, first = change(seconds, WHEN, **values)
    audit = audit_bars(bars)
    assert kinds(audit) == {kind: 1} and found(audit, kind)["first"] == first, audit_text(audit)


def test_stamps_out_of_order_or_twice(seconds):
    "DAT-5: unordered and duplicate rows; the rest is judged as if they had been put right."
    k = int(np.searchsorted(seconds.ts, ns(WHEN)))
    order = np.arange(len(seconds.ts))
    order[k], order[k + 1] = k + 1, k
    audit = audit_bars(seconds._replace(**{name: getattr(seconds, name)[order] for name in seconds._fields[:6]}))
    assert kinds(audit) == {"unordered": 1} and found(audit, "unordered")["first"] == "2024-11-19 11:00:00"
    twice = np.insert(np.arange(len(seconds.ts)), k, k)
    audit = audit_bars(Bars(*(column[twice] for column in seconds[:6]), seconds.sessions + (seconds.sessions > k)))
    assert kinds(audit) == {"duplicate": 1} and found(audit, "duplicate")["first"] == "2024-11-19 11:00:00"
    backwards = audit_bars(seconds._replace(**{name: getattr(seconds, name)[::-1] for name in seconds._fields[:6]}))
    assert set(kinds(backwards)) == {"unordered"}


def test_prices_off_the_grid(seconds):
    "DAT-5: floats with a half tick, NaN or infinity are off the grid; floats that are whole ticks are not."
    assert audit_bars(seconds._replace(close=seconds.close.astype(float))).ok
    for value in (20000.5, np.nan, np.inf, 1e12):
        bars, first = change(seconds._replace(close=seconds.close.astype(float)), WHEN, close=value)
        audit = audit_bars(bars)
        assert kinds(audit) == {"off_grid": 1} and found(audit, "off_grid")["first"] == first


def test_volume_that_nobody_recorded(seconds):
    "DAT-5: no volume at all is a note of its own."
    audit = audit_bars(seconds._replace(volume=np.zeros(len(seconds.ts), np.int64)))
    assert audit.ok and kinds(audit) == {"no_volume": len(seconds.ts)}


def test_row_pointers_and_lengths(seconds):
    "DAT-5: row pointers that somebody made up, and columns of different lengths."
    n = len(seconds.ts)
    for wrong in ([0, 5, n], [0], [], seconds.sessions + 1, seconds.sessions[::-1]): assert kinds(audit_bars(seconds._replace(sessions=np.array(wrong)))) == {"sessions": 1}
    assert audit_bars(seconds._replace(sessions=np.array([0, n]))).ok  # nobody has cut them yet
    audit = audit_bars(seconds._replace(volume=seconds.volume[:-3]))
    assert kinds(audit)["length"] == 3 and not audit.ok


def test_bars_outside_trading_hours(minutes):
    "DAT-5: a bar in the break, on a Saturday, in the holiday halt, after an early close; a file in the wrong zone tells by how many hours."
    for clock in ("2024-11-19 17:30", "2024-11-23 12:00", "2024-11-28 14:00", "2024-11-29 13:15"):
        k = int(np.searchsorted(minutes.ts, ns(clock)))
        columns = [np.insert(column, k, column[k - 1]) for column in minutes[:6]]
        columns[0][k] = ns(clock)
        audit = audit_bars(Bars(*columns, minutes.sessions + (minutes.sessions >= k) * (minutes.sessions > 0), bar_s=60))
        assert kinds(audit) == {"outside_hours": 1} and found(audit, "outside_hours")["first"] == f"{clock}:00", (clock, audit_text(audit))
    for hours in (1, -1, 5):
        audit = audit_bars(minutes._replace(ts=minutes.ts + hours * HOUR))
        assert f"Moved by {-hours:+d} h, 0 would" in found(audit, "outside_hours")["what"], audit_text(audit)
    assert "17:00 New York" in found(audit_bars(minutes._replace(ts=minutes.ts + HOUR)), "outside_hours")["what"]


def test_a_day_that_nobody_vouches_for(minutes):
    "DAT-5: Good Friday with bars is a note, without bars it is nothing; its holes are not judged."
    week = made_up("2024-03-25", "2024-04-03", bar_s=60)
    assert audit_bars(week).findings.empty
    friday = np.arange(ns("2024-03-28 18:00"), ns("2024-03-29 09:15"), MINUTE)
    k = int(np.searchsorted(week.ts, friday[0]))
    columns = [np.insert(column, k, np.full(len(friday), column[k - 1])) for column in week[:6]]
    columns[0][k:k + len(friday)] = friday
    columns[5][k:k + len(friday)] = np.arange(len(friday)) + 1
    audit = audit_bars(make_bars(*columns, bar_s=60))
    assert kinds(audit) == {"unknown_day": 1} and audit.ok and found(audit, "unknown_day")["first"] == "2024-03-28 18:00:00" and len(audit.gaps) == 0


def test_missing_sessions(seconds):
    "DAT-5: known trade dates without a bar are counted, and both parts of a holiday session are fetched again."
    audit = audit_bars(cut(seconds, ("2024-11-18 18:00", "2024-11-19 17:00")))
    assert kinds(audit) == {"missing_session": 1} and found(audit, "missing_session")["first"] == "2024-11-18 18:00:00"
    np.testing.assert_array_equal(audit.gaps, [[ns("2024-11-18 18:00"), ns("2024-11-19 17:00")]])
    assert (audit.completeness.loc["2024-11-19"].dropna() == 0).all() and audit.days["bars"].loc["2024-11-19"] == 0
    whole = made_up("2025-01-13", "2025-01-24", bar_s=60)
    audit = audit_bars(cut(whole, ("2025-01-19 18:00", "2025-01-21 17:00")))  # Martin Luther King day and its Tuesday
    np.testing.assert_array_equal(audit.gaps, [[ns("2025-01-19 18:00"), ns("2025-01-20 13:00")], [ns("2025-01-20 18:00"), ns("2025-01-21 17:00")]])
    assert kinds(audit) == {"missing_session": 1}


def test_a_holiday_part_without_bars_is_a_note(seconds):
    "DAT-5: it is never traded; a session without it is whole enough."
    audit = audit_bars(cut(seconds, ("2024-11-27 18:00", "2024-11-28 13:00")))
    assert audit.ok and kinds(audit) == {"holiday_part": 1} and len(audit.gaps) == 0


@pytest.mark.parametrize("a, b", [("2024-11-19 11:00", "2024-11-19 11:05"), ("2024-11-18 18:00", "2024-11-18 19:30"), ("2024-11-19 16:00", "2024-11-19 17:00"),
                                  ("2024-11-29 12:00", "2024-11-29 13:15"), ("2024-11-28 09:30", "2024-11-28 10:30")])
def test_a_hole_in_seconds(seconds, a, b):
    "DAT-5: in regular hours, at the open, at the close, before an early close, in a holiday part."
    audit = audit_bars(cut(seconds, (a, b)))
    assert kinds(audit) == {"gap": 1} and not audit.ok
    (start, end), = audit.gaps
    assert abs(start - ns(a)) <= 60 * SECOND and abs(end - ns(b)) <= 60 * SECOND  # the bars on both sides of it


@pytest.mark.parametrize("day", ["2024-03-08", "2024-03-11"])
def test_a_hole_on_either_side_of_the_change_of_the_clocks(spring, day):
    "DAT-5: the last session of winter time and the first of summer time."
    audit = audit_bars(cut(spring, (f"{day} 09:30", f"{day} 09:36")))
    assert kinds(audit) == {"gap": 1} and abs(audit.gaps[0, 1] - ns(f"{day} 09:36")) <= SECOND


def test_missing_minutes(minutes):
    "DAT-5: every minute of a dense file counts; from five on it is a gap; a hole over the break is two."
    minutes = minutes._replace(volume=minutes.volume * 100)  # a busy market
    audit = audit_bars(cut(minutes, ("2024-11-19 03:00", "2024-11-19 03:01"), ("2024-11-20 10:00", "2024-11-20 10:03")))
    assert kinds(audit) == {"missing_minutes": 4} and found(audit, "missing_minutes")["first"] == "2024-11-19 03:00:00" and "2 days" in found(audit, "missing_minutes")["what"]
    np.testing.assert_array_equal(audit.gaps[1], [ns("2024-11-20 10:00"), ns("2024-11-20 10:03")])
    audit = audit_bars(cut(minutes, ("2024-11-19 16:30", "2024-11-19 18:30")))
    assert kinds(audit) == {"gap": 2} and audit.gaps[:, 1].tolist() == [ns("2024-11-19 17:00"), ns("2024-11-19 18:30")]


def test_begin_and_end_of_the_data_are_notes(minutes):
    "DAT-5: a first day from 10:00 on and a last one to 10:00 are partial, not faulty."
    audit = audit_bars(cut(minutes, ("2024-10-27 18:00", "2024-10-28 10:00"), ("2024-11-29 10:00", "2024-11-29 17:00")))
    assert audit.ok and kinds(audit) == {"partial": 2} and len(audit.gaps) == 0
    assert audit.completeness.loc["2024-10-28", [18, 0, 9]].isna().all() and audit.completeness.loc["2024-10-28", 10] == 1


def test_two_days_and_one_day(minutes, seconds):
    "DAT-5: a hole is found when there is one other day to compare with, and when there is none."
    for bars, last in ((minutes, "2024-11-20"), (seconds, "2024-11-20"), (minutes, "2024-11-19"), (seconds, "2024-11-19")):
        holed = cut(bars, ("2024-01-01", "2024-11-18 18:00"), ("2024-11-19 11:00", "2024-11-19 11:41"), (f"{last} 17:00", "2025-01-01"))
        audit = audit_bars(holed)
        assert kinds(audit) == {"gap": 1} and f"{ny_time(audit.gaps[0])[1]:%H:%M:%S}" == "11:41:00", (last, audit_text(audit))


def test_hours_that_no_day_has_are_not_expected(minutes):
    "DAT-5: a file of regular hours only has no hole at night."
    t = ny_time(minutes.ts)
    day = (t.hour * 60 + t.minute >= 570) & (t.hour < 16)
    two = day & (minutes.ts > ns("2024-11-18 18:00")) & (minutes.ts < ns("2024-11-20 18:00"))
    assert set(kinds(audit_bars(make_bars(*(column[two] for column in minutes[:6]), bar_s=60)))) == {"uncovered"}
    audit = audit_bars(make_bars(*(column[day] for column in minutes[:6]), bar_s=60))
    assert audit.ok and "16:00-17:00" in found(audit, "uncovered")["what"] and "18:00-09:30" in found(audit, "uncovered")["what"], audit_text(audit)


def test_the_pause_before_mid_2021_is_no_hole():
    "DAT-5: CME's pause 16:15-16:30 until mid-2021; after it the same quarter of an hour is a gap."
    for year, ok in ((2020, True), (2023, False)):
        week = made_up(f"{year}-02-03", f"{year}-02-14", bar_s=60)
        assert ok == audit_bars(cut(week, *((f"{d:%Y-%m-%d} 16:15", f"{d:%Y-%m-%d} 16:30") for d in pd.bdate_range(f"{year}-02-03", f"{year}-02-05")))).ok


def test_a_move_that_does_not_come_back(seconds):
    "DAT-5: a splice inside a session is a jump, in a roll's week it says so; between sessions of a roll's week it is a roll jump, on another day nothing."
    def shifted(bars, clock): return bars._replace(**{name: getattr(bars, name) + np.where(bars.ts >= ns(clock), 240, 0).astype(np.int32) for name in PRICES})
    audit = audit_bars(shifted(seconds, WHEN))
    assert kinds(audit) == {"jump": 1} and found(audit, "jump")["first"] == "2024-11-19 11:00:00" and "roll" not in found(audit, "jump")["what"]
    assert audit.places["points"].abs().sub(60).abs().max() < 1
    assert audit_bars(shifted(seconds, "2024-11-18 18:00")).ok
    december = made_up("2024-12-09", "2024-12-20")
    audit = audit_bars(shifted(december, "2024-12-15 18:00"))
    assert audit.ok and kinds(audit) == {"roll_jump": 1} and found(audit, "roll_jump")["first"][:16] == "2024-12-15 18:00"
    audit = audit_bars(shifted(december, "2024-12-16 11:00"))
    assert kinds(audit) == {"jump": 1} and "roll" in found(audit, "jump")["what"]
    audit = audit_bars(shifted(made_up("2024-11-11", "2024-11-29", bar_s=60), WHEN))
    assert kinds(audit) == {"jump": 1} and found(audit, "jump")["first"] == "2024-11-19 11:00:00"


def test_news_is_no_jump(seconds):
    "DAT-5: the same distance, wicks and all, is no fault when the market goes wild with it."
    rng, bars = np.random.default_rng(2), seconds
    k = int(np.searchsorted(bars.ts, ns("2024-11-19 11:00")))
    wild = np.r_[np.zeros(k), 240 + 12 * rng.integers(-3, 4, 300).cumsum(), np.full(len(bars.ts) - k - 300, 240)].astype(np.int32)
    wild[k + 300:] = wild[k + 299]
    moved = {name: getattr(bars, name) + wild for name in PRICES}
    moved["high"], moved["low"] = moved["high"] + 30 * (wild != 240) * (np.arange(len(wild)) >= k), moved["low"] - 30 * (wild != 240) * (np.arange(len(wild)) >= k)
    assert audit_bars(bars._replace(**moved)).findings.empty


def test_a_feed_that_hangs(seconds):
    "DAT-5: the same bar over and over."
    k, columns = int(np.searchsorted(seconds.ts, ns(WHEN))), [np.array(column) for column in seconds[1:6]]
    for column in columns: column[k:k + 90] = column[k]
    audit = audit_bars(seconds._replace(**dict(zip(seconds._fields[1:6], columns))))
    assert kinds(audit) == {"stale": 1} and found(audit, "stale")["first"] == "2024-11-19 11:00:00"


@settings(derandomize=True, max_examples=40, deadline=None)
@given(day=st.sampled_from([11, 12, 13, 14, 15, 18, 19, 20, 21, 22, 25, 26, 27]), start=st.integers(1, 385 * 60), length=st.integers(300, 6 * 3600))
def test_whatever_is_cut_out_of_regular_hours_is_found(seconds, day, start, length):
    "DAT-5: any stretch of five minutes or more, and the span to fetch again covers it."
    a = ns(f"2024-11-{day} 09:30") + start * SECOND
    b = min(a + length * SECOND, ns(f"2024-11-{day} 16:00"))
    keep = (seconds.ts < a) | (seconds.ts >= b)
    audit = audit_bars(make_bars(*(column[keep] for column in seconds[:6])))
    assert set(kinds(audit)) == {"gap"} and any(x <= a and b <= y for x, y in audit.gaps)


@settings(derandomize=True, max_examples=60, deadline=None)
@given(st.data())
def test_nothing_crashes_it(data):
    "DAT-5: rows of any quality are reported, never raised; what is clean stays clean."
    n = data.draw(st.integers(0, 12))
    stamp = st.one_of(st.integers(ns("2024-11-19 16:50"), ns("2024-11-19 18:10")), st.integers(-2**63, 2**63 - 1), st.just(ns(WHEN)))
    price = st.one_of(st.integers(-5, 5), st.floats(), st.just(20000))
    columns = [np.array(data.draw(st.lists(stamp, min_size=n, max_size=n)), np.int64), *(np.array(data.draw(st.lists(price, max_size=n + 2))) for _ in range(5))]
    audit = audit_bars(Bars(*columns, np.array(data.draw(st.lists(st.integers(-3, 15), max_size=4)), np.int64), "MES", data.draw(st.sampled_from([1, 60]))))
    assert set(audit.findings["kind"]) <= set(FAULTS + NOTES) and audit.ok == (not audit.findings["kind"].isin(FAULTS).any()) and audit_text(audit)


def test_a_length_that_is_no_store_length(seconds):
    with pytest.raises(ValueError, match="bars of 1 s or 60 s can be audited, got 5 s"): audit_bars(seconds._replace(bar_s=5))
    with pytest.raises(ValueError, match="unknown symbol 'DOGE'"): audit_bars(seconds._replace(symbol="DOGE"))


def real(path, symbol):
    "A real file as bars; sub-cent prices are rounded."
    c = read_columns(path)
    ticks = [np.rint(column / instrument(symbol).tick).astype(np.int32) for column in c[1:5]]
    return make_bars(c.ts, *ticks, c.volume, symbol, bar_s=c.bar_s)


def test_the_minute_file_with_one_hole(shared_data):
    "DAT-5: 41 minutes of 2026-06-09, the 56.75 points across it, and partial days at both ends; nothing else."
    audit = audit_bars(real(shared_data / "mes_1m_202605.txt", "MES"))
    assert kinds(audit) == {"gap": 1, "partial": 2} and not audit.ok
    np.testing.assert_array_equal(audit.gaps, [[ns("2026-06-09 10:57"), ns("2026-06-09 11:38")]])
    assert "41 minutes" in found(audit, "gap")["what"] and "-56.75 points" in found(audit, "gap")["what"]


def test_files_without_a_fault(shared_data):
    "DAT-5: a day of ES minutes with news in it; half a day of seconds with 2,820 quiet ones and no volume."
    assert kinds(audit_bars(real(shared_data / "es_1m_20251121.csv", "ES"))) == {"uncovered": 60}
    audit = audit_bars(real(shared_data / "es_1s_20180507.csv.gz", "ES"))
    assert audit.ok and kinds(audit) == {"uncovered": 1155, "no_volume": 9780} and len(audit.gaps) == 0


def test_the_share_with_missing_minutes(shared_data):
    "DAT-5: 12 minutes on 11 days and one bar without volume; nights are not expected, and the change of the clocks in the middle is nothing."
    audit = audit_bars(real(shared_data / "tsla_1m_202210.csv.gz", "TSLA"))
    assert kinds(audit) == {"missing_minutes": 12, "uncovered": 570, "zero_volume": 1}
    assert "on 11 days" in found(audit, "missing_minutes")["what"] and found(audit, "zero_volume")["first"] == "2022-11-02 15:10:00"
    assert (audit.gaps[:, 1] - audit.gaps[:, 0]).sum() == 12 * MINUTE


def test_the_week_with_odd_prints(shared_data):
    "DAT-5: all 96 one-bar close jumps of more than 0.30 within a day touch a bar that is marked; quiet extended hours are no holes."
    bars = real(shared_data / "spy_1s_201310.csv.gz", "SPY")
    audit = audit_bars(bars)
    assert kinds(audit) == {"spike": 91} and len(audit.gaps) == 0
    marked = np.isin(bars.ts, audit.places["ts"])
    for clock in ("2013-10-08 17:23:26", "2013-10-08 15:03:04"): assert marked[bars.ts == ns(clock)].tolist() == [True], clock  # 17:23:28 is the way back of 2.33 points
    same_day = np.searchsorted(bars.sessions, np.arange(len(bars.ts)), "right")
    jumps = np.flatnonzero((np.abs(np.diff(bars.close)) > 30) & (np.diff(same_day) == 0)) + 1
    assert len(jumps) == 96 and (marked[jumps] | marked[jumps - 1]).all()


def test_the_page_is_one_file(seconds, tmp_path):
    "DAT-5: the report as table and plot, with nothing fetched."
    audit = audit_bars(cut(seconds, ("2024-11-19 11:00", "2024-11-19 13:00")))
    page = audit_page(audit, tmp_path / "audit.html", "MES").read_text()
    assert page.count("data:image/png;base64,") == 2 and "http" not in page and "<script" not in page and found(audit, "gap")["what"][:20] in page
    assert max(map(len, audit_text(audit).splitlines())) <= 110


def test_last_day_with_the_pause():
    "DAT-5: CME's pause from 16:15 to 16:30 is no hole until the end of June 2021, and one from July on."
    from mesbot.holes import open_spans
    assert [len(open_spans(session_table(day, day), "cme_equity").start) for day in ("2021-06-30", "2021-07-01")] == [2, 1]


def test_a_spike_may_last_three_bars():
    "DAT-5: away for three bars and back is a spike, for four it is a jump."
    from mesbot.prints import _away_nb
    for away, bars in ((3, 3), (4, 0)):
        close = np.array([100, *[150] * away, 100, 100], np.int32)
        assert _away_nb(close, 1, len(close), 10.0) == bars


def test_a_minute_without_a_trade_may_be_chance(minutes):
    "DAT-5: where little trades, a minute or two without a bar is a note and nothing to fetch again; so minutes made of clean seconds have no fault."
    from mesbot.resample import resample_bars
    from mesbot.synth import synthetic_market
    audit = audit_bars(cut(minutes, ("2024-11-19 03:00", "2024-11-19 03:01"), ("2024-11-20 10:00", "2024-11-20 10:03")))
    assert audit.ok and kinds(audit) == {"quiet_minutes": 4} and len(audit.gaps) == 0
    for seed in (1, 5): assert audit_bars(resample_bars(synthetic_market(20, seed, start="2024-01-02").bars, 60)).ok


@pytest.mark.parametrize("bar_s", [1, 60])
def test_holes_at_the_edges_of_the_hours_a_file_covers(bar_s):
    "DAT-5: in a file of regular hours only, a hole at 09:30 or 16:00 and a whole day end where the usual hours end."
    from mesbot.resample import resample_bars
    from mesbot.sessions import filter_hours
    from mesbot.synth import synthetic_market
    regular, _ = filter_hours(synthetic_market(12, 3, start="2024-02-26").bars, "RTH")
    if bar_s == 60: regular = resample_bars(regular, 60, keep_last=True)
    for start, end in (("09:30", "10:00"), ("15:30", "16:00"), ("09:30", "16:00")):
        audit = audit_bars(cut(regular, (f"2024-03-06 {start}", f"2024-03-06 {end}")))
        assert not audit.ok and len(audit.gaps) == 1, (start, end, kinds(audit))
        a, b = ny_time(audit.gaps[0])
        assert abs((a - pd.Timestamp(f"2024-03-06 {start}", tz=NY)).total_seconds()) <= 60 and abs((b - pd.Timestamp(f"2024-03-06 {end}", tz=NY)).total_seconds()) <= 60, (a, b)


@pytest.mark.parametrize("times", [10, 4, 2])
def test_another_scale_from_a_session_on(times):
    "DAT-5: prices of another scale are a jump also when they begin between two sessions."
    from mesbot.synth import synthetic_market
    bars = synthetic_market(6, 1, start="2024-04-01").bars
    turn = bars.sessions[3]
    prices = [np.r_[column[:turn], column[turn:] * times] for column in bars[1:5]]
    audit = audit_bars(bars._replace(open=prices[0], high=prices[1], low=prices[2], close=prices[3]))
    assert not audit.ok and bars.ts[turn] in audit.places.loc[audit.places["kind"] == "jump", "ts"].tolist()
