"""The collector: bounded rounds, one writer, nothing forgotten, nothing kept for ever."""

from __future__ import annotations

from typing import Any

import pytest

from crdtmem.crdt import DATATYPES
from crdtmem.crdt.document import COMPACT_AT_COUNT
from crdtmem.entries import as_siblings
from crdtmem.policy import SYSTEM_SPACE, Policy, policy_key
from crdtmem.transaction import Operation
from tests.epoch.harness import SPACE, Cluster, Node, act
from tests.epoch.test_rescue import UPDATES


def entries(node: Node, datatype: str, key: str) -> list[Any]:
    table = node.replica.state.find(SPACE, DATATYPES[datatype].code)
    place = {} if table is None else table.slots.get(key, {})
    slots = place.values() if isinstance(place, dict) else [place]
    return [entry for slot in slots for entry in as_siblings(slot)]


@pytest.mark.parametrize(
    ("datatype", "key", "work"),
    [
        ("set_remove_wins", "t", [("add", 1), ("remove", 1)]),
        ("flag_disable_wins", "g", [("enable",), ("disable",)]),
        ("counter", "n", [("increment", 1), ("delete",)]),
        ("g_counter", "u", [("increment", 1), ("delete",)]),
        ("map", "m", [("apply", "c", "counter", "increment", 1), ("delete",)]),
        ("document", "d", [("update", UPDATES[0]), ("delete",)]),
    ],
)
def test_nothing_is_left_once_it_is_stable(datatype: str, key: str, work: list[Any]) -> None:
    cluster = Cluster("abc")
    a, b = cluster["a"], cluster["b"]
    for step in work:
        b.write(act(datatype, key, *step))
    cluster.sync("ab")
    assert a.collect() == 0
    cluster.sync()
    shown = a.value(datatype, key)
    assert b.collect() == 0, "only the lowest live member collects"
    assert a.collect() == 1
    cluster.sync()
    for node in cluster.nodes.values():
        assert entries(node, datatype, key) == []
        assert node.value(datatype, key) == shown
        node.collect()
        assert len(node.collector) == 0


def test_updates_are_compacted_and_stay_readable() -> None:
    cluster = Cluster("ab")
    a, b = cluster["a"], cluster["b"]
    for index in range(COMPACT_AT_COUNT):
        b.write(act("document", "d", "update", UPDATES[index % 3]))
    cluster.sync()
    assert a.collect() == 1
    cluster.sync()
    assert len(entries(b, "document", "d")) == 1
    assert b.value("document", "d") == {"text": "one two three "}


def test_a_round_is_bounded_and_every_key_has_its_turn() -> None:
    cluster = Cluster("a")
    a = cluster["a"]
    for index in range(30):
        a.write(act("set_remove_wins", f"k{index}", "remove", 1))
    a.collector.take_over(a.replica.collectible)
    assert a.replica.collectible == {}
    rounds = 0
    while len(a.collector):
        made = a.collector.transactions(
            a.epoch, a.replica.state, a.replica.policy, keys_per_round=7
        )
        assert sum(len(transaction.steps) for transaction in made) <= 7
        for transaction in made:
            a.commit(transaction)
        a.collector.take_over(a.replica.collectible)
        rounds += 1
        assert rounds < 20
    assert not any(entries(a, "set_remove_wins", f"k{index}") for index in range(30))


def test_a_key_of_many_places_is_collected_in_parts() -> None:
    cluster = Cluster("a")
    a = cluster["a"]
    many = 4_500
    a.write(act("set_remove_wins", "t", "update", list(range(many))))
    a.write(act("set_remove_wins", "t", "clear"))
    sizes = []
    while entries(a, "set_remove_wins", "t"):
        sizes.append(len(entries(a, "set_remove_wins", "t")))
        assert a.collect() == 1
    assert sizes == [4_500, 2_500, 500]


def test_removals_stay_where_trust_is_ordered() -> None:
    cluster = Cluster("a")
    a = cluster["a"]
    policy = Policy(trust_ordered=True).as_value()
    a.write(Operation(SYSTEM_SPACE, 1, policy_key(SPACE), "set", (policy,)))
    a.write(act("set_remove_wins", "t", "remove", 1))
    a.write(act("counter", "n", "increment", 1))
    a.write(act("counter", "n", "delete"))
    assert a.collect() == 1
    assert entries(a, "counter", "n") == []
    assert len(entries(a, "set_remove_wins", "t")) == 1
