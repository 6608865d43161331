"""One measurement in a process of its own: ``python -m tests.bench.worker TASK ARGUMENTS``.

A fresh process per measurement keeps one system's garbage, caches and imports out of the
next one's figure. Prints one JSON object.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from crdtmem.checkpointing import Checkpointer
from crdtmem.memory import Memory
from tests.bench import subject
from tests.bench.clocks import collections_watched, pin, timed
from tests.bench.peers import PEERS
from tests.bench.shapes import PER_TRANSACTION, SHAPES

Result = dict[str, Any]


def sizes(updates: list[bytes], operations: int) -> Result:
    """Bytes per operation of updates as sent, and with each compressed alone."""
    return {
        "bytes": sum(map(len, updates)) / operations,
        "zlib": sum(len(zlib.compress(update, 1)) for update in updates) / operations,
    }


def measure(system: str, shape_name: str, operations: int, directory: Path) -> Result:
    """Write, read and join one shape with one system; a tenth of it first, to warm up."""
    warm = directory / "warm"
    warm.mkdir()
    measure_once(system, shape_name, max(operations // 10, 4 * PER_TRANSACTION), warm)
    gc.collect()
    return measure_once(system, shape_name, operations, directory)


def measure_once(system: str, shape_name: str, operations: int, directory: Path) -> Result:
    """Write, read and join one shape with one system, in this process as it is."""
    shape = SHAPES[shape_name]
    transactions = shape.transactions(operations)
    operations = len(transactions) * PER_TRANSACTION
    keys = [key for items in transactions for key in items]
    if system == "crdtmem":

        async def run() -> Result:
            writing, reading = await subject.written(
                f"sqlite:///{directory}/local.db", shape, transactions
            )
            batches = await subject.captured(shape, transactions)
            joining = await subject.joined(f"sqlite:///{directory}/join.db", batches)
            return {
                "write": writing.per(operations),
                "read": reading.per(len(keys)),
                "join": joining.per(operations),
                "wire": sizes([subject.framed(batch) for batch in batches], operations),
            }

        return asyncio.run(run())
    make = PEERS[system]
    peer = make(shape)
    with timed() as writing:
        peer.write(transactions)
    with timed() as reading:
        peer.read(keys)
    updates = make(shape).write_captured(transactions)
    replica = make(shape)
    with timed() as joining:
        replica.join(updates)
    return {
        "write": writing.per(operations),
        "read": reading.per(len(keys)),
        "join": joining.per(operations),
        "wire": sizes(updates, operations),
    }


def small_keys(number: int, directory: Path) -> Result:
    """Bytes of memory that one small key takes, the key and its value included."""

    async def run() -> Result:
        async with await Memory.open(f"sqlite:///{directory}/memory.db") as memory:
            process = psutil.Process()
            await memory.space("warm").put("k", 1)
            gc.collect()
            before = process.memory_full_info().uss
            await fill(memory, number)
            gc.collect()
            return {"bytes": (process.memory_full_info().uss - before) / number}

    return asyncio.run(run())


async def fill(memory: Memory, number: int, *, value: str = "v", prefix: str = "k") -> None:
    """Write ``number`` small keys, in transactions of a hundred, without keeping them here."""
    starts = iter(range(0, number, PER_TRANSACTION))

    async def committer() -> None:
        for start in starts:
            async with memory.transaction() as transaction:
                keys = range(start, min(start + PER_TRANSACTION, number))
                items = {f"{prefix}{n}": f"{value}{n % 1000}" for n in keys}
                transaction.put_many(subject.SPACE, items)

    await asyncio.gather(*(committer() for _ in range(subject.COMMITTERS)))


async def documents(memory: Memory, number: int) -> None:
    """Write values that the collector has to look into, and read each back as a copy."""
    read = memory.reader(*subject.SPACE)
    for start in range(0, number, PER_TRANSACTION):
        keys = [f"document{n}" for n in range(start, start + PER_TRANSACTION)]
        async with memory.transaction() as transaction:
            transaction.put_many(subject.SPACE, {key: {"of": [key, {"at": 1}]} for key in keys})
        for key in keys:
            read(key)


def at_size(number: int, directory: Path) -> Result:
    """Cost per operation at that many keys, beside a bare dictionary."""
    shape = SHAPES["short"]
    fresh = [
        {f"k{n}": f"v{n % 1000}" for n in range(start, start + PER_TRANSACTION)}
        for start in range(0, number, PER_TRANSACTION)
    ]
    keys = [key for items in fresh for key in items]
    keys = keys[:: max(1, number // 100_000)]
    bare: dict[str, Any] = {}
    with timed() as bare_put:
        for items in fresh:
            for key, value in items.items():
                bare[key] = (0, value, None)
    with timed() as bare_get:
        for key in keys:
            bare.get(key)
    del bare

    async def run() -> Result:
        async with subject.subscribed(f"sqlite:///{directory}/local.db") as memory:
            putting = await subject.write(memory, shape, fresh)
            getting = subject.read(memory, keys)
        batches = await subject.captured(shape, fresh)
        joining = await subject.joined(f"sqlite:///{directory}/join.db", batches)
        return {
            "put": putting.per(number),
            "get": getting.per(len(keys)),
            "join": joining.per(number),
            "bare put": bare_put.per(number),
            "bare get": bare_get.per(len(keys)),
        }

    return asyncio.run(run())


def recover(number: int, directory: Path) -> Result:
    """Seconds until a store of that many keys is open again; and pauses while it is used."""
    url = f"sqlite:///{directory}/recover.db"

    async def reopened() -> float:
        began = time.perf_counter()
        memory = await Memory.open(url)
        taken_s = time.perf_counter() - began
        assert memory.reader(*subject.SPACE)(f"k{number - 1}") is not None
        await memory.close()
        return taken_s

    async def run() -> Result:
        async with await Memory.open(url) as memory:
            await fill(memory, number)
        result: Result = {"log": await reopened()}
        async with await Memory.open(url) as memory:
            checkpointer = Checkpointer(memory.runtime, log_bytes=1 << 60, sync_log_bytes=1 << 30)
            began = time.perf_counter()
            await memory.runtime.perform(checkpointer.checkpoint())
            result["checkpointing"] = time.perf_counter() - began
        result["checkpoint"] = await reopened()
        async with await Memory.open(url) as memory:
            await fill(memory, min(number, 100_000), value="warm")
            with collections_watched() as pauses:
                await fill(memory, min(number, 200_000), value="again")
                await fill(memory, min(number, 200_000), prefix="fresh")
                await documents(memory, min(number, 50_000))
            result["pauses"] = [[1e3 * pause.cpu_s, 1e3 * pause.wall_s] for pause in pauses]
        return result

    return asyncio.run(run())


TASKS: dict[str, Callable[..., Result]] = {
    "measure": measure,
    "small_keys": small_keys,
    "at_size": at_size,
    "recover": recover,
}


def main() -> None:
    """Carry out the task that the command line names."""
    core, where, task, *rest = sys.argv[1:]
    arguments = [int(item) if item.isdigit() else item for item in rest]
    pin(int(core))
    with tempfile.TemporaryDirectory(dir=where or None, prefix="crdtmem-bench-") as directory:
        print(json.dumps(TASKS[task](*arguments, Path(directory))))


if __name__ == "__main__":
    main()
