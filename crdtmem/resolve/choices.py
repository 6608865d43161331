"""Resolvers that show one of the siblings.

Each is a maximum over a total order that ends in the dot, so that two siblings
never tie and the order in which they come cannot matter. ``latest`` compares
physical stamps first, because that is what people mean by it; a clock that ran
ahead then wins wrongly, and loses nothing: the others are still there, and the
next write supersedes them all.
"""

from __future__ import annotations

import math
from typing import Any

from crdtmem.codec import pack
from crdtmem.entries import Entry
from crdtmem.resolve.base import recency
from crdtmem.resolve.order import order_key

__all__ = [
    "latest",
    "majority",
    "manual",
    "maximum",
    "minimum",
    "most_confident",
    "most_trusted",
]


def latest(entries: tuple[Entry, ...]) -> Any:
    """Return the value written last, by physical stamp, then order, then dot."""
    return (entries[0] if len(entries) == 1 else max(entries, key=recency))[1]


def maximum(entries: tuple[Entry, ...]) -> Any:
    """Return the greatest value in the total order of values."""
    return max((entry[1] for entry in entries), key=order_key)


def minimum(entries: tuple[Entry, ...]) -> Any:
    """Return the least value in the total order of values."""
    return min((entry[1] for entry in entries), key=order_key)


def most_trusted(entries: tuple[Entry, ...]) -> Any:
    """Return the value of the most trusted author; of equals, the latest."""
    return max(entries, key=lambda entry: (entry[2].trust, recency(entry)))[1]


def most_confident(entries: tuple[Entry, ...]) -> Any:
    """Return the value given with the most confidence; of equals, the latest.

    One without a confidence counts as less than any other.
    """
    return max(entries, key=lambda entry: (_confidence(entry), recency(entry)))[1]


def _confidence(entry: Entry) -> float:
    """Return the confidence that an entry was given with; minus infinity when none."""
    given = entry[2].metadata.get("c")
    if (type(given) is int or type(given) is float) and not math.isnan(given):
        return float(given)
    return -math.inf


def majority(entries: tuple[Entry, ...]) -> Any:
    """Return the value that the most authors gave; of equals, the one with the latest vote.

    An author has one vote per value, however many regions it wrote from; an
    unnamed author counts by replica.
    """
    voters: dict[bytes, set[str | int]] = {}
    newest: dict[bytes, Entry] = {}
    for entry in entries:
        _, value, stamp = entry
        ballot = pack(value)
        voters.setdefault(ballot, set()).add(stamp.author or stamp.replica)
        if ballot not in newest or recency(entry) > recency(newest[ballot]):
            newest[ballot] = entry
    winner = max(newest, key=lambda ballot: (len(voters[ballot]), recency(newest[ballot])))
    return newest[winner][1]


def manual(entries: tuple[Entry, ...]) -> Any:
    """Return the value if all siblings agree on it, else ``None``: the question is open.

    The reading is marked contested and carries the siblings; whoever decides
    writes a value that supersedes them.
    """
    first = entries[0][1]
    if len(entries) > 1:
        encoded = pack(first)
        if any(pack(value) != encoded for _, value, _ in entries[1:]):
            return None
    return first
