"""LIV-9: kill -9 at every named point and at any other moment, and the same command goes on: no order lost or doubled, nothing naked, nothing counted twice, no limit forgotten.

One market outlives many runners: each is killed, the venue is asked by REST while nobody runs, the next one goes on. At the end the venue's fills are held against the journal and the core's lots.
MESBOT_SLOW: every point at many moments, and a hundred kills at random ones (`make crash`)."""
import json
import os
import resource
import signal
from collections import Counter
from contextlib import closing
from types import SimpleNamespace

import numpy as np
import pytest
from crash_runner import ACCOUNT, Nursery, look, make_shop, naked_s, safe, status, until

from live_runner import crash
from live_runner.core import Core, Setup
from live_runner.gateway.outcomes import Accepted, Refused, TurnedAway
from live_runner.journal_file import JournalReader
from live_runner.messages import Answered, Cured, Done, FillTold, Note, Place, Quit, Snapshot, Trouble, same
from live_runner.protocol import WORKING, OrderStatus, OrderType
from live_runner.replay import setup_of
from live_runner.settings import RunnerSettings
from mesbot.core import MES
from mesbot.model_files import load_predictor

SLOW, CENT, PROTECT_S = bool(os.environ.get("MESBOT_SLOW")), .005, RunnerSettings().protect_s
START = ("start.locked:1", "start.snapshot:1", "start.reconciling:1")
ONCE = ("journal.before_commit", "journal.after_commit", "send.before", "send.after", "event.received", "event.stepped")
AGAIN = [f"{name}:1" for name in ONCE]
QUICK = [*START, *AGAIN, *(f"journal.before_commit:{n}" for n in (4, 5, 6, 7)), "send.before:2", "journal.before_commit:12", "send.after:17", *START, *AGAIN,
         "event.received:90", "journal.after_commit:60", "send.before:31", "event.stepped:140", "stop.begun:1"]
AT_RANDOM, AT_ANY_MOMENT = np.random.default_rng(9), []  # the second: kills at a random moment that there were
LATCHES = {"killed": dict(total_loss_usd=400.0), "review": dict(review_drawdown_usd=400.0)}  # limits that only a person opens, each with a market of its own
FIRST, UNTIL = "points-and-chance", {"event.received:50": "pause", "event.received:600": "day_stop"} | {f"until {name}": name for name in LATCHES}  # plans that are tried again until such a limit stands
STORIES = {FIRST: [*QUICK, "event.received:50", "event.received:40", "event.received:600", *START, "event.stepped:20", *AT_RANDOM.uniform(0, .6, 4).tolist()]}
if SLOW:
    STORIES |= {f"often-{name}": [f"{name}:{n}" for n in (*range(2, 14), 17, 19, 23, 29, 31, 37, 41, 43, 47)] for name in ONCE}
    STORIES |= {f"chance-{k}": AT_RANDOM.uniform(.2, 2, 5).tolist() for k in range(20)}
    STORIES |= {name: [f"until {name}", *START, "event.stepped:20", "event.received:40", "journal.after_commit:2"] for name in LATCHES}


# --- many lives in one market --------------------------------------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    place = tmp_path_factory.mktemp("shop")
    make_shop(place, {"wide": ({}, {}), **{name: (limits, {}) for name, limits in LATCHES.items()}, "tight": (dict(loss_streak=2, pause_min=1.0, day_loss_usd=450.0), {}),
                      "slow": ({}, dict(stop_ticks=40, target_ticks=60, level_ticks=[30], trail_ticks=24, max_stop_ticks=80, max_hold_s=90))})
    return place


@pytest.fixture(scope="module")
def nursery(shop):
    with Nursery(shop) as own: yield own


def die(start, folder, plan):
    "A runner that is killed by this plan, and what the venue says then; None: the market was over before."
    if isinstance(plan, float):
        life = start()
        if life.ended(plan) is None: life.kill()
        code = life.after()
        if code and not (folder / "gateway.json").exists(): return die(start, folder, plan + .5)  # killed before there was a market: the next one lives longer
    else:
        life = start(crash="event.received:90" if plan.startswith("until") else plan)
        if plan.startswith("stop"):
            until(lambda: status(folder).get("reconciled"))
            life.kill(signal.SIGTERM)
        code = life.after()
    assert code in (-signal.SIGKILL, 0), (plan, code, life.said)
    return look(folder) if code else None


@pytest.fixture(scope="module", params=STORIES)
def story(request, nursery, shop):
    "Lives and deaths in one market, and its end."
    folder, deaths, unknown, config = shop / request.param / ACCOUNT, [], [], {FIRST: "tight"}.get(request.param, request.param if request.param in LATCHES else "wide")
    def start(**more): return nursery.paper(folder, config, **more)
    for plan in STORIES[request.param]:
        while seen := die(start, folder, plan):
            deaths.append((plan, seen))
            if isinstance(plan, float): AT_ANY_MOMENT.append(plan)
            unknown.extend((plan, tag) for tag in sorted(bare(seen.orders) - tags_of(folder)))
            if plan not in UNTIL or UNTIL[plan] in limits_of(folder): break
        if seen is None and (isinstance(plan, float) or request.param != FIRST): break  # how far the market comes between two kills is the machine's affair
        assert seen, f"the market was over before {plan}; at the venue and not in the journal: {unknown}"
    last = start(settings="keep")
    assert last.after(300) == 0, last.said
    return SimpleNamespace(name=request.param, folder=folder, deaths=deaths, unknown=unknown, end=look(folder), runs=walk(folder, shop))


def bare(orders):
    "Tags of the orders as we sent them."
    return {order.tag.removesuffix("-SL").removesuffix("-TP") for order in orders if order.tag}


def tags_of(folder):
    "Tags that the journal knows, as it is now."
    if not (folder / "journal.db").exists(): return set()
    with closing(JournalReader(folder / "journal.db")) as journal:
        return {message.order.tag for run in journal.runs() for _, message in journal.rows(run["number"]) if isinstance(message, Place)}


def limits_of(folder):
    "The limits that stand in the newest snapshot."
    with closing(JournalReader(folder / "journal.db")) as journal: return stopped(Core(setup_of(journal.runs()[-1]["facts"], Setup), None, journal.last_snapshot()))


def walk(folder, shop):
    "Every run again through a core: the same commands, and the state in which each run began and ended."
    out = []
    with closing(JournalReader(folder / "journal.db")) as journal:
        for run in journal.runs():
            setup, predictor = setup_of(run["facts"], Setup), load_predictor(shop / "rsi")
            core, rows, wanted = Core(setup, predictor, run["facts"]["snapshot"]), list(journal.rows(run["number"])), []
            began, latched = keep(core), []
            for kind, message in rows:
                if kind == "command":
                    assert wanted and same(wanted[0], message), f"run {run['number']}: the journal has {message}, the replay {wanted[:1]}"
                    wanted = wanted[1:]
                    continue
                assert not wanted, f"run {run['number']}: {wanted[0]} is not in the journal"
                wanted = core.step(message)
                limits = [name for name in began.limits if name != "pause" or message.at < began.state.pause_until]
                latched += [(limits, command.order.tag) for command in wanted if limits and isinstance(command, Place) and not command.exit]
            assert not wanted
            out.append(SimpleNamespace(number=run["number"], ended=run["ended"], messages=[message for _, message in rows], began=began, over=keep(core), latched=latched, core=core))
        assert journal.last_snapshot() == core.snapshot()
    return out


def stopped(core):
    "The limits that forbid an entry now."
    state = core.state
    return [name for name, held in (("halt", core.halted), ("pause", state.pause_until > core.now), *((name, state[name]) for name in ("killed", "review", "day_stop"))) if held]


def keep(core): return SimpleNamespace(snapshot=core.snapshot(), limits=stopped(core), state=core.state.copy())


def test_each_point_was_met_with_and_without_a_position(story):
    met = [plan for plan, _ in story.deaths]
    wanted = list(dict.fromkeys(map(str, STORIES[story.name])))
    assert (done := list(dict.fromkeys(map(str, met)))) == wanted[:len(done)] and len(done) >= 3
    if story.name != FIRST: return
    assert {plan.partition(":")[0] for plan in met if isinstance(plan, str)} == set(crash.NAMES)
    for names in (START, AGAIN): assert {(plan, bool(seen.net)) for plan, seen in story.deaths if plan in names} == {(name, held) for name in names for held in (True, False)}


def test_whoever_is_killed_leaves_every_contract_protected_and_no_more_than_is_allowed(story):
    assert [(plan, wrong) for plan, seen in story.deaths for wrong in safe(seen)] == []


def test_nothing_is_at_the_venue_that_was_not_in_the_journal_before(story):
    assert story.unknown == []


def test_at_the_end_nothing_is_held_and_nothing_works(story):
    assert story.end.net == 0 and not story.end.working and safe(story.end) == []
    last = [message for message in story.runs[-1].messages if isinstance(message, (Snapshot, Done))]
    assert isinstance(last[-1], Done) and not last[-2].positions and not [order for order in last[-2].orders if order.status in WORKING]
    assert story.runs[-1].ended and not [run.ended for run in story.runs[:-1] if run.ended]


def test_every_fill_of_the_venue_is_in_the_lots_once_to_the_cent(story):
    core, fills = story.runs[-1].core, story.end.fills
    lots, money = core.lots, sum((fill.pnl or 0) - fill.fees - fill.commissions for fill in fills)
    assert len(fills) > 30 and len({fill.id for fill in fills}) == len(fills)
    assert abs(money - (story.end.balance - 20_000)) < CENT and abs(lots["net_usd"].sum() - money) < CENT and abs(core.state.balance - story.end.balance) < CENT
    told = {message.fill.id for run in story.runs for message in run.messages if isinstance(message, FillTold)}
    asked = {fill.id for run in story.runs for message in run.messages if isinstance(message, Snapshot) for fill in message.fills}
    assert told | asked == {fill.id for fill in fills}
    second, out, into = lambda fill: fill.ts // 10**9 * 10**9, Counter(), Counter()
    for fill in fills: (into if fill.pnl is None else out)[second(fill), round(fill.price / MES.tick)] += fill.size
    ours = Counter()
    for lot in lots: ours[int(lot["exit_ns"]), int(lot["exit"])] += int(lot["contracts"])
    assert ours == out and sum(into.values()) == lots["contracts"].sum()


def test_one_intent_is_one_order(story):
    sent = Counter(message.order.tag for run in story.runs for message in run.messages if isinstance(message, Place))
    there = Counter(order.tag for order in story.end.orders if order.tag)
    assert max(sent.values()) == 1 and max(there.values()) == 1
    assert bare(story.end.orders) <= set(sent)
    filled, orders = Counter(), {order.id: order for order in story.end.orders}
    for fill in story.end.fills: filled[fill.order] += fill.size
    assert set(filled) <= set(orders) and all(filled[number] <= orders[number].size == orders[number].filled for number in filled)
    for run in story.runs:
        outcomes = {message.id: message.outcome for message in run.messages if isinstance(message, Answered)}
        assert {outcome.order_id for outcome in outcomes.values() if isinstance(outcome, Accepted) and outcome.order_id} <= set(orders)
        for place in of(run, Place):
            if place.order.tag in there: continue
            assert isinstance(outcomes[place.id], (Refused, TurnedAway)) if place.id in outcomes else not run.ended, f"{place.order.tag} of run {run.number} is lost: only a runner that dies may leave an order unanswered"


def test_no_contract_is_ever_naked_for_longer_than_protect_s(story):
    assert naked_s(story.end) <= PROTECT_S


def test_limits_are_after_a_kill_what_they_were_before(story):
    for before, after in zip(story.runs, story.runs[1:]):
        assert after.began.snapshot == before.over.snapshot and after.began.limits == before.over.limits, (before.number, before.over.limits, after.began.limits)
    assert [entry for run in story.runs for entry in run.latched] == []
    assert [run.began.state.day_start_equity for run in story.runs[1:] if run.began.state.day_start_equity != 20_000] == []
    if story.name in LATCHES: assert all(story.name in run.began.limits for run in story.runs[-4:]) and story.name not in story.runs[0].over.limits
    if story.name == FIRST: assert {limit for run in story.runs[1:] for limit in run.began.limits} >= {"pause", "day_stop"}


def test_the_journal_gives_the_same_commands_again(story, nursery, shop):
    "`walk` has compared them all; here the command itself."
    longest = max(story.runs, key=lambda run: len(run.messages))
    life = nursery.start("replay", story.folder, "--model", "rsi", "--run", longest.number)
    assert life.after() == 0 and "the same, bit for bit" in life.said


if SLOW:
    def test_there_were_a_hundred_kills_at_random_moments(): assert len(AT_ANY_MOMENT) >= 100


# --- one market more: two runners, keeping a position, a stop that is lost, a full disk ------------------------------------------------------------------------

def held(life, folder):
    "Waits for a position and stops the process in it: the market stands still, and the venue is looked at. Who calls lets it go on."
    while True:
        until(lambda: status(folder).get("position") or life.ended(0) is not None)
        assert life.ended(0) is None, f"it ended before there was a position: {life.said}"
        life.kill(signal.SIGSTOP)
        if (seen := look(folder)).net: return seen
        life.kill(signal.SIGCONT)


def told_to_end(life):
    "SIGTERM for a stopped process, and its exit code."
    life.kill(signal.SIGTERM)
    life.kill(signal.SIGCONT)
    return life.after()


@pytest.fixture(scope="module")
def scenes(nursery, shop):
    "Four runners in one market, each with a position when something happens to it."
    folder, s = shop / "scenes" / ACCOUNT, SimpleNamespace()
    s.folder, start = folder, lambda settings="settings": nursery.paper(folder, "slow", settings)
    first = start("keep")
    until(lambda: status(folder).get("reconciled"))
    other = start()
    s.second, s.second_said, s.first_goes_on = other.after(), other.said, first.ended(0) is None and bool(status(folder))
    s.kept = held(first, folder)
    s.keep_code, s.left = told_to_end(first), look(folder)

    adopter = start()
    until(lambda: status(folder).get("reconciled"))
    s.adopted = held(adopter, folder)
    adopter.kill()
    adopter.after()
    async def lose_the_stops(gateway, account, seen):
        for order in seen.orders:
            if order.type == OrderType.STOP and order.status == OrderStatus.OPEN: await gateway.cancel(account, order.id)
    s.before_loss = look(folder, lose_the_stops)
    s.bare = look(folder)

    last = start()
    until(lambda: status(folder).get("reconciled"))
    s.full_from = held(last, folder)
    s.log = folder / "runner.log"
    resource.prlimit(last.pid, resource.RLIMIT_FSIZE, (s.log.stat().st_size + 65_536, -1))  # room for the log, none for the journal
    last.kill(signal.SIGCONT)
    until(lambda: status(folder).get("troubles"))
    s.troubled = until(lambda: (said := status(folder)) and not said["position"] and said)
    s.still = until(lambda: (said := status(folder)) and said["at_ns"] > s.troubled["at_ns"] + 30 * 10**9 and said)
    last.kill(signal.SIGSTOP)
    s.full_to = look(folder)
    resource.prlimit(last.pid, resource.RLIMIT_FSIZE, (-1, -1))
    last.kill(signal.SIGCONT)
    until(lambda: not status(folder)["troubles"])
    s.end = held(last, folder)
    s.last_code, s.last_said = told_to_end(last), last.said
    s.runs = walk(folder, shop)
    return s


def of(run, kind): return [message for message in run.messages if isinstance(message, kind)]


def test_a_second_runner_on_the_account_leaves_with_one_line_and_the_first_goes_on(scenes):
    line, = scenes.second_said.splitlines()
    assert scenes.second == 2 and "another runner trades account" in line
    assert scenes.first_goes_on and [run.number for run in scenes.runs] == [1, 2, 3]


def test_told_to_keep_a_position_it_leaves_it_with_its_stop_and_the_next_one_adopts_it(scenes):
    assert scenes.keep_code == 0 and scenes.kept.net and scenes.left.net == scenes.kept.net and safe(scenes.left) == []
    first = of(run := scenes.runs[1], Snapshot)[0]
    assert sum(position.net for position in first.positions) == scenes.left.net and scenes.adopted.now > scenes.left.now
    left = {order.id: order.stop for order in scenes.left.orders if order.type == OrderType.STOP and order.status == OrderStatus.OPEN}
    nearer = np.sign(scenes.left.net)
    assert left and {order.id for order in first.orders if order.id in left and nearer * (order.stop - left[order.id]) >= 0} == set(left)
    until_then = min([fill.ts for fill in scenes.adopted.fills if fill.ts > scenes.left.now], default=scenes.adopted.now)
    assert not [order for order in scenes.adopted.orders if order.tag and scenes.left.now < order.created < until_then], "nothing is sent for a position that is safe already"
    assert not [note.text for note in of(run, Note) if note.kind == "difference"]


def test_a_stop_that_was_lost_while_nobody_ran_is_made_good_in_time(scenes):
    assert scenes.before_loss.net and scenes.bare.net == scenes.before_loss.net and safe(scenes.bare) != []
    since = [order for order in scenes.end.orders if order.created >= scenes.bare.now]
    mended = [order for order in since if order.type == OrderType.STOP and order.parent is None or order.type == OrderType.MARKET and order.tag is None]
    assert mended and naked_s(scenes.end) <= PROTECT_S


def test_while_the_disk_is_full_only_exits_go_out_and_afterwards_entries_too(scenes):
    run = scenes.runs[2]
    trouble, cured = next(message for message in of(run, Trouble) if message.what == "journal"), next(message for message in of(run, Cured) if message.what == "journal")
    assert scenes.full_from.net and scenes.full_to.net == 0 and "journal" in scenes.troubled["troubles"][0] and "journal" in scenes.still["troubles"][0]
    assert scenes.full_from.now <= trouble.at < scenes.full_to.now <= cured.at
    entries = [order for order in scenes.end.orders if order.tag and order.parent is None and order.type == OrderType.MARKET]
    assert not [order for order in entries if trouble.at <= order.created <= scenes.full_to.now] and [order for order in entries if order.created > cured.at]
    for said in (scenes.log.read_text(), scenes.last_said): assert [line for line in said.splitlines() if '"critical"' in line and "exits only" in line]
    assert [message for message in of(run, Answered) if trouble.at <= message.at <= scenes.full_to.now and isinstance(message.outcome, Accepted)], "exits go out"


def test_sigterm_closes_what_is_held_and_ends_properly(scenes):
    run = scenes.runs[2]
    assert scenes.end.net and scenes.last_code == 0 and run.ended == "SIGTERM" and [message.why for message in of(run, Quit)] == ["SIGTERM"]
    last = of(run, Snapshot)[-1]
    assert not last.positions and not [order for order in last.orders if order.status in WORKING] and isinstance(run.messages[-1], Done)
    assert json.loads((scenes.folder / "run.json").read_text())["ended"] == "as asked" and not (scenes.folder / "gateway.json").exists()


def test_nothing_of_all_this_is_counted_twice_or_lost(scenes):
    core, last = scenes.runs[-1].core, of(scenes.runs[-1], Snapshot)[-1]
    assert abs(core.lots["net_usd"].sum() - (last.account.balance - 20_000)) < CENT and core.desk.held == 0
