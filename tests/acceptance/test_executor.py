"LIV-6: what the core commands goes out once, exits first, and every command is answered by one event, whatever becomes of it."
import asyncio
from types import SimpleNamespace

import pytest
from gateway_world import ACCOUNT, BUY, CONTRACT, NS, OPEN, SELL, flat, market, world

from live_runner.clock import FakeClock
from live_runner.executor import BROKEN, ONLY_LOOKS, Executor
from live_runner.gateway.outcomes import Accepted, Failed, Refused, TurnedAway, Unknown
from live_runner.gateway.rest import Gateway
from live_runner.market_clock import PacedClock, SteppedClock
from live_runner.messages import Answered, Ask, Cancel, Close, Modify, NoSnapshot, Note, Place, Snapshot
from live_runner.problems import RetryLater
from live_runner.protocol import CloseError, ModifyError

SETUP = SimpleNamespace(account=ACCOUNT, contract=CONTRACT, mode="paper")
ENTRY = market(BUY, tag="t-1", stop_ticks=8, target_ticks=12)


class Venue:
    "A gateway that notes what it was asked, answers when it is let, and fails when it is told to."

    def __init__(self, clock=None):
        self.clock, self.asked, self.fails, self.open = clock or FakeClock(), [], {}, asyncio.Event()
        self.open.set()
        self.wire = SimpleNamespace(rest=SimpleNamespace(in_flight=0), bars=SimpleNamespace(in_flight=0))

    async def _answer(self, name, *said):
        self.asked.append((name, *said))
        await self.open.wait()
        if name in self.fails: raise self.fails[name]
        return Accepted(7)

    async def place(self, order, exit=False, goes_out=None):
        if goes_out: goes_out()
        return await self._answer("place", order.tag, exit)

    async def modify(self, account, order_id, size=None, limit=None, stop=None, trail=None, exit=False): return await self._answer("modify", account, order_id, size, stop, exit)
    async def cancel(self, account, order_id, exit=False): return await self._answer("cancel", account, order_id, exit)
    async def close_position(self, account, contract): return await self._answer("close", account, contract)
    async def accounts(self, only_active=True): return [SimpleNamespace(id=ACCOUNT)] if await self._answer("accounts", only_active) else None
    async def positions(self, account): return [] if await self._answer("positions", account) else None
    async def orders(self, account, start): return [] if await self._answer("orders", account, start) else None
    async def trades(self, account, start): return [] if await self._answer("trades", account, start) else None


def played(work, **how):
    "What a venue was asked and what was posted, after `work(executor, venue)`."
    async def play():
        venue, posted = Venue(how.pop("clock", None)), []
        executor = Executor(venue, how.pop("setup", SETUP), posted.append, **how)
        await work(executor, venue)
        return venue, posted
    return asyncio.run(play())


async def answered(executor):
    while executor.busy: await asyncio.sleep(0)


def sent(*commands, broken=False, fails={}, **how):
    async def work(executor, venue):
        executor.broken, venue.fails = broken, fails
        executor.send(commands)
        await answered(executor)
    return played(work, **how)


def test_each_command_is_the_venues_own_call():
    venue, posted = sent(Place(1, ENTRY, "x"), Modify(2, 55, 4999.75, 1, "x"), Cancel(3, 56, "x"), Close(4, "x"), Note("decision", "is none of ours"))
    assert sorted(venue.asked) == [("cancel", ACCOUNT, 56, True), ("close", ACCOUNT, CONTRACT), ("modify", ACCOUNT, 55, 1, 4999.75, True), ("place", "t-1", False)]
    assert sorted(posted) == [Answered(venue.clock.now(), k, Accepted(7)) for k in (1, 2, 3, 4)]


def test_exits_are_sent_before_entries_and_questions():
    for one_by_one in (False, True):
        venue, _ = sent(Ask(1, 0), Place(2, ENTRY, "x"), Close(3, "x"), Place(4, ENTRY._replace(tag="out"), "x", exit=True), one_by_one=one_by_one)
        assert [name for name, *_ in venue.asked][:2] == ["close", "place"] and venue.asked[1][1] == "out" and len(venue.asked) == 7


def test_an_exit_overtakes_what_waits_for_its_turn():
    async def work(executor, venue):
        venue.open.clear()
        executor.send([Place(1, ENTRY, "x"), Place(2, ENTRY._replace(tag="t-2"), "x"), Ask(3, 0)])
        await asyncio.sleep(0)
        executor.send([Cancel(4, 9, "x")])
        for _ in range(5): await asyncio.sleep(0)
        assert [said[:2] for said in venue.asked] == [("place", "t-1")], "one after another"
        venue.open.set()
        await answered(executor)
    venue, posted = played(work, one_by_one=True)
    assert [name for name, *_ in venue.asked[:4]] == ["place", "cancel", "place", "accounts"] and [event.id for event in posted] == [1, 4, 2, 3]


def test_commands_do_not_wait_for_each_other():
    async def work(executor, venue):
        venue.open.clear()
        executor.send([Place(1, ENTRY, "x"), Cancel(2, 9, "x")])
        for _ in range(5): await asyncio.sleep(0)
        assert len(venue.asked) == executor.busy == 2
        venue.open.set()
        await answered(executor)
    assert len(played(work)[1]) == 2


def test_while_the_journal_cannot_be_written_only_exits_and_questions_go_out():
    venue, posted = sent(Place(1, ENTRY, "x"), Place(2, ENTRY, "x", exit=True), Modify(3, 5, None, 1, "x"), Modify(4, 5, 1.0, None, "x", exit=False), Ask(5, 0), broken=True)
    assert [name for name, *_ in venue.asked] == ["place", "modify", "accounts", "positions", "orders", "trades"] and venue.asked[0][2] is True
    told = {event.id: event for event in posted}
    assert told[1].outcome == told[4].outcome == TurnedAway(0, why=BROKEN) and told[2].outcome == Accepted(7) and isinstance(told[5], Snapshot)


def test_who_only_observes_sends_nothing_but_asks():
    venue, posted = sent(Place(1, ENTRY, "x", exit=True), Close(2, "x"), Cancel(3, 4, "x"), Modify(5, 5, 1.0, None, "x"), Ask(6, 0), setup=SimpleNamespace(**{**vars(SETUP), "mode": "observe"}))
    assert [name for name, *_ in venue.asked] == ["accounts", "positions", "orders", "trades"]
    assert [event.outcome for event in posted if event.id < 6] == [TurnedAway(0, why=ONLY_LOOKS)] * 4


def test_a_question_is_four_reads_at_once_and_one_answer():
    async def work(executor, venue):
        venue.open.clear()
        executor.send([Ask(1, 77)])
        for _ in range(3): await asyncio.sleep(0)
        assert venue.asked == [("accounts", False), ("positions", ACCOUNT), ("orders", ACCOUNT, 77), ("trades", ACCOUNT, 77)]
        await venue.clock.advance(2)
        venue.open.set()
        await answered(executor)
    venue, (told,) = played(work)
    assert told == Snapshot(venue.clock.now(), 1, venue.clock.now() - 2 * 10**9, SimpleNamespace(id=ACCOUNT), (), (), ())


@pytest.mark.parametrize("which", ["accounts", "positions", "orders", "trades"])
@pytest.mark.parametrize("error, why", [(RetryLater("the venue\nis away"), "the venue is away"), (Failed(3, "no", "/x"), "/x failed: 3: no"), (KeyError("oops"), "'oops'"),
                                        (ZeroDivisionError(), "ZeroDivisionError")])
def test_one_question_without_an_answer_and_nothing_is_known(which, error, why):
    venue, (told,) = sent(Ask(1, 0), fails={which: error})
    assert told == NoSnapshot(venue.clock.now(), 1, why) and len(venue.asked) == 4


def test_an_account_that_the_venue_does_not_name_is_none_and_not_an_error():
    venue, (told,) = sent(Ask(1, 0), setup=SimpleNamespace(**{**vars(SETUP), "account": 999}))
    assert isinstance(told, Snapshot) and told.account is None


def test_a_mistake_of_ours_was_never_sent_and_a_defect_is_never_called_certain():
    _, (told,) = sent(Place(1, ENTRY, "x"), fails={"place": ValueError("size must be >= 1")})
    assert told.outcome == TurnedAway(0, why="a mistake of ours: size must be >= 1")
    _, (told,) = sent(Place(1, ENTRY, "x"), fails={"place": ZeroDivisionError("at last")})
    assert told.outcome == Unknown("ZeroDivisionError: at last", "t-1")


def test_who_is_cancelled_answers_nothing():
    async def work(executor, venue):
        venue.open.clear()
        executor.send([Place(1, ENTRY, "x"), Ask(2, 0), Close(3, "x")])
        for _ in range(3): await asyncio.sleep(0)
        await executor.close()
        assert not executor.busy
    assert played(work)[1] == []
    async def one(executor, venue):
        venue.fails = {"orders": asyncio.CancelledError()}
        executor.send([Ask(1, 0)])
        await answered(executor)
    assert played(one)[1] == [], "a question that is cancelled is not one that has failed"


def test_the_time_from_the_news_to_the_wire_is_measured_for_entries_and_the_round_trip_for_all():
    took = []
    async def work(executor, venue):
        executor.send([Place(1, ENTRY, "x"), Cancel(2, 3, "x")], since=__import__("time").perf_counter() - 5)
        await answered(executor)
    played(work, took=lambda name, seconds: took.append((name, seconds)))
    assert sorted(name for name, _ in took) == ["bar_to_wire_s", "order_round_trip_s", "order_round_trip_s"]
    assert 5 <= dict(took)["bar_to_wire_s"] < 6 and dict(took)["order_round_trip_s"] < 1


# --- clocks of a market ------------------------------------------------------------------------------------------------------------------------------------

def test_what_merely_sleeps_on_a_market_that_stands_still_holds_up_nobody():
    async def work(executor, venue):
        async def slow(order, exit=False, goes_out=None):
            await venue.clock.sleep(60)
            return Accepted(1)
        venue.place = slow
        executor.send([Place(1, ENTRY, "x")])
        await asyncio.wait_for(executor.settled(), 5)
        assert executor.busy == 1, "it still waits"
        venue.clock.hear(venue.clock.now() + 60 * 10**9)
        await asyncio.wait_for(executor.settled(), 5)
        assert not executor.busy
    assert len(played(work, clock=SteppedClock(10**18))[1]) == 1


def test_a_request_that_is_under_way_is_waited_for_though_somebody_sleeps():
    async def work(executor, venue):
        async def slow(order, exit=False, goes_out=None):
            venue.wire.rest.in_flight += 1
            await asyncio.sleep(.3)
            venue.wire.rest.in_flight -= 1
            return Accepted(1)
        venue.place = slow
        sleeper = asyncio.create_task(venue.clock.sleep(5))
        executor.send([Place(1, ENTRY, "x")])
        await asyncio.wait_for(executor.settled(), 5)
        assert not executor.busy and not sleeper.done()
        sleeper.cancel()
    played(work, clock=SteppedClock(10**18))


def test_a_stepped_clock_wakes_its_sleepers_when_the_market_comes_so_far_and_never_goes_back():
    async def play():
        clock, woken = SteppedClock(10**18), []
        async def nap(s):
            await clock.sleep(s)
            woken.append((s, clock.now()))
        naps = [asyncio.create_task(nap(s)) for s in (3, 1, 2)]
        await asyncio.sleep(0)
        assert clock.sleeping and clock.monotonic() == 0
        for s in (1, .5, 2.5):
            clock.hear(10**18 + round(s * 1e9))
            await asyncio.sleep(0)
        assert [s for s, _ in woken] == [1, 2] and clock.now() == 10**18 + 2_500_000_000
        clock.hear(10**18)
        assert clock.now() == 10**18 + 2_500_000_000
        naps[0].cancel()
        await asyncio.sleep(0)
        assert not clock.sleeping
    asyncio.run(play())


def test_a_paced_clock_follows_its_events_never_goes_back_and_never_stands_still():
    class Wall(FakeClock):
        def monotonic(self): return self.ns / 1e9
    wall = Wall(0)
    clock = PacedClock(10**18, 10.0, wall)
    def then(s):
        wall.ns += round(s * 1e9)
        return (clock.now() - 10**18) / 1e9
    assert then(.05) == .5 and then(.04) == pytest.approx(.9)
    assert then(.2) == 1.0, "one second beyond the last event, not more"
    clock.hear(10**18 + 3 * 10**9)
    assert then(0) == 3.0 and then(.02) == pytest.approx(3.2)
    clock.hear(10**18 + 3_100_000_000)
    assert then(0) == pytest.approx(3.2), "never back"
    assert then(1.9) == pytest.approx(4.1) and then(5.1) == pytest.approx(4.1 + 5), "a market that has fallen silent goes on with the wall's clock"


def test_the_clients_limits_run_on_the_markets_clock_and_a_step_frees_them():
    async def play():
        async with world(flat(200), hubs=False) as w:
            clock = SteppedClock(w.clock.now)
            async with Gateway(w.gateway.settings, clock) as gateway:
                posted = []
                executor = Executor(gateway, SETUP, posted.append, one_by_one=True)
                executor.send([Ask(k, 0) for k in range(50)])    # 200 questions and a log-in; 180 a minute may be asked
                await asyncio.wait_for(executor.settled(), 20)
                held = executor.busy
                for _ in range(3):
                    answer = await w.replay.step(seconds=61)
                    clock.hear(answer["ts"])
                    await asyncio.wait_for(executor.settled(), 20)
                return held, executor.busy, posted
    held, left, posted = asyncio.run(play())
    assert 0 < held < 50 and left == 0 and [event.id for event in posted] == list(range(50)) and all(isinstance(event, Snapshot) for event in posted)


# --- at a simulated venue ----------------------------------------------------------------------------------------------------------------------------------

def test_a_story_at_the_simulated_venue_is_told_in_answers():
    async def play():
        async with world(flat(20), hubs=False) as w:
            posted = []
            executor = Executor(w.gateway, SETUP, posted.append, one_by_one=True)
            async def done(*commands):
                executor.send(commands)
                while executor.busy: await asyncio.sleep(.001)
                return [event if isinstance(event, Snapshot) else event.outcome for event in posted[-len(commands):]]
            await w.replay.step(until=OPEN + NS)
            entry, = await done(Place(1, ENTRY, "in"))
            await w.replay.step(seconds=2)
            held, = await done(Ask(2, w.clock.now - 60 * 10**9))
            stop = next(order for order in held.orders if order.stop)
            moved, wrong = await done(Modify(3, stop.id, stop.stop + .25, None, "follow"), Modify(4, 1, 4000.0, None, "nobody's"))
            closing, again = await done(Close(5, "out"), Close(6, "out"))
            await w.replay.step(seconds=2)
            gone, = await done(Close(7, "out"))
            flat_now, = await done(Ask(8, w.clock.now - 60 * 10**9))
            return entry, held, moved, wrong, closing, again, gone, flat_now
    entry, held, moved, wrong, closing, again, gone, flat_now = asyncio.run(play())
    assert isinstance(entry, Accepted) and held.positions[0].net == 1 and held.account.id == ACCOUNT and len(held.orders) == 3 and len(held.fills) == 1
    assert moved == Accepted() and wrong.code == ModifyError.ORDER_NOT_FOUND and isinstance(closing, Accepted)
    assert isinstance(again, Refused) and again.code == CloseError.ORDER_PENDING and gone.code == CloseError.POSITION_NOT_FOUND
    assert not flat_now.positions and len(flat_now.fills) == 2 and flat_now.fills[1].side == SELL
