"LIV-2: positions, profit and costs on the simulated gateway: netting, closing, what the firm and its hours do, on a market that can be followed on paper."
import asyncio

import pytest
from gateway_world import (ACCOUNT, BUY, CANCELLED, COMMISSION, CONTRACT, EARLIER, EXPIRED, FEES, FILLED, MS, NS, OPEN, OPENED, SELL, SUSPENDED, TICK_USD, bars_at, limit, market,
                           path, placed, points, statuses, world)

from live_runner.gateway.events import AccountEvent, PositionEvent
from live_runner.gateway.outcomes import Accepted, Failed, NewOrder
from live_runner.protocol import CancelError, CloseError, CloseSomeError, OrderType, PlaceError, PositionType
from live_runner.simulator.settings import AccountSettings


def test_positions_are_netted():
    "Adding averages the price; an opposite order closes first, with the profit on the average, and opens the rest the other way, as two fills of one order."
    async def run():
        async with world(bars_at((0, 0), (1, 0), (2, 0), (3, 9), (4, 20), (5, 0), (6, 0))) as w:
            await w.until(2)
            first = await placed(w, market(BUY, 2))
            await w.until(3)
            await placed(w, market(BUY, 1))
            await w.until(4)
            position, = await w.gateway.positions(ACCOUNT)
            assert (position.net, position.price) == (3, points((2 * 1 + 10) / 3))   # 4 ticks above PRICE
            await placed(w, market(SELL, 1))
            await w.until(5)
            position, = await w.gateway.positions(ACCOUNT)
            assert (position.net, position.price) == (2, points(4))
            turn = await placed(w, market(SELL, 4))
            await w.until(6)
            position, = await w.gateway.positions(ACCOUNT)
            assert (position.net, position.price, position.type) == (-2, points(-1), PositionType.SHORT)
            fills = await w.gateway.trades(ACCOUNT, EARLIER)
            told = [(f.side, f.size, f.price, f.pnl, f.fees, f.commissions) for f in fills]
            assert told == [(BUY, 2, points(1), None, 2 * FEES, 2 * COMMISSION), (BUY, 1, points(10), None, FEES, COMMISSION), (SELL, 1, points(19), 15 * TICK_USD, FEES, COMMISSION),
                            (SELL, 2, points(-1), -5 * 2 * TICK_USD, 2 * FEES, 2 * COMMISSION), (SELL, 2, points(-1), None, 2 * FEES, 2 * COMMISSION)]
            assert fills[0].order == first and {f.order for f in fills[3:]} == {turn}
            wire = (await w.raw("/api/Trade/search", {"accountId": ACCOUNT}))[1]["trades"]
            assert [row["id"] for row in wire] == [f.id for f in reversed(fills)]       # on the wire newest first
            positions = [(e.action, e.position.net, e.position.price) for e in w.user if isinstance(e, PositionEvent)]
            assert positions == [(1, 2, points(1)), (1, 3, points(4)), (1, 2, points(4)), (2, 0, points(4)), (1, -2, points(-1))]
            assert (await w.gateway.accounts())[0].balance == pytest.approx(1000 + 5 * TICK_USD - 8 * (FEES + COMMISSION))
    asyncio.run(run())


def test_closing_by_contract():
    "closeContract and its part: orders at market without a tag; legs go with the position; sizes that make no sense are refused."
    async def run():
        async with world(bars_at(*((k, 0) for k in range(12)))) as w:
            g = w.gateway
            await w.until(2)
            assert (await g.close_position(ACCOUNT, CONTRACT)).code is CloseError.POSITION_NOT_FOUND and (await g.close_part(ACCOUNT, CONTRACT, 1)).code is CloseSomeError.POSITION_NOT_FOUND
            for contract, code in (("CON.F.US.XXX.H24", "CONTRACT_NOT_FOUND"), ("CON.F.US.MES.Z23", "CONTRACT_NOT_ACTIVE")):
                assert (await g.close_position(ACCOUNT, contract)).code is CloseError[code] and (await g.close_part(ACCOUNT, contract, 1)).code is CloseSomeError[code]
            assert (await g.close_position(9, CONTRACT)).code is CloseError.ACCOUNT_NOT_FOUND and (await g.close_part(9, CONTRACT, 1)).code is CloseSomeError.ACCOUNT_NOT_FOUND
            entry = await placed(w, market(BUY, 3, tag="b", stop_ticks=40, target_ticks=40))
            await w.until(4)
            assert (await g.close_part(ACCOUNT, CONTRACT, 4)).code is CloseSomeError.INVALID_CLOSE_SIZE
            for size in (0, -1): assert (await w.raw("/api/Position/partialCloseContract", {"accountId": ACCOUNT, "contractId": CONTRACT, "size": size}))[1]["errorCode"] == CloseSomeError.INVALID_CLOSE_SIZE
            assert await g.close_part(ACCOUNT, CONTRACT, 1) == Accepted(None)
            assert (await g.close_position(ACCOUNT, CONTRACT)).code is CloseError.ORDER_PENDING
            await w.until(5)
            assert (await g.positions(ACCOUNT))[0].net == 2
            assert [(o.id, o.size) for o in await g.open_orders(ACCOUNT)] == [(entry + 1, 3), (entry + 2, 3)]  # legs are not rescaled
            assert await g.close_position(ACCOUNT, CONTRACT) == Accepted(None)
            await w.until(6)
            assert await g.positions(ACCOUNT) == await g.open_orders(ACCOUNT) == []
            history = await g.orders(ACCOUNT, EARLIER)
            assert [(o.id, o.type, o.size, o.tag, o.status) for o in history] == [
                (entry, 2, 3, "b", FILLED), (entry + 1, 4, 3, "b-SL", CANCELLED), (entry + 2, 1, 3, "b-TP", CANCELLED), (history[3].id, 2, 1, None, FILLED), (history[4].id, 2, 2, None, FILLED)]
            assert [o.id for o in history] == sorted(o.id for o in history)             # oldest first
            assert [o.id for o in await g.query_orders(ACCOUNT, page_size=2)] == [o.id for o in history]  # by pages
            assert [o.id for o in await g.query_orders(ACCOUNT, statuses=[3], contract=CONTRACT)] == [entry + 1, entry + 2] and await g.query_orders(ACCOUNT, contract="CON.F.US.ENQ.H24") == []
            assert [o.id for o in await g.orders(ACCOUNT, OPEN + 4 * NS)] == [o.id for o in history[3:]] and [o.id for o in await g.orders(ACCOUNT, EARLIER, OPEN + 3 * NS)] == [entry, entry + 1, entry + 2]
            assert [f.ts for f in await g.trades(ACCOUNT, OPEN + 4 * NS + 300 * MS)] == [OPEN + 5 * NS + 200 * MS]
            assert (await g.find_tag(ACCOUNT, "b", EARLIER)).id == entry and (await g.find_tag(ACCOUNT, "b-SL", EARLIER)).id == entry + 1 and await g.find_tag(ACCOUNT, "B", EARLIER) is None
            with pytest.raises(Failed): await g.find_tag(9, "b", EARLIER)               # an error is never "absent"
    asyncio.run(run())


def test_legs_can_be_left_behind():
    "Another reading of closeContract: the legs stay, and would open a position of their own. Somebody else's order and the firm's hand reach the account as well."
    async def run():
        async with world(path(*[(0, 0, 0, 0)] * 6, (0, 0, -50, -50), *[(-50, -50, -50, -50)] * 4)) as w:
            w.faults.add([{"fault": "keep_legs"}])
            await w.until(2)
            entry = await placed(w, market(BUY, stop_ticks=40, target_ticks=40))
            await w.until(4)
            await w.gateway.close_position(ACCOUNT, CONTRACT)
            await w.until(6)
            assert await w.gateway.positions(ACCOUNT) == [] and [o.id for o in await w.gateway.open_orders(ACCOUNT)] == [entry + 1, entry + 2]
            await w.until(7)
            assert (await w.gateway.positions(ACCOUNT))[0].net == -1                    # the stop sold what was no longer held
            w.faults.clear()
            w.venue.trade(ACCOUNT, SELL, 2)
            await w.until(8)
            assert (await w.gateway.positions(ACCOUNT))[0].net == -3
            waiting = await placed(w, limit(BUY, -100))
            w.venue.flatten(ACCOUNT)
            w.venue.lock(ACCOUNT, False)
            await w.until(9)
            assert await w.gateway.positions(ACCOUNT) == await w.gateway.open_orders(ACCOUNT) == [] and statuses(w, waiting)[-1] == CANCELLED
            assert not [e for e in w.user if isinstance(e, AccountEvent)][-1].account.can_trade and await w.gateway.accounts() == [] != await w.gateway.accounts(only_active=False)
            assert (await w.gateway.place(market())).code is PlaceError.ACCOUNT_REJECTED
            w.venue.lock(ACCOUNT, True)
            await placed(w, market())
    asyncio.run(run())


@pytest.mark.parametrize("close_only, left", [(True, 0), (False, -2)])
def test_a_target_that_fills_before_the_closing_order(close_only, left):
    "The open leaps over the target while a close at market is on its way: the close has nothing left to close, or turns the position where the venue is read so."
    async def run():
        async with world(bars_at(*((k, 0) for k in range(3)), *((k, 9) for k in range(3, 7))), hubs=False, close_only=close_only) as w:
            await w.until(1)
            await placed(w, market(BUY, 2, stop_ticks=40, target_ticks=6))
            await w.until(3)
            assert await w.gateway.close_position(ACCOUNT, CONTRACT) == Accepted(None)
            await w.until(5)
            positions, orders = await w.gateway.positions(ACCOUNT), await w.gateway.orders(ACCOUNT, EARLIER)
            assert sum(p.net for p in positions) == left
            assert [(o.tag, o.type, o.size, o.status) for o in orders if o.type == 2][1:] == [(None, 2, 2, CANCELLED if close_only else FILLED)]
    asyncio.run(run())


def test_accounts_that_may_not_cancel():
    "Followers cannot cancel, funded accounts neither that nor close in part, with the reference's words."
    async def run():
        accounts = (AccountSettings(), AccountSettings(id=5, name="follower", follower=True), AccountSettings(id=6, name="funded", simulated=False))
        async with world(bars_at(*((k, 0) for k in range(9))), accounts=accounts, hubs=False) as w:
            await w.until(2)
            for account, text in ((5, "Follower accounts cannot cancel orders"), (6, "Live accounts not supported")):
                number = await placed(w, limit(BUY, -50)._replace(account=account))
                refused = await w.gateway.cancel(account, number)
                assert (refused.code, refused.message) == (CancelError.ACCOUNT_REJECTED, text)
            await placed(w, market()._replace(account=6))
            await w.until(4)
            assert (await w.gateway.close_part(6, CONTRACT, 1)).code is CloseSomeError.ACCOUNT_REJECTED
            assert await w.gateway.close_position(6, CONTRACT) == Accepted(None)
    asyncio.run(run())


def test_hours():
    "Before the open, after 16:10 New York and in a halt: code 2, in the venue's words. The firm closes positions at 16:08; with the exchange's hours orders rest until 17:00 and then expire."
    text = "Trading is currently unavailable. The instrument is not in an active trading status."
    day = 6 * 3600 + 40 * 60  # s from 09:30 to 16:10
    bars = bars_at((0, 0), (1, 0), (day - 122, 0), (day - 121, 0), (day - 119, 0), (day - 60, 0), (day + 5, 0))

    async def run():
        async with world(bars) as w:
            assert (await w.gateway.place(market())).message == text                    # before the session
            await w.until(-30)
            trail = await w.gateway.place(NewOrder(ACCOUNT, CONTRACT, OrderType.TRAILING_STOP, SELL, 1, trail=points(-20)))
            assert trail.message == "Cannot trail without a last price"                 # open, nothing traded yet
            await w.until(1)
            w.faults.add([{"fault": "halt", "count": 1}])
            assert (await w.gateway.place(market())).message == text
            waiting = await placed(w, limit(BUY, -50))
            await placed(w, market())
            await w.until(day - 118)
            assert await w.gateway.positions(ACCOUNT) == [] and statuses(w, waiting)[-1] == CANCELLED
            await w.until(day - 1)
            await placed(w, limit(BUY, -50))                                            # still taken
            await w.until(day)
            refused = await w.gateway.place(market())
            assert (refused.code, refused.message) == (PlaceError.ORDER_REJECTED, text)
        async with world(bars, hours="exchange") as w:
            await w.until(day)
            waiting = await placed(w, limit(BUY, -50, stop_ticks=20))
            await w.until(day + 3600)
            assert statuses(w, waiting) == [OPENED, EXPIRED] and statuses(w, waiting + 1) == [SUSPENDED, EXPIRED]
    asyncio.run(run())
