"""Registers: one value per key, concurrent values kept.

A write supersedes the entries that its writer observed; entries written
concurrently stay beside it as siblings. ``register`` shows what the space's
resolver makes of them (``latest`` unless the policy says otherwise);
``multi_value`` always shows them all, in dot order. Both keep the same state:
last-write-wins is a way of reading, and loses nothing.

Multi-value registers are Shapiro et al. 2011; superseding by dots instead of
by vectors is Preguiça et al., "Dotted Version Vectors".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from crdtmem.codec import freeze, thaw
from crdtmem.crdt.base import FlatType, Reader, WriteView
from crdtmem.entries import Slot

__all__ = ["MultiValue", "Register"]


class _SingleField(FlatType):
    conflicting = True
    operations: ClassVar[Mapping[str, str]] = {"set": "set", "delete": "delete"}

    def set(self, view: WriteView, value: Any) -> int:
        """Write a value over what was observed; returns its dot."""
        frozen = freeze(value)
        return view.put(frozen, view.supersede(view.slot()))

    def delete(self, view: WriteView) -> None:
        """Remove what was observed. A concurrent write survives."""
        view.remove(view.supersede(view.slot()))


class Register(_SingleField):
    """A last-write-wins register, or whatever the space's resolver makes of it."""

    name = "register"
    code = 1

    def value(self, place: Slot | None, reader: Reader) -> Any:
        """Return the resolved value, ``None`` when there is none."""
        entries = reader.live(place)
        return thaw(reader.resolve(entries)) if entries else None


class MultiValue(_SingleField):
    """A register that always shows every concurrent value."""

    name = "multi_value"
    code = 2

    def value(self, place: Slot | None, reader: Reader) -> list[Any]:
        """Return the concurrent values as a list, in dot order."""
        return [thaw(value) for _, value, _ in reader.live(place)]
