"""The commands of whoever trades: paper, observe, live; status, kill, clear; replay, backup; and watch, which the runner starts itself. Heavy imports are made where they are needed.

Exit codes: 0 done, 1 not (not flat, not equal, not all closed), 2 wrong use, 3 the runner crashed and closed everything."""
import asyncio
from pathlib import Path
from typing import Annotated

import typer

from mesbot.data_commands import ConfigFile, Symbol

Folder = Annotated[Path, typer.Option(help="Of the account.", show_default="the one in runs/live")]
Account = Annotated[str, typer.Option(help="Name of the account, instead of its folder.")]
SettingsFile = Annotated[Path, typer.Option(help="How the runner behaves (TOML): alerts, ping_url, protect_s ...; live_runner/settings.py has all of it.", show_default="built-in settings")]
Model = Annotated[Path, typer.Option(help="A model folder.", show_default="the promoted one")]
Models = Annotated[Path, typer.Option(help="The registry.")]
Name = Annotated[str, typer.Option(help="Of the model in the registry.")]
Log = Annotated[Path, typer.Option(help="Append the log to this file.", show_default="FOLDER/runner.log")]
By, Why = Annotated[str, typer.Option(help="Who does it.")], Annotated[str, typer.Option(help="Why.")]
LIVE = Path("runs/live")


def paper(
    synthetic: Annotated[bool, typer.Option("--synthetic", help="Trade in the synthetic market of MES.")] = False,
    sessions: Annotated[int, typer.Option(help="Its length.", show_default="1")] = None,
    seed: Annotated[int, typer.Option(help="Of the synthetic market.", min=0)] = 1,
    alpha: Annotated[float, typer.Option(help="Size of its planted edge, 0 for none.", show_default="0.1")] = None,
    data: Annotated[Path, typer.Option(help="A store of real bars to trade in, instead.")] = None,
    symbol: Symbol = "MES",
    start: Annotated[str, typer.Option(help="First trade date (2024-01-31) or instant (UTC) of the store's bars.")] = None,
    end: Annotated[str, typer.Option(help="Where to stop before.")] = None,
    begin: Annotated[str, typer.Option("--from", help="New York time at which the first session begins; its bars before are history. Empty: with its first bar.")] = "09:25",
    speed: Annotated[str, typer.Option(help="max: as fast as the runner decides; or market seconds in a second.")] = "max",
    config: ConfigFile = None, settings: SettingsFile = None, model: Model = None, models: Models = Path("models"), name: Name = "practice", folder: Folder = None, log: Log = None,
):
    "Trade in a simulated market that is started beside the runner. After kill -9 the same command goes on where it was."
    from mesbot.config import load_config

    from . import paper as own
    from .settings import load_settings
    if speed != "max": _positive(speed)
    if not data and seed >= 1_000_000: raise ValueError(f"--seed must be below 1,000,000, got {seed}: the others are what practice models learn from")
    source = _source(synthetic, sessions, seed, alpha, data, symbol, start, end, begin)
    edge = 0.1 if alpha is None else alpha
    market = f"bars of {data}, replayed" if data else f"made up (seed {seed}), {f'with a planted edge of {edge:g}: what it earns says nothing' if edge else 'without an edge'}"
    place = folder / own.ACCOUNT if folder and folder.name != own.ACCOUNT else folder or LIVE / own.ACCOUNT
    chosen, ours = load_config(config), load_settings(settings)
    _logged(place, log)
    from . import start as starting
    from .lock import AccountLock
    async def work() -> int:
        venue = await own.open_venue(place, chosen, source, speed)
        if venue.found: typer.echo("the market of before is still there: going on where it was")
        order = starting.Order("paper", place, own.ACCOUNT, symbol, chosen, ours, venue.settings, model, models, name, settings, prefix="paper", market=market)
        code = 2
        try: code = await starting.trade(order, typer.echo)
        finally:
            if code == 0 and ours.on_quit == "flatten" or code == 2 and not venue.found: venue.end()
        return code
    with AccountLock(str(place.resolve()), own.ACCOUNT): code = asyncio.run(work())
    if code == 0: _review(place)
    raise typer.Exit(code)


def _review(place: Path) -> None:
    "The last day's page, by `mesbot review` in a process of its own: it needs what a runner does without."
    import subprocess
    import sys
    days = sorted((place / "days").glob("*/day.json"))
    if not days: return typer.echo("no day was finished, so there is nothing to review")
    done = subprocess.run([sys.executable, "-c", "from mesbot.cli import run; run()", "review", str(days[-1].parent)], capture_output=True, text=True)
    typer.echo(done.stdout.strip() if done.returncode == 0 else f"no page for {days[-1].parent}: {(done.stderr.strip().splitlines() or ['mesbot review failed'])[-1]}")


def _positive(speed: str) -> None:
    "ValueError for a speed that is none."
    try: number = float(speed)
    except ValueError: number = 0.0
    if not 0 < number < 1e6: raise ValueError(f"--speed must be max or market seconds in a second, got {speed!r}")


def _source(synthetic, sessions, seed, alpha, data, symbol, start, end, begin) -> list[str]: # options of `gateway`
    "What is played; ValueError for options that do not go together. Without any of them it is the synthetic market."
    if synthetic and data: raise ValueError("give one of --synthetic and --data, got both")
    for option, value, fits in (("--start", start, data), ("--end", end, data), ("--sessions", sessions, not data), ("--alpha", alpha, not data)):
        if value is not None and not fits: raise ValueError(f"{option} goes with {'--data' if option in ('--start', '--end') else '--synthetic'}")
    if not data and symbol != "MES": raise ValueError(f"--symbol {symbol} goes with --data; the synthetic market is MES")
    own = ["--data", str(data), "--symbol", symbol] if data else ["--synthetic", "--sessions", str(1 if sessions is None else sessions), "--alpha", repr(0.1 if alpha is None else alpha)]
    given = [part for option, value in (("--start", start), ("--end", end), ("--from", begin or None)) if value for part in (option, value)]
    return [*own, "--seed", str(seed), *given]


def _logged(place: Path, log: Path | None) -> None:
    "The log goes into the folder; only what is critical is seen at the terminal too."
    from . import logs
    place.mkdir(parents=True, exist_ok=True)
    logs.configure(log or place / "runner.log", "INFO")
    logs.also_at_the_terminal()


def observe(
    account: Annotated[str, typer.Option(help="Name of the account that is looked at.")],
    symbol: Symbol = "MES", config: ConfigFile = None, settings: SettingsFile = None, model: Model = None, models: Models = Path("models"), name: Name = "practice", folder: Folder = None,
    log: Log = None,
):
    "Decide on real data and send nothing: what would have been sent is in the log. Gateway and key come from the environment: MESBOT_GATEWAY_URL, MESBOT_USERNAME, MESBOT_API_KEY ..."
    raise typer.Exit(_trade("observe", account, symbol, config, settings, model, models, name, folder, log, True))


def live(
    account: Annotated[str, typer.Option(help="Name of the account that trades.")],
    confirm: Annotated[bool, typer.Option("--confirm", help="Orders are sent.")] = False,
    real_money: Annotated[bool, typer.Option("--real-money", help="Also in an account that is not simulated.")] = False,
    symbol: Symbol = "MES", config: ConfigFile = None, settings: SettingsFile = None, model: Model = None, models: Models = Path("models"), name: Name = "practice", folder: Folder = None,
    log: Log = None,
):
    "Trade. Gateway and key come from the environment: MESBOT_GATEWAY_URL, MESBOT_USER_HUB_URL, MESBOT_MARKET_HUB_URL, MESBOT_USERNAME, MESBOT_API_KEY."
    if not confirm: raise ValueError(f"live sends orders to account {account}: say --confirm")
    raise typer.Exit(_trade("live", account, symbol, config, settings, model, models, name, folder, log, real_money))


def _trade(mode, account, symbol, config, settings, model, models, name, folder, log, real_money) -> int:
    "A run at the venue of the environment."
    from mesbot.config import load_config

    from .gateway.settings import GatewaySettings
    from .settings import load_settings
    place, chosen, ours, venue = folder or LIVE / account, load_config(config), load_settings(settings), GatewaySettings()
    if place.resolve().name != account: raise ValueError(f"the folder must be named as the account {account} is, got {place}")
    _logged(place, log)
    from . import start as starting
    return asyncio.run(starting.trade(starting.Order(mode, place, account, symbol, chosen, ours, venue, model, models, name, settings, real_money, patient=True), typer.echo))


def status(
    folder: Folder = None,
    once: Annotated[bool, typer.Option("--once", help="One look.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
):
    "Look at a runner: price, position, stop, money, limits left, and why it did what it did last."
    from .status import show
    raise typer.Exit(show(folder, once, as_json))


def kill(folder: Folder = None, account: Account = "", why: Why = ""):
    "Close everything and open nothing, until `clear`; works also when the runner is stuck or gone. Exit code 0: flat, 1: not."
    from .kill import kill_command
    code, line = kill_command(folder, account, why)
    typer.echo(line, err=bool(code))
    raise typer.Exit(code)


def clear(
    by: By, why: Why, folder: Folder = None, account: Account = "",
    latch: Annotated[str, typer.Option(help="What is opened: halt, or a latch of the trading rules: killed, review, passed, day_stop, pause.")] = "halt",
):
    "Let a halted account trade again; it is remembered who said so, and why."
    from mesbot.keeper import LATCHES

    from . import halt
    from .kill import clear_command, folder_of
    if latch == "halt": return typer.echo(clear_command(folder, account, by, why))
    if latch not in LATCHES: raise ValueError(f"--latch must be halt, {', '.join(LATCHES)}, got {latch!r}")
    place = folder_of(folder, account)
    halt.wish_clear(place, latch, by, why)
    typer.echo(f"{place}: the runner opens {latch} within a second, or at its next start")


def replay(
    journal: Annotated[Path, typer.Argument(help="A journal, or the folder of an account.", show_default="the one in runs/live")] = None,
    run: Annotated[int, typer.Option(help="Which run.", show_default="the newest")] = None,
    model: Model = None, models: Models = Path("models"), name: Name = "practice",
):
    "Decide everything again from the journal: the same events must lead to the same commands, bit for bit. Exit code 1: they do not."
    from .replay import replay as again
    from .start import load_again
    from .kill import folder_of
    done = again(_journal(journal or folder_of(None)), lambda facts: load_again(facts, model, models, name), run)
    typer.echo(f"{done.events:,} events, {done.commands:,} commands: {done.first_difference or 'the same, bit for bit'}", err=bool(done.first_difference))
    raise typer.Exit(int(bool(done.first_difference)))


def backup(
    journal: Annotated[Path, typer.Argument(help="A journal, or the folder of an account.")],
    to: Annotated[Path, typer.Argument(help="The copy.")],
):
    "Copy a journal, while it is used or after: whole or not at all."
    from .journal_file import JournalReader
    reader = JournalReader(_journal(journal))
    try: reader.backup(to)
    finally: reader.close()
    typer.echo(f"{to}: {to.stat().st_size:,} bytes")


def _journal(path: Path) -> Path: return path / "journal.db" if path.is_dir() else path


def watch(folder: Annotated[Path, typer.Argument(help="Of an account.")], settings: SettingsFile = None):
    "Close everything when told to, or when the runner gives no sign of life. The runner starts it."
    from .settings import load_settings
    from .watchdog import watch as look
    typer.echo(look(folder, load_settings(settings)))


COMMANDS = (paper, observe, live, status, kill, clear, replay, backup)
