"""A node beside an agent that comes and goes: what coming back takes, counted, not timed."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path

from crdtmem.causality import Context
from crdtmem.client import connect
from tests.capabilities import ROOT
from tests.client.places import Gate
from tests.node.processes import NodeProcess

AGENT = """
import asyncio, json, sys
from crdtmem import Context, connect

async def life():
    seen = Context.parse(sys.argv[2]) if sys.argv[2] else None
    async with await connect(sys.argv[1], seen=seen) as memory:
        counter = memory.space("agent").counter("lives")
        before = await counter.get()
        await counter.increment()
        print(json.dumps({"before": before, "seen": str(memory.seen)}))

asyncio.run(life())
"""


def test_coming_back_is_a_greeting_and_a_read(tmp_path: Path) -> None:
    """Nothing is fetched, replayed or waited for between the connection and the first value."""

    async def scenario() -> None:
        with NodeProcess(tmp_path, "--region=here") as node:
            async with await connect(node.url) as client:
                async with client.transaction() as opened:
                    opened.put_many(("agent",), {f"{n}": n for n in range(10_000)})
                seen = client.seen
            gate = Gate(tmp_path / "gate.sock", node.socket)
            await gate.open()
            async with await connect(gate.url) as client:
                assert await client.space("agent").get("9999") == 9_999
            assert gate.verbs == ["hello", "read"]
            # Who brings along what an earlier life has seen asks for it first.
            gate.verbs.clear()
            async with await connect(gate.url, seen=seen) as client:
                assert await client.space("agent").get("0") == 0
            assert gate.verbs == ["hello", "wait", "read"]
            assert gate.connections == 2
            # The very same node need not be asked, for what it published it has on disk.
            gate.verbs.clear()
            async with await connect(gate.url) as client:
                await client.space("agent").put("0", 1)
                gate.cut()
                assert await client.space("agent").get("0") == 1
            assert gate.verbs == ["hello", "commit", "hello", "read"]
            await gate.shut()

    asyncio.run(scenario())


def test_the_node_outlives_its_agents(tmp_path: Path) -> None:
    with NodeProcess(tmp_path, "--region=here") as node:
        pid = node.pid
        seen = ""
        for life in range(3):
            output = subprocess.run(
                [sys.executable, "-c", AGENT, node.url, seen],
                check=True,
                capture_output=True,
                text=True,
                cwd=ROOT,
                timeout=60,
            ).stdout
            told = json.loads(output)
            assert told["before"] == life
            assert Context.parse(told["seen"]) > Context.parse(seen) if seen else True
            seen = told["seen"]
        assert node.pid == pid
