"""Campaigns: what they count, what they must have reached, how they end."""

import ast
import os
import re
import signal
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from simulations import campaign as module
from simulations.campaign import Summary, run_campaign, run_seed
from simulations.errors import LivenessViolation, MachineFailed, TimedOut
from simulations.faults import FAULTS
from simulations.operators import found_anew
from simulations.plan import Injection
from simulations.runner import Outcome, run
from simulations.sometimes import LONG, SELDOM, SOMETIMES, SURE, Coverage
from simulations.swarm import draw_plan
from tests.simulations.ground import admitted, put_and_wait, world_of
from tests.simulations.worlds import Recipe

SOURCES = Path(module.__file__).parent


def test_a_campaign_counts_what_its_runs_did() -> None:
    seen: list[int] = []
    summary = run_campaign(range(4, 6), jobs=1, progress=lambda so_far: seen.append(so_far.runs))
    assert seen[-1] == 2
    found = summary.as_dict()
    assert (found["runs"], found["failures"], found["seeds"]) == (2, [], [4, 5])
    assert summary.exit_code == 0
    alone = [run_seed(seed) for seed in range(4, 6)]
    assert summary.simulated_us == sum(outcome.simulated_us for outcome in alone)
    assert summary.faults == sum((Counter(outcome.injected) for outcome in alone), Counter())


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_processes_change_nothing() -> None:
    here, there = run_campaign(range(8), jobs=1), run_campaign(range(8), jobs=2, twice=True)
    changing = {"wall_seconds", "twice"}
    assert {name: value for name, value in here.as_dict().items() if name not in changing} == {
        name: value for name, value in there.as_dict().items() if name not in changing
    }


ENDLESS = 5


def endless_once(seed: int, *, twice: bool) -> Outcome:
    """Run one seed's plan in a world in which an event happens that never ends."""

    def stand_still() -> None:
        while True:
            pass

    if seed != ENDLESS:
        return Outcome(seed)
    return run(draw_plan(seed), mutate=lambda world: world.after(1.0, stand_still))


def killed_once(seed: int, *, twice: bool) -> Outcome:
    """Run nothing; the process of one seed is killed, as by a system that has no memory left."""
    if seed == ENDLESS:
        os.kill(os.getpid(), signal.SIGKILL)
    return Outcome(seed)


def test_a_world_without_end_fails_its_seed_and_holds_up_no_other() -> None:
    summary = run_campaign(range(4, 7), jobs=1, seed_s=5.0, work=endless_once)
    assert summary.runs == 3
    found = summary.as_dict()["failures"]
    assert [(one["seed"], one["verdict"], one["checker"]) for one in found] == [
        (ENDLESS, "timeout", "wall clock")
    ]
    assert "5 s" in found[0]["message"]
    assert found[0]["repeat"] == f"python -m simulations run --seed {ENDLESS}"
    assert summary.exit_code == TimedOut.exit_code == 14


def test_a_worker_that_dies_fails_the_seed_that_it_had() -> None:
    summary = run_campaign(range(4, 7), jobs=2, work=killed_once)
    found = summary.as_dict()["failures"]
    assert [(one["seed"], one["verdict"]) for one in found] == [(ENDLESS, "crash")]
    assert "-9" in found[0]["message"]
    assert (summary.runs, summary.exit_code) == (3, MachineFailed.exit_code)


def test_a_broken_promise_is_graver_than_a_seed_that_took_too_long() -> None:
    summary = Summary(1, 2)
    summary.add(Outcome(1, verdict="timeout"))
    summary.add(Outcome(2, verdict="liveness"))
    assert summary.exit_code == LivenessViolation.exit_code


def test_a_seed_that_does_not_repeat_itself_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    hashes = iter(("one", "two"))

    def unsteady(_: object) -> Outcome:
        return Outcome(5, trace_hash=next(hashes))

    monkeypatch.setattr(module, "run", unsteady)
    outcome = run_seed(5, twice=True)
    assert (outcome.verdict, outcome.checker) == ("crash", "determinism")


def test_failures_are_listed_with_the_command_that_repeats_them() -> None:
    summary = Summary(1, 2)
    summary.add(Outcome(2, verdict="liveness", checker="x", message="late"))
    summary.add(Outcome(1, verdict="safety", checker="y", message="wrong"))
    found = summary.as_dict()["failures"]
    assert [failure["seed"] for failure in found] == [1, 2]
    assert found[0]["repeat"] == "python -m simulations run --seed 1"
    assert summary.exit_code == 10


def test_what_was_never_reached_fails_a_campaign_that_was_long_enough() -> None:
    asked = {name for name, rare in SOMETIMES.items() if rare.one_in != SELDOM}
    nothing = Coverage()
    nothing.add({}, dict.fromkeys(FAULTS, 1), 10)
    assert nothing.missed == []
    nothing.add({}, dict.fromkeys(FAULTS, 1), LONG)
    assert set(nothing.missed) == asked
    nothing.add(dict.fromkeys(asked, 1), {})
    assert nothing.missed == []
    faultless = Coverage()
    faultless.add(dict.fromkeys(SOMETIMES, 1), {}, LONG)
    assert faultless.missed == [f"the fault {name}" for name in FAULTS]
    summary = Summary(1, 1)
    summary.coverage = faultless
    assert summary.exit_code == 13


def test_a_path_is_asked_for_only_after_enough_opportunities() -> None:
    """Bad luck alone never fails a campaign: what is asked for is missed once in e^20 times."""
    rare = SOMETIMES["a torn write"]
    coverage = Coverage()
    coverage.add({}, {"pause": 1}, SURE * rare.one_in)
    coverage.add({}, {"torn_write": 2}, SURE * rare.one_in - 1)
    assert "a torn write" not in coverage.missed
    coverage.add({}, {"torn_write": 1})
    assert "a torn write" in coverage.missed


def test_long_campaigns_have_enough_opportunities_to_ask_for_everything() -> None:
    """Otherwise a path could die, and no campaign would ever say so."""
    drawn = Coverage()
    seeds = range(300)
    for seed in seeds:
        drawn.add({}, {injection.fault: 1 for injection in draw_plan(seed).injections})
    for name, rare in SOMETIMES.items():
        expected = drawn.opportunities[name] * LONG / len(seeds)
        assert expected > 1.2 * SURE * rare.one_in, name
    for name in FAULTS:
        # One run in fifteen at the least, by far: see what is asked of faults.
        assert drawn.struck[name] * 20 > len(seeds), name


_PAUSED = {"machine": "eu-west", "for_us": 16_000_000}
_HELD = {"pairs": [["eu-west", "us-east"], ["us-east", "eu-west"]], "for_us": 7_000_000}


@pytest.mark.parametrize(
    ("path", "drill", "fault", "arguments"),
    [
        (
            "a client gave up waiting",
            Recipe(("registers",), machines=2, safety_s=17.0, rate_per_s=10.0),
            "pause",
            _PAUSED,
        ),
        (
            "a stream dropped for what its peer left untaken",
            Recipe(
                ("large",),
                machines=2,
                safety_s=8.0,
                rate_per_s=80.0,
                config={"buffer_bytes": 150_000},
            ),
            "isolate",
            _HELD,
        ),
    ],
)
def test_what_is_too_seldom_for_campaigns_has_a_drill(
    path: str, drill: Recipe, fault: str, arguments: dict[str, Any]
) -> None:
    plan = replace(drill(1), injections=(Injection(500_000, fault, arguments),))
    outcome = run(plan)
    assert outcome.passed, outcome.message
    assert outcome.reached[path]


def test_a_cluster_of_which_no_member_is_left_is_founded_anew() -> None:
    world = world_of(2)
    old = {name: machine.device.disk.copy() for name, machine in world.machines.items()}
    for name, machine in world.machines.items():
        put_and_wait(machine, [(name, "later")])
    for name, machine in world.machines.items():
        machine.stop()
        machine.device.disk.restore(old[name])
    world.start()
    world.run(5)
    assert not any(machine.replica.writable for machine in world.up())
    found_anew(world)
    world.run_until(lambda: admitted(world), "cluster that may write", within_s=60)
    assert world.reached["a cluster founded anew"] == 1


def test_every_seldom_path_has_a_test_of_its_own() -> None:
    here = Path(__file__).read_text(encoding="utf-8")
    for name, rare in SOMETIMES.items():
        if rare.one_in == SELDOM:
            assert here.count(f'"{name}"') >= 1, name


def _said() -> Iterator[str]:
    """Yield, as patterns, what the code says to happen sometimes."""
    for path in sorted(SOURCES.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            if node.func.attr == "sometimes":
                for part in ast.walk(node.args[0]):
                    if isinstance(part, ast.JoinedStr):
                        pieces = [
                            re.escape(str(piece.value)) if isinstance(piece, ast.Constant) else ".+"
                            for piece in part.values
                        ]
                        yield "".join(pieces)
                        break
                    if isinstance(part, ast.Constant) and isinstance(part.value, str):
                        yield re.escape(part.value)


def test_the_table_of_rare_paths_is_what_the_code_says() -> None:
    patterns = set(_said())
    for pattern in patterns:
        assert any(re.fullmatch(pattern, name) for name in SOMETIMES), pattern
    for name in SOMETIMES:
        assert any(re.fullmatch(pattern, name) for pattern in patterns), name
