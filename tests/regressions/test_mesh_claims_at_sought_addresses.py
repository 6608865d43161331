"""Who answered at an address that was sought was believed whatever it claimed to be: a later
life of a member that was alive elsewhere."""

from __future__ import annotations

from dataclasses import replace
from random import Random

from gossip.messages import Ack, Alive, Message, Packet, Ping, Stamp, State
from gossip.wire import encode_packet
from tests.gossip.hostile import HOSTILE_ADDRESS, SMALL, TAG, Hostile, Pool, address, record


def _answer(pool: Pool, hostile: Hostile, said: Stamp) -> int:
    """Answer what came to the hostile address as if it were that member; how often."""
    answered = 0
    while pool.caught:
        member, data = pool.caught.pop()
        for message in hostile._own.open(data).messages:
            if isinstance(message, Ping):
                profile = replace(record(said.member).profile, gossip_address=HOSTILE_ADDRESS)
                alive = Alive(replace(record(said.member), **said._asdict(), profile=profile))
                messages: tuple[Message, ...] = (Ack(message.sequence, said, 1, 1), alive)
                packet = encode_packet(Packet(TAG, said, 0, messages))
                pool.datagram(member, hostile.sealed(packet), HOSTILE_ADDRESS)
                answered += 1
    return answered


def test_a_claim_to_be_a_live_member_at_a_seeds_address_is_verified_where_that_one_lives() -> None:
    pool = Pool(3, SMALL, seed=1)
    hostile = Hostile(Random(1), pool)
    machine = pool.machines[1]
    pool.run(1, machine.join([HOSTILE_ADDRESS], pool.now_us, pool.wall_us))
    answered = 0
    for _ in range(100):
        answered += _answer(pool, hostile, Stamp(2, 2, 0))
        pool.advance(100_000)
    assert answered
    view = machine.view(2)
    assert view is not None
    assert view.state is State.ALIVE
    assert view.record.generation == 1
    assert view.record.profile.gossip_address == address(2)
    assert machine.counters.refused["impersonation"]
