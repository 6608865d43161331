"""Flags: a yes or no under each key, with the tie decided in advance.

Problem: two regions switch a flag at the same moment, one on, one off. A clock
would pick a winner by accident; people want to know which way it falls.

Idea: in a ``flag`` enabling wins: an entry stands for "on", disabling removes
the entries that it observed, and one that was written concurrently survives. In
a ``flag_disable_wins`` disabling wins: see ``crdtmem.crdt.removal``.

Invariants: a flag without entries is off; both readings depend on the entries
alone, never on their stamps, except that an expired "on" counts as none.

The two flags are Riak's and Bieniusa et al.'s; here they share the decomposed
state with everything else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar

from crdtmem.batch import Segment
from crdtmem.crdt.base import FlatType, Reader, WriteView
from crdtmem.crdt.removal import collect_removals, put_presence, put_removal, stands, withdraw
from crdtmem.entries import Slot

__all__ = ["DisableWinsFlag", "EnableWinsFlag"]


class EnableWinsFlag(FlatType):
    """A flag that stays on when it is enabled and disabled concurrently."""

    name = "flag"
    code = 3
    operations: ClassVar[Mapping[str, str]] = {
        "enable": "enable",
        "disable": "disable",
        "delete": "disable",
    }

    def enable(self, view: WriteView) -> int:
        """Switch on; returns the dot."""
        return view.put(True, view.supersede(view.slot()))

    def disable(self, view: WriteView) -> None:
        """Switch off what was observed. A concurrent ``enable`` survives."""
        view.remove(view.supersede(view.slot()))

    def value(self, place: Slot | None, reader: Reader) -> bool:
        """Return whether the flag is on."""
        return bool(reader.live(place))


class DisableWinsFlag(FlatType):
    """A flag that stays off when it is enabled and disabled concurrently."""

    name = "flag_disable_wins"
    code = 4
    collectible = True
    expiring = False
    operations: ClassVar[Mapping[str, str]] = {
        "enable": "enable",
        "disable": "disable",
        "delete": "delete",
    }

    def enable(self, view: WriteView) -> int:
        """Switch on over everything held here; returns the dot.

        Raises ``ConditionFailed`` when it was disabled with higher trust.
        """
        return put_presence(view)

    def disable(self, view: WriteView) -> int:
        """Switch off, also what was enabled concurrently and is not known yet; returns the dot."""
        return put_removal(view)

    def delete(self, view: WriteView) -> None:
        """Switch off if it is on."""
        withdraw(view)

    def value(self, place: Slot | None, reader: Reader) -> bool:
        """Return whether the flag is on: enabled, and no disabling survives."""
        return stands(place, reader)

    def exists(self, place: Slot | None, reader: Reader) -> bool:
        """Tell whether the flag is on; one that is off is no different from none."""
        return stands(place, reader)

    def leaves_behind(self, segment: Segment) -> bool:
        """Tell whether the segment holds a disabling."""
        return segment.values is not None and False in segment.values

    def collect(self, view: WriteView, stable: Callable[[int], bool]) -> None:
        """Drop stable disablings and every enabling beside them."""
        collect_removals(view, view.slot(), stable)
