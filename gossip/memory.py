"""What a node remembers over a restart: the peers of its pools, side by side.

Problem: after a restart of everybody, only what was remembered leads back to the others; and who
may have to become a gateway then was none before, and has met nobody abroad.

Idea: each pool's peers are one list; this puts them into one value, with a version, that the
embedding program stores. A node that is not in the wide-area pool remembers for it a few members
of every region that it has heard of.

Invariant: bytes that are no memory of this version are counted and taken for none: losing it
costs a search by seeds, and refusing to start would cost the node.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

from gossip.effects import Remember
from gossip.errors import Malformed
from gossip.shapes import UINT64, address, integer, items, octets
from gossip.wire import pack, unpack

__all__ = ["Memory", "read_peers", "write_peers"]

_FORMAT: Final = 1
_CHUNK: Final = 250


class Memory:
    """The peers of the region's pool (0) and of the wide-area pool (1)."""

    def __init__(self, remembered: bytes, counters: Counter[str]) -> None:
        self._pools = [b"", b""]
        self._counters = counters
        if remembered:
            try:
                self._pools = _unpacked(remembered)
            except Malformed:
                counters["memories refused"] += 1

    def __getitem__(self, pool: int) -> bytes:
        return self._pools[pool]

    def abroad(self) -> list[str]:
        """Return the addresses of the wide-area pool's peers; none where they cannot be read."""
        try:
            return list(read_peers(self._pools[1]).values()) if self._pools[1] else []
        except Malformed:
            self._counters["memories refused"] += 1
            return []

    def keep(self, pool: int, peers: bytes) -> Remember:
        """Take a pool's new peers; return what is to be stored."""
        self._pools[pool] = peers
        return Remember(pack((_FORMAT, *self._pools)))

    def keep_abroad(self, pairs: Sequence[tuple[int, str]]) -> list[Remember]:
        """Take members of other regions for the peers of a wide-area pool that one is not in;
        return what is to be stored, if that is new."""
        peers = write_peers(pairs) if pairs else self._pools[1]
        return [] if peers == self._pools[1] else [self.keep(1, peers)]


def write_peers(pairs: Sequence[tuple[int, str]]) -> bytes:
    """Return what a pool keeps of members and their addresses, the latest met last."""
    # In chunks, for no list on the wire is longer, and this is read by the same reader.
    chunks = tuple(pack(tuple(pairs[at : at + _CHUNK])) for at in range(0, len(pairs), _CHUNK))
    return pack((_FORMAT, *chunks[-_CHUNK:]))


def read_peers(remembered: bytes) -> dict[int, str]:
    """Return what ``write_peers`` was given. Raises ``Malformed``."""
    peers: dict[int, str] = {}
    version, *chunks = items(unpack(remembered), _CHUNK + 1, 1)
    if version != _FORMAT:
        raise Malformed("a later version wrote this")
    for chunk in chunks:
        for pair in items(unpack(octets(chunk, len(remembered))), _CHUNK):
            member, place = items(pair, 2, 2)
            peers[integer(member, UINT64, 1)] = address(place)
    return peers


def _unpacked(remembered: bytes) -> list[bytes]:
    match unpack(remembered):
        case (version, bytes() as near, bytes() as far) if version == _FORMAT:
            return [near, far]
    raise Malformed("not a memory of peers of this version")
