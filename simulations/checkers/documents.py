"""Documents: a text is what all updates of those who wrote it add up to.

Problem: compaction replaces many people's updates by one. If a word is missing in that, it is
missing everywhere, consistently, and the oracle, which takes deltas at their word, agrees.

Idea: from the operations alone: an update counts unless a delete saw it. What those updates add
up to, made from the bytes that the clients wrote, must be what a reader is shown. Checked at
the end for every document, and at rare drawn moments.

Invariants: compactions and removals are never looked at; documents of which an update was
written twice (a retry elsewhere) or that a rescue wrote are left out.
"""

from __future__ import annotations

from collections.abc import Mapping

from crdtmem.crdt import DATATYPES
from crdtmem.crdt.updates import materialise, plain_value
from simulations.checkers.base import NowAndThen
from simulations.checkers.operations import Applied, Operations
from simulations.checkers.places import Place, Places
from simulations.history import History
from simulations.node import Machine
from simulations.world import World

__all__ = ["Documents"]

_DOCUMENT = DATATYPES["document"].code


class Documents(NowAndThen):
    """See the module."""

    name = "documents"
    about = "a document shows what the updates that nobody deleted add up to, compacted or not"
    looks = 0.005

    def __init__(self, world: World, history: History) -> None:
        super().__init__(world, history)
        self._places = history.index(Places)
        self._operations = history.index(Operations)

    def finished(self) -> None:
        """Look at one node: that the others show the same is ``agreement``'s to say."""
        for machine in self.world.up():
            self.look(machine)
            return

    def look(self, machine: Machine) -> None:
        """Look at all documents of one node."""
        if self.history.forked:
            return
        self._operations.update()
        for place in self._operations.places():
            if place[1] == _DOCUMENT and place not in self._operations.rescued:
                self._check(machine, place)

    def _check(self, machine: Machine, place: Place) -> None:
        vector = machine.engine.state.vector
        known = [applied for applied in self._operations.at(place) if applied.is_in(vector)]
        if any(len(self._operations.copies[applied.operation_id]) > 1 for applied in known):
            return
        updates = self._updates(place, known, vector)
        expected = repr(plain_value(materialise(updates)))
        shown = repr(machine.replica.read(*place, self.world.kernel.now_us).value)
        if shown != expected:
            words = f"{place} shows {shown:.300}, and must show {expected:.300}"
            raise self.fail(words, machine)

    def _updates(
        self, place: Place, known: list[Applied], vector: Mapping[int, int]
    ) -> list[bytes]:
        """Return the updates that count, in the order of their dots."""
        deletes = [a for a in known if any(asked.name == "delete" for asked in a.asked)]
        written = {
            delta.dot: delta.value
            for delta in self._places.deltas(*place)
            if type(delta.value) is bytes
        }
        found: list[tuple[int, bytes]] = []
        for applied in known:
            if not any(delete.saw(applied) for delete in deletes):
                dots = range(applied.first, applied.first + applied.count)
                found += [(dot, written[dot]) for dot in dots if dot in written]
        return [update for _, update in sorted(found)]
