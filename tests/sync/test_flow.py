"""Credit, pace, loss and silence: a slow peer slows itself, and an idle one costs little."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from crdtmem.causality import VersionVector
from crdtmem.errors import RemoteError
from crdtmem.frames import HEADER_BYTES, decode_payload, encode_frame
from crdtmem.messages import Acknowledge, Batches, Request
from tests.sync.host import CONFIG, TIGHT, Cluster, SyncNode

NARROW = replace(CONFIG, credit_bytes=1 << 14, read_bytes=1 << 12)


def messages(node: SyncNode) -> list[Any]:
    return [decode_payload(frame[HEADER_BYTES:]) for _, frame in node.sent]


def payload(node: SyncNode) -> int:
    parts = [message for message in messages(node) if isinstance(message, Batches)]
    return sum(len(data) for message in parts for data in message.batches)


def test_a_full_mesh_sends_each_batch_once_to_each_peer() -> None:
    cluster = Cluster(2)
    nodes = [cluster.node(replica) for replica in (1, 2, 3)]
    cluster.mesh()
    cluster.pass_s(1)
    for number in range(100):
        nodes[number % 3].put(**{f"key{number}": number})
        cluster.pass_s(0.004)
    cluster.settle()
    for node in nodes:
        own = sum(
            len(record.data) for record in node.store.read(node.replica_id, 1, limit_bytes=1 << 30)
        )
        assert payload(node) == 2 * own, "nothing is relayed or repeated where all are linked"
        assert not any(isinstance(message, Request) for message in messages(node))


def test_credit_is_never_exceeded_and_always_comes_back() -> None:
    cluster = Cluster(3)
    a, b = (cluster.node(replica, config=NARROW, limits=TIGHT) for replica in (1, 2))
    stream = cluster.connect(a, b)
    cluster.pass_s(1)
    window = a.sync.sessions[stream].credit_out
    for number in range(200):
        a.put(**{f"key{number}": "x" * 1_000})
    cluster.settle()
    cluster.pass_s(1)
    assert not a.disconnects + b.disconnects
    session = a.sync.sessions[stream]
    settled = b.sync.sessions[stream]
    assert session.credit_out + settled.owed == window
    assert settled.credit_in + settled.owed == window


def test_a_peer_with_a_slow_disk_slows_only_itself() -> None:
    cluster = Cluster(4)
    a, b, slow = (cluster.node(replica, config=NARROW, limits=TIGHT) for replica in (1, 2, 3))
    cluster.mesh()
    cluster.pass_s(1)
    slow.disk_us = 5_000_000
    for number in range(200):
        a.put(**{f"key{number}": "x" * 1_000})
        cluster.pass_s(0.002)
    cluster.run(lambda: b.state.vector == a.state.vector, limit_s=5)
    assert slow.state.vector != a.state.vector
    held = sum(session.outbox_bytes for session in a.sync.sessions.values())
    assert held <= 2 * NARROW.read_bytes, "what the slow one lacks is not queued here"
    slow.disk_us = 1_000
    cluster.settle(limit_s=120)


def test_what_is_sent_beyond_the_credit_closes_the_stream() -> None:
    cluster = Cluster(5)
    a, b = (cluster.node(replica, config=NARROW, limits=TIGHT) for replica in (1, 2))
    stream = cluster.connect(a, b)
    cluster.pass_s(1)
    flood = encode_frame(Batches((bytes(40_000),)))
    before = b.state.digest()
    b.run(b.sync.receive(stream, flood, cluster.now_us))
    assert stream not in b.sync.sessions
    assert isinstance(b.disconnects[-1], RemoteError)
    assert b.state.digest() == before


def test_an_idle_stream_costs_next_to_nothing() -> None:
    cluster = Cluster(6)
    for replica in (1, 2, 3):
        cluster.node(replica).put(key=replica)
    cluster.mesh()
    cluster.settle()
    cluster.pass_s(20)
    before = [stream.carried for stream in cluster.streams]
    cluster.pass_s(100)
    for stream, start in zip(cluster.streams, before, strict=True):
        assert (stream.carried - start) / 100 < 100, "bytes per second, both ways"


def test_acknowledgements_are_coalesced() -> None:
    cluster = Cluster(7)
    a, b = cluster.node(1), cluster.node(2)
    cluster.connect(a, b)
    cluster.pass_s(1)
    for number in range(1_000):
        a.put(key=number)
        cluster.pass_s(0.000_5)
    cluster.settle()
    acknowledged = sum(isinstance(message, Acknowledge) for message in messages(b))
    assert acknowledged <= 0.5 / 0.010 + 10


def test_what_is_acknowledged_is_durable() -> None:
    cluster = Cluster(8)
    a, b = cluster.node(1), cluster.node(2)
    b.disk_us = 50_000
    cluster.connect(a, b)
    cluster.pass_s(1)
    for number in range(50):
        a.put(key=number)
        cluster.pass_s(0.003)
        told = a.known.get(2, VersionVector()).get(1, 0)
        assert told <= b.store.heads().get(1, 0)
    cluster.settle()
    cluster.pass_s(1)
    assert a.known[2][1] == a.state.vector[1]


def test_acknowledgements_reach_those_without_a_stream() -> None:
    cluster = Cluster(9)
    a, b, c = (cluster.node(replica) for replica in (1, 2, 3))
    cluster.connect(a, b)
    cluster.connect(b, c)
    a.put(key=1)
    cluster.settle()
    cluster.pass_s(12)
    assert a.known[3][1] == a.state.vector[1]


def test_a_dead_peer_is_noticed_and_its_ranges_are_asked_of_another() -> None:
    cluster = Cluster(10)
    a, b, c, d = (cluster.node(replica) for replica in (1, 2, 3, 4))
    for first, second in ((a, b), (a, c)):
        cluster.connect(first, second)
    for number in range(200):
        a.put(**{f"key{number}": "x" * 500})
    cluster.run(lambda: b.state.vector == c.state.vector == a.state.vector)
    to_b = cluster.connect(d, b)
    cluster.pass_s(0.03)
    # From now on nothing comes from b, and nobody closes the stream.
    cluster.streams.remove(to_b)
    to_b.open = False
    cluster.connect(d, c)
    cluster.settle(limit_s=60)
    cluster.pass_s(25)
    assert to_b not in d.sync.sessions


def test_batches_that_found_no_room_are_asked_for_again() -> None:
    cluster = Cluster(11)
    a, b, c = (cluster.node(replica) for replica in (1, 2, 3))
    cluster.connect(a, b)
    for number in range(60):
        (a if number % 2 else b).put(**{f"key{number}": number})
        cluster.pass_s(0.02)
    c.replica.inbox._limit = 2
    cluster.connect(c, a)
    cluster.connect(c, b)
    cluster.settle(limit_s=120)
