"""The clocks of simulated machines: wrong from the start, and getting worse.

Problem: a node sees only its own wall clock, which may be seconds off, run fast or
slow, and be set forward or back at any moment.

Idea: a node's clock is a straight line over true time, *offset plus drift*, whose
offset a fault may change abruptly. Timers count elapsed time, as machines' timers do,
so that a jump of the wall clock neither fires nor delays them.

Invariants: a reading is a whole number of microseconds, never before 1970; reading a
clock changes nothing.
"""

from __future__ import annotations

from typing import Final

from simulations.kernel import Kernel

__all__ = ["Clock"]

_MILLION: Final = 1_000_000


class Clock:
    """One machine's wall clock: ``offset_us`` ahead of true time, drifting by ``drift_ppm``."""

    __slots__ = ("_kernel", "_since_us", "changes", "drift_ppm", "offset_us")

    def __init__(self, kernel: Kernel, offset_us: int = 0, drift_ppm: int = 0) -> None:
        self._kernel = kernel
        self._since_us = kernel.now_us
        self.offset_us = offset_us
        self.drift_ppm = drift_ppm
        # How often it was tampered with: deadlines are not to be trusted after that.
        self.changes = 0

    def now_us(self) -> int:
        """Return what the clock shows, in microseconds since 1970."""
        now_us = self._kernel.now_us
        shown_us = now_us + self.offset_us
        if self.drift_ppm:
            shown_us += (now_us - self._since_us) * self.drift_ppm // _MILLION
        return max(0, shown_us)

    def jump(self, by_us: int) -> None:
        """Set the clock forward, or back."""
        self.offset_us += by_us
        self.changes += 1

    def drift(self, parts_per_million: int) -> None:
        """Let the clock run fast or slow from now on; what it shows now stays."""
        self.offset_us = self.now_us() - self._kernel.now_us
        self._since_us = self._kernel.now_us
        self.drift_ppm = parts_per_million
        self.changes += 1

    def true_delay_us(self, until_us: int) -> int:
        """Return how much true time passes until the clock shows ``until_us``; 0 if it does."""
        left_us = until_us - self.now_us()
        if left_us <= 0:
            return 0
        return left_us * _MILLION // (_MILLION + self.drift_ppm) + 1 if self.drift_ppm else left_us
