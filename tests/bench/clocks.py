"""Wall time and processor time of the same stretch of work, and a processor of one's own.

On a machine that others use too, wall time says what a user would have waited and processor
time what the work itself takes; a figure in which the two part ways was disturbed.
"""

from __future__ import annotations

import contextlib
import gc
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

__all__ = ["Timing", "collections_watched", "pin", "timed"]


@dataclass
class Timing:
    """Seconds of wall time, and of processor time of all threads of this process."""

    wall_s: float = 0.0
    cpu_s: float = 0.0

    def per(self, operations: int) -> dict[str, float]:
        """Return microseconds per operation."""
        return {"wall": self.wall_s / operations * 1e6, "cpu": self.cpu_s / operations * 1e6}


@contextlib.contextmanager
def timed() -> Iterator[Timing]:
    """Measure what happens inside the block."""
    timing = Timing()
    wall, cpu = time.perf_counter(), time.process_time()
    yield timing
    timing.cpu_s = time.process_time() - cpu
    timing.wall_s = time.perf_counter() - wall


def pin(core: int) -> None:
    """Keep this process on one processor, where the system lets us choose."""
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[core % len(cores)]})


@contextlib.contextmanager
def collections_watched() -> Iterator[list[Timing]]:
    """Collect the length of every garbage collection inside the block.

    A collection never waits for anything, so its processor time is its pause; where
    wall time is longer, somebody else had the processor.
    """
    pauses: list[Timing] = []
    began = 0.0, 0.0

    def watch(phase: str, _info: dict[str, Any]) -> None:
        nonlocal began
        now = time.perf_counter(), time.thread_time()
        if phase == "start":
            began = now
        else:
            pauses.append(Timing(now[0] - began[0], now[1] - began[1]))

    gc.callbacks.append(watch)
    try:
        yield pauses
    finally:
        gc.callbacks.remove(watch)
