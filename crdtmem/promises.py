"""Proposals, promises and verdicts: how survivors agree where an evicted replica ends.

Problem: to give up a member for good, everyone who stays must agree on the last
of its deltas that counts, though they have seen different ones, cannot ask the
one that is gone, and may themselves be cut off, or be given up by others at the
same moment.

Idea: an operator *proposes*; every replica that goes along *promises*. A promise
is an ordinary delta: the whole set that its author takes to be evicted, the last
sequence that it has of each, and the members that it knows. From then on its
author takes further deltas of the evicted only as far as some survivor is known
to hold them, and whoever holds them has yet to promise, or has named them.

The *survivors* of a set are closed under naming: every member that a survivor
names and that is not in the set. When each of them has promised exactly that set,
and they carry it, the set is *decided*; the *cut* of an evicted replica is the
highest sequence that any of them took. Any further eviction makes a larger set,
and so another round.

Survivors *carry* a set when they are a majority of the members that they name,
and a majority of those whose admission nobody can be unaware of: else one side
of a partition could admit its way to a majority. The founder is known to everybody
from the first, so a dead one is given up without force exactly by a majority of those
whose admission it had acknowledged, itself included; it and one other cannot become a
majority by admitting a third behind its back. Members whose eviction is final
no longer count, nor do those whom an operator *forced*: that is what forcing
means, and what it risks.

Invariants: a replica's promises only grow; two decided sets share a survivor,
unless forced; a sequence beyond a cut is in no survivor's vector.

Joint majorities are Ongaro & Ousterhout, "In Search of an Understandable
Consensus Algorithm"; the cut is the flush of virtual synchrony (Birman &
Joseph), without its blocking.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from crdtmem.causality import VersionVector
from crdtmem.entries import SEQUENCE_BITS, SEQUENCE_MASK, Entry
from crdtmem.epoch import REGISTER, Epoch, Member, replica_text, system_entries
from crdtmem.policy import SYSTEM_SPACE
from crdtmem.table import State
from crdtmem.transaction import Operation

__all__ = [
    "PROMISE_PREFIX",
    "PROPOSAL_PREFIX",
    "Promise",
    "Proposal",
    "Verdict",
    "carries",
    "find_verdicts",
    "named_by",
    "promise_operation",
    "proposal_operation",
    "read_promises",
    "read_proposals",
    "void_members",
]

PROPOSAL_PREFIX: Final = "evict:"
PROMISE_PREFIX: Final = "promise:"

_NOBODY: Final[frozenset[int]] = frozenset()


@dataclass(frozen=True, slots=True)
class Proposal:
    """An operator's wish, written through ``proposer``, to give up ``victim``."""

    victim: int
    proposer: int
    forced: bool
    order: int
    dot: int


@dataclass(frozen=True, slots=True)
class Promise:
    """A survivor's word. Replica ids throughout.

    ``taken`` maps each evicted replica to the last sequence that the author had
    of it; ``members`` is everyone ever admitted, as far as the author knew, and
    ``established`` those of them whose admission was stable to it; ``settled``
    maps those of the evicted whose cut was final to it to that cut; ``forced``
    are those that an operator forced.
    """

    author: int
    taken: Mapping[int, int]
    members: frozenset[int]
    established: frozenset[int]
    settled: Mapping[int, int]
    forced: frozenset[int]
    order: int
    dot: int

    @property
    def evicted(self) -> frozenset[int]:
        """The whole set that the author gives up."""
        return frozenset(self.taken)


@dataclass(frozen=True, slots=True)
class Verdict:
    """A decided eviction: of whom, by whom, up to where, and the dots of the promises."""

    evicted: frozenset[int]
    survivors: frozenset[int]
    cut: Mapping[int, int]
    promises: VersionVector

    def is_beyond(self, replica: int, vector: Mapping[int, int]) -> bool:
        """Tell whether a replica with that vector is evicted, or holds what lies beyond a cut."""
        return replica in self.evicted or any(
            vector.get(origin, 0) > last for origin, last in self.cut.items()
        )


def proposal_operation(victim: int, proposer: int, *, forced: bool) -> Operation:
    """Return the write that proposes to evict ``victim``."""
    record = {
        "forced": forced,
        "proposer": replica_text(proposer),
        "victim": replica_text(victim),
    }
    key = PROPOSAL_PREFIX + replica_text(victim)
    return Operation(SYSTEM_SPACE, REGISTER, key, "set", (record,))


def promise_operation(
    epoch: Epoch,
    former: Promise | None,
    evicted: frozenset[int],
    forced: frozenset[int],
    settled: Mapping[int, int],
    vector: Mapping[int, int],
) -> Operation:
    """Return the write of this replica's promise, which supersedes its former one.

    Where the set is the same, so is the word: what was taken and who was named
    stay, and only what is forced or final is added.
    """
    if former is not None and former.evicted != evicted:
        former = None
    taken = {replica: vector.get(replica, 0) for replica in evicted}
    record = {
        "established": _texts(former.established if former else epoch.established()),
        "evictees": _numbers(former.taken if former else taken),
        "forced": _texts(forced),
        "members": _texts(former.members if former else epoch.records),
        "settled": _numbers(settled),
    }
    key = PROMISE_PREFIX + replica_text(epoch.own)
    return Operation(SYSTEM_SPACE, REGISTER, key, "set", (record,))


def _numbers(numbers: Mapping[int, int]) -> dict[str, int]:
    return {replica_text(replica): number for replica, number in numbers.items()}


def _texts(replicas: Iterable[int]) -> list[str]:
    return [replica_text(replica) for replica in sorted(replicas)]


def read_proposals(state: State) -> list[Proposal]:
    """Return all proposals in canonical order, concurrent ones included."""
    found = [
        Proposal(
            victim,
            dot >> SEQUENCE_BITS,
            type(value) is dict and value.get("forced") is True,
            stamp.order,
            dot,
        )
        for victim, entries in system_entries(state, PROPOSAL_PREFIX)
        for dot, value, stamp in entries
    ]
    return sorted(found, key=lambda proposal: (proposal.order, proposal.dot))


def read_promises(state: State) -> dict[int, Promise]:
    """Return each author's promise, by replica id.

    What cannot be read is no promise; a survivor of that name is then missing,
    and nothing is decided, which is the safe side.
    """
    promises: dict[int, Promise] = {}
    for author, entries in system_entries(state, PROMISE_PREFIX):
        own = [entry for entry in entries if entry[0] >> SEQUENCE_BITS == author]
        promise = _promise(author, own[-1]) if own else None
        if promise is not None:
            promises[author] = promise
    return promises


def _promise(author: int, entry: Entry) -> Promise | None:
    dot, value, stamp = entry
    try:
        taken, settled = (
            {_replica(text): _sequence(last) for text, last in value[name].items()}
            for name in ("evictees", "settled")
        )
        members, established, forced = (
            frozenset(map(_replica, value[name])) for name in ("members", "established", "forced")
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
    return Promise(author, taken, members, established, settled, forced, stamp.order, dot)


def _replica(text: Any) -> int:
    return int(text, 16)


def _sequence(last: Any) -> int:
    if type(last) is not int or last < 0:
        raise ValueError("a sequence is a whole number")
    return last


def carries(
    survivors: frozenset[int],
    members: frozenset[int],
    established: frozenset[int],
    absent: frozenset[int],
) -> bool:
    """Tell whether survivors are a majority of the members, and of the established ones.

    ``absent`` are those that no longer count: settled or forced.
    """
    return all(
        # Where all the established are gone, as a founder may be, the members decide.
        not counting or 2 * len(survivors & counting) > len(counting)
        for counting in (members - absent, established - absent)
    )


def find_verdicts(promises: Mapping[int, Promise]) -> Iterator[Verdict]:
    """Yield every eviction that the promises decide, smaller circles of survivors first.

    Several circles may decide one set: a newcomer that the others did not name
    makes a larger one of its own. Their cuts agree.
    """
    covered: set[tuple[frozenset[int], int]] = set()
    for promise in sorted(promises.values(), key=lambda promise: (promise.order, promise.dot)):
        evicted = promise.evicted
        if not evicted or (evicted, promise.author) in covered:
            continue
        survivors = _closure(promise, promises)
        if survivors is None:
            continue
        covered |= {(evicted, survivor) for survivor in survivors}
        words = [promises[survivor] for survivor in sorted(survivors)]
        if _is_carried(survivors, words):
            yield Verdict(
                evicted,
                survivors,
                {replica: max(word.taken[replica] for word in words) for replica in evicted},
                VersionVector({word.author: word.dot & SEQUENCE_MASK for word in words}),
            )


def _closure(start: Promise, promises: Mapping[int, Promise]) -> frozenset[int] | None:
    """Return the author and all whom naming reaches from it, if each promised the same set."""
    evicted = start.evicted
    survivors: set[int] = set()
    pending = {start.author}
    while pending:
        promise = promises.get(pending.pop())
        if promise is None or promise.author in evicted or promise.evicted != evicted:
            return None
        survivors.add(promise.author)
        pending |= promise.members - evicted - survivors
    return frozenset(survivors)


def _is_carried(survivors: frozenset[int], words: list[Promise]) -> bool:
    return carries(
        survivors,
        _NOBODY.union(*(word.members for word in words)),
        _NOBODY.union(*(word.established for word in words)),
        _NOBODY.union(*(word.forced.union(word.settled) for word in words)),
    )


def named_by(
    promises: Mapping[int, Promise], members: frozenset[int], evicted: frozenset[int]
) -> frozenset[int]:
    """Return those members who stay, those whom their promises name, and so on.

    What one of these is known to hold is not beyond the cut. A newcomer whom
    none of them named has no say: its sponsor had promised before it came.
    """
    pending = set(members - evicted)
    named: set[int] = set()
    while pending:
        survivor = pending.pop()
        named.add(survivor)
        word = promises.get(survivor)
        if word is not None:
            pending |= word.members - evicted - named
    return frozenset(named)


def void_members(records: Mapping[int, Member], cuts: Mapping[int, int]) -> frozenset[int]:
    """Return the members whose every admission lies beyond a cut, or comes from one of these.

    No survivor ever holds such a record; the one that was so admitted does, and
    learns from it why it has to start again.
    """
    void: set[int] = set()
    pending = {replica for replica, member in records.items() if not member.is_founder}
    found = True
    while found:
        found = False
        for replica in sorted(pending - void):
            if all(
                dot >> SEQUENCE_BITS in void
                or dot & SEQUENCE_MASK > cuts.get(dot >> SEQUENCE_BITS, SEQUENCE_MASK)
                for dot in records[replica].admissions
            ):
                void.add(replica)
                found = True
    return frozenset(void)
