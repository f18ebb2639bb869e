"""What the venue says, taken into the book: fills, orders, answers to commands, and whole snapshots. The venue always wins; what differs from our own view is named."""
from mesbot.core import SECOND, Reason

from .book import ENTRY, STOP, TARGET
from .desk import ENTRIES, second_of
from .gateway.answers import Fill, known
from .gateway.outcomes import Accepted, Refused, Unknown
from .messages import Answered, Ask, Snapshot
from .protocol import CloseError, ModifyError, OrderStatus, OrderType, PlaceError, Side

APART, APART_S = 3, 3      # so many snapshots over so many seconds must say the same before a position that our fills do not explain is believed
WAIT_S = 30                # an Ask that is not answered for so long is asked again
LEAST_S, HASTY_S = 1.5, 2  # between two questions at least; while something is not as it should be: each is four requests of 200 a minute
PAUSE_S = 30               # no entry for so long after the venue has refused one
CENT = 0.005               # USD: a smaller difference of balances is none


# --- fills and orders --------------------------------------------------------------------------------------------------------------------------------------

def take_order(c, order) -> None:
    "News of an order; fills that waited for its id are booked."
    if order.account != c.setup.account or order.contract != c.setup.contract: return
    own = c.book.told(order, c.ticks)
    if own is None and order.id in c.book.foreign and order.id not in c.foreign_told:
        c.foreign_told.append(order.id)
        c.differ(f"an order that is not ours works in the account: {c.book.foreign[order.id]}")
    for fill in [fill for fill in c.waiting if fill.order == order.id]:
        c.waiting.remove(fill)
        take_fill(c, fill)


def take_fill(c, fill: Fill, final: bool = False) -> None:
    "A fill, once. One that may have overtaken another, or the id of its order, waits for a snapshot; `final`: there is nothing left to wait for."
    if fill.account != c.setup.account or fill.contract != c.setup.contract or fill.id in c.book.fills: return
    own, sign = c.book.of(fill.order), 1 if fill.side == Side.BUY else -1
    if not (final or fill.voided or fill.ts < c.book.since) and _may_be_early(c, own, sign, fill.size):
        if fill not in c.waiting: c.waiting.append(fill)
        return c.ask_soon()
    signed = c.book.fill(fill)
    if not signed: return
    c.last_fill = c.now
    if fill.voided: return c.differ(f"fill {fill.id} of {abs(signed)} was taken back by the venue")
    book_fill(c, own, sign, fill.size, c.ticks(fill.price), second_of(fill.ts), fill.order)


def _may_be_early(c, own, sign: int, size: int) -> bool:
    "Whether something that we have not been told yet may explain the fill: the id of an order of ours, or the entry that it closes."
    if own is not None and own.role == ENTRY: return False
    if own is None and any(other.id is None and other.sign == sign for other in c.book.working()): return True
    return c.desk.held * sign > -size and any(other.sign == -sign for other in c.book.working(ENTRY))


def book_fill(c, own, sign: int, size: int, price: int, ts: int, order_id: int) -> None:
    "What a new fill does to the position; what it does beyond it is found by `orders.why_out`."
    desk = c.desk
    closing = min(size, abs(desk.held)) if desk.held * sign < 0 else 0
    if closing:
        reason, level = reason_of(c, own, price, order_id)
        if own and own.role == TARGET: desk.reached(level_of(c, own))
        if own and own.role != ENTRY: c.book.spare_sibling(own, c.now + SECOND)
        desk.leave(closing, price, ts, reason, level)
        c.decide(f"{closing} out at {c.points(price):g}: {c.reason_text(reason)}")
        if desk.held == 0 and c.plan and c.plan.reverse and c.plan.sent and not c.plan.dropped:
            desk.state.intent = ENTRIES[0] if c.plan.side > 0 else ENTRIES[1]
        if desk.held == 0: c.ask_soon()
    rest = size - closing
    if not rest: return
    plan = c.plans.get(own.plan) if own and own.role == ENTRY else None
    if plan and desk.held * sign >= 0:
        if desk.held == 0: c.position_plan = plan.no
        desk.enter(plan, rest, price, ts)
        c.decide(f"{rest} {'long' if sign > 0 else 'short'} at {c.points(price):g}")
        c.next_ask = min(c.next_ask, c.now + SECOND // 2)
        if plan.dropped:
            c.differ(f"order {own.tag} was given up ({plan.dropped}) and filled all the same")
            c.want_out(Reason.HALTED)
    elif own is not None:
        c.differ(f"{own.role} {own.tag} filled {rest} more than was held: the position is turned")
        c.alert("critical", "turned", f"stop and target, or stop and exit, both filled: {rest} contracts too many are closed")
    elif order_id in c.closing_orders: c.differ(f"closing orders filled {rest} more than was held")
    else: c.halt(f"somebody else traded in this account: {'bought' if sign > 0 else 'sold'} {rest}")


def reason_of(c, own, price: int, order_id: int) -> tuple: # Reason, level of the order in ticks or 0
    "Why a position is left by this fill."
    state = c.desk.state
    if own is not None:
        if own.role == STOP: return Reason.STOP, own.stop or int(state.stop)
        return (Reason.LEVEL if level_of(c, own) else Reason.TARGET), price
    if c.closing is not None:
        c.closing_orders.append(order_id)
        return Reason(c.closing.reason), 0
    if order_id not in c.book.closers:  # a leg that we were not told of
        if state.side * (price - state.target) >= 0: return Reason.TARGET, price
        if state.side * (price - state.stop) <= 0: return Reason.STOP, int(state.stop)
    c.differ("the position was closed from outside")
    return Reason.EXTERNAL, 0


def level_of(c, own) -> int:
    "The profit level, from 1, that this target is; 0 for the target itself."
    plan = c.plans.get(own.plan)
    return plan.lots[own.lot][2] if plan else 0


# --- answers -----------------------------------------------------------------------------------------------------------------------------------------------

def answered(c, event: Answered) -> None:
    "What became of a command."
    sent = c.sent.pop(event.id, None)
    if sent is None: return
    kind, about, outcome = sent[0], sent[1:], event.outcome
    if kind == "close": return _closed(c, outcome)
    if kind == "foreign": return
    own = c.book.ours.get(about[0])
    if own is None: return
    own.command = 0
    {"place": _placed, "modify": _modified, "cancel": _cancelled}[kind](c, own, outcome, *about[1:])


def _is_lost(outcome) -> bool:
    "Whether nobody can say what became of it."
    return isinstance(outcome, Unknown) or (isinstance(outcome, Refused) and (int(outcome.code) in (PlaceError.ORDER_PENDING, PlaceError.UNKNOWN_ERROR) or "tag" in (outcome.message or "").lower()))


def _words(outcome, table: type) -> str:
    "What the venue said, or why nobody asked it; the same for a code that comes back from the journal as a plain number."
    if not isinstance(outcome, Refused): return outcome.why or f"HTTP {outcome.status}"
    return outcome.message or getattr(known(table, int(outcome.code)), "name", str(outcome.code))


def _placed(c, own, outcome) -> None:
    if isinstance(outcome, Accepted):
        c.book.name(own, outcome.order_id)
        for fill in [fill for fill in c.waiting if fill.order == own.id]:
            c.waiting.remove(fill)
            take_fill(c, fill)
    elif _is_lost(outcome):
        if not own.shown and own.works: own.unknown = c.now
        c.ask_soon()
    elif own.works and not own.shown:
        own.status = int(OrderStatus.REJECTED)
        why = _words(outcome, PlaceError)
        c.differ(f"order {own.tag} did not come to be: {why}")
        c.pause_until, c.pause_why = c.now + PAUSE_S * SECOND, f"the venue did not take an order: {why}"


def _modified(c, own, outcome, stop: int) -> None:
    if isinstance(outcome, Accepted): own.stop = stop
    elif isinstance(outcome, Refused) and int(outcome.code) in (ModifyError.REJECTED, ModifyError.ORDER_NOT_FOUND):
        own.retry = c.now + SECOND
        c.ask_soon()
        if not own.rests: return
        c.differ(f"the venue would not move the stop to {c.points(stop):g}: {_words(outcome, ModifyError)}")
        if c.desk.held * (stop - c.price) >= 0: c.want_out(Reason.STOP)  # the market has passed it
    else: own.retry = c.now + SECOND


def _cancelled(c, own, outcome) -> None:
    if isinstance(outcome, Accepted):
        if own.works: own.status, own.gone = int(OrderStatus.CANCELLED), True
        return
    own.retry = c.now + round(c.settings.retry_s * SECOND)
    c.ask_soon()


def _closed(c, outcome) -> None:
    closing = c.closing
    if closing is None: return
    closing.at = c.now
    if isinstance(outcome, Accepted) or (isinstance(outcome, Refused) and int(outcome.code) == CloseError.ORDER_PENDING): closing.state = "accepted"
    elif isinstance(outcome, Unknown): closing.state = "unknown"
    else:
        closing.state = "failed"
        c.differ(f"the position could not be closed: {_words(outcome, CloseError)}")
        if c.plan and c.plan.reverse and not c.plan.sent: c.drop("the position before it could not be left")
    if closing.state != "accepted": c.ask_soon()


# --- snapshots ---------------------------------------------------------------------------------------------------------------------------------------------

def ask(c) -> None:
    "Ask for the venue's truth when it is due; at most one question is on its way."
    if c.asked and c.now - c.asked[1] < WAIT_S * SECOND or c.now < max(c.next_ask, c.last_ask + round(LEAST_S * SECOND)): return
    number = c.send(Ask, None, c.book.since, "")
    busy = c.book.net or c.desk.held or c.book.working() or c.closing or c.strange
    hasty = not c.reconciled or c.quitting or c.past_flat or c.waiting or any(own.unknown for own in c.book.working()) or (c.closing and c.closing.state != "failed")
    c.asked, c.last_ask, c.next_ask = (number, c.now), c.now, c.now + round((HASTY_S if hasty else c.settings.poll_s if busy else c.settings.idle_poll_s) * SECOND)


def take_snapshot(c, event: Snapshot) -> None:
    "The venue's own words."
    c.asked = None if c.asked and c.asked[0] == event.id else c.asked
    if event.account is None: c.halt("the venue does not show the account any more")
    else: take_account(c, event.account)
    orders = [order for order in event.orders if order.account == c.setup.account and order.contract == c.setup.contract]
    for order in orders: take_order(c, order)
    early = {fill.id: fill for fill in (*c.waiting, *event.fills)}
    c.waiting = []
    for fill in sorted(early.values(), key=lambda fill: (fill.ts, fill.id)): take_fill(c, fill, fill.ts < event.asked_at - SECOND)  # the snapshot has all that came before it
    shown = {order.id for order in orders} | {order.tag for order in orders if order.tag}
    for own in c.book.missed(shown, event.asked_at, round(c.settings.unknown_s * SECOND)): c.differ(f"order {own.tag} ({own.role}) is not at the venue")
    _pending_close(c, event, orders)
    _compare(c, event)


def _pending_close(c, event: Snapshot, orders: list) -> None:
    "A close that was sent and left no order, while the position is still there, has failed."
    closing = c.closing
    if closing is None or closing.state not in ("accepted", "unknown") or event.asked_at < closing.at + SECOND or c.last_fill > event.asked_at: return
    on_its_way = any(order.status in (OrderStatus.PENDING, OrderStatus.OPEN) and order.type == OrderType.MARKET and c.book.of(order.id) is None for order in orders)
    if not on_its_way: closing.state = "failed"


def _compare(c, event: Snapshot) -> None:
    "Does the venue hold what the fills add up to?"
    net = sum(position.net for position in event.positions if position.contract == c.setup.contract and position.account == c.setup.account)
    others = sorted({position.contract for position in event.positions if position.net and position.contract != c.setup.contract})
    if others and others != c.others: c.differ(f"the account also holds {', '.join(others)}")
    c.others = others
    if c.last_fill > event.asked_at: return c.ask_soon()  # stale: a fill has been booked since it was read
    if net != c.book.net:
        c.reconciled = False
        c.apart, c.apart_at = c.apart + 1, c.apart_at or event.asked_at
        if c.apart == 1: c.differ(f"the venue holds {net}, the fills add up to {c.book.net}: asked again")
        if c.apart >= APART and event.asked_at - c.apart_at >= APART_S * SECOND:
            c.strange = net
            c.halt(f"the venue holds {net} contracts that no fill explains")
        return c.ask_soon()
    c.apart, c.apart_at, c.strange = 0, 0, 0
    if c.desk.held != net and not c.waiting: _mend(c, net)
    if event.asked_at < c.gap or c.waiting or any(own.unknown for own in c.book.working()): return c.ask_soon()
    if not c.reconciled: c.decide("account, orders and position are as the venue has them")
    c.reconciled, c.verified = True, event.asked_at
    if c.book.net or c.desk.held or c.book.working(): return
    _compare_balance(c, event)
    c.book.settle(event.asked_at - 60 * SECOND)
    c.closing_orders, c.foreign_told = c.closing_orders[-20:], c.foreign_told[-20:]  # ids of long ago come back no more
    c.plans = {number: plan for number, plan in c.plans.items() if plan is c.plan or any(own.plan == number for own in c.book.ours.values())}


def _mend(c, net: int) -> None:
    "Fills and venue agree, and the account as the rules see it still holds what is gone: it is booked as left at the last price; the balance is made right when all is flat."
    gone = c.desk.held if c.desk.held * net <= 0 else c.desk.held - net
    if c.desk.held * gone <= 0: return   # the venue holds more, not less: that is closed, not booked
    c.differ(f"{abs(gone)} contracts are gone without a fill of their own")
    c.desk.leave(abs(gone), c.price, second_of(c.now), Reason.EXTERNAL)


def _compare_balance(c, event: Snapshot) -> None:
    "Flat: the venue's cash and ours must be the same; the difference is booked as the venue has it."
    if event.account is None or c.last_fill > event.asked_at - SECOND: return
    ours = float(c.desk.state.balance)
    if c.offset is None: c.offset = event.account.balance - ours
    drift = event.account.balance - c.offset - ours
    if abs(drift) < CENT: return
    c.differ(f"the venue has booked {drift:+.2f} USD that we have not")
    c.desk.adopt_balance(drift)


def take_account(c, account) -> None:
    "The account as the venue has it."
    if account.id == c.setup.account and not account.can_trade: c.halt("the firm has locked the account")
