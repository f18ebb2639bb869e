"How the runner behaves where the trading rules do not say; the rules themselves are `mesbot.config`."
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from .problems import FixTheConfig

Seconds = Annotated[float, Field(gt=0, le=86_400)]
Count = Annotated[int, Field(ge=1, le=100_000)]


class AlertTarget(BaseModel):
    "Where alerts go besides the log."
    model_config = ConfigDict(extra="forbid", frozen=True)
    url: str = Field(repr=False)                          # of apprise: mailto://, tgram://, slack://, discord://, json:// ...; may hold a secret, never printed
    severity: Literal["info", "warning", "critical"] = "warning"  # and above


class RunnerSettings(BaseModel):
    "All of it."
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    protect_s: Seconds = 2.0         # a position without a resting stop for longer is closed
    grace_s: Annotated[float, Field(ge=0, le=1)] = 0.25  # a second is over so long after its end when nothing else has said so
    poll_s: Seconds = 3.0            # the venue is asked for its truth so often while a position is on ...
    idle_poll_s: Seconds = 15.0      # ... and while none is
    unknown_s: Seconds = 5.0         # an order that the venue does not show so long after it was perhaps sent was never there
    retry_s: Seconds = 2.0           # between two attempts at the same exit
    quote_age_s: Seconds = 10.0      # no entry on older quotes
    max_skew_s: Seconds = 1.0        # no entry while our clock and the venue's differ by more
    late_s: Seconds = 1.0            # no entry on a second that is looked at later than this
    spike_ticks: Count = 200         # no entry on a bar that jumps further from the last one
    orders_a_minute: Count = 20      # entries sent; more latches a halt
    entries_a_day: Count = 300       # likewise
    alarm_s: Seconds = 60.0          # after the day's flat time: still not flat is a critical alarm
    on_quit: Literal["flatten", "keep"] = "flatten"  # keep: leave the position with its stop and target at the venue
    dead_after_s: Seconds = 60.0     # the watchdog closes everything when the runner gave no sign of life for so long
    keep_days: Count = 400           # of the journal; older months are archived first
    health_port: Annotated[int, Field(ge=0, le=65535)] = 0  # 0: a free one
    ping_url: str = Field("", repr=False)  # fetched once a minute while all is well, for a dead man's switch outside
    alerts: tuple[AlertTarget, ...] = ()


def load_settings(
    path: Path | None = None, # TOML with these names; None: the defaults
) -> RunnerSettings:
    "Settings of the runner; FixTheConfig names the first one that is wrong."
    if path is None: return RunnerSettings()
    import tomllib
    try: return RunnerSettings(**tomllib.loads(Path(path).read_text()))
    except tomllib.TOMLDecodeError as error: raise FixTheConfig(f"{path}: no TOML: {error}") from None
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        raise FixTheConfig(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg'][0].lower() + first['msg'][1:]}") from None
