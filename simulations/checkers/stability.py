"""Stability: nothing is collected that something concurrent might still meet.

Problem: a removal that is forgotten one message too early lets an addition live that it was
to beat, on those replicas only where it came late.

Idea: whatever drops an entry without a client's asking (and not because it expired) is
collection. At the end the history knows everything that was ever written concurrently with
a collected entry by anybody who is part of what survived: all of it must lie within what the
collector had joined. That is causal stability, stated without acknowledgements, epochs or
clocks. Of a removal that is collected with the presences beside it, only the removal has to be
stable: it wins over them wherever and whenever they arrive.

Invariants: what lies beyond the cut of an evicted replica never met anybody, and is left out.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from typing import Any

from crdtmem.batch import Batch
from crdtmem.causality import VersionVector
from crdtmem.entries import SEQUENCE_BITS, SEQUENCE_MASK, unpack_dot
from crdtmem.policy import SYSTEM_SPACE
from simulations.checkers.base import Checker
from simulations.history import Written

__all__ = ["Stability", "collected_by"]


class Stability(Checker):
    """See the module."""

    name = "stability"
    about = "collection drops only what nothing concurrent can still meet"

    def finished(self) -> None:
        """Look at everything that was ever collected."""
        history = self.history
        survived = VersionVector()
        for machine in self.world.up():
            survived.join(machine.engine.state.vector)
        if history.forked:
            return
        chains = {replica: history.chain(replica) for replica in history.replicas()}
        for batch in history.log:
            if survived.get(batch.header.replica, 0) < batch.header.last:
                continue
            for written in history.transactions(batch):
                for dot in self._collected(written):
                    self._check(batch, dot, chains, survived)

    def _collected(self, written: Written) -> Iterator[int]:
        """Yield the dots that a transaction collects."""
        if written.operation_id is not None:
            return
        collected = list(collected_by(written))
        places = {self._place(dot) for dot in collected if self._is_removal(dot)}
        for dot in collected:
            found = self.history.delta(dot)
            if found is not None:
                if self._place(dot) in places and not self._is_removal(dot):
                    continue
                expires_at_us = found[0].stamp.expires_at_us
                if expires_at_us is None or expires_at_us > written.physical_us:
                    yield dot

    def _delta(self, dot: int) -> tuple[Any, ...]:
        found = self.history.delta(dot)
        return () if found is None else tuple(list(found[0].deltas())[found[1]])

    def _is_removal(self, dot: int) -> bool:
        delta = self._delta(dot)
        return bool(delta) and delta[3] is False

    def _place(self, dot: int) -> tuple[Any, ...]:
        found, delta = self.history.delta(dot), self._delta(dot)
        return () if found is None else (found[0].space, found[0].datatype, *delta[1:3])

    def _check(
        self, batch: Batch, dot: int, chains: dict[int, list[Batch]], survived: VersionVector
    ) -> None:
        history = self.history
        origin = history.batch_of(dot)
        assert origin is not None
        past, known = history.context(origin), history.context(batch)
        for replica, chain in chains.items():
            if replica in (batch.header.replica, dot >> SEQUENCE_BITS):
                continue
            if replica in history.copied:
                # One of two that share an id may acknowledge what the other has not seen.
                continue
            # Contexts grow along a chain: the first batch that had seen the dot ends the race.
            seen = bisect_left(chain, True, key=lambda item: history.context(item).covers(dot))
            last = chain[seen].header.first - 1 if seen < len(chain) else chain[-1].header.last
            last = min(last, survived.get(replica, 0))
            if last > past.get(replica, 0) and last > known.get(replica, 0):
                words = (
                    f"{batch.header.replica:016x}:{batch.header.first} collected "
                    f"{unpack_dot(dot)}, and had joined {replica:016x} up to "
                    f"{known.get(replica, 0)} only, of {last} that had not seen it"
                )
                raise self.fail(words)


def collected_by(written: Written) -> Iterator[int]:
    """Yield what a transaction that no client asked for supersedes, outside the system space."""
    for segment in written.segments:
        if segment.space != SYSTEM_SPACE and segment.superseded is not None:
            for _, _, _, _, superseded in segment.deltas():
                yield from (dot for dot in superseded if dot & SEQUENCE_MASK)
