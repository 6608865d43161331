"""``python -m gossip``: real processes that meet, die, come back and leave."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.waiting import wait_until

KEY = bytes(range(16)).hex()


class Process:
    """One bare member; what it printed is in a file."""

    def __init__(self, output: Path, *options: str) -> None:
        self.output = output
        with output.open("ab") as out, output.with_suffix(".err").open("ab") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "gossip", "--json", "--profile", "local", *options],
                stdout=out,
                stderr=err,
            )
        self.ready = wait_until(lambda: self.events("ready"), "readiness", timeout_s=40)[-1]

    def events(self, name: str) -> list[dict[str, Any]]:
        lines = self.output.read_text(encoding="utf-8").splitlines()
        found = [json.loads(line) for line in lines if line.endswith("}")]
        mine = [event for event in found if event["event"] == name]
        return [event for event in mine if name != "ready" or event["pid"] == self.process.pid]

    @property
    def address(self) -> str:
        return str(self.ready["address"])

    def states(self, other: Process) -> list[str]:
        return [
            event["state"]
            for event in self.events("member")
            if event["member"] == other.ready["member"]
        ]

    def end(self, how: signal.Signals) -> int:
        self.process.send_signal(how)
        return self.process.wait(30)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Any]:
    started: list[Process] = []

    def begin(name: str, *options: str) -> Process:
        process = Process(tmp_path / f"{name}.jsonl", "--name", name, *options)
        started.append(process)
        return process

    yield begin
    for one in started:
        if one.process.poll() is None:
            one.end(signal.SIGKILL)


def test_members_meet_die_come_back_and_leave(start: Any, tmp_path: Path) -> None:
    state = str(tmp_path / "eve.state")
    ann = start("ann", "--key", KEY)
    bob = start("bob", "--key", KEY, "--join", f"127.0.0.1:1, {ann.address}")
    eve = start("eve", "--key", KEY, "--join", bob.address, "--state", state)
    trio = (ann, bob, eve)
    wait_until(
        lambda: all(
            "alive" in one.states(other) for one in trio for other in trio if one is not other
        ),
        "each other",
    )
    assert eve.end(signal.SIGKILL) == -signal.SIGKILL
    wait_until(lambda: ann.states(eve)[-1] == "dead", "its death", timeout_s=40)
    assert ann.states(eve) == ["alive", "suspect", "dead"]

    again = start("again", "--key", KEY, "--join", ann.address, "--state", state)
    assert again.ready["member"] == eve.ready["member"]
    assert again.ready["generation"] == eve.ready["generation"] + 1
    wait_until(lambda: ann.states(again)[-1] == "alive", "its next life")

    ann.process.send_signal(signal.SIGUSR1)
    counters = wait_until(lambda: ann.events("counters"), "counters")[0]
    assert counters["pools"]["region:local"]["deaths"] == 1
    assert counters["transport"]["datagrams sent"] > 0
    assert counters["driver"].keys() <= {"late timers"}

    assert again.end(signal.SIGTERM) == 0
    assert again.events("left")
    wait_until(lambda: ann.states(again)[-1] == "left", "its farewell")


def test_what_one_tells_is_heard_by_all_and_shown_by_itself(start: Any) -> None:
    quick = ("--set", "gossip_interval_us=50000")
    ann = start("ann", *quick)
    bob = start("bob", *quick, "--join", ann.address)
    wait_until(lambda: bob.states(ann) and ann.states(bob), "each other")
    for number in (1, 2):
        ann.process.send_signal(signal.SIGUSR2)
        wait_until(lambda number=number: len(bob.events("payload")) == number, "payload")  # type: ignore[misc]
    assert [event["payload"] for event in bob.events("payload")] == [
        f"{ann.ready['member']} 1",
        f"{ann.ready['member']} 2",
    ]
    assert [event["origin"] for event in ann.events("payload")] == [ann.ready["member"]] * 2


def test_identity_is_kept_before_it_is_used(start: Any, tmp_path: Path) -> None:
    state = tmp_path / "ann.state"
    for generation in (1, 2):
        ann = start("ann", "--state", str(state))
        kept = json.loads(state.read_text(encoding="utf-8"))
        assert kept["generation"] == ann.ready["generation"] == generation
        assert kept["member"] == ann.ready["member"]
        ann.end(signal.SIGKILL)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--listen", "nowhere"], "is not HOST:PORT"),
        (["--listen", "192.0.2.1:7946"], "cannot take"),
        (["--join", "nowhere"], "nowhere"),
        (["--key", "00ff"], "16, 24 or 32"),
        (["--key", "zz"], "hexadecimal"),
        (["--state", "{state}"], "is not a member's state"),
        (["--profile", "moon"], "moon"),
        (["--set", "probe_interval_us"], "NAME=VALUE"),
        (["--set", "probing=1"], "probing"),
        (["--set", "probe_interval_us=1"], "probe_interval_us"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(tmp_path: Path, options: list[str], said: str) -> None:
    (tmp_path / "state").write_text("{}")
    options = [option.format(state=tmp_path / "state") for option in options]
    result = subprocess.run(
        [sys.executable, "-m", "gossip", *options],
        capture_output=True, text=True, check=False, timeout=40, env=dict(os.environ),
    )  # fmt: skip
    assert result.returncode == 2
    assert said in result.stderr
    assert "Traceback" not in result.stderr
