"""The table of one pool: who is a member, and what is believed of each.

Problem: with a thousand members nothing that happens per packet may cost O(n), and whatever
is learnt from the network must not let the table grow without bound.

Idea: one entry per member and four indexes that are kept as entries change: the living in a
list (drawn from by chance in O(1)), suspects, those that died lately, and the hash of the
table as a sum, so that one entry changes it in O(1). The hash covers the living only, by
(member, generation, incarnation): a suspicion is a passing opinion, and the dead are listed
for different times by different members.

Invariants: oneself is never in the table, but counted by ``count`` and ``hash``; at most
``Config.members`` are alive, and at most three times as many dead or gone: beyond it the one
that was so first is dropped; equal knowledge of the living gives equal hashes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from gossip.config import Config
from gossip.damping import Damping
from gossip.messages import Coordinate, Record, Stamp, State
from gossip.round_trips import RoundTrips
from gossip.suspicion import Suspicion

if TYPE_CHECKING:
    from random import Random

__all__ = ["GONE_PER_MEMBER", "Member", "MemberView", "Table", "stamp_hash"]

GONE_PER_MEMBER: Final = 3
_MASK: Final = (1 << 64) - 1
_FEW: Final = 32
"""Up to so many living are filtered; among more, chance is tried again."""


@dataclass(slots=True)
class Member:
    """One entry. ``heard_us`` is when a packet of it came last, ``None`` before the first."""

    record: Record
    state: State
    since_us: int
    heard_us: int | None = None
    proven: bool = False
    """Whether it said this word of itself at first hand; else the word is hearsay."""
    annotation: bytes = b""
    degraded: bool = False
    stream_only: int = 0
    """How many probes in a row it has answered over a stream only."""
    suspicion: Suspicion | None = None
    damping: Damping | None = None
    """``None`` before the first death."""
    trips: RoundTrips | None = None
    """``None`` before the first answer."""
    coordinate: Coordinate | None = None
    cleared: Stamp | None = None
    """The word of it that was suspected and that it answered for, at first hand."""
    cleared_until_us: int = 0
    reminded_us: int | None = None
    """When it was last told, out of turn, what is believed of it."""
    differs_us: int | None = None
    """Since when its table's hash is not ours."""
    excuses: int = 0
    """How often its silence was put down to one's own late timers since it was heard last."""
    excused_us: int | None = None
    """When it had been heard last, when that was counted."""

    @property
    def address(self) -> str:
        """Where it takes datagrams and streams of the mesh."""
        return self.record.profile.gossip_address

    def damped(self, now_us: int) -> bool:
        """Whether it came and went too often to be given duties now."""
        return self.damping is not None and self.damping.damped(now_us)

    @property
    def live(self) -> bool:
        """Whether it is alive or suspect."""
        return self.state <= State.SUSPECT

    def view(self, now_us: int) -> MemberView:
        """Return what this entry says, as it is now."""
        trips = self.trips
        return MemberView(
            self.record, self.state, self.since_us,
            None if trips is None else trips.round_trip_us,
            None if trips is None else trips.clock_offset_us,
            self.degraded, self.damped(now_us),
            self.heard_us, self.annotation, coordinate=self.coordinate,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class MemberView:
    """What a member's table says of another, for people and for the layer above.

    ``degraded``: it answers over streams only. ``damped``: it came and went too often to be
    given duties. Times are microseconds; ``since_us`` and ``last_heard_us`` by the steady
    clock of the member asked.
    """

    record: Record
    state: State
    since_us: int
    round_trip_us: int | None
    clock_offset_us: int | None
    degraded: bool
    damped: bool
    last_heard_us: int | None
    annotation: bytes
    tier: str = "local"
    coordinate: Coordinate | None = None
    """Its place in the space of round trips, as it said last; see ``coordinates.distance_s``."""


def stamp_hash(stamp: Stamp) -> int:
    """Return 64 bits that depend on every bit of a stamp."""
    mixed = 0
    for part in stamp:
        mixed = (mixed ^ part) * 0x9E3779B97F4A7C15 & _MASK
        mixed = (mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9 & _MASK
        mixed = (mixed ^ mixed >> 27) * 0x94D049BB133111EB & _MASK
        mixed ^= mixed >> 31
    return mixed


class Table:
    """The members of one pool but oneself."""

    def __init__(self, config: Config, me: Stamp, now_us: int = 0) -> None:
        self._config = config
        self._entries: dict[int, Member] = {}
        self._live: list[int] = []
        self._places: dict[int, int] = {}
        self._gone: dict[int, None] = {}
        self._addresses: dict[str, int] = {}
        self._names: dict[str, list[int]] = {}
        self._me = me
        self.suspects: dict[int, None] = {}
        self.lately_dead: dict[int, None] = {}
        """Who is still told of its death, first died first."""
        self.hash = stamp_hash(me)
        self.changed_us = now_us
        """When the hash changed last."""

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Member]:
        return iter(self._entries.values())

    def get(self, member: int) -> Member | None:
        """Return the entry of that member, if there is one."""
        return self._entries.get(member)

    @property
    def count(self) -> int:
        """How many are alive or suspect, oneself included."""
        return len(self._live) + 1

    @property
    def live(self) -> list[int]:
        """The ids of those alive or suspect, in no order that means anything; not to be changed."""
        return self._live

    def at(self, address: str) -> int | None:
        """Return a living member whose address that is, if there is one."""
        return self._addresses.get(address)

    def namesakes(self, record: Record) -> list[int]:
        """Return the living members of that name that are somebody else."""
        return [one for one in self._names.get(record.profile.name, ()) if one != record.member]

    # -------------------------------------------------------------- changes

    def renew_me(self, me: Stamp, now_us: int) -> None:
        """Count oneself by a new word."""
        self._rehash(stamp_hash(me) - stamp_hash(self._me), now_us)
        self._me = me

    def room(self) -> bool:
        """Whether another living member may be listed."""
        return self.count < self._config.members

    def add(self, record: Record, now_us: int) -> Member:
        """List a member that is alive. There must be ``room``."""
        entry = Member(record, State.ALIVE, now_us)
        self._entries[record.member] = entry
        self._enter(entry, now_us)
        return entry

    def renew(self, entry: Member, record: Record, now_us: int) -> None:
        """Put a member's newer word in place of the one that is listed, alive."""
        if entry.live:
            self._exit(entry, now_us)
        else:
            self._gone.pop(record.member, None)
            self.lately_dead.pop(record.member, None)
        if record.generation != entry.record.generation:
            entry.cleared = None
        entry.record = record
        entry.proven = False
        self._mark(entry, State.ALIVE, now_us)
        self._enter(entry, now_us)

    def change(self, entry: Member, state: State, now_us: int) -> list[Member]:
        """Change the state of a listed member; return whom that pushed out of the table."""
        was_live = entry.live
        self._mark(entry, state, now_us)
        member = entry.record.member
        if was_live and not entry.live:
            self._exit(entry, now_us)
            self._gone[member] = None
            if state is State.DEAD:
                self.lately_dead[member] = None
        if state is State.LEFT:
            self.lately_dead.pop(member, None)
        pushed = []
        while len(self._gone) > GONE_PER_MEMBER * self._config.members:
            oldest = self._entries[next(iter(self._gone))]
            self.drop(oldest, now_us)
            pushed.append(oldest)
        return pushed

    def drop(self, entry: Member, now_us: int) -> None:
        """List a member no longer."""
        if entry.live:
            self._exit(entry, now_us)
        member = entry.record.member
        for index in (self._gone, self.lately_dead, self.suspects):
            index.pop(member, None)
        del self._entries[member]

    def _mark(self, entry: Member, state: State, now_us: int) -> None:
        if state is not entry.state:
            entry.since_us = now_us
        entry.state = state
        if state is State.SUSPECT:
            self.suspects[entry.record.member] = None
        else:
            self.suspects.pop(entry.record.member, None)
            entry.suspicion = None

    def _enter(self, entry: Member, now_us: int) -> None:
        member = entry.record.member
        self._places[member] = len(self._live)
        self._live.append(member)
        self._addresses[entry.address] = member
        self._names.setdefault(entry.record.profile.name, []).append(member)
        self._rehash(stamp_hash(entry.record.stamp), now_us)

    def _exit(self, entry: Member, now_us: int) -> None:
        member = entry.record.member
        place = self._places.pop(member)
        last = self._live.pop()
        if last != member:
            self._live[place] = last
            self._places[last] = place
        if self._addresses.get(entry.address) == member:
            del self._addresses[entry.address]
        names = self._names[entry.record.profile.name]
        names.remove(member)
        if not names:
            del self._names[entry.record.profile.name]
        self._rehash(-stamp_hash(entry.record.stamp), now_us)

    def _rehash(self, change: int, now_us: int) -> None:
        self.hash = (self.hash + change) & _MASK
        self.changed_us = now_us

    # -------------------------------------------------------------- chance

    def pick(
        self,
        chance: Random,
        count: int,
        fit: Callable[[Member], bool] = lambda _entry: True,
    ) -> list[Member]:
        """Draw up to ``count`` different living members that are ``fit``."""
        live = self._live
        if len(live) <= max(_FEW, 4 * count):
            fitting = [entry for entry in self._of(live) if fit(entry)]
            return chance.sample(fitting, min(count, len(fitting)))
        drawn: dict[int, Member] = {}
        # Bounded: where few are fit, fewer are found, and the next occasion finds others.
        for _ in range(4 * count + _FEW):
            member = live[chance.randrange(len(live))]
            if member not in drawn and fit(self._entries[member]):
                drawn[member] = self._entries[member]
                if len(drawn) == count:
                    break
        return list(drawn.values())

    def _of(self, members: Iterable[int]) -> list[Member]:
        return [self._entries[member] for member in members]
