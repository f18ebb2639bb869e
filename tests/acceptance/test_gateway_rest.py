"LIV-1: the REST client of the gateway: what it sends, what it makes of every answer, and that no order is ever sent twice."
import asyncio
import base64
import json
from typing import NamedTuple

import pytest
from aiohttp import web

from live_runner.clock import FakeClock, isotime, ns_of
from live_runner.gateway import wire
from live_runner.gateway.answers import Account, Candle, Contract, Fill, Order, Position, UnreadableAnswer
from live_runner.gateway.outcomes import Accepted, Failed, NewOrder, Refused, TurnedAway, Unknown
from live_runner.gateway.rest import Gateway
from live_runner.gateway.settings import GatewaySettings
from live_runner.problems import CallAHuman, FixTheConfig, RetryLater
from live_runner.protocol import BARS, ENDPOINTS, PING, BarsError, BarUnit, LoginError, ModifyError, OrderStatus, OrderType, PlaceError, PositionType, Side, ValidateError, QUERY_FILTER
from live_runner.settings import RunnerSettings

MES_ID, LOGIN, VALIDATE, PLACE = "CON.F.US.MES.Z26", "/api/Auth/loginKey", "/api/Auth/validate", "/api/Order/place"
T0 = ns_of("2026-11-20T14:30:00Z")
ORDER = {"id": 7, "accountId": 3, "contractId": MES_ID, "symbolId": "F.US.MES", "creationTimestamp": "2026-11-20T14:30:00.1234567+00:00", "updateTimestamp": None, "status": 1,
         "type": 4, "side": 1, "size": 2, "limitPrice": None, "stopPrice": 6000.25, "fillVolume": 0, "filledPrice": None, "customTag": "a-SL", "parentOrderId": 6, "news": {"x": 1}}
BAR = {"t": "2026-11-20T14:30:00+00:00", "o": 1, "h": 2.5, "l": .5, "c": 2, "v": 9}
CONTRACT = {"id": MES_ID, "name": "MESZ6", "description": "Micro", "tickSize": .25, "tickValue": 1.25, "activeContract": True, "symbolId": "F.US.MES"}
POSITION = {"id": 5, "accountId": 3, "contractId": MES_ID, "creationTimestamp": "2026-11-20T14:30:00Z", "type": 2, "size": 2, "averagePrice": 6000.125}
FILL = {"id": 9, "accountId": 3, "contractId": MES_ID, "creationTimestamp": "2026-11-20T14:30:01Z", "price": 6000.25, "profitAndLoss": None, "fees": .36, "side": 0, "size": 1, "voided": False, "orderId": 7}
PAYLOADS = {"accounts": [{"id": 3, "name": "PRAC", "balance": 1000.5, "canTrade": True, "isVisible": True}], "contracts": [CONTRACT], "contract": CONTRACT, "bars": [BAR | {"t": "2026-11-20T14:30:01+00:00"}, BAR],
            "orderId": 11, "orders": [ORDER], "order": ORDER, "positions": [POSITION], "trades": [FILL]}
THE_ORDER = Order(7, 3, MES_ID, OrderStatus.OPEN, OrderType.STOP, Side.SELL, 2, 0, None, None, 6000.25, None, None, "a-SL", 6, None, T0 + 123_456_700, None, "F.US.MES")
ENTRY = NewOrder(3, MES_ID, OrderType.MARKET, Side.BUY, 2, "a", stop_ticks=20, target_ticks=40)
END = "2026-11-20T14:31:00.000000+00:00"
START = "2026-11-20T14:30:00.000000+00:00"


def a_jwt(
    life_s: float | None, # None: without a claim
    now: int,             # ns UTC
    number: int = 0,      # makes it another one
) -> str:
    parts = {"alg": "HS256"}, {"n": number} | ({} if life_s is None else {"exp": now // 10**9 + life_s})
    return ".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts) + ".c2ln"


class Seen(NamedTuple):
    path: str
    body: dict | None
    auth: str


class QuickClock(FakeClock):
    "Sleeping takes no time of ours, and is noted."

    def __init__(self):
        super().__init__(T0)
        self.slept = []

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.ns += round(seconds * 1e9)
        await asyncio.sleep(0)


class Server:
    "Answers well, unless a plan for the path says otherwise: one step of it a request."

    def __init__(self, clock: FakeClock, **plans):
        self.clock, self.plans, self.seen, self.peers, self.life_s, self.logins = clock, {}, [], set(), 86_400, 0

    def count(self, path: str) -> int: return sum(seen.path == path for seen in self.seen)

    def good(self, path: str) -> web.Response:
        if path == PING: return web.json_response("pong")
        payload = ENDPOINTS[path].payload
        if payload in ("token", "newToken"): self.logins += 1
        value = a_jwt(self.life_s, self.clock.now(), self.logins) if payload in ("token", "newToken") else PAYLOADS.get(payload)
        return web.json_response({"success": True, "errorCode": 0, "errorMessage": None} | ({payload: value} if payload else {}))

    async def handle(self, request: web.Request) -> web.StreamResponse:
        text = await request.text()
        self.peers.add(request.transport.get_extra_info("peername"))
        self.seen.append(Seen(request.path, json.loads(text) if text else None, request.headers.get("Authorization", "")))
        plan = self.plans.get(request.path)
        return await plan.pop(0)(request) if plan else self.good(request.path)


def says(status: int = 200, text: str = "", headers: dict | None = None, **fields):
    "A step of a plan: an answer."
    async def step(_): return web.Response(status=status, text=json.dumps(fields) if fields else text, headers=headers)
    return step


async def hangs(request): await asyncio.sleep(60)


async def cuts(request):
    request.transport.abort()
    await asyncio.sleep(60)


async def cuts_in_the_body(request):
    answer = web.StreamResponse(headers={"Content-Length": "500"})
    await answer.prepare(request)
    await answer.write(b'{"success": true,')
    request.transport.abort()
    await asyncio.sleep(60)


NO = {"success": False, "errorCode": 7, "errorMessage": None}
PASSING = {"time-out": hangs, "cut": cuts, "cut in the body": cuts_in_the_body, "500": says(500, "boom"), "502 in HTML": says(502, "<html>Bad Gateway</html>"), "empty body": says(200, ""),
           "not JSON": says(200, '{"success": tru'), "a list": says(200, "[]"), "null": says(200, "null"), "no envelope": says(x=1), "yes and no": says(success=True, errorCode=2),
           "no without a code": says(success=False, errorCode=0), "code of a wrong kind": says(success=False, errorCode="2"), "redirect": says(307, "", {"Location": "/api/Status/ping"})}
SOON = {"429": says(429, ""), "429, wait 7": says(429, "", {"Retry-After": "7"}), "429, wait till": says(429, "", {"Retry-After": "Fri, 20 Nov 2026 14:31:00 GMT"})}
ACTS = {PLACE: lambda g: g.place(ENTRY), "/api/Order/modify": lambda g: g.modify(3, 7, stop=5999.0), "/api/Order/cancel": lambda g: g.cancel(3, 7),
        "/api/Position/closeContract": lambda g: g.close_position(3, MES_ID), "/api/Position/partialCloseContract": lambda g: g.close_part(3, MES_ID, 1)}
READS = {"/api/Account/search": lambda g: g.accounts(), "/api/Contract/search": lambda g: g.contracts("MES"), "/api/Contract/searchById": lambda g: g.contract(MES_ID),
         "/api/Contract/available": lambda g: g.available(), BARS: lambda g: g.bars(MES_ID, T0, T0 + 60 * 10**9), "/api/Order/search": lambda g: g.orders(3, T0),
         "/api/Order/searchOpen": lambda g: g.open_orders(3), "/api/Order/searchById": lambda g: g.order(3, 7), "/api/Order/v2/query": lambda g: g.query_orders(3, [OrderStatus.OPEN]),
         "/api/Position/searchOpen": lambda g: g.positions(3), "/api/Trade/search": lambda g: g.trades(3, T0)}


def drive(
    body,                     # coroutine function (gateway, server)
    timeout_s: float = 5.0,
):
    "Runs something against a server of its own."
    async def main():
        clock = QuickClock()
        server = Server(clock)
        app = web.Application()
        app.router.add_route("*", "/{any:.*}", server.handle)
        runner = web.AppRunner(app, shutdown_timeout=.01, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        url = "http://127.0.0.1:%d" % site._server.sockets[0].getsockname()[1]
        try:
            async with Gateway(GatewaySettings(gateway_url=url, username="me", api_key="k3y-of-the-house"), clock, timeout_s) as gateway: return await body(gateway, server)
        finally: await runner.cleanup()
    return asyncio.run(main())


# --- what is sent, what comes back ---------------------------------------------------------------------------------------------------------------------------

A, ID = {"accountId": 3}, {"contractId": MES_ID}
REQUESTS = [
    (lambda g: g.accounts(), "/api/Account/search", {"onlyActiveAccounts": True}, [Account(3, "PRAC", 1000.5, True, True, None)]),
    (lambda g: g.contracts("MES"), "/api/Contract/search", {"searchText": "MES", "live": False}, [Contract(MES_ID, "MESZ6", "Micro", .25, 1.25, True, "F.US.MES")]),
    (lambda g: g.contract(MES_ID), "/api/Contract/searchById", ID, Contract(MES_ID, "MESZ6", "Micro", .25, 1.25, True, "F.US.MES")),
    (lambda g: g.available(live=True), "/api/Contract/available", {"live": True}, [Contract(MES_ID, "MESZ6", "Micro", .25, 1.25, True, "F.US.MES")]),
    (lambda g: g.bars(MES_ID, T0, T0 + 60 * 10**9, BarUnit.MINUTE, 5, 100, True), BARS,
     ID | {"live": False, "startTime": START, "endTime": END, "unit": 2, "unitNumber": 5, "limit": 100, "includePartialBar": True},
     [Candle(T0, 1.0, 2.5, .5, 2.0, 9), Candle(T0 + 10**9, 1.0, 2.5, .5, 2.0, 9)]),
    (lambda g: g.orders(3, T0), "/api/Order/search", A | {"startTimestamp": START}, [THE_ORDER]),
    (lambda g: g.orders(3, T0, T0 + 60 * 10**9), "/api/Order/search", A | {"startTimestamp": START, "endTimestamp": END}, [THE_ORDER]),
    (lambda g: g.open_orders(3), "/api/Order/searchOpen", A, [THE_ORDER]),
    (lambda g: g.order(3, 7), "/api/Order/searchById", A | {"orderId": 7}, THE_ORDER),
    (lambda g: g.query_orders(3, [OrderStatus.OPEN, OrderStatus.SUSPENDED], MES_ID, T0, page_size=50), "/api/Order/v2/query",
     {"filter": A | ID | {"statuses": [1, 8], "createdAfter": START}, "pageSize": 50, "pageOffset": 0, "sortBy": 1, "sortDirection": 0, "includeTotalCount": True}, [THE_ORDER]),
    (lambda g: g.positions(3), "/api/Position/searchOpen", A, [Position(5, 3, MES_ID, PositionType.SHORT, 2, 6000.125, T0)]),
    (lambda g: g.trades(3, T0), "/api/Trade/search", A | {"startTimestamp": START}, [Fill(9, 3, MES_ID, T0 + 10**9, 6000.25, Side.BUY, 1, 7, None, .36, 0.0, False)]),
    (lambda g: g.place(ENTRY), PLACE, A | ID | {"type": 2, "side": 0, "size": 2, "customTag": "a", "stopLossBracket": {"ticks": -20, "type": 4}, "takeProfitBracket": {"ticks": 40, "type": 1}}, Accepted(11)),
    (lambda g: g.place(ENTRY._replace(side=Side.SELL, stop_type=OrderType.TRAILING_STOP)), PLACE,
     A | ID | {"type": 2, "side": 1, "size": 2, "customTag": "a", "stopLossBracket": {"ticks": 20, "type": 5}, "takeProfitBracket": {"ticks": -40, "type": 1}}, Accepted(11)),
    (lambda g: g.place(NewOrder(3, MES_ID, OrderType.LIMIT, Side.SELL, 1, limit=6000.5)), PLACE, A | ID | {"type": 1, "side": 1, "size": 1, "limitPrice": 6000.5}, Accepted(11)),
    (lambda g: g.place(NewOrder(3, MES_ID, OrderType.TRAILING_STOP, Side.SELL, 1, trail=5990.0)), PLACE, A | ID | {"type": 5, "side": 1, "size": 1, "trailPrice": 5990.0}, Accepted(11)),
    (lambda g: g.modify(3, 7, size=1, stop=5999.75), "/api/Order/modify", A | {"orderId": 7, "size": 1, "stopPrice": 5999.75}, Accepted()),
    (lambda g: g.cancel(3, 7), "/api/Order/cancel", A | {"orderId": 7}, Accepted()),
    (lambda g: g.close_position(3, MES_ID), "/api/Position/closeContract", A | ID, Accepted()),
    (lambda g: g.close_part(3, MES_ID, 1), "/api/Position/partialCloseContract", A | ID | {"size": 1}, Accepted()),
]


def test_every_request_is_what_the_reference_asks_for_and_every_answer_is_typed():
    "LIV-1: exact bodies, no nulls, bracket ticks with their sign, each call with the token of one log-in."
    async def body(gateway, server):
        await gateway.ping()
        assert server.seen == [Seen(PING, None, "")], "ping needs no token"
        for call, path, sent, got in REQUESTS:
            assert await call(gateway) == got, path
            assert server.seen[-1].path == path and server.seen[-1].body == sent
            assert server.seen[-1].auth == "Bearer " + a_jwt(86_400, T0, 1)
        assert [s for s in server.seen if s.path == LOGIN] == [Seen(LOGIN, {"userName": "me", "apiKey": "k3y-of-the-house"}, "")]
    drive(body)
    assert {path for _, path, _, _ in REQUESTS} == {path for path in ENDPOINTS if "Auth" not in path}


def test_every_request_has_the_fields_and_kinds_of_the_protocol_table():
    kinds = {"int": int, "number": float, "str": str, "bool": bool, "time": str, "object": dict, "ints": list}
    for _, path, sent, _ in REQUESTS:
        for required, optional, fields in [(ENDPOINTS[path].required, ENDPOINTS[path].optional, sent)] + ([(*QUERY_FILTER, sent["filter"])] if "filter" in sent else []):
            assert set(required) <= set(fields) <= set(required) | set(optional)
            for name, value in fields.items(): assert type(value) is kinds[(required | optional)[name]], (path, name)


@pytest.mark.parametrize("path", [*ACTS, *READS])
def test_every_error_code_has_its_name_and_an_unknown_one_keeps_its_number(path):
    async def body(gateway, server):
        for code in [*ENDPOINTS[path].errors, 99][1:]:
            server.plans[path] = [says(success=False, errorCode=int(code), errorMessage="as it is", orderId=13 if path == PLACE else None)]
            if path in ACTS:
                assert await ACTS[path](gateway) == Refused(code, "as it is", 13 if path == PLACE else None)
            else:
                with pytest.raises(Failed, match="as it is") as failed: await READS[path](gateway)
                assert failed.value.code is code or (code == 99 and failed.value.code == 99)
        assert server.count(path) == len(ENDPOINTS[path].errors), "a definite answer was asked for again"
    drive(body)


def test_codes_are_read_by_the_table_of_their_own_endpoint():
    "Code 2 is a refusal of place, an order not found of modify, and a wrong unit of bars."
    async def body(gateway, server):
        for path in (PLACE, "/api/Order/modify", BARS): server.plans[path] = [says(success=False, errorCode=2, errorMessage=None)]
        assert (await gateway.place(ENTRY)).code is PlaceError.ORDER_REJECTED
        assert (await gateway.modify(3, 7, size=1)).code is ModifyError.ORDER_NOT_FOUND
        with pytest.raises(Failed) as failed: await gateway.bars(MES_ID, T0, T0)
        assert failed.value.code is BarsError.UNIT_INVALID
    drive(body)


# --- acts: once --------------------------------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("trouble", PASSING)
@pytest.mark.parametrize("path", ACTS)
def test_an_act_with_an_unclear_end_is_unknown_and_is_not_sent_again(path, trouble):
    "LIV-1: orders are never retried; what may have been accepted is told as Unknown, with the tag to ask for."
    async def body(gateway, server):
        await gateway.token()
        server.plans[path] = [PASSING[trouble]]
        got = await ACTS[path](gateway)
        assert isinstance(got, Unknown) and got.why and got.tag == ("a" if path == PLACE else None)
        assert server.count(path) == 1 and not gateway.clock.slept
    drive(body, .1 if trouble == "time-out" else 5.0)


@pytest.mark.parametrize("fields", [{}, {"orderId": None}, {"orderId": "11"}, {"orderId": 1.5}, {"orderId": True}])
def test_a_placed_order_without_a_readable_id_is_unknown(fields):
    async def body(gateway, server):
        server.plans[PLACE] = [says(success=True, errorCode=0, **fields)]
        assert isinstance(await gateway.place(ENTRY), Unknown) and server.count(PLACE) == 1
    drive(body)


@pytest.mark.parametrize("path", ACTS)
def test_an_act_that_was_turned_away_is_told_so_and_is_not_sent_again(path):
    async def body(gateway, server):
        server.plans[path] = [*SOON.values(), says(400, title="One or more validation errors occurred."), says(401)]
        got = [await ACTS[path](gateway) for _ in range(5)]
        assert [(type(g), g.status, g.retry_after_s) for g in got] == [(TurnedAway, 429, None), (TurnedAway, 429, 7.0), (TurnedAway, 429, None), (TurnedAway, 400, None), (TurnedAway, 401, None)]
        assert "validation" in got[3].why and server.count(path) == 5 and server.count(LOGIN) == 1
        assert isinstance(await ACTS[path](gateway), Accepted) and server.count(LOGIN) == 2, "after a 401 the next call logs in"
    drive(body)


def test_an_act_that_could_not_be_sent_is_not_unknown():
    "No server at all, no log-in, or a closed gateway: nothing left this machine."
    async def nobody(gateway, server):
        await gateway.token()
        gateway.wire.url = "http://127.0.0.1:9"
        assert (await gateway.place(ENTRY)).status == 0
        gateway.tokens.refuse(gateway.tokens.token)
        got = await gateway.place(ENTRY)
        assert (type(got), got.status) == (TurnedAway, 0) and "log-in" in got.why
        await gateway.close()
        assert (await gateway.cancel(3, 7)).status == 0
    drive(nobody)


def test_an_order_tells_once_that_it_goes_out_before_it_is_answered_and_not_when_it_does_not():
    async def body(gateway, server):
        seen, when_told = lambda: server.count(PLACE), []
        for _ in range(2): assert isinstance(await gateway.place(ENTRY, goes_out=lambda: when_told.append(seen())), Accepted)
        assert when_told == [0, 1] and seen() == 2
        gateway.wire.url = "http://127.0.0.1:9"
        assert isinstance(await gateway.place(ENTRY, goes_out=lambda: when_told.append(seen())), TurnedAway)
        assert when_told == [0, 1]
    drive(body)


def test_an_order_finds_the_connection_of_the_last_poll(monkeypatch):
    assert wire.KEEP_S > 2 * RunnerSettings().idle_poll_s
    async def body(gateway, server):
        await gateway.positions(3)
        await asyncio.sleep(.1)
        await gateway.place(ENTRY)
        return server.peers
    kept = drive(body)
    monkeypatch.setattr(wire, "KEEP_S", .02)
    assert len(kept) == 1 and len(drive(body)) == 2


def test_orders_that_can_only_be_mistakes_are_not_sent():
    async def body(gateway, server):
        for order in (ENTRY._replace(size=0), ENTRY._replace(stop_ticks=0), ENTRY._replace(target_ticks=-4), ENTRY._replace(limit=float("nan")), ENTRY._replace(stop_type=OrderType.LIMIT)):
            with pytest.raises(ValueError, match="must be"): await gateway.place(order)
        with pytest.raises(ValueError, match="size must be >= 1"): await gateway.close_part(3, MES_ID, 0)
        with pytest.raises(ValueError, match="stop must be a price"): await gateway.modify(3, 7, stop=float("inf"))
        assert not server.seen
    drive(body)


# --- questions: again until answered --------------------------------------------------------------------------------------------------------------------------

UNREADABLE_ROWS = {"payload null": lambda p: {p: None}, "payload absent": lambda p: {"x": 1}, "payload of a wrong kind": lambda p: {p: "none"}, "row without an id": lambda p: {p: [{}] if p.endswith("s") else {}}}


@pytest.mark.parametrize("trouble", [*sorted(set(PASSING) - {"redirect"}), *SOON, *UNREADABLE_ROWS])
def test_a_question_is_asked_again(trouble):
    "LIV-1: reads are retried with a growing pause and some chance in it, as long as the server says where it says so."
    async def body(gateway, server):
        for path, ask in READS.items():
            payload = ENDPOINTS[path].payload
            step = PASSING.get(trouble) or SOON.get(trouble) or says(success=True, errorCode=0, **UNREADABLE_ROWS[trouble](payload))
            before = len(gateway.clock.slept)
            server.plans[path] = [step, step]
            assert await ask(gateway) and server.count(path) == 3
            one, two = gateway.clock.slept[before:]
            if trouble == "429, wait 7": assert one == two == 7
            else: assert .25 <= one <= .5 <= two <= 1
            server.plans[path] = [step] * 9
            with pytest.raises(RetryLater, match="after 4 tries"): await ask(gateway)
            assert server.count(path) == 7, "four tries, no more"
            server.plans[path] = []
            if trouble == "time-out": break  # one is enough of what takes time
    drive(body, .1 if trouble == "time-out" else 5.0)


def test_what_no_repetition_mends_is_not_repeated():
    async def body(gateway, server):
        path = "/api/Account/search"
        for step, kind, text in ((says(404, "<html>"), FixTheConfig, "MESBOT_GATEWAY_URL"), (PASSING["redirect"], FixTheConfig, "MESBOT_GATEWAY_URL"), (says(400, title="bad"), Failed, "bad"),
                                 (says(429, "", {"Retry-After": "3600"}), RetryLater, "3600")):
            before, server.plans[path] = server.count(path), [step]
            with pytest.raises(kind, match=text): await gateway.accounts()
            assert server.count(path) == before + 1 and not gateway.clock.slept
    drive(body)


def test_a_question_turned_away_by_401_is_asked_again_with_a_new_log_in_once():
    async def body(gateway, server):
        path = "/api/Position/searchOpen"
        server.plans[path] = [says(401)]
        assert await gateway.positions(3) and server.count(LOGIN) == 2 and server.count(path) == 2
        assert server.seen[-1].auth != server.seen[1].auth
        server.plans[path] = [says(401)] * 5
        with pytest.raises(RetryLater, match="401 even with a new token"): await gateway.positions(3)
        assert server.count(LOGIN) == 3 and server.count(path) == 4
    drive(body)


def test_ping_is_repeated_and_reads_both_spellings():
    async def body(gateway, server):
        server.plans[PING] = [says(503), says(200, "pong")]
        await gateway.ping()
        server.plans[PING] = [says(200, "<html>hello")] * 4
        with pytest.raises(RetryLater, match="ping"): await gateway.ping()
        assert server.count(PING) == 6
    drive(body)


def test_a_tag_is_absent_only_when_the_venue_says_so():
    "LIV-1: an ambiguous order is looked for by its exact tag, from a little before it was sent; a failed question raises."
    async def body(gateway, server):
        path = "/api/Order/search"
        assert await gateway.find_tag(3, "a-SL", T0) == THE_ORDER
        assert server.seen[-1].body["startTimestamp"] == "2026-11-20T14:20:00.000000+00:00"
        assert await gateway.find_tag(3, "a", T0) is None, "the tag of a leg begins with that of its parent"
        for step, kind in ((says(500), RetryLater), (says(success=True, errorCode=0, orders=None), RetryLater), (says(success=False, errorCode=1), Failed)):
            server.plans[path] = [step] * 4
            with pytest.raises(kind): await gateway.find_tag(3, "a", T0)
            server.plans[path] = []
    drive(body)


@pytest.mark.parametrize("by_pages", [False, True])
@pytest.mark.parametrize("cap,total", [(1000, True), (30, True), (1000, False)])
def test_the_query_finds_every_order_whatever_its_offset_means(by_pages, cap, total):
    "pageOffset may count orders or pages, a page may be capped, keys may be capital: all are there, once, or it raises."
    async def body(gateway, server):
        async def page(request):
            asked = server.seen[-1].body
            size = min(asked["pageSize"], cap)
            at = asked["pageOffset"] * (size if by_pages else 1)
            rows = [{k[0].upper() + k[1:]: v for k, v in (ORDER | {"id": i}).items()} for i in range(1, 126)]
            return web.json_response({"Success": True, "ErrorCode": 0, "Orders": rows[at:at + size]} | ({"TotalCount": 125} if total else {}))
        server.plans["/api/Order/v2/query"] = [page] * 50
        assert [order.id for order in await gateway.query_orders(3, page_size=50)] == list(range(1, 126))
        async def few(request): return web.json_response({"success": True, "errorCode": 0, "orders": [ORDER], "totalCount": 2})
        server.plans["/api/Order/v2/query"] = [few] * 50
        with pytest.raises(RetryLater, match="names 2 orders and shows 1"): await gateway.query_orders(3)
    drive(body)


# --- answers ------------------------------------------------------------------------------------------------------------------------------------------------

def test_answers_bear_missing_null_and_new_fields_and_no_doubtful_number():
    bare = {"id": 1, "accountId": 3, "contractId": MES_ID, "status": 6, "type": 42, "side": 0, "size": 1}
    assert Order.of(bare) == Order(1, 3, MES_ID, OrderStatus.PENDING, 42, Side.BUY, 1, 0, *[None] * 11)
    assert Position.of(POSITION).net == -2 and Position.of(POSITION | {"type": 0, "size": 0}).net == 0
    assert Fill.of(FILL | {"profitAndLoss": -4.9e1, "commissions": .25}).pnl == -49.0
    for kind, row, wrong in ((Order, ORDER, {"id": "7"}), (Order, ORDER, {"id": None}), (Order, ORDER, {"size": 1.5}), (Order, ORDER, {"size": True}), (Order, ORDER, {"stopPrice": "6000"}),
                             (Order, ORDER, {"stopPrice": float("nan")}), (Order, ORDER, {"status": 77}), (Order, ORDER, {"side": 2}), (Order, ORDER, {"creationTimestamp": "yesterday"}),
                             (Position, POSITION, {"type": 0}), (Position, POSITION, {"size": -2}), (Position, POSITION, {"averagePrice": None}), (Candle, BAR, {"h": None}),
                             (Fill, FILL, {"price": None}), (Account, PAYLOADS["accounts"][0], {"canTrade": None}), (Contract, CONTRACT, {"tickSize": None})):
        kind.of(row)
        with pytest.raises(UnreadableAnswer): kind.of(row | wrong)
    for row in (None, [], "x", 3):
        with pytest.raises(UnreadableAnswer): Order.of(row)


def test_times_of_the_wire_keep_every_digit_and_say_their_offset():
    assert ns_of("2026-11-20T14:30:00.1234567Z") == T0 + 123_456_700 == ns_of("2026-11-20T08:30:00.123456700-06:00")
    assert isotime(T0 + 123_456_789) == "2026-11-20T14:30:00.123456+00:00" and ns_of(isotime(T0)) == T0
    for text in ("2026-11-20T14:30:00", "2026-11-20 14:30:00Z", "2026-13-20T14:30:00Z", "2026-11-20T14:30:00.1234567891Z", ""):
        with pytest.raises(ValueError): ns_of(text)


# --- the token -------------------------------------------------------------------------------------------------------------------------------------------------

def test_the_token_is_refreshed_ten_minutes_before_its_end_by_one_for_all():
    async def body(gateway, server):
        tokens = await asyncio.gather(*(gateway.token() for _ in range(50)))
        assert len(set(tokens)) == 1 and server.count(LOGIN) == 1, "many callers, one log-in"
        gateway.clock.ns = T0 + (86_400 - 601) * 10**9
        assert await gateway.token() == tokens[0] and server.count(VALIDATE) == 0
        gateway.clock.ns = T0 + (86_400 - 600) * 10**9
        assert await gateway.place(ENTRY) == Accepted(11) and server.count(VALIDATE) == 1
        fresh = await asyncio.gather(*(gateway.token() for _ in range(50)))
        assert len(set(fresh)) == 1 and fresh[0] != tokens[0] and (server.count(LOGIN), server.count(VALIDATE)) == (1, 1)
        assert [s.auth for s in server.seen if s.path == VALIDATE] == ["Bearer " + tokens[0]]
        gateway.clock.ns += 90_000 * 10**9
        await gateway.token()
        assert (server.count(LOGIN), server.count(VALIDATE)) == (2, 1), "a token that has ended is not refreshed: log in"
    drive(body)


@pytest.mark.parametrize("trouble", [*list(ValidateError)[1:], 401])
def test_a_refused_refresh_logs_in_again(trouble):
    async def body(gateway, server):
        old = await gateway.token()
        gateway.clock.ns += (86_400 - 300) * 10**9
        server.plans[VALIDATE] = [says(401) if trouble == 401 else says(success=False, errorCode=int(trouble), newToken=None)]
        assert await gateway.token() != old and (server.count(LOGIN), server.count(VALIDATE)) == (2, 1)
    drive(body)


@pytest.mark.parametrize("trouble", ["cut", "500", "not JSON", "empty body"])
def test_a_token_lives_on_when_its_refresh_gets_no_answer(trouble):
    "An exit must not fail at night because a refresh did; it is tried again half a minute later."
    async def body(gateway, server):
        old = await gateway.token()
        gateway.clock.ns += (86_400 - 300) * 10**9
        server.plans[VALIDATE] = [PASSING[trouble]]
        assert await gateway.token() == await gateway.token() == old and server.count(VALIDATE) == 1
        gateway.clock.ns += 30 * 10**9
        assert await gateway.token() != old and (server.count(LOGIN), server.count(VALIDATE)) == (1, 2)
    drive(body)


def test_an_exit_does_not_wait_for_a_refresh_while_the_token_lives():
    async def body(gateway, server):
        await gateway.token()
        gateway.clock.ns += (86_400 - 300) * 10**9
        assert await gateway.cancel(3, 7, exit=True) == Accepted() and server.count(VALIDATE) == 0
        assert await gateway.cancel(3, 7) == Accepted() and server.count(VALIDATE) == 1
    drive(body)


@pytest.mark.parametrize("end", ["none", "opaque", "past"])
def test_a_token_that_does_not_say_its_end_is_given_an_hour(end):
    async def body(gateway, server):
        token = {"none": a_jwt(None, T0), "opaque": "no-dots-at-all", "past": a_jwt(-5, T0)}[end]
        server.plans[LOGIN] = [says(success=True, errorCode=0, token=token)]
        assert await gateway.token() == token
        gateway.clock.ns += 2999 * 10**9
        assert await gateway.token() == token
        gateway.clock.ns += 10**9
        assert await gateway.token() != token and server.count(VALIDATE) == 1
    drive(body)


def test_log_in_by_force_is_shared_by_who_asks_meanwhile():
    async def body(gateway, server):
        old = await gateway.token()
        first, second = await asyncio.gather(gateway.token(force=True), gateway.token(force=True))
        assert first == second != old and server.count(LOGIN) == 2
    drive(body)


def test_a_caller_who_leaves_does_not_take_the_log_in_with_him():
    async def body(gateway, server):
        server.plans[LOGIN] = [hangs]
        first, second = asyncio.create_task(gateway.token()), asyncio.create_task(gateway.token())
        while not server.count(LOGIN): await asyncio.sleep(.005)
        first.cancel()
        assert await second and server.count(LOGIN) == 2
    drive(body)


@pytest.mark.parametrize("code", [*list(LoginError)[1:], 99])
def test_every_error_of_the_log_in_names_what_the_operator_does(code):
    kinds = {LoginError.AGREEMENTS_NOT_SIGNED: CallAHuman, LoginError.API_SUBSCRIPTION_NOT_FOUND: CallAHuman, 99: CallAHuman, LoginError.UNKNOWN_ERROR: RetryLater}
    async def body(gateway, server):
        server.plans[LOGIN] = [says(success=False, errorCode=int(code), errorMessage="please sign", token=None)]
        results = await asyncio.gather(*(gateway.accounts() for _ in range(20)), return_exceptions=True)
        assert {type(r) for r in results} == {kinds.get(code, FixTheConfig)} and server.count(LOGIN) == 1, "a wrong key is sent once for all who wait"
        assert getattr(code, "name", "99") in str(results[0]) and "please sign" in str(results[0])
        assert await gateway.accounts(), "and asked for anew when it may be right again"
    drive(body)


@pytest.mark.parametrize("trouble", [*sorted(set(PASSING) - {"time-out", "redirect"}), *SOON])
def test_a_log_in_without_an_answer_is_tried_again(trouble):
    async def body(gateway, server):
        step = PASSING.get(trouble) or SOON[trouble]
        server.plans[LOGIN] = [step, step, step]
        assert await gateway.token() and server.count(LOGIN) == 4
        server.plans[LOGIN] = [step] * 9
        with pytest.raises(RetryLater, match="after 4 tries"): await gateway.token(force=True)
        assert server.count(LOGIN) == 8
    drive(body)


@pytest.mark.parametrize("status", [400, 401, 404])
def test_a_log_in_that_is_turned_away_points_to_the_settings(status):
    async def body(gateway, server):
        server.plans[LOGIN] = [says(status)]
        with pytest.raises(FixTheConfig, match=f"HTTP {status}.*MESBOT_API_KEY"): await gateway.token()
        assert server.count(LOGIN) == 1
    drive(body)


# --- settings --------------------------------------------------------------------------------------------------------------------------------------------------

def test_settings_come_from_the_environment_and_name_what_is_wrong(monkeypatch):
    for name in ("GATEWAY_URL", "USER_HUB_URL", "MARKET_HUB_URL", "USERNAME", "API_KEY"): monkeypatch.delenv(f"MESBOT_{name}", raising=False)
    with pytest.raises(FixTheConfig, match="MESBOT_USERNAME and MESBOT_API_KEY must be set"): GatewaySettings()
    monkeypatch.setenv("MESBOT_USERNAME", "me")
    with pytest.raises(FixTheConfig, match="^MESBOT_API_KEY must be set$"): GatewaySettings()
    monkeypatch.setenv("MESBOT_API_KEY", "k3y-of-the-house")
    settings = GatewaySettings()
    assert (settings.gateway_url, settings.user_hub_url, settings.market_hub_url) == ("https://api.topstepx.com", "https://rtc.topstepx.com/hubs/user", "https://rtc.topstepx.com/hubs/market")
    assert "k3y-of-the-house" not in repr(settings) + str(settings)
    monkeypatch.setenv("MESBOT_GATEWAY_URL", "http://api.topstepx.com")
    with pytest.raises(FixTheConfig, match="MESBOT_GATEWAY_URL must be https"): GatewaySettings()
    monkeypatch.setenv("MESBOT_GATEWAY_URL", "api.topstepx.com")
    with pytest.raises(FixTheConfig, match="MESBOT_GATEWAY_URL must be a URL"): GatewaySettings()
    monkeypatch.setenv("MESBOT_GATEWAY_URL", "http://127.0.0.1:8000")
    assert GatewaySettings().gateway_url == "http://127.0.0.1:8000"
    with pytest.raises(FixTheConfig, match="MESBOT_API_KEY") as wrong: GatewaySettings(api_key=["k3y-of-the-house"])
    assert "k3y" not in str(wrong.value)
    with pytest.raises(FixTheConfig, match="MESBOT_GATEWAY"): GatewaySettings(gateway="x")
