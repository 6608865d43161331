"""Found by the simulator: an entry lost again, just as it had been given back, stayed lost.

Problem: who had told a peer its digest did not tell it again while it was the same. What was
lost, repaired and lost once more between two comparisons has the digest that was told before;
and where a round of repair came to nothing nothing changes either. Nobody spoke of it again.

Idea: two that differed compare until they agree, and what was told at one vector counts no more
once the state there has changed in place. Whatever is between two comparisons is tried here: the
moment of the second loss, a round that stands still, and a leader that is busy with another.
"""

from __future__ import annotations

import pytest

from crdtmem.effects import Effect
from crdtmem.install import Installation, Kind
from crdtmem.snapshot import SnapshotHeader
from crdtmem.table import State
from tests.sync.host import SPACE, Cluster, SyncNode, dump

REGISTER = 1
_KEY = "kept"


def _cluster(nodes: int, seed: int) -> Cluster:
    """A star: the first, who leads every repair, has a stream with each of the others."""
    cluster = Cluster(seed)
    first, *others = [cluster.node(number + 1) for number in range(nodes)]
    for other in others:
        cluster.connect(first, other)
    first.put(**{_KEY: 1, "other": 2})
    cluster.settle()
    # All digests are compared, and told to whom they concern.
    cluster.pass_s(12)
    return cluster


def _lose(node: SyncNode) -> None:
    """Take the entry from memory and store, durably, and say nothing of it."""
    table = node.state.find(SPACE, REGISTER)
    assert table is not None
    dot = table.slots[_KEY][0]
    nothing = State(node.state.shapes)
    nothing.vector = node.state.vector.copy()
    header = SnapshotHeader(node.state.vector.copy())
    loss = Installation(Kind.CORRECTION, header, nothing, dropped={dot})
    node.run(node.install(loss, node.now_us))


def _repairs(node: SyncNode) -> int:
    return sum(alarm.name == "repaired" for alarm in node.alarms)


def _assert_whole(cluster: Cluster) -> None:
    for node in cluster.nodes:
        assert node.value(_KEY) == 1, f"replica {node.replica_id} still lacks it"
        assert dump(node.state) == dump(cluster.nodes[0].state)


@pytest.mark.parametrize("loser", [0, 1])
@pytest.mark.parametrize("later_ms", [0, 500, 2_000, 3_500, 4_500, 4_950, 5_050, 6_000, 9_000])
def test_what_is_lost_again_before_the_next_comparison_comes_back(
    loser: int, later_ms: int
) -> None:
    cluster = _cluster(2, seed=later_ms + loser)
    node = cluster.nodes[loser]
    _lose(node)
    cluster.run(lambda: _repairs(node) == 1, limit_s=30)
    cluster.pass_s(later_ms / 1_000)
    assert node.value(_KEY) == 1
    _lose(node)
    cluster.run(lambda: _repairs(node) == 2, limit_s=30)
    _assert_whole(cluster)


@pytest.mark.parametrize("loser", [0, 1])
def test_what_is_lost_again_just_after_they_had_agreed_comes_back(loser: int) -> None:
    """The peer has seen that all is well, and rests; the loser has told nobody since it was ill."""
    cluster = _cluster(2, seed=loser)
    node, peer = cluster.nodes[loser], cluster.nodes[1 - loser]
    _lose(node)
    cluster.pass_s(0.1)
    node.run(node.sync.look_into([peer.replica_id], node.now_us))
    cluster.run(lambda: _repairs(node) == 1, limit_s=1)
    peer.run(peer.sync.look_into([node.replica_id], peer.now_us))
    cluster.pass_s(0.1)
    _lose(node)
    cluster.run(lambda: _repairs(node) == 2, limit_s=30)
    _assert_whole(cluster)


@pytest.mark.parametrize("loser", [0, 1])
@pytest.mark.parametrize("silent", [0, 1])
def test_a_round_that_stood_still_is_followed_by_another(
    loser: int, silent: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = _cluster(2, seed=4 * loser + silent)
    node, mute = cluster.nodes[loser], cluster.nodes[silent]
    asked: list[object] = []

    def never(request: object) -> list[Effect]:
        asked.append(request)
        return []

    with monkeypatch.context() as patch:
        patch.setattr(mute, "rederive", never)
        _lose(node)
        cluster.run(lambda: bool(asked), limit_s=30)
    assert not _repairs(node)
    cluster.run(lambda: _repairs(node) == 1, limit_s=90)
    _assert_whole(cluster)


def test_who_found_the_leader_busy_is_not_forgotten() -> None:
    cluster = _cluster(3, seed=1)
    first, *others = cluster.nodes
    for other in others:
        _lose(other)
    cluster.run(lambda: all(_repairs(other) == 1 for other in others), limit_s=60)
    assert not _repairs(first)
    _assert_whole(cluster)


def test_a_repair_that_is_over_takes_no_place_among_the_transfers() -> None:
    cluster = _cluster(2, seed=1)
    node = cluster.nodes[1]
    _lose(node)
    cluster.run(lambda: _repairs(node) == 1, limit_s=30)
    cluster.pass_s(1)
    assert not any(len(each.sync.outbound) for each in cluster.nodes)
    assert not any(each.sync.repair.active for each in cluster.nodes)
