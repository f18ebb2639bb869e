"""LIV-4 to LIV-12: the fault scenarios of the reliability reference that core and venue can show, by their numbers; after every event the oracle compares with what the venue knows.

Shown elsewhere: 13 and 19 (tokens, hub sessions) in test_gateway_lives and test_gateway_hubs; 20 in test_account_lock; 26 and the files of 27 in test_journal;
kill -9 of the real process (21) in test_live_crash and test_journal_crash; 29 and 30 (clock changes, early close) in test_live_parity; 35 (late and missing prints) in test_feed
and test_bar_building; 37 in test_registry; 41 and 48 in test_paper_run; 44 in test_alerts; 45 in the soak."""
import itertools
import random
import zlib

import numpy as np
import pytest
from gateway_world import BASE, rows
from live_calm import Calm, Fate
from live_chaos import Spoiled
from live_oracle import Oracle, converged
from live_world import ACCOUNT, LiveWorld

from live_runner import memory
from live_runner.core import Core
from live_runner.gateway.wire import Reply
from live_runner.messages import Cancel, Close, Cured, Done, Kill, Modify, Place, Quit, Second, Trouble
from live_runner.protocol import OrderStatus, Side
from live_runner.settings import RunnerSettings
from live_runner.simulator.records import Position
from mesbot.config import load_config
from mesbot.core import REASONS, SECOND, Reason

LOST = Reply(0, why="no answer within 10 s")
FOUR = dict(risk=dict(start_balance_usd=1e6, day_loss_usd=1e5, day_drawdown_usd=1e5, total_loss_usd=1e5, review_drawdown_usd=1e5, trade_risk_usd=1e5,
                      tier_contracts=(4, 4, 4, 4), confidence_factors=(1.0, 1.0, 1.0)))
HOLD = dict(max_hold_s=40, tighten_share=0.0)


class Scripted(Calm):
    "Each kind of trouble by a function of its own; what is not given goes well."
    crowded = True

    def __init__(self, **tricks): self.__dict__.update(tricks)


def nth(kind, reply, number=0, count=1):
    "An `act`: the fate of some commands of a kind, from that number on."
    seen = itertools.count()
    return lambda command: reply if isinstance(command, kind) and number <= next(seen) < number + count else Fate()


def silent(*spans):
    "A `news`: nothing is told inside these spans of seconds after 09:30."
    return lambda world: lambda event: () if any(a <= second(world) < b for a, b in spans) else (0.0,)


def second(w) -> float: return (w.clock.now - int(w.bars.ts[0])) / SECOND


def story(n=120, moves={}, signals={10: 1}, chaos=None, news=None, settings={}, **config):
    "A flat market of n seconds from 09:30 whose price steps by `moves` {second: ticks above the start}; signals {second: side}."
    level, ups = 0, []
    for k in range(n):
        level = moves.get(k, level)
        ups.append((level,) * 4)
    p = np.full((n, 3), 1 / 3, np.float32)
    for row, side in signals.items(): p[row] = (.1, .1, .8) if side > 0 else (.8, .1, .1)
    chaos = chaos or Scripted()
    w = LiveWorld(rows(range(n), ups), load_config(**{"stops": HOLD} | config), p, chaos=chaos, settings=RunnerSettings(**settings), check=Oracle(), journal=True)
    if news: chaos.news = news(w)
    w.skip_to(int(w.bars.ts[0]) - 3 * SECOND).start()
    return w


def to(w, at: float): return w.run(int(w.bars.ts[0]) + round(at * SECOND))


def ends(w):
    "The rest of the story, with nothing left over; the journal says the same again."
    w.run()
    assert not w.position and not w.venue.working and not w.core.state.side
    w.replayed()
    return w


def reasons(w) -> list: return [REASONS[k] for k in w.core.lots["reason_out"]]
def entries(w) -> list: return [place for _, place in w.places if not place.exit]
def stops(w) -> int: return sum(o.left for o in w.venue.working.values() if o.is_stop and o.status == OrderStatus.OPEN)
def halted(w) -> str: return w.core.status()["halted"]


def test_00_nothing_goes_wrong():
    w = ends(story())
    assert reasons(w) == ["time_stop"] and len(entries(w)) == 1 and w.core.lots["entry_ns"][0] == w.bars.ts[11] and w.core.lots["exit_ns"][0] == w.bars.ts[51]


@pytest.mark.parametrize("late", [0.0, 2.0, 9.0])
@pytest.mark.parametrize("deaf", [False, True])
def test_01_02_the_answer_is_lost_and_the_order_works(late, deaf):
    "Never sent again; found by its tag even when nothing is told of it, and protected from its fill on."
    w = story(chaos=Scripted(act=nth(Place, Fate(0, True, LOST, late))), news=silent((10, 30)) if deaf else None)
    to(w, 25)
    assert w.position == w.core.status()["position"] == stops(w) == 1
    ends(w)
    assert len(entries(w)) == 1 and reasons(w) == ["time_stop"]


def test_02_the_answer_is_lost_and_the_stop_is_refused_too():
    w = story(chaos=Scripted(act=nth(Place, Fate(0, True, LOST, 1.0))))
    w.faults.add([{"fault": "reject_stop", "count": 1}])
    to(w, 16)
    assert stops(w) == abs(w.position)
    ends(w)


@pytest.mark.parametrize("deaf", [False, True])
def test_01_a_resting_entry_whose_answer_was_lost_is_taken_back_when_it_is_too_old(deaf):
    w = story(moves={40: -3}, chaos=Scripted(act=nth(Place, Fate(0, True, LOST, 0.0))), fills=dict(mode="price_touch", limit_valid_s=10.0), news=silent((9, 14)) if deaf else None)
    to(w, 15)
    assert len(w.venue.working) == 3 and not w.position
    to(w, 30)
    assert not w.venue.working
    ends(w)
    assert not w.fills() and not halted(w)


@pytest.mark.parametrize("reply", [LOST, Reply(502), Reply(0, why="refused", sent=False), Reply(429, retry_after_s=1.0)])
def test_03_17_18_an_entry_that_never_arrived_is_forgotten(reply):
    "Its signal is stale by the time that is certain; a later one trades."
    w = ends(story(signals={10: 1, 60: -1}, chaos=Scripted(act=nth(Place, Fate(0, False, reply, .5)))))
    assert len(entries(w)) == 2 and len({place.order.tag for place in entries(w)}) == 2
    assert w.core.lots["side"].tolist() == [-1] and not halted(w)


def test_04_everything_is_told_three_times():
    w, calm = ends(story(chaos=Scripted(news=lambda event: (0.0, .3, 7.0)))), ends(story())
    assert w.core.lots.tobytes() == calm.core.lots.tobytes() and w.core.state.balance == calm.core.state.balance


@pytest.mark.parametrize("seed", range(24))
def test_05_in_whatever_order_it_is_told(seed):
    "Entry, brackets and exit, each message late by its own measure: the same lots in the end."
    rng = random.Random(seed)
    late = Scripted(news=lambda event: (rng.choice((0.0, .3, .8, 1.7, 3.1)),))
    w, calm = ends(story(chaos=late)), ends(story())
    for name in ("entry", "exit", "contracts", "reason_out", "net_usd", "entry_ns", "exit_ns"): assert w.core.lots[name].tolist() == calm.core.lots[name].tolist(), name
    assert not halted(w) and w.core.state.balance == pytest.approx(calm.core.state.balance)


@pytest.mark.parametrize("limit", [False, True])
def test_06_a_partial_fill_is_protected_when_the_rest_is_cancelled(limit):
    w = story(moves={12: -4, 13: 0} if limit else {}, **FOUR, **(dict(fills=dict(mode="price_touch")) if limit else {}))
    w.faults.add([{"fault": "partial_fill", "share": .5, "count": 1}])
    while not w.position: w.second()
    assert abs(w.position) == 2
    for order in [o for o in w.venue.working.values() if o.parent is None]: w.venue.cancel(order)
    w.run_s(3)
    assert w.position == w.core.status()["position"] == stops(w) == 2
    ends(w)
    assert w.core.lots["contracts"].sum() == 2


def test_07_14_an_entry_that_fills_while_the_hub_is_away():
    w = story()
    to(w, 11)
    w.link("user", False, "cut")
    to(w, 20)
    w.link("user", True)
    w.run_s(3)
    assert w.position == w.core.status()["position"] == 1 and w.core.status()["reconciled"]
    ends(w)
    assert reasons(w) == ["time_stop"]


def test_08_a_refused_stop_is_sent_again_once():
    w = story()
    w.faults.add([{"fault": "reject_stop", "count": 1}])
    to(w, 16)
    assert w.position == stops(w) == 1 and any(place.exit for _, place in w.places)
    ends(w)
    assert reasons(w) == ["time_stop"] and any("stop" in alert.text for alert in w.alerts())


def test_08_and_where_the_second_one_is_refused_too_the_position_is_closed():
    w = story()
    w.faults.add([{"fault": "reject_stop", "count": 1}, {"fault": "price_band", "ticks": 0}])
    to(w, 17)
    assert not w.position and reasons(w) == ["unprotected"]
    ends(w)


def test_09_a_stop_that_was_accepted_and_is_not_there():
    "Found by looking, and made good within the promise; the oracle counts the seconds."
    w = story()
    w.faults.add([{"fault": "drop_stop", "count": 1}])
    to(w, 20)
    assert stops(w) == abs(w.position)
    ends(w)


def test_10_a_leg_fills_after_the_exit_and_turns_the_position():
    w = story(moves={53: -20})
    w.faults.add([{"fault": "keep_legs", "count": 1}])
    to(w, 52)
    assert not w.position and w.venue.working
    for order in list(w.venue.working.values()): order.first_ts = 0
    ends(w)
    if len(w.fills()) > 2: assert any("turned" in alert.key for alert in w.alerts())


def test_11_a_leg_that_is_left_over_is_taken_back():
    w = story()
    w.faults.add([{"fault": "keep_legs", "count": 1}])
    to(w, 52)
    assert not w.position and stops(w) == 1
    to(w, 56)
    assert not w.venue.working
    ends(w)


def test_12_a_cancel_races_with_the_fill():
    "The limit is taken back when it is too old, the cancel is late, and it fills meanwhile: the position is closed once."
    chaos = Scripted(act=nth(Cancel, Fate(1.5, True, None, 0)))
    w = ends(story(moves={22: -3}, chaos=chaos, fills=dict(mode="price_touch", limit_valid_s=10.0)))
    fills = w.fills()
    assert [fill.side for fill in fills] == [Side.BUY, Side.SELL] and sum(isinstance(command, Close) for _, command in w.sent) <= 2


def test_14_a_target_met_while_the_hub_is_away_is_booked_when_it_is_back():
    w = story(moves={20: 30}, signals={10: 1, 24: 1, 40: 1})
    to(w, 18)
    w.link("user", False, "cut")
    to(w, 30)
    assert not w.position and len(entries(w)) == 1
    w.link("user", True)
    ends(w)
    assert reasons(w)[0] == "target" and len(entries(w)) == 2


def test_15_a_hub_that_is_silent_and_pretends_to_be_well():
    w = story(moves={20: 30}, news=silent((0, 1000)), settings=dict(poll_s=3.0))
    to(w, 15)
    assert w.core.status()["position"] == 1
    to(w, 26)
    assert w.core.status()["position"] == 0 and reasons(w) == ["target"]
    ends(w)


@pytest.mark.parametrize("hub", ["user", "market"])
def test_16_one_hub_alone_opens_nothing_and_closes_all_the_same(hub):
    w = story(signals={10: 1, 30: 1, 70: 1})
    to(w, 20)
    w.link(hub, False, "cut")
    to(w, 60)
    assert not w.position and len(entries(w)) == 1
    w.run_s(8)
    assert any(hub in why for why in w.core.status()["blocked"])
    to(w, 80)
    assert len(entries(w)) == 1
    w.link(hub, True)
    ends(w)


@pytest.mark.parametrize("reply", [Reply(429, retry_after_s=1.0), Reply(503), LOST, Reply(0, why="refused", sent=False)])
def test_17_18_an_exit_that_does_not_arrive_is_sent_again(reply):
    w = ends(story(chaos=Scripted(act=nth(Close, Fate(0, False, reply, .2), count=3))))
    closes = [at for at, command in w.sent if isinstance(command, Close)]
    assert len(closes) == 4 and min(np.diff(closes)) >= 2 * SECOND and reasons(w) == ["time_stop"]


@pytest.mark.parametrize("reply", [Reply(502, why="not JSON"), Reply(200, None, "not JSON: '<html>'"), Reply(200, {"success": "yes"}), LOST])
def test_18_an_exit_that_was_done_and_not_confirmed_is_not_done_twice(reply):
    w = ends(story(chaos=Scripted(act=nth(Close, Fate(0, True, reply, .2)))))
    assert len(w.fills()) == 2 and reasons(w) == ["time_stop"]


KINDS = ("lost", "unsent", "half", "sent")


def crashing(at: int, kind: str):
    "A `crash` at the event of this number; the runner is back 1.5 s later."
    count = itertools.count()
    return lambda event, commands: kind if next(count) == at else ""


@pytest.mark.parametrize("kind", KINDS)
def test_21_killed_at_every_event_and_started_again(kind):
    "Whatever was durable, sent or answered: one entry at most, never naked, flat in the end. Every event has its turn; of what the market says only the seconds that matter."
    calm, trades, events = story(n=40, stops=dict(max_hold_s=15)), 0, []
    tell = calm.tell
    calm.tell = lambda event: (events.append((event, second(calm))), tell(event))
    ends(calm)
    first = calm.told - len(events)
    turns = [first + k for k, (event, at) in enumerate(events) if not isinstance(event, Second) or 10 < at < 13 or 25 < at < 28]
    for at in turns:
        chaos = Scripted(crash=crashing(at, kind))
        w = story(n=40, chaos=chaos, stops=dict(max_hold_s=15))
        while not w.replay.ended:
            w.second()
            if w.core is None:
                to_dead(w, second(w) + 1.5)
                w.start()
        assert not w.position and not w.venue.working and len(w.fills()) in (0, 2), at
        w.replayed()
        trades += len(w.fills()) // 2
    assert trades > len(turns) // 2 > 8


def test_21_a_snapshot_that_is_damaged_or_not_ours_is_refused():
    w = to(story(), 60)
    kept, again = w.core.snapshot(), lambda snapshot, **own: Core(w.setup._replace(**own), w.predictor, snapshot)
    assert len(w.core.lots) == 1 and again(kept).snapshot() == kept
    for at in range(0, len(kept), 97):
        for wrong in (kept[:at], kept[:at] + bytes([kept[at] ^ 4]) + kept[at + 1:]):
            with pytest.raises(ValueError, match="damaged"): again(wrong)
    with pytest.raises(ValueError, match=f"account {w.setup.account}, this is"): again(kept, account=7)
    layout = b'"layout":%d' % memory.LAYOUT
    other = kept[4:].replace(layout, layout[:-1] + b"1")
    with pytest.raises(ValueError, match="of layout 1"): again(zlib.crc32(other).to_bytes(4, "big") + other)


def test_22_a_start_with_a_position_takes_it_over():
    w = story()
    to(w, 20)
    w.crash()
    to_dead(w, 25)
    assert w.position == 1
    w.start()
    w.run_s(3)
    assert w.core.status()["position"] == 1 and stops(w) == 1 and w.core.status()["reconciled"]
    ends(w)
    assert reasons(w) == ["time_stop"] and w.core.lots["exit_ns"][0] == w.bars.ts[51] and len(w.fills()) == 2


def to_dead(w, at: float):
    while second(w) < at: w.second()


@pytest.mark.parametrize("how", ["flatten", "target"])
def test_23_a_start_after_the_position_was_closed_elsewhere(how):
    w = story(moves={22: 30} if how == "target" else {}, signals={10: 1, 60: 1})
    to(w, 20)
    w.crash()
    if how == "flatten": w.venue.flatten(ACCOUNT)
    to_dead(w, 30)
    w.start()
    w.run_s(5)
    assert w.core.status()["position"] == 0 and reasons(w) == ["target" if how == "target" else "external"]
    ends(w)


@pytest.mark.parametrize("answer", [(0.2, "HTTP 503", ()), (0.0, "", ("positions",)), (0.0, "", ("fills",)), (0.0, "", ("orders",)), (0.0, "", ("positions", "orders", "fills"))])
def test_24_a_question_that_fails_or_is_answered_empty_is_not_flat(answer):
    "Once in two; exits go all the same, and nothing is opened meanwhile on a false belief."
    count, chaos = itertools.count(), Scripted()
    chaos.question = lambda command: answer if second(chaos.world) > 12 and next(count) % 2 == 0 else (0.0, "", ())
    w = story(signals={10: 1, 20: 1}, chaos=chaos)
    to(w, 40)
    assert w.position == w.core.status()["position"] == 1
    ends(w)
    assert reasons(w) == ["time_stop"] and len(w.fills()) == 2


@pytest.mark.parametrize("gap", ["start", "hub"])
def test_14_24_nothing_is_opened_while_the_venue_does_not_answer(gap):
    "After a start, or a gap: first the venue's own words, asked for since."
    chaos = Scripted()
    chaos.question = lambda command: (.2, "HTTP 503", ()) if 20 < second(chaos.world) < 60 else (0.0, "", ())
    w = story(signals={k: 1 for k in range(25, 80, 5)}, chaos=chaos)
    to(w, 21)
    if gap == "start":
        w.crash()
        w.start()
    else:
        w.link("user", False, "cut")
        w.run_s(2)
        w.link("user", True)
    to(w, 60)
    assert not w.places and any("venue" in why for why in w.core.status()["blocked"])
    ends(w)
    assert entries(w)


def test_24_a_position_that_no_fill_explains_is_closed_and_stops_trading():
    "Three answers that say the same over three seconds: then it is believed, though nobody knows where it came from."
    w = story(signals={60: 1}, settings=dict(idle_poll_s=5.0), chaos=Scripted(spoiled=[]))
    to(w, 20)
    w.chaos.spoiled.append(Spoiled(w.clock.now, "trade", 5.0))
    w.foreign, w.account.positions[w.tape.contract] = 1, Position(9, w.tape.contract, w.clock.now, 1, 1, float(BASE))
    to(w, 50)
    assert not w.position and "no fill explains" in halted(w)
    ends(w)
    assert not entries(w)


def test_25_a_fill_arrives_while_the_answer_is_on_its_way():
    w = ends(story(signals={10: 1, 60: 1}, chaos=Scripted(question=lambda command: (3.0, "", ()))))
    assert reasons(w) == ["time_stop"] * len(w.core.lots) and not [note for note in w.notes("difference")]


@pytest.mark.parametrize("what", ["journal", "task: heartbeat"])
def test_27_46_trouble_of_our_own_lets_nothing_in_and_everything_out(what):
    w = story(signals={10: 1, 60: 1, 75: 1})
    to(w, 20)
    w.post(Trouble(0, what, "no space left on device"))
    to(w, 70)
    assert reasons(w) == ["time_stop"] and len(entries(w)) == 1 and any(alert.severity == "critical" for alert in w.alerts())
    w.post(Cured(0, what))
    ends(w)
    assert len(entries(w)) == 2


def test_28_38_what_was_slept_through_opens_nothing():
    w = story(signals={10: 1, 62: 1, 66: 1, 85: 1})
    to(w, 60)
    w.asleep = True
    to(w, 75)
    w.wake()
    assert len(entries(w)) == 1
    to(w, 90)
    assert len(entries(w)) == 2
    ends(w)


@pytest.mark.parametrize("skew", [-3, 3])
def test_28_a_clock_that_jumps(skew):
    w = story()
    to(w, 20)
    w.skew_ns = skew * SECOND
    to(w, 30)
    w.skew_ns = 0
    ends(w)
    assert reasons(w) == ["time_stop"] and len(w.fills()) == 2


def test_31_the_market_halts_with_a_position_on():
    "Closing is refused while it lasts, asked for again, and done when it resumes; nothing is opened."
    w = story(signals={10: 1, 60: 1, 100: 1})
    to(w, 40)
    until, w.venue.until = w.venue.until, 0
    to(w, 70)
    assert w.position == 1 and sum(isinstance(command, Close) for _, command in w.sent) > 3
    w.venue.until = until
    to(w, 80)
    assert not w.position
    ends(w)


def test_32_not_flat_at_the_deadline_is_an_alarm_until_it_is():
    config = load_config(end_of_day=dict(half_size="09:31", last_entry="09:31", exit="09:31", flat="09:32"))
    w = story(n=400, stops=dict(max_hold_s=3600, tighten_share=0.0, close_min=0.0), end_of_day=config.end_of_day.model_dump())
    to(w, 80)
    assert w.position == 0 and reasons(w) == ["end_of_day"]
    w = story(n=400, stops=dict(max_hold_s=3600, tighten_share=0.0, close_min=0.0), end_of_day=config.end_of_day.model_dump(), chaos=Scripted(on=True))
    to(w, 50)
    until, w.venue.until = w.venue.until, 0
    to(w, 330)
    assert w.position == 1 and sum(alert.severity == "critical" for alert in w.alerts()) >= 2
    w.venue.until = until
    to(w, 345)
    assert not w.position and not w.venue.working
    w.chaos.on = False
    ends(w)
    assert any(type(said).__name__ == "DayOver" for _, said in w.said)


@pytest.mark.parametrize("doubt", ["quotes are 20 s old", "bid 5000 is not below ask 4999", "a price between two ticks"])
def test_33_34_a_second_in_doubt_opens_nothing_and_closes_all_the_same(doubt):
    chaos = Scripted()
    chaos.second = lambda end: doubt if 20 < second(chaos.world) < 90 else ""
    w = story(signals={10: 1, 70: 1, 100: 1}, chaos=chaos)
    to(w, 60)
    assert reasons(w) == ["time_stop"]
    to(w, 90)
    assert len(entries(w)) == 1
    ends(w)
    assert len(entries(w)) == 2


def test_35_a_second_told_twice_or_from_the_past_changes_nothing():
    w, calm = story(), ends(story())
    tell, kept = w.tell, []

    def twice(event):
        tell(event)
        if isinstance(event, Second):
            kept.append(event)
            tell(event)
            tell(kept[max(len(kept) - 5, 0)])
    w.tell = twice
    ends(w)
    assert w.core.lots.tobytes() == calm.core.lots.tobytes()


def test_36_no_prediction_is_no_entry():
    w = story(signals={})
    w.predictor._said.probability[:] = np.nan
    ends(w)
    assert not w.places and w.core.refusals[Reason.NO_PREDICTION] == 120


def test_39_what_happens_in_other_contracts_is_not_ours():
    w = story()
    to(w, 20)
    from live_runner.gateway.answers import Fill
    from live_runner.messages import FillTold
    w.post(FillTold(0, Fill(7, ACCOUNT, "CON.F.US.MNQ.H24", w.clock.now, 17000.0, Side.SELL, 3, 8, None, 0.0, 0.0, False)))
    w.run_s(2)
    assert w.core.status()["position"] == 1
    ends(w)


def test_40_a_loop_gone_wild_is_stopped():
    w = story(n=200, signals={k: 1 if k % 2 else -1 for k in range(5, 150)}, settings=dict(orders_a_minute=3), trader=dict(cooldown_s=0.0), risk=dict(loss_streak=1000))
    to(w, 60)
    assert len(entries(w)) == 3 and "within a minute" in halted(w)
    w.run()
    assert len(entries(w)) == 3 and not w.position and not w.venue.working
    w.replayed()


def test_42_the_day_s_loss_is_latched_and_a_restart_does_not_open_it():
    "Lost in one blow while nothing was told; after a crash the latch is there again from the venue's own numbers."
    w = story(n=200, moves={20: -60}, signals={10: 1, 40: 1, 60: 1, 100: 1, 140: 1}, news=silent((15, 30)), risk=dict(trade_risk_usd=25.0))
    to(w, 35)
    assert w.account.balance < 950 and not w.position
    to(w, 50)
    w.crash()
    to_dead(w, 55)
    w.start()
    w.run()
    assert len(entries(w)) == 1 and w.core.state.day_stop != 0
    w.replayed()


def test_42_the_loss_happened_while_the_runner_was_dead():
    w = story(n=200, moves={20: -60}, signals={10: 1, 40: 1, 60: 1, 100: 1})
    to(w, 15)
    w.crash()
    to_dead(w, 30)
    w.start()
    w.run()
    assert len(entries(w)) == 1 and w.core.state.day_stop != 0 and w.core.state.balance == pytest.approx(w.account.balance)


def test_43_the_firm_closes_and_locks_the_account():
    w = story(signals={10: 1, 60: 1, 90: 1})
    to(w, 20)
    w.venue.flatten(ACCOUNT)
    w.venue.lock(ACCOUNT, False)
    w.run_s(20)
    assert reasons(w)[0] in ("external", "halted") and "lock" in halted(w)
    ends(w)
    assert len(entries(w)) == 1


def test_43_somebody_else_trades_in_the_account():
    w = story(signals={60: 1})
    to(w, 20)
    w.stranger(Side.BUY, 2)
    w.run_s(10)
    assert not w.position and "somebody else" in halted(w)
    ends(w)
    assert not entries(w)


@pytest.mark.parametrize("policy", ["flatten", "keep"])
def test_47_asked_to_end(policy):
    w = story(settings=dict(on_quit=policy), signals={10: 1, 30: -1})
    to(w, 20)
    w.post(Quit(0, "SIGTERM"))
    to(w, 27)
    assert any(isinstance(said, Done) for _, said in w.said) and len(entries(w)) == 1
    assert (w.position, stops(w)) == ((0, 0) if policy == "flatten" else (1, 1))


def test_47_killed_by_a_person_it_stays_closed_over_a_restart():
    w = story(signals={10: 1, 60: 1, 90: 1})
    to(w, 20)
    w.post(Kill(0, "me", "enough"))
    w.run_s(4)
    assert not w.position and not w.venue.working and "enough" in halted(w)
    w.crash()
    to_dead(w, 40)
    w.start()
    ends(w)
    assert len(entries(w)) == 1 and "enough" in halted(w)


def test_a_stop_is_only_ever_moved_nearer():
    moves = {k: k // 2 for k in range(12, 60)} | {60: 20, 70: 10}
    w = ends(story(moves=moves, stops=dict(trail_ticks=5, target_ticks=100, max_hold_s=100)))
    levels = [command.stop for _, command in w.sent if isinstance(command, Modify)]
    assert len(levels) > 5 and levels == sorted(levels) and reasons(w) == ["stop"] and min(levels) > (BASE - 8) * .25


def test_the_calm_story_converges():
    w = story()
    to(w, 100)
    converged(w)
