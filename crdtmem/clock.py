"""A hybrid logical clock of two numbers: an order and a physical stamp.

Problem: readers want "the latest" and people want times, but machines' clocks
jump, drift and disagree, and a bad clock must never lose or reorder what was
known.

Idea: two numbers that never mix. The *order* is ``max(last + 1, physical)``
and advances on receipt, so it extends causality and stays near real time while
clocks are sane; once a clock was wrong it degrades into a Lamport clock. The
*physical stamp* is this machine's own time, made monotonic across restarts,
and never adopts remote time: a peer with a clock in the future cannot drag our
stamps along. Neither decides causality; dots do.

Invariants: orders issued by one replica strictly rise; an order is greater
than every order that was joined before it; physical stamps never step back.
Both survive a restart because the replica's last stamps are persisted with
every batch and handed to ``recover`` before the next tick.

Deadlines and pauses need a third thing: a time that never goes back. ``SteadyClock``
makes one of the wall clock: it follows it forward, and while it is behind, having been
set back, goes on at half speed until the wall clock has caught up, as NTP slews.

Source: Kulkarni, Demirbas et al., "Logical Physical Clocks" (2014), split in
two so that the physical part can be trusted for expiry and display.
"""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["HybridClock", "SteadyClock"]


class HybridClock:
    """Issues ``(order, physical_us)`` pairs; time is always an argument."""

    __slots__ = ("order", "physical_us")

    def __init__(self, order: int = 0, physical_us: int = 0) -> None:
        self.order = order
        self.physical_us = physical_us

    def tick(self, now_us: int) -> tuple[int, int]:
        """Return the order and physical stamp of a new local event at ``now_us``."""
        if now_us > self.physical_us:
            self.physical_us = now_us
        order = self.order + 1
        if self.physical_us > order:
            order = self.physical_us
        self.order = order
        return order, self.physical_us

    def receive(self, order: int) -> None:
        """Advance past a joined order; the physical stamp is not touched."""
        if order > self.order:
            self.order = order

    def recover(self, order: int, physical_us: int) -> None:
        """Continue after a restart: neither number may fall below what was issued."""
        self.receive(order)
        if physical_us > self.physical_us:
            self.physical_us = physical_us


class SteadyClock:
    """The wall clock, but never going back: waits then take at most twice as long.

    Without it, a clock set back by an hour would hold back for an hour whatever is done
    at a time: acknowledgements, comparisons, deadlines.
    """

    __slots__ = ("_last_us", "_since_us")

    def __init__(self) -> None:
        self._last_us = 0
        self._since_us = -1

    def read(self, wall_us: int, elapsed_us: Callable[[], int]) -> int:
        """Return the steady time.

        ``elapsed_us`` returns a time that only ever rises, whatever it counts from; it is
        asked for only while the wall clock is behind.
        """
        if wall_us >= self._last_us:
            self._last_us, self._since_us = wall_us, -1
            return wall_us
        passed_us = elapsed_us()
        if self._since_us < 0:
            self._since_us = passed_us
        half_us = (passed_us - self._since_us) // 2
        self._since_us += 2 * half_us
        self._last_us += half_us
        return self._last_us
