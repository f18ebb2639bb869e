"""LIV-1, BT-1: the simulated venue fills an order where, when and for as much as the back-test does: entries at market and by limit, brackets, gaps, exits, quotes, every slippage model."""
import asyncio

import numpy as np
import pytest
from gateway_world import world

from live_runner.gateway.outcomes import Accepted, NewOrder
from live_runner.protocol import OrderType, Side
from live_runner.simulator.clock import Clock
from live_runner.simulator.faults import Faults
from live_runner.simulator.settings import AccountSettings, VenueSettings
from live_runner.simulator.venue import Venue
from mesbot.bars import import_bars, load_bars, make_bars, session_info
from mesbot.calendar import session_table
from mesbot.config import load_config
from mesbot.core import MES, SECOND, Bar, instrument
from mesbot.inputs import Quotes
from mesbot.sim import backtest
from mesbot.synth import quote_bars, synthetic_market

ACCOUNT, CONTRACT = 101, "CON.F.US.MES.H24"


class Catalogue:
    def search_by_id(self, contract): return {"id": contract, "name": "MESH4", "activeContract": True} if contract == CONTRACT else None


def desk(config, thing=MES, faults=(), **changes):
    "A venue without a gateway, and what it tells."
    told, settings = [], VenueSettings(accounts=(AccountSettings(balance=1e6, max_size=1000, **changes.pop("account", {})),), config=config, fees_usd=0.22, commission_usd=0.20, **{"hours": "exchange"} | changes)
    venue = Venue(Clock(), thing, CONTRACT, settings, lambda event, key, payload, action=1: told.append((venue.clock.now, event, payload, action)), Faults(3, faults), None, Catalogue())
    return venue, told


def walk(venue, bars, orders, quotes=None):
    "Every bar in its moments; `orders`: (ns, action) in time order, each done at its moment or as soon as the bar before is over."
    orders, sessions = list(orders), session_info(bars)
    for k, (a, b) in enumerate(zip(bars.sessions[:-1], bars.sessions[1:])):
        venue.clock.run_until(int(sessions["open"][k]))
        venue.open_session(sessions[k])
        columns = [column[a:b].tolist() for column in bars[:6]] + ([side[a:b].tolist() for side in quotes] if quotes else [])
        for bar in map(Bar._make, zip(*columns)) if quotes else (Bar(*row) for row in zip(*columns)):
            while orders and orders[0][0] <= bar.ts:
                due, act = orders.pop(0)
                venue.clock.run_until(max(due, venue.clock.now))
                act()
            for lag, moment in ((.2, venue.meet_open), (.5, venue.meet_range), (1, venue.end_second)):
                venue.clock.run_until(bar.ts + round(lag * SECOND))
                moment(bar)
        venue.clock.run_until(int(sessions["close"][k]))
        venue.close_session()
    assert not orders


def place(venue, kind, side, size, **fields):
    answer = venue.answer("/api/Order/place", {"accountId": ACCOUNT, "contractId": CONTRACT, "type": int(kind), "side": int(side), "size": size, **fields})
    assert answer["success"], answer
    return answer["orderId"]


def retrade(venue, trades, by_limit):
    "The orders that a runner would have sent for these trades, in time order."
    orders, tick = [], venue.instrument.tick
    for trade in trades.itertuples():
        side = Side.BUY if trade.side == "long" else Side.SELL
        sign = 1 if side == Side.BUY else -1
        entry = {"limitPrice": trade.entry_price} if by_limit else {}
        bracket = {"stopLossBracket": {"ticks": round((trade.stop_price - trade.entry_price) / tick), "type": 4}, "takeProfitBracket": {"ticks": round((trade.target_price - trade.entry_price) / tick), "type": 1}}
        assert sign * bracket["takeProfitBracket"]["ticks"] > 0
        orders.append((trade.entry_ns, lambda k=OrderType.LIMIT if by_limit else OrderType.MARKET, s=side, n=trade.contracts, f={**entry, **bracket}: place(venue, k, s, n, **f)))
        if trade.reason_out not in ("stop", "target", "data_end"):
            orders.append((trade.exit_ns, lambda: venue.close(venue.accounts[ACCOUNT], next(iter(venue.accounts[ACCOUNT].positions.values())).size)))
    return sorted(orders, key=lambda pair: pair[0])


def fills_of(venue):
    "Second, side, price in ticks, size, gross and costs of every fill of the venue, oldest first."
    to_ticks = lambda points: int(venue.instrument.to_ticks(np.array([points]))[0])
    return [(at // SECOND, row["side"], to_ticks(row["price"]), row["size"], row["profitAndLoss"], round(row["fees"] + row["commissions"], 9)) for at, row in venue.accounts[ACCOUNT].fills]


def fills_wanted(trades, thing):
    rows, cost = [], 0.42
    for t in trades.itertuples():
        long = t.side == "long"
        to_ticks = lambda points: int(thing.to_ticks(np.array([points]))[0])
        rows += [(t.entry_ns // SECOND, int(not long), to_ticks(t.entry_price), t.contracts, None, round(cost * t.contracts, 9)),
                 (t.exit_ns // SECOND - (t.reason_out == "data_end"), int(long), to_ticks(t.exit_price), t.contracts, round(t.gross_usd, 6), round(cost * t.contracts, 9))]
    return rows


def market(quotes):
    made = synthetic_market(2, seed=11)
    return made.bars, Quotes(*(side.open for side in quote_bars(made))) if quotes else None


def signals(n, seed, each=97):
    "A confident opinion on some bars."
    p, rng = np.full((n, 3), 1 / 3, np.float32), np.random.default_rng(seed)
    where = np.arange(50, n, each)
    up = rng.random(len(where)) < .5
    p[where] = np.where(up[:, None], [[.1, .1, .8]], [[.8, .1, .1]])
    return p


LOOSE = dict(risk=dict(day_loss_usd=1e5, day_drawdown_usd=1e5, total_loss_usd=1e6, review_drawdown_usd=1e6, trade_risk_usd=1e5, start_balance_usd=1e6, max_contracts=3, loss_streak=50),
             trader=dict(hours="ALL", cooldown_s=0.0), stops=dict(break_even=False, max_hold_s=120, tighten_share=0.0, close_min=0.0))


@pytest.mark.parametrize("slippage", ["fixed", "liquidity", "atr"])
@pytest.mark.parametrize("mode", ["next_open", "price_touch"])
@pytest.mark.parametrize("quotes", [False, True])
def test_a_paper_fill_is_a_back_test_fill(slippage, mode, quotes):
    bars, known = market(quotes)
    config = load_config(costs=dict(slippage=slippage, stale_s=3600.0), fills=dict(mode=mode), **LOOSE)
    trades = backtest(bars, signals(len(bars.ts), 5), config, quotes=known).trades
    assert len(trades) > 200 and {"stop", "target", "time_stop"} <= set(trades.reason_out)
    venue, _ = desk(config)
    walk(venue, bars, retrade(venue, trades, mode == "price_touch"), known)
    assert fills_of(venue) == fills_wanted(trades, MES)
    assert venue.accounts[ACCOUNT].balance == pytest.approx(1e6 + trades.net_usd.sum()) and not venue.accounts[ACCOUNT].positions and not venue.working


def test_on_the_real_spy_week_too(shared_data, tmp_path):
    import_bars(shared_data / "spy_1s_201310.csv.gz", "SPY", tmp_path)
    bars, spy = load_bars("SPY", store=tmp_path), instrument("SPY")
    config = load_config(costs=dict(slippage="atr", stale_s=3600.0), **LOOSE)
    trades = backtest(bars, signals(len(bars.ts), 7), config).trades
    assert len(trades) > 200 and {"stop", "target", "time_stop"} <= set(trades.reason_out)
    venue, _ = desk(config, spy)
    walk(venue, bars, retrade(venue, trades, False))
    assert fills_of(venue) == fills_wanted(trades, spy)


def test_an_order_that_waited_too_long_slips_as_in_the_back_test():
    "Both an entry and an exit: the exchange does not ask what for."
    start = int(session_table("2024-01-03", "2024-01-03")["rth_open"][0])
    ts = start + SECOND * np.array([0, 1, 100, 101, 300])
    bars = make_bars(ts, *(np.full(5, 20_000, np.int32) for _ in range(4)), np.full(5, 9, np.int64), "MES")
    p = np.full((5, 3), 1 / 3, np.float32)
    p[1], p[3] = (.1, .1, .8), (.8, .1, .1)
    config = load_config(**LOOSE | dict(stops=dict(max_hold_s=3600, tighten_share=0.0, stop_ticks=20, target_ticks=40), trader=dict(hours="ALL", exit_on_opposite=True)))
    trade = backtest(bars, p, config).trades.iloc[0]
    assert (trade.entry_price, trade.exit_price, trade.slippage_ticks) == (5001, 4999, 8)
    venue, _ = desk(config)
    walk(venue, bars, [(start + 2 * SECOND, lambda: place(venue, OrderType.MARKET, Side.BUY, 1)), (start + 102 * SECOND, lambda: place(venue, OrderType.MARKET, Side.SELL, 1))])
    assert [row[2] for row in fills_of(venue)] == [20_004, 19_996]


def test_and_so_it_is_through_our_client_and_the_wire():
    "An hour in lockstep: orders by REST at the close of a bar, fills read back by REST, the same as in the back-test to the cent; in steps of any size."
    made = synthetic_market(1, seed=4).bars
    ten = int(session_info(made)["rth_open"][0]) + 1800 * SECOND
    hour = slice(*np.searchsorted(made.ts, [ten, ten + 3600 * SECOND]))
    bars = make_bars(*(column[hour] for column in made[:6]), "MES")
    config = load_config(costs=dict(slippage="fixed", stale_s=3600.0), **LOOSE)
    trades = backtest(bars, signals(len(bars.ts), 5, 151), config).trades
    trades = trades[trades.reason_out != "data_end"]   # an hour is no session
    assert len(trades) > 10

    async def story(pause):
        async with world(bars, (AccountSettings(balance=1e6, max_size=1000),), hubs=False, config=config, hours="exchange", fees_usd=0.22, commission_usd=0.20) as w:
            for trade in trades.itertuples():
                await w.replay.step(until=trade.entry_ns - pause)
                if pause: await w.replay.step(until=trade.entry_ns)
                long = trade.side == "long"
                width = lambda price: round(abs(price - trade.entry_price) / MES.tick)
                order = NewOrder(ACCOUNT, w.venue.contract_id, OrderType.MARKET, Side.BUY if long else Side.SELL, trade.contracts, f"t{trade.Index}",
                                 stop_ticks=width(trade.stop_price), target_ticks=width(trade.target_price))
                assert isinstance(await w.gateway.place(order), Accepted)
                if trade.reason_out not in ("stop", "target"):
                    await w.replay.step(until=trade.exit_ns)
                    assert isinstance(await w.gateway.close_position(ACCOUNT, w.venue.contract_id), Accepted)
            await w.replay.step(seconds=7200)
            fills = await w.gateway.trades(ACCOUNT, int(bars.ts[0]))
            account = (await w.gateway.accounts())[0]
            assert await w.gateway.positions(ACCOUNT) == [] and await w.gateway.query_orders(ACCOUNT, [1, 6, 8]) == []
            return [(f.ts // SECOND, int(f.side), int(MES.to_ticks(np.array([f.price]))[0]), f.size, f.pnl, round(f.fees + f.commissions, 9)) for f in fills], account.balance

    for pause in (0, 7 * SECOND):
        fills, balance = asyncio.run(asyncio.wait_for(story(pause), 120))
        assert fills == fills_wanted(trades, MES) and balance == pytest.approx(1e6 + trades.net_usd.sum())
