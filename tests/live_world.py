"""The runner's core against the simulated venue in one thread: no sockets, no asyncio, no time but the market's.

What the runner's edges do is done here in a few lines each: the feed (seconds of prints), the executor (commands to the venue's own calls), the journal
(rows and snapshots, kept as text). A `Calm` world does what a good network does; `live_chaos.Chaos` spoils each message by a seed."""
import heapq
import json

import numpy as np
from live_calm import Calm, Foretold

from live_runner import messages
from live_runner.clock import isotime
from live_runner.gateway.answers import Account, Fill, Order, Position
from live_runner.gateway.events import AccountEvent, EventReader, FillEvent, OrderEvent, PositionEvent
from live_runner.gateway.rest import order_fields, outcome
from live_runner.gateway.wire import Reply
from live_runner.messages import AccountTold, Answered, Ask, Cancel, Close, FillTold, Link, Modify, NoSnapshot, OrderTold, Past, Place, PositionTold, Second, Snapshot, Started
from live_runner.protocol import ENDPOINTS
from live_runner.settings import RunnerSettings
from live_runner.simulator.clock import Clock
from live_runner.simulator.faults import Faults
from live_runner.simulator.replay import Replay
from live_runner.simulator.server import body_errors
from live_runner.simulator.settings import AccountSettings, VenueSettings
from live_runner.simulator.tape import Tape
from live_runner.simulator.venue import Venue
from mesbot.bars import BarStream
from mesbot.config import load_config
from mesbot.core import SECOND, instrument

MS, ACCOUNT, PREFIX = 10**6, 101, "m0a1b2"
TOLD = {OrderEvent: OrderTold, FillEvent: FillTold, PositionEvent: PositionTold, AccountEvent: AccountTold}
READS = {"account": "/api/Account/search", "positions": "/api/Position/searchOpen", "orders": "/api/Order/search", "fills": "/api/Trade/search"}
KINDS = {"account": Account, "positions": Position, "orders": Order, "fills": Fill}


class Emit:
    "Where tape and venue put their events."

    def __init__(self, user, market): self._user, self._market = user, market
    def listening(self, event, key) -> bool: return False

    def __call__(self, event, key, payload, action=None):
        if event.startswith("GatewayUser"): self._user(event, payload, action)
        else: self._market(event, key, payload)


class LiveWorld:
    "Venue, market and core, moved second by second with `run`; what the core is and was told stands in its attributes."

    def __init__(self,
        bars,                     # n one-second bars, played from the first on
        config=None,
        prediction=None,          # (n, 3) or a `Prediction`; None: nothing is ever foretold
        quotes=None,              # `Quotes` of n rows
        seed: int = 0,
        chaos: Calm | None = None,
        settings: RunnerSettings | None = None,
        core=None,                # core(setup, predictor, snapshot=None); None: the real one
        journal: bool = False,    # whether rows are kept as text, so that the core can crash and be replayed
        mode: str = "paper",
        account: dict = {},       # of `AccountSettings`
        check=None,               # check(world, event, commands) after every event
        **venue,                  # of `VenueSettings`
    ):
        if core is None: from live_runner.core import Core as core
        from live_runner.core import Setup
        self.config, self.bars, self.thing, self.seed = config or load_config(), bars, instrument(bars.symbol), seed
        self.chaos, self.settings, self.check, self.journal = chaos or Calm(), settings or RunnerSettings(), check or (lambda *_: None), journal
        costs, self.clock, self.faults = self.config.costs, Clock(), Faults(seed)
        self.tape = Tape(self.thing, bars, *(quotes or (None, None)))
        own = {"accounts": (AccountSettings(**{"balance": self.config.risk.start_balance_usd, "max_size": 1000} | account),), "config": self.config, "commission_usd": costs.commission_usd,
               "fees_usd": costs.fees_usd, "latency_s": self.config.trader.latency_s, "hours": "exchange"}
        emit = Emit(self._on_user, self._on_market)
        self.venue = Venue(self.clock, self.thing, self.tape.contract, VenueSettings(**own | venue), emit, self.faults, None, self.tape.contracts)
        self.replay = Replay(self.tape, self.clock, self.venue, emit, "lockstep")
        self.account = self.venue.accounts[ACCOUNT]
        self.predictor = Foretold(bars.ts, np.full((len(bars.ts), 3), np.nan) if prediction is None else prediction)
        self.setup = Setup(self.config, bars.symbol, ACCOUNT, self.tape.contract, PREFIX, self.settings, mode)
        self._make, self._stream, self._inbox, self._count, self.life = core, BarStream(bars.symbol), [], 0, 0
        self._reader = EventReader("user", 1)
        self.quote, self.links, self.asleep, self.skew_ns, self.late = (0, 0), {"user": False, "market": False}, False, 0, []
        self.core, self.sent, self.said, self.requests, self.told, self.dropped = None, [], [], [], 0, 0
        self.runs, self._kept, self._kept_rows, self._kept_at, self.foreign = [], None, 0, 0, 0
        self.chaos.begin(self)

    # -- the runner's life ----------------------------------------------------------------------------------------------------------------------------------

    def start(self, why: str = "", links: tuple = ("user", "market")):
        "The core begins, from what the journal kept, with today's bars so far."
        self.core, self.life = self._make(self.setup, self.predictor, self._kept), self.life + 1
        self.runs.append((self._kept, []))
        self._kept_rows, self.asleep, self.late, self.quiet_since = 0, False, [], self.clock.now
        self.tell(Started(self.clock.now, why))
        self.tell(self._past())
        for hub in links: self.link(hub, True)
        self._stream = BarStream(self.bars.symbol)
        self._stream.advance(self.clock.now)
        self.deliver()

    def crash(self):
        "kill -9: whatever was not committed is gone, and all that is said to it meanwhile."
        snapshot, rows = self.runs[-1]
        del rows[self._kept_rows:]
        self.core, self._inbox, self.links = None, [], {"user": False, "market": False}
        self._kept = self._walked(snapshot, rows).snapshot() if rows else snapshot
        again = self._make(self.setup, self.predictor, self._kept).snapshot() if self._kept else None
        assert again == self._kept and len(again or b"") <= 20_480, "a snapshot must come back as it was, in 20 KB"

    def _past(self) -> Past:
        bars, now, session = self.bars, self.clock.now, self.replay.session
        first = 0 if session is None else int(bars.sessions[session])
        own = slice(first, max(first, int(np.searchsorted(bars.ts, now - SECOND, "right"))) if session is not None else first)
        return Past(now, bars.ts[own], np.column_stack([column[own] for column in bars[1:5]]).astype(np.int32), bars.volume[own])

    def link(self, hub: str, up: bool, why: str = ""):
        "A hub comes or goes."
        self.links[hub] = up
        self.post(Link(0, hub, up, why))

    # -- time ------------------------------------------------------------------------------------------------------------------------------------------------

    def run(self, until: int | None = None):
        "The market goes on to this moment, ns UTC, or to its end; the core is started when it is not yet."
        if not self.life: self.start()
        while not self.replay.ended and (until is None or self.clock.now < until): self.second()
        return self

    def skip_to(self, ts: int):
        "The market goes on to this moment, ns UTC, without a runner."
        self.replay._advance(ts)
        return self

    def run_s(self, seconds: float): return self.run(self.clock.now + round(seconds * SECOND))

    def second(self):
        "One more second of the market."
        start = self.clock.now // SECOND * SECOND
        end = start + SECOND
        if self.clock.now == start: self.replay._advance(start)
        bid, ask = self.quote
        for lag in (300, 600) if self.chaos.crowded else (300,) if self.venue.working else ():
            self.replay._advance(max(start + lag * MS, self.clock.now))
            self.deliver()
        self.replay._advance(max(end, self.clock.now))
        bar, doubt = self._stream.advance(end), self.chaos.second(end)
        self.deliver()
        if self.core is None: return
        event = Second(end, bar, bid, ask, doubt)
        if self.asleep: self.late.append(event._replace(doubt="it came late"))
        else:
            self.tell(event)
            if self._inbox: self.deliver()

    def wake(self):
        "Whatever came while it slept is told at once."
        self.asleep, late, self.late = False, self.late, []
        self.deliver()
        for event in late: self.tell(event)

    # -- what the core is told -------------------------------------------------------------------------------------------------------------------------------

    def post(self, event, delay_s: float = 0.0):
        "Told when so much time of the market has passed."
        self._count += 1
        heapq.heappush(self._inbox, (self.clock.now + round(delay_s * SECOND), self._count, self.life, event))

    def deliver(self):
        "All that is due; a runner that answers each event with another one is stopped."
        for _ in range(2000):
            if self.asleep or self.core is None or not self._inbox or self._inbox[0][0] > self.clock.now: return
            _, _, life, event = heapq.heappop(self._inbox)
            if life == self.life: self.tell(event._replace(at=self.clock.now + self.skew_ns))
        raise AssertionError("events without end at one moment")

    def tell(self, event):
        "One event through the core; its commands go out when they are durable."
        if self.core is None: return
        if isinstance(event, Second) and event.bar: self.predictor.at(event.bar[0])
        asked, self.told = self.predictor.asked, self.told + 1
        commands = self.core.step(event)
        assert self.predictor.asked - asked <= isinstance(event, Second), f"asked {self.predictor.asked - asked} times at {event!r:.200}"
        fate = self.chaos.crash(event, commands)
        if self.journal: self._write(event, commands, fate != "lost")
        if fate in ("lost", "unsent"): return self.crash()
        for k, command in enumerate(sorted(commands, key=lambda c: not getattr(c, "exit", False))):
            if fate == "half" and k == len(commands) // 2: return self.crash()
            self.do(command)
        if fate == "sent": return self.crash()
        self.check(self, event, commands)

    def _write(self, event, commands: list, commit: bool):
        "Rows as text; a second without commands waits for the next one. What the snapshot would be is worked out when it is needed."
        rows = self.runs[-1][1]
        rows += [messages.to_json(message) for message in (event, *commands)]
        if not commit or not commands and isinstance(event, Second) and self.clock.now < self._kept_at + 10 * SECOND: return
        self._kept_rows, self._kept_at = len(rows), self.clock.now

    def _walked(self, snapshot: bytes | None, rows: list, number: int = 0):
        "A fresh core after these rows: AssertionError at the first command that differs."
        core, wanted = self._make(self.setup, self.predictor, snapshot), []
        for place, text in enumerate(rows):
            message = messages.from_json(text)
            if isinstance(message, messages.COMMANDS):
                want = wanted.pop(0) if wanted else None
                assert want == text, f"I10: run {number}, row {place}: {text} was {want}"
                continue
            assert not wanted, f"I10: run {number}, row {place}: one command more: {wanted[0]}"
            if isinstance(message, Second) and message.bar: self.predictor.at(message.bar[0])
            wanted = [messages.to_json(command) for command in core.step(message)]
        return core

    def replayed(self):
        "I10: the journal once more, through fresh cores; the last one ends as the one that lived."
        for number, (snapshot, rows) in enumerate(self.runs): core = self._walked(snapshot, rows, number)
        if self.core is not None: assert core.snapshot() == self.core.snapshot(), "the replayed core ends in another state"

    # -- the hubs -----------------------------------------------------------------------------------------------------------------------------------------------

    def _on_user(self, event: str, payload: dict, action: int | None):
        if not self.links["user"]:
            self.dropped += 1
            return
        said = {"action": 1 if action is None else action, "data": {name: value for name, value in payload.items() if value is not None}}
        record, copies = self._reader.read(event, [said]), self.chaos.news(event)
        if not copies: self.dropped += 1
        for delay in copies: self.post(TOLD[type(record)](0, record[1]), delay)

    def _on_market(self, event: str, key: str, payload):
        "Prints and best prices; reading them off the wire is `feed.py`'s own test, and half of the time of a quiet second."
        if not self.links["market"]: return
        to_ticks, now, update = self._to_ticks, self.clock.now, self._stream.update
        if event == "GatewayTrade":
            for row in payload: update(now, to_ticks(row["price"]), row["volume"])
        elif "bestBid" in payload or "bestAsk" in payload:
            bid, ask = self.quote
            self.quote = to_ticks(payload.get("bestBid", bid * self.thing.tick)), to_ticks(payload.get("bestAsk", ask * self.thing.tick))

    def _to_ticks(self, points: float) -> int: return round(points / self.thing.tick)

    # -- the executor --------------------------------------------------------------------------------------------------------------------------------------------

    def do(self, command):
        "A command on its way."
        match command:
            case Place(order=order):
                assert order.account == ACCOUNT and order.contract == self.tape.contract
                self._act(command, "/api/Order/place", order_fields(order), order.tag)
            case Modify():
                changes = {"size": command.size, "stopPrice": command.stop}
                self._act(command, "/api/Order/modify", {"orderId": command.order_id} | {name: value for name, value in changes.items() if value is not None})
            case Cancel(): self._act(command, "/api/Order/cancel", {"orderId": command.order_id})
            case Close(): self._act(command, "/api/Position/closeContract", {"contractId": self.tape.contract})
            case Ask(): self._ask(command)
            case _: self.said.append((self.clock.now, command))

    def _act(self, command, path: str, body: dict, tag: str | None = None):
        body = json.loads(json.dumps({"accountId": ACCOUNT} | body))
        assert not (wrong := body_errors(ENDPOINTS[path].required, ENDPOINTS[path].optional, body)), wrong
        fate, life = self.chaos.act(command), self.life
        self.sent.append((self.clock.now, command))
        self.requests.append(self.clock.now)

        def arrive():
            answer = self.venue.answer(path, body) if fate.done else None
            reply = fate.reply or Reply(200, json.loads(json.dumps(answer)))
            if life == self.life and self.core is not None: self.post(Answered(0, command.id, outcome(path, reply, tag)), fate.after_s)
        if fate.before_s: self.clock.at(self.clock.now + round(fate.before_s * SECOND), arrive)
        else: arrive()

    def _ask(self, command: Ask):
        late_s, why, empty = self.chaos.question(command)
        self.sent.append((self.clock.now, command))
        self.requests += [self.clock.now] * 4
        if why: return self.post(NoSnapshot(0, command.id, why), late_s)
        since, read = isotime(command.since), {}
        bodies = {"account": {"onlyActiveAccounts": False}, "positions": {}, "orders": {"startTimestamp": since}, "fills": {"startTimestamp": since}}
        for name, path in READS.items():
            answer = json.loads(json.dumps(self.venue.answer(path, {"accountId": ACCOUNT} | bodies[name])))
            rows = [] if name in empty else answer[ENDPOINTS[path].payload]
            read[name] = tuple(map(KINDS[name].of, rows))
        fills = tuple(sorted(read["fills"], key=lambda fill: (fill.ts, fill.id)))
        self.post(Snapshot(0, command.id, self.clock.now, read["account"][0] if read["account"] else None, read["positions"], read["orders"], fills), late_s)

    def stranger(self, side: int, size: int):
        "Somebody else's order in the account."
        self.foreign += size
        self.venue.trade(ACCOUNT, side, size)

    # -- the truth ---------------------------------------------------------------------------------------------------------------------------------------------------

    @property
    def position(self) -> int:
        "Contracts the venue holds, with a sign."
        held = self.account.positions.get(self.tape.contract)
        return held.side * held.size if held else 0

    @property
    def places(self) -> list:
        "(ns UTC, Place) of every order that was sent."
        return [(at, command) for at, command in self.sent if isinstance(command, Place)]

    def fills(self) -> list:
        "Every fill of the account as the gateway's record, oldest first."
        return [Fill.of(row) for _, row in self.account.fills]

    def notes(self, kind: str) -> list: return [said.text for _, said in self.said if isinstance(said, messages.Note) and said.kind == kind]

    def alerts(self) -> list: return [said for _, said in self.said if isinstance(said, messages.Alert)]
