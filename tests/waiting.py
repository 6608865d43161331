"""Waiting for a condition, the one place in the tests where time passes.

A test that sleeps is slow when the machine is fast and fails when it is slow.
These wait until something is so, look again every few milliseconds, and say
what they were waiting for when it never comes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

__all__ = ["eventually", "eventually_answered", "every", "wait_until"]

_T = TypeVar("_T")
_PAUSE_S = 0.005


def wait_until(condition: Callable[[], _T], what: str, *, timeout_s: float = 20.0) -> _T:
    """Return the first true result of ``condition``; ``AssertionError`` after ``timeout_s``."""
    deadline = time.monotonic() + timeout_s
    while not (result := condition()):
        assert time.monotonic() < deadline, f"after {timeout_s} s there was still no {what}"
        time.sleep(_PAUSE_S)
    return result


async def eventually(condition: Callable[[], _T], what: str, *, timeout_s: float = 20.0) -> _T:
    """Do what ``wait_until`` does, and let the event loop run meanwhile."""
    deadline = time.monotonic() + timeout_s
    while not (result := condition()):
        assert time.monotonic() < deadline, f"after {timeout_s} s there was still no {what}"
        await asyncio.sleep(_PAUSE_S)
    return result


async def eventually_answered(
    question: Callable[[], Awaitable[_T]], what: str, *, timeout_s: float = 20.0
) -> _T:
    """Do what ``eventually`` does, where asking takes an ``await`` itself."""
    deadline = time.monotonic() + timeout_s
    while not (result := await question()):
        assert time.monotonic() < deadline, f"after {timeout_s} s there was still no {what}"
        await asyncio.sleep(_PAUSE_S)
    return result


async def every(seconds: float) -> AsyncIterator[float]:
    """Yield the seconds gone by, again and again at that pace: for loads and samples, not tests."""
    began = time.monotonic()
    while True:
        yield time.monotonic() - began
        await asyncio.sleep(seconds)
