"""Installations: another replica's state, or a difference to it, joined as a whole.

Problem: below the sync log a peer's state arrives instead of its batches. It
must be joined by dots at the two vectors, atomically, whatever was written or
joined here meanwhile; it must be durable before it is visible; and a restart
must come to the same state from the log.

Idea: the join of two whole states needs no tombstones. With vectors L here and
V there, an entry survives iff both hold it, or its one holder's peer has never
joined its dot. Three kinds of ``Installation`` say this with what they have:

* ``WHOLE``: the other state, complete at V.
* ``DIFFERENCE``: what set reconciliation found between L0, our vector when it
  began, and V: dots to drop, entries to add, and the batches published there
  after V, up to the header's vector, which are joined in the same step. Entries
  that arrived here between L0 and now are judged by ``wanted``: all that was
  live at V beyond L0.
* ``CORRECTION``: what repair decided upon evidence, at equal vectors: entries
  to restore and dots to drop, though the vectors cover them. It holds at that
  very vector only, and does nothing at any other; repair then begins again.

Its durable form is a run of *markers*, one per chunk, in one commit. Recovery
feeds them to an ``Assembler`` in log order and installs again what comes out.

Invariants: installing is idempotent; nothing covered by the local vector is
brought back to life except by a correction; the vector that results covers
exactly what was joined.

The join is the ORSWOT merge of Bieniusa et al., "An Optimized Conflict-free
Replicated Set" (2012), per place.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from itertools import islice
from operator import itemgetter, sub
from typing import Any, Final

from crdtmem.batch import Batch, SpaceName, decode_batch
from crdtmem.causality import VersionVector
from crdtmem.codec import pack, unpack
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
from crdtmem.errors import MalformedFrame
from crdtmem.snapshot import (
    SnapshotHeader,
    decode_header,
    encode_chunks,
    encode_header,
    load_chunk,
)
from crdtmem.table import Overlay, Shape, State, Table

__all__ = [
    "Assembler",
    "Installation",
    "Kind",
    "dots_from_flat",
    "flat_dots",
    "join_states",
]

_MARKER_VERSION: Final = 1
_DOTS_PER_PART: Final = 50_000

_dot_of: Final = itemgetter(0)

Tips = Mapping[int, tuple[int, bytes]]


class Kind(IntEnum):
    """How an installation's content is to be read."""

    WHOLE = 0
    DIFFERENCE = 1
    CORRECTION = 2


@dataclass(slots=True)
class Installation:
    """Something to be joined as a whole, through a flight of its own.

    ``state`` holds the entries (all, or those to add); ``header.vector`` is what is
    covered afterwards besides our own vector. For a ``DIFFERENCE``, ``base`` is
    L0, ``compared`` V, ``wanted`` the dots live at V beyond L0, ``dropped`` the dots to drop, and
    ``batches`` lead from V to the header's vector. A ``CORRECTION`` has ``state``
    and ``dropped`` only; its header's vector is the one at which it was decided.
    """

    kind: Kind
    header: SnapshotHeader
    state: State
    base: VersionVector = field(default_factory=VersionVector)
    compared: VersionVector = field(default_factory=VersionVector)
    wanted: set[int] = field(default_factory=set)
    dropped: set[int] = field(default_factory=set)
    batches: list[Batch] = field(default_factory=list)

    def overlay(self, local: State) -> Overlay:
        """Return the join upon ``local``, at its vector, as an overlay to publish."""
        if self.kind is Kind.WHOLE:
            return join_states(local, self.state)
        overlay = Overlay(local)
        if self.kind is Kind.CORRECTION:
            # What was decided at one vector says nothing of any other.
            if local.vector == self.header.vector:
                _drop(overlay, self.dropped)
                _add(overlay, self.state, None)
            return overlay
        _join_difference(overlay, self)
        for batch in self.batches:
            if batch.header.last > local.vector.get(batch.header.replica, 0):
                for segment in batch.segments:
                    overlay.join(segment)
        return overlay

    def vector(self, local: Mapping[int, int]) -> VersionVector:
        """Return the vector after installing upon a state at ``local``."""
        vector = VersionVector(local)
        if self.kind is not Kind.CORRECTION:
            vector.join(self.header.vector)
        return vector

    def tips(self, local: Tips) -> dict[int, tuple[int, bytes]]:
        """Return the tips after installing upon a state whose tips are ``local``."""
        tips = dict(local)
        if self.kind is not Kind.CORRECTION:
            for replica, tip in self.header.tips.items():
                if tip[0] > tips.get(replica, (0, b""))[0]:
                    tips[replica] = tip
        return tips

    def markers(self) -> Iterator[bytes]:
        """Yield the durable form, to be appended in one commit, in order."""
        parts: list[tuple[str, Any]] = []
        parts += [("chunk", chunk) for chunk in encode_chunks(self.state)]
        for name, dots in (("wanted", self.wanted), ("dropped", self.dropped)):
            listed = sorted(dots)
            for start in range(0, len(listed), _DOTS_PER_PART):
                parts.append((name, flat_dots(listed[start : start + _DOTS_PER_PART])))
        parts += [("batch", batch.data) for batch in self.batches]
        head = (encode_header(self.header), self.base.flat(), self.compared.flat())
        yield pack((_MARKER_VERSION, "install", int(self.kind), len(parts), *head))
        for part in parts:
            yield pack((_MARKER_VERSION, *part))


class Assembler:
    """Puts installations together again from markers, in log order."""

    def __init__(self, shapes: dict[int, Shape], known_fields: Mapping[int, bool]) -> None:
        self._shapes = shapes
        self._known_fields = known_fields
        self._building: Installation | None = None
        self._missing = 0

    def feed(self, marker: bytes) -> Installation | None:
        """Take the next marker; returns an installation once it is whole.

        Raises ``MalformedFrame`` for anything that ``markers`` does not write.
        """
        try:
            return self._feed(unpack(marker))
        except (TypeError, ValueError, IndexError) as error:
            raise MalformedFrame(f"a snapshot marker with the wrong shape: {error}") from error

    def _feed(self, body: Any) -> Installation | None:
        version, name, *rest = body
        if version != _MARKER_VERSION:
            raise ValueError(f"version {version!r} of a marker")
        if name == "install":
            kind, missing, header, base, compared = rest
            self._building = Installation(
                Kind(kind),
                decode_header(header),
                State(self._shapes),
                VersionVector.from_flat(base),
                VersionVector.from_flat(compared),
            )
            self._missing = missing
        else:
            self._part(name, *rest)
        if self._missing:
            return None
        done, self._building = self._building, None
        if done is not None:
            done.state.vector = done.header.vector.copy()
        return done

    def _part(self, name: str, content: Any) -> None:
        building = self._building
        if building is None:
            raise ValueError(f"a {name!r} part without its beginning")
        if name == "chunk":
            load_chunk(building.state, content)
        elif name == "wanted":
            building.wanted.update(dots_from_flat(content))
        elif name == "dropped":
            building.dropped.update(dots_from_flat(content))
        elif name == "batch":
            building.batches.append(decode_batch(content, known_fields=self._known_fields))
        else:
            raise ValueError(f"a part called {name!r}")
        self._missing -= 1


def flat_dots(dots: Iterable[int]) -> list[Any]:
    """Return sorted dots as ``[[replica, step, step, …], …]``: sequences as differences."""
    runs: list[list[int]] = []
    previous = -1
    for dot in dots:
        if not runs or dot >> SEQUENCE_BITS != previous >> SEQUENCE_BITS:
            runs.append([dot >> SEQUENCE_BITS, dot & SEQUENCE_MASK])
        else:
            runs[-1].append(dot - previous)
        previous = dot
    return runs


def dots_from_flat(runs: Any) -> list[int]:
    """Return the dots of ``flat_dots``; raises ``ValueError`` or ``TypeError`` for no such list."""
    dots: list[int] = []
    for replica, *steps in runs:
        if set(map(type, (replica, *steps))) != {int} or not 0 < replica <= SEQUENCE_MASK:
            raise ValueError("a list of dots is malformed")
        dot = replica << SEQUENCE_BITS
        for step in steps:
            dot += step
            if step < 1 or dot >> SEQUENCE_BITS != replica:
                raise ValueError("a list of dots is malformed")
            dots.append(dot)
    return dots


# ------------------------------------------------------------------ joining states


def join_states(local: State, snapshot: State) -> Overlay:
    """Return the join of two whole states, each complete at its vector, upon ``local``."""
    overlay = Overlay(local)
    gathered: dict[SpaceName, list[int]] = {}
    for space, datatype in [*local.tables, *(snapshot.tables.keys() - local.tables.keys())]:
        mine = local.table(space, datatype)
        theirs = snapshot.find(space, datatype)
        added = gathered.setdefault(space, [])
        if not mine.nested:
            slots = {} if theirs is None else theirs.slots
            staged = overlay.flat(mine)
            if not mine.slots and not local.vector and _all_single(slots):
                # The usual start of a new replica: everything is new, and nothing conflicts.
                staged.update(slots)
                added += map(_dot_of, slots.values())
                continue
            changed = _join_names(overlay, mine, mine.slots, slots, snapshot.vector, added)
            for name, slot in changed:
                staged[name] = slot
                _note(overlay, mine, name, None, slot)
            continue
        keys = mine.slots.keys() if theirs is None else mine.slots.keys() | theirs.slots.keys()
        for key in keys:
            fields = {} if theirs is None else theirs.slots.get(key, {})
            base = mine.slots.get(key, {})
            for name, slot in _join_names(overlay, mine, base, fields, snapshot.vector, added):
                overlay.fields(mine, key)[0][name] = slot
                _note(overlay, mine, key, name, slot)
    for space, dots in gathered.items():
        _note_added(overlay, space, dots)
    return overlay


def _all_single(slots: Mapping[Any, Slot]) -> bool:
    return Siblings not in set(map(type, slots.values()))


def _join_names(
    overlay: Overlay,
    table: Table,
    mine: Mapping[Any, Slot],
    theirs: Mapping[Any, Slot],
    their_vector: VersionVector,
    added: list[int],
) -> list[tuple[Any, Slot]]:
    """Return the names whose slot changes, with what it becomes."""
    removed = overlay.removed_of(table.space)
    my_vector = overlay.state.vector
    changed: list[tuple[Any, Slot]] = []
    for name, their_slot in theirs.items():
        my_slot = mine.get(name)
        if my_slot is not None and type(my_slot) is tuple and my_slot[0] == their_slot[0]:
            continue
        slot = _join_slots(my_slot, their_slot, my_vector, their_vector, added, removed)
        if slot is not None:
            changed.append((name, slot))
    for name, my_slot in mine.items():
        if name not in theirs:
            slot = _join_slots(my_slot, None, my_vector, their_vector, added, removed)
            if slot is not None:
                changed.append((name, slot))
    return changed


def _join_slots(
    mine: Slot | None,
    theirs: Slot | None,
    my_vector: VersionVector,
    their_vector: VersionVector,
    added: list[int],
    removed: list[int],
) -> Slot | None:
    """Return the joined slot, ``EMPTY`` for none, or ``None`` when nothing changes."""
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


def _note(overlay: Overlay, table: Table, key: str, name: Field | None, slot: Slot) -> None:
    if type(slot) is Siblings:
        if slot:
            overlay.note_contested(table, key, name)
        else:
            overlay.emptied = True


def _note_added(overlay: Overlay, space: SpaceName, dots: list[int]) -> None:
    """Note dots as added, consecutive ones together."""
    if not dots:
        return
    dots.sort()
    steps = map(sub, islice(dots, 1, None), dots)
    ends = [index for index, step in enumerate(steps, 1) if step != 1]
    for start, end in zip([0, *ends], [*ends, len(dots)], strict=True):
        overlay.added.append((space, dots[start], end - start))


# ------------------------------------------------------------------ differences


def _join_difference(overlay: Overlay, difference: Installation) -> None:
    local = overlay.state
    _drop(overlay, _doomed(local, difference))
    _add(overlay, difference.state, local.vector)


def _doomed(local: State, difference: Installation) -> set[int]:
    """Return the dots to drop: those found by comparison, and those that arrived since."""
    base, compared, wanted = difference.base, difference.compared, difference.wanted
    arrived = [
        (replica, base.get(replica, 0), last)
        for replica, last in local.vector.meet(compared).items()
        if last > base.get(replica, 0)
    ]
    if not arrived:
        return difference.dropped
    bounds = {replica: (low, high) for replica, low, high in arrived}
    late = {
        entry[0]
        for _, _, _, entry in local.entries()
        if (bound := bounds.get(entry[0] >> SEQUENCE_BITS)) is not None
        and bound[0] < entry[0] & SEQUENCE_MASK <= bound[1]
    }
    return difference.dropped | (late - wanted)


def _drop(overlay: Overlay, dots: set[int]) -> None:
    """Stage the removal of these dots wherever they are."""
    if not dots:
        return
    for table in list(overlay.state.tables.values()):
        for key, name, slot in table.places():
            if type(slot) is not Siblings and slot[0] not in dots:
                continue
            entries = as_siblings(slot)
            kept = [entry for entry in entries if entry[0] not in dots]
            if len(kept) < len(entries):
                gone = [entry[0] for entry in entries if entry[0] in dots]
                overlay.removed_of(table.space).extend(gone)
                _stage(overlay, table, key, name, as_slot(kept) if kept else EMPTY)


def _add(overlay: Overlay, state: State, known: VersionVector | None) -> None:
    """Stage the entries of ``state``, but for those whose dots ``known`` covers."""
    gathered: dict[SpaceName, list[int]] = {}
    for theirs in state.tables.values():
        table = overlay.state.table(theirs.space, theirs.datatype)
        added = gathered.setdefault(table.space, [])
        for key, name, slot in theirs.places():
            held = as_siblings(overlay.slot(table, key, name))
            dots = {entry[0] for entry in held}
            fresh = [
                entry
                for entry in as_siblings(slot)
                if entry[0] not in dots and (known is None or not known.covers(entry[0]))
            ]
            if fresh:
                added += [entry[0] for entry in fresh]
                _stage(overlay, table, key, name, as_slot([*held, *fresh]))
    for space, listed in gathered.items():
        _note_added(overlay, space, listed)


def _stage(overlay: Overlay, table: Table, key: str, name: Field | None, slot: Slot) -> None:
    over, _ = overlay.names(table, key)
    over[name if table.nested else key] = slot
    _note(overlay, table, key, name, slot)
