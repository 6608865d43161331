"""Rule 8: two replicas of one vector that differ, and how evidence settles it.

Problem: a disk loses or keeps an entry that it should not have. The digests of two replicas with
equal vectors then differ, and absence on one side looks just like a removal.

Idea: each side first builds its table again from its log, where that is whole. What still differs
goes only if one side shows the delta that superseded it; else both keep it.

Invariants: afterwards both hold the same; nothing that no delta removed is lost.

After the design's rule 8; anti-entropy that mistakes absence for removal is anomaly 7.
"""

from __future__ import annotations

from tests.model.specification import Kernel
from tests.model.vocabulary import Dot, Place, Refused

__all__ = ["lose", "rederive", "repair"]


def lose(replica: Kernel, key: str) -> None:
    """Let the disk forget the entries of one register, unnoticed."""
    replica.table.pop(Place("register", key, ""), None)


def rederive(replica: Kernel) -> None:
    """Build the table again from the log, where the log is whole."""
    batches = sorted(replica.log.values(), key=lambda batch: (batch.order, batch.origin))
    if sum(len(batch.deltas) for batch in batches) == sum(replica.vector.values()):
        replica.table = {}
        for batch in batches:
            for delta in batch.deltas:
                replica.apply(delta)


def repair(one: Kernel, other: Kernel) -> list[Dot]:
    """Make two replicas of one vector agree by evidence; return what was given back.

    Raises Refused when their vectors differ: then they are merely not in step.
    """
    if one.vector != other.vector:
        raise Refused("vectors differ: not a case for repair")
    rederive(one)
    rederive(other)
    deltas = [d for replica in (one, other) for b in replica.log.values() for d in b.deltas]
    superseded = {dot for delta in deltas for dot in delta.supersedes}
    given_back: list[Dot] = []
    for place in one.table.keys() | other.table.keys():
        held = one.held(place) | other.held(place)
        lacking = {d for d in held if d not in one.held(place) or d not in other.held(place)}
        kept = {d: e for d, e in held.items() if d not in lacking or d not in superseded}
        given_back += sorted(lacking & kept.keys())
        one.put(place, kept)
        other.put(place, kept)
    return given_back
