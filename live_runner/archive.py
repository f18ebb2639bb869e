"Old months of a journal: written to parquet, then dropped, and only by whole runs, so that what is left can always be replayed."
import base64
import json
import os
import re
import time
from contextlib import closing
from datetime import datetime, timezone
from pathlib import Path

from .journal_file import NS, JournalReader, connected, read_row, read_text, sync_folder, told
from .problems import CallAHuman

BATCH = 2000  # rows dropped at once: a runner that commits meanwhile waits for no more
COLUMNS = ("number", "run", "fence", "kind", "type", "messages", "at_ns", "text")


def _month(text: str) -> tuple[int, int]: # ns UTC, from, to before
    if not re.fullmatch(r"\d{4}-(0[1-9]|1[0-2])", text, re.ASCII): raise ValueError(f"month must look like 2026-10, got {text!r}")
    year, month = map(int, text.split("-"))
    return tuple(int(datetime(y, m, 1, tzinfo=timezone.utc).timestamp()) * NS for y, m in ((year, month), (year + month // 12, month % 12 + 1)))


def _newest(db) -> int: # ns UTC; 0 for a journal without rows
    return (db.execute("SELECT at_ns FROM rows ORDER BY number DESC LIMIT 1").fetchone() or (0,))[0]


def _archived(db) -> dict: # month -> rows, last (number of the last row), file
    return {name[9:]: json.loads(value) for name, value in db.execute("SELECT name, value FROM meta WHERE name LIKE 'archived %'")}


def archive(
    path: Path,   # of the journal; it may be in use
    folder: Path, # made when it does not exist
    month: str,   # 2026-10, UTC, by the market's clock; ValueError for one that is not over or of which there is nothing
) -> Path: # journal_<id>_<month>.parquet: a row a message row, its runs with their facts and first snapshots in the metadata
    "The rows of a past month as parquet, whole or not at all, read again before they are believed; from then on `keep_days` may drop them."
    begin, end = _month(month)
    with closing(JournalReader(path)) as journal, closing(connected(journal.path)) as db, told(path):
        rows, last = db.execute("SELECT count(*), max(number) FROM rows WHERE at_ns >= ? AND at_ns < ?", (begin, end)).fetchone()
        target, before = Path(folder) / f"journal_{journal.id}_{month}.parquet", _archived(db).get(month)
        if before and before["rows"] > rows:
            if target.exists(): return target
            raise ValueError(f"rows of {month} were archived to {before['file']} and dropped; {target} is not there")
        if _newest(db) < end: raise ValueError(f"month {month} is not over in {path}")
        if not rows: raise ValueError(f"{path} has nothing of {month}")
        _written(journal, db, (begin, end), target, rows)
        db.execute("INSERT OR REPLACE INTO meta VALUES(?,?)", (f"archived {month}", json.dumps({"rows": rows, "last": last, "file": str(target)})))
    return target


def _written(journal: JournalReader, db, span: tuple, target: Path, rows: int):
    import pyarrow as pa
    import pyarrow.parquet as pq
    kinds = {"kind": pa.string(), "type": pa.string(), "text": pa.large_string()}
    numbers = {number for number, in db.execute("SELECT DISTINCT run FROM rows WHERE at_ns >= ? AND at_ns < ?", span)}
    runs = [run | {"facts": run["facts"] | {"snapshot": run["facts"]["snapshot"] and base64.b85encode(run["facts"]["snapshot"]).decode()}} for run in journal.runs() if run["number"] in numbers]
    schema = pa.schema([(name, kinds.get(name, pa.int64())) for name in COLUMNS], {"journal": journal.id, "account": journal.account, "runs": json.dumps(runs)})
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_name(f"{target.name}.{os.getpid()}.part")
    try:
        with pq.ParquetWriter(aside, schema, compression="zstd", write_page_checksum=True) as file:
            found = db.execute("SELECT * FROM rows WHERE at_ns >= ? AND at_ns < ? ORDER BY number", span)
            while chunk := found.fetchmany(5000): file.write_table(pa.table(dict(zip(COLUMNS, zip(*((*row[:7], read_text(row, journal.path)) for row in chunk)))), schema))
        with aside.open("rb+") as file: os.fsync(file.fileno())
        read = sum(len(batch) for batch in pq.ParquetFile(aside, page_checksum_verification=True).iter_batches())
        if read != rows: raise OSError(f"{aside}: {read} rows of {rows} can be read again")
        os.replace(aside, target)
    finally: aside.unlink(missing_ok=True)
    sync_folder(target.parent)


def keep_days(
    path: Path, # of the journal; it may be in use
    days: int,  # of the market, back from the newest row
) -> int: # rows dropped
    "Drops runs that are older as a whole and archived as a whole; the newest run always stays."
    if days < 1: raise ValueError(f"days must be >= 1, got {days}")
    with closing(connected(Path(path))) as db, told(path):
        oldest, archived = _newest(db) - days * 86_400 * NS, _archived(db)
        first, = db.execute("SELECT first FROM runs ORDER BY number DESC LIMIT 1").fetchone() or (0,)  # of the newest run
        months = db.execute("SELECT run, strftime('%Y-%m', at_ns / 1000000000, 'unixepoch'), max(number), max(at_ns) FROM rows WHERE number < ? GROUP BY 1, 2", (first,)).fetchall()
        kept = {run for run, month, last, at_ns in months if at_ns >= oldest or last > archived.get(month, {"last": 0})["last"]}
        return sum(_drop(db, run) for run in sorted({run for run, *_ in months} - kept))


def keep_house(
    path: Path,   # of the journal; it may be in use
    folder: Path, # for the files of past months
    days: int,    # of the market that stay in the journal
) -> list[Path]: # the files that were written now
    "Every month that is over goes to parquet, once; then what is older than so many days is dropped. OSError and CallAHuman as the two steps."
    with closing(connected(Path(path), writes=False)) as db, told(path):
        newest, known = _newest(db), _archived(db)
        months = [month for month, in db.execute("SELECT DISTINCT strftime('%Y-%m', at_ns / 1000000000, 'unixepoch') FROM rows") if month not in known and _month(month)[1] <= newest]
    written = [archive(path, folder, month) for month in sorted(months)]
    keep_days(path, days)
    return written


def _drop(db, run: int) -> int:
    "A run, then its rows; one that is interrupted goes on the next time."
    db.execute("BEGIN IMMEDIATE")
    for table, column in (("runs", "number"), ("snapshots", "run")): db.execute(f"DELETE FROM {table} WHERE {column} = ?", (run,))
    db.execute("COMMIT")
    first, last, total = *db.execute("SELECT min(number), max(number) FROM rows WHERE run = ?", (run,)).fetchone(), 0
    while first <= last:
        done = db.execute("DELETE FROM rows WHERE number >= ? AND number < ? AND run = ?", (first, first + BATCH, run)).rowcount
        first, total = first + BATCH, total + done
        time.sleep(.005)
    return total


def check_journal(
    path: Path, # of a journal, in use or not; FileNotFoundError where there is none
) -> dict: # integrity ("ok" or what is wrong), and where it can be read: id, account, fence, runs, rows, messages, lost, last_ns, bytes
    "Looks through all of it, each row by its checksum."
    try:
        with closing(JournalReader(path)) as journal, closing(connected(journal.path, writes=False)) as db, told(path):
            said = [text for text, in db.execute("PRAGMA integrity_check(5)")]
            if said != ["ok"]: return {"integrity": " ".join("; ".join(said).split())}
            journal.last_snapshot()
            runs = [run["number"] for run in journal.runs()]
            rows = messages = 0
            for row in db.execute("SELECT * FROM rows ORDER BY number"): rows, messages = rows + 1, messages + len(read_row(row, journal.path))
            size = sum(Path(f"{path}{end}").stat().st_size for end in ("", "-wal") if Path(f"{path}{end}").exists())
            return {"integrity": "ok", "id": journal.id, "account": journal.account, "fence": journal.opened, "runs": len(runs), "rows": rows, "messages": messages,
                    "lost": sum(journal.lost(run) for run in runs), "last_ns": _newest(db), "bytes": size}
    except (CallAHuman, ValueError) as error: return {"integrity": str(error)}
