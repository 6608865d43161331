"""Rules of the datatypes and of reading, broken: what is counted, spent, kept and shown.

Problem, idea and invariants: see ``vocabulary``. Every function here breaks the rule that its
docstring names.
"""

from __future__ import annotations

from typing import Any

from crdtmem import joining, merging, snapshot
from crdtmem.crdt import document, flag, removal
from crdtmem.crdt import set as sets
from crdtmem.crdt.base import WriteView
from crdtmem.crdt.bounded import BoundedCounter
from crdtmem.crdt.totals import RunningField, RunningTotals
from crdtmem.entries import Entry, Field, Siblings, Slot
from crdtmem.epoch import MEMBER_PREFIX, system_entries
from crdtmem.reading import SpaceReader
from tests.simulations.planted.vocabulary import Patches

__all__ = [
    "adds_leave_removals_standing",
    "bounded_counter_reclaims_stranded_rights",
    "collects_baselines_of_live_fields",
    "collects_removals_alone",
    "compaction_forgets_an_update",
    "counts_a_continued_total_anew",
    "reset_writes_no_baselines",
    "sees_the_expired",
    "shows_what_came_last_here",
    "spends_the_rights_of_others",
]


# ------------------------------------------------------------------ removals


def collects_removals_alone(patches: Patches) -> None:
    """A stable removal is collected, and the presences beside it stay."""

    def collect(
        view: WriteView, entries: tuple[Entry, ...], stable: Any, name: Field | None = None
    ) -> None:
        view.remove([dot for dot, value, _ in entries if value is False and stable(dot)], name)

    patches.everywhere((removal, sets, flag), "collect_removals", collect)


def adds_leave_removals_standing(patches: Patches) -> None:
    """An addition where removals win supersedes only what its writer had read."""

    def put(view: WriteView, name: Field | None = None) -> int:
        return view.put(True, view.supersede(view.slot(name)), name)

    patches.everywhere((removal, sets, flag), "put_presence", put)


# ------------------------------------------------------------------ counters


def counts_a_continued_total_anew(patches: Patches) -> None:
    """Where several totals of one field are held, or one was reset, all of it counts again."""

    def whole(self: RunningField, width: int) -> Any:
        return self.total(width)

    patches.replace(RunningField, "excess", whole)


def reset_writes_no_baselines(patches: Patches) -> None:
    """A reset takes the totals away, and leaves nothing to hold late ones against."""

    def bare(self: RunningTotals, view: WriteView) -> list[int]:
        return list(view.supersede(view.slot()))

    patches.replace(RunningTotals, "put_baselines", bare)


def collects_baselines_of_live_fields(patches: Patches) -> None:
    """A stable baseline is collected while its field still counts."""

    def collect(self: RunningTotals, view: WriteView, stable: Any) -> None:
        for running in self.fields(view.slot()).values():
            view.remove([entry[0] for entry in running.baselines if stable(entry[0])])

    patches.replace(RunningTotals, "collect", collect)


def spends_the_rights_of_others(patches: Patches) -> None:
    """A bounded counter spends whatever rights are held anywhere, as far as is known here."""

    def require(self: BoundedCounter, view: WriteView, amount: int, verb: str) -> None:
        found = self.holdings(view.slot())
        if amount > sum(holding.rights for holding in found.values()):
            view_require(self, view, amount, verb)

    view_require = patches.replace(BoundedCounter, "_require", require)


def bounded_counter_reclaims_stranded_rights(patches: Patches) -> None:
    """A replica under a new id spends what its former id had not spent when it was copied."""

    def require(self: BoundedCounter, view: Any, amount: int, verb: str) -> None:
        state = view._stage.overlay.state
        own = dict(system_entries(state, MEMBER_PREFIX)).get(view.replica, [])
        former = {int(str(value.get("predecessor", "0")), 16) for _, value, _ in own}
        found = self.holdings(view.slot())
        if amount > sum(found[holder].rights for holder in {view.replica, *former} & found.keys()):
            view_require(self, view, amount, verb)

    view_require = patches.replace(BoundedCounter, "_require", require)


# ------------------------------------------------------------------ documents and reading


def compaction_forgets_an_update(patches: Patches) -> None:
    """Compaction merges all stable updates of a document but the last, and drops them all."""

    def short(updates: list[bytes]) -> Any:
        return compact(updates[:-1])

    compact = patches.replace(document, "compact", short)


def shows_what_came_last_here(patches: Patches) -> None:
    """Of several siblings a reader sees the one that arrived last where it reads."""

    def unsorted(entries: list[Entry]) -> Slot:
        return entries[0] if len(entries) == 1 else Siblings(entries)

    patches.everywhere((joining, merging, snapshot), "as_slot", unsorted)
    patches.replace(SpaceReader, "resolve", lambda self, entries: entries[-1][1])


def sees_the_expired(patches: Patches) -> None:
    """A reader sees what has expired until its removal arrives."""
    live = SpaceReader.live

    def all_of_them(self: SpaceReader, slot: Any) -> tuple[Entry, ...]:
        now_us, self.now_us = self.now_us, 0
        try:
            return live(self, slot)
        finally:
            self.now_us = now_us

    patches.replace(SpaceReader, "live", all_of_them)
