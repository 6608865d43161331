"""The demo, run as a user runs it: real processes, and none left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from crdtmem.demo.agents import QUESTIONS
from tests.interrupts import interruptible
from tests.waiting import wait_until

DEMO = [sys.executable, "-c", "from crdtmem.cli import main; main()", "demo"]
REGIONS = {"eu-west", "us-east", "ap-south"}


def demo(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*DEMO, *arguments],
        env={**os.environ, "TMPDIR": str(folder), "COLUMNS": "120"},
        capture_output=True,
        text=True,
        timeout=55,
        check=False,
    )


def report_of(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    report = json.loads(done.stdout)
    assert report["converged"] is True
    assert report["lost"] == 0
    assert report["faults"] == []
    assert report["digests"].keys() == REGIONS
    assert len(set(report["digests"].values())) == 1
    assert report["conflicts"] == len(report["conflict_list"])
    everybody = {f"{region}/{region}-1": "alive" for region in REGIONS}
    assert report["members"] == dict.fromkeys(REGIONS, everybody)
    return dict(report)


def test_the_built_in_run_converges_and_settles_every_question(short_folder: Path) -> None:
    report = report_of(demo("--json", "--seed", "3", folder=short_folder))
    assert report["acknowledged"] > 1_000
    by_space = {tuple(conflict["space"]): conflict for conflict in report["conflict_list"]}
    for question in QUESTIONS:
        conflict = by_space[question.space]
        assert conflict["resolver"] == f"{question.resolver}@1"
        values = [sibling["value"] for sibling in conflict["siblings"]]
        assert len(values) >= 2
        assert all(sibling["author"] and sibling["region"] for sibling in conflict["siblings"])
        assert conflict["settled"][question.resolver] == conflict["value"]
    assert by_space["team", "manual"]["value"] is None
    assert list(short_folder.iterdir()) == [], "the demo left its data"


@pytest.mark.slow
def test_real_events_are_spread_over_the_regions_and_what_is_kept_is_said(
    short_folder: Path,
) -> None:
    path = short_folder / "talk.jsonl"
    turns = [
        {"id": f"D1:{number}", "session": 1, "speaker": ("Ada", "Bob")[number % 2], "text": "…"}
        for number in range(60)
    ]
    path.write_text("".join(json.dumps(turn) + "\n" for turn in turns), encoding="utf-8")
    done = demo("--input", str(path), "--keep", folder=short_folder)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert "converged: 267 writes acknowledged, 0 lost" in done.stdout
    assert "is cut off" in done.stdout
    kept = [folder for folder in short_folder.iterdir() if folder.is_dir()]
    assert f"stores and logs are in {kept[0]}" in done.stdout
    assert {entry.name for entry in kept[0].iterdir()} == REGIONS | {"keys"}


@pytest.mark.parametrize(
    ("content", "reason"),
    [("", "holds no events"), ('{"a": 1}\n{oh\n', "talk.jsonl:2 is not JSON")],
)
def test_a_bad_input_is_refused_before_anything_starts(
    short_folder: Path, content: str, reason: str
) -> None:
    path = short_folder / "talk.jsonl"
    path.write_text(content, encoding="utf-8")
    done = demo("--json", "--input", str(path), folder=short_folder)
    assert done.returncode == 4
    assert reason in json.loads(done.stdout)["error"]["message"]
    assert list(short_folder.iterdir()) == [path]


@contextmanager
def running(folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], list[psutil.Process]]]:
    """Yield a demo that has started its three nodes, and those."""
    environment = {**os.environ, "TMPDIR": str(folder)}
    with interruptible():
        started = subprocess.Popen([*DEMO, "--json"], env=environment, stdout=subprocess.PIPE)
    with started as process:
        try:
            wait_until(lambda: len(list(folder.glob("*/*/sock"))) == 3, "three nodes")
            yield process, psutil.Process(process.pid).children()
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_process_outlives_a_demo_that_is_ended(short_folder: Path, number: int) -> None:
    with running(short_folder) as (process, nodes):
        assert len(nodes) == 3
        process.send_signal(number)
        status = process.wait(timeout=20)
        gone, alive = psutil.wait_procs(nodes, timeout=20)
        assert (len(gone), alive) == (3, [])
        if number != signal.SIGKILL:
            assert status == 130
            assert list(short_folder.iterdir()) == [], "the demo left its data"


def test_a_node_that_dies_is_named(short_folder: Path) -> None:
    with running(short_folder) as (process, nodes):
        nodes[0].kill()
        assert process.stdout is not None
        answer = json.loads(process.stdout.read())
        assert process.wait(timeout=20) == 3
        assert "ended with status -9" in answer["error"]["message"]
        _, alive = psutil.wait_procs(nodes, timeout=20)
        assert alive == []
