"The main job from the command line: run folder, page, verdict, exit codes (BT-3, BT-6, BT-11, MOD-4, FEA-5)."
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mesbot.config import config_hash, load_config
from mesbot.features import FEATURES
from mesbot.model_files import load_predictor

TRADE_COLUMNS = {"entry_time", "exit_time", "entry_ns", "exit_ns", "side", "contracts", "entry_price", "exit_price", "stop_price", "target_price", "reason_in", "reason_out",
                 "gross_usd", "fees_usd", "slippage_ticks", "net_usd", "mae_ticks", "mfe_ticks", "confidence", "features", "mode", "config_hash"}


def mesbot(*args, cwd, **env):
    return subprocess.run([str(Path(sys.executable).with_name("mesbot")), *map(str, args)], capture_output=True, text=True, cwd=cwd, env=os.environ | env)


def report(tmp, *args):
    "Run `mesbot report` and return the process and its run folder, taken from the last line."
    done = mesbot("report", *args, cwd=tmp)
    return done, Path(done.stdout.strip().split("\n")[-1]).parent


@pytest.fixture(scope="module")
def planted(tmp_path_factory): return report(tmp_path_factory.mktemp("planted"), "--sessions", 24, "--name", "planted")


@pytest.fixture(scope="module")
def null(tmp_path_factory): return report(tmp_path_factory.mktemp("null"), "--sessions", 14, "--alpha", 0)


def test_a_planted_edge_is_found_and_its_share_is_stated(planted):
    done, folder = planted
    assert done.returncode == 0, done.stderr[-2000:]
    assert re.search(r"planted IC 0\.\d+; the best predictor recovers \d+% of it", done.stdout) and "Edge after costs:" in done.stdout
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["verdict"]["answer"] == "yes" and metrics["predictors"]["logistic"]["recovered_share"] > .8
    assert re.search(r"recovers <b>\d+%</b> of it", (folder / "report.html").read_text())


def test_without_an_edge_the_verdict_is_no_and_so_is_the_exit_code(null):
    done, folder = null
    assert done.returncode == 1 and "No edge after costs" in done.stdout
    html = (folder / "report.html").read_text()
    assert "No edge after costs" in html and "Nothing was planted" in html


def test_the_run_folder_holds_everything(planted):
    _, folder = planted
    names = {str(p.relative_to(folder)) for p in folder.glob("**/*") if p.is_file()}
    assert {"config.toml", "manifest.json", "metrics.json", "folds.parquet", "trades.parquet", "trades.csv", "equity.parquet", "report.ipynb", "report.html", "model/logistic/manifest.json"} <= names
    made = json.loads((folder / "manifest.json").read_text())
    assert set(made["hashes"]) == {"code", "config", "data", "features", "models"} and made["seed"] == 1 and made["source"]["alpha"] == .1
    assert made["hashes"]["config"] == config_hash(load_config(folder / "config.toml"))
    folds, trades = pd.read_parquet(folder / "folds.parquet"), pd.read_parquet(folder / "trades.parquet")
    assert {"accuracy", "auc", "ic", "trades", "net_usd", "sharpe", "max_drawdown_usd"} <= set(folds.columns)
    assert set(folds["predictor"]) == {"always_flat", "rsi_rule", "logistic", "boosting", "feed_forward"} and folds["fold"].nunique() >= 2
    assert TRADE_COLUMNS <= set(trades.columns) and len(pd.read_csv(folder / "trades.csv")) == len(trades)
    assert list(json.loads(trades["features"].iloc[0])) == list(FEATURES)
    assert trades.loc[trades["predictor"] == "logistic", "config_hash"].unique().tolist() == [made["hashes"]["config"]]


def test_the_stored_model_is_the_one_that_traded(planted):
    "What the trade log says the model saw gives the confidence it acted on."
    _, folder = planted
    trades = pd.read_parquet(folder / "trades.parquet")
    own = trades[(trades["predictor"] == "logistic") & (trades["fold"] == trades["fold"].max())]
    seen = np.array([[np.nan if v is None else v for v in json.loads(text).values()] for text in own["features"]], np.float32)
    said = load_predictor(folder / "model" / "logistic").predict(seen).probability
    np.testing.assert_allclose(said[:, [0, 2]].max(1), own["confidence"], atol=1e-4)


def test_equity_is_start_plus_the_sum_of_net(planted):
    _, folder = planted
    equity, trades = pd.read_parquet(folder / "equity.parquet"), pd.read_parquet(folder / "trades.parquet")
    for name in equity.columns.drop("ts"):
        np.testing.assert_allclose(equity[name].iloc[-1], 1000 + trades.loc[trades["predictor"] == name, "net_usd"].sum())


def test_the_page_opens_without_a_network(planted):
    html = (planted[1] / "report.html").read_text()
    own = re.sub(r'<script id="plotly">.*?</script>(?=</head>)', "", html, count=1, flags=re.S)
    assert html.count('<script id="plotly">') == 1 and "default-src 'none'" in own
    assert not re.findall(r'https?:|<link|@import|url\(|\bfetch\(|<iframe|(?:src|href)="(?!data:)', own)
    assert all(script.startswith("Plotly.newPlot(") for script in re.findall(r"<script>(.*?)</script>", own, re.S))
    assert html.count("data:image/png;base64") >= 4 and "Traceback" not in html and not re.search(r"\bnan\b", re.sub(r'base64,[^"]+|<script>.*?</script>', "", own, flags=re.S))
    for reason in json.loads((planted[1] / "metrics.json").read_text())["verdict"]["reasons"]: assert reason[1:] in html
    for heading in ("Equity and drawdown", "Folds", "Trades by hour", "Sense of direction", "Where the money went", "Ambiguous bars", "Provenance"): assert heading in html


@pytest.mark.parametrize("name,symbol,trained", [("es_1s_20180507.csv.gz", "ES", False), ("es_1s_20180507.csv.gz", "MES", False), ("spy_1s_201310.csv.gz", "SPY", True)])
def test_real_bars_however_short(shared_data, tmp_path, name, symbol, trained):
    "Import and report on real seconds; what cannot be computed says so."
    done = mesbot("data", "import", shared_data / name, "--symbol", symbol, "--store", tmp_path / "store", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    done, folder = report(tmp_path, "--data", tmp_path / "store", "--symbol", symbol)
    assert done.returncode == 1 and re.search("No edge (proven )?after costs", done.stdout), done.stderr[-2000:]
    assert ("logistic: not computed, 1 session" in done.stdout) != trained
    html = (folder / "report.html").read_text()
    assert ("too few" if trained else "nothing can be trained") in html and ("no volume" in html) == (symbol != "SPY")


def test_an_optimistic_bound_is_marked_and_settings_that_cannot_pay_are_told(tmp_path, planted):
    "BT-1: a page of fills at the signal's own close says so before anything else and is never a yes; settings that are surely not meant stand under the verdict, and an honest page has neither."
    (tmp_path / "bound.toml").write_text('[fills]\nmode = "signal_close"\n[stops]\ntarget_ticks = 2\n[trader]\nmin_confidence = 0.4\n[models]\npredictors = ["always_flat", "rsi_rule"]\n')
    done, folder = report(tmp_path, "--sessions", 2, "--config", "bound.toml")
    html, metrics = (folder / "report.html").read_text(), json.loads((folder / "metrics.json").read_text())
    assert done.returncode == 1 and "No verdict: orders were filled at the close" in done.stdout, done.stderr[-2000:]
    assert metrics["fill_mode"] == "signal_close" and metrics["verdict"]["answer"] == "no" and len(metrics["warnings"]) == 2
    body = html.partition("<body>")[2]
    assert 0 < body.index("<b>Optimistic bound. This is no result.</b>") < body.index("<h1>") and body.count('class="bound"') == 1
    assert "stops.target_ticks 2 is $2.50, and a round trip costs $3.34: every trade loses" in html and html.count('class="warning"') == 1 and "(fills.mode signal_close)" in html
    honest = (planted[1] / "report.html").read_text()
    assert 'class="bound"' not in honest and "Optimistic bound" not in honest and 'class="warning"' not in honest and "the open of the next bar (fills.mode next_open)" in honest


def test_wrong_use_is_one_line_and_exit_code_2(tmp_path):
    (tmp_path / "bad.toml").write_text("[stops]\nstop_tick = 8\n")
    for args, says in ((["--data", "nowhere", "--symbol", "MES"], "nowhere"), (["--symbol", "DOGE", "--data", "."], "unknown symbol 'DOGE'"), (["--sessions", 0], "market.sessions"),
                       (["--alpha", 3], "market.alpha"), (["--config", "bad.toml"], "stop_ticks"), (["--config", "none.toml"], "none.toml"), (["--preset", "nope"], "known: default"),
                       (["--name", "a/b"], "'a/b'"), (["--name", ".."], "'..'"), (["--symbol", "SPY"], "--data"), (["--runs", "bad.toml"], "bad.toml is a file"), (["--start", "2024-01-02"], "--data"), (["--seed", -1], "seed"), (["--nonsense"], "--nonsense"), (["--alpha", "much"], "--alpha")):
        done = mesbot("report", *args, cwd=tmp_path)
        assert done.returncode == 2 and done.stderr.startswith("mesbot: ") and done.stderr.count("\n") == 1 and says in done.stderr, (args, done.stderr)
        assert done.stdout == "" and not (tmp_path / "runs").exists(), args


def test_an_empty_range_names_what_there_is(tmp_path):
    (tmp_path / "es.csv").write_text("ts,open,high,low,close\n2018-05-07T13:30:00Z,2670.5,2670.75,2669.75,2670.5\n")
    assert mesbot("data", "import", "es.csv", "--symbol", "ES", cwd=tmp_path).returncode == 0
    done = mesbot("report", "--data", "data", "--symbol", "ES", "--start", "2019-01-01", cwd=tmp_path)
    assert done.returncode == 2 and "2018-05-07" in done.stderr and done.stderr.count("\n") == 1
