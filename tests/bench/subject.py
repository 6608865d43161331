"""crdtmem as its users use it: the public ``Memory``, durable, subscribed to, all on.

Local updates come from 64 concurrent committers, whose transactions share commits; a
subscriber reads every batch; the digest is asked for at the end, so that its deferred work
is in the figure. Joins are of batches of one transaction each, and end when everything is
published, and so durable.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from itertools import count
from typing import Any

from crdtmem.batch import decode_batch
from crdtmem.causality import Context
from crdtmem.crdt import NESTED
from crdtmem.frames import encode_frame
from crdtmem.memory import BatchFeed, Memory
from crdtmem.messages import Batches
from tests.bench.clocks import Timing, timed
from tests.bench.shapes import Shape

__all__ = ["captured", "framed", "joined", "read", "written"]

COMMITTERS = 64
SPACE = ("bench",)
_names = count(1)

Transactions = list[dict[str, Any]]


async def _consume(subscription: BatchFeed) -> None:
    while True:
        await subscription.next()


@contextlib.asynccontextmanager
async def subscribed(url: str) -> Any:
    """Open a memory with a subscriber that keeps up."""
    async with await Memory.open(url, region="eu-west") as memory:
        consumer = asyncio.create_task(_consume(memory.subscribe()))
        await memory.space("warm").put("k", 1)
        yield memory
        consumer.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await consumer


async def _commit_one(memory: Memory, shape: Shape, items: dict[str, Any]) -> None:
    async with memory.transaction() as transaction:
        if shape.counts:
            transaction.count_many(SPACE, items)
        else:
            transaction.put_many(SPACE, items)


async def write(memory: Memory, shape: Shape, transactions: Transactions) -> Timing:
    """Commit all transactions from concurrent committers; durable when it returns."""
    queue: Iterator[dict[str, Any]] = iter(transactions)

    async def committer() -> None:
        for items in queue:
            await _commit_one(memory, shape, items)

    with timed() as timing:
        await asyncio.gather(*(committer() for _ in range(COMMITTERS)))
        memory.engine.replica.state.digest()
    return timing


async def written(url: str, shape: Shape, transactions: Transactions) -> tuple[Timing, Timing]:
    """Write into a new store, then read everything; returns both timings."""
    async with subscribed(url) as memory:
        writing = await write(memory, shape, transactions)
        reading = read(memory, [key for items in transactions for key in items])
    return writing, reading


def read(memory: Memory, keys: list[str]) -> Timing:
    """Read every key now, without awaiting."""
    get = memory.reader(*SPACE)
    with timed() as timing:
        for key in keys:
            get(key)
    return timing


async def captured(shape: Shape, transactions: Transactions) -> list[bytes]:
    """Return one batch per transaction, as another replica would be sent them."""
    async with await Memory.open(f"memory:bench-{next(_names)}", region="us-east") as memory:
        await memory.space("warm").put("k", 1)
        subscription = memory.subscribe(len(transactions) + 1)
        for items in transactions:
            await _commit_one(memory, shape, items)
        batches = [batch.data for batch in subscription.pending()]
        first = memory.engine.replica.state.vector[memory.replica_id]
        assert len(batches) == len(transactions), (len(batches), first)
        return batches


async def joined(url: str, batches: list[bytes]) -> Timing:
    """Join a replica's batches into a new store; all durable and published when it returns."""
    last = decode_batch(batches[-1], known_fields=NESTED).header
    async with subscribed(url) as memory:
        replica, runtime = memory.engine.replica, memory.runtime
        # The founding and warming batches of the other replica are not part of the measure.
        first = decode_batch(batches[0], known_fields=NESTED).header
        replica.state.vector[first.replica] = first.first - 1
        replica.tips[first.replica] = (first.first - 1, first.previous_hash)
        with timed() as timing:
            for index, data in enumerate(batches):
                _, effects = replica.offer(decode_batch(data, known_fields=NESTED))
                runtime.apply(effects)
                if index % 16 == 15:
                    await asyncio.sleep(0)
            await memory.wait_for(Context({last.replica: last.last}), timeout_ms=120_000)
            replica.state.digest()
    return timing


def framed(batch: bytes) -> bytes:
    """Return a batch as it goes over a stream, frame and all."""
    return encode_frame(Batches((batch,)))
