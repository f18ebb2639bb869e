"""LIV-3, I10: the runner on paper trades as the back-test does: the same trades in the same seconds at the same prices for the same reasons, the same fees and net to the cent, the same refusals."""
import numpy as np
import pandas as pd
import pytest
from live_oracle import Oracle
from live_world import LiveWorld

from live_runner.feed import Feed
from live_runner.gateway.events import EventReader
from live_runner.messages import Second
from live_runner.settings import RunnerSettings
from mesbot.bars import import_bars, load_bars, make_bars, session_info
from mesbot.calendar import MINUTE
from mesbot.config import load_config
from mesbot.inputs import Quotes
from mesbot.predictors import Prediction
from mesbot.sim import account_facts, backtest
from mesbot.synth import quote_bars, synthetic_market
from mesbot.trade_log import trade_log

SAME = ["entry_ns", "exit_ns", "side", "contracts", "entry_price", "exit_price", "stop_price", "target_price", "reason_in",
        "reason_out", "gross_usd", "fees_usd", "net_usd", "confidence", "slippage_ticks"]
RICH = dict(risk=dict(day_loss_usd=1e5, day_drawdown_usd=1e5, total_loss_usd=1e6, min_balance_usd=1e3,
                      review_drawdown_usd=1e6, trade_risk_usd=1e5, start_balance_usd=1e6, loss_streak=10_000, reduce_after_losses=0,
                      tier_contracts=(4, 4, 4, 4), confidence_factors=(1.0, 1.0, 1.0)))  # no limit ends the day


def market(start="2024-01-02", seed=11, hours=None, alpha=0.0):
    "A synthetic session with its quotes; `hours`: from and to so many minutes after the regular open."
    made = synthetic_market(1, seed=seed, alpha=alpha, start=start)
    bars, quotes = made.bars, [side.open for side in quote_bars(made)]
    if hours is None: return bars, Quotes(*quotes)
    opens = int(session_info(bars)[0]["rth_open"])
    own = slice(*np.searchsorted(bars.ts, [opens + minute * MINUTE for minute in hours]))
    return make_bars(*(column[own] for column in bars[:6]), bars.symbol), Quotes(*(side[own] for side in quotes))


def opinions(bars, seed, each=40):
    "Random probabilities, now and then a confident one in either direction, sometimes none at all; nothing in the last six minutes, for a market that is cut there is not over."
    n, rng = len(bars.ts), np.random.default_rng(seed)
    p = rng.dirichlet((5, 8, 5), n).astype(np.float32)
    where = rng.choice(n, n // each, replace=False)
    p[where] = np.where(rng.random(len(where))[:, None] < .5, np.float32([[.1, .1, .8]]), np.float32([[.8, .1, .1]]))
    p[rng.choice(n, n // 200, replace=False)] = np.nan
    p[bars.ts > bars.ts[-1] - 6 * MINUTE] = 1 / 3
    return p


def both(bars, prediction, config, quotes=None, **world):
    "The same day twice: the world after it, and what differs."
    wanted = backtest(bars, prediction, config, quotes=quotes)
    w = LiveWorld(bars, config, prediction, quotes, check=Oracle(), settings=RunnerSettings(entries_a_day=100_000), **world).run()
    found = trade_log(w.core.lots, w.thing, config, "backtest", np.repeat(session_info(bars)["date"][:1].astype("M8[D]"), len(w.core.lots)))
    return w, wanted, found


def agree(bars, prediction, config, quotes=None, least=1, slips=True, **world):
    "The paper run of a whole session, its trades, account and refusals those of the back-test."
    w, wanted, found = both(bars, prediction, config, quotes, **world)
    assert len(wanted.trades) >= least, f"only {len(wanted.trades)} trades: this shows nothing"
    same = SAME if quotes and slips else SAME[:-1]   # where nobody knows the quotes the gateway shows some, and slippage is counted from what is shown
    pd.testing.assert_frame_equal(found[same], wanted.trades[same])
    assert w.account.balance == pytest.approx(wanted.summary["final_balance_usd"], abs=.005) and not w.position and not w.venue.working
    facts = account_facts(w.core.lots, w.core.state, w.core.refusals)
    for name in ("refusals", "signals", "killed", "review", "passed", "final_balance_usd"): assert facts[name] == pytest.approx(wanted.summary[name]), name
    assert not [alert for alert in w.alerts() if alert.severity != "info"], w.alerts()
    return w, wanted


@pytest.mark.parametrize("quoted", [True, False])
def test_the_feed_tells_the_seconds_of_this_world(quoted):
    "The little feed of the world stands for the real one: read off the wire, every second is the same, and none is in doubt but the one in which it began."
    bars, quotes = market(seed=25, hours=(30, 45))
    w, real, own = LiveWorld(bars, load_config(), None, quotes if quoted else None), [], []
    feed, reader, hear, tell = Feed("MES", w.tape.contract, real.append, 0, w.settings, real=False), EventReader("market", 1), w._on_market, w.tell

    def both_hear(event, key, payload):
        feed.market(reader.read(event, [key, payload]), w.clock.now)
        hear(event, key, payload)

    w.venue.emit._market, w.tell = both_hear, lambda event: (own.append(event), tell(event))
    w.run()
    known = {event.at: event for event in own if isinstance(event, Second)}
    assert len(real) >= 899 and [event for event in real[1:] if event != known[event.at]] == []


def test_a_whole_session_with_the_default_settings():
    bars, quotes = market()
    w, wanted = agree(bars, opinions(bars, 3), load_config(), quotes, 10)
    assert len(w.places) == wanted.summary["signals"]


def test_hours_without_an_end_to_their_money():
    "Before and after the open. In thin hours the open can hide a part of what a stop slips, so only the price tells."
    bars, quotes = market(seed=12, hours=(-60, 180))
    _, wanted = agree(bars, opinions(bars, 4), load_config(**RICH, trader=dict(hours="ALL")), quotes, 150, slips=False)
    assert {"stop", "target", "time_stop", "opposite_signal"} <= set(wanted.trades.reason_out) and set(wanted.trades.side) == {"long", "short"}


def test_the_real_spy_day(shared_data, tmp_path):
    import_bars(shared_data / "spy_1s_201310.csv.gz", "SPY", tmp_path)
    bars = load_bars("SPY", "2013-10-07", "2013-10-08", store=tmp_path)
    agree(bars, opinions(bars, 5), load_config(), least=5)
    agree(bars, opinions(bars, 5), load_config(**RICH, trader=dict(hours="ALL")), least=100)


def test_a_day_with_an_early_close():
    "Thanksgiving Friday: everything moves forward."
    bars, quotes = market("2024-11-29", hours=(90, 300))
    w, wanted = agree(bars, opinions(bars, 6), load_config(**RICH), quotes, 50)
    flat = int(session_info(bars)[0]["rth_close"])
    assert wanted.trades.exit_ns.max() < flat + 30 * MINUTE and "end_of_day" in set(wanted.trades.reason_out) | set(wanted.summary["refusals"])


@pytest.mark.parametrize("start", ["2024-03-11", "2024-11-04"])
def test_the_day_after_the_clocks_change(start):
    bars, quotes = market(start, hours=(300, 430))
    _, wanted = agree(bars, opinions(bars, 7), load_config(**RICH), quotes, 30)
    assert "end_of_day" in set(wanted.trades.reason_out) | set(wanted.summary["refusals"])


HOUR = (30, 75)  # minutes after the open
KINDS = {
    "price_touch": dict(fills=dict(mode="price_touch"), stops=dict(stop_ticks=6)),
    "price_touch_offset": dict(fills=dict(mode="price_touch", entry_offset_ticks=1, limit_valid_s=5.0)),
    "trailing": dict(stops=dict(trail_ticks=6, target_ticks=30, max_hold_s=300)),
    "trailing_atr": dict(stops=dict(trail_atr=2.0, target_ticks=30, max_hold_s=300)),
    "accelerating": dict(stops=dict(accelerate=.02, target_ticks=30, max_hold_s=300)),
    "stall": dict(stops=dict(stall_s=20, target_ticks=30, max_hold_s=300)),
    "levels": dict(stops=dict(level_ticks=(4, 8), level_shares=(.5, .25), target_ticks=16, max_hold_s=300)),
    "levels_without_break_even": dict(stops=dict(level_ticks=(4, 8, 12), level_shares=(.25, .25, .25), target_ticks=16, max_hold_s=300, break_even=False)),
    "a_level_that_only_moves_the_stop": dict(stops=dict(level_ticks=(4, 8), level_shares=(0.0, .5), target_ticks=16, max_hold_s=300)),
    "reversals": dict(trader=dict(reverse=True, reversal_cooldown_s=0.0, max_reversals=50)),
    "atr_stops": dict(stops=dict(kind="atr")),
    "structure_stops": dict(stops=dict(kind="structure")),
    "no_exit_on_opposite": dict(trader=dict(exit_on_opposite=False)),
    "latency": dict(trader=dict(latency_s=1.5)),
    "limits_of_the_market": dict(risk=dict(max_spread_ticks=1, stale_data_s=3.0, min_volume_a_minute=50.0, market_pause_s=5.0)),
    "tight_stops": dict(stops=dict(trail_ticks=1, target_ticks=30, max_hold_s=120)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_each_way_to_enter_and_to_leave(kind):
    bars, quotes = market(seed=21, hours=HOUR)
    config = load_config(**{section: RICH.get(section, {}) | KINDS[kind].get(section, {}) for section in {*RICH, *KINDS[kind]}})
    _, wanted = agree(bars, opinions(bars, 8), config, quotes, 15)
    if kind == "reversals": assert "reversal" in set(wanted.trades.reason_in)
    if kind.startswith("levels"): assert "level" in set(wanted.trades.reason_out)


def test_stops_by_the_predicted_volatility():
    bars, quotes = market(seed=22, hours=HOUR)
    n, rng = len(bars.ts), np.random.default_rng(2)
    said = Prediction(opinions(bars, 9), np.zeros(n, np.float32), rng.uniform(2, 10, n).astype(np.float32))
    _, wanted = agree(bars, said, load_config(**RICH, stops=dict(kind="volatility")), quotes, 20)
    assert (wanted.trades.entry_price - wanted.trades.stop_price).abs().nunique() > 4


@pytest.mark.parametrize("slippage", ["fixed", "atr"])
def test_without_quotes_and_with_other_slippage(slippage):
    bars, _ = market(seed=23, hours=HOUR)
    agree(bars, opinions(bars, 10), load_config(**RICH, costs=dict(slippage=slippage)), least=20)


def test_every_limit_ends_the_day_as_in_the_back_test():
    "Small limits: loss of the day, drawdown, streaks and their pause, reduced size, profit of the day."
    bars, quotes = market(seed=24, hours=(30, 90))
    p = opinions(bars, 11, each=20)
    for risk in (dict(day_loss_usd=30.0), dict(day_drawdown_usd=20.0),
                 dict(loss_streak=2, pause_min=3.0, day_loss_usd=900.0, day_drawdown_usd=900.0, review_drawdown_usd=900.0), dict(day_profit_usd=10.0),
                 dict(review_drawdown_usd=25.0), dict(total_loss_usd=25.0), dict(min_balance_usd=980.0), dict(signals_an_hour=(5, 5, 5)), dict(trailing_loss_usd=20.0)):
        agree(bars, p, load_config(risk=risk), quotes, 3)
