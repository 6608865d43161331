"""What is listed is listed in one order everywhere, whatever the order of arrival.

Harm: two regions with equal knowledge gave different answers to `conflicts`, to the siblings of
a set or map, and to what else lies under a key: an agent that took "the first" diverged.
"""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from tests.engines import SPACE, EngineNode, World

KEYS = ["b", "a", "é", "z", "aa"]


def writes(node: EngineNode, random: Random) -> None:
    """Write the same places as everybody else, in an order of one's own."""
    work: list[tuple[str, str, str, tuple[Any, ...]]] = []
    for key in KEYS:
        work += [
            ("register", key, "set", (node.name,)),
            ("multi_value", key, "set", ([node.name, {"k": 1}],)),
            ("map", key, "set", (["x", "y"], node.name)),
            ("map", key, "set", ("x", node.name)),
            ("set", key, "add", (node.name,)),
            ("counter", key, "increment", (1,)),
        ]
    random.shuffle(work)
    for datatype, key, name, arguments in work:
        node.operate(datatype, key, name, *arguments)


@pytest.mark.parametrize("seed", range(3))
def test_equal_knowledge_is_listed_alike(seed: int) -> None:
    world = World(seed)
    nodes = world.cluster("abc")
    for node in nodes:
        world.cut(node)
    for number, node in enumerate(nodes):
        writes(node, Random(seed * 10 + number))
    world.spend(1)
    a, b, c = nodes
    for initiator, acceptor in ((c, a), (b, c), (a, b)):
        world.link(initiator, acceptor)
    world.settle()
    listed = [list(n.engine.replica.conflicts(None, world.now_us)) for n in nodes]
    assert listed[0] == listed[1] == listed[2]
    assert len(listed[0]) == len(KEYS) * 4
    places = [(name, kind, key) for name, kind, key, *_ in listed[0]]
    assert [key for _, kind, key in places if kind == "register"] == sorted(KEYS)
    for siblings in (conflict[6] for conflict in listed[0]):
        assert len(siblings) == 3
    for code in (1, 2, 8, 10):
        for key in KEYS:
            readings = [n.engine.replica.read(SPACE, code, key, world.now_us) for n in nodes]
            assert len({str(reading.siblings) for reading in readings}) == 1
            assert len({reading.also for reading in readings}) == 1
            dots = [entry[0] for entry in readings[0].entries]
            assert dots == sorted(dots)
