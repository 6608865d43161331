"""Faults of memory: what a defect of the program, or of a chip, does to what a replica holds.

Problem: repair is for what must never happen, so nothing else ever makes it happen.

Idea: an entry is taken from one replica as if it had never come: from memory, and durably from
its store, as a correction that nobody asked for. It strikes when the world has healed and come
to rest, so that it does nothing but differ; what follows is the work of repair.

Invariants: strikes only where everybody holds the same, so that others can give it back; of
the user's registers only, without a lifetime: nothing else comes to depend on it meanwhile.
"""

from __future__ import annotations

from random import Random
from typing import Any, Final

from crdtmem.crdt import DATATYPES
from crdtmem.install import Installation, Kind
from crdtmem.policy import SYSTEM_SPACE
from crdtmem.snapshot import SnapshotHeader
from crdtmem.table import State
from simulations.faults.base import Arguments, Fault, Shape, machines_named
from simulations.node import Machine
from simulations.world import SECOND, World

__all__ = ["MEMORY", "LostEntry"]

_LOOKS: Final = 400
_LOOK_S: Final = 0.25
_REGISTER: Final = DATATYPES["register"].code


class LostEntry(Fault):
    """An entry that one replica no longer has."""

    name = "lost_entry"
    kind = "memory"
    about = "an entry is lost in one replica's memory and store, once all is healed"

    def draw(self, random: Random, shape: Shape) -> dict[str, Any]:
        """Draw whose, and which."""
        return {"machine": shape.one(random), "which": random.randrange(1 << 16)}

    def apply(self, world: World, arguments: Arguments) -> None:
        """Wait until all is healed and at rest."""
        world.kernel.after(SECOND, self._wait, world, world.heals, arguments, _LOOKS)

    def _wait(self, world: World, heals: int, arguments: Arguments, looks: int) -> None:
        if world.heals > heals:
            looks -= 1
            if _is_at_rest(world):
                for machine in machines_named(world, arguments["machine"]):
                    self._take(world, machine, int(arguments["which"]))
                return
        if looks:
            world.after(_LOOK_S, self._wait, world, heals, arguments, looks)

    def _take(self, world: World, machine: Machine, which: int) -> None:
        executor = machine.executor
        dots = _candidates(machine)
        if executor is None or not dots:
            return
        dot, engine = dots[which % len(dots)], executor.engine
        vector = engine.state.vector
        nothing = State(engine.state.shapes)
        nothing.vector = vector.copy()
        loss = Installation(Kind.CORRECTION, SnapshotHeader(vector.copy()), nothing, dropped={dot})
        world.sometimes("an entry lost, to be repaired")
        world.harmed(machine, f"lost entry {dot}")
        machine.enter(lambda: executor.attempt(lambda: engine.install(loss, executor.now_us())))


def _is_at_rest(world: World) -> bool:
    """Tell whether everybody runs, may write, and holds the same."""
    machines = list(world.machines.values())
    if not all(machine.up and machine.replica.writable for machine in machines):
        return False
    held = {(str(m.engine.state.vector), m.engine.state.digest()) for m in machines}
    tips = {str(sorted(machine.replica.tips.items())) for machine in machines}
    return len(machines) > 1 and world.converged() and len(held) == len(tips) == 1


def _candidates(machine: Machine) -> list[int]:
    """Return what may be taken from a machine, sorted."""
    return sorted(
        dot
        for table, _, _, (dot, _, stamp) in machine.engine.state.entries()
        if table.datatype == _REGISTER
        and table.space != SYSTEM_SPACE
        and stamp.expires_at_us is None
    )


MEMORY: Final[tuple[Fault, ...]] = (LostEntry(),)
