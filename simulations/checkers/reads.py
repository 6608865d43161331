"""Reads: a reading shows exactly what its own context holds.

Problem: a reading carries a context, which others build on; one that shows more, less or
other than that context holds sends them astray.

Idea: for every reading that a client got: the entries that it showed are those that the
history has live at its context, but for what had expired by the clock of its node; and
nothing that had expired is among them.

Invariants: contexts with an id of several histories are left out.
"""

from __future__ import annotations

from crdtmem.crdt import DATATYPES
from simulations.checkers.base import Checker, Tail
from simulations.checkers.oracle import named
from simulations.checkers.places import Places
from simulations.history import Call, History
from simulations.node import Machine
from simulations.world import World

__all__ = ["Reads"]


class Reads(Checker):
    """See the module."""

    name = "reads"
    about = "a reading shows what its context holds, less what has expired, and nothing else"

    def __init__(self, world: World, history: History) -> None:
        super().__init__(world, history)
        self._places = history.index(Places)
        self._new_answers = Tail(history.ended_calls)

    def published(self, machine: Machine) -> None:
        """Look at the readings since."""
        self._look()

    def finished(self) -> None:
        """Look a last time."""
        self._look()

    def _look(self) -> None:
        for call in self._new_answers:
            if call.step.kind == "read" and call.outcome == "ok":
                self._check(call)

    def _check(self, call: Call) -> None:
        assert call.context is not None
        if not self.history.forked.isdisjoint(call.context):
            return
        arguments = call.step.arguments
        code = DATATYPES[arguments["datatype"]].code
        place = (tuple(arguments["space"]), code, arguments["key"])
        held = self._places.live(*place, call.context)
        live = {
            dot
            for dot, delta in held.items()
            if delta.stamp.expires_at_us is None or delta.stamp.expires_at_us > call.clock_us
        }
        shown = {entry[0] for entry in call.result.entries}
        if shown == live:
            return
        parts = []
        if missing := live - shown:
            parts.append(f"does not show {named(missing)}")
        if expired := shown & held.keys() - live:
            parts.append(f"shows {named(expired)}, which had expired")
        if surplus := shown - held.keys():
            parts.append(f"shows {named(surplus)}, which its context does not hold")
        raise self.fail(f"call {call.number}, of {place}, {'; '.join(parts)}", call.machine)
