"""Telling peers what is durable here, no sooner and no oftener than somebody needs it.

Problem: what each replica has joined must be known to all others before anything is stable,
collected or given up. Told at once, it is sixteen frames for each commit of five nodes, and
nobody waits for most of them.

Idea: an acknowledgement is the published vector, so one that is put off says more, not the same
again. It goes out at once to a peer that was told nothing for a while, else when that while has
passed: a quarter of a second where nobody waits. A peer *hurries* us where somebody does: it asks
for ranges of our log, so we relay to it; or a caller of its own waits for other regions. All are
hurried for a moment where membership changes, for that goes in rounds.

What others have acknowledged is passed on more seldom still, the more the more seldom, and only
to who does not hear it itself: each replica tells whom it hears.

Whom we hear is also what decides who relays to us (see ``sync_relaying``), so a change of that
is told like an acknowledgement: soon, and many changes at once.

Invariants: only what is published is told, to each peer on one stream once; whatever is untold
has a time at which it will be; who does not say whom it hears is told everything.

Acknowledging late and together is TCP's delayed acknowledgement (RFC 1122, 4.2.3.2).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from typing import Final

from crdtmem.causality import VersionVector
from crdtmem.effects import Effect
from crdtmem.errors import MalformedFrame
from crdtmem.messages import Acknowledge, Hears, Hurry
from crdtmem.sync_host import SyncConfig, SyncHost
from crdtmem.sync_session import Session

__all__ = ["NEVER_US", "Telling"]

NEVER_US: Final = 1 << 62
"""Later than any time there is."""

_HEARD: Final = 100_000
_RELAYED_NUMBERS: Final = 4_096
"""How much of others' vectors one acknowledgement carries: all of them, up to 64 members."""


class Telling:
    """Acknowledges to all sessions of one host. Times are microseconds."""

    def __init__(
        self, host: SyncHost, config: SyncConfig, by_replica: Mapping[int, Session]
    ) -> None:
        """``by_replica`` are the sessions that have introduced themselves, kept by ``Sync``."""
        self.host = host
        self.config = config
        self._by_replica = by_replica
        # When something that is untold has to be told, or before.
        self.next_us = NEVER_US
        # The replicas that we have streams to, until that changes.
        self._heard: frozenset[int] | None = None

    # ------------------------------------------------------------------ our vector

    def tell(self, session: Session, now_us: int, early_us: int = 0) -> list[Effect]:
        """Acknowledge now if the peer was told nothing lately, else soon.

        What is due within ``early_us`` counts as due.
        """
        config = self.config
        pause_us = config.acknowledge_us
        if now_us >= session.hurried_until_us and pause_us < config.unhurried_us:
            pause_us = config.unhurried_us
        due_us = session.acknowledged_us + pause_us
        if now_us + early_us < due_us:
            session.acknowledge_due_us = due_us
            if due_us < self.next_us:
                self.next_us = due_us
            return []
        session.acknowledge_due_us = None
        told = session.told.get
        changed = VersionVector(
            {
                replica: last
                for replica, last in self.host.state.vector.items()
                if last > told(replica, 0)
            }
        )
        relayed = self.relayed(session, now_us)
        effects = self._say_whom_we_hear(session)
        if changed or relayed:
            session.told.update(changed)
            effects.append(session.send(Acknowledge(changed, relayed)))
        if effects:
            session.acknowledged_us = now_us
        return effects

    def handle_timeout(self, now_us: int) -> list[Effect]:
        """Tell those to whom something is due, and with them those to whom it nearly is."""
        if now_us < self.next_us:
            return []
        self.next_us = NEVER_US
        effects: list[Effect] = []
        for session in self._by_replica.values():
            due_us = session.acknowledge_due_us
            if due_us is not None:
                # Together, so that many peers do not wake us one by one.
                early_us = max(0, due_us - session.acknowledged_us) // 4
                effects += self.tell(session, now_us, early_us)
        return effects

    # ------------------------------------------------------------------ haste

    def hurry(self, session: Session, now_us: int) -> list[Effect]:
        """Tell this peer without delay for a while, beginning with what is untold."""
        session.hurried_until_us = now_us + self.config.hurry_us
        return [] if session.acknowledge_due_us is None else self.tell(session, now_us)

    def hurry_all(self, now_us: int) -> None:
        """Tell everybody without delay for a while: what was published concerns the members."""
        for session in self._by_replica.values():
            session.hurried_until_us = now_us + self.config.hurry_us
            if session.acknowledge_due_us is not None:
                due_us = session.acknowledged_us + self.config.acknowledge_us
                session.acknowledge_due_us = due_us = min(session.acknowledge_due_us, due_us)
                self.next_us = min(self.next_us, due_us)

    def ask_for_haste(self, now_us: int) -> list[Effect]:
        """Let peers tell us without delay for a while: somebody waits for what they have."""
        return [
            effect
            for session in self._by_replica.values()
            for effect in self.ask_one_for_haste(session, now_us)
        ]

    def ask_one_for_haste(self, session: Session, now_us: int) -> list[Effect]:
        """Let this peer tell us without delay for a while."""
        # Asked for again while half of it is left, so that it does not end on who waits next.
        if 2 * (now_us - session.hurry_asked_us) < self.config.hurry_us:
            return []
        session.hurry_asked_us = now_us
        return [session.send(Hurry())]

    # ------------------------------------------------------------------ others' vectors

    def links_changed(self) -> None:
        """Take note that a peer came or went: others are told soon whom we hear now."""
        self._heard = None
        for session in self._by_replica.values():
            if session.acknowledge_due_us is None:
                due_us = session.acknowledged_us + self.config.unhurried_us
                session.acknowledge_due_us = due_us
                self.next_us = min(self.next_us, due_us)

    def hears(self, session: Session, message: Hears, _: int) -> list[Effect]:
        """A peer says whom it hears itself; raises ``MalformedFrame`` where that is too many."""
        session.hears = (session.hears | message.gained) - message.lost
        if len(session.hears) > _HEARD:
            raise MalformedFrame(f"a peer that hears more than {_HEARD} others")
        return []

    def _say_whom_we_hear(self, session: Session) -> list[Effect]:
        if self._heard is None:
            self._heard = frozenset(self._by_replica)
        before = session.told_heard
        if before is self._heard:
            return []
        session.told_heard = self._heard
        gained, lost = self._heard - before, before - self._heard
        return [session.send(Hears(gained, lost))]

    def relayed(self, session: Session, now_us: int) -> dict[int, VersionVector]:
        """Return what others acknowledged that this peer has not been told, now and then.

        With very many members a part of them at a time, each time the next ones.
        """
        if now_us < session.relayed_us:
            return {}
        others = self.host.acknowledged()
        needless = {session.replica, self.host.replica_id, *session.hears}
        turn = sorted(others.keys() - needless)
        start = bisect_right(turn, session.relayed_last)
        relayed: dict[int, VersionVector] = {}
        numbers = 0
        for replica in (*turn[start:], *turn[:start]):
            vector = others[replica]
            known = session.told_relayed.get(replica)
            if known is None:
                known = session.told_relayed[replica] = VersionVector()
            if known == vector:
                continue
            told = known.get
            news = VersionVector({r: last for r, last in vector.items() if last > told(r, 0)})
            if news:
                known.update(news)
                relayed[replica] = news
                session.relayed_last = replica
                numbers += len(news)
                if numbers >= _RELAYED_NUMBERS:
                    break
        pause_us = self.config.relayed_us + numbers * self.config.relayed_number_us
        session.relayed_us = now_us + pause_us
        return relayed
