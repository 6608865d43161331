"""Eviction: giving up a member for good, by promises, without losing what it had spread.

Problem: a member that never returns stops all collection, for nothing is stable
without it; one that returns after the others stopped waiting for it would bring
back what they collected. And the others may disagree about who is gone.

Idea: see ``promises`` for the words. ``Evictions`` is the part that acts. After
every publish that touched the system space, and as acknowledgements come in, it
says what this replica must now write (at most one promise), up to where its
inbox may take each evicted replica's deltas, whether a cut has become *final*,
and whether this replica itself has to halt. It is a function of the state and
the acknowledgements: after a restart it says the same again.

Which set to promise:

1. Never a smaller one than before, never without those whose eviction is final,
   and never one that names this replica.
2. A larger set that survivors have promised, or that is decided; of several the
   one with most promises, and of equals the one promised first.
3. Then each proposal in canonical order, unless its proposer is in the set
   already. Of two replicas that propose each other, whoever sees both takes the
   earlier, so the majority decides, and one of them stays.
4. Only a set that its survivors can carry, as far as is known here.

The price of promises that never shrink is that survivors who were apart can
promise sets neither of which contains the other. Then nothing is decided,
nothing is lost and nothing is collected; an alarm says who stands where, until
an operator proposes with ``forced`` whom else to give up. *What is promised of a
forced eviction*: it is decided by the same promises of every survivor, and has
the same cut, but whoever was forced is not counted in any majority. An operator
who forces on both sides of a partition gets two clusters. When they meet, both
stay as they are, with an alarm, until an operator lets one side's members rejoin
the other (see ``Membership.rejoin``).

A cut is *final* when every survivor's counted acknowledgement covers every one
of the promises, and with them, causally, all that anybody took. Whoever finds
that out adds it to its promise, and only when that is published does it stop
waiting for the evicted replica. So whatever is written without that replica
follows the statement that it is gone: a larger eviction later, whose promises
replace these, cannot hide from it that it has to halt. Until then it is a member.

Invariants: after its promise a replica takes of the evicted only what some
survivor is known to hold; once decided, nothing beyond the cut; a replica beyond
a cut neither writes nor joins, for what comes after the cut was written without
what it holds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from crdtmem.causality import VersionVector
from crdtmem.effects import Alarm
from crdtmem.epoch import Epoch, replica_text
from crdtmem.errors import ConditionFailed, InvalidValue, UnknownName
from crdtmem.promises import (
    Promise,
    Proposal,
    Verdict,
    carries,
    find_verdicts,
    named_by,
    promise_operation,
    proposal_operation,
    read_promises,
    read_proposals,
    void_members,
)
from crdtmem.table import State
from crdtmem.transaction import Operation

__all__ = ["Choice", "Consequence", "Evictions", "Halt", "SetCut", "choose"]

_NOBODY: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class SetCut:
    """Take nothing of ``replica`` beyond ``last`` into the inbox, until told otherwise."""

    replica: int
    last: int


@dataclass(frozen=True, slots=True)
class Halt:
    """Stop writing and joining under this id, for good. ``cuts`` says what counts of whom."""

    reason: str
    cuts: dict[int, int]


Consequence = SetCut | Halt | Alarm


@dataclass(frozen=True, slots=True)
class Choice:
    """The set that a replica goes along with, and whom it does not give up, with the reason."""

    evicted: frozenset[int]
    forced: frozenset[int]
    refused: Mapping[int, str]


def choose(
    epoch: Epoch,
    proposals: list[Proposal],
    promises: Mapping[int, Promise],
    verdicts: list[Verdict],
    final: Iterable[int] = (),
) -> Choice:
    """Return which set this replica must promise now: its former one, or a larger one.

    ``final`` are those whose eviction is over and done with.
    """
    own = promises.get(epoch.own)
    evicted, forced = (_NOBODY, _NOBODY) if own is None else (own.evicted, own.forced)
    evicted = evicted.union(final)
    decided = {verdict.evicted for verdict in verdicts}
    refused: dict[int, str] = {}
    while True:
        larger = _best_supported(epoch, promises, decided, evicted, forced)
        if larger is not None:
            evicted, forced = larger
            continue
        refused = {}
        for proposal in proposals:
            if proposal.victim in evicted:
                if proposal.forced and proposal.proposer not in evicted:
                    forced |= {proposal.victim}
                continue
            reason = _why_not(epoch, proposal, evicted, forced)
            if reason is None:
                evicted |= {proposal.victim}
                forced |= {proposal.victim} if proposal.forced else _NOBODY
                break
            refused[proposal.victim] = reason
        else:
            return Choice(evicted, forced, refused)


def _best_supported(
    epoch: Epoch,
    promises: Mapping[int, Promise],
    decided: set[frozenset[int]],
    evicted: frozenset[int],
    forced: frozenset[int],
) -> tuple[frozenset[int], frozenset[int]] | None:
    """Return the set larger than ``evicted`` that most survivors promised, and whom they force."""
    support: dict[frozenset[int], list[Promise]] = {}
    for promise in promises.values():
        if promise.author in epoch.records and promise.author not in evicted:
            support.setdefault(promise.evicted, []).append(promise)
    found: list[tuple[int, int, int, frozenset[int], frozenset[int]]] = []
    for larger, words in support.items():
        absent = forced.union(*(word.forced for word in words))
        if not larger > evicted or epoch.own in larger:
            continue
        if larger in decided or _can_carry(epoch, larger, absent):
            order, dot = min((word.order, word.dot) for word in words)
            found.append((-len(words), order, dot, larger, absent))
    # A dot belongs to one promise, so the sets themselves are never compared.
    return min(found)[3:] if found else None


def _why_not(
    epoch: Epoch, proposal: Proposal, evicted: frozenset[int], forced: frozenset[int]
) -> str | None:
    """Return why this replica does not go along with a proposal, ``None`` if it does."""
    if proposal.victim == epoch.own:
        return "it is this replica"
    if proposal.victim not in epoch.records or proposal.proposer not in epoch.records:
        return "it, or who proposed it, is not known as a member here"
    if proposal.proposer in evicted:
        return "who proposed it is being evicted"
    if proposal.forced:
        forced |= {proposal.victim}
    if not _can_carry(epoch, evicted | {proposal.victim}, forced):
        return "those who would stay are no majority"
    return None


def _can_carry(epoch: Epoch, evicted: frozenset[int], forced: frozenset[int]) -> bool:
    members = frozenset(epoch.records)
    absent = forced.union(epoch.settled)
    return carries(members - evicted, members, epoch.established(), absent)


class Evictions:
    """What one replica knows and does about evictions.

    ``refresh`` belongs after every publish that touched the system space, and
    ``react`` after that and after acknowledgements; both only while no flight
    is out, so that what is published is all that was taken.
    """

    def __init__(self, own: int) -> None:
        self.own = own
        self.proposals: list[Proposal] = []
        self.promises: dict[int, Promise] = {}
        self.verdicts: list[Verdict] = []
        self.refused: Mapping[int, str] = {}
        self.told_cuts: dict[int, int] = {}
        self.final: dict[int, int] = {}
        self.allowed: dict[int, int] = {}
        self._halted = False
        self._alarms: set[str] = set()

    # ------------------------------------------------------------------ the operator

    def propose(
        self, epoch: Epoch, vector: VersionVector, victim: int, *, forced: bool = False
    ) -> list[Operation]:
        """Return the write that proposes to evict ``victim``; nothing if that is final.

        ``vector`` is what is published.
        ``forced`` takes the victim out of every majority; see the module for what
        it risks. Raises ``InvalidValue`` for this replica itself, ``UnknownName``
        for one that is no member, and ``ConditionFailed`` where it would be no use:
        those who would stay are no majority, or this replica is being evicted.
        """
        if victim == self.own:
            raise InvalidValue(
                "a replica does not evict itself", hint="run the eviction on a node that stays"
            )
        if victim not in epoch.records:
            raise UnknownName(
                f"no member has the replica id {replica_text(victim)}",
                hint="'crdtmem status' lists the members",
            )
        if victim in epoch.settled:
            return []
        against = [author for author, word in self.promises.items() if self.own in word.evicted]
        if against and not forced:
            raise ConditionFailed(
                f"this replica is itself being evicted, by {_names(against)}",
                hint="run the eviction on a node that stays",
            )
        epoch.stable_vector(vector)
        own = self.promises.get(self.own)
        evicted = (own.evicted if own else _NOBODY) | {victim}
        absent = (own.forced if own else _NOBODY) | ({victim} if forced else _NOBODY)
        if not _can_carry(epoch, evicted, absent):
            raise ConditionFailed(
                f"without {_names(evicted)} the remaining members are no majority of all, or no "
                "majority of those whom all know: members admitted while another was away do "
                "not count against it",
                hint="what the gone had acknowledged may take ten seconds to spread: try again; "
                "then, only if they are gone for good, force it for each of them",
            )
        return [proposal_operation(victim, self.own, forced=forced)]

    # ------------------------------------------------------------------ guards

    def admits(
        self, newcomer_vector: Mapping[int, int], own_vector: Mapping[int, int]
    ) -> int | None:
        """Return the evicted replica because of which a newcomer may not be admitted, or ``None``.

        It holds more of that replica than its sponsor does: some of it may be
        beyond the cut. It must join from nothing.
        """
        for replica in sorted(self.allowed.keys() | self.told_cuts.keys()):
            if newcomer_vector.get(replica, 0) > own_vector.get(replica, 0):
                return replica
        return None

    def may_join(self, vector: Mapping[int, int]) -> bool:
        """Tell whether a whole state at ``vector`` (a snapshot) may be joined now."""
        return all(vector.get(replica, 0) <= last for replica, last in self.allowed.items())

    def note_cuts(self, cuts: Mapping[int, int]) -> None:
        """Take note of cuts that came with a snapshot, or that a peer refused us with.

        They are final ones. ``react`` says what follows from them.
        """
        self.told_cuts.update(cuts)

    # ------------------------------------------------------------------ the machine

    def refresh(self, state: State) -> None:
        """Read proposals and promises from the system space again."""
        self.proposals = read_proposals(state)
        self.promises = read_promises(state)
        self.verdicts = list(find_verdicts(self.promises))
        self.final = {
            replica: last
            for _, word in sorted(self.promises.items())
            for replica, last in word.settled.items()
        }

    def react(
        self, epoch: Epoch, vector: VersionVector
    ) -> tuple[list[Operation], list[Consequence]]:
        """Return what to write, as one transaction, and what follows at once from what is known.

        ``vector`` is what is published; no flight may be out. The consequences
        are to be carried out before anything else is staged.
        """
        if not (self.proposals or self.promises or self.told_cuts) or self._halted:
            return [], []
        epoch.stable_vector(vector)
        halt = self._must_halt(epoch, vector)
        if halt is not None:
            self._halted = True
            return [], [halt]
        if not epoch.is_member:
            return [], list(self._cuts_of(self._limits(epoch, _NOBODY, vector)))
        choice = choose(epoch, self.proposals, self.promises, self.verdicts, self.final)
        self.refused = choice.refused
        for replica, last in {**self.told_cuts, **self.final}.items():
            # Final, but it counts here only once all that counts has arrived here.
            if vector.get(replica, 0) >= last:
                epoch.settled.setdefault(replica, last)
        epoch.leaving = choice.evicted - epoch.settled.keys()
        settled = {**self._newly_final(epoch, choice, vector), **epoch.settled}
        settled = {replica: settled[replica] for replica in choice.evicted & settled.keys()}
        operations: list[Operation] = []
        own = self.promises.get(self.own)
        said = (_NOBODY, _NOBODY, {}) if own is None else (own.evicted, own.forced, own.settled)
        if (choice.evicted, choice.forced, settled) != said:
            operations.append(
                promise_operation(epoch, own, choice.evicted, choice.forced, settled, vector)
            )
        consequences: list[Consequence] = [
            *self._cuts_of(self._limits(epoch, choice.evicted, vector)),
            *self._new_alarms(epoch, choice),
        ]
        return operations, consequences

    def _must_halt(self, epoch: Epoch, vector: VersionVector) -> Halt | None:
        cuts: dict[int, int] = {**self.told_cuts, **self.final, **epoch.settled}
        for verdict in self.verdicts:
            cuts = {**verdict.cut, **cuts}
        if self.own in cuts:
            who = next((v.survivors for v in self.verdicts if self.own in v.evicted), _NOBODY)
            by = f" by {_names(who)}" if who else ""
            return Halt(f"this replica was evicted{by}, at sequence {cuts[self.own]}", cuts)
        beyond = [origin for origin, last in cuts.items() if vector.get(origin, 0) > last]
        if not beyond:
            return None
        if self.own in void_members(epoch.records, cuts):
            reason = "this replica's admission lies beyond the cut of its sponsor"
        else:
            reason = f"this replica holds what lies beyond the cut of {_names(beyond)}"
        return Halt(reason, cuts)

    def _newly_final(
        self, epoch: Epoch, choice: Choice, vector: VersionVector
    ) -> Mapping[int, int]:
        """Return the cuts that this replica finds to be final and has not said so."""
        for verdict in self.verdicts:
            if (
                verdict.evicted == choice.evicted
                and not verdict.evicted <= epoch.settled.keys()
                and all(
                    epoch.counted(survivor, vector).dominates(verdict.promises)
                    for survivor in verdict.survivors
                )
            ):
                return verdict.cut
        return {}

    def _limits(
        self, epoch: Epoch, evicted: frozenset[int], vector: VersionVector
    ) -> dict[int, int]:
        """Return up to where each evicted replica's deltas may be taken now.

        This replica is bound by its own promise, and by every promise that does
        not name it: whoever made that one did not wait for this replica's word.
        """
        own = self.promises.get(self.own)
        said = own.members if own is not None and own.evicted == evicted else epoch.records.keys()
        bonds = {(evicted, frozenset(said))}
        for word in self.promises.values():
            if self.own not in word.members:
                bonds.add((word.evicted, word.members))
        limits: dict[int, int] = {}
        for given_up, members in bonds:
            for replica, held in self._held(epoch, members, given_up).items():
                last = max(vector.get(replica, 0), held)
                limits[replica] = min(last, limits.get(replica, last))
        for verdict in self.verdicts:
            if verdict.evicted >= evicted:
                limits.update(verdict.cut)
        return {**limits, **self.told_cuts, **self.final, **epoch.settled}

    def _held(
        self, epoch: Epoch, members: frozenset[int], evicted: frozenset[int]
    ) -> dict[int, int]:
        """Return, of each evicted replica, how much those who stay are known to hold."""
        survivors = named_by(self.promises, members, evicted)
        words = [self.promises[survivor] for survivor in survivors & self.promises.keys()]
        return {
            replica: max(
                [epoch.acknowledged(survivor).get(replica, 0) for survivor in survivors]
                + [word.taken.get(replica, 0) for word in words],
                default=0,
            )
            for replica in evicted
        }

    def beyond_at_birth(self, epoch: Epoch, vector: Mapping[int, int]) -> dict[int, int]:
        """Return of whom a newcomer holds more than it may, and up to where it may.

        Whoever promised before it came did not name it, and takes no more of the evicted
        than those named hold. A newcomer that took more, from the evicted itself say, could
        never be followed by them: it has to begin again, before it writes anything.
        """
        beyond: dict[int, int] = {}
        for word in self.promises.values():
            if self.own in word.members or word.author in self.final:
                continue
            for replica, held in self._held(epoch, word.members, word.evicted).items():
                if vector.get(replica, 0) > held:
                    beyond[replica] = min(held, beyond.get(replica, held))
        return beyond

    def _cuts_of(self, limits: dict[int, int]) -> Iterator[SetCut]:
        for replica, last in sorted(limits.items()):
            if self.allowed.get(replica) != last:
                yield SetCut(replica, last)
        self.allowed = limits

    def _new_alarms(self, epoch: Epoch, choice: Choice) -> Iterator[Alarm]:
        """Yield what an operator must hear, once per change."""
        told: dict[str, Alarm] = {}
        for author, word in sorted(self.promises.items()):
            if author in choice.evicted or author == self.own or author not in epoch.records:
                continue
            others = word.evicted - choice.evicted
            if others:
                told[f"{author:x}"] = Alarm(
                    "eviction_contested",
                    f"{replica_text(author)} gives up {_names(others)}, this replica does not",
                    {"member": replica_text(author), "evictees": _texts(others)},
                )
        for victim, reason in sorted(choice.refused.items()):
            told[f"{victim:x} {reason}"] = Alarm(
                "eviction_refused",
                f"this replica does not go along with evicting {replica_text(victim)}: {reason}",
                {"victim": replica_text(victim), "reason": reason},
            )
        for victim, last in sorted(epoch.settled.items()):
            told[f"final {victim:x}"] = Alarm(
                "eviction_final",
                f"the eviction of {replica_text(victim)} is final, at sequence {last}",
                {"victim": replica_text(victim), "last": last},
            )
        for name in sorted(told.keys() - self._alarms):
            yield told[name]
        self._alarms = set(told)

    # ------------------------------------------------------------------ outside

    def describe(self, epoch: Epoch) -> dict[str, Any]:
        """Return where evictions stand, for people and programs, as a plain value."""
        return {
            "proposed": _texts(sorted({proposal.victim for proposal in self.proposals})),
            "promised": {
                replica_text(author): {
                    replica_text(replica): last for replica, last in sorted(word.taken.items())
                }
                for author, word in sorted(self.promises.items())
            },
            "decided": {
                replica_text(replica): last
                for verdict in self.verdicts
                for replica, last in sorted(verdict.cut.items())
            },
            "final": {replica_text(replica): last for replica, last in epoch.settled.items()},
            "refused": {replica_text(replica): why for replica, why in self.refused.items()},
        }

    def to_value(self, epoch: Epoch) -> list[list[int]]:
        """Return the final cuts, for checkpoints and for the headers of snapshots."""
        return [[*cut] for cut in sorted({**self.told_cuts, **epoch.settled}.items())]

    def from_value(self, value: Any) -> None:
        """Take up exported cuts; raises ``ValueError`` when they are none, changing nothing."""
        try:
            cuts: dict[int, int] = dict(value)
        except (TypeError, ValueError) as error:
            raise ValueError(f"no exported cuts: {error}") from error
        if not all(type(number) is int and number >= 0 for cut in cuts.items() for number in cut):
            raise ValueError("no exported cuts: they are pairs of replica id and sequence")
        self.note_cuts(cuts)


def _names(replicas: Any) -> str:
    return ", ".join(_texts(replicas))


def _texts(replicas: Any) -> list[str]:
    return [replica_text(replica) for replica in sorted(replicas)]
