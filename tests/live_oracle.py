"""What must hold after every event, whatever happened: the promises I2 to I9, held against what the venue knows to be true. A breach is an AssertionError that names it.

Patience is counted: a promise in seconds gets as much longer as messages were really held up, and no more."""
from collections import Counter

from live_runner.messages import Link, Place, Second, Snapshot, Started
from live_runner.protocol import OrderStatus, OrderType
from mesbot.core import SECOND
from mesbot.schedule import day_schedule

SLACK_S, QUESTION_S = 2.0, 3.0  # over protect_s: a position must be safe by then; and so much more where questions fail
REQUESTS = 200                  # in any minute


class Oracle:
    "Give it to a `LiveWorld` as `check`."

    def __init__(self):
        self.tags, self.naked, self.links, self.known, self.lost, self.day = Counter(), 0, {}, False, False, None
        self.entries, self._floor, self.held, self.moved, self.gap = 0, -1e12, 0, 0, 0

    def __call__(self, world, event, commands):
        now = world.clock.now
        match event:
            case Started(): self.links, self.known, self.gap = {}, False, now
            case Link(hub=hub, up=up):
                self.links[hub] = up
                if hub == "user": self.known, self.gap = False, now
            case Snapshot(): self.known |= event.asked_at >= self.gap
        if commands: self._commands(world, event, commands, now)
        session = world.venue.session
        if session is not None and (self.day is None or self.day["day"] != session["date"]): self._new_day(world, session)
        account = world.account
        if account.balance <= self._floor: self.lost = True                                 # the day's realised loss
        self._size(world)
        self._protected(world, now)
        if isinstance(event, Second):
            self._told_alike(world, now)
            if self.day and now > self.day["flat"] + round(world.settings.alarm_s * SECOND): self._flat(world)

    def _new_day(self, world, session):
        flat = int(day_schedule(session.reshape(1), world.config)["flat"][0])
        self.day, self.lost = {"day": session["date"], "flat": flat}, False
        self._floor = world.account.balance - world.config.risk.day_loss_usd

    def _commands(self, world, event, commands, now):
        for command in commands:
            if not isinstance(command, Place): continue
            tag = command.order.tag
            self.tags[tag] += 1
            assert self.tags[tag] == 1, f"I2: {tag} is sent twice"
            if command.exit: continue
            self.entries += 1
            assert not self.lost, f"I7: entry {tag} after the day's loss"
            assert self.known, f"I9: entry {tag} before anything was reconciled"
            assert self.links.get("user") and self.links.get("market"), f"I9: entry {tag} with {self.links}"
            assert not (isinstance(event, Second) and event.doubt), f"I9: entry {tag} on a second in doubt: {event.doubt}"
        recent = world.requests[-REQUESTS:]
        assert len(recent) < REQUESTS or now - recent[0] >= 60 * SECOND, "more requests in a minute than the venue allows"

    def _size(self, world):
        "I5: in every interleaving that is possible now."
        position, working = world.position, world.venue.working
        if not position and not working:
            world.foreign = 0
            return
        sign = 1 if position > 0 else -1
        exits = world.account.closing
        reach = [0, 0]                                                                    # contracts that may be sold and bought beyond the exits
        for order in working.values():
            if order.status == OrderStatus.SUSPENDED or order.parent is not None or order.is_stop: continue
            if order is exits: reach[order.sign > 0] += min(order.left, abs(position)) if order.sign != sign else 0
            elif order.tag is not None: reach[order.sign > 0] += order.left
        most = max(abs(position - reach[0]), abs(position + reach[1]), abs(position))
        assert most <= most_contracts(world.config) + world.foreign, f"I5: {position} held, up to {most} possible"

    def _protected(self, world, now):
        "I4: a stop that rests, or a close on its way."
        position = world.position
        if not position or world.core is None or world.asleep or not world.venue.is_trading:
            self.naked = 0
            return
        side, safe = (1 if position > 0 else -1), 0
        for order in world.venue.working.values():
            if order.sign == -side and (order.type == OrderType.MARKET or order.is_stop and order.status == OrderStatus.OPEN): safe += order.left
        if safe >= abs(position):
            self.naked = 0
            return
        self.naked = self.naked or now
        began = max(self.naked, world.quiet_since)
        patience = world.settings.protect_s + SLACK_S + self._held_up(world, began)
        assert now - began <= patience * SECOND, f"I4: {position} held and {safe} protected for {(now - began) / SECOND:.1f} s, patience was {patience:.1f} s"

    def _held_up(self, world, began) -> float:
        "Seconds by which what happened shortly before, or since, keeps the runner from knowing or acting."
        settings, more, blind = world.settings, 0.0, 0.0
        for at, kind, seconds in world.chaos.spoiled:
            if at < began - 16 * SECOND: continue
            if kind in ("drop_request", "drop_answer", "too_many", "error_before", "error_after", "late_request", "late_answer", "unsent"): more += settings.retry_s + 1.5 + seconds
            elif kind.startswith("ask"): more += QUESTION_S + seconds
            elif kind in ("lose", "late_news", "user_down", "trade", "skew"): blind = max(blind, (at - began) / SECOND + seconds + settings.idle_poll_s)
        return more + max(blind, 0.0) + (settings.poll_s if "drop_stop" in world.chaos.rates else 0.0)

    def _told_alike(self, world, now):
        "I3: with nothing on its way, and nothing spoiled for a while."
        if world.position != self.held: self.held, self.moved = world.position, now
        if world._inbox or world.core is None or world.asleep: return
        if world.chaos.crowded and now < max(world.chaos.last_hit, world.quiet_since, self.moved) + 20 * SECOND: return
        told = int(world.core.state.side * world.core.state.contracts)
        assert told == world.position, f"I3: the runner holds {told}, the venue {world.position}"

    def _flat(self, world):
        "I6: nothing is held and nothing works after the day."
        if world.chaos.on: return
        assert not world.position and not world.venue.working, f"I6: {world.position} held and {len(world.venue.working)} orders work after the day's end"


def most_contracts(config) -> int:
    "What the settings let an account of this size hold."
    risk = config.risk
    tier = risk.tier_contracts[sum(risk.start_balance_usd > usd for usd in risk.tier_usd)]
    return min(max(int(tier * max(risk.confidence_factors)), 1), risk.max_contracts)


def converged(world):
    "Liveness: a while after the last fault the runner knows what it holds, nothing is left over, and entries are free again or stopped for a reason with a name."
    status = world.core.status()
    assert status["position"] == world.position, f"the runner holds {status['position']}, the venue {world.position}"
    working = world.venue.working.values()
    left = [(o.id, o.tag) for o in working if o.status == OrderStatus.OPEN and (o.parent is not None or o.is_stop)]
    assert world.position or not left, f"orders are left over: {left}"
    stops = sum(o.left for o in working if o.is_stop and o.status == OrderStatus.OPEN)
    closing = any(o.type == OrderType.MARKET for o in working)
    if world.position: assert stops >= abs(world.position) or closing, f"{world.position} held, stops for {stops}"
    assert status["reconciled"], f"not reconciled: {status}"
    if status["halted"]:
        assert not world.position and not working, f"halted and not flat: {status['halted']}"
        return
    if not world.position and not working: assert not status["blocked"], f"nothing is on and no entry may be made: {status['blocked']}"
