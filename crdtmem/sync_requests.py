"""Who is asked for what: ranges that peers have and we lack, each asked of one peer.

Problem: several peers hold what we lack. Asking all would multiply the traffic;
asking one for ever would hang on it; and most of what a comparison of vectors
shows as missing is already on its way from its origin.

Idea: an origin pushes its own deltas to every peer, and relays pass them on, so a
relay is asked only after a short delay, and the origin itself only after a longer
one without progress. Each origin has at most one request out. It ends when its range has
arrived; it moves to another peer when that peer disconnects, answers that its
log begins later, or makes no progress until the deadline. When every peer that
has a range answers so, a snapshot is due.

Invariants: nothing is remembered as received that was not taken in, so whatever
is lost or refused is asked for again; the table holds one row per origin.

Comparing vectors and asking for ranges is anti-entropy (Demers et al., 1987) as
Corrosion does it: cost in replicas and gaps, never in keys.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from crdtmem.causality import VersionVector
from crdtmem.sync_host import SyncConfig
from crdtmem.sync_session import Session

__all__ = ["Plan", "Requests"]

_RETRY_US = 100_000


@dataclass(slots=True)
class _Outstanding:
    session: Session
    last: int
    deadline_us: int


@dataclass(slots=True)
class Plan:
    """What to ask now: ranges per session, and a session to take a snapshot from."""

    ranges: dict[Session, list[tuple[int, int, int]]]
    snapshot_from: Session | None


class Requests:
    """Which ranges are lacking, and of whom each was asked."""

    def __init__(
        self, config: SyncConfig, source: Callable[[int], Session | None] = lambda _: None
    ) -> None:
        """``source`` tells who passes an origin's deltas on to us, if somebody does."""
        self._config = config
        self._source = source
        self._lacking: dict[int, int] = {}
        self._noticed_us: dict[int, int] = {}
        self._outstanding: dict[int, _Outstanding] = {}
        self.next_us: int | None = None
        """When ``plan`` may have something to ask again; as of its last call."""

    def __len__(self) -> int:
        return len(self._outstanding)

    @property
    def lacking(self) -> Mapping[int, int]:
        """Per replica the highest sequence that some peer has and we have not taken in."""
        return self._lacking

    def notice(self, vector: Mapping[int, int], have: Mapping[int, int], now_us: int) -> None:
        """Note what a peer's vector shows beyond what we have."""
        for replica, last in vector.items():
            if last > have.get(replica, 0) and last > self._lacking.get(replica, 0):
                self._lacking[replica] = last
                self._noticed_us.setdefault(replica, now_us)

    def progressed(self, session: Session, replica: int, last: int, now_us: int) -> None:
        """Note that a batch of ``replica`` through ``last`` came from this session."""
        held = self._outstanding.get(replica)
        if held is not None and held.session is session:
            if last >= held.last:
                del self._outstanding[replica]
            else:
                held.deadline_us = now_us + self._config.request_us
        if replica in self._noticed_us:
            self._noticed_us[replica] = now_us

    def is_asked(self, session: Session, replica: int) -> bool:
        """Tell whether something of an origin was asked of a session, and is still to come."""
        held = self._outstanding.get(replica)
        return held is not None and held.session is session

    def refused(self, replica: int, now_us: int) -> None:
        """Note that something of ``replica`` was dropped for want of room: ask again soon."""
        self._outstanding.pop(replica, None)
        wait_us = self._config.push_us - _RETRY_US
        self._noticed_us[replica] = now_us - max(0, wait_us)

    def dropped(self, session: Session, replica: int | None = None) -> None:
        """Forget what was asked of a session: all of it, or of one origin."""
        for origin, held in list(self._outstanding.items()):
            if held.session is session and replica in (None, origin):
                del self._outstanding[origin]

    def plan(
        self,
        sessions: Iterable[Session],
        have: VersionVector,
        bound: Callable[[int], int],
        now_us: int,
    ) -> Plan:
        """Return what to ask now, and book it as asked."""
        plan = Plan({}, None)
        self.next_us = None
        opened = [session for session in sessions if session.open]
        for replica, known in list(self._lacking.items()):
            last = min(known, bound(replica))
            first = have.get(replica, 0) + 1
            if first > last:
                self._outstanding.pop(replica, None)
                if first > known:
                    del self._lacking[replica]
                    self._noticed_us.pop(replica, None)
                # Else a cut holds it back, which may rise, and nobody would tell of it again.
                continue
            held = self._outstanding.get(replica)
            if held is not None:
                if now_us < held.deadline_us:
                    self._wake_at(held.deadline_us)
                    continue
                held.session.failures += 1
                del self._outstanding[replica]
            holders = self._ask(plan, opened, replica, (first, last), now_us)
            if holders and plan.snapshot_from is None:
                plan.snapshot_from = min(holders, key=lambda session: _as_source(session, bound))
        return plan

    def _ask(
        self,
        plan: Plan,
        sessions: list[Session],
        replica: int,
        lacking: tuple[int, int],
        now_us: int,
    ) -> list[Session]:
        """Ask for one range; returns who holds it, if nobody has the log of it any more."""
        first, last = lacking
        holders = [session for session in sessions if session.vector.get(replica, 0) >= first]
        able = [session for session in holders if session.gaps.get(replica, 0) <= first]
        if not able:
            return holders
        due_us = self._due_us(replica, able)
        if now_us < due_us:
            self._wake_at(due_us)
            return []
        # A peer that failed lately is asked after those that did not.
        best = min(able, key=lambda session: (session.failures, session.replica != replica,
                                              _cost(session)))  # fmt: skip
        through = min(last, best.vector[replica])
        plan.ranges.setdefault(best, []).append((replica, first, through))
        deadline_us = now_us + self._config.request_us
        self._outstanding[replica] = _Outstanding(best, through, deadline_us)
        self._wake_at(deadline_us)
        return []

    def _wake_at(self, at_us: int) -> None:
        self.next_us = at_us if self.next_us is None else min(self.next_us, at_us)

    def _due_us(self, replica: int, able: list[Session]) -> int:
        pushed = any(session.replica == replica for session in able)
        wait_us = self._config.push_us if pushed else self._config.relay_us
        source = None if pushed else self._source(replica)
        if source is not None:
            # It may only be farther away than who told us first.
            wait_us += min(source.round_trip_us or 0, self._config.push_us)
        return self._noticed_us.get(replica, 0) + wait_us


def _as_source(session: Session, bound: Callable[[int], int]) -> tuple[bool, int, int]:
    """Return how well a peer serves as source of a snapshot: the lowest is the best.

    What reaches beyond a cut would be refused, and a peer that failed lately may fail again.
    """
    beyond = any(last > bound(replica) for replica, last in session.vector.items())
    return beyond, session.failures, _cost(session)


def _cost(session: Session) -> int:
    # An unmeasured stream counts as a middling one.
    return 50_000 if session.round_trip_us is None else session.round_trip_us
