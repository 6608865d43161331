"""Bounded counters: a budget that many regions spend at once and none overspends.

Problem: "at most 1,000 calls between us" must hold while regions are cut off
from each other, after crashes, restores and clones, and whatever is delivered
twice or late.

Idea: rights, as in escrow. Whoever holds rights may consume them without asking
anyone, and they move only by a durable delta of their holder. A replica writes
only its own running totals (see ``crdtmem.crdt.totals``)::

    (distance, minted, burned, consumed, returned, ((target replica, sent), …))

and everyone derives the rights of replica *i* from all of them::

    rights(i) = minted - burned - consumed + returned - sent + received

What *i* knows of its own totals is complete, and what it knows of others' can
only lack transfers to *i*: so the rights it computes are never more than it
has. Only ``mint`` raises the bound; only ``burn`` lowers it.

A delete is a baseline over everything held, at one causally closed moment, and
is refused while anyone else holds rights then. Since rights are sums of
excesses over baselines, what others have afterwards is exactly what they had
gained besides; the deleter's own rights are gone. Two concurrent deletes join
to the baseline of the joined moment, at which all rights were real too.

A replica that was restored, cloned or evicted comes back under a new id, which
holds nothing: the rights of the old id are *stranded*, never reclaimed, because
nobody can prove that the old one did not spend them.

Invariants: net consumption never exceeds what was minted less what was burned;
no operation of one replica lowers the rights of another; trust and ``Observed``
play no part in spending, since they must not split a holder's account.

Escrow is O'Neil 1986; bounded counters are Balegas et al., "Extending Eventually
Consistent Cloud Databases for Enforcing Numeric Invariants" (2015).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from crdtmem.crdt.base import Reader, WriteView
from crdtmem.crdt.totals import (
    RunningTotals,
    amounts_of,
    check_amount,
    require_within_limit,
)
from crdtmem.entries import SEQUENCE_BITS, Entry, Slot, as_siblings
from crdtmem.errors import ConditionFailed, InsufficientRights, InvalidValue

__all__ = ["BoundedCounter", "Holding", "parse_replica"]

_MINTED, _BURNED, _CONSUMED, _RETURNED, _SENT = range(5)


@dataclass(slots=True)
class Holding:
    """What one replica has: its rights, and what it has consumed and not returned."""

    rights: int = 0
    consumed: int = 0


def parse_replica(replica: object) -> int:
    """Return a replica id given as an integer or as its 16 hexadecimal digits."""
    number: object = replica
    if type(replica) is str:
        try:
            number = int(replica, 16)
        except ValueError:
            number = None
    if type(number) is not int or not 0 < number < 1 << 64:
        raise InvalidValue(
            f"{replica!r:.40} is no replica id",
            hint="give the 16 hexadecimal digits that `status` and the counter's rights show",
        )
    return number


class BoundedCounter(RunningTotals):
    """A counter that is consumed by right, never beyond what was minted."""

    name = "bounded_counter"
    code = 7
    width = 5
    operations: ClassVar[Mapping[str, str]] = {
        "mint": "mint",
        "burn": "burn",
        "consume": "consume",
        "release": "release",
        "transfer": "transfer",
        "delete": "delete",
    }

    def holdings(self, entries: Iterable[Entry]) -> dict[int, Holding]:
        """Return what each replica that takes part has, by replica id."""
        found: dict[int, Holding] = {}
        for running in self.fields(entries).values():
            minted, burned, consumed, returned, sent = running.excess(self.width)
            owner = found.setdefault(running.owner, Holding())
            owner.rights += minted - burned - consumed + returned
            owner.consumed += consumed - returned
            for target, amount in sent or ():
                owner.rights -= amount
                found.setdefault(target, Holding()).rights += amount
        return found

    def mint(self, view: WriteView, amount: int) -> int:
        """Raise the bound by ``amount``; the rights are this replica's. Returns the dot."""
        return self._write(view, _MINTED, check_amount(amount, "mint", "burn"))

    def burn(self, view: WriteView, amount: int) -> int:
        """Lower the bound by ``amount`` of this replica's rights; returns the dot.

        Raises ``InsufficientRights`` where it holds fewer.
        """
        self._require(view, check_amount(amount, "burn", "mint"), "burn")
        return self._write(view, _BURNED, amount)

    def consume(self, view: WriteView, amount: int = 1) -> int:
        """Spend ``amount`` of this replica's rights; returns the dot.

        Raises ``InsufficientRights``, with who holds the rest.
        """
        self._require(view, check_amount(amount, "consume", "release"), "consume")
        return self._write(view, _CONSUMED, amount)

    def release(self, view: WriteView, amount: int = 1) -> int:
        """Give back ``amount`` of what this replica consumed; returns the dot.

        Raises ``InsufficientRights`` where it has consumed less.
        """
        check_amount(amount, "release", "consume")
        consumed = self.holdings(view.slot()).get(view.replica, Holding()).consumed
        if amount > consumed:
            raise InsufficientRights(
                f"cannot release {amount} of {view.key!r:.80}: {max(consumed, 0)} consumed here",
                hint="release where it was consumed, and no more than that",
                needed=amount,
                held=max(consumed, 0),
            )
        return self._write(view, _RETURNED, amount)

    def transfer(self, view: WriteView, amount: int, to_replica: int | str) -> int:
        """Hand ``amount`` of this replica's rights to another; returns the dot.

        Raises ``InsufficientRights`` where it holds fewer, ``InvalidValue`` for
        a target that is no other replica.
        """
        target = parse_replica(to_replica)
        if target == view.replica:
            raise InvalidValue("a transfer to oneself", hint="name another replica")
        self._require(view, check_amount(amount, "transfer"), "transfer")
        return self._write(view, _SENT, amount, target)

    def delete(self, view: WriteView) -> None:
        """Take the counter back, and the rights that this replica holds with it.

        Raises ``InsufficientRights`` while any other replica holds rights, and
        ``ConditionFailed`` unless everything held here may be superseded.
        """
        held = view.slot()
        out = {
            f"{replica:016x}": holding.rights
            for replica, holding in sorted(self.holdings(held).items())
            if holding.rights > 0 and replica != view.replica
        }
        if out:
            raise InsufficientRights(
                f"cannot delete {view.key!r:.80} while other replicas hold {sum(out.values())}",
                hint="have them consumed or transferred here first",
                holders=out,
            )
        if len(view.supersede(held)) < len(held):
            raise ConditionFailed(
                f"{view.key!r:.80} holds what was not observed or is of higher trust",
                hint="read it again, and delete with the trust of its writers",
            )
        RunningTotals.delete(self, view)

    def _require(self, view: WriteView, amount: int, verb: str) -> None:
        found = self.holdings(view.slot())
        held = max(found.pop(view.replica, Holding()).rights, 0)
        if amount <= held:
            return
        others = {
            f"{replica:016x}": holding.rights
            for replica, holding in sorted(found.items())
            if holding.rights > 0
        }
        raise InsufficientRights(
            f"cannot {verb} {amount} of {view.key!r:.80}: this replica holds {held}, "
            f"others {sum(others.values())}",
            hint="have another replica transfer rights here" if others else "mint more first",
            needed=amount,
            held=held,
            holders=others,
        )

    def _write(self, view: WriteView, component: int, amount: int, target: int = 0) -> int:
        """Stage this replica's next total, with one component raised."""
        dot = view.next_dot()
        own: Entry | None = None
        for entry in view.slot():
            if entry[0] >> SEQUENCE_BITS == view.replica and len(entry[1]) <= self.width + 1:
                own = entry
        distance, superseded = (0, ()) if own is None else (own[1][0] + dot - own[0], (own[0],))
        amounts = list((0,) * self.width if own is None else amounts_of(own, self.width))
        if component == _SENT:
            sent = dict(amounts[_SENT] or ())
            sent[target] = require_within_limit(sent.get(target, 0) + amount, self.name)
            amounts[_SENT] = tuple(sorted(sent.items()))
        else:
            amounts[component] = require_within_limit(amounts[component] + amount, self.name)
        while len(amounts) > 1 and not amounts[-1]:
            amounts.pop()
        return view.put((distance, *amounts), superseded)

    def value(self, place: Slot | None, reader: Reader) -> dict[str, Any]:
        """Return ``available`` and ``consumed`` over all, and the ``rights`` by replica."""
        found = self.holdings(as_siblings(place))
        rights = {
            f"{replica:016x}": holding.rights
            for replica, holding in sorted(found.items())
            if holding.rights > 0
        }
        return {
            "available": sum(rights.values()),
            "consumed": sum(holding.consumed for holding in found.values()),
            "rights": rights,
        }
