"""Gateways and streams: the same answer everywhere, and nothing cut off."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gossip.messages import Profile, Record, State
from gossip.topology import ALL_TO_ALL, Standing, gateways, peers_to_stream, standing_of_me

standings = st.lists(
    st.builds(
        Standing,
        st.integers(1, 60),
        st.sampled_from(["eu", "us", "ap"]),
        st.sampled_from(list(State)),
        st.booleans(),
    ),
    min_size=1,
    max_size=40,
    unique_by=lambda one: one.member,
)


def test_the_two_lowest_living_are_gateways() -> None:
    members = [Standing(7, "eu"), Standing(3, "eu", State.DEAD), Standing(9, "eu"),
               Standing(5, "eu", State.LEFT), Standing(8, "eu"), Standing(1, "us")]  # fmt: skip
    assert gateways(members, "eu") == (7, 8)
    assert gateways(members, "us") == (1,)
    assert gateways(members, "ap") == ()


def test_a_suspect_keeps_its_duties_and_a_damped_one_does_not() -> None:
    assert gateways([Standing(1, "eu", State.SUSPECT), Standing(2, "eu")], "eu") == (1, 2)
    assert gateways([Standing(1, "eu", damped=True), Standing(2, "eu")], "eu") == (2,)
    assert gateways([Standing(1, "eu", damped=True)], "eu") == (1,), "somebody has to"


def test_streams_within_a_region_go_to_all_and_across_from_gateway_to_gateway() -> None:
    eu = [Standing(member, "eu") for member in (1, 2, 3)]
    us = [Standing(member, "us") for member in (11, 12, 13)]
    ap = [Standing(member, "ap") for member in (21, 22)]
    members = eu + us + ap
    assert peers_to_stream(eu[0], members) == {2, 3, 11, 21}
    assert peers_to_stream(eu[1], members) == {1, 3}
    assert peers_to_stream(us[0], members) == {12, 13, 1, 21}
    assert peers_to_stream(ap[1], members) == {21}


def test_the_warm_gateway_stands_in_when_the_active_one_is_in_doubt() -> None:
    eu = [Standing(1, "eu", State.SUSPECT), Standing(2, "eu"), Standing(3, "eu")]
    us = [Standing(11, "us"), Standing(12, "us")]
    assert peers_to_stream(us[0], eu + us) == {12, 1, 2}
    assert peers_to_stream(eu[1], eu + us) == {1, 3, 11}
    dead = [Standing(1, "eu", State.DEAD), *eu[1:]]
    assert peers_to_stream(us[0], dead + us) == {12, 2}
    assert peers_to_stream(eu[1], dead + us) == {3, 11}


def test_what_others_think_of_me_does_not_matter_to_me() -> None:
    me = standing_of_me(Record(1, 1, 0, Profile("a", "eu", "a:1")))
    others = [Standing(1, "us", State.DEAD, True), Standing(2, "eu"), Standing(9, "us")]
    assert peers_to_stream(me, others) == {2, 9}


@given(standings)
def test_equal_knowledge_gives_equal_duties(members: list[Standing]) -> None:
    for region in ("eu", "us", "ap"):
        elected = gateways(members, region)
        assert elected == gateways(list(reversed(members)), region)
        living = [one for one in members if one.region == region and one.live]
        assert bool(elected) == bool(living)
        assert list(elected) == sorted(elected)


@given(standings)
def test_streams_are_mutual_and_join_everybody(members: list[Standing]) -> None:
    living = {one.member: one for one in members if one.live}
    peers = {one: peers_to_stream(standing, members) for one, standing in living.items()}
    for one, wanted in peers.items():
        assert one not in wanted
        assert wanted <= set(living)
        for other in wanted:
            assert one in peers[other], "a stream that only one side wants"
    reached: set[int] = set()
    border = set(list(living)[:1])
    while border:
        reached |= border
        border = set().union(*(peers[one] for one in border)) - reached
    assert reached == set(living)


# ------------------------------------------------------------------ many nodes

LARGE = (51, 64, 100, 257, 600)


def region(size: int, seed: int = 1) -> list[Standing]:
    chance = Random(seed)
    return [Standing(chance.getrandbits(64) | 1, "eu") for _ in range(size)]


def streams(members: list[Standing], **options: int) -> dict[int, set[int]]:
    return {one.member: peers_to_stream(one, members, **options) for one in members}


def reached(peers: dict[int, set[int]], without: set[int]) -> set[int]:
    """Return who is reached from one of those that are left."""
    border = set(sorted(peers.keys() - without)[:1])
    found: set[int] = set()
    while border:
        found |= border
        border = set().union(*(peers[one] for one in border)) - found - without
    return found


@pytest.mark.parametrize("size", LARGE)
def test_many_nodes_of_a_region_have_few_streams_each(size: int) -> None:
    peers = streams(region(size))
    for one, wanted in peers.items():
        assert one not in wanted
        assert all(one in peers[other] for other in wanted)
        assert 4 <= len(wanted) <= 4 + size.bit_length()
    steps = 0
    found = {min(peers)}
    while len(found) < size:
        found |= set().union(*(peers[one] for one in found))
        steps += 1
    assert steps <= 5, "a few steps wide"


def test_up_to_fifty_are_all_joined() -> None:
    assert all(len(wanted) == ALL_TO_ALL - 1 for wanted in streams(region(ALL_TO_ALL)).values())


@pytest.mark.parametrize("seed", range(5))
def test_any_three_deaths_leave_the_rest_connected(seed: int) -> None:
    members = region(51, seed)
    peers = streams(members)
    chance = Random(seed)
    everybody = sorted(peers)
    for _ in range(300):
        gone = set(chance.sample(everybody, 3))
        assert reached(peers, gone) == set(everybody) - gone
    # The worst that can be picked: neighbours of one node.
    for one in everybody:
        near = sorted(peers[one])
        gone = set(chance.sample(near, 3))
        assert reached(peers, gone) == set(everybody) - gone


@given(st.integers(6, 14), st.data())
def test_however_few_a_ring_joins_three_deaths_do_not_part_it(size: int, data: Any) -> None:
    members = region(size, data.draw(st.integers(0, 9)))
    peers = streams(members, all_to_all=5)
    gone = set(data.draw(st.lists(st.sampled_from(sorted(peers)), max_size=3)))
    assert reached(peers, gone) == peers.keys() - gone


def test_who_comes_changes_the_streams_of_its_neighbours_only() -> None:
    members = region(100)
    before = streams(members)
    newcomer = Standing(77, "eu")
    after = streams([*members, newcomer])
    changed = [one for one in before if before[one] != after[one]]
    assert len(changed) <= 4 * (4 + (101).bit_length())


def test_many_regions_are_joined_by_rings_of_gateways() -> None:
    members = [Standing(100 * number + one, f"region-{number}") for number in range(1, 81)
               for one in (1, 2)]  # fmt: skip
    peers = streams(members)
    assert reached(peers, set()) == set(peers)
    assert max(map(len, peers.values())) <= 1 + 4 + (80).bit_length()
    assert all(one in peers[other] for one, wanted in peers.items() for other in wanted)
