"""The central oracle: a replica holds exactly what the deltas up to its vector say.

Problem: a replica that lost an entry, kept one too many or brought one back looks like
any other, and two that went wrong alike agree with each other.

Idea: from the history alone: an entry is live at a vector if its delta is covered and no
covered delta lists it. Per node a model of live dots follows its published vectors, lazily;
at drawn moments, after every start and at the end its digest is compared with the node's.
Where they differ the difference is named: *lost*, *come back*, or *never written*.

Invariants: the model uses no code of the join; it costs a set operation per delta and node.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from crdtmem.causality import VersionVector
from crdtmem.digest import hash_dots
from crdtmem.entries import unpack_dot
from simulations.checkers.base import Checker, is_maimed
from simulations.history import History
from simulations.node import Machine
from simulations.world import World

__all__ = ["Model", "Oracle", "named"]

_LANE: Final = (1 << 64) - 1
_NAMED: Final = 5


class Model:
    """The live dots at a vector, as the history has them, and their digest."""

    __slots__ = ("_doomed", "_history", "lanes", "live", "vector")

    def __init__(self, history: History) -> None:
        self._history = history
        self._doomed: set[int] = set()
        self.live: set[int] = set()
        self.vector = VersionVector()
        self.lanes = (0, 0)

    def advance(
        self, vector: Mapping[int, int], tips: Mapping[int, tuple[int, bytes]] | None = None
    ) -> None:
        """Follow a vector that covers the one so far."""
        added: list[int] = []
        gone: list[int] = []
        for batch in self._history.between(self.vector, vector, tips):
            adds, drops = self._history.effects(batch)
            added += adds
            gone += drops
        self.vector = VersionVector(vector)
        before = self.live
        # What is listed before it has come, which causal delivery rules out, never shows.
        self._doomed.update(dot for dot in gone if not self.vector.covers(dot))
        fresh = set(added).difference(gone, self._doomed)
        dropped = before.intersection(gone)
        before -= dropped
        before |= fresh
        plus, minus = hash_dots(fresh), hash_dots(dropped)
        first, second = self.lanes
        self.lanes = ((first + plus[0] - minus[0]) & _LANE, (second + plus[1] - minus[1]) & _LANE)


class Oracle(Checker):
    """See the module."""

    name = "oracle"
    about = "a replica's live dots are exactly those that the deltas up to its vector leave"

    def __init__(self, world: World, history: History) -> None:
        super().__init__(world, history)
        self._models: dict[str, Model] = {}

    def started(self, machine: Machine) -> None:
        """Begin a new model, and compare what was recovered."""
        self._models[machine.name] = Model(self.history)
        self._compare(machine)

    def published(self, machine: Machine) -> None:
        """Compare now and then."""
        if self.is_drawn():
            self._compare(machine)

    def finished(self) -> None:
        """Compare everybody."""
        for machine in self.world.up():
            self._compare(machine)

    def _compare(self, machine: Machine) -> None:
        model, state = self._models[machine.name], machine.engine.state
        beyond = self.history.unknown(state.vector)
        if beyond:
            replica, last = next(iter(beyond.items()))
            written = self.history.last(replica)
            words = f"the vector has {replica:016x} at {last}, of which {written} were ever durable"
            raise self.fail(words, machine)
        model.advance(state.vector, machine.replica.tips)
        if state.digest() == model.lanes or is_maimed(self.history, machine):
            return
        held = {entry[0] for _, _, _, entry in state.entries()}
        raise self.fail(_difference(held, model, state.vector), machine)


def _difference(held: set[int], model: Model, vector: VersionVector) -> str:
    """Say how what a replica holds differs from what it should."""
    parts = []
    if lost := model.live - held:
        parts.append(f"lost {named(lost)}")
    surplus = held - model.live
    if back := {dot for dot in surplus if vector.covers(dot)}:
        parts.append(f"came back {named(back)}")
    if early := surplus - back:
        parts.append(f"beyond its vector {named(early)}")
    return "; ".join(parts) or "the entries are right, but their digest is not"


def named(dots: Iterable[int]) -> str:
    """Return some dots as text, the first few of them."""
    listed = sorted(dots)
    text = ", ".join(str(unpack_dot(dot)) for dot in listed[:_NAMED])
    return text if len(listed) <= _NAMED else f"{text} and {len(listed) - _NAMED} more"
