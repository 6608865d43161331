"""Ways in which a search could lose its aim: the host's seeds pushed out by addresses that other
members named, the other side of a partition behind hundreds of ids that are gone for good, ids
whose address is somebody else's by now, and what a leaver knew but had not remembered yet; and
one that could not be ended: that for a member which was reaped."""

from __future__ import annotations

import pytest

from gossip.config import LAN
from gossip.errors import UnknownMember
from gossip.messages import State
from tests.gossip.pool import SECOND, World


def _kept(hosts: dict[int, str]) -> bytes:
    """Return what a host remembers that once met these."""
    world = World(99)
    host = world.start(world.host(1000))
    for member, place in hosts.items():
        host.swim._rejoin.seek(member, place)
    host.swim._rejoin.remember_soon()
    world.run(SECOND)
    assert host.remembered
    return host.remembered


def test_addresses_that_members_named_do_not_push_out_the_hosts_seeds() -> None:
    world = World(1)
    host = world.start(world.host(1), ["10.0.0.2:7946"])
    for number in range(40):
        named = [f"10.7.{number}.{place}:1" for place in range(8)]
        join = host.swim.join(named, world.now_us, world.wall(host), hearsay=True)
        world.call(host, join)
        world.run(SECOND)
    assert len(host.swim._rejoin._seeds) <= 64
    tried = world.tried["10.0.0.2:7946"]
    world.run(100 * LAN.rejoin_interval_us)
    assert world.tried["10.0.0.2:7946"] > tried


def test_the_other_side_is_found_before_those_who_are_gone_for_good() -> None:
    """With all sought alike, the mean was 250 turns."""
    gone = {member: f"10.8.{member >> 8}.{member & 255}:1" for member in range(2000, 2500)}
    world = World(2)
    first = world.start(world.host(1, remembered=_kept(gone)))
    second = world.start(world.host(2, remembered=_kept(gone)), [first.address])
    world.until(world.whole, 10 * SECOND)
    world.split([1], [2])
    world.until(lambda: world.state(1, 2) is world.state(2, 1) is State.DEAD, 60 * SECOND)
    world.run(LAN.gossip_to_dead_us)
    # Without the seed, which is another way.
    second.swim._rejoin._seeds.clear()
    world.heal()
    world.until(world.whole, 20 * LAN.rejoin_interval_us)


def test_an_id_whose_address_is_another_members_now_costs_nothing() -> None:
    world = World(3)
    world.grow(3)
    world.run(40 * SECOND)
    place = world.hosts[3].address
    world.kill(3)
    world.start(world.host(4, address=place, name="successor"), [world.hosts[1].address])
    world.until(lambda: world.state(1, 3) is State.DEAD, 60 * SECOND)
    world.until(lambda: world.state(1, 4) is State.ALIVE, 60 * SECOND)
    world.run(60 * SECOND)
    before = world.hosts[1].swim.counters.rejoin_attempts
    world.run(20 * LAN.rejoin_interval_us)
    assert world.hosts[1].swim.counters.rejoin_attempts == before
    world.kill(4)
    world.until(lambda: world.state(1, 4) is State.DEAD, 60 * SECOND)
    world.run(20 * LAN.rejoin_interval_us)
    assert world.hosts[1].swim.counters.rejoin_attempts > before, "either may come back there"


def test_who_leaves_remembers_whom_it_met_a_moment_ago() -> None:
    """The others do not seek who left, so nobody would ever have looked for anybody."""
    world = World(4)
    world.grow(2)
    world.run(5 * SECOND)
    world.kill(2)
    world.restart(2, [world.hosts[1].address], address="10.0.0.22:7946")
    leaver = world.hosts[1]

    def met() -> bool:
        view = leaver.swim.view(2)
        return view is not None and view.record.generation == 2

    world.until(met, 20 * SECOND)
    world.call(leaver, leaver.swim.leave(world.now_us, world.wall(leaver)))
    world.kill(1)
    world.until(lambda: world.state(2, 1) is State.LEFT, 10 * SECOND)
    # Of the seed that it was started with, nothing is left either.
    world.hosts[2].swim._rejoin._seeds.clear()
    world.restart(1)
    world.until(world.whole, 10 * SECOND)


def test_the_search_for_one_that_was_reaped_can_be_ended() -> None:
    world = World(5, config=LAN.__class__(reap_dead_us=60 * SECOND))
    world.grow(3)
    world.run(40 * SECOND)
    world.kill(3)
    world.until(lambda: world.state(1, 3) is State.DEAD, 60 * SECOND)
    world.run(90 * SECOND)
    host, place = world.hosts[1], world.hosts[3].address
    assert world.state(1, 3) is None
    tried = world.tried[place]
    world.call(host, host.swim.forget(3, world.now_us))
    world.call(world.hosts[2], world.hosts[2].swim.forget(3, world.now_us))
    world.run(10 * LAN.rejoin_interval_us)
    assert world.tried[place] == tried
    with pytest.raises(UnknownMember):
        host.swim.forget(3, world.now_us)
