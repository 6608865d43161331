"""Synchronisation: what this replica has reaches every peer, and the other way round.

Problem: deltas must arrive everywhere soon, once, in bounded memory, over
streams that break, to peers that are slow, behind, or below our log.

Idea: three paths, each the net under the one before.

1. *Push.* Each replica sends its own deltas to every peer, from where the peer
   is: the batches of the last flight while the peer keeps up, and otherwise
   from the log, in order, as its credit allows. Others' deltas are passed on to
   the peers that have no other way to them (see ``sync_relaying``).
2. *Pull.* Each replica tells its peers its durable vector. Where a peer's vector
   shows deltas that do not come by themselves, ranges are asked for.
3. *Transfer.* Below the log, the whole state or the difference to it (see
   ``sync_transfer``); at equal vectors with unequal digests, repair by evidence
   (``sync_repair``).

An acknowledgement is the published vector: what it covers is durable here. When it
is told, see ``sync_telling``. Nothing is sent while nothing changes but a probe.

Invariants: only what is published is sent or acknowledged; every queue is
bounded by credit or by one read of the log; whatever a peer sends, only its own
stream is closed, and the state is changed by published flights alone.

Anti-entropy by version vectors is Demers et al. (1987) and Golding (1992);
acknowledging by durable vector is Bayou's (Petersen et al., 1997).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import count
from typing import Any, Final

from crdtmem.batch import Batch
from crdtmem.causality import VersionVector
from crdtmem.effects import Disconnect, Effect
from crdtmem.errors import CrdtmemError, MalformedFrame, RemoteError
from crdtmem.frames import FrameReader
from crdtmem.message_shapes import Message
from crdtmem.messages import (
    Acknowledge,
    Batches,
    Credit,
    Digest,
    Evicted,
    Gap,
    Hears,
    Hello,
    Hurry,
    Ping,
    Pong,
    Prune,
    Refuse,
    Request,
)
from crdtmem.sync_greeting import (
    Belonging,
    duplicate_stream,
    histories_differ,
    judge,
    keeps_older,
    tell_evicted,
)
from crdtmem.sync_host import DEFAULT_SYNC, StoredBatch, SyncConfig, SyncHost
from crdtmem.sync_inflow import FORKED, Inflow
from crdtmem.sync_intake import Inbound
from crdtmem.sync_newcomer import Guide
from crdtmem.sync_outflow import Outflow
from crdtmem.sync_probing import Probing
from crdtmem.sync_relaying import Relaying
from crdtmem.sync_repair import Repair, fingerprint_of
from crdtmem.sync_requests import Requests
from crdtmem.sync_session import Session, SessionInfo, clock_offsets_us
from crdtmem.sync_telling import NEVER_US, Telling
from crdtmem.sync_transfer import Outbound
from crdtmem.transfer_messages import (
    ReconcileExpand,
    ReconcileFetch,
    ReconcileOffer,
    ReconcileRanges,
    RepairEntries,
    RepairFind,
    RepairFound,
    RepairSettle,
    RepairStart,
    SnapshotBatches,
    SnapshotChunk,
    SnapshotEnd,
    SnapshotOffer,
    SnapshotRefuse,
    SnapshotRequest,
)

__all__ = ["Sync"]

_HELLO_FRAME_BYTES: Final = 1 << 20
_CREDIT_BYTES: Final = 1 << 40
_RANGES_AT_ONCE: Final = 5_000
_SLOWEST_US_PER_BYTE: Final = 64


class Sync:
    """All streams of one replica. Every method is synchronous; times are microseconds."""

    def __init__(self, host: SyncHost, config: SyncConfig = DEFAULT_SYNC) -> None:
        self.host = host
        self.config = config
        self.sessions: dict[Any, Session] = {}
        self.by_replica: dict[int, Session] = {}
        self.relaying = Relaying(host, self.by_replica)
        self.requests = Requests(config, self.relaying.source)
        self.guide = Guide(host)
        self.inflow = Inflow(host, self.requests, self.guide, self.relaying)
        self.outflow = Outflow(host, config)
        self.telling = Telling(host, config, self.by_replica)
        self.probing = Probing(config, self.sessions, self._close, self.telling.tell, self._compare)
        numbers = count(1)
        self.outbound = Outbound(host, config)
        self.inbound = Inbound(host, config, numbers)
        self.repair = Repair(host, config, self.outbound, numbers)
        self._fingerprint: tuple[bytes, bytes, bytes] | None = None
        self._belonging = Belonging(host)
        self._handlers: dict[type[Message], Callable[[Session, Any, int], list[Effect]]] = {
            Batches: self._batches,
            Acknowledge: self._acknowledge,
            Request: self._request,
            Gap: self._gap,
            Credit: self._credit,
            Digest: self._digest,
            Ping: self.probing.ping,
            Pong: self.probing.pong,
            Evicted: self._evicted,
            Hurry: lambda session, _, now_us: self.telling.hurry(session, now_us),
            Hears: self._hears,
            Prune: self.relaying.prune,
            SnapshotRequest: self.outbound.request,
            SnapshotOffer: self.inbound.offered,
            SnapshotChunk: self.inbound.chunk,
            SnapshotBatches: self.inbound.batches,
            SnapshotEnd: self.inbound.ended,
            SnapshotRefuse: self._transfer_refused,
            ReconcileOffer: self._compared,
            ReconcileExpand: self.outbound.expand,
            ReconcileRanges: self._compared,
            ReconcileFetch: self.outbound.fetch,
            RepairStart: self.repair.start,
            RepairFind: self.repair.find,
            RepairFound: self.repair.found,
            RepairSettle: self.repair.settle,
            RepairEntries: self.repair.entries,
        }

    # ------------------------------------------------------------------ streams

    def connected(self, peer: Any, now_us: int, *, initiator: bool) -> list[Effect]:
        """A stream to ``peer`` (any hashable handle) is open: introduce ourselves."""
        assert peer not in self.sessions, "a handle names one stream"
        self.inflow.arriving.join(self.host.state.vector)
        credit = max(self.config.credit_bytes, 2 * self.host.limits.batch_bytes)
        session = Session(peer, initiator, FrameReader(_HELLO_FRAME_BYTES), now_us, credit, credit)
        self.probing.connected(session, now_us)
        mine = self.host.hello(credit)
        session.told = mine.vector.copy()
        self.sessions[peer] = session
        return [session.send(mine)]

    def disconnected(self, peer: Any, now_us: int) -> list[Effect]:
        """A stream is gone: ask others for what was asked of it."""
        session = self.sessions.get(peer)
        if session is None:
            return []
        return [*self._drop(session, now_us), *self._plan(now_us)]

    def receive(self, peer: Any, data: bytes, now_us: int) -> list[Effect]:
        """Take bytes from a stream. Malformed ones close it and change nothing."""
        session = self.sessions.get(peer)
        if session is None:
            return []
        # Within a frame, bytes count for as long as they may take: a length that was harmed on
        # the way would else swallow all that follows, and look like a living peer.
        heard_us = session.received_us + _SLOWEST_US_PER_BYTE * len(data)
        session.received_us = min(now_us, heard_us) if len(session.reader) else now_us
        effects: list[Effect] = []
        try:
            for message in session.reader.feed(data):
                session.received_us = now_us
                effects += self._handle(session, message, now_us)
                if self.sessions.get(peer) is not session:
                    break
        except RemoteError as error:
            effects += self._close(session, error, now_us)
        return effects + self._plan(now_us)

    def info(self) -> list[SessionInfo]:
        """Return what is known of every peer that has introduced itself."""
        return [session.info() for session in self.sessions.values() if session.open]

    def look_into(self, replicas: Iterable[int], now_us: int) -> list[Effect]:
        """Compare with these peers at once: all is quiet, and yet something differs."""
        effects: list[Effect] = []
        for session in [self.by_replica[one] for one in replicas if one in self.by_replica]:
            effects += self.telling.hurry(session, now_us)
            effects += self.telling.ask_one_for_haste(session, now_us)
            effects += self._compare(session, now_us)
        return effects + self._plan(now_us)

    def clock_offsets_us(self) -> dict[int, int]:
        """Return what ``clock_offsets_us`` says of all streams."""
        return clock_offsets_us(self.sessions.values())

    def _handle(self, session: Session, message: Message, now_us: int) -> list[Effect]:
        kind = type(message)
        if kind is Refuse:
            assert isinstance(message, Refuse)
            refused = RemoteError(
                f"the peer closed the stream: {message.message}",
                hint=f"its reason was {message.code!r}",
                reason=message.code,
            )
            effects = [Disconnect(session.peer, refused), *self._drop(session, now_us)]
            if message.code == FORKED:
                own = self.host.state.vector.get(self.host.replica_id, 0)
                reason = "another history of our id"
                effects += self.host.identity_questioned(session.replica, own, reason)
            return effects
        if not session.open:
            if not isinstance(message, Hello):
                raise MalformedFrame(f"a {kind.__name__} before any introduction")
            return self._greet(session, message, now_us)
        handler = self._handlers.get(kind)
        if handler is None:
            raise MalformedFrame(f"a {kind.__name__} where none may come")
        return handler(session, message, now_us)

    def _greet(self, session: Session, hello: Hello, now_us: int) -> list[Effect]:
        host = self.host
        error, effects = judge(host, hello, host.hello(0))
        if error is not None:
            return [*effects, *self._close(session, error, now_us)]
        # Also on a stream that does not stay: that we dialled it says that it is configured.
        effects += host.greeted(hello, now_us, dialled=session.initiator)
        older = self.by_replica.get(hello.replica)
        if older is not None:
            loser = session
            if not keeps_older(older, session, hello, host.replica_id):
                loser = older
            effects += self._close(loser, duplicate_stream(hello.replica), now_us)
            if loser is session:
                return effects
        session.hello = hello
        session.reader.limit_bytes = host.limits.frame_bytes
        session.credit_out = hello.credit_bytes
        session.vector = hello.vector.copy()
        session.own_sent = hello.vector.get(host.replica_id, 0)
        self.by_replica[hello.replica] = session
        self._links_changed()
        effects += host.acknowledge(hello.replica, hello.vector, now_us)
        effects += tell_evicted(host, session)
        self.requests.notice(hello.vector, self.inflow.arriving, now_us)
        effects += self.telling.tell(session, now_us)
        effects.append(session.send(Ping(now_us)))
        return effects + self.outflow.push(session, [])

    def _close(self, session: Session, error: RemoteError, now_us: int) -> list[Effect]:
        """Say why, and close the stream."""
        code = error.details.get("reason", error.code)
        refuse = session.send(Refuse(code, str(error)[:512]))
        return [refuse, Disconnect(session.peer, error), *self._drop(session, now_us)]

    def _drop(self, session: Session, now_us: int) -> list[Effect]:
        session.closed = True
        self.sessions.pop(session.peer, None)
        if self.by_replica.get(session.replica) is session:
            del self.by_replica[session.replica]
            self._links_changed()
        self.relaying.closed(session)
        self.requests.dropped(session)
        self.outbound.closed(session)
        self.repair.closed(session)
        self.inbound.closed(session, now_us)
        return []

    def _links_changed(self) -> None:
        self.telling.links_changed()
        self.relaying.links_changed()

    def _hears(self, session: Session, message: Hears, now_us: int) -> list[Effect]:
        self.relaying.links_changed()
        return self.telling.hears(session, message, now_us)

    def _batches(self, session: Session, message: Batches, now_us: int) -> list[Effect]:
        effects = self.inflow.batches(session, message, now_us)
        forked, self.inflow.forked = self.inflow.forked, None
        return effects if forked is None else effects + self._close(session, forked, now_us)

    # ------------------------------------------------------------------ batches out

    def published(self, batches: Sequence[Batch], now_us: int) -> list[Effect]:
        """A flight was published: pass others' part on, push our own, acknowledge the rest."""
        own = [batch for batch in batches if batch.header.replica == self.host.replica_id]
        self._changed(at_one_vector=not batches)
        effects = self.inflow.settle(batches)
        for session, others in self.relaying.onward(batches).items():
            effects += self.outflow.pass_on(session, others)
        last = self.host.state.vector.get(self.host.replica_id, 0)
        for session in list(self.by_replica.values()):
            if own or session.own_sent < last or session.outbox or session.serving:
                effects += self.outflow.push(session, own)
            due_us = session.acknowledge_due_us
            if due_us is None or now_us >= due_us:
                effects += self.telling.tell(session, now_us)
        self.inbound.published(self.host.state.vector)
        effects += self.repair.published()
        effects += self.outbound.published(batches, now_us)
        return effects + self._plan(now_us)

    def part(self, now_us: int) -> list[Effect]:
        """Close the streams to other clusters, once it has shown which one is ours.

        Asked whenever that may have changed, before anything more is taken.
        """
        effects: list[Effect] = []
        for session, error in self._belonging.strangers(self.sessions):
            effects += self._close(session, error, now_us)
        return effects

    def log_read(
        self, request: Any, result: Sequence[StoredBatch] | CrdtmemError, now_us: int
    ) -> list[Effect]:
        """The answer to a ``ReadLog``: stored batches in order, or why there are none."""
        peer, serial = request
        session = self.sessions.get(peer)
        return [] if session is None else self.outflow.log_read(session, serial, result)

    # ------------------------------------------------------------------ vectors

    def _acknowledge(self, session: Session, message: Acknowledge, now_us: int) -> list[Effect]:
        session.vector.join(message.changed)
        effects = self.inflow.heard(session, message.changed, now_us)
        for replica, vector in message.relayed.items():
            session.told_relayed.setdefault(replica, VersionVector()).join(vector)
            if replica != self.host.replica_id:
                effects += self.host.acknowledge(replica, vector, now_us)
        self.requests.notice(message.changed, self.inflow.arriving, now_us)
        own = message.changed.get(self.host.replica_id, 0)
        if own > session.own_sent:
            session.own_sent = own
            effects += self.outflow.push(session, [])
        return effects

    def _request(self, session: Session, message: Request, now_us: int) -> list[Effect]:
        # Who asks lives on our news: what it is not told of, it cannot ask for.
        served = self.outflow.request(session, message)
        self.relaying.graft(session, message.ranges)
        return [*served, *self.telling.hurry(session, now_us)]

    def _credit(self, session: Session, message: Credit, now_us: int) -> list[Effect]:
        if session.credit_out + message.granted_bytes > _CREDIT_BYTES:
            raise MalformedFrame("more credit than there can be")
        session.credit_out += message.granted_bytes
        return [*self.outflow.push(session, []), *self.outbound.pump(session, now_us)]

    def _transfer_refused(
        self, session: Session, message: SnapshotRefuse, now_us: int
    ) -> list[Effect]:
        self.outbound.refused(session, message.transfer)
        self.inbound.refused(session, message.transfer, now_us)
        self.repair.refused(session, message.transfer)
        return []

    def _compared(
        self, session: Session, message: ReconcileOffer | ReconcileRanges, now_us: int
    ) -> list[Effect]:
        """A comparison goes on: that of a repair, or that of a transfer."""
        repairs = self.repair.leads(session, message.transfer)
        asker = self.repair if repairs else self.inbound
        if isinstance(message, ReconcileOffer):
            return asker.compare(session, message, now_us)
        return asker.ranges(session, message, now_us)

    def _gap(self, session: Session, message: Gap, now_us: int) -> list[Effect]:
        session.gaps[message.replica] = message.floor
        self.requests.dropped(session, message.replica)
        return []

    def _evicted(self, session: Session, message: Evicted, now_us: int) -> list[Effect]:
        return self.host.told_evicted(session.replica, message.cut)

    def _plan(self, now_us: int) -> list[Effect]:
        """Ask for what is lacking and does not come by itself."""
        if not self.requests.lacking and not self.host.newcomer:
            self.requests.next_us = None
            return []
        heard = self.guide.heard(self.sessions.values())
        plan = self.requests.plan(heard, self.inflow.arriving, self.host.take_through, now_us)
        for session, ranges in plan.ranges.items():
            self.relaying.asked(session, ranges)
        effects: list[Effect] = [
            session.send(Request(tuple(ranges[start : start + _RANGES_AT_ONCE])))
            for session, ranges in plan.ranges.items()
            for start in range(0, len(ranges), _RANGES_AT_ONCE)
        ]
        if plan.snapshot_from is not None:
            effects += self.inbound.want(plan.snapshot_from, now_us)
        return effects

    # ------------------------------------------------------------------ comparing

    def fingerprint(self) -> tuple[bytes, bytes, bytes]:
        """Return the hash of the published vector, the digest of live dots, the hash of tips."""
        if self._fingerprint is None:
            self._fingerprint = fingerprint_of(self.host)
        return self._fingerprint

    def _changed(self, *, at_one_vector: bool) -> None:
        """Forget the fingerprint; at one vector, also what was told of it, if it is another now.

        A vector never comes again. What is wrong at one may: mended and lost once more it has the
        fingerprint that peers were told before, and nobody would tell them again.
        """
        before, self._fingerprint = self._fingerprint, None
        if at_one_vector and before not in (None, self.fingerprint()):
            for session in self.by_replica.values():
                session.compared = None

    def _compare(self, session: Session, now_us: int) -> list[Effect]:
        session.compared_us = now_us
        if session.compared == (fingerprint := self.fingerprint()):
            return []
        session.compared = fingerprint
        return [session.send(Digest(*fingerprint))]

    def _digest(self, session: Session, message: Digest, now_us: int) -> list[Effect]:
        hashed, digest, histories = self.fingerprint()
        if message.vector_hash != hashed:
            return []
        if message.tips_hash != histories:
            raise histories_differ()
        if message.digest == digest:
            return []
        effects, tell = self.repair.mismatch(session, (digest, message.digest), now_us)
        # Whatever becomes of the round that follows, if one does: we compare until we agree.
        session.compared = None
        if tell:
            effects.append(session.send(Digest(hashed, digest, histories)))
        return effects

    def rederived(self, request: Any, sound: bool, now_us: int) -> list[Effect]:
        """The answer to a ``Rederive``: whether the state was what the store holds."""
        self._changed(at_one_vector=True)
        return self.repair.rederived(request, sound, now_us)

    def evidence_found(self, request: Any, batches: Sequence[bytes], now_us: int) -> list[Effect]:
        """The answer to a ``FindEvidence``: stored batches that supersede some of the dots."""
        return self.repair.evidence_found(request, batches, now_us)

    # ------------------------------------------------------------------ time

    def handle_timeout(self, now_us: int) -> list[Effect]:
        """Do what is due: acknowledgements, probes, comparisons, requests that got stuck."""
        effects = self.inflow.settle(())
        effects += self.inbound.handle_timeout(now_us)
        effects += self.outbound.handle_timeout(now_us)
        effects += self.repair.handle_timeout(now_us)
        effects += self.probing.handle_timeout(now_us)
        effects += self.telling.handle_timeout(now_us)
        return effects + self._plan(now_us)

    def next_deadline_us(self) -> int | None:
        """Return when ``handle_timeout`` may have something to do, or ``None``.

        It is never too late, and may be early: what streams are probed and given up for is put
        off by whatever they bring, and is looked up again only when it seems due.
        """
        next_us = min(self.probing.next_us, self.telling.next_us)
        for part in (self.requests, self.inbound, self.outbound, self.repair):
            if part.next_us is not None and part.next_us < next_us:
                next_us = part.next_us
        return None if next_us == NEVER_US else next_us
