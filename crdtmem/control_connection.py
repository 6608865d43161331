"""A client's connection, apart from what carries it: greeting, pipelining, credits, answers.

Problem: many clients pipeline thousands of requests into one node, over a Unix socket or a
WebSocket. A client may be slow, silent, hostile or gone; none of that may crash the node,
grow its memory, or slow down anybody else; and no two ways in may differ in it.

Idea: ``Connection`` is all that a connection decides, ``Carrier`` (in ``control_parts``) the
little that it needs of a transport: payloads (one frame's MessagePack each: see
``control_frames``) in and out, stop and go. Requests are answered as they complete, in any
order, by id; the answers of one turn of the event loop leave in one frame. A verb that has an
answer at once is in the service's table of ``quick`` verbs as well: it then costs no request
object, no counting and no trip through the loop.

Back-pressure has one rule: a connection is read only while it has room. It has none while
too many of its requests, or too many bytes of them, are unanswered; while its answers are
not being read; or while all connections together hold as much as the node takes in, and
this one its fair share of it (``admission``). Who goes beyond waits in the kernel's buffers,
and harms nobody. The greeting tells a connection's own bounds as ``credits``. A large frame
has to find room when its length is known, before it is read.

Invariants: what a connection holds is told to the node's admission whenever it may be asked;
beyond that it keeps at most ``SMALL_BYTES`` of requests, one read, and one answer beyond the
carrier's limit of unread bytes; every request is answered once, or its connection closed;
bytes that are no protocol get one clear error, then the connection is closed; no request can
stop the service.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Iterator, Mapping
from itertools import chain
from typing import TYPE_CHECKING, Any, Final

from crdtmem.admission import SMALL_BYTES
from crdtmem.asking import LATER, Quick
from crdtmem.control_frames import (
    ANSWER_BYTES,
    CONTROL_VERSION,
    ERROR,
    MAGIC,
    MESSAGES_PER_FRAME,
    RESULT,
    decode_messages,
    encode_body,
    payload_of_messages,
)
from crdtmem.control_parts import (
    UNREAD_BYTES,
    Carrier,
    ControlRequest,
    Load,
    carry_out,
    encode_failure,
    encode_result,
)
from crdtmem.errors import (
    CrdtmemError,
    MalformedFrame,
    Overloaded,
    ProtocolMismatch,
    UnknownName,
)
from crdtmem.operations import encode_error

if TYPE_CHECKING:
    from crdtmem.control_service import ControlService

__all__ = [
    "IN_FLIGHT_BYTES",
    "IN_FLIGHT_REQUESTS",
    "UNREAD_BYTES",
    "Connection",
]

IN_FLIGHT_REQUESTS: Final = 1_024
"""Most requests of one connection that may be unanswered."""

IN_FLIGHT_BYTES: Final = 32 * 1024 * 1024
"""Most bytes of unanswered requests of one connection, before it is no longer read."""

_CONNECTIONS: Final = 256
_RETRY_MS: Final = 1_000
_FLUSH_BYTES: Final = 64 * 1024
_log = logging.getLogger("crdtmem.control")


class Connection:
    """One client of a service, over whatever carries its payloads."""

    def __init__(self, service: ControlService, carrier: Carrier) -> None:
        self._service = service
        self._carrier = carrier
        # What is left of the frame that is being handled.
        self._messages: Iterator[tuple[int, Any, Any]] = iter(())
        self._load: Load | None = None
        self._load_bytes = 0
        self._in_flight = 0
        self._in_flight_bytes = 0
        # Requests that wait for other nodes, and hold nothing here.
        self._resting = 0
        # How many may be in flight before the node's admission is asked again.
        self._most = 1
        # A payload that finds no room yet; the size of that, or of one that has not come; what
        # has room though it is not whole; and what is being handled and is not in flight.
        self._payload: bytes | None = None
        self._wanted_bytes = 0
        self._reserved_bytes = 0
        self._handled_bytes = 0
        self._frame_due_s = 0.0
        self._done = 0
        self._done_bytes = 0
        self._lacks_room = False
        self._waits = False
        self._out: list[bytes] = []
        self._out_bytes = 0
        self._flush_due = False
        self._greeted = False
        self._working = False
        self._ending = False
        self._paused = False
        self._work_due = False
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self.lost = False
        self._share = service.admission.share(self)
        self.writable = asyncio.Event()
        self.writable.set()

    # ------------------------------------------------------------------ the carrier's side

    def made(self) -> None:
        """Begin; refuse a client too many."""
        connections = self._service.connections
        most = _CONNECTIONS - self._carrier.spared
        if len(connections) < most:
            connections.add(self)
        else:
            self.refuse(
                Overloaded(
                    f"{most} clients are connected",
                    hint="close some of them",
                    retry_after_ms=_RETRY_MS,
                )
            )

    def ended(self) -> None:
        """Forget the client; what it had begun to commit is committed all the same."""
        self.lost = True
        self._payload = None
        self._share.leave()
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
        self._share.note_unread()

    def resume_writing(self) -> None:
        """Go on where ``pause_writing`` stopped."""
        self.writable.set()
        self._work()

    def refuse(self, error: CrdtmemError) -> None:
        """Say what was wrong, under id 0, and close."""
        self.send(encode_body((0, ERROR, encode_error(error))))
        self.end()

    # ------------------------------------------------------------------ admission's side

    def resume(self) -> None:
        """Go on, in a later turn, since there may be room again."""
        self._work_soon()

    def unread_bytes(self) -> int:
        """Return how many bytes of answers the client has not read."""
        return self._carrier.unread_bytes

    def cut_off(self, reason: str) -> None:
        """End the connection at once."""
        _log.warning("cut off a client: %s", reason)
        self.abort()

    def _tell(self) -> None:
        """Tell the node's admission what is held here now."""
        if not self.lost:
            held = self._in_flight_bytes + self._reserved_bytes + self._handled_bytes
            self._share.hold(self._in_flight, held, self._done, self._done_bytes)
            self._done = self._done_bytes = 0

    def _is_granted_more(self) -> bool:
        """Ask how many more may be in flight; tells whether any."""
        self._tell()
        self._most = min(IN_FLIGHT_REQUESTS, self._in_flight + self._share.grant())
        return self._in_flight < self._most

    def _wait_or_rest(self) -> None:
        """Be resumed when there is room again, if that is what is lacking."""
        share = self._share
        if self._in_flight or self._reserved_bytes or share.operations or share.size_bytes:
            self._tell()
        if self._lacks_room:
            self._waits = True
            share.wait(self._wanted_bytes)
        elif self._waits:
            self._waits = False
            share.rest()

    # ------------------------------------------------------------------ requests

    def _work_soon(self) -> None:
        """Work in a later turn: once, for however many reasons."""
        if not self._work_due:
            self._work_due = True
            asyncio.get_running_loop().call_soon(self._work)

    def _work(self) -> None:
        """Handle what has been received while there is room, and read on only then."""
        self._work_due = False
        if self._working or self.lost:
            return
        self._working = True
        self._most, self._wanted_bytes, self._lacks_room = 1, 0, False
        blocked = True
        try:
            blocked = not self._ending and not self._handle_all()
        except CrdtmemError as error:
            self.refuse(error)
        finally:
            self._working = False
        if self._out and not self._flush_due:
            self.flush()
        self._wait_or_rest()
        blocked = blocked or self._ending
        if blocked != self._paused and not self.lost:
            self._paused = blocked
            if blocked:
                self._carrier.pause_reading()
            else:
                self._carrier.resume_reading()

    def _handle_all(self) -> bool:
        """Handle all that has come; ``False`` where it must wait, for room or for its reader."""
        quick = self._service.quick if self._greeted else _NONE
        out, size = self._out, 0
        is_read, next_payload = self.writable.is_set, self._carrier.next_payload
        while is_read():
            for message in self._messages:
                number, verb, body = message
                answer = quick.get(verb) if type(verb) is str else None
                encoded = None if answer is None else _answer_at_once(number, answer, body)
                if encoded is not None:
                    out.append(encoded)
                    size += len(encoded)
                    if size < _FLUSH_BYTES and len(out) < MESSAGES_PER_FRAME:
                        continue
                    self.flush()
                elif self._has_room_for_one():
                    self._handle(number, verb, body)
                    if self._ending:
                        return False
                    quick = self._service.quick
                else:
                    self._messages = chain((message,), self._messages)
                    return False
                out, size = self._out, 0
                if not is_read():
                    return False
            if self._in_flight or self._payload or self._reserved_bytes or self._handled_bytes:
                payload = self._next_payload()
            else:
                # What most traffic is: a small frame, from a client that holds nothing.
                payload = next_payload()
                if payload is None and self._carrier.awaited_bytes <= SMALL_BYTES:
                    return True
                if payload is None or len(payload) > SMALL_BYTES:
                    self._payload = payload
                    payload = self._next_payload()
            if payload is None:
                return not self._wanted_bytes
            self._messages = iter(decode_messages(payload))
            self._load, self._load_bytes = None, len(payload)
        return False

    def _has_room_for_one(self) -> bool:
        """Tell whether one request more may be in flight; if not, room is waited for."""
        if self._in_flight + self._resting >= IN_FLIGHT_REQUESTS:
            return False
        if self._in_flight >= self._most and not self._is_granted_more():
            # At its own bound it has room as soon as one of its own is answered.
            self._lacks_room = self._in_flight < IN_FLIGHT_REQUESTS
            return False
        return self._in_flight_bytes < IN_FLIGHT_BYTES

    def _next_payload(self) -> bytes | None:
        """Return the next payload, if one has come and there is room for it."""
        self._handled_bytes = 0
        payload = self._payload or self._carrier.next_payload()
        if payload is None:
            size = self._carrier.awaited_bytes
            if size > max(SMALL_BYTES, self._reserved_bytes) and self._has_room_for(size):
                self._reserved_bytes = size
            return None
        size = len(payload)
        if self._in_flight or size > SMALL_BYTES:
            if size > self._reserved_bytes and not self._has_room_for(size):
                self._payload = payload
                return None
            self._handled_bytes = size
        self._payload = None
        self._reserved_bytes = 0
        self._frame_due_s = 0.0
        return payload

    def _has_room_for(self, size_bytes: int) -> bool:
        """Ask whether there is room for a frame; if not, it is waited for."""
        self._tell()
        if self._share.room_for(size_bytes):
            return True
        self._wanted_bytes, self._lacks_room = size_bytes, True
        return False

    def _handle(self, number: int, verb: Any, body: Any) -> None:
        if type(verb) is not str:
            raise MalformedFrame("a request is an id, a verb and a body", hint="see control_frames")
        load = self._load
        if load is None:
            load = self._load = Load(self._load_bytes)
        if not load.unanswered:
            self._in_flight_bytes += load.size
            self._handled_bytes = 0
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
        if request.id in self._tasks:
            # Nobody could say which of the two is to be cancelled, or has been answered.
            work.close()
            raise MalformedFrame(
                f"request {request.id} is not answered yet, and its id is used again",
                hint="number requests anew: an id is free once it is answered",
            )
        task = asyncio.get_running_loop().create_task(carry_out(request, work))
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

    def settled(self, load: Load) -> None:
        """Count a request as answered."""
        self._in_flight -= 1
        self._done += 1
        load.unanswered -= 1
        if not load.unanswered:
            self._in_flight_bytes -= load.size
            self._done_bytes += load.size
        if self._paused:
            self._work_soon()
        elif not self._flush_due and not self._working:
            self._tell()

    def rest(self, load: Load) -> None:
        """Hold nothing more for a request but its place among this connection's."""
        self._resting += 1
        self.settled(load)

    def end_rest(self) -> None:
        """Give back the place."""
        self._resting -= 1
        if self._paused:
            self._work_soon()

    def begin_stream(self, load: Load) -> None:
        """Hold nothing more for a request but a place among the streams."""
        self._share.open_stream()
        self.settled(load)

    def end_stream(self) -> None:
        """Give back the place."""
        if not self.lost:
            self._share.close_stream()

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
        if self._done:
            self._tell()
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

    def check(self, now_s: float) -> None:
        """End a connection whose client left while it was not read, or sends a frame for ever."""
        if self.lost:
            return
        if self._paused or not self._reserved_bytes:
            self._frame_due_s = 0.0
            if self._paused and self._carrier.is_gone():
                self.abort()
        elif not self._frame_due_s:
            self._frame_due_s = now_s + self._service.admission.bounds.receive_ms / 1_000
        elif now_s > self._frame_due_s:
            self.cut_off(f"a frame of {self._reserved_bytes} bytes did not arrive in time")

    def abort(self) -> None:
        """Close at once."""
        self._carrier.abort()


def _answer_at_once(number: int, answer: Quick, body: Any) -> bytes | None:
    """Return the message that answers a quick verb; ``None`` where it must wait, as others do."""
    try:
        result = answer(body)
        if result is LATER:
            return None
        encoded = encode_body((number, RESULT, result))
        return encoded if len(encoded) <= ANSWER_BYTES else encode_result(number, result)
    except Exception as error:  # noqa: BLE001 - whatever a request provokes ends with it
        return encode_failure(number, error)


_NONE: Final[Mapping[str, Quick]] = {}
