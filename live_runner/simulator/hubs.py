"The user hub and the market hub: who is connected, who has subscribed to what, and every event to all of them."
import asyncio
import secrets
from collections import Counter

import structlog
from aiohttp import web

from ..clock import WallClock
from ..protocol import LOGOUT_EVENT, MARKET_EVENTS, MARKET_METHODS, USER_EVENTS, USER_METHODS
from .clock import Clock
from .connection import CLOSE, CLOSE_BY_ERROR, PING, Connection, record
from .faults import Faults
from .server_settings import ServerSettings
from .tokens import Tokens

STEP_EVENT = "SimulatorStep"  # ours: the market has come to this moment and everything before it has been sent
BREAKS = ("close_error", "reset", "half_open", "logout")
QUOTE, USER_TRADE, USER_POSITION = "GatewayQuote", "GatewayUserTrade", "GatewayUserPosition"
ID_S, END_S = 15.0, 5.0  # a negotiated id is good for so long; a connection that ends has so long to take its last record
_HUB_OF = {**dict.fromkeys(USER_EVENTS, "user"), **dict.fromkeys(MARKET_EVENTS, "market")}
log = structlog.get_logger("simulator")


def _methods(names, events, kind) -> dict:
    "Lower-case method -> (True to subscribe, event, kind of its one argument or None)."
    pairs = [*((name, event, None if name == "Accounts" else kind) for name, event in zip(names, events)), ("Steps", STEP_EVENT, None)]
    return {f"{verb}{name}".lower(): (verb == "Subscribe", event, k) for verb in ("Subscribe", "Unsubscribe") for name, event, k in pairs}


METHODS = {"user": _methods(USER_METHODS, USER_EVENTS, int), "market": _methods(MARKET_METHODS, MARKET_EVENTS, str)}


def token_of(request: web.Request) -> str:
    'The token of the query or of the header; "" when there is none.'
    return request.query.get("access_token") or request.headers.get("Authorization", "").removeprefix("Bearer ").strip()


class Hubs:
    "Called as `emit(event, key, payload, action=None)` by venue and replay; it never waits. `drain` waits until all of it is on the wire."

    def __init__(self, clock: Clock, faults: Faults, tokens: Tokens, settings: ServerSettings, wall: WallClock):
        self.clock, self.faults, self.tokens, self.settings, self.wall = clock, faults, tokens, settings, wall
        self.connections = {}               # Connection -> None, oldest first
        self.subscribed = asyncio.Event()   # somebody listens to the market
        self.paced = False                  # True: the market does not wait for its listeners, and drops those that are too slow
        self.dropped, self.events = 0, Counter()  # clients; events by name that somebody listened to
        self._crowds = {}                   # (event, account or contract or None) -> {Connection: None}
        self._quotes = {}                   # contract -> all that its quotes have said so far
        self._held = {"user": [], "market": []}  # events out of order, waiting for the next one of their hub
        self._ids = {}                      # negotiated id -> [hub, good until (s), in use]
        self._told = None                   # the moment of the last SimulatorStep

    # events

    def listening(self, event: str, key) -> bool:
        "Whether anybody has subscribed to this."
        return bool(self._crowds.get((event, key)))

    def __call__(self, event: str, key, payload, action: int | None = None):
        "An event for all who have subscribed; action None: 0 for trades, 2 for a flat position, else 1."
        if event == QUOTE: self._quotes.setdefault(key, {}).update(payload)
        if event == "GatewayUserAccount": key = None
        crowd = self._crowds.get((event, key))
        if not crowd: return
        self.events[event] += 1
        text = self._text(event, key, payload, action)
        if self.faults.active: self._spoil(event, key, text)
        else: self._send(event, key, text)

    def _text(self, event: str, key, payload, action) -> str:
        "The record (or records) of an event, encoded once for all, in the shapes that are set."
        shape = self.settings
        if isinstance(payload, dict) and not shape.nulls: payload = {name: value for name, value in payload.items() if value is not None}
        if event in USER_EVENTS:
            if action is None: action = 0 if event == USER_TRADE else 2 if event == USER_POSITION and not payload["type"] else 1
            return record({"type": 1, "target": event, "arguments": [{"action": action, "data": payload} if shape.wrapped else payload]})
        if event == QUOTE: return record({"type": 1, "target": event, "arguments": [key, payload]})
        many = payload if isinstance(payload, list) else [payload]
        return "".join(record({"type": 1, "target": event, "arguments": [key, one]}) for one in ([many] if shape.arrays else many))

    def _send(self, event: str, key, text: str):
        for connection in tuple(self._crowds.get((event, key), ())):
            connection.put(text)
            if self.paced and connection.queued > self.settings.slow_records: self._drop(connection, "too slow")

    def _spoil(self, event: str, key, text: str):
        "Sends the event as the plan of faults will have it."
        hub = _HUB_OF[event]
        hit = lambda name: self.faults.hit(name, event=event, hub=hub)
        if hit("half_open"): self.break_up("half_open", tuple(self._crowds[event, key]))
        copies = 2 if hit("duplicate") else 1
        send = lambda: [self._send(event, key, text) for _ in range(copies)]
        if hit("lose"): pass
        elif rule := hit("delay"): self.clock.at(self.clock.now + round(rule["delay_s"] * 1e9), send)
        elif rule := hit("reorder"):
            self._held[hub].append(send)
            self.clock.at(self.clock.now + round(rule["delay_s"] * 1e9), lambda: self._release(hub, [send]))
        else:
            send()
            self._release(hub, list(self._held[hub]))
        for name in ("close_error", "reset", "logout"):
            if hit(name): self.break_up(name, tuple(self._crowds.get((event, key), ())))

    def _release(self, hub: str, sends: list):
        "Sends those of these events that are still held back."
        for send in sends:
            if send not in self._held[hub]: continue
            self._held[hub].remove(send)
            send()

    def break_up(self, how: str, connections):
        "One of BREAKS for these connections; a logout is for all of both hubs."
        if how == "logout":
            for connection in self.connections: connection.put(record({"type": 1, "target": LOGOUT_EVENT, "arguments": []}))
            return
        for connection in connections:
            if how == "half_open": connection.go_silent()
            elif how == "reset": connection.reset()
            else: connection.end(CLOSE_BY_ERROR)

    def second(self, now: int):  # ns UTC
        "Tells those who count steps that the market has come so far; never waits."
        if self._told == now or not self.listening(STEP_EVENT, None): return
        self._told = now
        self._send(STEP_EVENT, None, record({"type": 1, "target": STEP_EVENT, "arguments": [now]}))

    async def drain(self):
        "As `second`, and waits until everybody has been sent everything."
        self.second(self.clock.now)
        await asyncio.sleep(0)  # with nobody connected, REST needs its turn too
        for connection in tuple(self.connections): await connection.idle.wait()

    # connections

    async def negotiate(self, request: web.Request) -> web.Response:
        "Gives out an id for one WebSocket; version 1 calls the secret one connectionToken."
        hub, refused = self._admit(request)
        if refused: return refused
        version = 1 if request.query.get("negotiateVersion") == "1" else 0
        public, secret = secrets.token_urlsafe(16), secrets.token_urlsafe(16)
        self._ids[secret if version else public] = [hub, self.wall.monotonic() + ID_S, False]
        transports = [{"transport": "WebSockets", "transferFormats": ["Text", "Binary"]}]
        token = {"connectionToken": secret} if version else {}
        return web.json_response({"negotiateVersion": version, "connectionId": public, **token, "availableTransports": transports})

    def _admit(self, request: web.Request):
        "The hub asked for, and the refusal, if it is refused."
        hub = request.match_info["hub"]
        if rule := self.faults.hit("refuse_connect", hub=hub): return hub, web.Response(status=rule["status"])
        if self.tokens.state(token_of(request)) != "good": return hub, web.Response(status=401, headers={"WWW-Authenticate": "Bearer"})
        return hub, None

    async def connect(self, request: web.Request) -> web.StreamResponse:
        "A WebSocket from its upgrade to its end."
        hub, refused = self._admit(request)
        if refused: return refused
        number = request.query.get("id")
        known = self._ids.get(number) if number is not None else [hub, 0.0, False]
        if not known or known[0] != hub: return web.Response(status=404, text="No Connection with that ID")
        if known[2]: return web.Response(status=409, text="The connection is already in use.")
        ws = web.WebSocketResponse(heartbeat=None, compress=False, autoping=False, autoclose=False, timeout=2.0, max_msg_size=1 << 20)
        if not ws.can_prepare(request): return web.Response(status=400, text="Expected a WebSocket.")
        known[2] = True
        await ws.prepare(request)
        connection = Connection(hub, token_of(request), ws, request.transport, self.wall, self._call)
        self.connections[connection] = None
        log.debug("hub opened", hub=hub, open=len(self.connections))
        try: await connection.serve()
        finally: self._forget(connection, number)
        return ws

    def _forget(self, connection: Connection, number: str | None):
        self._ids.pop(number, None)
        self.connections.pop(connection, None)
        for crowd in self._crowds.values(): crowd.pop(connection, None)
        log.debug("hub closed", hub=connection.hub, open=len(self.connections), records=connection.records)

    def _drop(self, connection: Connection, why: str):
        self.dropped += 1
        log.warning("client dropped", hub=connection.hub, why=why, queued=connection.queued)
        connection.reset()

    def _call(self, connection: Connection, target: str, arguments: list, stream: bool) -> tuple[str | None, str | None]:
        "Does what a client invokes: the text of the error, or None; and a record to follow the completion, or None."
        failed = f"Failed to invoke '{target}' due to an error on the server."
        method = METHODS[connection.hub].get(target.lower())
        if not method: return f"{failed} HubException: Method does not exist.", None
        on, event, kind = method
        if stream or not isinstance(arguments, list) or [type(a) for a in arguments] != ([kind] if kind else []): return failed, None
        crowd = self._crowds.setdefault((event, arguments[0] if kind else None), {})
        if not on: return crowd.pop(connection, None), None
        if connection in crowd: return None, None
        crowd[connection] = None
        if connection.hub == "market": self.subscribed.set()
        quote = self._quotes.get(arguments[0]) if event == QUOTE else None
        return None, self._text(QUOTE, arguments[0], quote, None) if quote else None

    async def watch(self):
        "Once a second of the wall clock, for ever: pings, clients that are silent or do not introduce themselves, spent ids."
        while True:
            await self.wall.sleep(1.0)
            now = self.wall.monotonic()
            self._ids = {number: known for number, known in self._ids.items() if known[2] or known[1] > now}
            for connection in tuple(self.connections): self._look_at(connection, now)

    def _look_at(self, connection: Connection, now: float):
        s = self.settings
        connection.tick()
        if connection.silent: return
        if connection.ending_at is not None:
            if now - connection.ending_at >= END_S: connection.reset()
        elif not connection.ready:
            if now - connection.opened_at >= s.handshake_s: connection.end({"error": "Handshake was canceled."})
        elif now - connection.heard_at >= s.silence_s: connection.end(CLOSE_BY_ERROR)
        elif s.expiry_closes and self.tokens.state(connection.token) != "good": connection.end(CLOSE_BY_ERROR)
        elif now - connection.sent_at >= s.ping_s:
            connection.sent_at = now
            if not self.faults.hit("no_pings", hub=connection.hub): connection.put(PING)

    async def stop(self):
        "Closes every connection; one that does not take its last record within a second is reset."
        for connection in self.connections: connection.end(CLOSE)
        for _ in range(100):
            if all(connection.silent for connection in self.connections): break
            await asyncio.sleep(0.01)
        for connection in self.connections: connection.reset()
        while self.connections: await asyncio.sleep(0.01)
