"""The file of a journal, one SQLite file an account, and how it is read, beside the runner that writes it or after it.

`rows`: every message in order, its JSON as text (zlib above 4 KB), with a checksum. `number` counts messages and is never given twice, so that a hole in the numbers
is a loss that shows. Neighbouring `Second` rows are one row of type Seconds, a JSON list of [end in s, bid, ask, doubt or 0, open, high, low, close, volume], where
nothing after doubt means that nothing traded. `snapshots`: row 0 is the newest, row n what run n began with. `runs`: facts of each run and how it ended. `meta`: id,
account, fence, months archived."""
import json
import os
import secrets
import sqlite3
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

from .messages import Second, from_json
from .problems import CallAHuman

KIND_OF_FILE, LAYOUT = 0x6D_65_73_4A, 1  # "mesJ", where SQLite keeps what a file is; another layout has another number
SCHEMA = f"""PRAGMA application_id={KIND_OF_FILE}; PRAGMA user_version={LAYOUT};
CREATE TABLE meta(name TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE runs(number INTEGER PRIMARY KEY, fence INTEGER NOT NULL, at_ns INTEGER NOT NULL, first INTEGER NOT NULL, facts TEXT NOT NULL, ended TEXT NOT NULL);
CREATE TABLE rows(number INTEGER PRIMARY KEY, run INTEGER NOT NULL, fence INTEGER NOT NULL, kind TEXT NOT NULL, type TEXT NOT NULL, messages INTEGER NOT NULL,
at_ns INTEGER NOT NULL, text NOT NULL, crc INTEGER NOT NULL);
CREATE TABLE snapshots(run INTEGER PRIMARY KEY, after INTEGER NOT NULL, data BLOB NOT NULL, crc INTEGER NOT NULL);"""
NS, WAIT_S = 10**9, 2.0  # how long another writer, such as one that drops old rows, may take
LOG_PAGES = 16_384       # of log, from which SQLite writes it back by itself in the middle of a commit
CHECKED = 64 << 20       # bytes up to which a whole file is looked through when it is opened


def packed(seconds: list) -> str:
    "Seconds as one text."
    return json.dumps([[s.at // NS, s.bid, s.ask, s.doubt or 0, *(s.bar or ())[1:]] for s in seconds], separators=(",", ":"), default=lambda number: number.item(), allow_nan=False)


def _unpacked(text: str) -> Iterator[Second]:
    for end, bid, ask, doubt, *bar in json.loads(text): yield Second(end * NS, (end * NS - NS, *bar) if bar else None, bid, ask, doubt or "")


def packs(second: Second) -> bool:
    "Whether it is as its docstring says, so that nothing is lost in a pack."
    return second.at % NS == 0 and (second.bar is None or (len(second.bar) == 6 and second.bar[0] == second.at - NS))


def crc_of(*cells) -> int:
    "Of a row but its last column: SQLite does not notice a bit that flips in a value."
    return zlib.crc32(b"\0".join(cell if isinstance(cell, bytes) else str(cell).encode() for cell in cells))


@contextmanager
def told(
    path: Path, # of the journal
):
    "What SQLite complains about, in our words: OSError where the disk or the system is to blame, CallAHuman where the file is."
    try: yield
    except sqlite3.OperationalError as error: raise OSError(f"{path}: the journal cannot be used: {error}") from error
    except sqlite3.DatabaseError as error: raise CallAHuman(f"{path} is no journal, or a damaged one: {error}; put a backup in its place, or move it away") from error


def connected(
    path: Path,
    opener: Callable = sqlite3.connect,
    writes: bool = True,                # who does not is kept from it; the last to leave tidies up all the same
) -> sqlite3.Connection: # without transactions of its own
    "A connection to a journal that is there; CallAHuman for a file that is none or of a newer layout."
    with told(path):
        db = opener(f"file:{quote(str(path.absolute()))}?mode=rw", uri=True, timeout=WAIT_S, isolation_level=None, check_same_thread=False)
        try:
            kind, layout = (db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version"))
            if kind != KIND_OF_FILE: raise CallAHuman(f"{path} is no journal; move it away")
            if layout > LAYOUT: raise CallAHuman(f"{path} is of layout {layout}, made by a newer version, this one knows {LAYOUT}; use that version, or move it away")
            for pragma in ("synchronous=FULL", "fullfsync=ON", f"wal_autocheckpoint={LOG_PAGES}", f"journal_size_limit={LOG_PAGES * 4096}", f"query_only={int(not writes)}"):
                db.execute(f"PRAGMA {pragma}")
        except BaseException:
            db.close()
            raise
        return db


def new_journal(path: Path, account: str):
    "Puts an empty one in place, unless one is there; OSError where that cannot be done."
    path.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(":memory:")) as db:
        db.executescript(SCHEMA)
        db.executemany("INSERT INTO meta VALUES(?,?)", [("id", secrets.token_hex(3)), ("account", account), ("fence", 0)])
        db.commit()
        data = bytearray(db.serialize())
    data[18:20] = 2, 2  # the two bytes of the file format that say: write-ahead log
    fresh = path.with_name(f"{path.name}.{os.getpid()}.new")
    try:
        with fresh.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError): os.link(fresh, path)  # whole or not at all, and never over one that another process has just put there
    finally: fresh.unlink(missing_ok=True)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    "Names in it are on the disk when this returns."
    place = os.open(folder, os.O_RDONLY)
    try: os.fsync(place)
    finally: os.close(place)


class JournalReader:
    "A journal for whoever only reads, beside the runner that writes it or after it."

    def __init__(self,
        path: Path,                         # FileNotFoundError where there is none
        opener: Callable = sqlite3.connect,
    ):
        self.path, self._opener = Path(path), opener
        if not self.path.exists(): raise FileNotFoundError(f"{path}: no such journal")
        self._db = connected(self.path, opener, writes=False)
        self._know()

    def _know(self):
        "Reads what the file says of itself."
        with told(self.path): facts = dict(self._db.execute("SELECT name, value FROM meta"))
        self.id, self.account, self.opened = facts["id"], facts["account"], facts["fence"]

    def _all(self, sql: str, *values) -> list:
        with told(self.path): return self._db.execute(sql, values).fetchall()

    def _snapshot(self, run: int) -> tuple | None: # number of the last message it knows of, bytes
        found = self._all("SELECT run, after, data, crc FROM snapshots WHERE run = ?", run)
        if found and crc_of(*found[0][:-1]) != found[0][-1]: raise CallAHuman(f"{self.path} is damaged: a snapshot is not as it was written; put a backup in its place, or move it away")
        return found[0][1:3] if found else None

    def last_snapshot(self) -> bytes | None:
        "The newest."
        found = self._snapshot(0)
        return found and found[1]

    def newest_of(self, run: int) -> tuple | None:
        "How many messages into this run the newest snapshot was taken, and its bytes; None when it is of another run."
        (first, end), found = self._span(run), self._snapshot(0)
        return (found[0] + 1 - first, found[1]) if found and first <= found[0] < end else None

    def runs(self) -> list[dict]: # number, at_ns, facts (with the snapshot it began with, or None), ended ("" or why)
        "Every run, oldest first."
        return [{"number": number, "at_ns": at_ns, "facts": json.loads(facts) | {"snapshot": (self._snapshot(number) or (0, None))[1]}, "ended": ended}
                for number, at_ns, facts, ended in self._all("SELECT number, at_ns, facts, ended FROM runs ORDER BY number")]

    def _span(self, run: int) -> tuple[int, int]:
        "Numbers of its messages, from, to before; ValueError for a run that is not there."
        found = dict(self._all("SELECT number, first FROM runs ORDER BY number"))
        if run not in found: raise ValueError(f"{self.path} has {f'the runs {min(found)} to {max(found)}' if found else 'no run'}, got {run}")
        return found[run], min((first for number, first in found.items() if number > run), default=1 << 62)

    def lost(self, run: int) -> int:
        "How many messages of a run were let go while the disk took nothing."
        first, end = self._span(run)
        last, stored = self._all("SELECT max(number + messages), sum(messages) FROM rows WHERE number >= ? AND number < ? AND run = ?", first, end, run)[0]
        return 0 if last is None else last - first - stored

    def rows(self, run: int) -> Iterator[tuple[str, object]]: # "event" or "command", message
        "Everything of a run in order; CallAHuman for a row that is not as it was written."
        first, end = self._span(run)
        while chunk := self._all("SELECT * FROM rows WHERE number >= ? AND number < ? AND run = ? ORDER BY number LIMIT 500", first, end, run):
            for row in chunk:
                for message in read_row(row, self.path): yield row[3], message
            first = chunk[-1][0] + 1

    def backup(self,
        to: Path, # a file; one that is there is replaced
    ) -> None:
        "A copy of the journal as it is now, whole or not at all, while it is written; OSError where it cannot be."
        to, log = Path(to), Path(f"{to}-wal")
        if to.resolve() == self.path.resolve() or (log.exists() and log.stat().st_size): raise OSError(f"{to} is a journal in use; a backup needs a place of its own")
        aside = to.with_name(f"{to.name}.{os.getpid()}.part")
        try:
            with told(self.path), closing(connected(self.path, self._opener, writes=False)) as source, closing(self._opener(aside)) as target: source.backup(target)
            with closing(connected(aside, writes=False)) as copy: look_through(copy, aside)
            with aside.open("rb+") as file: os.fsync(file.fileno())
            os.replace(aside, to)
        finally:
            for end in ("", "-wal", "-shm", "-journal"): Path(f"{aside}{end}").unlink(missing_ok=True)
        sync_folder(to.parent)

    def close(self) -> None:
        "Ends the connection."
        if self._db: self._db.close()


def read_text(
    row: tuple, # of the table
    path: Path,
) -> str:
    "The text of a row; CallAHuman when it is not as it was written."
    if crc_of(*row[:-1]) != row[-1]: raise CallAHuman(f"{path} is damaged: row {row[0]} is not as it was written; put a backup in its place, or move it away")
    return zlib.decompress(row[7]).decode() if isinstance(row[7], bytes) else row[7]


def read_row(
    row: tuple, # of the table
    path: Path,
) -> list: # of messages
    "What a row holds; CallAHuman when it is not as it was written."
    text = read_text(row, path)
    return list(_unpacked(text)) if row[4] == "Seconds" else [from_json(text)]


def look_through(
    db: sqlite3.Connection,
    path: Path,
) -> None:
    "CallAHuman for a damaged file; a large one is not looked through whole, `check_journal` does that."
    small = sum(Path(f"{path}{end}").stat().st_size for end in ("", "-wal") if Path(f"{path}{end}").exists()) <= CHECKED
    for table in ("1",) if small else ("meta", "runs", "snapshots"):
        with told(path): said = db.execute(f"PRAGMA quick_check({table})").fetchone()[0]
        if said != "ok": raise CallAHuman(f"{path} is a damaged journal: {' '.join(said.split())}; put a backup in its place, or move it away")
