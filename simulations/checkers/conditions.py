"""Conditional and observed writes: upon exactly what was seen, or not at all.

Problem: two agents read one value and both write upon it. Either one is refused, or both
values must be there: the loss of one is silent, and looks like an ordinary overwrite.

Idea: for every write that a client made upon an ``Observed``: it supersedes nothing else. For
every conditional one besides: where and when it was staged its place held nothing unexpired
that was not observed, and everything observed was held. So of two that succeed upon the same
state neither saw the other, neither superseded the other, and the oracle keeps both.

Invariants: judged at the writer's own context, from the history.
"""

from __future__ import annotations

from crdtmem.entries import unpack_dot
from simulations.checkers.base import lost_entries
from simulations.checkers.operations import REGISTERS, Applied, OfWrites
from simulations.checkers.oracle import named

__all__ = ["Conditions"]


class Conditions(OfWrites):
    """See the module."""

    name = "conditions"
    about = "a write upon an observation supersedes just that; a condition held when it was made"

    def check(self, applied: Applied) -> None:
        """Look at it, if it was made upon an observation."""
        if applied.call.observed is not None and applied.asked[0].place[1] in REGISTERS:
            self._check(applied)

    def _check(self, applied: Applied) -> None:
        call, place = applied.call, applied.asked[0].place
        if len({attempt.observed for attempt in self._operations.attempts(applied)}) != 1:
            # Which attempt it was that got there cannot be told.
            return
        observed = call.observed
        assert observed is not None
        first, end = applied.first, applied.first + applied.count
        mine = [d for d in self._places.deltas(*place) if first <= d.dot < end]
        for delta in mine:
            if not observed.issuperset(delta.superseded):
                words = (
                    f"{unpack_dot(delta.dot)} supersedes "
                    f"{named(set(delta.superseded) - observed)}, which its client had not observed"
                )
                raise self.fail(words, call.machine)
        if not call.step.arguments.get("expect") or applied.replica in self.history.forked:
            return
        held = self._places.live(*place, applied.basis)
        surprising = {
            dot
            for dot, delta in held.items()
            if delta.stamp.expires_at_us is None or delta.stamp.expires_at_us > applied.physical_us
        } - observed
        # What the fault took from the writer's node was not there to be seen.
        surprising -= lost_entries(self.history.harms.get(call.machine, ()))
        if surprising or not observed <= held.keys():
            lacking = observed - held.keys()
            words = (
                f"{unpack_dot(first)} was written on condition, though {place} held "
                f"{named(surprising) or 'nothing'} besides, and not {named(lacking) or 'less'}"
            )
            raise self.fail(words, call.machine)
