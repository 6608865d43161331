"""The queue and the windows: bounds, order, shares, and each payload fresh once."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gossip.broadcast import Queue, Windows, retransmit_limit
from gossip.config import Config
from gossip.errors import TooLarge
from gossip.messages import Alive, Channel, Dead, Profile, Record, Stamp, Suspect, User
from gossip.packing import Packing
from gossip.wire import decode_message, decode_packet
from tests.gossip import shapes_drawn as drawn

_ROOM = 1_000


def _suspect(member: int, incarnation: int = 0) -> Suspect:
    return Suspect(Stamp(member, 1, incarnation), 99)


def _payload(number: int, size: int = 40, channel: Channel = Channel.USER) -> User:
    return User(5, 1, number, bytes(size), channel)


def _told(taken: list[bytes]) -> list[object]:
    return [decode_message(one) for one in taken]


def test_news_is_passed_on_a_logarithmic_number_of_times() -> None:
    for members, digits in ((1, 1), (9, 1), (10, 2), (99, 2), (100, 3), (1_000, 4)):
        assert retransmit_limit(4, members) == 4 * digits
        queue = Queue(Config(), _ROOM)
        queue.news(_suspect(1))
        told = 0
        while queue:
            told += len(queue.take(_ROOM, members))
        assert told == 4 * digits


def test_newer_news_of_a_member_replaces_older_and_starts_anew() -> None:
    queue = Queue(Config(), _ROOM)
    queue.news(_suspect(1))
    assert _told(queue.take(_ROOM, 3)) == [_suspect(1)]
    queue.news(Dead(Stamp(1, 1, 0), 99))
    told = []
    while queue:
        told += _told(queue.take(_ROOM, 3))
    assert told == [Dead(Stamp(1, 1, 0), 99)] * 4


def test_the_least_told_goes_first_and_equals_in_their_order() -> None:
    queue = Queue(Config(), _ROOM)
    size = len(b"\x96") + 6
    for member in (1, 2, 3):
        queue.news(_suspect(member))
    first = _told(queue.take(2 * size, 9))
    assert first == [_suspect(1), _suspect(2)]
    assert _told(queue.take(2 * size, 9)) == [_suspect(3), _suspect(1)]
    assert _told(queue.take(2 * size, 9)) == [_suspect(2), _suspect(3)]


def test_nothing_comes_twice_into_one_packet() -> None:
    queue = Queue(Config(), _ROOM)
    queue.news(_suspect(1))
    queue.user(_payload(1))
    queue.user(_payload(1, channel=Channel.KEYS), slot="keys")
    assert len(queue.take(_ROOM, 3)) == 3


def test_the_queue_of_news_is_bounded_at_the_door() -> None:
    queue = Queue(Config(members=10), _ROOM)
    for member in range(1, 101):
        queue.news(_suspect(member))
        assert len(queue) <= 20
    assert queue.dropped == 80


def test_the_queue_of_payloads_is_bounded_in_bytes_and_drops_the_most_told() -> None:
    config = Config(user_queue_bytes=1_024)
    queue = Queue(config, _ROOM)
    queue.user(_payload(1))
    queue.take(_ROOM, 3)
    for number in range(2, 200):
        queue.user(_payload(number))
        assert queue.octets <= 1_024
    assert queue.dropped
    numbers = [
        message.number for message in _told(queue.take(_ROOM, 3)) if isinstance(message, User)
    ]
    assert 1 not in numbers


def test_a_storm_of_news_does_not_starve_payloads() -> None:
    queue = Queue(Config(), _ROOM)
    for member in range(1, 1_001):
        queue.news(_suspect(member))
    for number in range(1, 21):
        queue.user(_payload(number))
    delivered = set()
    for _ in range(6):
        for message in _told(queue.take(_ROOM, 1_000)):
            if isinstance(message, User):
                delivered.add(message.number)
    assert delivered == set(range(1, 21))


def test_a_payload_larger_than_the_share_is_told_in_a_storm_all_the_same() -> None:
    queue = Queue(Config(), _ROOM)
    for member in range(1, 1_001):
        queue.news(_suspect(member))
    queue.user(_payload(1, 512))
    told = _told(queue.take(_ROOM, 1_000))
    assert [message for message in told if isinstance(message, User)] == [_payload(1, 512)]
    assert len(told) > 20


def test_payloads_do_not_starve_news() -> None:
    queue = Queue(Config(), _ROOM)
    for number in range(1, 500):
        queue.user(_payload(number))
    queue.news(_suspect(1))
    assert _suspect(1) in _told(queue.take(_ROOM, 3))


def test_the_meshs_own_payloads_go_before_users_and_replace_each_other() -> None:
    queue = Queue(Config(), _ROOM)
    for number in range(1, 100):
        queue.user(_payload(number))
    queue.user(_payload(100, channel=Channel.KEYS), slot="keys")
    queue.user(_payload(101, channel=Channel.KEYS), slot="keys")
    told = _told(queue.take(_ROOM, 3))
    assert told[0] == _payload(101, channel=Channel.KEYS)
    assert _payload(100, channel=Channel.KEYS) not in told


def test_what_cannot_be_told_is_refused_at_the_door() -> None:
    queue = Queue(Config(), 300)
    with pytest.raises(TooLarge):
        queue.user(_payload(1, 513))
    with pytest.raises(TooLarge):
        queue.user(_payload(1, 400))
    with pytest.raises(TooLarge):
        queue.news(Alive(Record(1, 1, 1, Profile("n", "eu", "h:1", extra=bytes(400)))))
    assert not queue
    assert queue.octets == 0


def test_a_member_can_be_forgotten() -> None:
    queue = Queue(Config(), _ROOM)
    queue.news(_suspect(1))
    queue.forget(1)
    queue.forget(2)
    assert queue.take(_ROOM, 3) == []


@given(st.lists(drawn.news | drawn.users, max_size=30), st.integers(0, 1_200), st.integers(1, 50))
def test_what_is_taken_fits_and_comes_to_an_end(
    messages: list[object], room: int, members: int
) -> None:
    queue = Queue(Config(), 4_096)
    for message in messages:
        if isinstance(message, User):
            queue.user(message)
        elif isinstance(message, (Alive, Suspect, Dead)):
            queue.news(message)
    waiting = len(queue)
    limit = retransmit_limit(4, members)
    told = 0
    while taken := queue.take(room, members):
        assert sum(map(len, taken)) <= room
        told += len(taken)
        assert told <= waiting * limit
    if room >= 1_200:
        assert not queue
        assert queue.octets == 0


# ------------------------------------------------------------------ packets


@given(
    st.lists(drawn.messages, max_size=20),
    st.lists(drawn.news, max_size=40),
    drawn.stamps,
    drawn.uint64,
)
def test_no_packet_is_above_its_size_and_nothing_meant_is_lost(
    messages: list[object], news: list[Alive | Suspect | Dead], sender: Stamp, table_hash: int
) -> None:
    config = Config()
    packing = Packing("region:eu", config, overhead=43)
    queue = Queue(config, packing.room)
    for message in news:
        queue.news(message)
    packets = packing.packets(sender, table_hash, messages, queue, 3)  # type: ignore[arg-type]
    assert all(len(packet) + 43 <= config.packet_bytes for packet in packets)
    said = [one for packet in packets for one in decode_packet(packet).messages]
    assert said[: len(messages)] == messages
    assert (len(said) > len(messages)) or not news or len(packets) > 0


def test_an_empty_queue_and_no_messages_make_no_packet() -> None:
    packing = Packing("wide", Config(), 43)
    assert packing.packets(Stamp(1, 1, 0), 0, (), Queue(Config(), packing.room)) == []


# ------------------------------------------------------------------ windows


def test_a_payload_is_fresh_once_in_whatever_order() -> None:
    windows = Windows(10)
    for number in (5, 3, 4, 1_000, 999, 1):
        assert windows.fresh(1, 1, number)
        assert not windows.fresh(1, 1, number)


def test_a_payload_below_the_window_counts_as_seen() -> None:
    windows = Windows(10)
    assert windows.fresh(1, 1, Windows.SPAN + 10)
    assert not windows.fresh(1, 1, 10)
    assert windows.fresh(1, 1, 11)


def test_a_new_generation_numbers_anew_and_an_old_one_is_over() -> None:
    windows = Windows(10)
    assert windows.fresh(1, 1, 1)
    assert windows.fresh(1, 2, 1)
    assert not windows.fresh(1, 1, 2)


def test_the_windows_are_bounded_whatever_is_said() -> None:
    windows = Windows(10)
    for origin in range(1, 1_000):
        windows.fresh(origin, 1, 1 << 47)
        assert len(windows) <= 10
    assert windows.fresh(999, 1, 5) is False


@given(st.lists(st.integers(1, 3_000), max_size=200))
def test_within_its_span_a_window_agrees_with_a_set(numbers: list[int]) -> None:
    windows = Windows(1)
    seen: set[int] = set()
    highest = 0
    for number in numbers:
        expected = number not in seen and number > highest - Windows.SPAN
        assert windows.fresh(1, 1, number) is expected
        seen.add(number)
        highest = max(highest, number)
