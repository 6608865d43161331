"""The state: one decomposed table, changed only through overlays.

Problem: nothing may be visible before it is durable, yet the next transaction
must be built upon those before it; a failed commit must leave no trace; and
joining a delta must cost a fraction of a microsecond.

Idea: every change, local or remote, is staged in an ``Overlay``: per table a
small dictionary of the slots that differ. Lookups see the overlay first. When
the batches are durable the overlay is *published* with one ``dict.update`` per
table; when the commit failed it is dropped, and the state was never touched.
A join cannot be refused, so it needs no staging: segments from elsewhere are only
kept, until they are published or somebody looks at their table.

A table holds one (space, datatype). *Flat* datatypes map a key to a slot;
*nested* ones map a key to a dictionary of field to slot. A ``Slot`` is one
entry, or ``Siblings``.

Invariants, which make the join a lattice join under causal delivery: a delta
removes exactly the dots that it lists and adds at most its own; an entry is
present iff its delta was joined and no joined delta listed it. Joining a delta
twice changes nothing, so a log may be replayed over a newer checkpoint.

This is the decomposed OR-set of bigsets (Brown et al., 2016) with a version
vector in place of tombstones.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import repeat
from typing import Any, Final

from crdtmem.batch import Segment, SpaceName, superseded_dots
from crdtmem.causality import VersionVector
from crdtmem.columns import Distances
from crdtmem.digest import DotDigest
from crdtmem.entries import EMPTY, Entry, Field, Siblings, Slot, as_siblings
from crdtmem.joining import join_bulk, join_column, join_slot

__all__ = ["Overlay", "Shape", "State", "Table"]

_ABSENT: Final[dict[Any, Slot]] = {}


class Shape:
    """How a datatype is laid out: whether it has fields, and whether siblings are conflicts."""

    __slots__ = ("conflicting", "nested")

    def __init__(self, *, nested: bool, conflicting: bool) -> None:
        self.nested = nested
        self.conflicting = conflicting


class Table:
    """All keys of one datatype in one space."""

    __slots__ = ("conflicting", "contested", "datatype", "nested", "slots", "space")

    def __init__(self, space: SpaceName, datatype: int, shape: Shape) -> None:
        self.space = space
        self.datatype = datatype
        self.nested = shape.nested
        self.conflicting = shape.conflicting
        self.slots: dict[str, Any] = {}
        # Places that hold, or once held, several siblings; readers drop the stale ones.
        self.contested: dict[tuple[str, Field | None], None] = {}

    def slot(self, key: str, field: Field | None = None) -> Slot | None:
        """Return what one place holds, or ``None``."""
        if not self.nested:
            return self.slots.get(key)
        fields = self.slots.get(key)
        return None if fields is None else fields.get(field)

    def places(self) -> Iterator[tuple[str, Field | None, Slot]]:
        """Yield every place with its slot."""
        if not self.nested:
            for key, slot in self.slots.items():
                yield key, None, slot
            return
        for key, fields in self.slots.items():
            for field, slot in fields.items():
                yield key, field, slot

    def contested_keys(self) -> list[str]:
        """Return the keys of which some place holds several siblings now."""
        keys: dict[str, None] = {}
        for key, field in list(self.contested):
            if type(self.slot(key, field)) is Siblings:
                keys[key] = None
            else:
                del self.contested[key, field]
        return list(keys)


class State:
    """A replica's joined state: tables, digests per space, and the version vector."""

    __slots__ = ("digests", "shapes", "tables", "vector")

    def __init__(self, shapes: dict[int, Shape]) -> None:
        self.shapes = shapes
        self.tables: dict[tuple[SpaceName, int], Table] = {}
        self.digests: dict[SpaceName, DotDigest] = {}
        self.vector = VersionVector()

    def table(self, space: SpaceName, datatype: int) -> Table:
        """Return the table, made when new; raises ``KeyError`` for an unknown datatype."""
        table = self.tables.get((space, datatype))
        if table is None:
            table = Table(space, datatype, self.shapes[datatype])
            self.tables[space, datatype] = table
        return table

    def find(self, space: SpaceName, datatype: int) -> Table | None:
        """Return the table if it exists."""
        return self.tables.get((space, datatype))

    def digest_of(self, space: SpaceName) -> DotDigest:
        """Return the running digest of one space."""
        digest = self.digests.get(space)
        if digest is None:
            digest = self.digests[space] = DotDigest()
        return digest

    def digest(self) -> tuple[int, int]:
        """Return the digest of all live dots, as two lanes of 64 bits."""
        first = second = 0
        for digest in self.digests.values():
            lanes = digest.value()
            first += lanes[0]
            second += lanes[1]
        return first & 0xFFFFFFFFFFFFFFFF, second & 0xFFFFFFFFFFFFFFFF

    def entries(self) -> Iterator[tuple[Table, str, Field | None, Entry]]:
        """Yield every live entry with its place."""
        for table in self.tables.values():
            for key, field, slot in table.places():
                for entry in as_siblings(slot):
                    yield table, key, field, entry

    def rebuild_derived(self) -> None:
        """Recompute digests and conflict lists from the entries: after a recovery."""
        for _ in self.derive_in_slices(1 << 62):
            pass

    def derive_in_slices(self, entries: int) -> Iterator[None]:
        """Do the same, about so many entries at a time; nothing may change meanwhile."""
        self.digests = {}
        for table in self.tables.values():
            digest, dots = self.digest_of(table.space), list[int]()
            table.contested = {}
            for key, field, slot in table.places():
                if type(slot) is Siblings:
                    dots += [entry[0] for entry in slot]
                    if table.conflicting:
                        table.contested[key, field] = None
                else:
                    dots.append(slot[0])  # type: ignore[arg-type]
                if len(dots) >= entries:
                    digest.add(dots)
                    dots = []
                    yield
            digest.add(dots)


class Overlay:
    """Changes staged upon a state: seen by later staging, invisible to readers."""

    __slots__ = (
        "_contested",
        "_flat",
        "_joined",
        "_joins",
        "_nested",
        "_removed",
        "_replaced",
        "added",
        "emptied",
        "removed",
        "replaced",
        "state",
    )

    def __init__(self, state: State) -> None:
        self.state = state
        self._flat: dict[Table, dict[str, Slot]] = {}
        self._nested: dict[Table, dict[str, dict[Any, Slot]]] = {}
        # Segments of tables that nobody has looked at, to be joined when they are published.
        self._joins: dict[Table, list[Segment]] = {}
        self._contested: list[tuple[Table, str, Field | None]] = []
        # What joins added and removed, apart: who takes a transaction back must not touch it.
        self._joined: list[tuple[SpaceName, int, int]] = []
        self._removed: dict[SpaceName, list[int]] = {}
        self._replaced: list[tuple[SpaceName, int, Distances[int]]] = []
        self.added: list[tuple[SpaceName, int, int]] = []
        self.removed: dict[SpaceName, list[int]] = {}
        # Removed dots once more, as distances from deltas numbered from a first one on.
        self.replaced: list[tuple[SpaceName, int, Distances[int]]] = []
        # Whether any staged slot may be empty, so that publishing must look for them.
        self.emptied = False

    def flat(self, table: Table) -> dict[str, Slot]:
        """Return the staged slots of a flat table, to read and to write."""
        over = self._flat.get(table)
        if over is None:
            over = self._flat[table] = {}
            self._catch_up(table)
        return over

    def fields(self, table: Table, key: str) -> tuple[dict[Any, Slot], dict[Any, Slot]]:
        """Return the staged and the published fields of one key of a nested table."""
        keys = self._nested.get(table)
        if keys is None:
            keys = self._nested[table] = {}
            self._catch_up(table)
        over = keys.get(key)
        if over is None:
            over = keys[key] = {}
        return over, table.slots.get(key, _ABSENT)

    def names(self, table: Table, key: str) -> tuple[dict[Any, Slot], dict[Any, Slot]]:
        """Return the two dictionaries that hold this key's slots, flat or nested."""
        if table.nested:
            return self.fields(table, key)
        return self.flat(table), table.slots

    def slot(self, table: Table, key: str, field: Field | None = None) -> Slot | None:
        """Return what a place holds, staged changes included."""
        over, base = self.names(table, key)
        name = field if table.nested else key
        slot = over.get(name)
        if slot is None:
            return base.get(name)
        return None if slot is EMPTY or not slot else slot

    def removed_of(self, space: SpaceName) -> list[int]:
        """Return the list that gathers the dots removed from a space."""
        removed = self.removed.get(space)
        if removed is None:
            removed = self.removed[space] = []
        return removed

    def note_contested(self, table: Table, key: str, field: Field | None) -> None:
        """Remember a place that holds several siblings, if that is a conflict there."""
        if table.conflicting:
            self._contested.append((table, key, field))

    def join(self, segment: Segment) -> None:
        """Join a segment's deltas. Total: refuses nothing, interprets nothing."""
        table = self.state.table(segment.space, segment.datatype)
        if segment.values is not None:
            self._joined.append((segment.space, segment.first, segment.count))
        waiting = self._joins.get(table)
        if waiting is not None:
            waiting.append(segment)
        elif table in self._flat or table in self._nested:
            self._join_staged(table, segment)
        else:
            self._joins[table] = [segment]

    def _catch_up(self, table: Table) -> None:
        """Stage the joins that wait for a table, before anybody looks at it."""
        for segment in self._joins.pop(table, ()):
            self._join_staged(table, segment)

    def _join_published(self, table: Table, segment: Segment) -> bool:
        """Join a plain segment straight into the published slots; tells whether it was plain."""
        slots, names = table.slots, segment.keys
        if table.nested:
            if type(names) is not str:
                return False
            slots, names = slots.get(names, _ABSENT), _absolute_fields(segment)
            if not slots:
                return False
        elif type(names) is str:
            return False
        if not join_bulk(slots, slots, names, segment):
            return False
        if segment.superseded is not None:
            self._replaced.append((segment.space, segment.first, segment.superseded))
        return True

    def _join_staged(self, table: Table, segment: Segment) -> None:
        """Join a segment into the staged slots."""
        if segment.values is None:
            self.emptied = True
        if not table.nested:
            keys = segment.keys
            names = repeat(keys, segment.count) if type(keys) is str else keys
            for key in self._join_column(self.flat(table), table.slots, names, segment):
                self.note_contested(table, key, None)
            return
        fields = _absolute_fields(segment)
        if type(segment.keys) is str:
            over, base = self.fields(table, segment.keys)
            for field in self._join_column(over, base, fields, segment):
                self.note_contested(table, segment.keys, field)
            return
        self._join_scattered(table, segment, fields, self._removed.setdefault(segment.space, []))

    def _join_column(
        self, over: dict[Any, Slot], base: dict[Any, Slot], names: Any, segment: Segment
    ) -> list[Any]:
        """Join a column of deltas into staged slots; returns the names with siblings."""
        if type(names) in (list, tuple) and join_bulk(over, base, names, segment):
            if segment.superseded is not None:
                self._replaced.append((segment.space, segment.first, segment.superseded))
            return []
        removed = self._removed.setdefault(segment.space, [])
        return join_column(over, base, names, segment, removed)

    def _join_scattered(
        self, table: Table, segment: Segment, fields: Iterable[Any], removed: list[int]
    ) -> None:
        """Join deltas of a nested table whose keys differ from one to the next."""
        dot = segment.first
        values = repeat(None) if segment.values is None else segment.values
        column = repeat(0) if segment.superseded is None else segment.superseded
        for key, field, value, superseded in zip(
            segment.keys, fields, values, column, strict=False
        ):
            over, base = self.fields(table, key)
            current = over.get(field)
            if current is None:
                current = base.get(field)
            entry = None if segment.values is None else (dot, value, segment.stamp)
            slot = join_slot(current, entry, superseded_dots(superseded, dot), removed)
            over[field] = slot
            if type(slot) is Siblings and slot:
                self.note_contested(table, key, field)
            dot += 1

    def publish(self, *, digests: bool = True) -> None:
        """Make everything staged visible, and note it in the digests unless told not to."""
        joins, self._joins = self._joins, {}
        for table, segments in joins.items():
            plain = True
            for segment in segments:
                plain = plain and self._join_published(table, segment)
                if not plain:
                    self._join_staged(table, segment)
        for table, over in self._flat.items():
            _publish(table.slots, over, self.emptied)
        for table, keys in self._nested.items():
            slots = table.slots
            for key, over in keys.items():
                base = slots.get(key)
                if base is None:
                    base = slots[key] = {}
                _publish(base, over, self.emptied)
                if not base:
                    del slots[key]
        for table, key, field in self._contested:
            table.contested[key, field] = None
        if digests:
            self._note_digests()

    def _note_digests(self) -> None:
        digest_of = self.state.digest_of
        for listed in (self._joined, self.added):
            for space, first, length in listed:
                digest_of(space).add_range(first, length)
        for replaced in (self._replaced, self.replaced):
            for space, first, distances in replaced:
                digest_of(space).remove_before(first, distances)
        for gone in (self._removed, self.removed):
            for space, removed in gone.items():
                if removed:
                    digest_of(space).remove(removed)


def _publish(slots: dict[Any, Slot], over: dict[Any, Slot], emptied: bool) -> None:
    if not emptied:
        slots.update(over)
        return
    for name, slot in over.items():
        if slot:
            slots[name] = slot
        else:
            slots.pop(name, None)


def _absolute_fields(segment: Segment) -> Any:
    fields, first = segment.fields, segment.first
    if type(fields) is tuple and fields and type(fields[0]) is not int:
        return fields
    return [
        first + index if field == 0 and type(field) is int else field
        for index, field in enumerate(fields)
    ]
