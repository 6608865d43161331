"""Documents: shared text, maps and arrays, edited character by character.

Problem: for text, keeping both of two concurrent values is no help; people
expect the edits to be woven together. That is a solved problem with a good
library, but the library is neither a store nor a replicator.

Idea: every update of the library is an entry with a field of its own, replicated
like anything else. A reading merges the updates that are live and shows the
roots as plain values (see ``crdtmem.crdt.updates``). Many small stable updates
are compacted into one by an ordinary delta, which supersedes them. Values::

    update                                   bytes: what a person wrote
    (update, (replica, sequence), …)         a compaction, of all up to those dots
    (None, (replica, sequence), …)           a removal, of all up to those dots

The removal is there for one case. A delete supersedes the updates that it knows,
and so does a compaction; when the two are concurrent, the delete knows nothing
of the compaction, and everything would come back. What is compacted is stable,
so whoever deletes concurrently has all of it: its removal covers the whole
compaction, and hides it. When the removal is stable itself, it goes, and what it
hides with it.

Invariants: equal entries give equal values; an update is checked where it is
written; a document is deleted whole or not at all; compaction changes no
reading, is done only below stability, and is harmless when two replicas do it at
once, since updates may overlap.

Compaction by superseding stable updates answers "history that never leaves"
(automerge #799, yjs #741).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, Final

from crdtmem.crdt.base import OWN_DOT, NestedType, Reader, WriteView
from crdtmem.crdt.log import canonical_order
from crdtmem.crdt.updates import check_update, compact, materialise, plain_value
from crdtmem.entries import SEQUENCE_BITS, SEQUENCE_MASK, Entry, Field, Slot
from crdtmem.errors import ConditionFailed, InvalidValue

__all__ = [
    "COMPACT_AT_COUNT",
    "COMPACT_LIMIT_BYTES",
    "COMPACT_MOST_COUNT",
    "Document",
    "updates_of",
]

COMPACT_AT_COUNT: Final = 64
"""How many stable updates make compaction worth a delta for each of them."""

COMPACT_MOST_COUNT: Final = 1_000
"""The most updates that one compaction takes: it has to fit a transaction."""

COMPACT_LIMIT_BYTES: Final = 256 * 1024
"""The largest compacted update: well within a value's limit, so it can be sent anywhere."""


class Document(NestedType):
    """A pycrdt document: its updates, and what they add up to."""

    name = "document"
    code = 12
    collectible = True
    expiring = False
    operations: ClassVar[Mapping[str, str]] = {"update": "update", "delete": "delete"}

    def touches(
        self, view: WriteView, operation: str, arguments: tuple[Any, ...]
    ) -> tuple[Entry, ...]:
        """Return all entries; an update is about none of them, it weaves itself in."""
        return () if operation == "update" else super().touches(view, operation, arguments)

    def update(self, view: WriteView, data: Any) -> int:
        """Add an update; returns its dot. Raises ``InvalidValue`` for bytes that are none."""
        return view.put(check_update(data), (), OWN_DOT)

    def delete(self, view: WriteView) -> None:
        """Remove the document as it is held here.

        A concurrent update survives, but shows only what does not depend on the
        removed ones. Raises ``ConditionFailed`` unless all of it was observed and
        may be superseded: half a document is none.
        """
        content = _visible([entry for _, entries in view.fields() for entry in entries])
        if not content:
            return
        if len(view.supersede(content)) < len(content):
            raise ConditionFailed(
                f"the document {view.key!r:.80} holds what was not observed or is of higher trust",
                hint="read it again, and delete with the trust of its writers",
            )
        view.put((None, *_extent(content)), (), OWN_DOT)
        for entry in content:
            view.remove((entry[0],), entry[0])

    def exists(self, place: Mapping[Field, Slot] | None, reader: Reader) -> bool:
        """Tell whether any update is shown."""
        return bool(self._shown(place, reader))

    def updates(self, place: Mapping[Field, Slot] | None, reader: Reader) -> list[bytes]:
        """Return the live updates in canonical order, for ``materialise``."""
        return [_update_of(entry) for entry in self._shown(place, reader)]

    def value(self, place: Mapping[Field, Slot] | None, reader: Reader) -> dict[str, Any]:
        """Return the document's roots as plain values, by name."""
        return plain_value(materialise(self.updates(place, reader)))

    def _shown(self, place: Mapping[Field, Slot] | None, reader: Reader) -> list[Entry]:
        if place is None:
            return []
        return _visible([entry for slot in place.values() for entry in reader.live(slot)])

    def collect(self, view: WriteView, stable: Callable[[int], bool]) -> None:
        """Drop stable removals with what they hide; replace many small updates by one."""
        held = [entry for _, entries in list(view.fields()) for entry in entries]
        settled = [entry for entry in held if _is_removal(entry) and stable(entry[0])]
        for entry in held:
            if entry in settled or _is_hidden(entry, settled):
                view.remove((entry[0],), entry[0])
        chosen: list[Entry] = []
        room_bytes = COMPACT_LIMIT_BYTES
        for entry in _visible(held):
            size_bytes = len(_update_of(entry))
            if stable(entry[0]) and size_bytes <= room_bytes and len(chosen) < COMPACT_MOST_COUNT:
                chosen.append(entry)
                room_bytes -= size_bytes
        if len(chosen) >= COMPACT_AT_COUNT:
            self._compact(view, chosen)

    def _compact(self, view: WriteView, chosen: list[Entry]) -> None:
        try:
            merged = compact([_update_of(entry) for entry in chosen])
        except InvalidValue:
            # One of them was never an update: readers pass it over, and it stays as it is.
            return
        view.put((merged, *_extent(chosen)), (), OWN_DOT)
        for entry in chosen:
            view.remove((entry[0],), entry[0])


def updates_of(entries: Iterable[Entry]) -> list[bytes]:
    """Return the updates that some entries of one document show, for ``materialise``."""
    return [_update_of(entry) for entry in _visible(list(entries))]


def _is_removal(entry: Entry) -> bool:
    return type(entry[1]) is tuple and entry[1][0] is None


def _update_of(entry: Entry) -> bytes:
    """Return the update that an entry brings, compacted or not."""
    value: bytes = entry[1][0] if type(entry[1]) is tuple else entry[1]
    return value


def _extent(entries: Iterable[Entry]) -> list[tuple[int, int]]:
    """Return how far some entries, and what they stand for, reach: per replica, sorted."""
    reach: dict[int, int] = {}
    for dot, value, _ in entries:
        own = (dot >> SEQUENCE_BITS, dot & SEQUENCE_MASK)
        for replica, sequence in (own, *(value[1:] if type(value) is tuple else ())):
            reach[replica] = max(reach.get(replica, 0), sequence)
    return sorted(reach.items())


def _is_hidden(entry: Entry, removals: Iterable[Entry]) -> bool:
    """Tell whether one of the removals covers all that a compaction stands for."""
    if type(entry[1]) is not tuple or _is_removal(entry):
        return False
    for removal in removals:
        reach = dict(removal[1][1:])
        if all(reach.get(replica, 0) >= sequence for replica, sequence in entry[1][1:]):
            return True
    return False


def _visible(entries: list[Entry]) -> list[Entry]:
    """Return the entries whose updates are shown, in canonical order."""
    removals = [entry for entry in entries if _is_removal(entry)]
    shown = [
        entry for entry in entries if not _is_removal(entry) and not _is_hidden(entry, removals)
    ]
    shown.sort(key=canonical_order)
    return shown
