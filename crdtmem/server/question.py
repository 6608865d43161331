"""One question that HTTP asks of a verb: a ``Request`` whose answer somebody awaits.

Problem: a verb may answer at once, later, in parts, or by a coroutine; an HTTP answer is
one thing that is awaited. Most reads are answered at once, and should cost no future, no
task and no trip through the event loop.

Idea: ``Question`` keeps what the handler did, and ``answer`` returns it, waiting only where
there is something to wait for. A coroutine that a handler starts is awaited in the task of
the connection itself: it ends when the client leaves, because that task is cancelled.

HTTP makes its own words of an answer, so ``encode``, which makes plain values for a wire,
is left alone: the result is taken as the object that an embedded caller gets.

Invariants: answered once; a question whose asker is gone counts as answered; parts nobody
asked for are dropped.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final

from crdtmem.asking import Handler

__all__ = ["Question", "ask"]

_UNANSWERED: Final = object()


class Question:
    """One question: see ``crdtmem.asking.Request``, and ``ask``."""

    __slots__ = ("_error", "_result", "_waiter", "_work", "encode", "on_part", "on_rest")

    def __init__(
        self,
        on_part: Callable[[Any], Awaitable[None]] | None = None,
        on_rest: Callable[[], None] | None = None,
    ) -> None:
        self._result: Any = _UNANSWERED
        self._error: BaseException | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._work: Coroutine[Any, Any, Any] | None = None
        self.encode: Callable[[Any], Any] | None = None
        self.on_part = on_part
        self.on_rest = on_rest

    def done(self) -> bool:
        """Tell whether it was answered, or nobody waits any more."""
        return self._result is not _UNANSWERED or self._error is not None

    def set_result(self, result: Any) -> None:
        """Answer with a result."""
        if not self.done():
            self._result = result
            self._wake()

    def set_exception(self, error: BaseException) -> None:
        """Answer with an error."""
        if not self.done():
            self._error = error
            self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def emit(self, event: Any) -> None:
        """Send a part ahead of the answer."""
        if self.on_part is not None:
            await self.on_part(event)

    def rest(self) -> None:
        """Hold nothing from here on."""
        if self.on_rest is not None:
            self.on_rest()

    def run(self, work: Coroutine[Any, Any, Any]) -> None:
        """Answer with what a coroutine returns or raises."""
        self._work = work

    async def answer(self) -> Any:
        """Return the answer, or raise it."""
        if self._work is not None:
            work, self._work = self._work, None
            return await work
        if not self.done():
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            except asyncio.CancelledError:
                # What was begun goes on; there is nobody left to tell.
                self._result = None
                raise
        if self._error is not None:
            raise self._error
        return self._result


async def ask(
    handler: Handler,
    body: Any,
    on_part: Callable[[Any], Awaitable[None]] | None = None,
    on_rest: Callable[[], None] | None = None,
) -> Any:
    """Ask a verb's handler one thing, and return its answer; raises what it answers.

    ``on_part`` takes the parts, if there are any; ``on_rest`` is called when only others are
    waited for.
    """
    question = Question(on_part, on_rest)
    handler(question, body)
    return await question.answer()
