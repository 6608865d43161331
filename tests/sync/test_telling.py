"""What is durable is told seldom while nobody waits, without delay where somebody does."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from crdtmem.frames import HEADER_BYTES, decode_payload
from crdtmem.messages import Acknowledge, Hears, Hurry
from tests.engines import World
from tests.sync.host import Cluster, Stream, SyncNode

SECOND_US = 1_000_000


def made(*replicas: int) -> Cluster:
    cluster = Cluster(3)
    for replica in replicas:
        cluster.node(replica)
    return cluster


def told(node: SyncNode, kind: type) -> list[tuple[Stream, Any]]:
    """Return the messages of one kind that a node has sent, and on which stream."""
    messages = [(stream, decode_payload(frame[HEADER_BYTES:])) for stream, frame in node.sent]
    return [(stream, message) for stream, message in messages if type(message) is kind]


def write_for(cluster: Cluster, seconds: float, *nodes: SyncNode) -> None:
    """Write a hundred times a second, on one node after the other."""
    for number in range(int(seconds * 100)):
        nodes[number % len(nodes)].put(**{f"k{number % 7}": number})
        cluster.pass_s(0.01)


def test_of_many_writes_each_peer_is_told_a_few_times_a_second() -> None:
    cluster = made(1, 2, 3, 4, 5)
    cluster.mesh()
    cluster.pass_s(1)
    for node in cluster.nodes:
        node.sent.clear()
    write_for(cluster, 4, *cluster.nodes)
    cluster.settle()
    per_stream = Counter(
        (node.replica_id, id(stream))
        for node in cluster.nodes
        for stream, _ in told(node, Acknowledge)
    )
    assert len(per_stream) == 20
    # Four times a second, and once more at the beginning and for what the end left over.
    assert max(per_stream.values()) <= 4 * 4 + 2
    cluster.pass_s(0.5)
    whole = cluster.nodes[0].state.vector
    for node in cluster.nodes:
        others = {other.replica_id for other in cluster.nodes} - {node.replica_id}
        assert all(node.known[other] == whole for other in others), "nothing stays untold"


def test_the_first_news_after_a_silence_is_told_at_once() -> None:
    cluster = made(1, 2)
    a, b = cluster.nodes
    cluster.mesh()
    cluster.pass_s(1)
    ticket, began_us = a.put(k=1), cluster.now_us
    cluster.run(lambda: a.known[2].get(1, 0) == 1)
    assert ticket in a.replies
    assert cluster.now_us - began_us < 15_000
    assert b.value("k") == 1


def test_who_waits_for_others_is_told_without_delay() -> None:
    cluster = made(1, 2)
    a, b = cluster.nodes
    cluster.mesh()
    cluster.pass_s(1)
    slowest_us = Counter[bool]()
    for hasty in (False, True):
        cluster.pass_s(3)
        for number in range(50):
            a.put(k=number)
            if hasty:
                a.run(a.sync.telling.ask_for_haste(cluster.now_us))
            began_us, last = cluster.now_us, number + 1 + 50 * hasty
            cluster.run(lambda last=last: a.known[2].get(1, 0) >= last)  # type: ignore[misc]
            slowest_us[hasty] = max(slowest_us[hasty], cluster.now_us - began_us)
            cluster.pass_s(0.013)
    assert slowest_us[False] > 200_000
    assert slowest_us[True] < 30_000
    # Asked once for many that wait one after the other.
    assert len(told(a, Hurry)) <= 3
    assert not told(b, Hurry)


def test_who_relies_on_a_relay_hears_of_news_without_delay() -> None:
    cluster = made(1, 2, 3)
    a, b, c = cluster.nodes
    cluster.connect(a, b)
    cluster.connect(b, c)
    cluster.pass_s(1)
    write_for(cluster, 1, a)
    slowest_us = 0
    for number in range(50):
        a.put(k=number)
        began_us, last = cluster.now_us, 100 + number + 1
        cluster.run(lambda last=last: c.state.vector.get(1, 0) >= last)  # type: ignore[misc]
        slowest_us = max(slowest_us, cluster.now_us - began_us)
        cluster.pass_s(0.01)
    # Three trips and two disks, at most 10 ms between two tellings, and the delay of relaying.
    assert slowest_us < 110_000
    assert b.value("k") == c.value("k") == 49


# ------------------------------------------------------------------ others' vectors


def test_what_a_peer_hears_itself_is_not_passed_on_to_it() -> None:
    cluster = made(1, 2, 3, 4)
    cluster.mesh()
    cluster.pass_s(6)
    write_for(cluster, 1, *cluster.nodes)
    for node in cluster.nodes:
        node.sent.clear()
    write_for(cluster, 4, *cluster.nodes)
    cluster.settle()
    for node in cluster.nodes:
        messages = [message for _, message in told(node, Acknowledge)]
        assert messages
        assert not any(message.relayed for message in messages)
        assert not told(node, Hears), "said once, not each time"


def test_what_a_peer_no_longer_hears_is_passed_on_to_it_again() -> None:
    cluster = made(1, 2, 3)
    a, b, c = cluster.nodes
    cluster.mesh()
    cluster.pass_s(6)
    write_for(cluster, 1, a, b, c)
    direct = next(s for s in cluster.streams if {s.initiator, s.acceptor} == {a, c})
    cluster.cut(direct)
    write_for(cluster, 3, a, b, c)
    cluster.settle()
    # One ping is the longest silence, after which what is untold is told.
    cluster.run(lambda: a.known[3] == c.state.vector, limit_s=10)
    cluster.run(lambda: c.known[1] == a.state.vector, limit_s=10)
    assert any(1 in message.lost for _, message in told(c, Hears))


def test_who_does_not_say_whom_it_hears_is_told_everything() -> None:
    cluster = made(1, 2, 3)
    _, b, c = cluster.nodes
    cluster.mesh()
    cluster.pass_s(1)
    c.sync.telling._say_whom_we_hear = lambda session: []  # type: ignore[method-assign]
    for session in b.sync.sessions.values():
        session.hears = frozenset()
    write_for(cluster, 3, *cluster.nodes)
    to_c = [m for stream, m in told(b, Acknowledge) if c in (stream.initiator, stream.acceptor)]
    assert any(1 in message.relayed for message in to_c)


def test_a_peer_cannot_fill_our_memory_with_whom_it_hears() -> None:
    cluster = made(1, 2)
    a, b = cluster.nodes
    cluster.mesh()
    cluster.pass_s(1)
    (session,) = b.sync.sessions.values()
    for turn in range(3):
        ids = frozenset(range(turn * 40_000 + 1, (turn + 1) * 40_000 + 1))
        b.run([session.send(Hears(ids, frozenset()))])
    cluster.pass_s(1)
    assert [type(error).__name__ for error in a.disconnects] == ["MalformedFrame"]


@pytest.mark.parametrize("seed", range(4))
def test_nothing_is_told_while_nothing_changes(seed: int) -> None:
    cluster = Cluster(seed)
    for replica in (1, 2, 3):
        cluster.node(replica)
    cluster.mesh()
    write_for(cluster, 0.5, *cluster.nodes)
    cluster.settle()
    cluster.pass_s(12)
    for node in cluster.nodes:
        node.sent.clear()
    carried = sum(stream.carried for stream in cluster.streams)
    cluster.pass_s(20)
    assert not any(told(node, Acknowledge) for node in cluster.nodes)
    idle_bytes_per_s = (sum(stream.carried for stream in cluster.streams) - carried) / 20
    assert idle_bytes_per_s < 1_024


# ------------------------------------------------------------------ whole engines


def test_a_change_of_membership_hurries_everybody() -> None:
    world = World(5)
    a, b, c = world.cluster("abc")
    for _ in range(300):
        world.spend(0.05)
        a.put("k", 1)
    session = b.engine.sync.by_replica[c.id]
    assert session.hurried_until_us < world.now_us
    world.cut(c)
    a.evict(c.id, forced=True)
    world.until(lambda: c.id in b.engine.epoch.settled, "verdict", limit_s=20)
    session = b.engine.sync.by_replica[a.id]
    assert session.hurried_until_us > world.now_us


def test_durability_is_reached_without_waiting_for_the_next_telling() -> None:
    world = World(6)
    a, b = world.cluster("ab")
    world.spend(5)
    for number in range(20):
        a.put("k", number)
        vector = a.engine.state.vector.copy()
        later_us = world.now_us + 10 * SECOND_US
        began_us = world.now_us
        a.run(a.engine.await_durability(f"w{number}", vector, "all", began_us, later_us))
        world.until(lambda number=number: f"w{number}" in a.replies, "durability")  # type: ignore[misc]
        assert world.now_us - began_us < 100_000, number
    assert b.get("k") == 19
