"""A ring whose only key another member had removed lost it while the change was joined: the
material was forgotten before it was known which key stays."""

from __future__ import annotations

from gossip.keyring import Keyring, key_id

_ONE = b"1" * 32
_TWO = b"2" * 32


def test_the_last_key_stays_though_its_removal_is_joined_after_its_grace() -> None:
    other = Keyring([_TWO, _ONE])
    change = other.remove(key_id(_ONE), [other.ids], 5, compromised=True)
    ring = Keyring([_ONE])
    ring.merge(change, wall_us=10)
    assert ring.primary.material == _ONE
    assert ring.find(key_id(_ONE)) == _ONE
    assert ring.merge(other.state(), wall_us=10)
    assert ring.ids == (key_id(_TWO),)
    assert _ONE not in ring.dump()
