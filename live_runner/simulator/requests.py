"What the venue answers to each call: the envelope, the codes, and who may do what."
from typing import NamedTuple

from ..clock import ns_of
from ..protocol import (BARS, ENDPOINTS, CancelError, CloseError, CloseSomeError, ContractError, ModifyError, OrderError, OrderStatus, OrderType, PlaceError,
                        SearchError, Side)
from .checks import account_refusal, modify_refusal, place_refusal
from .records import account_json, order_json, position_json

FOLLOWER, LIVE = "Follower accounts cannot cancel orders", "Live accounts not supported"


class Page(NamedTuple):
    "Some of the rows that were found, and how many there are."
    rows: list
    total: int


class Requests:
    "The calls of the gateway, one method each, by their path."

    def __init__(self, venue):
        self.venue = venue
        self._calls = {path: getattr(self, path.removeprefix("/api/").replace("/", "_").lower()) for path in ENDPOINTS if not path.startswith("/api/Auth/") and path != BARS}

    def answer(self, path: str, body: dict) -> dict:
        "The whole envelope."
        if path == BARS: return self.venue.history.history(self.venue.clock.now, body)
        payload, code, text = self._calls[path](body)
        field = ENDPOINTS[path].payload
        if isinstance(payload, Page): fields = {field: payload.rows, "totalCount": payload.total}
        else: fields = {field: payload} if field else {}
        return {**fields, "success": code == 0, "errorCode": int(code), "errorMessage": text}

    def _account(self, body: dict): return self.venue.accounts.get(body["accountId"])

    # -- accounts and contracts ----------------------------------------------------------------------------------------
    def account_search(self, body):
        return [account_json(a) for a in self.venue.accounts.values() if a.can_trade or not body["onlyActiveAccounts"]], 0, None

    def contract_search(self, body): return self.venue.contracts.search(body.get("searchText") or "", bool(body.get("live"))), 0, None

    def contract_available(self, body): return self.venue.contracts.available(bool(body.get("live"))), 0, None

    def contract_searchbyid(self, body):
        found = self.venue.contracts.search_by_id(body["contractId"])
        return found, ContractError.SUCCESS if found else ContractError.CONTRACT_NOT_FOUND, None

    # -- orders ----------------------------------------------------------------------------------------------------------
    def order_place(self, body):
        venue, account, fields = self.venue, self._account(body), {}
        if refused := account_refusal(venue, account, body): return None, *refused
        kind, side, size = body["type"], body["side"], body["size"]
        text = place_refusal(venue, account, body, fields)
        if text:   # a rejected order is an order: it has an id, and its tag is used up
            known = kind if kind in set(OrderType) else OrderType.UNKNOWN
            order = venue.new_order(account, known, side if side in (0, 1) else Side.BUY, size, OrderStatus.REJECTED, tag=body.get("customTag"))
            venue.tell(order)
            return order.id, PlaceError.ORDER_REJECTED, text
        order = venue.new_order(account, kind, side, size, tag=body.get("customTag"), linked=body.get("linkedOrderId"), **fields)
        leg_side = Side.SELL if side == Side.BUY else Side.BUY
        for field, suffix in (("stopLossBracket", "SL"), ("takeProfitBracket", "TP")):
            if not (leg := body.get(field)): continue
            made = venue.new_order(account, leg["type"], leg_side, size, OrderStatus.SUSPENDED, parent=order.id, trail=leg["ticks"],
                                   tag=f"{order.tag}-{suffix}" if order.tag else None, linked=order.stop_leg.id if suffix == "TP" and order.stop_leg else None)
            if suffix == "SL": order.stop_leg = made
            else: order.target_leg = made
        venue.accept(order)
        return order.id, PlaceError.SUCCESS, None

    def order_modify(self, body):
        account, fields = self._account(body), {}
        if account is None: return None, ModifyError.ACCOUNT_NOT_FOUND, None
        order = account.orders.get(body["orderId"])
        if order is None: return None, ModifyError.ORDER_NOT_FOUND, None
        if not account.can_trade: return None, ModifyError.ACCOUNT_REJECTED, None
        if order.status == OrderStatus.SUSPENDED: return None, ModifyError.PENDING, None
        if order.id not in self.venue.working: return None, ModifyError.REJECTED, None
        if refused := modify_refusal(self.venue, order, body, fields): return None, *refused
        for name, value in fields.items(): setattr(order, name, value)
        order.updated = self.venue.clock.now
        self.venue.tell(order)
        return None, ModifyError.SUCCESS, None

    def order_cancel(self, body):
        account = self._account(body)
        if account is None: return None, CancelError.ACCOUNT_NOT_FOUND, None
        order = account.orders.get(body["orderId"])
        if order is None: return None, CancelError.ORDER_NOT_FOUND, None
        if account.settings.follower: return None, CancelError.ACCOUNT_REJECTED, FOLLOWER
        if not account.settings.simulated: return None, CancelError.ACCOUNT_REJECTED, LIVE
        if order.id not in self.venue.working: return None, CancelError.UNKNOWN_ERROR, None
        self.venue.cancel(order)
        return None, CancelError.SUCCESS, None

    def _orders(self, account, keep) -> list: return [order_json(o, self.venue.instrument) for o in account.orders.values() if keep(o)]

    def order_search(self, body):
        if (account := self._account(body)) is None: return None, SearchError.ACCOUNT_NOT_FOUND, None
        inside = _between(body)
        return self._orders(account, lambda o: inside(o.created)), 0, None

    def order_searchopen(self, body):
        if (account := self._account(body)) is None: return None, SearchError.ACCOUNT_NOT_FOUND, None
        working = sorted((o for o in self.venue.working.values() if o.account == account.id and o.status == OrderStatus.OPEN), key=lambda o: o.id)
        return [order_json(o, self.venue.instrument) for o in working], 0, None

    def order_searchbyid(self, body):
        account = self._account(body)
        order = account.orders.get(body["orderId"]) if account else None
        return (order_json(order, self.venue.instrument), 0, None) if order else (None, OrderError.ORDER_NOT_FOUND, None)

    def order_v2_query(self, body):
        wanted = body["filter"]
        if (account := self._account(wanted)) is None: return None, SearchError.ACCOUNT_NOT_FOUND, None
        inside = _between({"startTimestamp": wanted.get("createdAfter"), "endTimestamp": wanted.get("createdBefore")})
        found = [o for o in account.orders.values() if inside(o.created) and (not wanted.get("statuses") or o.status in wanted["statuses"]) and wanted.get("contractId") in (None, o.contract)]
        found.sort(key=lambda o: (o.created, o.id) if body.get("sortBy", 0) == 0 else o.id, reverse=body.get("sortDirection") == 1)
        first, size = body.get("pageOffset") or 0, body.get("pageSize") or 100
        rows = [order_json(o, self.venue.instrument) for o in found[first:first + size]]
        return Page(rows, len(found)) if body.get("includeTotalCount") else rows, 0, None

    # -- positions and fills ----------------------------------------------------------------------------------------------
    def position_searchopen(self, body):
        if (account := self._account(body)) is None: return None, SearchError.ACCOUNT_NOT_FOUND, None
        return [position_json(account, p, self.venue.instrument, self.venue.contracts.search_by_id(p.contract)["name"]) for p in account.positions.values()], 0, None

    def _closing(self, body, errors):
        "What forbids a close: code and text, or None."
        account, contract = self._account(body), self.venue.contracts.search_by_id(body["contractId"])
        if account is None: return errors.ACCOUNT_NOT_FOUND, None
        if contract is None: return errors.CONTRACT_NOT_FOUND, None
        if not contract["activeContract"]: return errors.CONTRACT_NOT_ACTIVE, None
        if body["contractId"] not in account.positions: return errors.POSITION_NOT_FOUND, None
        if account.closing and account.closing.id in self.venue.working: return errors.ORDER_PENDING, None
        return None if self.venue.is_trading else (errors.ORDER_REJECTED, None)

    def position_closecontract(self, body):
        if refused := self._closing(body, CloseError): return None, *refused
        account = self._account(body)
        self.venue.close(account, account.positions[body["contractId"]].size)
        return None, CloseError.SUCCESS, None

    def position_partialclosecontract(self, body):
        account = self._account(body)
        if account is not None and not account.settings.simulated: return None, CloseSomeError.ACCOUNT_REJECTED, LIVE
        if refused := self._closing(body, CloseSomeError): return None, *refused
        if not 0 < body["size"] <= account.positions[body["contractId"]].size: return None, CloseSomeError.INVALID_CLOSE_SIZE, None
        self.venue.close(account, body["size"])
        return None, CloseSomeError.SUCCESS, None

    def trade_search(self, body):
        if (account := self._account(body)) is None: return None, SearchError.ACCOUNT_NOT_FOUND, None
        inside = _between(body)
        return [row for at, row in reversed(account.fills) if inside(at)], 0, None


def _between(body: dict):
    "Whether a moment lies in what was asked for; both ends count."
    first, last = (ns_of(body[name]) if body.get(name) else None for name in ("startTimestamp", "endTimestamp"))
    return lambda ts: (first is None or ts >= first) and (last is None or ts <= last)
