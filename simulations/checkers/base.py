"""What a checker is: a watcher that knows the truth, and speaks up when it is broken.

Problem: a promise that is checked only at the end of a run is broken silently in the
middle, and one that is checked in full at every step makes ten thousand runs impossible.

Idea: a ``Checker`` is told what happens and asks the ``History`` what should be. It works
per batch that is published; what needs a whole state is done at ``finished``, after
each start, and at a few moments drawn from the seed (``is_drawn``). Most look at one of
three things: a node now and then (``NowAndThen``), every call (``OfAnswers``), or every
transaction of a client (``operations.OfWrites``).

Invariants: a checker changes nothing in the world, and draws its moments from a stream of
its own, so that leaving one out changes no run; it raises at the first offence, with the
machine, the time and enough of the evidence to begin with.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import ClassVar, Final, Generic, TypeVar

from simulations.errors import LivenessViolation, SafetyViolation
from simulations.history import Call, History
from simulations.node import Machine
from simulations.world import SECOND, Watcher, World

__all__ = ["Checker", "NowAndThen", "OfAnswers", "Tail", "is_maimed", "is_quiet", "lost_entries"]

_LOOKS: Final = 0.02
_LOST_ENTRY: Final = "lost entry "
T = TypeVar("T")


class Tail(Generic[T]):
    """What was appended to a growing list since it was last walked: each item comes once."""

    __slots__ = ("_items", "_read")

    def __init__(self, items: Sequence[T]) -> None:
        self._items = items
        self._read = 0

    def __bool__(self) -> bool:
        return self._read < len(self._items)

    def __iter__(self) -> Iterator[T]:
        while self._read < len(self._items):
            self._read += 1
            yield self._items[self._read - 1]

    def rewind(self, to: int = 0) -> None:
        """Let the items from an index on come again."""
        self._read = to


class Checker(Watcher):
    """Watches one promise; ``name`` is its key in the table, ``about`` the promise."""

    name: ClassVar[str]
    about: ClassVar[str]

    def __init__(self, world: World, history: History) -> None:
        self.world = world
        self.history = history
        self._random = world.kernel.random(f"checker/{self.name}")

    def is_drawn(self, probability: float = _LOOKS) -> bool:
        """Draw whether this is one of the few moments to look at everything."""
        return self._random.random() < probability

    def fail(self, message: str, machine: Machine | str = "") -> SafetyViolation:
        """Return the violation to raise: what happened that never may."""
        return SafetyViolation(self.name, self._told(message, machine))

    def late(self, message: str, machine: Machine | str = "") -> LivenessViolation:
        """Return the violation to raise: what must happen and did not."""
        return LivenessViolation(self.name, self._told(message, machine))

    def _told(self, message: str, machine: Machine | str) -> str:
        where = machine if isinstance(machine, str) else machine.name
        place = f" on {where}" if where else ""
        return f"at {self.world.kernel.elapsed_us / SECOND:.6f} s{place}: {message}"


class NowAndThen(Checker):
    """Looks at one node now and then, for that takes long, and at every node in the end."""

    looks: ClassVar[float]

    def published(self, machine: Machine) -> None:
        """Look at it, if this is one of the moments."""
        if self.is_drawn(self.looks):
            self.look(machine)

    def finished(self) -> None:
        """Look at everybody."""
        for machine in self.world.up():
            self.look(machine)

    @abstractmethod
    def look(self, machine: Machine) -> None:
        """Look at one node; raises ``Violation``."""


class OfAnswers(Checker):
    """Looks at the end of every call, once."""

    def __init__(self, world: World, history: History) -> None:
        super().__init__(world, history)
        self._new_answers = Tail(history.ended_calls)

    def published(self, machine: Machine) -> None:
        """Look at the calls that ended since."""
        self._look()

    def finished(self) -> None:
        """Look at the last ones."""
        self._look()

    def _look(self) -> None:
        for call in self._new_answers:
            self.check(call)

    @abstractmethod
    def check(self, call: Call) -> None:
        """Look at one call; raises ``Violation``."""


def is_quiet(machine: Machine) -> bool:
    """Tell whether log and state of a machine agree now: nothing is out, nothing broken."""
    executor = machine.executor
    return (
        executor is not None
        and machine.storing == 0
        and executor.broken is None
        and executor.defect is None
        and executor.engine.replica.flight is None
    )


def lost_entries(harms: Iterable[str]) -> set[int]:
    """Return the dots that the fault ``lost_entry`` took, of what was harmed on one machine."""
    return {int(harm[len(_LOST_ENTRY) :]) for harm in harms if harm.startswith(_LOST_ENTRY)}


def is_maimed(history: History, machine: Machine) -> bool:
    """Tell whether something was taken from a node that it has not been given back yet.

    Until then its state is not what it must be, as everybody knows.
    """
    lost = lost_entries(history.harms.get(machine.name, ()))
    if not lost or not machine.up:
        return False
    lost -= {entry[0] for *_, entry in machine.engine.state.entries()}
    # What was superseded since need not come back.
    for batch in history.between({}, machine.engine.state.vector, machine.replica.tips):
        lost.difference_update(history.effects(batch)[1])
    return bool(lost)
