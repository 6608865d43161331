"""Quotas: how much a space may hold before local writes that add to it are refused.

Problem: one agent that never stops writing fills the memory of the whole fleet, since every
region holds all of it. Counting what a space holds must cost writes without a quota nothing.

Idea: both counts lie at hand. A space's *keys* are the sizes of its tables' dictionaries.
Its *entries*, the live values of all their fields, are counted by its digest, which learns of
whatever comes and goes anyway. So only what a flight has staged and not published is to be
added, and only for spaces with a quota: a flight's ledger has that, transaction by transaction.

A quota is judged at the origin, once, when the transaction is staged; joins know nothing of
it. So regions that write at the same time may together go beyond one; then nobody adds, until
it is below again. What only takes away is never refused, nor is what changes nothing in
number: a space that is full can be read, overwritten and emptied.

Invariants: a transaction is refused only if it adds to what its quota counts, and the sum is
beyond it; a refused transaction leaves no trace here; a key counts from its first entry,
baseline and removal included, to the end of its last, which is what it costs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from crdtmem.batch import SpaceName
from crdtmem.errors import QuotaExceeded
from crdtmem.flight import Flight
from crdtmem.policy import SYSTEM_SPACE, Policy
from crdtmem.staging import TransactionStage
from crdtmem.table import Overlay, State, Table
from crdtmem.transaction import Operation, PutRun

__all__ = ["Watch", "begin_watch", "entries_of", "keys_of", "only_removes", "usage"]

_REMOVALS: Final = frozenset({"delete", "remove", "discard", "clear", "disable"})
"""Operations that take away: never refused for what they leave behind as a guard."""


def keys_of(state: State, space: SpaceName) -> int:
    """Return how many keys a space holds, those of each datatype counted apart."""
    found = (state.find(space, datatype) for datatype in state.shapes)
    return sum(len(table.slots) for table in found if table is not None)


def entries_of(state: State, space: SpaceName) -> int:
    """Return how many live entries a space holds."""
    digest = state.digests.get(space)
    return 0 if digest is None else digest.count


def usage(state: State, quotas: Mapping[SpaceName, Policy]) -> dict[str, dict[str, Any]]:
    """Return what each space with a quota holds, and what it may, by its labels joined by /."""
    return {
        "/".join(space): {
            "keys": keys_of(state, space),
            "quota_keys": policy.quota_keys,
            "entries": entries_of(state, space),
            "quota_entries": policy.quota_entries,
        }
        for space, policy in sorted(quotas.items())
    }


def only_removes(steps: Iterable[Any], space: SpaceName | None = None) -> bool:
    """Tell whether steps, of one space or of all, only take away.

    What is written to the system space (a policy) counts as nothing.
    """
    return all(
        isinstance(step, Operation) and step.name in _REMOVALS
        for step in steps
        if step.space == space or (space is None and step.space != SYSTEM_SPACE)
    )


Ledger = dict[SpaceName, tuple[int, int]]
"""What a flight has staged in spaces with a quota: how many keys and entries were added."""


def begin_watch(
    flight: Flight, stage: TransactionStage, quotas: Mapping[SpaceName, Policy]
) -> Watch | None:
    """Begin to count what a transaction adds to spaces with a quota; ``None``: to none.

    Called before anything of it is staged.
    """
    steps = stage.transaction.steps
    spaces = {
        space: quotas[space]
        for space in {step.space for step in steps} & quotas.keys()
        if not only_removes(steps, space)
    }
    if not spaces:
        return None
    if flight.ledger is None:
        flight.ledger = {}
    stage.journalled = True
    return Watch(flight.ledger, stage, spaces)


class Watch:
    """Counts what one transaction adds."""

    __slots__ = ("_held", "_ledger", "_places", "_spaces", "_staged")

    def __init__(
        self, ledger: Ledger, stage: TransactionStage, spaces: Mapping[SpaceName, Policy]
    ) -> None:
        self._ledger = ledger
        self._spaces = spaces
        # The keys that it touches, by table.
        self._places: dict[Table, set[str]] = {}
        for step in stage.transaction.steps:
            if step.space in spaces:
                table = stage.overlay.state.table(step.space, step.datatype)
                keys = step.keys if isinstance(step, PutRun) else (step.key,)
                self._places.setdefault(table, set()).update(keys)
        self._held = self._count(stage.overlay)
        self._staged: Ledger = {}

    def judge(self, stage: TransactionStage) -> None:
        """Judge what was staged; raises ``QuotaExceeded``."""
        state = stage.overlay.state
        after = self._count(stage.overlay)
        for space, policy in self._spaces.items():
            keys, entries = self._ledger.get(space, (0, 0))
            more_keys, more_entries = after[space] - self._held[space], stage.entries_added(space)
            if policy.quota_keys is not None and more_keys > 0:
                held = keys_of(state, space) + keys
                _judge(space, "quota_keys", policy.quota_keys, held, more_keys)
            if policy.quota_entries is not None and more_entries > 0:
                held = entries_of(state, space) + entries
                _judge(space, "quota_entries", policy.quota_entries, held, more_entries)
            self._staged[space] = (keys + more_keys, entries + more_entries)

    def note(self) -> None:
        """Note that what was judged stays staged."""
        self._ledger.update(self._staged)

    def _count(self, overlay: Overlay) -> dict[SpaceName, int]:
        """Return how many of the transaction's keys are there, by space."""
        held = dict.fromkeys(self._spaces, 0)
        for table, keys in self._places.items():
            held[table.space] += _count_held(overlay, table, keys)
        return held


def _count_held(overlay: Overlay, table: Table, keys: set[str]) -> int:
    """Return how many of the keys hold anything, staged changes included."""
    if table.nested:
        return sum(any(True for _ in _fields_held(overlay, table, key)) for key in keys)
    over, base = overlay.flat(table), table.slots
    staged = over.keys() & keys
    return len(base.keys() & (keys - staged)) + sum(bool(over[key]) for key in staged)


def _fields_held(overlay: Overlay, table: Table, key: str) -> Iterator[Any]:
    over, base = overlay.fields(table, key)
    yield from (field for field, slot in over.items() if slot)
    yield from (field for field in base if field not in over)


def _judge(space: SpaceName, name: str, quota: int, held: int, more: int) -> None:
    if held + more <= quota:
        return
    raise QuotaExceeded(
        f"the space {'/'.join(space):.200} holds {held} {name.removeprefix('quota_')}, and this "
        f"write would add {more}; its quota is {quota}",
        hint="delete what is not needed, or raise the quota in the space's policy",
        space=list(space),
        quota=name,
        limit=quota,
        held=held,
        after=held + more,
    )
