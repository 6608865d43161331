"""Change feeds: all that was published after a cursor, once each, out of the log and then live.

Problem: a reader of changes pauses, falls behind, loses its connection, or comes back
tomorrow. It must not have to read the whole state again, nothing may be skipped behind its
back, and its slowness may cost neither memory nor anybody's commits.

Idea: the log is in publication order, which is a causal one, so it is the feed. A reader is
either *live*, fed from a bounded queue of what is published, or *replayed* to from the log,
a slice at a time, between commits. Where to begin in the log is found by one look-up per
replica that has something new. Every batch is judged by the reader's own version vector:
what that covers is passed over, what continues it is told, and what does neither means that
something between is not held. So the two ways may overlap, and no moment of passing from one
to the other has to be exact:

    replayed ──the log's end is reached, the queue has all since──▶ live
    live ──the queue is full: emptied; the reader is told once──▶ replayed

What is not held is a ``HistoryGap``, never a silence: it was cut off the log, or it came
within another replica's state, of which only the outcome is known (a state has neither the
removals nor what was overwritten, so it cannot be told as changes). ``details["resume"]`` is
the token of the smallest context from which the feed can go on, and ``details["missing"]``
lists ``[replica, first, last]`` of what is not told.

When this replica goes on under a new id, a feed goes on if all that it told still stands.
If not, it ends with a ``HistoryGap`` too, whose ``resume`` leaves out what was set aside; so
does opening one at a cursor beyond a final cut.

Invariants: the vector moves past whole batches only; at most a queue, a slice and a batch
are held; the store is read on its own thread, in slices that are short against a commit;
nothing is told before it was published.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Final, NamedTuple

from crdtmem.batch import Batch, SpaceName, decode_batch
from crdtmem.causality import Context, VersionVector
from crdtmem.changes import (
    Change,
    ChangeReader,
    Lagging,
    Part,
    changes_of,
    count_changes,
)
from crdtmem.crdt import NESTED
from crdtmem.errors import Closed, HistoryGap, LimitExceeded
from crdtmem.runtime import Runtime
from crdtmem.store import LogRecord, Store
from crdtmem.store.base import KIND_BATCH

__all__ = ["CHANGES_PER_PART", "QUEUE_BYTES", "Feed"]

CHANGES_PER_PART: Final = 1_000
"""Most changes that one part of a feed holds."""

QUEUE_BYTES: Final = 8 * 1024 * 1024
"""Most bytes of batches that wait for one live reader, beyond a single batch."""

_QUIET_BATCHES: Final = 1_000
"""After so many batches without a change for the reader, it is told the cursor alone."""

_SLICE_RECORDS: Final = 100
_SLICE_BYTES: Final = 256 * 1024
_PROBES: Final = 64
_CURSOR_REPLICAS: Final = 10_000
_HINT: Final = "read the state again, then open a feed after details['resume']"


class _Queue:
    """What was published since it was armed; when it is full it is emptied, and takes no more."""

    def __init__(self, limit_batches: int) -> None:
        self.armed = False
        self.closed = False
        self.missed = 0
        self._limit = limit_batches
        self._batches: deque[Batch] = deque()
        self._bytes = 0
        self._news = asyncio.Event()

    def arm(self) -> None:
        """Take, from now on, what is published."""
        self.armed = True
        self.missed = 0

    def push(self, batches: Iterable[Batch]) -> None:
        """Add published batches; none, where something else was published."""
        for batch in batches:
            size = len(batch.data)
            full = len(self._batches) >= self._limit or self._bytes + size > QUEUE_BYTES
            if self._batches and full and self.armed:
                self.missed = sum(waiting.header.count for waiting in self._batches)
                self._drop()
            if self.armed:
                self._batches.append(batch)
                self._bytes += size
            else:
                self.missed += batch.header.count
        self._news.set()

    def _drop(self) -> None:
        self.armed = False
        self._batches.clear()
        self._bytes = 0

    def take(self) -> Batch | None:
        """Return the next batch, or ``None``."""
        if not self._batches:
            return None
        batch = self._batches.popleft()
        self._bytes -= len(batch.data)
        return batch

    def close(self) -> None:
        """There will be no more."""
        self.closed = True
        self._news.set()

    async def wait(self) -> None:
        """Return once something was published, or this was closed, since it was last called."""
        await self._news.wait()
        self._news.clear()


class _Slice(NamedTuple):
    """Records that a cursor does not cover, the last ordinal looked at, and if that was all."""

    records: list[LogRecord]
    position: int
    ended: bool


class Feed(ChangeReader):
    """A feed of one memory's changes, of one space or of all: see the module, and ``begin``."""

    def __init__(
        self,
        runtime: Runtime,
        space: SpaceName | None,
        after: Context | None,
        limit_batches: int,
    ) -> None:
        published = runtime.engine.replica.state.vector
        super().__init__(Context(published) if after is None else after)
        self._runtime = runtime
        self._space = space
        self._limit = limit_batches
        self._queue = _Queue(limit_batches)
        self._closed = False
        # All that was handed over, or lies before where this feed began.
        self._vector = self.cursor.vector.copy()
        self._live = after is None
        # While it is replayed to: how far the log was looked at, and what of it is to be told.
        self._position: int | None = None
        self._records: deque[LogRecord] = deque()
        # Whether that is all, but for what was published since the queue was armed.
        self._ended = False
        # Whether a batch that does not continue the vector was met, and none taken since.
        self._turned_back = False
        # The batch that is being handed over, and how many of its changes are left.
        self._batch: Batch | None = None
        self._changes: Iterator[Change] = iter(())
        self._left = 0
        # Batches since the cursor was last told, and whether it is told though nothing is.
        self._untold = 0
        self._arrived = False
        self._void: HistoryGap | None = None
        if self._live:
            self._queue.arm()
        runtime.subscriptions.append(self._queue)

    async def begin(self) -> None:
        """Find out whether the feed can go on from its cursor.

        Raises ``HistoryGap``, and ``LimitExceeded`` for a cursor that no node has given out.
        """
        if self._live:
            return
        if len(self._vector) > _CURSOR_REPLICAS:
            raise LimitExceeded(
                f"a cursor of {len(self._vector)} replicas, the limit is {_CURSOR_REPLICAS}",
                hint="pass a cursor as a feed gave it out",
            )
        ends = self._runtime.engine.replica.inbox.ends
        cut = {
            replica: ends[replica]
            for replica, last in self._vector.items()
            if last > ends.get(replica, last)
        }
        if cut:
            raise _void(self._vector, cut, "was cut off when its replica was given up")
        await self._find()

    async def close(self) -> None:
        """End the feed. Idempotent."""
        self._closed = True
        self._queue.close()
        if self._queue in self._runtime.subscriptions:
            self._runtime.subscriptions.remove(self._queue)

    def engine_replaced(self, before: VersionVector, now: VersionVector) -> None:
        """Go on with the engine that took over, where all that was told still stands.

        Called when it has taken over and before it joins anything: ``before`` is what had been
        published until then, ``now`` what still is.
        """
        if self._closed:
            return
        told = self._vector.copy()
        if self._batch is not None:
            told[self._batch.header.replica] = self._batch.header.last
        gone = {
            replica: now.get(replica, 0)
            for replica, last in told.items()
            if min(last, before.get(replica, 0)) > now.get(replica, 0)
        }
        if gone and self._void is None:
            self._void = _void(told, gone, "was set aside: this replica goes on under a new id")
        self._queue = _Queue(self._limit)
        self._runtime.subscriptions.append(self._queue)
        self._replay_again()

    # ------------------------------------------------------------------ handing over

    async def following(self) -> Part | Lagging:
        """Wait for the next part, or for the news that this reader is too slow.

        Raises ``HistoryGap`` where what comes next is not held, ``Closed`` at the end, and
        ``StoreError``s while the log cannot be read: it may be asked again.
        """
        while True:
            if self._void is not None:
                raise self._void
            if self._live:
                if not self._queue.armed:
                    missed = self._queue.missed
                    self._replay_again()
                    return Lagging(missed)
                part = self._gather()
                if part is None:
                    await self._advance()
            else:
                async with self._runtime.aside():
                    part = self._gather()
                    if part is None and not self._live:
                        await self._advance()
            if part is not None:
                return part

    def _gather(self) -> Part | None:
        """Return a part of what is at hand, if that is worth telling."""
        changes: list[Change] = []
        while len(changes) < CHANGES_PER_PART and self._take_batch():
            assert self._batch is not None
            room = CHANGES_PER_PART - len(changes)
            if changes and self._left > room:
                break
            changes += islice(self._changes, room)
            if self._left > room:
                self._left -= room
                return Part(None, changes)
            header = self._batch.header
            self._vector[header.replica] = header.last
            self._batch = None
            self._untold += 1
        due = self._untold and (self._arrived or self._untold >= _QUIET_BATCHES)
        self._arrived = False
        if not changes and not due:
            return None
        self._untold = 0
        return Part(Context(self._vector), changes)

    def _take_batch(self) -> bool:
        """Have a batch in hand that continues the vector, if there is one."""
        while self._batch is None:
            batch = self._next_batch()
            if batch is None:
                return False
            header = batch.header
            joined = self._vector.get(header.replica, 0)
            if header.last <= joined:
                continue
            before = VersionVector(header.dependencies)
            before[header.replica] = header.first - 1
            if not self._vector.dominates(before):
                # Something before it is not held, or not any more: looking for it says what.
                self._turn_back(before)
                return False
            self._turned_back = False
            self._batch = batch
            self._changes = changes_of(batch, self._space, after=joined)
            self._left = count_changes(batch, self._space, after=joined)
        return True

    def _turn_back(self, needed: VersionVector) -> None:
        """Go on out of the log; raises ``HistoryGap`` where that led here just before."""
        if self._turned_back:
            missing = needed.beyond(self._vector).items()
            raise _gap(self._vector, [(replica, *span) for replica, span in sorted(missing)])
        self._turned_back = True
        self._replay_again()

    def _next_batch(self) -> Batch | None:
        if not self._live:
            batch = self._next_stored()
            if batch is not None or not (self._ended and self._queue.armed):
                return batch
            self._live = self._arrived = True
        return self._queue.take()

    def _next_stored(self) -> Batch | None:
        """Return the next batch of the slice that was read, if it has been published."""
        if not self._records:
            return None
        record = self._records[0]
        published = self._runtime.engine.replica.state.vector
        if record.last_sequence > published.get(record.replica, 0):
            # Durable, but not visible yet. It is told when it is published, with all after it.
            self._records.clear()
            self._position = None
            return None
        batch = decode_batch(record.data, known_fields=NESTED)
        self._records.popleft()
        return batch

    # ------------------------------------------------------------------ getting more

    def _replay_again(self) -> None:
        """Go on out of the log, from wherever the vector stands."""
        self._live = self._ended = False
        self._position = None
        self._records.clear()

    async def _advance(self) -> None:
        """Get what is to be handed over next. Raises what ``following`` does."""
        queue = self._queue
        if self._closed or queue.closed:
            raise Closed("this feed has ended", hint="open another after its cursor")
        if not self._live:
            await self._read_on()
        elif self._vector.dominates(self._runtime.engine.replica.state.vector):
            await queue.wait()
        else:
            # Something was published that no batch told of: a whole state.
            self._replay_again()

    async def _read_on(self) -> None:
        """Read the next slice of the log."""
        runtime, queue = self._runtime, self._queue
        if not queue.armed and (self._ended or self._position is None):
            self._arm()
        if self._position is None:
            await self._find()
            if queue is not self._queue or self._live:
                return
        assert self._position is not None
        read = partial(_read_slice, runtime.store, self._position, self._vector.copy())
        found: _Slice = await runtime.in_store(read)
        if queue is not self._queue:
            # Another engine took over meanwhile, and may have set aside what was read.
            return
        self._records.extend(found.records)
        self._position, self._ended = found.position, found.ended

    def _arm(self) -> None:
        """Let what is published from here on be queued; the log has all that came before."""
        self._queue.arm()
        # What was read until now does not reach up to here.
        self._ended = False

    async def _find(self) -> None:
        """Find where in the log to begin, or that there is nothing to be read.

        Raises ``HistoryGap``.
        """
        runtime, queue = self._runtime, self._queue
        self._arm()
        lacking = sorted(runtime.engine.replica.state.vector.beyond(self._vector).items())
        if not lacking:
            self._live = self._arrived = True
            return
        begin: int | None = None
        missing: list[tuple[int, int, int]] = []
        for at in range(0, len(lacking), _PROBES):
            probes = [(replica, *span) for replica, span in lacking[at : at + _PROBES]]
            found, gaps = await runtime.in_store(partial(_probe, runtime.store, probes))
            if queue is not self._queue:
                return
            missing += gaps
            begin = min(begin or found, found) if found else begin
        if missing:
            raise _gap(self._vector, missing)
        assert begin is not None
        self._position = begin - 1


# ------------------------------------------------------------------ on the store's thread


def _read_slice(store: Store, position: int, covered: VersionVector) -> _Slice:
    """Read some records after an ordinal; keep the batches that a vector does not cover."""
    records: list[LogRecord] = []
    looked_at = size = 0
    for record in store.replay(after_ordinal=position):
        position = record.ordinal
        looked_at, size = looked_at + 1, size + len(record.data)
        if record.kind == KIND_BATCH and record.last_sequence > covered.get(record.replica, 0):
            records.append(record)
        if looked_at >= _SLICE_RECORDS or size >= _SLICE_BYTES:
            return _Slice(records, position, ended=False)
    return _Slice(records, position, ended=True)


def _probe(
    store: Store, wanted: Sequence[tuple[int, int, int]]
) -> tuple[int, list[tuple[int, int, int]]]:
    """Look for the first of each range of sequences, ``(replica, first, last)``.

    Returns the lowest ordinal of those that are held, 0 for none, and of the others as much
    of the range as is not held.
    """
    lowest = 0
    missing: list[tuple[int, int, int]] = []
    for replica, first, last in wanted:
        record, resume = _held(store, replica, first)
        if record is not None:
            lowest = min(lowest or record.ordinal, record.ordinal)
        else:
            missing.append((replica, first, min(last, (resume or last + 1) - 1)))
    return lowest, missing


def _held(store: Store, replica: int, sequence: int) -> tuple[LogRecord | None, int]:
    """Return the batch that holds a sequence; else ``None``, and where reading can begin, or 0."""
    resumes: list[int] = []
    for read in (store.read_history, store.read):
        try:
            run = read(replica, sequence, limit_bytes=1)
        except HistoryGap as gap:
            resumes.append(gap.details["resume"])
        else:
            return (run[0] if run else None), 0
    return None, min(resumes)


# ------------------------------------------------------------------ what cannot be told


def _gap(vector: VersionVector, missing: Collection[tuple[int, int, int]]) -> HistoryGap:
    """Return the error that something is no longer held, or never was."""
    resume = vector.copy()
    resume.join({replica: last for replica, _, last in missing})
    count = sum(last - first + 1 for _, first, last in missing)
    return HistoryGap(
        f"{count} changes after this cursor are not held one by one: they were cut off the log, "
        "or came within another replica's state",
        hint=_HINT,
        resume=str(Context(resume)),
        missing=[list(span) for span in missing],
    )


def _void(told: VersionVector, ends: dict[int, int], why: str) -> HistoryGap:
    """Return the error that a cursor stands on what no longer counts."""
    resume = VersionVector({**told, **ends})
    spans = [[replica, end + 1, told[replica]] for replica, end in sorted(ends.items())]
    for replica, end in ends.items():
        if not end:
            del resume[replica]
    named = ", ".join(f"{replica:016x} beyond {end}" for replica, end in sorted(ends.items())[:5])
    return HistoryGap(
        f"what this feed told of {named} {why}",
        hint=_HINT,
        resume=str(Context(resume)),
        missing=spans,
    )
