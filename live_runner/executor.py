"""Sends what the core commands and tells it what became of it. Exits go first; what fails is told, never sent again: whether to try again is the core's decision."""
import asyncio
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

from . import crash, logs
from .gateway.outcomes import Outcome, TurnedAway, Unknown
from .messages import SENT, Answered, Ask, Cancel, Close, Modify, NoSnapshot, Place, Snapshot
from .problems import Problem

BROKEN = "the journal cannot be written"
ONLY_LOOKS = "observe: nothing is sent"

log = logs.logger("live_runner.executor")


class Executor:
    "One task a command, or, for a market in lockstep, one command after another: then the venue gets them in the same order every time."

    def __init__(self,
        gateway,                       # a started `Gateway`
        setup,                         # account, contract, mode: of `core.Setup`
        post: Callable,                # post(event): into the runner's queue
        one_by_one: bool = False,
        took: Callable = lambda name, seconds: None,  # took(name, seconds): for the meters
    ):
        self._gateway, self._setup, self._post, self._took = gateway, setup, post, took
        self._clock = gateway.clock
        self._turn = asyncio.Lock() if one_by_one else None
        self._waiting, self._tasks = [], set()  # commands whose turn has not come, tasks under way
        self.broken = False  # the journal cannot be written: only exits and questions go out

    @property
    def busy(self) -> int:
        "Commands that are not answered yet."
        return len(self._tasks)

    def send(self,
        commands: Iterable[NamedTuple],  # of messages.SENT, others are let pass
        since: float | None = None,      # s of time.perf_counter: when that was known which they answer to
    ) -> None:
        "Returns at once; each command is answered by one event with its id."
        ours = [command for command in commands if isinstance(command, SENT)]
        for command in sorted(ours, key=lambda command: not getattr(command, "exit", False)):
            self._waiting.append(command)
            task = asyncio.get_running_loop().create_task(self._in_turn(command, since), name=f"command {command.id}")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def settled(self) -> None:
        "Waits until every command is answered, or those that are not merely sleep on the market's clock, which stands still meanwhile."
        while self._tasks:
            await asyncio.wait(self._tasks, timeout=.05, return_when=asyncio.FIRST_COMPLETED)
            wire = self._gateway.wire
            if self._tasks and not wire.rest.in_flight + wire.bars.in_flight and self._clock.sleeping: return

    async def close(self) -> None:
        "Gives up what is under way; whether the venue has it is for the next start to find out."
        for task in self._tasks: task.cancel()
        if self._tasks: await asyncio.wait(self._tasks)

    async def _in_turn(self, command: NamedTuple, since: float | None) -> None:
        if self._turn is None: return await self._work(self._take(command), since)
        async with self._turn: await self._work(self._take(), since)

    def _take(self, command=None) -> NamedTuple: # command None: whose turn it is
        "The command to work on: exits overtake all that waits."
        chosen = command or min(self._waiting, key=lambda waiting: not getattr(waiting, "exit", False))
        self._waiting = [waiting for waiting in self._waiting if waiting is not chosen]
        return chosen

    async def _work(self, command: NamedTuple, since: float | None) -> None:
        "From the command to its answer; whatever goes wrong is an answer too."
        if isinstance(command, Ask): answer = await self._asked(command)
        else: answer = await self._acted(command, since)
        crash.point("send.after")
        self._post(answer)

    async def _acted(self, command: NamedTuple, since: float | None) -> Answered:
        if self._setup.mode == "observe": return self._answered(command, TurnedAway(0, why=ONLY_LOOKS))
        if self.broken and not command.exit: return self._answered(command, TurnedAway(0, why=BROKEN))
        crash.point("send.before")
        began = time.perf_counter()
        goes_out = None if since is None else lambda: self._took("bar_to_wire_s", time.perf_counter() - since)
        try: outcome = await self._act(command, goes_out)
        except ValueError as error: outcome = TurnedAway(0, why=f"a mistake of ours: {error}")  # it was refused before it was sent
        except Exception as error:
            log.error("a command failed", command=command, exc_info=True)
            outcome = Unknown(f"{type(error).__name__}: {_line(error)}", command.order.tag if isinstance(command, Place) else None)
        self._took("order_round_trip_s", time.perf_counter() - began)
        return self._answered(command, outcome)

    def _answered(self, command: NamedTuple, outcome: Outcome) -> Answered: return Answered(self._clock.now(), command.id, outcome)

    async def _act(self, command: NamedTuple, goes_out: Callable | None) -> Outcome:
        gateway, setup = self._gateway, self._setup
        match command:
            case Place(order=order, exit=exit): return await gateway.place(order, exit, goes_out)
            case Modify(order_id=number, stop=stop, size=size, exit=exit): return await gateway.modify(setup.account, number, size, stop=stop, exit=exit)
            case Cancel(order_id=number, exit=exit): return await gateway.cancel(setup.account, number, exit)
            case Close(): return await gateway.close_position(setup.account, setup.contract)

    async def _asked(self, command: Ask) -> Snapshot | NoSnapshot:
        "The four questions at once. One without an answer, and nothing is known."
        gateway, own, asked_at = self._gateway, self._setup.account, self._clock.now()
        found = await asyncio.gather(gateway.accounts(only_active=False), gateway.positions(own), gateway.orders(own, command.since), gateway.trades(own, command.since), return_exceptions=True)
        failed = [error for error in found if isinstance(error, BaseException)]
        for error in failed:
            if not isinstance(error, Exception): raise error  # cancelled
            if not isinstance(error, Problem): log.error("a question failed", exc_info=error)
        if failed: return NoSnapshot(self._clock.now(), command.id, _line(failed[0]))
        accounts, positions, orders, fills = found
        account = next((account for account in accounts if account.id == own), None)
        return Snapshot(self._clock.now(), command.id, asked_at, account, tuple(positions), tuple(orders), tuple(fills))


def _line(error: Exception) -> str:
    "What went wrong, in one line."
    return " ".join((str(error) or type(error).__name__).split())
