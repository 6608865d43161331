"""No acknowledged write is lost.

Problem: an acknowledgement is a promise for ever, through crashes, lost disks, evictions
and snapshots; and it is easily kept by everybody but the one who is asked next year.

Idea: at the end, every delta whose write was ever acknowledged is covered by every node's
vector, under the transaction that was acknowledged; or, where its origin's id was given up,
lies in somebody's quarantine, to be listed and rescued. That what is covered is also *live*
unless superseded is the oracle's to say.

Invariants: an answer that came after its client had stopped waiting counts as well.
"""

from __future__ import annotations

from crdtmem.entries import SEQUENCE_BITS, SEQUENCE_MASK, unpack_dot
from simulations.checkers.base import Checker
from simulations.history import Call

__all__ = ["Acknowledged"]


class Acknowledged(Checker):
    """See the module."""

    name = "acknowledged"
    about = "no acknowledged write is lost: all hold it at the end, or it is set aside for rescue"

    def finished(self) -> None:
        """Look for every acknowledged write on every node."""
        machines = list(self.world.up())
        if not machines:
            return
        aside = self._set_aside()
        for call in self.history.written_calls():
            assert call.dots is not None
            first, count = call.dots
            if not count:
                # A removal that found nothing to remove.
                continue
            replica, sequence = first >> SEQUENCE_BITS, first & SEQUENCE_MASK
            last = sequence + count - 1
            lacking = [m for m in machines if m.engine.state.vector.get(replica, 0) < last]
            if not lacking:
                self._require_content(call, first)
            elif not any(low <= sequence and last <= high for low, high in aside.get(replica, ())):
                words = (
                    f"{unpack_dot(first)} and {count - 1} more, acknowledged by {call.machine}, "
                    f"are neither joined nor set aside ({_told(call)})"
                )
                raise self.fail(words, lacking[0])

    def _set_aside(self) -> dict[int, list[tuple[int, int]]]:
        """Return the ranges of sequences in all quarantines, by replica."""
        found: dict[int, list[tuple[int, int]]] = {}
        for machine in self.world.machines.values():
            for record in machine.device.disk.quarantine:
                pair = (record.first_sequence, record.last_sequence)
                found.setdefault(record.replica, []).append(pair)
        return found

    def _require_content(self, call: Call, first: int) -> None:
        """What is covered under those dots must be what was acknowledged."""
        if first >> SEQUENCE_BITS in self.history.forked:
            return
        batch = self.history.batch_of(first)
        written = [] if batch is None else list(self.history.transactions(batch))
        if not any(w.first == first and w.operation_id == call.operation_id for w in written):
            words = f"{unpack_dot(first)} was acknowledged for another write ({_told(call)})"
            raise self.fail(words, call.machine)


def _told(call: Call) -> str:
    return f"call {call.number}, a {call.step.kind} of client {call.client}"
