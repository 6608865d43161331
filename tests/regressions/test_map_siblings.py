"""The limit on siblings binds the members of a map as it binds registers.

Harm: a client that wrote one member of a map without reading it grew that member by a sibling
per region and write, without end and without being told.
"""

from __future__ import annotations

from typing import Any

import pytest

from crdtmem.causality import Observed
from crdtmem.errors import SiblingLimit
from crdtmem.limits import Limits
from tests.kernel_node import KernelNode, operation, settle

FOUR = Limits(siblings=4)


def crowded() -> KernelNode:
    """Return a node whose map has three crowded members, joined from others, and a free one."""
    nodes = [KernelNode(number, f"r{number}", FOUR) for number in range(1, 6)]
    for node in nodes:
        own = node.replica.identity.replica
        node.commit(operation("map", "m", "set", "x", own))
        node.commit(operation("map", "m", "set", ["a", "b"], own))
        node.commit(operation("map", "m", "apply", "choice", "multi_value", "set", own))
        node.commit(operation("map", "m", "apply", "hits", "counter", "increment", 1))
    nodes[0].commit(operation("map", "m", "set", "free", "nobody else"))
    settle(*nodes)
    assert nodes[0].value("m", "map")["hits"] == 5, "a join never refuses"
    return nodes[0]


BLIND: list[tuple[Any, ...]] = [
    ("set", "x", "blind"),
    ("set", ["a", "b"], "blind"),
    ("update", {"free": 1, "x": 2}),
    ("update", {"b": 1}, "a"),
    ("apply", "choice", "multi_value", "set", "blind"),
    ("apply", "choice", "multi_value", "delete"),
    ("delete", "x"),
    ("delete", "a"),
    ("delete",),
]


@pytest.mark.parametrize("arguments", BLIND, ids=str)
def test_a_blind_write_is_refused_with_the_siblings_and_an_informed_one_is_not(
    arguments: tuple[Any, ...],
) -> None:
    node = crowded()
    before = node.value("m", "map")
    with pytest.raises(SiblingLimit) as refused:
        node.commit(operation("map", "m", *arguments))
    assert len(refused.value.details["siblings"]) == 5
    assert str(refused.value).startswith("'m/")
    assert node.value("m", "map") == before
    with pytest.raises(SiblingLimit):
        node.commit(operation("map", "m", *arguments, observed=frozenset()))
    seen = node.read("m", "map").observed
    node.commit(operation("map", "m", *arguments, observed=seen.dots))
    assert node.value("m", "map") != before


def test_what_the_refusal_attaches_is_enough_to_settle_it() -> None:
    node = crowded()
    with pytest.raises(SiblingLimit) as refused:
        node.commit(operation("map", "m", "set", "x", "blind"))
    assert sorted(s["value"] for s in refused.value.details["siblings"]) == [1, 2, 3, 4, 5]
    seen = Observed.parse(refused.value.details["observed"])
    node.commit(operation("map", "m", "set", "x", "settled", observed=seen.dots))
    assert node.value("m", "map")["x"] == "settled"
    node.commit(operation("map", "m", "set", "x", "again"))
    assert node.value("m", "map")["x"] == "again"


def test_other_members_are_free() -> None:
    node = crowded()
    node.commit(operation("map", "m", "set", "free", 1))
    node.commit(operation("map", "m", "set", "new", 2))
    node.commit(operation("map", "m", "apply", "hits", "counter", "increment", 1))
    node.commit(operation("map", "m", "apply", "tags", "set", "add", "t"))
    shown = node.value("m", "map")
    assert (shown["free"], shown["new"], shown["hits"], shown["tags"]) == (1, 2, 6, ["t"])
