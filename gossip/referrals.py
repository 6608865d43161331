"""Who knocks at the wrong pool's door is told where its own is.

Problem: a seed is any member of any region, and one that has been a gateway is sought for the
wide-area pool long after; neither may be left in the dark, nor be made to shout at us.

Idea: the answer to a ping for another pool is a few addresses of that pool's members, as known
here. It is a hint of where to knock, and nothing else.

Invariants: at most ``_PER_S`` referrals leave per second, at most ``_ADDRESSES`` addresses in
each; whoever takes one knocks only at addresses that are new to it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Final

from gossip.messages import Record, Referral

__all__ = ["ADDRESSES", "Referrals", "new_addresses"]

ADDRESSES: Final = 8
"""How many addresses a referral holds at most."""

_PER_S: Final = 10
_SECOND: Final = 1_000_000


class Referrals:
    """The referrals that one node gives."""

    def __init__(self, counters: Counter[str]) -> None:
        self.counters = counters
        self._second = 0
        self._count = 0

    def to(self, region: str, records: Iterable[Record], now_us: int) -> Referral | None:
        """Return where to knock for ``region`` ("": the wide area), if that may be told now."""
        addresses = tuple(record.profile.gossip_address for record in records)[:ADDRESSES]
        if now_us // _SECOND != self._second:
            self._second, self._count = now_us // _SECOND, 0
        if not addresses or self._count >= _PER_S:
            return None
        self._count += 1
        self.counters["referrals"] += 1
        return Referral(region, addresses)


def new_addresses(referral: Referral, known: Iterable[Record]) -> list[str]:
    """Return the addresses of a referral at which none of the known is."""
    held = {record.profile.gossip_address for record in known}
    return [address for address in referral.addresses if address not in held]
