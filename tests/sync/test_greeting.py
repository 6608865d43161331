"""Meeting: wrong cluster, wrong version, copies of ourselves, two streams to one peer."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from crdtmem.errors import ForkDetected, ProtocolMismatch, RemoteError, WrongCluster
from crdtmem.frames import encode_frame
from crdtmem.messages import Evicted
from crdtmem.sync_greeting import DUPLICATE
from tests.sync.host import Cluster, SyncNode


def pair(seed: int = 0, **settings: Any) -> tuple[Cluster, SyncNode, SyncNode]:
    cluster = Cluster(seed)
    return cluster, cluster.node(1), cluster.node(2, **settings)


def meet(cluster: Cluster, *nodes: SyncNode) -> None:
    cluster.connect(*nodes)
    cluster.pass_s(1)


def test_another_clusters_name_is_refused_on_both_sides() -> None:
    cluster, a, b = pair(name="other")
    a.put(secret="x")
    meet(cluster, a, b)
    assert {type(error) for error in a.disconnects + b.disconnects} <= {WrongCluster, RemoteError}
    assert any(isinstance(error, WrongCluster) for error in a.disconnects + b.disconnects)
    assert b.state.vector == {}
    assert not a.sync.sessions
    assert not b.sync.sessions


def test_another_foundation_of_the_same_name_is_refused() -> None:
    cluster, a, b = pair()
    a.founded, b.founded = 1, 2
    meet(cluster, a, b)
    assert any("founded by" in str(error) for error in a.disconnects + b.disconnects)


def test_a_newcomer_without_a_foundation_is_welcome() -> None:
    cluster, a, b = pair()
    a.founded = 1
    a.put(key="value")
    meet(cluster, a, b)
    assert b.value("key") == "value"


@pytest.mark.parametrize(("versions", "fits"), [((1, 1), True), ((1, 9), True), ((2, 9), False)])
def test_versions_are_negotiated(versions: tuple[int, int], fits: bool) -> None:
    cluster, a, b = pair()
    b.versions = versions
    a.put(key="value")
    meet(cluster, a, b)
    assert (b.value("key") == "value") is fits
    if not fits:
        assert any(isinstance(error, ProtocolMismatch) for error in a.disconnects)


def test_a_clone_is_refused_and_alarmed() -> None:
    cluster = Cluster()
    a, b = cluster.node(7), cluster.node(7)
    a.put(key="one")
    b.put(key="two")
    meet(cluster, a, b)
    assert [alarm.name for alarm in a.alarms] == ["clone"]
    assert any(isinstance(error, ForkDetected) for error in a.disconnects + b.disconnects)
    assert (a.value("key"), b.value("key")) == ("one", "two"), "both forks are preserved"


def test_a_rolled_back_store_learns_that_it_is_old() -> None:
    cluster, a, b = pair()
    cluster.connect(a, b)
    for number in range(5):
        a.put(key=number)
    cluster.settle()
    old = SyncNode(cluster, 1)
    old.put(key="before the rest")
    cluster.pass_s(1)
    meet(cluster, old, b)
    assert old.questioned
    assert old.questioned[0][:2] == (2, b.state.vector[1])
    assert b.value("key") == 4


def test_two_histories_of_one_third_replica_raise_an_alarm() -> None:
    cluster, a, b = pair()
    for listener, said in ((a, "one"), (b, "two")):
        third = SyncNode(cluster, 3)
        third.put(said=said)
        stream = cluster.connect(third, listener)
        cluster.pass_s(0.1)
        cluster.cut(stream)
    meet(cluster, a, b)
    assert "fork" in {alarm.name for alarm in a.alarms + b.alarms}


def test_of_two_streams_that_crossed_one_stays() -> None:
    cluster, a, b = pair()
    cluster.connect(a, b)
    cluster.connect(b, a)
    cluster.pass_s(1)
    assert len(a.sync.sessions) == len(b.sync.sessions) == 1
    assert a.sync.sessions.keys() == b.sync.sessions.keys(), "both keep the same one"
    reasons = {error.details.get("reason") for error in a.disconnects + b.disconnects}
    assert reasons == {DUPLICATE}
    a.put(key=1)
    cluster.settle()


def test_a_restarted_peer_replaces_its_stale_stream() -> None:
    for starter in (0, 1):
        cluster, a, b = pair()
        nodes = (a, b)
        stale = cluster.connect(nodes[starter], nodes[1 - starter])
        cluster.pass_s(1)
        # The peer's machine died without a word: our side still believes in the stream.
        b.sync.sessions.clear()
        b.sync.by_replica.clear()
        b.boot += 1
        fresh = cluster.connect(b, a)
        cluster.pass_s(1)
        assert stale not in a.sync.sessions
        assert fresh in a.sync.sessions
        b.put(key=1)
        cluster.settle()


def test_a_stranger_that_says_nothing_is_given_up() -> None:
    cluster, a, b = pair()
    a.sync.connected("silent", cluster.now_us, initiator=False)
    effects = a.sync.handle_timeout(cluster.now_us + a.sync.config.hello_us)
    assert any(getattr(effect, "peer", None) == "silent" for effect in effects)
    assert not a.sync.sessions
    assert not b.sync.sessions


def test_the_evicted_are_told() -> None:
    cluster, a, b = pair()
    a.evicted_from[2] = 0
    b.put(key="beyond the cut")
    a.replica.inbox.set_cut(2, 0)
    meet(cluster, a, b)
    assert b.halts == [0]
    assert a.state.vector.get(2, 0) == 0


def test_a_message_before_any_introduction_closes_the_stream() -> None:
    cluster, a, _ = pair()
    a.sync.connected("rude", cluster.now_us, initiator=False)
    effects = a.sync.receive("rude", encode_frame(Evicted(5)), cluster.now_us)
    assert not a.sync.sessions
    assert not a.halts
    assert effects


def test_a_second_introduction_closes_the_stream() -> None:
    cluster, a, b = pair()
    stream = cluster.connect(a, b)
    cluster.pass_s(1)
    again = encode_frame(replace(b.hello(100), node="again"))
    a.run(a.sync.receive(stream, again, cluster.now_us))
    assert stream not in a.sync.sessions
