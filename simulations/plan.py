"""Plans: everything that a run consists of, as one piece of data.

Problem: a failure found among ten thousand seeds must be repeated by anybody, at any
later time, and made smaller without becoming another failure.

Idea: a ``Plan`` is explicit: the machines, every step of every client, every fault with
its moment and its arguments. Drawing a plan from a seed (``swarm``) and carrying it out
(``runner``) are two things. Written as JSON it is the *trace* that ``replay`` and
``shrink`` take; what it leaves open (latencies' jitter, a lost piece, a drawn id) comes
from its seed, in streams that do not disturb each other.

Invariants: ``from_json(to_json(plan)) == plan``; a plan names only what exists in the
tables of faults, workloads and checkers, or ``check`` says what it does not know.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Final

from crdtmem.errors import CrdtmemError
from crdtmem.limits import Limits
from crdtmem.sync_host import SyncConfig
from simulations.errors import BadPlan
from simulations.mesh import MESHES
from simulations.regions import REGIONS
from simulations.steps import Step
from simulations.world import SMALL_LIMITS, World, WorldConfig

__all__ = ["FORMAT", "TOPOLOGIES", "Injection", "Place", "Plan", "build_world", "world_config"]

FORMAT: Final = 1
"""The version of the JSON form."""

TOPOLOGIES: Final = ("mesh", "ring", "star")
"""Who knows whom: everybody all; each the one before it; all the first one only.

In the last two the first machine has no peers and founds the cluster.
"""

_LIMITS: Final = "limits."
_SYNC: Final = "sync."


@dataclass(frozen=True, slots=True)
class Injection:
    """One fault: ``at_us`` from the beginning of the safety phase; see ``faults.FAULTS``."""

    at_us: int
    fault: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Place:
    """One machine, and the region it stands in (a key of ``regions.REGIONS``)."""

    name: str
    region: str


@dataclass(frozen=True, slots=True)
class Plan:
    """One run. Times are microseconds from the beginning of the safety phase.

    ``config`` overrides what all machines have in common, by the names of the fields of
    ``WorldConfig``, ``limits.…`` and ``sync.…``. In the safety phase, ``safety_us`` long,
    clients work and faults strike; then everything heals, and the cluster must converge
    within ``liveness_us``. ``checkers`` are names, none means all of them. ``mesh`` is a key
    of ``mesh.MESHES`` where machines find each other by gossip, from seeds that follow the
    topology; it is empty where they are told their peers.
    """

    seed: int
    machines: tuple[Place, ...]
    topology: str = "mesh"
    config: Mapping[str, int] = field(default_factory=dict)
    mesh: str = ""
    workloads: tuple[str, ...] = ()
    steps: tuple[Step, ...] = ()
    injections: tuple[Injection, ...] = ()
    safety_us: int = 10_000_000
    liveness_us: int = 180_000_000
    checkers: tuple[str, ...] = ()

    def to_json(self) -> str:
        """Return the plan as JSON, one step or fault per line."""
        head = {
            "format": FORMAT,
            "seed": self.seed,
            "machines": [[place.name, place.region] for place in self.machines],
            "topology": self.topology,
            "config": dict(self.config),
            "mesh": self.mesh,
            "workloads": list(self.workloads),
            "safety_us": self.safety_us,
            "liveness_us": self.liveness_us,
            "checkers": list(self.checkers),
        }
        lines = [f"{json.dumps(name)}: {json.dumps(value)}" for name, value in head.items()]
        injections = ([i.at_us, i.fault, dict(i.arguments)] for i in self.injections)
        steps = ([s.at_us, s.client, s.machine, s.kind, dict(s.arguments)] for s in self.steps)
        lines += [_listed("injections", injections), _listed("steps", steps)]
        return "{\n " + ",\n ".join(lines) + "\n}\n"

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """Return the plan that a JSON text describes. Raises ``BadPlan``."""
        try:
            read = json.loads(text)
            if read.pop("format") != FORMAT:
                raise BadPlan(f"a trace of another format than {FORMAT}: made by another version?")
            return cls(
                machines=tuple(Place(*place) for place in read.pop("machines")),
                injections=tuple(Injection(*item) for item in read.pop("injections")),
                steps=tuple(Step(*step) for step in read.pop("steps")),
                workloads=tuple(read.pop("workloads")),
                checkers=tuple(read.pop("checkers")),
                **read,
            )
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise BadPlan(f"this is no trace of a simulation: {error!r}") from error

    def check(self, known: Mapping[str, Iterable[str]]) -> None:
        """Raise ``BadPlan`` unless everything named is ``known``: faults, workloads, checkers."""
        named = {
            "fault": {injection.fault for injection in self.injections},
            "workload": set(self.workloads),
            "checker": set(self.checkers),
        }
        for what, names in named.items():
            unknown = sorted(names - set(known.get(what, names)))
            if unknown:
                raise BadPlan(f"there is no {what} called {', '.join(unknown)}")
        if not self.machines or self.topology not in TOPOLOGIES:
            raise BadPlan("a plan needs machines, and a topology: " + ", ".join(TOPOLOGIES))
        if self.mesh and self.mesh not in MESHES:
            raise BadPlan("a mesh is one of: " + ", ".join(MESHES))
        if len({place.name for place in self.machines}) < len(self.machines):
            raise BadPlan("two machines have one name")
        for place in self.machines:
            if place.region not in REGIONS:
                raise BadPlan(f"there is no region called {place.region}; see regions.py")
        world_config(self.config)


def _listed(name: str, items: Iterable[Any]) -> str:
    """Return a field of JSON whose value is a list, one item per line."""
    lines = [json.dumps(item) for item in items]
    inner = "\n  " + ",\n  ".join(lines) + "\n " if lines else ""
    return f"{json.dumps(name)}: [{inner}]"


def world_config(overrides: Mapping[str, int]) -> WorldConfig:
    """Return the configuration of a world, with overrides by name. Raises ``BadPlan``."""
    parts: dict[str, dict[str, int]] = {"": {}, _LIMITS: {}, _SYNC: {}}
    for name, value in overrides.items():
        prefix, dot, rest = name.rpartition(".")
        if prefix + dot not in parts:
            raise BadPlan(f"there is no setting called {name}")
        parts[prefix + dot][rest] = value
    kinds = {"": WorldConfig, _LIMITS: Limits, _SYNC: SyncConfig}
    for prefix, given in parts.items():
        unknown = sorted(given.keys() - {item.name for item in fields(kinds[prefix])})
        if unknown:
            raise BadPlan(f"there is no setting called {prefix}{unknown[0]}")
    try:
        limits = replace(SMALL_LIMITS, **parts[_LIMITS])
    except CrdtmemError as error:
        raise BadPlan(str(error)) from error
    plain: dict[str, Any] = dict(parts[""])
    base = WorldConfig()
    return replace(base, limits=limits, sync=replace(base.sync, **parts[_SYNC]), **plain)


def build_world(plan: Plan, *, keep: bool = False) -> World:
    """Return the world of a plan: its machines, not started, each with its peers."""
    world = World(plan.seed, world_config(plan.config), keep=keep, mesh_kind=plan.mesh)
    for place in plan.machines:
        world.add(place.name, place.region)
    if plan.mesh:
        world.seed_mesh(chain=plan.topology == "ring")
        return world
    names = [place.name for place in plan.machines]
    if plan.topology == "mesh":
        world.mesh()
    for number, name in enumerate(names[1:], 1):
        if plan.topology == "star":
            world.machines[name].peers = [names[0]]
        elif plan.topology == "ring":
            last = [names[0]] if number == len(names) - 1 > 1 else []
            world.machines[name].peers = [names[number - 1], *last]
    return world
