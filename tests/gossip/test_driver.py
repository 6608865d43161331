"""The driver: order, timers, lateness, events, defects; and real members on sockets."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from random import Random
from typing import Any

import pytest
import uvloop

from gossip.driver import Driver
from gossip.effects import (
    Answer,
    Deliver,
    Effect,
    Exchange,
    MemberChanged,
    Remember,
    SendDatagram,
    Warn,
)
from gossip.errors import TransportError
from gossip.keyring import Keyring
from gossip.messages import State
from gossip.transport.memory import MemoryTransport, Network
from gossip.transport.sockets import Sockets
from tests.gossip.members import QUICK, LiveMember, plain_streams
from tests.waiting import eventually


def run(body: Callable[[], Awaitable[None]], *, loop: str = "asyncio") -> None:
    async def bounded() -> None:
        async with asyncio.timeout(50):
            await body()

    factory = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}[loop]
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(bounded())


class Script:
    """A machine that notes its inputs and returns what it was given to return."""

    def __init__(self) -> None:
        self.inputs: list[tuple[Any, ...]] = []
        self.effects: list[Effect] = []
        self.deadline_us: int | None = None
        self.late_us: list[int] = []

    def _take(self) -> list[Effect]:
        effects, self.effects = self.effects, []
        return effects

    def start(self, now_us: int, wall_us: int, seeds: Sequence[str]) -> list[Effect]:
        self.inputs.append(("start", *seeds))
        return self._take()

    def receive_datagram(self, data: bytes, source: str, now_us: int, wall_us: int) -> list[Effect]:
        self.inputs.append(("datagram", data))
        return self._take()

    def receive_stream(self, stream: Any, frame: bytes, now_us: int, wall_us: int) -> list[Effect]:
        self.inputs.append(("frame", frame))
        return [] if frame == b"refuse" else [Answer(stream, b"re: " + frame)]

    def exchanged(
        self, number: int, frame: bytes | None, now_us: int, wall_us: int, *, refused: bool = False
    ) -> list[Effect]:
        self.inputs.append(("exchanged", number, frame, refused))
        return self._take()

    def handle_timeout(self, now_us: int, wall_us: int) -> list[Effect]:
        assert self.deadline_us is not None
        self.late_us.append(now_us - self.deadline_us)
        self.inputs.append(("timeout",))
        self.deadline_us = None
        return self._take()

    def next_deadline_us(self) -> int | None:
        return self.deadline_us

    def leave(self, now_us: int, wall_us: int) -> list[Effect]:
        self.inputs.append(("leave",))
        return self._take()


async def opened(network: Network, **more: Any) -> Driver:
    driver = Driver(MemoryTransport(network), **more)
    await driver.open("memory:0")
    return driver


def test_effects_are_carried_out_in_order_and_exchanges_reported_once() -> None:
    async def body() -> None:
        network = Network(Random(1))
        seen: list[Effect] = []
        driver, other = await opened(network, on_effect=seen.append), await opened(network)
        machine, far = Script(), Script()
        other.start(far)
        first, last = Deliver(1, b"first"), Deliver(1, b"last")
        machine.effects = [
            first,
            SendDatagram(other.address, b"one"),
            Exchange(7, other.address, b"hello", 1_000_000),
            Exchange(8, other.address, b"refuse", 1_000_000),
            Exchange(9, "memory:9", b"nobody", 1_000_000),
            SendDatagram(other.address, b"two"),
            last,
        ]
        driver.start(machine, ["seed:1"])
        assert machine.inputs[0] == ("start", "seed:1")
        assert seen == [first, last]
        await eventually(lambda: len(machine.inputs) == 4, "three exchanges")
        assert set(machine.inputs[1:]) == {
            ("exchanged", 7, b"re: hello", False),
            ("exchanged", 8, None, False),
            ("exchanged", 9, None, True),
        }
        datagrams = [what for what in far.inputs if what[0] == "datagram"]
        assert datagrams == [("datagram", b"one"), ("datagram", b"two")]
        await driver.close()
        await other.close()

    run(body)


def test_the_timer_follows_the_nearest_deadline() -> None:
    async def body() -> None:
        driver = await opened(Network(Random(1)))
        machine = Script()
        now_us = driver._steady()
        machine.deadline_us = now_us + 3_600_000_000
        driver.start(machine)

        def sooner(_now_us: int, _wall_us: int) -> list[Effect]:
            machine.deadline_us = driver._steady() + 5_000
            return []

        driver.command(sooner)
        await eventually(lambda: ("timeout",) in machine.inputs, "timer")
        # Never early: a machine that is woken too soon would be woken for nothing.
        assert machine.late_us[0] >= 0
        await driver.close()

    run(body)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_late_timer_comes_after_what_has_arrived(loop: str) -> None:
    """The answers wait in the socket while the loop is busy: they are read before the timer."""

    async def body() -> None:
        driver, other = Driver(Sockets(plain_streams)), Driver(Sockets(plain_streams))
        await driver.open("127.0.0.1:0")
        await other.open("127.0.0.1:0")
        machine, far = Script(), Script()
        machine.deadline_us = driver._steady() + 20_000
        far.effects = [SendDatagram(driver.address, bytes([number])) for number in range(20)]
        driver.start(machine)
        other.start(far)
        busy_until_us = driver._steady() + 150_000
        while driver._steady() < busy_until_us:
            continue
        await eventually(lambda: ("timeout",) in machine.inputs, "timer")
        assert machine.inputs.index(("timeout",)) == 21, "start, twenty datagrams, timer"
        assert machine.late_us[0] > 50_000, "and the machine is told how late it is"
        assert driver.lag_maximum_us > 50_000
        assert driver.counters["late timers"] == 1
        await driver.close()
        await other.close()

    run(body, loop=loop)


def test_a_flood_does_not_hold_a_late_timer_back_for_ever() -> None:
    async def body() -> None:
        network = Network(Random(1))
        driver = await opened(network)
        machine = Script()
        machine.deadline_us = driver._steady() - 1_000_000
        driver.start(machine)
        while ("timeout",) not in machine.inputs:
            driver.on_datagram(b"more", "x:1")
            await asyncio.sleep(0)
        assert machine.inputs.count(("datagram", b"more")) < 1_000
        await driver.close()

    run(body)


def test_events_are_bounded_and_end_with_the_driver() -> None:
    async def body() -> None:
        driver = await opened(Network(Random(1)), events=3)
        driver.start(Script())
        driver.command(lambda _now, _wall: [Deliver(number, b"") for number in range(5)])
        assert driver.counters["events dropped"] == 2
        seen = []
        async for event in driver.events():
            seen.append(event)
            if len(seen) == 3:
                asyncio.get_running_loop().call_soon(asyncio.ensure_future, driver.close())
        assert seen == [Deliver(number, b"") for number in (2, 3, 4)]
        await driver.wait_closed()

    run(body)


def test_a_callback_may_give_commands() -> None:
    async def body() -> None:
        seen: list[Effect] = []

        def happened(effect: Effect) -> None:
            seen.append(effect)
            if effect == Deliver(1, b""):
                driver.command(lambda _now, _wall: [Deliver(3, b"")])

        driver = await opened(Network(Random(1)), on_effect=happened)
        machine = Script()
        machine.effects = [Deliver(1, b""), Deliver(2, b"")]
        driver.start(machine)
        assert seen == [Deliver(1, b""), Deliver(2, b""), Deliver(3, b"")]
        await driver.close()

    run(body)


def test_a_defect_of_the_machine_stops_the_driver() -> None:
    class Broken(Script):
        def receive_datagram(
            self, data: bytes, source: str, now_us: int, wall_us: int
        ) -> list[Effect]:
            raise ZeroDivisionError

    async def body() -> None:
        driver = await opened(Network(Random(1)))
        machine = Broken()
        driver.start(machine)
        with pytest.raises(ZeroDivisionError):
            driver.on_datagram(b"?", "x:1")
        assert driver.closed
        with pytest.raises(ZeroDivisionError):
            await driver.wait_closed()
        with pytest.raises(ZeroDivisionError):
            async for _ in driver.events():
                pass
        driver.on_datagram(b"?", "x:1")
        assert driver.counters["datagrams ignored"] == 1
        await driver.close()

    run(body)


def test_nothing_is_told_to_the_machine_before_the_start_or_after_the_close() -> None:
    async def body() -> None:
        network = Network(Random(1))
        driver, other = await opened(network), MemoryTransport(network)
        await other.start("memory:0", Driver(other))
        other.send(driver.address, b"early")
        await eventually(lambda: driver.counters["datagrams ignored"], "datagram")
        assert (await other.exchange(driver.address, b"early", 1_000_000)).frame is None
        machine = Script()
        machine.effects = [Exchange(1, "memory:9999", b"", 1_000_000)]
        driver.start(machine)
        await driver.close()
        driver.on_datagram(b"late", "x:1")
        driver.command(lambda _now, _wall: [Warn("x", "x")])
        assert machine.inputs == [("start",)]
        with pytest.raises(TransportError):
            Driver(other).start(Script())
        await other.close()

    run(body)


# ------------------------------------------------------------------ real members


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_three_members_meet_one_is_killed_found_dead_and_comes_back(loop: str) -> None:
    async def body() -> None:
        ann = await LiveMember(1).start()
        bob = await LiveMember(2).start([ann.address])
        eve = await LiveMember(3).start([ann.address])
        trio = [ann, bob, eve]
        await eventually(lambda: all(one.sees(*trio) for one in trio), "a mesh of three")

        # As by kill -9: not a word, and its sockets are gone.
        await eve.driver.close()
        await eventually(
            lambda: ann.state(eve) is State.DEAD and bob.state(eve) is State.DEAD, "its death"
        )
        assert ann.changes(eve)[-2:] == [State.SUSPECT, State.DEAD]

        again = await eve.again().start(listen=eve.address)
        trio = [ann, bob, again]
        await eventually(lambda: all(one.sees(*trio) for one in trio), "its next life")
        assert ann.changes(eve)[-1] is State.ALIVE

        await again.driver.leave()
        await eventually(
            lambda: ann.state(again) is State.LEFT and bob.state(again) is State.LEFT, "farewell"
        )
        for one in (ann, bob):
            assert one.driver.defect is None
            await one.driver.close()

    run(body, loop=loop)


def test_two_regions_over_sealed_sockets_and_a_stranger() -> None:
    async def body() -> None:
        key, other_key = bytes(range(16)), bytes(range(32))
        eu = [LiveMember(number, ring=Keyring([key])) for number in (1, 2, 3)]
        us = [LiveMember(number, region="us", ring=Keyring([key])) for number in (11, 12)]
        first = await eu[0].start()
        for member in (*eu[1:], *us):
            await member.start([first.address])
        members = [*eu, *us]
        await eventually(lambda: all(one.sees(*members) for one in members), "two regions")
        stranger = await LiveMember(66, ring=Keyring([other_key])).start([first.address])
        plain = await LiveMember(67).start([first.address])
        refused = "datagrams refused: AuthenticationFailed"
        dropped = "streams dropped: AuthenticationFailed"
        await eventually(lambda: first.mesh.counters[refused] >= 4, "refused datagrams")
        await eventually(lambda: first.transport.counters[dropped], "refused streams")
        for one in members:
            assert one.state(stranger) is None
            assert one.state(plain) is None
        assert stranger.mesh.members() == []
        assert plain.mesh.members() == []
        for one in (*members, stranger, plain):
            await one.driver.close()

    run(body)


def test_datagrams_blocked_is_degraded_and_not_dead() -> None:
    async def body() -> None:
        network = Network(Random(5), latency_s=0.001)
        trio = [LiveMember(number, transport=MemoryTransport(network)) for number in (1, 2, 3)]
        await trio[0].start(listen="memory:0")
        for member in trio[1:]:
            await member.start([trio[0].address], listen="memory:0")
        await eventually(lambda: all(one.sees(*trio) for one in trio), "a mesh of three")
        network.datagrams_blocked = True

        def degraded(one: LiveMember) -> bool:
            views = one.mesh.members()
            return len(views) == 2 and all(view.degraded for view in views)

        await eventually(lambda: all(degraded(one) for one in trio), "degraded members")
        assert all(State.DEAD not in one.changes(other) for one in trio for other in trio)
        network.datagrams_blocked = False
        await eventually(lambda: not any(degraded(one) for one in trio), "recovery")
        for one in trio:
            await one.driver.close()

    run(body)


def test_a_busy_loop_makes_nobody_look_dead() -> None:
    """One process is stopped for several probe intervals: it accuses nobody when it runs on."""

    async def body() -> None:
        trio = [LiveMember(number) for number in (1, 2, 3)]
        await trio[0].start()
        for member in trio[1:]:
            await member.start([trio[0].address])
        await eventually(lambda: all(one.sees(*trio) for one in trio), "a mesh of three")
        told = [len(one.effects) for one in trio]
        busy_until_us = trio[0].driver._steady() + 5 * QUICK.probe_interval_us
        while trio[0].driver._steady() < busy_until_us:
            continue
        await eventually(
            lambda: all(one.driver.counters["late timers"] for one in trio), "late timers"
        )
        probes = [one.mesh.pool_counters()["region:eu"].probes for one in trio]
        await eventually(
            lambda: all(
                one.mesh.pool_counters()["region:eu"].probes > before + 5
                for one, before in zip(trio, probes, strict=True)
            ),
            "probes afterwards",
        )
        for one, before in zip(trio, told, strict=True):
            changes = [what for what in one.effects[before:] if isinstance(what, MemberChanged)]
            assert [what for what in changes if what.state is State.DEAD] == []
            await one.driver.close()

    run(body)


def test_peers_are_remembered_for_the_next_life() -> None:
    async def body() -> None:
        ann = await LiveMember(1).start()
        bob = await LiveMember(2).start([ann.address])
        await eventually(lambda: ann.sees(bob) and bob.sees(ann), "a mesh of two")
        await eventually(lambda: bob.remembered, "remembered peers", timeout_s=45)
        assert any(isinstance(effect, Remember) for effect in bob.effects)
        await bob.driver.close()
        again = await bob.again().start()
        await eventually(lambda: ann.sees(again) and again.sees(ann), "a mesh without seeds")
        await ann.driver.close()
        await again.driver.close()

    run(body)
