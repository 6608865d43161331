"""The trace: everything that happened, as one hash, and as a list for those who look.

Problem: "the same seed gives the same run" must be checked, not hoped for; and a run
that failed must be readable.

Idea: each thing that happens is a small tuple ``(time, kind, lane, other, number)``.
Tuples are hashed in blocks as they come; a run that is to be drawn or read keeps them
as well, up to a limit, the newest of them.

Invariants: the hash depends on nothing but the tuples and their order; keeping them
changes nothing.
"""

from __future__ import annotations

from collections import deque
from hashlib import blake2b
from typing import Final, NamedTuple

__all__ = ["Record", "Trace"]

_BLOCK: Final = 2_048
_KEPT: Final = 1_000_000


class Record(NamedTuple):
    """One thing that happened: ``lane`` is where, ``other`` with whom, ``number`` how much."""

    time_us: int
    kind: str
    lane: str
    other: str
    number: int


class Trace:
    """What happened, hashed; and kept, if ``keep`` is set."""

    __slots__ = ("_block", "_hash", "kept")

    def __init__(self, *, keep: bool = False) -> None:
        self._hash = blake2b(digest_size=16)
        self._block: list[tuple[int, str, str, str, int]] = []
        self.kept: deque[tuple[int, str, str, str, int]] | None = (
            deque(maxlen=_KEPT) if keep else None
        )

    def note(self, time_us: int, kind: str, lane: str, other: str = "", number: int = 0) -> None:
        """Note that something happened."""
        self._block.append((time_us, kind, lane, other, number))
        if len(self._block) >= _BLOCK:
            self._fold()

    def _fold(self) -> None:
        # One by one, so that the hash does not depend on where a block ends.
        self._hash.update("".join(map(repr, self._block)).encode())
        if self.kept is not None:
            self.kept.extend(self._block)
        self._block = []

    def records(self) -> list[Record]:
        """Return what was kept, oldest first."""
        self._fold()
        return [Record(*record) for record in self.kept or ()]

    def digest(self) -> str:
        """Return the hash of everything so far, as 32 hexadecimal digits."""
        self._fold()
        return self._hash.hexdigest()
