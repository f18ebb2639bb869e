"What of the core survives a restart, and what a person is shown of it."
import base64
import json
import zlib
from bisect import bisect_right

import numpy as np

from mesbot.calendar import ny_time
from mesbot.core import REASONS, Reason, new_state
from mesbot.keeper import limits_left

from .book import Book
from .orders import Closing
from .plan import Plan

LAYOUT = 3
KEPT = ("now", "number", "plans_made", "position_plan", "halted", "offset", "flat_told", "entries", "entered", "price", "bid", "ask_", "strange", "refused", "foreign_told", "closing_orders")


def save(core) -> bytes:
    "A few kilobytes: the account's record, today's lots and what was seen at their entries, orders and fills, latches. The larger part, of trades that are over, is packed once: no entry waits for it."
    (raw, lots, unpriced), rows = core.desk.plain(), sorted(core.seen)
    over = bisect_right(rows, int(core.lots["row"][-1])) if len(core.lots) else 0
    features = lambda some: b"".join(core.seen[row].tobytes() for row in some)
    if core.packed[:2] != (lots, over): core.packed = lots, over, zlib.compress(lots + features(rows[:over]), 1)
    said = {name: getattr(core, name) for name in KEPT} | {"layout": LAYOUT, "account": core.setup.account, "book": core.book.plain(), "unpriced": unpriced, "state": base64.b64encode(raw).decode(),
            "lots": len(lots), "rows": rows, "ahead": base64.b64encode(features(rows[over:])).decode(),
            "plan": core.plan.no if core.plan else 0, "plans": [vars(plan) for plan in core.plans.values()], "closing": vars(core.closing) if core.closing else None}
    small = json.dumps(said, sort_keys=True, separators=(",", ":"), default=int).encode()
    body = len(small).to_bytes(4, "big") + small + core.packed[2]
    return zlib.crc32(body).to_bytes(4, "big") + body


def restore(core, snapshot: bytes) -> None:
    "What `save` gave; ValueError for a damaged one, or one of another layout or account."
    end = 8 + int.from_bytes(snapshot[4:8], "big")
    if zlib.crc32(snapshot[4:]) != int.from_bytes(snapshot[:4], "big") or len(snapshot) < 9: raise ValueError("the snapshot is damaged, or of an older version")
    said, day = json.loads(snapshot[8:end]), zlib.decompress(snapshot[end:])
    mine = {"layout": LAYOUT, "account": core.setup.account}
    if any(said.get(name) != value for name, value in mine.items()): raise ValueError(f"the snapshot is of layout {said.get('layout')} and account {said.get('account')}, this is {mine}")
    for name in KEPT: setattr(core, name, said[name])
    core.desk.restore(base64.b64decode(said["state"]), day[:said["lots"]], said["unpriced"])
    core.book = Book.again(said["book"])
    features = np.frombuffer(day[said["lots"]:] + base64.b64decode(said["ahead"]), np.float32)
    core.seen = dict(zip(said["rows"], features.reshape(len(said["rows"]), -1).copy())) if said["rows"] else {}
    core.plans = {plan["no"]: Plan(**plan) for plan in said["plans"]}
    core.plan, core.closing = core.plans.get(said["plan"]), Closing(**said["closing"]) if said["closing"] else None


def status(core) -> dict:
    "For a person's eyes, as JSON can carry it; prices in points."
    state, points, net, held = core.desk.state, core.points, core.desk.lots["net_usd"], core.desk.held
    price = lambda ticks: points(int(ticks)) if ticks else None
    open_usd = float(held * (core.price - state.entry) * core.rules.costs.tick_usd) if held else 0.0
    clocks = ny_time(np.array([at for at, _ in core.decisions], np.int64)).strftime("%H:%M:%S")
    said = [{"at_ns": at, "at": clock, "text": text} for (at, text), clock in zip(core.decisions, clocks)]
    return {"at_ns": core.now, "mode": core.setup.mode, "account": core.setup.account, "contract": core.setup.contract, "date": str(core.market.date or ""),
            "price": price(core.price), "bid": price(core.bid), "ask": price(core.ask_), "position": held, **{name: points(int(state[name])) if held else None for name in ("entry", "stop", "target")},
            "open_usd": open_usd, "day_net_usd": float(state.balance + open_usd - state.day_start_equity), "balance_usd": float(state.balance),
            "trades": len(net), "wins": int((net > 0).sum()), "losses": int((net < 0).sum()), "limits_left": limits_left(state, core.rules.risk),
            "limits": limits_left(new_state(float(core.rules.risk.start_balance)), core.rules.risk), "refused": core.last_refusal,
            "decision": said[-1] if said else None, "decisions": said, "blocked": core.blocked(), "halted": core.halted, "troubles": [f"{what}: {why}" for what, why in core.troubles.items()],
            "orders": [{"tag": own.tag, "role": own.role, "status": int(own.status), "size": own.size, "stop": price(own.stop), "limit": price(own.limit)} for own in core.book.working()],
            "reconciled": core.reconciled, "links": dict(core.links), "signals": core.refused[Reason.SIGNAL],
            "refusals": {name: count for name, count in zip(REASONS, core.refused) if count and name not in ("none", "signal")}}
