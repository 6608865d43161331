"""Relaying: who passes whose deltas on at once to whom, so that each arrives soon, and once.

Problem: where not everybody has a stream to everybody (regions joined by gateways, graphs of
bounded degree, a broken link), a delta has to be passed on. Pulled, each step costs a round trip
more than it must; passed on by all to all, everybody gets it many times.

Idea: an eager tree per origin, and the pull by acknowledged vectors as what heals it. Each node
knows whom its peers hear themselves, so most of the tree is plain beforehand. Let D be who brought
us an origin's deltas. A peer that hears the origin, or D, has them from there. Any other gets
them from one of those that hear D and that it hears; of these the lowest by a hash does it.
Two that got them from different hands may both believe that they are the one: the peer then
*prunes* who came second, for that origin. Whom a peer asks for a range of an origin (a *graft*)
passes its deltas on from then on, until pruned.

A relay that dies takes its branch with it: its neighbours no longer hear it, so others are the
lowest by the next delta; what they had pruned, or do not know, the acknowledgements of the rest
show as lacking, and it is asked for, which grafts.

Invariants: only published batches are passed on, in order, within credit, and never to a peer
that is known to have them or from whom they came; a newcomer passes nothing on; who does not say
whom it hears asks; whatever is not passed on is asked for: nothing here has to be right, only
mostly so.

Source: Plumtree, "Epidemic Broadcast Trees" (Leitão, Pereira & Rodrigues, 2007), with a tree per
origin; that one neighbour of two hops answers for all is OLSR's multipoint relaying (RFC 3626).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from crdtmem.batch import Batch
from crdtmem.effects import Effect
from crdtmem.messages import Prune
from crdtmem.sync_host import SyncHost
from crdtmem.sync_session import Session

__all__ = ["Relaying"]

_MASK: Final = (1 << 64) - 1


class Relaying:
    """The trees as one node sees them: who brings it each origin, whom it passes that on to."""

    def __init__(self, host: SyncHost, by_replica: Mapping[int, Session]) -> None:
        """``by_replica`` are the sessions that have introduced themselves, kept by ``Sync``."""
        self._host = host
        self._by_replica = by_replica
        self._sources: dict[int, Session] = {}
        # Whom each origin's deltas are passed on to, until something about that changes.
        self._children: dict[int, tuple[Session, ...]] = {}

    # ------------------------------------------------------------------ links

    def links_changed(self) -> None:
        """Take note that streams came or went, or that a peer's did."""
        self._children.clear()

    def closed(self, session: Session) -> None:
        """A stream is gone: who brought what, over it, is open again."""
        self._sources = {
            origin: held for origin, held in self._sources.items() if held is not session
        }
        self._children.clear()

    def source(self, origin: int) -> Session | None:
        """Return who brought the last of an origin's deltas, if that stream is still there."""
        return self._sources.get(origin)

    # ------------------------------------------------------------------ what came in

    def brought(self, session: Session, origin: int) -> None:
        """A session brought something new of an origin."""
        if self._sources.get(origin) is not session:
            self._sources[origin] = session
            self._children.pop(origin, None)

    def repeated(self, session: Session, origin: int) -> list[Effect]:
        """A session brought, unasked, what was here already: one of two ways is too many."""
        source = self._sources.get(origin)
        if source is None or source is session:
            self.brought(session, origin)
            return []
        needless = session
        if session.replica == origin:
            # We hear the origin itself; whoever was quicker this once did not know that yet.
            needless = source
            self.brought(session, origin)
        if origin in needless.pruned or needless.closed:
            return []
        needless.pruned.add(origin)
        self._part(needless, origin)
        return [needless.send(Prune(frozenset((origin,))))]

    def prune(self, session: Session, message: Prune, _: int) -> list[Effect]:
        """A peer wants no more of these origins' deltas unasked."""
        for origin in message.origins:
            # Of others nothing is passed on anyway; a list of them would be the peer's to fill.
            if origin in self._host.state.vector:
                self._part(session, origin)
        return []

    def _part(self, session: Session, origin: int) -> None:
        session.lazy.add(origin)
        session.grafted.discard(origin)
        self._children.pop(origin, None)

    def graft(self, session: Session, ranges: Iterable[tuple[int, int, int]]) -> None:
        """A peer asks for ranges of these origins: it wants what follows from here, too."""
        for origin, _, _ in ranges:
            if origin != self._host.replica_id and origin not in session.grafted:
                session.grafted.add(origin)
                session.lazy.discard(origin)
                self._children.pop(origin, None)

    @staticmethod
    def asked(session: Session, ranges: Iterable[tuple[int, int, int]]) -> None:
        """Take note that a peer is asked for ranges: it passes those origins on from now on."""
        session.pruned.difference_update(origin for origin, _, _ in ranges)

    # ------------------------------------------------------------------ what goes on

    def onward(self, batches: Sequence[Batch]) -> dict[Session, list[Batch]]:
        """Return which of the batches just published are passed on, and to whom."""
        onward: dict[Session, list[Batch]] = {}
        if self._host.newcomer:
            # It may have streams to two clusters, and not know yet which one it belongs to.
            return onward
        own = self._host.replica_id
        for batch in batches:
            origin = batch.header.replica
            if origin == own:
                continue
            children = self._children.get(origin)
            if children is None:
                children = self._children[origin] = self._children_of(origin)
            for session in children:
                onward.setdefault(session, []).append(batch)
        return onward

    def _children_of(self, origin: int) -> tuple[Session, ...]:
        source = self._sources.get(origin)
        if source is None:
            return ()
        return tuple(
            session
            for session in self._by_replica.values()
            if session is not source and self._passes_on(session, origin, source)
        )

    def _passes_on(self, session: Session, origin: int, source: Session) -> bool:
        """Tell whether it is ours to pass an origin's deltas on to a peer."""
        hears = session.hears
        if not hears or origin == session.replica or origin in hears or origin in session.lazy:
            return False
        if origin in session.grafted:
            return True
        if source.replica in hears:
            return False
        own = self._host.replica_id
        able = source.hears & hears
        mine = _rank(own, session.replica, origin)
        return all(mine <= _rank(one, session.replica, origin) for one in able if one != own)


def _rank(relay: int, receiver: int, origin: int) -> int:
    """Return an order of relays that is the same everywhere, and another for each pair.

    SplitMix64's finaliser, so that near numbers are far apart.
    """
    mixed = (relay ^ (receiver * 0x9E3779B97F4A7C15) ^ (origin * 0xD1B54A32D192ED03)) & _MASK
    mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & _MASK
    return mixed ^ (mixed >> 31)
