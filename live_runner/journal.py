"""The journal of a running runner: what it was told and what it decided, durable before it acts.

In WAL mode with synchronous=FULL a commit is one write to the end of the log and one fsync of it; a torn end fails its checksums and is as if it had never begun.
The log goes back into the file in `tidy`, when nothing waits, and by itself only at 64 MB. A commit that fails keeps its rows, and storing them again replaces: one
that was reported as failed and was not is there once."""
import json
import os
import sqlite3
import time
import zlib
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

from . import crash
from .journal_file import JournalReader, connected, crc_of, look_through, new_journal, packed, packs
from .messages import Second, to_json
from .problems import CallAHuman

ZIP, PACK = 4096, 600  # characters from which a text is packed; Seconds a row at most
TIDY = 1 << 20         # bytes of log since it was tidied last from which `tidy` works
PAGES = 6 * 4096       # bytes of log that a transaction takes beside its texts
ROOM = 32 << 20        # bytes that may wait while the disk takes nothing


class Fenced(CallAHuman):
    "Another process has opened this journal for writing since."


class Journal(JournalReader):
    "The journal of the one runner that writes it; what older openings still hold back is refused from now on."

    def __init__(self,
        path: Path,                         # made with its folder when it does not exist
        account: str,                       # its name
        opener: Callable = sqlite3.connect, # what makes connections, for tests of failing disks
    ):
        "CallAHuman for a damaged file, one of another account or a newer layout; OSError where it cannot be written."
        if not Path(path).exists(): new_journal(Path(path), account)
        self.path, self._opener, self._db, self.fence = Path(path), opener, connected(Path(path), opener), None
        self.run, self.dropped, self._at, self._rows, self._room, self._grown, self._seconds, self._waiting = 0, 0, 0, [], 0, 0, [], None
        try:
            self._know()
            if self.account != account: raise CallAHuman(f"{path} is the journal of account {self.account}, not of {account}; give each account a folder of its own")
            look_through(self._db, self.path)
            with self._writing() as db:
                db.execute("UPDATE meta SET value = value + 1 WHERE name = 'fence'")
                fence, = db.execute("SELECT value FROM meta WHERE name = 'fence'").fetchone()
            self.fence, self._place, self._newest = fence, self._where(), self.last_snapshot()
            found = self._all("SELECT number + messages FROM rows ORDER BY number DESC LIMIT 1") + self._all("SELECT first FROM runs ORDER BY number DESC LIMIT 1")
            self._next = max((number for number, in found), default=1)  # rows may have been dropped, their numbers are not given again
        except BaseException:
            self.close()
            raise

    def _where(self) -> list:
        "Which files these are: one that was moved away takes every row, and no restart finds them."
        return [(found.st_dev, found.st_ino) for end in ("", "-wal") for found in [os.stat(f"{self.path}{end}")]]

    @contextmanager
    def _writing(self):
        "One transaction, durable when the block is over; when it fails OSError, and nothing of it is stored."
        try:
            if self._db is None: self._again()
            if self.fence and self._where() != self._place: raise OSError("the file was moved or replaced")
            self._db.execute("BEGIN IMMEDIATE")
            fence, = self._db.execute("SELECT value FROM meta WHERE name = 'fence'").fetchone()
            if self.fence not in (None, fence): raise Fenced(f"{self.path}: another process has opened this journal since (opening {fence}, ours was {self.fence})")
            yield self._db
            self._db.execute("COMMIT")
        except BaseException as error:
            self._roll_back()
            if isinstance(error, (sqlite3.Error, OSError, CallAHuman)) and not isinstance(error, Fenced): raise OSError(f"{self.path}: the journal cannot be written: {error}") from error
            raise

    def _roll_back(self):
        "Takes back what was begun; a connection that cannot even do that is given up, which does the same."
        try:
            if self._db and self._db.in_transaction: self._db.execute("ROLLBACK")
        except sqlite3.Error:
            self._db.close()
            self._db = None

    def _again(self):
        "Another connection after one that was given up."
        self._db, place = connected(self.path, self._opener), self._where()
        if place[0] == self._place[0]: self._place = place

    def begin(self,
        facts: dict, # JSON, of which `snapshot` (bytes or None: what the core begins with; the newest when not named) and `at_ns` (now when not named) are kept aside
    ) -> int: # its number, from 1
        "A run begins; durable on return. OSError as in `commit`."
        self.commit()
        snapshot, at_ns = facts.get("snapshot", self._newest), facts.get("at_ns") or time.time_ns()
        text = json.dumps({name: value for name, value in facts.items() if name not in ("snapshot", "at_ns")}, allow_nan=False)
        with self._writing() as db:
            number, = db.execute("SELECT coalesce(max(number), 0) + 1 FROM runs").fetchone()
            db.execute("INSERT INTO runs VALUES(?,?,?,?,?,'')", (number, self.fence, at_ns, self._next, text))
            if snapshot is not None: self._keep(db, number, self._next - 1, snapshot)
        self.run = number
        return number

    def _keep(self, db, *row):
        "A snapshot: run or 0, number of the last message it knows of, bytes."
        db.execute("INSERT OR REPLACE INTO snapshots VALUES(?,?,?,?)", (*row, crc_of(*row)))

    def event(self,
        event, # one of `messages.EVENTS`
    ) -> None:
        "Takes an event, before anything is done about it."
        self._at = event.at
        if not (isinstance(event, Second) and packs(event)): return self._add("event", type(event).__name__, to_json(event), 1)
        self._seconds.append(event)
        if len(self._seconds) >= PACK: self._seal()

    def commands(self,
        commands: list, # of `messages.COMMANDS`, caused by the event taken last
    ) -> None:
        "Takes what is to be done about it."
        for command in commands: self._add("command", type(command).__name__, to_json(command), 1)

    @property
    def pending(self) -> int:
        "Messages taken and not yet durable."
        return sum(row[5] for row in self._rows) + len(self._seconds)

    def _seal(self):
        "The Seconds so far become a row."
        if not self._seconds: return
        seconds, self._seconds = self._seconds, []
        self._add("event", "Seconds", packed(seconds), len(seconds), seconds[0].at)

    def _add(self, kind: str, name: str, text: str, messages: int, at_ns: int | None = None):
        self._seal()
        if not self.run: raise ValueError("a run must begin before its first event")
        row = self._next, self.run, self.fence, kind, name, messages, self._at if at_ns is None else at_ns, text if len(text) <= ZIP else zlib.compress(text.encode(), 1)
        self._rows.append((*row, crc_of(*row)))
        self._next += messages
        self._room += len(row[7]) + 300
        if self._room > ROOM: self._let_go()

    def _let_go(self):
        "Makes room for a tenth: the oldest Seconds first, whatever is oldest when there are none left."
        for names in ({"Second", "Seconds"}, None):
            kept = []
            for row in self._rows:
                if self._room <= ROOM * .9 or (names and row[4] not in names): kept.append(row)
                else: self._room, self.dropped = self._room - len(row[7]) - 300, self.dropped + row[5]
            self._rows = kept

    def commit(self,
        snapshot: bytes | None = None, # of the core after all that was taken
    ) -> None:
        "One transaction, durable on return. When it raises OSError nothing of it is stored and all of it waits for the next call; Fenced when it is not ours to write."
        self._seal()
        if snapshot is not None: self._waiting = (self._next - 1, snapshot) if snapshot != self._newest else None
        if not self._rows and self._waiting is None: return
        with self._writing() as db:
            db.executemany("INSERT OR REPLACE INTO rows VALUES(?,?,?,?,?,?,?,?,?)", self._rows)
            if self._waiting is not None: self._keep(db, 0, *self._waiting)
            crash.point("journal.before_commit")
        crash.point("journal.after_commit")
        self._grown += self._room + PAGES + (len(self._waiting[1]) if self._waiting else 0)
        self._newest, self._waiting = self._waiting[1] if self._waiting else self._newest, None
        self._rows, self._room = [], 0

    def tidy(self) -> None:
        "Writes a log that has grown back into the file. For quiet moments: it waits for the disk. OSError as in `commit`, and nothing is lost."
        if self._db is None or self._grown < TIDY: return
        try: self._db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        except sqlite3.Error as error: raise OSError(f"{self.path}: the log of the journal cannot be written back: {error}") from error
        self._grown = 0

    def end(self,
        why: str, # the first one said of a run stays
    ) -> None:
        "The run is over; what was taken is stored with it. OSError as in `commit`."
        self.commit()
        with self._writing() as db: db.execute("UPDATE runs SET ended = ? WHERE number = ? AND ended = ''", (why, self.run))
