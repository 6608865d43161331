"""Running totals by birth: counting that survives retries, resets and late arrivals.

Problem: an increment must count once however often and late it arrives; a reset
must take back exactly what its writer saw, not what was counted meanwhile; and
neither a forgotten total nor a forgotten reset may ever make anything count
twice.

Idea: a replica writes only its own *fields*, and one field is one chain of
running totals: each total supersedes the one before and contains it. A field is
named by the dot that gave it birth, and is continued only while its owner holds
a live total in it; afterwards a new field is born, so an old chain never comes
back under a new beginning. A reset does not subtract. For each field it
observed it writes a *baseline* equal to the total observed, which supersedes
that total. What a field counts is how far its total is beyond its baselines,
joined by maximum: a total that was written concurrently with the reset
contains what was reset, so the difference is what was really added.

All entries of a key share one slot. Values, with ``width`` amounts, are::

    total     (distance, amount, …)             born ``distance`` dots before itself
    baseline  (replica, sequence, amount, …)    of the field born at that dot

Trailing zero amounts of a total are left out. An amount is an integer that
only grows, or a tuple of ``(name, integer)`` pairs, sorted, that only grow.

Collection: when a baseline is stable its field's owner has joined it, so the
owner has either already written a total that is known here, or lost the field
for good. A field without a live total therefore counts nothing ever after, and
its stable baselines may go. Several stable baselines of one field become one.

Invariants: of two totals in one field the later dot wins; baselines never
expire; a reset whose field has moved on since it was observed is refused rather
than guessed at.

Running totals per replica are Shapiro et al.'s counters (2011); births and
baselines answer the double counting that pruned and reset counters show in
Riak, Pekko and Antidote.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final

from crdtmem.batch import Segment
from crdtmem.columns import Rows
from crdtmem.crdt.base import FlatType, Reader, WriteView
from crdtmem.entries import SEQUENCE_BITS, SEQUENCE_MASK, Entry, Slot, as_siblings
from crdtmem.errors import ConditionFailed, InvalidValue, LimitExceeded

__all__ = [
    "TOTAL_LIMIT",
    "Amounts",
    "RunningField",
    "RunningTotals",
    "amounts_of",
    "check_amount",
    "require_within_limit",
]

Amounts = tuple[Any, ...]

TOTAL_LIMIT: Final = (1 << 63) - 1
"""The largest running total: what every language's signed 64-bit integer holds."""


def check_amount(amount: object, verb: str, opposite: str = "") -> int:
    """Return the amount if it is an integer of at least 0; raises ``InvalidValue``."""
    if type(amount) is not int:
        raise InvalidValue(
            f"cannot {verb} by {amount!r:.40}",
            hint="amounts are whole numbers; count in the smallest unit (cents, milliseconds)",
        )
    if amount < 0:
        raise InvalidValue(
            f"cannot {verb} by {amount}",
            hint=f"use {opposite}" if opposite else "amounts are not negative",
        )
    return amount


@dataclass(slots=True)
class RunningField:
    """One field: the totals and baselines that are held of it, in dot order."""

    birth: int
    totals: list[Entry] = field(default_factory=list)
    baselines: list[Entry] = field(default_factory=list)

    @property
    def owner(self) -> int:
        """The replica that writes this field."""
        return self.birth >> SEQUENCE_BITS

    def total(self, width: int) -> Amounts:
        """Return the latest total, all zeros when there is none."""
        return amounts_of(self.totals[-1], width) if self.totals else (0,) * width

    def excess(self, width: int) -> Amounts:
        """Return how far the latest total is beyond the baselines, never below zero."""
        total = self.total(width)
        if not self.baselines:
            return total
        base = _joined(entry[1][2:] for entry in self.baselines)
        return tuple(map(_beyond, total, base))


class RunningTotals(FlatType):
    """What all counters share: reading fields, continuing one, baselines, collection."""

    collectible = True
    expiring = False
    width: ClassVar[int]
    """How many amounts a total has."""

    def fields(self, entries: Iterable[Entry]) -> dict[int, RunningField]:
        """Return the entries as fields, by birth dot."""
        found: dict[int, RunningField] = {}
        longest = self.width + 1
        for entry in entries:
            value = entry[1]
            total = len(value) <= longest
            birth = entry[0] - value[0] if total else value[0] << SEQUENCE_BITS | value[1]
            running = found.get(birth)
            if running is None:
                running = found[birth] = RunningField(birth)
            (running.totals if total else running.baselines).append(entry)
        return found

    def exists(self, place: Slot | None, reader: Reader) -> bool:
        """Tell whether any total is held; baselines alone guard a counter that is gone."""
        longest = self.width + 1
        return any(len(value) <= longest for _, value, _ in as_siblings(place))

    def delete(self, view: WriteView) -> None:
        """Take back what was observed and leave nothing listed.

        A concurrent increment survives, whole. Raises ``ConditionFailed`` when
        an observed total has been continued since it was read.
        """
        view.remove(self.put_baselines(view))

    def put_baselines(self, view: WriteView) -> list[int]:
        """Stage a baseline for each observed field; returns dots that need none.

        Those are totals of zero in fields without baselines: the caller
        supersedes them in whatever delta it stages next.
        """
        allowed = set(view.supersede(view.slot()))
        found = self.fields(view.slot()).values()
        self._require_unmoved(view, found, allowed)
        bare: list[int] = []
        for running in found:
            totals = [entry for entry in running.totals if entry[0] in allowed]
            if not totals:
                continue
            old = [entry for entry in running.baselines if entry[0] in allowed]
            base = _joined([amounts_of(totals[-1], self.width), *(entry[1][2:] for entry in old)])
            if not any(base) and not running.baselines:
                bare += [entry[0] for entry in totals]
                continue
            birth = (running.owner, running.birth & SEQUENCE_MASK)
            view.put((*birth, *base), [entry[0] for entry in totals + old])
        return bare

    def _require_unmoved(
        self, view: WriteView, found: Iterable[RunningField], allowed: set[int]
    ) -> None:
        """Refuse to reset a total that was observed, but has been continued since.

        The slot no longer says how much was observed, so a baseline would be a
        guess: too little loses the reset, too much loses an increment.
        """
        if view.observed is None:
            return
        for running in found:
            if not running.totals or running.totals[-1][0] in allowed:
                continue
            latest = running.totals[-1]
            if any(running.birth <= dot < latest[0] for dot in view.observed):
                raise ConditionFailed(
                    f"the {self.name} {view.key!r:.80} has counted on since it was read",
                    hint="read it again and repeat, or reset without an Observed",
                )

    def leaves_behind(self, segment: Segment) -> bool:
        """Tell whether the segment holds a baseline."""
        longest, values = self.width + 1, segment.values or ()
        if type(values) is Rows:
            return len(values[0]) > longest
        # Other versions' values are joined as they come, whatever their shape.
        return any(type(value) is tuple and len(value) > longest for value in values)

    def collect(self, view: WriteView, stable: Callable[[int], bool]) -> None:
        """Drop stable baselines of fields without a live total; merge the others."""
        for running in self.fields(view.slot()).values():
            settled = [entry for entry in running.baselines if stable(entry[0])]
            dots = [entry[0] for entry in settled]
            if settled and not running.totals:
                view.remove(dots)
            elif len(settled) > 1:
                birth = (running.owner, running.birth & SEQUENCE_MASK)
                view.put((*birth, *_joined(entry[1][2:] for entry in settled)), dots)


def amounts_of(total: Entry, width: int) -> Amounts:
    """Return the amounts of a total, its trailing zeros put back."""
    amounts: Amounts = total[1][1:]
    return amounts if len(amounts) == width else amounts + (0,) * (width - len(amounts))


def _joined(many: Iterable[Amounts]) -> Amounts:
    """Return the maximum of several amounts, component by component."""
    return tuple(_join_component(column) for column in zip(*many, strict=True))


def _join_component(column: tuple[Any, ...]) -> Any:
    """Join one column: integers by maximum, pairs by the maximum per name."""
    if all(type(item) is int for item in column):
        return max(column)
    pairs: dict[int, int] = {}
    for item in column:
        for name, amount in item or ():
            pairs[name] = max(pairs.get(name, 0), amount)
    return tuple(sorted(pairs.items()))


def _beyond(total: Any, base: Any) -> Any:
    """Return how far one component is beyond its baseline."""
    if type(total) is int and type(base) is int:
        return total - base if total > base else 0
    floor = dict(base or ())
    return tuple(
        (name, amount - floor.get(name, 0))
        for name, amount in total or ()
        if amount > floor.get(name, 0)
    )


def require_within_limit(total: int, name: str) -> int:
    """Return a running total if it fits; raises ``LimitExceeded``."""
    if total > TOTAL_LIMIT:
        raise LimitExceeded(
            f"a {name} would count beyond {TOTAL_LIMIT}",
            hint="reset it, or count in a larger unit",
        )
    return total
