"""What is measured and reported is what is said: the clock of `mesbot bench`, and the market that a report is about."""
import json
from types import SimpleNamespace

import numpy as np
import pytest

import mesbot.bench as bench
from mesbot.cli import load_market
from mesbot.config import load_config
from mesbot.market import known_signal, synthetic_market
from mesbot.oracle import oracle_ic


@pytest.mark.parametrize("times, median", (([9.0], 9.0), ([9.0, 1.0], 1.0), ([9.0, 5.0, 1.0, 2.0], 2.0)))
def test_the_first_time_is_thrown_away(monkeypatch, times, median):
    "The median of all times but the first, which compiles and fills caches; of one time, that one."
    monkeypatch.setattr(bench.subprocess, "run", lambda *a, **k: SimpleNamespace(returncode=0, stderr="", stdout=json.dumps(dict(times=times, rows=7, peak_mb=3.0))))
    assert bench.measure("", "1") == {"s": median, "rows": 7, "peak_mb": 3.0}


def test_a_fresh_python_runs_it_so_often():
    "What is timed is the expression, `repeats` times; what fails is told by its last line."
    assert bench.measure("made = []", "made.append(1) or made", "len(made)", repeats=4)["rows"] == 4
    with pytest.raises(ValueError, match="^measuring 1 / 0 failed: ZeroDivisionError: division by zero$"): bench.measure("", "1 / 0")


@pytest.fixture
def asked(monkeypatch):
    "Every measurement that is asked for, as (call, repeats), in place of making it."
    calls = []
    def measure(setup, call, rows="len(result)", repeats=3): return calls.append((call, repeats)) or {"s": float(len(calls)), "rows": 10 * len(calls), "peak_mb": 100.0 * len(calls)}
    monkeypatch.setattr(bench, "measure", measure)
    return calls


def test_the_market_that_is_timed_is_the_one_that_is_promised(asked):
    "Two years of the usual market once, then 60 sessions of it, both on two threads; each number is of its own market."
    assert bench.bench_synth() == {"synth_rows": 10, "synth_s": 1.0, "synth_peak_mb": 100.0, "synth_60_s": 2.0}
    assert asked == [("synthetic_market(776, 7, threads=2)", 1), ("synthetic_market(60, 7, threads=2)", 3)]


def test_the_store_that_is_timed_is_the_one_that_is_promised(asked):
    "Two years of a market 3.8 times as busy, without quotes, on two threads, once; half the bars are half the sessions."
    assert bench.bench_store("place") == {"synth_store_s": 1.0, "synth_store_peak_mb": 100.0}
    bench.bench_store("place", bench.ROWS // 2)
    assert asked == [(f"write_market('place', {sessions}, 7, activity=3.8, quotes=False, threads=2)", 1) for sessions in (517, 259)]
    assert bench.sessions_for(1) == 1


def test_the_promised_markets_have_the_promised_bars():
    "Bars a session: 42,800 as usual, 64,200 at 3.8 times the trades, of six sessions within 8 %."
    for wanted, changes in ((42_800, {}), (64_200, dict(activity=3.8))):
        np.testing.assert_allclose(len(synthetic_market(6, 7, **changes).bars.ts) / 6, wanted, rtol=.08)


# --- the market of a report ---

@pytest.mark.parametrize("alpha", (.05, 0.0))
def test_a_report_is_about_the_market_it_names(alpha):
    "Seed, length, first date and edge are the settings'; the planted signal is the one that is known at each close, and the score of perfection is that of the horizon, at once and not a second later."
    config = load_config(market=dict(sessions=2, alpha=alpha, start="2024-03-05"), seed=13)
    bars, source, planted = load_market(config, None, "MES", None, None)
    market = synthetic_market(2, 13, alpha, start="2024-03-05")
    assert bars.ts.tobytes() == market.bars.ts.tobytes() and bars.close.tobytes() == market.bars.close.tobytes()
    assert {key: source[key] for key in ("kind", "sessions", "alpha", "oracle_ic")} == dict(kind="synthetic", sessions=2, alpha=alpha, oracle_ic=oracle_ic(alpha, 30, 0))
    assert source["title"] == "Synthetic MES, seed 13, " + ("with a planted edge of alpha 0.05" if alpha else "without any edge (alpha 0)")
    if alpha: np.testing.assert_array_equal(planted, known_signal(market))
    else: assert planted is None


def test_the_score_of_perfection_is_that_of_the_settings_horizon():
    "A report on moves of 60 s is measured against a perfect model of 60 s."
    config = load_config(market=dict(sessions=1, alpha=.1), labels=dict(horizon_s=60))
    assert load_market(config, None, "MES", None, None)[1]["oracle_ic"] == oracle_ic(.1, 60, 0) != oracle_ic(.1, 30, 0)
