"""Sealed datagrams: every alteration, replay, other cluster, other key and old life is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gossip.errors import AuthenticationFailed, ConfigError, Malformed, Rejected, Replayed
from gossip.keyring import Keyring
from gossip.messages import Nack, Packet, Stamp
from gossip.sealing import WINDOW, Seal
from gossip.wire import encode_packet, pack
from tests.gossip import shapes_drawn as drawn

_KEY = b"k" * 32


def _seal(number: int, key: bytes = _KEY, label: str = "cluster", members: int = 1_000) -> Seal:
    return Seal(label, Keyring([key]), number.to_bytes(16, "big"), members=members)


def _packet(member: int = 1, generation: int = 1, sequence: int = 1) -> bytes:
    sender = Stamp(member, generation, 0)
    return encode_packet(Packet("wide", sender, 5, (Nack(sequence),)))


@given(drawn.packets.map(encode_packet), st.sampled_from([16, 24, 32]), st.booleans())
def test_what_is_sealed_opens_and_is_as_much_larger_as_stated(
    packet: bytes, size: int, plain: bool
) -> None:
    sender = Seal.plain("c") if plain else _seal(1, b"x" * size, "c")
    receiver = Seal.plain("c") if plain else _seal(2, b"x" * size, "c")
    sealed = sender.seal(packet)
    assert len(sealed) == len(packet) + sender.overhead
    assert encode_packet(receiver.open(sealed)) == packet
    assert plain or packet[:12] not in sealed


@pytest.mark.parametrize("plain", [False, True])
def test_every_bit_altered_is_refused(plain: bool) -> None:
    sender = Seal.plain("c") if plain else _seal(1)
    receiver = Seal.plain("c") if plain else _seal(2)
    sealed = sender.seal(_packet())
    for at in range(len(sealed)):
        for bit in range(8):
            altered = bytearray(sealed)
            altered[at] ^= 1 << bit
            with pytest.raises(Rejected):
                receiver.open(bytes(altered))
    assert receiver.sessions == 0
    receiver.open(sealed)


@pytest.mark.parametrize("plain", [False, True])
def test_every_truncation_and_every_oversize_is_refused(plain: bool) -> None:
    sender = Seal.plain("c") if plain else _seal(1)
    receiver = Seal.plain("c") if plain else _seal(2)
    sealed = sender.seal(_packet())
    for end in range(len(sealed)):
        with pytest.raises(Rejected):
            receiver.open(sealed[:end])
    with pytest.raises(Rejected):
        receiver.open(sealed + b"\x00")
    with pytest.raises(Malformed):
        receiver.open(sealed + bytes(70_000))


def test_another_cluster_with_the_same_key_is_refused() -> None:
    with pytest.raises(AuthenticationFailed):
        _seal(2, label="b").open(_seal(1, label="a").seal(_packet()))
    with pytest.raises(AuthenticationFailed):
        Seal.plain("b").open(Seal.plain("a").seal(_packet()))


def test_a_key_that_is_not_in_the_ring_is_refused() -> None:
    with pytest.raises(AuthenticationFailed):
        _seal(2).open(_seal(1, b"z" * 32).seal(_packet()))


def test_sealed_and_plain_members_refuse_each_other() -> None:
    with pytest.raises(AuthenticationFailed):
        _seal(2).open(Seal.plain("cluster").seal(_packet() + bytes(40)))
    with pytest.raises(AuthenticationFailed):
        Seal.plain("cluster").open(_seal(1).seal(_packet()))


def test_a_packet_is_taken_once_in_whatever_order() -> None:
    sender, receiver = _seal(1), _seal(2)
    sealed = [sender.seal(_packet(sequence=number)) for number in range(WINDOW)]
    for data in reversed(sealed):
        receiver.open(data)
    for data in sealed:
        with pytest.raises(Replayed):
            receiver.open(data)


def test_a_packet_too_old_to_tell_is_refused() -> None:
    sender, receiver = _seal(1), _seal(2)
    sealed = [sender.seal(_packet(sequence=number)) for number in range(WINDOW + 2)]
    receiver.open(sealed[-1])
    receiver.open(sealed[2])
    for data in sealed[:2]:
        with pytest.raises(Replayed):
            receiver.open(data)


def test_one_who_alters_a_counter_cannot_shut_the_window() -> None:
    sender, receiver = _seal(1), _seal(2)
    receiver.open(sender.seal(_packet()))
    forged = bytearray(sender.seal(_packet()))
    forged[21:27] = b"\xff" * 6
    with pytest.raises(AuthenticationFailed):
        receiver.open(bytes(forged))
    receiver.open(sender.seal(_packet()))


def test_a_session_speaks_for_one_life_only() -> None:
    sender, receiver = _seal(1), _seal(2)
    receiver.open(sender.seal(_packet(member=1, generation=3)))
    for packet in (_packet(member=2, generation=3), _packet(member=1, generation=4)):
        with pytest.raises(AuthenticationFailed, match="speaks for another"):
            receiver.open(sender.seal(packet))
    receiver.open(sender.seal(_packet(member=1, generation=3)))


def test_an_earlier_life_is_refused_once_a_later_one_is_confirmed_and_not_before() -> None:
    former, latter, receiver = _seal(1), _seal(2), _seal(3)
    recorded = [former.seal(_packet(generation=1)) for _ in range(3)]
    receiver.open(recorded[0])
    # A claim of a later life may be anybody's: it locks nobody out.
    receiver.open(latter.seal(_packet(generation=2)))
    receiver.open(recorded[1])
    receiver.confirm(1, 2)
    sessions = receiver.sessions
    with pytest.raises(Replayed, match="of a life that is over"):
        receiver.open(recorded[2])
    assert receiver.sessions == sessions - 1
    receiver.open(latter.seal(_packet(generation=2)))


def test_ones_own_packets_are_not_taken() -> None:
    seal = _seal(1)
    with pytest.raises(Replayed):
        seal.open(seal.seal(_packet()))


def test_tables_are_bounded_and_strangers_leave_nothing() -> None:
    receiver = _seal(1 << 64, members=4)
    for number in range(1, 200):
        receiver.open(_seal(number).seal(_packet(member=number)))
        receiver.confirm(number, 1)
        assert receiver.sessions <= 16
    before = receiver.sessions
    for number in range(1_000, 1_200):
        with pytest.raises(AuthenticationFailed):
            receiver.open(_seal(number, b"z" * 32).seal(_packet(member=number)))
        stranger = bytearray(_seal(number).seal(_packet(member=number)))
        stranger[-1] ^= 1
        with pytest.raises(AuthenticationFailed):
            receiver.open(bytes(stranger))
    assert receiver.sessions == before
    assert len(receiver._floors) <= 16


def test_a_sealed_packet_of_malformed_content_is_malformed_and_leaves_nothing() -> None:
    receiver = _seal(2)
    sender = _seal(1)
    for content in (b"\xc1", pack((1, 2)), pack(()), b"\x91" * 1_100):
        with pytest.raises(Malformed):
            receiver.open(sender.seal(content))
    assert receiver.sessions == 0


def test_no_two_datagrams_share_a_nonce() -> None:
    seal = _seal(1)
    assert len({seal.seal(b"same")[:27] for _ in range(2_000)}) == 2_000


def test_a_session_of_another_length_is_refused_at_the_start() -> None:
    with pytest.raises(ConfigError):
        Seal("c", Keyring([_KEY]), b"short")
