"""Joins: joining whole states is joining all of their deltas.

Problem: a newcomer gets a snapshot, a neighbour the deltas; the two must end up the same.

Idea: at rare drawn moments two nodes that know different things are taken, one's state is
written as a snapshot, read, and joined upon a copy of the other's, by the production code of
an installation. The result must be what the history has live at the joined vector; and
joining a second time must change nothing.

Invariants: copies only; nodes with different histories of one id are not joined.
"""

from __future__ import annotations

from crdtmem.crdt import SHAPES
from crdtmem.install import Installation, Kind
from crdtmem.snapshot import encode_chunks, load_chunk
from crdtmem.table import State
from simulations.checkers.base import Checker, is_maimed
from simulations.checkers.oracle import Model, named
from simulations.node import Machine

__all__ = ["Joins"]

_LOOKS = 0.002


class Joins(Checker):
    """See the module."""

    name = "joins"
    about = "the join of two states is the state of the joined vectors"

    def published(self, machine: Machine) -> None:
        """Join two states, rarely, if they differ."""
        if self.history.forked or not self.is_drawn(_LOOKS):
            return
        vector = machine.engine.state.vector
        others = [m for m in self.world.up() if m.engine.state.vector != vector]
        others = [m for m in others if not is_maimed(self.history, m)]
        if others and not is_maimed(self.history, machine):
            self._join(machine, self._random.choice(others))

    def finished(self) -> None:
        """Join two states once more: all are equal now."""
        machines = list(self.world.up())
        if len(machines) > 1 and not self.history.forked:
            self._join(machines[0], machines[1])

    def _join(self, machine: Machine, other: Machine) -> None:
        theirs = other.engine
        installation = Installation(Kind.WHOLE, theirs.snapshot_header(), _copy(theirs.state))
        joined = _copy(machine.engine.state)
        for _ in range(2):
            vector = installation.vector(joined.vector)
            installation.overlay(joined).publish()
            joined.vector = vector
        model = Model(self.history)
        model.advance(joined.vector)
        held = {entry[0] for _, _, _, entry in joined.entries()}
        if held != model.live:
            words = (
                f"joined with {other.name}'s state it lacks {named(model.live - held)} "
                f"and has {named(held - model.live)} too many"
            )
            raise self.fail(words, machine)
        if joined.digest() != model.lanes:
            raise self.fail(f"joined with {other.name}'s state its digest is wrong", machine)


def _copy(state: State) -> State:
    """Return a copy of a state, by way of a snapshot."""
    copy = State(SHAPES)
    for chunk in encode_chunks(state):
        load_chunk(copy, chunk)
    copy.vector = state.vector.copy()
    copy.rebuild_derived()
    return copy
