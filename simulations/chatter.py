"""Broadcasts: what the members of a region tell each other while all goes on.

Problem: broadcasts share packets with the news of members; one may starve the other, and what
is told while members come and go may be told twice, or to nobody.

Idea: while faults strike, members say things at moments drawn from the seed. Once all is healed
and the mesh has gathered, everybody has some *last words*, which are held to more: what is told
among members that are connected arrives.

Invariants: every payload is said once in a world, and names its speaker; nothing here draws from
anybody else's chance.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from simulations.node import Machine
from simulations.world import World

__all__ = ["LAST_WORDS", "last_words", "listeners", "schedule", "speaker"]

LAST_WORDS: Final = 3
"""So many times each speaks at the end: broadcasts are best effort, so one of these must arrive."""

_SAID_PER_S: Final = 2.0
_MOST_SAID: Final = 100
_LAST: Final = "last"


def schedule(world: World, base_us: int, for_us: int) -> None:
    """Let members speak now and then, from a time on."""
    random = world.kernel.random("chatter")
    names = list(world.machines)
    for number in range(min(_MOST_SAID, int(for_us * _SAID_PER_S / 1e6))):
        at_us = base_us + random.randrange(for_us)
        world.kernel.at(at_us, _say, world, random.choice(names), f"word {number}")


def last_words(world: World, turn: int) -> None:
    """Let everybody speak who is there."""
    for name in list(world.machines):
        _say(world, name, f"{_LAST} {turn}")


def _say(world: World, name: str, words: str) -> None:
    machine = world.machines[name]
    executor, mesh = machine.executor, machine.mesh
    if executor is not None and mesh is not None:
        payload = f"{name}/{machine.lives}/{words}".encode()
        machine.fire(executor, lambda: mesh.broadcast(payload))


def speaker(payload: bytes) -> tuple[str, bool]:
    """Return which machine said something, and whether these were last words."""
    name, _, words = payload.decode().split("/")
    return name, words.startswith(_LAST)


def listeners(world: World, machine: Machine) -> Iterator[str]:
    """Yield the machines to which a machine's broadcasts go: the others of its region."""
    for other in world.machines.values():
        if other is not machine and other.region == machine.region:
            yield other.name
