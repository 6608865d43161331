"""Finding each other again, for ever: seeds, the dead, and who was met in earlier lives.

Problem: after a long partition both sides hold each other for dead, and after a mass restart
nobody knows anybody; a pool that only gossips with the living never heals.

Idea: at jittered intervals a few addresses are tried: a seed that is nobody's address here,
and some of those who died, were reaped, or are remembered from an earlier life. Who answers
is told first what is believed of it, and so refutes; then tables are compared. While nobody
is known at all, the tries begin often and become rarer.

Invariants: only ``forget`` and a member's own farewell end the search for it; the addresses
remembered are bounded, the latest met are kept; nobody is sought who is alive here.

Source: the complaint that memberlist does not rejoin (#222); serf's reconnecting, but for ever.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from gossip.effects import Remember
from gossip.errors import Rejected
from gossip.memory import read_peers, write_peers
from gossip.messages import Dead, State
from gossip.news import News
from gossip.pool import Pool
from gossip.probe import Answered, Probe, Prober
from gossip.shapes import address

__all__ = ["Rejoin"]

_SEEDS: Final = 64
_AT_ONCE: Final = 16
"""How many addresses are tried at the start."""
_PER_TURN: Final = 3
_LATELY: Final = 16
"""Among so many that were lost last, half of the tries are made."""
_REMEMBER_US: Final = 30_000_000


class Rejoin:
    """The search of one pool for those who are not here."""

    def __init__(self, pool: Pool, news: News, prober: Prober, remembered: bytes) -> None:
        self._pool = pool
        self._news = news
        self._prober = prober
        self._seeds: dict[str, int] = {}
        """By address, who answered there last, or 0."""
        self._given: dict[str, None] = {}
        """Those of the seeds that the host named: what others tell does not push them out."""
        self._sought: dict[int, str] = self._read(remembered) if remembered else {}
        self._trying: set[str] = set()
        self._mine: set[str] = set()
        self._tries = 0
        self._told = remembered

    def __len__(self) -> int:
        return len(self._seeds) + len(self._sought)

    # -------------------------------------------------------------- whom

    def add_seeds(self, addresses: Iterable[str], *, hearsay: bool = False) -> None:
        """Seek whoever is at these addresses; of more than 64 the oldest are given up, and
        those that are ``hearsay`` (another member told them) before those of the host."""
        for place in addresses:
            address(place)
            self._seeds[place] = self._seeds.pop(place, 0)
            if not hearsay:
                self._given[place] = self._given.pop(place, None)
        while len(self._seeds) > _SEEDS:
            told = (place for place in self._seeds if place not in self._given)
            oldest = next(told, None) or next(iter(self._seeds))
            del self._seeds[oldest]
            self._given.pop(oldest, None)

    def seek(self, member: int, place: str) -> None:
        """Seek a member that died, at the address that it had."""
        self._sought.pop(member, None)
        self._sought[member] = place
        while len(self._sought) > self._pool.config.remembered_peers:
            del self._sought[next(iter(self._sought))]

    def found(self, member: int) -> bool:
        """Seek a member no longer: it is here, said farewell, or shall be forgotten; tell
        whether it was sought."""
        return self._sought.pop(member, None) is not None

    def seeks(self, member: int) -> bool:
        """Whether that member is sought."""
        return member in self._sought

    # -------------------------------------------------------------- turns

    def start(self) -> None:
        """Try the seeds and some remembered members at once; set the next turn."""
        places = self._open_seeds()[:_AT_ONCE]
        others = self._draw(_AT_ONCE - len(places))
        self._try([(0, place) for place in places] + others)
        self._next_turn()

    def turn(self) -> None:
        """Try a seed and some of the sought; set the next turn."""
        self._tries += 1
        seeds = self._open_seeds()
        chosen = [(0, place) for place in self._pool.chance.sample(seeds, min(1, len(seeds)))]
        self._try(chosen + self._draw(_PER_TURN - len(chosen)))
        self._next_turn()

    def _next_turn(self) -> None:
        pool = self._pool
        wait_us = pool.config.rejoin_interval_us
        if not pool.table.live:
            # Nobody is known: the others may be starting at this moment, too.
            early_us = pool.config.probe_interval_us << min(self._tries, 16)
            wait_us = min(wait_us, early_us)
        wait_us = wait_us // 2 + pool.chance.randrange(wait_us)
        pool.agenda.set(("rejoin", 0), pool.now_us + wait_us)

    def try_now(self, addresses: Sequence[str]) -> None:
        """Try these addresses at once, as far as nobody is known there."""
        wanted = set(addresses)
        self._try([(0, place) for place in self._open_seeds() if place in wanted][:_AT_ONCE])

    def _open_seeds(self) -> list[str]:
        table, mine = self._pool.table, {self._pool.address, *self._mine}
        found = []
        for place, member in self._seeds.items():
            # A seed may be a name, under which nobody here is listed.
            entry = table.get(member)
            if place not in mine and table.at(place) is None and not (entry and entry.live):
                found.append(place)
        return found

    def _draw(self, count: int) -> list[tuple[int, str]]:
        """Draw some of the sought, half of them from those lost last: where many ids are gone
        for good, the other side of a partition must not wait behind them."""
        chance, table = self._pool.chance, self._pool.table
        # At an address that is somebody's now, the one that had it before does not answer.
        taken = {self._pool.address, *self._mine}
        sought = [
            (member, place)
            for member, place in self._sought.items()
            if place not in taken and table.at(place) is None
        ]
        if len(sought) <= count:
            return sought
        lately = chance.sample(sought[-max(_LATELY, count) :], (count + 1) // 2)
        others = [one for one in sought if one not in lately]
        return lately + chance.sample(others, count - len(lately))

    def _try(self, places: list[tuple[int, str]]) -> None:
        for member, place in places:
            if place not in self._trying:
                self._attempt(member, place)

    def _attempt(self, member: int, place: str) -> None:
        pool = self._pool
        entry = pool.table.get(member)
        before = None
        if entry is not None and entry.state is State.DEAD:
            before = Dead(entry.record.stamp, pool.me.member)
        timeout_us = pool.health.scaled(pool.config.probe_timeout_us)
        probe = Probe(
            member, place, self._answered, self._silent,
            timeout_us=timeout_us, verdict_us=2 * timeout_us,
            whoever=True, voidable=False, stream=True, before=before,
        )  # fmt: skip
        if self._prober.put(probe):
            pool.counters.rejoin_attempts += 1
            self._trying.add(place)

    def _silent(self, probe: Probe) -> None:
        self._trying.discard(probe.address)

    def _answered(self, probe: Probe, answer: Answered) -> None:
        self._trying.discard(probe.address)
        record = answer.record
        if record is None:
            return
        if record.member == self._pool.me.member:
            self.mine(probe.address)
            return
        known = self._pool.table.get(record.member)
        # It is somebody's answer from there, but not proof of a member that lives elsewhere:
        # who answers at an address that was sought may claim any life of anybody.
        there = record.profile.gossip_address == probe.address
        self._news.alive(record, proven=there and (known is None or not known.live))
        if probe.address in self._seeds:
            self._seeds[probe.address] = record.member
        entry = self._pool.table.get(record.member)
        if entry is not None and entry.live:
            self._pool.counters.rejoined += 1
            self._tries = 0
            self._pool.met(record.profile.gossip_address)

    def mine(self, place: str) -> None:
        """Note that an address turned out to be one's own."""
        if len(self._mine) < _SEEDS:
            self._mine.add(place)
            self._trying.discard(place)

    # -------------------------------------------------------------- over restarts

    def remember_soon(self) -> None:
        """Look at the end of this input, or when it is time, whether that has changed."""
        if ("remember", 0) not in self._pool.agenda:
            self._pool.agenda.set(("remember", 0), self._pool.now_us)

    def remember(self) -> None:
        """Ask the host to keep whom one knows, if that has changed; look again later if so."""
        pool = self._pool
        places = dict(self._sought)
        for entry in pool.table:
            if entry.live:
                places[entry.record.member] = entry.address
        kept = list(places.items())[-pool.config.remembered_peers :]
        told = write_peers(kept)
        if told != self._told:
            self._told = told
            pool.emit(Remember(told))
            pool.agenda.set(("remember", 0), pool.now_us + _REMEMBER_US)

    def _read(self, remembered: bytes) -> dict[int, str]:
        try:
            return read_peers(remembered)
        except Rejected as error:
            self._pool.warn(
                "remembered",
                0,
                f"the members met earlier cannot be read and are left out: {error}",
            )
            return {}
