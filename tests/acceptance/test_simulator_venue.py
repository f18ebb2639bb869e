"LIV-1, LIV-5: the venue by itself: life cycles and their timing, legs, netting, trailing stops, hours, price limits, and what the plan of faults makes it do."
import pytest
from test_paper_fills import ACCOUNT, CONTRACT, desk, place

from live_runner.clock import isotime
from live_runner.protocol import OrderStatus, OrderType, Side
from mesbot.calendar import session_table
from mesbot.config import load_config
from mesbot.core import SECOND, Bar

FIXED = load_config(costs=dict(slippage="fixed"))
DAY = session_table("2024-01-03", "2024-01-03")[0]
TEN = int(DAY["rth_open"]) + 1800 * SECOND


class Floor:
    "A venue at ten o'clock, and bars to feed it."
    def __init__(self, faults=(), price=20_000, ts=TEN, day=DAY, **changes):
        self.venue, self.told = desk(FIXED, faults=faults, **{"hours": "topstep"} | changes)
        self.ts = ts
        self.venue.clock.run_until(min(ts, int(day["open"])))
        self.venue.open_session(day)
        self.venue.clock.run_until(ts)
        self.bar(price, price, price, price)

    def bar(self, open, high, low, close):
        bar, venue = Bar(self.ts, open, high, low, close, 10), self.venue
        for lag, moment in ((.2, venue.meet_open), (.5, venue.meet_range), (1, venue.end_second)):
            venue.clock.run_until(self.ts + round(lag * SECOND))
            moment(bar)
        self.ts += SECOND

    def place(self, kind=OrderType.MARKET, side=Side.BUY, size=1, **fields): return place(self.venue, kind, side, size, **fields)
    def bracket(self, side=Side.BUY, size=1, stop=8, target=12, **fields):
        sign = 1 if side == Side.BUY else -1
        return self.place(OrderType.MARKET, side, size, stopLossBracket={"ticks": -sign * stop, "type": 4}, takeProfitBracket={"ticks": sign * target, "type": 1}, **fields)
    def call(self, path, **body): return self.venue.answer(f"/api/{path}", {"accountId": ACCOUNT, **body})
    def refused(self, path="Order/place", **body):
        answer = self.call(path, **{"contractId": CONTRACT, "type": 2, "side": 0, "size": 1} | body)
        assert not answer["success"]
        return answer["errorCode"], answer["errorMessage"]
    def order(self, number): return self.venue.accounts[ACCOUNT].orders[number]
    def statuses(self, number): return [(round((at - self.ts) / 1e6), p["status"]) for at, event, p, _ in self.told if event == "GatewayUserOrder" and p["id"] == number]
    @property
    def held(self): return sum(p.side * p.size for p in self.venue.accounts[ACCOUNT].positions.values())


def test_the_time_line_of_a_bracket():
    "Legs are there at once and suspended; the fill is told 8 ms after its print, the legs 18 ms after that; a target leaves no stop behind."
    floor = Floor()
    entry = floor.bracket(Side.SELL, customTag="a")
    stop, target = entry + 1, entry + 2
    start = floor.ts
    assert [(p["id"], p["status"]) for _, event, p, _ in floor.told if event == "GatewayUserOrder"] == [(stop, 8), (entry, 6), (target, 8)]
    floor.bar(20_000, 20_000, 20_000, 20_000)
    floor.ts = start
    assert floor.statuses(entry) == [(0, 6), (208, 2)] and floor.statuses(stop) == [(0, 8), (226, 1)] and floor.statuses(target) == [(0, 8), (226, 1)]
    assert [floor.order(k).tag for k in (entry, stop, target)] == ["a", "a-SL", "a-TP"] and floor.order(target).linked == stop and floor.order(stop).linked is None
    assert (floor.order(stop).stop, floor.order(target).limit) == (20_007, 19_987)   # sold at 19,999, a tick below the print
    floor.ts = start + SECOND
    floor.bar(19_990, 19_990, 19_986, 19_986)
    assert floor.held == 0 and floor.order(target).status == OrderStatus.FILLED and floor.order(stop).status == OrderStatus.CANCELLED and not floor.venue.working
    flat = [(p["type"], p["size"], p["averagePrice"], action) for _, event, p, action in floor.told if event == "GatewayUserPosition"][-1]
    assert flat == (0, 0, 19_999 * .25, 2)


def test_netting_scales_in_closes_and_reverses():
    floor = Floor()
    for side, size, price in ((0, 2, 20_000), (0, 1, 20_009), (1, 1, 20_010), (1, 4, 20_020)):
        floor.place(side=side, size=size)
        floor.bar(price, price, price, price)
    position = floor.call("Position/searchOpen")["positions"][0]
    assert (position["type"], position["size"], position["averagePrice"]) == (2, 2, 20_019 * .25)
    fills = floor.call("Trade/search")["trades"][::-1]
    assert [(f["size"], f["profitAndLoss"]) for f in fills] == [(2, None), (1, None), (1, (20_009 - 20_004) * 1.25), (2, 2 * (20_019 - 20_004) * 1.25), (2, None)]   # in at 20,001 twice and 20,010 once
    gross = sum(f["profitAndLoss"] or 0 for f in fills)
    assert floor.venue.accounts[ACCOUNT].balance == pytest.approx(1e6 + gross - 8 * .42)


def test_a_trailing_stop_follows_bar_by_bar_and_never_back():
    floor = Floor()
    floor.place()
    floor.bar(20_000, 20_000, 20_000, 20_000)
    stop = floor.place(OrderType.TRAILING_STOP, Side.SELL, trailPrice=19_990 * .25)
    assert (floor.order(stop).trail, floor.order(stop).stop) == (10, 19_990)
    floor.bar(20_004, 20_006, 19_991, 20_005)      # a new best price and, in the same second, one that the new level would not have survived
    assert floor.held == 1 and floor.order(stop).stop == 19_996
    floor.bar(20_000, 20_001, 19_997, 19_998)
    assert floor.order(stop).stop == 19_996
    floor.bar(19_998, 19_998, 19_996, 19_997)
    assert floor.held == 0 and floor.call("Trade/search")["trades"][0]["price"] == 19_995 * .25


@pytest.mark.parametrize("fields, text", [
    (dict(customTag="used"), "Specified custom tag is already in use"),
    (dict(type=1, limitPrice=5000.1), "Invalid limit price. Price is not aligned to tick size."),
    (dict(type=4, stopPrice=5000.1), "Invalid stop price. Price is not aligned to tick size."),
    (dict(type=4, stopPrice=4999.0), "Invalid price. Price is outside allowed range."),
    (dict(type=4, side=1, stopPrice=5001.0), "Invalid price. Price is outside allowed range."),
    (dict(type=5), "Trail Distance not set."),
    (dict(type=5, trailPrice=4999.9), "Invalid trail price. Price is not aligned to tick size."),
    (dict(type=5, trailPrice=4749.75), "Trail Distance exceeds maximum (1000)"),
    (dict(size=1001), "Not enough margin."),
    (dict(stopLossBracket={"ticks": 40, "type": 4}), "Invalid stop loss ticks (40). Ticks should be less than zero when longing."),
    (dict(side=1, stopLossBracket={"ticks": -40, "type": 4}), "Invalid stop loss ticks (-40). Ticks should be greater than zero when shorting."),
    (dict(takeProfitBracket={"ticks": -40, "type": 1}), "Invalid take profit ticks (-40). Ticks should be greater than zero when longing."),
    (dict(stopLossBracket={"ticks": -1, "type": 4}), "Invalid stop loss ticks (-1). Price should be at least 4 ticks away."),
])
def test_what_is_rejected_and_why(fields, text):
    "A rejected order exists, has an id and has used up its tag; a tag in use makes no order."
    floor = Floor()
    floor.place(customTag="used")
    before = len(floor.venue.accounts[ACCOUNT].orders)
    assert floor.refused(**{"customTag": "new"} | fields) == (2, text)
    if "customTag" not in fields:
        assert floor.order(max(floor.venue.accounts[ACCOUNT].orders)).status == OrderStatus.REJECTED and floor.told[-1][2]["status"] == 5
        assert floor.refused(customTag="new") == (2, "Specified custom tag is already in use")
    assert len(floor.venue.accounts[ACCOUNT].orders) == before + ("customTag" not in fields)


def test_position_brackets_refuse_a_bracket_and_give_the_id_all_the_same():
    floor = Floor(account=dict(brackets="position"))
    answer = floor.call("Order/place", contractId=CONTRACT, type=2, side=0, size=1, stopLossBracket={"ticks": -8, "type": 4})
    assert (answer["success"], answer["errorCode"], answer["errorMessage"]) == (False, 2, "Brackets cannot be used with Position Brackets. You must enable Auto OCO Brackets.")
    assert floor.call("Order/searchById", orderId=answer["orderId"])["order"]["status"] == OrderStatus.REJECTED


def test_the_firm_has_everybody_flat_and_takes_no_more_orders():
    "From 16:08 New York what is held is closed, from 16:10 nothing is taken; the exchange itself would go on."
    floor = Floor(ts=int(DAY["rth_close"]) + 7 * 60 * SECOND)
    floor.bracket()
    floor.bar(20_000, 20_000, 20_000, 20_000)
    floor.ts = int(DAY["rth_close"]) + 8 * 60 * SECOND
    floor.venue.clock.run_until(floor.ts)
    floor.bar(20_001, 20_001, 20_001, 20_001)
    assert floor.held == 0 and not floor.venue.working and floor.call("Trade/search")["trades"][0]["price"] == 20_000 * .25
    floor.venue.clock.run_until(int(DAY["rth_close"]) + 10 * 60 * SECOND)
    assert floor.refused() == (2, "Trading is currently unavailable. The instrument is not in an active trading status.")
    late = Floor(ts=int(DAY["rth_close"]) + 10 * 60 * SECOND, hours="exchange")
    late.place()


def test_an_early_close_brings_the_flat_time_forward():
    short = session_table("2024-07-03", "2024-07-03")[0]
    assert short["shift"] > 0
    floor = Floor(ts=int(short["close"]) - 20 * 60 * SECOND, day=short)
    floor.place()
    floor.venue.clock.run_until(int(short["close"]) - 15 * 60 * SECOND)
    assert floor.refused()[0] == 2 and floor.venue.accounts[ACCOUNT].orders


def test_what_is_held_at_the_end_of_the_session_is_closed_and_what_works_expires():
    floor = Floor(hours="exchange")
    floor.place()
    floor.bar(20_000, 20_000, 20_000, 20_000)
    limit = floor.place(OrderType.LIMIT, limitPrice=4900.0)
    floor.venue.clock.run_until(int(DAY["close"]))
    floor.venue.close_session()
    assert floor.held == 0 and floor.order(limit).status == OrderStatus.EXPIRED and not floor.venue.is_trading


def test_prices_beyond_the_day_s_limits_are_refused():
    floor = Floor()
    floor.venue.clock.run_until(int(DAY["close"]))
    floor.venue.close_session()
    day = session_table("2024-01-04", "2024-01-04")[0]
    floor.venue.clock.run_until(int(day["open"]))
    floor.venue.open_session(day)
    assert floor.venue.limits == (18_600, 21_400)
    assert floor.refused(type=1, limitPrice=21_401 * .25) == (2, "Invalid price. Price is outside allowed range.")
    floor.place(OrderType.LIMIT, limitPrice=21_400 * .25)


def test_links_of_older_documents_are_honoured_where_they_are_switched_on():
    for links in (False, True):
        floor = Floor(links=links)
        a = floor.place(OrderType.LIMIT, limitPrice=19_990 * .25)
        b = floor.place(OrderType.STOP, stopPrice=20_010 * .25, linkedOrderId=a)
        floor.bar(20_012, 20_012, 20_012, 20_012)
        assert floor.order(b).status == OrderStatus.FILLED and floor.order(a).status == (OrderStatus.CANCELLED if links else OrderStatus.OPEN)


def test_a_legs_change_leaves_its_sibling_and_a_cancelled_entry_takes_its_legs():
    floor = Floor()
    entry = floor.bracket()
    assert floor.call("Order/cancel", orderId=entry)["success"]
    assert [floor.order(k).status for k in (entry, entry + 1, entry + 2)] == [OrderStatus.CANCELLED] * 3 and not floor.venue.working
    assert floor.call("Order/cancel", orderId=entry)["errorCode"] == 5 and floor.call("Order/cancel", orderId=7)["errorCode"] == 2
    entry = floor.bracket()
    assert floor.call("Order/modify", orderId=entry + 1, stopPrice=4999.0)["errorCode"] == 4         # it waits for its entry
    floor.bar(20_000, 20_000, 20_000, 20_000)
    assert floor.call("Order/modify", orderId=entry + 1, stopPrice=19_995 * .25)["success"]
    assert (floor.order(entry + 1).stop, floor.order(entry + 2).limit) == (19_995, 20_013)
    assert floor.call("Order/modify", orderId=entry + 1, stopPrice=20_000 * .25)["errorMessage"] == "Invalid price. Price is outside allowed range."
    assert floor.call("Order/cancel", orderId=entry + 1)["success"] and floor.order(entry + 2).status == OrderStatus.OPEN


def test_the_worse_reading_of_a_bar():
    "A bar that holds stop and target is the stop; on the bar of an entry by limit the stop counts and the target does not."
    floor = Floor()
    floor.bracket()
    floor.bar(20_000, 20_000, 20_000, 20_000)
    floor.bar(20_000, 20_020, 19_980, 20_000)
    assert floor.call("Trade/search")["trades"][0]["price"] == (20_001 - 8 - 1) * .25
    for low, end in ((19_985, 1), (19_981, 0)):
        floor = Floor()
        floor.place(OrderType.LIMIT, limitPrice=19_990 * .25, stopLossBracket={"ticks": -8, "type": 4}, takeProfitBracket={"ticks": 12, "type": 1})
        floor.bar(20_000, 20_010, low, 20_010)
        assert floor.held == end
    for opening in (20_000, 19_985):
        floor = Floor()
        floor.place(OrderType.LIMIT, limitPrice=19_990 * .25, takeProfitBracket={"ticks": 12, "type": 1})
        floor.bar(opening, 20_010, 19_985, 20_010)
        assert floor.held == 1
        floor.bar(20_010, 20_010, 20_010, 20_010)
        assert floor.held == 0 and floor.call("Trade/search")["trades"][0]["price"] == 20_002 * .25


def test_an_order_meets_no_bar_that_had_begun():
    "Neither one sent within the second, nor one that is still on its way."
    floor = Floor(latency_s=2.0)
    floor.place()
    floor.bar(20_000, 20_000, 20_000, 20_000)
    floor.bar(20_000, 20_000, 20_000, 20_000)
    assert floor.held == 0
    floor.bar(20_000, 20_000, 20_000, 20_000)
    assert floor.held == 1
    floor = Floor()
    bar = Bar(floor.ts, 20_000, 20_000, 19_900, 19_950, 10)
    floor.venue.clock.run_until(floor.ts + SECOND // 5)
    floor.venue.meet_open(bar)
    floor.venue.clock.run_until(floor.ts + SECOND // 3)
    floor.place(OrderType.LIMIT, limitPrice=19_990 * .25)
    floor.venue.meet_range(bar)
    floor.venue.clock.run_until(floor.ts + SECOND)
    floor.venue.end_second(bar)
    assert floor.held == 0


def test_each_of_two_brackets_has_legs_of_its_own():
    floor = Floor()
    for price in (20_000, 20_005):
        floor.bracket()
        floor.bar(price, price, price, price)
    floor.bar(20_014, 20_014, 20_014, 20_014)      # through the target of the first, at 20,013
    assert floor.held == 1 and len(floor.call("Order/searchOpen")["orders"]) == 2
    floor.bar(19_995, 19_995, 19_995, 19_995)      # and the stop of the second, at 19,998
    assert floor.held == 0 and not floor.venue.working


# -- faults ------------------------------------------------------------------------------------------------------------
def rule(fault, **numbers): return [{"fault": fault, **numbers}]


def test_a_partial_fill_protects_what_is_filled_and_goes_on():
    floor = Floor(rule("partial_fill", share=.4, count=1))
    entry = floor.bracket(size=5)
    floor.bar(20_000, 20_000, 20_000, 20_000)
    assert (floor.order(entry).status, floor.order(entry).filled, floor.order(entry + 1).size, floor.order(entry + 1).status) == (OrderStatus.OPEN, 2, 2, OrderStatus.OPEN)
    floor.bar(20_002, 20_002, 20_002, 20_002)
    order = floor.order(entry)
    assert (order.status, order.filled, floor.order(entry + 1).size, floor.order(entry + 2).size, floor.held) == (OrderStatus.FILLED, 5, 5, 5, 5) and order.average == pytest.approx((2 * 20_001 + 3 * 20_003) / 5)


def test_legs_can_be_left_behind_and_reverse_the_position():
    for faults, left in (((), 0), (rule("keep_legs"), 2)):
        floor = Floor(faults)
        floor.bracket()
        floor.bar(20_000, 20_000, 20_000, 20_000)
        assert floor.call("Position/closeContract", contractId=CONTRACT)["success"]
        floor.bar(20_000, 20_000, 20_000, 20_000)
        assert floor.held == 0 and len(floor.call("Order/searchOpen")["orders"]) == left
    floor.bar(19_990, 19_990, 19_990, 19_990)
    assert floor.held == -1


def test_stops_can_slip_vanish_or_be_rejected():
    prices = {}
    for name, faults in {"plain": (), "slipped": rule("slip_stops", ticks=2)}.items():
        floor = Floor(faults)
        floor.bracket()
        for price in (20_000, 19_992): floor.bar(price, price, price, price)
        prices[name] = floor.call("Trade/search")["trades"][0]["price"]
    assert prices == {"plain": 19_991 * .25, "slipped": 19_989 * .25}
    for fault, status in (("drop_stop", OrderStatus.CANCELLED), ("reject_stop", OrderStatus.REJECTED)):
        floor = Floor(rule(fault))
        entry = floor.bracket()
        for price in (20_000, 19_900): floor.bar(price, price, price, price)
        assert floor.held == 1 and floor.order(entry + 1).status == status and [o["id"] for o in floor.call("Order/searchOpen")["orders"]] == [entry + 2]
        told = [p["status"] for _, event, p, _ in floor.told if event == "GatewayUserOrder" and p["id"] == entry + 1]
        assert told == [8, 1 if fault == "drop_stop" else 5]


def test_a_halt_and_a_narrow_price_band_refuse():
    floor = Floor(rule("halt", count=1) + rule("price_band", ticks=20))
    assert floor.refused() == (2, "Trading is currently unavailable. The instrument is not in an active trading status.")
    assert floor.refused(type=1, limitPrice=19_970 * .25) == (2, "Invalid price. Price is outside allowed range.")
    floor.place(OrderType.LIMIT, limitPrice=19_980 * .25)


def test_somebody_else_may_trade_flatten_and_lock_the_account():
    floor = Floor()
    floor.bracket()
    floor.bar(20_000, 20_000, 20_000, 20_000)
    floor.venue.trade(ACCOUNT, Side.BUY, 2)
    floor.bar(20_000, 20_000, 20_000, 20_000)
    assert floor.held == 3
    floor.venue.flatten(ACCOUNT)
    floor.venue.lock(ACCOUNT, False)
    floor.bar(20_000, 20_000, 20_000, 20_000)
    assert floor.held == 0 and not floor.venue.working and floor.refused()[0] == 10
    assert floor.call("Account/search", onlyActiveAccounts=True)["accounts"] == [] and len(floor.call("Account/search", onlyActiveAccounts=False)["accounts"]) == 1


def test_queries_page_filter_and_sort():
    floor = Floor()
    ids = [floor.place(OrderType.LIMIT, limitPrice=4900.0) for _ in range(5)]
    floor.call("Order/cancel", orderId=ids[0])
    whole = floor.call("Order/v2/query", filter={"accountId": ACCOUNT}, includeTotalCount=True)
    assert [o["id"] for o in whole["orders"]] == ids and whole["totalCount"] == 5
    some = floor.call("Order/v2/query", filter={"accountId": ACCOUNT, "statuses": [1]}, pageSize=2, pageOffset=1, sortBy=1, sortDirection=1)
    assert [o["id"] for o in some["orders"]] == [ids[3], ids[2]]
    assert floor.call("Order/search", startTimestamp=isotime(TEN + 3600 * SECOND))["orders"] == [] and floor.call("Order/v2/query", filter={"accountId": 7})["errorCode"] == 1


def test_a_leg_that_fills_ends_an_entry_that_is_still_being_filled():
    "Or what is filled later would have no stop."
    floor = Floor(rule("partial_fill", share=.5, count=1))
    entry = floor.bracket(size=4)
    floor.bar(20_000, 20_000, 19_990, 19_995)
    floor.bar(20_000, 20_000, 20_000, 20_000)
    assert (floor.held, floor.order(entry).status, floor.order(entry).filled, floor.order(entry + 1).filled) == (0, OrderStatus.CANCELLED, 2, 2) and not floor.venue.working
