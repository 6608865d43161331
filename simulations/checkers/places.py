"""Places: what the history says of one key, without any table.

Problem: several checkers ask what a key held at some vector.

Idea: an index of deltas by key, brought up to date from the history's log when it is asked:
for each delta its dot, field and value, and the dots that it listed. What is live at a vector
is what was added within it and not listed within it.

Invariants: independent of joins and tables; the first batch seen under a name counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from crdtmem.batch import REMOVED, SpaceName
from crdtmem.crdt import DATATYPES
from crdtmem.entries import SEQUENCE_BITS, SEQUENCE_MASK, Field, Stamp
from simulations.checkers.base import Tail
from simulations.history import History

__all__ = ["Delta", "Place", "Places", "covers", "place_of"]

Place = tuple[SpaceName, int, str]
"""A key: its space, its datatype's code, its name."""


def place_of(arguments: Mapping[str, Any], datatype: str = "") -> Place:
    """Return the key that the arguments of a step name, with its own or another datatype."""
    code = DATATYPES[datatype or arguments["datatype"]].code
    return tuple(arguments["space"]), code, arguments["key"]


class Delta(NamedTuple):
    """One delta of a key."""

    dot: int
    field: Field | None
    value: Any
    superseded: tuple[int, ...]
    stamp: Stamp

    @property
    def removes_only(self) -> bool:
        """Whether it adds nothing."""
        return self.value is REMOVED


class Places:
    """The deltas of every key, by (space, code, key)."""

    def __init__(self, history: History) -> None:
        self._history = history
        self._new_batches = Tail(history.log)
        self._deltas: dict[Place, list[Delta]] = {}

    def deltas(self, space: SpaceName, code: int, key: str) -> list[Delta]:
        """Return all deltas of a key that were ever durable."""
        for batch in self._new_batches:
            for segment in batch.segments:
                for dot, name, field, value, superseded in segment.deltas():
                    place = (segment.space, segment.datatype, name)
                    found = self._deltas.setdefault(place, [])
                    found.append(Delta(dot, field, value, superseded, segment.stamp))
        return self._deltas.get((space, code, key), [])

    def live(
        self, space: SpaceName, code: int, key: str, vector: Mapping[int, int]
    ) -> dict[int, Delta]:
        """Return the entries of a key at a vector, by dot."""
        found: dict[int, Delta] = {}
        gone: set[int] = set()
        for delta in self.deltas(space, code, key):
            if covers(vector, delta.dot):
                gone.update(delta.superseded)
                if not delta.removes_only:
                    found[delta.dot] = delta
        return {dot: delta for dot, delta in found.items() if dot not in gone}


def covers(vector: Mapping[int, int], dot: int) -> bool:
    """Tell whether a vector covers a dot."""
    return vector.get(dot >> SEQUENCE_BITS, 0) >= dot & SEQUENCE_MASK
