"LIV-1, LIV-2: our client against the simulated gateway: every endpoint, every error code, every text that the reference quotes."
import asyncio

import pytest
from gateway_world import ACCOUNT, CONTRACT, OPEN, PRICE, TICK, bars_at, order, world

from live_runner.gateway.outcomes import Accepted, Failed, NewOrder, Refused, TurnedAway
from live_runner.problems import CallAHuman, FixTheConfig, RetryLater
from live_runner.protocol import (BARS, BARS_LIMIT, ENDPOINTS, REST_LIMIT, BarsError, BarUnit, ContractError, LoginError, OrderError, OrderStatus, OrderType, PlaceError, SearchError, Side,
                                  ValidateError)
from live_runner.simulator.settings import AccountSettings

NS = 10**9
HOURS_AGO = OPEN - 10 * 3600 * NS
MARKET_BUY = NewOrder(ACCOUNT, CONTRACT, OrderType.MARKET, Side.BUY, 1)
BODIES = {  # a body of each endpoint that gets as far as the venue
    "/api/Auth/loginKey": {"userName": "simulated", "apiKey": "k"},
    "/api/Auth/loginApp": {"userName": "simulated", "password": "p", "deviceId": "d", "appId": "a", "verifyKey": "v"},
    "/api/Auth/validate": {}, "/api/Auth/logout": {}, "/api/Account/search": {"onlyActiveAccounts": True}, "/api/Contract/search": {"searchText": "MES", "live": False},
    "/api/Contract/searchById": {"contractId": CONTRACT}, "/api/Contract/available": {"live": False},
    "/api/History/retrieveBars": {
        "contractId": CONTRACT, "live": False, "startTime": "2024-01-03T00:00:00Z", "endTime": "2024-01-04T00:00:00Z", "unit": 1, "unitNumber": 1, "limit": 10, "includePartialBar": False},
    "/api/Order/place": order(), "/api/Order/modify": {"accountId": ACCOUNT, "orderId": 1}, "/api/Order/cancel": {"accountId": ACCOUNT, "orderId": 1},
    "/api/Order/search": {"accountId": ACCOUNT, "startTimestamp": "2024-01-03T00:00:00Z"}, "/api/Order/searchOpen": {"accountId": ACCOUNT},
    "/api/Order/searchById": {"accountId": ACCOUNT, "orderId": 1}, "/api/Order/v2/query": {"filter": {"accountId": ACCOUNT}}, "/api/Position/searchOpen": {"accountId": ACCOUNT}, "/api/Position/closeContract": {"accountId": ACCOUNT, "contractId": CONTRACT},
    "/api/Position/partialCloseContract": {"accountId": ACCOUNT, "contractId": CONTRACT, "size": 1}, "/api/Trade/search": {"accountId": ACCOUNT, "startTimestamp": "2024-01-03T00:00:00Z"},
}
CALLS = {  # the same through our client; logins, validate and logout are not calls of their own
    "/api/Account/search": lambda g: g.accounts(), "/api/Contract/search": lambda g: g.contracts("MES"), "/api/Contract/searchById": lambda g: g.contract(CONTRACT),
    "/api/Contract/available": lambda g: g.available(), "/api/History/retrieveBars": lambda g: g.bars(CONTRACT, HOURS_AGO, OPEN + 3600 * NS),
    "/api/Order/place": lambda g: g.place(MARKET_BUY), "/api/Order/modify": lambda g: g.modify(ACCOUNT, 1, size=1), "/api/Order/cancel": lambda g: g.cancel(ACCOUNT, 1),
    "/api/Order/search": lambda g: g.orders(ACCOUNT, HOURS_AGO), "/api/Order/searchOpen": lambda g: g.open_orders(ACCOUNT), "/api/Order/searchById": lambda g: g.order(ACCOUNT, 1),
    "/api/Order/v2/query": lambda g: g.query_orders(ACCOUNT), "/api/Position/searchOpen": lambda g: g.positions(ACCOUNT), "/api/Position/closeContract": lambda g: g.close_position(ACCOUNT, CONTRACT),
    "/api/Position/partialCloseContract": lambda g: g.close_part(ACCOUNT, CONTRACT, 1), "/api/Trade/search": lambda g: g.trades(ACCOUNT, HOURS_AGO),
}
AUTH = {path for path in ENDPOINTS if path.startswith("/api/Auth/")}


def test_no_endpoint_is_forgotten():
    assert set(BODIES) == set(ENDPOINTS) == set(CALLS) | AUTH and not AUTH & set(CALLS)


def codes(endpoint): return [code for code in endpoint.errors if code] + [77]  # and one that nobody told us of


@pytest.mark.parametrize("path", ENDPOINTS, ids=lambda path: path.removeprefix("/api/"))
def test_every_error_code_of_every_endpoint(path):
    "On the wire: 200, success false, the code, its text, no payload. Through our client: acts give `Refused`, questions raise `Failed`."
    endpoint = ENDPOINTS[path]

    async def run():
        async with world(hubs=False) as w:
            await w.gateway.token()
            for code in codes(endpoint):
                text = f"text of {int(code)}"
                w.faults.clear()
                w.faults.add([{"fault": "refuse", "path": path, "code": int(code), "message": text}])
                status, answer = await w.raw(path, BODIES[path])
                assert (status, answer["success"], answer["errorCode"], answer["errorMessage"]) == (200, False, code, text)
                assert not endpoint.payload or answer.get(endpoint.payload) is None
                if path in AUTH: continue
                if endpoint.acts:
                    outcome = await CALLS[path](w.gateway)
                    assert (type(outcome), outcome.code, outcome.message) == (Refused, code, text)
                else:
                    with pytest.raises(Failed) as failed: await CALLS[path](w.gateway)
                    assert (failed.value.code, failed.value.message) == (code, text)
                    outcome = failed.value
                assert isinstance(outcome.code, endpoint.errors) == (code != 77)
    asyncio.run(run())


LOGIN_PROBLEMS = {LoginError.AGREEMENTS_NOT_SIGNED: CallAHuman, LoginError.API_SUBSCRIPTION_NOT_FOUND: CallAHuman, LoginError.UNKNOWN_ERROR: RetryLater}


@pytest.mark.parametrize("code", [code for code in LoginError if code], ids=lambda code: code.name)
def test_logins_that_are_refused(code):
    "The server's setting; who runs the client learns whose problem it is."
    async def run():
        async with world(hubs=False, server={"login_error": code}) as w:
            with pytest.raises(LOGIN_PROBLEMS.get(code, FixTheConfig)): await w.gateway.token()
    asyncio.run(run())


def test_logins_by_key_and_by_application():
    "User names without regard to case; the errors that the server finds by itself; logging in again leaves the older token good."
    async def run():
        async with world(hubs=False) as w:
            key, app = "/api/Auth/loginKey", "/api/Auth/loginApp"
            right = {"userName": w.urls.username.upper(), "apiKey": w.urls.api_key}
            status, answer = await w.raw(key, right, token=None)
            assert status == 200 and answer["success"] and answer["errorCode"] == 0 and answer["errorMessage"] is None and answer["token"].count(".") == 2
            again = (await w.raw(key, right, token=None))[1]["token"]
            for token in (answer["token"], again): assert (await w.raw("/api/Account/search", {"onlyActiveAccounts": True}, token=token))[0] == 200
            assert (await w.raw(key, right | {"userName": "nobody"}, token=None))[1]["errorCode"] == LoginError.USER_NOT_FOUND
            wrong = (await w.raw(key, right | {"apiKey": "wrong"}, token=None))[1]
            assert (wrong["errorCode"], wrong["errorMessage"], wrong["token"]) == (LoginError.INVALID_CREDENTIALS, None, None)
            s = w.server.settings
            good = {"userName": s.username, "password": s.app_password, "deviceId": s.app_device_id, "appId": s.app_id, "verifyKey": s.app_verify_key}
            assert (await w.raw(app, good, token=None))[1]["success"]
            for field, code in (("appId", LoginError.APP_NOT_FOUND), ("verifyKey", LoginError.APP_VERIFICATION_FAILED), ("deviceId", LoginError.INVALID_DEVICE),
                                ("password", LoginError.PASSWORD_VERIFICATION_FAILED)):
                assert (await w.raw(app, good | {field: "wrong"}, token=None))[1]["errorCode"] == code
            for path in (key, app): assert (await w.raw(path, {}, token=None))[0] == 400
            newer = (await w.raw("/api/Auth/validate", None, token=again))[1]
            assert newer["success"] and newer["newToken"] not in (again, None)
            assert (await w.raw("/api/Auth/logout", None, token=again))[1] == {"success": True, "errorCode": 0, "errorMessage": None}
            assert (await w.raw("/api/Account/search", {"onlyActiveAccounts": True}, token=again))[0] == 401
    asyncio.run(run())


@pytest.mark.parametrize("path", sorted(set(ENDPOINTS) - AUTH), ids=lambda path: path.removeprefix("/api/"))
def test_no_token_no_answer_and_no_body_no_act(path):
    "401 with an empty body; a required field left out or of the wrong kind is 400 with problem details; fields nobody knows are ignored."
    async def run():
        async with world(hubs=False) as w:
            assert await w.raw(path, BODIES[path], token=None) == (401, None) == await w.raw(path, BODIES[path], token="a.b.c")
            for field in ENDPOINTS[path].required:
                for body in ({k: v for k, v in BODIES[path].items() if k != field}, BODIES[path] | {field: None}, BODIES[path] | {field: []}):
                    status, answer = await w.raw(path, body)
                    assert status == 400 and {"type", "title", "status"} <= answer.keys() and answer["status"] == 400
            assert (await w.raw(path, BODIES[path] | {"nobodyKnows": 1}))[0] == 200
            if path == "/api/Order/v2/query":
                for body in ({"filter": {}}, {"filter": {"accountId": "x"}}, {"filter": {"accountId": ACCOUNT, "createdAfter": "yesterday"}}): assert (await w.raw(path, body))[0] == 400
            assert not w.venue.accounts[ACCOUNT].orders or path == "/api/Order/place"
    asyncio.run(run())


def test_questions_and_their_answers():
    "Every question through our client, on a market whose answers can be checked on paper."
    async def run():
        async with world(bars_at((0, 8), (1, 12), (2, 4)), hubs=False) as w:
            await w.until(3)
            g = w.gateway
            await g.ping()
            account, = await g.accounts()
            assert (account.id, account.balance, account.can_trade, account.simulated) == (ACCOUNT, 1000, True, True)
            found = await g.contracts("MES")
            mes = next(c for c in found if c.id == CONTRACT)
            assert (mes.name, mes.tick, mes.tick_usd, mes.active, mes.symbol_id) == ("MESH4", TICK, 1.25, True, "F.US.MES")
            assert await g.contract(CONTRACT) == mes and mes in await g.available() and len(found) <= 20
            assert {"F.US.ENQ", "F.US.MNQ"} <= {c.symbol_id for c in await g.contracts("NQ")}  # loose
            assert await g.contracts("MES", live=True) == [] == await g.available(live=True) == await g.contracts("no such thing")
            with pytest.raises(Failed) as failed: await g.contract("CON.F.US.XXX.H24")
            assert failed.value.code is ContractError.CONTRACT_NOT_FOUND
            assert not (await g.contract("CON.F.US.MES.Z23")).active

            candles = await g.bars(CONTRACT, OPEN, OPEN + 10 * NS)
            assert [(c.ts - OPEN, c.o, c.c) for c in candles] == [(k * NS, PRICE + up * TICK, PRICE + up * TICK) for k, up in ((0, 8), (1, 12), (2, 4))]  # oldest first for us
            raw = (await w.raw("/api/History/retrieveBars", BODIES["/api/History/retrieveBars"] | {"limit": 2}))[1]["bars"]
            assert [row["o"] for row in raw] == [PRICE + 4 * TICK, PRICE + 12 * TICK] and raw[0].keys() >= set("tohlcv")  # newest first on the wire; the limit keeps the newest
            minute, = await g.bars(CONTRACT, OPEN, OPEN + 60 * NS, unit=BarUnit.MINUTE, partial=True)
            assert (minute.ts, minute.o, minute.h, minute.l, minute.c, minute.volume) == (OPEN, PRICE + 8 * TICK, PRICE + 12 * TICK, PRICE + 4 * TICK, PRICE + 4 * TICK, 15)
            assert await g.bars(CONTRACT, OPEN, OPEN + 60 * NS, unit=BarUnit.MINUTE) == []  # it has not ended
            for wrong, code in (({"contract_id": "CON.F.US.XXX.H24"}, BarsError.CONTRACT_NOT_FOUND), ({"unit": 0}, BarsError.UNIT_INVALID), ({"number": 0}, BarsError.UNIT_NUMBER_INVALID),
                                ({"limit": 0}, BarsError.LIMIT_INVALID), ({"limit": 20_001}, BarsError.LIMIT_INVALID), ({"live": True}, BarsError.CONTRACT_NOT_FOUND)):
                with pytest.raises(Failed) as failed: await g.bars(**({"contract_id": CONTRACT, "start": OPEN, "end": OPEN + NS} | wrong))
                assert failed.value.code is code, wrong

            assert await g.orders(ACCOUNT, HOURS_AGO) == await g.open_orders(ACCOUNT) == await g.query_orders(ACCOUNT) == await g.positions(ACCOUNT) == await g.trades(ACCOUNT, HOURS_AGO) == []
            assert await g.find_tag(ACCOUNT, "none", HOURS_AGO) is None
            for question in (g.orders(9, HOURS_AGO), g.open_orders(9), g.query_orders(9), g.positions(9), g.trades(9, HOURS_AGO)):
                with pytest.raises(Failed) as failed: await question
                assert failed.value.code is SearchError.ACCOUNT_NOT_FOUND
            with pytest.raises(Failed) as failed: await g.order(ACCOUNT, 1)
            assert failed.value.code is OrderError.ORDER_NOT_FOUND
    asyncio.run(run())


STOP, TARGET = "stopLossBracket", "takeProfitBracket"
ALIGN, AWAY = "Price is not aligned to tick size.", "Price should be at least 4 ticks away."
RANGE, TRADING = "Invalid price. Price is outside allowed range.", "Trading is currently unavailable. The instrument is not in an active trading status."
REJECTED = {  # what is wrong with the order -> the text that comes with code 2; the market stands at PRICE
    "long stop above": (order(**{STOP: {"ticks": 40, "type": 4}}), "Invalid stop loss ticks (40). Ticks should be less than zero when longing."),
    "short stop below": (order(side=1, **{STOP: {"ticks": -40, "type": 4}}), "Invalid stop loss ticks (-40). Ticks should be greater than zero when shorting."),
    "long target below": (order(**{TARGET: {"ticks": -40, "type": 1}}), "Invalid take profit ticks (-40). Ticks should be greater than zero when longing."),
    "short target above": (order(side=1, **{TARGET: {"ticks": 40, "type": 1}}), "Invalid take profit ticks (40). Ticks should be less than zero when shorting."),
    "stop too near": (order(**{STOP: {"ticks": -1, "type": 4}}), f"Invalid stop loss ticks (-1). {AWAY}"),
    "stop one tick too near": (order(**{STOP: {"ticks": -3, "type": 4}}), f"Invalid stop loss ticks (-3). {AWAY}"),
    "target too near": (order(side=1, **{TARGET: {"ticks": -3, "type": 1}}), f"Invalid take profit ticks (-3). {AWAY}"),
    "limit between ticks": (order(type=1, limitPrice=PRICE + .1), f"Invalid limit price. {ALIGN}"),
    "stop between ticks": (order(type=4, stopPrice=PRICE + 2.1), f"Invalid stop price. {ALIGN}"),
    "trail between ticks": (order(type=5, side=1, trailPrice=PRICE - 2.1), f"Invalid trail price. {ALIGN}"),
    "trail not told": (order(type=5, side=1), "Trail Distance not set."),
    "trail too long": (order(type=5, side=1, trailPrice=PRICE - 1001 * TICK), "Trail Distance exceeds maximum (1000)"),
    "stop to buy below": (order(type=4, stopPrice=PRICE - TICK), RANGE),
    "stop to sell above": (order(type=4, side=1, stopPrice=PRICE + TICK), RANGE),
    "stop to buy at the market": (order(type=4, stopPrice=PRICE), RANGE),
    "too many": (order(size=51), "Not enough margin."),
    "another contract": (order(contractId="CON.F.US.ENQ.H24"), TRADING),
}
BEFORE = {  # refused before there is an order
    "no such account": (order(accountId=9), PlaceError.ACCOUNT_NOT_FOUND),
    "no such contract": (order(contractId="CON.F.US.XXX.H24"), PlaceError.CONTRACT_NOT_FOUND),
    "an expired contract": (order(contractId="CON.F.US.MES.Z23"), PlaceError.CONTRACT_NOT_ACTIVE),
    "locked": (order(accountId=2), PlaceError.ACCOUNT_REJECTED), "ruined": (order(accountId=3), PlaceError.INSUFFICIENT_FUNDS),
}
SOME = (AccountSettings(), AccountSettings(id=2, name="locked", can_trade=False), AccountSettings(id=3, name="ruined", balance=0),
        AccountSettings(id=4, name="position", brackets="position"))


def test_orders_that_are_rejected():
    "Code 2 says why in words, and leaves an order with status Rejected whose tag is used up; the other codes leave none."
    async def run():
        async with world(accounts=SOME, hubs=False) as w:
            await w.until(1)
            for name, (body, text) in REJECTED.items():
                status, answer = await w.raw("/api/Order/place", body | {"customTag": name})
                assert (status, answer["success"], answer["errorCode"], answer["errorMessage"]) == (200, False, PlaceError.ORDER_REJECTED, text), name
                made = await w.gateway.order(ACCOUNT, answer["orderId"])
                assert (made.status, made.filled, made.tag) == (OrderStatus.REJECTED, 0, name), name
                again = (await w.raw("/api/Order/place", order(customTag=name)))[1]
                assert (again["errorCode"], again["errorMessage"]) == (PlaceError.ORDER_REJECTED, "Specified custom tag is already in use"), name
            made = len(await w.gateway.orders(ACCOUNT, HOURS_AGO))
            for name, (body, code) in BEFORE.items():
                answer = (await w.raw("/api/Order/place", body))[1]
                assert (answer["success"], answer["errorCode"], answer["errorMessage"], answer["orderId"]) == (False, code, None, None), name
            assert len(await w.gateway.orders(ACCOUNT, HOURS_AGO)) == made
            answer = (await w.raw("/api/Order/place", order(accountId=4, stopLossBracket={"ticks": -40, "type": 4})))[1]
            assert (answer["errorCode"], answer["errorMessage"]) == (2, "Brackets cannot be used with Position Brackets. You must enable Auto OCO Brackets.")
            assert (await w.gateway.order(4, answer["orderId"])).status == OrderStatus.REJECTED  # refused, and there is an order
            outcome = await w.gateway.place(MARKET_BUY._replace(account=4, stop_ticks=40))
            assert outcome == Refused(PlaceError.ORDER_REJECTED, answer["errorMessage"], answer["orderId"] + 1)
    asyncio.run(run())


def test_tokens_that_expire():
    "A question logs in again and is answered; an act is turned away, never sent twice, and the next one goes through. Validate says ExpiredToken where it is set to."
    async def run():
        async with world(hubs=False, server={"expired_validate": "code"}) as w:
            await w.until(1)
            old = await w.gateway.token()
            w.server.tokens.expire()
            assert (await w.raw("/api/Auth/validate", {}, token=old))[1] == {"newToken": None, "success": False, "errorCode": ValidateError.EXPIRED_TOKEN, "errorMessage": None}
            assert len(await w.gateway.accounts()) == 1 and await w.gateway.token() != old
            w.server.tokens.expire()
            outcome = await w.gateway.place(MARKET_BUY)
            assert (type(outcome), outcome.status) == (TurnedAway, 401) and await w.gateway.orders(ACCOUNT, HOURS_AGO) == []
            assert isinstance(await w.gateway.place(MARKET_BUY), Accepted) and len(await w.gateway.orders(ACCOUNT, HOURS_AGO)) == 1
    asyncio.run(run())


@pytest.mark.parametrize("path, limit", [("/api/Account/search", REST_LIMIT), (BARS, BARS_LIMIT)])
def test_too_many_requests(path, limit):
    "429 from one request too many on, counted in the market's time; an act that meets it is turned away for good."
    count, seconds = limit

    async def run():
        async with world(hubs=False) as w:
            for _ in range(count): assert (await w.raw(path, BODIES[path]))[0] == 200
            assert await w.raw(path, BODIES[path]) == (429, None)
            if limit is REST_LIMIT:
                outcome = await w.gateway.place(MARKET_BUY)
                assert (type(outcome), outcome.status, outcome.retry_after_s) == (TurnedAway, 429, seconds)
            else: assert (await w.raw("/api/Account/search", {"onlyActiveAccounts": True}))[0] == 200  # bars are counted apart
            await w.replay.step(seconds=seconds)
            assert (await w.raw(path, BODIES[path]))[0] == 200 and not w.venue.accounts[ACCOUNT].orders
    asyncio.run(run())
