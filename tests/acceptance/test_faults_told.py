"LIV-1, LIV-2: each switch of the simulated gateway's faults, and what our client makes of it: a typed outcome, an event, or a difference that a query shows."
import asyncio

import pytest
from gateway_world import ACCOUNT, BUY, CANCELLED, CONTRACT, FILLED, OPEN, OPENED, REJECTED, SUSPENDED, flat, market, path, placed, points, statuses, stop, world

from live_runner.gateway.events import Connected, FillEvent, Logout, Lost, OrderEvent, Subscribed
from live_runner.gateway.hub import Hub
from live_runner.gateway.outcomes import Accepted, Refused, TurnedAway, Unknown
from live_runner.gateway.rest import Gateway
from live_runner.gateway.sessions import HubSessions
from live_runner.protocol import PlaceError
from live_runner.simulator.faults import FAULTS

PLACE = {"path": "/api/Order/place", "count": 1}


def run(story): asyncio.run(asyncio.wait_for(story, 60))


# -- orders: what is known, and what a query by tag then shows -----------------------------------------------------------
ORDERS = {  # fault -> its numbers, the outcome, whether the order is there
    "unauthorized": ({}, TurnedAway, False), "too_many": ({"retry_after_s": 3}, TurnedAway, False), "error_before": ({"status": 503}, Unknown, False), "error_after": ({}, Unknown, True),
    "cut_before": ({}, Unknown, False), "cut_after": ({}, Unknown, True), "delay_before": ({"delay_s": .6}, Unknown, True), "delay_after": ({"delay_s": .6}, Unknown, True),
    "html_body": ({}, Unknown, True), "bad_json": ({}, Unknown, True), "refuse": ({"code": 5, "message": "closed"}, Refused, False),
}


@pytest.mark.parametrize("fault", ORDERS)
def test_an_order_is_sent_once_and_its_outcome_is_told(fault):
    numbers, kind, there = ORDERS[fault]

    async def story():
        async with world(hubs=False) as w, Gateway(w.gateway.settings, timeout_s=.3) as hasty:
            await w.until(0)
            await hasty.accounts()                     # logged in
            w.faults.add([PLACE | {"fault": fault, **numbers}])
            outcome = await hasty.place(market(tag="once"))
            assert type(outcome) is kind, outcome
            if fault == "unauthorized": assert outcome.status == 401
            if fault == "too_many": assert (outcome.status, outcome.retry_after_s) == (429, 3)
            if fault == "refuse": assert (outcome.code, outcome.message) == (PlaceError.OUTSIDE_TRADING_HOURS, "closed")
            if kind is Unknown: assert outcome.tag == "once" and outcome.why
            while fault == "delay_before" and not w.venue.accounts[ACCOUNT].orders: await asyncio.sleep(.02)   # it was on its way all the time
            found = await w.gateway.find_tag(ACCOUNT, "once", w.clock.now)
            assert (found is not None) == there == bool(w.venue.accounts[ACCOUNT].orders) and len(w.venue.accounts[ACCOUNT].orders) <= 1
            assert w.faults.report()[0]["chances"] == 1        # one request was sent, and no other
            assert isinstance(await hasty.place(market(tag="next")), Accepted)
    run(story())


@pytest.mark.parametrize("fault", [name for name in ORDERS if name not in ("refuse", "delay_before")])
def test_a_question_is_asked_again_until_it_is_answered(fault):
    numbers = ORDERS[fault][0] | ({"retry_after_s": .05} if fault == "too_many" else {})

    async def story():
        async with world(hubs=False) as w, Gateway(w.gateway.settings, timeout_s=.3) as hasty:
            await hasty.accounts()
            w.faults.add([{"fault": fault, "path": "/api/Account/search", "count": 1, **numbers}])
            assert [account.id for account in await hasty.accounts()] == [ACCOUNT]
            assert w.faults.report()[0]["hits"] == 1
    run(story())


def test_an_empty_answer_by_error_is_only_seen_beside_another_question():
    "Nothing in the answer says so: who believes one empty list is flat is wrong. Fills and working legs say otherwise."
    async def story():
        async with world(hubs=False) as w:
            await w.until(0)
            await placed(w, market(stop_ticks=8))
            await w.until(1)
            w.faults.add([{"fault": "empty", "path": "/api/Position/searchOpen", "count": 1}])
            assert await w.gateway.positions(ACCOUNT) == [] and len(await w.gateway.open_orders(ACCOUNT)) == 1 and len(await w.gateway.trades(ACCOUNT, OPEN)) == 1
            assert (await w.gateway.positions(ACCOUNT))[0].net == 1
    run(story())


# -- hubs: every break ends in a new connection with the same subscriptions ------------------------------------------------
class Listener:
    "A user hub in a hurry, and everything it says."

    def __init__(self, w):
        self.told = []
        self.hub = Hub("user", w.urls.user_hub, w.gateway.token, self.told.append, sessions=HubSessions(), ping_s=.5, silence_s=2.5, backoff_s=(0, .05))
        self.hub.subscribe("Orders", ACCOUNT)

    async def generation(self, number: int):
        while not [event for event in self.told if isinstance(event, Subscribed) and event.generation == number]: await asyncio.sleep(.02)

    def why(self, generation: int) -> str: return next(event.why for event in self.told if isinstance(event, Lost) and event.generation == generation)
    def orders(self, generation: int) -> list: return [event.order.tag for event in self.told if isinstance(event, OrderEvent) and event.generation == generation]


BREAKS = {"close_error": "Connection closed with an error.", "reset": "reset", "half_open": "nothing heard", "logout": "GatewayLogout", "no_pings": "nothing heard"}


@pytest.mark.parametrize("fault", BREAKS)
def test_a_hub_that_breaks_is_noticed_and_rebuilt(fault):
    async def story():
        async with world(hubs=False, server={"ping_s": .5}) as w:
            await w.until(0)
            ear = Listener(w)
            await ear.hub.start()
            await ear.generation(1)
            w.faults.add([{"fault": fault} | ({"hub": "user"} if fault == "no_pings" else {"event": "GatewayUserOrder", "count": 1})])
            if fault != "no_pings": await placed(w, market(tag="before"))
            while not any(isinstance(event, Lost) for event in ear.told): await asyncio.sleep(.02)
            w.faults.clear()
            await ear.generation(2)
            assert BREAKS[fault] in ear.why(1) and (fault != "logout" or any(isinstance(event, Logout) for event in ear.told))
            await placed(w, market(tag="after"))
            while not ear.orders(2): await asyncio.sleep(.02)
            assert ear.orders(2) == ["after"]           # nothing is told twice, and what was missed is missed
            await ear.hub.stop()
    run(story())


def test_connections_that_are_refused_are_tried_again():
    async def story():
        async with world(hubs=False) as w:
            w.faults.add([{"fault": "refuse_connect", "hub": "user", "count": 3}])
            ear = Listener(w)
            await ear.hub.start()
            await ear.generation(1)
            assert ear.hub.counters.rebuilds == 3 and "HTTP 503" in ear.hub.counters.last_why and [event.generation for event in ear.told if isinstance(event, Connected)] == [1]
            await ear.hub.stop()
    run(story())


EVENTS = {"lose": [], "duplicate": [OPENED, OPENED], "delay": [OPENED], "reorder": [OPENED]}


@pytest.mark.parametrize("fault", EVENTS)
def test_events_that_are_lost_doubled_or_late(fault):
    "The stream is not the truth; the answer to a question is."
    async def story():
        async with world(flat(8)) as w:
            await w.until(0)
            w.faults.add([{"fault": fault, "event": "GatewayUserOrder", "count": 1} | ({"delay_s": 2} if fault in ("delay", "reorder") else {})])
            first = await placed(w, stop(BUY, 40))
            await w.heard()
            assert statuses(w, first) == (EVENTS[fault] if fault in ("lose", "duplicate") else []) and (await w.gateway.order(ACCOUNT, first)).status == OPENED
            second = await placed(w, stop(BUY, 41))
            await w.heard()
            if fault == "reorder": assert [event.order.id for event in w.user if isinstance(event, OrderEvent)] == [second, first]
            await w.until(5)
            assert statuses(w, first) == EVENTS[fault] and statuses(w, second) == [OPENED]
    run(story())


# -- the venue --------------------------------------------------------------------------------------------------------------
async def partial_fill(w):
    entry = await placed(w, market(size=4))
    await w.until(3)
    assert [(event.order.status, event.order.filled) for event in w.user if isinstance(event, OrderEvent) and event.order.id == entry][1:] == [(OPENED, 2), (FILLED, 4)]
    assert [event.fill.size for event in w.user if isinstance(event, FillEvent)] == [2, 2]


async def keep_legs(w):
    await placed(w, market(stop_ticks=12, target_ticks=8))
    await w.until(2)
    assert isinstance(await w.gateway.close_position(ACCOUNT, CONTRACT), Accepted)
    await w.until(3)
    assert await w.gateway.positions(ACCOUNT) == [] and len(await w.gateway.open_orders(ACCOUNT)) == 2


async def slip_stops(w):
    await placed(w, market(stop_ticks=8))
    await w.until(5)
    assert (await w.gateway.trades(ACCOUNT, OPEN))[-1].price == points(1 - 8 - 1 - 2)   # in a tick above, the stop eight below that, a tick as in a back-test, two by the plan


async def drop_stop(w):
    entry = await placed(w, market(stop_ticks=8))
    await w.until(5)
    assert statuses(w, entry + 1) == [SUSPENDED, OPENED] and await w.gateway.open_orders(ACCOUNT) == [] and (await w.gateway.order(ACCOUNT, entry + 1)).status == CANCELLED
    assert (await w.gateway.positions(ACCOUNT))[0].net == 1                            # naked, and only a question shows it


async def reject_stop(w):
    entry = await placed(w, market(stop_ticks=8))
    await w.until(2)
    assert statuses(w, entry + 1) == [SUSPENDED, REJECTED] and (await w.gateway.positions(ACCOUNT))[0].net == 1


async def halt(w):
    refused = await w.gateway.place(market())
    assert isinstance(refused, Refused) and refused.code == PlaceError.ORDER_REJECTED and refused.message == "Trading is currently unavailable. The instrument is not in an active trading status."


async def price_band(w):
    refused = await w.gateway.place(stop(BUY, 40))
    assert isinstance(refused, Refused) and refused.message == "Invalid price. Price is outside allowed range." and refused.order_id
    await placed(w, stop(BUY, 4))


VENUE = {story.__name__: (story, numbers) for story, numbers in ((partial_fill, {"share": .5, "count": 1}), (keep_legs, {}), (slip_stops, {"ticks": 2}), (drop_stop, {}), (reject_stop, {}), (halt, {"count": 1}), (price_band, {"ticks": 10}))}


@pytest.mark.parametrize("fault", VENUE)
def test_what_the_venue_does_wrong_is_seen(fault):
    async def story():
        async with world(path(*[(0, 0, 0, 0)] * 3, (0, 0, -8, -8), *[(-8,) * 4] * 3)) as w:
            await w.until(.9)
            w.faults.add([{"fault": fault, **VENUE[fault][1]}])
            await VENUE[fault][0](w)
    run(story())


def test_no_fault_is_forgotten():
    assert {*ORDERS, "empty", *BREAKS, "refuse_connect", *EVENTS, *VENUE} == set(FAULTS)
