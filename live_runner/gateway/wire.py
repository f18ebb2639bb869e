"One request to the service and what came back, sent exactly once."
import json
import random
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import aiohttp

from .. import logs
from ..clock import WallClock
from ..problems import RetryLater
from ..protocol import BARS, ENDPOINTS, PING
from .answers import UnreadableAnswer, field, known, need
from .limits import Urgency, bars_limiter, rest_limiter

KEEP_S = 45.0          # an idle connection is kept so long: three polls of a runner without a position, so that no order waits for a handshake
LONGEST_PAUSE_S = 120  # a server that asks for a longer pause than that ends a question

log = logs.logger("live_runner.gateway")


class Reply(NamedTuple):
    "What came back of one request."
    status: int                 # HTTP; 0: no answer
    answer: Any = None          # the JSON; None where there is none that can be read
    why: str = ""               # why there is no status or no answer
    sent: bool = True           # False: no connection could be made
    retry_after_s: float | None = None

    @property
    def passing(self) -> bool:
        "Whether it may go better the next time: no answer, too many requests, trouble at the server."
        return self.status in (0, 408, 429) or self.status >= 500


class Verdict(NamedTuple):
    "The envelope of an answer."
    success: bool
    code: int              # of the endpoint's table; the plain number where it has no name
    message: str | None
    answer: dict


def verdict(
    path: str,
    reply: Reply, # of status 200
) -> Verdict:
    "Reads the envelope; UnreadableAnswer when it is not one, or says both yes and no."
    if reply.answer is None: raise UnreadableAnswer(reply.why)
    success, code = need(reply.answer, "success", "bool"), field(reply.answer, "errorCode", "int")
    if success != ((code or 0) == 0): raise UnreadableAnswer(f"success {success} with errorCode {code}")
    return Verdict(success, known(ENDPOINTS[path].errors, code or 0), field(reply.answer, "errorMessage", "str"), reply.answer)


def problem_text(
    reply: Reply, # of any status
) -> str:
    "The status, and what the server says about it, in one line."
    said = reply.answer if isinstance(reply.answer, dict) else {}
    return " ".join(str(logs.redact(f"HTTP {reply.status} {said.get('title') or ''} {said.get('detail') or ''} {said.get('errors') or ''}")).split())


class Wire:
    "The connection to the REST service: limits, one time-out, one log line a request. Never sends anything twice."

    def __init__(self,
        url: str,                # of the service
        clock: WallClock,
        timeout_s: float,        # of one request, from the sending; waiting for a slot does not count
        attempts: int = 4,       # how often a question is asked before its asker gives up
    ):
        self.url, self.clock, self.timeout_s, self.attempts = url.rstrip("/"), clock, timeout_s, attempts
        self.rest, self.bars = rest_limiter(clock), bars_limiter(clock)
        self._session = None

    def start(self) -> None:
        if self._session is not None: return
        tracing = aiohttp.TraceConfig()
        tracing.on_request_chunk_sent.append(_goes_out)
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(keepalive_timeout=KEEP_S), timeout=aiohttp.ClientTimeout(total=self.timeout_s), cookie_jar=aiohttp.DummyCookieJar(),
                                              trace_configs=[tracing])

    async def close(self) -> None:
        self.rest.close()
        self.bars.close()
        session, self._session = self._session, None
        if session: await session.close()

    async def send(self,
        path: str,                        # one of ENDPOINTS, or PING
        body: dict | None = None,         # None: no body
        token: str | None = None,
        urgency: Urgency = Urgency.READ,
        tag: str | None = None,           # of the order, for the log
        goes_out: Callable | None = None, # goes_out(): told as the body is handed to the socket
    ) -> Reply:
        "One request; whatever the network does to it is in the reply. RetryLater when the wire was closed before it was sent."
        limiter = self.bars if path == BARS else self.rest
        began, waited_s, reply = self.clock.monotonic(), 0.0, None
        try:
            async with limiter.slot(urgency) as waited_s:
                if self._session is None: raise RetryLater("the gateway is not started")
                began = self.clock.monotonic()
                reply = await self._exchange(path, body, token, goes_out)
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            reply = Reply(0, why=f"no answer within {self.timeout_s:g} s" if isinstance(error, TimeoutError) else f"cut: {logs.redact(str(error) or type(error).__name__)}")
        log.debug("request", path=path, ms=round((self.clock.monotonic() - began) * 1e3, 1), http=reply.status, code=_code(reply.answer), slot_ms=round(waited_s * 1e3, 1), tag=tag,
                  why=reply.why or None)
        return reply

    async def pause(self,
        tries: int,                   # made so far
        retry_after_s: float | None,  # where the server said so
        why: str,                     # it went wrong
    ) -> None:
        "Waits before the next try: 0.5, 1, 2 ... s less up to a half of it by chance, or as long as the server says; RetryLater when all tries are used up or it says too long."
        if tries >= self.attempts: raise RetryLater(f"{why}, after {tries} tries")
        if (retry_after_s or 0) > LONGEST_PAUSE_S: raise RetryLater(f"{why}, and again only after {retry_after_s:g} s")
        await self.clock.sleep(retry_after_s if retry_after_s is not None else min(.5 * 2 ** (tries - 1), 10.0) * random.uniform(.5, 1))

    async def _exchange(self, path: str, body: dict | None, token: str | None, goes_out: Callable | None) -> Reply:
        headers = {"Accept": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
        try:
            async with self._session.request("GET" if path == PING else "POST", self.url + path, json=body, headers=headers, allow_redirects=False, trace_request_ctx=goes_out) as response:
                text = (await response.read()).decode("utf-8", "replace")
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.InvalidURL) as error:
            return Reply(0, why=f"no connection: {logs.redact(str(error))}", sent=False)
        retry_after = response.headers.get("Retry-After", "").strip()
        retry_after_s = float(retry_after) if re.fullmatch(r"\d{1,6}(\.\d+)?", retry_after) else None
        try: answer = json.loads(text)
        except ValueError: return Reply(response.status, text if path == PING else None, f"not JSON: {logs.redact(text)!r:.80}" if text else "an empty body", True, retry_after_s)
        return Reply(response.status, answer, "" if answer is not None else "null", True, retry_after_s)


async def _goes_out(session, context, chunk) -> None:
    if context.trace_request_ctx: context.trace_request_ctx()


def _code(answer: Any) -> int | None:
    return answer.get("errorCode") if isinstance(answer, dict) else None
