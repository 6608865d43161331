"""Sealed datagrams: only members write them, each is taken once, none is altered.

Problem: a datagram comes from anybody, any number of times, with any content.

Idea: AES-GCM under a key derived per start of each member, so that a counter is a safe nonce.

    sealed datagram = version u8 ‖ key id u32 ‖ session 16 ‖ counter u48 ‖ ciphertext ‖ tag 16
    session key     = HKDF-SHA256(key, salt = session, info = "gossip datagram" ‖ label, 32)
    nonce           = 0 (6 bytes) ‖ counter
    authenticated   = the header above ‖ cluster label

A window of 1,024 counters per session refuses what was taken before. A session belongs to the
life (member, generation) that it first spoke for. Once the protocol has made sure of a life
(``confirm``), sessions of that member's earlier lives are refused; not before, because a
member could otherwise lock another out by claiming a later life of it.

In plain mode, asked for by name only, a keyed checksum takes the seal's place: it refuses
other clusters and damage, and nobody who knows the label.

    plain datagram  = version u8 ‖ BLAKE2b(packet, 8 bytes, key = SHA-256(label)) ‖ packet

Invariants: nothing is allocated, derived or remembered before sizes are checked; nothing is
remembered of a session that was not authenticated; the tables are bounded.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import blake2b, sha256
from struct import Struct
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from gossip.config import LAN, Config
from gossip.errors import AuthenticationFailed, ConfigError, Malformed, Replayed
from gossip.keyring import Keyring
from gossip.messages import Packet, Stamp
from gossip.wire import decode_packet

__all__ = ["DATAGRAM_MAXIMUM", "SESSION_BYTES", "Seal", "checksum", "derive"]

SESSION_BYTES: Final = 16
DATAGRAM_MAXIMUM: Final = 65_507
WINDOW: Final = 1_024

_SEALED: Final = 0x01
_PLAIN: Final = 0x81
_HEADER: Final = Struct(">BI16sHI")
_TAG_BYTES: Final = 16
_CHECK_BYTES: Final = 8
_COUNTER_MAXIMUM: Final = (1 << 48) - 1
_MASK: Final = (1 << WINDOW) - 1
_INFO: Final = b"gossip datagram"


def derive(key: bytes, salt: bytes, info: bytes) -> AESGCM:
    """Return the cipher under the key of 32 bytes that HKDF-SHA256 derives."""
    return AESGCM(HKDF(algorithm=SHA256(), length=32, salt=salt, info=info).derive(key))


def checksum(label: bytes, data: bytes) -> bytes:
    """Return the 8 bytes that stand for a tag in plain mode."""
    return blake2b(data, digest_size=_CHECK_BYTES, key=sha256(label).digest()).digest()


@dataclass(slots=True)
class _Session:
    """Another member's session: its ciphers by key id, its window, and whose it is."""

    ciphers: dict[int, AESGCM] = field(default_factory=dict)
    highest: int = 0
    bits: int = 0
    owner: tuple[int, int] | None = None

    def seen(self, counter: int) -> bool:
        """Whether this counter was taken, or is too old to tell."""
        behind = self.highest - counter
        return behind >= 0 and (behind >= WINDOW or bool(self.bits >> behind & 1))

    def mark(self, counter: int) -> None:
        """Remember that this counter was taken."""
        ahead = counter - self.highest
        if ahead > 0:
            self.bits = ((self.bits << ahead) & _MASK if ahead < WINDOW else 0) | 1
            self.highest = counter
        else:
            self.bits |= 1 << -ahead


class Seal:
    """Seals one member's datagrams and opens those of others."""

    def __init__(
        self, label: str, keyring: Keyring | None, session: bytes, *, members: int = 1_000
    ) -> None:
        """``label`` names the cluster. ``session`` is 16 bytes from the operating system's source
        of randomness, drawn at each start and never used again: under one key no two sessions
        may be equal. ``members`` bounds the tables, at four each.

        Raises ``ConfigError``. For plain mode see ``Seal.plain``.
        """
        if keyring is not None and len(session) != SESSION_BYTES:
            raise ConfigError(
                f"a session has {SESSION_BYTES} bytes, not {len(session)}",
                hint="draw it from the operating system at each start",
            )
        self._label = label.encode()
        self.keyring = keyring
        self._session = session
        self._counter = 0
        self._own: dict[int, AESGCM] = {}
        self._most = 4 * members
        self._sessions: OrderedDict[bytes, _Session] = OrderedDict()
        self._floors: OrderedDict[int, int] = OrderedDict()
        self.doubts: Callable[[int, int], bool] = lambda _member, _generation: False
        """Whether there is better knowledge against a life that is to be confirmed: where pools
        share a seal, one must not lock out a member that lives in another."""
        self.overhead = 1 + _CHECK_BYTES if keyring is None else _HEADER.size + _TAG_BYTES
        """How many bytes larger a sealed packet is."""

    @classmethod
    def plain(cls, label: str) -> Seal:
        """Return a seal that hides and proves nothing; for tests and closed networks."""
        return cls(label, None, b"")

    @property
    def is_plain(self) -> bool:
        """Whether this seal only checks label and damage."""
        return self.keyring is None

    @property
    def sessions(self) -> int:
        """How many sessions of others are remembered."""
        return len(self._sessions)

    # -------------------------------------------------------------- sealing

    def seal(self, packet: bytes) -> bytes:
        """Return the datagram of an encoded packet."""
        if self.keyring is None:
            return bytes((_PLAIN,)) + checksum(self._label, packet) + packet
        self._counter += 1
        if self._counter > _COUNTER_MAXIMUM:
            raise ConfigError("the session's counter is used up", hint="start again")
        key = self.keyring.primary
        cipher = self._own.get(key.id)
        if cipher is None:
            cipher = derive(key.material, self._session, _INFO + self._label)
            # Only the primary seals; a ring that turns often must not fill this.
            self._own = {key.id: cipher}
        header = _header(key.id, self._session, self._counter)
        return header + cipher.encrypt(_nonce(header), packet, header + self._label)

    # -------------------------------------------------------------- opening

    def open(self, data: bytes, config: Config = LAN) -> Packet:
        """Return the packet of a datagram.

        Raises ``Malformed`` (sizes, version, content), ``AuthenticationFailed`` (key, cluster,
        altered, or one member's session that speaks for another) or ``Replayed`` (taken before,
        too old to tell, or of an earlier life).
        """
        if not self.overhead < len(data) <= DATAGRAM_MAXIMUM:
            raise Malformed("a datagram that is too short or too long")
        if data[0] != (_PLAIN if self.keyring is None else _SEALED):
            if data[0] in (_PLAIN, _SEALED):
                raise AuthenticationFailed(
                    "sealed and plain members do not speak to each other",
                    hint="give every member the same keys, or none",
                )
            raise Malformed("a datagram of another version")
        if self.keyring is None:
            packet = data[1 + _CHECK_BYTES :]
            if checksum(self._label, packet) != data[1 : 1 + _CHECK_BYTES]:
                raise AuthenticationFailed("damaged, or of another cluster")
            return decode_packet(packet, config)
        return self._open_sealed(data, self.keyring, config)

    def _open_sealed(self, data: bytes, keyring: Keyring, config: Config) -> Packet:
        header = data[: _HEADER.size]
        _version, number, name, high, low = _HEADER.unpack(header)
        counter = high << 32 | low
        if name == self._session:
            raise Replayed("one's own packet came back")
        material = keyring.find(number)
        if material is None:
            raise AuthenticationFailed("sealed with a key that is not in the ring", key=number)
        session = self._sessions.get(name)
        if session is not None and session.seen(counter):
            raise Replayed("taken before, or too old to tell")
        cipher = session.ciphers.get(number) if session else None
        fresh = cipher is None
        if cipher is None:
            cipher = derive(material, name, _INFO + self._label)
        try:
            body = cipher.decrypt(_nonce(header), data[_HEADER.size :], header + self._label)
        except InvalidTag:
            raise AuthenticationFailed("altered, or of another cluster") from None
        if session is None:
            session = _Session()
        if fresh:
            session.ciphers = {
                key: held for key, held in session.ciphers.items() if keyring.find(key)
            }
            session.ciphers[number] = cipher
        session.mark(counter)
        packet = decode_packet(body, config)
        self._bind(name, session, packet.sender)
        return packet

    def _bind(self, name: bytes, session: _Session, sender: Stamp) -> None:
        life = (sender.member, sender.generation)
        if session.owner not in (None, life):
            raise AuthenticationFailed("a session that speaks for another member or life")
        if sender.generation < self._floors.get(sender.member, 0):
            self._sessions.pop(name, None)
            raise Replayed("of a life that is over")
        session.owner = life
        self._sessions[name] = session
        self._sessions.move_to_end(name)
        if len(self._sessions) > self._most:
            self._sessions.popitem(last=False)

    def confirm(self, member: int, generation: int) -> None:
        """Refuse what is sealed by earlier lives of ``member`` from now on.

        To be told once the protocol has made sure that the member lives that life.
        """
        if generation > self._floors.get(member, 0) and not self.doubts(member, generation):
            self._floors[member] = generation
        if member in self._floors:
            self._floors.move_to_end(member)
        if len(self._floors) > self._most:
            self._floors.popitem(last=False)


def _header(number: int, session: bytes, counter: int) -> bytes:
    return _HEADER.pack(_SEALED, number, session, counter >> 32, counter & 0xFFFF_FFFF)


def _nonce(header: bytes) -> bytes:
    return bytes(6) + header[-6:]
