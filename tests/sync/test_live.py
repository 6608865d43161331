"""Deltas reach every peer: pushed, relayed, asked for again, over streams that break."""

from __future__ import annotations

import pytest

from tests.sync.host import Cluster


def trio(seed: int = 0) -> Cluster:
    cluster = Cluster(seed)
    for replica in (1, 2, 3):
        cluster.node(replica)
    return cluster


def test_a_write_reaches_every_peer() -> None:
    cluster = trio()
    cluster.mesh()
    first = cluster.nodes[0]
    first.put(colour="red")
    cluster.settle()
    assert [node.value("colour") for node in cluster.nodes] == ["red"] * 3


def test_what_was_written_before_the_stream_arrives_too() -> None:
    cluster = trio()
    for node in cluster.nodes:
        for number in range(20):
            node.put(**{f"key{number}": f"{node.replica_id}:{number}"})
    cluster.pass_s(1)
    cluster.mesh()
    cluster.settle()
    assert len(cluster.nodes[0].replica.state.find(("notes",), 1).slots) == 20  # type: ignore[union-attr]


def test_a_line_relays_from_end_to_end() -> None:
    cluster = trio()
    a, b, c = cluster.nodes
    cluster.connect(a, b)
    cluster.connect(c, b)
    cluster.pass_s(1)
    for number in range(50):
        a.put(**{f"a{number}": number})
        c.put(**{f"c{number}": number})
    cluster.settle()
    assert c.value("a49") == 49
    assert a.value("c49") == 49


@pytest.mark.parametrize("seed", range(8))
def test_writes_during_cuts_and_heals_converge(seed: int) -> None:
    cluster = trio(seed)
    cluster.mesh()
    draw = cluster.random
    for _ in range(60):
        node = draw.choice(cluster.nodes)
        kind = draw.random()
        if kind < 0.6:
            node.put(**{f"key{draw.randrange(10)}": draw.randrange(1000)})
        elif kind < 0.8:
            node.operate("counter", f"count{draw.randrange(3)}", "increment", 1)
        elif cluster.streams and kind < 0.9:
            cluster.cut(draw.choice(cluster.streams))
        else:
            linked = {frozenset((id(s.initiator), id(s.acceptor))) for s in cluster.streams}
            pairs = [
                (one, two)
                for one in cluster.nodes
                for two in cluster.nodes
                if one is not two and frozenset((id(one), id(two))) not in linked
            ]
            if pairs:
                cluster.connect(*draw.choice(pairs))
        cluster.pass_s(draw.random() * 0.02)
    cluster.cut_all()
    cluster.mesh()
    cluster.settle()
    assert not any(node.alarms for node in cluster.nodes)
