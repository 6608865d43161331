"""Liveness: everybody is answered, and everybody ends up the same.

Problem: a system that never lies because it never answers keeps every other promise.

Idea: at the end, when all faults are healed: no call is open whose node lived; all nodes
have one vector, one digest and one list of members, are members and may write; nothing waits
for what can no longer come. A wait with a deadline was answered by then, plus a
little, unless its node stood still or its clock was changed, since deadlines are the
node's.

Invariants: who ends a run first lets it converge; how long that may take is the plan's.
"""

from __future__ import annotations

from simulations.checkers.base import Checker
from simulations.history import Call
from simulations.world import SECOND

__all__ = ["Liveness"]

_SLACK_US = 2 * SECOND


class Liveness(Checker):
    """See the module."""

    name = "liveness"
    about = "every call is answered in time, and all nodes converge"

    def finished(self) -> None:
        """Look for whoever is still waiting, and whoever is not like the others."""
        for call in self.history.waiting():
            words = f"call {call.number}, a {call.step.kind}, has waited since {call.at_us}"
            raise self.late(words, call.machine)
        for call in self.history.ended_calls:
            self._require_punctual(call)
        machines = list(self.world.up())
        for machine in machines:
            engine, first = machine.engine, machines[0].engine
            if engine.state.vector != first.state.vector:
                words = f"its vector is not {machines[0].name}'s"
                raise self.late(words, machine)
            if engine.epoch.members != first.epoch.members:
                raise self.late(f"its members are not {machines[0].name}'s", machine)
            if engine.replica_id not in engine.epoch.members or not engine.replica.writable:
                raise self.late("it is no member", machine)
            if len(engine.replica.inbox):
                raise self.late("batches still wait in its inbox", machine)

    def _require_punctual(self, call: Call) -> None:
        machine = self.world.machines[call.machine]
        if call.died or call.ended_us is None or machine.pauses or machine.clock.changes:
            return
        waits = call.step.kind == "read" or (call.dots is not None and call.code)
        if waits and call.ended_us > call.deadline_us + _SLACK_US:
            late_s = (call.ended_us - call.deadline_us) / SECOND
            words = f"call {call.number}, a {call.step.kind}, was answered {late_s} s too late"
            raise self.late(words, machine)
