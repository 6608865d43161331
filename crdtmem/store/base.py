"""The seam between a replica and its disk: one protocol, and the records that cross it.

Problem: everything that a replica promises rests on an fsync that really
happened, and on knowing, after a crash, exactly what survived. Engines differ
(SQLite, process memory, later PostgreSQL); the promise may not.

Idea: a store is an append-only *log* of batches in arrival order, a small
*metadata* map, and at most a few whole *checkpoints* of the state. Writes are
collected and become durable together in ``sync`` (group commit). Everything a
caller can read back is durable: what was appended but not yet synced is
invisible to every reading method, so it can be neither sent nor served.

Invariants, checked by one conformance suite against every engine:

1. ``sync`` returned -> every record and metadata item before it survives any crash.
2. What survives a crash is a prefix of the appended transactions, each whole.
3. Ordinals rise strictly and are never reused, not even for records that were cut.
4. Per replica, sequences rise strictly with ordinals. A gap is legal only where a
   snapshot marker explains it, and no read ever runs across a gap.
5. After a failed ``sync`` nothing is readable or writable until ``reopen``, because
   nobody knows what reached the disk until it is read back.
6. A store whose continuity is not proven says so at every open until the caller has
   durably taken a new identity (``claim_identity``).

All calls block and never overlap: a node runs them in one worker thread.
Group commit after DeWitt et al. 1984; checkpoint plus log after ARIES; "a
failed fsync is not retried" after the PostgreSQL fsync findings of 2018.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Protocol

from crdtmem.errors import StoreError

__all__ = [
    "DIGEST_BYTES",
    "KIND_BATCH",
    "KIND_MARKER",
    "MAX_REPLICA",
    "MAX_SEQUENCE",
    "RESERVED_PREFIX",
    "BatchRecord",
    "BootReport",
    "Checkpoint",
    "CheckpointWriter",
    "LogRecord",
    "Progress",
    "Store",
    "VerifyReport",
    "content_digest",
]

DIGEST_BYTES = 16
KIND_BATCH = 0
KIND_MARKER = 1
MAX_REPLICA = 2**64 - 1
MAX_SEQUENCE = 2**63 - 1
RESERVED_PREFIX = "store."
"""Metadata names under this prefix belong to the engine and are refused from callers."""

Progress = Callable[[int, int], None]
"""Called with (units done, units in total) between steps of long work."""


def content_digest(data: bytes) -> bytes:
    """The first 16 bytes of the SHA-256 of ``data``: what guards it on disk and chains batches."""
    return sha256(data).digest()[:DIGEST_BYTES]


@dataclass(frozen=True, slots=True)
class BatchRecord:
    """One encoded batch of one replica: sequences ``first`` to ``last``, both included.

    ``digest`` must be ``content_digest(data)``. It is trusted on the way in, because
    the batch already carries it for its hash chain, and checked on every way out.
    """

    replica: int
    first_sequence: int
    last_sequence: int
    digest: bytes
    data: bytes

    @classmethod
    def of(cls, replica: int, first_sequence: int, last_sequence: int, data: bytes) -> BatchRecord:
        """A record around ``data`` with its digest computed here."""
        return cls(replica, first_sequence, last_sequence, content_digest(data), data)


@dataclass(frozen=True, slots=True)
class LogRecord(BatchRecord):
    """A batch or a snapshot marker as it lies in the log.

    ``ordinal`` is its place in arrival order. ``arrived_at_us`` is the wall clock at
    arrival, in microseconds, as the caller gave it. ``kind`` is ``KIND_BATCH``, or
    ``KIND_MARKER`` for a record whose data is the caller's own, with replica and
    sequences zero.
    """

    ordinal: int
    arrived_at_us: int
    kind: int


@dataclass(frozen=True, slots=True)
class BootReport:
    """What opening the store found.

    ``continuous`` is the proof of continuity: this is the same store, in the same
    place, with the tail that was acknowledged. When it is false the caller takes a
    new replica id and calls ``claim_identity``; ``reason`` says why, for people.
    ``fresh`` marks a store that never had an identity. ``cut_records`` counts
    acknowledged records that were lost or set aside. ``damage`` lists whatever else
    was found broken and worked around. ``clean`` tells whether the last process
    closed the store. ``boot`` counts the opens for writing.
    """

    fresh: bool
    continuous: bool
    reason: str
    boot: int
    clean: bool
    cut_records: int = 0
    damage: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What a full verification read, and every problem it found, in words."""

    records: int
    record_bytes: int
    markers: int
    chunks: int
    quarantined: int
    problems: tuple[str, ...]

    @property
    def sound(self) -> bool:
        """Whether nothing at all was wrong."""
        return not self.problems


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A whole checkpoint: recovery is its chunks, then the log after ``after_ordinal``.

    It stands on nothing of the log up to there.
    """

    header: bytes
    after_ordinal: int
    chunk_count: int
    read_chunks: Callable[[], Iterator[bytes]] = field(repr=False)

    def chunks(self) -> Iterator[bytes]:
        """The chunks as they were written, each verified. Raises ``StoreCorrupt``."""
        return self.read_chunks()


class CheckpointWriter(Protocol):
    """A checkpoint in the making. It does not exist for recovery until ``commit``.

    Between its calls the store may append and sync freely. ``after_ordinal`` is
    ``last_ordinal()`` as it was at the beginning.
    """

    @property
    def after_ordinal(self) -> int:
        """The position at which it was begun."""

    def write(self, chunk: bytes) -> None:
        """Add one chunk. Not durable by itself. Raises ``StoreError``; then abort."""

    def commit(self, after_ordinal: int | None = None) -> None:
        """Make it, atomically and durably, the newest whole checkpoint.

        ``after_ordinal`` is the position at which its chunks, all of them together, are
        exact: that of its beginning, or a later one, not beyond ``last_ordinal()``.
        Raises ``InvalidValue`` for any other.
        """

    def abort(self) -> None:
        """Forget it. Harmless after ``commit`` or a failure, and when repeated."""


class Store(Protocol):
    """Durability behind one protocol. See the module's invariants.

    Any method may raise ``StoreFailed`` (the disk failed) or ``Closed``; each names
    what else it raises.
    """

    @property
    def url(self) -> str:
        """The URL that opens this store again."""

    @property
    def boot(self) -> BootReport:
        """What the last ``open`` or ``reopen`` found."""

    @property
    def broken(self) -> StoreError | None:
        """The error after which only ``reopen`` and ``close`` are allowed, if any."""

    def append(self, records: Sequence[BatchRecord], *, arrived_at_us: int) -> None:
        """Add batches to the open transaction, all or none.

        Raises ``InvalidValue`` for a malformed record, or one at or below the highest
        sequence that the log has of its replica.
        """

    def append_marker(self, data: bytes, *, arrived_at_us: int) -> None:
        """Add a snapshot marker to the open transaction; ``data`` is opaque."""

    def put_metadata(self, items: Mapping[str, bytes | None]) -> None:
        """Set (or, with ``None``, delete) metadata in the open transaction.

        Raises ``InvalidValue`` for a name under ``RESERVED_PREFIX``.
        """

    def claim_identity(self) -> None:
        """Declare, in the open transaction, that the metadata now names a fresh identity.

        To be called beside the ``put_metadata`` of a new replica id when ``boot`` is not
        continuous. Until it is synced, every later open reports the same again, so that
        a crash in between can never lead back to the old id.
        """

    def sync(self) -> None:
        """Make the open transaction durable: commit and fsync.

        Raises ``StoreFull``, ``StoreReadOnly``, ``StoreFailed`` or ``StoreCorrupt``; the
        transaction is rolled back and the store is ``broken`` until ``reopen``. Even then
        it may have survived: read back what is there.
        """

    def tidy(self) -> None:
        """Do now, while nobody waits, what a later ``sync`` would have to do besides.

        Never needed; changes nothing that can be read. A failure breaks the store for
        what comes next, as one after a commit does.
        """

    def reopen(self) -> None:
        """Close and open again, keeping the lock, and verify as at any open.

        Raises what ``open_store`` raises; the store then stays broken, and ``reopen`` may
        be tried again once the cause is gone.
        """

    def metadata(self) -> dict[str, bytes]:
        """All durable metadata of the caller."""

    def last_ordinal(self) -> int:
        """The highest durable ordinal ever given out; 0 for an empty log."""

    def heads(self) -> dict[int, int]:
        """Replica -> highest sequence the log has, or had before it was cut."""

    def floors(self) -> dict[int, int]:
        """Replica -> lowest sequence that ``read`` still serves (head + 1 if none)."""

    def history_floors(self) -> dict[int, int]:
        """Replica -> lowest sequence that ``read_history`` still serves."""

    def read(
        self,
        replica: int,
        from_sequence: int,
        *,
        limit_bytes: int,
        through_sequence: int | None = None,
    ) -> list[LogRecord]:
        """Batches that hold ``from_sequence`` and on, densely, in order, each verified.

        Stops once ``limit_bytes`` of data are reached (at least one batch is returned if
        any is held), after the batch with ``through_sequence``, and before a gap. Empty
        above the head and for an unknown replica. Raises ``HistoryGap`` with
        ``details["resume"]`` below the sync floor or inside a gap, and ``StoreCorrupt``
        with ``details["ordinal"]`` for a batch that fails its checksum.
        """

    def read_history(
        self,
        replica: int,
        from_sequence: int,
        *,
        limit_bytes: int,
        through_sequence: int | None = None,
    ) -> list[LogRecord]:
        """As ``read``, down to the history floor."""

    def replay(self, *, after_ordinal: int) -> Iterator[LogRecord]:
        """Every record after ``after_ordinal`` in arrival order, each verified.

        Raises ``StoreCorrupt`` with ``details["ordinal"]``; ``quarantine_after`` the
        ordinal before it lets recovery go on.
        """

    def quarantine_after(self, ordinal: int, reason: str) -> int:
        """Set every record after ``ordinal`` aside, durably; return how many.

        Identity is owed from then on: an acknowledged tail was lost.
        Raises ``InvalidValue`` if that would cut into what a whole checkpoint covers.
        """

    def divert(self, replica: int, above_sequence: int) -> int:
        """Set one replica's batches beyond a sequence aside, durably; return how many.

        A batch that only ends beyond it goes whole. The head of the replica falls back,
        its floors too where they were higher, and other batches of those sequences can be
        appended. No identity is owed for it. Repeating it changes nothing.
        Raises ``InvalidValue`` while a transaction is open or a checkpoint is being written.
        """

    def drop_checkpoints(self) -> None:
        """Give every checkpoint up, durably: recovery begins with the log's first record.

        Raises ``InvalidValue`` while a checkpoint is being written.
        """

    def quarantined(self) -> Iterator[LogRecord]:
        """The records set aside by this and earlier opens, unverified, for inspection."""

    def begin_checkpoint(self, header: bytes) -> CheckpointWriter:
        """Start a checkpoint of the state as of ``last_ordinal()``, or of a later position.

        Raises ``InvalidValue`` while another is being written.
        """

    def checkpoint(self) -> Checkpoint | None:
        """The newest whole checkpoint; an older one, or ``None``, where it is damaged."""

    def cut_sync_log(self, replica: int, below_sequence: int) -> int:
        """Raise the sync floor of ``replica``; return where it now is.

        The floor lands on a batch boundary at or below ``below_sequence``, never falls,
        and never passes what every kept whole checkpoint covers. A batch is deleted once
        it is below both floors.
        """

    def cut_history(self, replica: int, below_sequence: int) -> int:
        """As ``cut_sync_log``, for the history floor."""

    def verify(
        self,
        *,
        previous_of: Callable[[bytes], bytes | None] | None = None,
        progress: Progress | None = None,
    ) -> VerifyReport:
        """Read everything: checksums, density per replica, checkpoints, engine structure.

        ``previous_of(data)`` extracts from an encoded batch the digest of the batch before
        it (``None``: it has none), which turns the walk into a check of the hash chain.
        """

    def backup(self, path: str, *, progress: Progress | None = None) -> None:
        """Write a consistent copy of what is durable to ``path``, which must not exist.

        Opening it reports ``continuous`` false. ``progress`` runs between steps and may
        append and sync: the copy follows. Raises ``InvalidValue`` where ``path`` exists.
        """

    def size_bytes(self) -> int:
        """Bytes that the store takes on its device."""

    def close(self) -> None:
        """Drop what was not synced, mark a clean end, release the lock. Idempotent."""
