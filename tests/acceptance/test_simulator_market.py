"LIV-1: the market of the simulated gateway. A bar becomes quotes and prints and the same bar again at the other end, on a virtual clock; history never knows more than now; a recording survives a kill."
import asyncio
import gzip

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from live_runner.clock import FakeClock, isotime, ns_of
from live_runner.gateway.events import Lost, Print, Prints, Quote
from live_runner.protocol import DepthType, TradeType
from live_runner.recorder import Recording
from live_runner.simulator.clock import Clock
from live_runner.simulator.contracts import Contracts
from live_runner.simulator.history import History
from live_runner.simulator.recorded import RecordedTape, read_recording
from live_runner.simulator.replay import Replay
from live_runner.simulator.sources import stored_tape
from live_runner.simulator.tape import Tape
from mesbot.bars import cut_bars, make_bars, n_bars, read_bars, resample_bars, take_sessions, trades_to_bars, write_bars
from mesbot.calendar import DAY, HOUR, MINUTE
from mesbot.core import MES, SECOND, SPY
from mesbot.synth import quote_bars, synthetic_market, write_market
from mesbot.ticks import BarStream

OPEN = ns_of("2024-01-02T23:00:00Z")  # of the trade date 2024-01-03


class World:
    "A venue and an `emit` that write down what happens, and when."

    def __init__(self, listening=False):
        self.clock, self.story, self.drained, self.depth = Clock(), [], 0, listening

    def put(self, *what): self.story.append((self.clock.now, *what))

    def open_session(self, row): self.put("open", int(row["date"]))
    def close_session(self): self.put("close")
    def meet_open(self, bar): self.put("meet_open", bar)
    def meet_range(self, bar): self.put("meet_range", bar)
    def end_second(self, bar): self.put("end_second", bar)

    def __call__(self, event, key, payload, action=None): self.put(event, key, payload)
    def listening(self, event, key): return self.depth
    async def drain(self): self.drained += 1

    def all(self, name): return [row for row in self.story if row[1] == name]


def bars_of(*rows, start=OPEN):
    "Bars of (second, open, high, low, close, volume)."
    second, *columns = (np.array(column) for column in zip(*rows))
    return make_bars(start + second * SECOND, *columns)


def replay_of(tape, speed="lockstep", listening=False, **more):
    world = World(listening)
    return world, Replay(tape, world.clock, world, world, speed, **more)


def played(tape, listening=False):
    "The whole story of a tape."
    world, replay = replay_of(tape, "max", listening)
    asyncio.run(replay.run())
    return world


def prints_of(world, instrument=MES):
    "Every print that was told: ts, ticks, contracts."
    rows = [p for _, _, _, rows in world.all("GatewayTrade") for p in rows]
    return np.array([ns_of(p["timestamp"]) for p in rows]), instrument.to_ticks(np.array([p["price"] for p in rows])), np.array([p["volume"] for p in rows])


def same(one, other): return all(x.tolist() == y.tolist() for x, y in zip(one[:7], other[:7]))


@pytest.fixture(scope="module")
def market(): return synthetic_market(2, seed=11, activity=.2)


@pytest.fixture(scope="module")
def tape(market): return lambda **more: Tape(MES, market.bars, *(side.open for side in quote_bars(market)), **more)


@pytest.fixture(scope="module")
def whole(tape):
    "Tape and story, played to the end."
    one = tape()
    return one, played(one)


@pytest.fixture(scope="module")
def story(whole): return whole[1]


# the clock

def test_what_is_due_happens_in_its_order():
    clock, done = Clock(5), []
    for ts, name in ((9, "c"), (7, "a"), (7, "b")): clock.at(ts, lambda name=name: done.append((clock.now, name)))
    clock.at(7, lambda: clock.at(8, lambda: done.append((clock.now, "asked on the way"))))
    clock.run_until(8)
    assert done == [(7, "a"), (7, "b"), (8, "asked on the way")] and clock.now == 8
    clock.run_until(10)
    assert done[-1] == (9, "c") and clock.now == 10
    for wrong in (lambda: clock.at(9, print), lambda: clock.run_until(9)):
        with pytest.raises(ValueError, match="9 ns"): wrong()


# bars to prints and back

def test_a_synthetic_market_comes_back_bar_for_bar(market, story):
    "LIV-1: every print through BarStream, one by one as a client does it, the clock closing each second."
    stream, back = BarStream("MES"), []
    for now, name, *what in story.story:
        if name == "end_second": back.append(stream.advance(now))
        elif name == "GatewayTrade":
            for p in what[1]: assert stream.update(ns_of(p["timestamp"]), int(MES.to_ticks(p["price"])), p["volume"]) is None
    assert same([np.array(column) for column in zip(*back)], market.bars[:6])
    assert stream.late == stream.bad == stream.duplicates == 0


def test_a_real_market_comes_back(shared_data):
    "LIV-1: SPY, two real days."
    bars = take_sessions(read_bars(shared_data / "spy_1s_201310.csv.gz", "SPY").bars["1s"], 0, 2)
    tape = Tape(SPY, bars)
    world = played(tape)
    assert n_bars(bars) > 30_000 and same(trades_to_bars(*prints_of(world, SPY), "SPY"), bars) and tape.short == 0
    assert [tape.contract, len(world.all("open")), len(world.all("close"))] == ["CON.F.US.SPY.Z13", 2, 2]


def achievable(prices): return bars_of(*[(2 * i, p[0], max(p), min(p), p[-1], len(p)) for i, p in enumerate(prices)])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.integers(18_000, 18_006), min_size=1, max_size=9), min_size=1, max_size=20))
def test_bars_of_any_trades_come_back(prices):
    "One contract a trade is the fewest there can be; any bar that trades can make is made again, with every contract."
    bars = achievable(prices)
    tape = Tape(MES, bars)
    assert same(trades_to_bars(*prints_of(played(tape))), bars) and tape.short == 0


def test_too_few_contracts_are_counted():
    "Without volumes each print has one contract: the prices come back, the volume cannot."
    bars = bars_of((0, 100, 102, 99, 101, 0), (1, 101, 101, 101, 101, 0), (2, 101, 103, 101, 102, 9))
    tape = Tape(MES, bars)
    back = trades_to_bars(*prints_of(played(tape)))
    assert same([*back[:5]], [*bars[:5]]) and back.volume.tolist() == [4, 1, 9] and tape.short == 2


def test_moments_of_a_second():
    "200 ms: the open; 500 ms: the extremes, the nearer first; 800 ms: the close; the venue meets each before it is told."
    world = played(Tape(MES, bars_of((0, 100, 106, 98, 103, 10)), np.array([99]), np.array([100])))
    told = [(now - OPEN, name, *what) for now, name, *what in world.story if name not in ("open", "close")]
    assert [(at // 10**6, name) for at, name, *_ in told] == [
        (0, "GatewayQuote"), (200, "meet_open"), (200, "GatewayTrade"), (200, "GatewayQuote"), (500, "meet_range"), (500, "GatewayTrade"), (800, "GatewayTrade"), (800, "GatewayQuote"), (1000, "end_second")]
    (opening,), extremes, (closing,) = (what[1] for _, name, *what in told if name == "GatewayTrade")
    assert opening == {"symbolId": "F.US.MES", "price": 25.0, "timestamp": "2024-01-02T23:00:00.2000000+00:00", "type": TradeType.BUY, "volume": 2, "contractId": "CON.F.US.MES.H24"}
    assert [(p["price"], p["type"], p["volume"]) for p in (*extremes, closing)] == [(24.5, TradeType.SELL, 2), (26.5, TradeType.BUY, 2), (25.75, TradeType.SELL, 4)]
    bar = told[1][2]
    assert bar == (OPEN, 100, 106, 98, 103, 10, 99, 100) and all(type(value) is int for value in bar)


# quotes

def test_quotes_are_deltas_of_one_screen(market, whole):
    "The first is full, later ones say only what has changed, and merged they are the quotes of the market as each second began."
    (tape, story), screen, at = whole, {}, {}
    for now, _, _, fields in story.all("GatewayQuote"):
        assert all(screen.get(name) != value for name, value in fields.items() if name not in ("lastUpdated", "timestamp"))
        screen.update(fields)
        assert fields["timestamp"] == fields["lastUpdated"] and ns_of(fields["timestamp"]) == now
        at[now] = dict(screen)
    first = story.all("GatewayQuote")[0][3]
    assert {"symbol", "contract", "bestBid", "bestAsk"} <= first.keys() and first["contract"] == "CON.F.US.MES.H24"
    bid, ask = quote_bars(market)
    moments = np.array(sorted(at))
    stood = np.searchsorted(moments, market.bars.ts, side="right") - 1
    assert MES.to_ticks(np.array([at[moments[i]]["bestBid"] for i in stood])).tolist() == bid.open.tolist()
    assert MES.to_ticks(np.array([at[moments[i]]["bestAsk"] for i in stood])).tolist() == ask.open.tolist()
    last, day = take_sessions(market.bars, 1, 2), market.bars.close[market.bars.sessions[1] - 1]
    assert [screen[name] for name in ("lastPrice", "open", "high", "low", "volume", "change")] == [MES.to_points(x) for x in (last.close[-1], last.open[0], last.high.max(), last.low.min())] + \
        [last.volume.sum(), MES.to_points(int(last.close[-1]) - int(day))]
    assert tape.snapshot() == screen


def test_without_quotes_the_ask_is_a_tick_above_the_last_price():
    world = played(Tape(MES, bars_of((0, 100, 101, 100, 101, 3), (2, 102, 102, 102, 102, 1))))
    sides = [(now - OPEN, fields["bestBid"], fields["bestAsk"]) for now, _, _, fields in world.all("GatewayQuote") if "bestBid" in fields]
    assert sides == [(0, 25.0, 25.25), (2 * SECOND, 25.25, 25.5)] and world.all("meet_open")[0][2][6:] == (0, 0)


def test_the_book_is_told_to_those_who_look(story):
    "Depth begins with a Reset and shows the best prices of the quote."
    assert not story.all("GatewayDepth")
    world = played(Tape(MES, bars_of((0, 100, 101, 100, 101, 3)), np.array([99]), np.array([100])), listening=True)
    (_, _, contract, rows), = world.all("GatewayDepth")
    best = {row["type"]: row["price"] for row in rows}
    assert rows[0]["type"] == DepthType.RESET and best[DepthType.BEST_BID] == 24.75 and best[DepthType.BEST_ASK] == 25.0 and contract == "CON.F.US.MES.H24"
    assert all(row["volume"] >= 1 for row in rows[1:]) and {row["price"] for row in rows if row["type"] == DepthType.BID} == {24.5, 24.25}


# the replay

def test_sessions_open_and_close_and_the_night_is_leapt_over(market, story):
    "The clock is a minute before each open, whatever lies between; the venue is told of both ends at their times."
    info = Tape(MES, market.bars).info
    assert [(now, date) for now, _, date in story.all("open")] == [(row["open"], row["date"]) for row in info]
    assert [now for now, _ in story.all("close")] == info["close"].tolist()
    world, replay = replay_of(Tape(MES, market.bars))
    assert replay.now == info["open"][0] - MINUTE and not world.story
    end = asyncio.run(replay.step(until=int(info["close"][0])))
    assert end["ts"] == info["open"][1] - MINUTE and end["iso"] == isotime(end["ts"]) and not end["ended"] and replay.session is None


def test_late_and_short_data_do_not_make_anybody_wait():
    "Bars of an hour in the midst of a session: the replay opens a minute before them, and closes at the close."
    world, replay = replay_of(Tape(MES, bars_of((5 * 3600, 100, 100, 100, 100, 1), (5 * 3600 + 9, 100, 100, 100, 100, 1))))
    assert replay.now == OPEN + 5 * HOUR - 2 * MINUTE
    asyncio.run(replay.step(seconds=3 * 60))
    assert [(now - OPEN, name) for now, name, *_ in world.story if name in ("open", "close")] == [(5 * HOUR - MINUTE, "open")] and replay.bars == 2
    end = asyncio.run(replay.step(seconds=30))
    assert world.story[-1] == (OPEN + 23 * HOUR, "close") and end["ended"]


def test_steps_by_seconds_bars_and_moments(market):
    "A step does all that happens up to and including its end."
    world, replay = replay_of(Tape(MES, cut_bars(market.bars, 500)))
    step = lambda **amount: asyncio.run(replay.step(**amount))
    begin = int(market.bars.ts[0])
    assert step(until=isotime(begin))["bars"] == 0 and [name for _, name, *_ in world.story] == ["open", "GatewayQuote"]
    assert step(bars=3) == {"ts": int(market.bars.ts[2]) + SECOND, "iso": isotime(int(market.bars.ts[2]) + SECOND), "ended": False, "bars": 3}
    assert step(seconds=.5)["ts"] == market.bars.ts[2] + SECOND + SECOND // 2
    assert world.all("end_second")[-1][2].ts == market.bars.ts[2]
    other, second = replay_of(Tape(MES, bars_of((0, 100, 100, 100, 100, 1), (1, 104, 104, 104, 104, 1)), np.array([99, 103]), np.array([100, 104])))
    asyncio.run(second.step(bars=1))
    assert other.story[-1][:2] == (OPEN + SECOND, "GatewayQuote") and other.story[-1][3]["bestBid"] == 25.75   # of the very moment at which the bar is over
    done = step(bars=10**9)
    assert done["ended"] and done["bars"] == 497 and replay.bars == 500 and step(bars=1)["bars"] == 0
    before = replay.now
    assert step(seconds=90)["ts"] == before + 90 * SECOND      # the venue's time goes on though nothing trades any more
    for wrong, text in (({}, "one of"), ({"seconds": 1, "until": begin}, "one of"), ({"seconds": 0, "bars": 1}, "above 0"), ({"seconds": 0}, "above 0"), ({"bars": 1.5}, "whole"), ({"until": begin}, "before now"), ({"until": "soon"}, "time must"), ({"bars": True}, "above 0"), ({"until": 1.5}, "ns UTC")):
        with pytest.raises(ValueError, match=text): step(**wrong)
    with pytest.raises(ValueError, match="lockstep"): asyncio.run(replay.run())


def test_a_step_of_bars_and_seconds_ends_with_whichever_comes_first_and_leaps_over_no_hour_of_a_session():
    world, replay = replay_of(Tape(MES, bars_of((5 * 3600, 100, 100, 100, 100, 1), (5 * 3600 + 9, 100, 100, 100, 100, 1))))
    step = lambda **amount: asyncio.run(replay.step(**amount))
    step(until=OPEN + 5 * HOUR)
    assert step(bars=1, seconds=15)["ts"] == OPEN + 5 * HOUR + SECOND and step(bars=1, seconds=4)["ts"] == OPEN + 5 * HOUR + 5 * SECOND
    assert step(bars=9, seconds=15) == {"ts": OPEN + 5 * HOUR + 20 * SECOND, "iso": isotime(OPEN + 5 * HOUR + 20 * SECOND), "ended": False, "bars": 1}
    for minutes in range(1, 10): assert step(bars=1, seconds=60)["ts"] == OPEN + 5 * HOUR + 20 * SECOND + minutes * MINUTE, "silence, and still open"
    assert world.story[-1][1] != "close"
    assert step(bars=1, seconds=23 * 3600)["ended"] and world.story[-1] == (OPEN + 23 * HOUR, "close")
    before = replay.now
    assert step(bars=1, seconds=3)["ts"] == before + 3 * SECOND


def test_the_same_story_at_any_speed(market):
    "LIV-1: by single seconds, by bars, in one step or as fast as possible: the same events at the same virtual times."
    bars = cut_bars(market.bars, 400)
    def by(**amount):
        world, replay = replay_of(Tape(MES, bars))
        async def go():
            while not (await replay.step(**amount))["ended"]: pass
        asyncio.run(go())
        return world.story
    whole = played(Tape(MES, bars)).story
    assert len(whole) > 2000 and by(seconds=1) == by(bars=7) == by(seconds=.37) == by(until=int(bars.ts[-1]) + DAY) == whole


def test_an_order_sent_at_a_close_meets_the_next_print(market):
    "What falls due between two moments of the tape happens between them, at its own time."
    world, replay = replay_of(Tape(MES, market.bars))
    asyncio.run(replay.step(bars=5))
    at = replay.now
    for lag in (0, 199, 200, 499): world.clock.at(at + lag * 10**6, lambda lag=lag: world.put("due", lag))
    seen = len(world.story)
    asyncio.run(replay.step(bars=1))
    told = [what for what in world.story[seen:] if what[1] in ("due", "meet_open", "meet_range")]
    wait = int(market.bars.ts[5]) - at
    if wait == 0: assert [what[1:3] if what[1] == "due" else what[1] for what in told] == [("due", 0), ("due", 199), ("due", 200), "meet_open", ("due", 499), "meet_range"]
    assert [now - at for now, name, *_ in told if name == "due"] == [0, 199 * 10**6, 200 * 10**6, 499 * 10**6]


def test_a_pace_on_the_wall_clock(market):
    "At speed 60 ten seconds on the wall are ten minutes of market; nobody but `step` is refused."
    async def go():
        wall = FakeClock()
        world, replay = replay_of(Tape(MES, market.bars), 60, wall=wall)
        start = replay.now
        task = asyncio.create_task(replay.run())
        await wall.advance(10)
        gone = (replay.now - start) / SECOND
        assert 590 <= gone <= 600 and replay.bars == np.searchsorted(market.bars.ts, replay.now - SECOND, side="right") > 100
        with pytest.raises(ValueError, match="speed 60"): await replay.step(seconds=1)
        task.cancel()
    asyncio.run(go())


def test_the_night_takes_no_time_at_any_pace():
    "Two sessions of two bars, at speed 60: some two minutes of market around each, and nothing between them. After the end the clock goes on as the wall's does."
    async def go():
        wall = FakeClock()
        world, replay = replay_of(Tape(MES, bars_of((0, 100, 100, 100, 100, 1), (9, 100, 100, 100, 100, 1), (24 * 3600, 100, 100, 100, 100, 1))), 60, wall=wall)
        task = asyncio.create_task(replay.run())
        await wall.advance(3)
        assert OPEN + 24 * HOUR - MINUTE < replay.now < OPEN + 24 * HOUR and replay.session is None
        await wall.advance(3)
        await task
        assert replay.ended and replay.bars == 3 and [now for now, *_ in world.all("close")] == [OPEN + 23 * HOUR, OPEN + 47 * HOUR]
        end, task = replay.now, asyncio.create_task(replay.keep_time())
        await wall.advance(5)
        assert 4.9 * SECOND <= replay.now - end <= 5 * SECOND
        task.cancel()
    asyncio.run(go())


def test_speeds():
    tape = lambda: Tape(MES, bars_of((0, 100, 100, 100, 100, 1)))
    assert [replay_of(tape(), speed)[1].speed for speed in (0, "max", "2.5", "lockstep", 1)] == ["max", "max", 2.5, "lockstep", 1]
    for wrong in (-1, "fast", float("nan"), None):
        with pytest.raises(ValueError, match="speed must"): replay_of(tape(), wrong)


def test_a_tape_says_what_is_wrong(market):
    bars = bars_of((0, 100, 100, 100, 100, 1))
    for arguments, text in (((resample_bars(market.bars, 60),), "one-second"), ((cut_bars(bars, 0),), "at least one bar"), ((bars, np.array([1])), "go together"), ((bars, np.array([1, 2]), np.array([2, 3])), "each of 1"), ((bars, None, None, 1), "from 0 to 0")):
        with pytest.raises(ValueError, match=text): Tape(MES, *arguments)


def test_a_store_is_a_tape_with_its_quotes(tmp_path):
    "LIV-1: real bars come from the store, quotes where it has them; bars before the start are history and are not played."
    store, made = tmp_path / "store", synthetic_market(3, seed=7, activity=.02)
    write_market(store, 3, 7, activity=.02)
    bid, ask = (side.open for side in quote_bars(made))
    tape, (a, b) = stored_tape("MES", store, "2024-01-03", "2024-01-04"), made.bars.sessions[1:3]
    assert same(tape.bars, take_sessions(made.bars, 0, 2)) and (tape.first, tape.contract) == (1, "CON.F.US.MES.H24")
    assert tape.bid.tolist() == bid[:b].tolist() and tape.ask.tolist() == ask[:b].tolist()
    assert [row[2] for row in played(tape).all("end_second")] == [(*row, *quote) for row, *quote in zip(rows_in(take_sessions(made.bars, 1, 2)), bid[a:b].tolist(), ask[a:b].tolist())]
    middle = int(made.bars.ts[(a + b) // 2])
    cut = stored_tape("MES", store, isotime(middle)[:19])
    assert (cut.first, cut.bars.ts[cut.bars.sessions[1]]) == (1, middle)      # what comes before the start in its own session is not there
    assert stored_tape("MES", store).first == 0
    write_bars(made.bars, tmp_path / "bare")
    assert not stored_tape("MES", tmp_path / "bare").bid.any()


# history

def asked(history, now, start, end, **more):
    body = {"contractId": "CON.F.US.MES.H24", "startTime": isotime(start), "endTime": isotime(end), "unit": 1, "unitNumber": 1, "limit": 20_000, "live": False, "includePartialBar": False, **more}
    return history.history(now, body)


def rows_of(answer): return [(ns_of(b["t"]), *(int(MES.to_ticks(b[name])) for name in "ohlc"), b["v"]) for b in reversed(answer["bars"])]


def rows_in(bars): return list(zip(*(column.tolist() for column in bars[:6])))


def test_seconds_of_the_past(market):
    "Newest first, the newest `limit` of the window, the end not included, nothing after now."
    history, ts = History(Tape(MES, market.bars, first=1)), market.bars.ts
    now, wanted = int(ts[25_000]) + SECOND, rows_in(cut_bars(market.bars, 25_001))
    got = rows_of(asked(history, now, int(ts[20_000]), now + DAY))
    assert got == wanted[20_000:] and rows_of(asked(history, now, 0, now)) == wanted[-20_000:]
    assert rows_of(asked(history, now, int(ts[100]), int(ts[110]))) == wanted[100:110]        # before the session where the replay began
    assert rows_of(asked(history, now - 1, int(ts[24_990]), now)) == wanted[24_990:-1]        # its last second is not over yet
    assert rows_of(asked(history, now, 0, now, limit=3)) == wanted[-3:] and asked(history, now, now, now + DAY)["bars"] == []


@pytest.mark.parametrize("unit, number, bar_s", [(1, 5, 5), (2, 1, 60), (2, 5, 300), (2, 15, 900), (3, 1, 3600)])
def test_longer_bars_are_those_of_resample(market, unit, number, bar_s):
    "The same bars as `resample_bars` makes of what is known now; the one that is not over only when asked for."
    history, row = History(Tape(MES, market.bars)), 25_007
    now, known = int(market.bars.ts[row]) + SECOND, cut_bars(market.bars, row + 1)
    every = asked(history, now, 0, now, unit=unit, unitNumber=number)
    assert rows_of(every) == rows_in(resample_bars(known, bar_s, until=now))[-20_000:]
    assert rows_of(asked(history, now, 0, now, unit=unit, unitNumber=number, includePartialBar=True)) == rows_in(resample_bars(known, bar_s, keep_last=True))[-20_000:]
    assert asked(history, now, 0, now, unit=unit, unitNumber=number, limit=4)["bars"] == every["bars"][:4]
    assert asked(history, now, 0, ns_of(every["bars"][2]["t"]), unit=unit, unitNumber=number, limit=4)["bars"] == every["bars"][3:7]  # the end is not included


def test_history_never_knows_more_than_has_been_told(market, tape):
    "LIV-1: at any moment, what history says with partial bars is what a client has heard by then, and no more."
    world, replay = replay_of(tape())
    history = History(tape())
    moments = [int(market.bars.ts[i]) + at for i in (7, 500, 501, 3000) for at in (0, 150_000_000, 200_000_000, 499_999_999, 500_000_000, 800_000_000, 999_999_999, SECOND)]
    for now in sorted(set(moments)):
        asyncio.run(replay.step(until=now))
        heard = trades_to_bars(*prints_of(world))
        assert rows_of(asked(history, now, 0, now + 1, includePartialBar=True)) == rows_in(heard)
        assert rows_of(asked(history, now, 0, now + 1)) == [row for row in rows_in(heard) if row[0] + SECOND <= now]
        minutes = resample_bars(heard, 60, keep_last=True)
        assert rows_of(asked(history, now, 0, now + 1, unit=2, includePartialBar=True)) == rows_in(minutes)


def test_days_weeks_and_months():
    "A trade date is a day from its open, over at its close; weeks begin on Monday; the month of the trade date counts."
    bars = synthetic_market(8, seed=5, start="2024-01-25", activity=.02).bars   # Thu 25, Fri 26 | Mon 29 ... Fri 2 | Mon 5
    history, info = History(Tape(MES, bars)), Tape(MES, bars).info
    def sums(groups): return [(int(info["open"][g[0]]), int(sum(bars.volume[bars.sessions[k]:bars.sessions[k + 1]].sum() for k in g))) for g in groups]
    def got(now, unit, **more): return [(row[0], row[5]) for row in rows_of(asked(history, now, 0, now, unit=unit, **more))]
    end, late = int(info["close"][-1]), int(info["close"][-2]) - 1
    assert str(info["date"][0].astype("M8[D]")) == "2024-01-25" and got(end, 4) == sums([[k] for k in range(8)]) and got(late, 4) == sums([[k] for k in range(6)])
    assert got(end, 5) == sums([[0, 1], [2, 3, 4, 5, 6]]) and got(late, 5) == sums([[0, 1]])
    assert got(end, 6) == sums([[0, 1, 2, 3, 4]]) and got(end, 6, includePartialBar=True) == sums([[0, 1, 2, 3, 4], [5, 6, 7]])
    assert got(end, 4, limit=2) == sums([[6], [7]])
    row, = [b for b in asked(history, end, 0, end, unit=4)["bars"] if ns_of(b["t"]) == info["open"][3]]
    one = take_sessions(bars, 3, 4)
    assert [row[name] for name in "ohlc"] == [MES.to_points(x) for x in (one.open[0], one.high.max(), one.low.min(), one.close[-1])]


@pytest.mark.parametrize("change, code", [({"contractId": "CON.F.US.MES.F24"}, 1), ({"live": True}, 1), ({"unit": 0}, 2), ({"unit": 7}, 2), ({"unitNumber": 0}, 3), ({"limit": 0}, 4), ({"limit": 20_001}, 4)])
def test_history_refuses(market, change, code):
    "Every code of BarsError."
    answer = asked(History(Tape(MES, market.bars)), OPEN + DAY, 0, OPEN, **change)
    assert answer == {"bars": None, "success": False, "errorCode": code, "errorMessage": None}


# contracts

def test_the_catalogue():
    "Front months on the date of the tape, found loosely; expired ones only by their id; nothing for live data."
    contracts = Contracts("MES", "2026-11-20")
    assert contracts.contract_id == "CON.F.US.MES.Z26"
    assert contracts.search_by_id("CON.F.US.MES.Z26") == {"id": "CON.F.US.MES.Z26", "name": "MESZ6", "description": "Micro E-mini S&P 500: December 2026", "tickSize": 0.25, "tickValue": 1.25, "activeContract": True, "symbolId": "F.US.MES"}
    found = {c["id"]: (c["name"], c["tickSize"], c["tickValue"]) for c in contracts.available()}
    assert found["CON.F.US.EP.Z26"] == ("ESZ6", .25, 12.5) and found["CON.F.US.ENQ.Z26"] == ("NQZ6", .25, 5.0) and found["CON.F.US.RTY.Z26"] == ("RTYZ6", .1, 5.0) and found["CON.F.US.MGC.Z26"][1:] == (.1, 1.0)
    assert [c["name"] for c in contracts.search("nq")] == ["MNQZ6", "NQZ6"] and len(contracts.search()) == len(found) <= 20 and contracts.search("nothing") == []
    assert contracts.search("MES", live=True) == contracts.available(live=True) == []
    assert [contracts.search_by_id(f"CON.F.US.MES.{end}")["activeContract"] for end in ("U26", "Z26", "H27")] == [False, True, True]
    assert [contracts.search_by_id(text) for text in ("CON.F.US.MES.F26", "CON.F.US.XYZ.Z26", "MESZ6", "CON.F.US.MES.Z30", "")] == [None] * 5
    assert Contracts("MES", "2026-12-14").contract_id == "CON.F.US.MES.H27" and Contracts("SPY", "2013-10-07").contract_id == "CON.F.US.SPY.Z13"


# recordings

def recording(path, hand):
    "A file as the recorder writes it, of what is handed to it."
    clock = FakeClock(OPEN)
    made = Recording(path, clock)
    for ns, event in hand:
        clock.ns = OPEN + ns
        made.take(event)
    made.flush()
    return made


FEED = [(5, Quote("CON.F.US.MES.H24", bid=24.75, ask=25.0, ts=OPEN + 1000)), (10, Prints("CON.F.US.MES.H24", [Print(OPEN + 10**8, 25.0, 2, TradeType.BUY), Print(OPEN + 2 * 10**8, 25.5, 1, None)], 1)),
        (SECOND, Quote("CON.F.US.MES.H24", last=25.5, bid=25.25, ask=25.5, volume=3, ts=OPEN + SECOND)), (SECOND, Lost("market", 1, "reset")),
        (3 * SECOND, Quote("CON.F.US.MES.H24", last=25.5, bid=25.25, ask=25.5, generation=2, ts=OPEN + 3 * SECOND)),
        (3 * SECOND, Prints("CON.F.US.MES.H24", [Print(OPEN + 3 * SECOND + 5, 24.5, 4, TradeType.SELL)], 2))]


def test_a_recording_is_replayed_at_its_own_times(tmp_path):
    "LIV-1: quotes and trades come back when they came, and the venue meets the bars they make, with the quote that stood."
    made = recording(tmp_path / "feed.gz", FEED)
    assert (made.quotes, made.trades, made.gaps) == (3, 3, 1)
    made.close()
    tape = RecordedTape(tmp_path / "feed.gz")
    assert (tape.contract, tape.instrument) == ("CON.F.US.MES.H24", MES)
    assert rows_in(tape.bars) == [(OPEN, 100, 102, 100, 102, 3), (OPEN + 3 * SECOND, 98, 98, 98, 98, 4)]
    world = played(tape)
    told = [(now - OPEN, name) for now, name, *_ in world.story if name.startswith("Gateway")]
    assert told == [(1000, "GatewayQuote"), (10**8, "GatewayTrade"), (2 * 10**8, "GatewayTrade"), (SECOND, "GatewayQuote"), (3 * SECOND, "GatewayTrade")]   # the second connection tells nothing new
    assert [(now - OPEN, bar[6:]) for now, _, bar in world.all("meet_open")] == [(2 * 10**8, (0, 0)), (3 * SECOND + 2 * 10**8, (101, 102))]
    assert world.all("GatewayTrade")[0][3] == [{"symbolId": "F.US.MES", "price": 25.0, "timestamp": isotime(OPEN + 10**8), "type": 0, "volume": 2, "contractId": "CON.F.US.MES.H24"}]
    with pytest.raises(FileExistsError): Recording(tmp_path / "feed.gz")


def test_prints_that_come_too_late(tmp_path):
    "A print of a second that is over is told when it came, and is in no bar: neither the venue's nor the client's."
    late = [*FEED[:2], (2 * SECOND, Prints("CON.F.US.MES.H24", [Print(OPEN + 2 * SECOND, 25.25, 1, None), Print(OPEN + 5, 99.0, 1, None)], 1))]
    recording(tmp_path / "late.gz", late).close()
    tape = RecordedTape(tmp_path / "late.gz")
    world = played(tape)
    assert [(now - OPEN, rows[0]["price"]) for now, _, _, rows in world.all("GatewayTrade")][2:] == [(2 * SECOND, 25.25), (2 * SECOND, 99.0)]
    assert tape.bars.high.tolist() == [102, 101] and tape.snapshot()["bestBid"] == 24.75


def test_a_recorder_that_is_killed_leaves_a_file_that_reads(tmp_path):
    "LIV-1: cut anywhere behind the last flush, or in the middle, the file gives its whole lines."
    made = recording(tmp_path / "whole.gz", FEED * 50)   # flushed, not closed: as a kill leaves it
    data = (tmp_path / "whole.gz").read_bytes()
    whole = list(read_recording(tmp_path / "whole.gz"))
    assert len(whole) > 250 and whole[0] == {"at": OPEN + 5, "event": "GatewayQuote", "contract": "CON.F.US.MES.H24", "data": {"bestBid": 24.75, "bestAsk": 25.0, "timestamp": isotime(OPEN + 1000)}}
    for cut in (0, 3, 15, len(data) // 2, len(data) - 1):
        (tmp_path / "cut.gz").write_bytes(data[:cut])
        rows = list(read_recording(tmp_path / "cut.gz"))
        assert rows == whole[:len(rows)]
    made.close()
    with gzip.open(tmp_path / "wrong.gz", "wb") as file: file.write(b'{"at": 1}\n')
    (tmp_path / "plain.gz").write_text("no gzip\n")
    for name in ("wrong.gz", "plain.gz"):
        with pytest.raises(ValueError, match=f"{name} line 1: "): list(read_recording(tmp_path / name))
    (tmp_path / "none.gz").write_bytes(gzip.compress(b""))
    with pytest.raises(ValueError, match="one contract, got none"): RecordedTape(tmp_path / "none.gz")
