"A simulated gateway with a venue and a market that do nothing by themselves, and a client that knows no more than HTTP, WebSockets and the record separator."
import asyncio
import json
from contextlib import asynccontextmanager

import aiohttp

from live_runner.clock import FakeClock
from live_runner.protocol import RECORD_END
from live_runner.simulator.clock import Clock
from live_runner.simulator.faults import Faults
from live_runner.simulator.server import ServerSettings, SimulatedGateway
from live_runner.simulator.tokens import envelope

NOW = 1_700_000_000_000_000_000  # where the market's clock stands at first, ns UTC
MES = "CON.F.US.MES.Z26"
HELLO = '{"protocol":"json","version":1}' + RECORD_END


class StubVenue:
    "Remembers what it was asked, and answers it with the same again."
    accounts = {101: None}

    def __init__(self): self.done = []

    def answer(self, path, body):
        self.done.append((path, body))
        return envelope(orders=[{"id": 1}], orderId=7)

    def lock(self, account, can_trade): self.done.append(("lock", account, can_trade))

    def flatten(self, account): self.done.append(("flatten", account))

    def trade(self, account, side, size):
        self.done.append(("trade", account, side, size))
        return 77


class StubReplay:
    "A market without bars: a step only moves the clock."
    ended, session = False, 0

    def __init__(self, gateway, speed): self.gateway, self.speed = gateway, speed

    async def step(self, seconds=None, bars=None, until=None):
        self.gateway.clock.run_until(self.gateway.clock.now + round(seconds * 1e9))
        await self.gateway.emit.drain()
        return {"ts": self.gateway.clock.now}


class Door:
    "The gateway, where it is, and one HTTP session with a token."

    def __init__(self, gateway, urls, http): self.gateway, self.urls, self.http, self.token = gateway, urls, http, ""

    async def login(self, **other) -> dict:
        "The answer of loginKey."
        _, answer = await self.post("/api/Auth/loginKey", {"userName": self.urls.username, "apiKey": self.urls.api_key, **other})
        return answer

    async def post(self, path, body=None, **options):
        "Status and body (None when there is none) of a request with the token."
        headers = {"Authorization": f"Bearer {self.token}", **options.pop("headers", {})}
        async with self.http.post(self.urls.rest + path, json=body, headers=headers, **options) as answer:
            text = await answer.text()
            return answer.status, json.loads(text) if "json" in answer.content_type else text or None

    async def hub(self, name="market", hello=HELLO, **query):
        "A hub connection; with hello, its handshake is done."
        raw = RawHub(await self.http.ws_connect(f"{self.urls.rest}/hubs/{name}", params={"access_token": self.token, **query}))
        if hello:
            await raw.ws.send_str(hello)
            assert await raw.next() == {}
        return raw


class RawHub:
    "One WebSocket: records in order, and the frames they came in."

    def __init__(self, ws): self.ws, self.frames, self._records = ws, [], []

    async def next(self, seconds: float = 10.0):
        'The next record; "closed" or "reset" at the end.'
        while not self._records:
            message = await self.ws.receive(seconds)
            if message.type is aiohttp.WSMsgType.TEXT:
                assert message.data.endswith(RECORD_END), "a message must hold whole records"
                self.frames.append(message.data)
                self._records += [json.loads(text) for text in message.data.split(RECORD_END)[:-1]]
            else: return "closed" if message.type is aiohttp.WSMsgType.CLOSE else "reset"
        return self._records.pop(0)

    async def invoke(self, target, *arguments, number="1"):
        "The completion of an invocation; nothing else may come before it."
        await self.send(target, *arguments, number=number)
        return await self.next()

    async def send(self, target, *arguments, number=None):
        await self.ws.send_str(json.dumps({"type": 1, "target": target, "arguments": arguments, **({"invocationId": number} if number else {})}) + RECORD_END)

    async def fence(self) -> list:
        "Everything that was sent before now."
        await self.send("Fence", number="fence")
        seen = []
        while (one := await self.next()) not in ("closed", "reset") and one.get("invocationId") != "fence": seen.append(one)
        return seen


@asynccontextmanager
async def door(plan=(), speed="lockstep", wall=None, login=True, **settings):
    "A gateway in front of the stubs, and a client that has logged in."
    gateway = SimulatedGateway(Clock(NOW), Faults(1, plan), ServerSettings(**settings), wall or FakeClock())
    urls = await gateway.start(StubVenue(), StubReplay(gateway, speed))
    try:
        async with aiohttp.ClientSession() as http:
            client = Door(gateway, urls, http)
            if login: client.token = (await client.login())["token"]
            yield client
    finally: await gateway.stop()


def run(story): asyncio.run(asyncio.wait_for(story, 30))
