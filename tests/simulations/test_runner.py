"""Runs: one verdict each, and the same one every time."""

import subprocess
import sys
from dataclasses import replace

import pytest

from crdtmem.effects import Alarm
from simulations.checkers import CHECKERS
from simulations.errors import BadPlan, LivenessViolation, SafetyViolation
from simulations.node import Machine
from simulations.plan import Injection, Place, Plan
from simulations.runner import MOST_EVENTS, Run, run
from simulations.swarm import draw_plan
from simulations.world import Watcher, World

SMALL = Plan(
    seed=3,
    machines=(Place("a", "eu-west"), Place("b", "us-east"), Place("c", "ap-south")),
    workloads=("registers",),
    steps=draw_plan(3).steps[:20],
    injections=(
        Injection(500_000, "crash", {"machine": "a", "silent": True, "for_us": 300_000}),
        Injection(900_000, "isolate", {"pairs": [["b", "a"], ["a", "b"]], "for_us": 700_000}),
    ),
    safety_us=3_000_000,
)


def test_a_run_passes_and_says_what_happened() -> None:
    outcome = run(SMALL)
    assert outcome.passed, outcome.message
    assert outcome.exit_code == 0
    assert outcome.injected == {"crash": 1, "isolate": 1}
    assert sum(outcome.calls.values()) >= 20
    assert outcome.simulated_us > SMALL.safety_us
    assert outcome.events > 100
    assert outcome.bytes > 1_000


@pytest.mark.parametrize("topology", ["mesh", "ring", "star"])
def test_a_plan_runs_the_same_way_twice(topology: str) -> None:
    plan = replace(SMALL, topology=topology)
    first, second = run(plan), run(Plan.from_json(plan.to_json()), keep=True)
    assert first.as_dict() == second.as_dict()
    assert first.trace_hash != run(replace(plan, seed=4)).trace_hash


def test_another_process_with_other_hashes_sees_the_same_trace() -> None:
    code = "from simulations.campaign import run_seed; print(run_seed(5).trace_hash)"
    seen = {
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONHASHSEED": hashseed, "PYTHONPATH": ":".join(sys.path)},
        ).stdout
        for hashseed in ("1", "77")
    }
    assert len(seen) == 1
    assert len(seen.pop().strip()) == 32


class _Objection(Watcher):
    """Objects to the first thing of a kind."""

    def __init__(self, world: World, kind: str, error: Exception) -> None:
        self.world, self.kind, self.error = world, kind, error

    def published(self, machine: Machine) -> None:
        if self.kind == "published" and self.world.elapsed_s > 1:
            raise self.error

    def alarmed(self, machine: Machine, alarm: Alarm) -> None:
        if self.kind == "alarmed":
            raise self.error


@pytest.mark.parametrize(
    ("kind", "error", "verdict", "exit_code"),
    [
        ("published", SafetyViolation("x", "wrong"), "safety", 10),
        ("published", LivenessViolation("x", "late"), "liveness", 11),
        ("published", ZeroDivisionError("oops"), "crash", 12),
        # From within a machine, which takes any exception for a defect of its own.
        ("alarmed", SafetyViolation("x", "wrong"), "safety", 10),
    ],
)
def test_what_is_raised_becomes_the_verdict(
    kind: str, error: Exception, verdict: str, exit_code: int
) -> None:
    failing = Injection(
        1_500_000,
        "failing_disk",
        {"machine": "a", "fails": 1.0, "survives": 0.0, "for_us": 900_000},
    )
    plan = replace(SMALL, injections=(failing,))
    outcome = run(plan, mutate=lambda world: world.watchers.append(_Objection(world, kind, error)))
    assert (outcome.verdict, outcome.exit_code) == (verdict, exit_code)
    assert outcome.checker == ("ZeroDivisionError" if verdict == "crash" else "x")
    assert "wrong" in outcome.message or "late" in outcome.message or "oops" in outcome.message


def test_a_cluster_that_cannot_converge_is_a_liveness_violation() -> None:
    def cut_again_and_again(world: World) -> None:
        def cut() -> None:
            world.network.cut(["a"], ["b", "c"])
            world.after(0.1, cut)

        world.after(1, cut)

    outcome = run(replace(SMALL, liveness_us=5_000_000), mutate=cut_again_and_again)
    assert (outcome.verdict, outcome.checker) == ("liveness", "liveness")


def test_checkers_can_be_chosen() -> None:
    one = next(iter(CHECKERS))
    assert [checker.name for checker in Run(SMALL, checkers=[one]).checkers] == [one]
    assert [checker.name for checker in Run(SMALL).checkers] == list(CHECKERS)
    with pytest.raises(BadPlan):
        Run(replace(SMALL, checkers=("no such",)))


def test_a_run_that_would_never_end_fails() -> None:
    """Something that asks for itself without time passing is no reason to hang."""

    def ask_again_for_ever(world: World) -> None:
        def again() -> None:
            world.kernel.after(0, again)

        world.after(1, again)

    endless = Run(SMALL, mutate=ask_again_for_ever, most_events=20_000).play()
    assert (endless.verdict, endless.checker, endless.exit_code) == ("liveness", "liveness", 11)
    assert "again" in endless.message
    assert "Replay the seed" in endless.message
    assert endless.events == 20_001
    assert run(SMALL).events < MOST_EVENTS // 100
