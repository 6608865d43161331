"""Probing quiet streams, and giving up those that say nothing any more.

Problem: a stream whose other end has vanished looks like one on which nothing happens; yet idle
streams are the normal case, and must cost next to nothing.

Idea: a stream on which a peer was not heard for a while is probed, and given up when it stays
silent for several times that. Whatever a peer sends proves that it lives, so a busy stream is
probed only to measure it, as seldom. When the first of all streams is due is looked up again only
then: what they bring meanwhile merely puts that off.

Invariants: a silent stream is given up after ``silence_us``; a stranger that does not introduce
itself after ``hello_us``; a stream costs a probe and an answer per ``ping_us``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from crdtmem.effects import Effect
from crdtmem.errors import RemoteError
from crdtmem.messages import Ping, Pong
from crdtmem.sync_host import SyncConfig
from crdtmem.sync_session import Session
from crdtmem.sync_telling import NEVER_US

__all__ = ["Probing"]

Work = Callable[[Session, int], list[Effect]]
Close = Callable[[Session, RemoteError, int], list[Effect]]


class Probing:
    """The probes of all streams of one replica. Times are microseconds."""

    def __init__(
        self,
        config: SyncConfig,
        sessions: Mapping[Any, Session],
        close: Close,
        tell: Work,
        compare: Work,
    ) -> None:
        """``close`` gives a stream up; ``tell`` and ``compare`` are done beside a probe."""
        self._config = config
        self._sessions = sessions
        self._close = close
        self._tell = tell
        self._compare = compare
        self.next_us = NEVER_US
        """Before this no stream is to be probed, compared or given up."""

    def connected(self, session: Session, now_us: int) -> None:
        """A stream is open."""
        session.received_us = session.pinged_us = session.compared_us = now_us
        config = self._config
        first_us = min(config.hello_us, config.ping_us, config.digest_us, config.silence_us)
        self.next_us = min(self.next_us, now_us + first_us)

    @staticmethod
    def ping(session: Session, message: Ping, now_us: int) -> list[Effect]:
        """Answer a probe."""
        return [session.send(Pong(message.sent_us, now_us))]

    @staticmethod
    def pong(session: Session, message: Pong, now_us: int) -> list[Effect]:
        """Take in the answer to a probe."""
        session.measured(message.sent_us, message.clock_us, now_us)
        return []

    def handle_timeout(self, now_us: int) -> list[Effect]:
        """Probe, compare and give up what is due."""
        # What is nearly due is done too, so that many streams do not wake us one by one.
        early_us = now_us + min(self._config.ping_us, self._config.digest_us) // 8
        effects: list[Effect] = []
        for session in list(self._sessions.values()):
            effects += self._look(session, now_us, early_us)
        self.next_us = self._look_next_us()
        return effects

    def _look(self, session: Session, now_us: int, early_us: int) -> list[Effect]:
        config = self._config
        if not session.open:
            if now_us < session.connected_us + config.hello_us:
                return []
            return self._close(session, _silent("did not introduce itself"), now_us)
        if now_us >= session.received_us + config.silence_us:
            return self._close(session, _silent("has been silent"), now_us)
        effects: list[Effect] = []
        if early_us >= session.pinged_us + config.ping_us:
            session.pinged_us = now_us
            effects.append(session.send(Ping(now_us)))
            # What others acknowledged since is passed on, if nothing else was to be told.
            effects += self._tell(session, now_us)
        if early_us >= session.compared_us + config.digest_us:
            effects += self._compare(session, now_us)
        return effects

    def _look_next_us(self) -> int:
        """Return when the first of all streams is to be probed, compared or given up."""
        config, next_us = self._config, NEVER_US
        for session in self._sessions.values():
            if session.hello is None:
                next_us = min(next_us, session.connected_us + config.hello_us)
            else:
                next_us = min(
                    next_us,
                    session.pinged_us + config.ping_us,
                    session.compared_us + config.digest_us,
                    session.received_us + config.silence_us,
                )
        return next_us


def _silent(what: str) -> RemoteError:
    return RemoteError(f"the peer {what} for too long", hint="check the network between them")
