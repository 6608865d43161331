"""How sure a rate is that was counted: the exact interval of Poisson (Garwood 1936)."""

from __future__ import annotations

from collections.abc import Callable
from math import exp, lgamma, log

__all__ = ["poisson_interval"]


def poisson_interval(
    count: int, exposure: float, *, confidence: float = 0.95
) -> tuple[float, float]:
    """Return within what the rate lies of which ``count`` events were seen in ``exposure``."""
    tail = (1 - confidence) / 2
    high = _solve(lambda mean: _at_most(count, mean) - tail, count)
    low = _solve(lambda mean: _at_most(count - 1, mean) - (1 - tail), count) if count else 0.0
    return low / exposure, high / exposure


def _at_most(count: int, mean: float) -> float:
    """Return how likely at most ``count`` events are where ``mean`` are expected."""
    return sum(exp(k * log(mean) - mean - lgamma(k + 1)) for k in range(count + 1))


def _solve(falling: Callable[[float], float], count: int) -> float:
    low, high = 1e-9, 10.0 + 4.0 * count
    for _ in range(100):
        middle = (low + high) / 2
        if falling(middle) > 0:
            low = middle
        else:
            high = middle
    return low
