"""``kill -9`` under load: what was acknowledged is there, and no dot is ever used twice."""

from __future__ import annotations

import asyncio
import random
import signal
from itertools import count
from pathlib import Path

import pytest

from crdtmem.client import Client, connect
from crdtmem.errors import Closed, Unreachable
from crdtmem.replica import Committed
from crdtmem.session import Session
from tests.node.processes import NodeProcess

WRITERS = 8
KEYS_PER_WRITER = 50
"""Keys are written again and again, so that a thousand lives do not grow the state."""

DOTS_PER_WRITE = 2
SPACE = ("killed",)


class Witness:
    """What was acknowledged, over all lives of a node."""

    def __init__(self) -> None:
        self.acknowledged: dict[str, int] = {}
        self.dots: dict[int, str] = {}
        self.values = count(1)

    def note(self, key: str, value: int, committed: Committed) -> None:
        """A write was acknowledged: its dots are new, and beyond all that came before."""
        assert not committed.repeated
        for dot in range(committed.first, committed.first + committed.count):
            assert dot not in self.dots, f"{key} has the dot of {self.dots[dot]}"
            self.dots[dot] = key
        self.acknowledged[key] = value

    async def check(self, client: Client, last: int) -> None:
        """What was acknowledged is there, or what its writer wrote after it; each counts once."""
        space = client.space(*SPACE)
        keys = list(self.acknowledged)[-last:]
        found = await asyncio.gather(*(space.get(key) for key in keys))
        lost = [
            key for key, value in zip(keys, found, strict=True) if value < self.acknowledged[key]
        ]
        assert not lost
        total = await space.counter("writes").get()
        assert total >= len(self.dots) // DOTS_PER_WRITE


async def write(session: Session, witness: Witness, label: str) -> None:
    """Write ever greater values, as fast as answers come, until the node is gone."""
    for number in witness.values:
        key = f"{label}-{number % KEYS_PER_WRITER}"
        try:
            async with session.transaction() as opened:
                space = opened.space(*SPACE)
                space.put(key, number)
                space.counter("writes").increment()
        except (Unreachable, Closed):
            return
        assert opened.committed is not None
        witness.note(key, number, opened.committed)


async def one_life(node: NodeProcess, witness: Witness, delay_s: float) -> None:
    """Start, check what earlier lives acknowledged, write, kill."""
    node.start()
    client = await connect(node.url, retry=False)
    await witness.check(client, 500)
    writers = [
        asyncio.create_task(write(client.session(author=f"w{number}"), witness, f"{number}"))
        for number in range(WRITERS)
    ]
    await asyncio.wait(writers, timeout=delay_s)
    node.signal(signal.SIGKILL)
    await asyncio.gather(*writers)
    await client.close()
    node.wait()


async def many_lives(node: NodeProcess, lives: int, seed: int) -> None:
    witness = Witness()
    chance = random.Random(seed)
    for _ in range(lives):
        await one_life(node, witness, chance.uniform(0, 0.15))
    node.start()
    async with await connect(node.url) as client:
        await witness.check(client, len(witness.acknowledged))
        assert (await client.call("verify", (True,)))["problems"] == ()
    assert node.stop() == 0
    assert len(witness.dots) > 10 * DOTS_PER_WRITE * lives, "the load was no load"


def test_20_kills_lose_nothing_acknowledged_and_use_no_dot_twice(tmp_path: Path) -> None:
    asyncio.run(many_lives(NodeProcess(tmp_path), 20, seed=1))


@pytest.mark.slow
@pytest.mark.timeout(1_800)
def test_1000_kills_lose_nothing_acknowledged_and_use_no_dot_twice(tmp_path: Path) -> None:
    # Small checkpoints, so that many kills meet one that is being written.
    node = NodeProcess(tmp_path, "--set=checkpoints.log_bytes=64KiB")
    asyncio.run(many_lives(node, 1_000, seed=2))


def test_a_client_that_retries_counts_each_increment_once(tmp_path: Path) -> None:
    """Kills between commit and answer leave the client in doubt; its operation id settles it."""
    each = 150

    async def scenario() -> None:
        node = NodeProcess(tmp_path).start()
        client = await connect(node.url, timeout_ms=20_000)
        counter = client.space(*SPACE).counter("exact")

        async def count() -> None:
            for _ in range(each):
                await counter.increment()

        counting = [asyncio.create_task(count()) for _ in range(4)]
        chance = random.Random(3)
        for _ in range(4):
            await asyncio.wait(counting, timeout=chance.uniform(0.02, 0.1))
            node.kill()
            node.start()
        await asyncio.gather(*counting)
        assert await counter.get() == 4 * each
        await client.close()
        node.kill()

    asyncio.run(scenario())
