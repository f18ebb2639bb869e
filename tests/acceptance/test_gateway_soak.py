"LIV-2: a small sample of `python tests/soak_gateway.py`: two short sessions with orders all the while; nothing is lost, and what is wrong is noticed."
import asyncio

import pytest
from soak_gateway import GROWTH, QUIET, soak, verdict


def test_two_short_sessions():
    summary = asyncio.run(soak(sessions=2, seconds=1800))
    assert [row["session"] for row in summary["sessions"]] == [1, 2] and all(row["messages"] > 500 for row in summary["sessions"])
    assert verdict(summary) == [] and summary["orders"] > QUIET and summary["order_quiet_p50_ms"] <= summary["order_quiet_p99_ms"]


@pytest.mark.parametrize("wrong", [{"gateway_growth": GROWTH + .01}, {"client_growth": 2.0}, {"lost": 1}, {"broken": 1}], ids=str)
def test_what_makes_a_soak_fail(wrong):
    good = {"gateway_growth": GROWTH, "client_growth": 1.0, "lost": 0, "broken": 0}
    assert verdict(good) == [] and len(verdict(good | wrong)) == 1
