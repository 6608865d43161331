"""Lives: generations and incarnations only rise, and nobody has one that it never took.

Problem: who is believed to be what is decided by two numbers. A member that starts with a
generation that it had before is taken for its own past; an incarnation that a member never
took, once believed, makes its true word look old, and it is dead for ever.

Idea: the numbers that members take are read from their own machines, in every life and pool.
What anybody's table says of a member must be a word that the member has said, and a life that
it has begun.

Where somebody lies, only what a member is said to have proven itself counts: hearsay is listed
until the member is asked, or outbids it.

Invariants: of members that there never were, which only a liar speaks of, nothing is asked here;
ids that two disks bear, or one that was put back, prove nothing.
"""

from __future__ import annotations

from collections.abc import Iterator

from gossip.effects import MemberChanged
from gossip.messages import Record
from gossip.swim import Swim
from simulations.checkers.base import Checker
from simulations.faults.mesh import LIED
from simulations.history import History
from simulations.node import Machine
from simulations.world import World

__all__ = ["Lives"]

_Word = tuple[int, int]


class Lives(Checker):
    """See the module."""

    name = "lives"
    about = "generations and incarnations only rise, and are believed only as members said them"

    def __init__(self, world: World, history: History) -> None:
        super().__init__(world, history)
        # By member and pool, the highest that it has said.
        self._said: dict[tuple[int, str], _Word] = {}
        self._begun: dict[int, tuple[int, str, int]] = {}
        self._homes: dict[int, set[str]] = {}

    def meshed(self, machine: Machine) -> None:
        """Look at the life that begins."""
        assert machine.mesh is not None, "whoever takes part in a mesh has one"
        me = machine.mesh.mesh.me
        self._homes.setdefault(me.member, set()).add(machine.name)
        life = (me.generation, machine.name, machine.lives)
        before = self._begun.get(me.member)
        self._begun[me.member] = life
        if before is not None and not self._is_doubtful(me.member) and before[0] >= me.generation:
            words = f"member {me.member:016x} begins life {me.generation} after life {before[0]}"
            raise self.fail(words, machine)

    def ended(self, machine: Machine) -> None:
        """Take in what it said last."""
        self._take(machine)

    def left(self, machine: Machine) -> None:
        """Take in what it said last."""
        self._take(machine)

    def outlived(self, machine: Machine) -> None:
        """Take in what it said last."""
        self._take(machine)

    def member_changed(self, machine: Machine, change: MemberChanged) -> None:
        """Hold what a node believes now against what the member has said."""
        member = change.record.member
        homes = self._homes.get(member)
        if homes is None or self._is_doubtful(member):
            return
        for home in sorted(homes):
            self._take(self.world.machines[home])
        for pool in _pools(machine):
            said = self._said.get((member, pool.pool), (0, 0))
            entry = pool._pool.table.get(member)
            if entry is None or (self.world.reached[LIED] and not entry.proven):
                continue
            if _word(entry.record) > said:
                words = (
                    f"member {member:016x} is believed to live {_word(entry.record)} in "
                    f"{pool.pool}, and has said {said} at the most"
                )
                raise self.fail(words, machine)

    def _take(self, machine: Machine) -> None:
        for pool in _pools(machine):
            key, word = (pool.me.member, pool.pool), _word(pool.me)
            before = self._said.get(key, (0, 0))
            if word < before and not self._is_doubtful(pool.me.member):
                raise self.fail(f"its own word went back from {before} to {word}", machine)
            self._said[key] = max(before, word)

    def _is_doubtful(self, member: int) -> bool:
        homes = self._homes.get(member, set())
        return (
            len(homes) > 1
            or member in self.history.copied
            or any(self.history.harms.get(home) for home in homes)
        )


def _pools(machine: Machine) -> Iterator[Swim]:
    if machine.mesh is not None:
        mesh = machine.mesh.mesh
        yield from (pool for pool in (mesh._local, mesh._wide) if pool is not None)


def _word(record: Record) -> _Word:
    return record.generation, record.incarnation
