"""A control connection without the client: to send what no client would."""

from __future__ import annotations

import socket
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from crdtmem.control_frames import (
    CONTROL_VERSION,
    ERROR,
    MAGIC,
    FrameDecoder,
    encode_body,
    frame_of_messages,
)

__all__ = ["RawConnection"]


class RawConnection:
    """A socket, frames, and no manners."""

    def __init__(self, path: Path, *, greet: bool = True) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(20)
        self.socket.connect(str(path))
        self._decoder = FrameDecoder(1 << 28)
        self._messages: list[tuple[int, Any, Any]] = []
        if greet:
            self.request(0, "hello", (MAGIC, CONTROL_VERSION))
            assert self.answer()[1] != ERROR

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def request(self, number: int, verb: Any, body: Any) -> None:
        self.send(frame_of_messages([encode_body((number, verb, body))]))

    def answer(self) -> tuple[int, Any, Any]:
        """Return the next message; ``EOFError`` where the node has closed."""
        while not self._messages:
            data = self.socket.recv(1 << 16)
            if not data:
                raise EOFError
            self._decoder.feed(data)
            while (received := self._decoder.next_frame()) is not None:
                self._messages += received[1]
        return self._messages.pop(0)

    def refusal(self) -> str:
        """Return the code of the error that comes next, before which nothing else does."""
        _, kind, body = self.answer()
        assert kind == ERROR, (kind, body)
        assert len(body) == 4
        assert all(isinstance(words, str) for words in body[:3])
        assert body[2], "an error without a hint"
        return str(body[0])

    def is_closed(self) -> bool:
        """Wait for the end of the stream."""
        try:
            while True:
                self.answer()
        except (EOFError, ConnectionResetError):
            return True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.socket.close()
