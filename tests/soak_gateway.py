"""A soak of the simulated gateway: sessions replayed as fast as our client reads, with orders all the while. One JSON line a session and one at the end; exit code 1 when something is wrong.

    python tests/soak_gateway.py [--sessions 5]

Wrong is: an event that was sent and not heard, a connection that broke, or memory that grows. RSS after the last session must be at most 1.1 times that after the second, of
the gateway and of the client: the first two warm up caches and allocators, from then on nothing may pile up. Order round trips are measured with the wall clock while the market
races, again when it stands still, and at last, of another gateway, at sixty times real time."""
import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import aiohttp
import numpy as np
import psutil

from live_runner.gateway.events import Step
from live_runner.gateway.hub import Hub
from live_runner.gateway.outcomes import Accepted, NewOrder
from live_runner.gateway.rest import Gateway
from live_runner.gateway.settings import GatewaySettings
from live_runner.protocol import OrderType, Side

ROOT = Path(__file__).resolve().parents[1]
GROWTH = 1.1                  # RSS after the last session to RSS after the second
BUSY_S, QUIET = 0.25, 80      # seconds between orders while the market races; orders when it stands still or is paced: inside the limits of requests


def start_gateway(sessions: int, speed: str):
    "The gateway on a synthetic market, and its URLs."
    command = [sys.executable, "-m", "live_runner", "gateway", "--synthetic", "--sessions", str(sessions), "--seed", "1", "--speed", speed, "--port", "0"]
    server = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    return server, json.loads(server.stdout.readline())


class Ears:
    "Both hubs of one client, and what they have heard."

    def __init__(self, gateway: Gateway, urls: dict, account: int, contract: str, steps: bool):
        self.steps, self.hubs = {}, []
        for name, subjects in (("user", [("SubscribeAccounts",), ("SubscribeOrders", account), ("SubscribePositions", account), ("SubscribeTrades", account)]),
                               ("market", [("SubscribeContractQuotes", contract), ("SubscribeContractTrades", contract)])):
            hub = Hub(name, urls[f"{name}_hub"], gateway.token, self.hear)
            for subject in [*subjects, ("SubscribeSteps",)][:None if steps else -1]: hub.subscribe(*subject)
            self.hubs.append(hub)

    def hear(self, event):
        if isinstance(event, Step): self.steps[event.hub] = (event.ts, self.steps.get(event.hub, (0, 0))[1] + 1)

    async def until(self, ts: int):
        while any(self.steps.get(hub.name, (0, 0))[0] < ts for hub in self.hubs): await asyncio.sleep(.001)

    @property
    def messages(self) -> int: return sum(hub.counters.messages for hub in self.hubs) - sum(count for _, count in self.steps.values())

    @property
    def broken(self) -> int: return sum(hub.counters.rebuilds + hub.counters.unreadable + hub.counters.handler_errors for hub in self.hubs)


async def trade(gateway: Gateway, account: int, contract: str, price: float, trips: list, count: int, pause_s: float):
    "A limit order far below the market, placed and taken back, so many times; the wall seconds of each placing go into `trips`. Logged in and connected before."
    await gateway.accounts()
    for _ in range(count):
        began = time.perf_counter()
        outcome = await gateway.place(NewOrder(account, contract, OrderType.LIMIT, Side.BUY, 1, limit=price))
        trips.append(time.perf_counter() - began)
        if isinstance(outcome, Accepted): await gateway.cancel(account, outcome.order_id)
        await asyncio.sleep(pause_s)


async def soak(sessions: int, seconds: float | None = None, say=lambda row: None) -> dict: # seconds: of each session, by steps; None = all of it at speed max
    "Replays, and gives the summary; each session's row goes to `say`."
    server, urls = start_gateway(sessions, "lockstep" if seconds else "max")
    try:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None)) as http: return await listen(http, psutil.Process(server.pid), urls, sessions, seconds, say)
    finally: end(server)


def end(server):
    server.send_signal(signal.SIGTERM)
    if code := server.wait(30): raise RuntimeError(f"the gateway ended with exit code {code}")


def settings_of(urls: dict) -> GatewaySettings:
    return GatewaySettings(gateway_url=urls["rest"], user_hub_url=urls["user_hub"], market_hub_url=urls["market_hub"], username=urls["username"], api_key=urls["api_key"])


async def paced(speed: str = "60") -> dict:
    "Round trips of orders at a pace, with both hubs open."
    (server, urls), trips = start_gateway(1, speed), []
    try:
        async with Gateway(settings_of(urls)) as gateway, Gateway(settings_of(urls)) as other:
            account, contract = (await gateway.accounts())[0].id, (await gateway.contracts("MES"))[0]
            ears = Ears(gateway, urls, account, contract.id, steps=False)
            for hub in ears.hubs: await hub.start()
            for hub in ears.hubs: await hub.subscribed()
            await trade(other, account, contract.id, 4000 * contract.tick, trips, QUIET, .05)
            for hub in ears.hubs: await hub.stop()
    finally: end(server)
    return {f"order_paced_p{q}_ms": round(float(np.percentile(trips, q)) * 1e3, 2) for q in (50, 99)}


async def listen(http, server: psutil.Process, urls: dict, sessions: int, seconds: float | None, say) -> dict:
    "One client of the gateway, from its first subscription to the end of the market."
    settings = settings_of(urls)
    rows, busy, quiet = [], [], []

    async def state():
        async with http.get(urls["control"]) as answer: return await answer.json()

    async def play(k: int):
        "The next session, or its first seconds, has been sent."
        if not seconds:
            while not (s := await state())["ended"] and (s["session"] or 0) <= k: await asyncio.sleep(.05)
            return
        async with http.post(urls["control"] + "/step", json={"seconds": seconds}) as answer: await ears.until((await answer.json())["ts"])

    async with Gateway(settings) as gateway, Gateway(settings) as other:
        account, contract = (await gateway.accounts())[0].id, (await gateway.contracts("MES"))[0]
        price = 4000 * contract.tick   # far below the market
        ears = Ears(gateway, urls, account, contract.id, steps=bool(seconds))
        for hub in ears.hubs: await hub.start()
        for hub in ears.hubs: await hub.subscribed()
        paper = asyncio.create_task(trade(gateway, account, contract.id, price, busy, 10**9, BUSY_S))
        for k in range(sessions):
            began, before = time.perf_counter(), ears.messages
            await play(k)
            rows.append({"session": k + 1, "seconds": round(time.perf_counter() - began, 2), "messages": ears.messages - before,
                         **{f"{name}_mb": round(process.memory_info().rss / 2**20, 1) for name, process in (("gateway", server), ("client", psutil.Process()))}})
            say(rows[-1])
        if paper.done(): paper.result()
        paper.cancel()
        await trade(other, account, contract.id, price, quiet, QUIET, .02)
        sent = sum((await state())["counters"]["events"].values())
        for _ in range(100):
            if ears.messages == sent: break
            await asyncio.sleep(.05)
        for hub in ears.hubs: await hub.stop()
    growth = {f"{name}_growth": round(rows[-1][f"{name}_mb"] / rows[min(1, len(rows) - 1)][f"{name}_mb"], 3) for name in ("gateway", "client")}
    times = {f"order_{name}_p{q}_ms": round(float(np.percentile(trips, q)) * 1e3, 2) for name, trips in (("busy", busy), ("quiet", quiet)) for q in (50, 99)}
    return {"sessions": rows, "orders": len(busy) + len(quiet), **times, **growth, "lost": sent - ears.messages, "broken": ears.broken}


def verdict(summary: dict) -> list[str]:
    "What is wrong, in words; nothing when all is well."
    wrong = [f"{name} is {summary[name]} of what it was after the second session, at most {GROWTH} is right" for name in ("gateway_growth", "client_growth") if summary[name] > GROWTH]
    if summary["lost"]: wrong.append(f"{summary['lost']} events were sent and not heard")
    if summary["broken"]: wrong.append(f"{summary['broken']} connections, records or handlers failed")
    return wrong


def main() -> int:
    words = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    words.add_argument("--sessions", type=int, default=5)
    sessions = words.parse_args().sessions
    if sessions < 1: words.error(f"--sessions must be at least 1, got {sessions}")
    def say(row): sys.stdout.write(json.dumps(row) + "\n"); sys.stdout.flush()
    summary = asyncio.run(soak(sessions, say=say)) | asyncio.run(paced())
    wrong = verdict(summary)
    say({name: value for name, value in summary.items() if name != "sessions"} | {"wrong": wrong})
    return int(bool(wrong))


if __name__ == "__main__": sys.exit(main())
