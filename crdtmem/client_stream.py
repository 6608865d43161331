"""One connection of a client: calls by id, pipelined, with deadlines.

Problem: thousands of calls share one connection; each has its own deadline, some are
answered in parts, and the connection may die under all of them, or fall silent.

Idea: a ``Stream`` keeps the open calls by id, apart from what carries it: a Unix socket
or a WebSocket, each a ``Carrier`` of payloads (one frame's MessagePack each: see
``control_frames``). What is called in one turn of the event loop leaves in one write.
Calls beyond the node's credits, as its greeting states them, wait for their turn; while
the node does not read, nothing more is written. One timer per stream watches the nearest
deadlines instead of one per call.

A node that stands still keeps its connections, and so does one to which the way is lost.
So a stream has a *patience*: while calls are open and nothing is heard for half of it, the
node is asked something that it answers at once, and after all of it the stream is lost.

Invariants: every open call ends exactly once, by answer, error, deadline or loss
of the connection; parts that nobody takes are bounded (see ``client_events``), and so
are requests that are not answered.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, Final, Protocol

from crdtmem.client_events import Events
from crdtmem.control_frames import (
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
from crdtmem.errors import CrdtmemError, FrameTooLarge, MalformedFrame, Unreachable
from crdtmem.operations import decode_error

__all__ = ["OPEN_BYTES", "OPEN_CALLS", "Call", "Carrier", "Stream", "anew", "unreachable"]

OPEN_CALLS: Final = 1_000
"""Most calls of one connection that wait for their answers, whatever the node grants."""

OPEN_BYTES: Final = 16 * 1024 * 1024
"""Most bytes of requests that wait for their answers, beyond the last one."""

_FRAME_BYTES: Final = 1024 * 1024
_WATCH_S: Final = 0.25
_LATE_S: Final = 1.0


class Call:
    """One open call, answered through its future."""

    __slots__ = ("deadline_s", "events", "future", "number", "size")

    def __init__(
        self,
        number: int,
        size: int,
        future: asyncio.Future[Any],
        deadline_s: float,
        events: Events | None,
    ) -> None:
        self.number = number
        self.size = size
        self.future = future
        self.deadline_s = deadline_s
        self.events = events


class Carrier(Protocol):
    """What a stream needs of its transport.

    In turn a carrier calls ``made`` once, ``received`` with each whole payload,
    ``pause_writing`` and ``resume_writing`` around times in which too much of what it was
    given lies unsent, ``failed`` where what came is no payload, and ``ended`` once.
    """

    def write(self, payload: bytes) -> None:
        """Send a payload, now or later, never waiting."""

    def pause_reading(self) -> None:
        """Take nothing more from the node."""

    def resume_reading(self) -> None:
        """Go on where ``pause_reading`` stopped."""

    def abort(self) -> None:
        """End at once. Idempotent."""


class Stream:
    """A connection to a node, of use once it was greeted."""

    _carrier: Carrier

    def __init__(self, shown: str, *, patience_ms: int) -> None:
        self.shown = shown
        self._patience_s = patience_ms / 1_000
        self._loop = asyncio.get_running_loop()
        self._calls: dict[int, Call] = {}
        self._open_bytes = 0
        self._most_calls = OPEN_CALLS
        self._most_bytes = OPEN_BYTES
        self._numbers = 0
        self._out: list[bytes] = []
        self._flush_due = False
        self._writable = asyncio.Event()
        self._writable.set()
        self._room: deque[asyncio.Future[None]] = deque()
        self._watch: asyncio.TimerHandle | None = None
        self._watch_s = 0.0
        self._heard_s = 0.0
        self._ping: Call | None = None
        self._stuffed: set[Events] = set()
        self._ended = asyncio.Event()
        self.error: CrdtmemError | None = None
        self.lost = False
        self.greeting: dict[str, Any] = {}
        self.frame_bytes = 0

    async def greet(self, deadline_s: float) -> None:
        """Say hello. Raises ``Unreachable``, or what the node refuses with."""
        try:
            greeting = await self.call("hello", (MAGIC, CONTROL_VERSION), deadline_s)
            try:
                self.frame_bytes = int(greeting["limits"]["frame_bytes"])
                self.greeting = dict(greeting)
                # A few calls of the node's are kept free: for what cancels, and for a ping.
                granted = greeting.get("credits", {})
                self._most_calls = min(OPEN_CALLS, max(1, granted.get("requests", 1 << 30) - 24))
                self._most_bytes = min(OPEN_BYTES, granted.get("bytes", OPEN_BYTES))
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                raise MalformedFrame(
                    f"the greeting of {self.shown} has the wrong shape", hint="is it a node?"
                ) from error
        except BaseException:
            await self.close(Unreachable("the connection was not greeted"))
            raise

    @property
    def replica_id(self) -> int:
        """The id that the node introduced itself by."""
        return int(self.greeting["replica"])

    # ------------------------------------------------------------------ calls

    @property
    def _full(self) -> bool:
        return (
            len(self._calls) >= self._most_calls
            or self._open_bytes >= self._most_bytes
            or not self._writable.is_set()
        )

    async def call(self, verb: str, body: Any, deadline_s: float) -> Any:
        """Ask one thing; raises what the node answers, or ``Unreachable``."""
        while self._full and not self.lost:
            await self._wait_for_room(deadline_s)
        call = self._send(verb, body, deadline_s, None)
        try:
            return await call.future
        except asyncio.CancelledError:
            self.forget(call)
            raise

    def events(self, verb: str, body: Any, *, idle_ms: int | None, owned: bool = False) -> Events:
        """Ask for something that is answered in parts; with ``owned`` it ends the connection."""
        events = Events(self, idle_ms, owned=owned)
        events.call = self._send(verb, body, float("inf"), events)
        return events

    def _send(self, verb: str, body: Any, deadline_s: float, events: Events | None) -> Call:
        if self.lost:
            raise anew(self.error or unreachable(self.shown, None))
        self._numbers += 1
        number = self._numbers
        message = encode_body((number, verb, body))
        size = len(message)
        if self.frame_bytes and size + 8 > self.frame_bytes:
            raise FrameTooLarge(
                f"a request of {size} bytes, the node's limit is {self.frame_bytes}",
                hint="split the transaction",
            )
        call = Call(number, size, self._loop.create_future(), deadline_s, events)
        self._calls[number] = call
        self._open_bytes += size
        self._out.append(message)
        if not self._flush_due:
            self._flush_due = True
            self._loop.call_soon(self._flush)
        if self._watch is None:
            self._heard_s = self._loop.time()
            self._watch_again(self._heard_s)
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
            self._carrier.write(payload_of_messages(messages))

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
            free = 0 if self._full else self._most_calls - len(self._calls)
        while self._room and free > 0:
            room = self._room.popleft()
            if not room.done():
                room.set_result(None)
                free -= 1

    def _take_out(self, number: int) -> bool:
        call = self._calls.pop(number, None)
        if call is None:
            return False
        self._open_bytes -= call.size
        return True

    def forget(self, call: Call) -> None:
        """Let go of a call that nobody waits for; the node is told if it streams or waits."""
        if self._take_out(call.number) and not self.lost:
            self._numbers += 1
            cancel = encode_body((self._numbers, "cancel", call.number))
            self._flush()  # What it cancels may not have left yet.
            self._write([cancel])
            self._make_room()

    # ------------------------------------------------------------------ time

    def _watch_again(self, now_s: float) -> None:
        self._watch_s = now_s + _WATCH_S
        self._watch = self._loop.call_at(self._watch_s, self._look_at_deadlines)

    def _look_at_deadlines(self) -> None:
        self._watch = None
        now_s = self._loop.time()
        late = [call for call in self._calls.values() if call.deadline_s <= now_s]
        for call in late:
            self.forget(call)
            if not call.future.done():
                call.future.set_exception(
                    Unreachable(
                        "the node did not answer in time",
                        hint="is it overloaded, or its disk slow?",
                    )
                )
        self._look_for_silence(now_s)
        if self._calls:
            self._watch_again(now_s)

    def _look_for_silence(self, now_s: float) -> None:
        if self._stuffed or now_s - self._watch_s > _LATE_S:
            # It is we who did not listen, or did not run.
            self._heard_s = now_s
        silent_s = now_s - self._heard_s
        if not self._calls or silent_s < self._patience_s / 2:
            return
        if silent_s >= self._patience_s:
            self.drop(
                Unreachable(
                    f"the node at {self.shown} has said nothing for {silent_s:.1f} s",
                    hint="is its process stopped, or its machine?",
                )
            )
        elif self._ping is None or self._ping.number not in self._calls:
            self._ping = self._send("context", (), float("inf"), None)

    # ------------------------------------------------------------------ the carrier's side

    def made(self, carrier: Carrier) -> None:
        """Keep the carrier."""
        self._carrier = carrier

    def received(self, payload: bytes) -> None:
        """Answer the calls that a payload answers."""
        self._heard_s = self._loop.time()
        try:
            for message in decode_messages(payload):
                self._take(*message)
        except CrdtmemError as error:
            self.failed(error)
            return
        if self._room:
            self._make_room()

    def failed(self, error: CrdtmemError) -> None:
        """End a connection that brought what makes no sense."""
        self.drop(error)

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
        self._take_out(number)
        if call.future.done() or call is self._ping:
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

    def ended(self, error: Exception | None) -> None:
        """End every open call: the connection is no more."""
        ours = error if isinstance(error, CrdtmemError) else unreachable(self.shown, error)
        self._lose(ours)
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
        self._open_bytes = 0
        for call in calls.values():
            if not call.future.done() and call is not self._ping:
                call.future.set_exception(anew(error))
        self._make_room()

    def drop(self, error: CrdtmemError) -> None:
        """End every open call with ``error``, and the connection, without waiting for its end."""
        self._lose(error)
        self._carrier.abort()

    async def close(self, error: CrdtmemError) -> None:
        """Do what ``drop`` does, and return when the connection is no more."""
        self.drop(error)
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
                self._carrier.pause_reading()
            else:
                self._carrier.resume_reading()


def anew(error: CrdtmemError) -> CrdtmemError:
    """Return the same error once more: each of many callers raises one of its own."""
    return type(error)(error.message, hint=error.hint, **error.details)


def unreachable(shown: str, error: BaseException | None) -> Unreachable:
    """Return the error for a node that could not be connected to, or is gone."""
    if error is None:
        return Unreachable(f"the node at {shown} ended the connection", hint="is it restarting?")
    if isinstance(error, FileNotFoundError):
        return Unreachable(
            f"there is no node at {shown}", hint="start one with 'crdtmem node', or name its socket"
        )
    if isinstance(error, ConnectionRefusedError):
        return Unreachable(
            f"no node listens at {shown}", hint="it was stopped or killed; start it again"
        )
    if isinstance(error, PermissionError):
        return Unreachable(
            f"the control socket {shown} is another user's", hint="ask as the user of the node"
        )
    if isinstance(error, TimeoutError):
        return Unreachable(
            f"the node at {shown} did not answer in time", hint="is it overloaded, or stopped?"
        )
    reason = str(error) or type(error).__name__
    return Unreachable(f"the node at {shown} cannot be reached: {reason}", hint="is it running?")
