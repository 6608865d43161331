"""Below the sync log: snapshots and differences, staged aside, exact at one vector."""

from __future__ import annotations

from dataclasses import replace

import pytest

from crdtmem.frames import HEADER_BYTES, decode_payload
from crdtmem.install import Kind
from crdtmem.sync_host import SyncConfig
from crdtmem.transfer_messages import SnapshotBatches
from tests.sync.host import CONFIG, TIGHT, Cluster, SyncNode, dump

DIFFERENCE = replace(CONFIG, capture_bytes=1 << 20, reconcile_from=10)
SLOW = SyncConfig(credit_bytes=1 << 14, read_bytes=1 << 13, chunk_entries=40, turn_bytes=1 << 12)
SLOW_DIFFERENCE = replace(SLOW, reconcile_from=10)


def fill(node: SyncNode, prefix: str, size: int) -> None:
    for start in range(0, size, 50):
        node.put(**{f"{prefix}{number}": number for number in range(start, start + 50)})
    node.operate("set", "tags", "add", prefix)
    node.operate("counter", "count", "increment", 3)
    node.operate("log", "events", "append", prefix)


def test_a_newcomer_below_the_log_gets_a_snapshot() -> None:
    cluster = Cluster(1)
    old = cluster.node(1)
    fill(old, "key", 3_000)
    cluster.pass_s(1)
    old.cut_log()
    new = cluster.node(2)
    fill(new, "mine", 100)
    cluster.connect(new, old)
    cluster.settle()
    assert [part.kind for part in new.installed] == [Kind.WHOLE]
    assert new.value("key2999") == 2999
    assert dump(new.recovered()) == dump(new.state), "a restart finds the same"
    assert new.value("count", "counter") == 6


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("config", [SLOW, SLOW_DIFFERENCE], ids=["whole", "difference"])
def test_a_snapshot_races_the_live_log(seed: int, config: SyncConfig) -> None:
    assert race(seed, config), "nothing raced"


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("config", [SLOW, SLOW_DIFFERENCE], ids=["whole", "difference"])
def test_a_hundred_snapshots_race_the_live_log(config: SyncConfig) -> None:
    assert sum(race(seed, config) for seed in range(1_000, 1_100)) > 90


def race(seed: int, config: SyncConfig) -> bool:
    """Let all write, delete and conflict while one is sent a snapshot; tell whether they met."""
    cluster = Cluster(seed)
    a, b, c = (cluster.node(replica, config=config, limits=TIGHT) for replica in (1, 2, 3))
    cluster.mesh()
    fill(a, "key", 4_000)
    cluster.settle()
    cut = [stream for stream in cluster.streams if c in (stream.initiator, stream.acceptor)]
    for stream in cut:
        cluster.cut(stream)
    draw = cluster.random
    scribble(cluster, [a, b, c], 60)
    cluster.pass_s(1)
    assert a.state.vector == b.state.vector != c.state.vector
    a.cut_log()
    b.cut_log()
    cluster.latency_us = (10_000, 30_000)
    cluster.connect(c, a)
    for _ in range(80):
        scribble(cluster, [a, b, c], 3)
        cluster.pass_s(draw.random() * 0.01)
    cluster.connect(b, c)
    cluster.settle()
    assert c.installed, "nothing was transferred"
    kinds = {part.kind for part in c.installed}
    assert kinds == ({Kind.WHOLE} if config is SLOW else {Kind.DIFFERENCE})
    messages = sent_kinds(a) | sent_kinds(b)
    assert not a.alarms + b.alarms + c.alarms
    assert dump(c.recovered()) == dump(c.state)
    return SnapshotBatches in messages


def sent_kinds(node: SyncNode) -> set[type]:
    return {type(decode_payload(frame[HEADER_BYTES:])) for _, frame in node.sent}


def scribble(cluster: Cluster, nodes: list[SyncNode], times: int) -> None:
    draw = cluster.random
    for _ in range(times):
        node = draw.choice(nodes)
        key = f"key{draw.randrange(400)}"
        kind = draw.randrange(6)
        if kind < 3:
            node.put(**{key: draw.randrange(1_000)})
        elif kind == 3:
            node.operate("register", key, "delete")
        elif kind == 4:
            node.operate("set", "tags", draw.choice(["add", "remove"]), f"tag{draw.randrange(5)}")
        else:
            node.operate("counter", "count", "increment", 1)


def test_a_difference_costs_what_differs() -> None:
    cluster = Cluster(3)
    a, b = (cluster.node(replica, config=DIFFERENCE) for replica in (1, 2))
    stream = cluster.connect(a, b)
    for start in range(0, 20_000, 500):
        a.put(**{f"key{number}": "x" * 40 for number in range(start, start + 500)})
        cluster.pass_s(0.01)
    cluster.settle()
    cluster.cut(stream)
    changed = range(0, 20_000, 200)
    for number in changed:
        a.put(**{f"key{number}": "y" * 40})
    cluster.pass_s(1)
    a.cut_log()
    again = cluster.connect(b, a)
    cluster.settle()
    assert [part.kind for part in b.installed] == [Kind.DIFFERENCE]
    # A hundred entries on either side differ, of some 80 bytes with their key.
    assert again.carried <= 3 * 2 * len(changed) * 80 + 64 * 1024
    assert again.carried < stream.carried / 20


def test_a_transfer_that_breaks_begins_again_elsewhere() -> None:
    cluster = Cluster(4)
    a, b, c = (cluster.node(replica) for replica in (1, 2, 3))
    cluster.connect(a, b)
    fill(a, "key", 4_000)
    cluster.run(lambda: b.state.vector == a.state.vector)
    a.cut_log()
    b.cut_log()
    stream = cluster.connect(c, a)
    cluster.run(lambda: stream.carried > 20_000)
    assert not c.installed
    cluster.cut(stream)
    assert c.state.vector == {}, "half a snapshot leaves nothing"
    cluster.connect(c, b)
    cluster.settle()


def test_a_writer_that_outruns_the_stream_does_not_stop_it_for_ever() -> None:
    cluster = Cluster(5)
    a, b = cluster.node(1), cluster.node(2)
    fill(a, "key", 3_000)
    cluster.pass_s(1)
    a.cut_log()
    cluster.latency_us = (20_000, 40_000)
    cluster.connect(b, a)
    for number in range(100):
        a.put(**{f"big{number}": "z" * 8_000})
        cluster.pass_s(0.005)
    cluster.settle()


def test_what_came_by_snapshot_is_passed_on_by_snapshot() -> None:
    """A relay that got a range by snapshot has no batches of it to give."""
    cluster = Cluster(6)
    a, b, c = (cluster.node(replica) for replica in (1, 2, 3))
    first = cluster.connect(a, b)
    cluster.connect(c, b)
    fill(a, "key", 100)
    cluster.settle()
    cluster.cut(first)
    a.put(key3="changed")
    cluster.pass_s(1)
    a.cut_log()
    cluster.connect(b, a)
    cluster.settle()
    assert b.installed
    assert c.installed
