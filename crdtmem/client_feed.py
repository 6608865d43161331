"""A change feed that outlives its connection, and its node.

Problem: a reader of changes runs for weeks; connections, nodes and processes do not. It
must not be told of a change twice, nor miss one because a node died in between.

Idea: a feed has a connection of its own. When that is lost, ``subscribe`` is asked again
``after`` the cursor of what was handed over, of the same node or of the client's next one:
a node judges its log by the cursor, whoever gave that out. Of a batch so large that it comes
in pieces, which no cursor can part, the pieces that were handed over are remembered, and
left out when they come again.

While no node is found for a client's time-out the reader is told so by ``Unreachable``; the
feed stays as it is, and is sought again when it is read again. What a feed tells counts as
seen by the client: a read that follows a change finds it.

Invariants: each change is handed over once, in a causal order, or ``HistoryGap`` says what
is not; what is remembered are the dots of one batch at most; a cancelled reader loses
nothing.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from crdtmem.batch import SpaceName
from crdtmem.causality import Context
from crdtmem.changes import ChangeReader, Lagging, Part
from crdtmem.client_events import Events
from crdtmem.client_nodes import Nodes, Pauses
from crdtmem.client_stream import Stream
from crdtmem.errors import Closed, MalformedFrame, Overloaded, Unreachable
from crdtmem.operations import decode_part, encode_context

__all__ = ["ClientFeed"]


class _Asker(Protocol):
    """What a feed needs of its client."""

    nodes: Nodes
    retry: bool

    def feed_closed(self, feed: ClientFeed) -> None:
        """Forget a feed."""


class ClientFeed(ChangeReader):
    """A change feed over connections: see ``session.ChangeFeed``."""

    def __init__(self, asker: _Asker, space: SpaceName | None, limit_batches: int) -> None:
        super().__init__(Context())
        self._asker = asker
        self._space = space
        self._limit_batches = limit_batches
        self._after: Context | None = None
        self._events: Events | None = None
        self._replica_id = 0
        self._pieces: set[str] = set()
        self._closed = False

    async def open(self, after: Context | None) -> None:
        """Begin after a cursor, or with what is published from now on."""
        self._after = after
        await self._begin()
        assert self._after is not None
        self.cursor = self._after

    async def following(self) -> Part | Lagging:
        """Wait for the next part, or for the news that this reader is too slow."""
        while True:
            if self._closed or self._asker.nodes.closed:
                raise Closed("this feed was closed", hint="open another after its cursor")
            if self._events is None:
                await self._begin()
            assert self._events is not None
            try:
                part = decode_part(await anext(self._events))
            except (Closed, Overloaded, Unreachable, StopAsyncIteration) as error:
                # A node that stops says so, or ends its answer; one that dies says nothing.
                await self._lose()
                if not self._asker.retry:
                    self._closed = True
                    if isinstance(error, Overloaded | Unreachable):
                        raise
                elif isinstance(error, Overloaded):
                    await Pauses(self._deadline_s()).after(error)
                continue
            if isinstance(part, Lagging):
                return part
            fresh = self._take(part)
            if fresh.changes or fresh.cursor is not None:
                return fresh

    def _take(self, part: Part) -> Part:
        """Note that a part is handed over; leave out what was already."""
        changes = part.changes
        if self._pieces:
            changes = [change for change in changes if change.dot not in self._pieces]
        if part.cursor is None:
            self._pieces.update(change.dot for change in changes)
        else:
            self._pieces.clear()
            self._after = part.cursor
            self._asker.nodes.saw_elsewhere(part.cursor.vector, self._replica_id)
        return Part(part.cursor, changes)

    def _deadline_s(self) -> float:
        return asyncio.get_running_loop().time() + self._asker.nodes.timeout_ms / 1_000

    async def _begin(self) -> None:
        """Subscribe at a node, until the client's time-out. Raises what that answers."""
        nodes = self._asker.nodes
        deadline_s = self._deadline_s()
        pauses = Pauses(deadline_s)
        while True:
            try:
                first = await self._subscribe(await nodes.apart(deadline_s), deadline_s)
            except (Closed, Overloaded, Unreachable) as error:
                if nodes.closed or not self._asker.retry:
                    raise
                await pauses.after(error)
                continue
            if self._after is None:
                self._after = first
            if self._closed:
                await self._lose()
                raise Closed("this feed was closed", hint="open another after its cursor")
            return

    async def _subscribe(self, stream: Stream, deadline_s: float) -> Context:
        """Ask for the feed over a connection of its own; return the cursor that it begins at."""
        body = (self._space, self._limit_batches, encode_context(self._after))
        events = stream.events("subscribe", body, idle_ms=None, owned=True)
        try:
            # The first part is empty, and says where the node has begun to listen.
            async with asyncio.timeout_at(deadline_s):
                first = decode_part(await anext(events))
            if isinstance(first, Lagging) or first.cursor is None:
                raise MalformedFrame("a feed that does not begin with its cursor", hint="retry")
        except BaseException as error:
            await events.close()
            if isinstance(error, TimeoutError | StopAsyncIteration):
                raise Unreachable("the node did not begin a feed", hint="retry") from error
            raise
        self._replica_id = stream.replica_id
        self._events = events
        return first.cursor

    async def _lose(self) -> None:
        events, self._events = self._events, None
        if events is not None:
            await events.close()

    async def close(self) -> None:
        """End the feed. Idempotent."""
        self._closed = True
        self._asker.feed_closed(self)
        await self._lose()
