"""Repair: what one replica lost comes back to it; what nobody superseded is dropped by none.

Problem: a defect or a damaged memory takes an entry from one replica, in memory and in the
store. Those that still hold it must give it back, and must never be talked into dropping it
too: absence is no evidence.

Idea: the fault ``lost_entry`` stands in for such a defect. A repair says what it restored and
what it dropped; each of these is held against the history: dropped is only what a joined delta
superseded, restored only what none did. At the end everybody holds what was lost.

Invariants: works whoever leads the repair, and for repairs that nobody here asked for.
"""

from __future__ import annotations

from crdtmem.effects import Alarm
from crdtmem.entries import unpack_dot
from simulations.checkers.base import Checker, lost_entries
from simulations.checkers.oracle import Model, named
from simulations.node import Machine

__all__ = ["Repair"]


class Repair(Checker):
    """See the module."""

    name = "repair"
    about = "an entry that a replica lost comes back; none is dropped that nothing superseded"

    def alarmed(self, machine: Machine, alarm: Alarm) -> None:
        """Judge what a repair says that it did."""
        if alarm.name != "repaired" or self.history.forked:
            return
        live = self._live(machine)
        names = {str(unpack_dot(dot)): dot for dot in live}
        dropped = [names[text] for text in alarm.details["dropped"] if text in names]
        if dropped:
            words = f"a repair dropped {named(dropped)}, which nothing superseded"
            raise self.fail(words, machine)
        back = [text for text in alarm.details["restored"] if text not in names]
        if back:
            words = f"a repair brought back {', '.join(back)}, which was superseded"
            raise self.fail(words, machine)

    def finished(self) -> None:
        """Look for everything that was ever lost, everywhere."""
        lost = {dot for harms in self.history.harms.values() for dot in lost_entries(harms)}
        if not lost or self.history.forked:
            return
        for machine in self.world.up():
            held = {entry[0] for *_, entry in machine.engine.state.entries()}
            if missing := lost & self._live(machine) - held:
                words = f"{named(missing)}, which one node had lost, is missing here"
                raise self.fail(words, machine)

    def _live(self, machine: Machine) -> set[int]:
        model = Model(self.history)
        model.advance(machine.engine.state.vector, machine.replica.tips)
        return model.live
