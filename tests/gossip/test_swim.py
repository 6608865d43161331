"""A pool in virtual time: forming, detecting, refuting, leaving, telling, comparing."""

from __future__ import annotations

from dataclasses import replace
from statistics import mean

import pytest

from gossip.config import LAN, LOCAL, Config
from gossip.coordinates import distance_s
from gossip.effects import MemberChanged, SendDatagram
from gossip.errors import ConfigError, Malformed, TooLarge, UnknownMember
from gossip.messages import Channel, State
from tests.gossip.pool import MS, SECOND, World


def pool(count: int, seed: int = 1, *, config: Config = LAN, loss: float = 0.0) -> World:
    """Return a world in which so many members know each other."""
    world = World(seed, config=config)
    world.grow(count)
    world.until(world.whole, 30 * SECOND)
    world.run(5 * SECOND)
    world.loss = loss
    return world


def false_deaths(world: World) -> int:
    return sum(world.deaths(host.member) for host in world.running())


# ------------------------------------------------------------------ forming


@pytest.mark.parametrize("count", [2, 3, 5, 20])
def test_members_find_each_other_through_one_seed(count: int) -> None:
    world = World(count)
    world.grow(count)
    world.until(world.whole, 5 * SECOND)
    assert len({host.swim.table_hash for host in world.running()}) == 1
    assert world.largest <= LAN.packet_bytes


def test_members_that_start_before_their_seed_find_it_soon() -> None:
    world = World(4)
    for member in (2, 3, 4):
        world.start(world.host(member), ["10.0.0.1:7946"])
    world.run(7 * SECOND)
    world.start(world.host(1), ["10.0.0.1:7946"])
    assert world.until(world.whole, 20 * SECOND) < 12 * SECOND


def test_members_find_each_other_in_spite_of_loss() -> None:
    world = World(5, loss=0.3)
    world.grow(10)
    world.until(world.whole, 60 * SECOND)


def test_members_find_each_other_where_no_datagram_passes_to_one() -> None:
    world = World(6)
    others = range(1, 5)
    world.datagram_cuts = {(5, one) for one in others} | {(one, 5) for one in others}
    world.grow(5)
    world.until(world.whole, 60 * SECOND)
    world.run(60 * SECOND)
    assert world.whole()
    view = world.hosts[2].swim.view(5)
    assert view is not None
    assert view.degraded
    assert [warning.name for warning in world.hosts[2].warnings] == ["degraded"]
    world.heal()
    world.run(30 * SECOND)
    assert not any(one.degraded for host in world.running() for one in host.swim.members())


def test_two_runs_of_one_seed_are_one() -> None:
    def trace() -> list[tuple[int, int, State]]:
        world = pool(6, seed=9, loss=0.2)
        world.kill(2)
        world.run(20 * SECOND)
        world.restart(2, ["10.0.0.1:7946"])
        world.run(20 * SECOND)
        return [
            (at, change.record.member, change.state)
            for host in world.hosts.values()
            for at, change in host.changes
        ]

    assert trace() == trace()


# ------------------------------------------------------------------ detecting


@pytest.mark.parametrize(
    ("config", "count", "limit_s"), [(LAN, 2, 12), (LAN, 3, 9), (LAN, 5, 9), (LOCAL, 3, 7)]
)
def test_a_killed_member_is_found_dead_by_all(config: Config, count: int, limit_s: int) -> None:
    took = []
    for seed in range(5):
        world = pool(count, seed, config=config)
        world.kill(count)
        took.append(world.until(lambda w=world: w.all_see(count, State.DEAD), 60 * SECOND))  # type: ignore[misc]
        assert false_deaths(world) == 0
    assert max(took) < limit_s * SECOND
    if count > 2:
        # As fast as the least suspicion, one turn and one timeout allow, on average.
        assert mean(took) < (config.suspicion_multiplier + 2.2) * SECOND


def test_detection_grows_like_the_logarithm_and_the_load_not_at_all() -> None:
    took, packets = [], []
    for count in (10, 50, 200):
        world = World(3)
        world.found(count)
        world.run(5 * SECOND)
        before = sum(host.packets for host in world.running())
        world.run(10 * SECOND)
        packets.append((sum(host.packets for host in world.running()) - before) / 10 / count)
        world.kill(count)
        gone = count
        took.append(world.until(lambda w=world, g=gone: w.all_see(g, State.DEAD), 60 * SECOND))  # type: ignore[misc]
    assert took == sorted(took)
    assert took[2] < 14 * SECOND
    assert max(packets) < 2.2


@pytest.mark.parametrize(("count", "loss"), [(3, 0.1), (3, 0.3), (20, 0.3)])
def test_lost_datagrams_kill_nobody(count: int, loss: float) -> None:
    world = pool(count, loss=loss)
    world.run((300 if count < 10 else 60) * SECOND)
    assert false_deaths(world) == 0
    assert world.lost > 100


@pytest.mark.parametrize("count", [3, 5])
def test_a_one_way_cut_kills_nobody_while_others_relay(count: int) -> None:
    world = pool(count)
    world.cuts.add((1, 2))
    world.run(300 * SECOND)
    assert false_deaths(world) == 0
    assert sum(host.swim.counters.relayed for host in world.running()) > 10


def test_a_member_that_stands_still_is_dead_and_then_back_and_accuses_nobody() -> None:
    for count in (2, 3, 20):
        world = pool(count)
        world.pause(1)
        world.until(lambda w=world: w.all_see(1, State.DEAD), 60 * SECOND)  # type: ignore[misc]
        world.run(30 * SECOND)
        world.resume(1)
        world.until(world.whole, 10 * SECOND)
        assert not any(change.state is State.DEAD for _, change in world.hosts[1].changes)
        assert world.hosts[1].swim.counters.late_timers >= 1
        assert world.hosts[1].swim.me.incarnation >= 1


def test_members_that_stumble_are_suspected_and_never_dead() -> None:
    for count in (2, 3, 5):
        world = pool(count)
        for _ in range(60):
            member = world.chance.randrange(1, count + 1)
            world.pause(member)
            world.run(2 * SECOND)
            world.resume(member)
            world.run(SECOND)
        assert false_deaths(world) == 0
        assert sum(host.swim.counters.suspicions for host in world.running()) > 10


def test_who_is_cut_off_alone_gives_the_others_more_time_than_they_give_it() -> None:
    world = pool(5)
    world.split([1], range(2, 6))
    world.until(lambda: world.all_see(1, State.DEAD), 60 * SECOND)
    alone = [change.state for _, change in world.hosts[1].changes].count(State.DEAD)
    assert alone < 4
    assert world.hosts[1].swim.counters.health > 0


# ------------------------------------------------------------------ leaving, coming back


def test_a_farewell_is_known_soon_and_final() -> None:
    world = pool(20)
    host = world.hosts[7]
    world.call(host, host.swim.leave(world.now_us, 0))
    world.kill(7)
    assert world.until(lambda: world.all_see(7, State.LEFT), 10 * SECOND) < 5 * SECOND
    world.run(120 * SECOND)
    assert world.all_see(7, State.LEFT)
    assert host.swim.next_deadline_us() is None
    assert host.swim.handle_timeout(world.now_us, 0) == []
    world.restart(7, ["10.0.0.1:7946"])
    world.until(world.whole, 10 * SECOND)


def test_a_restarted_member_is_back_before_anybody_missed_it() -> None:
    world = pool(5)
    world.kill(3)
    world.run(300 * MS)
    world.restart(3, ["10.0.0.1:7946"])
    world.until(
        lambda: all(
            (view := host.swim.view(3)) is not None and view.record.generation == 2
            for host in world.running() if host.member != 3
        ),
        5 * SECOND,
    )  # fmt: skip
    assert world.whole()
    assert false_deaths(world) == 0


def test_a_member_may_come_back_at_another_address() -> None:
    world = pool(5)
    world.kill(3)
    world.run(300 * MS)
    world.restart(3, ["10.0.0.1:7946"], address="10.9.9.9:1")
    world.until(
        lambda: all(
            (view := host.swim.view(3)) is not None
            and view.record.profile.gossip_address == "10.9.9.9:1"
            for host in world.running() if host.member != 3
        ),
        10 * SECOND,
    )  # fmt: skip
    world.run(10 * SECOND)
    assert world.whole()


def test_a_member_that_comes_and_goes_is_damped_and_asked_no_favours() -> None:
    world = pool(4, config=replace(LOCAL, flap_half_life_us=600 * SECOND))
    for _ in range(4):
        world.kill(4)
        world.until(lambda: world.all_see(4, State.DEAD), 30 * SECOND)
        world.restart(4, ["10.0.0.1:7946"])
        world.until(world.whole, 10 * SECOND)
    view = world.hosts[1].swim.view(4)
    assert view is not None
    assert view.damped
    before = world.hosts[4].swim.counters.relayed
    world.cuts.add((1, 2))
    world.run(60 * SECOND)
    assert world.hosts[4].swim.counters.relayed == before
    assert world.hosts[3].swim.counters.relayed > 0


# ------------------------------------------------------------------ telling


def test_a_payload_reaches_everybody_once() -> None:
    world = pool(20, loss=0.1)
    for number in range(10):
        host = world.hosts[1 + number]
        world.call(host, host.swim.broadcast(b"payload %d" % number, world.now_us))
    world.run(15 * SECOND)
    for host in world.running():
        expected = sorted((1 + n, b"payload %d" % n) for n in range(10) if 1 + n != host.member)
        assert sorted(host.delivered) == expected


def test_an_idle_pool_sends_two_packets_per_member_and_second() -> None:
    world = pool(5)
    world.run(30 * SECOND)
    before = sum(host.packets for host in world.running())
    octets = sum(host.octets for host in world.running())
    world.run(60 * SECOND)
    assert (sum(host.packets for host in world.running()) - before) / 300 < 2.1
    assert (sum(host.octets for host in world.running()) - octets) / 300 < 300


def test_annotations_ride_on_probes() -> None:
    world = pool(3)
    world.hosts[1].swim.annotate(b"vector")
    world.run(5 * SECOND)
    for member in (2, 3):
        view = world.hosts[member].swim.view(1)
        assert view is not None
        assert view.annotation == b"vector"


def test_a_new_profile_is_known_everywhere() -> None:
    world = pool(5)
    host = world.hosts[2]
    profile = replace(host.swim.me.profile, software="next", gossip_address=host.address)
    world.call(host, host.swim.update(profile, world.now_us))
    world.run(5 * SECOND)
    for other in (1, 3, 4, 5):
        view = world.hosts[other].swim.view(2)
        assert view is not None
        assert view.record.profile.software == "next"


def test_round_trips_and_clock_offsets_are_measured() -> None:
    world = World(2, latency_us=(1_000, 1_500))
    world.grow(3)
    world.hosts[3].wall_offset_us = 4 * SECOND
    world.run(60 * SECOND)
    view = world.hosts[1].swim.view(3)
    assert view is not None
    assert view.round_trip_us is not None
    assert 2_000 <= view.round_trip_us <= 3_000
    assert view.clock_offset_us is not None
    assert abs(view.clock_offset_us - 4 * SECOND) < 1_500


# ------------------------------------------------------------------ commands


def test_what_is_too_large_is_refused_and_changes_nothing() -> None:
    world = pool(2)
    swim = world.hosts[1].swim
    with pytest.raises(TooLarge):
        swim.broadcast(b"x" * (LAN.user_payload_bytes + 1), world.now_us)
    with pytest.raises(TooLarge):
        swim.annotate(b"x" * (LAN.annotation_bytes + 1))
    with pytest.raises(TooLarge):
        swim.update(replace(swim.me.profile, extra=b"x" * 600), world.now_us)
    with pytest.raises(UnknownMember):
        swim.forget(77, world.now_us)
    with pytest.raises(Malformed):
        swim.join(["no address"], world.now_us, 0)
    assert swim.me.incarnation == 0
    world.run(5 * SECOND)
    assert world.hosts[2].delivered == []


def test_a_packet_must_have_room_for_a_profile() -> None:
    with pytest.raises(ConfigError):
        World(0, config=Config(packet_bytes=512)).host(1)


def test_a_forgotten_member_is_neither_listed_nor_sought() -> None:
    world = pool(3)
    world.kill(3)
    world.until(lambda: world.all_see(3, State.DEAD), 30 * SECOND)
    for member in (1, 2):
        host = world.hosts[member]
        effects = host.swim.forget(3, world.now_us)
        assert [e.gone for e in effects if isinstance(e, MemberChanged)] == [True]
        world.call(host, effects)
    place = world.hosts[3].address
    before = world.tried[place]
    world.run(300 * SECOND)
    assert world.hosts[1].swim.view(3) is None
    assert world.tried[place] == before
    assert world.tried[world.hosts[2].address] > 100


def test_nothing_is_sent_by_one_that_was_not_started() -> None:
    swim = World(0).host(1).swim
    assert swim.next_deadline_us() is None
    assert swim.handle_timeout(10**9, 0) == []
    effects = swim.broadcast(b"early", 0, channel=Channel.USER)
    assert not [effect for effect in effects if isinstance(effect, SendDatagram)]


def test_round_trips_between_others_are_estimated() -> None:
    world = World(5, latency_us=(5_000, 5_500))
    world.grow(8)
    world.run(240 * SECOND)
    swim = world.hosts[1].swim
    places = [view.coordinate for view in swim.members()] + [swim.coordinate]
    for one, place in enumerate(places):
        for other in places[:one]:
            assert place is not None
            assert other is not None
            assert 0.006 < distance_s(place, other) < 0.016
