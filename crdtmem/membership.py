"""Membership: founding, admitting, evicting and retiring, as an engine does them.

Problem: who is a member decides what is stable, whose batches are taken and
whether this replica may write at all; every message and every publication may
change it, and each change must come at a moment when nothing is in flight.

Idea: ``Epoch`` says who is a member and what each has acknowledged; ``Evictions``
says what to promise and what follows. This module drives both: it greets peers,
sponsors newcomers, founds a cluster where nobody else can, and turns verdicts
into cuts on the inbox, transactions and, for a replica that must stop, a
``Retire`` effect: the store is marked, so that the next start takes a new
replica id and sets aside what lies beyond the cuts.

A newcomer begins to write when it has joined its admission, and a member is known to
hold all that it holds (see ``sync_newcomer``).

Invariants: a replica that is no member does not write; evictions are reacted to
only while no flight is out; a replica that retires writes nothing more under
its id, in this process or any later one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from crdtmem.causality import VersionVector
from crdtmem.effects import Alarm, Effect, Retire
from crdtmem.epoch import Epoch, admission_operations, founding_operations, replica_text
from crdtmem.errors import ConditionFailed, LocalError
from crdtmem.eviction import Evictions, Halt, SetCut
from crdtmem.flight import FLIGHT_DELTAS
from crdtmem.messages import Hello
from crdtmem.replica import Replica
from crdtmem.transaction import Operation, Transaction

__all__ = ["Membership", "NodeInfo"]

_AUTHOR = "crdtmem"


@dataclass(frozen=True, slots=True)
class NodeInfo:
    """What a node tells its cluster of itself, and expects of it.

    ``peers`` is how many peers are configured; with none, a fresh node founds. One that
    ``joins`` was told where its cluster is: it waits to be admitted, however new it and all
    whom it meets may be.
    ``predecessor`` is the replica id that this store had before, if it had one,
    and ``predecessor_last`` the last sequence that it is known to have written
    under it. ``boot`` counts the starts of the store. A clock further than
    ``skew_alarm_us`` from the median of all is named in an alarm. One fsync makes about
    ``flight_deltas`` deltas durable at most.
    """

    name: str = ""
    cluster: str = "crdtmem"
    peers: int = 0
    joins: bool = False
    address: str = ""
    skew_alarm_us: int = 500_000
    flight_deltas: int = FLIGHT_DELTAS
    boot: int = 1
    predecessor: int | None = None
    predecessor_last: int = 0


class Membership:
    """One replica's part in its cluster."""

    def __init__(self, replica: Replica, node: NodeInfo) -> None:
        self.replica = replica
        self.node = node
        self.own = replica.identity.replica
        self.epoch = Epoch(self.own)
        self.evictions = Evictions(self.own)
        self._common = 0
        # Our own id from the moment that we found: whoever meets us before that is durable must
        # not found another cluster, and after a crash we found the same one again.
        self.founding = 0
        self._as_new: set[int] = set()
        self._configured: set[int] = set()
        # Who dialled us, so that we are a peer of its, and has as many as we have.
        self._named_by: set[int] = set()
        self._sponsored: set[int] = set()
        self._inherited: set[int] = set()
        # Those that this side has given up and that have given up us, with the cut that they said.
        self.given_up_by: dict[int, int] = {}
        # Where histories ended that this store gave up: see ``retirement``.
        self.lost: Mapping[int, tuple[int, bytes]] = {}
        self._greeted: dict[int, Hello] = {}
        self._must_react = False
        self._is_member = False
        # What the streams know: whether a member holds all that this newcomer holds (see
        # ``sync_newcomer``), and whether a replica is linked to this one now.
        self.is_covered: Callable[[], bool] = lambda: False
        self.is_linked: Callable[[int], bool] = lambda _: True

    # ------------------------------------------------------------------ beginnings

    def start(self, now_us: int, *, found: bool = False) -> list[Effect]:
        """Begin after recovery. Without peers, a replica that is no member founds.

        With ``found`` it founds also where it has peers, or remembers members: of a
        cluster that is gone but for backups one founds anew, and the others join it.
        """
        state = self.replica.state
        self.epoch.refresh(state)
        self.evictions.refresh(state)
        self._common = self._known_of_ours()
        self._is_member = self.replica.writable = self._may_write()
        self._must_react = True
        effects = self.react(now_us)
        if self.replica.writable:
            if found:
                words = "this store is a member already: nothing was founded"
                effects.append(Alarm("not founded", words, {}))
            return [*effects, *self._give_up_former(now_us)]
        if found and not self.epoch.is_member:
            return [*effects, *self._found(now_us)]
        if self.node.peers or self.node.joins:
            return effects
        others = self._others()
        if not others and (self.epoch.records or self.node.predecessor is None):
            return [*effects, *self._found(now_us)]
        names = ", ".join(replica_text(other) for other in sorted(others)) or "not known"
        message = f"this store's members are {names}; it waits for one of them to admit it"
        return [*effects, Alarm("not a member", message, {"members": sorted(others)})]

    def _known_of_ours(self) -> int:
        """Return how much of our own any other replica was known to hold when we started.

        The one part of our history of which a copy of this store cannot have another.
        """
        others = self.epoch.records.keys() | self.replica.state.vector.keys()
        known = (self.epoch.acknowledged(other) for other in others)
        return max((vector.get(self.own, 0) for vector in known), default=0)

    def former_ids(self) -> set[int]:
        """Return the ids that this store had before, as far as they are known."""
        former: set[int] = set()
        earlier = self.node.predecessor
        while earlier is not None and earlier not in former:
            former.add(earlier)
            record = self.epoch.records.get(earlier)
            earlier = None if record is None else record.predecessor
        return former - {self.own}

    def _may_write(self) -> bool:
        """Tell whether this replica is a member, and was no further than another at birth."""
        own = self.epoch.records.get(self.own)
        if own is None:
            return False
        vector = self.replica.state.vector
        if own.is_founder or vector.get(self.own, 0):
            return True
        others = self.epoch.members - {self.own}
        return self.is_covered() or any(
            self.epoch.acknowledged(other).dominates(vector) for other in others
        )

    def _others(self) -> set[int]:
        """Return the members that are neither this replica, nor its former ids, nor evicted."""
        evicted = {gone for verdict in self.evictions.verdicts for gone in verdict.evicted}
        return set(self.epoch.members) - evicted - self.former_ids() - {self.own}

    def _found(self, now_us: int) -> list[Effect]:
        """Admit ourselves: the first write of a cluster, which bears our id.

        A store that was copied or restored on its own founds one too; its former
        ids are members of that, until we are one and ``_give_up_former``. So are all
        members of a cluster that is founded anew: what else is left of them, in other
        backups, is to be joined before an operator gives them up.
        """
        operations = founding_operations(
            self.replica.identity,
            self.node.name,
            predecessor=self.node.predecessor,
            predecessor_last=self.node.predecessor_last,
        )
        self.replica.writable = True
        self.founding = self.own
        return self._write(operations, now_us)

    def _give_up_former(self, now_us: int) -> list[Effect]:
        """Evict the former ids of a store whose new id founded: nobody else ever will.

        They cannot write in this cluster, and as long as they are waited for
        nothing is stable.
        """
        own = self.epoch.records.get(self.own)
        if own is None or not own.is_founder or self._others():
            return []
        proposed = {proposal.victim for proposal in self.evictions.proposals}
        effects: list[Effect] = []
        for former in sorted((self.former_ids() & self.epoch.members) - proposed):
            effects += self.propose(former, forced=True, now_us=now_us)
        return effects

    def _write(self, operations: list[Operation], now_us: int) -> list[Effect]:
        transaction = Transaction(author=_AUTHOR)
        for operation in operations:
            transaction.add(operation)
        transaction.seal(self.replica.limits)
        return self.replica.submit(None, transaction, now_us, first=True)

    def greeted(self, hello: Hello, now_us: int, *, dialled: bool) -> list[Effect]:
        """A peer introduced itself: sponsor it if it is new, or found if all are.

        ``dialled`` tells a configured peer from a stranger that dialled us: only when
        every configured peer is known to be as new as we are, names as many peers, and
        names us, may the smallest id found. Of nodes in a chain more than one could be the
        smallest that it knows of.
        """
        self._greeted[hello.replica] = hello
        if self._is_member:
            return self._sponsor(hello, now_us)
        if hello.cluster_id or self.epoch.records:
            self._as_new.discard(hello.replica)
            return []
        self._as_new.add(hello.replica)
        (self._configured if dialled else self._named_by).add(hello.replica)
        if hello.peers != self.node.peers:
            self._named_by.discard(hello.replica)
        if self.node.joins:
            return []
        all_new = len(self._configured & self._named_by & self._as_new) >= self.node.peers
        if all_new and not self.replica.writable and self.own < min(self._as_new):
            return self._found(now_us)
        return []

    def _sponsor(self, hello: Hello, now_us: int) -> list[Effect]:
        newcomer = hello.replica
        if newcomer in self.epoch.records or newcomer in self._sponsored:
            return []
        beyond = self.evictions.admits(hello.vector, self.replica.state.vector)
        if beyond is not None:
            message = f"{newcomer:016x} holds what lies beyond the cut of {beyond:016x}"
            details = {"newcomer": newcomer, "evicted": beyond}
            return [Alarm("not admitted", message, details)]
        try:
            operations = admission_operations(
                self.epoch,
                newcomer,
                hello.region,
                hello.node,
                predecessor=hello.predecessor or None,
                predecessor_last=hello.predecessor_last,
                limit=self.replica.limits.members,
            )
        except LocalError as error:
            return [Alarm("not admitted", str(error), {"newcomer": newcomer})]
        self._sponsored.add(newcomer)
        return self._write(operations, now_us) if operations else []

    # ------------------------------------------------------------------ news

    def published(self, system_changed: bool, now_us: int) -> list[Effect]:
        """React to a published flight; ``system_changed`` if it touched the system space."""
        if system_changed:
            self.epoch.refresh(self.replica.state)
            self.evictions.refresh(self.replica.state)
            self._must_react = True
        # Evictions first: whoever must halt never begins to write.
        return [*self.react(now_us), *self._become_member(now_us)]

    def _become_member(self, now_us: int) -> list[Effect]:
        if self._is_member or self.replica.halted is not None or not self._may_write():
            return []
        if not self.replica.state.vector.get(self.own, 0):
            beyond = self.evictions.beyond_at_birth(self.epoch, self.replica.state.vector)
            if beyond:
                names = ", ".join(map(replica_text, sorted(beyond)))
                return self.retire(f"this newcomer took more of {names} than it may", beyond)
        self._is_member = self.replica.writable = True
        effects = [*self.react(now_us), *self._give_up_former(now_us)]
        for hello in self._greeted.values():
            # One that has gone may never come back, and would be waited for.
            if self.is_linked(hello.replica):
                effects += self._sponsor(hello, now_us)
        return effects

    def acknowledge(self, replica: int, vector: Mapping[int, int], now_us: int) -> list[Effect]:
        """Take note of a durable vector, and of what it decides."""
        self.epoch.acknowledge(replica, vector)
        if self.evictions.proposals or self.evictions.promises:
            self._must_react = True
        return [*self.react(now_us), *self._become_member(now_us)]

    def react(self, now_us: int) -> list[Effect]:
        """Carry out what evictions demand, if no flight is out; else the next publish does."""
        replica = self.replica
        if not self._must_react or replica.flight is not None:
            return []
        self._must_react = False
        operations, consequences = self.evictions.react(self.epoch, replica.state.vector)
        for gone, last in self.epoch.settled.items():
            replica.inbox.settle(gone, last)
        self._inherit()
        effects: list[Effect] = []
        for consequence in consequences:
            if isinstance(consequence, SetCut):
                replica.inbox.set_cut(consequence.replica, consequence.last)
            elif isinstance(consequence, Halt):
                effects += self.retire(consequence.reason, consequence.cuts)
            else:
                effects.append(consequence)
        if operations and not self._is_member:
            # Admitted, but not yet fit to write: said again when it is.
            self._must_react = True
        elif operations:
            effects += self._write(operations, now_us)
        return effects

    def _inherit(self) -> None:
        """As the heir of those whose eviction is final, see to what they left to expire."""
        if self._is_member and self.epoch.lowest_live_member() == self.own:
            left = self.epoch.settled.keys() - self._inherited
            if left:
                self._inherited |= left
                self.replica.expiry.inherit(self.replica.state, left)

    def propose(self, victim: int, *, forced: bool, now_us: int) -> list[Effect]:
        """Propose to evict a member. Raises ``LocalError``s; see ``Evictions.propose``."""
        operations = self.evictions.propose(
            self.epoch, self.replica.state.vector, victim, forced=forced
        )
        return self._write(operations, now_us) if operations else []

    # ------------------------------------------------------------------ endings

    def retire(self, reason: str, cuts: Mapping[int, int]) -> list[Effect]:
        """Stop writing under this id for good; what lies beyond ``cuts`` is to be set aside."""
        if self.replica.halted is not None:
            return []
        return [*self.replica.halt(reason), Retire(reason, dict(cuts))]

    def told_evicted(self, peer: int, cut: int) -> list[Effect]:
        """A peer says that this replica has been evicted, with its last sequence that counts.

        Where this replica's side has given up the peer as finally, both were forced, and
        there are two clusters. If everybody took the other's word, nobody would be left: so
        nobody does, until an operator says which side's members ``rejoin``.
        """
        if peer not in self.epoch.settled:
            words = f"this replica was evicted, at sequence {cut}, says {peer:016x}"
            return self.retire(words, {self.own: cut})
        if self.given_up_by:
            self.given_up_by[peer] = cut
            return []
        self.given_up_by[peer] = cut
        words = (
            f"replica {peer:016x} and this one have given each other up, by force on both "
            "sides: these are two clusters now; decide which side stays, and run "
            "`crdtmem rejoin` on each node of the other"
        )
        return [Alarm("given up on both sides", words, {"peer": peer, "cut": cut})]

    def rejoin(self) -> list[Effect]:
        """Give this side up for one that has given up this replica: an operator's decision.

        This replica's id ends at the other side's cut, and so do those of its side; the node
        goes on as a newcomer there, and what lies beyond is set aside. Raises
        ``ConditionFailed`` where no such peer was met.
        """
        if not self.given_up_by:
            raise ConditionFailed(
                "no peer that this node has given up has given up this node",
                hint="a node that was evicted rejoins by itself; for one side of a cluster that "
                "was parted by force, wait until it has met a member of the other",
            )
        # Who stays there has all of this side up to its cuts, and nothing beyond.
        cuts = {
            member: max(self.epoch.acknowledged(peer).get(member, 0) for peer in self.given_up_by)
            for member in self.epoch.members
        }
        cuts[self.own] = min(self.given_up_by.values())
        return self.retire("an operator let this node rejoin those who had given it up", cuts)

    def questioned(self, reason: str) -> list[Effect]:
        """A peer holds under our id what we did not write: this store is an old copy.

        From where on the two histories differ cannot be told, only where they
        were still one: what others were known to hold of ours when we started. What
        is beyond comes back from the peers where it is theirs too; the rest stays
        aside, to be rescued as new operations.
        """
        return self.retire(f"a peer holds {reason}", {self.own: self._common})

    def yields_to(self, peer: int, less: bool) -> bool:
        """Of two that hold two histories of a third, tell whether this one begins again.

        Among members whoever holds ``less``. A newcomer always does, for it has nothing to
        lose; and nobody does for one that is no member, or on its way out.
        """
        if not self._is_member:
            return True
        return less and peer in self.epoch.members - self.epoch.leaving

    def fork_lost(self, replica: int, peer: int) -> list[Effect]:
        """Begin again without our history of ``replica``, which the peer's is to replace.

        Nothing tells where the two part, so all of it goes, with what follows from any of
        it; what the peers hold comes back from them, byte for byte.
        """
        if self.replica.halted is not None:
            return []
        words = f"replica {peer:016x} holds another history of replica {replica:016x}"
        return self.retire(words, {replica: 0})

    def lost_below(self, vector: Mapping[int, int]) -> int:
        """Return a replica of which this one holds just what it had given up before, and a state
        at ``vector`` holds more; 0 for none. The two cannot be joined: that state's history may
        be the one which the other gave way to, and only batches show whether it is.
        """
        for replica, tip in self.lost.items():
            if self.replica.tips.get(replica) == tip and vector.get(replica, 0) > tip[0]:
                return replica
        return 0

    def take_through(self, replica: int, vector: VersionVector) -> int:
        """Return the highest sequence of a replica that may be taken."""
        inbox = self.replica.inbox
        if replica in inbox.fenced:
            return vector.get(replica, 0)
        end = inbox.ends.get(replica, (1 << 64) - 1)
        return min(end, inbox.cuts.get(replica, end))
