"""Giving up the founder: unforced where a majority is really there, refused where it is not.

The founder counts as known to everybody from the first; others only when all, the founder
included, have acknowledged their admission. So whoever was admitted with the founder's
knowledge counts in the majority that gives it up, and whoever was admitted behind its back
does not: the founder might do the same on its side.
"""

from __future__ import annotations

import pytest

from crdtmem.errors import ConditionFailed
from tests.engines import EngineNode, World


def given_up(world: World, victim: int, survivors: list[EngineNode]) -> None:
    world.until(lambda: all(victim in node.engine.epoch.settled for node in survivors), "final cut")
    survivors[0].put("after", 1)
    world.until(lambda: all(node.get("after") == 1 for node in survivors), "the write")
    world.spend(10)
    for node in survivors:
        vector = node.engine.state.vector
        assert node.engine.epoch.stable_vector(vector) == vector


@pytest.mark.parametrize("names", ["abc", "abcd", "abcde"])
@pytest.mark.parametrize("seed", range(4))
def test_a_dead_founder_is_given_up_unforced(seed: int, names: str) -> None:
    world = World(seed)
    a, *others = world.cluster(names)
    others[0].put("k", 1)
    world.spend(0.2)
    gone = a.id
    a.kill()
    others[-1].evict(gone)
    given_up(world, gone, others)


@pytest.mark.parametrize("seed", range(4))
def test_also_after_everybody_was_killed(seed: int) -> None:
    world = World(seed)
    a, b, c = world.cluster("abc")
    world.spend(3)
    gone = a.id
    for node in (a, b, c):
        node.kill()
    for node in (b, c):
        node.start()
    world.link(c, b)
    world.settle()
    c.evict(gone)
    given_up(world, gone, [b, c])


@pytest.mark.parametrize("seed", range(4))
def test_also_where_another_admitted_the_third_with_its_knowledge(seed: int) -> None:
    world = World(seed)
    a, b = world.cluster("ab")
    c = world.node("c", peers=1).start()
    world.link(c, b)
    world.until(lambda: c.engine.replica.writable, "admission")
    world.until(lambda: c.id in a.engine.epoch.records, "news to the founder")
    world.spend(0.1)
    gone = a.id
    a.kill()
    # What it acknowledged before it died is passed on within seconds.
    world.spend(6)
    c.evict(gone)
    given_up(world, gone, [b, c])


def behind_its_back(world: World) -> tuple[EngineNode, EngineNode, EngineNode]:
    """Return a founder, and two others of whom one was admitted while it was away."""
    a, b = world.cluster("ab")
    world.cut(a)
    c = world.node("c", peers=1).start()
    world.link(c, b)
    world.until(lambda: c.engine.replica.writable, "admission")
    world.spend(3)
    return a, b, c


@pytest.mark.parametrize("proposer", [1, 2])
def test_not_by_whom_it_never_heard_of(proposer: int) -> None:
    """Harm: each side of a partition admits somebody, and gives the other side up."""
    world = World(1)
    nodes = behind_its_back(world)
    a = nodes[0]
    with pytest.raises(ConditionFailed, match="majority of those whom all know"):
        nodes[proposer].evict(a.id)
    # And neither does the founder, whatever it admits on its side.
    d = world.node("d", peers=1).start()
    world.link(d, a)
    world.until(lambda: d.engine.replica.writable, "admission")
    world.spend(3)
    with pytest.raises(ConditionFailed, match="majority of those whom all know"):
        a.evict(nodes[1].id)


def test_but_by_force() -> None:
    world = World(1)
    a, b, c = behind_its_back(world)
    gone = a.id
    a.kill()
    c.evict(gone, forced=True)
    given_up(world, gone, [b, c])


def test_and_once_it_has_heard_of_them_unforced() -> None:
    world = World(1)
    a, b, c = behind_its_back(world)
    world.link(b, a)
    world.settle()
    world.spend(3)
    gone = a.id
    a.kill()
    c.evict(gone)
    given_up(world, gone, [b, c])
