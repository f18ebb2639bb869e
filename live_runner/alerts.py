"""Tells a person, and never makes the runner wait for it. A storm of one trouble becomes one message and a count; each target has a thread and a queue of its own, so
that one that hangs holds up nothing else. What cannot be delivered is counted and logged. Every text is redacted before it leaves."""
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from . import logs
from .problems import FixTheConfig, RetryLater

RANK = {"info": 0, "warning": 1, "critical": 2}
SAME_S = 60.0         # the same trouble is told once in so long
PING_S = 60.0         # between two pings
TIMEOUT_S = 10.0      # of a connection, and of each wait for an answer
PAUSES_S = 5.0, 30.0  # before the second and the third attempt to deliver
ROOM = 256            # messages that may wait for one target
BUNDLE = 20           # of those that wait go out as one
TROUBLES = 1000       # different ones that are remembered for a minute
LONGEST = 1500        # characters of a text

log = logs.logger("live_runner.alerts")


class Message(NamedTuple):
    "One thing to tell."
    severity: str # a key of RANK
    text: str     # redacted
    at: float     # seconds of the monotonic clock


class _Worker(threading.Thread):
    "One target: what it is offered waits here until the thread has delivered it, the most severe first."

    def __init__(self, name: str, deliver: Callable[[list[Message]], None], count: Callable[[str, int], None], room: int = ROOM, pauses_s: tuple = PAUSES_S):
        super().__init__(name=f"alerts {name}", daemon=True)
        self.deliver, self.count, self.room, self.pauses_s = deliver, count, room, pauses_s
        self.waiting, self.closing, self.wake = [], False, threading.Condition()

    def offer(self, message: Message) -> None:
        "Puts it in the queue; with the queue full the oldest of the least severe is dropped."
        with self.wake:
            self.waiting.append(message)
            if self.closing or len(self.waiting) > self.room:
                self.waiting.remove(message if self.closing else min(self.waiting, key=lambda one: RANK[one.severity]))
                self.count("dropped", 1)
            self.wake.notify_all()

    def run(self) -> None:
        while batch := self._next(): self.count("sent" if self._delivered(batch) else "failed", len(batch))

    def close(self) -> None:
        "What waits is tried once more, and then the thread ends."
        with self.wake:
            self.closing = True
            self.wake.notify_all()

    def _next(self) -> list[Message]:
        "The next to go out together; none: the end."
        with self.wake:
            self.wake.wait_for(lambda: self.waiting or self.closing)
            batch = sorted(self.waiting, key=lambda one: -RANK[one.severity])[:BUNDLE]
            for one in batch: self.waiting.remove(one)
            return batch

    def _delivered(self, batch: list[Message]) -> bool:
        for pause_s in (*self.pauses_s, 0.0):
            try: self.deliver(batch)
            except Exception as error: why = f"{type(error).__name__}: {error}"  # whatever a service's library may raise: its failure is not ours
            else: return True
            with self.wake: self.wake.wait_for(lambda: self.closing, pause_s)
        log.warning("not delivered", target=self.name, messages=len(batch), why=why)
        return False


class _Trouble:
    "What was told of one key, and how often it was heard again since."

    def __init__(self, at: float, severity: str, text: str, more: int = 0): self.at, self.severity, self.text, self.more = at, severity, text, more


class Alerts:
    "Where everything that a person should know goes: always to the log, and to the targets from a severity on. Nothing here blocks or raises; `check_targets` is the door."

    def __init__(self,
        targets: tuple[tuple[str, str], ...] = (), # url of apprise and the least severity that it is told
        name: str = "mesbot",                      # stands in every title: mode and account
        monotonic: Callable[[], float] = time.monotonic,
    ):
        self.counts = Counter(sent=0, failed=0, dropped=0, throttled=0)  # messages; ping_sent, ping_failed, ping_dropped beside them
        self._monotonic, self._lock, self._counting, self._tending = monotonic, threading.Lock(), threading.Lock(), threading.Condition()
        self._troubles, self._pinger, self._ping_due, self._closed = {}, None, -PING_S, False
        for url, _ in targets: _hide(url)
        self._workers = [(RANK[severity], _Worker(f"{number} {_scheme(url)}", _post(url, name, monotonic), self._count)) for number, (url, severity) in enumerate(targets, 1)]
        for _, worker in self._workers: worker.start()
        threading.Thread(target=self._tend, name="alerts", daemon=True).start()

    def send(self,
        severity: str, # info, warning or critical; anything else counts as critical
        key: str,      # the same key is the same trouble, and so is the same text
        text: str,     # one line a person can act on
    ) -> None:
        "Tells it, or counts it when the same was told within the minute; more severe than before is told at once."
        try: self._take(severity if severity in RANK else "critical", str(key), " ".join(str(logs.redact(text)).split())[:LONGEST])
        except Exception as error:
            self._count("failed", 1)
            log.error("an alert was lost", why=repr(error))

    def ping(self,
        url: str, # of a dead man's switch outside; empty: none
    ) -> None:
        "Says that all is well, once a minute however often it is called. Call it from the loop itself: a stuck loop must fall silent."
        now = self._monotonic()
        if not url or self._closed or now - self._ping_due < 0: return
        self._ping_due = now + PING_S
        if self._pinger is None:
            _hide(url)
            self._pinger = _Worker("ping", lambda _: _fetch(url), lambda what, n: self._count(f"ping_{what}", n), 1, ())
            self._pinger.start()
        self._pinger.offer(Message("info", "", now))

    def close(self,
        timeout_s: float = 5.0, # how long it may take
    ) -> int: # messages that were not delivered by then
        "Tells what is still to be told, once."
        with self._lock: self._tell_counts(final=True)
        with self._tending:
            self._closed = True
            self._tending.notify_all()
        workers, until = [worker for _, worker in self._workers] + [self._pinger] * bool(self._pinger), time.monotonic() + timeout_s
        for worker in workers: worker.close()
        for worker in workers: worker.join(max(0.0, until - time.monotonic()))
        left = sum(len(worker.waiting) + worker.is_alive() for worker in workers)
        if left: log.warning("ended with alerts not delivered", at_least=left)
        return left

    def _take(self, severity: str, key: str, text: str) -> None:
        with self._lock:
            now = self._monotonic()
            self._tell_counts()
            if key not in self._troubles: key = next((other for other, known in self._troubles.items() if known.text == text), key)
            known = self._troubles.get(key)
            if known and RANK[severity] <= RANK[known.severity]:
                known.more, known.text = known.more + 1, text
                self._count("throttled", 1)
                return log.debug(text, key=key, throttled=known.more)
            if len(self._troubles) >= TROUBLES: self._troubles.pop(next(iter(self._troubles)))
            self._troubles[key] = _Trouble(now, severity, text, known.more if known else 0)
            self._tell(severity, key, text)

    def _tell_counts(self, final: bool = False) -> None:
        "Ends the minutes that are over: what was heard again is told as a count and begins another one."
        now = self._monotonic()
        for key, known in [(key, known) for key, known in self._troubles.items() if final or now - known.at >= SAME_S]:
            del self._troubles[key]
            if not known.more: continue
            self._troubles[key] = _Trouble(now, known.severity, known.text)
            self._tell(known.severity, key, f"{known.more} more within {max(1, round(now - known.at))} s: {known.text}")

    def _tell(self, severity: str, key: str, text: str) -> None:
        getattr(log, severity)(text, key=key)
        for least, worker in self._workers:
            if RANK[severity] >= least: worker.offer(Message(severity, text, self._monotonic()))

    def _tend(self) -> None:
        "The thread that tells counts when nobody calls."
        while not self._closed:
            with self._tending: self._tending.wait(1.0)
            with self._lock:
                if not self._closed: self._tell_counts()

    def _count(self, what: str, n: int) -> None:
        with self._counting: self.counts[what] += n


def check_targets(
    targets: tuple[tuple[str, str], ...], # url of apprise and least severity
    ping_url: str = "",                   # of the dead man's switch; empty: none
) -> None:
    "The door: FixTheConfig names the first target that cannot work, by its number and never by its address. Loads apprise when there is a target, so that no alert has to."
    if ping_url:
        _hide(ping_url)
        if urlsplit(ping_url).scheme not in ("http", "https") or not urlsplit(ping_url).hostname: raise FixTheConfig("ping_url: must begin with http:// or https:// and name a host")
    for number, (url, severity) in enumerate(targets, 1):
        _hide(url)
        if severity not in RANK: raise FixTheConfig(f"alerts {number}: severity must be one of {', '.join(RANK)}, got {severity!r}")
        if _plugin(url) is None:
            raise FixTheConfig(f"alerts {number}: {_scheme(url)}: no address that apprise can use, such as mailto://, tgram://, slack://, discord:// or json:// with all their parts")


def _scheme(url: str) -> str:
    "What of an address may be seen."
    scheme, found, _ = url.partition("://")
    return f"{scheme}://" if found and scheme.isalnum() and len(scheme) <= 12 else "an address without ://"


def _hide(url: str) -> None:
    "Registers the secrets of an address: all of it, a password, and every longer part of it that is no host."
    logs.hide(url)
    try: parts = urlsplit(url)
    except ValueError: return                      # no address at all; `check_targets` says so
    user, _, host = parts.netloc.rpartition("@")
    named = "." in host or host.startswith("localhost")
    for password in user.split(":")[1:]: logs.hide(unquote(password))
    for part in [*user.split(":"), *([] if named else host.split(":")), *parts.path.split("/"), *(pair.rpartition("=")[2] for pair in parts.query.split("&")), parts.fragment]:
        if len(part) >= 8: logs.hide(unquote(part))


def _plugin(url: str):
    "What apprise makes of an address, None where it cannot; a wait of its own may be shorter than ours and not longer."
    import apprise
    plugin = apprise.Apprise.instantiate(url)
    if plugin: plugin.socket_connect_timeout, plugin.socket_read_timeout = min(plugin.socket_connect_timeout, TIMEOUT_S), min(plugin.socket_read_timeout, TIMEOUT_S)
    return plugin


def _post(url: str, name: str, monotonic: Callable[[], float]) -> Callable[[list[Message]], None]:
    "Delivers to an address of apprise; RetryLater when that was not taken."
    made = []
    def deliver(batch: list[Message]) -> None:
        if not made: made.append(_plugin(url))
        if made[0] is None: raise FixTheConfig("no address that apprise can use")
        worst, kinds = batch[0].severity, {"info": "info", "warning": "warning", "critical": "failure"}
        if not made[0].notify(title=f"{name}: {worst}", body="\n".join(_aged(one, monotonic()) for one in batch), notify_type=kinds[worst]): raise RetryLater("the service did not take it")
    return deliver


def _aged(message: Message, now: float) -> str:
    "The text, and how old it is when it comes late."
    late_s = now - message.at
    return message.text if late_s < SAME_S else f"{message.text} (said {late_s / 60:.0f} min ago)"


def _fetch(url: str) -> None:
    with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer: answer.read(1000)
