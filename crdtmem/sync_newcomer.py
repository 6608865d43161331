"""Whom a newcomer listens to: one member, until it has joined its admission.

Problem: a newcomer is counted from its admission on. Did it hold more then than its
sponsor held, of a replica that others have given up, it would be beyond a cut at
birth: what it writes would follow from what the survivors may never join.

Idea: until it may write, a newcomer takes batches and snapshots from one peer only,
which is known to be a member because it has written. Whatever the newcomer holds that
peer holds too, its admission included, whoever wrote that. When the stream to it
ends, the newcomer turns to another; it then may hold more than its new peer, so it
becomes a member only when that peer is known to hold all of it.

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

    def listens_to(self, session: Session) -> bool:
        """Tell whether what this session brings may be taken now."""
        if not self._host.newcomer:
            return True
        held = self._session
        if (held is None or held.closed) and session.vector.get(session.replica, 0):
            # Only members write, so this one is one.
            self._session = session
        return session is self._session

    def heard(self, sessions: Iterable[Session]) -> list[Session]:
        """Return the sessions that may be asked for what is lacking."""
        return [session for session in sessions if self.listens_to(session)]

    @property
    def holds_all(self) -> bool:
        """Whether the peer that was listened to is known to hold all that is published here."""
        return self._session is not None and self._session.vector.dominates(self._host.state.vector)
