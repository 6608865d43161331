"""One probe, from the ping to its verdict, and probes made in another's stead.

Problem: whether a member is there is asked for four reasons (its turn, a suspicion, news that
needs proof, a search), and each time datagrams may be lost, blocked one way, or late.

Idea: one procedure. A ping by datagram; after the timeout, if there was no answer, helpers are
asked to ping and the same question goes over a stream (to a member whose turn it is after a fifth
of the timeout already: the host of a process that died says so at once, and helpers are asked
then); at the verdict's time there was an answer or not. Who asks gives two functions: what to do
with an answer, what with silence.
A helper sends a negative acknowledgement at four fifths of its timeout, which says that the
helper at least is well (Lifeguard). Members that were never heard are asked to help last: one that
somebody made up sends none, and so makes the asker slower.

Invariants: a sequence is drawn from 63 random bits, so that only who saw the ping can answer;
an answer must come from the member meant, unless a helper relays it; each probe ends in
exactly one of answer, silence, void; probes and relays are bounded.

Source: SWIM, section 3.1; Lifeguard, section IV-A.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from gossip.errors import Malformed
from gossip.frames import AckFrame, Frame, PingFrame
from gossip.members import Member
from gossip.messages import Ack, Dead, Nack, Ping, PingRequest, Record, Stamp, State, Suspect
from gossip.pool import Pool
from gossip.round_trips import RoundTrips

__all__ = ["EXCUSES", "Answered", "Probe", "Prober"]

EXCUSES: Final = 4
"""So often silence is put down to one's own late timers. What had come before each of them was read
after it; so who is still silent then is not merely unread."""

_PROBES: Final = 512
_RELAYS: Final = 256
_SPENT: Final = 256
_EARLY_SHARE: Final = 5
"""In a hurry a stream is tried after this part of the timeout: a datagram that is answered at all
has its answer by then, but for slow members and loss."""
_REFUSED_SHARE: Final = 5
"""After a refused stream the verdict is this part of the timeout away."""


@dataclass(frozen=True, slots=True)
class Answered:
    """What a probe was answered: the answerer's word, its record where it came at first hand,
    whether the answer came straight from it, and whether over a stream."""

    stamp: Stamp
    record: Record | None
    direct: bool
    streamed: bool = False


@dataclass(slots=True)
class Probe:
    """A question that is out. ``member`` is 0 where whoever is at the address is meant."""

    member: int
    address: str
    on_answer: Callable[[Probe, Answered], None]
    on_silence: Callable[[Probe], None]
    timeout_us: int
    verdict_us: int
    """Both are durations from the ping."""
    whoever: bool = False
    """Whether the answerer shall say who it is: its answer then brings its record."""
    only: bool = False
    """Whether nobody's answer but the member's counts: a stranger can redirect the question to
    somebody else, whose answer then says nothing of the member."""
    helpers: int = 0
    stream: bool = False
    hurried: bool = False
    """Whether the stream is tried early. Not where strangers are sought: a referral by datagram
    is on its way then, and a second knock would only count twice."""
    voidable: bool = True
    """Whether a late timer ends it without a verdict."""
    before: Suspect | Dead | None = None
    """What the one probed is told first: what is believed of it."""

    sequence: int = 0
    sent_us: int = 0
    sent_wall_us: int = 0
    asked: int = 0
    nacks: int = 0
    put_off: int = 0
    refused: bool = False
    streamed: Answered | None = None


@dataclass(frozen=True, slots=True)
class _Relay:
    sequence: int
    target: int
    reply_to: str


class Prober:
    """The probes of one pool that are out."""

    def __init__(self, pool: Pool, late: Callable[[Member, Stamp], None]) -> None:
        """``late`` is told of answers that came after the verdict."""
        self._pool = pool
        self._late = late
        self._open: dict[int, Probe] = {}
        self._relays: dict[int, _Relay] = {}
        self._spent: OrderedDict[int, int] = OrderedDict()

    def __len__(self) -> int:
        return len(self._open) + len(self._relays)

    def put(self, probe: Probe) -> bool:
        """Send a question; say whether there was room for it."""
        pool = self._pool
        if len(self._open) >= _PROBES or not probe.address:
            pool.refuse("probes")
            return False
        probe.sequence = pool.chance.getrandbits(63) | 1 << 63
        probe.sent_us, probe.sent_wall_us = pool.now_us, pool.wall_us
        self._open[probe.sequence] = probe
        pool.agenda.set(("timeout", probe.sequence), pool.now_us + probe.timeout_us)
        if probe.stream and pool.config.stream_probes:
            wait_us = probe.timeout_us // (_EARLY_SHARE if probe.hurried else 1)
            pool.agenda.set(("stream", probe.sequence), pool.now_us + wait_us)
        ping = self._ping(probe)
        messages = (ping,) if probe.before is None else (probe.before, ping)
        pool.send(probe.address, *messages)
        return True

    def _ping(self, probe: Probe) -> Ping:
        pool = self._pool
        target = 0 if probe.whoever else probe.member
        wall_us = max(0, probe.sent_wall_us)
        return Ping(probe.sequence, target, pool.address, wall_us, pool.annotation)

    def withdraw(self, probe: Probe) -> None:
        """Ask no longer; a later answer is still taken for a sign of life."""
        if self._open.pop(probe.sequence, None) is None:
            return
        for what in ("stream", "timeout", "verdict"):
            self._pool.agenda.cancel((what, probe.sequence))
        if probe.member:
            self._spent[probe.sequence] = probe.member
            if len(self._spent) > _SPENT:
                self._spent.popitem(last=False)

    # -------------------------------------------------------------- deadlines

    def stream(self, sequence: int) -> None:
        """Ask over a stream too: the datagram had no answer yet."""
        probe = self._open.get(sequence)
        if probe is None:
            return

        def answered(frame: Frame | None, refused: bool) -> None:
            self._stream_ended(probe, frame, refused)

        pool, frame = self._pool, PingFrame(self._ping(probe))
        if pool.exchange(probe.address, frame, 2 * probe.verdict_us, answered):
            pool.counters.stream_probes += 1

    def timeout(self, sequence: int) -> None:
        """Ask others: the datagram had no answer in time."""
        probe = self._open.get(sequence)
        if probe is not None:
            self._pool.agenda.set(("verdict", sequence), probe.sent_us + probe.verdict_us)
            if probe.helpers:
                self._ask_helpers(probe)

    def _ask_helpers(self, probe: Probe) -> None:
        pool = self._pool

        def fit(entry: Member) -> bool:
            return (
                entry.state is State.ALIVE
                and entry.record.member != probe.member
                and not entry.degraded
                and not entry.damped(pool.now_us)
            )

        def known(entry: Member) -> bool:
            return entry.heard_us is not None and fit(entry)

        def unknown(entry: Member) -> bool:
            return entry.heard_us is None and fit(entry)

        request = PingRequest(probe.sequence, probe.member, probe.address, pool.address)
        helpers = pool.table.pick(pool.chance, probe.helpers, known)
        if len(helpers) < probe.helpers:
            # Of whom there is only hearsay, nobody may be there.
            helpers += pool.table.pick(pool.chance, probe.helpers - len(helpers), unknown)
        for helper in helpers:
            probe.asked += 1
            pool.counters.indirect_probes += 1
            pool.send(helper.address, request)

    def verdict(self, sequence: int) -> None:
        """End a probe: with what the stream brought, or with silence."""
        probe = self._open.get(sequence)
        if probe is None:
            return
        self.withdraw(probe)
        if probe.streamed is not None:
            self._spent.pop(sequence, None)
            probe.on_answer(probe, probe.streamed)
        else:
            probe.on_silence(probe)

    def void(self, excused: Callable[[int], bool]) -> int:
        """End what a late timer makes worthless, and give the rest its time anew; but not again
        and again, where all timers are late. ``excused`` tells so of the member that is probed."""
        pool, voided = self._pool, 0
        for probe in list(self._open.values()):
            if probe.voidable:
                if excused(probe.member):
                    self.withdraw(probe)
                    voided += 1
            elif probe.put_off < EXCUSES:
                probe.put_off += 1
                pool.agenda.cancel(("timeout", probe.sequence))
                due_us = pool.now_us + max(probe.timeout_us, probe.verdict_us - probe.timeout_us)
                pool.agenda.set(("verdict", probe.sequence), due_us)
        pool.counters.probes_voided += voided
        return voided

    # -------------------------------------------------------------- answers

    def ack(self, ack: Ack, sender: Stamp, record: Record | None) -> None:
        """Take an answer by datagram; ``record`` is the sender's own, if it came along."""
        pool = self._pool
        relay = self._relays.get(ack.sequence)
        if relay is not None:
            if sender.member == ack.stamp.member == relay.target:
                self._end_relay(ack.sequence)
                answer = Ack(relay.sequence, ack.stamp, 0, 0, None, ack.annotation)
                pool.send(relay.reply_to, answer)
            return
        direct = sender.member == ack.stamp.member
        probe = self._open.get(ack.sequence)
        if probe is None:
            self._take_late(ack, direct)
            return
        if not _may_answer(probe, ack.stamp) or (not direct and not probe.asked):
            pool.refuse("answer")
            return
        pool.counters.acks += 1
        self.withdraw(probe)
        self._spent.pop(ack.sequence, None)
        if direct:
            self._measure(probe, ack)
        probe.on_answer(probe, Answered(ack.stamp, record if direct else None, direct))

    def _take_late(self, ack: Ack, direct: bool) -> None:
        pool = self._pool
        if not direct or self._spent.pop(ack.sequence, None) != ack.stamp.member:
            pool.refuse("sequence")
            return
        pool.counters.late_acks += 1
        entry = pool.table.get(ack.stamp.member)
        if entry is not None:
            self._late(entry, ack.stamp)

    def _measure(self, probe: Probe, ack: Ack) -> None:
        pool = self._pool
        entry = pool.table.get(ack.stamp.member)
        elapsed_us = pool.now_us - probe.sent_us
        if entry is None or not ack.sent_us:
            return
        if entry.trips is None:
            entry.trips = RoundTrips()
        entry.trips.add(
            elapsed_us=elapsed_us, sent_us=probe.sent_wall_us, heard_us=ack.heard_us,
            answered_us=ack.sent_us, received_us=pool.wall_us,
        )  # fmt: skip
        if ack.coordinate is None or elapsed_us <= 0:
            return
        try:
            pool.place.update(ack.coordinate, elapsed_us)
        except Malformed:
            pool.refuse("coordinate")
            return
        entry.coordinate = ack.coordinate

    def nack(self, sequence: int) -> None:
        """Take a helper's word that it tried."""
        probe = self._open.get(sequence)
        if probe is not None and probe.nacks < probe.asked:
            probe.nacks += 1
            self._pool.counters.nacks += 1

    def _stream_ended(self, probe: Probe, frame: Frame | None, refused: bool) -> None:
        pool = self._pool
        if refused:
            self._refused(probe)
        body = frame.body if frame is not None else None
        if not isinstance(body, AckFrame):
            return
        stamp = body.ack.stamp
        whole = body.ack.sequence == probe.sequence and body.record.stamp == stamp
        if not whole or not _may_answer(probe, stamp):
            pool.refuse("answer")
            return
        found = Answered(stamp, body.record, direct=True, streamed=True)
        if probe.sequence not in self._open:
            entry = pool.table.get(stamp.member)
            if entry is not None:
                self._late(entry, stamp)
        elif probe.voidable:
            # A datagram may still come, and says more: that datagrams do.
            probe.streamed = found
        else:
            self.withdraw(probe)
            probe.on_answer(probe, found)

    def _refused(self, probe: Probe) -> None:
        """Hasten the verdict: the host is there, says that nobody listens, and the datagram had
        no answer. Helpers that see more have a moment to say so."""
        pool = self._pool
        probe.refused = True
        if ("timeout", probe.sequence) in pool.agenda:
            pool.agenda.cancel(("timeout", probe.sequence))
            self.timeout(probe.sequence)
        due_us = pool.agenda.due_us(("verdict", probe.sequence))
        if due_us is not None:
            soon_us = pool.now_us + probe.timeout_us // _REFUSED_SHARE
            pool.agenda.set(("verdict", probe.sequence), min(due_us, soon_us))

    # -------------------------------------------------------------- in another's stead

    def relay(self, request: PingRequest) -> None:
        """Probe for another member."""
        pool = self._pool
        if len(self._relays) >= _RELAYS or not request.target or not request.reply_to:
            pool.refuse("relays")
            return
        sequence = pool.chance.getrandbits(63) | 1 << 63
        self._relays[sequence] = _Relay(request.sequence, request.target, request.reply_to)
        pool.counters.relayed += 1
        pool.agenda.set(("nack", sequence), pool.now_us + pool.config.probe_timeout_us * 4 // 5)
        pool.agenda.set(("relay", sequence), pool.now_us + pool.config.probe_interval_us)
        wall_us = max(0, pool.wall_us)
        ping = Ping(sequence, request.target, pool.address, wall_us, pool.annotation)
        pool.send(request.address, ping)

    def relay_nack(self, sequence: int) -> None:
        """Tell whom one probes for that there was no answer yet."""
        relay = self._relays.get(sequence)
        if relay is not None:
            self._pool.send(relay.reply_to, Nack(relay.sequence))

    def end_relay(self, sequence: int) -> None:
        """Probe no longer for another."""
        if sequence in self._relays:
            self._end_relay(sequence)

    def _end_relay(self, sequence: int) -> None:
        del self._relays[sequence]
        self._pool.agenda.cancel(("nack", sequence))
        self._pool.agenda.cancel(("relay", sequence))


def _may_answer(probe: Probe, stamp: Stamp) -> bool:
    return stamp.member == probe.member or not probe.member or (probe.whoever and not probe.only)
