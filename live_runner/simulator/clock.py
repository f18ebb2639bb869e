"The market's virtual clock: time stands still until somebody moves it, and whatever falls due on the way happens at its own moment."
from collections.abc import Callable
from heapq import heappop, heappush


class Clock:
    "Virtual time and all that is due; `now` is ns UTC."

    def __init__(self, now: int = 0):  # ns UTC
        self.now = now
        self._due = []    # heap of (ts, number, action): among equal times the one asked for first
        self._asked = 0

    def at(self, ts: int, action: Callable[[], None]) -> None:  # ns UTC, >= now
        "Have `action` called when the clock reaches `ts`; ValueError for a moment that has passed."
        if ts < self.now: raise ValueError(f"an action must not be due before now, {self.now} ns, got {ts} ns")
        heappush(self._due, (ts, self._asked, action))
        self._asked += 1

    def run_until(self, ts: int) -> None:  # ns UTC, >= now
        "Everything that is due up to and including `ts`, in order, also what these actions ask for; then it is `ts`; ValueError for going back."
        if ts < self.now: raise ValueError(f"the clock only goes forward: it is {self.now} ns, got {ts} ns")
        due = self._due
        while due and due[0][0] <= ts:
            self.now, _, action = heappop(due)
            action()
        self.now = ts
