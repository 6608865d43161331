"""Sets: elements of any storable value, each with a place of its own.

Problem: two regions add and remove elements of one set at once; the cost of one
element must not grow with the set; and what was removed must not come back.

Idea: a field per element, so an element is a flag. In a ``set`` adding wins: an
entry says that the element is in, removing supersedes the entries that were
observed, and a concurrent addition survives. In a ``set_remove_wins`` removing
wins, also over additions that the remover had not seen: see
``crdtmem.crdt.removal``.

Invariants: ``1``, ``True``, ``1.0`` and ``"1"`` are four elements; the value
lists each element once, in the total order of values; nothing is left of an
element that was removed (of one removed from a remove-wins set: until the
removal is stable).

Add-wins sets without tombstones are Bieniusa et al. 2012; one place per element
is Riak's bigsets (Brown et al. 2016).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from crdtmem.batch import Segment
from crdtmem.codec import freeze
from crdtmem.crdt.base import (
    NestedType,
    Reader,
    WriteView,
    element_field,
    field_element,
)
from crdtmem.crdt.removal import collect_removals, put_presence, put_removal, stands, withdraw
from crdtmem.entries import Entry, Field, Slot
from crdtmem.errors import InvalidValue
from crdtmem.resolve.order import order_key

__all__ = ["AddWinsSet", "RemoveWinsSet"]


class _ElementSet(NestedType):
    """What both sets share: addressing by element, and the reading."""

    operations: ClassVar[Mapping[str, str]] = {
        "add": "add",
        "update": "update",
        "remove": "remove",
        "discard": "remove",
        "clear": "clear",
        "delete": "clear",
    }

    def touches(
        self, view: WriteView, operation: str, arguments: tuple[Any, ...]
    ) -> tuple[Entry, ...]:
        """Return the entries of the element that is addressed, or all of them."""
        if operation in ("add", "remove", "discard") and arguments:
            return view.slot(element_field(arguments[0]))
        return super().touches(view, operation, arguments)

    @abstractmethod
    def add(self, view: WriteView, element: Any) -> int:
        """Put an element in; returns the dot."""

    def update(self, view: WriteView, elements: Any) -> int:
        """Put several elements in; returns how many. Raises before any is put."""
        if not isinstance(elements, (list, tuple)):
            raise InvalidValue(
                f"the elements are a {type(elements).__name__}", hint="pass a list of elements"
            )
        frozen = [freeze(element) for element in elements]
        for element in frozen:
            self.add(view, element)
        return len(frozen)

    def contains(self, place: Mapping[Field, Slot] | None, element: Any, reader: Reader) -> bool:
        """Tell whether an element is in, without reading the others."""
        slot = None if place is None else place.get(element_field(element))
        return self.holds(slot, reader)

    def holds(self, slot: Slot | None, reader: Reader) -> bool:
        """Tell whether the element of one slot is in."""
        return bool(reader.live(slot))

    def exists(self, place: Mapping[Field, Slot] | None, reader: Reader) -> bool:
        """Tell whether any element is in."""
        return place is not None and any(self.holds(slot, reader) for slot in place.values())

    def value(self, place: Mapping[Field, Slot] | None, reader: Reader) -> list[Any]:
        """Return the elements as a list, in the total order of values."""
        if place is None:
            return []
        held = [field for field, slot in place.items() if self.holds(slot, reader)]
        if all(type(field) is str for field in held):
            return sorted(held)
        return sorted(map(field_element, held), key=order_key)


class AddWinsSet(_ElementSet):
    """A set in which an element added and removed concurrently is in."""

    name = "set"
    code = 8

    def add(self, view: WriteView, element: Any) -> int:
        """Put an element in; returns the dot."""
        field = element_field(element)
        return view.put(True, view.supersede(view.slot(field)), field)

    def remove(self, view: WriteView, element: Any) -> bool:
        """Take out what was observed of an element; returns whether there was anything."""
        field = element_field(element)
        superseded = view.supersede(view.slot(field))
        view.remove(superseded, field)
        return bool(superseded)

    def clear(self, view: WriteView) -> None:
        """Take out everything that was observed."""
        for field, entries in list(view.fields()):
            view.remove(view.supersede(entries), field)


class RemoveWinsSet(_ElementSet):
    """A set in which an element added and removed concurrently is out."""

    name = "set_remove_wins"
    code = 9
    collectible = True
    expiring = False

    def add(self, view: WriteView, element: Any) -> int:
        """Put an element in, over everything held of it here; returns the dot.

        Raises ``ConditionFailed`` when it was removed with higher trust.
        """
        return put_presence(view, element_field(element))

    def remove(self, view: WriteView, element: Any) -> bool:
        """Take an element out, also where it is added concurrently.

        Returns whether it was in, as far as is known here.
        """
        field = element_field(element)
        held = view.slot(field)
        put_removal(view, field)
        return bool(held) and all(value is True for _, value, _ in held)

    def clear(self, view: WriteView) -> None:
        """Take out every element that is in, as far as is known here.

        An element that is not known here yet is not affected: its removal would
        need a name.
        """
        for field, _ in list(view.fields()):
            withdraw(view, field)

    def holds(self, slot: Slot | None, reader: Reader) -> bool:
        """Tell whether the element of one slot is in: added, and no removal survives."""
        return stands(slot, reader)

    def leaves_behind(self, segment: Segment) -> bool:
        """Tell whether the segment holds a removal."""
        return segment.values is not None and False in segment.values

    def collect(self, view: WriteView, stable: Callable[[int], bool]) -> None:
        """Drop stable removals, and every presence beside them."""
        for field, entries in list(view.fields()):
            collect_removals(view, entries, stable, field)
