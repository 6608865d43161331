"""Identities: dots are used once, ids are never taken up again, boots are counted.

Problem: a store that was restored, copied or cut and goes on under its old id writes other
things under dots that others hold already: the one mistake that no join survives.

Idea: of every batch on any disk the name and hash are known, across lives, clones and
restores. Two contents under one dot are a violation, and so is a batch that was found
elsewhere although its writer's disk never held it (it was sent before it was durable). An id
that was in use may be taken up only by a store that proves its continuity.

And in the end, when all have met, no two share one.

Invariants: a copy that nothing on the disk gives away (a snapshot of the whole machine)
excuses its id: that fork cannot be prevented, only found, and fenced with an alarm.
"""

from __future__ import annotations

from simulations.checkers.base import Checker
from simulations.history import History
from simulations.node import Machine
from simulations.world import World

__all__ = ["Identities"]


class Identities(Checker):
    """See the module."""

    name = "identities"
    about = "a dot names one delta for ever; an id is taken up only by whoever proves it"

    def __init__(self, world: World, history: History) -> None:
        super().__init__(world, history)
        self._conflicts = 0
        self._unsourced = 0
        self._used: dict[int, str] = {}
        self._boots: dict[str, tuple[int, int]] = {}

    def started(self, machine: Machine) -> None:
        """Look at who this is, and by what right."""
        view = self.history.views[machine.name]
        before = self.history.past.get(machine.name)
        if before is not None and before.up and before.replica == view.replica:
            # A node goes on within one life only when it has given its id up.
            raise self.fail(
                f"it takes up {view.replica:016x} again, which it had given up", machine
            )
        user = self._used.get(view.replica)
        excused = view.replica in self.history.copied
        if user is not None and not excused:
            if not view.continuous:
                words = f"it goes on as {view.replica:016x}, though its store cannot prove it"
                raise self.fail(words, machine)
            if user != machine.name:
                raise self.fail(f"it goes on as {view.replica:016x}, which is {user}'s", machine)
        self._used.setdefault(view.replica, machine.name)
        harms = len(self.history.harms.get(machine.name, ()))
        boot, harms_then = self._boots.get(machine.name, (0, harms))
        if harms == harms_then and view.boot <= boot:
            raise self.fail(f"boot {view.boot} comes after boot {boot}", machine)
        self._boots[machine.name] = (view.boot, harms)
        self._look()

    def published(self, machine: Machine) -> None:
        """Look at what was found on the disks since."""
        self._look()

    def finished(self) -> None:
        """Look a last time; of two that share an id and have met, one has taken another."""
        self._look()
        names: dict[int, str] = {}
        for machine in self.world.up():
            other = names.setdefault(machine.engine.replica_id, machine.name)
            if other != machine.name:
                words = f"it and {other} still share {machine.engine.replica_id:016x}"
                raise self.fail(words, machine)

    def _look(self) -> None:
        history = self.history
        while self._conflicts < len(history.conflicts):
            first, second, name = history.conflicts[self._conflicts]
            self._conflicts += 1
            header = second.header
            if header.replica not in history.copied:
                words = (
                    f"{header.replica:016x}:{header.first}-{header.last} has another content "
                    f"than {first.header.first}-{first.header.last}, which was there before"
                )
                raise self.fail(words, name)
        while self._unsourced < len(history.unsourced):
            batch, name = history.unsourced[self._unsourced]
            self._unsourced += 1
            origins = history.machines_of.get(batch.header.replica, [])
            if not any(history.harms.get(origin) for origin in origins):
                header = batch.header
                words = (
                    f"it holds {header.replica:016x}:{header.first}-{header.last}, which its "
                    "writer's disk never held"
                )
                raise self.fail(words, name)
