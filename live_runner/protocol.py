"The TopstepX gateway in names and numbers: paths, fields, enumerations, and every error code of every endpoint."
from enum import IntEnum
from typing import NamedTuple

RECORD_END = "\x1e"  # ends every record of SignalR's JSON protocol


class Side(IntEnum):
    "Which way an order trades."
    BUY = 0; SELL = 1  # the gateway's Bid and Ask


class OrderType(IntEnum):
    UNKNOWN = 0; LIMIT = 1; MARKET = 2; STOP_LIMIT = 3; STOP = 4; TRAILING_STOP = 5; JOIN_BID = 6; JOIN_ASK = 7


class OrderStatus(IntEnum):
    NONE = 0; OPEN = 1; FILLED = 2; CANCELLED = 3; EXPIRED = 4; REJECTED = 5; PENDING = 6; PENDING_CANCELLATION = 7; SUSPENDED = 8


WORKING = frozenset({OrderStatus.OPEN, OrderStatus.PENDING, OrderStatus.PENDING_CANCELLATION, OrderStatus.SUSPENDED})


class PositionType(IntEnum):
    UNDEFINED = 0; LONG = 1; SHORT = 2


class BarUnit(IntEnum):
    SECOND = 1; MINUTE = 2; HOUR = 3; DAY = 4; WEEK = 5; MONTH = 6


class TradeType(IntEnum):
    "Who crossed the spread."
    BUY = 0; SELL = 1


class DepthType(IntEnum):
    UNKNOWN = 0; ASK = 1; BID = 2; BEST_ASK = 3; BEST_BID = 4; TRADE = 5; RESET = 6; LOW = 7; HIGH = 8; NEW_BEST_BID = 9; NEW_BEST_ASK = 10; FILL = 11


class LoginError(IntEnum):
    SUCCESS = 0; USER_NOT_FOUND = 1; PASSWORD_VERIFICATION_FAILED = 2; INVALID_CREDENTIALS = 3; APP_NOT_FOUND = 4; APP_VERIFICATION_FAILED = 5
    INVALID_DEVICE = 6; AGREEMENTS_NOT_SIGNED = 7; UNKNOWN_ERROR = 8; API_SUBSCRIPTION_NOT_FOUND = 9; API_KEY_AUTHENTICATION_DISABLED = 10


class ValidateError(IntEnum):
    SUCCESS = 0; INVALID_SESSION = 1; SESSION_NOT_FOUND = 2; EXPIRED_TOKEN = 3; UNKNOWN_ERROR = 4


class LogoutError(IntEnum):
    SUCCESS = 0; INVALID_SESSION = 1; UNKNOWN_ERROR = 2


class NoError(IntEnum):
    SUCCESS = 0


class ContractError(IntEnum):
    SUCCESS = 0; CONTRACT_NOT_FOUND = 1


class BarsError(IntEnum):
    SUCCESS = 0; CONTRACT_NOT_FOUND = 1; UNIT_INVALID = 2; UNIT_NUMBER_INVALID = 3; LIMIT_INVALID = 4


class PlaceError(IntEnum):
    SUCCESS = 0; ACCOUNT_NOT_FOUND = 1; ORDER_REJECTED = 2; INSUFFICIENT_FUNDS = 3; ACCOUNT_VIOLATION = 4; OUTSIDE_TRADING_HOURS = 5
    ORDER_PENDING = 6; UNKNOWN_ERROR = 7; CONTRACT_NOT_FOUND = 8; CONTRACT_NOT_ACTIVE = 9; ACCOUNT_REJECTED = 10


class ModifyError(IntEnum):
    SUCCESS = 0; ACCOUNT_NOT_FOUND = 1; ORDER_NOT_FOUND = 2; REJECTED = 3; PENDING = 4; UNKNOWN_ERROR = 5; ACCOUNT_REJECTED = 6; CONTRACT_NOT_FOUND = 7


class CancelError(IntEnum):
    SUCCESS = 0; ACCOUNT_NOT_FOUND = 1; ORDER_NOT_FOUND = 2; REJECTED = 3; PENDING = 4; UNKNOWN_ERROR = 5; ACCOUNT_REJECTED = 6


class SearchError(IntEnum):
    SUCCESS = 0; ACCOUNT_NOT_FOUND = 1


class OrderError(IntEnum):
    SUCCESS = 0; ORDER_NOT_FOUND = 1


class CloseError(IntEnum):
    SUCCESS = 0; ACCOUNT_NOT_FOUND = 1; POSITION_NOT_FOUND = 2; CONTRACT_NOT_FOUND = 3; CONTRACT_NOT_ACTIVE = 4
    ORDER_REJECTED = 5; ORDER_PENDING = 6; UNKNOWN_ERROR = 7; ACCOUNT_REJECTED = 8


class CloseSomeError(IntEnum):
    SUCCESS = 0; ACCOUNT_NOT_FOUND = 1; POSITION_NOT_FOUND = 2; CONTRACT_NOT_FOUND = 3; CONTRACT_NOT_ACTIVE = 4; INVALID_CLOSE_SIZE = 5
    ORDER_REJECTED = 6; ORDER_PENDING = 7; UNKNOWN_ERROR = 8; ACCOUNT_REJECTED = 9


class Endpoint(NamedTuple):
    "One call: what it must and may carry (name -> JSON kind), what it brings back, what it can answer."
    path: str
    required: dict    # field -> "int", "number", "str", "bool", "time" or "object"
    optional: dict    # the same; null counts as absent
    payload: str      # the field of the answer that is not part of the envelope; "" = none
    errors: type      # IntEnum of its error codes
    acts: bool = False # True: changes orders or positions, so it is never sent twice


# live and includePartialBar are marked as required by the documents; clients leave them out and are served
ENDPOINTS = {e.path: e for e in (
    Endpoint("/api/Auth/loginKey", {"userName": "str", "apiKey": "str"}, {}, "token", LoginError),
    Endpoint("/api/Auth/loginApp", {"userName": "str", "password": "str", "deviceId": "str", "appId": "str", "verifyKey": "str"}, {}, "token", LoginError),
    Endpoint("/api/Auth/validate", {}, {}, "newToken", ValidateError),
    Endpoint("/api/Auth/logout", {}, {}, "", LogoutError),
    Endpoint("/api/Account/search", {"onlyActiveAccounts": "bool"}, {}, "accounts", NoError),
    Endpoint("/api/Contract/search", {}, {"searchText": "str", "live": "bool"}, "contracts", NoError),
    Endpoint("/api/Contract/searchById", {"contractId": "str"}, {}, "contract", ContractError),
    Endpoint("/api/Contract/available", {}, {"live": "bool"}, "contracts", NoError),
    Endpoint("/api/History/retrieveBars", {"contractId": "str", "startTime": "time", "endTime": "time", "unit": "int", "unitNumber": "int", "limit": "int"},
             {"live": "bool", "includePartialBar": "bool"}, "bars", BarsError),
    Endpoint("/api/Order/place", {"accountId": "int", "contractId": "str", "type": "int", "side": "int", "size": "int"},
             {"limitPrice": "number", "stopPrice": "number", "trailPrice": "number", "customTag": "str", "stopLossBracket": "object", "takeProfitBracket": "object", "linkedOrderId": "int"},
             "orderId", PlaceError, True),
    Endpoint("/api/Order/modify", {"accountId": "int", "orderId": "int"}, {"size": "int", "limitPrice": "number", "stopPrice": "number", "trailPrice": "number"}, "", ModifyError, True),
    Endpoint("/api/Order/cancel", {"accountId": "int", "orderId": "int"}, {}, "", CancelError, True),
    Endpoint("/api/Order/search", {"accountId": "int", "startTimestamp": "time"}, {"endTimestamp": "time"}, "orders", SearchError),
    Endpoint("/api/Order/searchOpen", {"accountId": "int"}, {}, "orders", SearchError),
    Endpoint("/api/Order/searchById", {"accountId": "int", "orderId": "int"}, {}, "order", OrderError),
    Endpoint("/api/Order/v2/query", {"filter": "object"}, {"pageSize": "int", "pageOffset": "int", "sortBy": "int", "sortDirection": "int", "includeTotalCount": "bool"}, "orders", SearchError),
    Endpoint("/api/Position/searchOpen", {"accountId": "int"}, {}, "positions", SearchError),
    Endpoint("/api/Position/closeContract", {"accountId": "int", "contractId": "str"}, {}, "", CloseError, True),
    Endpoint("/api/Position/partialCloseContract", {"accountId": "int", "contractId": "str", "size": "int"}, {}, "", CloseSomeError, True),
    Endpoint("/api/Trade/search", {"accountId": "int"}, {"startTimestamp": "time", "endTimestamp": "time"}, "trades", SearchError),
)}
QUERY_FILTER = {"accountId": "int"}, {"statuses": "ints", "contractId": "str", "createdAfter": "time", "createdBefore": "time"}  # of Order/v2/query: required, optional
PING = "/api/Status/ping"            # GET, answers "pong", needs no token
BARS = "/api/History/retrieveBars"   # has a limit of requests of its own
USER_METHODS = ("Accounts", "Orders", "Positions", "Trades")                          # Subscribe... and Unsubscribe...; all but the first take an account id
MARKET_METHODS = ("ContractQuotes", "ContractTrades", "ContractMarketDepth")          # take a contract id
USER_EVENTS = ("GatewayUserAccount", "GatewayUserOrder", "GatewayUserPosition", "GatewayUserTrade")
MARKET_EVENTS = ("GatewayQuote", "GatewayTrade", "GatewayDepth")
LOGOUT_EVENT = "GatewayLogout"       # on both hubs
REST_LIMIT, BARS_LIMIT = (200, 60), (50, 30)  # requests in so many seconds: everything else, and bars
TOKEN_S = 24 * 3600                  # how long a token lives, seconds
