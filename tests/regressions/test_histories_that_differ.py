"""Two nodes that held two histories of a third one never agreed, and repaired each other to bits.

Found by swarm seed 298: a store was copied where nothing could tell, both sides wrote under
one id and reached different peers. Original and copy took new ids; but the peers kept the two
histories, equal vectors stood for different deltas, and repair took what one history
superseded for evidence against the other.
"""

from __future__ import annotations

import pytest

from crdtmem.chains import sort_out
from simulations.faults import clean_links
from simulations.node import Machine
from simulations.world import World
from tests.simulations.ground import admitted, held, put_and_wait, world_of


def _copy_of(world: World, original: Machine, *, peers: list[str]) -> Machine:
    """Add a copy of a store that nothing gives away, cut off from the original."""
    copy = world.add("copy", original.region)
    copy.peers = peers
    copy.device.disk.inode = original.device.disk.inode
    copy.device.disk.restore(original.device.disk.copy(), with_mark=True)
    return copy


def _forked(*, writes_of_copy: int) -> tuple[World, int]:
    """Return a world in which m1 holds one history of m0, m2 and m3 hold another, not healed."""
    world = world_of(4)
    m0 = world.machines["m0"]
    put_and_wait(m0, [("shared", 0)])
    world.run_until(world.converged, "convergence", within_s=30)
    copy = _copy_of(world, m0, peers=["m2", "m3"])
    here, there = ["m0", "m1"], ["copy", "m2", "m3"]
    world.network.cut(here, there)
    copy.start()
    former = m0.engine.replica_id
    assert copy.engine.replica_id == former
    world.run(2)
    put_and_wait(m0, [("original", 1)])
    for number in range(writes_of_copy):
        put_and_wait(copy, [(f"copy {number}", 2)])
    world.run(3)
    m1, m2 = world.machines["m1"], world.machines["m2"]
    assert m1.replica.tips[former] != m2.replica.tips[former]
    return world, former


def _settle(world: World) -> None:
    clean_links(world)

    def agreed() -> bool:
        tips = [machine.replica.tips for machine in world.up()]
        return admitted(world) and world.converged() and all(tip == tips[0] for tip in tips)

    world.run_until(agreed, "one history everywhere", within_s=120)
    world.run(10)
    states = [machine.engine.state.digest() for machine in world.up()]
    assert all(state == states[0] for state in states)
    assert not world.alarms["repaired"]


def _is_kept(world: World, former: int, key: str) -> bool:
    """Tell whether a write is joined, or set aside where somebody may list it."""
    if all(key in held(machine) for machine in world.up()):
        return True
    for machine in world.up():
        assert machine.store is not None
        engine = machine.engine
        given_up = {former, *engine.membership.former_ids()}
        for chain in sort_out(machine.store, given_up, engine.state.vector, engine.tips):
            if any(write.key == key for write in chain.rescue.listing(engine.state)):
                return True
    return False


def test_of_two_histories_as_long_one_stays() -> None:
    world, former = _forked(writes_of_copy=1)
    _settle(world)
    assert _is_kept(world, former, "original")
    assert _is_kept(world, former, "copy 0")


def test_whoever_holds_less_of_a_replica_begins_again() -> None:
    world, former = _forked(writes_of_copy=3)
    _settle(world)
    for key in ("original", "copy 0", "copy 1", "copy 2"):
        assert _is_kept(world, former, key)
    assert all("shared" in held(machine) for machine in world.up())


def test_histories_that_become_as_long_after_a_greeting_are_not_repaired() -> None:
    world, former = _forked(writes_of_copy=1)
    # Only the peers meet, so nobody finds out whose id it was.
    world.machines["m0"].stop()
    world.machines["copy"].stop()
    clean_links(world)
    m1, m2 = world.machines["m1"], world.machines["m2"]

    def agreed() -> bool:
        machines = (m1, m2)
        if not all(m.up and m.replica.writable and former in m.replica.tips for m in machines):
            return False
        return m1.replica.tips[former] == m2.replica.tips[former]

    world.run_until(agreed, "one history", within_s=120)
    assert not world.alarms["repaired"]


@pytest.mark.parametrize("alone", [False, True])
def test_who_fenced_an_id_follows_when_others_hold_more_of_it(alone: bool) -> None:
    """Found in worlds of many clones: who had refused a history never asked for it again."""
    world, former = _forked(writes_of_copy=1)
    m0, m1 = world.machines["m0"], world.machines["m1"]
    # The original introduces itself to one of the other side, is refused, and is fenced there.
    world.network.heal(["m0"], ["m2"])
    put_and_wait(m0, [("more", 3)])
    world.run(15 if alone else 0.5)
    _settle(world)
    assert _is_kept(world, former, "more")
    assert m1.up
