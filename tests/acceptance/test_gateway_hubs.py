"LIV-2: hubs that stay connected: watchdog, rebuild with back-off and a fresh token, subscriptions sent again, nothing lost within a connection, at most two sessions."
import asyncio
import base64
import itertools
import json
import logging
import socket
import threading

import pytest
from scripted_hub import ScriptedHub, Wire, event, until

from live_runner.clock import FakeClock, ns_of
from live_runner.gateway import events
from live_runner.gateway.answers import UnreadableAnswer
from live_runner.gateway.connection import ROOM
from live_runner.gateway.events import (AccountEvent, CallRefused, Connected, Depth, EventReader, FillEvent, Logout, Lost, OrderEvent, PositionEvent, Prints, Quote, Step, Subscribed,
                                        UnreadableEvent)
from live_runner.gateway.hub import Hub
from live_runner.gateway.sessions import HubSessions
from live_runner.problems import FixTheConfig, RetryLater
from live_runner.protocol import DepthType, OrderStatus, PositionType, Side, TradeType

MES = "CON.F.US.MES.Z26"
AT = "2026-11-20T14:30:00.1234567+00:00"


class Tokens:
    "Tokens in a row; remembers which were asked for with a new login."

    def __init__(self): self.forced = []

    async def __call__(self, force=False):
        self.forced.append(force)
        return f"token-{len(self.forced)}"


class Scene:
    "A hub on a clock of its own and on lines without a network."

    def __init__(self, *plan, token=None, on_event=None, name="market", clock=None, **settings):
        self.clock, self.heard, self.tokens = clock or FakeClock(), [], Tokens()
        self.wire = Wire(self.clock, *plan)
        self.hub = Hub(name, "https://none/hubs", token or self.tokens, on_event or self.heard.append, self.clock, HubSessions(), self.wire, **settings)

    async def __aenter__(self):
        await self.hub.start()
        await self.clock.advance(0)
        return self

    async def __aexit__(self, *_): await self.hub.stop()

    @property
    def lines(self): return self.wire.lines

    @property
    def line(self): return self.wire.lines[-1]

    def of(self, *kinds): return [e for e in self.heard if isinstance(e, kinds)]


def told(events): return [(type(e), *e) for e in events]  # tuples of different kinds may be equal; with their kind they are not


def played(scenario): asyncio.run(asyncio.wait_for(scenario(), 60))


def live_hub(server, heard, token=None, **settings):
    "A hub over signalrcore and a real socket."
    return Hub("market", server.url, token or Tokens(), heard.append, **({"sessions": HubSessions(), "backoff_s": (0, 0.02)} | settings))


# the supervisor, on a clock that tests move


def test_half_open_silence_of_a_minute():
    "Nothing comes for 60 s: each connection is given up after 30 s and replaced; pings went out every 15 s meanwhile."
    async def scenario():
        async with Scene() as s:
            s.wire.lively = False
            await s.clock.advance(29.9)
            assert len(s.lines) == 1 and s.line.pings == 1
            await s.clock.advance(30.2)
            assert s.of(Lost) == [Lost("market", n, "nothing heard for 30 s") for n in (1, 2)]
            assert s.lines[0].stopped and [line.at for line in s.lines] == pytest.approx([0, 30, 60], abs=.02) and s.hub.generation == 3
    played(scenario)


@pytest.mark.parametrize("sign", ["ping", "event"])
def test_any_record_is_a_sign_of_life(sign):
    async def scenario():
        async with Scene() as s:
            s.wire.lively = False
            for _ in range(10):
                await s.clock.advance(29)
                if sign == "ping": s.line.on_ping()
                else: s.line.event("GatewayQuote", MES, {"lastPrice": 1.0})
            assert len(s.lines) == 1
            await s.clock.advance(30.1)
            assert len(s.lines) == 2
    played(scenario)


def test_pings_and_quiet_markets_keep_a_connection():
    async def scenario():
        async with Scene() as s:
            await s.clock.advance(600)
            assert len(s.lines) == 1 and s.line.pings == 40
    played(scenario)


def test_stuck_start():
    async def scenario():
        async with Scene("stuck", "open") as s:
            assert s.hub.state == "connecting" and s.line.calls == []
            await s.clock.advance(29.9)
            assert len(s.lines) == 1
            await s.clock.advance(3)
            assert s.lines[0].stopped and told(s.heard) == told([Connected("market", 1), Subscribed("market", 1)]) # nothing was lost, nothing had been there
    played(scenario)


@pytest.mark.parametrize("plan", [503, "kick"])
def test_back_off_is_endless_and_grows(plan):
    "Refused, or let in and kicked at once: pauses of 2, 10, 30, 60, 60 s, each up to a quarter longer, and never an end."
    async def scenario():
        async with Scene(plan) as s:
            await s.clock.advance(3600)
            pauses = [b.at - a.at for a, b in itertools.pairwise(s.lines)]
            assert len(pauses) > 45 and s.hub.counters.rebuilds == len(pauses)
            for pause, least in zip(pauses, [2, 10, 30, *[60] * len(pauses)]): assert least <= pause <= least * 1.25 + .01
            assert len(set(pauses)) > 20  # jitter
            assert s.hub.counters.last_why in ("kicked", "the server answered HTTP 503")
    played(scenario)


def test_after_a_long_life_the_first_attempt_is_at_once():
    async def scenario():
        async with Scene("open", "open", 503, "open") as s:
            for _ in range(2):
                await s.clock.advance(40)
                s.line.on_close("reset", None)
                await s.clock.advance(0)
            assert [line.plan for line in s.lines] == ["open", "open", 503]
            await s.clock.advance(2.6)
            assert s.hub.state == "connected" and s.hub.generation == 3
    played(scenario)


def test_planned_rebuild_with_a_new_login():
    async def scenario():
        async with Scene(token_life_s=3600) as s:
            await s.clock.advance(3599)
            assert len(s.lines) == 1
            await s.clock.advance(2)
            assert [line.token for line in s.lines] == ["token-1", "token-2"] and s.tokens.forced == [False, True]
            assert s.lines[1].at == pytest.approx(3600, abs=.01) and s.of(Lost)[0].why.startswith("planned")
            await s.clock.advance(3600)
            assert len(s.lines) == 3
    played(scenario)


def test_a_token_that_is_old_already():
    "A token with 5,000 s to live: the connection is renewed 300 s before, not after its own 22 h."
    async def scenario():
        clock = FakeClock()
        async def token(force=False):
            claim = json.dumps({"exp": clock.now() // 10**9 + (22 * 3600 if force else 5000)}).encode()
            return f"e30.{base64.urlsafe_b64encode(claim).decode().rstrip('=')}.sig"
        async with Scene(token=token, clock=clock) as s:
            await clock.advance(7000)
            assert [line.at for line in s.lines] == pytest.approx([0, 4700], abs=.1)
    played(scenario)


def test_expired_token_asks_for_a_new_login():
    "401 on the upgrade: the next token comes from a new login; other refusals ask in the usual way. A callable that knows no force is just asked."
    async def scenario():
        async with Scene(401, 503, "open") as s:
            await s.clock.advance(20)
            assert s.tokens.forced == [False, True, False] and s.line.token == "token-3" and s.hub.state == "connected"
        asked = []
        async def token():
            asked.append(1)
            return "plain"
        async with Scene(401, "open", token=token) as s:
            await s.clock.advance(5)
            assert len(asked) == 2 and s.hub.state == "connected"
    played(scenario)


def test_token_that_cannot_be_had():
    "A failing or hanging login is one more failed attempt."
    async def scenario():
        asked = []
        async def token():
            asked.append(s.clock.monotonic())
            if len(asked) == 1: raise RetryLater("the venue is away")
            if len(asked) == 2: await asyncio.Event().wait()
            return "late"
        s = Scene(token=token)
        async with s:
            assert s.hub.counters.last_why == "RetryLater: the venue is away"
            await s.clock.advance(120)
            assert s.lines == []
            await s.clock.advance(20)
            assert s.hub.state == "connected" and len(asked) == 3
    played(scenario)


def test_logout_storm():
    "Each GatewayLogout makes a new login and a new connection, but never more than 5 in 2 minutes."
    async def scenario():
        async with Scene() as s:
            for _ in range(600):
                if s.hub.state == "connected": s.line.event("GatewayLogout", "maintenance")
                await s.clock.advance(1)
            logins = [line.at for line in s.lines[1:]]
            assert len(s.of(Logout)) >= 20 and all(s.tokens.forced[1:]) and len(logins) >= 20
            assert all(sixth - first >= 119.9 for first, sixth in zip(logins, logins[5:]))
            assert logins[0] < 1.1 and [e.why for e in s.of(Lost)] == ["GatewayLogout"] * len(s.of(Lost))
    played(scenario)


def test_a_raising_handler_harms_nothing():
    async def scenario():
        heard = []
        def handler(e):
            heard.append(e)
            raise RuntimeError("mine")
        async with Scene(on_event=handler) as s:
            for price in (1.0, 2.0, 3.0): s.line.event("GatewayQuote", MES, {"lastPrice": price})
            await s.clock.advance(1)
            assert [e.last for e in heard if isinstance(e, Quote)] == [1.0, 2.0, 3.0] and s.hub.state == "connected"
            assert s.hub.counters.handler_errors == len(heard) == 5
    played(scenario)


def test_records_of_a_dead_generation_are_dropped():
    async def scenario():
        async with Scene() as s:
            old = s.line
            old.on_message([event("GatewayQuote", MES, {"lastPrice": 1.0}), {"type": 7, "error": "Connection closed with an error."}, event("GatewayQuote", MES, {"lastPrice": 2.0})])
            await s.clock.advance(3)
            old.event("GatewayQuote", MES, {"lastPrice": 3.0}), old.on_close("late", None), old.on_open()
            await s.clock.advance(3)
            assert [e.last for e in s.of(Quote)] == [1.0] and s.hub.generation == 2 == len(s.lines)
            assert s.of(Lost) == [Lost("market", 1, "the server closed: Connection closed with an error.")]
    played(scenario)


def test_subscriptions_are_sent_again_in_order():
    async def scenario():
        s = Scene()
        for method in ("ContractQuotes", "SubscribeContractTrades", "SubscribeContractMarketDepth"): s.hub.subscribe(method, MES)
        async with s:
            assert s.line.calls == [(f"SubscribeContract{x}", MES) for x in ("Quotes", "Trades", "MarketDepth")]
            assert told(s.heard) == told([Connected("market", 1), Subscribed("market", 1)])
            s.hub.subscribe("SubscribeContractTrades", MES), s.hub.subscribe("SubscribeContractTrades", "CON.F.US.EP.Z26")
            s.hub.unsubscribe("SubscribeContractQuotes", MES), s.hub.unsubscribe("UnsubscribeContractQuotes", MES)
            assert s.line.calls[3:] == [("SubscribeContractTrades", "CON.F.US.EP.Z26"), ("UnsubscribeContractQuotes", MES)]
            for _ in range(3):
                s.line.on_close("gone", None)
                await s.clock.advance(80)
                assert s.line.calls == [("SubscribeContractTrades", MES), ("SubscribeContractMarketDepth", MES), ("SubscribeContractTrades", "CON.F.US.EP.Z26")]
            assert s.hub.generation == 4
    played(scenario)


def test_subscribed_comes_when_every_call_is_answered():
    async def scenario():
        s = Scene(name="user")
        s.wire.lively = False
        s.hub.subscribe("SubscribeOrders", 7), s.hub.subscribe("SubscribeAccounts")
        async with s:
            first, second = (r["invocationId"] for r in s.line.sent)
            s.line.on_message([{"type": 3, "invocationId": second, "result": None}])
            await s.clock.advance(1)
            assert told(s.heard) == told([Connected("user", 1)])
            s.line.on_message([{"type": 3, "invocationId": first, "error": "Failed to invoke 'SubscribeOrders' due to an error on the server."}])
            await s.clock.advance(1)
            assert told(s.heard[1:]) == told([CallRefused("user", "SubscribeOrders(7)", "Failed to invoke 'SubscribeOrders' due to an error on the server.", 1), Subscribed("user", 1)])
            assert s.hub.counters.refused_calls == 1
            with pytest.raises(RetryLater, match="not subscribed"):
                s.hub.subscribe("SubscribeTrades", 7)
                await s.hub.subscribed(0.01)
    played(scenario)


def test_third_session_is_refused_before_any_socket():
    async def scenario():
        clock, sessions = FakeClock(), HubSessions()
        wires = [Wire(clock) for _ in range(3)]
        hubs = [Hub(name, "https://none", Tokens(), lambda e: None, clock, sessions, wire) for name, wire in zip(("user", "market", "user"), wires)]
        await hubs[0].start(), await hubs[1].start(), await hubs[0].start()
        with pytest.raises(FixTheConfig, match="at most 2 hub sessions"): await hubs[2].start()
        await clock.advance(100)
        assert [len(w.lines) for w in wires] == [1, 1, 0]
        await hubs[0].stop()
        await hubs[2].start()
        await clock.advance(0)
        assert len(wires[2].lines) == 1
        for hub in hubs: await hub.stop()
        with pytest.raises(ValueError, match="not open"): sessions.close("user")
    played(scenario)
    assert HubSessions.shared is Hub.__init__.__defaults__[1]


def test_unreadable_records_are_told_and_survived():
    bad = ["<html>", {"type": 99}, {}, {"type": 1}, {"type": 1, "target": ["x"], "arguments": []}, {"type": 1, "target": "GatewayQuote", "arguments": 5}, {"type": 1, "target": "GatewayQuote"},
           event("GatewayQuote", MES), event("GatewayQuote", MES, {"lastPrice": "7"}), event("GatewayQuote", MES, {"lastPrice": float("nan")}), event("GatewayTrade", MES, [{"price": 1.0}, None]),
           event("GatewayUserOrder", {"action": 1, "data": {"id": "7"}}), event("GatewayUserTrade", [1]), event("NeverHeardOf", 1), {"type": 3, "invocationId": "77"}, {"type": 3}, {"type": 7.5}]
    async def scenario():
        async with Scene() as s:
            s.line.on_message([*bad, event("GatewayQuote", MES, {"lastPrice": 5.0})])
            await s.clock.advance(1)
            gaps = s.of(UnreadableEvent)
            assert len(gaps) == s.hub.counters.unreadable == len(bad) and all("\n" not in e.text for e in gaps)
            assert [e.last for e in s.of(Quote)] == [5.0] and s.hub.generation == 1
    played(scenario)


def test_wrong_use_is_refused_at_the_door():
    async def handler(e): pass
    async def scenario():
        with pytest.raises(ValueError, match="a hub is one of user, market, got 'quotes'"): Hub("quotes", "u", Tokens(), print)
        with pytest.raises(ValueError, match="plain function"): Hub("user", "u", Tokens(), handler)
        hub = Hub("user", "u", Tokens(), print)
        for method in ("SubscribeContractQuotes", "SubscribeContractDepth", "orders", ""):
            with pytest.raises(ValueError, match="the user hub knows Accounts, Orders"): hub.subscribe(method, 7)
        with pytest.raises(RetryLater, match="the user hub is not connected after 0.01 s: stopped"): await hub.connected(0.01)
        await hub.stop()
    played(scenario)


def test_the_socket_waits_when_the_handler_is_slow():
    "Only so many messages wait for the loop; then the transport is held, so that nothing is lost and nothing piles up."
    async def scenario():
        async with Scene() as s:
            passed = []
            def feed():
                for i in range(3 * ROOM):
                    s.line.event("GatewayQuote", MES, {"volume": i})
                    passed.append(i)
            reader = threading.Thread(target=feed, daemon=True)
            reader.start()
            for _ in range(1000):  # the loop stands still meanwhile
                if len(passed) < ROOM: reader.join(0.01)
            reader.join(0.05)
            assert reader.is_alive() and len(passed) == ROOM
            await until(lambda: not reader.is_alive())
            await s.clock.advance(0)
            assert [e.volume for e in s.of(Quote)] == list(range(3 * ROOM))
    played(scenario)


def test_a_defect_of_the_supervisor_is_seen(caplog):
    async def scenario():
        async with Scene() as s:
            s.hub._backoff_s = ()
            s.line.on_close("gone", None)
            await s.clock.advance(1)
            assert s.hub.state == "stopped" and s.hub.counters.last_why.startswith("IndexError") and "supervisor died" in caplog.text
    played(scenario)


# events: both shapes of each


ORDER = {"id": 11, "accountId": 7, "contractId": MES, "status": 1, "type": 4, "side": 1, "size": 2, "stopPrice": 5000.25, "creationTimestamp": AT, "updateTimestamp": AT, "customTag": "a-SL", "parentOrderId": 10}
USER_CASES = [
    ("GatewayUserAccount", 1, {"id": 7, "name": "PRAC", "balance": 1000.5, "canTrade": True, "isVisible": True, "simulated": True}, AccountEvent, lambda e: (e.account.id, e.account.balance, e.account.can_trade) == (7, 1000.5, True)),
    ("GatewayUserOrder", 1, ORDER, OrderEvent, lambda e: (e.order.status, e.order.stop, e.order.limit, e.order.tag, e.order.parent) == (OrderStatus.OPEN, 5000.25, None, "a-SL", 10)),
    ("GatewayUserOrder", 2, ORDER | {"limitPrice": None, "filledPrice": None}, OrderEvent, lambda e: e.order.filled_price is None),
    ("GatewayUserPosition", 2, {"id": 3, "accountId": 7, "contractId": MES, "contractDisplayName": "MESZ6", "creationTimestamp": AT, "type": 0, "size": 0, "averagePrice": 5000.0}, PositionEvent,
     lambda e: (e.position.type, e.position.net) == (PositionType.UNDEFINED, 0)),
    ("GatewayUserTrade", 0, {"id": 4, "accountId": 7, "contractId": MES, "creationTimestamp": AT, "price": 5000.0, "profitAndLoss": -12.5, "fees": .36, "commissions": .25, "side": 0, "size": 1, "voided": False, "orderId": 11},
     FillEvent, lambda e: (e.fill.pnl, e.fill.side, e.fill.ts) == (-12.5, Side.BUY, ns_of(AT))),
]


@pytest.mark.parametrize("target, action, data, kind, right", USER_CASES)
def test_user_events_wrapped_and_bare(target, action, data, kind, right):
    reader = EventReader("user", 3)
    wrapped, bare = reader.read(target, [{"action": action, "data": data}]), reader.read(target, [data])
    assert type(wrapped) is type(bare) is kind and right(wrapped) and right(bare) and wrapped.generation == 3
    assert (wrapped.action, bare.action) == (action, None) and wrapped[1] == bare[1]


def test_trades_and_depth_as_array_and_as_object():
    reader = EventReader("market", 2)
    trade = {"symbolId": "F.US.MES", "price": 5000.25, "timestamp": AT, "type": 1, "volume": 3, "contractId": MES}
    prints = reader.read("GatewayTrade", [MES, [trade, trade | {"price": 5000.5, "type": None}]])
    assert prints == Prints(MES, [(ns_of(AT), 5000.25, 3, TradeType.SELL), (ns_of(AT), 5000.5, 3, None)], 2)
    assert reader.read("GatewayTrade", [MES, trade]) == prints._replace(prints=prints.prints[:1])
    rows = [{"timestamp": AT, "type": 6}, {"timestamp": AT, "type": 4, "price": 5000.0, "volume": 12, "currentVolume": 12}]
    depth = reader.read("GatewayDepth", [MES, rows])
    assert depth == Depth(MES, [(DepthType.RESET, None, None, None, ns_of(AT)), (DepthType.BEST_BID, 5000.0, 12, 12, ns_of(AT))], 2)
    assert reader.read("GatewayDepth", [MES, rows[1]]) == depth._replace(levels=depth.levels[1:])
    with pytest.raises(UnreadableAnswer, match="price is missing"): reader.read("GatewayDepth", [MES, [{"type": 1}]])
    assert reader.read(events.STEP_EVENT, [5]) == Step("market", 5, 2)


def test_quotes_are_merged_and_absent_is_never_zero():
    reader = EventReader("market", 1)
    first = reader.read("GatewayQuote", [MES, {"bestBid": 5000.0, "lastUpdated": AT}])
    assert first == Quote(MES, bid=5000.0, ts=ns_of(AT), generation=1) and first.last is None and first.volume is None
    full = reader.read("GatewayQuote", [MES, {"symbol": "F.US.MES", "lastPrice": 5000.25, "bestAsk": 5000.25, "change": -1.5, "changePercent": -.03, "open": 5001, "high": 5002.0, "low": 4999.0, "volume": 12, "bestBid": None}])
    assert full == first._replace(last=5000.25, ask=5000.25, change=-1.5, change_percent=-.03, open=5001.0, high=5002.0, low=4999.0, volume=12)
    with pytest.raises(UnreadableAnswer): reader.read("GatewayQuote", [MES, {"bestBid": 1.0, "bestAsk": "x"}])
    assert reader.read("GatewayQuote", [MES, {"volume": 13}]) == full._replace(volume=13)  # the unreadable one changed nothing
    assert reader.read("GatewayQuote", ["other", {"volume": 1}]) == Quote("other", volume=1, generation=1)


def test_quotes_begin_afresh_with_each_connection():
    async def scenario():
        async with Scene() as s:
            s.line.event("GatewayQuote", MES, {"lastPrice": 1.0, "bestBid": 0.75})
            await s.clock.advance(1)
            s.line.on_close("gone", None)
            await s.clock.advance(5)
            s.line.event("GatewayQuote", MES, {"bestAsk": 2.0})
            await s.clock.advance(1)
            assert s.of(Quote)[-1] == Quote(MES, ask=2.0, generation=2)
    played(scenario)


# signalrcore over a real socket


def test_wire_of_a_connection():
    "The token in query and header, version 1, calls with ids and no headers of signalrcore's, several records a message, a record over several, pings of both kinds."
    async def scenario():
        heard = []
        async with ScriptedHub() as server:
            server.greeting = '{}\x1e{"type":6}\x1e' + '{"type":1,"target":"GatewayQuote","arguments":["early",{"volume":1}]}'  # in one message with the handshake
            hub = live_hub(server, heard, ping_s=0.05)
            hub.subscribe("SubscribeContractQuotes", MES)
            await hub.start()
            await hub.subscribed(10)
            assert server.tokens == [("token-1", "Bearer token-1")] and server.greetings == [{"protocol": "json", "version": 1}]
            assert server.said[0][0] == {"type": 1, "invocationId": "1", "target": "SubscribeContractQuotes", "arguments": [MES]}
            await server.sockets[0].ping(b"\xff\xfe")  # no text: signalrcore alone would die of it
            text = '{"type":1,"target":"GatewayQuote","arguments":["split",{"volume":2}]}\x1e'
            await server.send(event("GatewayQuote", "a", {}), event("GatewayQuote", "b", {}), text[:30])
            await server.send(text[30:50])
            await server.send(text[50:], "no json\x1e", event("GatewayQuote", "c", {}))
            await until(lambda: [e.contract for e in heard if isinstance(e, Quote)] == ["early", "a", "b", "split", "c"])
            await until(lambda: server.ponged == [b"\xff\xfe"] and sum(r["type"] == 6 for r in server.said[0]) >= 2)
            assert [type(e) for e in heard if not isinstance(e, Quote)] == [Connected, Subscribed, UnreadableEvent] and len(server.sockets) == 1
            await hub.stop()
    played(scenario)


def test_ten_thousand_messages_in_a_burst():
    "None lost, all in order, in the event loop and never in a thread, whether one a message or many."
    async def scenario():
        heard, threads = [], set()
        async with ScriptedHub() as server:
            hub = live_hub(server, heard)
            hub._on_event = lambda e: (heard.append(e), threads.add(threading.get_ident()))
            await hub.start()
            await hub.connected(10)
            for i in range(0, 5000): await server.send(event("GatewayQuote", MES, {"volume": i}))
            for i in range(5000, 10_000, 50): await server.send(*(event("GatewayQuote", MES, {"volume": j}) for j in range(i, i + 50)))
            await until(lambda: hub.counters.messages == 10_000, 30)
            assert [e.volume for e in heard if isinstance(e, Quote)] == list(range(10_000)) and threads == {threading.get_ident()}
            await hub.stop()
    played(scenario)


@pytest.mark.parametrize("how", ["reset", "type 7", "close frame", "handshake error", "garbage"])
def test_ends_of_a_connection(how):
    "Whatever ends it, a new connection follows with a token asked afresh and the same subscription."
    async def scenario():
        heard = []
        async with ScriptedHub() as server:
            if how == "handshake error": server.greeting = '{"error":"Requested protocol \'json\' is not available."}'
            hub = live_hub(server, heard)
            hub.subscribe("SubscribeContractTrades", MES)
            await hub.start()
            if how == "handshake error":
                await until(lambda: hub.counters.rebuilds >= 2)
                assert hub.generation == 0 and heard == [] and "Requested protocol" in hub.counters.last_why
                server.greeting = "{}"
            await hub.subscribed(10)
            if how == "reset": server.reset()
            if how == "type 7": await server.send({"type": 7, "error": "Connection closed with an error."})
            if how == "close frame": await server.sockets[0].close()
            if how == "garbage": server.sockets[0].request.transport.write(b"\x81\xff")
            generation = 1 if how == "handshake error" else 2
            await until(lambda: (Subscribed, "market", generation) in told(heard))
            assert [r["target"] for r in server.said[-1]] == ["SubscribeContractTrades"] and server.tokens[-1][0] == f"token-{len(server.tokens)}"
            if how != "handshake error": assert [type(e) for e in heard] == [Connected, Subscribed, Lost, Connected, Subscribed]
            await hub.stop()
    played(scenario)


def test_first_reconnect_refused():
    "The server goes down and stays away for some attempts (signalrcore alone is stuck for ever then)."
    async def scenario():
        heard = []
        async with ScriptedHub() as server:
            hub = live_hub(server, heard)
            await hub.start()
            await hub.connected(10)
            await server.down()
            await until(lambda: hub.counters.rebuilds >= 3 and "ConnectionRefusedError" in hub.counters.last_why)
            await server.up()
            await until(lambda: hub.generation == 2)
            await server.send(event("GatewayQuote", MES, {"volume": 1}))
            await until(lambda: heard[-1:] == [Quote(MES, volume=1, generation=2)])
            await hub.stop()
    played(scenario)


def test_token_refused_on_upgrade():
    "401, with a 101 elsewhere in the answer: no upgrade, and the next token comes from a new login."
    async def scenario():
        heard, tokens = [], Tokens()
        async with ScriptedHub() as server:
            server.refuse = 401
            hub = live_hub(server, heard, tokens)
            await hub.start()
            await until(lambda: len(server.tokens) >= 2)
            server.refuse = None
            await hub.connected(10)
            assert tokens.forced[0] is False and all(tokens.forced[1:]) and hub.counters.last_why == "the server answered HTTP 401"
            await hub.stop()
    played(scenario)


def ours(): return [t for t in threading.enumerate() if t.name == "mesbot hub" or t.name.startswith("Signalrcore")]


def test_stop_does_not_wait_for_a_silent_server():
    "signalrcore's own stop() would block until the server's next frame. Here it returns, and no thread is left behind."
    async def scenario():
        async with ScriptedHub() as server:
            server.answers, server.answers_pings = None, False
            hub = live_hub(server, [])
            await hub.start()
            await hub.connected(10)
            assert ours() and all(t.daemon for t in ours())
            await asyncio.wait_for(hub.stop(), 5)
            assert hub.state == "stopped"
            await until(lambda: not ours())
    played(scenario)


def test_stop_while_the_server_does_not_answer_the_upgrade():
    async def scenario():
        with socket.create_server(("127.0.0.1", 0)) as deaf:
            hub = Hub("user", f"http://127.0.0.1:{deaf.getsockname()[1]}/hubs/user", Tokens(), print, sessions=HubSessions())
            await hub.start()
            await until(lambda: hub._link and hub._link.transport and hub._link.transport._client.sock)
            await asyncio.wait_for(hub.stop(), 5)
            await until(lambda: not ours())
    played(scenario)


def test_a_closed_loop_leaves_no_thread_behind():
    "A program that forgets to stop its hub: the threads find nobody to tell, and end."
    s = Scene()
    async def scenario():
        async with ScriptedHub() as server:
            hub = live_hub(server, [])
            await hub.start()
            await hub.connected(10)
            await s.hub.start()
            await s.clock.advance(0)
    played(scenario)
    asyncio.run(until(lambda: not ours()))
    s.line.stopped = False
    s.line.event("GatewayQuote", MES, {"volume": 1})
    assert s.line.stopped


def test_no_secret_in_the_logs(caplog):
    "Everything that can go wrong, at DEBUG, with a token that nobody told the redaction of."
    secret = "plain-Secret/token+1"
    async def token(force=False): return secret
    async def scenario():
        heard = []
        async with ScriptedHub() as server:
            server.refuse = 401
            hub = live_hub(server, heard, token)
            hub._on_event = lambda e: 1 / 0
            hub.subscribe("SubscribeContractQuotes", MES)
            await hub.start()
            await until(lambda: len(server.tokens) >= 2)
            server.refuse, server.answers = None, {"SubscribeContractQuotes": {"error": "no"}}
            await hub.subscribed(10)
            await server.send("junk\x1e", event("GatewayLogout"))
            await until(lambda: hub.generation == 2)
            server.reset()
            await until(lambda: hub.generation == 3)
            await server.send({"type": 7, "error": "bye"})
            await until(lambda: hub.generation == 4)
            await server.down()
            await until(lambda: "Refused" in hub.counters.last_why)
            await hub.stop()
            assert server.tokens[0] == (secret, f"Bearer {secret}")
            await server.up()
    caplog.set_level(logging.DEBUG)
    played(scenario)
    text = "\n".join(f"{r.getMessage()} {r.args} {r.exc_text}" for r in caplog.records) + caplog.text
    assert "handler failed" in text and "call refused" in text and "HTTP 401" in text
    for piece in (secret, "plain-Secret", "token%2B1", "access_token", "Bearer"): assert piece not in text
