"""The watchdog of one account: a process of its own that closes everything when it is told to, or when the runner gives no sign of life. It shares nothing with the
runner but the files of the folder: KILL and HALTED, heartbeat (touched by the runner's loop), run.json (pid, mode, account, contract, gateway_url, ..., ended)."""
import asyncio
import hmac
import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from aiohttp import web

from . import logs
from .emergency import Say, close_account, find_account, session, venue_of
from .halt import kill_order, order_stop, read_object, write_whole
from .problems import FixTheConfig, Problem
from .settings import RunnerSettings, load_settings

LOOK_S = .5                       # between two looks at the folder
AGAIN_S, LONGEST_S = 5.0, 60.0    # after an attempt that left something open: doubled each time, up to the second
LONGEST_BODY = 4096               # bytes of a request
SAME_S = 5.0                      # two births of a process id are further apart; the clock may have been set in between
TOKEN, TOKEN_FILE = "MESBOT_RUNNER_TOKEN", "token"

log = logs.logger("live_runner.watchdog")


class Cause(NamedTuple):
    "Why everything is closed."
    by: str
    why: str
    mark: tuple  # of what it was, so that it is acted upon once


class Watchdog:
    "Looks twice a second, does one thing at a time."

    def __init__(self,
        folder: Path,         # of the account
        dead_after_s: float,  # no sign of life of the runner for so long: everything is closed
        say: Say,             # say(severity, text)
        monotonic: Callable[[], float] = time.monotonic, # seconds that do not run while the machine sleeps
    ):
        self.folder, self.dead_after_s, self.say, self._monotonic = folder, dead_after_s, say, monotonic
        self.token = runner_token(folder)
        self._woken, self._asked, self._posts = asyncio.Event(), None, 0
        self._beat, self._beat_seen = self._heartbeat(), monotonic()
        self._done, self._failed, self._again_at = set(), 0, 0.0  # marks that were seen to their end; attempts in vain, and when the next is due
        self.flat = False  # whether the last thing done ended flat

    async def run(self) -> str: # why it ended
        "Until the runner has ended properly, another watchdog has taken over, or all is closed and the runner gone."
        server, trying = await self._open_door(), asyncio.create_task(self._try_venue())
        try:
            while True:
                cause = self._cause()
                if cause and self._monotonic() >= self._again_at: await self._stop_everything(cause)
                elif over := self._over(cause): return over
                try: await asyncio.wait_for(self._woken.wait(), LOOK_S)
                except TimeoutError: continue
                self._woken.clear()
        finally:
            trying.cancel()
            await server.cleanup()

    def _cause(self) -> Cause | None:
        "What there is to act upon now. The silence of one that only observes is no reason: what is held is not its own."
        if (beat := self._heartbeat()) != self._beat: self._beat, self._beat_seen = beat, self._monotonic()
        order, silent_s, cause = kill_order(self.folder), self._monotonic() - self._beat_seen, None
        if order: cause = Cause(order.by, order.why, ("KILL", order.mark))
        elif silent_s > self.dead_after_s and read_object(self.folder / "run.json").get("mode") != "observe":
            cause = Cause("watchdog", f"no sign of life of the runner for {silent_s:.0f} s", ("heartbeat", self._beat))
        return self._asked or (cause if cause and cause.mark not in self._done else None)

    async def _stop_everything(self, cause: Cause) -> None:
        "Closes everything; afterwards KILL is there whatever the cause, so that a runner that wakes up stays stopped."
        self.say("critical", f"{cause.why} (by {cause.by}): closing everything")
        try:
            if not kill_order(self.folder): order_stop(self.folder, cause.by, cause.why)
        except OSError as error: self.say("critical", f"KILL cannot be written: {error}")
        order = kill_order(self.folder)
        self.flat = await close_account(self.folder, cause.by, cause.why, self.say)
        if not self.flat: self._failed, self._again_at = self._failed + 1, self._monotonic() + min(AGAIN_S * 2**self._failed, LONGEST_S)
        else:
            self._done |= {cause.mark, *([("KILL", order.mark)] if order else [])}
            self._failed, self._again_at, self._asked = 0, 0.0, None if self._asked is cause else self._asked

    def _over(self, cause: Cause | None) -> str:
        "Why there is nothing left to watch; empty while there is."
        if not self.folder.is_dir(): return "the folder is gone"
        owner, run = read_object(self.folder / "watchdog.json").get("pid"), read_object(self.folder / "run.json")
        if owner not in (None, os.getpid()): return f"process {owner} has taken over"
        if cause: return ""
        if run.get("ended"): return f"the runner ended: {run['ended']}"
        return "all is closed and the runner gone" if self._done and self.flat and not _lives(run.get("pid")) else ""

    def _heartbeat(self) -> int: # ns, 0: none yet
        try: return (self.folder / "heartbeat").stat().st_mtime_ns
        except OSError: return 0

    async def _try_venue(self) -> None:
        "Says at once when it could not do its work."
        try:
            venue = venue_of(self.folder)
            async with session(venue.settings) as gateway:
                if venue.account is None: await find_account(gateway, venue.name)
                else: await gateway.positions(venue.account)
        except Exception as error: self.say("critical", f"the watchdog could not close anything now: {error if isinstance(error, Problem) else repr(error)}")

    # --- the door: POST /kill -------------------------------------------------------------------------------------------------------------------------------

    async def _open_door(self) -> web.AppRunner:
        "Listens on loopback and says where in watchdog.json, which also takes over from an older watchdog."
        app = web.Application(client_max_size=LONGEST_BODY)
        app.router.add_post("/kill", self._kill)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        write_whole(self.folder / "watchdog.json", json.dumps({"pid": os.getpid(), "born": _born(os.getpid()), "port": runner.addresses[0][1]}) + "\n")
        return runner

    async def _kill(self, request: web.Request) -> web.Response:
        "202 when everything is going to be closed, 403 without the token, 400 for a body that is no object."
        given = request.headers.get("Authorization", "").encode("utf-8", "surrogateescape")
        if not hmac.compare_digest(given, f"Bearer {self.token}".encode()): return web.json_response({"error": "the token is missing or wrong"}, status=403)
        try: body = json.loads(await request.read() or b"{}")
        except (ValueError, RecursionError): body = None
        if not isinstance(body, dict): return web.json_response({"error": 'the body must be an object such as {"why": "..."}'}, status=400)
        by, why = (str(body.get(name) or other)[:200] for name, other in (("by", "POST /kill"), ("why", "no reason given")))
        self._posts += 1
        self._asked, self._again_at = Cause(by, why, ("POST", self._posts)), 0.0
        self._woken.set()
        return web.json_response({"stopping": True}, status=202)


def runner_token(folder: Path) -> str:
    "What must be shown to whatever acts: MESBOT_RUNNER_TOKEN, or one made once and kept in the folder's file `token`, which only its owner can read. FixTheConfig for one that is too short."
    token = os.environ.get(TOKEN)
    if not token:
        made, aside = secrets.token_urlsafe(32), folder / f"{TOKEN_FILE}.{os.getpid()}.own"
        try:
            write_whole(aside, made, 0o600)
            os.link(aside, folder / TOKEN_FILE)  # whoever comes first
        except FileExistsError: made = ""
        finally: aside.unlink(missing_ok=True)
        token = made or (folder / TOKEN_FILE).read_text().strip()
    if len(token) < 16: raise FixTheConfig(f"{TOKEN} must have 16 characters or more, got {len(token)}")
    logs.hide(token)
    return token


def _lives(pid) -> bool:
    "Whether a process of this id is there and more than a shell of itself."
    import psutil
    try: return isinstance(pid, int) and psutil.Process(pid).status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    except psutil.Error: return False


def _born(pid: int) -> float: # seconds; with the id the name of a process
    import psutil
    return psutil.Process(pid).create_time()


def watchdog_pid(folder: Path) -> int | None:
    "The process that watches a folder; None when there is none, or it is stopped."
    import psutil
    said = read_object(folder / "watchdog.json")
    try:
        process = psutil.Process(said["pid"])
        alive = abs(process.create_time() - said["born"]) < SAME_S and process.status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD, psutil.STATUS_STOPPED)
    except (KeyError, TypeError, ValueError, psutil.Error): return None
    return process.pid if alive else None


def start_watchdog(
    folder: Path,                  # of the account
    settings: Path | None = None,  # file of the runner's settings
) -> subprocess.Popen:
    "A watchdog that outlives whoever starts it, with what it says in watchdog.log. It takes over from one that is there."
    with open(folder / "watchdog.log", "ab") as said:
        return subprocess.Popen([sys.executable, "-m", "live_runner.watchdog", *(str(path.resolve()) for path in (folder, settings) if path)], cwd=Path(__file__).parents[1],
                                stdin=subprocess.DEVNULL, stdout=said, stderr=said, start_new_session=True)


def watch(
    folder: Path,
    settings: RunnerSettings = RunnerSettings(),
    name: str = "",  # of the account, for the alerts; "" = that of the folder
) -> str: # why it ended
    "Watches until there is nothing left to watch."
    if not folder.is_dir(): raise FixTheConfig(f"{folder}: no such folder of an account")
    name = name or folder.resolve().name
    alerts = _alerts(settings, name)
    def say(severity: str, text: str) -> None:
        if alerts: alerts.send(severity, text, text)
        else: getattr(log, severity)(text, account=name)
    try:
        over = asyncio.run(_run(folder, settings, say))
        log.info("watchdog ends", why=over)
        return over
    finally:
        if alerts: alerts.close(10)


async def _run(folder: Path, settings: RunnerSettings, say: Say) -> str:
    return await Watchdog(folder, settings.dead_after_s, say).run()


def _alerts(settings: RunnerSettings, name: str):
    "Where people are told, besides the log, when there is such a place."
    if not settings.alerts: return None
    from .alerts import Alerts
    return Alerts(tuple((target.url, target.severity) for target in settings.alerts), f"watchdog of {name}")


def main() -> None:
    "`python -m live_runner.watchdog FOLDER [SETTINGS]`: as `python -m live_runner watch`, without loading anything else."
    logs.configure()
    try: watch(Path(sys.argv[1]), load_settings(Path(sys.argv[2]) if len(sys.argv) > 2 else None))
    except (Problem, OSError, IndexError) as error: raise SystemExit(f"live_runner: {error}") from None


if __name__ == "__main__": main()
