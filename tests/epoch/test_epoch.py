"""The epoch: members, acknowledgements, and stability exactly as defined."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crdtmem.causality import VersionVector
from crdtmem.entries import pack_dot
from crdtmem.epoch import MEMBER_PREFIX, REGISTER, Epoch, admission_operations
from crdtmem.errors import ConditionFailed, LimitExceeded
from crdtmem.policy import SYSTEM_SPACE
from crdtmem.transaction import Operation
from tests.epoch.harness import Cluster, act


def test_the_founder_admits_itself_and_names_the_cluster() -> None:
    cluster = Cluster("a")
    a = cluster["a"]
    (record,) = a.epoch.records.values()
    assert record.is_founder
    assert (record.region, record.node) == ("region-a", "a")
    assert a.epoch.cluster_id == a.id
    assert a.stable() == a.vector


def test_members_know_each_other_and_their_sponsor() -> None:
    cluster = Cluster("abc")
    for node in cluster.nodes.values():
        assert node.epoch.members == {n.id for n in cluster.nodes.values()}
        assert {record.sponsor for record in node.epoch.records.values()} == {cluster["a"].id}
        assert node.epoch.cluster_id == cluster["a"].id
        assert node.epoch.lowest_live_member() == cluster["a"].id
        assert node.epoch.regions() == {"region-a", "region-b", "region-c"}


def test_two_sponsors_of_one_newcomer_are_one_admission() -> None:
    cluster = Cluster("ab")
    a, b = cluster["a"], cluster["b"]
    c = cluster.node("c")
    a.admit(c)
    b.admit(c)
    c.sponsor = None
    c.pull(a)
    c.pull(b)
    cluster.sync()
    assert len(a.epoch.records[c.id].admissions) == 2
    assert a.epoch.records == b.epoch.records == c.epoch.records


def test_only_members_admit_and_not_without_end() -> None:
    cluster = Cluster("ab")
    a = cluster["a"]
    outsider = cluster.node("x")
    with pytest.raises(ConditionFailed):
        admission_operations(outsider.epoch, 9, "r", "n")
    with pytest.raises(LimitExceeded):
        admission_operations(a.epoch, 9, "r", "n", limit=2)
    assert admission_operations(a.epoch, cluster["b"].id, "r", "n") == []


def test_a_record_that_cannot_be_read_still_makes_a_member() -> None:
    cluster = Cluster("a")
    a = cluster["a"]
    key = f"{MEMBER_PREFIX}{77:016x}"
    a.write(Operation(SYSTEM_SPACE, REGISTER, key, "set", ("a later version's",)))
    assert 77 in a.epoch.members
    assert not a.stable().covers(a.last_dot())
    a.write(Operation(SYSTEM_SPACE, REGISTER, f"{MEMBER_PREFIX}nonsense", "set", (1,)))
    assert a.epoch.members == {a.id, 77}


def test_acknowledged_but_its_own_part_is_missing() -> None:
    cluster = Cluster("ab")
    a, b = cluster["a"], cluster["b"]
    dot = a.write(act("register", "k", "set", 1))
    b.write(act("register", "other", "set", 2))
    b.pull(a, a)
    a.hear(b)
    assert not a.stable().covers(dot), "b's own write, concurrent with it, may still be on its way"
    for batch in a.lacking(b):
        a.take(batch, b)
    assert a.stable().covers(dot)
    assert a.epoch.is_stable(dot)


def test_a_member_that_is_always_ahead_does_not_stop_stability() -> None:
    """Harm: only the newest acknowledgement is kept, and its own part is never there yet."""
    cluster = Cluster("ab")
    a, b = cluster["a"], cluster["b"]
    dot = a.write(act("register", "k", "set", 1))
    b.pull(a, a)
    stable_at = None
    epoch = Epoch(a.id)
    epoch.refresh(a.replica.state)
    for round_number in range(6):
        b.write(act("register", "busy", "set", round_number))
        epoch.acknowledge(b.id, b.vector)
        # What a has of b is always one write behind what b has acknowledged.
        vector = a.vector.copy()
        vector[b.id] = b.vector[b.id] - 1
        if epoch.stable_vector(vector).covers(dot) and stable_at is None:
            stable_at = round_number
    assert stable_at is not None
    assert stable_at <= 3


def test_a_batch_is_an_acknowledgement() -> None:
    cluster = Cluster("ab")
    a, b = cluster["a"], cluster["b"]
    dot = a.write(act("register", "k", "set", 1))
    b.pull(a, a)
    b.write(act("register", "k", "set", 2))
    for batch in a.lacking(b):
        a.take(batch, b)
    assert a.stable().covers(dot)


def test_stability_never_shrinks() -> None:
    cluster = Cluster("ab")
    a = cluster["a"]
    dot = a.write(act("register", "k", "set", 1))
    cluster.sync()
    assert a.stable().covers(dot)
    a.admit(cluster.node("c"))
    assert a.stable().covers(dot)
    assert not a.stable().covers(a.last_dot())


def test_durability_counts_members_and_regions() -> None:
    cluster = Cluster("abc")
    a, b, c = cluster["a"], cluster["b"], cluster["c"]
    a.write(act("register", "k", "set", 1))
    wanted = a.vector.copy()
    assert a.epoch.acknowledged_by(wanted) == {a.id}
    assert a.epoch.lag(b.id, a.vector) == 1
    b.pull(a)
    a.hear(b)
    assert a.epoch.acknowledged_by(wanted) == {a.id, b.id}
    assert a.epoch.regions_reached(wanted) == {"region-a", "region-b"}
    assert (a.epoch.lag(a.id, a.vector), a.epoch.lag(b.id, a.vector)) == (0, 0)
    assert a.epoch.lag(c.id, a.vector) == 1


def test_successors_are_claimed_once() -> None:
    cluster = Cluster("abc")
    a, b = cluster["a"], cluster["b"]
    d, e = cluster.node("d"), cluster.node("e")
    b.admit(e, predecessor=7)
    a.admit(d, predecessor=7)
    d.pull(a)
    e.pull(b)
    assert d.epoch.successor(7) is None, "an earlier claim may still arrive"
    cluster.sync()
    for node in cluster.nodes.values():
        node.stable()
    assert {node.epoch.successor(7) for node in cluster.nodes.values()} == {e.id}
    assert a.epoch.successor(8) is None


def test_what_is_exported_is_taken_up() -> None:
    cluster = Cluster("abc")
    a = cluster["a"]
    a.write(act("register", "k", "set", 1))
    cluster.sync()
    twin = Epoch(a.id)
    twin.refresh(a.replica.state)
    assert not twin.stable_vector(a.vector)
    twin.from_value(a.epoch.to_value())
    assert twin.stable_vector(a.vector) == a.stable()
    assert twin.acknowledged(cluster["b"].id) == cluster["b"].vector


@given(
    st.recursive(
        st.none() | st.integers() | st.text(max_size=3),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["stable", "acknowledged", "x"]), inner, max_size=3)
        ),
        max_leaves=8,
    )
)
def test_a_damaged_export_changes_nothing(value: object) -> None:
    epoch = Epoch(1)
    try:
        epoch.from_value(value)
    except ValueError:
        assert epoch.to_value() == Epoch(1).to_value()


def test_old_news_undoes_nothing() -> None:
    epoch = Epoch(1)
    epoch.acknowledge(2, {1: 5, 2: 3})
    epoch.acknowledge(2, {1: 2})
    epoch.acknowledge(1, {1: 99})
    assert epoch.acknowledged(2) == {1: 5, 2: 3}
    assert epoch.acknowledged(1) == {}
    assert epoch.counted(2, VersionVector({2: 3})).covers(pack_dot(1, 5))
