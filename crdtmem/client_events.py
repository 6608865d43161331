"""An answer in parts, at its reader's end.

Problem: an export or a feed is longer than one message, and its reader may be slower
than its node.

Idea: ``Events`` is an asynchronous iterator over the parts of one call; when the call is
answered it ends, and ``result`` holds the answer.

Invariants: parts that nobody takes are bounded, because the connection is not read while
``UNTAKEN_PARTS`` of them are kept; a part that arrived before an error is given before
the error is raised; cancelling a reader loses no part.
"""

from __future__ import annotations

import asyncio
from collections import deque
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from crdtmem.errors import Closed, CrdtmemError, Unreachable

if TYPE_CHECKING:
    from crdtmem.client_stream import Call, Stream

__all__ = ["UNTAKEN_PARTS", "Events"]

UNTAKEN_PARTS: Final = 16
"""Most parts of one answer that are kept for a reader; then the connection is not read."""


class Events:
    """The parts of one answer, as they come; then its result. Use ``async with``."""

    call: Call

    def __init__(self, stream: Stream, idle_ms: int | None, *, owned: bool) -> None:
        self.stream = stream
        self._idle_ms = idle_ms
        self._owned = owned
        self._parts: deque[Any] = deque()
        self._arrived = asyncio.Event()
        self.result: Any = None

    def push(self, part: Any) -> None:
        """Add a part that arrived."""
        self._parts.append(part)
        self._arrived.set()
        if len(self._parts) >= UNTAKEN_PARTS:
            self.stream.stuffed(self, full=True)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        while not self._parts:
            if self.call.future.done():
                self.result = self.call.future.result()
                raise StopAsyncIteration
            await self._wait()
        part = self._parts.popleft()
        if len(self._parts) < UNTAKEN_PARTS:
            self.stream.stuffed(self, full=False)
        return part

    async def _wait(self) -> None:
        self._arrived.clear()
        arrived = asyncio.ensure_future(self._arrived.wait())
        timeout_s = None if self._idle_ms is None else self._idle_ms / 1_000
        try:
            done, _ = await asyncio.wait(
                {arrived, self.call.future},
                timeout=timeout_s,
                return_when=asyncio.FIRST_COMPLETED,
            )
        finally:
            arrived.cancel()
        if not done:
            await self.close()
            raise Unreachable("the node did not go on answering", hint="is it overloaded?")

    async def close(self) -> None:
        """Ask for no more. Idempotent."""
        self.stream.forget(self.call)
        self.stream.stuffed(self, full=False)
        future = self.call.future
        if not future.done():
            # Whoever waits for a part is told so; cancelled is only who was asked to end.
            future.set_exception(Closed("this answer was closed", hint="ask again"))
        if not future.cancelled():
            future.exception()  # It may be that nobody asks for it any more.
        if self._owned:
            await self.stream.close(Closed("this feed was closed", hint="open another"))

    @property
    def ended(self) -> bool:
        """Whether nothing more will come."""
        return self.call.future.done()

    async def end(self, error: CrdtmemError) -> None:
        """End it with an error for whoever reads; for those with a connection of their own."""
        await self.stream.close(error)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()
