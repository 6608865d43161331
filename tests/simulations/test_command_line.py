"""The command line: every command, its JSON, its exit codes."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from simulations import __main__ as module
from simulations.__main__ import main
from simulations.checkers import CHECKERS
from simulations.faults import FAULTS
from simulations.plan import Plan
from simulations.runner import Outcome
from simulations.shrink import shrink as shrink_plan
from simulations.sometimes import SOMETIMES
from simulations.swarm import draw_plan
from simulations.workloads import WORKLOADS


def _call(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments), catch_exceptions=False)


def _json(*arguments: str, exit_code: int = 0) -> Any:
    result = _call(*arguments, "--json")
    assert result.exit_code == exit_code, result.output
    return json.loads(result.stdout)


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    plan = draw_plan(4)
    path = tmp_path / "trace.json"
    small = replace(plan, steps=plan.steps[:10], injections=(), safety_us=2_000_000)
    path.write_text(small.to_json())
    return path


def test_list_shows_every_table() -> None:
    found = _json("list")
    tables = (("faults", FAULTS), ("workloads", WORKLOADS), ("checkers", CHECKERS))
    for name, table in (*tables, ("sometimes", SOMETIMES)):
        assert found[name].keys() == table.keys()
        assert all(found[name].values())
    assert all(name in _call("list").output for name in FAULTS)


def test_run_repeats_a_seed_and_can_save_its_trace(tmp_path: Path) -> None:
    path = tmp_path / "saved.json"
    first = _json("run", "--seed", "5", "--save", str(path))
    assert first["trace_hash"] == _json("replay", str(path))["trace_hash"]
    assert Plan.from_json(path.read_text()).to_json() == draw_plan(5).to_json()
    assert first["repeat"] == "python -m simulations run --seed 5"
    assert "seed 5: pass" in _call("run", "--seed", "5").output


def test_replay_of_a_part_shows_what_happened_last(trace: Path) -> None:
    result = _call("replay", str(trace), "--until", "0.5")
    assert result.exit_code == 0
    assert "bytes" in result.output
    assert _json("replay", str(trace), "--until", "0.5")["simulated_us"] < 20_000_000


@pytest.mark.parametrize(
    ("verdict", "exit_code"), [("safety", 10), ("liveness", 11), ("crash", 12)]
)
def test_a_failure_ends_with_its_code_and_how_to_repeat_it(
    verdict: str, exit_code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = Outcome(9, verdict=verdict, checker="x", message="was wrong")
    monkeypatch.setattr(module, "run", lambda _: failed)
    result = _call("run", "--seed", "9")
    assert result.exit_code == exit_code
    assert "was wrong" in result.output
    assert "python -m simulations run --seed 9" in result.output
    assert _json("run", "--seed", "9", exit_code=exit_code)["verdict"] == verdict


def test_campaign_prints_one_object() -> None:
    found = _json("campaign", "--seeds", "4..5", "--jobs", "1", "--twice")
    named = {"runs", "failures", "simulated_seconds", "wall_seconds", "sometimes"}
    assert named <= found.keys()
    assert found["runs"] == 2


def test_a_campaign_ends_what_takes_longer_than_it_may() -> None:
    found = _json("campaign", "--seeds", "4", "--seed-seconds", "0.01", exit_code=14)
    (failure,) = found["failures"]
    assert (failure["verdict"], failure["seed"]) == ("timeout", 4)
    assert _call("campaign", "--seed-seconds", "0").exit_code == 2


@pytest.mark.parametrize("seeds", ["", "x", "5..4", "1..y", "-3"])
def test_seeds_that_are_none_are_refused(seeds: str) -> None:
    assert _call("campaign", "--seeds", seeds).exit_code == 2


def test_shrink_writes_a_smaller_trace(trace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(plan: Plan) -> Outcome:
        verdict = "safety" if plan.steps else "pass"
        return Outcome(plan.seed, verdict=verdict, checker="x")

    def shrunk(plan: Plan, **options: Any) -> Any:
        return shrink_plan(plan, runner=failing, **options)

    monkeypatch.setattr(module, "shrink_plan", shrunk)
    found = _json("shrink", str(trace))
    assert found["to"]["steps"] == 1
    assert found["from"]["steps"] == 10
    small = Plan.from_json(Path(found["trace"]).read_text())
    assert len(small.steps) == 1


def test_shrink_refuses_a_trace_that_passes(trace: Path) -> None:
    assert _call("shrink", str(trace)).exit_code == 2


@pytest.mark.parametrize("text", ["", "{}", "no json"])
def test_what_is_no_trace_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "broken.json"
    path.write_text(text)
    for command in ("replay", "shrink"):
        assert _call(command, str(path)).exit_code == 2
    assert _call("replay", str(tmp_path / "absent.json")).exit_code == 2


def test_a_scenario_is_drawn_and_its_history_written(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        '''"""Two regions; what one writes the other reads."""

TITLE = "Mine"


def play(stage):
    stage.regions("eu-west", "us-east")
    stage.start()
    stage.load("registers", rate_per_s=10, for_s=2)
    stage.run(3)
    stage.converge(within_s=20)
'''
    )
    picture, history = tmp_path / "mine.html", tmp_path / "mine.edn"
    options = ("--seed", "5", "--picture", str(picture), "--elle", str(history))
    first = _json("run", str(file), *options)
    assert first["verdict"] == "pass"
    assert first["trace_hash"] == _json("run", str(file), "--seed", "5")["trace_hash"]
    assert "<svg" in picture.read_text()
    assert any(":invoke" in path.read_text() for path in tmp_path.glob("mine*.edn"))


def test_a_scenario_that_there_is_not_is_refused() -> None:
    assert _call("run", "no_such_scenario").exit_code == 2
    assert _call("run", "--real").exit_code == 2
