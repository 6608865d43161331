"""Asked whether it had left, a member's answer was overtaken by somebody else's: a stranger had
sent the recorded question to that other, whose answer counted as the first one's silence."""

from __future__ import annotations

from random import Random

from gossip.keyring import Keyring
from gossip.messages import Dead, Packet, Ping, State
from gossip.sealing import Seal
from gossip.wire import encode_packet
from tests.gossip.hostile import HOSTILE_ADDRESS, KEY, LATENCY_US, SMALL, TAG, Hostile, Pool


def test_another_members_answer_is_not_the_silence_of_the_one_asked() -> None:
    pool = Pool(3, SMALL, seed=1)
    hostile = Hostile(Random(1), pool)
    victim = pool.machines[2].me.stamp
    forged = encode_packet(Packet(TAG, victim, 0, (Dead(victim, 2),)))
    pool.datagram(3, hostile.sealed(forged), HOSTILE_ADDRESS)
    reader = Seal("c", Keyring([KEY]), b"reader of traffic"[:16])
    question = pool.heard[-1]
    assert any(isinstance(said, Ping) for said in reader.open(question).messages)
    # It reaches the other member first.
    pool.datagram(1, question, HOSTILE_ADDRESS)
    pool.advance(60 * LATENCY_US)
    pool.advance(5_000_000)
    view = pool.machines[3].view(2)
    assert view is not None
    assert view.state is State.ALIVE
    assert all(change.state <= State.SUSPECT for _, change in pool.events)
    assert pool.machines[3].counters.refused["answer"]
