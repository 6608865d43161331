"""The key ring: rotation, its refusals, and that rings join in whatever order."""

from __future__ import annotations

import itertools

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gossip.errors import KeyringError, Malformed
from gossip.keyring import GRACE_US, KEYS_MAXIMUM, REMOVED_MAXIMUM, Keyring, key_id
from gossip.sealing import Seal

_OLD = b"o" * 32
_NEW = b"n" * 32
_NOW = 1_000_000_000


def _key(number: int) -> bytes:
    return number.to_bytes(32, "big")


def _rings(count: int, *keys: bytes) -> list[Keyring]:
    return [Keyring(keys or (_OLD,)) for _ in range(count)]


def _ids(rings: list[Keyring]) -> list[tuple[int, ...]]:
    return [ring.ids for ring in rings]


def test_a_rotation_of_three_members() -> None:
    rings = _rings(3)
    change = rings[0].install(_NEW)
    assert [ring.merge(change, _NOW) for ring in rings] == [False, True, True]
    assert _ids(rings) == [(key_id(_OLD), key_id(_NEW))] * 3

    change = rings[1].use(key_id(_NEW), _ids(rings))
    assert [ring.merge(change, _NOW) for ring in rings] == [True, False, True]
    assert _ids(rings) == [(key_id(_NEW), key_id(_OLD))] * 3

    change = rings[2].remove(key_id(_OLD), _ids(rings), _NOW)
    assert [ring.merge(change, _NOW) for ring in rings] == [True, True, False]
    assert _ids(rings) == [(key_id(_NEW),)] * 3
    assert len({ring.state_hash for ring in rings}) == 1
    assert rings[0].find(key_id(_OLD)) is None


def test_use_is_refused_until_every_live_member_holds_the_key() -> None:
    one, other = _rings(2)
    change = one.install(_NEW)
    with pytest.raises(KeyringError, match="not every live member holds"):
        one.use(key_id(_NEW), _ids([one, other]))
    assert one.primary.material == _OLD
    other.merge(change, _NOW)
    one.use(key_id(_NEW), _ids([one, other]))
    assert one.primary.material == _NEW


def test_removal_is_refused_until_every_live_member_seals_with_the_primary() -> None:
    one, other = _rings(2)
    other.merge(one.install(_NEW), _NOW)
    change = one.use(key_id(_NEW), _ids([one, other]))
    with pytest.raises(KeyringError, match="seals with the primary"):
        one.remove(key_id(_OLD), _ids([one, other]), _NOW)
    assert one.find(key_id(_OLD)) == _OLD
    other.merge(change, _NOW)
    one.remove(key_id(_OLD), _ids([one, other]), _NOW)
    assert one.ids == (key_id(_NEW),)


def test_the_primary_is_not_removed_and_unknown_keys_are_not_used() -> None:
    ring = Keyring([_OLD])
    with pytest.raises(KeyringError, match="is the primary"):
        ring.remove(key_id(_OLD), [], _NOW)
    for command in (
        lambda: ring.use(7, []),
        lambda: ring.remove(7, [], _NOW),
        lambda: ring.install(b"short"),
        lambda: Keyring([]),
        lambda: Keyring([_key(number) for number in range(KEYS_MAXIMUM + 1)]),
    ):
        with pytest.raises(KeyringError):
            command()


def test_an_absentee_ends_with_the_ring_of_the_others_through_push_pull() -> None:
    ring, absentee = _rings(2)
    for number in range(20):
        new = _key(number)
        old = ring.primary.id
        ring.install(new)
        ring.use(key_id(new), [ring.ids])
        ring.remove(old, [ring.ids], _NOW)
    # Both sides of a push-pull join the other's state, the absentee's old one included.
    assert absentee.merge(ring.state(), _NOW)
    assert not ring.merge(absentee.state(), _NOW)
    assert absentee.ids == ring.ids == (key_id(_key(19)),)
    assert absentee.state_hash == ring.state_hash


def test_a_removed_key_opens_streams_within_its_grace_only() -> None:
    ring = Keyring([_NEW, _OLD])
    ring.remove(key_id(_OLD), [ring.ids], _NOW)
    assert [key.material for key in ring.for_streams(_NOW)] == [_NEW, _OLD]
    assert [key.material for key in ring.for_streams(_NOW + GRACE_US)] == [_NEW]
    assert ring.find(key_id(_OLD)) is None
    assert ring.expire(_NOW + GRACE_US)
    assert _OLD not in ring.dump()
    assert not ring.expire(_NOW + GRACE_US)


def test_a_compromised_key_has_no_grace_and_is_forgotten_at_once() -> None:
    ring = Keyring([_NEW, _OLD])
    other = Keyring([_NEW, _OLD])
    other.merge(ring.remove(key_id(_OLD), [ring.ids], _NOW, compromised=True), _NOW)
    for one in (ring, other):
        assert [key.material for key in one.for_streams(_NOW)] == [_NEW]
        assert _OLD not in one.dump()


def test_a_removed_key_is_not_installed_again_and_not_brought_back() -> None:
    ring, absentee = Keyring([_NEW, _OLD]), Keyring([_NEW, _OLD])
    ring.remove(key_id(_OLD), [ring.ids], _NOW)
    with pytest.raises(KeyringError, match="was removed"):
        ring.install(_OLD)
    ring.expire(_NOW + GRACE_US)
    ring.merge(absentee.state(), _NOW + GRACE_US)
    assert ring.ids == (key_id(_NEW),)
    assert _OLD not in ring.dump()


def test_where_two_sides_of_a_split_remove_each_others_key_one_stays() -> None:
    one, other = Keyring([_OLD, _NEW]), Keyring([_OLD, _NEW])
    other.use(key_id(_NEW), [other.ids])
    of_one = one.remove(key_id(_NEW), [one.ids], _NOW)
    of_other = other.remove(key_id(_OLD), [other.ids], _NOW)
    one.merge(of_other, _NOW)
    one.merge(other.state(), _NOW)
    other.merge(of_one, _NOW)
    assert one.ids == other.ids == (key_id(_NEW),)
    assert one.primary.material == _NEW
    assert one.expire(_NOW + 2 * GRACE_US)
    assert one.find(key_id(_NEW)) == _NEW


def test_a_ring_is_kept_over_a_restart_and_a_damaged_one_is_refused() -> None:
    ring = Keyring([_OLD, _NEW])
    ring.use(key_id(_NEW), [ring.ids])
    dumped = ring.dump()
    again = Keyring.load(dumped)
    assert again.ids == ring.ids
    assert again.state_hash == ring.state_hash
    for at in range(len(dumped)):
        damaged = bytearray(dumped)
        damaged[at] ^= 1
        with pytest.raises(KeyringError):
            Keyring.load(bytes(damaged))
    for end in range(0, len(dumped), 5):
        with pytest.raises(KeyringError):
            Keyring.load(dumped[:end])


def test_key_material_is_shown_nowhere() -> None:
    secret = b"SECRETSECRETSECR"
    ring = Keyring([secret])
    shown = repr(ring) + repr(ring.primary) + repr(ring.live)
    with pytest.raises(KeyringError) as caught:
        ring.remove(ring.primary.id, [], _NOW)
    shown += str(caught.value) + repr(caught.value.details)
    assert "SECRET" not in shown


def test_a_full_ring_takes_no_more_and_removed_ones_are_bounded() -> None:
    ring = Keyring([_key(number) for number in range(KEYS_MAXIMUM)])
    with pytest.raises(KeyringError, match="keys already"):
        ring.install(_NEW)
    for number in range(1_000, 1_000 + 2 * REMOVED_MAXIMUM):
        ring.remove(ring.ids[-1], [ring.ids], _NOW + number)
        ring.install(_key(number))
    assert len(ring.ids) == KEYS_MAXIMUM
    assert len(ring.state()) < 16_384
    assert len(ring.for_streams(_NOW)) <= 2 * KEYS_MAXIMUM


def _state(*keys: object, form: object = 1) -> bytes:
    packed: bytes = msgpack.packb([form, list(keys)])
    return packed


@pytest.mark.parametrize(
    "state",
    [
        b"",
        _state(),
        _state((key_id(_NEW), _NEW, 0, 0), form=2),
        _state((key_id(_NEW), _OLD, 0, 0)),
        _state((key_id(_NEW), b"", 0, 0)),
        _state((key_id(_NEW), _NEW[:-1], 0, 5)),
        _state((key_id(_NEW), _NEW, 1 << 48, 0)),
        _state((key_id(_NEW), _NEW, -1, 0)),
        _state((key_id(_NEW), _NEW, 0)),
        _state((key_id(_NEW), _NEW, 0, 0), (key_id(_NEW), _NEW, 0, 0)),
        _state(*((number, b"", 0, 1) for number in range(KEYS_MAXIMUM + REMOVED_MAXIMUM + 1))),
    ],
)
def test_a_ring_out_of_shape_is_refused_and_changes_nothing(state: bytes) -> None:
    ring = Keyring([_OLD])
    before = ring.dump()
    with pytest.raises(Malformed):
        ring.merge(state, _NOW)
    assert ring.dump() == before


_COMMANDS = st.lists(
    st.tuples(st.integers(0, 2), st.sampled_from(["install", "use", "remove"]), st.integers(0, 5)),
    max_size=12,
)


@given(_COMMANDS, st.permutations(range(12)))
def test_changes_join_to_the_same_ring_in_any_order(
    commands: list[tuple[int, str, int]], order: list[int]
) -> None:
    rings = _rings(3)
    changes = []
    for at, (who, verb, number) in enumerate(commands):
        ring, key = rings[who], _key(number)
        try:
            if verb == "install":
                changes.append(ring.install(key))
            elif verb == "use":
                changes.append(ring.use(key_id(key), [ring.ids]))
            else:
                changes.append(ring.remove(key_id(key), [ring.ids], _NOW + at))
        except KeyringError:
            continue
    for one, other in itertools.permutations(rings, 2):
        one.merge(other.state(), _NOW)
    for one, other in itertools.permutations(rings, 2):
        one.merge(other.state(), _NOW)
    assert len({ring.state_hash for ring in rings}) == 1
    assert len({ring.ids for ring in rings}) == 1
    late = Keyring([_OLD])
    for at in order:
        if at < len(changes):
            late.merge(changes[at], _NOW)
    late.merge(rings[0].state(), _NOW)
    assert late.ids == rings[0].ids
    assert late.state_hash == rings[0].state_hash


def test_datagrams_pass_at_every_step_of_a_rotation() -> None:
    from gossip.messages import Nack, Packet, Stamp
    from gossip.wire import encode_packet

    rings = _rings(2)
    seals = [Seal("c", ring, bytes((at,)) * 16) for at, ring in enumerate(rings)]

    def exchange() -> None:
        for at, seal in enumerate(seals):
            packet = Packet("wide", Stamp(at + 1, 1, 0), 0, (Nack(1),))
            assert seals[1 - at].open(seal.seal(encode_packet(packet))) == packet

    exchange()
    change = rings[0].install(_NEW)
    exchange()
    rings[1].merge(change, _NOW)
    change = rings[0].use(key_id(_NEW), _ids(rings))
    exchange()
    rings[1].merge(change, _NOW)
    exchange()
    change = rings[1].remove(key_id(_OLD), _ids(rings), _NOW)
    exchange()
    rings[0].merge(change, _NOW)
    exchange()
