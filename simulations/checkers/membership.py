"""Membership: where somebody who was given up ends, for everybody.

Problem: an eviction that is called final too early lets things be collected that somebody
still needs; one whose cut is not kept splits the cluster for good. Both pass unseen unless
several rare things meet.

Idea: the two rules as they are written, held against the disks of everybody. A cut is *final*
on a node only when every survivor's disk covers all promises that decided it. Beyond a cut
that promises decide no survivor's disk ever holds anything.

Invariants: who survives is read from the promises, what is held from the disks, by replica
id, over all lives; ids of which there are copies, or whose disk was harmed, prove nothing.
"""

from __future__ import annotations

from collections.abc import Mapping

from crdtmem.causality import VersionVector
from crdtmem.epoch import REGISTER, replica_text
from crdtmem.policy import SYSTEM_SPACE
from crdtmem.promises import PROMISE_PREFIX, Verdict
from simulations.checkers.base import Checker
from simulations.checkers.oracle import named
from simulations.checkers.places import Places
from simulations.history import History
from simulations.node import Machine
from simulations.world import World

__all__ = ["Membership"]


class Membership(Checker):
    """See the module."""

    name = "membership"
    about = "a cut is final only when all survivors know of it, and none holds anything beyond it"

    def __init__(self, world: World, history: History) -> None:
        super().__init__(world, history)
        self._places = history.index(Places)
        self._final: set[int] = set()

    def started(self, machine: Machine) -> None:
        """Take what is known at a start as it is."""
        self._final.update(machine.engine.epoch.settled)

    def published(self, machine: Machine) -> None:
        """Look at what a node takes for final now, and at what is decided."""
        engine = machine.engine
        for victim in sorted(engine.epoch.settled.keys() - self._final):
            self._final.add(victim)
            self._require_known(machine, victim)
        for verdict in engine.membership.evictions.verdicts:
            self._require_kept(verdict)

    def _require_known(self, machine: Machine, victim: int) -> None:
        """All survivors of some circle hold all its promises, and so all that anybody took.

        Said of whoever is the first to call it final; the others may go by that word.
        """
        verdicts = [
            verdict
            for verdict in machine.engine.membership.evictions.verdicts
            if victim in verdict.evicted
        ]
        lacks = [self._lacks(verdict) for verdict in verdicts]
        if lacks and all(lacks):
            words = f"the eviction of {victim:016x} is final to it, and {lacks[0]}"
            raise self.fail(words, machine)

    def _lacks(self, verdict: Verdict) -> str:
        """Say which survivor has yet to join what, if any."""
        promises = {self._first_promise(author, verdict) for author in verdict.survivors} - {0}
        for survivor in sorted(verdict.survivors):
            held = self._durable(survivor)
            lacking = {dot for dot in promises if held is not None and not held.covers(dot)}
            if lacking:
                return f"{survivor:016x} has yet to join the promises {named(lacking)}"
        return ""

    def _first_promise(self, author: int, verdict: Verdict) -> int:
        """Return the dot with which somebody first promised a set, 0 if that is not known.

        It is repeated, in the same words, to say more of what became of it.
        """
        wanted = {replica_text(replica) for replica in verdict.evicted}
        key = PROMISE_PREFIX + replica_text(author)
        said = self._places.deltas(SYSTEM_SPACE, REGISTER, key)
        return min(
            (d.dot for d in said if not d.removes_only and d.value["evictees"].keys() == wanted),
            default=0,
        )

    def _require_kept(self, verdict: Verdict) -> None:
        """No survivor holds anything beyond the cut."""
        for survivor in sorted(verdict.survivors):
            held = self._durable(survivor)
            for origin, last in verdict.cut.items():
                if held is not None and held.get(origin, 0) > last:
                    words = (
                        f"{survivor:016x} holds {origin:016x} up to {held[origin]}, and has "
                        f"promised with the others to end it at {last}"
                    )
                    raise self.fail(words, self.history.machines_of[survivor][-1])

    def _durable(self, replica: int) -> VersionVector | None:
        """Return what the disk of a replica holds, ``None`` if nothing can be said of it."""
        names = self.history.machines_of.get(replica, [])
        if len(names) != 1 or self.history.harms.get(names[0]):
            return None
        for view in (self.history.views.get(names[0]), self.history.past.get(names[0])):
            if view is not None and view.replica == replica:
                return _joined(view.durable, view.vector)
        return None


def _joined(one: VersionVector, other: Mapping[int, int]) -> VersionVector:
    both = one.copy()
    both.join(other)
    return both
