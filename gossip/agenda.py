"""What is due when: one heap of named deadlines.

Problem: a pool of a thousand members has hundreds of timers; asking each of them at every
tick would cost O(n), and a timer that is moved or cancelled must not fire.

Idea: a deadline is a key; setting a key again moves it. Entries of the heap that no longer
belong to a key are passed over when they surface, and whenever they outnumber the living ones by
more than a little, the heap is rebuilt. Before n are rebuilt, more than n were moved or cancelled
since the last time; so it costs O(1) per step, amortised.

Invariants: a key is due at most once at a time; of equal times the one set first comes first;
after every step the heap holds at most twice as many entries as there are keys, and 64 more.
"""

from __future__ import annotations

from collections.abc import Hashable
from heapq import heapify, heappop, heappush
from typing import Final, Generic, TypeVar

__all__ = ["Agenda"]

K = TypeVar("K", bound=Hashable)
_SLACK: Final = 64


class Agenda(Generic[K]):
    """Deadlines in microseconds by key."""

    __slots__ = ("_heap", "_number", "_where")

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, K]] = []
        self._where: dict[K, tuple[int, int]] = {}
        self._number = 0

    def __len__(self) -> int:
        return len(self._where)

    def __contains__(self, key: K) -> bool:
        return key in self._where

    def set(self, key: K, due_us: int) -> None:
        """Let ``key`` be due at that time, and at no other."""
        self._number += 1
        self._where[key] = (due_us, self._number)
        heappush(self._heap, (due_us, self._number, key))
        self._compact()

    def cancel(self, key: K) -> None:
        """Let ``key`` not be due; nothing happens if it was not."""
        if self._where.pop(key, None) is not None:
            self._compact()

    def due_us(self, key: K) -> int | None:
        """Return when ``key`` is due, or ``None``."""
        found = self._where.get(key)
        return None if found is None else found[0]

    def next_us(self) -> int | None:
        """Return the earliest deadline, or ``None``."""
        heap = self._heap
        while heap:
            due, number, key = heap[0]
            if self._where.get(key) == (due, number):
                return due
            heappop(heap)
        return None

    def pop(self, now_us: int) -> tuple[K, int] | None:
        """Take the earliest key that is due by now, and when it was due; or ``None``."""
        due = self.next_us()
        if due is None or due > now_us:
            return None
        _, _, key = heappop(self._heap)
        del self._where[key]
        self._compact()
        return key, due

    def clear(self) -> None:
        """Forget every deadline."""
        self._heap.clear()
        self._where.clear()

    def _compact(self) -> None:
        if len(self._heap) > 2 * len(self._where) + _SLACK:
            self._heap = [(due, number, key) for key, (due, number) in self._where.items()]
            heapify(self._heap)
