"""Two members of one region that met in the wide-area pool never met at home.

The first of a region had no seed there, the second was given one abroad that had not heard of
the first. Each took itself for its region's gateway and entered the wide-area pool, where they
knew each other, and all others both; but nothing told either to knock at the other's door at
home: the region stayed two pools for good, with broadcasts that nobody heard. Found by the
simulator (``broadcasts``).
"""

from __future__ import annotations

import pytest

from gossip.messages import State
from tests.gossip.nodes import NodeWorld
from tests.gossip.pool import SECOND


@pytest.mark.parametrize("seed", range(4))
def test_who_is_met_in_the_wide_area_is_sought_at_home(seed: int) -> None:
    world = NodeWorld(seed)
    world.start(world.host(2), [])
    world.run(3 * SECOND)
    for member, heard_of in ((200, 2), (100, 200), (101, 100), (1, 101)):
        world.start(world.host(member), [world.place(heard_of)])

    def met() -> bool:
        views = [world.views(1).get(2), world.views(2).get(1)]
        return all(
            view is not None and view.state is State.ALIVE and view.tier == "local"
            for view in views
        )

    world.until(met, 60 * SECOND)
    world.until(world.complete, 60 * SECOND)
