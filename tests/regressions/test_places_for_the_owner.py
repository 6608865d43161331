"""WebSockets took every place, and the owner of the node could not even stop it.

Both ways in share one number of connections; whoever could reach the HTTP port could open
them all, and the control socket, on which the command line comes, refused everybody.
"""

from __future__ import annotations

from pathlib import Path

import aiohttp
import msgpack
import pytest

from crdtmem import connect, control_connection
from crdtmem.control_frames import ERROR
from tests.server.serving import Served, run


def test_the_owner_finds_a_place_though_websockets_took_all_of_theirs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control_connection, "_CONNECTIONS", 66)

    async def scene(served: Served) -> None:
        url = f"{served.base}/v1/socket"
        async with (
            served.session.ws_connect(url),
            served.session.ws_connect(url),
            served.session.ws_connect(url) as refused,
        ):
            message = await refused.receive(timeout=20)
            assert message.type is aiohttp.WSMsgType.BINARY
            ((_, kind, body),) = msgpack.unpackb(message.data)
            assert (kind, body[0]) == (ERROR, "overloaded")
            async with await connect(f"unix://{served.node.settings.control_socket}") as owner:
                await owner.joined()
                assert owner.replica_id == served.node.memory.replica_id
                # Nor does who was refused, and does not leave, take one.
                assert len(served.node.service.connections) == 3

    run(tmp_path, scene)
