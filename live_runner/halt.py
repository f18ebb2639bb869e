"""The files KILL and HALTED in the folder of an account: an order to stop, and the latch it leaves until a person clears it. Plain files, because they must
outlive every process and be readable when nothing else works; whatever stands in one, that it is there is what counts."""
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from .clock import WallClock, isotime

KILL, HALTED, CLEARED = "KILL", "HALTED", "HALTED.cleared"
SWITCH = "MESBOT_KILL"  # in the environment of a runner that starts: anything but nothing


WISH = "CLEAR"          # a person's wish to open another latch, for the runner to take


class KillOrder(NamedTuple):
    "Who wants everything closed, and why; `mark` tells one order from the next."
    by: str
    why: str
    mark: int  # ns, when the file was written


def write_whole(
    path: Path,
    text: str,
    mode: int = 0o644,
) -> None:
    "A file that is there as a whole or not at all, whatever happens meanwhile."
    aside = path.with_name(f"{path.name}.{os.getpid()}.aside")
    try:
        with open(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    finally: aside.unlink(missing_ok=True)


def read_object(
    path: Path, # a JSON file that another process writes
) -> dict: # {} where there is none that can be read now
    "The object in a JSON file."
    try: found = json.loads(path.read_text(encoding="utf-8", errors="replace"))
    except (OSError, ValueError): return {}
    return found if isinstance(found, dict) else {}


def order_stop(
    folder: Path, # of the account
    by: str,
    why: str,
) -> None:
    "Wants everything closed and nothing opened; an order that is there already is renewed. OSError when it cannot be written."
    write_whole(folder / KILL, json.dumps({"at": isotime(WallClock().now()), "by": by, "why": why}) + "\n")


def kill_order(folder: Path) -> KillOrder | None:
    "The order to stop, if there is one; one that was made by hand may hold any text or none."
    try: mark, text = (folder / KILL).stat().st_mtime_ns, (folder / KILL).read_text(encoding="utf-8", errors="replace").strip()
    except FileNotFoundError: return None
    except OSError as error: return KillOrder("somebody", f"KILL cannot be read: {error.strerror}", 0)
    said = read_object(folder / KILL) or {"why": text.splitlines()[0] if text else ""}
    return KillOrder(str(said.get("by") or "somebody"), str(said.get("why") or "the file KILL is there"), mark)


def halts(folder: Path) -> list[dict]: # oldest first: at (ISO), by, why, flat, done (list of texts)
    "What HALTED says; a line that cannot be read counts as not flat."
    try: lines = (folder / HALTED).read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError: return []
    return [_read(line) for line in lines if line.strip()]


def _read(line: str) -> dict:
    unknown = {"at": "", "by": "somebody", "why": line.strip()[:200], "flat": False, "done": []}
    try: said = json.loads(line)
    except ValueError: return unknown
    return unknown | said if isinstance(said, dict) else unknown


def add_halt(
    folder: Path,
    by: str,
    why: str,
    flat: bool,      # whether the venue showed no position and no working order
    done: list[str], # what was done, one text a step
) -> None:
    "One more line of HALTED. OSError when it cannot be written."
    _append(folder / HALTED, {"at": isotime(WallClock().now()), "by": by, "why": why, "flat": flat, "done": done})


def _append(path: Path, said: dict) -> None:
    line = json.dumps(said) + "\n"
    with open(path, "a+b") as file:
        if file.tell() and (file.seek(-1, os.SEEK_END), file.read(1))[1] != b"\n": line = "\n" + line  # the last line was torn
        file.write(line.encode())
        file.flush()
        os.fsync(file.fileno())


def stop_orders(
    folder: Path,
    environment: Mapping[str, str] = os.environ,
) -> str: # "" = it may trade
    "Why a runner of this folder must start halted."
    if environment.get(SWITCH): return f"{SWITCH} is set: {environment[SWITCH]}"
    if order := kill_order(folder): return f"KILL: {order.why} (by {order.by})"
    if not os.path.lexists(folder / HALTED): return ""
    last = (halts(folder) or [_read("the file HALTED is there")])[-1]
    return f"HALTED: {last['why']} (by {last['by']}{', ' + last['at'] if last['at'] else ''})"


def clear_halt(
    folder: Path,
    by: str,
    why: str,
) -> str: # what was cleared, for people
    "Takes HALTED and KILL away and remembers who did so and why; ValueError when a name or reason is missing, or nothing is halted."
    for name, value in (("--by", by), ("--why", why)):
        if not value.strip(): raise ValueError(f"{name} must be given: who clears a halt puts a name and a reason to it")
    stopped, was = stop_orders(folder, {}), halts(folder)
    if not stopped: raise ValueError(f"nothing is halted in {folder}")
    _append(folder / CLEARED, {"at": isotime(WallClock().now()), "by": by, "why": why, "halts": was, "kill": order._asdict() if (order := kill_order(folder)) else None})
    for name in (HALTED, KILL): (folder / name).unlink(missing_ok=True)  # only now: a halt is never forgotten
    return stopped


def wish_clear(
    folder: Path, # of the account
    latch: str,   # of the core: killed, review, passed, day_stop or pause
    by: str,
    why: str,
) -> None:
    "Asks the runner, or the next one, to open a latch of the trading rules; ValueError without a name or a reason."
    for name, value in (("--by", by), ("--why", why)):
        if not value.strip(): raise ValueError(f"{name} must be given: who clears a latch puts a name and a reason to it")
    write_whole(folder / WISH, json.dumps({"latch": latch, "by": by, "why": why}) + "\n")


def take_clear(folder: Path) -> tuple[str, str, str] | None: # latch, by, why
    "A wish to open a latch, once."
    if not os.path.lexists(folder / WISH): return None
    said = read_object(folder / WISH)
    (folder / WISH).unlink()
    return (str(said["latch"]), str(said.get("by")), str(said.get("why"))) if "latch" in said else None
