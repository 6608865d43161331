"""What members acknowledged outlives a crash, at a price that does not grow with the traffic."""

from __future__ import annotations

from crdtmem.causality import VersionVector
from crdtmem.codec import pack
from crdtmem.effects import Persist
from crdtmem.epoch import Epoch
from crdtmem.errors import StoreFailed
from crdtmem.kept_acknowledgements import ACKNOWLEDGED, BYTES_PER_S, KeptAcknowledgements
from tests.engines import EngineNode, World


def keeping(flights: EngineNode) -> int:
    """Return how many flights carried acknowledgements."""
    return sum(ACKNOWLEDGED in flight.metadata for flight in flights.flights)


def test_what_was_acknowledged_is_known_after_a_crash_of_everyone() -> None:
    world = World()
    a, b, c = world.cluster("abc")
    b.put("k", 1)
    world.settle()
    vector = VersionVector(a.engine.state.vector)
    world.spend(2)
    c.kill()
    gone = c.id
    for node in (a, b):
        node.kill()
        node.start()
    for node in (a, b):
        assert node.engine.epoch.acknowledged(gone).dominates(vector)
        assert node.engine.epoch.stable_vector(VersionVector(vector)) == vector
        assert node.engine.epoch.established() == {a.id, b.id, gone}


def test_the_last_second_may_be_lost_and_nothing_else() -> None:
    world = World()
    a, b = world.cluster("ab")
    world.spend(2)
    before = VersionVector(a.engine.state.vector)
    a.put("k", 1)
    world.settle()
    assert a.engine.epoch.acknowledged(b.id).dominates(a.engine.state.vector)
    a.kill()
    a.start()
    known = a.engine.epoch.acknowledged(b.id)
    assert known.dominates(before)
    assert not known.dominates(a.engine.state.vector)


def test_it_is_written_once_a_second_at_most_and_not_at_all_when_nothing_happens() -> None:
    world = World()
    a, b = world.cluster("ab")
    world.spend(2)
    before, began_us = (keeping(a), keeping(b)), world.now_us
    for number in range(500):
        a.put(f"k{number}", number)
        b.put(f"k{number}", -number)
    world.spend(1.5)
    passed_s = (world.now_us - began_us) / 1e6
    assert min(len(node.flights) for node in (a, b)) > 500
    for node, earlier in zip((a, b), before, strict=True):
        assert 1 <= keeping(node) - earlier <= passed_s
    world.spend(3)
    still = len(a.flights), len(b.flights)
    world.spend(60)
    assert (len(a.flights), len(b.flights)) == still


def test_it_rides_on_a_flight_that_is_staged_anyway() -> None:
    world = World()
    (a,) = world.cluster("a")
    a.run(a.engine.acknowledge(9, {a.id: 1}, world.now_us))
    world.spend(0.5)
    a.put("early", 1)
    assert keeping(a) == 0
    # The timer and the write in one turn, before anything is staged.
    world.now_us += 600_000
    a.engine.handle_timeout(world.now_us)
    a.put("k", 1)
    (flight,) = [f for f in a.flights if ACKNOWLEDGED in f.metadata]
    assert [batch.header.replica for batch in flight.batches] == [a.id]
    world.spend(5)
    assert keeping(a) == 1


def test_a_flight_that_failed_leaves_it_due() -> None:
    world = World()
    (a,) = world.cluster("a")
    engine = a.engine
    engine.acknowledge(9, {a.id: 1}, world.now_us)
    engine.handle_timeout(world.now_us + 2_000_000)
    (persist,) = engine.advance(world.now_us)
    assert isinstance(persist, Persist)
    assert ACKNOWLEDGED in persist.flight.metadata
    assert persist.flight.batches == []
    assert engine.advance(world.now_us) == []
    engine.persist_failed(persist.flight, StoreFailed("no"))
    (again,) = engine.advance(world.now_us)
    assert isinstance(again, Persist)
    assert again.flight.metadata.keys() == {ACKNOWLEDGED}


def test_what_takes_long_to_write_is_written_less_often() -> None:
    epoch = Epoch(1)
    for member in range(2, 120):
        epoch.acknowledge(member, dict.fromkeys(range(1, 120), 1 << 40))
    kept = KeptAcknowledgements(epoch)
    kept.note(0)
    assert kept.next_deadline_us() == 1_000_000
    kept.handle_timeout(1_000_000)
    size = len(kept.metadata()[ACKNOWLEDGED])
    assert size > 2 * BYTES_PER_S
    epoch.acknowledge(2, {1: 1 << 41})
    kept.note(1_000_000)
    pause_us = (kept.next_deadline_us() or 0) - 1_000_000
    assert size / (pause_us / 1e6) < 2 * BYTES_PER_S


def test_a_new_id_does_not_inherit_what_the_former_had_been_told() -> None:
    world = World()
    a, b = world.cluster("ab")
    a.put("k", 1)
    world.settle()
    world.spend(2)
    a.kill()
    former, copied = a.id, a.disk.copy()
    a.disk = copied
    a.start()
    assert a.id != former
    assert ACKNOWLEDGED not in a.store.metadata()
    assert not a.engine.epoch.acknowledged(b.id).get(a.id)


def test_what_cannot_be_read_is_learned_anew() -> None:
    world = World()
    (a,) = world.cluster("a")
    a.put("k", 1)
    for nonsense in (b"\xc1", pack(["no", "epoch"]), pack({"stable": [1], "acknowledged": []})):
        a.store.put_metadata({ACKNOWLEDGED: nonsense})
        a.store.sync()
        a.kill()
        a.alarms.clear()
        a.start()
        assert [alarm.name for alarm in a.alarms] == ["acknowledgements"]
        assert a.get("k") == 1
