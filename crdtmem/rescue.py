"""Rescue: what an evicted replica wrote beyond its cut, written anew, once.

Problem: the survivors of an eviction agree on a cut, and nothing beyond it may
ever be joined: they have collected without it. But people wrote it, and it was
acknowledged. It may be neither lost nor replayed behind anyone's back; and some
of it may have got through after all, by a retry, by an earlier rescue, or
because the cut turned out higher than feared.

Idea: the batches beyond the cut are kept apart, listed, and what an operator
chooses is written again as *new* transactions of one successor, of those that hold
it (see ``Epoch.successor``), through the ordinary write path. Each knows what it
repeats. It is written at most once, because

* what the successor's vector covers has arrived, and is passed over;
* every rescued part leaves a mark in the system space, in the same transaction,
  under its origin dot (the first one, if it had been rescued before);
* it carries the client's operation id if there was one, else one made of the
  origin dot, so a copy that comes another way is refused, or taken back (see
  ``retries``).

What is repeated is the operation, not the delta (see ``repeating``): an increment
counts what it counted, never the total that it led to; a write supersedes what it
had observed, and stands beside whatever was written since.

Invariants: batches beyond a cut are only read; a second rescue writes nothing; a
transaction of over ``PART_DELTAS`` deltas or ``PART_BYTES`` bytes is rescued in
parts, each whole, in order.

Re-execution instead of replay is Bayou's (Terry et al. 1995).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from crdtmem.batch import REMOVED, Batch, Segment
from crdtmem.codec import pack, thaw
from crdtmem.crdt import DATATYPES_BY_CODE
from crdtmem.crdt.base import element_field
from crdtmem.crdt.member import parse_field
from crdtmem.crdt.set import AddWinsSet
from crdtmem.entries import (
    SEQUENCE_BITS,
    SEQUENCE_MASK,
    Field,
    Metadata,
    unpack_dot,
)
from crdtmem.epoch import replica_text
from crdtmem.policy import SYSTEM_SPACE
from crdtmem.repeating import OriginPast, PastDelta, parse_dot, place_of, repeat
from crdtmem.table import State
from crdtmem.transaction import Operation, Transaction

__all__ = [
    "PART_BYTES",
    "PART_DELTAS",
    "RESCUE_PREFIX",
    "LostTransaction",
    "LostWrite",
    "Rescue",
    "is_rescued",
]

RESCUE_PREFIX: Final = b"rescue/"
"""What operation ids made of an origin dot start with; clients may not use it."""

PART_DELTAS: Final = 1_000
PART_BYTES: Final = 1 << 20

_MARK_PREFIX: Final = "rescued:"


@dataclass(frozen=True, slots=True)
class LostWrite:
    """One lost delta, for people. ``state`` is lost, rescued, or arrived."""

    dot: str
    space: tuple[str, ...]
    datatype: str
    key: str
    field: str
    removes: bool
    value: Any
    author: str
    region: str
    time_us: int
    state: str


@dataclass(frozen=True, slots=True)
class LostTransaction:
    """One transaction beyond the cut. ``parts`` are runs of its deltas."""

    first: int
    author: str
    trust: int
    metadata: Metadata
    parts: tuple[tuple[PastDelta, ...], ...]

    @property
    def dot(self) -> str:
        """The name by which an operator chooses it: its first dot."""
        return str(unpack_dot(self.first))

    @property
    def last(self) -> int:
        """The sequence of its last delta."""
        return self.parts[-1][-1].dot & SEQUENCE_MASK


def is_rescued(state: State, dot: int) -> bool:
    """Tell whether what begins at ``dot`` was rescued, as far as this state knows."""
    table = state.find(SYSTEM_SPACE, AddWinsSet.code)
    if table is None:
        return False
    name = element_field(dot & SEQUENCE_MASK)
    return table.slot(_mark_key(dot), name) is not None


def _mark_key(dot: int) -> str:
    return _MARK_PREFIX + replica_text(dot >> SEQUENCE_BITS)


class Rescue:
    """What one evicted replica wrote beyond its cut.

    ``batches`` are those kept of it, in any order: the ones beyond ``cut`` are
    lost, the ones before it help to tell what an increment added.
    """

    def __init__(self, origin: int, cut: int, batches: Iterable[Batch]) -> None:
        self.origin = origin
        self.cut = cut
        kept = sorted(
            (batch for batch in batches if batch.header.replica == origin),
            key=lambda batch: batch.header.first,
        )
        self.transactions: list[LostTransaction] = [
            lost for batch in kept if batch.header.last > cut for lost in _transactions(batch)
        ]
        self._past = OriginPast(origin, cut, kept)

    def listing(self, state: State) -> list[LostWrite]:
        """Return every lost delta in the order in which it was written, and what became of it."""
        found: list[LostWrite] = []
        for lost in self.transactions:
            for part in lost.parts:
                standing = self._standing(lost, part, state)
                found += [_describe(delta, standing) for delta in part]
        return found

    def is_lost(self, lost: LostTransaction, state: State) -> bool:
        """Tell whether some part of a transaction has neither arrived nor been rescued."""
        return any(self._standing(lost, part, state) == "lost" for part in lost.parts)

    def _standing(self, lost: LostTransaction, part: tuple[PastDelta, ...], state: State) -> str:
        if state.vector.covers(part[0].dot):
            return "arrived"
        return "rescued" if is_rescued(state, _origin_dot(lost, part)) else "lost"

    def rescue(self, lost: LostTransaction, state: State) -> list[Transaction]:
        """Return what writes one lost transaction anew, unsealed; nothing if that was done.

        Write the transactions one after the other, each after the one before is
        published, and the next lost transaction after that: it may supersede
        what this one leaves. When one is answered as repeated, its client has
        been served elsewhere: leave out the rest of this lost transaction.

        Raises ``HistoryGap`` when what an increment added cannot be told, for
        want of the total before it.
        """
        made: list[Transaction] = []
        unseen = {dot for part in lost.parts for delta in part for dot in delta.superseded}
        for index, part in enumerate(lost.parts):
            if self._standing(lost, part, state) != "lost":
                continue
            origin_dot = _origin_dot(lost, part)
            identity = lost.metadata.get("i") if index == 0 else None
            transaction = Transaction(
                author=lost.author,
                trust=lost.trust,
                operation_id=identity if type(identity) is bytes else _identity(origin_dot),
                metadata={"r": str(unpack_dot(origin_dot))},
            )
            for operation in repeat(part, unseen, self._past, state):
                transaction.add(operation)
            mark = (origin_dot & SEQUENCE_MASK,)
            transaction.add(
                Operation(SYSTEM_SPACE, AddWinsSet.code, _mark_key(origin_dot), "add", mark)
            )
            made.append(transaction)
        return made


def _identity(dot: int) -> bytes:
    origin, sequence = unpack_dot(dot)
    return RESCUE_PREFIX + origin.to_bytes(8, "big") + sequence.to_bytes(8, "big")


def _origin_dot(lost: LostTransaction, part: tuple[PastDelta, ...]) -> int:
    """Return the dot that a part is known by: its own first, or that of what it repeats itself."""
    if part[0].dot == lost.first:
        repeats = parse_dot(lost.metadata.get("r"))
        if repeats is not None:
            return repeats
    return part[0].dot


def _transactions(batch: Batch) -> Iterable[LostTransaction]:
    """Yield the transactions of one batch."""
    starts = [first for _, _, _, first in batch.transactions] + [len(batch.segments)]
    for index, (_, _, metadata, first) in enumerate(batch.transactions):
        segments = batch.segments[first : starts[index + 1]]
        author, trust = metadata.get("a", ""), metadata.get("t", 0)
        yield LostTransaction(segments[0].first, author, trust, metadata, _parts(segments))


def _parts(segments: list[Segment]) -> tuple[tuple[PastDelta, ...], ...]:
    """Cut a transaction's deltas into parts that fit a transaction, each with its overhead."""
    parts: list[tuple[PastDelta, ...]] = []
    part: list[PastDelta] = []
    size_bytes = 0
    for segment in segments:
        for dot, key, name, value, superseded in segment.deltas():
            delta_bytes = 0 if value is REMOVED else len(pack(value))
            if part and (len(part) >= PART_DELTAS or size_bytes + delta_bytes > PART_BYTES):
                parts.append(tuple(part))
                part, size_bytes = [], 0
            part.append(PastDelta(segment, dot, key, name, value, superseded))
            size_bytes += delta_bytes
    return (*parts, tuple(part))


def _describe(delta: PastDelta, standing: str) -> LostWrite:
    place, inner = place_of(delta)
    stamp = delta.segment.stamp
    kind = DATATYPES_BY_CODE[place.datatype]
    labels = [*(place.path or ()), *([_field_text(inner)] if inner is not None else [])]
    return LostWrite(
        str(unpack_dot(delta.dot)),
        place.space,
        kind.name,
        place.key,
        "/".join(labels),
        delta.value is REMOVED,
        None if delta.value is REMOVED else thaw(delta.value),
        stamp.author,
        stamp.region,
        stamp.physical_us,
        standing,
    )


def _field_text(name: Field) -> str:
    if type(name) is int:
        return str(unpack_dot(name))
    member = parse_field(name)
    return str(name) if member is None else "/".join(member.path)
