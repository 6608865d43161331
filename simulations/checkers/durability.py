"""Durability: nothing is shown, sent or acknowledged before it is on the disk.

Problem: an acknowledgement that runs ahead of its fsync is right almost always.

Idea: the history reads the disks. When a node says that a write is durable there, its disk
must hold it at that very moment; when it publishes a vector, its disk must hold all of that; and
the regions that it names as reached must have disks that hold the write.

Invariants: a disk is what survives a crash: what lies in an open transaction is not on it.
"""

from __future__ import annotations

from crdtmem.entries import unpack_dot
from simulations.checkers.base import OfAnswers
from simulations.history import Call
from simulations.node import Machine

__all__ = ["Durability"]


class Durability(OfAnswers):
    """See the module."""

    name = "durability"
    about = "what is acknowledged or visible is on the disk; what was reached elsewhere is there"

    def published(self, machine: Machine) -> None:
        """Compare what is visible with what is durable."""
        view = self.history.views[machine.name]
        if not view.durable.dominates(view.vector):
            beyond = view.vector.beyond(view.durable)
            raise self.fail(f"it shows {beyond}, which its disk does not hold", machine)
        super().published(machine)

    def check(self, call: Call) -> None:
        """Compare what a caller was told with what is on the disks."""
        if call.dots is None:
            return
        if not call.was_durable:
            words = f"{unpack_dot(call.dots[0])} was acknowledged before its disk held it"
            raise self.fail(words, call.machine)
        wanted = call.step.arguments.get("durability", "local")
        if wanted == "local" or call.outcome != "ok":
            return
        # A disk that was harmed may have held it when it said so.
        regions = {
            machine.region
            for machine in self.world.machines.values()
            if not self.history.harms.get(machine.name)
        }
        claimed = set(call.result)
        if not claimed & regions <= call.reached:
            words = (
                f"call {call.number} was told that its write is durable in "
                f"{', '.join(sorted(claimed - call.reached))}, where no disk holds it"
            )
            raise self.fail(words, call.machine)
        if self.world.machines[call.machine].region not in claimed:
            words = f"call {call.number} is durable ({wanted}) in {sorted(claimed)}, not here"
            raise self.fail(words, call.machine)
