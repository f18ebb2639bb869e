"How many requests a token may send: the two limits of the gateway, counted on the market's clock."
from collections import defaultdict, deque

from ..protocol import BARS, BARS_LIMIT, REST_LIMIT


class RequestLimits:
    "Requests let through in the last so many seconds, by token; bars have a limit of their own. A request turned away does not count."

    def __init__(self, window: str = "sliding"):  # "fixed": counted afresh every so many seconds; "off": no limits
        self.fixed, self.off = window == "fixed", window == "off"
        self._let_in = defaultdict(deque)  # (token, is it bars) -> ns UTC of each

    def wait(self, token: str, path: str, now: int) -> float:  # now: ns UTC
        "0.0 and the request counts, or the seconds after which it would be let in."
        if self.off: return 0.0
        count, seconds = BARS_LIMIT if path == BARS else REST_LIMIT
        length, let_in = seconds * 10**9, self._let_in[token, path == BARS]
        began = now // length * length if self.fixed else now - length + 1
        while let_in and let_in[0] < began: let_in.popleft()
        if len(let_in) < count:
            let_in.append(now)
            return 0.0
        return ((began if self.fixed else let_in[0]) + length - now) / 1e9
