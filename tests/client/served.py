"""A memory in this process, served over either carrier, for the tests of the client."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

from crdtmem.asking import Handler
from crdtmem.memory import Memory
from tests.client.places import serve, service_of

__all__ = ["Served", "play", "served"]


class Served:
    """A memory that is served, and the URL where it is."""

    def __init__(self, memory: Memory, service: Any, url: str) -> None:
        self.memory = memory
        self.service = service
        self.url = url


@contextlib.asynccontextmanager
async def served(
    carrier: str,
    folder: Path,
    verbs: Callable[[Memory], dict[str, Handler]] | None = None,
    greeting: Callable[[dict[str, Any]], dict[str, Any]] = dict,
) -> AsyncIterator[Served]:
    async with await Memory.open("memory:", region="here", tune_gc=False) as memory:
        service = service_of(memory, verbs(memory) if verbs else None, greeting=greeting)
        async with serve(service, carrier, folder) as url:
            yield Served(memory, service, url)


def play(scenario: Callable[[], Awaitable[None]]) -> None:
    """Play a scenario; nothing is left behind that would be warned of."""

    async def run() -> None:
        async with asyncio.timeout(50):
            await scenario()

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        asyncio.run(run())
        gc.collect()
