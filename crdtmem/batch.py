"""Batches: the one unit of log, wire, fsync and checksum.

Problem: per-delta framing would cost more than the deltas. A batch must be
small on the wire, quick to decode in bulk, verbatim everywhere (a batch is
never re-encoded, so two encodings of one batch cannot exist), and able to
expose a clone that reuses dots.

Idea: a batch holds consecutive deltas of one replica, whole transactions only,
as *segments*: runs of deltas that share space, datatype and metadata, stored
column by column. Dots are implied by position. A superseded dot of the
writer's own is written as a distance, usually one byte; foreign dots index a
table of replica ids. Dependencies list only what changed since the replica's
previous batch. Every batch carries the hash of the one before it.

Layout (MessagePack; the exact specification is in ``DESIGN.md``)::

    batch       = [version, replica, first_sequence, count, previous_hash, region,
                   replicas, dependencies, spaces, order_base, physical_base, transactions]
    transaction = [order - order_base, physical - physical_base, metadata | nil, segments]
    segment     = [space, datatype, keys, fields, values, superseded, metadata | nil]
    keys        = key | [key, …] | [prefix, [rests of the keys, joined by U+0000]]
    values      = nil | [value, …] | {"c": [[first component, …], [second component, …], …]}

Invariants: decoding either returns a batch whose every column is checked, or
raises ``MalformedFrame`` having changed nothing; the hash of a batch is the
first half of the SHA-256 of its bytes, which processors compute by themselves.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from crdtmem.causality import VersionVector
from crdtmem.codec import pack, unpack
from crdtmem.columns import (
    Distances,
    as_column,
    distance_bytes,
    distances_of,
    lead_before,
    pack_keys,
    unpack_keys,
    unpack_rows,
)
from crdtmem.entries import (
    NO_METADATA,
    SEQUENCE_BITS,
    SEQUENCE_MASK,
    Field,
    Metadata,
    Stamp,
    ascending,
)
from crdtmem.errors import MalformedFrame

__all__ = [
    "BATCH_VERSION",
    "GENESIS_HASH",
    "REGION_BYTES",
    "REMOVED",
    "Batch",
    "BatchHeader",
    "ReplicaTable",
    "Segment",
    "SpaceName",
    "Superseded",
    "array_header",
    "decode_batch",
    "encode_batch",
    "encode_dots_column",
    "hash_of",
    "pack_keys",
    "superseded_dots",
    "unpack_keys",
]

BATCH_VERSION: Final = 1
GENESIS_HASH: Final = bytes(16)
REGION_BYTES: Final = 64
"""The longest name of a region, in bytes of UTF-8."""

_HEADER_LENGTH: Final = 12
_STR_ONLY: Final = frozenset({str})
_INT_ONLY: Final = frozenset({int})
_TIME_LIMIT_US: Final = 1 << 63

SpaceName = tuple[str, ...]
Superseded = "int | tuple[int, ...]"
"""What one delta supersedes: 0 nothing; n the writer's own dot n before it; a tuple of dots."""


def hash_of(data: bytes) -> bytes:
    """Return the 16-byte hash that names a batch's content."""
    return hashlib.sha256(data).digest()[:16]


@dataclass(slots=True)
class Segment:
    """A run of consecutive deltas of one transaction with one space, datatype and stamp.

    ``first`` is the integer dot of the first delta; ``count`` how many there
    are. ``keys`` is a column, or one text for all. ``fields`` is ``None`` for
    datatypes without fields, else a column (0 in a column of dots stands for
    the delta's own dot). ``values`` is ``None`` for removals. ``superseded``
    is ``None`` when nothing is, else a column of ``Superseded``: an array where
    all are plain distances (see ``columns``).
    """

    space: SpaceName
    datatype: int
    first: int
    count: int
    keys: Any
    fields: Any
    values: Any
    superseded: Any
    stamp: Stamp

    def deltas(self) -> Iterator[tuple[int, str, Field | None, Any, tuple[int, ...]]]:
        """Yield ``(dot, key, field, value, superseded dots)``; removals yield ``REMOVED``.

        Convenient, not fast: joins walk the columns instead.
        """
        for index in range(self.count):
            dot = self.first + index
            key = self.keys if type(self.keys) is str else self.keys[index]
            field = None if self.fields is None else self.fields[index]
            value = REMOVED if self.values is None else self.values[index]
            superseded = 0 if self.superseded is None else self.superseded[index]
            yield (
                dot,
                key,
                dot if field == 0 and type(field) is int else field,
                value,
                superseded_dots(superseded, dot),
            )


class _Removed:
    """The value of a delta that only removes."""

    def __repr__(self) -> str:
        return "REMOVED"


REMOVED: Final = _Removed()


def superseded_dots(superseded: Any, dot: int) -> tuple[int, ...]:
    """Return one delta's superseded column item as a tuple of dots."""
    if type(superseded) is tuple:
        return superseded
    return (dot - superseded,) if superseded else ()


@dataclass(slots=True)
class BatchHeader:
    """What is known of a batch without its transactions."""

    replica: int
    first: int
    count: int
    previous_hash: bytes
    region: str
    dependencies: dict[int, int]

    @property
    def last(self) -> int:
        """The sequence of the last delta."""
        return self.first + self.count - 1


@dataclass(slots=True)
class Batch:
    """A decoded batch: its header, its segments in dot order, and its very bytes.

    ``transactions`` holds, per transaction, ``(order, physical_us, metadata,
    index of its first segment)``.
    """

    header: BatchHeader
    transactions: list[tuple[int, int, Metadata, int]]
    segments: list[Segment]
    data: bytes
    hash: bytes


class ReplicaTable:
    """The foreign replica ids of one batch, each named once."""

    __slots__ = ("index", "own")

    def __init__(self, own: int) -> None:
        self.own = own
        self.index: dict[int, int] = {}

    def flat(self, dots: Iterable[int]) -> list[int]:
        """Return dots as ``[replica index, sequence, …]``; the writer's own index is 0."""
        numbers: list[int] = []
        for dot in dots:
            numbers += (self.of(dot >> SEQUENCE_BITS), dot & SEQUENCE_MASK)
        return numbers

    def of(self, replica: int) -> int:
        """Return the index of a replica, adding it when new."""
        if replica == self.own:
            return 0
        return self.index.setdefault(replica, len(self.index) + 1)


def encode_dots_column(column: Any, table: ReplicaTable) -> Any:
    """Return a column of ``Superseded`` in its wire form."""
    if type(column) is list:
        column = as_column(column)
    if column is None:
        return None
    if type(column) is Distances:
        return distance_bytes(column)
    return [table.flat(item) if type(item) is tuple else item for item in column]


def encode_batch(
    header: BatchHeader,
    table: ReplicaTable,
    spaces: Iterable[SpaceName],
    bases: tuple[int, int],
    transactions: list[bytes],
) -> bytes:
    """Return a batch's bytes from its already encoded transactions."""
    dependencies = table.flat(
        replica << SEQUENCE_BITS | sequence
        for replica, sequence in sorted(header.dependencies.items())
    )
    head = pack(
        (
            BATCH_VERSION,
            header.replica,
            header.first,
            header.count,
            header.previous_hash,
            header.region,
            tuple(table.index),
            dependencies,
            tuple(spaces),
            bases[0],
            bases[1],
            (),
        )
    )
    # The last element was packed as an empty array of one byte: put the real ones in its place.
    return b"".join((head[:-1], array_header(len(transactions)), *transactions))


def array_header(length: int) -> bytes:
    """Return the MessagePack header of an array of that many elements."""
    if length < 16:
        return bytes((0x90 | length,))
    if length < 1 << 16:
        return b"\xdc" + length.to_bytes(2, "big")
    return b"\xdd" + length.to_bytes(4, "big")


def decode_batch(data: bytes, *, known_fields: Mapping[int, bool] | None = None) -> Batch:
    """Decode and check a batch; raises ``MalformedFrame``.

    ``known_fields`` maps a datatype's code to whether it has fields; a
    datatype that this program does not know is refused.
    """
    body = unpack(data)
    try:
        return _decode(body, data, known_fields)
    except (TypeError, ValueError, IndexError, KeyError, AttributeError) as error:
        raise MalformedFrame(f"a batch with the wrong shape: {error}") from error


def _decode(body: Any, data: bytes, known_fields: Mapping[int, bool] | None) -> Batch:
    if type(body) is not tuple or len(body) != _HEADER_LENGTH or body[0] != BATCH_VERSION:
        raise ValueError("not a batch of a version that is known here")
    _, replica, first, count, previous, region, others, dependencies = body[:8]
    spaces, order_base, physical_base, listed = body[8:]
    if not (
        type(replica)
        is type(first)
        is type(count)
        is type(order_base)
        is type(physical_base)
        is int
        and replica > 0
        and first > 0
        and count > 0
        and first + count <= SEQUENCE_MASK
        and type(previous) is bytes
        and len(previous) == 16
        and type(region) is str
        and len(region) <= REGION_BYTES
    ):
        raise ValueError("the header is malformed")
    replicas = (replica, *others)
    if others:
        _check(all(type(other) is int and other > 0 for other in others), "the replica table")
        _check(len(set(replicas)) == len(replicas), "the replica table")
    needs = _dependencies(dependencies, replicas)
    names = [_space_name(name) for name in spaces]
    header = BatchHeader(replica, first, count, previous, region, needs)
    transactions: list[tuple[int, int, Metadata, int]] = []
    segments: list[Segment] = []
    start = dot = replica << SEQUENCE_BITS | first
    for order_step, physical_step, metadata, parts in listed:
        if not (type(order_step) is type(physical_step) is int):
            raise ValueError("a transaction's stamp is malformed")
        order, physical_us = order_base + order_step, physical_base + physical_step
        if not (0 <= order < _TIME_LIMIT_US and 0 <= physical_us < _TIME_LIMIT_US):
            raise ValueError("a transaction's stamp is malformed")
        if type(parts) is not tuple or not parts:
            raise ValueError("a transaction is malformed")
        shared = NO_METADATA if metadata is None else _metadata(metadata)
        transactions.append((order, physical_us, shared, len(segments)))
        stamp = _stamp(replica, region, order, physical_us, shared)
        for part in parts:
            segment = _segment(part, names, replicas, dot, stamp, shared, known_fields)
            segments.append(segment)
            dot += segment.count
    _check(dot - start == count, "the number of deltas")
    return Batch(header, transactions, segments, data, hash_of(data))


def _check(fine: bool, what: str) -> None:
    if not fine:
        raise ValueError(f"{what} is malformed")


def _dependencies(numbers: Any, replicas: tuple[int, ...]) -> VersionVector:
    if numbers == ():
        return VersionVector()
    dots = _dots(numbers, replicas)
    needs = VersionVector((dot >> SEQUENCE_BITS, dot & SEQUENCE_MASK) for dot in dots)
    _check(replicas[0] not in needs and 0 not in needs.values(), "the dependencies")
    return needs


def _space_name(name: Any) -> SpaceName:
    _check(type(name) is tuple and set(map(type, name)) <= _STR_ONLY, "a space's name")
    return name  # type: ignore[no-any-return]


def _dots(numbers: Any, replicas: tuple[int, ...]) -> tuple[int, ...]:
    if type(numbers) is tuple and len(numbers) == 2:
        # Most by far: who writes what another wrote last.
        index, sequence = numbers
        _check(type(index) is type(sequence) is int and index >= 0 <= sequence, "a list of dots")
        return (replicas[index] << SEQUENCE_BITS | sequence,)
    _check(
        type(numbers) is tuple and set(map(type, numbers)) <= _INT_ONLY and len(numbers) % 2 == 0,
        "a list of dots",
    )
    _check(not numbers or min(numbers) >= 0, "a list of dots")
    pairs = zip(numbers[::2], numbers[1::2], strict=True)
    return tuple([replicas[index] << SEQUENCE_BITS | sequence for index, sequence in pairs])


def _dots_column(column: Any, count: int, replicas: tuple[int, ...], sequence: int) -> Any:
    """Return what is superseded; a distance may not lead before the writer's first dot."""
    if column is None:
        return None
    if type(column) is bytes:
        distances = distances_of(column, count)
        # Narrow distances of a long-lived writer cannot lead too far.
        if sequence >> 8 * distances.itemsize == 0:
            _check(not lead_before(distances, sequence), "a column of dots")
        return distances
    _check(type(column) is tuple and len(column) == count, "a column of dots")
    column = tuple([item if type(item) is int else _dots(item, replicas) for item in column])
    for index, item in enumerate(column):
        if type(item) is int and not 0 <= item < sequence + index:
            raise ValueError("a column of dots is malformed")
    return column


def _metadata(metadata: Any) -> Metadata:
    _check(type(metadata) is dict and set(map(type, metadata)) <= _STR_ONLY, "metadata")
    return metadata  # type: ignore[no-any-return]


def _stamp(replica: int, region: str, order: int, physical_us: int, metadata: Metadata) -> Stamp:
    if not metadata:
        return Stamp(replica, order, physical_us, "", region)
    rest = {name: item for name, item in metadata.items() if name not in ("a", "t", "e")}
    author, trust = metadata.get("a", ""), metadata.get("t", 0)
    expires_at_us = metadata.get("e")
    _check(type(author) is str and type(trust) is int, "metadata")
    _check(type(metadata.get("i", b"")) is bytes, "metadata")
    _check(expires_at_us is None or type(expires_at_us) is int, "metadata")
    return Stamp(
        replica, order, physical_us, author, region, trust, expires_at_us, rest or NO_METADATA
    )


def _segment(
    part: Any,
    names: list[SpaceName],
    replicas: tuple[int, ...],
    dot: int,
    stamp: Stamp,
    shared: Metadata,
    known_fields: Mapping[int, bool] | None,
) -> Segment:
    space, datatype, keys, fields, values, superseded, metadata = part
    if not (type(space) is type(datatype) is int and 0 <= space < len(names)):
        raise ValueError("a segment is malformed")
    has_fields = fields is not None if known_fields is None else known_fields[datatype]
    if type(values) is dict:
        values = unpack_rows(values)
    if type(keys) is str:
        columns = [column for column in (values, superseded, fields) if isinstance(column, tuple)]
        _check(bool(columns), "a segment")
        count = len(columns[0])
    else:
        keys = unpack_keys(keys)
        count = len(keys)
    if not count or not (values is None or (isinstance(values, tuple) and len(values) == count)):
        raise ValueError("a column of values is malformed")
    if metadata is not None:
        stamp = _stamp(
            stamp.replica,
            stamp.region,
            stamp.order,
            stamp.physical_us,
            ascending({**shared, **_metadata(metadata)}),
        )
    return Segment(
        names[space],
        datatype,
        dot,
        count,
        keys,
        _fields_column(fields, count, replicas, dot) if has_fields else None,
        values,
        _dots_column(superseded, count, replicas, dot & SEQUENCE_MASK),
        stamp,
    )


def _fields_column(column: Any, count: int, replicas: tuple[int, ...], dot: int) -> Any:
    """Return the fields: text, bytes, or dots (0 own; n a distance; a pair a foreign dot)."""
    if column is None:
        return (0,) * count
    _check(type(column) is tuple and len(column) == count, "a column of fields")
    if set(map(type, column)) <= {str, bytes}:
        return column
    fields: list[Field] = []
    sequence = dot & SEQUENCE_MASK
    for index, item in enumerate(column):
        if type(item) is int:
            # As far back as the writer's first dot, which later deltas are further from.
            _check(0 <= item < sequence + index, "a field")
            fields.append(dot + index - item if item else 0)
        elif type(item) is tuple:
            _check(len(item) == 2, "a field")
            fields.append(_dots(item, replicas)[0])
        else:
            _check(type(item) in (str, bytes), "a field")
            fields.append(item)
    return fields
