"""Verifying a SQLite store: its records, checkpoints, metadata and b-trees.

Each part is attempted even when another failed, and everything found is reported.
"""

from __future__ import annotations

from collections.abc import Callable

from crdtmem.errors import StoreError
from crdtmem.store.base import Progress, VerifyReport
from crdtmem.store.failures import IO_ERRORS, store_error
from crdtmem.store.sqlite_checkpoint import SqliteCheckpoints
from crdtmem.store.sqlite_database import Database
from crdtmem.store.sqlite_log import SqliteLog
from crdtmem.store.verify import PreviousOf, RecordCheck, no_progress

__all__ = ["verify_store"]


def verify_store(
    database: Database,
    log: SqliteLog,
    checkpoints: SqliteCheckpoints,
    previous_of: PreviousOf | None,
    progress: Progress | None,
) -> VerifyReport:
    """Check records, metadata, checkpoint and SQLite's own structure; raise nothing found."""
    tell = progress or no_progress
    check = RecordCheck(previous_of)
    chunks = quarantined = 0

    def attempt(doing: str, work: Callable[[], None]) -> None:
        try:
            work()
        except (*IO_ERRORS, StoreError) as error:
            check.report(store_error(error, doing, str(database.path)).message)

    def check_records() -> None:
        nonlocal quarantined
        total, quarantined, _ = log.counts()
        check.feed(log.walk(0), tell, total)
        tell(total, total)

    def check_checkpoints() -> None:
        nonlocal chunks
        chunks = checkpoints.chunk_count()
        for problem in checkpoints.inspect():
            check.report(problem)

    def check_structure() -> None:
        for (line,) in database.rows("PRAGMA integrity_check"):
            if line != "ok":
                check.report(f"SQLite: {line}")

    attempt("verifying the log", check_records)
    attempt("verifying checkpoints", check_checkpoints)
    attempt("verifying metadata", lambda: (database.get_metadata(), None)[1])
    attempt("verifying the structure", check_structure)
    return check.outcome(chunks=chunks, quarantined=quarantined)
