"Logs: JSON lines from everything in the process, with every secret taken out on the way."
import asyncio
import io
import json
import logging
import re
import sys
from pathlib import Path
from typing import Any, TextIO
from urllib.parse import quote, quote_plus

import structlog
from pydantic import SecretStr

STARS, LATER_S = "***", .01 # LATER_S: so long a line of `Later` waits
KEYS = re.compile(r"(token|apikey|password|passwd|secret|authorization|cookie|verifykey)$")  # names of fields that hold secrets, without _ and -
PATTERNS = tuple((re.compile(pattern), text) for pattern, text in (
    (r"(?i)\bbearer\s+[^\s\"',;\\]+", f"Bearer {STARS}"),
    (r"ey[AJ][A-Za-z0-9_-]{9,}(\.[A-Za-z0-9_-]*){0,2}", STARS),  # a JSON web token, or the first part of a cut one
    (r"(?i)((?:token|api_?key|password|passwd|secret|authorization|cookie|verifykey)[\\\"']*\s*[:=]\s*)"
     r"(SecretStr\([^)]*\)|\\*\"[^\"]*\"|\\*'[^']*'|\\*[\"']?[^\s,;&\"'})\]]+)", rf"\g<1>{STARS}"),
))
_secrets: set[str] = set()


def hide(
    secret: str | SecretStr, # never to be seen in a log again, in whatever text it stands; under four characters it is none, and would spoil every word
) -> None:
    "Registers a secret."
    plain = secret.get_secret_value() if isinstance(secret, SecretStr) else secret
    if len(plain) >= 4: _secrets.update({plain, quote(plain, safe=""), quote(plain), quote_plus(plain), json.dumps(plain)[1:-1], repr(plain)[1:-1]})


def redact(
    value: Any, # anything; what is not text, a number or a collection becomes its repr
) -> Any: # text, numbers, dicts and lists
    "The same without secrets."
    if value is None or isinstance(value, (bool, int, float)): return value
    if isinstance(value, SecretStr): return STARS
    if isinstance(value, dict): return {redact(str(key)): _of_key(str(key), item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)): return [redact(item) for item in value]
    text = value if isinstance(value, str) else value.decode("utf-8", "replace") if isinstance(value, (bytes, bytearray)) else repr(value)
    for secret in sorted(_secrets, key=len, reverse=True): text = text.replace(secret, STARS)
    for pattern, instead in PATTERNS: text = pattern.sub(instead, text)
    return text


def _of_key(key: str, value: Any) -> Any:
    return STARS if value is not None and KEYS.search(re.sub("[_-]", "", key).lower()) else redact(value)


def _redacted(_, __, event: dict) -> dict:
    "The processor: all but structlog's own notes on a foreign record."
    notes = {key: event[key] for key in ("_record", "_from_structlog") if key in event}
    return redact({key: value for key, value in event.items() if key not in notes}) | notes


_COMMON = [structlog.stdlib.add_log_level, structlog.stdlib.add_logger_name, structlog.processors.TimeStamper(fmt="iso", utc=True, key="at"),
           structlog.processors.StackInfoRenderer(), structlog.processors.format_exc_info, _redacted]
_OURS = [structlog.stdlib.filter_by_level, structlog.contextvars.merge_contextvars, structlog.stdlib.PositionalArgumentsFormatter(), *_COMMON,
         structlog.stdlib.ProcessorFormatter.wrap_for_formatter]


def logger(
    name: str, # dotted, "live_runner.gateway"
) -> structlog.stdlib.BoundLogger:
    "A logger whose lines are redacted whether or not `configure` was called."
    return structlog.wrap_logger(logging.getLogger(name), wrapper_class=structlog.stdlib.BoundLogger, processors=_OURS)


class Later:
    "Lines that are written a moment later: one takes as long as an order."

    def __init__(self, log): self._log, self._lines = log, []

    def info(self,
        event: str,
        **more, # what goes with it
    ) -> None:
        "One more line, within a running loop."
        if not self._lines: asyncio.get_running_loop().call_later(LATER_S, self.write)
        self._lines.append((event, more))

    def write(self) -> None:
        "All that wait, now."
        lines, self._lines = self._lines, []
        for event, more in lines: self._log.info(event, **more)


class _Handler(logging.StreamHandler):
    "Says of a line that cannot be written where it came from and not what it held: the standard handler prints its arguments."

    def handleError(self, record: logging.LogRecord) -> None:
        line = json.dumps({"event": "a log line could not be written", "level": "error", "logger": record.name, "place": f"{record.pathname}:{record.lineno}",
                           "why": redact(str(sys.exc_info()[1]))}) + "\n"
        for stream in (self.stream, sys.__stderr__):
            try: return stream.write(line)
            except (ValueError, OSError, AttributeError): continue  # closed, full or gone; after the last one nobody is left to tell


def _handler(stream: TextIO) -> _Handler:
    handler = _Handler(stream)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=_COMMON, processors=[
        structlog.stdlib.ProcessorFormatter.remove_processors_meta, structlog.processors.JSONRenderer(ensure_ascii=False)]))
    return handler


def configure(
    to: TextIO | str | Path | None = None, # a stream, or a file that is added to; None: stderr
    level: str = "INFO",                   # of everything in the process
) -> None:
    "Sends all logs of the process, ours and those of the libraries, as redacted JSON lines to one place; called again it replaces the place."
    if level.upper() not in logging.getLevelNamesMapping(): raise ValueError(f"level must be one of DEBUG, INFO, WARNING, ERROR, got {level!r}")
    stream = open(to, "a", encoding="utf-8", buffering=1) if isinstance(to, (str, Path)) else to or sys.stderr
    handler = _handler(stream)
    root = logging.getLogger()
    for old in [h for h in root.handlers if isinstance(h, _Handler)]:
        root.removeHandler(old)
        if isinstance(old.stream, io.TextIOWrapper) and getattr(old, "ours", False): old.stream.close()
    handler.ours = isinstance(to, (str, Path))
    root.addHandler(handler)
    root.setLevel(level.upper())
    logging.captureWarnings(True)
    structlog.configure(processors=_OURS, wrapper_class=structlog.stdlib.BoundLogger, logger_factory=structlog.stdlib.LoggerFactory(), cache_logger_on_first_use=False)
    sys.excepthook = _last_words


def also_at_the_terminal() -> None:
    "What is critical goes to stderr as well, until `configure` is called again: a disk that is full takes no log."
    handler = _handler(sys.stderr)
    handler.setLevel("CRITICAL")
    logging.getLogger().addHandler(handler)


def _last_words(kind: type, error: BaseException, trace) -> None:
    "What ends the process is logged like all else."
    if issubclass(kind, KeyboardInterrupt): return sys.__excepthook__(kind, error, trace)
    logger("live_runner").critical("ended by an error", exc_info=(kind, error, trace))
