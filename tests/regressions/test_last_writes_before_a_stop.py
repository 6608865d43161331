"""What a node acknowledged last before it stopped stayed with it until it was started again.

Its peers hung up at its farewell, and it dropped what was still in the buffers of its streams.
"""

from __future__ import annotations

import asyncio
import secrets
from pathlib import Path

from tests.node.test_meshing import cluster, run
from tests.waiting import eventually

_VALUE_BYTES = 500_000
_VALUES = 12


def test_a_node_that_stops_still_hands_on_what_it_wrote_last(tmp_path: Path) -> None:
    async def play() -> None:
        async with cluster(tmp_path, 2) as nodes:
            one, two = nodes
            await eventually(lambda: two.peers._streams, "stream")
            transports = [stream._transport for stream in two.peers._streams.values()]
            for transport in transports:
                transport.pause_reading()
            space = one.memory.space("team")
            for number in range(_VALUES):
                await space.put(f"key-{number}", secrets.token_bytes(_VALUE_BYTES))
            context = await one.memory.joined()
            (stream,) = one.peers._streams.values()
            await eventually(lambda: stream.sent_bytes > _VALUES * _VALUE_BYTES, "sending")
            assert stream._transport.get_write_buffer_size() > 0, "all of it is in the kernel"
            stopping = asyncio.get_running_loop().create_task(one.stop())
            # Only when it has nothing left to do but to end its streams is the rest taken.
            await eventually(lambda: stream.error, "end of the stream")
            for transport in transports:
                transport.resume_reading()
            await stopping
            await two.memory.wait_for(context, timeout_ms=20_000)
            assert len(await two.memory.space("team").get("key-0")) == _VALUE_BYTES

    run(play)
