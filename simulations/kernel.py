"""The kernel: one heap, one seed, virtual time.

Problem: a failure that cannot be repeated cannot be mended; event loops with a
patched clock still take their order from the interpreter and the machine.

Idea: everything that happens is an event ``(time, sequence, function, arguments)`` on
one heap. Time jumps from one event to the next, in integer microseconds; events of
one microsecond happen in the order in which they were asked for. Chance comes from
*streams*: each user draws from a generator of its own, seeded by the world's seed and
the user's name, so that taking one fault out of a plan leaves all other draws alone,
which is what makes shrinking work.

A world in which things happen for ever without time passing would never end; one in which
far too much happens ends too late for anybody to wait. ``most_events`` bounds both, and
says so as a failure to make progress, with the seed that repeats it.

Invariants: no wall clock, no asyncio, no thread, no chance but the seed; the same plan
gives the same events in the same order in any process, under any PYTHONHASHSEED.

Source: FoundationDB's Flow simulator and TigerBeetle's VOPR; discrete event
simulation is older than both (GPSS, Gordon 1961).
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from hashlib import blake2b
from random import Random
from typing import Any, Final

from simulations.errors import LivenessViolation

__all__ = ["EPOCH_US", "Event", "Kernel"]

EPOCH_US: Final = 1_700_000_000_000_000
"""When every simulated world begins, in microseconds since 1970."""

_UNBOUNDED: Final = 1 << 62


class Event:
    """Something that will happen, unless it is cancelled."""

    __slots__ = ("arguments", "cancelled", "function")

    def __init__(self, function: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        self.function = function
        self.arguments = arguments
        self.cancelled = False

    def cancel(self) -> None:
        """Let it not happen. Harmless afterwards."""
        self.cancelled = True


class Kernel:
    """The only source of time, order and chance in a simulated world."""

    __slots__ = ("_heap", "_sequence", "events", "most_events", "now_us", "seed")

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.now_us = EPOCH_US
        self.events = 0
        # Scenarios may have as many as they like; runs of plans are bounded: see ``runner``.
        self.most_events = _UNBOUNDED
        self._sequence = 0
        self._heap: list[tuple[int, int, Event]] = []

    @property
    def elapsed_us(self) -> int:
        """How long the world has existed."""
        return self.now_us - EPOCH_US

    def random(self, name: str) -> Random:
        """Return the generator of one user of chance; the same for the same seed and name."""
        digest = blake2b(f"{self.seed}/{name}".encode(), digest_size=8).digest()
        return Random(int.from_bytes(digest, "big"))

    def after(self, delay_us: int, function: Callable[..., None], *arguments: Any) -> Event:
        """Let a function be called ``delay_us`` from now; 0 is after what is due already."""
        event = Event(function, arguments)
        self._sequence += 1
        due_us = self.now_us + delay_us if delay_us > 0 else self.now_us
        heapq.heappush(self._heap, (due_us, self._sequence, event))
        return event

    def at(self, time_us: int, function: Callable[..., None], *arguments: Any) -> Event:
        """Let a function be called at a time, now at the earliest."""
        event = Event(function, arguments)
        self._sequence += 1
        due_us = max(self.now_us, time_us)
        heapq.heappush(self._heap, (due_us, self._sequence, event))
        return event

    def run(self, until_us: int) -> None:
        """Let everything happen that is due until a time, included; the clock then stands there.

        Raises ``LivenessViolation`` when more has happened than ``most_events``.
        """
        heap, pop, most_events = self._heap, heapq.heappop, self.most_events
        while heap and heap[0][0] <= until_us:
            self.now_us, _, event = pop(heap)
            if not event.cancelled:
                self.events += 1
                if self.events > most_events:
                    raise self._endless(event)
                event.function(*event.arguments)
        self.now_us = max(self.now_us, until_us)

    def _endless(self, event: Event) -> LivenessViolation:
        name = getattr(event.function, "__qualname__", repr(event.function))
        return LivenessViolation(
            "liveness",
            f"at {self.elapsed_us / 1e6:.6f} s more than {self.most_events} events have happened, "
            f"{name} was next: does something ask for itself again and again? "
            "Replay the seed, and look at what the last events have in common",
        )

    def step(self) -> bool:
        """Let the next thing happen; ``False`` if nothing is ever going to."""
        while self._heap:
            self.now_us, _, event = heapq.heappop(self._heap)
            if not event.cancelled:
                self.events += 1
                event.function(*event.arguments)
                return True
        return False
