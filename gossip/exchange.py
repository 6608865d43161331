"""Anti-entropy: comparing tables over a stream, by hash, then by stamps, then by records.

Problem: gossip reaches nearly everybody; what it missed must be found, at next to no cost
where nothing was missed, and without reviving the gone.

Idea: at long intervals with a random member, and soon with one whose packets carry another
hash for longer than news takes to spread: ``Compare``. If the hashes differ, the answer is a
summary of stamps; each side then gets only the records that it lacks. What a table brings is
weaker than news: a member that is not alive here is asked first, a death is a suspicion.

Invariants: at most ``Config.exchanges`` are out at a time; early comparisons are at least
``_EARLY`` settling times apart, and twice as far after each that changed nothing; the dead
and gone are never brought to who does not list them.

Source: SWIM as in memberlist; digest first is chitchat's; hints are this project's.
"""

from __future__ import annotations

from collections.abc import Callable
from math import log2
from typing import Final

from gossip.config import Config
from gossip.effects import Exchange
from gossip.errors import Rejected
from gossip.frame_wire import decode_frame, encode_frame, take_records
from gossip.frames import Body, Compare, Frame, Records, Summary
from gossip.keyring import Keyring
from gossip.members import Member
from gossip.messages import Record, Stamp, State
from gossip.news import News
from gossip.pool import Pool

__all__ = ["Exchanges", "interval_us"]

_EARLY: Final = 4
_MANY: Final = 32
_FRAME_ROOM: Final = 4_096
"""What a frame has besides records."""

Ended = Callable[[Frame | None, bool], None]


def interval_us(config: Config, members: int) -> int:
    """Return the time between two comparisons in a pool of so many members."""
    stretch = log2(members / _MANY) + 1 if members > _MANY else 1.0
    return int(config.push_pull_interval_us * stretch)


class Exchanges:
    """The exchanges of one pool."""

    def __init__(self, pool: Pool, news: News, keyring: Keyring | None = None) -> None:
        self._pool = pool
        self._news = news
        self._number = 0
        self._out: dict[int, Ended] = {}
        self._early_with = ""
        self._early_after_us = 0
        self._early_gap_us = 0
        self._met: dict[str, None] = {}
        self._keyring = keyring

    def __len__(self) -> int:
        return len(self._out)

    # -------------------------------------------------------------- asking

    def open(self, address: str, body: Body, timeout_us: int, ended: Ended) -> bool:
        """Ask over a stream; ``ended`` is told the answer, or ``None``, and whether the host
        refused. Say whether it could be asked now."""
        pool = self._pool
        if len(self._out) >= pool.config.exchanges:
            pool.counters.exchanges_deferred += 1
            return False
        self._number += 1
        self._out[self._number] = ended
        pool.counters.exchanges += 1
        frame = encode_frame(Frame(pool.tag, pool.me.stamp, body), pool.config)
        limit_us = min(timeout_us, pool.config.exchange_timeout_us)
        pool.emit(Exchange(self._number, address, frame, limit_us))
        return True

    def ended(self, number: int, frame: bytes | None, *, refused: bool) -> None:
        """Take the outcome of an exchange. One that is not out is counted and ignored."""
        pool = self._pool
        ended = self._out.pop(number, None)
        if ended is None:
            pool.refuse("exchange")
            return
        decoded = None
        if frame is not None:
            try:
                decoded = decode_frame(frame, pool.config)
                if decoded.pool != pool.tag:
                    pool.refuse("pool")
                    decoded = None
            except Rejected as error:
                pool.refuse(type(error).__name__)
        if decoded is None:
            pool.counters.exchanges_failed += 1
        else:
            self._heard(decoded.sender)
        try:
            ended(decoded, refused)
        except Rejected as error:
            pool.refuse(type(error).__name__)

    def _heard(self, sender: Stamp) -> None:
        entry = self._pool.table.get(sender.member)
        if entry is not None and entry.live and entry.record.generation == sender.generation:
            self._pool.heard(entry)

    # -------------------------------------------------------------- comparing

    def push_pull(self) -> None:
        """Compare tables with a random member, and set the next time."""
        pool = self._pool
        every_us = interval_us(pool.config, pool.table.count)
        pool.agenda.set(("push_pull", 0), pool.now_us + every_us // 2 + self._jitter(every_us))
        for entry in pool.table.pick(pool.chance, 1, lambda one: one.state is State.ALIVE):
            self.compare(entry.address)

    def _jitter(self, most_us: int) -> int:
        return self._pool.chance.randrange(max(1, most_us))

    def met(self, address: str) -> None:
        """Compare tables at once with somebody who was found again."""
        if not self.compare(address) and len(self._met) < self._pool.config.exchanges:
            self._met[address] = None
            self._pool.agenda.set(
                ("met", 0), self._pool.now_us + self._pool.config.probe_timeout_us
            )

    def met_again(self) -> None:
        """Make the comparisons for which there was no room."""
        waiting, self._met = self._met, {}
        for address in waiting:
            self.met(address)

    def compare(self, address: str) -> bool:
        """Compare tables with who is at that address."""
        pool = self._pool

        def ended(frame: Frame | None, _refused: bool) -> None:
            if frame is not None and isinstance(frame.body, Summary):
                self._summary(address, frame.sender, frame.body)

        body = Compare(pool.table.hash, self._ring_hash)
        if not self.open(address, body, pool.config.exchange_timeout_us, ended):
            return False
        pool.counters.push_pulls += 1
        return True

    def _summary(self, address: str, sender: Stamp, summary: Summary) -> None:
        pool = self._pool
        if summary.ring:
            self._take_ring(summary.ring)
        # Who answers lists itself at least, unless its table was equal to the one asked about.
        equal = not summary.entries
        if equal and not summary.ring:
            pool.counters.push_pulls_equal += 1
            return
        news, wants = ([], []) if equal else self._differences(summary.entries)
        if not (news or wants or summary.ring):
            return

        def ended(frame: Frame | None, _refused: bool) -> None:
            if frame is not None and isinstance(frame.body, Records):
                self._absorb(frame.body, sender.member)

        ring = self._ring if summary.ring else b""
        body = Records(take_records(news, self._room()), tuple(wants), ring)
        self.open(address, body, pool.config.exchange_timeout_us, ended)

    @property
    def _ring_hash(self) -> int:
        return 0 if self._keyring is None else self._keyring.state_hash

    @property
    def _ring(self) -> bytes:
        return b"" if self._keyring is None else self._keyring.state()

    def _take_ring(self, ring: bytes) -> None:
        if self._keyring is not None:
            self._keyring.merge(ring, self._pool.wall_us)

    def _room(self) -> int:
        config = self._pool.config
        return config.frame_bytes - _FRAME_ROOM - 8 * 4 * config.members

    def _differences(
        self, theirs: tuple[tuple[Stamp, State], ...]
    ) -> tuple[list[tuple[Record, State]], list[int]]:
        """Return what they lack or know an older word of, and whom one wants oneself."""
        pool = self._pool
        listed = {stamp.member: (stamp, state) for stamp, state in theirs}
        news, wants = [], []
        for record, state in self._all():
            other = listed.get(record.member)
            if other is None:
                lacking = state <= State.SUSPECT
            else:
                lacking = (record.stamp, state) > other
            if lacking:
                news.append((record, state))
        for stamp, state in theirs:
            entry = pool.table.get(stamp.member)
            if stamp.member == pool.me.member:
                # A farewell in this life, if it is another's, makes any newer word of it void.
                twin = state is State.LEFT and stamp.generation == pool.me.generation
                wanted = twin or (stamp, state) > (pool.me.stamp, State.ALIVE)
            elif entry is None:
                wanted = state <= State.SUSPECT
            else:
                wanted = (stamp, state) > (entry.record.stamp, entry.state)
            if wanted:
                wants.append(stamp.member)
        return news, wants

    def _all(self) -> list[tuple[Record, State]]:
        pool = self._pool
        return [(pool.me, State.ALIVE), *((one.record, one.state) for one in pool.table)]

    # -------------------------------------------------------------- answering

    def answer(self, frame: Frame) -> Body | None:
        """Return the answer to somebody's frame, or ``None`` for what is none of ours.

        Raises ``Malformed`` for a key ring that is none.
        """
        pool, body = self._pool, frame.body
        self._heard(frame.sender)
        if isinstance(body, Compare):
            ring = self._ring if body.ring_hash != self._ring_hash else b""
            if body.table_hash == pool.table.hash:
                return Summary(pool.table.hash, (), ring)
            entries = tuple((record.stamp, state) for record, state in self._all())
            return Summary(pool.table.hash, entries, ring)
        if isinstance(body, Records):
            if body.ring:
                self._take_ring(body.ring)
            wanted = [self._said(member) for member in body.wants]
            room = self._room()
            answer = Records(take_records([one for one in wanted if one is not None], room))
            self._absorb(body, frame.sender.member)
            return answer
        return None

    def _said(self, member: int) -> tuple[Record, State] | None:
        pool = self._pool
        if member == pool.me.member:
            return pool.me, State.ALIVE
        entry = pool.table.get(member)
        return None if entry is None else (entry.record, entry.state)

    def _absorb(self, records: Records, sender: int) -> None:
        news, pool = self._news, self._pool
        before = pool.table.hash
        for record, state in records.entries:
            stamp = record.stamp
            if record.member == pool.me.member and state >= State.DEAD:
                news.my_end(record, state, sender)
            elif state is State.LEFT:
                news.dead(stamp, stamp.member, sender=sender)
            elif state is State.ALIVE or pool.table.get(record.member) is None:
                news.alive(record, pushed=True)
            else:
                news.pushed_accusation(stamp, sender)
        if pool.table.hash != before:
            self._early_gap_us = 0

    # -------------------------------------------------------------- early

    def hash_seen(self, entry: Member, table_hash: int) -> None:
        """Note the table's hash on a member's packet; if it differs for long, compare soon."""
        pool = self._pool
        if table_hash == pool.table.hash:
            entry.differs_us = None
            return
        if entry.differs_us is None:
            entry.differs_us = pool.now_us
            return
        settling_us = self._settling_us()
        quiet_us = pool.now_us - max(entry.differs_us, pool.table.changed_us)
        due = quiet_us > settling_us and pool.now_us >= self._early_after_us
        if due and ("early", 0) not in pool.agenda:
            self._early_with = entry.address
            pool.agenda.set(("early", 0), pool.now_us + self._jitter(settling_us))

    def _settling_us(self) -> int:
        config = self._pool.config
        return 2 * config.gossip_interval_us * self._pool.table.count.bit_length()

    def early(self) -> None:
        """Compare with the member whose hash differs."""
        pool = self._pool
        most_us = interval_us(pool.config, pool.table.count)
        self._early_gap_us = min(most_us, max(_EARLY * self._settling_us(), 2 * self._early_gap_us))
        self._early_after_us = pool.now_us + self._early_gap_us
        if self.compare(self._early_with):
            pool.counters.push_pulls_early += 1
