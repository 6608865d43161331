"""How fast simulated worlds go by: the rows that ``python -m tests.bench simulator`` prints.

Each row is the processor time that one simulated second takes (of one core: nothing runs beside
it); its ratio to a second is how many times faster than real time the world runs. All worlds
write 100 register values a second in all, spread over all nodes in turn, on disks that need a
millisecond for an fsync, in regions at their real distances. *Eager* worlds have production's
settings: every transaction is committed at once, and acknowledged to every peer within a quarter
of a second. *Grouped* ones commit once a second, and acknowledge as often. Each cluster is timed
once it has been founded and has come to rest. Larger clusters are rings with two
chords per node, where most of what a node hears was *relayed*: they commit at once, and acknowledge
once a second.
"""

from __future__ import annotations

import gc
import os
import platform
import statistics
import sys
import time
from dataclasses import dataclass
from typing import Any

from crdtmem.crdt import DATATYPES
from crdtmem.errors import CrdtmemError
from crdtmem.sync_host import SyncConfig
from crdtmem.transaction import Transaction
from simulations.node import Machine
from simulations.regions import REGIONS
from simulations.world import SECOND, World, WorldConfig
from tests.bench.report import Row

__all__ = ["Plan", "run"]

WRITES_PER_S = 100
TARGET = 1_000.0
_REGISTER = DATATYPES["register"].code
_KEYS = 1_000
_CHORDS = 2
_FEW = 5
_SETTLING_S = 5


@dataclass(frozen=True)
class Plan:
    """How much to measure: simulated seconds of five nodes, and of clusters of other sizes."""

    rounds: int = 3
    seconds: int = 60
    larger: tuple[tuple[int, int], ...] = ((100, 10), (500, 2))

    @classmethod
    def quick(cls) -> Plan:
        """A plan that ends in seconds: for trying the benchmark, not the program."""
        return cls(1, 5, ((20, 2),))


@dataclass(frozen=True)
class Kind:
    """One world to be timed."""

    title: str
    nodes: int
    writes: int
    grouped: bool
    seconds: int


@dataclass
class Timing:
    """What one run took, and what happened in it."""

    wall_s: float
    cpu_s: float
    events: int
    messages: int
    trace_hash: str


def _config(kind: Kind) -> WorldConfig:
    if not kind.grouped:
        return WorldConfig()
    return WorldConfig(sync=SyncConfig(credit_bytes=1 << 20, acknowledge_us=SECOND))


def _connect(world: World, machines: list[Machine]) -> None:
    """Let few know each other where they are many."""
    if len(machines) <= _FEW:
        world.mesh()
        return
    chance = world.kernel.random("topology")
    for number, machine in enumerate(machines):
        others = {(number + 1) % len(machines)}
        others |= {chance.randrange(len(machines)) for _ in range(_CHORDS)}
        for other in sorted(others - {number}):
            if machines[other].name not in machine.peers:
                machine.peers.append(machines[other].name)
                machines[other].peers.append(machine.name)
    # Who knows of nobody founds; where not all know all, nobody else may.
    machines[0].peers.clear()


class _Load:
    """Writes in a world, at a steady rate, on one machine after the other."""

    def __init__(self, world: World, machines: list[Machine], kind: Kind) -> None:
        self._chance = world.kernel.random("load")
        self.answered = 0
        for number in range(kind.seconds * WRITES_PER_S // kind.writes):
            at_us = number * kind.writes * SECOND // WRITES_PER_S
            machine = machines[number % len(machines)]
            world.kernel.after(at_us, self._write, machine, kind.writes)

    def _write(self, machine: Machine, writes: int) -> None:
        transaction = Transaction()
        for number in range(writes):
            key = f"k{self._chance.randrange(_KEYS)}"
            transaction.put(("bench",), _REGISTER, key, number)
        machine.commit(transaction, self._answered)

    def _answered(self, _: Any, error: CrdtmemError | None) -> None:
        assert error is None, error
        self.answered += 1


def timed(kind: Kind) -> Timing:
    """Run one world, and time the part in which it writes."""
    world = World(1, _config(kind))
    regions = list(REGIONS)
    machines = [
        world.add(f"n{number}", regions[number % len(regions)]) for number in range(kind.nodes)
    ]
    _connect(world, machines)
    world.start()
    world.run_until(
        lambda: all(each.replica.writable for each in machines), "cluster", within_s=300
    )
    # Being founded is another kind of work: it is over, and no longer in a hurry.
    world.run_until(world.converged, "agreement", within_s=300)
    world.run(_SETTLING_S)
    for machine in machines if kind.grouped and kind.nodes <= _FEW else ():
        # From now on, for a cluster whose every admission waits for others is long in founding;
        # and not where news is relayed, for it would wait at every hop.
        assert machine.executor is not None
        machine.executor.linger_us = SECOND
    load = _Load(world, machines, kind)
    gc.collect()
    events, messages = world.kernel.events, world.network.messages
    began_s, began_cpu_s = time.perf_counter(), time.process_time()
    world.run(kind.seconds)
    wall_s, cpu_s = time.perf_counter() - began_s, time.process_time() - began_cpu_s
    events, messages = world.kernel.events - events, world.network.messages - messages
    world.run_until(world.converged, "agreement", within_s=600)
    assert load.answered == kind.seconds * WRITES_PER_S // kind.writes
    return Timing(wall_s, cpu_s, events, messages, world.trace.digest())


def kinds(plan: Plan) -> list[Kind]:
    """Return the worlds to be timed."""
    found = []
    for writes in (1, 10, 20):
        each = "single writes" if writes == 1 else f"transactions of {writes}"
        for grouped in (False, True):
            how = "grouped" if grouped else "eager"
            found.append(Kind(f"5 nodes, {each}, {how}", 5, writes, grouped, plan.seconds))
    for nodes, seconds in plan.larger:
        found.append(Kind(f"{nodes} nodes, transactions of 20, relayed", nodes, 20, True, seconds))
    return found


def measured(kind: Kind, rounds: int) -> Row:
    """Time one kind of world several times; all runs must be the same run."""
    timings = []
    for number in range(rounds):
        print(f"{kind.title}: round {number + 1} of {rounds}", file=sys.stderr, flush=True)
        timings.append(timed(kind))
    assert len({timing.trace_hash for timing in timings}) == 1, "one seed, two runs"
    walls_ms = [timing.wall_s / kind.seconds * 1_000 for timing in timings]
    cpus_ms = [timing.cpu_s / kind.seconds * 1_000 for timing in timings]
    extra = {
        "wall": round(statistics.median(walls_ms), 4),
        "spread": [round(min(cpus_ms), 4), round(max(cpus_ms), 4)],
        "events_per_s": round(timings[0].events / kind.seconds, 1),
        "messages_per_s": round(timings[0].messages / kind.seconds, 1),
        "trace_hash": timings[0].trace_hash,
    }
    target = TARGET if kind.nodes == 5 else None
    value_ms = statistics.median(cpus_ms)
    name = f"a simulated second, {kind.title}"
    return Row(name, value_ms, "ms", "real time", 1_000.0, target, extra)


def run(plan: Plan) -> tuple[list[Row], dict[str, Any]]:
    """Measure everything; returns the rows, and what they were measured on."""
    rows = [measured(kind, plan.rounds if kind.nodes == 5 else 1) for kind in kinds(plan)]
    about = {
        "python": platform.python_version(),
        "processors": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
        "rounds": plan.rounds,
        "simulated_seconds": plan.seconds,
    }
    return rows, about
