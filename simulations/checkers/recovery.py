"""Recovery: a start brings back exactly what was durable, and at least what was told.

Problem: between an fsync and the next start lie a crash, a checkpoint half written, a cut
log, a verdict half carried out; what comes back must be a prefix that reaches the last
acknowledgement, neither less nor anything that was never durable.

Idea: when a node ends, the history knows what its disk has been seen to hold. A start under
the same id, of a disk that nobody harmed, must lead to exactly that vector; one under a
new id needs a reason: the verdict that the old one was given up, harm, or a record that is
found torn. What was torn was under way: what had been published is not lost with it. And where
an id was given up, nothing that lies beyond the cuts of the verdict comes back under the next:
it would have to be given up again, for the same reason, and so for ever.

Invariants: what was published was durable (``durability`` checks that), so a recovered vector
that equals the durable one covers all that was acknowledged.
"""

from __future__ import annotations

from collections.abc import Mapping

from crdtmem.retirement import RETIRED
from crdtmem.store.base import content_digest
from simulations.checkers.base import Checker
from simulations.history import History
from simulations.node import Machine
from simulations.world import World

__all__ = ["Recovery"]


class Recovery(Checker):
    """See the module."""

    name = "recovery"
    about = "a start leads to what was durable at the end before, or within its verdict's cuts"

    def __init__(self, world: World, history: History) -> None:
        super().__init__(world, history)
        self._harms: dict[str, int] = {}
        self._damaged: dict[str, int] = {}
        self._given_up: dict[str, Mapping[int, int]] = {}

    def gave_up(self, machine: Machine, cuts: Mapping[int, int]) -> None:
        """Remember beyond which cuts nothing may come back."""
        self._given_up[machine.name] = cuts

    def ended(self, machine: Machine) -> None:
        """Remember how often the disk had been harmed by now, and how much was found."""
        self._damaged[machine.name] = _damaged(machine)
        self._harms[machine.name] = len(self.history.harms.get(machine.name, ()))
        if RETIRED not in machine.device.disk.metadata:
            # The verdict did not get there: it will have to be spoken again.
            self._given_up.pop(machine.name, None)

    def started(self, machine: Machine) -> None:
        """Compare what came back with what was there."""
        before = self.history.past.get(machine.name)
        cuts = self._given_up.pop(machine.name, {})
        harms = len(self.history.harms.get(machine.name, ()))
        if before is None or (not before.up and harms != self._harms.get(machine.name, harms)):
            # The first start, or nothing to go by.
            return
        view = self.history.views[machine.name]
        if cuts and view.replica != before.replica:
            self._require_within(cuts, machine)
        if before.up:
            # Another id in the same process.
            return
        if view.replica != before.replica:
            torn = _damaged(machine) > self._damaged.get(machine.name, 0)
            if torn and not view.vector.dominates(before.vector):
                lost = before.vector.beyond(view.vector)
                raise self.fail(f"a torn write cost it {lost}, which it had published", machine)
            if not torn and not view.continuous:
                words = (
                    f"it goes on as {view.replica:016x}, not {before.replica:016x}, though "
                    "nobody harmed its disk"
                )
                raise self.fail(words, machine)
            return
        if view.vector != before.durable:
            lost = before.durable.beyond(view.vector)
            gained = view.vector.beyond(before.durable)
            words = f"it came back without {lost} and with {gained}"
            raise self.fail(words, machine)

    def _require_within(self, cuts: Mapping[int, int], machine: Machine) -> None:
        vector = self.history.views[machine.name].vector
        beyond = {r: vector[r] for r, last in sorted(cuts.items()) if vector.get(r, 0) > last}
        if beyond:
            words = f"it gave up an id for the cuts {dict(cuts)}, and still holds {beyond}"
            raise self.fail(words, machine)


def _damaged(machine: Machine) -> int:
    """Return how many records that were set aside fail their checksums."""
    disk = machine.device.disk
    return sum(content_digest(record.data) != record.digest for record in disk.quarantine)
