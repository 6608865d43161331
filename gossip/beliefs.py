"""What is believed of each member, from the nearest source, and what of it was reported.

Problem: a node hears of one member from its own pool, from the wide-area pool and from a view
of the member's region, at different times and not always the same.

Idea: the nearest source that knows the member speaks: its own pool (unless it is not alive
there, and is in a later life elsewhere: it moved), then the view of its region, then the
wide-area pool. The wide-area pool is nearer than a view, but anybody in it could live there in
the name of a member that is not; so what a followed view lists is listed as that says, and the
wide-area pool adds whether that life answers. Sources only say of whom something may have
changed; what is reported is found by comparing with what was reported last.

Invariant: a change is reported once, and after any input what was reported is what is believed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from gossip.effects import MemberChanged
from gossip.members import MemberView
from gossip.messages import Record, State
from gossip.regions import Regions
from gossip.swim import Swim
from gossip.views import Row

__all__ = ["Beliefs"]


class Beliefs:
    """The sources of one node, and its reports."""

    def __init__(self, near: Swim, regions: Regions) -> None:
        self.near = near
        self.far: Swim | None = None
        self._regions = regions
        self._told: dict[int, tuple[Record, State]] = {}
        self._touched: dict[int, None] = {}

    def of(self, member: int) -> MemberView | None:
        """Return what is believed of a member, with the tier that the word comes from."""
        near = self.near.view(member)
        if near is not None and near.state <= State.SUSPECT:
            return near
        abroad = None if member == self.near.me.member else self._abroad(member)
        if near is None or abroad is None:
            return near or abroad
        # One that died here may have moved, and live another life in another region.
        moved = abroad.state <= State.SUSPECT
        return abroad if moved and abroad.record.generation > near.record.generation else near

    def _abroad(self, member: int) -> MemberView | None:
        row = self._regions.row(member)
        far = None if self.far is None else self.far.view(member)
        if far is not None and (row is None or not self._regions.followed(row)):
            return replace(far, tier="wide")
        if row is None:
            return None
        if far is not None and _same_life(far.record, row.record):
            # At first hand whether it answers; but who it is its own region knows best.
            return replace(far, record=row.record, tier="wide")
        if far is not None and self._has_left(row):
            row = replace(row, state=State.LEFT)
        return MemberView(row.record, row.state, 0, None, None, False, False, None, b"", "remote")

    def _has_left(self, row: Row) -> bool:
        """Whether that life, which the wide area no longer lists, was seen to leave there: a
        view may be older, and bring nobody back."""
        record, state = self._told.get(row.record.member, (row.record, State.ALIVE))
        return state is State.LEFT and row.record.generation <= record.generation

    def all(self) -> list[MemberView]:
        """Return what is believed of everybody else."""
        near = self.near.members()
        views = [view for view in near if view.state <= State.SUSPECT]
        seen = {view.record.member for view in views}
        ids = [view.record.member for view in near]
        ids += [] if self.far is None else [view.record.member for view in self.far.members()]
        ids += [row.record.member for row in self._regions.rows()]
        others = (self.of(member) for member in dict.fromkeys(ids) if member not in seen)
        return views + [view for view in others if view is not None]

    def touch(self, members: Iterable[int]) -> None:
        """Something may have changed about these."""
        self._touched.update(dict.fromkeys(members))

    def changes(self) -> list[MemberChanged]:
        """Return the reports that are due."""
        touched, self._touched = self._touched, {}
        reports = [self._report(member) for member in touched]
        return [report for report in reports if report is not None]

    def _report(self, member: int) -> MemberChanged | None:
        told = self._told.get(member)
        view = self.of(member)
        if view is None:
            if told is None:
                return None
            del self._told[member]
            return MemberChanged(*told, told[1], gone=True)
        if (view.record, view.state) == told:
            return None
        self._told[member] = (view.record, view.state)
        return MemberChanged(view.record, view.state, None if told is None else told[1])


def _same_life(one: Record, other: Record) -> bool:
    here, there = one.profile.gossip_address, other.profile.gossip_address
    return one.generation == other.generation and here == there
