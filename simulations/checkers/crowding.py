"""Crowding: whoever looks at nothing is refused where too many values stand beside each other.

Problem: siblings that nobody settles cost every reader and every write. The limit on them is
the origin's to keep, since a join may never refuse; a node that forgets it does no visible
harm for weeks.

Idea: for every write to a register by a client that had observed none of what its node held
there (or gave no ``Observed`` at all): fewer values than the limit stood there, by the
history, where and when it was staged.

Invariants: judged at the writer's own context; joins may lead to any number of siblings.
"""

from __future__ import annotations

from crdtmem.entries import unpack_dot
from simulations.checkers.operations import REGISTERS, Applied, OfWrites

__all__ = ["Crowding"]


class Crowding(OfWrites):
    """See the module."""

    name = "crowding"
    about = "no write that looked at nothing goes through where the limit on siblings is reached"

    def check(self, applied: Applied) -> None:
        """Look at its first operation: only that is sure to have found what was there."""
        for asked in applied.asked[:1]:
            if asked.place[1] in REGISTERS and asked.name == "set":
                self._check(applied)

    def _check(self, applied: Applied) -> None:
        attempts = self._operations.attempts(applied)
        if applied.replica in self.history.forked or len({a.observed for a in attempts}) > 1:
            return
        place, observed = applied.asked[0].place, applied.call.observed or frozenset()
        held = self._places.live(*place, applied.basis)
        limit = self.world.config.limits.siblings
        if len(held) >= limit and observed.isdisjoint(held):
            words = (
                f"{unpack_dot(applied.first)} was written to {place} upon none of the {len(held)} "
                f"values there; the limit is {limit}"
            )
            raise self.fail(words, applied.call.machine)
