"""How long a suspected member has to refute (Lifeguard).

Problem: a fixed time is either too short for the slow or too long for the dead; and in a
pool of two or three nobody can confirm, which is where memberlist gives no time at all.

Idea: the time starts at ``maximum`` and falls towards ``minimum`` with every *independent*
accuser: by log(C + 1) / log(K + 1) of the difference after C of K confirmations. K is
``suspicion_multiplier`` minus 2, or fewer where fewer others could confirm. Where nobody could,
or nobody else is heard (the accuser may be the isolated one), the time is
``lonely_multiplier`` minima. A host's refusal of the stream is one confirmation, once.

Invariants: the deadline never moves away through confirmations; an accuser counts once; at
most K are kept.

Source: Lifeguard, section IV-B.
"""

from __future__ import annotations

from math import log, log10
from typing import Final

from gossip.config import Config

__all__ = ["REFUSAL", "Suspicion", "minimum_us"]

REFUSAL: Final = 0
"""Stands for the host that refused a stream, among the accusers; no member has this id."""


def minimum_us(config: Config, members: int) -> int:
    """Return the least time to refute in a pool of so many members, oneself included."""
    factor = max(1.0, log10(max(1, members)))
    return int(config.suspicion_multiplier * factor * config.probe_interval_us)


class Suspicion:
    """One member's time to refute."""

    __slots__ = ("_accusers", "_first", "_most", "least_us", "longest_us", "started_us")

    def __init__(
        self, config: Config, *, members: int, accuser: int, started_us: int, alone: bool
    ) -> None:
        self.started_us = started_us
        self.least_us = minimum_us(config, members)
        self._most = max(0, min(config.suspicion_multiplier - 2, members - 2))
        if self._most == 0 or alone:
            self.longest_us = config.lonely_multiplier * self.least_us
        else:
            self.longest_us = config.suspicion_maximum_multiplier * self.least_us
        self._first = accuser
        self._accusers: list[int] = []

    @property
    def confirmations(self) -> int:
        """How many independent accusers there are besides the first."""
        return len(self._accusers)

    @property
    def wanted(self) -> bool:
        """Whether a further confirmation would still shorten the time."""
        return len(self._accusers) < self._most

    def confirm(self, accuser: int) -> bool:
        """Count an accuser; say whether it was a new one that was still wanted."""
        if not self.wanted or accuser == self._first or accuser in self._accusers:
            return False
        self._accusers.append(accuser)
        return True

    def deadline_us(self) -> int:
        """Return when the time is over."""
        if self._most == 0:
            return self.started_us + self.longest_us
        share = log(len(self._accusers) + 1) / log(self._most + 1)
        return self.started_us + max(
            self.least_us, int(self.longest_us - share * (self.longest_us - self.least_us))
        )

    def credible(self, now_us: int) -> bool:
        """Whether it has lasted long enough for another's word that the member is dead."""
        return now_us - self.started_us >= self.least_us // 2
