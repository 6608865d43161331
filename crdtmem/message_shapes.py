"""What every message is made of, and how its fields are checked.

Problem: each of some thirty messages needs the same dozen checks, and one that
is left out lets a peer's bytes into a state machine unchecked.

Idea: one function per shape, named after it, which returns the value if it has
that shape and raises ``ValueError`` or ``TypeError`` if not. A message's
``parse`` calls one per field, so that a field without a check stands out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, ClassVar, Final, Self

from crdtmem.causality import VersionVector
from crdtmem.entries import SEQUENCE_MASK

__all__ = [
    "Message",
    "array",
    "byte_string",
    "byte_strings",
    "check",
    "dot_range",
    "flat",
    "number",
    "pair",
    "positive",
    "sized",
    "text",
    "vector_in",
]

_TEXT_LIMIT: Final = 1_024


def check(fine: bool, what: str) -> None:
    """Raise ``ValueError`` unless it is fine; ``what`` names the thing."""
    if not fine:
        raise ValueError(f"{what} is malformed")


def number(item: Any) -> int:
    """Return an integer from 0 to 2^64 - 1."""
    check(type(item) is int and 0 <= item <= SEQUENCE_MASK, "a number")
    return item  # type: ignore[no-any-return]


def positive(item: Any) -> int:
    """Return an integer from 1 to 2^64 - 1."""
    check(number(item) > 0, "a number")
    return item  # type: ignore[no-any-return]


def text(item: Any) -> str:
    """Return a text of bounded length."""
    check(type(item) is str and len(item) <= _TEXT_LIMIT, "a text")
    return item  # type: ignore[no-any-return]


def byte_string(item: Any) -> bytes:
    """Return a byte string."""
    check(type(item) is bytes, "a byte string")
    return item  # type: ignore[no-any-return]


def sized(item: Any, size: int) -> bytes:
    """Return a byte string of exactly that size."""
    check(type(item) is bytes and len(item) == size, "a hash")
    return item  # type: ignore[no-any-return]


def array(item: Any) -> tuple[Any, ...]:
    """Return an array as the tuple that it arrives as."""
    check(type(item) is tuple, "a list")
    return item  # type: ignore[no-any-return]


def byte_strings(item: Any) -> tuple[bytes, ...]:
    """Return an array of byte strings."""
    return tuple([byte_string(part) for part in array(item)])


def vector_in(item: Any) -> VersionVector:
    """Return the vector of a flat list."""
    return VersionVector.from_flat(array(item))


def pair(item: Any) -> tuple[Any, Any]:
    """Return an array of two."""
    first, second = array(item)
    return first, second


def dot_range(item: Any) -> tuple[int, int, int]:
    """Return ``(replica, first, last)`` with 1 ≤ first ≤ last."""
    replica, first, last = array(item)
    check(positive(replica) > 0 and 0 < number(first) <= number(last), "a range")
    return replica, first, last


def flat(vector: Mapping[int, int]) -> list[int]:
    """Return the flat list of a vector."""
    return VersionVector(vector).flat()


class Message:
    """One message: its code, its fields as plain values, and the way back."""

    __slots__ = ()
    CODE: ClassVar[int]

    def body(self) -> tuple[Any, ...]:
        """Return the fields as values that MessagePack knows; by default as they are."""
        return tuple(getattr(self, item.name) for item in fields(self))  # type: ignore[arg-type]

    @classmethod
    def parse(cls, parts: tuple[Any, ...]) -> Self:
        """Check the fields and return the message; raises ``ValueError`` or ``TypeError``."""
        return cls(*parts)
