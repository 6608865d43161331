"""A simulated cluster in the hands of a rule-based machine.

Problem: the machines of this folder all found a cluster, work on it, harm it, heal it and
hold it to its promises; each would otherwise do it in its own words.

Idea: a ``Cluster`` is a ``Run`` of the simulator without a plan: its world, its history, its
clients and *all of its checkers*, while hypothesis says what comes next. Work is done by the
simulator's clients, harm by its table of faults, whose draws hypothesis makes, so that
both shrink. ``settle`` is the run's own liveness phase; after it everything is compared
with everything: each entry with its stamp, each reading, the state that each disk leads
to, and the state after another start.

Invariants: what is drawn decides everything; nothing here depends on a clock or on the
order of a set.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from random import Random
from typing import Any, Final

from crdtmem.crdt import DATATYPES
from crdtmem.digest import hash_dots
from crdtmem.effects import Alarm
from crdtmem.reading import Reading
from crdtmem.recovery import rederive
from crdtmem.table import State
from simulations.errors import SafetyViolation
from simulations.faults import FAULTS, Shape
from simulations.faults.base import is_held_elsewhere
from simulations.node import Machine
from simulations.plan import Place, Plan
from simulations.regions import REGIONS
from simulations.runner import Run
from simulations.steps import Step
from simulations.world import Watcher

__all__ = ["TINY", "Cluster", "contents", "readings"]

TINY: Final[Mapping[str, int]] = {
    "checkpoint_bytes": 2_000,
    "sync_log_bytes": 1_000,
    "limits.siblings": 4,
    "limits.early_batches_per_peer": 6,
    "sync.read_bytes": 2_000,
    "sync.reconcile_from": 12,
    "sync.chunk_entries": 5,
}
"""A configuration in which what is rare at usual sizes is common."""

_LONGEST_US: Final = 20_000_000
_NEVER: Final = frozenset({"digest", "rederived", "repaired", "rederive", "defect"})
"""Alarms that say that a state was wrong: without harm to a disk there are none."""


class Ears(Watcher):
    """Remembers every alarm."""

    def __init__(self) -> None:
        self.told: list[tuple[str, Alarm]] = []

    def alarmed(self, machine: Machine, alarm: Alarm) -> None:
        """Remember it."""
        self.told.append((machine.name, alarm))


class Cluster:
    """A founded cluster, and the verbs of the rules."""

    def __init__(self, seed: int, size: int, config: Mapping[str, int] = TINY) -> None:
        places = tuple(Place(name, name) for name in list(REGIONS)[:size])
        self.phases = Run(Plan(seed, places, config=config, safety_us=_LONGEST_US))
        self.world = self.phases.world
        self.history = self.phases.history
        self.ears = Ears()
        self.world.watchers.append(self.ears)
        self.phases.found()

    # ------------------------------------------------------------------ verbs

    def machine(self, index: int) -> Machine:
        """Return a machine by its number, modulo how many there are."""
        machines = list(self.world.machines.values())
        return machines[index % len(machines)]

    def run(self, seconds: float) -> None:
        """Let time pass."""
        self.world.run(seconds)

    def ask(self, client: int, machine: int, kind: str, **arguments: Any) -> None:
        """Let a client do something, as soon as it has done what it does now."""
        self.phases.clients.perform(Step(0, client, machine, kind, arguments))

    def read(self, machine: Machine, space: tuple[str, ...], datatype: str, key: str) -> Reading:
        """Read a key on a machine that is up, as somebody who has seen nothing yet."""
        now_us = machine.clock.now_us()
        return machine.replica.read(space, DATATYPES[datatype].code, key, now_us)

    def strike(self, name: str, random: Random) -> None:
        """Let a fault of the simulator's table strike, as ``random`` draws it."""
        machines = self.world.machines
        regions = {machine.name: machine.region for machine in machines.values()}
        fault = FAULTS[name]
        fault.apply(self.world, fault.draw(random, Shape(tuple(machines), regions, _LONGEST_US)))

    def restore(self, machine: Machine, backup: int, *, whole: bool) -> bool:
        """Put an older copy of its disk in place, where others hold what that undoes.

        ``whole``: as a snapshot of a virtual machine does it, so that nothing on the disk
        tells. Returns whether it was done.
        """
        backups = machine.device.backups
        if not machine.up or machine.paused or not backups:
            return False
        if not is_held_elsewhere(self.world, machine):
            return False
        machine.crash()
        machine.device.disk.restore(backups[backup % len(backups)], with_mark=whole)
        self.world.harmed(machine, "restored")
        machine.start()
        return True

    # ------------------------------------------------------------------ the end

    def settle(self) -> None:
        """Heal, converge, hear every checker, and compare everything."""
        self.phases.liveness()
        chosen = list(self.world.up())
        self.compare(chosen)
        for machine in chosen:
            machine.stop()
            machine.start()
        self.world.run_until(self.is_quiet, "rest after a restart", within_s=60)
        self.compare(chosen)

    def is_quiet(self) -> bool:
        """Whether all run, may write, and have the same vector and nothing to do."""
        machines = self.world.machines.values()
        return all(m.up and m.replica.writable for m in machines) and self.world.converged()

    def compare(self, chosen: Iterable[Machine]) -> None:
        """Hold states, readings, disks and digests of converged machines against each other."""
        now_us = self.world.kernel.now_us
        machines = list(chosen)
        first = contents(machines[0].engine.state)
        shown = readings(machines[0], now_us)
        for machine in machines:
            state = machine.engine.state
            _require("equal states", machine, contents(state), first)
            _require("equal readings", machine, readings(machine, now_us), shown)
            live = [entry[0] for _, _, _, entry in state.entries()]
            _require("running digest", machine, state.digest(), hash_dots(live))
            assert machine.store is not None
            _require("what the log leads to", machine, contents(rederive(machine.store)), first)
        if not self.history.harms:
            for name, alarm in self.ears.told:
                if alarm.name in _NEVER:
                    raise SafetyViolation("no repair", f"{name}: {alarm.message}")


def contents(state: State) -> dict[Any, Any]:
    """Return every live entry with its place and stamp, and the vector, to be compared."""
    found: dict[Any, Any] = {
        (table.space, table.datatype, key, repr(name), entry[0]): (
            repr(entry[1]),
            repr(entry[2].identity()),
        )
        for table, key, name, entry in state.entries()
    }
    found["vector"] = state.vector.flat()
    return found


def readings(machine: Machine, now_us: int) -> dict[Any, Any]:
    """Return what a machine shows under every key, as text."""
    shown = {}
    for (space, datatype), table in machine.engine.state.tables.items():
        for key in table.slots:
            reading = machine.replica.read(space, datatype, key, now_us)
            shown[space, datatype, key] = (
                repr(reading.value),
                reading.exists,
                reading.contested,
                reading.also,
                sorted(reading.observed.dots),
            )
    return shown


def _require(checker: str, machine: Machine, got: Any, expected: Any) -> None:
    if got == expected:
        return
    if isinstance(got, dict) and isinstance(expected, dict):
        got, expected = (
            {key: value for key, value in one.items() if other.get(key) != value}
            for one, other in ((got, expected), (expected, got))
        )
    raise SafetyViolation(checker, f"{machine.name}: {got!r:.2000} is not {expected!r:.2000}")
