"""The default engine: one SQLite file, one connection, one lock.

Problem and idea are in ``base``; this module only puts the parts together and keeps
the rule of failure in one place, ``_guard``: whatever may have left a commit in doubt
breaks the store, and a broken store does nothing but close and reopen.

The order within ``sync`` is the promise: the commit is fsynced, then the mark is
written, then the store answers. What follows the commit (the mark, moving the WAL into
the main file) cannot undo it; so its failure does not fail that ``sync`` but breaks
the store for the next one.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from crdtmem.errors import Closed, InvalidValue, StoreError, StoreFailed, StoreFull, StoreReadOnly
from crdtmem.store.base import (
    RESERVED_PREFIX,
    BatchRecord,
    BootReport,
    Checkpoint,
    LogRecord,
    Progress,
    VerifyReport,
)
from crdtmem.store.continuity import Fingerprint, Mark, MarkFile, Position
from crdtmem.store.failures import IO_ERRORS, again, store_error, translated
from crdtmem.store.files import StoreLock
from crdtmem.store.pending import Pending, corrupt_record
from crdtmem.store.sqlite_backup import write_backup
from crdtmem.store.sqlite_checkpoint import SqliteCheckpoints, SqliteCheckpointWriter
from crdtmem.store.sqlite_database import Database, wal_path
from crdtmem.store.sqlite_log import SqliteLog
from crdtmem.store.sqlite_recovery import (
    BOOT,
    REVISION,
    Booted,
    boot_writer,
    inspect_reader,
    prepare_files,
)
from crdtmem.store.sqlite_verify import verify_store

__all__ = ["SqliteStore"]

_SYNC, _HISTORY = 0, 1


class SqliteStore:
    """See ``Store`` for what every method means."""

    def __init__(self, url: str, path: Path, *, read_only: bool = False) -> None:
        """Lock and open the store at ``path``, creating the file (not its directory).

        Raises ``StoreLocked``, ``StoreReadOnly``, ``StoreFull``, ``StoreVersion``,
        ``StoreCorrupt`` or ``StoreFailed``.
        """
        self.url = url
        # Resolved once: SQLite keeps its WAL beside the real file, not beside a link to it,
        # and a relative path must mean the same after the process changed its directory.
        self.path = path = path.resolve()
        self.read_only = read_only
        self.broken: StoreError | None = None
        self._closed = False
        self._writer: SqliteCheckpointWriter | None = None
        if path.is_dir():
            raise StoreFailed(f"{path} is a directory", hint="name a file in it as the store")
        if read_only and not path.exists():
            raise StoreFailed(f"there is no store at {path}", hint="check the path")
        self._lock = StoreLock(path.with_name(path.name + "-lock"), shared=read_only)
        try:
            with translated("opening", str(path)):
                self._open()
        except BaseException:
            self._lock.release()
            raise

    def _open(self) -> None:
        self._mark_file = self._open_mark()
        try:
            here = prepare_files(self.path, self._mark_file, read_only=self.read_only)
            self._database = Database(self.path, read_only=self.read_only)
        except BaseException:
            self._close_mark()
            raise
        try:
            self._log = SqliteLog(self._database)
            self._checkpoints = SqliteCheckpoints(self._database, self._guard)
            booted = self._boot(here)
        except BaseException:
            self._database.close()
            self._close_mark()
            raise
        self.boot: BootReport = booted.report
        self._state = booted.state
        self._position = booted.position
        self._mark: Mark | None = None if self.read_only else booted.mark
        self._pending = Pending(self._log.heads(), booted.position.ordinal)

    def _open_mark(self) -> MarkFile | None:
        path = self.path.with_name(self.path.name + "-mark")
        if self.read_only and not path.exists():
            return None
        return MarkFile(path, read_only=self.read_only)

    def _boot(self, here: Fingerprint) -> Booted:
        if not self.read_only and self._mark_file is not None:
            return boot_writer(self._database, self._log, self._checkpoints, self._mark_file, here)
        mark = self._mark_file.read() if self._mark_file else None
        return inspect_reader(self._database, self._log, self._checkpoints, mark, here)

    # -- writing ---------------------------------------------------------------

    def append(self, records: Sequence[BatchRecord], *, arrived_at_us: int) -> None:
        """Add batches to the open transaction."""
        self._require_writable()
        self._pending.append(records, arrived_at_us)

    def append_marker(self, data: bytes, *, arrived_at_us: int) -> None:
        """Add a snapshot marker to the open transaction."""
        self._require_writable()
        self._pending.append_marker(data, arrived_at_us)

    def put_metadata(self, items: Mapping[str, bytes | None]) -> None:
        """Set or delete metadata in the open transaction."""
        self._require_writable()
        self._pending.put_metadata(items)

    def claim_identity(self) -> None:
        """Settle, with the open transaction, the identity that is owed."""
        self._require_writable()
        self._pending.claims_identity = True

    def sync(self) -> None:
        """Make the open transaction durable."""
        self._require_writable()
        pending = self._pending
        if not pending:
            return
        position = Position(pending.last_ordinal, self._position.revision)
        state = self._state
        metadata = dict(pending.metadata)
        if pending.claims_identity:
            state = replace(state, owed="")
            metadata[BOOT] = state.encode()
        if metadata:
            position = replace(position, revision=position.revision + 1)
            metadata[REVISION] = b"%d" % position.revision
        payload_bytes = sum(len(record.data) for record in pending.records)
        try:
            with self._database.transaction(payload_bytes=payload_bytes):
                self._database.insert_records(pending.records)
                self._database.put_metadata(metadata.items())
        except IO_ERRORS as error:
            self._break(store_error(error, "committing", str(self.path)))
        self._position = position
        self._state = state
        pending.committed()
        self._after_commit(settled=self._database.needs_settling)

    def tidy(self) -> None:
        """Move the WAL into the main file before a ``sync`` has to."""
        self._require_usable()
        if not self.read_only and self._database.may_settle:
            self._after_commit(settled=True)

    def _after_commit(self, *, settled: bool) -> None:
        """What follows a commit without being part of it; see the module's docstring."""
        try:
            if settled:
                self._database.settle()
            if self._mark_file is not None and self._mark is not None:
                changes = {"settled": self._position.ordinal} if settled else {}
                self._mark = self._mark_file.advance(
                    self._mark, durable=settled, position=self._position, **changes
                )
        except (*IO_ERRORS, StoreError) as error:
            self.broken = store_error(error, "settling after a commit", str(self.path))

    def reopen(self) -> None:
        """Close and open again under the same lock."""
        self._require_open()
        self._release_connection()
        self._close_mark()
        try:
            with translated("reopening", str(self.path)):
                self._open()
        except StoreError as error:
            self.broken = error
            raise
        self.broken = None

    # -- reading ---------------------------------------------------------------

    def metadata(self) -> dict[str, bytes]:
        """All durable metadata of the caller."""
        with self._guard("reading metadata"):
            found = self._database.get_metadata()
        return {
            name: value for name, value in found.items() if not name.startswith(RESERVED_PREFIX)
        }

    def last_ordinal(self) -> int:
        """The highest durable ordinal ever given out."""
        self._require_usable()
        return self._position.ordinal

    def heads(self) -> dict[int, int]:
        """Replica -> highest sequence held or cut."""
        with self._guard("reading the log"):
            return self._log.heads()

    def floors(self) -> dict[int, int]:
        """Replica -> lowest sequence that ``read`` serves."""
        with self._guard("reading the log"):
            return self._log.floors(_SYNC)

    def history_floors(self) -> dict[int, int]:
        """Replica -> lowest sequence that ``read_history`` serves."""
        with self._guard("reading the log"):
            return self._log.floors(_HISTORY)

    def read(
        self,
        replica: int,
        from_sequence: int,
        *,
        limit_bytes: int,
        through_sequence: int | None = None,
    ) -> list[LogRecord]:
        """Batches from the sync log, dense and verified."""
        with self._guard("reading the log"):
            return self._log.read(
                replica,
                from_sequence,
                which=_SYNC,
                limit_bytes=limit_bytes,
                through=through_sequence,
            )

    def read_history(
        self,
        replica: int,
        from_sequence: int,
        *,
        limit_bytes: int,
        through_sequence: int | None = None,
    ) -> list[LogRecord]:
        """Batches from the history, dense and verified."""
        with self._guard("reading the history"):
            return self._log.read(
                replica,
                from_sequence,
                which=_HISTORY,
                limit_bytes=limit_bytes,
                through=through_sequence,
            )

    def replay(self, *, after_ordinal: int) -> Iterator[LogRecord]:
        """Every record after an ordinal, verified."""
        with self._guard("replaying the log"):
            for record, sound in self._log.walk(after_ordinal):
                if not sound:
                    raise corrupt_record(record, str(self.path))
                yield record

    # -- keeping in shape ------------------------------------------------------

    def quarantine_after(self, ordinal: int, reason: str) -> int:
        """Set a bad tail aside and owe an identity."""
        self._require_writable()
        if ordinal < self._checkpoints.covered_ordinal:
            raise InvalidValue(
                f"a whole checkpoint covers the log up to {self._checkpoints.covered_ordinal}",
                hint="recover from that checkpoint; only the log after it can be cut",
            )
        if self._pending:
            raise InvalidValue("the open transaction must be synced before the log is cut")
        state = replace(self._state, owed=reason)
        with self._guard("setting a tail aside"), self._database.transaction():
            moved = self._log.set_aside(ordinal, reason)
            self._database.put_metadata([(BOOT, state.encode())])
        self._state = state
        self.boot = replace(self.boot, continuous=False, reason=reason)
        self._pending = Pending(self._log.heads(), self._position.ordinal)
        return moved

    def divert(self, replica: int, above_sequence: int) -> int:
        """Set one replica's batches beyond a sequence aside."""
        self._require_writable()
        self._require_no_checkpoint()
        if self._pending:
            raise InvalidValue("the open transaction must be synced before batches are diverted")
        with self._guard("setting batches aside"):
            moved = self._log.divert(replica, above_sequence)
            self._pending = Pending(self._log.heads(), self._position.ordinal)
        return moved

    def drop_checkpoints(self) -> None:
        """Give every checkpoint up."""
        self._require_writable()
        self._require_no_checkpoint()
        with self._guard("dropping the checkpoints"):
            self._checkpoints.drop_all()

    def quarantined(self) -> Iterator[LogRecord]:
        """What was set aside, unverified."""
        with self._guard("reading the quarantine"):
            yield from self._log.quarantined()

    def begin_checkpoint(self, header: bytes) -> SqliteCheckpointWriter:
        """Start a checkpoint of the state as of ``last_ordinal()``."""
        self._require_writable()
        self._require_no_checkpoint()
        with self._guard("beginning a checkpoint"):
            self._writer = self._checkpoints.begin(header, self._position.ordinal)
        return self._writer

    def checkpoint(self) -> Checkpoint | None:
        """The newest whole checkpoint that verified."""
        self._require_usable()
        return self._checkpoints.current

    def cut_sync_log(self, replica: int, below_sequence: int) -> int:
        """Raise the sync floor."""
        return self._cut(replica, below_sequence, _SYNC)

    def cut_history(self, replica: int, below_sequence: int) -> int:
        """Raise the history floor."""
        return self._cut(replica, below_sequence, _HISTORY)

    def _cut(self, replica: int, below_sequence: int, which: int) -> int:
        self._require_writable()
        with self._guard("cutting the log"):
            return self._log.cut(
                replica, below_sequence, which=which, covered=self._checkpoints.covered_ordinal
            )

    def verify(
        self,
        *,
        previous_of: Callable[[bytes], bytes | None] | None = None,
        progress: Progress | None = None,
    ) -> VerifyReport:
        """Read and check everything."""
        self._require_usable()
        return verify_store(self._database, self._log, self._checkpoints, previous_of, progress)

    def backup(self, path: str, *, progress: Progress | None = None) -> None:
        """Write a consistent copy."""
        with self._guard("writing a backup"):
            write_backup(self._database, Path(path), progress)

    def size_bytes(self) -> int:
        """Bytes of the database, its WAL and its mark."""
        with self._guard("measuring"):
            mark = self.path.with_name(self.path.name + "-mark")
            files = (self.path, wal_path(self.path), mark)
            return sum(file.stat().st_size for file in files if file.exists())

    def close(self) -> None:
        """Close, marking a clean end unless the store is broken."""
        if self._closed:
            return
        self._closed = True
        try:
            with translated("closing", str(self.path)):
                self._release_connection()
                if self._mark is not None and self.broken is None and self._mark_file is not None:
                    self._mark_file.advance(
                        self._mark,
                        durable=True,
                        clean=True,
                        position=self._position,
                        settled=self._position.ordinal,
                    )
        finally:
            self._close_mark()
            self._lock.release()

    # -- the rule of failure ---------------------------------------------------

    @contextmanager
    def _guard(self, doing: str) -> Iterator[None]:
        """Refuse work on a broken store; translate failures, and break on a doubtful one.

        A full disk is not doubtful outside ``sync``: SQLite rolled back, nothing was
        acknowledged, and the log can still be served.
        """
        self._require_usable()
        try:
            yield
        except IO_ERRORS as error:
            failure = store_error(error, doing, str(self.path))
            if isinstance(failure, StoreFull | StoreReadOnly):
                raise failure from error
            self._break(failure)
        if not self.read_only and self._database.needs_settling:
            self._after_commit(settled=True)

    def _break(self, failure: StoreError) -> None:
        self.broken = failure
        raise failure

    def _require_open(self) -> None:
        if self._closed:
            raise Closed(f"the store {self.url} is closed")

    def _require_usable(self) -> None:
        self._require_open()
        if self.broken is not None:
            raise again(self.broken)

    def _require_writable(self) -> None:
        self._require_usable()
        if self.read_only:
            raise StoreReadOnly(f"{self.path} was opened read-only", hint="open it for writing")

    def _require_no_checkpoint(self) -> None:
        if self._writer is not None and self._writer.open:
            raise InvalidValue("a checkpoint is already being written", hint="commit or abort it")

    def _release_connection(self) -> None:
        if self._writer is not None:
            self._writer.open = False
        # SQLite settles the WAL here if it can. If it cannot, the WAL stays, and holds all.
        with suppress(sqlite3.Error):
            self._database.close()

    def _close_mark(self) -> None:
        if self._mark_file is not None:
            self._mark_file.close()
