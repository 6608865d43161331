"""Expiry: entries end for readers by themselves, and for good by a delta.

Problem: regions whose clocks differ must not disagree for ever about what has
expired, and no replica may change its state on its own.

Idea: expiry lives in the entry and is judged against ``now`` by each read, so
an expired entry is invisible everywhere at once (up to clock differences). Its
removal is an ordinary delta, written by the replica that wrote the entry, which
queues it here; once that replica's eviction is final, by its *heir*, the lowest live
member (see ``Membership``), which looks for what it left when it becomes that.

Invariants: a removal supersedes exactly the expired dot, so a concurrent write,
or a renewal that superseded it, survives, and two heirs at once do no harm.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterator
from typing import Any, Final

from crdtmem.batch import Segment, SpaceName
from crdtmem.entries import Field, as_siblings
from crdtmem.table import State
from crdtmem.transaction import Operation, Transaction

__all__ = ["ExpiryQueue"]

_BATCH: Final = 1_000

_Item = tuple[int, int, SpaceName, int, str, Any]


class ExpiryQueue:
    """The entries that this replica must remove when their time has come."""

    def __init__(self) -> None:
        self._heap: list[_Item] = []

    def __len__(self) -> int:
        return len(self._heap)

    def note(self, segment: Segment) -> None:
        """Queue the entries of a published segment with an expiry."""
        expires_at_us = segment.stamp.expires_at_us
        if expires_at_us is None or segment.values is None:
            return
        for dot, key, field, _, _ in segment.deltas():
            self.add(expires_at_us, dot, (segment.space, segment.datatype, key, field))

    def add(
        self, expires_at_us: int, dot: int, place: tuple[SpaceName, int, str, Field | None]
    ) -> None:
        """Queue one entry."""
        heapq.heappush(self._heap, (expires_at_us, dot, *place))

    def recover(self, state: State, replica: int) -> None:
        """Queue every entry with an expiry that this replica wrote: after a recovery.

        What a checkpoint covers is in the state only, and no segment tells of it.
        """
        self._heap = list(_expiring(state, (replica,)))
        heapq.heapify(self._heap)

    def inherit(self, state: State, origins: Collection[int]) -> None:
        """Queue every entry with an expiry that these replicas wrote: they never will."""
        self._heap += _expiring(state, origins)
        heapq.heapify(self._heap)

    def next_us(self) -> int | None:
        """Return when the next entry expires, or ``None``."""
        return self._heap[0][0] if self._heap else None

    def due(self, now_us: int, state: State) -> Transaction | None:
        """Take the entries that expired, and return the transaction that removes them."""
        transaction = Transaction()
        while self._heap and self._heap[0][0] <= now_us and len(transaction.steps) < _BATCH:
            _, dot, space, datatype, key, field = heapq.heappop(self._heap)
            table = state.find(space, datatype)
            slot = None if table is None else table.slot(key, field)
            if any(entry[0] == dot for entry in as_siblings(slot)):
                arguments = (field, frozenset((dot,)))
                transaction.add(Operation(space, datatype, key, "_remove", arguments))
        return transaction if transaction.steps else None


def _expiring(state: State, origins: Collection[int]) -> Iterator[_Item]:
    for table in state.tables.values():
        for key, field, slot in table.places():
            for dot, _, stamp in as_siblings(slot):
                if stamp.expires_at_us is not None and stamp.replica in origins:
                    yield stamp.expires_at_us, dot, table.space, table.datatype, key, field
