"""`mesbot montecarlo` and `mesbot challenge` on a file of trades (BT-5, BT-9): what they say, and exit codes 0 done, 1 no, 2 wrong input in one line."""
import json

import numpy as np
import pandas as pd
import pytest
import typer
from typer.testing import CliRunner

from mesbot.calendar import session_table
from mesbot.config import load_config
from mesbot.money_commands import challenge, montecarlo
from mesbot.montecarlo import monte_carlo, read_trades
from mesbot.sim import backtest
from mesbot.synth import synthetic_market
from mesbot.trade_log import write_trade_log

DAYS = session_table("2024-01-08", "2024-06-28")["date"].astype("M8[D]")


def typed(*args):
    app = typer.Typer()
    app.command("montecarlo")(montecarlo)
    app.command("challenge")(challenge)
    done = CliRunner().invoke(app, list(map(str, args)))
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.output.rstrip()


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    rng, path = np.random.default_rng(4), tmp_path_factory.mktemp("trades") / "trades.csv"
    count = rng.poisson(9, len(DAYS))
    pd.DataFrame({"date": np.repeat(DAYS, count), "net_usd": rng.choice([14.16, -12.09], count.sum(), p=[.52, .48])}).to_csv(path, index=False)
    return path


def test_montecarlo_says_what_the_library_says(file):
    code, text = typed("montecarlo", "--trades", file, "--paths", 300, "--sessions", 100, "--seed", 5, "--json")
    want = monte_carlo(read_trades(file), load_config(), paths=300, sessions=100, seed=5).numbers
    assert code == 0 and json.loads(text.splitlines()[-1]) == want and "300 paths of 100 sessions" in text.splitlines()[0]
    assert f"{want['final_q50_usd']:,.0f}" in text and f"{want['drawdown_q95_usd']:,.0f}" in text and f"{want['p_ruin']:.1%}" in text
    code, text = typed("montecarlo", "--trades", file, "--method", "trades")
    assert code == 0 and "1,000 paths of 252 sessions" in text and "weaker" in text and "beware" not in text


def test_settings_are_those_of_the_file(file, tmp_path):
    (tmp_path / "big.toml").write_text("[risk]\nstart_balance_usd = 50000\nreview_drawdown_usd = 5000\n[resampling]\npaths = 150\n")
    code, text = typed("montecarlo", "--trades", file, "--config", tmp_path / "big.toml", "--json")
    n = json.loads(text.splitlines()[-1])
    assert (code, n["paths"], n["start_usd"], n["p_review"]) == (0, 150, 50_000, 0)


def test_challenge_answers_by_its_exit_code(file):
    code, text = typed("challenge", "--trades", file, "--scale", 10, "--json")
    found = json.loads(text.splitlines()[-1])
    assert code == 0 and found["pass_rate"] >= .7 and found["gate_passed"] and found["rules"] == "topstep-50k" and "table" not in found
    code, text = typed("challenge", "--trades", file, "--rules", "ftmo-like-100k", "--attempts", 50, "--json")
    found = json.loads(text.splitlines()[-1])
    assert code == 1 and found["pass_rate"] < .7 and found["days_to_pass"]["q50"] is None and "no: " in text


def test_a_trade_log_of_ours_and_few_sessions(tmp_path):
    bars = synthetic_market(2, seed=3).bars
    done = backtest(bars, np.random.default_rng(1).dirichlet([.15, .5, .15], len(bars.ts)).astype(np.float32), load_config())
    write_trade_log(done.trades.assign(predictor=np.where(np.arange(len(done.trades)) % 2, "logistic", "boosting")), tmp_path)
    for name in ("trades.csv", "trades.parquet"):
        code, text = typed("montecarlo", "--trades", tmp_path / name, "--predictor", "logistic", "--paths", 100)
        assert code == 0 and "beware" in text and f"{len(done.trades) // 2} trades in 2 sessions" in text
        assert typed("challenge", "--trades", tmp_path / name) == (2, f"mesbot: {name} has trades of boosting, logistic; say whose")


@pytest.mark.parametrize("args, says", [
    (("montecarlo", "--trades", "gone.csv"), "gone.csv: no such file of trades"), (("montecarlo", "--trades", "FILE", "--paths", "0"), "paths x sessions"), (("montecarlo", "--trades", "FILE", "--seed", "-1"), "seed must"),
    (("montecarlo", "--trades", "FILE", "--config", "gone.toml"), "gone.toml: no such config file"), (("challenge", "--trades", "FILE", "--attempts", "5"), "attempts must be from 20"),
    (("challenge", "--trades", "FILE", "--scale", "-1"), "scale must be above 0"), (("challenge", "--trades", "FILE", "--predictor", "x"), "no column predictor"), (("challenge", "--trades", "trades.xlsx"), "must be a .csv or a .parquet")])
def test_wrong_input_is_one_line_and_exit_code_2(file, args, says):
    code, text = typed(*(file if a == "FILE" else a for a in args))
    assert code == 2 and text.startswith("mesbot: ") and says in text and "\n" not in text


@pytest.mark.parametrize("args", [("montecarlo",), ("challenge", "--trades", "x.csv", "--rules", "none"), ("montecarlo", "--trades", "x.csv", "--method", "bars")])
def test_wrong_use_is_exit_code_2(args):
    assert typed(*args)[0] == 2
