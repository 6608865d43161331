"""The embedded memory end to end: handles, sessions, reopening, crashes and bad disks."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from crdtmem.causality import Context
from crdtmem.crdt import DATATYPES
from crdtmem.errors import (
    ConditionFailed,
    InsufficientRights,
    InvalidValue,
    NotCovered,
    UnknownName,
)
from crdtmem.memory import Memory
from crdtmem.policy import SYSTEM_SPACE, Policy
from crdtmem.runtime import Subscription
from tests.memories import (
    REGISTER,
    fresh_url,
    peek,
    store_of,
    with_memory,
)
from tests.waiting import eventually

# ---------------------------------------------------------------------- tickets


def test_tickets_are_let_go_whether_answered_or_never_taken() -> None:
    async def body(memory: Memory) -> None:
        runtime, space = memory.runtime, memory.space("s")
        waiting = asyncio.create_task(memory.wait_for(Context({7: 1}), timeout_ms=60_000))
        await space.put("k", 0)
        for _ in range(3):
            await asyncio.gather(*(space.put("k", n) for n in range(600)))
            for _ in range(600):
                with pytest.raises(InvalidValue):
                    await space.put("", 1)
        assert len(runtime._tickets) <= 1_003
        assert len(runtime._unanswered()) == 1
        waiting.cancel()

    with_memory(fresh_url(), body)


# ---------------------------------------------------------------------- handles


def test_every_datatype_is_written_and_read_through_its_handle() -> None:
    async def body(memory: Memory) -> None:
        space = memory.space("fleet", "facts")
        await space.put("name", {"first": "Ada"})
        await space.register("r").set([1, 2])
        await space.multi_value("mv").set("x")
        await space.flag("f").enable()
        await space.flag("g", disable_wins=True).enable()
        await space.counter("c").increment(5)
        await space.counter("c").decrement(2)
        await space.counter("up", grow_only=True).increment()
        budget = space.bounded_counter("b")
        await budget.mint(3)
        await budget.consume(2)
        with pytest.raises(InsufficientRights):
            await budget.consume(2)
        await space.set("s").add("a")
        await space.set("s").add(1)
        await space.set("s").remove("a")
        await space.set("w", remove_wins=True).add("kept")
        await space.map("m").set("plain", 1)
        await space.map("m").update({"x": 1, "y": [2]})
        await space.map("m").apply(["deep", "count"], "counter", "increment", 4)
        await space.map("m").remove("x")
        await space.log("l").append("one")
        await space.log("l").extend(["two", "three"])
        assert await space.get("name") == {"first": "Ada"}
        assert await space.register("r").get() == [1, 2]
        assert await space.multi_value("mv").get() == ["x"]
        assert await space.flag("f").get() is True
        assert await space.flag("g", disable_wins=True).get() is True
        assert await space.counter("c").get() == 3
        assert await space.counter("up", grow_only=True).get() == 1
        assert await space.set("s").get() == [1]
        assert await space.set("w", remove_wins=True).get() == ["kept"]
        assert await space.map("m").get() == {"plain": 1, "y": [2], "deep": {"count": 4}}
        assert await space.log("l").get() == ["one", "two", "three"]
        assert await space.keys() == ["name", "r"]
        assert await space.keys("counter") == ["c"]
        assert await memory.spaces() == [("fleet", "facts")]

    with_memory(fresh_url(), body)


def test_what_is_deleted_is_gone_for_every_datatype() -> None:
    async def body(memory: Memory) -> None:
        space = memory.space("s")
        writes: dict[str, tuple[str, tuple[Any, ...]]] = {
            "register": ("set", (1,)),
            "multi_value": ("set", (1,)),
            "flag": ("enable", ()),
            "flag_disable_wins": ("enable", ()),
            "g_counter": ("increment", (1,)),
            "counter": ("increment", (1,)),
            "bounded_counter": ("mint", (1,)),
            "set": ("add", ("e",)),
            "set_remove_wins": ("add", ("e",)),
            "map": ("set", ("f", 1)),
            "log": ("append", (1,)),
            "document": ("update", (b"\x00\x00",)),
        }
        assert set(writes) == set(DATATYPES)
        for datatype, (name, arguments) in writes.items():
            handle = space.handle(datatype, "k")
            await getattr(handle, name)(*arguments)
            assert (await handle.read()).exists or datatype == "document"
            await handle.delete()
            assert not (await handle.read()).exists, datatype
            assert await space.keys(datatype) == []
        with pytest.raises(UnknownName):
            space.handle("no such type", "k")

    with_memory(fresh_url(), body)


def test_a_transaction_is_seen_whole_or_not_at_all() -> None:
    async def body(memory: Memory) -> None:
        async with memory.transaction() as transaction:
            space = transaction.space("s")
            space.put("a", 1)
            space.counter("c").increment(2)
            transaction.put_many(("other",), {"b": 2, "d": 4})
            assert peek(memory, "s", "a") is None
        assert transaction.committed is not None
        assert transaction.committed.count == 4
        assert peek(memory, "s", "a") == 1
        assert peek(memory, "other", "d") == 4
        abandoned = memory.transaction()
        with pytest.raises(ZeroDivisionError):
            await interrupted(abandoned)
        assert peek(memory, "s", "a") == 1

    with_memory(fresh_url(), body)


async def interrupted(abandoned: Any) -> None:
    async with abandoned as transaction:
        transaction.space("s").put("a", 2)
        raise ZeroDivisionError


def test_many_committers_share_a_commit() -> None:
    async def body(memory: Memory) -> None:
        before = store_of(memory).last_ordinal()
        await asyncio.gather(*(memory.space("s").put(f"k{n}", n) for n in range(200)))
        assert store_of(memory).last_ordinal() - before <= 3
        assert len(await memory.space("s").keys()) == 200

    with_memory(fresh_url(), body)


def test_a_condition_and_an_observed_come_from_a_reading() -> None:
    async def body(memory: Memory) -> None:
        register = memory.space("s").register("k")
        await register.set(1)
        reading = await register.read()
        assert (reading.value, reading.contested, reading.exists) == (1, False, True)
        await register.set(2, expect=reading.observed)
        with pytest.raises(ConditionFailed):
            await register.set(3, expect=reading.observed)
        await register.set(4, observed=reading.observed)
        siblings = [view.value for view in (await register.read()).siblings]
        assert siblings == [2, 4]
        (conflict,) = await memory.space("s").conflicts()
        assert (conflict.key, conflict.datatype, conflict.value) == ("k", "register", 4)
        assert [sibling["value"] for sibling in conflict.siblings] == [2, 4]

    with_memory(fresh_url(), body)


def test_only_conflicts_are_listed_as_conflicts() -> None:
    async def body(memory: Memory) -> None:
        space = memory.space("s")
        await space.map("m").set("f", 1)
        await space.map("m").set("f", 2, observed=(await space.map("absent").read()).observed)
        await space.map("m").apply("n", "counter", "increment", 1)
        await space.counter("c").increment(1)
        found = [(conflict.datatype, conflict.key) for conflict in await memory.conflicts()]
        assert found == [("map", "m")]

    with_memory(fresh_url(), body)


def test_an_author_a_trust_and_metadata_are_stamped_and_shown() -> None:
    async def body(memory: Memory) -> None:
        ann = memory.session(author="ann", trust=3)
        await ann.space("s").register("k").set(1, metadata={"c": 0.9})
        (sibling,) = (await ann.space("s").register("k").read()).siblings
        assert (sibling.author, sibling.trust, sibling.region) == ("ann", 3, "eu")
        assert sibling.metadata == {"c": 0.9}
        assert ann.context == Context(memory.engine.replica.state.vector)

    with_memory(fresh_url(), body, region="eu")


def test_a_retry_with_the_same_operation_id_counts_once() -> None:
    async def body(memory: Memory) -> None:
        for _ in range(3):
            async with memory.transaction(operation_id=b"charge-1") as transaction:
                transaction.space("s").counter("c").increment(10)
        assert transaction.committed is not None
        assert transaction.committed.repeated
        assert await memory.space("s").counter("c").get() == 10

    with_memory(fresh_url(), body)


def test_the_system_space_is_written_through_policies_only() -> None:
    async def body(memory: Memory) -> None:
        with pytest.raises(InvalidValue):
            await memory.space(*SYSTEM_SPACE).put("member:1", "me")
        await memory.space("s").set_policy(Policy(resolver="maximum"))
        register = memory.space("s").register("k")
        for value in (3, 1):
            await register.set(value, observed=(await register.read()).observed and None)
        assert (await register.read()).resolver == "maximum@1"

    with_memory(fresh_url(), body)


def test_what_expires_is_not_read_and_then_removed_for_good() -> None:
    async def body(memory: Memory) -> None:
        register = memory.space("s").register("k")
        await register.set("brief", ttl_ms=30)
        assert peek(memory, "s", "k") == "brief"
        table = memory.engine.replica.state.table(("s",), REGISTER)
        await eventually(lambda: not table.slots, "removal of what expired")
        assert not (await register.read()).exists
        assert peek(memory, "s", "k", "none") == "none"

    with_memory(fresh_url(), body)


def test_a_read_waits_for_its_context_and_is_refused_at_its_deadline() -> None:
    async def body(memory: Memory) -> None:
        committed = await memory.space("s").put("k", 1)
        assert await memory.space("s").get("k", at_least=committed.context) == 1
        unknown = Context({memory.replica_id ^ 2: 1})
        with pytest.raises(NotCovered):
            await memory.wait_for(unknown, timeout_ms=20)
        late = memory.session(after=unknown, timeout_ms=20)
        with pytest.raises(NotCovered):
            await late.space("s").put("k", 2)
        assert peek(memory, "s", "k") == 1

    with_memory(fresh_url(), body)


def test_a_reader_is_as_good_as_a_peek_and_sees_later_writes() -> None:
    async def body(memory: Memory) -> None:
        read = memory.reader("s")
        assert read("k", "none") == "none"
        await memory.space("s").put("k", {"list": [1]})
        read("k")["list"].append(2)
        assert read("k") == peek(memory, "s", "k") == {"list": [1]}
        await memory.space("s").register("k").delete()
        assert read("k") is None

    with_memory(fresh_url(), body)


# ---------------------------------------------------------------------- notifications


def test_a_subscription_sees_every_batch_after_it_is_visible() -> None:
    async def body(memory: Memory) -> None:
        subscription = memory.subscribe()
        await memory.space("s").put("k", 1)
        batch = await subscription.next()
        assert [list(segment.keys) for segment in batch.segments] == [["k"]]
        memory.unsubscribe(subscription)
        await memory.space("s").put("k", 2)
        assert subscription.pending() == []

    with_memory(fresh_url(), body)


def test_a_slow_subscriber_loses_the_oldest_and_is_told_how_much() -> None:
    async def body(memory: Memory) -> None:
        subscription = Subscription(limit_batches=2)
        memory.runtime.subscriptions.append(subscription)
        for n in range(5):
            await memory.space("s").put("k", n)
        assert subscription.missed == 3
        assert [batch.segments[0].values for batch in subscription.pending()] == [[3], [4]]

    with_memory(fresh_url(), body)


def test_a_write_that_waits_for_a_context_is_refused_in_time_also_behind_a_slow_flight() -> None:
    async def scenario() -> None:
        async with await Memory.open("memory:", tune_gc=False) as memory:
            space = memory.space("slow")
            await space.put("k", 0)
            let_go = threading.Event()
            blocked = memory.runtime.in_store(let_go.wait)
            first = asyncio.ensure_future(space.put("k", 1))
            await eventually(lambda: memory.engine.replica.flight, "flight")
            unknown = Context({memory.replica_id + 1: 5})
            try:
                with pytest.raises(NotCovered):
                    await memory.session(after=unknown, timeout_ms=30).space("slow").put("k", 2)
                assert not first.done()
                behind = asyncio.ensure_future(space.put("k", 3))
                await asyncio.sleep(0)
                assert memory.engine.replica.queues()["transactions"] == 1
            finally:
                let_go.set()
            await blocked
            await asyncio.gather(first, behind)
            assert memory.reader("slow")("k") == 3

    asyncio.run(scenario())
