"""Trust: in a space that orders it, nobody displaces what was written by someone more trusted.

Problem: an agent that is trusted little overwrites what a person has settled. The order of
trust is kept at the origin, in one line of code that no join repeats, so that a node
without it is as consistent as any.

Idea: both sides of the rule, for every transaction of a client in a space whose policy orders
trust, as far as the policy is beyond doubt where and when it was staged. Nothing that it
supersedes is of higher trust than its author's. And in registers, a write or delete that was
made without ``Observed`` supersedes everything else that its node held there: who is
trusted enough is obeyed.

A node goes by the policy that it shows, which may be one flight behind what it has joined.
Beyond doubt is what was so a few batches earlier already, and was never otherwise since.

Invariants: policy and entries are those of the writer's own context, from the history.
"""

from __future__ import annotations

from collections.abc import Iterable

from crdtmem.batch import SpaceName
from crdtmem.causality import VersionVector
from crdtmem.crdt import DATATYPES
from crdtmem.entries import unpack_dot
from crdtmem.policy import SYSTEM_SPACE, policy_key
from simulations.checkers.operations import REGISTERS, Applied, OfWrites
from simulations.checkers.oracle import named
from simulations.checkers.places import Delta, Place, covers

__all__ = ["Trust"]

_BATCHES_BEFORE = 3
_REGISTER = DATATYPES["register"].code


class Trust(OfWrites):
    """See the module."""

    name = "trust"
    about = "where trust is ordered, a write displaces nothing of higher trust, and all else"

    def check(self, applied: Applied) -> None:
        """Look at every key that it was about, where trust was ordered beyond doubt."""
        if applied.replica in self.history.forked:
            return
        context = applied.basis
        for place in dict.fromkeys(item.place for item in applied.asked):
            if self._is_ordered(place[0], self._earlier(applied.first), context):
                self._check(applied, place, context)

    def _earlier(self, dot: int) -> VersionVector:
        """Return what the writer of a dot had joined, and surely shown, some batches before."""
        batch = self.history.batch_of(dot)
        for _ in range(_BATCHES_BEFORE):
            batch = batch and self.history.by_hash.get(batch.header.previous_hash)
        return VersionVector() if batch is None else self.history.context(batch)

    def _is_ordered(self, space: SpaceName, earlier: VersionVector, now: VersionVector) -> bool:
        """Tell whether every policy that may have been gone by orders trust."""
        place = (SYSTEM_SPACE, _REGISTER, policy_key(space))
        held = list(self._places.live(*place, earlier).values())
        since = [
            delta
            for delta in self._places.deltas(*place)
            if covers(now, delta.dot) and not covers(earlier, delta.dot)
        ]
        return bool(held) and all(
            not delta.removes_only and delta.value.get("trust_ordered") for delta in held + since
        )

    def _check(self, applied: Applied, place: Place, context: VersionVector) -> None:
        trust = applied.call.step.arguments.get("trust", 0)
        first, end = applied.first, applied.first + applied.count
        known = {delta.dot: delta for delta in self._places.deltas(*place)}
        mine = [delta for dot, delta in known.items() if first <= dot < end]
        gone = {dot for delta in mine for dot in delta.superseded}
        above = _above((known[dot] for dot in gone if dot in known), trust)
        if above:
            words = (
                f"{unpack_dot(first)}, of trust {trust}, supersedes {named(above)}, which was "
                "written with more"
            )
            raise self.fail(words, applied.call.machine)
        alone = len(applied.asked) == 1 and applied.asked[0].name in ("set", "delete")
        if place[1] not in REGISTERS or not alone or applied.call.observed is not None:
            return
        held = self._places.live(*place, context)
        spared = held.keys() - _above(held.values(), trust) - gone
        if spared and mine:
            words = f"{unpack_dot(first)}, of trust {trust}, leaves {named(spared)} standing"
            raise self.fail(words, applied.call.machine)


def _above(deltas: Iterable[Delta], trust: int) -> set[int]:
    """Return the dots of what was written with more trust."""
    return {delta.dot for delta in deltas if delta.stamp.trust > trust}
