"""A write whose first answer was lost is in doubt, whatever a second node says to it.

Harm: a commit got through to a node that was then lost; the next node was behind, and the
caller was told ``NotCovered``, which promises that nothing was changed. It had been counted.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from crdtmem.client import connect
from crdtmem.errors import NotCovered, Unreachable
from tests.client.places import Gate, pair_of_nodes
from tests.waiting import eventually_answered

SPACE = ("doubt",)


def test_a_refused_repetition_is_no_promise_that_nothing_was_done(tmp_path: Path) -> None:
    async def run() -> None:
        async with pair_of_nodes(tmp_path) as pair, await connect(pair.a.url) as watcher:
            gate = Gate(tmp_path / "gate.sock", pair.a.socket)
            await gate.open()
            pair.part()
            async with await connect(gate.url, pair.b.url, timeout_ms=600) as client:
                counter = client.session(timeout_ms=500).space(*SPACE).counter("n")
                await counter.increment()
                gate.swallowing = True
                counting = asyncio.ensure_future(counter.increment())

                async def counted() -> bool:
                    return bool(await watcher.space(*SPACE).counter("n").get() == 2)

                await eventually_answered(counted, "the second increment")
                await gate.shut()
                with pytest.raises(Unreachable) as caught:
                    await counting
                assert caught.value.details["operation_id"]
                assert caught.value.details["refusal"] == NotCovered.code
                # What was not sent anywhere is refused for certain.
                with pytest.raises(NotCovered):
                    await counter.increment()
                assert await counted()

    asyncio.run(run())
