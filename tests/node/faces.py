"""One memory behind four faces, so that one scenario can be played through each.

``embedded`` and ``client`` are the asynchronous memories, driven on this thread;
``sync_embedded`` and ``sync_client`` are the synchronous face over the same two.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from crdtmem.client import connect
from crdtmem.memory import Memory
from crdtmem.synchronous import Shell, SyncMemory

__all__ = ["FACES", "open_face"]

FACES = ("embedded", "client", "sync_embedded", "sync_client")


class _Here:
    """Drives coroutines on this thread's runner, with the interface of the shell's loop."""

    def __init__(self, runner: asyncio.Runner) -> None:
        self._runner = runner

    def run(self, call: Callable[[], Any]) -> Any:
        async def carry_out() -> Any:
            result = call()
            return await result if inspect.isawaitable(result) else result

        return self._runner.run(carry_out())


@contextmanager
def open_face(face: str, node_url: str) -> Iterator[Any]:
    """Yield a memory behind the named face; the client ones are connected to ``node_url``."""
    if face == "sync_embedded":
        with SyncMemory.open("memory:", region="here", tune_gc=False) as memory:
            yield memory
    elif face == "sync_client":
        with SyncMemory.connect(node_url) as memory:
            yield memory
    else:
        with asyncio.Runner() as runner:
            if face == "embedded":
                inner: Any = runner.run(Memory.open("memory:", region="here", tune_gc=False))
            else:
                inner = runner.run(connect(node_url))
            try:
                yield Shell(_Here(runner), inner)  # type: ignore[arg-type]
            finally:
                runner.run(inner.close())
