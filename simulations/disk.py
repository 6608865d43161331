"""The disks of simulated machines, and what they do to those who trust them.

Problem: what a replica promises rests on an fsync, and real disks forget, fill, slow
down, fail and lie.

Idea: ``MemoryDisk`` is what survives a crash, and ``MemoryStore``, the production
engine for it, is the process that has it open; its open transaction is the
write-back cache that a crash loses. This module adds the device: how long a sync
takes, one after another, and the faults that last (full, failing, slow) beside those
that strike once (rot, a lost tail, an older copy put in place).

Invariants: what ``sync`` reported durable survives every crash, unless the disk was
told to lie; a sync that fails may or may not have survived, drawn from the seed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

from crdtmem.errors import StoreError, StoreFailed, StoreFull
from crdtmem.store.memory import FaultPlan, MemoryDisk

__all__ = ["Device", "DeviceFaults"]


@dataclass(slots=True)
class DeviceFaults(FaultPlan):
    """The faults of a device that last until they are taken away.

    ``fails`` is the probability that an fsync fails; ``survives`` that what it was to
    write is on the disk all the same.
    """

    random: Random = field(default_factory=lambda: Random(0))
    full: bool = False
    fails: float = 0.0
    survives: float = 0.5

    def next_sync(self) -> tuple[StoreError, bool] | None:
        """Return the fault for the sync under way, if there is one."""
        planned = FaultPlan.next_sync(self)
        if planned is not None:
            return planned
        if self.full:
            return StoreFull("the disk is full", hint="free some space"), False
        if self.fails and self.random.random() < self.fails:
            failed = StoreFailed("fsync failed: EIO", hint="the store will be reopened")
            return failed, self.random.random() < self.survives
        return None


class Device:
    """One machine's disk: what is on it, how fast it is, and what is wrong with it."""

    def __init__(self, random: Random, inode: int, sync_us: int) -> None:
        self.random = random
        self.disk = MemoryDisk(inode=inode)
        self.faults = DeviceFaults(random=random)
        self.sync_us = sync_us
        self.slow = 1
        self.free_at_us = 0
        self.backups: list[MemoryDisk] = []

    def delay_us(self, now_us: int) -> int:
        """Return how long the next piece of work takes from now, waiting for others included."""
        takes_us = int(self.sync_us * self.slow * (0.5 + self.random.random()))
        self.free_at_us = max(now_us, self.free_at_us) + takes_us
        return self.free_at_us - now_us

    def back_up(self) -> None:
        """Keep a copy of what is durable now."""
        self.backups.append(self.disk.copy())

    def restore(self, backup: MemoryDisk) -> None:
        """Put an older copy in place. The machine must be down."""
        self.disk.restore(backup)

    def rot(self, records: int) -> None:
        """Damage the last records that are on the disk."""
        self.disk.tear(records)
