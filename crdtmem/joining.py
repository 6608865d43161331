"""Joining columns of deltas into dictionaries of slots: the hot loops of the table.

Problem: joining a delta must cost a fraction of a microsecond, and most deltas are
plain: a new name, or a name whose one entry is the one that the writer had seen.

Idea: a column is joined all at once, by the interpreter's own loops, where every
name in it is plain in the same way; otherwise one flat loop joins one after the
other. Which of the two it was cannot be told from the outcome.

``over`` holds what is staged and ``base`` what is published; a lookup sees
``over`` first. Where both are the same dictionary, the published slots are
changed directly.

Invariants: what returns ``False`` or ``None`` has changed nothing; a column joined in
bulk leaves the slots, and notes the removed dots, that the loop would have.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import count, islice, repeat
from operator import itemgetter, sub
from typing import Any, Final

from crdtmem.batch import Segment, superseded_dots
from crdtmem.columns import COLUMN_FROM, Distances
from crdtmem.entries import EMPTY, Entry, Siblings, Slot, Stamp, as_siblings, as_slot

__all__ = [
    "distances_over",
    "distances_to",
    "is_fresh",
    "join_bulk",
    "join_column",
    "join_slot",
    "put_all",
]

_dot_of: Final = itemgetter(0)


def is_fresh(over: dict[Any, Slot], base: dict[Any, Slot], names: Iterable[Any]) -> bool:
    """Tell whether none of the names holds, or once held, anything."""
    return base.keys().isdisjoint(names) and (over is base or over.keys().isdisjoint(names))


def distances_over(
    over: dict[Any, Slot], base: dict[Any, Slot], dots: Iterable[int], names: Iterable[Any]
) -> list[int] | None:
    """Return how far before each delta, named by its dot, the one entry lies that it replaces.

    Returns ``None`` when a name is staged already, or does not hold exactly one entry.
    """
    if over is not base and not over.keys().isdisjoint(names):
        return None
    return distances_to(dots, map(base.get, names))


def distances_to(dots: Iterable[int], held: Iterable[Any]) -> list[int] | None:
    """Return how far before deltas, named by their dots, the single entries lie that are held.

    Returns ``None`` if any of what is held is nothing, or several entries.
    """
    try:
        return list(map(sub, dots, map(_dot_of, held)))
    except (TypeError, IndexError):
        # Nothing and siblings have no dot in the first place: what has, is one entry.
        return None


def put_all(
    over: dict[Any, Slot],
    dots: Iterable[int],
    names: Sequence[Any],
    values: Sequence[Any],
    stamp: Stamp,
) -> bool:
    """Put entries under names that ``over`` does not hold yet; ``False`` if one comes twice."""
    size = len(over)
    over.update(zip(names, zip(dots, values, repeat(stamp)), strict=False))
    if len(over) == size + len(names):
        return True
    for name in names:
        over.pop(name, None)
    return False


def join_bulk(
    over: dict[Any, Slot], base: dict[Any, Slot], names: Sequence[Any], segment: Segment
) -> bool:
    """Join a column all at once if it is plain enough; tells whether it was.

    It is, if all its names are new, or if each holds the one entry that its delta
    supersedes. All dots that the column lists are then really removed.
    """
    first, values, superseded = segment.first, segment.values, segment.superseded
    if values is None or segment.count < COLUMN_FROM:
        return False
    if superseded is None:
        fresh = is_fresh(over, base, names)
        return fresh and put_all(over, count(first), names, values, segment.stamp)
    if type(superseded) is not Distances:
        return False
    # Wide integers cost as much to make as to look up: they are made once.
    dots = list(islice(count(first), segment.count))
    if distances_over(over, base, dots, names) != superseded.tolist():
        return False
    if over is not base:
        return put_all(over, dots, names, values, segment.stamp)
    if len(set(names)) < segment.count:
        # A name comes twice: the loop joins one after the other.
        return False
    base.update(zip(names, zip(dots, values, repeat(segment.stamp)), strict=False))
    return True


def join_column(
    over: dict[Any, Slot],
    base: dict[Any, Slot],
    names: Iterable[Any],
    segment: Segment,
    removed: list[int],
) -> list[Any]:
    """Join a column of deltas one by one into ``over``; returns the names with siblings."""
    dot, values, stamp = segment.first, segment.values, segment.stamp
    over_get: Callable[[Any], Any] = over.get
    base_get: Callable[[Any], Any] = base.get
    column: Iterable[Any] = repeat(0) if segment.superseded is None else segment.superseded
    contested: list[Any] = []
    if values is None:
        for name, superseded in zip(names, column, strict=False):
            current = over_get(name)
            if current is None:
                current = base_get(name)
            slot = join_slot(current, None, superseded_dots(superseded, dot), removed)
            over[name] = slot
            if type(slot) is Siblings and slot:
                contested.append(name)
            dot += 1
        return contested
    forget = removed.append
    for name, value, superseded in zip(names, values, column, strict=False):
        current = over_get(name)
        if current is None:
            current = base_get(name)
        if current is None:
            over[name] = (dot, value, stamp)
        elif type(current) is tuple and (
            dot - superseded == current[0] if type(superseded) is int else current[0] in superseded
        ):
            # The usual overwrite: the one entry that was there is the one that was observed.
            if current[0] != dot:
                forget(current[0])
            over[name] = (dot, value, stamp)
        else:
            slot = join_slot(
                current, (dot, value, stamp), superseded_dots(superseded, dot), removed
            )
            over[name] = slot
            if type(slot) is Siblings and slot:
                contested.append(name)
        dot += 1
    return contested


def join_slot(
    slot: Slot | None, entry: Entry | None, superseded: Iterable[int], removed: list[int]
) -> Slot:
    """Return a slot without the superseded dots and with the entry: the join of one delta.

    The dots that were really there are appended to ``removed``. An entry whose
    dot is already present is not added twice.
    """
    gone = set(superseded)
    kept: list[Entry] = []
    for old in as_siblings(slot):
        if old[0] in gone:
            removed.append(old[0])
        elif entry is None or old[0] != entry[0]:
            kept.append(old)
    if entry is not None:
        kept.append(entry)
    return as_slot(kept) if kept else EMPTY
