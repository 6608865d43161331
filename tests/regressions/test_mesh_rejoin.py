"""Pools that never healed: memberlist #222 (no rejoin after a long partition) and #311 (stuck
dead after a mass restart)."""

from __future__ import annotations

import pytest

from gossip.config import LAN
from gossip.messages import State
from tests.gossip.pool import SECOND, World


@pytest.mark.parametrize("count", [2, 5, 20])
def test_halves_find_each_other_after_ten_times_the_gossip_to_dead(count: int) -> None:
    world = World(count)
    world.grow(count)
    world.run(5 * SECOND)
    one, other = range(1, count // 2 + 1), range(count // 2 + 1, count + 1)
    world.split(one, other)
    world.run(10 * LAN.gossip_to_dead_us + 60 * SECOND)
    assert all(world.state(a, b) is State.DEAD for a in one for b in other)
    before = sum(host.octets for host in world.running())
    world.heal()
    took = world.until(world.whole, 2 * LAN.rejoin_interval_us)
    octets = sum(host.octets for host in world.running()) - before
    assert octets / count / max(1.0, took / SECOND) < 16_384, "healing is a storm"


def test_the_reaped_are_still_sought() -> None:
    config = LAN.__class__(reap_dead_us=60 * SECOND)
    world = World(3, config=config)
    world.grow(4)
    world.run(5 * SECOND)
    world.split([1, 2], [3, 4])
    world.run(300 * SECOND)
    assert all(world.state(a, b) is None for a in (1, 2) for b in (3, 4))
    # The seed is on one side, and its address is nobody's any more on the other.
    world.heal()
    world.until(world.whole, 2 * LAN.rejoin_interval_us)


def test_all_restarted_at_once_find_each_other_without_seeds() -> None:
    world = World(4)
    world.grow(10)
    world.run(60 * SECOND)
    for member in range(1, 11):
        world.kill(member)
    world.run(60 * SECOND)
    for member in range(1, 11):
        world.restart(member)
    world.until(world.whole, 30 * SECOND)
    assert all(view.record.generation == 2 for view in world.hosts[1].swim.members())


def test_all_restarted_one_after_another_are_not_stuck_dead() -> None:
    world = World(5)
    world.grow(5)
    world.run(60 * SECOND)
    for member in range(1, 6):
        world.kill(member)
        world.run(8 * SECOND)
    world.run(60 * SECOND)
    for member in range(1, 6):
        world.restart(member)
        world.run(3 * SECOND)
    world.until(world.whole, 60 * SECOND)


def test_who_was_paused_longer_than_anybody_tells_it_is_found_again() -> None:
    world = World(6)
    world.grow(4)
    world.run(5 * SECOND)
    world.pause(2)
    world.run(10 * LAN.gossip_to_dead_us)
    world.resume(2)
    world.until(world.whole, 2 * LAN.rejoin_interval_us)


def test_what_is_remembered_survives_damage_and_later_versions() -> None:
    world = World(7)
    for remembered in (b"", b"\x00", b"\xc1", b"\x91\x07", b"\x92\x01\x01", b"\xff" * 99):
        host = world.host(1, remembered=remembered)
        world.start(host)
        names = [warning.name for warning in host.warnings]
        assert names == (["remembered"] if remembered else [])


def test_a_seed_by_another_name_is_not_tried_without_end() -> None:
    world = World(8)
    first = world.start(world.host(1))
    world.by_address["seed.example:7946"] = first
    world.start(world.host(2), ["seed.example:7946"])
    world.until(world.whole, 5 * SECOND)
    tried = world.tried["seed.example:7946"]
    world.run(600 * SECOND)
    assert world.tried["seed.example:7946"] == tried
    world.kill(1)
    world.until(lambda: world.all_see(1, State.DEAD), 30 * SECOND)
    world.run(60 * SECOND)
    assert world.tried["seed.example:7946"] > tried, "now nobody is known there"


def test_who_left_is_not_sought_after_a_restart() -> None:
    world = World(9)
    world.grow(3)
    world.run(40 * SECOND)
    world.call(world.hosts[3], world.hosts[3].swim.leave(world.now_us, 0))
    world.kill(3)
    world.run(60 * SECOND)
    world.kill(2)
    world.run(SECOND)
    tried = world.tried[world.hosts[3].address]
    world.restart(2)
    world.until(world.whole, 5 * SECOND)
    world.run(300 * SECOND)
    assert world.tried[world.hosts[3].address] == tried
