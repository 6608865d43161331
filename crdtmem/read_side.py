"""The read side: what a published state says, at any moment, without waiting.

Problem: reads must be quick, must never see what is not durable, and must say
what they stood on.

Idea: everything that a read needs is published state: tables, the vector, and
the policies derived from them. A flight that is out changes none of them, so a
read needs no lock and no copy; a vector is never changed in place once it is
published, so a reading keeps it and makes a token of it only when asked.

Invariants: equal state and ``now_us``, equal readings; nothing returned aliases
the state.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from heapq import heapify, heappop
from typing import Any, Final, TypeAlias

from crdtmem.batch import SpaceName
from crdtmem.causality import Context
from crdtmem.codec import SCALARS, thaw
from crdtmem.crdt import DATATYPES_BY_CODE, SHAPES
from crdtmem.derived import Policies
from crdtmem.entries import Field, Siblings
from crdtmem.policy import SYSTEM_SPACE, Policy
from crdtmem.reading import Reading, SpaceReader, describe, entries_of_place
from crdtmem.table import State

__all__ = ["REGISTER", "ConflictPosition", "ReadSide"]

ConflictPosition: TypeAlias = "tuple[SpaceName, int, str, Field | None]"
"""Where a conflict stands in the order of all: space, datatype's code, key and field."""

_KINDS: Final = (type(None), int, str, bytes)

REGISTER: Final = 1
"""The code of the datatype of plain values."""


class ReadSide:
    """A published state, to be read."""

    def __init__(self) -> None:
        self.state = State(SHAPES)
        self._policies = Policies(self.state)

    @property
    def context(self) -> Context:
        """What this replica has joined and published, as a token."""
        return Context(self.state.vector)

    def policy(self, space: SpaceName) -> Policy:
        """Return a space's policy, from the replicated record or the default."""
        return self._policies.of(space)

    @property
    def quotas(self) -> Mapping[SpaceName, Policy]:
        """The policies that set a quota, by space."""
        return self._policies.quotas

    def read(self, space: SpaceName, datatype: int, key: str, now_us: int) -> Reading:
        """Read one key, with all that a careful reader may want to know."""
        kind = DATATYPES_BY_CODE[datatype]
        table = self.state.find(space, datatype)
        place = None if table is None else table.slots.get(key)
        reader = SpaceReader(now_us, self.policy(space))
        entries = entries_of_place(place, nested=kind.nested, reader=reader)
        also = [
            other
            for (name, other), held in self.state.tables.items()
            if name == space
            and other != datatype
            and key in held.slots
            and DATATYPES_BY_CODE[other].exists(held.slots[key], reader)
        ]
        names = [DATATYPES_BY_CODE[other].name for other in sorted(also)]
        return Reading(
            kind.value(place, reader),
            entries,
            contested=any(True for _ in kind.conflicts(place, reader)),
            resolver=f"{reader.policy.resolver}@{reader.policy.resolver_version}",
            also=(*names, *kind.also(place, reader)),
            exists=kind.exists(place, reader),
            unknown_resolver=reader.unknown_resolver,
            vector=self.state.vector,
        )

    def peek(self, space: SpaceName, key: str, now_us: int, default: Any = None) -> Any:
        """Return a register's value, the fast way: one entry, unexpired, is all it looks at."""
        table = self.state.tables.get((space, REGISTER))
        slot = None if table is None else table.slots.get(key)
        if slot is None:
            return default
        if type(slot) is not Siblings and slot[2].expires_at_us is None:
            value = slot[1]
            return value if type(value) in SCALARS else thaw(value)
        reading = self.read(space, REGISTER, key, now_us)
        return reading.value if reading.exists else default

    def conflicts(
        self, space: SpaceName | None, now_us: int, after: ConflictPosition | None = None
    ) -> Iterator[tuple[SpaceName, str, str, Field | None, str, Any, list[dict[str, Any]]]]:
        """Yield what is contested now, of one space or all but the system's.

        In canonical order: by space, datatype, key and field, siblings by dot. Each is
        (space, datatype, key, field, resolver, resolved value, siblings). With ``after``, only
        what is beyond it. Others may write between two of them: each is as it is when yielded.
        """
        first = None if after is None else after[:2]
        for (name, code), table in sorted(self.state.tables.items()):
            if name == SYSTEM_SPACE or (space is not None and name != space):
                continue
            if first is not None and (name, code) < first:
                continue
            begun = after if after is not None and (name, code) == first else None
            kind, reader = DATATYPES_BY_CODE[code], SpaceReader(now_us, self.policy(name))
            resolver = f"{reader.policy.resolver}@{reader.policy.resolver_version}"
            for key in _from(table.contested_keys(), "" if begun is None else begun[2]):
                contested = kind.conflicts(table.slots.get(key), reader)
                for field, entries in sorted(contested, key=_by_field):
                    if begun is not None and key == begun[2]:
                        if _by_field((field, None)) <= _by_field((begun[3], None)):
                            continue
                    siblings = [describe(entry).as_value() for entry in entries]
                    value = thaw(reader.resolve(entries))
                    yield name, kind.name, key, field, resolver, value, siblings


def _from(keys: list[str], first: str) -> Iterator[str]:
    """Yield keys in order, from one on: who takes a few of many does not have all sorted."""
    heap = [key for key in keys if key >= first]
    heapify(heap)
    while heap:
        yield heappop(heap)


def _by_field(conflict: tuple[Field | None, Any]) -> tuple[int, Any]:
    """Return the sort key of a conflict within one key: fields by kind, then by value."""
    field = conflict[0]
    return (0, 0) if field is None else (_KINDS.index(type(field)), field)
