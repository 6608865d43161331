"""Every member of a region that started at once, with one seed abroad, became a gateway.

The seed knew nobody of that region yet, so nobody was referred to anybody: each was alone,
took itself for the gateway and entered the wide-area pool, where places are kept: of 99 members
52 sat in it, and it took 18 s until all knew each other.
"""

from __future__ import annotations

import pytest

from tests.gossip.nodes import NodeWorld
from tests.gossip.pool import SECOND


@pytest.mark.parametrize("seed", range(4))
def test_those_who_knock_together_are_told_of_each_other(seed: int) -> None:
    world = NodeWorld(seed)
    members = [100 * region + one for region in range(3) for one in range(1, 13)]
    world.begin(members, [1])
    assert world.until(world.complete, 60 * SECOND) < 10 * SECOND
    world.run(30 * SECOND)
    gateways = [member for member in members if world.mesh(member).is_gateway]
    assert gateways == [1, 2, 101, 102, 201, 202]
