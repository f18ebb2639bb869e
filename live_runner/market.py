"""What the core sees of the market: the session it is in, the features of its bars, and what the model says of the last one."""
import numpy as np

from mesbot.calendar import sessions_of
from mesbot.config import Config
from mesbot.core import Instrument
from mesbot.features import FEATURES, FeatureStream
from mesbot.schedule import day_schedule
from mesbot.trader import Says

SILENT = Says(np.nan, np.nan, np.nan)


class Market:
    "One instrument, bar by bar. Features begin anew with each session."

    def __init__(self,
        instrument: Instrument,
        config: Config,
        predictor, # .predict(features (m, k)) -> Prediction; .length bars of it are looked at, 1 where it does not say
    ):
        self.instrument, self.config, self.predictor = instrument, config, predictor
        self.length = getattr(predictor, "length", 1)
        self.stream, self.day, self.date, self.closes = FeatureStream(instrument.symbol), None, None, 0
        self._seen, self._rows = np.full((2 * self.length, len(FEATURES)), np.nan, np.float32), 0  # the last rows of this session, oldest first

    def session_at(self, ts: int) -> bool:
        "Turn to the session that this moment (ns UTC) belongs to; False outside trading hours: then the last one stays."
        if self.day is not None and self._opens <= ts < self.closes: return True
        try: info = sessions_of(np.array([ts], np.int64), self.instrument.hours)[1]
        except ValueError: return False
        self.day, self.date = day_schedule(info, self.config)[0], info["date"][0].astype("M8[D]")
        self._opens, self.closes, self._rows = int(info["open"][0]), int(info["close"][0]), 0
        return True

    @property
    def last_ts(self) -> int:
        "The last bar of this session, ns UTC; 0 before any."
        return self.stream.last_ts if self._rows else 0

    @property
    def row(self) -> np.ndarray: # (k,) float32
        "Features at the close of the last bar."
        return self._seen[self._rows - 1] if self._rows else np.full(len(FEATURES), np.nan, np.float32)

    def add(self, bar) -> None:
        "One more bar of the session, in ticks; ValueError when it does not come after the last one."
        row = self.stream.update(*bar[:6])
        if self._rows == len(self._seen):
            self._seen[:self.length], self._rows = self._seen[-self.length:], self.length
        self._seen[self._rows] = row
        self._rows += 1

    def says(self) -> Says:
        "The model's word on the last bar."
        prediction = self.predictor.predict(self._seen[max(self._rows - self.length, 0):self._rows])
        p, volatility = prediction.probability[-1], getattr(prediction, "volatility_ticks", None)
        return Says(float(p[0]), float(p[2]), float(volatility[-1]) if volatility is not None and len(volatility) else np.nan)


