"""Deadlines are met by a node that is never idle.

Harm: after every turn the timer was cancelled and set anew, and on asyncio a timer that is due
runs behind what is ready already. Where each turn had something ready, an overdue timer was put
off for ever: waiters were not refused, silent peers not given up, removals not collected.
"""

from __future__ import annotations

import asyncio

from crdtmem.errors import NotCovered
from tests.memories import fresh_url, opened

TURNS = 5_000


def test_a_deadline_is_met_though_every_turn_has_work() -> None:
    async def run() -> None:
        memory = await opened(fresh_url())
        runtime, engine = memory.runtime, memory.engine
        ticket = runtime.ticket()
        now_us = runtime.now_us()
        runtime.apply(engine.wait(ticket, {7: 1}, now_us, now_us + 1_000))
        turns = 0
        # A busy node: in every turn of the loop something came in, and was carried out.
        while not ticket.done():
            turns += 1
            assert turns < TURNS or runtime.now_us() < now_us + 2_000_000, "it is never refused"
            runtime.apply([])
            await asyncio.sleep(0)
        assert isinstance(ticket.exception(), NotCovered)
        await memory.close()

    asyncio.run(run())
