"LIV-1: the client never crosses the service's limits of requests, however the service counts them, and lets exits through first."
import asyncio
import random
from collections import deque

import pytest
from aiohttp import web
from hypothesis import given, settings
from hypothesis import strategies as st
from test_gateway_rest import LOGIN, MES_ID, drive

from live_runner.clock import FakeClock
from live_runner.gateway.limits import Limiter, Urgency, bars_limiter, rest_limiter
from live_runner.problems import RetryLater
from live_runner.protocol import BARS, BARS_LIMIT, REST_LIMIT


class SlidingWindow:
    "A service that looks back from each request."

    def __init__(self, limit: int, window_s: float): self.limit, self.window_s, self.times, self.refused = limit, window_s, deque(), 0

    def arrive(self, now: float) -> None:
        while self.times and self.times[0] <= now - self.window_s: self.times.popleft()
        self.times.append(now)
        self.refused += len(self.times) > self.limit


class FixedWindow(SlidingWindow):
    "A service that starts counting afresh at fixed moments; nobody knows which."

    def __init__(self, limit: int, window_s: float, phase_s: float):
        super().__init__(limit, window_s)
        self.phase_s, self.window, self.seen = phase_s, None, 0

    def arrive(self, now: float) -> None:
        window = (now + self.phase_s) // self.window_s
        self.window, self.seen = window, self.seen + 1 if window == self.window else 1
        self.refused += self.seen > self.limit


async def one_call(limiter, urgency, services, before_s, after_s, lost=False, log=None, name=None):
    "A request that arrives so long after its sending and is answered so long after that; a lost one arrives after its sender gave up."
    async def arrives():
        await limiter.clock.sleep(before_s)
        for service in services: service.arrive(limiter.clock.monotonic())
    try:
        async with limiter.slot(urgency) as waited:
            if log is not None: log.append((name, waited))
            arriving = asyncio.create_task(arrives())
            if lost: raise TimeoutError
            await arriving
            await limiter.clock.sleep(after_s)
    except TimeoutError: await arriving


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("make,limit", [(rest_limiter, REST_LIMIT), (bars_limiter, BARS_LIMIT)])
def test_a_storm_of_5000_calls_crosses_no_window_and_an_exit_goes_first(make, limit, seed):
    "LIV-1: sliding, and fixed at four phases; slow answers, lost ones; one exit in each minute of it."
    async def main():
        rng, clock, log = random.Random(seed), FakeClock(), []
        limiter = make(clock)
        services = [SlidingWindow(*limit)] + [FixedWindow(*limit, limit[1] * part) for part in (0, .25, .5, .9)]
        def call(urgency, name): return asyncio.create_task(one_call(limiter, urgency, services, rng.expovariate(5), rng.expovariate(1), rng.random() < .02, log, name))
        calls = [call(rng.choice((Urgency.ACT, Urgency.READ)), i) for i in range(5000)]
        exits = 0
        while not all(c.done() for c in calls):
            await clock.advance(61)
            if not limiter.reserve or limiter._waiting == []: continue
            before = len(log)
            calls.append(call(Urgency.EXIT, "exit"))
            await clock.advance(0)
            assert log[before:] == [("exit", 0.0)], "an exit in the midst of a storm waits for nothing"
            exits += 1
        await asyncio.gather(*calls)
        assert [s.refused for s in services] == [0] * 5
        assert exits > 20 or not limiter.reserve
        assert clock.monotonic() < 5000 / (limit[0] - limiter.reserve) * (limit[1] + 5) + 600, "and it does not dawdle"
    asyncio.run(main())


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(Urgency), st.floats(0, 9), st.floats(0, 9), st.booleans(), st.floats(0, 30), st.none() | st.floats(0, 20)), min_size=1, max_size=60), st.floats(0, 10))
def test_no_latency_loss_or_cancellation_makes_it_cross(calls, phase_s):
    "LIV-1: any delays on either leg, any number of lost requests and of callers who leave, also in the midst of a request."
    async def main():
        clock = FakeClock()
        limiter, services = Limiter(5, 10, 2, clock), [SlidingWindow(5, 10), FixedWindow(5, 10, phase_s)]
        async def caller(urgency, before_s, after_s, lost, start_s, leave_s):
            await clock.sleep(start_s)
            task = asyncio.create_task(one_call(limiter, urgency, services, before_s, after_s, lost))
            if leave_s is not None:
                await clock.sleep(leave_s)
                task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        tasks = [asyncio.create_task(caller(*call)) for call in calls]
        await clock.advance(3000)
        assert all(task.done() for task in tasks), "somebody was forgotten"
        assert [s.refused for s in services] == [0, 0]
        assert limiter.in_flight == 0 and limiter.free == 5 and not limiter._waiting
    asyncio.run(main())


def test_a_slot_is_taken_until_a_window_after_the_answer():
    "By hand: one slot of 10 s; the answer comes after 4 s; the next request leaves at 14.5 s and not before."
    async def main():
        clock, log = FakeClock(), []
        limiter = Limiter(1, 10, clock=clock)
        calls = [asyncio.create_task(one_call(limiter, Urgency.READ, [], 1, 3, log=log, name=i)) for i in range(2)]
        await clock.advance(14.4)
        assert log == [(0, 0.0)] and limiter.free == 0
        await clock.advance(.2)
        assert log == [(0, 0.0), (1, 14.5)]
        await clock.advance(60)
        await asyncio.gather(*calls)
    asyncio.run(main())


def test_exits_then_acts_then_reads_and_first_come_first_served_within():
    async def main():
        clock, log = FakeClock(), []
        limiter = Limiter(1, 10, clock=clock)
        wanted = [("r1", Urgency.READ), ("r2", Urgency.READ), ("a1", Urgency.ACT), ("e1", Urgency.EXIT), ("a2", Urgency.ACT), ("e2", Urgency.EXIT)]
        calls = []
        for name, urgency in wanted:
            calls.append(asyncio.create_task(one_call(limiter, urgency, [], .1, .1, log=log, name=name)))
            await clock.advance(0)
        await clock.advance(100)
        assert [name for name, _ in log] == ["r1", "e1", "e2", "a1", "a2", "r2"]
        await asyncio.gather(*calls)
    asyncio.run(main())


def test_the_reserve_is_for_exits_only():
    "180 slots for all, 20 more for exits; after those an exit waits too, but before everybody else."
    async def main():
        clock, log = FakeClock(), []
        limiter = rest_limiter(clock)
        calls = [asyncio.create_task(one_call(limiter, Urgency.ACT, [], 0, 0, log=log, name="act")) for _ in range(300)]
        await clock.advance(1)
        assert [name for name, _ in log] == ["act"] * 180
        calls += [asyncio.create_task(one_call(limiter, Urgency.EXIT, [], 0, 0, log=log, name="exit")) for _ in range(25)]
        await clock.advance(1)
        assert [name for name, _ in log] == ["act"] * 180 + ["exit"] * 20
        await clock.advance(59)
        assert [name for name, _ in log][200:] == ["exit"] * 5 + ["act"] * 120
        await asyncio.gather(*calls)
    asyncio.run(main())


def test_who_leaves_the_queue_holds_nobody_up_and_closing_sends_all_away():
    async def main():
        clock = FakeClock()
        limiter = Limiter(1, 10, clock=clock)
        calls = [asyncio.create_task(one_call(limiter, Urgency.READ, [], 0, 0)) for _ in range(3)]
        await clock.advance(1)
        calls[1].cancel()
        await clock.advance(10)
        assert calls[2].done()
        waiting = asyncio.create_task(one_call(limiter, Urgency.EXIT, [], 0, 0))
        await clock.advance(0)
        limiter.close()
        with pytest.raises(RetryLater, match="closed"): await waiting
    asyncio.run(main())


def test_who_leaves_as_the_slot_is_given_gives_it_back():
    async def main():
        clock, log = FakeClock(), []
        limiter = Limiter(1, 10, clock=clock)
        calls = [asyncio.create_task(one_call(limiter, Urgency.READ, [], 0, 0, log=log, name=i)) for i in range(3)]
        await clock.advance(5)
        clock.ns += 6 * 10**9
        limiter._serve()
        calls[1].cancel()  # between the giving and the taking
        await clock.advance(0)
        assert calls[1].cancelled() and [name for name, _ in log] == [0, 2]
        await clock.advance(20)
        assert limiter.in_flight == 0 and limiter.free == 1
    asyncio.run(main())


def test_the_gateway_keeps_both_limits_with_log_in_and_retries_counted():
    "LIV-1: 400 questions, thirty of them failing once or more, 120 calls for bars and 60 acts at once through the real client; each attempt counts, and the log-in."
    async def body(gateway, server):
        services = {True: SlidingWindow(*BARS_LIMIT), False: SlidingWindow(*REST_LIMIT)}
        good = server.good
        def counted(path):
            services[path == BARS].arrive(server.clock.monotonic())
            return good(path)
        async def failing(request):
            counted(request.path)
            return web.Response(status=500)
        server.good, server.plans["/api/Position/searchOpen"] = counted, [failing] * 30
        await asyncio.gather(*(gateway.positions(3) for _ in range(400)), *(gateway.bars(MES_ID, 0, 1) for _ in range(120)), *(gateway.cancel(3, i) for i in range(60)))
        assert server.count(LOGIN) == 1 and len(server.seen) == 1 + 400 + 30 + 120 + 60
        assert [s.refused for s in services.values()] == [0, 0]
    drive(body, 30.0)


def test_a_reserve_must_leave_something():
    with pytest.raises(ValueError, match="reserve must be >= 0 and below the limit of 5, got 5"): Limiter(5, 10, 5)
