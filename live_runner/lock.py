"One runner an account, even after kill -9: a lock that the system takes back with the process that held it."
import hashlib
import os
import re
import time
from pathlib import Path

import filelock

from .clock import isotime
from .problems import CallAHuman


def locks_folder() -> Path:
    "Where the locks of this user are, whatever folder a runner works in: MESBOT_LOCKS, or beside the cache of mesbot, which may be deleted at will."
    return Path(os.environ.get("MESBOT_LOCKS") or Path.home() / ".cache" / "mesbot-locks")


class AccountLock:
    "An account of one gateway, held for the time of a `with`; CallAHuman where another process holds it. It says nothing of other machines."

    def __init__(self,
        url: str,     # of the gateway
        account: str, # name of the account
    ):
        key = hashlib.sha256(f"{url.strip().rstrip('/').lower()} {account}".encode()).hexdigest()[:12]
        self.account, self.path = account, locks_folder() / f"{re.sub(r'[^A-Za-z0-9-]+', '_', account)[:40]}_{key}.lock"
        self._lock = filelock.FileLock(self.path, blocking=False, thread_local=False)

    def __enter__(self) -> "AccountLock":
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try: self._lock.acquire()
        except filelock.Timeout: raise CallAHuman(f"another runner trades account {self.account} ({self._holder()})") from None
        self.path.write_text(f"process {os.getpid()} since {isotime(time.time_ns())}")
        return self

    def __exit__(self, *_) -> None:
        self._lock.release()

    def _holder(self) -> str:
        "What the other one wrote of itself."
        try: return self.path.read_text().strip() or "it has not said which process it is"
        except OSError as error: return f"its lock cannot be read: {error.strerror}"
