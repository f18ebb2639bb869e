"What a test or an operator may do to the simulated gateway: let time pass, break things, interfere. From loopback only."
import ipaddress
import json
from collections import Counter

from aiohttp import web

from ..clock import isotime
from ..protocol import Side
from . import faults as plan
from .hubs import BREAKS

FIELDS = {  # POST /sim/<name>: what its body must and may carry
    "step": ((), ("seconds", "bars", "until")), "account": (("accountId", "canTrade"), ()), "flatten": (("accountId",), ()),
    "trade": (("accountId", "side", "size"), ()), "expire_tokens": ((), ()), "hubs": (("do",), ("hub",)),
}


def is_loopback(address: str | None) -> bool:
    "Whether this is an address of the machine itself."
    try: return ipaddress.ip_address(address or "").is_loopback
    except ValueError: return address == "localhost"


def add_control(app: web.Application, gateway):
    "The routes under /sim; a wrong request is answered with 400 and one line that says why."
    control = Control(gateway)
    app.router.add_get("/sim", control.guarded(control.state))
    for name in FIELDS: app.router.add_post(f"/sim/{name}", control.guarded(getattr(control, name)))
    app.router.add_get("/sim/faults", control.guarded(control.faults))
    app.router.add_post("/sim/faults", control.guarded(control.add_faults))
    app.router.add_delete("/sim/faults", control.guarded(control.clear_faults))


class Control:
    "Each method takes the body of a request and returns what is answered; ValueError is the caller's mistake."

    def __init__(self, gateway): self.gateway = gateway

    def guarded(self, method):
        "The handler of a route: loopback only, body read and checked."
        async def handler(request: web.Request) -> web.Response:
            if not is_loopback(request.remote): return web.Response(status=403, text="the simulator is controlled from loopback only")
            try:
                body = json.loads(await request.read() or "{}")
                if method.__name__ in FIELDS: _check(method.__name__, body)
                return web.json_response(await method(body))
            except ValueError as error: return web.json_response({"error": str(error)}, status=400)
        return handler

    async def step(self, body: dict) -> dict: return await self.gateway.replay.step(**body)

    async def state(self, body: dict) -> dict:
        "Where everything stands."
        g = self.gateway
        connections = [{"hub": c.hub, "records": c.records, "queued": c.queued, "silent": c.silent} for c in g.emit.connections]
        return {"ts": g.clock.now, "iso": isotime(g.clock.now), "speed": g.replay.speed, "ended": g.replay.ended, "session": g.replay.session, "connections": connections,
                "counters": {"requests": dict(g.requests), "events": dict(g.emit.events), "clients_dropped": g.emit.dropped}}

    async def faults(self, body: dict) -> dict: return {"plan": self.gateway.faults.report(), "known": plan.table()}

    async def add_faults(self, body) -> dict:
        "One rule or a list of rules, added to the plan: all or none."
        self.gateway.faults.add(body if isinstance(body, list) else [body])
        return {"plan": self.gateway.faults.report()}

    async def clear_faults(self, body: dict) -> dict:
        self.gateway.faults.clear()
        return {"plan": []}

    async def account(self, body: dict) -> dict:
        if not isinstance(body["canTrade"], bool): raise ValueError(f"canTrade must be true or false, got {body['canTrade']!r}")
        self.gateway.venue.lock(self._account(body), body["canTrade"])
        return {}

    async def flatten(self, body: dict) -> dict:
        self.gateway.venue.flatten(self._account(body))
        return {}

    async def trade(self, body: dict) -> dict:
        if type(body["size"]) is not int or body["size"] < 1: raise ValueError(f"size must be a whole number >= 1, got {body['size']!r}")
        return {"orderId": self.gateway.venue.trade(self._account(body), Side(body["side"]), body["size"])}

    async def expire_tokens(self, body: dict) -> dict:
        self.gateway.tokens.expire()
        return {}

    async def hubs(self, body: dict) -> dict:
        "Break every connection, or those of one hub; a logout is told to both."
        how, hub = body["do"], body.get("hub")
        if how not in BREAKS: raise ValueError(f"do must be one of {', '.join(BREAKS)}, got {how!r}")
        if hub not in (None, "user", "market"): raise ValueError(f"hub must be user or market, got {hub!r}")
        hit = [c for c in self.gateway.emit.connections if hub in (None, c.hub)]
        self.gateway.emit.break_up(how, hit)
        return {"connections": dict(Counter(c.hub for c in hit))}

    def _account(self, body: dict) -> int:
        known = self.gateway.venue.accounts
        if body["accountId"] not in known: raise ValueError(f"accountId must be one of {', '.join(map(str, known))}, got {body['accountId']!r}")
        return body["accountId"]


def _check(name: str, body):
    "ValueError unless the body is an object with exactly the fields that it must and may have."
    must, may = FIELDS[name]
    if not isinstance(body, dict): raise ValueError(f"/sim/{name} takes an object, got {body!r}")
    for field in must:
        if field not in body: raise ValueError(f"/sim/{name} needs {field}")
    for field in body:
        if field not in (*must, *may): raise ValueError(f"/sim/{name} has no {field!r}; it takes {', '.join((*must, *may)) or 'nothing'}")
