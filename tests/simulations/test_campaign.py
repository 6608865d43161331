"""Campaigns: what they count, what they must have reached, how they end."""

import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from simulations import campaign as module
from simulations.campaign import Summary, run_campaign, run_seed
from simulations.faults import FAULTS
from simulations.runner import Outcome
from simulations.sometimes import SOMETIMES, missed

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
def test_processes_change_nothing() -> None:
    here, there = run_campaign(range(8), jobs=1), run_campaign(range(8), jobs=2, twice=True)
    changing = {"wall_seconds", "twice"}
    assert {name: value for name, value in here.as_dict().items() if name not in changing} == {
        name: value for name, value in there.as_dict().items() if name not in changing
    }


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
    everything = dict.fromkeys(SOMETIMES, 1)
    assert missed(10_000, everything, dict.fromkeys(FAULTS, 1)) == []
    assert set(missed(10_000, {}, {})) == {*SOMETIMES, *(f"the fault {name}" for name in FAULTS)}
    assert missed(10, {}, {}) == []
    summary = Summary(1, 1)
    summary.runs = 10_000
    assert summary.exit_code == 13


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
