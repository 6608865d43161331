"""Nodes that die and part at random under one client: its guarantees hold throughout."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from crdtmem.client import Client, connect
from crdtmem.errors import NotCovered, Unreachable
from tests.client.places import Pair, pair_of_nodes
from tests.waiting import eventually, eventually_answered

SPACE = ("chaos",)


class Witness:
    """What a client was told, and what it may therefore never be told again."""

    def __init__(self) -> None:
        self.written = 0
        """The last number that was given to the register."""
        self.acknowledged = 0
        self.read = 0
        self.counted = 0
        self.doubtful = 0
        self.reads = 0

    def check(self, value: int | None) -> None:
        """Read-your-writes, and monotonic reads."""
        found = value or 0
        assert found >= self.acknowledged, "an own write is missing"
        assert found >= self.read, "an older world was shown"
        self.read = found
        self.reads += 1


async def write(client: Client, witness: Witness, ended: asyncio.Event) -> None:
    """Write ever greater numbers, and count each of them; then read back."""
    space = client.session(author="one", timeout_ms=1_000).space(*SPACE)
    while not ended.is_set():
        witness.written += 1
        number = witness.written
        try:
            async with client.session(timeout_ms=1_000).transaction() as opened:
                opened.space(*SPACE).put("number", number)
                opened.space(*SPACE).counter("count").increment()
                opened.space(*SPACE).log("log").append(number)
        except (Unreachable, NotCovered) as error:
            witness.doubtful += isinstance(error, Unreachable)
        else:
            witness.acknowledged = number
            witness.counted += 1
        try:
            witness.check(await space.get("number"))
        except (Unreachable, NotCovered):
            continue


async def harm(pair: Pair, chance: random.Random, witness: Witness) -> None:
    """Kill a node and start it again, or part the two and join them, a few times."""

    async def more_reads(count: int) -> None:
        wanted = witness.reads + count
        await eventually(lambda: witness.reads > wanted, "reads")

    for _ in range(5):
        await more_reads(chance.randrange(30))
        what = chance.choice(["kill a", "kill b", "part", "part and kill a"])
        if "part" in what:
            pair.part()
            await more_reads(5)
        if "kill" in what:
            node = pair.a if what.endswith("a") else pair.b
            node.kill()
            await pair.start(node)
        pair.join()


@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_what_a_client_was_told_stays_so(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    witness = Witness()

    async def scenario(pair: Pair) -> None:
        ended = asyncio.Event()
        async with await connect(pair.a.url, pair.b.url, timeout_ms=1_500) as client:
            writing = asyncio.create_task(write(client, witness, ended))
            harming = asyncio.create_task(harm(pair, chance, witness))
            await asyncio.wait({writing, harming}, return_when=asyncio.FIRST_COMPLETED)
            ended.set()
            await harming
            await writing
        await eventually_answered(lambda: agreed(pair), "agreement of both")
        async with await connect(pair.a.url) as client:
            space = client.space(*SPACE)
            count = await space.counter("count").get()
            logged = await space.log("log").get()
        # What is in doubt may have been done, once.
        assert witness.counted <= count <= witness.counted + witness.doubtful
        assert len(logged) == len(set(logged)) == count
        assert witness.counted > 50, "too little was written"

    async def run() -> None:
        async with pair_of_nodes(tmp_path) as pair, asyncio.timeout(100):
            await scenario(pair)

    asyncio.run(run())


async def agreed(pair: Pair) -> bool:
    digests = set()
    for node in (pair.a, pair.b):
        async with await connect(node.url) as client:
            digests.add((await client.call("status", ()))["digest"])
    return len(digests) == 1
