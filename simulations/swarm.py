"""Swarm testing: each seed draws a world of its own.

Problem: tests that always use every feature at an even rate never meet what happens
when one thing is done a lot and another not at all: caches that never fill, queues that
never drain, a fault that hides another.

Idea: the seed first draws *what there will be* (how many machines where, which faults
and how many, which workloads at what rate, which limits and budgets are tiny), and only
then the faults and steps themselves. Each choice has a generator of its own, so that
two plans that differ in one are alike in the others.

One seed in eight replays a recording of real events besides, and its plan names it.
Recordings are not everywhere: where one is absent its steps are left out, and nothing else
changes, because they are drawn from a generator of their own and come after all other
clients. A plan that was saved holds its steps, and runs anywhere.

Invariants: the same seed gives the same plan for ever, as long as the tables of faults
and workloads do not change, and the recording that the plan names, if it names one.

Source: Groce, Zhang, Eide, Chen and Regehr, "Swarm Testing" (ISSTA 2012).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from random import Random
from typing import Any, Final

from simulations.faults import FAULTS, Shape
from simulations.faults.mesh import MESH
from simulations.kernel import Kernel
from simulations.mesh import MESHES
from simulations.plan import Injection, Place, Plan
from simulations.regions import REGIONS
from simulations.steps import Step
from simulations.workloads import WORKLOADS

__all__ = ["draw_plan"]

_SECOND: Final = 1_000_000
_SIZES: Final = (2, 3, 3, 3, 4, 4, 5, 5, 6, 7)
_STEPS: Final = 300
"""The most steps of a plan: what a seed may cost."""

_RECORDED: Final = 1 / 8
_RECORDED_STEPS: Final = 60

_TINY: Final[dict[str, tuple[int, ...]]] = {
    "linger_us": (0, 0, 500, 5_000),
    "sync_us": (200, 1_000, 10_000),
    "checkpoint_bytes": (2_000, 8_000, 1 << 16),
    "sync_log_bytes": (0, 4_000, 1 << 16, 1 << 18),
    "buffer_bytes": (150_000, 1 << 22),
    "limits.siblings": (2, 4, 64),
    "limits.batch_deltas": (20, 200, 10_000),
    "limits.early_batches_per_peer": (3, 30, 10_000),
    "limits.queue_transactions": (10, 100_000),
    "limits.waiters": (4, 10_000),
    "sync.credit_bytes": (1 << 18, 1 << 20),
    "sync.read_bytes": (2_000, 1 << 18),
    "sync.acknowledge_us": (1_000, 10_000, 200_000),
    "sync.unhurried_us": (1_000, 30_000, 1_000_000),
    "sync.relay_us": (5_000, 50_000, 500_000),
    "sync.push_us": (300_000, 2_000_000),
    "sync.request_us": (2_000_000, 10_000_000),
    "sync.digest_us": (500_000, 5_000_000),
    "sync.transfer_us": (5_000_000, 30_000_000),
    "sync.reconcile_from": (0, 10, 100, 10_000),
    "sync.capture_bytes": (2_000, 1 << 25),
    "sync.transfers": (1, 4),
    "sync.chunk_entries": (3, 50, 1_000),
    "sync.turn_bytes": (500, 1 << 16),
    "sync.repair_dots": (4, 256),
}
"""The settings that a seed may override, and what with."""

_CRUEL: Final = frozenset({"clone", "restored_backup", "lost_disk", "join", "evict"})
"""Faults that change who there is; a plan has at most a few of them."""


def draw_plan(seed: int) -> Plan:
    """Return the plan of a seed."""
    # Only the kernel's named generators are wanted; nothing ever happens in it.
    chance = Kernel(seed).random
    machines = _machines(chance("swarm/machines"))
    safety_us = int(chance("swarm/time").choice((3, 6, 6, 12, 12, 25)) * _SECOND)
    regions = {place.name: place.region for place in machines}
    shape = Shape(tuple(regions), regions, safety_us)
    workloads, steps = _steps(chance("swarm/workloads"), len(machines), safety_us)
    recorded = _recorded(chance("swarm/recordings"), len(machines), safety_us)
    topology = chance("swarm/topology")
    mesh, mesh_faults = _mesh(chance("swarm/mesh"), shape)
    injections = (*_injections(chance("swarm/faults"), shape), *mesh_faults)
    return Plan(
        seed=seed,
        machines=machines,
        topology=topology.choice(("mesh",) * 8 + ("ring", "star")),
        config=_config(chance("swarm/config")),
        mesh=mesh,
        workloads=(*workloads, *recorded),
        steps=_merged(steps, recorded),
        injections=tuple(sorted(injections, key=lambda injection: injection.at_us)),
        safety_us=safety_us,
    )


def _mesh(random: Random, shape: Shape) -> tuple[str, list[Injection]]:
    """Draw how machines find each other, and what goes wrong with that; half have static peers."""
    kind = random.choice(("swift", "lan", "swift", "lan", *sorted(MESHES)))
    if random.random() < 0.5:
        return "", []
    names = [fault.name for fault in MESH if random.random() < 0.4]
    drawn = [
        Injection(
            int(random.random() * shape.safety_us * 0.9), name, FAULTS[name].draw(random, shape)
        )
        for name in names
        for _ in range(random.choice((1, 1, 2)))
    ]
    return kind, drawn


def _machines(random: Random) -> tuple[Place, ...]:
    count = random.choice(_SIZES)
    regions = random.sample(sorted(REGIONS), random.randint((count + 1) // 2, count))
    places: list[Place] = []
    for number in range(count):
        region = regions[number] if number < len(regions) else random.choice(regions)
        copies = sum(place.region == region for place in places)
        places.append(Place(region if not copies else f"{region}-{copies + 1}", region))
    return tuple(places)


def _config(random: Random) -> dict[str, int]:
    """Draw a few settings out of the ordinary."""
    names = [name for name in _TINY if random.random() < 0.25]
    return {name: random.choice(_TINY[name]) for name in names}


def _steps(
    random: Random, machines: int, safety_us: int
) -> tuple[tuple[str, ...], tuple[Step, ...]]:
    """Draw some workloads, their clients and their rates, and all their steps in one list."""
    # Recordings are not everywhere, and a seed is to mean the same wherever it is run.
    drawable = sorted(name for name, workload in WORKLOADS.items() if not workload.needs)
    names = tuple(random.sample(drawable, min(len(drawable), random.choice((1, 2, 3, 5)))))
    rate_per_s = 2.0 * 40 ** random.random() / len(names)
    rate_per_s = min(rate_per_s, _STEPS * _SECOND / safety_us / len(names))
    found: list[tuple[int, int, Step]] = []
    first_client = 0
    for name in names:
        clients = random.randint(1, 6)
        drawn = WORKLOADS[name].steps(random, clients, machines, safety_us, rate_per_s)
        for step in drawn[:_STEPS]:
            moved = Step(
                step.at_us, step.client + first_client, step.machine, step.kind, step.arguments
            )
            found.append((moved.at_us, len(found), moved))
        first_client += clients
    return names, tuple(step for _, _, step in sorted(found, key=lambda item: item[:2]))


def _recorded(random: Random, machines: int, safety_us: int) -> dict[str, list[Step]]:
    """Draw whether there is a recording, which, and its steps; nothing where it is absent."""
    name = random.choice(sorted(name for name, load in WORKLOADS.items() if load.needs))
    if random.random() >= _RECORDED or not WORKLOADS[name].available:
        return {}
    clients = random.randint(1, 4)
    rate_per_s = _RECORDED_STEPS * _SECOND / safety_us
    drawn = WORKLOADS[name].steps(random, clients, machines, safety_us, rate_per_s)
    return {name: drawn[:_RECORDED_STEPS]}


def _merged(steps: tuple[Step, ...], recorded: Mapping[str, list[Step]]) -> tuple[Step, ...]:
    """Return all steps in order of time; clients of recordings come after all others."""
    first_client = 1 + max((step.client for step in steps), default=-1)
    added = (
        replace(step, client=step.client + first_client)
        for drawn in recorded.values()
        for step in drawn
    )
    return tuple(sorted((*steps, *added), key=lambda step: step.at_us))


def _injections(random: Random, shape: Shape) -> tuple[Injection, ...]:
    """Draw which faults there are, how many, and when; some seeds have none at all."""
    ordinary = sorted(name for name, fault in FAULTS.items() if fault.kind != "mesh")
    enabled = [name for name in ordinary if random.random() < random.choice((0.1, 0.3, 0.6))]
    count = random.choice((0, 1, 2, 3, 5, 8, 13, 20)) if enabled else 0
    drawn: list[tuple[int, str, dict[str, Any]]] = []
    cruel = 0
    for _ in range(count):
        name = random.choice(enabled)
        at_us = int(random.random() * shape.safety_us * 0.9)
        arguments = FAULTS[name].draw(random, shape)
        cruel += name in _CRUEL
        if name not in _CRUEL or cruel <= 3:
            drawn.append((at_us, name, arguments))
    drawn.sort(key=lambda item: item[0])
    return tuple(Injection(at_us, name, arguments) for at_us, name, arguments in drawn)
