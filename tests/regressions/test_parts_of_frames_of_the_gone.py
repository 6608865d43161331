"""Parts of frames outlived those who had sent them.

A connection and what carries it hold each other, so that only Python's cyclic collector let
go of them, and of the eight megabytes of a frame that was almost whole. A node keeps that
collector from working (see ``runtime``): sixty connections, opened and closed again, left
half a gigabyte, and sixty more another half.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator
from pathlib import Path

import pytest

from crdtmem.control_frames import CONTROL_VERSION, MAGIC, FrameDecoder, encode_body
from crdtmem.control_frames import frame_of_messages as frame_of
from tests.server.serving import Served, run
from tests.waiting import eventually

_PART = b"x" * 1_000_000
_UPGRADE = (
    b"GET /v1/socket HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


@pytest.fixture
def _no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def _decoders() -> list[FrameDecoder]:
    found = (one for one in gc.get_objects() if type(one) is FrameDecoder)
    return [decoder for decoder in found if decoder.buffered_bytes >= len(_PART)]


def _readers() -> int:
    return sum(type(one).__name__ == "WebSocketReader" for one in gc.get_objects())


@pytest.mark.usefixtures("_no_collector")
def test_a_part_of_a_frame_goes_with_its_client(tmp_path: Path) -> None:
    async def scene(served: Served) -> None:
        path = served.node.settings.control_socket
        reader, writer = await asyncio.open_unix_connection(str(path))
        writer.write(frame_of([encode_body((1, "hello", (MAGIC, CONTROL_VERSION)))]))
        await reader.readexactly(4)
        writer.write((2 * len(_PART)).to_bytes(4, "big") + _PART)
        await eventually(lambda: len(_decoders()) == 1, "part of a frame")
        writer.transport.abort()
        await eventually(lambda: not served.node.service.connections, "nobody connected")
        assert not _decoders()

    run(tmp_path, scene)


@pytest.mark.usefixtures("_no_collector")
def test_a_part_of_a_message_goes_with_its_client(tmp_path: Path) -> None:
    async def scene(served: Served) -> None:
        wire = await served.wire()
        wire.send(_UPGRADE)
        await wire.reader.readuntil(b"\r\n\r\n")
        length = (2 * len(_PART)).to_bytes(8, "big")
        wire.send(b"\x82\xff" + length + b"\0\0\0\0" + _PART)
        await eventually(lambda: _readers() == 1, "a message")
        wire.writer.transport.abort()
        await eventually(lambda: not served.node.service.connections, "nobody connected")
        assert _readers() == 0

    run(tmp_path, scene)
