"""What an original had set aside was never rescued, because its copy was named the successor.

Found by the membership machine: a store was copied, the copy was admitted first, and the
original, evicted meanwhile, came back with writes that the copy had never seen. One replica
was entitled to all that the former id had lost, and it was the one that held less.
"""

from __future__ import annotations

from crdtmem.limits import DEFAULT_LIMITS
from crdtmem.rescue import Rescue
from tests.epoch.harness import Cluster, Node, act


def _cluster_with_an_evicted() -> tuple[Cluster, Node, int]:
    """Return a cluster, one of it that was given up, and how much a copy of that had seen."""
    cluster = Cluster("abc")
    c = cluster["c"]
    c.write(act("log", "l", "append", "shared"))
    cluster.sync()
    c.write(act("log", "l", "append", "in both"))
    seen = c.vector[c.id]
    c.write(act("log", "l", "append", "in the original alone"))
    cluster["a"].evict(c)
    cluster.sync("ab")
    return cluster, c, seen


def _admit(cluster: Cluster, name: str, former: Node, last: int) -> Node:
    newcomer = cluster.node(name)
    cluster["a"].admit(newcomer, predecessor=former.id, predecessor_last=last)
    newcomer.pull(cluster["a"])
    cluster.sync("ab" + name)
    return newcomer


def test_each_lost_dot_has_the_first_successor_that_holds_it() -> None:
    cluster, c, seen = _cluster_with_an_evicted()
    copy = _admit(cluster, "d", c, seen)
    original = _admit(cluster, "e", c, c.vector[c.id])
    cluster.sync("abde")
    for node in (cluster["a"], copy, original):
        node.stable()
        assert node.epoch.successor(c.id, seen) == copy.id
        assert node.epoch.successor(c.id, seen + 1) == original.id
    rescue = Rescue(c.id, cluster["a"].epoch.settled[c.id], c.log[c.id])
    for lost in rescue.transactions:
        owner = copy if lost.last <= seen else original
        for transaction in rescue.rescue(lost, owner.replica.state):
            owner.commit(transaction.seal(DEFAULT_LIMITS))
        cluster.sync("abde")
    assert cluster["b"].value("log", "l") == ["shared", "in both", "in the original alone"]


def test_nobody_rescues_twice_what_both_hold() -> None:
    cluster, c, _ = _cluster_with_an_evicted()
    copy = _admit(cluster, "d", c, c.vector[c.id])
    original = _admit(cluster, "e", c, c.vector[c.id])
    rescue = Rescue(c.id, cluster["a"].epoch.settled[c.id], c.log[c.id])
    for holder in (copy, original):
        for lost in rescue.transactions:
            for transaction in rescue.rescue(lost, holder.replica.state):
                holder.commit(transaction.seal(DEFAULT_LIMITS))
    cluster.sync("abde")
    cluster.sync("abde")
    lines = cluster["b"].value("log", "l")
    assert sorted(lines) == sorted(["shared", "in both", "in the original alone"])


def test_where_nobody_claims_an_id_that_is_gone_whoever_holds_it_may() -> None:
    cluster, c, seen = _cluster_with_an_evicted()
    a = cluster["a"]
    a.stable()
    assert a.epoch.successor(c.id, seen + 1) == a.id
    assert a.epoch.successor(cluster["b"].id, 1) is None, "it is a member still"


def test_after_damage_whoever_had_most_is_the_successor() -> None:
    cluster, c, seen = _cluster_with_an_evicted()
    _admit(cluster, "d", c, seen - 1)
    original = _admit(cluster, "e", c, seen)
    cluster.sync("abde")
    cluster["b"].stable()
    assert cluster["b"].epoch.successor(c.id, seen + 1) == original.id
