"Longer bars from shorter ones, and bars from trades: file and stream, late and duplicate trades (DAT-4, LIV-3)."
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesbot.calendar import HOUR, HOURS, NY, session_table
from mesbot.core import SECOND, instrument
from mesbot.resample import resample_bars
from mesbot.sessions import cut_bars, make_bars, n_bars, n_sessions, session_info
from mesbot.tickfile import COLUMNS, DTYPES
from mesbot.tables import read_columns
from mesbot.ticks import BarStream, trades_to_bars

LENGTHS = (5, 15, 60, 300, 900)
some = settings(derandomize=True, deadline=None, max_examples=150)


def at(clock): return pd.Timestamp(clock, tz=NY).value


def same(a, b):
    for x, y in zip(a[:7], b[:7], strict=True): np.testing.assert_array_equal(x, y)
    assert [x.dtype for x in a[:7]] == [y.dtype for y in b[:7]] and a[7:] == b[7:]


# longer bars

def oracle(bars, bar_s):
    "All bars of `bar_s` as pandas cuts them, a session at a time, the incomplete last one included."
    table, parts = pd.DataFrame(dict(zip(COLUMNS, bars[:6]))).set_index("ts"), []
    table.index = pd.DatetimeIndex(table.index, tz="UTC")
    for a, b in zip(bars.sessions, bars.sessions[1:]):
        cut = table.iloc[a:b].resample(f"{bar_s}s", origin="epoch")
        part = cut.agg({"open": "first", "high": "max", "low": "min", "close": "last", "volume": "sum"})[cut.size() > 0]
        parts.append(part.set_index(part.index.as_unit("ns").asi8))
    return pd.concat(parts)


def agrees(longer, expected):
    np.testing.assert_array_equal(longer.ts, expected.index)
    for name in COLUMNS[1:]: np.testing.assert_array_equal(getattr(longer, name), expected[name])


def real(shared_data, name, symbol):
    rows, tick = read_columns(shared_data / name), instrument(symbol)
    return make_bars(rows.ts, *(tick.to_ticks(getattr(rows, p)) for p in COLUMNS[1:5]), rows.volume, symbol, rows.where, rows.bar_s)


@pytest.mark.parametrize("bar_s", LENGTHS)
def test_real_seconds_as_pandas_cuts_them(shared_data, bar_s):
    "DAT-4: 3.5 hours of ES; they end on 16:59:59 UTC, so every bar is complete."
    bars = real(shared_data, "es_1s_20180507.csv.gz", "ES")
    longer = resample_bars(bars, bar_s)
    agrees(longer, oracle(bars, bar_s))
    same(longer, make_bars(*longer[:6], "ES", bar_s=bar_s))  # they pass the door
    assert n_bars(longer) > 0 and longer.bar_s == bar_s


@pytest.mark.parametrize("bar_s", (300, 900))
def test_real_minutes_as_pandas_cuts_them(shared_data, bar_s):
    "DAT-4: minutes from the minute store, fourteen sessions of MES."
    bars = real(shared_data, "mes_1m_202605.txt", "MES")
    longer = resample_bars(bars, bar_s)
    assert bars.bar_s == 60 and n_sessions(longer) == n_sessions(bars) > 10
    agrees(longer, oracle(bars, bar_s))


def made_up(seed, n):
    "n seconds with a trade around the edges of sessions: both sides of a holiday halt, an early close, a change of the clocks, a plain break."
    rng = np.random.default_rng(seed)
    spans = [("2024-11-28 12:58", "2024-11-28 13:00"), ("2024-11-28 18:00", "2024-11-28 18:02"), ("2024-11-29 13:00", "2024-11-29 13:15"), ("2024-12-01 18:00", "2024-12-01 18:10"),
             ("2025-01-20 12:50", "2025-01-20 13:00"), ("2025-01-20 18:00", "2025-01-20 18:05"), ("2025-03-07 16:50", "2025-03-07 17:00"), ("2025-03-09 18:00", "2025-03-09 18:07")]
    seconds = np.concatenate([np.arange(at(a), at(b), SECOND) for a, b in spans])
    ts = np.sort(rng.choice(seconds, min(n, len(seconds)), replace=False))
    prices = rng.integers(19000, 19020, (4, len(ts)))
    return make_bars(ts, prices[0], prices.max(0), prices.min(0), prices[1], rng.integers(0, 50, len(ts)))


@some
@given(seed=st.integers(0, 10**6), n=st.integers(1, 3660), rows=st.integers(1, 3660), bar_s=st.sampled_from((*LENGTHS, 2, 3, 1800, 3600)))
def test_made_up_bars_as_pandas_cuts_them(seed, n, rows, bar_s):
    "DAT-4: ending anywhere; all of them with `keep_last`, by default all but an incomplete last one."
    bars = cut_bars(made_up(seed, n), min(rows, n))
    expected = oracle(bars, bar_s)
    agrees(resample_bars(bars, bar_s, keep_last=True), expected)
    over = min(expected.index[-1] + bar_s * SECOND, session_info(bars)["close"][-1])  # an hour ends at 13:15 on a short day
    proven = bars.ts[-1] + SECOND
    agrees(resample_bars(bars, bar_s), expected if over <= proven else expected[:-1])
    if over > proven:
        agrees(resample_bars(bars, bar_s, until=int(over) - 1), expected[:-1])
        agrees(resample_bars(bars, bar_s, until=int(over)), expected)


@pytest.mark.parametrize("bar_s", (5, 60, 900, 3600))
def test_a_cut_at_any_row_changes_no_earlier_bar(bar_s):
    "DAT-4: truncated at every row, the bars shown are exactly those that were over, and they are what the whole gives."
    bars = made_up(3, 700)
    full, close = resample_bars(bars, bar_s, keep_last=True), session_info(bars)["close"]
    of = np.searchsorted(full.sessions, np.arange(n_bars(full)), side="right") - 1
    over = np.minimum(full.ts + bar_s * SECOND, close[of])
    for rows in range(1, n_bars(bars) + 1):
        seen = resample_bars(cut_bars(bars, rows), bar_s)
        known = bars.ts[rows - 1] + SECOND
        begun = full.ts <= bars.ts[rows - 1]
        same(seen, cut_bars(full, int((begun & (over <= known)).sum())))


@pytest.mark.parametrize("bar_s", (60, 900, 3600))
def test_no_bar_spans_a_break(bar_s):
    "DAT-4: no bar has trades from both sides of a close or of a holiday halt."
    bars = made_up(5, 2500)
    longer = resample_bars(bars, bar_s, keep_last=True)
    info = session_info(bars)
    shut, opened = np.concatenate([info["close"], info["halt"]]), np.append(np.append(info["open"][1:], 2**62), info["trade_from"])
    assert (info["halt"] < info["trade_from"]).sum() == 2 and n_sessions(longer) == n_sessions(bars) == 5
    for k in range(n_bars(longer)):
        inside = bars.ts[(bars.ts >= longer.ts[k]) & (bars.ts < longer.ts[k] + bar_s * SECOND)]
        for a, b in zip(shut, opened): assert b <= a or not (inside[0] < a and inside[-1] >= b), (k, a, b)


def test_a_short_day_ends_its_last_hour():
    "DAT-4: the bar of 13:00 is over when the market closes at 13:15, and not a nanosecond before."
    trades = at("2024-11-29 13:00") + np.array([0, 880]) * SECOND
    bars = make_bars(trades, *np.full((4, 2), 19000), [1, 1])
    close = at("2024-11-29 13:15")
    assert [n_bars(resample_bars(bars, 3600, until=until)) for until in (None, close - 1, close, close + HOUR)] == [0, 0, 1, 1]


def test_sessions_begin_on_whole_hours():
    "What makes the grid enough: the market opens, and reopens after a halt, on whole hours; 13:15 closes are whole quarters."
    for hours in HOURS:
        table = session_table("2010-01-04", "2030-12-31", hours)
        for edge in ("open", "trade_from"): assert (table[edge] % HOUR == 0).all(), (hours, edge)
        for edge in ("halt", "close"): assert (table[edge] % (900 * SECOND) == 0).all(), (hours, edge)


@pytest.mark.parametrize("steps", [(5, 15, 60), (60, 300, 900), (15, 300), (5, 3600)])
def test_in_steps_or_at_once(steps):
    bars = made_up(11, 2000)
    longer = bars
    for bar_s in steps: longer = resample_bars(longer, bar_s, keep_last=True)
    same(longer, resample_bars(bars, steps[-1], keep_last=True))


@pytest.mark.parametrize("source_s, bar_s, usual", [(1, 7, "5, 15, 60, 300, 900"), (1, 0, "5, 15"), (1, -5, "5, 15"), (1, 7200, "5, 15"), (1, 2.5, "5, 15"), (60, 90, "300, 900"), (60, 30, "300, 900"), (900, 300, "3600")])
def test_a_length_that_cannot_be_made_is_refused(source_s, bar_s, usual):
    bars = resample_bars(made_up(1, 50), source_s, keep_last=True)
    with pytest.raises(ValueError, match=f"multiple of the {source_s} s of the bars, such as {usual}.*; got {bar_s}$"): resample_bars(bars, bar_s)


# bars from trades

T0 = at("2024-01-05 09:30")
GAPS = st.sampled_from((0, 1, 10**8, 4 * 10**8, SECOND, 3 * SECOND, -1, -3 * 10**8, -SECOND, -4 * SECOND))  # ns to the trade before, back as well as on
TRADES = st.lists(st.tuples(GAPS, st.integers(90, 110), st.integers(1, 9), st.sampled_from((0, 0, 1, 1, 2, 0, -1))), min_size=1, max_size=60)


def columns_of(trades, ids=True):
    "Trades as (n,) arrays: stamps from gaps; ids that rise, repeat, fall back, or are missing (0)."
    gaps, price, size, steps = (np.array(c, np.int64) for c in zip(*trades))
    known = np.where(steps != 0, np.maximum(5 + np.cumsum(steps), 1), 0) * ids
    return T0 + 10 * SECOND + np.maximum(np.cumsum(gaps), -9 * SECOND), price, size, known


def by_the_rule(ts, price, size, trade_id):
    "The written rule in plain Python: trades by second, dropped when late or seen; and the newest second after each trade."
    seconds, newest, last_id, late, duplicates, clock = {}, 0, 0, 0, 0, []
    for t, p, s, i in zip(*(c.tolist() for c in (ts, price, size, trade_id))):
        second = t - t % SECOND
        if i and i <= last_id: duplicates += 1
        else:
            last_id = max(last_id, i)
            if second < newest: late += 1
            else: seconds.setdefault(second, []).append((p, s))
            newest = max(newest, second)
        clock.append(newest)
    bars = [(second, ps[0][0], max(ps)[0], min(ps)[0], ps[-1][0], sum(s for _, s in ps)) for second, ps in sorted(seconds.items())]
    return bars, late, duplicates, clock


def as_rows(bars): return list(zip(*(column.tolist() for column in bars[:6])))


@some
@given(trades=TRADES, ids=st.booleans())
def test_a_file_of_trades_by_the_written_rule(trades, ids):
    "LIV-3, fault 35: late, duplicate and out-of-order trades, in a file."
    columns = columns_of(trades, ids)
    bars = trades_to_bars(*columns[:3], trade_id=columns[3] if ids else None)
    expected, late, duplicates, _ = by_the_rule(*columns)
    assert as_rows(bars) == expected and [c.dtype for c in bars[:6]] == [np.dtype(d) for d in DTYPES.values()]
    stream = BarStream()
    stream.feed(*columns)
    assert (stream.late, stream.duplicates, stream.bad) == (late, duplicates, 0)


@some
@given(trades=TRADES, data=st.data())
def test_stream_equals_file_bit_for_bit(trades, data):
    "LIV-3: one by one or in chunks, with a clock that runs along, stopped and restored anywhere."
    columns = columns_of(trades)
    expected, late, duplicates, clock = by_the_rule(*columns)
    stream, finished, row = BarStream(), [], 0
    while row < len(trades):
        action = data.draw(st.sampled_from(("update", "update", "feed", "advance", "restart")))
        if action == "update":
            finished.append(stream.update(*(int(c[row]) for c in columns)))
            row += 1
        if action == "feed":
            end = data.draw(st.integers(row, len(trades)))
            finished += as_rows(stream.feed(*(c[row:end] for c in columns)))
            row = end
        if action == "advance":  # the venue's clock is never ahead of a trade that will still count
            finished.append(stream.advance(data.draw(st.integers(T0, max(clock[row] + SECOND - 1, T0)))))
        if action == "restart":
            memory = stream.snapshot()
            stream = BarStream()
            stream.restore(memory)
            assert len(memory) < 200
    finished.append(stream.advance(clock[-1] + SECOND))
    finished = [bar for bar in finished if bar]
    assert finished == expected == as_rows(trades_to_bars(*columns[:3], trade_id=columns[3]))
    assert (stream.late, stream.duplicates, stream.bad) == (late, duplicates, 0)
    assert all(type(x) is int for bar in finished for x in bar)


@some
@given(trades=TRADES, data=st.data())
def test_a_late_trade_never_changes_a_bar(trades, data):
    "Fault 35: put into any stream at any place, it changes no bar, only the count."
    columns = columns_of(trades, ids=False)
    k = data.draw(st.integers(1, len(trades)))
    newest = by_the_rule(*(c[:k] for c in columns))[3][-1]
    late = (data.draw(st.integers(T0 - 10 * SECOND, newest - 1)), data.draw(st.sampled_from((1, 10**6))), 50, 0)
    more = [np.insert(c, k, x) for c, x in zip(columns, late)]
    same(trades_to_bars(*more[:3]), trades_to_bars(*columns[:3]))
    streams = BarStream(), BarStream()
    for stream, rows in zip(streams, (columns, more)): stream.feed(*rows)
    assert streams[1].late == streams[0].late + 1


def test_a_clock_ahead_of_its_trades_costs_them_and_nothing_else():
    stream = BarStream()
    assert stream.update(T0, 100, 1) is None
    assert stream.advance(T0 + SECOND - 1) is None
    assert stream.advance(T0 + SECOND) == (T0, 100, 100, 100, 100, 1)  # the moment the second is over
    assert stream.advance(T0 + SECOND) is None and stream.advance(T0) is None
    assert stream.update(T0 + SECOND - 1, 150, 7) is None and stream.late == 1
    assert stream.update(T0 + SECOND, 101, 2) is None
    assert stream.update(T0 + 2 * SECOND, 102, 3) == (T0 + SECOND, 101, 101, 101, 101, 2)


@some
@given(trades=TRADES)
def test_trades_in_order_as_pandas_groups_them(trades):
    "LIV-3: and no contract is lost."
    ts, price, size, _ = columns_of([(abs(gap), *rest) for gap, *rest in trades])
    bars = trades_to_bars(ts, price, size)
    groups = pd.DataFrame(dict(price=price, size=size)).groupby(ts // SECOND * SECOND)
    np.testing.assert_array_equal(bars.ts, list(groups.groups))
    for mine, theirs in zip(bars[1:6], (groups.price.first(), groups.price.max(), groups.price.min(), groups.price.last(), groups["size"].sum()), strict=True): np.testing.assert_array_equal(mine, theirs)
    assert bars.volume.sum() == size.sum()


BAD = ((0, 100, 1, 0), (-1, 100, 1, 0), (T0, 0, 1, 0), (T0, -5, 1, 0), (T0, 100, 0, 0), (T0, 100, -3, 0), (T0, 2**31, 1, 0), (T0, 100, 2**31, 0), (2**63 - 1, 100, 1, 0), (T0, 100, 1, -1))


@pytest.mark.parametrize("bad", BAD)
def test_a_bad_trade_refuses_a_file_and_is_dropped_live(bad):
    columns = columns_of([(SECOND, 100, 1, 0)] * 6)
    spoilt = [np.insert(c, 4, x) for c, x in zip(columns, bad)]
    with pytest.raises(ValueError, match="^es.csv line 6: stamp, price and size must be above 0.*got stamp"): trades_to_bars(*spoilt[:3], "ES", lambda i: f"es.csv line {i + 2}", spoilt[3])
    stream, clean = BarStream(), BarStream()
    live = [stream.update(*row) for row in zip(*(c.tolist() for c in spoilt))]
    assert [bar for bar in live if bar] == [bar for bar in (clean.update(*row) for row in zip(*(c.tolist() for c in columns))) if bar]
    assert stream.bad == 1 and stream.advance(T0 + HOUR) == clean.advance(T0 + HOUR)


def test_real_trades_have_no_id_of_their_own(shared_data):
    "Databento's `sequence` counts packets: five of these 120 ES trades share it with the one before, and taken for an id would be lost."
    databento = pytest.importorskip("databento")
    trades = databento.DBNStore.from_file(shared_data / "dbn" / "futures_trades_2024-07-01T23-58_2024-07-02T00-02.dbn.zst").to_ndarray()
    ts, price, size = trades["ts_event"], instrument("ES").to_ticks(trades["price"] / 1e9), trades["size"]
    bars = trades_to_bars(ts, price, size, "ES")
    groups = pd.DataFrame(dict(price=price, size=size)).groupby(ts.astype(np.int64) // SECOND * SECOND)
    assert (bars.volume == groups["size"].sum()).all() and (bars.open == groups.price.first()).all() and (bars.high == groups.price.max()).all() and bars.symbol == "ES"
    stream = BarStream("ES")
    stream.feed(ts, price, size, trades["sequence"])
    assert stream.duplicates == 5
