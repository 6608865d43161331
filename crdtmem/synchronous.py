"""The synchronous face: the same memory, for programs without an event loop.

Problem: scripts and notebooks do not await. A second, hand-written client would
drift from the first within a year.

Idea: one thread runs an event loop; a memory, embedded or remote, lives on it.
What is handed out are thin shells around the very handles, spaces and sessions of
the asynchronous API: a call is carried out on the loop's thread, what it returns is
awaited there, and only the outcome comes back. Asynchronous context managers and
iterators become plain ones. There is no list of methods to keep in step: a new
method of a handle is here at once.

Invariants: everything happens on the loop's thread, so a memory is as safe to
share between threads as a queue; a call from a thread that runs an event loop is
refused, because it would stop that loop; a call takes no longer than the asynchronous
one may, and an iterator can be polled with a time-out; after ``close`` every call raises
``Closed``, those that were under way in other threads included, and the thread has ended.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import inspect
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from crdtmem.causality import Context
from crdtmem.client import connect
from crdtmem.errors import Closed, LocalError
from crdtmem.handles import Handle, Space
from crdtmem.memory import Memory
from crdtmem.session import OpenTransaction, Session

__all__ = ["Shell", "SyncMemory", "connect_sync"]

T = TypeVar("T")

_END_S: Final = 5.0
_SHELLED: Final = (Handle, OpenTransaction, Session, Space)


class _Loop:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, name="crdtmem-loop", daemon=True)
        self._thread.start()
        self._gate = threading.Lock()
        self._closed = False

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    def run(self, call: Callable[[], Any]) -> Any:
        """Make a call on the loop's thread, await what it returns, and return the outcome."""
        _refuse_on_event_loop()

        async def carry_out() -> Any:
            result = call()
            return await result if inspect.isawaitable(result) else result

        with self._gate:
            if self._closed:
                raise _closed()
            future = asyncio.run_coroutine_threadsafe(carry_out(), self._loop)
        try:
            return future.result()
        except concurrent.futures.CancelledError:
            # By ``close``, in another thread.
            raise _closed() from None
        except KeyboardInterrupt:
            future.cancel()
            raise

    def close(self) -> None:
        """End the loop and its thread. Idempotent."""
        with self._gate:
            if self._closed:
                return
            self._closed = True
        asyncio.run_coroutine_threadsafe(self._end_all(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _end_all(self) -> None:
        """End whatever still runs: a thread may be waiting for it."""
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        if others:
            await asyncio.wait(others, timeout=_END_S)
        await self._loop.shutdown_asyncgens()


def _closed() -> Closed:
    return Closed("this memory is closed", hint="open it again")


def _refuse_on_event_loop() -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return  # No loop runs on this thread: just what is wanted.
    raise LocalError(
        "the synchronous memory was called on the thread of an event loop, which it would stop",
        hint="await Memory or connect() there, or call from another thread",
    )


class Shell:
    """A synchronous shell around one object of the asynchronous API."""

    def __init__(self, loop: _Loop, inner: Any) -> None:
        self._loop = loop
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        found = getattr(self._inner, name)
        if not callable(found):
            return self._shell(found)

        def call(*args: Any, **kwargs: Any) -> Any:
            return self._shell(self._loop.run(lambda: found(*args, **kwargs)))

        call.__name__, call.__doc__ = name, found.__doc__
        return call

    def _shell(self, result: Any) -> Any:
        """Wrap what has asynchronous methods itself; everything else is a plain value."""
        if isinstance(result, AbstractAsyncContextManager):
            return _Block(self._loop, result)
        if isinstance(result, _SHELLED):
            return Shell(self._loop, result)
        if hasattr(result, "__anext__"):
            return _Feed(self._loop, result)
        return result

    def __repr__(self) -> str:
        return f"Shell({self._inner!r})"


class _Block(Shell):
    """An asynchronous context manager as a plain one."""

    def __enter__(self) -> Any:
        return self._shell(self._loop.run(self._inner.__aenter__))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool | None:
        ended: bool | None = self._loop.run(lambda: self._inner.__aexit__(kind, error, trace))
        return ended


class _Feed(Shell):
    """An asynchronous iterator as a plain one. For one thread at a time."""

    def __init__(self, loop: _Loop, inner: Any) -> None:
        super().__init__(loop, inner)
        self._coming: asyncio.Future[Any] | None = None

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        found = self._loop.run(lambda: self._following(None))
        if found is _END:
            raise StopIteration
        return found

    def poll(self, timeout_ms: int) -> Any | None:
        """Return the next item, or ``None`` if there was none within the time, or ever will be."""
        found = self._loop.run(lambda: self._following(timeout_ms / 1_000))
        return None if found is _END else found

    async def _following(self, timeout_s: float | None) -> Any:
        # What is not waited for any longer is kept: to cancel it could end the iterator.
        if self._coming is None:
            self._coming = asyncio.ensure_future(self._next())
        done, _ = await asyncio.wait({self._coming}, timeout=timeout_s)
        if not done:
            return None
        coming, self._coming = self._coming, None
        return coming.result()

    async def _next(self) -> Any:
        try:
            return await anext(self._inner)
        except StopAsyncIteration:
            return _END


_END: Final = object()


class SyncMemory(Shell):
    """A memory without ``await``: ``space``, ``session``, ``transaction`` and all the rest.

    Use ``with SyncMemory.open("sqlite:///agent.db") as memory`` for an embedded one,
    ``with SyncMemory.connect("unix:///…")`` for a node's.
    """

    @classmethod
    def open(cls, store_url: str, **options: Any) -> Self:
        """Open an embedded memory; takes what ``Memory.open`` takes, and raises the same."""
        return cls._start(lambda: Memory.open(store_url, **options))

    @classmethod
    def connect(cls, *node_urls: str, **options: Any) -> Self:
        """Connect to a node; takes what ``connect`` takes, and raises the same."""
        return cls._start(lambda: connect(*node_urls, **options))

    @classmethod
    def _start(cls, begin: Callable[[], Awaitable[Any]]) -> Self:
        _refuse_on_event_loop()
        loop = _Loop()
        try:
            return cls(loop, loop.run(begin))
        except BaseException:
            loop.close()
            raise

    def close(self) -> None:
        """Close the memory, and end its thread. Idempotent."""
        _refuse_on_event_loop()
        try:
            self._loop.run(self._inner.close)
        except Closed:
            return
        self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def connect_sync(
    *node_urls: str, timeout_ms: int = 10_000, retry: bool = True, seen: Context | None = None
) -> SyncMemory:
    """Connect to a node without ``await``: see ``connect``. Use ``with connect_sync(…) as memory``.

    The memory may be shared between threads. Raises what ``connect`` raises, and
    ``LocalError`` on the thread of an event loop.
    """
    return SyncMemory.connect(*node_urls, timeout_ms=timeout_ms, retry=retry, seen=seen)
