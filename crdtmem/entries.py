"""What the state is made of: dots, stamps, entries and siblings.

Problem: a replica holds millions of entries, so each must be small; and every
layer (join, resolvers, snapshots, sync) must agree on what an entry is.

Idea: an entry is the flat tuple ``(dot, value, stamp)``. The dot is one
integer, ``replica << 64 | sequence``, so that identity is a single comparison
and a set of dots is a set of integers. Everything that a transaction's deltas
share (replica, order, physical time, author, trust, expiry, other metadata)
lives once, in their ``Stamp``. A *slot* is what a place holds: a bare entry
when there is one (almost always), a ``Siblings`` tuple, in dot order, when
there are several, nothing when there are none.

Invariants: entries and stamps are never mutated once made; a ``Siblings`` is
sorted by dot, holds no dot twice, and never has length one.

Dots name deltas as in Almeida, Shoker & Baquero, "Delta State Replicated Data
Types"; one entry per dot is the decomposition of Enes et al., "Efficient
Synchronization of State-based CRDTs".
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple, TypeAlias

__all__ = [
    "EMPTY",
    "NO_METADATA",
    "SEQUENCE_BITS",
    "SEQUENCE_MASK",
    "Dot",
    "Entry",
    "Field",
    "Metadata",
    "Siblings",
    "Slot",
    "Stamp",
    "ascending",
    "as_siblings",
    "as_slot",
    "pack_dot",
    "unpack_dot",
]

SEQUENCE_BITS: Final = 64
SEQUENCE_MASK: Final = (1 << SEQUENCE_BITS) - 1

Metadata: TypeAlias = "dict[str, Any]"
NO_METADATA: Final[Metadata] = {}


def ascending(metadata: Metadata) -> Metadata:
    """Return metadata in ascending order of names, as every map that is stored.

    The order is shown to readers, and must be one on its origin and everywhere else.
    """
    return metadata if len(metadata) < 2 else dict(sorted(metadata.items()))


Field: TypeAlias = "str | bytes | int"
"""A field's name: text, canonical bytes, or the dot that gave birth to it."""


class Dot(NamedTuple):
    """The name of one delta for ever: a replica id and its sequence number."""

    replica: int
    sequence: int

    def __str__(self) -> str:
        return f"{self.replica:016x}:{self.sequence}"


def pack_dot(replica: int, sequence: int) -> int:
    """Return the dot as the integer that the state and the wire use."""
    return replica << SEQUENCE_BITS | sequence


def unpack_dot(dot: int) -> Dot:
    """Return the replica and sequence of an integer dot."""
    return Dot(dot >> SEQUENCE_BITS, dot & SEQUENCE_MASK)


class Stamp:
    """What all deltas of one transaction (and one metadata) have in common.

    ``order`` is the hybrid logical clock's order (microseconds, extends
    causality); ``physical_us`` the origin's own physical time; ``trust`` an
    integer, higher is more trusted; ``expires_at_us`` the physical time after
    which readers no longer see the entry; ``metadata`` holds the rest
    (confidence, subject tags, evidence, operation id, origin dot) and is empty
    where nothing was given. Never mutated.
    """

    __slots__ = (
        "author",
        "expires_at_us",
        "metadata",
        "order",
        "physical_us",
        "region",
        "replica",
        "trust",
    )

    def __init__(
        self,
        replica: int,
        order: int,
        physical_us: int,
        author: str = "",
        region: str = "",
        trust: int = 0,
        expires_at_us: int | None = None,
        metadata: Metadata = NO_METADATA,
    ) -> None:
        self.replica = replica
        self.order = order
        self.physical_us = physical_us
        self.author = author
        self.region = region
        self.trust = trust
        self.expires_at_us = expires_at_us
        self.metadata = metadata

    def identity(self) -> tuple[Any, ...]:
        """Return all fields as one tuple, for comparison and for snapshots."""
        return (
            self.replica,
            self.order,
            self.physical_us,
            self.author,
            self.region,
            self.trust,
            self.expires_at_us,
            self.metadata,
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Stamp) and self.identity() == other.identity()

    def __hash__(self) -> int:
        return hash(self.identity()[:7])

    def __repr__(self) -> str:
        return f"Stamp({self.replica:016x} order={self.order} author={self.author!r})"


Entry: TypeAlias = "tuple[int, Any, Stamp]"


class Siblings(tuple[Entry, ...]):
    """Several concurrent entries of one place, in dot order."""

    __slots__ = ()


EMPTY: Final = Siblings()
"""A slot that holds nothing: in an overlay, a place that was emptied."""

Slot: TypeAlias = "Entry | Siblings"


def as_siblings(slot: Slot | None) -> tuple[Entry, ...]:
    """Return what a slot holds as a tuple of entries, in dot order."""
    if slot is None:
        return EMPTY
    if type(slot) is Siblings:
        return slot
    return (slot,)  # type: ignore[return-value]


def as_slot(entries: list[Entry]) -> Slot:
    """Return the slot that holds these entries: sorted here, each dot once."""
    if len(entries) == 1:
        return entries[0]
    entries.sort(key=_dot_of)
    return Siblings(entries)


def _dot_of(entry: Entry) -> int:
    return entry[0]
