"""Counters: how often something happened, anywhere, exactly.

Problem and idea: see ``crdtmem.crdt.totals``. A counter has two amounts, what
was counted up and what was counted down; a ``g_counter`` only ever counts up.
The value is the sum over fields of both excesses. A reset leaves a fresh own
total of zero, so that the counter stays listed; a delete leaves none.

Counting is the hot path (one total read, one written), so ``advance`` walks the
slot once, and is a function of its own for those who stage in bulk.

Invariants: the value equals the sum of all increments less decrements that no
joined reset or delete had observed; one total per replica is live at a time,
unless trust forbids an author to continue a more trusted total.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from crdtmem.crdt.base import Reader, WriteView
from crdtmem.crdt.totals import (
    TOTAL_LIMIT,
    RunningTotals,
    check_amount,
    require_within_limit,
)
from crdtmem.entries import SEQUENCE_BITS, Entry, Slot, as_siblings

__all__ = ["Counter", "GrowOnlyCounter", "advance"]


def advance(held: tuple[int, ...], distance: int, up: int, down: int) -> tuple[int, ...]:
    """Return the total that follows ``held`` after ``distance`` more dots.

    Raises ``LimitExceeded`` where it would not fit 63 bits.
    """
    up += held[1]
    if len(held) > 2:
        down += held[2]
    elif not down and up <= TOTAL_LIMIT:
        return (held[0] + distance, up)
    if up > TOTAL_LIMIT or down > TOTAL_LIMIT:
        require_within_limit(max(up, down), "counter")
    return (held[0] + distance, up, down) if down else (held[0] + distance, up)


def _most_trusted(view: WriteView, replica: int) -> Entry:
    """Return the own total to continue where trust has left several.

    The most trusted that may be displaced, so that there is at most one per
    level of trust; any of them where none may be.
    """
    own = [e for e in view.slot() if e[0] >> SEQUENCE_BITS == replica and len(e[1]) < 4]
    allowed = view.supersede_all(own)
    return max(own, key=lambda entry: (entry[0] in allowed, entry[2].trust, entry[0]))


class GrowOnlyCounter(RunningTotals):
    """A counter that only counts up."""

    name = "g_counter"
    code = 5
    width = 2
    operations: ClassVar[Mapping[str, str]] = {"increment": "increment", "delete": "delete"}

    def increment(self, view: WriteView, amount: int = 1) -> int:
        """Count ``amount`` up; returns the dot. Raises ``InvalidValue`` or ``LimitExceeded``."""
        if type(amount) is not int or amount < 0:
            check_amount(amount, "increment", "decrement" if "decrement" in self.operations else "")
        return self._count(view, amount, 0)

    def _count(self, view: WriteView, up: int, down: int) -> int:
        dot = view.next_dot()
        replica = dot >> SEQUENCE_BITS
        own: Entry | None = None
        several = False
        for entry in view.slot():
            if entry[0] >> SEQUENCE_BITS == replica and len(entry[1]) < 4:
                several = own is not None
                own = entry
        if own is None:
            return view.put(advance((0, 0), 0, up, down))
        # What was observed does not matter: the new total contains the old one. Trust does:
        # a total that the author may not displace is left alone, and a field of its own born.
        if several:
            own = _most_trusted(view, replica)
        allowed = view.supersede_all((own,))
        if not allowed:
            return view.put(advance((0, 0), 0, up, down))
        return view.put(advance(own[1], dot - own[0], up, down), allowed)

    def value(self, place: Slot | None, reader: Reader) -> int:
        """Return the count."""
        entries = as_siblings(place)
        count = previous = 0
        for dot, amounts, _ in entries:
            replica = dot >> SEQUENCE_BITS
            if len(amounts) > 3 or replica == previous:
                break
            previous = replica
            count += amounts[1] - amounts[2] if len(amounts) > 2 else amounts[1]
        else:
            # One total for each replica and no baselines: nothing has to be set off.
            return count
        count = 0
        for running in self.fields(entries).values():
            up, down = running.excess(self.width)
            count += up - down
        return count


class Counter(GrowOnlyCounter):
    """A counter that counts up and down, and can be reset."""

    name = "counter"
    code = 6
    operations: ClassVar[Mapping[str, str]] = {
        "increment": "increment",
        "decrement": "decrement",
        "reset": "reset",
        "delete": "delete",
    }

    def decrement(self, view: WriteView, amount: int = 1) -> int:
        """Count ``amount`` down; returns the dot. Raises ``InvalidValue`` or ``LimitExceeded``."""
        return self._count(view, 0, check_amount(amount, "decrement", "increment"))

    def reset(self, view: WriteView) -> Any:
        """Take back what was observed; returns the dot of the fresh zero that stays listed.

        A concurrent increment survives, whole. Raises ``ConditionFailed`` when
        an observed total has been continued since it was read.
        """
        return view.put((0, 0), self.put_baselines(view))
