"""A gateway that died was shown as living abroad for minutes after everybody knew better.

Its region's next speaker had never met it, and so did not list it; whom a new speaker does not list
is kept for two minutes, and was looked at once a minute only. And a new speaker was not listened
to before the wide-area pool had found the old one dead, which takes it minutes. Together that was
more than the five minutes within which the simulator's meshes must gather (seeds 11030 and 11102 of
its swarm: a machine restarted in several lives, and then under a new id).
"""

from __future__ import annotations

from functools import partial
from random import Random

from gossip.frames import ViewRequest
from gossip.messages import Profile, Record, Stamp, State
from gossip.regions import Regions
from gossip.views import RegionView
from tests.gossip.nodes import NodeWorld
from tests.gossip.pool import MS, SECOND

HERE = (1, 2, 3)
"""The last of them is no gateway: it knows of other regions what its gateways tell."""
OLD, NEW, OTHERS = 101, 102, (110, 111)
ANN, BOB = Stamp(7, 1, 0), Stamp(8, 1, 0)


def _machine_under_a_new_id(seed: int) -> NodeWorld:
    """Kill a region's active gateway, and start another member on its machine, which leads."""
    world = NodeWorld(seed, latency_us=(1 * MS, 80 * MS))
    world.begin([*HERE, OLD, *OTHERS])
    world.run(60 * SECOND)
    world.kill(OLD)
    world.run(500 * MS)
    seeds = [world.place(110), world.place(1)]
    world.start(world.host(NEW, address=world.place(OLD)), seeds)
    return world


def _is_alive(world: NodeWorld, seer: int, member: int) -> bool:
    view = world.views(seer).get(member)
    return view is not None and view.state <= State.SUSPECT


def _is_over(world: NodeWorld, seer: int, member: int) -> bool:
    return not _is_alive(world, seer, member)


def test_whom_nobody_lists_and_the_wide_area_found_dead_is_shown_no_more() -> None:
    for seed in range(3):
        world = _machine_under_a_new_id(seed)
        world.until(partial(_is_over, world, 1, OLD), 120 * SECOND)
        world.run(3 * SECOND)
        assert not any(_is_alive(world, seer, OLD) for seer in HERE), seed
        assert world.complete()


def test_the_next_speaker_is_listened_to_while_the_first_is_suspect() -> None:
    world = _machine_under_a_new_id(4)
    # It announces once a minute at least; the wide area takes longer to find the other dead.
    world.until(partial(_is_alive, world, 3, NEW), 62 * SECOND)
    assert _is_alive(world, 1, OLD)


def _record(member: int, generation: int = 1) -> Record:
    profile = Profile(f"n{member}", "eu", f"10.0.0.{member}:7")
    return Record(member, generation, 0, profile)


def _view(*records: Record) -> RegionView:
    view = RegionView("eu")
    view.replace((record, State.ALIVE) for record in records)
    return view


def _followed(regions: Regions, told: RegionView, author: Stamp, now_us: int) -> None:
    fetch = regions.fetch(ViewRequest("eu"), author.member, wide=True)
    assert fetch is not None
    answer = told.answer(fetch.request, author)
    regions.fetched("eu", answer, now_us, lambda _region, _who: True)


def _unlisted() -> Regions:
    """Follow an author that lists three members, and then one that lists one of them only."""
    regions = Regions("us", 100, Random(1))
    _followed(regions, _view(_record(5, 2), _record(6, 2), _record(8)), ANN, 0)
    _followed(regions, _view(_record(8)), BOB, 10 * SECOND)
    return regions


def test_only_a_life_that_is_over_is_dropped_before_its_time() -> None:
    view = _unlisted().others["eu"]
    listed = Stamp(8, 1, 0)
    assert not view.sweep(11 * SECOND, [Stamp(5, 1, 9), listed]), "an earlier life, and one listed"
    assert view.sweep(12 * SECOND, [Stamp(5, 2, 0), Stamp(6, 3, 0), listed]) == {5, 6}
    assert [row.record.member for row in view] == [8]
    assert view.due_us is None


def test_whom_nobody_lists_is_dropped_when_it_is_time_and_not_at_the_next_turn() -> None:
    regions = _unlisted()
    due_us = regions.next_deadline_us()
    assert due_us == 130 * SECOND
    assert not regions.given_up(due_us - 1)
    assert regions.given_up(due_us) == {5, 6}
    assert regions.next_deadline_us() is None
