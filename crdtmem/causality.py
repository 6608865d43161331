"""What a replica knows: version vectors, ranges of dots, and the two tokens.

Problem: every promise of the system ("nothing lost", "equal knowledge, equal
answers", "no reply before its question") is a statement about sets of dots,
and those sets must be small, exact and printable.

Idea: four sets, each for one use.

* ``VersionVector``: per replica the highest *contiguous* sequence joined. Since
  sequences are dense and delivery is in order, it names a causally closed set.
* ``DotRanges``: any set of dots as sorted, disjoint ranges per replica, for
  what is *not* contiguous: gaps, partial payloads, requests. Only its prefix
  from 1 may ever be read as a version vector; compressing over a gap would
  hide dots that nobody has seen (the anomaly of "dot-gap compression").
* ``Context``: a version vector as an opaque, printable token, handed to users
  for waiting, sessions and as-of.
* ``Observed``: the dots that one read of one place returned. It is what a later
  write of that place supersedes, and is *not* a Context: having joined a value
  is not having looked at it.

Invariants: a vector never holds a zero; tokens are canonical (equal sets print
equally); ``DotRanges`` never holds overlapping or adjacent ranges.

Sources: Parker et al. 1983 (version vectors); Almeida et al., "Scalable and
Accurate Causality Tracking" (dotted version vectors); Riak's bigsets for
clocks with gaps.
"""

from __future__ import annotations

import base64
import binascii
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import Any, Final

import msgpack

from crdtmem.entries import SEQUENCE_BITS, SEQUENCE_MASK
from crdtmem.errors import InvalidToken

__all__ = ["Context", "DotRanges", "Observed", "VersionVector"]

_TOKEN_LIMIT_BYTES: Final = 64 * 1024
_INT_ONLY: Final = frozenset({int})


class VersionVector(dict[int, int]):
    """Replica id to highest contiguous sequence; absent means 0."""

    __slots__ = ()

    def covers(self, dot: int) -> bool:
        """Tell whether the dot (as an integer) has been joined."""
        return self.get(dot >> SEQUENCE_BITS, 0) >= dot & SEQUENCE_MASK

    def covers_all(self, dots: Iterable[int]) -> bool:
        """Tell whether every dot has been joined."""
        get = self.get
        return all(get(dot >> SEQUENCE_BITS, 0) >= dot & SEQUENCE_MASK for dot in dots)

    def dominates(self, other: Mapping[int, int]) -> bool:
        """Tell whether everything in ``other`` is also here."""
        get = self.get
        for replica, sequence in other.items():  # noqa: SIM110 - asked for every batch
            if get(replica, 0) < sequence:
                return False
        return True

    def join(self, other: Mapping[int, int]) -> None:
        """Take the pointwise maximum, in place."""
        get = self.get
        for replica, sequence in other.items():
            if sequence > get(replica, 0):
                self[replica] = sequence

    def meet(self, other: Mapping[int, int]) -> VersionVector:
        """Return the pointwise minimum: what both have joined."""
        return VersionVector(
            (replica, min(sequence, other[replica]))
            for replica, sequence in self.items()
            if other.get(replica, 0) > 0
        )

    def beyond(self, other: Mapping[int, int]) -> dict[int, tuple[int, int]]:
        """Return, per replica, the range ``(first, last)`` here but not in ``other``."""
        get = other.get
        return {
            replica: (get(replica, 0) + 1, sequence)
            for replica, sequence in self.items()
            if sequence > get(replica, 0)
        }

    def copy(self) -> VersionVector:
        """Return an independent copy."""
        return VersionVector(self)

    def flat(self) -> list[int]:
        """Return ``[replica, sequence, …]`` sorted by replica: the canonical form."""
        return list(chain.from_iterable(sorted(self.items())))

    @classmethod
    def from_flat(cls, numbers: Iterable[int]) -> VersionVector:
        """Rebuild from ``flat``; raises ``ValueError`` when it is no such list."""
        items = list(numbers)
        if not items:
            return cls()
        # A set of types and the extremes: read for every acknowledgement.
        if len(items) % 2 or set(map(type, items)) != _INT_ONLY or min(items) < 0:
            raise ValueError("a flat vector is pairs of replica and sequence")
        vector = cls(zip(items[::2], items[1::2], strict=True))
        if len(vector) * 2 != len(items) or 0 in vector.values():
            raise ValueError("a flat vector names each replica once, with a sequence above zero")
        if max(items) >> 64 or max(vector.values()) >> SEQUENCE_BITS:
            raise ValueError("replica ids and sequences are below 2^64")
        return vector


class DotRanges:
    """Any set of dots, as sorted, disjoint, non-adjacent ranges per replica."""

    __slots__ = ("_ranges",)

    def __init__(self, ranges: Mapping[int, Iterable[tuple[int, int]]] | None = None) -> None:
        self._ranges: dict[int, list[tuple[int, int]]] = {}
        for replica, pairs in (ranges or {}).items():
            for first, last in pairs:
                self.add(replica, first, last)

    def add(self, replica: int, first: int, last: int) -> None:
        """Add the sequences ``first`` to ``last``, both included (1 ≤ first ≤ last)."""
        if not 1 <= first <= last:
            raise ValueError(f"no range of sequences: {first} to {last}")
        pairs = self._ranges.setdefault(replica, [])
        kept: list[tuple[int, int]] = []
        for low, high in pairs:
            if high + 1 < first or last + 1 < low:
                kept.append((low, high))
            else:
                first, last = min(first, low), max(last, high)
        kept.insert(bisect_right(kept, (first, last)), (first, last))
        self._ranges[replica] = kept

    def __contains__(self, dot: int) -> bool:
        sequence = dot & SEQUENCE_MASK
        pairs = self._ranges.get(dot >> SEQUENCE_BITS, [])
        index = bisect_right(pairs, (sequence, SEQUENCE_MASK)) - 1
        return index >= 0 and pairs[index][0] <= sequence <= pairs[index][1]

    def __bool__(self) -> bool:
        return bool(self._ranges)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, DotRanges) and self._ranges == other._ranges

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"DotRanges({self._ranges!r})"

    def items(self) -> Iterator[tuple[int, list[tuple[int, int]]]]:
        """Yield each replica with its ranges, by replica."""
        for replica in sorted(self._ranges):
            yield replica, list(self._ranges[replica])

    def union(self, other: DotRanges) -> DotRanges:
        """Return the set of dots that are in either."""
        merged = DotRanges(self._ranges)
        for replica, pairs in other._ranges.items():
            for first, last in pairs:
                merged.add(replica, first, last)
        return merged

    def gaps(self, replica: int, through: int) -> list[tuple[int, int]]:
        """Return the ranges missing between 1 and ``through`` for one replica."""
        missing: list[tuple[int, int]] = []
        expected = 1
        for first, last in self._ranges.get(replica, []):
            if first > expected:
                missing.append((expected, min(first - 1, through)))
            expected = last + 1
            if expected > through:
                break
        if expected <= through:
            missing.append((expected, through))
        return [(first, last) for first, last in missing if first <= last]

    def contiguous(self) -> VersionVector:
        """Return the part that may be read as a vector: each prefix from 1, no gap jumped."""
        return VersionVector(
            (replica, pairs[0][1])
            for replica, pairs in self._ranges.items()
            if pairs and pairs[0][0] == 1
        )


def _encode(prefix: str, body: object) -> str:
    packed: bytes = msgpack.packb(body)
    return prefix + base64.urlsafe_b64encode(packed).rstrip(b"=").decode("ascii")


def _decode(prefix: str, token: str, what: str) -> Any:
    hint = f"pass the text of a {what} as it was printed"
    if not isinstance(token, str) or not token.startswith(prefix):
        raise InvalidToken(f"this is not a {what} token", hint=hint)
    if len(token) > _TOKEN_LIMIT_BYTES:
        raise InvalidToken(f"a {what} token of over {_TOKEN_LIMIT_BYTES} characters", hint=hint)
    text = token[len(prefix) :]
    try:
        packed = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
        return msgpack.unpackb(packed)
    except (ValueError, binascii.Error, msgpack.UnpackException) as error:
        raise InvalidToken(f"a {what} token that does not decode: {error}", hint=hint) from error


class Context:
    """A causally closed set of dots as a token: comparable, mergeable, printable.

    ``a <= b`` means that everything in ``a`` is in ``b``. Two contexts may be
    concurrent: then neither ``a <= b`` nor ``b <= a``.
    """

    __slots__ = ("vector",)
    _PREFIX = "c1."

    def __init__(self, vector: Mapping[int, int] | None = None) -> None:
        self.vector: Final = VersionVector(vector or {})

    @classmethod
    def parse(cls, token: str) -> Context:
        """Read a printed token; raises ``InvalidToken``."""
        body = _decode(cls._PREFIX, token, "Context")
        if not isinstance(body, list):
            raise InvalidToken("a Context token with the wrong shape", hint="pass it unchanged")
        try:
            return cls(VersionVector.from_flat(body))
        except ValueError as error:
            raise InvalidToken(
                f"a Context token that is no vector: {error}", hint="pass it unchanged"
            ) from error

    def merge(self, other: Context) -> Context:
        """Return the context that holds both."""
        if self <= other:
            return other
        vector = self.vector.copy()
        vector.join(other.vector)
        return Context(vector)

    def concurrent_with(self, other: Context) -> bool:
        """Tell whether each holds something that the other lacks."""
        return not self <= other and not other <= self

    def __str__(self) -> str:
        return _encode(self._PREFIX, self.vector.flat())

    def __repr__(self) -> str:
        return f"Context({str(self)!r})"

    def __le__(self, other: Context) -> bool:
        return other.vector.dominates(self.vector)

    def __lt__(self, other: Context) -> bool:
        return self <= other and self != other

    def __ge__(self, other: Context) -> bool:
        return other <= self

    def __gt__(self, other: Context) -> bool:
        return other < self

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Context) and self.vector == other.vector

    def __hash__(self) -> int:
        return hash(tuple(self.vector.flat()))


class Observed:
    """The dots that one read of one place returned, as a token.

    Pass it to a later write of that place: the write then supersedes exactly
    these dots, and whatever was written concurrently stays beside it.
    """

    __slots__ = ("dots",)
    _PREFIX = "o1."

    def __init__(self, dots: Iterable[int] = ()) -> None:
        self.dots: Final = frozenset(dots)

    @classmethod
    def parse(cls, token: str) -> Observed:
        """Read a printed token; raises ``InvalidToken``."""
        body = _decode(cls._PREFIX, token, "Observed")
        numbers = body if isinstance(body, list) else [None]
        if len(numbers) % 2 or not all(type(n) is int and 0 <= n < 1 << 64 for n in numbers):
            raise InvalidToken("an Observed token with the wrong shape", hint="pass it unchanged")
        pairs = zip(numbers[::2], numbers[1::2], strict=True)
        return cls(replica << SEQUENCE_BITS | sequence for replica, sequence in pairs)

    def merge(self, other: Observed) -> Observed:
        """Return the token of both reads."""
        return Observed(self.dots | other.dots)

    def __str__(self) -> str:
        flat: list[int] = []
        for dot in sorted(self.dots):
            flat += (dot >> SEQUENCE_BITS, dot & SEQUENCE_MASK)
        return _encode(self._PREFIX, flat)

    def __repr__(self) -> str:
        return f"Observed({str(self)!r})"

    def __bool__(self) -> bool:
        return bool(self.dots)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Observed) and self.dots == other.dots

    def __hash__(self) -> int:
        return hash(self.dots)
