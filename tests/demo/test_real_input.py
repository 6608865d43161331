"""Real input, into three linked nodes at once: conversations, agent runs, a text of two."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from crdtmem.config import load_settings
from crdtmem.crdt import DATATYPES
from crdtmem.editing import ROOT, read_editing, replay
from crdtmem.importer import import_events, read_events
from crdtmem.memory import Memory
from crdtmem.node import Node
from tests.waiting import eventually

pytestmark = pytest.mark.needs_data

REGIONS = ("eu-west", "us-east", "ap-south")
SPACE = ("imported",)


@asynccontextmanager
async def three_regions(folder: Path) -> AsyncIterator[list[Memory]]:
    """Three nodes in this process, with real stores and real sockets between them."""
    nodes: list[Node] = []
    try:
        for region in REGIONS:
            flags = {
                "region": region,
                "store": f"sqlite:///{folder / region}.db",
                "control_socket": str(folder / region),
                "listen": "127.0.0.1:0",
                "peers": ",".join(node.peers.address for node in nodes),
                "mesh": {"plain_text": True},
            }
            nodes.append(await Node.start(load_settings(None, {}, flags), tune_gc=False))
            await eventually(
                lambda: all(len(node.memory.engine.epoch.members) == len(nodes) for node in nodes),
                "membership of all that have started",
            )
        yield [node.memory for node in nodes]
        assert [list(node.runtime.alarms) for node in nodes] == [[], [], []]
    finally:
        for node in nodes:
            await node.stop()


async def agree(memories: list[Memory]) -> None:
    states = [memory.engine.replica.state for memory in memories]
    await eventually(
        lambda: len({frozenset(state.vector.items()) for state in states}) == 1, "equal vectors"
    )
    assert len({state.digest() for state in states}) == 1


def held(memory: Memory) -> int:
    """Return how many updates a replica holds of the document."""
    table = memory.engine.replica.state.find(("texts",), DATATYPES["document"].code)
    assert table is not None
    return len(table.slots["friends"])


def test_every_recorded_file_goes_into_different_regions_at_once(
    shared_data: Path, short_folder: Path
) -> None:
    paths = sorted(shared_data.glob("locomo/*.jsonl"))
    paths += sorted(shared_data.glob("agent_runs/*.jsonl.gz"))
    spoken: Counter[tuple[str, str]] = Counter()
    called: Counter[str] = Counter()
    facts: dict[str, str] = {}
    for path in paths:
        for event in read_events(path):
            if event.shape == "turn":
                spoken[event.source, event.body["speaker"]] += 1
                facts[f"fact:{event.source}:{event.body['id']}"] = event.body["text"]
            for call in event.body.get("tool_calls") or ():
                called[call["name"]] += 1

    async def write(memory: Memory, share: list[Path]) -> None:
        for path in share:
            await import_events(memory, read_events(path), SPACE)

    async def scenario() -> None:
        async with three_regions(short_folder) as memories:
            async with asyncio.TaskGroup() as group:
                for number, memory in enumerate(memories):
                    group.create_task(write(memory, paths[number::3]))
            await agree(memories)
            for memory in memories:
                space = memory.space(*SPACE)
                for (source, speaker), count in spoken.items():
                    assert await space.counter(f"turns:{source}:{speaker}").get() == count
                for tool, count in called.items():
                    assert await space.counter(f"tool_calls:airline:{tool}").get() == count
                assert set(await space.keys("map")) == facts.keys()
                for key, text in facts.items():
                    assert (await space.map(key).get())["text"] == text

    asyncio.run(scenario())


@pytest.mark.slow
def test_two_replicas_replay_a_text_that_two_people_wrote_at_once(
    shared_data: Path, short_folder: Path
) -> None:
    trace = read_editing(shared_data / "editing" / "friendsforever.json.gz")

    async def scenario() -> None:
        async with three_regions(short_folder) as memories:
            contexts = await replay(trace, memories[:2], ("texts",), "friends")
            for memory in memories:
                for context in contexts:
                    await memory.wait_for(context)
                shown = await memory.space("texts").document("friends").get()
                assert shown == {ROOT: trace.end_content}
            await eventually(
                lambda: all(held(memory) < len(trace.edits) for memory in memories),
                "compaction of the updates that everyone has",
            )
            await agree(memories)
            for memory in memories:
                shown = await memory.space("texts").document("friends").get()
                assert shown == {ROOT: trace.end_content}

    asyncio.run(scenario())
