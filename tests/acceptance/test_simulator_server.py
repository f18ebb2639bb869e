"LIV-2: the simulated gateway as bytes on the wire: who gets in, what REST refuses, and both hubs as SignalR clients of any kind know them."
import asyncio
import base64
import json

import aiohttp
import pytest
from aiohttp.test_utils import make_mocked_request
from live_runner.clock import FakeClock
from live_runner.problems import FixTheConfig
from live_runner.protocol import BARS, ENDPOINTS, PING, RECORD_END, LoginError
from live_runner.simulator.clock import Clock
from live_runner.simulator.faults import Faults
from live_runner.simulator.limits import RequestLimits
from live_runner.simulator.server import ServerSettings, SimulatedGateway
from raw_client import HELLO, MES, NOW, StubReplay, StubVenue, door, run

OPEN = "/api/Order/searchOpen"
UNKNOWN = "Failed to invoke '{}' due to an error on the server. HubException: Method does not exist."
FAILED = "Failed to invoke '{}' due to an error on the server."
CLOSED = {"type": 7, "error": "Connection closed with an error."}


# -- who gets in ------------------------------------------------------------------------------------------------------
def test_login_gives_a_token_that_says_when_it_ends():
    "Three base64url parts with exp; the user's name in any case; a wrong name or key has its own code and no token."
    async def story():
        wall = FakeClock()
        async with door(wall=wall, username="Trader") as d:
            answer = await d.login(userName="tRADER")
            assert (answer["success"], answer["errorCode"], answer["errorMessage"]) == (True, 0, None)
            parts = answer["token"].split(".")
            claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=="))
            assert len(parts) == 3 and claims["exp"] == wall.now() // 10**9 + 24 * 3600
            assert await d.login(userName="nobody") == {"token": None, "success": False, "errorCode": LoginError.USER_NOT_FOUND, "errorMessage": None}
            assert (await d.login(apiKey="wrong"))["errorCode"] == LoginError.INVALID_CREDENTIALS
    run(story())


@pytest.mark.parametrize("error", list(LoginError)[1:])
def test_every_login_error_can_be_had(error):
    async def story():
        async with door(login=False, login_error=error) as d:
            answer = await d.login()
            assert (answer["errorCode"], answer["success"], answer["token"]) == (error, False, None)
            assert bool(answer["errorMessage"]) == (error == LoginError.AGREEMENTS_NOT_SIGNED)
    run(story())


@pytest.mark.parametrize("field, error", [("appId", 4), ("verifyKey", 5), ("deviceId", 6), ("password", 2), ("userName", 1), (None, 0)])
def test_login_of_an_app(field, error):
    async def story():
        async with door(login=False) as d:
            right = {"userName": "simulated", "password": "password", "deviceId": "device", "appId": "app", "verifyKey": "verify"}
            _, answer = await d.post("/api/Auth/loginApp", right | ({field: "wrong"} if field else {}))
            assert (answer["errorCode"], bool(answer["token"])) == (error, not error)
    run(story())


def test_a_token_lives_a_day_and_its_successor_does_not_end_it():
    "validate takes no body or {}; 401 with an empty body after 24 h, without a token, with a forged one and after logout."
    async def story():
        wall = FakeClock()
        async with door(wall=wall) as d:
            first = d.token
            await wall.advance(3600)
            for body in (None, {}):
                status, answer = await d.post("/api/Auth/validate", body)
                assert status == 200 and answer["newToken"] not in (None, first)
            newer = answer["newToken"]
            assert (await d.post(OPEN, {"accountId": 101}))[0] == 200
            await wall.advance(23 * 3600)
            assert await d.post(OPEN, {"accountId": 101}) == (401, None)
            d.token = newer
            assert (await d.post(OPEN, {"accountId": 101}))[0] == 200
            d.token = newer[:-2] + ("AA" if newer[-2:] != "AA" else "BB")
            assert await d.post(OPEN, {"accountId": 101}) == (401, None)
            d.token = ""
            assert await d.post(OPEN, {"accountId": 101}) == (401, None)
            d.token = newer
            assert (await d.post("/api/Auth/logout"))[1] == {"success": True, "errorCode": 0, "errorMessage": None}
            assert await d.post(OPEN, {"accountId": 101}) == (401, None)
    run(story())


@pytest.mark.parametrize("reading, seen", [("unauthorized", (401, None)), ("code", (200, 3))])
def test_both_readings_of_validate_after_expiry(reading, seen):
    async def story():
        wall = FakeClock()
        async with door(wall=wall, token_life_s=60, expired_validate=reading) as d:
            await wall.advance(60)
            status, answer = await d.post("/api/Auth/validate")
            assert (status, answer and answer["errorCode"]) == seen
    run(story())


def test_binds_elsewhere_only_with_a_secret():
    "FixTheConfig before any socket is opened; a short secret is no secret; with one, control still answers loopback only."
    async def story():
        gateway = SimulatedGateway(Clock(NOW), Faults(), ServerSettings(host="0.0.0.0"))
        with pytest.raises(FixTheConfig, match="MESBOT_GATEWAY_SECRET"): await gateway.start(StubVenue(), StubReplay(gateway, "lockstep"))
        with pytest.raises(ValueError, match="at least 16") as error: ServerSettings(host="0.0.0.0", secret="tooshort")
        assert "tooshort" not in str(error.value)
        async with door(host="0.0.0.0", secret="sixteen characters") as d:
            handler = next(r.handler for r in d.gateway._runner.app.router.routes() if r.resource.canonical == "/sim")
            for address, status in (("10.0.0.7", 403), ("192.168.1.4", 403), ("127.0.0.1", 200), ("::1", 200)):
                request = make_mocked_request("GET", "/sim").clone(remote=address)
                request.read = lambda: asyncio.sleep(0, b"")
                assert (await handler(request)).status == status, address
    run(story())


def test_no_secret_shows():
    assert "key-of-mine" not in repr(ServerSettings(api_key="key-of-mine")) + str(ServerSettings(api_key="key-of-mine").model_dump())


# -- REST -------------------------------------------------------------------------------------------------------------
def test_ping_needs_no_token():
    async def story():
        async with door(login=False) as d:
            for accept, kind, text in (("*/*", "application/json", '"pong"'), ("text/plain", "text/plain", "pong"), ("text/json, text/plain", "text/json", '"pong"')):
                async with d.http.get(d.urls.rest + PING, headers={"Accept": accept}) as answer:
                    assert (answer.status, answer.content_type, await answer.text()) == (200, kind, text)
    run(story())


def wrong(kind): return {"int": "1", "number": "1", "str": 1, "bool": 0, "time": "yesterday", "object": []}[kind]


def right(field, kind):
    if field == "filter": return {"accountId": 101}
    return {"int": 1, "number": 1.5, "str": "x", "bool": True, "time": "2026-11-20T14:30:00.1234567Z", "object": {"ticks": -4, "type": 4}}[kind]


@pytest.mark.parametrize("path", ENDPOINTS)
def test_each_body_is_checked(path):
    "Every required field missing, null or of a wrong kind: 400 ProblemDetails that names it, and nothing reaches the venue; unknown fields and null optional ones do no harm."
    async def story():
        e = ENDPOINTS[path]
        async with door() as d:
            d.gateway.tokens.login = lambda path, body: d.gateway.venue.answer(path, body)
            d.gateway.tokens.validate = lambda state: d.gateway.venue.answer(path, {})
            d.gateway.tokens.logout = lambda token: d.gateway.venue.answer(path, {})
            good = {field: right(field, kind) for field, kind in (e.required | e.optional).items()}
            bad = [({f: v for f, v in good.items() if f != field}, field) for field in e.required] + [(good | {field: None}, field) for field in e.required]
            bad += [(good | {field: wrong(kind)}, field) for field, kind in (e.required | e.optional).items()]
            bad += [(good | {field: True}, field) for field, kind in (e.required | e.optional).items() if kind in ("int", "number")]
            bad += [(good | {field: 1.5}, field) for field, kind in e.required.items() if kind == "int"]
            for body, field in bad:
                async with d.http.post(d.urls.rest + path, json=body, headers={"Authorization": f"Bearer {d.token}"}) as answer:
                    assert (answer.status, answer.content_type) == (400, "application/problem+json"), body
                    told = await answer.json(content_type=None)
                assert told["status"] == 400 and told["title"] and told["type"] and any(field in name for name in told["errors"]), told
            assert d.gateway.venue.done == []
            assert (await d.post(path, good | {"novel": 1}))[0] == 200
            assert (await d.post(path, {**good, **{field: None for field in e.optional}}))[0] == 200
            assert len(d.gateway.venue.done) == 2
    run(story())


def test_what_lies_inside_a_filter_or_a_bracket_is_checked_too():
    async def story():
        async with door() as d:
            for inside in ({}, {"accountId": "1"}, {"accountId": 1, "statuses": 2}, {"accountId": 1, "statuses": ["1"]}, {"accountId": 1, "createdAfter": "now"}):
                assert (await d.post("/api/Order/v2/query", {"filter": inside}))[0] == 400, inside
            order = {"accountId": 101, "contractId": MES, "type": 2, "side": 0, "size": 1}
            for bracket in ({"ticks": -4}, {"type": 4}, {"ticks": -4.5, "type": 4}):
                status, told = await d.post("/api/Order/place", order | {"stopLossBracket": bracket})
                assert status == 400 and "stopLossBracket" in str(told["errors"])
            assert (await d.post("/api/Order/v2/query", {"filter": {"accountId": 1, "statuses": [1, 8], "contractId": None}}))[0] == 200
            assert (await d.post("/api/Order/place", order | {"stopLossBracket": None, "customTag": None}))[0] == 200
            assert d.gateway.venue.done[1:] == [("/api/Order/place", order)], "the venue sees no nulls"
    run(story())


def test_content_types():
    "JSON under its three names comes in, anything else is 415; what goes out is what Accept asks for; GET is no way to ask; not JSON at all is 400."
    async def story():
        async with door() as d:
            ask = lambda data, **headers: d.http.post(d.urls.rest + OPEN, data=data, headers={"Authorization": f"Bearer {d.token}", **headers})
            body = b'{"accountId": 101}'
            for kind, status in (("application/json", 200), ("text/json; charset=utf-8", 200), ("application/vnd.api+json", 200), ("text/plain", 415), ("application/x-www-form-urlencoded", 415)):
                async with ask(body, **{"Content-Type": kind}) as answer: assert answer.status == status, kind
            for accept, kind in (("text/plain", "text/plain"), ("text/json", "text/json"), ("image/png", "application/json")):
                async with ask(body, **{"Content-Type": "application/json", "Accept": accept}) as answer:
                    assert answer.content_type == kind and json.loads(await answer.text())["success"]
            for text in (b"", b"{", b"[1]", b"\xff"):
                async with ask(text, **{"Content-Type": "application/json"}) as answer: assert answer.status == 400, text
            async with d.http.get(d.urls.rest + OPEN, headers={"Authorization": f"Bearer {d.token}"}) as answer: assert answer.status == 405
            assert (await d.post("/api/Order/nothing", {}))[0] == 404
    run(story())


def test_a_limit_is_counted_in_market_time_by_token():
    "Bars: 50 in 30 s, the rest 200 in 60 s, each for itself; a 429 says when to come again and does not count; when the first one leaves the window, one more may come."
    async def story():
        async with door() as d:
            bars = {"contractId": MES, "startTime": "2026-11-20T14:30:00Z", "endTime": "2026-11-20T14:30:00Z", "unit": 1, "unitNumber": 1, "limit": 1}
            clock = d.gateway.clock
            for k in range(50):
                if k == 1: clock.run_until(NOW + 10**9)
                assert (await d.post(BARS, bars))[0] == 200
            for _ in range(3):
                async with d.http.post(d.urls.rest + BARS, json=bars, headers={"Authorization": f"Bearer {d.token}"}) as answer:
                    assert (answer.status, answer.headers["Retry-After"], await answer.read()) == (429, "29", b"")
            assert (await d.post(OPEN, {"accountId": 101}))[0] == 200
            clock.run_until(NOW + 30 * 10**9 - 1)
            assert (await d.post(BARS, bars))[0] == 429
            clock.run_until(NOW + 30 * 10**9)
            assert [(await d.post(BARS, bars))[0] for _ in range(2)] == [200, 429]
            assert len([1 for path, _ in d.gateway.venue.done if path == BARS]) == 51
            d.token = (await d.login())["token"]
            assert (await d.post(BARS, bars))[0] == 200
            logins = {"userName": "x", "apiKey": "x"}
            assert [(await d.post("/api/Auth/loginKey", logins))[0] for _ in range(199)] == [200] * 198 + [429], "two have logged in before"
    run(story())


@pytest.mark.parametrize("window, at_59, at_60", [("sliding", 0, 60.0), ("fixed", 0, 0.0), ("off", 0, 0.0)])
def test_both_windows(window, at_59, at_60):
    "200 at the 59th second of a fixed minute leave the next minute free; a sliding one not before another minute has gone."
    limits, minute = RequestLimits(window), 1_700_000_040 * 10**9
    waits = [limits.wait("t", OPEN, minute + 59 * 10**9) for _ in range(200)]
    assert waits == [at_59] * 200
    assert limits.wait("t", OPEN, minute + 59 * 10**9) == {"sliding": 60.0, "fixed": 1.0, "off": 0.0}[window]
    assert limits.wait("t", OPEN, minute + 60 * 10**9) == (59.0 if window == "sliding" else at_60)


# -- a hub from its negotiation to its end ---------------------------------------------------------------------------
async def negotiated(d, hub="market", query="", header=True):
    headers = {"Authorization": f"Bearer {d.token}"} if header else {}
    async with d.http.post(f"{d.urls.rest}/hubs/{hub}/negotiate{query}", headers=headers) as answer: return answer.status, await answer.json(content_type=None) if answer.status == 200 else None


async def status_of(d, hub="market", **query):
    "The status with which an upgrade is refused, 101 when it is not."
    try: ws = await d.http.ws_connect(f"{d.urls.rest}/hubs/{hub}", params=query)
    except aiohttp.WSServerHandshakeError as refused: return refused.status
    await ws.close()
    return 101


def test_negotiate_in_both_versions():
    "Version 0 gives a connectionId, version 1 a secret connectionToken besides; the token may come by header or query, and an old id in the query does not matter."
    async def story():
        async with door() as d:
            status, zero = await negotiated(d)
            assert status == 200 and zero["negotiateVersion"] == 0 and zero["connectionId"] and "connectionToken" not in zero
            assert zero["availableTransports"] == [{"transport": "WebSockets", "transferFormats": ["Text", "Binary"]}]
            _, one = await negotiated(d, query=f"?negotiateVersion=1&access_token={d.token}&id=old", header=False)
            assert one["negotiateVersion"] == 1 and one["connectionToken"] not in ("", one["connectionId"])
            for number in (zero["connectionId"], one["connectionToken"]): await (await d.hub(id=number)).ws.close()
            assert await status_of(d, access_token=d.token, id=one["connectionId"]) == 404, "only the secret opens"
            assert (await negotiated(d, header=False))[0] == 401
    run(story())


def test_an_id_is_good_for_one_socket():
    "404 for one that is unknown, of the other hub, spent or 15 s old; 409 while it is in use."
    async def story():
        wall = FakeClock()
        async with door(wall=wall) as d:
            number = (await negotiated(d))[1]["connectionId"]
            assert await status_of(d, access_token=d.token, id="unknown") == 404
            assert await status_of(d, hub="user", access_token=d.token, id=number) == 404
            raw = await d.hub(id=number)
            assert await status_of(d, access_token=d.token, id=number) == 409
            await raw.ws.close()
            while d.gateway.emit.connections: await asyncio.sleep(0)
            assert await status_of(d, access_token=d.token, id=number) == 404
            number = (await negotiated(d))[1]["connectionId"]
            await wall.advance(16)
            assert await status_of(d, access_token=d.token, id=number) == 404
    run(story())


def test_an_upgrade_needs_a_token():
    async def story():
        async with door() as d:
            assert [await status_of(d, hub, access_token=token) for hub in ("user", "market") for token in ("", "no.such.token", d.token)] == [401, 401, 101] * 2
            ws = await d.http.ws_connect(f"{d.urls.rest}/hubs/user", headers={"Authorization": f"Bearer {d.token}"})
            assert not ws.compress, "deflating every message costs more than it saves on loopback"
            d.gateway.tokens.expire()
            assert await status_of(d, access_token=d.token) == 401
            async with d.http.get(f"{d.urls.rest}/hubs/user", params={"access_token": (await d.login())["token"]}) as answer: assert answer.status == 400
    run(story())


@pytest.mark.parametrize("hello, answer", [
    ('{"protocol":"json","version":0}', {}), ('{"protocol":"json","version":1}', {}),
    ('{"protocol":"json","version":2}', {"error": "The server does not support version 2 of the 'json' protocol."}),
    ('{"protocol":"messagepack","version":1}', {"error": "The protocol 'messagepack' is not supported."}),
    ('{"type":6}', {"error": "An unexpected error occurred during connection handshake."}), ("hello", {"error": "An unexpected error occurred during connection handshake."})])
def test_handshake(hello, answer):
    "A wrong one is told why, and closed; nothing comes before it."
    async def story():
        async with door() as d:
            raw = await d.hub(hello=None)
            await raw.ws.send_str(hello + RECORD_END)
            assert await raw.next() == answer
            assert (await raw.invoke("SubscribeSteps") if not answer else await raw.next()) == ("closed" if answer else {"type": 3, "invocationId": "1", "result": None})
    run(story())


def test_records_may_come_in_pieces_or_together():
    "The handshake and an invocation in one message; one record in single characters; two records in a binary message."
    async def story():
        async with door() as d:
            raw = await d.hub(hello=None)
            call = lambda n: json.dumps({"type": 1, "invocationId": n, "target": "SubscribeSteps", "arguments": [], "headers": {"a": 1}}) + RECORD_END
            await raw.ws.send_str(HELLO + call("a"))
            for letter in call("b"): await raw.ws.send_str(letter)
            await raw.ws.send_bytes((call("c") + call("d")).encode())
            assert await raw.next() == {}
            assert [(await raw.next())["invocationId"] for _ in range(4)] == ["a", "b", "c", "d"]
    run(story())


def test_completions():
    "No id, no answer, whatever happens; unknown methods and wrong arguments have their texts; names in any case; the connection lives on."
    async def story():
        async with door() as d:
            market, user = await d.hub("market"), await d.hub("user")
            done = {"type": 3, "invocationId": "1", "result": None}
            for raw, target, *arguments in ((market, "SubscribeContractQuotes", MES), (market, "subscribecontracttrades", MES), (market, "UnsubscribeContractMarketDepth", MES),
                                            (user, "SubscribeAccounts"), (user, "SubscribeOrders", 101), (user, "UnsubscribeTrades", 5), (user, "SubscribeSteps")):
                assert await raw.invoke(target, *arguments) == done, target
            for raw, target in ((market, "SubscribeContractDepth"), (market, "SubscribeOrders"), (user, "Heartbeat"), (user, "_call")):
                assert await raw.invoke(target, 1) == {"type": 3, "invocationId": "1", "error": UNKNOWN.format(target)}
            for raw, target, *arguments in ((market, "SubscribeContractQuotes"), (market, "SubscribeContractQuotes", 1), (market, "SubscribeContractQuotes", MES, MES),
                                            (user, "SubscribeOrders", "101"), (user, "SubscribeOrders", True), (user, "SubscribeAccounts", 1)):
                assert await raw.invoke(target, *arguments) == {"type": 3, "invocationId": "1", "error": FAILED.format(target)}, (target, arguments)
            await user.send("Heartbeat", {"timestamp": 1})
            await user.send("SubscribeOrders", "wrong")
            await user.send("SubscribePositions", 101)
            assert await user.fence() == []
            assert d.gateway.emit.listening("GatewayUserPosition", 101)
    run(story())


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"type":"1"}', '{"type":1}', '{"type":6,"x":"' + "x" * 33_000 + '"}', None])
def test_a_record_nobody_can_read_ends_the_connection(text):
    async def story():
        async with door() as d:
            raw = await d.hub()
            await raw.ws.send_str(text + RECORD_END if text else "x" * 33_000)  # None: one that does not end
            assert [await raw.next(), await raw.next()] == [CLOSED, "closed"]
    run(story())


def test_the_client_may_end_it():
    "By a close record or by a close frame: both are answered by a close frame, and it is forgotten."
    async def story():
        async with door() as d:
            for end in ('{"type":7}' + RECORD_END, None):
                raw = await d.hub()
                await raw.invoke("SubscribeContractQuotes", MES)
                if end:
                    await raw.ws.send_str(end)
                    assert await raw.next() == "closed"
                else: await raw.ws.close()
                assert raw.ws.close_code == 1000
                while d.gateway.emit.connections: await asyncio.sleep(0)
                assert not d.gateway.emit.listening("GatewayQuote", MES)
    run(story())


def test_the_gateway_stops_with_a_close_record():
    async def story():
        async with door() as d:
            raw = await d.hub()
            await d.gateway.stop()
            assert [await raw.next(), await raw.next()] == [{"type": 7}, "closed"]
    run(story())


# -- time -------------------------------------------------------------------------------------------------------------
async def seconds(d, wall, n):
    "So many seconds of the wall clock, the sockets served after each."
    for _ in range(n):
        await wall.advance(1)
        await asyncio.sleep(0.002)


def test_pings_and_silence():
    "A ping to whom nothing was sent for 15 s; 30 s without a word from the client and it is dropped, one that pings is not."
    async def story():
        wall = FakeClock()
        async with door(wall=wall) as d:
            quiet, lively = await d.hub(), await d.hub("user")
            await seconds(d, wall, 14)
            await lively.ws.send_str('{"type":6}' + RECORD_END)
            assert await lively.fence() == []
            await seconds(d, wall, 1)
            assert await quiet.next() == {"type": 6}
            await seconds(d, wall, 14)
            assert await lively.next() == {"type": 6} and len(d.gateway.emit.connections) == 2
            await seconds(d, wall, 1)
            assert [await quiet.next() for _ in range(2)] == [CLOSED, "closed"]
            while len(d.gateway.emit.connections) > 1: await asyncio.sleep(0)
            assert [c.hub for c in d.gateway.emit.connections] == ["user"] and await lively.fence() == []
    run(story())


def test_who_does_not_introduce_himself_is_sent_away():
    async def story():
        wall = FakeClock()
        async with door(wall=wall) as d:
            raw = await d.hub(hello=None)
            await seconds(d, wall, 16)
            assert [await raw.next(), await raw.next()] == [{"error": "Handshake was canceled."}, "closed"]
    run(story())


@pytest.mark.parametrize("closes", [False, True])
def test_both_readings_of_a_token_that_expires_on_an_open_connection(closes):
    async def story():
        wall = FakeClock()
        async with door(wall=wall, token_life_s=5, expiry_closes=closes) as d:
            raw = await d.hub()
            await seconds(d, wall, 6)
            assert (await raw.next() == CLOSED) if closes else (await raw.fence() == [])
    run(story())


# -- events -----------------------------------------------------------------------------------------------------------
ORDER = {"id": 9, "accountId": 101, "status": 1, "limitPrice": None, "stopPrice": 5000.25}


def told(event, *arguments): return {"type": 1, "target": event, "arguments": list(arguments)}


def test_events_go_to_whom_they_concern():
    "By account and by contract, once however often one subscribes, and no more after unsubscribing; each connection for itself."
    async def story():
        async with door() as d:
            one, two, market, emit = await d.hub("user"), await d.hub("user"), await d.hub("market"), d.gateway.emit
            for _ in range(2): await one.invoke("SubscribeOrders", 101)
            await two.invoke("SubscribeOrders", 102)
            await two.invoke("SubscribeAccounts")
            await market.invoke("SubscribeContractTrades", MES)
            emit("GatewayUserOrder", 101, {"id": 1})
            emit("GatewayUserOrder", 102, {"id": 2})
            emit("GatewayUserAccount", 101, {"id": 101})
            emit("GatewayTrade", MES, [{"price": 1.0}])
            emit("GatewayTrade", "CON.F.US.EP.Z26", [{"price": 2.0}])
            assert await one.fence() == [told("GatewayUserOrder", {"action": 1, "data": {"id": 1}})]
            assert await two.fence() == [told("GatewayUserOrder", {"action": 1, "data": {"id": 2}}), told("GatewayUserAccount", {"action": 1, "data": {"id": 101}})]
            assert await market.fence() == [told("GatewayTrade", MES, [{"price": 1.0}])]
            await one.invoke("UnsubscribeOrders", 101)
            await market.invoke("UnsubscribeContractTrades", MES)
            emit("GatewayUserOrder", 101, {"id": 1})
            emit("GatewayTrade", MES, [{"price": 1.0}])
            assert await one.fence() == await market.fence() == []
    run(story())


@pytest.mark.parametrize("settings, order, trades", [
    ({}, [{"action": 1, "data": {"id": 9, "accountId": 101, "status": 1, "stopPrice": 5000.25}}], [[MES, [{"p": 1}, {"p": 2}]]]),
    ({"wrapped": False}, [{"id": 9, "accountId": 101, "status": 1, "stopPrice": 5000.25}], [[MES, [{"p": 1}, {"p": 2}]]]),
    ({"nulls": True}, [{"action": 1, "data": ORDER}], [[MES, [{"p": 1}, {"p": 2}]]]),
    ({"arrays": False}, [{"action": 1, "data": {"id": 9, "accountId": 101, "status": 1, "stopPrice": 5000.25}}], [[MES, {"p": 1}], [MES, {"p": 2}]])])
def test_shapes_of_events(settings, order, trades):
    async def story():
        async with door(**settings) as d:
            user, market = await d.hub("user"), await d.hub()
            await user.invoke("SubscribeOrders", 101)
            await market.invoke("SubscribeContractTrades", MES)
            d.gateway.emit("GatewayUserOrder", 101, ORDER)
            d.gateway.emit("GatewayTrade", MES, [{"p": 1}, {"p": 2}])
            assert await user.fence() == [told("GatewayUserOrder", *order)]
            assert await market.fence() == [told("GatewayTrade", *one) for one in trades]
    run(story())


def test_actions():
    "0 for a fill, 2 for a position that is flat, else 1; or as the venue says."
    async def story():
        async with door() as d:
            user = await d.hub("user")
            for what in ("Orders", "Positions", "Trades"): await user.invoke(f"Subscribe{what}", 101)
            emit = d.gateway.emit
            emit("GatewayUserTrade", 101, {"id": 1})
            emit("GatewayUserPosition", 101, {"type": 1})
            emit("GatewayUserPosition", 101, {"type": 0})
            emit("GatewayUserOrder", 101, {"id": 1}, action=2)
            assert [one["arguments"][0]["action"] for one in await user.fence()] == [0, 1, 2, 2]
    run(story())


def test_the_first_quote_is_whole():
    "Whoever subscribes is told all that is known, after the completion, then only what changes; asking twice brings nothing new, asking again does."
    async def story():
        async with door() as d:
            early, late, emit = await d.hub(), await d.hub(), d.gateway.emit
            await early.invoke("SubscribeContractQuotes", MES)
            assert await early.fence() == []
            emit("GatewayQuote", MES, {"symbol": "F.US.MES", "bestBid": 1.0, "bestAsk": 1.25, "timestamp": "a"})
            emit("GatewayQuote", MES, {"bestBid": 1.25, "timestamp": "b"})
            await late.invoke("SubscribeContractQuotes", MES)
            emit("GatewayQuote", MES, {"lastPrice": 1.5, "timestamp": "c"})
            assert await early.fence() == [told("GatewayQuote", MES, q) for q in (
                {"symbol": "F.US.MES", "bestBid": 1.0, "bestAsk": 1.25, "timestamp": "a"}, {"bestBid": 1.25, "timestamp": "b"}, {"lastPrice": 1.5, "timestamp": "c"})]
            assert await late.fence() == [told("GatewayQuote", MES, q) for q in ({"symbol": "F.US.MES", "bestBid": 1.25, "bestAsk": 1.25, "timestamp": "b"}, {"lastPrice": 1.5, "timestamp": "c"})]
            await late.invoke("SubscribeContractQuotes", MES)
            assert await late.fence() == []
            await late.invoke("UnsubscribeContractQuotes", MES)
            await late.invoke("SubscribeContractQuotes", MES)
            assert [one["arguments"][1]["lastPrice"] for one in await late.fence()] == [1.5]
    run(story())


def test_many_records_share_a_frame():
    "In order, none lost, whole records only, 8 KB a frame; one record that is larger goes alone."
    async def story():
        async with door() as d:
            raw = await d.hub()
            await raw.invoke("SubscribeContractTrades", MES)
            raw.frames.clear()
            for k in range(10_000): d.gateway.emit("GatewayTrade", MES, [{"n": k}])
            d.gateway.emit("GatewayTrade", MES, [{"big": "x" * 100_000}])
            d.gateway.emit("GatewayTrade", MES, [{"n": 10_000}])
            seen = [one["arguments"][1][0] for one in await raw.fence()]
            assert [one.get("n") for one in seen] == [*range(10_000), None, 10_000]
            sizes = sorted(map(len, raw.frames))
            assert sizes[-1] > 100_000 and sizes[-2] <= 8192 and len(sizes) < 200
    run(story())


@pytest.mark.parametrize("speed, stays", [(1.0, False), (20, False), ("lockstep", True), ("max", True)])
def test_a_client_that_does_not_read(speed, stays):
    "In a paced market it is dropped at 50,000 unread records, and the others hear everything; a market that waits for its listeners keeps it."
    async def story():
        async with door(speed=speed) as d:
            slow, quick = await d.hub(), await d.hub("user")
            await slow.invoke("SubscribeContractTrades", MES)
            await quick.invoke("SubscribeOrders", 101)
            for k in range(50_001): d.gateway.emit("GatewayTrade", MES, [{"n": k}])
            d.gateway.emit("GatewayUserOrder", 101, {"id": 1})
            assert len(await quick.fence()) == 1
            if stays: assert len(await slow.fence()) == 50_001
            else: assert await slow.next() == "reset" and d.gateway.emit.dropped == 1
    run(story())


def test_drain_waits_for_the_slowest_reader():
    "With far more than the socket's buffers hold, drain is not over before the client reads; a half-open client is not waited for."
    async def story():
        async with door() as d:
            raw = await d.hub()
            await raw.invoke("SubscribeContractTrades", MES)
            for _ in range(400): d.gateway.emit("GatewayTrade", MES, [{"x": "y" * 50_000}])
            waits = asyncio.create_task(d.gateway.emit.drain())
            done, _ = await asyncio.wait([waits], timeout=0.3)
            assert not done
            assert len(await raw.fence()) == 400
            await waits
            d.gateway.emit.break_up("half_open", list(d.gateway.emit.connections))
            for _ in range(400): d.gateway.emit("GatewayTrade", MES, [{"x": "y" * 50_000}])
            await d.gateway.emit.drain()
    run(story())


# -- lockstep and control ---------------------------------------------------------------------------------------------
async def sim(d, method, path, body=None):
    async with d.http.request(method, d.urls.control + path, data=None if body is None else json.dumps(body)) as answer: return answer.status, await answer.json()


def test_a_step_is_told_after_everything_in_it():
    "On both hubs to who asked for it: the moment the market has come to, in ns, once a step, after the step's own events."
    async def story():
        async with door() as d:
            user, market, other = await d.hub("user"), await d.hub(), await d.hub()
            for raw in (user, market): await raw.invoke("SubscribeSteps")
            await market.invoke("SubscribeContractTrades", MES)
            d.gateway.clock.at(NOW + 5 * 10**8, lambda: d.gateway.emit("GatewayTrade", MES, [{"n": 1}]))
            assert await sim(d, "POST", "/step", {"seconds": 1}) == (200, {"ts": NOW + 10**9})
            assert await market.fence() == [told("GatewayTrade", MES, [{"n": 1}]), told("SimulatorStep", NOW + 10**9)]
            assert await user.fence() == [told("SimulatorStep", NOW + 10**9)] and await other.fence() == []
            await user.invoke("UnsubscribeSteps")
            await sim(d, "POST", "/step", {"seconds": 1})
            assert await user.fence() == []
            d.gateway.emit.second(NOW + 2 * 10**9)
            assert await market.fence() == [told("SimulatorStep", NOW + 2 * 10**9)], "the same moment is told once"
    run(story())


def test_control():
    "What it says, what it does, and one line for every wrong request."
    async def story():
        async with door() as d:
            raw = await d.hub()
            await raw.invoke("SubscribeContractTrades", MES)
            d.gateway.emit("GatewayTrade", MES, [{"n": 1}])
            await raw.fence()
            status, state = await sim(d, "GET", "")
            assert (status, state["ts"], state["iso"], state["speed"], state["ended"]) == (200, NOW, "2023-11-14T22:13:20.000000+00:00", "lockstep", False)
            assert [c["hub"] for c in state["connections"]] == ["market"] and state["counters"] == {"requests": {"/api/Auth/loginKey 200": 1}, "events": {"GatewayTrade": 1}, "clients_dropped": 0}
            assert await sim(d, "POST", "/account", {"accountId": 101, "canTrade": False}) == (200, {})
            assert await sim(d, "POST", "/flatten", {"accountId": 101}) == (200, {})
            assert await sim(d, "POST", "/trade", {"accountId": 101, "side": 1, "size": 2}) == (200, {"orderId": 77})
            assert d.gateway.venue.done == [("lock", 101, False), ("flatten", 101), ("trade", 101, 1, 2)]
            for path, body, why in (("/account", {"accountId": 5, "canTrade": True}, "101"), ("/account", {"accountId": 101}, "canTrade"), ("/account", {"accountId": 101, "canTrade": 1}, "true or false"),
                                    ("/trade", {"accountId": 101, "side": 2, "size": 1}, "2"), ("/trade", {"accountId": 101, "side": 1, "size": 0}, "size"), ("/step", {"minutes": 1}, "minutes"),
                                    ("/hubs", {"do": "explode"}, "explode"), ("/hubs", {"do": "reset", "hub": "x"}, "'x'"), ("/flatten", [], "object"), ("/faults", {"fault": "rain"}, "rain")):
                status, answer = await sim(d, "POST", path, body)
                assert status == 400 and why in answer["error"] and "\n" not in answer["error"], (path, answer)
            assert d.gateway.venue.done[3:] == []
            await sim(d, "POST", "/expire_tokens")
            assert await d.post(OPEN, {"accountId": 101}) == (401, None)
    run(story())
