"LIV-2: every fault that can be ordered from the simulated gateway: what it does to the venue, what a client sees of it, and that the same seed gives the same faults."
import asyncio
import json

import aiohttp
import pytest
from live_runner.clock import FakeClock
from live_runner.protocol import ENDPOINTS
from live_runner.simulator.faults import FAULTS, Faults, checked_rule, table
from raw_client import MES, NOW, door, run
from test_simulator_server import CLOSED, seconds, sim, status_of, told

PLACE, OPEN = "/api/Order/place", "/api/Order/searchOpen"
ORDER = {"accountId": 101, "contractId": MES, "type": 2, "side": 0, "size": 1}
CUT = "cut"


# -- the plan ---------------------------------------------------------------------------------------------------------
def strikes(seed, *plan, chances=200, name="lose"):
    faults = Faults(seed, plan)
    return [faults.hit(name, event="GatewayQuote", hub="market") is not None for _ in range(chances)]


def test_a_plan_is_the_same_again_for_the_same_seed():
    "And another one for another seed; a rule's draws do not depend on what else was asked in between."
    rule = {"fault": "lose", "probability": 0.3}
    assert strikes(5, rule) == strikes(5, rule) != strikes(6, rule)
    assert 40 <= sum(strikes(5, rule)) <= 80
    faults = Faults(5, [rule])
    mixed = []
    for _ in range(200):
        faults.hit("duplicate", event="GatewayQuote", hub="market")
        mixed.append(faults.hit("lose", event="GatewayQuote", hub="market") is not None)
    assert mixed == strikes(5, rule)
    assert strikes(5, {"fault": "delay"}, rule) != strikes(5, rule), "each place in the plan draws for itself"


def test_after_and_count():
    assert [k for k, struck in enumerate(strikes(0, {"fault": "lose", "after": 3, "count": 2}, chances=10)) if struck] == [3, 4]
    assert sum(strikes(0, {"fault": "lose", "probability": 0.5, "count": 7})) == 7
    assert sum(strikes(0, {"fault": "lose", "probability": 0})) == 0 and all(strikes(0, {"fault": "lose", "probability": 1}))


def test_filters_narrow_a_rule():
    faults = Faults(0, [{"fault": "lose", "event": "GatewayTrade"}, {"fault": "lose", "hub": "user"}])
    assert not faults.hit("lose", event="GatewayQuote", hub="market") and not faults.hit("delay", event="GatewayTrade", hub="market")
    assert faults.hit("lose", event="GatewayTrade", hub="market") and faults.hit("lose", event="GatewayUserOrder", hub="user")
    assert [(rule["chances"], rule["hits"]) for rule in faults.report()] == [(1, 1), (1, 1)]


def test_numbers_left_out_have_their_defaults():
    assert checked_rule({"fault": "error_after"}) == {"fault": "error_after", "path": None, "probability": 1.0, "after": 0, "count": None, "status": 500}
    assert checked_rule({"fault": "refuse"})["message"] is None and checked_rule({"fault": "too_many"})["retry_after_s"] is None


@pytest.mark.parametrize("rule", [
    {"fault": "rain"}, {}, [], "lose", {"fault": "lose", "ticks": 1}, {"fault": "partial_fill", "path": PLACE}, {"fault": "lose", "path": PLACE}, {"fault": "lose", "event": "GatewayRain"},
    {"fault": "reset", "hub": "trades"}, {"fault": "cut_after", "path": "/api/Order"}, {"fault": "delay", "delay_s": -1}, {"fault": "delay", "delay_s": float("nan")},
    {"fault": "delay", "delay_s": "1"}, {"fault": "delay", "delay_s": None}, {"fault": "partial_fill", "share": 1.5}, {"fault": "slip_stops", "ticks": 2.0}, {"fault": "error_before", "status": 404},
    {"fault": "lose", "probability": 1.1}, {"fault": "lose", "count": 0}, {"fault": "lose", "after": True}, {"fault": "refuse", "message": 5}], ids=str)
def test_a_wrong_rule_is_told_in_one_line(rule):
    "It names the value; and nothing of the plan is taken."
    faults = Faults(0)
    with pytest.raises(ValueError) as error: faults.add([{"fault": "lose"}, rule])
    assert "\n" not in str(error.value) and faults.report() == [] and not faults.active
    faults.add([{"fault": "delay"}])
    assert [one["fault"] for one in faults.report()] == ["delay"]
    if isinstance(rule, dict) and len(rule) == 2: assert repr(list(rule.values())[1]) in str(error.value) or repr(list(rule)[1]) in str(error.value)


def test_the_table_says_all():
    "JSON; each fault says what it does and what a chance is; all that reference and runner need are there."
    told_of = json.loads(json.dumps(table()))
    assert set(told_of) == set(FAULTS) and all(fault["does"] and fault["chance"] for fault in told_of.values())
    for name in FAULTS: assert checked_rule({"fault": name})["fault"] == name


def test_the_plan_can_be_changed_from_outside():
    async def story():
        async with door() as d:
            status, answer = await sim(d, "POST", "/faults", [{"fault": "cut_after", "path": PLACE, "count": 1}, {"fault": "no_pings"}])
            assert status == 200 and [rule["fault"] for rule in answer["plan"]] == ["cut_after", "no_pings"]
            status, answer = await sim(d, "GET", "/faults")
            assert status == 200 and answer["known"]["slip_stops"]["numbers"]["ticks"]["default"] == 2 and len(answer["plan"]) == 2
            assert await sim(d, "DELETE", "/faults") == (200, {"plan": []})
            assert (await d.post(PLACE, ORDER))[0] == 200
    run(story())


# -- REST -------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("rule, seen, done", [
    ({"fault": "unauthorized"}, (401, None), False),
    ({"fault": "too_many"}, (429, None), False),
    ({"fault": "error_before", "status": 503}, (503, None), False),
    ({"fault": "error_after"}, (500, None), True),
    ({"fault": "cut_before"}, CUT, False),
    ({"fault": "cut_after"}, CUT, True),
    ({"fault": "html_body", "status": 502}, (502, "<html><body><h1>Bad Gateway</h1></body></html>"), True),
    ({"fault": "refuse", "code": 6, "message": "no"}, (200, {"orderId": None, "success": False, "errorCode": 6, "errorMessage": "no"}), False)], ids=lambda x: x["fault"] if isinstance(x, dict) else "")
def test_what_a_fault_of_rest_does(rule, seen, done):
    "What the client sees, whether the venue has done it; other paths do not suffer, and after `count` hits it is over."
    async def story():
        async with door([{**rule, "path": PLACE, "count": 1}]) as d:
            assert (await d.post(OPEN, {"accountId": 101}))[0] == 200
            d.gateway.venue.done.clear()
            try: answer = await d.post(PLACE, ORDER)
            except aiohttp.ClientConnectionError: answer = CUT
            assert answer == seen
            assert d.gateway.venue.done == ([(PLACE, ORDER)] if done else [])
            assert (await d.post(PLACE, ORDER))[0] == 200 and len(d.gateway.venue.done) == 1 + done
    run(story())


def test_half_of_the_json():
    async def story():
        async with door([{"fault": "bad_json", "path": PLACE}]) as d:
            with pytest.raises(json.JSONDecodeError): await d.post(PLACE, ORDER)
            assert d.gateway.venue.done == [(PLACE, ORDER)]
    run(story())


@pytest.mark.parametrize("after_s, header", [(None, None), (2.5, "3")])
def test_retry_after(after_s, header):
    async def story():
        async with door([{"fault": "too_many", "path": OPEN, "retry_after_s": after_s}]) as d:
            async with d.http.post(d.urls.rest + OPEN, json={"accountId": 101}, headers={"Authorization": f"Bearer {d.token}"}) as answer:
                assert (answer.status, answer.headers.get("Retry-After")) == (429, header)
    run(story())


@pytest.mark.parametrize("fault, done", [("delay_before", False), ("delay_after", True)])
def test_delays(fault, done):
    "A client that gives up while it waits has not undone anything: what was only delayed is done all the same."
    async def story():
        wall = FakeClock()
        async with door([{"fault": fault, "path": PLACE, "delay_s": 20}], wall=wall) as d:
            with pytest.raises(asyncio.TimeoutError): await d.post(PLACE, ORDER, timeout=aiohttp.ClientTimeout(0.2))
            assert bool(d.gateway.venue.done) == done
            waits = asyncio.create_task(d.post(PLACE, ORDER))
            while len(wall._sleepers) < 3: await asyncio.sleep(0.001)  # the watch and two requests
            await wall.advance(19)
            assert not waits.done()
            await wall.advance(2)
            assert (await waits)[0] == 200 and len(d.gateway.venue.done) == 2
    run(story())


@pytest.mark.parametrize("path", [e.path for e in ENDPOINTS.values() if e.payload.endswith("s")])
def test_an_empty_list_by_error(path):
    "Success, and nothing in it, although the venue was not asked."
    async def story():
        e = ENDPOINTS[path]
        kinds = {"int": 1, "str": "x", "bool": True, "time": "2026-11-20T14:30:00Z", "object": {"accountId": 101}}
        async with door([{"fault": "empty"}]) as d:
            assert await d.post(path, {field: kinds[kind] for field, kind in e.required.items()}) == (200, {e.payload: [], "success": True, "errorCode": 0, "errorMessage": None})
            assert d.gateway.venue.done == []
            assert (await d.post("/api/Order/searchById", {"accountId": 101, "orderId": 1}))[1]["orderId"] == 7, "an object is not a list"
    run(story())


@pytest.mark.parametrize("path, payload", [(e.path, e.payload) for e in ENDPOINTS.values()])
@pytest.mark.parametrize("code", [1, 77])
def test_any_code_of_any_endpoint_can_be_had(path, payload, code):
    "Also one that is in no table; the payload is null."
    async def story():
        kinds = {"int": 1, "str": "x", "bool": True, "time": "2026-11-20T14:30:00Z", "object": {"accountId": 101}}
        async with door() as d:
            await sim(d, "POST", "/faults", {"fault": "refuse", "path": path, "code": code})
            status, answer = await d.post(path, {field: kinds[kind] for field, kind in ENDPOINTS[path].required.items()})
            assert (status, answer) == (200, {**({payload: None} if payload else {}), "success": False, "errorCode": code, "errorMessage": None})
    run(story())


# -- hubs -------------------------------------------------------------------------------------------------------------
async def listening(d):
    "A market connection that hears trades, a user connection that hears orders, a market connection that hears nothing."
    market, user, other = await d.hub(), await d.hub("user"), await d.hub()
    await market.invoke("SubscribeContractTrades", MES)
    await user.invoke("SubscribeOrders", 101)
    return market, user, other


def trade(d, *numbers):
    for n in numbers: d.gateway.emit("GatewayTrade", MES, [{"n": n}])


def order(d, *numbers):
    for n in numbers: d.gateway.emit("GatewayUserOrder", 101, {"n": n})


def numbers(records): return [(one["arguments"][1][0] if "Trade" in one["target"] else one["arguments"][0]["data"])["n"] for one in records]


def test_close_error():
    "The event that it comes with still arrives; only who listens to it is closed."
    async def story():
        async with door([{"fault": "close_error", "event": "GatewayTrade", "after": 1, "count": 1}]) as d:
            market, user, other = await listening(d)
            trade(d, 1, 2, 3)
            assert [await market.next() for _ in range(4)] == [told("GatewayTrade", MES, [{"n": 1}]), told("GatewayTrade", MES, [{"n": 2}]), CLOSED, "closed"]
            assert await user.fence() == await other.fence() == []
    run(story())


def test_reset():
    "No close record and no close frame: the TCP connection is gone; the next connection is good."
    async def story():
        async with door([{"fault": "reset", "hub": "user", "count": 1}]) as d:
            market, user, other = await listening(d)
            trade(d, 1)
            order(d, 1)
            assert await user.next() == "reset"
            assert numbers(await market.fence()) == [1]
            again = await d.hub("user")
            await again.invoke("SubscribeOrders", 101)
            order(d, 2)
            assert numbers(await again.fence()) == [2]
    run(story())


@pytest.mark.parametrize("where", ["rest", "hub"])
def test_a_cut_is_a_tcp_reset(where):
    "Not an orderly end: a plain socket reads ECONNRESET."
    async def story():
        async with door([{"fault": "cut_before", "path": OPEN}]) as d:
            reader, writer = await asyncio.open_connection("127.0.0.1", int(d.urls.rest.rpartition(":")[2]))
            if where == "rest": writer.write(f"POST {OPEN} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n".encode())
            else:
                writer.write(f"GET /hubs/user?access_token={d.token} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                             "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n".encode())
                assert b" 101 " in await reader.readuntil(b"\r\n\r\n")
                d.gateway.emit.break_up("reset", list(d.gateway.emit.connections))
            with pytest.raises(ConnectionResetError): await reader.read()
            writer.close()
    run(story())


def test_half_open():
    "Nothing is heard, answered or told any more: no event, no ping for 60 s, no pong, no close; but the socket stays, and the market does not wait for it."
    async def story():
        wall = FakeClock()
        async with door([{"fault": "half_open", "after": 1, "count": 1}], wall=wall) as d:
            market, user, other = await listening(d)
            trade(d, 1)
            assert numbers(await market.fence()) == [1]
            trade(d, 2)
            await market.send("SubscribeSteps", number="2")
            await market.ws.ping()
            await seconds(d, wall, 60)
            await d.gateway.emit.drain()
            with pytest.raises(asyncio.TimeoutError): await market.next(0.1)
            assert not d.gateway.emit.listening("SimulatorStep", None)
            assert [c.silent for c in d.gateway.emit.connections] == [True], "the others, silent for 60 s, were dropped by the server"
            market.ws._response.connection.transport.abort()
            await seconds(d, wall, 2)
            assert not d.gateway.emit.connections, "the client hung up"
    run(story())


def test_logout_is_told_on_both_hubs():
    async def story():
        async with door([{"fault": "logout", "event": "GatewayUserOrder", "count": 1}]) as d:
            market, user, other = await listening(d)
            order(d, 1)
            assert await market.fence() == await other.fence() == [told("GatewayLogout")]
            assert await user.fence() == [told("GatewayUserOrder", {"action": 1, "data": {"n": 1}}), told("GatewayLogout")]
    run(story())


def test_no_pings():
    "On one hub only; the connection is otherwise alive."
    async def story():
        wall = FakeClock()
        async with door([{"fault": "no_pings", "hub": "market"}], wall=wall) as d:
            market, user, other = await listening(d)
            await seconds(d, wall, 20)
            assert await user.next() == {"type": 6}
            assert await market.fence() == []
    run(story())


def test_refused_connections():
    "The first two attempts on one hub, by upgrade or negotiation; the other hub is open."
    async def story():
        async with door([{"fault": "refuse_connect", "hub": "user", "status": 502, "count": 2}]) as d:
            assert [await status_of(d, hub, access_token=d.token) for hub in ("user", "market", "user", "user")] == [502, 101, 502, 101]
            await sim(d, "POST", "/faults", {"fault": "refuse_connect", "count": 1})
            assert (await d.post("/hubs/market/negotiate"))[0] == 503 and (await d.post("/hubs/market/negotiate"))[0] == 200
    run(story())


@pytest.mark.parametrize("rule, heard, later", [
    ({"fault": "lose"}, [1, 3, 4], []), ({"fault": "duplicate"}, [1, 2, 2, 3, 4], []), ({"fault": "reorder"}, [1, 3, 2, 4], []), ({"fault": "delay", "delay_s": 2}, [1, 3, 4], [2])],
    ids=lambda x: x["fault"] if isinstance(x, dict) else "")
def test_events_lost_doubled_out_of_order_late(rule, heard, later):
    "The second event, on the hub named; the other hub hears all. Late means market time."
    async def story():
        async with door([{**rule, "hub": "user", "after": 1, "count": 1}]) as d:
            market, user, _ = await listening(d)
            order(d, 1, 2, 3, 4)
            trade(d, 1, 2, 3, 4)
            assert numbers(await user.fence()) == heard
            assert numbers(await market.fence()) == [1, 2, 3, 4]
            d.gateway.clock.run_until(NOW + 2 * 10**9 - 1)
            assert await user.fence() == []
            d.gateway.clock.run_until(NOW + 2 * 10**9)
            assert numbers(await user.fence()) == later
    run(story())


def test_an_event_out_of_order_is_not_lost_when_no_other_follows():
    async def story():
        async with door([{"fault": "reorder", "delay_s": 3}]) as d:
            market, user, _ = await listening(d)
            order(d, 1)
            d.gateway.clock.run_until(NOW + 3 * 10**9)
            assert numbers(await user.fence()) == [1]
    run(story())


def test_nobody_listens_is_no_chance():
    async def story():
        async with door([{"fault": "lose", "count": 1}]) as d:
            trade(d, 1, 2)
            market, *_ = await listening(d)
            trade(d, 3, 4)
            assert numbers(await market.fence()) == [4]
    run(story())


@pytest.mark.parametrize("how, market_sees, other_hub", [("close_error", [CLOSED, "closed"], 0), ("reset", ["reset"], 0), ("logout", [told("GatewayLogout")], 1)])
def test_hubs_broken_by_hand(how, market_sees, other_hub):
    "By /sim/hubs, one hub or all; a logout reaches both whatever is named."
    async def story():
        async with door() as d:
            market, user, other = await listening(d)
            assert await sim(d, "POST", "/hubs", {"do": how, "hub": "market"}) == (200, {"connections": {"market": 2}})
            for raw in (market, other): assert [await raw.next() for _ in market_sees] == market_sees
            assert len(await user.fence()) == other_hub
    run(story())


def test_the_same_plan_and_seed_give_the_same_bytes():
    "Twice the same story under a wild plan: the same records in the same order; under another seed others."
    async def story(seed):
        plan = [{"fault": name, "probability": 0.2, **({"delay_s": 0.5} if name in ("reorder", "delay") else {})} for name in ("lose", "duplicate", "reorder", "delay", "logout")]
        async with door(plan) as d:
            d.gateway.faults.seed = seed
            market, user, _ = await listening(d)
            for k in range(100):
                trade(d, k)
                order(d, k)
                d.gateway.clock.run_until(NOW + k * 10**8)
            return await market.fence(), await user.fence()
    seen = []
    async def keep(seed): seen.append(await story(seed))
    for seed in (3, 3, 4): run(keep(seed))
    assert seen[0] == seen[1] != seen[2] and min(map(len, seen[0])) > 50
