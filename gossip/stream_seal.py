"""Sealed streams: bytes in, frames out, and frames in, bytes out.

Problem: a stream carries tables, key rings and, for the layer above, data; whoever connects
may be a stranger, name any length, replay what it recorded, or cut, reorder and join records.

Idea: both sides send a hello; both hellos together, with a key that both hold, derive one key
per direction, fresh for every stream; records are counted in their nonces.

    hello  = "GSP1" ‖ purpose u8 ‖ count u8 ‖ random 16 ‖ (key id u32) × count
    key    = the first of the initiator's list that the responder lists too
    salt   = SHA-256(initiator's hello ‖ responder's hello)
    cipher = AES-GCM under HKDF-SHA256(key, salt, "gossip stream" ‖ role u8 ‖ label, 32),
             role 0 for what the initiator sends, 1 for the responder
    record = length u32 ‖ ciphertext ‖ tag 16; length counts what follows it; nonce = the
             record's number u96; authenticated = the length

The first record of each side is empty: it proves the key before any length beyond it is
believed. A list has the live keys, the primary first, then those within their grace, so that
one that missed a rotation is met with the key that it has. Altering a hello alters the salt,
and so nothing opens. In plain mode a hello lists no key, and a checksum of 8 bytes, keyed by
label and salt, takes the tag's place.

Invariants: before the other's proof nothing above 16 bytes is kept of it; after it never more
than one frame; any error is final.

Source: the Noise protocol framework's NNpsk0, reduced to what shared keys allow: there is no
forward secrecy against one who learns the key and has recorded the stream.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b, sha256
from struct import Struct
from typing import Final, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from gossip.config import LAN
from gossip.errors import AuthenticationFailed, ConfigError, Malformed, TooLarge
from gossip.keyring import KEYS_MAXIMUM, Key, Keyring
from gossip.sealing import derive

__all__ = [
    "EMBEDDER",
    "HELLO_BYTES",
    "MESH",
    "PREFIX_BYTES",
    "SALT_BYTES",
    "StreamSeal",
    "purpose_of",
]

MESH: Final = 0
"""The purpose of the mesh's own exchanges."""
EMBEDDER: Final = 1
"""The purpose of the streams of the program that embeds the mesh."""
SALT_BYTES: Final = 16

_MAGIC: Final = b"GSP1"
_HELLO: Final = Struct(">4sBB16s")
_KEY_ID: Final = Struct(">I")
_LENGTH: Final = Struct(">I")
_LISTED_MAXIMUM: Final = 2 * KEYS_MAXIMUM
_INFO: Final = b"gossip stream"

PREFIX_BYTES: Final = 5
"""So many bytes of a stream tell its purpose."""
HELLO_BYTES: Final = _HELLO.size + _LISTED_MAXIMUM * _KEY_ID.size
"""The longest hello."""


def purpose_of(received: bytes) -> int | None:
    """Return the purpose that the first ``PREFIX_BYTES`` of a stream name.

    ``None`` where they are no hello of this version.
    """
    return received[4] if len(received) >= PREFIX_BYTES and received[:4] == _MAGIC else None


class _Direction(Protocol):
    """How the records of one direction are closed and opened."""

    overhead: int

    def close(self, number: int, frame: bytes, length: bytes) -> bytes: ...

    def open(self, number: int, closed: bytes, length: bytes) -> bytes:
        """Raise ``AuthenticationFailed`` for what the other side did not close."""
        ...


class _Sealed:
    overhead = 16

    def __init__(self, cipher: AESGCM) -> None:
        self._cipher = cipher

    def close(self, number: int, frame: bytes, length: bytes) -> bytes:
        return self._cipher.encrypt(number.to_bytes(12, "big"), frame, length)

    def open(self, number: int, closed: bytes, length: bytes) -> bytes:
        try:
            return self._cipher.decrypt(number.to_bytes(12, "big"), closed, length)
        except InvalidTag:
            raise AuthenticationFailed("a record that is altered, or of another cluster") from None


class _Checked:
    overhead = 8

    def __init__(self, key: bytes) -> None:
        self._key = key

    def close(self, number: int, frame: bytes, length: bytes) -> bytes:
        return frame + self._check(number, frame, length)

    def open(self, number: int, closed: bytes, length: bytes) -> bytes:
        frame = closed[: -self.overhead]
        if self._check(number, frame, length) != closed[-self.overhead :]:
            raise AuthenticationFailed("a record that is damaged, or of another cluster")
        return frame

    def _check(self, number: int, frame: bytes, length: bytes) -> bytes:
        hashed = blake2b(number.to_bytes(12, "big") + length, digest_size=8, key=self._key)
        hashed.update(frame)
        return hashed.digest()


class StreamSeal:
    """One end of one stream."""

    def __init__(
        self,
        label: str,
        keyring: Keyring | None,
        salt: bytes,
        *,
        initiator: bool,
        purpose: int = MESH,
        frame_bytes: int = LAN.frame_bytes,
        wall_us: int = 0,
    ) -> None:
        """``keyring`` is ``None`` in plain mode. ``salt`` is 16 bytes from the operating system's
        source of randomness, for this stream only. ``wall_us`` decides which removed keys are
        within their grace. Raises ``ConfigError``.
        """
        if len(salt) != SALT_BYTES:
            raise ConfigError(
                f"a stream's salt has {SALT_BYTES} bytes, not {len(salt)}",
                hint="draw it from the operating system for each stream",
            )
        self._label = label.encode()
        self._plain = keyring is None
        self._keys: Sequence[Key] = () if keyring is None else keyring.for_streams(wall_us)
        self._initiator = initiator
        self._purpose = purpose
        self._frame_bytes = frame_bytes
        listed = b"".join(_KEY_ID.pack(key.id) for key in self._keys)
        self._hello = _HELLO.pack(_MAGIC, purpose, len(self._keys), salt) + listed
        self._buffer = bytearray()
        self._outward: _Direction | None = None
        self._inward: _Direction | None = None
        self._sent = 0
        self._taken = 0
        self._failed = False
        self.key: int | None = None
        """Which key seals this stream, once it is ready; ``None`` in plain mode."""

    def hello(self) -> bytes:
        """Return what is to be sent first; neither side waits for the other's."""
        return self._hello

    @property
    def ready(self) -> bool:
        """Whether the other's hello was taken, so that frames can be sealed."""
        return self._outward is not None

    @property
    def proven(self) -> bool:
        """Whether the other side has proven that it holds the key (the label, in plain mode)."""
        return self._taken > 0

    @property
    def buffered(self) -> int:
        """How many bytes wait for the rest of their record."""
        return len(self._buffer)

    def seal(self, frame: bytes) -> bytes:
        """Return the bytes that carry a frame, the proof before the first.

        Raises ``TooLarge`` over ``frame_bytes``, ``ConfigError`` before the stream is ready.
        """
        if self._outward is None:
            raise ConfigError("the other side's hello has not come", hint="wait until ready")
        if len(frame) > self._frame_bytes:
            raise TooLarge(
                f"a frame of {len(frame)} bytes",
                hint="send it in parts",
                limit=self._frame_bytes,
            )
        proof = b"" if self._sent else self._record(self._outward, b"")
        return proof + self._record(self._outward, frame)

    def prove(self) -> bytes:
        """Return the proof by itself, for a side that has nothing to say yet; empty if sent."""
        if self._outward is None or self._sent:
            return b""
        return self._record(self._outward, b"")

    def receive(self, data: bytes) -> list[bytes]:
        """Take what the stream brought; return the frames that are whole now.

        Raises ``Malformed`` or ``AuthenticationFailed``; the stream is to be closed then, and
        takes nothing more.
        """
        if self._failed:
            raise Malformed("a stream that has failed before")
        self._buffer += data
        try:
            if self._inward is None and not self._take_hello():
                return []
            return self._take_records()
        except (Malformed, AuthenticationFailed):
            self._failed = True
            self._buffer.clear()
            raise

    # -------------------------------------------------------------- inside

    def _record(self, direction: _Direction, frame: bytes) -> bytes:
        length = _LENGTH.pack(len(frame) + direction.overhead)
        closed = direction.close(self._sent, frame, length)
        self._sent += 1
        return length + closed

    def _take_hello(self) -> bool:
        buffer = self._buffer
        # A stranger is told from a member as soon as the first bytes differ.
        start = bytes(buffer[: len(_MAGIC)])
        if not _MAGIC.startswith(start):
            raise Malformed("not a stream of the mesh, or of another version")
        if len(buffer) < _HELLO.size:
            return False
        _magic, purpose, count, _salt = _HELLO.unpack_from(buffer)
        if count > _LISTED_MAXIMUM:
            raise Malformed("a hello that lists too many keys")
        size = _HELLO.size + count * _KEY_ID.size
        if len(buffer) < size:
            return False
        other = bytes(buffer[:size])
        del buffer[:size]
        if purpose != self._purpose:
            raise Malformed("a stream for another purpose")
        if other == self._hello:
            raise AuthenticationFailed("one's own hello came back")
        listed = [number for (number,) in _KEY_ID.iter_unpack(other[_HELLO.size :])]
        self._derive(other, listed)
        return True

    def _derive(self, other: bytes, listed: Sequence[int]) -> None:
        first, second = (self._hello, other) if self._initiator else (other, self._hello)
        salt = sha256(first + second).digest()
        roles = (0, 1) if self._initiator else (1, 0)
        if self._plain != (not listed):
            raise AuthenticationFailed(
                "sealed and plain members do not speak to each other",
                hint="give every member the same keys, or none",
            )
        if self._plain:
            self._outward, self._inward = (
                _Checked(sha256(salt + bytes((role,)) + self._label).digest()) for role in roles
            )
            return
        material = self._common(listed)
        self._outward, self._inward = (
            _Sealed(derive(material, salt, _INFO + bytes((role,)) + self._label)) for role in roles
        )

    def _common(self, listed: Sequence[int]) -> bytes:
        held = {key.id: key.material for key in self._keys}
        order = held if self._initiator else listed
        for number in order:
            if number in held and number in listed:
                self.key = number
                return held[number]
        raise AuthenticationFailed(
            "no key is held by both", hint="give the member a current key by hand"
        )

    def _take_records(self) -> list[bytes]:
        direction = self._inward
        assert direction is not None
        frames = []
        at = 0
        buffer = self._buffer
        while len(buffer) - at >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(buffer, at)
            room = self._frame_bytes if self._taken else 0
            if not direction.overhead <= length <= room + direction.overhead:
                raise Malformed("a record that is too short or too long")
            end = at + _LENGTH.size + length
            if end > len(buffer):
                break
            head = bytes(buffer[at : at + _LENGTH.size])
            frame = direction.open(self._taken, bytes(buffer[at + _LENGTH.size : end]), head)
            if self._taken:
                frames.append(frame)
            self._taken += 1
            at = end
        # Once per call: taking each record off the front would copy the rest each time.
        del buffer[:at]
        return frames
