"""A member that had left for good was shown as living, for ever, by some gateways abroad.

It was the only one of its region. It left and began its next life at once; a gateway abroad that
still held the earlier life for alive asked for its view, and the answer came from the new life
after the farewell of the old one had been believed. So the view was followed although its author
was nobody in the wide-area pool, whence nobody noticed when it left for good: the gateway had never
met that life, and its farewell was of no member that was there. Found by a search of random
farewells and restarts, one in twenty, after the simulator's checker ``farewells`` had shown the
outline of it. The same held for a view whose author had lost its duty to somebody who held no view
of that region at all.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from random import Random

from gossip.config import LAN, LOCAL
from gossip.frames import Announcement, ViewRequest
from gossip.messages import Profile, Record, Stamp, State
from gossip.regions import REPEAT_US, Regions
from gossip.views import RegionView
from tests.gossip.nodes import NodeWorld
from tests.gossip.pool import MS, SECOND

LONER = 201
OTHERS = (1, 2, 101, 102)
SEEDS = (27, 39, 88, 115)
WIDE = replace(LAN, probe_timeout_us=SECOND)
ANN, BOB = Stamp(7, 1, 0), Stamp(8, 1, 0)


def _leave(world: NodeWorld) -> None:
    host = world.hosts[LONER]
    world.call(host, host.swim.leave(world.now_us, world.wall(host)))
    host.up = False


def _came_and_went(seed: int) -> NodeWorld:
    """Let the only member of a region leave and come back a few times, and leave for good."""
    chance = Random(seed)
    world = NodeWorld(seed, latency_us=(1 * MS, 80 * MS), config=LOCAL, wide=WIDE)
    world.begin([*OTHERS, LONER])
    world.run(20 * SECOND)
    for _ in range(3):
        _leave(world)
        world.run(chance.randrange(1, 800) * MS)
        world.restart(LONER, [world.place(1)])
        world.run(chance.randrange(1, 3_000) * MS)
    _leave(world)
    return world


def _holding_it_for_alive(world: NodeWorld) -> set[int]:
    return {
        member
        for member in OTHERS
        if (view := world.views(member).get(LONER)) is not None and view.state <= State.SUSPECT
    }


def _is_alive_to_nobody(world: NodeWorld) -> bool:
    return not _holding_it_for_alive(world)


def test_whoever_left_for_good_is_alive_to_nobody() -> None:
    for seed in SEEDS:
        world = _came_and_went(seed)
        # What is heard of it by hearsay only is suspect at once, and dead after two minutes.
        world.until(partial(_is_alive_to_nobody, world), 190 * SECOND, SECOND)
        world.run(30 * SECOND)
        assert not _holding_it_for_alive(world), seed


def _view() -> RegionView:
    view = RegionView("eu")
    view.replace([(Record(7, 1, 0, Profile("n7", "eu", "10.0.0.7:7")), State.ALIVE)])
    return view


def _is_it(speaking: int, _region: str, author: int) -> bool:
    return author == speaking


def _said(view: RegionView, who: Stamp) -> Announcement:
    return view.announce(who)


def test_what_was_announced_meanwhile_is_followed_only_if_its_author_still_speaks() -> None:
    for speaking, author in ((ANN.member, ANN.member), (0, 0)):
        view, regions = _view(), Regions("us", 100, Random(1))
        assert regions.fetch(ViewRequest("eu"), BOB.member, wide=True) is not None
        regions.others["eu"] = _view()
        assert regions.hear(_said(view, ANN), 0, first=ANN.member, wide=True) is None
        now_us = 0
        while regions._fetches:
            regions.fetched("eu", None, now_us, partial(_is_it, speaking))
            now_us += 2 * SECOND
            regions.due(now_us)
        assert regions.others["eu"].author == author


def test_a_region_whose_author_speaks_no_more_is_doubted_after_a_while() -> None:
    regions = Regions("us", 100, Random(1))
    fetch = regions.fetch(ViewRequest("eu"), ANN.member, wide=True)
    assert fetch is not None
    regions.fetched("eu", _view().answer(fetch.request, ANN), 0, lambda _region, _who: True)

    def doubted(now_us: int, *, speaks: bool) -> set[int]:
        return regions.doubt_silent(now_us, lambda _region, _who: speaks)

    assert not doubted(10 * REPEAT_US, speaks=True), "lost announcements are no reason"
    assert not doubted(2 * REPEAT_US, speaks=False), "who follows it may be about to speak"
    assert doubted(3 * REPEAT_US, speaks=False) == {7}
    row = regions.row(7)
    assert row is not None
    assert row.state is State.SUSPECT
    assert not doubted(4 * REPEAT_US, speaks=False), "once"
