"""The account as the rules see it: fills of the venue become positions, closed lots and money, by the very steps that the back-test books with.

The venue tells price and time; what the fill slipped is worked out when its second is over and its open is known."""
import numpy as np

from mesbot.account import add, enter, leave
from mesbot.core import SECOND, STATE, TRADE, Instrument, Intent, Reason, new_state
from mesbot.stops import level_contracts, level_price, reach_level

from .plan import Plan

ROOM = 256  # lots that fit before the table grows


class Desk:
    "One account, one instrument."

    def __init__(self,
        rules: np.record,       # RULES
        instrument: Instrument,
        balance: float,         # USD at the start
    ):
        self.rules, self.instrument, self._lots = rules, instrument, np.zeros(ROOM, TRADE)
        self._unpriced = []     # [row of a lot or -1 for the entry, price, sign, level or 0, second] whose slippage is not known yet
        fresh = np.zeros(1, STATE)
        fresh[0] = new_state(balance)
        self._use(fresh)

    def _use(self, record: np.ndarray) -> None:
        "The account's record, (1,) of STATE; a few fields of it are looked at so often that they are kept as views."
        self.state = record.view(np.recarray)[0]
        self._side, self._contracts, self._intent, self.bars, self._last = (record[name] for name in ("side", "contracts", "intent", "bars", "last_ts"))  # each (1,)

    @property
    def intent(self) -> int: return int(self._intent[0])
    @property
    def last_ts(self) -> int: return int(self._last[0])

    @property
    def lots(self) -> np.ndarray: # (t,) of TRADE
        "Closed since the day began."
        return self._lots[:self.state["trades"]]

    @property
    def held(self) -> int:
        "Signed contracts."
        return int(self._side[0]) * int(self._contracts[0])

    def enter(self, plan: Plan, size: int, price: int, ts: int) -> None:
        "Contracts of the plan's entry fill at `price` (ticks) in the second `ts`."
        state, plan.filled = self.state, True
        if state.side == 0:
            state.intent_contracts, state.intent_confidence, state.intent_row, state.intent_reason, state.intent_stop = size, plan.confidence, plan.row, plan.reason, plan.width
            enter(state, plan.side, price, 0, ts, self.rules)
        else: add(state, size, price, 0, self.rules)
        self._unpriced.append([-1, price, plan.side, plan.limit and price, ts])

    def leave(self, size: int, price: int, ts: int, reason: int, level: int = 0) -> None:
        "So many contracts leave at `price` (ticks) in the second `ts`; `level` is that of the stop or target that did it."
        state = self.state
        if state.trades + 1 >= len(self._lots): self._lots = np.concatenate([self._lots, np.zeros_like(self._lots)])
        side, row = int(state.side), int(state.trades)
        leave(state, size, price, 0, reason, ts, 0, 0, self._lots, self.rules)
        if self._merged(row): row -= 1
        else: self._unpriced.append([row, price, -side, price if reason in (Reason.TARGET, Reason.LEVEL) else level if reason == Reason.STOP else 0, ts])

    def _merged(self, row: int) -> bool:
        "Parts that leave together are one lot, as in the back-test."
        if row == 0: return False
        one, other = self._lots[row - 1], self._lots[row]
        if any(one[name] != other[name] for name in ("position", "exit_ns", "exit", "reason_out", "entry")): return False
        for name in ("contracts", "gross_usd", "fees_usd", "net_usd", "optimistic_usd"): one[name] += other[name]
        self.state.trades -= 1
        return True

    def reached(self, plan_levels: int) -> None:
        "A profit level's own contracts have left: this level and those before it count."
        while self.state.side != 0 and self.state.levels < plan_levels: reach_level(self.state, self.rules.stops)

    def pass_levels(self, bar) -> None:
        "Profit levels that no contract leaves at, and that the bar has traded through: they only move the stop."
        if not self.held: return
        state, stops = self.state, self.rules.stops
        while state.side != 0 and state.levels < stops.levels and level_contracts(state, state.levels, stops) == 0:
            best = bar.high if state.side > 0 else bar.low
            if state.side * (best - level_price(state, state.levels, stops)) <= 0: return
            reach_level(state, stops)

    def price_fills(self, bar) -> None:
        "The second of the last fills is over: what did they slip, against its open, its quote, or the level they rested at?"
        if not self._unpriced: return
        state, lots, entered = self.state, self._lots, False
        for row, price, sign, level, ts in self._unpriced:
            if bar is None or ts != bar.ts: slip = 0
            else: slip = _slip(price, sign, level, bar)
            if row >= 0:
                lots["slippage_ticks"][row] += slip
                self._worst_first(row, bar)
            elif not entered:  # parts of one entry slip together
                if state.side != 0: state.entry_slippage = slip
                own, entered = lots[:state.trades], True
                own["slippage_ticks"][own["position"] == state.position] += slip
        self._unpriced = []

    def _worst_first(self, row: int, bar) -> None:
        "A target is taken to be met after the worst price of its bar, unless the bar opened beyond it."
        lot = self._lots[row]
        if bar is None or lot["reason_out"] not in (Reason.TARGET, Reason.LEVEL): return
        side = lot["side"]
        if side * (bar.open - lot["exit"]) <= 0: lot["mae_ticks"] = max(lot["mae_ticks"], side * (lot["entry"] - (bar.low if side > 0 else bar.high)))

    def leaving_usd(self, price: int) -> float:
        "What the open position would be worth, net of all costs but slippage, were it left at `price` (ticks)."
        state, costs = self.state, self.rules.costs
        return float(state.position_usd + self.held * (price - state.entry) * costs.tick_usd - 2 * abs(self.held) * costs.side_usd)

    def adopt_balance(self, usd: float) -> None:
        "The venue has booked so much more, or less, than we have: the venue wins."
        self.state.balance += usd
        self.state.equity += usd

    def new_day(self) -> None:
        "The lots of the day before are written down elsewhere."
        self.state.trades, self._unpriced = 0, []

    def plain(self) -> tuple: # bytes of the record, bytes of the lots, list
        "All that must survive."
        return self.state.tobytes(), self.lots.tobytes(), self._unpriced

    def restore(self, state: bytes, lots: bytes, unpriced: list) -> None:
        "What `plain` gave; ValueError for a record of another layout."
        if len(state) != STATE.itemsize or len(lots) % TRADE.itemsize: raise ValueError(f"the account was saved by another mesbot: {len(state)} bytes, this one has {STATE.itemsize}")
        self._use(np.frombuffer(state, STATE).copy())
        own = np.frombuffer(lots, TRADE)
        self._lots = np.zeros(max(ROOM, 2 * len(own)), TRADE)
        self._lots[:len(own)], self._unpriced = own, [list(each) for each in unpriced]


def _slip(price: int, sign: int, level: int, bar) -> int:
    "Ticks given away: to the quote or the open for an order at market, to its level for one that rested and was not jumped over."
    if level and (sign * (bar.open - level) < 0 or price == level): return sign * (price - level)
    quote = (bar.ask if sign > 0 else bar.bid) or bar.open
    return sign * (price - (sign * max(sign * quote, sign * bar.open) if level else quote))


def second_of(
    ts: int, # ns UTC
) -> int:
    "The second that a moment belongs to."
    return ts // SECOND * SECOND


ENTRIES = (Intent.LONG_ENTRY, Intent.SHORT_ENTRY)
