"A simulated gateway and our client of it in one process: a hand-written market of a few seconds, in lockstep, for tests that are checked on paper."
import asyncio
import json
from contextlib import asynccontextmanager

import aiohttp
import numpy as np

from live_runner.gateway.events import Connected, OrderEvent, Step, Subscribed
from live_runner.gateway.hub import Hub
from live_runner.gateway.outcomes import Accepted, NewOrder
from live_runner.gateway.rest import Gateway
from live_runner.gateway.sessions import HubSessions
from live_runner.gateway.settings import GatewaySettings
from live_runner.protocol import OrderStatus, OrderType, Side
from live_runner.simulator import world as simulator
from live_runner.simulator.server_settings import ServerSettings
from live_runner.simulator.settings import AccountSettings, VenueSettings
from live_runner.simulator.tape import Tape
from mesbot.core import MES
from mesbot.sessions import make_bars

NS, MS = 10**9, 10**6
OPEN = 1_704_292_200 * NS        # 2024-01-03 09:30 New York
EARLIER = OPEN - 20 * 3600 * NS
ACCOUNT, CONTRACT = 101, "CON.F.US.MES.H24"
TICK, TICK_USD, BASE = MES.tick, MES.tick_usd, 20_000  # BASE: a round price, ticks
PRICE = BASE * TICK


def points(up: float) -> float: return (BASE + up) * TICK  # of so many ticks above BASE


def rows(seconds, bars, volume=5):
    "Bars at seconds after 09:30; open, high, low and close in ticks above BASE."
    columns = np.array(bars).T + BASE
    return make_bars(OPEN + np.array(seconds) * NS, *columns, np.full(len(seconds), volume))


def path(*bars): return rows(range(len(bars)), bars)                # (open, high, low, close) of one second after the other
def bars_at(*bars): return rows([s for s, _ in bars], [(up,) * 4 for _, up in bars])  # (second, price)
def flat(n): return path(*[(0, 0, 0, 0)] * n)


def order(**changes):
    "The body of an order at market, with these changes."
    return {"accountId": ACCOUNT, "contractId": CONTRACT, "type": 2, "side": 0, "size": 1} | changes


BUY, SELL = Side.BUY, Side.SELL
OPENED, FILLED, CANCELLED, EXPIRED, REJECTED, PENDING, SUSPENDED = (OrderStatus(k) for k in (1, 2, 3, 4, 5, 6, 8))
FEES, COMMISSION = 0.36, 0.25    # USD, a side of one contract


def market(side=BUY, size=1, **more): return NewOrder(ACCOUNT, CONTRACT, OrderType.MARKET, side, size, **more)
def limit(side, up, size=1, **more): return NewOrder(ACCOUNT, CONTRACT, OrderType.LIMIT, side, size, limit=points(up), **more)
def stop(side, up, size=1, **more): return NewOrder(ACCOUNT, CONTRACT, OrderType.STOP, side, size, stop=points(up), **more)


async def placed(w, order) -> int:
    "The id of an order that is taken."
    outcome = await w.gateway.place(order)
    assert isinstance(outcome, Accepted) and outcome.order_id, outcome
    return outcome.order_id


def statuses(w, number): return [event.order.status for event in w.user if isinstance(event, OrderEvent) and event.order.id == number]


class World:
    "The simulated gateway, the market that it plays, and our client of both."

    def __init__(self, bars, server: ServerSettings, venue: VenueSettings):
        self.sim = simulator.World(Tape(MES, bars), "lockstep", venue, server)
        self.clock, self.faults, self.server, self.venue, self.replay = self.sim.clock, self.sim.faults, self.sim.server, self.sim.venue, self.sim.replay
        self.user, self.market, self.hubs = [], [], {}   # what either hub has told; name -> hub
        self._heard, self._sessions = {}, HubSessions(limit=3)

    async def hear(self, name: str, kind: str, *subjects) -> list:
        "A hub of this kind and name, connected, with these subscriptions and that of the steps; gives the list that it fills."
        told = []
        def on_event(event):
            if isinstance(event, Step): self._heard[name] = event.ts
            elif not isinstance(event, (Connected, Subscribed)): told.append(event)
        hub = Hub(kind, getattr(self.urls, f"{kind}_hub"), self.gateway.token, on_event, sessions=self._sessions)
        for subject in (*subjects, ("SubscribeSteps",)): hub.subscribe(*subject)
        await hub.start()
        await hub.subscribed()
        self.hubs[name] = hub
        return told

    async def step_to(self, ts: int):
        "The market goes on to this moment, ns UTC, and every hub has told of all of it."
        await self.replay.step(until=ts)
        while any(self._heard.get(name, 0) < self.clock.now for name in self.hubs): await asyncio.sleep(.001)

    async def until(self, second: float):
        "The market goes on to so many seconds after 09:30."
        await self.step_to(OPEN + round(second * NS))

    async def heard(self):
        "Every hub has told all there was, though the market stands still: the answer to a call comes after whatever was sent before."
        for hub in self.hubs.values():
            hub.unsubscribe("SubscribeSteps")
            hub.subscribe("SubscribeSteps")
            await hub.subscribed()

    async def raw(self, path: str, body: dict | None, token: str | None = "") -> tuple:  # status, answer (None: an empty body)
        'A call without our client; token "" is that of our client, None is none.'
        headers = {} if token is None else {"Authorization": f"Bearer {token or await self.gateway.token()}"}
        async with self.http.post(self.urls.rest + path, json=body, headers=headers) as answer:
            text = await answer.text()
            return answer.status, json.loads(text) if text else None


@asynccontextmanager
async def world(bars=None, accounts=(AccountSettings(),), hubs: bool = True, server: dict = {}, **venue):
    "A `World` from a minute before its market's first bar; without hubs only REST."
    w = World(flat(5) if bars is None else bars, ServerSettings(**server), VenueSettings(accounts=accounts, **venue))
    async with w.sim:
        w.urls = w.sim.urls
        settings = GatewaySettings(gateway_url=w.urls.rest, user_hub_url=w.urls.user_hub, market_hub_url=w.urls.market_hub, username=w.urls.username, api_key=w.urls.api_key)
        async with Gateway(settings) as w.gateway, aiohttp.ClientSession() as w.http:
            if hubs:
                own = [(f"Subscribe{name}", account.id) for name in ("Orders", "Positions", "Trades") for account in accounts]
                w.user = await w.hear("user", "user", ("SubscribeAccounts",), *own)
                w.market = await w.hear("market", "market", ("SubscribeContractQuotes", CONTRACT), ("SubscribeContractTrades", CONTRACT))
            try: yield w
            finally:
                for hub in w.hubs.values(): await hub.stop()
