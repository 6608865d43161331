"""The key ring: which keys seal, which open, and how one is exchanged for another.

Problem: a key has to be replaced while members are running, some of them unreachable, and no
member may end with a ring that nobody else shares.

Idea: the ring is a state that joins. Each key has the number of its last *use* (the highest
is the primary, which seals) and, once removed, the time *until* which it still opens streams,
so that one that missed the rotation can come back and fetch the ring. Installing, using and
removing change those and return the change as bytes; a change is itself a small ring, told
to the others by broadcast, and by push-pull to whoever missed it. Numbers join by maximum,
times by minimum, so the order in which changes arrive is of no matter.

Rotation is install, use, remove. ``use`` is refused until every live member holds the key,
``remove`` until every live member seals with the primary: their profiles list their keys, the
sealing one first.

Invariants: there is always a primary (where all keys were removed at once, by members that
could not see each other, the last used one stays); a removed key comes back only if it was
among the oldest of ``REMOVED_MAXIMUM`` and is installed anew; no error and no ``repr`` shows
key material.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b, sha256
from typing import Final

from gossip.errors import KeyringError, Malformed
from gossip.shapes import COUNT_MAXIMUM, UINT32, UINT64, integer, items, octets
from gossip.wire import KEYS_MAXIMUM, pack, unpack

__all__ = ["GRACE_US", "KEYS_MAXIMUM", "REMOVED_MAXIMUM", "Key", "Keyring", "key_id"]

GRACE_US: Final = 7 * 24 * 3_600 * 1_000_000
"""How long a removed key still opens streams, unless it was removed as compromised."""
REMOVED_MAXIMUM: Final = 128
"""How many removed keys are remembered, so that no absentee brings them back."""
KEY_SIZES: Final = (16, 24, 32)

_FORMAT: Final = 1
_MAGIC: Final = b"gossip keys 1\n"
_CHECK_BYTES: Final = 16


def key_id(key: bytes) -> int:
    """Return the number by which a key is named in public: 32 bits of its hash."""
    return int.from_bytes(sha256(b"key id" + key).digest()[:4], "big")


@dataclass(frozen=True, slots=True)
class Key:
    """One key. ``until_us`` is 0 while it lives; afterwards the wall time until which it opens
    streams. ``material`` is empty once it is forgotten."""

    id: int
    material: bytes = field(repr=False)
    used: int = 0
    until_us: int = 0

    def joined(self, other: Key) -> Key:
        """Return what both together say of the key."""
        ends = [key.until_us for key in (self, other) if key.until_us]
        return Key(
            self.id,
            self.material or other.material,
            max(self.used, other.used),
            min(ends, default=0),
        )


class Keyring:
    """The keys of one member."""

    def __init__(self, keys: Sequence[bytes], *, grace_us: int = GRACE_US) -> None:
        """``keys`` are 16, 24 or 32 bytes each, the primary first. Raises ``KeyringError``."""
        self._keys: dict[int, Key] = {}
        self._grace_us = grace_us
        self._order: tuple[Key, ...] = ()
        self._hash = 0
        self._expires_us = UINT64
        if not 1 <= len(keys) <= KEYS_MAXIMUM:
            raise KeyringError(
                f"a ring has 1 to {KEYS_MAXIMUM} keys, not {len(keys)}",
                hint="generate one, and give it to every member",
            )
        # Rings that were founded alike are equal, and any later use is above.
        for key in keys:
            self._admit(Key(_checked(key), key, 1 if key is keys[0] else 0))
        self._settle()

    # -------------------------------------------------------------- reading

    @property
    def primary(self) -> Key:
        """The key that seals."""
        return self._order[0]

    @property
    def live(self) -> tuple[Key, ...]:
        """The keys that seal or open, the primary first."""
        return self._order

    @property
    def ids(self) -> tuple[int, ...]:
        """What belongs into ``Profile.keys``."""
        return tuple(key.id for key in self._order)

    @property
    def state_hash(self) -> int:
        """A hash of 64 bits, equal where the rings are, never 0."""
        return self._hash

    def find(self, number: int) -> bytes | None:
        """Return the material of a live key, for datagrams."""
        for key in self._order:
            if key.id == number:
                return key.material
        return None

    def for_streams(self, wall_us: int) -> tuple[Key, ...]:
        """Return the keys that may open a stream: the live ones, then those within their grace."""
        ended = (
            key
            for key in self._keys.values()
            if key.material and key.until_us > wall_us and key not in self._order
        )
        return self._order + tuple(sorted(ended, key=_rank, reverse=True))[:KEYS_MAXIMUM]

    # -------------------------------------------------------------- rotating

    def install(self, key: bytes) -> bytes:
        """Add a key that opens but does not seal yet. Returns the change, to be broadcast.

        Raises ``KeyringError`` where the ring is full, or the key was removed before.
        """
        number = _checked(key)
        known = self._keys.get(number)
        if known is not None and (known.until_us or known.material != key):
            raise KeyringError(
                f"key {number:08x} was removed, or another has its number",
                hint="generate a new key",
                key=number,
            )
        if known is None:
            if len(self._order) == KEYS_MAXIMUM:
                raise KeyringError(
                    f"the ring has {KEYS_MAXIMUM} keys already", hint="remove one that is not used"
                )
            self._admit(Key(number, key))
            self._settle()
        return self._change(number)

    def use(self, number: int, holders: Iterable[Sequence[int]]) -> bytes:
        """Make a key the primary. ``holders`` are the ``Profile.keys`` of all live members.

        Returns the change, to be broadcast. Raises ``KeyringError`` for a key that is not in
        the ring, or that a live member does not hold yet.
        """
        key = self._living(number)
        if any(number not in held for held in holders):
            raise KeyringError(
                f"not every live member holds key {number:08x} yet",
                hint="wait until all list it, then use it",
                key=number,
            )
        if key is not self.primary:
            if self.primary.used >= COUNT_MAXIMUM:
                raise KeyringError("the ring's use number cannot rise", hint="found a new ring")
            self._keys[number] = replace(key, used=self.primary.used + 1)
            self._settle()
        return self._change(number)

    def remove(
        self,
        number: int,
        holders: Iterable[Sequence[int]],
        wall_us: int,
        *,
        compromised: bool = False,
    ) -> bytes:
        """Remove a key: it opens no datagram from now on, and streams for the grace only, so
        that who missed the rotation may rejoin. ``compromised`` gives no grace: who still has
        only that key must be given another by hand.

        ``holders`` are the ``Profile.keys`` of all live members. Returns the change, to be
        broadcast. Raises ``KeyringError`` for the primary, for a key that is not in the ring,
        and while a live member seals with another key than the primary.
        """
        key = self._living(number)
        if key is self.primary:
            raise KeyringError(
                f"key {number:08x} is the primary", hint="use another key first", key=number
            )
        if any(tuple(held[:1]) != (self.primary.id,) for held in holders):
            raise KeyringError(
                "not every live member seals with the primary yet",
                hint="wait until all list it first, then remove the other",
                key=number,
            )
        until_us = 1 if compromised else max(1, wall_us + self._grace_us)
        self._keys[number] = replace(key, until_us=until_us)
        self._settle()
        self.expire(wall_us)
        return self._change(number)

    def expire(self, wall_us: int) -> bool:
        """Forget the material of removed keys whose grace is over; whether there was any. Asking
        costs nothing where none is."""
        if wall_us < self._expires_us:
            return False
        over = [
            key
            for key in self._keys.values()
            if key.material and 0 < key.until_us <= wall_us and key is not self.primary
        ]
        for key in over:
            self._keys[key.id] = replace(key, material=b"")
        self._settle()
        return bool(over)

    # -------------------------------------------------------------- joining

    def state(self) -> bytes:
        """Return the whole ring, for push-pull over a sealed stream."""
        return _encode(self._keys.values())

    def merge(self, state: bytes, wall_us: int) -> bool:
        """Join a ring or a change of another member; whether that changed this one.

        Raises ``Malformed``, and changes nothing then.
        """
        before = self._hash
        for key in _decode(state):
            self._admit(key)
        # Settled first: only then is it known which key stays, however all were removed.
        self._settle()
        self.expire(wall_us)
        return self._hash != before

    # -------------------------------------------------------------- persisted form

    def dump(self) -> bytes:
        """Return the ring as a file's content; the file must be readable by its owner only."""
        content = _MAGIC + self.state()
        return content + blake2b(content, digest_size=_CHECK_BYTES).digest()

    @classmethod
    def load(cls, dumped: bytes, *, grace_us: int = GRACE_US) -> Keyring:
        """Return the ring that was dumped. Raises ``KeyringError`` for any other bytes."""
        content, check = dumped[:-_CHECK_BYTES], dumped[-_CHECK_BYTES:]
        whole = blake2b(content, digest_size=_CHECK_BYTES).digest() == check
        if not whole or not content.startswith(_MAGIC):
            raise KeyringError(
                "the key ring's file is damaged or of another format",
                hint="restore it, or copy a key from another member",
            )
        ring = cls.__new__(cls)
        ring._keys = {}
        ring._grace_us = grace_us
        try:
            for key in _decode(content[len(_MAGIC) :]):
                ring._admit(key)
        except Malformed as error:
            raise KeyringError("the key ring's file holds no ring") from error
        if not any(key.material for key in ring._keys.values()):
            raise KeyringError("the key ring's file holds no key")
        ring._settle()
        return ring

    # -------------------------------------------------------------- inside

    def _living(self, number: int) -> Key:
        for key in self._order:
            if key.id == number:
                return key
        raise KeyringError(f"key {number:08x} is not in the ring", hint="install it", key=number)

    def _admit(self, key: Key) -> None:
        known = self._keys.get(key.id)
        self._keys[key.id] = key if known is None else known.joined(key)

    def _settle(self) -> None:
        """Bring order and bounds about after any change; the same for equal sets of keys."""
        living = sorted(
            (key for key in self._keys.values() if not key.until_us), key=_rank, reverse=True
        )
        ended = sorted(
            (key for key in self._keys.values() if key.until_us),
            key=lambda key: (key.until_us, key.id),
            reverse=True,
        )
        order = living[:KEYS_MAXIMUM]
        if not order:
            order = [max((key for key in ended if key.material), key=_rank)]
        kept = [*order, *(key for key in ended[:REMOVED_MAXIMUM] if key not in order)]
        self._order = tuple(order)
        self._keys = {key.id: key for key in kept}
        ends = [key.until_us for key in kept if key.material and key.until_us and key not in order]
        self._expires_us = min(ends, default=UINT64)
        # Material that is forgotten at one member only must not make rings differ.
        said = pack(tuple((key.id, key.used, key.until_us) for key in sorted(kept, key=_number)))
        digest = blake2b(said, digest_size=8, key=b"key ring").digest()
        self._hash = int.from_bytes(digest, "big") or 1

    def _change(self, number: int) -> bytes:
        return _encode([self._keys[number]])


def _rank(key: Key) -> tuple[int, int]:
    return key.used, key.id


def _number(key: Key) -> int:
    return key.id


def _checked(key: bytes) -> int:
    if len(key) not in KEY_SIZES:
        raise KeyringError(
            f"a key has 16, 24 or 32 bytes, not {len(key)}", hint="generate one of 32"
        )
    return key_id(key)


def _encode(keys: Iterable[Key]) -> bytes:
    said = tuple(
        (key.id, key.material, key.used, key.until_us) for key in sorted(keys, key=_number)
    )
    return pack((_FORMAT, said))


def _decode(state: bytes) -> list[Key]:
    form, said = items(unpack(state), 2, 2)
    if form != _FORMAT:
        raise Malformed("a key ring of another format")
    keys = []
    last = -1
    for one in items(said, KEYS_MAXIMUM + REMOVED_MAXIMUM, 1):
        number, material, used, until_us = items(one, 4, 4)
        key = Key(
            integer(number, UINT32, last + 1),
            octets(material, max(KEY_SIZES)),
            integer(used, COUNT_MAXIMUM),
            integer(until_us, UINT64),
        )
        last = key.id
        if (key.material or not key.until_us) and (
            len(key.material) not in KEY_SIZES or key_id(key.material) != key.id
        ):
            raise Malformed("a key that is not the one that its number names")
        keys.append(key)
    return keys
