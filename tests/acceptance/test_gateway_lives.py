"LIV-2: the lives of orders on the simulated gateway, through our client and on its hubs: statuses in order and in time, legs, changes, prices, on a market that can be followed on paper."
import asyncio

import pytest
from gateway_world import (ACCOUNT, BUY, CANCELLED, COMMISSION, CONTRACT, EARLIER, FEES, FILLED, MS, NS, OPEN, OPENED, PENDING, SELL, SUSPENDED, TICK, TICK_USD, bars_at, limit,
                           market, path, placed, points, rows, statuses, stop, world)

from live_runner.gateway.events import AccountEvent, FillEvent, OrderEvent, PositionEvent
from live_runner.gateway.outcomes import Accepted, NewOrder, Refused
from live_runner.protocol import CancelError, ModifyError, OrderType, PlaceError, PositionType


@pytest.mark.parametrize("side", [BUY, SELL])
def test_a_bracket_in_time(side):
    "A market order with legs: 8, 6, 8 at once; the fill 8 ms after the print; the legs rest 18 ms later, at their distance from the fill. Nothing in between."
    async def run():
        async with world(bars_at(*((k, 0) for k in range(9)))) as w:
            await w.until(2)
            entry = await placed(w, market(side, tag="a", stop_ticks=40, target_ticks=60))
            await w.heard()
            told = [(e.order.id, e.order.status, e.order.limit, e.order.stop, e.order.tag, e.order.parent) for e in w.user if isinstance(e, OrderEvent)]
            assert told == [(entry + 1, SUSPENDED, None, None, "a-SL", entry), (entry, PENDING, None, None, "a", None), (entry + 2, SUSPENDED, None, None, "a-TP", entry)]
            assert [(o.order.linked, o.order.trail_ticks, o.order.created) for o in w.user if isinstance(o, OrderEvent)][1:] == [(None, None, OPEN + 2 * NS), (entry + 1, 60 if side == BUY else -60, OPEN + 2 * NS)]
            assert await w.gateway.open_orders(ACCOUNT) == []                       # suspended legs are not working ...
            assert [o.id for o in await w.gateway.query_orders(ACCOUNT, statuses=[1, 8])] == [entry + 1, entry + 2]  # ... but can be asked for
            printed, before = OPEN + 2 * NS + 200 * MS, len(w.user)
            await w.step_to(printed + 7 * MS)
            assert not w.user[before:]
            await w.step_to(printed + 8 * MS)
            way, fill = (1, 1) if side == BUY else (-1, -1)                         # one tick of slippage
            news = w.user[before:]
            assert {type(e) for e in news} == {OrderEvent, FillEvent, PositionEvent, AccountEvent}
            done, = (e.order for e in news if isinstance(e, OrderEvent))
            assert (done.id, done.status, done.filled, done.filled_price, done.updated) == (entry, FILLED, 1, points(fill), printed)
            half, = (e for e in news if isinstance(e, FillEvent))
            assert (half.action, half.fill.price, half.fill.side, half.fill.pnl, half.fill.fees, half.fill.commissions, half.fill.order) == (0, points(fill), side, None, FEES, COMMISSION, entry)
            held, = (e for e in news if isinstance(e, PositionEvent))
            assert (held.action, held.position.net, held.position.price) == (1, way, points(fill))
            account, = (e for e in news if isinstance(e, AccountEvent))
            assert (account.action, account.account.balance) == (1, pytest.approx(1000 - FEES - COMMISSION))
            before = len(w.user)
            await w.step_to(printed + 25 * MS)
            assert not w.user[before:]
            await w.step_to(printed + 26 * MS)
            legs = {e.order.id: e.order for e in w.user[before:]}
            assert len(w.user[before:]) == 2 and {k: (o.status, o.type, o.side, o.stop, o.limit) for k, o in legs.items()} == {
                entry + 1: (OPENED, OrderType.STOP, 1 - side, points(fill - 40 * way), None), entry + 2: (OPENED, OrderType.LIMIT, 1 - side, None, points(fill + 60 * way))}
            assert [o.id for o in await w.gateway.open_orders(ACCOUNT)] == [entry + 1, entry + 2]
            position, = await w.gateway.positions(ACCOUNT)
            assert position == held.position and position.type == (PositionType.LONG if side == BUY else PositionType.SHORT)
            assert await w.gateway.modify(ACCOUNT, entry + 1, stop=points(fill - 50 * way)) == Accepted(None)  # its sibling stays where it is
            assert [(o.stop, o.limit) for o in await w.gateway.open_orders(ACCOUNT)] == [(points(fill - 50 * way), None), (None, points(fill + 60 * way))]
            for tag in ("a", "a-SL"):                                                   # for ever
                again = await w.gateway.place(market(side, tag=tag))
                assert (again.code, again.message) == (PlaceError.ORDER_REJECTED, "Specified custom tag is already in use")
    asyncio.run(run())


@pytest.mark.parametrize("side, leg", [(BUY, "stop"), (BUY, "target"), (SELL, "stop"), (SELL, "target")])
def test_one_leg_ends_the_other(side, leg):
    "The stop loses one tick more by slippage, the target is filled at its price once the market trades through it; profit is gross, costs stand apart, the balance has both."
    way = 1 if side == BUY else -1
    worst, best = (-45, 0) if leg == "stop" else (0, 65)
    touch = (0, max(way * worst, way * best), min(way * worst, way * best), 0)

    async def run():
        async with world(path(*[(0, 0, 0, 0)] * 4, touch, (0, 0, 0, 0))) as w:
            await w.until(2)
            entry = await placed(w, market(side, stop_ticks=40, target_ticks=60))
            await w.until(6)
            fill = way
            out = fill - way * 41 if leg == "stop" else fill + way * 60
            hit, gone = (entry + 1, entry + 2) if leg == "stop" else (entry + 2, entry + 1)
            assert statuses(w, hit) == [SUSPENDED, OPENED, FILLED] and statuses(w, gone) == [SUSPENDED, OPENED, CANCELLED]
            opening, closing = await w.gateway.trades(ACCOUNT, EARLIER)
            pnl = way * (out - fill) * TICK_USD
            assert (closing.price, closing.pnl, closing.side, closing.order, closing.fees, closing.commissions) == (points(out), pnl, 1 - side, hit, FEES, COMMISSION) and opening.pnl is None
            assert [e.fill for e in w.user if isinstance(e, FillEvent)] == [opening, closing]
            flat = [e for e in w.user if isinstance(e, PositionEvent)][-1]
            assert (flat.action, flat.position.type, flat.position.size, flat.position.price) == (2, PositionType.UNDEFINED, 0, points(fill))
            assert await w.gateway.positions(ACCOUNT) == await w.gateway.open_orders(ACCOUNT) == []
            account, = await w.gateway.accounts()
            assert account.balance == pytest.approx(1000 + pnl - 2 * (FEES + COMMISSION))
            told = [e.order for e in w.user if isinstance(e, OrderEvent) and e.order.id in (hit, gone)][-2:]
            assert [(o.id, o.status) for o in told] == [(hit, FILLED), (gone, CANCELLED)]  # never naked in the eyes of who listens
    asyncio.run(run())


def test_stopped_by_the_bar_that_filled_it():
    "The worse reading of one bar: a limit entry is filled, and its stop as well. No order is ever told as working after its end."
    async def run():
        async with world(path(*[(0, 0, 0, 0)] * 4, (0, 0, -45, -40), (-40, -40, -40, -40))) as w:
            await w.until(2)
            entry = await placed(w, limit(BUY, -10, stop_ticks=20, target_ticks=60))
            await w.until(6)
            assert statuses(w, entry) == [OPENED, FILLED] and statuses(w, entry + 1) == [SUSPENDED, OPENED, FILLED] and statuses(w, entry + 2) == [SUSPENDED, OPENED, CANCELLED]
            assert [f.price for f in await w.gateway.trades(ACCOUNT, EARLIER)] == [points(-10), points(-31)]
    asyncio.run(run())


def test_a_fill_in_parts():
    "By a fault: status stays Open with the contracts done so far and their average price; the legs cover what is filled, no more."
    async def run():
        async with world(bars_at((0, 0), (1, 0), (2, 0), (3, 10), (4, 0))) as w:
            w.faults.add([{"fault": "partial_fill", "share": 0.5, "count": 1}])
            await w.until(2)
            entry = await placed(w, market(BUY, 4, stop_ticks=40, target_ticks=40))
            await w.until(3)
            part = await w.gateway.order(ACCOUNT, entry)
            assert (part.status, part.filled, part.size, part.filled_price) == (OPENED, 2, 4, points(1)) and [o.size for o in await w.gateway.open_orders(ACCOUNT) if o.parent] == [2, 2]
            await w.until(4)
            done = await w.gateway.order(ACCOUNT, entry)
            assert (done.status, done.filled, done.filled_price) == (FILLED, 4, points(6)) and [o.size for o in await w.gateway.open_orders(ACCOUNT)] == [4, 4]
            assert [e.order.filled for e in w.user if isinstance(e, OrderEvent) and e.order.id == entry] == [0, 2, 4]
            assert [f.size for f in await w.gateway.trades(ACCOUNT, EARLIER)] == [2, 2] and (await w.gateway.positions(ACCOUNT))[0].net == 4
    asyncio.run(run())


def test_a_limit_order_is_moved_and_taken_back():
    "Open, changed, cancelled; a limit is filled only when the market trades through it; what has ended can neither be cancelled (5) nor changed (3)."
    async def run():
        async with world(path(*[(0, 0, 0, 0)] * 4, (0, 0, -10, 0), (0, 0, -11, 0), (0, 0, 0, 0))) as w:
            await w.until(2)
            first, second = await placed(w, limit(BUY, -50, tag="far")), await placed(w, limit(BUY, -10, stop_ticks=20, target_ticks=20))
            assert await w.gateway.modify(ACCOUNT, first, size=3, limit=points(-40)) == Accepted(None)
            moved = await w.gateway.order(ACCOUNT, first)
            assert (moved.size, moved.limit, moved.status, moved.filled) == (3, points(-40), OPENED, 0)
            off = await w.gateway.modify(ACCOUNT, first, limit=points(-40) + .1)
            assert (off.code, off.message) == (ModifyError.REJECTED, "Invalid limit price. Price is not aligned to tick size.")
            assert (await w.gateway.modify(ACCOUNT, second + 1, stop=points(-60))).code == ModifyError.PENDING  # a leg that sleeps
            assert await w.gateway.cancel(ACCOUNT, first) == Accepted(None)
            assert (await w.gateway.cancel(ACCOUNT, first)).code == CancelError.UNKNOWN_ERROR
            await w.until(5)                                                           # touched, not traded through
            assert (await w.gateway.order(ACCOUNT, second)).status == OPENED
            await w.until(6)
            done = await w.gateway.order(ACCOUNT, second)
            assert (done.status, done.filled_price) == (FILLED, points(-10))           # no slippage
            assert (await w.gateway.cancel(ACCOUNT, second)).code == CancelError.UNKNOWN_ERROR
            assert (await w.gateway.modify(ACCOUNT, second, limit=points(-5))).code == ModifyError.REJECTED
            await w.until(7)
            assert statuses(w, first) == [OPENED, OPENED, CANCELLED] and statuses(w, second) == [OPENED, FILLED]
            third = await placed(w, limit(BUY, -50, stop_ticks=20, target_ticks=20))
            await w.gateway.cancel(ACCOUNT, third)                                     # its legs go with it
            assert [(await w.gateway.order(ACCOUNT, third + k)).status for k in range(3)] == [CANCELLED] * 3
            assert (await w.gateway.cancel(ACCOUNT, 5)).code == CancelError.ORDER_NOT_FOUND == (await w.gateway.modify(ACCOUNT, 5, size=1)).code
            assert (await w.gateway.cancel(9, third)).code == CancelError.ACCOUNT_NOT_FOUND == (await w.gateway.modify(9, third, size=1)).code
    asyncio.run(run())


def test_orders_that_join_the_queue():
    "JoinBid and JoinAsk rest at the best bid and ask of the moment; without quotes these are the last price and the tick above."
    async def run():
        async with world(path(*[(0, 0, 0, 0)] * 3, (0, 2, -1, 0), (0, 0, 0, 0)), hubs=False) as w:
            await w.until(2)
            bid, ask = [await placed(w, NewOrder(ACCOUNT, CONTRACT, kind, side, 1)) for kind, side in ((OrderType.JOIN_BID, BUY), (OrderType.JOIN_ASK, SELL))]
            assert [(o.type, o.limit) for o in await w.gateway.open_orders(ACCOUNT)] == [(OrderType.JOIN_BID, points(0)), (OrderType.JOIN_ASK, points(1))]
            await w.until(4)
            assert [(await w.gateway.order(ACCOUNT, number)).filled_price for number in (bid, ask)] == [points(0), points(1)]
    asyncio.run(run())


def test_a_stop_order_and_changes_of_it():
    "Filled one tick beyond its level; it cannot be moved to the wrong side of the market, nor between ticks."
    async def run():
        async with world(path(*[(0, 0, 0, 0)] * 3, (0, 12, 0, 12), (12, 12, 12, 12))) as w:
            await w.until(2)
            number = await placed(w, stop(BUY, 20))
            for level, text in ((points(0), "Invalid price. Price is outside allowed range."), (points(10) + .1, "Invalid stop price. Price is not aligned to tick size.")):
                outcome = await w.gateway.modify(ACCOUNT, number, stop=level)
                assert (type(outcome), outcome.code, outcome.message) == (Refused, ModifyError.REJECTED, text)
            assert await w.gateway.modify(ACCOUNT, number, stop=points(10)) == Accepted(None)
            await w.until(5)
            done = await w.gateway.order(ACCOUNT, number)
            assert (done.status, done.stop, done.filled_price) == (FILLED, points(10), points(11)) and statuses(w, number) == [OPENED, OPENED, FILLED]
    asyncio.run(run())


@pytest.mark.parametrize("bracket", [False, True], ids=["an order", "a leg"])
def test_a_trailing_stop(bracket):
    "Its distance is fixed by the last price when it is placed (a leg: by its ticks); it follows the best price and never goes back; read back as distance in ticks and points."
    async def run():
        async with world(path(*[(0, 0, 0, 0)] * 3, (0, 30, 0, 30), (30, 31, 25, 26), (26, 26, 5, 5), (5, 5, 5, 5))) as w:
            await w.until(2)
            if bracket: number = await placed(w, market(BUY, stop_ticks=21, stop_type=OrderType.TRAILING_STOP)) + 1  # the fill is one tick up
            else:
                await placed(w, market(BUY))
                number = await placed(w, NewOrder(ACCOUNT, CONTRACT, OrderType.TRAILING_STOP, SELL, 1, trail=points(-20)))
            await w.until(3)
            resting = await w.gateway.order(ACCOUNT, number)
            distance = 21 if bracket else 20
            assert (resting.status, resting.type, abs(resting.trail_ticks), abs(resting.trail), resting.stop) == (OPENED, OrderType.TRAILING_STOP, distance, distance * TICK, points(-20))
            if not bracket:
                for level, text in ((points(-20) + .1, "Invalid trail price. Price is not aligned to tick size."), (points(0), "Trail Distance not set.")):
                    outcome = await w.gateway.modify(ACCOUNT, number, trail=level)
                    assert (type(outcome), outcome.code, outcome.message) == (Refused, ModifyError.REJECTED, text)
                for far in (-1001, -20):                                                # a change has no maximum
                    assert await w.gateway.modify(ACCOUNT, number, trail=points(far)) == Accepted(None)
                    assert (await w.gateway.order(ACCOUNT, number)).stop == points(far)
            await w.until(4)
            assert (await w.gateway.order(ACCOUNT, number)).stop == points(30 - distance)
            await w.until(5)
            assert (await w.gateway.order(ACCOUNT, number)).stop == points(31 - distance)
            await w.until(6)
            done = await w.gateway.order(ACCOUNT, number)
            assert (done.status, done.filled_price) == (FILLED, points(31 - distance - 1)) and await w.gateway.positions(ACCOUNT) == []
    asyncio.run(run())


def test_prices_out_of_range():
    "A band around the last print, by a fault; the day's limits around the close of the session before."
    text = "Invalid price. Price is outside allowed range."

    async def run():
        day = 24 * 3600
        async with world(rows([0, 1, day, day + 1], [(0, 0, 0, 0)] * 4), hubs=False) as w:
            await w.until(1)
            far = await placed(w, limit(BUY, -1500))                                    # no session before, no limits
            w.faults.add([{"fault": "price_band", "ticks": 10}])
            for order in (limit(BUY, -11), limit(SELL, 11), stop(BUY, 11), stop(SELL, -11)): assert (await w.gateway.place(order)).message == text
            assert (await w.gateway.modify(ACCOUNT, far, limit=points(-11))).message == text
            for order in (limit(BUY, -10), stop(BUY, 10)): await placed(w, order)
            w.faults.clear()
            await w.until(day + 1)
            for order in (limit(BUY, -1401), limit(SELL, 1401), stop(BUY, 1401), stop(SELL, -1401)): assert (await w.gateway.place(order)).message == text
            for order in (limit(BUY, -1400), limit(SELL, 1400)): await placed(w, order)  # 7 % of 20,000 ticks
    asyncio.run(run())
