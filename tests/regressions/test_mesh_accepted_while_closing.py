"""A stream that the kernel had accepted just before the close was never closed.

Its transport came to life in a later turn of the event loop, when the close had looked for
open streams already, and stayed behind with its socket.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket

import pytest
import uvloop

from gossip.transport.base import split_address
from gossip.transport.sockets import Sockets
from tests.conformance.transport_sites import Listener
from tests.gossip.plain_frames import PlainFrames


@pytest.mark.parametrize("factory", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_streams_in_the_backlog_end_with_the_transport(factory: object) -> None:
    async def body() -> None:
        loop = asyncio.get_running_loop()
        for turns in range(6):
            listener = Listener(Sockets(PlainFrames))
            listener.address = await listener.transport.start("127.0.0.1:0", listener)
            knocks = [socket.create_connection(split_address(listener.address)) for _ in range(5)]
            for _ in range(turns):
                await asyncio.sleep(0)
            await listener.transport.close()
            for knock in knocks:
                knock.setblocking(False)
                with knock, contextlib.suppress(ConnectionResetError):
                    assert await loop.sock_recv(knock, 10) == b""

    with asyncio.Runner(loop_factory=factory) as runner:  # type: ignore[arg-type]
        runner.run(body())
