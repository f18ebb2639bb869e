"""LIV-3 to LIV-8: the runner's loop, its start and its end, beside stand-ins that fail on purpose; and `paper` as a user has it: the same day twice, and a day that is cut by kill -9.

Cores and journals of the first part are little stand-ins: what is tested is who is told what, in which order, and what happens when something of ours breaks."""
import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from datetime import date
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from gateway_world import ACCOUNT, BUY, CONTRACT, NS, OPEN, flat, market, world

from live_runner import halt
from live_runner import runner as runner_room
from live_runner.clock import WallClock
from live_runner.core import Setup
from live_runner.executor import BROKEN
from live_runner.gateway.events import Connected, Subscribed
from live_runner.gateway.outcomes import Accepted, TurnedAway
from live_runner.journal import Fenced
from live_runner.journal_file import JournalReader
from live_runner.messages import (Alert, Answered, Clear, Close, Cured, Done, FillTold, Kill, Link, Note, OrderTold, Past, Place, Quit, Second, Snapshot, Started, Trouble, to_json)
from live_runner.metrics import Meters
from live_runner.problems import FixTheConfig
from live_runner.replay import replay
from live_runner.runner import Parts, Runner
from live_runner.settings import RunnerSettings
from live_runner.simulator.settings import AccountSettings
from live_runner.venue_checks import expiry, find_account, find_front_month, session_bars
from mesbot.bars import write_bars
from mesbot.calendar import utc_ns
from mesbot.config import load_config
from mesbot.core import INSTRUMENTS, MES, new_state
from mesbot.features import FEATURES
from mesbot.model_files import about_config, load_predictor, save_predictor
from mesbot.predictors import RsiRule
from mesbot.sessions import make_bars
from mesbot.synth import synthetic_market

ROOT = Path(__file__).resolve().parents[2]
PAST = np.array([OPEN], np.int64), np.array([[1, 1, 1, 1]], np.int32), np.array([5], np.int64)
ENTRY = Place(1, market(BUY, tag="t-1", stop_ticks=8, target_ticks=12), "a test")


class Core:
    "Does what its script says of each kind of event."

    def __init__(self, script): self.script, self.seen, self.state, self.date, self.lots, self.market = script, [], new_state(1000.0), None, (), SimpleNamespace(closes=0)

    def step(self, event):
        self.seen.append(event)
        return list(self.script(event) or ())

    def snapshot(self): return b"all"
    def status(self): return {"halted": "by somebody"}
    def quiet_until(self): return 0

    def of(self, kind): return [event for event in self.seen if isinstance(event, kind)]


class Book:
    "A journal that notes what is done with it, and fails while it is told to."

    def __init__(self, story): self.story, self.fails, self.ended, self.pending, self.id = story, None, None, 0, "abc123"
    def begin(self, facts): self.story.append(("begin", facts))
    def event(self, event): self.story.append(("event", type(event).__name__))
    def commands(self, commands): self.story.append(("commands", len(commands)))
    def tidy(self): pass
    def end(self, why): self.ended = why

    def commit(self, snapshot=None):
        if self.fails: raise self.fails
        self.story.append(("commit", snapshot))


class Hub:
    def __init__(self, name, on_event): self.name, self.on_event, self.state, self.counters = name, on_event, "stopped", SimpleNamespace(last_why="")
    async def start(self): self.state = "connected"
    async def stop(self): self.state = "stopped"
    async def subscribed(self):
        for event in (Connected(self.name, 1), Subscribed(self.name, 1)): self.on_event(event)


class Scene:
    "A runner among stand-ins, with the wall's clock."

    def __init__(self, folder, script, **more):
        self.story, self.told, self.asked, self.halts, self.orders, self.cleared, self.rescued = [], [], [], [], "", None, []
        self.core, self.journal = Core(script), Book(self.story)
        gateway = SimpleNamespace(clock=WallClock(), place=self._acted("place"), cancel=self._acted("cancel"), close_position=self._acted("close"),
                                  wire=SimpleNamespace(rest=SimpleNamespace(in_flight=0), bars=SimpleNamespace(in_flight=0)))
        setup = Setup(load_config(), "MES", ACCOUNT, CONTRACT, "p", RunnerSettings(grace_s=.05), "paper")
        async def history(until): return PAST
        async def rescue(why): return not self.rescued.append(why)
        def hubs(on_user, on_market):
            self.hubs = Hub("user", on_user), Hub("market", on_market)
            return self.hubs
        parts = Parts(gateway, self.journal, self.core, gateway.clock, hubs, history, SimpleNamespace(send=lambda *said: self.told.append(said), ping=lambda url: self.told.append(("ping", url))),
                      Meters(), {"mode": "paper"}, orders=lambda: self.orders, cleared=lambda: self.cleared, halted=self.halts.append, rescue=rescue)
        self.runner = Runner(setup, folder, parts._replace(**more))

    def _acted(self, name):
        async def act(*said):
            self.story.append(("sent", name))
            return Accepted(7)
        return act

    def play(self, work=None, seconds=10):
        "The exit code, with `work(scene)` done beside the run; whoever does not end it fails."
        async def both():
            run = asyncio.create_task(self.runner.run())
            try:
                if work: await asyncio.wait_for(work(self), seconds)
                return await asyncio.wait_for(run, seconds)
            finally: run.cancel()
        return asyncio.run(both())

    async def until(self, true):
        while not true(): await asyncio.sleep(.01)


def ends(event): return [Done("flat")] if isinstance(event, Quit) else []


def test_a_run_begins_with_what_is_past_and_only_then_takes_what_the_hubs_have_told(tmp_path):
    scene = Scene(tmp_path, ends)
    async def work(s):
        await s.until(lambda: len(s.core.of(Second)) >= 2)
        s.runner.quit("enough")
    assert scene.play(work) == 0 and scene.journal.ended == "flat"
    kinds = [type(event) for event in scene.core.seen]
    assert kinds[:4] == [Started, Past, Link, Link] and kinds[-1] is Quit
    ats = [event.at for event in scene.core.seen if not isinstance(event, Second)]
    assert ats == sorted(ats) and scene.core.of(Second)[0].at % NS == 0
    assert [event.at - scene.core.of(Second)[0].at for event in scene.core.of(Second)][:2] == [0, NS] and scene.core.of(Second)[0].at > scene.core.of(Started)[0].at - NS
    assert scene.story[0] == ("begin", {"mode": "paper"}) and (tmp_path / "heartbeat").exists()


def test_event_and_commands_are_one_transaction_and_durable_before_anything_leaves(tmp_path):
    scene = Scene(tmp_path, lambda event: [ENTRY, Alert("info", "k", "text"), Note("decision", "long")] if isinstance(event, Kill) else ends(event))
    async def work(s):
        await s.until(lambda: s.core.of(Past))
        s.runner.post(Kill(0, "somebody", "x"))
        await s.until(lambda: s.core.of(Answered))
        s.runner.quit("enough")
    assert scene.play(work) == 0
    k = scene.story.index(("event", "Kill"))
    assert scene.story[k:k + 4] == [("event", "Kill"), ("commands", 3), ("commit", b"all"), ("sent", "place")]
    assert ("info", "k", "text") in scene.told and scene.core.of(Answered)[0].outcome == Accepted(7)


def test_seconds_that_lead_to_nothing_are_not_stored_one_by_one(tmp_path):
    scene = Scene(tmp_path, ends)
    async def work(s):
        await s.until(lambda: len(s.core.of(Second)) >= 2)
        s.runner.quit("enough")
    scene.play(work)
    first = scene.story.index(("event", "Second"))
    assert ("commit", b"all") not in [said for said in scene.story[first:scene.story.index(("event", "Quit"))]]


def test_while_the_journal_fails_only_exits_go_out_and_afterwards_all_is_well_again(tmp_path):
    def script(event):
        if isinstance(event, Kill): return [ENTRY._replace(id=len(event.why)), Close(100, "out")]
        return ends(event)
    scene = Scene(tmp_path, script)
    async def work(s):
        await s.until(lambda: s.core.of(Past))
        s.journal.fails = OSError("no space left")
        s.runner.post(Kill(0, "somebody", "x"))
        await s.until(lambda: len(s.core.of(Answered)) == 2 and s.core.of(Trouble))
        s.journal.fails = None
        await s.until(lambda: s.core.of(Cured))
        s.runner.post(Kill(0, "somebody", "xx"))
        await s.until(lambda: len(s.core.of(Answered)) == 4)
        s.runner.quit("enough")
    assert scene.play(work) == 0
    answers = {event.id: event.outcome for event in scene.core.of(Answered)}
    assert answers == {1: TurnedAway(0, why=BROKEN), 2: Accepted(7), 100: Accepted(7)}
    assert [(event.what, event.why) for event in scene.core.of(Trouble)] == [("journal", "no space left")] and [event.what for event in scene.core.of(Cured)] == ["journal"]
    assert [name for kind, name in scene.story if kind == "sent"] == ["close", "close", "place"]


def test_a_core_that_fails_has_everything_closed_without_it(tmp_path):
    def script(event):
        if isinstance(event, Kill): raise ZeroDivisionError("in the core")
        return ends(event)
    scene = Scene(tmp_path, script)
    async def work(s):
        await s.until(lambda: s.core.of(Past))
        s.runner.post(Kill(0, "somebody", "x"))
    assert scene.play(work) == 3
    assert scene.rescued == ["crashed: ZeroDivisionError: in the core"] == [scene.journal.ended]
    assert [said[:2] for said in scene.told] == [("critical", "crashed")]


def test_a_core_that_fails_at_the_very_start_is_no_different(tmp_path):
    def script(event): raise ValueError("what is this")
    scene = Scene(tmp_path, script)
    assert scene.play() == 3 and scene.rescued == ["crashed: ValueError: what is this"]


def test_who_has_lost_the_journal_to_another_runner_closes_nothing(tmp_path):
    scene = Scene(tmp_path, ends)
    async def work(s):
        await s.until(lambda: s.core.of(Past))
        s.journal.fails = Fenced("another process has opened it")
        s.runner.post(Kill(0, "somebody", "x"))
    with pytest.raises(Fenced): scene.play(work)
    assert not scene.rescued and not [said for said in scene.story if said[0] == "sent"]


def test_a_task_that_ends_is_trouble_and_never_silence(tmp_path):
    scene = Scene(tmp_path, ends)
    async def broken(): raise RuntimeError("a hole in\nthe market")
    scene.runner.drive.run = broken
    async def work(s):
        await s.until(lambda: s.core.of(Trouble))
        s.hubs[0].state = "stopped"
        s.hubs[0].counters.last_why = "died"
        await s.until(lambda: len(s.core.of(Trouble)) == 2)
        s.runner.quit("enough")
    assert scene.play(work) == 0
    assert [(event.what, event.why) for event in scene.core.of(Trouble)] == [("task: market", "RuntimeError: a hole in the market"), ("task: user hub", "died")]


def test_an_order_to_stop_beside_us_is_told_once_and_its_clearing_too(tmp_path):
    scene = Scene(tmp_path, ends)
    async def work(s):
        await s.until(lambda: s.core.of(Past))
        s.orders = "KILL: fire"
        await s.until(lambda: s.core.of(Kill))
        for _ in range(3): s.runner.beat.look_for_orders()
        s.orders, s.cleared = "", ("Ann", "it was a drill")
        await s.until(lambda: s.core.of(Clear))
        s.runner.quit("enough")
    assert scene.play(work) == 0
    assert [event.why for event in scene.core.of(Kill)] == ["KILL: fire"] and [event[1:] for event in scene.core.of(Clear)] == [("halt", "Ann", "it was a drill")]


def test_another_latch_is_opened_by_a_wish_beside_us_and_once(tmp_path):
    scene = Scene(tmp_path, ends)
    async def work(s):
        await s.until(lambda: s.core.of(Past))
        halt.wish_clear(tmp_path, "review", "Ann", "looked at every trade")
        for _ in range(3): s.runner.beat.look_for_orders()
        await s.until(lambda: s.core.of(Clear))
        s.runner.quit("enough")
    assert scene.play(work) == 0
    assert [event[1:] for event in scene.core.of(Clear)] == [("review", "Ann", "looked at every trade")] and not (tmp_path / halt.WISH).exists()
    for by, why in (("", "x"), ("Ann", " ")):
        with pytest.raises(ValueError, match="must be given"): halt.wish_clear(tmp_path, "review", by, why)


def test_bars_that_were_missed_come_from_history_before_anything_that_waits(tmp_path):
    scene = Scene(tmp_path, ends)
    async def work(s):
        await s.until(lambda: s.core.of(Second))
        s.runner.post(Link(0, "market", False, "cut"))
        s.runner.post(Link(0, "market", True))
        s.runner.post(Kill(0, "somebody", "x"))
        await s.until(lambda: s.core.of(Kill))
        s.runner.quit("enough")
    assert scene.play(work) == 0
    kinds = [type(event) for event in scene.core.seen if not isinstance(event, Second)]
    assert kinds == [Started, Past, Link, Link, Link, Link, Past, Kill, Quit]


def test_history_that_does_not_come_holds_nothing_up(tmp_path, monkeypatch):
    monkeypatch.setattr(runner_room, "GAP_S", .05)
    calls = []
    async def history(until):
        calls.append(until)
        if len(calls) > 1: await asyncio.sleep(30)
        return PAST
    scene = Scene(tmp_path, ends, history=history)
    async def work(s):
        await s.until(lambda: s.core.of(Second))
        s.runner.post(Link(0, "market", True))
        s.runner.post(Kill(0, "somebody", "x"))
        await s.until(lambda: s.core.of(Kill))
        s.runner.quit("enough")
    assert scene.play(work) == 0 and len(calls) == 2 and len(scene.core.of(Past)) == 1


def test_a_run_that_finds_an_order_to_stop_starts_halted(tmp_path):
    scene = Scene(tmp_path, ends)
    scene.orders, scene.cleared = "HALTED: yesterday", ("Ann", "long ago")
    async def work(s):
        await s.until(lambda: s.core.of(Past))
        s.runner.quit("enough")
    scene.play(work)
    assert scene.core.seen[0].why == "HALTED: yesterday" and not scene.core.of(Clear) and not scene.core.of(Kill)


def test_a_halt_that_was_cleared_while_nobody_ran_is_cleared_and_one_that_was_not_stays(tmp_path):
    for cleared, told in ((("Ann", "all well"), [("halt", "Ann", "all well")]), (None, [])):
        scene = Scene(tmp_path, ends)
        scene.cleared = cleared
        async def work(s):
            await s.until(lambda: s.core.of(Past))
            s.runner.quit("enough")
        scene.play(work)
        assert [event[1:] for event in scene.core.of(Clear)] == told


def test_a_halt_of_the_core_is_known_beside_it(tmp_path):
    scene = Scene(tmp_path, lambda event: [Note("halt", "a loop gone wild")] if isinstance(event, Kill) else ends(event))
    async def work(s):
        await s.until(lambda: s.core.of(Past))
        s.runner.post(Kill(0, "x", "x"))
        await s.until(lambda: s.halts)
        s.runner.quit("enough")
    scene.play(work)
    assert scene.halts == ["a loop gone wild"]


def test_an_end_that_cannot_be_made_ends_all_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(runner_room, "END_S", .2)
    scene = Scene(tmp_path, lambda event: [])
    async def work(s):
        await s.until(lambda: s.core.of(Past))
        s.runner.quit("SIGTERM")
    assert scene.play(work) == 1 and scene.journal.ended == "SIGTERM; not all was closed within 0.2 s"


def test_a_second_that_is_looked_at_too_late_is_no_ground_for_an_entry(tmp_path):
    scene = Scene(tmp_path, ends)
    async def work(s):
        await s.until(lambda: len(s.core.of(Second)) >= 1)
        s.runner.post(Second(WallClock().now() - 3 * NS, None, 0, 0, "crossed"))
        await s.until(lambda: [event for event in s.core.of(Second) if "late" in event.doubt])
        s.runner.quit("enough")
    scene.play(work)
    late = [event.doubt for event in scene.core.of(Second) if "late" in event.doubt]
    assert late == ["crossed; looked at 3.0 s late"] and not scene.core.of(Second)[0].doubt


# --- account, contract, history ----------------------------------------------------------------------------------------------------------------------------

def at_the_venue(work, **how):
    async def play():
        async with world(flat(30), hubs=False, **how) as w: return await work(w)
    return asyncio.run(play())


def test_an_account_is_found_by_its_name_and_real_money_has_to_be_meant():
    accounts = (AccountSettings(id=1, name="paper"), AccountSettings(id=2, name="money", simulated=False), AccountSettings(id=3, name="locked", can_trade=False))
    find = lambda name, only: at_the_venue(lambda w: find_account(w.gateway, name, only), accounts=accounts)
    assert (find("paper", True).id, find("money", False).id) == (1, 2)
    for name, only, said in (("money", True, "not simulated.*--real-money"), ("locked", True, "locked"), ("nobody", False, "there are paper, money, locked")):
        with pytest.raises(FixTheConfig, match=said): find(name, only)


@pytest.mark.parametrize("day, said", [("2024-01-03", ""), ("2024-03-11", ""), ("2024-03-12", "expires on 2024-03-15"), ("2024-03-20", "expires")])
def test_a_contract_that_is_about_to_expire_is_not_begun_with(day, said):
    now = int(np.datetime64(day, "ns").astype(np.int64))
    find = lambda: at_the_venue(lambda w: find_front_month(w.gateway, MES, now))
    if not said: assert find().id == CONTRACT
    else:
        with pytest.raises(FixTheConfig, match=said): find()


def test_a_contract_that_is_not_what_the_settings_are_for_is_refused():
    for wrong, said in ((MES._replace(tick=.5), "tick size of 0.25, MES has 0.5"), (MES._replace(tick_usd=12.5), "tick value of 1.25"), (MES._replace(symbol="MEX"), "must have one contract")):
        with pytest.raises(FixTheConfig, match=said): at_the_venue(lambda w: find_front_month(w.gateway, wrong, OPEN))


def test_contracts_end_on_a_third_friday_or_before_their_month():
    assert [expiry(f"CON.F.US.MES.{code}", MES) for code in ("H24", "M24", "U26", "Z26")] == [date(2024, 3, 15), date(2024, 6, 21), date(2026, 9, 18), date(2026, 12, 18)]
    assert expiry("CON.F.US.GCE.Z26", INSTRUMENTS["GC"]) == date(2026, 11, 30) and expiry("MES", MES) is None


def test_the_bars_of_the_session_are_those_that_are_over():
    async def work(w):
        await w.replay.step(until=OPEN + 10 * NS + NS // 2)
        return await session_bars(w.gateway, CONTRACT, MES, OPEN + 10 * NS)
    ts, prices, volume = at_the_venue(work)
    assert ts.tolist() == [OPEN + s * NS for s in range(10)] and prices.shape == (10, 4) and prices.dtype == np.int32 and (prices == 20_000).all() and (volume == 5).all()
    async def closed(w): return await session_bars(w.gateway, CONTRACT, MES, OPEN + 8 * 3600 * NS)   # 17:30
    assert [len(column) for column in at_the_venue(closed)] == [0, 0, 0]


# --- the command -------------------------------------------------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    "A folder with nine minutes of a market, settings that have everybody out before it ends, and a model that trades in it often."
    place, config = tmp_path_factory.mktemp("shop"), load_config()
    bars, (a, b) = synthetic_market(1, seed=5).bars, (int(utc_ns(np.array(["2024-01-02"], "M8[D]"), clock)[0]) for clock in ("15:48", "15:57"))
    rows = slice(*np.searchsorted(bars.ts, [a, b]))
    write_bars(make_bars(*(column[rows] for column in bars[:6]), "MES"), place / "data")
    (place / "config.toml").write_text('[end_of_day]\nhalf_size = "15:51"\nlast_entry = "15:54"\nexit = "15:55"\nflat = "15:56"\n')
    save_predictor(RsiRule(config.labels.horizon_s, 42.0, 58.0, .7), place / "rsi", about_config(config))
    return place


def command(place, *arguments, **environment):
    own = {name: value for name, value in os.environ.items() if not name.startswith("MESBOT_")}
    return subprocess.Popen([sys.executable, "-m", "live_runner", *map(str, arguments)], cwd=place, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                            env={**own, "PYTHONPATH": str(ROOT), "NO_PROXY": "127.0.0.1", "MESBOT_LOCKS": str(place / "locks"), **environment})


def paper(place, folder, *more): return command(place, "paper", "--data", "data", "--from", "15:50", "--model", "rsi", "--config", "config.toml", "--folder", folder, *more)


def done(process, code=0):
    try: said, complaints = process.communicate(timeout=120)
    finally: process.kill()
    assert process.returncode == code, (process.returncode, said, complaints)
    return said + complaints


def rows_of(folder, run=1):
    journal = JournalReader(folder / "journal.db")
    try: return list(journal.rows(run))
    finally: journal.close()


def alive(pid):
    try: os.kill(pid, 0)
    except ProcessLookupError: return False
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z" if Path("/proc").is_dir() else True


def gone(pid, seconds=10):
    end = time.monotonic() + seconds
    while alive(pid) and time.monotonic() < end: time.sleep(.05)
    return not alive(pid)


@pytest.fixture(scope="module")
def straight(shop):
    "The day, run through."
    folder = shop / "one" / "PRAC-V2-MESBOT-101"
    said = done(paper(shop, folder))
    return SimpleNamespace(folder=folder, said=said, rows=rows_of(folder))


def test_a_day_on_paper_trades_ends_and_leaves_nothing_behind(straight):
    events = [message for kind, message in straight.rows if kind == "event"]
    assert type(events[0]) is Started and type(events[1]) is Past and len(events[1].ts) == 120, "two minutes of history"
    seconds = [event for event in events if isinstance(event, Second)]
    assert [b.at - a.at for a, b in zip(seconds, seconds[1:])] == [NS] * (len(seconds) - 1) and not [second for second in seconds if second.doubt]
    assert len([second for second in seconds if second.bar]) > 400
    fills = {event.fill.id: event.fill for event in events if isinstance(event, FillTold)}
    assert len(fills) >= 8 and sum((1 if fill.side == BUY else -1) * fill.size for fill in fills.values()) == 0
    assert "days/2024-01-02" in straight.said and (straight.folder / "days/2024-01-02/day.json").is_file()
    day = json.loads((straight.folder / "days/2024-01-02/day.json").read_text())
    assert all(day["latency"][name]["count"] > 0 for name in ("feature_s", "inference_s", "step_s", "commit_s", "bar_to_wire_s", "order_round_trip_s")) and day["facts"]["market"] == "bars of data, replayed"
    table = pd.read_csv(straight.folder / "days/2024-01-02/trades_2024-01-02.csv")
    assert len(table) == len(fills) // 2 and all(len(json.loads(seen)) == len(FEATURES) for seen in table["features"])
    run = json.loads((straight.folder / "run.json").read_text())
    assert run["ended"] == "as asked" and not (straight.folder / "gateway.json").exists() and not alive(run["pid"])
    urls = run["gateway_url"]
    with pytest.raises(OSError): urllib.request.urlopen(f"{urls}/sim", timeout=2)


def test_the_journal_of_a_day_gives_the_same_commands_bit_for_bit(straight, shop):
    again = replay(straight.folder / "journal.db", lambda facts: load_predictor(shop / "rsi"))
    assert again.first_difference is None and again.commands > 50


def test_news_of_orders_comes_before_the_second_in_which_it_happened_is_over(straight):
    "Fills at +0.2 s are told before the bar of that second, so the core knows what it holds when the bar closes."
    events, checked = [message for kind, message in straight.rows if kind == "event"], 0
    for k, event in enumerate(events):
        if not isinstance(event, FillTold): continue
        later = next(other for other in events[k:] if isinstance(other, Second))
        assert later.at - NS <= event.fill.ts < later.at, (event, later)
        checked += 1
    assert checked >= 8


def test_the_same_day_again_is_the_same_to_the_last_byte(straight, shop):
    folder = shop / "two" / "PRAC-V2-MESBOT-101"
    done(paper(shop, folder))
    mine, again = ([(kind, to_json(message)) for kind, message in rows] for rows in (straight.rows, rows_of(folder)))
    assert len(mine) == len(again) and next(((one, two) for one, two in zip(mine, again) if one != two), None) is None


def test_kill_9_in_a_position_and_the_same_command_goes_on_where_it_was(shop):
    folder = shop / "three" / "PRAC-V2-MESBOT-101"
    process, log = paper(shop, folder), folder / "runner.log"
    end = time.monotonic() + 60
    while not (log.exists() and len(re.findall(r'"text": "1 (long|short) at', log.read_text())) >= 3) and process.poll() is None and time.monotonic() < end: time.sleep(.005)
    process.kill()
    process.communicate()
    market = json.loads((folder / "gateway.json").read_text())
    assert alive(market["pid"]) and (folder / "gateway.json").stat().st_mode & 0o077 == 0, "the market lives on, and its key is its owner's"
    said = done(paper(shop, folder))
    assert "going on where it was" in said and gone(market["pid"])
    rows = [message for run in (1, 2) for _, message in rows_of(folder, run)]
    tags = [message.order.tag for message in rows if isinstance(message, Place)]
    orders = {message.order.tag: message.order for message in rows if isinstance(message, OrderTold) and message.order.tag}
    assert len(tags) == len(set(tags)) and set(tags) <= {*orders, *(order.tag for message in rows if isinstance(message, Snapshot) for order in message.orders)} | {tags[-1]}
    fills = {fill.id: fill for message in rows if isinstance(message, (FillTold, Snapshot)) for fill in ([message.fill] if isinstance(message, FillTold) else message.fills)}
    assert sum((1 if fill.side == BUY else -1) * fill.size for fill in fills.values()) == 0 and len(fills) >= 6
    last = next(message for message in reversed(rows) if isinstance(message, Snapshot))
    assert not last.positions and (folder / "days/2024-01-02/day.json").is_file()
    balance = 1000 + sum((fill.pnl or 0) - fill.fees - fill.commissions for fill in fills.values())
    assert last.account.balance == pytest.approx(balance, abs=1e-6)
    day = json.loads((folder / "days/2024-01-02/day.json").read_text())
    assert day["summary"]["net_usd"] == pytest.approx(balance - 1000, abs=1e-6), "no trade of before the kill is forgotten"
    for run in (1, 2): assert replay(folder / "journal.db", lambda facts: load_predictor(shop / "rsi"), run).first_difference is None


def test_sigterm_closes_what_is_held_and_ends(shop):
    folder = shop / "four" / "PRAC-V2-MESBOT-101"
    process, log = paper(shop, folder), folder / "runner.log"
    end = time.monotonic() + 60
    while not (log.exists() and '"text": "1 ' in log.read_text()) and process.poll() is None and time.monotonic() < end: time.sleep(.005)
    process.send_signal(signal.SIGTERM)
    done(process)
    rows = [message for _, message in rows_of(folder)]
    assert [message.why for message in rows if isinstance(message, Quit)] == ["SIGTERM"] and isinstance(rows[-1], Done)
    fills = {message.fill.id: message.fill for message in rows if isinstance(message, FillTold)}.values()
    assert len(fills) >= 2 and sum((1 if fill.side == BUY else -1) * fill.size for fill in fills) == 0
    assert json.loads((folder / "run.json").read_text())["ended"] == "as asked" and not (folder / "gateway.json").exists()


def test_two_runners_of_one_account_are_one_and_a_line(shop):
    folder = shop / "five" / "PRAC-V2-MESBOT-101"
    first = paper(shop, folder)
    end = time.monotonic() + 60
    while not (folder / "heartbeat").exists() and first.poll() is None and time.monotonic() < end: time.sleep(.01)
    said = done(paper(shop, folder), 2)
    assert said.count("\n") <= 2 and "another runner trades account" in said and alive(json.loads((folder / "gateway.json").read_text())["pid"])
    first.send_signal(signal.SIGINT)
    done(first)


def test_a_gateway_begins_in_the_midst_of_a_session_and_ends_when_nobody_is_there(shop):
    process = command(shop, "gateway", "--data", "data", "--from", "15:50", "--speed", "lockstep", "--idle-minutes", .02)
    urls = json.loads(process.stdout.readline())
    state = json.load(urllib.request.urlopen(urls["control"], timeout=5))
    assert state["iso"].startswith("2024-01-02T20:50:00")
    began = time.monotonic()
    done(process)
    assert time.monotonic() - began < 20
    assert "no bars before or none after 20:00" in done(command(shop, "gateway", "--data", "data", "--from", "20:00"), 2)


@pytest.mark.parametrize("arguments, said", [
    (("paper", "--synthetic", "--data", "data"), "got both"), (("paper", "--sessions", "2", "--data", "data"), "--sessions goes with --synthetic"),
    (("paper", "--speed", "fast"), "--speed must be max"), (("paper", "--symbol", "SPY"), "goes with --data"), (("paper", "--model", "nowhere"), "nowhere"),
    (("live", "--account", "X"), "say --confirm"), (("live", "--account", "X", "--confirm"), "MESBOT_USERNAME and MESBOT_API_KEY must be set"),
    (("clear", "--by", "A", "--why", "B"), "say which account"), (("replay", "nothing.db"), "nothing.db"),
])
def test_wrong_use_is_one_line_and_exit_code_2(shop, arguments, said, monkeypatch):
    from typer.testing import CliRunner

    from live_runner.__main__ import app
    monkeypatch.chdir(shop)
    for name in [name for name in os.environ if name.startswith("MESBOT_")]: monkeypatch.delenv(name)
    result = CliRunner().invoke(app, arguments)
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1) and said in result.stderr, result.output
