"""An intent to enter, as orders: one bracket for each part of the position that has a target of its own, so that every contract has its own stop at the venue from its first fill on."""
from dataclasses import dataclass, field

from mesbot.config import Config
from mesbot.core import Intent
from mesbot.stops import in_ratio

from .problems import FixTheConfig

MIN_LEG_TICKS = 4  # nearer to the entry the venue takes no leg


@dataclass
class Plan:
    "What was decided when the intent was made; kept until its last order is over."
    no: int             # of the intent, counted for ever
    side: int           # 1 long, -1 short
    width: int          # of the stop, ticks
    confidence: float
    row: int            # bar of the decision, counted over all bars ever seen
    reason: int         # mesbot.core.Reason
    limit: int          # price of the entry, ticks; 0: at market
    at: int             # ns UTC
    lots: list = field(default_factory=list)  # [contracts, ticks to where it leaves, profit level it leaves at or 0 for the target] of each part
    reverse: bool = False   # the position before it is left first
    sent: bool = False      # its orders have gone out
    filled: bool = False    # a part of it was filled
    dropped: str = ""       # why it is given up; "": it is not

    @property
    def contracts(self) -> int: return sum(size for size, _, _ in self.lots)


def plan_of(
    state,       # STATE with an entry or a reversal for intent
    no: int,     # of the plan
    rules,       # RULES
) -> Plan:
    "The orders that the intent means."
    intent, reverse = int(state.intent), int(state.intent) == Intent.REVERSE
    side = -int(state.side) if reverse else 1 if intent == Intent.LONG_ENTRY else -1
    width = int(state.intent_stop)
    return Plan(no, side, width, float(state.intent_confidence), int(state.intent_row), int(state.intent_reason), int(state.intent_limit), int(state.intent_at),
                lots_of(int(state.intent_contracts), width, rules.stops), reverse)


def lots_of(
    contracts: int,
    width: int, # of the stop, ticks
    rules,      # STOPS
) -> list: # [contracts, ticks, level] of each part, the nearest first
    "The parts of a position that leave at the profit levels, and the rest at the target: as `stops.level_contracts` and `stops.level_price` have it."
    target, gone, lots = int(in_ratio(rules.target, width, rules)), 0, []
    for k in range(int(rules.levels)):
        by_then = min(int(rules.level_shares[k] * contracts + 1e-9), contracts)
        ticks = max(1, min(int(in_ratio(rules.level_ticks[k], width, rules)), target - 1))
        if by_then > gone: lots.append([by_then - gone, ticks, k + 1])
        gone = max(gone, by_then)
    return lots + ([[contracts - gone, target, 0]] if contracts > gone else [])


def check_tradable(
    config: Config,
) -> None:
    "FixTheConfig for settings that can be back-tested and cannot be traded."
    s = config.stops
    if config.fills.mode == "signal_close": raise FixTheConfig("fills.mode signal_close cannot be traded: nobody fills at the close that gave the signal")
    least = s.stop_ticks if s.kind == "fixed" else s.min_stop_ticks
    if least < MIN_LEG_TICKS: raise FixTheConfig(f"the venue takes no stop nearer than {MIN_LEG_TICKS} ticks, stops.{'stop_ticks' if s.kind == 'fixed' else 'min_stop_ticks'} is {least}")
    nearest = min((s.target_ticks, *s.level_ticks)) * least / s.stop_ticks
    if nearest < MIN_LEG_TICKS: raise FixTheConfig(f"the venue takes no target or profit level nearer than {MIN_LEG_TICKS} ticks, the nearest of stops can be {nearest:g}")
