"""Deltas are passed on along trees: soon, mostly once, and whatever dies."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crdtmem import sync_relaying
from crdtmem.frames import HEADER_BYTES, decode_payload
from crdtmem.messages import Batches, Prune, Request
from crdtmem.sync_relaying import Relaying
from tests.sync.host import TIGHT, Cluster, Stream, SyncNode

LATENCY_US = 20_000
DISK_US = 1_000


def linked(edges: Iterable[tuple[int, int]], seed: int = 1, **kind: Any) -> Cluster:
    """Return nodes named by the edges, joined by these, all links equally long."""
    cluster = Cluster(seed)
    cluster.latency_us = (LATENCY_US, LATENCY_US)
    pairs = list(edges)
    for replica in sorted({end for pair in pairs for end in pair}):
        cluster.node(replica, **kind)
    for one, two in pairs:
        cluster.connect(node(cluster, one), node(cluster, two))
    cluster.pass_s(1)
    return cluster


def node(cluster: Cluster, replica: int) -> SyncNode:
    return next(one for one in cluster.nodes if one.replica_id == replica)


def stream(cluster: Cluster, one: int, two: int) -> Stream:
    wanted = {one, two}
    return next(
        s for s in cluster.streams if {s.initiator.replica_id, s.acceptor.replica_id} == wanted
    )


def sent(cluster: Cluster, kind: type) -> list[tuple[int, Any]]:
    """Return who sent messages of one kind, and what."""
    return [
        (one.replica_id, message)
        for one in cluster.nodes
        for _, frame in one.sent
        if type(message := decode_payload(frame[HEADER_BYTES:])) is kind
    ]


def copies(cluster: Cluster) -> Counter[bytes]:
    """Return how often each batch was sent."""
    return Counter(data for _, message in sent(cluster, Batches) for data in message.batches)


def forget_sent(cluster: Cluster) -> None:
    for one in cluster.nodes:
        one.sent.clear()


def full(*replicas: int) -> list[tuple[int, int]]:
    return [(one, two) for one in replicas for two in replicas if one < two]


def test_a_step_of_a_relay_costs_one_trip_and_one_disk() -> None:
    cluster = linked([(1, 2), (2, 3), (3, 4)])
    first, last = node(cluster, 1), node(cluster, 4)
    began_us = cluster.now_us
    first.put(k=1)
    cluster.run(lambda: last.state.vector.get(1) == 1)
    assert cluster.now_us - began_us == 3 * LATENCY_US + 4 * DISK_US
    assert not sent(cluster, Request)


def test_where_everybody_hears_everybody_nothing_is_passed_on() -> None:
    cluster = linked(full(1, 2, 3, 4, 5))
    for number in range(20):
        for one in cluster.nodes:
            one.put(**{f"k{one.replica_id}": number})
        cluster.pass_s(0.01)
    cluster.settle()
    assert set(copies(cluster).values()) == {4}
    assert not sent(cluster, Prune)
    assert not sent(cluster, Request)


def test_regions_joined_by_gateways_get_everything_once_from_the_first_delta_on() -> None:
    eu, us, ap = (1, 2, 3, 4), (11, 12, 13), (21, 22)
    cluster = linked([*full(*eu), *full(*us), *full(*ap), (1, 11), (1, 21), (11, 21)])
    for number in range(10):
        for one in cluster.nodes:
            one.put(**{f"k{one.replica_id}": number})
        cluster.pass_s(0.05)
    cluster.settle()
    assert set(copies(cluster).values()) == {len(cluster.nodes) - 1}
    assert not sent(cluster, Prune)
    assert not sent(cluster, Request)


def test_of_several_that_could_pass_it_on_one_does() -> None:
    # One and nine have eight neighbours in common, and no stream to each other.
    cluster = linked([pair for pair in full(*range(1, 11)) if pair != (1, 9)])
    node(cluster, 1).put(k=1)
    cluster.settle()
    assert set(copies(cluster).values()) == {9}


def test_a_way_too_many_is_pruned_and_stays_so() -> None:
    # A ring of six: what comes from opposite meets in the middle from two sides.
    ring = [(1, 2), (2, 3), (3, 4), (4, 5), (5, 6), (1, 6)]
    cluster = linked(ring)
    one = node(cluster, 1)
    one.put(k=0)
    cluster.settle()
    assert set(copies(cluster).values()) == {6}, "four got it from both sides"
    cluster.pass_s(1)
    assert [message for _, message in sent(cluster, Prune)] == [Prune(frozenset({1}))]
    forget_sent(cluster)
    for number in range(20):
        one.put(k=number)
        cluster.pass_s(0.1)
    cluster.settle()
    assert set(copies(cluster).values()) == {5}
    assert not sent(cluster, Prune)


def test_what_a_dead_relay_carried_is_grafted_elsewhere() -> None:
    ring = [(1, 2), (2, 3), (3, 4), (4, 5), (5, 6), (1, 6)]
    cluster = linked(ring)
    one, four = node(cluster, 1), node(cluster, 4)
    for number in range(3):
        one.put(k=number)
        cluster.pass_s(1)
    # Four gets them either through three or through five: that way is cut.
    source = four.sync.relaying.source(1)
    assert source is not None
    cluster.cut(stream(cluster, 4, source.replica))
    one.put(k="after")
    cluster.run(lambda: four.value("k") == "after", limit_s=2)
    assert [who for who, _ in sent(cluster, Request)] == [4]
    cluster.pass_s(1)
    forget_sent(cluster)
    began_us = cluster.now_us
    one.put(k="grafted")
    cluster.run(lambda: four.value("k") == "grafted")
    assert cluster.now_us - began_us == 3 * LATENCY_US + 4 * DISK_US
    cluster.settle()
    assert not sent(cluster, Request), "it comes by itself again"


def test_a_link_that_breaks_within_a_region_is_bypassed_at_once() -> None:
    cluster = linked(full(1, 2, 3, 4))
    cluster.cut(stream(cluster, 1, 4))
    cluster.pass_s(1)
    began_us = cluster.now_us
    node(cluster, 1).put(k=1)
    cluster.run(lambda: node(cluster, 4).value("k") == 1)
    assert cluster.now_us - began_us == 2 * LATENCY_US + 3 * DISK_US
    cluster.settle()
    assert set(copies(cluster).values()) == {3}


def test_who_gets_a_direct_stream_needs_no_relay_any_more() -> None:
    cluster = linked([(1, 2), (2, 3)])
    one = node(cluster, 1)
    one.put(k=0)
    cluster.settle()
    cluster.connect(one, node(cluster, 3))
    cluster.pass_s(1)
    forget_sent(cluster)
    for number in range(10):
        one.put(k=number)
        cluster.pass_s(0.1)
    cluster.settle()
    assert set(copies(cluster).values()) == {2}


def test_who_brings_something_from_afar_is_not_asked_around(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Two and three could both relay to four; whichever does is far from it, the other near.
    cluster = linked([(1, 2), (1, 3), (2, 4), (3, 4)])
    one, four = node(cluster, 1), node(cluster, 4)
    one.put(k=0)
    cluster.settle()
    source = four.sync.relaying.source(1)
    assert source is not None
    far = stream(cluster, source.replica, 4)
    send = cluster.send

    def slowly(sender: SyncNode, used: Stream, data: bytes) -> None:
        at_us = 150_000 if used is far else 1_000
        cluster.latency_us = (at_us, at_us)
        send(sender, used, data)

    monkeypatch.setattr(cluster, "send", slowly)
    cluster.pass_s(12)  # Until that is measured: round trips are averaged over a few probes.
    for _ in range(6):
        cluster.pass_s(5)
    forget_sent(cluster)
    for number in range(10):
        one.put(k=number)
        cluster.pass_s(1)
    cluster.settle()
    assert not sent(cluster, Request)
    assert set(copies(cluster).values()) == {3}


def test_a_slow_receiver_is_not_drowned_by_a_relay_and_asks_for_the_rest() -> None:
    cluster = linked([(1, 2), (2, 3)], limits=TIGHT)
    one, three = node(cluster, 1), node(cluster, 3)
    three.disk_us = 200_000
    for number in range(200):
        one.put(**{f"k{number}": "x" * 4_000})
        cluster.pass_s(0.002)
    (session,) = (s for s in node(cluster, 2).sync.sessions.values() if s.replica == 3)
    assert session.outbox_bytes <= node(cluster, 2).sync.config.read_bytes + TIGHT.batch_bytes
    cluster.settle()
    assert three.value("k199") == "x" * 4_000
    assert not any(one.disconnects for one in cluster.nodes)


def test_a_list_of_what_is_not_wanted_cannot_fill_our_memory() -> None:
    cluster = linked([(1, 2)])
    one, two = cluster.nodes
    two.put(k=1)
    cluster.settle()
    (session,) = two.sync.sessions.values()
    two.run([session.send(Prune(frozenset(range(1, 50_000))))])
    cluster.pass_s(1)
    (held,) = one.sync.sessions.values()
    assert held.lazy == {2}


def require_once(sender: SyncNode) -> None:
    """Fail where a batch was sent twice on one stream, and not asked for in between."""
    frames: dict[Stream, list[Any]] = {}
    for stream, frame in sender.sent:
        frames.setdefault(stream, []).append(decode_payload(frame[HEADER_BYTES:]))
    for stream, messages in frames.items():
        asked = Counter[tuple[int, int]]()
        for used, frame in stream.other(sender).sent:
            message = decode_payload(frame[HEADER_BYTES:])
            if used is stream and type(message) is Request:
                asked.update((who, at) for who, first, last in message.ranges
                             for at in range(first, last + 1))  # fmt: skip
        counted = Counter(
            data for message in messages if type(message) is Batches for data in message.batches
        )
        for data, times in counted.items():
            header = sender.decode(data).header
            assert times <= 1 + asked[header.replica, header.last]


@st.composite
def graphs(draw: Any) -> tuple[int, list[tuple[int, int]]]:
    """Draw a connected graph: a random tree, and some more edges."""
    size = draw(st.integers(2, 9))
    edges = {(draw(st.integers(1, late - 1)), late) for late in range(2, size + 1)}
    more = draw(st.lists(st.tuples(st.integers(1, size), st.integers(1, size)), max_size=12))
    edges |= {(min(pair), max(pair)) for pair in more if pair[0] != pair[1]}
    return size, sorted(edges)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(graphs(), st.lists(st.tuples(st.integers(0, 2), st.integers(0, 99)), max_size=30))
def test_in_any_graph_with_any_order_of_deaths_everything_is_delivered(
    graph: tuple[int, list[tuple[int, int]]], steps: list[tuple[int, int]]
) -> None:
    size, edges = graph
    cluster = linked(edges, seed=size)
    cluster.latency_us = (1_000, 30_000)
    for count, (kind, number) in enumerate(steps):
        if kind == 0 and cluster.streams:
            cluster.cut(cluster.streams[number % len(cluster.streams)])
        elif kind == 1:
            one, two = edges[number % len(edges)]
            ends = (node(cluster, one), node(cluster, two))
            if not any({s.initiator, s.acceptor} == set(ends) for s in cluster.streams):
                cluster.connect(*ends)
        node(cluster, number % size + 1).put(**{f"k{count}": count})
        cluster.pass_s(0.02)
    # What is whole again delivers everything: along the edges that were there at first.
    for one, two in edges:
        ends = (node(cluster, one), node(cluster, two))
        if not any({s.initiator, s.acceptor} == set(ends) for s in cluster.streams):
            cluster.connect(*ends)
    cluster.settle()
    for sender in cluster.nodes:
        require_once(sender)


@pytest.mark.parametrize("seed", range(3))
def test_a_tree_settles_to_one_copy_each_in_a_graph_of_low_degree(seed: int) -> None:
    size, steps = 16, (1, 2, 5)
    edges = {
        (min(one, two), max(one, two))
        for one in range(size)
        for step in steps
        for two in [(one + step) % size]
    }
    cluster = linked([(one + 1, two + 1) for one, two in sorted(edges)], seed=seed)
    cluster.latency_us = (1_000, 5_000)
    for number in range(30):
        for one in cluster.nodes:
            one.put(**{f"k{one.replica_id}": number})
        cluster.pass_s(0.05)
    cluster.settle()
    forget_sent(cluster)
    for number in range(10):
        for one in cluster.nodes:
            one.put(**{f"k{one.replica_id}": number})
        cluster.pass_s(0.05)
    cluster.settle()
    counted = copies(cluster)
    mean = sum(counted.values()) / len(counted) / (size - 1)
    assert 1.0 <= mean < 1.1


# ------------------------------------------------------------------ planted defects


def relays_nothing(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Relaying, "onward", lambda self, batches: {})


def never_prunes(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Relaying, "_part", lambda self, session, origin: None)


def never_grafts(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Relaying, "graft", lambda self, session, ranges: None)


def leaves_it_to_nobody(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(sync_relaying, "_rank", lambda relay, receiver, origin: 0)


PLANTED: list[tuple[Any, Any]] = [
    (relays_nothing, test_a_step_of_a_relay_costs_one_trip_and_one_disk),
    (relays_nothing, test_a_link_that_breaks_within_a_region_is_bypassed_at_once),
    (never_prunes, test_a_way_too_many_is_pruned_and_stays_so),
    (never_prunes, lambda: test_a_tree_settles_to_one_copy_each_in_a_graph_of_low_degree(1)),
    (never_grafts, test_what_a_dead_relay_carried_is_grafted_elsewhere),
    (leaves_it_to_nobody, test_of_several_that_could_pass_it_on_one_does),
]


@pytest.mark.parametrize(("plant", "test"), PLANTED)
def test_a_planted_defect_is_seen(plant: Any, test: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    with pytest.raises(AssertionError):
        test()
