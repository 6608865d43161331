"""Faults of disks: slow, full, failing, lying, rotting, torn.

Problem: a replica's word rests on its disk. It must not give its word when the disk
did not give its own, and must notice when what it was given back is not what it wrote.

Idea: some faults are of the device and last; others strike what lies on it while the
machine is down.

Invariants: what is damaged or lost for good was durable elsewhere too; where it is
not, the machine merely crashes.
"""

from __future__ import annotations

from abc import abstractmethod
from contextlib import suppress
from random import Random
from typing import Any, Final

from crdtmem.errors import StoreError, StoreFailed
from crdtmem.executor import write_flight
from crdtmem.store.memory import MemoryDisk
from simulations.faults.base import (
    Ailment,
    Arguments,
    Downtime,
    Fault,
    OfOneMachine,
    Shape,
    is_held_elsewhere,
    later,
    machines_named,
    restart_later,
)
from simulations.node import Machine
from simulations.world import World

__all__ = [
    "DISKS",
    "AmbiguousSync",
    "FailingDisk",
    "FullDisk",
    "LostTail",
    "Rot",
    "RottenCheckpoint",
    "SlowDisk",
    "TornWrite",
    "mend_disk",
]

_LOOKS: Final = 400
_LOOK_US: Final = 250


class SlowDisk(Ailment):
    """Syncs that take long."""

    name = "slow_disk"
    kind = "disk"
    about = "every fsync takes up to five hundred times as long"

    def draw(self, random: Random, shape: Shape) -> dict[str, Any]:
        """Draw how slow, whose, and for how long."""
        factor = int(3 * 160 ** random.random())
        return {**super().draw(random, shape), "factor": factor}

    def begin(self, world: World, machine: Machine, arguments: Arguments) -> None:
        """Slow it down."""
        machine.device.slow = int(arguments["factor"])

    def end(self, world: World, machine: Machine) -> None:
        """Let it be as fast as it was."""
        machine.device.slow = 1


class FullDisk(Ailment):
    """No space left."""

    name = "full_disk"
    kind = "disk"
    about = "the disk is full: commits fail until there is space"

    def begin(self, world: World, machine: Machine, arguments: Arguments) -> None:
        """Fill it."""
        machine.device.faults.full = True
        world.note("disk full", machine.name)

    def end(self, world: World, machine: Machine) -> None:
        """Make space."""
        machine.device.faults.full = False
        world.note("disk mended", machine.name)


class FailingDisk(Ailment):
    """Syncs that fail, with what they wrote kept or not."""

    name = "failing_disk"
    kind = "disk"
    about = "fsync fails (EIO) now and then, and what it wrote is there or not"

    def draw_more(self, random: Random, shape: Shape) -> dict[str, Any]:
        """Draw how often, and how ambiguous."""
        return {
            "fails": round(random.uniform(0.02, 0.9), 3),
            "survives": random.choice((0.0, 0.5, 1.0)),
        }

    def begin(self, world: World, machine: Machine, arguments: Arguments) -> None:
        """Let it fail."""
        machine.device.faults.fails = float(arguments["fails"])
        machine.device.faults.survives = float(arguments["survives"])
        world.note("disk fails", machine.name)

    def end(self, world: World, machine: Machine) -> None:
        """Let it work."""
        machine.device.faults.fails = 0.0
        world.note("disk mended", machine.name)


class AmbiguousSync(Fault):
    """One sync of which nobody knows."""

    name = "ambiguous_sync"
    kind = "disk"
    about = "one fsync fails, and reopening the store fails a few times too"

    def draw(self, random: Random, shape: Shape) -> dict[str, Any]:
        """Draw whose, whether the data survives, and how stubborn it is."""
        return {
            "machine": shape.one(random),
            "after": random.randint(0, 5),
            "survives": random.random() < 0.5,
            "reopens": random.randint(0, 3),
        }

    def apply(self, world: World, arguments: Arguments) -> None:
        """Prepare the failures."""
        for machine in machines_named(world, arguments["machine"]):
            faults = machine.device.faults
            failed = StoreFailed("fsync failed: EIO", hint="the store will be reopened")
            faults.fail_sync(
                failed, after=int(arguments["after"]), survives=bool(arguments["survives"])
            )
            for _ in range(int(arguments["reopens"])):
                faults.fail_reopen(StoreFailed("open failed: EIO", hint="try again"))


class _Harm(Downtime):
    """The machine crashes; then its disk is harmed; then it starts again."""

    kind = "disk"
    what: str

    def draw_more(self, random: Random, shape: Shape) -> dict[str, Any]:
        """Draw how much."""
        return {"records": int(40 ** random.random())}

    def take_down(self, world: World, machine: Machine, arguments: Arguments) -> None:
        """Crash it, and harm what others hold as well."""
        if machine.up:
            spare = is_held_elsewhere(world, machine)
            machine.crash()
            if spare and self.harm(machine, arguments):
                world.sometimes(f"a disk harmed: {self.what}")
                world.harmed(machine, self.what)

    @abstractmethod
    def harm(self, machine: Machine, arguments: Arguments) -> bool:
        """Harm the disk; tell whether there was anything to harm."""


class Rot(_Harm):
    """Records that are not what was written."""

    name = "rot"
    about = "the last records on a disk are damaged"
    what = "rot"

    def harm(self, machine: Machine, arguments: Arguments) -> bool:
        """Damage them."""
        disk = machine.device.disk
        count = min(int(arguments["records"]), len(disk.records))
        machine.device.rot(count)
        return bool(count)


class LostTail(_Harm):
    """A disk that lied about its syncs."""

    name = "lost_tail"
    about = "a disk loses records that it had reported as synced"
    what = "lost tail"

    def harm(self, machine: Machine, arguments: Arguments) -> bool:
        """Lose them."""
        disk = machine.device.disk
        count = min(int(arguments["records"]), _exposed(disk))
        if count:
            disk.lose_tail(count)
        return bool(count)


def _exposed(disk: MemoryDisk) -> int:
    """Return how many of the last records may be lost without the checkpoint above them.

    Disks lose what was written last: what a checkpoint stands for was written before it.
    """
    held = disk.checkpoints[-1].after_ordinal if disk.checkpoints else 0
    return sum(record.ordinal > held for record in disk.records)


class RottenCheckpoint(_Harm):
    """A checkpoint that is not what was written."""

    name = "rotten_checkpoint"
    about = "the newest checkpoint is damaged"
    what = "rot"

    def harm(self, machine: Machine, arguments: Arguments) -> bool:
        """Damage it."""
        if not machine.device.disk.checkpoints:
            return False
        machine.device.disk.damage_checkpoint()
        return True


class TornWrite(OfOneMachine):
    """A crash in the middle of a write."""

    name = "torn_write"
    kind = "disk"
    about = "a machine dies during a commit, whose last record is half written"

    def apply(self, world: World, arguments: Arguments) -> None:
        """Wait for a commit to be under way."""
        for machine in machines_named(world, arguments["machine"]):
            self._wait(world, machine, int(arguments["for_us"]), _LOOKS)

    def _wait(self, world: World, machine: Machine, for_us: int, looks: int) -> None:
        executor = machine.executor
        if executor is None or looks == 0:
            return
        flight = executor.engine.replica.flight
        # While a store is being reopened it is not the flight that is being written.
        writing = machine.storing and executor.broken is None and not machine.paused
        if not writing or flight is None or not flight.batches:
            later(world, _LOOK_US, self._wait, world, machine, for_us, looks - 1)
            return
        store, disk = machine.store, machine.device.disk
        assert store is not None
        before = len(disk.records)
        machine.crash_with(lambda: _tear(store, flight, executor.now_us(), disk, before))
        world.sometimes("a torn write")
        restart_later(world, machine, for_us)


def _tear(store: Any, flight: Any, now_us: int, disk: Any, before: int) -> None:
    """Let a commit reach the disk, but for half of its last record."""
    # The disk may have a fault of its own for this very write, and have written all the same.
    with suppress(StoreError):
        write_flight(store, flight, now_us)
    if len(disk.records) > before:
        disk.tear(1)


DISKS: Final[tuple[Fault, ...]] = (
    SlowDisk(), FullDisk(), FailingDisk(), AmbiguousSync(), Rot(), LostTail(),
    RottenCheckpoint(), TornWrite(),
)  # fmt: skip


def mend_disk(machine: Machine) -> None:
    """Let a disk work again."""
    machine.device.slow = 1
    faults = machine.device.faults
    faults.full, faults.fails = False, 0.0
    faults.syncs.clear()
    faults.reopens.clear()
