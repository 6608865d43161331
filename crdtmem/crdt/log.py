"""Logs: what was appended, by anyone, in one order for all.

Problem: agents append observations in every region at once; nobody may lose
one, nobody may see one twice, and all must agree on the order without agreeing
beforehand.

Idea: every append is an entry with a field of its own, named by its dot, so
appends never meet. A reading sorts them canonically, by (HLC order, replica,
sequence): this extends causality, so an answer never precedes its question, and
is the same everywhere. An append that was retried through another node carries
the same operation id; of several transactions with one id, only the first in
canonical order is shown.

Invariants: two replicas with the same entries show the same list; an entry's
value never changes; what arrives late is inserted where it belongs, so a
consumer that must not miss it keeps a version vector as its cursor (``since``),
not a position.

The order is Lamport's, made hybrid by Kulkarni et al. 2014.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from crdtmem.causality import VersionVector
from crdtmem.codec import freeze, pack, thaw
from crdtmem.crdt.base import OWN_DOT, NestedType, Reader, WriteView
from crdtmem.entries import SEQUENCE_BITS, SEQUENCE_MASK, Entry, Field, Slot
from crdtmem.errors import InvalidValue

__all__ = ["Log", "canonical_order"]


def canonical_order(entry: Entry) -> tuple[int, int]:
    """Return the sort key of the canonical order: HLC order, then replica, then sequence."""
    return entry[2].order, entry[0]


class Log(NestedType):
    """An append-only list, in canonical order."""

    name = "log"
    code = 11
    operations: ClassVar[Mapping[str, str]] = {
        "append": "append",
        "extend": "extend",
        "remove": "remove",
        "delete": "delete",
    }

    def touches(
        self, view: WriteView, operation: str, arguments: tuple[Any, ...]
    ) -> tuple[Entry, ...]:
        """Return all entries; an append is about none of them."""
        return () if operation in ("append", "extend") else super().touches(view, operation, ())

    def append(self, view: WriteView, value: Any) -> int:
        """Append one value; returns its dot."""
        return view.put(freeze(value), (), OWN_DOT)

    def extend(self, view: WriteView, values: Any) -> list[int]:
        """Append several values, in their order; returns their dots."""
        if not isinstance(values, (list, tuple)):
            raise InvalidValue(
                f"the values are a {type(values).__name__}", hint="pass a list of values"
            )
        frozen = [freeze(value) for value in values]
        return [view.put(value, (), OWN_DOT) for value in frozen]

    def remove(self, view: WriteView, dots: Any) -> int:
        """Remove the named entries, and the hidden copies that retries left of them.

        ``dots`` are integers, or ``[replica, sequence]`` pairs. Returns how many
        of the named were held. Raises ``InvalidValue`` for what is no dot.
        """
        if not isinstance(dots, (list, tuple)):
            raise InvalidValue(f"the dots are a {type(dots).__name__}", hint="pass a list of dots")
        fields = dict.fromkeys(_as_dot(dot) for dot in dots)
        named = [entry for field in fields for entry in view.slot(field)]
        copies = {
            (entry[2].metadata["i"], pack(entry[1])) for entry in named if "i" in entry[2].metadata
        }
        for entry in named:
            view.remove(view.supersede((entry,)), entry[0])
        if copies:
            for field, entries in list(view.fields()):
                for entry in entries:
                    identity = entry[2].metadata.get("i")
                    if identity is not None and (identity, pack(entry[1])) in copies:
                        view.remove(view.supersede((entry,)), field)
        return len(named)

    def delete(self, view: WriteView) -> None:
        """Remove every entry that was observed."""
        for field, entries in list(view.fields()):
            view.remove(view.supersede(entries), field)

    def entries(
        self,
        place: Mapping[Field, Slot] | None,
        reader: Reader,
        since: VersionVector | None = None,
    ) -> list[Entry]:
        """Return the entries to be shown, in canonical order; with ``since`` those beyond it."""
        if place is None:
            return []
        ordered = [entry for slot in place.values() for entry in reader.live(slot)]
        ordered.sort(key=canonical_order)
        shown = _without_retries(ordered)
        if since is None:
            return list(shown)
        return [entry for entry in shown if not since.covers(entry[0])]

    def since(
        self, place: Mapping[Field, Slot] | None, reader: Reader, vector: VersionVector
    ) -> list[Any]:
        """Return the values appended beyond a version vector, in canonical order."""
        return [thaw(value) for _, value, _ in self.entries(place, reader, vector)]

    def value(self, place: Mapping[Field, Slot] | None, reader: Reader) -> list[Any]:
        """Return all values, in canonical order."""
        return [thaw(value) for _, value, _ in self.entries(place, reader)]


def _without_retries(ordered: Iterable[Entry]) -> Iterable[Entry]:
    """Yield the entries of the first transaction of each operation id.

    A transaction is known by its order and replica; it may have appended several
    entries under one id, and all of those are shown.
    """
    first: dict[bytes, tuple[int, int]] = {}
    for entry in ordered:
        stamp = entry[2]
        identity = stamp.metadata.get("i")
        if identity is None:
            yield entry
            continue
        transaction = (stamp.order, stamp.replica)
        if first.setdefault(identity, transaction) == transaction:
            yield entry


def _as_dot(dot: object) -> int:
    if type(dot) is int and dot > SEQUENCE_MASK:
        return dot
    if isinstance(dot, (list, tuple)) and len(dot) == 2:
        replica, sequence = dot
        if type(replica) is int and type(sequence) is int and 0 < sequence <= SEQUENCE_MASK:
            return replica << SEQUENCE_BITS | sequence
    raise InvalidValue(
        f"{dot!r:.60} is no dot", hint="pass dots as [replica, sequence], as a reading shows them"
    )
