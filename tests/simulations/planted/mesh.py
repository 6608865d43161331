"""Rules of the mesh, broken: who is sought, believed, told, and taken for gone.

Problem, idea and invariants: see ``vocabulary``. Every function here breaks the rule that its
docstring names.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from gossip.beliefs import Beliefs
from gossip.broadcast import Windows
from gossip.members import Member
from gossip.messages import Channel, Stamp
from gossip.news import News
from gossip.rejoin import Rejoin
from gossip.swim import Swim
from simulations.mesh import VirtualMesh
from tests.simulations.planted.vocabulary import Patches

__all__ = [
    "accusations_are_believed_at_once",
    "broadcasts_are_not_remembered",
    "deaths_count_as_farewells",
    "every_life_is_the_first",
    "nobody_is_sought",
    "older_views_bring_back_who_left",
    "own_broadcasts_only",
]


def nobody_is_sought(patches: Patches) -> None:
    """Who was found dead is never sought again, nor are seeds that nobody answered at."""
    patches.replace(Rejoin, "turn", lambda self: None)


def every_life_is_the_first(patches: Patches) -> None:
    """The generation is not kept over restarts: every life is the first."""
    make = vars(VirtualMesh)["_make"]

    def forgetful(self: VirtualMesh) -> None:
        store = self.machine.store
        assert store is not None, "a mesh belongs to a life with a store"
        kept, store.boot = store.boot, replace(store.boot, boot=1)
        try:
            make(self)
        finally:
            store.boot = kept

    patches.replace(VirtualMesh, "_make", forgetful)


def deaths_count_as_farewells(patches: Patches) -> None:
    """Whoever is found dead is taken to have left."""
    patches.replace(News, "die", lambda self, entry, accuser: self.leave(entry))


def older_views_bring_back_who_left(patches: Patches) -> None:
    """What a region's view lists is believed though the wide area knows better, and later."""

    patches.replace(Beliefs, "_has_left", lambda self, row: False)


def accusations_are_believed_at_once(patches: Patches) -> None:
    """Whoever is called dead by one member is dead."""

    def dead(self: News, stamp: Stamp, accuser: int, *, sender: int = 0) -> None:
        entry: Member | None = self._pool.table.get(stamp.member)
        if entry is None or not entry.live:
            heard(self, stamp, accuser, sender=sender)
        else:
            self.die(entry, accuser)

    heard = patches.replace(News, "dead", dead)


def broadcasts_are_not_remembered(patches: Patches) -> None:
    """What came before is handed over once more."""
    patches.replace(Windows, "fresh", lambda self, origin, generation, number: True)


def own_broadcasts_only(patches: Patches) -> None:
    """Nothing that is broadcast for users leaves its speaker."""

    def broadcast(
        self: Swim, payload: bytes, now_us: int, *, channel: Channel = Channel.USER, slot: str = ""
    ) -> list[Any]:
        return (
            []
            if channel is Channel.USER
            else told(self, payload, now_us, channel=channel, slot=slot)
        )

    told = patches.replace(Swim, "broadcast", broadcast)
