"""Plans: written down, read back, checked."""

import json
from collections.abc import Iterable
from dataclasses import replace

import pytest

from simulations.checkers import CHECKERS
from simulations.errors import BadPlan
from simulations.faults import FAULTS
from simulations.plan import TOPOLOGIES, Injection, Place, Plan, build_world, world_config
from simulations.steps import Step
from simulations.swarm import draw_plan
from simulations.workloads import WORKLOADS

KNOWN: dict[str, Iterable[str]] = {"fault": FAULTS, "workload": WORKLOADS, "checker": CHECKERS}

PLAN = Plan(
    seed=7,
    machines=(Place("a", "eu-west"), Place("b", "us-east"), Place("c", "us-east")),
    config={"limits.siblings": 3, "sync.digest_us": 1_000_000, "linger_us": 5},
    workloads=("registers",),
    steps=(Step(5, 0, 1, "read", {"space": ["s"], "datatype": "register", "key": "k"}),),
    injections=(Injection(9, "crash", {"machine": "a", "silent": True, "for_us": 10}),),
)


@pytest.mark.parametrize("plan", [PLAN, replace(PLAN, steps=(), injections=()), draw_plan(12)])
def test_a_plan_survives_being_written_and_read(plan: Plan) -> None:
    text = plan.to_json()
    again = Plan.from_json(text)
    assert again.to_json() == text
    assert json.loads(text)["seed"] == plan.seed
    assert [step.at_us for step in again.steps] == [step.at_us for step in plan.steps]
    assert again.injections == tuple(
        replace(item, arguments=json.loads(json.dumps(dict(item.arguments))))
        for item in plan.injections
    )


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"format": 99}', PLAN.to_json().replace('"seed"', '"sead"'), "null"],
)
def test_what_is_no_plan_is_refused_with_words(text: str) -> None:
    with pytest.raises(BadPlan):
        Plan.from_json(text)


@pytest.mark.parametrize(
    "plan",
    [
        replace(PLAN, machines=()),
        replace(PLAN, machines=(Place("a", "atlantis"),)),
        replace(PLAN, machines=(Place("a", "eu-west"), Place("a", "us-east"))),
        replace(PLAN, topology="cube"),
        replace(PLAN, workloads=("no such",)),
        replace(PLAN, checkers=("no such",)),
        replace(PLAN, injections=(Injection(0, "no such"),)),
        replace(PLAN, config={"no_such": 1}),
        replace(PLAN, config={"limits.no_such": 1}),
        replace(PLAN, config={"other.linger_us": 1}),
        replace(PLAN, config={"limits.batch_bytes": 1}),
    ],
)
def test_a_plan_that_cannot_be_run_is_refused(plan: Plan) -> None:
    PLAN.check(KNOWN)
    with pytest.raises(BadPlan):
        plan.check(KNOWN)


def test_overrides_reach_the_configuration() -> None:
    config = world_config(PLAN.config)
    assert (config.linger_us, config.limits.siblings, config.sync.digest_us) == (5, 3, 1_000_000)
    assert config.limits.value_bytes == world_config({}).limits.value_bytes


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_every_machine_of_every_topology_is_reached(topology: str) -> None:
    world = build_world(replace(PLAN, topology=topology))
    known = {name: set(machine.peers) for name, machine in world.machines.items()}
    reached, pending = {"a"}, ["a"]
    while pending:
        here = pending.pop()
        near = known[here] | {name for name in known if here in known[name]}
        pending += near - reached
        reached |= near
    assert reached == {"a", "b", "c"}
    assert topology == "mesh" or not known["a"]
