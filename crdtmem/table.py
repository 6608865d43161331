"""The state: one decomposed table, changed only through overlays.

Problem: nothing may be visible before it is durable, yet the next transaction
must be built upon those before it; a failed commit must leave no trace; and
joining a delta must cost a fraction of a microsecond.

Idea: every change, local or remote, is staged in an ``Overlay``: per table a
small dictionary of the slots that differ. Lookups see the overlay first. When
the batches are durable the overlay is *published* with one ``dict.update`` per
table; when the commit failed it is dropped, and the state was never touched.

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

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import count, repeat
from operator import itemgetter, sub
from typing import Any, Final

from crdtmem.batch import Segment, SpaceName, superseded_dots
from crdtmem.causality import VersionVector
from crdtmem.digest import DotDigest
from crdtmem.entries import EMPTY, Entry, Field, Siblings, Slot, Stamp, as_siblings, as_slot

__all__ = [
    "BULK_AT",
    "Overlay",
    "Shape",
    "State",
    "Table",
    "join_slot",
    "put_fresh",
    "put_over",
]

Names = "dict[Any, Slot]"
_ABSENT: Final[dict[Any, Slot]] = {}
_ENTRY_ONLY: Final = frozenset({tuple})
_dot_of: Final = itemgetter(0)

BULK_AT: Final = 8
"""Runs of at least so many deltas try the bulk ways of staging first."""


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
        self.digests = {}
        live: dict[SpaceName, list[int]] = {}
        for table in self.tables.values():
            dots = live.setdefault(table.space, [])
            table.contested = {}
            for key, field, slot in table.places():
                if type(slot) is Siblings:
                    dots += [entry[0] for entry in slot]
                    if table.conflicting:
                        table.contested[key, field] = None
                else:
                    dots.append(slot[0])  # type: ignore[arg-type]
        for space, dots in live.items():
            self.digest_of(space).add(dots)


class Overlay:
    """Changes staged upon a state: seen by later staging, invisible to readers."""

    __slots__ = ("_contested", "_flat", "_nested", "added", "emptied", "removed", "state")

    def __init__(self, state: State) -> None:
        self.state = state
        self._flat: dict[Table, dict[str, Slot]] = {}
        self._nested: dict[Table, dict[str, dict[Any, Slot]]] = {}
        self._contested: list[tuple[Table, str, Field | None]] = []
        self.added: list[tuple[SpaceName, int, int]] = []
        self.removed: dict[SpaceName, list[int]] = {}
        # Whether any staged slot may be empty, so that publishing must look for them.
        self.emptied = False

    def flat(self, table: Table) -> dict[str, Slot]:
        """Return the staged slots of a flat table, to read and to write."""
        over = self._flat.get(table)
        if over is None:
            over = self._flat[table] = {}
        return over

    def fields(self, table: Table, key: str) -> tuple[dict[Any, Slot], dict[Any, Slot]]:
        """Return the staged and the published fields of one key of a nested table."""
        keys = self._nested.get(table)
        if keys is None:
            keys = self._nested[table] = {}
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
        removed = self.removed_of(segment.space)
        if segment.values is None:
            self.emptied = True
        else:
            self.added.append((segment.space, segment.first, segment.count))
        if not table.nested:
            keys = segment.keys
            names = repeat(keys, segment.count) if type(keys) is str else keys
            contested: list[Any] = []
            _join_column(self.flat(table), table.slots, names, segment, removed, contested)
            for key in contested:
                self.note_contested(table, key, None)
            return
        fields = _absolute_fields(segment)
        if type(segment.keys) is str:
            over, base = self.fields(table, segment.keys)
            contested = []
            _join_column(over, base, fields, segment, removed, contested)
            for field in contested:
                self.note_contested(table, segment.keys, field)
            return
        self._join_scattered(table, segment, fields, removed)

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

    def publish(self) -> None:
        """Make everything staged visible, and note it in the digests."""
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
        digest_of = self.state.digest_of
        for space, first, length in self.added:
            digest_of(space).add_range(first, length)
        for space, removed in self.removed.items():
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


def _join_column(
    over: dict[Any, Slot],
    base: dict[Any, Slot],
    names: Iterable[Any],
    segment: Segment,
    removed: list[int],
    contested: list[Any],
) -> None:
    """The hot loop: join a column of deltas into one dictionary of slots."""
    if segment.count >= BULK_AT and type(names) in (list, tuple):
        if _join_bulk(over, base, names, segment, removed):  # type: ignore[arg-type]
            return
    dot, values, stamp = segment.first, segment.values, segment.stamp
    over_get: Callable[[Any], Any] = over.get
    base_get: Callable[[Any], Any] = base.get
    column: Iterable[Any] = repeat(0) if segment.superseded is None else segment.superseded
    if values is None:
        for name, superseded in zip(names, column, strict=False):
            current = over_get(name)
            if current is None:
                current = base_get(name)
            slot = join_slot(current, None, superseded_dots(superseded, dot), removed)
            over[name] = slot
            if type(slot) is Siblings and slot:
                contested.append(name)
            dot += 1
        return
    forget = removed.append
    for name, value, superseded in zip(names, values, column, strict=False):
        current = over_get(name)
        if current is None:
            current = base_get(name)
        if current is None:
            over[name] = (dot, value, stamp)
        elif type(current) is tuple and (
            dot - superseded == current[0] if type(superseded) is int else current[0] in superseded
        ):
            # The usual overwrite: the one entry that was there is the one that was observed.
            if current[0] != dot:
                forget(current[0])
            over[name] = (dot, value, stamp)
        else:
            slot = join_slot(
                current, (dot, value, stamp), superseded_dots(superseded, dot), removed
            )
            over[name] = slot
            if type(slot) is Siblings and slot:
                contested.append(name)
        dot += 1


def _join_bulk(
    over: dict[Any, Slot],
    base: dict[Any, Slot],
    names: Sequence[Any],
    segment: Segment,
    removed: list[int],
) -> bool:
    """Join a column all at once where it is plain enough; tells whether it was."""
    first, values, stamp = segment.first, segment.values, segment.stamp
    if values is None:
        return False
    if segment.superseded is None:
        return put_fresh(over, base, first, names, values, stamp)
    if type(segment.superseded) is not tuple:
        return False
    observed = list(map(sub, range(first, first + segment.count), segment.superseded))
    if put_over(over, base, first, names, values, stamp, observed) is None:
        return False
    removed += observed
    return True


def put_fresh(
    over: dict[Any, Slot],
    base: dict[Any, Slot],
    first: int,
    names: Sequence[Any],
    values: Sequence[Any],
    stamp: Stamp,
) -> bool:
    """Stage entries for names that hold nothing, all at once; tells whether that was so.

    A run of new keys is what loading and logging look like; done in bulk it costs
    half of what the loop costs. Changes nothing when it returns ``False``.
    """
    if not (base.keys().isdisjoint(names) and over.keys().isdisjoint(names)):
        return False
    return _stage_all(over, first, names, values, stamp)


def put_over(
    over: dict[Any, Slot],
    base: dict[Any, Slot],
    first: int,
    names: Sequence[Any],
    values: Sequence[Any],
    stamp: Stamp,
    expected: list[int] | None = None,
) -> list[int] | None:
    """Stage entries over single published ones, all at once; returns the dots replaced.

    Returns ``None``, having changed nothing, when some name is staged already,
    comes twice, holds no single entry, or holds another dot than ``expected``.
    """
    if not over.keys().isdisjoint(names):
        return None
    held: list[Any] = list(map(base.get, names))
    if set(map(type, held)) != _ENTRY_ONLY:
        return None
    dots = list(map(_dot_of, held))
    if expected is not None and dots != expected:
        return None
    return dots if _stage_all(over, first, names, values, stamp) else None


def _stage_all(
    over: dict[Any, Slot], first: int, names: Sequence[Any], values: Sequence[Any], stamp: Stamp
) -> bool:
    """Stage entries for names that are not staged yet; tells whether each came once."""
    size = len(over)
    over.update(zip(names, zip(count(first), values, repeat(stamp)), strict=False))
    if len(over) == size + len(names):
        return True
    # A name came twice: take it back, the loop will join one after the other.
    for name in names:
        over.pop(name, None)
    return False


def join_slot(
    slot: Slot | None, entry: Entry | None, superseded: Iterable[int], removed: list[int]
) -> Slot:
    """Return a slot without the superseded dots and with the entry: the join of one delta.

    The dots that were really there are appended to ``removed``. An entry whose
    dot is already present is not added twice.
    """
    gone = set(superseded)
    kept: list[Entry] = []
    for old in as_siblings(slot):
        if old[0] in gone:
            removed.append(old[0])
        elif entry is None or old[0] != entry[0]:
            kept.append(old)
    if entry is not None:
        kept.append(entry)
    return as_slot(kept) if kept else EMPTY
