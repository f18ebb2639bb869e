"Who may come in: logins, and tokens that look and expire like the real ones."
import base64
import hashlib
import hmac
import json
import secrets

from ..clock import WallClock
from ..protocol import LoginError, LogoutError, ValidateError
from .server_settings import ServerSettings

LOGINS = ("/api/Auth/loginKey", "/api/Auth/loginApp")
VALIDATE, LOGOUT = "/api/Auth/validate", "/api/Auth/logout"
_SIGN = "You must sign the agreements before you can use the API."  # the real text is not known


def _packed(raw: bytes) -> str: return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _claims(token: str) -> dict:
    part = token.split(".")[1]
    return json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))


def envelope(code: int = 0, message: str | None = None, **payload) -> dict:
    "What every answer with status 200 looks like."
    return {**payload, "success": code == 0, "errorCode": int(code), "errorMessage": message}


class Tokens:
    "Issues tokens and knows the state of each; all times are the wall clock's."

    def __init__(self, settings: ServerSettings, wall: WallClock):
        self.settings, self.wall = settings, wall
        self._key = settings.secret.get_secret_value().encode() if settings.secret else secrets.token_bytes(32)
        self._serial = self._spent = 0  # the last token issued, and the last of those declared expired
        self._logged_out = set()

    def issue(self) -> str:
        "A new JWT (HS256) that lives for token_life_s."
        now = self.wall.now()
        self._serial = max(self._serial + 1, now)
        claims = {"sub": self.settings.username, "jti": self._serial, "iat": now // 10**9, "exp": int(now / 1e9 + self.settings.token_life_s)}
        body = ".".join(_packed(json.dumps(part, separators=(",", ":")).encode()) for part in ({"alg": "HS256", "typ": "JWT"}, claims))
        return f"{body}.{self._signature(body)}"

    def _signature(self, body: str) -> str: return _packed(hmac.new(self._key, body.encode(), hashlib.sha256).digest())

    def state(self, token: str) -> str:
        'What a token is worth: "good", "expired", "logged out" or "unknown".'
        body, _, signature = token.rpartition(".")
        if not hmac.compare_digest(self._signature(body).encode(), signature.encode()): return "unknown"
        claims = _claims(token)
        if claims["jti"] <= self._spent or claims["exp"] * 10**9 <= self.wall.now(): return "expired"
        return "logged out" if claims["jti"] in self._logged_out else "good"

    def expire(self):
        "Every token issued so far is expired from now on, whatever it says itself."
        self._spent = self._serial

    def login(self, path: str, body: dict) -> dict:
        "The answer of one of LOGINS."
        error = self._login_error(path, body) or self.settings.login_error
        if error: return envelope(error, _SIGN if error == LoginError.AGREEMENTS_NOT_SIGNED else None, token=None)
        return envelope(token=self.issue())

    def _login_error(self, path: str, body: dict) -> LoginError:
        s = self.settings
        if body["userName"].lower() != s.username.lower(): return LoginError.USER_NOT_FOUND
        if path == LOGINS[0]:
            return LoginError.SUCCESS if hmac.compare_digest(body["apiKey"].encode(), s.api_key.get_secret_value().encode()) else LoginError.INVALID_CREDENTIALS
        for field, right, error in (("appId", s.app_id, LoginError.APP_NOT_FOUND), ("verifyKey", s.app_verify_key, LoginError.APP_VERIFICATION_FAILED),
                                    ("deviceId", s.app_device_id, LoginError.INVALID_DEVICE), ("password", s.app_password, LoginError.PASSWORD_VERIFICATION_FAILED)):
            if body[field] != right: return error
        return LoginError.SUCCESS

    def validate(self, state: str) -> dict:
        "The answer of Auth/validate to a token of this state; a good one stays good beside the new one."
        if state == "good": return envelope(newToken=self.issue())
        return envelope({"expired": ValidateError.EXPIRED_TOKEN, "logged out": ValidateError.SESSION_NOT_FOUND}.get(state, ValidateError.INVALID_SESSION), newToken=None)

    def logout(self, token: str) -> dict:
        "The answer of Auth/logout to a good token, which is worth nothing afterwards."
        self._logged_out.add(_claims(token)["jti"])
        return envelope(LogoutError.SUCCESS)
