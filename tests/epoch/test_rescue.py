"""Rescue: what was lost beyond a cut reads, once written anew, as it did where it was written."""

from __future__ import annotations

from typing import Any

import pycrdt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crdtmem.entries import pack_dot
from crdtmem.errors import HistoryGap, LocalError
from crdtmem.limits import DEFAULT_LIMITS
from crdtmem.rescue import PART_DELTAS, Rescue, is_rescued
from crdtmem.transaction import Operation, Transaction
from tests.epoch.harness import Cluster, Node, act


def updates() -> list[bytes]:
    """Return the updates of a text that grew by three words."""
    document: pycrdt.Doc[Any] = pycrdt.Doc(client_id=7)
    text = document.get("text", type=pycrdt.Text)
    made = []
    for word in ("one ", "two ", "three "):
        before = document.get_state()
        text += word
        made.append(document.get_update(before))
    return made


UPDATES = updates()
PLACES = (
    ("register", "r"),
    ("multi_value", "v"),
    ("flag", "f"),
    ("flag_disable_wins", "g"),
    ("g_counter", "up"),
    ("counter", "n"),
    ("set", "s"),
    ("set_remove_wins", "t"),
    ("map", "m"),
    ("log", "l"),
    ("document", "d"),
)
CHOICES: tuple[tuple[Any, ...], ...] = (
    ("register", "r", "set", 1),
    ("register", "r", "set", {"deep": [1, 2]}),
    ("register", "r", "delete"),
    ("multi_value", "v", "set", "x"),
    ("flag", "f", "enable"),
    ("flag", "f", "disable"),
    ("flag_disable_wins", "g", "enable"),
    ("flag_disable_wins", "g", "disable"),
    ("g_counter", "up", "increment", 3),
    ("g_counter", "up", "delete"),
    ("counter", "n", "increment", 5),
    ("counter", "n", "decrement", 2),
    ("counter", "n", "reset"),
    ("counter", "n", "delete"),
    ("set", "s", "add", 1),
    ("set", "s", "add", "1"),
    ("set", "s", "remove", 1),
    ("set", "s", "clear"),
    ("set_remove_wins", "t", "add", "x"),
    ("set_remove_wins", "t", "remove", "x"),
    ("map", "m", "set", ["a", "b"], 1),
    ("map", "m", "set", "plain", "text"),
    ("map", "m", "apply", "hits", "counter", "increment", 4),
    ("map", "m", "apply", "hits", "counter", "reset"),
    ("map", "m", "apply", "tags", "set", "add", "t"),
    ("map", "m", "apply", "trail", "log", "append", "step"),
    ("map", "m", "delete", "a"),
    ("map", "m", "delete"),
    ("log", "l", "append", "line"),
    ("log", "l", "extend", ["one", "two"]),
    ("log", "l", "delete"),
    ("document", "d", "update", UPDATES[0]),
    ("document", "d", "update", UPDATES[1]),
    ("document", "d", "update", UPDATES[2]),
    ("document", "d", "delete"),
)
WORK = st.lists(st.lists(st.sampled_from(CHOICES), min_size=1, max_size=4), max_size=6)


def reading(node: Node) -> dict[str, Any]:
    return {key: node.value(datatype, key) for datatype, key in PLACES}


def do(node: Node, work: list[tuple[Any, ...]]) -> None:
    node.write(*(act(*choice) for choice in work))


def rejoin(cluster: Cluster, evicted: Node, name: str = "d") -> Node:
    successor = cluster.node(name)
    cluster["a"].admit(successor, predecessor=evicted.id)
    successor.pull(cluster["a"])
    cluster.sync("ab" + name)
    assert successor.epoch.successor(evicted.id) == successor.id
    return successor


def rescue_all(successor: Node, rescue: Rescue) -> int:
    """Rescue everything; returns how many transactions were written."""
    written = 0
    for lost in rescue.transactions:
        for transaction in rescue.rescue(lost, successor.replica.state):
            written += not successor.commit(transaction.seal(DEFAULT_LIMITS)).repeated
    return written


def lose(cluster: Cluster) -> Rescue:
    """Evict c without having heard of what it wrote last; returns what there is to rescue."""
    c = cluster["c"]
    cluster["a"].evict(c)
    cluster.sync("ab")
    return Rescue(c.id, cluster["a"].epoch.settled[c.id], c.log.get(c.id, []))


@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(before=WORK, by_others=WORK, lost=WORK)
def test_what_is_rescued_reads_as_it_did(
    before: list[list[Any]], by_others: list[list[Any]], lost: list[list[Any]]
) -> None:
    """With nobody writing meanwhile, a rescue leaves exactly what the evicted had."""
    cluster = Cluster("abc")
    a, c = cluster["a"], cluster["c"]
    for work in before:
        do(c, work)
    for work in by_others:
        do(a, work)
    cluster.sync()
    for work in lost:
        do(c, work)
    rescue = lose(cluster)
    expected = reading(c)
    d = rejoin(cluster, c)
    rescue_all(d, rescue)
    assert reading(d) == expected
    assert rescue_all(d, rescue) == 0
    cluster.sync("abd")
    assert reading(cluster["b"]) == expected


@settings(max_examples=60, deadline=None, derandomize=True)
@given(lost=WORK, meanwhile=WORK)
def test_what_was_written_meanwhile_is_not_overwritten(
    lost: list[list[Any]], meanwhile: list[list[Any]]
) -> None:
    """A rescued register stands beside what was written since, and supersedes none of it."""
    cluster = Cluster("abc")
    a, c = cluster["a"], cluster["c"]
    for work in lost:
        do(c, work)
    rescue = lose(cluster)
    for work in meanwhile:
        do(a, work)
    cluster.sync("ab")
    table = a.replica.state.find(("notes",), 1)
    kept = table.slot("r") if table else None
    d = rejoin(cluster, c)
    rescue_all(d, rescue)
    after = d.replica.state.find(("notes",), 1)
    if kept is not None:
        assert after is not None
        held = after.slot("r")
        assert held is not None
        siblings = [held] if isinstance(held[0], int) else list(held)
        assert kept[0] in {entry[0] for entry in siblings}


def test_the_listing_says_what_became_of_each() -> None:
    cluster = Cluster("abc")
    c = cluster["c"]
    c.write(act("register", "r", "set", 1), author="ann")
    c.write(act("map", "m", "set", ["a", "b"], 2), act("set", "s", "remove", 9))
    rescue = lose(cluster)
    d = rejoin(cluster, c)
    listed = rescue.listing(d.replica.state)
    assert [(w.datatype, w.key, w.field, w.value, w.author, w.state) for w in listed] == [
        ("register", "r", "", 1, "ann", "lost"),
        ("register", "m", "a/b", 2, "", "lost"),
    ]
    (only,) = rescue.rescue(rescue.transactions[0], d.replica.state)
    d.commit(only.seal(DEFAULT_LIMITS))
    assert [w.state for w in rescue.listing(d.replica.state)] == ["rescued", "lost"]
    assert is_rescued(d.replica.state, pack_dot(c.id, 1))
    held = d.replica.state.find(("notes",), 1)
    assert held is not None
    assert held.slots["r"][2].metadata["o"] == rescue.transactions[0].dot
    assert held.slots["r"][2].author == "ann"


def test_a_grant_stays_lost_where_a_removal_stands_that_it_had_not_seen() -> None:
    cluster = Cluster("abc")
    a, c = cluster["a"], cluster["c"]
    c.write(act("set_remove_wins", "t", "add", "x"))
    rescue = lose(cluster)
    a.write(act("set_remove_wins", "t", "remove", "x"))
    d = rejoin(cluster, c)
    rescue_all(d, rescue)
    assert d.value("set_remove_wins", "t") == []


def test_a_lost_reset_takes_back_what_it_saw_and_no_more() -> None:
    cluster = Cluster("abc")
    a, c = cluster["a"], cluster["c"]
    a.write(act("counter", "n", "increment", 5))
    cluster.sync()
    c.write(act("counter", "n", "reset"))
    rescue = lose(cluster)
    a.write(act("counter", "n", "increment", 3))
    d = rejoin(cluster, c)
    rescue_all(d, rescue)
    assert d.value("counter", "n") == 3


def test_rights_stay_stranded_and_admissions_void() -> None:
    cluster = Cluster("abc")
    c = cluster["c"]
    c.write(act("bounded_counter", "b", "mint", 10))
    e = cluster.node("e")
    c.admit(e)
    rescue = lose(cluster)
    d = rejoin(cluster, c)
    rescue_all(d, rescue)
    assert d.value("bounded_counter", "b")["available"] == 0
    assert e.id not in d.epoch.records


def test_a_rescue_that_was_lost_itself_is_rescued_once() -> None:
    cluster = Cluster("abce")
    a, c = cluster["a"], cluster["c"]
    c.write(act("counter", "n", "increment", 7))
    cluster["a"].evict(c)
    cluster.sync("abe")
    first = Rescue(c.id, 0, c.log[c.id])
    d = cluster.node("d")
    a.admit(d, predecessor=c.id)
    d.pull(a)
    cluster.sync("abde")
    assert rescue_all(d, first) == 1
    # d is lost with its rescue, before anyone has heard of it.
    a.evict(d)
    cluster.sync("abe")
    f = cluster.node("f")
    a.admit(f, predecessor=d.id)
    f.pull(a)
    cluster.sync("abef")
    assert f.epoch.successor(c.id) == f.id
    second = Rescue(d.id, a.epoch.settled[d.id], d.log[d.id])
    assert rescue_all(f, second) == 1
    assert rescue_all(f, first) == 0, "it is known by its first origin"
    assert f.value("counter", "n") == 7


def test_a_count_without_the_total_before_it_is_not_guessed() -> None:
    cluster = Cluster("abc")
    c = cluster["c"]
    c.write(act("counter", "n", "increment", 7))
    cluster.sync()
    c.write(act("counter", "n", "reset"))
    cluster.sync()
    c.write(act("counter", "n", "increment", 1))
    c.write(act("counter", "n", "increment", 1))
    rescue = lose(cluster)
    d = rejoin(cluster, c)
    lonely = Rescue(c.id, rescue.cut, c.log[c.id][-1:])
    with pytest.raises(HistoryGap):
        lonely.rescue(lonely.transactions[0], d.replica.state)
    assert rescue_all(d, rescue) == 2
    assert d.value("counter", "n") == 2


def test_a_large_transaction_is_rescued_in_parts() -> None:
    cluster = Cluster("abc")
    c = cluster["c"]
    transaction = Transaction()
    count = 2 * PART_DELTAS + 1
    for index in range(count):
        transaction.put(("notes",), 1, f"k{index}", index)
    c.commit(transaction.seal(DEFAULT_LIMITS))
    rescue = lose(cluster)
    d = rejoin(cluster, c)
    assert rescue_all(d, rescue) == 3
    assert rescue_all(d, rescue) == 0
    assert d.value("register", f"k{count - 1}") == count - 1


def test_a_refused_operation_refuses_its_transaction_alone() -> None:
    cluster = Cluster("abc")
    c = cluster["c"]
    c.write(act("register", "r", "set", 1))
    rescue = lose(cluster)
    d = rejoin(cluster, c)
    (transaction,) = rescue.rescue(rescue.transactions[0], d.replica.state)
    transaction.add(Operation(("notes",), 1, "r", "set", (object(),)))
    with pytest.raises(LocalError):
        d.commit(transaction.seal(DEFAULT_LIMITS))
    assert not is_rescued(d.replica.state, pack_dot(c.id, 1))
