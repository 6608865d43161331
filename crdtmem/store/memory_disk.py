"""What survives a crash in a simulation, and what goes wrong with it.

Faults come in two kinds. What happens *to the disk* is a method of ``MemoryDisk``:
``tear``, ``lose_tail``, ``copy``, ``restore``, ``damage_checkpoint``. What the disk does
*to the process* that has it open is a ``FaultPlan``, given at open.

Nothing here reads a clock or a random source, so equal calls give equal disks.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import count

from crdtmem.errors import StoreError
from crdtmem.store.base import KIND_BATCH, LogRecord, content_digest
from crdtmem.store.continuity import BootState, Mark, Position

__all__ = ["FaultPlan", "MemoryDisk", "SavedCheckpoint"]

_IDENTITIES = count(1)


@dataclass(slots=True)
class FaultPlan:
    """What the disk will do to the process, each fault once and in order.

    A sync fault is (syncs that still succeed before it, error, whether the data survives
    all the same: an ambiguous commit). A reopen fault is an error that ``reopen`` raises.
    """

    syncs: deque[tuple[int, StoreError, bool]] = field(default_factory=deque)
    reopens: deque[StoreError] = field(default_factory=deque)

    def fail_sync(self, error: StoreError, *, after: int = 0, survives: bool = False) -> None:
        """Let a sync raise ``error``, once ``after`` more have succeeded."""
        self.syncs.append((after, error, survives))

    def fail_reopen(self, error: StoreError) -> None:
        """Let the next ``reopen`` raise ``error``."""
        self.reopens.append(error)

    def next_sync(self) -> tuple[StoreError, bool] | None:
        """The fault for the sync under way, if one is due."""
        if not self.syncs:
            return None
        after, error, survives = self.syncs[0]
        if after:
            self.syncs[0] = (after - 1, error, survives)
            return None
        self.syncs.popleft()
        return error, survives


@dataclass(frozen=True, slots=True)
class SavedCheckpoint:
    """A whole checkpoint as it lies on the disk; ``digest`` guards all of it."""

    header: bytes
    after_ordinal: int
    chunks: tuple[bytes, ...]
    digest: bytes

    @classmethod
    def of(cls, header: bytes, after_ordinal: int, chunks: tuple[bytes, ...]) -> SavedCheckpoint:
        """A checkpoint with its digest computed here."""
        digest = cls._digest(header, after_ordinal, chunks)
        return cls(header, after_ordinal, chunks, digest)

    @property
    def is_sound(self) -> bool:
        """Whether it is what was written."""
        return self._digest(self.header, self.after_ordinal, self.chunks) == self.digest

    @staticmethod
    def _digest(header: bytes, after_ordinal: int, chunks: tuple[bytes, ...]) -> bytes:
        lengths = [after_ordinal, len(header), *map(len, chunks)]
        return content_digest(repr(lengths).encode() + header + b"".join(chunks))


@dataclass(slots=True)
class MemoryDisk:
    """What survives a crash. ``inode`` is its place: a copy has another.

    ``opens`` counts the opens for writing in that place, whatever content was put there.
    """

    inode: int = field(default_factory=lambda: next(_IDENTITIES))
    opens: int = 0
    records: list[LogRecord] = field(default_factory=list)
    metadata: dict[str, bytes] = field(default_factory=dict)
    floors: dict[int, tuple[int, int]] = field(default_factory=dict)
    checkpoints: list[SavedCheckpoint] = field(default_factory=list)
    quarantine: list[LogRecord] = field(default_factory=list)
    state: BootState = field(default_factory=BootState)
    position: Position = field(default_factory=Position)
    mark: Mark | None = None
    holder: object | None = None

    def tear(self, records: int = 1) -> None:
        """Damage the data of the last ``records`` records, leaving their digests."""
        for index in range(max(0, len(self.records) - records), len(self.records)):
            record = self.records[index]
            self.records[index] = replace(record, data=record.data[:-1] + b"\xff\x00")

    def damage_checkpoint(self) -> None:
        """Damage the newest checkpoint."""
        newest = self.checkpoints[-1]
        self.checkpoints[-1] = replace(newest, header=newest.header + b"\xff")

    def lose_tail(self, records: int = 1) -> None:
        """Lose acknowledged records, as a disk does that lied about an fsync."""
        del self.records[max(0, len(self.records) - records) :]
        last = self.records[-1].ordinal if self.records else 0
        self.position = replace(self.position, ordinal=last)

    def copy(self) -> MemoryDisk:
        """Another disk with the same content: a copied directory, or a saved state."""
        other = MemoryDisk()
        other._take(self)
        other.mark = self.mark
        return other

    def restore(self, older: MemoryDisk, *, with_mark: bool = False) -> None:
        """Put the content of ``older`` in place; with its mark, as a whole-disk snapshot does."""
        self._take(older)
        if with_mark:
            self.mark = older.mark

    def _take(self, other: MemoryDisk) -> None:
        self.records = list(other.records)
        self.metadata = dict(other.metadata)
        self.floors = dict(other.floors)
        self.checkpoints = list(other.checkpoints)
        self.quarantine = list(other.quarantine)
        self.state = other.state
        self.position = other.position

    def after(self, ordinal: int) -> list[LogRecord]:
        """The records after an ordinal."""
        return self.records[self._index_after(ordinal) :]

    def batches(self, replica: int) -> Iterator[LogRecord]:
        """The batches of one replica."""
        return (r for r in self.records if r.kind == KIND_BATCH and r.replica == replica)

    def set_aside(self, ordinal: int) -> int:
        """Move the records after an ordinal to the quarantine; return how many."""
        moved = self.after(ordinal)
        self.quarantine.extend(moved)
        del self.records[self._index_after(ordinal) :]
        return len(moved)

    def divert(self, replica: int, above: int) -> int:
        """Move the batches of ``replica`` that end above a sequence to the quarantine."""
        moved = [r for r in self.batches(replica) if r.last_sequence > above]
        self.quarantine.extend(moved)
        gone = {record.ordinal for record in moved}
        self.records = [record for record in self.records if record.ordinal not in gone]
        end = min([above + 1, *(record.first_sequence for record in moved)])
        floors = self.floors.get(replica)
        if floors is not None:
            self.floors[replica] = (min(floors[0], end), min(floors[1], end))
        return len(moved)

    def covered(self) -> int:
        """The ordinal up to which every whole checkpoint covers the log."""
        return min((saved.after_ordinal for saved in self.checkpoints), default=0)

    def delete_batches(self, replica: int, below: int) -> None:
        """Delete batches of ``replica`` that end below a sequence, and markers left idle."""
        covered = self.covered()
        kept = [
            record
            for record in self.records
            if record.kind != KIND_BATCH
            or record.replica != replica
            or record.last_sequence >= below
        ]
        first = next((r.ordinal for r in kept if r.kind == KIND_BATCH), covered + 1)
        idle = min(first, covered + 1)
        if len(kept) < len(self.records):
            kept = [r for r in kept if r.kind == KIND_BATCH or r.ordinal >= idle]
        self.records = kept

    def _index_after(self, ordinal: int) -> int:
        return bisect_right(self.records, ordinal, key=lambda record: record.ordinal)
