"""Flap damping: a member that keeps dying and returning is given no duties for a while.

Problem: every election or request that involves a member which comes and goes costs all
others a change, again and again.

Idea: each death adds 1 to a penalty that halves every ``flap_half_life_us``. From
``flap_limit`` on the member is *damped*; below half of the limit it no longer is. A damped
member is listed, probed and told like any other: damping is never a reason to call it dead.

Invariant: between two deaths the penalty only falls.

Source: the route flap damping of RFC 2439, with its two thresholds.
"""

from __future__ import annotations

from typing import Final

__all__ = ["Damping"]

_LONGEST: Final = 64
"""Half-lives after which a penalty is nothing."""
_QUICK: Final = 0.5


class Damping:
    """One member's penalty."""

    __slots__ = ("_damped", "_half_life_us", "_limit", "_penalty", "_since_us")

    def __init__(self, half_life_us: int, limit: int) -> None:
        self._half_life_us = half_life_us
        self._limit = limit
        self._penalty = 0.0
        self._since_us = 0
        self._damped = False

    def penalty(self, now_us: int) -> float:
        """Return what is left of the penalty now."""
        if not self._penalty:
            return 0.0
        halvings = max(0, now_us - self._since_us) / self._half_life_us
        return 0.0 if halvings > _LONGEST else self._penalty * 0.5**halvings

    def charge(self, now_us: int) -> None:
        """Count a death."""
        # Bounded, so that even a long storm is over two half-lives after its end.
        self._penalty = min(2.0 * self._limit, self.penalty(now_us) + 1)
        self._since_us = now_us
        # Deaths in quick succession count as so many, though each halves the others a little.
        self._damped = self._damped or self._penalty >= self._limit - _QUICK

    def damped(self, now_us: int) -> bool:
        """Whether the member should be given no duties now."""
        if self._damped and self.penalty(now_us) < self._limit / 2:
            self._damped = False
        return self._damped
