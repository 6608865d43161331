"""Broadcasts: what arrives was said, by whom it bears the name of, once; what is said arrives.

Problem: a broadcast passes through many hands, with retransmissions, duplicates and restarts on
the way; and it competes for room with the news of members.

Idea: everything said in a world is unique (see ``chatter``) and noted when it is said. A node
hears each at most once in one life, under its speaker's id of that moment, and from its own
region only. Of everybody's last words, said when the mesh has gathered, one at least has
reached each of the region.

Invariants: what a node heard in an earlier life, of its own or in the mesh, it may hear again.
"""

from __future__ import annotations

from gossip.effects import Deliver
from simulations.chatter import listeners, speaker
from simulations.checkers.base import Checker
from simulations.history import History
from simulations.node import Machine
from simulations.world import World

__all__ = ["Broadcasts"]


class Broadcasts(Checker):
    """See the module."""

    name = "broadcasts"
    about = "broadcasts are heard as they were said, at most once, and by all who are connected"

    def __init__(self, world: World, history: History) -> None:
        super().__init__(world, history)
        self._said: dict[bytes, tuple[int, str]] = {}
        self._heard: set[tuple[str, int, int, int, bytes]] = set()
        self._last: set[tuple[str, str]] = set()

    def broadcast(self, machine: Machine, payload: bytes) -> None:
        """Note what is said."""
        assert machine.mesh is not None, "who speaks has a mesh"
        self._said[payload] = (machine.mesh.mesh.me.member, machine.region)

    def delivered(self, machine: Machine, delivery: Deliver) -> None:
        """Hold what is heard against what was said."""
        said = self._said.get(delivery.payload)
        if said != (delivery.origin, machine.region):
            words = f"it hears {delivery.payload!r} of {delivery.origin:016x}; said was: {said}"
            raise self.fail(words, machine)
        assert machine.mesh is not None, "who hears has a mesh"
        me = machine.mesh.mesh.me
        heard = (machine.name, machine.lives, me.member, me.generation, delivery.payload)
        if heard in self._heard:
            raise self.fail(f"it hears {delivery.payload!r} once more", machine)
        self._heard.add(heard)
        name, is_last = speaker(delivery.payload)
        if is_last:
            self._last.add((name, machine.name))

    def finished(self) -> None:
        """Look for whom no last words of somebody reached."""
        for machine in self.world.up():
            if machine.mesh is None:
                continue
            for listener in listeners(self.world, machine):
                if (machine.name, listener) not in self._last:
                    raise self.late(f"it has heard no last word of {machine.name}", listener)
