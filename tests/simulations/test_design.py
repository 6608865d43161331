"""The guided tour is held against the code: its tables, its commands, its example."""

from __future__ import annotations

import re
import runpy
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import simulations
from crdtmem.crdt import DATATYPES
from simulations.__main__ import main
from simulations.checkers import CHECKERS
from simulations.errors import (
    BadPlan,
    LivenessViolation,
    MachineFailed,
    NeverReached,
    SafetyViolation,
    TimedOut,
)
from simulations.faults import FAULTS
from simulations.scenarios import SCENARIOS
from simulations.simulated_stage import run_scenario
from simulations.workloads import WORKLOADS

assert simulations.__file__ is not None
FOLDER = Path(simulations.__file__).parent
DESIGN = (FOLDER / "DESIGN.md").read_text(encoding="utf-8")


def rows_of(heading: str) -> Iterator[list[str]]:
    """Yield the rows of the first table below a heading, without its head."""
    section = DESIGN.split(f"\n{heading}\n", 1)[1].split("\n## ", 1)[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    for line in lines[2:]:
        yield [cell.strip().strip("`") for cell in line.strip("|").split(" | ")]


@pytest.mark.parametrize(
    ("heading", "expected"),
    [
        (
            "## The faults",
            {name: [fault.kind, " ".join(fault.about.split())] for name, fault in FAULTS.items()},
        ),
        (
            "## The checkers",
            {name: [" ".join(checker.about.split())] for name, checker in CHECKERS.items()},
        ),
        (
            "## The workloads",
            {name: [" ".join(item.about.split())] for name, item in WORKLOADS.items()},
        ),
        (
            "## The scenarios",
            {
                name: [item.title, f"no: {item.simulator_only}" if item.simulator_only else "yes"]
                for name, item in SCENARIOS.items()
            },
        ),
    ],
)
def test_its_tables_are_the_codes_tables(heading: str, expected: dict[str, list[str]]) -> None:
    assert {name: rest for name, *rest in rows_of(heading)} == expected


def test_every_datatype_says_what_concurrent_operations_lead_to() -> None:
    named = {row[0] for row in rows_of("### What concurrent operations lead to")}
    assert set(DATATYPES) <= named


def test_every_axiom_names_checkers_that_exist() -> None:
    table = DESIGN.split("| | axiom | checked by |", 1)[1].split("\n\n", 1)[0]
    rows = table.splitlines()[2:]
    assert len(rows) == 10
    for row in rows:
        named = re.findall(r"`(\w+)`", row.rsplit("|", 2)[1])
        assert named, row
        assert set(named) <= set(CHECKERS), row


def test_the_commands_that_it_shows_exist() -> None:
    shown = re.findall(r"python -m simulations (\w+)", DESIGN)
    assert set(shown) == set(main.commands)
    for line in re.findall(r"python -m simulations (.*)", DESIGN):
        command = main.commands[line.split()[0]]
        options = {
            name
            for parameter in command.params
            if isinstance(parameter, click.Option)
            for name in parameter.opts
        }
        assert set(re.findall(r"(--[a-z]+)", line)) <= options, line


def test_its_exit_codes_are_those_of_the_errors() -> None:
    words = " ".join(DESIGN.split())
    for kind, phrase in (
        (BadPlan, "{} cannot be run"),
        (SafetyViolation, "{} a promise was broken"),
        (LivenessViolation, "{} something did not happen in time"),
        (MachineFailed, "{} production code crashed"),
        (NeverReached, "{} a campaign missed"),
        (TimedOut, "{} a campaign ended a seed"),
    ):
        assert phrase.format(kind.exit_code) in words


def test_the_modules_that_it_names_exist() -> None:
    for name in re.findall(r" `(\w+/)`", DESIGN):
        assert (FOLDER / name).is_dir(), name
    for name in re.findall(r"`(\w+\.py)`", DESIGN):
        assert (FOLDER / name).is_file(), name


def test_its_example_is_a_scenario_that_holds(tmp_path: Path) -> None:
    example = re.findall(r"```python\n(.*?)```", DESIGN, re.DOTALL)[0]
    file = tmp_path / "minute_alone.py"
    file.write_text(example, encoding="utf-8")
    assert callable(runpy.run_path(str(file))["play"])
    outcome = run_scenario(str(file))
    assert outcome.passed, outcome.message
    assert outcome.calls["ok"] > 100
