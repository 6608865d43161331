"""Network coordinates: an estimate of the round trip between any two members (Vivaldi).

Problem: nobody measures the round trip to everybody, and the layer above wants to choose near
members among thousands.

Idea: each member holds a place in a space of eight dimensions and a height (its access link).
Every answered probe pulls or pushes it along the line to the other, the more, the surer the
other is of its own place and the less sure it is itself.

Invariants: all parts are finite and bounded; a place that is not is refused, its sender's
next ones are judged anew, and one's own place is never the worse for it. A coordinate
that is not a number once spread through whole pools of others.

Source: Dabek, Cox, Kaashoek, Morris 2004, with the constants that serf uses.
"""

from __future__ import annotations

from math import isfinite, sqrt
from typing import TYPE_CHECKING, Final

from gossip.errors import Malformed
from gossip.messages import Coordinate

if TYPE_CHECKING:
    from random import Random

__all__ = ["DIMENSIONS", "ORIGIN", "Place", "check", "distance_s"]

DIMENSIONS: Final = 8
_BOUND_S: Final = 60.0
"""No place is further out, in seconds; no round trip taken is longer."""
_ERROR_MOST: Final = 1.5
_HEIGHT_LEAST_S: Final = 1e-5
_ERROR_WEIGHT: Final = 0.25
_STEP: Final = 0.25
_NEAR_S: Final = 1e-6

ORIGIN: Final = Coordinate((0.0,) * DIMENSIONS, _HEIGHT_LEAST_S, _ERROR_MOST)
"""Where everybody starts, and knows nothing."""


def check(place: Coordinate) -> None:
    """Raise ``Malformed`` for a place that no member of this version can hold."""
    numbers = (*place.vector, place.height, place.error)
    if len(place.vector) != DIMENSIONS or not all(map(isfinite, numbers)):
        raise Malformed("a coordinate is not finite")
    inside = all(abs(part) <= _BOUND_S for part in place.vector)
    if not (inside and 0 <= place.height <= _BOUND_S and 0 <= place.error <= _ERROR_MOST):
        raise Malformed("a coordinate is out of bounds")


def distance_s(one: Coordinate, other: Coordinate) -> float:
    """Return the round trip to be expected between two places, in seconds."""
    return _between(one.vector, other.vector) + one.height + other.height


def _between(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    return sqrt(sum((a - b) ** 2 for a, b in zip(one, other, strict=True)))


class Place:
    """One's own place."""

    __slots__ = ("_chance", "value")

    def __init__(self, chance: Random) -> None:
        self._chance = chance
        self.value = ORIGIN

    def update(self, other: Coordinate, round_trip_us: int) -> None:
        """Learn from one round trip to a member at that place. Raises ``Malformed``."""
        check(other)
        trip_s = round_trip_us / 1e6
        if not 0 < trip_s <= _BOUND_S:
            raise Malformed("a round trip is out of bounds")
        mine = self.value
        expected_s = distance_s(mine, other)
        surprise = abs(expected_s - trip_s) / trip_s
        weight = mine.error / max(mine.error + other.error, _NEAR_S)
        error = mine.error + _ERROR_WEIGHT * weight * (surprise - mine.error)
        force_s = _STEP * weight * (trip_s - expected_s)
        direction, apart_s = self._direction(other)
        vector = tuple(
            max(-_BOUND_S, min(_BOUND_S, at + force_s * unit))
            for at, unit in zip(mine.vector, direction, strict=True)
        )
        height = mine.height
        if apart_s > _NEAR_S:
            height += (mine.height + other.height) * force_s / apart_s
        self.value = Coordinate(
            vector,
            max(_HEIGHT_LEAST_S, min(_BOUND_S, height)),
            max(0.0, min(_ERROR_MOST, error)),
        )

    def _direction(self, other: Coordinate) -> tuple[tuple[float, ...], float]:
        """Return the unit vector away from the other, drawn by chance where both are one."""
        apart_s = _between(self.value.vector, other.vector)
        if apart_s > _NEAR_S:
            pairs = zip(self.value.vector, other.vector, strict=True)
            return tuple((a - b) / apart_s for a, b in pairs), apart_s
        drawn = tuple(self._chance.uniform(-1, 1) for _ in range(DIMENSIONS))
        length = sqrt(sum(part * part for part in drawn)) or 1.0
        return tuple(part / length for part in drawn), 0.0
