"How the simulated venue is set up: its accounts, what they pay, its hours, and how it slips."
from typing import Literal

from mesbot.config import Config, load_config
from pydantic import BaseModel, ConfigDict, Field


class AccountSettings(BaseModel):
    "One account at the venue."
    model_config = ConfigDict(extra="forbid", frozen=True)
    id: int = 101
    name: str = "PRAC-V2-MESBOT-101"
    balance: float = 1000.0      # USD, closed profit and costs included
    can_trade: bool = True
    visible: bool = True
    simulated: bool = True       # False: a funded account, which the gateway does not let cancel or close in part
    follower: bool = False       # copies another account; it cannot cancel either
    brackets: Literal["auto_oco", "position"] = "auto_oco"  # only the first takes brackets with an order
    max_size: int = Field(50, ge=1)                         # contracts


class VenueSettings(BaseModel):
    "The venue."
    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)
    accounts: tuple[AccountSettings, ...] = (AccountSettings(),)
    fees_usd: float = Field(0.36, ge=0)         # exchange and NFA, a side of one contract
    commission_usd: float = Field(0.25, ge=0)   # a side of one contract
    hours: Literal["topstep", "exchange"] = "topstep"  # topstep: flat by 16:10 New York, orders refused from then on; exchange: the whole session
    config: Config = Field(default_factory=load_config)  # section costs: how fills slip, as in a back-test
    latency_s: float = Field(0.0, ge=0)         # from the arrival of an order to where it can first be filled, market seconds
    links: bool = False                         # whether linkedOrderId of an order is honoured, as older documents say: the fill of one cancels the other
    close_only: bool = True                     # whether an order of closeContract only ever closes: what is not held any more when it fills is cancelled; False: it turns the position
    limit_share: float = Field(0.07, gt=0, lt=1)       # price limit above and below the last close of the session before
