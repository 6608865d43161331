"""An agent of serf that is offline while the key is rotated never finds back (serf #579). Here it
opens streams with the removed key within the grace, and gets the ring that way."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest

from gossip.config import Config
from gossip.errors import AuthenticationFailed, KeyringError
from gossip.keyring import GRACE_US, Keyring, key_id
from gossip.mesh import Mesh
from gossip.messages import State
from gossip.stream_seal import StreamSeal
from tests.gossip.hostile import KEY, SMALL, Pool, record, seal

_NEW = b"n" * 32


def _node(member: int, config: Config, chance: Random) -> Mesh:
    sealed = seal(member, config)
    assert sealed.keyring is not None
    me = record(member)
    me = replace(me, profile=replace(me.profile, keys=sealed.keyring.ids))
    return Mesh(me, config, config, chance, sealed)


def _ring(machine: Mesh) -> Keyring:
    ring = machine._seal.keyring
    assert ring is not None
    return ring


class _Sealed(Pool):
    """Streams open only where both ends unseal them, as on real sockets."""

    def __init__(self, seed: int) -> None:
        super().__init__(3, SMALL, seed, _node)
        self.meet = self._unsealed

    def _unsealed(self, one: int, other: int) -> bool:
        ends = [
            StreamSeal(
                "c", _ring(self.machines[member]), bytes((member,)) * 16,
                initiator=member == one, wall_us=self.wall_us,
            )
            for member in (one, other)
        ]  # fmt: skip
        try:
            ends[0].receive(ends[1].hello())
            ends[1].receive(ends[0].hello())
            return ends[1].receive(ends[0].seal(b"x")) == [b"x"]
        except AuthenticationFailed:
            return False

    def rotate(self) -> None:
        """Install, use, remove, each as soon as the living let it."""
        node = self.machines[1]
        old = _ring(node).primary.id
        self.run(1, node.install_key(_NEW, self.now_us, self.wall_us))
        self.advance(5_000_000)
        self.run(1, node.use_key(key_id(_NEW), self.now_us, self.wall_us))
        self.advance(5_000_000)
        self.run(1, node.remove_key(old, self.now_us, self.wall_us))
        self.advance(5_000_000)


def _away(pool: _Sealed) -> Mesh:
    absentee: Mesh = pool.machines.pop(3)
    pool.advance(60_000_000)
    view = pool.machines[1].view(3)
    assert view is not None
    assert view.state is State.DEAD
    return absentee


def test_one_that_was_offline_during_the_rotation_comes_back_with_the_new_ring() -> None:
    pool = _Sealed(1)
    absentee = _away(pool)
    pool.rotate()
    assert _ring(pool.machines[2]).ids == (key_id(_NEW),)
    pool.machines[3] = absentee
    pool.advance(120_000_000)
    assert _ring(absentee).ids == (key_id(_NEW),)
    for member in (1, 2):
        for view in (pool.machines[member].view(3), absentee.view(member)):
            assert view is not None
            assert view.state is State.ALIVE
            assert not view.degraded


def test_after_the_grace_the_removed_key_is_forgotten_and_its_file_written_anew() -> None:
    pool = _Sealed(1)
    _away(pool)
    pool.rotate()
    ring = _ring(pool.machines[1])
    assert KEY in ring.dump()
    pool.kept.clear()
    pool.now_us += GRACE_US
    pool.advance(1_000_000)
    assert KEY not in ring.dump()
    assert pool.kept[1] == ring.dump()


def test_after_the_grace_it_stays_outside() -> None:
    pool = _Sealed(1)
    absentee = _away(pool)
    pool.rotate()
    pool.now_us += GRACE_US
    pool.machines[3] = absentee
    pool.advance(60_000_000)
    assert _ring(absentee).ids == (key_id(KEY),)
    view = pool.machines[1].view(3)
    assert view is None or view.state is State.DEAD


def test_a_living_member_that_has_not_heard_of_the_key_holds_the_rotation_up() -> None:
    pool = _Sealed(1)
    node = pool.machines[1]
    # Asked at once, nobody else can hold it yet.
    pool.run(1, node.install_key(_NEW, pool.now_us, pool.wall_us))
    with pytest.raises(KeyringError, match="not every live member holds"):
        node.use_key(key_id(_NEW), pool.now_us, pool.wall_us)
    assert _ring(node).primary.material == KEY
