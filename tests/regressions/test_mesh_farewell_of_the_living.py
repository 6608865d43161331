"""A farewell that a member never said evicted it for good where the one question about it was
lost, or where it was held for dead already: LEFT is final for a life, and so nobody asked that
member again although it went on knocking."""

from __future__ import annotations

from dataclasses import replace

from gossip.config import LAN
from gossip.messages import Ack, Alive, Dead, Packet, PingRequest, State
from gossip.sealing import Seal
from gossip.wire import encode_packet
from tests.gossip.alone import Alone, record
from tests.gossip.pool import SECOND, World


def _forge(world: World, victim: int, to: int) -> None:
    """Let one host hear a farewell in another's name."""
    host, said = world.hosts[to], world.hosts[victim].swim.me.stamp
    data = Seal.plain("test").seal(
        encode_packet(Packet("region:here", said, 0, (Dead(said, victim),)))
    )
    effects = host.swim.receive_datagram(data, "10.9.9.9:1", world.now_us, world.wall(host))
    world.call(host, effects)


def test_a_false_farewell_whose_question_was_lost_is_taken_back() -> None:
    world = World(1)
    world.grow(4)
    world.run(5 * SECOND)
    world.split([1], [2])
    _forge(world, 2, 1)
    world.until(lambda: world.state(1, 2) is State.LEFT, 3 * SECOND)
    world.heal()
    world.until(world.whole, 30 * SECOND)


def test_a_false_farewell_of_the_other_half_of_a_split_does_not_end_the_search_for_it() -> None:
    world = World(2)
    world.grow(4)
    world.run(5 * SECOND)
    world.split([1, 2], [3, 4])
    world.until(lambda: world.state(1, 3) is world.state(1, 4) is State.DEAD, 60 * SECOND)
    for victim in (3, 4):
        for to in (1, 2):
            _forge(world, victim, to)
    world.run(5 * SECOND)
    assert world.state(1, 3) is State.LEFT
    world.heal()
    world.until(world.whole, 120 * SECOND)


def test_hearsay_and_late_packets_do_not_bring_back_who_left() -> None:
    alone = Alone()
    gone, other = record(2), record(3)
    alone.meet(gone, other)
    alone.hear(other, Dead(gone.stamp, 2))
    alone.wait(2 * SECOND)
    view = alone.swim.view(2)
    assert view is not None
    assert view.state is State.LEFT
    alone.hear(other, Alive(replace(gone, incarnation=1)))
    alone.hear(gone, Alive(gone))
    alone.wait(10 * SECOND)
    view = alone.swim.view(2)
    assert view is not None
    assert view.state is State.LEFT


def test_nobody_else_brings_back_a_life_that_left() -> None:
    """Neither from another address, nor by vouching for it."""
    alone = Alone()
    gone, other = record(2), record(3)
    alone.meet(gone, other)
    alone.hear(other, Dead(gone.stamp, 2))
    alone.wait(2 * SECOND)
    elsewhere = replace(record(2, address="10.6.6.6:1"), incarnation=1)
    alone.hear(elsewhere, Alive(elsewhere))
    assert "10.6.6.6:1" not in {to for to, _ in alone.questions()}
    denial = replace(gone, incarnation=1)
    alone.hear(other, Alive(denial))
    questions = [(to, ping) for to, ping in alone.questions() if to == gone.profile.gossip_address]
    assert questions
    alone.wait(LAN.probe_timeout_us)
    assert not [one for _, one in alone.sent if isinstance(one, PingRequest)]
    alone.hear(other, Ack(questions[0][1].sequence, denial.stamp, 0, 0))
    view = alone.swim.view(2)
    assert view is not None
    assert view.state is State.LEFT
    alone.answer(questions[0][1], denial)
    assert alone.listed(2) == denial
    view = alone.swim.view(2)
    assert view is not None
    assert view.state is State.ALIVE
