"""One memory behind several faces, so that one scenario can be played through each.

``embedded`` is the memory itself; ``socket`` and ``websocket`` are the client over either
carrier, ``http`` and ``http_msgpack`` plain requests, all driven on this thread;
``sync_embedded`` and ``sync_client`` are the synchronous face over the first two.
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
from tests.node.processes import NodeProcess
from tests.server.http_memory import HttpMemory

__all__ = ["FACES", "open_face"]

FACES = (
    "embedded",
    "socket",
    "websocket",
    "http",
    "http_msgpack",
    "sync_embedded",
    "sync_client",
)


class _Here:
    """Drives coroutines on this thread's runner, with the interface of the shell's loop."""

    def __init__(self, runner: asyncio.Runner) -> None:
        self._runner = runner

    def run(self, call: Callable[[], Any]) -> Any:
        async def carry_out() -> Any:
            result = call()
            return await result if inspect.isawaitable(result) else result

        return self._runner.run(carry_out())


async def _open(face: str, node: NodeProcess) -> Any:
    base = node.ready["http"]
    if face == "embedded":
        return await Memory.open("memory:", region="here", tune_gc=False)
    if face.startswith("http"):
        return await HttpMemory.connect(base, msgpack=face == "http_msgpack")
    return await connect(node.url if face == "socket" else base)


@contextmanager
def open_face(face: str, node: NodeProcess) -> Iterator[Any]:
    """Yield a memory behind the named face; all but the embedded ones are those of ``node``."""
    if face == "sync_embedded":
        with SyncMemory.open("memory:", region="here", tune_gc=False) as memory:
            yield memory
    elif face == "sync_client":
        with SyncMemory.connect(node.url) as memory:
            yield memory
    else:
        with asyncio.Runner() as runner:
            inner: Any = runner.run(_open(face, node))
            try:
                yield Shell(_Here(runner), inner)  # type: ignore[arg-type]
            finally:
                runner.run(inner.close())
