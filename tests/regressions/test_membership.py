"""Interleavings of admission, eviction, collection and rescue that once broke a wording.

Each test is one story, and tells its harm: what a reader would have seen had the rule not held.
Numbers in names are those of the list of anomalies.
"""

from __future__ import annotations

import pytest

from crdtmem.errors import ConditionFailed, ReplicaHalted
from crdtmem.inbox import Verdict
from crdtmem.limits import DEFAULT_LIMITS
from crdtmem.rescue import Rescue
from tests.epoch.harness import Cluster, Node, act


def rescue_all(successor: Node, evicted: Node) -> int:
    """Rescue all that an evicted node kept beyond its cut; returns how many were written."""
    cut = successor.epoch.settled[evicted.id]
    rescue = Rescue(evicted.id, cut, evicted.log[evicted.id])
    written = 0
    for lost in rescue.transactions:
        for transaction in rescue.rescue(lost, successor.replica.state):
            written += not successor.commit(transaction.seal(DEFAULT_LIMITS)).repeated
    return written


def rejoin(cluster: Cluster, evicted: Node, name: str, sponsor: str = "a") -> Node:
    """Start again from nothing, under a new id, as the successor of an evicted node."""
    successor = cluster.node(name)
    cluster[sponsor].admit(successor, predecessor=evicted.id)
    successor.pull(cluster[sponsor])
    return successor


# ---------------------------------------------------------------------------- admission


def test_a_newcomer_that_writes_before_its_admission() -> None:
    """Harm: b collects a removal as stable while d, unknown to it, adds without having seen it."""
    cluster = Cluster("abc")
    a, b, c = cluster["a"], cluster["b"], cluster["c"]
    a.write(act("set_remove_wins", "grants", "add", "eve"))
    cluster.sync()
    d = cluster.node("d")
    c.admit(d)
    # d may not write yet: it has not joined its admission, however much else it has.
    assert not d.epoch.is_member
    b.write(act("set_remove_wins", "grants", "remove", "eve"))
    cluster.sync("abc")
    assert not b.stable().covers(b.last_dot()), "c is known to have admitted d, so d is waited for"
    d.pull(c)
    assert d.epoch.is_member
    assert d.vector.covers(b.last_dot()), "what d writes first follows its admission"
    d.write(act("set_remove_wins", "grants", "add", "mallory"))
    cluster.sync()
    assert b.stable().covers(b.last_dot())
    assert sum(node.collect() for node in (a, b, c, d)) == 1
    cluster.sync()
    assert {str(n.value("set_remove_wins", "grants")) for n in (a, b, c, d)} == {"['mallory']"}


def test_a_newcomer_is_not_missed_by_a_replica_that_does_not_know_it_yet() -> None:
    """Harm: stability without the newcomer, and then its concurrent write arrives."""
    cluster = Cluster("abc")
    a, b, c = cluster["a"], cluster["b"], cluster["c"]
    d = cluster.node("d")
    c.admit(d)
    d.pull(c)
    dot = b.write(act("set_remove_wins", "grants", "remove", "eve"))
    # d adds concurrently; c, its sponsor, has joined the removal; a and b know nothing of d.
    d.write(act("set_remove_wins", "grants", "add", "eve"))
    c.pull(b, b)
    a.pull(b, b)
    for other in (a, c):
        b.hear(other)
    # c's acknowledgement covers the removal, but also its own admission of d, which b lacks.
    assert d.id not in b.epoch.records
    assert not b.stable().covers(dot)


# ---------------------------------------------------------------------------- eviction


def test_eviction_with_dots_in_flight() -> None:
    """Harm: one survivor holds a dot of the evicted that another will never take."""
    cluster = Cluster("abcd")
    a, b, c, d = (cluster[name] for name in "abcd")
    d.write(act("counter", "n", "increment", 1))
    d.write(act("counter", "n", "increment", 1))
    b.pull(d, d)
    d.write(act("counter", "n", "increment", 1))
    c.pull(d, d)
    last = d.vector[d.id]
    a.evict(d)
    # a holds none of it, and takes none from d itself any more; but what c holds it has to take.
    assert a.take(d.log[d.id][0], d) is Verdict.BEYOND_CUT
    cluster.sync("abc")
    for node in (a, b, c):
        assert node.epoch.settled == {d.id: last}
        assert node.vector[d.id] == last
        assert node.value("counter", "n") == 3
    assert d.id not in a.epoch.members


def test_an_evicted_replica_is_waited_for_until_its_cut_is_final() -> None:
    """Harm: a collects once it has promised; a dot of c below the cut then arrives."""
    cluster = Cluster("abc")
    a, b, c = cluster["a"], cluster["b"], cluster["c"]
    c.write(act("set_remove_wins", "grants", "add", "eve"))
    b.pull(c, c)
    dot = a.write(act("set_remove_wins", "grants", "remove", "eve"))
    a.evict(c)
    b.pull(a, a)
    a.hear(b)
    assert c.id in a.epoch.leaving
    assert not a.stable().covers(dot), "b may hold what c wrote without having seen the removal"
    cluster.sync("ab")
    assert a.epoch.settled == {c.id: c.vector[c.id]}
    assert a.stable().covers(dot)
    assert a.collect() == 1
    cluster.sync("ab")
    assert a.value("set_remove_wins", "grants") == b.value("set_remove_wins", "grants") == []


def test_two_replicas_that_evict_each_other() -> None:
    """Harm: both sides succeed, and there are two clusters; or both go."""
    cluster = Cluster("abc")
    a, b, c = cluster["a"], cluster["b"], cluster["c"]
    a.evict(b)
    b.evict(a)
    c.pull(b)
    c.pull(a)
    cluster.sync()
    halted = [node for node in (a, b, c) if node.halted is not None]
    assert len(halted) == 1
    (loser,) = halted
    assert loser is not c
    winner = b if loser is a else a
    assert winner.epoch.settled.keys() == c.epoch.settled.keys() == {loser.id}
    with pytest.raises(ReplicaHalted):
        loser.write(act("register", "k", "set", 1))


def test_two_replicas_that_evict_each_other_before_a_split_of_the_others() -> None:
    """Harm: promises are taken back, and both sets are decided by those who saw either half."""
    cluster = Cluster("abcd")
    a, b, c, d = (cluster[name] for name in "abcd")
    a.evict(b)
    b.evict(a)
    c.pull(a)
    d.pull(b)
    cluster.sync()
    assert not any(node.halted for node in (a, b, c, d)), "no majority: nobody goes"
    assert not any(node.epoch.settled for node in (a, b, c, d))
    assert any(alarm.name == "eviction_contested" for alarm in c.alarms)
    # Everything goes on but collection, and an operator breaks the tie: d goes too, by force.
    c.write(act("register", "k", "set", 1))
    cluster.sync()
    assert d.value("register", "k") == 1
    c.evict(d, forced=True)
    cluster.sync()
    assert c.halted is None
    assert a.halted is None
    assert b.halted is not None
    assert d.halted is not None
    assert a.epoch.settled.keys() == c.epoch.settled.keys() == {b.id, d.id}


def test_two_members_evict_only_by_force() -> None:
    """Harm: each half of a partitioned pair gives up the other and goes on alone."""
    cluster = Cluster("ab")
    a, b = cluster["a"], cluster["b"]
    with pytest.raises(ConditionFailed):
        a.evict(b)
    a.evict(b, forced=True)
    assert a.epoch.settled == {b.id: b.vector.get(b.id, 0)}
    b.pull(a)
    assert b.halted is not None


def test_one_side_cannot_admit_its_way_to_a_majority() -> None:
    """Harm: c, cut off, admits three newcomers and evicts a and b, who evict c: two clusters."""
    cluster = Cluster("abc")
    a, b, c = cluster["a"], cluster["b"], cluster["c"]
    for name in "def":
        newcomer = cluster.node(name)
        c.admit(newcomer)
        newcomer.pull(c)
    cluster.sync("cdef")
    c.evict(a)
    with pytest.raises(ConditionFailed):
        c.evict(b)
    cluster.sync("cdef")
    assert not any(cluster[name].epoch.settled for name in "cdef")
    a.evict(c)
    cluster.sync("ab")
    assert a.epoch.settled.keys() == b.epoch.settled.keys() == {c.id}
    cluster.sync()
    assert a.halted is b.halted is None
    assert all(cluster[name].halted is not None for name in "cdef")


def test_a_second_eviction_before_the_first_cut_is_final() -> None:
    """Harm: the first cut stands though the one who raised it is gone with its promise."""
    cluster = Cluster("abcde")
    a, b, c, d, e = (cluster[name] for name in "abcde")
    e.write(act("counter", "n", "increment", 1))
    d.pull(e, e)
    a.evict(e)
    for node in (b, c):
        node.pull(a)
    d.pull(a)
    # d has promised with one dot more than the others, and is lost before anyone took it.
    b.evict(d)
    cluster.sync("abc")
    assert a.epoch.settled.keys() == {d.id, e.id}
    assert a.epoch.settled == b.epoch.settled == c.epoch.settled
    assert a.epoch.settled[e.id] == a.vector.get(e.id, 0) == 0
    cluster.sync("abcd")
    assert d.halted is not None, "d is beyond the cut of e"
    cluster.sync("abc")
    assert a.value("counter", "n") == 0


def test_a_second_eviction_keeps_what_a_survivor_took_from_the_second() -> None:
    """Harm: a dot below one survivor's feet is declared beyond the cut."""
    cluster = Cluster("abcde")
    a, b, c, d, e = (cluster[name] for name in "abcde")
    e.write(act("counter", "n", "increment", 1))
    d.pull(e, e)
    a.evict(e)
    d.pull(a)
    b.pull(d)  # b takes the dot through d, a survivor as far as it knows
    assert b.vector[e.id] == 1
    c.pull(a)
    c.evict(d)
    cluster.sync("abc")
    assert a.epoch.settled[e.id] == 1
    assert {node.value("counter", "n") for node in (a, b, c)} == {1}


def test_a_newcomer_whose_sponsor_was_cut_off_before_it_was_admitted() -> None:
    """Harm: a newcomer stays, admitted by a dot that no survivor has."""
    cluster = Cluster("abc")
    a, c = cluster["a"], cluster["c"]
    d = cluster.node("d")
    c.admit(d)
    d.pull(c)
    e = cluster.node("e")
    d.admit(e)
    e.pull(d)
    a.evict(c)
    cluster.sync("ab")
    assert a.epoch.settled == {c.id: 0}
    for node in (d, e):
        node.pull(a)
        assert node.halted is not None
        assert "admission lies beyond the cut" in node.halted.reason
    assert d.id not in a.epoch.records


def test_late_delta_from_a_removed_node_10() -> None:
    """Harm: a delta of an evicted node arrives after its removal was collected, and is joined."""
    cluster = Cluster("abc")
    a, b, c = cluster["a"], cluster["b"], cluster["c"]
    c.write(act("set_remove_wins", "grants", "add", "eve"))
    late = c.log[c.id][-1]
    a.evict(c)
    cluster.sync("ab")
    dot = a.write(act("set_remove_wins", "grants", "remove", "eve"))
    cluster.sync("ab")
    assert a.stable().covers(dot)
    assert a.collect() == 1
    cluster.sync("ab")
    for node in (a, b):
        assert node.take(late, c) is Verdict.BEYOND_CUT
        assert node.value("set_remove_wins", "grants") == []
    a.pull(c)
    assert a.vector.get(c.id, 0) == 0


def test_counter_counted_twice_when_a_pruned_node_returns_9() -> None:
    """Harm: the evicted node's total is folded into the others', and it comes back with it."""
    cluster = Cluster("abc")
    a, b, c = cluster["a"], cluster["b"], cluster["c"]
    c.write(act("counter", "n", "increment", 5))
    cluster.sync()
    c.write(act("counter", "n", "increment", 2))
    a.evict(c)
    a.write(act("counter", "n", "increment", 1))
    cluster.sync("ab")
    assert a.value("counter", "n") == 6
    a.pull(c)
    c.pull(a)
    assert c.halted is not None
    assert a.value("counter", "n") == 6
    d = rejoin(cluster, c, "d")
    cluster.sync("abd")
    assert rescue_all(d, c) == 1
    d.write(act("counter", "n", "increment", 10))
    cluster.sync("abd")
    assert {node.value("counter", "n") for node in (a, b, d)} == {18}


# ---------------------------------------------------------------------------- rescue


def test_rescue_counts_once() -> None:
    """Harm: a second rescue counts again, or a rescue brings the total and not the increment."""
    cluster = Cluster("abc")
    a, c = cluster["a"], cluster["c"]
    c.write(act("counter", "n", "increment", 100))
    cluster.sync()
    for _ in range(3):
        c.write(act("counter", "n", "increment", 7), act("log", "l", "append", "seen"))
    a.evict(c)
    cluster.sync("ab")
    d = rejoin(cluster, c, "d")
    cluster.sync("abd")
    assert a.epoch.successor(c.id) == d.id
    assert rescue_all(d, c) == 3
    assert rescue_all(d, c) == 0
    cluster.sync("abd")
    assert rescue_all(a, c) == 0, "the marks are replicated"
    assert a.value("counter", "n") == 121
    assert a.value("log", "l") == ["seen"] * 3


def test_rescue_of_a_write_that_did_get_through() -> None:
    """Harm: a write below the cut, or one that its client repeated elsewhere, counts twice."""
    cluster = Cluster("abc")
    a, b, c = cluster["a"], cluster["b"], cluster["c"]
    c.write(act("counter", "n", "increment", 1))
    b.pull(c, c)
    c.write(act("counter", "n", "increment", 10), retry=b"client-7")
    # The client got no answer, and asked b to do it.
    b.write(act("counter", "n", "increment", 10), retry=b"client-7")
    a.evict(c)
    cluster.sync("ab")
    d = rejoin(cluster, c, "d")
    cluster.sync("abd")
    below = Rescue(c.id, 0, c.log[c.id])
    assert [write.state for write in below.listing(d.replica.state)] == ["arrived", "lost"]
    assert below.rescue(below.transactions[0], d.replica.state) == []
    assert rescue_all(d, c) == 0
    cluster.sync("abd")
    assert {node.value("counter", "n") for node in (a, b, d)} == {11}


# ---------------------------------------------------------------------------- collection


def test_collection_with_an_in_flight_concurrent_add() -> None:
    """Harm: the removal is collected while a concurrent add is on its way, which then lives."""
    cluster = Cluster("abc")
    a, b, c = cluster["a"], cluster["b"], cluster["c"]
    c.write(act("set_remove_wins", "grants", "add", "eve"))
    dot = a.write(act("set_remove_wins", "grants", "remove", "eve"))
    b.pull(a)
    c.pull(a)
    a.hear(b)
    a.hear(c)  # c has joined the removal, but its own add has not arrived at a
    assert not a.stable().covers(dot)
    assert a.collect() == 0
    a.pull(c)
    cluster.sync()
    assert a.stable().covers(dot)
    assert a.collect() == 1
    cluster.sync()
    assert {str(node.value("set_remove_wins", "grants")) for node in (a, b, c)} == {"[]"}


def test_an_add_beside_a_removal_that_is_collected() -> None:
    """Harm: the removal goes, the concurrent add beside it stays, and what was out is in."""
    cluster = Cluster("abc")
    a, b, c = cluster["a"], cluster["b"], cluster["c"]
    b.write(act("set_remove_wins", "grants", "add", "eve"))
    a.write(act("set_remove_wins", "grants", "remove", "eve"))
    cluster.sync()
    assert a.value("set_remove_wins", "grants") == []
    assert a.collect() == 1
    cluster.sync()
    for node in (a, b, c):
        assert node.value("set_remove_wins", "grants") == []
        assert not node.replica.state.find(("notes",), 9) or not any(
            True
            for _ in node.replica.state.find(("notes",), 9).places()  # type: ignore[union-attr]
        )
    c.write(act("set_remove_wins", "grants", "add", "eve"))
    cluster.sync()
    assert a.value("set_remove_wins", "grants") == ["eve"]


def test_increment_reset_collect_increment() -> None:
    """Harm: after its baseline was collected, an old total counts again under a new beginning."""
    cluster = Cluster("abc")
    a, b, c = cluster["a"], cluster["b"], cluster["c"]
    b.write(act("counter", "n", "increment", 5))
    cluster.sync()
    c.write(act("counter", "n", "delete"))
    cluster.sync()
    assert a.collect() == 1
    cluster.sync()
    b.write(act("counter", "n", "increment", 2))
    cluster.sync()
    assert {node.value("counter", "n") for node in (a, b, c)} == {2}


def test_a_removal_is_not_collected_while_one_member_is_cut_off() -> None:
    """Harm: a long-offline member returns with an add from before, and nothing beats it (5, 6)."""
    cluster = Cluster("abc")
    a, c = cluster["a"], cluster["c"]
    c.write(act("set_remove_wins", "grants", "add", "eve"))
    a.write(act("set_remove_wins", "grants", "remove", "eve"))
    for _ in range(50):
        a.write(act("counter", "busy", "increment"))
        cluster.sync("ab")
        assert a.collect() == 0
    cluster.sync()
    assert a.value("set_remove_wins", "grants") == []
    assert a.collect() == 1


# ---------------------------------------------------------------------------- retries


def test_a_retry_through_another_node_counts_once() -> None:
    """Harm: both copies are written before either has seen the other, and both count."""
    cluster = Cluster("abc")
    a, b, c = cluster["a"], cluster["b"], cluster["c"]
    work = (act("counter", "n", "increment", 3), act("log", "l", "append", "once"))
    a.write(*work, retry=b"x")
    b.write(*work, retry=b"x")
    c.write(*work, retry=b"x")
    cluster.sync()
    for node in (a, b, c):
        assert node.value("counter", "n") == 3
        assert node.value("log", "l") == ["once"]
