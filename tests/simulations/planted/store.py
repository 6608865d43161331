"""Rules of store, recovery and identity, broken: what survives, and under which id it goes on.

Problem, idea and invariants: see ``vocabulary``. Every function here breaks the rule that its
docstring names.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from crdtmem import checkpointing, recovery, services, sync_greeting
from crdtmem.executor import Executor
from crdtmem.store import memory
from crdtmem.store.base import KIND_BATCH, LogRecord
from crdtmem.store.continuity import FRESH, BootState, Verdict
from crdtmem.store.memory import MemoryStore
from tests.simulations.planted.vocabulary import Patches

__all__ = [
    "checkpoint_beside_a_flight",
    "checkpoint_position_noted_at_the_end",
    "continues_its_id_after_a_restore",
    "continues_its_id_after_a_torn_tail",
    "cuts_the_log_above_the_checkpoint",
    "every_other_fsync_is_skipped",
    "forgets_the_verdict",
    "ignores_another_history_of_its_id",
    "ignores_the_quarantine",
    "recovers_without_the_checkpoint",
    "recovers_without_the_last_batch",
]


# ------------------------------------------------------------------ durability


def every_other_fsync_is_skipped(patches: Patches) -> None:
    """A commit returns although nothing was written; the next one writes both."""
    sync = MemoryStore.sync
    turns: dict[int, int] = {}

    def lazy(self: MemoryStore) -> None:
        self._require_writable()
        inode = self.disk.inode
        turns[inode] = turns.get(inode, 0) + 1
        if turns[inode] % 2 or turns[inode] < 10:
            sync(self)

    patches.replace(MemoryStore, "sync", lazy)


def recovers_without_the_last_batch(patches: Patches) -> None:
    """Replaying stops one record before the end of the log."""
    replay = MemoryStore.replay

    def short(self: MemoryStore, *, after_ordinal: int) -> Iterator[LogRecord]:
        records = list(replay(self, after_ordinal=after_ordinal))
        if records and records[-1].kind == KIND_BATCH:
            del records[-1]
        yield from records

    patches.replace(MemoryStore, "replay", short)


def recovers_without_the_checkpoint(patches: Patches) -> None:
    """Recovery joins the log after the checkpoint, and forgets the checkpoint's last chunk."""
    held: list[Any] = []

    def late(state: Any, chunk: bytes) -> int:
        # Each chunk is loaded when the next one comes: the last never is.
        count = 0
        if held and held[0] is state:
            count = load_chunk(state, held[1])
        held[:] = [state, chunk]
        return count

    load_chunk = patches.replace(recovery, "load_chunk", late)


def checkpoint_beside_a_flight(patches: Patches) -> None:
    """A checkpoint begins while a flight is out, which lies below its position, and not in it."""
    grant = Executor._grant

    def at_once(self: Executor) -> None:
        flying, self._flying = self._flying, False
        try:
            grant(self)
        finally:
            self._flying = flying

    patches.replace(Executor, "_grant", at_once)


def checkpoint_position_noted_at_the_end(patches: Patches) -> None:
    """A checkpoint claims the log up to where it ended, and carries nothing of what it claims."""
    patches.replace(checkpointing, "_carry", lambda store, writer, after, through: through)


def cuts_the_log_above_the_checkpoint(patches: Patches) -> None:
    """Cutting the sync log deletes batches that no checkpoint covers yet."""

    def cut(self: MemoryStore, replica: int, below_sequence: int) -> int:
        disk = self.disk
        floors = disk.floors.get(replica, (0, 0))
        disk.floors[replica] = (max(below_sequence, floors[0]), floors[1])
        disk.delete_batches(replica, below_sequence)
        return below_sequence

    patches.replace(MemoryStore, "cut_sync_log", cut)


# ------------------------------------------------------------------ identity


def continues_its_id_after_a_restore(patches: Patches) -> None:
    """A store that is another, or an older one, counts as the one that it was."""

    def trusting(state: BootState, *rest: Any) -> Verdict:
        verdict: Verdict = judge(state, *rest)
        return verdict if verdict.reason == FRESH else Verdict()

    judge = patches.replace(memory, "judge", trusting)


def continues_its_id_after_a_torn_tail(patches: Patches) -> None:
    """A log whose tail had to be cut is continued under the same id."""
    boot = MemoryStore._boot

    def trusting(self: MemoryStore, here: Any, reason: str) -> None:
        boot(self, here, "" if "checksums" in reason else reason)
        if "checksums" in reason:
            self.boot = replace(self.boot, continuous=True, reason="")

    patches.replace(MemoryStore, "_boot", trusting)


def ignores_another_history_of_its_id(patches: Patches) -> None:
    """A peer that holds another history of an id is not listened to, whoever's id it is."""
    patches.replace(sync_greeting, "_forked", lambda host, hello: (None, []))
    patches.replace(sync_greeting, "_is_lesser_copy", lambda mine, theirs: False)


def ignores_the_quarantine(patches: Patches) -> None:
    """An id that is given up leaves what lies beyond its cuts in the log, to be joined again."""
    patches.replace(recovery, "set_aside", lambda store, retirement: None)


def forgets_the_verdict(patches: Patches) -> None:
    """An id that was given up is taken up again by the next start."""
    patches.replace(services, "_note_verdict", lambda *what: None)
