"""Ten days of paper trading on end, as fast as decisions are made: does memory stay flat, and how long does everything take? Not a test: `make marathon` runs it, exit code 1 when memory grows.

The runner and its market are processes of their own, as they are for everybody."""
import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

ALLOWED = 1.1  # memory after the last day against that after the second


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--sessions", type=int, default=10)
    options.add_argument("--seed", type=int, default=1)
    chosen = options.parse_args()
    if chosen.sessions < 3: options.error(f"--sessions must be at least 3, got {chosen.sessions}: the first two days only warm up")
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        subprocess.run([sys.executable, "-c", "from mesbot.cli import run; run()", "models", "practice"], cwd=place, check=True, stdout=subprocess.DEVNULL)
        began = time.monotonic()
        runner = subprocess.Popen([sys.executable, "-m", "live_runner", "paper", "--sessions", str(chosen.sessions), "--seed", str(chosen.seed), "--from", ""], cwd=place, stdout=subprocess.PIPE, text=True)
        sizes = list(followed(runner, place, began))
        if runner.wait(): return runner.returncode
        days = sorted(place.glob("runs/live/*/days/*/day.json"))
        tell_latency([json.loads(day.read_text()) for day in days])
    grown = sizes[-1] / sizes[1]
    print(f"memory after {len(sizes)} days is {grown:.2f} times that after two; {ALLOWED} is allowed")
    return int(grown > ALLOWED or len(sizes) < chosen.sessions)


def followed(runner: subprocess.Popen, place: Path, began: float):
    "The runner's memory, MB, as each of its days is written down."
    process, before = psutil.Process(runner.pid), began
    for line in runner.stdout:
        if not line.startswith("the day is in"): continue
        now, rss, handles = time.monotonic(), process.memory_info().rss / 1e6, process.num_fds()
        day = json.loads((place / line.split()[-1] / "day.json").read_text())
        print(f"{day['date']}: {now - before:.0f} s, {day['summary']['trades']} trades, net {day['summary']['net_usd']:+.2f} USD, runner {rss:.0f} MB, {handles} handles", flush=True)
        before = now
        yield rss


def tell_latency(days: list):
    "The histograms are those of the whole run: the last day has them all."
    for name, told in days[-1]["latency"].items():
        if told["count"]: print(f"{name}: {told['count']:,} times, p50 {told['p50_s'] * 1e3:.3f} ms, p99 {told['p99_s'] * 1e3:.3f} ms, most {told['max_s'] * 1e3:.1f} ms")


if __name__ == "__main__": sys.exit(main())
