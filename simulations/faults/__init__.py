"""The faults, in one table.

A new fault is a class in one of these modules and one entry in its list; swarms draw it,
plans name it, and ``python -m simulations list`` shows it from then on.
"""

from __future__ import annotations

from typing import Final

from simulations.errors import BadPlan
from simulations.faults.base import Fault, Lasting, Shape
from simulations.faults.disk import DISKS, mend_disk
from simulations.faults.machines import MACHINES
from simulations.faults.memory import MEMORY
from simulations.faults.mesh import MESH
from simulations.faults.network import NETWORK, clean_links
from simulations.faults.system import SYSTEM, replace_disk
from simulations.world import World

__all__ = ["FAULTS", "Fault", "Lasting", "Shape", "clean_links", "heal_all"]

FAULTS: Final[dict[str, Fault]] = {
    fault.name: fault for fault in (*NETWORK, *MACHINES, *DISKS, *MEMORY, *SYSTEM, *MESH)
}
"""Every fault by name."""

assert len(FAULTS) == sum(map(len, (NETWORK, MACHINES, DISKS, MEMORY, SYSTEM, MESH)))


def heal_all(world: World) -> None:
    """End every fault: clean links, working disks, all machines running. Clocks stay wrong.

    A store that can no longer be opened is replaced by an empty one, as its operator would.
    """
    world.heals += 1
    clean_links(world)
    for machine in list(world.machines.values()):
        mend_disk(machine)
        machine.dies_after_effects = None
        machine.resume()
        if machine.speaks[0] > 1:
            # No cluster of two versions works if one refuses the other: that is put right.
            machine.stop()
            machine.speaks = (1, machine.speaks[1])
        machine.start()
        if not machine.up:
            if not machine.known:
                raise BadPlan(f"{machine.name} lost its store, and knows nobody to join")
            replace_disk(world, machine)
            machine.start()
    world.note("all healed", "")
