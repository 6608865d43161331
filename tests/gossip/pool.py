"""A pool in virtual time: real machines, a heap of events, a network that can be broken.

Problem: what a protocol promises over minutes and hundreds of members cannot be tested in
real time, nor repeated.

Idea: one heap keyed (time, number). Datagrams take a latency drawn from the seed, may be lost
or cut one way; exchanges take two latencies and may be blocked or refused; a member may be
paused, killed or started again. Wall clocks may be set apart.

Invariants: one seed, one history; time only rises; a machine is called only while it runs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from heapq import heappop, heappush
from random import Random
from typing import Any

from gossip.config import LAN, Config
from gossip.effects import (
    Answer,
    Deliver,
    Effect,
    Exchange,
    MemberChanged,
    Outlived,
    Remember,
    SendDatagram,
    Warn,
)
from gossip.messages import Profile, Record, State
from gossip.sealing import Seal
from gossip.swim import Swim

SECOND = 1_000_000
MS = 1_000


@dataclass
class Host:
    """One process: its machine, and what came out of it."""

    member: int
    address: str
    swim: Swim
    generation: int = 1
    up: bool = True
    paused: bool = False
    wall_offset_us: int = 0
    wake: int = 0
    backlog: list[Callable[[], None]] = field(default_factory=list)
    changes: list[tuple[int, MemberChanged]] = field(default_factory=list)
    delivered: list[tuple[int, bytes]] = field(default_factory=list)
    warnings: list[Warn] = field(default_factory=list)
    outlived: list[tuple[int, bool]] = field(default_factory=list)
    remembered: bytes = b""
    octets: int = 0
    packets: int = 0


class World:
    """Hosts, and what lies between them."""

    def __init__(
        self,
        seed: int = 0,
        *,
        config: Config = LAN,
        latency_us: tuple[int, int] = (200, 2_000),
        loss: float = 0.0,
    ) -> None:
        self.chance = Random(seed)
        self.config = config
        self.latency_us = latency_us
        self.loss = loss
        self.now_us = 0
        self.hosts: dict[int, Host] = {}
        self.by_address: dict[str, Host] = {}
        self.cuts: set[tuple[int, int]] = set()
        """(from, to): no datagram passes, and no stream that needs this direction."""
        self.datagram_cuts: set[tuple[int, int]] = set()
        """(from, to): no datagram passes; streams do."""
        self.largest = 0
        self.lost = 0
        self.tried: Counter[str] = Counter()
        """How many datagrams were sent to each address."""
        self._heap: list[tuple[int, int, Callable[[], None]]] = []
        self._number = 0
        self._streams: dict[object, Callable[[bytes], None]] = {}

    # ---------------------------------------------------------------- hosts

    def host(
        self,
        member: int,
        *,
        address: str = "",
        name: str = "",
        generation: int = 1,
        remembered: bytes = b"",
        config: Config | None = None,
    ) -> Host:
        """Make a host; it is not started."""
        place = address or f"10.0.{member >> 8 & 255}.{member & 255}:7946"
        profile = Profile(name or f"node-{member}", "here", place)
        swim = Swim(
            Record(member, generation, 0, profile), "region:here", config or self.config,
            Random(self.chance.getrandbits(64)), Seal.plain("test"), remembered,
        )  # fmt: skip
        return Host(member, place, swim, generation, remembered=remembered)

    def start(self, host: Host, seeds: Iterable[str] = ()) -> Host:
        """Start a host; it takes over its address."""
        self.hosts[host.member] = host
        self.by_address[host.address] = host
        self._do(host, host.swim.start(self.now_us, self.wall(host), list(seeds)))
        return host

    def grow(self, count: int, *, apart_us: int = 100 * MS, first: int = 1) -> list[Host]:
        """Start so many hosts one after another, each seeded with the first."""
        seed = f"10.0.{first >> 8 & 255}.{first & 255}:7946"
        grown = []
        for member in range(first, first + count):
            grown.append(self.start(self.host(member), [seed]))
            self.run(apart_us)
        return grown

    def found(self, count: int) -> list[Host]:
        """Start so many hosts that know each other from the first, as after long gossip."""
        hosts = [self.host(member) for member in range(1, count + 1)]
        for host in hosts:
            for other in hosts:
                if other is not host:
                    # Telling n hosts of n joins costs n² packets, in any such protocol.
                    host.swim._pool.table.add(other.swim.me, self.now_us)
            self.start(host)
            host.swim._pool.queue.forget(host.member)
        return hosts

    def kill(self, member: int) -> None:
        """Stop a host as by kill -9: its kernel refuses streams from now on."""
        self.hosts[member].up = False

    def restart(self, member: int, seeds: Iterable[str] = (), *, address: str = "") -> Host:
        """Start a killed host again, with its next generation and what it remembered."""
        old = self.hosts[member]
        new = self.host(
            member, address=address or old.address, generation=old.generation + 1,
            remembered=old.remembered,
        )  # fmt: skip
        return self.start(new, seeds)

    def pause(self, member: int) -> None:
        """Stop a host as by SIGSTOP: what arrives waits."""
        self.hosts[member].paused = True

    def resume(self, member: int) -> None:
        """Let a paused host run on: what waited is read before or after the late timer."""
        host = self.hosts[member]
        host.paused = False
        backlog, host.backlog = host.backlog, []
        if self.chance.random() < 0.5:
            self._wake(host)
        for arrived in backlog:
            arrived()
        self._wake(host)

    def wall(self, host: Host) -> int:
        return 1_700_000_000 * SECOND + self.now_us + host.wall_offset_us

    # ---------------------------------------------------------------- network

    def split(self, one: Iterable[int], other: Iterable[int]) -> None:
        """Cut both ways between two groups."""
        for a in one:
            for b in other:
                self.cuts |= {(a, b), (b, a)}

    def heal(self) -> None:
        """Let everything pass again."""
        self.cuts.clear()
        self.datagram_cuts.clear()
        self.loss = 0.0

    # ---------------------------------------------------------------- time

    def after(self, wait_us: int, what: Callable[[], None]) -> None:
        """Do something later."""
        self._number += 1
        heappush(self._heap, (self.now_us + wait_us, self._number, what))

    def run(self, for_us: int) -> None:
        """Let time pass."""
        end_us = self.now_us + for_us
        while self._heap and self._heap[0][0] <= end_us:
            self.now_us, _, what = heappop(self._heap)
            what()
        self.now_us = end_us

    def until(self, condition: Callable[[], bool], limit_us: int, step_us: int = 50 * MS) -> int:
        """Let time pass until the condition holds; return how long it took."""
        start_us = self.now_us
        while not condition():
            assert self.now_us - start_us < limit_us, "it did not happen in time"
            self.run(step_us)
        return self.now_us - start_us

    # ---------------------------------------------------------------- effects

    def call(self, host: Host, effects: list[Effect]) -> None:
        """Carry out what a command of a test returned."""
        self._do(host, effects)

    def _do(self, host: Host, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case SendDatagram(address, data):
                    self._datagram(host, address, data)
                case Exchange():
                    self._exchange(host, effect)
                case Answer(stream, frame):
                    self._streams.pop(stream)(frame)
                case MemberChanged():
                    host.changes.append((self.now_us, effect))
                case Deliver(origin, payload):
                    host.delivered.append((origin, payload))
                case Remember(peers):
                    host.remembered = peers
                case Outlived(generation, over):
                    host.outlived.append((generation, over))
                case Warn():
                    host.warnings.append(effect)
        self._schedule(host)

    def _schedule(self, host: Host) -> None:
        due_us = host.swim.next_deadline_us()
        if due_us is None or not host.up:
            return
        host.wake += 1
        wake = host.wake
        self.after(max(0, due_us - self.now_us), lambda: self._wake(host, wake))

    def _wake(self, host: Host, wake: int | None = None) -> None:
        if not host.up or host.paused or (wake is not None and wake != host.wake):
            return
        self._do(host, host.swim.handle_timeout(self.now_us, self.wall(host)))

    def latency(self) -> int:
        return self.chance.randint(*self.latency_us)

    def passes(self, sender: int, receiver: int) -> bool:
        return (sender, receiver) not in self.cuts

    def _datagram(self, sender: Host, address: str, data: bytes) -> None:
        self.largest = max(self.largest, len(data))
        sender.octets += len(data)
        sender.packets += 1
        self.tried[address] += 1
        receiver = self.by_address.get(address)
        if receiver is None:
            return
        way = (sender.member, receiver.member)
        blocked = way in self.cuts or way in self.datagram_cuts
        if blocked or (self.loss and self.chance.random() < self.loss):
            self.lost += 1
            return
        source = sender.address
        self.after(self.latency(), lambda: self._arrives(address, data, source))

    def _arrives(self, address: str, data: bytes, source: str) -> None:
        host = self.by_address.get(address)
        if host is None or not host.up:
            return
        if host.paused:
            host.backlog.append(lambda: self._arrives(address, data, source))
            return
        self._do(host, host.swim.receive_datagram(data, source, self.now_us, self.wall(host)))

    def _exchange(self, asker: Host, exchange: Exchange) -> None:
        asker.octets += len(exchange.frame)
        swim = asker.swim
        over: list[bool] = []

        def end(frame: bytes | None, *, refused: bool = False) -> None:
            if over or not asker.up:
                return
            if asker.paused:
                asker.backlog.append(lambda: end(frame, refused=refused))
                return
            over.append(True)
            ended = swim.exchanged(
                exchange.number, frame, self.now_us, self.wall(asker), refused=refused
            )
            self._do(asker, ended)

        self.after(exchange.timeout_us, lambda: end(None))
        host = self.by_address.get(exchange.address)
        if host is None or not (
            self.passes(asker.member, host.member) and self.passes(host.member, asker.member)
        ):
            return
        if not host.up:
            self.after(2 * self.latency(), lambda: end(None, refused=True))
            return
        stream: Any = object()

        def answered(frame: bytes) -> None:
            host.octets += len(frame)
            self.after(self.latency(), lambda: end(frame))

        def arrives() -> None:
            if not host.up:
                return
            if host.paused:
                host.backlog.append(arrives)
                return
            self._streams[stream] = answered
            now_us, wall_us = self.now_us, self.wall(host)
            self._do(host, host.swim.receive_stream(stream, exchange.frame, now_us, wall_us))
            self._streams.pop(stream, None)

        self.after(2 * self.latency(), arrives)

    # ---------------------------------------------------------------- looking

    def running(self) -> list[Host]:
        """Return the hosts that are up, in order."""
        return [self.hosts[member] for member in sorted(self.hosts) if self.hosts[member].up]

    def state(self, seer: int, seen: int) -> State | None:
        """Return what one believes of another."""
        view = self.hosts[seer].swim.view(seen)
        return None if view is None else view.state

    def all_see(self, seen: int, *states: State | None) -> bool:
        """Whether every other running host believes one of these of that member."""
        others = (host for host in self.running() if host.member != seen)
        return all(self.state(host.member, seen) in states for host in others)

    def whole(self) -> bool:
        """Whether every running host holds exactly the running hosts for alive."""
        up = {host.member for host in self.running()}
        for host in self.running():
            alive = {
                view.record.member
                for view in host.swim.members()
                if view.state is State.ALIVE
            }  # fmt: skip
            live = {
                view.record.member
                for view in host.swim.members()
                if view.state is State.SUSPECT
            }  # fmt: skip
            if alive != up - {host.member} or live:
                return False
        return True

    def deaths(self, seen: int) -> int:
        """Return how often running hosts have called that member dead."""
        return sum(
            change.record.member == seen and change.state is State.DEAD
            for host in self.running()
            for _, change in host.changes
        )
