"""A client's connection, apart from what carries it: greeting, pipelining, credits, answers.

Problem: many clients pipeline thousands of requests into one node, over a Unix socket or a
WebSocket. A client may be slow, silent, hostile or gone; none of that may crash the node,
grow its memory, or slow down anybody else; and no two ways in may differ in it.

Idea: ``Connection`` is all that a connection decides, ``Carrier`` the little that it needs of
a transport: payloads (one frame's MessagePack each: see ``control_frames``) in and out,
stop and go. Requests are answered as they complete, in any order, by id; the answers of one
turn of the event loop leave in one frame. A verb that has an answer at once is in the
service's table of ``quick`` verbs as well: it then costs no request object, no counting and
no trip through the loop.

Back-pressure has one rule: a connection is read only while it has room. It has none while
too many of its requests, or too many bytes of them, are unanswered, or while its answers
are not being read. The greeting tells these bounds as ``credits``: who stays within them is
always read, who goes beyond waits in the kernel's buffers, and harms nobody.

Invariants: memory per connection is bounded by ``IN_FLIGHT_REQUESTS``, ``IN_FLIGHT_BYTES``,
one frame, and one answer beyond the carrier's limit of unread bytes; every request is
answered once, or its connection closed; bytes that are no protocol get one clear error,
then the connection is closed; no request can stop the service.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine, Iterator, Mapping
from typing import Any, Final, Protocol

from crdtmem.asking import LATER, Handler, Quick
from crdtmem.control_frames import (
    ANSWER_BYTES,
    CONTROL_VERSION,
    ERROR,
    EVENT,
    MAGIC,
    MESSAGES_PER_FRAME,
    RESULT,
    decode_messages,
    encode_body,
    payload_of_messages,
)
from crdtmem.errors import (
    CrdtmemError,
    LimitExceeded,
    MalformedFrame,
    Overloaded,
    ProtocolMismatch,
    UnknownName,
)
from crdtmem.operations import encode_error

__all__ = [
    "IN_FLIGHT_BYTES",
    "IN_FLIGHT_REQUESTS",
    "UNREAD_BYTES",
    "Carrier",
    "Connection",
    "ControlRequest",
    "ControlService",
]

IN_FLIGHT_REQUESTS: Final = 1_024
"""Most requests of one connection that may be unanswered."""

IN_FLIGHT_BYTES: Final = 32 * 1024 * 1024
"""Most bytes of unanswered requests of one connection, before it is no longer read."""

UNREAD_BYTES: Final = 1024 * 1024
"""Bytes of answers that a carrier keeps for a client that does not read, before it says so."""

_CONNECTIONS: Final = 256
_FLUSH_BYTES: Final = 64 * 1024
_log = logging.getLogger("crdtmem.control")


class Carrier(Protocol):
    """What a connection needs of its transport.

    In turn a carrier calls ``made`` once, ``received`` whenever a whole payload has come,
    ``pause_writing`` when over ``UNREAD_BYTES`` of what it was given lie unsent,
    ``resume_writing`` when they no longer do, and ``ended`` once.
    """

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


class _Load:
    """The bytes of one received frame, counted while any request of it is unanswered."""

    __slots__ = ("size", "unanswered")

    def __init__(self, size: int) -> None:
        self.size = size
        self.unanswered = 0


class ControlRequest:
    """One request: its handler answers it once, now or later, as one answers a future."""

    __slots__ = ("_answered", "_connection", "_load", "encode", "id")

    def __init__(self, connection: Connection, number: int, load: _Load) -> None:
        self._connection = connection
        self._load = load
        self._answered = False
        self.id = number
        self.encode: Callable[[Any], Any] | None = None

    def done(self) -> bool:
        """Tell whether it was answered, or nobody waits any more."""
        return self._answered or self._connection.lost

    def set_result(self, result: Any) -> None:
        """Answer with a result, through ``encode`` if that was set."""
        try:
            body = _encode_result(self.id, self.encode(result) if self.encode else result)
        except CrdtmemError as error:
            self.set_exception(error)
            return
        self._answer(body)

    def set_exception(self, error: BaseException) -> None:
        """Answer with an error; one that is not ours is logged and reported as such."""
        self._answer(_encode_failure(self.id, error))

    async def emit(self, event: Any) -> None:
        """Send an event ahead of the answer, as soon as the client has room for it."""
        await self._connection.writable.wait()
        self._connection.send(encode_body((self.id, EVENT, event)))

    def run(self, work: Coroutine[Any, Any, Any]) -> None:
        """Answer with what a coroutine returns or raises; it ends with the connection."""
        self._connection.spawn(self, work)

    def forget(self) -> None:
        """Let go of a request that its client has cancelled."""
        if not self._answered:
            self._answered = True
            self._connection.settled(self._load)

    def _answer(self, body: bytes) -> None:
        if self._answered:
            return
        self._answered = True
        self._connection.send(body)
        self._connection.settled(self._load)


def _encode_result(number: int, result: Any) -> bytes:
    body = encode_body((number, RESULT, result))
    if len(body) > ANSWER_BYTES:
        raise LimitExceeded(
            f"the answer takes {len(body)} bytes, the limit is {ANSWER_BYTES}",
            hint="ask for less at once",
        )
    return body


def _encode_failure(number: int, error: BaseException) -> bytes:
    if not isinstance(error, CrdtmemError):
        _log.error("a request failed unexpectedly", exc_info=error)
        error = CrdtmemError(
            f"the node failed to answer: {error!r:.500}", hint="see the node's log"
        )
    return encode_body((number, ERROR, encode_error(error)))


class Connection:
    """One client of a service, over whatever carries its payloads."""

    def __init__(self, service: ControlService, carrier: Carrier) -> None:
        self._service = service
        self._carrier = carrier
        # What is left of the frame that is being handled.
        self._messages: Iterator[tuple[int, Any, Any]] = iter(())
        self._load = _Load(0)
        self._in_flight = 0
        self._in_flight_bytes = 0
        self._out: list[bytes] = []
        self._out_bytes = 0
        self._flush_due = False
        self._greeted = False
        self._working = False
        self._ending = False
        self._paused = False
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self.lost = False
        self.writable = asyncio.Event()
        self.writable.set()

    # ------------------------------------------------------------------ the carrier's side

    def made(self) -> None:
        """Begin; refuse a client too many."""
        connections = self._service.connections
        connections.add(self)
        if len(connections) > _CONNECTIONS:
            self.refuse(
                Overloaded(f"{_CONNECTIONS} clients are connected", hint="close some of them")
            )

    def ended(self) -> None:
        """Forget the client; what it had begun to commit is committed all the same."""
        self.lost = True
        self._service.left(self)
        self.writable.set()
        self.cancel_tasks()

    def received(self) -> None:
        """Handle what has come, as far as there is room."""
        if not self._ending:
            self._work()

    def pause_writing(self) -> None:
        """Stop reading too: a client that does not read its answers gets no more."""
        self.writable.clear()

    def resume_writing(self) -> None:
        """Go on where ``pause_writing`` stopped."""
        self.writable.set()
        self._work()

    def refuse(self, error: CrdtmemError) -> None:
        """Say what was wrong, under id 0, and close."""
        self.send(encode_body((0, ERROR, encode_error(error))))
        self.end()

    # ------------------------------------------------------------------ requests

    @property
    def _full(self) -> bool:
        return (
            self._in_flight >= IN_FLIGHT_REQUESTS
            or self._in_flight_bytes >= IN_FLIGHT_BYTES
            or not self.writable.is_set()
        )

    def _work(self) -> None:
        """Handle what has been received while there is room, and read on only then."""
        if self._working or self.lost:
            return
        self._working = True
        try:
            while not self._ending and not self._full and self._handle_some():
                payload = self._carrier.next_payload()
                if payload is None:
                    break
                self._messages = iter(decode_messages(payload))
                self._load = _Load(len(payload))
        except CrdtmemError as error:
            self.refuse(error)
        finally:
            self._working = False
        if self._out and not self._flush_due:
            self.flush()
        full = self._full or self._ending
        if full != self._paused and not self.lost:
            self._paused = full
            if full:
                self._carrier.pause_reading()
            else:
                self._carrier.resume_reading()

    def _handle_some(self) -> bool:
        """Handle the frame's messages while there is room; tells whether none is left."""
        quick = self._service.quick if self._greeted else _NONE
        for message in self._messages:
            number, verb, body = message
            answer = quick.get(verb) if type(verb) is str else None
            if answer is None or not self._answer_at_once(number, answer, body):
                self._handle(number, verb, body)
            if self._ending or self._full:
                return False
        return True

    def _answer_at_once(self, number: int, answer: Quick, body: Any) -> bool:
        """Answer a quick verb; ``False`` where it must wait, and so be handled as others are."""
        try:
            result = answer(body)
            if result is LATER:
                return False
            self.send(_encode_result(number, result))
        except Exception as error:  # noqa: BLE001 - whatever a request provokes ends with it
            self.send(_encode_failure(number, error))
        return True

    def _handle(self, number: int, verb: Any, body: Any) -> None:
        if type(verb) is not str:
            raise MalformedFrame("a request is an id, a verb and a body", hint="see control_frames")
        load = self._load
        if not load.unanswered:
            self._in_flight_bytes += load.size
        load.unanswered += 1
        self._in_flight += 1
        request = ControlRequest(self, number, load)
        if not self._greeted:
            self._greet(request, verb, body)
            return
        try:
            if verb == "cancel":
                self._cancel(request, body)
                return
            handler = self._service.handlers.get(verb)
            if handler is None:
                raise UnknownName(
                    f"the control socket has no verb {verb!r:.60}", hint="is the node older?"
                )
            handler(request, body)
        except Exception as error:  # noqa: BLE001 - whatever a request provokes ends with it
            request.set_exception(error)

    def _greet(self, request: ControlRequest, verb: str, body: Any) -> None:
        if verb != "hello" or type(body) is not tuple or len(body) != 2 or body[0] != MAGIC:
            raise MalformedFrame(
                "the first message is no greeting of the control protocol",
                hint="use crdtmem's client or command line",
            )
        if body[1] != CONTROL_VERSION:
            raise ProtocolMismatch(
                f"the client speaks version {body[1]!r:.20} of the control protocol, this node "
                f"{CONTROL_VERSION}",
                hint="use the command line of the node's own installation",
            )
        self._greeted = True
        request.set_result(self._service.greeting())

    def _cancel(self, request: ControlRequest, body: Any) -> None:
        task = self._tasks.get(body) if type(body) is int else None
        if task is not None:
            task.cancel()
        request.set_result(task is not None)

    def spawn(self, request: ControlRequest, work: Coroutine[Any, Any, Any]) -> None:
        """Run a request's coroutine until it ends, or the client leaves."""
        task = asyncio.get_running_loop().create_task(_carry_out(request, work))
        self._tasks[request.id] = task
        task.add_done_callback(lambda done: self._task_ended(request, work, done))

    def _task_ended(
        self, request: ControlRequest, work: Coroutine[Any, Any, Any], task: asyncio.Task[None]
    ) -> None:
        work.close()  # It has ended, unless it was cancelled before it began.
        if self._tasks.get(request.id) is task:
            del self._tasks[request.id]
        if task.cancelled():
            request.forget()

    def settled(self, load: _Load) -> None:
        """Count a request as answered."""
        self._in_flight -= 1
        load.unanswered -= 1
        if not load.unanswered:
            self._in_flight_bytes -= load.size
        if self._paused:
            self._work()

    # ------------------------------------------------------------------ answers

    def send(self, message: bytes) -> None:
        """Queue one encoded message; those of one turn leave together."""
        if self.lost:
            return
        self._out.append(message)
        self._out_bytes += len(message)
        if self._out_bytes >= _FLUSH_BYTES or len(self._out) >= MESSAGES_PER_FRAME:
            self.flush()
        elif not self._flush_due and not self._working:
            # Who is at work flushes when it ends.
            self._flush_due = True
            asyncio.get_running_loop().call_soon(self.flush)

    def flush(self) -> None:
        """Write what is queued."""
        self._flush_due = False
        if self._out and not self.lost:
            out, self._out, self._out_bytes = self._out, [], 0
            self._carrier.write(payload_of_messages(out))

    def end(self) -> None:
        """Take no more requests; close once what is queued has been written."""
        self._ending = True
        self.flush()
        self._carrier.close()

    def cancel_tasks(self) -> None:
        """End what only waits, streams or watches."""
        for task in list(self._tasks.values()):
            task.cancel()

    def abort(self) -> None:
        """Close at once."""
        self._carrier.abort()


_NONE: Final[Mapping[str, Quick]] = {}


async def _carry_out(request: ControlRequest, work: Coroutine[Any, Any, Any]) -> None:
    try:
        request.set_result(await work)
    except Exception as error:  # noqa: BLE001 - whatever a request provokes ends with it
        request.set_exception(error)


class ControlService:
    """What connections are made to. ``handlers`` maps verbs to what answers them.

    ``quick`` maps some of them to what answers at once, if it can. ``greeting`` makes what a
    client is told when it connects; ``frame_bytes`` bounds one frame of requests.
    """

    def __init__(
        self,
        handlers: Mapping[str, Handler],
        *,
        greeting: Callable[[], dict[str, Any]],
        frame_bytes: int,
        quick: Mapping[str, Quick] = _NONE,
    ) -> None:
        self.handlers = handlers
        self.quick = quick
        self.frame_bytes = frame_bytes
        self.connections: set[Connection] = set()
        self._greeting = greeting
        self._deserted = asyncio.Event()

    def greeting(self) -> dict[str, Any]:
        """Return what a client is told when it connects, its credits included."""
        granted = {"requests": IN_FLIGHT_REQUESTS, "bytes": IN_FLIGHT_BYTES}
        return {**self._greeting(), "credits": granted}

    def left(self, connection: Connection) -> None:
        """Forget a connection that was lost."""
        self.connections.discard(connection)
        if not self.connections:
            self._deserted.set()

    def end_connections(self) -> None:
        """Close every connection, once its queued answers are written; clients come back."""
        for connection in list(self.connections):
            connection.cancel_tasks()
            connection.end()

    async def close(self, *, timeout_s: float = 2.0) -> None:
        """Answer what can be answered, and close every connection."""
        self.end_connections()
        if self.connections:
            self._deserted.clear()
            # A client that does not read its last answers is not waited for.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await self._deserted.wait()
        for connection in list(self.connections):
            connection.abort()
