"Before its first order a runner has been through one: whatever the settings, the rehearsal buys and leaves."
import pytest

from live_runner.core import Setup
from live_runner.messages import Close, Place
from live_runner.rehearsal import rehearse
from live_runner.settings import RunnerSettings
from mesbot.config import load_config

WAYS = ({}, {"fills": {"mode": "price_touch"}}, {"stops": {"kind": "atr", "trail_ticks": 4}}, {"preset": "topstepx-2026"})


@pytest.mark.parametrize("symbol", ["MES", "SPY"])
@pytest.mark.parametrize("way", WAYS, ids=str)
def test_a_rehearsal_goes_in_and_out(way, symbol):
    sent = rehearse(Setup(load_config(**way), symbol, 1, "CON.F.US.MES.H24", "x", RunnerSettings()))
    assert [type(command) for command in sent if isinstance(command, (Place, Close))] == [Place, Close]
