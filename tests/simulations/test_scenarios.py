"""Every scenario that ships is played, with its own seed, and holds."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import simulations.scenarios
from simulations.errors import BadPlan
from simulations.scenarios import SCENARIOS
from simulations.simulated_stage import SimulatedStage, run_scenario
from simulations.stage import Scenario, Stage, load_scenario

FOLDER = Path(simulations.scenarios.__file__ or "").parent
QUICK = [name for name, scenario in SCENARIOS.items() if not scenario.slow]
LIGHT = ("hot_key", "evicted_returns", "budget_under_partition", "one_way_wan")
"""Played by every run of the tests; the others take too long for that all together."""


def played(name: str) -> None:
    outcome = run_scenario(name)
    assert outcome.passed, f"{outcome.verdict}, {outcome.checker}: {outcome.message}"
    assert outcome.calls["ok"] > 0


@pytest.mark.parametrize("name", LIGHT)
def test_it_holds(name: str) -> None:
    played(name)


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize("name", [name for name in QUICK if name not in LIGHT])
def test_it_holds_and_takes_longer(name: str) -> None:
    played(name)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", [name for name in SCENARIOS if name not in QUICK])
def test_it_holds_at_scale(name: str) -> None:
    played(name)


def test_every_file_is_in_the_table() -> None:
    files = {path.stem for path in FOLDER.glob("*.py")} - {"__init__"}
    assert files == set(SCENARIOS)


@pytest.mark.parametrize("name", SCENARIOS)
def test_it_is_prose(name: str) -> None:
    scenario = SCENARIOS[name]
    assert "What must hold" in " ".join(scenario.about.split())
    assert "\n\n" in scenario.about, "a sentence, then what must hold"
    source = (FOLDER / f"{name}.py").read_text(encoding="utf-8")
    # No scenario reaches past the stage, but for the map of the world.
    imported = {
        node.module for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ImportFrom)
    }
    assert imported <= {"simulations.stage", "simulations.regions"}


def test_a_scenario_and_a_seed_give_one_run() -> None:
    first, again, other = (run_scenario("budget_under_partition", seed) for seed in (7, 7, 8))
    assert first.trace_hash == again.trace_hash
    assert first.as_dict() == again.as_dict()
    assert other.trace_hash != first.trace_hash


# ---------------------------------------------------------------------- verdicts


def scenario_of(play: object) -> Scenario:
    return Scenario("planted", "Planted", "What must hold does not.", play)  # type: ignore[arg-type]


def test_what_is_expected_and_does_not_hold_is_a_safety_violation() -> None:
    def play(stage: Stage) -> None:
        stage.regions("eu-west", "us-east")
        stage.start()
        stage.expect(stage.read("eu-west", "k") == 1, "a key is there that nobody wrote")

    outcome = run_scenario(scenario_of(play))
    assert (outcome.verdict, outcome.checker, outcome.exit_code) == ("safety", "expectation", 10)
    assert "nobody wrote" in outcome.message


def test_what_does_not_come_about_in_time_is_a_liveness_violation() -> None:
    def play(stage: Stage) -> None:
        stage.regions("eu-west", "us-east")
        stage.start()
        stage.cut("eu-west")
        stage.write("eu-west", "k", 1)
        stage.run(1)
        stage.converge(within_s=5)

    outcome = run_scenario(scenario_of(play))
    assert (outcome.verdict, outcome.exit_code) == ("liveness", 11)


def test_a_scenario_that_breaks_is_a_crash() -> None:
    def play(stage: Stage) -> None:
        stage.regions("eu-west")
        stage.start()
        raise ZeroDivisionError

    outcome = run_scenario(scenario_of(play))
    assert (outcome.verdict, outcome.checker) == ("crash", "ZeroDivisionError")


def test_what_is_left_broken_is_mended_and_must_converge() -> None:
    stage = SimulatedStage(3)

    def play(stage: Stage) -> None:
        stage.regions("eu-west", "us-east", "us-west")
        stage.start()
        stage.cut("us-east")
        stage.disk("us-west", full=True)
        stage.write("us-east", "k", "alone")
        stage.run(2)
        stage.crash("eu-west")
        stage.pause("us-west")

    outcome = run_scenario(scenario_of(play), stage=stage)
    assert outcome.passed, outcome.message
    assert all(stage.is_up(machine) for machine in stage.machines)
    assert [stage.read(machine, "k") for machine in stage.machines] == ["alone"] * 3


# ---------------------------------------------------------------------- verbs


def test_verbs_name_machines_by_name_and_by_region() -> None:
    stage = SimulatedStage(1)
    stage.regions("eu-west", "us-east", machines=2)
    stage.start(topology="hubs")
    assert stage.named("eu-west") == ["eu-west-1", "eu-west-2"]
    assert stage.named(["us-east-2", "eu-west"]) == ["us-east-2", "eu-west-1", "eu-west-2"]
    assert stage.others("eu-west") == ["us-east-1", "us-east-2"]
    with pytest.raises(BadPlan, match="nowhere"):
        stage.named("nowhere")


def test_a_write_tells_what_came_of_it() -> None:
    stage = SimulatedStage(1)
    stage.regions("eu-west", "us-east")
    stage.start()
    fine = stage.write("eu-west", "k", 1)
    wrong = stage.do("eu-west", "counter", "n", "increment", -1)
    assert fine.outcome == "waiting"
    stage.run(1)
    assert fine.ok
    assert (wrong.outcome, wrong.code) == ("refused", "invalid_value")
    stage.crash("us-east")
    down = stage.write("us-east", "k", 2)
    assert (down.outcome, down.code) == ("refused", "overloaded")


def test_what_is_wrong_with_links_is_named_and_healed() -> None:
    stage = SimulatedStage(1)
    stage.regions("eu-west", "us-east")
    stage.start()
    link = stage.world.network.link("eu-west", "us-east")
    clean_us = link.latency_us
    stage.links("eu-west", loss=0.5, latency_ms=900, kib_per_s=4)
    assert (link.loss, link.latency_us, link.bytes_per_s) == (0.5, 900_000, 4_096)
    with pytest.raises(BadPlan, match="colour"):
        stage.links("eu-west", colour=3)
    stage.one_way("us-east")
    assert link.cut
    assert not stage.world.network.link("us-east", "eu-west").cut
    stage.heal()
    assert (link.loss, link.latency_us, link.bytes_per_s, link.cut) == (0.0, clean_us, 0, False)


@pytest.mark.parametrize(
    ("play", "words"),
    [
        (lambda stage: stage.fault("earthquake"), "earthquake"),
        (lambda stage: stage.load("nothing"), "nothing"),
        (lambda stage: stage.restore("eu-west"), "no backup"),
        (lambda stage: stage.regions("us-east"), "use add"),
        (lambda stage: (stage.crash("eu-west"), stage.read("eu-west", "k")), "is down"),
    ],
)
def test_what_cannot_be_done_is_refused_with_words(play: object, words: str) -> None:
    stage = SimulatedStage(1)
    stage.regions("eu-west")
    stage.start()
    with pytest.raises(BadPlan, match=words):
        play(stage)  # type: ignore[operator]


# ---------------------------------------------------------------------- files


def test_a_users_own_file_is_read(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        '"""Mine. What must hold: nothing."""\nTITLE = "Mine"\nSEED = 11\n'
        'def play(stage):\n    stage.regions("eu-west")\n    stage.start()\n'
    )
    scenario = load_scenario(str(file))
    assert (scenario.name, scenario.title, scenario.seed) == ("mine", "Mine", 11)
    assert run_scenario(str(file)).seed == 11
    assert run_scenario(str(file), 12).seed == 12


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("TITLE = 'x'\ndef play(stage): ...", "docstring"),
        ("'''About.'''\ndef play(stage): ...", "TITLE"),
        ("'''About.'''\nTITLE = 'x'", "play"),
        ("'''About.'''\nimport nothing_of_that_name", "nothing_of_that_name"),
        ("def", "cannot be read"),
    ],
)
def test_a_file_that_is_no_scenario_says_why(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "mine.py"
    file.write_text(text)
    with pytest.raises(BadPlan, match=words):
        load_scenario(str(file))


def test_an_unknown_scenario_is_refused() -> None:
    with pytest.raises(BadPlan, match="region_loss"):
        load_scenario("no_such_scenario")
