"An order as we want it, and what can become of a request: taken, refused, turned away, or not known."
from enum import IntEnum
from typing import NamedTuple

from ..problems import Problem
from ..protocol import OrderType, Side


class NewOrder(NamedTuple):
    "One order to place. Prices are points, as the wire has them; who makes it has checked them for the tick."
    account: int
    contract: str
    type: OrderType
    side: Side
    size: int                       # contracts, >= 1
    tag: str | None = None          # customTag: unique in the account for ever
    limit: float | None = None      # points
    stop: float | None = None       # points
    trail: float | None = None      # points, an absolute price; only for TRAILING_STOP
    stop_ticks: int | None = None   # ticks from the fill to the stop of the bracket, > 0 whichever the side
    target_ticks: int | None = None # ticks from the fill to the target of the bracket, > 0 whichever the side
    stop_type: OrderType = OrderType.STOP # of the bracket's stop: STOP or TRAILING_STOP


class Accepted(NamedTuple):
    "The venue took it."
    order_id: int | None = None # of the new order; None where the call makes none


class Refused(NamedTuple):
    "The venue said no, and that is definite: HTTP 200 with success=false."
    code: IntEnum | int          # of the endpoint's own table; a plain number where it has no name
    message: str | None = None
    order_id: int | None = None  # a refused order may still exist, as rejected


class TurnedAway(NamedTuple):
    "The request never came as far as the venue: definitely not accepted."
    status: int                         # HTTP: 400, 401, 403, 404, 429 ...; 0: it was not sent, for `why`
    retry_after_s: float | None = None  # where the server said so
    why: str = ""


class Unknown(NamedTuple):
    "Perhaps accepted, perhaps not: ask for the tag or the order before anything is sent again."
    why: str
    tag: str | None = None


Outcome = Accepted | Refused | TurnedAway | Unknown


class Failed(Problem):
    "The venue answered a question with an error of its own."

    def __init__(self,
        code: IntEnum | int,         # of the endpoint's table, or the HTTP status where there was no answer of the venue
        message: str | None = None,
        path: str = "",
    ):
        self.code, self.message = code, message
        super().__init__(f"{path} failed: {getattr(code, 'name', code)}{': ' + message if message else ''}".strip())
