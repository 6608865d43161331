"""Rules of membership, stability and eviction, broken: who counts, and until when.

Problem, idea and invariants: see ``vocabulary``. Every function here breaks the rule that its
docstring names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from crdtmem import collector
from crdtmem.causality import VersionVector
from crdtmem.epoch import Epoch, _Progress
from crdtmem.eviction import Evictions
from crdtmem.inbox import Inbox
from crdtmem.membership import Membership
from tests.simulations.planted.vocabulary import Patches

__all__ = [
    "collects_what_is_only_joined_here",
    "evicted_replicas_go_on",
    "final_before_all_survivors_know",
    "stability_counts_early",
    "stability_ignores_a_member",
    "takes_beyond_a_cut",
    "writes_before_its_admission",
]


def stability_ignores_a_member(patches: Patches) -> None:
    """What all members but one have acknowledged is taken for stable."""
    stable_vector = Epoch.stable_vector

    def without_one(self: Epoch, own_vector: VersionVector) -> VersionVector:
        others = sorted(self.members - {self.own})
        with Patches().undoing() as once:
            if others:
                staying = frozenset(others[:-1]) | {self.own}
                once.replace(Epoch, "members", property(lambda epoch: staying))
            return stable_vector(self, own_vector)

    patches.replace(Epoch, "stable_vector", without_one)


def stability_counts_early(patches: Patches) -> None:
    """An acknowledgement counts before the member's own deltas up to it have arrived here."""

    def at_once(self: _Progress, member: int, joined: int) -> None:
        self.counted.join(self.newest)

    patches.replace(_Progress, "advance", at_once)


def collects_what_is_only_joined_here(patches: Patches) -> None:
    """Removals and baselines are collected when this replica has them, as by a timer."""
    look_at = collector._look_at

    def hasty(candidate: Any, state: Any, stable: VersionVector, trust_ordered: bool) -> Any:
        return look_at(candidate, state, state.vector, trust_ordered)

    patches.replace(collector, "_look_at", hasty)


def writes_before_its_admission(patches: Patches) -> None:
    """A newcomer writes before it has joined its own admission."""
    patches.replace(Membership, "_may_write", lambda self: True)


def takes_beyond_a_cut(patches: Patches) -> None:
    """What an evicted replica wrote beyond its cut is joined."""
    patches.replace(Inbox, "set_cut", lambda self, origin, last: None)


def evicted_replicas_go_on(patches: Patches) -> None:
    """A replica that was evicted, or holds what lies beyond a cut, goes on writing and joining."""
    patches.replace(Evictions, "_must_halt", lambda self, epoch, vector: None)
    told: Callable[..., None] = lambda self, cuts: None  # noqa: E731 - one line says it
    patches.replace(Evictions, "note_cuts", told)
    patches.replace(Membership, "retire", lambda self, reason, cuts: [])


def final_before_all_survivors_know(patches: Patches) -> None:
    """An evicted replica is no longer waited for as soon as its eviction is decided here."""

    def at_once(self: Evictions, epoch: Epoch, choice: Any, vector: Any) -> Mapping[int, int]:
        decided = [v for v in self.verdicts if v.evicted == choice.evicted]
        return decided[0].cut if decided else {}

    patches.replace(Evictions, "_newly_final", at_once)
