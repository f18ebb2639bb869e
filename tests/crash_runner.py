"""Real runners, really killed: a small market that outlives them, processes that are forked from one that has everything loaded, and what the venue itself says while nobody runs.

    with Nursery(place) as nursery:
        life = nursery.start("paper", ..., crash="send.before:3")
        life.ended(60)      # -9

A forked process is a process like any other; only its imports are made already. The market is in lockstep: it stands still while its runner is dead."""
import asyncio
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np

from live_runner.protocol import WORKING, OrderStatus, OrderType, Side

ROOT = Path(__file__).resolve().parents[1]
ACCOUNT, MOST = "PRAC-V2-MESBOT-101", 7  # contracts that the settings of `make_shop` let an account of this size hold
WIDE = dict(start_balance_usd=20_000, min_balance_usd=0, day_loss_usd=1e5, day_drawdown_usd=1e5, total_loss_usd=1e5, review_drawdown_usd=1e5, trade_risk_usd=1000, loss_streak=10_000,
            reduce_after_losses=0)
STOPS = dict(stop_ticks=8, target_ticks=12, level_ticks=[6], level_shares=[.5], trail_ticks=6, max_hold_s=15)


def make_shop(
    place: Path, # an empty folder: gets data/, rsi/, settings.toml, keep.toml, and a TOML file for each of configs
    configs: dict, # name -> (risk, stops) other than WIDE and STOPS
    clocks: tuple = ("15:25", "16:03"), # New York time of the first bar, and after the last
):
    "A market with its quotes, a model that trades in it all the time, settings that let it, in two orders a position."
    from mesbot.bars import write_bars
    from mesbot.calendar import utc_ns
    from mesbot.config import load_config, to_toml
    from mesbot.model_files import about_config, save_predictor
    from mesbot.predictors import RsiRule
    from mesbot.sessions import make_bars
    from mesbot.synth import quote_bars, synthetic_market
    market, (begin, end) = synthetic_market(1, seed=5), (int(utc_ns(np.array(["2024-01-02"], "M8[D]"), clock)[0]) for clock in clocks)
    for series, bars in zip(("1s", "1s_bid", "1s_ask"), (market.bars, *quote_bars(market))):
        rows = slice(*np.searchsorted(bars.ts, [begin, end]))
        write_bars(make_bars(*(column[rows] for column in bars[:6]), "MES"), place / "data", series=series)
    for name, (risk, stops) in configs.items(): (place / f"{name}.toml").write_text(to_toml(load_config(risk=WIDE | risk, stops=STOPS | stops, trader=dict(cooldown_s=1.0))))
    save_predictor(RsiRule(load_config().labels.horizon_s, 45.0, 55.0, .85), place / "rsi", about_config(load_config()))
    for name, on_quit in (("settings", "flatten"), ("keep", "keep")): (place / f"{name}.toml").write_text(f'orders_a_minute = 100000\nentries_a_day = 100000\non_quit = "{on_quit}"\n')


# --- processes ---------------------------------------------------------------------------------------------------------------------------------------------

class Life:
    "One process of a runner."

    def __init__(self, nursery: "Nursery", pid: int, out: Path): self.nursery, self.pid, self.out = nursery, pid, out

    def kill(self, number: int = signal.SIGKILL) -> None: os.kill(self.pid, number)  # the nursery keeps the id until `ended`

    def ended(self, seconds: float = 60.0) -> int | None: # below 0: killed by that signal; None: it goes on
        "How it ended, waited for."
        return self.nursery.ask({"wait": self.pid, "seconds": seconds})

    def after(self, seconds: float = 60.0) -> int:
        "The same; who goes on is killed, and the test fails."
        if (code := self.ended(seconds)) is None: self.kill()
        assert code is not None, f"process {self.pid} went on for {seconds:g} s: {self.said[-2000:]}"
        return code

    @property
    def said(self) -> str: return self.out.read_text()

    def __enter__(self) -> "Life": return self

    def __exit__(self, *_) -> None:
        if self.ended(0) is None: self.kill()


class Nursery:
    "Forks runners; ends those that are left, and their markets."

    def __init__(self, place: Path): self.place, self.lives = Path(place), 0

    def __enter__(self) -> "Nursery":
        own = {name: value for name, value in os.environ.items() if not name.startswith("MESBOT_")}
        self._process = subprocess.Popen([sys.executable, __file__], cwd=self.place, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                                         env={**own, "PYTHONPATH": str(ROOT), "NO_PROXY": "127.0.0.1", "MESBOT_LOCKS": str(self.place / "locks")})
        assert self._process.stdout.readline() == "ready\n"
        return self

    def __exit__(self, *_) -> None:
        for folder in self.place.glob(f"*/{ACCOUNT}"): end_market(folder)
        self._process.stdin.close()
        self._process.wait(30)

    def ask(self, what: dict):
        self._process.stdin.write(json.dumps(what) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def start(self, *arguments, crash: str = "", **more) -> Life: # more: other environment
        "`python -m live_runner ARGUMENTS`, in the folder of the shop."
        self.lives += 1
        out = self.place / f"said_{self.lives}.txt"
        return Life(self, self.ask({"start": [str(argument) for argument in arguments], "out": str(out), "environment": {"MESBOT_CRASH": crash, **more}}), out)

    def paper(self, folder: Path, config: str, settings: str = "settings", **how) -> Life:
        "A runner on paper."
        return self.start("paper", "--data", "data", "--from", "15:30", "--model", "rsi", "--config", f"{config}.toml", "--settings", f"{settings}.toml", "--folder", folder, **how)


def nurse() -> None:
    "The process that forks: a JSON line tells it to start or to wait, a JSON line is the answer. Whoever is left when nothing more comes is killed."
    import live_runner.__main__
    import live_runner.paper
    import live_runner.start
    _warm()
    print("ready", flush=True)
    ended, lives = {}, set()
    for line in sys.stdin:
        job = json.loads(line)
        if "start" in job:
            answer = os.fork()
            if not answer: _live(job)
            lives.add(answer)
        else: answer = _waited(job["wait"], job["seconds"], ended)
        print(json.dumps(answer), flush=True)
    for pid in lives - ended.keys(): os.kill(pid, signal.SIGKILL)


def _warm() -> None:
    "Has every compiled step loaded, by one look at a made-up market."
    from live_runner.core import Core, Setup
    from live_runner.messages import Past, Second, Started
    from live_runner.settings import RunnerSettings
    from mesbot.config import load_config
    from mesbot.model_files import load_predictor
    from mesbot.synth import synthetic_market
    bars, config = synthetic_market(1, seed=5).bars, load_config()
    core = Core(Setup(config, "MES", 1, "x", "x", RunnerSettings()), load_predictor(Path("rsi")))
    at, own = int(bars.ts[60]), slice(0, 60)
    for event in (Started(at), Past(at, bars.ts[own], np.column_stack([column[own] for column in bars[1:5]]).astype(np.int32), bars.volume[own]),
                  Second(at + 10**9, (at, *(int(column[60]) for column in bars[1:6])), 1, 2)): core.step(event)
    core.snapshot(), core.status()


def _waited(pid: int, seconds: float, ended: dict) -> int | None:
    end = time.monotonic() + seconds
    while pid not in ended:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found: ended[pid] = os.waitstatus_to_exitcode(status)
        elif time.monotonic() >= end: return None
        else: time.sleep(.005)
    return ended[pid]


def _live(job: dict) -> None:
    "In the forked process: the command, and nothing after it."
    code = 70
    try:
        out = os.open(job["out"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for stream, to in ((0, os.open(os.devnull, os.O_RDONLY)), (1, out), (2, out)): os.dup2(to, stream)
        os.environ.update(job["environment"])
        sys.argv[1:] = job["start"]
        from live_runner import crash
        from live_runner.__main__ import run
        crash.arm(os.environ["MESBOT_CRASH"])
        run()
    except SystemExit as end: code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        import traceback
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def end_market(folder: Path) -> None:
    "Ends the market of a folder and whoever watches it, if they are there."
    from live_runner.watchdog import watchdog_pid
    found = folder / "gateway.json"
    for pid in (json.loads(found.read_text())["pid"] if found.exists() else None, watchdog_pid(folder)):
        with suppress(ProcessLookupError):
            if pid: os.kill(pid, signal.SIGTERM)
    found.unlink(missing_ok=True)


# --- what is seen from outside -------------------------------------------------------------------------------------------------------------------------------

def sign(one) -> int: # of an order or a fill: 1 buys, -1 sells
    return 1 if one.side == Side.BUY else -1


class Seen(NamedTuple):
    "The venue's own words, of everything since the market began."
    now: int          # ns UTC
    balance: float    # USD
    net: int          # contracts, with a sign
    orders: list
    fills: list

    @property
    def working(self) -> list: return [order for order in self.orders if order.status in WORKING]


def look(folder: Path, act=None) -> Seen:
    "The venue, asked by REST; `act` (gateway, account, Seen) -> something to be awaited is done afterwards."
    return asyncio.run(_looked(json.loads((folder / "gateway.json").read_text()), act))


async def _looked(urls: dict, act) -> Seen:
    from live_runner.drive import find_simulator
    from live_runner.gateway.rest import Gateway
    from live_runner.gateway.settings import GatewaySettings
    settings = GatewaySettings(gateway_url=urls["rest"], user_hub_url=urls["user_hub"], market_hub_url=urls["market_hub"], username=urls["username"], api_key=urls["api_key"])
    async with Gateway(settings) as gateway:
        account, = await gateway.accounts(False)
        positions, orders, fills = await asyncio.gather(gateway.positions(account.id), gateway.orders(account.id, 0), gateway.trades(account.id, 0))
        seen = Seen((await find_simulator(urls["control"]))["ts"], account.balance, sum(position.net for position in positions), orders, fills)
        if act: await act(gateway, account.id, seen)
        return seen


def status(folder: Path) -> dict:
    "GET /status of the runner; {} where there is none."
    try: return json.load(urllib.request.urlopen(json.loads((folder / "run.json").read_text())["health"] + "/status", timeout=5))
    except (OSError, ValueError, KeyError): return {}


def until(true, seconds: float = 60.0):
    "What `true()` says when it says something; fails when it never does."
    end = time.monotonic() + seconds
    while not (said := true()):
        assert time.monotonic() < end, "it did not come to be"
        time.sleep(.002)
    return said


def safe(seen: Seen) -> list: # of texts; empty: all is well
    "Is every open contract protected, is no tag there twice, can no more be held than may be?"
    side, wrong = np.sign(seen.net), []
    stops = sum(order.size - order.filled for order in seen.orders if order.status == OrderStatus.OPEN and order.type == OrderType.STOP and sign(order) == -side)
    closing = [order for order in seen.working if order.type == OrderType.MARKET and order.tag is None]
    if stops < abs(seen.net) and not closing: wrong.append(f"{seen.net} held, stops for {stops}")
    twice = [tag for tag, count in Counter(order.tag for order in seen.orders if order.tag).items() if count > 1]
    if twice: wrong.append(f"tags that are there twice: {twice}")
    entries = [order for order in seen.working if order.type == OrderType.MARKET and order.tag is not None]
    reach = [abs(seen.net + sum(sign(order) * (order.size - order.filled) for order in entries if sign(order) in ways)) for ways in ((1, -1), (1,), (-1,))]
    if max(reach) > MOST: wrong.append(f"{seen.net} held and {[(order.tag, order.size) for order in entries]} on their way, {MOST} are allowed")
    return wrong


def naked_s(seen: Seen) -> float:
    "The longest time, in seconds of the market, for which a contract was held that no resting stop and no closing order was for."
    born = {}
    for fill in seen.fills: born.setdefault(fill.order, fill.ts)
    spans = []  # from, to, contracts, with the sign of the position they are for
    for order in seen.orders:
        over = seen.now if order.status in (OrderStatus.OPEN, OrderStatus.PENDING) else order.updated
        if order.type == OrderType.STOP and order.status != OrderStatus.SUSPENDED: spans.append((born.get(order.parent, order.created), over, -sign(order) * order.size))
        if order.type == OrderType.MARKET and order.tag is None: spans.append((order.created, over, -sign(order) * order.size))
    moments, longest, since = sorted({fill.ts for fill in seen.fills} | {at for span in spans for at in span[:2]} | {seen.now}), 0.0, None
    for at, to in zip(moments, moments[1:]):
        net = sum(sign(fill) * fill.size for fill in seen.fills if fill.ts <= at)
        kept = sum(abs(size) for begin, over, size in spans if begin <= at < over and size * net > 0)
        since = (at if since is None else since) if kept < abs(net) else None
        if since is not None: longest = max(longest, (to - since) / 1e9)
    return longest


if __name__ == "__main__": nurse()
