"The REST calls: questions are asked again until they are answered, orders are sent once and their outcome is told."
import math
from collections.abc import Callable
from typing import Any

from ..clock import WallClock, isotime
from ..problems import FixTheConfig, Problem, RetryLater
from ..protocol import BARS, ENDPOINTS, PING, BarUnit, OrderStatus, OrderType, Side
from .answers import Account, Candle, Contract, Fill, Order, Position, UnreadableAnswer, field, need
from .limits import Urgency
from .outcomes import Accepted, Failed, NewOrder, Outcome, Refused, TurnedAway, Unknown
from .settings import GatewaySettings
from .tokens import Tokens
from .wire import Reply, Wire, problem_text, verdict

NEVER_CAME = {400, 401, 403, 404, 405, 413, 415, 422, 429}  # statuses that no order got behind
LOOK_BACK_S = 600  # a tag is looked for from so much before the moment asked for: the venue's clock is not ours


def order_fields(
    order: NewOrder,
) -> dict: # the body of Order/place: nothing null, bracket ticks with their sign
    "An order as the wire has it; ValueError for one that can only be a mistake of ours."
    if order.size < 1: raise ValueError(f"size must be >= 1 contract, got {order.size}")
    _check_prices(limit=order.limit, stop=order.stop, trail=order.trail)
    for name, ticks in (("stop_ticks", order.stop_ticks), ("target_ticks", order.target_ticks)):
        if ticks is not None and ticks < 1: raise ValueError(f"{name} must be >= 1, whichever the side, got {ticks}")
    if order.stop_type not in (OrderType.STOP, OrderType.TRAILING_STOP): raise ValueError(f"stop_type must be STOP or TRAILING_STOP, got {order.stop_type!r}")
    up = 1 if order.side == Side.BUY else -1
    return {"accountId": order.account, "contractId": order.contract, "type": int(order.type), "side": int(order.side), "size": int(order.size)} | _given(
        customTag=order.tag, limitPrice=order.limit, stopPrice=order.stop, trailPrice=order.trail,
        stopLossBracket=None if order.stop_ticks is None else {"ticks": -up * int(order.stop_ticks), "type": int(order.stop_type)},
        takeProfitBracket=None if order.target_ticks is None else {"ticks": up * int(order.target_ticks), "type": int(OrderType.LIMIT)})


def _check_prices(**prices: float | None) -> None:
    for name, price in prices.items():
        if price is not None and not math.isfinite(price): raise ValueError(f"{name} must be a price in points, got {price}")


def _given(**fields) -> dict:
    "The fields that are there."
    return {name: value for name, value in fields.items() if value is not None}


def _rows(kind: type) -> Callable:
    "Reads a list of records."
    return lambda rows: [kind.of(row) for row in rows]


class Gateway:
    """A client of the service's REST side. Prices are points, times ns UTC. Questions raise RetryLater, FixTheConfig, CallAHuman or Failed (the venue said no);
    acts return an Outcome and raise only for mistakes of ours."""

    def __init__(self,
        settings: GatewaySettings,
        clock: WallClock | None = None,
        timeout_s: float = 10.0,  # of one request
        attempts: int = 4,        # how often a question is asked
    ):
        self.settings, self.clock = settings, clock or WallClock()
        self.wire = Wire(settings.gateway_url, self.clock, timeout_s, attempts)
        self.tokens = Tokens(self.wire, settings)

    async def start(self) -> None:
        "Makes ready; nothing is sent yet."
        self.wire.start()

    async def close(self) -> None:
        "Ends all connections; who waits for a slot is sent away."
        await self.wire.close()

    async def __aenter__(self) -> "Gateway":
        await self.start()
        return self

    async def __aexit__(self, *_) -> None:
        await self.close()

    async def token(self,
        force: bool = False, # True: of a new log-in
    ) -> str:
        "A token that is good, for the hubs."
        return await self.tokens.get(force)

    # --- questions ---------------------------------------------------------------------------------------------------------------------------------------

    async def ping(self) -> None:
        "Returns when the service answers; needs no token."
        for tries in range(1, self.wire.attempts + 1):
            reply = await self.wire.send(PING)
            if reply.status == 200 and reply.answer == "pong": return
            await self.wire.pause(tries, reply.retry_after_s, f"{PING}: {problem_text(reply) if reply.status else reply.why}")

    async def accounts(self, only_active: bool = True) -> list[Account]:
        "The accounts of this user."
        return await self._ask("/api/Account/search", {"onlyActiveAccounts": only_active}, _rows(Account))

    async def contracts(self,
        text: str,          # matched loosely: "NQ" finds MNQ too
        live: bool = False, # False: simulated data, all that evaluation accounts have
    ) -> list[Contract]:
        "Up to 20 contracts of the active month."
        return await self._ask("/api/Contract/search", {"searchText": text, "live": live}, _rows(Contract))

    async def contract(self, contract_id: str) -> Contract:
        "One contract, expired ones too."
        return await self._ask("/api/Contract/searchById", {"contractId": contract_id}, Contract.of)

    async def available(self, live: bool = False) -> list[Contract]:
        "All contracts that can be traded."
        return await self._ask("/api/Contract/available", {"live": live}, _rows(Contract))

    async def bars(self,
        contract_id: str,
        start: int,                       # ns UTC
        end: int,                         # ns UTC
        unit: BarUnit = BarUnit.SECOND,
        number: int = 1,                  # units a bar
        limit: int = 20_000,              # bars; of a longer window the newest are kept
        partial: bool = False,            # with the bar that is not over
        live: bool = False,
    ) -> list[Candle]: # oldest first
        "History."
        body = {"contractId": contract_id, "live": live, "startTime": isotime(start), "endTime": isotime(end), "unit": int(unit), "unitNumber": number, "limit": limit,
                "includePartialBar": partial}
        return sorted(await self._ask(BARS, body, _rows(Candle)))

    async def orders(self, account: int, start: int, end: int | None = None) -> list[Order]:
        "All orders made from start (ns UTC) on, whatever became of them."
        return await self._ask("/api/Order/search", {"accountId": account, "startTimestamp": isotime(start)} | _given(endTimestamp=end and isotime(end)), _rows(Order))

    async def open_orders(self, account: int) -> list[Order]:
        "Orders of status OPEN; suspended legs are not among them, `query_orders` has those."
        return await self._ask("/api/Order/searchOpen", {"accountId": account}, _rows(Order))

    async def order(self, account: int, order_id: int) -> Order:
        "One order; Failed with ORDER_NOT_FOUND when there is none."
        return await self._ask("/api/Order/searchById", {"accountId": account, "orderId": order_id}, Order.of)

    async def query_orders(self,
        account: int,
        statuses: list[OrderStatus] | None = None, # None: all
        contract: str | None = None,
        created_after: int | None = None,          # ns UTC
        created_before: int | None = None,         # ns UTC
        page_size: int = 500,
    ) -> list[Order]: # by id
        "Orders by what they are. Whether the service counts its page offset in orders or in pages is not known: both are tried until the total it names is there; RetryLater when it is not."
        wanted = _given(accountId=account, statuses=statuses and [int(s) for s in statuses], contractId=contract, createdAfter=created_after and isotime(created_after),
                        createdBefore=created_before and isotime(created_before))
        found, total = {}, None
        for by_pages in (False, True):
            offset = int(by_pages)  # the first page is the same in both readings
            while True:
                body = {"filter": wanted, "pageSize": page_size, "pageOffset": offset, "sortBy": 1, "sortDirection": 0, "includeTotalCount": True}
                page, total = await self._ask("/api/Order/v2/query", body, lambda rows, answer: (_rows(Order)(rows), field(answer, "totalCount", "int")), whole=True)
                fresh = {order.id: order for order in page if order.id not in found}
                found |= fresh
                if not fresh or (len(found) >= total if total is not None else len(page) < page_size): break
                offset += 1 if by_pages else len(page)
            if len(found) >= total if total is not None else len(found) < page_size or by_pages: return sorted(found.values(), key=lambda order: order.id)
        raise RetryLater(f"/api/Order/v2/query names {total} orders and shows {len(found)}")

    async def find_tag(self,
        account: int,
        tag: str,
        since: int, # ns UTC, our clock; orders made a little before are looked through too
    ) -> Order | None: # None: the venue answered, and it is not there
        "The order with exactly this tag. Raises when the question fails: no answer is never an absence."
        found = [order for order in await self.orders(account, since - LOOK_BACK_S * 1_000_000_000) if order.tag == tag]
        return found[-1] if found else None

    async def positions(self, account: int) -> list[Position]:
        "What the account holds, one row a contract."
        return await self._ask("/api/Position/searchOpen", {"accountId": account}, _rows(Position))

    async def trades(self, account: int, start: int, end: int | None = None) -> list[Fill]: # oldest first
        "Fills from start (ns UTC) on."
        fills = await self._ask("/api/Trade/search", {"accountId": account, "startTimestamp": isotime(start)} | _given(endTimestamp=end and isotime(end)), _rows(Fill))
        return sorted(fills, key=lambda fill: (fill.ts, fill.id))

    # --- acts: sent once -----------------------------------------------------------------------------------------------------------------------------------

    async def place(self,
        order: NewOrder,
        exit: bool = False,
        goes_out: Callable | None = None, # goes_out(): told as the request is handed to the socket
    ) -> Outcome:
        "A new order."
        return await self._act("/api/Order/place", order_fields(order), exit, order.tag, goes_out)

    async def modify(self,
        account: int,
        order_id: int,
        size: int | None = None,     # contracts
        limit: float | None = None,  # points, as stop and trail; None leaves it as it is
        stop: float | None = None,
        trail: float | None = None,
        exit: bool = False,
    ) -> Outcome:
        "Other numbers for a working order."
        if size is not None and size < 1: raise ValueError(f"size must be >= 1 contract, got {size}")
        _check_prices(limit=limit, stop=stop, trail=trail)
        return await self._act("/api/Order/modify", {"accountId": account, "orderId": order_id} | _given(size=size, limitPrice=limit, stopPrice=stop, trailPrice=trail), exit)

    async def cancel(self, account: int, order_id: int, exit: bool = False) -> Outcome:
        "Takes a working order back."
        return await self._act("/api/Order/cancel", {"accountId": account, "orderId": order_id}, exit)

    async def close_position(self, account: int, contract_id: str) -> Outcome:
        "Closes all of a contract at market; always an exit."
        return await self._act("/api/Position/closeContract", {"accountId": account, "contractId": contract_id}, True)

    async def close_part(self, account: int, contract_id: str, size: int) -> Outcome:
        "Closes so many contracts at market; always an exit."
        if size < 1: raise ValueError(f"size must be >= 1 contract, got {size}")
        return await self._act("/api/Position/partialCloseContract", {"accountId": account, "contractId": contract_id, "size": size}, True)

    # --- how ----------------------------------------------------------------------------------------------------------------------------------------------

    async def _ask(self,
        path: str,
        body: dict,
        read: Callable,     # (payload) -> what is returned; with `whole` (payload, answer)
        whole: bool = False,
    ) -> Any:
        "A question: asked again when there was no answer, or none that can be read; with a new token after a 401."
        payload_name, tries, logged_in = ENDPOINTS[path].payload, 0, False
        while True:
            token = await self.tokens.get()
            reply = await self.wire.send(path, body, token)
            if reply.status == 401 and not logged_in:
                logged_in = True
                self.tokens.refuse(token)
                continue
            try:
                if reply.status == 200:
                    said = verdict(path, reply)
                    if not said.success: raise Failed(said.code, said.message, path)
                    payload = need(said.answer, payload_name, "list" if payload_name.endswith("s") else "object")
                    return read(payload, said.answer) if whole else read(payload)
                if reply.status == 401: raise RetryLater(f"{path}: HTTP 401 even with a new token")
                if reply.status in (403, 404, 405) or 300 <= reply.status < 400:
                    raise FixTheConfig(f"{path}: {problem_text(reply)} at {self.settings.gateway_url}: is MESBOT_GATEWAY_URL right?")
                if not reply.passing: raise Failed(reply.status, problem_text(reply), path)
                why = problem_text(reply) if reply.status else reply.why
            except UnreadableAnswer as error: why = f"unreadable: {error}"
            tries += 1
            await self.wire.pause(tries, reply.retry_after_s, f"{path}: {why}")

    async def _act(self, path: str, body: dict, exit: bool, tag: str | None = None, goes_out: Callable | None = None) -> Outcome:
        "An act: sent once, whatever comes of it."
        try:
            token = await self.tokens.get(urgent=exit)
            reply = await self.wire.send(path, body, token, Urgency.EXIT if exit else Urgency.ACT, tag, goes_out)
        except Problem as problem: return TurnedAway(0, why=str(problem))
        if reply.status == 401: self.tokens.refuse(token)
        return outcome(path, reply, tag)


def outcome(
    path: str,
    reply: Reply,
    tag: str | None = None, # of the order that was placed
) -> Outcome:
    "What became of an act. Only what is certain is called so: everything else is Unknown."
    if not reply.sent: return TurnedAway(0, why=reply.why)
    if reply.status in NEVER_CAME: return TurnedAway(reply.status, reply.retry_after_s, problem_text(reply))
    if reply.status != 200: return Unknown(problem_text(reply) if reply.status else reply.why, tag)
    try:
        said, placed = verdict(path, reply), ENDPOINTS[path].payload == "orderId"
        if not said.success: return Refused(said.code, said.message, field(said.answer, "orderId", "int"))
        return Accepted(need(said.answer, "orderId", "int") if placed else None)
    except UnreadableAnswer as error: return Unknown(f"unreadable: {error}", tag)
