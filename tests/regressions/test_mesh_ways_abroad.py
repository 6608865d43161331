"""The only node of a region that knew another region never became its gateway.

It was told of the other region by its seed, was in nobody's way there, and gave its own region's
gateways to whoever asked it for the wide area; they had no seeds but each other. So the two
regions never met, and a cluster of both was never founded. Found by the simulator (swarm seed
7697). The same gap stood between two gateways of one region that had entered the wide area by
different doors, and before seeds that were named after the start.
"""

from __future__ import annotations

import pytest

from gossip.memory import write_peers
from gossip.mesh import Mesh
from gossip.wire import pack
from tests.gossip.nodes import NodeWorld
from tests.gossip.pool import SECOND


@pytest.mark.parametrize("seed", range(4))
def test_a_member_that_is_no_gateway_brings_its_seed_to_the_gateways(seed: int) -> None:
    world = NodeWorld(seed)
    world.start(world.host(100))
    world.run(5 * SECOND)
    for member, heard_of in ((3, 100), (2, 3), (1, 2)):
        world.start(world.host(member), [world.place(heard_of)])
    world.until(world.complete, 30 * SECOND)
    assert not world.mesh(3).is_gateway


def test_what_was_remembered_of_other_regions_reaches_the_gateways() -> None:
    world = NodeWorld()
    world.start(world.host(100))
    abroad = write_peers([(100, world.place(100))])
    world.start(world.host(3, remembered=pack((1, write_peers([]), abroad))))
    for member in (2, 1):
        world.start(world.host(member), [world.place(3)])
    world.until(world.complete, 30 * SECOND)
    assert not world.mesh(3).is_gateway


@pytest.mark.parametrize("seed", range(4))
def test_gateways_of_one_region_meet_in_the_wide_area(seed: int) -> None:
    world = NodeWorld(seed)
    for member in (3, 2, 1):
        world.start(world.host(member), [world.place(3)])
    # It is gone before either of the others asks it for the wide area.
    world.until(world.complete, SECOND)
    world.kill(3)
    world.run(20 * SECOND)
    world.start(world.host(100), [world.place(2)])
    world.until(world.complete, 60 * SECOND)


@pytest.mark.parametrize("told", [1, 3])
def test_a_seed_that_is_named_after_the_start_is_sought_abroad(told: int) -> None:
    world = NodeWorld()
    world.start(world.host(100))
    for member in (1, 2, 3):
        world.start(world.host(member), [world.place(one) for one in (1, 2, 3) if one != member])
    # Before the election.
    world.run(SECOND // 2)
    host = world.hosts[told]
    world.call(host, host.swim.join([world.place(100)], world.now_us, world.wall(host)))
    world.until(world.complete, 30 * SECOND)


@pytest.mark.slow
def test_nothing_is_told_where_all_is_known_and_ever_less_where_nobody_answers() -> None:
    world = NodeWorld()
    world.begin([100, 1, 2, 3, 4, 5])
    world.until(world.complete, 60 * SECOND)
    world.run(60 * SECOND)
    told = [_told(world.mesh(member)) for member in (3, 4, 5)]
    world.run(600 * SECOND)
    assert [_told(world.mesh(member)) for member in (3, 4, 5)] == told
    host = world.hosts[5]
    nowhere = [f"10.9.0.{number}:7946" for number in range(1, 21)]
    world.call(host, host.swim.join(nowhere, world.now_us, world.wall(host)))
    world.run(3_600 * SECOND)
    # At first after half a minute, in the end after eight.
    assert 4 <= _told(world.mesh(5)) - told[2] <= 12


def test_of_many_ways_each_has_its_turn() -> None:
    world = NodeWorld()
    world.begin([1, 2, 3])
    world.until(world.complete, 10 * SECOND)
    world.start(world.host(100))
    host = world.hosts[3]
    ways = [f"10.9.0.{number}:7946" for number in range(1, 24)] + [world.place(100)]
    world.call(host, host.swim.join(ways, world.now_us, world.wall(host)))
    world.until(world.complete, 3_600 * SECOND, step_us=SECOND)


def _told(mesh: Mesh) -> int:
    return mesh.counters["doors told"]
