"""Pictures, reports and histories for Elle: made from runs, and true to them."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from click.testing import CliRunner

from simulations.__main__ import main
from simulations.elle import Operation, histories, operations, to_edn, to_json
from simulations.kernel import EPOCH_US
from simulations.picture import draw, picture_of
from simulations.report import AXES, COLUMNS, Axis, measure, write_report
from simulations.simulated_stage import SimulatedStage, run_scenario
from simulations.stage import Scenario, Stage
from simulations.trace import Record


def play(stage: Stage) -> None:
    stage.regions("eu-west", "us-east")
    stage.start()
    stage.say("<b>it begins & nobody knows</b>")
    stage.cut("us-east")
    stage.load("logs", rate_per_s=20, for_s=5)
    stage.load("registers", rate_per_s=20, for_s=5)
    stage.run(4)
    stage.crash("us-east")
    stage.run(2)


@pytest.fixture(scope="module")
def stage() -> SimulatedStage:
    stage = SimulatedStage(5, keep=True)
    outcome = run_scenario(Scenario("drawn", "Drawn", "What must hold.", play), stage=stage)
    assert outcome.passed, outcome.message
    return stage


def svg_of(page: str) -> ElementTree.Element:
    found = re.search(r"<svg.*</svg>", page, re.DOTALL)
    assert found is not None
    return ElementTree.fromstring(found.group())


def test_a_picture_shows_what_happened(stage: SimulatedStage) -> None:
    assert stage.played is not None
    outcome = stage.played.judge(lambda: None)
    page = picture_of("Drawn & quartered", stage.world, stage.divergence, outcome)
    tree = svg_of(page)
    classes = [item.get("class") for item in tree.iter()]
    assert classes.count("message") > 10
    # Both directions, each on both lanes.
    assert classes.count("cut") == 4
    assert classes.count("down") == 1
    assert classes.count("apart") == 1
    texts = ["".join(item.itertext()) for item in tree.iter() if item.tag.endswith("text")]
    assert "<b>it begins & nobody knows</b>" in texts
    assert {"eu-west", "us-east"} <= set(texts)
    assert "<script" not in page
    assert "Drawn &amp; quartered" in page


def test_equal_runs_give_equal_pictures(stage: SimulatedStage) -> None:
    other = SimulatedStage(5, keep=True)
    scenario = Scenario("drawn", "Drawn", "What must hold.", play)
    outcome = run_scenario(scenario, stage=other)
    assert picture_of("Drawn & quartered", stage.world, stage.divergence, outcome) == picture_of(
        "Drawn & quartered", other.world, other.divergence, outcome
    )


def test_divergence_comes_down_to_one(stage: SimulatedStage) -> None:
    assert stage.divergence is not None
    apart = [count for _, count in stage.divergence.points]
    assert max(apart) == 2
    assert apart[-1] == 1


def test_a_picture_of_nothing_can_be_drawn() -> None:
    assert "<svg" in draw("Nothing", [], [])
    assert "<svg" in draw("Little", [Record(EPOCH_US, "crash", "nobody", "", 0)], [])


# ---------------------------------------------------------------------- the report


def test_loss_costs_time_and_size_costs_bytes(tmp_path: Path) -> None:
    loss, latency, size = AXES
    clean, lossy = measure(loss, 0, [1]), measure(loss, 30, [1])
    assert lossy.converged_s[0] > clean.converged_s[0]
    assert measure(size, 5, [1]).sent_bytes > 2 * measure(size, 2, [1]).sent_bytes
    axes = [Axis(latency.name, latency.unit, (1, 250), latency.build)]
    found = write_report(tmp_path / "report.html", axes, [1])
    assert found["columns"] == list(COLUMNS)
    (near, far) = found["rows"]
    assert far[2] > near[2]
    page = (tmp_path / "report.html").read_text()
    for svg in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
        ElementTree.fromstring(svg)
    assert page.count("<svg") == 2


# ---------------------------------------------------------------------- Elle


def check_well_formed(found: list[Operation]) -> None:
    """What Elle demands: one operation at a time per process, each ended after it began."""
    busy: dict[int, Operation] = {}
    for operation in found:
        if operation.type == "invoke":
            assert operation.process not in busy
            busy[operation.process] = operation
            continue
        begun = busy[operation.process]
        assert begun.time_us <= operation.time_us
        assert [part[:2] for part in begun.value] == [part[:2] for part in operation.value]
        if operation.type != "info":
            del busy[operation.process]
    assert [operation.index for operation in found] == list(range(len(found)))


@pytest.mark.parametrize("kind", ["list-append", "rw-register"])
def test_histories_are_well_formed(stage: SimulatedStage, kind: str) -> None:
    assert stage.played is not None
    found = operations(stage.played.history.calls, kind)  # type: ignore[arg-type]
    check_well_formed(found)
    writes = {"list-append": "append", "rw-register": "w"}[kind]
    written = [
        part[2]
        for operation in found
        if operation.type == "invoke"
        for part in operation.value
        if part[0] == writes
    ]
    assert len(written) > 10
    assert len(written) == len(set(written)), "every element is written once"
    read = {
        element
        for operation in found
        if operation.type == "ok"
        for function, _, value in operation.value
        if function == "r" and value is not None
        for element in (value if isinstance(value, list) else [value])
    }
    assert read
    assert read & set(written)
    failed = {
        value
        for operation in found
        if operation.type == "fail"
        for function, _, value in operation.value
        if function != "r"
    }
    assert not read & failed, "nobody reads what had no effect"


def test_both_forms_say_the_same(stage: SimulatedStage) -> None:
    assert stage.played is not None
    calls = stage.played.history.calls
    found = operations(calls, "list-append")
    # One array, as elle-cli reads a file of JSON; EDN is one map after another.
    values = json.loads(to_json(found))
    assert len(values) == len(to_edn(found).splitlines()) == len(found)
    assert [value["index"] for value in values] == list(range(len(found)))
    for value, edn in zip(values, to_edn(found).splitlines(), strict=True):
        assert edn.startswith(f"{{:index {value['index']}, :time {value['time']}, ")
        assert f":type :{value['type']}, :f :txn, :value [[:" in edn
    both = histories(calls)
    assert list(both) == ["list-append", "rw-register"]
    assert both["list-append"] == to_edn(found)
    assert histories(calls, as_json=True)["list-append"] == to_json(found)


def test_edn_is_what_jepsen_writes() -> None:
    operation = Operation(0, 5, 2, "ok", [["r", "a/b", [1, 2]], ["append", "a/b", 3]])
    nothing = Operation(1, 6, 2, "invoke", [["r", "k", None]])
    assert to_edn([operation, nothing]) == (
        "{:index 0, :time 5000, :process 2, :type :ok, :f :txn, "
        ':value [[:r "a/b" [1 2]] [:append "a/b" 3]]}\n'
        '{:index 1, :time 6000, :process 2, :type :invoke, :f :txn, :value [[:r "k" nil]]}\n'
    )


def test_the_command_line_draws_and_exports(tmp_path: Path) -> None:
    drawn, exported = tmp_path / "p.html", tmp_path / "h.json"
    arguments = ["run", "budget_under_partition", "--json"]
    arguments += ["--picture", str(drawn), "--elle", str(exported)]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    assert json.loads(result.output)["verdict"] == "pass"
    assert svg_of(drawn.read_text()) is not None
    assert sorted(path.name for path in tmp_path.glob("h.*")) == [
        "h.list-append.json",
        "h.rw-register.json",
    ]
