"""Rounds of gossip, payloads, and reminding the dead.

Problem: news and payloads must reach everybody in about log n rounds, and who is wrongly held
for dead must hear of it, or it can never refute.

Idea: while there is something to tell, a few random members are told per round. A payload is
handed over and passed on when it is seen for the first time. Who died lately is told so, one
per probe interval.

Invariants: an idle pool does not gossip; a payload is delivered at most once per start; one's
own payloads are numbered from 1 without gaps.

Source: SWIM, section 4.1.
"""

from __future__ import annotations

from typing import Final

from gossip.broadcast import Windows
from gossip.effects import Deliver
from gossip.messages import Channel, User
from gossip.pool import Pool

__all__ = ["Telling"]

_FEW: Final = 64


class Telling:
    """What one member passes on."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._windows = Windows(4 * pool.config.members)
        self._number = 0

    def round(self) -> None:
        """Tell some members what there is to tell; set the next round if there is more."""
        pool = self._pool
        for entry in pool.table.pick(pool.chance, pool.config.gossip_nodes):
            if pool.queue:
                pool.send(entry.address)
        if pool.queue and pool.table.live:
            pool.agenda.set(("gossip", 0), pool.now_us + pool.config.gossip_interval_us)

    def broadcast(self, payload: bytes, channel: Channel, slot: str) -> None:
        """Tell all members a payload of one's own. Raises ``TooLarge``."""
        pool = self._pool
        message = User(pool.me.member, pool.me.generation, self._number + 1, payload, channel)
        pool.queue.user(message, slot)
        self._number += 1
        pool.counters.broadcasts += 1
        if pool.running:
            pool.gossip_soon()

    def hear(self, message: User) -> None:
        """Hand over a payload that is new here, and pass it on."""
        pool = self._pool
        if message.origin == pool.me.member:
            return
        if not self._windows.fresh(message.origin, message.generation, message.number):
            pool.counters.duplicates += 1
            return
        pool.counters.delivered += 1
        pool.emit(Deliver(message.origin, message.payload, message.channel))
        pool.queue.user(message)
        pool.gossip_soon()

    def remind(self) -> None:
        """Tell one of those who died lately that they did, so that they can refute."""
        pool = self._pool
        lately = pool.table.lately_dead
        while lately:
            entry = pool.table.get(next(iter(lately)))
            if entry is not None and (
                pool.now_us - entry.since_us <= pool.config.gossip_to_dead_us
            ):
                break
            del lately[next(iter(lately))]
        if lately:
            member = pool.chance.choice(list(lately)) if len(lately) < _FEW else next(iter(lately))
            entry = pool.table.get(member)
            if entry is not None:
                pool.remind(entry)
            pool.agenda.set(("remind", 0), pool.now_us + pool.config.probe_interval_us)
