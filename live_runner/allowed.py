"May a position be opened now? What the runner itself has against it, in words; the rules of trading have their say in `mesbot.entries`."
from mesbot.core import SECOND

from .book import ENTRY


def unfit(c) -> list: # of texts
    "Why nothing that opens a position may be sent at all, decided or not."
    said = [f"halted: {c.halted}"] if c.halted else []
    if c.quitting: said.append("the runner ends")
    said += [f"{what}: {why}" for what, why in c.troubles.items()]
    said += [f"{hub} hub: {why}" for hub, why in c.links.items() if why]
    if not c.reconciled: said.append("not yet as the venue has it")
    if any(own.unknown for own in c.book.working()) or c.waiting: said.append("an answer is missing")
    return said


def blocked(c) -> list: # of texts
    "Why no entry may be decided now; empty: one may."
    said = unfit(c)
    if c.doubt: said.append(c.doubt)
    if c.plan is None and c.book.working(None if c.desk.held == 0 else ENTRY): said.append("an order of before still works")
    if c.closing is not None and c.plan is None: said.append("a position is being closed")
    if c.book.foreign: said.append("somebody else's order works in the account")
    if c.now < c.pause_until: said.append(c.pause_why)
    return said


def too_many(c, more: int) -> str:
    "Why so many more entry orders would be a loop gone wild; empty when they are not, and then they are counted."
    s, recent = c.settings, [at for at in c.entries if at > c.now - 60 * SECOND]
    if len(recent) + more > s.orders_a_minute: return f"{len(recent) + more} entries within a minute, {s.orders_a_minute} are allowed"
    if c.entered + more > s.entries_a_day: return f"{c.entered + more} entries on one day, {s.entries_a_day} are allowed"
    c.entries, c.entered = recent + [c.now] * more, c.entered + more
    return ""
