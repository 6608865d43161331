from __future__ import annotations

from crdtmem.entries import SEQUENCE_BITS, SEQUENCE_MASK
from simulations.node import Machine
from simulations.world import Watcher
from tests.simulations.lives import Life, operation, read, write


def _set(key: str, value: object, **arguments: object) -> tuple[str, dict[str, object]]:
    return write(operation("s", "register", key, "set", value), **arguments)


def test_a_batch_is_known_from_its_writers_disk_before_anybody_else_has_it() -> None:
    life = Life(2)
    life.world.network.cut(["m0"], ["m1"])
    call = life.do(0, _set("k", 1))
    assert call.outcome == "ok"
    assert call.was_durable
    assert call.dots is not None
    batch = life.history.batch_of(call.dots[0])
    assert batch is not None
    assert batch.header.replica == life.machine(0).engine.replica_id
    assert not life.machine(1).engine.state.vector.covers(call.dots[0])


def test_a_write_whose_node_died_before_it_could_tell_is_known_too() -> None:
    life = Life(2)
    machine = life.machine(0)
    replica = machine.engine.replica_id
    before = life.history.last(replica)
    # The commit is durable, and the node dies before it tells anybody.
    machine.device.sync_us = 1
    machine.dies_after_effects = 1
    call = life.do(0, _set("k", 1, retries=0))
    assert call.outcome == "unknown"
    assert call.died
    assert life.history.last(replica) == before + 1


def test_contexts_add_up_along_a_chain() -> None:
    life = Life(2)
    there = life.do(1, _set("a", 1))
    life.settle()
    first = life.do(0, _set("b", 1), client=1)
    second = life.do(0, _set("c", 1), client=1)
    assert there.dots
    assert first.dots
    assert second.dots
    for call in (first, second):
        assert call.dots is not None
        batch = life.history.batch_of(call.dots[0])
        assert batch is not None
        context = life.history.context(batch)
        assert context.covers(there.dots[0])
        assert context.get(batch.header.replica, 0) == (call.dots[0] & SEQUENCE_MASK) - 1


def test_news_are_what_a_publication_added() -> None:
    life = Life(2)
    news: list[int] = []

    class Reader(Watcher):
        def published(self, machine: Machine) -> None:
            if machine.name == "m1":
                news.extend(batch.header.replica for batch in life.history.views["m1"].news)

    life.world.watchers.append(Reader())
    call = life.do(0, _set("k", 1))
    life.settle()
    assert call.dots is not None
    assert news == [call.dots[0] >> SEQUENCE_BITS]


def test_a_deltas_segment_is_found_by_its_dot() -> None:
    life = Life(1)
    rows = [operation("s", "register", f"k{number}", "set", number) for number in range(5)]
    call = life.do(0, write(*rows))
    assert call.dots is not None
    for number in range(5):
        found = life.history.delta(call.dots[0] + number)
        assert found is not None
        segment, at = found
        assert segment.keys[at] == f"k{number}"
    assert life.history.delta(call.dots[0] + 5) is None


def test_a_client_repeats_elsewhere_what_it_got_no_answer_to_and_it_counts_once() -> None:
    life = Life(2)
    first = life.machine(0)
    first.device.sync_us = 1
    first.dies_after_effects = 1
    count = operation("s", "counter", "visits", "increment", 1)
    life.do(0, write(count))
    one, two = [call for call in life.history.calls if call.operation_id is not None]
    assert (one.machine, one.outcome, two.machine, two.outcome) == ("m0", "unknown", "m1", "ok")
    assert one.operation_id == two.operation_id
    life.settle()
    life.world.run(20)
    call = life.do(1, read("s", "counter", "visits"))
    assert call.result.value == 1


def test_a_client_who_moves_reads_its_own_writes() -> None:
    life = Life(3)
    life.do(0, _set("k", "mine"))
    call = life.do(2, read("s", "register", "k"))
    assert call.result.value == "mine"
    assert call.context is not None
    assert call.context.dominates(call.demanded)
    # Without a session it reads what is there, which is nothing yet.
    life.do(0, _set("k", "newer"), client=1)
    stale = life.do(2, read("s", "register", "k", session=False), client=1)
    assert stale.result.value == "mine"


def test_a_write_upon_what_was_read_elsewhere_supersedes_just_that() -> None:
    life = Life(2)
    life.do(0, _set("k", "old"))
    life.do(1, read("s", "register", "k"))
    life.world.network.cut(["m0"], ["m1"])
    life.do(1, _set("k", "concurrent"), client=1)
    call = life.do(0, _set("k", "upon old", observe=True, remembered=True))
    assert call.outcome == "ok"
    life.world.network.heal(["m0"], ["m1"])
    life.settle()
    values = life.do(0, read("s", "register", "k"), client=2).result.siblings
    assert sorted(view.value for view in values) == ["concurrent", "upon old"]


def test_a_condition_that_does_not_hold_any_more_is_refused() -> None:
    life = Life(1)
    life.do(0, _set("k", "a"))
    life.do(0, read("s", "register", "k"))
    life.do(0, _set("k", "b"), client=1)
    call = life.do(0, _set("k", "c", expect=True, remembered=True))
    assert (call.outcome, call.code) == ("refused", "condition_failed")


def test_durability_is_waited_for_and_what_was_reached_is_known() -> None:
    life = Life(3)
    call = life.do(0, _set("k", 1, durability="all"))
    regions = {machine.region for machine in life.world.machines.values()}
    assert call.outcome == "ok"
    assert set(call.result) == call.reached == regions
    life.world.network.cut(["m0"], ["m1", "m2"])
    late = life.do(0, _set("k", 2, durability="majority", timeout_ms=500))
    assert (late.outcome, late.code) == ("refused", "durability_timeout")
    assert late.dots is not None


def test_documents_are_edited_through_clients() -> None:
    life = Life(2)
    place = {"space": ["s"], "key": "d"}
    life.do(0, ("edit", {**place, "position": 0, "insert": "hello"}))
    life.settle()
    life.do(1, ("edit", {**place, "position": 5, "insert": " world"}), client=1)
    life.do(1, ("edit", {**place, "position": 0, "delete": 1}), client=1)
    call = life.do(1, read("s", "document", "d"), client=1)
    assert call.result.value == {"text": "ello world"}
