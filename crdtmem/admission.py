"""Admission: how much unanswered work a node takes in, and from whom.

Problem: a node that takes whatever arrives is drowned by its busiest client: memory
grows with what is unanswered, and everybody else waits behind it. A bound per
connection is none, for connections are many; one bound for all lets whoever came
first keep out the rest.

Idea: one budget of operations and of bytes for all clients of a node. *What a client
holds* is what it asked and was not answered. Nobody keeps an account per request: each
face tells, once per turn, what its client holds now (``Share.hold``), and asks before it
takes more (``Share.room_for``):

1. A client is let in while it stays below its *fair share*: the budget divided by the
   number of clients that hold or wait for anything.
2. What others leave of theirs is lent: to whoever asks while nobody waits, else to those
   who wait, in turn, a frame at a time. Those who want more thus come to hold the same:
   this is max-min fairness.
3. What newcomers take by rule 1 while all is lent ends at twice the budget: the hard bound.
   A frame may be larger than any share: one is let in of a client that holds nothing while the
   others stay within the budget.
4. A client that holds nothing is let in with a small frame in any case, so that a node
   whose budget is held by others can still be asked how it fares.

A client on a stream is simply not read while it has no room, and is resumed in its turn;
one that asks once (HTTP) is told to come back, and when: by the rate at which work was
completed of late. Answers in many parts (feeds, exports) are not held against the
budget, since they last for ever and hold only what their reader has not read, but their
number is bounded, per client and for all.

*Pace.* Whatever is taken in waits behind all that was taken in before, so a budget that a
quick machine empties in a moment is seconds on a slow one. No more is taken in than is
completed in a quarter of a second, by operations and by bytes, but always what commits need
to share their syncs. So nobody waits for much longer than that.

*Answers that are not read* are held too, but in a pool of their own, so that a slow reader
takes nobody's share: when they are more than ``unread_bytes``, those who have read nothing
since the last measurement are cut off, whoever left most first.

*Memory.* What a node holds for good grows too. Above a high-water mark of the process's
measured memory new writes are refused, except those that only remove; reads go on, and
writes too once it has come down to the low-water mark. The nearer the ceiling, the less is
taken in, since what is in flight becomes memory: a byte of it up to twenty. The measuring
is the edge's (``pressure``); here it is an input, as time is.

Invariants: the totals are the sums over all clients; what is let in never takes what all
hold beyond twice the budget, or beyond the budget and one frame, but for a small frame per
client; a client below its fair share is refused
only at the hard bound; whoever waits is resumed when there is room for it, for each
end of work looks at some who wait, and a node with nothing in hand has room for all.

Sources: max-min fairness is Bertsekas & Gallager's, "Data Networks", 6.5.2; to lend
what is unused, up to a bound that keeps newcomers from waiting, is the idea of dynamic
thresholds in shared-memory switches (Choudhury & Hahne, 1998).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Protocol

from crdtmem.errors import Overloaded

__all__ = ["SMALL_BYTES", "Admission", "Bounds", "Client", "Share"]

SMALL_BYTES: Final = 64 * 1024
"""A frame of at most so many bytes is let in from a client that holds nothing."""

_HARD: Final = 2
_HIGH_WATER: Final = 0.85
_LOW_WATER: Final = 0.75
_LOOKED_AT: Final = 8
"""How many of those who wait are looked at whenever a client tells what it holds."""

_LENT_AT_ONCE: Final = 64
"""Operations that are lent to one client before others are asked."""

_STANDING_US: Final = 250_000
_LEAST_PART: Final = 8
_LEAST_BYTES: Final = 256 * 1024
_BYTES_PER_BYTE: Final = 20
"""So many bytes of memory a byte of the smallest writes may become, in flight and for good."""

_SMOOTHING_US: Final = 1_000_000
_RETRY_UNKNOWN_MS: Final = 200
_RETRY_LEAST_MS: Final = 10
_RETRY_MOST_MS: Final = 10_000
_RETRY_MEMORY_MS: Final = 1_000
_RETRY_STREAMS_MS: Final = 1_000


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much a node takes in: see the settings of the same names, section ``admission``."""

    in_flight_operations: int = 8_192
    in_flight_bytes: int = 32 * 1024 * 1024
    unread_bytes: int = 64 * 1024 * 1024
    streams: int = 1_024
    streams_per_client: int = 64
    memory_bytes: int = 0
    receive_ms: int = 30_000


class Client(Protocol):
    """What a face lets be done with a client on a stream."""

    def resume(self) -> None:
        """Take in what waits, in a later turn: ask for room before, and then wait or rest."""

    def unread_bytes(self) -> int:
        """Return how many bytes of answers the client has not read."""

    def cut_off(self, reason: str) -> None:
        """End the connection at once."""


class Admission:
    """The budget of one node. Time is in microseconds, and only ever told."""

    def __init__(self, bounds: Bounds) -> None:
        self.bounds = bounds
        self.operations = 0
        self.operations_budget = bounds.in_flight_operations
        """How many may be held now: see *Pace*."""
        self.bytes_budget = bounds.in_flight_bytes
        self.size_bytes = 0
        self.streams = 0
        self.refused = 0
        """How many askers were told to come back, since the start."""
        self.memory_bytes = 0
        """The process's memory, as measured last."""
        self.full = False
        """Whether new writes are refused for the memory that the process takes."""
        self._active = 0
        # In the order in which they will be looked at.
        self._waiting: dict[Share, None] = {}
        # How many were resumed and have not taken yet.
        self._turns = 0
        # Who does not read its answers, and how much lay there when that was last measured.
        self._unread: dict[Client, int] = {}
        self._completed = 0
        self._completed_bytes = 0
        self._rate = 0.0
        self._rate_bytes = 0.0
        self._sampled_us: int | None = None

    def share(self, client: Client | None = None) -> Share:
        """Return the account of one more client; one that only ever asks once is ``None``."""
        return Share(self, client)

    @property
    def clients(self) -> int:
        """How many clients hold anything, or wait to."""
        return self._active

    @property
    def unread_bytes(self) -> int:
        """How many bytes of answers lay unread when that was last measured."""
        return sum(self._unread.values())

    @property
    def waiting(self) -> int:
        """How many clients wait for room."""
        return len(self._waiting)

    # ------------------------------------------------------------------ memory and pace

    def sample(self, now_us: int, memory_bytes: int) -> None:
        """Take in a measurement of the process's memory, and how much was completed since."""
        self.memory_bytes = memory_bytes
        ceiling = self.bounds.memory_bytes
        if ceiling:
            mark = _LOW_WATER if self.full else _HIGH_WATER
            self.full = memory_bytes > mark * ceiling
        if self._sampled_us is not None and now_us > self._sampled_us:
            passed_us = now_us - self._sampled_us
            # What is older than a second hardly counts.
            weight = min(1.0, passed_us / _SMOOTHING_US)
            rate, rate_bytes = (
                done * 1e6 / passed_us for done in (self._completed, self._completed_bytes)
            )
            self._rate += weight * (rate - self._rate)
            self._rate_bytes += weight * (rate_bytes - self._rate_bytes)
            # Not the rates of this moment: many are completed together, and then none.
            self._set_budgets(self._rate, self._rate_bytes)
        self._sampled_us = now_us
        self._completed = self._completed_bytes = 0
        if self._unread:
            self._cut_off()

    def _set_budgets(self, rate: float, rate_bytes: float) -> None:
        """Take in no more than will be completed soon, and than there is memory for."""
        bounds = self.bounds
        most = bounds.in_flight_operations
        soon = int(rate * _STANDING_US / 1e6)
        self.operations_budget = max(1, most // _LEAST_PART, min(most, soon))
        most = bounds.in_flight_bytes
        if bounds.memory_bytes:
            left_bytes = bounds.memory_bytes - self.memory_bytes
            most = min(most, left_bytes // (_HARD * _BYTES_PER_BYTE))
        soon = int(rate_bytes * _STANDING_US / 1e6)
        self.bytes_budget = max(SMALL_BYTES, min(most, max(soon, _LEAST_BYTES)))

    def _cut_off(self) -> None:
        """Measure what is unread; beyond the bound, cut off those who have read nothing since."""
        measured = {client: client.unread_bytes() for client in self._unread}
        idle = [client for client, size in measured.items() if size >= self._unread[client] > 0]
        self._unread = {client: size for client, size in measured.items() if size}
        excess = sum(measured.values()) - self.bounds.unread_bytes
        for client in sorted(idle, key=measured.__getitem__, reverse=True):
            if excess <= 0:
                return
            excess -= measured[client]
            del self._unread[client]
            client.cut_off(f"{measured[client]} bytes of answers lay unread")

    @property
    def completed_per_s(self) -> float:
        """How many operations that had to wait were completed per second, of late."""
        return self._rate

    def retry_after_ms(self) -> int:
        """Return in how many milliseconds half of what is held will have been completed."""
        waits_ms = [
            500 * held / rate
            for held, rate in (
                (self.operations, self._rate),
                (self.size_bytes, self._rate_bytes),
            )
            if rate >= 1.0
        ]
        if not waits_ms:
            return _RETRY_UNKNOWN_MS
        return int(min(max(*waits_ms, _RETRY_LEAST_MS), _RETRY_MOST_MS))

    def require_memory(self) -> None:
        """Raise ``Overloaded`` while the process takes too much memory for new writes."""
        if self.full:
            self.refused += 1
            raise Overloaded(
                f"this node takes {self.memory_bytes >> 20} MiB of memory, of at most "
                f"{self.bounds.memory_bytes >> 20}: new writes are refused, reads are served",
                hint="retry after a pause; delete what is not needed, or raise "
                "admission.memory_bytes",
                retry_after_ms=_RETRY_MEMORY_MS,
            )

    def status(self) -> dict[str, Any]:
        """Return the figures that an operator wants to see."""
        bounds = self.bounds
        return {
            "operations": self.operations,
            "operations_budget": self.operations_budget,
            "bytes": self.size_bytes,
            "bytes_budget": self.bytes_budget,
            "clients": self._active,
            "waiting": len(self._waiting),
            "unread_bytes": self.unread_bytes,
            "streams": self.streams,
            "refused": self.refused,
            "completed_per_s": round(self._rate),
            "memory_bytes": self.memory_bytes,
            "memory_bytes_limit": bounds.memory_bytes or None,
            "writes_refused": self.full,
        }

    # ------------------------------------------------------------------ shares

    def has_room(self, size_bytes: int) -> bool:
        """Tell whether the budget is not spent, and would not be by so many bytes more."""
        return (
            self.operations < self.operations_budget
            and self.size_bytes + size_bytes <= self.bytes_budget
        )

    def wake(self) -> None:
        """Resume one of those who wait, if there is room for one of the first of them."""
        for share in list(self._waiting)[:_LOOKED_AT]:
            if share.take_turn():
                return
            # To the end of the line: those behind may want less.
            self._waiting[share] = self._waiting.pop(share)

    def _refuse(self, what: str, retry_after_ms: int) -> Overloaded:
        self.refused += 1
        return Overloaded(
            what, hint="retry after the pause that is told", retry_after_ms=retry_after_ms
        )


class Share:
    """What one client holds. Its face tells it, and asks it for room."""

    __slots__ = (
        "_active",
        "_admission",
        "_client",
        "_turn",
        "operations",
        "size_bytes",
        "streams",
        "wanted_bytes",
    )

    def __init__(self, admission: Admission, client: Client | None) -> None:
        self._admission = admission
        self._client = client
        self._active = False
        # Whether it was resumed and may now borrow, once, although others wait.
        self._turn = False
        self.operations = 0
        self.size_bytes = 0
        self.streams = 0
        self.wanted_bytes = 0

    def hold(self, operations: int, size_bytes: int, done: int = 0, done_bytes: int = 0) -> None:
        """Tell what this client holds now, and what of it was completed since the last time."""
        admission = self._admission
        admission.operations += operations - self.operations
        admission.size_bytes += size_bytes - self.size_bytes
        admission._completed += done
        admission._completed_bytes += done_bytes
        if self._turn and (operations > self.operations or size_bytes > self.size_bytes):
            # It has taken what it was resumed for.
            self._end_turn()
        self.operations = operations
        self.size_bytes = size_bytes
        self._count()
        if admission._waiting:
            admission.wake()

    def room_for(self, size_bytes: int) -> bool:
        """Tell whether one more operation, of so many bytes, may be taken in."""
        admission = self._admission
        if self._turn or not (admission._waiting or admission._turns):
            # Lent: to whoever's turn it is, or to anyone while nobody waits.
            if admission.has_room(size_bytes):
                return True
        if not self.operations and self.size_bytes + size_bytes <= SMALL_BYTES:
            return True
        return self._below_fair_share(size_bytes)

    def _below_fair_share(self, size_bytes: int) -> bool:
        """Tell whether the client stays within its share, and all within the hard bound.

        However many share, one operation is within each share, and so is one frame of a
        client that holds nothing while the others stay within the budget.
        """
        admission = self._admission
        clients = admission._active + (not self._active)
        operations, budget = self.operations, admission.operations_budget
        if admission.operations >= _HARD * budget or (
            operations and (operations + 1) * clients > budget
        ):
            return False
        held, budget = admission.size_bytes, admission.bytes_budget
        if not self.size_bytes and (held <= budget or size_bytes <= SMALL_BYTES):
            # Also of one that asks once: else a few bodies that never end keep out all.
            return True
        return (
            held + size_bytes <= _HARD * budget
            and (self.size_bytes + size_bytes) * clients <= budget
        )

    def grant(self) -> int:
        """Return how many operations more may be taken in before asking again."""
        admission = self._admission
        budget = admission.operations_budget
        clients = admission._active + (not self._active)
        left = min(budget // clients - self.operations, _HARD * budget - admission.operations)
        if self._turn or not (admission._waiting or admission._turns):
            left = max(left, min(_LENT_AT_ONCE, budget - admission.operations))
        return max(left, 0 if self.operations else 1)

    def wait(self, size_bytes: int = 0) -> None:
        """Be resumed when there may be room for so many bytes more."""
        self._end_turn()
        self.wanted_bytes = size_bytes
        self._admission._waiting[self] = None
        self._count()

    def rest(self) -> None:
        """Want no more for now: what a client that was resumed, and does not wait, tells."""
        self._end_turn()
        if self._admission._waiting:
            self._admission.wake()

    def _end_turn(self) -> None:
        if self._turn:
            self._turn = False
            self._admission._turns -= 1

    def take_turn(self) -> bool:
        """Resume the client, which waited, if there is room for it; tells whether there was."""
        if not (self._admission.has_room(self.wanted_bytes) or self.room_for(self.wanted_bytes)):
            return False
        self._turn = True
        self._admission._turns += 1
        del self._admission._waiting[self]
        self._count()
        if self._client is not None:
            self._client.resume()
        return True

    def ask(self, size_bytes: int) -> None:
        """Take in one operation of a client that asks once; ``release`` it when answered.

        Raises ``Overloaded`` with ``retry_after_ms`` where there is no room.
        """
        admission = self._admission
        if not (admission.has_room(size_bytes) or self._below_fair_share(size_bytes)):
            raise admission._refuse(
                f"{admission.operations} operations and {admission.size_bytes} bytes are "
                "unanswered here, which is all that this node takes in",
                admission.retry_after_ms(),
            )
        self.hold(self.operations + 1, self.size_bytes + size_bytes)

    def release(self, size_bytes: int) -> None:
        """Give back what ``ask`` took in."""
        self.hold(self.operations - 1, self.size_bytes - size_bytes, 1, size_bytes)

    def note_unread(self) -> None:
        """Tell that the client has not read what it was answered, so that it is measured."""
        assert self._client is not None
        self._admission._unread[self._client] = self._client.unread_bytes()

    def open_stream(self) -> None:
        """Begin an answer in parts; raises ``Overloaded`` where there are too many."""
        admission = self._admission
        bounds = admission.bounds
        if self.streams >= bounds.streams_per_client:
            raise admission._refuse(
                f"{self.streams} feeds and other answers in parts are open on this connection, "
                "which is the limit",
                _RETRY_STREAMS_MS,
            )
        if admission.streams >= bounds.streams:
            raise admission._refuse(
                f"{admission.streams} feeds and other answers in parts are open here, which is "
                "the limit",
                _RETRY_STREAMS_MS,
            )
        self.streams += 1
        admission.streams += 1

    def close_stream(self) -> None:
        """End what ``open_stream`` began."""
        self.streams -= 1
        self._admission.streams -= 1

    def leave(self) -> None:
        """Forget the client, and all that it holds."""
        admission = self._admission
        admission._waiting.pop(self, None)
        if self._client is not None:
            admission._unread.pop(self._client, None)
        admission.streams -= self.streams
        self.streams = 0
        self._end_turn()
        self.hold(0, 0)

    def _count(self) -> None:
        """Count the client among the active ones, or no more."""
        active = bool(self.operations or self.size_bytes) or self in self._admission._waiting
        if active is not self._active:
            self._active = active
            self._admission._active += 1 if active else -1
