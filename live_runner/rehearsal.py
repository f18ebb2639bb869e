"A trade that never was: a core of its own goes through one at the start, so that no step of the real one waits for code to be loaded when its first order is due."
import numpy as np

from mesbot.calendar import session_table
from mesbot.core import SECOND, instrument
from mesbot.predictors import Prediction

from .core import Core, Setup
from .gateway.answers import Account, Fill, Order
from .gateway.outcomes import Accepted
from .messages import Answered, Ask, Close, FillTold, Link, OrderTold, Past, Place, Second, Snapshot, Started
from .protocol import OrderStatus, OrderType, Side

DATE, PRICE = "2024-01-03", 20_000  # an ordinary day; ticks
UP = Prediction(np.float32([[.05, .05, .9]]), np.zeros(1, np.float32), np.full(1, 2, np.float32))


class _Sure:
    "Always says up."
    def predict(self, features): return UP


def rehearse(
    setup: Setup, # of the real core
) -> list: # of commands: what it led to
    "In and out once, through the very steps of the day."
    core, day = Core(setup, _Sure()), session_table(DATE, DATE, instrument(setup.symbol).hours)[0]
    at = int(day["rth_open"]) + 3600 * SECOND
    account = Account(setup.account, "rehearsal", 1000.0, True, True, True)
    bar = lambda ts: (ts, PRICE, PRICE + 1, PRICE - 1, PRICE, 10)
    sent = core.step(Started(at))
    sent += core.step(Past(at, np.array([at - 3 * SECOND, at - 2 * SECOND]), np.full((2, 4), PRICE, np.int32), np.array([5, 5])))
    for hub in ("user", "market"): sent += core.step(Link(at, hub, True))
    number = next(command.id for command in sent if isinstance(command, Ask))
    core.step(Snapshot(at, number, at, account, (), (), ()))
    core.reconciled = True
    sent += core.step(Second(at + SECOND, bar(at), PRICE, PRICE + 1))
    for k, place in enumerate([command for command in sent if isinstance(command, Place)]):
        order = Order(10 * k + 1, setup.account, setup.contract, OrderStatus.FILLED, OrderType.MARKET, place.order.side, place.order.size, place.order.size, core.points(PRICE), None, None, None, None,
                      place.order.tag, None, None, at + SECOND, at + SECOND, None)
        leg = order._replace(id=10 * k + 2, status=OrderStatus.OPEN, type=OrderType.STOP, side=Side(1 - place.order.side), filled=0, stop=core.points(PRICE - place.order.stop_ticks), tag=f"{order.tag}-SL", parent=order.id)
        fill = Fill(10 * k + 3, setup.account, setup.contract, at + SECOND, core.points(PRICE), place.order.side, order.size, order.id, None, .2, .2, False)
        for event in (Answered(at + SECOND, place.id, Accepted(order.id)), OrderTold(at + SECOND, order), FillTold(at + SECOND, fill), OrderTold(at + SECOND, leg)): sent += core.step(event)
    sent += core.step(Second(at + 2 * SECOND, bar(at + SECOND), PRICE, PRICE + 1))
    core.halt("the rehearsal is over")
    sent += core.step(Second(at + 3 * SECOND, bar(at + 2 * SECOND), PRICE, PRICE + 1))
    if any(isinstance(command, Close) for command in sent):
        core.step(FillTold(at + 3 * SECOND, Fill(99, setup.account, setup.contract, at + 3 * SECOND, core.points(PRICE), Side.SELL, abs(core.desk.held), 98, 0.0, .2, .2, False)))
    core.snapshot()
    core.status()
    return sent
