"""Of two requests with one id, only the later was known to its connection.

When the client left, the earlier went on for ever: a feed was kept, with its queue and its
task, that nobody read or could cancel. A client that came again and again could grow a node
without bound. An id that is not answered yet is refused now.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from crdtmem.control_frames import EVENT, RESULT
from tests.bench.service_overload import ask
from tests.node.processes import NodeProcess
from tests.node.raw import RawConnection
from tests.waiting import wait_until

FEED = (None, 100, None)


def _feeds(node: NodeProcess) -> int:
    status: dict[str, Any] = asyncio.run(ask(node.socket, "status"))
    feeds: int = status["queues"]["subscriptions"]
    return feeds


def test_an_id_in_use_is_refused_and_no_feed_outlives_its_client(tmp_path: Path) -> None:
    with NodeProcess(tmp_path) as node:
        before = _feeds(node)
        with RawConnection(node.socket) as connection:
            connection.request(7, "subscribe", FEED)
            assert connection.answer()[:2] == (7, EVENT)
            connection.request(7, "subscribe", FEED)
            assert connection.refusal() == "malformed_frame"
            wait_until(lambda: _feeds(node) == before + 1, "one feed")
        wait_until(lambda: _feeds(node) == before, "no feed")


def test_an_id_is_free_again_once_it_was_answered(tmp_path: Path) -> None:
    with NodeProcess(tmp_path) as node, RawConnection(node.socket) as connection:
        for _ in range(3):
            connection.request(7, "wait", ((), 0))
            assert connection.answer()[:2] == (7, RESULT)
