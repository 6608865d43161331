"""Columns: how runs of keys and of distances are laid out, on the wire and in memory.

Problem: a batch is mostly two columns besides its values: the keys written, and
how far back the deltas lie that they supersede. Encoded value by value, both cost
more than joining them.

Idea: keys that share a beginning are written as that beginning and one text,
their rests joined by U+0000: one text to check, encode and decode, and the
standard library splits it at memory speed. Distances that are all plain (0, or the
writer's own dot so far back) are an ``array`` of the narrowest unsigned integers
that hold them, and its little-endian bytes on the wire; numpy reads it as it is. Values
that are all tuples of one length, as running totals are, are written component by
component.

Invariants: what ``pack_keys`` encodes, ``unpack_keys`` gives back; a key that
holds U+0000 is never joined with others; a column that is an ``array`` holds
distances only, one per delta, and some are not 0.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Sequence
from itertools import count
from operator import sub
from typing import Any, Final

from crdtmem.codec import pack

__all__ = [
    "COLUMN_FROM",
    "Distances",
    "Rows",
    "as_column",
    "as_distances",
    "distance_bytes",
    "distances_of",
    "lead_before",
    "pack_keys",
    "pack_rows",
    "unpack_keys",
    "unpack_rows",
]

COLUMN_FROM: Final = 8
"""Columns shorter than this are plain arrays on the wire, which are smaller then."""

Distances = array
"""A column of plain distances."""

_COMPONENTS: Final = "c"
_SEPARATOR: Final = "\0"
_PREFIX_LETTERS: Final = 1_024
_SAMPLED: Final = 12
_STR_ONLY: Final = frozenset({str})
_CODES: Final = {array(code).itemsize: code for code in "BHIQ"}
_BIG_ENDIAN: Final = sys.byteorder == "big"


# ---------------------------------------------------------------------- keys


def pack_keys(keys: list[str]) -> bytes:
    """Encode a column of keys, none of them empty; what all begin with is written once.

    The form is ``[key, …]`` or ``[prefix, [the rests, joined by U+0000]]``. Raises
    ``InvalidValue`` for text that cannot be encoded.
    """
    length = len(keys)
    if length < COLUMN_FROM:
        return pack(keys)
    joined = _SEPARATOR.join(keys)
    if joined.count(_SEPARATOR) != length - 1:
        return pack(keys)
    # What a few of them share is, most often, what all of them share.
    prefix = _common(keys[:: 1 + length // _SAMPLED])
    rests = _without(prefix, joined, length)
    if rests is None:
        prefix = _common(keys)
        rests = _without(prefix, joined, length)
        assert rests is not None, "all keys begin with what the least and the greatest share"
    return pack((prefix, (rests,)))


def _common(keys: list[str]) -> str:
    """Return what all keys begin with, up to a limit."""
    low, high = min(keys), max(keys)
    for at, letter in enumerate(low):
        if letter != high[at]:
            return low[: min(at, _PREFIX_LETTERS)]
    return low[:_PREFIX_LETTERS]


def _without(prefix: str, joined: str, length: int) -> str | None:
    """Return joined keys without a prefix; ``None`` if some key does not begin with it."""
    if not prefix:
        return joined
    rests = joined.replace(_SEPARATOR + prefix, _SEPARATOR)
    if len(joined) - len(rests) != (length - 1) * len(prefix) or not rests.startswith(prefix):
        return None
    return rests[len(prefix) :]


def unpack_keys(keys: Any) -> Sequence[str]:
    """Return a decoded column of keys, whichever form ``pack_keys`` chose.

    Raises ``ValueError`` for anything else.
    """
    if type(keys) is not tuple:
        raise ValueError("a column of keys is malformed")
    if len(keys) == 2 and type(keys[1]) is tuple:
        prefix, rests = keys
        # A prefix is repeated for every key: a longer one could claim far more memory than it is.
        if (
            type(prefix) is not str
            or len(prefix) > _PREFIX_LETTERS
            or _SEPARATOR in prefix
            or len(rests) != 1
            or type(rests[0]) is not str
        ):
            raise ValueError("a prefix of keys is malformed")
        joined: str = rests[0]
        if prefix:
            joined = prefix + joined.replace(_SEPARATOR, _SEPARATOR + prefix)
        return joined.split(_SEPARATOR)
    if not set(map(type, keys)) <= _STR_ONLY:
        raise ValueError("a column of keys is malformed")
    return keys


# ---------------------------------------------------------------------- values


def pack_rows(components: tuple[Sequence[int], ...]) -> bytes:
    """Encode a column of tuples of integers, given their first components, their second, …"""
    return pack({_COMPONENTS: components})


class Rows(tuple[tuple[Any, ...], ...]):
    """A column of tuples that are known to be all of one length."""

    __slots__ = ()


def unpack_rows(values: dict[str, Any]) -> Rows:
    """Return the tuples of a column that ``pack_rows`` encoded; raises ``ValueError``."""
    components = values.get(_COMPONENTS)
    if len(values) != 1 or type(components) is not tuple or set(map(type, components)) != {tuple}:
        raise ValueError("a column of values is malformed")
    return Rows(zip(*components, strict=True))


# ---------------------------------------------------------------------- distances


def as_distances(column: Sequence[int], largest: int) -> Distances[int]:
    """Return plain distances, none below 0 and none above ``largest``, as an array.

    Raises ``OverflowError`` where they are not within those bounds.
    """
    if largest < 1 << 8:
        return array("B", column)
    if largest < 1 << 16:
        return array("H", column)
    return array(_CODES[4] if largest < 1 << 32 else _CODES[8], column)


def as_column(column: list[Any]) -> Any:
    """Return a column of superseded dots as it is kept: ``None``, distances, or itself.

    An item is 0, the distance to a dot of the writer's own, or a tuple of dots.
    """
    if not any(column):
        return None
    if len(column) < COLUMN_FROM or set(map(type, column)) != {int}:
        return column
    return as_distances(column, max(column))


def distance_bytes(distances: Distances[int]) -> bytes:
    """Return distances as they are on the wire: all of one width, little-endian."""
    if _BIG_ENDIAN:
        distances = distances[:]
        distances.byteswap()
    return distances.tobytes()


def lead_before(distances: Distances[int], sequence: int) -> bool:
    """Tell whether any distance leads before sequence 1, the first delta's being given."""
    # The later the delta, the further back its first dot.
    return max(distances) >= sequence and max(map(sub, distances, count())) >= sequence


def distances_of(data: bytes, length: int) -> Distances[int]:
    """Return ``length`` distances from their bytes; raises ``ValueError`` for another number."""
    code = _CODES.get(len(data) // length)
    if code is None or len(data) % length:
        raise ValueError("a column of distances is malformed")
    distances = array(code, data)
    if _BIG_ENDIAN:
        distances.byteswap()
    return distances
