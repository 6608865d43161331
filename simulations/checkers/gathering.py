"""Gathering: after healing, the mesh of everybody shows everybody, and nobody else.

Problem: the best known failure of meshes is silent: two halves that never meet again, or a
ghost that is listed for ever; everything else goes on as if all were well.

Idea: that it happens in time is waited for by the runner, in this checker's name. At the end,
what everybody shows is looked at once more, with what follows from it: who are the gateways of
each region, and the key ring. That mesh and replicas speak of the same members is seen too: a
member's id is its replica's.

Invariant: gateways may differ for as long as somebody holds a member for unsteady.
"""

from __future__ import annotations

from simulations.checkers.base import Checker
from simulations.mesh import gathered
from simulations.node import Machine

__all__ = ["Gathering"]


class Gathering(Checker):
    """See the module."""

    name = "gathering"
    about = "once all is healed, the mesh of every node shows just who is there, with one key ring"

    def finished(self) -> None:
        """Look at everybody."""
        machines = [machine for machine in self.world.up() if machine.mesh is not None]
        if not machines:
            return
        if not gathered(self.world):
            raise self.late("the mesh has gathered, and fell apart again with nothing wrong")
        for machine in machines:
            self._require_own_id(machine)
        self._require_one_ring(machines)
        self._require_same_gateways(machines)

    def _require_own_id(self, machine: Machine) -> None:
        assert machine.mesh is not None, "only those with a mesh are asked"
        member = machine.mesh.mesh.me.member
        if member != machine.engine.replica_id:
            raise self.fail(f"its member is {member:016x}, which is not its replica's id", machine)

    def _require_one_ring(self, machines: list[Machine]) -> None:
        rings = {m.name: m.mesh.ring.ids for m in machines if m.mesh and m.mesh.ring is not None}
        if len(set(rings.values())) > 1:
            raise self.late(f"the key rings differ: {rings}")

    def _require_same_gateways(self, machines: list[Machine]) -> None:
        meshes = [machine.mesh.mesh for machine in machines if machine.mesh is not None]
        if any(view.damped for mesh in meshes for view in mesh.members()):
            return
        for region in sorted({machine.region for machine in machines}):
            said = {mesh.gateways(region) for mesh in meshes}
            if len(said) > 1:
                raise self.late(f"the gateways of {region} are not the same to all: {said}")
