"""Retries: whatever was written under one operation id, at however many nodes, counts once."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crdtmem.retries import RETRY_PREFIX, Retries
from tests.epoch.harness import Cluster, Node, act

CHOICES: tuple[tuple[Any, ...], ...] = (
    ("counter", "n", "increment", 5),
    ("counter", "n", "decrement", 2),
    ("g_counter", "up", "increment", 3),
    ("bounded_counter", "b", "mint", 7),
    ("log", "l", "append", "line"),
    ("log", "l", "extend", ["one", "two"]),
    ("map", "m", "apply", "hits", "counter", "increment", 4),
    ("map", "m", "apply", "seen", "g_counter", "increment", 1),
    ("map", "m", "apply", ["a", "trail"], "log", "append", "step"),
    ("set", "s", "add", 1),
    ("set_remove_wins", "t", "add", 2),
    ("register", "r", "set", "text"),
)
PLACES = tuple(dict.fromkeys(choice[:2] for choice in CHOICES))
WORK = st.lists(st.sampled_from(CHOICES), min_size=1, max_size=5)


def reading(node: Node) -> dict[str, Any]:
    shown = {key: node.value(datatype, key) for datatype, key in PLACES}
    # Rights stay where they were made; how many there are is what counts.
    shown["b"] = shown["b"]["available"]
    return shown


def do(node: Node, work: list[tuple[Any, ...]], retry: bytes | None = None) -> None:
    node.write(*(act(*choice) for choice in work), retry=retry)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(before=WORK, work=WORK, between=WORK, copies=st.lists(st.integers(0, 2), max_size=3))
def test_copies_count_once(
    before: list[Any], work: list[Any], between: list[Any], copies: list[int]
) -> None:
    """Copies anywhere, with other work before and between, leave what one copy would have."""
    once, often = Cluster("abc"), Cluster("abc")
    for cluster in (once, often):
        for name in "abc":
            do(cluster[name], before)
    do(once["a"], work)
    do(often["a"], work, retry=b"id")
    for number in copies:
        do(often["abc"[number]], work, retry=b"id")
    for cluster in (once, often):
        do(cluster["b"], between)
    for cluster in (once, often):
        cluster.sync()
    expected = reading(once["a"])
    for node in often.nodes.values():
        shown = reading(node)
        for log in ("l",):
            assert sorted(shown.pop(log)) == sorted(expected[log])
        assert {**shown, "l": expected["l"]} == expected


def test_both_copies_in_one_flight() -> None:
    """The first copy arrives in the very flight in which the second is written."""
    cluster = Cluster("ab")
    a, b = cluster["a"], cluster["b"]
    do(a, [("counter", "n", "increment", 5)], retry=b"id")
    batch = a.log[a.id][-1]
    b.replica.offer(batch)
    do(b, [("counter", "n", "increment", 5)], retry=b"id")
    cluster.sync()
    assert a.value("counter", "n") == b.value("counter", "n") == 5


def test_what_a_reset_took_is_not_taken_twice() -> None:
    cluster = Cluster("abc")
    a, b, c = cluster["a"], cluster["b"], cluster["c"]
    do(a, [("counter", "n", "increment", 5)], retry=b"id")
    do(b, [("counter", "n", "increment", 5)], retry=b"id")
    c.pull(b, b)
    c.write(act("counter", "n", "reset"))
    b.pull(c)
    cluster.sync()
    assert {node.value("counter", "n") for node in (a, b, c)} == {5}


def test_a_compensation_is_made_again_when_it_was_not_written() -> None:
    cluster = Cluster("ab")
    a, b = cluster["a"], cluster["b"]
    do(a, [("counter", "n", "increment", 5)], retry=b"id")
    do(b, [("counter", "n", "increment", 5)], retry=b"id")
    retries = Retries(b.id)
    state = b.replica.state
    before = Cluster("ab")["b"].replica.state
    retries.note([batch for batch in b.log[b.id] if batch.transactions[0][2].get("i")], before)
    retries.note(a.log[a.id], before)
    (made,) = retries.due(state)
    assert made.operation_id is not None
    assert made.operation_id.startswith(RETRY_PREFIX)
    assert len(made.operation_id) <= 64
    assert retries.due(state) == []
    retries.back(made)
    (again,) = retries.due(state)
    assert again.operation_id == made.operation_id


def test_a_log_that_is_replayed_owes_nothing_that_was_settled() -> None:
    cluster = Cluster("ab")
    a, b = cluster["a"], cluster["b"]
    do(a, [("counter", "n", "increment", 5)], retry=b"id")
    do(b, [("counter", "n", "increment", 5)], retry=b"id")
    cluster.sync()
    fresh = Cluster("ab")["b"].replica.state
    replayed = Retries(b.id)
    for origin in (a.id, b.id):
        replayed.note(b.log[origin], fresh)
    assert replayed.due(b.replica.state) == []


@pytest.mark.parametrize("window", [1, 10])
def test_the_window_is_bounded(window: int) -> None:
    cluster = Cluster("a")
    a = cluster["a"]
    a.retries = Retries(a.id, window=window)
    for index in range(50):
        do(a, [("counter", "n", "increment", 1)], retry=b"id%d" % index)
    assert len(a.retries._known) == window
