"""Who has which duty, and who opens streams to whom: pure functions of the membership.

Problem: every node must come to the same answer about gateways and streams without being
told, from nothing but the members that it knows; and where two of them know different things,
nothing may be cut off.

Idea: the two lowest ids of a region's living members are its gateways. The first is active; the
second is warm: it sits in the wide-area pool already, so that it takes over without joining.
Streams go to every node of one's own region, and between the active gateways of the regions; a
warm one stands in on the side whose active one is in doubt.

Above ``ALL_TO_ALL`` nodes in a region that would be too many streams. Then its nodes lie on
several rings, each in another order, by a hash of their ids, and stream to their neighbours on
each: on the first to the two nearest on either side, on the others to the nearest. Such a graph
is a few steps wide, and who comes or goes changes the streams of its neighbours only. Regions
are joined the same way where there are as many of them.

Invariants: with equal knowledge, x streams to y exactly when y streams to x; the graph over all
living members is connected; within a region it stays so when any three die at once, for two
neighbours on either side bridge them; a member that is damped has duties only where all are; a
node has at most ``ALL_TO_ALL`` streams, or about log2(n) + 4, within its region, and a gateway
as many again (twice that while gateways are in doubt) to other regions.

A suspect keeps its duties: suspicion passes, and an election for each would be a flap.

Source: unions of random rings are expanders (Friedman, "A proof of Alon's second eigenvalue
conjecture", 2003); as overlays, Law & Siu (2003); hashing places as in rendezvous hashing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from hashlib import blake2b
from typing import Final, NamedTuple, TypeVar

from gossip.members import MemberView
from gossip.messages import Record, State

__all__ = [
    "ALL_TO_ALL",
    "Standing",
    "gateways",
    "peers_to_stream",
    "standing_of",
    "standing_of_me",
]

ALL_TO_ALL: Final = 50
"""Up to so many nodes of a region, and regions, are all joined with each other."""

_MASK: Final = (1 << 64) - 1

Node = TypeVar("Node")


class Standing(NamedTuple):
    """What the topology needs to know of a member."""

    member: int
    region: str
    state: State = State.ALIVE
    damped: bool = False

    @property
    def live(self) -> bool:
        """Whether it is alive, or only suspected not to be."""
        return self.state <= State.SUSPECT


def standing_of(view: MemberView) -> Standing:
    """Return what the topology needs of what a table says."""
    return Standing(view.record.member, view.record.profile.region, view.state, view.damped)


def standing_of_me(me: Record) -> Standing:
    """Return the standing of a node in its own eyes."""
    return Standing(me.member, me.profile.region)


def gateways(members: Iterable[Standing], region: str) -> tuple[int, ...]:
    """Return the gateways of a region among these: the active one, then the warm one.

    Empty where none of the region lives.
    """
    living = sorted(one for one in members if one.region == region and one.live)
    steady = [one for one in living if not one.damped]
    return tuple(one.member for one in (steady or living)[:2])


def peers_to_stream(
    me: Standing, members: Iterable[Standing], *, all_to_all: int = ALL_TO_ALL
) -> set[int]:
    """Return whom ``me`` should hold a stream with.

    ``members`` may hold ``me``; what it says of ``me`` is not looked at.
    """
    known = {one.member: one for one in members if one.live}
    known[me.member] = me
    regions: dict[str, list[Standing]] = defaultdict(list)
    for one in known.values():
        regions[one.region].append(one)
    home = {one.member for one in regions[me.region]}
    peers = _neighbours(me.member, home, _mixed, all_to_all)
    if me.member in _serving(regions[me.region], known):
        for region in _neighbours(me.region, set(regions), _mixed_name, all_to_all):
            peers |= _serving(regions[region], known)
    return peers


def _neighbours(
    mine: Node, everybody: set[Node], mix: Callable[[Node, int], int], all_to_all: int
) -> set[Node]:
    """Return those to be joined with: all others, or the nearest on each of several rings."""
    size = len(everybody)
    if size <= all_to_all or size <= 5:
        return everybody - {mine}
    near: set[Node] = set()
    for ring in range(1 + size.bit_length() // 2):
        order = sorted(everybody, key=lambda one: (mix(one, ring), one))
        place = order.index(mine)
        reach = (-2, -1, 1, 2) if ring == 0 else (-1, 1)
        near.update(order[(place + step) % size] for step in reach)
    return near


def _mixed(member: int, ring: int) -> int:
    """Return a member's place on a ring: SplitMix64's finaliser."""
    mixed = (member + (ring + 1) * 0x9E3779B97F4A7C15) & _MASK
    mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & _MASK
    return mixed ^ (mixed >> 31)


def _mixed_name(region: str, ring: int) -> int:
    return _mixed(int.from_bytes(blake2b(region.encode(), digest_size=8).digest()), ring)


def _serving(region: Iterable[Standing], known: dict[int, Standing]) -> set[int]:
    """Return the gateways that hold streams: the active one, and the warm one in its doubt."""
    those = list(region)
    elected = gateways(those, those[0].region)
    if known[elected[0]].state is State.ALIVE:
        return {elected[0]}
    return set(elected)
