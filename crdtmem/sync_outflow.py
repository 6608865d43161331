"""What goes out on a stream: our own deltas as they are made, and ranges of the log.

Problem: a peer that keeps up should get a delta the moment that it is durable;
one that does not must neither be given up nor make us queue for it.

Idea: what a peer still lacks of ours lies in the log, so nothing else has to
remember it. While a peer has had everything before, and credit for it, the
batches of a flight are framed as they are. Otherwise the range is noted as *to
be served*, and read from the log piece by piece, one read at a time, as credit
comes back; when it has caught up it is pushed to again. What others wrote is passed on only
while the peer keeps up: what is left out it asks for, of whoever is quick.

Invariants: per stream at most one read of the log is out, and at most one read
or flight is queued; nothing beyond the published vector is sent.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from crdtmem.batch import Batch
from crdtmem.effects import Alarm, Effect, ReadLog
from crdtmem.errors import CrdtmemError, HistoryGap, MalformedFrame, StoreCorrupt
from crdtmem.messages import Gap, Request
from crdtmem.sync_host import StoredBatch, SyncConfig, SyncHost
from crdtmem.sync_session import Session

__all__ = ["Outflow"]

_RANGES: Final = 100_000


class Outflow:
    """Sends batches to all sessions of one host."""

    def __init__(self, host: SyncHost, config: SyncConfig) -> None:
        self.host = host
        self.config = config
        self._serial = 0

    def push(self, session: Session, own: Sequence[Batch]) -> list[Effect]:
        """Send our own new deltas if the peer keeps up; else let the log catch up with it."""
        replica = self.host.replica_id
        last = self.host.state.vector.get(replica, 0)
        if own and self._keeps_up(session, own):
            for batch in own:
                session.queue(replica, replica, batch.header.last, batch.data)
        elif session.own_sent < last and session.own_sent + 1 >= session.own_floor:
            session.serve(replica, session.own_sent + 1, last)
        return self.pump(session)

    def _keeps_up(self, session: Session, own: Sequence[Batch]) -> bool:
        return (
            session.own_sent == own[0].header.first - 1
            and not session.outbox
            and self.host.replica_id not in session.serving
            and (session.reading is None or session.reading[1] != self.host.replica_id)
            and sum(len(batch.data) for batch in own) <= session.credit_out
        )

    def pass_on(self, session: Session, batches: Sequence[Batch]) -> list[Effect]:
        """Send what others wrote and was just published, as far as the peer keeps up."""
        keeps_up = not session.outbox
        room = session.credit_out
        for batch in batches:
            header, size = batch.header, len(batch.data)
            replica = header.replica
            known = max(session.vector.get(replica, 0), session.passed_on.get(replica, 0))
            if header.last <= known:
                continue
            asked = session.serving.get(replica)
            if asked is not None:
                if header.first == asked[1] + 1:
                    # What it asked for is being read for it: this is simply more of that.
                    session.serving[replica] = (asked[0], header.last)
            elif keeps_up and size <= room:
                room -= size
                session.queue(self.host.replica_id, replica, header.last, batch.data)
            else:
                keeps_up = False
        return self.pump(session)

    def pump(self, session: Session) -> list[Effect]:
        """Send what is queued as far as the credit goes, then read on in the log."""
        if not session.outbox and not session.serving:
            return []
        effects: list[Effect] = [*session.flush()]
        while session.serving and not session.outbox and session.reading is None:
            # One read of each replica in turn, so that none waits in the peer's inbox for long.
            replica = next(iter(session.serving))
            first, last = session.serving.pop(replica)
            last = min(last, self.host.state.vector.get(replica, 0))
            if first > last:
                continue
            session.serving[replica] = (first, last)
            self._serial += 1
            session.reading = (self._serial, replica, first)
            request = (session.peer, self._serial)
            effects.append(ReadLog(request, replica, first, last, self.config.read_bytes))
        return effects

    def log_read(
        self, session: Session, serial: int, result: Sequence[StoredBatch] | CrdtmemError
    ) -> list[Effect]:
        """The answer to a ``ReadLog``: stored batches in order, or why there are none."""
        if session.reading is None or session.reading[0] != serial:
            return []
        _, replica, first = session.reading
        session.reading = None
        effects: list[Effect] = []
        if isinstance(result, CrdtmemError) or not result:
            session.serving.pop(replica, None)
            damaged = isinstance(result, StoreCorrupt)
            if damaged:
                effects.append(Alarm("store", str(result), {"code": "store_corrupt"}))
            if damaged or isinstance(result, HistoryGap) or not isinstance(result, CrdtmemError):
                # Cut off the log, damaged, or never in it: what a snapshot brought has no
                # batches here.
                resume = result.details.get("resume") if isinstance(result, HistoryGap) else None
                floor = resume or self.host.state.vector.get(replica, 0) + 1
                if replica == self.host.replica_id:
                    session.own_floor = floor
                effects.append(session.send(Gap(replica, floor)))
            return [*effects, *self.pump(session)]
        for record in result:
            session.queue(self.host.replica_id, replica, record.last_sequence, record.data)
        held = session.serving.pop(replica, None)
        if held is not None:
            following = result[-1].last_sequence + 1
            if held[0] >= first:
                held = (max(held[0], following), held[1])
            if held[0] <= held[1]:
                session.serving[replica] = held
        return self.pump(session)

    def request(self, session: Session, message: Request) -> list[Effect]:
        """Serve ranges that a peer asks for; raises ``MalformedFrame`` for impossible ones."""
        if len(session.serving) + len(message.ranges) > _RANGES:
            raise MalformedFrame(f"requests for over {_RANGES} ranges at once")
        for replica, first, last in message.ranges:
            if last > self.host.state.vector.get(replica, 0):
                raise MalformedFrame("a request beyond what was acknowledged")
            session.serve(replica, first, last)
        return self.pump(session)
