"""A consistent copy of a live SQLite store.

SQLite's online backup copies pages in steps through the store's own connection; what
that connection commits between steps is carried into the copy, so the copy is the
state at its end. It is marked inside as a backup before it gets its name: opened, it
never continues the identity of the store it was taken from. It has no mark file.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from crdtmem.errors import InvalidValue
from crdtmem.store.base import Progress
from crdtmem.store.continuity import BootState
from crdtmem.store.files import create_private, sync_directory
from crdtmem.store.sqlite_database import Database, metadata_seal
from crdtmem.store.sqlite_recovery import BOOT

__all__ = ["write_backup"]

_PAGES_PER_STEP = 512  # 2 MiB: about a millisecond between two calls of `progress`


def write_backup(database: Database, target: Path, progress: Progress | None) -> None:
    """Copy ``database`` to ``target``. Raises ``InvalidValue``, sqlite or OS errors."""
    if target.exists():
        raise InvalidValue(f"{target} exists", hint="give a new path for the backup")
    partial = target.with_name(target.name + ".partial")
    partial.unlink(missing_ok=True)
    create_private(partial)
    try:
        with closing(sqlite3.connect(partial, isolation_level=None)) as copy:
            _copy(database, copy, progress)
            _mark_as_backup(copy)
        partial.replace(target)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    sync_directory(target.parent)


def _copy(database: Database, copy: sqlite3.Connection, progress: Progress | None) -> None:
    def step(_status: int, remaining: int, total: int) -> None:
        if progress is not None:
            progress(total - remaining, total)

    database.connection.backup(copy, pages=_PAGES_PER_STEP, progress=step)


def _mark_as_backup(copy: sqlite3.Connection) -> None:
    """Change the boot state inside the copy, which also makes the copy durable."""
    # A rollback journal, so that the backup is one file, and nothing else, when it is closed.
    copy.execute("PRAGMA journal_mode = DELETE")
    copy.execute("PRAGMA synchronous = FULL")
    (encoded,) = copy.execute("SELECT value FROM metadata WHERE name = ?", (BOOT,)).fetchone()
    marked = replace(BootState.decode(encoded), is_backup=True).encode()
    copy.execute(
        "UPDATE metadata SET value = ?, seal = ? WHERE name = ?",
        (marked, metadata_seal(BOOT, marked), BOOT),
    )
