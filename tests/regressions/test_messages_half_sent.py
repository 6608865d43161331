"""Messages over a WebSocket that were sent but for their end were weighed by nobody.

What came was kept until it was whole, for as long as the client liked. Sixty connections of
eight megabytes each held half a gigabyte, and three times as many were let in.
"""

from __future__ import annotations

import asyncio
import random
import socket
from pathlib import Path

import pytest

from crdtmem.admission import SMALL_BYTES
from crdtmem.control_frames import CONTROL_VERSION, MAGIC, encode_body, payload_of_messages
from crdtmem.server.metering import MessageMeter
from tests.server.serving import Served, Wire, run
from tests.waiting import eventually

_MIB = 1 << 20
_UPGRADE = (
    b"GET /v1/socket HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
_BINARY = 2
_PING = 9
_ANSWER_TO_3 = b"\x93\x03"
"""How the answer to request 3 begins: an array of three, the first of which is the id."""


def _head(size: int, kind: int = _BINARY, *, last: bool = True) -> bytes:
    """Return the head of a client's frame, masked by zeros."""
    first = bytes([(0x80 if last else 0) | kind])
    if size < 126:
        return first + bytes([0x80 | size]) + bytes(4)
    if size < 1 << 16:
        return first + b"\xfe" + size.to_bytes(2) + bytes(4)
    return first + b"\xff" + size.to_bytes(8) + bytes(4)


def _frame(payload: bytes, kind: int = _BINARY, *, last: bool = True) -> bytes:
    return _head(len(payload), kind, last=last) + payload


def _hello() -> bytes:
    return payload_of_messages([encode_body((1, "hello", (MAGIC, CONTROL_VERSION)))])


def _large(number: int, size: int) -> bytes:
    """Return a request for what holds nothing, padded to a size."""
    key = "x" * size
    return payload_of_messages([encode_body((number, "get", (("team",), (key,))))])


async def _upgraded(served: Served, *first: bytes) -> Wire:
    host, port = served.base.removeprefix("http://").rsplit(":", 1)
    raw = socket.create_connection((host, int(port)))
    # What the node does not take is to be seen here, rather than vanish into the kernel.
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 64 * 1024)
    wire = Wire(*await asyncio.open_connection(sock=raw))
    wire.send(b"".join([_UPGRADE, *first]))
    await wire.reader.readuntil(b"\r\n\r\n")
    return wire


@pytest.mark.parametrize("in_pieces", [False, True])
def test_a_message_is_weighed_while_it_comes_and_has_a_deadline(
    tmp_path: Path, in_pieces: bool
) -> None:
    async def scene(served: Served) -> None:
        wire = await _upgraded(served)
        if in_pieces:
            wire.send(_frame(bytes(_MIB), last=False))
        else:
            wire.send(_head(2 * _MIB) + bytes(_MIB))
        admission = served.node.admission
        await eventually(lambda: admission.size_bytes >= 2 * _MIB, "room is held for all of it")
        assert await wire.rest() == b""
        await eventually(lambda: not admission.size_bytes, "none is held for who was cut off")
        await wire.close()

    run(tmp_path, scene, admission__receive_ms=500)


def test_many_at_once_are_not_read_beyond_what_the_node_takes_in(tmp_path: Path) -> None:
    async def scene(served: Served) -> None:
        admission = served.node.admission
        size = 6 * _MIB
        wires = [await _upgraded(served) for _ in range(24)]
        for wire in wires:
            wire.send(_head(size) + bytes(size - 1))

        def unsent(wire: Wire) -> int:
            return wire.writer.transport.get_write_buffer_size()

        await eventually(lambda: admission.waiting >= 16, "those for whom there is no room wait")
        assert 0 < admission.size_bytes <= 2 * admission.bounds.in_flight_bytes
        await eventually(lambda: sum(not unsent(wire) for wire in wires) >= 1, "some are read")
        # Each was told apart by its head: all but one read of it is still on the client's side
        # or in the kernel.
        assert sum(unsent(wire) > 0 for wire in wires) >= 16
        assert (await served.good("GET", "/v1/context"))["context"]
        for wire in wires:
            wire.writer.transport.abort()
        await eventually(lambda: not served.node.service.connections, "nobody is connected")
        assert (admission.size_bytes, admission.waiting) == (0, 0)

    run(tmp_path, scene)


def test_who_waited_for_room_is_read_and_answered_in_the_end(tmp_path: Path) -> None:
    async def scene(served: Served) -> None:
        size = 3 * _MIB
        # With the greeting in one piece with the head, and a ping before what follows.
        wires = [await _upgraded(served, _frame(_hello())) for _ in range(12)]
        for wire in wires:
            whole = _large(2, size)
            wire.send(_frame(whole[:100], last=False) + _frame(b"?", _PING))
            wire.send(_frame(whole[100:], 0) + _frame(_large(3, 10)))
        answered = 0
        for wire in wires:
            seen = b""
            while _ANSWER_TO_3 not in seen:
                seen += await wire.reader.readexactly(1)
            answered += 1
        assert answered == len(wires)
        assert served.node.admission.size_bytes == 0
        for wire in wires:
            await wire.close()

    run(tmp_path, scene)


def _cut(data: bytes, chance: random.Random) -> list[bytes]:
    """Cut bytes anywhere."""
    pieces = []
    while data:
        size = chance.choice((1, 2, 3, 9, 14, 1_000, 50_000))
        pieces.append(data[:size])
        data = data[size:]
    return pieces


@pytest.mark.parametrize("seed", range(20))
def test_a_meter_knows_however_bytes_are_cut(seed: int) -> None:
    chance = random.Random(seed)
    meter = MessageMeter(8 * _MIB)
    for _ in range(20):
        size = chance.choice((0, 1, 125, 126, 65_535, 65_536, 300_000))
        sent = _frame(bytes(10), last=False) + _frame(b"?", _PING) + _frame(bytes(size), 0)
        for piece in _cut(sent[:-1], chance):
            meter.feed(piece)
        assert meter.awaited_bytes == (10 + size if size else 10)
        meter.feed(sent[-1:])
        assert meter.awaited_bytes == 0


def test_a_meter_takes_what_is_in_pieces_for_the_largest() -> None:
    meter = MessageMeter(8 * _MIB)
    meter.feed(_frame(bytes(SMALL_BYTES), last=False))
    assert meter.awaited_bytes == SMALL_BYTES
    meter.feed(_head(1, 0, last=False))
    assert meter.awaited_bytes == 8 * _MIB
    meter.feed(b"x" + _head(5, 0) + b"1234")
    assert 0 < meter.awaited_bytes <= 8 * _MIB
    meter.feed(b"5")
    assert meter.awaited_bytes == 0
