"One screen of the runner's status, 100 by 32: what a trader must know at a glance, for any state the runner can be in."
from datetime import datetime

from rich.console import Group
from rich.layout import Layout
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from mesbot.calendar import NY
from mesbot.core import INSTRUMENTS

from .protocol import OrderStatus

WIDTH, HEIGHT = 100, 32
LEFT, LADDER, BAR = 52, 48, 9  # characters: the left column, what fits into it, a bar
LIMITS = {  # keys of `limits_left` in words
    "day_loss_usd": "day's loss", "day_drawdown_usd": "fall from day's best", "total_loss_usd": "total loss", "review_drawdown_usd": "fall before review",
    "min_balance_usd": "above least balance", "trailing_loss_usd": "trailing loss", "profit_target_usd": "to profit target", "day_profit_usd": "to day's most profit", "loss_streak": "losses in a row",
}
LATENCIES = {  # names of `metrics.NAMES`, short
    "bar_to_wire_s": "bar closed to order out", "order_round_trip_s": "order answered",
    "event_lag_s": "venue event under way", "step_s": "decision", "inference_s": "prediction in it", "commit_s": "journal written",
}
GOALS = "profit_target_usd", "day_profit_usd"  # limits that are reached by earning
MODES = {"live": "bold white on red", "observe": "bold white on magenta", "paper": "bold white on blue"}


def screen(
    status: dict,       # of /status
    stale_s: float = 0, # seconds since it was read, when the runner does not answer any more
    height: int = HEIGHT,
) -> Layout:
    "The whole screen."
    limits = max(6, len(status.get("limits_left") or ()))
    page, top, middle, bottom = Layout(), Layout(size=7), Layout(size=limits + 2), Layout(size=len(LATENCIES) + 2)
    page.split_column(Layout(_header(status), size=1), top, middle, Layout(_decisions(status, height - limits - 21), minimum_size=3), bottom, Layout(_footer(status, stale_s), size=1))
    top.split_row(Layout(_position(status), size=LEFT), Layout(_today(status)))
    middle.split_row(Layout(_entries(status, limits), size=LEFT), Layout(_limits(status)))
    bottom.split_row(Layout(_orders(status), size=LEFT), Layout(_latency(status)))
    return page


def _header(status: dict) -> Table:
    "Who, where, when, and in one word how it stands."
    word, style = _standing(status)
    mode, line = str(status.get("mode") or "?"), Table.grid(expand=True)
    line.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
    line.add_column(no_wrap=True)
    line.add_row(Text.assemble((f" {mode.upper()} ", MODES.get(mode, "reverse")), (f" {_symbol(status)} ", "bold"), (" account ", "dim"), f"{status.get('account')}   ",
                               (_time(status.get("at_ns"), "%a %Y-%m-%d %H:%M:%S New York"), "bold")), Text(f" {word} ", style))
    return line


def _standing(status: dict) -> tuple[str, str]:
    if status.get("halted"): return "HALTED", "bold white on red"
    if status.get("position"): return "IN A POSITION", "black on cyan"
    if _against(status): return "NO ENTRIES", "black on yellow"
    return "READY", "black on green"


def _against(status: dict) -> list[str]:
    "Why nothing may be entered, by the state of things and by the rules."
    return [text for text in (*(status.get("blocked") or ()), status.get("refused")) if text]


def _position(status: dict) -> Panel:
    "Price, and what is held between its stop and its target."
    bid, ask, held = status.get("bid"), status.get("ask"), status.get("position") or 0
    price = Text.assemble((_points(status.get("price")), "bold"), ("  bid ", "dim"), _points(bid), (" ask ", "dim"), _points(ask), (" spread ", "dim"),
                          _points(ask - bid) if bid and ask else "-")
    rest = "orders are at the venue: see below" if status.get("orders") else "nothing held, nothing at risk"
    if not held: return _panel("Price and position", Group(price, "", Text("FLAT", "bold"), Text(rest, "dim")))
    side, contracts, usd = "LONG" if held > 0 else "SHORT", abs(held), status.get("open_usd")
    what = Text.assemble((f"{side} {contracts}", "bold green" if held > 0 else "bold red"), f" from {_points(status.get('entry'))}", ("   open P&L ", "dim"), _usd(usd, "bold"))
    return _panel("Price and position", Group(price, "", what, *_ladder(status, held)))


def _ladder(status: dict, held: int) -> list[Text]:
    "The stop on the left, the target on the right whichever side it is, and the price between them."
    stop, target, entry, price = (status.get(name) for name in ("stop", "target", "entry", "price"))
    if not any(one["role"] == "stop" for one in status.get("orders") or ()):
        return [Text(" NO STOP RESTS AT THE VENUE ", "bold white on red"), Text(f"wanted: stop {_points(stop)}, target {_points(target)}", "dim")]
    words = Text.assemble("stop ", (_points(stop), "bold"), ("" if stop is None else f" ({_at(status, held, stop)})", "dim"))
    if None in (stop, target, price, entry) or target == stop: return [words, Text("no target", "dim")]
    place = [min(LADDER - 1, max(0, round((level - stop) / (target - stop) * (LADDER - 1)))) for level in (entry, price)]
    marks, (low, high) = ["─"] * LADDER, sorted(place)
    marks[low:high + 1] = ["━"] * (high - low + 1)
    marks[0], marks[-1] = "├", "┤"
    marks[place[0]], marks[place[1]] = "┼", "●"
    line, style = Text("".join(marks), "dim"), "bold green" if held * (price - entry) >= 0 else "bold red"
    line.stylize(style, low, high + 1)
    right = Text.assemble("target ", (_points(target), "bold"), (f" ({_at(status, held, target)})", "dim"))
    return [line, words.append(" " * max(1, LADDER - words.cell_len - right.cell_len)).append_text(right)]


def _at(status: dict, held: int, level: float) -> str:
    "What a fill there makes of the position, before fees."
    what, entry = INSTRUMENTS.get(_symbol(status)), status.get("entry")
    return f"{(level - entry) / what.tick * what.tick_usd * held:+,.2f}" if what and entry is not None else f"{abs(level - status['price']):g} away" if status.get("price") else "?"


def _today(status: dict) -> Panel:
    rows = _grid()
    trades, wins, losses = (status.get(name) or 0 for name in ("trades", "wins", "losses"))
    rows.add_row("net, with open P&L" if status.get("position") else "net, after fees", _usd(status.get("day_net_usd"), "bold"))
    rows.add_row("trades closed", Text.assemble((str(trades), "bold"), ": ", (f"{wins} won", "green"), ", ", (f"{losses} lost", "red")))
    rows.add_row("balance", Text(f"{status['balance_usd']:,.2f} USD" if status.get("balance_usd") is not None else "-"))
    rows.add_row("signals", Text(f"{status.get('signals') or 0:,}"))
    name, count = max((status.get("refusals") or {"": 0}).items(), key=lambda item: item[1])
    rows.add_row("most refused for", Text(f"{_words(name).replace('_', ' ')} {count:,}" if count else "-", no_wrap=True, overflow="ellipsis"))
    return _panel(f"Today, trade date {status.get('date') or 'not begun'}", rows)


def _entries(status: dict, room: int) -> Panel:
    "Whether anything may be opened, and if not why; what is broken; the links."
    lines = []
    if status.get("halted"): lines += [Text(f"HALTED: {_words(status['halted'])}", "bold red"), Text("a person must clear it: live_runner clear", "dim")]
    lines += [Text(f"trouble: {_words(text)}", "red") for text in status.get("troubles") or ()]
    told = {status.get("halted"), f"halted: {status.get('halted')}", *(status.get("troubles") or ()), *(f"{hub} hub: {why}" for hub, why in (status.get("links") or {}).items())}
    lines += [Text(f"- {_words(text)}", "yellow") for text in _against(status) if text not in told]
    if not lines: lines = [Text("free: the next signal that is sure enough is traded", "green") if not status.get("position") else Text("a position is on, nothing else is in the way", "green")]
    links = _links(status)
    room -= len(links)
    if len(lines) > room: lines[room - 1:] = [Text(f"and {len(lines) - room + 1} more", "dim")]
    for line in lines: line.no_wrap, line.overflow = len(lines) > room // 2, "ellipsis"
    return _panel("Why there are no entries" if status.get("halted") or _against(status) else "Entries", Group(*lines, *links))


def _links(status: dict) -> list[Text]:
    "In one line while all are up, else a line each."
    links = status.get("links") or {}
    told = [Text.assemble(("● ", "red" if why else "green"), f"{hub} hub {f'down: {_words(why)}' if why else 'up'}", no_wrap=True, overflow="ellipsis") for hub, why in links.items()]
    return told if any(links.values()) else [Text("  ").join(told)]


def _limits(status: dict) -> Panel:
    "How much is left of each limit."
    rows, whole = _grid(1), status.get("limits") or {}
    for name, left in (status.get("limits_left") or {}).items():
        of, count = whole.get(name), name == "loss_streak"
        figure = Text(f"{left:d}" if count else f"{left:,.2f}", "bold red" if left <= 0 and name not in GOALS else "none", justify="right")
        rows.add_row(LIMITS.get(name, _words(name)), _bar(left / of, name) if of else Text(""), figure, Text(f"of {of:,.0f}" if of else "", "dim"))
    return _panel("Left before a limit, USD", rows if rows.row_count else Text("not known yet", "dim"))


def _bar(share: float, name: str) -> Text:
    "Full is far away; what is to be earned has no bad end."
    share = min(1.0, max(0.0, share))
    full = max(1 if share > 0 else 0, round(share * BAR))
    style = "cyan" if name in GOALS else "green" if share > .5 else "yellow" if share > .2 else "red"
    return Text.assemble(("█" * full, style), ("░" * (BAR - full), "dim"))


def _decisions(status: dict, room: int) -> Panel:
    "The last ones, newest first, with their reasons."
    rows = _grid()
    said = sorted(status.get("decisions") or (), key=lambda one: one["at_ns"], reverse=True)
    for one in said[:max(1, room)]: rows.add_row(_time(one["at_ns"], "%H:%M:%S"), Text(_words(one["text"]), no_wrap=True, overflow="ellipsis"))
    return _panel("Last decisions, New York time", rows if said else Text("none yet", "dim"))


def _orders(status: dict) -> Panel:
    "What works at the venue."
    orders = status.get("orders") or []
    if not orders: return _panel("Orders at the venue", Text("none", "dim"))
    rows, room = _grid(), len(LATENCIES)
    for one in orders[:room if len(orders) <= room else room - 1]:
        limit = one.get("limit", status.get("target") if one["role"] == "target" else None)
        price = f"at {_points(one['stop'] if limit is None else limit)}" if one.get("stop") or limit else ""
        rows.add_row(Text(_words(one["role"]), "bold"), Text(f"{one['size']}"), Text(price), Text(OrderStatus(one["status"]).name.lower().replace("_", " "), no_wrap=True, overflow="ellipsis"))
    return _panel("Orders at the venue", rows if len(orders) <= room else Group(rows, Text(f"and {len(orders) - room + 1} more", "dim")))


def _latency(status: dict) -> Panel:
    rows = _grid()
    for _ in range(2): rows.add_column(justify="right", no_wrap=True)
    for name, words in LATENCIES.items():
        facts = (status.get("latency") or {}).get(name) or {}
        rows.add_row(words, _ms(facts.get("p50_s")), _ms(facts.get("p99_s")))
    return _panel("How long it takes: p50, p99 in ms", rows)


def _footer(status: dict, stale_s: float) -> Text:
    if stale_s: return Text(f" NO ANSWER FROM THE RUNNER FOR {stale_s:.0f} s: ALL OF THIS IS OLD ", "bold white on red")
    if status.get("unwell") and not status.get("halted"): return Text(f" {_words(status['unwell'])} ", "bold white on red", no_wrap=True, overflow="ellipsis")
    rest = f" {_words(status['paused'])} · " if status.get("paused") else " "
    return Text(f"{rest}Ctrl-C leaves this view, the runner goes on · close everything: python -m live_runner kill", "dim", no_wrap=True, overflow="ellipsis")


def _panel(title: str, body) -> Panel: return Panel(body, title=f"[bold]{title}[/]", title_align="left", border_style="dim", padding=(0, 1))


def _grid(gap: int = 2) -> Table:
    rows = Table.grid(padding=(0, gap, 0, 0))
    rows.add_column(style="dim", no_wrap=True)
    return rows


def _symbol(status: dict) -> str:
    "As the contract's id calls it: CON.F.US.MES.H24."
    parts = str(status.get("contract") or "?").split(".")
    return parts[3] if len(parts) == 5 else parts[0]


def _time(ns: int | None, form: str) -> str: return datetime.fromtimestamp(ns // 10**9, NY).strftime(form) if ns else "no time yet"


def _points(price: float | None) -> str: return "-" if price is None else f"{price:,.2f}"


def _ms(seconds: float | None) -> str: return "-" if seconds is None else f"{seconds * 1e3:,.3f}" if seconds < .01 else f"{seconds * 1e3:,.1f}" if seconds < 10 else f"{seconds * 1e3:,.0f}"


def _usd(usd: float | None, style: str = "") -> Text:
    "Signed and coloured."
    if usd is None: return Text("-")
    return Text(f"{usd:+,.2f} USD", f"{style} {'green' if usd > 0 else 'red' if usd < 0 else ''}".strip())


def _words(text) -> str:
    "Only what can be printed: texts of a venue may hold anything."
    return "" if text is None else "".join(letter if letter.isprintable() else " " for letter in str(text))
