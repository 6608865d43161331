"""The open transaction, and what every engine must decide alike about records.

Problem: two engines that validate, number or slice records differently would
pass their own tests and break each other's data.

Idea: the decisions live here, pure, and an engine only moves bytes. ``Pending``
collects the open transaction in memory, so that an engine's own transaction is
as short as its commit, un-synced records are invisible by construction, and a
rollback is forgetting. ``dense_run`` decides how far a read may go, and
``seal_of`` and ``is_sound`` what is guarded by a checksum: the content by its
digest, the header by a CRC over the digest and every other column.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Mapping, Sequence

from crdtmem.errors import HistoryGap, InvalidValue, StoreCorrupt
from crdtmem.store.base import (
    DIGEST_BYTES,
    KIND_BATCH,
    KIND_MARKER,
    MAX_REPLICA,
    MAX_SEQUENCE,
    RESERVED_PREFIX,
    BatchRecord,
    LogRecord,
    content_digest,
)

__all__ = [
    "Pending",
    "corrupt_record",
    "dense_run",
    "exact_position",
    "is_sound",
    "seal_of",
]

_HEADER = struct.Struct("<QQQQqB")


def seal_of(record: LogRecord) -> int:
    """CRC-32 over the header and digest of ``record``; the data is under the digest."""
    header = _HEADER.pack(
        record.ordinal,
        record.replica,
        record.first_sequence,
        record.last_sequence,
        record.arrived_at_us,
        record.kind,
    )
    return zlib.crc32(record.digest, zlib.crc32(header))


def is_sound(record: LogRecord, seal: int) -> bool:
    """Whether ``record`` is byte for byte what was appended."""
    try:
        return seal_of(record) == seal and content_digest(record.data) == record.digest
    except (struct.error, TypeError):
        # A damaged row can hold values of another type or range than any record has.
        return False


def corrupt_record(record: LogRecord, where: str) -> StoreCorrupt:
    """The error for a record that fails its checksum, with what a repair needs to know."""
    return StoreCorrupt(
        f"record {record.ordinal} of {where} fails its checksum",
        hint="run `crdtmem verify`; peers or a backup still hold the batch",
        ordinal=record.ordinal,
        replica=record.replica,
        first_sequence=record.first_sequence,
        last_sequence=record.last_sequence,
    )


class Pending:
    """One open transaction: records with their ordinals, metadata, the identity claim."""

    __slots__ = ("claims_identity", "heads", "last_ordinal", "metadata", "records")

    def __init__(self, heads: Mapping[int, int], last_ordinal: int) -> None:
        self.heads = dict(heads)
        self.last_ordinal = last_ordinal
        self.records: list[LogRecord] = []
        self.metadata: dict[str, bytes | None] = {}
        self.claims_identity = False

    def __bool__(self) -> bool:
        return bool(self.records or self.metadata or self.claims_identity)

    def append(self, records: Sequence[BatchRecord], arrived_at_us: int) -> None:
        """Number and collect ``records``. Raises ``InvalidValue``, collecting none."""
        _check_clock(arrived_at_us)
        heads: dict[int, int] = {}
        collected: list[LogRecord] = []
        ordinal = self.last_ordinal
        for record in records:
            replica, first, last = record.replica, record.first_sequence, record.last_sequence
            if not (0 <= replica <= MAX_REPLICA and 0 < first <= last <= MAX_SEQUENCE):
                raise InvalidValue(f"no valid batch: replica {replica}, sequences {first}..{last}")
            if len(record.digest) != DIGEST_BYTES:
                raise InvalidValue(f"a digest has {DIGEST_BYTES} bytes, not {len(record.digest)}")
            head = heads.get(replica, self.heads.get(replica, 0))
            if first <= head:
                raise InvalidValue(
                    f"batch {first}..{last} of replica {replica:x} is not after {head}",
                    hint="drop batches that the version vector already covers before appending",
                    head=head,
                )
            heads[replica] = last
            ordinal += 1
            collected.append(
                LogRecord(
                    replica,
                    first,
                    last,
                    record.digest,
                    record.data,
                    ordinal,
                    arrived_at_us,
                    KIND_BATCH,
                )
            )
        self.heads.update(heads)
        self.last_ordinal = ordinal
        self.records.extend(collected)

    def append_marker(self, data: bytes, arrived_at_us: int) -> None:
        """Number and collect a snapshot marker."""
        _check_clock(arrived_at_us)
        self.last_ordinal += 1
        digest = content_digest(data)
        self.records.append(
            LogRecord(0, 0, 0, digest, data, self.last_ordinal, arrived_at_us, KIND_MARKER)
        )

    def put_metadata(self, items: Mapping[str, bytes | None]) -> None:
        """Collect metadata; the last value of a name wins. Raises ``InvalidValue``."""
        for name, value in items.items():
            if not (value is None or isinstance(value, bytes)):
                raise InvalidValue(f"metadata {name!r} must be bytes, not {type(value).__name__}")
            if name.startswith(RESERVED_PREFIX):
                raise InvalidValue(f"metadata name {name!r} is reserved for the store")
        self.metadata.update(items)

    def committed(self) -> None:
        """Start the next transaction on top of this one, which is durable now."""
        self.records = []
        self.metadata = {}
        self.claims_identity = False


def exact_position(begun: int, wanted: int | None, last: int) -> int:
    """The position that a checkpoint begun at ``begun`` is committed at; see ``base``.

    Raises ``InvalidValue`` unless ``wanted`` lies between there and ``last``.
    """
    if wanted is None:
        return begun
    if not begun <= wanted <= max(begun, last):
        raise InvalidValue(f"a checkpoint begun at {begun} cannot be exact at {wanted} of {last}")
    return wanted


def _check_clock(arrived_at_us: int) -> None:
    if not 0 <= arrived_at_us <= MAX_SEQUENCE:
        raise InvalidValue(f"an arrival time of {arrived_at_us} us is out of range")


def dense_run(
    records: Iterable[LogRecord],
    replica: int,
    from_sequence: int,
    *,
    floor: int,
    limit_bytes: int,
) -> list[LogRecord]:
    """The longest run of ``records`` that starts with ``from_sequence`` and has no gap.

    ``records`` are the batches of ``replica`` that end at or after ``from_sequence``,
    ascending. The run ends once it holds ``limit_bytes`` of data. Raises ``HistoryGap``
    if ``from_sequence`` lies below ``floor`` or before the first record.
    """
    wanted = max(from_sequence, 1)
    if wanted < floor:
        raise _gap(replica, wanted, floor)
    run: list[LogRecord] = []
    taken_bytes = 0
    for record in records:
        if not run and record.first_sequence > wanted:
            raise _gap(replica, wanted, record.first_sequence)
        if run and record.first_sequence != run[-1].last_sequence + 1:
            break
        run.append(record)
        taken_bytes += len(record.data)
        if taken_bytes >= limit_bytes:
            break
    return run


def _gap(replica: int, wanted: int, resume: int) -> HistoryGap:
    return HistoryGap(
        f"sequence {wanted} of replica {replica:x} is no longer held",
        hint=f"take a snapshot, or read on from sequence {resume}",
        replica=replica,
        resume=resume,
    )
