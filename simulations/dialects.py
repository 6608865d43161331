"""Version 2 of the protocol, as the next program would speak it, to meet version 1 with.

Problem: that two versions can live together in a cluster that is being upgraded can be
tested today only if there is a second version; and one that merely calls itself 2 proves
nothing: it must have something that version 1 cannot parse.

Idea: a machine of the next version runs today's engine behind an interpreter. Its hello
names versions 1 to 2, with a field more; once the peer's hello has shown that it speaks 2
too, batches travel in a frame of another code and another shape: compressed, with the
lengths apart. To everybody else it speaks version 1. A machine may also have dropped
version 1 altogether (``lowest`` 2): it can then talk to none that has not been upgraded.

Invariants: what the engine behind it sees are frames of version 1, whole and in order;
bytes that are harmed are passed on as they are, for the engine to judge; no frame of
version 2 is sent before the peer has said that it can read one.
"""

from __future__ import annotations

import zlib
from struct import Struct
from typing import Any, Final
from zlib import crc32

from crdtmem.codec import pack, unpack
from crdtmem.errors import MalformedFrame
from crdtmem.messages import Batches, Hello

__all__ = ["PACKED_CODE", "Interpreter"]

PACKED_CODE: Final = 48
"""The code of packed batches: unknown to version 1, and below the optional ones."""

_HEADER: Final = Struct(">II")
_VERSIONS_AT: Final = 2
"""Where a hello's payload names its versions: after the code and the magic word."""

_UNPACKED_BYTES: Final = 1 << 26
_FRAME_BYTES: Final = 1 << 26


def _frame(body: tuple[Any, ...]) -> bytes:
    payload = pack(body)
    return _HEADER.pack(len(payload), crc32(payload)) + payload


class Interpreter:
    """Stands between one engine of today and one stream, and speaks version 2 where it may."""

    def __init__(self, lowest: int = 1) -> None:
        self.lowest = lowest
        self._theirs = 0
        self.packed_out = 0
        self.packed_in = 0
        self._buffer = b""
        self._broken = False

    @property
    def agreed(self) -> int:
        """The version that both ends speak, 0 while the peer has said nothing."""
        return min(2, self._theirs)

    def outgoing(self, frame: bytes) -> bytes:
        """Translate one frame of the engine."""
        code, *rest = body = unpack(frame[_HEADER.size :])
        if code == Hello.CODE:
            named = list(body)
            named[_VERSIONS_AT] = (self.lowest, 2)
            return _frame((*named, "packed"))
        if code == Batches.CODE and self.agreed >= 2:
            self.packed_out += 1
            batches = rest[0]
            lengths = [len(batch) for batch in batches]
            return _frame((PACKED_CODE, lengths, zlib.compress(b"".join(batches), 1)))
        return frame

    def incoming(self, data: bytes) -> bytes:
        """Translate what came, as far as it makes whole frames."""
        if self._broken:
            return data
        buffer, found = self._buffer + data, b""
        while len(buffer) >= _HEADER.size:
            length, checksum = _HEADER.unpack_from(buffer)
            end = _HEADER.size + length
            if length > _FRAME_BYTES:
                break
            if len(buffer) < end:
                self._buffer = buffer
                return found
            frame, payload = buffer[:end], buffer[_HEADER.size : end]
            if crc32(payload) != checksum:
                break
            buffer = buffer[end:]
            found += self._translated(frame, payload)
        else:
            self._buffer = buffer
            return found
        # Harmed: the engine behind says so in its own words, and ends the stream.
        self._broken = True
        return found + buffer

    def _translated(self, frame: bytes, payload: bytes) -> bytes:
        try:
            body = unpack(payload)
            code = body[0]
            if code == Hello.CODE:
                self._theirs = body[_VERSIONS_AT][1]
                if self.lowest > self._theirs:
                    # Nothing in common: today's engine finds that out if it is named to it.
                    named = list(body)
                    named[_VERSIONS_AT] = (3, 3)
                    return _frame(tuple(named))
            elif code == PACKED_CODE:
                self.packed_in += 1
                return _frame((Batches.CODE, _unpacked(*body[1:])))
        except (MalformedFrame, ValueError, TypeError, IndexError, zlib.error):
            # Not what it claims to be: for the engine to judge.
            return frame
        return frame


def _unpacked(lengths: Any, compressed: bytes) -> list[bytes]:
    """Return the batches of a packed frame. Raises ``ValueError`` and ``zlib.error``."""
    unpacker = zlib.decompressobj()
    joined = unpacker.decompress(compressed, _UNPACKED_BYTES)
    if unpacker.unconsumed_tail or sum(lengths) != len(joined):
        raise ValueError("the lengths of packed batches")
    found: list[bytes] = []
    at = 0
    for length in lengths:
        found.append(joined[at : at + length])
        at += length
    return found
