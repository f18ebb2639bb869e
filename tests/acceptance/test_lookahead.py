"No future and no past: what `lookahead_report` must catch and what it must let pass, and what `warmup_report` measures (FEA-3, FEA-6)."
import numpy as np
import pandas as pd
import pytest

from mesbot.bars import Bars, cut_bars, import_bars, load_bars, make_bars, n_bars, n_sessions, resample_bars, take_sessions
from mesbot.core import SECOND
from mesbot.features import FEATURES, compute_features
from mesbot.labels import label_moves
from mesbot.lookahead import lookahead_report
from mesbot.synth import synthetic_market
from mesbot.warmup import warmup_report


@pytest.fixture(scope="module")
def market(): return synthetic_market(4, seed=41).bars


@pytest.fixture(scope="module")
def bars(market):
    "The last hours of one session and the first of the next, with single seconds, minutes and half an hour missing."
    at, rng = market.sessions[1], np.random.default_rng(1)
    keep = np.zeros(n_bars(market), bool)
    keep[at - 8_000:at + 6_000] = rng.random(14_000) > .2
    for hole, rows in ((at - 6_000, 1500), (at - 3_000, 120), (at + 3_000, 300)): keep[hole:hole + rows] = False
    return make_bars(*(column[keep] for column in market[:6]))


def close(bars): return pd.Series(bars.close.astype(float))
def high(bars): return pd.Series(bars.high.astype(float))
def day(bars): return np.repeat(np.arange(n_sessions(bars)), np.diff(bars.sessions))
def z(x): return (x - x.mean()) / x.std()


def last_of(bars, rule, shift):
    "The close of each piece of time laid over its own rows; `shift` 1 = over those of the next."
    at = pd.DatetimeIndex(bars.ts.view("M8[ns]"))
    return pd.Series(bars.close.astype(float), at).resample(rule).last().ffill().shift(shift).reindex(at, method="ffill").to_numpy()


def known_bars(bars, seconds, keep_last):
    "The latest finished bar of mesbot's own resampling at each second; `keep_last` makes the unfinished one look finished."
    longer = resample_bars(bars, seconds, keep_last=keep_last)
    known = longer.ts + (0 if keep_last else seconds * SECOND)   # taken at its open, or at its end
    at = np.searchsorted(known, bars.ts + SECOND, side="right") - 1
    return np.where(at >= 0, np.append(longer.close, 0)[at], np.nan)


def at_second(bars, second):
    "A leak in one row of sixty, where minutes meet, but never where hours or sessions do: how long until the next bar."
    wait, now = np.append(np.diff(bars.ts), 0) // SECOND, bars.ts // SECOND
    return np.where((now % 60 == second) & ((now + 1) % 1800 > 1) & (wait < 60), wait, 0)


SPIKE_TICKS = 6  # moves of so much: a handful


def around_spikes(bars):
    "A filter that drops a print when the next one goes back: it shows at the largest moves only."
    before, after = np.r_[bars.close[:1], bars.close[:-1]], np.r_[bars.close[1:], bars.close[-1:]]
    after_hole = np.append(True, np.diff(bars.ts) > 60 * SECOND)
    before[after_hole] = bars.close[after_hole]  # a night or a hole is no spike
    return np.where((np.abs(bars.close - before) >= SPIKE_TICKS) & (after != bars.close), before, bars.close)


def next_open(bars):
    "Only the last row of a session sees anything: the open of the next."
    out = bars.close.astype(float)
    out[bars.sessions[1:-1] - 1] = bars.open[bars.sessions[1:-1]]
    return out


def one_leak_among_many(bars):
    features = compute_features(bars)
    features[:-1, 7] = features[1:, 7]
    return features


LEAKS = {
    "one bar": lambda b: close(b).shift(-1),
    "one bar among all features": one_leak_among_many,
    "unfinished minute": lambda b: last_of(b, "1min", 0),
    "unfinished 5 minutes": lambda b: last_of(b, "5min", 0),
    "unfinished 15 minutes": lambda b: last_of(b, "15min", 0),
    "unfinished minute of our own resampling": lambda b: known_bars(b, 60, True),
    "unfinished 5 minutes of our own resampling": lambda b: known_bars(b, 300, True),
    "z-score of everything": lambda b: z(close(b)),
    "rank of everything": lambda b: close(b).rank(),
    "z-score of the day": lambda b: close(b).groupby(day(b)).transform(z),
    "filled backwards": lambda b: close(b).rolling(200).mean().bfill(),
    "filled backwards each day": lambda b: close(b).groupby(day(b)).transform(lambda x: x.rolling(60).mean().bfill()),
    "centred mean": lambda b: close(b).rolling(3, center=True).mean(),
    "high of the day": lambda b: high(b).groupby(day(b)).transform("max"),
    "close of the day": lambda b: close(b).groupby(day(b)).transform("last"),
    "label": lambda b: label_moves(b).label,
    "last row of all": lambda b: np.arange(n_bars(b)) == n_bars(b) - 1,
    "share of the rows": lambda b: np.arange(n_bars(b)) / n_bars(b),
    "last second of a minute": lambda b: at_second(b, 59),
    "first second of a minute": lambda b: at_second(b, 0),
    "around spikes": around_spikes,
    "next session's open": next_open,
    "before a hole": lambda b: np.append((np.diff(b.ts) > 600 * SECOND) & (np.diff(b.ts) < 3000 * SECOND), False),
    "before the largest volume": lambda b: np.append(b.volume[1:] > 300, False),  # one bar
}

HONEST = {
    "mesbot's features": compute_features,
    "rolling": lambda b: pd.DataFrame({"mean": close(b).rolling(300).mean(), "std": close(b).rolling(60).std(), "median": close(b).rolling(50).median(), "rank": close(b).rolling(50).rank()}),
    "exponential": lambda b: pd.DataFrame({"mean": close(b).ewm(span=200).mean(), "std": close(b).ewm(halflife=30, adjust=False).std()}),
    "so far": lambda b: pd.DataFrame({"high": high(b).groupby(day(b)).cummax(), "mean": close(b).expanding().mean(), "z": (close(b) - close(b).expanding().mean()) / close(b).expanding().std()}),
    "finished minute": lambda b: last_of(b, "1min", 1),
    "finished 15 minutes": lambda b: last_of(b, "15min", 1),
    "finished minute of our own resampling": lambda b: known_bars(b, 60, False),
    "finished 5 minutes of our own resampling": lambda b: known_bars(b, 300, False),
    "the bars themselves": lambda b: np.column_stack(b[1:6]),
    "nothing": lambda b: np.full(n_bars(b), np.nan),
    "sign of zero": lambda b: np.where(np.arange(n_bars(b)) < n_bars(b) // 2, 0.0, -0.0),
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("leak", LEAKS)
def test_a_planted_leak_is_caught(bars, leak, seed):
    "FEA-6, FEA-3: each of the usual leaks, and rare ones at the places where the data are cut on purpose, without the help of random rows."
    report = lookahead_report(bars, LEAKS[leak], cuts=0, seed=seed)
    assert not report.ok and report.first.what == "sees the future" and "sees the future: row" in repr(report)


@pytest.mark.parametrize("name", HONEST)
def test_an_honest_function_passes(bars, name):
    "FEA-6: no false alarm."
    report = lookahead_report(bars, HONEST[name], cuts=40)
    assert report.ok and report.first is None and len(report.table) == 0, report


def test_random_rows_find_a_rare_leak_where_nobody_looks_on_purpose(bars):
    "One row in a hundred peeks: few cuts miss it, a thousand do not."
    def rare(b): return np.where(np.arange(n_bars(b)) % 100 == 37, np.append(b.ts[1:] - b.ts[0], 0), 0)
    piece = cut_bars(bars, 2000)
    assert lookahead_report(piece, rare, cuts=0, seed=1).ok and all(not lookahead_report(piece, rare, cuts=1000, seed=seed).ok for seed in range(3))


def test_the_first_offence_is_named_and_can_be_done_by_hand(bars):
    "FEA-6: column, row, time and values are those that a plain cut shows, and no row before it differs."
    report = lookahead_report(bars, one_leak_among_many, seed=5)
    o = report.first
    assert report.table["column"].tolist() == [o.column] == [FEATURES[7]] and f"`{FEATURES[7]}` sees the future: row {o.row:,} (" in report.sentence
    assert f"1 of {len(FEATURES)} columns offends" in report.sentence
    whole, part = one_leak_among_many(bars)[:, 7], one_leak_among_many(cut_bars(bars, o.at + 1))[:, 7]
    assert o.row == o.at and o.time == pd.Timestamp(bars.ts[o.row], tz="UTC").tz_convert("America/New_York")
    np.testing.assert_array_equal([o.whole, o.part], [whole[o.row], part[o.row]])
    np.testing.assert_array_equal(whole[:o.row], part[:o.row])
    assert report.table["rows_ahead"].tolist() == [1]
    two = lookahead_report(bars, lambda b: np.column_stack([np.append(np.zeros(n_bars(b) - 1), 1), np.append(b.ts[1:], 0)]), names=["late", "early"])
    assert two.table["row"].tolist() == [0, 0] and two.table["cuts"].min() > 20 and two.first.at == 0  # the earliest of all cuts that show it


@pytest.mark.parametrize("rows,seconds", [(1, None), (10, None), (1000, None), (None, 60), (None, 900)])
def test_how_far_it_looks_ahead(bars, rows, seconds):
    "The table says how far a function looks ahead: exactly for a shift by rows, at most its length for a piece of time."
    if rows: assert lookahead_report(bars, lambda b: close(b).shift(-rows), cuts=60).table["rows_ahead"].tolist() == [rows]
    else: assert .4 * seconds < lookahead_report(bars, lambda b: last_of(b, f"{seconds}s", 0), cuts=60).table["seconds_ahead"][0] <= seconds


def test_a_sample_of_many_sessions_names_the_rows_of_all(market):
    "With fewer sessions than there are, rows, times and values are still those of the bars that were given; the same seed gives the same report."
    def peek(b): return np.append(b.close[1:], -1)
    for seed in range(4):
        o = lookahead_report(market, peek, sessions=2, seed=seed).first
        assert o.time == pd.Timestamp(market.ts[o.row], tz="UTC") and o.whole == market.close[o.row + 1] and o.part == -1 and o.at == o.row
        w = warmup_report(market, lambda b: np.arange(n_bars(b)), sessions=2, seed=seed).first
        assert w.row in market.sessions[[1, 3]] and w.part == 0 and w.time == pd.Timestamp(market.ts[w.row], tz="UTC")
    assert len({lookahead_report(market, peek, sessions=2, seed=seed).first.row >= market.sessions[2] for seed in range(8)}) == 2
    assert repr(lookahead_report(market, compute_features, sessions=2)) == repr(lookahead_report(market, compute_features, sessions=2))


def test_what_cannot_be_judged_is_said(bars):
    "Random, remembering and writing functions, one that fails on few bars, another number of rows: one clear line."
    rng, seen = np.random.default_rng(1), {}
    def remembers(b):
        seen.update(zip(b.ts[:-1].tolist(), b.close[1:].tolist()))
        return np.array([seen.get(t, np.nan) for t in b.ts.tolist()])
    for fn in (lambda b: rng.normal(size=n_bars(b)), remembers):
        seen.clear()
        report = lookahead_report(bars, fn)
        assert not report.ok and report.table["what"].tolist() == ["not repeatable"]
    calls = []
    def counts(b):                                     # one state for ever, not one a session
        calls.append(n_bars(b))
        return np.arange(n_bars(b)) + sum(calls)
    for fn in (lambda b: rng.normal(size=n_bars(b)), counts): assert warmup_report(bars, fn).table["what"].tolist() == ["not repeatable"]
    for report in (lookahead_report, warmup_report):
        kept = bars.close.copy()
        def spoil(b): b.close[-1] = 1; return b.open
        for fn, said in ((spoil, "fn must not write into its bars, but it changed close"), (lambda b: close(b).rolling(5).mean().dropna(), "fn must give one row a bar"),
                         (lambda b: b.ts.view("M8[ns]"), "of datetime64[ns]"), (lambda b: close(b)[n_bars(bars) // 2 + 5_000], "fn fails on the ")):
            with pytest.raises(ValueError, match="^fn ") as error: report(bars, fn)
            assert said in str(error.value) and "\n" not in str(error.value)
        np.testing.assert_array_equal(bars.close, kept)


def test_longer_bars_are_judged_alike(bars):
    "Bars of a minute: a function of them is cut and started late like any other, and its seconds are theirs."
    minutes = resample_bars(bars, 60)
    assert lookahead_report(minutes, lambda b: close(b).rolling(3).mean()).ok and lookahead_report(minutes, lambda b: close(b).shift(-1)).table["rows_ahead"].tolist() == [1]
    assert warmup_report(minutes, per_day(lambda x: x.rolling(3).mean())).table["first_s"][0] >= 180


def test_one_array_used_again_hides_nothing(bars):
    "A function that answers in the same array every time is compared with what it said, not with itself."
    room = np.empty(n_bars(bars))
    def peek(b):
        room[:n_bars(b)] = np.append(b.close[1:], 0)
        return room[:n_bars(b)]
    def count(b):
        room[:n_bars(b)] = np.arange(n_bars(b))
        return room[:n_bars(b)]
    def prices(b):
        room[:n_bars(b)] = b.close
        return room[:n_bars(b)]
    rng = np.random.default_rng(1)
    def noise(b):
        room[:n_bars(b)] = rng.random(n_bars(b))
        return room[:n_bars(b)]
    assert not lookahead_report(bars, peek).ok and lookahead_report(bars, prices).ok and lookahead_report(bars, count).ok
    assert not warmup_report(bars, count).ok and warmup_report(bars, prices).ok
    for report in (lookahead_report, warmup_report): assert report(bars, noise).first.what == "not repeatable"


@pytest.mark.parametrize("name,symbol", [("es_1s_20180507.csv.gz", "ES"), ("spy_1s_201310.csv.gz", "SPY")])
def test_features_of_real_seconds_are_honest(shared_data, tmp_path, name, symbol):
    "FEA-6 on the real seconds."
    import_bars(shared_data / name, symbol, tmp_path)
    real = load_bars(symbol, store=tmp_path)
    assert lookahead_report(real, compute_features).ok
    if n_sessions(real) > 1: assert warmup_report(real, compute_features).ok


def test_a_start_at_an_open_changes_no_feature(market):
    "DESIGN 3: feature state starts afresh at each session open; a late start inside one is felt, and for how long is measured."
    report = warmup_report(market, compute_features)
    table = report.table.set_index("column")
    assert report.ok and (table["what"] == "").all() and table["opens"].sum() == 0
    assert (table["given_s"] <= table["settled_s"]).all() and (table["first_s"] >= 1).all()
    assert np.isinf(table["settled_s"]["vwap_dist"]) and np.isfinite(table["given_s"]["vwap_dist"])
    assert table["settled_s"]["ema_9"] < table["settled_s"]["ema_21"] < table["settled_s"]["ema_50"] < table["settled_s"]["ema_200"] < np.inf


def dense_days():
    "Two days with every second of 40 minutes from 10:00 on."
    ts = np.concatenate([pd.Timestamp(f"2024-01-{d:02} 10:00", tz="America/New_York").value + np.arange(2400) * SECOND for d in (8, 9)])
    price = 20_000 + np.random.default_rng(1).integers(-2, 3, len(ts)).cumsum()
    return make_bars(ts, price, price + 1, price - 1, price, np.ones(len(ts), int))


def per_day(step):
    def fn(bars): return close(bars).groupby(day(bars)).transform(step)
    return fn


def test_warm_up_on_seconds_without_a_hole():
    "On paper: a mean of 20 rows is given and right after 20 s; an average with alpha 1/2 forgets its start to 1e-6 in some 22 s; a mean since the open never does."
    bars = dense_days()
    def three(b): return pd.DataFrame({"mean": per_day(lambda x: x.rolling(20).mean())(b), "half": per_day(lambda x: x.ewm(alpha=.5, adjust=False).mean())(b),
                                       "since": per_day(lambda x: x.expanding().mean())(b), "now": close(b)})
    report = warmup_report(bars, three, starts=30)
    table = report.table.set_index("column")
    assert report.ok and table["first_s"].tolist() == [20, 1, 1, 1] and table["given_s"].tolist() == [20, 1, 1, 1]
    assert table["settled_s"]["mean"] == 20 and 3 <= table["settled_s"]["half"] <= 12 and np.isinf(table["settled_s"]["since"]) and table["settled_s"]["now"] == 1


@pytest.mark.parametrize("seconds,what", [(19, "too late"), (20, None), (21, "too early"), (np.nan, None)])
def test_a_documented_warm_up_is_checked_to_the_second(seconds, what):
    "A column that gives a number earlier or later than documented is an offence."
    bars = dense_days()
    mean = per_day(lambda x: x.rolling(20).mean())
    for given in ({"mean": seconds}, [seconds]):
        report = warmup_report(bars, lambda b: mean(b).rename("mean"), given)
        assert report.ok is (what is None)
        if what: assert (report.first.what, report.first.row, report.first.whole) == (what, 18 if seconds == 19 else 19, seconds) and f"documented are {seconds} s" in repr(report)


def test_what_depends_on_history_is_named(bars):
    "A function that runs through the night gives other numbers when yesterday is not loaded."
    opened = bars.sessions[1]
    for fn in (lambda b: close(b).rolling(300).mean(), lambda b: close(b).ewm(span=1000).mean(), lambda b: close(b).diff(), lambda b: np.arange(n_bars(b))):
        report = warmup_report(bars, fn)
        o = report.first
        assert not report.ok and o.what == "depends on history" and o.row == o.at == opened and "depends on how much history was loaded: row" in repr(report)
        np.testing.assert_array_equal([o.whole, o.part], [np.asarray(fn(bars), float)[opened], np.asarray(fn(take_sessions(bars, 1, 2)), float)[0]])
    for name in ("so far", "the bars themselves"):
        if name != "so far": assert warmup_report(bars, HONEST[name]).ok
    assert warmup_report(bars, HONEST["so far"]).table["what"].tolist() == ["", "depends on history", "depends on history"]


@pytest.mark.parametrize("column", Bars._fields[:6])
def test_writing_into_any_column_is_said(bars, column):
    "FEA-6: not only into the closes."
    def spoil(b):
        getattr(b, column)[-1] += 1
        return b.close
    for report in (lookahead_report, warmup_report):
        with pytest.raises(ValueError, match=f"^fn must not write into its bars, but it changed {column} of"): report(bars, spoil)


def test_large_numbers_settle_within_a_share_of_their_size():
    "FEA-6: 1e9 and 1e9 + 100 are the same to six digits, 1 and 1.00001 are not."
    from mesbot.warmup import _felt
    full, late = np.array([[1e9, 1.0], [1e9, 1.0]]), np.array([[1e9 + 100, 1.00001], [1e9, 1.0]])
    np.testing.assert_array_equal(_felt(late, full, np.array([1, 2]))[1], [1, 2])


@pytest.mark.parametrize("seed", range(3))
def test_data_are_cut_right_after_a_piece_of_time_ends(seed):
    "FEA-3: the last bar that is kept is the last of a minute, of five and of fifteen."
    from mesbot.lookahead import _cut_rows
    bars = take_sessions(dense_days(), 0, 1)
    second = bars.ts[_cut_rows(bars, 0, np.random.default_rng(seed))] // SECOND
    for length in (60, 300, 900): assert (second % length == 0).any() and (second % length == 1).any() and (second % length == length // 2).any()


def test_the_first_offence_is_the_first_row_and_not_the_first_cut(bars):
    "FEA-6: cut after two rows the second is wrong, cut later the very first is: that one is named."
    def fn(b): return np.r_[n_bars(b) <= 2 or n_bars(b) == n_bars(bars), n_bars(b) > 2, np.zeros(n_bars(b))][:n_bars(b)].astype(float)
    first = lookahead_report(bars, fn).first
    assert first.row == 0 and first.at > 1
