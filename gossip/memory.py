"""What a node remembers over a restart: the peers of its pools, side by side.

Idea: each pool keeps its own peers in its own form; this only puts them into one value, with a
version, that the embedding program stores.

Invariant: bytes that are no memory of this version are counted and taken for none: losing it
costs a search by seeds, and refusing to start would cost the node.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

from gossip.errors import Malformed
from gossip.wire import pack, unpack

__all__ = ["Memory"]

_FORMAT: Final = 1


class Memory:
    """The peers of the region's pool (0) and of the wide-area pool (1)."""

    def __init__(self, remembered: bytes, counters: Counter[str]) -> None:
        self._pools = [b"", b""]
        if remembered:
            try:
                self._pools = _unpacked(remembered)
            except Malformed:
                counters["memories refused"] += 1

    def __getitem__(self, pool: int) -> bytes:
        return self._pools[pool]

    def keep(self, pool: int, peers: bytes) -> bytes:
        """Take a pool's new peers; return what is to be stored."""
        self._pools[pool] = peers
        return pack((_FORMAT, *self._pools))


def _unpacked(remembered: bytes) -> list[bytes]:
    match unpack(remembered):
        case (version, bytes() as near, bytes() as far) if version == _FORMAT:
            return [near, far]
    raise Malformed("not a memory of peers of this version")
