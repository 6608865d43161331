"""Invariant: whatever bytes a peer sends, ``receive`` returns; the published state is untouched.

Frames of every kind, recorded from clusters that caught up, transferred and repaired,
are replayed, reordered, mutated under a checksum that still fits, cut short and joined
with noise. Run it for as long as you like::

    python -m tests.sync.fuzz_receive [seed [rounds]]
"""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import cache
from random import Random
from zlib import crc32

from crdtmem.causality import VersionVector
from crdtmem.codec import unpack
from crdtmem.effects import Alarm, Disconnect, Persist, ReadLog, Reply, Send
from crdtmem.frames import HEADER_BYTES, MESSAGES, encode_frame
from crdtmem.messages import Credit, Evicted, Gap, Ping, Prune, Refuse
from crdtmem.transfer_messages import SnapshotBatches, SnapshotRefuse
from tests.sync.host import CONFIG, Cluster, SyncNode
from tests.sync.test_repair import forget_in_store, lose, pair, touch

__all__ = ["attack", "corpus", "mutated"]

ALLOWED = (Send, Disconnect, ReadLog, Alarm, Persist, Reply)


@cache
def corpus() -> tuple[bytes, ...]:
    """Return recorded frames, every type of message among them."""
    frames: list[bytes] = []
    for reconcile_from in (10, 10_000):
        cluster = Cluster(1)
        config = replace(CONFIG, reconcile_from=reconcile_from, chunk_entries=20)
        a, b, c = (cluster.node(replica, config=config) for replica in (1, 2, 3))
        stream = cluster.connect(a, b)
        for number in range(60):
            a.put(**{f"key{number}": [number, "x"], "same": number})
            a.operate("set", "tags", "add", f"tag{number}")
        cluster.connect(c, b)
        cluster.settle()
        a.run(a.sync.telling.ask_for_haste(cluster.now_us))
        (only,) = c.sync.sessions.values()
        c.run([only.send(Prune(frozenset((1, 2))))])
        cluster.cut(stream)
        b.put(key3="changed")
        a.put(key3="changed too")
        cluster.pass_s(1)
        a.cut_log()
        cluster.connect(b, a)
        a.put(late=1)
        cluster.settle()
        frames += [frame for node in cluster.nodes for _, frame in node.sent]
    cluster, a, b = pair(3)
    lose(b, "key5")
    forget_in_store(b)
    touch(cluster, a)
    cluster.settle()
    frames += [frame for node in (a, b) for _, frame in node.sent]
    batch = next(record.data for record in a.store.replay(after_ordinal=0))
    frames += [
        encode_frame(message)
        for message in (
            Refuse("wrong_cluster", "no"),
            Evicted(3),
            Credit(1_000),
            Gap(1, 500),
            SnapshotRefuse(1, "busy"),
            SnapshotBatches(1, (batch,)),
        )
    ]
    return tuple(dict.fromkeys(frames))


def mutated(frame: bytes, draw: Random) -> bytes:
    """Return the frame with its payload changed a little; its checksum fits."""
    payload = bytearray(frame[HEADER_BYTES:])
    for _ in range(draw.randint(1, 3)):
        kind = draw.randrange(5)
        at = draw.randrange(len(payload) + 1)
        if kind == 0 and at < len(payload):
            payload[at] = draw.randrange(256)
        elif kind == 1:
            payload[at:at] = draw.randbytes(draw.randint(1, 8))
        elif kind == 2:
            del payload[at : at + draw.randint(1, 8)]
        elif kind == 3 and payload:
            other = draw.randrange(len(payload))
            payload[at:at] = payload[other : other + draw.randint(1, 20)]
        elif kind == 4 and at < len(payload):
            payload[at] ^= 1 << draw.randrange(8)
    return len(payload).to_bytes(4, "big") + crc32(payload).to_bytes(4, "big") + bytes(payload)


def attack(seed: int) -> None:
    """Play one hostile stream against a node that holds something, and check the invariant."""
    draw = Random(seed)
    cluster = Cluster(seed)
    node = cluster.node(1)
    node.put(**{f"key{number}": number for number in range(20)})
    cluster.pass_s(0.1)
    before = node.state.digest(), dict(node.state.vector), len(node.store.heads())
    peer = SyncNode(cluster, 9)
    node.sync.connected("peer", cluster.now_us, initiator=draw.random() < 0.5)
    claims = {replica: draw.randrange(1, 400) for replica in (1, 2, 3, 9)}
    claims[1] = min(claims[1], node.state.vector[1])
    hello = replace(peer.hello(1 << 20), vector=VersionVector(claims))
    pieces = [encode_frame(hello)]
    if draw.random() < 0.7:
        # Lead the node to ask for a snapshot, so that it expects what comes.
        pieces += [encode_frame(Gap(replica, 1_000)) for replica in (2, 3, 9)]
    frames = corpus()
    for _ in range(draw.randint(1, 25)):
        frame = draw.choice(frames)
        kind = draw.randrange(12)
        if kind < 8:
            pieces.append(frame)
        elif kind < 10:
            pieces.append(mutated(frame, draw))
        elif kind == 10:
            pieces.append(encode_frame(Ping(draw.randrange(1 << 60))))
        else:
            pieces.append(draw.randbytes(draw.randrange(40)))
    for piece in pieces:
        # Time passes, so that the node asks for what it was led to believe it lacks.
        cluster.now_us += draw.choice((0, 20_000, 3_000_000))
        for effect in node.sync.receive("peer", piece, cluster.now_us):
            assert isinstance(effect, ALLOWED), effect
        session = node.sync.sessions.get("peer")
        assert session is None or len(session.reader) <= node.limits.frame_bytes + HEADER_BYTES
    node.sync.handle_timeout(cluster.now_us + 60_000_000)
    after = node.state.digest(), dict(node.state.vector), len(node.store.heads())
    assert after == before


def kinds(frames: tuple[bytes, ...]) -> set[int]:
    """Return the codes of the messages among the frames."""
    return {unpack(frame[HEADER_BYTES:])[0] for frame in frames} & set(MESSAGES)


if __name__ == "__main__":
    first = int(sys.argv[1]) if len(sys.argv) > 1 else 0
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 10_000
    for number in range(first, first + rounds):
        attack(number)
    print(f"{rounds} hostile streams, none of which did any harm")
