"""The edge of admission: how much memory the process takes, measured now and then.

Problem: ``admission`` decides by the memory that the process takes and by the pace at which
work is completed, and may look at neither a file nor a clock.

Idea: a timer, ten times a second while anything is held or memory has a ceiling, else once a
second, reads what the kernel counts as resident and tells it with the time. While writes are
refused for memory, what the allocator keeps of freed memory is given back to the system, on
another thread, so that what is measured is what is held.

Invariants: a measurement costs some ten microseconds; where the system does not say how much
memory a process takes, there is no ceiling, and the log says so once.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
from collections.abc import Callable
from typing import Final

from crdtmem.admission import Admission
from crdtmem.wall import elapsed_us

__all__ = ["Pressure", "resident_bytes"]

_BUSY_S: Final = 0.1
_IDLE_S: Final = 1.0
_TRIM_US: Final = 1_000_000
_STATM: Final = "/proc/self/statm"
_log = logging.getLogger("crdtmem.pressure")


def resident_bytes() -> int | None:
    """Return the bytes of memory that this process takes, ``None`` where that is not told."""
    try:
        descriptor = os.open(_STATM, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        pages = os.read(descriptor, 256).split()[1]
    finally:
        os.close(descriptor)
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def _trimmer() -> Callable[[int], int] | None:
    """Return glibc's function that gives freed memory back, where there is one."""
    try:
        return ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):
        return None


class Pressure:
    """Tells an admission the time, and the memory of the process, until it is stopped.

    ``sweep`` is called each time: it finds clients that left without being noticed.
    """

    def __init__(self, admission: Admission, sweep: Callable[[], None]) -> None:
        self._admission = admission
        self._sweep = sweep
        self._timer: asyncio.TimerHandle | None = None
        self._trim = _trimmer()
        self._trimmed_us = 0
        if admission.bounds.memory_bytes and resident_bytes() is None:
            _log.warning("the memory of a process cannot be read here: there is no ceiling")

    def start(self) -> None:
        """Measure now, and from now on."""
        admission, now_us = self._admission, elapsed_us()
        self._sweep()
        was_full = admission.full
        admission.sample(now_us, resident_bytes() or 0)
        if admission.full is not was_full:
            said = "refused" if admission.full else "taken again"
            _log.warning("new writes are %s: %d MiB", said, admission.memory_bytes >> 20)
        loop = asyncio.get_running_loop()
        if admission.full and self._trim and now_us - self._trimmed_us > _TRIM_US:
            self._trimmed_us = now_us
            loop.run_in_executor(None, self._trim, 0)
        busy = admission.clients or admission.unread_bytes or admission.bounds.memory_bytes
        self._timer = loop.call_later(_BUSY_S if busy else _IDLE_S, self.start)

    def stop(self) -> None:
        """Measure no more. Idempotent."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
