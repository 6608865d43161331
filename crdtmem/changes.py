"""Changes: what a subscriber is told of each delta that was published, and how it reads on.

Problem: an agent wants to react to what others write, without polling and
without learning how batches are laid out; and to go on after a pause, a restart or a
lost connection, with nothing told twice and nothing left out.

Idea: a published batch is unrolled into one ``Change`` per delta: where, by
whom, and its dot. A change carries no value: the value of a place is what a
read gives, and may have moved on. A feed hands changes over in ``Part``s, each with the
*cursor* from which to go on after it: the version vector of all that was told.
``ChangeReader`` makes of such parts what a reader holds, in every face alike.

Invariants: a change is told only after its delta is durable and visible here;
within one replica's dots they come in order, across replicas causally; a cursor names
whole batches only, so that resuming at one tells each dot once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self

from crdtmem.batch import Batch, Segment, SpaceName
from crdtmem.causality import Context
from crdtmem.crdt import DATATYPES_BY_CODE
from crdtmem.entries import SEQUENCE_MASK, unpack_dot
from crdtmem.policy import SYSTEM_SPACE

__all__ = ["Change", "ChangeReader", "Lagging", "Part", "changes_of", "count_changes"]


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

    def as_value(self) -> dict[str, Any]:
        """Return the change as a plain dict."""
        value = {name: getattr(self, name) for name in Change.__slots__}
        return {**value, "space": list(self.space)}


@dataclass(frozen=True, slots=True)
class Part:
    """Changes that were handed over together, and the cursor from which to go on after them.

    It holds whole batches, and so whole transactions; but of a very large batch, pieces: then
    ``cursor`` is ``None`` until the last of them, because nobody can go on in the middle. A
    part without changes only moves the cursor past what was not asked for.
    """

    cursor: Context | None
    changes: list[Change]

    def as_value(self) -> dict[str, Any]:
        """Return the part as a plain dict, the cursor as its token."""
        cursor = None if self.cursor is None else str(self.cursor)
        return {"cursor": cursor, "changes": [change.as_value() for change in self.changes]}


@dataclass(frozen=True, slots=True)
class Lagging:
    """The reader is too slow: so many changes, of any space, now come out of the log instead."""

    missed: int

    def as_value(self) -> dict[str, Any]:
        """Return it as a plain dict."""
        return {"lagging": self.missed}


class ChangeReader(ABC):
    """What a reader of changes holds: changes one by one, or the parts that they came in.

    Made for one reader at a time. ``cursor`` moves when the last change of a part was taken;
    ``lagged`` counts how often the reader was told that it is too slow.
    """

    def __init__(self, cursor: Context) -> None:
        self.cursor = cursor
        self.lagged = 0
        self._rest: deque[Change] = deque()
        self._beyond: Context | None = None

    @abstractmethod
    async def following(self) -> Part | Lagging:
        """Wait for the next part, or for the news that this reader is too slow."""

    @abstractmethod
    async def close(self) -> None:
        """End the feed. Idempotent."""

    async def next(self) -> Part | Lagging:
        """Return the next part, waiting for it, or the news that this reader is too slow.

        What ``async for`` left of a part that it began comes first.
        """
        if self._rest:
            part: Part | Lagging = Part(self._beyond, list(self._rest))
            self._rest.clear()
        else:
            part = await self.following()
        if isinstance(part, Lagging):
            self.lagged += 1
        elif part.cursor is not None:
            self.cursor = part.cursor
        return part

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Change:
        while not self._rest:
            part = await self.following()
            if isinstance(part, Lagging):
                self.lagged += 1
                continue
            self._rest.extend(part.changes)
            self._beyond = part.cursor
            self._move()
        change = self._rest.popleft()
        self._move()
        return change

    def _move(self) -> None:
        if not self._rest and self._beyond is not None:
            self.cursor = self._beyond


def _told(batch: Batch, space: SpaceName | None) -> Iterator[Segment]:
    """Yield the segments of one space, or of all but the system's."""
    for segment in batch.segments:
        if segment.space == space if space is not None else segment.space != SYSTEM_SPACE:
            yield segment


def _skipped(segment: Segment, after: int) -> int:
    """Return how many deltas of a segment have sequences up to ``after``."""
    return min(segment.count, max(0, after + 1 - (segment.first & SEQUENCE_MASK)))


def count_changes(batch: Batch, space: SpaceName | None = None, *, after: int = 0) -> int:
    """Return how many changes ``changes_of`` yields."""
    return sum(segment.count - _skipped(segment, after) for segment in _told(batch, space))


def changes_of(batch: Batch, space: SpaceName | None = None, *, after: int = 0) -> Iterator[Change]:
    """Yield the changes that a batch brought, of one space or of all but the system's.

    Those with sequences up to ``after`` are left out.
    """
    for segment in _told(batch, space):
        stamp = segment.stamp
        name = DATATYPES_BY_CODE[segment.datatype].name
        removed = segment.values is None
        keys = segment.keys
        for index in range(_skipped(segment, after), segment.count):
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
