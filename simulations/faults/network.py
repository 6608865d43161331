"""Faults of the network: cuts of every shape, and links that are slow, narrow or lying.

Problem: whole partitions are the easy case. What breaks systems is a link that works
one way, a node that sees both halves, a path that flaps, a pipe that delivers late.

Idea: a cut is a list of pairs of machines, drawn when the plan is drawn; everything
else is an attribute of some links, set for a while, and then what it was.

Invariants: lifting a cut lets through what streams held back, in order.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from random import Random
from typing import Any, ClassVar, Final

from simulations.errors import BadPlan
from simulations.faults.base import Arguments, Fault, Lasting, Shape, later
from simulations.network import Link
from simulations.regions import one_way_us
from simulations.world import SECOND, World

__all__ = [
    "NETWORK",
    "Bridge",
    "Bursts",
    "Clog",
    "Corrupt",
    "DatagramsOnly",
    "Duplicate",
    "Flap",
    "Isolate",
    "Loss",
    "Narrow",
    "OneWay",
    "Overlap",
    "Reorder",
    "Replay",
    "Reset",
    "Slow",
    "SmallMtu",
    "Split",
    "StreamsOnly",
    "clean_links",
    "spoil",
]

_LEAST_FLAP_US: Final = 100_000
_KIB: Final = 1_024
_PROBABILITIES: Final = ("loss", "corrupt", "duplicate", "replay", "reorder")
_UNITS: Final = {
    "latency_ms": ("latency_us", 1_000),
    "jitter_ms": ("jitter_us", 1_000),
    "kib_per_s": ("bytes_per_s", _KIB),
}


def _pairs(world: World, arguments: Arguments) -> list[tuple[str, str]]:
    """Return the directed pairs of machines that a fault is about, those that there are."""
    known = world.machines
    return [(a, b) for a, b in arguments["pairs"] if a in known and b in known and a != b]


def _between(here: Iterable[str], there: Iterable[str], *, both: bool = True) -> list[list[str]]:
    there = list(there)
    pairs = [[a, b] for a in here for b in there if a != b]
    return pairs + [[b, a] for a, b in pairs] if both else pairs


def _halves(random: Random, shape: Shape) -> tuple[list[str], list[str]]:
    shuffled = random.sample(shape.machines, len(shape.machines))
    middle = random.randint(1, max(1, len(shuffled) - 1))
    return shuffled[:middle], shuffled[middle:]


class _Cut(Lasting):
    """Nothing passes between some pairs of machines."""

    kind = "network"

    def strike(self, world: World, arguments: Arguments) -> None:
        for a, b in _pairs(world, arguments):
            world.network.cut([a], [b], one_way=True)

    def lift(self, world: World, arguments: Arguments) -> None:
        for a, b in _pairs(world, arguments):
            world.network.link(a, b).cut = False
            world.note("heal", a, b)
        world.network.flush()

    def draw(self, random: Random, shape: Shape) -> dict[str, Any]:
        pairs = self.pairs(random, shape)
        return {"pairs": pairs, "for_us": shape.duration_us(random)}

    @abstractmethod
    def pairs(self, random: Random, shape: Shape) -> list[list[str]]:
        """Draw which pairs of machines, each in one direction."""


class Split(_Cut):
    """Two halves that cannot reach each other."""

    name = "split"
    about = "the cluster falls into two halves that cannot reach each other"

    def pairs(self, random: Random, shape: Shape) -> list[list[str]]:
        """Draw the halves."""
        return _between(*_halves(random, shape))


class OneWay(_Cut):
    """One direction only."""

    name = "one_way"
    about = "one half hears the other, which hears nothing back"

    def pairs(self, random: Random, shape: Shape) -> list[list[str]]:
        """Draw the halves."""
        return _between(*_halves(random, shape), both=False)


class Isolate(_Cut):
    """One machine alone."""

    name = "isolate"
    about = "one machine can reach nobody"

    def pairs(self, random: Random, shape: Shape) -> list[list[str]]:
        """Draw the machine."""
        return _between([shape.one(random)], shape.machines)


class Overlap(_Cut):
    """Each sees a majority, and no two the same."""

    name = "overlap"
    about = "everybody reaches a majority, no two of them the same one"

    def pairs(self, random: Random, shape: Shape) -> list[list[str]]:
        """Cut each from the far side of a circle."""
        around = random.sample(shape.machines, len(shape.machines))
        count = len(around)
        # Everybody keeps those within reach on the circle: with itself just a majority.
        reach = (count + 2) // 4
        return [
            [around[a], around[b]]
            for a in range(count)
            for b in range(count)
            if min((a - b) % count, (b - a) % count) > reach
        ]


class Bridge(_Cut):
    """Two halves and one in between."""

    name = "bridge"
    about = "two halves that reach each other through one machine only"

    def pairs(self, random: Random, shape: Shape) -> list[list[str]]:
        """Draw the halves, and the machine that belongs to both."""
        left, right = _halves(random, shape)
        return _between(left[1:], right) if len(left) > 1 else _between(left, right[1:])


class Flap(_Cut):
    """A cut that comes and goes."""

    name = "flap"
    about = "a cut that comes and goes, many times"

    def pairs(self, random: Random, shape: Shape) -> list[list[str]]:
        """Draw the halves."""
        return _between(*_halves(random, shape))

    def draw(self, random: Random, shape: Shape) -> dict[str, Any]:
        """Draw the halves, and how often."""
        for_us = shape.duration_us(random)
        return {
            "pairs": self.pairs(random, shape),
            "for_us": for_us,
            "every_us": max(_LEAST_FLAP_US, for_us // random.randint(2, 12)),
        }

    def apply(self, world: World, arguments: Arguments) -> None:
        """Cut and heal by turns, and end healed."""
        every_us, for_us = int(arguments["every_us"]), int(arguments["for_us"])
        for number, at_us in enumerate(range(0, for_us, every_us)):
            turn = self.lift if number % 2 else self.strike
            later(world, at_us, turn, world, arguments)
        world.kernel.after(for_us, self.lift, world, arguments)


class Reset(Fault):
    """Streams that break."""

    name = "reset"
    kind = "network"
    about = "open streams between some machines break"

    def draw(self, random: Random, shape: Shape) -> dict[str, Any]:
        """Draw whose."""
        return {"pairs": _between(*_halves(random, shape))}

    def apply(self, world: World, arguments: Arguments) -> None:
        """Break them."""
        for a, b in _pairs(world, arguments):
            world.network.break_streams(a, b)


class _Links(Lasting):
    """Some links have something wrong with them for a while."""

    kind = "network"
    ranges: ClassVar[dict[str, tuple[float, float]]]

    def draw(self, random: Random, shape: Shape) -> dict[str, Any]:
        drawn = {name: self._between(random, *bounds) for name, bounds in self.ranges.items()}
        here, there = _halves(random, shape)
        everywhere = random.random() < 0.4
        pairs = _between(shape.machines, shape.machines, both=False)
        if not everywhere:
            pairs = _between(here, there, both=random.random() < 0.6)
        return {"pairs": pairs, "for_us": shape.duration_us(random), **drawn}

    def _between(self, random: Random, low: float, high: float) -> float:
        """Draw by orders of magnitude; whole numbers where the bounds are."""
        drawn = low * (high / low) ** random.random()
        return int(drawn) if isinstance(low, int) else round(drawn, 5)

    def strike(self, world: World, arguments: Arguments) -> None:
        for a, b in _pairs(world, arguments):
            self.spoil(world.network.link(a, b), arguments, world.kernel.now_us)
            world.note(self.name, a, b)

    def spoil(self, link: Link, arguments: Arguments, now_us: int) -> None:
        """Set what is wrong: by default each drawn attribute."""
        for name in self.ranges:
            setattr(link, name, arguments[name])

    def lift(self, world: World, arguments: Arguments) -> None:
        for a, b in _pairs(world, arguments):
            link = world.network.link(a, b)
            clean = _clean(world, a, b)
            for name in self.spoilt():
                setattr(link, name, clean[name])
            world.note(f"{self.name} over", a, b)
        world.network.flush()

    def spoilt(self) -> Iterable[str]:
        """Return the attributes to put back."""
        return self.ranges


class Loss(_Links):
    """Pieces that are lost."""

    name = "loss"
    about = "up to 30 % of all pieces are lost"
    ranges: ClassVar = {"loss": (0.005, 0.3)}


class Bursts(_Links):
    """Losses that come together."""

    name = "bursts"
    about = "losses come in bursts"
    ranges: ClassVar = {"burst": (0.01, 0.2), "burst_loss": (0.3, 0.95)}


class Corrupt(_Links):
    """Flipped bits."""

    name = "corrupt"
    about = "single bits are flipped on the way"
    ranges: ClassVar = {"corrupt": (0.001, 0.05)}


class Duplicate(_Links):
    """Pieces that come twice."""

    name = "duplicate"
    about = "pieces arrive twice"
    ranges: ClassVar = {"duplicate": (0.001, 0.1)}


class Replay(_Links):
    """Old pieces that come again."""

    name = "replay"
    about = "pieces from some time ago arrive again"
    ranges: ClassVar = {"replay": (0.001, 0.05)}


class Reorder(_Links):
    """Datagrams that overtake."""

    name = "reorder"
    about = "datagrams overtake each other, and streams get very uneven"
    ranges: ClassVar = {"reorder": (0.05, 0.9), "jitter_us": (10_000, 500_000)}


class Narrow(_Links):
    """Little bandwidth."""

    name = "narrow"
    about = "links are as narrow as a few kilobytes a second: queues overflow"
    ranges: ClassVar = {"bytes_per_s": (4_000, 1_000_000)}


class Slow(_Links):
    """A longer way."""

    name = "delay"
    about = "messages take up to seconds"
    ranges: ClassVar = {"latency_us": (100_000, 3_000_000)}


class Clog(_Links):
    """Nothing comes, and then all at once."""

    name = "clog"
    about = "what is sent arrives much later, all at once"
    ranges: ClassVar = {}

    def spoil(self, link: Link, arguments: Arguments, now_us: int) -> None:
        """Hold everything back until the end."""
        link.clogged_until_us = now_us + int(arguments["for_us"])

    def spoilt(self) -> Iterable[str]:
        """Return the attribute to put back."""
        return ("clogged_until_us",)


class DatagramsOnly(_Links):
    """A firewall that lets only UDP pass."""

    name = "datagrams_only"
    about = "datagrams pass, streams do not"
    ranges: ClassVar = {}

    def spoil(self, link: Link, arguments: Arguments, now_us: int) -> None:
        """Stop streams."""
        link.streams = False

    def spoilt(self) -> Iterable[str]:
        """Return the attribute to put back."""
        return ("streams",)


class StreamsOnly(_Links):
    """A firewall that lets only TCP pass."""

    name = "streams_only"
    about = "streams pass, datagrams do not"
    ranges: ClassVar = {}

    def spoil(self, link: Link, arguments: Arguments, now_us: int) -> None:
        """Stop datagrams."""
        link.datagrams = False

    def spoilt(self) -> Iterable[str]:
        """Return the attribute to put back."""
        return ("datagrams",)


class SmallMtu(_Links):
    """A path that drops longer datagrams."""

    name = "mtu"
    about = "datagrams over a few hundred bytes vanish"
    ranges: ClassVar = {"mtu_bytes": (100, 1_200)}


NETWORK: Final[tuple[Fault, ...]] = (
    Split(), OneWay(), Isolate(), Overlap(), Bridge(), Flap(), Reset(), Loss(), Bursts(),
    Corrupt(), Duplicate(), Replay(), Reorder(), Narrow(), Slow(), Clog(), DatagramsOnly(),
    StreamsOnly(), SmallMtu(),
)  # fmt: skip


def _clean(world: World, here: str, there: str) -> dict[str, Any]:
    """Return the attributes of a link that nothing is wrong with."""
    machines = world.machines
    latency_us = one_way_us(machines[here].region, machines[there].region)
    fresh = Link(world.kernel, "clean", latency_us)
    return {name: getattr(fresh, name) for name in Link.__slots__}


def clean_links(world: World) -> None:
    """Take away all that is wrong with any link."""
    for (here, there), link in world.network.links.items():
        for name, value in _clean(world, here, there).items():
            if name not in {"random", "free_at_us", "bursting"}:
                setattr(link, name, value)
        link.free_at_us = min(link.free_at_us, world.kernel.now_us)
    world.network.flush()


def spoil(link: Link, wrong: Mapping[str, float], now_us: int) -> None:
    """Let something be wrong with a link, in the words of a stage. Raises ``BadPlan``."""
    for name, value in wrong.items():
        if name in _PROBABILITIES:
            setattr(link, name, value)
        elif name in _UNITS:
            attribute, factor = _UNITS[name]
            setattr(link, attribute, int(value * factor))
        elif name == "clog_s":
            link.clogged_until_us = now_us + int(value * SECOND)
        else:
            raise BadPlan(f"nothing that may be wrong with a link is called {name}")
