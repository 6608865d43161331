"""The messages of snapshots, reconciliation and repair, every field checked.

Problem: what a peer sends instead of batches is large, and comes in parts that
belong to one transfer among several.

Idea: as in ``messages``; each names its transfer, a number that the asker drew,
so that a late part of an abandoned transfer is recognised and dropped.

Invariants: those of ``messages``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

from crdtmem.causality import VersionVector
from crdtmem.message_shapes import (
    Message,
    array,
    byte_string,
    byte_strings,
    check,
    dot_range,
    number,
    sized,
    text,
    vector_in,
)

__all__ = [
    "ReconcileExpand",
    "ReconcileFetch",
    "ReconcileOffer",
    "ReconcileRanges",
    "RepairEntries",
    "RepairFind",
    "RepairFound",
    "RepairSettle",
    "RepairStart",
    "SnapshotBatches",
    "SnapshotChunk",
    "SnapshotEnd",
    "SnapshotOffer",
    "SnapshotRefuse",
    "SnapshotRequest",
]

# ------------------------------------------------------------------ snapshots


@dataclass(frozen=True, slots=True)
class SnapshotRequest(Message):
    """Asks for the whole state: how many entries the asker has, and its vector.

    ``transfer`` is the asker's number for what follows.
    """

    CODE: ClassVar[int] = 12

    transfer: int
    entries: int
    vector: VersionVector

    def body(self) -> tuple[Any, ...]:
        """Return the fields, the vector as a flat list."""
        return self.transfer, self.entries, self.vector.flat()

    @classmethod
    def parse(cls, parts: tuple[Any, ...]) -> Self:
        """Check the fields."""
        transfer, entries, vector = parts
        return cls(number(transfer), number(entries), vector_in(vector))


@dataclass(frozen=True, slots=True)
class SnapshotOffer(Message):
    """A whole snapshot begins: what was received of this transfer before is void."""

    CODE: ClassVar[int] = 13

    transfer: int
    entries: int

    @classmethod
    def parse(cls, parts: tuple[Any, ...]) -> Self:
        """Check the fields."""
        transfer, entries = parts
        return cls(number(transfer), number(entries))


@dataclass(frozen=True, slots=True)
class SnapshotChunk(Message):
    """A piece of a chunk, ``last`` on its last piece; takes credit."""

    CODE: ClassVar[int] = 14

    transfer: int
    last: bool
    data: bytes

    @classmethod
    def parse(cls, parts: tuple[Any, ...]) -> Self:
        """Check the fields."""
        transfer, last, data = parts
        check(type(last) is bool, "a flag")
        return cls(number(transfer), last, byte_string(data))


@dataclass(frozen=True, slots=True)
class SnapshotBatches(Message):
    """Batches published since the capture began, at their place among the chunks; takes credit."""

    CODE: ClassVar[int] = 15

    transfer: int
    batches: tuple[bytes, ...]

    @classmethod
    def parse(cls, parts: tuple[Any, ...]) -> Self:
        """Check the fields."""
        transfer, batches = parts
        return cls(number(transfer), byte_strings(batches))


@dataclass(frozen=True, slots=True)
class SnapshotEnd(Message):
    """All of it was sent; ``header`` says what it covers."""

    CODE: ClassVar[int] = 16

    transfer: int
    header: bytes

    @classmethod
    def parse(cls, parts: tuple[Any, ...]) -> Self:
        """Check the fields."""
        transfer, header = parts
        return cls(number(transfer), byte_string(header))


@dataclass(frozen=True, slots=True)
class SnapshotRefuse(Message):
    """No snapshot, comparison or repair now (or no more of this one): ask again later."""

    CODE: ClassVar[int] = 17

    transfer: int
    reason: str

    @classmethod
    def parse(cls, parts: tuple[Any, ...]) -> Self:
        """Check the fields."""
        transfer, reason = parts
        return cls(number(transfer), text(reason))


# ------------------------------------------------------------------ reconciliation


@dataclass(frozen=True, slots=True)
class ReconcileOffer(Message):
    """A comparison begins at ``vector``: ``tops`` fingerprints each replica's common range."""

    CODE: ClassVar[int] = 18

    transfer: int
    vector: VersionVector
    tops: dict[int, int]

    def body(self) -> tuple[Any, ...]:
        """Return the fields, the fingerprints as a flat list."""
        tops = [number for item in sorted(self.tops.items()) for number in item]
        return self.transfer, self.vector.flat(), tops

    @classmethod
    def parse(cls, parts: tuple[Any, ...]) -> Self:
        """Check the fields."""
        transfer, vector, tops = parts
        numbers = [number(item) for item in array(tops)]
        pairs = dict(zip(numbers[::2], numbers[1::2], strict=True))
        return cls(number(transfer), vector_in(vector), pairs)


@dataclass(frozen=True, slots=True)
class ReconcileExpand(Message):
    """Asks what is in ranges whose fingerprints differ: ``(replica, first, last)`` each."""

    CODE: ClassVar[int] = 19

    transfer: int
    ranges: tuple[tuple[int, int, int], ...]

    @classmethod
    def parse(cls, parts: tuple[Any, ...]) -> Self:
        """Check the fields."""
        transfer, ranges = parts
        return cls(number(transfer), tuple([dot_range(item) for item in array(ranges)]))


@dataclass(frozen=True, slots=True)
class ReconcileRanges(Message):
    """One answer per range asked for, in order: see ``reconcile`` for their forms."""

    CODE: ClassVar[int] = 20

    transfer: int
    answers: tuple[bytes, ...]

    @classmethod
    def parse(cls, parts: tuple[Any, ...]) -> Self:
        """Check the fields; what is in an answer is checked when it is decoded."""
        transfer, answers = parts
        return cls(number(transfer), byte_strings(answers))


@dataclass(frozen=True, slots=True)
class ReconcileFetch(Message):
    """The comparison is done: send the entries beyond the asker's vector."""

    CODE: ClassVar[int] = 21

    transfer: int

    @classmethod
    def parse(cls, parts: tuple[Any, ...]) -> Self:
        """Check the field."""
        (transfer,) = parts
        return cls(number(transfer))


# ------------------------------------------------------------------ repair


@dataclass(frozen=True, slots=True)
class RepairStart(Message):
    """Asks for a comparison at equal vectors, whose digests differ.

    ``tips_hash`` tells whether they stand for the same histories.
    """

    CODE: ClassVar[int] = 22

    transfer: int
    vector_hash: bytes
    tips_hash: bytes

    @classmethod
    def parse(cls, parts: tuple[Any, ...]) -> Self:
        """Check the fields."""
        transfer, vector_hash, tips_hash = parts
        return cls(number(transfer), sized(vector_hash, 8), sized(tips_hash, 8))


@dataclass(frozen=True, slots=True)
class RepairFind(Message):
    """The sender holds these dots and the receiver does not: what superseded them?"""

    CODE: ClassVar[int] = 23

    transfer: int
    dots: tuple[Any, ...]

    @classmethod
    def parse(cls, parts: tuple[Any, ...]) -> Self:
        """Check the fields; the dots are checked when they are decoded."""
        transfer, dots = parts
        return cls(number(transfer), array(dots))


@dataclass(frozen=True, slots=True)
class RepairFound(Message):
    """The stored batches that superseded what was asked for, as far as there are any."""

    CODE: ClassVar[int] = 24

    transfer: int
    evidence: tuple[bytes, ...]

    @classmethod
    def parse(cls, parts: tuple[Any, ...]) -> Self:
        """Check the fields."""
        transfer, evidence = parts
        return cls(number(transfer), byte_strings(evidence))


@dataclass(frozen=True, slots=True)
class RepairSettle(Message):
    """Evidence for the receiver's surplus, what the sender lacks, and entries to restore."""

    CODE: ClassVar[int] = 25

    transfer: int
    evidence: tuple[bytes, ...]
    wanted: tuple[Any, ...]
    chunks: tuple[bytes, ...]

    @classmethod
    def parse(cls, parts: tuple[Any, ...]) -> Self:
        """Check the fields."""
        transfer, evidence, wanted, chunks = parts
        return cls(number(transfer), byte_strings(evidence), array(wanted), byte_strings(chunks))


@dataclass(frozen=True, slots=True)
class RepairEntries(Message):
    """The entries that ``RepairSettle`` wanted, as chunks."""

    CODE: ClassVar[int] = 26

    transfer: int
    chunks: tuple[bytes, ...]

    @classmethod
    def parse(cls, parts: tuple[Any, ...]) -> Self:
        """Check the fields."""
        transfer, chunks = parts
        return cls(number(transfer), byte_strings(chunks))
