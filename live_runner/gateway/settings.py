"Where the gateway is and who we are there, from the environment."
from urllib.parse import urlsplit

from pydantic import SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from .. import logs
from ..problems import FixTheConfig

LOOPBACK = ("127.0.0.1", "::1", "localhost")


class GatewaySettings(BaseSettings):
    "MESBOT_GATEWAY_URL, MESBOT_USER_HUB_URL, MESBOT_MARKET_HUB_URL, MESBOT_USERNAME, MESBOT_API_KEY; FixTheConfig names what is missing or wrong. The key is hidden from all logs."
    model_config = SettingsConfigDict(env_prefix="MESBOT_", frozen=True, extra="forbid", hide_input_in_errors=True)

    gateway_url: str = "https://api.topstepx.com"
    user_hub_url: str = "https://rtc.topstepx.com/hubs/user"
    market_hub_url: str = "https://rtc.topstepx.com/hubs/market"
    username: str = ""                    # the platform's login name, not the e-mail address
    api_key: SecretStr = SecretStr("")

    def __init__(self, **given):
        try: super().__init__(**given)
        except ValidationError as error:
            raise FixTheConfig("; ".join(f"{_env(str(e['loc'][0]))}: {e['msg']}" for e in error.errors(include_input=False, include_url=False))) from None
        missing = [_env(name) for name in ("username", "api_key") if not (self.username if name == "username" else self.api_key.get_secret_value())]
        if missing: raise FixTheConfig(f"{' and '.join(missing)} must be set")
        for name in ("gateway_url", "user_hub_url", "market_hub_url"): _check_url(_env(name), getattr(self, name))
        logs.hide(self.api_key)


def _env(field: str) -> str:
    return f"MESBOT_{field.upper()}"


def _check_url(name: str, url: str) -> None:
    "FixTheConfig unless it is https, or http to this machine: the key and the token travel in it."
    try: parts = urlsplit(url)
    except ValueError: parts = urlsplit("")
    if not parts.hostname or parts.scheme not in ("http", "https"): raise FixTheConfig(f"{name} must be a URL like https://api.topstepx.com, got {logs.redact(url)!r}")
    if parts.scheme == "http" and parts.hostname not in LOOPBACK: raise FixTheConfig(f"{name} must be https: the key must not travel in the clear to {parts.hostname}")
