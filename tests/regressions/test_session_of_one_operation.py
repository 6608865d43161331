"""A session that was given an operation id lost all of its writes but the first.

Each was written under that id, so every one after the first was taken for a repetition of
it: answered, and not done.
"""

from __future__ import annotations

import asyncio

import pytest

from crdtmem.errors import InvalidValue
from crdtmem.memory import Memory


def test_an_operation_id_belongs_to_a_transaction() -> None:
    async def scene() -> None:
        async with await Memory.open("memory:", tune_gc=False) as memory:
            with pytest.raises(InvalidValue, match="operation id") as refused:
                memory.session(operation_id=b"job-1")
            assert "transaction" in refused.value.hint
            session = memory.session(author="ada")
            async with session.transaction(operation_id=b"job-1") as opened:
                opened.space("team").counter("jobs").increment()
            await session.space("team").counter("jobs").increment()
            assert await session.space("team").counter("jobs").get() == 2

    asyncio.run(scene())
