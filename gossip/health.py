"""Local health: how far a member may trust its own judgement (Lifeguard).

Problem: a member whose own loop lags or whose own link loses packets accuses everybody else.

Idea: a score from 0 (well) to ``Config.health_maximum``. It rises with every sign that the
fault is one's own: a failed probe in which the helpers' negative acknowledgements are missing
too, an accusation that had to be refuted, a timer that came late. It falls with every probe
that is answered. Interval and timeout of probes are multiplied by score + 1.

Invariant: 0 ≤ score ≤ maximum.

Source: Lifeguard, section IV-A; memberlist scales the interval only.
"""

from __future__ import annotations

__all__ = ["Health"]


class Health:
    """One member's opinion of itself."""

    __slots__ = ("_maximum", "score")

    def __init__(self, maximum: int) -> None:
        self._maximum = maximum
        self.score = 0

    def worse(self, by: int = 1) -> None:
        """Count a sign that something is wrong here."""
        self.score = min(self._maximum, self.score + by)

    def better(self) -> None:
        """Count a sign that all is well here."""
        self.score = max(0, self.score - 1)

    def scaled(self, duration_us: int) -> int:
        """Return a duration as long as this health asks for."""
        return duration_us * (self.score + 1)
