"LIV-4: what the hubs tell becomes one second after the other, each told once and in order, whatever comes late, twice, crossed or not at all."
import numpy as np
import pytest
from gateway_world import CONTRACT, MS, NS, OPEN, PRICE, points

from live_runner.feed import Feed, Hours
from live_runner.gateway.answers import Account, Fill, Order, Position
from live_runner.gateway.events import (AccountEvent, CallRefused, Connected, FillEvent, Logout, Lost, OrderEvent, PositionEvent, Print, Prints, Quote, Step, Subscribed,
                                        UnreadableEvent)
from live_runner.messages import AccountTold, FillTold, Link, OrderTold, PositionTold, Second
from live_runner.protocol import OrderStatus, OrderType, PositionType, Side
from live_runner.settings import RunnerSettings

GRACE = 250 * MS
at = lambda s: OPEN + round(s * NS)                                  # so many seconds after 09:30


class Ear:
    "A feed and what it has told."

    def __init__(self, begun=True, grace=GRACE, real=True, account=0, **settings):
        self.told = []
        self.feed = Feed("MES", CONTRACT, self.told.append, grace, RunnerSettings(**settings), account, real)
        if begun:
            self.quote(0)
            self.feed.begin(OPEN, 20_000)

    def quote(self, s, bid=0, ask=1, lag=.01, **more):
        self.feed.market(Quote(CONTRACT, bid=None if bid is None else points(bid), ask=None if ask is None else points(ask), ts=at(s), **more), at(s + lag))

    def print(self, s, up=0, size=1, lag=.01, price=None, contract=CONTRACT):
        self.feed.market(Prints(contract, [Print(at(s), points(up) if price is None else price, size, None)], 1), at(s + lag))

    @property
    def seconds(self): return [event for event in self.told if isinstance(event, Second)]

    @property
    def bars(self): return [event.bar for event in self.seconds]

    @property
    def links(self): return [(event.hub, event.up) for event in self.told if isinstance(event, Link)]


def test_a_second_is_over_at_the_first_event_of_a_later_one():
    ear = Ear()
    ear.print(.2, 1), ear.print(.5, 3), ear.print(.6, -2), ear.print(.9, 2, size=4)
    assert not ear.told
    ear.quote(1.01)
    assert ear.told == [Second(at(1), (OPEN, 20_001, 20_003, 19_998, 20_002, 7), 20_000, 20_001)]


def test_a_second_is_over_when_its_end_has_passed_by_the_grace_and_not_a_moment_before():
    ear = Ear()
    ear.print(.2, 1)
    ear.feed.tick(at(1.249_999_999))
    assert not ear.told
    ear.feed.tick(at(1.25))
    assert [event.at for event in ear.told] == [at(1)]


def test_the_step_of_a_simulated_market_ends_a_second_without_any_grace():
    ear = Ear(real=False)
    ear.print(.2, 1)
    ear.feed.market(Step("market", at(1), 1), at(1))
    assert [event.at for event in ear.told] == [at(1)]
    ear.feed.user(Step("user", at(2), 1), at(2))     # says nothing of the market
    assert len(ear.told) == 1


def test_every_second_is_told_once_and_in_order_those_without_a_trade_too():
    ear = Ear()
    ear.print(.2, 1), ear.print(4.3, 2), ear.feed.tick(at(4.9)), ear.feed.tick(at(4.9)), ear.print(4.95, 5)
    ear.feed.tick(at(7.3))
    assert [event.at for event in ear.told] == [at(s) for s in range(1, 8)]
    assert [bar and bar[0] for bar in ear.bars] == [at(0), None, None, None, at(4), None, None]
    assert ear.bars[4][1:] == (20_002, 20_005, 20_002, 20_005, 2)


def test_a_trade_that_comes_after_its_second_was_told_changes_nothing():
    ear = Ear()
    ear.print(.2, 1), ear.feed.tick(at(1.3)), ear.print(.9, 50), ear.print(1.4, 2), ear.feed.tick(at(2.3))
    assert [bar[1:] for bar in ear.bars] == [(20_001,) * 4 + (1,), (20_002,) * 4 + (1,)]


def test_the_quote_of_a_second_is_the_one_that_stood_as_it_began():
    ear = Ear()
    ear.print(.2), ear.quote(.6, -4, -2), ear.quote(1.0, 3, 4), ear.print(1.2), ear.quote(1.3, 7, 8), ear.print(2.2), ear.feed.tick(at(3.3))
    assert [(event.bid - 20_000, event.ask - 20_000) for event in ear.seconds] == [(0, 1), (3, 4), (7, 8)]


def test_other_contracts_are_let_pass():
    ear = Ear()
    ear.print(.2, 9, contract="CON.F.US.MNQ.H24"), ear.feed.market(Quote("CON.F.US.MNQ.H24", bid=1.0, ask=2.0, ts=at(.3)), at(.3)), ear.feed.tick(at(2.3))
    assert ear.bars == [None, None] and {(event.bid, event.ask) for event in ear.seconds} == {(20_000, 20_001)}


# --- what speaks against a decision ------------------------------------------------------------------------------------------------------------------------

def doubts(ear): return [event.doubt for event in ear.seconds]


def test_a_clean_second_is_told_without_a_doubt():
    ear = Ear()
    for s in range(30): ear.quote(s), ear.print(s + .2, s % 3), ear.print(s + .8, 1)
    ear.feed.tick(at(30.3))
    assert len(ear.told) == 30 and not any(doubts(ear))


@pytest.mark.parametrize("spoil, said", [
    (lambda ear: ear.print(.5, price=PRICE + .1), "off the tick grid"),
    (lambda ear: ear.print(.5, price=-1.0), "can be none"),
    (lambda ear: ear.print(.5, size=0), "can be none"),
    (lambda ear: ear.print(.5, up=201), "jump of 201 ticks"),
    (lambda ear: ear.print(.5, up=-201), "jump of 201 ticks"),
    (lambda ear: ear.quote(.5, 3, 3), "make no market"),
    (lambda ear: ear.quote(.5, 3, 2), "make no market"),
    (lambda ear: ear.quote(.5, -20_000, 2), "make no market"),
    (lambda ear: ear.feed.market(UnreadableEvent("market", "nonsense", 1), at(.5)), "cannot be read"),
    (lambda ear: ear.print(.5, lag=1.2), "differ by 1.2 s"),
    (lambda ear: ear.print(.5, lag=-1.2), "differ by -1.2 s"),
    (lambda ear: ear.print(100, lag=-99.5), "in the future"),
])
def test_what_cannot_be_right_is_told_with_its_second_and_not_with_the_next(spoil, said):
    ear = Ear()
    ear.print(.2)
    spoil(ear)
    ear.quote(1), ear.print(1.2), ear.print(2.2), ear.feed.tick(at(3.3))
    assert said in doubts(ear)[0] and "" == doubts(ear)[2]
    assert [event.at for event in ear.seconds] == [at(1), at(2), at(3)] and all(ear.bars)


def test_the_last_close_for_a_jump_is_that_of_the_last_bar_however_long_ago():
    ear = Ear(quote_age_s=1000)
    ear.print(.2, 150), ear.print(9.2, 340), ear.print(10.2, 541), ear.feed.tick(at(12.3))
    assert [bool(doubt) for doubt in doubts(ear)] == [False] * 10 + [True, False]


def test_an_old_quote_is_doubted_where_something_traded():
    ear = Ear()
    ear.print(9.2), ear.print(10.2), ear.feed.tick(at(12.3))
    assert [bool(doubt) for doubt in doubts(ear)] == [False] * 10 + [True, False]   # the 11th second ends 11 s after the quote
    assert "11 s old" in doubts(ear)[10]


def test_without_a_quote_nothing_is_decided():
    ear = Ear(begun=False)
    ear.feed.begin(OPEN)
    ear.print(.2), ear.quote(1.1, None, 1), ear.print(1.2), ear.feed.tick(at(2.3))
    assert "no quote" in doubts(ear)[0] and (ear.told[0].bid, ear.told[0].ask) == (0, 0) and "make no market" in doubts(ear)[1]


def test_a_simulated_market_is_never_doubted_for_its_clock():
    ear = Ear(real=False)
    ear.print(.2, lag=3000), ear.print(1.2, lag=-3000), ear.feed.tick(at(2.3))
    assert doubts(ear) == ["", ""]


def test_a_feed_that_was_not_told_where_to_begin_doubts_its_first_second():
    ear = Ear(begun=False)
    ear.quote(.1), ear.print(.6), ear.print(1.2), ear.feed.tick(at(2.3))
    assert [event.at for event in ear.seconds] == [at(1), at(2)] and "began within" in doubts(ear)[0]


# --- hubs ---------------------------------------------------------------------------------------------------------------------------------------------------

def test_a_hub_is_up_when_its_subscriptions_are_answered_and_down_when_it_is_lost():
    ear = Ear()
    for event in (Connected("user", 1), Subscribed("user", 1), Lost("user", 1, "silence"), Connected("user", 2), Subscribed("user", 2), Logout("user", 2)): ear.feed.user(event, at(1))
    assert ear.links == [("user", True), ("user", False), ("user", True), ("user", False)]
    assert [event.why for event in ear.told] == ["", "silence", "", "the venue ended our login"]


def test_a_refused_subscription_is_a_hub_that_is_not_up():
    ear = Ear()
    for event in (Connected("user", 3), CallRefused("user", "SubscribeOrders(1)", "no", 3), Subscribed("user", 3)): ear.feed.user(event, at(1))
    assert ear.links == [("user", False)] and "SubscribeOrders(1) was refused: no" in ear.told[0].why
    for event in (Connected("user", 4), Subscribed("user", 4)): ear.feed.user(event, at(1))
    assert ear.links[-1] == ("user", True)


def test_seconds_without_the_markets_hub_are_doubted_and_its_old_quote_is_forgotten():
    ear = Ear()
    ear.print(.2), ear.feed.market(Lost("market", 1, "cut"), at(.5)), ear.feed.tick(at(2.3)), ear.feed.market(Subscribed("market", 2), at(2.4))
    ear.quote(2.5, 5, 6), ear.print(2.6), ear.quote(3, 5, 6), ear.print(3.2), ear.feed.tick(at(4.3))
    assert [said and said.split(":")[0].split(";")[0] for said in doubts(ear)] == ["the market's hub is down"] * 2 + ["the market's hub came back within this second", ""]
    assert [(event.bid, event.ask) for event in ear.seconds[1:]] == [(0, 0), (0, 0), (20_005, 20_006)]


def test_news_of_the_account_is_told_at_once_and_as_it_came():
    order = Order(5, 101, CONTRACT, OrderStatus.OPEN, OrderType.STOP, Side.SELL, 1, 0, None, None, PRICE, None, None, "t", None, None, None, None, None)
    fill, account = Fill(7, 101, CONTRACT, at(1), PRICE, Side.BUY, 1, 5, None, .36, .25, False), Account(101, "A", 1e3, True, True, True)
    position = Position(8, 101, CONTRACT, PositionType.LONG, 1, PRICE, None)
    ear = Ear(account=101)
    for event in (OrderEvent(1, order, 1), FillEvent(0, fill, 1), PositionEvent(1, position, 1), AccountEvent(1, account, 1)): ear.feed.user(event, at(.7))
    assert ear.told == [OrderTold(at(.7), order), FillTold(at(.7), fill), PositionTold(at(.7), position), AccountTold(at(.7), account)]
    ear.feed.user(AccountEvent(1, account._replace(id=102), 1), at(.7))
    assert len(ear.told) == 4, "another account of the same user is none of ours"


def test_news_of_the_account_that_cannot_be_read_is_a_gap():
    ear = Ear()
    ear.feed.user(UnreadableEvent("user", "an order of status 77", 1), at(.5))
    assert ear.links == [("user", False), ("user", True)] and "status 77" in ear.told[0].why


# --- long days ----------------------------------------------------------------------------------------------------------------------------------------------

def test_the_closed_hours_are_not_told_beyond_a_minute_after_the_last_event():
    close = OPEN + 7 * 3600 * NS + 1800 * NS          # 17:00 New York; it opens again at 18:00
    ear = Ear(begun=False)
    ear.feed.begin(close - 5 * NS)
    ear.feed.market(Quote(CONTRACT, bid=PRICE, ask=PRICE + .25, ts=close + 3 * NS), close + 3 * NS)
    ear.feed.tick(close + 600 * NS)
    assert [event.at for event in ear.told] == [close + s * NS for s in range(-4, 65)]
    ear.feed.tick(close + 3602 * NS + GRACE)
    assert [event.at for event in ear.told[69:]] == [close + 3601 * NS, close + 3602 * NS]


def test_the_open_hours_are_told_whole_however_quiet():
    ear = Ear()
    ear.feed.tick(at(4000.3))
    assert [event.at for event in ear.seconds] == [at(s) for s in range(1, 4001)]


@pytest.mark.parametrize("when, is_open", [("2024-01-03T14:30", True), ("2024-01-03T22:30", False), ("2024-01-06T15:00", False), ("2024-01-07T23:00", True), ("2024-01-15T18:30", False),
                                           ("2024-01-15T17:30", True), ("2024-03-10T22:30", True), ("2024-11-29T18:30", False), ("2024-12-25T15:00", False)])
def test_hours_are_those_of_the_calendar(when, is_open):
    ts = int(np.datetime64(when, "ns").astype(np.int64))
    opened, until = Hours("cme_equity").stretch(ts)
    assert opened == is_open and until > ts
    assert Hours("cme_equity").stretch(until)[0] != is_open and Hours("cme_equity").stretch(until - 1)[0] == is_open


def test_the_bars_of_a_market_are_the_same_bars_again():
    "A synthetic session through the tape, the venue's events and the feed: every bar, every quote, and no doubt."
    from live_runner.gateway.events import EventReader
    from live_runner.simulator.sources import synthetic_tape
    tape, told, reader = synthetic_tape(1, seed=3), [], EventReader("market", 1)
    tape.begin_at("15:40")
    feed = Feed("MES", tape.contract, told.append, 0, RunnerSettings(), real=False)

    class Silent:
        def meet_open(self, bar): pass
        meet_range = end_second = meet_open

    class Emit:
        now = tape.begin
        def __call__(self, event, contract, payload):
            feed.market(reader.read(event, [contract, payload]), self.now)
        def listening(self, event, key): return False
    emit = Emit()
    feed.begin(tape.begin)
    for moment in tape.play(0, Silent(), emit): emit.now = moment
    feed.tick(emit.now)
    a, first = tape.rows(0)[1], int(np.searchsorted(tape.bars.ts, tape.begin))
    bars = [event.bar for event in told if event.bar]
    assert np.array_equal(np.array(bars), np.array([column[first:a] for column in tape.bars[:6]]).T) and len(bars) > 1000
    assert not [event.doubt for event in told if event.doubt]
    shown = {event.bar[0]: (event.bid, event.ask) for event in told if event.bar}
    known = tape.bid[first:a] > 0
    assert known.mean() > .9 and all(shown[int(ts)] == (bid, ask) for ts, bid, ask in zip(tape.bars.ts[first:a][known], tape.bid[first:a][known], tape.ask[first:a][known]))
