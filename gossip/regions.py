"""What is known of other regions, and how it is learnt and told on.

Problem: views travel by announcements, which are broadcasts and may be lost, and by exchanges,
which may fail; a region may have two gateways, or none; and nobody may flood us.

Idea: one view per region. An announcement that says something new leads to at most one exchange
per region at a time; what is announced meanwhile waits for its end, and a failure is tried a
few times more, then left to the next announcement: gateways repeat theirs.

Whoever is followed must speak for the region: who does so (``Speaks``) is asked at every turn.

Invariants: the members of all views together are bounded, and so are the regions; one fetch per
region at a time; of a member that two regions claim, the newer life counts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from gossip.frames import Announcement, View, ViewRequest
from gossip.messages import Stamp, State
from gossip.views import RegionView, Row

if TYPE_CHECKING:
    from random import Random

__all__ = ["REPEAT_US", "Fetch", "Regions"]

REPEAT_US: Final = 60_000_000
"""How often everything is announced again."""

_REGIONS: Final = 256
_DOORS: Final = 4
_TRIES: Final = 4
_AGAIN_US: Final = 2_000_000
_SILENCE_US: Final = 3 * REPEAT_US

Speaks = Callable[[str, int], bool]
"""Tells whether a member may speak for a region now."""


@dataclass(slots=True)
class Fetch:
    """One region's view to be fetched: whom to ask, through which pool, and what."""

    region: str
    wide: bool
    member: int
    request: ViewRequest
    tries: int = 0
    due_us: int | None = None
    """When to ask again, after a failure; ``None`` while the exchange is out."""
    later: Announcement | None = None
    """What the same or another author announced meanwhile, and through which pool."""
    later_wide: bool = False


class Regions:
    """The views of all regions but one's own, and the fetches that are out."""

    def __init__(self, mine: str, members: int, chance: Random) -> None:
        self.own = RegionView(mine)
        self.others: dict[str, RegionView] = {}
        self.refused = 0
        self._members = members
        self._chance = chance
        self._fetches: dict[str, Fetch] = {}

    # ------------------------------------------------------------------ asking

    def row(self, member: int) -> Row | None:
        """Return the newest row about a member of another region."""
        rows = [row for view in self.others.values() if (row := view.get(member)) is not None]
        return max(rows, key=lambda row: row.record.generation, default=None)

    def followed(self, row: Row) -> bool:
        """Whether somebody speaks for the region of that row's member."""
        view = self.others.get(row.record.profile.region)
        return view is not None and view.author != 0

    def rows(self) -> list[Row]:
        """Return all rows of other regions; a member that moved may have two."""
        return [row for view in self.others.values() for row in view]

    def living(self, region: str, most: int) -> list[Row]:
        """Return the living members of a region with the lowest ids: its gateways first."""
        view = self.others.get(region)
        if view is None:
            return []
        rows = [row for row in view if row.state <= State.SUSPECT]
        return sorted(rows, key=lambda row: row.record.member)[:most]

    def doors(self) -> list[tuple[int, str]]:
        """Return some members of each region and their addresses, by which it can be found
        from outside and later: its gateways, and who would follow them."""
        doors = []
        for _, view in sorted(self.others.items()):
            rows = (row for row in view if row.state is not State.LEFT)
            ranked = sorted(rows, key=lambda row: (row.state > State.SUSPECT, row.record.member))
            doors += [
                (row.record.member, row.record.profile.gossip_address) for row in ranked[:_DOORS]
            ]
        return doors

    def answer(self, request: ViewRequest, me: Stamp) -> View | None:
        """Return the view that was asked for, if it is held here."""
        view = self.own if request.region == self.own.region else self.others.get(request.region)
        return None if view is None else view.answer(request, me)

    # ------------------------------------------------------------------ learning

    def hear(self, said: Announcement, now_us: int, *, first: int, wide: bool) -> Fetch | None:
        """Take an announcement; return what to fetch now, if anything.

        ``first`` is who should speak for that region. Once it does, nobody else is listened to
        (a second one may know less), unless it has not been heard for long.
        """
        view = self.others.get(said.region)
        if view is None:
            if len(self.others) >= _REGIONS or said.region == self.own.region:
                self.refused += 1
                return None
            view = self.others[said.region] = RegionView(said.region)
        if said.author == view.author:
            view.heard_us = now_us
        elif view.author == first and now_us - view.heard_us < _SILENCE_US:
            return None
        out = self._fetches.get(said.region)
        if out is not None:
            out.later, out.later_wide = said, wide
            return None
        request = self._wants(said, now_us)
        return None if request is None else self.fetch(request, said.author, wide=wide)

    def _wants(self, said: Announcement, now_us: int) -> ViewRequest | None:
        view = self.others[said.region]
        request = view.wants(said)
        if view.author == said.author:
            view.heard_us = now_us
        return request

    def fetch(self, request: ViewRequest, member: int, *, wide: bool) -> Fetch | None:
        """Begin to fetch a region's view from a member, unless that is being done."""
        if request.region in self._fetches or request.region == self.own.region:
            return None
        fetch = Fetch(request.region, wide, member, request)
        self._fetches[request.region] = fetch
        return fetch

    def fetched(
        self, region: str, view: View | None, now_us: int, speaks: Speaks
    ) -> tuple[set[int], Fetch | None]:
        """Take how a fetch ended; return the members whose rows changed, and what to fetch next."""
        fetch = self._fetches.get(region)
        if fetch is None:
            return set(), None
        if view is None or (view.region, view.author) != (region, fetch.member):
            fetch.tries += 1
            if fetch.tries < _TRIES:
                fetch.due_us = now_us + self._chance.randint(_AGAIN_US // 2, _AGAIN_US)
                return set(), None
            return set(), self._end(fetch, now_us, speaks)
        held = self.others.setdefault(region, RegionView(region))
        room = self._members - sum(map(len, self.others.values()))
        changed = held.follow(view, max(0, room), now_us)
        held.heard_us = now_us
        return changed, self._end(fetch, now_us, speaks)

    def _end(self, fetch: Fetch, now_us: int, speaks: Speaks) -> Fetch | None:
        del self._fetches[fetch.region]
        if fetch.later is None or not speaks(fetch.region, fetch.later.author):
            return None
        request = self._wants(fetch.later, now_us)
        if request is None:
            return None
        return self.fetch(request, fetch.later.author, wide=fetch.later_wide)

    def next_deadline_us(self) -> int | None:
        """Return when a failed fetch is due again, or when whom nobody lists, or a silent region,
        is to be given up."""
        due = [fetch.due_us for fetch in self._fetches.values()]
        due += [view.due_us for view in self.others.values()]
        return min((at for at in due if at is not None), default=None)

    def given_up(self, now_us: int) -> set[int]:
        """Give up whom nobody has listed, and the regions for whom nobody has spoken, for so
        long; return whose row changed."""
        over = [
            view
            for view in self.others.values()
            if view.due_us is not None and view.due_us <= now_us
        ]
        return {member for view in over for member in view.sweep(now_us)}

    def due(self, now_us: int) -> list[Fetch]:
        """Return the fetches that are to be made again now."""
        fetches = [
            fetch
            for fetch in self._fetches.values()
            if fetch.due_us is not None and fetch.due_us <= now_us
        ]
        for fetch in fetches:
            fetch.due_us = None
        return fetches

    def doubt_silent(self, now_us: int, speaks: Speaks) -> set[int]:
        """Doubt the regions whose author speaks for them no more, and has said nothing for long;
        return whose row changed. It need not have been lost while one was listening: its duty
        went to somebody else, or one's own place changed."""
        silent = [
            view
            for view in self.others.values()
            if view.author
            and now_us - view.heard_us >= _SILENCE_US
            and not speaks(view.region, view.author)
        ]
        return {member for view in silent for member in view.doubt(now_us)}

    def sweep(self, now_us: int) -> set[int]:
        """Drop whom no author has listed for long, and give up regions that are silent; return
        whose row changed."""
        return {member for view in self.others.values() for member in view.sweep(now_us)}

    def forget(self, member: int) -> None:
        """Drop a member from every view."""
        for view in self.others.values():
            view.drop(member)
