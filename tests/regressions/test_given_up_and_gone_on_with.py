"""A state was joined that goes on with another history than the one which was held.

Found by swarm seed 718. Of a copied id there were two histories. A node gave one up and began
again; a neighbour that still held it handed it back; and before a batch of the other showed
that they part, a snapshot came, which does not show it: the node held the first six deltas of
one history and the next two of the other, and nobody ever noticed.
"""

from __future__ import annotations

import pytest

from crdtmem.crdt import NESTED, SHAPES
from crdtmem.errors import StoreCorrupt
from crdtmem.install import Assembler, Installation, Kind
from crdtmem.retirement import add_lost, read_lost
from simulations.faults import clean_links
from simulations.node import Machine
from simulations.world import World
from tests.simulations.ground import put_and_wait, world_of


def _with_two_histories() -> tuple[World, int]:
    """Return a world where m1 holds one history of m0's first id, and m2 a longer one."""
    world = world_of(3)
    m0 = world.machines["m0"]
    put_and_wait(m0, [("shared", 0)])
    world.run_until(world.converged, "convergence", within_s=30)
    former = m0.engine.replica_id
    copy = world.add("copy", m0.region)
    copy.peers = ["m2"]
    copy.device.disk.inode = m0.device.disk.inode
    copy.device.disk.restore(m0.device.disk.copy(), with_mark=True)
    world.network.cut(["m0", "m1"], ["copy", "m2"])
    copy.start()
    world.run(2)
    put_and_wait(m0, [("original", 1)])
    for number in range(3):
        put_and_wait(copy, [(f"copy {number}", 2)])
    world.run(3)
    m0.stop()
    copy.stop()
    return world, former


def _snapshot_of(machine: Machine) -> Installation:
    """Return what that machine's snapshot would be, after its way over a stream."""
    engine = machine.engine
    assembler = Assembler(SHAPES, NESTED)
    for marker in Installation(Kind.WHOLE, engine.snapshot_header(), engine.state).markers():
        whole = assembler.feed(marker)
    assert whole is not None
    return whole


def _install(machine: Machine, installation: Installation) -> None:
    assert machine.executor is not None
    engine, executor = machine.engine, machine.executor
    executor.attempt(lambda: engine.install(installation, executor.now_us()))


def test_no_state_is_joined_to_a_history_that_was_given_up_before() -> None:
    world, former = _with_two_histories()
    m1, m2 = world.machines["m1"], world.machines["m2"]
    held, other = m1.replica.tips[former], m2.replica.tips[former]
    assert other[0] > held[0]
    # As if it had been given up before, and handed back by a neighbour.
    m1.engine.membership.lost = {former: held}
    _install(m1, _snapshot_of(m2))
    world.run(1)
    assert world.alarms["snapshot refused"] == 1
    assert m1.replica.tips[former] == held
    clean_links(world)

    def agreed() -> bool:
        both = (m1, m2)
        return all(m.up and m.replica.writable for m in both) and (
            m1.replica.tips.get(former) == m2.replica.tips.get(former) == other
        )

    world.run_until(agreed, "one history", within_s=120)


def test_another_history_than_the_one_given_up_is_gone_on_with() -> None:
    world, former = _with_two_histories()
    m1, m2 = world.machines["m1"], world.machines["m2"]
    earlier = _snapshot_of(m2)
    held = m1.replica.tips[former]
    m1.engine.membership.lost = {former: (held[0], bytes(16))}
    _install(m1, earlier)
    world.run(1)
    assert not world.alarms["snapshot refused"]


def test_what_was_given_up_is_remembered_under_every_later_id() -> None:
    world, former = _with_two_histories()
    m1 = world.machines["m1"]
    held = m1.replica.tips[former]
    clean_links(world)
    world.run_until(lambda: former not in m1.replica.tips, "the history given up", within_s=60)
    assert m1.engine.membership.lost[former] == held
    world.run_until(lambda: m1.replica.writable, "another life", within_s=60)
    m1.stop()
    m1.start()
    assert m1.engine.membership.lost[former] == held


def test_of_what_is_remembered_there_is_an_end() -> None:
    packed = None
    for replica in range(1, 1_203):
        packed = add_lost(packed, {replica: 0, 7: 1}, {replica: (1, bytes(16)), 7: (1, bytes(16))})
    lost = read_lost(packed)
    assert len(lost) == 1_000
    assert 1_202 in lost
    assert 7 not in lost, "nothing of it was given up"
    assert read_lost(None) == {}
    with pytest.raises(StoreCorrupt):
        read_lost(b"\xc1")
