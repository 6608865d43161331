"""Anomalies that other replicated datatypes have shown, one test each.

Each docstring says where the anomaly was seen, or what exactly goes wrong.
"""

from __future__ import annotations

import random
from typing import Any

import pytest

from crdtmem.batch import decode_batch
from crdtmem.codec import freeze, pack
from crdtmem.crdt import DATATYPES
from crdtmem.entries import Stamp, pack_dot
from crdtmem.errors import InsufficientRights
from crdtmem.resolve import RESOLVERS
from tests.conformance.harness import Fleet, Replica, deliver_all, join_snapshots

COUNTER, MAP, SET = DATATYPES["counter"], DATATYPES["map"], DATATYPES["set"]
REMOVE_WINS = DATATYPES["set_remove_wins"]


def values(fleet: Fleet, type_name: str) -> list[Any]:
    """Return what every replica reads."""
    return [replica.value(DATATYPES[type_name]) for replica in fleet.replicas]


def test_anomaly_4_an_old_removal_does_not_kill_a_recreated_key() -> None:
    """Riak's doomstone: a removal outlives what it removed, and removes the next one too."""
    fleet = Fleet(3)
    fleet.act(0, "map", "set", "name", "old")
    fleet.settle()
    fleet.act(1, "map", "delete", "name")
    # The removal has not reached the first, which deletes and creates anew by itself.
    fleet.act(0, "map", "delete")
    fleet.act(0, "map", "set", "name", "new")
    fleet.settle()
    assert values(fleet, "map") == [{"name": "new"}] * 3


def test_anomaly_9_a_counter_is_not_counted_twice_when_its_owner_returns() -> None:
    """Pekko's pruning: a node's share is taken over, the node returns with its old share."""
    fleet = Fleet(3)
    fleet.act(0, "counter", "increment", 5)
    fleet.pull(1, 0)
    fleet.act(1, "counter", "reset")
    fleet.act(1, "counter", "increment", 5)
    fleet.pull(2, 1)
    assert fleet[2].value(COUNTER) == 5
    # The first comes back with its total, having seen nothing of this, and counts on.
    fleet.act(0, "counter", "increment", 1)
    fleet.settle()
    assert values(fleet, "counter") == [6, 6, 6]


@pytest.mark.parametrize("type_name", ["counter", "set", "set_remove_wins", "map", "log"])
def test_anomaly_13_joining_deltas_equals_joining_states(type_name: str) -> None:
    """Delta implementations whose delta join and state join were written apart, and differ."""
    operations: dict[str, list[tuple[Any, ...]]] = {
        "counter": [("increment", 3), ("reset",), ("decrement", 1)],
        "set": [("add", "a"), ("remove", "a"), ("add", "b")],
        "set_remove_wins": [("add", "a"), ("remove", "a"), ("add", "a")],
        "map": [("set", ["a", "b"], 1), ("delete", "a"), ("apply", "a", "counter", "increment")],
        "log": [("append", 1), ("remove", [(1, 1)]), ("append", 2)],
    }
    fleet = Fleet(3)
    for number, operation in enumerate(operations[type_name] * 2):
        fleet.act(number % 3, type_name, *operation)
        if number % 2:
            fleet.pull((number + 1) % 3, number % 3)
    by_states = join_snapshots(join_snapshots(fleet[0], fleet[1]), fleet[2])
    by_deltas = Replica(0)
    deliver_all(by_deltas, fleet.everything())
    assert by_states.places() == by_deltas.places()
    assert by_states.vector == by_deltas.vector


def test_anomaly_15_ties_are_broken_alike_whatever_the_order_of_arrival() -> None:
    """crdt-merge and cr-sqlite: equal timestamps resolved by which side is "mine"."""
    entries = [
        (pack_dot(replica, 1), freeze(value), Stamp(replica, 7, 7, author="same"))
        for replica, value in ((1, {"a": 1}), (2, "b"), (3, 2.5), (4, None))
    ]
    generator = random.Random(15)
    for resolver in RESOLVERS.values():
        expected = pack(resolver.resolve(tuple(entries)))
        for _ in range(10):
            generator.shuffle(entries)
            assert pack(resolver.resolve(tuple(entries))) == expected


def test_anomaly_16_equal_states_have_equal_metadata() -> None:
    """Clocks that remember the way here: equal contents that never compare equal."""
    fleet = Fleet(2)
    for _ in range(5):
        fleet.act(0, "set", "add", "a")
        fleet.act(0, "map", "apply", "n", "counter", "increment")
        fleet.act(0, "set", "remove", "a")
    fleet.settle()
    # The second has joined it step by step, the third at once by a snapshot.
    by_snapshot = join_snapshots(Replica(0), fleet[0])
    assert by_snapshot.places() == fleet[1].places()
    assert by_snapshot.state.digest() == fleet[1].state.digest()
    # And what was removed has left nothing that could differ.
    assert not [place for place in fleet[1].places() if place[0] == SET.code]


def test_anomaly_20_adding_again_does_not_forget_who_saw_what() -> None:
    """A re-insert that starts its clock anew is killed by a removal of the first insert."""
    fleet = Fleet(2)
    fleet.act(0, "set", "add", "a")
    fleet.settle()
    fleet.act(1, "set", "remove", "a")
    fleet.act(0, "set", "remove", "a")
    fleet.act(0, "set", "add", "a")
    fleet.settle()
    assert values(fleet, "set") == [["a"], ["a"]]


def test_anomaly_21_removing_a_counter_from_a_map_resets_it_exactly() -> None:
    """Riak's reset-remove: after a remove and a concurrent increment, old counts come back."""
    fleet = Fleet(2)
    fleet.act(0, "map", "apply", "n", "counter", "increment", 5)
    fleet.settle()
    fleet.act(1, "map", "delete", "n")
    fleet.act(0, "map", "apply", "n", "counter", "increment", 2)
    fleet.settle()
    assert values(fleet, "map") == [{"n": 2}, {"n": 2}]
    # Nor do they when the member is made again where it was removed.
    fleet.act(1, "map", "apply", "n", "counter", "increment", 10)
    fleet.settle()
    assert values(fleet, "map") == [{"n": 12}, {"n": 12}]


def test_anomaly_22_a_removal_is_not_lost_with_the_field_that_it_was_in() -> None:
    """Nested maps that drop a field, and with it a removal that was still to take effect."""
    fleet = Fleet(3)
    fleet.act(0, "map", "apply", ["people", "banned"], "set_remove_wins", "add", "eve")
    fleet.pull(1, 0)
    fleet.act(1, "map", "apply", ["people", "banned"], "set_remove_wins", "remove", "eve")
    fleet.act(1, "map", "delete", "people")
    assert fleet[1].value(MAP) == {}
    # The third, which knows of neither, adds the same element: the removal still wins.
    fleet.act(2, "map", "apply", ["people", "banned"], "set_remove_wins", "add", "eve")
    fleet.settle()
    assert values(fleet, "map") == [{}, {}, {}]


def test_anomaly_23_a_removal_without_context_spares_additions_it_never_saw() -> None:
    """A blind remove that removes by name deletes what another region has just added."""
    fleet = Fleet(2)
    fleet.act(0, "set", "add", "a")
    fleet.settle()
    fleet.act(0, "set", "remove", "a")
    fleet.act(0, "map", "delete")
    fleet.act(1, "set", "add", "a")
    fleet.act(1, "map", "set", "name", "unseen")
    fleet.settle()
    assert values(fleet, "set") == [["a"], ["a"]]
    assert values(fleet, "map") == [{"name": "unseen"}] * 2


def test_anomaly_27_equal_values_have_equal_encodings() -> None:
    """Encodings that depend on insertion order or platform: replicas gossip for ever."""
    forwards = {"a": 1, "b": [1, 1.0, True, {"y": None, "x": "é"}], "c": float("nan")}
    backwards = {"c": -float("nan"), "b": (1, 1.0, True, {"x": "é", "y": None}), "a": 1}
    encoded: list[bytes] = []
    for value in (forwards, backwards):
        fleet = Fleet(1)
        fleet.act(0, "register", "set", value)
        fleet.act(0, "set", "add", value)
        fleet.act(0, "map", "set", ["a", "b"], value)
        encoded.append(b"".join(fleet.everything()))
    assert encoded[0] == encoded[1]


def test_anomaly_32_escrow_is_not_overspent_after_a_restore() -> None:
    """A restored replica that keeps its id spends rights that it had spent already."""
    fleet = Fleet(2)
    fleet.act(0, "bounded_counter", "mint", 10)
    fleet.act(0, "bounded_counter", "transfer", 5, 2)
    backup = list(fleet.everything())
    fleet.settle()
    fleet.act(1, "bounded_counter", "consume", 5)
    # The second is restored from before it spent. It comes back under a new id.
    restored = Replica(3)
    deliver_all(restored, backup)
    fleet.replicas[1] = restored
    fleet.batches[3] = []
    with pytest.raises(InsufficientRights) as refused:
        fleet.act(1, "bounded_counter", "consume", 1)
    assert refused.value.details["held"] == 0
    # The rights of the old id are stranded, and shown, not reclaimed.
    assert refused.value.details["holders"] == {f"{1:016x}": 5, f"{2:016x}": 5}


def test_an_addition_beside_a_removal_does_not_come_back_when_it_is_collected() -> None:
    """Collecting the removal alone would bring the addition beside it back to life."""
    fleet = Fleet(3)
    fleet.act(0, "set_remove_wins", "add", "a")
    fleet.act(1, "set_remove_wins", "remove", "a")
    fleet.settle()
    fleet.collect(2, "set_remove_wins")
    assert fleet[2].places() == {}
    fleet.settle()
    assert values(fleet, "set_remove_wins") == [[], [], []]


def test_a_removal_is_not_collected_while_an_addition_may_be_on_its_way() -> None:
    """Collection with an addition in flight that has not seen the removal."""
    fleet = Fleet(3)
    fleet.act(0, "set_remove_wins", "remove", "a")
    fleet.act(1, "set_remove_wins", "add", "a")
    # Everyone has acknowledged the removal, but the first has not joined what the second
    # wrote before it acknowledged: that is what the second half of "stable" is for.
    for index in (1, 2):
        fleet.pull(index, 0)
        fleet.acknowledge(index)
    fleet.acknowledge(0)
    fleet.collect(0, "set_remove_wins")
    fleet.settle()
    assert values(fleet, "set_remove_wins") == [[], [], []]


def test_increment_reset_collect_increment() -> None:
    """A baseline that goes too early, or a field that is continued after it went."""
    fleet = Fleet(2)
    fleet.act(0, "counter", "increment", 5)
    fleet.settle()
    fleet.act(1, "counter", "reset")
    fleet.settle()
    fleet.collect(1, "counter")
    fleet.settle()
    assert not any(len(value) > 3 for _, value, _ in _slot(fleet[0]))
    fleet.act(0, "counter", "increment", 1)
    fleet.settle()
    assert values(fleet, "counter") == [1, 1]


def _slot(replica: Replica) -> tuple[Any, ...]:
    place = replica.place(COUNTER, "k")
    return place if place and type(place[0]) is tuple else (place,)


def test_a_reset_of_what_was_read_elsewhere_spares_what_came_since() -> None:
    """A read in one region, and its write in another that has joined more than was read."""
    fleet = Fleet(3)
    fleet.act(0, "counter", "increment", 5)
    fleet.settle()
    seen = fleet[1].dots(COUNTER)
    fleet.act(2, "counter", "increment", 3)
    fleet.pull(0, 2)
    fleet.act(0, "counter", "reset", observed=seen)
    fleet.settle()
    assert values(fleet, "counter") == [3, 3, 3]


def test_a_batch_is_stored_and_forwarded_as_it_was_written() -> None:
    """Re-encoding on the way makes two encodings of one batch, and checksums that differ."""
    fleet = Fleet(2)
    fleet.act(0, "map", "apply", "log", "log", "extend", [1, 2])
    (data,) = fleet.everything()
    assert decode_batch(data).data is data
