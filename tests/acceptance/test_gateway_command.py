"LIV-1: `python -m live_runner gateway` and `record`, as a script sees them: one JSON line when ready, exit code 0 when told to end, 2 and one line when something is wrong."
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest
from typer.testing import CliRunner

from live_runner.__main__ import app, venue_settings
from live_runner.simulator.recorded import RecordedTape, read_recording
from mesbot.bars import n_bars

pytestmark = pytest.mark.usefixtures("own_logging")
ROOT = Path(__file__).resolve().parents[2]
CONTRACT = "CON.F.US.MES.H24"   # front month of the synthetic market's first trade date, 2024-01-02


def started(*arguments, **environment):
    "A command in a process of its own."
    own = {name: value for name, value in os.environ.items() if not name.startswith("MESBOT_")}
    return subprocess.Popen([sys.executable, "-m", "live_runner", *map(str, arguments)], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                            env={**own, "PYTHONPATH": str(ROOT), "NO_PROXY": "127.0.0.1", **environment})


@contextmanager
def gateway(*arguments, end=signal.SIGTERM, **environment):
    "A running gateway and its line; told to end it must end with 0 and have said nothing else."
    process = started("gateway", *arguments, **environment)
    try:
        line = process.stdout.readline()
        assert line, process.stderr.read()
        yield json.loads(line)
        process.send_signal(end)
        rest, complaints = process.communicate(timeout=20)
        assert (process.returncode, rest, complaints) == (0, "", "")
    finally:
        if process.poll() is None: process.kill()
        process.communicate()


def post(url, body=None, token=None):
    "The JSON answer of a POST."
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
    with urllib.request.urlopen(urllib.request.Request(url, json.dumps(body or {}).encode(), headers), timeout=20) as answer: return json.load(answer)


def login(urls): return post(f"{urls['rest']}/api/Auth/loginKey", {"userName": urls["username"], "apiKey": urls["api_key"]})["token"]


def client_of(urls):
    "The environment of our own client."
    return {"MESBOT_GATEWAY_URL": urls["rest"], "MESBOT_USER_HUB_URL": urls["user_hub"], "MESBOT_MARKET_HUB_URL": urls["market_hub"], "MESBOT_USERNAME": urls["username"], "MESBOT_API_KEY": urls["api_key"]}


def test_a_gateway_in_lockstep():
    "The line has every URL and what to log in with; the market stands until it is told to go on; history begins where the market is."
    with gateway("--synthetic", "--sessions", 1, "--speed", "lockstep", "--balance", 2500) as urls:
        assert set(urls) == {"rest", "user_hub", "market_hub", "control", "username", "api_key"}
        assert urls["rest"].startswith("http://127.0.0.1:") and urllib.request.urlopen(f"{urls['rest']}/api/Status/ping").read() == b'"pong"'
        token = login(urls)
        account, = post(f"{urls['rest']}/api/Account/search", {"onlyActiveAccounts": True}, token)["accounts"]
        assert account["balance"] == 2500
        assert CONTRACT in [c["id"] for c in post(f"{urls['rest']}/api/Contract/search", {"searchText": "MES", "live": False}, token)["contracts"]]
        asked = {"contractId": CONTRACT, "live": False, "startTime": "2024-01-01T00:00:00Z", "endTime": "2024-01-05T00:00:00Z", "unit": 1, "unitNumber": 1, "limit": 100, "includePartialBar": False}
        bars = lambda: post(f"{urls['rest']}/api/History/retrieveBars", asked, token)["bars"]
        assert bars() == []
        done = post(f"{urls['control']}/step", {"bars": 40})
        assert done["bars"] == 40 and not done["ended"] and len(bars()) == 40
        assert post(f"{urls['control']}/step", {"seconds": 24 * 3600})["ended"]


def test_it_ends_by_ctrl_c_too_and_plays_by_itself():
    "At a pace the market goes on alone, and interrupting at the keyboard is no error."
    with gateway("--synthetic", "--sessions", 1, "--speed", 600, end=signal.SIGINT) as urls:
        looks, end = [], time.monotonic() + 30
        while time.monotonic() < end and not (looks and looks[-1]["ts"] > looks[0]["ts"] + 120 * 10**9):
            looks.append(json.load(urllib.request.urlopen(urls["control"])))
            time.sleep(.05)
        assert looks[-1]["ts"] > looks[0]["ts"] + 120 * 10**9 and looks[-1]["speed"] == 600


def test_elsewhere_than_loopback_needs_a_secret():
    with gateway("--synthetic", "--sessions", 1, "--speed", "lockstep", "--host", "0.0.0.0", MESBOT_GATEWAY_SECRET="0123456789abcdef") as urls:
        port = urls["rest"].rpartition(":")[2]
        assert urllib.request.urlopen(f"http://127.0.0.1:{port}/api/Status/ping").read() == b'"pong"'


@pytest.mark.parametrize("arguments, text", [
    ("gateway", "one of --data, --synthetic and --recorded, got none"),
    ("gateway --synthetic --data x", "got --data and --synthetic"),
    ("gateway --synthetic --start 2024-01-02", "--start goes with --data"),
    ("gateway --data x --alpha 1", "--alpha goes with --synthetic"),
    ("gateway --synthetic --symbol ES", "--symbol ES goes with --data"),
    ("gateway --synthetic --speed fast", "speed must be"),
    ("gateway --synthetic --speed -1", "speed must be"),
    ("gateway --synthetic --hours all", "--hours must be topstep or exchange"),
    ("gateway --synthetic --balance 0", "--balance must be above 0"),
    ("gateway --synthetic --sessions 0", "sessions must be"),
    ("gateway --synthetic --sessions 1 --host 0.0.0.0", "MESBOT_GATEWAY_SECRET"),
    ("gateway --data nowhere", "no bars of MES in"),
    ("gateway --synthetic --config nowhere.toml", "nowhere.toml: no such config file"),
    ("gateway --recorded nowhere.gz", "nowhere.gz: No such file or directory"),
    ("record --out new.gz", "MESBOT_USERNAME and MESBOT_API_KEY must be set"),
])
def test_wrong_use_is_told_in_one_line(arguments, text, monkeypatch, tmp_path):
    "Exit code 2, one line, no traceback."
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("MESBOT_")]: monkeypatch.delenv(name)
    done = CliRunner().invoke(app, arguments.split())
    assert done.exit_code == 2 and text in done.output and done.output.startswith("live_runner: ") and done.output.count("\n") == 1, done.output


def test_costs_are_those_of_the_settings_or_of_topstepx(tmp_path):
    (tmp_path / "mine.toml").write_text('[costs]\nslippage = "fixed"\nfees_usd = 1.5\ncommission_usd = 0.5\n')
    mine, usual = venue_settings(None, "exchange", tmp_path / "mine.toml"), venue_settings(5e4, "topstep", None)
    assert (mine.fees_usd, mine.commission_usd, mine.config.costs.slippage, mine.hours, mine.accounts[0].balance) == (1.5, .5, "fixed", "exchange", 1000)
    assert (usual.fees_usd, usual.commission_usd, usual.config.costs.slippage, usual.accounts[0].balance) == (.36, .25, "liquidity", 5e4)


def test_a_secret_must_be_long(monkeypatch):
    monkeypatch.setenv("MESBOT_GATEWAY_SECRET", "short")
    done = CliRunner().invoke(app, ["gateway", "--synthetic"])
    assert done.exit_code == 2 and "16 characters or more, got 5" in done.output and "short" not in done.output


def test_an_unknown_option_is_wrong_use():
    "As a process: the same code and one line."
    process = started("gateway", "--fast")
    out, told = process.communicate(timeout=60)
    assert (process.returncode, out, told.count("\n")) == (2, "", 1) and told.startswith("live_runner: no such option: --fast")


def lines_of(path):
    try: return list(read_recording(path))
    except FileNotFoundError: return []


def test_what_is_recorded_can_be_replayed(tmp_path):
    "LIV-1: our own client records a running market; a kill loses nothing that was flushed; the recording is a market again, up to its end."
    whole, killed = tmp_path / "whole.gz", tmp_path / "killed.gz"
    with gateway("--synthetic", "--sessions", 1, "--speed", 60) as urls:
        good = started("record", "--out", whole, "--seconds", 6, **client_of(urls))
        bad = started("record", "--out", killed, "--contract", CONTRACT, **client_of(urls))
        end = time.monotonic() + 60
        while sum(row["event"] == "GatewayTrade" for row in lines_of(killed)) < 20 and time.monotonic() < end: time.sleep(.2)
        bad.kill()
        bad.communicate()
        out, told = good.communicate(timeout=60)
        assert (good.returncode, told) == (0, "") and "trades in" in out and "cut off" not in out
        again = started("record", "--out", whole, **client_of(urls))
        _, told = again.communicate(timeout=60)
        assert again.returncode == 2 and "exists" in told and told.count("\n") == 1
    assert not [row for row in lines_of(whole) if row["event"] == "Lost"] and {row["contract"] for row in lines_of(killed)} == {CONTRACT} and n_bars(RecordedTape(killed).bars) >= 5
    n = n_bars(RecordedTape(whole).bars)
    assert n >= 20
    with gateway("--recorded", whole, "--speed", "lockstep") as urls:
        done = post(f"{urls['control']}/step", {"seconds": 24 * 3600})
        assert done["ended"] and done["bars"] == n
