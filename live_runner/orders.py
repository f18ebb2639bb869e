"""What must be done at the venue, found afresh after every event: what the account's state wants is held against the orders that work, and the difference is sent.

Nothing here remembers what it meant to do; a lost answer, a restart or a surprise leads to the same comparison. One command about one thing at a time. Exits never wait for anything."""
from dataclasses import dataclass

from mesbot.core import REASON_TEXTS, SECOND, Intent, Reason

from .allowed import too_many, unfit
from .book import ENTRY, STOP, Ours
from .desk import ENTRIES
from .gateway.outcomes import NewOrder
from .messages import Cancel, Close, Modify, Place
from .plan import plan_of
from .protocol import OrderStatus, OrderType, Side

OWN_STOPS = 1       # stops of our own that are tried where a leg was refused
TAKEN_BACK = (OrderStatus.OPEN, OrderStatus.PENDING)  # orders that can be
DEAD = (OrderStatus.REJECTED, OrderStatus.CANCELLED, OrderStatus.EXPIRED)


@dataclass
class Closing:
    "The position is being closed at market."
    reason: int        # Reason
    at: int            # ns UTC, of the last attempt
    state: str = "sent"  # sent, accepted, unknown, failed
    tries: int = 1


def settle(c) -> None:
    "Everything that the core `c` wants and does not have yet."
    begin_plan(c)
    protect(c)
    leave(c)
    enter(c)
    follow(c)
    tidy(c)


# --- out ---------------------------------------------------------------------------------------------------------------------------------------------------

def why_out(c) -> int | None:
    "The `Reason` to be without a position now."
    if c.book.net != c.desk.held or c.strange: return Reason.HALTED
    if c.halted or (c.quitting and c.settings.on_quit == "flatten"): return Reason.HALTED
    if c.past_flat: return Reason.END_OF_DAY
    return int(c.desk.state.intent_reason) if c.desk.held and c.desk.intent in (Intent.EXIT, Intent.FLATTEN, Intent.REVERSE) else None


def leave(c) -> None:
    "Close the position, if it must be; again when an attempt has failed."
    if not (c.book.net or c.strange):
        c.closing = None
        return
    reason = why_out(c)
    if reason is None: return
    if c.closing is None: c.closing = Closing(reason, c.now)
    elif c.closing.state == "failed" and c.now - c.closing.at >= c.settings.retry_s * SECOND:
        c.closing.at, c.closing.state, c.closing.tries = c.now, "sent", c.closing.tries + 1
        if c.closing.tries % 10 == 3: c.alert("critical", "close", f"the position is still open after {c.closing.tries - 1} attempts to close it")
    else: return
    if c.desk.intent != Intent.REVERSE and c.plan: c.drop("the position is being left")
    why = REASON_TEXTS[Reason(reason)]
    c.decide(f"close {abs(c.book.net or c.strange)} at market: {why}")
    c.send(Close, ("close",), why)


# --- in ----------------------------------------------------------------------------------------------------------------------------------------------------

def begin_plan(c) -> None:
    "An intent to enter that the trader has just made becomes a plan; one that it has taken back, or that cannot be, is dropped."
    state, intent = c.desk.state, c.desk.intent
    if c.plan is None and (intent in ENTRIES or intent == Intent.REVERSE):
        c.plans_made += 1
        c.plan = c.plans[c.plans_made] = plan_of(state, c.plans_made, c.rules)
        c.remember_features(c.plan.row)
    plan = c.plan
    if plan is None: return
    if not plan.dropped:
        if state.side == 0 and not plan.filled and intent not in ENTRIES: c.drop("the trader has taken it back")
        elif c.halted or c.quitting: c.drop(c.halted or "the runner ends")
    if (plan.sent or plan.dropped) and not c.book.working(ENTRY, plan.no):
        if not (plan.dropped or plan.filled): c.drop("the venue did not take it")
        c.plan = None


def enter(c) -> None:
    "Send the plan's orders; those of a reversal once the way out is certain."
    plan = c.plan
    if plan is None or plan.sent or plan.dropped: return
    if plan.reverse and c.desk.state.side != plan.side:
        if c.desk.state.side != 0 and (c.closing is None or c.closing.state != "accepted"): return
        if c.desk.state.loss_streak + 1 >= c.rules.risk.loss_streak and c.desk.leaving_usd(c.price) < 0: return c.drop("the position before it may be the last loss before a pause")
    late_s = (c.now - plan.at) / SECOND
    if why := [*unfit(c), *([f"decided {late_s:.0f} s ago"] if late_s > c.settings.retry_s else [])]: return c.drop(why[0])
    if why := too_many(c, len(plan.lots)):
        c.halt(why)
        return c.drop(why)
    plan.sent, c.next_ask = True, min(c.next_ask, c.now + round(c.settings.poll_s * SECOND))
    kind = OrderType.LIMIT if plan.limit else OrderType.MARKET
    for lot, (size, ticks, _) in enumerate(plan.lots):
        own = Ours(f"{c.setup.prefix}-{plan.no}-{lot}", ENTRY, plan.no, lot, plan.side, size, c.now)
        c.book.place(own)
        order = NewOrder(c.setup.account, c.setup.contract, kind, Side.BUY if plan.side > 0 else Side.SELL, size, own.tag, limit=c.points(plan.limit) if plan.limit else None,
                         stop_ticks=plan.width, target_ticks=ticks)
        own.command = c.send(Place, ("place", own.tag), order, REASON_TEXTS[Reason(plan.reason)])
    c.decide(f"{'long' if plan.side > 0 else 'short'} {plan.contracts} {f'at {c.points(plan.limit):g} or better' if plan.limit else 'at market'}, stop {plan.width} ticks, "
             f"target {plan.lots[-1][1]}: sure {plan.confidence:.2f}")


# --- stops -------------------------------------------------------------------------------------------------------------------------------------------------

def protect(c) -> None:
    "Every contract has a stop that rests at the venue, soon after its fill, or is closed."
    desk, held = c.desk, c.desk.held
    side = (held > 0) - (held < 0)
    missing = abs(held) - c.book.protected(side) if held else 0
    if missing <= 0:
        c.naked = 0
        return
    c.naked = c.naked or c.now
    if c.closing is not None or desk.intent not in (Intent.HOLD, Intent.REVERSE): return
    if c.now - c.naked >= c.settings.protect_s * SECOND:
        c.alert("critical", "naked", f"no stop has rested at the venue for {(c.now - c.naked) / SECOND:.1f} s: the position is closed")
        return c.want_out(Reason.UNPROTECTED)
    stops = [own for own in c.book.ours.values() if own.role == STOP and own.plan == c.position_plan]
    waiting = any(own.works and not own.rests for own in stops) or not stops
    made = [own for own in stops if own.lot < 0]
    if waiting or not any(own.status in DEAD for own in stops): return
    if len(made) >= OWN_STOPS or side * (desk.state.stop - c.price) >= 0: return c.want_out(Reason.UNPROTECTED)
    own = Ours(f"{c.setup.prefix}-{c.position_plan}-S{len(made)}", STOP, c.position_plan, -1 - len(made), -side, missing, c.now, stop=int(desk.state.stop))
    c.book.place(own)
    order = NewOrder(c.setup.account, c.setup.contract, OrderType.STOP, Side.SELL if side > 0 else Side.BUY, missing, own.tag, stop=c.points(own.stop))
    c.alert("warning", "stop", "the venue dropped the stop of a position: another one is sent")
    own.command = c.send(Place, ("place", own.tag), order, "the position has no stop", True)


def follow(c) -> None:
    "Stops move to where the state has them, and only nearer to the market."
    if not c.desk.held or c.closing is not None: return
    state = c.desk.state
    for own in c.book.ours.values():
        if own.role != STOP or not own.rests or own.sign != -state.side or own.command or own.stop is None: continue
        if state.side * (state.stop - own.stop) > 0 and c.now >= own.retry:
            own.command = c.send(Modify, ("modify", own.tag, int(state.stop)), own.id, c.points(int(state.stop)), None, "the stop follows")


# --- what is left over -------------------------------------------------------------------------------------------------------------------------------------

def tidy(c) -> None:
    "Take back what nobody wants any more: entries given up, legs without a position, stops beyond its size, and at the day's end everything."
    flat, everything = c.book.net == 0 and not c.strange, bool(c.halted or c.past_flat or (c.quitting and c.settings.on_quit == "flatten"))
    c.flat_since = (c.flat_since or c.now) if flat else 0
    idle = flat and c.now - c.flat_since >= SECOND and not c.book.working(ENTRY)
    extra = 0 if flat else c.book.protected(1 if c.desk.held > 0 else -1) - abs(c.desk.held)
    c.extra_since = (c.extra_since or c.now) if extra > 0 else 0
    for own in c.book.working():
        if own.id is None or own.command or c.now < own.retry or own.status not in TAKEN_BACK: continue
        plan = c.plans.get(own.plan)
        if own.role == ENTRY: unwanted = plan is None or plan is not c.plan or bool(plan.dropped)
        else: unwanted = (idle and own.status == OrderStatus.OPEN) or (own.lot < 0 and extra >= own.left and c.now - c.extra_since >= SECOND)
        if unwanted: own.command = c.send(Cancel, ("cancel", own.tag), own.id, "nobody wants it any more")
    if not everything or not flat: return
    for number in list(c.book.foreign):
        if c.now >= c.foreign_retry.get(number, 0):
            c.foreign_retry[number] = c.now + round(c.settings.retry_s * SECOND)
            c.send(Cancel, ("foreign", number), number, "not an order of this runner")


