"""The client: the memory of a node in another process, used like an embedded one.

Problem: an agent's memory starts inside its process and later moves behind a
node that others share. The code that uses it should not notice, and a restart of
the node should cost a pause, not an exception in every caller.

Idea: ``Client`` is a ``Backend`` like ``Memory``, so that handles, sessions and
transactions are the very same classes; it only carries their operations over the
control socket. Requests are pipelined: all that are made in one turn of the event
loop leave in one write, and are answered by id in any order.

A lost connection is made again, with jittered pauses, and what was unanswered is
asked again within its deadline. For reads that is harmless; for commits the client
draws an ``operation_id``, which is replicated with the transaction, so that a
commit that did get through counts once. (Its outcome then says ``repeated``, and
its per-operation results are empty.)

Invariants: a call either returns what the node answered or raises a
``CrdtmemError`` before its deadline has long passed; requests under way are
bounded; a client is used from the event loop that connected it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import secrets
from collections.abc import AsyncIterator, Callable
from typing import Any, Final, Self

from crdtmem.batch import SpaceName
from crdtmem.causality import Context
from crdtmem.changes import Change
from crdtmem.client_stream import Events, Stream
from crdtmem.errors import Closed, ConfigError, MalformedFrame, Unreachable
from crdtmem.handles import Conflict, WriteOptions
from crdtmem.limits import Limits
from crdtmem.operations import (
    decode_change,
    decode_committed,
    decode_conflict,
    decode_context,
    decode_reading,
    decode_space,
    encode_context,
    encode_transaction,
    encode_write_options,
)
from crdtmem.reading import Reading
from crdtmem.replica import Committed
from crdtmem.session import ChangeFeed, MemoryFace
from crdtmem.transaction import Transaction
from crdtmem.wall import now_us

__all__ = ["Client", "connect", "socket_path_of"]

_GRACE_MS: Final = 5_000
_FIRST_PAUSE_MS: Final = 20
_LONGEST_PAUSE_MS: Final = 1_000
_OPERATION_ID_BYTES: Final = 12
_log = logging.getLogger("crdtmem.client")


def socket_path_of(node_url: str) -> str:
    """Return the path in ``unix:///path``; a bare path is taken as one. Raises ``ConfigError``."""
    if "://" not in node_url:
        return node_url
    scheme, _, path = node_url.partition("://")
    if scheme != "unix" or not path:
        raise ConfigError(
            f"{node_url!r} names no node",
            hint="write unix:///path/to/crdtmem.sock, the node's control socket",
        )
    return path


async def connect(node_url: str, *, timeout_ms: int = 10_000, retry: bool = True) -> Client:
    """Connect to the node behind a control socket: ``unix:///path``.

    ``timeout_ms`` bounds every call, beyond what the call itself may wait for, and
    how long a lost node is sought. With ``retry=False`` nothing is asked twice: a
    lost connection is ``Unreachable`` at once. Raises ``Unreachable`` when no node
    answers, ``ProtocolMismatch`` when it is of another version.
    """
    client = Client(socket_path_of(node_url), timeout_ms=timeout_ms, retry=retry)
    try:
        await client.open()
    except BaseException:
        await client.close()
        raise
    return client


class Client(MemoryFace):
    """A node's memory. Use ``async with await connect("unix:///…") as memory``."""

    def __init__(self, path: str, *, timeout_ms: int, retry: bool) -> None:
        super().__init__(WriteOptions())
        self._path = path
        self._timeout_ms = timeout_ms
        self._retry = retry
        self._stream: Stream | None = None
        self._connecting: asyncio.Future[Stream] | None = None
        self._closed = False
        self._apart: set[Events] = set()
        self._greeting: dict[str, Any] = {}
        self._limits = Limits()

    # ------------------------------------------------------------------ life

    async def open(self) -> None:
        """Make the first connection; raises ``Unreachable`` at once when nobody listens."""
        self._adopt(await Stream.open(self._path, timeout_ms=self._timeout_ms))

    async def close(self) -> None:
        """Close the connection; calls that are under way raise ``Closed``. Idempotent."""
        self._closed = True
        if self._connecting is not None:
            self._connecting.cancel()
        error = Closed("this client was closed", hint="connect again")
        for events in self._apart:
            await events.end(error)
        if self._stream is not None:
            await self._stream.close(error)
            self._stream = None

    def _adopt(self, stream: Stream) -> Stream:
        greeting = stream.greeting
        try:
            self._limits = Limits(**greeting["limits"])
        except (KeyError, TypeError) as error:
            raise MalformedFrame(
                f"the node's greeting has the wrong shape: {error}", hint="is it newer?"
            ) from error
        self._greeting = greeting
        self._stream = stream
        return stream

    async def _live(self, deadline_s: float) -> Stream:
        """Return a live stream, connecting again if need be, until the deadline."""
        if self._closed:
            raise Closed("this client is closed", hint="connect again")
        stream = self._stream
        if stream is not None and not stream.lost:
            return stream
        if self._connecting is None:
            # One attempt is shared by all who wait; whoever gives up leaves it to the others.
            self._connecting = asyncio.ensure_future(self._reconnect(deadline_s))
            self._connecting.add_done_callback(self._connected)
        remaining_s = deadline_s - asyncio.get_running_loop().time()
        done, _ = await asyncio.wait({self._connecting}, timeout=max(0.0, remaining_s))
        if self._closed:
            raise Closed("this client was closed", hint="connect again")
        if not done:
            raise Unreachable(f"no node answers at {self._path}", hint="is it running?")
        return next(iter(done)).result()

    def _connected(self, attempt: asyncio.Future[Stream]) -> None:
        self._connecting = None
        if not attempt.cancelled() and attempt.exception() is not None:
            _log.debug("connecting to %s failed: %s", self._path, attempt.exception())

    async def _reconnect(self, deadline_s: float) -> Stream:
        pause_ms = _FIRST_PAUSE_MS
        while True:
            try:
                return self._adopt(await Stream.open(self._path, timeout_ms=self._timeout_ms))
            except Unreachable:
                pause_s = pause_ms * random.uniform(0.5, 1.5) / 1_000  # noqa: S311 - jitter
                if asyncio.get_running_loop().time() + pause_s > deadline_s:
                    raise
                await asyncio.sleep(pause_s)
                pause_ms = min(2 * pause_ms, _LONGEST_PAUSE_MS)

    # ------------------------------------------------------------------ calls

    async def call(self, verb: str, body: Any, *, wait_ms: int = 0, again: bool = True) -> Any:
        """Ask the node one thing, and return the answer as plain values.

        ``wait_ms`` is what the node itself may take over it; ``again`` says whether
        it may be asked twice. Raises what the node answered, or ``Unreachable``.
        """
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + (wait_ms + self._timeout_ms) / 1_000
        while True:
            # What the node may take over an answer is not what it may take to be found.
            stream = await self._live(min(deadline_s, loop.time() + self._timeout_ms / 1_000))
            try:
                return await stream.call(verb, body, deadline_s)
            except Unreachable:
                if self._closed or not (self._retry and again and stream.lost):
                    raise
                if loop.time() >= deadline_s:
                    raise
            except Closed:
                # The node is stopping, and has not done it; its successor may.
                if self._closed or not (self._retry and again):
                    raise
                await stream.wait_lost(deadline_s)

    async def events(
        self, verb: str, body: Any, *, idle_ms: int | None = None, apart: bool = False
    ) -> Events:
        """Ask for something that is answered in parts; iterate over them, then ``result``.

        ``idle_ms`` bounds the pause between two parts. It is not asked again. With
        ``apart`` it has a connection of its own, so that a reader who takes its time
        holds up nobody's calls.
        """
        if self._closed:
            raise Closed("this client is closed", hint="connect again")
        if apart:
            stream = await Stream.open(self._path, timeout_ms=self._timeout_ms)
            events = stream.events(verb, body, idle_ms=idle_ms, owned=True)
            self._apart = {other for other in self._apart if not other.ended}
            self._apart.add(events)
            return events
        deadline_s = asyncio.get_running_loop().time() + self._timeout_ms / 1_000
        return (await self._live(deadline_s)).events(verb, body, idle_ms=idle_ms)

    async def _gather(self, verb: str, body: Any, decode: Callable[[Any], Any]) -> list[Any]:
        found: list[Any] = []
        async with await self.events(verb, body, idle_ms=self._timeout_ms) as events:
            async for part in events:
                found += [decode(item) for item in part]
        return found

    # ------------------------------------------------------------------ Backend

    @property
    def limits(self) -> Limits:
        """The node's limits, which bind local writes."""
        return self._limits

    @property
    def region(self) -> str:
        """The region that the node stands in."""
        return str(self._greeting["region"])

    @property
    def replica_id(self) -> int:
        """The node's replica id."""
        return int(self._greeting["replica"])

    def now_us(self) -> int:
        """Return this process's wall-clock time in microseconds."""
        return now_us()

    def draw_number(self) -> int:
        """Return a number of 64 random bits."""
        return secrets.randbits(64)

    async def _commit(self, transaction: Transaction, options: WriteOptions) -> Committed:
        transaction.seal(self._limits)
        if transaction.operation_id is None and self._retry:
            transaction.operation_id = os.urandom(_OPERATION_ID_BYTES)
        body = (encode_write_options(options), encode_transaction(transaction))
        try:
            answer = await self.call("commit", body, wait_ms=options.timeout_ms)
        except Unreachable as error:
            error.details.setdefault("operation_id", transaction.operation_id)
            raise
        return decode_committed(answer)

    async def read(
        self,
        space: SpaceName,
        datatype: int,
        key: str,
        *,
        at_least: Context | None = None,
        timeout_ms: int = 10_000,
    ) -> Reading:
        """Read one key, once the node has joined ``at_least``."""
        body = (space, datatype, key, encode_context(at_least), timeout_ms)
        wait_ms = 0 if at_least is None else timeout_ms
        return decode_reading(await self.call("read", body, wait_ms=wait_ms))

    async def keys(self, space: SpaceName, datatype: int) -> list[str]:
        """Return the keys of one datatype in a space, sorted."""
        return await self._gather("keys", (space, datatype), str)

    async def spaces(self) -> list[SpaceName]:
        """Return the spaces that hold anything, sorted."""
        return [decode_space(labels) for labels in await self.call("spaces", ())]

    async def conflicts(self, space: SpaceName | None = None) -> list[Conflict]:
        """Return the places that hold concurrent values now, of one space or of all."""
        return await self._gather("conflicts", (space,), decode_conflict)

    async def joined(self) -> Context:
        """Return what the node has joined and published now."""
        return _context(await self.call("context", ()))

    async def wait_for(self, context: Context, *, timeout_ms: int = 10_000) -> Context:
        """Return once the node has joined ``context``; raises ``NotCovered`` at the deadline."""
        body = (encode_context(context), timeout_ms)
        return _context(await self.call("wait", body, wait_ms=timeout_ms))

    async def changes(
        self, space: SpaceName | None = None, *, limit_batches: int = 10_000
    ) -> ChangeFeed:
        """Open a feed of what is published from now on, of one space or of all.

        It does not outlive its connection: it then ends with ``Unreachable``.
        """
        events = await self.events("subscribe", (space, limit_batches), apart=True)
        try:
            # The first event is empty, and says that the node has begun to listen.
            async with asyncio.timeout(self._timeout_ms / 1_000):
                await anext(events)
        except TimeoutError as error:
            await events.close()
            raise Unreachable("the node did not begin to listen in time", hint="retry") from error
        return _ClientFeed(events)

    async def export(self, space: SpaceName | None = None) -> AsyncIterator[dict[str, Any]]:
        """Yield a record per live entry: see ``exporting``."""
        events = await self.events("export", (space,), idle_ms=self._timeout_ms, apart=True)
        async with events:
            async for part in events:
                for record in part:
                    yield record


def _context(flat: Any) -> Context:
    context = decode_context(flat)
    if context is None:
        raise MalformedFrame("the node answered no context", hint="is it of the same version?")
    return context


class _ClientFeed:
    """A change feed over a connection: see ``ChangeFeed``."""

    def __init__(self, events: Events) -> None:
        self._events = events
        self._ready: list[Change] = []

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Change:
        while not self._ready:
            try:
                part = await anext(self._events)
            except StopAsyncIteration:
                raise Closed("the node ended this feed", hint="open another") from None
            self._ready = [decode_change(item) for item in reversed(part)]
        return self._ready.pop()

    async def close(self) -> None:
        await self._events.close()
