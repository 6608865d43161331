"""Whom to hold streams with, as the mesh sees the cluster: the pure part of it.

Problem: members come, go and move; two nodes must not dial each other at once and for
ever; and where all is quiet and two nodes still hold different things, somebody must
notice, although no stream joins them.

Idea: the topology names the members to stream with. Of two that should, the one with the
lower id dials; the other waits ``patience_us`` and dials too, should no stream have come:
not every network lets both directions through. A stream that the topology no longer asks
for is ended after ``grace_us``, so that a passing suspicion costs nothing, and what a member
that leaves has written last still arrives: it ends its streams itself, behind that.

Every probe of the mesh carries a hash of its sender's published vector. Where a member's
differs from ours, and neither has changed for ``settle_us``, nothing is under way that
would make them equal. A stream to it is then asked to compare at once; where there is
none, one is opened as a *detour*, and ended when the hashes meet.

Of two nodes under one id neither is the other's member, so neither would dial the other, and
everybody else has a stream with now the one and now the other. Where the mesh hears of such a
*double*, it is dialled: the two that meet tell which of them goes on (see ``sync_greeting``).

Invariants: at most ``detours`` of these at a time, and one double; nobody is dialled who is not
alive, or only suspected not to be; who has left is hung up on; a stream that the mesh knows nothing
of is left alone.

Source: the digest that rides on gossip is Cassandra's; the rest is this project's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

__all__ = ["MESH_MEMORY", "MESH_OFFSET", "Links", "Look", "generation_of", "offset_bytes"]

MESH_MEMORY: Final = "mesh"
"""The name of the store's metadata that holds what the mesh wants remembered."""

MESH_OFFSET: Final = "mesh generation"
"""The name of the store's metadata that says by how much the member's generation is above the
store's count of starts: a copy may have lived on under this id, and ended there."""


def generation_of(boot: int, metadata: Mapping[str, bytes]) -> int:
    """Return the generation of a member whose store was started ``boot`` times."""
    return boot + int.from_bytes(metadata.get(MESH_OFFSET, b""), "big")


def offset_bytes(generation: int, boot: int, metadata: Mapping[str, bytes]) -> bytes:
    """Return what to keep as ``MESH_OFFSET`` so that this start and later ones have at least
    that generation; what is kept never falls."""
    return max(generation_of(boot, metadata) - boot, generation - boot).to_bytes(8, "big")


class Look(NamedTuple):
    """What is to be done about streams now, by replica id."""

    dial: dict[int, str]
    """Whom to have a stream with or be dialling, and where. What is not here is not dialled."""
    compare: tuple[int, ...]
    """On whose open streams to compare at once."""
    hang_up: tuple[int, ...]
    """Whose open streams to end."""


class _Word:
    """What a member's hash is, and since when."""

    __slots__ = ("annotation", "since_us")

    def __init__(self, annotation: bytes, since_us: int) -> None:
        self.annotation = annotation
        self.since_us = since_us


class Links:
    """One node's view of its streams. Times are steady microseconds."""

    def __init__(
        self,
        me: int,
        *,
        patience_us: int = 2_000_000,
        settle_us: int = 1_000_000,
        grace_us: int = 10_000_000,
        detours: int = 3,
    ) -> None:
        self._me = me
        self._patience_us = patience_us
        self._settle_us = settle_us
        self._grace_us = grace_us
        self._detours_most = detours
        self._wanted: dict[int, str] = {}
        self._others: dict[int, str] = {}
        self._left: frozenset[int] = frozenset()
        self._open: frozenset[int] = frozenset()
        self._alone_since_us: dict[int, int] = {}
        self._idle_since_us: dict[int, int] = {}
        self._own = _Word(b"", 0)
        self._words: dict[int, _Word] = {}
        self._asked: dict[int, tuple[bytes, bytes]] = {}
        self._detours: dict[int, str] = {}
        self._double = ""

    # ------------------------------------------------------------------ what is heard

    def members(
        self,
        wanted: Mapping[int, str],
        others: Mapping[int, str],
        left: Iterable[int],
        now_us: int,
    ) -> None:
        """Take the cluster as it is now.

        ``wanted`` are those to stream with, and their stream addresses; ``others`` the other
        living members; ``left`` those that said farewell. An empty address is never dialled.
        """
        self._wanted = {one: address for one, address in wanted.items() if one != self._me}
        self._others = {
            one: address for one, address in others.items() if one != self._me and one not in wanted
        }
        self._left = frozenset(left)
        known = self._wanted.keys() | self._others.keys()
        self._words = {one: word for one, word in self._words.items() if one in known}
        self._asked = {one: asked for one, asked in self._asked.items() if one in known}
        self._detours = {one: self._others[one] for one in self._detours if one in self._others}
        if self._is_members(self._double):
            # Who was our double goes on under another id.
            self._double = ""
        self._note_streams(now_us)

    def streams(self, replicas: Iterable[int], now_us: int) -> None:
        """Take the replicas with which there is an open stream now."""
        self._open = frozenset(replicas)
        self._note_streams(now_us)

    def doubled(self, here: str, there: str) -> None:
        """Take our own address, and that at which somebody else lives under our id.

        A store that was put back hears of what it was itself, at its own address.
        """
        if there != here and not self._is_members(there):
            self._double = there

    def _is_members(self, address: str) -> bool:
        return address in self._wanted.values() or address in self._others.values()

    def own(self, annotation: bytes, now_us: int) -> None:
        """Take the hash of what this replica holds now."""
        if annotation != self._own.annotation:
            self._own = _Word(annotation, now_us)

    def heard(self, member: int, annotation: bytes, now_us: int) -> None:
        """Take the hash that a member's probe or answer carried."""
        if member not in self._wanted and member not in self._others:
            return
        word = self._words.get(member)
        if word is None or word.annotation != annotation:
            self._words[member] = _Word(annotation, now_us)

    def _note_streams(self, now_us: int) -> None:
        alone, self._alone_since_us = self._alone_since_us, {}
        for one in self._wanted:
            if one not in self._open:
                self._alone_since_us[one] = alone.get(one, now_us)
        idle, self._idle_since_us = self._idle_since_us, {}
        for one in self._open:
            if (one in self._others and one not in self._detours) or one in self._left:
                self._idle_since_us[one] = idle.get(one, now_us)

    # ------------------------------------------------------------------ what to do

    def look(self, now_us: int) -> Look:
        """Return what is to be done now. A comparison is asked for once per pair of hashes."""
        compare = self._compare(now_us)
        dial = {
            one: address
            for one, address in self._wanted.items()
            if address and self._may_dial(one, now_us)
        }
        dial |= self._detours
        if self._double:
            dial[self._me] = self._double
        hang_up: list[int] = []
        for one, since_us in self._idle_since_us.items():
            if one not in self._detours and now_us >= since_us + self._grace_us:
                hang_up.append(one)
        return Look(dial, compare, tuple(sorted(hang_up)))

    def next_deadline_us(self, now_us: int) -> int | None:
        """Return when, after now, ``look`` may say something new, if nothing is heard before."""
        due = [
            since_us + self._patience_us
            for one, since_us in self._alone_since_us.items()
            if self._me > one
        ]
        due += [since_us + self._grace_us for since_us in self._idle_since_us.values()]
        due += [self._quiet_since_us(word) + self._settle_us for word in self._differing()]
        return min((at_us for at_us in due if at_us > now_us), default=None)

    def _may_dial(self, one: int, now_us: int) -> bool:
        if one in self._open or self._me < one:
            # Who has a stream is named too: its dialler, if that is us, stays.
            return True
        return now_us >= self._alone_since_us[one] + self._patience_us

    def _differing(self) -> list[_Word]:
        """Return what differs from ours, and was not asked about as it is."""
        own = self._own.annotation
        return [
            word
            for one, word in self._words.items()
            if own and word.annotation and word.annotation != own
            if self._asked.get(one) != (own, word.annotation)
        ]

    def _quiet_since_us(self, word: _Word) -> int:
        return max(word.since_us, self._own.since_us)

    def _compare(self, now_us: int) -> tuple[int, ...]:
        own = self._own.annotation
        compare: list[int] = []
        for one, word in self._words.items():
            if word.annotation == own:
                self._asked.pop(one, None)
                if self._detours.pop(one, None) is not None and one in self._open:
                    self._idle_since_us[one] = now_us
                continue
            pair = (own, word.annotation)
            settled = now_us >= self._quiet_since_us(word) + self._settle_us
            if not (own and word.annotation and settled) or self._asked.get(one) == pair:
                continue
            if one in self._open:
                self._asked[one] = pair
                compare.append(one)
            elif self._take_detour(one):
                self._asked[one] = pair
        return tuple(sorted(compare))

    def _take_detour(self, one: int) -> bool:
        """Open a stream that the topology does not ask for. Tells whether there is one now."""
        address = self._others.get(one, "")
        if not address or one in self._detours or len(self._detours) >= self._detours_most:
            return one in self._detours
        self._detours[one] = address
        return True
