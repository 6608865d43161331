"""Whose turn it is to be probed, and what an answer or silence means for it.

Problem: every member must be probed within a bounded time, by everybody, at a constant cost;
and a suspect must have every chance to answer.

Idea: round robin over a list that is shuffled anew each time round, one member per interval;
a newcomer is put in at random. Suspects are probed besides, a few per interval: by everybody
in small pools, by so many on average in large ones.

The gateways of one region sit in two pools together, and twice the probes find nothing more. In
the wide-area pool the turn of a neighbour that was heard there within ``_SPARED_US`` is passed
over; whom the region's pool begins to doubt is probed there at once, out of turn.

Invariants: between two probes of one member lie at most 2n - 1 rounds (for a neighbour in the
wide-area pool they count once it has been silent for ``_SPARED_US``); the cost of a round does not
depend on n, but for such neighbours, who are few; a failed probe counts against the word that was
probed, never a later.

Source: SWIM, section 4.3.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from gossip.members import Member
from gossip.messages import Stamp, State
from gossip.news import News
from gossip.pool import Pool
from gossip.probe import EXCUSES, Answered, Probe, Prober

if TYPE_CHECKING:
    from random import Random

__all__ = ["Probing", "Rotation"]

_RECHECKS: Final = 4
"""How many suspects are probed per interval, besides the one whose turn it is."""
_RECHECKERS: Final = 32
"""How many members, on average, probe one suspect in one interval."""
_KEPT: Final = 4
"""Up to so many members are probed in the same order round by round."""
_SPARED_US: Final = 5_000_000
"""How long a neighbour in the wide-area pool may be silent there before its turn counts again."""
_STREAM_ONLY: Final = 3
"""After so many answers in a row over streams only, a member is degraded."""


class Rotation:
    """An order in which everybody comes once, and then everybody once again."""

    __slots__ = ("_at", "_chance", "_listed", "_order")

    def __init__(self, chance: Random) -> None:
        self._chance = chance
        self._order: list[int] = []
        self._listed: set[int] = set()
        self._at = 0

    def __len__(self) -> int:
        return len(self._order)

    def add(self, member: int) -> None:
        """Put a newcomer in at random among those whose turn is still to come."""
        if member in self._listed:
            return
        self._listed.add(member)
        self._order.append(member)
        place = self._chance.randrange(self._at, len(self._order))
        order = self._order
        order[place], order[-1] = order[-1], order[place]

    def next(self, living: list[int]) -> int | None:
        """Return whose turn it is. ``living`` is who there is when the round begins anew."""
        if self._at >= len(self._order):
            self._renew(living)
            if not self._order:
                return None
        self._at += 1
        return self._order[self._at - 1]

    def _renew(self, living: list[int]) -> None:
        """Begin a new round. A short order is kept: shuffled, one member may come first in one
        round and last in the next, which in a pool of three is half as long again."""
        still = set(living)
        kept = [member for member in self._order if member in still] if len(still) <= _KEPT else []
        if len(kept) == len(living):
            self._order = kept
        else:
            self._order = list(living)
            self._chance.shuffle(self._order)
        self._listed = still
        self._at = 0


class Probing:
    """The failure detector of one pool."""

    def __init__(self, pool: Pool, news: News, prober: Prober, spared: str = "") -> None:
        """``spared`` is the region whose members another pool probes; empty for none."""
        self._pool = pool
        self._news = news
        self._prober = prober
        self._spared = spared
        self._rotation = Rotation(pool.chance)
        self._rechecking: set[int] = set()

    def newcomer(self, member: int) -> None:
        """Let a member that is new or back have its turn."""
        self._rotation.add(member)

    def round(self) -> None:
        """Probe whose turn it is, and some suspects; set the next round."""
        pool = self._pool
        pool.counters.health = pool.health.score
        interval_us = pool.health.scaled(pool.config.probe_interval_us)
        pool.agenda.set(("round", 0), pool.now_us + interval_us)
        target = self._next()
        if target is not None:
            self._probe_in_turn(target)
        for entry in self._suspects(target):
            self.recheck(entry)

    def _next(self) -> Member | None:
        table = self._pool.table
        # Those that died since the order was drawn are passed over; each is so once.
        for _ in range(len(self._rotation) + len(table.live) + 1):
            member = self._rotation.next(table.live)
            entry = table.get(member) if member is not None else None
            if entry is not None and entry.live and not self._is_spared(entry):
                return entry
            if not table.live:
                return None
        return None

    def _is_spared(self, entry: Member) -> bool:
        if not self._spared or entry.record.profile.region != self._spared:
            return False
        return entry.heard_us is not None and self._pool.now_us - entry.heard_us < _SPARED_US

    def look_at(self, member: int) -> None:
        """Probe a member that is held for alive at once, as if it were its turn."""
        entry = self._pool.table.get(member)
        if entry is not None and entry.state is State.ALIVE:
            self._probe_in_turn(entry)

    def _probe_in_turn(self, entry: Member) -> None:
        self._pool.counters.probes += 1
        self._probe(entry, self._answered, self._silent, self._pool.config.indirect_probes)

    def _suspects(self, target: Member | None) -> list[Member]:
        pool = self._pool
        suspects = [pool.table.get(member) for member in list(pool.table.suspects)[:64]]
        found = [entry for entry in suspects if entry is not None and entry is not target]
        if len(found) > _RECHECKS:
            found = pool.chance.sample(found, _RECHECKS)
        share = _RECHECKERS / pool.table.count
        return [entry for entry in found if share >= 1 or pool.chance.random() < share]

    def recheck(self, entry: Member) -> None:
        """Probe a suspect out of turn, unless that is being done."""
        member = entry.record.member
        if member not in self._rechecking and self._probe(
            entry, self._reanswered, self._still_silent, 0
        ):
            self._rechecking.add(member)

    def _probe(
        self,
        entry: Member,
        on_answer: _OnAnswer,
        on_silence: _OnSilence,
        helpers: int,
    ) -> bool:
        pool = self._pool
        stamp = entry.record.stamp

        def answered(probe: Probe, answer: Answered) -> None:
            on_answer(entry, probe, answer)

        def silent(probe: Probe) -> None:
            on_silence(entry, probe, stamp)

        before = pool.accusation(entry) if entry.state is not State.ALIVE else None
        probe = Probe(
            entry.record.member, entry.address, answered, silent,
            timeout_us=pool.health.scaled(pool.config.probe_timeout_us),
            verdict_us=pool.health.scaled(pool.config.probe_interval_us),
            helpers=helpers, stream=helpers > 0 or entry.degraded, hurried=True, before=before,
        )  # fmt: skip
        return self._prober.put(probe)

    # -------------------------------------------------------------- outcomes

    def _answered(self, entry: Member, _probe: Probe, answer: Answered) -> None:
        self._pool.health.better()
        self._taken(entry, answer)

    def _reanswered(self, entry: Member, _probe: Probe, answer: Answered) -> None:
        self._rechecking.discard(entry.record.member)
        self._taken(entry, answer)

    def _taken(self, entry: Member, answer: Answered) -> None:
        pool = self._pool
        entry.stream_only = entry.stream_only + 1 if answer.streamed else 0
        if not answer.streamed:
            entry.degraded = False
        elif entry.stream_only >= _STREAM_ONLY and not entry.degraded:
            entry.degraded = True
            pool.warn(
                "degraded", entry.record.member,
                f"member {entry.record.member} answers over streams only: datagrams between it "
                f"and this member are blocked or lost",
                address=entry.address,
            )  # fmt: skip
        self.sign_of_life(entry, answer.stamp, direct=answer.direct)

    def sign_of_life(self, entry: Member, stamp: Stamp, *, direct: bool = True) -> None:
        """Take a member's own word, in an answer: it ends a suspicion; of a word that is not
        the listed one, it asks for the record."""
        self._news.answered(entry, stamp)
        known = entry.record.stamp
        if stamp == known:
            entry.proven = entry.proven or direct
        elif stamp > known or (direct and not entry.proven):
            self._pool.ask(entry.record, None)

    def _silent(self, entry: Member, probe: Probe, stamp: Stamp) -> None:
        pool = self._pool
        if self._outdated(entry, stamp):
            return
        pool.counters.probes_failed += 1
        expected = entry.state is State.SUSPECT or probe.refused
        if not expected and (probe.asked == 0 or probe.nacks < probe.asked):
            # Nobody else could be asked, or somebody else did not answer either.
            pool.health.worse()
        self._news.unanswered(entry, refused=probe.refused)

    def _still_silent(self, entry: Member, probe: Probe, stamp: Stamp) -> None:
        self._rechecking.discard(entry.record.member)
        if not self._outdated(entry, stamp):
            self._news.unanswered(entry, refused=probe.refused)

    def _outdated(self, entry: Member, stamp: Stamp) -> bool:
        """Whether the word that was probed is not the listed one any more."""
        if entry.record.stamp == stamp and entry.live:
            return False
        self._pool.counters.probes_voided += 1
        return True

    def stalled(self) -> None:
        """Draw the consequences of a timer that was late: what came meanwhile is still waiting
        to be read, so nothing may be concluded from silence; until that excuse is used up."""
        pool = self._pool
        pool.counters.late_timers += 1
        pool.health.worse()
        excused: dict[int, bool] = {}

        def is_excused(member: int) -> bool:
            # Once per late timer, however many probes of it are out.
            if member not in excused:
                excused[member] = self._excuse(member)
            return excused[member]

        self._prober.void(is_excused)
        self._rechecking &= {member for member in excused if not excused[member]}
        grace_us = pool.now_us + pool.config.probe_interval_us
        for member in pool.table.suspects:
            key = ("suspect", member)
            if is_excused(member):
                pool.agenda.set(key, max(grace_us, pool.agenda.due_us(key) or 0))

    def _excuse(self, member: int) -> bool:
        entry = self._pool.table.get(member)
        if entry is None:
            return True
        if entry.excused_us != entry.heard_us:
            entry.excuses, entry.excused_us = 0, entry.heard_us
        entry.excuses += 1
        return entry.excuses <= EXCUSES

    def suspicion_over(self, member: int) -> None:
        """Call a suspect dead: its time to refute is over."""
        entry = self._pool.table.get(member)
        if entry is not None and entry.state is State.SUSPECT:
            self._news.die(entry, self._pool.me.member)


if TYPE_CHECKING:
    from collections.abc import Callable

    _OnAnswer = Callable[[Member, Probe, Answered], None]
    _OnSilence = Callable[[Member, Probe, Stamp], None]
