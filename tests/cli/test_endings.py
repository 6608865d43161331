"""Giving members up, rescuing what they wrote, and coming back from backups alone.

All through the real command line, against real node processes and real files.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from tests.cli.conftest import Outcome, Run
from tests.node.cluster import make_cluster
from tests.node.processes import NodeProcess, start_all
from tests.waiting import wait_until


@contextmanager
def ended(nodes: Sequence[NodeProcess]) -> Iterator[None]:
    """See to it that no process outlives the test."""
    with ExitStack() as stack:
        for node in nodes:
            stack.callback(node.kill)
        yield


class Operator:
    """Somebody with the command line, and nothing else."""

    def __init__(self, run: Run) -> None:
        self._run = run

    def ask(self, node: NodeProcess, *arguments: str, code: int = 0) -> Any:
        """Run a command with ``--json``; return the object that it printed."""
        outcome: Outcome = self._run(arguments[0], "--node", node.url, "--json", *arguments[1:])
        assert outcome.code == code, outcome
        return outcome.json

    def shown(self, node: NodeProcess, *arguments: str) -> str:
        """Run a command as people do; return what it printed."""
        outcome: Outcome = self._run(arguments[0], "--node", node.url, *arguments[1:])
        assert outcome.code == 0, outcome
        return outcome.out

    def value(self, node: NodeProcess, key: str, *more: str) -> Any:
        return self.ask(node, "get", "notes", key, *more)["value"]

    def put(self, node: NodeProcess, key: str, value: Any, *more: str) -> None:
        self.ask(node, "set", "notes", key, json.dumps(value), *more)

    def replica(self, node: NodeProcess) -> str:
        return str(self.ask(node, "status")["replica"])

    def members(self, node: NodeProcess) -> set[str]:
        return set(self.ask(node, "status")["members"])

    def gave_up(self, node: NodeProcess, *victims: str) -> None:
        """Wait until a node counts none of the victims any more."""
        wait_until(lambda: not self.members(node) & set(victims), "final cut")

    def converged(self, nodes: Sequence[NodeProcess]) -> None:
        def alike() -> bool:
            said = [self.ask(node, "status") for node in nodes]
            return all(s["member"] for s in said) and len({s["digest"] for s in said}) == 1

        wait_until(alike, "convergence")


def alone(operator: Operator, node: NodeProcess, others: Sequence[NodeProcess]) -> None:
    """Leave one node without its peers, and let it write what nobody else has."""
    for other in others:
        assert other.stop() == 0
    operator.put(node, "plan", "only here")
    operator.put(node, "visits", 5, "--type", "counter")
    operator.put(node, "shared", "from the one that was cut off")


def test_an_evicted_node_comes_back_and_what_it_wrote_alone_is_rescued(
    run: Run, tmp_path: Path
) -> None:
    operator = Operator(run)
    nodes = make_cluster(tmp_path, ["eu", "us", "ap"])
    eu, us, ap = nodes
    with ended(nodes):
        start_all(nodes)
        operator.put(eu, "shared", "before")
        operator.put(eu, "visits", 2, "--type", "counter")
        operator.converged(nodes)
        victim = operator.replica(ap)
        alone(operator, ap, [eu, us])
        assert ap.stop() == 0
        start_all([eu, us])
        operator.put(us, "shared", "after")
        operator.converged([eu, us])
        assert operator.ask(eu, "evict", victim) == {"proposed": victim, "forced": False}
        for node in (eu, us):
            operator.gave_up(node, victim)
        # Proposing again what is done changes nothing.
        assert "proposed" in operator.shown(us, "evict", victim, "--yes")

        ap.start()
        wait_until(lambda: operator.replica(ap) != victim, "new id")
        operator.converged(nodes)
        assert operator.value(ap, "plan") is None
        listed = operator.ask(ap, "rescue", "list")["writes"]
        assert [(w["key"], w["state"]) for w in listed] == [
            ("plan", "lost"),
            ("visits", "lost"),
            ("shared", "lost"),
        ]
        people = operator.shown(ap, "rescue")
        assert all(write["dot"] in people for write in listed)
        assert operator.ask(eu, "rescue", "list") == {"writes": []}

        # One by its dot, the rest together, and whatever is asked again is there already.
        plan = listed[0]["dot"]
        chosen = operator.ask(ap, "rescue", "apply", plan)
        assert (chosen["written"], chosen["failed"]) == (1, [])
        assert operator.value(ap, "plan") == "only here"
        assert operator.ask(ap, "rescue", "apply", "--all")["written"] == 2
        again = operator.ask(ap, "rescue", "apply", "--all")
        assert (again["written"], again["failed"]) == (0, [])
        assert "0 transactions written" in operator.shown(ap, "rescue", "apply", plan)
        operator.converged(nodes)
        for node in nodes:
            assert operator.value(node, "plan") == "only here"
            assert operator.value(node, "visits", "--type", "counter") == 7
        states = {write["state"] for write in operator.ask(ap, "rescue", "list")["writes"]}
        assert states == {"rescued"}


def test_only_the_successor_rescues_and_only_what_there_is(run: Run, tmp_path: Path) -> None:
    operator = Operator(run)
    nodes = make_cluster(tmp_path, ["eu", "us"])
    with ended(nodes):
        start_all(nodes)
        operator.converged(nodes)
        eu, us = nodes
        assert operator.ask(eu, "rescue", "apply", "--all") == {
            "written": 0,
            "already": 0,
            "failed": [],
        }
        own = operator.replica(eu)
        # A node does not evict itself, nor whom nobody knows, nor half of two unforced.
        for arguments, error in (
            (("evict", own), "invalid_value"),
            (("evict", "00000000000000ff"), "unknown_name"),
            (("evict", operator.replica(us)), "condition_failed"),
        ):
            assert operator.ask(eu, *arguments, code=4)["error"]["code"] == error
        gone = operator.replica(us)
        us.kill()
        assert operator.ask(eu, "evict", "--forced", gone)["forced"] is True
        wait_until(lambda: operator.members(eu) == {own}, "final cut")
        operator.put(eu, "alone", 1)


def test_members_that_were_all_killed_can_still_give_up_the_one_that_stays_away(
    run: Run, tmp_path: Path
) -> None:
    """What the lost one had acknowledged is known after kill -9 of everyone."""
    operator = Operator(run)
    nodes = make_cluster(tmp_path, ["eu", "us", "ap"])
    eu, us, ap = nodes
    with ended(nodes):
        start_all(nodes)
        operator.put(eu, "shared", 1)
        operator.converged(nodes)
        gone = operator.replica(ap)

        def kept() -> bool:
            said = [operator.ask(node, "status") for node in (eu, us)]
            return all(s["acknowledgements_kept"] and not any(s["lag"].values()) for s in said)

        wait_until(kept, "kept acknowledgements")
        for node in nodes:
            node.kill()
        start_all([eu, us])
        operator.converged([eu, us])
        operator.ask(eu, "evict", gone)
        for node in (eu, us):
            operator.gave_up(node, gone)
        operator.put(us, "shared", 2)
        wait_until(lambda: operator.value(eu, "shared") == 2, "the write")


def test_a_cluster_of_which_only_backups_are_left_comes_up_again(run: Run, tmp_path: Path) -> None:
    operator = Operator(run)
    nodes = make_cluster(tmp_path, ["eu", "us", "ap"])
    with ended(nodes):
        start_all(nodes)
        eu, us, ap = nodes
        operator.put(eu, "shared", 1)
        operator.put(eu, "visits", 2, "--type", "counter")
        operator.converged(nodes)
        former = operator.members(eu)
        backups = [tmp_path / f"{name}.backup" for name in ("eu", "us", "ap")]
        operator.ask(eu, "backup", str(backups[0]))
        operator.put(us, "later", "after the first backup")
        operator.put(us, "visits", 3, "--type", "counter")
        operator.converged(nodes)
        for node, backup in zip((us, ap), backups[1:], strict=True):
            operator.ask(node, "backup", str(backup))
        for node in nodes:
            node.kill()
            for path in node.folder.glob("store.db*"):
                path.unlink()
        for node, backup in zip(nodes, backups, strict=True):
            restored = run("restore", str(backup), str(node.folder / "store.db"), "--json")
            assert restored.code == 0, restored

        start_all([us, ap])
        assert not operator.ask(us, "status")["member"]
        assert operator.ask(us, "set", "notes", "k", "1", "--timeout-ms=200", code=4)["error"][
            "code"
        ] in {"not_covered", "unreachable"}
        eu.arguments.append("--found")
        eu.start()
        operator.converged(nodes)
        for node in nodes:
            assert operator.value(node, "later") == "after the first backup"
            assert operator.value(node, "visits", "--type", "counter") == 5
        for number, node in enumerate(nodes):
            operator.put(node, f"new-{number}", number)
        operator.converged(nodes)
        assert operator.value(eu, "new-2") == 2

        ids = {operator.replica(node) for node in nodes}
        assert not ids & former
        for gone in sorted(former):
            operator.ask(eu, "evict", "--forced", gone)
        for node in nodes:
            operator.gave_up(node, *former)
            assert operator.members(node) == ids
        # The flag founds once: later starts find that this is a member already.
        assert eu.stop() == 0
        eu.start()
        operator.converged(nodes)
        assert {operator.replica(node) for node in nodes} == ids
