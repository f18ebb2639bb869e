"How resting orders meet a bar: with the very steps of the back-test's exchange, in the same order, the worse reading first."
import numpy as np

from mesbot.conditions import condition_rules, observe
from mesbot.core import SECOND, Bar, new_state
from mesbot.costs import cost_rules, slippage_ticks, stale_slippage
from mesbot.exchange import market_price, stop_price, touched, traded_through
from mesbot.schedule import day_schedule

from ..protocol import OrderStatus, OrderType
from .records import Order


class Matcher:
    "Decides which of the working orders a bar fills and where; what a fill does is the venue's."

    def __init__(self, venue, config, instrument):
        self.venue, self.config = venue, config
        self.costs, self.conditions = cost_rules(config, instrument), condition_rules(config)
        self.state, self.day = new_state(0.0), None

    def open_session(self, session: np.record):
        "Nothing is known of a session that has not begun; `session` is a row of the calendar's table."
        self.state, self.day = new_state(0.0), day_schedule(np.array([session]), self.config)[0]

    def slip(self, ts: int) -> int:
        "Ticks that a market or stop fill gives away now."
        return int(slippage_ticks(float(self.state["atr"]), ts, self.day, self.costs))

    def at_open(self, bar: Bar):
        "Limits that the open has passed on its way, then orders at market, then stops beyond which it opens."
        for order in self._resting(bar, "is_limit"):
            if traded_through(order.sign, bar.open, order.limit): self._fill_limit(order, bar)
        slip = self.slip(bar.ts)
        for order in [o for o in self.venue.working.values() if o.type == OrderType.MARKET and o.first_ts <= bar.ts]:
            price, _ = market_price(bar, order.sign, int(stale_slippage(slip, bar.ts - order.created, bar.ts, self.day, self.costs)), self.costs)
            self.venue.fill(order, int(price))
        self._stops(bar, bar.open, bar.open)

    def in_range(self, bar: Bar):
        "Stops that the bar touches come before limits it trades through; a leg whose entry has just been filled at its limit can still be stopped by the same bar, and not yet paid."
        self._stops(bar, bar.low, bar.high)
        for order in self._resting(bar, "is_limit"):
            if traded_through(order.sign, bar.low if order.sign > 0 else bar.high, order.limit): self._fill_limit(order, bar)
        self._stops(bar, bar.low, bar.high)

    def end(self, bar: Bar):
        "What the bar teaches of the market, and how far trailing stops follow it."
        observe(self.state, bar, self.conditions)
        for order in self._resting(bar, "trails"):
            best = bar.low if order.sign > 0 else bar.high
            level = best + order.sign * abs(order.trail)
            if order.sign * (order.stop - level) > 0: self.venue.move_stop(order, level)

    def _resting(self, bar: Bar, kind: str) -> list:
        "Working orders of a kind that this bar can meet; a list, for a fill changes what works."
        return [o for o in self.venue.active() if getattr(o, kind) and o.first_ts <= bar.ts]

    def _stops(self, bar: Bar, low: int, high: int):
        "Fill every stop that these prices touch, also those that become active by such a fill."
        while hit := next((o for o in self._resting(bar, "is_stop") if touched(o.sign, high if o.sign > 0 else low, o.stop)), None):
            price, _ = stop_price(bar, hit.sign, hit.stop, self.slip(bar.ts), self.costs)
            worse = self.venue.faults.hit("slip_stops")
            self.venue.fill(hit, int(price) + (hit.sign * worse["ticks"] if worse else 0), whole=True)

    def _fill_limit(self, order: Order, bar: Bar):
        if order.status != OrderStatus.OPEN: return   # its sibling was filled by this very bar
        self.venue.fill(order, order.limit)
        if order.target_leg: order.target_leg.first_ts = max(order.target_leg.first_ts, bar.ts + SECOND)  # the worse reading
