"The simulated gateway as a server: REST, both hubs and the control calls in front of a venue and a market."
import asyncio
import json
import time
from collections import Counter
from typing import NamedTuple

import structlog
from aiohttp import web

from ..clock import WallClock, ns_of
from ..problems import FixTheConfig
from ..protocol import ENDPOINTS, PING, QUERY_FILTER, Endpoint
from .clock import Clock
from .connection import cut
from .control import add_control, is_loopback
from .faults import Faults
from .hubs import Hubs, token_of
from .limits import RequestLimits
from .server_settings import ServerSettings
from .tokens import LOGINS, LOGOUT, VALIDATE, Tokens, envelope

LISTS = ("accounts", "contracts", "bars", "orders", "positions", "trades")
BODY_TYPES = ("application/json", "text/json")                   # and application/*+json
ANSWER_TYPES = ("application/json", "text/plain", "text/json")   # the first is the default
BRACKET = {"ticks": "int", "type": "int"}, {}
NESTED = {"filter": QUERY_FILTER, "stopLossBracket": BRACKET, "takeProfitBracket": BRACKET}
log = structlog.get_logger("simulator")


class Urls(NamedTuple):
    "Where the gateway is and how to get in."
    rest: str
    user_hub: str
    market_hub: str
    control: str
    username: str
    api_key: str


def _is(kind: str, value) -> bool:
    "Whether a JSON value is of this kind."
    if kind == "time":
        try: return isinstance(value, str) and ns_of(value) is not None
        except ValueError: return False
    if kind in ("int", "number"): return isinstance(value, int if kind == "int" else (int, float)) and not isinstance(value, bool)
    if kind == "ints": return isinstance(value, list) and all(_is("int", v) for v in value)
    return isinstance(value, {"str": str, "bool": bool, "object": dict}[kind])


def body_errors(required: dict, optional: dict, body: dict, where: str = "") -> dict:
    "Field -> what is wrong with it; unknown fields do not matter, and null counts as absent."
    errors = {}
    for field, kind in {**required, **optional}.items():
        value, name = body.get(field), where + field
        if value is None:
            if field in required: errors[name] = [f"The {name} field is required."]
        elif not _is(kind, value): errors["$." + name] = [f"The JSON value could not be converted. Path: $.{name}"]
        elif kind == "object": errors |= body_errors(*NESTED[field], value, f"{name}.")
    return errors


def problem(status: int, title: str, errors: dict | None = None) -> web.Response:
    "ProblemDetails, as ASP.NET answers what it cannot read."
    body = {"type": f"https://tools.ietf.org/html/rfc9110#section-15.5.{16 if status == 415 else 1}", "title": title, "status": status, **({"errors": errors} if errors else {})}
    return web.Response(status=status, text=json.dumps(body), content_type="application/problem+json")


def _answer_type(request: web.Request) -> str:
    "The first of ANSWER_TYPES that the client asks for."
    asked = [part.split(";")[0].strip() for part in request.headers.get("Accept", "").split(",")]
    return next((kind for kind in asked if kind in ANSWER_TYPES), ANSWER_TYPES[0])


def check_door(settings: ServerSettings) -> None:
    "FixTheConfig when told to bind elsewhere than loopback without a secret."
    if is_loopback(settings.host) or settings.secret: return
    raise FixTheConfig(f"the simulated gateway binds {settings.host!r} only with a token secret of 16 characters or more (MESBOT_GATEWAY_SECRET); loopback needs none")


class SimulatedGateway:
    "Made first; `emit` is what venue and replay are given; `start` opens the door once these exist."

    def __init__(self,
        clock: Clock,                # the market's
        faults: Faults,
        settings: ServerSettings = ServerSettings(),
        wall: WallClock = WallClock(),
    ):
        self.clock, self.faults, self.settings, self.wall = clock, faults, settings, wall
        self.tokens, self.limits = Tokens(settings, wall), RequestLimits(settings.window)
        self.emit = Hubs(clock, faults, self.tokens, settings, wall)
        self.requests = Counter()    # "path status" -> how many
        self.venue = self.replay = self._runner = self._watch = None

    async def start(self, venue, replay) -> Urls:
        "Serves until `stop`; FixTheConfig when told to bind elsewhere than loopback without a secret. Running the replay is the caller's affair."
        s = self.settings
        check_door(s)
        self.venue, self.replay = venue, replay
        self.emit.paced = isinstance(replay.speed, (int, float)) and replay.speed > 0
        app = web.Application()
        app.router.add_get(PING, self._rest)
        for path in ENDPOINTS: app.router.add_post(path, self._rest)
        app.router.add_post("/hubs/{hub:user|market}/negotiate", self.emit.negotiate)
        app.router.add_get("/hubs/{hub:user|market}", self.emit.connect)
        add_control(app, self)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, s.host, s.port)
        await site.start()
        self._watch = asyncio.create_task(self.emit.watch())
        host, port = self._runner.addresses[0][:2]
        base = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        return Urls(base, f"{base}/hubs/user", f"{base}/hubs/market", f"{base}/sim", s.username, s.api_key.get_secret_value())

    async def stop(self):
        "Closes every connection and the door."
        if not self._runner: return
        await self.emit.stop()
        self._watch.cancel()
        await self._runner.cleanup()
        self._runner = None

    # REST

    async def _rest(self, request: web.Request) -> web.Response:
        "Counts and logs a request around what is done with it."
        began = time.perf_counter()
        response = await self._spoiled(request)
        self.requests[f"{request.path} {response.status}"] += 1
        log.debug("request", path=request.path, status=response.status, ms=round((time.perf_counter() - began) * 1e3, 3))
        return response

    async def _spoiled(self, request: web.Request) -> web.Response:
        "The answer, with whatever the plan of faults does before and after it."
        await request.read()  # it has arrived, so it is done even if the client does not wait for the answer
        hit = lambda name: self.faults.hit(name, path=request.path)
        if hit("cut_before"): return self._cut(request)
        if rule := hit("error_before"): return web.Response(status=rule["status"])
        if hit("unauthorized"): return self._unauthorized()
        if rule := hit("too_many"): return self._too_many(rule["retry_after_s"])
        if rule := hit("delay_before"): await self.wall.sleep(rule["delay_s"])
        response = await self._answer(request)
        if rule := hit("delay_after"): await self.wall.sleep(rule["delay_s"])
        if hit("cut_after"): return self._cut(request)
        if rule := hit("error_after"): return web.Response(status=rule["status"])
        if rule := hit("html_body"): return web.Response(status=rule["status"], text="<html><body><h1>Bad Gateway</h1></body></html>", content_type="text/html")
        if hit("bad_json"): return web.Response(text=response.text[:len(response.text) // 2], content_type="application/json")
        return response

    def _cut(self, request: web.Request) -> web.Response:
        cut(request.transport)
        return web.Response(status=499)  # nobody gets it: it only counts

    def _unauthorized(self) -> web.Response: return web.Response(status=401, headers={"WWW-Authenticate": "Bearer"})

    def _too_many(self, wait_s: float | None) -> web.Response:
        return web.Response(status=429, headers={} if wait_s is None else {"Retry-After": str(-int(-wait_s // 1))})

    async def _answer(self, request: web.Request) -> web.Response:
        "Who is it, may he ask so often, can it be read: then the venue answers."
        kind = _answer_type(request)
        if request.path == PING: return web.Response(text="pong" if kind == "text/plain" else '"pong"', content_type=kind)
        endpoint, token = ENDPOINTS[request.path], token_of(request) if "Authorization" in request.headers else ""
        login = endpoint.path in LOGINS
        state = "good" if login else self.tokens.state(token)
        if state != "good" and not (endpoint.path == VALIDATE and state != "unknown" and self.settings.expired_validate == "code"): return self._unauthorized()
        if wait_s := self.limits.wait("login" if login else token, endpoint.path, self.clock.now): return self._too_many(wait_s if self.settings.retry_after else None)
        body = await self._body(request, endpoint)
        if isinstance(body, web.Response): return body
        return web.Response(text=json.dumps(self._envelope(endpoint, body, token, state)), content_type=kind)

    async def _body(self, request: web.Request, endpoint: Endpoint) -> dict | web.Response:
        "The body, checked; or the refusal of it."
        raw = await request.read()
        if not raw and not endpoint.required: return {}
        kind = request.content_type
        if kind not in BODY_TYPES and not (kind.startswith("application/") and kind.endswith("+json")): return problem(415, "Unsupported Media Type")
        invalid = "One or more validation errors occurred."
        try: body = json.loads(raw)
        except ValueError: return problem(400, invalid, {"$": ["The body is not JSON."]})
        if not isinstance(body, dict): return problem(400, invalid, {"$": ["The JSON value could not be converted. Path: $"]})
        errors = body_errors(endpoint.required, endpoint.optional, body)
        return problem(400, invalid, errors) if errors else {name: value for name, value in body.items() if value is not None}

    def _envelope(self, endpoint: Endpoint, body: dict, token: str, state: str) -> dict:
        "What is answered with status 200."
        if rule := self.faults.hit("refuse", path=endpoint.path): return envelope(rule["code"], rule["message"], **({endpoint.payload: None} if endpoint.payload else {}))
        if endpoint.payload in LISTS and self.faults.hit("empty", path=endpoint.path): return envelope(**{endpoint.payload: []})
        if endpoint.path in LOGINS: return self.tokens.login(endpoint.path, body)
        if endpoint.path == VALIDATE: return self.tokens.validate(state)
        if endpoint.path == LOGOUT: return self.tokens.logout(token)
        return self.venue.answer(endpoint.path, body)
