"LIV-2: whatever is done to the simulated venue, its stream and its answers tell one story: random orders on a random market, with and without faults."
import asyncio
from collections import Counter, defaultdict

import numpy as np
import pytest
from gateway_world import ACCOUNT, CONTRACT, NS, OPEN, points, rows

from live_runner.protocol import WORKING
from live_runner.simulator import world as simulator
from live_runner.simulator.settings import AccountSettings, VenueSettings
from live_runner.simulator.tape import Tape
from mesbot.core import MES

SECONDS = 240
LEGAL = {6: {6, 1, 2, 3, 4}, 1: {1, 2, 3, 4}, 8: {8, 1, 3, 4, 5}}  # from a status that works, to what; the others are the end
FAULTS = ["partial_fill", "keep_legs", "slip_stops", "reject_stop"]


def random_market(rng):
    "Bars that jump about by some ticks a second, with holes."
    seconds = np.flatnonzero(rng.random(SECONDS) < .8)
    close = rng.integers(-6, 7, len(seconds)).cumsum()
    opens = np.append(0, close[:-1]) + rng.integers(-2, 3, len(seconds))
    high, low = (np.maximum(opens, close) + rng.integers(0, 8, len(seconds)), np.minimum(opens, close) - rng.integers(0, 8, len(seconds)))
    return rows(seconds.tolist(), np.column_stack([opens, high, low, close]).tolist())


def random_request(rng, venue):
    "A call that a client might make, sensible or not."
    side, size, last = int(rng.integers(2)), int(rng.integers(1, 5)), (venue.last or 20_000) - 20_000
    way, far = 1 - 2 * side, int(rng.integers(1, 25))
    body = {"accountId": ACCOUNT, "contractId": CONTRACT, "type": int(rng.choice([1, 2, 2, 4, 5, 6, 7])), "side": side, "size": size}
    body |= {1: {"limitPrice": points(last - way * far)}, 4: {"stopPrice": points(last + way * far)}, 5: {"trailPrice": points(last - way * far)}}.get(body["type"], {})
    if rng.random() < .6: body["stopLossBracket"] = {"ticks": -way * int(rng.integers(4, 20)), "type": int(rng.choice([4, 4, 5]))}
    if rng.random() < .6: body["takeProfitBracket"] = {"ticks": way * int(rng.integers(4, 20)), "type": 1}
    known = list(venue.accounts[ACCOUNT].orders) or [1]
    some = {"accountId": ACCOUNT, "orderId": int(rng.choice(known[-6:]))}
    return [("/api/Order/place", body), ("/api/Order/cancel", some), ("/api/Order/modify", some | {"size": size, "limitPrice": points(last - far), "stopPrice": points(last - far), "trailPrice": points(last - far)}),
            ("/api/Position/closeContract", {"accountId": ACCOUNT, "contractId": CONTRACT}), ("/api/Position/partialCloseContract", {"accountId": ACCOUNT, "contractId": CONTRACT, "size": size})][
        int(rng.choice(5, p=[.5, .15, .15, .1, .1]))]


async def live(seed: int, faults: list):
    "One random life of an account: the world at its end, and every event in order."
    rng = np.random.default_rng(seed)
    world = simulator.World(Tape(MES, random_market(rng)), "lockstep", VenueSettings(accounts=(AccountSettings(balance=100_000, max_size=20),)))
    told = []
    class Emit:
        "The door is never opened: events go nowhere but here."
        def __call__(self, event, key, payload, action=1): told.append((event, world.clock.now, payload, action))
        def listening(self, *_): return False
        def second(self, _): pass
        async def drain(self): pass
    world.venue.emit = world.replay.emit = Emit()
    world.faults.add([{"fault": name, "probability": .3} for name in faults])
    for second in range(SECONDS):
        await world.replay.step(until=OPEN + second * NS)
        while rng.random() < .3: world.venue.answer(*random_request(rng, world.venue))
    await world.replay.step(seconds=30)
    return world, [event for event in told if event[0].startswith("GatewayUser")]


@pytest.mark.parametrize("faults", [[], FAULTS], ids=["as it should be", "with faults"])
@pytest.mark.parametrize("seed", range(6))
def test_stream_and_answers_tell_one_story(seed, faults):
    world, told = asyncio.run(live(seed, faults))
    venue, account = world.venue, world.venue.accounts[ACCOUNT]
    ask = lambda path, **more: next(v for v in venue.answer(path, {"accountId": ACCOUNT, **more}).values() if isinstance(v, list))
    stories = defaultdict(list)
    for event, ts, payload, action in told:
        if event == "GatewayUserOrder": stories[payload["id"]].append(payload)

    orders = {row["id"]: row for row in ask("/api/Order/search", startTimestamp="2000-01-01T00:00:00Z")}
    assert len(orders) > 30 and stories.keys() == orders.keys()
    for number, story in stories.items():
        assert story[-1] == orders[number], f"the last word on order {number}"
        for before, after in zip(story, story[1:]):
            assert after["status"] in LEGAL.get(before["status"], ()), f"order {number} from {before['status']} to {after['status']}"
            assert after["fillVolume"] >= before["fillVolume"] and after["updateTimestamp"] >= before["updateTimestamp"]
    working = {number for number, row in orders.items() if row["status"] in WORKING}
    assert working == set(venue.working) and {row["id"] for row in ask("/api/Order/searchOpen")} == {n for n in working if orders[n]["status"] == 1}
    for number in working:
        row = orders[number]
        assert row["fillVolume"] < row["size"]
        if row["status"] == 8: assert orders[row["parentOrderId"]]["status"] in WORKING, "a leg waits for an entry that has ended"

    fills = ask("/api/Trade/search")[::-1]
    assert [payload for event, _, payload, _ in told if event == "GatewayUserTrade"] == fills and len(fills) > 20
    filled = Counter()
    for fill in fills: filled[fill["orderId"]] += fill["size"]
    assert filled == {number: row["fillVolume"] for number, row in orders.items() if row["fillVolume"]}
    net = sum(fill["size"] * (1 - 2 * fill["side"]) for fill in fills)
    last = [payload for event, _, payload, _ in told if event == "GatewayUserPosition"][-1]
    positions = ask("/api/Position/searchOpen")
    assert last["size"] * {0: 0, 1: 1, 2: -1}[last["type"]] == net and positions == ([last] if net else [])
    paid = sum(fill["fees"] + fill["commissions"] for fill in fills)
    assert account.balance == pytest.approx(100_000 + sum(fill["profitAndLoss"] or 0 for fill in fills) - paid)
    cash = -sum(fill["size"] * (1 - 2 * fill["side"]) * fill["price"] for fill in fills) / MES.tick * MES.tick_usd  # what came in and went out, at face value
    held = net * last["averagePrice"] / MES.tick * MES.tick_usd if net else 0
    assert cash + held == pytest.approx(sum(fill["profitAndLoss"] or 0 for fill in fills))
