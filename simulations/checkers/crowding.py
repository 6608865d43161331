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

from crdtmem.causality import VersionVector
from crdtmem.crdt import DATATYPES
from crdtmem.entries import SEQUENCE_MASK, unpack_dot
from simulations.checkers.base import Checker, Tail
from simulations.checkers.operations import Applied, Operations
from simulations.checkers.places import Places
from simulations.history import History
from simulations.node import Machine
from simulations.world import World

__all__ = ["Crowding"]

_CODES = frozenset(DATATYPES[name].code for name in ("register", "multi_value"))


class Crowding(Checker):
    """See the module."""

    name = "crowding"
    about = "no write that looked at nothing goes through where the limit on siblings is reached"

    def __init__(self, world: World, history: History) -> None:
        super().__init__(world, history)
        self._places = history.index(Places)
        self._operations = history.index(Operations)
        self._new = Tail(self._operations.found)

    def published(self, machine: Machine) -> None:
        """Look at what was written since, now and then."""
        if self.is_drawn():
            self._look()

    def finished(self) -> None:
        """Look at the rest."""
        self._look()

    def _look(self) -> None:
        self._operations.update()
        for applied in self._new:
            # Of a transaction only the first operation is sure to have found what was there.
            for asked in applied.asked[:1]:
                if asked.place[1] in _CODES and asked.name == "set":
                    self._check(applied)

    def _check(self, applied: Applied) -> None:
        attempts = self._operations.attempts(applied)
        if applied.replica in self.history.forked or len({a.observed for a in attempts}) > 1:
            return
        place, observed = applied.asked[0].place, applied.call.observed or frozenset()
        context = VersionVector(applied.context)
        context[applied.replica] = (applied.first & SEQUENCE_MASK) - 1
        held = self._places.live(*place, context)
        limit = self.world.config.limits.siblings
        if len(held) >= limit and observed.isdisjoint(held):
            words = (
                f"{unpack_dot(applied.first)} was written to {place} upon none of the {len(held)} "
                f"values there; the limit is {limit}"
            )
            raise self.fail(words, applied.call.machine)
