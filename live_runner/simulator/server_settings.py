"Everything about the server that may be set: who may come in, the limits, the timers and shapes of the hubs."
import secrets
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, SecretStr

from mesbot.settings import Section

from ..protocol import TOKEN_S, LoginError

Seconds = Annotated[float, Field(gt=0, le=10 * 86_400)]
Text = Annotated[str, Field(min_length=1)]


class ServerSettings(Section):
    "The defaults do what the real service is known to do; where it is not known, both readings can be had."
    model_config = ConfigDict(hide_input_in_errors=True)  # no secret in an error
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 0                    # 0: any free one
    secret: Annotated[SecretStr, Field(min_length=16)] | None = None   # signs the tokens; needed to bind elsewhere than loopback
    username: Text = "simulated"
    api_key: SecretStr = Field(default_factory=lambda: SecretStr(secrets.token_urlsafe(24)))
    app_password: Text = "password"                                    # for loginApp, with the next three
    app_id: Text = "app"
    app_device_id: Text = "device"
    app_verify_key: Text = "verify"
    login_error: LoginError = LoginError.SUCCESS                       # what a right login is answered with
    token_life_s: Seconds = TOKEN_S
    expired_validate: Literal["unauthorized", "code"] = "unauthorized"  # an expired token at Auth/validate: 401, or its ValidateError
    expiry_closes: bool = False                                        # an open hub connection ends with its token
    window: Literal["sliding", "fixed", "off"] = "sliding"             # of the request limits, in market time
    retry_after: bool = True                                           # 429 carries a Retry-After header
    # hubs
    wrapped: bool = True               # user events come as {"action", "data"}; False: bare
    nulls: bool = False                # True: fields without a value are sent as null, else left out
    arrays: bool = True                # trades and depth come as arrays; False: one event an object
    ping_s: Seconds = 15.0             # a connection to which nothing was sent for so long gets a ping
    silence_s: Seconds = 30.0          # a client that is silent for so long is dropped
    handshake_s: Seconds = 15.0        # a client must introduce itself within this
    slow_records: Annotated[int, Field(ge=1)] = 50_000  # paced replay: a client with more unread records than this is dropped
