"""Frames of the control socket: a length, then one MessagePack value; checked before trusted.

Problem: a client may be hostile, broken or not a client at all. Whatever it
sends, the node must neither crash nor reserve memory on its word.

Idea: a frame is a big-endian u32 length and that many bytes of MessagePack. A
frame holds a *batch* of messages, so that a pipelining client pays for framing
and decoding once per turn of its event loop. A message is ``[id, kind, body]``:
for requests the kind is a verb (text), for answers one of ``RESULT``, ``ERROR``
and ``EVENT`` (more follow). Dots are wider than MessagePack's integers, so
integers beyond 64 bits travel as extension 1. A WebSocket's binary messages are
payloads of frames: they have a length already.

The first message of a connection is ``[id, "hello", [MAGIC, version]]``: bytes
of another protocol are refused at their first length already, because
text reads as a length of over a gigabyte.

Invariants: a length over the limit is refused before anything is kept; what is
buffered never exceeds one frame and one read; decoding raises ``MalformedFrame``
or ``FrameTooLarge`` and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from struct import Struct
from typing import Any, Final

import msgpack

from crdtmem.errors import FrameTooLarge, InvalidValue, MalformedFrame

__all__ = [
    "ANSWER_BYTES",
    "CONTROL_VERSION",
    "ERROR",
    "EVENT",
    "MAGIC",
    "MESSAGES_PER_FRAME",
    "RESULT",
    "FrameDecoder",
    "decode_body",
    "decode_messages",
    "encode_body",
    "frame",
    "frame_of_messages",
    "payload_of_messages",
    "wide",
]

MAGIC: Final = "crdtmem-control"
CONTROL_VERSION: Final = 1

RESULT: Final = 0
ERROR: Final = 1
EVENT: Final = 2

MESSAGES_PER_FRAME: Final = 10_000
"""Most messages that one frame may hold."""

ANSWER_BYTES: Final = 64 * 1024 * 1024
"""Largest frame that a client accepts from its node: one answer may hold a whole document."""

_LENGTH_BYTES: Final = 4
_ID_LIMIT: Final = 1 << 63
_length_at: Final = Struct(">I").unpack_from
_PACKER: Final = msgpack.Packer()
_WIDE: Final = 1
_WIDE_BYTES: Final = 17


def wide(number: int) -> msgpack.ExtType:
    """Return an integer in the form of those of more than 64 bits: who has one, saves a search."""
    return msgpack.ExtType(_WIDE, number.to_bytes(_WIDE_BYTES, "big", signed=True))


def _encode_other(value: object) -> msgpack.ExtType:
    """Encode what MessagePack does not know: integers of more than 64 bits."""
    if type(value) is int:
        return wide(value)
    raise TypeError(f"a {type(value).__name__} cannot cross the control socket")


def _decode_other(code: int, data: bytes) -> int:
    if code != _WIDE or len(data) != _WIDE_BYTES:
        raise ValueError(f"extension type {code} of {len(data)} bytes is not part of the protocol")
    return int.from_bytes(data, "big", signed=True)


def encode_body(body: object) -> bytes:
    """Encode one value; raises ``InvalidValue`` for what cannot cross the socket."""
    try:
        packed: bytes = _PACKER.pack(body)
    except (TypeError, ValueError, OverflowError, RecursionError):
        return _encode_carefully(body)
    return packed


def _encode_carefully(body: object) -> bytes:
    """Encode what may hold integers of more than 64 bits, or what cannot be encoded at all."""
    try:
        packed: bytes = msgpack.packb(body, default=_encode_other)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise InvalidValue(
            f"cannot send: {error}",
            hint="values are None, bool, int, float, valid text, bytes, lists and dicts",
        ) from error
    return packed


def decode_body(data: bytes | memoryview) -> Any:
    """Decode one value from outside, arrays as tuples; raises ``MalformedFrame``."""
    try:
        # A timestamp, which the library decodes by itself, comes as what no value may be.
        return msgpack.unpackb(data, use_list=False, ext_hook=_decode_other, timestamp=3)
    except (
        ValueError,
        TypeError,
        msgpack.UnpackException,
        RecursionError,
        OverflowError,
        MemoryError,
    ) as error:
        raise MalformedFrame(
            f"bytes that do not decode: {error or type(error).__name__}",
            hint="is this client of the same version as the node?",
        ) from error


def decode_messages(payload: bytes) -> tuple[tuple[int, Any, Any], ...]:
    """Decode a frame's payload into its messages; raises ``MalformedFrame``."""
    batch = decode_body(payload)
    if type(batch) is not tuple or not 0 < len(batch) <= MESSAGES_PER_FRAME:
        raise MalformedFrame(
            f"a frame holds 1 to {MESSAGES_PER_FRAME} messages in an array",
            hint="is this a client of crdtmem?",
        )
    for message in batch:
        if type(message) is tuple and len(message) == 3:
            number = message[0]
            if type(number) is int and 0 <= number < _ID_LIMIT:
                continue
        raise MalformedFrame(
            "a message is an array of id, kind and body", hint="is this a client of crdtmem?"
        )
    return batch


def frame(payload: bytes) -> bytes:
    """Return an encoded value with its length before it."""
    return len(payload).to_bytes(_LENGTH_BYTES, "big") + payload


def payload_of_messages(messages: Sequence[bytes]) -> bytes:
    """Return the payload of one frame that holds several already encoded messages."""
    count = len(messages)
    head = bytes((0x90 | count,)) if count < 16 else b"\xdc" + count.to_bytes(2, "big")
    return b"".join((head, *messages))


def frame_of_messages(messages: Iterable[bytes]) -> bytes:
    """Return one frame that holds several already encoded messages."""
    return frame(payload_of_messages(list(messages)))


class FrameDecoder:
    """Turns a stream of bytes into frames, each a batch of messages.

    ``limit_bytes`` bounds one frame. Bytes are fed as they come; whoever is full
    stops asking for the next frame, and feeds no more.
    """

    __slots__ = ("_buffer", "_limit_bytes", "_position")

    def __init__(self, limit_bytes: int) -> None:
        # What was read last, as it came, while frames end where reads do; else gathered bytes.
        self._buffer: bytes | bytearray = b""
        self._position = 0
        self._limit_bytes = limit_bytes

    @property
    def buffered_bytes(self) -> int:
        """Bytes that are kept and not yet decoded."""
        return len(self._buffer) - self._position

    @property
    def awaited_bytes(self) -> int:
        """The length of the frame that has begun to arrive and is not whole yet; else 0."""
        start = self._position + _LENGTH_BYTES
        if len(self._buffer) < start:
            return 0
        (length,) = _length_at(self._buffer, self._position)
        return int(length) if len(self._buffer) < start + length else 0

    def feed(self, data: bytes) -> None:
        """Add bytes that arrived."""
        if self._position == len(self._buffer):
            self._buffer = data
        else:
            if type(self._buffer) is bytearray:
                del self._buffer[: self._position]
            else:
                self._buffer = bytearray(memoryview(self._buffer)[self._position :])
            self._buffer += data
        self._position = 0

    def next_frame(self) -> tuple[int, tuple[Any, ...]] | None:
        """Return the next complete frame's size in bytes and its messages, if there is one.

        Raises ``FrameTooLarge`` or ``MalformedFrame``; the stream is then of no
        further use.
        """
        payload = self.next_payload()
        return None if payload is None else (len(payload), decode_messages(payload))

    def next_payload(self) -> bytes | None:
        """Return the next complete frame's payload, if there is one; raises ``FrameTooLarge``."""
        buffer, start = self._buffer, self._position + _LENGTH_BYTES
        size = len(buffer)
        if size < start:
            return None
        (length,) = _length_at(buffer, start - _LENGTH_BYTES)
        if length > self._limit_bytes:
            raise FrameTooLarge(
                f"a frame of {length} bytes, the limit is {self._limit_bytes}",
                hint="split the transaction; or this is not the control protocol",
            )
        end = start + length
        if size < end:
            return None
        self._position = end
        payload = buffer[start:end]
        return payload if type(payload) is bytes else bytes(payload)
