"""Everything that goes wrong by a seed, message by message, until a chosen moment: each seed has a few kinds of trouble of its own, some of them often.

What was done to whom is kept in `spoiled`, for an oracle that must know how much patience is fair."""
import random
from typing import NamedTuple

from live_calm import Calm, Fate
from live_world import ACCOUNT, MS

from live_runner.gateway.wire import Reply
from live_runner.messages import Clear, Cured, Kill, Trouble
from mesbot.core import SECOND

KINDS = { # kind -> least and greatest chance
    "drop_request": (.02, .3), "drop_answer": (.02, .3), "late_request": (.02, .3), "late_answer": (.02, .4), "too_many": (.02, .3), "error_before": (.02, .2), "error_after": (.02, .2),
    "unsent": (.02, .3),                                                                                        # chances are requests that act
    "ask_fails": (.05, .5), "ask_late": (.05, .5), "ask_empty": (.05, .3),                                      # questions
    "lose": (.02, .5), "duplicate": (.05, .5), "late_news": (.05, .6),                                          # events of the account
    "user_down": (.002, .02), "market_down": (.002, .02), "sleep": (.002, .01), "skew": (.002, .01), "doubt": (.01, .1),  # seconds
    "flatten": (.001, .01), "trade": (.0005, .005), "lock": (.0005, .003), "halt": (.001, .01), "crash_idle": (.0003, .003),
    "kill": (.0005, .003), "trouble": (.002, .01),
    "crash": (.02, .2),                                                                                         # events with commands
}
VENUE = { # fault of the venue -> least and greatest chance
    "partial_fill": (.2, 1), "keep_legs": (.1, 1), "drop_stop": (.05, .5), "reject_stop": (.05, .5), "slip_stops": (.1, 1), "price_band": (.02, .2)}
LATE_S = 10.0   # nothing is later than this


class Spoiled(NamedTuple):
    "One thing that was done."
    at: int         # ns UTC
    kind: str
    seconds: float  # for how long


class Chaos(Calm):
    "A plan by its seed; `kinds` names the troubles, None lets the seed choose."
    crowded = True

    def __init__(self, seed: int, until: int, kinds: dict | None = None, share: float = .3):  # ns UTC; kind -> chance; of all kinds that a seed has
        self.seed, self.until, self.random, self.spoiled, self.on = seed, until, random.Random(seed), [], True
        draw = lambda table: {kind: low * (high / low) ** self.random.random() for kind, (low, high) in table.items() if self.random.random() < share}
        self.rates = draw(KINDS) | draw(VENUE) if kinds is None else kinds
        self._due, self._honest, self.last_hit = {}, True, 0   # what ends when, ns UTC

    def begin(self, world):
        super().begin(world)
        plan = [{"fault": kind, "probability": chance, **({"ticks": 3} if kind == "price_band" else {})} for kind, chance in self.rates.items() if kind in VENUE]
        world.faults.add(plan)
        if plan: self._spoil("venue", 0.0)

    # -- messages -------------------------------------------------------------------------------------------------------------------------------------------------

    def _hit(self, kind: str, seconds: float = 0.0) -> bool:
        hit = self.on and kind in self.rates and self.random.random() < self.rates[kind]
        if hit: self._spoil(kind, seconds)
        return hit

    def _spoil(self, kind: str, seconds: float):
        now = self.world.clock.now
        self.spoiled.append(Spoiled(now, kind, seconds))
        self.last_hit = max(self.last_hit, now + round(seconds * SECOND))

    def _span(self, most: float, least: float = .05) -> float: return least + (most - least) * self.random.random() ** 2

    def act(self, command) -> Fate:
        if not self.on: return Fate()
        late, lost = self._span(LATE_S), Reply(0, why="no answer within 10 s")
        if self._hit("unsent"): return Fate(0, False, Reply(0, why="no connection", sent=False), self._span(2))
        if self._hit("too_many"): return Fate(0, False, Reply(429, retry_after_s=self.random.choice((None, 1.0, 5.0))), self._span(.5))
        if self._hit("drop_request", late): return Fate(0, False, lost, late)
        if self._hit("drop_answer", late): return Fate(0, True, lost, late)
        if self._hit("error_before"): return Fate(0, False, Reply(502), self._span(2))
        if self._hit("error_after"): return Fate(0, True, Reply(502, why="not JSON"), self._span(2))
        if self._hit("late_request", late): return Fate(min(late, 4.0), True, self.random.choice((None, lost)), max(late - 4.0, 0))
        if self._hit("late_answer", late): return Fate(0, True, None, late)
        return Fate()

    def question(self, command) -> tuple:
        late = self._span(LATE_S)
        if self._hit("ask_fails", 1.0): return self._span(3), "/api/Order/search: HTTP 503, after 4 tries", ()
        self._honest = not (self._honest and self._hit("ask_empty", 1.0))   # never twice in a row: who lies for ever cannot be seen through
        empty = () if self._honest else (self.random.choice(("positions", "orders", "fills", "account")),)
        return late if self._hit("ask_late", late) else 0.0, "", empty

    def news(self, event: str) -> tuple:
        if self._hit("lose"): return ()
        late = self._span(LATE_S)
        first = late if self._hit("late_news", late) else 0.0
        return (first, self._span(LATE_S)) if self._hit("duplicate", LATE_S) else (first,)

    def crash(self, event, commands) -> str:
        if not self._hit("crash" if commands else "crash_idle", 20.0): return ""
        self._due["restart"] = self.world.clock.now + round(self._span(20, .5) * SECOND)
        return self.random.choice(("lost", "unsent", "half", "sent") if commands else ("lost", "sent"))

    # -- seconds --------------------------------------------------------------------------------------------------------------------------------------------------

    def second(self, end: int) -> str:
        if self.on and end >= self.until: self.stop()
        for name in [name for name, due in self._due.items() if due <= end]: self._over(name)
        if not self.on: return ""
        for kind in ("user_down", "market_down", "sleep", "skew", "halt", "lock", "trouble"):
            if kind not in self.rates or kind in self._due: continue
            seconds = self._span(20, 1)
            if self._hit(kind, seconds):
                self._due[kind] = end + round(seconds * SECOND)
                self._begin(kind)
        self._person()
        if self.world.venue.is_trading:
            if self._hit("flatten"): self.world.venue.flatten(ACCOUNT)
            if self._hit("trade"): self.world.stranger(self.random.choice((0, 1)), 1)
        return "the quotes are crossed" if self._hit("doubt") else "the clock is off" if self.world.skew_ns else ""

    def _person(self):
        "Somebody at the desk: kills now and then, and opens what was latched when he has looked at it for a while."
        world = self.world
        if world.core is None or world.asleep: return
        if self._hit("kill"): world.post(Kill(0, "a tester", "to see what happens"))
        if world.core.halted and self.random.random() < .04: world.post(Clear(0, "halt", "a tester", "looked at it"))

    def _begin(self, kind: str):
        world = self.world
        if kind in ("user_down", "market_down"): self._link(kind.split("_")[0], False)
        elif kind == "sleep": world.asleep = True
        elif kind == "skew": world.skew_ns = self.random.choice((-1, 1)) * round(self._span(3000, 100)) * MS
        elif kind == "halt": self._hours, world.venue.until = world.venue.until, 0
        elif kind == "trouble": world.post(Trouble(0, "journal", "the disk is full"))
        else: world.venue.lock(ACCOUNT, False)

    def _over(self, kind: str):
        del self._due[kind]
        world = self.world
        if kind in ("user_down", "market_down"): self._link(kind.split("_")[0], True)
        elif kind == "sleep": world.wake()
        elif kind == "skew": world.skew_ns = 0
        elif kind == "halt": world.venue.until = self._hours
        elif kind == "lock": world.venue.lock(ACCOUNT, True)
        elif kind == "trouble": world.post(Cured(0, "journal"))
        else: world.start(links=tuple(hub for hub in ("user", "market") if f"{hub}_down" not in self._due))

    def _link(self, hub: str, up: bool):
        if self.world.core is not None and self.world.links[hub] != up: self.world.link(hub, up, "the connection is lost")

    def stop(self):
        "From here on nothing goes wrong any more."
        self.on = False
        self.world.faults.clear()
        for name in sorted(self._due, key="restart".__ne__): self._over(name)

    @property
    def halted(self) -> bool: return "halt" in self._due
