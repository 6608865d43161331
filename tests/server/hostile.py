"""A connection without manners to a node over HTTP, and the bytes that hostile tests send."""

from __future__ import annotations

import contextlib
import json
import socket
from typing import Any, Final, Self

import psutil

from tests.node.processes import NodeProcess

RECEIVE_MS: Final = 1_500
CONNECTIONS: Final = 60
LIMIT_S: Final = 30.0
GROWTH_BYTES: Final = 64 << 20
MIB: Final = 1 << 20

HOST: Final = b"Host: localhost\r\n"
JSON: Final = b"Content-Type: application/json\r\n"
CHUNKED: Final = b"Transfer-Encoding: chunked\r\n"
CITY: Final = b"/v1/spaces/team/register/city"
BODY: Final = b'{"value":1}'
END: Final = b"0\r\n\r\n"


def get(path: bytes = CITY, more: bytes = b"") -> bytes:
    return b"GET " + path + b" HTTP/1.1\r\n" + HOST + more + b"\r\n"


def put(head: bytes, body: bytes = BODY, path: bytes = CITY) -> bytes:
    return b"PUT " + path + b" HTTP/1.1\r\n" + HOST + JSON + head + b"\r\n" + body


def length(body: bytes) -> bytes:
    return b"Content-Length: %d\r\n" % len(body)


SMUGGLED: Final = put(length(BODY), path=b"/v1/spaces/team/register/smuggled")
"""A request that stands where no request may be found."""


class Wire:
    """A connection to a node, bytes, and no manners."""

    def __init__(self, node: NodeProcess) -> None:
        port = int(node.ready["http"].rpartition(":")[2])
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=LIMIT_S)
        self._read = bytearray()

    def send(self, *pieces: bytes) -> bool:
        """Send bytes; tells whether the node was there to take them."""
        try:
            for piece in pieces:
                self.socket.sendall(piece)
        except (BrokenPipeError, ConnectionResetError):
            return False
        return True

    def answer(self) -> tuple[int, Any]:
        """Read one answer; ``EOFError`` where the node has closed."""
        head, _, _ = self.until(b"\r\n\r\n").partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines)
        length = int(headers.get("content-length", "0"))
        while len(self._read) < length:
            self._more()
        body = bytes(self._read[:length])
        del self._read[:length]
        status = int(first.split()[1])
        value: Any = json.loads(body) if body else None
        if status >= 400:
            assert headers["content-type"] == "application/problem+json", headers
            assert value["status"] == status
            assert value["detail"]
        return status, value

    def refusal(self) -> tuple[int, str]:
        """Read the status and the code of the problem that comes."""
        status, value = self.answer()
        assert status >= 400, value
        return status, value["code"]

    def exactly(self, count: int) -> bytes:
        """Read as many bytes; ``EOFError`` where the node has closed."""
        while len(self._read) < count:
            self._more()
        data = bytes(self._read[:count])
        del self._read[:count]
        return data

    def is_closed(self) -> bool:
        """Read until the node closes."""
        with contextlib.suppress(ConnectionResetError):
            while self.socket.recv(1 << 16):
                pass
        return True

    def until(self, mark: bytes) -> bytes:
        """Read up to and with a mark."""
        while mark not in self._read:
            self._more()
        data, found, rest = bytes(self._read).partition(mark)
        self._read = bytearray(rest)
        return data + found

    def _more(self) -> None:
        data = self.socket.recv(1 << 16)
        if not data:
            raise EOFError
        self._read += data

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()


def clients_of(process: psutil.Process) -> list[Any]:
    return [one for one in process.net_connections("tcp") if one.status != "LISTEN"]


def value_of(node: NodeProcess, key: bytes) -> Any:
    with Wire(node) as wire:
        wire.send(get(b"/v1/spaces/team/register/" + key))
        status, value = wire.answer()
        assert status == 200
        return value["value"]


def serves(node: NodeProcess) -> None:
    """Fail unless the node serves somebody else."""
    assert value_of(node, b"smuggled") is None


def refused(node: NodeProcess, sent: bytes) -> tuple[int, str]:
    with Wire(node) as wire:
        wire.send(sent)
        return wire.refusal()
