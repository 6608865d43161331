"""Which dots differ between two replicas, found in bytes that follow the difference.

Problem: two replicas share a million live dots and differ in a hundred. Sending
either set, or either state, costs ten thousand times the answer.

Idea: range-based set reconciliation. Dots are sorted; because the digest's hash
is additive, prefix sums of one of its lanes give the fingerprint of any range
as one subtraction. The *teller* fingerprints each replica's whole range. The
*asker* names the ranges whose fingerprint differs from its own; each is answered
by splitting it into sixteen equally full ones with their fingerprints, or, once
that costs less, by listing its dots. The asker alone drives, so the teller
keeps nothing but its pinned arrays.

An answer is one of::

    0 · a varint per dot: the step from the one before (the first from before the range)
    1 · a bitmap of the range, lowest sequence in the lowest bit
    2 · n (one byte) · n fingerprints of 8 bytes · n - 1 varints: the sizes of all but the last

Invariants: a comparison ends after at most 16 rounds; with 64-bit fingerprints
a difference is overlooked with a probability of 2^-64 per range, and found by
the digests afterwards; what is decoded lies within the range that was asked for.

Source: Meyer, "Range-Based Set Reconciliation" (2022), and negentropy; additive
fingerprints are Bellare & Micciancio's AdHash.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from operator import methodcaller
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from crdtmem.digest import dot_lanes
from crdtmem.entries import SEQUENCE_MASK, as_siblings, pack_dot
from crdtmem.table import State

__all__ = ["STEP_DOTS", "Comparison", "DotRange", "DotSet", "PinnedDots", "decode_answer"]

DotRange = tuple[int, int, int]
"""A replica, and the first and last sequence of a range."""

_Array = npt.NDArray[np.uint64]
_FANOUT: Final = 16
_LIST_UP_TO: Final = 32
_BITMAP_BYTES: Final = 128
_LIST, _BITMAP, _SPLIT = 0, 1, 2
_as_bytes: Final = methodcaller("to_bytes", 16, "little")

STEP_DOTS: Final = 20_000
"""How many places one step of ``PinnedDots`` takes in."""

_NONE: Final[_Array] = np.zeros(0, np.uint64)
_NO_SUMS: Final[_Array] = np.zeros(1, np.uint64)


class DotSet:
    """A set of dots, pinned: per replica the sorted sequences, and sums of their hashes."""

    __slots__ = ("_sequences", "_sums")

    def __init__(self, sequences: Mapping[int, _Array]) -> None:
        self._sequences = dict(sequences)
        self._sums = {replica: _sums(replica, held) for replica, held in self._sequences.items()}

    @classmethod
    def of(cls, state: State) -> DotSet:
        """Return the live dots of a state as they are now."""
        pinned = PinnedDots(state)
        while (done := pinned.step()) is None:
            pass
        return done

    def add(self, replica: int, sequences: _Array) -> None:
        """Add the sorted sequences of a replica that has none here yet."""
        self._sequences[replica] = sequences
        self._sums[replica] = _sums(replica, sequences)

    def __len__(self) -> int:
        return sum(map(len, self._sequences.values()))

    def tops(self, through: Mapping[int, int]) -> dict[int, int]:
        """Return the fingerprint of each replica's dots from 1 through the given sequence."""
        return {
            replica: self.fingerprint((replica, 1, last))
            for replica, last in through.items()
            if last > 0
        }

    def fingerprint(self, dots: DotRange) -> int:
        """Return the fingerprint of a range: 64 bits, 0 where it is empty."""
        low, high = self._bounds(dots)
        sums = self._sums.get(dots[0], _NO_SUMS)
        return (int(sums[high]) - int(sums[low])) & SEQUENCE_MASK

    def count(self, dots: DotRange) -> int:
        """Return how many dots lie in a range."""
        low, high = self._bounds(dots)
        return high - low

    def sequences(self, dots: DotRange) -> _Array:
        """Return the sequences that lie in a range, sorted."""
        low, high = self._bounds(dots)
        return self._sequences.get(dots[0], _NONE)[low:high]

    def _bounds(self, dots: DotRange) -> tuple[int, int]:
        replica, first, last = dots
        held = self._sequences.get(replica, _NONE)
        low = np.searchsorted(held, np.uint64(first), "left")
        return int(low), int(np.searchsorted(held, np.uint64(last), "right"))

    def answer(self, dots: DotRange) -> bytes:
        """Return what a range holds, in the form that costs least to settle it."""
        _, first, last = dots
        held = self.sequences(dots)
        span_bytes = (last - first) // 8 + 1
        if len(held) <= _LIST_UP_TO or span_bytes <= _BITMAP_BYTES:
            listed = _steps(first, held) if len(held) <= 4 * _BITMAP_BYTES else None
            if listed is None or span_bytes < len(listed):
                bits = np.zeros(span_bytes * 8, np.uint8)
                bits[(held - np.uint64(first)).astype(np.int64)] = 1
                return bytes((_BITMAP,)) + np.packbits(bits, bitorder="little").tobytes()
            return bytes((_LIST,)) + listed
        return self._split(dots, held)

    def _split(self, dots: DotRange, held: _Array) -> bytes:
        replica, first, last = dots
        cuts = (np.arange(1, _FANOUT) * len(held)) // _FANOUT
        starts = [first, *map(int, held[cuts])]
        ends = [*(start - 1 for start in starts[1:]), last]
        prints = b"".join(
            self.fingerprint((replica, low, high)).to_bytes(8, "big")
            for low, high in zip(starts, ends, strict=True)
        )
        sizes = b"".join(
            _varint(high - low + 1) for low, high in zip(starts[:-1], ends[:-1], strict=True)
        )
        return bytes((_SPLIT, _FANOUT)) + prints + sizes


class PinnedDots:
    """The live dots of a state at one moment, on their way to a ``DotSet`` step by step.

    Taking them is quick, and has to be done at once; sorting and summing a million takes
    most of a second, and may be done a step at a time, while the state moves on.
    """

    def __init__(self, state: State) -> None:
        # Slots never change, so holding on to them pins their dots: one copy of each dictionary.
        self._slots: list[Any] = []
        for table in state.tables.values():
            for part in table.slots.values() if table.nested else (table.slots,):
                self._slots += part.values()
        self._from = 0
        self._parts: dict[int, list[_Array]] = {}
        self._done = DotSet({})

    def step(self) -> DotSet | None:
        """Do the next part of the work; returns the set once that is done."""
        if self._from < len(self._slots):
            slots = self._slots[self._from : self._from + STEP_DOTS]
            self._split([entry[0] for slot in slots for entry in as_siblings(slot)])
            self._from += STEP_DOTS
            return None
        if self._parts:
            replica, parts = self._parts.popitem()
            self._done.add(replica, np.sort(np.concatenate(parts)))
            return None
        self._slots = []
        return self._done

    def _split(self, dots: list[int]) -> None:
        """Sort some dots by their replicas."""
        columns = np.frombuffer(b"".join(map(_as_bytes, dots)), "<u8").reshape(-1, 2)
        sequences, replicas = columns[:, 0].astype(np.uint64), columns[:, 1].astype(np.uint64)
        for replica in np.unique(replicas):
            self._parts.setdefault(int(replica), []).append(sequences[replicas == replica])


class Comparison:
    """The asker's side: what is still to be asked, and what was found to differ."""

    def __init__(self, mine: DotSet, tops: Mapping[int, int], *, both: bool) -> None:
        """Begin: ``tops`` are the teller's, over ranges that both sides agree on.

        ``both``: look for what the teller has and we lack as well, not only for
        what we have and it lacks.
        """
        self._mine = mine
        self._both = both
        self._pending: list[DotRange] = []
        self._asked: list[DotRange] = []
        self.surplus: set[int] = set()
        """Dots that only we have."""
        self.lacking: set[int] = set()
        """Dots that only the teller has, if ``both``."""
        self._tops = dict(tops)

    def start(self, through: Mapping[int, int]) -> None:
        """Compare each replica's range from 1 through the given sequence."""
        for replica, last in sorted(through.items()):
            if last > 0:
                self._compare((replica, 1, last), self._tops.get(replica, 0))

    @property
    def done(self) -> bool:
        """Whether nothing is left to ask."""
        return not self._pending and not self._asked

    def ask(self, limit: int) -> list[DotRange]:
        """Return the next ranges to ask for; their answers are taken before the next call."""
        assert not self._asked
        self._asked, self._pending = self._pending[:limit], self._pending[limit:]
        return self._asked

    def take(self, answers: Sequence[bytes]) -> None:
        """Take the answers to what was asked, in order; raises ``ValueError``."""
        if len(answers) != len(self._asked):
            raise ValueError("as many answers as ranges were asked for")
        asked, self._asked = self._asked, []
        for dots, answer in zip(asked, answers, strict=True):
            decoded = decode_answer(dots, answer)
            if isinstance(decoded, list):
                for part, fingerprint in decoded:
                    self._compare(part, fingerprint)
            else:
                self._settle(dots, decoded)

    def _compare(self, dots: DotRange, fingerprint: int) -> None:
        if self._mine.fingerprint(dots) == fingerprint:
            return
        if fingerprint == 0:
            self._settle(dots, _NONE)
        elif self._both or self._mine.count(dots):
            self._pending.append(dots)

    def _settle(self, dots: DotRange, theirs: _Array) -> None:
        replica = dots[0]
        mine = self._mine.sequences(dots)
        only_mine = np.setdiff1d(mine, theirs, assume_unique=True)
        self.surplus.update(pack_dot(replica, int(number)) for number in only_mine)
        if self._both:
            only_theirs = np.setdiff1d(theirs, mine, assume_unique=True)
            self.lacking.update(pack_dot(replica, int(number)) for number in only_theirs)


def decode_answer(dots: DotRange, answer: bytes) -> list[tuple[DotRange, int]] | _Array:
    """Return the parts of a range with their fingerprints, or its sequences.

    Raises ``ValueError`` for an answer that is malformed or leaves the range.
    """
    replica, first, last = dots
    kind, body = (answer[0], answer[1:]) if answer else (-1, b"")
    if kind == _LIST:
        steps = list(_varints(body))
        _check(sum(steps) <= last - first + 1, "the steps")
        return np.cumsum(np.array(steps, np.uint64), dtype=np.uint64) + np.uint64(first - 1)
    if kind == _BITMAP:
        _check(len(body) == (last - first) // 8 + 1, "the bitmap")
        bits = np.unpackbits(np.frombuffer(body, np.uint8), bitorder="little")
        numbers = np.nonzero(bits)[0].astype(np.uint64) + np.uint64(first)
        _check(not len(numbers) or int(numbers[-1]) <= last, "the bitmap")
        return numbers
    _check(kind == _SPLIT and len(body) > 0, "the answer")
    count = body[0]
    prints, sizes = body[1 : 1 + 8 * count], list(_varints(body[1 + 8 * count :]))
    _check(count > 1 and len(prints) == 8 * count and len(sizes) == count - 1, "the parts")
    parts: list[tuple[DotRange, int]] = []
    for index in range(count):
        end = last if index == count - 1 else first + sizes[index] - 1
        _check(first <= end <= last, "the parts")
        fingerprint = int.from_bytes(prints[8 * index : 8 * index + 8], "big")
        parts.append(((replica, first, end), fingerprint))
        first = end + 1
    return parts


def _sums(replica: int, sequences: _Array) -> _Array:
    """Return the prefix sums, modulo 2^64, of the dots' hashes; one more than dots."""
    hashes, _ = dot_lanes(np.full(len(sequences), replica, np.uint64), sequences)
    return np.concatenate((_NO_SUMS, np.cumsum(hashes, dtype=np.uint64)))


def _steps(first: int, sequences: _Array) -> bytes:
    previous = first - 1
    steps: list[bytes] = []
    for number in map(int, sequences):
        steps.append(_varint(number - previous))
        previous = number
    return b"".join(steps)


def _varint(number: int) -> bytes:
    part = bytearray()
    while number > 0x7F:
        part.append(number & 0x7F | 0x80)
        number >>= 7
    part.append(number)
    return bytes(part)


def _varints(data: bytes) -> Iterator[int]:
    number = shift = 0
    for byte in data:
        number |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            _check(0 < number <= SEQUENCE_MASK, "a number")
            yield number
            number = shift = 0
        else:
            _check(shift < 70, "a number")
    _check(shift == 0, "a number")


def _check(fine: Any, what: str) -> None:
    if not fine:
        raise ValueError(f"{what} of an answer: malformed")
