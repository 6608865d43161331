"""The machine's clocks, in the one place that reads them.

Everything else takes time as an argument, so that the simulator can pass its
own. Node processes read it here, in integer microseconds since the Unix epoch.
"""

from __future__ import annotations

import time

__all__ = ["elapsed_us", "now_us"]


def now_us() -> int:
    """Return the current wall-clock time in microseconds since 1970."""
    return time.time_ns() // 1_000


def elapsed_us() -> int:
    """Return the microseconds since some moment: unlike ``now_us``, it never goes back."""
    return time.monotonic_ns() // 1_000
