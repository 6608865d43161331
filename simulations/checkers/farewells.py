"""Farewells: whoever has left stays away until it comes back in another life.

Problem: a mesh that learns of members by hearsay brings back those who have left, again and
again, from the tables of those who did not hear the farewell.

Idea: farewells are noted when they are said, with the life that ends, and so is which life each
member has taken for gone. Who has done so must never take that life, or an earlier one, for living
again; and none may be taken for gone that has not said so. A later life is another matter: it is
news to whoever took the one before for gone, also when it has just ended as well.

A forged farewell is believed of whoever does not answer when asked, as a death would be; where
somebody lies, ``false_deaths`` sees to it that it is believed of nobody else.

Invariants: ids that two disks bear, or one that was put back, prove nothing: which of the two
has left is not to be told from outside.
"""

from __future__ import annotations

from gossip.effects import MemberChanged
from gossip.messages import State
from simulations.checkers.base import Checker
from simulations.faults.mesh import LIED
from simulations.history import History
from simulations.node import Machine
from simulations.world import World

__all__ = ["Farewells"]


class Farewells(Checker):
    """See the module."""

    name = "farewells"
    about = "who has left is away until it begins another life; who has not, is never called so"

    def __init__(self, world: World, history: History) -> None:
        super().__init__(world, history)
        # By member, the last life that ended with a farewell.
        self._left: dict[int, int] = {}
        self._homes: dict[int, set[str]] = {}
        # By the machine that looks, and whom it looks at: the last life that it took for gone.
        self._gone: dict[str, dict[int, int]] = {}

    def meshed(self, machine: Machine) -> None:
        """Note who lives where; it begins by knowing nobody."""
        self._gone[machine.name] = {}
        assert machine.mesh is not None, "whoever takes part in a mesh has one"
        self._homes.setdefault(machine.mesh.mesh.me.member, set()).add(machine.name)

    def left(self, machine: Machine) -> None:
        """Note which life ends."""
        assert machine.mesh is not None, "whoever leaves a mesh has one"
        me = machine.mesh.mesh.me
        self._left[me.member] = max(me.generation, self._left.get(me.member, 0))

    def member_changed(self, machine: Machine, change: MemberChanged) -> None:
        """Look for who is back, or was sent away."""
        record = change.record
        taken = self._gone[machine.name]
        if change.gone:
            # Listed no more, and so nothing is known of it any longer.
            taken.pop(record.member, None)
            return
        homes = self._homes.get(record.member)
        if homes is None or self._is_doubtful(record.member, homes):
            return
        has_left = record.generation <= self._left.get(record.member, 0)
        known = f"member {record.member:016x} in life {record.generation}"
        if change.state is State.LEFT:
            if not has_left and not self.world.reached[LIED]:
                raise self.fail(f"{known} is taken for gone, and never said farewell", machine)
            taken[record.member] = max(record.generation, taken.get(record.member, 0))
        elif change.state <= State.SUSPECT and has_left:
            if record.generation <= taken.get(record.member, 0):
                raise self.fail(f"{known} has left, and is back", machine)

    def _is_doubtful(self, member: int, homes: set[str]) -> bool:
        return (
            len(homes) > 1
            or member in self.history.copied
            or any(self.history.harms.get(home) for home in homes)
        )
