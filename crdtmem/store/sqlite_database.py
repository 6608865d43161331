"""One SQLite connection, set up for an append-only log, and its schema.

Problem: SQLite's defaults serve shared files and rare writes. Here one process
owns the file, commits thousands of times a second, and must know of every error.

Idea: WAL with ``synchronous=FULL`` makes a commit one sequential write and one
fsync. ``locking_mode=EXCLUSIVE`` keeps the WAL index in private memory: no shared
memory file, no lock system call per commit. SQLite's automatic WAL checkpoint
is off, because it swallows its errors; ``settle`` does it, and raises. Memory
mapping is off: through a map a failing disk is a SIGBUS, not an error.

Work that may be lost on a power failure without breaking a promise (checkpoint
chunks, deletions) commits with ``durable=False``: no fsync, but still in order in
the WAL, so that a later durable commit makes it durable too.

Schema changes are steps in ``MIGRATIONS``, each in one transaction with its
``user_version``; they only go forward.

Reading: sqlite.org/wal.html, sqlite.org/howtocorrupt.html.
"""

from __future__ import annotations

import contextlib
import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from crdtmem.errors import StoreCorrupt, StoreFailed, StoreReadOnly, StoreVersion
from crdtmem.store.base import LogRecord
from crdtmem.store.pending import seal_of

__all__ = [
    "APPLICATION_ID",
    "FORMAT_VERSION",
    "MIGRATIONS",
    "RECORD_COLUMNS",
    "Database",
    "metadata_seal",
    "record_of",
    "row_of",
    "signed",
    "typed",
    "unsigned",
    "wal_path",
]

APPLICATION_ID = 0x6372646D  # "crdm", so that `file` and strangers can tell

# Version 1. `STRICT` refuses a value of the wrong type on the way in. The index is partial
# and covering: heads, floors and density are answered without touching a batch.
_CREATE = (
    """CREATE TABLE log(
        ordinal INTEGER PRIMARY KEY,
        replica INTEGER NOT NULL,
        first_sequence INTEGER NOT NULL,
        last_sequence INTEGER NOT NULL,
        arrived_at_us INTEGER NOT NULL,
        kind INTEGER NOT NULL,
        seal INTEGER NOT NULL,
        digest BLOB NOT NULL,
        data BLOB NOT NULL) STRICT""",
    """CREATE INDEX log_by_sequence ON log(replica, last_sequence, first_sequence)
        WHERE kind = 0""",
    """CREATE TABLE metadata(
        name TEXT PRIMARY KEY,
        value BLOB NOT NULL,
        seal INTEGER NOT NULL) STRICT, WITHOUT ROWID""",
    """CREATE TABLE floor(
        replica INTEGER PRIMARY KEY,
        sync_floor INTEGER NOT NULL,
        history_floor INTEGER NOT NULL) STRICT""",
    """CREATE TABLE checkpoint(
        id INTEGER PRIMARY KEY,
        state INTEGER NOT NULL,
        after_ordinal INTEGER NOT NULL,
        chunk_count INTEGER NOT NULL,
        header BLOB NOT NULL,
        seal BLOB NOT NULL) STRICT""",
    """CREATE TABLE chunk(
        position INTEGER PRIMARY KEY,
        digest BLOB NOT NULL,
        data BLOB NOT NULL) STRICT""",
    """CREATE TABLE quarantine(
        id INTEGER PRIMARY KEY,
        reason TEXT NOT NULL,
        ordinal ANY, replica ANY, first_sequence ANY, last_sequence ANY,
        arrived_at_us ANY, kind ANY, seal ANY, digest ANY, data ANY) STRICT""",
)

MIGRATIONS: tuple[tuple[str, ...], ...] = (_CREATE,)
FORMAT_VERSION = len(MIGRATIONS)

RECORD_COLUMNS = (
    "ordinal, replica, first_sequence, last_sequence, arrived_at_us, kind, seal, digest, data"
)

# WAL bytes from which on it is moved, when nothing else is to be done, and in any case. The
# latter bounds what an open after a crash has to read again.
_SETTLE_IDLE_BYTES = 1 << 20
_SETTLE_AFTER_BYTES = 16 << 20
_WAL_LIMIT_BYTES = 64 << 20  # what the WAL file may keep of the device after a burst
_CACHE_KIB = 8 << 10
_COMMIT_OVERHEAD_BYTES = 12 << 10  # three pages: the leaf, the index leaf, a page partly filled
_SIGN = 1 << 63


def signed(replica: int) -> int:
    """An unsigned 64-bit replica id as SQLite holds it."""
    return replica - (1 << 64) if replica >= _SIGN else replica


def unsigned(stored: int) -> int:
    """The inverse of ``signed``."""
    return stored + (1 << 64) if stored < 0 else stored


def typed(row: Sequence[Any], types: tuple[type, ...], what: str) -> Sequence[Any]:
    """``row``, if its values have these types. Raises ``StoreCorrupt``.

    A damaged page can put anything anywhere, and SQLite checks types only on the way in.
    """
    if not all(map(isinstance, row, types)):
        raise StoreCorrupt(
            f"a row of {what} is damaged",
            hint="keep the files; restore a backup, or start on an empty path and refetch",
        )
    return row


def row_of(record: LogRecord) -> tuple[Any, ...]:
    """The values of ``RECORD_COLUMNS`` for a record, sealed."""
    return (
        record.ordinal,
        signed(record.replica),
        record.first_sequence,
        record.last_sequence,
        record.arrived_at_us,
        record.kind,
        seal_of(record),
        record.digest,
        record.data,
    )


def record_of(row: Sequence[Any]) -> tuple[LogRecord, int]:
    """The record in a row of ``RECORD_COLUMNS``, and the seal it must pass; unverified."""
    ordinal, replica, first, last, arrived_at_us, kind, seal, digest, data = row
    if not (isinstance(replica, int) and isinstance(data, bytes) and isinstance(seal, int)):
        # Such a record passes no seal: it stands for the damage in its place.
        return LogRecord(0, 0, 0, b"", b"", ordinal, 0, kind), -1
    record = LogRecord(unsigned(replica), first, last, digest, data, ordinal, arrived_at_us, kind)
    return record, seal


def metadata_seal(name: str, value: bytes) -> int:
    """CRC-32 over a metadata name, a zero byte and the value."""
    return zlib.crc32(value, zlib.crc32(name.encode() + b"\0"))


def wal_path(database: Path) -> Path:
    """Where SQLite keeps the write-ahead log of ``database``."""
    return database.with_name(database.name + "-wal")


class Database:
    """A connection with our settings. Methods raise ``sqlite3.Error`` untranslated."""

    def __init__(self, path: Path, *, read_only: bool) -> None:
        """Open the existing file ``path`` (maybe empty) and bring its schema up to date.

        Raises also ``StoreVersion`` and ``StoreCorrupt``.
        """
        self.path = path
        self.read_only = read_only
        self.unsettled_bytes = 0
        self._relaxed = False
        self.connection = sqlite3.connect(
            self._uri(), uri=True, timeout=0.0, isolation_level=None, check_same_thread=False
        )
        try:
            self._configure()
            self._check_application()
            self._migrate()
        except BaseException:
            self.connection.close()
            raise

    def _uri(self) -> str:
        base = self.path.absolute().as_uri()
        if not self.read_only:
            return f"{base}?mode=rw"
        wal = wal_path(self.path)
        # Without a WAL nothing is in flight, and `immutable` needs no writable directory.
        in_flight = wal.exists() and wal.stat().st_size > 0
        return f"{base}?mode=ro" if in_flight else f"{base}?mode=ro&immutable=1"

    def _configure(self) -> None:
        run = self.connection.execute
        if not self.read_only:
            # First of all: whatever reads the file before this makes a shared memory file.
            run("PRAGMA locking_mode = EXCLUSIVE")
        run("PRAGMA mmap_size = 0")
        run(f"PRAGMA cache_size = -{_CACHE_KIB}")
        run("PRAGMA temp_store = MEMORY")
        run("PRAGMA trusted_schema = OFF")
        if self.read_only:
            run("PRAGMA query_only = ON")
            return
        (mode,) = run("PRAGMA journal_mode = WAL").fetchone()
        if mode != "wal":
            raise StoreFailed(f"{self.path} cannot use a write-ahead log (mode {mode})")
        run("PRAGMA synchronous = FULL")
        run("PRAGMA wal_autocheckpoint = 0")
        run(f"PRAGMA journal_size_limit = {_WAL_LIMIT_BYTES}")

    def _check_application(self) -> None:
        (application,) = self.connection.execute("PRAGMA application_id").fetchone()
        (objects,) = self.connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        if application != APPLICATION_ID and objects:
            raise StoreCorrupt(
                f"{self.path} is an SQLite database, but not a crdtmem store",
                hint="give another path; this file was not changed",
            )

    def _migrate(self) -> None:
        (version,) = self.connection.execute("PRAGMA user_version").fetchone()
        if version > len(MIGRATIONS):
            raise StoreVersion(
                f"{self.path} has store format {version}; this program reads up to "
                f"{len(MIGRATIONS)}",
                hint="run the newer crdtmem that wrote it; formats do not go back",
                found=version,
                supported=len(MIGRATIONS),
            )
        if self.read_only:
            if version < len(MIGRATIONS):
                raise StoreReadOnly(
                    f"{self.path} has store format {version} and cannot be migrated read-only",
                    hint="open it once for writing",
                )
            return
        for step in range(version, len(MIGRATIONS)):
            with self.transaction():
                for statement in MIGRATIONS[step]:
                    self.connection.execute(statement)
                self.connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                self.connection.execute(f"PRAGMA user_version = {step + 1}")

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """All rows of a query."""
        return self.connection.execute(sql, parameters).fetchall()

    def value(self, sql: str, parameters: Sequence[Any] = ()) -> Any:
        """The first column of the first row, or ``None`` without a row."""
        row = self.connection.execute(sql, parameters).fetchone()
        return None if row is None else row[0]

    def pages(
        self, columns: str, table: str, key: str, after: int, size: int
    ) -> Iterator[list[tuple[Any, ...]]]:
        """Rows of ``table`` with ``key`` above ``after``, ascending, ``size`` at a time.

        ``key`` is the first of ``columns``. No cursor is held between pages, so the table
        may change meanwhile.
        """
        sql = f"SELECT {columns} FROM {table} WHERE {key} > ? ORDER BY {key} LIMIT {size}"
        while page := self.rows(sql, (after,)):
            yield page
            after = page[-1][0]

    def insert_records(self, records: Iterable[LogRecord]) -> None:
        """Insert into the log, inside a transaction."""
        self.connection.executemany(
            f"INSERT INTO log({RECORD_COLUMNS}) VALUES (?,?,?,?,?,?,?,?,?)", map(row_of, records)
        )

    def put_metadata(self, items: Iterable[tuple[str, bytes | None]]) -> None:
        """Set or delete rows of the metadata table, inside a transaction."""
        for name, value in items:
            if value is None:
                self.connection.execute("DELETE FROM metadata WHERE name = ?", (name,))
            else:
                self.connection.execute(
                    "INSERT OR REPLACE INTO metadata(name, value, seal) VALUES (?, ?, ?)",
                    (name, value, metadata_seal(name, value)),
                )

    def get_metadata(self) -> dict[str, bytes]:
        """The whole metadata table, verified. Raises ``StoreCorrupt``."""
        found: dict[str, bytes] = {}
        for row in self.rows("SELECT name, value, seal FROM metadata"):
            name, value, seal = typed(row, (str, bytes, int), "metadata")
            if metadata_seal(name, value) != seal:
                raise StoreCorrupt(
                    f"metadata {name!r} of {self.path} fails its checksum",
                    hint="restore a backup, or start on an empty path and refetch from peers",
                )
            found[name] = value
        return found

    @contextmanager
    def transaction(self, *, durable: bool = True, payload_bytes: int = 0) -> Iterator[None]:
        """Run a block in one transaction, fsynced at its commit if ``durable``.

        Anything raised rolls it back. ``payload_bytes`` is what it will add to the WAL.
        """
        if self._relaxed == durable:
            level = "FULL" if durable else "NORMAL"
            self.connection.execute(f"PRAGMA synchronous = {level}")
            self._relaxed = not durable
        self.connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self.connection.execute("COMMIT")
        except BaseException:
            # SQLite may have rolled back by itself. If this fails too, the connection is
            # beyond use, and the error under way already says so.
            with contextlib.suppress(sqlite3.Error):
                if self.connection.in_transaction:
                    self.connection.execute("ROLLBACK")
            raise
        self.unsettled_bytes += payload_bytes + _COMMIT_OVERHEAD_BYTES

    @property
    def needs_settling(self) -> bool:
        """Whether enough lies in the WAL to be moved into the main file."""
        return self.unsettled_bytes >= _SETTLE_AFTER_BYTES

    @property
    def may_settle(self) -> bool:
        """Whether enough lies in the WAL to be moved when there is time."""
        return self.unsettled_bytes >= _SETTLE_IDLE_BYTES

    def settle(self) -> None:
        """Move the WAL into the main file, both fsynced, so that the WAL starts over.

        Raises ``StoreFailed`` if something holds the WAL back.
        """
        busy, in_wal, moved = self.connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        if busy or in_wal != moved:
            raise StoreFailed(f"only {moved} of {in_wal} pages left the write-ahead log")
        self.unsettled_bytes = 0

    def close(self) -> None:
        """Close the connection; SQLite settles and removes the WAL if it can."""
        self.connection.close()
