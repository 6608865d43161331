"""``crdtmem changes`` against a real node: what it prints, where it begins and goes on."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from typing import Any

from tests.capabilities import ROOT
from tests.cli.conftest import Outcome, Run
from tests.interrupts import interruptible
from tests.node.processes import NodeProcess


def parts(outcome: Outcome) -> list[Any]:
    """The objects that it printed, one per line."""
    return [json.loads(line) for line in outcome.out.splitlines()]


def keys(outcome: Outcome) -> list[str]:
    return [change["key"] for part in parts(outcome) for change in part["changes"]]


def test_all_that_is_held_is_printed_for_people_and_the_cursor_last(ask: Run) -> None:
    ask("set", "log/people", "city", '"Rome"', "--author", "ada")
    ask("set", "log/people", "a key", "1", "--type", "counter")
    ask("set", "log/people", "city", "--operation", "delete")
    shown = ask("changes", "--space", "log/people")
    assert [re.sub(r"^\S+ \S+ (.*) \w+:\d+$", r"\1", line) for line in shown.out.splitlines()] == [
        'ada@here written log/people register "city"',
        '-@here written log/people counter "a key"',
        '-@here removed log/people register "city"',
    ]
    (cursor,) = re.findall(r"^cursor: (c1\.\S+)$", shown.err, re.MULTILINE)
    again = ask("changes", "--space", "log/people", "--after", cursor)
    assert again.out == ""
    assert f"cursor: {cursor}" in again.err


def test_each_change_is_printed_once_over_runs_that_go_on_from_the_cursor(ask: Run) -> None:
    ask("set", "log/json", "k1", "1")
    first = ask("changes", "--space", "log/json", "--json")
    assert keys(first) == ["k1"]
    ask("set", "log/json", "k2", "1")
    ask("set", "log/other", "k3", "1")
    second = ask("changes", "--after", parts(first)[-1]["cursor"], "--json")
    assert keys(second) == ["k2", "k3"]
    third = ask("changes", "--after", parts(second)[-1]["cursor"], "--json")
    assert (keys(third), parts(third)[-1]["cursor"]) == ([], parts(second)[-1]["cursor"])
    everything = ask("changes", "--after", "start", "--json")
    assert keys(everything)[-3:] == ["k1", "k2", "k3"]


def test_a_cursor_that_is_none_and_a_space_that_is_none_are_refused(ask: Run) -> None:
    refused = ask("changes", "--after", "yesterday", "--json", code=4)
    assert refused.json["error"]["code"] == "invalid_token"
    ask("changes", "--space", "a//b", code=2)


def test_following_prints_what_happens_and_ends_with_its_cursor(
    ask: Run, node: NodeProcess
) -> None:
    command = ["changes", "--follow", "--space", "log/follow", "--after", "start", "--json"]
    with interruptible():
        follower = subprocess.Popen(
            [sys.executable, "-m", "crdtmem", *command, "--node", node.url],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
    assert follower.stdout is not None
    try:
        told: list[str] = []
        for number in range(3):
            ask("set", "log/follow", f"k{number}", "1")
            while len(told) <= number:
                part = json.loads(follower.stdout.readline())
                told += [change["key"] for change in part["changes"]]
        assert told == ["k0", "k1", "k2"]
        follower.send_signal(signal.SIGINT)
        rest, _ = follower.communicate(timeout=20)
        assert follower.returncode == 130
    finally:
        follower.kill()
        follower.communicate()
    cursor = json.loads(rest.splitlines()[-1])["cursor"] if rest else part["cursor"]
    assert keys(ask("changes", "--space", "log/follow", "--after", cursor, "--json")) == []
