"""The ledger: it finds what is there, and it is able to find that something is not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from pycrdt import Doc, Text

from crdtmem.demo.ledger import Ledger
from crdtmem.demo.picture import lags
from crdtmem.memory import Memory
from crdtmem.replica import Committed
from crdtmem.session import OpenTransaction

SPACE = ("team", "memory")


def with_memory(scenario: Callable[[Memory, Ledger], Coroutine[Any, Any, None]]) -> None:
    async def run() -> None:
        async with await Memory.open("memory:", region="eu-west", tune_gc=False) as memory:
            await scenario(memory, Ledger())

    asyncio.run(run())


def update_of(text: str) -> bytes:
    document: Doc[Any] = Doc()
    document.get("report", type=Text).insert(0, text)
    return document.get_update()


async def write(
    memory: Memory, ledger: Ledger | None, fill: Callable[[OpenTransaction], Any], author: str = "a"
) -> OpenTransaction:
    async with memory.session(author=author).transaction() as opened:
        fill(opened)
    assert opened.committed is not None
    if ledger is not None:
        ledger.enter("eu-west", opened.transaction, opened.committed)
    return opened


def everything(opened: OpenTransaction) -> None:
    space = opened.space(*SPACE)
    space.put("city", "Rome")
    space.register("plan").set({"day": 1})
    space.map("fact").update({"a": 1, "b": [2]})
    space.map("fact").set(["deep", "er"], True)
    space.counter("count").increment(3)
    space.counter("count").decrement(1)
    space.set("seen").add("forum")
    space.set("seen").add("gone")
    space.set("seen").remove("gone")
    space.log("journal").append({"what": "arrived"})
    space.log("journal").extend(["slept", "slept"])
    space.document("report").update(update_of("Hello."))
    space.flag("ready").enable()


def test_what_is_there_is_found() -> None:
    async def scenario(memory: Memory, ledger: Ledger) -> None:
        await write(memory, ledger, everything)
        await write(memory, ledger, lambda opened: opened.space(*SPACE).put("city", "Oslo"))
        assert ledger.total == 14
        verdict = await ledger.check({"eu-west": memory})
        assert verdict.faults == []
        assert verdict.lost == set()

    with_memory(scenario)


Fill = Callable[[OpenTransaction], Any]


@pytest.mark.parametrize(
    ("acknowledged", "behind_its_back", "what"),
    [
        (
            lambda opened: opened.space(*SPACE).put("city", "Rome"),
            lambda opened: opened.space(*SPACE).put("city", "Oslo"),
            "register city: the value is neither shown nor a sibling",
        ),
        (
            lambda opened: opened.space(*SPACE).map("fact").update({"a": 1, "b": 2}),
            lambda opened: opened.space(*SPACE).map("fact").set("b", 3),
            "map fact: member b is neither shown nor a sibling",
        ),
        (
            lambda opened: opened.space(*SPACE).counter("count").increment(3),
            lambda opened: opened.space(*SPACE).counter("count").decrement(1),
            "counter count: the total is 2, not 3",
        ),
        (
            lambda opened: opened.space(*SPACE).counter("count").increment(3),
            lambda opened: opened.space(*SPACE).counter("count").increment(3),
            "counter count: the total is 6, not 3",
        ),
        (
            lambda opened: opened.space(*SPACE).set("seen").add("forum"),
            lambda opened: opened.space(*SPACE).set("seen").remove("forum"),
            "set seen: the element is absent",
        ),
        (
            lambda opened: opened.space(*SPACE).log("journal").append("once"),
            lambda opened: opened.space(*SPACE).log("journal").append("once"),
            "log journal: an entry is there 2 times, not 1",
        ),
        (
            lambda opened: opened.space(*SPACE).document("report").update(update_of("Hello.")),
            lambda opened: opened.space(*SPACE).document("report").update(update_of("Bye.")),
            "document report: the content is not that of the acknowledged updates",
        ),
    ],
)
def test_what_is_missing_or_counted_twice_is_found(
    acknowledged: Fill, behind_its_back: Fill, what: str
) -> None:
    async def scenario(memory: Memory, ledger: Ledger) -> None:
        await write(memory, ledger, acknowledged)
        await write(memory, None, behind_its_back)
        verdict = await ledger.check({"eu-west": memory})
        assert len(verdict.lost) == 1
        assert [what in fault for fault in verdict.faults] == [True]

    with_memory(scenario)


def test_a_removed_element_that_is_back_is_found() -> None:
    async def scenario(memory: Memory, ledger: Ledger) -> None:
        await write(memory, ledger, lambda opened: opened.space(*SPACE).set("seen").add("x"))
        await write(memory, ledger, lambda opened: opened.space(*SPACE).set("seen").remove("x"))
        await write(memory, None, lambda opened: opened.space(*SPACE).set("seen").add("x"))
        verdict = await ledger.check({"eu-west": memory})
        assert "the element was removed, and is there" in verdict.faults[0]

    with_memory(scenario)


def test_what_a_region_has_not_joined_is_lost() -> None:
    async def scenario(memory: Memory, ledger: Ledger) -> None:
        opened = await write(memory, None, lambda opened: opened.space(*SPACE).flag("up").enable())
        committed = opened.committed
        assert committed is not None
        never = Committed(committed.context, [], committed.first + 5, 1)
        ledger.enter("us-east", opened.transaction, never)
        verdict = await ledger.check({"eu-west": memory})
        assert len(verdict.lost) == 1
        assert verdict.faults == ["eu-west: team/memory flag up: not joined (1 writes)"]

    with_memory(scenario)


def test_a_concurrent_write_elsewhere_excuses_nothing() -> None:
    async def scenario(memory: Memory, ledger: Ledger) -> None:
        opened = await write(memory, ledger, lambda opened: opened.space(*SPACE).put("k", "here"))
        committed = opened.committed
        assert committed is not None
        # Another replica wrote the same place, and had not joined this: a sibling to be.
        async with memory.session(author="b").transaction() as other:
            other.space(*SPACE).put("k", "there")
        assert other.committed is not None
        foreign = Committed(type(committed.context)({7: 1}), [], 7 << 64 | 1, 1)
        ledger.enter("us-east", other.transaction, foreign)
        verdict = await ledger.check({"eu-west": memory})
        assert any("neither shown nor a sibling" in fault for fault in verdict.faults)

    with_memory(scenario)


def test_a_write_that_names_what_it_observed_excuses_nothing_else() -> None:
    async def scenario(memory: Memory, ledger: Ledger) -> None:
        await write(memory, ledger, lambda opened: opened.space(*SPACE).put("k", "first"))
        seen = (await memory.space(*SPACE).register("k").read()).observed
        await write(memory, ledger, lambda opened: opened.space(*SPACE).put("k", "second"))

        def beside(opened: OpenTransaction) -> None:
            opened.space(*SPACE).register("k").set("third", observed=seen)

        await write(memory, ledger, beside)
        verdict = await ledger.check({"eu-west": memory})
        assert verdict.faults == []
        await write(memory, None, lambda opened: opened.space(*SPACE).put("k", "fourth"))
        verdict = await ledger.check({"eu-west": memory})
        assert {lost.operation.arguments[0] for lost in verdict.lost} == {"second", "third"}

    with_memory(scenario)


def test_lag_counts_what_the_others_have() -> None:
    statuses = {
        "eu-west": {"vector": {"a": 5, "b": 2}},
        "us-east": {"vector": {"a": 3, "b": 4}},
        "ap-south": {"vector": {"a": 5, "b": 4, "c": 1}},
    }
    assert lags(statuses) == {"eu-west": 3, "us-east": 3, "ap-south": 0}
