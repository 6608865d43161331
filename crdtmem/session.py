"""Sessions: who is writing, and what they have already seen.

Problem: an author must be stamped on every write without being passed to every
call; and a user who moves between nodes must never read an older world than the
one that they left.

Idea: a session carries an author, a trust and a context. Every commit merges its
context into the session's; ``at_least=session.context`` on another node then
waits for it. Sessions are cheap: make one per agent.

``MemoryProtocol`` is what an embedded memory and a client both are: code that
names it moves from one to the other by changing the line that opens it.

Invariants: a session's context only grows. Session guarantees are those of
Terry et al., "Session Guarantees for Weakly Consistent Replicated Data".
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any, Protocol, Self, runtime_checkable

from crdtmem.batch import SpaceName
from crdtmem.causality import Context
from crdtmem.changes import Change, Lagging, Part
from crdtmem.errors import DurabilityTimeout, InvalidValue
from crdtmem.handles import Backend, Space, WriteOptions
from crdtmem.replica import Committed
from crdtmem.transaction import Operation, Transaction

__all__ = ["ChangeFeed", "MemoryFace", "MemoryProtocol", "OpenTransaction", "Session"]

_REGISTER = 1
_COUNTER = 6


class OpenTransaction:
    """A transaction being built: its spaces' writes add steps instead of committing.

    When its ``async with`` block ends it commits, and ``committed`` holds the
    outcome; an exception inside the block abandons it.
    """

    __slots__ = ("_backend", "_commit", "committed", "transaction")

    def __init__(
        self,
        backend: Backend,
        transaction: Transaction,
        commit: Callable[[Transaction], Awaitable[Committed]],
    ) -> None:
        self._backend = backend
        self._commit = commit
        self.transaction = transaction
        self.committed: Committed | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.committed = await self._commit(self.transaction)

    def space(self, *labels: str) -> Space[None]:
        """Return a space whose writes become steps of this transaction."""
        return Space(self._backend, labels, self.transaction.add, self._put)

    def put(self, space: SpaceName, key: str, value: Any) -> None:
        """Add a plain register write: the quickest form, for a space's checked name."""
        self.transaction.put(space, _REGISTER, key, value)

    def put_many(self, space: SpaceName, items: dict[str, Any]) -> None:
        """Add many plain register writes at once."""
        run = self.transaction.run(space, _REGISTER)
        run.keys += items.keys()
        run.values += items.values()

    def count_many(self, space: SpaceName, items: dict[str, int]) -> None:
        """Count many counters up at once, by the amounts given."""
        run = self.transaction.count_run(space, _COUNTER)
        run.keys += items.keys()
        run.values += items.values()

    def _put(self, space: SpaceName, key: str, value: Any) -> None:
        self.transaction.put(space, _REGISTER, key, value)


class Session:
    """An author's view of a memory: spaces, transactions, and a context that only grows."""

    def __init__(self, backend: Backend, options: WriteOptions) -> None:
        self._backend = backend
        self.options = options
        self.context = Context()

    def space(self, *labels: str) -> Space[Awaitable[Committed]]:
        """Return a space whose writes commit at once."""
        return Space(self._backend, labels, self._commit_operation, self._commit_put)

    def session(self, **changes: Any) -> Session:
        """Return a session with other ``WriteOptions`` (``author=``, ``trust=``, …).

        Raises ``InvalidValue`` for an ``operation_id``, which is of one transaction.
        """
        if changes.get("operation_id") is not None:
            raise InvalidValue(
                "a session has no operation id: all of its writes but the first would count as "
                "repeated, and not be done",
                hint="pass it to transaction(operation_id=…)",
            )
        fields = {name: getattr(self.options, name) for name in WriteOptions.__slots__}
        return Session(self._backend, WriteOptions(**{**fields, **changes}))

    def transaction(self, *, operation_id: bytes | None = None) -> OpenTransaction:
        """Build a transaction in an ``async with`` block; it commits when the block ends.

        An exception inside the block abandons it: nothing was changed.
        """
        return OpenTransaction(self._backend, self._new(operation_id), self.commit)

    async def commit(self, transaction: Transaction) -> Committed:
        """Commit a transaction that was built by hand."""
        return await self._noted(self._backend.commit(transaction, self.options))

    async def _noted(self, commit: Awaitable[Committed]) -> Committed:
        """Await a commit, and note what it wrote; also what is not durable enough in time."""
        try:
            committed = await commit
        except DurabilityTimeout as error:
            if "context" in error.details:
                self.context = self.context.merge(Context.parse(error.details["context"]))
            raise
        self.context = self.context.merge(committed.context)
        return committed

    def _new(self, operation_id: bytes | None = None) -> Transaction:
        options = self.options
        return Transaction(
            author=options.author,
            trust=options.trust,
            operation_id=operation_id,
        )

    async def _commit_operation(self, operation: Operation) -> Committed:
        transaction = self._new()
        transaction.add(operation)
        return await self.commit(transaction)

    async def _commit_put(self, space: SpaceName, key: str, value: Any) -> Committed:
        transaction = self._new()
        transaction.put(space, _REGISTER, key, value)
        return await self.commit(transaction)


class ChangeFeed(Protocol):
    """What was published after a cursor, one ``Change`` per delta, each once.

    Iterate over the changes, or take them with ``next`` in the parts that they come in.
    ``cursor`` covers all of the parts that were taken: open a feed ``after`` it to go on,
    here or at another node. A feed that is read too slowly goes on out of the log; that it
    was told so is counted by ``lagged``. For one reader at a time.

    It ends with ``HistoryGap`` where what comes next is not held one by one, whose
    ``details["resume"]`` is the token of the context from which it can go on: read the state
    again, and open a feed after that. It ends with ``Closed`` when its memory is closed.
    """

    cursor: Context
    lagged: int

    def __aiter__(self) -> Self:
        """Iterate over the changes."""

    async def __anext__(self) -> Change:
        """Wait for the next change."""

    async def next(self) -> Part | Lagging:
        """Wait for the next part, or for the news that this feed is read too slowly."""

    async def close(self) -> None:
        """End the feed. Idempotent."""


@runtime_checkable
class MemoryProtocol(Backend, Protocol):
    """What ``Memory`` and ``Client`` both are."""

    context: Context
    options: WriteOptions

    @property
    def region(self) -> str:
        """The region of the replica that is written to."""

    @property
    def replica_id(self) -> int:
        """The id of the replica that is written to."""

    def space(self, *labels: str) -> Space[Awaitable[Committed]]:
        """Return a space whose writes commit at once."""

    def session(self, **changes: Any) -> Session:
        """Return a session with other ``WriteOptions``."""

    def transaction(
        self, *, operation_id: bytes | None = None
    ) -> AbstractAsyncContextManager[OpenTransaction]:
        """Build a transaction in an ``async with`` block; it commits when the block ends."""

    async def joined(self) -> Context:
        """Return what the replica has joined and published now."""

    async def wait_for(self, context: Context, *, timeout_ms: int = 10_000) -> Context:
        """Return once ``context`` has been joined; raises ``NotCovered`` at the deadline."""

    async def changes(
        self,
        space: SpaceName | None = None,
        *,
        after: Context | None = None,
        limit_batches: int = 10_000,
    ) -> ChangeFeed:
        """Open a feed of what is published, of one space or of all.

        With ``after`` it first tells what the replica has joined and that does not cover; else
        it begins with what is published from now on. ``limit_batches`` is how far its reader
        may fall behind before it goes on out of the log. Raises ``HistoryGap`` where the log
        does not reach back to ``after``.
        """

    async def close(self) -> None:
        """Release what is held. Idempotent."""


class MemoryFace(Session):
    """What ``Memory`` and ``Client`` share: they are a session over themselves.

    A commit through the face itself uses its own options and grows its own
    context; a commit that brings options is one of its sessions' and does not.
    """

    def __init__(self, options: WriteOptions) -> None:
        # Every subclass is a Backend by the methods that it defines.
        super().__init__(self, options)  # type: ignore[arg-type]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def commit(
        self, transaction: Transaction, options: WriteOptions | None = None
    ) -> Committed:
        """Commit a transaction; durable when it returns."""
        if options is not None:
            return await self._commit(transaction, options)
        return await self._noted(self._commit(transaction, self.options))

    @abstractmethod
    async def _commit(self, transaction: Transaction, options: WriteOptions) -> Committed:
        """Carry out a commit."""

    @abstractmethod
    async def close(self) -> None:
        """Release what is held. Idempotent."""
