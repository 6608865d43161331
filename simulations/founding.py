"""How a world's machines become one cluster, and how the mesh becomes whole again.

Problem: a cluster begins with one node that founds it; who may that be, and who must know whom,
differs with the topology and with the way in which machines find each other.

Idea: where peers are configured and all know all, everybody starts at once. Otherwise machines
start in waves, each of which knows those before it. In a world with a mesh the first machine
has no seeds, and founds; the others are told its address.

Invariant: nothing here writes to a node: only operators' settings, starts, and waiting.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from simulations.mesh import gathered
from simulations.world import World

__all__ = [
    "FOUNDING_S",
    "GATHERING_S",
    "await_gathering",
    "await_members",
    "found_by_mesh",
    "found_in_waves",
    "link_hubs",
]

FOUNDING_S: Final = 120.0
"""The longest that a healthy cluster may take until everybody may write."""

GATHERING_S: Final = 300.0
"""Within this time after healing the mesh must show everybody again, and nobody else.

What takes longest is a member of another region that died unseen with the gateway that had
listed it: up to two minutes until the next one is heard, and two more. Rejoining takes some
rounds of 5 s (``local``) or 30 s, jittered by half; a suspicion in the wide area up to three
minutes.
"""


def await_members(world: World) -> None:
    """Let time pass until everybody who is up may write."""
    world.run_until(
        lambda: all(machine.replica.writable for machine in world.up()),
        "cluster in which everybody may write",
        within_s=FOUNDING_S,
    )


def found_by_mesh(world: World) -> None:
    """Start the first machine, which founds, and then all that seek it.

    From then on the first has seeds too, as its operator would give it: a machine without any
    that loses its disk founds another cluster.
    """
    first, *others = world.machines.values()
    first.start()
    await_members(world)
    for machine in others:
        machine.start()
    await_members(world)
    first.meet(machine.name for machine in others[:2])


def await_gathering(world: World) -> float:
    """Let time pass until the mesh of everybody shows everybody, and nobody else; returns the
    seconds that it took."""
    if not world.mesh_kind:
        return 0.0
    return world.run_until(
        lambda: gathered(world),
        "mesh in which everybody shows just who is there",
        within_s=GATHERING_S,
        step_s=0.5,
        checker="gathering",
    )


def found_in_waves(world: World, waves: Iterable[Iterable[str]]) -> None:
    """Start wave by wave: who knows only those that are as new as itself would found."""
    for names in waves:
        for name in names:
            world.machines[name].start()
        await_members(world)


def link_hubs(world: World) -> list[str]:
    """Let the first machine of each region know those before it, and the rest theirs."""
    hubs: dict[str, str] = {}
    for machine in world.machines.values():
        if machine.region in hubs:
            machine.peers = [hubs[machine.region]]
        else:
            # The very first knows nobody, and founds.
            machine.peers = list(hubs.values())
            hubs[machine.region] = machine.name
    return list(hubs.values())
