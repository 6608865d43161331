"""One stream to one peer: what each side has told the other, and what may be sent.

Problem: a slow peer must slow only itself; a peer must not be able to fill our
memory; and what was told must not be told again.

Idea: a session keeps, per stream, the peer's durable vector as far as it is
known, what we have told it of ours, the log ranges that are still to be served,
and two credits in bytes: what we may send, and what the peer may. Only payload
that the receiver has to keep (batches, snapshot pieces) takes credit.

Invariants: ``outbox`` holds at most one read of the log; nothing is framed
beyond the credit; a peer that sends beyond its own is disconnected.

Credit windows follow HTTP/2's flow control.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from crdtmem.causality import VersionVector
from crdtmem.effects import Effect, Send
from crdtmem.errors import MalformedFrame
from crdtmem.frames import FrameReader, encode_frame
from crdtmem.message_shapes import Message
from crdtmem.messages import Batches, Credit, Hello

__all__ = ["Session", "SessionInfo", "clock_offsets_us"]

_FRAME_BYTES: Final = 256 * 1_024


@dataclass(frozen=True, slots=True)
class SessionInfo:
    """What operators and connection keepers may know of a session."""

    peer: Any
    initiator: bool
    replica: int
    node: str
    region: str
    address: str
    round_trip_us: int | None
    clock_offset_us: int | None
    credit_bytes: int
    queued_bytes: int
    vector: VersionVector


@dataclass(slots=True, eq=False)
class Session:
    """The state of one stream. Times are microseconds, sizes bytes."""

    peer: Any
    initiator: bool
    reader: FrameReader
    connected_us: int
    credit_in: int
    window: int
    hello: Hello | None = None
    credit_out: int = 0
    owed: int = 0
    vector: VersionVector = field(default_factory=VersionVector)
    # What of its vector only the batches that it sent have shown, and no acknowledgement.
    shown: VersionVector = field(default_factory=VersionVector)
    told: VersionVector = field(default_factory=VersionVector)
    told_relayed: dict[int, VersionVector] = field(default_factory=dict)
    # Log ranges still to be read and sent, per replica: the next sequence, and the last.
    serving: dict[int, tuple[int, int]] = field(default_factory=dict)
    gaps: dict[int, int] = field(default_factory=dict)
    # The read of the log that is out: its serial number, the replica, and where it began.
    reading: tuple[int, int, int] | None = None
    outbox: deque[tuple[int, int, bytes]] = field(default_factory=deque)
    outbox_bytes: int = 0
    # Of our own deltas: the last that was sent or is known there, and where our log begins.
    own_sent: int = 0
    own_floor: int = 0
    acknowledged_us: int = -(1 << 60)
    acknowledge_due_us: int | None = None
    # Until when what is known is told without delay, and when the peer was last asked for that.
    hurried_until_us: int = -(1 << 60)
    hurry_asked_us: int = -(1 << 60)
    # Whom the peer hears itself, and what we have told it of that.
    hears: frozenset[int] = frozenset()
    told_heard: frozenset[int] = frozenset()
    # Of others' deltas: the last that was sent to the peer. The origins whose deltas it wants
    # from here, does not want (or we do not), and that it was told not to pass on to us.
    passed_on: dict[int, int] = field(default_factory=dict)
    grafted: set[int] = field(default_factory=set)
    lazy: set[int] = field(default_factory=set)
    pruned: set[int] = field(default_factory=set)
    relayed_us: int = 0
    # Whose vector was passed on last: the next time begins after it.
    relayed_last: int = 0
    received_us: int = 0
    pinged_us: int = 0
    compared_us: int = 0
    compared: tuple[bytes, bytes, bytes] | None = None
    round_trip_us: int | None = None
    clock_offset_us: int | None = None
    failures: int = 0
    closed: bool = False
    # Whether the peer was told that it has been evicted.
    evicted: bool = False

    @property
    def open(self) -> bool:
        """Whether the peer has introduced itself."""
        return self.hello is not None

    @property
    def replica(self) -> int:
        """The peer's replica id, 0 before its introduction."""
        return 0 if self.hello is None else self.hello.replica

    def send(self, message: Message) -> Send:
        """Return the effect that sends a message."""
        return Send(self.peer, encode_frame(message))

    def measured(self, sent_us: int, clock_us: int, now_us: int) -> None:
        """Take in an answer to a ping: when it was sent, and the peer's own clock."""
        measured_us = max(0, now_us - sent_us)
        before_us = self.round_trip_us
        self.round_trip_us = (
            measured_us if before_us is None else (7 * before_us + measured_us) // 8
        )
        self.clock_offset_us = clock_us - sent_us - measured_us // 2

    # ------------------------------------------------------------------ receiving

    def take_credit(self, size: int) -> None:
        """Book received payload; raises ``MalformedFrame`` when it is beyond the credit."""
        if size > self.credit_in:
            raise MalformedFrame(
                f"{size} bytes sent with a credit of {self.credit_in}",
                hint="the peer ignores flow control: is it a version of its own?",
            )
        self.credit_in -= size

    def return_credit(self, size: int) -> None:
        """Owe the peer credit for payload that is settled."""
        self.owed += size

    def grant(self) -> int:
        """Return the credit to grant now, 0 while it is too little to be worth a frame."""
        if self.owed * 8 < self.window:
            return 0
        granted, self.owed = self.owed, 0
        self.credit_in += granted
        return granted

    def granted(self) -> list[Effect]:
        """Return the frame that gives credit back, once there is enough to be worth one."""
        granted = 0 if self.closed else self.grant()
        return [self.send(Credit(granted))] if granted else []

    # ------------------------------------------------------------------ sending

    def serve(self, replica: int, first: int, last: int) -> None:
        """Queue a range of the log, joined with what is queued of that replica."""
        held = self.serving.get(replica)
        if held is not None:
            first, last = min(first, held[0]), max(last, held[1])
        self.serving[replica] = (first, last)

    def queue(self, own: int, replica: int, last: int, data: bytes) -> None:
        """Queue a batch for this peer; ``own`` is our replica id."""
        if replica == own:
            self.own_sent = max(self.own_sent, last)
        else:
            self.passed_on[replica] = max(self.passed_on.get(replica, 0), last)
        self.outbox.append((replica, last, data))
        self.outbox_bytes += len(data)

    def flush(self) -> list[Send]:
        """Return the frames that the credit allows, of what is queued."""
        frames: list[Send] = []
        while self.outbox:
            part: list[bytes] = []
            size = 0
            while self.outbox and size < _FRAME_BYTES:
                replica, last, data = self.outbox[0]
                if size + len(data) > self.credit_out or (part and size + len(data) > _FRAME_BYTES):
                    break
                self.outbox.popleft()
                self.outbox_bytes -= len(data)
                part.append(data)
                size += len(data)
                if replica not in self.passed_on:
                    # Of others' the peer is told beside: only what is told counts as joined here.
                    self.told[replica] = max(self.told.get(replica, 0), last)
            if not part:
                break
            self.credit_out -= size
            frames.append(self.send(Batches(tuple(part))))
        return frames

    def info(self) -> SessionInfo:
        """Return what others may know; only of an open session."""
        hello = self.hello
        assert hello is not None
        return SessionInfo(
            self.peer,
            self.initiator,
            hello.replica,
            hello.node,
            hello.region,
            hello.address,
            self.round_trip_us,
            self.clock_offset_us,
            self.credit_out,
            self.outbox_bytes,
            self.vector.copy(),
        )


def clock_offsets_us(sessions: Iterable[Session]) -> dict[int, int]:
    """Return how far the clocks of these peers are ahead of ours, where that was measured."""
    return {
        session.replica: session.clock_offset_us
        for session in sessions
        if session.hello is not None and session.clock_offset_us is not None
    }
