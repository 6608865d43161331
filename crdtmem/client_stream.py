"""One connection of a client: calls by id, pipelined, with deadlines.

Problem: thousands of calls share one socket; each has its own deadline, some are
answered in parts, and the connection may die under all of them.

Idea: an asyncio ``Protocol`` keeps the open calls by id. What is called in one
turn of the event loop leaves in one write. Calls beyond ``OPEN_CALLS`` wait for
their turn; while the node does not read, nothing more is written. One timer per
stream watches the nearest deadlines instead of one per call.

Invariants: every open call ends exactly once, by answer, error, deadline or loss
of the connection; parts that nobody takes are bounded, because reading stops
while a call has ``UNTAKEN_PARTS`` of them.
"""

from __future__ import annotations

import asyncio
from collections import deque
from types import TracebackType
from typing import Any, Final, Self, cast

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
from crdtmem.errors import Closed, CrdtmemError, FrameTooLarge, MalformedFrame, Unreachable
from crdtmem.operations import decode_error

__all__ = ["OPEN_CALLS", "UNTAKEN_PARTS", "Call", "Events", "Stream"]

OPEN_CALLS: Final = 1_000
"""Most calls of one connection that wait for their answers; the node's bound is a little more."""

UNTAKEN_PARTS: Final = 16
"""Most parts of one answer that are kept for a reader; then the connection is not read."""

_FRAME_BYTES: Final = 1024 * 1024
_WATCH_S: Final = 0.25


class Call:
    """One open call, answered through its future."""

    __slots__ = ("deadline_s", "events", "future", "number")

    def __init__(
        self, number: int, future: asyncio.Future[Any], deadline_s: float, events: Events | None
    ) -> None:
        self.number = number
        self.future = future
        self.deadline_s = deadline_s
        self.events = events


class Stream(asyncio.Protocol):
    """A greeted connection to a node. Made by ``Stream.open``."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._loop = asyncio.get_running_loop()
        self._decoder = FrameDecoder(ANSWER_BYTES + 1024)
        self._calls: dict[int, Call] = {}
        self._numbers = 0
        self._out: list[bytes] = []
        self._flush_due = False
        self._writable = asyncio.Event()
        self._writable.set()
        self._room: deque[asyncio.Future[None]] = deque()
        self._watch: asyncio.TimerHandle | None = None
        self._stuffed: set[Events] = set()
        self._ended = asyncio.Event()
        self.error: CrdtmemError | None = None
        self.lost = False
        self.greeting: dict[str, Any] = {}
        self.frame_bytes = 0

    @classmethod
    async def open(cls, path: str, *, timeout_ms: int) -> Stream:
        """Connect and greet. Raises ``Unreachable``, or what the node refuses with."""
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + timeout_ms / 1_000
        try:
            async with asyncio.timeout(timeout_ms / 1_000):
                _, stream = await loop.create_unix_connection(lambda: cls(path), path)
        except (OSError, TimeoutError) as error:
            raise _unreachable(path, error) from error
        try:
            greeting = await stream.call("hello", (MAGIC, CONTROL_VERSION), deadline_s)
            if type(greeting) is not dict:
                raise MalformedFrame("the node's greeting has the wrong shape", hint="retry")
            stream.greeting = greeting
            stream.frame_bytes = int(greeting["limits"]["frame_bytes"])
        except BaseException:
            await stream.close(Unreachable("the connection was not greeted"))
            raise
        return stream

    # ------------------------------------------------------------------ calls

    async def call(self, verb: str, body: Any, deadline_s: float) -> Any:
        """Ask one thing; raises what the node answers, or ``Unreachable``."""
        while (len(self._calls) >= OPEN_CALLS or not self._writable.is_set()) and not self.lost:
            await self._wait_for_room(deadline_s)
        call = self._send(verb, body, deadline_s, None)
        try:
            return await call.future
        except asyncio.CancelledError:
            self._forget(call)
            raise

    def events(self, verb: str, body: Any, *, idle_ms: int | None, owned: bool = False) -> Events:
        """Ask for something that is answered in parts; with ``owned`` it ends the connection."""
        events = Events(self, idle_ms, owned=owned)
        events.call = self._send(verb, body, float("inf"), events)
        return events

    def _send(self, verb: str, body: Any, deadline_s: float, events: Events | None) -> Call:
        if self.lost:
            raise self.error or _unreachable(self._path, None)
        self._numbers += 1
        number = self._numbers
        message = encode_body((number, verb, body))
        if self.frame_bytes and len(message) + 8 > self.frame_bytes:
            raise FrameTooLarge(
                f"a request of {len(message)} bytes, the node's limit is {self.frame_bytes}",
                hint="split the transaction",
            )
        call = Call(number, self._loop.create_future(), deadline_s, events)
        self._calls[number] = call
        self._out.append(message)
        if not self._flush_due:
            self._flush_due = True
            self._loop.call_soon(self._flush)
        if self._watch is None:
            self._watch = self._loop.call_later(_WATCH_S, self._look_at_deadlines)
        return call

    def _flush(self) -> None:
        self._flush_due = False
        out, self._out = self._out, []
        part: list[bytes] = []
        size = 0
        for message in out:
            if part and (size + len(message) > _FRAME_BYTES or len(part) >= MESSAGES_PER_FRAME):
                self._write(part)
                part, size = [], 0
            part.append(message)
            size += len(message)
        if part:
            self._write(part)

    def _write(self, messages: list[bytes]) -> None:
        if not self.lost:
            self._transport.write(frame_of_messages(messages))

    async def _wait_for_room(self, deadline_s: float) -> None:
        room: asyncio.Future[None] = self._loop.create_future()
        self._room.append(room)
        try:
            async with asyncio.timeout_at(deadline_s):
                await room
        except TimeoutError as error:
            raise Unreachable(
                "the node is too busy to take another request", hint="retry after a pause"
            ) from error

    def _make_room(self) -> None:
        """Wake as many as there is room for; each looks again before it calls."""
        if self.lost:
            free = len(self._room)
        else:
            free = OPEN_CALLS - len(self._calls) if self._writable.is_set() else 0
        while self._room and free > 0:
            room = self._room.popleft()
            if not room.done():
                room.set_result(None)
                free -= 1

    def _forget(self, call: Call) -> None:
        """Let go of a call that nobody waits for; the node is told if it streams or waits."""
        if self._calls.pop(call.number, None) is not None and not self.lost:
            self._numbers += 1
            cancel = encode_body((self._numbers, "cancel", call.number))
            self._write([cancel])
            self._make_room()

    def _look_at_deadlines(self) -> None:
        now_s = self._loop.time()
        late = [call for call in self._calls.values() if call.deadline_s <= now_s]
        for call in late:
            self._forget(call)
            if not call.future.done():
                call.future.set_exception(
                    Unreachable(
                        "the node did not answer in time",
                        hint="is it overloaded, or its disk slow?",
                    )
                )
        self._watch = (
            self._loop.call_later(_WATCH_S, self._look_at_deadlines) if self._calls else None
        )

    # ------------------------------------------------------------------ asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        # uvloop's transports are Transports in all but ancestry.
        self._transport = transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Answer the calls that these bytes complete."""
        self._decoder.feed(data)
        try:
            while (received := self._decoder.next_frame()) is not None:
                for message in received[1]:
                    self._take(*message)
        except CrdtmemError as error:
            self._lose(error)
            self._transport.abort()
            return
        self._make_room()

    def _take(self, number: int, kind: Any, body: Any) -> None:
        if number == 0 and kind == ERROR:
            raise decode_error(body)
        call = self._calls.get(number)
        if call is None:
            return  # Forgotten meanwhile, or the answer to a cancel.
        if kind == EVENT:
            # Whoever made a plain call has no use for parts, such as progress.
            if call.events is not None:
                call.events.push(body)
            return
        if kind not in (RESULT, ERROR):
            raise MalformedFrame(f"an answer of kind {kind!r:.20}", hint="is the node newer?")
        result = decode_error(body) if kind == ERROR else body
        # Only now: whatever fails above ends every call that is open, this one included.
        del self._calls[number]
        if call.future.done():
            return
        if kind == ERROR:
            call.future.set_exception(result)
        else:
            call.future.set_result(result)

    def pause_writing(self) -> None:
        """Let calls wait: the node does not read."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """Let calls go on."""
        self._writable.set()
        self._make_room()

    def connection_lost(self, error: Exception | None) -> None:
        """End every open call."""
        self._lose(self.error or _unreachable(self._path, error))
        self._ended.set()

    def _lose(self, error: CrdtmemError) -> None:
        if self.lost:
            return
        self.lost = True
        self.error = error
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        calls, self._calls = self._calls, {}
        for call in calls.values():
            if not call.future.done():
                call.future.set_exception(type(error)(error.message, hint=error.hint))
        self._make_room()

    async def close(self, error: CrdtmemError) -> None:
        """End every open call with ``error``, and the connection."""
        self._lose(error)
        self._transport.abort()
        await self._ended.wait()

    async def wait_lost(self, deadline_s: float) -> None:
        """Return when the connection has ended; raises ``Unreachable`` at the deadline."""
        try:
            async with asyncio.timeout_at(deadline_s):
                await self._ended.wait()
        except TimeoutError as error:
            raise Unreachable("the node is stopping", hint="retry once it is back") from error

    def stuffed(self, events: Events, *, full: bool) -> None:
        """Stop reading while any answer has too many parts that nobody took."""
        before = bool(self._stuffed)
        if full:
            self._stuffed.add(events)
        else:
            self._stuffed.discard(events)
        if not self.lost and bool(self._stuffed) != before:
            if self._stuffed:
                self._transport.pause_reading()
            else:
                self._transport.resume_reading()


class Events:
    """The parts of one answer, as they come; then its result. Use ``async with``."""

    call: Call

    def __init__(self, stream: Stream, idle_ms: int | None, *, owned: bool) -> None:
        self._stream = stream
        self._idle_ms = idle_ms
        self._owned = owned
        self._parts: deque[Any] = deque()
        self._arrived = asyncio.Event()
        self.result: Any = None

    def push(self, part: Any) -> None:
        """Add a part that arrived."""
        self._parts.append(part)
        self._arrived.set()
        if len(self._parts) >= UNTAKEN_PARTS:
            self._stream.stuffed(self, full=True)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        while not self._parts:
            if self.call.future.done():
                self.result = self.call.future.result()
                raise StopAsyncIteration
            await self._wait()
        part = self._parts.popleft()
        if len(self._parts) < UNTAKEN_PARTS:
            self._stream.stuffed(self, full=False)
        return part

    async def _wait(self) -> None:
        self._arrived.clear()
        arrived = asyncio.ensure_future(self._arrived.wait())
        timeout_s = None if self._idle_ms is None else self._idle_ms / 1_000
        try:
            done, _ = await asyncio.wait(
                {arrived, self.call.future},
                timeout=timeout_s,
                return_when=asyncio.FIRST_COMPLETED,
            )
        finally:
            arrived.cancel()
        if not done:
            await self.close()
            raise Unreachable("the node did not go on answering", hint="is it overloaded?")

    async def close(self) -> None:
        """Ask for no more. Idempotent."""
        self._stream._forget(self.call)
        self._stream.stuffed(self, full=False)
        if not self.call.future.done():
            self.call.future.cancel()
        elif not self.call.future.cancelled():
            self.call.future.exception()  # Nobody will ask for it any more.
        if self._owned:
            await self._stream.close(Closed("this feed was closed", hint="open another"))

    @property
    def ended(self) -> bool:
        """Whether nothing more will come."""
        return self.call.future.done()

    async def end(self, error: CrdtmemError) -> None:
        """End it with an error for whoever reads; for those with a connection of their own."""
        await self._stream.close(error)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()


def _unreachable(path: str, error: BaseException | None) -> Unreachable:
    if error is None:
        return Unreachable(f"the node at {path} ended the connection", hint="is it restarting?")
    if isinstance(error, FileNotFoundError):
        return Unreachable(
            f"there is no node at {path}", hint="start one with 'crdtmem node', or name its socket"
        )
    if isinstance(error, ConnectionRefusedError):
        return Unreachable(
            f"no node listens at {path}", hint="it was stopped or killed; start it again"
        )
    if isinstance(error, PermissionError):
        return Unreachable(
            f"the control socket {path} is another user's", hint="ask as the user of the node"
        )
    reason = str(error) or type(error).__name__
    return Unreachable(f"the node at {path} cannot be reached: {reason}", hint="is it running?")
