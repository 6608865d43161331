"""Mending: what happens between a commit that failed and the next that may be tried.

Problem: nobody knows what became of a commit that failed until it has been read back from
the reopened store. On a full disk that may go well, and yet the next commit fails again:
who then tries at once fails and mends some hundred times a second, for nothing. And who
waits for the answer to a write has a deadline, whatever the disk does.

Idea: the first failure is read back at once and all goes on, for most are passing. From the
second in a row on, flights are held back for a while that doubles from ``PAUSE_US`` to
``PAUSE_MAXIMUM_US``, as it does between attempts to reopen; one commit that succeeds ends
the row. The store is readable during such a pause, so peers are still served.

Invariants: a flight counts exactly if the store, read back, holds it; who waits for it is
answered at its deadline at the latest, and then told that nobody knows yet; what is refused
is refused with the store's own error; once the cause is gone, the next attempt comes within
``PAUSE_MAXIMUM_US``. Alarms tell a row once, and again when the reason changes or it ends.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from crdtmem.effects import Alarm, Reply
from crdtmem.errors import CrdtmemError, StoreError, Undecided
from crdtmem.flight import Flight
from crdtmem.procedures import InStore, Pause, Procedure

if TYPE_CHECKING:
    from crdtmem.executor import Executor

__all__ = ["PAUSE_MAXIMUM_US", "PAUSE_US", "Mender", "Trouble"]

PAUSE_US: Final = 50_000
PAUSE_MAXIMUM_US: Final = 5_000_000
_SHORTEST_US: Final = 1_000


@dataclass(frozen=True, slots=True)
class Trouble:
    """Commits that failed in a row: the last error, since when (microseconds), how many."""

    error: StoreError
    since_us: int
    failures: int


class Mender:
    """Keeps count of the commits that fail, and brings an executor's store back."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._pause_us = PAUSE_US
        self.trouble: Trouble | None = None

    def succeeded(self) -> None:
        """Note that a commit went well: whatever was wrong is over."""
        trouble, self.trouble, self._pause_us = self.trouble, None, PAUSE_US
        if trouble is not None and trouble.failures > 1:
            self._tell_mended(f"after {trouble.failures} failures in a row", kept=False)

    @property
    def _is_first(self) -> bool:
        return self.trouble is None or self.trouble.failures < 2

    def _failed(self, error: StoreError) -> None:
        executor, before = self._executor, self.trouble
        since_us = executor.now_us() if before is None else before.since_us
        failures = 1 if before is None else before.failures + 1
        self.trouble = Trouble(error, since_us, failures)
        executor.broken = error
        if before is None or before.error.code != error.code:
            executor.alarm(Alarm("store", str(error), {"code": error.code}))

    def mend(self, flight: Flight, error: StoreError) -> Procedure[None]:
        """Reopen the store, read back whether the flight survived, and go on accordingly."""
        executor = self._executor
        self._failed(error)
        heads = yield from self._read_back(flight, error)
        survived = all(
            heads.get(batch.header.replica, 0) >= batch.header.last for batch in flight.batches
        )
        kept = survived and bool(flight.batches)
        held_back = None if kept or self._is_first else error
        executor.broken = held_back
        if kept:
            self.trouble, self._pause_us = None, PAUSE_US
        if held_back is None:
            self._tell_mended("", kept=survived)
        if kept:
            executor.attempt(lambda: executor.engine.persisted(flight, executor.now_us()))
        else:
            executor.attempt(lambda: executor.engine.persist_failed(flight, error))
        if held_back is not None:
            executor.apply(executor.engine.refuse_queued(error))
        executor.landed()
        if not executor.store.boot.continuous:
            # Part of what was acknowledged is gone: nobody may write on under this id.
            own = executor.engine.identity.replica
            reason = f"the store lost what it had acknowledged: {executor.store.boot.reason}"
            executor.apply(executor.engine.membership.retire(reason, {own: heads.get(own, 0)}))
        if held_back is not None:
            yield Pause(self._next_pause_us())
            if executor.broken is held_back:
                executor.broken = None
            executor.apply([])

    def _tell_mended(self, words: str, *, kept: bool) -> None:
        message = f"the store accepts writes again {words}".rstrip()
        self._executor.alarm(Alarm("store mended", message, {"kept": kept}))

    def _next_pause_us(self) -> int:
        pause_us = self._pause_us
        self._pause_us = min(2 * pause_us, PAUSE_MAXIMUM_US)
        return pause_us

    def _read_back(self, flight: Flight, error: StoreError) -> Procedure[dict[int, int]]:
        """Reopen the store, however often it takes, and return its heads."""
        executor = self._executor
        refused = False
        while True:
            try:
                yield InStore(executor.store.reopen)
                heads: dict[int, int] = yield InStore(executor.store.heads)
                return heads
            except CrdtmemError as again:
                if not refused:
                    refused = True
                    executor.apply(executor.engine.refuse_queued(error))
                executor.broken = again if isinstance(again, StoreError) else error
            yield from self._wait(flight)

    def _wait(self, flight: Flight) -> Procedure[None]:
        """Let a pause pass; who waits for the flight is answered at its deadline."""
        executor = self._executor
        until_us = executor.now_us() + self._next_pause_us()
        while (now_us := executor.now_us()) < until_us:
            next_us = self._answer_overdue(flight, now_us, until_us)
            yield Pause(max(_SHORTEST_US, next_us - now_us))

    def _answer_overdue(self, flight: Flight, now_us: int, until_us: int) -> int:
        """Tell those whose time is up that nobody knows; return when the next one's is."""
        replies: list[Reply] = []
        for staged in (*flight.local, *flight.repeated):
            if staged.ticket is None or not staged.deadline_us or staged.ticket.done():
                continue
            if staged.deadline_us > now_us:
                until_us = min(until_us, staged.deadline_us)
                continue
            error = Undecided(
                f"the store cannot tell yet whether this was written: {self._executor.broken}",
                hint="ask again with the same operation_id, and it counts once",
            )
            replies.append(Reply(staged.ticket, error=error))
        self._executor.apply(replies)
        return until_us
