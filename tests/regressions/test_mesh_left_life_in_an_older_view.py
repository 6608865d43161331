"""A member that had left was shown as living again, out of a view older than its farewell.

It left, and began its next life at once. The wide-area pool had heard both; the view of its
region, fetched before, still listed the old life as alive. As the two no longer spoke of one
life, the view was believed: farewell, return of the life that was over, and only then the new
one. Found by the simulator (``farewells``), in one world out of six.
"""

from __future__ import annotations

from random import Random
from typing import cast

from gossip.beliefs import Beliefs
from gossip.frames import View
from gossip.members import MemberView
from gossip.messages import Profile, Record, State
from gossip.regions import Regions
from gossip.swim import Swim
from gossip.views import RegionView


def record(member: int, generation: int) -> Record:
    return Record(member, generation, 0, Profile(f"n{member}", "us", f"10.0.0.{member}:7"))


class Pool:
    """As much of a pool as is asked here: one member's view, or none."""

    def __init__(self) -> None:
        self.me = record(1, 1)
        self.said: MemberView | None = None

    def say(self, subject: Record, state: State) -> None:
        self.said = MemberView(subject, state, 0, None, None, False, False, None, b"")

    def view(self, member: int) -> MemberView | None:
        return self.said if self.said is not None and self.said.record.member == member else None


def test_the_view_brings_nobody_back_that_the_wide_area_saw_leave() -> None:
    near, far = Pool(), Pool()
    regions = Regions("eu", 100, Random(1))
    regions.others["us"] = RegionView("us")
    beliefs = Beliefs(cast("Swim", near), regions)
    beliefs.far = cast("Swim", far)
    reports: list[tuple[int, State]] = []

    def look() -> None:
        beliefs.touch([7])
        reports.extend((told.record.generation, told.state) for told in beliefs.changes())

    far.say(record(7, 1), State.ALIVE)
    look()
    far.say(record(7, 1), State.LEFT)
    look()
    # Fetched before the farewell, arrived after it; and the next life is there already.
    view = View("us", 8, 1, 1, 0, 0, ((record(7, 1), State.ALIVE),))
    assert regions.others["us"].follow(view, 100, 0) == {7}
    far.say(record(7, 2), State.ALIVE)
    look()
    regions.others["us"].replace([(record(7, 2), State.ALIVE)])
    look()
    assert reports == [(1, State.ALIVE), (1, State.LEFT), (2, State.ALIVE)]
