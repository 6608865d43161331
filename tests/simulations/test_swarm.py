"""Swarms: a seed means one plan, and different seeds mean different worlds."""

from collections import Counter

from simulations.checkers import CHECKERS
from simulations.faults import FAULTS
from simulations.plan import Plan, world_config
from simulations.swarm import draw_plan
from simulations.workloads import WORKLOADS

SEEDS = range(300)


def test_the_same_seed_draws_the_same_plan() -> None:
    for seed in (1, 99):
        assert draw_plan(seed).to_json() == draw_plan(seed).to_json()
        assert Plan.from_json(draw_plan(seed).to_json()).to_json() == draw_plan(seed).to_json()


def test_every_plan_can_be_run_and_together_they_use_everything() -> None:
    plans = [draw_plan(seed) for seed in SEEDS]
    known = {"fault": FAULTS, "workload": WORKLOADS, "checker": CHECKERS}
    for plan in plans:
        plan.check(known)  # type: ignore[arg-type]
        assert all(0 <= step.at_us <= plan.safety_us for step in plan.steps)
        assert all(0 <= item.at_us <= plan.safety_us for item in plan.injections)
        assert list(plan.steps) == sorted(plan.steps, key=lambda step: step.at_us)
    faults = Counter(item.fault for plan in plans for item in plan.injections)
    workloads = Counter(name for plan in plans for name in plan.workloads)
    drawable = {name for name, workload in WORKLOADS.items() if not workload.needs}
    assert faults.keys() == FAULTS.keys()
    assert workloads.keys() == drawable
    assert {plan.topology for plan in plans} == {"mesh", "ring", "star"}
    assert {len(plan.machines) for plan in plans} >= {2, 3, 4, 5, 6, 7}
    assert any(not plan.injections for plan in plans)


def test_every_drawn_setting_is_one() -> None:
    for seed in SEEDS:
        world_config(draw_plan(seed).config)
