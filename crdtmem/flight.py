"""A flight: all that one durable commit carries, and the local batch that is built for it.

Problem: batches from peers and transactions from here must become durable
together, cheaply, and be published together or not at all.

Idea: a ``Flight`` holds decoded batches, their overlay, and the vector and tips
that hold once it is published. The local batch is built in memory and in bytes
side by side, so that closing it costs one header and one hash.

Invariants: a flight's batches are causally closed on top of the published
state; only ``Replica`` changes a flight, and only before its ``Persist``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final

from crdtmem.batch import (
    Batch,
    BatchHeader,
    ReplicaTable,
    Segment,
    SpaceName,
    encode_batch,
    hash_of,
)
from crdtmem.causality import VersionVector
from crdtmem.entries import (
    SEQUENCE_BITS,
    Metadata,
)
from crdtmem.errors import CrdtmemError
from crdtmem.limits import Limits
from crdtmem.policy import SYSTEM_SPACE
from crdtmem.table import Overlay, State
from crdtmem.transaction import Transaction

if TYPE_CHECKING:
    from crdtmem.waiting import Pending

__all__ = [
    "FLIGHT_DELTAS",
    "Flight",
    "LocalBatch",
    "StagedTransaction",
    "idle_flight",
    "touches_system",
]

_space_of: Final = attrgetter("space")

FLIGHT_DELTAS = 20_000
"""About how many deltas one flight carries: staging and publishing them must not take long."""


@dataclass(slots=True)
class StagedTransaction:
    """A local transaction after staging: who asked, what came of it, and its dots."""

    pending: Pending
    results: list[Any]
    first: int
    count: int

    @property
    def ticket(self) -> Any:
        """Who is to be answered."""
        return self.pending.ticket

    @property
    def transaction(self) -> Transaction:
        """What was asked for."""
        return self.pending.transaction

    @property
    def deadline_us(self) -> int:
        """Until when whoever asked waits for an answer, in microseconds."""
        return self.pending.deadline_us


@dataclass(slots=True)
class Flight:
    """All that one durable commit carries, in publication order."""

    overlay: Overlay
    vector: VersionVector
    batches: list[Batch] = field(default_factory=list)
    local: list[StagedTransaction] = field(default_factory=list)
    repeated: list[StagedTransaction] = field(default_factory=list)
    refused: list[tuple[Any, CrdtmemError]] = field(default_factory=list)
    metadata: dict[str, bytes | None] = field(default_factory=dict)
    # Read once, where the flight is written: encoding a whole state takes a while.
    markers: Iterable[bytes] = ()
    installation: Any = None
    tips: dict[int, tuple[int, bytes]] = field(default_factory=dict)
    dependencies: VersionVector = field(default_factory=VersionVector)
    weight: int = 0
    # What was staged in spaces with a quota: see ``quotas.Ledger``.
    ledger: Any = None


class LocalBatch:
    """The local batch under construction: segments in memory and in bytes, side by side."""

    __slots__ = (
        "bodies",
        "first",
        "next",
        "order_base",
        "physical_base",
        "region",
        "replica",
        "segments",
        "size",
        "spaces",
        "table",
        "transactions",
    )

    def __init__(self, replica: int, region: str, first: int, stamps: tuple[int, int]) -> None:
        self.replica = replica
        self.region = region
        self.first = first
        self.next = first
        self.order_base, self.physical_base = stamps
        self.table = ReplicaTable(replica)
        self.spaces: dict[SpaceName, int] = {}
        self.segments: list[Segment] = []
        self.transactions: list[tuple[int, int, Metadata, int]] = []
        self.bodies: list[bytes] = []
        self.size = 0

    @property
    def dot(self) -> int:
        """The dot that the next delta will carry."""
        return self.replica << SEQUENCE_BITS | self.next

    def space_index(self, space: SpaceName) -> int:
        """Return the index of a space in this batch's table."""
        return self.spaces.setdefault(space, len(self.spaces))

    def has_room(self, deltas: int, size_bytes: int, limits: Limits) -> bool:
        """Tell whether so much more would leave the batch within its limits; an empty one has."""
        return self.next == self.first or (
            self.next - self.first + deltas <= limits.batch_deltas
            and self.size + size_bytes <= limits.batch_bytes
        )

    def close(self, previous_hash: bytes, dependencies: dict[int, int]) -> Batch:
        """Return the finished batch."""
        header = BatchHeader(
            self.replica,
            self.first,
            self.next - self.first,
            previous_hash,
            self.region,
            dependencies,
        )
        bases = (self.order_base, self.physical_base)
        data = encode_batch(header, self.table, self.spaces, bases, self.bodies)
        return Batch(header, self.transactions, self.segments, data, hash_of(data))


def idle_flight(state: State, tips: dict[int, tuple[int, bytes]]) -> Flight:
    """Return a flight that changes nothing, to carry metadata."""
    return Flight(Overlay(state), state.vector.copy(), tips=dict(tips))


def touches_system(batch: Batch) -> bool:
    """Tell whether a batch changes the system space: members, evictions or policies."""
    return SYSTEM_SPACE in map(_space_of, batch.segments)
