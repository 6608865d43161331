"""What a verb's handler is handed: a question that is answered once, whoever asked it.

Problem: the same questions arrive over a Unix socket, a WebSocket and HTTP. Three
implementations of one verb would be three sets of permissions, limits and mistakes.

Idea: a handler sees a question's body and a ``Request``, which it answers as one answers
a future, now or later, whole or in parts. How the answer travels is the face's business.
What can be answered at once may be a ``Quick`` besides, which costs a face no request.

Invariants: a request is answered once; a handler may raise ``CrdtmemError`` at once
instead of answering; answers of a client that is gone go nowhere and cost nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Final, Protocol

__all__ = ["LATER", "Handler", "Quick", "Request"]


class Request(Protocol):
    """One question of one client.

    ``encode``, where set, makes plain values of the answer, for a wire. A face that has words
    of its own for answers, such as HTTP, may take the answer as it is.
    """

    encode: Callable[[Any], Any] | None

    def done(self) -> bool:
        """Tell whether it was answered, or nobody waits any more."""

    def set_result(self, result: Any) -> None:
        """Answer with a result, through ``encode`` if that was set."""

    def set_exception(self, error: BaseException) -> None:
        """Answer with an error; one that is not ours is logged and reported as such."""

    async def emit(self, event: Any) -> None:
        """Send a part ahead of the answer, as soon as the client has room for it."""

    def rest(self) -> None:
        """Hold nothing of this node's room from here on: what is waited for is others."""

    def run(self, work: Coroutine[Any, Any, Any]) -> None:
        """Answer with what a coroutine returns or raises; it ends when the client leaves."""


Handler = Callable[[Request, Any], None]
"""Answers a request, at once or later; may raise ``CrdtmemError`` at once."""

Quick = Callable[[Any], Any]
"""Answers a body at once, or returns ``LATER``: its verb's handler then takes the request."""

LATER: Final = object()
"""What a ``Quick`` returns for a question that it cannot answer without waiting."""
