"""A farewell was believed at once if its packet named the leaver as sender and came from the
leaver's address. Both are whatever a malicious member writes there, and ``LEFT`` is final."""

from __future__ import annotations

from random import Random

from gossip.keyring import Keyring
from gossip.messages import Dead, Packet, State
from gossip.sealing import Seal
from gossip.wire import encode_packet
from tests.gossip.hostile import KEY, SMALL, TAG, Pool, address


def test_a_farewell_with_a_forged_sender_and_source_evicts_nobody() -> None:
    pool = Pool(3, SMALL, seed=1)
    victim = pool.machines[2].me.stamp
    forged = Packet(TAG, victim, 0, (Dead(victim, 2),))
    for _ in range(5):
        session = Random(pool.now_us).randbytes(16)
        seal = Seal("c", Keyring([KEY]), session)
        pool.datagram(1, seal.seal(encode_packet(forged)), address(2))
        pool.advance(1_000_000)
    for member in (1, 3):
        view = pool.machines[member].view(2)
        assert view is not None
        assert view.state is State.ALIVE
    assert all(change.state <= State.SUSPECT for _, change in pool.events)
    assert pool.machines[1].counters.refused["accusation"]


def test_a_true_farewell_is_confirmed_by_silence() -> None:
    pool = Pool(3, SMALL, seed=1)
    leaver = pool.machines[2]
    pool.run(2, leaver.leave(pool.now_us, pool.wall_us))
    pool.advance(2_000_000)
    for member in (1, 3):
        view = pool.machines[member].view(2)
        assert view is not None
        assert view.state is State.LEFT
