"""The shapes of values on the wire: each check takes what was decoded and returns it typed.

Problem: what comes from the network has any type and any size.

Idea: one small function per shape, used by every decoder, so that no decoder has its own
idea of what an address or a number is.

Invariants: a check either returns its value unchanged or raises ``Malformed``; ``bool`` is
never an integer; text is printable, so that it can be shown to an operator as it is; bounds
on text are in encoded bytes.
"""

from __future__ import annotations

from math import isfinite
from typing import Final

from gossip.errors import Malformed

__all__ = [
    "ADDRESS_BYTES",
    "COUNT_MAXIMUM",
    "NAME_BYTES",
    "REGION_BYTES",
    "UINT32",
    "UINT64",
    "address",
    "integer",
    "items",
    "number",
    "octets",
    "text",
]

UINT32: Final = (1 << 32) - 1
UINT64: Final = (1 << 64) - 1
COUNT_MAXIMUM: Final = (1 << 48) - 1
"""The highest generation, incarnation or number: out of reach by honest counting, and one more
than it still fits everywhere."""
ADDRESS_BYTES: Final = 261
"""A name of 255 bytes, a colon, five digits."""
REGION_BYTES: Final = 64
NAME_BYTES: Final = 128


def integer(value: object, most: int, least: int = 0) -> int:
    """Return an integer within ``least`` to ``most``. Raises ``Malformed``."""
    if type(value) is not int or not least <= value <= most:
        raise Malformed("a number is missing or out of its range")
    return value


def number(value: object) -> float:
    """Return a float that is finite. Raises ``Malformed``."""
    if type(value) is not float or not isfinite(value):
        raise Malformed("a coordinate is not a finite number")
    return value


def octets(value: object, most: int) -> bytes:
    """Return at most ``most`` bytes. Raises ``Malformed``."""
    if type(value) is not bytes or len(value) > most:
        raise Malformed("bytes are missing or too many")
    return value


def text(value: object, most_bytes: int, *, empty: bool = True) -> str:
    """Return printable text of at most ``most_bytes`` in UTF-8. Raises ``Malformed``."""
    if type(value) is not str or not (value or empty) or not value.isprintable():
        raise Malformed("text is missing or not printable")
    if len(value) > most_bytes or (not value.isascii() and len(value.encode()) > most_bytes):
        raise Malformed("text is too long")
    return value


def address(value: object, *, empty: bool = False) -> str:
    """Return a ``host:port``; empty only where ``empty`` allows it. Raises ``Malformed``."""
    place = text(value, ADDRESS_BYTES, empty=empty)
    if not place:
        return place
    host, _, port = place.rpartition(":")
    digits = port.isascii() and port.isdigit() and port[0] != "0"
    bare = ":" in host and not (host.startswith("[") and host.endswith("]"))
    if not host or bare or " " in host or not digits or len(port) > 5 or int(port) > 65_535:
        raise Malformed("an address is not host:port")
    return place


def items(value: object, most: int, least: int = 0) -> tuple[object, ...]:
    """Return a sequence of ``least`` to ``most`` items. Raises ``Malformed``."""
    if type(value) is not tuple or not least <= len(value) <= most:
        raise Malformed("a sequence is missing, or has too many or too few items")
    return value
