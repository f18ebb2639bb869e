"LIV-2: clients that others wrote, unmodified, cannot tell the simulated gateway from the real one: they log in, listen on both hubs, trade a bracket and read it back."
import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from mesbot.core import MES

ROOT = Path(__file__).resolve().parents[2]
SIGNALR = "@microsoft/signalr@10.0.11"
TICK, TICK_USD = MES.tick, MES.tick_usd
FEES_USD, COMMISSION_USD = 0.36, 0.25


@contextmanager
def paced_gateway(speed=60):
    "The gateway as a process of its own, on a synthetic market; gives its line of URLs and what ends it: SIGTERM, once. It must end with exit code 0."
    command = [sys.executable, "-m", "live_runner", "gateway", "--synthetic", "--sessions", "1", "--seed", "7", "--speed", str(speed), "--port", "0"]
    server = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    asked = []
    def end():
        if not asked: server.send_signal(signal.SIGTERM)
        asked.append(1)
    try:
        line = server.stdout.readline()
        assert line, f"the gateway said nothing and ended with {server.wait(10)}"
        yield json.loads(line), end
    finally:
        end()
        try: code = server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()
            raise
    assert code == 0


async def until(what, test, seconds=30):
    "The first truthy result of `test`, asked again and again."
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = await test() if asyncio.iscoroutinefunction(test) else test()
        if found: return found
        await asyncio.sleep(.02)
    raise TimeoutError(f"waited {seconds} s for {what}")


def plain(rows): return [row.model_dump(by_alias=True, mode="json") for row in rows]


async def topstep_story(urls, end):
    "What topstep-client-py sees and does, the wire's names for everything."
    from topstep import MarketHub, TopstepClient, UserHub

    client = await TopstepClient.create(urls["username"], urls["api_key"], base_url=urls["rest"])
    await client.refresh_token()
    user, market = UserHub(client.token, hub_url=urls["user_hub"]), MarketHub(client.token, hub_url=urls["market_hub"])
    try: return await topstep_trades(client, user, market)
    finally:
        end()  # first: signalrcore's stop() waits for the next frame or for the end of the socket
        await asyncio.gather(user.stop(), market.stop(), client.close())


async def topstep_trades(client, user, market):
    "Listens on both hubs, trades, and reads it back."
    import datetime as dt

    from topstep import APIError, Bracket, OrderSide, OrderType, PlaceOrderRequest

    story, opened = {name: [] for name in ("orders", "positions", "fills", "accounts", "quotes", "prints")}, []
    account = (await client.accounts.search())[0]
    contract = (await client.contracts.search("MES"))[0]
    assert await client.contracts.search_by_id(contract.id) == contract and contract in await client.contracts.available()
    story["account"], story["contract"] = plain([account, contract])

    for register, name in ((user.on_order, "orders"), (user.on_position, "positions"), (user.on_trade, "fills"), (user.on_account, "accounts")):
        register(lambda arguments, name=name: story[name].append(*arguments))  # a user event has one argument
    for register, name in ((market.on_quote, "quotes"), (market.on_trade, "prints")):
        register(lambda arguments, name=name: story[name].append(arguments))
    for hub in (user, market):
        hub.on_open(lambda: opened.append(1))
        await hub.connect()
    await until("both hubs", lambda: len(opened) == 2)
    await user.subscribe_all(account.id)
    await market.subscribe_trades(contract.id)
    await until("a print", lambda: story["prints"])
    await market.subscribe_all(contract.id)   # the prints once more: harmless
    order = dict(account_id=account.id, contract_id=contract.id, type=OrderType.MARKET, side=OrderSide.BUY, size=1)
    try: await client.orders.place(PlaceOrderRequest(**order, custom_tag="py-wrong", stop_loss_bracket=Bracket(ticks=40, type=OrderType.STOP)))
    except APIError as refusal: story["refused"] = {"success": False, "errorCode": refusal.error_code, "errorMessage": str(refusal).removeprefix(f"[{refusal.error_code}] ")}
    entry = await client.orders.place(PlaceOrderRequest(**order, custom_tag="py-1", stop_loss_bracket=Bracket(ticks=-60, type=OrderType.STOP), take_profit_bracket=Bracket(ticks=60, type=OrderType.LIMIT)))
    story["placed"] = {"orderId": entry}

    async def positions(): return await client.positions.search_open(account.id)
    async def working(): return await client.orders.search_open(account.id)
    async def two_legs(): return len(await working()) == 2 and await working()
    async def no_position(): return not await positions()
    async def no_order(): return not await working()
    story["open_positions"] = plain(await until("an open position", positions))
    story["legs"] = plain(await until("two working legs", two_legs))
    stop = next(leg for leg in story["legs"] if leg["type"] == OrderType.STOP)
    await client.orders.modify(account.id, stop["id"], stop_price=stop["stopPrice"] - 4 * contract.tick_size)
    await client.positions.close(account.id, contract.id)
    await until("a flat account", no_position)
    await until("no working order", no_order)
    since = dt.datetime(2000, 1, 1)
    story["all_orders"], story["all_trades"] = plain(await client.orders.search(account.id, since)), plain(await client.trades.search(account.id, since))
    story["bars"] = plain(await client.history.retrieve_bars(contract.id, since, dt.datetime(2100, 1, 1), unit=1, limit=5))
    await until("the flat position on the hub", lambda: any(event["data"]["size"] == 0 for event in story["positions"]))
    await until("both fills on the hub", lambda: len(story["fills"]) >= 2)
    await until("the legs' end on the hub", lambda: sum(event["data"].get("parentOrderId") == entry and event["data"]["status"] == 3 for event in story["orders"]) >= 2)
    return story


def check_story(story):
    "The same facts for every client; prices of legs from the fill, money from the fills."
    contract, entry = story["contract"], story["placed"]["orderId"]
    assert (contract["tickSize"], contract["tickValue"], contract["symbolId"], contract["activeContract"]) == (TICK, TICK_USD, "F.US.MES", True)
    assert story["account"]["canTrade"] and story["account"]["balance"] == 1000
    assert (story["refused"]["success"], story["refused"]["errorCode"], story["refused"]["errorMessage"]) == (False, 2, "Invalid stop loss ticks (40). Ticks should be less than zero when longing.")

    first, *later = [quote for name, quote in story["quotes"] if name == contract["id"]]  # subscribed after the first print: a full one, then what changed
    assert {"lastPrice", "bestBid", "bestAsk", "symbol", "timestamp"} <= first.keys() and first["bestBid"] < first["bestAsk"]
    assert later and any("lastPrice" not in quote or "bestBid" not in quote for quote in later)
    prints = [row for name, array in story["prints"] for row in array]
    assert all(row["price"] % TICK == 0 and row["volume"] >= 1 and row["type"] in (0, 1) for row in prints)

    orders = {order["id"]: order for order in story["all_orders"]}
    assert list(orders) == sorted(orders)                                      # oldest first
    bought = orders[entry]
    fill = bought["filledPrice"]
    assert (bought["status"], bought["fillVolume"], bought["size"], bought["side"], bought["type"]) == (2, 1, 1, 0, 2)
    stop, target = orders[entry + 1], orders[entry + 2]                        # allocated with the entry
    assert (stop["type"], stop["side"], stop["stopPrice"], stop["status"]) == (4, 1, fill - 64 * TICK, 3)  # 60 ticks, and 4 by the change
    assert (target["type"], target["side"], target["limitPrice"], target["status"]) == (1, 1, fill + 60 * TICK, 3)
    assert stop["customTag"] == bought["customTag"] + "-SL" and target["customTag"] == bought["customTag"] + "-TP"
    assert {leg["id"]: leg["status"] for leg in story["legs"]} == {entry + 1: 1, entry + 2: 1}
    assert next(leg for leg in story["legs"] if leg["type"] == 4)["stopPrice"] == fill - 60 * TICK
    position, = story["open_positions"]
    assert (position["type"], position["size"], position["averagePrice"], position["contractId"]) == (1, 1, fill, contract["id"])

    closing, opening = story["all_trades"]                                     # newest first
    assert (opening["side"], opening["price"], opening["profitAndLoss"], opening["orderId"]) == (0, fill, None, entry)
    assert closing["side"] == 1 and closing["profitAndLoss"] == (closing["price"] - fill) / TICK * TICK_USD  # gross
    assert all(trade["fees"] == FEES_USD and not trade["voided"] for trade in story["all_trades"])
    closer = orders[closing["orderId"]]
    assert (closer["type"], closer["customTag"], closer["filledPrice"]) == (2, None, closing["price"])
    rejected = next(order for order in story["all_orders"] if order["status"] == 5)
    assert rejected["fillVolume"] == 0 and rejected["customTag"].endswith("-wrong")

    events = [event["data"] for event in story["orders"]]                      # {action, data}, without nulls
    seen = lambda number: [event["status"] for event in events if event["id"] == number]
    assert seen(entry) == [6, 2] and seen(entry + 1)[:2] == [8, 1] and seen(entry + 2)[:2] == [8, 1] and seen(entry + 1)[-1] == seen(entry + 2)[-1] == 3
    assert all(value is not None for event in events for value in event.values())
    assert {event["action"] for event in story["fills"]} == {0}
    assert [(event["data"].get("profitAndLoss"), event["data"]["commissions"]) for event in story["fills"]] == [(None, COMMISSION_USD), (closing["profitAndLoss"], COMMISSION_USD)]
    opened, flat = story["positions"][0], story["positions"][-1]
    assert (opened["action"], opened["data"]["size"]) == (1, 1) and (flat["action"], flat["data"]["type"], flat["data"]["size"], flat["data"]["averagePrice"]) == (2, 0, 0, fill)
    balance = 1000 + closing["profitAndLoss"] - 2 * (FEES_USD + COMMISSION_USD)
    assert story["accounts"][-1]["data"]["balance"] == pytest.approx(balance, abs=1e-6)


def test_topstep_client_trades_a_bracket(monkeypatch):
    "topstep-client-py: httpx and a negotiating signalrcore, pydantic models for every answer."
    pytest.importorskip("topstep", reason="topstep-client-py is not installed")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")  # httpx and urllib read it
    with paced_gateway() as (urls, end):
        story = asyncio.run(topstep_story(urls, end))
    check_story(story)
    bars = [bar["t"] for bar in story["bars"]]
    assert bars == sorted(bars, reverse=True) and 1 <= len(bars) <= 5


@pytest.fixture(scope="session")
def signalr(tmp_path_factory) -> Path:
    "A folder with @microsoft/signalr of one known version; skipped without node, npm or a network."
    if not (shutil.which("node") and shutil.which("npm")): pytest.skip("node and npm are not both installed")
    folder = tmp_path_factory.mktemp("signalr")
    try: done = subprocess.run(["npm", "install", "--prefix", str(folder), "--no-audit", "--no-fund", "--no-save", "--ignore-scripts", "--fetch-retries=0", "--loglevel=error", SIGNALR],
                               capture_output=True, text=True, timeout=120)
    except subprocess.TimeoutExpired: pytest.skip(f"npm install {SIGNALR} took over 120 s")
    if done.returncode: pytest.skip(f"npm install {SIGNALR} failed: {next(iter(done.stderr.splitlines()), '')}")
    return folder


@pytest.mark.parametrize("mode", ["skip", "negotiate"])
def test_microsoft_client_trades_a_bracket(signalr, mode):
    "@microsoft/signalr on node, straight to the WebSocket and by negotiation; REST by fetch."
    with paced_gateway() as (urls, _):
        done = subprocess.run(["node", str(ROOT / "tests" / "second_client.mjs"), str(signalr), json.dumps(urls), mode], capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
    story = json.loads(done.stdout)
    check_story(story)
    assert story["placed"]["success"] and story["closed"]["success"] and story["modified"]["success"]
    assert "Method does not exist" in story["unknown_method"]
