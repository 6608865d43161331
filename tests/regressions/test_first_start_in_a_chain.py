"""Nodes in a chain, all of them new, founded two clusters that could never become one.

Harm: a node whose only peer was as new as itself, and had the higher id, founded; and so did
another, further along the chain, that its neighbour alone could have told it of.
"""

from __future__ import annotations

import pytest

from simulations.world import World, WorldConfig
from tests.simulations.ground import admitted

_NAMES = ("a", "b", "c", "d")


def _world(seed: int, peers: dict[str, list[str]]) -> World:
    world = World(seed, WorldConfig())
    for name in peers:
        world.add(name, "eu-west")
    for name, named in peers.items():
        world.machines[name].peers = named
    world.start()
    return world


def _clusters(world: World) -> set[int]:
    return {m.engine.cluster_id for m in world.up()} - {0}


@pytest.mark.parametrize("seed", range(8))
def test_a_chain_of_new_nodes_founds_at_most_one_cluster(seed: int) -> None:
    """Each names the next; the last names the one before it."""
    world = _world(seed, {"a": ["b"], "b": ["a", "c"], "c": ["b", "d"], "d": ["c"]})
    world.run(30)
    assert len(_clusters(world)) <= 1


@pytest.mark.parametrize("seed", range(8))
def test_whose_peer_waits_for_another_waits_too(seed: int) -> None:
    """The first of the chain is down at first: the others do not found without it."""
    world = World(seed, WorldConfig())
    for name in _NAMES[:3]:
        world.add(name, "eu-west")
    world.machines["b"].peers, world.machines["c"].peers = ["a"], ["b"]
    world.machines["b"].start()
    world.machines["c"].start()
    world.run(20)
    assert not _clusters(world)
    world.machines["a"].start()
    world.run_until(lambda: admitted(world) and world.converged(), "one cluster", within_s=60)
    assert _clusters(world) == {world.machines["a"].engine.replica_id}


@pytest.mark.parametrize("seed", range(8))
def test_nodes_that_all_name_each_other_found_one(seed: int) -> None:
    names = {name: [other for other in _NAMES if other != name] for name in _NAMES}
    world = _world(seed, names)
    world.run_until(lambda: admitted(world) and world.converged(), "one cluster", within_s=60)
    lowest = min(m.engine.replica_id for m in world.up())
    assert _clusters(world) == {lowest}


def test_in_a_chain_one_is_told_to_found() -> None:
    world = _world(1, {"a": ["b"], "b": ["a", "c"], "c": ["b"]})
    world.run(10)
    chosen = world.machines["c"]
    chosen.stop()
    chosen.founds = True
    chosen.start()
    world.run_until(lambda: admitted(world) and world.converged(), "one cluster", within_s=60)
    assert _clusters(world) == {chosen.engine.replica_id}
