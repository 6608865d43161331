"""What comes in on a stream: batches, their credit, and what is already on its way.

Problem: a peer's credit must come back at the pace of our disk, or a fast peer
fills our memory; yet a batch that waits for its causes must not hold the credit
that those causes need, or both wait for ever.

Idea: a batch that continues what was taken in, with its dependencies taken in,
is sure to be published; its credit comes back then. One that is early lies in
the inbox, which is bounded by itself; its credit comes back at once. ``arriving``
is the vector of what is published or sure to be, so that it is not asked for.

Invariants: every received byte is credited exactly once; a batch that was not
taken in leaves no trace, and is asked for again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from crdtmem.batch import Batch
from crdtmem.causality import VersionVector
from crdtmem.effects import Effect
from crdtmem.errors import ForkDetected, RemoteError
from crdtmem.inbox import Verdict
from crdtmem.messages import Batches
from crdtmem.sync_greeting import fork_lost, histories_differ
from crdtmem.sync_host import SyncHost
from crdtmem.sync_newcomer import Guide
from crdtmem.sync_relaying import Relaying
from crdtmem.sync_requests import Requests
from crdtmem.sync_session import Session

__all__ = ["FORKED", "Inflow"]

FORKED: Final = "forked"
"""The code with which a peer is told that another history of its id was joined here."""


class Inflow:
    """Takes batches from all sessions of one host."""

    def __init__(
        self, host: SyncHost, requests: Requests, guide: Guide, relaying: Relaying
    ) -> None:
        self.host = host
        self.guide = guide
        self.relaying = relaying
        self.requests = requests
        # What is published, or accepted and ready: what need not be asked for.
        self.arriving = VersionVector()
        # Payload that keeps credit until it is published, by origin and first sequence
        # (which rise): who sent it, and its size.
        # Why the peer of the frame that was just taken is to be sent away, if it is.
        self.forked: RemoteError | None = None
        self._unsettled: dict[int, dict[int, list[tuple[Session, int]]]] = {}

    def batches(self, session: Session, message: Batches, now_us: int) -> list[Effect]:
        """Offer a frame's batches to the host; raises ``MalformedFrame``."""
        effects: list[Effect] = []
        session.take_credit(sum(map(len, message.batches)))
        for data in message.batches:
            effects += self._take(session, data, now_us)
        return effects + session.granted()

    def _take(self, session: Session, data: bytes, now_us: int) -> list[Effect]:
        batch = self.host.decode(data)
        header = batch.header
        replica, size = header.replica, len(data)
        is_news = header.last > session.vector.get(replica, 0)
        if is_news:
            # What a peer sends is durable there.
            session.vector[replica] = session.shown[replica] = header.last
        if not self.guide.listens_to(session):
            self._notice(replica, header.last, now_us)
            session.return_credit(size)
            return []
        asked = self.requests.is_asked(session, replica)
        is_repeated = header.last <= self.arriving.get(replica, 0)
        verdict, effects = self.host.offer(batch)
        if verdict is Verdict.DUPLICATE or is_repeated:
            if not asked:
                effects += self.relaying.repeated(session, replica)
        elif verdict is Verdict.ACCEPTED:
            self.relaying.brought(session, replica)
        if verdict is Verdict.FENCED and replica == session.replica != self.host.replica_id:
            # It has to hear of it: nobody else can tell it that it is the copy.
            self.forked = _forked_peer(replica, header.first)
        elif verdict is Verdict.FENCED and effects and replica != self.host.replica_id:
            effects += self._part(session, replica)
        if verdict is Verdict.FULL:
            self.requests.refused(replica, now_us)
        elif verdict in (Verdict.ACCEPTED, Verdict.DUPLICATE):
            session.failures = 0
            self.requests.progressed(session, replica, header.last, now_us)
        ready = header.first == self.arriving.get(replica, 0) + 1 and self.arriving.dominates(
            header.dependencies
        )
        if verdict is Verdict.ACCEPTED and ready:
            # It will be published: its credit comes back then, at the pace of the disk.
            self.arriving[replica] = header.last
            held = self._unsettled.setdefault(replica, {})
            held.setdefault(header.first, []).append((session, size))
        else:
            # Settled, or early: the inbox bounds those, and waiting could block what they need.
            session.return_credit(size)
            if is_news:
                self._notice(replica, header.last, now_us)
        return effects

    def _notice(self, replica: int, last: int, now_us: int) -> None:
        """Note that a batch was not taken, or not for certain: it may have to be asked for."""
        self.requests.notice({replica: last}, self.arriving, now_us)

    def _part(self, session: Session, replica: int) -> list[Effect]:
        """Part from a peer that holds another history of a third replica.

        Whoever holds less begins again. Where both hold as much the next greeting decides.
        """
        longer = session.vector.get(replica, 0) > self.host.state.vector.get(replica, 0)
        if longer and self.host.yields_to(session.replica, True):
            self.forked, effects = fork_lost(self.host, session.replica, replica, [])
            return effects
        self.forked = histories_differ(replica)
        return []

    def heard(self, session: Session, changed: Mapping[int, int], now_us: int) -> list[Effect]:
        """Take note of what a peer says that it has, what came as batches included.

        It does not say that again; but what it acknowledges after its own batches counts only
        once those have been joined here, and some may never be: see ``epoch``.
        """
        fenced, held = self.host.fenced, self.host.state.vector
        for replica in changed.keys() & fenced.keys():
            # It went on with the history that was refused here, so here it never can go on.
            longer = changed[replica] > held.get(replica, 0) and replica != session.replica
            if longer and self.host.yields_to(session.replica, True):
                return fork_lost(self.host, session.replica, replica, [])[1]
        vector = VersionVector(changed)
        vector.join(session.shown)
        session.shown = VersionVector()
        return self.host.acknowledge(session.replica, vector, now_us)

    def settle(self, batches: Sequence[Batch]) -> list[Effect]:
        """Return the credit of published batches, and of those that never will be."""
        self.arriving.join(self.host.state.vector)
        settled: list[tuple[Session, int]] = []
        for batch in batches:
            held = self._unsettled.get(batch.header.replica)
            if held:
                settled += held.pop(batch.header.first, ())
        if any(
            held and self.host.take_through(replica) < next(reversed(held))
            for replica, held in self._unsettled.items()
        ):
            # Fenced or cut off since. What depends on it waits with it: nothing is sure any more.
            self.arriving = self.host.state.vector.copy()
            for held in self._unsettled.values():
                for part in held.values():
                    settled += part
            self._unsettled.clear()
        for session, size in settled:
            session.return_credit(size)
        touched = dict.fromkeys(session for session, _ in settled)
        return [effect for session in touched for effect in session.granted()]


def _forked_peer(replica: int, sequence: int) -> ForkDetected:
    """Return the error with which a peer is told that its own id has another history here."""
    return ForkDetected(
        f"replica {replica:016x} has another history here at sequence {sequence}",
        hint="its store is an old copy; it needs a new replica id",
        reason=FORKED,
    )
