"""Frames: messages on a byte stream, checked before they are trusted.

Problem: a stream delivers bytes in arbitrary pieces, from a peer that may be
broken; a length field must not be able to claim memory, and a flipped bit must
not become a different message.

Idea: ``frame = length (u32) · crc32 of the payload (u32) · payload``, numbers
big-endian, and ``payload = MessagePack [code, field, …]``. A reader keeps at
most one unfinished frame, and refuses a length over its limit when it sees the
length, before it holds any of the payload.

Invariants: ``feed`` yields whole, checked messages in stream order, or raises
``FrameTooLarge`` or ``MalformedFrame``, after which the reader is spent; it
never holds more than one frame of the limit and what was fed last.
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct
from typing import Any, Final
from zlib import crc32

from crdtmem import messages, transfer_messages
from crdtmem.codec import pack, unpack
from crdtmem.errors import FrameTooLarge, MalformedFrame
from crdtmem.message_shapes import Message

__all__ = ["HEADER_BYTES", "MESSAGES", "FrameReader", "decode_payload", "encode_frame"]

_HEADER: Final = Struct(">II")
HEADER_BYTES: Final = _HEADER.size

_KINDS: Final = [
    getattr(module, name)
    for module in (messages, transfer_messages)
    for name in module.__all__
    if isinstance(getattr(module, name), type)
]

MESSAGES: Final[dict[int, type[Message]]] = {kind.CODE: kind for kind in _KINDS}
"""Every message by its code; a code is never given to another message."""

assert len(MESSAGES) == len(_KINDS), "two messages share a code"


def encode_frame(message: Message) -> bytes:
    """Return the message as one frame."""
    payload = pack((message.CODE, *message.body()))
    return _HEADER.pack(len(payload), crc32(payload)) + payload


def decode_payload(payload: bytes) -> Message | None:
    """Return the message of a payload, ``None`` for an optional one of a later version.

    Raises ``MalformedFrame``.
    """
    body: Any = unpack(payload)
    if type(body) is not tuple or not body or type(body[0]) is not int:
        raise MalformedFrame("a payload that is no message")
    code = body[0]
    kind = MESSAGES.get(code)
    if kind is None:
        if code >= messages.OPTIONAL_FROM:
            return None
        raise MalformedFrame(
            f"a message of the unknown type {code}", hint="upgrade the older of the two nodes"
        )
    try:
        return kind.parse(body[1:])
    except (TypeError, ValueError, IndexError) as error:
        raise MalformedFrame(f"a {kind.__name__} message with the wrong shape: {error}") from error


class FrameReader:
    """Turns pieces of a stream into messages."""

    __slots__ = ("_buffer", "_failed", "limit_bytes")

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self._buffer = bytearray()
        self._failed = False

    def __len__(self) -> int:
        """The bytes held of an unfinished frame."""
        return len(self._buffer)

    def feed(self, data: bytes) -> Iterator[Message]:
        """Take the next piece and yield the messages that it completes.

        Raises ``FrameTooLarge`` or ``MalformedFrame``; after that nothing more is taken.
        """
        if self._failed:
            raise MalformedFrame("the stream was malformed before")
        # Most pieces are whole frames, and are read where they lie.
        buffer: bytes | bytearray = data
        if self._buffer:
            self._buffer += data
            buffer = self._buffer
        start, size = 0, len(buffer)
        try:
            while size - start >= HEADER_BYTES:
                length, checksum = _HEADER.unpack_from(buffer, start)
                if length > self.limit_bytes:
                    raise FrameTooLarge(
                        f"a frame of {length} bytes, the limit is {self.limit_bytes}",
                        hint="every node of a cluster needs the same limits.frame_bytes",
                    )
                end = start + HEADER_BYTES + length
                if size < end:
                    break
                payload = bytes(memoryview(buffer)[start + HEADER_BYTES : end])
                if crc32(payload) != checksum:
                    raise MalformedFrame("a frame whose checksum does not match")
                start = end
                message = decode_payload(payload)
                if message is not None:
                    yield message
        except (FrameTooLarge, MalformedFrame):
            self._failed = True
            start = size
            raise
        finally:
            if buffer is self._buffer:
                del self._buffer[:start]
            elif start < size:
                self._buffer += data[start:]
