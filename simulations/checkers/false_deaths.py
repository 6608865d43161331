"""False deaths: a node never calls a member dead with which nothing is wrong.

Problem: a false death costs a stream, a gateway or a key that is not replaced; and one member
that is slow, or lies, must not have others declared dead who are well.

Idea: once a second the condition of every machine and every link is looked at. A pair of
machines is *healthy* when both have run for a while without a pause, all links between them have
been clean, and neither had to do with a bad link or a dead host at all. Of such a pair, neither
may call the other dead, whatever third ones say. The budget for healthy pairs is none: what
is left to chance in failure detection needs loss, and here there is none.

Invariants: only what a node's own pools conclude is judged; a region far away is known from its
gateways, and what they say is judged where they conclude it.
"""

from __future__ import annotations

from typing import Final

from gossip.effects import MemberChanged
from gossip.messages import State
from simulations.checkers.base import Checker
from simulations.history import History
from simulations.mesh import MESHES
from simulations.network import Link
from simulations.node import Machine
from simulations.regions import one_way_us
from simulations.world import SECOND, World

__all__ = ["FalseDeaths"]

_IDLE_US: Final = 600 * SECOND
"""How often to look while nobody is up."""

_SIGNS: Final = (
    "loss", "burst", "corrupt", "duplicate", "replay", "reorder", "bytes_per_s", "cut",
)  # fmt: skip


class FalseDeaths(Checker):
    """See the module."""

    name = "false_deaths"
    about = "no node calls a member dead with which, and with itself, nothing has been wrong"

    def __init__(self, world: World, history: History) -> None:
        super().__init__(world, history)
        self._ill_us: dict[str, int] = {}
        self._seen: dict[str, tuple[int, int, int]] = {}
        if world.mesh_kind:
            self._well_us = MESHES[world.mesh_kind].settled_us
            world.kernel.after(0, self._look)

    def _look(self) -> None:
        world = self.world
        now_us = world.kernel.now_us
        for name, machine in world.machines.items():
            seen = (machine.lives, machine.pauses, machine.device.slow)
            if not machine.up or machine.paused or self._seen.get(name) != seen:
                self._ill_us[name] = now_us
            self._seen[name] = seen
        for (here, there), link in world.network.links.items():
            if self._is_spoilt(here, there, link):
                self._ill_us[here] = self._ill_us[there] = now_us
        world.kernel.after(SECOND if any(world.up()) else _IDLE_US, self._look)

    def _is_spoilt(self, here: str, there: str, link: Link) -> bool:
        machines = self.world.machines
        latency_us = one_way_us(machines[here].region, machines[there].region)
        return (
            any(getattr(link, sign) for sign in _SIGNS)
            or not (link.streams and link.datagrams)
            or link.latency_us != latency_us
            or link.mtu_bytes < Link(self.world.kernel, "clean", latency_us).mtu_bytes
            or link.clogged_until_us > self.world.kernel.now_us
        )

    def member_changed(self, machine: Machine, change: MemberChanged) -> None:
        """Look at a death."""
        if change.state < State.DEAD or change.previous == change.state or change.gone:
            return
        mesh = machine.mesh
        assert mesh is not None, "whoever knows members has a mesh"
        view = mesh.mesh.view(change.record.member)
        if view is None or view.tier == "remote":
            return
        for other in self.world.up():
            if other.mesh is None or other.mesh.mesh.me.stamp[:2] != change.record.stamp[:2]:
                continue
            if other.mesh.left:
                continue
            if self._is_well(machine) and self._is_well(other):
                words = f"{other.name} is called {change.state.name.lower()}, and both are well"
                raise self.fail(words, machine)

    def _is_well(self, machine: Machine) -> bool:
        since_us = self._ill_us.get(machine.name, self.world.kernel.now_us)
        return self.world.kernel.now_us - since_us > self._well_us
