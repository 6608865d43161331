"""The wall clock, in the one place that reads it.

Everything else takes time as an argument, so that the simulator can pass its
own. Node processes read it here, in integer microseconds since the Unix epoch.
"""

from __future__ import annotations

import time

__all__ = ["now_us"]


def now_us() -> int:
    """Return the current wall-clock time in microseconds since 1970."""
    return time.time_ns() // 1_000
