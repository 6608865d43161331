"""Clock skew: whose clock is wrong, told by the others' clocks.

Problem: a bad clock never loses or reorders what is known, but it makes `latest`
and expiry lie, so an operator must hear of it; and no single offset tells which
of two clocks is the wrong one.

Idea: peers measure each other's offsets on every probe. With at least three
clocks, ours included at offset zero, the median is trusted: whoever is further
from it than the bound is named, ourselves included. The offsets compared are
raw, never corrected by anything that a wrong clock could have moved. Stamps that
arrive from further in the future than the bound are joined all the same, and
counted per origin.

Invariants: nothing here changes any stamp or any order; an alarm is raised once
when a clock goes beyond the bound and once when it is back.

The median of raw offsets is Cristian & Fetzer's and NTP's defence against
falsetickers, reduced to what an alarm needs.
"""

from __future__ import annotations

from collections.abc import Mapping
from operator import itemgetter
from statistics import median
from typing import Final

from crdtmem.batch import Batch
from crdtmem.effects import Alarm, Effect

__all__ = ["SkewWatch"]

_CLOCKS: Final = 3
_physical_of: Final = itemgetter(1)
_LOOK_EVERY_US: Final = 1_000_000


class SkewWatch:
    """Compares clocks, and remembers who was beyond the bound."""

    def __init__(self, own: int, bound_us: int) -> None:
        self.own = own
        self.bound_us = bound_us
        self.beyond: dict[int, int] = {}
        self.future_stamps: dict[int, int] = {}
        self.probed_us: Mapping[int, int] = {}
        """Offsets that were measured without a stream; a stream's own measure goes before."""
        self._next_us = 0

    def is_due(self, now_us: int) -> bool:
        """Tell whether it is time to look again."""
        return now_us >= self._next_us

    def look(self, offsets_us: Mapping[int, int], now_us: int) -> list[Effect]:
        """Judge the clocks by each peer's offset to ours, in microseconds; at most each second."""
        if now_us < self._next_us:
            return []
        self._next_us = now_us + _LOOK_EVERY_US
        clocks = {**self.probed_us, **offsets_us, self.own: 0}
        if len(clocks) < _CLOCKS:
            return []
        middle = round(median(clocks.values()))
        effects: list[Effect] = []
        beyond = {
            replica: offset_us - middle
            for replica, offset_us in clocks.items()
            if abs(offset_us - middle) > self.bound_us
        }
        for replica in sorted(beyond.keys() - self.beyond.keys()):
            whose = "this node's clock" if replica == self.own else f"the clock of {replica:016x}"
            message = f"{whose} is {beyond[replica] / 1000:+.0f} ms off the median"
            details = {"replica": replica, "offset_us": beyond[replica]}
            effects.append(Alarm("clock skew", message, details))
        for replica in sorted(self.beyond.keys() - beyond.keys()):
            message = f"the clock of {replica:016x} is within the bound again"
            effects.append(Alarm("clock sane", message, {"replica": replica}))
        self.beyond = beyond
        return effects

    def note(self, batch: Batch, now_us: int) -> None:
        """Count the stamps of a remote batch that lie beyond the bound in our future."""
        limit_us = now_us + self.bound_us
        if max(map(_physical_of, batch.transactions)) <= limit_us:
            return
        ahead = sum(physical_us > limit_us for _, physical_us, _, _ in batch.transactions)
        replica = batch.header.replica
        self.future_stamps[replica] = self.future_stamps.get(replica, 0) + ahead
