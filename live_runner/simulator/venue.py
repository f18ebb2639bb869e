"The venue: accounts, orders and their legs, positions, fills, and what is told of them. Time and prices come from outside, events go out by `emit`."
from itertools import count

import numpy as np
from mesbot.calendar import MINUTE, SECOND
from mesbot.core import Bar, Instrument

from ..clock import isotime
from ..protocol import OrderStatus, OrderType, Side
from .matching import Matcher
from .records import Account, Order, Position, account_json, order_json, position_json
from .requests import Requests
from .settings import VenueSettings

FILL_LAG_NS, LEG_LAG_NS = 8_000_000, 18_000_000  # from the print to the news of the fill, and from there to that of its legs
FLAT_AFTER_RTH, FIRM_LEAD, EARLY_LEAD = 10 * MINUTE, 2 * MINUTE, 15 * MINUTE  # flat by 16:10, the firm itself begins at 16:08; so long before an early close


class Venue:
    "Everything the gateway knows of accounts and orders."

    def __init__(self,
        clock,                    # the market's clock
        instrument: Instrument,   # what is traded
        contract_id: str,         # its contract, the only one that can be traded
        settings: VenueSettings,
        emit,                     # emit(event, key, payload, action=1)
        faults,                   # plan of faults
        history,                  # .history(now, body) -> envelope of retrieveBars
        contracts,                # the catalogue
    ):
        self.clock, self.instrument, self.contract_id, self.settings = clock, instrument, contract_id, settings
        self.emit, self.faults, self.history, self.contracts = emit, faults, history, contracts
        self.accounts = {own.id: Account(own, own.balance, own.can_trade) for own in settings.accounts}
        self.working, self.ids, self.matcher, self.requests = {}, count(1_000_001), Matcher(self, settings.config, instrument), Requests(self)
        self.last = self.bid = self.ask = None   # ticks
        self.session, self.limits, self.until = None, (1, 2**31 - 1), 0

    def answer(self, path: str, body: dict) -> dict:
        "The envelope of any call but login and ping; the body has been checked against `protocol.ENDPOINTS`."
        return self.requests.answer(path, body)

    # -- the market -----------------------------------------------------------------------------------------------
    def open_session(self, session: np.record):
        "A row of the calendar's table: its hours, price limits around the last close, and when the firm has everybody flat."
        self.session = session
        self.matcher.open_session(session)
        if self.last is not None: self.limits = tuple(round(self.last * (1 + way * self.settings.limit_share)) for way in (-1, 1))
        self.until = int(session["close"])
        if self.settings.hours == "topstep":
            early = session["shift"] > 0
            self.until = int(session["close"] - EARLY_LEAD if early else session["rth_close"] + FLAT_AFTER_RTH)
            if self.until - FIRM_LEAD >= self.clock.now: self.clock.at(self.until - FIRM_LEAD, self._flatten_everybody)

    @property
    def is_trading(self) -> bool:
        "Whether orders are taken now."
        s, now = self.session, self.clock.now
        return s is not None and s["open"] <= now < self.until and not s["halt"] <= now < s["trade_from"]

    def meet_open(self, bar: Bar):
        "The first print of the bar's second."
        if self.session is None: raise ValueError("a bar came before open_session")
        self.last, self.bid, self.ask = int(bar.open), int(bar.bid) or int(bar.open), int(bar.ask) or int(bar.open) + 1
        if self.working: self.matcher.at_open(bar)

    def meet_range(self, bar: Bar):
        "Its extremes."
        if self.working: self.matcher.in_range(bar)

    def end_second(self, bar: Bar):
        "It is over, and `bar.close` is what everybody knows."
        self.last = int(bar.close)
        if not bar.bid: self.bid, self.ask = self.last, self.last + 1
        self.matcher.end(bar)

    def close_session(self):
        "Working orders expire; what is still held is closed at the last price, as bad as an order at market."
        for order in list(self.working.values()): self._end(order, OrderStatus.EXPIRED)
        for account in self.accounts.values():
            for held in list(account.positions.values()):
                closing = self.new_order(account, OrderType.MARKET, Side.SELL if held.side > 0 else Side.BUY, held.size)
                slip = self.matcher.slip(self.clock.now)
                self.fill(closing, self.last + closing.sign * slip, whole=True)
        self.session = None

    # -- from outside -----------------------------------------------------------------------------------------------
    def lock(self, account_id: int, can_trade: bool):
        "The firm locks an account, or opens it again."
        account = self.accounts[account_id]
        account.can_trade = can_trade
        self.emit("GatewayUserAccount", account.id, account_json(account))

    def flatten(self, account_id: int):
        "Somebody else, or the firm, takes every order back and closes every position at market."
        account = self.accounts[account_id]
        for order in [o for o in self.working.values() if o.account == account_id and o.status != OrderStatus.SUSPENDED]: self.cancel(order)
        for held in list(account.positions.values()): self.close(account, held.size)

    def trade(self, account_id: int, side: Side, size: int) -> int:
        "Somebody else's order at market in the same account; its id."
        return self.accept(self.new_order(self.accounts[account_id], OrderType.MARKET, Side(side), size)).id

    def _flatten_everybody(self):
        for account_id in self.accounts: self.flatten(account_id)

    # -- orders -----------------------------------------------------------------------------------------------------
    def active(self) -> list:
        "Orders that rest in the book, oldest first."
        return [o for o in self.working.values() if o.status == OrderStatus.OPEN]

    def new_order(self, account: Account, kind: OrderType, side: Side, size: int, status: OrderStatus = OrderStatus.PENDING, **fields) -> Order:
        "An order with an id, known to its account, not yet told to anybody."
        now = self.clock.now
        order = Order(next(self.ids), account.id, self.contract_id, now, now, status, OrderType(kind), Side(side), size, first_ts=now + round(self.settings.latency_s * SECOND), **fields)
        account.orders[order.id] = order
        if order.tag is not None: account.tags.add(order.tag)
        return order

    def accept(self, order: Order) -> Order:
        "Let it work: at market as pending, everything else as open; its legs wait for its fill."
        if order.type != OrderType.MARKET: order.status = OrderStatus.OPEN
        self.working[order.id] = order
        for leg in order.legs: self.working[leg.id] = leg
        for told in (*order.legs[:1], order, *order.legs[1:]): self.tell(told)
        if order.is_stop: self._maybe_drop(order)
        return order

    def _maybe_drop(self, stop: Order):
        "The plan of faults can make a stop vanish after it was accepted, without a word."
        if self.faults.hit("drop_stop"):
            del self.working[stop.id]
            stop.status = OrderStatus.CANCELLED

    def cancel(self, order: Order):
        "Take it back; legs that wait for it go with it, those of what it has filled stay."
        for leg in order.legs:
            if leg.status == OrderStatus.SUSPENDED: self._end(leg, OrderStatus.CANCELLED)
        self._end(order, OrderStatus.CANCELLED)

    def close(self, account: Account, size: int) -> Order:
        "Close so many contracts of the position at market."
        held = account.positions[self.contract_id]
        account.closing = self.new_order(account, OrderType.MARKET, Side.SELL if held.side > 0 else Side.BUY, size, closes=True)
        return self.accept(account.closing)

    def move_stop(self, order: Order, level: int):
        order.stop, order.updated = level, self.clock.now
        self.tell(order)

    def _end(self, order: Order, status: OrderStatus, lag: int = 0):
        if self.working.pop(order.id, None) is None: return
        order.status, order.updated = status, self.clock.now
        self.tell(order, lag)

    def tell(self, order: Order, lag: int = 0):
        "News of an order as it is now, told so much later, ns; none overtakes an earlier one of the same order."
        payload, order.told = order_json(order, self.instrument), max(self.clock.now + lag, order.told)
        if order.told > self.clock.now: self.clock.at(order.told, lambda: self.emit("GatewayUserOrder", order.account, payload))
        else: self.emit("GatewayUserOrder", order.account, payload)

    # -- fills --------------------------------------------------------------------------------------------------------
    def fill(self, order: Order, price: int, whole: bool = False):
        "So many contracts of the order change hands at `price`, ticks: all that is left, or a part while the plan of faults says so."
        account, now = self.accounts[order.account], self.clock.now
        if order.closes and self.settings.close_only and not self._cut(account, order): return self._end(order, OrderStatus.CANCELLED, FILL_LAG_NS)
        lot = order.left
        if lot > 1 and not whole and (part := self.faults.hit("partial_fill")): lot = min(max(1, int(lot * part["share"])), lot)
        order.average = ((order.average or 0.0) * order.filled + price * lot) / (order.filled + lot)
        order.filled, order.updated, order.first_ts = order.filled + lot, now, now
        if not order.left:
            order.status = OrderStatus.FILLED
            self.working.pop(order.id, None)
        elif order.type == OrderType.MARKET: order.status = OrderStatus.OPEN
        later = lambda event, payload, action=1: self.clock.at(now + FILL_LAG_NS, lambda: self.emit(event, account.id, payload, action=action))
        self.tell(order, FILL_LAG_NS)
        self._book(account, order, price, lot, later)
        later("GatewayUserAccount", account_json(account))
        self._wake_legs(order)
        if order.parent is not None: self._sibling(account, order)
        elif self.settings.links and not order.left:
            for other in [o for o in self.active() if order.id == o.linked or o.id == order.linked]: self._end(other, OrderStatus.CANCELLED, FILL_LAG_NS)

    def _cut(self, account: Account, order: Order) -> bool:
        "A closing order is for no more than it can close; False when that is nothing."
        held = account.positions.get(order.contract)
        if held is None or held.side == order.sign: return False
        order.size = order.filled + min(order.left, held.size)
        return True

    def _book(self, account: Account, order: Order, price: int, lot: int, later):
        "Net the fill against the position; what closes earns or loses, what opens is averaged in."
        held, now, name = account.positions.get(order.contract), self.clock.now, self.contracts.search_by_id(order.contract)["name"]
        closing = min(lot, held.size) if held and held.side != order.sign else 0
        if closing:
            self._half_trade(account, order, price, closing, held.side * (price - held.average) * closing * self.instrument.tick_usd, later)
            held.size -= closing
            if not held.size: del account.positions[order.contract]
            later("GatewayUserPosition", position_json(account, held, self.instrument, name), 1 if held.size else 2)
            if not held.size: self._drop_legs(account, order)
        if opening := lot - closing:
            self._half_trade(account, order, price, opening, None, later)
            held = account.positions.get(order.contract)
            if held is None: held = account.positions[order.contract] = Position(next(self.ids), order.contract, now, order.sign, 0, 0.0)
            held.average = (held.average * held.size + price * opening) / (held.size + opening)
            held.size += opening
            later("GatewayUserPosition", position_json(account, held, self.instrument, name))

    def _half_trade(self, account: Account, order: Order, price: int, lot: int, gained: float | None, later):
        fees, commissions = round(self.settings.fees_usd * lot, 9), round(self.settings.commission_usd * lot, 9)
        account.balance += (gained or 0.0) - fees - commissions
        row = {"id": next(self.ids), "accountId": account.id, "contractId": order.contract, "creationTimestamp": isotime(self.clock.now), "price": round(float(self.instrument.to_points(price)), 9),
               "profitAndLoss": None if gained is None else round(gained, 9), "fees": fees, "commissions": commissions, "side": int(order.side), "size": lot, "voided": False, "orderId": order.id}
        account.fills.append((self.clock.now, row))
        later("GatewayUserTrade", row, 0)

    # -- legs -----------------------------------------------------------------------------------------------------------
    def _wake_legs(self, order: Order):
        "The legs of what is filled so far begin to rest, at their distance from the fill."
        for leg in order.legs:
            if leg.status == OrderStatus.OPEN: leg.size, leg.updated = order.filled, self.clock.now
            elif leg.status != OrderStatus.SUSPENDED: continue
            else: self._wake(leg, order)
            self.tell(leg, FILL_LAG_NS + LEG_LAG_NS)
            if leg.is_stop and leg.id in self.working: self._maybe_drop(leg)

    def _wake(self, leg: Order, entry: Order):
        leg.size, leg.updated, leg.first_ts = entry.filled, self.clock.now, 0
        level = round(entry.average) + leg.trail
        if leg.is_stop: leg.stop = level
        else: leg.limit = level
        leg.status = OrderStatus.OPEN
        if leg.is_stop and self.faults.hit("reject_stop"):
            leg.status = OrderStatus.REJECTED
            self.working.pop(leg.id, None)

    def _sibling(self, account: Account, leg: Order):
        "One leg was filled: the other is cancelled, or shrinks with it; an entry that is still being filled is not filled further, for nothing would protect the rest."
        entry = account.orders[leg.parent]
        self._end(entry, OrderStatus.CANCELLED, FILL_LAG_NS)
        for other in entry.legs:
            if other is leg or other.id not in self.working: continue
            if leg.left: other.size, other.updated = leg.left + other.filled, self.clock.now
            else: self._end(other, OrderStatus.CANCELLED, FILL_LAG_NS)

    def _drop_legs(self, account: Account, by: Order):
        "The position is gone: legs that protected it are cancelled, unless the plan of faults leaves them."
        legs = [o for o in self.working.values() if o.account == account.id and o.parent is not None and o.status == OrderStatus.OPEN and o.id != by.id and o.parent != by.id]
        if legs and by.parent is None and self.faults.hit("keep_legs"): return
        for leg in legs: self._end(leg, OrderStatus.CANCELLED, FILL_LAG_NS)
