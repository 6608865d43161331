"""Transfers: a whole state, or the difference to it, for a peer below the sync log.

Problem: a peer needs what the log no longer has. The state is large and keeps
changing while it is sent, nothing of it may be believed before all of it is
there, and neither side may hold up its other peers.

Idea: the sender captures its state chunk by chunk, as credit allows, and puts
the batches that it publishes meanwhile into the same stream, each between the
chunks captured before and after it. The receiver stages both in a state of its
own, in stream order, and so holds, at the end, exactly the sender's state at
the vector that the end names (see ``snapshot`` for why). Only then is it
installed, as a whole, through one flight.

Where both sides hold much, the two sets of live dots are compared first
(``reconcile``): the receiver finds what it holds that the sender has seen
superseded; what it lacks is what the sender holds beyond its vector. Only that
is sent.

Invariants: one transfer comes in at a time; those that go out are limited in
number, and each in how far it may fall behind; an abandoned transfer leaves
nothing; a payload carries no more context than it covers.

Streaming a changing state with its changes is live migration's pre-copy (Clark
et al., 2005).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from crdtmem.batch import Batch
from crdtmem.causality import VersionVector
from crdtmem.effects import Effect
from crdtmem.errors import MalformedFrame
from crdtmem.install import Kind
from crdtmem.message_shapes import Message
from crdtmem.reconcile import DotSet, PinnedDots
from crdtmem.snapshot import (
    encode_beyond,
    encode_chunks,
    encode_header,
)
from crdtmem.sync_host import SyncConfig, SyncHost
from crdtmem.sync_session import Session
from crdtmem.table import State
from crdtmem.transfer_messages import (
    ReconcileExpand,
    ReconcileFetch,
    ReconcileOffer,
    ReconcileRanges,
    SnapshotBatches,
    SnapshotChunk,
    SnapshotEnd,
    SnapshotOffer,
    SnapshotRefuse,
    SnapshotRequest,
)

__all__ = ["Outbound", "keys_held"]

_PIECE_BYTES: Final = 64 * 1_024
_TURN_STRETCHES: Final = 8
_CHUNK_LIMIT_BYTES: Final = 1 << 28
_RANGES_AT_ONCE: Final = 512
_PAUSE_US: Final = 1_000_000


def keys_held(state: State) -> int:
    """Return how many keys a state holds: near enough to its entries, and quick."""
    return sum(len(table.slots) for table in state.tables.values())


# ------------------------------------------------------------------ sending


@dataclass(slots=True, eq=False)
class _Capture:
    """One transfer that goes out."""

    session: Session
    transfer: int
    base: VersionVector
    vector: VersionVector
    moved_us: int
    kind: Kind = Kind.WHOLE
    compared: VersionVector = field(default_factory=VersionVector)
    chunks: Iterator[bytes] | None = None
    # What is compared: first on its way, then sorted and summed, and offered.
    pinned: PinnedDots | None = None
    dots: DotSet | None = None
    pieces: deque[SnapshotChunk] = field(default_factory=deque)
    since: deque[bytes] = field(default_factory=deque)
    since_bytes: int = 0
    restarts: int = 0


class Outbound:
    """Serves snapshots and comparisons to peers."""

    def __init__(self, host: SyncHost, config: SyncConfig) -> None:
        self._host = host
        self._config = config
        self._captures: dict[Session, _Capture] = {}
        self.next_us: int | None = None

    def __len__(self) -> int:
        return len(self._captures)

    def request(self, session: Session, message: SnapshotRequest, now_us: int) -> list[Effect]:
        """Begin a transfer for a peer; a second one of the same peer replaces the first."""
        self._captures.pop(session, None)
        if len(self._captures) >= self._config.transfers:
            return [session.send(SnapshotRefuse(message.transfer, "busy with other transfers"))]
        state = self._host.state
        capture = _Capture(session, message.transfer, message.vector, state.vector.copy(), now_us)
        self._captures[session] = capture
        much = self._config.reconcile_from
        self.next_us = now_us + self._config.transfer_us if self.next_us is None else self.next_us
        if min(message.entries, keys_held(state)) >= much:
            capture.kind = Kind.DIFFERENCE
            self._pin(capture, now_us)
            return []
        return [self._begin(capture), *self.pump(session, now_us)]

    def compare(self, session: Session, transfer: int, now_us: int) -> list[Effect]:
        """Offer a comparison at the published vector, with no entries to follow: for repair."""
        self._captures.pop(session, None)
        vector = self._host.state.vector.copy()
        capture = _Capture(session, transfer, vector, vector.copy(), now_us, Kind.CORRECTION)
        self._captures[session] = capture
        self._pin(capture, now_us)
        return []

    def _begin(self, capture: _Capture) -> Effect:
        state = self._host.state
        capture.vector = state.vector.copy()
        capture.chunks = encode_chunks(state, entries_per_chunk=self._config.chunk_entries)
        capture.pieces.clear()
        capture.since.clear()
        capture.since_bytes = 0
        return capture.session.send(SnapshotOffer(capture.transfer, keys_held(state)))

    def _pin(self, capture: _Capture, now_us: int) -> None:
        """Pin what there is at this vector; it is offered when it is sorted and summed."""
        capture.pinned = PinnedDots(self._host.state)
        capture.compared = capture.vector.copy()
        self.next_us = now_us + 1

    def _compare(self, capture: _Capture, now_us: int) -> list[Effect]:
        """Do the next step of that, or offer the comparison."""
        assert capture.pinned is not None
        capture.moved_us, self.next_us = now_us, now_us + 1
        capture.dots = capture.pinned.step()
        if capture.dots is None:
            return []
        capture.pinned = None
        tops = capture.dots.tops(capture.compared.meet(capture.base))
        return [capture.session.send(ReconcileOffer(capture.transfer, capture.compared, tops))]

    def expand(self, session: Session, message: ReconcileExpand, now_us: int) -> list[Effect]:
        """Answer what is in ranges of the pinned dots."""
        capture = self._captures.get(session)
        if capture is None or capture.transfer != message.transfer or capture.dots is None:
            return [session.send(SnapshotRefuse(message.transfer, "no such comparison"))]
        if len(message.ranges) > _RANGES_AT_ONCE:
            raise MalformedFrame(f"{len(message.ranges)} ranges to expand at once")
        capture.moved_us = now_us
        answers = tuple(capture.dots.answer(dots) for dots in message.ranges)
        return [session.send(ReconcileRanges(message.transfer, answers))]

    def fetch(self, session: Session, message: ReconcileFetch, now_us: int) -> list[Effect]:
        """The comparison is done: send the entries beyond the asker's vector."""
        capture = self._captures.get(session)
        if (
            capture is None
            or capture.transfer != message.transfer
            or capture.dots is None
            or capture.kind is not Kind.DIFFERENCE
        ):
            return [session.send(SnapshotRefuse(message.transfer, "no such comparison"))]
        capture.dots = None
        capture.moved_us = now_us
        capture.chunks = encode_beyond(
            self._host.state,
            capture.base,
            capture.compared,
            entries_per_chunk=self._config.chunk_entries,
        )
        return self.pump(session, now_us)

    def published(self, batches: Sequence[Batch], now_us: int) -> list[Effect]:
        """Put published batches into every stream of chunks."""
        effects: list[Effect] = []
        for capture in list(self._captures.values()):
            if capture.kind is Kind.CORRECTION:
                continue
            for batch in batches:
                capture.since.append(batch.data)
                capture.since_bytes += len(batch.data)
                capture.vector[batch.header.replica] = batch.header.last
            installed = capture.vector != self._host.state.vector
            if installed or capture.since_bytes > self._config.capture_bytes:
                effects += self._restart(capture, now_us)
            elif capture.chunks is not None:
                effects += self.pump(capture.session, now_us)
        return effects

    def _restart(self, capture: _Capture, now_us: int) -> list[Effect]:
        """Begin anew: the peer is too slow, or a snapshot was installed here meanwhile."""
        session = capture.session
        capture.restarts += 1
        if capture.kind is not Kind.WHOLE or capture.restarts > 3:
            del self._captures[session]
            return [session.send(SnapshotRefuse(capture.transfer, "the state changes too fast"))]
        return [self._begin(capture), *self.pump(session, now_us)]

    def pump(self, session: Session, now_us: int) -> list[Effect]:
        """Send what the credit allows, but not for longer than a turn."""
        capture = self._captures.get(session)
        if capture is None or capture.chunks is None:
            return []
        effects: list[Effect] = []
        sent = stretches = 0
        while sent < self._config.turn_bytes and stretches < _TURN_STRETCHES:
            message, size = self._next(capture)
            if message is None and size:
                break
            if message is None:
                stretches += 1
                continue
            effects.append(session.send(message))
            session.credit_out -= size
            sent += size
            capture.moved_us = now_us
            if isinstance(message, SnapshotEnd):
                del self._captures[session]
                return effects
        else:
            # The turn is over: others have theirs, then the timer brings the next.
            self.next_us = now_us + 1
        return effects

    def _next(self, capture: _Capture) -> tuple[Message | None, int]:
        """Return the next message and its size; no message and a size if credit lacks for it."""
        credit = capture.session.credit_out
        if not capture.pieces and not capture.since:
            assert capture.chunks is not None
            chunk = next(capture.chunks, None)
            if chunk is None:
                header = self._host.snapshot_header()
                exact = replace(header, digest=self._host.state.digest())
                return SnapshotEnd(capture.transfer, encode_header(exact)), 0
            for start in range(0, len(chunk), _PIECE_BYTES):
                piece = chunk[start : start + _PIECE_BYTES]
                last = start + _PIECE_BYTES >= len(chunk)
                capture.pieces.append(SnapshotChunk(capture.transfer, last, piece))
        if capture.pieces:
            size = len(capture.pieces[0].data)
            return (capture.pieces.popleft(), size) if size <= credit else (None, size)
        if not capture.since:
            return None, 0
        size = len(capture.since[0])
        if size > credit:
            return None, size
        capture.since_bytes -= size
        return SnapshotBatches(capture.transfer, (capture.since.popleft(),)), size

    def refused(self, session: Session, transfer: int) -> None:
        """The asker gave a transfer up."""
        capture = self._captures.get(session)
        if capture is not None and capture.transfer == transfer:
            del self._captures[session]

    def closed(self, session: Session) -> None:
        """A stream is gone."""
        self._captures.pop(session, None)

    def handle_timeout(self, now_us: int) -> list[Effect]:
        """Go on where a turn ended, and give up what stands still."""
        if self.next_us is None or now_us < self.next_us:
            return []
        self.next_us = None
        effects: list[Effect] = []
        for session, capture in list(self._captures.items()):
            if now_us >= capture.moved_us + self._config.transfer_us:
                del self._captures[session]
                effects.append(session.send(SnapshotRefuse(capture.transfer, "no progress")))
            elif capture.pinned is not None:
                effects += self._compare(capture, now_us)
            else:
                effects += self.pump(session, now_us)
        if self._captures and self.next_us is None:
            self.next_us = now_us + self._config.transfer_us
        return effects
