"""Sealed streams: two ends, and everything that may be done to the bytes between them."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gossip.errors import AuthenticationFailed, ConfigError, Malformed, Rejected, TooLarge
from gossip.keyring import GRACE_US, Keyring, key_id
from gossip.stream_seal import EMBEDDER, HELLO_BYTES, MESH, StreamSeal, purpose_of

_OLD = b"o" * 32
_NEW = b"n" * 32


def _ends(
    keys: tuple[Keyring | None, Keyring | None] | None = None,
    labels: tuple[str, str] = ("c", "c"),
    frame_bytes: int = 100_000,
    wall_us: int = 0,
) -> tuple[StreamSeal, StreamSeal]:
    one, other = keys or (Keyring([_OLD]), Keyring([_OLD]))
    return (
        StreamSeal(
            labels[0], one, b"1" * 16, initiator=True, frame_bytes=frame_bytes, wall_us=wall_us
        ),
        StreamSeal(
            labels[1], other, b"2" * 16, initiator=False, frame_bytes=frame_bytes, wall_us=wall_us
        ),
    )


def _greeted(one: StreamSeal, other: StreamSeal) -> tuple[StreamSeal, StreamSeal]:
    assert other.receive(one.hello()) == []
    assert one.receive(other.hello()) == []
    assert one.ready
    assert other.ready
    return one, other


@given(
    st.lists(st.binary(max_size=300), max_size=10),
    st.lists(st.integers(1, 200), min_size=1, max_size=20),
    st.booleans(),
)
def test_frames_arrive_whole_however_the_bytes_are_cut(
    frames: list[bytes], cuts: list[int], plain: bool
) -> None:
    one, other = _ends((None, None) if plain else None)
    one.receive(other.hello())
    sent = one.hello() + b"".join(one.seal(frame) for frame in frames)
    received: list[bytes] = []
    at = turn = 0
    while at < len(sent):
        cut = cuts[turn % len(cuts)]
        received += other.receive(sent[at : at + cut])
        at += cut
        turn += 1
    assert received == frames
    assert other.buffered == 0
    assert other.proven is bool(frames)


def test_both_directions_work_and_have_keys_of_their_own() -> None:
    one, other = _greeted(*_ends())
    there, back = one.seal(b"same"), other.seal(b"same")
    assert there != back
    assert other.receive(there) == [b"same"]
    assert one.receive(back) == [b"same"]
    # What one sent does not open as an answer.
    with pytest.raises(AuthenticationFailed):
        _greeted(*_ends())[0].receive(there)


def test_nothing_is_sealed_before_the_other_is_heard() -> None:
    one, _other = _ends()
    assert not one.ready
    assert one.prove() == b""
    with pytest.raises(ConfigError):
        one.seal(b"")


def test_the_proof_is_sent_once_by_itself_or_before_the_first_frame() -> None:
    one, other = _greeted(*_ends())
    proof = one.prove()
    assert not other.proven
    assert other.receive(proof) == []
    assert other.proven
    assert one.prove() == b""
    assert other.receive(one.seal(b"x")) == [b"x"]


@pytest.mark.parametrize("plain", [False, True])
def test_every_bit_of_a_stream_that_is_altered_makes_it_fail(plain: bool) -> None:
    rings = (None, None) if plain else (Keyring([_OLD, _NEW]), Keyring([_NEW, _OLD]))
    one, _other = _greeted(*_ends(rings))
    sent = one.hello() + one.seal(b"frame")
    for at in range(len(sent)):
        for bit in range(8):
            altered = bytearray(sent)
            altered[at] ^= 1 << bit
            end = _ends(rings)[1]
            try:
                taken = end.receive(bytes(altered))
            except Rejected:
                continue
            # A longer length or list waits for bytes that never come.
            assert taken == []


def test_a_hello_altered_on_the_way_opens_nothing_even_if_it_still_lists_a_common_key() -> None:
    rings = (Keyring([_OLD, _NEW]), Keyring([_OLD, _NEW]))
    one, other = _ends(rings)
    # Somebody between them makes both believe that only the old key is shared.
    forged = other.hello()[:5] + b"\x01" + other.hello()[6:22] + struct.pack(">I", key_id(_OLD))
    one.receive(forged)
    other.receive(one.hello())
    with pytest.raises(AuthenticationFailed):
        other.receive(one.seal(b"x"))


def test_records_are_not_replayed_reordered_or_left_out() -> None:
    for before, wrong in (([0], 0), ([], 1), ([0], 2)):
        one, other = _greeted(*_ends())
        other.receive(one.prove())
        records = [one.seal(bytes((number,))) for number in range(3)]
        for number in before:
            other.receive(records[number])
        with pytest.raises(AuthenticationFailed):
            other.receive(records[wrong])


def test_a_recorded_stream_does_not_open_again() -> None:
    one, other = _greeted(*_ends())
    recorded = one.seal(b"x")
    again = StreamSeal("c", Keyring([_OLD]), b"3" * 16, initiator=False)
    again.receive(one.hello())
    with pytest.raises(AuthenticationFailed):
        again.receive(recorded)
    assert other.receive(recorded) == [b"x"]


def test_a_stream_that_failed_takes_nothing_more_and_keeps_nothing() -> None:
    one, other = _greeted(*_ends())
    record = bytearray(one.seal(b"x"))
    record[-1] ^= 1
    with pytest.raises(AuthenticationFailed):
        other.receive(bytes(record))
    assert other.buffered == 0
    with pytest.raises(Malformed):
        other.receive(b"")


@pytest.mark.parametrize(
    ("keys", "labels"),
    [
        ((Keyring([_OLD]), Keyring([_OLD])), ("a", "b")),
        ((None, None), ("a", "b")),
    ],
)
def test_another_cluster_is_refused(
    keys: tuple[Keyring | None, Keyring | None], labels: tuple[str, str]
) -> None:
    one, other = _greeted(*_ends(keys, labels))
    with pytest.raises(AuthenticationFailed):
        other.receive(one.seal(b"x"))


def test_where_no_key_is_held_by_both_nothing_begins() -> None:
    for keys in (
        (Keyring([_OLD]), Keyring([_NEW])),
        (Keyring([_OLD]), None),
        (None, Keyring([_OLD])),
    ):
        one, other = _ends(keys)
        with pytest.raises(AuthenticationFailed):
            other.receive(one.hello())
        with pytest.raises(AuthenticationFailed):
            one.receive(other.hello())


def test_any_shared_key_will_do() -> None:
    for keys in (([_NEW, _OLD], [_OLD]), ([_OLD], [_NEW, _OLD]), ([_NEW, _OLD], [_OLD, _NEW])):
        one, other = _greeted(*_ends((Keyring(keys[0]), Keyring(keys[1]))))
        assert other.receive(one.seal(b"x")) == [b"x"]
        assert one.receive(other.seal(b"y")) == [b"y"]


@pytest.mark.parametrize("absentee_first", [True, False])
def test_an_absentee_rejoins_with_a_removed_key_within_the_grace_only(
    absentee_first: bool,
) -> None:
    ring, absentee = Keyring([_NEW, _OLD]), Keyring([_OLD])
    ring.remove(key_id(_OLD), [ring.ids], wall_us=1)
    pair = (absentee, ring) if absentee_first else (ring, absentee)
    one, other = _greeted(*_ends(pair, wall_us=GRACE_US))
    sealed = one.seal(pair[0].state())
    (state,) = other.receive(sealed)
    pair[1].merge(state, GRACE_US)
    (state,) = one.receive(other.seal(pair[1].state()))
    pair[0].merge(state, GRACE_US)
    assert absentee.ids == ring.ids == (key_id(_NEW),)

    late = _ends((Keyring([_OLD]), ring), wall_us=GRACE_US + 1)
    with pytest.raises(AuthenticationFailed):
        late[1].receive(late[0].hello())


def test_before_the_proof_no_length_is_believed() -> None:
    for plain in (False, True):
        rings = (None, None) if plain else None
        for length in (0, 1, 15, 17, 100, 100_000, 0xFFFF_FFFF):
            _one, other = _greeted(*_ends(rings))
            with pytest.raises(Malformed):
                other.receive(struct.pack(">I", length))
            assert other.buffered == 0


def test_after_the_proof_no_length_above_the_limit_is_believed() -> None:
    one, other = _greeted(*_ends(frame_bytes=1_000))
    other.receive(one.prove())
    assert len(other.receive(one.seal(bytes(1_000)))[0]) == 1_000
    with pytest.raises(TooLarge):
        one.seal(bytes(1_001))
    with pytest.raises(Malformed):
        other.receive(struct.pack(">I", 1_017))


def test_strangers_are_refused_at_their_first_bytes() -> None:
    for stranger in (b"G", b"GET / HTTP/1.1\r\n", b"\x16\x03\x01", b"SSH-2.0-", b"\x00"):
        _one, other = _ends()
        if b"GSP1".startswith(stranger):
            assert other.receive(stranger) == []
            stranger = b"x"
        with pytest.raises(Malformed):
            other.receive(stranger)


def test_a_hello_that_lists_too_much_or_comes_back_is_refused() -> None:
    one, _other = _ends()
    with pytest.raises(AuthenticationFailed, match="came back"):
        one.receive(one.hello())
    _one, other = _ends()
    with pytest.raises(Malformed):
        other.receive(b"GSP1\x00\x11" + bytes(16))
    full = Keyring([bytes((number,)) * 32 for number in range(8)])
    assert len(StreamSeal("c", full, bytes(16), initiator=True).hello()) <= HELLO_BYTES


def test_a_stream_tells_its_purpose_and_keeps_to_it() -> None:
    mesh, _other = _ends()
    theirs = StreamSeal("c", Keyring([_OLD]), b"3" * 16, initiator=True, purpose=EMBEDDER)
    assert purpose_of(mesh.hello()) == MESH
    assert purpose_of(theirs.hello()[:5]) == EMBEDDER
    assert purpose_of(b"GSP1") is None
    assert purpose_of(b"HTTP/") is None
    with pytest.raises(Malformed, match="purpose"):
        _ends()[1].receive(theirs.hello())


def test_a_salt_of_another_length_is_refused() -> None:
    with pytest.raises(ConfigError):
        StreamSeal("c", None, b"short", initiator=True)


@given(st.lists(st.binary(max_size=200), max_size=5), st.booleans())
def test_any_bytes_are_taken_or_refused_and_never_kept_beyond_a_hello(
    chunks: list[bytes], plain: bool
) -> None:
    _one, other = _ends((None, None) if plain else None)
    try:
        for chunk in chunks:
            assert other.receive(b"GSP1" + chunk if chunk is chunks[0] else chunk) == []
            assert other.buffered <= HELLO_BYTES
    except Rejected:
        assert other.buffered == 0
