"""Durability: how widely a write is durable, and who waits to hear it.

Problem: a write returns when it is durable here; some writes must survive the
loss of this region too, and their writer wants to know when they do.

Idea: every acknowledgement names a durable vector, so "is this write durable in
most regions" is a comparison of vectors. A waiter is answered as soon as that
holds; at its deadline it is told how far the write has come. Nothing is undone.

Invariant: a region counts only once a member of it has acknowledged the whole
vector as durable.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from crdtmem.causality import Context
from crdtmem.effects import Effect, Reply
from crdtmem.epoch import Epoch
from crdtmem.errors import CrdtmemError, DurabilityTimeout, UnknownName

__all__ = ["DURABILITIES", "DurabilityWaits"]

DURABILITIES: Final = ("local", "region", "majority", "all")
"""How widely a write can be asked to be durable: here, on every node of this region,
in most regions, in all of them."""


@dataclass(slots=True)
class _Wait:
    ticket: Any
    vector: Mapping[int, int]
    durability: str
    deadline_us: int


class DurabilityWaits:
    """Those who wait for their writes to be durable elsewhere."""

    def __init__(self, epoch: Epoch, region: str) -> None:
        self._epoch = epoch
        self._region = region
        # By the identity of the ticket, so that one who gives up is found.
        self._waits: dict[int, _Wait] = {}

    def __len__(self) -> int:
        return len(self._waits)

    def wait(
        self,
        ticket: Any,
        vector: Mapping[int, int],
        durability: str,
        now_us: int,
        deadline_us: int,
        limit: int,
    ) -> list[Effect]:
        """Answer ``ticket`` once ``vector`` is durable as widely as asked, or at the deadline.

        At once if ``limit`` others wait already.
        """
        if durability not in DURABILITIES:
            error = UnknownName(
                f"no durability is called {durability!r}", hint=f"use {', '.join(DURABILITIES)}"
            )
            return [Reply(ticket, error=error)]
        if len(self._waits) >= limit:
            # The deadline is now: the answer says how far it has come.
            deadline_us = now_us
        self._waits[id(ticket)] = _Wait(ticket, vector, durability, deadline_us)
        return self.check(now_us)

    def forget(self, ticket: Any) -> None:
        """Let go of one who no longer waits; one that is not here is none."""
        self._waits.pop(id(ticket), None)

    def check(self, now_us: int) -> list[Effect]:
        """Answer those whose wish is fulfilled, and those whose time is up."""
        effects: list[Effect] = []
        waiting, self._waits = self._waits, {}
        for number, item in waiting.items():
            reached = sorted(self._epoch.regions_reached(item.vector))
            if self._fulfilled(item):
                effects.append(Reply(item.ticket, reached))
            elif item.deadline_us <= now_us:
                error = DurabilityTimeout(
                    f"durable in {', '.join(reached) or 'no region'} so far, not yet as widely "
                    f"as asked ({item.durability})",
                    hint="nothing is undone; wait longer, or ask for less",
                    reached=reached,
                    # What was written, for whoever goes on after it all the same.
                    context=str(Context(item.vector)),
                )
                effects.append(Reply(item.ticket, error=error))
            else:
                self._waits[number] = item
        return effects

    def _fulfilled(self, item: _Wait) -> bool:
        epoch = self._epoch
        if item.durability == "local":
            return True
        if item.durability == "region":
            staying = epoch.members - epoch.leaving
            mates = {member for member in staying if epoch.region_of(member) == self._region}
            return epoch.acknowledged_by(item.vector) >= mates
        regions = epoch.regions()
        reached = epoch.regions_reached(item.vector) & regions
        if item.durability == "majority":
            return 2 * len(reached) > len(regions)
        return reached >= regions

    def refuse(self, error: CrdtmemError) -> list[Effect]:
        """Answer everybody with an error."""
        waiting, self._waits = self._waits, {}
        return [Reply(item.ticket, error=error) for item in waiting.values()]

    def next_deadline_us(self) -> int | None:
        """Return the nearest deadline, or ``None``."""
        return min((item.deadline_us for item in self._waits.values()), default=None)
