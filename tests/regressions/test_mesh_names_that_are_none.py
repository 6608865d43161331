"""An advertised host with an empty or overlong label raised UnicodeError out of the resolver.

The exchange was then never reported back to the machine, and the dialler of the peers' streams
ended for good, without a word.
"""

from __future__ import annotations

import asyncio
import secrets
from pathlib import Path
from typing import Any

import pytest

from crdtmem.config import load_settings
from crdtmem.node import Node
from gossip.errors import TransportError
from gossip.stream_seal import SALT_BYTES, StreamSeal
from gossip.transport.base import Exchanged
from gossip.transport.resolver import Resolver
from gossip.transport.sockets import Sockets
from tests.waiting import eventually

NAMES = ["x" * 70 + ":1", "a..b:1", ".:1"]


class _Deaf:
    """Takes what comes, and makes nothing of it."""

    def on_datagram(self, data: bytes, source: str) -> None:
        """Ignore it."""

    def on_frame(self, stream: Any, frame: bytes) -> None:
        """Ignore it."""


@pytest.mark.parametrize("name", NAMES)
def test_what_is_no_name_is_an_error_of_the_transport(name: str) -> None:
    async def play() -> None:
        resolver = Resolver()
        with pytest.raises(TransportError):
            await resolver.resolve(name)
        await resolver.close()

    asyncio.run(play())


@pytest.mark.parametrize("name", NAMES)
def test_an_exchange_with_it_fails_and_a_datagram_to_it_is_counted(name: str) -> None:
    async def play() -> None:
        def seal(opener: bool) -> StreamSeal:
            return StreamSeal("here", None, secrets.token_bytes(SALT_BYTES), initiator=opener)

        sockets = Sockets(seal)
        await sockets.start("127.0.0.1:0", _Deaf())
        assert await sockets.exchange(name, b"frame", 5_000_000) == Exchanged(None)
        sockets.send(name, b"datagram")
        await eventually(lambda: sockets.counters["datagrams dropped: no address"] == 1, "count")
        await sockets.close()

    asyncio.run(play())


@pytest.mark.parametrize("address", [*NAMES, "no address at all"])
def test_a_peer_with_such_an_address_is_tried_again_and_shown(tmp_path: Path, address: str) -> None:
    async def play() -> None:
        settings = load_settings(
            None,
            {},
            {
                "store": f"sqlite:///{tmp_path}/store.db",
                "control_socket": f"{tmp_path}/sock",
                "listen": "127.0.0.1:0",
                "mesh.plain_text": True,
                "reconnect.minimum_ms": 1,
                "reconnect.maximum_ms": 1,
            },
        )
        node = await Node.start(settings, tune_gc=False)
        try:
            # The mesh knows of nobody, and would take it back at its next look.
            node.meshing._closing = True
            node.peers.dial({7: address})

            def tried() -> bool:
                (row,) = node.peers.status()
                return row["attempts"] >= 2 and bool(row["error"])

            await eventually(tried, "second attempt")
        finally:
            await node.stop()

    asyncio.run(play())
