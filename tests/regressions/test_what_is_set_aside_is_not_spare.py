"""A disk was taken away that alone held what an eviction had cut off.

Found by swarm seed 5277: a machine came back from an eviction with two acknowledged writes set
aside, and then the fault ``lost_disk`` judged by its vector that others held all of it.
"""

from __future__ import annotations

from simulations.faults.base import is_held_elsewhere
from simulations.operators import evict
from tests.simulations.ground import admitted, put_and_wait, world_of


def test_a_disk_with_something_set_aside_is_not_held_elsewhere() -> None:
    world = world_of(4)
    *others, gone = world.machines.values()
    put_and_wait(gone, [("shared", 1)])
    world.run_until(world.converged, "convergence", within_s=30)
    world.run(3)
    assert is_held_elsewhere(world, gone)
    world.network.cut([gone.name], [other.name for other in others])
    world.run(30)
    put_and_wait(gone, [("alone", 2)])
    former = gone.engine.replica_id
    assert evict(others[0], former) is None
    world.run_until(
        lambda: all(former in other.engine.epoch.settled for other in others), "cut", within_s=60
    )
    world.network.heal([gone.name], [other.name for other in others])
    world.run_until(lambda: gone.up and gone.engine.replica_id != former, "new id", within_s=60)
    world.run_until(lambda: admitted(world) and world.converged(), "convergence", within_s=60)
    assert not is_held_elsewhere(world, gone)
