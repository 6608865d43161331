"""Runs in bulk: the hot loops of staging, for plain writes and for increments.

Problem: going through a datatype's mutator costs microseconds per operation;
most traffic is runs of the same two operations, writing registers and counting.

Idea: a run is staged column by column. Where all its keys are new, or all hold
one entry, the work is done by the interpreter's own loops; otherwise one flat
loop does exactly what the mutators would have done, key by key.

Invariants: a run staged here leaves the same slots, and the same deltas, as its
operations staged one by one (a test holds the two side by side); a run of plain
writes cannot fail; a run of increments journals what it changes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import count, islice, repeat
from operator import add, itemgetter, sub
from typing import Any, Final

from crdtmem.codec import pack
from crdtmem.columns import (
    COLUMN_FROM,
    Distances,
    Rows,
    as_column,
    as_distances,
    pack_rows,
)
from crdtmem.crdt.counter import advance
from crdtmem.crdt.totals import TOTAL_LIMIT
from crdtmem.entries import SEQUENCE_BITS, SEQUENCE_MASK, Siblings, Slot, Stamp, as_siblings
from crdtmem.joining import distances_over, distances_to, is_fresh, join_slot, put_all
from crdtmem.policy import Policy
from crdtmem.table import Overlay, Table
from crdtmem.transaction import CountRun, PutRun

__all__ = ["as_column_item", "stage_counts", "stage_puts"]

Undo = list[tuple[dict[Any, Slot], Any, "Slot | None"]]
_BASELINE_LENGTH: Final = 4
_PLAIN_LENGTHS: Final = frozenset({2})
_value_of: Final = itemgetter(1)


def stage_puts(
    overlay: Overlay,
    table: Table,
    run: PutRun,
    policy: Policy,
    dot: int,
    stamp: Stamp,
    undo: Undo | None,
) -> Any:
    """Stage a run of plain writes from ``dot`` on; returns its column of superseded dots.

    ``undo`` journals what is changed; without it the run must be alone in its
    transaction, so that nothing can be refused after it.
    """
    over, base = overlay.flat(table), table.slots
    keys = run.keys
    if len(keys) >= COLUMN_FROM and not policy.trust_ordered:
        if is_fresh(over, base, keys):
            if put_all(over, count(dot), keys, run.values, stamp):
                _journal(undo, over, keys)
                return None
        else:
            dots = list(islice(count(dot), len(keys)))
            distances = _as_own(distances_over(over, base, dots, keys), dot)
            if distances is not None and put_all(over, dots, keys, run.values, stamp):
                _journal(undo, over, keys)
                overlay.replaced.append((run.space, dot, distances))
                return distances
    over_get, base_get = over.get, base.get
    floor = dot & ~SEQUENCE_MASK
    removed = overlay.removed_of(run.space)
    trust = stamp.trust if policy.trust_ordered else None
    column: list[Any] = []
    push = column.append
    for key, value in zip(keys, run.values, strict=True):
        current: Any = over_get(key)
        if undo is not None:
            undo.append((over, key, current))
        if current is None:
            current = base_get(key)
        if current is None:
            push(0)
            over[key] = (dot, value, stamp)
        elif type(current) is tuple and (trust is None or current[2].trust <= trust):
            old = current[0]
            removed.append(old)
            push(dot - old if floor < old < dot else (old,))
            over[key] = (dot, value, stamp)
        else:
            gone = tuple(
                entry[0]
                for entry in as_siblings(current)
                if trust is None or entry[2].trust <= trust
            )
            push(as_column_item(gone, dot))
            slot = join_slot(current, (dot, value, stamp), gone, removed)
            over[key] = slot
            if type(slot) is Siblings:
                overlay.note_contested(table, key, None)
        dot += 1
    return as_column(column)


def _journal(undo: Undo | None, over: dict[Any, Slot], keys: Iterable[str]) -> None:
    """Note that keys were staged which had not been."""
    if undo is not None:
        undo.extend(zip(repeat(over), keys, repeat(None)))


def _as_own(distances: list[int] | None, dot: int) -> Distances[int] | None:
    """Return distances as a column if all lead to dots of the writer's own, else ``None``."""
    if distances is None:
        return None
    # What lies no further back than the first sequence, and not ahead, is of this replica.
    furthest, sequence = max(distances), dot & SEQUENCE_MASK
    if furthest >= sequence and max(map(sub, distances, count())) >= sequence:
        return None
    try:
        return as_distances(distances, furthest)
    except OverflowError:
        return None


def stage_counts(
    overlay: Overlay,
    table: Table,
    run: CountRun,
    dot: int,
    stamp: Stamp,
    undo: Undo,
    *,
    alone: bool,
) -> tuple[Sequence[Any], bytes, Any]:
    """Stage a run of increments from ``dot`` on; returns its totals, packed, and superseded dots.

    Only for spaces that do not order trust: there at most one own total is live.
    Raises ``LimitExceeded`` where a total would not fit; ``undo`` takes it back. A run
    that is ``alone`` in its transaction, and fits, cannot be refused any more, and so
    may leave ``undo`` as it is.
    """
    over, base = overlay.flat(table), table.slots
    bulky = len(run.keys) >= COLUMN_FROM
    if bulky and (counted := _count_bulk(over, base, run, dot)) is not None:
        components, distances = counted
        staged = Rows(zip(*components, strict=True))
        if put_all(over, count(dot), run.keys, staged, stamp):
            _journal(None if alone else undo, over, run.keys)
            if distances is not None:
                overlay.replaced.append((run.space, dot, distances))
            return staged, pack_rows(components), distances
    totals, column = _count_singly(overlay, table, run, dot, stamp, undo)
    return *_packed(totals), as_column(column)


def _packed(totals: list[tuple[int, ...]]) -> tuple[Sequence[Any], bytes]:
    """Return a column of totals, and how it is written: by components if all are plain."""
    if len(totals) < COLUMN_FROM or set(map(len, totals)) != _PLAIN_LENGTHS:
        return totals, pack(totals)
    return Rows(totals), pack_rows(tuple(zip(*totals, strict=True)))


def _count_singly(
    overlay: Overlay, table: Table, run: CountRun, dot: int, stamp: Stamp, undo: Undo
) -> tuple[list[tuple[int, ...]], list[Any]]:
    """Stage increments one after the other."""
    over, base = overlay.flat(table), table.slots
    over_get, base_get = over.get, base.get
    floor = dot & ~SEQUENCE_MASK
    removed = overlay.removed_of(run.space)
    totals: list[tuple[int, ...]] = []
    column: list[Any] = []
    for key, amount in zip(run.keys, run.values, strict=True):
        current: Any = over_get(key)
        undo.append((over, key, current))
        if current is None:
            current = base_get(key)
        if (
            type(current) is tuple
            and floor < current[0] < dot
            and len(current[1]) < _BASELINE_LENGTH
        ):
            # The usual case: this replica alone has counted here.
            old = current[0]
            distance = dot - old
            total = advance(current[1], distance, amount, 0)
            removed.append(old)
            over[key] = (dot, total, stamp)
        else:
            own = [
                entry
                for entry in as_siblings(current)
                if floor < entry[0] < dot and len(entry[1]) < _BASELINE_LENGTH
            ]
            distance = dot - own[-1][0] if own else 0
            total = advance(own[-1][1] if own else (0, 0), distance, amount, 0)
            gone = (own[-1][0],) if own else ()
            over[key] = join_slot(current, (dot, total, stamp), gone, removed)
        totals.append(total)
        column.append(distance)
        dot += 1
    return totals, column


def _count_bulk(
    over: dict[Any, Slot], base: dict[Any, Slot], run: CountRun, dot: int
) -> tuple[tuple[list[int], list[int]], Distances[int] | None] | None:
    """Return the births and counts of totals, and distances, if it is a plain run.

    It is if all counters are new, or each holds one own total; ``None`` for any
    other run: one that was ever counted down, or reset, or would be counted too far.
    """
    keys, amounts = run.keys, run.values
    if is_fresh(over, base, keys):
        return None if max(amounts) > TOTAL_LIMIT else (([0] * len(keys), amounts), None)
    if not over.keys().isdisjoint(keys):
        return None
    held: list[Any] = list(map(base.get, keys))
    distances = _as_own(distances_to(count(dot), held), dot)
    if distances is None:
        return None
    try:
        births, counts = zip(*map(_value_of, held), strict=True)
    except ValueError:
        # Some total also counts down, or is none but a baseline.
        return None
    totals = list(map(add, counts, amounts))
    if max(totals) > TOTAL_LIMIT:
        return None
    return (list(map(add, births, distances)), totals), distances


def as_column_item(superseded: tuple[int, ...], dot: int) -> Any:
    """Return one delta's superseded dots as its column holds them."""
    if not superseded:
        return 0
    if len(superseded) == 1 and superseded[0] >> SEQUENCE_BITS == dot >> SEQUENCE_BITS:
        return dot - superseded[0]
    return superseded
