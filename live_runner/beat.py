"Once a second of the wall: the runner's sign of life, and what has to be looked at now and then. It comes from the loop, so a loop that is stuck gives none."
import asyncio
import time

from . import halt, logs
from .messages import Clear, Kill

KEEP_S = 10.0       # wall seconds after which seconds that led to nothing are stored too
CROWD, CALM = 2000, 100  # events that wait: more is trouble, until they are fewer again
GUARD_S = 60        # between two looks whether the watchdog is there

log = logs.logger("live_runner.beat")


class Beat:
    "The heart of a `Runner`."

    def __init__(self, runner): self.runner = runner

    async def run(self) -> None:
        "For ever."
        looked = time.monotonic()
        while True:
            self._touch()
            self.look_for_orders()
            self._store()
            self._look_around()
            if time.monotonic() - looked >= GUARD_S:
                looked = time.monotonic()
                try: self.runner.parts.guard()
                except OSError as error: self.runner.parts.alerts.send("critical", "watchdog", f"there is no watchdog and none can be started: {error}")
            await asyncio.sleep(1.0)

    def look_for_orders(self) -> None:
        "Whether somebody beside us wants everything closed, or has cleared a halt or another latch."
        runner, parts = self.runner, self.runner.parts
        why, now = parts.orders(), parts.clock.now()
        if why and why != runner.stopped: runner.post(Kill(now, "file", why))
        elif runner.stopped and not why and (who := parts.cleared()): runner.post(Clear(now, "halt", *who))
        runner.stopped = why
        try: wish = halt.take_clear(runner.folder)
        except OSError as error: return log.error("a wish to clear a latch cannot be taken", why=str(error))
        if wish: runner.post(Clear(now, *wish))

    def _touch(self) -> None:
        try: (self.runner.folder / "heartbeat").touch()
        except OSError as error: log.error("no sign of life can be given", why=str(error))

    def _store(self) -> None:
        "Seconds that led to nothing become durable too, and the journal's log goes back into its file when nothing waits."
        runner, journal = self.runner, self.runner.parts.journal
        if runner.troubles.get("journal") or journal.pending and time.monotonic() - runner.stored >= KEEP_S: return runner.commit()
        if not runner.queue.empty() or runner.executor.busy: return
        try: journal.tidy()
        except OSError as error: log.warning("the journal could not be tidied", why=str(error))

    def _look_around(self) -> None:
        "Hubs that have died, events that pile up, a market that is closed; and the sign for a dead man's switch outside."
        runner, waiting = self.runner, self.runner.queue.qsize()
        for hub in runner.hubs:
            if hub.state == "stopped": runner.trouble(f"task: {hub.name} hub", hub.counters.last_why or "stopped")
        if waiting > CROWD: runner.trouble("queue", f"{waiting:,} events wait")
        elif waiting < CALM: runner.cured("queue")
        if runner.core.market.closes and runner.parts.clock.now() >= runner.core.market.closes: runner.parts.paused("the market is closed")
        if runner.parts.ping_url and not runner.troubles: runner.parts.alerts.ping(runner.parts.ping_url)
