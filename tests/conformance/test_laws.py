"""The laws that every datatype obeys, run over the table of datatypes.

Each test draws a schedule (writes, deliveries, snapshots, collections at three
replicas) and states one law about what comes of it. A datatype inherits all of
them by its line in ``crdtmem.crdt`` and its line in ``strategies.OPERATIONS``.
"""

from __future__ import annotations

import copy
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crdtmem.batch import decode_batch
from crdtmem.codec import freeze, pack, unpack
from crdtmem.crdt import DATATYPES, DATATYPES_BY_CODE, NESTED, SHAPES
from crdtmem.crdt import document as document_module
from crdtmem.errors import InvalidValue, LocalError, UnknownName
from tests.conformance.harness import (
    Fleet,
    HarnessReader,
    Replica,
    deliver_all,
    join_snapshots,
)
from tests.conformance.strategies import OPERATIONS, Step, schedules

EVERY_TYPE = pytest.mark.parametrize("type_name", sorted(DATATYPES))
COLLECTIBLE = pytest.mark.parametrize(
    "type_name", sorted(name for name, datatype in DATATYPES.items() if datatype.collectible)
)
EXAMPLES = settings(max_examples=20)


Reads = list[frozenset[int]]


def run(type_name: str, steps: list[Step]) -> Fleet:
    """Carry out a schedule; operations that are refused leave nothing."""
    fleet = Fleet()
    reads: Reads = [frozenset()]
    for step in steps:
        carry_out(fleet, type_name, step, reads)
    return fleet


def carry_out(fleet: Fleet, type_name: str, step: Step, reads: Reads) -> None:
    """Carry out one step; ``reads`` gathers what reads returned."""
    if step[0] == "write":
        _write(fleet, type_name, step, reads)
    elif step[0] == "deliver":
        fleet.deliver(step[1], step[2])
    elif step[0] == "pull":
        fleet.pull(step[1], step[2])
    elif step[0] == "read":
        reads.append(fleet[step[1]].dots(DATATYPES[type_name]))
    elif step[0] == "acknowledge":
        fleet.acknowledge(step[1])
    elif step[0] == "settle":
        fleet.settle()
    else:
        fleet.collect(step[1], type_name)


def _write(fleet: Fleet, type_name: str, step: Step, reads: Reads) -> None:
    _, index, (operation, *arguments), observed = step
    replica = fleet[index]
    dots: frozenset[int] | None = None
    if observed == "now":
        dots = replica.dots(DATATYPES[type_name])
    elif observed == "old" and replica.vector.covers_all(reads[-1]):
        # A write may only stand on what its replica has joined; else it waits or is refused.
        dots = reads[-1]
    before = replica.places()
    try:
        fleet.act(index, type_name, operation, *arguments, observed=dots)
    except LocalError:
        assert replica.places() == before


def readings(replica: Replica, type_name: str) -> tuple[str, bool, tuple[str, ...]]:
    """Return all that a reader is told of the key, in a form that compares exactly."""
    datatype = DATATYPES[type_name]
    place = replica.place(datatype, "k")
    value = replica.value(datatype)
    return repr(value), replica.exists(datatype), datatype.also(place, HarnessReader())


def test_the_table_is_whole() -> None:
    assert set(OPERATIONS) == set(DATATYPES)
    assert set(DATATYPES_BY_CODE) == set(NESTED) == set(SHAPES)
    assert sorted(DATATYPES_BY_CODE) == list(range(1, 13))
    for name, datatype in DATATYPES.items():
        assert datatype.name == name
        assert "delete" in datatype.operations
        assert all(hasattr(datatype, method) for method in datatype.operations.values())


@EVERY_TYPE
@EXAMPLES
@given(data=st.data())
def test_any_causal_order_of_delivery_gives_one_state(type_name: str, data: st.DataObject) -> None:
    fleet = run(type_name, data.draw(schedules(type_name)))
    generator = random.Random(data.draw(st.integers(0, 2**32)))
    fleet.settle()
    expected = fleet[0]
    # Newcomers get everything, some of it twice, in an order of their own.
    newcomers = []
    for _ in range(2):
        batches = fleet.everything() * 2
        generator.shuffle(batches)
        newcomer = Replica(0)
        deliver_all(newcomer, batches)
        newcomers.append(newcomer)
    for replica in (*fleet.replicas, *newcomers):
        assert replica.places() == expected.places()
        assert replica.vector == expected.vector
        assert replica.state.digest() == expected.state.digest()
        assert readings(replica, type_name) == readings(expected, type_name)


@EVERY_TYPE
@EXAMPLES
@given(data=st.data())
def test_joining_states_is_a_lattice_join_and_equals_joining_deltas(
    type_name: str, data: st.DataObject
) -> None:
    fleet = run(type_name, data.draw(schedules(type_name)))
    a, b, c = fleet.replicas
    both = join_snapshots(a, b)
    assert both.places() == join_snapshots(b, a).places()
    assert both.vector == join_snapshots(b, a).vector
    assert join_snapshots(a, a).places() == a.places()
    assert join_snapshots(both, b).places() == both.places()
    left, right = join_snapshots(both, c), join_snapshots(a, join_snapshots(b, c))
    assert left.places() == right.places()
    # The same knowledge by deltas, and by a mixture: a snapshot, then what is left.
    fleet.pull(2, 0)
    fleet.pull(2, 1)
    for joined in (left, both):
        deliver_all(joined, fleet.everything())
        assert joined.places() == fleet[2].places()
        assert joined.state.digest() == fleet[2].state.digest()
        assert readings(joined, type_name) == readings(fleet[2], type_name)


@EVERY_TYPE
@EXAMPLES
@given(data=st.data())
def test_the_digest_follows_the_live_dots(type_name: str, data: st.DataObject) -> None:
    fleet = run(type_name, data.draw(schedules(type_name)))
    for replica in fleet.replicas:
        running = replica.state.digest()
        replica.state.rebuild_derived()
        assert replica.state.digest() == running


@EVERY_TYPE
@EXAMPLES
@given(data=st.data())
def test_values_are_canonical_and_survive_the_wire(type_name: str, data: st.DataObject) -> None:
    fleet = run(type_name, data.draw(schedules(type_name)))
    for replica in fleet.replicas:
        for _, _, field, (_, value, _) in replica.state.entries():
            encoded = pack(value)
            assert pack(unpack(encoded)) == encoded
            # Freezing what came off the wire changes nothing: it was canonical already.
            assert pack(freeze(unpack(encoded))) == encoded
            assert type(field) is not bytes or pack(unpack(field)) == field
    for encoded in fleet.everything():
        batch = decode_batch(encoded, known_fields=NESTED)
        assert batch.data == encoded
        assert sum(segment.count for segment in batch.segments) == batch.header.count


@EVERY_TYPE
@EXAMPLES
@given(data=st.data())
def test_a_reading_is_its_readers_own(type_name: str, data: st.DataObject) -> None:
    fleet = run(type_name, data.draw(schedules(type_name)))
    datatype = DATATYPES[type_name]
    for replica in fleet.replicas:
        value = replica.value(datatype)
        before = copy.deepcopy(value)
        spoil(value)
        assert repr(replica.value(datatype)) == repr(before)


def spoil(value: Any) -> None:
    """Change everything in a value that can be changed."""
    if isinstance(value, list):
        for item in value:
            spoil(item)
        value.append("spoilt")
    elif isinstance(value, dict):
        for item in value.values():
            spoil(item)
        value["spoilt"] = True


@EVERY_TYPE
@EXAMPLES
@given(data=st.data())
def test_asking_what_an_operation_touches_changes_nothing(
    type_name: str, data: st.DataObject
) -> None:
    fleet = run(type_name, data.draw(schedules(type_name)))
    operation, *arguments = data.draw(OPERATIONS[type_name])
    datatype = DATATYPES[type_name]
    held = fleet[0].dots(datatype)

    def ask(view: Any) -> None:
        touched = datatype.touches(view, operation, tuple(arguments))
        assert held.issuperset(entry[0] for entry in touched)
        assert not view.deltas

    fleet.write(0, datatype, ask)


@EVERY_TYPE
@EXAMPLES
@given(data=st.data())
def test_what_is_deleted_everywhere_leaves_nothing_once_it_is_stable(
    type_name: str, data: st.DataObject
) -> None:
    fleet = run(type_name, data.draw(schedules(type_name)))
    fleet.settle()
    try:
        fleet.act(0, type_name, "delete")
    except LocalError:
        # Rights are out: nothing may be deleted, and nothing was.
        assert type_name in ("bounded_counter", "map")
        return
    assert not fleet[0].exists(DATATYPES[type_name])
    fleet.settle()
    fleet.collect(0, type_name)
    fleet.settle()
    for replica in fleet.replicas:
        assert replica.places() == {}
        assert replica.state.digest() == (0, 0)


def check_collection_is_never_noticed(type_name: str, steps: list[Step]) -> None:
    """Run a schedule with and without its collections: every reading is the same."""
    collected, kept = Fleet(), Fleet()
    reads: tuple[Reads, Reads] = ([frozenset()], [frozenset()])
    for step in (*steps, ("settle",)):
        # One by one, deliveries would bring a collection here and a write there.
        step = ("pull", *step[1:]) if step[0] == "deliver" else step
        carry_out(collected, type_name, step, reads[0])
        if step[0] != "collect":
            carry_out(kept, type_name, step, reads[1])
        for one, other in zip(collected.replicas, kept.replicas, strict=True):
            assert readings(one, type_name) == readings(other, type_name)


def _names_no_dots(step: Step) -> bool:
    """Collections take sequence numbers, so a step that spells out a dot means another one."""
    return step[0] != "write" or "remove" not in step[2] or "log" not in step[2]


def check_with_drawn_steps(type_name: str, steps: list[Step]) -> None:
    """Prepare a drawn schedule for the comparison, and compact documents early."""
    steps = [step for step in steps if _names_no_dots(step)]
    if type_name in ("document", "map"):
        # A document that was compacted refuses a delete that had observed the old updates.
        steps = [(*step[:3], None) if step[0] == "write" else step for step in steps]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(document_module, "COMPACT_AT_COUNT", 2)
        check_collection_is_never_noticed(type_name, steps)


@COLLECTIBLE
@settings(max_examples=100)
@given(data=st.data())
def test_a_collection_is_never_noticed(type_name: str, data: st.DataObject) -> None:
    check_with_drawn_steps(type_name, data.draw(schedules(type_name)))


@pytest.mark.slow
@pytest.mark.timeout(1_200)
@COLLECTIBLE
@settings(max_examples=2_000)
@given(data=st.data())
def test_a_collection_is_never_noticed_in_long_schedules(
    type_name: str, data: st.DataObject
) -> None:
    check_with_drawn_steps(type_name, data.draw(schedules(type_name, length=30)))


@EVERY_TYPE
def test_misuse_is_refused_and_says_how_to_do_better(type_name: str) -> None:
    fleet = Fleet()
    with pytest.raises(UnknownName, match="has no operation") as unknown:
        fleet.act(0, type_name, "no_such_operation")
    assert "delete" in unknown.value.hint
    with pytest.raises(InvalidValue):
        fleet.act(0, type_name, "delete", 1, 2, 3)
    assert fleet[0].places() == {}
    assert fleet.everything() == []


@EVERY_TYPE
def test_a_key_that_was_never_written_reads_as_nothing(type_name: str) -> None:
    replica = Replica(1)
    datatype = DATATYPES[type_name]
    assert not replica.exists(datatype)
    assert replica.value(datatype) in (None, False, 0, [], {}) or type_name == "bounded_counter"
    assert list(datatype.conflicts(None, HarnessReader())) == []
