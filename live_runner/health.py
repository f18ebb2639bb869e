"""What the runner says of itself over HTTP: `/healthz` for whoever restarts it, `/status` for the eye, `/metrics` for Prometheus, and `POST /kill`. It lives in the loop of the
runner on purpose: a loop that is stuck does not answer."""
import hmac
import ipaddress
import time
from collections.abc import Callable
from typing import Self

from aiohttp import web

from . import logs
from .metrics import Meters
from .problems import FixTheConfig

SILENT_S = 5.0        # without a second of the market for so long the runner is not well
TOKEN = 16            # characters of a token, or more
GAUGES = ("price", "position", "open_usd", "day_net_usd", "balance_usd", "trades", "signals")  # keys of the status that Prometheus is told

log = logs.logger("live_runner.health")


def is_loopback(
    host: str, # an address or a name
) -> bool:
    "Whether this is the machine itself."
    try: return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError: return host == "localhost"


def check_door(
    host: str,  # where to listen
    token: str, # what a caller must know
) -> None:
    "FixTheConfig when told to listen elsewhere than on loopback without a token, or with one that is too short."
    if token and len(token) < TOKEN: raise FixTheConfig(f"MESBOT_RUNNER_TOKEN must have {TOKEN} characters or more, got {len(token)}")
    if not token and not is_loopback(host): raise FixTheConfig(f"health listens on {host!r} only with a token of {TOKEN} characters or more (MESBOT_RUNNER_TOKEN); loopback needs none")


class Health:
    "The door; `second` and `pause` tell it how the market flows."

    def __init__(self,
        status: Callable[[], dict],     # of the core, plain JSON
        meters: Meters,
        on_kill: Callable[[str], None], # gets the reason; must not block
        port: int = 0,                  # 0: a free one
        host: str = "127.0.0.1",
        token: str = "",                # for what acts, and for everything but /healthz when listening elsewhere than on loopback; empty: nothing can act
        monotonic: Callable[[], float] = time.monotonic,
    ):
        check_door(host, token)
        if token: logs.hide(token)
        self.status, self.meters, self.on_kill, self.port, self.host, self.token = status, meters, on_kill, port, host, token
        self.url = ""                    # once it listens
        self._monotonic, self._last, self._paused, self._runner = monotonic, monotonic(), "", None

    def second(self) -> None:
        "A second of the market was taken."
        self._last, self._paused = self._monotonic(), ""

    def pause(self,
        why: str, # such as: the market is closed
    ) -> None:
        "No second is due until the next one comes."
        self._paused = why

    async def start(self) -> str: # the url
        "Listens until `stop`; FixTheConfig when the port is taken."
        app = web.Application(client_max_size=4096, middlewares=[self._guard])
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/status", self._status)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_post("/kill", self._kill)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        try: await web.TCPSite(self._runner, self.host, self.port).start()
        except OSError as error:
            await self.stop()
            raise FixTheConfig(f"health cannot listen on {self.host} port {self.port}: {error.strerror or error}") from None
        address = self._runner.addresses[0]
        near = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address[0], address[0])
        self.url = f"http://{f'[{near}]' if ':' in near else near}:{address[1]}"
        return self.url

    async def stop(self) -> None:
        "Closes the door."
        if self._runner: await self._runner.cleanup()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *error) -> None: await self.stop()

    def unwell(self, status: dict) -> str: # empty: all is well
        "Why this is not a runner that trades as it should."
        if status.get("halted"): return f"halted: {status['halted']}"
        silent_s = self._monotonic() - self._last
        return f"no second of the market for {silent_s:.0f} s" if silent_s > SILENT_S and not self._paused else ""

    @web.middleware
    async def _guard(self, request: web.Request, handler) -> web.StreamResponse:
        "Who may come in, and one line for who may not; a web page of elsewhere that calls this machine by another name stays outside."
        local, (called, _, port) = is_loopback(self.host), request.host.rpartition(":")
        if local and not is_loopback(called if port.isdigit() else request.host): return _said(403, "this is for callers on this machine")
        if (request.method == "POST" or not local and request.path != "/healthz") and not self._knows(request):
            log.warning("turned away at the door", path=request.path, caller=request.remote)
            return _said(403, "Authorization: Bearer TOKEN is needed" if self.token else "nothing can be done here: the runner was started without MESBOT_RUNNER_TOKEN")
        try: return await handler(request)
        except web.HTTPException as error: return _said(error.status, error.reason, error.headers.get("Allow"))
        except Exception as error:
            log.error("a request failed", path=request.path, exc_info=True)
            return _said(503, f"{type(error).__name__}: {error}")

    def _knows(self, request: web.Request) -> bool:
        kind, _, given = request.headers.get("Authorization", "").partition(" ")
        return bool(self.token) and kind.lower() == "bearer" and hmac.compare_digest(given.strip().encode("utf-8", "surrogateescape"), self.token.encode())

    async def _healthz(self, request: web.Request) -> web.Response:
        why = self.unwell(self.status())
        return _said(503, why) if why else web.json_response({"ok": True, "paused": self._paused})

    async def _status(self, request: web.Request) -> web.Response:
        status = self.status()
        why = self.unwell(status)
        return web.json_response(logs.redact(status | {"healthy": not why, "unwell": why, "paused": self._paused, "latency": self.meters.facts(), "counters": dict(self.meters.counters)}))

    async def _metrics(self, request: web.Request) -> web.Response:
        status = self.status()
        gauges = {name: status.get(name) for name in GAUGES} | {"halted": bool(status.get("halted")), "entries_blocked": bool(status.get("blocked")), "healthy": not self.unwell(status)}
        return web.Response(text=self.meters.text(gauges), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})

    async def _kill(self, request: web.Request) -> web.Response:
        try: body = await request.json()
        except ValueError: body = None
        why = body.get("why", "") if isinstance(body, dict) else None
        if not isinstance(why, str) or len(why) > 200: return _said(400, 'the body must be {"why": "..."} with up to 200 characters')
        self.on_kill(" ".join(why.split()) or "no reason given")
        return web.json_response({"ok": True, "told": "close everything, open nothing"}, status=202)


def _said(status: int, why: str, allow: str | None = None) -> web.Response:
    return web.json_response({"ok": False, "why": logs.redact(why)}, status=status, headers={"Allow": allow} if allow else None)
