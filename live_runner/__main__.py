"`python -m live_runner`: the runner and what belongs to it, the simulated gateway, and the recorder of a live feed. One clear line when something is wrong, and an exit code a script can trust."
import asyncio
import functools
import json
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from mesbot import data_commands
from mesbot.data_commands import Symbol

from . import commands
from .problems import Problem

app = typer.Typer(help="Trade with the TopstepX gateway, or with a simulated one.", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


@app.callback()
def main():
    "Trade with the TopstepX gateway, or with a simulated one."


one_line = functools.partial(data_commands.one_line, program="live_runner", refused=(ValueError, OSError, Problem))


async def until_stopped(
    *works, # coroutines; the first that ends, or SIGINT or SIGTERM, ends them all
) -> None:
    "Work until there is a reason to stop; raises what a work raises."
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM): loop.add_signal_handler(number, stop.set)
    tasks = {asyncio.ensure_future(work) for work in works}
    done, _ = await asyncio.wait({*tasks, asyncio.ensure_future(stop.wait())}, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks - done: task.cancel()
    for task in tasks:
        with suppress(asyncio.CancelledError): await task


@app.command()
@one_line
def gateway(
    data: Annotated[Path, typer.Option(help="A store of real bars to replay.")] = None,
    symbol: Symbol = "MES",
    start: Annotated[str, typer.Option(help="First trade date (2024-01-31) or instant (UTC) of the store's bars.")] = None,
    end: Annotated[str, typer.Option(help="Where to stop before.")] = None,
    synthetic: Annotated[bool, typer.Option("--synthetic", help="Replay the synthetic market of MES.")] = False,
    sessions: Annotated[int, typer.Option(help="Its length.", show_default="5")] = None,
    alpha: Annotated[float, typer.Option(help="Size of its planted edge, 0 for none.", show_default="0")] = None,
    recorded: Annotated[Path, typer.Option(help="A file of `record` to replay.")] = None,
    speed: Annotated[str, typer.Option(help="Market seconds in a second; max: as fast as the slowest client reads, from the first market subscription on; lockstep: only by the control call /sim/step. The time between sessions is leapt over.")] = "1",
    host: Annotated[str, typer.Option(help="Where to listen; anything but loopback needs MESBOT_GATEWAY_SECRET, 16 characters or more, in the environment.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 for a free one.", min=0, max=65535)] = 0,
    seed: Annotated[int, typer.Option(help="Of the synthetic market and of the plan of faults.", min=0)] = 1,
    balance: Annotated[float, typer.Option(help="Of the account at the start, USD.", show_default="1000")] = None,
    hours: Annotated[str, typer.Option(help="topstep: flat by 16:10 New York; exchange: the whole session.")] = "topstep",
    config: Annotated[Path, typer.Option(help="Settings (TOML) whose costs are charged: how fills slip, commission and fees; and whose latency orders have.", show_default="slippage of a back-test, fees of TopstepX")] = None,
    begin: Annotated[str, typer.Option("--from", help="New York time of day at which the first session begins to play, such as 09:25; the bars before it are history.", show_default="its first bar")] = None,
    idle_minutes: Annotated[float, typer.Option(help="End after so long without a connection or a request; 0: never.", min=0)] = 0,
    log: Annotated[Path, typer.Option(help="Append the log to this file.", show_default="warnings on stderr")] = None,
):
    "Serve a simulated gateway until Ctrl-C or SIGTERM. Once it is ready one JSON line says where: rest, user_hub, market_hub, username, api_key, control."
    from . import logs
    from .simulator.replay import check_speed
    from .simulator.world import World
    logs.configure(log, "INFO" if log else "WARNING")
    check_speed(speed)
    server, venue = server_settings(host, port), venue_settings(balance, hours, config)
    tape = open_tape(data, symbol, start, end, synthetic, sessions, alpha, recorded, seed)
    if begin: tape.begin_at(begin)
    async def serve():
        async with World(tape, speed, venue, server, seed) as world:
            typer.echo(json.dumps(world.urls._asdict()))
            await until_stopped(world.playing or asyncio.Event().wait(), *([idle(world.server, idle_minutes * 60)] if idle_minutes else []))
    asyncio.run(serve())


async def idle(
    server, # `SimulatedGateway`
    seconds: float,
) -> None:
    "Returns when nobody has been connected or has asked anything for so long."
    seen, since = 0, time.monotonic()
    while time.monotonic() - since < seconds:
        await asyncio.sleep(min(seconds / 10, 5.0))
        if server.emit.connections or server.requests.total() != seen: seen, since = server.requests.total(), time.monotonic()


def server_settings(host: str, port: int):
    "Settings of the server; FixTheConfig for a secret that is too short, or missing where it is needed."
    import os

    from .problems import FixTheConfig
    from .simulator.server import check_door
    from .simulator.server_settings import ServerSettings
    secret = os.environ.get("MESBOT_GATEWAY_SECRET")
    if secret is not None and len(secret) < 16: raise FixTheConfig(f"MESBOT_GATEWAY_SECRET must have 16 characters or more, got {len(secret)}")
    settings = ServerSettings(host=host, port=port, secret=secret)
    check_door(settings)
    return settings


def venue_settings(balance: float | None, hours: str, config: Path | None):
    "Settings of the venue; ValueError for hours or a balance it cannot have, and what `load_config` raises."
    from mesbot.config import load_config

    from .simulator.settings import AccountSettings, VenueSettings
    if hours not in ("topstep", "exchange"): raise ValueError(f"--hours must be topstep or exchange, got {hours!r}")
    if balance is not None and not 0 < balance < 1e9: raise ValueError(f"--balance must be above 0 USD, got {balance:g}")
    account = AccountSettings() if balance is None else AccountSettings(balance=balance)
    if config is None: return VenueSettings(hours=hours, accounts=(account,))
    settings = load_config(config)
    return VenueSettings(hours=hours, accounts=(account,), config=settings, commission_usd=settings.costs.commission_usd, fees_usd=settings.costs.fees_usd,
                         latency_s=settings.trader.latency_s)


def open_tape(
    data, symbol, start, end, synthetic, sessions, alpha, recorded, seed, # as typed
):
    "The tape that is meant; ValueError for options that do not go together, and what the source raises."
    sources = [name for name, given in (("--data", data), ("--synthetic", synthetic), ("--recorded", recorded)) if given]
    if len(sources) != 1: raise ValueError(f"give one of --data, --synthetic and --recorded, got {' and '.join(sources) or 'none'}")
    for option, value, fits in (("--start", start, data), ("--end", end, data), ("--sessions", sessions, synthetic), ("--alpha", alpha, synthetic)):
        if value is not None and not fits: raise ValueError(f"{option} goes with {'--data' if option in ('--start', '--end') else '--synthetic'}, got it with {sources[0]}")
    if symbol != "MES" and not data: raise ValueError(f"--symbol {symbol} goes with --data; the synthetic market is MES, and a recording knows what it holds")
    if recorded:
        from .simulator.recorded import RecordedTape
        return RecordedTape(recorded)
    from .simulator.sources import stored_tape, synthetic_tape
    return stored_tape(symbol, data, start, end) if data else synthetic_tape(5 if sessions is None else sessions, seed, alpha or 0.0)


@app.command()
@one_line
def record(
    out: Annotated[Path, typer.Option(help="A new file, such as mes.jsonl.gz.")],
    contract: Annotated[str, typer.Option(help="Id of the contract, such as CON.F.US.MES.Z26.", show_default="the front month of the symbol")] = "",
    symbol: Annotated[str, typer.Option(help="As its contracts are called.")] = "MES",
    seconds: Annotated[float, typer.Option(help="How long.", show_default="until Ctrl-C", min=0)] = 0,
    log: Annotated[Path, typer.Option(help="Append the log to this file.", show_default="warnings on stderr")] = None,
):
    "Store the quotes and trades of one contract for replay. Gateway and key come from the environment: MESBOT_GATEWAY_URL, MESBOT_MARKET_HUB_URL, MESBOT_USERNAME, MESBOT_API_KEY."
    from . import logs
    from .gateway.rest import Gateway
    from .gateway.settings import GatewaySettings
    from .recorder import Recorder
    logs.configure(log, "INFO" if log else "WARNING")
    settings = GatewaySettings()
    async def work():
        async with Gateway(settings) as client:
            recorder = Recorder(client, settings.market_hub_url, out, contract, symbol.upper())
            await until_stopped(recorder.run(seconds))
            return recorder
    done = asyncio.run(work()).recording
    if done: typer.echo(f"{done.quotes:,} quotes and {done.trades:,} trades in {out}{f', cut off {done.gaps} times' if done.gaps else ''}")


for command in commands.COMMANDS: app.command()(one_line(command))
app.command(hidden=True)(one_line(commands.watch))


def run() -> None:
    "The command."
    try: code = app(prog_name="python -m live_runner", standalone_mode=False)
    except typer.Abort: code = 130                   # interrupted at the keyboard
    except Exception as e:
        if not hasattr(e, "format_message"): raise   # not a usage error
        told = " ".join(e.format_message().split()).rstrip(".")
        if not told: raise SystemExit(2) from None   # no command: the help has been shown
        typer.echo(f"live_runner: {told[0].lower() + told[1:]} (--help says what there is)", err=True)
        code = 2
    raise SystemExit(code or 0)


if __name__ == "__main__": run()
