"""Equal vectors with unequal digests: mended upon evidence, never by copying the other side."""

from __future__ import annotations

from crdtmem.digest import DotDigest
from crdtmem.entries import Stamp, pack_dot
from tests.sync.host import SPACE, Cluster, SyncNode, dump

REGISTER = 1


def pair(seed: int = 0) -> tuple[Cluster, SyncNode, SyncNode]:
    cluster = Cluster(seed)
    a, b = cluster.node(1), cluster.node(2)
    cluster.mesh()
    for number in range(30):
        a.put(**{f"key{number}": number})
        b.put(**{f"key{number + 20}": -number})
    cluster.settle()
    return cluster, a, b


def lose(node: SyncNode, key: str) -> int:
    """Forget an entry, in memory only, as a defect or a flipped bit would."""
    table = node.state.find(SPACE, REGISTER)
    assert table is not None
    slot = table.slots.pop(key)
    node.state.rebuild_derived()
    return int(slot[0])


def alarms(node: SyncNode, name: str) -> list[dict[str, object]]:
    return [alarm.details for alarm in node.alarms if alarm.name == name]


def touch(cluster: Cluster, node: SyncNode) -> None:
    """Write something, so that the vectors are compared again."""
    node.put(touched=cluster.now_us)
    cluster.pass_s(15)


def test_what_memory_lost_is_rederived_from_the_own_store() -> None:
    for loser in (0, 1):
        cluster, a, b = pair(loser)
        node = (a, b)[loser]
        lose(node, "key5")
        touch(cluster, a)
        cluster.settle()
        assert node.value("key5") == 5
        assert alarms(node, "rederived")
        assert not alarms(a, "repaired") + alarms(b, "repaired"), "no peer was needed"


def forget_in_store(node: SyncNode) -> None:
    """From now on the store's own answer agrees with memory, wrong as both are."""
    node._rederived = lambda request: node.sync.rederived(request, True, node.now_us)  # type: ignore[method-assign]


def test_an_entry_that_memory_and_store_lost_is_restored_by_the_peer() -> None:
    for loser in (0, 1):
        cluster, a, b = pair(loser)
        node, other = ((a, b), (b, a))[loser]
        dot = lose(node, "key5")
        forget_in_store(node)
        touch(cluster, a)
        cluster.settle()
        assert node.value("key5") == other.value("key5") == 5
        (details,) = alarms(node, "repaired")
        assert details["restored"] == [f"{dot >> 64:016x}:{dot & (1 << 64) - 1}"]
        assert details["dropped"] == []
        assert not alarms(other, "repaired"), "nothing was changed there"


def test_a_ghost_goes_only_upon_the_delta_that_superseded_it() -> None:
    for haunted in (0, 1):
        cluster, a, b = pair(haunted)
        node = (a, b)[haunted]
        table = node.state.find(SPACE, REGISTER)
        assert table is not None
        ghost = table.slots["key1"]
        a.operate("register", "key1", "delete")
        cluster.settle()
        table.slots["key1"] = ghost
        node.state.rebuild_derived()
        forget_in_store(node)
        touch(cluster, a)
        cluster.settle()
        assert a.value("key1") is None
        assert b.value("key1") is None
        (details,) = alarms(node, "repaired")
        assert len(details["dropped"]) == 1  # type: ignore[arg-type]


def test_a_ghost_without_evidence_is_kept_and_restored_to_the_other() -> None:
    """Nobody can show why it should go: it may be the only copy of something real."""
    cluster, a, b = pair(7)
    table = b.state.find(SPACE, REGISTER)
    assert table is not None
    a.operate("register", "key3", "delete")
    cluster.settle()
    dot = pack_dot(1, a.state.vector[1])
    table.slots["unexplained"] = (dot, "?", Stamp(1, 5, 5, "nobody"))
    b.state.rebuild_derived()
    forget_in_store(b)
    touch(cluster, a)
    cluster.settle()
    assert a.value("unexplained") == b.value("unexplained") == "?"
    assert alarms(a, "repaired")


def test_many_losses_are_repaired_round_by_round() -> None:
    cluster, a, b = pair(8)
    for start in range(0, 1_000, 100):
        a.put(**{f"more{number}": number for number in range(start, start + 100)})
    cluster.settle()
    table = b.state.find(SPACE, REGISTER)
    assert table is not None
    for key in [key for key in table.slots if key.startswith("more")][::2]:
        del table.slots[key]
    b.state.rebuild_derived()
    forget_in_store(b)
    for _ in range(4):
        touch(cluster, a)
    cluster.settle()
    assert len(alarms(b, "repaired")) > 1
    assert b.value("more998") == 998
    assert dump(a.state) == dump(b.state)


def test_a_write_in_between_voids_the_round_and_the_next_one_mends() -> None:
    cluster, a, b = pair(9)
    lose(b, "key5")
    forget_in_store(b)
    a.put(touched=1)
    cluster.run(lambda: bool(b.replica.installations) or bool(b.installed), limit_s=30)
    b.put(key5="written meanwhile")
    cluster.settle(limit_s=120)
    assert b.value("key5") == a.value("key5") == "written meanwhile"


def test_the_digest_of_a_state_is_that_of_its_entries() -> None:
    _, a, _ = pair(10)
    fresh = DotDigest()
    fresh.add(entry[0] for *_, entry in a.state.entries())
    assert fresh.value() == a.state.digest()
