"Everything a runner needs, opened in order and closed again: model, lock, journal, core, gateway, account and contract, watchdog, health. Whatever is wrong is said before anything is sent."
import asyncio
import gc
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from mesbot.config import Config, config_hash
from mesbot.core import cache_dir, instrument
from mesbot.model_files import load_predictor, model_hash
from mesbot.registry import NotPromoted, NotRegistered, current_version, load_current

from . import crash, halt
from .alerts import Alerts, check_targets
from .clock import WallClock, isotime
from .core import Core, Setup
from .drive import find_simulator
from .emergency import close_account
from .gateway.hub import Hub
from .gateway.rest import Gateway
from .gateway.sessions import HubSessions
from .gateway.settings import LOOPBACK, GatewaySettings
from .health import Health
from .journal import Journal
from .lock import AccountLock
from .market_clock import PacedClock, SteppedClock
from .metrics import Meters
from .problems import CallAHuman, RetryLater
from .rehearsal import rehearse
from .replay import facts_of
from .runner import Parts, Runner
from .settings import RunnerSettings
from .today import Today
from .venue_checks import find_account, find_front_month, session_bars
from .watchdog import runner_token, start_watchdog, watchdog_pid

FASTEST = 600.0    # market seconds in one of the wall that a market without a pace of its own is taken for
AGAIN_S = 10.0     # a venue that is away at the start is tried again after so long ...
LONGEST_S = 300.0  # ... and twice as long each time, up to this
SWITCH_S = .0005   # so long another thread (a hub's, one that writes a file) keeps the loop from an order; Python's own 5 ms are as long as all that we may take
UNWATCHED_S = 86_400.0  # a market in lockstep stands still without its runner: nothing can happen in it meanwhile


class Order(NamedTuple):
    "What a runner is started for."
    mode: str                 # paper, observe or live
    folder: Path              # of the account, named as it is
    account: str              # its name
    symbol: str               # a key of `core.INSTRUMENTS`
    config: Config
    settings: RunnerSettings
    venue: GatewaySettings
    model: Path | None = None # a model folder; None: what is promoted
    models: Path = Path("models") # the registry
    name: str = "practice"    # of the model there
    settings_file: Path | None = None # of `settings`, for the watchdog
    real_money: bool = False  # an account that is not simulated may be traded
    patient: bool = False     # a venue that is away is waited for
    prefix: str = ""          # of every tag; "": the journal's own
    watched: bool = True      # by a watchdog
    market: str = ""          # what is traded in, where that is not the real market: told on the day's page


def timed(
    work: Callable,
    took: Callable[[float], None], # told how many seconds each call took
) -> Callable:
    "The same, timed."
    def done(*args):
        began = time.perf_counter()
        try: return work(*args)
        finally: took(time.perf_counter() - began)
    return done


class Asked:
    "A predictor, timed."

    def __init__(self, predictor, meters: Meters): self.predict, self.length = timed(predictor.predict, meters.latency["inference_s"].add), getattr(predictor, "length", 1)


def find_model(
    o: Order,
) -> tuple: # the predictor, and what it is called and hashed
    "The model to ask; ModelRefused, a ValueError, when there is none or it does not fit the settings."
    if o.model: return load_predictor(o.model, o.config), {"model": str(o.model), "model_hash": model_hash(o.model)[:12]}
    try: predictor, version = load_current(o.models, o.name, o.config), current_version(o.models, o.name)
    except (NotRegistered, NotPromoted) as error: raise type(error)(f"{error}; make one to practise with: mesbot models practice --models {o.models}") from None
    return predictor, {"model": f"{o.name} {version}", "model_hash": model_hash(Path(o.models) / o.name / version)[:12]}


async def trade(
    o: Order,
    say: Callable[[str], None], # what a person at the terminal is told
) -> int: # exit code, as `Runner.run`
    "Runs until told to end; Problem, ValueError and OSError say what is wrong before anything is traded."
    predictor, model = find_model(o)
    check_targets(tuple((target.url, target.severity) for target in o.settings.alerts), o.settings.ping_url)
    o.folder.mkdir(parents=True, exist_ok=True)
    async with AsyncExitStack() as stack:
        if o.mode != "paper": stack.enter_context(AccountLock(o.venue.gateway_url, o.account)) # who starts a market of his own has the lock before
        crash.point("start.locked")
        journal, meters = Journal(o.folder / "journal.db", o.account), Meters()
        stack.callback(journal.close)
        alerts = Alerts(tuple((target.url, target.severity) for target in o.settings.alerts), f"{o.mode} {o.account}")
        stack.callback(alerts.close)
        facts = {"code": cache_dir().name, "config_hash": config_hash(o.config)} | model
        say(f"{o.mode}: account {o.account}, code {facts['code']}, config {facts['config_hash']}, model {facts['model']} ({facts['model_hash']})")
        return await _at_the_venue(o, stack, journal, meters, alerts, Asked(predictor, meters), facts, say)


async def _at_the_venue(o: Order, stack: AsyncExitStack, journal: Journal, meters: Meters, alerts: Alerts, predictor, facts: dict, say: Callable) -> int:
    "What needs the venue: its clock, a log-in, the account and the contract."
    control = f"{o.venue.gateway_url.rstrip('/')}/sim" if urlsplit(o.venue.gateway_url).hostname in LOOPBACK else ""
    simulated = await find_simulator(control) if control else None
    clock, pace = clock_of(simulated)
    gateway = await stack.enter_async_context(Gateway(o.venue, clock))
    account = await _patiently(o, alerts, lambda: find_account(gateway, o.account, not o.real_money))
    contract = await _patiently(o, alerts, lambda: find_front_month(gateway, instrument(o.symbol), clock.now()))
    setup = Setup(o.config, o.symbol, account.id, contract.id, o.prefix or journal.id, o.settings, o.mode)
    try: core = Core(setup, predictor, journal.last_snapshot())
    except ValueError as error: raise CallAHuman(f"{journal.path}: {error}; see that the account is flat, then move the journal away") from None
    rehearse(setup)
    gc.collect()
    gc.freeze()  # what is there now stays: nobody looks through it again while an order is due
    sys.setswitchinterval(SWITCH_S)
    core.market.add = timed(core.market.add, meters.latency["feature_s"].add)
    facts = facts_of(setup, **facts, at_ns=clock.now(), started=isotime(time.time_ns()), snapshot=journal.last_snapshot())
    before, run = journal.runs()[-1:], {"pid": os.getpid(), "mode": o.mode, "account": account.id, "account_name": account.name, "contract": contract.id, "gateway_url": o.venue.gateway_url,
           "user_hub_url": o.venue.user_hub_url, "market_hub_url": o.venue.market_hub_url, "username": o.venue.username, "started": facts["started"], "ended": ""}
    today = Today(o.folder, setup, journal, predictor, meters, {name: facts[name] for name in ("code", "model", "model_hash")} | {"account": account.name, "contract": contract.id} | ({"market": o.market} if o.market else {}),
                  lambda path: say(f"the day is in {path}"))
    parts = Parts(gateway, journal, core, clock, hubs_of(gateway, o.venue, account.id, contract.id, bool(simulated)), lambda until: session_bars(gateway, contract.id, instrument(o.symbol), until),
                  alerts, meters, facts, control if simulated else "", bool(simulated) and simulated["speed"] == "lockstep", pace, o.settings.ping_url,
                  opened=today.opened, day_over=lambda date: today.over(date, core), orders=lambda: halt.stop_orders(o.folder),
                  cleared=lambda: last_cleared(o.folder, before[0]["facts"].get("started", "") if before else ""), halted=lambda why: halt.add_halt(o.folder, "runner", why, False, []),
                  rescue=lambda why: close_account(o.folder, "runner", why, lambda severity, text: alerts.send(severity, text, text)),
                  lots=lambda: today.closed(core), guard=lambda: guard(o, bool(simulated) and simulated["speed"] == "lockstep"))
    return await _watched(o, stack, Runner(setup, o.folder, parts), run, say)


async def _watched(o: Order, stack: AsyncExitStack, runner: Runner, run: dict, say: Callable) -> int:
    "The run itself, with its door open, its watchdog beside it, and run.json telling where and how."
    def kill(why: str) -> None:
        halt.order_stop(o.folder, "POST /kill", why)
        runner.beat.look_for_orders()
    health = Health(runner.core.status, runner.parts.meters, kill, o.settings.health_port, token=runner_token(o.folder))
    runner.parts = runner.parts._replace(second=health.second, paused=health.pause)
    tell = lambda **more: halt.write_whole(o.folder / "run.json", json.dumps(run | more) + "\n")
    tell()  # the watchdog finds the venue by it
    (o.folder / "heartbeat").touch()
    if o.watched: start_watchdog(o.folder, _watchdog_settings(o, runner.parts.lockstep))
    await stack.enter_async_context(health)
    tell(health=health.url)
    say(f"look at it with: python -m live_runner status --folder {o.folder}")
    loop, ended = asyncio.get_running_loop(), "failed"
    for number in (signal.SIGINT, signal.SIGTERM): loop.add_signal_handler(number, runner.quit, signal.Signals(number).name)
    try:
        code = await runner.run()
        ended = {0: "as asked", 1: "not all was closed in time", 3: "crashed"}[code]
        return code
    finally:
        for number in (signal.SIGINT, signal.SIGTERM): loop.remove_signal_handler(number)
        if ended == "as asked": tell(ended=ended)  # else its watchdog stays


def guard(o: Order, lockstep: bool) -> None:
    "Sees that a watchdog is there; OSError when none can be started."
    if o.watched and watchdog_pid(o.folder) is None: start_watchdog(o.folder, _watchdog_settings(o, lockstep))


def _watchdog_settings(o: Order, lockstep: bool) -> Path | None:
    "The file of settings for the watchdog."
    if not lockstep: return o.settings_file
    path = o.folder / "watchdog.toml"
    path.write_text(f"dead_after_s = {UNWATCHED_S}\n")
    return path


def clock_of(
    simulated: dict | None, # what GET /sim says; None: a real venue
) -> tuple[WallClock, float]: # and how many market seconds there are in one of the wall
    "The market's clock."
    if simulated is None: return WallClock(), 1.0
    if simulated["speed"] == "lockstep": return SteppedClock(simulated["ts"]), 1.0
    pace = float(simulated["speed"]) if simulated["speed"] != "max" else FASTEST
    return PacedClock(simulated["ts"], pace), pace


def hubs_of(
    gateway: Gateway,
    venue: GatewaySettings,
    account: int,   # its id
    contract: str,  # its id
    simulated: bool,
) -> Callable: # (on_user, on_market) -> (user hub, market hub)
    "Makes the two hubs with everything that has to be heard."
    def make(on_user: Callable, on_market: Callable) -> tuple[Hub, Hub]:
        sessions = HubSessions()
        user, market = Hub("user", venue.user_hub_url, gateway.token, on_user, sessions=sessions), Hub("market", venue.market_hub_url, gateway.token, on_market, sessions=sessions)
        user.subscribe("Accounts")
        for subject in ("Orders", "Positions", "Trades"): user.subscribe(subject, account)
        for subject in ("ContractQuotes", "ContractTrades"): market.subscribe(subject, contract)
        for hub in (user, market) * simulated: hub.subscribe("Steps")
        return user, market
    return make


def last_cleared(
    folder: Path, # of the account
    since: str,   # ISO: an older word is spent
) -> tuple[str, str] | None: # by, why
    "Who cleared a halt last, and why."
    try: last = json.loads((folder / halt.CLEARED).read_text().splitlines()[-1])
    except (OSError, ValueError, IndexError): return None
    return (str(last.get("by")), str(last.get("why"))) if last.get("at", "") >= since else None


async def _patiently(o: Order, alerts: Alerts, ask: Callable):
    "Asks a venue that may be away, if need be again and again."
    wait_s = AGAIN_S
    while True:
        try: return await ask()
        except RetryLater as problem:
            if not o.patient: raise
            alerts.send("warning", "venue away", f"{problem}; tried again in {wait_s:g} s")
        await asyncio.sleep(wait_s)
        wait_s = min(2 * wait_s, LONGEST_S)


def load_again(
    facts: dict,         # of a run, as the journal has them
    model: Path | None,  # a model folder; None: of the registry
    models: Path, name: str,
): # a predictor
    "The model that a run had, for its replay; ValueError when it is not the same."
    own = facts["model"].removeprefix(f"{name} ")
    folder = model or (Path(models) / name / own if facts["model"].startswith(f"{name} ") else Path(facts["model"]))
    if model_hash(folder)[:12] != facts["model_hash"]: raise ValueError(f"{folder} is not the model of that run ({facts['model']}, {facts['model_hash']}); give it with --model")
    return load_predictor(folder)
