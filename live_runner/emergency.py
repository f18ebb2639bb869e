"""Closes everything at the venue, through a REST session of its own. Small on purpose: it knows nothing of the core and the journal, only what the venue says.

No answer is never read as flat. Orders that could open are taken back at once; those that only reduce a position stay until it is gone, for until then nothing
else protects it. While an order at market works no other is sent: two of them would turn the position."""
import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
from filelock import FileLock, Timeout

from . import logs
from .clock import WallClock
from .gateway.answers import Order
from .gateway.outcomes import Accepted, Failed, Outcome, Refused, TurnedAway, Unknown
from .gateway.rest import Gateway
from .gateway.settings import GatewaySettings
from .halt import add_halt, read_object
from .problems import CallAHuman, FixTheConfig, Problem
from .protocol import WORKING, CloseError, OrderStatus, OrderType, Side

PAUSES_S = (.5, 1, 1.5, 2, 3, 4)  # after each attempt, before the venue is asked again
LONGEST_S = 5.0                   # a venue that turns requests away is not waited for longer, whatever it asks for
TIMEOUT_S = 4.0                   # of one request
STEP_S = 2.0                      # of the market: an order at market is filled within this, where anything trades
BLIND = 2                         # so many questions for the position without an answer, and it is closed unseen
ALONE_S = 15.0                    # another process that flattens is waited for no longer
STOPS = {OrderType.STOP, OrderType.STOP_LIMIT, OrderType.TRAILING_STOP}
SIMULATED = {"gateway_url": "rest", "user_hub_url": "user_hub", "market_hub_url": "market_hub", "username": "username", "api_key": "api_key"}  # setting -> word of gateway.json
Say = Callable[[str, str], None]  # say(severity, text): info, warning or critical

log = logs.logger("live_runner.emergency")


async def flatten(
    gateway: Gateway,
    account: int,
    contract: str,  # its id; "" = every contract of the account
    say: Say,       # each step
    sleep: Callable[[float], Awaitable] = asyncio.sleep,
) -> bool: # True: the venue shows no position and no working order
    "Closes the position, takes every order back, and asks until it is so, or six attempts are used up. Raises only for mistakes of ours."
    work = _Flattening(gateway, account, contract, say)
    for pause_s in PAUSES_S:
        await work.look()
        if work.flat: break
        await work.act()
        await sleep(max(pause_s, min(work.wait_s, LONGEST_S)))
    else: await work.look()
    if work.others: say("warning", f"left alone: {', '.join(f'{net:+d} {c}' for c, net in work.others.items())}")
    if work.flat: say("info", f"flat: account {account} holds nothing{' of ' + contract if contract else ''} and no order works")
    else: say("critical", f"NOT FLAT: {work.left()}")
    return work.flat


class _Flattening:
    "What the venue showed last, and what it has said of our acts."

    def __init__(self, gateway: Gateway, account: int, contract: str, say: Say):
        self.gateway, self.account, self.contract, self.say = gateway, account, contract, say
        self.nets, self.orders, self.others = None, None, {}  # contract -> signed contracts, working orders, None: not known; positions that are none of ours
        self.clean, self.bare, self.unseen, self.wait_s = 0, 0, 0, 0.0  # looks in a row that showed nothing, no position, no answer; what the venue wants us to wait
        self.whys = {}  # what could not be read -> why, at the last look
        self.absent, self.sent = set(), set()  # contracts of which a close said that there is no position; for which a close may be on its way

    @property
    def flat(self) -> bool:
        "Two looks that showed nothing and a close that found nothing, or three looks: one list that is empty by mistake is not enough."
        return self.clean >= 2 and self.contract in self.absent or self.clean >= 3

    def left(self) -> str:
        "What is not as it should be."
        known = [f"{net:+d} {contract}" for contract, net in (self.nets or {}).items()] + [f"order {order.id} works" for order in self.orders or ()]
        unknown = [f"the {name} cannot be read: {why}" for name, why in self.whys.items()]
        return ", ".join(known + unknown) or "seen empty only once"

    async def look(self) -> None:
        "Asks for positions and orders."
        self.whys = {}
        positions, orders = await asyncio.gather(self._asked("positions", self.gateway.positions(self.account)), self._asked("orders", self._working()))
        held = None if positions is None else {row.contract: row.net for row in positions if row.net}
        self.nets, self.others = (None, {}) if held is None else tuple({c: net for c, net in held.items() if (self.contract in ("", c)) == wanted} for wanted in (True, False))
        self.orders = None if orders is None else [order for order in orders if self.contract in ("", order.contract)]
        self.absent -= set(self.nets or ())
        self.bare = self.bare + 1 if self.nets == {} else 0
        self.clean = self.clean + 1 if self.nets == {} and self.orders == [] else 0
        self.unseen, self.wait_s = self.unseen + 1 if self.nets is None else 0, 0.0

    async def _asked(self, name: str, question: Awaitable) -> Any:
        "The answer; None when there was none."
        try: return await question
        except Problem as problem:
            self.whys[name] = str(problem)
            self.say("warning", f"the {name} cannot be read: {problem}")
            return None

    async def _working(self) -> list[Order]:
        "All working orders, also those that are pending or suspended, which `open_orders` leaves out."
        try: return await self.gateway.query_orders(self.account, sorted(WORKING), self.contract or None)
        except (Failed, FixTheConfig): return [order for order in await self.gateway.orders(self.account, 0) if order.status in WORKING]

    async def act(self) -> None:
        "Closes what is held, then takes back what has nothing to protect any more."
        contracts = {self.contract} if self.contract else {*(self.nets or ()), *(order.contract for order in self.orders or ())}
        for contract in sorted(contracts):
            orders = [order for order in self.orders or () if order.contract == contract]
            await self._close(contract, [order.id for order in orders if order.type == OrderType.MARKET])
            gone, ids = contract in self.absent or self.bare >= 3, {order.id for order in orders}
            free = [order for order in orders if (gone or not self._protects(order)) and not (order.status == OrderStatus.SUSPENDED and order.parent in ids)]
            await asyncio.gather(*(self._cancel(order) for order in free))

    def _protects(self, order: Order) -> bool:
        "Whether it can only make the position smaller; where no position is seen, whether it looks like something that protects one."
        if net := (self.nets or {}).get(order.contract): return order.side == (Side.SELL if net > 0 else Side.BUY)
        return order.parent is not None or order.type in STOPS

    async def _close(self, contract: str, on_way: list[int]) -> None:
        "Closes the position, unless that may already be under way or there is none."
        if on_way: return self.say("info", f"order {on_way[0]} at market still works: no other is sent before it is done")
        if contract in self.absent or (self.nets is None and self.unseen < BLIND) or (self.orders is None and contract in self.sent): return
        outcome = await self.gateway.close_position(self.account, contract)
        self._told(f"close {contract}", outcome, calm=(CloseError.POSITION_NOT_FOUND, CloseError.ORDER_PENDING))
        code = outcome.code if isinstance(outcome, Refused) else None
        if code is CloseError.POSITION_NOT_FOUND: self.absent.add(contract)
        if isinstance(outcome, (Accepted, Unknown)) or code is CloseError.ORDER_PENDING: self.sent.add(contract)

    async def _cancel(self, order: Order) -> None:
        self._told(f"cancel order {order.id}", await self.gateway.cancel(self.account, order.id, exit=True))

    def _told(self, act: str, outcome: Outcome, calm: tuple = ()) -> None:
        "Says what became of an act."
        match outcome:
            case Accepted(): self.say("info", f"{act}: accepted")
            case Refused(code, message): self.say("info" if code in calm else "warning", f"{act}: {getattr(code, 'name', code)}{': ' + message if message else ''}")
            case TurnedAway(_, wait_s, why):
                self.wait_s = max(self.wait_s, wait_s or 0.0)
                self.say("warning", f"{act}: turned away: {why}")
            case Unknown(why): self.say("warning", f"{act}: not known, the venue is asked: {why}")


class Venue(NamedTuple):
    "Where an account is."
    settings: GatewaySettings
    account: int | None  # None: to be found by its name
    name: str
    contract: str        # "" = all of them
    control: str = ""    # url of a simulation's control calls


def venue_of(
    folder: Path, # of an account, named as the account is; its runner has left run.json there, its simulated gateway gateway.json
) -> Venue:
    "Where to close: what the runner said, with the key from the environment, or from gateway.json where it is a simulation. FixTheConfig when something is missing or wrong."
    run, simulated = read_object(folder / "run.json"), read_object(folder / "gateway.json")
    control = ""
    if simulated and run.get("mode", "paper") == "paper":
        control = str(simulated.get("control") or "")
        try: settings = GatewaySettings(**{name: simulated[word] for name, word in SIMULATED.items()})
        except KeyError as error: raise FixTheConfig(f"{folder / 'gateway.json'} lacks {error}") from None
    else: settings = GatewaySettings(**{name: run[name] for name in ("gateway_url", "user_hub_url", "market_hub_url", "username") if run.get(name)})
    account = run.get("account")
    return Venue(settings, account if type(account) is int else None, folder.resolve().name, str(run.get("contract") or ""), control)


async def find_account(
    gateway: Gateway,
    name: str,
) -> int: # its id
    "The account of this name, active or not; CallAHuman when the venue does not name exactly one, and what `Gateway.accounts` raises."
    accounts = await gateway.accounts(only_active=False)
    found = [account.id for account in accounts if account.name == name]
    if len(found) != 1: raise CallAHuman(f"the venue must have one account {name}, it has {', '.join(account.name for account in accounts) or 'none'}")
    return found[0]


def session(settings: GatewaySettings) -> Gateway:
    "A client for emergencies: on the wall's clock, whatever the market's does; short of patience, because `flatten` asks again itself; with a token, and so a limit of requests, of its own."
    return Gateway(settings, WallClock(), TIMEOUT_S, attempts=1)


async def close_account(
    folder: Path, # of the account
    by: str,
    why: str,
    say: Say,
) -> bool: # flat
    "`flatten`, alone among all processes, and its line in HALTED. Never raises but for cancellation: whoever calls this has nobody left to tell."
    done, flat = [], False
    def told(severity: str, text: str) -> None:
        done.append(str(logs.redact(text)))
        try: say(severity, done[-1])
        except Exception as error: log.error("a step could not be told", text=done[-1], exc_info=error)  # whoever listens must not stop it
    try:
        async with _alone(folder, told):
            venue = venue_of(folder)
            async with session(venue.settings) as gateway:
                account = await find_account(gateway, venue.name) if venue.account is None else venue.account
                flat = await flatten(gateway, account, venue.contract, told, lambda seconds: _pass(seconds, venue.control))
    except Problem as problem: told("critical", f"NOT FLAT: {problem}")
    except Exception as error:
        log.critical("closing everything failed", exc_info=error)
        told("critical", f"NOT FLAT: {error!r}")
    try: add_halt(folder, by, why, flat, done)
    except OSError as error: told("critical", f"HALTED cannot be written: {error}")
    return flat


async def _pass(seconds: float, control: str) -> None:
    "Waits. The market of a simulation in lockstep stands still without its runner, and nothing would ever be filled there: when nobody else has moved it meanwhile, this does."
    before = await _simulation(control) if control else {}
    await asyncio.sleep(seconds)
    if before.get("speed") != "lockstep": return
    now = await _simulation(control)
    if now.get("ts") == before.get("ts"): await _simulation(f"{control}/step", {"seconds": max(seconds, STEP_S)})


async def _simulation(url: str, body: dict | None = None) -> dict:
    "The answer of a control call; {} when there was none."
    try:
        async with aiohttp.request("POST" if body else "GET", url, json=body, timeout=aiohttp.ClientTimeout(total=TIMEOUT_S)) as answer: return await answer.json()
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        log.warning("the simulation did not answer", url=url, why=repr(error))
        return {}


@asynccontextmanager
async def _alone(folder: Path, say: Say) -> AsyncIterator[None]:
    "Holds the folder's lock; goes on without it rather than not at all."
    lock, end = FileLock(folder / "flatten.lock"), WallClock().monotonic() + ALONE_S
    while not lock.is_locked:
        try: lock.acquire(blocking=False)
        except Timeout:
            if WallClock().monotonic() > end:
                say("warning", f"another process has been closing everything for {ALONE_S:g} s: not waited for any longer")
                break
            await asyncio.sleep(.2)
        except OSError as error:
            say("warning", f"no lock: {error}")
            break
    try: yield
    finally: lock.release()
