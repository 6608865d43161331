"""Who knocks at the wrong pool's door is told where its own is.

Problem: a seed is any member of any region, and one that has been a gateway is sought for the
wide-area pool long after; neither may be left in the dark, nor be made to shout at us. And
where a whole region starts at once with one seed abroad, its members must find each other
before each takes itself for the region's gateway.

Idea: the answer to a ping for another pool is a few addresses: of that pool's members, as known
here, and of those who knocked for it within the last minute. It is a hint of where to knock,
and nothing else.

Invariants: at most ``_PER_S`` referrals leave per second by datagram, at most ``ADDRESSES``
addresses in each; what is remembered of knocks is bounded; whoever takes a referral knocks only
at addresses that are new to it.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable
from typing import Final

from gossip.messages import Record, Referral

__all__ = ["ADDRESSES", "Referrals", "new_addresses"]

ADDRESSES: Final = 8
"""How many addresses a referral holds at most."""

_PER_S: Final = 50
_SECOND: Final = 1_000_000
_KNOCK_US: Final = 60 * _SECOND
_POOLS: Final = 64


class Referrals:
    """The referrals that one node gives."""

    def __init__(self, counters: Counter[str]) -> None:
        self.counters = counters
        self._second = 0
        self._count = 0
        self._knocks: OrderedDict[str, OrderedDict[str, int]] = OrderedDict()

    def to(
        self,
        region: str,
        records: Iterable[Record],
        now_us: int,
        *,
        knocker: str = "",
        streamed: bool = False,
    ) -> Referral | None:
        """Return where to knock for ``region`` ("": the wide area), if that may be told now.

        ``knocker`` is the address that asks; it is told to those who ask after it. What is
        ``streamed`` goes to who has just sent something from there, and so is not counted.
        """
        places = dict.fromkeys(record.profile.gossip_address for record in records)
        places |= dict.fromkeys(self._knocked(region, now_us))
        places.pop(knocker, None)
        if knocker:
            self._note(region, knocker, now_us)
        if now_us // _SECOND != self._second:
            self._second, self._count = now_us // _SECOND, 0
        if not places or (self._count >= _PER_S and not streamed):
            return None
        self._count += not streamed
        self.counters["referrals"] += 1
        return Referral(region, tuple(places)[:ADDRESSES])

    def _knocked(self, region: str, now_us: int) -> list[str]:
        """Return who knocked for a region lately, the latest first."""
        knocks: OrderedDict[str, int] = self._knocks.get(region, OrderedDict())
        lately = [place for place, at_us in knocks.items() if now_us - at_us <= _KNOCK_US]
        return lately[::-1]

    def _note(self, region: str, knocker: str, now_us: int) -> None:
        knocks = self._knocks.setdefault(region, OrderedDict())
        self._knocks.move_to_end(region)
        knocks[knocker] = now_us
        knocks.move_to_end(knocker)
        if len(knocks) > ADDRESSES:
            knocks.popitem(last=False)
        if len(self._knocks) > _POOLS:
            self._knocks.popitem(last=False)


def new_addresses(referral: Referral, known: Iterable[Record]) -> list[str]:
    """Return the addresses of a referral at which none of the known is."""
    held = {record.profile.gossip_address for record in known}
    return [address for address in referral.addresses if address not in held]
