"""How calls of a client end, each of which once went wrong."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

from crdtmem.client import connect
from crdtmem.errors import Closed
from crdtmem.memory import Memory
from crdtmem.synchronous import SyncMemory
from tests.client.places import serve, service_of
from tests.waiting import eventually, wait_until


def test_closing_an_answer_does_not_cancel_its_reader(tmp_path: Path) -> None:
    """A reader was told ``CancelledError``, and its whole task ended, though nobody cancelled it.

    Harm: closing a feed cancelled the future that its reader waited for.
    """

    async def run() -> None:
        async with await Memory.open("memory:", tune_gc=False) as memory:
            service = service_of(memory)
            async with serve(service, "unix", tmp_path) as url, await connect(url) as client:
                events = await client.events("subscribe", (None, 10, None))
                await anext(events)
                reading = asyncio.ensure_future(anext(events))
                await asyncio.wait({reading}, timeout=0)
                await events.close()
                with pytest.raises(Closed):
                    await reading

    asyncio.run(run())


def test_what_is_closed_before_it_was_sent_does_not_go_on_at_the_node(tmp_path: Path) -> None:
    """The cancel overtook its call, found nothing to cancel, and the node then told on for ever.

    Harm: a request leaves at the end of a turn of the event loop, a cancel left at once.
    """

    async def run() -> None:
        async with await Memory.open("memory:", tune_gc=False) as memory:
            service = service_of(memory)
            async with serve(service, "unix", tmp_path) as url, await connect(url) as client:
                events = await client.events("subscribe", (None, 10, None))
                await events.close()
                await client.joined()
                (connection,) = service.connections
                await eventually(lambda: not connection._tasks, "an end of what was closed")

    asyncio.run(run())


def test_a_call_that_pauses_ends_when_its_memory_is_closed() -> None:
    """A thread waited for ever for a call whose event loop had been stopped under it.

    Harm: closing the synchronous face stopped the loop, whatever still ran on it.
    """
    memory = SyncMemory.open("memory:", tune_gc=False)
    raised: list[BaseException] = []

    def call() -> None:
        try:
            memory._loop.run(asyncio.Event().wait)
        except Closed as error:
            raised.append(error)

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    wait_until(lambda: asyncio.all_tasks(memory._loop._loop), "the call")
    memory.close()
    thread.join(20)
    assert not thread.is_alive()
    assert raised
