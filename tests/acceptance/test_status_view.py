"LIV-16: `status` tells a trader at a glance how the runner stands, in every state it can be in, and says in one line that no runner answers."
import asyncio
import json
import os
import pty
import re
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from rich.console import Console

from live_runner import status as view
from live_runner.health import Health
from live_runner.metrics import Meters
from live_runner.problems import CallAHuman, FixTheConfig
from live_runner.status_view import HEIGHT, WIDTH, screen
from mesbot.config import Config
from mesbot.core import new_state
from mesbot.keeper import limits_left
from mesbot.risk import risk_rules

ROOT = Path(__file__).resolve().parents[2]
AT = 1_706_715_067_000_000_000  # 2024-01-31 10:31:07 in New York
SECOND = 1_000_000_000


def whole_limits() -> dict:
    "Of an account that has lost nothing."
    rules = risk_rules(Config())
    return limits_left(new_state(float(rules.start_balance)), rules)


def sample_status(**changes) -> dict:
    "What /status answers in the middle of a day: flat and free."
    said = [(0, "no entry: the model is not sure enough: up 0.41, needs 0.60"), (64, "left LONG 1 at 4,781.25: the price traded through the target, net +8.91 USD"), (131, "entered LONG 1 at 4,779.25, stop 4,774.25, target 4,781.25: up 0.66"),
            (302, "no entry: too soon after the last exit"), (388, "left SHORT 1 at 4,777.00: the stop was touched, net -14.59 USD"), (401, "entered SHORT 1 at 4,774.25: down 0.62"), (1804, "no entry: bid and ask are too far apart: 3 ticks")]
    decisions = [{"at_ns": AT - s * SECOND, "text": text} for s, text in reversed(said)]
    return {"at_ns": AT, "mode": "paper", "account": 101, "contract": "CON.F.US.MES.H24", "date": "2024-01-31", "price": 4783.25, "bid": 4783.0, "ask": 4783.25, "position": 0, "entry": None, "stop": None, "target": None,
            "open_usd": 0.0, "day_net_usd": 12.34, "balance_usd": 1012.34, "trades": 7, "wins": 4, "losses": 3,
            "limits_left": {"day_loss_usd": 62.34, "day_drawdown_usd": 38.1, "total_loss_usd": 312.34, "review_drawdown_usd": 163.1, "min_balance_usd": 312.34, "loss_streak": 4},
            "decision": decisions[-1], "decisions": decisions, "blocked": [], "halted": "", "troubles": [], "orders": [], "reconciled": True, "refusals": {"low_confidence": 3120, "cooldown": 41, "wide_spread": 2}, "signals": 12,
            "limits": whole_limits(), "links": {"user": "", "market": ""}, "refused": "", "healthy": True, "unwell": "", "paused": "",
            "latency": filled_meters().facts(), "counters": {}} | changes


def filled_meters() -> Meters:
    meters = Meters()
    for name, typical in (("event_lag_s", .031), ("feature_s", 21e-6), ("inference_s", 310e-6), ("step_s", 460e-6), ("commit_s", 900e-6), ("bar_to_wire_s", 1.9e-3), ("order_round_trip_s", .128)):
        for i in range(200): meters.latency[name].add(typical * (1 + i / 150))
    return meters


LONG = {"position": 2, "entry": 4780.5, "stop": 4775.5, "target": 4788.0, "open_usd": 27.5, "orders": [
    {"tag": "mb-3fa2c1-20240131-0012-S", "role": "stop", "status": 1, "size": 2, "stop": 4775.5}, {"tag": "mb-3fa2c1-20240131-0012-T", "role": "target", "status": 6, "size": 2, "stop": None}]}
SHORT = LONG | {"position": -1, "entry": 4780.5, "stop": 4786.75, "target": 4772.0, "open_usd": -13.75, "day_net_usd": -21.9, "orders": [{"tag": "mb-3fa2c1-20240131-0013-SL", "role": "stop", "status": 1, "size": 1, "stop": 4786.75}]}
BLOCKED = {"blocked": ["user hub: silent for 21 s", "not yet as the venue has it", "quotes are 14 s old"], "refused": "a pause after losses in a row", "links": {"user": "silent for 21 s", "market": ""}, "reconciled": False}
HALTED = {"halted": "kill by operator: news, close everything", "blocked": ["halted: kill by operator: news, close everything", "journal: the disk is full"], "troubles": ["journal: the disk is full"], "day_net_usd": -48.2,
          "limits_left": {"day_loss_usd": 1.8, "day_drawdown_usd": 14.0, "total_loss_usd": 251.8, "review_drawdown_usd": 90.0, "min_balance_usd": 251.8, "trailing_loss_usd": 0.0, "profit_target_usd": 348.2, "day_profit_usd": 148.2, "loss_streak": 0}}
YOUNG = {"at_ns": 0, "price": None, "bid": None, "ask": None, "date": None, "balance_usd": None, "day_net_usd": 0.0, "trades": 0, "wins": 0, "losses": 0, "limits_left": {}, "decision": None, "decisions": [], "refusals": {}, "signals": 0,
         "blocked": ["not yet as the venue has it"], "latency": {}, "links": {}, "reconciled": False}
STATES = {"flat": {}, "long": LONG, "short": SHORT, "blocked": BLOCKED, "halted": HALTED, "young": YOUNG}
STALE_S = 14.0


def drawn(stale_s=0.0, width=WIDTH, height=HEIGHT, **changes) -> str:
    console = Console(width=width, height=height, record=True, file=open(os.devnull, "w"), color_system="standard", force_terminal=True)
    console.print(screen(sample_status(**changes), stale_s, height))
    return console.export_text()


def colours(text, **changes) -> set:
    "Of everything on the screen that holds this text."
    console = Console(width=WIDTH, height=HEIGHT, file=open(os.devnull, "w"), color_system="standard", force_terminal=True)
    found = {(part.style.color.name if part.style.color else None, part.style.bgcolor.name if part.style.bgcolor else None) for line in console.render_lines(screen(sample_status(**changes))) for part in line if text in part.text and part.style}
    assert found, text
    return found


@contextmanager
def runner(folder, status):
    "The health server of a runner, in a thread, and its run.json."
    loop, ready, stop = asyncio.new_event_loop(), threading.Event(), asyncio.Event()
    async def serve():
        async with Health(status, filled_meters(), lambda why: None) as health:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "run.json").write_text(json.dumps({"pid": os.getpid(), "health": health.url, "mode": "paper"}))
            ready.set()
            await stop.wait()
    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()), daemon=True)
    thread.start()
    assert ready.wait(10)
    try: yield
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)
        loop.close()


@pytest.mark.parametrize("state", STATES)
def test_every_state_fits_one_screen(state):
    "100 by 32, nothing cut off, every panel there."
    for stale_s in (0, STALE_S):
        text = drawn(stale_s, **STATES[state])
        lines = text.splitlines()
        assert len(lines) == HEIGHT and max(map(len, lines)) <= WIDTH and "…" not in text, text
        for title in ("Price and position", "Left before a limit, USD", "Last decisions, New York time", "Orders at the venue", "How long it takes: p50, p99 in ms"): assert title in text
        assert text.count("╭") == text.count("╯") == 7


def test_what_is_not_told_is_left_out():
    "A core's own status, without what health and newer versions add; and nothing at all."
    for names in (("limits", "refused", "latency", "healthy", "unwell", "paused", "counters"), tuple(sample_status())):
        for state in STATES.values():
            console = Console(width=WIDTH, height=HEIGHT, record=True, file=open(os.devnull, "w"))
            console.print(screen({name: value for name, value in sample_status(**state).items() if name not in names}))
            text = console.export_text()
            assert len(text.splitlines()) == HEIGHT and ("day's loss" in text) == ("day_loss_usd" in sample_status(**state)["limits_left"] and len(names) < 10)


def test_a_position_is_seen_with_its_stop_target_and_open_profit_in_colour():
    text = drawn(**LONG)
    for words in ("LONG 2 from 4,780.50", "open P&L +27.50 USD", "stop 4,775.50 (-50.00)", "target 4,788.00 (+75.00)", "IN A POSITION"): assert words in text
    assert colours("+27.50 USD", **LONG) == {("green", None)}
    text = drawn(**SHORT)
    for words in ("SHORT 1 from 4,780.50", "open P&L -13.75 USD", "stop 4,786.75 (-31.25)", "target 4,772.00 (+42.50)"): assert words in text
    assert colours("-13.75 USD", **SHORT) == colours("-21.90 USD", **SHORT) == {("red", None)}


def test_the_price_stands_between_stop_and_target():
    "A gain lies right of the entry and is green, a loss left and red, for both sides; beyond the stop it stands at the stop."
    def ladder(**changes): return re.search("├.*┤|●.*┤|├.*●", drawn(**changes))[0]
    assert ladder(**LONG).index("┼") < ladder(**LONG).index("●") and colours("━", **LONG) == {("green", None)}
    assert ladder(**SHORT).index("●") < ladder(**SHORT).index("┼") and colours("━", **SHORT) == {("red", None)}
    line = ladder(**LONG)
    assert abs(line.index("●") / (len(line) - 1) - 7.75 / 12.5) < .02 and abs(line.index("┼") / (len(line) - 1) - 5 / 12.5) < .02
    assert ladder(**LONG | {"price": 4700.0})[0] == "●" and ladder(**LONG | {"price": 4900.0})[-1] == "●"


def test_a_position_without_a_stop_cries_out():
    "What counts is the order at the venue, not the stop that is wanted."
    bare = LONG | {"orders": LONG["orders"][1:]}
    assert "NO STOP RESTS AT THE VENUE" in drawn(**bare) and "wanted: stop 4,775.50, target 4,788.00" in drawn(**bare) and colours("NO STOP RESTS", **bare) == {("white", "red")}
    assert "NO STOP" not in drawn(**LONG)
    assert "no target" in drawn(**LONG | {"target": None}) and "stop 4,775.50" in drawn(**LONG | {"target": None}) and "no target" in drawn(**LONG | {"stop": None})


def test_the_day_is_told():
    text = drawn()
    for words in ("trade date 2024-01-31", "+12.34 USD", "7: 4 won, 3 lost", "1,012.34 USD", "low confidence 3,120", "Wed 2024-01-31 10:31:07 New York", "PAPER", "account 101", "4,783.25  bid 4,783.00 ask 4,783.25 spread 0.25", "READY"): assert words in text


def test_limits_are_bars_against_their_whole():
    "Green, yellow under a half, red under a fifth; what is to be earned is no danger."
    text = drawn(**HALTED | {"limits": {"day_loss_usd": 50.0, "day_drawdown_usd": 75.0, "profit_target_usd": 600.0, "review_drawdown_usd": 200.0, "total_loss_usd": 300.0}})
    bar = {name: re.search(rf"{name} +([█░]*) +(-?[\d,.]+)( of [\d,]+)?", text).groups() for name in ("day's loss", "fall from day's best", "total loss", "trailing loss", "to profit target")}
    assert bar["day's loss"] == ("█░░░░░░░░", "1.80", " of 50") and bar["total loss"] == ("████████░", "251.80", " of 300") and bar["trailing loss"] == ("", "0.00", None)
    assert bar["fall from day's best"][0] == "██░░░░░░░" and bar["to profit target"][0] == "█████░░░░"
    limits = {"limits": {"day_loss_usd": 100.0, "profit_target_usd": 100.0}}
    for left, colour in ((60.0, "green"), (30.0, "yellow"), (15.0, "red"), (.1, "red")): assert colours("█", limits_left={"day_loss_usd": left}, **limits) == {(colour, None)}
    assert colours("█", limits_left={"profit_target_usd": 5.0}, **limits) == {("cyan", None)}


def test_the_last_decisions_stand_in_order_with_their_reasons():
    rows = re.findall(r"(\d\d:\d\d:\d\d)  (\S.*?) +│", drawn())
    assert [time for time, _ in rows] == ["10:31:07", "10:30:03", "10:28:56", "10:26:05", "10:24:39"]
    assert rows[1][1] == "left LONG 1 at 4,781.25: the price traded through the target, net +8.91 USD"
    assert len(re.findall(r"\d\d:\d\d:\d\d  \S", drawn(height=40))) == 7, "a taller screen shows more"


def test_why_entries_are_blocked_stands_in_plain_words():
    text = drawn(**BLOCKED)
    for words in ("Why there are no entries", "- a pause after losses in a row", "- not yet as the venue has it", "- quotes are 14 s old", "● user hub down: silent for 21 s", "● market hub up", "NO ENTRIES"): assert words in text
    assert text.count("silent for 21 s") == 1, "nothing is said twice"
    assert "NO ENTRIES" in drawn(refused="not in the hours that are traded") and "- not in the hours that are traded" in drawn(refused="not in the hours that are traded")
    many = drawn(blocked=[f"reason {i}" for i in range(20)])
    assert "reason 0" in many and "and 16 more" in many and "● user hub up  ● market hub up" in many and len(many.splitlines()) == HEIGHT


def test_a_halt_cannot_be_overlooked():
    text = drawn(**HALTED)
    for words in ("HALTED: kill by operator: news, close everything", "a person must clear it", "trouble: journal: the disk is full"): assert words in text
    assert colours(" HALTED ", **HALTED) == {("white", "red")} and text.count("kill by operator") == text.count("the disk is full") == 1
    assert "no second of the market for 9 s" in drawn(unwell="no second of the market for 9 s", healthy=False)


def test_orders_at_the_venue_are_told():
    text = drawn(**LONG)
    assert re.search(r"stop +2 +at 4,775\.50 +open", text) and re.search(r"target +2 +at 4,788\.00 +pending", text)
    many = drawn(orders=LONG["orders"] * 10)
    assert "and 15 more" in many and len(many.splitlines()) == HEIGHT


def test_latencies_are_told_in_milliseconds():
    assert re.search(r"bar closed to order out +3\.162 +4\.421", drawn())


def test_texts_of_others_cannot_play_with_the_terminal():
    text = drawn(blocked=["\x1b[2J[red]gone[/red]\r\nnext"], **{"decisions": [{"at_ns": AT, "text": "a\x1b]0;title\x07b"}]})
    assert "\x1b" not in text and "\x07" not in text and "[red]gone[/red]" in text


# --- finding the runner --------------------------------------------------------------------------------------------------------------------------------------


def test_one_screen_and_the_plain_json_of_a_runner(tmp_path, capsys):
    status = sample_status(**LONG)
    with runner(tmp_path / "live" / "PRACTICE-1", lambda: status):
        assert view.show(tmp_path / "live", once=True) == 0
        text = capsys.readouterr().out
        assert "LONG 2 from 4,780.50" in text and len(text.splitlines()) == HEIGHT
        assert view.show(tmp_path / "live" / "PRACTICE-1", plain=True) == 0
        said = json.loads(capsys.readouterr().out)
        assert said["position"] == 2 and said["latency"]["step_s"]["count"] == 200 and said["healthy"] is True


def away(folder, capsys) -> str:
    "The one line of a view that found no runner."
    assert view.show(folder, once=True) == view.AWAY == 1
    out, complaint = capsys.readouterr()
    assert out == "" and complaint.endswith("\n") and complaint.count("\n") == 1 and complaint.startswith("live_runner: ")
    return complaint


def test_a_runner_that_is_away_is_one_line_and_exit_code_1(tmp_path, capsys):
    "Never started, not ready, ended, killed, and stuck."
    assert f"no runner has been started in {tmp_path}" in away(tmp_path, capsys)
    with socket.create_server(("127.0.0.1", 0)) as stuck:
        url = f"http://127.0.0.1:{stuck.getsockname()[1]}"
        (tmp_path / "run.json").write_text(json.dumps({"pid": 1234, "health": url}))
        began = time.monotonic()
        assert f"no runner answers at {url} (process 1234): timed out" in away(tmp_path, capsys)
        assert time.monotonic() - began < 10 * view.WAIT_S
    line = away(tmp_path, capsys)
    assert f"no runner answers at {url} (process 1234): Connection refused\n" in line
    (tmp_path / "HALTED").write_text(json.dumps({"at": "x", "by": "watchdog", "why": "no sign of life for 61 s", "flat": True}) + "\n")
    assert "Connection refused; the account is HALTED by watchdog: no sign of life for 61 s, flat\n" in away(tmp_path, capsys)
    for text in ("", "stopped by hand", "[]", "\udcff"):
        (tmp_path / "HALTED").write_text(text, errors="surrogateescape")
        assert "; the account is HALTED" in away(tmp_path, capsys)
    (tmp_path / "HALTED").unlink()
    for facts, words in (({"pid": 1}, "does not answer yet"), ({"ended": "SIGTERM", "health": url}, "has ended: SIGTERM")):
        (tmp_path / "run.json").write_text(json.dumps(facts))
        assert words in away(tmp_path, capsys)


def test_what_is_wrong_is_named(tmp_path):
    for name in ("A", "B"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text("{}" if name == "A" else "{")
    with pytest.raises(FixTheConfig, match="holds several accounts: give one with --folder: .*A, .*B"): view.show(tmp_path)
    with pytest.raises(CallAHuman, match=r"run\.json: no JSON"): view.show(tmp_path / "B")


def test_a_runner_that_refuses_or_is_another_says_so(tmp_path, capsys, own_logging):
    def broken(): raise RuntimeError("state is odd")
    with runner(tmp_path, broken): assert "answers HTTP 503" in away(tmp_path, capsys)


def test_the_live_view_outlives_the_runner_and_says_that_it_is_old(tmp_path):
    "In a terminal of its own: first the screen, then the runner dies, then it is back."
    asked = []
    def status():
        asked.append(1)
        return sample_status(price=4000.0 + len(asked))
    ours, theirs = pty.openpty()
    seen = bytearray()
    def until(words, seconds=25):
        end = time.monotonic() + seconds
        while words.encode() not in seen and time.monotonic() < end:
            if select.select([ours], [], [], .1)[0]: seen.extend(os.read(ours, 65536))
        assert words.encode() in seen, bytes(seen[-3000:])
    code = f"from pathlib import Path\nfrom live_runner.status import show\nraise SystemExit(show(Path({str(tmp_path)!r})))"
    with runner(tmp_path, status):
        process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdin=theirs, stdout=theirs, stderr=theirs, env={**os.environ, "TERM": "xterm", "COLUMNS": "100", "LINES": "32", "PYTHONPATH": str(ROOT)})
        try: until("4,003.00")
        except BaseException:
            process.kill()
            raise
    try:
        until("NO ANSWER FROM THE RUNNER FOR")
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == view.AWAY
    finally:
        process.kill()
        for end in (ours, theirs): os.close(end)
