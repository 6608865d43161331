"""A small pool in virtual time, and what strangers and malicious members may send to it.

``Pool`` runs a few machines over a network without loss, just enough for answers to be
answered. ``Hostile`` makes datagrams and frames: noise, alterations, replays, and well-formed
lies about the pool's members. ``weight`` measures what a machine holds.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Any

from gossip.config import LOCAL, Config
from gossip.effects import Answer, Effect, Exchange, KeyringChanged, MemberChanged, SendDatagram
from gossip.frame_wire import decode_frame, encode_announcement, encode_frame
from gossip.frames import (
    AckFrame,
    Announcement,
    Body,
    Compare,
    Frame,
    PingFrame,
    Records,
    Summary,
    View,
    ViewRequest,
)
from gossip.keyring import Keyring
from gossip.mesh import Mesh
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
from gossip.sealing import Seal
from gossip.shapes import COUNT_MAXIMUM, UINT64
from gossip.swim import Swim
from gossip.wire import encode_packet

KEY = b"k" * 32
TAG = "region:eu"
LATENCY_US = 1_000
HOSTILE_ADDRESS = "h66:7000"


def address(member: int) -> str:
    """Where a member of the small pool lives."""
    return f"h{member}:7000"


def record(member: int, region: str = "eu") -> Record:
    """Return the record with which a member starts."""
    return Record(member, 1, 0, Profile(f"n{member}", region, address(member)))


def seal(member: int, config: Config) -> Seal:
    """Return the seal with which a member starts."""
    return Seal("c", Keyring([KEY]), member.to_bytes(16, "big"), members=config.members)


def one_pool(member: int, config: Config, chance: Random) -> Swim:
    """Make a member of the one pool."""
    return Swim(record(member), TAG, config, chance, seal(member, config))


def two_regions(member: int, config: Config, chance: Random) -> Mesh:
    """Make a node: the first three are of one region, the others of another."""
    region = "eu" if member <= 3 else "us"
    return Mesh(record(member, region), config, config, chance, seal(member, config))


class Pool:
    """Machines, their datagrams and streams, and one clock."""

    def __init__(
        self,
        members: int,
        config: Config,
        seed: int,
        make: Callable[[int, Config, Random], Any] = one_pool,
    ) -> None:
        self.config = config
        self.now_us = 0
        self.events: list[tuple[int, MemberChanged]] = []
        """What each machine reported, with its id."""
        self.heard: list[bytes] = []
        """Datagrams as they crossed the network, the latest hundred."""
        self.asked: list[tuple[int, Exchange]] = []
        """Exchanges that went to the hostile address, and who asks."""
        self.caught: list[tuple[int, bytes]] = []
        """Datagrams that went to the hostile address, and who sent them."""
        self.kept: dict[int, bytes] = {}
        """The key ring that each member asked to be kept last."""
        self.machines: dict[int, Any] = {}
        self.meet: Callable[[int, int], bool] = lambda _one, _other: True
        """Whether a stream that the one opens to the other can be unsealed by both."""
        self._queue: list[tuple[int, int, Callable[[], None]]] = []
        self._turn = 0
        for member in range(1, members + 1):
            machine = make(member, config, Random(seed * 1_000 + member))
            self.machines[member] = machine
            self.run(member, machine.start(0, self.wall_us, [address(1)]))
        self.advance(30_000_000)

    @property
    def wall_us(self) -> int:
        """The wall clock of everybody."""
        return 1_700_000_000_000_000 + self.now_us

    def _at(self, delay_us: int, action: Callable[[], None]) -> None:
        self._turn += 1
        heapq.heappush(self._queue, (self.now_us + delay_us, self._turn, action))

    def run(self, member: int, effects: list[Effect]) -> None:
        """Carry out what a machine asks for."""
        for effect in effects:
            if isinstance(effect, SendDatagram):
                self.heard = [*self.heard[-99:], effect.data]
                self._send(member, effect)
            elif isinstance(effect, Exchange):
                self._exchange(member, effect)
            elif isinstance(effect, KeyringChanged):
                self.kept[member] = effect.dump
            elif isinstance(effect, MemberChanged):
                self.events.append((member, effect))
            else:
                assert not isinstance(effect, Answer), "an answer to nobody's stream"

    def _find(self, place: str) -> int | None:
        found = [member for member in self.machines if address(member) == place]
        return found[0] if found else None

    def _send(self, sender: int, effect: SendDatagram) -> None:
        target = self._find(effect.address)
        if target is not None:
            data, source = effect.data, address(sender)
            self._at(LATENCY_US, lambda: self.datagram(target, data, source))
        elif effect.address == HOSTILE_ADDRESS:
            self.caught.append((sender, effect.data))

    def datagram(self, target: int, data: bytes, source: str) -> None:
        """Give a machine a datagram now."""
        machine = self.machines[target]
        self.run(target, machine.receive_datagram(data, source, self.now_us, self.wall_us))

    def stream(self, target: int, frame: bytes) -> bytes | None:
        """Give a machine a frame now; return its answer."""
        effects = self.machines[target].receive_stream("s", frame, self.now_us, self.wall_us)
        answers = [effect.frame for effect in effects if isinstance(effect, Answer)]
        assert len(answers) <= 1
        self.run(target, [effect for effect in effects if not isinstance(effect, Answer)])
        return answers[0] if answers else None

    def _exchange(self, member: int, effect: Exchange) -> None:
        target = self._find(effect.address)
        if target is None:
            if effect.address == HOSTILE_ADDRESS:
                self.asked.append((member, effect))
            else:
                self._at(LATENCY_US, lambda: self.answered(member, effect.number, None))
            return

        def ask() -> None:
            met = self.meet(member, target)
            answer = self.stream(target, effect.frame) if met else None
            self._at(LATENCY_US, lambda: self.answered(member, effect.number, answer))

        self._at(LATENCY_US, ask)

    def answered(self, member: int, number: int, frame: bytes | None) -> None:
        """Tell a machine how its exchange ended."""
        machine = self.machines[member]
        self.run(member, machine.exchanged(number, frame, self.now_us, self.wall_us))

    def advance(self, duration_us: int) -> None:
        """Let so much time pass, and everything happen that is due."""
        end_us = self.now_us + duration_us
        while True:
            deadlines = [
                (deadline_us, member)
                for member, machine in self.machines.items()
                if (deadline_us := machine.next_deadline_us()) is not None
            ]
            due_us, member = min(deadlines, default=(end_us + 1, 0))
            if self._queue and self._queue[0][0] <= due_us:
                if self._queue[0][0] > end_us:
                    break
                self.now_us, _, action = heapq.heappop(self._queue)
                action()
                continue
            if due_us > end_us:
                break
            self.now_us = max(self.now_us, due_us)
            machine = self.machines[member]
            self.run(member, machine.handle_timeout(self.now_us, self.wall_us))
        self.now_us = end_us


class Hostile:
    """Makes what should not be sent. ``me`` is the id that a malicious member has itself."""

    def __init__(self, chance: Random, pool: Pool, key: bytes = KEY) -> None:
        self.chance = chance
        self.pool = pool
        self.me = 66
        self._number = 0
        self._own = Seal("c", Keyring([key]), b"hostile receiver")
        self._seals = [
            Seal("c", Keyring([key]), (1_000 + number).to_bytes(16, "big")) for number in range(8)
        ]

    # ------------------------------------------------------------------ values

    def _member(self) -> int:
        known = list(self.pool.machines)
        return self.chance.choice([*known, *known, self.me, self.chance.randint(1, UINT64)])

    def _count(self) -> int:
        highest = [COUNT_MAXIMUM, COUNT_MAXIMUM - 1, self.chance.randint(0, COUNT_MAXIMUM)]
        return self.chance.choice([0, 1, 1, 1, 2, 3, 1_000, 2_000, *highest])

    def stamp(self) -> Stamp:
        """Return a stamp, often of a member that lives, often its true one."""
        member = self._member()
        machine = self.pool.machines.get(member)
        if machine is not None and self.chance.random() < 0.5:
            stamp: Stamp = machine.me.stamp
            return stamp
        return Stamp(member, self._count(), self._count())

    def _address(self) -> str:
        member = self._member()
        return self.chance.choice([address(member), HOSTILE_ADDRESS, "nobody.example:1"])

    def _tag(self) -> str:
        return self.chance.choice([TAG, TAG, TAG, "wide", "wide", "region:us"])

    def _region(self) -> str:
        return self.chance.choice(["eu", "eu", "us", "nowhere"])

    def record(self) -> Record:
        """Return a record of somebody, true in parts."""
        stamp = self.stamp()
        extra = bytes(self.chance.choice([0, 0, 300, 440]))
        name = self.chance.choice([f"n{stamp.member % 5}", "x" * 20])
        return Record(*stamp, Profile(name, self._region(), self._address(), extra=extra))

    def _place(self) -> Coordinate:
        size = self.chance.choice([1e308, -1e308, 1e9, 0.1, 5e-324])
        return Coordinate((size,) * self.chance.choice([1, 8, 16]), size, size)

    def message(self) -> Message:
        """Return a well-formed message that says anything."""
        chance = self.chance
        sequence = chance.choice([0, 1, UINT64, chance.randint(0, UINT64)])
        note = bytes(chance.choice([0, 1, self.pool.config.annotation_bytes]))
        moment = chance.choice([0, 1, UINT64, self.pool.wall_us])
        self._number += 1
        choice = chance.randrange(9)
        made: list[Callable[[], Message]] = [
            lambda: Ping(
                sequence, chance.choice([0, self._member()]), self._address(), moment, note
            ),
            lambda: Ack(sequence, self.stamp(), moment, moment, self._place(), note),
            lambda: Nack(sequence),
            lambda: PingRequest(sequence, self._member(), self._address(), self._address()),
            lambda: Alive(self.record()),
            lambda: Suspect(self.stamp(), self._member()),
            lambda: Dead(self.stamp(), self._member()),
            lambda: User(
                self._member(),
                self._count(),
                chance.choice([self._number, COUNT_MAXIMUM]),
                *self._payload(),
            ),
            lambda: Referral(chance.choice(["", "eu"]), tuple(self._address() for _ in range(8))),
        ]
        return made[choice]()

    def _payload(self) -> tuple[bytes, Channel]:
        if self.chance.random() < 0.6:
            size = self.chance.choice([0, 40, self.pool.config.user_payload_bytes])
            return bytes(size), self.chance.choice([Channel.USER, Channel.USER, Channel.VIEWS])
        stamp = self.stamp()
        number, view_hash = self._count(), self.chance.randint(0, UINT64)
        said = Announcement(self._region(), *stamp[:2], number, view_hash)
        return encode_announcement(said), Channel.VIEWS

    def farewell(self) -> Message:
        """Return a farewell in somebody else's name."""
        stamp = self.stamp()
        return Dead(stamp, stamp.member)

    # ------------------------------------------------------------------ datagrams

    def packet(self) -> bytes:
        """Return a well-formed packet with lies in it."""
        messages = [self.message() for _ in range(self.chance.choice([1, 1, 2, 5]))]
        if self.chance.random() < 0.2:
            messages.append(self.farewell())
        pool = self._tag()
        sender = Stamp(self.me, 1, 0) if self.chance.random() < 0.5 else self.stamp()
        table_hash = self.chance.randint(0, UINT64)
        return encode_packet(Packet(pool, sender, table_hash, tuple(messages)))

    def sealed(self, packet: bytes) -> bytes:
        """Return the packet sealed in one of several sessions, now and then in a new one."""
        if self.chance.random() < 0.3:
            number = self.chance.randrange(len(self._seals))
            session = self.chance.randbytes(16)
            ring = self._seals[number].keyring
            self._seals[number] = Seal("c", ring, session)
        return self.chance.choice(self._seals).seal(packet)

    def noise(self) -> bytes:
        """Return what anybody without the key can send: noise, alterations, replays."""
        chance = self.chance
        heard = self.pool.heard
        choice = chance.randrange(5)
        if choice == 0 or not heard:
            return chance.randbytes(chance.choice([0, 1, 26, 43, 44, 100, 1_200, 3_000]))
        data = bytearray(chance.choice(heard))
        if choice == 1:
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        elif choice == 2:
            del data[chance.randrange(len(data)) :]
        elif choice == 3:
            data[5:21] = chance.randbytes(16)
        return bytes(data)

    def answer(self, data: bytes) -> bytes | None:
        """Return an answer to a datagram that came to the hostile address, if it asks anything:
        the right sequence, in anybody's name."""
        packet = self._own.open(data, self.pool.config)
        stamp = self.stamp()
        said: list[Message] = []
        for message in packet.messages:
            if isinstance(message, Ping):
                said.append(Ack(message.sequence, stamp, 1, 1))
            elif isinstance(message, PingRequest):
                vouched = self.chance.random() < 0.5
                sequence = message.sequence
                said.append(Ack(sequence, stamp, 0, 0) if vouched else Nack(sequence))
        if not said:
            return None
        if self.chance.random() < 0.8:
            said.append(Alive(replace(self.record(), **stamp._asdict())))
        sender = self.chance.choice([stamp, stamp, Stamp(self.me, 1, 0)])
        return self.sealed(encode_packet(Packet(packet.pool, sender, 0, tuple(said))))

    # ------------------------------------------------------------------ frames

    def answer_frame(self, asked: bytes) -> bytes:
        """Return an answer to a frame: to a probe the right one in anybody's name."""
        frame = decode_frame(asked, self.pool.config)
        body = frame.body
        stamp = self.stamp()
        if not isinstance(body, PingFrame):
            return self.frame()
        said = replace(self.record(), **stamp._asdict())
        answer = AckFrame(Ack(body.ping.sequence, stamp, 1, 1), said)
        return encode_frame(Frame(frame.pool, stamp, answer), self.pool.config)

    def frame(self) -> bytes:
        """Return a well-formed frame that says anything."""
        chance = self.chance
        said = {
            one.member: one for one in (self.record() for _ in range(chance.choice([0, 3, 40])))
        }
        states = [*State, State.LEFT, State.DEAD]
        entries = tuple((one, chance.choice(states)) for one in said.values())
        members = tuple({self._member() for _ in range(4)})
        ack = Ack(chance.randint(0, UINT64), self.stamp(), 0, 0, self._place())
        bodies: list[Callable[[], Body]] = [
            lambda: Compare(chance.randint(0, UINT64), chance.randint(0, UINT64)),
            lambda: Summary(
                chance.randint(0, UINT64), tuple((one.stamp, state) for one, state in entries)
            ),
            lambda: Records(entries, members),
            lambda: PingFrame(Ping(1, chance.choice([0, self._member()]), "", 0)),
            lambda: AckFrame(ack, self.record()),
            lambda: ViewRequest(self._region(), self._member(), 1, chance.choice([0, 1, 5])),
            lambda: View(self._region(), self._member(), 1, 5, 0, 0, entries, members),
            lambda: Referral(chance.choice(["", "eu"]), (self._address(),)),
        ]
        body = chance.choice(bodies)()
        sender = Stamp(self.me, 1, 0) if chance.random() < 0.5 else self.stamp()
        return encode_frame(Frame(self._tag(), sender, body), self.pool.config)

    def broken_frame(self) -> bytes:
        """Return a frame that was altered, or noise."""
        if self.chance.random() < 0.3:
            return self.chance.randbytes(self.chance.choice([0, 1, 20, 500]))
        data = bytearray(self.frame())
        for _ in range(self.chance.choice([1, 1, 3])):
            data[self.chance.randrange(len(data))] = self.chance.randrange(256)
        return bytes(data)


def weight(root: object) -> dict[str, int]:
    """Count the items of every container that is reachable from a machine, by where it lies."""
    found: dict[str, int] = {}
    seen: set[int] = set()
    waiting: deque[tuple[str, Any]] = deque([(type(root).__name__, root)])
    while waiting:
        path, one = waiting.popleft()
        if id(one) in seen or isinstance(one, (str, bytes, int, float, type, Random)):
            continue
        seen.add(id(one))
        if isinstance(one, (dict, list, set, tuple, deque, bytearray, frozenset)):
            found[path] = found.get(path, 0) + len(one)
            values = list(one.values()) + list(one) if isinstance(one, dict) else list(one)
            if not isinstance(one, bytearray):
                waiting.extend((path, value) for value in values)
            continue
        kind = type(one)
        if not kind.__module__.startswith("gossip"):
            continue
        names = list(getattr(one, "__dict__", {}))
        for base in kind.__mro__:
            names += getattr(base, "__slots__", ())
        waiting.extend(
            (f"{kind.__name__}.{name}", getattr(one, name)) for name in names if hasattr(one, name)
        )
    return found


SMALL = replace(LOCAL, members=32, user_queue_bytes=4_096, remembered_peers=64, profile_bytes=512)
"""Bounds that are reached soon."""
