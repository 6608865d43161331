"""The client: the memory of a node in another process, used like an embedded one.

Problem: an agent's memory starts inside its process and later moves behind a
node that others share. The code that uses it should not notice, and a restart of
the node, or its death beside others, should cost a pause, not an exception in every caller.

Idea: ``Client`` is a ``Backend`` like ``Memory``, so that handles, sessions and
transactions are the very same classes; it only carries their operations to a node, over
its control socket or a WebSocket. Requests are pipelined: all that are made in one turn
of the event loop leave in one write, and are answered by id in any order.

A lost connection is made again, to the same node or to the next one that was named (see
``client_nodes``: which, and how what was seen is carried along), and what was unanswered
is asked again within its deadline. For reads that is harmless; for commits the client
draws an ``operation_id``, which is replicated with the transaction, so that a
commit that did get through counts once, also through another node. (Its outcome then says
``repeated``, and its per-operation results are empty.) A node that is overloaded says
when to come back; until its deadline a call does.

Invariants: a call either returns what the node answered or raises a
``CrdtmemError`` before its deadline has long passed; requests under way are
bounded; a client is used from the event loop that connected it.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Final, TypeVar

from crdtmem.batch import SpaceName
from crdtmem.causality import Context
from crdtmem.client_address import parse_addresses
from crdtmem.client_events import Events
from crdtmem.client_feed import ClientFeed
from crdtmem.client_nodes import Nodes, Pauses
from crdtmem.client_stream import Stream
from crdtmem.codec import thaw
from crdtmem.errors import (
    Closed,
    CrdtmemError,
    Defect,
    DurabilityTimeout,
    MalformedFrame,
    Overloaded,
    ReplicaHalted,
    Unreachable,
)
from crdtmem.handles import Conflict, WriteOptions
from crdtmem.limits import Limits
from crdtmem.operations import (
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

__all__ = ["Client", "connect"]

T = TypeVar("T")

_OPERATION_ID_BYTES: Final = 12
_KEYS_PER_GET: Final = 10_000


async def connect(
    *node_urls: str, timeout_ms: int = 10_000, retry: bool = True, seen: Context | None = None
) -> Client:
    """Connect to a node: ``unix:///path`` or ``http://HOST:PORT``.

    Of several, which must be nodes of one cluster, the first that can be used is, and the
    others in turn when it is lost. ``timeout_ms`` bounds every call, beyond what the call
    itself may wait for, and how long a node is sought. With ``retry=False`` nothing is
    asked twice: a lost connection is ``Unreachable`` at once. ``seen`` is what an earlier
    client had seen (``client.seen``): no older world is shown. Raises ``ConfigError`` for
    what is no URL, ``Unreachable`` when no node answers, ``NotCovered`` when none has what
    was seen, ``ProtocolMismatch`` when it is of another version.
    """
    client = Client(*node_urls, timeout_ms=timeout_ms, retry=retry, seen=seen)
    try:
        await client.open()
    except BaseException:
        await client.close()
        raise
    return client


class Client(MemoryFace):
    """A node's memory. Use ``async with await connect("unix:///…") as memory``."""

    def __init__(
        self,
        *node_urls: str,
        timeout_ms: int = 10_000,
        retry: bool = True,
        seen: Context | None = None,
    ) -> None:
        super().__init__(WriteOptions())
        self.nodes = Nodes(
            parse_addresses(node_urls), timeout_ms=timeout_ms, seen=seen or Context()
        )
        self.retry = retry
        self._timeout_ms = timeout_ms
        self._apart: set[Events] = set()
        self._feeds: set[ClientFeed] = set()

    # ------------------------------------------------------------------ life

    async def open(self) -> None:
        """Make the first connection; raises ``Unreachable`` at once when nobody listens."""
        await self.nodes.open()

    async def close(self) -> None:
        """Close the connection; calls that are under way raise ``Closed``. Idempotent."""
        await self.nodes.close()
        for feed in list(self._feeds):
            await feed.close()
        error = Closed("this client was closed", hint="connect again")
        for events in self._apart:
            await events.end(error)
        self._apart.clear()

    # ------------------------------------------------------------------ what was seen

    @property
    def seen(self) -> Context:
        """What this client and its sessions have read and written, as one context.

        A node that does not hold all of it is not used. Hand it on as ``connect(…,
        seen=…)`` to go on in another process.
        """
        return Context(self.nodes.seen.copy())

    def forget_seen(self) -> None:
        """Give up what was seen: go on with a node that is older, or has lost it."""
        self.nodes.forget_seen()

    # ------------------------------------------------------------------ calls

    async def call(self, verb: str, body: Any, *, wait_ms: int = 0, again: bool = True) -> Any:
        """Ask the node one thing, and return the answer as plain values.

        ``wait_ms`` is what the node itself may take over it; ``again`` says whether
        it may be asked twice. Raises what the node answered, or ``Unreachable``.
        """

        def ask(stream: Stream, deadline_s: float) -> Awaitable[Any]:
            return stream.call(verb, body, deadline_s)

        return await self._ask(ask, wait_ms=wait_ms, again=again)

    async def _ask(
        self,
        ask: Callable[[Stream, float], Awaitable[T]],
        *,
        wait_ms: int = 0,
        again: bool = True,
        doubtful: set[int] | None = None,
    ) -> T:
        """Ask a live node, and again where it was lost, until the deadline.

        ``doubtful`` gathers the replicas that may have done it without our hearing of it.
        """
        loop = asyncio.get_running_loop()
        nodes = self.nodes
        deadline_s = loop.time() + (wait_ms + self._timeout_ms) / 1_000
        pauses: Pauses | None = None
        refusal: CrdtmemError | None = None
        while True:
            stream = nodes.current
            if stream is None:
                # What the node may take over an answer is not what it may take to be found.
                until_s = min(deadline_s, loop.time() + self._timeout_ms / 1_000)
                try:
                    stream = await nodes.live(until_s)
                except Unreachable:
                    if refusal is None:
                        raise
                    # What the one that did answer had to say tells more than that it is sought.
                    raise refusal from None
            try:
                return await ask(stream, deadline_s)
            except Unreachable:
                if nodes.closed or not (self.retry and again and stream.lost):
                    raise
                if loop.time() >= deadline_s:
                    raise
                if doubtful is not None:
                    doubtful.add(stream.replica_id)
            except Closed:
                # The node is stopping, and has not done it; its successor may.
                if nodes.closed or not (self.retry and again):
                    raise
                await nodes.leave(stream, deadline_s)
            except (Defect, ReplicaHalted) as error:
                # This node writes no more, and hears of nothing new; another one does.
                if not (self.retry and again and nodes.are_several):
                    raise
                refusal = error
                pauses = pauses or Pauses(deadline_s)
                await pauses.after(error)
                await nodes.leave(stream, deadline_s)
            except Overloaded as error:
                # Nothing was taken. Without a hint it is the caller who has to ask for less.
                if not self.retry or "retry_after_ms" not in error.details:
                    raise
                pauses = pauses or Pauses(deadline_s)
                await pauses.after(error)
            except CrdtmemError:
                # A replica knows the operation ids that it has taken: this one has not done it.
                if doubtful is not None:
                    doubtful.discard(stream.replica_id)
                raise

    def _left_ms(self, wait_ms: int, deadline_s: float) -> int:
        """Return what a node may still wait for a call: less when it is asked again."""
        if not wait_ms:
            return 0
        left_ms = (deadline_s - asyncio.get_running_loop().time()) * 1_000 - self._timeout_ms
        return max(0, min(wait_ms, round(left_ms)))

    async def events(
        self, verb: str, body: Any, *, idle_ms: int | None = None, apart: bool = False
    ) -> Events:
        """Ask for something that is answered in parts; iterate over them, then ``result``.

        ``idle_ms`` bounds the pause between two parts. It is not asked again. With
        ``apart`` it has a connection of its own, so that a reader who takes its time
        holds up nobody's calls.
        """
        deadline_s = asyncio.get_running_loop().time() + self._timeout_ms / 1_000
        if not apart:
            stream = await self.nodes.live(deadline_s)
            return stream.events(verb, body, idle_ms=idle_ms)
        stream = await self.nodes.apart(deadline_s)
        events = stream.events(verb, body, idle_ms=idle_ms, owned=True)
        self._apart = {other for other in self._apart if not other.ended}
        self._apart.add(events)
        return events

    async def _gather(self, verb: str, body: Any, decode: Callable[[Any], T]) -> list[T]:
        """Return all parts of an answer in one list; what it shows is noted as seen."""

        async def ask(stream: Stream, deadline_s: float) -> list[T]:
            found: list[T] = []
            async with stream.events(verb, body, idle_ms=self._timeout_ms) as events:
                async for part in events:
                    found += [decode(item) for item in part]
            self._saw(await stream.call("context", (), deadline_s))
            return found

        return await self._ask(ask)

    def _saw(self, flat: Any) -> Context:
        """Note a context that the node in use has answered."""
        context = decode_context(flat)
        if context is None:
            raise MalformedFrame("the node answered no context", hint="is it of the same version?")
        self.nodes.saw(context.vector)
        return context

    # ------------------------------------------------------------------ Backend

    @property
    def limits(self) -> Limits:
        """The node's limits, which bind local writes."""
        return self.nodes.limits

    @property
    def region(self) -> str:
        """The region that the node stands in."""
        return self.nodes.region

    @property
    def replica_id(self) -> int:
        """The node's replica id."""
        return self.nodes.replica_id

    def now_us(self) -> int:
        """Return this process's wall-clock time in microseconds."""
        return now_us()

    def draw_number(self) -> int:
        """Return a number of 64 random bits."""
        return secrets.randbits(64)

    async def _commit(self, transaction: Transaction, options: WriteOptions) -> Committed:
        transaction.seal(self.nodes.limits)
        if transaction.operation_id is None and self.retry:
            transaction.operation_id = os.urandom(_OPERATION_ID_BYTES)
        written, sent = encode_write_options(options), encode_transaction(transaction)

        def ask(stream: Stream, deadline_s: float) -> Awaitable[Any]:
            written[1] = self._left_ms(options.timeout_ms, deadline_s)
            return stream.call("commit", (written, sent), deadline_s)

        doubtful: set[int] = set()
        try:
            answer = await self._ask(ask, wait_ms=options.timeout_ms, doubtful=doubtful)
        except Unreachable as error:
            error.details.setdefault("operation_id", transaction.operation_id)
            raise
        except DurabilityTimeout as error:
            # It is written, whatever became of it elsewhere.
            if "context" in error.details:
                self.nodes.saw(Context.parse(error.details["context"]).vector)
            raise
        except CrdtmemError as error:
            if not doubtful:
                raise
            # Of what was asked again the refusal tells nothing: it may be done where it was lost.
            raise Unreachable(
                f"a node was lost under this write, and to repeat it was refused: {error.message}",
                hint=error.hint,
                operation_id=transaction.operation_id,
                refusal=error.code,
            ) from error
        committed = decode_committed(answer)
        self.nodes.saw(committed.context.vector)
        return committed

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
        context = encode_context(at_least)
        wait_ms = 0 if at_least is None else timeout_ms

        def ask(stream: Stream, deadline_s: float) -> Awaitable[Any]:
            left_ms = self._left_ms(wait_ms, deadline_s)
            return stream.call("read", (space, datatype, key, context, left_ms), deadline_s)

        reading = decode_reading(await self._ask(ask, wait_ms=wait_ms))
        self.nodes.saw(reading.context.vector)
        return reading

    async def get_many(
        self,
        space: SpaceName,
        keys: Sequence[str],
        *,
        at_least: Context | None = None,
        timeout_ms: int = 10_000,
    ) -> list[Any]:
        """Return the values of many registers, ``None`` for each that holds nothing.

        The quickest read of a node: a look-up per key, no siblings, no readings. More
        than ten thousand keys are asked for in several parts.
        """
        found: list[Any] = []
        wait_ms = 0 if at_least is None else timeout_ms
        for start in range(0, len(keys), _KEYS_PER_GET):
            part = tuple(keys[start : start + _KEYS_PER_GET])

            async def ask(stream: Stream, deadline_s: float, part: Any = part) -> Any:
                left_ms = self._left_ms(wait_ms, deadline_s)
                body = (space, part, encode_context(at_least), left_ms)
                context = ("context", (), deadline_s)
                if at_least is None:
                    # Both leave in one write and are answered in order: the context covers
                    # what the values show.
                    values, flat = await asyncio.gather(
                        stream.call("get", body, deadline_s), stream.call(*context)
                    )
                else:
                    values = await stream.call("get", body, deadline_s)
                    flat = await stream.call(*context)
                self._saw(flat)
                return values

            found += thaw(await self._ask(ask, wait_ms=wait_ms))
        return found

    async def keys(self, space: SpaceName, datatype: int) -> list[str]:
        """Return the keys of one datatype in a space, sorted."""
        return await self._gather("keys", (space, datatype), str)

    async def spaces(self) -> list[SpaceName]:
        """Return the spaces that hold anything, sorted."""

        async def ask(stream: Stream, deadline_s: float) -> list[SpaceName]:
            names = await stream.call("spaces", (), deadline_s)
            self._saw(await stream.call("context", (), deadline_s))
            return [decode_space(labels) for labels in names]

        return await self._ask(ask)

    async def conflicts(self, space: SpaceName | None = None) -> list[Conflict]:
        """Return the places that hold concurrent values now, of one space or of all."""
        return await self._gather("conflicts", (space,), decode_conflict)

    async def joined(self) -> Context:
        """Return what the node has joined and published now."""
        return self._saw(await self.call("context", ()))

    async def wait_for(self, context: Context, *, timeout_ms: int = 10_000) -> Context:
        """Return once the node has joined ``context``; raises ``NotCovered`` at the deadline."""

        def ask(stream: Stream, deadline_s: float) -> Awaitable[Any]:
            body = (encode_context(context), self._left_ms(timeout_ms, deadline_s))
            return stream.call("wait", body, deadline_s)

        return self._saw(await self._ask(ask, wait_ms=timeout_ms))

    async def changes(
        self,
        space: SpaceName | None = None,
        *,
        after: Context | None = None,
        limit_batches: int = 10_000,
    ) -> ChangeFeed:
        """Open a feed of what is published, of one space or of all: see ``ChangeFeed``.

        It outlives its connection, and goes on at another node where this client has one.
        While none is found within the time-out its reader gets ``Unreachable``, and may
        read on. Raises ``HistoryGap`` where the log does not reach back to ``after``.
        """
        feed = ClientFeed(self, space, limit_batches)
        self._feeds.add(feed)
        try:
            await feed.open(after)
        except BaseException:
            await feed.close()
            raise
        return feed

    def feed_closed(self, feed: ClientFeed) -> None:
        """Forget a feed that was closed."""
        self._feeds.discard(feed)

    async def export(self, space: SpaceName | None = None) -> AsyncIterator[dict[str, Any]]:
        """Yield a record per live entry: see ``exporting``."""
        events, part = await self._first_part("export", (space,))
        async with events:
            while part is not None:
                for record in part:
                    yield record
                part = await anext(events, None)
            deadline_s = asyncio.get_running_loop().time() + self._timeout_ms / 1_000
            context = decode_context(await events.stream.call("context", (), deadline_s))
            if context is not None:
                replica_id = events.stream.replica_id
                self.nodes.saw_elsewhere(context.vector, replica_id)

    async def _first_part(self, verb: str, body: Any) -> tuple[Events, Any]:
        """Begin an answer in parts; until the first is there it can be asked for again."""
        deadline_s = asyncio.get_running_loop().time() + self._timeout_ms / 1_000
        pauses = Pauses(deadline_s)
        while True:
            events = await self.events(verb, body, idle_ms=self._timeout_ms, apart=True)
            try:
                return events, await anext(events, None)
            except (Closed, Overloaded, Unreachable) as error:
                await events.close()
                if self.nodes.closed or not self.retry:
                    raise
                await pauses.after(error)
            except BaseException:
                await events.close()
                raise
