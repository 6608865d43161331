"""Changes: what a subscriber is told of each delta that was published.

Problem: an agent wants to react to what others write, without polling and
without learning how batches are laid out.

Idea: a published batch is unrolled into one ``Change`` per delta: where, by
whom, and its dot. A change carries no value: the value of a place is what a
read gives, and may have moved on.

Invariants: a change is told only after its delta is durable and visible here;
within one replica's dots they come in order, across replicas causally.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from crdtmem.batch import Batch, SpaceName
from crdtmem.crdt import DATATYPES_BY_CODE
from crdtmem.entries import unpack_dot
from crdtmem.policy import SYSTEM_SPACE

__all__ = ["Change", "changes_of"]


@dataclass(frozen=True, slots=True)
class Change:
    """One delta that became visible: its place, its dot, and who wrote it, where and when.

    ``removed`` marks a delta that only took entries away.
    """

    space: SpaceName
    datatype: str
    key: str
    dot: str
    removed: bool
    author: str
    region: str
    time_us: int


def changes_of(batch: Batch, space: SpaceName | None = None) -> Iterator[Change]:
    """Yield the changes that a batch brought, of one space or of all but the system's."""
    for segment in batch.segments:
        if segment.space != space if space is not None else segment.space == SYSTEM_SPACE:
            continue
        stamp = segment.stamp
        name = DATATYPES_BY_CODE[segment.datatype].name
        removed = segment.values is None
        keys = segment.keys
        for index in range(segment.count):
            yield Change(
                segment.space,
                name,
                keys if type(keys) is str else keys[index],
                str(unpack_dot(segment.first + index)),
                removed,
                stamp.author,
                stamp.region,
                stamp.physical_us,
            )
