"""Evictions: what is proposed, promised, decided, refused, and guarded against."""

from __future__ import annotations

import pytest

from crdtmem.causality import VersionVector
from crdtmem.epoch import replica_text
from crdtmem.errors import ConditionFailed, InvalidValue, UnknownName
from crdtmem.eviction import Evictions
from crdtmem.promises import Promise, carries, find_verdicts, read_promises
from tests.epoch.harness import Cluster, act

A, B, C, D, E = range(1, 6)
EVERYONE = frozenset({A, B, C})


def word(
    author: int,
    taken: dict[int, int],
    members: frozenset[int] = EVERYONE,
    *,
    forced: frozenset[int] = frozenset(),
    settled: dict[int, int] | None = None,
) -> Promise:
    return Promise(author, taken, members, members, settled or {}, forced, author, author << 64 | 9)


def test_the_cut_is_the_highest_that_any_survivor_took() -> None:
    (verdict,) = find_verdicts({A: word(A, {C: 3}), B: word(B, {C: 5})})
    assert verdict.cut == {C: 5}
    assert verdict.survivors == {A, B}
    assert verdict.promises == {A: 9, B: 9}
    assert verdict.is_beyond(C, {})
    assert verdict.is_beyond(D, {C: 6})
    assert not verdict.is_beyond(D, {C: 5})


@pytest.mark.parametrize(
    "promises",
    [
        pytest.param({A: word(A, {C: 3})}, id="one survivor has not promised"),
        pytest.param({A: word(A, {C: 3}), B: word(B, {C: 3, D: 1})}, id="another set"),
        pytest.param({A: word(A, {B: 1, C: 1})}, id="no majority"),
        pytest.param(
            {A: word(A, {C: 3}, EVERYONE | {D}), B: word(B, {C: 3})}, id="a named newcomer"
        ),
        pytest.param({}, id="nobody"),
    ],
)
def test_what_is_not_decided(promises: dict[int, Promise]) -> None:
    assert list(find_verdicts(promises)) == []


def test_a_named_newcomer_is_asked_and_an_unnamed_one_is_not() -> None:
    both = {A: word(A, {C: 3}), B: word(B, {C: 3})}
    late = {D: word(D, {C: 2}, EVERYONE | {D})}
    assert [v.survivors for v in find_verdicts({**both, **late})] == [{A, B}, {A, B, D}]


def test_forced_members_and_settled_ones_are_not_counted() -> None:
    assert not carries(frozenset({A}), EVERYONE, EVERYONE, frozenset({B}))
    assert carries(frozenset({A}), EVERYONE, EVERYONE, frozenset({B, C}))
    alone = word(A, {B: 1, C: 1}, forced=frozenset({B}), settled={C: 1})
    assert [v.cut for v in find_verdicts({A: alone})] == [{B: 1, C: 1}]


def test_proposals_that_are_refused_at_once() -> None:
    cluster = Cluster("abc")
    a, b, c = cluster["a"], cluster["b"], cluster["c"]
    with pytest.raises(InvalidValue):
        a.evictions.propose(a.epoch, a.vector, a.id)
    with pytest.raises(UnknownName):
        a.evictions.propose(a.epoch, a.vector, 999)
    a.evict(c)
    with pytest.raises(ConditionFailed):
        a.evict(b)
    cluster.sync("ab")
    assert a.evictions.propose(a.epoch, a.vector, c.id) == []
    c.pull(a, a)
    with pytest.raises(ConditionFailed):
        c.evictions.propose(c.epoch, c.vector, a.id)


def test_a_promise_is_written_once_and_only_grows() -> None:
    cluster = Cluster("abcde")
    a, d, e = cluster["a"], cluster["d"], cluster["e"]
    a.evict(e)
    before = a.vector[a.id]
    for other in cluster.nodes.values():
        if other is not a and other is not e:
            a.hear(other)
    assert a.vector[a.id] == before
    first = read_promises(a.replica.state)[a.id]
    a.evict(d)
    second = read_promises(a.replica.state)[a.id]
    assert first.evicted < second.evicted == {d.id, e.id}


def test_a_final_cut_is_said_and_whoever_hears_it_believes_it() -> None:
    cluster = Cluster("abc")
    a, b, c = cluster["a"], cluster["b"], cluster["c"]
    a.evict(c)
    b.pull(a)
    a.pull(b)
    b.pull(a)
    a.pull(b)
    assert read_promises(a.replica.state)[a.id].settled == {c.id: 0}
    d = cluster.node("d")
    a.admit(d)
    d.pull(a)
    assert d.epoch.settled == {c.id: 0}
    assert c.id not in d.epoch.members


def test_a_second_eviction_cannot_hide_the_first_from_who_was_evicted() -> None:
    """Harm: the promises that decided are replaced; the evicted joins what follows, and writes."""
    cluster = Cluster("abcde")
    a, b, e = cluster["a"], cluster["b"], cluster["e"]
    a.evict(e)
    cluster.sync("abcd")
    assert a.epoch.settled.keys() == {e.id}
    e.write(act("register", "k", "set", 1))
    a.evict(b)
    cluster.sync("acd")
    e.pull(a)
    assert e.halted is not None


def test_the_evicted_is_told_why() -> None:
    cluster = Cluster("abc")
    a, c = cluster["a"], cluster["c"]
    a.evict(c)
    cluster.sync("ab")
    c.pull(a)
    assert c.halted is not None
    assert "was evicted" in c.halted.reason
    assert c.halted.cuts == {c.id: 0}


def test_cuts_that_come_with_a_snapshot() -> None:
    cluster = Cluster("ab")
    a = cluster["a"]
    a.evictions.note_cuts({99: 4})
    assert not a.evictions.react(a.epoch, a.vector)[0], "it counts once all up to it is here"
    assert a.evictions.allowed == {99: 4}
    assert not a.evictions.may_join({99: 5})
    assert a.evictions.admits({99: 5}, a.vector) == 99
    assert a.evictions.admits({}, a.vector) is None
    beyond = Evictions(a.id)
    beyond.note_cuts({a.id: 1})
    (halt,) = beyond.react(a.epoch, a.vector)[1]
    assert type(halt).__name__ == "Halt"


def test_exported_cuts_are_taken_up_or_refused_whole() -> None:
    cluster = Cluster("abc")
    a, c = cluster["a"], cluster["c"]
    a.evict(c)
    cluster.sync("ab")
    twin = Evictions(a.id)
    twin.from_value(a.evictions.to_value(a.epoch))
    assert twin.told_cuts == {c.id: 0}
    for damaged in (7, [[1]], [["a", 1]], [[1, -1]], [None]):
        fresh = Evictions(a.id)
        with pytest.raises(ValueError, match="no exported cuts"):
            fresh.from_value(damaged)
        assert fresh.told_cuts == {}


def test_where_an_eviction_stands() -> None:
    cluster = Cluster("abcd")
    a, b, c, d = (cluster[name] for name in "abcd")
    a.evict(d)
    b.pull(a)
    status = b.evictions.describe(b.epoch)
    assert status["proposed"] == [replica_text(d.id)]
    assert status["promised"].keys() == {replica_text(a.id), replica_text(b.id)}
    assert status["decided"] == status["final"] == {}
    cluster.sync("abc")
    assert c.evictions.describe(c.epoch)["final"] == {replica_text(d.id): 0}


def test_a_restart_says_the_same_again() -> None:
    cluster = Cluster("abcd")
    a, b, d = cluster["a"], cluster["b"], cluster["d"]
    d.write(act("register", "k", "set", 1))
    b.pull(d, d)
    a.evict(d)
    a.pull(b)
    again = Evictions(a.id)
    again.refresh(a.replica.state)
    operations, consequences = again.react(a.epoch, VersionVector(a.vector))
    assert operations == []
    assert again.allowed == a.evictions.allowed == {d.id: 1}
    assert [type(consequence).__name__ for consequence in consequences] == ["SetCut"]
