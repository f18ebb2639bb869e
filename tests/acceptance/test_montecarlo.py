"""Monte Carlo of whole sessions with the account's limits on (BT-5), against a plain account, formulas and the back-test itself."""
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesbot.calendar import session_table
from mesbot.config import load_config
from mesbot.core import MES, Reason
from mesbot.metrics import drawdown, longest_run, sharpe_ratio
from mesbot.montecarlo import PATH, QUANTILES, fan_of, monte_carlo, read_trades, scatter, session_trades, walk_orders
from mesbot.sim import backtest
from mesbot.synth import synthetic_market
from mesbot.trade_log import write_trade_log

FAR = dict(day_loss_usd=1e6, day_drawdown_usd=1e6, total_loss_usd=1e6, review_drawdown_usd=1e6, min_balance_usd=0)
DAYS = session_table("2022-01-03", "2024-12-31")["date"].astype("M8[D]")


def table(days, worst=None):
    "A list of days, each a list of trades -> trade table and every session's date."
    net = [trade for day in days for trade in day]
    log = pd.DataFrame({"trade_date": np.repeat(DAYS[:len(days)], [len(day) for day in days]), "net_usd": np.array(net, float)})
    if worst is not None: log = log.assign(mae_ticks=-np.array(worst, float) / MES.tick_usd, contracts=1)
    return log, DAYS[:len(days)]


def walked(days, order=None, worst=None, start=1000.0, quick=True, **risk):
    "One path through the days: balances after each session, and what is kept of the path."
    made = session_trades(*table(days, worst))
    equity, out = walk_orders(made, np.array([range(len(days)) if order is None else order]), load_config(risk=risk), start, quick=quick)
    return equity[1:, 0].tolist(), out[0]


def plain_account(days, order, worst, start, r):
    "The limits once more, in plain Python and in words of their own: closed balance and worst moments; returns balances, worst fall, ruined, days with a limit."
    balance = peak = best_end = start
    ends, fall, share, ruined, passed, limited = [], 0.0, 0.0, False, False, 0
    for k in order:
        best_end, opened, day_peak, over = max(best_end, balance), balance, balance, ""
        for net, low in zip(days[k], worst[k]):
            if ruined or passed or over or balance < r["min_balance_usd"]: break
            for moment in (balance + low, None):
                now = balance if moment is None else moment
                peak, day_peak = max(peak, now), max(day_peak, now)
                fall, share = max(fall, peak - now), max(share, (peak - now) / peak)
                floor = min(start, best_end - r["trailing_loss_usd"]) if r["trailing_loss_usd"] else -1e9
                ruined |= now <= max(start - r["total_loss_usd"], floor) or peak - now >= r["review_drawdown_usd"]
                passed |= 0 < r["profit_target_usd"] <= balance - start
                if not over and (opened - now >= r["day_loss_usd"] or day_peak - now >= r["day_drawdown_usd"]): over = "loss"
                elif not over and 0 < r["day_profit_usd"] <= now - opened: over = "profit"
                if moment is not None: balance += low if ruined or passed or over else net
        limited += over == "loss"
        ends.append(balance)
    return ends, fall, share, ruined or balance < r["min_balance_usd"], passed, limited


def test_a_days_limit_ends_the_day_in_its_middle():
    "BT-5: the limits are active on each path; what comes after them on that day is not traded, the next day is."
    assert walked([[-30, -25, 40], [10]])[0] == [945, 955]
    assert walked([[-30, 40, -25], [10]])[0] == [985, 995]                         # the same trades in another order
    assert walked([[60, -74, 5], [60, -75, 5]])[0] == [991, 976]                   # $75 below the day's best
    assert walked([[20, 30], [10]], worst=[-49, -70, 0])[0] == [950, 960]          # closed at its worst moment: 1020 - 70 = 950
    ends, path = walked([[-60], [], [-60], [5]])
    assert ends == [940, 940, 880, 885] and path["day_limit_days"] == 2


def test_a_latch_holds_for_good():
    for risk, days, want in ((dict(total_loss_usd=100, review_drawdown_usd=1e6), [[-49], [-49], [-2], [500]], [951, 902, 900, 900]),
                             (dict(review_drawdown_usd=60), [[40], [-49], [-11, 70], [70]], [1040, 991, 980, 980]),
                             (dict(trailing_loss_usd=100, review_drawdown_usd=1e6), [[60], [-49], [-49], [-2, 70], [70]], [1060, 1011, 962, 960, 960]),
                             (dict(min_balance_usd=960, review_drawdown_usd=1e6), [[-30], [-10], [-1, 70], [70]], [970, 960, 959, 959])):
        ends, path = walked(days, **risk)
        assert ends == want and path["ruined"], risk
    assert walked([[-49], [-49]], **FAR)[1]["ruined"] == 0
    ends, path = walked([[30], [30, 9], [9]], profit_target_usd=60)
    assert ends == [1030, 1060, 1060] and path["passed"] == Reason.TARGET_REACHED and not path["ruined"]
    assert walked([[30, 9], [5]], day_profit_usd=30) [0] == [1030, 1035]


def test_the_trailing_floor_is_that_of_the_evaluation():
    "Topstep 50K: +500 lifts the floor to 48,500, -500 does not lower it; 52,000 at a day's end locks it at 50,000."
    fifty = FAR | dict(start_balance_usd=50_000, trailing_loss_usd=2000)
    assert walked([[500], [-500], [-1499], [7]], start=50_000, **fifty)[1]["killed"] == 0
    assert walked([[500], [-500], [-1500], [7]], start=50_000, **fifty)[1]["killed"] == Reason.TRAILING_LOSS
    assert walked([[2000], [9000], [-10_999], [7]], start=50_000, **fifty)[0] == [52_000, 61_000, 50_001, 50_008]
    assert walked([[2000], [9000], [-11_000], [7]], start=50_000, **fifty)[0] == [52_000, 61_000, 50_000, 50_000]


money = st.integers(-60, 60).map(float)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.lists(st.tuples(money, st.integers(0, 40)), max_size=5), min_size=1, max_size=6), st.data())
def test_every_limit_agrees_with_a_plain_account(days, data):
    "Any days, any order, any limits: the quick way, trade by trade, and plain Python give one account."
    nets, worst = [[net for net, _ in day] for day in days], [[min(net, -dip) for net, dip in day] for day in days]
    order = data.draw(st.lists(st.integers(0, len(days) - 1), min_size=1, max_size=25))
    draw = lambda low, high: float(data.draw(st.integers(low, high)))
    risk = dict(day_loss_usd=draw(20, 150), day_drawdown_usd=draw(20, 150), total_loss_usd=draw(50, 400), review_drawdown_usd=draw(50, 400), min_balance_usd=draw(600, 1000),
                trailing_loss_usd=data.draw(st.sampled_from([0.0, 80.0, 200.0])), profit_target_usd=data.draw(st.sampled_from([0.0, 90.0, 250.0])), day_profit_usd=data.draw(st.sampled_from([0.0, 45.0])))
    flat = [low for day in worst for low in day]
    ends, fall, share, ruined, passed, limited = plain_account(nets, order, worst, 1000.0, risk)
    for quick in (True, False):
        balances, path = walked(nets, order, flat, quick=quick, **risk)
        np.testing.assert_allclose(balances, ends)
        np.testing.assert_allclose([path["final_usd"], path["drawdown_usd"], path["drawdown_share"]], [ends[-1], fall, share], atol=1e-9)
        assert (bool(path["ruined"]), path["passed"] != 0, path["day_limit_days"]) == (ruined, passed, limited)
        np.testing.assert_allclose(path["sharpe"], sharpe_ratio(np.diff([1000, *ends])), atol=1e-9)
        assert path["under_water"] == longest_run(drawdown(np.array([1000, *ends])) > 0)


def test_the_order_that_was_gives_the_back_test_again():
    "What the back-test earned day by day, its own limits hit and all, comes out of its trade log."
    config, bars = load_config(risk={"review_drawdown_usd": 1e6}), synthetic_market(4, seed=3).bars
    n = len(bars.ts)
    p = np.random.default_rng(1).dirichlet([.15, .5, .15], n).astype(np.float32)
    done = backtest(bars, p, config)
    assert len(done.trades) > 20 and (done.trades["reason_out"] == "day_loss").any()
    made = session_trades(done.trades.drop(columns="mae_ticks"), done.daily.index)
    np.testing.assert_allclose(made.daily_usd, done.daily)
    equity, _ = walk_orders(made, np.arange(len(made.dates))[None], config, 1000.0)
    np.testing.assert_allclose(np.diff(equity[:, 0]), done.daily, atol=1e-3)


@pytest.mark.parametrize("target, want", [(0, .1344306), (10, .1185005)])
def test_ruin_is_the_gamblers(target, want):
    "statistics.md section 8: ±1, p = .55, ten units: 0.1344306; with a target of 20 units 0.1185005."
    config = load_config(risk=FAR | dict(total_loss_usd=10, profit_target_usd=target))
    found = monte_carlo(table([[1]] * 11 + [[-1]] * 9)[0], config, DAYS[:20], paths=20_000, sessions=1200, block_sessions=1)
    assert abs(found.numbers["p_ruin"] - want) < 4 * (want * (1 - want) / 20_000)**.5
    if target: assert found.numbers["p_ruin"] + found.numbers["p_passed"] == pytest.approx(1, abs=1e-3)


def test_a_permutation_understates_the_falls():
    "statistics.md sections 0.4 and 7.3: a permutation never changes the end; its falls are smaller than those of a bootstrap."
    ratios = []
    for seed in range(5):
        net = np.random.default_rng(seed).normal(.5, 7, 500)
        config = load_config(risk=FAR | dict(start_balance_usd=1e5))
        found = monte_carlo(table(net[:, None].tolist())[0], config, DAYS[:500], 1000, 500, 1)
        shuffled = np.random.default_rng(seed).permuted(np.tile(net, (1000, 1)), axis=1).cumsum(1)
        assert shuffled[:, -1].std() < 1e-9 and found.final_usd.std() == pytest.approx(net.std() * 500**.5, rel=.08)
        fall = (np.maximum.accumulate(np.maximum(shuffled, 0), 1) - shuffled).max(1)
        ratios.append(found.numbers["drawdown_q95_usd"] / np.quantile(fall, .95))
    assert np.mean(ratios) > 1.15                                               # 241 / 191 = 1.26 in the reference


def test_sessions_keep_their_weather_and_trades_do_not():
    "Days that are good or bad as a whole: reshuffled trades make the falls look smaller. A session without a trade is a session."
    rng = np.random.default_rng(0)
    days = [list(rng.normal(rng.normal(.5, 6), 3, 8)) if k % 3 else [] for k in range(120)]
    log, dates = table(days)
    config = load_config(risk=FAR | dict(start_balance_usd=1e5))
    whole, plain = (monte_carlo(log, config, dates, 2000, 120, 1, method) for method in ("sessions", "trades"))
    assert plain.numbers["drawdown_q95_usd"] < .8 * whole.numbers["drawdown_q95_usd"]
    assert plain.final_usd.mean() == pytest.approx(1e5 + log["net_usd"].sum(), abs=4 * plain.final_usd.std() / 2000**.5)
    daily = session_trades(log, dates).daily_usd
    assert (daily == 0).sum() == 40 and whole.final_usd.std() == pytest.approx(daily.std() * 120**.5, rel=.08)
    assert np.median(whole.sharpe) == pytest.approx(sharpe_ratio(daily), abs=.4)


def test_trades_are_drawn_evenly():
    drawn = np.array([scatter(3, p, s, i, 7) for p in range(30) for s in range(30) for i in range(20)])
    counts = np.bincount(drawn, minlength=7)
    assert ((counts - len(drawn) / 7)**2 / (len(drawn) / 7)).sum() < 22.5              # chi-square of 6: one in 1,000
    assert abs(np.corrcoef(drawn[1:], drawn[:-1])[0, 1]) < 4 / len(drawn)**.5


def test_the_fan_and_the_numbers_are_those_of_the_paths():
    log, dates = table([[5, -9, 7], [], [-12], [14, 3]] * 5)
    found = monte_carlo(log, load_config(), dates, 500, 60)
    made = session_trades(log, dates)
    equity = np.float32(np.random.default_rng(1).normal(size=(7, 1001)))
    np.testing.assert_allclose(fan_of(equity.copy()), np.quantile(equity.astype(float), QUANTILES, axis=1).T, rtol=1e-6)
    np.testing.assert_allclose(found.fan.iloc[-1], np.quantile(found.final_usd, QUANTILES), rtol=1e-6)
    n = found.numbers
    assert (n["paths"], n["sessions"], n["trades"], n["tested_sessions"]) == (500, 60, 30, 20) and found.block_sessions == n["block_sessions"] >= 1
    assert n["final_q05_usd"] == np.quantile(found.final_usd, .05) and n["drawdown_q99_usd"] == np.quantile(found.drawdown_usd, .99) and n["p_loss"] == np.mean(found.final_usd < 1000)
    assert n["p_ruin"] == found.ruined.mean() and n["p_day_limit"] == np.mean(found.day_limit_days > 0) and n["under_water_q95"] == np.quantile(found.under_water, .95)
    assert all(value == value for value in n.values()) and len(made.dates) == 20
    same, other = (monte_carlo(log, load_config(), dates, 500, 60, seed=seed) for seed in (1, 2))
    assert (same.fan == found.fan).all(axis=None) and (other.final_usd != found.final_usd).any()
    short = monte_carlo(log, load_config(resampling=dict(paths=100, sessions=9, block_sessions=3)), dates)
    assert short.fan.shape == (10, 5) and len(short.final_usd) == 100 and short.block_sessions == 3


def test_without_trades_nothing_happens():
    found = monte_carlo(table([[1]])[0][:0], load_config(), DAYS[:30], 200, 20)
    assert (found.final_usd == 1000).all() and np.isnan(found.sharpe).all() and found.numbers["p_loss"] == found.numbers["p_ruin"] == 0
    with pytest.raises(ValueError, match="no trades"): monte_carlo(table([[1]])[0][:0], load_config())
    one = monte_carlo(table([[1]])[0], load_config(), None, 200, 1)
    assert (one.final_usd == 1001).all()
    assert len(PATH.names) == 10


@pytest.mark.parametrize("wrong, says", [
    (dict(method="bars"), "method must be one of sessions, trades"), (dict(paths=0), "from 1 x 1"), (dict(sessions=-3), "from 1 x 1"), (dict(start_balance_usd=699), "at least min_balance_usd 700"),
    (dict(block_sessions=.5), "block"), (dict(seed=-1), "seed must be >= 0"), (dict(trade_dates=["2030-01-02"]), "lies in none of the 1 sessions")])
def test_what_cannot_be_is_refused_in_one_line(wrong, says):
    log, dates = table([[5], [-3]])
    with pytest.raises(ValueError, match=says) as e: monte_carlo(log, load_config(), **{"trade_dates": dates} | wrong)
    assert "\n" not in str(e.value)


def test_trades_come_from_our_log_and_from_any_table(tmp_path):
    bars = synthetic_market(2, seed=3).bars
    done = backtest(bars, np.random.default_rng(1).dirichlet([.15, .5, .15], len(bars.ts)).astype(np.float32), load_config())
    write_trade_log(done.trades, tmp_path)
    logs = [read_trades(tmp_path / name) for name in ("trades.csv", "trades.parquet")]
    for log in logs:
        for name, column in session_trades(done.trades)._asdict().items(): np.testing.assert_array_equal(getattr(session_trades(log), name), column)
    file = tmp_path / "mine.csv"
    for text in ("date,net_usd\n2024-03-08,5\n2024-03-11,-3\n", " Time ,NET_USD\n2024-03-08T15:00:00-05:00,5\n2024-03-10T18:00:01-04:00,-3\n", "exit_ns,net_usd\n1709928000000000000,5\n1710108001000000000,-3\n"):
        file.write_text(text)
        made = session_trades(read_trades(file))
        assert made.dates.astype(str).tolist() == ["2024-03-08", "2024-03-11"] and made.daily_usd.tolist() == [5, -3], text
    file.write_text("date,net_usd\n2024-07-03,5\n2024-07-09,-3\n")
    assert session_trades(read_trades(file)).daily_usd.tolist() == [5, 0, 0, -3]                  # Wednesday; Friday with the holiday before it; Monday; Tuesday


@pytest.mark.parametrize("text, says", [
    ("", "cannot be read as csv"), ("time,profit\n2024-01-08,1\n", "needs net_usd"), ("net_usd\n1\n", "column of times"), ("date,net_usd\n2024-01-08,1\n2024-01-09,much\n", "line 3: net_usd must be a number, got 'much'"),
    ("date,net_usd\n2024-01-08,\n", "line 2: net_usd"), ("date,net_usd\nsoon,1\n", "line 2: stamp 'soon'"), ("date,net_usd\n2024-01-08,1\n,2\n", "line 3: stamp is missing"), ("date,net_usd\n2024-01-08,inf\n", "must be a number"),
    ("date,net_usd,predictor\n2024-01-08,1,a\n2024-01-08,1,b\n", "trades of a, b; say whose")])
def test_a_table_that_is_none_is_refused_in_one_line(tmp_path, text, says):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(ValueError, match=says) as e: read_trades(tmp_path / "t.csv")
    assert "\n" not in str(e.value)
