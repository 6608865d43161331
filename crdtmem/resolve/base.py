"""What a resolver is: a named, versioned, pure function from siblings to a reading.

Problem: concurrent values are all kept, and most readers want one. Which one
must not depend on the replica that is asked, on the order of arrival, or on
which release of this program it runs.

Idea: a resolver gets the live siblings in canonical order (by dot) and returns
a frozen value. It sees nothing else: no clock, no state, no key. Its name and
version are part of a space's replicated policy; a change of meaning is a new
version, and a node that lacks it serves the siblings and says so.

Invariants: a resolver is total over non-empty siblings; it returns the same for
every order of them; it never changes an entry; one sibling is not a conflict.

Whatever calls a model, or is slow, is no resolver: it runs beside the join and
writes a superseding value.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from crdtmem.entries import Entry

__all__ = ["Resolve", "Resolver", "recency"]

Resolve = Callable[[tuple[Entry, ...]], Any]


@dataclass(frozen=True, slots=True)
class Resolver:
    """One line of the table: ``description`` completes "shows …"."""

    name: str
    version: int
    resolve: Resolve
    description: str


def recency(entry: Entry) -> tuple[int, int, int]:
    """Return what ``latest`` compares, and every tie: physical stamp, order, dot."""
    dot, _, stamp = entry
    return stamp.physical_us, stamp.order, dot
