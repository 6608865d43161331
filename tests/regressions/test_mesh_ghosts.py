"""Members who are not there: memberlist #312 (push-pull revives the gone) and #253 (left nodes
are never reaped), foca #31 (400 nodes seen as 6,000), chitchat #155 (ghosts)."""

from __future__ import annotations

from dataclasses import replace

from gossip.config import LAN, Config
from gossip.frame_wire import encode_frame
from gossip.frames import Frame, Records
from gossip.messages import Profile, Record, Stamp, State
from tests.gossip.pool import SECOND, World


def pushed(world: World, to: int, sender: int, *said: tuple[Record, State]) -> None:
    """Let a member push records out of its table to another."""
    host = world.hosts[to]
    frame = Frame("region:here", world.hosts[sender].swim.me.stamp, Records(said, ()))
    now_us, wall_us = world.now_us, world.wall(host)
    stream = object()
    world._streams[stream] = lambda _frame: None
    world.call(host, host.swim.receive_stream(stream, encode_frame(frame), now_us, wall_us))


def stranger(member: int) -> Record:
    return Record(member, 1, 0, Profile(f"gone-{member}", "here", f"10.7.0.{member & 255}:7946"))


def test_a_table_with_long_gone_members_revives_nobody() -> None:
    world = World(1)
    world.grow(3)
    world.run(5 * SECOND)
    ghosts = [stranger(100 + number) for number in range(50)]
    pushed(world, 1, 2, *((ghost, State.ALIVE) for ghost in ghosts))
    world.run(60 * SECOND)
    for host in world.running():
        assert not any(host.swim.view(ghost.member) for ghost in ghosts)
        assert not any(change.record.member >= 100 for _, change in host.changes)
    assert world.hosts[1].swim.counters.refused["unproven"] == 50


def test_the_dead_are_not_revived_by_a_table_that_holds_them_for_alive() -> None:
    world = World(2)
    world.grow(4)
    world.run(5 * SECOND)
    alive = world.hosts[4].swim.me
    world.kill(4)
    world.until(lambda: world.all_see(4, State.DEAD), 30 * SECOND)
    world.run(60 * SECOND)
    changes = len(world.hosts[1].changes)
    pushed(world, 1, 2, (replace(alive, incarnation=3), State.ALIVE))
    pushed(world, 1, 2, (replace(alive, generation=2), State.SUSPECT))
    world.run(60 * SECOND)
    assert world.all_see(4, State.DEAD)
    assert len(world.hosts[1].changes) == changes


def test_who_left_stays_gone_whatever_tables_say_and_is_reaped() -> None:
    config = Config(reap_left_us=120 * SECOND)
    world = World(3, config=config)
    world.grow(4)
    world.run(5 * SECOND)
    left = world.hosts[4].swim.me
    world.call(world.hosts[4], world.hosts[4].swim.leave(world.now_us, 0))
    world.kill(4)
    world.until(lambda: world.all_see(4, State.LEFT), 10 * SECOND)
    pushed(world, 1, 2, (left, State.ALIVE))
    pushed(world, 1, 2, (replace(left, incarnation=9), State.ALIVE))
    world.run(60 * SECOND)
    assert world.all_see(4, State.LEFT)
    world.run(90 * SECOND)
    assert world.all_see(4, None)
    assert all(host.changes[-1][1].gone for host in world.running() if host.member != 4)


def test_nobody_who_comes_and_goes_under_new_ids_is_counted_for_long() -> None:
    config = Config(members=20, reap_dead_us=30 * SECOND)
    world = World(4, config=config)
    world.grow(5)
    for number in range(60):
        world.start(world.host(1_000 + number), ["10.0.0.1:7946"])
        world.run(SECOND)
        world.kill(1_000 + number)
        world.run(2 * SECOND)
    for member in range(1, 6):
        members = world.hosts[member].swim.members()
        assert len(members) <= 4 * config.members
        assert sum(view.state <= State.SUSPECT for view in members) < 12
    world.run(120 * SECOND)
    for member in range(1, 6):
        assert {view.record.member for view in world.hosts[member].swim.members()} == set(
            range(1, 6)
        ) - {member}


def test_many_members_are_seen_as_so_many() -> None:
    world = World(5, loss=0.1)
    world.grow(40, apart_us=20_000)
    world.run(120 * SECOND)
    for host in world.running():
        assert {view.record.member for view in host.swim.members()} == set(range(1, 41)) - {
            host.member
        }


def test_a_death_out_of_a_table_is_a_question_to_the_dead() -> None:
    world = World(6)
    world.grow(3)
    world.run(5 * SECOND)
    victim = world.hosts[3].swim.me
    pushed(world, 1, 2, (victim, State.DEAD))
    world.run(10 * SECOND)
    assert world.whole()
    assert not any(change.state > State.ALIVE for _, change in world.hosts[1].changes)
    assert world.hosts[3].swim.me.stamp > Stamp(3, 1, 0), "it was told, and refuted"


def test_equal_tables_cost_one_hash() -> None:
    world = World(7)
    world.grow(5)
    world.run(5 * SECOND)
    before = [replace(host.swim.counters) for host in world.running()]
    world.run(10 * LAN.push_pull_interval_us)
    for host, earlier in zip(world.running(), before, strict=True):
        made = host.swim.counters.push_pulls - earlier.push_pulls
        assert made >= 6
        assert host.swim.counters.push_pulls_equal - earlier.push_pulls_equal == made
        assert host.swim.counters.push_pulls_early == earlier.push_pulls_early
