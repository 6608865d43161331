"""Whom a newcomer listens to: one member, until it has joined its admission.

Problem: a newcomer is counted from its admission on. Did it hold more then than its
sponsor held, of a replica that others have given up, it would be beyond a cut at
birth: what it writes would follow from what the survivors may never join.

Idea: until it may write, a newcomer takes batches and snapshots from one peer only,
which is known to be a member because it has written. Whatever the newcomer holds that
peer holds too, its admission included, whoever wrote that. When the stream to it
ends, the newcomer turns to another; it then may hold more than its new peer, so it
becomes a member only when that peer is known to hold all of it. It also turns to another
when a snapshot reaches beyond the cut of somebody who is being evicted: its peer may be
that one, and the others may wait for the newcomer's own promise.

Invariants: a newcomer that may write held nothing at that moment that a member did
not hold; once it may write, it listens to everybody.

The rule is the state transfer of virtual synchrony (Birman & Joseph): one member
brings a joiner up to date before the group counts it.
"""

from __future__ import annotations

from collections.abc import Iterable

from crdtmem.sync_host import SyncHost
from crdtmem.sync_session import Session

__all__ = ["Guide"]


class Guide:
    """The one session that a newcomer takes from; for a member, all of them."""

    def __init__(self, host: SyncHost) -> None:
        self._host = host
        self._session: Session | None = None
        self._avoided: Session | None = None

    def listens_to(self, session: Session) -> bool:
        """Tell whether what this session brings may be taken now."""
        if not self._host.newcomer:
            return True
        held = self._session
        is_free = held is None or held.closed
        if is_free and session is not self._avoided and session.vector.get(session.replica, 0):
            # Only members write, so this one is one.
            self._session, self._avoided = session, None
        return session is self._session

    def turn_away(self) -> None:
        """Listen to another peer, if there is one: this one's state may not be joined."""
        self._session, self._avoided = None, self._session

    def heard(self, sessions: Iterable[Session]) -> list[Session]:
        """Return the sessions that may be asked for what is lacking."""
        known = list(sessions)
        found = [session for session in known if self.listens_to(session)]
        if not found and self._avoided is not None:
            self._avoided = None
            found = [session for session in known if self.listens_to(session)]
        return found

    @property
    def holds_all(self) -> bool:
        """Whether the peer that was listened to is known to hold all that is published here."""
        return self._session is not None and self._session.vector.dominates(self._host.state.vector)
