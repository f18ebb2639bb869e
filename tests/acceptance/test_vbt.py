"vectorbt beside us: our trades seen by it, its sweeps, and both engines trade for trade on their common ground."
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesbot import vbt
from mesbot.bars import make_bars, n_bars
from mesbot.config import load_config
from mesbot.core import MES, SECOND
from mesbot.sim import backtest
from mesbot.synth import synthetic_market

OPENING = int(np.datetime64("2024-01-03T15:00:00", "ns").astype(np.int64))  # 10:00 New York
BRACKETS = ((8, 12, .6), (3, 5, .8), (20, 40, .4), (1, 1, .5))               # stop, target, confidence


def config_of(stop, target, confidence): return load_config(stops=dict(stop_ticks=stop, target_ticks=target), trader=dict(min_confidence=confidence))


def coin(n, seed): return np.random.default_rng(seed).dirichlet((1, 1, 1), n).astype(np.float32)


def mirrored(bars, around=60_000): return bars._replace(open=around - bars.open, high=around - bars.low, low=around - bars.high, close=around - bars.close)


def rows_of(checked): return checked.trades[["entry_row", "exit_row"]].to_numpy().tolist()


@pytest.mark.parametrize("start", ("2024-01-02", "2024-07-02"))
@pytest.mark.parametrize("seed", range(4))
def test_both_engines_make_the_same_trades(seed, start):
    "BT-3: on whole sessions, one of them with an early close, every trade has the same bars, side, prices and result; mirrored prices give mirrored trades."
    market = synthetic_market(2, seed, start=start).bars
    p = coin(n_bars(market), seed)
    for bracket in BRACKETS:
        config = config_of(*bracket)
        checked, turned = vbt.cross_check(market, p, config), vbt.cross_check(mirrored(market), p[:, ::-1], config)
        assert checked.same, checked.first
        assert turned.same, turned.first
        assert len(checked.trades) > 50 and rows_of(checked) == rows_of(turned)
        np.testing.assert_array_equal(checked.trades["usd"], turned.trades["usd"])
        np.testing.assert_array_equal(checked.trades["side"], -turned.trades["side"])


@st.composite
def small_markets(draw):
    "Up to 40 bars round 1000 with jumps between them, ranges that hold stop and target at once, seconds without a trade, and a prediction."
    n = draw(st.integers(1, 40))
    ints = lambda low, high: np.array(draw(st.lists(st.integers(low, high), min_size=n, max_size=n)))
    open_ = 1000 + np.cumsum(ints(-9, 9))
    close = open_ + ints(-6, 6)
    high, low = np.maximum(open_, close) + ints(0, 6), np.minimum(open_, close) - ints(0, 6)
    ts = OPENING + np.cumsum(ints(1, 90)) * SECOND
    p = np.array([[.1, .8, .1], [.7, .2, .1], [.1, .2, .7], [np.nan] * 3])[ints(0, 3)]
    return make_bars(ts, open_, high, low, close, np.ones(n, int)), p


@settings(max_examples=150, deadline=None)
@given(small_markets(), st.integers(1, 8), st.integers(1, 8))
def test_both_engines_agree_on_wild_bars(market, stop, target):
    "BT-3: gaps through stop and target, bars that hold both, empty seconds; mirrored too."
    bars, p = market
    config = config_of(stop, target, .6)
    checked, turned = vbt.cross_check(bars, p, config), vbt.cross_check(mirrored(bars, 2000), p[:, ::-1], config)
    assert checked.same, checked.first
    assert turned.same, turned.first
    assert rows_of(checked) == rows_of(turned)


BEFORE = (1000, 1000, 1000, 1000)  # bought at the next open, stop 8 and target 12
PAPER = {"touched only":          ([(1001, 1003, 999, 1002), (1002, 1013, 1000, 1010)], (2, 1010)),
         "traded through":        ([(1001, 1003, 999, 1002), (1002, 1014, 1000, 1010)], (2, 1013)),
         "stop touched":          ([(1001, 1003, 999, 1002), (1002, 1003, 993, 1000)], (2, 993)),
         "both":                  ([(1001, 1003, 999, 1002), (1002, 1014, 993, 1002)], (2, 993)),
         "gap through the stop":  ([(1001, 1003, 999, 1002), (990, 1000, 989, 999)], (2, 990)),
         "gap beyond the target": ([(1001, 1003, 999, 1002), (1020, 1021, 1019, 1020)], (2, 1013)),
         "stop on entry bar":     ([(1001, 1003, 993, 1002), (1002, 1014, 1000, 1010)], (1, 993)),
         "target on entry bar":   ([(1001, 1014, 999, 1002), (1002, 1003, 1000, 1002)], (1, 1013))}


@pytest.mark.parametrize("case", PAPER)
@pytest.mark.parametrize("mirror", (False, True))
def test_the_shared_rule_on_paper(case, mirror):
    "BT-1: where each kind of bar fills, in both engines and in numbers a reader can check."
    rows, (exit_row, price) = PAPER[case]
    rows = [BEFORE, *rows]
    bars = make_bars(OPENING + np.arange(len(rows)) * SECOND, *np.array(rows).T, np.ones(len(rows), int))
    p = np.array([[.1, .2, .7]] + [[.1, .8, .1]] * (len(rows) - 1))
    if mirror: bars, p, price = mirrored(bars, 2000), p[:, ::-1], 2000 - price
    checked = vbt.cross_check(bars, p)
    assert checked.same, checked.first
    trade = checked.trades.iloc[0]
    assert len(checked.trades) == 1 and (trade.entry_row, trade.exit_row, trade.exit_ticks) == (1, exit_row, price)


def test_a_target_filled_on_touch_is_found_out():
    "A check that cannot fail is none: filling targets on touch in one engine is named with its first trade."
    bars = synthetic_market(1, 3).bars
    checked = vbt.cross_check(bars, coin(n_bars(bars), 3), through=0)
    assert not checked.same and checked.first.startswith("trade ") and "exit_row" in checked.first
    rows = [BEFORE, *PAPER["touched only"][0]]
    bars = make_bars(OPENING + np.arange(3) * SECOND, *np.array(rows).T, np.ones(3, int))
    found = vbt.cross_check(bars, [[.1, .2, .7], [.1, .8, .1], [.1, .8, .1]], through=0)
    assert found.first == "trade 0: exit_ticks 1010 here and 1013 there, usd 11.25 here and 15 there"


def test_a_missing_trade_is_found_out(monkeypatch):
    "One list longer than the other is a difference too."
    bars, real = synthetic_market(1, 3).bars, vbt.our_trades
    monkeypatch.setattr(vbt, "our_trades", lambda *given: real(*given).iloc[:-1])
    checked = vbt.cross_check(bars, coin(n_bars(bars), 3))
    assert not checked.same and checked.first.startswith(f"trade {len(checked.trades) - 1}: entry_row nan here")


# --- our trades as its portfolio ---

@pytest.mark.parametrize("changes", ({}, dict(stops=dict(level_ticks=(2, 5), level_shares=(.5, .25), target_ticks=9), risk=dict(tier_contracts=(4, 4, 4, 4), trade_risk_usd=100.0)),
                                     dict(trader=dict(hours="ALL", reverse=True), risk=dict(day_loss_usd=1000.0, day_drawdown_usd=1000.0, review_drawdown_usd=1000.0, total_loss_usd=1000.0))))
def test_our_trades_seen_by_vectorbt(changes):
    "Profit to the cent, fees, lots, positions, and the account at the close of each kept bar; partial exits and reversals too."
    bars = synthetic_market(3, 11).bars
    done = backtest(bars, coin(n_bars(bars), 11), load_config(**changes))
    seen = vbt.portfolio(done, bars)
    assert len(done.trades) > 10 and seen.trades.count() == len(done.trades) and seen.positions.count() == done.trades["position"].nunique()
    np.testing.assert_allclose(seen.total_profit(), done.trades["net_usd"].sum(), atol=1e-6)
    np.testing.assert_allclose(np.sort(seen.trades.values["pnl"]), np.sort(done.trades["net_usd"]), atol=1e-6)
    np.testing.assert_allclose(seen.orders.values["fees"].sum(), done.trades["fees_usd"].sum())
    rows = np.searchsorted(bars.ts, seen.wrapper.index.tz_convert("UTC").as_unit("ns").asi8)
    np.testing.assert_allclose(seen.value(), done.equity[rows], atol=1e-6)
    assert set(bars.sessions[1:] - 1) <= set(rows) and len(rows) < .1 * n_bars(bars) + 2 * len(done.trades)
    stats = seen.stats()
    np.testing.assert_allclose([stats["End Value"], stats["Total Trades"]], [done.equity[-1], len(done.trades)])


def test_no_trades_are_a_portfolio_too():
    "A flat line, and no error."
    bars = synthetic_market(1, 2).bars
    seen = vbt.portfolio(backtest(bars, np.full((n_bars(bars), 3), np.nan)), bars, 500.0)
    assert seen.trades.count() == 0 and seen.total_profit() == 0 and (seen.value() == 500).all()


# --- its sweeps ---

def test_a_sweep_counts_what_vectorbt_does():
    "Hand-worked: bought at the close (optimistic) or at the next open; a touched target pays; one round trip of the settings a trade."
    rows = [(1000, 1000, 1000, 1000), (1001, 1003, 999, 1002), (1002, 1014, 1000, 1010), (1010, 1015, 1009, 1013), (1013, 1013, 1013, 1013)]
    bars = make_bars(OPENING + np.arange(5) * SECOND, *np.array(rows).T, np.ones(5, int))
    side = np.array([1, 0, 0, 0, 0], np.int8)
    for delay, entry in ((0, 1000), (1, 1001)):
        for target, pays in ((12, 12), (13, 13), (40, 1013 - entry)):       # the last is left at the session's end
            row = vbt.sweep_signals(bars, side, [8], [target], delay=delay).iloc[0]
            assert (row.trades, row.optimistic) == (1, delay == 0)
            np.testing.assert_allclose([row.gross_usd, row.fees_usd, row.net_usd], [pays * MES.tick_usd, .84 + 2 * MES.tick_usd, pays * MES.tick_usd - .84 - 2 * MES.tick_usd], atol=1e-6)
    row = vbt.sweep_signals(bars, -side, [8], [12]).iloc[0]
    np.testing.assert_allclose(row.gross_usd, -8 * MES.tick_usd, atol=1e-6)


@pytest.mark.parametrize("engine", ("rust", "numba"))
def test_the_engine_is_the_one_that_is_named(monkeypatch, engine):
    "vectorbt runs the engine that is asked for: the other one is not touched."
    import vectorbt_rust.portfolio as rust
    from vectorbt.portfolio import nb
    bars, called = synthetic_market(1, 2).bars, []
    for name, room in (("rust", rust), ("numba", nb)):
        function = {"rust": "simulate_from_signals_rs", "numba": "simulate_from_signals_nb"}[name]
        real = getattr(room, function)
        monkeypatch.setattr(room, function, lambda *a, real=real, name=name, **k: called.append(name) or real(*a, **k))
    table = vbt.signal_table(bars, vbt.sides(coin(n_bars(bars), 2), .6), 1)
    assert len(vbt.run_signals(table, table.tick * 8, table.tick * 12, engine=engine).order_records) > 100 and called == [engine]
