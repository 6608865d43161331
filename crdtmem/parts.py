"""Long answers in parts of bounded size: by number, and by how much they hold.

Problem: a thousand small records make a good part; a thousand values of a mebibyte each
make one that no client would take, and that fills the node before it has left.

Idea: what a value holds is weighed without encoding it: text and bytes by their length, all
else by a constant. A part is closed when it holds enough of either.

Invariants: no part is empty; a part holds at most one item beyond ``PART_BYTES``; what is
in the parts, in order, is what was given.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final, TypeVar

__all__ = ["PART_BYTES", "in_parts", "weigh"]

T = TypeVar("T")

PART_BYTES: Final = 1024 * 1024
"""About how much a part may hold before it is closed."""

_SCALAR_BYTES: Final = 8


def weigh(value: Any) -> int:
    """Return about how many bytes a plain value takes when it is encoded."""
    kind = type(value)
    if kind is str or kind is bytes:
        return len(value) + _SCALAR_BYTES
    if kind is dict:
        return _SCALAR_BYTES + sum(weigh(key) + weigh(held) for key, held in value.items())
    if kind is list or kind is tuple:
        return _SCALAR_BYTES + sum(map(weigh, value))
    return _SCALAR_BYTES


def in_parts(items: Iterable[T], most: int) -> Iterator[list[T]]:
    """Yield plain values in lists of at most ``most``, and of about ``PART_BYTES``."""
    part: list[T] = []
    held = 0
    for item in items:
        part.append(item)
        held += weigh(item)
        if len(part) >= most or held >= PART_BYTES:
            yield part
            part, held = [], 0
    if part:
        yield part
