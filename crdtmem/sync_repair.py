"""Repair: two replicas with equal vectors and unequal digests find out which is wrong.

Problem: equal vectors must mean equal live dots. When they do not, memory or
disk was damaged, or there is a defect. To copy the other side, either way, may
bring back what was deleted, or delete what was not.

Idea: absence is no evidence. Both sides first re-derive their state from their
own store, which mends whatever went wrong in memory. If they still differ, the
sets of live dots are compared, both ways. Of each dot that one side holds and
the other lacks, the side that lacks it searches its log for the delta that
superseded it: if there is one, that batch is shown, and the holder drops the
entry; if not, the entry is kept and restored to the side that lost it.

Equal vectors stand for the same deltas unless some replica wrote two histories: then
nothing of one is evidence for the other, and the two part (see ``sync_greeting``).

The replica with the lower id leads. Everything stands on one vector: a write on
either side in between voids the round, and the next comparison begins another. Two that
differed compare again and again until they agree, so a round may come to nothing.

Invariants: an entry is dropped only upon a batch that both vectors cover and
that supersedes it; every correction is durable, and reported by an alarm on the
side that it changed; at most one repair is led at a time, of a bounded number
of dots.

Refusing to take absence for evidence is what read repair in Dynamo-like stores
lacks, and what tombstones were invented for.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, Final

from crdtmem.causality import VersionVector
from crdtmem.codec import pack
from crdtmem.effects import Alarm, Effect
from crdtmem.entries import unpack_dot
from crdtmem.errors import MalformedFrame
from crdtmem.install import Installation, Kind, dots_from_flat, flat_dots
from crdtmem.reconcile import Comparison, DotSet, PinnedDots
from crdtmem.snapshot import SnapshotHeader, chosen_entries, encode_chunks, load_chunk
from crdtmem.sync_greeting import histories_differ
from crdtmem.sync_host import SyncConfig, SyncHost
from crdtmem.sync_session import Session
from crdtmem.sync_transfer import Outbound
from crdtmem.table import State
from crdtmem.transfer_messages import (
    ReconcileExpand,
    ReconcileOffer,
    ReconcileRanges,
    RepairEntries,
    RepairFind,
    RepairFound,
    RepairSettle,
    RepairStart,
    SnapshotRefuse,
)

__all__ = ["Repair", "fingerprint_of", "tips_hash", "vector_hash"]

_RANGES_AT_ONCE: Final = 512
_SOUND_FOR_US: Final = 600_000_000


def vector_hash(vector: VersionVector) -> bytes:
    """Return the 8-byte hash by which two sides compare their vectors."""
    return blake2b(pack(vector.flat()), digest_size=8).digest()


def tips_hash(tips: Mapping[int, tuple[int, bytes]]) -> bytes:
    """Return the 8-byte hash that tells two sets of histories at one vector apart."""
    return blake2b(pack([[*tip] for tip in sorted(tips.items())]), digest_size=8).digest()


def fingerprint_of(host: SyncHost) -> tuple[bytes, bytes, bytes]:
    """Return the hash of the published vector, the digest of live dots, the hash of tips."""
    digest = b"".join(lane.to_bytes(8, "big") for lane in host.state.digest())
    return vector_hash(host.state.vector), digest, tips_hash(host.tips)


@dataclass(slots=True, eq=False)
class _Round:
    """One round with one peer, on either side. ``transfer`` is 0 until it is named."""

    session: Session
    vector: VersionVector
    moved_us: int
    transfer: int = 0
    # What we hold: first on its way, then sorted and summed.
    pinned: PinnedDots | None = None
    mine: DotSet | None = None
    comparison: Comparison | None = None
    surplus: set[int] = field(default_factory=set)
    lacking: set[int] = field(default_factory=set)
    # Evidence for what the peer holds in surplus, shown to it at the end.
    shown: tuple[bytes, ...] = ()
    dropped: set[int] = field(default_factory=set)


class Repair:
    """All repairs of one replica: the one that it leads, and those that it follows."""

    def __init__(
        self, host: SyncHost, config: SyncConfig, outbound: Outbound, numbers: Iterator[int]
    ) -> None:
        self._host = host
        self._config = config
        self._outbound = outbound
        self._numbers = numbers
        self._led: _Round | None = None
        self._followed: dict[Session, _Round] = {}
        self._reported: dict[Session, bytes] = {}
        # Corrections that are being installed, with their vector: reported once they are visible.
        self._corrections: list[tuple[VersionVector, Alarm]] = []
        # Until when our own state counts as re-derived, so that a round can be quick.
        self._sound_until_us = 0
        self.next_us: int | None = None

    @property
    def active(self) -> bool:
        """Whether a repair is led or followed now."""
        return self._led is not None or bool(self._followed)

    # ------------------------------------------------------------------ beginning

    def mismatch(
        self, session: Session, digests: tuple[bytes, bytes], now_us: int
    ) -> tuple[list[Effect], bool]:
        """Digests (ours, theirs) differ at equal vectors: alarm, and lead if it is ours to lead.

        Returns the effects, and whether the peer has to be told our digest, so that it leads.
        """
        effects: list[Effect] = []
        if self._reported.get(session) != b"".join(digests):
            self._reported[session] = b"".join(digests)
            details = {
                "peer": session.replica,
                "ours": digests[0].hex(),
                "theirs": digests[1].hex(),
            }
            words = f"same vector as replica {session.replica:016x}, but other live entries"
            effects.append(Alarm("digest", words, details))
        if self._host.replica_id > session.replica:
            return effects, True
        if self._led is None:
            self._led = _Round(session, self._host.state.vector.copy(), now_us)
            self.next_us = now_us + self._config.transfer_us
            if now_us < self._sound_until_us:
                effects += self._start(self._led, now_us)
            else:
                effects += self._host.rederive(("lead", session.peer))
        return effects, False

    def _start(self, led: _Round, now_us: int) -> list[Effect]:
        """Pin what there is; the peer is asked when it is sorted and summed."""
        state = self._host.state
        led.vector = state.vector.copy()
        led.pinned = PinnedDots(state)
        led.moved_us, self.next_us = now_us, now_us + 1
        return []

    def _sort(self, led: _Round, now_us: int) -> list[Effect]:
        """Do the next step of that, or ask the peer to compare."""
        assert led.pinned is not None
        led.moved_us, self.next_us = now_us, now_us + 1
        led.mine = led.pinned.step()
        if led.mine is None:
            return []
        led.pinned = None
        self.next_us = now_us + self._config.transfer_us
        led.transfer = next(self._numbers)
        if not self._still(led):
            return self._give_up("the vector has moved on")
        hashes = vector_hash(led.vector), tips_hash(self._host.tips)
        return [led.session.send(RepairStart(led.transfer, *hashes))]

    def rederived(self, request: Any, sound: bool, now_us: int) -> list[Effect]:
        """The state was compared with the store; where it was wrong it has been replaced."""
        role, peer = request
        effects: list[Effect] = []
        if sound:
            self._sound_until_us = now_us + _SOUND_FOR_US
        else:
            words = "the state in memory differed from the store, and was replaced by what it holds"
            effects.append(Alarm("rederived", words, {}))
        if role == "lead":
            led = self._led
            if led is None or led.session.peer != peer:
                return effects
            if not sound:
                # The next comparison of digests tells whether that was all.
                self._led = None
                return effects
            return [*effects, *self._start(led, now_us)]
        for followed in list(self._followed.values()):
            if followed.session.peer == peer:
                return [*effects, *self._offer(followed, sound, now_us)]
        return effects

    def start(self, session: Session, message: RepairStart, now_us: int) -> list[Effect]:
        """A peer leads: re-derive, then offer to compare. Raises ``ForkDetected``."""
        vector = self._host.state.vector
        if message.vector_hash != vector_hash(vector):
            return [session.send(SnapshotRefuse(message.transfer, "the vector has moved on"))]
        if message.tips_hash != tips_hash(self._host.tips):
            # Not the same deltas at all, so none is evidence for the other: meet anew, and part.
            raise histories_differ()
        followed = _Round(session, vector.copy(), now_us, message.transfer)
        self._followed[session] = followed
        self.next_us = now_us + self._config.transfer_us
        if now_us < self._sound_until_us:
            return self._offer(followed, True, now_us)
        return self._host.rederive(("follow", session.peer))

    def _offer(self, followed: _Round, sound: bool, now_us: int) -> list[Effect]:
        session = followed.session
        if not sound or not self._still(followed):
            del self._followed[session]
            return [session.send(SnapshotRefuse(followed.transfer, "re-derived; compare again"))]
        followed.moved_us = now_us
        return self._outbound.compare(session, followed.transfer, now_us)

    def _still(self, round_: _Round) -> bool:
        return self._host.state.vector == round_.vector

    # ------------------------------------------------------------------ comparing

    def leads(self, session: Session, transfer: int) -> bool:
        """Tell whether a transfer's number is that of the repair led with this peer."""
        led = self._led
        return led is not None and led.session is session and led.transfer == transfer

    def compare(self, session: Session, message: ReconcileOffer, now_us: int) -> list[Effect]:
        """The follower offers its fingerprints."""
        led = self._led
        if led is None or led.mine is None or message.vector != led.vector:
            return self._give_up("the vector has moved on")
        led.moved_us = now_us
        led.comparison = Comparison(led.mine, message.tops, both=True)
        led.comparison.start(led.vector)
        return self._ask(led)

    def ranges(self, session: Session, message: ReconcileRanges, now_us: int) -> list[Effect]:
        """The follower answers; raises ``MalformedFrame``."""
        led = self._led
        if led is None or led.comparison is None:
            return []
        led.moved_us = now_us
        try:
            led.comparison.take(message.answers)
        except ValueError as error:
            raise MalformedFrame(f"a comparison that does not hold: {error}") from error
        return self._ask(led)

    def _ask(self, led: _Round) -> list[Effect]:
        comparison = led.comparison
        assert comparison is not None
        if not comparison.done:
            ranges = tuple(comparison.ask(_RANGES_AT_ONCE))
            return [led.session.send(ReconcileExpand(led.transfer, ranges))]
        limit = self._config.repair_dots
        led.surplus = set(sorted(comparison.surplus)[:limit])
        led.lacking = set(sorted(comparison.lacking)[:limit])
        led.mine = led.comparison = None
        if not led.surplus and not led.lacking:
            return self._give_up("the entries are equal")
        return self._host.find_evidence(("lead", led.session.peer), led.lacking)

    # ------------------------------------------------------------------ evidence

    def evidence_found(self, request: Any, batches: Sequence[bytes], now_us: int) -> list[Effect]:
        """The stored batches that supersede some of the dots that were asked about."""
        role, peer = request
        shown = tuple(_bounded(batches, self._room_bytes))
        if role == "lead":
            led = self._led
            if led is None or led.session.peer != peer:
                return []
            led.shown = shown
            led.moved_us = now_us
            return [
                led.session.send(RepairFind(led.transfer, tuple(flat_dots(sorted(led.surplus)))))
            ]
        for followed in self._followed.values():
            if followed.session.peer == peer:
                followed.moved_us = now_us
                return [followed.session.send(RepairFound(followed.transfer, shown))]
        return []

    @property
    def _room_bytes(self) -> int:
        return self._host.limits.frame_bytes // 2 - self._host.limits.batch_bytes // 2

    def find(self, session: Session, message: RepairFind, now_us: int) -> list[Effect]:
        """The leader asks what superseded dots that it holds and we lack."""
        followed = self._following(session, message.transfer)
        if followed is None:
            return [session.send(SnapshotRefuse(message.transfer, "no such repair"))]
        followed.moved_us = now_us
        dots = self._dots(message.dots)
        return self._host.find_evidence(("follow", session.peer), dots)

    def found(self, session: Session, message: RepairFound, now_us: int) -> list[Effect]:
        """The follower shows its evidence: settle what is dropped, kept, restored."""
        led = self._led
        if led is None or not self.leads(session, message.transfer):
            return []
        led.moved_us = now_us
        led.dropped = led.surplus & self._superseded(message.evidence, led.vector)
        wanted = led.lacking - self._superseded(led.shown, led.vector)
        chunks = self._chunks(led.surplus - led.dropped)
        flat = tuple(flat_dots(sorted(wanted)))
        led.lacking = wanted
        return [session.send(RepairSettle(led.transfer, led.shown, flat, chunks))]

    def settle(self, session: Session, message: RepairSettle, now_us: int) -> list[Effect]:
        """The leader's verdict: drop what it has evidence for, restore what we lost."""
        followed = self._following(session, message.transfer)
        if followed is None or not self._still(followed):
            self._followed.pop(session, None)
            return [session.send(SnapshotRefuse(message.transfer, "the vector has moved on"))]
        del self._followed[session]
        # What was compared is done with, and makes room for a snapshot that somebody needs.
        self._outbound.refused(session, message.transfer)
        chunks = self._chunks(self._dots(message.wanted))
        dropped = self._superseded(message.evidence, followed.vector)
        return [
            session.send(RepairEntries(message.transfer, chunks)),
            *self._correct(session, followed.vector, message.chunks, dropped, now_us),
        ]

    def entries(self, session: Session, message: RepairEntries, now_us: int) -> list[Effect]:
        """The follower's entries that we lost: the last step."""
        led = self._led
        if led is None or not self.leads(session, message.transfer):
            return []
        self._led = None
        return self._correct(session, led.vector, message.chunks, led.dropped, now_us)

    def _correct(
        self,
        session: Session,
        vector: VersionVector,
        chunks: Sequence[bytes],
        dropped: set[int],
        now_us: int,
    ) -> list[Effect]:
        state = State(self._host.state.shapes)
        for chunk in chunks:
            load_chunk(state, chunk)
        restored = {entry[0] for *_, entry in state.entries()}
        if not vector.covers_all(restored):
            raise MalformedFrame("an entry restored that no vector covers")
        if not restored and not dropped:
            return []
        held = {entry[0] for *_, entry in self._host.state.entries()}
        fresh = sorted(str(unpack_dot(dot)) for dot in restored - held)
        gone = sorted(str(unpack_dot(dot)) for dot in dropped & held)
        details = {"peer": session.replica, "restored": fresh, "dropped": gone}
        words = (
            f"{len(fresh)} entries restored from replica {session.replica:016x}, "
            f"{len(gone)} dropped upon its evidence"
        )
        state.vector = vector.copy()
        header = SnapshotHeader(vector.copy())
        correction = Installation(Kind.CORRECTION, header, state, dropped=dropped & held)
        self._corrections.append((vector.copy(), Alarm("repaired", words, details)))
        return self._host.install(correction, now_us)

    def published(self) -> list[Effect]:
        """Something was published: a correction, or something that came before and voids it."""
        decided, self._corrections = self._corrections, []
        vector = self._host.state.vector
        return [alarm for decided_at, alarm in decided if decided_at == vector]

    def _following(self, session: Session, transfer: int) -> _Round | None:
        followed = self._followed.get(session)
        return followed if followed is not None and followed.transfer == transfer else None

    def _dots(self, flat: Sequence[Any]) -> set[int]:
        try:
            dots = set(dots_from_flat(flat))
        except (TypeError, ValueError) as error:
            raise MalformedFrame(f"a list of dots with the wrong shape: {error}") from error
        if len(dots) > 4 * self._config.repair_dots:
            raise MalformedFrame(f"{len(dots)} dots in one round of repair")
        return dots

    def _superseded(self, evidence: Iterable[bytes], vector: VersionVector) -> set[int]:
        """Return the dots that these batches supersede, of batches that the vector covers."""
        gone: set[int] = set()
        for data in evidence:
            batch = self._host.decode(data)
            if batch.header.last <= vector.get(batch.header.replica, 0):
                for segment in batch.segments:
                    for delta in segment.deltas():
                        gone.update(delta[4])
        return gone

    def _chunks(self, dots: set[int]) -> tuple[bytes, ...]:
        chosen = chosen_entries(self._host.state, dots)
        return tuple(_bounded(encode_chunks(chosen, entries_per_chunk=16), self._room_bytes))

    # ------------------------------------------------------------------ ending

    def _give_up(self, reason: str) -> list[Effect]:
        led, self._led = self._led, None
        return [] if led is None else [led.session.send(SnapshotRefuse(led.transfer, reason))]

    def refused(self, session: Session, transfer: int) -> None:
        """The other side ends a round."""
        if self.leads(session, transfer):
            self._led = None
        if self._following(session, transfer) is not None:
            del self._followed[session]

    def closed(self, session: Session) -> None:
        """A stream is gone."""
        if self._led is not None and self._led.session is session:
            self._led = None
        self._followed.pop(session, None)
        self._reported.pop(session, None)

    def handle_timeout(self, now_us: int) -> list[Effect]:
        """Give up rounds that stand still."""
        if self.next_us is None or now_us < self.next_us:
            return []
        self.next_us = None
        effects: list[Effect] = []
        if self._led is not None and self._led.pinned is not None:
            effects += self._sort(self._led, now_us)
        stale_us = now_us - self._config.transfer_us
        if self._led is not None and self._led.moved_us <= stale_us:
            effects += self._give_up("no progress")
        for session, followed in list(self._followed.items()):
            if followed.moved_us <= stale_us:
                del self._followed[session]
        if self.active and self.next_us is None:
            self.next_us = now_us + self._config.transfer_us
        return effects


def _bounded(parts: Iterable[bytes], limit_bytes: int) -> Iterator[bytes]:
    """Yield parts until they exceed the limit; what is left out waits for the next round."""
    total = 0
    for part in parts:
        total += len(part)
        if total > limit_bytes:
            return
        yield part
