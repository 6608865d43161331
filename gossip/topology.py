"""Who has which duty, and who opens streams to whom: pure functions of the membership.

Problem: every node must come to the same answer about gateways and streams without being
told, from nothing but the members that it knows; and where two of them know different things,
nothing may be cut off.

Idea: the two lowest ids of a region's living members are its gateways. The first is active; the
second is warm: it sits in the wide-area pool already, so that it takes over without joining.
Streams go to every node of one's own region, and between the active gateways of the regions; a
warm one stands in on the side whose active one is in doubt.

Invariants: with equal knowledge, x streams to y exactly when y streams to x; the graph over all
living members is connected; a member that is damped has duties only where all are.

A suspect keeps its duties: suspicion passes, and an election for each would be a flap.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

from gossip.members import MemberView
from gossip.messages import Record, State

__all__ = ["Standing", "gateways", "peers_to_stream", "standing_of", "standing_of_me"]


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


def peers_to_stream(me: Standing, members: Iterable[Standing]) -> set[int]:
    """Return whom ``me`` should hold a stream with.

    ``members`` may hold ``me``; what it says of ``me`` is not looked at.
    """
    known = {one.member: one for one in members if one.live}
    known[me.member] = me
    regions: dict[str, list[Standing]] = defaultdict(list)
    for one in known.values():
        regions[one.region].append(one)
    peers = {one.member for one in regions[me.region]}
    serving = {region: _serving(those, known) for region, those in regions.items()}
    if me.member in serving.pop(me.region):
        for others in serving.values():
            peers |= others
    peers.discard(me.member)
    return peers


def _serving(region: Iterable[Standing], known: dict[int, Standing]) -> set[int]:
    """Return the gateways that hold streams: the active one, and the warm one in its doubt."""
    those = list(region)
    elected = gateways(those, those[0].region)
    if known[elected[0]].state is State.ALIVE:
        return {elected[0]}
    return set(elected)
