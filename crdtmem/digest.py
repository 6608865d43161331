"""A digest of live dots: equal states have equal digests, found in O(change).

Problem: replicas must notice divergence without comparing states, and keeping
the evidence must cost almost nothing per write.

Idea: the digest is the sum of a mixed hash over all live dots, so that adding
and removing an entry is one addition or subtraction and the order does not
matter. The sum has 128 bits as two independent lanes of 64 (modulo 2^64 each):
numpy computes lanes at ten nanoseconds a dot, and prefix sums of lanes give
the fingerprint of any range of dots, which reconciliation needs. Changes are
*noted* per batch (a range of dots added, a list of dots removed) and folded in
when the digest is asked for, or when ``FOLD_AT`` of them have gathered, so the
hot path pays one append.

Counting what is noted costs nothing more, so a digest also knows how many dots are live.

Invariants: the value depends on the set of live dots only; folding early or
late gives the same value. Payloads are not hashed here: batches carry
checksums of their own.

Additive hashing of sets is Bellare & Micciancio's AdHash; the mixer is
Steele, Lea & Flood's SplitMix64 finaliser.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import repeat
from operator import sub
from typing import Final

import numpy as np
import numpy.typing as npt

from crdtmem.columns import Distances
from crdtmem.entries import SEQUENCE_BITS, SEQUENCE_MASK

__all__ = ["DotDigest", "dot_lanes", "hash_dots"]

Lanes = tuple[int, int]
_Array = npt.NDArray[np.uint64]

_MASK: Final = (1 << 64) - 1
_LANE_SEEDS: Final = (0x243F6A8885A308D3, 0x13198A2E03707344)
_GOLDEN: Final = np.uint64(0x9E3779B97F4A7C15)
_MIX_1: Final = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2: Final = np.uint64(0x94D049BB133111EB)
_SHIFTS: Final = (np.uint64(30), np.uint64(27), np.uint64(31))


def _mix(numbers: _Array) -> _Array:
    """Mix an array in place, and return it."""
    shifted = numbers >> _SHIFTS[0]
    numbers ^= shifted
    numbers *= _MIX_1
    np.right_shift(numbers, _SHIFTS[1], out=shifted)
    numbers ^= shifted
    numbers *= _MIX_2
    np.right_shift(numbers, _SHIFTS[2], out=shifted)
    numbers ^= shifted
    return numbers


def dot_lanes(replicas: _Array, sequences: _Array) -> tuple[_Array, _Array]:
    """Return both 64-bit hash lanes of each dot, given as two arrays of one shape.

    One replica for all may be given as an array of length one.
    """
    scattered = sequences * _GOLDEN
    first, second = (_mix(scattered + _mix(replicas ^ np.uint64(seed))) for seed in _LANE_SEEDS)
    return first, second


def hash_dots(dots: Iterable[int]) -> Lanes:
    """Return the digest of a set of integer dots: the sum of their hashes, per lane."""
    listed = list(dots)
    if not listed:
        return 0, 0
    first, second = dot_lanes(*_columns(listed))
    return int(first.sum(dtype=np.uint64)), int(second.sum(dtype=np.uint64))


def _columns(dots: list[int]) -> tuple[_Array, _Array]:
    """Return the replicas and the sequences of dots as arrays."""
    # Most often all are of one replica: subtracting what they share is the quickest way
    # from wide integers to an array, and whatever else there is does not fit.
    shared = dots[0] & ~SEQUENCE_MASK
    try:
        own = np.fromiter(map(sub, dots, repeat(shared)), np.int64, len(dots))
    except OverflowError:
        own = None
    if own is not None and own.min() >= 0:
        return np.array((shared >> SEQUENCE_BITS,), np.uint64), own.view(np.uint64)
    replicas = np.fromiter((dot >> SEQUENCE_BITS for dot in dots), np.uint64, len(dots))
    sequences = np.fromiter((dot & SEQUENCE_MASK for dot in dots), np.uint64, len(dots))
    return replicas, sequences


class DotDigest:
    """The running digest of one set of live dots, folded lazily."""

    FOLD_AT: Final = 32_768

    __slots__ = (
        "_first",
        "_next",
        "_pending",
        "_ranges",
        "_removed",
        "_replaced",
        "_second",
        "_start",
        "count",
    )

    def __init__(self) -> None:
        self._first = 0
        self._second = 0
        # The range that the next one most often continues, and those before it.
        self._start = self._next = 0
        self._ranges: list[tuple[int, int]] = []
        self._removed: list[int] = []
        # Per replica and width of distances, first sequences and columns.
        self._replaced: dict[tuple[int, str], list[tuple[int, Distances[int]]]] = {}
        self._pending = 0
        self.count = 0
        """How many dots are live. What comes and goes is counted as it is noted."""

    def add_range(self, first_dot: int, count: int) -> None:
        """Note ``count`` consecutive dots of one replica as live."""
        if first_dot == self._next:
            self._next += count
        else:
            self._close_range()
            self._start, self._next = first_dot, first_dot + count
        self.count += count
        self._pending += count
        if self._pending > self.FOLD_AT:
            self._fold()

    def _close_range(self) -> None:
        if self._start < self._next:
            self._ranges.append((self._start, self._next - self._start))
            self._start = self._next = 0

    def remove(self, dots: list[int]) -> None:
        """Note dots as no longer live. The list is copied."""
        self._removed += dots
        self.count -= len(dots)
        self._pending += len(dots)
        if self._pending > self.FOLD_AT:
            self._fold()

    def remove_before(self, first_dot: int, distances: Distances[int]) -> None:
        """Note dots as no longer live that lie so far before consecutive ones of their replica."""
        place = first_dot >> SEQUENCE_BITS, distances.typecode
        self._replaced.setdefault(place, []).append((first_dot & SEQUENCE_MASK, distances))
        self.count -= len(distances)
        self._pending += len(distances)
        if self._pending > self.FOLD_AT:
            self._fold()

    def add(self, dots: Iterable[int]) -> None:
        """Note single dots as live: for repair and snapshots."""
        listed = list(dots)
        first, second = hash_dots(listed)
        self.count += len(listed)
        self._first = (self._first + first) & _MASK
        self._second = (self._second + second) & _MASK

    def take_in(self, other: DotDigest) -> None:
        """Note what another digest noted, added and removed."""
        first, second = other.value()
        self.count += other.count
        self._first = (self._first + first) & _MASK
        self._second = (self._second + second) & _MASK

    def value(self) -> Lanes:
        """Return the digest as two integers of 64 bits."""
        if self._pending:
            self._fold()
        return self._first, self._second

    def hex(self) -> str:
        """Return the digest as 32 hexadecimal digits."""
        first, second = self.value()
        return f"{first:016x}{second:016x}"

    def _fold(self) -> None:
        self._close_range()
        added: dict[int, list[tuple[int, int]]] = {}
        for dot, count in self._ranges:
            added.setdefault(dot >> SEQUENCE_BITS, []).append((dot & SEQUENCE_MASK, count))
        for replica, ranges in added.items():
            counts = np.array([count for _, count in ranges], np.int64)
            self._count(replica, _runs([first for first, _ in ranges], counts), 1)
        for (replica, code), columns in self._replaced.items():
            counts = np.array([len(distances) for _, distances in columns], np.int64)
            sequences = _runs([first for first, _ in columns], counts)
            sequences -= np.frombuffer(b"".join([held for _, held in columns]), code)
            self._count(replica, sequences, -1)
        first, second = hash_dots(self._removed)
        self._first = (self._first - first) & _MASK
        self._second = (self._second - second) & _MASK
        self._ranges = []
        self._replaced = {}
        self._removed = []
        self._pending = 0

    def _count(self, replica: int, sequences: _Array, sign: int) -> None:
        """Add or subtract the hashes of one replica's dots."""
        first, second = dot_lanes(np.array((replica,), np.uint64), sequences)
        self._first = (self._first + sign * int(first.sum(dtype=np.uint64))) & _MASK
        self._second = (self._second + sign * int(second.sum(dtype=np.uint64))) & _MASK


def _runs(firsts: list[int], counts: npt.NDArray[np.int64]) -> _Array:
    """Return the sequences of several runs, one after the other."""
    begins = (np.cumsum(counts) - counts).astype(np.uint64)
    starts = np.array(firsts, np.uint64) - begins
    offsets = np.arange(int(counts.sum()), dtype=np.uint64)
    offsets += starts[0] if len(firsts) == 1 else np.repeat(starts, counts)
    return offsets
