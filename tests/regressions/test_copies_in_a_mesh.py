"""Two nodes under one id, found by the mesh: they never met, and took turns for ever.

Found by the fault ``clone`` at swarm seed 3090. Who finds its peers by the mesh dials members,
and nobody is a member of its own mesh under its own id; so the original and its copy, both idle,
never had a stream with each other. Everybody else had one with now the one and now the other,
a new one every two seconds, until somebody would write.
"""

from __future__ import annotations

import pytest

from simulations.founding import await_gathering, found_by_mesh
from simulations.world import World

REGIONS = ("eu-west", "us-east", "eu-west")


@pytest.mark.parametrize("kind", ["swift", "lan sealed"])
@pytest.mark.parametrize("starts", [0, 1, 2])
def test_an_idle_copy_and_its_original_meet_and_one_takes_a_new_id(kind: str, starts: int) -> None:
    """``starts``: how often the original starts anew, so which of the two lives is the later."""
    world = World(starts + 1, mesh_kind=kind)
    for number, region in enumerate(REGIONS):
        world.add(f"m{number}", region)
    world.seed_mesh()
    found_by_mesh(world)
    await_gathering(world)
    original = world.machines["m2"]
    former = original.engine.replica_id
    copy = world.add("copy", original.region)
    copy.meet(["m0", "m1"])
    copy.ring = original.ring
    copy.device.disk.restore(original.device.disk.copy(), with_mark=True)
    copy.device.disk.inode = original.device.disk.inode
    if starts:
        original.crash()
    copy.start()
    for _ in range(starts):
        original.crash()
        original.start()
    assert copy.engine.replica_id == original.engine.replica_id == former

    def one_bears_it() -> bool:
        return [copy.engine.replica_id, original.engine.replica_id].count(former) == 1

    world.run_until(one_bears_it, "two ids", within_s=60)
    assert world.alarms["mesh: doubled"]
    assert world.alarms["clone"]
    await_gathering(world)
    world.run_until(world.converged, "convergence", within_s=60)
    # Nobody is dialled any more as what it was.
    world.run(5)
    alarms = world.alarms["clone"]
    world.run(120)
    assert world.alarms["clone"] == alarms
    for machine in (copy, original):
        assert machine.mesh is not None
        assert former not in machine.mesh.targets.values() or machine.engine.replica_id != former
