"Named moments at which a test has the process killed as a power cut would: no cleaning up, nothing flushed, no last words."
import os
import signal

from .problems import FixTheConfig

NAMES = {
    "journal.before_commit": "a transaction is written and not yet committed",
    "journal.after_commit": "a transaction is durable and nobody has been told",
    "send.before": "a command is durable and its request not yet sent",
    "send.after": "the venue has answered and the answer is not yet queued",
    "event.received": "an event is taken from the queue and not yet in the journal",
    "event.stepped": "the core has decided and nothing of it is in the journal",
    "start.locked": "the account is ours and the journal not yet open",
    "start.snapshot": "the core stands on its last snapshot and the run has not begun",
    "start.reconciling": "the venue was asked for its truth and has not been heard",
    "stop.begun": "the end was asked for and nothing was closed yet",
}
_plan = ["", 0]  # name of the point, how many times until the end


def arm(
    text: str, # "name:n": the n-th time that this point is passed is the last; "" for never
) -> None:
    "Plans the end of this process; FixTheConfig for a point that is none."
    name, _, times = text.partition(":")
    if text and (name not in NAMES or not times.isdecimal() or int(times) < 1):
        raise FixTheConfig(f"MESBOT_CRASH must be name:n with n from 1 and a name of {', '.join(NAMES)}, got {text!r}")
    _plan[:] = [name, int(times or 0)]


def point(
    name: str, # one of `NAMES`
) -> None:
    "A moment at which the process may end."
    if name != _plan[0]: return
    _plan[1] -= 1
    if not _plan[1]: os.kill(os.getpid(), signal.SIGKILL)


arm(os.environ.get("MESBOT_CRASH", ""))
