"""What an agent that restarts waits for its memory: from nothing to the first value read.

The node beside it kept everything warm, so that what remains is a connection, a greeting and
a read. Measured in a process that runs, over a fresh connection each time; and in processes
that are fresh themselves, from the end of their imports on: an event loop, the connection, the
greeting, the read. How long the imports took is told beside that.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import subprocess
import sys
import time
from typing import Final

from crdtmem.client import connect
from tests.bench.report import Row
from tests.capabilities import ROOT

__all__ = ["LIMIT_MS", "reconnect_rows"]

LIMIT_MS: Final = 50.0
"""What reconnecting to the first read may take."""

_SPACE: Final = ("reconnect",)
_KEY: Final = "key"
_CONNECTIONS_PER_PROCESS: Final = 8

_FRESH: Final = """
import json, sys, time
begun = time.perf_counter()
import asyncio
from crdtmem import connect
if not sys.argv[1].startswith("unix:"):
    import crdtmem.client_websocket  # Else the first connection imports it.
imported = time.perf_counter()

async def first_read():
    client = await connect(sys.argv[1])
    value = await client.space(sys.argv[2]).get(sys.argv[3])
    at = time.perf_counter()
    await client.close()
    return value, at

value, read = asyncio.run(first_read())
print(json.dumps({"value": value, "read_ms": (read - imported) * 1e3,
                  "imports_ms": (imported - begun) * 1e3}))
"""


def reconnect_rows(node_url: str, name: str, *, processes: int) -> list[Row]:
    """Return what coming back to a running node costs, over a URL of its; ``name`` names it."""
    warm_ms = asyncio.run(_in_this_process(node_url, _CONNECTIONS_PER_PROCESS * processes))
    read_ms, imports_ms = _in_fresh_processes(node_url, processes)
    return [
        _row(f"reconnect to first read, {name}", warm_ms, {}),
        _row(
            f"reconnect to first read, {name}, fresh process",
            read_ms,
            {"imports_ms": round(statistics.median(imports_ms), 1)},
        ),
    ]


def _row(name: str, taken_ms: list[float], more: dict[str, float]) -> Row:
    extra = {"best": round(min(taken_ms), 3), "worst": round(max(taken_ms), 3), **more}
    return Row(name, statistics.median(taken_ms), "ms", "the limit", LIMIT_MS, 1.0, extra)


async def _in_this_process(node_url: str, times: int) -> list[float]:
    async with await connect(node_url) as client:
        await client.space(*_SPACE).put(_KEY, "warm")
    taken_ms = []
    for _ in range(times):
        begun = time.perf_counter()
        async with await connect(node_url) as client:
            assert await client.space(*_SPACE).get(_KEY) == "warm"
            taken_ms.append((time.perf_counter() - begun) * 1e3)
    return taken_ms


def _in_fresh_processes(node_url: str, times: int) -> tuple[list[float], list[float]]:
    told = []
    for _ in range(times):
        output = subprocess.run(
            [sys.executable, "-c", _FRESH, node_url, *_SPACE, _KEY],
            check=True,
            capture_output=True,
            text=True,
            cwd=ROOT,
            timeout=60,
        ).stdout
        found = json.loads(output)
        assert found["value"] == "warm"
        told.append(found)
    return [one["read_ms"] for one in told], [one["imports_ms"] for one in told]
