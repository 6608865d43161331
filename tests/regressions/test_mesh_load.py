"""Storms: memberlist #299 (system messages starve the broadcasts of users at 1,000 nodes) and
#239, #260 (compound packets over the MTU)."""

from __future__ import annotations

from gossip.config import LAN, Config
from gossip.messages import Alive, Profile, Record
from gossip.wire import encode_message
from tests.gossip.pool import MS, SECOND, World


def test_payloads_pass_through_a_storm_of_news_about_a_thousand_members() -> None:
    world = World(1)
    world.grow(5)
    world.run(5 * SECOND)
    sender = world.hosts[1]
    news = sender.swim._pool.queue
    for member in range(1_000, 1_900):
        profile = Profile("n" * 60, "here", f"10.8.{member >> 8}.{member & 255}:7946")
        news.news(Alive(Record(member, 1, 0, profile)))
    world.call(sender, sender.swim.broadcast(b"mine", world.now_us))
    took = world.until(
        lambda: all(host.delivered for host in world.running() if host.member != 1), 10 * SECOND
    )
    assert took < 2 * SECOND
    assert len(news) > 500, "the storm was still there"


def test_no_packet_is_over_its_size_whatever_there_is_to_tell() -> None:
    config = Config(packet_bytes=712, profile_bytes=512, user_payload_bytes=500)
    world = World(2, config=config, loss=0.2)
    world.grow(8)
    for number in range(40):
        host = world.hosts[1 + number % 8]
        world.call(host, host.swim.broadcast(bytes(number * 12), world.now_us))
        host.swim.annotate(bytes(LAN.annotation_bytes))
        world.run(200 * MS)
    world.kill(3)
    world.run(20 * SECOND)
    assert 600 < world.largest <= 712


def test_a_queue_that_is_full_drops_at_the_door_and_counts() -> None:
    config = Config(user_queue_bytes=2_048)
    world = World(3, config=config)
    host = world.start(world.host(1))
    for number in range(100):
        world.call(host, host.swim.broadcast(b"%03d" % number * 50, world.now_us))
        assert host.swim._pool.queue.octets <= 2_048 + len(encode_message(Alive(host.swim.me)))
    assert host.swim.counters.queue_dropped > 80


def test_a_full_pool_refuses_newcomers_and_keeps_its_members() -> None:
    config = Config(members=4)
    world = World(4, config=config)
    world.grow(4)
    world.run(5 * SECOND)
    world.start(world.host(5), ["10.0.0.1:7946"])
    world.run(30 * SECOND)
    for member in range(1, 5):
        swim = world.hosts[member].swim
        assert {view.record.member for view in swim.members()} == set(range(1, 5)) - {member}
        assert swim.counters.refused["members"]
    assert "full" in [warning.name for warning in world.hosts[1].warnings]
