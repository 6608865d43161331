"""Causal delivery: batches wait, bounded, until what they depend on has been joined.

Problem: batches arrive late, early, twice and out of order, from many peers.
Joining one before its dependencies would show a reply before its question, and
would forget the supersession of a dot that is not there yet.

Idea: per origin a small buffer by first sequence. A batch is *ready* when it
continues its origin's sequence, names the hash of the batch before it, and its
dependencies (which list only what changed since that batch) are covered. A
batch that is refused for want of room is simply forgotten: nothing marks it as
seen, so the next comparison of vectors asks for it again.

A cut that is *final* makes void, for ever, what it cuts off and all that follows from it,
in sequence or by dependencies. None of it may wait: it would wait for ever.

Invariants: at most ``early_batches`` per origin and ``early_bytes`` in all; a
batch leaves the buffer only when staged or refused; the same dot with other
content is a fork, which fences its origin here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import Enum

from crdtmem.batch import GENESIS_HASH, Batch
from crdtmem.causality import VersionVector
from crdtmem.effects import Alarm
from crdtmem.errors import ForkDetected

__all__ = ["Inbox", "Tip", "Verdict", "written_elsewhere"]

Tip = tuple[int, bytes]
"""The last sequence joined of a replica, and the hash of the batch that ended there."""

NO_TIP: Tip = (0, GENESIS_HASH)


class Verdict(Enum):
    """What became of an offered batch."""

    ACCEPTED = "accepted"
    DUPLICATE = "duplicate"
    FULL = "full"
    FENCED = "fenced"
    BEYOND_CUT = "beyond a cut"


class Inbox:
    """Remote batches that are not staged yet."""

    def __init__(self, *, early_batches: int, early_bytes: int) -> None:
        self._limit = early_batches
        self._limit_bytes = early_bytes
        self._waiting: dict[int, dict[int, Batch]] = {}
        self.size = 0
        self.fenced: dict[int, str] = {}
        self.cuts: dict[int, int] = {}
        # Per replica the last sequence that can ever be joined, where there is one.
        self.ends: dict[int, int] = {}

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    def offer(self, batch: Batch, vector: Mapping[int, int], tips: Mapping[int, Tip]) -> Verdict:
        """Take a batch in, or say why not; raises ``ForkDetected`` for a visible fork."""
        header = batch.header
        replica = header.replica
        if replica in self.fenced:
            return Verdict.FENCED
        if header.last > self.cuts.get(replica, header.last):
            return Verdict.BEYOND_CUT
        joined = vector.get(replica, 0)
        waiting = self._waiting.get(replica)
        if header.first <= joined:
            tip_sequence, tip_hash = tips.get(replica, NO_TIP)
            if header.last == tip_sequence and batch.hash != tip_hash:
                raise self.fork(replica, header.first)
            if header.last > joined:
                raise self.fork(replica, header.first)
            return Verdict.DUPLICATE
        if self.ends and self._is_void(batch):
            return Verdict.BEYOND_CUT
        if header.first == joined + 1 and header.previous_hash != tips.get(replica, NO_TIP)[1]:
            raise self.fork(replica, header.first)
        if waiting is not None and header.first in waiting:
            if waiting[header.first].hash != batch.hash:
                raise self.fork(replica, header.first)
            return Verdict.DUPLICATE
        full = waiting is not None and len(waiting) >= self._limit
        if full or self.size + len(batch.data) > self._limit_bytes:
            # The one batch that can make progress is always let in.
            if header.first != joined + 1:
                return Verdict.FULL
        self._waiting.setdefault(replica, {})[header.first] = batch
        self.size += len(batch.data)
        return Verdict.ACCEPTED

    def fork(self, replica: int, sequence: int) -> ForkDetected:
        """Fence a replica of which two different batches exist; returns the error to raise."""
        self.fenced[replica] = f"two different batches at sequence {sequence}"
        self._drop(replica)
        return ForkDetected(
            f"replica {replica:016x} wrote two different batches at sequence {sequence}",
            hint="a clone or an old backup runs under its id; stop one, see 'crdtmem rescue'",
            replica=replica,
            sequence=sequence,
        )

    def set_cut(self, replica: int, last: int) -> None:
        """Accept nothing of a replica beyond ``last`` from now on."""
        self.cuts[replica] = last
        waiting = self._waiting.get(replica, {})
        for first in [first for first, batch in waiting.items() if batch.header.last > last]:
            self.size -= len(waiting.pop(first).data)

    def settle(self, replica: int, last: int) -> None:
        """Take note of a final cut, and forget what it makes void."""
        if self.ends.get(replica, last + 1) <= last:
            return
        self.ends[replica] = last
        found = True
        while found:
            found = False
            for waiting in self._waiting.values():
                for first in [first for first, batch in waiting.items() if self._is_void(batch)]:
                    self.size -= len(waiting.pop(first).data)
                    found = True

    def _is_void(self, batch: Batch) -> bool:
        """Tell whether a batch can never be joined, and note that nothing after it can."""
        header, ends = batch.header, self.ends
        replica = header.replica
        void = header.last > ends.get(replica, header.last) or any(
            sequence > ends.get(other, sequence) for other, sequence in header.dependencies.items()
        )
        if void:
            ends[replica] = min(ends.get(replica, header.first), header.first - 1)
        return void

    def lift_cut(self, replica: int) -> None:
        """Take dots of a replica again."""
        self.cuts.pop(replica, None)

    def take_ready(
        self, vector: VersionVector, tips: dict[int, Tip], limit: int
    ) -> Iterator[Batch]:
        """Yield batches in causal order, advancing ``vector`` and ``tips`` past each.

        Stops after about ``limit`` deltas. Raises ``ForkDetected`` when a batch
        does not continue the hash chain; what was yielded before stays valid.
        """
        progress = True
        while progress and limit > 0:
            progress = False
            for replica in list(self._waiting):
                while limit > 0:
                    batch = self._next(replica, vector, tips)
                    if batch is None:
                        break
                    progress = True
                    limit -= batch.header.count
                    yield batch

    def _next(self, replica: int, vector: VersionVector, tips: dict[int, Tip]) -> Batch | None:
        waiting = self._waiting.get(replica)
        if not waiting:
            self._waiting.pop(replica, None)
            return None
        expected = vector.get(replica, 0) + 1
        batch = waiting.get(expected)
        if batch is None:
            for first in [first for first in waiting if first < expected]:
                self.size -= len(waiting.pop(first).data)
            return None
        if not vector.dominates(batch.header.dependencies):
            return None
        if batch.header.previous_hash != tips.get(replica, NO_TIP)[1]:
            raise self.fork(replica, expected)
        del waiting[expected]
        self.size -= len(batch.data)
        vector[replica] = batch.header.last
        tips[replica] = (batch.header.last, batch.hash)
        return batch

    def give_back(self, batches: list[Batch]) -> None:
        """Put batches back whose flight was not committed; some may have come again meanwhile."""
        for batch in batches:
            waiting = self._waiting.setdefault(batch.header.replica, {})
            if batch.header.first not in waiting:
                waiting[batch.header.first] = batch
                self.size += len(batch.data)

    def missing(self, vector: Mapping[int, int]) -> dict[int, int]:
        """Return, per replica, the sequence through which waiting batches show a gap."""
        wanted: dict[int, int] = {}
        for replica, waiting in self._waiting.items():
            joined = vector.get(replica, 0)
            for first, batch in waiting.items():
                if first > joined + 1:
                    wanted[replica] = max(wanted.get(replica, 0), first - 1)
                for other, sequence in batch.header.dependencies.items():
                    if sequence > vector.get(other, 0):
                        wanted[other] = max(wanted.get(other, 0), sequence)
        return wanted

    def _drop(self, replica: int) -> None:
        for batch in self._waiting.pop(replica, {}).values():
            self.size -= len(batch.data)


def written_elsewhere(batch: Batch) -> Alarm:
    """Return the alarm that our own id writes elsewhere: a clone, or a tail that was lost."""
    message = f"a batch of this replica's own id, through {batch.header.last}, came from a peer"
    return Alarm("fork", message, {"replica": batch.header.replica, "sequence": batch.header.first})
