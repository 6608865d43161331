"""Swarms: a seed means one plan, and different seeds mean different worlds."""

from collections import Counter
from dataclasses import replace
from random import Random

import pytest

from simulations.checkers import CHECKERS
from simulations.faults import FAULTS
from simulations.plan import Plan, world_config
from simulations.steps import Step
from simulations.swarm import draw_plan
from simulations.workloads import WORKLOADS

RECORDED = [name for name, workload in WORKLOADS.items() if workload.needs]
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
    assert workloads.keys() - set(RECORDED) == drawable
    assert {plan.topology for plan in plans} == {"mesh", "ring", "star"}
    assert {len(plan.machines) for plan in plans} >= {2, 3, 4, 5, 6, 7}
    assert any(not plan.injections for plan in plans)


def test_every_drawn_setting_is_one() -> None:
    for seed in SEEDS:
        world_config(draw_plan(seed).config)


def _recorded_steps(
    _: object, random: Random, clients: int, machines: int, duration_us: int, rate_per_s: float
) -> list[Step]:
    return [Step(random.randrange(duration_us), 0, 0, "read", {}) for _ in range(5)]


def test_recordings_add_steps_and_change_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a seed means depends on a recording's presence only where the plan names it."""
    for name in RECORDED:
        monkeypatch.setattr(type(WORKLOADS[name]), "available", False)
    seeds = SEEDS[:150]
    without = [draw_plan(seed) for seed in seeds]
    for name in RECORDED:
        monkeypatch.setattr(type(WORKLOADS[name]), "available", True)
        monkeypatch.setattr(type(WORKLOADS[name]), "steps", _recorded_steps)
    named: Counter[str] = Counter()
    for seed, before in zip(seeds, without, strict=True):
        plan = draw_plan(seed)
        recorded = [name for name in plan.workloads if name in RECORDED]
        named.update(recorded)
        if not recorded:
            assert plan == before
            continue
        first = 1 + max((step.client for step in before.steps), default=-1)
        kept = tuple(step for step in plan.steps if step.client < first)
        assert replace(plan, workloads=before.workloads, steps=kept) == before
        assert len(plan.steps) == len(kept) + 5
    assert named.keys() == set(RECORDED)
    assert len(seeds) / 16 < named.total() < len(seeds) / 4
