"""Counters: within the possible range at any time, and exact at the end.

Problem: a wrong sum looks like any other number.

Idea: from operations alone: a counter's value at a vector is the sum of the increments that it
covers, less the decrements, but for those that a covered reset or delete had seen. An
operation that was written twice (its client got no answer, and asked elsewhere) may count
once or as often as it was written until its second writer has taken it back, and at the
end counts once. Checked for what clients read, and on every node at the end.

Only a copy's own writer can take it back: where that was given up or has started again from
a checkpoint since, the copy may go on counting.

Invariants: keys written under an order of trust are left out, for there a reset may not take
what it saw; so are resets beside copies, whose compensation may cross them.
"""

from __future__ import annotations

from collections.abc import Mapping

from crdtmem.crdt import DATATYPES
from simulations.checkers.base import OfAnswers
from simulations.checkers.operations import Applied, Operations
from simulations.checkers.places import Place, place_of
from simulations.history import Call, History
from simulations.world import World

__all__ = ["Counters"]

_CODES = frozenset(DATATYPES[name].code for name in ("counter", "g_counter"))


class Counters(OfAnswers):
    """See the module."""

    name = "counters"
    about = "counters are within the possible range at any time, and exact at the end"

    def __init__(self, world: World, history: History) -> None:
        super().__init__(world, history)
        self._operations = history.index(Operations)

    def finished(self) -> None:
        """Check what clients have read, and every counter on every node."""
        super().finished()
        self._operations.update()
        now_us = self.world.kernel.now_us
        for place in self._operations.places():
            if place[1] not in _CODES:
                continue
            for machine in self.world.up():
                value = machine.replica.read(*place, now_us).value
                self._check(place, value, machine.engine.state.vector, machine.name, exact=True)

    def check(self, call: Call) -> None:
        """Check what a client has read."""
        self._operations.update()
        if call.step.kind != "read" or call.outcome != "ok" or call.context is None:
            return
        place = place_of(call.step.arguments)
        if place[1] in _CODES:
            self._check(place, call.result.value, call.context, call.machine, exact=False)

    def _check(
        self, place: Place, value: int, vector: Mapping[int, int], where: str, *, exact: bool
    ) -> None:
        if any(replica in self.history.forked for replica in vector):
            return
        everything = self._operations.at(place)
        trusted = any(applied.call.step.arguments.get("trust") for applied in everything)
        if trusted or place in self._operations.rescued:
            return
        low, high = self._range(place, vector, exact=exact)
        if not low <= value <= high:
            possible = str(low) if low == high else f"between {low} and {high}"
            words = f"{place} shows {value}, and must be {possible}"
            raise self.fail(words, where)

    def _range(self, place: Place, vector: Mapping[int, int], *, exact: bool) -> tuple[int, int]:
        """Return the least and the greatest value that a counter may show."""
        known = [applied for applied in self._operations.at(place) if applied.is_in(vector)]
        resets = [applied for applied in known if _resets(applied, place)]
        copied = {
            applied.operation_id
            for applied in known
            if len(self._operations.copies[applied.operation_id]) > 1
        }
        low = high = 0
        for applied in known:
            amount = _counted(applied, place, resets)
            if applied.operation_id not in copied:
                low, high = low + amount, high + amount
                continue
            if exact and not resets:
                if self._operations.standing(applied, vector):
                    low, high = low + amount, high + amount
                elif not self._is_there_yet(applied):
                    low, high = low + min(0, amount), high + max(0, amount)
                continue
            # Counted, or not, or taken back by somebody who did not know of the reset.
            full = abs(_sum(applied, place, 0))
            low, high = low - full, high + full
        return low, high

    def _is_there_yet(self, applied: Applied) -> bool:
        """Tell whether whoever wrote a copy has been running ever since, under the same id."""
        call = applied.call
        machine = self.world.machines[call.machine]
        same_life = machine.up and machine.lives == call.life
        return same_life and machine.engine.replica_id == applied.replica


def _resets(applied: Applied, place: Place) -> bool:
    return any(a.place == place and a.name in ("reset", "delete") for a in applied.asked)


def _sum(applied: Applied, place: Place, begin: int) -> int:
    """Return what a transaction's operations on a key add up to, from one of them on."""
    total = 0
    for item in applied.asked[begin:]:
        if item.place == place and item.name in ("increment", "decrement"):
            amount = item.arguments[0] if item.arguments else 1
            total += amount if item.name == "increment" else -amount
    return total


def _counted(applied: Applied, place: Place, resets: list[Applied]) -> int:
    """Return what of a transaction no reset had seen; a reset within it takes what precedes."""
    if any(reset is not applied and reset.saw(applied) for reset in resets):
        return 0
    begin = 0
    for index, item in enumerate(applied.asked):
        if item.place == place and item.name in ("reset", "delete"):
            begin = index + 1
    return _sum(applied, place, begin)
