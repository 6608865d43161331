"""Nodes of several regions in virtual time: what each knows of all, and who has which duty."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gossip.config import LAN
from gossip.errors import KeyringError, TooLarge, UnknownMember
from gossip.frame_wire import encode_frame
from gossip.frames import Frame, ViewRequest
from gossip.keyring import Keyring
from gossip.mesh import WIDE
from gossip.messages import Packet, Ping, Stamp, State
from gossip.sealing import Seal
from gossip.wire import encode_packet
from tests.gossip.nodes import NodeWorld
from tests.gossip.pool import SECOND

REGIONS = ((1, 2, 3), (100, 101, 102), (200, 201, 202))
ALL = [member for region in REGIONS for member in region]


def three_regions(seed: int = 0, **more: object) -> NodeWorld:
    """Every node is seeded with the first of its region, and with the first of all."""
    world = NodeWorld(seed, **more)  # type: ignore[arg-type]
    for region in REGIONS:
        world.begin(region, [region[0], 1])
    world.until(world.complete, 60 * SECOND)
    return world


def reports_add_up(world: NodeWorld) -> bool:
    return all(
        world.reported(host.member)
        == {member: view.state for member, view in world.views(host.member).items()}
        for host in world.running()
    )


@pytest.mark.parametrize("seed", range(5))
def test_everybody_comes_to_know_everybody(seed: int) -> None:
    world = three_regions(seed)
    for member in ALL:
        region = f"r{member // 100}"
        tiers = {other: view.tier for other, view in world.views(member).items()}
        for other, tier in tiers.items():
            if world.views(member)[other].record.profile.region == region:
                assert tier == "local"
            else:
                assert tier in ("wide", "remote")
        assert world.mesh(member).gateways(region) == tuple(sorted(
            one for one in ALL if one // 100 == member // 100
        )[:2])  # fmt: skip
    assert reports_add_up(world)


def test_only_gateways_probe_across_regions() -> None:
    world = three_regions()
    world.run(90 * SECOND)
    gateways = {member for member in ALL if world.mesh(member).is_gateway}
    assert gateways == {1, 2, 100, 101, 200, 201}
    for member in gateways:
        views = world.views(member)
        for region in REGIONS:
            if member not in region:
                assert [views[one].tier for one in region] == ["wide", "wide", "remote"]
                assert views[region[0]].round_trip_us is not None
    assert {view.tier for view in world.views(3).values()} == {"local", "remote"}


def test_two_that_start_at_once_do_not_both_stay_gateways_of_ten() -> None:
    world = NodeWorld(3)
    world.begin(list(range(1, 11)))
    world.run(20 * SECOND)
    inside = [member for member in range(1, 11) if world.mesh(member).is_gateway]
    assert inside[:2] == [1, 2]
    assert len(inside) <= 4


def test_a_death_is_known_in_every_region_and_so_is_the_return() -> None:
    world = three_regions()
    world.kill(102)
    world.until(lambda: world.all_see(102, State.DEAD), 40 * SECOND)
    assert reports_add_up(world)
    world.restart(102)
    world.until(world.complete, 40 * SECOND)
    assert world.views(3)[102].record.generation == 2
    assert reports_add_up(world)


def test_a_farewell_is_known_in_every_region() -> None:
    world = three_regions()
    leaving = world.hosts[202]
    world.call(leaving, leaving.swim.leave(world.now_us, world.wall(leaving)))
    leaving.up = False
    world.until(lambda: world.all_see(202, State.LEFT), 20 * SECOND)


def test_who_has_left_is_silent_whatever_arrives() -> None:
    world = three_regions()
    leaving = world.hosts[1]
    world.call(leaving, leaving.swim.leave(world.now_us, world.wall(leaving)))
    world.until(lambda: world.all_see(1, State.LEFT), 60 * SECOND)
    leaving.octets = leaving.packets = 0
    assert leaving.swim.next_deadline_us() is None
    ping = Ping(7, 0, "10.9.9.9:1", 0)
    for pool in ("region:r0", "region:r1", WIDE):
        packet = encode_packet(Packet(pool, Stamp(100, 1, 0), 0, (ping,)))
        sealed = Seal.plain("test").seal(packet)
        assert leaving.swim.receive_datagram(sealed, "x:1", world.now_us, 0) == []
        frame = encode_frame(Frame(pool, Stamp(100, 1, 0), ViewRequest("r0")))
        assert leaving.swim.receive_stream("s", frame, world.now_us, 0) == []
    world.run(120 * SECOND)
    assert (leaving.octets, leaving.packets) == (0, 0)


def test_the_warm_gateway_takes_over() -> None:
    world = three_regions()
    world.kill(100)
    world.until(lambda: world.all_see(100, State.DEAD), 90 * SECOND)
    assert world.mesh(1).gateways("r1") == (101, 102)
    world.until(lambda: world.mesh(102).is_gateway, 20 * SECOND)
    # What happens behind the new one is still told.
    world.kill(102)
    world.until(lambda: world.all_see(102, State.DEAD), 60 * SECOND)
    world.restart(102)
    world.restart(100)
    world.until(world.complete, 120 * SECOND)
    assert world.mesh(1).gateways("r1") == (100, 101)
    assert reports_add_up(world)


def test_both_gateways_at_once() -> None:
    world = three_regions()
    world.kill(1)
    world.kill(2)
    # The third is the gateway now, and finds the other regions by what it knows of them.
    world.until(lambda: world.mesh(3).is_gateway, 60 * SECOND)
    world.until(lambda: world.all_see(1, State.DEAD) and world.all_see(2, State.DEAD), 120 * SECOND)
    assert world.views(202)[3].state is State.ALIVE
    assert world.mesh(200).gateways("r0") == (3,)


def test_a_region_that_is_cut_off_is_doubted_and_comes_back() -> None:
    world = three_regions()
    rest = [member for member in ALL if member < 200]
    world.split(REGIONS[2], rest)
    world.until(
        lambda: all(
            world.state(member, other) in (State.SUSPECT, State.DEAD)
            for member in rest
            for other in REGIONS[2]
        ),
        180 * SECOND,
    )
    assert all(world.state(200, member) is State.ALIVE for member in REGIONS[2] if member != 200)
    world.kill(102)
    world.run(400 * SECOND)
    world.heal()
    world.until(world.complete, 180 * SECOND)
    assert world.state(202, 102) is State.DEAD
    assert reports_add_up(world)


def test_a_region_split_in_two_has_gateways_on_both_sides() -> None:
    world = three_regions()
    world.split([100], [101, 102])
    world.until(
        lambda: world.state(100, 101) is State.DEAD and world.state(101, 100) is State.DEAD,
        60 * SECOND,
    )
    world.until(lambda: world.mesh(102).is_gateway, 20 * SECOND)
    world.run(300 * SECOND)
    # Gateways hear both sides themselves.
    assert world.state(1, 100) is State.ALIVE
    assert world.state(1, 101) is State.ALIVE
    world.heal()
    world.until(world.complete, 120 * SECOND)
    assert reports_add_up(world)


def test_everything_is_found_again_after_everything_was_down() -> None:
    world = three_regions()
    world.run(60 * SECOND)
    for member in ALL:
        world.kill(member)
    world.run(3_600 * SECOND)
    for member in ALL:
        world.restart(member)
    world.until(world.complete, 120 * SECOND)
    assert {world.views(1)[other].record.generation for other in ALL[1:]} == {2}


@pytest.mark.parametrize("seed", range(5))
def test_one_seed_for_all_regions_is_enough(seed: int) -> None:
    world = NodeWorld(seed)
    world.begin(ALL)
    world.until(world.complete, 60 * SECOND)
    world.run(20 * SECOND)
    assert world.complete()
    assert reports_add_up(world)


@pytest.mark.parametrize("seed", range(3))
def test_loss_slows_it_down_only(seed: int) -> None:
    world = NodeWorld(seed, loss=0.25)
    world.begin(ALL)
    world.until(world.complete, 300 * SECOND)


def test_a_seed_of_another_region_leads_home() -> None:
    world = NodeWorld(1)
    world.begin([1, 2, 3])
    world.begin([100], [1])
    world.until(world.complete, 60 * SECOND)
    # It knows nobody of its region; node 3 is no gateway, and knows its region by views only.
    world.begin([101], [3])
    world.until(world.complete, 60 * SECOND)
    assert world.views(101)[100].tier == "local"
    assert world.mesh(3).counters["referrals"] > 0


def test_referrals_are_few() -> None:
    world = three_regions()
    plain = Seal.plain("test")
    ping = Ping(7, 0, "10.9.9.9:1", 0)
    data = plain.seal(encode_packet(Packet("region:r1", Stamp(999, 1, 0), 0, (ping,))))
    mesh = world.mesh(1)
    world.run(2 * SECOND)
    told = sum(len(mesh.receive_datagram(data, "x:1", world.now_us, 0)) for _ in range(200))
    assert 0 < told <= 50
    assert mesh.counters["datagrams for other pools"] >= 150
    unknown = plain.seal(encode_packet(Packet("region:zz", Stamp(999, 1, 0), 0, (ping,))))
    world.run(2 * SECOND)
    assert mesh.receive_datagram(unknown, "x:1", world.now_us, 0) == []


def test_nothing_that_arrives_raises() -> None:
    world = three_regions()
    mesh = world.mesh(1)
    for data in (b"", b"\0" * 40, bytes(range(256)) * 5):
        assert mesh.receive_datagram(data, "x:1", world.now_us, 0) == []
        assert mesh.receive_stream("s", data, world.now_us, 0) == []
        assert mesh.exchanged(3 * 999 + 2, data, world.now_us, 0) == []
    assert sum(mesh.counters.values()) > 6


# ------------------------------------------------------------------ commands


def test_broadcasts_reach_the_region() -> None:
    world = three_regions()
    host = world.hosts[101]
    world.call(host, world.mesh(101).broadcast(b"news", world.now_us))
    world.run(5 * SECOND)
    for member in ALL:
        expected = [(101, b"news")] if member in (100, 102) else []
        assert world.hosts[member].delivered == expected
    with pytest.raises(TooLarge):
        world.mesh(101).broadcast(bytes(LAN.user_payload_bytes + 1), world.now_us)


def test_annotations_are_heard_in_both_tiers() -> None:
    world = three_regions()
    world.mesh(1).annotate(b"v1")
    world.run(60 * SECOND)
    assert world.views(3)[1].annotation == b"v1"
    assert world.views(100)[1].annotation == b"v1"


def test_what_one_says_anew_of_itself_is_known_everywhere() -> None:
    world = three_regions()
    for member in (3, 100):
        host = world.hosts[member]
        profile = replace(world.mesh(member).me.profile, software="2.0")
        world.call(host, world.mesh(member).update(profile, world.now_us))
    world.until(
        lambda: all(
            world.views(member)[about].record.profile.software == "2.0"
            for member in ALL
            for about in (3, 100)
            if member != about
        ),
        60 * SECOND,
    )
    assert reports_add_up(world)


def test_the_forgotten_are_not_listed() -> None:
    world = three_regions()
    world.kill(102)
    world.until(lambda: world.all_see(102, State.DEAD), 60 * SECOND)
    for host in world.running():
        world.call(host, world.mesh(host.member).forget(102, world.now_us))
    world.run(200 * SECOND)
    assert world.all_see(102, None)
    assert reports_add_up(world)
    with pytest.raises(UnknownMember):
        world.mesh(1).forget(777, world.now_us)


def test_a_damaged_memory_is_a_search_by_seeds() -> None:
    world = NodeWorld(1)
    world.begin([1, 2])
    host = world.host(3, remembered=b"\x93not msgpack")
    world.start(host, [world.place(1)])
    world.until(world.complete, 60 * SECOND)
    assert world.mesh(3).counters["memories refused"] == 1


def test_exchanges_and_deadlines_of_both_pools_are_told_apart() -> None:
    world = three_regions()
    mesh = world.mesh(1)
    assert set(mesh.pool_counters()) == {"region:r0", WIDE}
    due_us = mesh.next_deadline_us()
    assert due_us is not None
    assert due_us > world.now_us - SECOND
    assert mesh.handle_timeout(world.now_us, 0) == [] or due_us <= world.now_us


# ------------------------------------------------------------------ keys


OLD, NEW = bytes(range(16)), bytes(range(16, 32))


def sealed_world(seed: int = 0) -> tuple[NodeWorld, dict[int, Keyring]]:
    rings: dict[int, Keyring] = {}
    starts = 0

    def seal(member: int) -> Seal:
        nonlocal starts
        starts += 1
        ring = rings.setdefault(member, Keyring([OLD]))
        return Seal("test", ring, starts.to_bytes(16, "big"))

    world = NodeWorld(seed, seals=seal)
    world.begin(ALL)
    world.until(world.complete, 60 * SECOND)
    return world, rings


def test_a_key_is_rotated_in_all_regions_and_an_absentee_learns_of_it() -> None:
    world, rings = sealed_world()
    number = Keyring([NEW]).primary.id
    old = Keyring([OLD]).primary.id
    host, mesh = world.hosts[3], world.mesh(3)

    def command(effects: list[object]) -> None:
        world.call(host, effects)  # type: ignore[arg-type]

    def listed(first: tuple[int, ...]) -> bool:
        return all(
            view.record.profile.keys[: len(first)] == first
            for member in [one.member for one in world.running()]
            for view in world.views(member).values()
            if view.state is State.ALIVE
        )

    world.kill(202)
    world.until(lambda: world.all_see(202, State.DEAD), 60 * SECOND)
    command(list(mesh.install_key(NEW, world.now_us, world.wall(host))))
    with pytest.raises(KeyringError, match="not every live member"):
        mesh.use_key(number, world.now_us, world.wall(host))
    world.until(lambda: listed((old, number)), 120 * SECOND)
    command(list(mesh.use_key(number, world.now_us, world.wall(host))))
    world.until(lambda: listed((number, old)), 120 * SECOND)
    command(list(mesh.remove_key(old, world.now_us, world.wall(host))))
    world.until(lambda: listed((number,)) and all(
        rings[one.member].ids == (number,) for one in world.running()), 120 * SECOND)  # fmt: skip
    assert rings[202].ids == (old,)
    world.restart(202)
    world.until(world.complete, 240 * SECOND)
    assert rings[202].ids == (number,)


def test_keys_cannot_be_rotated_in_plain_text() -> None:
    world = NodeWorld(1)
    world.begin([1])
    with pytest.raises(KeyringError, match="plain text"):
        world.mesh(1).install_key(NEW, world.now_us, 0)


def test_warnings_name_their_pool() -> None:
    world = three_regions()
    world.start(world.host(4, name="node-3"), [world.place(1)])
    world.run(20 * SECOND)
    warned = {
        (warning.name, warning.details["pool"])
        for host in world.running()
        for warning in host.warnings
    }
    assert warned
    assert {pool for _, pool in warned} == {"region:r0"}
