"""One region's agents, in a process apart: writes and reads at a given pace, by the node's socket.

Problem: a load that waits for its answers slows down with the node and hides its backlog; one
that lives in the node's process would be counted as the node's work.

Idea: what is due follows the clock, not the answers, up to a bound on what is under way.
Each transaction writes registers of this driver alone, a run of a hundred, and counts its
writes in one counter that all regions share. What was acknowledged is remembered as one number
per key, so that the end can be compared exactly: every key must hold its last acknowledged
value everywhere, and the counter the number of all acknowledged writes.

Run by ``tests.bench.fleet``; prints one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Final

from crdtmem.client import Client, connect
from tests.waiting import every

__all__ = ["COUNTER", "PER_CALL", "SPACE", "Load", "key_of"]

SPACE: Final = ("fleet",)
"""Where everything is written."""

COUNTER: Final = "writes"
"""The counter that every transaction counts its writes in."""

PER_CALL: Final = 100
"""Registers per transaction, and per read."""

_UNDER_WAY: Final = 64
_TICK_S: Final = 0.005
_COUNTER_DATATYPE: Final = 6
_REGISTER: Final = 1


def key_of(driver: str, number: int) -> str:
    """Return the name of one of a driver's keys."""
    return f"{driver}:{number}"


@dataclass
class Load:
    """What one driver does, and what came of it."""

    client: Client
    driver: str
    keys: int
    writes_per_s: float
    reads_per_s: float
    written: int = 0
    read: int = 0
    missing: int = 0
    acknowledged: dict[int, int] = field(default_factory=dict)
    """By key, the highest value that was acknowledged."""
    write_ms: list[float] = field(default_factory=list)
    read_ms: list[float] = field(default_factory=list)
    _round: int = 0
    _chance: random.Random = field(default_factory=lambda: random.Random(7))

    async def write(self) -> None:
        """Commit one transaction: the next hundred keys, and the counter."""
        first, value = self._round * PER_CALL, self._round
        self._round += 1
        numbers = [number % self.keys for number in range(first, first + PER_CALL)]
        began = time.perf_counter()
        async with self.client.transaction() as transaction:
            transaction.put_many(SPACE, {key_of(self.driver, n): value for n in numbers})
            transaction.count_many(SPACE, {COUNTER: PER_CALL})
        self.write_ms.append((time.perf_counter() - began) * 1e3)
        self.written += PER_CALL
        for number in numbers:
            self.acknowledged[number] = max(value, self.acknowledged.get(number, -1))

    async def look(self) -> None:
        """Read a hundred keys that have been written."""
        numbers = self._chance.sample(range(self.keys), PER_CALL)
        began = time.perf_counter()
        found = await self.client.call(
            "get", (SPACE, [key_of(self.driver, number) for number in numbers], None, 0)
        )
        self.read_ms.append((time.perf_counter() - began) * 1e3)
        self.read += len(found)
        self.missing += sum(value is None for value in found)

    async def fill(self) -> None:
        """Write every key once, so that no read finds nothing."""
        for _ in range(0, self.keys, PER_CALL * 8):
            await asyncio.gather(*(self.write() for _ in range(8)))

    async def run(self, seconds: float) -> float:
        """Write and read at the pace for so long; return how long it took until all is answered."""
        began = time.perf_counter()
        async with asyncio.TaskGroup() as both:
            both.create_task(_paced(self.write, self.writes_per_s / PER_CALL, seconds))
            both.create_task(_paced(self.look, self.reads_per_s / PER_CALL, seconds))
        return time.perf_counter() - began

    def as_value(self, took_s: float) -> dict[str, Any]:
        """Return what is printed."""
        return {
            "driver": self.driver,
            "took_s": took_s,
            "written": self.written,
            "read": self.read,
            "missing": self.missing,
            "acknowledged": sorted(self.acknowledged.items()),
            "write_ms": sorted(self.write_ms),
            "read_ms": sorted(self.read_ms),
        }


async def _paced(
    call: Callable[[], Coroutine[Any, Any, None]], per_s: float, seconds: float
) -> None:
    """Begin calls as the clock says, at most ``_UNDER_WAY`` at once; return when all ended."""
    begun = 0
    running: set[asyncio.Task[None]] = set()
    async for elapsed_s in every(_TICK_S):
        for task in [task for task in running if task.done()]:
            running.remove(task)
            task.result()
        if elapsed_s >= seconds:
            break
        due = int(elapsed_s * per_s) - begun
        for _ in range(min(due, _UNDER_WAY - len(running))):
            begun += 1
            running.add(asyncio.create_task(call()))
    await asyncio.gather(*running)


async def _drive(given: argparse.Namespace) -> None:
    async with await connect(given.socket, timeout_ms=60_000) as client:
        load = Load(client, given.driver, given.keys, given.writes_per_s, given.reads_per_s)
        await load.fill()
        filled = load.written
        sys.stdout.write("filled\n")
        sys.stdout.flush()
        await asyncio.to_thread(sys.stdin.readline)
        took_s = await load.run(given.seconds)
        said = load.as_value(took_s)
        said["written_in_time"] = load.written - filled
        sys.stdout.write(json.dumps(said) + "\n")


def main() -> None:
    """Drive one node as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("socket")
    parser.add_argument("driver")
    parser.add_argument("--keys", type=int, required=True)
    parser.add_argument("--writes-per-s", type=float, required=True)
    parser.add_argument("--reads-per-s", type=float, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    asyncio.run(_drive(parser.parse_args()))


if __name__ == "__main__":
    main()
