"""Worlds in which planted mutations are looked for: small, fast, and hostile in one way each.

Problem: a swarm seed does a little of everything; to find one broken rule within a second, the
world must do what the rule is about, much of it, to few keys.

Idea: a ``Recipe`` is a swarm with most of its dice fixed: which workloads, which faults, how
tight the limits. Everything else, every step and every fault, is drawn from the seed, through the
simulator's own tables.

Invariants: the same recipe and seed give the same plan, as long as the tables do not change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final

from simulations.faults import FAULTS, Shape
from simulations.kernel import Kernel
from simulations.plan import Injection, Place, Plan
from simulations.regions import REGIONS
from simulations.steps import Step
from simulations.workloads import WORKLOADS

__all__ = ["WORLDS", "Recipe"]

_SECOND: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Recipe:
    """How the plans of one kind are drawn; called with a seed it returns the seed's plan.

    ``rate_per_s`` is that of all workloads together; ``strikes`` is how many faults there are,
    of ``faults`` in turn, all of them within the safety phase of ``safety_s`` seconds.
    ``mesh`` is a plan's, ``per_region`` how many machines share a region. ``fixed`` are
    arguments of faults that are not left to chance, where a fault has them; ``guests`` how many
    machines that come later, copies and newcomers, have clients too.
    """

    workloads: tuple[str, ...]
    faults: tuple[str, ...] = ()
    strikes: int = 4
    machines: int = 4
    rate_per_s: float = 40.0
    safety_s: float = 8.0
    clients: int = 4
    topology: str = "mesh"
    liveness_s: float = 60.0
    guests: int = 0
    mesh: str = ""
    per_region: int = 1
    config: Mapping[str, int] = field(default_factory=dict)
    fixed: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, seed: int) -> Plan:
        """Return the plan of a seed."""
        # Only its named generators are wanted; nothing ever happens in it.
        kernel = Kernel(seed)
        places = tuple(self._places())
        safety_us = int(self.safety_s * _SECOND)
        shape = Shape(
            tuple(place.name for place in places),
            {place.name: place.region for place in places},
            safety_us,
        )
        return Plan(
            seed=seed,
            machines=places,
            topology=self.topology,
            config=dict(self.config),
            mesh=self.mesh,
            workloads=self.workloads,
            steps=self._steps(kernel, safety_us),
            injections=self._injections(kernel, shape),
            safety_us=safety_us,
            liveness_us=int(self.liveness_s * _SECOND),
        )

    def _places(self) -> Iterator[Place]:
        regions = list(REGIONS)
        for number in range(self.machines):
            region = regions[number // self.per_region]
            turn = number % self.per_region
            yield Place(region if not turn else f"{region}-{turn + 1}", region)

    def _steps(self, kernel: Kernel, safety_us: int) -> tuple[Step, ...]:
        found: list[Step] = []
        rate_per_s = self.rate_per_s / len(self.workloads)
        for number, name in enumerate(self.workloads):
            random = kernel.random(f"recipe/{name}")
            drawn = WORKLOADS[name].steps(
                random, self.clients, self.machines + self.guests, safety_us, rate_per_s
            )
            found += (replace(step, client=step.client + number * self.clients) for step in drawn)
        return tuple(sorted(found, key=lambda step: step.at_us))

    def _injections(self, kernel: Kernel, shape: Shape) -> tuple[Injection, ...]:
        random = kernel.random("recipe/faults")
        found: list[Injection] = []
        for number in range(self.strikes if self.faults else 0):
            # Each kind of fault in its turn, so that a seed never goes without one.
            name = self.faults[number % len(self.faults)]
            at_us = int(random.random() * shape.safety_us * 0.8)
            arguments = FAULTS[name].draw(random, shape)
            fixed = {key: value for key, value in self.fixed.items() if key in arguments}
            found.append(Injection(at_us, name, {**arguments, **fixed}))
        return tuple(sorted(found, key=lambda injection: injection.at_us))


_APART: Final = ("split", "isolate", "one_way")
_CUT_LOGS: Final = {"checkpoint_bytes": 2_000, "sync_log_bytes": 0}

# What is written matters little there; meshes take their time, so little is.
_meshed: Final = partial(Recipe, ("registers",), mesh="swift")

WORLDS: Final[dict[str, Callable[[int], Plan]]] = {
    # ---------------------------------------------------------------- by what is written
    "registers": Recipe(("registers", "hot_key"), _APART),
    "sessions": Recipe(("sessions", "registers"), _APART),
    "ledgers": Recipe(("transactions",), ("split",), 1, machines=3, rate_per_s=20.0, safety_s=4.0),
    "resetting": Recipe(("counters",), (*_APART, "split", "isolate")),
    "retrying": Recipe(
        ("counters",), ("die", "crash"), 16, machines=3, rate_per_s=60.0, config={"sync_us": 30_000}
    ),
    "removals": Recipe(("sets", "maps", "counters"), _APART, safety_s=16.0, rate_per_s=25.0),
    "sets": Recipe(("sets",), ("split", "split", "isolate"), safety_s=14.0, machines=3),
    "budgets": Recipe(("budgets",), ("split", "clone", "restored_backup"), 3),
    "expiring": Recipe(("expiring", "registers"), _APART),
    "trust": Recipe(("trust",), _APART),
    "documents": Recipe(("documents",), ("split",), 1, machines=3, rate_per_s=60.0),
    # ---------------------------------------------------------------- by the mesh
    "apart": _meshed(
        ("split", "stop"),
        2,
        machines=6,
        per_region=3,
        rate_per_s=2.0,
        safety_s=130.0,
        fixed={"for_us": 100_000_000},
    ),
    "restarts": _meshed(
        ("mass_restart", "stop"),
        4,
        machines=5,
        per_region=3,
        rate_per_s=4.0,
        safety_s=20.0,
        fixed={"for_us": 2_000_000},
    ),
    "leaving": _meshed(
        ("stop",),
        8,
        machines=5,
        per_region=2,
        rate_per_s=2.0,
        safety_s=20.0,
        fixed={"for_us": 20_000},
    ),
    "liars": _meshed(
        ("liar",),
        6,
        machines=5,
        per_region=5,
        rate_per_s=2.0,
        safety_s=60.0,
        fixed={"times": 30, "every_us": 400_000},
    ),
    # ---------------------------------------------------------------- by what goes wrong
    "crashes": Recipe(
        ("registers", "counters"),
        ("crash", "die", "split"),
        6,
        config={"checkpoint_bytes": 2_000, "sync_us": 10_000},
    ),
    "clocks": Recipe(("registers", "logs"), ("skew", "crash", "jumps"), 6, machines=3),
    "disks": Recipe(
        ("registers", "transactions"),
        ("failing_disk", "torn_write", "ambiguous_sync"),
        6,
        machines=3,
        config={"checkpoint_bytes": 2_000, "sync_us": 10_000},
    ),
    "transfers": Recipe(
        ("registers", "sets", "counters"),
        ("absence", "crash", "split"),
        3,
        config={**_CUT_LOGS, "sync.chunk_entries": 3, "sync.turn_bytes": 500},
    ),
    # Operators ask for checkpoints, of slow disks under which a flight is nearly always out; each
    # member writes so seldom that a crash comes before its next batch would hide a lost one.
    "checkpoints": Recipe(
        ("registers",),
        ("absence", "crash", "crash"),
        15,
        machines=5,
        rate_per_s=5.0,
        safety_s=16.0,
        fixed={"for_us": 1_000_000},
        config={"sync_us": 50_000},
    ),
    "identities": Recipe(("registers", "counters"), ("restored_backup", "clone", "lost_tail"), 3),
    "evictions": Recipe(("registers", "sets"), ("evict", "join", "evict"), 3, machines=5),
    "copies": Recipe(
        ("registers",), ("clone",), 2, machines=3, liveness_s=15.0, guests=1, fixed={"hidden": True}
    ),
    "forks": Recipe(
        ("registers",),
        ("clone",),
        1,
        machines=4,
        liveness_s=5.0,
        guests=1,
        fixed={"hidden": True, "apart_us": 5_000_000},
    ),
    "given_up": Recipe(
        ("registers", "sets"),
        ("evict", "split", "join", "evict"),
        4,
        machines=4,
        rate_per_s=20.0,
        safety_s=12.0,
        guests=1,
        fixed={
            "condition": "isolated",
            "by": list(REGIONS)[:5],
            "after_us": 1_000_000,
            "for_us": 3_000_000,
        },
    ),
    "noise": Recipe(("registers", "large"), ("corrupt",), 12, machines=3),
    "forgetting": Recipe(("registers",), ("lost_entry",), 6, machines=3, safety_s=4.0),
    "differences": Recipe(
        ("registers", "sets"),
        ("delay", "absence"),
        2,
        rate_per_s=60.0,
        safety_s=14.0,
        fixed={"for_us": 8_000_000},
        config={
            **_CUT_LOGS,
            "sync.chunk_entries": 3,
            "sync.turn_bytes": 500,
            "sync.reconcile_from": 0,
            "sync.capture_bytes": 2_000,
        },
    ),
    "streams": Recipe(
        ("registers", "logs"), ("reset", "split", "isolate"), 6, machines=3, topology="star"
    ),
    "relays": Recipe(
        ("sets", "counters"),
        ("bridge", "overlap", "delay"),
        4,
        safety_s=20.0,
        rate_per_s=25.0,
        config={
            "sync.relay_us": 3_000_000,
            "sync.push_us": 3_000_000,
            "sync.relayed_us": 200_000,
            "limits.early_batches_per_peer": 3,
        },
    ),
    "crowd": Recipe(
        ("registers",),
        rate_per_s=200.0,
        machines=2,
        clients=80,
        safety_s=5.0,
        config={
            "sync_us": 200_000,
            "limits.queue_transactions": 10,
            "limits.waiters": 4,
        },
    ),
    "tight": Recipe(
        ("registers", "hot_key", "large"),
        ("split", "reset", "delay"),
        4,
        rate_per_s=60.0,
        config={
            "limits.siblings": 2,
            "limits.early_batches_per_peer": 3,
            "limits.queue_transactions": 10,
            "limits.waiters": 4,
            "sync.credit_bytes": 1 << 17,
        },
    ),
}
"""Every kind of world by name."""
