"""How large the message is that a WebSocket is receiving, told from its frames' heads.

Problem: a library hands a message over when it is whole. Until then it lies in memory, up to
the largest message there may be, and nobody weighs it: a few hundred clients that send all
but the last byte hold gigabytes.

Idea: a frame tells its length in its head, before anything else of it. ``MessageMeter`` sees
the same bytes as the library and reads nothing but heads, so that room can be asked for
before a message is received, as on the Unix socket. One in pieces does not tell how many
there will be: beyond a small size it is taken for the largest.

Invariants: bytes may be cut anywhere; nothing of a payload is kept; what breaks the rules is
the library's to refuse, and measures nothing.

Source: RFC 6455, section 5.2.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from crdtmem.admission import SMALL_BYTES

__all__ = ["MessageMeter", "MeteredParser", "Parser"]

_LEAST_HEAD: Final = 2
_MASK_BYTES: Final = 4
_LENGTH_BYTES: Final = {126: 2, 127: 8}
_MOST_HEAD: Final = 14
_LAST: Final = 0x80
_CONTROL: Final = 0x08
_MASKED: Final = 0x80
_LENGTH: Final = 0x7F


class MessageMeter:
    """Follows the frames of one direction. ``most_bytes`` is the largest message there may be."""

    __slots__ = ("_head", "_is_last", "_left", "_most_bytes", "_said", "awaited_bytes")

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._head = b""
        # Of the frame that is being received: what is to come, and whether a message ends there.
        self._left = 0
        self._is_last = False
        # The lengths of this message's frames so far, the one that is being received included.
        self._said = 0
        self.awaited_bytes = 0
        """How large the message that is not whole yet may become; 0 where there is none."""

    def feed(self, data: bytes) -> None:
        """Follow the bytes that have come."""
        position, end = 0, len(data)
        while position < end:
            if self._left:
                step = min(self._left, end - position)
                self._left -= step
                position += step
            else:
                kept = len(self._head)
                head = self._head + data[position : position + _MOST_HEAD - kept]
                size = _size_of_head(head)
                if len(head) < size:
                    self._head = head
                    return
                self._head = b""
                position += size - kept
                self._begin(head, size)
            if not self._left and self._is_last:
                self._is_last = False
                self._said = self.awaited_bytes = 0

    def _begin(self, head: bytes, size: int) -> None:
        first, length = head[0], head[1] & _LENGTH
        if length in _LENGTH_BYTES:
            length = int.from_bytes(head[2 : 2 + _LENGTH_BYTES[length]])
        self._left = length
        if first & _CONTROL:
            # It may come between the pieces of a message, and ends none.
            return
        self._said += length
        self._is_last = bool(first & _LAST)
        in_pieces = not self._is_last and self._said > SMALL_BYTES
        self.awaited_bytes = min(self._most_bytes if in_pieces else self._said, self._most_bytes)


def _size_of_head(head: bytes) -> int:
    """Return how long a frame's head is, as far as its first bytes tell."""
    if len(head) < _LEAST_HEAD:
        return _LEAST_HEAD
    masked = _MASK_BYTES if head[1] & _MASKED else 0
    return _LEAST_HEAD + _LENGTH_BYTES.get(head[1] & _LENGTH, 0) + masked


class Parser(Protocol):
    """What a library reads a WebSocket with."""

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        """Take in bytes; tells whether the stream has ended, and what is left over."""

    def feed_eof(self) -> None:
        """Note that nothing more will come."""


class MeteredParser:
    """A parser whose bytes are measured; ``on_data`` is called after each of them."""

    __slots__ = ("_meter", "_on_data", "_parser")

    def __init__(self, parser: Parser, meter: MessageMeter, on_data: Callable[[], None]) -> None:
        self._parser = parser
        self._meter = meter
        self._on_data = on_data

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        """Take in bytes, and measure them unless they were refused."""
        result = self._parser.feed_data(data)
        if result[0]:
            self._meter.awaited_bytes = 0
        else:
            self._meter.feed(data)
            self._on_data()
        return result

    def feed_eof(self) -> None:
        """Note that nothing more will come."""
        self._parser.feed_eof()
