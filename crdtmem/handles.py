"""Typed handles: what a user holds to read and write one key of one datatype.

Problem: the same code must run against an embedded replica, a node behind a
socket, or inside a transaction, and moving between them must change one line.

Idea: a handle turns a call into an ``Operation`` and gives it to a ``write``
function. Where that function commits at once it returns an awaitable; inside a
transaction it only adds a step, and returns ``None``: hence the type parameter.
Reads go through a ``Backend``, which both the embedded memory and the client
implement, so there is one set of handles for all.

Invariants: a handle holds no state but its address; a value that is passed in
is copied before the call returns to the event loop; a value that is returned
never aliases the replica's state.

The write parameter mirrors httpx's lesson: one implementation, not two clients
kept alike by hand.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, Generic, Protocol, TypeVar

import pycrdt

from crdtmem.batch import SpaceName
from crdtmem.causality import Context, Observed
from crdtmem.crdt import DATATYPES
from crdtmem.crdt.document import updates_of
from crdtmem.crdt.updates import client_id, compact, materialise
from crdtmem.errors import UnknownName
from crdtmem.limits import Limits
from crdtmem.policy import SYSTEM_SPACE, Policy, policy_key
from crdtmem.reading import Reading
from crdtmem.replica import Committed
from crdtmem.transaction import Operation, Options, Transaction, check_space

__all__ = [
    "Backend",
    "BoundedCounter",
    "Conflict",
    "Counter",
    "Document",
    "Flag",
    "Handle",
    "Log",
    "Map",
    "Register",
    "Set",
    "Space",
    "WriteOptions",
]

R_co = TypeVar("R_co", covariant=True)
R = TypeVar("R")

_NO_OPTIONS: Final = Options()


@dataclass(frozen=True, slots=True)
class Conflict:
    """One place that holds concurrent values: where, what a reader sees, and the siblings."""

    space: SpaceName
    datatype: str
    key: str
    field: Any
    resolver: str
    value: Any
    siblings: list[dict[str, Any]]

    def as_value(self) -> dict[str, Any]:
        """Return the conflict as a plain dict."""
        return {
            "space": list(self.space),
            "datatype": self.datatype,
            "key": self.key,
            "field": self.field,
            "resolver": self.resolver,
            "value": self.value,
            "siblings": self.siblings,
        }


@dataclass(frozen=True, slots=True)
class WriteOptions:
    """What qualifies a commit: who asks, what it must follow, how durable it must be.

    ``durability`` is ``local``, ``region``, ``majority`` or ``all`` (regions);
    ``timeout_ms`` bounds every wait; ``after`` is joined before the write.
    """

    author: str = ""
    trust: int = 0
    durability: str = "local"
    timeout_ms: int = 10_000
    after: Context | None = None
    operation_id: bytes | None = None


class Backend(Protocol):
    """What a set of handles needs of an embedded memory or of a client."""

    @property
    def limits(self) -> Limits:
        """The limits that transactions are sealed against."""

    @property
    def replica_id(self) -> int:
        """The id of the replica that writes are made through."""

    def now_us(self) -> int:
        """Return the current time in microseconds."""

    def draw_number(self) -> int:
        """Return a number of 64 random bits, never drawn before."""

    async def commit(self, transaction: Transaction, options: WriteOptions) -> Committed:
        """Commit a transaction; raises a ``CrdtmemError`` and changes nothing."""

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

    async def keys(self, space: SpaceName, datatype: int) -> list[str]:
        """Return the keys of one datatype in a space, sorted."""

    async def conflicts(self, space: SpaceName | None) -> list[Conflict]:
        """Return the places that hold concurrent values now."""

    async def spaces(self) -> list[SpaceName]:
        """Return the names of the spaces that hold anything, sorted."""


Write = Callable[[Operation], R]


class Handle(Generic[R]):
    """One key of one datatype. Subclasses name the operations."""

    datatype = ""

    __slots__ = ("_backend", "_code", "_space", "_write", "key")

    def __init__(
        self, backend: Backend, space: SpaceName, key: str, write: Write[R], code: int
    ) -> None:
        self._backend = backend
        self._space = space
        self._write = write
        self._code = code
        self.key = key

    async def read(self, *, at_least: Context | None = None, timeout_ms: int = 10_000) -> Reading:
        """Return the value with its siblings, ``contested``, ``observed`` and context."""
        return await self._backend.read(
            self._space, self._code, self.key, at_least=at_least, timeout_ms=timeout_ms
        )

    async def get(self, *, at_least: Context | None = None) -> Any:
        """Return the value alone."""
        return (await self.read(at_least=at_least)).value

    def delete(self, *, observed: Observed | None = None, expect: Observed | None = None) -> R:
        """Remove what was observed; what was written concurrently survives."""
        return self._do("delete", (), observed=observed, expect=expect)

    def _do(
        self,
        name: str,
        arguments: tuple[Any, ...],
        *,
        observed: Observed | None = None,
        expect: Observed | None = None,
        ttl_ms: int | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> R:
        options: Options | None = None
        if observed is not None or expect is not None or ttl_ms is not None or metadata:
            seen = expect if expect is not None else observed
            options = Options(
                observed=None if seen is None else seen.dots,
                conditional=expect is not None,
                expires_at_us=None if ttl_ms is None else self._backend.now_us() + ttl_ms * 1000,
                metadata=metadata or {},
            )
        return self._write(Operation(self._space, self._code, self.key, name, arguments, options))


class Register(Handle[R]):
    """A register: one value, concurrent ones kept and resolved by the space's policy."""

    __slots__ = ()

    def set(
        self,
        value: Any,
        *,
        observed: Observed | None = None,
        expect: Observed | None = None,
        ttl_ms: int | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> R:
        """Write a value.

        Without ``observed`` the write is blind: it supersedes whatever this
        replica holds at that moment. With it, exactly what was read. With
        ``expect`` it is refused (``ConditionFailed``) unless the key still holds
        exactly what was read.
        """
        return self._do(
            "set", (value,), observed=observed, expect=expect, ttl_ms=ttl_ms, metadata=metadata
        )


class Flag(Handle[R]):
    """A flag, enable-wins or disable-wins."""

    __slots__ = ()

    def enable(self, *, observed: Observed | None = None) -> R:
        """Raise the flag."""
        return self._do("enable", (), observed=observed)

    def disable(self, *, observed: Observed | None = None) -> R:
        """Lower the flag."""
        return self._do("disable", (), observed=observed)


class Counter(Handle[R]):
    """A counter: increments from all replicas add up; a reset is exact."""

    __slots__ = ()

    def increment(self, amount: int = 1) -> R:
        """Add ``amount`` (a non-negative integer)."""
        return self._do("increment", (amount,))

    def decrement(self, amount: int = 1) -> R:
        """Subtract ``amount`` (not on a grow-only counter)."""
        return self._do("decrement", (amount,))

    def reset(self, *, observed: Observed | None = None) -> R:
        """Take back what was observed; a concurrent increment survives whole."""
        return self._do("reset", (), observed=observed)


class BoundedCounter(Handle[R]):
    """A shared budget that can never be overspent: spending needs rights held here."""

    __slots__ = ()

    def mint(self, amount: int) -> R:
        """Raise the bound: create rights, held by this replica."""
        return self._do("mint", (amount,))

    def burn(self, amount: int) -> R:
        """Lower the bound by rights that this replica holds."""
        return self._do("burn", (amount,))

    def consume(self, amount: int = 1) -> R:
        """Spend; raises ``InsufficientRights`` when this replica holds too few."""
        return self._do("consume", (amount,))

    def release(self, amount: int = 1) -> R:
        """Give back what this replica had spent."""
        return self._do("release", (amount,))

    def transfer(self, amount: int, to_replica: int) -> R:
        """Hand rights over to another replica."""
        return self._do("transfer", (amount, to_replica))


class Set(Handle[R]):
    """A set, add-wins or remove-wins."""

    __slots__ = ()

    def add(self, element: Any, *, observed: Observed | None = None) -> R:
        """Add an element."""
        return self._do("add", (element,), observed=observed)

    def remove(self, element: Any, *, observed: Observed | None = None) -> R:
        """Remove an element as far as it was observed."""
        return self._do("remove", (element,), observed=observed)

    def clear(self) -> R:
        """Remove every element that this replica holds."""
        return self._do("clear", ())


class Map(Handle[R]):
    """A nested map whose members may be of any datatype."""

    __slots__ = ()

    def set(
        self,
        path: str | list[str],
        value: Any,
        *,
        observed: Observed | None = None,
        expect: Observed | None = None,
    ) -> R:
        """Write one member."""
        return self._do("set", (path, value), observed=observed, expect=expect)

    def update(self, members: dict[str, Any]) -> R:
        """Write many members at once; those not named are kept."""
        return self._do("update", (members,))

    def remove(self, path: str | list[str], *, observed: Observed | None = None) -> R:
        """Remove a member and all below it, as far as observed."""
        return self._do("delete", (path,), observed=observed)

    def apply(self, path: str | list[str], datatype: str, operation: str, *arguments: Any) -> R:
        """Carry out an operation on a typed member, such as a counter."""
        return self._do("apply", (path, datatype, operation, *arguments))


class Log(Handle[R]):
    """An append-only log in canonical order."""

    __slots__ = ()

    def append(self, value: Any, *, metadata: dict[str, Any] | None = None) -> R:
        """Append one entry."""
        return self._do("append", (value,), metadata=metadata)

    def extend(self, values: Iterable[Any]) -> R:
        """Append several entries."""
        return self._do("extend", (list(values),))


class Document(Handle[R]):
    """A collaborative document of pycrdt texts, maps and arrays."""

    __slots__ = ()

    async def load(self, *, at_least: Context | None = None) -> pycrdt.Doc[Any]:
        """Return the document as it is now: a copy of the caller's own, to read or to keep."""
        reading = await self.read(at_least=at_least)
        session = self._backend.draw_number()
        client = client_id(self._backend.replica_id, (*self._space, self.key), session)
        return materialise(updates_of(reading.entries), client)

    @asynccontextmanager
    async def edit(self) -> AsyncIterator[pycrdt.Doc[Any]]:
        """Edit the document in an ``async with`` block: what changed is written when it ends.

        The block gets a copy, so that nobody sees an edit before it is durable. An
        exception inside abandons the edit. Edits of others at the same time are
        kept, and woven together as pycrdt does.
        """
        document = await self.load()
        changes: list[bytes] = []
        subscription = document.observe(lambda event: changes.append(event.update))
        yield document
        document.unobserve(subscription)
        if changes:
            written: Any = self.update(changes[0] if len(changes) == 1 else compact(changes))
            if written is not None:
                await written

    def update(self, update: bytes) -> R:
        """Add an update made by a pycrdt (or Yjs) document."""
        return self._do("update", (update,))


_HANDLES: Final[dict[str, type[Handle[Any]]]] = {
    "register": Register,
    "multi_value": Register,
    "flag": Flag,
    "flag_disable_wins": Flag,
    "g_counter": Counter,
    "counter": Counter,
    "bounded_counter": BoundedCounter,
    "set": Set,
    "set_remove_wins": Set,
    "map": Map,
    "log": Log,
    "document": Document,
}


class Space(Generic[R]):
    """A namespace: handles by datatype, and short forms for plain registers."""

    __slots__ = ("_backend", "_put", "_write", "name")

    def __init__(
        self,
        backend: Backend,
        name: Iterable[str],
        write: Write[R],
        put: Callable[[SpaceName, str, Any], R],
    ) -> None:
        self._backend = backend
        self.name = check_space(name, backend.limits)
        self._write = write
        self._put = put

    def handle(self, datatype: str, key: str) -> Handle[R]:
        """Return a handle by the datatype's name; raises ``UnknownName``."""
        kind = DATATYPES.get(datatype)
        if kind is None:
            raise UnknownName(
                f"no datatype is called {datatype!r}", hint=f"there are {', '.join(DATATYPES)}"
            )
        return _HANDLES[datatype](self._backend, self.name, key, self._write, kind.code)

    def _as(self, cls: type[Handle[Any]], datatype: str, key: str) -> Any:
        return cls(self._backend, self.name, key, self._write, DATATYPES[datatype].code)

    def register(self, key: str) -> Register[R]:
        """Return a register."""
        handle: Register[R] = self._as(Register, "register", key)
        return handle

    def multi_value(self, key: str) -> Register[R]:
        """Return a register that always shows every concurrent value."""
        handle: Register[R] = self._as(Register, "multi_value", key)
        return handle

    def flag(self, key: str, *, disable_wins: bool = False) -> Flag[R]:
        """Return a flag."""
        name = "flag_disable_wins" if disable_wins else "flag"
        handle: Flag[R] = self._as(Flag, name, key)
        return handle

    def counter(self, key: str, *, grow_only: bool = False) -> Counter[R]:
        """Return a counter."""
        handle: Counter[R] = self._as(Counter, "g_counter" if grow_only else "counter", key)
        return handle

    def bounded_counter(self, key: str) -> BoundedCounter[R]:
        """Return a bounded counter."""
        handle: BoundedCounter[R] = self._as(BoundedCounter, "bounded_counter", key)
        return handle

    def set(self, key: str, *, remove_wins: bool = False) -> Set[R]:
        """Return a set."""
        handle: Set[R] = self._as(Set, "set_remove_wins" if remove_wins else "set", key)
        return handle

    def map(self, key: str) -> Map[R]:
        """Return a nested map."""
        handle: Map[R] = self._as(Map, "map", key)
        return handle

    def log(self, key: str) -> Log[R]:
        """Return an append-only log."""
        handle: Log[R] = self._as(Log, "log", key)
        return handle

    def document(self, key: str) -> Document[R]:
        """Return a collaborative document."""
        handle: Document[R] = self._as(Document, "document", key)
        return handle

    def put(self, key: str, value: Any) -> R:
        """Write a register blind: the short form of ``register(key).set(value)``."""
        return self._put(self.name, key, value)

    async def get(self, key: str, *, at_least: Context | None = None) -> Any:
        """Return a register's value, ``None`` where there is none."""
        return (await self.register(key).read(at_least=at_least)).value

    async def keys(self, datatype: str = "register") -> list[str]:
        """Return the keys of one datatype, sorted."""
        return await self._backend.keys(self.name, DATATYPES[datatype].code)

    async def conflicts(self) -> list[Conflict]:
        """Return the places of this space that hold concurrent values now."""
        return await self._backend.conflicts(self.name)

    def set_policy(self, policy: Policy) -> R:
        """Replace this space's policy, in every region, by ``latest``."""
        code = DATATYPES["register"].code
        arguments = (policy.as_value(),)
        return self._write(Operation(SYSTEM_SPACE, code, policy_key(self.name), "set", arguments))


Committing = Space[Awaitable[Committed]]
"""A space whose writes commit at once, and are awaited."""
