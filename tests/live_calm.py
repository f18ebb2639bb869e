"What a `LiveWorld` is given: a predictor that says what was written down, and a network on which nothing goes wrong."
from bisect import bisect_left

import numpy as np

from live_runner.gateway.wire import Reply
from mesbot.predictors import Prediction


class Foretold:
    "A predictor that says what was written down for the bar at hand, and counts how often it is asked."
    length = 1

    def __init__(self,
        ts: np.ndarray,           # (n,) ns UTC
        prediction,               # (n, 3) probabilities, or a `Prediction`
    ):
        self._ts, self.row, self.asked = np.asarray(ts).tolist(), -1, 0
        self._said = prediction if isinstance(prediction, Prediction) else Prediction(np.asarray(prediction, np.float32), np.zeros(len(ts), np.float32), np.full(len(ts), np.nan, np.float32))

    def at(self, ts: int):
        "The bar that opened at `ts` is over."
        row = bisect_left(self._ts, ts)
        self.row = row if row < len(self._ts) and self._ts[row] == ts else -1

    def predict(self, features, sessions=None) -> Prediction:
        self.asked += 1
        if self.row < 0: return Prediction(np.full((len(features), 3), np.nan, np.float32), *(np.full(len(features), np.nan, np.float32),) * 2)
        return Prediction(*(np.repeat(part[self.row:self.row + 1], len(features), axis=0) for part in self._said[:3]))


class Fate:
    "What becomes of one request: how late it arrives, whether it is done, what is answered instead, how late the answer is."

    def __init__(self, before_s: float = 0.0, done: bool = True, reply: Reply | None = None, after_s: float = 0.0):
        self.before_s, self.done, self.reply, self.after_s = before_s, done, reply, after_s


class Calm:
    "Nothing goes wrong."
    crowded = False               # True: the core is told what there is at +0.3 and +0.6 s of every second
    on, last_hit, spoiled, rates = False, 0, (), {}  # whether more is to come; when the last thing was over, ns UTC; what was done

    def begin(self, world): self.world = world
    def act(self, command) -> Fate: return Fate()
    def question(self, command) -> tuple: return 0.0, "", ()  # how late, why it fails, which lists come back empty
    def news(self, event: str) -> tuple: return (0.0,)        # how late each copy is told; () loses it
    def crash(self, event, commands) -> str: return ""
    def second(self, end: int) -> str: return ""              # before the second that ends now is told: its doubt
