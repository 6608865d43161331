"""The embedded memory: a full replica inside the caller's process.

Problem: an agent wants its memory at hand: reads without a network, writes that
are durable when they return, and the same code when the memory later moves
behind a node.

Idea: ``Memory.open`` recovers an engine from its store and runs it on the
current event loop. It is a ``Backend``, so all handles work on it; ``reader`` is
the one addition, a synchronous read.

Invariants: an awaited write is durable; a returned value never aliases state; a
memory is used from the event loop that opened it.
"""

from __future__ import annotations

import asyncio
import heapq
import secrets
from collections.abc import Callable, Collection
from itertools import chain
from typing import Any, TypeVar
from weakref import WeakSet

from crdtmem.admission import Admission
from crdtmem.batch import SpaceName
from crdtmem.causality import Context
from crdtmem.checkpointing import Checkpointer
from crdtmem.codec import thaw
from crdtmem.crdt import DATATYPES_BY_CODE
from crdtmem.engine import Engine, NodeInfo
from crdtmem.errors import InvalidValue
from crdtmem.feeds import Feed
from crdtmem.handles import Conflict, WriteOptions
from crdtmem.limits import DEFAULT_LIMITS, Limits
from crdtmem.policy import SYSTEM_SPACE, Policy, policy_key, policy_space
from crdtmem.published import PublishedBatch
from crdtmem.quotas import only_removes
from crdtmem.reading import Reading, SpaceReader
from crdtmem.recovery import open_engine
from crdtmem.replica import Committed
from crdtmem.rescue import RESCUE_PREFIX, LostWrite
from crdtmem.rescuing import lost_writes, rescue_all
from crdtmem.resolve import require_resolver
from crdtmem.retries import RETRY_PREFIX
from crdtmem.runtime import Runtime, Subscription
from crdtmem.services import Services
from crdtmem.session import MemoryFace
from crdtmem.store import open_store
from crdtmem.transaction import Operation, Transaction, check_space
from crdtmem.wall import now_us

__all__ = ["BatchFeed", "Memory"]

T = TypeVar("T")

_REGISTER = 1
_KEYS_PER_SLICE = 20_000
_RESERVED_IDS = (RETRY_PREFIX, RESCUE_PREFIX)


class Memory(MemoryFace):
    """A replica in this process. Use ``async with await Memory.open(…) as memory``."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        # What a node takes in of its clients, and what memory it may take; else none.
        self.admission: Admission | None = None
        self.services = Services(runtime)
        self.services.after_restart.append(self._engine_replaced)
        self._served = runtime.engine
        self._feeds: WeakSet[Feed] = WeakSet()
        super().__init__(WriteOptions())

    @property
    def engine(self) -> Engine:
        """The engine that runs now: another one after this replica had to take a new id."""
        return self.runtime.engine

    @classmethod
    async def open(
        cls,
        store_url: str,
        *,
        region: str = "local",
        node_name: str = "",
        limits: Limits = DEFAULT_LIMITS,
        found: bool = False,
        tune_gc: bool = True,
    ) -> Memory:
        """Open a store and recover its replica; raises ``StoreError``s.

        ``found`` makes a cluster of its own of what a backup of another cluster's node
        holds; without it such a store waits for a member of that cluster to admit it.
        ``tune_gc`` lets the memory keep Python's cyclic collector, process-wide,
        from walking its state: see ``runtime.tune_garbage_collector``.
        """
        store = open_store(store_url)
        try:
            node = NodeInfo(name=node_name)
            engine = open_engine(store, region=region, node=node, limits=limits)
        except BaseException:
            store.close()
            raise
        memory = cls(Runtime(engine, store, tune_gc=tune_gc))
        memory.runtime.checkpointer = Checkpointer(memory.runtime)
        memory.runtime.apply(engine.start(memory.runtime.now_us(), found=found))
        memory.runtime.checkpointer.note_written(0)
        return memory

    async def close(self) -> None:
        """Let the last commit land, refuse what is queued, close the store."""
        await self.runtime.close()

    # ------------------------------------------------------------------ Backend

    @property
    def limits(self) -> Limits:
        """The limits that bind local writes."""
        return self.engine.replica.limits

    @property
    def replica_id(self) -> int:
        """This replica's id."""
        return self.engine.identity.replica

    @property
    def region(self) -> str:
        """The region that this replica stands in."""
        return self.engine.identity.region

    def now_us(self) -> int:
        """Return the current wall-clock time in microseconds."""
        return now_us()

    def draw_number(self) -> int:
        """Return a number of 64 random bits."""
        return secrets.randbits(64)

    async def _commit(self, transaction: Transaction, options: WriteOptions) -> Committed:
        ticket: asyncio.Future[Committed] = self.runtime.ticket()
        deadline_us = self.submit(ticket, transaction, options)
        committed = await ticket
        if options.durability != "local":
            await self.durable(committed.context, options.durability, deadline_us)
        return committed

    def submit(self, ticket: Any, transaction: Transaction, options: WriteOptions) -> int:
        """Seal and queue a transaction; ``ticket`` is answered when it is durable here.

        A ticket has ``done``, ``set_result`` and ``set_exception``, like a future.
        Returns the deadline of its waits, in microseconds. Raises what can be
        told at once. ``options.durability`` is not waited for: see ``durable``.
        """
        runtime = self.runtime
        runtime.check_open()
        admission = self.admission
        if admission is not None and admission.full and not only_removes(transaction.steps):
            admission.require_memory()
        for step in transaction.steps:
            if step.space == SYSTEM_SPACE:
                _check_system_write(step, self.limits)
        transaction.seal(self.limits)
        if transaction.operation_id is not None:
            _require_free(transaction.operation_id)
        now = self.runtime.now_us()
        deadline_us = now + options.timeout_ms * 1_000
        after = None if options.after is None else options.after.vector
        runtime.queued(
            self.engine.submit(ticket, transaction, now, after=after, deadline_us=deadline_us)
        )
        return deadline_us

    async def durable(self, context: Context, durability: str, deadline_us: int) -> None:
        """Return once a context is durable as widely as named; raises ``DurabilityTimeout``."""
        self.runtime.check_alive()
        ticket: asyncio.Future[None] = self.runtime.ticket()
        now = self.runtime.now_us()
        self.runtime.apply(
            self.engine.await_durability(ticket, context.vector, durability, now, deadline_us)
        )
        await self._answered(ticket)

    async def wait_for(self, context: Context, *, timeout_ms: int = 10_000) -> Context:
        """Return once ``context`` has been joined here; raises ``NotCovered`` at the deadline."""
        self.runtime.check_alive()
        ticket: asyncio.Future[Context] = self.runtime.ticket()
        now = self.runtime.now_us()
        deadline_us = now + timeout_ms * 1_000
        self.runtime.apply(self.engine.wait(ticket, context.vector, now, deadline_us))
        return await self._answered(ticket)

    async def _answered(self, ticket: asyncio.Future[T]) -> T:
        """Wait for an answer; who gives up leaves its place to others."""
        try:
            return await ticket
        except asyncio.CancelledError:
            self.engine.forget(ticket)
            raise

    async def read(
        self,
        space: SpaceName,
        datatype: int,
        key: str,
        *,
        at_least: Context | None = None,
        timeout_ms: int = 10_000,
    ) -> Reading:
        """Read one key, once ``at_least`` has been joined."""
        if at_least is not None:
            await self.wait_for(at_least, timeout_ms=timeout_ms)
        if self.runtime.defect is not None:
            raise self.runtime.defect
        return self.engine.replica.read(space, datatype, key, now_us())

    def reader(self, *labels: str) -> Callable[..., Any]:
        """Return a function that reads registers of a space now: ``read(key, default=None)``.

        The quickest read there is: no awaiting, no reading object, and the clock
        is looked at only where an entry has an expiry.
        """
        space = check_space(labels, self.limits)
        # The table stays while its slots are replaced: by a snapshot, or by a new engine.
        table = self.engine.replica.state.table(space, _REGISTER)
        careful = self.engine.replica.peek

        def read(key: str, default: Any = None) -> Any:
            slot = table.slots.get(key)
            if slot is None:
                return default
            if type(slot) is tuple and slot[2].expires_at_us is None:
                value = slot[1]
                kind = type(value)
                return thaw(value) if kind is tuple or kind is dict else value
            return careful(space, key, now_us(), default)

        return read

    async def keys(
        self, space: SpaceName, datatype: int, *, after: str = "", limit: int | None = None
    ) -> list[str]:
        """Return the keys of one datatype in a space, sorted; expired ones are left out.

        With ``limit``, so many of those beyond ``after`` at most: a page.
        """
        replica = self.engine.replica
        table = replica.state.find(space, datatype)
        if table is None:
            return []
        kind, reader = DATATYPES_BY_CODE[datatype], SpaceReader(now_us(), replica.policy(space))
        slots, names, page = table.slots, list(table.slots), list[str]()
        if limit is None:
            return sorted(key for key in names if key > after and kind.exists(slots[key], reader))
        for start in range(0, len(names), _KEYS_PER_SLICE):
            beyond = (key for key in names[start : start + _KEYS_PER_SLICE] if key > after)
            held = (key for key in beyond if key in slots and kind.exists(slots[key], reader))
            page = heapq.nsmallest(limit, chain(page, held))
            if len(names) > _KEYS_PER_SLICE:
                # A page of a million keys is not looked for in one go.
                await asyncio.sleep(0)
        return page

    async def spaces(self) -> list[SpaceName]:
        """Return the spaces that hold anything, sorted, without the system space."""
        tables = self.engine.replica.state.tables
        held = {space for (space, _), table in tables.items() if table.slots}
        return sorted(held - {SYSTEM_SPACE})

    async def conflicts(self, space: SpaceName | None = None) -> list[Conflict]:
        """Return the places that hold concurrent values now, of one space or of all."""
        return [Conflict(*row) for row in self.engine.replica.conflicts(space, now_us())]

    async def set_aside(self) -> list[LostWrite]:
        """Return every write that this store has set aside, and what became of it."""
        return await lost_writes(self.runtime)

    async def rescue(self, dots: Collection[str] | None = None) -> dict[str, Any]:
        """Write again, as new operations, what was set aside: by dots, or all that is lost.

        Each is written once, however often this is called. Returns how many were
        ``written``, were ``already`` there, and which ``failed``. Raises ``InvalidValue``
        where another replica is the one to do it, or it is not certain yet who is.
        """
        self.runtime.check_open()
        return await rescue_all(self.runtime, None if dots is None else frozenset(dots))

    async def evict(self, replica: int, *, forced: bool = False) -> None:
        """Propose to give a member up for good; the others decide, in their own time.

        ``forced`` counts it in no majority: only if it never comes back. Raises
        ``UnknownName``, ``InvalidValue`` and ``ConditionFailed``.
        """
        self.runtime.check_open()
        self.runtime.apply(self.engine.evict(replica, self.runtime.now_us(), forced=forced))

    async def rejoin(self) -> None:
        """Join the other side of a cluster in which both sides were given up by force.

        This replica's id ends; the node goes on under a new one, with what the other side
        lacks of it set aside (see ``set_aside``). Raises ``ConditionFailed`` where no such
        side was met.
        """
        self.runtime.check_open()
        self.runtime.apply(self.engine.rejoin())

    async def joined(self) -> Context:
        """Return what this replica has joined and published now."""
        return self.engine.replica.context

    async def changes(
        self,
        space: SpaceName | None = None,
        *,
        after: Context | None = None,
        limit_batches: int = 10_000,
    ) -> Feed:
        """Open a feed of what is published, of one space or of all: see ``ChangeFeed``.

        With ``after``, a cursor of an earlier feed or any other context, it first tells what
        this replica has joined and that does not cover, out of the log; else it begins with
        what is published from now on. Raises ``HistoryGap`` where that is not held any more.
        """
        feed = Feed(self.runtime, space, after, limit_batches)
        self._feeds.add(feed)
        try:
            await feed.begin()
        except BaseException:
            await feed.close()
            raise
        return feed

    def _engine_replaced(self) -> None:
        """Let feeds go on with the engine that took over, where that is exact."""
        before, self._served = self._served, self.engine
        for feed in self._feeds:
            feed.engine_replaced(before.replica.state.vector, self._served.replica.state.vector)

    def subscribe(self, limit_batches: int = 10_000) -> BatchFeed:
        """Return a bounded queue of everything published from now on: ``changes`` loses nothing."""
        return BatchFeed(self.listen(limit_batches))

    def unsubscribe(self, feed: BatchFeed) -> None:
        """End what ``subscribe`` began."""
        self.stop_listening(feed.subscription)

    def listen(self, limit_batches: int) -> Subscription:
        """Begin a subscription to the very batches that were joined: not to be changed."""
        subscription = Subscription(limit_batches)
        self.runtime.subscriptions.append(subscription)
        return subscription

    def stop_listening(self, subscription: Subscription) -> None:
        """End a subscription."""
        if subscription in self.runtime.subscriptions:
            self.runtime.subscriptions.remove(subscription)


class BatchFeed:
    """A bounded queue of published batches, for one consumer: see ``Subscription``."""

    __slots__ = ("subscription",)

    def __init__(self, subscription: Subscription) -> None:
        self.subscription = subscription

    @property
    def missed(self) -> int:
        """How many deltas were dropped because this feed was read too slowly."""
        return self.subscription.missed

    async def next(self) -> PublishedBatch:
        """Return the next published batch, waiting for it; raises ``Closed`` at the end."""
        return PublishedBatch(await self.subscription.next())

    def pending(self) -> list[PublishedBatch]:
        """Take everything that is queued now."""
        return [PublishedBatch(batch) for batch in self.subscription.pending()]

    def close(self) -> None:
        """End it: ``next`` raises ``Closed`` once what is queued has been taken."""
        self.subscription.close()


def _require_free(operation_id: bytes) -> None:
    """Refuse the ids of this program's own transactions: a stranger's would pass for them."""
    if operation_id.startswith(_RESERVED_IDS):
        raise InvalidValue(
            f"the operation id {operation_id!r:.80} is reserved: clients do not use its prefix",
            hint="draw 16 random bytes once per operation, and keep them for its retries",
        )


def _check_system_write(step: Any, limits: Limits) -> None:
    """Refuse whatever is no policy, whole and in its place: every node has to read it."""
    if type(step) is Operation and step.datatype == _REGISTER:
        space = policy_space(step.key)
        is_named = space is not None and policy_key(check_space(space, limits)) == step.key
        if is_named and step.name == "delete":
            return
        if is_named and step.name == "set" and len(step.arguments) == 1:
            policy = Policy.from_value(step.arguments[0])
            # Asked of what is written here only: what others wrote is joined all the same.
            require_resolver(policy.resolver, policy.resolver_version)
            return
    raise InvalidValue(
        "the system space is written through policies and membership only",
        hint="use space.set_policy, or 'crdtmem evict'",
    )
