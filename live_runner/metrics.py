"""How long things take and how often they happen: counts in fixed bins, so that a day of seconds costs no memory, and text that Prometheus reads.
The bins are about 5 % wide; a quantile is the upper edge of its bin, never better than the truth."""
import math
from bisect import bisect_left
from collections import Counter

import numpy as np

A_DECADE = 50         # bins
SHOWN = 10            # every so many bins one is told to Prometheus: five a decade
EDGES = [float(f"{10 ** (i / A_DECADE - 6):.6g}") for i in range(7 * A_DECADE + 1)]  # upper ends, seconds: 1 us .. 10 s; one more bin holds what took longer
NAMES = {  # what is measured, in words
    "event_lag_s": "From the stamp of the venue to the arrival here",
    "feature_s": "The feature step of one bar",
    "inference_s": "One prediction",
    "step_s": "One decision of the core, prediction and all",
    "commit_s": "One transaction of the journal",
    "bar_to_wire_s": "From the event that closed the bar to the order on the wire",
    "order_round_trip_s": "From the sending of an order to its answer",
}


class Latency:
    "The durations of one thing."

    def __init__(self): self.counts, self.sum_s, self.max_s = np.zeros(len(EDGES) + 1, np.int64), 0.0, 0.0

    def add(self,
        seconds: float, # below 0, where two clocks disagree, counts as 0; what is no number counts as too long
    ) -> None:
        "One more."
        if not seconds <= EDGES[-1]: seconds = min(seconds, 1e9) if seconds == seconds else 1e9
        seconds = max(seconds, 0.0)
        self.counts[bisect_left(EDGES, seconds)] += 1
        self.sum_s += seconds
        self.max_s = max(self.max_s, seconds)

    @property
    def count(self) -> int: return int(self.counts.sum())

    def quantile(self,
        q: float, # 0 .. 1
    ) -> float: # seconds; NaN while there is nothing
        "The shortest time within which this share of all was done, rounded up to the end of its bin."
        if not 0 <= q <= 1: raise ValueError(f"q must be in 0 .. 1, got {q:g}")
        if not self.count: return math.nan
        row = int(np.searchsorted(np.cumsum(self.counts), max(1, math.ceil(q * self.count - 1e-9))))
        return min(EDGES[row], self.max_s) if row < len(EDGES) else self.max_s

    def facts(self) -> dict: # count, mean_s, p50_s, p99_s, max_s; None where nothing was measured
        "In short, for JSON."
        if not self.count: return {"count": 0, "mean_s": None, "p50_s": None, "p99_s": None, "max_s": None}
        return {"count": self.count, "mean_s": self.sum_s / self.count, "p50_s": self.quantile(.5), "p99_s": self.quantile(.99), "max_s": self.max_s}


class Meters:
    "All that is measured in a process."

    def __init__(self): self.latency, self.counters = {name: Latency() for name in NAMES}, Counter()

    def facts(self) -> dict: # name of NAMES -> `Latency.facts`
        "All latencies in short."
        return {name: one.facts() for name, one in self.latency.items()}

    def text(self,
        gauges: dict | None = None, # name -> a number that goes up and down, or None: not known
    ) -> str:
        "The exposition format of Prometheus, version 0.0.4."
        lines = [line for name, words in NAMES.items() for line in _histogram(_name(name), words, self.latency[name])]
        for name, value in sorted(self.counters.items()): lines += _single(_name(name) + "_total", "counter", value)
        for name, value in (gauges or {}).items(): lines += [] if value is None else _single(_name(name), "gauge", value)
        return "\n".join(lines) + "\n"


def _name(name: str) -> str:
    "As Prometheus wants it: the unit written out, nothing but letters, digits and _."
    name = name.removesuffix("_s") + "_seconds" if name.endswith("_s") else name
    return "mesbot_" + "".join(letter if letter.isascii() and letter.isalnum() else "_" for letter in name)


def _single(name: str, kind: str, value: float) -> list[str]:
    return [f"# HELP {name} {name.removeprefix('mesbot_').removesuffix('_total').replace('_', ' ')}", f"# TYPE {name} {kind}", f"{name} {_number(value)}"]


def _histogram(name: str, words: str, of: Latency) -> list[str]:
    "Buckets that count all up to their end."
    below = np.cumsum(of.counts)
    rows = [f'{name}_bucket{{le="{EDGES[i]:g}"}} {below[i]}' for i in range(0, len(EDGES), SHOWN)]
    return [f"# HELP {name} {words}", f"# TYPE {name} histogram", *rows, f'{name}_bucket{{le="+Inf"}} {below[-1]}', f"{name}_sum {_number(of.sum_s)}", f"{name}_count {below[-1]}"]


def _number(value: float) -> str:
    if math.isfinite(value): return repr(float(value)) if isinstance(value, float) else str(int(value))
    return "NaN" if math.isnan(value) else "+Inf" if value > 0 else "-Inf"
