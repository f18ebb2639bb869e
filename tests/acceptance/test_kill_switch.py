"""LIV-10: the kill switch. Whatever the venue does to questions and orders, everything is closed once and nothing is turned; the watchdog does it while the runner is stuck or gone,
and the kill command without a watchdog; a halt stays until a person clears it."""
import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from gateway_world import ACCOUNT, BUY, CONTRACT, EARLIER, OPENED, PENDING, SELL, bars_at, flat, limit, market, placed, stop, world

from live_runner import emergency, watchdog
from live_runner.emergency import close_account, flatten, venue_of
from live_runner.gateway.outcomes import Accepted
from live_runner.halt import HALTED, KILL, add_halt, clear_halt, halts, kill_order, order_stop, stop_orders
from live_runner.kill import clear_command, folder_of, kill, kill_command
from live_runner.problems import FixTheConfig, Problem
from live_runner.protocol import WORKING, CloseError
from live_runner.settings import RunnerSettings
from live_runner.simulator.settings import AccountSettings
from live_runner.watchdog import Watchdog, runner_token, start_watchdog, watch, watchdog_pid

pytestmark = pytest.mark.usefixtures("own_logging")
ROOT = Path(__file__).resolve().parents[2]
POSITIONS, QUERY, CLOSE, CANCEL = "/api/Position/searchOpen", "/api/Order/v2/query", "/api/Position/closeContract", "/api/Order/cancel"
LONG = dict(stop_ticks=40, target_ticks=40)   # a position with both its legs


@pytest.fixture(autouse=True)
def own_environment(monkeypatch):
    for name in [name for name in os.environ if name.startswith("MESBOT_")]: monkeypatch.delenv(name)


@pytest.fixture
def quick(monkeypatch):
    "Processes of their own keep their pauses."
    monkeypatch.setattr(watchdog, "LOOK_S", .05)
    monkeypatch.setattr(watchdog, "AGAIN_S", .05)
    monkeypatch.setattr(emergency, "PAUSES_S", (.2,) * 6)   # wall seconds, in which a `moving` market goes on for two


def net_of(w, account=ACCOUNT):
    "What the venue itself knows."
    held = w.venue.accounts[account].positions.get(CONTRACT)
    return held.side * held.size if held else 0


def working(w): return sorted(w.venue.working)
def stops_resting(w): return [o for o in w.venue.working.values() if o.is_stop and o.status == OPENED]


async def nets(w):
    "The position after each fill of the account."
    out = [0]
    for fill in await w.gateway.trades(ACCOUNT, EARLIER): out.append(out[-1] + (fill.size if fill.side == BUY else -fill.size))
    return out


async def closed(w, contract=CONTRACT):
    "Flattens on the market's time; gives whether it is flat and what was said. Without a stop a position must never be."
    said = []
    async def sleep(seconds):
        assert not net_of(w) or stops_resting(w), said
        await w.replay.step(seconds=seconds)
    async with emergency.session(w.gateway.settings) as gateway:
        return await flatten(gateway, ACCOUNT, contract, lambda severity, text: said.append((severity, text)), sleep), said


FAULTS = {
    "nothing": [],
    "positions fail at first": [{"fault": "error_before", "path": POSITIONS, "count": 2}],
    "positions are empty by mistake": [{"fault": "empty", "path": POSITIONS, "count": 2}],
    "positions and orders are empty by mistake": [{"fault": "empty", "path": POSITIONS, "count": 1}, {"fault": "empty", "path": QUERY, "count": 1}],
    "empty by mistake, and no close gets through": [{"fault": "empty", "path": POSITIONS, "count": 1}, {"fault": "too_many", "path": CLOSE, "count": 1}],
    "positions never answer": [{"fault": "bad_json", "path": POSITIONS, "count": 4}],
    "orders fail at first": [{"fault": "cut_before", "path": QUERY, "count": 2}],
    "orders cannot be queried": [{"fault": "refuse", "path": QUERY}],
    "too many requests": [{"fault": "too_many", "count": 5, "retry_after_s": 60}],
    "too many closes": [{"fault": "too_many", "path": CLOSE, "count": 2, "retry_after_s": 2}],
    "close refused twice": [{"fault": "refuse", "path": CLOSE, "code": int(CloseError.ORDER_REJECTED), "count": 2}],
    "answer to the close lost": [{"fault": "cut_after", "path": CLOSE, "count": 1}],
    "close lost": [{"fault": "cut_before", "path": CLOSE, "count": 1}],
    "an error although it is done": [{"fault": "error_after", "path": CLOSE}],
    "legs are left": [{"fault": "keep_legs"}],
    "legs are left and cancels fail at first": [{"fault": "keep_legs"}, {"fault": "error_before", "path": CANCEL, "count": 3}],
    "the token is refused": [{"fault": "unauthorized", "path": CLOSE, "count": 1}, {"fault": "unauthorized", "path": POSITIONS, "count": 1}],
}


@pytest.mark.parametrize("plan", FAULTS.values(), ids=FAULTS.keys())
def test_a_position_with_stop_and_target_is_closed_once(plan):
    "Flat, no order works, one closing fill, never turned, and protected for as long as it was there."
    async def run():
        async with world(flat(60), hubs=False) as w:
            await w.until(2)
            await placed(w, market(BUY, 2, **LONG))
            await w.until(3)
            assert net_of(w) == 2 and len(working(w)) == 2
            w.faults.add(plan)
            done, said = await closed(w)
            w.faults.clear()
            assert done and said[-1][1].startswith("flat: "), said
            assert await nets(w) == [0, 2, 0] and working(w) == []
    asyncio.run(run())


def test_nothing_is_sent_while_an_order_at_market_works():
    "The runner's own exit is on its way: a close beside it would turn the position."
    async def run():
        async with world(bars_at(*((k, 0) for k in (0, 1, 2, 3, 4)), *((k, 0) for k in range(8, 40))), hubs=False) as w:
            await w.until(2)
            await placed(w, market(BUY, 1, **LONG))
            await w.until(4.9)
            exit = await placed(w, market(SELL))
            done, said = await closed(w)
            assert done and await nets(w) == [0, 1, 0] and any(f"order {exit} at market still works" in text for _, text in said)
    asyncio.run(run())


@pytest.mark.parametrize("plan", [[], [{"fault": "cut_after", "path": CLOSE, "count": 1}]], ids=["accepted", "not known"])
def test_a_close_that_waits_for_the_market_is_not_sent_again(plan):
    "Nothing trades for a long while: one close works all along, and it is said; when the market goes on, it is enough."
    async def run():
        async with world(bars_at(*((k, 0) for k in (0, 1, 2, 3)), *((k, 0) for k in range(60, 90))), hubs=False) as w:
            await w.until(2)
            await placed(w, market(BUY, 1, **LONG))
            await w.until(4)
            w.faults.add(plan)
            done, said = await closed(w)
            pending = [o for o in w.venue.working.values() if o.status == PENDING]
            assert not done and net_of(w) == 1 and len(pending) == 1 and stops_resting(w)
            assert said[-1] == ("critical", f"NOT FLAT: +1 {CONTRACT}, " + ", ".join(f"order {o} works" for o in working(w)))
            done, _ = await closed(w)
            assert not done and [o for o in w.venue.working.values() if o.status == PENDING] == pending
            await w.until(61)
            done, _ = await closed(w)
            assert done and await nets(w) == [0, 1, 0]
    asyncio.run(run())


def test_a_close_is_not_repeated_while_the_orders_cannot_be_read():
    "Whether the first one still works is not known then."
    async def run():
        async with world(bars_at(*((k, 0) for k in (0, 1, 2, 3)), *((k, 0) for k in range(60, 90))), hubs=False) as w:
            await w.until(2)
            await placed(w, market(BUY, 1, **LONG))
            await w.until(4)
            w.faults.add([{"fault": "error_before", "path": QUERY}])
            done, said = await closed(w)
            assert not done and w.server.requests[f"{CLOSE} 200"] == 1 and "the orders cannot be read" in said[-1][1]
    asyncio.run(run())


def test_entries_are_taken_back_at_once():
    "One that rests with its legs, one to stop in, and one at market that is on its way: none of them makes a position, or the one it makes is closed."
    async def run():
        async with world(bars_at(*((k, 0) for k in (0, 1, 2, 3)), *((k, 0) for k in range(6, 40))), hubs=False) as w:
            await w.until(3)
            await placed(w, limit(BUY, -8, **LONG))
            await placed(w, stop(BUY, 8))
            await w.until(4)
            await placed(w, market(BUY, 1, **LONG))
            done, _ = await closed(w)
            assert done and working(w) == [] and net_of(w) == 0 and min(await nets(w)) == 0
            assert w.server.requests[f"{CANCEL} 200"] == 3   # legs go with their entry
    asyncio.run(run())


def test_legs_go_with_their_entry():
    "They wait for it, so one cancel is enough."
    async def run():
        async with world(flat(20), hubs=False) as w:
            await w.until(2)
            await placed(w, limit(BUY, -8, **LONG))
            done, said = await closed(w)
            assert done and working(w) == [] and w.server.requests[f"{CANCEL} 200"] == 1 and "warning" not in dict(said)
    asyncio.run(run())


def test_an_entry_that_comes_in_the_middle_of_it_is_closed_too():
    "The venue had said that there is no position; then there is one."
    async def run():
        async with world(flat(60), hubs=False) as w:
            await w.until(2)
            said, late = [], [1]
            async def sleep(seconds):
                if late and late.pop(): await placed(w, market(BUY, 1, **LONG))
                await w.replay.step(seconds=2)
            assert await flatten(w.gateway, ACCOUNT, CONTRACT, lambda severity, text: said.append(text), sleep)
            assert said[0] == f"close {CONTRACT}: POSITION_NOT_FOUND" and await nets(w) == [0, 1, 0] and working(w) == []
    asyncio.run(run())


def test_an_entry_beside_a_position_goes_and_the_stop_stays_while_no_close_is_taken():
    "The market is halted all along: protected, not flat, and said so."
    async def run():
        async with world(flat(60), hubs=False) as w:
            await w.until(2)
            await placed(w, market(SELL, 1, **LONG))
            await w.until(3)
            entry = await placed(w, limit(SELL, 20))
            w.faults.add([{"fault": "refuse", "path": CLOSE, "code": int(CloseError.ORDER_REJECTED), "message": "halted"}])
            done, said = await closed(w)
            assert not done and net_of(w) == -1 and stops_resting(w) and entry not in working(w)
            assert ("warning", f"close {CONTRACT}: ORDER_REJECTED: halted") in said and said[-1][0] == "critical" and said[-1][1].startswith(f"NOT FLAT: -1 {CONTRACT}")
    asyncio.run(run())


def test_another_contract_is_left_alone_and_named_and_without_one_the_whole_account_is_closed():
    async def run():
        two = (AccountSettings(), AccountSettings(id=102, name="OTHER"))
        async with world(flat(60), accounts=two, hubs=False) as w:
            await w.until(2)
            await placed(w, market(BUY, 1, **LONG))
            await placed(w, market(BUY)._replace(account=102))
            await w.until(3)
            done, said = await closed(w, "CON.F.US.MES.M24")
            assert done and net_of(w) == 1 and said[-2] == ("warning", f"left alone: +1 {CONTRACT}")
            done, _ = await closed(w, "")
            assert done and net_of(w) == 0 and working(w) == [] and net_of(w, 102) == 1
    asyncio.run(run())


def test_a_runner_that_has_used_up_its_requests_does_not_starve_the_kill_switch():
    "The venue counts by token and on the market's clock, which stands still here: the emergency has a token of its own."
    async def run():
        async with world(flat(60), hubs=False) as w:
            await w.until(2)
            await placed(w, market(BUY, 1, **LONG))
            await w.until(3)
            asked = [(await w.raw(POSITIONS, {"accountId": ACCOUNT}))[0] for _ in range(200)]
            assert asked[0] == 200 and asked[-1] == 429
            done, said = await closed(w)
            assert done and not [severity for severity, _ in said if severity != "info"]
    asyncio.run(run())


def test_an_account_that_is_flat_is_found_so_with_few_requests():
    async def run():
        async with world(flat(20), hubs=False) as w:
            await w.until(2)
            before = sum(w.server.requests.values())
            done, _ = await closed(w)
            assert done and sum(w.server.requests.values()) - before <= 6   # log-in, two looks of two questions, one close
    asyncio.run(run())


# --- the folder of an account --------------------------------------------------------------------------------------------------------------------------------


def folder_for(tmp_path, urls, name="PRAC-V2-MESBOT-101", **run):
    "As a runner of a simulation leaves it."
    folder = tmp_path / name
    folder.mkdir()
    (folder / "gateway.json").write_text(json.dumps(urls if isinstance(urls, dict) else urls._asdict()))
    (folder / "run.json").write_text(json.dumps({"pid": os.getpid(), "mode": "paper", "account": ACCOUNT, "contract": CONTRACT, "ended": ""} | run))
    return folder


@asynccontextmanager
async def moving(tmp_path, entry=True, still=False, **run):
    "A market that goes on by itself, ten times as fast as the wall, or stands still; a position in it, and the folder of its account."
    async with world(flat(2000), hubs=False) as w:
        async def go():
            while True:
                await w.replay.step(seconds=.5)
                await asyncio.sleep(.05)
        await w.until(2)
        if entry: await placed(w, market(BUY, 1, **LONG))
        await w.until(3)
        going = asyncio.create_task(asyncio.sleep(0) if still else go())
        try: yield w, folder_for(tmp_path, w.urls, **run)
        finally: going.cancel()


def test_halted_says_what_was_done_and_two_do_not_do_it_at_once(tmp_path, quick):
    "Both find it flat, one after the other; one close was taken."
    async def run():
        async with moving(tmp_path) as (w, folder):
            said = []
            one, two = (close_account(folder, by, "a test", lambda severity, text: said.append(text)) for by in ("one", "two"))
            assert await asyncio.gather(one, two) == [True, True]
            first, second = halts(folder)
            assert {first["by"], second["by"]} == {"one", "two"} and first["why"] == "a test" and first["flat"] is second["flat"] is True
            assert first["done"][0] == f"close {CONTRACT}: accepted" and second["done"][0] == f"close {CONTRACT}: POSITION_NOT_FOUND" and said == first["done"] + second["done"]
            assert await nets(w) == [0, 1, 0]
    asyncio.run(run())


@pytest.mark.parametrize("still", [True, False], ids=["still", "moving"])
def test_a_market_in_lockstep_is_moved_on_when_nobody_else_does(tmp_path, quick, still):
    "Its runner is gone: nothing would ever be filled there."
    async def run():
        async with moving(tmp_path, still=still) as (w, folder):
            steps, step = [], w.replay.step
            async def counted(seconds):
                steps.append(seconds)
                return await step(seconds)
            w.replay.step = counted
            assert await close_account(folder, "a test", "", lambda *_: None) and await nets(w) == [0, 1, 0]
            assert (2.0 in steps) == still
    asyncio.run(run())


def test_the_account_is_found_by_its_name_where_the_runner_left_no_id(tmp_path, quick):
    async def run():
        async with moving(tmp_path, account=None, contract=None) as (w, folder):
            w.venue.lock(ACCOUNT, False)     # nor can the firm's lock hide it
            assert await close_account(folder, "a test", "", lambda *_: None) and net_of(w) == 0
            other = folder_for(tmp_path, w.urls, "NOBODY", account=None)
            assert not await close_account(other, "a test", "", lambda *_: None)
            assert halts(other)[0]["done"] == ["NOT FLAT: the venue must have one account NOBODY, it has PRAC-V2-MESBOT-101"]
    asyncio.run(run())


def test_closing_ends_in_a_line_of_halted_whatever_happens(tmp_path, quick, monkeypatch):
    "A defect of ours, a folder that says nothing, a lock that somebody holds for ever."
    async def broken(*_): raise ZeroDivisionError("a defect")
    async def run():
        async with moving(tmp_path) as (w, folder):
            lock = emergency.FileLock(folder / "flatten.lock")
            lock.acquire()
            monkeypatch.setattr(emergency, "ALONE_S", .3)
            assert await close_account(folder, "a test", "held", lambda *_: None) and "not waited for any longer" in halts(folder)[-1]["done"][0]
            lock.release()
            await placed(w, market(BUY, 1, **LONG))
            await until(lambda: net_of(w) == 1)
            assert await close_account(folder, "a test", "nobody listens", lambda: None) and net_of(w) == 0
            monkeypatch.setattr(emergency, "flatten", broken)
            assert not await close_account(folder, "a test", "broken", lambda *_: None) and halts(folder)[-1]["done"] == ["NOT FLAT: ZeroDivisionError('a defect')"]
    asyncio.run(run())
    (tmp_path / "empty").mkdir()
    assert not asyncio.run(close_account(tmp_path / "empty", "a test", "", lambda *_: None))
    assert halts(tmp_path / "empty")[-1]["done"] == ["NOT FLAT: MESBOT_USERNAME and MESBOT_API_KEY must be set"]


def test_where_the_account_is(tmp_path, monkeypatch):
    "A simulation by gateway.json; else where the runner traded, with the key of the environment; a live account never at the simulation that once stood in its folder."
    urls = {"rest": "http://127.0.0.1:5", "user_hub": "http://127.0.0.1:5/u", "market_hub": "http://127.0.0.1:5/m", "username": "simulated", "api_key": "simulated key"}
    folder = folder_for(tmp_path, urls)
    paper = venue_of(folder)
    assert (paper.settings.gateway_url, paper.settings.api_key.get_secret_value(), paper.account, paper.contract, paper.name) == (urls["rest"], "simulated key", ACCOUNT, CONTRACT, folder.name)
    (folder / "run.json").write_text(json.dumps({"mode": "live", "gateway_url": "https://one.example", "username": "me"}))
    with pytest.raises(FixTheConfig, match="MESBOT_API_KEY must be set"): venue_of(folder)
    monkeypatch.setenv("MESBOT_API_KEY", "real key")
    monkeypatch.setenv("MESBOT_GATEWAY_URL", "https://two.example")
    live = venue_of(folder)
    assert (live.settings.gateway_url, live.settings.username, live.settings.api_key.get_secret_value(), live.account, live.contract) == ("https://one.example", "me", "real key", None, "")
    (folder / "run.json").unlink()
    del urls["api_key"]
    (folder / "gateway.json").write_text(json.dumps(urls))
    with pytest.raises(FixTheConfig, match="gateway.json lacks 'api_key'"): venue_of(folder)


# --- KILL, HALTED, MESBOT_KILL -------------------------------------------------------------------------------------------------------------------------------


def test_a_runner_must_start_halted_while_anybody_wants_it(tmp_path):
    assert stop_orders(tmp_path, {}) == "" and stop_orders(tmp_path, {"MESBOT_KILL": ""}) == ""
    assert stop_orders(tmp_path, {"MESBOT_KILL": "holiday"}) == "MESBOT_KILL is set: holiday"
    add_halt(tmp_path, "watchdog", "no sign of life", True, [])
    assert stop_orders(tmp_path, {}).startswith("HALTED: no sign of life (by watchdog, 20")
    order_stop(tmp_path, "anna", "enough")
    assert stop_orders(tmp_path, {}) == "KILL: enough (by anna)"
    clear_halt(tmp_path, "anna", "looked")
    for made_by_hand, told in (("", "the file KILL is there"), ("stop it\nnow", "stop it"), ('{"why": 3}', "3"), ("[1]", "[1]"), ("\udcff\x00", "")):
        (tmp_path / KILL).write_bytes(made_by_hand.encode("utf-8", "surrogateescape"))
        assert kill_order(tmp_path).by == "somebody" and told in stop_orders(tmp_path, {})
    (tmp_path / KILL).unlink()
    for torn in ("", "\n", '{"at": "x', "[]", "null"):
        (tmp_path / HALTED).write_text(torn)
        assert stop_orders(tmp_path, {}).startswith("HALTED: ") and not any(line["flat"] for line in halts(tmp_path))


def test_a_line_after_a_torn_one_is_read(tmp_path):
    (tmp_path / HALTED).write_text('{"at": "2026')
    add_halt(tmp_path, "a", "b", True, ["c"])
    torn, whole = halts(tmp_path)
    assert torn["flat"] is False and {name: whole[name] for name in ("by", "why", "flat", "done")} == {"by": "a", "why": "b", "flat": True, "done": ["c"]}


def test_only_a_named_person_with_a_reason_clears_a_halt(tmp_path):
    "And what was cleared is never forgotten."
    folder = tmp_path / "PRAC"
    folder.mkdir()
    with pytest.raises(ValueError, match="nothing is halted"): clear_command(folder, "", "anna", "looked")
    order_stop(folder, "bert", "strange fills")
    add_halt(folder, "bert", "strange fills", True, ["closed"])
    for by, why, missing in (("", "looked", "--by"), ("anna", " ", "--why")):
        with pytest.raises(ValueError, match=missing): clear_command(folder, "", by, why)
    assert stop_orders(folder, {})
    assert clear_command(None, "PRAC", "anna", "looked at every fill", live=tmp_path) == "PRAC may trade again; it was KILL: strange fills (by bert)"
    assert stop_orders(folder, {}) == "" and not (folder / KILL).exists() and not (folder / HALTED).exists()
    add_halt(folder, "watchdog", "silent", False, [])
    clear_command(folder, "", "anna", "again")
    first, second = map(json.loads, (folder / "HALTED.cleared").read_text().splitlines())
    assert (first["by"], first["why"], first["kill"]["why"], first["halts"][0]["done"]) == ("anna", "looked at every fill", "strange fills", ["closed"])
    assert second["kill"] is None and second["halts"][0]["by"] == "watchdog"


def test_a_halt_stays_when_it_cannot_be_remembered_that_it_was_cleared(tmp_path):
    order_stop(tmp_path, "bert", "strange fills")
    (tmp_path / "HALTED.cleared").mkdir()
    with pytest.raises(OSError): clear_halt(tmp_path, "anna", "looked")
    assert stop_orders(tmp_path, {})


def test_the_folder_that_is_meant(tmp_path):
    for name, ended in (("A", ""), ("B", "by hand")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text(json.dumps({"ended": ended}))
    assert folder_of(None, live=tmp_path) == tmp_path / "A" and folder_of(None, "B", tmp_path) == folder_of(tmp_path / "B", "B", tmp_path) == tmp_path / "B"
    (tmp_path / "B" / "run.json").write_text("{}")
    for folder, account, told in ((None, "", "--account or --folder: A, B"), (tmp_path / "C", "", "no such folder"), (tmp_path / "A", "B", "--folder or --account")):
        with pytest.raises(ValueError, match=told): folder_of(folder, account, tmp_path)
    with pytest.raises(ValueError, match="there is none"): folder_of(None, live=tmp_path / "nowhere")


# --- the watchdog --------------------------------------------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def watched(folder, dead_after_s=60.0, **given):
    "A watchdog at work and what it says."
    said = []
    dog = Watchdog(folder, dead_after_s, lambda severity, text: said.append((severity, text)), **given)
    task = asyncio.create_task(dog.run())
    try:
        await until(lambda: (folder / "watchdog.json").exists() or task.done())
        yield dog, task, said
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(true, limit_s=15.0):
    "Waits for it."
    end = time.monotonic() + limit_s
    while not true():
        assert time.monotonic() < end, "it never came to be"
        await asyncio.sleep(.02)


def test_a_file_by_the_name_of_kill_closes_everything_once(tmp_path, quick):
    "One order, one closing; an order that is renewed is a new one; the runner that ended is not watched any longer."
    async def run():
        async with moving(tmp_path) as (w, folder), watched(folder) as (_, task, said):
            await asyncio.sleep(.2)
            assert net_of(w) == 1 and said == []
            (folder / KILL).touch()
            await until(lambda: halts(folder))
            assert halts(folder)[0]["flat"] and net_of(w) == 0 and said[0] == ("critical", "the file KILL is there (by somebody): closing everything")
            await asyncio.sleep(.3)
            assert len(halts(folder)) == 1
            order_stop(folder, "anna", "to be sure")
            await until(lambda: len(halts(folder)) == 2)
            assert halts(folder)[1]["by"] == "anna" and not task.done()
            (folder / "run.json").write_text(json.dumps({"pid": os.getpid(), "ended": "by hand"}))
            assert await task == "the runner ended: by hand"
    asyncio.run(run())


def test_a_runner_without_a_sign_of_life_is_closed_and_stays_stopped(tmp_path, quick):
    "The heart beats and nothing happens; it stops, and KILL waits for a runner that wakes up."
    async def run():
        async with moving(tmp_path) as (w, folder):
            (folder / "heartbeat").touch()
            run = json.loads((folder / "run.json").read_text())
            (folder / "run.json").write_text(json.dumps(run | {"mode": "observe"}))
            async with watched(folder, dead_after_s=.2) as (_, _, said):
                await asyncio.sleep(.6)
                assert net_of(w) == 1 and not halts(folder)      # somebody else's position
            (folder / "run.json").write_text(json.dumps(run))
            async with watched(folder, dead_after_s=.6) as (_, task, said):
                for _ in range(10):
                    await asyncio.sleep(.1)
                    (folder / "heartbeat").touch()
                assert net_of(w) == 1 and not halts(folder)
                await until(lambda: halts(folder))
                assert net_of(w) == 0 and halts(folder)[0]["flat"] and (halts(folder)[0]["by"], halts(folder)[0]["why"]) == ("watchdog", "no sign of life of the runner for 1 s")
                assert stop_orders(folder, {}) == "KILL: no sign of life of the runner for 1 s (by watchdog)"
                await asyncio.sleep(.3)
                assert len(halts(folder)) == 1 and not task.done()
                clear_halt(folder, "anna", "looked")
                await asyncio.sleep(.3)
                assert not halts(folder)                     # that silence has been dealt with
                (folder / "run.json").write_text(json.dumps({"pid": 2**22 + 1}))
                assert await task == "all is closed and the runner gone"
    asyncio.run(run())


def test_a_machine_that_slept_is_no_dead_runner(tmp_path, quick):
    "The heartbeat is hours old by the wall, but the watchdog has not been awake for so long."
    async def run():
        async with moving(tmp_path) as (w, folder):
            (folder / "heartbeat").touch()
            os.utime(folder / "heartbeat", (1e9, 1e9))
            now = [0.0]
            async with watched(folder, monotonic=lambda: now[0]) as (_, task, said):
                await asyncio.sleep(.2)
                assert not said and net_of(w) == 1
                now[0] = 61
                await until(lambda: halts(folder))
    asyncio.run(run())


def test_the_door_lets_in_only_the_token(tmp_path, quick):
    "404, 405, 403, 413 and 400 as they should be, on loopback only; with the token everything is closed, also on a disk that takes no more."
    async def run():
        async with moving(tmp_path) as (w, folder), watched(folder) as (dog, _, said), aiohttp.ClientSession() as http:
            url, token = f"http://127.0.0.1:{json.loads((folder / 'watchdog.json').read_text())['port']}", (folder / "token").read_text()
            assert (folder / "token").stat().st_mode & 0o777 == 0o600 and len(token) >= 32
            async def status(path, method="POST", token=None, **more):
                async with http.request(method, url + path, headers={} if token is None else {"Authorization": f"Bearer {token}"}, **more) as answer: return answer.status
            assert await status("/") == await status("/killed", token=token) == 404
            assert await status("/kill", "GET", token) == await status("/kill", "PUT", token) == 405
            for wrong in (None, "", token[:-1], token + "x", token.upper(), "tök€n"): assert await status("/kill", token=wrong, json={}) == 403
            assert await status("/kill", token=token, data=b"x" * 5000) == 413
            for body in (b"[1]", b"nonsense", b"\xff", b"[" * 4000): assert await status("/kill", token=token, data=body) == 400
            assert net_of(w) == 1 and said == []
            (folder / f"KILL.{os.getpid()}.aside").mkdir()        # nothing can be written in its place
            assert await status("/kill", token=token, json={"by": "anna", "why": "enough"}) == 202
            await until(lambda: halts(folder))
            assert net_of(w) == 0 and (halts(folder)[0]["by"], halts(folder)[0]["why"]) == ("anna", "enough") and any("KILL cannot be written" in text for _, text in said)
            await asyncio.sleep(.3)
            assert len(halts(folder)) == 1
            assert await status("/kill", token=token) == 202
            await until(lambda: len(halts(folder)) == 2)
            assert halts(folder)[1]["by"] == "POST /kill"
    asyncio.run(run())


def test_it_tries_again_until_it_is_flat(tmp_path, quick, monkeypatch):
    "The venue takes no close for longer than one attempt lasts."
    async def run():
        monkeypatch.setattr(emergency, "PAUSES_S", (.05, .05))
        async with moving(tmp_path) as (w, folder), watched(folder) as (_, task, said):
            w.faults.add([{"fault": "refuse", "path": CLOSE, "code": int(CloseError.ORDER_REJECTED)}])
            order_stop(folder, "anna", "enough")
            await until(lambda: halts(folder))
            (folder / "run.json").write_text(json.dumps({"mode": "paper", "account": ACCOUNT, "contract": CONTRACT, "ended": "by hand"}))   # no reason to leave it so
            await until(lambda: len(halts(folder)) >= 2)
            assert net_of(w) == 1 and stops_resting(w) and not any(line["flat"] for line in halts(folder)) and "NOT FLAT" in said[-1][1] + said[-2][1]
            monkeypatch.setattr(emergency, "PAUSES_S", (.2,) * 6)
            w.faults.clear()
            assert await task == "the runner ended: by hand"
            assert halts(folder)[-1]["flat"] and await nets(w) == [0, 1, 0]
    asyncio.run(run())


def test_what_it_could_not_do_is_said_when_it_begins(tmp_path, quick):
    async def run():
        folder = folder_for(tmp_path, {"rest": "http://127.0.0.1:9", "user_hub": "http://127.0.0.1:9", "market_hub": "http://127.0.0.1:9", "username": "me", "api_key": "a key of mine"})
        async with watched(folder) as (_, task, said):
            await until(lambda: said)
            assert said[0][0] == "critical" and said[0][1].startswith("the watchdog could not close anything now: log-in: no connection")
            assert not task.done()
    asyncio.run(run())


def test_people_are_told(tmp_path, quick, monkeypatch):
    "What is critical reaches them while the watchdog is still at it, and its end does not lose the last of it."
    monkeypatch.setattr(emergency, "PAUSES_S", (.05,))
    async def run():
        heard = []
        async def hear(request):
            heard.append(await request.text())
            return web.Response()
        app = web.Application()
        app.router.add_post("/", hear)
        server = web.AppRunner(app)
        await server.setup()
        await web.TCPSite(server, "127.0.0.1", 0).start()
        folder = folder_for(tmp_path, {name: "http://127.0.0.1:9" for name in ("rest", "user_hub", "market_hub")} | {"username": "me", "api_key": "a key of mine"})
        order_stop(folder, "anna", "enough of it")
        settings = RunnerSettings(alerts=({"url": f"json://127.0.0.1:{server.addresses[0][1]}/", "severity": "critical"},))
        watching = asyncio.create_task(asyncio.to_thread(watch, folder, settings))
        await until(lambda: any("NOT FLAT" in text for text in heard))
        (folder / "watchdog.json").write_text('{"pid": 1}')
        assert await watching == "process 1 has taken over"
        assert any("enough of it (by anna): closing everything" in text and folder.name in text for text in heard) and not any("a key of mine" in text for text in heard)
        await server.cleanup()
    asyncio.run(run())


@pytest.mark.parametrize("arguments,told", [(["nowhere"], "nowhere: no such folder of an account"), ([".", "pyproject.toml"], "pyproject.toml: build-system: ")], ids=["folder", "settings"])
def test_a_watchdog_that_cannot_begin_says_why(arguments, told):
    done = subprocess.run([sys.executable, "-m", "live_runner.watchdog", *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith(f"live_runner: {told}") and done.stderr.count("\n") == 1


def test_a_token_is_made_once_or_comes_from_the_environment(tmp_path, monkeypatch):
    assert runner_token(tmp_path) == runner_token(tmp_path) and sorted(os.listdir(tmp_path)) == ["token"]
    monkeypatch.setenv("MESBOT_RUNNER_TOKEN", "my own token of the runner")
    assert runner_token(tmp_path) == "my own token of the runner"
    monkeypatch.setenv("MESBOT_RUNNER_TOKEN", "short")
    with pytest.raises(FixTheConfig, match="16 characters or more, got 5"): runner_token(tmp_path)


def test_it_needs_nothing_of_the_core_the_journal_or_the_library():
    "What is wrong there cannot stop it, and it is up at once."
    code = "import sys, live_runner.watchdog, live_runner.kill; print(*sorted({name.split('.')[0] if not name.startswith('live_runner') else name for name in sys.modules}))"
    found = set(subprocess.run([sys.executable, "-c", code], cwd=ROOT, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True).stdout.split())
    ours = {name.removeprefix("live_runner.") for name in found if name.startswith("live_runner.") and "gateway" not in name}
    assert ours == {"watchdog", "kill", "halt", "emergency", "settings", "problems", "protocol", "clock", "logs"}
    assert not found & {"mesbot", "numba", "numpy", "pandas", "pyarrow", "apprise", "typer", "sqlite3", "signalrcore"}


# --- as processes --------------------------------------------------------------------------------------------------------------------------------------------

RUNNER = """
import sys, time
from pathlib import Path
from live_runner.watchdog import start_watchdog
folder = Path(sys.argv[1])
start_watchdog(folder, folder / "runner.toml")
while True:
    (folder / "heartbeat").touch()
    time.sleep(.1)
"""


def runner_on(folder):
    "What stands in for a runner: a heart that beats, and the watchdog that it starts."
    (folder / "runner.toml").write_text("dead_after_s = 1.5\n")
    process = subprocess.Popen([sys.executable, "-c", RUNNER, folder], env={**os.environ, "PYTHONPATH": str(ROOT)}, cwd=ROOT)
    (folder / "run.json").write_text(json.dumps(json.loads((folder / "run.json").read_text()) | {"pid": process.pid}))
    return process


async def gone(pid):
    "A process that was somebody else's child has ended."
    await until(lambda: not watchdog._lives(pid))


@asynccontextmanager
async def gateway_process():
    "The simulated gateway on its own, sixty times as fast as the wall."
    process = subprocess.Popen([sys.executable, "-m", "live_runner", "gateway", "--synthetic", "--sessions", "1", "--speed", "60", "--hours", "exchange"], cwd=ROOT,
                               env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, text=True)
    try: yield json.loads(await asyncio.to_thread(process.stdout.readline))
    finally:
        process.terminate()
        process.communicate()


def test_a_runner_that_is_stuck_is_closed_by_the_kill_command(tmp_path):
    "Every process on its own: gateway, runner, watchdog. No word of the runner is needed."
    async def run():
        async with gateway_process() as urls:
            folder = folder_for(tmp_path, urls)
            async with emergency.session(venue_of(folder).settings) as gateway:
                runner = runner_on(folder)
                try:
                    await until(lambda: watchdog_pid(folder))
                    runner.send_signal(signal.SIGSTOP)
                    while not isinstance(await gateway.place(market(BUY, 2, **LONG)), Accepted): await asyncio.sleep(.1)   # not before the open
                    while not await gateway.positions(ACCOUNT): await asyncio.sleep(.1)
                    done, line = await asyncio.to_thread(kill, folder, "enough", "anna")
                    assert done and line == f"{folder.name} is flat, its watchdog closed everything; it stays halted until `clear`"
                    fills = await gateway.trades(ACCOUNT, 0)
                    assert sum(fill.size for fill in fills if fill.side == BUY) == sum(fill.size for fill in fills if fill.side == SELL) == 2
                    assert await gateway.positions(ACCOUNT) == await gateway.query_orders(ACCOUNT, sorted(WORKING)) == []
                finally:
                    runner.kill()
                    runner.wait()
                dog = watchdog_pid(folder)
                assert halts(folder)[-1]["by"] == "anna" and dog    # KILL was its reason, and it outlives its runner
                await gone(dog)
    asyncio.run(run())


def test_a_runner_that_was_killed_is_closed_by_its_watchdog(tmp_path):
    "kill -9 takes the watchdog with it no more than the stop at the venue; when all is closed it ends."
    async def run():
        async with moving(tmp_path) as (w, folder):
            runner = runner_on(folder)
            await until(lambda: watchdog_pid(folder))
            dog = watchdog_pid(folder)
            runner.kill()
            runner.wait()
            await asyncio.sleep(.3)
            assert watchdog_pid(folder) == dog == os.getsid(dog) and net_of(w) == 1   # nor does Ctrl-C in the terminal of its runner
            await until(lambda: halts(folder))
            assert halts(folder)[0]["why"].startswith("no sign of life of the runner for") and halts(folder)[0]["flat"] and await nets(w) == [0, 1, 0] and working(w) == []
            await gone(dog)
    asyncio.run(run())


def test_of_two_watchdogs_the_older_ends(tmp_path):
    async def run():
        async with moving(tmp_path, entry=False) as (w, folder):
            old = start_watchdog(folder)
            await until(lambda: watchdog_pid(folder) == old.pid)
            new = start_watchdog(folder)
            await until(lambda: old.poll() is not None)
            assert old.returncode == 0 and watchdog_pid(folder) == new.pid and f"process {new.pid} has taken over" in (folder / "watchdog.log").read_text()
            (folder / "run.json").write_text(json.dumps({"ended": "the test is over"}))
            await until(lambda: new.poll() is not None)
            assert new.returncode == 0 and watchdog_pid(folder) is None
    asyncio.run(run())


def test_kill_without_a_watchdog_or_with_one_that_is_stuck(tmp_path, quick):
    "The command closes everything itself; a watchdog that sleeps is helped."
    async def run():
        async with moving(tmp_path) as (w, folder):
            code, line = await asyncio.to_thread(kill_command, folder, "", "enough")
            assert (code, line) == (0, f"{folder.name} is flat, closed from here; it stays halted until `clear`") and await nets(w) == [0, 1, 0] and working(w) == []
            assert kill_order(folder)[:2] == ("kill command", "enough") and halts(folder)[-1]["flat"]
            clear_halt(folder, "anna", "on we go")
            await placed(w, market(BUY, 1, **LONG))
            await until(lambda: net_of(w) == 1)
            dog = start_watchdog(folder)
            await until(lambda: watchdog_pid(folder) == dog.pid)
            try:
                dog.send_signal(signal.SIGSTOP)
                await until(lambda: watchdog_pid(folder) is None)
                code, line = await asyncio.to_thread(kill_command, folder, "", "")
                assert code == 0 and "closed from here" in line and await nets(w) == [0, 1, 0, 1, 0]
            finally:
                dog.kill()
                dog.wait()
    asyncio.run(run())


def test_a_watchdog_that_does_nothing_is_helped_after_a_while(tmp_path, quick, monkeypatch):
    "Its process lives, but nobody knows what it waits for."
    async def run():
        monkeypatch.setattr("live_runner.kill.PATIENCE_S", .5)
        async with moving(tmp_path) as (w, folder):
            (folder / "watchdog.json").write_text(json.dumps({"pid": os.getpid(), "born": watchdog._born(os.getpid()), "port": 1}))
            assert watchdog_pid(folder) == os.getpid()
            code, line = await asyncio.to_thread(kill_command, folder, "", "", 10.0)
            assert code == 0 and "closed from here" in line and net_of(w) == 0
    asyncio.run(run())


def test_kill_of_an_account_that_never_traded_from_here(tmp_path, quick, monkeypatch):
    "Found by its name at the venue of the environment; a name that is wrong leaves no folder behind."
    async def run():
        async with moving(tmp_path) as (w, folder):
            for name in ("gateway_url", "username"): monkeypatch.setenv(f"MESBOT_{name.upper()}", getattr(w.gateway.settings, name))
            monkeypatch.setenv("MESBOT_API_KEY", w.urls.api_key)
            live = tmp_path / "live"
            with pytest.raises(Problem, match="must have one account PRAC-V2-MESBOT-10, it has PRAC-V2-MESBOT-101"): await asyncio.to_thread(kill_command, None, folder.name[:-1], "", 30.0, live)
            assert not live.exists()
            code, line = await asyncio.to_thread(kill_command, None, folder.name, "", 30.0, live)
            assert code == 0 and net_of(w) == 0 and stop_orders(live / folder.name, {})
    asyncio.run(run())


def test_a_venue_that_is_away_is_exit_code_1(tmp_path):
    "With what stands in the way, and what to do; the order to stop stays."
    folder = folder_for(tmp_path, {"rest": "http://127.0.0.1:9", "user_hub": "http://127.0.0.1:9", "market_hub": "http://127.0.0.1:9", "username": "me", "api_key": "a key of mine"})
    began = time.monotonic()
    code, line = kill_command(folder, "", "enough", 2.0)
    assert code == 1 and time.monotonic() - began < 4 and "\n" not in line and "a key of mine" not in line
    assert line.startswith(f"{folder.name} is NOT FLAT after 2 s: ") and "no connection" in line and line.endswith("Close it by hand at the venue")
    assert stop_orders(folder, {}).startswith("KILL: enough") and halts(folder)[-1]["flat"] is False


def test_kill_with_the_wrong_settings_is_told_at_once(tmp_path):
    "Before anything is tried, but KILL is there for a runner that still lives."
    folder = tmp_path / "PRAC"
    folder.mkdir()
    with pytest.raises(FixTheConfig, match="MESBOT_USERNAME and MESBOT_API_KEY must be set"): kill_command(folder, "", "enough")
    assert kill_order(folder).why == "enough" and not halts(folder)
