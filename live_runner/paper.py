"""A market of one's own: the simulated gateway as a process beside the runner, which outlives its kill -9 and is found again at the next start.

FOLDER/gateway.json says where it is (and holds the key of the simulation, so only its owner may read it). A fresh market begins with a fresh journal: what was known of another one is moved
aside, for order numbers and days come again there."""
import asyncio
import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

from mesbot.config import Config, to_toml
from mesbot.presets import VENUE_CLOCKS

from .drive import find_simulator
from .gateway.settings import GatewaySettings
from .halt import read_object, write_whole
from .problems import FixTheConfig

ACCOUNT = "PRAC-V2-MESBOT-101" # as `simulator.settings.AccountSettings` has it
IDLE_MIN = 15                  # so long without a request or a connection, and the gateway ends itself
READY_S = 60.0                 # it has so long to be ready: real bars are read first
SAME_S = 5.0                   # two births of a process id are further apart
FILE, BEFORE = "gateway.json", "before"

class Venue:
    "The simulated gateway of one folder."

    def __init__(self,
        folder: Path, # of the account
        urls: dict,   # of `simulator.server.Urls`, with pid and born
        found: bool,  # it was there already: the runner goes on where it was
    ):
        self.folder, self.urls, self.found = Path(folder), urls, found

    @property
    def settings(self) -> GatewaySettings:
        "For our client."
        return GatewaySettings(gateway_url=self.urls["rest"], user_hub_url=self.urls["user_hub"], market_hub_url=self.urls["market_hub"], username=self.urls["username"], api_key=self.urls["api_key"])

    def end(self) -> None:
        "Ends the market, if it is still the process that we know."
        if _lives(self.urls): os.kill(self.urls["pid"], signal.SIGTERM)
        (self.folder / FILE).unlink(missing_ok=True)


async def open_venue(
    folder: Path,      # of the account; made when it is not there
    config: Config,    # whose costs, latency and hours the venue has
    source: list[str], # options of the `gateway` command: what is played
    speed: str,        # max: in lockstep with the runner; or market seconds in a second
) -> Venue:
    "The folder's market: the one that is there, or a new one. FixTheConfig when the one that is there plays something else."
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "venue.toml", to_toml(config))
    hours = "topstep" if config.preset in VENUE_CLOCKS else "exchange"
    arguments = [*source, "--speed", "lockstep" if speed == "max" else speed, "--balance", repr(config.risk.start_balance_usd), "--hours", hours]
    plays = [*arguments, to_toml(config)]
    there = read_object(folder / FILE)
    if _lives(there) and await find_simulator(there["control"]):
        if there.get("plays") != plays: raise FixTheConfig(f"{folder} has a market that plays something else: end it with kill {there['pid']}, or give another --folder")
        return Venue(folder, there, True)
    _put_aside(folder)
    urls = await asyncio.to_thread(_start, folder, [*arguments, "--config", str(folder / "venue.toml"), "--idle-minutes", str(IDLE_MIN)])
    write_whole(folder / FILE, json.dumps(urls | {"plays": plays}), 0o600)
    return Venue(folder, urls, False)


def _start(folder: Path, arguments: list[str]) -> dict:
    "A gateway in a process group of its own, so that nothing that ends us ends it; what it says where it is."
    import psutil
    with open(folder / "gateway.log", "ab") as said:
        child = subprocess.Popen([sys.executable, "-m", "live_runner", "gateway", *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=said, start_new_session=True, text=True)
    ready, _, _ = select.select([child.stdout], [], [], READY_S)
    line = child.stdout.readline() if ready else ""
    child.stdout.close()
    if not line:
        child.kill()
        child.wait()
        last = (folder / "gateway.log").read_text(errors="replace").strip().splitlines()[-1:]
        raise FixTheConfig(f"the simulated gateway did not start: {last[0].removeprefix('live_runner: ') if last else f'exit code {child.returncode}'}")
    return json.loads(line) | {"pid": child.pid, "born": psutil.Process(child.pid).create_time()}


def _lives(urls: dict) -> bool:
    "Whether the process that was written down is there and still that one."
    import psutil
    try:
        process = psutil.Process(urls["pid"])
        return abs(process.create_time() - urls["born"]) < SAME_S and process.status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    except (KeyError, TypeError, ValueError, psutil.Error): return False


def _put_aside(folder: Path) -> None:
    "What is known of another market: journal and days go into before/1, before/2 ... A halt stays: a person opens it."
    left = [path for name in ("journal.db", "journal.db-wal", "journal.db-shm", "start.json", "days") if (path := folder / name).exists()]
    if not any(path.name == "journal.db" for path in left): return
    known = [int(path.name) for path in (folder / BEFORE).glob("*") if path.name.isdecimal()]
    place = folder / BEFORE / str(max(known, default=0) + 1)
    place.mkdir(parents=True)
    for path in left: os.replace(path, place / path.name)
