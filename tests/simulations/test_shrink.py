"""Shrinking: smaller, and the same failure."""

from dataclasses import replace

import pytest

from simulations.errors import BadPlan, SafetyViolation
from simulations.node import Machine
from simulations.plan import Injection, Plan
from simulations.runner import Outcome, run
from simulations.shrink import fails_alike, shrink, size_of
from simulations.swarm import draw_plan
from simulations.world import Watcher, World

PLAN = next(
    plan
    for plan in map(draw_plan, range(100))
    if len(plan.injections) > 5 and len(plan.steps) > 80 and len(plan.machines) > 3
)


def test_everything_that_does_not_matter_is_left_out() -> None:
    wanted = {(PLAN.steps[index].at_us, PLAN.steps[index].client) for index in (11, 70)}

    def runner(plan: Plan) -> Outcome:
        outcome = Outcome(plan.seed)
        there = {(step.at_us, step.client) for step in plan.steps}
        faults = {item.fault for item in plan.injections}
        if wanted <= there and PLAN.injections[3].fault in faults:
            outcome.verdict, outcome.checker = "safety", "pretended"
        elif not there:
            outcome.verdict, outcome.checker = "safety", "another"
        return outcome

    sizes: list[int] = []
    small, outcome = shrink(PLAN, runner=runner, tell=lambda plan, _: sizes.append(len(plan.steps)))
    assert fails_alike(outcome, runner(small))
    assert {(step.at_us, step.client) for step in small.steps} == wanted
    assert [item.fault for item in small.injections] == [PLAN.injections[3].fault]
    assert len(small.machines) == 1
    assert small.config == {}
    assert size_of(small)["safety_us"] <= PLAN.safety_us
    assert sizes == sorted(sizes, reverse=True)


class _Limit(Watcher):
    """Objects to a machine's second life."""

    def __init__(self, world: World) -> None:
        self.world = world

    def started(self, machine: Machine) -> None:
        if machine.lives > 1 and machine.name == PLAN.machines[0].name:
            raise SafetyViolation("lives", "two lives")


def test_a_real_failure_is_reduced_to_the_fault_behind_it() -> None:
    crash = {"machine": PLAN.machines[0].name, "silent": False, "for_us": 400_000}
    plan = replace(
        PLAN,
        safety_us=3_000_000,
        steps=PLAN.steps[:15],
        injections=(
            Injection(200_000, "skew", {"machine": PLAN.machines[1].name, "by_us": 5}),
            Injection(900_000, "crash", crash),
            Injection(1_000_000, "drift", {"machine": PLAN.machines[1].name, "ppm": 5}),
        ),
    )

    def runner(candidate: Plan) -> Outcome:
        return run(candidate, mutate=lambda world: world.watchers.append(_Limit(world)))

    small, outcome = shrink(plan, runner=runner)
    assert outcome.checker == "lives"
    assert [item.fault for item in small.injections] == ["crash"]
    assert not small.steps
    assert small.safety_us < plan.safety_us


def test_it_ends_when_it_is_told_to_and_refuses_what_does_not_fail() -> None:
    def failing(plan: Plan) -> Outcome:
        return Outcome(plan.seed, verdict="crash", checker="x")

    small, _ = shrink(PLAN, runner=failing, go_on=lambda: False)
    assert small == PLAN
    with pytest.raises(BadPlan):
        shrink(PLAN, runner=lambda plan: Outcome(plan.seed))
