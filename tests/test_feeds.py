"""Change feeds: each dot once, in causal order, or a gap that is said to be one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from itertools import product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.feed_worlds import Reader, World, small_feeds


@pytest.fixture(autouse=True, scope="module")
def _small() -> Iterator[None]:
    with small_feeds():
        yield


Step = Callable[[World, Reader, int], Awaitable[None]]


async def _write(world: World, reader: Reader, number: int) -> None:
    await world.write(1 + number % 5)


async def _elsewhere(world: World, reader: Reader, number: int) -> None:
    await world.elsewhere(number % 2, 1 + number % 4)


async def _join(world: World, reader: Reader, number: int) -> None:
    await world.join()


async def _install(world: World, reader: Reader, number: int) -> None:
    await world.install(number % 2)


async def _cut(world: World, reader: Reader, number: int) -> None:
    await world.cut()


async def _read(world: World, reader: Reader, number: int) -> None:
    await reader.read()


async def _ask(world: World, reader: Reader, number: int) -> None:
    reader.begin_to_read()
    # Let it get somewhere: to the store and back, or not.
    for _ in range(number % 3):
        await asyncio.sleep(0)


async def _give_up(world: World, reader: Reader, number: int) -> None:
    await reader.give_up()


async def _stumble(world: World, reader: Reader, number: int) -> None:
    world.stumble()


async def _resume(world: World, reader: Reader, number: int) -> None:
    await reader.connect(reader.cursors[-1 - number % len(reader.cursors)])


async def _restart(world: World, reader: Reader, number: int) -> None:
    await reader.disconnect()
    await world.restart()
    await reader.connect(reader.cursors[-1])


STEPS: dict[str, Step] = {
    "write": _write,
    "elsewhere": _elsewhere,
    "join": _join,
    "install": _install,
    "cut": _cut,
    "read": _read,
    "ask": _ask,
    "give up": _give_up,
    "stumble": _stumble,
    "resume": _resume,
    "restart": _restart,
}


async def _play(limit_batches: int, steps: list[tuple[str, int]]) -> Reader:
    world = await World.open()
    reader = Reader(world, limit_batches)
    try:
        await reader.connect(reader.cursors[0])
        for name, number in steps:
            await STEPS[name](world, reader, number)
        await reader.drain()
        assert world.memory.runtime.defect is None
    finally:
        await reader.disconnect()
        await world.memory.close()
    return reader


_steps = st.lists(st.tuples(st.sampled_from(sorted(STEPS)), st.integers(0, 9)), max_size=25)


@given(st.integers(1, 4), _steps)
@settings(max_examples=150)
def test_each_dot_is_told_once_after_its_causes_or_a_gap_is_said(
    limit_batches: int, steps: list[tuple[str, int]]
) -> None:
    asyncio.run(_play(limit_batches, steps))


def _exhaust(length: int) -> int:
    """Play every sequence of steps of one length, with a queue of one batch."""
    played = 0
    for names in product(("write", "elsewhere", "join", "install", "cut", "read"), repeat=length):
        numbered: list[tuple[str, int]] = [(name, index) for index, name in enumerate(names)]
        asyncio.run(_play(1, numbered))
        played += 1
    return played


def test_every_sequence_of_three_steps() -> None:
    assert _exhaust(3) == 6**3


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_sequence_of_five_steps() -> None:
    assert _exhaust(5) == 6**5


def _played(*names: Any, limit_batches: int = 2) -> Reader:
    return asyncio.run(_play(limit_batches, [(name, 0) for name in names]))


def test_the_oracle_sees_lags_gaps_and_resumptions() -> None:
    """A test of the test: without these the property would be of little worth."""
    assert _played("write", "write").lagged == 0
    assert _played("write", "write", "write", limit_batches=1).lagged == 0
    assert _played("write", "read", "ask", *["write"] * 5).lagged == 1
    assert _played("elsewhere", "install").gaps
    assert _played("write", "cut", "write", "resume").gaps
    assert not _played("write", "elsewhere", "join", "restart", "write").gaps


def test_a_look_into_the_log_that_fails_does_not_count_as_its_end() -> None:
    """Else what was dropped before the queue was armed again is told after what builds on it."""
    reader = _played(
        *("write", "write", "read", "read", "write", "stumble", "read"),
        *("elsewhere", "join", "read"),
        limit_batches=1,
    )
    assert not reader.gaps
