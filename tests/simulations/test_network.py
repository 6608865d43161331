"""Streams do what TCP does, and each fault of a link does what its name says."""

from __future__ import annotations

import pytest

from simulations.network import Link
from tests.simulations.wires import MS, SECOND, Ear, Pair, flips, times_ms

# ------------------------------------------------------------------ streams


def test_a_stream_opens_on_both_sides_after_a_round_trip() -> None:
    pair = Pair()
    pair.network.connect("a", "b", pair.refuse)
    pair.run(19.999)
    assert (pair.a.streams, pair.b.streams) == ([], [])
    pair.run(0.001)
    (near,), (far,) = pair.a.streams, pair.b.streams
    assert (near.other, far.other, near.peer_name, far.peer_name) == (far, near, "b", "a")
    assert pair.refused == 0


def test_bytes_arrive_once_in_order_and_late() -> None:
    pair = Pair()
    near, far = pair.connect()
    near.send(b"one")
    near.send(b"two")
    far.send(b"back")
    assert near.unread_bytes == 6
    pair.run(10)
    assert [data for _, data in pair.b.heard] == [b"one", b"two"]
    assert times_ms(pair.b) == [30, 30]
    assert pair.a.text == b"back"
    assert near.unread_bytes == 0


def test_jitter_delays_and_never_reorders() -> None:
    pair = Pair()
    near, _ = pair.connect()
    pair.there.jitter_us = 50 * MS
    for number in range(200):
        near.send(b"%03d" % number)
        pair.run(1)
    pair.run(100)
    assert pair.b.text == b"".join(b"%03d" % number for number in range(200))
    delays = [at - 20 - number for number, at in enumerate(times_ms(pair.b))]
    assert min(delays) >= 10
    assert 40 < max(delays) <= 60


def test_what_is_large_comes_in_pieces() -> None:
    pair = Pair()
    near, _ = pair.connect()
    near.send(bytes(200_000))
    pair.run(10)
    assert [len(data) for _, data in pair.b.heard] == [65_536, 65_536, 65_536, 3_392]


def test_who_does_not_accept_refuses() -> None:
    pair = Pair()
    pair.b.accepts = False
    pair.network.connect("a", "b", pair.refuse)
    pair.run(20)
    assert (pair.refused, pair.a.streams, pair.b.streams) == (1, [], [])


@pytest.mark.parametrize("harm", ["cut", "streams"])
@pytest.mark.parametrize("way", ["there", "back"])
def test_no_stream_opens_where_either_way_is_shut(harm: str, way: str) -> None:
    pair = Pair()
    setattr(getattr(pair, way), harm, harm == "cut")
    pair.network.connect("a", "b", pair.refuse)
    pair.run(20)
    assert (pair.refused, pair.a.streams) == (1, [])


def test_closing_ends_it_after_what_was_sent() -> None:
    pair = Pair()
    near, far = pair.connect()
    near.send(b"last words")
    near.close()
    near.send(b"ignored")
    far.send(b"too late")
    pair.run(10)
    assert pair.b.text == b"last words"
    assert pair.b.ended == [30 * MS]
    assert not far.open
    assert (pair.a.heard, pair.a.ended) == ([], []), "who closes hears nothing more"
    assert pair.network.streams == {}


def test_a_crash_ends_its_streams_and_what_was_sent_before_still_arrives() -> None:
    pair = Pair()
    near, _ = pair.connect()
    near.send(b"sent before")
    pair.network.reset("a")
    near.send(b"from the grave")
    pair.run(10)
    assert pair.b.text == b"sent before"
    assert pair.b.ended == [30 * MS]
    assert pair.a.ended == []


def test_after_a_silent_crash_the_other_side_waits_in_vain() -> None:
    pair = Pair()
    _, far = pair.connect()
    pair.network.reset("a", silent=True)
    far.send(b"anybody there?")
    pair.run(60_000)
    assert (far.open, pair.b.ended, pair.a.heard) == (True, [], [])


def test_who_went_down_meanwhile_hears_nothing() -> None:
    pair = Pair()
    near, _ = pair.connect()
    near.send(b"on the way")
    pair.b.accepts = False
    pair.run(10)
    assert pair.b.heard == []


def test_a_broken_stream_ends_on_both_sides_at_once() -> None:
    pair = Pair()
    near, far = pair.connect()
    near.send(b"lost with it")
    pair.network.break_streams("a", "b")
    pair.run(30)
    assert (pair.a.ended, pair.b.ended, pair.b.heard) == ([20 * MS], [20 * MS], [])
    assert not near.open
    assert not far.open


# ------------------------------------------------------------------ cuts


def test_a_cut_holds_back_what_is_sent_and_heals_in_order() -> None:
    pair = Pair()
    near, _ = pair.connect()
    pair.network.cut(["a"], ["b"])
    near.send(b"1")
    pair.run(5)
    near.send(b"2")
    pair.run(500)
    assert pair.b.heard == []
    pair.network.heal(["a"], ["b"])
    near.send(b"3")
    pair.run(10)
    assert pair.b.text == b"123"


def test_what_was_on_its_way_when_a_cut_began_keeps_its_place() -> None:
    pair = Pair()
    near, _ = pair.connect()
    near.send(b"1")
    pair.run(5)
    pair.network.cut(["a"], ["b"])
    near.send(b"2")
    pair.run(20)
    assert pair.b.heard == []
    pair.network.heal(["a"], ["b"])
    pair.run(10)
    assert pair.b.text == b"12"


def test_what_a_short_cut_held_back_is_not_overtaken_by_what_it_let_through() -> None:
    pair = Pair()
    near, _ = pair.connect()
    near.send(b"1")
    pair.run(8)
    near.send(b"2")
    pair.network.cut(["a"], ["b"])
    pair.run(4)  # 1 would have arrived: it is held back
    pair.network.heal(["a"], ["b"])  # 2 is still on its way, and arrives before 1 can
    near.send(b"3")
    near.close()
    pair.run(20)
    assert pair.b.text == b"123"
    assert len(pair.b.ended) == 1


def test_an_end_too_waits_for_the_cut_to_heal() -> None:
    pair = Pair()
    near, far = pair.connect()
    pair.network.cut(["a"], ["b"])
    near.send(b"before the end")
    near.close()
    pair.run(60_000)
    assert far.open
    pair.network.heal(["a"], ["b"])
    pair.run(10)
    assert (pair.b.text, len(pair.b.ended)) == (b"before the end", 1)


def test_a_one_way_cut_lets_the_other_way_through() -> None:
    pair = Pair()
    near, far = pair.connect()
    pair.network.cut(["a"], ["b"], one_way=True)
    near.send(b"there")
    far.send(b"back")
    pair.run(1_000)
    assert (pair.a.text, pair.b.text) == (b"back", b"")
    pair.network.heal(["a"], ["b"])
    pair.run(10)
    assert pair.b.text == b"there"


def test_cuts_between_groups_cut_each_pair_of_them_and_no_other() -> None:
    pair = Pair()
    for name in ("c", "d"):
        pair.network.add(name, Ear(pair.kernel))
    pair.network.cut(["a", "b"], ["c", "b"])
    cut = {names for names, link in pair.network.links.items() if link.cut}
    assert cut == {("a", "c"), ("c", "a"), ("b", "c"), ("c", "b"), ("a", "b"), ("b", "a")}
    pair.network.heal(["a"], ["b", "c"])
    cut = {names for names, link in pair.network.links.items() if link.cut}
    assert cut == {("b", "c"), ("c", "b")}


# ------------------------------------------------------------------ slow, lossy, lying


def test_bandwidth_queues_what_is_sent_behind_what_was_sent_before() -> None:
    pair = Pair()
    near, far = pair.connect()
    pair.there.bytes_per_s = 100_000
    for _ in range(3):
        near.send(bytes(1_000))
    far.send(bytes(1_000))
    pair.run(200)
    assert times_ms(pair.b) == [40, 50, 60], "10 ms each on the wire, and 10 ms of distance"
    assert times_ms(pair.a) == [30], "the other way is as wide as before"
    near.send(bytes(1_000))
    pair.run(30)
    assert times_ms(pair.b)[3] == 240, "an idle link has no memory"


def test_streams_of_one_link_share_its_bandwidth() -> None:
    pair = Pair()
    first, _ = pair.connect()
    second, _ = pair.connect()
    pair.there.bytes_per_s = 100_000
    first.send(bytes(1_000))
    second.send(bytes(1_000))
    pair.run(100)
    assert times_ms(pair.b) == [60, 70]


def test_a_clogged_link_holds_everything_until_it_is_free() -> None:
    pair = Pair()
    near, _ = pair.connect()
    pair.there.clogged_until_us = pair.kernel.now_us + SECOND
    near.send(b"1")
    pair.run(400)
    near.send(b"2")
    pair.network.send_datagram("a", "b", b"too")
    pair.run(609)
    assert (pair.b.heard, pair.b.datagrams) == ([], [])
    pair.run(1)
    assert (pair.b.text, len(pair.b.datagrams)) == (b"12", 1)


def test_loss_on_a_stream_is_delay() -> None:
    pair = Pair(seed=3)
    near, _ = pair.connect()
    pair.there.loss = 0.3
    for number in range(200):
        near.send(b"%03d" % number)
        pair.run(5_000)
    assert pair.b.text == b"".join(b"%03d" % number for number in range(200))
    late = [at - 20 - 5_000 * number for number, at in enumerate(times_ms(pair.b))]
    assert 30 < sum(delay > 10 for delay in late) < 100
    assert {(delay - 10) % 210 for delay in late} == {0}, "each costs one retransmission"


def test_a_link_that_loses_everything_does_not_stop_the_world() -> None:
    pair = Pair()
    near, _ = pair.connect()
    pair.there.loss = 1.0
    near.send(b"at last")
    pair.run(1_000)
    assert pair.b.heard == []
    pair.run(9_000)
    assert pair.b.text == b"at last"


def lengths_of_bursts(link: Link, draws: int) -> list[int]:
    lengths, run = [], 0
    for _ in range(draws):
        if link.is_lost():
            run += 1
        elif run:
            lengths.append(run)
            run = 0
    return lengths


def test_losses_come_in_bursts() -> None:
    pair = Pair(seed=5)
    link = pair.there
    link.loss = 0.05
    scattered = lengths_of_bursts(link, 5_000)
    link.loss, link.burst, link.burst_loss = 0.0, 0.01, 1.0
    bursts = lengths_of_bursts(link, 5_000)
    assert sum(scattered) / len(scattered) < 1.5
    assert sum(bursts) / len(bursts) > 5, "a burst ends with one in ten"
    assert sum(bursts) < 1_500


def test_corruption_flips_one_bit() -> None:
    pair = Pair(seed=2)
    near, _ = pair.connect()
    pair.there.corrupt = 0.5
    for _ in range(200):
        near.send(bytes(64))
    pair.run(10)
    harmed = [flips(data, bytes(64)) for _, data in pair.b.heard]
    assert len(harmed) == 200
    assert set(harmed) == {0, 1}
    assert 60 < sum(harmed) < 140


def test_duplicates_come_twice_and_replays_come_from_the_past() -> None:
    pair = Pair(seed=2)
    near, _ = pair.connect()
    pair.there.duplicate = 1.0
    near.send(b"x")
    pair.run(10)
    assert pair.b.text == b"xx"
    pair.there.duplicate, pair.there.replay = 0.0, 1.0
    for number in range(20):
        near.send(b"%02d" % number)
    pair.run(10)
    heard = [data for _, data in pair.b.heard[2:]]
    fresh, old = heard[:1] + heard[1::2], heard[2::2]
    assert fresh == [b"%02d" % number for number in range(20)]
    assert all(again in fresh[: place + 1] for place, again in enumerate(old))
    assert len(old) == 19
