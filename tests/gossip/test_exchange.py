"""Anti-entropy: what gossip missed is found by the hash on packets, or by the next comparison."""

from __future__ import annotations

from gossip.config import LAN
from gossip.effects import Answer, Exchange
from gossip.exchange import interval_us
from gossip.frame_wire import decode_frame, encode_frame
from gossip.frames import Compare, Frame, PingFrame, Records, Summary
from gossip.messages import Ping, Stamp, State
from tests.gossip.pool import SECOND, World


def pool(count: int) -> World:
    world = World(count)
    world.grow(count)
    world.run(10 * SECOND)
    assert world.whole()
    return world


def answer(world: World, to: int, frame: Frame) -> Frame | None:
    """Give a frame to a member and return its answer."""
    host = world.hosts[to]
    effects = host.swim.receive_stream("s", encode_frame(frame), world.now_us, world.wall(host))
    answers = [effect for effect in effects if isinstance(effect, Answer)]
    world.call(host, [effect for effect in effects if not isinstance(effect, Answer)])
    return decode_frame(answers[0].frame) if answers else None


def test_what_gossip_missed_is_found_by_the_hash_long_before_the_next_comparison() -> None:
    world = pool(3)
    for host in world.running():
        host.swim._pool.agenda.set(("push_pull", 0), 600 * SECOND)
    # As if one had never heard of another, and cannot hear it itself.
    world.split([2], [3])
    table = world.hosts[2].swim._pool.table
    entry = table.get(3)
    assert entry is not None
    table.drop(entry, world.now_us)
    assert world.until(world.whole, 30 * SECOND) < 15 * SECOND
    assert sum(one.swim.counters.push_pulls_early for one in world.running()) >= 1
    world.run(60 * SECOND)
    assert world.whole(), "a helper vouches for it"


def test_a_difference_that_cannot_be_settled_is_not_asked_about_without_end() -> None:
    world = pool(3)
    table = world.hosts[1].swim._pool.table
    table.hash ^= 1
    world.run(600 * SECOND)
    early = world.hosts[1].swim.counters.push_pulls_early
    assert 3 <= early <= 40


def test_equal_tables_are_answered_by_an_empty_summary() -> None:
    world = pool(3)
    sender = world.hosts[2].swim
    frame = answer(world, 1, Frame("region:here", sender.me.stamp, Compare(sender.table_hash)))
    assert frame is not None
    assert frame.body == Summary(sender.table_hash)
    other = answer(world, 1, Frame("region:here", sender.me.stamp, Compare(1)))
    assert other is not None
    assert isinstance(other.body, Summary)
    assert {stamp.member for stamp, _ in other.body.entries} == {1, 2, 3}


def test_only_what_is_wanted_is_sent() -> None:
    world = pool(4)
    stamp = world.hosts[2].swim.me.stamp
    frame = answer(world, 1, Frame("region:here", stamp, Records((), (1, 3, 77))))
    assert frame is not None
    assert isinstance(frame.body, Records)
    assert [record.member for record, _ in frame.body.entries] == [1, 3]


def test_frames_for_others_are_not_answered() -> None:
    world = pool(2)
    stamp = world.hosts[2].swim.me.stamp
    assert answer(world, 1, Frame("wide", stamp, Compare(1))) is None
    assert answer(world, 1, Frame("region:here", stamp, PingFrame(Ping(5, 2, "", 0)))) is None
    swim = world.hosts[1].swim
    assert swim.receive_stream("s", b"noise", world.now_us, 0) == []
    assert swim.counters.refused["pool"] == 1
    assert swim.counters.refused["target"] == 1
    assert swim.counters.refused["Malformed"] == 1


def test_a_probe_over_a_stream_is_answered_with_one_s_record() -> None:
    world = pool(2)
    frame = answer(world, 1, Frame("region:here", Stamp(2, 1, 0), PingFrame(Ping(5, 0, "", 0))))
    assert frame is not None
    assert frame.body.record == world.hosts[1].swim.me  # type: ignore[union-attr]


def test_answers_that_nobody_asked_for_change_nothing() -> None:
    world = pool(2)
    swim = world.hosts[1].swim
    stamp = world.hosts[2].swim.me.stamp
    forged = encode_frame(Frame("region:here", stamp, Records(((swim.me, State.DEAD),), ())))
    assert swim.exchanged(9_999, forged, world.now_us, 0) == []
    assert swim.counters.refused["exchange"] == 1


def test_exchanges_are_bounded_and_each_ends_once() -> None:
    world = World(1, config=LAN.__class__(exchanges=4))
    host = world.host(1)
    seeds = [f"10.9.9.{number}:1" for number in range(1, 30)]
    # Streams that never end, as a driver would not allow.
    out: list[Exchange] = []
    effects = host.swim.start(0, 0, seeds)
    for second in range(1, 20):
        out += [effect for effect in effects if isinstance(effect, Exchange)]
        effects = host.swim.handle_timeout(second * SECOND // 4, 0)
    assert len(out) == 4
    assert host.swim.counters.exchanges_deferred > 0
    assert len({exchange.number for exchange in out}) == 4
    for exchange in out:
        host.swim.exchanged(exchange.number, None, 5 * SECOND, 0)
        host.swim.exchanged(exchange.number, None, 5 * SECOND, 0)
    assert host.swim.counters.refused["exchange"] == 4


def test_comparisons_become_rarer_in_large_pools() -> None:
    assert interval_us(LAN, 32) == 30 * SECOND
    assert interval_us(LAN, 64) == 60 * SECOND
    assert interval_us(LAN, 1_024) == 180 * SECOND
