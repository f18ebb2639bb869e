"Looks at a runner from another process: finds it by its folder, asks it once a second, shows one screen or the plain JSON."
import json
import os
import sys
import time
import urllib.error
import urllib.request
from http.client import HTTPException
from pathlib import Path

from .problems import CallAHuman, FixTheConfig, RetryLater

LIVE = Path("runs/live")  # where the folders of accounts are
WAIT_S = 2.0              # for an answer
AWAY = 1                  # exit code when no runner answers


def find_folder(
    folder: Path | None = None, # of an account, or the one above; None: runs/live
) -> Path: # of the one account in it
    "Where the run is described; RetryLater when no runner has been there, FixTheConfig when there are several."
    top = Path(folder or LIVE)
    if (top / "run.json").is_file(): return top
    found = sorted(path.parent for path in top.glob("*/run.json"))
    if not found: raise RetryLater(f"no runner has been started in {top}")
    if len(found) > 1: raise FixTheConfig(f"{top} holds several accounts: give one with --folder: {', '.join(map(str, found))}")
    return found[0]


def run_facts(
    folder: Path, # of an account
) -> dict: # of its run.json
    "What the run says of itself; CallAHuman when that cannot be read."
    path = Path(folder) / "run.json"
    try: facts = json.loads(path.read_text())
    except ValueError as error: raise CallAHuman(f"{path}: no JSON: {error}") from None
    if not isinstance(facts, dict): raise CallAHuman(f"{path}: must hold an object")
    return facts


def fetch(
    folder: Path, # of an account
) -> dict: # of /status
    "The status of the runner that works in this folder; RetryLater says in one line why there is none."
    facts = run_facts(folder)
    url = facts.get("health")
    if facts.get("ended"): raise RetryLater(f"the runner in {folder} has ended: {facts['ended']}{_halted(folder)}")
    if not url: raise RetryLater(f"the runner in {folder} does not answer yet{_halted(folder)}")
    request, token = urllib.request.Request(f"{url}/status"), _token(folder)
    if token: request.add_header("Authorization", f"Bearer {token}")
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=WAIT_S) as answer: status = json.load(answer)
    except urllib.error.HTTPError as error: raise RetryLater(f"the runner at {url} answers HTTP {error.code}: {error.read(300).decode('utf-8', 'replace')}") from None
    except (OSError, HTTPException, ValueError) as error:
        why = getattr(error, "reason", error)
        raise RetryLater(f"no runner answers at {url} (process {facts.get('pid', '?')}): {getattr(why, 'strerror', None) or why}{_halted(folder)}") from None
    if not isinstance(status, dict): raise RetryLater(f"what answers at {url} is no runner")
    return status


def show(
    folder: Path | None = None, # of an account, or the one above; None: runs/live
    once: bool = False,         # one screen, then the end
    plain: bool = False,        # the JSON instead, once
) -> int: # exit code: 0, or AWAY
    "The view, until Ctrl-C; one line when no runner answers at the start. One that falls silent later is waited for, and the screen says so."
    try:
        place = find_folder(folder)
        status = fetch(place)
    except RetryLater as problem:
        print(f"live_runner: {' '.join(str(problem).split())}", file=sys.stderr)
        return AWAY
    if plain: print(json.dumps(status, indent=1))
    elif once: _print(status)
    else: return _watch(place, status)
    return 0


def _print(status: dict) -> None:
    from rich.console import Console

    from .status_view import HEIGHT, WIDTH, screen
    Console(width=WIDTH, height=HEIGHT).print(screen(status))


def _watch(folder: Path, status: dict) -> int:
    "Asks once a second; what was read last stays on the screen."
    from rich.console import Console
    from rich.live import Live

    from .status_view import screen
    console, read, silent = Console(), time.monotonic(), False
    try:
        with Live(screen(status, 0, console.height), console=console, screen=True, auto_refresh=False) as live:
            while True:
                time.sleep(1.0)
                try: status, read, silent = fetch(folder), time.monotonic(), False
                except (RetryLater, CallAHuman, OSError): silent = True  # the screen says for how long
                live.update(screen(status, max(1.0, time.monotonic() - read) if silent else 0, console.height), refresh=True)
    except KeyboardInterrupt: return AWAY if silent else 0


def _halted(folder: Path) -> str:
    "What the watchdog left behind, if it stopped this account."
    try: lines = (Path(folder) / "HALTED").read_text(errors="replace").splitlines()
    except FileNotFoundError: return ""
    try: last = json.loads(lines[-1])
    except (ValueError, IndexError): return "; the account is HALTED"
    return f"; the account is HALTED by {last.get('by', '?')}: {last.get('why', '?')}, {'flat' if last.get('flat') else 'NOT FLAT'}" if isinstance(last, dict) else "; the account is HALTED"


def _token(folder: Path) -> str:
    try: return os.environ.get("MESBOT_RUNNER_TOKEN") or (Path(folder) / "token").read_text().strip()
    except OSError: return ""
