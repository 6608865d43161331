"""Merging states: another replica's, or a difference to it, upon ours, a slice at a time.

Problem: the join of two states of a million entries takes seconds, during which nobody
would be read for, answered or heard; yet it must become visible as a whole.

Idea: the join is staged in an overlay, and who does it asks for it slice by slice, with
other work in between. Nothing of it is seen before ``publish``, which is then one update
of each dictionary: what can be summed before, above all the digest, has been summed.

Invariants: while a merge is under way the state that it stands on does not change (see
``install.InstallationStage``); the slices together are the join, wherever they are cut; an
entry survives iff both sides hold it, or the side that lacks it has never joined its dot.

The join is the ORSWOT merge of Bieniusa et al., "An Optimized Conflict-free
Replicated Set" (2012), per place.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, islice
from operator import itemgetter
from typing import Any, Final, TypeVar

from crdtmem.batch import SpaceName
from crdtmem.causality import VersionVector
from crdtmem.digest import DotDigest
from crdtmem.entries import (
    EMPTY,
    SEQUENCE_BITS,
    SEQUENCE_MASK,
    Entry,
    Field,
    Siblings,
    Slot,
    as_siblings,
    as_slot,
)
from crdtmem.table import Overlay, State, Table

__all__ = [
    "SLICE_PLACES",
    "Merge",
    "add_entries",
    "drop_entries",
    "join_states",
    "late_dots",
    "merge_states",
]

_FEW: Final = 64
_MANY: Final = 20_000
SLICE_PLACES: Final = 4_000
"""How many places are looked at between two turns of whatever else there is to do."""

T = TypeVar("T")
Names = Mapping[Any, Slot]
_NOTHING: Final[Names] = {}
_dot_of: Final = itemgetter(0)


class Merge(Overlay):
    """An overlay that sums up what it adds and removes while it is staged."""

    __slots__ = ("_rebuilt", "_summed")

    def __init__(self, state: State) -> None:
        super().__init__(state)
        self._summed: dict[SpaceName, DotDigest] = {}
        # What large tables become, beside what they are: to be published by one assignment.
        self._rebuilt: dict[Table, dict[str, Any]] = {}

    def note(self, space: SpaceName, added: list[int], removed: list[int]) -> None:
        """Note dots as added to a space, and others as removed from it."""
        digest = self._summed.get(space)
        if digest is None:
            digest = self._summed[space] = DotDigest()
        if len(added) > _FEW:
            digest.add(added)
        else:
            for dot in added:
                digest.add_range(dot, 1)
        digest.remove(removed)

    @property
    def changes(self) -> bool:
        """Whether publishing it changes any digest."""
        return any(digest.value() != (0, 0) for digest in self._summed.values())

    def publish(self, *, digests: bool = True) -> None:
        """Make everything staged visible, all at once."""
        for table, slots in self._rebuilt.items():
            table.slots = slots
        super().publish(digests=digests)
        if digests:
            for space, digest in self._summed.items():
                self.state.digest_of(space).take_in(digest)

    def put(self, table: Table, key: str, name: Field | None, slot: Slot) -> None:
        """Stage what one place becomes, ``EMPTY`` for nothing."""
        over, _ = self.names(table, key)
        over[name if table.nested else key] = slot
        if type(slot) is Siblings:
            if slot:
                self.note_contested(table, key, name)
            else:
                self.emptied = True

    def settle(self) -> Iterator[None]:
        """Rebuild aside what changes much, a slice at a time: nothing is staged afterwards."""
        for table in [table for table, over in self._flat.items() if len(over) > _MANY]:
            fresh: dict[str, Any] = {}
            yield from _apply(fresh, table.slots)
            yield from _apply(fresh, self._flat.pop(table))
            self._rebuilt[table] = fresh
        for table, keys in list(self._nested.items()):
            if len(keys) + max(map(len, keys.values()), default=0) <= _MANY:
                continue
            fresh = {}
            yield from _apply(fresh, table.slots)
            for number, (key, over) in enumerate(self._nested.pop(table).items(), 1):
                fields: dict[Any, Slot] = {}
                for part in (table.slots.get(key, _NOTHING), over):
                    yield from _apply(fields, part)
                if fields:
                    fresh[key] = fields
                else:
                    fresh.pop(key, None)
                if number % SLICE_PLACES == 0:
                    yield
            self._rebuilt[table] = fresh


def _apply(slots: dict[Any, Any], changes: Mapping[Any, Any]) -> Iterator[None]:
    """Put changes into slots, a slice at a time; those that are empty leave nothing."""
    for part in _sliced(changes.items()):
        slots.update(part)
        for name in [name for name, slot in part if not slot]:
            del slots[name]
        if len(part) == SLICE_PLACES:
            yield


def _sliced(items: Iterable[T]) -> Iterator[list[T]]:
    """Yield what there is in lists of a slice each."""
    iterator = iter(items)
    while part := list(islice(iterator, SLICE_PLACES)):
        yield part


# ------------------------------------------------------------------ two whole states


def join_states(local: State, snapshot: State) -> Merge:
    """Return the join of two whole states, each complete at its vector, upon ``local``."""
    merge = Merge(local)
    for _ in chain(merge_states(merge, snapshot), merge.settle()):
        pass
    return merge


def merge_states(merge: Merge, snapshot: State) -> Iterator[None]:
    """Stage the join of two whole states, a slice at a time."""
    local = merge.state
    for space, datatype in [*local.tables, *(p for p in snapshot.tables if p not in local.tables)]:
        mine = local.table(space, datatype)
        found = snapshot.find(space, datatype)
        theirs = {} if found is None else found.slots
        if not mine.nested:
            yield from _merge_names(merge, mine, None, theirs, snapshot.vector)
            continue
        looked_at = 0
        for key in chain(mine.slots, (key for key in theirs if key not in mine.slots)):
            fields = theirs.get(key, _NOTHING)
            yield from _merge_names(merge, mine, key, fields, snapshot.vector)
            looked_at += 1 + len(fields) + len(mine.slots.get(key, _NOTHING))
            if looked_at >= SLICE_PLACES:
                looked_at = 0
                yield


def _merge_names(
    merge: Merge, table: Table, key: str | None, theirs: Names, their_vector: VersionVector
) -> Iterator[None]:
    """Join the slots of a flat table, or the fields of one key; yields after whole slices."""
    local, space = merge.state, table.space
    mine: Names = table.slots if key is None else table.slots.get(key, _NOTHING)
    if not mine and not local.vector and len(theirs) >= SLICE_PLACES:
        # The usual start of a new replica: everything is new, and nothing conflicts.
        yield from _take_all(merge, table, key, theirs)
        return
    for part in _sliced(theirs.items()):
        added: list[int] = []
        removed: list[int] = []
        for name, their_slot in part:
            my_slot = mine.get(name)
            if type(my_slot) is tuple and my_slot[0] == their_slot[0]:
                continue
            slot = _join_slots(my_slot, their_slot, local.vector, their_vector, added, removed)
            if slot is not None:
                _put(merge, table, key, name, slot)
        merge.note(space, added, removed)
        if len(part) == SLICE_PLACES:
            yield
    for held in _sliced(mine.items()):
        gone: list[int] = []
        for name, my_slot in held:
            if name not in theirs:
                slot = _join_slots(my_slot, None, local.vector, their_vector, [], gone)
                if slot is not None:
                    _put(merge, table, key, name, slot)
        merge.note(space, [], gone)
        if len(held) == SLICE_PLACES:
            yield


def _take_all(merge: Merge, table: Table, key: str | None, theirs: Names) -> Iterator[None]:
    over = merge.flat(table) if key is None else merge.fields(table, key)[0]
    for part in _sliced(theirs.items()):
        slots = [slot for _, slot in part]
        over.update(part)
        if Siblings in set(map(type, slots)):
            for name, slot in part:
                _put(merge, table, key, name, slot)
            added = [entry[0] for slot in slots for entry in as_siblings(slot)]
        else:
            added = list(map(_dot_of, slots))
        merge.note(table.space, added, [])
        yield


def _put(merge: Merge, table: Table, key: str | None, name: Any, slot: Slot) -> None:
    if key is None:
        merge.put(table, name, None, slot)
    else:
        merge.put(table, key, name, slot)


def _join_slots(
    mine: Slot | None,
    theirs: Slot | None,
    my_vector: VersionVector,
    their_vector: VersionVector,
    added: list[int],
    removed: list[int],
) -> Slot | None:
    """Return the joined slot, ``EMPTY`` for none, or ``None`` when nothing changes."""
    dot: int
    if mine is None and type(theirs) is tuple:
        dot = theirs[0]  # type: ignore[assignment]
        if my_vector.covers(dot):
            return None
        added.append(dot)
        return theirs
    if theirs is None and type(mine) is tuple:
        dot = mine[0]  # type: ignore[assignment]
        if not their_vector.covers(dot):
            return None
        removed.append(dot)
        return EMPTY
    my_entries, their_entries = as_siblings(mine), as_siblings(theirs)
    their_dots = {entry[0] for entry in their_entries}
    my_dots = {entry[0] for entry in my_entries}
    kept: list[Entry] = []
    for entry in my_entries:
        if entry[0] in their_dots or not their_vector.covers(entry[0]):
            kept.append(entry)
        else:
            removed.append(entry[0])
    fresh = [
        entry
        for entry in their_entries
        if entry[0] not in my_dots and not my_vector.covers(entry[0])
    ]
    if not fresh and len(kept) == len(my_entries):
        return None
    added += [entry[0] for entry in fresh]
    kept += fresh
    return as_slot(kept) if kept else EMPTY


# ------------------------------------------------------------------ differences


def late_dots(
    local: State, bounds: Mapping[int, tuple[int, int]], late: set[int]
) -> Iterator[None]:
    """Gather the dots of ``local`` within bounds, a slice at a time.

    ``bounds`` are the sequences above the first and up to the second, of each replica.
    """
    for table in list(local.tables.values()):
        for part in _sliced(table.places()):
            late.update(
                entry[0]
                for _, _, slot in part
                for entry in as_siblings(slot)
                if _is_within(bounds, entry[0])
            )
            if len(part) == SLICE_PLACES:
                yield


def _is_within(bounds: Mapping[int, tuple[int, int]], dot: int) -> bool:
    bound = bounds.get(dot >> SEQUENCE_BITS)
    return bound is not None and bound[0] < dot & SEQUENCE_MASK <= bound[1]


def drop_entries(merge: Merge, dots: set[int]) -> Iterator[None]:
    """Stage the removal of these dots wherever they are, a slice at a time."""
    if not dots:
        return
    for table in list(merge.state.tables.values()):
        for part in _sliced(table.places()):
            gone: list[int] = []
            for key, name, slot in part:
                if type(slot) is not Siblings:
                    if slot[0] in dots:
                        gone.append(slot[0])
                        merge.put(table, key, name, EMPTY)
                    continue
                kept = [entry for entry in slot if entry[0] not in dots]
                if len(kept) < len(slot):
                    gone += [entry[0] for entry in slot if entry[0] in dots]
                    merge.put(table, key, name, as_slot(kept) if kept else EMPTY)
            merge.note(table.space, [], gone)
            if len(part) == SLICE_PLACES:
                yield


def add_entries(merge: Merge, state: State, known: VersionVector | None) -> Iterator[None]:
    """Stage the entries of ``state``, but for those whose dots ``known`` covers."""
    for theirs in state.tables.values():
        table = merge.state.table(theirs.space, theirs.datatype)
        for part in _sliced(theirs.places()):
            added: list[int] = []
            for key, name, slot in part:
                held = as_siblings(merge.slot(table, key, name))
                dots = {entry[0] for entry in held}
                fresh = [
                    entry
                    for entry in as_siblings(slot)
                    if entry[0] not in dots and (known is None or not known.covers(entry[0]))
                ]
                if fresh:
                    added += [entry[0] for entry in fresh]
                    merge.put(table, key, name, as_slot([*held, *fresh]))
            merge.note(table.space, added, [])
            if len(part) == SLICE_PLACES:
                yield
