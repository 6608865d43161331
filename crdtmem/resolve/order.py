"""One total order over all values, the same on every machine.

Problem: ``maximum`` of a text and a list, the order in which a set is listed, a
tie between ``1`` and ``1.0``: wherever values of any type are compared, every
replica must come to the same answer, and Python refuses to compare most of
them.

Idea: types come first, in a stated order: None, bools, numbers, text, bytes,
lists, maps. Within a type: ``False`` before ``True``; numbers by exact value
(an integer before the float that equals it, negative zero before zero, NaN
before all); text by code point; bytes bytewise; lists item by item, a prefix
first; maps as the lists of their sorted ``(name, value)`` pairs.

Invariants: two values have equal keys iff they have equal canonical encodings;
keys of any two frozen values can be compared.
"""

from __future__ import annotations

import math
from typing import Any

__all__ = ["order_key"]

_NONE, _BOOL, _NUMBER, _TEXT, _BYTES, _LIST, _MAP = range(7)


def order_key(value: Any) -> tuple[Any, ...]:
    """Return a key that sorts frozen (or thawed) values in the stated order."""
    kind = type(value)
    if kind is str:
        return (_TEXT, value)
    if kind is int:
        return (_NUMBER, 1, value, 0)
    if kind is float:
        if math.isnan(value):
            return (_NUMBER, 0)
        return (_NUMBER, 1, value, 1 if math.copysign(1.0, value) > 0 or value else -1)
    if kind is bool:
        return (_BOOL, value)
    if value is None:
        return (_NONE,)
    if kind is bytes:
        return (_BYTES, value)
    if kind is tuple or kind is list:
        return (_LIST, tuple([order_key(item) for item in value]))
    if kind is dict:
        pairs = [(name, order_key(value[name])) for name in sorted(value)]
        return (_MAP, tuple(pairs))
    raise TypeError(f"a value of type {kind.__name__} has no place in the order")
