"""What a campaign must have reached: rare paths, each with what leads there.

Problem: a campaign that passes may have passed by the places where bugs are. Faults that
never overlap with work, transfers that never start, crashes that never fall between a
commit and its answer prove nothing, and nobody notices when a change stops them.

Idea: code and faults say ``world.sometimes(name)`` where something rare happens. This
table says within how many runs a campaign must have seen each of them.

Invariants: what the table names, something says; what is said, the table names.

Source: FoundationDB's and Antithesis's "sometimes" assertions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from simulations.faults import FAULTS

__all__ = ["SOMETIMES", "Rare", "missed"]


class Rare(NamedTuple):
    """One rare path: what leads there, and within how many runs it must have happened."""

    reached_by: str
    runs: int


SOMETIMES: Final[dict[str, Rare]] = {
    "a crash between two effects": Rare("the fault die", 200),
    "a crash between the commit and its answer": Rare("a crash while the disk writes", 300),
    "a torn write": Rare("the fault torn_write", 300),
    "two streams crossed": Rare("two nodes that dial each other at once", 100),
    "a stream dropped for what its peer left untaken": Rare("narrow links, small buffers", 5_000),
    "a node went on under a new id": Rare("evictions, clones and restored backups", 200),
    "a disk harmed: rot": Rare("the faults rot and rotten_checkpoint", 300),
    "a disk harmed: lost tail": Rare("the fault lost_tail", 300),
    "a disk replaced by an empty one": Rare("the fault lost_disk", 300),
    "a backup restored": Rare("the fault restored_backup", 300),
    "a store cloned": Rare("the fault clone", 300),
    "an eviction proposed": Rare("the fault evict", 300),
    "an eviction refused": Rare("the fault evict without a majority", 500),
    "a cluster founded anew": Rare("ids given up until no member is left", 2_000),
    "a stream of version 1, of two programs": Rare("the fault upgrade, on one end", 300),
    "a stream of version 2, of two programs": Rare("the fault upgrade, on both ends", 500),
    "a client began a new session": Rare("evictions, and long cuts", 300),
    "a client gave up waiting": Rare("pauses, full disks", 5_000),
    "a write repeated without knowing what became of it": Rare("crashes under clients", 300),
}
"""Every rare path by name."""

_RUNS_PER_FAULT: Final = 300
"""Within so many runs every fault of the table must have struck."""


def missed(runs: int, reached: Mapping[str, int], injected: Mapping[str, int]) -> list[str]:
    """Return what so many runs must have reached, and did not."""
    paths = [
        name for name, rare in SOMETIMES.items() if runs >= rare.runs and not reached.get(name)
    ]
    faults = [f"the fault {name}" for name in FAULTS if not injected.get(name)]
    return paths + (faults if runs >= _RUNS_PER_FAULT else [])
