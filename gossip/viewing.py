"""Passing views on: announcements out and in, and the exchanges that follow from them.

Problem: see ``views`` and ``regions``; somebody has to decide when to announce, whom to believe
and whom to ask.

Idea: the active gateway announces its region's view in the wide-area pool, and the views of the
other regions in its own; a while after a change, so that a burst is one announcement, at once
to newcomers, and all again every minute, because broadcasts are best effort. A gateway that
comes to life, or is next when the one that was followed dies, is asked for its view without waiting
for an announcement.

Invariants: a view is taken from a member of that region, at first hand (in the wide-area pool),
or from a gateway of one's own, who must be so still when the answer comes (of anybody else's end
one would not hear); of those who may speak for a region, one that is suspect comes last; at most
``_OUT`` exchanges are out.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from gossip.beliefs import Beliefs
from gossip.config import Config
from gossip.effects import Answer, Effect, Exchange, MemberChanged
from gossip.errors import Malformed
from gossip.frame_wire import decode_announcement, encode_announcement, encode_frame
from gossip.frames import Frame, View, ViewRequest
from gossip.messages import Channel, Stamp, State
from gossip.regions import REPEAT_US, Fetch, Regions
from gossip.succession import outlived
from gossip.swim import Swim

if TYPE_CHECKING:
    from random import Random

__all__ = ["Viewing"]

_OUT: Final = 32


class Viewing:
    """One node's part in passing views on. Exchanges are numbered by themselves."""

    def __init__(
        self,
        beliefs: Beliefs,
        regions: Regions,
        config: Config,
        chance: Random,
        counters: Counter[str],
    ) -> None:
        self.counters = counters
        self.gateways: tuple[int, ...] = ()
        """Those of one's own region, the active one first."""
        self._beliefs = beliefs
        self._regions = regions
        self._config = config
        self._chance = chance
        self._asked: dict[int, str] = {}
        self._numbers = 0
        self._announce_us: int | None = None
        self._repeat_us: int | None = None
        self._announced: dict[tuple[str, str], int] = {}
        self._own_stale = True

    # ------------------------------------------------------------------ time

    def start(self, now_us: int) -> None:
        """Begin to repeat announcements."""
        self._repeat_us = now_us + self._chance.randint(REPEAT_US // 2, REPEAT_US)

    def stop(self) -> None:
        """Announce nothing more."""
        self._announce_us = self._repeat_us = None

    def next_deadline_us(self) -> int | None:
        """Return when something is due."""
        due = (self._announce_us, self._repeat_us, self._regions.next_deadline_us())
        return min((at for at in due if at is not None), default=None)

    def handle_timeout(self, now_us: int) -> tuple[list[Effect], list[tuple[Swim, list[Effect]]]]:
        """Return what is due: exchanges, and the effects of pools that were given broadcasts."""
        effects: list[Effect] = []
        for fetch in self._regions.due(now_us):
            effects += self._fetch(fetch, now_us)
        lost = self._regions.given_up(now_us)
        if lost:
            self._beliefs.touch(lost)
            self.announce_soon(now_us)
        if self._repeat_us is not None and now_us >= self._repeat_us:
            self.start(now_us)
            self._beliefs.touch(self._regions.doubt_silent(now_us, self._speaks_here))
            self._beliefs.touch(self._regions.sweep(now_us))
            self._announced.clear()
            self._announce_us = now_us
        if self._announce_us is None or now_us < self._announce_us:
            return effects, []
        self._announce_us = None
        return effects, self._announce(now_us)

    # ------------------------------------------------------------------ telling

    def own_changed(self, now_us: int) -> None:
        """Something in one's own region, or of oneself, is not what it was."""
        self._own_stale = True
        self.announce_soon(now_us)

    def announce_soon(self, now_us: int, *, all_again: bool = False) -> None:
        """Announce what changed, or everything, after a short while."""
        if all_again:
            self._announced.clear()
        at_us = now_us + 2 * self._config.gossip_interval_us
        if self._announce_us is None or at_us < self._announce_us:
            self._announce_us = at_us

    def _announce(self, now_us: int) -> list[tuple[Swim, list[Effect]]]:
        near, far = self._beliefs.near, self._beliefs.far
        if far is None or self.gateways[:1] != (near.me.member,):
            return []
        self._renew_own()
        told = []
        views = [(far, self._regions.own)]
        views += [(near, view) for view in self._regions.others.values()]
        for swim, view in views:
            key = (swim.pool, view.region)
            if self._announced.get(key) == view.number:
                continue
            self._announced[key] = view.number
            payload = encode_announcement(view.announce(near.me.stamp))
            slot = f"view:{view.region}"
            effects = swim.broadcast(payload, now_us, channel=Channel.VIEWS, slot=slot)
            told.append((swim, effects))
        return told

    def answer(self, stream: Any, asked: Frame, request: ViewRequest) -> list[Effect]:
        """Answer who asks for a view."""
        self._renew_own()
        me = self._beliefs.near.me.stamp
        view = self._regions.answer(request, me)
        if view is None:
            return []
        self.counters["views told"] += 1
        return [Answer(stream, encode_frame(Frame(asked.pool, me, view), self._config))]

    def _renew_own(self) -> None:
        if not self._own_stale:
            return
        self._own_stale = False
        # Suspicion is a passing opinion of this region, and refuted within it.
        entries = [(self._beliefs.near.me, State.ALIVE)]
        for view in self._beliefs.near.members():
            state = State.ALIVE if view.state is State.SUSPECT else view.state
            entries.append((view.record, state))
        self._regions.own.replace(entries)

    # ------------------------------------------------------------------ hearing

    def hear(self, swim: Swim, origin: int, payload: bytes, now_us: int) -> list[Effect]:
        """Take an announcement that came in that pool, if its author may make it."""
        try:
            said = decode_announcement(payload)
        except Malformed:
            self.counters["announcements refused: Malformed"] += 1
            return []
        speakers = self._speakers(swim, said.region)
        if said.author != origin or origin not in speakers:
            self.counters["announcements refused: no gateway"] += 1
            return []
        wide = swim is self._beliefs.far
        fetch = self._regions.hear(said, now_us, first=speakers[0], wide=wide)
        return [] if fetch is None else self._fetch(fetch, now_us)

    def _speakers(self, swim: Swim, region: str) -> list[int]:
        """Return who may speak for a region in that pool, the first before the others."""
        if region == self._regions.own.region:
            return []
        if swim is self._beliefs.near:
            # A gateway has it at first hand, from the wide area.
            return list(self.gateways) if self._beliefs.far is None else []
        # Only who takes itself for the active one speaks up; that it does while a lower id is
        # suspect here means that its own region, which finds out sooner, has lost that one.
        ranked = sorted(
            (view.state is State.SUSPECT, view.record.member)
            for view in swim.members()
            if view.record.profile.region == region and view.state <= State.SUSPECT
        )
        return [member for _, member in ranked]

    def _speaks_here(self, region: str, author: int) -> bool:
        """Whether that author may speak for a region to this node, as it is now."""
        return author in self._speakers(self._beliefs.far or self._beliefs.near, region)

    def _found_dead(self, far: Swim, region: str) -> list[Stamp]:
        """Return the lives of that region that the wide-area pool itself found dead."""
        return [
            view.record.stamp
            for view in far.members()
            if view.record.profile.region == region and view.state is State.DEAD
        ]

    def _drop_dead(self, far: Swim, region: str, now_us: int) -> None:
        """Keep nobody whom its region does not list, and the wide-area pool itself found dead."""
        view = self._regions.others.get(region)
        if view is None:
            return
        dropped = view.sweep(now_us, self._found_dead(far, region))
        if dropped:
            self._beliefs.touch(dropped)
            self.announce_soon(now_us)

    def gateway_changed(self, change: MemberChanged, now_us: int) -> list[Effect]:
        """A member of the wide-area pool is not what it was: ask it, or doubt its region."""
        region = change.record.profile.region
        far = self._beliefs.far
        if region == self._regions.own.region or far is None:
            return []
        if change.previous is None or change.previous > State.SUSPECT:
            # A newcomer has heard no announcement yet.
            self.announce_soon(now_us, all_again=True)
        view = self._regions.others.get(region)
        author = 0 if view is None else view.author
        speakers = self._speakers(far, region)
        if not speakers:
            if view is not None and author:
                self._beliefs.touch(view.doubt(now_us, self._found_dead(far, region)))
                self.announce_soon(now_us)
            return []
        self._drop_dead(far, region, now_us)
        # It may be a while until it has something to announce; and who takes over for one that
        # died is not listened to before that death is known here.
        if author in speakers:
            to_ask = [speakers[0]] if speakers[0] == change.record.member != author else []
        else:
            to_ask = [one for one in speakers if self._answers(far, one)]
        if not to_ask:
            return []
        fetch = self._regions.fetch(ViewRequest(region), to_ask[0], wide=True)
        return [] if fetch is None else self._fetch(fetch, now_us)

    def _answers(self, far: Swim, member: int) -> bool:
        view = far.view(member)
        return view is not None and view.state is State.ALIVE

    def exchanged(self, number: int, body: object, now_us: int) -> list[Effect]:
        """Take how a fetch ended."""
        region = self._asked.pop(number, None)
        if region is None:
            return []
        view = body if isinstance(body, View) else None
        if view is not None and not self._speaks_here(region, view.author):
            self.counters["views refused: no gateway"] += 1
            view = None
        self.counters["views not fetched" if view is None else "views fetched"] += 1
        changed, following = self._regions.fetched(region, view, now_us, self._speaks_here)
        if changed:
            self._beliefs.touch(changed)
            self.announce_soon(now_us)
        if self._beliefs.far is not None:
            self._drop_dead(self._beliefs.far, region, now_us)
        effects = self._own_row() if self._beliefs.near.me.member in changed else []
        return effects if following is None else effects + self._fetch(following, now_us)

    def _own_row(self) -> list[Effect]:
        """Look at what another region says of oneself: a copy may have lived and left there."""
        me = self._beliefs.near.me
        row = self._regions.row(me.member)
        if row is None or row.state <= State.SUSPECT:
            return []
        elsewhere = row.record.profile.gossip_address != me.profile.gossip_address
        twin = elsewhere and row.state is State.LEFT
        said = outlived(me, row.record.generation, twin=twin)
        return [] if said is None else [said]

    def _fetch(self, fetch: Fetch, now_us: int) -> list[Effect]:
        swim = self._beliefs.far if fetch.wide else self._beliefs.near
        author = None if swim is None else swim.view(fetch.member)
        if swim is None or author is None or len(self._asked) >= _OUT:
            self._regions.fetched(fetch.region, None, now_us, self._speaks_here)
            return []
        self._numbers += 1
        self._asked[self._numbers] = fetch.region
        frame = encode_frame(Frame(swim.pool, swim.me.stamp, fetch.request), self._config)
        address = author.record.profile.gossip_address
        return [Exchange(self._numbers, address, frame, self._config.exchange_timeout_us)]
