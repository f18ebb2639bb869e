"What `python -m live_runner kill` and `clear` do: stop an account with the help of its watchdog or without, and open the latch again."
import asyncio
import time
from pathlib import Path

from .emergency import close_account, find_account, session, venue_of
from .gateway.settings import GatewaySettings
from .halt import add_halt, clear_halt, halts, order_stop, read_object
from .watchdog import watchdog_pid

LIVE = Path("runs/live")
PATIENCE_S = 5.0  # a watchdog that has not begun by then is helped
LOOK_S = .2


def folder_of(
    folder: Path | None,
    account: str = "",    # its name
    live: Path = LIVE,    # where accounts have their folders
) -> Path:
    "The folder that is meant; ValueError when that is not clear."
    if folder and account and folder.resolve().name != account: raise ValueError(f"give --folder or --account, got {folder} and {account}")
    if folder or account:
        wanted = folder or live / account
        if wanted.is_dir() or not folder: return wanted
        raise ValueError(f"{folder}: no such folder of an account")
    found = sorted(path.parent for path in live.glob("*/run.json"))
    running = [path for path in found if not read_object(path / "run.json").get("ended")] or found
    if len(running) != 1: raise ValueError(f"say which account with --account or --folder: {', '.join(path.name for path in running) or f'there is none in {live}'}")
    return running[0]


def kill(
    folder: Path,             # of the account, named as the account is
    why: str = "by hand",
    by: str = "kill command",
    within_s: float = 30.0,   # until it must be flat
) -> tuple[bool, str]: # flat, and one line for people
    "Stops an account and waits until it is flat. Without a folder the account is asked for at the venue of the environment. ValueError and Problem for what is wrong before anything was tried."
    return asyncio.run(_kill(folder, why, by, within_s))


async def _kill(folder: Path, why: str, by: str, within_s: float) -> tuple[bool, str]:
    if not folder.is_dir(): await _new_folder(folder)
    name, said, before = folder.resolve().name, [], len(halts(folder))
    begun, ours = time.monotonic(), lambda: halts(folder)[before:]
    try: order_stop(folder, by, why)
    except OSError as error: said.append(f"KILL cannot be written: {error}")
    if not watchdog_pid(folder): venue_of(folder)  # what is wrong with it is told at once; KILL is there for the runner
    while (passed := time.monotonic() - begun) < within_s:
        if any(line["flat"] is True for line in ours()): return True, f"{name} is flat, its watchdog closed everything; it stays halted until `clear`"
        if passed < PATIENCE_S and watchdog_pid(folder) and not ours(): await asyncio.sleep(LOOK_S)
        elif await _ourselves(folder, why, by, within_s - passed, said): return True, f"{name} is flat, closed from here; it stays halted until `clear`"
    last = said[-1:] or [text for line in ours()[-1:] for text in line["done"][-1:]] or ["no answer of its watchdog"]
    return False, f"{name} is NOT FLAT after {within_s:g} s: {last[0]}. Close it by hand at the venue"


async def _new_folder(folder: Path) -> None:
    "For an account that never traded from here, if the venue of the environment has one of this name."
    async with session(GatewaySettings()) as gateway: await find_account(gateway, folder.name)
    folder.mkdir(parents=True)


async def _ourselves(folder: Path, why: str, by: str, left_s: float, said: list[str]) -> bool:
    "Closes everything from this process."
    try:
        async with asyncio.timeout(left_s):
            if await close_account(folder, by, why, lambda severity, text: said.append(text)): return True
            await asyncio.sleep(1)
    except TimeoutError:
        try: add_halt(folder, by, why, False, [*said, "given up in the middle of it"])
        except OSError as error: said.append(f"HALTED cannot be written: {error}")
    return False


def kill_command(
    folder: Path | None, account: str, why: str, within_s: float = 30.0, live: Path = LIVE,
) -> tuple[int, str]: # exit code: 0 flat, 1 not flat; the line to print
    "The whole command; ValueError, OSError and Problem are wrong use, exit code 2."
    flat, line = kill(folder_of(folder, account, live), why or "by hand", within_s=within_s)
    return int(not flat), line


def clear_command(
    folder: Path | None, account: str, by: str, why: str, live: Path = LIVE,
) -> str: # the line to print
    "Likewise."
    place = folder_of(folder, account, live)
    return f"{place.resolve().name} may trade again; it was {clear_halt(place, by, why)}"
