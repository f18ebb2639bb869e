"MOD-3: windows are views that cost nothing, never reach over a session, and a batch of them is what the scaler itself would give, straight from the disk."
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
from conftest import ROOT

from mesbot.bars import n_bars
from mesbot.features import compute_features
from mesbot.scaling import NotTrainable, Scaler, fit_scaler, fit_scaler_rows
from mesbot.sequences import gather, sequences, warm_rows, window_rows
from mesbot.synth import synthetic_market


@pytest.fixture(scope="module")
def bars(): return synthetic_market(2, seed=5).bars


@pytest.fixture(scope="module")
def features(bars): return compute_features(bars)


@pytest.fixture(scope="module")
def on_disk(features, tmp_path_factory):
    "The matrix as a file that nobody may write to."
    path = tmp_path_factory.mktemp("matrix") / "features.npy"
    np.save(path, features)
    return np.load(path, mmap_mode="r")


def new_bytes(make):
    "What `make` returns, and the most memory that it took while it ran."
    make()                                                                 # compiled and imported
    tracemalloc.start()
    try: return make(), tracemalloc.get_traced_memory()[1]
    finally: tracemalloc.stop()


def test_six_million_windows_take_no_memory():
    "MOD-3: 6.2 M windows of 60 x k are the matrix looked at in another way: no byte of their own, and each of its bytes is one of the matrix."
    matrix = np.zeros((6_200_059, 56), np.float32)
    windows, took = new_bytes(lambda: sequences(matrix, 60))
    assert windows.shape == (6_200_000, 60, 56) and windows.nbytes > 80e9 and took < 20_000
    assert np.shares_memory(windows, matrix) and windows.ctypes.data == matrix.ctypes.data and windows.strides == (56 * 4, 56 * 4, 4)
    assert np.lib.array_utils.byte_bounds(windows) == np.lib.array_utils.byte_bounds(matrix) and not windows.flags.owndata and not windows.flags.writeable


def test_a_window_ends_at_its_row(features):
    "MOD-3: window j holds the rows j to j + length - 1 in order, and nothing later."
    windows = sequences(features, 30)
    for j in (0, 1, 777, len(features) - 30): np.testing.assert_array_equal(windows[j], features[j:j + 30])
    assert len(windows) == len(features) - 29


@pytest.mark.parametrize("length", (1, 2, 30, 60))
def test_no_window_reaches_over_a_session(bars, length):
    "MOD-3: of each session exactly the first length - 1 rows have no window, and a window holds rows of one session only."
    of = np.repeat(np.arange(len(bars.sessions) - 1), np.diff(bars.sessions)).astype(np.float32)[:, None]
    rows = window_rows(np.arange(n_bars(bars)), bars.sessions, length)
    windows = gather(of, rows, Scaler(np.array([0]), np.zeros(1, np.float32), np.ones(1, np.float32)), length)[:, :, 0]
    assert (windows == of[rows]).all()
    assert len(rows) == n_bars(bars) - (length - 1) * (len(bars.sessions) - 1)


def test_sessions_of_any_length():
    "MOD-3: empty sessions, and those shorter than a window, against a count by hand."
    rng = np.random.default_rng(2)
    for _ in range(50):
        sessions, length = np.r_[0, rng.integers(0, 9, 12).cumsum()], rng.integers(1, 7)
        rows = rng.permutation(sessions[-1])[:rng.integers(0, sessions[-1] + 1)]
        plain = [r for r in rows if any(a + length - 1 <= r < b for a, b in zip(sessions, sessions[1:]))]
        assert window_rows(rows, sessions, length).tolist() == plain


@pytest.mark.parametrize("step", (1, 5, 100))
def test_warm_rows_are_those_without_a_gap(bars, features, on_disk, step):
    "MOD-3: rows whose window is finite in every used column, as a plain look at each window finds them; from memory and from disk, in any order; without a copy of the matrix."
    scaler = fit_scaler(features[:20_000])
    rows = window_rows(np.arange(0, len(features), step), bars.sessions, 60)
    there = np.isfinite(features[:, scaler.columns]).all(1)
    plain = rows[np.lib.stride_tricks.sliding_window_view(there, 60).all(1)[rows - 59]]
    found, took = new_bytes(lambda: warm_rows(on_disk, rows, scaler.columns, 60))
    np.testing.assert_array_equal(found, plain)
    assert 0 < len(found) < len(rows) and took < 3 * rows.nbytes + 20_000
    mixed = np.random.default_rng(1).permutation(rows)[:300]
    np.testing.assert_array_equal(warm_rows(features, mixed, scaler.columns, 60), mixed[np.isin(mixed, plain)])


@pytest.mark.parametrize("length", (1, 60))
def test_a_batch_is_what_the_scaler_gives(features, on_disk, length):
    "MOD-3: gather equals scaler(features)[windows] to the last bit, gaps included, from memory and from a read-only file."
    scaler = fit_scaler(features[:20_000])
    rows = np.random.default_rng(3).integers(length - 1, len(features), 700)
    wanted = sequences(np.ascontiguousarray(scaler(features)), length)[rows - length + 1]
    assert np.isnan(wanted).any() and (np.abs(wanted) == scaler.limit).any() and wanted.dtype == np.float32
    for matrix in (features, on_disk):
        out = np.full_like(wanted, 7)
        assert gather(matrix, rows, scaler, length, out) is out
        np.testing.assert_array_equal(out, wanted)
        np.testing.assert_array_equal(gather(matrix, rows, scaler, length), wanted)


def test_a_batch_takes_its_own_memory_and_no_more(on_disk):
    "MOD-3: a batch into a place that is there takes nothing; fitting a scaler on rows of a file does not load them."
    scaler, rows = fit_scaler(on_disk[:20_000]), np.arange(20_000, 24_000)
    out = np.empty((len(rows), 60, len(scaler.columns)), np.float32)
    assert out.nbytes > 10e6 and new_bytes(lambda: gather(on_disk, rows, scaler, 60, out))[1] < 200_000
    some = np.arange(0, len(on_disk), 2)
    fitted, took = new_bytes(lambda: fit_scaler_rows(on_disk, some))
    assert took < 50_000 < on_disk[some].nbytes
    for a, b in zip(fitted, fit_scaler(on_disk[some])): np.testing.assert_array_equal(a, b)


def test_a_scaler_knows_its_rows_only(features):
    "MOD-3: other rows, the test's above all, change nothing; numpy's own mean and spread agree."
    rows, other = np.arange(1000, 20_000, 3), features.copy()
    fitted = fit_scaler_rows(features, rows)
    other[np.setdiff1d(np.arange(len(features)), rows)] = 1e6
    for a, b in zip(fitted, fit_scaler_rows(other, rows)): np.testing.assert_array_equal(a, b)
    used = features[rows][:, fitted.columns].astype(float)
    np.testing.assert_allclose(fitted.mean, np.nanmean(used, axis=0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(fitted.scale, np.nanstd(used, axis=0), rtol=1e-5)
    with pytest.raises(NotTrainable, match="no feature is warm in the 0 training rows"): fit_scaler_rows(features, [])


@pytest.mark.parametrize("rows", ([58], [-1], [10**9], [59.5]))
def test_a_row_without_a_window_is_refused(features, rows):
    "MOD-3: a compiled loop does not ask whether a row exists; its face does."
    scaler = fit_scaler(features[:20_000])
    with pytest.raises(ValueError, match="rows must be"): gather(features, rows, scaler, 60)
    if rows != [58]:
        with pytest.raises(ValueError, match="rows must be"): warm_rows(features, rows, scaler.columns, 60)


def test_the_live_process_needs_nothing_heavy_for_them():
    "MOD-3: the rooms are imported where orders are sent; they load no torch and no plots."
    heavy = {"torch", "sklearn", "onnx", "matplotlib", "tqdm"}
    code = f"import sys, mesbot.sequences, mesbot.scaling\nprint(*sorted({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout.split() == []
