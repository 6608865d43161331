"""Nothing that was deleted comes back.

Problem: the dead return by many doors: a peer that was away, a snapshot from somebody who
lags, a checkpoint beside a log, a removal that was forgotten too soon.

Idea: per node, the set of dots that some delta within its vector has listed. Each publication
is checked where it happened: the places that its deltas name must not hold what they
listed. At drawn moments, after a start and at the end, nothing at all that is listed
may be live.

Invariants: a dot that was listed within a vector stays listed for all greater ones.
"""

from __future__ import annotations

from crdtmem.batch import Batch
from crdtmem.entries import as_siblings, unpack_dot
from simulations.checkers.base import Checker
from simulations.history import History
from simulations.node import Machine
from simulations.world import World

__all__ = ["Resurrection"]


class Resurrection(Checker):
    """See the module."""

    name = "resurrection"
    about = "what a delta within a replica's vector has superseded is never live there again"

    def __init__(self, world: World, history: History) -> None:
        super().__init__(world, history)
        self._dead: dict[str, set[int]] = {}

    def started(self, machine: Machine) -> None:
        """Gather who is dead by what was recovered."""
        view = self.history.views[machine.name]
        dead = self._dead[machine.name] = set()
        for batch in self.history.between({}, view.vector, view.tips):
            dead.update(self.history.effects(batch)[1])
        self._look_everywhere(machine)

    def published(self, machine: Machine) -> None:
        """Look where something was superseded just now; everywhere, now and then."""
        dead = self._dead[machine.name]
        for batch in self.history.views[machine.name].news:
            gone = self.history.effects(batch)[1]
            if gone:
                dead.update(gone)
                self._look_where(machine, batch)
        if self.is_drawn():
            self._look_everywhere(machine)

    def finished(self) -> None:
        """Look everywhere on everybody."""
        for machine in self.world.up():
            self._look_everywhere(machine)

    def _look_where(self, machine: Machine, batch: Batch) -> None:
        state = machine.engine.state
        for segment in batch.segments:
            if segment.superseded is None:
                continue
            table = state.find(segment.space, segment.datatype)
            if table is None:
                continue
            for _, key, field, _, superseded in segment.deltas():
                held = as_siblings(table.slot(key, field)) if superseded else ()
                for entry in held:
                    if entry[0] in superseded:
                        words = f"{unpack_dot(entry[0])} at {key!r} survives what superseded it"
                        raise self.fail(words, machine)

    def _look_everywhere(self, machine: Machine) -> None:
        dead = self._dead[machine.name]
        for table, key, _, entry in machine.engine.state.entries():
            if entry[0] in dead:
                words = f"{unpack_dot(entry[0])} at {table.space} {key!r} has come back"
                raise self.fail(words, machine)
