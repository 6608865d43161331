"""What a replica must hold, said from causal history alone.

Problem: a specification that is only compared with itself proves nothing.

Idea: the oracle never looks at supersession, baselines, fields or collection. It takes the
operations that users asked for, each with its place in causal history, keeps those that a
replica's vector covers, and says what a reader must see:

* a register, set element, flag or log entry is there unless a later operation that observed it
  wrote or removed its place (and, where trust is ordered, was trusted at least as much);
* a remove-wins element is there if someone added it and every removal came before some add;
* a counter is the sum of the increments that no reset saw;
* a document holds the edits that no erasure saw;
* a log is in an order that extends causality;
* a bounded counter is what was minted less what was spent, never less than nothing.

Collections, admissions and promises are no user's operations, so they cannot be noticed.

Invariants: pure; nothing here imports the specification's tables.

After Burckhardt, Gotsman, Yang & Zawirski, "Replicated data types: specification, verification,
optimality".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

from tests.model.vocabulary import (
    REMOVAL_KINDS,
    VERBS,
    Batch,
    Dot,
    Event,
    Place,
    Vector,
    covers,
)

if TYPE_CHECKING:
    from tests.model.membership import Replica

__all__ = [
    "Known",
    "Record",
    "Violation",
    "check_order",
    "check_replica",
    "check_spending",
    "expected_value",
    "known",
    "record",
]


COLLECTED_KINDS = ("counter", "bounded", "document", *REMOVAL_KINDS)
"""Those whose entries may change without a user's doing: compared by value, not by dot."""


class Violation(AssertionError):
    """A replica holds what causal history forbids, or lacks what it demands."""


class Known(NamedTuple):
    """A user's operation, the batch that it came in, its place there, and what it is about."""

    event: Event
    batch: Batch
    position: int
    kind: str
    writes: bool
    place: tuple[str, str, str]
    after: Vector

    def saw(self, other: Known) -> bool:
        """Say whether ``other`` is in this operation's causal past."""
        if self.batch is other.batch and self.event.knew is None:
            return other.position < self.position
        return self.after.get(other.batch.origin, 0) >= other.batch.last

    def observed(self, other: Known) -> bool:
        """Say whether this operation acted on what ``other`` left."""
        passed_in = self.event.operation.observed
        if passed_in is None or (self.writes and self.kind in REMOVAL_KINDS):
            return self.saw(other)
        return other.event.dots[0] in passed_in


class Record(NamedTuple):
    """A batch, and the users' operations in it."""

    batch: Batch
    operations: tuple[Known, ...]


def record(batch: Batch) -> Record:
    """Return what the oracle needs to know of a batch."""
    operations: list[Known] = []
    for position, event in enumerate(batch.events):
        verb, arguments = event.operation.verb, event.operation.arguments
        if verb in VERBS:
            kind, effect = VERBS[verb]
            field = arguments[1] if kind in ("add_wins", "remove_wins", "log") else ""
            if verb == "append":
                field = str(event.dots[0])
            place = (kind, arguments[0], field)
            after = dict(batch.after if event.knew is None else event.knew)
            operations.append(Known(event, batch, position, kind, effect == "write", place, after))
    return Record(batch, tuple(operations))


def known(history: Iterable[Record], vector: Vector) -> list[Known]:
    """Return the users' operations under a vector, which never splits a transaction."""
    found: list[Known] = []
    for batch, operations in history:
        reached = vector.get(batch.origin, 0)
        if reached >= batch.last:
            if not covers(vector, batch.after):
                raise Violation(f"{batch.origin}:{batch.first} came before what it depends on")
            found += operations
        elif reached >= batch.first:
            raise Violation(f"half of the transaction {batch.origin}:{batch.first} is visible")
    return found


def _survivors(operations: list[Known], trust_ordered: bool) -> list[Known]:
    """Return the operations on one place whose entries nothing later superseded."""
    return [
        one
        for one in operations
        if not any(
            other.observed(one)
            and (not trust_ordered or other.event.operation.trust >= one.event.operation.trust)
            for other in operations
        )
    ]


def _is_present(operations: list[Known], trust_ordered: bool) -> bool:
    """Say whether a remove-wins element is there."""
    if trust_ordered:
        left = _survivors(operations, trust_ordered)
        return bool(left) and all(one.writes for one in left)
    adds = [one for one in operations if one.writes]
    removals = [one for one in operations if not one.writes]
    return bool(adds) and all(any(add.saw(removal) for add in adds) for removal in removals)


def expected_value(operations: list[Known], kind: str, key: str, trust_ordered: bool) -> Any:
    """Return what a reader of ``key`` must see."""
    mine = [one for one in operations if one.place[:2] == (kind, key)]
    by_place: dict[tuple[str, str, str], list[Known]] = {}
    for one in mine:
        by_place.setdefault(one.place, []).append(one)
    if kind == "document":
        erasures = [one for one in mine if not one.writes]
        edits = [one for one in mine if one.writes and not any(e.saw(one) for e in erasures)]
        return frozenset(str(one.event.dots[0]) for one in edits)
    if kind == "counter":
        resets = [one for one in mine if not one.writes]
        counted = [one for one in mine if one.writes and not any(r.saw(one) for r in resets)]
        return sum(_amount(one, "increment") - _amount(one, "decrement") for one in counted)
    if kind == "bounded":
        return sum(_amount(one, "mint") - _amount(one, "spend") for one in mine)
    if kind in REMOVAL_KINDS:
        return frozenset(p[2] for p, ops in by_place.items() if _is_present(ops, trust_ordered))
    left = [
        one
        for operations_of_place in by_place.values()
        for one in _survivors(operations_of_place, trust_ordered)
        if one.writes
    ]
    if kind == "log":
        left.sort(key=lambda one: (one.batch.order, one.event.dots[0]))
        return [one.event.operation.arguments[1] for one in left]
    if kind == "register":
        left.sort(key=lambda one: one.event.dots[0])
        return [one.event.operation.arguments[1] for one in left]
    return frozenset(one.place[2] for one in left)


def _amount(one: Known, verb: str) -> int:
    operation = one.event.operation
    return int(operation.arguments[-1]) if operation.verb == verb else 0


def expected_dots(operations: list[Known], trust_ordered: bool) -> dict[Place, set[Dot]]:
    """Return the dots that every place which is never collected must hold."""
    by_place: dict[Place, list[Known]] = {}
    for one in operations:
        if one.kind not in COLLECTED_KINDS:
            by_place.setdefault(Place(*one.place), []).append(one)
    expected: dict[Place, set[Dot]] = {}
    for place, mine in by_place.items():
        left = [one for one in _survivors(mine, trust_ordered) if one.writes]
        if left:
            expected[place] = {one.event.dots[0] for one in left}
    return expected


def check_replica(replica: Replica, history: Iterable[Record]) -> None:
    """Raise Violation unless every value and every dot is as causal history says."""
    operations = known(history, replica.vector)
    for kind, key in sorted({one.place[:2] for one in operations}):
        value = replica.value(kind, key)
        expected = expected_value(operations, kind, key, replica.trust_ordered)
        if value != expected:
            raise Violation(f"{replica.name} reads {kind} {key} as {value}, not {expected}")
        if kind == "bounded" and replica.rights(key, replica.name) < 0:
            raise Violation(f"{replica.name} holds less than no rights of {key}")
    expected_by_place = expected_dots(operations, replica.trust_ordered)
    for place in expected_by_place.keys() | {p for p in replica.table if _is_compared(p)}:
        dots = set(replica.held(place))
        if dots != expected_by_place.get(place, set()):
            raise Violation(f"{replica.name} holds {sorted(dots)} at {place}")
    _check_rescues(operations, replica.vector, history)


def _is_compared(place: Place) -> bool:
    return place.kind not in COLLECTED_KINDS and any(place.kind == k for k, _ in VERBS.values())


def check_order(batch: Batch, history: Iterable[Record]) -> None:
    """Raise Violation unless a new batch is ordered, and numbered, after all that it saw."""
    after = dict(batch.after)
    for earlier, _ in history:
        if earlier.origin == batch.origin and earlier.last >= batch.first:
            raise Violation(f"{batch.origin} used the dot {batch.origin}:{batch.first} again")
        if after.get(earlier.origin, 0) >= earlier.last and earlier.order >= batch.order:
            raise Violation(f"{batch.origin}:{batch.first} is ordered before what it saw")


def _check_rescues(operations: list[Known], vector: Vector, history: Iterable[Record]) -> None:
    """Once each, as what they were, and never what got through."""
    rescued = {one.event.rescues: one for one in operations if one.event.rescues is not None}
    counts = Counter(one.event.rescues for one in operations)
    for lost in [one for record in history for one in record.operations] if rescued else []:
        dot = lost.event.dots[0]
        if dot in rescued:
            was, now = lost.event.operation.arguments, rescued[dot].event.operation.arguments
            if counts[dot] > 1:
                raise Violation(f"{dot} was rescued {counts[dot]} times")
            if vector.get(dot.replica, 0) >= dot.sequence:
                raise Violation(f"{dot} was rescued, though it got through")
            if was != now and lost.kind != "log":
                raise Violation(f"{dot} was rescued as {now}, not {was}")


def check_spending(history: Iterable[Record]) -> None:
    """Raise Violation if more was spent, anywhere and by anyone, than was ever minted."""
    left: Counter[str] = Counter()
    for _, operations in history:
        for one in operations:
            left[one.place[1]] += _amount(one, "mint") - _amount(one, "spend")
    for key, amount in left.items():
        if amount < 0:
            raise Violation(f"{key} is overspent by {-amount}")
