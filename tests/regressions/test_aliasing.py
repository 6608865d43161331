"""What a subscriber is handed shares nothing with the state.

Harm: a consumer that tidied up a value in the batch that it was given changed what every reader
of this replica saw, with no delta, so no other replica ever saw the same.
"""

from __future__ import annotations

from typing import Any

from crdtmem.memory import Memory
from crdtmem.transaction import Operation, Options
from tests.memories import REGISTER, fresh_url, peek, with_memory

VALUE: dict[str, Any] = {"plan": {"steps": [{"do": 1}]}}


def test_a_subscribers_batch_is_its_own() -> None:
    async def body(memory: Memory) -> None:
        mine, theirs = memory.subscribe(), memory.subscribe()
        tags = Options(metadata={"s": ({"subject": "ann"},)})
        async with memory.transaction() as opened:
            opened.transaction.add(Operation(("s",), REGISTER, "k", "set", (VALUE,), tags))
        batch = await mine.next()
        (segment,) = batch.segments
        (value,) = segment.values
        value["plan"]["steps"][0]["do"] = "harm"
        del value["plan"]
        segment.stamp.metadata["s"][0]["subject"] = "eve"
        segment.stamp.metadata["a"] = "eve"
        batch.header.dependencies[7] = 7
        reading = await memory.read(("s",), REGISTER, "k")
        assert reading.value == VALUE == peek(memory, "s", "k")
        assert reading.siblings[0].metadata == {"s": [{"subject": "ann"}]}
        assert (await memory.space("s").get("k")) == VALUE
        other = await theirs.next()
        assert other.segments[0].values == ({"plan": {"steps": ({"do": 1},)}},)
        assert other.header.dependencies == {}
        assert (other.data, other.hash) == (batch.data, batch.hash)
        assert len(other.transactions) == 1

    with_memory(fresh_url(), body)


def test_pending_batches_are_too() -> None:
    async def body(memory: Memory) -> None:
        feed = memory.subscribe(2)
        for number in range(3):
            await memory.space("s").put("k", {"n": number})
        assert feed.missed == 1
        for batch in feed.pending():
            batch.segments[0].values[0]["n"] = "harm"
        assert peek(memory, "s", "k") == {"n": 2}
        memory.unsubscribe(feed)
        feed.close()
        assert memory.runtime.subscriptions == []

    with_memory(fresh_url(), body)


def test_readings_and_conflicts_are_copies_as_well() -> None:
    async def body(memory: Memory) -> None:
        space = memory.space("s")
        await space.put("k", VALUE)
        await space.map("m").set("x", VALUE)
        await space.log("l").append(VALUE)
        await space.set("t").add(VALUE)
        for code in (REGISTER, 8, 10, 11):
            key = {REGISTER: "k", 8: "t", 10: "m", 11: "l"}[code]
            for _ in range(2):
                value = (await memory.read(("s",), code, key)).value
                held = value["x"] if type(value) is dict and "x" in value else value
                held = held[0] if type(held) is list else held
                assert held == VALUE
                held["plan"]["steps"].clear()

    with_memory(fresh_url(), body)
