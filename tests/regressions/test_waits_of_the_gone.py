"""Waits whose askers had gone kept their places, for as long as they were to have lasted.

A client that asked to wait for a day and left was still waited for: ten such connections
filled the room of those who wait, and nobody else could wait, or write more durably than
here, until the next day. Writes that waited for what never came filled the queue of those
that need not wait in the same way.
"""

from __future__ import annotations

import asyncio

import pytest

from crdtmem.causality import Context
from crdtmem.durability import DurabilityWaits
from crdtmem.errors import NotCovered, Overloaded
from crdtmem.handles import WriteOptions
from crdtmem.limits import Limits
from crdtmem.memory import Memory
from crdtmem.session import OpenTransaction

_NEVER = Context({1 << 40: 1})
_DAY_MS = 24 * 3_600_000


async def _give_up(*waits: asyncio.Task[object]) -> None:
    await asyncio.sleep(0)
    for wait in waits:
        assert not wait.done()
        wait.cancel()
    await asyncio.gather(*waits, return_exceptions=True)


def test_who_has_gone_leaves_its_place_among_those_who_wait() -> None:
    async def scene() -> None:
        limits = Limits(waiters=3)
        async with await Memory.open("memory:", limits=limits, tune_gc=False) as memory:
            waits: list[asyncio.Task[object]] = [
                asyncio.ensure_future(memory.wait_for(_NEVER, timeout_ms=_DAY_MS))
                for _ in range(limits.waiters)
            ]
            await asyncio.sleep(0)
            with pytest.raises(Overloaded):
                await memory.wait_for(_NEVER, timeout_ms=1)
            await _give_up(*waits)
            with pytest.raises(NotCovered):
                await memory.wait_for(_NEVER, timeout_ms=1)
            assert memory.engine.next_deadline_us() is None

    asyncio.run(scene())


class _Epoch:
    """Two regions, in which nothing has arrived."""

    def regions(self) -> set[str]:
        return {"eu", "us"}

    def regions_reached(self, _: object) -> set[str]:
        return set()


def test_who_waited_for_durability_and_has_gone_is_forgotten() -> None:
    async def scene() -> None:
        async with await Memory.open("memory:", tune_gc=False) as memory:
            waits = DurabilityWaits(_Epoch(), "eu")  # type: ignore[arg-type]
            memory.engine.durability = waits
            deadline_us = memory.runtime.now_us() + 1_000 * _DAY_MS
            wait: asyncio.Task[object] = asyncio.ensure_future(
                memory.durable(_NEVER, "all", deadline_us)
            )
            await asyncio.sleep(0)
            assert len(waits) == 1
            await _give_up(wait)
            assert len(waits) == 0

    asyncio.run(scene())


def test_writes_that_wait_leave_room_for_those_that_need_not() -> None:
    async def scene() -> None:
        limits = Limits(queue_transactions=8)
        async with await Memory.open("memory:", limits=limits, tune_gc=False) as memory:
            options = WriteOptions(after=_NEVER, timeout_ms=_DAY_MS)

            def begun() -> asyncio.Task[object]:
                opened: OpenTransaction = memory.transaction()
                opened.space("team").put("city", "Rome")
                return asyncio.ensure_future(memory.commit(opened.transaction, options))

            waits = [begun() for _ in range(limits.queue_transactions // 2)]
            await asyncio.sleep(0)
            with pytest.raises(Overloaded):
                await begun()
            assert not any(wait.done() for wait in waits)
            await memory.space("team").put("city", "Oslo")
            await _give_up(*waits)

    asyncio.run(scene())
