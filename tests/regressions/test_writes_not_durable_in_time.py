"""A write that was not durable enough in time was forgotten by those who had written it.

It stands, and says so; but neither its session's context nor what its client had seen held
it. After a change of node its own author could read a world without it. And where it had
been asked again, because the first node was lost, it was called refused.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from crdtmem import Context, connect
from crdtmem.durability import DurabilityWaits
from crdtmem.errors import DurabilityTimeout
from crdtmem.session import MemoryProtocol
from tests.client.places import Gate
from tests.server.serving import Served, run, serving
from tests.waiting import eventually


class _Epoch:
    """Two regions, in which nothing arrives."""

    def regions(self) -> set[str]:
        return {"eu", "us"}

    def regions_reached(self, _: object) -> set[str]:
        return {"eu"}


def _cut_off(served: Served) -> str:
    """Let a node reach no other region; return its control socket's URL."""
    served.node.memory.engine.durability = DurabilityWaits(_Epoch(), "eu")  # type: ignore[arg-type]
    return f"unix://{served.node.settings.control_socket}"


@pytest.mark.parametrize("remote", [False, True])
def test_what_is_not_durable_in_time_has_been_seen(tmp_path: Path, *, remote: bool) -> None:
    async def write(memory: MemoryProtocol) -> None:
        session = memory.session(durability="all", timeout_ms=20)
        with pytest.raises(DurabilityTimeout) as late:
            await session.space("team").put("city", "Rome")
        wrote = Context.parse(late.value.details["context"])
        assert {memory.replica_id} <= set(wrote.vector)
        assert wrote <= session.context

    async def scene(served: Served) -> None:
        url = _cut_off(served)
        if not remote:
            await write(served.node.memory)
            return
        async with await connect(url) as client:
            await write(client)
            assert await served.node.memory.joined() <= client.seen

    run(tmp_path, scene)


def test_what_was_asked_again_and_is_late_is_not_called_refused(tmp_path: Path) -> None:
    async def scene(first: Served) -> None:
        (tmp_path / "second").mkdir()
        async with serving(tmp_path / "second") as second:
            path = Path(_cut_off(first).removeprefix("unix://"))
            gate = Gate(tmp_path / "gate", path)
            await gate.open()
            async with await connect(gate.url, _cut_off(second)) as client:
                gate.swallowing = True
                session = client.session(durability="all", timeout_ms=20)
                put = asyncio.ensure_future(session.space("team").put("city", "Rome"))
                await eventually(lambda: "commit" in gate.verbs, "a commit on its way")
                await gate.shut()
                with pytest.raises(DurabilityTimeout):
                    await put
                assert await second.node.memory.joined() <= client.seen

    run(tmp_path, scene)
