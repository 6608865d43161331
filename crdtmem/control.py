"""The control socket: how the command line and local clients reach a node.

Problem: many clients pipeline thousands of requests into one node. A client may
be slow, silent, hostile or gone; none of that may crash the node, grow its
memory, or slow down anybody else.

Idea: a Unix domain socket, open to its owner only, with frames of batched
messages (see ``control_frames``). Each connection is a plain asyncio
``Protocol``: requests are answered as they complete, in any order, by id.
Answers of one turn of the event loop leave in one frame.

Back-pressure has one rule: a connection is read only while it has room. It has
none while too many of its requests, or too many bytes of them, are unanswered,
or while its answers are not being read. Then the kernel's socket buffer fills
and the client waits.

Invariants: memory per connection is bounded by ``IN_FLIGHT_REQUESTS``,
``IN_FLIGHT_BYTES``, one frame, and one answer beyond the write buffer's limit;
every request is answered once, or its connection closed; bytes that are no
protocol get one clear error, then the connection is closed; no request can stop
the server. A path is served by one node at a time: its lock file says so, and
what a killed node left behind is replaced.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Final, cast

from crdtmem.asking import Handler
from crdtmem.control_frames import (
    ANSWER_BYTES,
    CONTROL_VERSION,
    ERROR,
    EVENT,
    MAGIC,
    MESSAGES_PER_FRAME,
    RESULT,
    FrameDecoder,
    encode_body,
    frame_of_messages,
)
from crdtmem.control_path import SocketPath
from crdtmem.errors import (
    CrdtmemError,
    LimitExceeded,
    MalformedFrame,
    Overloaded,
    ProtocolMismatch,
    UnknownName,
)
from crdtmem.operations import encode_error

__all__ = ["IN_FLIGHT_BYTES", "IN_FLIGHT_REQUESTS", "ControlServer", "Request"]

IN_FLIGHT_REQUESTS: Final = 1_024
"""Most requests of one connection that may be unanswered."""

IN_FLIGHT_BYTES: Final = 32 * 1024 * 1024
"""Most bytes of unanswered requests of one connection, before it is no longer read."""

_CONNECTIONS: Final = 256
_WRITE_HIGH_BYTES: Final = 1024 * 1024
_FLUSH_BYTES: Final = 64 * 1024
_log = logging.getLogger("crdtmem.control")


class _Load:
    """The bytes of one received frame, counted until its last request is answered."""

    __slots__ = ("remaining", "size")

    def __init__(self, size: int, remaining: int) -> None:
        self.size = size
        self.remaining = remaining


class Request:
    """One request: its handler answers it once, now or later, as one answers a future."""

    __slots__ = ("_answered", "_connection", "_load", "encode", "id")

    def __init__(self, connection: _Connection, number: int, load: _Load) -> None:
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
            body = encode_body((self.id, RESULT, self.encode(result) if self.encode else result))
            if len(body) > ANSWER_BYTES:
                raise LimitExceeded(
                    f"the answer takes {len(body)} bytes, the limit is {ANSWER_BYTES}",
                    hint="ask for less at once",
                )
        except CrdtmemError as error:
            self.set_exception(error)
            return
        self._answer(body)

    def set_exception(self, error: BaseException) -> None:
        """Answer with an error; one that is not ours is logged and reported as such."""
        if not isinstance(error, CrdtmemError):
            _log.error("a request failed unexpectedly", exc_info=error)
            error = CrdtmemError(
                f"the node failed to answer: {error!r:.500}", hint="see the node's log"
            )
        self._answer(encode_body((self.id, ERROR, encode_error(error))))

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


class _Connection(asyncio.Protocol):
    """One client."""

    def __init__(self, server: ControlServer) -> None:
        self._server = server
        self._decoder = FrameDecoder(server.frame_bytes)
        self._waiting: deque[tuple[_Load, Any]] = deque()
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

    # ------------------------------------------------------------------ asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin; refuse a client too many."""
        # uvloop's transports are Transports in all but ancestry.
        self._transport = transport = cast("asyncio.Transport", transport)
        transport.set_write_buffer_limits(high=_WRITE_HIGH_BYTES)
        self._server.connections.add(self)
        if len(self._server.connections) > _CONNECTIONS:
            self._refuse(
                Overloaded(f"{_CONNECTIONS} clients are connected", hint="close some of them")
            )

    def connection_lost(self, error: Exception | None) -> None:
        """Forget the client; what it had begun to commit is committed all the same."""
        self.lost = True
        self._server.left(self)
        self.writable.set()
        for task in list(self._tasks.values()):
            task.cancel()

    def data_received(self, data: bytes) -> None:
        """Take in bytes, and handle the requests that they complete."""
        if not self._ending:
            self._decoder.feed(data)
            self._work()

    def pause_writing(self) -> None:
        """Stop reading too: a client that does not read its answers gets no more."""
        self.writable.clear()

    def resume_writing(self) -> None:
        """Go on where ``pause_writing`` stopped."""
        self.writable.set()
        self._work()

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
            while not self._full and not self._ending:
                if not self._waiting and not self._next_frame():
                    break
                load, message = self._waiting.popleft()
                self._handle(load, message)
        except CrdtmemError as error:
            self._refuse(error)
        finally:
            self._working = False
        full = self._full or self._ending
        if full != self._paused and not self.lost:
            self._paused = full
            if full:
                self._transport.pause_reading()
            else:
                self._transport.resume_reading()

    def _next_frame(self) -> bool:
        received = self._decoder.next_frame()
        if received is None:
            return False
        size, messages = received
        load = _Load(size, len(messages))
        self._in_flight_bytes += size
        self._waiting.extend([(load, message) for message in messages])
        return True

    def _handle(self, load: _Load, message: tuple[int, Any, Any]) -> None:
        number, verb, body = message
        if not 0 <= number < 1 << 63 or type(verb) is not str:
            raise MalformedFrame("a request is an id, a verb and a body", hint="see control_frames")
        request = Request(self, number, load)
        self._in_flight += 1
        if not self._greeted:
            self._greet(request, verb, body)
            return
        try:
            if verb == "cancel":
                self._cancel(request, body)
                return
            handler = self._server.handlers.get(verb)
            if handler is None:
                raise UnknownName(
                    f"the control socket has no verb {verb!r:.60}", hint="is the node older?"
                )
            handler(request, body)
        except Exception as error:  # noqa: BLE001 - whatever a request provokes ends with it
            request.set_exception(error)

    def _greet(self, request: Request, verb: str, body: Any) -> None:
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
        request.set_result(self._server.greeting())

    def _cancel(self, request: Request, body: Any) -> None:
        task = self._tasks.get(body) if type(body) is int else None
        if task is not None:
            task.cancel()
        request.set_result(task is not None)

    def spawn(self, request: Request, work: Coroutine[Any, Any, Any]) -> None:
        """Run a request's coroutine until it ends, or the client leaves."""
        task = asyncio.get_running_loop().create_task(_carry_out(request, work))
        self._tasks[request.id] = task
        task.add_done_callback(lambda done: self._task_ended(request, done))

    def _task_ended(self, request: Request, task: asyncio.Task[None]) -> None:
        if self._tasks.get(request.id) is task:
            del self._tasks[request.id]
        if task.cancelled():
            request.forget()

    def settled(self, load: _Load) -> None:
        """Count a request as answered."""
        self._in_flight -= 1
        load.remaining -= 1
        if not load.remaining:
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
        elif not self._flush_due:
            self._flush_due = True
            asyncio.get_running_loop().call_soon(self.flush)

    def flush(self) -> None:
        """Write what is queued."""
        self._flush_due = False
        if self._out and not self.lost:
            out, self._out, self._out_bytes = self._out, [], 0
            self._transport.write(frame_of_messages(out))

    def _refuse(self, error: CrdtmemError) -> None:
        """Say what was wrong, under id 0, and close."""
        self.send(encode_body((0, ERROR, encode_error(error))))
        self.end()

    def end(self) -> None:
        """Take no more requests; close once what is queued has been written."""
        self._ending = True
        self.flush()
        self._transport.close()

    def cancel_tasks(self) -> None:
        """End what only waits, streams or watches."""
        for task in list(self._tasks.values()):
            task.cancel()

    @property
    def idle(self) -> bool:
        """Whether every request that was handled is answered."""
        return self._in_flight == 0

    def abort(self) -> None:
        """Close at once."""
        self._transport.abort()


async def _carry_out(request: Request, work: Coroutine[Any, Any, Any]) -> None:
    try:
        request.set_result(await work)
    except Exception as error:  # noqa: BLE001 - whatever a request provokes ends with it
        request.set_exception(error)


class ControlServer:
    """Serves requests on one path. ``handlers`` maps verbs to what answers them."""

    def __init__(
        self,
        path: SocketPath,
        handlers: Mapping[str, Handler],
        *,
        greeting: Callable[[], dict[str, Any]],
        frame_bytes: int,
    ) -> None:
        self.path = path
        self.handlers = handlers
        self.greeting = greeting
        self.frame_bytes = frame_bytes
        self.connections: set[_Connection] = set()
        self._deserted = asyncio.Event()
        self._server: asyncio.AbstractServer | None = None

    async def start(self) -> None:
        """Bind and listen. Raises ``ConfigError`` where the path cannot be served."""
        listening = self.path.claim()
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(lambda: _Connection(self), sock=listening)

    def left(self, connection: _Connection) -> None:
        """Forget a connection that was lost."""
        self.connections.discard(connection)
        if not self.connections:
            self._deserted.set()

    def stop_accepting(self) -> None:
        """Accept no more clients; those that are connected stay."""
        if self._server is not None:
            self._server.close()

    def end_connections(self) -> None:
        """Close every connection, once its queued answers are written; clients come back."""
        for connection in list(self.connections):
            connection.cancel_tasks()
            connection.end()

    async def close(self, *, timeout_s: float = 2.0) -> None:
        """Answer what can be answered, close every connection, remove the socket."""
        self.stop_accepting()
        for connection in list(self.connections):
            connection.cancel_tasks()
            connection.end()
        if self.connections:
            self._deserted.clear()
            # A client that does not read its last answers is not waited for.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await self._deserted.wait()
        for connection in list(self.connections):
            connection.abort()
        if self._server is not None:
            await self._server.wait_closed()
            self._server = None
        self.path.release()
