"Everything that can be made to go wrong on purpose, by a plan that gives the same faults again for the same seed."
import math
import random
from typing import NamedTuple

from ..protocol import ENDPOINTS, MARKET_EVENTS, PING, USER_EVENTS

FILTERS = {"path": (*ENDPOINTS, PING), "event": (*USER_EVENTS, *MARKET_EVENTS), "hub": ("user", "market")}


class Number(NamedTuple):
    "A number of a fault: what it is when left out, and between what it must lie."
    default: float | None
    low: float
    high: float
    whole: bool = False  # True: an int


class Fault(NamedTuple):
    "What a fault does, which filters narrow it, what it can be told."
    text: str
    filters: tuple = ()
    numbers: dict = {}   # name -> Number, or a str/None default for a text
    chance: str = ""     # what counts as one chance


_REST, _EVENT, _HUB = ("path",), ("event", "hub"), ("hub",)
_DELAY = {"delay_s": Number(1.0, 0, 3600)}
_A_REQUEST, _AN_EVENT, _A_PING, _A_CONNECT = "a request", "an event with at least one subscriber", "a ping that is due to one connection", "a negotiation or an upgrade"

FAULTS = {
    # REST; before = the venue has not seen the request, after = it has done it and only the answer suffers
    "unauthorized": Fault("401 with an empty body; nothing done", _REST, {}, _A_REQUEST),
    "too_many": Fault("429, with a Retry-After header if retry_after_s is given; nothing done", _REST, {"retry_after_s": Number(None, 0, 3600)}, _A_REQUEST),
    "error_before": Fault("a 5xx; nothing done", _REST, {"status": Number(500, 500, 599, True)}, _A_REQUEST),
    "error_after": Fault("a 5xx although it is done", _REST, {"status": Number(500, 500, 599, True)}, _A_REQUEST),
    "cut_before": Fault("TCP reset without an answer; nothing done", _REST, {}, _A_REQUEST),
    "cut_after": Fault("TCP reset without an answer although it is done", _REST, {}, _A_REQUEST),
    "delay_before": Fault("waits delay_s wall seconds, then does it and answers", _REST, _DELAY, _A_REQUEST),
    "delay_after": Fault("does it, waits delay_s wall seconds, then answers", _REST, _DELAY, _A_REQUEST),
    "html_body": Fault("does it and answers with an HTML page", _REST, {"status": Number(200, 200, 599, True)}, _A_REQUEST),
    "bad_json": Fault("does it and answers with half of the JSON", _REST, {}, _A_REQUEST),
    "refuse": Fault("200 with success false, this code and message; nothing done", _REST, {"code": Number(1, 1, 999, True), "message": None}, _A_REQUEST),
    "empty": Fault("a read of a list answers success with an empty list", _REST, {}, "a request for a list"),
    # hubs; hit are all connections that subscribed to the event
    "close_error": Fault("the event, then type 7 'Connection closed with an error.' and the socket is closed", _EVENT, {}, _AN_EVENT),
    "reset": Fault("TCP reset; the event and what else is on its way may be lost", _EVENT, {}, _AN_EVENT),
    "half_open": Fault("the socket stays open and silent for ever, from before this event: nothing sent, nothing heard", _EVENT, {}, _AN_EVENT),
    "logout": Fault("the event, then GatewayLogout on every connection of both hubs", _EVENT, {}, _AN_EVENT),
    "no_pings": Fault("this ping is not sent", _HUB, {}, _A_PING),
    "refuse_connect": Fault("the connection is refused with this status", _HUB, {"status": Number(503, 400, 599, True)}, _A_CONNECT),
    "lose": Fault("the event is not sent", _EVENT, {}, _AN_EVENT),
    "duplicate": Fault("the event is sent twice", _EVENT, {}, _AN_EVENT),
    "reorder": Fault("the event goes after the next one of its hub, or after delay_s market seconds", _EVENT, _DELAY, _AN_EVENT),
    "delay": Fault("the event goes delay_s market seconds late; later ones overtake it", _EVENT, _DELAY, _AN_EVENT),
    # the venue
    "partial_fill": Fault("only this share of what is left is filled, at least one contract", (), {"share": Number(0.5, 0, 1)}, "a fill of more than one contract"),
    "keep_legs": Fault("the legs stay working when their position is closed", (), {}, "a position closed with legs left"),
    "slip_stops": Fault("a stop fills this many ticks worse", (), {"ticks": Number(2, 0, 1000, True)}, "a fill of a stop"),
    "drop_stop": Fault("a stop is accepted and then does not exist", (), {}, "a stop order or stop leg accepted"),
    "reject_stop": Fault("a stop leg is rejected when its entry fills", (), {}, "a stop leg becoming active"),
    "halt": Fault("the instrument is not in an active trading status: orders are rejected", (), {}, "an order placed"),
    "price_band": Fault("prices further than this from the last print are outside the allowed range", (), {"ticks": Number(0, 0, 100_000, True)}, "an order placed or modified with a price"),
}
_COMMON = {"probability": Number(1.0, 0, 1), "after": Number(0, 0, 10**9, True), "count": Number(None, 1, 10**9, True)}


def _checked(name: str, field: str, kind, value):
    "The value, or ValueError naming fault, field and value."
    if not isinstance(kind, Number):
        if value is None or isinstance(value, str): return value
        raise ValueError(f"fault {name!r}: {field} must be text or null, got {value!r}")
    if value is None and kind.default is None: return None
    good = isinstance(value, int if kind.whole else (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if good and kind.low <= value <= kind.high: return value
    raise ValueError(f"fault {name!r}: {field} must be {'a whole number' if kind.whole else 'a number'} from {kind.low} to {kind.high}, got {value!r}")


def checked_rule(rule: dict) -> dict:
    "The rule with every number it can have; ValueError names an unknown fault or field, or a number out of range."
    if not isinstance(rule, dict): raise ValueError(f"a fault is an object such as {{\"fault\": \"lose\"}}, got {rule!r}")
    name = rule.get("fault")
    if name not in FAULTS: raise ValueError(f"unknown fault {name!r}; known: {', '.join(FAULTS)}")
    fault = FAULTS[name]
    kinds = {**_COMMON, **fault.numbers}
    for field in rule:
        if field != "fault" and field not in kinds and field not in fault.filters:
            raise ValueError(f"fault {name!r} has no {field!r}; it takes {', '.join([*fault.filters, *kinds])}")
    for field in fault.filters:
        if rule.get(field) is not None and rule[field] not in FILTERS[field]:
            raise ValueError(f"fault {name!r}: unknown {field} {rule[field]!r}; known: {', '.join(FILTERS[field])}")
    defaults = {field: kind.default if isinstance(kind, Number) else kind for field, kind in kinds.items()}
    numbers = {field: _checked(name, field, kinds[field], rule[field]) if field in rule else default for field, default in defaults.items()}
    return {"fault": name, **{field: rule.get(field) for field in fault.filters}, **numbers}


class Faults:
    "A plan of faults. Whether a rule hits depends on nothing but the seed, its place in the plan and how many chances it has had."

    def __init__(self, seed: int = 0, plan=()):
        self.seed, self.active = seed, False  # active: False = no rule at all, for callers in a hurry
        self._rules, self._chances, self._hits = [], [], []
        self.add(plan)

    def add(self, plan):
        "Append these rules to the plan: all of them, or none and ValueError when one is wrong."
        rules = [checked_rule(rule) for rule in plan]
        self._rules += rules
        self._chances += [0] * len(rules)
        self._hits += [0] * len(rules)
        self.active = bool(self._rules)

    def clear(self):
        "No fault any more; chances are counted afresh."
        self._rules, self._chances, self._hits, self.active = [], [], [], False

    def hit(self, name: str, **where) -> dict | None:
        "The first rule that strikes here, with all its numbers, or None; `where` is matched against the rule's filters."
        if not self.active: return None
        for i, rule in enumerate(self._rules):
            if rule["fault"] != name or any(rule.get(field) is not None and rule[field] != value for field, value in where.items()): continue
            self._chances[i] += 1
            if self._chances[i] <= rule["after"] or (rule["count"] is not None and self._hits[i] >= rule["count"]): continue
            if rule["probability"] < 1 and random.Random(f"{self.seed}/{i}/{self._chances[i]}").random() >= rule["probability"]: continue
            self._hits[i] += 1
            return rule
        return None

    def report(self) -> list[dict]:
        "The plan as it stands, each rule with its chances and hits so far."
        return [{**rule, "chances": c, "hits": h} for rule, c, h in zip(self._rules, self._chances, self._hits)]


def table() -> dict:
    "FAULTS as JSON can carry it: what each does, its filters, its numbers with default, low and high."
    return {name: {"does": fault.text, "filters": list(fault.filters), "chance": fault.chance,
                   "numbers": {n: k._asdict() if isinstance(k, Number) else k for n, k in fault.numbers.items()}} for name, fault in FAULTS.items()}
