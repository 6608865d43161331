"""Asking a member itself, before what is said of it is believed.

Problem: news that a living member has another address or another life, or that a word of it
was accused that nobody here has seen, is either important or forged; and a table that was
pushed by somebody may name members who are long gone.

Idea: ask. First at the address where the member is known to live: if it still answers with
its known word, the news is refused. If nobody answers there, at the address that the news
names: what answers there with its own record has proven it. Silence refuses the news too,
but for an accusation or a farewell, which silence confirms.

Invariants: one inquiry per member at a time, ``_OUT`` at a time in all, and at most
``Config.members`` waiting; nothing but a direct answer changes a living member's generation
or address; members who are not listed as alive may also be vouched for by a helper.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from gossip.messages import Dead, Record, State, Suspect
from gossip.news import News
from gossip.pool import Pool
from gossip.probe import Answered, Probe, Prober

__all__ = ["Inquiries"]

_OUT: Final = 32

Accusation = Suspect | Dead
_Question = tuple[Record | None, Accusation | None, str]


class Inquiries:
    """The inquiries of one pool."""

    def __init__(self, pool: Pool, news: News, prober: Prober) -> None:
        self._pool = pool
        self._news = news
        self._prober = prober
        self._out: dict[int, _Question] = {}
        self._waiting: OrderedDict[int, _Question] = OrderedDict()

    def __len__(self) -> int:
        return len(self._out) + len(self._waiting)

    def ask(self, record: Record, accusation: Accusation | None) -> None:
        """Ask the member of that record whether it is so, or about an accusation."""
        self._put(record.member, (record, accusation, ""))

    def knock(self, member: int, address: str) -> None:
        """Ask who that member is, of whom nothing but a packet from that address is known."""
        self._put(member, (None, None, address))

    def _put(self, member: int, question: _Question) -> None:
        if member == self._pool.me.member or member in self._out:
            return
        if len(self._out) < _OUT:
            self._begin(member, question)
        elif member in self._waiting or len(self._waiting) < self._pool.config.members:
            self._waiting[member] = question
        else:
            self._pool.refuse("inquiries")

    def _begin(self, member: int, question: _Question) -> None:
        record, _accusation, address = question
        entry = self._pool.table.get(member)
        named = record.profile.gossip_address if record is not None else address
        places = [entry.address] if entry is not None and entry.live else []
        if named not in places:
            places.append(named)
        self._pool.counters.inquiries += 1
        self._out[member] = question
        self._question(member, places, believed=bool(entry is not None and entry.live))

    def _question(self, member: int, places: list[str], *, believed: bool) -> None:
        pool = self._pool
        record, accusation, _ = self._out[member]
        timeout_us = pool.health.scaled(pool.config.probe_timeout_us)
        entry = pool.table.get(member)
        # After a farewell silence is expected, and nobody else is troubled to confirm it.
        brief = isinstance(accusation, Dead) and accusation.left
        brief = brief and not (entry is not None and entry.degraded)

        first_hand = believed or record is None
        if entry is not None and record is not None and entry.state is State.LEFT:
            # For a life that denies its farewell no helper may vouch.
            first_hand = first_hand or record.generation == entry.record.generation

        def answered(probe: Probe, answer: Answered) -> None:
            self._answered(probe, answer, believed=believed)

        def silent(_probe: Probe) -> None:
            self._silent(member, places[1:])

        probe = Probe(
            member, places[0], answered, silent,
            timeout_us=timeout_us,
            verdict_us=timeout_us if brief else 2 * timeout_us,
            whoever=True, only=True, voidable=False, stream=not brief, before=accusation,
            helpers=0 if first_hand else pool.config.indirect_probes,
        )  # fmt: skip
        if not self._prober.put(probe):
            del self._out[member]

    def _answered(self, probe: Probe, answer: Answered, *, believed: bool) -> None:
        pool, news = self._pool, self._news
        member = probe.member
        record, accusation, _ = self._out[member]
        entry = pool.table.get(member)
        if entry is not None:
            news.answered(entry, answer.stamp)
        if answer.record is not None:
            newer = entry is None or answer.stamp > entry.record.stamp
            if entry is not None and answer.stamp < entry.record.stamp and not entry.proven:
                # Asked after that word was listed, so it is not merely behind.
                news.correct(entry, answer.record)
            elif entry is not None and entry.live and not newer:
                self._refused(entry.record, record, accusation)
            else:
                news.alive(answer.record, proven=True)
        elif record is not None and record.stamp == answer.stamp and not believed:
            news.alive(record, proven=True)
        self._end(member)

    def _refused(self, known: Record, record: Record | None, accusation: Accusation | None) -> None:
        """Count news that its subject has just contradicted."""
        pool = self._pool
        if accusation is not None:
            pool.refuse("accusation")
        elif record is not None and record.stamp > known.stamp:
            pool.refuse("impersonation")
            fresh = pool.warn(
                "impersonation", known.member,
                f"news of member {known.member} was refused: it lives at "
                f"{known.profile.gossip_address} and contradicts it",
                claimed_address=record.profile.gossip_address,
                claimed_generation=record.generation,
                claimed_incarnation=record.incarnation,
            )  # fmt: skip
            if fresh and record.profile.gossip_address != known.profile.gossip_address:
                self._news.introduce(known, record)

    def _silent(self, member: int, places: list[str]) -> None:
        if places:
            self._question(member, places, believed=True)
            return
        accusation = self._out[member][1]
        if accusation is not None:
            self._news.decide(accusation)
        else:
            self._pool.refuse("unproven")
        self._end(member)

    def _end(self, member: int) -> None:
        self._out.pop(member, None)
        if len(self._out) < _OUT:
            self.next()

    def next(self) -> None:
        """Begin the inquiry that has waited longest."""
        if self._waiting and len(self._out) < _OUT:
            self._begin(*self._waiting.popitem(last=False))
