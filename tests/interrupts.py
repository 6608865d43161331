"""Children that can be interrupted, wherever the tests run.

Where the tests themselves run in the background of a shell, an ignored interrupt is inherited
by every process that they start, and an interrupt sent to one of those does nothing.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["interruptible"]


@contextmanager
def interruptible() -> Iterator[None]:
    """Let processes that are started inside the block end by an interrupt, as in a terminal."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
