"""What a campaign must have reached: rare paths, each with what leads there.

Problem: a campaign that passes may have passed by the places where bugs are. Faults that
never overlap with work, transfers that never start, crashes that never fall between a
commit and its answer prove nothing, and nobody notices when a change stops them. Yet a
campaign that fails because the dice fell badly teaches people to look away.

Idea: code and faults say ``world.sometimes(name)`` where something rare happens. For each such
path this table says what the *opportunities* are, runs in which certain faults struck or all
runs, and how many of them lead there at the least: one in so many. After ``SURE`` times as
many opportunities a path that is still alive has been missed with a probability of e^-SURE,
for all of the table together less than once in a million campaigns; so from then on it must
have been reached. A path whose opportunities never come is told by its fault, which must
strike as well. What is too seldom for any campaign to be sure of (``SELDOM``) is counted and
never asked for: a test of its own leads there.

Invariants: what the table names, something says; what is said, the table names; a campaign
of ``LONG`` runs asks for everything that is not ``SELDOM``.

Source: FoundationDB's and Antithesis's "sometimes" assertions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Final, NamedTuple

from simulations.faults import FAULTS

__all__ = ["LONG", "SELDOM", "SOMETIMES", "SURE", "Coverage", "Rare"]

SURE: Final = 20
"""The natural logarithm of how unlikely it has to be to miss a path by bad luck."""

LONG: Final = 10_000
"""So many runs ask for everything."""

SELDOM: Final = 0
"""In place of a rate: no campaign can be sure of it."""

_RUNS_PER_FAULT: Final = 15
"""One run in so many has a given fault at the least; drawn plans have one in eight to twelve."""


class Rare(NamedTuple):
    """One rare path: what leads there, and how often at the least.

    ``one_in`` counts opportunities: runs in which one of ``faults`` struck, any run where
    there are none. It is half of what was measured, or less.
    """

    reached_by: str
    one_in: int
    faults: tuple[str, ...] = ()


_NEW_IDS: Final = ("evict", "clone", "restored_backup")
_COPIES: Final = ("clone", "restored_backup")
_DEATHS: Final = ("crash", "crash_loop", "region_loss", "clone", "restored_backup", "lost_disk")

SOMETIMES: Final[dict[str, Rare]] = {
    "a crash between two effects": Rare("the fault die", 4, ("die",)),
    "a crash between the commit and its answer": Rare("a crash while a disk writes", 150, _DEATHS),
    "a torn write": Rare("the fault torn_write", 12, ("torn_write",)),
    "two streams crossed": Rare("two nodes that dial each other at once", 4),
    "a stream dropped for what its peer left untaken": Rare("narrow links, small buffers", SELDOM),
    "a node went on under a new id": Rare("evictions, clones, old backups", 12, _NEW_IDS),
    "a copy's life was outbid": Rare("copies that end in the mesh", 40, _COPIES),
    "a disk harmed: rot": Rare("rot, rotten_checkpoint", 8, ("rot", "rotten_checkpoint")),
    "a disk harmed: lost tail": Rare("the fault lost_tail", 12, ("lost_tail",)),
    "a disk replaced by an empty one": Rare("the fault lost_disk", 12, ("lost_disk",)),
    "a backup restored": Rare("the fault restored_backup", 8, ("restored_backup",)),
    "a store cloned": Rare("the fault clone", 4, ("clone",)),
    "an entry lost, to be repaired": Rare("the fault lost_entry", 12, ("lost_entry",)),
    "an eviction proposed": Rare("the fault evict", 6, ("evict",)),
    "an eviction refused": Rare("the fault evict without a majority", 16, ("evict",)),
    "a cluster founded anew": Rare("ids given up until no member is left", SELDOM),
    "a stream of version 1, of two programs": Rare("upgrade, of one end", 12, ("upgrade",)),
    "a stream of version 2, of two programs": Rare("upgrade, of both ends", 16, ("upgrade",)),
    "a client began a new session": Rare("evictions, and long cuts", 60),
    "a client gave up waiting": Rare("long pauses and slow disks", SELDOM),
    "a member lied": Rare("the fault liar", 4, ("liar",)),
    "a key rotated: install": Rare("the fault rotate_keys", 10, ("rotate_keys",)),
    "a key rotated: use": Rare("the fault rotate_keys", 20, ("rotate_keys",)),
    "a key rotated: remove": Rare("the fault rotate_keys", 30, ("rotate_keys",)),
    "a write repeated without knowing what became of it": Rare("crashes under clients", 20),
}
"""Every rare path by name."""


class Coverage:
    """What a campaign has reached so far, and how many opportunities there were."""

    def __init__(self) -> None:
        self.runs = 0
        self.reached: Counter[str] = Counter()
        self.struck: Counter[str] = Counter()
        self.opportunities: Counter[str] = Counter()

    def add(self, reached: Mapping[str, int], injected: Mapping[str, int], runs: int = 1) -> None:
        """Count a run in, or several that were alike."""
        self.runs += runs
        self.reached.update(reached.keys())
        for fault in injected:
            self.struck[fault] += runs
        for name, rare in SOMETIMES.items():
            if not rare.faults or not injected.keys().isdisjoint(rare.faults):
                self.opportunities[name] += runs

    @property
    def missed(self) -> list[str]:
        """What must have been reached by now, and was not."""
        found = [
            name
            for name, rare in SOMETIMES.items()
            if rare.one_in != SELDOM
            and self.opportunities[name] >= SURE * rare.one_in
            and not self.reached[name]
        ]
        if self.runs >= SURE * _RUNS_PER_FAULT:
            found += [f"the fault {name}" for name in FAULTS if not self.struck[name]]
        return found
