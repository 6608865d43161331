"""Reads: a reading shows exactly what its own context holds.

Problem: a reading carries a context, which others build on; one that shows more, less or
other than that context holds sends them astray.

Idea: for every reading that a client got: the entries that it showed are those that the
history has live at its context, but for what had expired by the clock of its node; and
nothing that had expired is among them.

Invariants: contexts with an id of several histories are left out.
"""

from __future__ import annotations

from simulations.checkers.base import OfAnswers
from simulations.checkers.oracle import named
from simulations.checkers.places import Places, place_of
from simulations.history import Call, History
from simulations.world import World

__all__ = ["Reads"]


class Reads(OfAnswers):
    """See the module."""

    name = "reads"
    about = "a reading shows what its context holds, less what has expired, and nothing else"

    def __init__(self, world: World, history: History) -> None:
        super().__init__(world, history)
        self._places = history.index(Places)

    def check(self, call: Call) -> None:
        """Compare a reading with what its context holds."""
        if call.step.kind != "read" or call.outcome != "ok":
            return
        assert call.context is not None
        if not self.history.forked.isdisjoint(call.context):
            return
        place = place_of(call.step.arguments)
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
