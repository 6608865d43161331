"""What is sent to a node to load it: requests of every kind, encoded beforehand.

Keys and values are as long as redis-benchmark's, and as many; each kind of request visits all
keys, scattered. All requests have the same id, so that equal answers have equal lengths.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from crdtmem.control_frames import CONTROL_VERSION, MAGIC, encode_body, frame_of_messages
from crdtmem.handles import WriteOptions
from crdtmem.limits import DEFAULT_LIMITS
from crdtmem.operations import encode_transaction, encode_write_options
from crdtmem.read_side import REGISTER
from crdtmem.transaction import Transaction
from tests.bench.service_load import Load
from tests.bench.service_peers import Service

__all__ = ["BATCH", "SPACE", "VALUE", "Loads", "key_of"]

BATCH: Final = 32
"""Operations of one batch, and redis-benchmark's pipeline beside it."""

SPACE: Final = ("bench",)
_HTTP_KEYS: Final = 2_000


def key_of(number: int) -> str:
    """Return a key as long as redis-benchmark's."""
    return f"key:{number:012d}"


VALUE: Final = "xxx"
_HELLO: Final = encode_body((1, "hello", (MAGIC, CONTROL_VERSION)))


def _gets(keys: int, each: int) -> list[bytes]:
    """Return messages that read all keys, so many each, scattered."""
    order = [(number * 7_919) % keys for number in range(keys)]
    return [
        encode_body((1, "get", (SPACE, [key_of(n) for n in order[at : at + each]])))
        for at in range(0, keys - each + 1, each)
    ]


def _commits(keys: int, each: int) -> list[bytes]:
    """Return messages that write all keys, so many each, scattered."""
    order = [(number * 7_919) % keys for number in range(keys)]
    options = encode_write_options(WriteOptions())
    messages = []
    for at in range(0, keys - each + 1, each):
        transaction = Transaction()
        for number in order[at : at + each]:
            transaction.put(SPACE, REGISTER, key_of(number), VALUE)
        sealed = encode_transaction(transaction.seal(DEFAULT_LIMITS))
        messages.append(encode_body((1, "commit", (options, sealed))))
    return messages


def _websocket_frame(payload: bytes) -> bytes:
    """Return a client's frame, under the mask that changes nothing."""
    size = len(payload)
    if size < 126:
        head = bytes((0x82, 0x80 | size))
    else:
        head = b"\x82\xfe" + size.to_bytes(2, "big")
    return head + bytes(4) + payload


def _upgrade(address: str) -> bytes:
    lines = (
        "GET /v1/socket HTTP/1.1",
        f"Host: {address}",
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
    )
    return "\r\n".join([*lines, "", ""]).encode()


def _http(address: str, method: str, number: int) -> bytes:
    body = b'{"value":"xxx"}' if method == "PUT" else b""
    lines = [f"{method} /v1/spaces/bench/register/{key_of(number)} HTTP/1.1", f"Host: {address}"]
    if body:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, "", ""]).encode() + body


class Loads:
    """The loads, for one node."""

    def __init__(self, node: Service, *, keys: int, seconds: float) -> None:
        self._node = node
        self._keys = keys
        self._seconds = seconds

    def _control(self, messages: list[bytes], operations: int, clients: int, size: int) -> Load:
        return Load(
            protocol="control",
            address=self._node.address,
            greeting=frame_of_messages([_HELLO]),
            requests=[frame_of_messages([message]) for message in messages],
            operations=operations,
            messages=1,
            clients=clients,
            seconds=self._seconds,
            begins=b"\x93\x01\x00",
            message_bytes=size,
        )

    def reads(self, clients: int) -> Load:
        """Batches of ``BATCH`` keys."""
        answer = len(encode_body((1, 0, [VALUE] * BATCH)))
        return self._control(_gets(self._keys, BATCH), BATCH, clients, answer)

    def writes(self, clients: int) -> Load:
        """Transactions of ``BATCH`` plain writes."""
        return self._control(_commits(self._keys, BATCH), BATCH, clients, 0)

    def single_reads(self, clients: int) -> Load:
        """One key, one frame, one in flight."""
        answer = len(encode_body((1, 0, [VALUE])))
        return self._control(_gets(self._keys, 1), 1, clients, answer)

    def single_writes(self, clients: int) -> Load:
        """One write, one frame, one in flight."""
        return self._control(_commits(self._keys, 1), 1, clients, 0)

    def frames_of_one(self, clients: int) -> Load:
        """``BATCH`` frames of one read each, in flight together."""
        load = self.single_reads(clients)
        frames = load.requests
        joined = [
            b"".join(frames[at : at + BATCH]) for at in range(0, len(frames) - BATCH + 1, BATCH)
        ]
        return replace(load, requests=joined, operations=BATCH, messages=BATCH)

    def websocket_reads(self, clients: int) -> Load:
        """Batches of ``BATCH`` keys, over a WebSocket."""
        load, address = self.reads(clients), self._node.http
        return replace(
            load,
            protocol="websocket",
            address=address,
            upgrade=_upgrade(address),
            greeting=_websocket_frame(load.greeting[4:]),
            requests=[_websocket_frame(request[4:]) for request in load.requests],
        )

    def http(self, method: str, clients: int) -> Load:
        """One read or write per request."""
        address = self._node.http
        return Load(
            protocol="http",
            address=address,
            greeting=b"",
            requests=[_http(address, method, number) for number in range(_HTTP_KEYS)],
            operations=1,
            messages=1,
            clients=clients,
            seconds=self._seconds,
            begins=b"HTTP/1.1 200 ",
        )
