"""A newcomer holds nothing at birth that no member holds, and any member can admit it.

Harm: a newcomer took batches from everybody while it waited for its admission; it could hold,
from its first write on, what lay beyond a cut that its sponsor had already promised: what it
then acknowledged could never be joined by anybody, and went into quarantine.
"""

from __future__ import annotations

import pytest

from crdtmem.causality import VersionVector
from tests.engines import EngineNode, World


def evicted(world: World, *survivors: EngineNode, victim: EngineNode) -> None:
    """Let survivors give a victim up, and wait until that is decided and final among them."""
    survivors[0].evict(victim.id)
    world.until(
        lambda: all(victim.id in node.engine.epoch.settled for node in survivors), "final cut"
    )


@pytest.mark.parametrize("seed", range(12))
def test_what_a_member_that_is_given_up_still_says_is_not_heard_before_the_admission(
    seed: int,
) -> None:
    world = World(seed)
    a, b, c = world.cluster("abc")
    world.cut(c)
    evicted(world, a, b, victim=c)
    for number in range(20):
        c.put(f"lost{number}", number)
    beyond = c.engine.state.vector[c.id]
    newcomer = world.node("n", peers=3).start()
    world.link(newcomer, a)
    world.until(lambda: newcomer.engine.sync.info(), "greeting")
    world.link(newcomer, c)
    world.until(lambda: newcomer.engine.epoch.is_member, "admission")
    newcomer.put("k", 1)
    world.until(lambda: b.get("k") == 1, "the newcomer's write")
    assert newcomer.engine.replica.halted is None
    assert newcomer.engine.state.vector.get(c.id, 0) < beyond
    world.until(lambda: c.engine.replica.halted is not None, "news to the evicted")


@pytest.mark.parametrize("seed", range(8))
def test_what_was_left_unheard_is_fetched_once_it_is_a_member(seed: int) -> None:
    world = World(seed)
    nodes = world.cluster("abc")
    newcomer = world.node("n", peers=3).start()
    for number, node in enumerate(nodes):
        world.link(newcomer, node)
        node.operate("register", f"during{number}", "set", number)
    world.until(lambda: newcomer.engine.replica.writable, "admission")
    world.settle()
    assert [newcomer.get(f"during{number}") for number in range(3)] == [0, 1, 2]
    assert len({node.engine.state.digest() for node in (newcomer, *nodes)}) == 1


def between(seed: int) -> tuple[World, EngineNode, EngineNode, EngineNode, EngineNode]:
    """Let a newcomer lose its guide, who holds more than the others, before its admission came.

    Returns the world, the guide, two others and the newcomer.
    """
    world = World(seed)
    a, b, c = world.cluster("abc")
    world.cut(a)
    for number in range(5):
        a.put(f"k{number}", number)
    known = a.engine.state.vector[a.id]
    newcomer = world.node("n", peers=3).start()
    # The admission is long in coming.
    a.disk_us = 1_000_000
    world.link(newcomer, a)
    world.until(lambda: newcomer.engine.state.vector.get(a.id, 0) == known, "what the guide wrote")
    a.kill()
    assert not newcomer.engine.epoch.is_member
    assert b.engine.state.vector[a.id] < known
    return world, a, b, c, newcomer


@pytest.mark.parametrize("seed", range(4))
def test_who_changes_its_guide_writes_only_when_the_new_one_holds_as_much(seed: int) -> None:
    world, a, b, _, newcomer = between(seed)
    held = newcomer.engine.state.vector[a.id]
    world.link(newcomer, b)
    while not newcomer.engine.replica.writable:
        assert world.step()
    assert b.engine.state.vector[a.id] >= held
    newcomer.put("mine", 1)
    world.until(lambda: b.get("mine") == 1, "the newcomer's write")


@pytest.mark.parametrize("seed", range(4))
def test_who_holds_what_is_beyond_a_cut_never_begins_to_write(seed: int) -> None:
    world, a, b, c, newcomer = between(seed)
    # a is dead for good, and what it wrote last is known to the newcomer alone.
    gone = a.id
    b.evict(gone)
    world.until(lambda: gone in b.engine.epoch.settled, "final cut")
    assert newcomer.engine.state.vector[gone] > b.engine.epoch.settled[gone]
    world.link(newcomer, b)
    ticket = newcomer.operate("register", "mine", "set", 1)
    world.until(lambda: newcomer.retired or b.alarms, "verdict")
    world.spend(70)
    assert newcomer.id not in newcomer.engine.state.vector
    assert newcomer.replies[ticket].error is not None
    assert c.engine.replica.halted is None
    assert [alarm.name for alarm in b.alarms if alarm.name == "not admitted"]


def test_a_member_admits_whom_it_met_before_it_was_one() -> None:
    """Harm: a node linked only to one that was new itself waited for ever."""
    world = World(3)
    (a,) = world.cluster("a")
    b, c = world.node("b", peers=2).start(), world.node("c", peers=2).start()
    world.link(c, b)
    world.spend(1)
    assert not b.engine.epoch.records
    world.link(b, a)
    world.until(lambda: b.engine.epoch.is_member, "b's admission")
    world.until(lambda: c.engine.replica.writable, "c's admission")
    c.put("k", 1)
    world.until(lambda: a.get("k") == 1, "c's write")


def test_who_has_gone_meanwhile_is_not_admitted() -> None:
    """Harm: a member that never comes is waited for, and nothing is stable any more."""
    world = World(3)
    (a,) = world.cluster("a")
    b, c = world.node("b", peers=2).start(), world.node("c", peers=2).start()
    world.link(c, b)
    world.spend(1)
    gone = c.id
    c.kill()
    world.spend(1)
    world.link(b, a)
    world.until(lambda: b.engine.epoch.is_member, "b's admission")
    world.spend(2)
    assert gone not in a.engine.epoch.records
    vector = VersionVector(a.engine.state.vector)
    assert a.engine.epoch.stable_vector(vector) == vector


def test_a_member_that_has_not_written_yet_may_after_a_restart_without_peers() -> None:
    world = World(5)
    _, b = world.cluster("ab")
    b.put("k", 0)
    c = world.node("c", peers=2).start()
    world.link(c, b)
    world.until(lambda: c.engine.replica.writable, "admission")
    world.spend(3)
    assert not c.engine.state.vector.get(c.id)
    c.kill()
    c.start()
    c.put("k", 1)
    assert c.get("k") == 1
