"""What the parts of one pool's machine share: the table, the clock of the input, the way out.

Problem: probing, news, exchanges and rejoining act on one table and each other; passed through
arguments, every call would carry ten of them.

Idea: one record of the shared state, written by the input that runs now, and the few ways in
which anything leaves the machine: a packet, an exchange, an effect, a broadcast. The parts
know this record, not each other; what one needs of another is a function put here when
``Swim`` is built.

Invariants: effects are in the order in which they were called for; nothing is sent while the
machine is not running; a packet is never above ``Config.packet_bytes``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, Protocol

from gossip.agenda import Agenda
from gossip.broadcast import Queue
from gossip.config import Config
from gossip.coordinates import Place
from gossip.counters import Counters
from gossip.effects import Effect, SendDatagram, Warn
from gossip.frames import Body, Frame
from gossip.health import Health
from gossip.members import Member, Table
from gossip.messages import Alive, Dead, Message, Record, Stamp, State, Suspect
from gossip.packing import Packing

if TYPE_CHECKING:
    from random import Random

__all__ = ["Key", "Pool", "Sealing"]

Key = tuple[str, int]
"""A deadline: what it is for, and the member, probe or exchange, or 0."""

_WARN_AGAIN_US: Final = 60_000_000
_WARNINGS: Final = 256


class Sealing(Protocol):
    """What a pool needs of a seal."""

    @property
    def overhead(self) -> int:
        """By how many bytes sealing makes a packet larger."""

    def seal(self, packet: bytes) -> bytes:
        """Return a datagram that only members of this cluster can open."""

    def confirm(self, member: int, generation: int) -> None:
        """Refuse what is sealed by earlier lives of a member from now on."""


class Pool:
    """The shared state of one pool."""

    def __init__(self, me: Record, tag: str, config: Config, chance: Random, seal: Sealing) -> None:
        self.me = me
        self.tag = tag
        self.config = config
        self.chance = chance
        self.seal = seal
        self.table = Table(config, me.stamp)
        self.agenda: Agenda[Key] = Agenda()
        self.counters = Counters()
        self.health = Health(config.health_maximum)
        self.place = Place(chance)
        self.packing = Packing(tag, config, seal.overhead)
        self.queue = Queue(config, self.packing.room)
        self.annotation = b""
        self.running = False
        self.now_us = 0
        self.wall_us = 0
        self.ask: Callable[[Record, Suspect | Dead | None], None]
        """Verify with a member what is said of it (``inquiry.Inquiries.ask``)."""
        self.recheck: Callable[[Member], None]
        """Probe a suspect at once (``probing.Probing.recheck``)."""
        self.exchange: Callable[[str, Body, int, Callable[[Frame | None, bool], None]], bool]
        """Ask over a stream (``exchange.Exchanges.open``)."""
        self.met: Callable[[str], None]
        """Compare tables soon with who is at that address (``exchange.Exchanges.met``)."""
        self._effects: list[Effect] = []
        self._warned: dict[tuple[str, int], int] = {}
        # The two members heard last: enough to know whether anybody but one was heard.
        self._heard: list[tuple[int, int]] = []

    # -------------------------------------------------------------- the way out

    def emit(self, effect: Effect) -> None:
        """Add an effect."""
        self._effects.append(effect)

    def take_effects(self) -> list[Effect]:
        """Return the effects since the last call, in order."""
        effects, self._effects = self._effects, []
        return effects

    def send(self, address: str, *messages: Message, gossip: bool = True) -> None:
        """Send messages to an address, with what there is to tell in the room that is left."""
        if not address:
            return
        queue = self.queue if gossip else None
        for packet in self.packing.packets(
            self.me.stamp, self.table.hash, messages, queue, self.table.count
        ):
            data = self.seal.seal(packet)
            self.counters.packets_sent += 1
            self.counters.bytes_sent += len(data)
            self._effects.append(SendDatagram(address, data))

    def tell(self, message: Alive | Suspect | Dead) -> None:
        """Broadcast news of a member."""
        self.queue.news(message)
        self.counters.broadcasts += 1
        self.gossip_soon()

    def gossip_soon(self) -> None:
        """Make sure that a round of gossip is due."""
        if ("gossip", 0) not in self.agenda:
            # Within half an interval, so that those who heard it at once do not tell it at once.
            wait_us = self.chance.randrange(self.config.gossip_interval_us // 2)
            self.agenda.set(("gossip", 0), self.now_us + wait_us)

    def warn(self, name: str, about: int, message: str, **details: Any) -> bool:
        """Warn an operator, at most once a minute of the same thing about the same member; say
        whether that was done now."""
        last_us = self._warned.pop((name, about), None)
        fresh = last_us is None or self.now_us - last_us >= _WARN_AGAIN_US
        self._warned[name, about] = self.now_us if last_us is None or fresh else last_us
        while len(self._warned) > _WARNINGS:
            del self._warned[next(iter(self._warned))]
        if fresh:
            self.emit(Warn(name, message, {"member": about, **details}))
        return fresh

    def refuse(self, reason: str) -> None:
        """Count input that changes nothing."""
        self.counters.refused[reason] += 1

    # -------------------------------------------------------------- oneself

    def become(self, incarnation: int) -> None:
        """Say a newer word of oneself, and tell everybody."""
        self.me = replace(self.me, incarnation=incarnation)
        self.table.renew_me(self.me.stamp, self.now_us)
        self.tell(Alive(self.me))

    @property
    def address(self) -> str:
        """Where answers to oneself go."""
        return self.me.profile.gossip_address

    # -------------------------------------------------------------- who is heard

    def heard(self, entry: Member) -> None:
        """Note that a packet or frame of that member came."""
        entry.heard_us = self.now_us
        member = entry.record.member
        if self._heard and self._heard[0][0] == member:
            self._heard[0] = (member, self.now_us)
        else:
            before = [one for one in self._heard if one[0] != member][:1]
            self._heard = [(member, self.now_us), *before]

    def alone(self, besides: int) -> bool:
        """Whether nobody but that member was heard within the last two intervals: one may be
        cut off oneself. Two, for in a pool of three the others are probed by turns."""
        since_us = self.now_us - self.health.scaled(2 * self.config.probe_interval_us)
        return not any(member != besides and at > since_us for member, at in self._heard)

    def remind(self, entry: Member) -> None:
        """Tell a member what is believed of it, so that it can refute; at most once a timeout."""
        if entry.reminded_us is None or (
            self.now_us - entry.reminded_us >= self.config.probe_timeout_us
        ):
            entry.reminded_us = self.now_us
            self.send(entry.address, self.accusation(entry), gossip=False)

    def accusation(self, entry: Member) -> Suspect | Dead:
        """Return what is believed of a member that is not simply alive."""
        stamp: Stamp = entry.record.stamp
        if entry.state is State.DEAD:
            return Dead(stamp, self.me.member)
        if entry.state is State.LEFT:
            return Dead(stamp, stamp.member)
        return Suspect(stamp, self.me.member)
