"""A node's part in rotating keys: commands, changes of others, and what follows from either.

Problem: the ring of a node changes by its own commands, by broadcasts in either pool and by
comparing with another member; whichever it was, the ring must be kept, and the node must say
which keys it holds, because removing a key waits for that.

Idea: changes go into the ring as they come; what follows is found by comparing the ring's hash
with the last one seen.

Invariant: no key material leaves but in changes (sealed by the mesh) and in ``KeyringChanged``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

from gossip.effects import KeyringChanged
from gossip.errors import KeyringError, Malformed
from gossip.keyring import Keyring
from gossip.members import MemberView
from gossip.messages import Profile, State

__all__ = ["Rotation"]


class Rotation:
    """The ring of one node; ``None`` in plain mode, where nothing can be rotated."""

    def __init__(self, ring: Keyring | None, counters: Counter[str]) -> None:
        self.counters = counters
        self._ring = ring
        self._seen = 0 if ring is None else ring.state_hash

    def install(self, key: bytes) -> bytes:
        """Add a key; return the change to be told. Raises ``KeyringError``."""
        return self._sealed().install(key)

    def use(self, number: int, members: Iterable[MemberView]) -> bytes:
        """Make a key the primary; return the change to be told. Raises ``KeyringError``."""
        return self._sealed().use(number, _holders(members))

    def remove(
        self, number: int, members: Iterable[MemberView], wall_us: int, *, compromised: bool
    ) -> bytes:
        """Remove a key; return the change to be told. Raises ``KeyringError``."""
        return self._sealed().remove(number, _holders(members), wall_us, compromised=compromised)

    def take(self, said: bytes, wall_us: int) -> bool:
        """Take a change that another member told; whether it was new here."""
        if self._ring is None:
            self.counters["changes of the ring refused: plain text"] += 1
            return False
        try:
            return self._ring.merge(said, wall_us)
        except Malformed:
            self.counters["changes of the ring refused: Malformed"] += 1
            return False

    def changed(
        self, profile: Profile, wall_us: int
    ) -> tuple[KeyringChanged, Profile | None] | None:
        """Return what is to be kept, and the profile to be told instead of this one if the keys
        are not what it says; ``None`` where the ring is as it was at the last call.

        Keys whose grace is over are forgotten, here and in what is kept."""
        ring = self._ring
        if ring is None:
            return None
        if not ring.expire(wall_us) and ring.state_hash == self._seen:
            return None
        self._seen = ring.state_hash
        told = None if ring.ids == profile.keys else replace(profile, keys=ring.ids)
        return KeyringChanged(ring.dump()), told

    def _sealed(self) -> Keyring:
        if self._ring is None:
            raise KeyringError("this cluster runs in plain text", hint="found it with a key")
        return self._ring


def _holders(members: Iterable[MemberView]) -> list[tuple[int, ...]]:
    return [view.record.profile.keys for view in members if view.state <= State.SUSPECT]
