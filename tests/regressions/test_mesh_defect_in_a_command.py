"""What a callback raised while the effects of a *command* were carried out was thrown at whoever
gave the command; the driver went on, with the rest of the effects left for the next input."""

from __future__ import annotations

import asyncio
from random import Random

import pytest

from gossip.driver import Driver
from gossip.effects import Effect, Warn
from gossip.transport.memory import MemoryTransport, Network


class Quiet:
    """A machine that wants nothing."""

    def start(self, now_us: int, wall_us: int, seeds: object) -> list[Effect]:
        return []

    receive_datagram = receive_stream = exchanged = start

    def handle_timeout(self, now_us: int, wall_us: int) -> list[Effect]:
        return []

    leave = handle_timeout

    def next_deadline_us(self) -> int | None:
        return None


def _refuse(_effect: Effect) -> None:
    raise ZeroDivisionError


def _no_such_thing(_now_us: int, _wall_us: int) -> list[Effect]:
    raise KeyError("no such thing")


def test_what_a_callback_raises_at_a_command_stops_the_driver() -> None:
    async def body() -> None:
        driver = Driver(MemoryTransport(Network(Random(1))), on_effect=_refuse)
        await driver.open("memory:0")
        driver.start(Quiet())  # type: ignore[arg-type]
        with pytest.raises(KeyError):
            driver.command(_no_such_thing)
        assert driver.defect is None, "what the command itself raises is its caller's"
        with pytest.raises(ZeroDivisionError):
            driver.command(lambda _now, _wall: [Warn("one", "one"), Warn("two", "two")])
        assert driver.closed
        assert isinstance(driver.defect, ZeroDivisionError)
        await driver.close()

    asyncio.run(body())
