"""A cluster of which nothing is left but backups comes up again, with all that they hold.

Harm: every restored node had a new id and waited for a member of the old cluster to admit it,
and there was none: the data were safe, and nobody could write.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from crdtmem.memory import Memory
from crdtmem.store import MemoryDisk
from tests.engines import EngineNode, World


def lost_cluster(world: World) -> tuple[list[EngineNode], list[MemoryDisk]]:
    """Return three dead nodes, and backups of different age, each with something of its own."""
    nodes = world.cluster("abc")
    a, b, c = nodes
    a.put("shared", 1)
    world.settle()
    backups = [a.disk.copy()]
    b.put("shared", 2)
    world.settle()
    for node in nodes:
        world.cut(node)
    b.put("only-b", "b")
    b.operate("counter", "n", "increment", 3)
    c.put("only-c", "c")
    world.spend(0.1)
    backups += [b.disk.copy(), c.disk.copy()]
    a.put("lost", "written after the backup")
    for node in nodes:
        node.kill()
    return nodes, backups


def restored(nodes: list[EngineNode], backups: list[MemoryDisk]) -> None:
    for node, backup in zip(nodes, backups, strict=True):
        node.disk = backup
        node.alarms.clear()


def mesh(world: World, nodes: list[EngineNode]) -> None:
    for index, node in enumerate(nodes):
        for earlier in nodes[:index]:
            world.link(node, earlier)


@pytest.mark.parametrize("founder", range(3))
@pytest.mark.parametrize("seed", range(3))
def test_one_founds_and_the_others_join_with_all_that_they_hold(seed: int, founder: int) -> None:
    world = World(seed)
    nodes, backups = lost_cluster(world)
    former = [node.id for node in nodes]
    restored(nodes, backups)
    for number, node in enumerate(nodes):
        node.start(found=number == founder)
    mesh(world, nodes)
    world.until(lambda: all(node.engine.replica.writable for node in nodes), "members")
    for node in nodes:
        node.put(f"new-{node.name}", node.name)
    world.settle()
    for node in nodes:
        found = [node.get(key) for key in ("shared", "only-b", "only-c", "lost", "new-a", "new-c")]
        assert found == [2, "b", "c", None, "a", "c"]
        assert node.get("n", "counter") == 3
        assert node.engine.cluster_id == nodes[founder].id
    # What was before is given up by whoever runs the cluster, when all backups have come in.
    for gone in former:
        nodes[0].evict(gone, forced=True)
    ids = {node.id for node in nodes}
    world.until(lambda: all(node.engine.epoch.members == ids for node in nodes), "final cuts")
    nodes[1].put("after", 1)
    world.settle()
    world.spend(10)
    for node in nodes:
        vector = node.engine.state.vector
        assert node.engine.epoch.stable_vector(vector) == vector
        assert node.engine.replica.halted is None


def test_a_backup_that_turns_up_later_joins_too() -> None:
    world = World(1)
    nodes, backups = lost_cluster(world)
    a, b, c = nodes
    restored(nodes, backups)
    a.start(found=True)
    b.start()
    world.link(b, a)
    world.until(lambda: b.engine.replica.writable, "member")
    b.put("new", 1)
    a.kill()
    a.start()
    assert not [alarm for alarm in a.alarms if alarm.name == "not founded"]
    c.start()
    world.link(c, a)
    world.until(lambda: c.engine.replica.writable, "member")
    world.link(b, a)
    world.settle()
    assert [node.get("only-c") for node in nodes] == ["c"] * 3


def test_without_a_founder_they_wait_and_say_so() -> None:
    world = World(1)
    nodes, backups = lost_cluster(world)
    restored(nodes, backups)
    for node in nodes:
        node.start()
    mesh(world, nodes)
    world.spend(30)
    assert not any(node.engine.replica.writable for node in nodes)


def test_a_cluster_that_lives_turns_the_new_one_away() -> None:
    world = World(1)
    a, b = world.cluster("ab")
    b.put("k", 1)
    world.settle()
    copy = world.node("x", peers=2)
    copy.disk = b.disk.copy()
    copy.start(found=True)
    world.link(copy, a)
    world.link(copy, b)
    world.until(lambda: copy.engine.replica.writable, "founding")
    copy.put("astray", 1)
    world.spend(30)
    assert (a.get("astray"), b.get("astray")) == (None, None)
    assert copy.engine.sync.info() == []
    assert a.engine.replica.halted is b.engine.replica.halted is None


@pytest.mark.parametrize("seed", range(20))
def test_a_restored_node_that_meets_both_joins_one(seed: int) -> None:
    """Harm: linked to two clusters before it belonged to one, it would have merged them."""
    world = World(seed)
    a, b = world.cluster("ab")
    b.put("k", 1)
    world.settle()
    anew, torn = world.node("x", peers=2), world.node("y", peers=2)
    anew.disk, torn.disk = b.disk.copy(), b.disk.copy()
    anew.start(found=True)
    world.until(lambda: anew.engine.replica.writable, "founding")
    anew.put("of-the-new", 1)
    a.put("of-the-old", 1)
    torn.start()
    world.link(torn, anew)
    world.link(torn, a)
    world.until(lambda: torn.engine.replica.writable, "member")
    torn.put("torn", 1)
    world.spend(30)
    is_new = torn.engine.cluster_id == anew.id
    assert (torn.get("of-the-new"), torn.get("of-the-old")) == ((1, None) if is_new else (None, 1))
    assert anew.get("of-the-old") is None
    assert a.get("of-the-new") is None
    assert len(torn.engine.sync.info()) == 1


def test_who_is_a_member_founds_nothing() -> None:
    world = World(1)
    a, b = world.cluster("ab")
    before = b.engine.cluster_id
    world.spend(2)
    b.kill()
    b.start(found=True)
    assert [alarm.name for alarm in b.alarms] == ["not founded"]
    assert b.engine.cluster_id == before == a.id


def test_a_fresh_node_founds_at_once_when_told_to() -> None:
    world = World(1)
    a = world.node("a", peers=3).start(found=True)
    a.put("k", 1)
    assert a.get("k") == 1


def test_an_embedded_memory_can_go_on_alone_with_a_backup(tmp_path: Path) -> None:
    world = World(1)
    _, b = world.cluster("ab")
    b.put("k", 1)
    assert b.disk.records

    async def story() -> None:
        async with await Memory.open(f"sqlite:///{tmp_path}/a.db", region="a") as memory:
            await memory.space("s").put("k", 1)
            memory.runtime.store.backup(str(tmp_path / "copy.db"))
        async with await Memory.open(f"sqlite:///{tmp_path}/copy.db", found=True) as memory:
            await memory.space("s").put("k2", 2)
            assert await memory.space("s").get("k") == 1

    asyncio.run(story())
