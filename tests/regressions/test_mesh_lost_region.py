"""Members of a region that nobody speaks for any more stayed suspect for ever: they counted for
living, so that no key could be rotated, and streams to them were sought without end. One that
moved to another region was dead to its former neighbours for a day. And nodes that were no
gateways remembered nobody abroad, so that after a full restart without the former gateways two
regions never met again."""

from __future__ import annotations

from gossip.messages import State
from tests.gossip.nodes import NodeWorld
from tests.gossip.pool import SECOND


def test_who_nobody_speaks_for_is_dead_after_a_while_and_back_with_its_region() -> None:
    world = NodeWorld(1)
    world.begin([1, 2, 3, 100, 101, 102])
    world.until(world.complete, 120 * SECOND)
    world.split([1, 2, 3], [100, 101, 102])
    world.run(600 * SECOND)
    for seer in (1, 2, 3):
        assert {world.views(seer)[about].state for about in (100, 101, 102)} == {State.DEAD}
        assert world.reported(seer)[102] is State.DEAD
    world.heal()
    world.until(world.complete, 300 * SECOND)


def test_rows_of_a_region_that_is_lost_are_dropped_after_a_day() -> None:
    world = NodeWorld(2)
    world.begin([1, 100, 101, 102])
    world.until(world.complete, 120 * SECOND)
    for member in (100, 101, 102):
        world.kill(member)
    world.run(26 * 3_600 * SECOND)
    assert 102 not in world.views(1)


def test_one_that_moved_to_another_region_is_alive_there() -> None:
    world = NodeWorld(3)
    world.begin([1, 2, 100, 101])
    world.until(world.complete, 120 * SECOND)
    world.kill(101)
    world.until(lambda: world.views(100)[101].state is State.DEAD, 60 * SECOND)
    moved = world.host(101, generation=2, region="r0")
    world.start(moved, [world.place(1)])
    world.until(lambda: world.views(100)[101].state is State.ALIVE, 300 * SECOND)
    assert world.views(100)[101].record.generation == 2
    assert world.reported(100)[101] is State.ALIVE


def test_regions_meet_again_after_a_full_restart_without_their_former_gateways() -> None:
    world = NodeWorld(4)
    world.begin([1, 2, 3, 4, 100, 101, 102, 103])
    world.until(world.complete, 120 * SECOND)
    world.run(180 * SECOND)
    for member in list(world.hosts):
        world.kill(member)
    world.run(60 * SECOND)
    for member in (3, 4, 102, 103):
        world.restart(member)
    world.until(world.complete, 600 * SECOND)
