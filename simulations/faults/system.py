"""Faults of whole systems: lost regions, long absence, old backups, clones, evictions.

Problem: the mistakes that lose data in practice are made by people and platforms: a
backup restored over a live store, a machine cloned with its identity, a node given up
that comes back, an upgrade that stops half-way.

Idea: each is done here as an operator or a platform would do it.

Invariants: a store is only put back to what it was when others hold what that undoes;
at the end every machine runs.
"""

from __future__ import annotations

from random import Random
from typing import Any, Final

from crdtmem.store.memory import MemoryDisk
from simulations.faults.base import (
    Arguments,
    Downtime,
    Fault,
    Shape,
    is_held_elsewhere,
    later,
    machines_named,
    restart_later,
)
from simulations.node import Machine
from simulations.operators import cut_log, evict
from simulations.world import World

__all__ = [
    "SYSTEM",
    "Absence",
    "Clone",
    "Evict",
    "Join",
    "LostDisk",
    "RegionLoss",
    "RestoredBackup",
    "Upgrade",
    "replace_disk",
]

_MOST_MACHINES: Final = 12


class RegionLoss(Fault):
    """A region that goes dark."""

    name = "region_loss"
    kind = "system"
    about = "all machines of a region lose power at once, and come back much later"

    def draw(self, random: Random, shape: Shape) -> dict[str, Any]:
        """Draw which."""
        region = shape.regions[shape.one(random)]
        return {"region": region, "for_us": shape.duration_us(random)}

    def apply(self, world: World, arguments: Arguments) -> None:
        """Switch it off."""
        for machine in list(world.machines.values()):
            if machine.region == arguments["region"]:
                machine.crash(silent=True)
                restart_later(world, machine, int(arguments["for_us"]))


class Absence(Fault):
    """A machine that is away for long."""

    name = "absence"
    kind = "system"
    about = "a machine is away while the others cut their logs: it needs a snapshot"

    def draw(self, random: Random, shape: Shape) -> dict[str, Any]:
        """Draw whose, for most of the time."""
        for_us = int(shape.safety_us * random.uniform(0.4, 0.95))
        return {"machine": shape.one(random), "for_us": for_us}

    def apply(self, world: World, arguments: Arguments) -> None:
        """Send it away, and let the others cut their logs before it returns."""
        for_us = int(arguments["for_us"])
        for machine in machines_named(world, arguments["machine"]):
            machine.stop()
            later(world, for_us * 9 // 10, self._cut_logs, world, machine)
            restart_later(world, machine, for_us)

    def _cut_logs(self, world: World, absent: Machine) -> None:
        for machine in world.up():
            if machine is not absent:
                cut_log(machine)


class RestoredBackup(Fault):
    """A store that is put back to what it was."""

    name = "restored_backup"
    kind = "system"
    about = "a store is copied, and the copy put back in its place some time later"

    def draw(self, random: Random, shape: Shape) -> dict[str, Any]:
        """Draw whose, how old it gets, and how long the machine is down."""
        return {
            "machine": shape.one(random),
            "age_us": shape.duration_us(random),
            "for_us": shape.duration_us(random) // 4,
            "hidden": random.random() < 0.3,
        }

    def apply(self, world: World, arguments: Arguments) -> None:
        """Copy it now, and put it back later."""
        for machine in machines_named(world, arguments["machine"]):
            backup = machine.device.disk.copy()
            age_us = int(arguments["age_us"])
            later(world, age_us, self._restore, world, machine, backup, arguments)

    def _restore(
        self, world: World, machine: Machine, backup: MemoryDisk, arguments: Arguments
    ) -> None:
        if not machine.up:
            return
        spare = is_held_elsewhere(world, machine)
        machine.crash()
        if spare:
            # Hidden: with all that might show it, as a snapshot of a virtual machine.
            machine.device.disk.restore(backup, with_mark=bool(arguments.get("hidden")))
            world.sometimes("a backup restored")
            world.harmed(machine, "restored")
        restart_later(world, machine, int(arguments["for_us"]))


class Clone(Fault):
    """A machine that there is twice."""

    name = "clone"
    kind = "system"
    about = "a store is copied to another machine, and both run"

    def draw(self, random: Random, shape: Shape) -> dict[str, Any]:
        """Draw whose, and whether the copy can tell that it is one; it meets the original."""
        return {"machine": shape.one(random), "hidden": random.random() < 0.3, "apart_us": 0}

    def apply(self, world: World, arguments: Arguments) -> None:
        """Copy it, and start the copy."""
        for machine in machines_named(world, arguments["machine"]):
            name = f"{machine.name}-copy"
            if name in world.machines or len(world.machines) >= _MOST_MACHINES:
                continue
            copy = world.add(name, machine.region)
            copy.meet([machine.name, *machine.known])
            hidden = bool(arguments.get("hidden"))
            copy.device.disk.restore(machine.device.disk.copy(), with_mark=hidden)
            if hidden:
                copy.device.disk.inode = machine.device.disk.inode
            world.sometimes("a store cloned")
            world.harmed(copy, "restored")
            if arguments.get("apart_us"):
                self._part(world, machine, copy, int(arguments["apart_us"]))
            copy.start()

    def _part(self, world: World, machine: Machine, copy: Machine, for_us: int) -> None:
        """Let half of the others hear of the one only, and half of the other, for a while."""
        others = [name for name in world.machines if name not in (machine.name, copy.name)]
        near, far = [machine.name, *others[::2]], [copy.name, *others[1::2]]
        world.network.cut(near, far)
        world.kernel.after(for_us, world.network.heal, near, far)


class LostDisk(Downtime):
    """A machine that comes back with nothing."""

    name = "lost_disk"
    kind = "system"
    about = "a machine comes back with an empty disk"

    def take_down(self, world: World, machine: Machine, arguments: Arguments) -> None:
        """Take the disk away, if the others hold what is on it."""
        if machine.up:
            spare = is_held_elsewhere(world, machine) and self._is_only_one(world, machine)
            machine.crash()
            # Without peers it would not come back, but found another cluster.
            if spare and machine.known:
                replace_disk(world, machine)

    def _is_only_one(self, world: World, machine: Machine) -> bool:
        """Tell whether all others are members: nodes that know only new ones found anew."""
        others = [other for other in world.machines.values() if other is not machine]
        return all(other.up and other.replica.writable for other in others)


class Join(Fault):
    """A new machine."""

    name = "join"
    kind = "system"
    about = "a new machine joins the cluster"

    def draw(self, random: Random, shape: Shape) -> dict[str, Any]:
        """Draw where."""
        return {"region": shape.regions[shape.one(random)]}

    def apply(self, world: World, arguments: Arguments) -> None:
        """Add it, and start it."""
        known = list(world.machines)
        if len(world.machines) < _MOST_MACHINES:
            machine = world.add(f"joined-{len(world.machines)}", str(arguments["region"]))
            machine.meet(known)
            machine.start()


class Evict(Fault):
    """A member that is given up, and comes back."""

    name = "evict"
    kind = "system"
    about = "a member is given up for good, running, cut off or dead, and comes back later"

    def draw(self, random: Random, shape: Shape) -> dict[str, Any]:
        """Draw who gives up whom, in what condition."""
        return {
            "machine": shape.one(random),
            "by": shape.some(random),
            "condition": random.choice(("running", "isolated", "down")),
            "after_us": shape.duration_us(random) // 4,
            "for_us": shape.duration_us(random),
        }

    def apply(self, world: World, arguments: Arguments) -> None:
        """Bring it into its condition, and give it up a little later."""
        for victim in machines_named(world, arguments["machine"]):
            if not victim.up:
                continue
            replica = victim.engine.replica_id
            after_us, for_us = int(arguments["after_us"]), int(arguments["for_us"])
            if arguments["condition"] == "down":
                victim.crash(silent=True)
                restart_later(world, victim, after_us + for_us)
            elif arguments["condition"] == "isolated":
                others = [name for name in world.machines if name != victim.name]
                world.network.cut([victim.name], others)
                world.kernel.after(after_us + for_us, world.network.heal, [victim.name], others)
            later(world, after_us, self._evict, world, victim.name, replica, arguments)

    def _evict(self, world: World, victim: str, replica: int, arguments: Arguments) -> None:
        for operator in machines_named(world, arguments["by"]):
            if operator.name != victim and operator.up and not operator.paused:
                evict(operator, replica)


class Upgrade(Fault):
    """A cluster of two versions."""

    name = "upgrade"
    kind = "system"
    about = "some machines are restarted, one after another, with the next version, or put back"

    def draw(self, random: Random, shape: Shape) -> dict[str, Any]:
        """Draw whose, how fast, and whether the next version still speaks the former one."""
        return {
            "machines": shape.some(random),
            "every_us": shape.duration_us(random) // 2,
            "down_us": shape.duration_us(random) // 8,
            "speaks": random.choice(([1, 2], [1, 2], [1, 2], [2, 2], [1, 1])),
        }

    def apply(self, world: World, arguments: Arguments) -> None:
        """Restart one after another."""
        for number, machine in enumerate(machines_named(world, arguments["machines"])):
            at_us = number * int(arguments["every_us"])
            later(world, at_us, self._upgrade, world, machine, arguments)

    def _upgrade(self, world: World, machine: Machine, arguments: Arguments) -> None:
        lowest, highest = arguments["speaks"]
        machine.stop()
        machine.speaks = (lowest, highest)
        world.note("upgrade", machine.name, number=highest)
        restart_later(world, machine, int(arguments["down_us"]))


def replace_disk(world: World, machine: Machine) -> None:
    """Put an empty disk into a machine that is down."""
    machine.device.disk = MemoryDisk(inode=machine.device.disk.inode + 1_000_000)
    world.sometimes("a disk replaced by an empty one")
    world.harmed(machine, "lost disk")


SYSTEM: Final[tuple[Fault, ...]] = (
    RegionLoss(), Absence(), RestoredBackup(), Clone(), LostDisk(), Join(), Evict(),
    Upgrade(),
)  # fmt: skip
