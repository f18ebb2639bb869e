"LIV-1, LIV-2: what the hubs of the simulated gateway tell our client, in both shapes of every event."
import asyncio

from gateway_world import CONTRACT, MS, NS, OPEN, market, path, placed, points, world

from live_runner.gateway.events import AccountEvent, Depth, FillEvent, OrderEvent, PositionEvent, Prints, Quote


def test_both_shapes_of_every_event():
    "Wrapped or bare, nulls left out or sent, arrays or one object an event: our client reads the same."
    async def story(**shape):
        async with world(path(*[(0, 0, 0, 0)] * 4, (0, 3, -45, -45), (0, 0, 0, 0)), server=shape) as w:
            w.hubs["market"].subscribe("SubscribeContractMarketDepth", CONTRACT)
            await w.heard()
            await w.until(2)
            await placed(w, market(tag="a", stop_ticks=40, target_ticks=60))
            await w.until(6)
            return w.user + w.market
    usual = asyncio.run(story())
    assert {type(e) for e in usual} == {OrderEvent, PositionEvent, FillEvent, AccountEvent, Quote, Prints, Depth}
    actions = {type(e): {x.action for x in usual if type(x) is type(e)} for e in usual if hasattr(e, "action")}
    assert actions[FillEvent] == {0} and actions[PositionEvent] == {1, 2} and actions[OrderEvent] <= {1, 2}

    def facts(events):
        for e in events:
            if hasattr(e, "action"): yield type(e), e[1:]
            elif isinstance(e, Quote): yield e
            elif isinstance(e, Prints): yield from e.prints
            else: yield from ((level.type, level.price, level.size) for level in e.levels)
    expected = list(facts(usual))
    for shape in ({"wrapped": False}, {"nulls": True}, {"arrays": False}, {"wrapped": False, "nulls": True, "arrays": False}):
        other = asyncio.run(story(**shape))
        assert list(facts(other)) == expected, shape
        assert all(e.action is None for e in other if hasattr(e, "action")) == (not shape.get("wrapped", True))
        assert all(len(e.prints) == 1 for e in other if isinstance(e, Prints)) or shape.get("arrays", True)


def test_market_data():
    "The first quote is a full one; the prints of a second are its open, its extremes and its close."
    async def run():
        async with world(path((0, 0, 0, 0), (1, 6, -2, 4), (4, 4, 4, 4))) as w:
            await w.until(3)
            late = await w.hear("late", "market", ("SubscribeContractQuotes", CONTRACT))
            first = next(e for e in late if isinstance(e, Quote))
            assert (first.last, first.high, first.low, first.open) == (points(4), points(6), points(-2), points(0)) and first.bid < first.ask and first.volume == 15
            last = [e for e in w.market if isinstance(e, Quote)][-1]
            assert (last.last, last.high, last.low) == (points(4), points(6), points(-2))
            prints = [p for e in w.market if isinstance(e, Prints) for p in e.prints]
            second = [p for p in prints if OPEN + NS <= p.ts < OPEN + 2 * NS]
            assert [p.price for p in second] in ([points(x) for x in (1, -2, 6, 4)], [points(x) for x in (1, 6, -2, 4)]) and sum(p.size for p in second) == 5
            assert [(p.ts - OPEN - NS) // MS for p in second] == [200, 500, 500, 800]
    asyncio.run(run())
