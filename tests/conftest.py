"What several tests need."
import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]  # the project


@pytest.fixture(scope="session")
def shared_data() -> Path:
    "The folder of real price files beside the project; MESBOT_SHARED_DATA names another. Tests that need it are skipped where it is absent."
    folder = Path(os.environ.get("MESBOT_SHARED_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir(): pytest.skip(f"no real price files in {folder}; set MESBOT_SHARED_DATA")
    return folder


@pytest.fixture(scope="module", autouse=True)
def own_place(tmp_path_factory):
    "Each file of tests works in a folder of its own: whatever is scored goes into the ledger of the folder one is in."
    home = os.getcwd()
    os.chdir(tmp_path_factory.mktemp("place"))
    yield
    os.chdir(home)


@pytest.fixture(scope="session")
def good_numbers() -> dict:
    "Numbers of a predictor that passes every gate."
    return {"trades": 500, "days": 35, "net_ticks": 3.0, "net_ticks_low": .1, "net_stressed": 2.0, "net_stressed_low": .05, "auc": .6, "auc_low": .55, "skill": .02, "skill_low": .01, "ic": .1, "ic_low": .05, "economic_ic": .2, "needed_ic": .1,
            "mean_fold_sharpe": 3.0, "dsr": .99, "trials": 3, "pbo": .1, "oos_loss": .1, "spa": .01, "timing": .01, "calmar": 3.0, "max_drawdown_share": .1, "worst_day_usd": -50.0, "latched": 0, "latency_ms": .1}


@pytest.fixture
def own_logging():
    "Whatever a test does to the logging of the process is undone."
    import logging
    import sys

    import structlog
    root, hook = logging.getLogger(), sys.excepthook
    named = [logging.getLogger(name) for name in ("asyncio", "SignalRCoreClient")]
    handlers, levels = root.handlers, {log: log.level for log in (root, *named)}
    root.handlers = []
    for log in named: log.setLevel(logging.NOTSET)
    yield
    root.handlers = handlers
    for log, level in levels.items(): log.setLevel(level)
    logging.captureWarnings(False)
    structlog.reset_defaults()
    sys.excepthook = hook


@pytest.fixture
def written(own_logging):
    "What goes into the log of the process at DEBUG."
    import io

    from live_runner import logs
    stream = io.StringIO()
    logs.configure(stream, "DEBUG")
    return stream
