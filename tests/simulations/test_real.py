"""The same scenario files against real processes, with the same verdict."""

from __future__ import annotations

from pathlib import Path

import pytest

from simulations.errors import BadPlan
from simulations.real import RealStage, run_real
from simulations.scenarios import SCENARIOS
from simulations.simulated_stage import run_scenario
from simulations.stage import Scenario, Stage


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.parametrize("name", ["region_loss", "hot_key", "slow_peer", "evicted_returns"])
def test_it_holds_in_both_worlds(name: str) -> None:
    simulated, real = run_scenario(name), run_real(name)
    assert (simulated.verdict, real.verdict) == ("pass", "pass"), real.message
    assert real.calls["ok"] > 100


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_what_does_not_hold_does_not_hold_with_processes_either() -> None:
    def play(stage: Stage) -> None:
        stage.regions("eu-west", "us-east")
        stage.start()
        stage.cut("us-east")
        stage.write("eu-west", "k", 1)
        stage.run(10)
        stage.expect(stage.read("us-east", "k") == 1, "a cut link carries a write")

    planted = Scenario("planted", "Planted", "What must hold does not.", play)
    simulated, real = run_scenario(planted), run_real(planted)
    assert (simulated.verdict, simulated.checker) == (real.verdict, real.checker)
    assert real.verdict == "safety"


@pytest.mark.parametrize("name", [n for n, s in SCENARIOS.items() if s.simulator_only])
def test_the_others_say_why_not(name: str) -> None:
    with pytest.raises(BadPlan, match="for the simulator only"):
        run_real(name)


def test_what_processes_cannot_do_is_refused_and_nothing_is_left() -> None:
    with RealStage(1, 0.1, lambda _: None) as stage:
        folder: Path = stage._folder
        stage.regions("eu-west")
        for verb in (stage.mend_disks, lambda: stage.clock("eu-west", jump_s=1)):
            with pytest.raises(BadPlan, match="simulator"):
                verb()
        assert folder.exists()
    assert not folder.exists()
