"""Regions as their gateways see them: numbered views, passed on as changes.

Problem: a member should know the members of all regions, but take part in the probing of its
own only; and a view of hundreds must not be sent again for each that comes or goes.

Idea: whoever passes a view on numbers its own changes to it. Its announcement is a few bytes:
author, number, hash. Who holds the same hash has nothing to fetch; who follows this author asks
for the changes since the number it has; anybody else for the whole.

Within its region a view is first hand (the table of its pool); elsewhere each row says what the
last gateway said. A row never goes back to an older life or word of its member, and one that
left does not return in the same life, whoever says so. But where whoever speaks for the region
goes on listing an older life, the later one was a copy's that it never met, or is over: that row
is dropped after a while, as if it were not listed; at once where that life was found dead at
first hand.

Invariants: numbers only rise in one author's life; a change is never left out between two
numbers; rows and memory of the gone are bounded.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from gossip.frames import Announcement, View, ViewRequest
from gossip.members import stamp_hash
from gossip.messages import Record, Stamp, State

__all__ = ["RegionView", "Row", "view_hash"]

_GONE: Final = 1_024
_UNLISTED_US: Final = 120_000_000
_DOUBTED_US: Final = 120_000_000
"""After so long without anybody who speaks for a region, its suspects are dead."""
_LOST_US: Final = 24 * 3_600_000_000
"""After so long its members are listed no more; gateways go on seeking its gateways."""
_MASK: Final = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class Row:
    """One member of a view, and the number at which it last changed here."""

    record: Record
    state: State
    number: int


def view_hash(rows: Iterable[tuple[Record, State]]) -> int:
    """Return 64 bits over members, lives, words and states, in any order."""
    total = 0
    for record, state in rows:
        total += stamp_hash(record.stamp) * (2 * state + 1)
    return total & _MASK


class RegionView:
    """One region's members as known here, with what is needed to pass it on."""

    def __init__(self, region: str) -> None:
        self.region = region
        self.number = 0
        self.author = 0
        """Whose announcements are followed; 0 where this is first hand, or nobody's yet."""
        self.author_generation = 0
        self.author_number = 0
        self.heard_us = 0
        """When that author was last heard of this view."""
        self._rows: dict[int, Row] = {}
        self._gone: OrderedDict[int, int] = OrderedDict()
        self._unlisted: dict[int, int] = {}
        self._overtaken: set[int] = set()
        self._doubted_us: int | None = None
        self.give_up_us: int | None = None
        """When its suspects are dead if nobody speaks for it until then."""
        self._floor = 0

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self._rows.values())

    def get(self, member: int) -> Row | None:
        """Return that member's row, if there is one."""
        return self._rows.get(member)

    @property
    def hash(self) -> int:
        """The hash of all rows."""
        return view_hash((row.record, row.state) for row in self)

    # ------------------------------------------------------------------ changing

    def replace(self, entries: Iterable[tuple[Record, State]]) -> set[int]:
        """Take these rows for all that there is; return whose row changed."""
        new = {record.member: (record, state) for record, state in entries}
        return self._change(new, [member for member in self._rows if member not in new])

    def follow(self, view: View, room: int, now_us: int) -> set[int]:
        """Take over what an author says; return whose row changed.

        Whom another author than the last does not list is kept for a while: it may have been
        the first to meet it, and the others are about to (see ``sweep``).

        ``room`` is how many members more there may be. What is about members of another
        region, or about older lives and words, is left out.
        """
        entries = {
            record.member: (record, state)
            for record, state in view.entries
            if record.profile.region == self.region and self._is_news(record, state)
        }
        gone = list(view.gone)
        said = {record.member for record, _ in view.entries}
        older = {record.member for record, _ in view.entries if self._is_older_life(record)}
        if view.since == 0:
            gone = [member for member in self._rows if member not in said]
            if (view.author, view.generation) != (self.author, self.author_generation):
                for member in gone:
                    self._unlisted.setdefault(member, now_us)
                gone = []
        for member in (said - older) | set(gone):
            self._unlisted.pop(member, None)
        for member in older:
            self._unlisted.setdefault(member, now_us)
            self._overtaken.add(member)
        for member in [member for member in entries if member not in self._rows]:
            if room <= 0:
                del entries[member]
            room -= 1
        changed = self._change(entries, gone)
        self._doubted_us = self.give_up_us = None
        self.author = view.author
        self.author_generation = view.generation
        self.author_number = view.number
        return changed

    @property
    def due_us(self) -> int | None:
        """When somebody is to be dropped or given up next: ``sweep`` is due then."""
        # Whoever was missed first comes first.
        first_us = next(iter(self._unlisted.values()), None)
        if first_us is None:
            return self.give_up_us
        drop_us = first_us + _UNLISTED_US
        return drop_us if self.give_up_us is None else min(drop_us, self.give_up_us)

    def sweep(self, now_us: int, dead: Iterable[Stamp] = ()) -> set[int]:
        """Drop whom the author has not listed for long, and give up those for whom nobody has
        spoken for long; return whose row changed.

        ``dead`` are the lives that were found dead at first hand: for them nobody waits.
        """
        ended = {stamp.member: stamp.generation for stamp in dead}
        over = [
            member
            for member, at_us in self._unlisted.items()
            if now_us - at_us >= _UNLISTED_US or self._is_over(member, ended)
        ]
        for member in over:
            del self._unlisted[member]
            if member in self._overtaken:
                # What the author lists in its place was left out, and is to be fetched again.
                self.author_generation = self.author_number = 0
        self._overtaken &= self._unlisted.keys()
        silent_us = 0 if self._doubted_us is None else now_us - self._doubted_us
        lost = {}
        if silent_us > _LOST_US:
            over = list(self._rows)
        elif self.give_up_us is not None and now_us >= self.give_up_us:
            self.give_up_us = None
            lost = self._restated(State.SUSPECT, State.DEAD)
        return self._change(lost, over)

    def doubt(self, now_us: int, dead: Iterable[Stamp] = ()) -> set[int]:
        """Nobody speaks for this region any more: whoever was alive is suspect, and ``dead`` are
        the lives that were found dead at first hand. Return whose row changed.

        The next announcement, whoever makes it, is answered by fetching the whole.
        """
        self.author = self.author_generation = self.author_number = 0
        self._doubted_us = now_us
        self.give_up_us = now_us + _DOUBTED_US
        entries = self._restated(State.ALIVE, State.SUSPECT)
        for stamp in dead:
            row = self._rows.get(stamp.member)
            if row is not None and row.record.generation == stamp.generation:
                if row.state <= State.SUSPECT:
                    entries[stamp.member] = (row.record, State.DEAD)
        return self._change(entries, [])

    def _restated(self, before: State, after: State) -> dict[int, tuple[Record, State]]:
        return {row.record.member: (row.record, after) for row in self if row.state is before}

    def drop(self, member: int) -> bool:
        """Forget one member; tells whether it was listed."""
        self._unlisted.pop(member, None)
        return bool(self._change({}, [member]))

    def _is_over(self, member: int, ended: dict[int, int]) -> bool:
        row = self._rows.get(member)
        return row is not None and row.record.generation <= ended.get(member, -1)

    def _is_older_life(self, record: Record) -> bool:
        row = self._rows.get(record.member)
        return row is not None and record.generation < row.record.generation

    def _is_news(self, record: Record, state: State) -> bool:
        row = self._rows.get(record.member)
        if row is None:
            return True
        if row.state is State.LEFT and row.record.generation == record.generation:
            return state is State.LEFT
        return _order(record.stamp) >= _order(row.record.stamp)

    def _change(self, entries: dict[int, tuple[Record, State]], gone: Iterable[int]) -> set[int]:
        changed = set()
        number = self.number + 1
        for member, (record, state) in entries.items():
            row = self._rows.get(member)
            if row is None or (row.record, row.state) != (record, state):
                self._rows[member] = Row(record, state, number)
                self._gone.pop(member, None)
                changed.add(member)
        for member in gone:
            if self._rows.pop(member, None) is not None:
                self._gone[member] = number
                changed.add(member)
        while len(self._gone) > _GONE:
            self._floor = self._gone.popitem(last=False)[1]
        if changed:
            self.number = number
        return changed

    # ------------------------------------------------------------------ passing on

    def announce(self, me: Stamp) -> Announcement:
        """Return what to say of this view as its author."""
        return Announcement(self.region, me.member, me.generation, self.number, self.hash)

    def wants(self, said: Announcement) -> ViewRequest | None:
        """Return what to ask the author of an announcement, or ``None`` for nothing.

        Where the hashes are equal, the author is followed from that number on.
        """
        followed = (self.author, self.author_generation) == (said.author, said.generation)
        if followed and said.number <= self.author_number:
            return None
        if said.view_hash == self.hash:
            self.author, self.author_generation = said.author, said.generation
            self.author_number = said.number
            self._unlisted.clear()
            self._doubted_us = self.give_up_us = None
            return None
        if not followed:
            return ViewRequest(self.region)
        return ViewRequest(self.region, said.author, said.generation, self.author_number)

    def answer(self, request: ViewRequest, me: Stamp) -> View:
        """Return the changes that were asked for, or the whole view where they are not known."""
        since = request.since
        followed = (request.author, request.generation) == (me.member, me.generation)
        if not followed or not self._floor <= since <= self.number:
            since = 0
        entries = tuple((row.record, row.state) for row in self if row.number > since)
        gone = tuple(member for member, number in self._gone.items() if number > since)
        return View(
            self.region,
            me.member,
            me.generation,
            self.number,
            since,
            self.hash,
            tuple(sorted(entries, key=lambda entry: entry[0].member)),
            tuple(sorted(gone)) if since else (),
        )


def _order(stamp: Stamp) -> tuple[int, int]:
    return stamp.generation, stamp.incarnation
