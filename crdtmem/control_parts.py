"""What a connection is made of besides itself: what carries it, and one request of a client.

Problem: a connection decides about room, order and ends; how one request is answered, in one
piece or in parts, is a matter of its own.

Idea: ``Carrier`` is the little that a connection needs of a transport. A ``ControlRequest``
is what a verb's handler answers; it tells its connection when it is settled, so that what it
held is given back. The first part of an answer in parts makes it a *stream*: it may last for
ever, so nothing is held for it from then on but a place among the streams. One that waits for
other nodes *rests*: however many do, they take nothing from those whom this node can answer.

Invariants: a request is settled once, whatever its handler does.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Final, Protocol

from crdtmem.control_frames import ANSWER_BYTES, ERROR, EVENT, RESULT, encode_body
from crdtmem.errors import CrdtmemError, LimitExceeded
from crdtmem.operations import encode_error

if TYPE_CHECKING:
    from crdtmem.control_connection import Connection

__all__ = [
    "UNREAD_BYTES",
    "Carrier",
    "ControlRequest",
    "Load",
    "carry_out",
    "encode_failure",
    "encode_result",
]

UNREAD_BYTES: Final = 1024 * 1024
"""Bytes of answers that a carrier keeps for a client that does not read, before it says so."""

_log = logging.getLogger("crdtmem.control")


class Carrier(Protocol):
    """What a connection needs of its transport.

    In turn a carrier calls ``made`` once, ``received`` whenever a whole payload has come,
    ``pause_writing`` when over ``UNREAD_BYTES`` of what it was given lie unsent,
    ``resume_writing`` when they no longer do, and ``ended`` once.
    """

    @property
    def spared(self) -> int:
        """How many places for connections are left to those who come another way."""

    @property
    def awaited_bytes(self) -> int:
        """The size of a payload that has begun to come and is not whole yet, if it is known."""

    @property
    def unread_bytes(self) -> int:
        """How many bytes of what was given to be sent lie unsent."""

    def is_gone(self) -> bool:
        """Tell whether the client has left, which who does not read is not told."""

    def next_payload(self) -> bytes | None:
        """Return the next whole payload that has come, if one has; may raise ``WireError``s."""

    def write(self, payload: bytes) -> None:
        """Send a payload, now or later, never waiting."""

    def pause_reading(self) -> None:
        """Take nothing more from the client."""

    def resume_reading(self) -> None:
        """Go on where ``pause_reading`` stopped."""

    def close(self) -> None:
        """End once what was written has been sent. Idempotent."""

    def abort(self) -> None:
        """End at once."""


class Load:
    """The bytes of one received frame, counted while any request of it is unanswered."""

    __slots__ = ("size", "unanswered")

    def __init__(self, size: int) -> None:
        self.size = size
        self.unanswered = 0


class ControlRequest:
    """One request: its handler answers it once, now or later, as one answers a future."""

    __slots__ = ("_answered", "_connection", "_load", "_rests", "encode", "id")

    def __init__(self, connection: Connection, number: int, load: Load) -> None:
        self._connection = connection
        # Of one whose answer comes in parts, nothing is held any more.
        self._load: Load | None = load
        self._answered = False
        self._rests = False
        self.id = number
        self.encode: Callable[[Any], Any] | None = None

    def done(self) -> bool:
        """Tell whether it was answered, or nobody waits any more."""
        return self._answered or self._connection.lost

    def set_result(self, result: Any) -> None:
        """Answer with a result, through ``encode`` if that was set."""
        try:
            body = encode_result(self.id, self.encode(result) if self.encode else result)
        except CrdtmemError as error:
            self.set_exception(error)
            return
        self._answer(body)

    def set_exception(self, error: BaseException) -> None:
        """Answer with an error; one that is not ours is logged and reported as such."""
        self._answer(encode_failure(self.id, error))

    async def emit(self, event: Any) -> None:
        """Send an event ahead of the answer, as soon as the client has room for it.

        The first makes a stream of the answer; raises ``Overloaded`` where there are too many.
        """
        connection = self._connection
        if self._load is not None:
            connection.begin_stream(self._load)
            self._load = None
        while not connection.writable.is_set():
            # Of several that wait here, each may find that another has filled the room.
            await connection.writable.wait()
        connection.send(encode_body((self.id, EVENT, event)))

    def rest(self) -> None:
        """Hold nothing but a place among its connection's requests: others are waited for."""
        if self._load is not None:
            load, self._load, self._rests = self._load, None, True
            self._connection.rest(load)

    def run(self, work: Coroutine[Any, Any, Any]) -> None:
        """Answer with what a coroutine returns or raises; it ends with the connection."""
        self._connection.spawn(self, work)

    def forget(self) -> None:
        """Let go of a request that its client has cancelled."""
        if not self._answered:
            self._answered = True
            self._settle()

    def _settle(self) -> None:
        if self._load is not None:
            self._connection.settled(self._load)
        elif self._rests:
            self._connection.end_rest()
        else:
            self._connection.end_stream()

    def _answer(self, body: bytes) -> None:
        if self._answered:
            return
        self._answered = True
        self._connection.send(body)
        self._settle()


def encode_result(number: int, result: Any) -> bytes:
    """Return the message of an answer; raises ``InvalidValue`` and ``LimitExceeded``."""
    body = encode_body((number, RESULT, result))
    if len(body) > ANSWER_BYTES:
        raise LimitExceeded(
            f"the answer takes {len(body)} bytes, the limit is {ANSWER_BYTES}",
            hint="ask for less at once",
        )
    return body


def encode_failure(number: int, error: BaseException) -> bytes:
    """Return the message of an error; one that is not ours is logged, and named as such."""
    if not isinstance(error, CrdtmemError):
        _log.error("a request failed unexpectedly", exc_info=error)
        error = CrdtmemError(
            f"the node failed to answer: {error!r:.500}", hint="see the node's log"
        )
    return encode_body((number, ERROR, encode_error(error)))


async def carry_out(request: ControlRequest, work: Coroutine[Any, Any, Any]) -> None:
    """Answer a request with what a coroutine returns or raises."""
    try:
        request.set_result(await work)
    except Exception as error:  # noqa: BLE001 - whatever a request provokes ends with it
        request.set_exception(error)
