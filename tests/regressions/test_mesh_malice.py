"""What one member says must not harm another that lives: memberlist #359 (a maximal incarnation
evicts a node), consul #3023 (coordinates that are not numbers spread), and what follows from
them: forged lives, forged addresses, doubled identities."""

from __future__ import annotations

from dataclasses import replace
from math import nan

import pytest

from gossip.config import LAN
from gossip.coordinates import DIMENSIONS, check
from gossip.messages import (
    Ack,
    Alive,
    Coordinate,
    Dead,
    Message,
    Packet,
    Profile,
    Record,
    Stamp,
    State,
    Suspect,
)
from gossip.shapes import COUNT_MAXIMUM
from tests.gossip.pool import SECOND, World

LIAR, VICTIM = 2, 3


def pool(seed: int = 1) -> World:
    world = World(seed)
    world.grow(5)
    world.run(5 * SECOND)
    return world


def said(world: World, to: int, *messages: Message, sender: Stamp | None = None) -> None:
    """Let the liar say something to another member."""
    host = world.hosts[to]
    stamp = sender or world.hosts[LIAR].swim.me.stamp
    packet = Packet("region:here", stamp, 0, messages)
    source = world.hosts[LIAR].address
    world.call(host, host.swim.receive(packet, source, world.now_us, world.wall(host)))


def unharmed(world: World) -> None:
    """Make sure that after a while everybody holds everybody for alive, and did throughout."""
    world.run(60 * SECOND)
    assert world.whole()
    assert sum(world.deaths(host.member) for host in world.running()) == 0
    for host in world.running():
        place = world.hosts[VICTIM].address
        view = host.swim.view(VICTIM)
        assert view is None or view.record.profile.gossip_address == place


@pytest.mark.parametrize("kind", [Suspect, Dead])
@pytest.mark.parametrize("incarnation", [0, 1, 7, 2_000, COUNT_MAXIMUM])
def test_no_accusation_evicts_who_lives(kind: type[Suspect] | type[Dead], incarnation: int) -> None:
    world = pool()
    for _ in range(20):
        for to in (1, 3, 4, 5):
            said(world, to, kind(Stamp(VICTIM, 1, incarnation), LIAR))
        world.run(SECOND // 2)
    unharmed(world)
    assert world.hosts[VICTIM].swim.me.incarnation <= 100


def test_a_maximal_incarnation_cannot_be_planted() -> None:
    world = pool()
    victim = world.hosts[VICTIM].swim.me
    for to in (1, 3, 4, 5):
        said(world, to, Alive(replace(victim, incarnation=COUNT_MAXIMUM)))
    unharmed(world)
    for host in world.running():
        view = host.swim.view(VICTIM)
        assert view is None or view.record.incarnation < 100
    assert world.hosts[1].swim.counters.refused["impersonation"]
    # And it can still refute.
    world.pause(VICTIM)
    world.run(20 * SECOND)
    world.resume(VICTIM)
    world.until(world.whole, 20 * SECOND)


@pytest.mark.parametrize("generation", [2, COUNT_MAXIMUM])
@pytest.mark.parametrize("address", ["10.0.0.2:7946", "10.6.6.6:7946", "10.0.0.3:7946"])
def test_nobody_can_take_over_a_living_member(generation: int, address: str) -> None:
    world = pool()
    victim = world.hosts[VICTIM].swim.me
    forged = replace(
        victim, generation=generation, profile=replace(victim.profile, gossip_address=address)
    )
    for _ in range(5):
        for to in (1, 3, 4, 5):
            said(world, to, Alive(forged), sender=forged.stamp)
            said(world, to, Alive(forged))
            said(world, to, Dead(forged.stamp, VICTIM), sender=forged.stamp)
        world.run(2 * SECOND)
    unharmed(world)
    for host in world.running():
        view = host.swim.view(VICTIM)
        assert view is None or view.record.generation == 1


def test_the_address_of_a_living_member_is_not_changed_by_hearsay() -> None:
    world = pool()
    victim = world.hosts[VICTIM].swim.me
    profile = replace(victim.profile, gossip_address="10.0.0.2:7946")
    for to in (1, 3, 4, 5):
        said(world, to, Alive(replace(victim, incarnation=5, profile=profile)))
    unharmed(world)
    assert "impersonation" in [warning.name for warning in world.hosts[1].warnings]


def test_two_that_share_an_id_are_reported_by_both_and_nobody_flaps() -> None:
    world = pool()
    original = world.hosts[VICTIM]
    for generation in (1, 2):
        copy = world.host(VICTIM, address=f"10.5.5.{generation}:1", generation=generation)
        world.start(copy, ["10.0.0.1:7946"])
        world.hosts[VICTIM] = original
        before = {host.member: len(host.changes) for host in world.running()}
        world.run(120 * SECOND)
        for host in world.running():
            if host.member != VICTIM:
                changes = [one for _, one in host.changes[before[host.member] :]]
                assert not [one for one in changes if one.record.member == VICTIM]
        assert "doubled" in [warning.name for warning in copy.warnings]
        assert "doubled" in [warning.name for warning in original.warnings]
        copy.up = False
    unharmed(world)


def test_coordinates_that_are_no_numbers_are_refused_and_do_not_spread() -> None:
    world = pool()
    bad = Coordinate((nan,) * DIMENSIONS, nan, nan)
    host = world.hosts[LIAR]
    host.swim._pool.place.value = bad
    # They are refused where they are decoded; here the values go past the wire.
    prober = world.hosts[1].swim._prober
    world.until(lambda: bool(prober._open), 5 * SECOND, 100)
    probe = next(iter(prober._open.values()))
    stamp = world.hosts[probe.member].swim.me.stamp
    ack = Ack(probe.sequence, stamp, 10**15, 10**15, bad)
    packet = Packet("region:here", stamp, 0, (ack,))
    machine = world.hosts[1].swim
    machine.receive(packet, probe.address, world.now_us + 500, world.wall(host))
    assert machine.counters.refused["coordinate"] == 1
    world.run(60 * SECOND)
    for other in world.running():
        if other.member != LIAR:
            check(other.swim._pool.place.value)


def test_a_flood_of_members_pushes_nobody_out() -> None:
    world = World(2, config=LAN.__class__(members=50))
    world.grow(5)
    world.run(5 * SECOND)
    for member in range(10_000, 10_400):
        profile = Profile("flood", "here", f"10.7.{member >> 8 & 255}.{member & 255}:1")
        said(world, 1, Alive(Record(member, 1, 0, profile)))
    machine = world.hosts[1].swim
    assert machine.counters.refused["members"] > 300
    assert sum(view.state <= State.SUSPECT for view in machine.members()) < 50
    world.run(240 * SECOND)
    for host in world.running():
        alive = {v.record.member for v in host.swim.members() if v.state is State.ALIVE}
        assert alive == set(range(1, 6)) - {host.member}
        assert len(host.swim.members()) <= 4 * 50
    assert not [warning for warning in world.hosts[2].warnings if warning.name == "degraded"]


@pytest.mark.parametrize(
    ("generation", "incarnation"), [(COUNT_MAXIMUM, 0), (1, COUNT_MAXIMUM), (1, 900)]
)
def test_what_was_said_of_a_newcomer_before_it_came_does_not_keep_it_out(
    generation: int, incarnation: int
) -> None:
    world = pool()
    newcomer = world.host(9)
    forged = replace(newcomer.swim.me, generation=generation, incarnation=incarnation)
    for to in (1, 3, 4, 5):
        said(world, to, Alive(forged))
    world.run(2 * SECOND)
    world.start(newcomer, ["10.0.0.1:7946"])
    world.run(60 * SECOND)
    assert world.whole()
    for host in world.running():
        view = host.swim.view(9)
        assert view is None or view.record.generation == 1
    world.run(60 * SECOND)
    assert world.whole()


def test_a_life_that_was_forged_for_the_dead_does_not_keep_it_dead() -> None:
    world = pool()
    old = world.hosts[VICTIM].swim.me
    world.kill(VICTIM)
    world.until(lambda: world.all_see(VICTIM, State.DEAD), 30 * SECOND)
    for to in (1, 4, 5):
        said(world, to, Alive(replace(old, generation=COUNT_MAXIMUM)))
        said(world, to, Alive(replace(old, incarnation=COUNT_MAXIMUM)))
    world.run(10 * SECOND)
    assert world.all_see(VICTIM, State.DEAD)
    world.restart(VICTIM, ["10.0.0.1:7946"])
    world.until(world.whole, 20 * SECOND)
