"""Abroad, the gateways of a region were alive for minutes after they had died.

Whoever takes over is not listened to while the first of them may still speak; when its death was
known at last, nobody asked the successor, and one waited until it repeated its announcement. Where
nobody took over, those that the wide-area pool had found dead itself were told to the own region
as suspects, and all were given up only at the next turn of a minute after their two minutes.
"""

from __future__ import annotations

from functools import partial

from gossip.messages import Profile, Record, Stamp, State
from gossip.views import RegionView
from tests.gossip.nodes import NodeWorld
from tests.gossip.pool import MS, SECOND

HERE = (1, 2, 3)
"""The last of them is no gateway: it knows of other regions what its gateways tell."""


def _world(there: range, seed: int) -> NodeWorld:
    world = NodeWorld(seed, latency_us=(1 * MS, 80 * MS))
    world.begin([*HERE, *there])
    world.run(60 * SECOND)
    return world


def _state(world: NodeWorld, seer: int, member: int) -> State:
    return world.views(seer)[member].state


def _dead_at_us(world: NodeWorld, seer: int, member: int) -> int:
    deaths = [
        at_us
        for at_us, change in world.hosts[seer].changes
        if change.record.member == member and change.state is State.DEAD
    ]
    return deaths[-1]


def _both_are_dead_to_three(world: NodeWorld) -> bool:
    return all(_state(world, 3, one) is State.DEAD for one in (101, 102))


def _is_dead_to_one(world: NodeWorld) -> bool:
    return _state(world, 1, 101) is State.DEAD


def test_a_successor_is_asked_when_the_death_of_the_gateways_is_known() -> None:
    for seed in range(3):
        world = _world(range(101, 106), seed)
        for member in (101, 102):
            world.kill(member)
        world.until(partial(_both_are_dead_to_three, world), 200 * SECOND)
        known_us = world.now_us
        # Of the second, too: by the successor's view, whatever the wide area knows of it by then.
        world.until(partial(_is_dead_to_one, world), 200 * SECOND)
        assert known_us - _dead_at_us(world, 1, 101) < 10 * SECOND, seed
        assert all(_state(world, 3, one) is State.ALIVE for one in (103, 104, 105))


def test_who_was_found_dead_is_told_so_and_the_rest_is_given_up_in_time() -> None:
    world = _world(range(101, 104), 5)
    for member in range(101, 104):
        world.kill(member)
    world.until(lambda: _state(world, 1, 101) is _state(world, 1, 102) is State.DEAD, 120 * SECOND)
    since_us = max(_dead_at_us(world, 1, member) for member in (101, 102))
    world.run(5 * SECOND)
    assert [_state(world, 3, one) for one in (101, 102)] == [State.DEAD, State.DEAD]
    assert _state(world, 3, 103) is State.SUSPECT
    world.until(lambda: _state(world, 3, 103) is State.DEAD, 130 * SECOND)
    assert 120 * SECOND <= _dead_at_us(world, 1, 103) - since_us <= 121 * SECOND
    assert _dead_at_us(world, 3, 103) - since_us <= 125 * SECOND


def test_only_the_life_that_was_found_dead_is_so() -> None:
    view = RegionView("eu")
    records = [Record(one, 2, 0, Profile(f"n{one}", "eu", f"10.0.0.{one}:7")) for one in (7, 8, 9)]
    states = (State.ALIVE, State.ALIVE, State.LEFT)
    view.replace(zip(records, states, strict=True))
    assert view.doubt(0, [Stamp(7, 1, 0), Stamp(8, 2, 3), Stamp(9, 2, 0), Stamp(6, 1, 0)]) == {7, 8}
    assert [row.state for row in view] == [State.SUSPECT, State.DEAD, State.LEFT]
