"""Faults: each strikes, each is lifted, none may break the simulator."""

from dataclasses import replace
from random import Random
from typing import Any

import pytest

from simulations.dialects import PACKED_CODE, Interpreter
from simulations.faults import FAULTS, Shape, heal_all
from simulations.faults.base import is_held_elsewhere
from simulations.network import Link
from simulations.plan import Injection, Place, Plan
from simulations.runner import Run
from simulations.swarm import draw_plan

NAMES = ("a", "b", "c", "d")
REGIONS = dict(zip(NAMES, ("eu-west", "us-east", "us-east", "ap-south"), strict=True))
SHAPE = Shape(NAMES, REGIONS, 4_000_000)
NETWORK = [name for name, fault in FAULTS.items() if fault.kind == "network"]


def _plan(*injections: Injection, seed: int = 5) -> Plan:
    return Plan(
        seed=seed,
        machines=tuple(Place(name, REGIONS[name]) for name in NAMES),
        workloads=("registers",),
        steps=tuple(step for step in draw_plan(3).steps if step.at_us < 2_500_000)[:20],
        injections=injections,
        config={"checkpoint_bytes": 2_000},
        safety_us=3_000_000,
    )


def _begun(*injections: Injection) -> Run:
    """Return a run at the beginning of its safety phase."""
    played = Run(_plan(*injections))
    played.found()
    played.schedule()
    return played


@pytest.mark.parametrize("name", FAULTS)
def test_every_fault_strikes_and_the_cluster_outlives_it(name: str) -> None:
    fault = FAULTS[name]
    random = Random(name)
    at_us = (400_000, 1_300_000)
    injections = [Injection(time, name, fault.draw(random, SHAPE)) for time in at_us]
    outcome = Run(_plan(*injections)).play()
    assert outcome.passed, outcome.message + outcome.details
    assert outcome.injected == {name: 2}


@pytest.mark.parametrize("name", NETWORK)
def test_what_is_lifted_leaves_no_trace_on_the_links(name: str) -> None:
    fault = FAULTS[name]
    arguments = {**fault.draw(Random(name), SHAPE), "for_us": 300_000}
    played = _begun()
    world = played.world
    for here in NAMES:
        for there in NAMES:
            world.network.link(here, there)
    before = _links(played)
    fault.apply(world, arguments)
    world.run(0.1)
    if name not in {"reset", "flap"} and arguments["pairs"]:
        assert _links(played) != before
    world.run(0.5)
    assert _links(played) == before


def _links(played: Run) -> dict[Any, Any]:
    passing = {"random", "free_at_us", "bursting"}
    attributes = [name for name in Link.__slots__ if name not in passing]
    links = played.world.network.links
    return {pair: [getattr(link, name) for name in attributes] for pair, link in links.items()}


def test_faults_about_machines_that_are_gone_do_nothing() -> None:
    """A shrunk plan may name machines that it no longer has."""
    gone = Shape(("x", "y", "z"), {"x": "eu-west", "y": "eu-west", "z": "us-east"}, 4_000_000)
    known = FAULTS.keys() - {"join", "region_loss"}
    drawn = {name: FAULTS[name].draw(Random(1), gone) for name in sorted(known)}
    outcome = Run(_plan(*(Injection(500_000, *item) for item in drawn.items()))).play()
    assert outcome.passed
    assert outcome.injected == dict.fromkeys(sorted(known), 1)
    assert not any("harmed" in name for name in outcome.reached)


def test_healing_ends_what_a_fault_still_had_in_mind() -> None:
    played = _begun()
    every = {"machine": "a", "times": 8, "every_us": 1_000_000}
    FAULTS["crash_loop"].apply(played.world, every)
    played.world.run(1.5)
    heal_all(played.world)
    lives = played.world.machines["a"].lives
    played.world.run(10)
    assert played.world.machines["a"].lives == lives


def test_faults_that_fall_on_each_other_are_all_healed() -> None:
    random = Random(8)
    played = _begun()
    for name, fault in FAULTS.items():
        if name not in {"clone", "join", "upgrade"}:
            fault.apply(played.world, fault.draw(random, SHAPE))
    played.world.run(2)
    heal_all(played.world)
    machines = played.world.machines.values()
    assert all(machine.up and not machine.paused for machine in machines)
    assert not any(machine.device.faults.full for machine in machines)
    assert not any(link.cut or link.loss for link in played.world.network.links.values())


def test_what_one_disk_alone_holds_is_never_destroyed() -> None:
    played = _begun(
        Injection(0, "isolate", {"pairs": [["a", x] for x in "bcd"], "for_us": 4_000_000})
    )
    world = played.world
    played.safety(3_000_000)
    alone = world.machines["a"]
    assert not is_held_elsewhere(world, alone)
    records = list(alone.device.disk.records)
    for name in ("rot", "lost_tail", "lost_disk"):
        alone.start()
        world.run(0.2)
        FAULTS[name].apply(world, {"machine": "a", "records": 5, "for_us": 100_000})
    assert alone.device.disk.records[: len(records)] == records
    assert world.reached["a disk harmed: rot"] == 0


def test_overlapping_majorities_overlap() -> None:
    for count in range(3, 10):
        names = tuple(f"m{number}" for number in range(count))
        shape = Shape(names, dict.fromkeys(names, "eu-west"), 1_000_000)
        pairs = {tuple(pair) for pair in FAULTS["overlap"].draw(Random(count), shape)["pairs"]}
        seen = {
            name: {name} | {other for other in names if (name, other) not in pairs}
            for name in names
        }
        assert all(2 * len(view) > count for view in seen.values()), (count, seen)
        assert count < 4 or len({frozenset(view) for view in seen.values()}) > 1


def test_two_versions_share_a_cluster_and_the_newer_is_spoken_where_both_can() -> None:
    speak = {"machines": ["a", "b"], "every_us": 300_000, "down_us": 50_000, "speaks": [1, 2]}
    played = Run(_plan(Injection(300_000, "upgrade", speak)))
    assert played.play().passed
    agreed = {
        (machine.name, played.world.network.streams[number].peer_name): interpreter
        for machine in played.world.machines.values()
        for number, interpreter in machine._interpreters.items()
    }
    assert agreed["a", "b"].agreed == agreed["b", "a"].agreed == 2
    assert agreed["a", "b"].packed_out
    assert agreed["b", "a"].packed_in
    assert agreed["a", "c"].agreed == 1
    assert not agreed["a", "c"].packed_out


def test_version_1_cannot_read_what_version_2_says_to_its_like(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """So an upgrade that spoke it to everybody would be seen to fail."""
    monkeypatch.setattr(Interpreter, "agreed", property(lambda _: 2))
    speak = {"machines": ["a"], "every_us": 0, "down_us": 50_000, "speaks": [1, 2]}
    plan = replace(_plan(Injection(300_000, "upgrade", speak)), liveness_us=20_000_000)
    outcome = Run(plan).play()
    assert outcome.verdict == "liveness"
    assert PACKED_CODE < 64
