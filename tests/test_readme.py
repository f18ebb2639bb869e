"Every command in README.md is run, and its picture and links are there."
import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
from conftest import ROOT

README = (ROOT / "README.md").read_text()
COMMANDS = [line for block in re.findall(r"```sh\n(.*?)```", README, re.S) for line in block.splitlines() if line.strip()]
EXPECTED = {".venv/bin/mesbot report --alpha 0": 1, ".venv/bin/mesbot report --data data --symbol MES": 1}  # the verdict is no


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    "A folder with the reader's own bars: half a minute that traded in every second."
    folder = tmp_path_factory.mktemp("reader")
    rows = [f"2024-01-03T15:00:{s:02}Z,4700.25,4700.5,4700,4700.25,{s + 1}" for s in range(30)]
    (folder / "my_bars.csv").write_text("\n".join(["ts,open,high,low,close,volume", *rows]) + "\n")
    return folder


@pytest.fixture(scope="module")
def gateway(place):
    "The simulated gateway as the reader starts it, and the environment in which a client finds it."
    command = next(c for c in COMMANDS if "live_runner gateway" in c).replace(".venv/bin/", f"{ROOT}/.venv/bin/")
    server = subprocess.Popen(command.split(), stdout=subprocess.PIPE, text=True, cwd=place)
    at = json.loads(server.stdout.readline())
    yield {"MESBOT_GATEWAY_URL": at["rest"], "MESBOT_USER_HUB_URL": at["user_hub"], "MESBOT_MARKET_HUB_URL": at["market_hub"], "MESBOT_USERNAME": at["username"], "MESBOT_API_KEY": at["api_key"]}
    server.send_signal(signal.SIGINT)
    assert server.wait(20) == 0


@pytest.fixture(scope="module")
def runner(place):
    "A runner that the reader has left running in a market of its own; the model is that of `make paper`."
    where = place / "runs" / "live" / "PRAC-V2-MESBOT-101"
    running = subprocess.Popen([f"{ROOT}/.venv/bin/python", "-m", "live_runner", "paper", "--from", "10:00", "--speed", "5"], stdout=subprocess.PIPE, text=True, cwd=place)
    for line in running.stdout:
        if "status" in line: break
    for _ in range(200):
        if (where / "run.json").exists() and json.loads((where / "run.json").read_text()).get("health"): break
        time.sleep(.1)
    time.sleep(3)  # its first seconds
    yield
    running.send_signal(signal.SIGTERM)
    assert running.wait(60) == 0


RUNNING = ("live_runner status", "live_runner kill", "live_runner clear", "live_runner replay")


@pytest.mark.parametrize("command", COMMANDS)
def test_command(command, place, request):
    env = os.environ | {"MESBOT_PATHS__RUNS": str(place / "runs")}
    if command == "make test":  # this very test is part of it: look at what it would do
        recipe = subprocess.run(["make", "--dry-run", "test"], capture_output=True, text=True, cwd=ROOT, check=True).stdout
        assert re.search(r"nbdev_clean.*nbdev_export.*nbdev_test.*pytest .*tests", recipe, re.S)
        return
    if any(name in command for name in RUNNING): request.getfixturevalue("runner")
    elif "live_runner" in command: env |= request.getfixturevalue("gateway")
    if "live_runner gateway" in command: return   # it was started
    if command == "make paper": command += f" MODELS={place}/models ARGS='--from 16:00 --folder {place}/paper'"  # the last half hour of its day
    runs = sorted((place / "runs").glob("*_report"))
    for word, k in (("ONE", 0), ("OTHER", -1)): command = command.replace(f"runs/{word}", str(runs[k]) if runs else word)
    command = command.replace("--seeds 100", "--seeds 1")  # a hundred take a quarter of an hour
    in_project = command.startswith("make")
    done = subprocess.run(command if in_project else command.replace(".venv/bin/", f"{ROOT}/.venv/bin/"), shell=True, capture_output=True, text=True, cwd=ROOT if in_project else place, env=env)
    assert done.returncode == (1 if "challenge" in command and "is less than" in done.stdout else EXPECTED.get(command, 0)), done.stdout[-1500:] + done.stderr[-1500:]
    for kind in ("report", "paper"):
        if f"mesbot {kind}" not in command and not command.startswith(f"make {kind}"): continue
        page = Path(done.stdout.strip().split("\n")[-1])
        assert page.name == {"report": "report.html", "paper": "review.html"}[kind] and page.is_file()


def test_there_are_commands_to_run(): assert {"make report", "make test"} <= set(COMMANDS) and len(COMMANDS) >= 6


def test_readme_is_short_and_its_files_exist():
    assert len(README.splitlines()) < 150
    files = re.findall(r"\]\((?!http)([^)]+)\)", README) + re.findall(r"`(nbs/[^`]+)`", README)
    assert files and [f for f in files if not (ROOT / f).exists()] == []


def test_the_toml_example_is_valid(tmp_path):
    from mesbot.config import load_config
    (tmp_path / "mine.toml").write_text(re.search(r"```toml\n(.*?)```", README, re.S).group(1))
    config = load_config(tmp_path / "mine.toml")
    assert config.stops.stop_ticks == 10 and config.costs.commission_usd == .25
