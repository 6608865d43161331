"""A member could live in another's name in the wide-area pool, and was believed abroad.

Whom the wide-area pool did not know could be claimed there, with a later life and another
address; the other regions believed the pool before the view of the member's own region.
"""

from __future__ import annotations

from random import Random

from gossip.mesh import WIDE
from gossip.messages import Profile, Record, State
from gossip.sealing import Seal
from gossip.swim import Swim
from tests.gossip.nodes import NodeWorld
from tests.gossip.pool import SECOND, Host

REGIONS = ((1, 2, 3), (100, 101, 102), (200, 201, 202))


def test_a_region_knows_best_who_lives_in_it() -> None:
    world = NodeWorld(5)
    for region in REGIONS:
        world.begin(region, [region[0], 1])
    world.until(world.complete, 60 * SECOND)
    # Member 102 is no gateway; somebody with the key plays it, in a life to come.
    place = "10.6.6.6:7946"
    claim = Record(102, 50, 0, Profile("node-102", "r1", place))
    swim = Swim(claim, WIDE, world.wide, Random(1), Seal.plain("test"))
    liar = Host(9_102, place, swim, generation=50)
    world.start(liar, [world.place(1), world.place(200)])
    world.run(120 * SECOND)
    assert sum(view.state is State.ALIVE for view in swim.members()) >= 6, "it is in that pool"
    for region in REGIONS:
        for member in region:
            if member != 102:
                view = world.views(member)[102]
                assert view.record.generation == 1
                assert view.record.profile.gossip_address == world.place(102)
                assert view.state is State.ALIVE
                reported = world.changes_of(member, 102)
                assert {change.record.generation for change in reported} == {1}
