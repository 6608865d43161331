"""Faults of machines: clocks that are wrong, processes that die, stop or stand still.

Problem: a process dies at the worst moment, between two steps that belong together,
and comes back as if nothing had been; or it stands still and believes that no time
passed.

Idea: besides crashes at a time there are crashes after a number of effects, which
fall between any two of them.

Invariants: every machine that a fault took down is started again.
"""

from __future__ import annotations

from random import Random
from typing import Any, Final

from simulations.faults.base import (
    Ailment,
    Arguments,
    Downtime,
    Fault,
    Shape,
    later,
    machines_named,
)
from simulations.node import Machine
from simulations.world import World

__all__ = ["MACHINES", "Crash", "CrashLoop", "Die", "Drift", "Jumps", "Pause", "Skew", "Stop"]

_DAY_US: Final = 86_400_000_000


class Skew(Fault):
    """A clock that is off."""

    name = "skew"
    kind = "clock"
    about = "a clock is set forward or back, by milliseconds or by days"

    def draw(self, random: Random, shape: Shape) -> dict[str, Any]:
        """Draw whose, and by how much."""
        by_us = int(1_000 * (30 * _DAY_US // 1_000) ** random.random())
        return {"machine": shape.one(random), "by_us": random.choice((-1, 1)) * by_us}

    def apply(self, world: World, arguments: Arguments) -> None:
        """Set it."""
        for machine in machines_named(world, arguments["machine"]):
            machine.clock.jump(int(arguments["by_us"]))
            world.note("skew", machine.name, number=int(arguments["by_us"]))


class Jumps(Fault):
    """A clock that jumps about."""

    name = "jumps"
    kind = "clock"
    about = "a clock jumps to and fro, again and again"

    def draw(self, random: Random, shape: Shape) -> dict[str, Any]:
        """Draw whose, how often and how far."""
        return {
            "machine": shape.one(random),
            "every_us": shape.duration_us(random),
            "jumps_us": [
                random.choice((-1, 1)) * int(1_000 * 1_000_000 ** random.random())
                for _ in range(random.randint(2, 8))
            ],
        }

    def apply(self, world: World, arguments: Arguments) -> None:
        """Let it jump."""
        for machine in machines_named(world, arguments["machine"]):
            for number, by_us in enumerate(arguments["jumps_us"]):
                later(world, number * int(arguments["every_us"]), machine.clock.jump, by_us)


class Drift(Fault):
    """A clock that runs fast or slow."""

    name = "drift"
    kind = "clock"
    about = "a clock runs up to a fifth too fast or too slow"

    def draw(self, random: Random, shape: Shape) -> dict[str, Any]:
        """Draw whose, and by how much."""
        parts = int(10 * 20_000 ** random.random())
        return {"machine": shape.one(random), "ppm": random.choice((-1, 1)) * parts}

    def apply(self, world: World, arguments: Arguments) -> None:
        """Let it drift."""
        for machine in machines_named(world, arguments["machine"]):
            machine.clock.drift(int(arguments["ppm"]))


class Crash(Downtime):
    """A process that dies."""

    name = "crash"
    kind = "process"
    about = "a process dies, what it had not synced is gone; it is started again later"

    def draw_more(self, random: Random, shape: Shape) -> dict[str, Any]:
        """Draw whether its peers are told."""
        return {"silent": random.random() < 0.3}

    def take_down(self, world: World, machine: Machine, arguments: Arguments) -> None:
        """Let it die."""
        machine.crash(silent=bool(arguments["silent"]))


class Die(Downtime):
    """A process that dies between two effects."""

    name = "die"
    kind = "process"
    about = "a process dies between two effects, whichever comes next"

    def draw_more(self, random: Random, shape: Shape) -> dict[str, Any]:
        """Draw after how many effects."""
        return {"effects": int(300 ** random.random()) - 1}

    def take_down(self, world: World, machine: Machine, arguments: Arguments) -> None:
        """Let it die soon."""
        if machine.up:
            machine.dies_after_effects = int(arguments["effects"])


class CrashLoop(Fault):
    """A process that dies again and again."""

    name = "crash_loop"
    kind = "process"
    about = "a process dies soon after every start, a few times"

    def draw(self, random: Random, shape: Shape) -> dict[str, Any]:
        """Draw whose, and how often."""
        return {
            "machine": shape.one(random),
            "times": random.randint(2, 8),
            "every_us": int(5_000 * 400 ** random.random()),
        }

    def apply(self, world: World, arguments: Arguments) -> None:
        """Kill and start it by turns."""
        every_us = int(arguments["every_us"])
        for machine in machines_named(world, arguments["machine"]):
            for number in range(int(arguments["times"])):
                later(world, number * every_us, machine.crash)
                world.kernel.after(number * every_us + every_us // 8, machine.start)


class Stop(Downtime):
    """A process that is stopped as it should be."""

    name = "stop"
    kind = "process"
    about = "a process is ended cleanly and started again later"

    def take_down(self, world: World, machine: Machine, arguments: Arguments) -> None:
        """Stop it."""
        machine.stop()


class Pause(Ailment):
    """A process that stands still."""

    name = "pause"
    kind = "process"
    about = "a process stands still, and goes on as if no time had passed"

    def begin(self, world: World, machine: Machine, arguments: Arguments) -> None:
        """Stop it where it is."""
        machine.pause()

    def end(self, world: World, machine: Machine) -> None:
        """Let it go on."""
        machine.resume()


MACHINES: Final[tuple[Fault, ...]] = (
    Skew(), Jumps(), Drift(), Crash(), Die(), CrashLoop(), Stop(), Pause(),
)  # fmt: skip
