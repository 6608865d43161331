"""Both pools of a node share one seal. A later life of a neighbour, claimed and "proven" by
somebody else in the wide-area pool, where the neighbour was not known, made the node refuse the
neighbour's packets in their own region as those of a life that was over."""

from __future__ import annotations

from dataclasses import replace
from random import Random

from gossip.keyring import Keyring
from gossip.messages import Ack, Alive, Message, Packet, Ping, Stamp, State
from gossip.sealing import Seal
from gossip.wire import encode_packet
from tests.gossip.hostile import HOSTILE_ADDRESS, KEY, SMALL, Pool, record, two_regions


def _claim(pool: Pool, claimed: Stamp) -> None:
    """Knock at the gateway's wide-area pool as that life, and answer whatever it asks."""
    seal = Seal("c", Keyring([KEY]), Random(claimed.generation).randbytes(16))
    reader = Seal("c", Keyring([KEY]), b"hostile receiver")
    profile = replace(record(3).profile, gossip_address=HOSTILE_ADDRESS)
    alive = Alive(replace(record(3), **claimed._asdict(), profile=profile))

    def say(*messages: Message) -> None:
        packet = encode_packet(Packet("wide", claimed, 0, messages))
        pool.datagram(1, seal.seal(packet), HOSTILE_ADDRESS)

    say(Ping(1, 1, HOSTILE_ADDRESS, 0))
    for _ in range(20):
        while pool.caught:
            member, data = pool.caught.pop()
            for message in reader.open(data).messages:
                if isinstance(message, Ping) and member == 1:
                    say(Ack(message.sequence, claimed, 1, 1), alive)
        pool.advance(100_000)


def test_a_life_claimed_in_the_wide_area_does_not_shut_out_a_neighbour() -> None:
    pool = Pool(6, SMALL, 3, two_regions)
    gateway = pool.machines[1]
    assert gateway.is_gateway
    for generation in (2, 3, 4):
        _claim(pool, Stamp(3, generation, 0))
    far = gateway._wide.view(3)
    assert far is not None
    assert far.record.generation == 4
    pool.advance(10_000_000)
    view = gateway.view(3)
    assert view.state is State.ALIVE
    assert view.record.generation == 1
    assert not view.degraded
    assert gateway.counters["datagrams refused: Replayed"] == 0
