"""Embedded, behind a socket or without await: the same calls give the same answers."""

from __future__ import annotations

import math
from typing import Any

import pycrdt
import pytest

from crdtmem.causality import Context, Observed
from crdtmem.errors import (
    ConditionFailed,
    InsufficientRights,
    InvalidValue,
    LimitExceeded,
    NotCovered,
    UnknownName,
)
from crdtmem.policy import Policy
from crdtmem.session import MemoryProtocol
from crdtmem.transaction import Operation
from tests.waiting import wait_until

# ------------------------------------------------------------------ datatypes


@pytest.mark.parametrize(
    "value",
    [None, True, -5, 2**63, 1.5, "text", b"\x00\xff", [1, [2, {"a": b"b"}]], {"b": 1, "a": [None]}],
)
def test_a_register_gives_back_what_it_was_given(space: Any, value: Any) -> None:
    space.register("key").set(value)
    found = space.get("key")
    assert found == value
    assert type(found) is type(value)


def test_values_that_are_nearly_equal_stay_apart(space: Any) -> None:
    for index, value in enumerate([1, 1.0, True, "1", b"1"]):
        space.put(f"key-{index}", value)
    assert [type(space.get(f"key-{index}")) for index in range(5)] == [int, float, bool, str, bytes]
    space.put("nan", math.nan)
    assert math.isnan(space.get("nan"))


def test_returned_values_never_alias_state(space: Any) -> None:
    given = {"list": [1]}
    space.put("key", given)
    given["list"].append(2)
    found = space.get("key")
    found["list"].append(3)
    assert space.get("key") == {"list": [1]}


def test_an_absent_key_is_told_from_none(space: Any) -> None:
    assert space.get("key") is None
    assert not space.register("key").read().exists
    space.put("key", None)
    assert space.register("key").read().exists
    space.register("key").delete()
    assert not space.register("key").read().exists


def test_counters(space: Any) -> None:
    counter = space.counter("visits")
    counter.increment(5)
    counter.decrement(2)
    assert counter.get() == 3
    counter.reset()
    assert counter.get() == 0
    grow = space.counter("grow", grow_only=True)
    grow.increment()
    assert grow.get() == 1
    with pytest.raises(UnknownName):
        grow.decrement()
    with pytest.raises(InvalidValue):
        counter.increment(-1)


def test_a_bounded_counter_is_never_overspent(memory: Any, space: Any) -> None:
    budget = space.bounded_counter("budget")
    budget.mint(10)
    budget.consume(4)
    with pytest.raises(InsufficientRights) as caught:
        budget.consume(7)
    assert caught.value.details["held"] == 6
    budget.release(1)
    budget.burn(2)
    budget.transfer(1, 12345)
    found = budget.get()
    assert (found["available"], found["consumed"]) == (5, 3)
    assert found["rights"][f"{memory.replica_id:016x}"] == 4


@pytest.mark.parametrize("remove_wins", [False, True])
def test_sets(space: Any, remove_wins: bool) -> None:
    tags = space.set("tags", remove_wins=remove_wins)
    for element in ["blue", 1, True, b"x", ["a", 2]]:
        tags.add(element)
    tags.remove("blue")
    found = tags.get()
    assert len(found) == 4
    assert all(element in found for element in [b"x", ["a", 2]])
    assert {type(element) for element in found if element == 1} == {int, bool}
    tags.clear()
    assert tags.get() == []


@pytest.mark.parametrize("disable_wins", [False, True])
def test_flags(space: Any, disable_wins: bool) -> None:
    flag = space.flag("ready", disable_wins=disable_wins)
    assert flag.get() is False
    flag.enable()
    assert flag.get() is True
    flag.disable()
    assert flag.get() is False


def test_a_map_holds_members_of_any_datatype(space: Any) -> None:
    record = space.map("person")
    record.set("name", "Ada")
    record.update({"city": "London", "born": 1815})
    record.set(["work", "title"], "notes")
    record.apply("visits", "counter", "increment", 3)
    record.apply("tags", "set", "add", "first")
    assert record.get() == {
        "name": "Ada",
        "city": "London",
        "born": 1815,
        "work": {"title": "notes"},
        "visits": 3,
        "tags": ["first"],
    }
    record.remove("city")
    record.remove(["work", "title"])
    assert record.get().keys() == {"name", "born", "visits", "tags"}


def test_a_log_keeps_order_and_metadata(space: Any) -> None:
    log = space.log("events")
    log.append("one", metadata={"c": 0.5})
    log.extend(["two", {"three": 3}])
    reading = log.read()
    assert reading.value == ["one", "two", {"three": 3}]
    assert [view.metadata.get("c") for view in reading.siblings] == [0.5, None, None]


def test_a_document_merges_updates(space: Any) -> None:
    source: pycrdt.Doc[Any] = pycrdt.Doc()
    source["text"] = text = pycrdt.Text()
    text += "hello"
    space.document("page").update(source.get_update())
    assert space.document("page").get() == {"text": "hello"}
    with pytest.raises(InvalidValue):
        space.document("page").update(b"no update")


def _edit_and_abandon(page: Any) -> None:
    with page.edit() as document:
        document.get("text", type=pycrdt.Text).insert(0, "never ")
        raise RuntimeError("abandon this edit")


def test_a_document_is_edited_in_a_block(space: Any) -> None:
    page = space.document("page")
    with page.edit() as document:
        document.get("text", type=pycrdt.Text).insert(0, "world")
        document.get("tags", type=pycrdt.Array).append("greeting")
    with page.edit() as document:
        document.get("text", type=pycrdt.Text).insert(0, "hello ")
    assert page.get() == {"text": "hello world", "tags": ["greeting"]}
    with pytest.raises(RuntimeError, match="abandon"):
        _edit_and_abandon(page)
    assert page.get()["text"] == "hello world"
    assert str(page.load().get("text", type=pycrdt.Text)) == "hello world"


def test_two_datatypes_under_one_key_are_two_values_and_told(space: Any) -> None:
    space.put("key", 1)
    space.counter("key").increment()
    assert space.register("key").read().also == ("counter",)
    assert (space.get("key"), space.counter("key").get()) == (1, 1)


def test_handles_by_name(space: Any) -> None:
    space.handle("counter", "n").increment(2)
    assert space.counter("n").get() == 2
    with pytest.raises(UnknownName):
        space.handle("tree", "n")


# ------------------------------------------------------------------ keys, spaces, conflicts


def test_keys_and_spaces_are_listed(memory: Any, space: Any) -> None:
    for name in ["b", "a", "ü"]:
        space.put(name, 1)
    space.counter("n").increment()
    space.put("gone", 1)
    space.register("gone").delete()
    assert space.keys() == ["a", "b", "ü"]
    assert space.keys("counter") == ["n"]
    assert space.name in memory.spaces()


def test_many_keys_are_listed_whole(memory: Any, space: Any) -> None:
    with memory.transaction() as opened:
        opened.put_many(space.name, {f"key-{index:05}": index for index in range(9_999)})
    assert len(space.keys()) == 9_999
    assert space.get("key-09998") == 9_998


def test_concurrent_values_are_siblings_and_listed_with_their_authors(
    memory: Any, space: Any
) -> None:
    for author in ["ann", "bob"]:
        mine = memory.session(author=author).space(*space.name)
        mine.register("key").set(author, observed=Observed())
    reading = space.register("key").read()
    assert reading.contested
    assert reading.value == "bob"
    assert [view.author for view in reading.siblings] == ["ann", "bob"]
    (conflict,) = space.conflicts()
    assert (conflict.key, conflict.value, conflict.datatype) == ("key", "bob", "register")
    assert [sibling["author"] for sibling in conflict.siblings] == ["ann", "bob"]
    space.register("key").set("both", observed=reading.observed)
    assert not space.register("key").read().contested
    assert space.conflicts() == []


def test_a_space_is_read_by_its_policy(space: Any) -> None:
    space.set_policy(Policy(resolver="maximum"))
    for value in [3, 7, 5]:
        space.register("key").set(value, observed=Observed())
    reading = space.register("key").read()
    assert (reading.value, reading.resolver) == (7, "maximum@1")
    with pytest.raises(UnknownName) as refused:
        space.set_policy(Policy(resolver="of-tomorrow"))
    assert "majority" in refused.value.hint
    assert not space.register("key").read().unknown_resolver


def test_a_more_trusted_value_is_not_displaced(memory: Any, space: Any) -> None:
    space.set_policy(Policy(trust_ordered=True, resolver="most_trusted"))
    memory.session(author="doctor", trust=2).space(*space.name).put("key", "fever")
    memory.session(author="stranger").space(*space.name).put("key", "fine")
    reading = space.register("key").read()
    assert reading.value == "fever"
    assert [view.trust for view in reading.siblings] == [2, 0]


# ------------------------------------------------------------------ conditions, expiry, sessions


def test_a_conditional_write_meets_what_was_read_or_is_refused(space: Any) -> None:
    register = space.register("key")
    register.set(1)
    seen = register.read().observed
    register.set(2)
    with pytest.raises(ConditionFailed) as caught:
        register.set(3, expect=seen)
    assert [sibling["value"] for sibling in caught.value.details["siblings"]] == [2]
    register.set(3, expect=Observed.parse(caught.value.details["observed"]))
    assert register.get() == 3


def test_a_key_is_created_only_once_by_an_empty_expectation(space: Any) -> None:
    space.register("key").set("first", expect=Observed())
    with pytest.raises(ConditionFailed):
        space.register("key").set("second", expect=Observed())
    assert space.get("key") == "first"


def test_an_entry_expires(space: Any) -> None:
    space.register("key").set("short", ttl_ms=30)
    wait_until(lambda: not space.register("key").read().exists, "expiry")
    space.register("long").set("long", ttl_ms=3_600_000)
    assert space.get("long") == "long"


def test_a_session_grows_its_context_and_others_can_wait_for_it(memory: Any, space: Any) -> None:
    session = memory.session(author="ann")
    assert session.context == Context()
    committed = session.space(*space.name).put("key", 1)
    assert session.context == committed.context
    assert space.register("key").read(at_least=session.context).value == 1
    assert memory.wait_for(session.context) >= session.context
    assert memory.joined() >= session.context


def test_what_never_arrives_is_refused_at_the_deadline(memory: Any, space: Any) -> None:
    future = Context({77: 1_000})
    with pytest.raises(NotCovered):
        space.register("key").read(at_least=future, timeout_ms=20)
    with pytest.raises(NotCovered):
        memory.wait_for(future, timeout_ms=20)
    hasty = memory.session(after=future, timeout_ms=20).space(*space.name)
    with pytest.raises(NotCovered):
        hasty.put("key", 1)
    unseen = Observed([77 << 64 | 5])
    with pytest.raises(NotCovered):
        memory.session(timeout_ms=20).space(*space.name).register("key").set(1, observed=unseen)
    assert not space.register("key").read().exists


@pytest.mark.parametrize("durability", ["local", "region", "majority", "all"])
def test_a_lone_node_is_every_durability(memory: Any, space: Any, durability: str) -> None:
    memory.session(durability=durability).space(*space.name).put("key", durability)
    assert space.get("key") == durability


# ------------------------------------------------------------------ transactions


def test_a_transaction_spans_spaces_and_datatypes(memory: Any, space: Any) -> None:
    other = memory.space(*space.name, "other")
    with memory.transaction() as opened:
        opened.space(*space.name).put("a", 1)
        opened.space(*space.name).counter("n").increment(2)
        opened.space(*other.name).set("s").add("x")
        assert space.get("a") is None
    assert opened.committed.count == 3
    assert (space.get("a"), space.counter("n").get(), other.set("s").get()) == (1, 2, ["x"])


def test_a_transaction_sees_its_own_writes(memory: Any, space: Any) -> None:
    with memory.transaction() as opened:
        mine = opened.space(*space.name)
        for amount in (1, 2, 3):
            mine.counter("n").increment(amount)
        mine.set("s").add("x")
        mine.set("s").remove("x")
    assert space.counter("n").get() == 6
    assert space.set("s").get() == []


def test_a_refused_transaction_changes_nothing(memory: Any, space: Any) -> None:
    def spend_too_much() -> None:
        with memory.transaction() as opened:
            mine = opened.space(*space.name)
            mine.put("a", 1)
            mine.bounded_counter("budget").consume(1)

    before = memory.joined()
    with pytest.raises(InsufficientRights):
        spend_too_much()
    assert space.get("a") is None
    assert memory.joined() == before


def test_an_exception_abandons_a_transaction(memory: Any, space: Any) -> None:
    def change_of_mind() -> None:
        with memory.transaction() as opened:
            opened.space(*space.name).put("a", 1)
            raise KeyError("changed my mind")

    with pytest.raises(KeyError):
        change_of_mind()
    assert space.get("a") is None


def test_a_repeated_operation_id_counts_once(memory: Any, space: Any) -> None:
    identity = f"id of {space.name[-1]}".encode()
    outcomes = []
    for _ in range(3):
        with memory.transaction(operation_id=identity) as opened:
            opened.space(*space.name).counter("n").increment(5)
        outcomes.append(opened.committed)
    assert space.counter("n").get() == 5
    assert [outcome.repeated for outcome in outcomes] == [False, True, True]
    assert len({outcome.first for outcome in outcomes}) == 1


def test_results_name_the_dots(memory: Any, space: Any) -> None:
    committed = space.log("l").extend(["a", "b"])
    assert committed.results == [[committed.first, committed.first + 1]]
    assert committed.first >> 64 == memory.replica_id
    assert committed.count == 2


# ------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    "value", [object(), {1: 2}, {"a": {3}}, 2**64, "\ud800", 1j, [[lambda: 1]]]
)
@pytest.mark.parametrize("datatype", ["register", "log", "map"])
def test_what_cannot_be_stored_is_refused(space: Any, datatype: str, value: Any) -> None:
    writes = {
        "register": lambda: space.put("key", value),
        "log": lambda: space.log("key").append(value),
        "map": lambda: space.map("key").set("member", value),
    }
    with pytest.raises(InvalidValue):
        writes[datatype]()
    assert space.keys(datatype) == []


def test_limits_hold_at_the_origin(memory: Any, space: Any) -> None:
    limits = memory.limits
    with pytest.raises(LimitExceeded):
        space.put("k" * (limits.key_bytes + 1), 1)
    with pytest.raises(LimitExceeded):
        space.put("key", b"x" * (limits.value_bytes + 1))
    with pytest.raises(LimitExceeded), memory.transaction() as opened:
        opened.put_many(space.name, dict.fromkeys(map(str, range(limits.batch_deltas + 1)), 1))
    space.put("key", b"x" * (limits.value_bytes - 10))
    assert len(space.get("key")) == limits.value_bytes - 10


def test_a_place_at_the_sibling_limit_refuses_blind_writes(memory: Any, space: Any) -> None:
    register = space.register("key")
    for number in range(memory.limits.siblings):
        register.set(number, observed=Observed())
    with pytest.raises(LimitExceeded) as caught:
        register.set("one more")
    assert caught.value.code == "sibling_limit"
    assert len(caught.value.details["siblings"]) == memory.limits.siblings
    register.set("settled", observed=register.read().observed)
    assert register.get() == "settled"


def test_the_system_space_is_not_written_to(memory: Any) -> None:
    with pytest.raises(InvalidValue):
        memory.space("crdtmem").put("member:0000000000000001", "x")


@pytest.mark.parametrize("name", ["_remove", "_collect", "explode"])
def test_operations_that_nobody_offers_are_refused(memory: Any, space: Any, name: str) -> None:
    space.put("key", 1)
    with pytest.raises(Exception, match=r".") as caught, memory.transaction() as opened:
        opened.transaction.add(Operation(space.name, 1, "key", name, (None, [1])))
    assert getattr(caught.value, "code", "") in {"unknown_name", "invalid_value", "malformed_frame"}
    assert space.get("key") == 1


# ------------------------------------------------------------------ changes


def test_a_feed_tells_of_every_delta_of_its_space(memory: Any, space: Any) -> None:
    feed = memory.changes(space.name)
    memory.session(author="ann").space(*space.name).put("a", 1)
    memory.space(*space.name, "elsewhere").put("b", 1)
    space.register("a").delete()
    first, second = next(feed), next(feed)
    feed.close()
    assert (first.key, first.author, first.removed, first.datatype) == (
        "a", "ann", False, "register",
    )  # fmt: skip
    assert (second.key, second.removed) == ("a", True)


def test_every_face_is_a_memory(memory: Any) -> None:
    assert isinstance(memory._inner, MemoryProtocol)
    assert memory.region == "here"
