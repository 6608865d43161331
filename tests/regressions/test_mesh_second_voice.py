"""Of two gateways that speak for a region, the one that knew less had the last word.

Two members of a region that had started at once each took itself for the region's gateway, and
announced a region of one. Where the second one's announcement was fetched last, the first one
was struck from the view everywhere, for a minute.
"""

from __future__ import annotations

import pytest

from gossip.messages import State
from tests.gossip.nodes import NodeWorld
from tests.gossip.pool import MS, SECOND


@pytest.mark.parametrize("seed", range(10))
def test_nobody_is_struck_from_a_view_while_a_region_forms(seed: int) -> None:
    world = NodeWorld(seed)
    world.begin([1, 2, 3])
    world.until(world.complete, 30 * SECOND)
    # By different doors, at once: each is alone until the wide area has joined them.
    for member, door in ((100, 2), (101, 3)):
        world.start(world.host(member), [world.place(door)])
    world.until(world.complete, 60 * SECOND)
    world.run(5 * SECOND)
    for step in range(40):
        assert world.complete(), f"after {step} steps"
        world.run(500 * MS)
    for seer in (1, 2, 3):
        for about in (100, 101):
            changes = world.changes_of(seer, about)
            assert not any(change.gone for change in changes)
            assert {change.state for change in changes} == {State.ALIVE}
