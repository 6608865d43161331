"""The plainest seal of a stream that satisfies ``FrameSeal``: a greeting, then lengths.

The transports' suite runs over it, so that what fails there is the transport's fault.
"""

from __future__ import annotations

from gossip.errors import AuthenticationFailed, Malformed, TooLarge

__all__ = ["PlainFrames"]

_HELLO = b"frames please..."
_LIMIT = 4 * 1024 * 1024


class PlainFrames:
    """Length-prefixed frames after a fixed greeting."""

    def __init__(self, opener: bool) -> None:
        self.opener = opener
        self.ready = False
        self._buffer = bytearray()

    def hello(self) -> bytes:
        return _HELLO

    def receive(self, data: bytes) -> list[bytes]:
        self._buffer += data
        if not self.ready:
            if not _HELLO.startswith(bytes(self._buffer[: len(_HELLO)])):
                raise AuthenticationFailed("that is no greeting")
            if len(self._buffer) < len(_HELLO):
                return []
            del self._buffer[: len(_HELLO)]
            self.ready = True
        frames = []
        while len(self._buffer) >= 4:
            size = int.from_bytes(self._buffer[:4], "big")
            if size > _LIMIT:
                raise Malformed("a frame is too long")
            if len(self._buffer) < 4 + size:
                break
            frames.append(bytes(self._buffer[4 : 4 + size]))
            del self._buffer[: 4 + size]
        return frames

    def seal(self, frame: bytes) -> bytes:
        if len(frame) > _LIMIT:
            raise TooLarge("a frame is too long")
        return len(frame).to_bytes(4, "big") + frame
