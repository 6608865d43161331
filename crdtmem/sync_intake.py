"""The receiving side of transfers: asked for, staged aside, installed as a whole.

Problem and idea: see ``sync_transfer``. This side holds one transfer at a time,
in a state that nobody else sees, and hands it to the host once its end has come
and its digest is right.

Our own dots are sorted, and what was staged is checked against its digest, a step at a
time with other work in between: a million entries take a second each.

Invariants: nothing of a transfer is visible before the host installs it; while
one is being checked or installed no other is begun; the credit of what is staged is
returned at once, because the stage is the place where it stays.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from crdtmem.batch import Batch
from crdtmem.causality import VersionVector
from crdtmem.effects import Alarm, Effect
from crdtmem.errors import MalformedFrame
from crdtmem.install import Installation, Kind
from crdtmem.reconcile import Comparison, DotSet, PinnedDots
from crdtmem.snapshot import SnapshotHeader, decode_header, load_chunk
from crdtmem.sync_host import SyncConfig, SyncHost
from crdtmem.sync_session import Session
from crdtmem.sync_transfer import keys_held
from crdtmem.table import Overlay, State
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

__all__ = ["SLICE_ENTRIES", "Inbound"]

_CHUNK_LIMIT_BYTES: Final = 1 << 28
_RANGES_AT_ONCE: Final = 512
_PAUSE_US: Final = 1_000_000
_WRONG_DIGEST: Final = "a snapshot whose digest does not match its entries"
SLICE_ENTRIES: Final = 20_000
"""How many entries are checked at a time."""


@dataclass(slots=True, eq=False)
class _Intake:
    """The transfer that comes in."""

    session: Session
    transfer: int
    base: VersionVector
    moved_us: int
    staged: State
    # Our own dots, pinned when it was asked for: first on their way, then sorted and summed.
    pinned: PinnedDots | None = None
    mine: DotSet | None = None
    offer: ReconcileOffer | None = None
    kind: Kind = Kind.WHOLE
    comparison: Comparison | None = None
    compared: VersionVector = field(default_factory=VersionVector)
    batches: list[Batch] = field(default_factory=list)
    pieces: list[bytes] = field(default_factory=list)
    size: int = 0
    kept_bytes: int = 0
    # Once all is there: what goes on checking it, a slice at a time, and what it says of itself.
    checking: Iterator[None] | None = None
    header: SnapshotHeader | None = None
    installing: VersionVector | None = None


class Inbound:
    """Asks for a transfer and stages it."""

    def __init__(self, host: SyncHost, config: SyncConfig, numbers: Iterator[int]) -> None:
        """``numbers`` yields the numbers of transfers, each once."""
        self._host = host
        self._config = config
        self._numbers = numbers
        self._intake: _Intake | None = None
        self._wait_until_us = 0
        self.next_us: int | None = None

    @property
    def active(self) -> bool:
        """Whether a transfer comes in or is being installed."""
        return self._intake is not None

    @property
    def source(self) -> int:
        """Whose state comes in or is being installed; 0 for nobody's."""
        return 0 if self._intake is None else self._intake.session.replica

    def want(self, session: Session, now_us: int) -> list[Effect]:
        """Ask a peer for its state, unless one is coming, or the last attempt was just now."""
        if self._intake is not None:
            return []
        if now_us < self._wait_until_us:
            self.next_us = self._wait_until_us
            return []
        state = self._host.state
        transfer = next(self._numbers)
        entries = keys_held(state)
        base = state.vector.copy()
        self._intake = _Intake(session, transfer, base, now_us, State(state.shapes))
        self.next_us = now_us + self._config.transfer_us
        if entries >= self._config.reconcile_from:
            # Pinned now, so that it belongs to the vector that the request names.
            self._intake.pinned = PinnedDots(state)
            self.next_us = now_us + 1
        return [session.send(SnapshotRequest(transfer, entries, base))]

    def _expected(self, session: Session, transfer: int) -> _Intake | None:
        intake = self._intake
        if intake is None or intake.session is not session or intake.transfer != transfer:
            return None
        return None if intake.header is not None else intake

    def offered(self, session: Session, message: SnapshotOffer, now_us: int) -> list[Effect]:
        """A whole snapshot begins, or begins again."""
        intake = self._expected(session, message.transfer)
        if intake is not None:
            intake.moved_us = now_us
            intake.staged = State(self._host.state.shapes)
            intake.pieces.clear()
            intake.size = 0
            intake.mine = intake.pinned = None
        return []

    def chunk(self, session: Session, message: SnapshotChunk, now_us: int) -> list[Effect]:
        """Stage a piece of a chunk; raises ``MalformedFrame``."""
        size = len(message.data)
        session.take_credit(size)
        session.return_credit(size)
        intake = self._expected(session, message.transfer)
        if intake is not None:
            intake.moved_us = now_us
            intake.size += size
            if intake.size > _CHUNK_LIMIT_BYTES:
                raise MalformedFrame(f"a chunk of over {_CHUNK_LIMIT_BYTES} bytes")
            intake.pieces.append(message.data)
            if message.last:
                load_chunk(intake.staged, b"".join(intake.pieces))
                intake.pieces.clear()
                intake.size = 0
        return session.granted()

    def batches(self, session: Session, message: SnapshotBatches, now_us: int) -> list[Effect]:
        """Stage batches that were published during the capture; raises ``MalformedFrame``."""
        size = sum(map(len, message.batches))
        session.take_credit(size)
        session.return_credit(size)
        intake = self._expected(session, message.transfer)
        if intake is not None:
            intake.moved_us = now_us
            for data in message.batches:
                batch = self._host.decode(data)
                if intake.kind is Kind.DIFFERENCE:
                    intake.batches.append(batch)
                    intake.kept_bytes += len(data)
                    if intake.kept_bytes > 4 * self._config.capture_bytes:
                        raise MalformedFrame("more batches beside a difference than may be")
                    continue
                overlay = Overlay(intake.staged)
                for segment in batch.segments:
                    overlay.join(segment)
                # Digests are made once, at the end.
                overlay.publish(digests=False)
        return session.granted()

    def compare(self, session: Session, message: ReconcileOffer, now_us: int) -> list[Effect]:
        """A comparison begins."""
        intake = self._expected(session, message.transfer)
        if intake is None or (intake.mine is None and intake.pinned is None):
            return []
        intake.moved_us = now_us
        if intake.mine is None:
            # Taken up when our own dots are sorted.
            intake.offer = message
            return []
        intake.kind = Kind.DIFFERENCE
        intake.compared = message.vector
        intake.comparison = Comparison(intake.mine, message.tops, both=False)
        intake.comparison.start(message.vector.meet(intake.base))
        return self._ask(intake)

    def _sort(self, intake: _Intake, now_us: int) -> list[Effect]:
        """Do the next step of sorting our own dots, and then compare, if that was offered."""
        assert intake.pinned is not None
        self.next_us = now_us + 1
        intake.mine = intake.pinned.step()
        if intake.mine is None:
            return []
        intake.pinned, offer = None, intake.offer
        self.next_us = now_us + self._config.transfer_us
        return [] if offer is None else self.compare(intake.session, offer, now_us)

    def ranges(self, session: Session, message: ReconcileRanges, now_us: int) -> list[Effect]:
        """Answers came; raises ``MalformedFrame``."""
        intake = self._expected(session, message.transfer)
        if intake is None or intake.comparison is None:
            return []
        intake.moved_us = now_us
        try:
            intake.comparison.take(message.answers)
        except ValueError as error:
            raise MalformedFrame(f"a comparison that does not hold: {error}") from error
        return self._ask(intake)

    def _ask(self, intake: _Intake) -> list[Effect]:
        assert intake.comparison is not None
        if intake.comparison.done:
            intake.mine = None
            return [intake.session.send(ReconcileFetch(intake.transfer))]
        ranges = tuple(intake.comparison.ask(_RANGES_AT_ONCE))
        return [intake.session.send(ReconcileExpand(intake.transfer, ranges))]

    def ended(self, session: Session, message: SnapshotEnd, now_us: int) -> list[Effect]:
        """All is there: check it, and install it as a whole."""
        intake = self._expected(session, message.transfer)
        if intake is None:
            return []
        header = decode_header(message.header)
        own = self._host.replica_id
        known = header.vector.get(own, 0)
        if known > self._host.state.vector.get(own, 0):
            self.abandon(now_us)
            reason = "more of ours than we have"
            return self._host.identity_questioned(session.replica, known, reason)
        intake.header = header
        intake.staged.vector = header.vector.copy()
        intake.checking = intake.staged.derive_in_slices(SLICE_ENTRIES)
        effects = self._check(intake, now_us)
        if effects is None:
            raise MalformedFrame(_WRONG_DIGEST)
        return effects

    def _check(self, intake: _Intake, now_us: int) -> list[Effect] | None:
        """Check the next slice, and install what has been checked; ``None`` if it is wrong."""
        header, staged = intake.header, intake.staged
        assert intake.checking is not None
        assert header is not None
        if next(intake.checking, self) is None:
            self.next_us = now_us + 1
            return []
        intake.checking = None
        if intake.kind is Kind.WHOLE and header.digest not in (None, staged.digest()):
            self.abandon(now_us)
            return None
        intake.installing = header.vector
        installation = Installation(intake.kind, header, staged)
        if intake.comparison is not None:
            installation.base = intake.base
            installation.compared = intake.compared
            installation.wanted = {entry[0] for *_, entry in staged.entries()}
            installation.dropped = intake.comparison.surplus
            installation.batches = intake.batches
        return self._host.install(installation, now_us)

    def refused(self, session: Session, transfer: int, now_us: int) -> None:
        """The sender cannot, or no longer: try again later, perhaps with another."""
        if self._expected(session, transfer) is not None:
            session.failures += 1
            self.abandon(now_us)

    def rejected(self, now_us: int) -> None:
        """What was to be installed may not be joined: ask again later, another peer perhaps."""
        intake = self._intake
        if intake is not None and intake.installing is not None:
            intake.session.failures += 1
            self.abandon(now_us)

    def abandon(self, now_us: int) -> None:
        """Forget the transfer that comes in."""
        self._intake = None
        self._wait_until_us = self.next_us = now_us + _PAUSE_US

    def published(self, vector: Mapping[int, int]) -> None:
        """Something was published: perhaps what was being installed."""
        intake = self._intake
        if intake is not None and intake.installing is not None:
            if VersionVector(vector).dominates(intake.installing):
                self._intake = None

    def closed(self, session: Session, now_us: int) -> None:
        """A stream is gone."""
        intake = self._intake
        if intake is not None and intake.session is session and intake.header is None:
            self.abandon(now_us)

    def handle_timeout(self, now_us: int) -> list[Effect]:
        """Give up a transfer that stands still."""
        if self.next_us is None or now_us < self.next_us:
            return []
        self.next_us = None
        intake = self._intake
        if intake is None or intake.installing is not None:
            return []
        if intake.pinned is not None:
            return self._sort(intake, now_us)
        if intake.checking is not None:
            effects = self._check(intake, now_us)
            if effects is None:
                intake.session.failures += 1
                effects = [Alarm("snapshot refused", _WRONG_DIGEST, {})]
            return effects
        due_us = intake.moved_us + self._config.transfer_us
        if now_us < due_us:
            self.next_us = due_us
            return []
        session, transfer = intake.session, intake.transfer
        session.failures += 1
        self.abandon(now_us)
        return [session.send(SnapshotRefuse(transfer, "no progress"))]
