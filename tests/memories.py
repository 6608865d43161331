"""Memories for tests: each on a disk of its own, opened, crashed and made to fail."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from itertools import count
from typing import Any

from crdtmem.crdt import DATATYPES
from crdtmem.memory import Memory
from crdtmem.store import FaultPlan, MemoryStore
from tests.waiting import eventually

__all__ = [
    "REGISTER",
    "crash",
    "faults_of",
    "fresh_url",
    "opened",
    "peek",
    "store_of",
    "with_memory",
]

REGISTER = DATATYPES["register"].code
_names = count(1)


def fresh_url() -> str:
    """A disk of its own for each test."""
    return f"memory:test-memory-{next(_names)}"


async def opened(url: str, **more: Any) -> Memory:
    """Open a memory, and let it found its cluster before the test goes on."""
    memory = await Memory.open(url, tune_gc=False, **more)
    await eventually(lambda: memory.engine.replica.state.vector, "founding")
    return memory


def peek(memory: Memory, space: str, key: str, default: Any = None) -> Any:
    """Read a register now, without awaiting."""
    return memory.reader(space)(key, default)


def store_of(memory: Memory) -> MemoryStore:
    store = memory.runtime.store
    assert isinstance(store, MemoryStore)
    return store


def faults_of(memory: Memory) -> FaultPlan:
    return store_of(memory).faults


async def crash(memory: Memory) -> None:
    """End a memory as ``kill -9`` does: nothing is closed, what was not synced is gone."""
    store_of(memory).crash()
    await memory.close()


def with_memory(url: str, body: Callable[[Memory], Awaitable[None]], **more: Any) -> None:
    """Run a test's body on an open memory, and close it."""

    async def run() -> None:
        async with await opened(url, **more) as memory:
            async with asyncio.timeout(20):
                await body(memory)

    asyncio.run(run())
