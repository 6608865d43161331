"""Doors: where a knocker for another pool finds it, and how ways abroad reach the gateways.

Problem: only gateways enter the wide-area pool, but any member may be the one that was told of
another region, as a seed or in an earlier life. If it is never elected, and the gateways were
told of nobody abroad, the regions never meet. And two gateways that came to the wide area by
different doors, or before there was any, may sit in two pools of it.

Idea: who knocks at the wrong pool's door is referred to its own (``referrals``). Unasked, and
soon after each election, every node looks at what it knows and those who go abroad may not. Who
sits in the wide-area pool knocks there for those gateways of its own region that it does not know
there. Anybody else tells its gateways, in a referral to the wide area, the addresses of seeds and
remembered peers at which nobody is listed here: neither of its own pool nor in a region's view.

Invariants: nothing is told or tried while everybody is known; one look sends each gateway one
datagram, of ``ADDRESSES`` addresses at most, drawn by chance; from look to look the wait doubles,
up to ``_RARELY`` intervals of rejoining; the seeds kept are bounded, the latest stay.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

from gossip.beliefs import Beliefs
from gossip.config import Config
from gossip.effects import SendDatagram
from gossip.memory import Memory
from gossip.messages import Packet, Ping, Record, Referral
from gossip.packing import Packing
from gossip.referrals import ADDRESSES, Referrals
from gossip.regions import Regions
from gossip.sealing import Seal
from gossip.viewing import Viewing

if TYPE_CHECKING:
    from random import Random

__all__ = ["WIDE", "Doors"]

WIDE: Final = "wide"
"""The tag of the wide-area pool."""

_SEEDS: Final = 64
_SOON: Final = 4
"""A first look comes so many timeouts of a probe after an election: who is elected stands for two
before it enters the wide-area pool."""
_RARELY: Final = 16


class Doors:
    """What one node tells of where pools are found, asked and unasked."""

    def __init__(
        self,
        beliefs: Beliefs,
        regions: Regions,
        viewing: Viewing,
        memory: Memory,
        seal: Seal,
        config: Config,
        chance: Random,
    ) -> None:
        self.seeds: tuple[str, ...] = ()
        """The addresses that the host named, the latest last."""
        self._beliefs = beliefs
        self._regions = regions
        self._viewing = viewing
        self._memory = memory
        self._seal = seal
        self._config = config
        self._chance = chance
        self._referrals = Referrals(viewing.counters)
        self._due_us: int | None = None
        self._wait_us = 0

    # ------------------------------------------------------------------ unasked

    def named(self, seeds: Iterable[str]) -> None:
        """Take addresses that the host named."""
        self.seeds = tuple(dict.fromkeys((*self.seeds, *seeds)))[-_SEEDS:]

    def look_soon(self, now_us: int) -> None:
        """Somebody else may go abroad now, or know less of it than before: look soon."""
        wait_us = _SOON * self._config.probe_timeout_us
        self._due_us = now_us + self._apart(wait_us)
        self._wait_us = self._config.rejoin_interval_us

    def next_deadline_us(self) -> int | None:
        """Return when a look is due."""
        return self._due_us

    def due(self, now_us: int) -> bool:
        """Tell whether a look is due now, and set the next."""
        if self._due_us is None or now_us < self._due_us:
            return False
        self._due_us = now_us + self._apart(self._wait_us)
        longest_us = _RARELY * self._config.rejoin_interval_us
        self._wait_us = min(2 * self._wait_us, longest_us)
        return True

    def stop(self) -> None:
        """Look no more."""
        self._due_us = None

    def _apart(self, wait_us: int) -> int:
        # Members that learn of an election in one moment do not all speak in one moment.
        return wait_us + self._beliefs.near.me.member % (wait_us // 2)

    def told(self) -> list[SendDatagram]:
        """Return what tells the gateways of the ways abroad that they may not know."""
        places = self._unlisted()
        if not places:
            return []
        chosen = self._chance.sample(places, min(ADDRESSES, len(places)))
        self._viewing.counters["doors told"] += 1
        near = self._beliefs.near
        there = self.colleagues().addresses
        return self._packed(near.pool, near.table_hash, Referral("", tuple(chosen)), there)

    def _unlisted(self) -> list[str]:
        near = self._beliefs.near
        listed = {near.me.profile.gossip_address}
        listed.update(view.record.profile.gossip_address for view in near.members())
        listed.update(row.record.profile.gossip_address for row in self._regions.rows())
        places = dict.fromkeys((*self.seeds, *self._memory.abroad()))
        return [place for place in places if place not in listed]

    def colleagues(self) -> Referral:
        """Return where the gateways of one's own region are, oneself left out."""
        records = self._gateways()
        return Referral("", tuple(record.profile.gossip_address for record in records))

    def _gateways(self) -> list[Record]:
        views = [self._beliefs.near.view(member) for member in self._viewing.gateways]
        return [view.record for view in views if view is not None]

    # ------------------------------------------------------------------ asked

    def refer(self, packet: Packet, source: str, now_us: int) -> list[SendDatagram]:
        """Tell who knocked for another pool where that pool is, if it is known."""
        pings = [message for message in packet.messages if isinstance(message, Ping)]
        place = pings[0].reply_to or source if pings else ""
        referral = self.referral(packet.pool, now_us, knocker=place) if pings else None
        if referral is None:
            self._viewing.counters["datagrams for other pools"] += 1
            return []
        return self._packed(packet.pool, 0, referral, [place])

    def referral(self, pool: str, now_us: int, **how: Any) -> Referral | None:
        """Return where another pool is found; ``how`` as for ``Referrals.to``."""
        if pool == WIDE:
            streamed = how.get("streamed", False)
            return self._referrals.to("", self._gateways(), now_us, streamed=streamed)
        region = pool.removeprefix("region:")
        rows = self._regions.living(region, ADDRESSES)
        return self._referrals.to(region, [row.record for row in rows], now_us, **how)

    def _packed(
        self, pool: str, table_hash: int, referral: Referral, places: Iterable[str]
    ) -> list[SendDatagram]:
        packing = Packing(pool, self._config, self._seal.overhead)
        packets = packing.packets(self._beliefs.near.me.stamp, table_hash, (referral,))
        return [
            SendDatagram(place, self._seal.seal(packet)) for place in places for packet in packets
        ]
