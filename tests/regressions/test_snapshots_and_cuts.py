"""Snapshots, ranges and the cuts of evictions: what a cut holds back must come once it may.

Found by the membership machine (four members, evictions that contradict each other, logs
that are cut at once): three members never converged after their operator had decided.
"""

from __future__ import annotations

from crdtmem.batch import GENESIS_HASH, Batch, BatchHeader
from crdtmem.causality import VersionVector
from crdtmem.crdt import SHAPES
from crdtmem.effects import Alarm, Persist
from crdtmem.engine import Engine
from crdtmem.frames import FrameReader
from crdtmem.inbox import Inbox, Verdict
from crdtmem.install import Installation, Kind
from crdtmem.messages import Hello
from crdtmem.replica import Identity
from crdtmem.snapshot import SnapshotHeader
from crdtmem.sync_host import DEFAULT_SYNC
from crdtmem.sync_requests import Requests
from crdtmem.sync_session import Session
from crdtmem.table import State
from simulations.operators import cut_log
from tests.simulations.machines.cluster import TINY, Cluster

NOW_US = 1_700_000_000_000_000
VICTIM = 9


def session(replica: int, vector: dict[int, int]) -> Session:
    """Return an open session to a peer that holds ``vector``."""
    made = Session(replica, True, FrameReader(1 << 20), NOW_US, 1 << 20, 1 << 20)
    made.vector = VersionVector(vector)
    made.hello = Hello("crdtmem", 1, (1, 1), replica, "", "", 1, made.vector, {}, 0, "", 0, 0)
    return made


def test_what_a_cut_held_back_is_asked_for_when_the_cut_rises() -> None:
    """Harm: the survivor that promised too early never hears of it again."""
    requests = Requests(DEFAULT_SYNC)
    peer = session(2, {VICTIM: 9})
    have = VersionVector({VICTIM: 4})
    requests.notice(peer.vector, have, NOW_US)
    assert not requests.plan([peer], have, lambda _: 4, NOW_US).ranges
    later_us = NOW_US + 10_000_000
    assert requests.plan([peer], have, lambda _: 9, later_us).ranges == {peer: [(VICTIM, 5, 9)]}
    assert not requests.plan([peer], VersionVector({VICTIM: 9}), lambda _: 9, later_us).ranges
    assert not requests.lacking


def test_a_snapshot_is_asked_of_somebody_within_the_cuts() -> None:
    """Harm: the nearest peer is the one that was given up, and is asked for ever."""
    requests = Requests(DEFAULT_SYNC)
    near, far = session(VICTIM, {3: 5, VICTIM: 7}), session(2, {3: 5, VICTIM: 4})
    near.round_trip_us, far.round_trip_us = 1_000, 100_000
    for peer in (near, far):
        peer.gaps[3] = 6
        requests.notice(peer.vector, {}, NOW_US)

    def bound(replica: int) -> int:
        return 4 if replica == VICTIM else 1_000

    plan = requests.plan([near, far], VersionVector({VICTIM: 4}), bound, NOW_US)
    assert plan.snapshot_from is far


def test_a_snapshot_that_was_refused_does_not_stand_in_the_way_of_the_next() -> None:
    """Harm: the node waits for the installation of what it refused, until it is restarted."""
    cluster = Cluster(1, 3, TINY)
    a, b, c = (cluster.machine(index) for index in range(3))
    cluster.world.network.cut([c.name], [a.name, b.name])
    for number in range(30):
        row = [["work"], "register", f"k{number}", "set", [number]]
        cluster.ask(0, 0, "write", operations=[row])
        cluster.run(0.1)
    cut_log(a)
    cut_log(b)
    cluster.run(1.0)
    # As if c had promised to take no more of a, and nobody else had said anything.
    allowed = c.engine.membership.evictions.allowed
    allowed[a.engine.replica_id] = 1
    cluster.world.network.heal([c.name], [a.name, b.name])
    cluster.run(5.0)
    assert cluster.world.alarms["snapshot refused"]
    allowed.clear()
    cluster.settle()


def test_a_snapshot_that_waited_for_a_flight_is_judged_when_its_turn_comes() -> None:
    """Harm: it was within all cuts when it came, and a promise was made before it is joined."""
    engine = Engine(Identity(1, "eu"))
    engine.start(NOW_US)
    (persist,) = engine.advance(NOW_US)
    assert isinstance(persist, Persist)
    header = SnapshotHeader(VersionVector({VICTIM: 5}), {VICTIM: (5, GENESIS_HASH)})
    engine.install(Installation(Kind.WHOLE, header, State(SHAPES)), NOW_US)
    assert not [effect for effect in engine.advance(NOW_US) if isinstance(effect, Alarm)]
    engine.membership.evictions.allowed[VICTIM] = 3
    engine.persisted(persist.flight, NOW_US)
    told = [effect for effect in engine.advance(NOW_US) if isinstance(effect, Alarm)]
    assert [alarm.name for alarm in told] == ["snapshot refused"]
    assert not engine.state.vector.get(VICTIM)
    assert not engine.replica.installations


def test_what_follows_from_beyond_a_final_cut_does_not_wait_for_ever() -> None:
    """Harm: it lies in the inbox until a restart, and the node believes that it has work."""
    inbox = Inbox(early_batches=10, early_bytes=1 << 20)

    def offer(replica: int, first: int, **follows: int) -> Verdict:
        dependencies = VersionVector({int(name[1:]): last for name, last in follows.items()})
        header = BatchHeader(replica, first, 1, bytes(16), "", dependencies)
        batch = Batch(header, [], [], bytes([replica, first]), bytes([replica, first]))
        return inbox.offer(batch, {}, {})

    # A member whom the evicted one admitted, one who followed that one, and a stranger to both.
    assert offer(4, 1, r9=6) is Verdict.ACCEPTED
    assert offer(4, 2) is Verdict.ACCEPTED
    assert offer(5, 3, r4=2) is Verdict.ACCEPTED
    assert offer(5, 2, r9=5) is Verdict.ACCEPTED
    assert offer(VICTIM, 6) is Verdict.ACCEPTED
    inbox.settle(VICTIM, 5)
    assert len(inbox) == 1, "only what can still be joined"
    assert inbox.size == 2
    assert offer(4, 3) is Verdict.BEYOND_CUT
    assert offer(5, 4) is Verdict.BEYOND_CUT
    assert offer(6, 2, r4=1) is Verdict.BEYOND_CUT
    assert offer(7, 2, r9=5) is Verdict.ACCEPTED


def test_who_is_linked_hears_of_its_eviction_when_it_becomes_final() -> None:
    """Harm: bound by a promise of its own, it joins nothing that would tell it, and never halts."""
    cluster = Cluster(3, 3)
    a, _, c = (cluster.machine(index) for index in range(3))
    former = c.engine.replica_id
    # What the survivors found out; the streams have been open for long.
    a.engine.epoch.settled[former] = c.engine.state.vector.get(former, 0)
    cluster.ask(0, 0, "write", operations=[[["work"], "register", "k", "set", [1]]])
    cluster.world.run_until(
        lambda: c.up and c.engine.replica_id != former, "new id", within_s=10, step_s=0.1
    )
    assert cluster.world.alarms["halted"] == 1
