"""The synthetic market: honest at alpha 0, planted as promised at alpha > 0, and the same bytes for everyone."""
import numpy as np
import pytest

from mesbot.synth import (MODES, RTH_S, SESSION_S, SIGNAL_CLIP, SIGNAL_NORM_TAU_S, SIGNAL_TAU_S, at_bars, synthetic_market)


def digest(market):
    return [x.tobytes() for x in (*market.bars, *market[1:]) if isinstance(x, np.ndarray)]


@pytest.fixture(scope="module")
def edge():
    return synthetic_market(24, seed=11, alpha=.10)


@pytest.mark.parametrize("mode", MODES)
def test_same_seed_same_bytes_for_any_number_of_threads(mode):
    one = synthetic_market(5, seed=3, alpha=.05, mode=mode, threads=1)
    assert digest(one) == digest(synthetic_market(5, seed=3, alpha=.05, mode=mode, threads=2))
    assert not np.array_equal(one.bid, synthetic_market(5, seed=4, alpha=.05, mode=mode, threads=2).bid)


def test_shapes_kinds_and_units(edge):
    bars, n = edge.bars, len(edge.second)
    assert edge.bid.shape == edge.signal.shape == edge.sigma.shape == (24, SESSION_S)
    assert (edge.bid.dtype, edge.signal.dtype, edge.sigma.dtype, edge.second.dtype) == (np.int32, np.float32, np.float32, np.int32)
    assert bars.ts.dtype == bars.volume.dtype == bars.sessions.dtype == np.int64
    assert all(getattr(bars, k).dtype == np.int32 and len(getattr(bars, k)) == n for k in ("open", "high", "low", "close"))
    assert np.isfinite(edge.signal).all() and np.abs(edge.signal).max() <= SIGNAL_CLIP and np.isfinite(edge.sigma).all()


def test_bars_are_logical(edge):
    b = edge.bars
    assert (b.high >= np.maximum(b.open, b.close)).all() and (b.low <= np.minimum(b.open, b.close)).all()
    assert (b.volume > 0).all() and (np.diff(b.ts) > 0).all()
    assert b.sessions[0] == 0 and b.sessions[-1] == len(b.ts) and (np.diff(b.sessions) > 0).all()
    starts = b.ts - edge.second * np.int64(10**9)                       # 18:00 New York, one per session
    assert all(len(np.unique(starts[i:j])) == 1 for i, j in zip(b.sessions, b.sessions[1:]))


def test_vendor_style_leaves_quiet_seconds_out(edge):
    traded = np.diff(edge.bars.sessions) / SESSION_S
    assert .25 < traded.min() and traded.max() < .85 and .4 < traded.mean() < .65
    rth = (edge.second >= RTH_S[0]) & (edge.second < RTH_S[1])
    assert .80 < rth.sum() / (24 * (RTH_S[1] - RTH_S[0])) < .97         # the busy hours are fuller


def test_closes_stay_with_the_quotes(edge):
    off = edge.bars.close - at_bars(edge, edge.bid)
    assert np.isin(off, (0, 1)).mean() > .8 and np.abs(off).mean() < 1.0
    gap = edge.bid[1:, 0].astype(int) - edge.bid[:-1, -1]
    assert np.abs(gap).max() < 150 and np.abs(gap).mean() > 1


def test_closes_bounce_though_quotes_do_not():
    null = synthetic_market(6, seed=8)
    rows = slice(*null.bars.sessions[2:4])
    rth = (null.second[rows] >= RTH_S[0]) & (null.second[rows] < RTH_S[1])
    lag1 = lambda x: np.corrcoef(x[1:], x[:-1])[0, 1]
    assert lag1(np.diff(null.bars.close[rows][rth])) < -.04
    assert abs(lag1(np.diff(null.bid[2, slice(*RTH_S)]))) < .04


def test_one_second_moves_lean_on_their_signal_with_slope_alpha(edge):
    rth = slice(*RTH_S)
    s, sigma = edge.signal[:, rth].astype(float), edge.sigma[:, rth]
    move = np.diff(edge.bid, axis=1, prepend=edge.bid[:, :1])[:, rth] / sigma
    calm = np.abs(move) < 20
    assert abs((s * move)[calm].sum() / (s * s)[calm].sum() - .10) < .006


def test_anyone_with_the_bars_can_compute_the_signal(edge):
    b = edge.bars
    for d in (0, 13):
        rows = slice(*b.sessions[d:d + 2])
        at, x, want = edge.second[rows], np.zeros(SESSION_S), np.zeros(SESSION_S)
        x[at[1:]] = np.sign(np.diff(b.close[rows].astype(float))) * np.sqrt(b.volume[rows][1:])
        first = int(at[0])
        weights = lambda tau: np.exp(-np.arange(int(40 * tau)) / tau)[:SESSION_S]
        filtered = lambda y, tau: np.fft.irfft(np.fft.rfft(y, 1 << 18) * np.fft.rfft(weights(tau), 1 << 18), 1 << 18)[:SESSION_S]
        flow = filtered(x, SIGNAL_TAU_S)                                # no recursion: plain weighted sums of the past
        power, weight = filtered(flow**2, SIGNAL_NORM_TAU_S), filtered((np.arange(SESSION_S) >= first) * 1.0, SIGNAL_NORM_TAU_S)
        live = slice(int(at[np.flatnonzero(x[at])[0]]), SESSION_S - 1)
        want[1:][live] = np.clip(flow[live] / np.sqrt(power[live] / weight[live]), -SIGNAL_CLIP, SIGNAL_CLIP)
        np.testing.assert_allclose(edge.signal[d], want, atol=1e-5)


def test_an_early_close_ends_the_bars_and_freezes_the_rest():
    market = synthetic_market(3, seed=1, start="2024-07-01")
    last = int(market.second[-1])
    assert last < 70_000 and market.sigma[2, last + 3600] == 0 and np.ptp(market.bid[2, last + 3600:]) == 0
    assert market.second[market.bars.sessions[1] - 1] > 82_000          # the days before were whole


def test_without_an_edge_the_bid_does_not_leave_the_side_of_the_last_print():
    "SYN, alpha 0: whether a bar closed at the ask or at the bid says nothing about the bid's next second. A z-score over 20 sessions, without moves of 20 sigmas; a lean of 1 in 100 moves would be -7."
    market = synthetic_market(20, seed=3)
    session = np.repeat(np.arange(20), np.diff(market.bars.sessions))
    live = market.second + 1 < market.days["seconds"][session]
    row, t = session[live], market.second[live]
    side = np.sign(market.bars.close[live] - market.bid[row, t] - .5)
    move = side * (market.bid[row, t + 1] - market.bid[row, t]) / market.sigma[row, t + 1]
    move = move[np.abs(move) < 20]
    assert abs(move.sum()) < 3.5 * np.sqrt((move * move).sum())


@pytest.mark.parametrize("mode, low, high", (("latent", -.02, .02), ("leak", .08, .14)))
def test_prints_lean_on_a_leaking_signal_and_on_no_other(mode, low, high):
    "SYN: slope of the side of the close (0 bid, 1 ask) on the tanh of the hidden signal of its second: none in mode latent, .11 in mode leak. Standard error of 6 sessions: .002."
    market = synthetic_market(6, seed=1, alpha=.05, mode=mode)
    side, x = market.bars.close - at_bars(market, market.bid), np.tanh(at_bars(market, market.signal))
    plain = np.isin(side, (0, 1))
    assert low < np.polyfit(x[plain], side[plain], 1)[0] < high


@pytest.mark.parametrize("mode", MODES)
def test_a_hidden_signal_is_made_by_nobody(mode):
    "SYN: in modes latent and leak the signal is an autoregression of its own from the first second on, in mode observable it begins at 0 with the first bars."
    market = synthetic_market(6, seed=2, alpha=.05, mode=mode)
    if mode == "observable":
        assert (market.signal[:, 0] == 0).all()
        return
    assert (market.signal[:, 0] != 0).all()
    new = market.signal[:, 1:] - np.exp(-1 / SIGNAL_TAU_S) * market.signal[:, :-1].astype(float)
    np.testing.assert_allclose([market.signal.std(), new.std()], [1, np.sqrt(1 - np.exp(-2 / SIGNAL_TAU_S))], rtol=.04)   # standard errors: .7 % and .1 %
    assert abs(np.corrcoef(new[:, 1:].ravel(), new[:, :-1].ravel())[0, 1]) < .01


def test_bars_open_where_they_do_not_close(edge):
    "SYN: nearly half of the bars close at another price than they open at, as often above as below; and each price is one of the bar's own prints. Standard error of 24 sessions: .001."
    b = edge.bars
    up, down = (b.close > b.open).mean(), (b.close < b.open).mean()
    assert .40 < up + down < .56 and abs(up - down) < .01
    single = edge.prints == 1
    assert single.mean() > .05 and (b.open == b.close)[single].all() and (b.high == b.low)[single].all()
    assert (b.volume >= edge.prints).all() and edge.prints.max() > 50


@pytest.mark.parametrize("bad,word", ((dict(sessions=0), "sessions must be a whole number >= 1, got 0"), (dict(alpha=-.01), "alpha"), (dict(alpha=np.inf), "alpha"),
                                      (dict(alpha=np.nan), "alpha"), (dict(mode="magic"), "observable"), (dict(scale=0), "scale"), (dict(scale=np.nan), "scale")))
def test_bad_arguments_are_refused_at_the_door(bad, word):
    with pytest.raises(ValueError, match=word): synthetic_market(**(dict(sessions=1, seed=1) | bad))
