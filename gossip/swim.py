"""One pool: the pure machine that its parts make together.

Problem: failure detection, dissemination, anti-entropy and rejoining act on one table.

Idea: inputs (a packet, a frame, a passed deadline, a command) with the time as an argument;
each returns the effects to be carried out in order. What is decided lies in the parts:

    news        what is believed of what is heard
    probing     whose turn it is, and what silence means; ``probe`` is one probe
    inquiry     asking a member itself before news of it is believed
    exchange    comparing tables over streams
    rejoin      finding each other again
    telling     rounds of gossip, payloads, reminding the dead
    pool        the state that they share, and the way out

Invariants: nothing but ``GossipError`` leaves a command, and nothing at all an input; the
same inputs with the same seed give the same effects; after ``leave`` the machine is silent.

Source: SWIM (Das, Gupta, Motivala 2002), Lifeguard (Dadgar, Phillips, Currey 2017).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from gossip.config import Config
from gossip.counters import Counters
from gossip.effects import Annotated, Answer, Effect, MemberChanged
from gossip.errors import Rejected, TooLarge, UnknownMember
from gossip.exchange import Exchanges
from gossip.frame_wire import decode_frame, encode_frame
from gossip.frames import AckFrame, Body, Frame, PingFrame
from gossip.inquiry import Inquiries
from gossip.members import Member, MemberView
from gossip.messages import (
    Ack,
    Alive,
    Channel,
    Coordinate,
    Dead,
    Message,
    Nack,
    Packet,
    Ping,
    PingRequest,
    Profile,
    Record,
    Referral,
    Stamp,
    State,
    Suspect,
    User,
)
from gossip.news import News
from gossip.pool import Pool
from gossip.probe import Prober
from gossip.probing import Probing
from gossip.rejoin import Rejoin
from gossip.sealing import Seal
from gossip.telling import Telling
from gossip.wire import check_profile

if TYPE_CHECKING:
    from random import Random

__all__ = ["Swim"]

_FAREWELLS: Final = 8
"""How many members are told of a farewell at first hand."""


class Swim:
    """One member's side of one pool. The clock given may only rise."""

    def __init__(
        self,
        me: Record,
        pool: str,
        config: Config,
        chance: Random,
        seal: Seal,
        remembered: bytes = b"",
        spared: str = "",
    ) -> None:
        """``me`` is one's record in this life; ``pool`` the pool's tag; ``remembered`` what the
        last ``Remember`` of an earlier life held; ``spared`` the region whose members another
        pool probes. Raises ``TooLarge``."""
        check_profile(me.profile, config)
        self._pool = Pool(me, pool, config, chance, seal)
        self._seal = seal
        self._news = News(self._pool)
        self._prober = Prober(self._pool, self._answered_late)
        self._inquiries = Inquiries(self._pool, self._news, self._prober)
        self._probing = Probing(self._pool, self._news, self._prober, spared)
        self._exchanges = Exchanges(self._pool, self._news, seal.keyring)
        self._rejoin = Rejoin(self._pool, self._news, self._prober, remembered)
        self._telling = Telling(self._pool)
        shared = self._pool
        shared.ask = self._inquiries.ask
        shared.recheck = self._probing.recheck
        shared.exchange = self._exchanges.open
        shared.met = self._exchanges.met
        self._due = {
            "round": self._round,
            "stream": self._prober.stream,
            "timeout": self._prober.timeout,
            "verdict": self._prober.verdict,
            "nack": self._prober.relay_nack,
            "relay": self._prober.end_relay,
            "suspect": self._probing.suspicion_over,
            "gossip": lambda _: self._telling.round(),
            "remind": lambda _: self._telling.remind(),
            "push_pull": lambda _: self._exchanges.push_pull(),
            "early": lambda _: self._exchanges.early(),
            "met": lambda _: self._exchanges.met_again(),
            "rejoin": lambda _: self._rejoin.turn(),
            "remember": lambda _: self._rejoin.remember(),
            "reap": self._reap,
        }

    # ------------------------------------------------------------------ inputs

    def start(self, now_us: int, wall_us: int, seeds: Sequence[str]) -> list[Effect]:
        """Begin to live. Raises ``Malformed`` for a seed that is not ``host:port``."""
        pool = self._pool
        self._rejoin.add_seeds(seeds)
        self._clock(now_us, wall_us)
        pool.running = True
        pool.table.changed_us = now_us
        interval_us = pool.config.probe_interval_us
        # By chance, so that members started together do not act together for ever.
        pool.agenda.set(("round", 0), now_us + pool.chance.randrange(interval_us))
        every_us = pool.config.push_pull_interval_us
        pool.agenda.set(("push_pull", 0), now_us + pool.chance.randrange(every_us))
        pool.tell(Alive(pool.me))
        self._rejoin.start()
        return self._effects()

    def receive_datagram(self, data: bytes, source: str, now_us: int, wall_us: int) -> list[Effect]:
        """Take a datagram from the address ``source``."""
        pool = self._pool
        pool.counters.bytes_received += len(data)
        try:
            packet = self._seal.open(data, pool.config)
        except Rejected as error:
            pool.counters.packets_received += 1
            pool.refuse(type(error).__name__)
            return []
        return self.receive(packet, source, now_us, wall_us)

    def receive(self, packet: Packet, source: str, now_us: int, wall_us: int) -> list[Effect]:
        """Take an opened packet from the address ``source``."""
        pool = self._pool
        pool.counters.packets_received += 1
        if not pool.running or packet.pool != pool.tag:
            pool.refuse("pool" if pool.running else "silent")
            return []
        self._clock(now_us, wall_us)
        sender = packet.sender
        if sender.member == pool.me.member:
            self._from_myself(packet)
            return self._effects()
        acks = []
        own: Record | None = None
        reply_to = source
        for message in packet.messages:
            if isinstance(message, Ack):
                acks.append(message)
                continue
            if isinstance(message, Alive) and message.record.stamp == sender:
                own = message.record
            elif isinstance(message, Ping) and message.reply_to:
                reply_to = message.reply_to
            self._hear(message, sender, source)
        # Last, so that what they prove is judged by what came along with them.
        for ack in acks:
            self._annotated(ack.stamp.member, ack.annotation)
            mine = own if own is not None and own.stamp == ack.stamp else None
            self._prober.ack(ack, sender, mine)
        self._sender_heard(sender, packet.table_hash, reply_to)
        return self._effects()

    def receive_stream(self, stream: Any, frame: bytes, now_us: int, wall_us: int) -> list[Effect]:
        """Take a stream's one frame; the last effect is its ``Answer``, unless it is refused."""
        try:
            decoded = decode_frame(frame, self._pool.config)
        except Rejected as error:
            self._pool.refuse(type(error).__name__)
            return []
        return self.receive_frame(stream, decoded, now_us, wall_us)

    def receive_frame(self, stream: Any, frame: Frame, now_us: int, wall_us: int) -> list[Effect]:
        """Take a stream's one frame, decoded."""
        pool = self._pool
        if not pool.running or frame.pool != pool.tag:
            pool.refuse("pool" if pool.running else "silent")
            return []
        self._clock(now_us, wall_us)
        body: Body | None
        try:
            if isinstance(frame.body, PingFrame):
                body = self._answer_probe(frame.body.ping)
            else:
                body = self._exchanges.answer(frame)
        except Rejected as error:
            pool.refuse(type(error).__name__)
            body = None
        if body is None:
            pool.refuse("frame")
        else:
            answer = Frame(pool.tag, pool.me.stamp, body)
            pool.emit(Answer(stream, encode_frame(answer, pool.config)))
        return self._effects()

    def exchanged(
        self, number: int, frame: bytes | None, now_us: int, wall_us: int, *, refused: bool = False
    ) -> list[Effect]:
        """Take how an exchange ended: its answer, or ``None``; ``refused`` if the host of that
        address said that nobody listens there."""
        if not self._pool.running:
            return []
        self._clock(now_us, wall_us)
        self._exchanges.ended(number, frame, refused=refused)
        return self._effects()

    def handle_timeout(self, now_us: int, wall_us: int) -> list[Effect]:
        """Do what is due. Calling it early is harmless; calling it late is noticed."""
        pool = self._pool
        if not pool.running:
            return []
        self._clock(now_us, wall_us)
        due_us = pool.agenda.next_us()
        if due_us is not None and now_us - due_us > pool.config.probe_timeout_us // 2:
            self._probing.stalled()
        while (due := pool.agenda.pop(now_us)) is not None:
            (what, about), _ = due
            self._due[what](about)
        return self._effects()

    def next_deadline_us(self) -> int | None:
        """Return when ``handle_timeout`` is due, or ``None``."""
        return self._pool.agenda.next_us() if self._pool.running else None

    # ------------------------------------------------------------------ commands

    def join(
        self, addresses: Sequence[str], now_us: int, wall_us: int, *, hearsay: bool = False
    ) -> list[Effect]:
        """Seek members at these addresses, now and until they are met. ``hearsay``: another
        member named them; they push no address out that the host named. Raises ``Malformed``."""
        self._clock(now_us, wall_us)
        self._rejoin.add_seeds(addresses, hearsay=hearsay)
        if self._pool.running:
            self._rejoin.try_now(addresses)
        return self._effects()

    def leave(self, now_us: int, wall_us: int) -> list[Effect]:
        """Say farewell to several members at once, and be silent from then on."""
        pool = self._pool
        if not pool.running:
            return []
        self._clock(now_us, wall_us)
        farewell = Dead(pool.me.stamp, pool.me.member)
        for entry in pool.table.pick(pool.chance, _FAREWELLS):
            pool.send(entry.address, farewell)
        # The others do not seek who left: whom to come back to is known here only.
        self._rejoin.remember()
        pool.running = False
        pool.agenda.clear()
        return pool.take_effects()

    def remember(self, now_us: int) -> list[Effect]:
        """Say now what is to be remembered, if it has changed; a farewell does so too."""
        self._clock(now_us, self._pool.wall_us)
        self._rejoin.remember()
        return self._effects()

    def broadcast(
        self, payload: bytes, now_us: int, *, channel: Channel = Channel.USER, slot: str = ""
    ) -> list[Effect]:
        """Tell all members, best effort, each at most once. Raises ``TooLarge``.

        On the mesh's own channels a payload replaces what was in its ``slot``.
        """
        pool = self._pool
        self._clock(now_us, pool.wall_us)
        self._telling.broadcast(payload, channel, slot)
        return self._effects()

    def annotate(self, annotation: bytes) -> None:
        """Let this ride on every probe and its answer. Raises ``TooLarge``."""
        limit = self._pool.config.annotation_bytes
        if len(annotation) > limit:
            raise TooLarge(f"an annotation of {len(annotation)} bytes", hint=f"at most {limit}")
        self._pool.annotation = annotation

    def update(self, profile: Profile, now_us: int) -> list[Effect]:
        """Say something new of oneself. Raises ``TooLarge``, ``Malformed``."""
        pool = self._pool
        check_profile(profile, pool.config)
        self._clock(now_us, pool.wall_us)
        pool.me = replace(pool.me, profile=profile)
        pool.become(pool.me.incarnation + 1)
        return self._effects()

    def look_at(self, member: int, now_us: int, wall_us: int) -> list[Effect]:
        """Probe a member that lives here at once: another pool has its doubts of it."""
        self._clock(now_us, wall_us)
        if self._pool.running:
            self._probing.look_at(member)
        return self._effects()

    def forget(self, member: int, now_us: int) -> list[Effect]:
        """List and seek a member no longer. Raises ``UnknownMember``."""
        pool = self._pool
        self._clock(now_us, pool.wall_us)
        entry = pool.table.get(member)
        # One that was reaped is listed no more, but sought for ever.
        if not self._rejoin.found(member) and entry is None:
            raise UnknownMember(f"no member {member:016x} is known here", member=member)
        if entry is not None:
            self._drop(entry)
        self._rejoin.remember_soon()
        return self._effects()

    # ------------------------------------------------------------------ what is known

    @property
    def me(self) -> Record:
        """One's own record, as it is now."""
        return self._pool.me

    @property
    def pool(self) -> str:
        """The pool's tag."""
        return self._pool.tag

    @property
    def counters(self) -> Counters:
        """The counters, up to date."""
        counters = self._pool.counters
        counters.queue_length = len(self._pool.queue)
        counters.queue_dropped = self._pool.queue.dropped
        counters.health = self._pool.health.score
        return counters

    @property
    def coordinate(self) -> Coordinate:
        """One's own place in the space of round trips."""
        return self._pool.place.value

    def knows(self, member: int) -> bool:
        """Whether that member is listed, or sought."""
        return self._pool.table.get(member) is not None or self._rejoin.seeks(member)

    @property
    def table_hash(self) -> int:
        """The hash of whom one holds for alive: equal where knowledge is equal."""
        return self._pool.table.hash

    def members(self) -> list[MemberView]:
        """Return everybody listed, oneself not."""
        return [entry.view(self._pool.now_us) for entry in self._pool.table]

    def view(self, member: int) -> MemberView | None:
        """Return what is known of one member."""
        entry = self._pool.table.get(member)
        return None if entry is None else entry.view(self._pool.now_us)

    # ------------------------------------------------------------------ messages

    def _hear(self, message: Message, sender: Stamp, source: str) -> None:
        match message:
            case Ping():
                self._ping(message, sender, source)
            case Nack(sequence):
                self._prober.nack(sequence)
            case PingRequest():
                self._prober.relay(message)
            case Alive(record):
                self._news.alive(record)
            case Suspect(stamp, accuser):
                self._news.suspect(stamp, accuser, sender=sender.member)
            case Dead(stamp, accuser):
                self._news.dead(stamp, accuser, sender=sender.member)
            case User():
                self._telling.hear(message)
            case Ack() | Referral():
                # Answers are judged after the news beside them; referrals by who has two pools.
                return

    def _ping(self, ping: Ping, sender: Stamp, source: str) -> None:
        pool = self._pool
        if ping.target not in (0, pool.me.member):
            pool.refuse("target")
            return
        self._annotated(sender.member, ping.annotation)
        wall_us = max(0, pool.wall_us)
        answer: list[Message] = [
            Ack(ping.sequence, pool.me.stamp, wall_us, wall_us, pool.place.value, pool.annotation)
        ]
        if ping.target == 0:
            answer.append(Alive(pool.me))
        entry = pool.table.get(sender.member)
        if entry is not None and entry.state is not State.ALIVE and (sender <= entry.record.stamp):
            answer.append(pool.accusation(entry))
        pool.send(ping.reply_to or source, *answer)

    def _answer_probe(self, ping: Ping) -> AckFrame | None:
        pool = self._pool
        if ping.target not in (0, pool.me.member):
            pool.refuse("target")
            return None
        wall_us = max(0, pool.wall_us)
        place, annotation = pool.place.value, pool.annotation
        ack = Ack(ping.sequence, pool.me.stamp, wall_us, wall_us, place, annotation)
        return AckFrame(ack, pool.me)

    def _annotated(self, member: int, annotation: bytes) -> None:
        entry = self._pool.table.get(member)
        if entry is not None and entry.annotation != annotation:
            entry.annotation = annotation
            self._pool.emit(Annotated(member, annotation))

    def _sender_heard(self, sender: Stamp, table_hash: int, reply_to: str) -> None:
        pool = self._pool
        entry = pool.table.get(sender.member)
        if entry is None:
            if pool.table.room():
                self._inquiries.knock(sender.member, reply_to)
            else:
                pool.refuse("members")
            return
        known = entry.record
        newer = sender.generation > known.generation
        if newer or (sender.generation < known.generation and not entry.proven):
            self._inquiries.knock(sender.member, reply_to)
        elif sender.generation < known.generation:
            pool.refuse("stale")
        elif entry.live:
            pool.heard(entry)
            self._exchanges.hash_seen(entry, table_hash)
        else:
            # Who left is silent, unless the farewell was not its own.
            pool.remind(entry)

    def _from_myself(self, packet: Packet) -> None:
        """Take a packet in one's own name: one's own, come back, or a double's."""
        self._pool.refuse("mirror")
        for message in packet.messages:
            if isinstance(message, Alive) and message.record.stamp == packet.sender:
                self._news.mirrored(message.record)

    def _answered_late(self, entry: Member, stamp: Stamp) -> None:
        self._probing.sign_of_life(entry, stamp)

    # ------------------------------------------------------------------ what is due

    def _round(self, _about: int) -> None:
        self._probing.round()
        self._inquiries.next()

    def _reap(self, member: int) -> None:
        entry = self._pool.table.get(member)
        if entry is not None and not entry.live:
            self._drop(entry)

    def _drop(self, entry: Member) -> None:
        pool, member = self._pool, entry.record.member
        pool.table.drop(entry, pool.now_us)
        pool.queue.forget(member)
        pool.agenda.cancel(("suspect", member))
        pool.agenda.cancel(("reap", member))
        pool.emit(MemberChanged(entry.record, entry.state, entry.state, gone=True))

    # ------------------------------------------------------------------ effects

    def _clock(self, now_us: int, wall_us: int) -> None:
        self._pool.now_us = max(self._pool.now_us, now_us)
        self._pool.wall_us = wall_us

    def _effects(self) -> list[Effect]:
        """Return the effects, after what changes of members mean for turns and searches."""
        effects = self._pool.take_effects()
        for effect in effects:
            if isinstance(effect, MemberChanged) and not effect.gone:
                record = effect.record
                if effect.state is State.DEAD:
                    self._rejoin.seek(record.member, record.profile.gossip_address)
                else:
                    self._rejoin.found(record.member)
                    if effect.state is State.ALIVE:
                        self._probing.newcomer(record.member)
        return effects
