"""Two stand-ins for a hub of the venue: `ScriptedHub`, a SignalR server on this machine that does what a test tells it, and `Wire`, transports without a network.

Both keep what they were sent, so that a test can ask for it."""
import asyncio
import json
import socket
import struct

from aiohttp import WSMsgType, web

END = "\x1e"


def event(target, *arguments): return {"type": 1, "target": target, "arguments": list(arguments)}


class ScriptedHub:
    "A hub over a real socket. `refuse`: HTTP status instead of the upgrade. `greeting`: what answers the handshake. `answers`: None, or what completes a call, by method."

    def __init__(self):
        self.refuse, self.greeting, self.answers, self.answers_pings = None, "{}", {}, True
        self.tokens, self.greetings, self.said, self.sockets, self.port, self.ponged = [], [], [], [], 0, []

    @property
    def url(self): return f"http://127.0.0.1:{self.port}/hubs/market"

    async def __aenter__(self):
        await self.up()
        return self

    async def __aexit__(self, *_): await self.down()

    async def up(self):
        "Begins to listen, on the same port as before where there was one."
        app = web.Application()
        app.router.add_get("/hubs/market", self.serve)
        self.runner = web.AppRunner(app, shutdown_timeout=0.1, access_log=None)
        await self.runner.setup()
        site = web.TCPSite(self.runner, "127.0.0.1", self.port)
        await site.start()
        self.port = site._server.sockets[0].getsockname()[1]

    async def down(self):
        for one in self.sockets: self.reset(one)
        await self.runner.cleanup()

    async def serve(self, request):
        self.tokens.append((request.query.get("access_token"), request.headers.get("Authorization")))
        if self.refuse: return web.Response(status=self.refuse, headers={"X-Request-Id": "101"})
        ws = web.WebSocketResponse(autoping=False, heartbeat=None)
        await ws.prepare(request)
        ws.request = request
        heard = []
        self.said.append(heard)
        self.sockets.append(ws)
        async for message in ws:
            if message.type == WSMsgType.PONG: self.ponged.append(message.data)
            if message.type != WSMsgType.TEXT: continue
            for record in map(json.loads, message.data.split(END)[:-1]): await self.hear(ws, heard, record)
        return ws

    async def hear(self, ws, heard, record):
        if "protocol" in record:
            self.greetings.append(record)
            return await ws.send_str(self.greeting + END)
        heard.append(record)
        if record["type"] == 6 and self.answers_pings: await ws.send_str('{"type":6}' + END)
        if record["type"] == 1 and self.answers is not None:
            await ws.send_str(json.dumps({"type": 3, "invocationId": record["invocationId"], "result": None} | self.answers.get(record["target"], {})) + END)

    async def send(self, *records):
        "Records, or raw text, in one message over the newest connection."
        await self.sockets[-1].send_str("".join(r if isinstance(r, str) else json.dumps(r) + END for r in records))

    def reset(self, ws=None):
        "Ends a connection by a TCP reset."
        transport = (ws or self.sockets[-1]).request.transport
        if transport is None or transport.is_closing(): return
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()


class Line:
    "A connection without a network. Its server answers calls and pings while `lively`."

    def __init__(self, wire, token, plan, on_message, on_open, on_close, on_ping):
        self.wire, self.token, self.plan, self.on_message, self.on_open, self.on_close, self.on_ping = wire, token, plan, on_message, on_open, on_close, on_ping
        self.sent, self.stopped, self.at = [], False, None

    def start(self):
        self.at = self.wire.clock.monotonic()
        if self.plan in ("open", "kick"): self.on_open()
        if self.plan == "kick": self.on_close("kicked", None)
        if isinstance(self.plan, int): self.on_close(f"the server answered HTTP {self.plan}", self.plan)

    def send(self, record):
        self.sent.append(record)
        if not self.wire.lively: return
        if record["type"] == 6: self.on_ping()
        if record["type"] == 1: self.on_message([{"type": 3, "invocationId": record["invocationId"], "result": None}])

    def stop(self): self.stopped = True
    def event(self, target, *arguments): self.on_message([event(target, *arguments)])

    @property
    def calls(self): return [(r["target"], *r["arguments"]) for r in self.sent if r["type"] == 1]

    @property
    def pings(self): return sum(r["type"] == 6 for r in self.sent)


class Wire:
    "Makes the lines of a hub. `plan`: what becomes of each, the last for all further ones: open, kick (open and closed at once), stuck, or the HTTP status of a refusal."

    def __init__(self, clock, *plan):
        self.clock, self.plan, self.lines, self.lively = clock, plan or ("open",), [], True

    def __call__(self, url, token, **callbacks):
        self.lines.append(Line(self, token, self.plan[min(len(self.lines), len(self.plan) - 1)], **callbacks))
        return self.lines[-1]


async def until(what, timeout=10.0):
    "Waits until `what()` is true, for things that come through a real socket."
    async with asyncio.timeout(timeout):
        while not what(): await asyncio.sleep(0.002)
