"Bars of the past, as `History/retrieveBars` gives them: from the tape, up to now and never beyond."
import numpy as np

from mesbot.bars import Bars
from mesbot.calendar import HOUR, MINUTE, session_table
from mesbot.core import SECOND

from ..clock import ns_of
from ..protocol import BarsError, BarUnit
from .tape import CLOSE_NS, PRINT_NS, RANGE_NS, Tape, plan_prints

MOST = 20_000          # bars a call brings at most; a larger limit is refused
MOST_UNITS = 86_400    # unitNumber
NS = {BarUnit.SECOND: SECOND, BarUnit.MINUTE: MINUTE, BarUnit.HOUR: HOUR}


class History:
    "The tape as history. Bars of hours and less are counted from the open of their session; days, weeks and months are made of whole trade dates and begin with their first session."

    def __init__(self, tape: Tape):
        self.tape, self.info = tape, tape.info
        first, last = tape.info["date"][[0, -1]].astype("M8[D]")
        dates = session_table(first, last + 14, tape.instrument.hours)["date"]
        self._next_date = dates[np.searchsorted(dates, tape.info["date"], side="right")]   # the calendar's next trade date after each session

    def history(self,
        now: int,   # ns UTC
        body: dict, # of the request, checked for its kinds
    ) -> dict: # the envelope; bars newest first
        "The newest `limit` bars that open from startTime on and before endTime, and that are over by now unless partial ones are asked for."
        unit, number, limit = body["unit"], body["unitNumber"], body["limit"]
        if body.get("live") or body["contractId"] != self.tape.contract and self.tape.contracts.search_by_id(body["contractId"]) is None: return _refused(BarsError.CONTRACT_NOT_FOUND)
        if unit not in set(BarUnit): return _refused(BarsError.UNIT_INVALID)
        if not 1 <= number <= MOST_UNITS: return _refused(BarsError.UNIT_NUMBER_INVALID)
        if not 1 <= limit <= MOST: return _refused(BarsError.LIMIT_INVALID)
        start, end = ns_of(body["startTime"]), ns_of(body["endTime"])
        if body["contractId"] != self.tape.contract or end <= start: return _answer([])
        return _answer(self._bars(now, start, end, BarUnit(unit), number, limit, bool(body.get("includePartialBar"))))

    def _bars(self, now: int, start: int, end: int, unit: BarUnit, number: int, limit: int, partial: bool) -> list:
        tape, ts = self.tape, self.tape.bars.ts
        length = number * NS.get(unit, 0)
        begins, ends = self._sessions(unit, number)
        a = int(np.searchsorted(ts, start))
        if not length: a = int(tape.bars.sessions[np.searchsorted(begins, start)]) if start <= begins[-1] else len(ts)
        known = int(np.searchsorted(ts, now - SECOND, side="right"))   # seconds that are over
        last = int(np.searchsorted(ts, end)) if unit == BarUnit.SECOND and number == 1 else known
        b = min(known, last)
        if length: a = max(a - length // SECOND, b - (limit + 1) * (length // SECOND), 0)   # no bar has more rows than seconds; one more bar than is wanted, which may be cut
        if a > b: a = b
        rows = [column[a:b] for column in tape.bars[:6]]
        if b == known and (growing := self._growing(known, now)): rows = [np.append(column, value) for column, value in zip(rows, growing)]
        if not len(rows[0]): return []
        session = np.searchsorted(self.info["open"], rows[0], side="right") - 1
        if length:
            opens = self.info["open"][session]
            t = opens + (rows[0] - opens) // length * length
            over = np.minimum(t + length, self.info["close"][session])
        else: t, over = begins[session], ends[session]
        return self._grouped(rows, t, over, start, end, now, limit, partial)

    def _grouped(self, rows: list, t: np.ndarray, over: np.ndarray, start: int, end: int, now: int, limit: int, partial: bool) -> list:
        "Rows that belong to the same bar as one bar."
        heads = np.flatnonzero(np.append(True, t[1:] != t[:-1]))
        t, over = t[heads], over[heads]
        keep = (t >= start) & (t < end) & ((over <= now) | partial)
        _, open, high, low, close, volume = rows
        columns = [open[heads], np.maximum.reduceat(high, heads), np.minimum.reduceat(low, heads), close[np.append(heads[1:], len(open)) - 1]]
        points = [np.round(self.tape.instrument.to_points(column[keep][-limit:]), 9).tolist() for column in columns]
        texts = np.datetime_as_string(t[keep][-limit:].astype("M8[ns]"), unit="s").tolist()
        sizes = np.add.reduceat(volume, heads)[keep][-limit:].tolist()
        made = [{"t": text + "+00:00", "o": o, "h": h, "l": l, "c": c, "v": v} for text, o, h, l, c, v in zip(texts, *points, sizes)]
        return made[::-1]

    def _growing(self, row: int, now: int) -> list | None: # one value a column
        "What has printed so far of the second that is going on."
        bars = self.tape.bars
        if row == len(bars.ts) or now < bars.ts[row] + PRINT_NS: return None
        bar = bars._replace(**{name: getattr(bars, name)[row:row + 1] for name in Bars._fields[:6]})
        ts, open, high, low, close, volume = (int(column[0]) for column in bar[:6])
        plan = plan_prints(bar)
        size = int(plan.size[0])
        if now < ts + RANGE_NS: return [ts, open, open, open, open, size]
        middle = [int(price[0]) for price, printed in ((plan.near, plan.has_near), (plan.far, plan.has_far)) if printed[0]]
        if now < ts + CLOSE_NS: return [ts, open, max(open, *middle, open), min(open, *middle, open), [open, *middle][-1], size * (1 + len(middle))]
        return [ts, open, high, low, close, volume]

    def _sessions(self, unit: BarUnit, number: int) -> tuple: # (m,) ns UTC, twice
        "For bars of whole trade dates: when the bar of each session begins, and when it is over."
        period, following = (_period(dates, unit, number) for dates in (self.info["date"], self._next_date))
        first, back = np.unique(period, return_index=True, return_inverse=True)[1:]
        last = np.append(first[1:], len(period)) - 1
        closed, nobody = self.info["close"][last], np.iinfo(np.int64).max
        later = np.append(self.info["open"], nobody)[last + 1]
        return self.info["open"][first][back], np.where(following[last] != period[last], closed, later)[back]


def _period(dates: np.ndarray, unit: BarUnit, number: int) -> np.ndarray:
    "Which bar of days, weeks or months each trade date (days since 1970) belongs to."
    if unit == BarUnit.MONTH: return dates.astype("M8[D]").astype("M8[M]").astype(np.int64) // number
    if unit == BarUnit.WEEK: return (dates + 3) // 7 // number   # 1970-01-01 was a Thursday
    return dates // number


def _answer(bars: list) -> dict: return {"bars": bars, "success": True, "errorCode": int(BarsError.SUCCESS), "errorMessage": None}


def _refused(code: BarsError) -> dict: return {"bars": None, "success": False, "errorCode": int(code), "errorMessage": None}
