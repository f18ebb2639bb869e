"The token of the service: one log-in, one refresh a day, one at a time for however many ask."
import asyncio
import base64
import json

from .. import logs
from ..clock import isotime
from ..problems import CallAHuman, FixTheConfig, Problem, RetryLater
from ..protocol import LoginError
from .answers import UnreadableAnswer, need
from .limits import Urgency
from .settings import GatewaySettings
from .wire import Verdict, Wire, problem_text, verdict

LOGIN, VALIDATE = "/api/Auth/loginKey", "/api/Auth/validate"
EARLY_S = 600     # a token is refreshed so long before its end
BLIND_S = 3600    # life of a token that does not say when it ends
AGAIN_S = 30      # after a refresh that failed while the old token lives, the next one is tried so much later
SIGN_OR_BUY = {LoginError.AGREEMENTS_NOT_SIGNED, LoginError.API_SUBSCRIPTION_NOT_FOUND}
OUR_FAULT = set(LoginError) - SIGN_OR_BUY - {LoginError.SUCCESS, LoginError.UNKNOWN_ERROR}  # wrong name or key, or keys switched off

log = logs.logger("live_runner.gateway")


def token_end(
    token: str, # a JSON web token, or what should be one
) -> int | None: # ns UTC of its `exp` claim; None where it has none that can be read
    "When a token ends."
    try:
        payload = token.split(".")[1]
        end = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))["exp"]
        return None if isinstance(end, bool) else int(end * 1e9)
    except (IndexError, KeyError, TypeError, ValueError, OverflowError): return None


class Tokens:
    "Gets a token when it is asked for one, and keeps it while it is good. Log-in and refresh go before all else: nothing works without them."

    def __init__(self, wire: Wire, settings: GatewaySettings):
        self.wire, self.settings, self.clock = wire, settings, wire.clock
        self.token, self.end, self.refresh_at = None, 0, 0  # the present one; ns UTC
        self._lock = asyncio.Lock()
        self._rounds, self._problem, self._was_login = 0, None, False  # renewals so far, and how the last one went

    async def get(self,
        force: bool = False,  # True: log in anew whatever the present one is worth
        urgent: bool = False, # True: do not wait for a refresh while the present one lives
    ) -> str:
        "A token that is good; FixTheConfig, CallAHuman or RetryLater when there is none to be had. Who asks while it is being renewed shares what comes of it."
        if self.token and not force and self.clock.now() < (self.end if urgent else self.refresh_at): return self.token
        rounds = self._rounds
        async with self._lock:
            if self._rounds == rounds or (force and not self._was_login) or (self.token is None and not self._problem): await self._renew(force)
            if self._problem: raise self._problem
            return self.token

    def refuse(self, token: str) -> None:
        "Somebody was answered 401 with this token: it is not used again."
        if token == self.token: self.token = None

    async def _renew(self, force: bool) -> None:
        self._problem, self._was_login = None, True
        try:
            if force or self.token is None or self.clock.now() >= self.end or not await self._validate(): await self._login()
            else: self._was_login = False
        except Problem as problem: self._problem = problem
        self._rounds += 1

    async def _validate(self) -> bool:
        "Exchanges the token for a new one; False when that was refused. Keeps the old one for now when there was no answer to go by."
        reply = await self.wire.send(VALIDATE, {}, self.token, Urgency.EXIT)
        try:
            if reply.status == 200:
                said = verdict(VALIDATE, reply)
                if said.success: self._keep(need(said.answer, "newToken", "str"))
                else: log.warning("token refresh refused", code=said.code, message=said.message)
                return said.success
            if not reply.passing: return False
            why = reply.why or f"HTTP {reply.status}"
        except UnreadableAnswer as error: why = str(error)
        if self.clock.now() >= self.end: return False
        log.warning("token refresh failed, the old one goes on", why=why, until=isotime(self.end))
        self.refresh_at = self.clock.now() + AGAIN_S * 1_000_000_000
        return True

    async def _login(self) -> None:
        body = {"userName": self.settings.username, "apiKey": self.settings.api_key.get_secret_value()}
        for tries in range(1, self.wire.attempts + 1):
            reply = await self.wire.send(LOGIN, body, None, Urgency.EXIT)
            try:
                if reply.status == 200: return self._logged_in(verdict(LOGIN, reply))
                if not reply.passing:
                    raise FixTheConfig(f"log-in at {self.settings.gateway_url}: {problem_text(reply)}: are MESBOT_GATEWAY_URL, MESBOT_USERNAME and MESBOT_API_KEY right?")
                why = reply.why or problem_text(reply)
            except UnreadableAnswer as error: why = str(error)
            await self.wire.pause(tries, reply.retry_after_s, f"log-in: {why}")

    def _logged_in(self, said: Verdict) -> None:
        if said.success: return self._keep(need(said.answer, "token", "str"))
        text = f"log-in refused: {getattr(said.code, 'name', said.code)}{': ' + said.message if said.message else ''}"
        if said.code in OUR_FAULT: raise FixTheConfig(f"{text}: check MESBOT_USERNAME and MESBOT_API_KEY")
        if said.code == LoginError.UNKNOWN_ERROR: raise RetryLater(text)
        raise CallAHuman(text)  # something to sign, something to buy, or a code that nobody told us of

    def _keep(self, token: str) -> None:
        logs.hide(token)
        now, end = self.clock.now(), token_end(token)
        if end is None or end <= now: end = now + BLIND_S * 1_000_000_000
        self.token, self.end, self.refresh_at = token, end, end - min(EARLY_S * 1_000_000_000, (end - now) // 2)
        log.info("token", until=isotime(end))
