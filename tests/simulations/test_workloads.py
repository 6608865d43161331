from __future__ import annotations

import json
from random import Random

import pytest

from crdtmem.crdt import DATATYPES
from simulations.client import STEPS, Clients
from simulations.history import History
from simulations.steps import Step
from simulations.workloads import WORKLOADS, replays
from tests.capabilities import needs
from tests.simulations.ground import world_of

DRAWN = [name for name, workload in WORKLOADS.items() if not workload.needs]
RECORDED = [name for name, workload in WORKLOADS.items() if workload.needs]
SECOND = 1_000_000


def _steps(name: str, seed: int = 7, rate_per_s: float = 20.0) -> list[Step]:
    return WORKLOADS[name].steps(Random(seed), 4, 3, 10 * SECOND, rate_per_s)


@pytest.mark.parametrize("name", DRAWN)
def test_a_workload_is_drawn_from_its_seed_as_plain_data(name: str) -> None:
    steps = _steps(name)
    assert steps == _steps(name)
    assert steps != _steps(name, seed=8)
    assert [step.at_us for step in steps] == sorted(step.at_us for step in steps)
    assert 100 < len(steps) < 300
    for step in steps:
        assert step.kind in STEPS
        assert 0 <= step.client < 4
        assert 0 <= step.machine < 3
        assert json.loads(json.dumps(dict(step.arguments))) == dict(step.arguments)


@pytest.mark.parametrize("name", DRAWN)
def test_a_workload_does_what_it_is_for_on_a_node(name: str) -> None:
    world = world_of(1, start=False)
    history = History(world)
    clients = Clients(world, history)
    world.start()
    world.run(1)
    clients.schedule(_steps(name))
    world.run_until(lambda: clients.idle and world.elapsed_s > 12, "end of it", within_s=60)
    outcomes = [call.outcome for call in history.calls]
    assert outcomes.count("ok") > 0.4 * len(outcomes)
    # What is refused is refused for what it is, never for a step that makes no sense.
    assert not {call.code for call in history.calls} & {"unknown_name", "error", "local"}


def test_together_they_use_every_datatype_and_every_kind_of_step() -> None:
    kinds: set[str] = set()
    datatypes: set[str] = set()
    for name in DRAWN:
        for step in _steps(name, rate_per_s=50):
            kinds.add(step.kind)
            datatypes.update(row[1] for row in step.arguments.get("operations", ()))
            if step.kind == "edit":
                datatypes.add("document")
    assert kinds == STEPS.keys() - {"update"}
    assert datatypes == DATATYPES.keys()


@pytest.mark.needs_data
@pytest.mark.parametrize("name", RECORDED)
def test_recordings_become_steps(name: str) -> None:
    needs("data")
    steps = _steps(name)
    assert len(steps) > 50
    assert steps == _steps(name)
    for step in steps:
        assert json.loads(json.dumps(dict(step.arguments))) == dict(step.arguments)


def test_an_absent_recording_is_said_loudly(
    monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    monkeypatch.setattr(replays, "DATA", tmp_path)
    for name in RECORDED:
        with pytest.warns(UserWarning, match="absent"):
            assert _steps(name) == []
