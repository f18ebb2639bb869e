"The whole simulated gateway in one process: a tape, a venue and a server on one virtual clock."
import asyncio
from contextlib import suppress

from ..clock import WallClock
from .clock import Clock
from .faults import Faults
from .history import History
from .replay import Replay
from .server import SimulatedGateway, Urls
from .server_settings import ServerSettings
from .settings import VenueSettings
from .tape import Tape
from .venue import Venue


class World:
    "Made, then started; `async with` does both ends. In lockstep the market waits for `replay.step`, else it plays by itself; at speed max from the first market subscription on."

    def __init__(self,
        tape: Tape,
        speed: float | str = 1.0,                  # as for `Replay`
        venue: VenueSettings | None = None,
        server: ServerSettings | None = None,
        seed: int = 0,                             # of the plan of faults
        wall: WallClock = WallClock(),
    ):
        self.clock, self.faults, self.urls = Clock(), Faults(seed), None
        self.server = SimulatedGateway(self.clock, self.faults, server or ServerSettings(), wall)
        self.venue = Venue(self.clock, tape.instrument, tape.contract, venue or VenueSettings(), self.server.emit, self.faults, History(tape), tape.contracts)
        self.replay = Replay(tape, self.clock, self.venue, self.server.emit, speed, wall)
        self.playing = None  # the task that moves the market; None in lockstep

    async def start(self) -> Urls:
        "Open the door, and let the market go; raises what `SimulatedGateway.start` raises."
        self.urls = await self.server.start(self.venue, self.replay)
        if self.replay.speed != "lockstep": self.playing = asyncio.create_task(self._play())
        return self.urls

    async def stop(self) -> None:
        "Stop the market and close the door; raises what had stopped the market before."
        if self.playing: self.playing.cancel()
        await self.server.stop()
        if self.playing:
            with suppress(asyncio.CancelledError): await self.playing

    async def _play(self):
        if self.replay.speed == "max": await self.server.emit.subscribed.wait()
        await self.replay.run()
        await self.replay.keep_time()

    async def __aenter__(self) -> "World":
        await self.start()
        return self

    async def __aexit__(self, *_) -> None: await self.stop()
