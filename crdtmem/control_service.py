"""What connections are made to: a node's verbs, its greeting, its bounds, and who is connected.

Problem: a client on a Unix socket and one on a WebSocket must meet the same verbs, the same
bounds, and one budget; and when a node stops, or goes on under a new id, all of them end.

Idea: one ``ControlService`` per node, handed to whatever accepts connections.

Invariants: a closed service has no connections; a client that does not read its last answers
is not waited for longer than is said.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from typing import Any

from crdtmem.admission import Admission, Bounds
from crdtmem.asking import Handler, Quick
from crdtmem.control_connection import IN_FLIGHT_BYTES, IN_FLIGHT_REQUESTS, Connection

__all__ = ["ControlService"]


class ControlService:
    """What connections are made to. ``handlers`` maps verbs to what answers them.

    ``quick`` maps some of them to what answers at once, if it can. ``greeting`` makes what a
    client is told when it connects; ``frame_bytes`` bounds one frame of requests,
    ``admission`` what all clients together hold.
    """

    def __init__(
        self,
        handlers: Mapping[str, Handler],
        *,
        greeting: Callable[[], dict[str, Any]],
        frame_bytes: int,
        quick: Mapping[str, Quick] | None = None,
        admission: Admission | None = None,
    ) -> None:
        self.admission = admission or Admission(Bounds())
        self.handlers = handlers
        self.quick = quick or {}
        self.frame_bytes = frame_bytes
        self.connections: set[Connection] = set()
        self._greeting = greeting
        self._deserted = asyncio.Event()

    def greeting(self) -> dict[str, Any]:
        """Return what a client is told when it connects, its credits included."""
        granted = {"requests": IN_FLIGHT_REQUESTS, "bytes": IN_FLIGHT_BYTES}
        return {**self._greeting(), "credits": granted}

    def left(self, connection: Connection) -> None:
        """Forget a connection that was lost."""
        self.connections.discard(connection)
        if not self.connections:
            self._deserted.set()

    def sweep(self) -> None:
        """Look for clients that have left or stall, and end them: called now and then."""
        now_s = asyncio.get_running_loop().time()
        for connection in list(self.connections):
            connection.check(now_s)

    def end_connections(self) -> None:
        """Close every connection, once its queued answers are written; clients come back."""
        for connection in list(self.connections):
            connection.cancel_tasks()
            connection.end()

    async def close(self, *, timeout_s: float = 2.0) -> None:
        """Answer what can be answered, and close every connection."""
        self.end_connections()
        if self.connections:
            self._deserted.clear()
            # A client that does not read its last answers is not waited for.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await self._deserted.wait()
        for connection in list(self.connections):
            connection.abort()
