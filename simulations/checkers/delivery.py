"""Delivery: what is published is causally closed, in sequence, and whole.

Problem: a reply that is shown before its question, a transaction of which half is visible, a
delta joined over a gap: all of these are vectors that should not be.

Idea: per publication, from its news alone: every batch's dependencies are covered by the
vector that is published with it; each replica's part grows without a gap and ends where a
batch ends, which is where a transaction ends; nothing shrinks. By induction the whole vector
is closed; after a start, which has no induction to stand on, every tip's full context is
looked at. What a replica's part grows by continues, by hash, the batch that it ended with: of
two histories of one id nobody joins a bit of each. And once per batch: its writer superseded
nothing that it cannot have seen.

Invariants: costs a comparison per batch and node.
"""

from __future__ import annotations

from collections.abc import Mapping

from crdtmem.batch import Batch
from crdtmem.causality import VersionVector
from crdtmem.entries import SEQUENCE_BITS, SEQUENCE_MASK, unpack_dot
from simulations.checkers.base import Checker, Tail
from simulations.history import History
from simulations.node import Machine
from simulations.world import World

__all__ = ["Delivery"]


class Delivery(Checker):
    """See the module."""

    name = "delivery"
    about = "published vectors are causally closed, in sequence, whole, and never shrink"

    def __init__(self, world: World, history: History) -> None:
        super().__init__(world, history)
        self._new_batches = Tail(history.log)
        self._before: dict[str, VersionVector] = {}
        self._tips: dict[str, Mapping[int, tuple[int, bytes]]] = {}

    def started(self, machine: Machine) -> None:
        """Look at all that was recovered."""
        vector = machine.engine.state.vector
        self._require_closed(machine, vector)
        self._before[machine.name] = vector.copy()
        self._tips[machine.name] = self.history.views[machine.name].tips

    def published(self, machine: Machine) -> None:
        """Look at what the publication added."""
        view = self.history.views[machine.name]
        vector, before = view.vector, self._before[machine.name]
        if not vector.dominates(before):
            raise self.fail(f"its vector went from {before} to {vector}", machine)
        for batch in view.news:
            if not vector.dominates(batch.header.dependencies):
                raise self.fail(f"{_name(batch)} came before what it depends on", machine)
        for replica, last in vector.items():
            tip = view.tips.get(replica, (0, b""))[1]
            if last != before.get(replica) and not self.history.ends_whole(replica, last, tip):
                words = f"its vector ends within a batch, at {replica:016x}:{last}"
                raise self.fail(words, machine)
        self._require_chained(machine, self._tips[machine.name], view.tips)
        self._before[machine.name], self._tips[machine.name] = vector, view.tips
        self._look_at_log()

    def finished(self) -> None:
        """Look at everybody once more, in full."""
        for machine in self.world.up():
            self._require_closed(machine, machine.engine.state.vector)

    def _require_chained(
        self,
        machine: Machine,
        before: Mapping[int, tuple[int, bytes]],
        now: Mapping[int, tuple[int, bytes]],
    ) -> None:
        """Walk back from what each forked id ends with now: it must pass where it ended before."""
        for replica in self.history.forked & before.keys() & now.keys():
            held, tip = before[replica], now[replica]
            batch = self.history.by_hash.get(tip[1])
            while batch is not None and batch.header.first > held[0] + 1:
                batch = self.history.by_hash.get(batch.header.previous_hash)
            if batch is None or tip == held:
                continue
            if batch.header.first <= held[0] or batch.header.previous_hash != held[1]:
                words = f"it goes on with {_name(batch)}, of another history than it had joined"
                raise self.fail(words, machine)

    def _require_closed(self, machine: Machine, vector: VersionVector) -> None:
        history = self.history
        tips = machine.replica.tips
        for replica, last in vector.items():
            tip = history.by_hash.get(tips.get(replica, (0, b""))[1])
            batch = tip or history.batch_of(replica << SEQUENCE_BITS | last)
            if batch is not None and not vector.dominates(history.context(batch)):
                words = f"it holds {_name(batch)} without all that this depends on"
                raise self.fail(words, machine)

    def _look_at_log(self) -> None:
        history = self.history
        for batch in self._new_batches:
            context = history.context(batch)
            own, last = batch.header.replica, batch.header.last
            for dot in history.effects(batch)[1]:
                replica, sequence = dot >> SEQUENCE_BITS, dot & SEQUENCE_MASK
                known = last if replica == own else context.get(replica, 0)
                if sequence > known:
                    words = f"{_name(batch)} supersedes {unpack_dot(dot)}, which it never saw"
                    raise self.fail(words)


def _name(batch: Batch) -> str:
    header = batch.header
    return f"{header.replica:016x}:{header.first}-{header.last}"
