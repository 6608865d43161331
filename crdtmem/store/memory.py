"""The engine for tests and simulations: a store on a disk that is an object.

Problem: a simulation needs a disk that can lose, tear, roll back, copy and refuse,
at exact moments and the same way for the same seed; and the store on top of it must
behave like the real one, or the simulation proves nothing.

Idea: ``MemoryDisk`` (in ``memory_disk``) is what survives a crash, ``MemoryStore`` a
process that has it open; ``crash`` ends that process without closing anything. It
shares with SQLite everything that decides: numbering, gaps, the mark, its judgement.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from hashlib import blake2b

from crdtmem.errors import Closed, InvalidValue, StoreError, StoreLocked, StoreReadOnly
from crdtmem.store.base import (
    KIND_BATCH,
    MAX_SEQUENCE,
    BatchRecord,
    BootReport,
    Checkpoint,
    LogRecord,
    Progress,
    VerifyReport,
    content_digest,
)
from crdtmem.store.continuity import (
    FRESH,
    TOKEN_BYTES,
    BootState,
    Fingerprint,
    Mark,
    Position,
    judge,
)
from crdtmem.store.failures import again
from crdtmem.store.memory_disk import FaultPlan, MemoryDisk, SavedCheckpoint
from crdtmem.store.pending import Pending, corrupt_record, dense_run, exact_position
from crdtmem.store.verify import RecordCheck, no_progress

__all__ = ["FaultPlan", "MemoryCheckpointWriter", "MemoryDisk", "MemoryStore", "open_memory_store"]

_SYNC, _HISTORY = 0, 1
_named: dict[str, MemoryDisk] = {}


def open_memory_store(
    disk: str | MemoryDisk | None = None,
    *,
    faults: FaultPlan | None = None,
    read_only: bool = False,
) -> MemoryStore:
    """Open a disk: by name (shared within the process), given, or, with ``None``, a new one.

    Raises ``StoreLocked`` while another store holds it.
    """
    if isinstance(disk, str):
        url = f"memory:{disk}"
        return MemoryStore(url, _named.setdefault(disk, MemoryDisk()), faults, read_only=read_only)
    return MemoryStore("memory:", disk or MemoryDisk(), faults, read_only=read_only)


class MemoryStore:
    """See ``Store`` for what every method means."""

    def __init__(
        self, url: str, disk: MemoryDisk, faults: FaultPlan | None = None, *, read_only: bool
    ) -> None:
        if disk.holder is not None and not read_only:
            raise StoreLocked(f"{url} is held by another store", hint="close or crash it first")
        self.url = url
        self.disk = disk
        self.faults = faults or FaultPlan()
        self.read_only = read_only
        self.broken: StoreError | None = None
        self._closed = False
        self._writer: MemoryCheckpointWriter | None = None
        if not read_only:
            disk.holder = self
        self._open()

    def _open(self) -> None:
        disk = self.disk
        here = Fingerprint(machine="memory", inode=disk.inode, mark_inode=disk.inode)
        verdict = judge(disk.state, disk.mark, here, disk.position)
        reason, cut = verdict.reason, verdict.lost_records
        sound = [saved for saved in disk.checkpoints if saved.is_sound]
        # Up to its position a checkpoint stands for the log.
        settled = max(
            disk.mark.settled if disk.mark else 0, sound[-1].after_ordinal if sound else 0
        )
        torn = next((r.ordinal for r in disk.after(settled) if not _sound(r)), None)
        if torn is not None:
            said = f"the tail of the log fails its checksums from record {torn}"
            reason = f"{reason}; {said}" if reason else said
            cut += len(disk.after(torn - 1))
        damaged = len(disk.checkpoints) - len(sound)
        self.boot = BootReport(
            fresh=reason == FRESH and not disk.position.ordinal,
            continuous=not reason,
            reason=reason,
            boot=disk.state.boot,
            clean=disk.mark is not None and disk.mark.clean,
            cut_records=cut,
            damage=(f"{damaged} damaged checkpoints were dropped",) if damaged else (),
        )
        if not self.read_only:
            disk.checkpoints = sound
            if torn is not None:
                self.disk.set_aside(torn - 1)
            self._boot(here, reason)
        self._pending = Pending(self.heads(), disk.position.ordinal)

    def _boot(self, here: Fingerprint, reason: str) -> None:
        disk = self.disk
        boot = max(disk.state.boot, disk.mark.boot if disk.mark else 0) + 1
        seen = disk.mark.position.ordinal if disk.mark else 0
        disk.position = replace(disk.position, ordinal=max(disk.position.ordinal, seen))
        # Two opens never share a token, though an older content counts its boots again.
        disk.opens += 1
        source = f"{disk.inode}/{disk.opens}".encode()
        token = blake2b(source, digest_size=TOKEN_BYTES).digest()
        disk.state = BootState(boot=boot, token=token, fingerprint=here, owed=reason)
        disk.mark = Mark(0, boot, token, token, disk.position, disk.position.ordinal, clean=False)
        self.boot = replace(self.boot, boot=boot)

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
        """Make the open transaction durable, unless a fault is due."""
        self._require_writable()
        if not self._pending:
            return
        fault = self.faults.next_sync()
        if fault is None or fault[1]:
            self._commit()
        if fault is not None:
            self.broken = fault[0]
            raise again(fault[0])
        self._pending.committed()

    def _commit(self) -> None:
        disk, pending = self.disk, self._pending
        disk.records.extend(pending.records)
        for name, value in pending.metadata.items():
            if value is None:
                disk.metadata.pop(name, None)
            else:
                disk.metadata[name] = value
        if pending.claims_identity:
            disk.state = replace(disk.state, owed="")
        changed = bool(pending.metadata or pending.claims_identity)
        disk.position = Position(pending.last_ordinal, disk.position.revision + changed)
        if disk.mark is not None:
            # Field by field, as each commit does it: ``replace`` takes six times as long.
            mark, position = disk.mark, disk.position
            disk.mark = Mark(
                mark.generation,
                mark.boot,
                mark.token,
                mark.next_token,
                position,
                mark.settled,
                mark.clean,
            )

    def tidy(self) -> None:
        """Nothing is put off here."""
        self._require_usable()

    def reopen(self) -> None:
        """Open the disk again, unless a fault is due."""
        self._require_open()
        if self.faults.reopens:
            self.broken = self.faults.reopens.popleft()
            raise again(self.broken)
        self._forget_writer()
        self.broken = None
        self._open()

    # -- reading ---------------------------------------------------------------

    def metadata(self) -> dict[str, bytes]:
        """All durable metadata."""
        self._require_usable()
        return dict(self.disk.metadata)

    def last_ordinal(self) -> int:
        """The highest durable ordinal ever given out."""
        self._require_usable()
        return self.disk.position.ordinal

    def heads(self) -> dict[int, int]:
        """Replica -> highest sequence held or cut."""
        self._require_usable()
        found = {replica: max(floors) - 1 for replica, floors in self.disk.floors.items()}
        for record in self.disk.records:
            if record.kind == KIND_BATCH:
                found[record.replica] = max(record.last_sequence, found.get(record.replica, 0))
        return found

    def floors(self) -> dict[int, int]:
        """Replica -> lowest sequence that ``read`` serves."""
        return self._floors(_SYNC)

    def history_floors(self) -> dict[int, int]:
        """Replica -> lowest sequence that ``read_history`` serves."""
        return self._floors(_HISTORY)

    def _floors(self, which: int) -> dict[int, int]:
        self._require_usable()
        found = {replica: floors[which] for replica, floors in self.disk.floors.items()}
        for record in self.disk.records:
            if record.kind == KIND_BATCH:
                found.setdefault(record.replica, record.first_sequence)
        return found

    def read(
        self,
        replica: int,
        from_sequence: int,
        *,
        limit_bytes: int,
        through_sequence: int | None = None,
    ) -> list[LogRecord]:
        """Batches from the sync log, dense and verified."""
        return self._read(replica, from_sequence, _SYNC, limit_bytes, through_sequence)

    def read_history(
        self,
        replica: int,
        from_sequence: int,
        *,
        limit_bytes: int,
        through_sequence: int | None = None,
    ) -> list[LogRecord]:
        """Batches from the history, dense and verified."""
        return self._read(replica, from_sequence, _HISTORY, limit_bytes, through_sequence)

    def _read(
        self, replica: int, from_sequence: int, which: int, limit_bytes: int, through: int | None
    ) -> list[LogRecord]:
        self._require_usable()
        last = MAX_SEQUENCE if through is None else through
        return dense_run(
            (
                _verified(record, self.url)
                for record in self.disk.batches(replica)
                if record.last_sequence >= from_sequence and record.first_sequence <= last
            ),
            replica,
            from_sequence,
            floor=self.disk.floors.get(replica, (0, 0))[which],
            limit_bytes=limit_bytes,
        )

    def replay(self, *, after_ordinal: int) -> Iterator[LogRecord]:
        """Every record after an ordinal, verified."""
        self._require_usable()
        for record in self.disk.after(after_ordinal):
            yield _verified(record, self.url)

    # -- keeping in shape ------------------------------------------------------

    def quarantine_after(self, ordinal: int, reason: str) -> int:
        """Set a bad tail aside and owe an identity."""
        self._require_writable()
        if self._pending:
            raise InvalidValue("the open transaction must be synced before the log is cut")
        if ordinal < self.disk.covered():
            raise InvalidValue(f"a whole checkpoint covers the log up to {self.disk.covered()}")
        moved = self.disk.set_aside(ordinal)
        self.disk.state = replace(self.disk.state, owed=reason)
        self.boot = replace(self.boot, continuous=False, reason=reason)
        self._pending = Pending(self.heads(), self.disk.position.ordinal)
        return moved

    def divert(self, replica: int, above_sequence: int) -> int:
        """Set one replica's batches beyond a sequence aside."""
        self._require_writable()
        self._require_no_checkpoint()
        if self._pending:
            raise InvalidValue("the open transaction must be synced before batches are diverted")
        moved = self.disk.divert(replica, above_sequence)
        self._pending = Pending(self.heads(), self.disk.position.ordinal)
        return moved

    def drop_checkpoints(self) -> None:
        """Give every checkpoint up."""
        self._require_writable()
        self._require_no_checkpoint()
        self.disk.checkpoints = []

    def quarantined(self) -> Iterator[LogRecord]:
        """What was set aside, unverified."""
        self._require_usable()
        yield from list(self.disk.quarantine)

    def begin_checkpoint(self, header: bytes) -> MemoryCheckpointWriter:
        """Start a checkpoint of the state as of ``last_ordinal()``."""
        self._require_writable()
        self._require_no_checkpoint()
        del self.disk.checkpoints[:-1]
        self._writer = MemoryCheckpointWriter(self, header, self.disk.position.ordinal)
        return self._writer

    def checkpoint(self) -> Checkpoint | None:
        """The newest whole checkpoint."""
        self._require_usable()
        if not self.disk.checkpoints:
            return None
        newest = self.disk.checkpoints[-1]
        return Checkpoint(
            newest.header,
            newest.after_ordinal,
            len(newest.chunks),
            lambda: iter(newest.chunks),
        )

    def cut_sync_log(self, replica: int, below_sequence: int) -> int:
        """Raise the sync floor."""
        return self._cut(replica, below_sequence, _SYNC)

    def cut_history(self, replica: int, below_sequence: int) -> int:
        """Raise the history floor."""
        return self._cut(replica, below_sequence, _HISTORY)

    def _cut(self, replica: int, below: int, which: int) -> int:
        self._require_writable()
        covered = self.disk.covered()
        batches = list(self.disk.batches(replica))
        lowest = batches[0].first_sequence if batches else 0
        floors = self.disk.floors.get(replica, (lowest, lowest))
        if not batches:
            return floors[which]
        kept = (
            b.first_sequence for b in batches if b.last_sequence >= below or b.ordinal > covered
        )
        wanted = max(next(kept, self.heads()[replica] + 1), floors[which])
        raised = (wanted, floors[1]) if which == _SYNC else (floors[0], wanted)
        if raised != floors:
            self.disk.floors[replica] = raised
        self.disk.delete_batches(replica, min(raised))
        return wanted

    def verify(
        self,
        *,
        previous_of: Callable[[bytes], bytes | None] | None = None,
        progress: Progress | None = None,
    ) -> VerifyReport:
        """Check every record and checkpoint."""
        self._require_usable()
        check = RecordCheck(previous_of)
        total = len(self.disk.records)
        tell = progress or no_progress
        check.feed(((record, _sound(record)) for record in self.disk.records), tell, total)
        tell(total, total)
        for saved in self.disk.checkpoints:
            if not saved.is_sound:
                check.report("a checkpoint fails its checksum")
        chunks = sum(len(saved.chunks) for saved in self.disk.checkpoints)
        return check.outcome(chunks=chunks, quarantined=len(self.disk.quarantine))

    def backup(self, path: str, *, progress: Progress | None = None) -> None:
        """Copy the disk to the name ``path``, to be opened as ``memory:path``."""
        self._require_usable()
        if path in _named:
            raise InvalidValue(f"memory:{path} exists", hint="give a new name for the backup")
        copy = MemoryDisk()
        copy.restore(self.disk)
        copy.state = replace(copy.state, is_backup=True)
        _named[path] = copy
        (progress or no_progress)(1, 1)

    def size_bytes(self) -> int:
        """Bytes of data held."""
        self._require_usable()
        chunks = sum(len(chunk) for saved in self.disk.checkpoints for chunk in saved.chunks)
        return chunks + sum(len(record.data) for record in self.disk.records)

    def close(self) -> None:
        """Close, marking a clean end unless the store is broken."""
        disk = self.disk
        if not (self._closed or self.read_only or self.broken) and disk.mark is not None:
            disk.mark = replace(
                disk.mark, position=disk.position, settled=disk.position.ordinal, clean=True
            )
        self.crash()

    def crash(self) -> None:
        """End without closing: what was not synced is gone, and the disk can be opened."""
        self._forget_writer()
        self._closed = True
        if self.disk.holder is self:
            self.disk.holder = None

    # -- helpers ---------------------------------------------------------------

    def _require_no_checkpoint(self) -> None:
        if self._writer is not None and self._writer.open:
            raise InvalidValue("a checkpoint is already being written", hint="commit or abort it")

    def _forget_writer(self) -> None:
        if self._writer is not None:
            self._writer.open = False

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
            raise StoreReadOnly(f"{self.url} was opened read-only", hint="open it for writing")


class MemoryCheckpointWriter:
    """One checkpoint in the making. See ``CheckpointWriter``."""

    def __init__(self, store: MemoryStore, header: bytes, after_ordinal: int) -> None:
        self._store = store
        self._header = header
        self.after_ordinal = after_ordinal
        self._chunks: list[bytes] = []
        self.open = True

    def write(self, chunk: bytes) -> None:
        """Add one chunk."""
        self._require_open()
        self._chunks.append(chunk)

    def commit(self, after_ordinal: int | None = None) -> None:
        """Make it the newest whole checkpoint."""
        self._require_open()
        disk = self._store.disk
        exact = exact_position(self.after_ordinal, after_ordinal, disk.position.ordinal)
        disk.checkpoints.append(SavedCheckpoint.of(self._header, exact, tuple(self._chunks)))
        self.open = False

    def abort(self) -> None:
        """Give it up, unless it was committed or aborted before."""
        self.open = False

    def _require_open(self) -> None:
        if not self.open:
            raise Closed("this checkpoint was committed or aborted, or its store closed")


def _sound(record: LogRecord) -> bool:
    return content_digest(record.data) == record.digest


def _verified(record: LogRecord, url: str) -> LogRecord:
    if not _sound(record):
        raise corrupt_record(record, url)
    return record
