"""A client that left while it was not read kept all that it held, until that was answered.

A connection that is not read, because it has asked as much as it may, is not told that its
client is gone: the end of the stream lies behind what was not read. Its place, and what it held,
were held for a day while its writes waited for what never came.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from crdtmem.control_connection import IN_FLIGHT_REQUESTS
from crdtmem.control_frames import encode_body, frame_of_messages
from tests.bench.service_overload import ask
from tests.node.processes import NodeProcess
from tests.node.raw import RawConnection
from tests.waiting import wait_until

NEVER = [1 << 40, 1]


def _status(node: NodeProcess) -> dict[str, Any]:
    status: dict[str, Any] = asyncio.run(ask(node.socket, "status"))
    return status


def test_the_place_of_a_client_is_given_back_when_it_leaves_though_it_was_not_read(
    tmp_path: Path,
) -> None:
    step = (1, ("team",), 1, "city", "set", ("Rome",), (NEVER, False, None, None))
    write = ("", 0, None, None, (step,))
    body = (("local", 3_600_000, None), write)
    waits = [encode_body((n, "commit", body)) for n in range(IN_FLIGHT_REQUESTS + 100)]
    with NodeProcess(tmp_path) as node:
        with RawConnection(node.socket) as connection:
            connection.send(frame_of_messages(waits))
            wait_until(
                lambda: _status(node)["queues"]["waiting"] == IN_FLIGHT_REQUESTS, "full connection"
            )
            connection.send(frame_of_messages(waits))
            assert _status(node)["clients"] == 2
        # Only the one that asks.
        wait_until(lambda: _status(node)["clients"] == 1, "place given back")
        assert _status(node)["admission"]["operations"] == 1
