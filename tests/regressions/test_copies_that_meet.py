"""A copy that met nobody but its original kept the id that both had, for ever.

Found by the fault ``clone`` at swarm seeds 5164 and 5306, where the copy knew no other
peer: each side refused the other as a clone, and neither looked at who had written more
under the id, as it would have with any other peer.
"""

from __future__ import annotations

from crdtmem.effects import Alarm
from crdtmem.errors import ForkDetected
from crdtmem.sync_greeting import judge
from simulations.world import World
from tests.simulations.ground import admitted, held, put_and_wait, world_of


def _world_with_a_copy() -> World:
    world = world_of(1)
    original = world.machines["m0"]
    put_and_wait(original, [("before", 1)])
    copy = world.add("copy", "eu-west")
    copy.peers = ["m0"]
    copy.device.disk.inode = original.device.disk.inode
    copy.device.disk.restore(original.device.disk, with_mark=True)
    copy.start()
    assert copy.engine.replica_id == original.engine.replica_id
    return world


def test_the_one_that_knows_less_takes_a_new_id() -> None:
    world = _world_with_a_copy()
    original, copy = world.machines["m0"], world.machines["copy"]
    world.network.cut(["m0"], ["copy"])
    former = original.engine.replica_id
    put_and_wait(original, [("after", 2)])
    world.network.heal(["m0"], ["copy"])
    world.run_until(lambda: copy.up and copy.engine.replica_id != former, "another id", within_s=60)
    assert original.engine.replica_id == former
    world.run_until(lambda: admitted(world) and world.converged(), "convergence", within_s=60)
    assert held(copy) == held(original) == {"before": 1, "after": 2}


def test_of_two_that_know_the_same_one_takes_a_new_id() -> None:
    """Neither wrote, so an operator was told, and for ever each got half of what was sent."""
    world = _world_with_a_copy()
    former = world.machines["m0"].engine.replica_id
    world.run_until(
        lambda: sum(m.up and m.engine.replica_id == former for m in world.machines.values()) == 1,
        "two ids",
        within_s=30,
    )
    assert world.alarms["clone"]
    world.run_until(lambda: admitted(world) and world.converged(), "convergence", within_s=60)
    assert all(held(machine) == {"before": 1} for machine in world.machines.values())


def test_a_node_that_meets_itself_keeps_its_id() -> None:
    world = world_of(1)
    machine = world.machines["m0"]
    put_and_wait(machine, [("before", 1)])
    engine = machine.engine
    error, effects = judge(engine, engine.hello(0), engine.hello(0))
    assert isinstance(error, ForkDetected)
    assert [effect.name for effect in effects if isinstance(effect, Alarm)] == ["clone"]
    assert engine.replica.halted is None
