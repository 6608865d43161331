"""What a fault is: drawn from a seed, struck, and lifted.

Problem: some forty faults need the same few things: whom to strike, for how long, and
a way back; and each must be plain data in a plan.

Idea: a ``Fault`` has a name, a sentence, and two methods: ``draw`` returns its arguments
as JSON-able data, ``apply`` strikes. One that lasts lifts itself after ``for_us``. What
is struck is named by machine; a machine that a shrunk plan no longer has is passed over.
Most strike one machine for a while: it is down (``Downtime``), or not well (``Ailment``).

Invariants: ``apply`` never fails on a world in any condition; all that a fault may
leave behind is undone by ``heal_all`` (clocks excepted: nothing may rest on them); what
is durable on one disk only is never destroyed, for no system survives that, see
``is_held_elsewhere``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random
from typing import Any, ClassVar, Final

from simulations.node import Machine
from simulations.world import World

__all__ = [
    "Ailment",
    "Arguments",
    "Downtime",
    "Fault",
    "Lasting",
    "OfOneMachine",
    "Shape",
    "is_held_elsewhere",
    "later",
    "machines_named",
    "restart_later",
]

Arguments = Mapping[str, Any]

_SHORTEST_US: Final = 50_000
_TRIES: Final = 4


@dataclass(frozen=True, slots=True)
class Shape:
    """What a fault needs to know to be drawn: the machines by name, their regions, the time."""

    machines: tuple[str, ...]
    regions: Mapping[str, str]
    safety_us: int

    def duration_us(self, random: Random) -> int:
        """Draw how long something lasts: mostly short, at most half of the safety phase."""
        longest_us = max(_SHORTEST_US + 1, self.safety_us // 2)
        return int(_SHORTEST_US * (longest_us / _SHORTEST_US) ** random.random())

    def one(self, random: Random) -> str:
        """Draw a machine."""
        return random.choice(self.machines)

    def some(self, random: Random) -> list[str]:
        """Draw some machines, at least one; all but one at most, if there are two."""
        most = max(1, len(self.machines) - 1)
        return random.sample(self.machines, random.randint(1, most))


class Fault(ABC):
    """One kind of fault. ``kind`` groups them: network, clock, process, disk, system."""

    name: ClassVar[str]
    kind: ClassVar[str]
    about: ClassVar[str]

    @abstractmethod
    def draw(self, random: Random, shape: Shape) -> dict[str, Any]:
        """Draw the arguments of one such fault."""

    @abstractmethod
    def apply(self, world: World, arguments: Arguments) -> None:
        """Strike."""


class Lasting(Fault):
    """A fault that lasts ``for_us``, and is then lifted."""

    def apply(self, world: World, arguments: Arguments) -> None:
        """Strike, and lift later."""
        self.strike(world, arguments)
        world.kernel.after(int(arguments["for_us"]), self.lift, world, arguments)

    @abstractmethod
    def strike(self, world: World, arguments: Arguments) -> None:
        """Let it begin."""

    @abstractmethod
    def lift(self, world: World, arguments: Arguments) -> None:
        """Let it end. Harmless where it has ended."""


class OfOneMachine(Fault):
    """A fault of one ``machine``, for ``for_us``."""

    def draw(self, random: Random, shape: Shape) -> dict[str, Any]:
        """Draw whose, in which way, and for how long."""
        machine, more = shape.one(random), self.draw_more(random, shape)
        return {"machine": machine, **more, "for_us": shape.duration_us(random)}

    def draw_more(self, random: Random, shape: Shape) -> dict[str, Any]:
        """Draw in which way: nothing, where there is only one."""
        return {}


class Downtime(OfOneMachine):
    """A machine goes down in some way, and is started again after ``for_us``."""

    def apply(self, world: World, arguments: Arguments) -> None:
        """Take it down, and start it later."""
        for machine in machines_named(world, arguments["machine"]):
            self.take_down(world, machine, arguments)
            restart_later(world, machine, int(arguments["for_us"]))

    @abstractmethod
    def take_down(self, world: World, machine: Machine, arguments: Arguments) -> None:
        """End it, or see to it that it will end. It may be down already."""


class Ailment(OfOneMachine, Lasting):
    """Something is wrong with a machine for ``for_us``."""

    def strike(self, world: World, arguments: Arguments) -> None:
        """Let it begin."""
        for machine in machines_named(world, arguments["machine"]):
            self.begin(world, machine, arguments)

    def lift(self, world: World, arguments: Arguments) -> None:
        """Let it end."""
        for machine in machines_named(world, arguments["machine"]):
            self.end(world, machine)

    @abstractmethod
    def begin(self, world: World, machine: Machine, arguments: Arguments) -> None:
        """Let it begin on one machine."""

    @abstractmethod
    def end(self, world: World, machine: Machine) -> None:
        """Let it end on one machine. Harmless where it has ended."""


def later(world: World, after_us: int, strike: Callable[..., None], *arguments: Any) -> None:
    """Let a further part of a fault strike after a while, unless all is healed before."""
    world.kernel.after(after_us, _strike, world, world.heals, strike, arguments)


def _strike(
    world: World, heals: int, strike: Callable[..., None], arguments: tuple[Any, ...]
) -> None:
    if world.heals == heals:
        strike(*arguments)


def machines_named(world: World, names: Any) -> list[Machine]:
    """Return the machines of these names (or this name) that there are."""
    listed = [names] if isinstance(names, str) else names
    return [world.machines[name] for name in listed if name in world.machines]


def restart_later(world: World, machine: Machine, after_us: int) -> None:
    """Start a machine after a while; try again later if its disk does not let it."""
    for attempt in range(_TRIES):
        world.kernel.after(after_us << attempt, machine.start)


def is_held_elsewhere(world: World, machine: Machine) -> bool:
    """Tell whether all that a running machine has published is durable on others as well.

    Only then may a fault take it away: of what a disk alone ever held, nothing is left
    when it is gone, and nobody promised otherwise. What it has set aside, it alone holds.
    """
    if machine.device.disk.quarantine:
        return False
    # Others must be members: who waits to be admitted may yet have to begin from nothing.
    members = [other for other in world.up() if other.replica.writable]
    vectors = [other.engine.state.vector for other in members if other is not machine]
    return all(
        any(vector.get(replica, 0) >= last for vector in vectors)
        for replica, last in machine.engine.state.vector.items()
    )
