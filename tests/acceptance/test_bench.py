"""What is measured and reported is what is said: the clock of `mesbot bench`, and the market that a report is about."""
import json
from types import SimpleNamespace

import numpy as np
import pytest
from typer.testing import CliRunner

import mesbot.bench as bench
import mesbot.bench_data as bench_data
import mesbot.bench_features as bench_features
import mesbot.bench_sim as bench_sim
import mesbot.measure as measure_room
from mesbot.bars import iter_bars, n_bars, take_sessions
from mesbot.cli import app, load_market
from mesbot.config import load_config
from mesbot.core import MES, SECOND
from mesbot.features import FEATURES, FeatureStream, compute_features
from mesbot.market import known_signal, synthetic_market
from mesbot.oracle import oracle_ic


@pytest.mark.parametrize("times, median", (([9.0], 9.0), ([9.0, 1.0], 1.0), ([9.0, 5.0, 1.0, 2.0], 2.0)))
def test_the_first_time_is_thrown_away(monkeypatch, times, median):
    "The median of all times but the first, which compiles and fills caches; of one time, that one."
    monkeypatch.setattr(measure_room.subprocess, "run", lambda *a, **k: SimpleNamespace(returncode=0, stderr="", stdout=json.dumps(dict(times=times, rows=7, peak_mb=3.0))))
    assert measure_room.measure("", "1") == {"s": median, "first_s": times[0], "best_s": min(times), "rows": 7, "peak_mb": 3.0}


def test_a_fresh_python_runs_it_so_often():
    "What is timed is the expression, `repeats` times; what fails is told by its last line."
    assert measure_room.measure("made = []", "made.append(1) or made", "len(made)", repeats=4)["rows"] == 4
    with pytest.raises(ValueError, match="^measuring 1 / 0 failed: ZeroDivisionError: division by zero$"): measure_room.measure("", "1 / 0")


@pytest.fixture
def asked(monkeypatch):
    "Every measurement that is asked for, as (call, repeats), in place of making it."
    calls = []
    def measure(setup, call, rows="len(result)", repeats=3): return calls.append((call, repeats)) or {"s": float(len(calls)), "rows": 10 * len(calls), "peak_mb": 100.0 * len(calls)}
    for room in (bench_data, bench_features): monkeypatch.setattr(room, "measure", measure)
    return calls


def test_the_market_that_is_timed_is_the_one_that_is_promised(asked):
    "Two years of the usual market once, then 60 sessions of it, both on two threads; each number is of its own market."
    assert bench_data.bench_synth() == {"synth_rows": 10, "synth_s": 1.0, "synth_peak_mb": 100.0, "synth_60_s": 2.0}
    assert asked == [("synthetic_market(776, 7, threads=2)", 1), ("synthetic_market(60, 7, threads=2)", 3)]


def test_the_store_that_is_timed_is_the_one_that_is_promised(asked):
    "Two years of a market 3.8 times as busy, without quotes, on two threads, once; half the bars are half the sessions."
    assert bench_data.bench_store("place") == {"synth_store_s": 1.0, "synth_store_peak_mb": 100.0}
    bench_data.bench_store("place", bench.ROWS // 2)
    assert asked == [(f"write_market('place', {sessions}, 7, activity=3.8, quotes=False, threads=2)", 1) for sessions in (517, 259)]
    assert bench_data.sessions_for(1) == 1


def test_the_promised_markets_have_the_promised_bars():
    "Bars a session: 42,800 as usual, 64,200 at 3.8 times the trades, of six sessions within 8 %."
    for wanted, changes in ((42_800, {}), (64_200, dict(activity=3.8))):
        np.testing.assert_allclose(len(synthetic_market(6, 7, **changes).bars.ts) / 6, wanted, rtol=.08)


# --- features, live updates, and the way to a data set ---

@pytest.fixture(scope="module")
def store(tmp_path_factory):
    "A store of one busy session."
    place = tmp_path_factory.mktemp("bench") / "store"
    bench_data.bench_store(place, 64_000)
    return place


@pytest.mark.parametrize("rows, sessions", ((bench.ROWS, 62), (100_000, 2), (1, 1)))
def test_the_features_that_are_timed_are_the_whole_set(monkeypatch, rows, sessions):
    "Four millions of bars at most, on one thread and on two, the best of seven; nanoseconds are of bars and of seconds, and the speed-up is one time by the other."
    asked = []
    def measure(setup, call, rows="len(result)", repeats=3): return asked.append((setup, call, rows, repeats)) or {"s": 99.0, "best_s": 6.0 / len(asked), "rows": [2_000_000, 3_000_000], "peak_mb": 1.0}
    monkeypatch.setattr(bench_features, "measure", measure)
    assert bench_features.bench_features("place", rows) == {"features": len(FEATURES), "feature_bars": 2_000_000, "feature_ns_per_bar": 3000.0, "feature_ns_per_second": 2000.0, "features_2_threads": 2.0}
    assert [ask[1:] for ask in asked] == [(f"batch_features(bars, {threads}, room)", "result", 7) for threads in (1, 2)]
    assert all(f"sessions={sessions})" in ask[0] and "'place'" in ask[0] for ask in asked)


def test_the_timed_batch_computes_every_bar(store, monkeypatch):
    "A session for each worker at a time into one room, each bar once, every feature, on as many threads as asked; seconds count the empty ones within a session and not those between two."
    bars, given = synthetic_market(3, 5).bars, []
    def compute(part, threads, out): return given.append((int(part.ts[0]), n_bars(part), threads, out.base is room)) or compute_features(part, threads, out)
    monkeypatch.setattr(bench_features, "compute_features", compute)
    room = bench_features.batch_room(2)
    assert room.shape == (2 * 86_400, len(FEATURES)) and room.dtype == np.float32
    seconds = sum((int(bars.ts[b - 1]) - int(bars.ts[a])) // SECOND + 1 for a, b in zip(bars.sessions[:-1], bars.sessions[1:]))
    assert bench_features.batch_features(bars, 2, room) == (n_bars(bars), seconds)
    cut = int(bars.sessions[2])
    assert given == [(int(bars.ts[0]), cut, 2, True), (int(bars.ts[cut]), n_bars(bars) - cut, 2, True)]
    np.testing.assert_array_equal(room[:n_bars(bars) - cut], compute_features(take_sessions(bars, 2, 3)))


@pytest.mark.parametrize("between", (0, 1000))
def test_every_live_update_is_timed_by_itself(store, monkeypatch, between):
    "One time a call, in microseconds, of updates with plain numbers in the order of the bars; what lies between two is not counted."
    bars, now, seen = next(iter_bars("MES", store=store)), [0.0], []
    class Stream(FeatureStream):
        def update(self, *bar):
            seen.append(bar)
            now[0] += 1e-6 * len(seen)
            return super().update(*bar)
    monkeypatch.setattr(bench_features, "FeatureStream", Stream)
    monkeypatch.setattr(bench_features.time, "perf_counter", lambda: now[0])
    np.testing.assert_allclose(bench_features.stream_us(bars, 50, between), np.arange(1, 51), rtol=1e-6)
    assert seen == [tuple(column[i].item() for column in bars[:6]) for i in range(50)] and {type(value) for bar in seen for value in bar} == {int}


def test_percentiles_of_live_updates(store, monkeypatch):
    "The median of three times for p50 and p99 of 60,000 calls; 2,000 calls with 8 MB of other work."
    runs = iter(np.arange(1.0, 101) * k for k in (3, 1, 2, 10))
    asked = []
    monkeypatch.setattr(bench_features, "stream_us", lambda bars, calls, between=0: asked.append((calls, between)) or next(runs))
    np.testing.assert_allclose(bench_features.stream_percentiles(None), (100, 101, 2 * 99.01, 10 * 99.01))
    assert asked == [(60_000, 0)] * 3 + [(2000, 8_000_000)]


def test_the_pipeline_is_timed_from_the_store_to_the_disk(monkeypatch, tmp_path):
    "Each time in a fresh Python that has its kernels already, into an empty folder; the median time, the highest peak, the size of all columns; nothing stays."
    found, folder = iter(((3.0, 10.0), (9.0, 30.0), (5.0, 20.0))), tmp_path / "set"
    def measure(setup, call, rows, repeats):
        assert not folder.exists() and call == "dataset(load_bars('MES', store=store), folder=folder)" and repeats == 1 and f"'{folder}'" in setup and "folder=folder + '/first')" in setup
        (folder / "first").mkdir(parents=True)
        for name, size in (("a.npy", 2_000_000), ("b.npy", 500_000), ("first/a.npy", 9_000_000)): (folder / name).write_bytes(bytes(size))
        s, peak_mb = next(found)
        return {"s": s, "rows": 77, "peak_mb": peak_mb}
    monkeypatch.setattr(bench_features, "measure", measure)
    assert bench_features.bench_pipeline("place", folder) == {"pipeline_rows": 77, "pipeline_s": 5.0, "pipeline_peak_mb": 30.0, "pipeline_disk_mb": 2.5}
    assert list(tmp_path.iterdir()) == []


def test_a_small_run_finds_every_number(tmp_path):
    "`mesbot bench --json --rows 100000`: the last line is one object with every promised name, of the features, labels and bars of that run; nothing stays in the folder."
    done = CliRunner().invoke(app, ["bench", "--json", "--rows", "100000", "--folder", str(tmp_path)])
    assert done.exit_code == 0, done.output
    *table, last = done.output.strip().splitlines()
    found = json.loads(last)
    promised = {"load_s", "load_vs_polars", "load_peak_mb", "feature_ns_per_bar", "feature_stream_p99_us", "pipeline_s", "pipeline_peak_mb", "pipeline_disk_mb"}
    promised |= {"sim_ns_per_bar", "sim_trades", "sim_peak_mb", "sim_vs_vbt_rust", "sim_vs_vbt_numba", "sweep_bars_per_s"}
    more = {"synth_s", "synth_peak_mb", "feature_ns_per_second", "features_2_threads", "feature_stream_p50_us", "feature_stream_cold_p99_us"}
    assert promised | more <= set(found) and all(found[name] > 0 for name in promised | more)
    assert found["rows"] == found["pipeline_rows"] == found["feature_bars"] == found["sim_bars"] == found["sweep_bars"] and abs(found["rows"] / 128_400 - 1) < .1
    assert found["features"] == len(FEATURES) and found["feature_stream_calls"] >= 50_000 and found["feature_stream_p50_us"] <= found["feature_stream_p99_us"]
    assert found["pipeline_disk_mb"] * 1e6 > 4 * len(FEATURES) * found["rows"] and found["machine"]["cores"] >= 1
    assert "too few" in table[0] and all(any(line.split()[0] == name for line in table) for name in (promised | more))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("rows", (0, -5))
def test_a_bench_of_nothing_is_refused(tmp_path, rows):
    "One line with the value; the command says the same with exit code 2."
    with pytest.raises(ValueError, match=f"^rows must be >= 1, got {rows}$"): bench.run_bench(rows, tmp_path)
    assert CliRunner().invoke(app, ["bench", "--rows", str(rows)]).exit_code == 2 and list(tmp_path.iterdir()) == []


def test_what_misses_its_limit_is_marked():
    "TGT/FEA/BT limits of the specification, each by itself and on its own side, and only for a full run; a number without a limit is never marked."
    limits = {name: limit for name, _, limit, _ in bench._TARGETS if limit}
    asked = {"feature_ns_per_bar": 120, "feature_stream_p99_us": 50, "pipeline_s": 12, "pipeline_peak_mb": 2000, "sim_ns_per_bar": 10, "sim_vs_vbt_rust": 10, "sim_vs_vbt_numba": 20, "sweep_bars_per_s": 100e6,
             "windows_ms": 1, "gather_gb_s": 1, "infer_feed_forward_p99_us": 100, "infer_lstm_p99_us": 500, "infer_transformer_p99_us": 1000}
    assert {name: limits[name] for name in asked} == asked
    at_least = ("sim_vs_vbt_rust", "sim_vs_vbt_numba", "sweep_bars_per_s", "gather_gb_s")
    good = {name: limit or 1.0 for name, _, limit, _ in bench._TARGETS} | {"rows": bench.ROWS, "months": 24, "store_bytes_per_bar": 10.0, "machine": {"cores": 2}}
    assert "MISSED" not in bench.bench_text(good)
    for name, _, limit, _ in bench._TARGETS:
        for factor in (.99, 1.01):
            wrong = limit and (factor < 1) == (name in at_least)
            told = bench.bench_text(good | {name: factor * limit if limit else 1e9})
            assert [line.split()[0] for line in told.splitlines() if "MISSED" in line] == ([name] if wrong else []), (name, factor)


# --- the simulator and its rival ---

def test_the_back_test_that_is_timed_has_every_rule_on():
    "TGT: each optional rule has a value other than off, except the spread limit, which needs quotes; nothing latches, and what is traded is the same every time."
    rules = bench_sim.every_rule()
    off = [f"{section}.{name}" for section in ("risk", "stops", "trader", "costs") for name, value in getattr(rules, section).model_dump().items()
           if (value == 0 and not isinstance(value, bool)) or value is False or value == () or value == (0, 0, 0)]
    assert off == ["risk.max_spread_ticks"]
    bars = synthetic_market(1, 5).bars
    p = bench_sim.bench_prediction(n_bars(bars))
    assert p.dtype == np.float32 and p.tobytes() == bench_sim.bench_prediction(n_bars(bars)).tobytes()
    done = bench_sim.backtest(bars, p, rules)
    assert not any(done.summary[latch] for latch in ("killed", "review")) and done.trades["position"].nunique() > 60
    assert {"stop", "stall", "time_stop", "level"} <= set(done.trades["reason_out"]) and done.trades["contracts"].max() > 1


def test_each_engine_is_asked_for_by_its_name(monkeypatch):
    "Making what an engine is given is not part of its run; the rival gets the same signals, filled a bar later, and the first stop and target of the rules."
    bars, asked = synthetic_market(1, 5).bars, []
    p = bench_sim.bench_prediction(n_bars(bars))
    monkeypatch.setattr(bench_sim, "backtest", lambda *given: asked.append(("ours", *given)))
    monkeypatch.setattr(bench_sim, "run_signals", lambda table, stop, target, engine: asked.append((engine, table, stop, target)))
    runs = [bench_sim.ready(engine, bars, p) for engine in bench_sim.ENGINES]
    assert asked == []
    for run in runs: run()
    assert [given[0] for given in asked] == list(bench_sim.ENGINES) == ["ours", "rust", "numba"]
    rules = bench_sim.every_rule()
    assert asked[0][1] is bars and asked[0][2] is p and asked[0][3] == rules
    for _, table, stop, target in asked[1:]:
        sure = np.flatnonzero(p.max(axis=1) >= .6)
        assert set(np.flatnonzero(table.long | table.short)) == set(sure + 1) - {n_bars(bars), n_bars(bars) - 1} and not table.at_close
        np.testing.assert_allclose(stop[:1000] * table.open[:1000] / MES.tick, rules.stops.stop_ticks)
        np.testing.assert_allclose(target / stop, rules.stops.target_ticks / rules.stops.stop_ticks)


def test_simulator_numbers_are_of_what_was_measured(monkeypatch):
    "Process after process, each engine in turn: ratios by the median of first runs and by the best of all runs, nanoseconds of runs that are not the first, bar-evaluations of the best sweep."
    asked, first = [], {"ours": iter([2.0, 1.0, 9.0]), "rust": iter([30.0, 5.0, 40.0]), "numba": iter([50.0, 80.0, 7.0])}
    best = {"ours": iter([.5, .4, .6]), "rust": iter([4.0, 3.0, 2.0]), "numba": iter([6.0, 7.0, 8.0])}
    def measure(setup, call, rows, repeats=3):
        engine = next((name for name in first if f"ready('{name}', bars, p)" in setup), "sweep")
        asked.append((call, repeats, engine, "'place'" in setup))
        if engine == "sweep": return {"s": .01, "first_s": .02, "best_s": .008, "rows": [1_000_000, 48], "peak_mb": 700.0}
        assert f"ready('{engine}', few, " in setup, "what compiles is run first"
        return {"s": next(again) if engine == "ours" else 1.0, "first_s": next(first[engine]), "best_s": next(best[engine]), "rows": [1_000_000, 9] if engine == "ours" else 1_000_000, "peak_mb": 700.0 if engine == "ours" else 9000.0}
    again = iter([.01, .03, .02])
    monkeypatch.setattr(bench_sim, "measure", measure)
    found = bench_sim.bench_sim("place") | bench_sim.bench_sweep("place")
    want = {"sim_ns_per_bar": 20, "sim_first_ns_per_bar": 2000, "sim_best_ns_per_bar": 400, "sim_bars": 1_000_000, "sim_trades": 9, "sim_peak_mb": 700, "sim_vs_vbt_rust": 15, "sim_vs_vbt_numba": 25,
            "sim_vs_vbt_rust_best": 5, "sim_vs_vbt_numba_best": 15, "vbt_rust_ns_per_bar": 30_000, "vbt_rust_best_ns_per_bar": 2000, "vbt_numba_ns_per_bar": 50_000, "vbt_numba_best_ns_per_bar": 6000, "sweep_bars_per_s": 6e9}
    np.testing.assert_allclose([found[name] for name in want], list(want.values()))
    assert asked == [("run()", 4, engine, True) for _ in range(3) for engine in ("ours", "rust", "numba")] + [("sweep(bars, p, GRID, rules, threads=1)", 3, "sweep", True)]


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
