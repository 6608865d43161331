"""The life of a node: starting, stopping, and surroundings that fail under it."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest

from crdtmem.changes import Lagging
from crdtmem.client import Client, connect
from crdtmem.control_frames import ERROR, RESULT, encode_body, frame_of_messages
from crdtmem.errors import (
    Closed,
    CrdtmemError,
    LocalError,
    MalformedFrame,
    StoreError,
    Unreachable,
)
from crdtmem.limits import DEFAULT_LIMITS, Limits
from crdtmem.memory import Memory
from crdtmem.session import MemoryProtocol, Session
from crdtmem.synchronous import SyncMemory
from tests.node.processes import NodeFailed, NodeProcess
from tests.waiting import eventually


async def put_until_refused(session: Session, acknowledged: list[int]) -> CrdtmemError:
    """Write numbers until the node refuses one; return its refusal."""
    number = 0
    while True:
        try:
            await session.space("load").put(f"key-{number:06}", number)
        except CrdtmemError as error:
            return error
        acknowledged.append(number)
        number += 1


# ------------------------------------------------------------------ starting and stopping


def test_readiness_is_said_when_clients_can_connect(node: NodeProcess) -> None:
    assert node.ready["region"] == "here"
    assert node.ready["control"] == node.url
    assert int(node.ready["replica"], 16) > 0
    assert node.ready["pid"] == node.pid
    with SyncMemory.connect(node.ready["control"]) as memory:
        assert f"{memory.replica_id:016x}" == node.ready["replica"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_under_load_answers_everyone_and_keeps_all_that_was_acknowledged(
    node: NodeProcess, number: signal.Signals
) -> None:
    acknowledged: list[list[int]] = [[] for _ in range(8)]

    async def load() -> None:
        async with await connect(node.url, retry=False) as client:
            writers = [
                asyncio.create_task(put_until_refused(client.session(author=str(n)), mine))
                for n, mine in enumerate(acknowledged)
            ]
            await eventually(lambda: min(map(len, acknowledged)) > 20, "load")
            node.signal(number)
            refusals = await asyncio.gather(*writers)
            assert {type(refusal) for refusal in refusals} <= {Closed, Unreachable}

    asyncio.run(load())
    assert node.wait() == 0
    node.start()

    async def check() -> None:
        async with await connect(node.url) as client:
            keys = set(await client.space("load").keys())
            assert {f"key-{n:06}" for mine in acknowledged for n in mine} <= keys

    asyncio.run(check())


def test_a_client_sees_a_restart_as_a_pause(node: NodeProcess) -> None:
    async def scenario() -> None:
        async with await connect(node.url, timeout_ms=20_000) as client:
            space = client.space("a")
            await space.put("key", 1)
            assert node.stop() == 0
            writing = asyncio.ensure_future(space.put("key", 2))
            reading = asyncio.create_task(client.joined())
            await asyncio.to_thread(node.start)
            await writing
            await reading
            assert await space.get("key") == 2

    asyncio.run(scenario())


def test_a_node_that_is_gone_is_unreachable_within_the_deadline(node: NodeProcess) -> None:
    async def scenario() -> None:
        client = await connect(node.url, timeout_ms=300)
        node.kill()
        with pytest.raises(Unreachable) as caught:
            await client.space("a").put("key", 1)
        assert caught.value.hint
        with pytest.raises(Unreachable):
            await client.space("a").get("key")
        await client.close()
        with pytest.raises(Closed):
            await client.joined()
        with pytest.raises(Unreachable):
            await connect(node.url, timeout_ms=300)

    asyncio.run(scenario())


def test_the_stop_verb_stops(node: NodeProcess) -> None:
    async def stop() -> None:
        async with await connect(node.url) as client:
            assert await client.call("stop", ()) is True

    asyncio.run(stop())
    assert node.wait() == 0


def test_a_second_node_on_the_same_store_is_refused(node: NodeProcess, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(NodeFailed, match=str(node.pid)) as caught:
        NodeProcess(other, f"--store={node.store}").start()
    assert caught.value.code == 5
    with SyncMemory.connect(node.url) as memory:
        memory.space("a").put("key", 1)


def test_a_port_that_is_taken_is_said(node: NodeProcess, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(NodeFailed, match="cannot listen") as caught:
        NodeProcess(other, listen=node.ready["listen"]).start()
    assert caught.value.code == 2
    assert not (other / "node.sock").exists()


def test_plain_text_at_a_public_address_must_be_allowed(tmp_path: Path) -> None:
    with pytest.raises(NodeFailed, match="allow_public_listen") as caught:
        NodeProcess(tmp_path, "--advertise=127.0.0.1:7420", listen="0.0.0.0:0").start()
    assert caught.value.code == 2
    public = ["--set=allow_public_listen=true", "--advertise=127.0.0.1:7420"]
    with NodeProcess(tmp_path, *public, listen="0.0.0.0:0"):
        pass


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    # Root may write into any folder but one that the kernel makes up.
    closed = Path("/sys/kernel") if os.geteuid() == 0 else tmp_path / "closed"
    if closed.parent == tmp_path:
        closed.mkdir(mode=0o500)
    with pytest.raises(NodeFailed, match=str(closed)) as caught:
        NodeProcess(tmp_path, f"--store=sqlite:///{closed}/store.db").start()
    assert caught.value.code == 5
    with pytest.raises(NodeFailed, match="control socket") as caught:
        NodeProcess(tmp_path, f"--control-socket={closed}/node.sock").start()
    assert caught.value.code == 5


# ------------------------------------------------------------------ a disk that fails


def test_a_full_disk_stops_acknowledging_and_the_node_goes_on_when_there_is_room(
    node: NodeProcess,
) -> None:
    process = psutil.Process(node.pid)
    used = sum(path.stat().st_size for path in node.folder.glob("store.db*"))

    async def status(client: Client) -> dict[str, Any]:
        found: dict[str, Any] = await client.call("status", ())
        return found

    async def scenario() -> None:
        acknowledged: list[int] = []
        async with await connect(node.url, retry=False) as client:
            process.rlimit(resource.RLIMIT_FSIZE, (used + 100_000, resource.RLIM_INFINITY))
            refusal = await put_until_refused(client.session(), acknowledged)
            assert isinstance(refusal, StoreError)
            assert refusal.hint
            # While it is broken: reads are served, the reason is shown, writes are refused.
            space = client.space("load")
            assert await space.get("key-000000") == 0
            broken = (await status(client))["broken"]
            assert broken is None or broken["code"].startswith("store")
            limit = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
            process.rlimit(resource.RLIMIT_FSIZE, limit)

            async def mended() -> bool:
                return (await status(client))["broken"] is None

            for _ in range(1_000):
                if await mended():
                    break
                await asyncio.to_thread(process.cpu_percent, 0.01)
            await client.session().space("load").put("after", True)
            keys = set(await space.keys())
            assert {f"key-{number:06}" for number in acknowledged} <= keys
            assert (await client.call("verify", (True,)))["problems"] == ()

    asyncio.run(scenario())
    assert node.stop() == 0


# ------------------------------------------------------------------ clients


@pytest.mark.parametrize("remote", [False, True])
def test_a_feed_that_falls_behind_is_told_and_goes_on_out_of_the_log(
    node: NodeProcess, remote: bool
) -> None:
    async def scenario() -> None:
        memory: MemoryProtocol = (
            await connect(node.url) if remote else await Memory.open("memory:", tune_gc=False)
        )
        feed = await memory.changes(("flood",), limit_batches=2)
        # Nobody reads meanwhile: 40 MB of changes are more than all that lies between holds.
        rounds = 80 if remote else 4
        for number in range(rounds):
            async with memory.transaction() as opened:
                keys = [f"{number}-{index}-{'k' * 1_000}" for index in range(500)]
                opened.put_many(("flood",), dict.fromkeys(keys, number))
        dots: list[str] = []
        missed: list[int] = []
        while len(dots) < 500 * rounds:
            part = await feed.next()
            if isinstance(part, Lagging):
                missed.append(part.missed)
            else:
                dots += [change.dot for change in part.changes]
        assert len(set(dots)) == len(dots) == 500 * rounds
        assert feed.lagged == len(missed) > 0
        assert missed[0] >= 500
        assert opened.committed is not None
        assert feed.cursor >= opened.committed.context
        await feed.close()
        await memory.close()

    asyncio.run(scenario())


def test_the_synchronous_face_is_refused_on_an_event_loop(node: NodeProcess) -> None:
    async def scenario() -> None:
        with pytest.raises(LocalError, match="event loop"):
            SyncMemory.connect(node.url)

    asyncio.run(scenario())
    memory = SyncMemory.connect(node.url)

    async def misuse() -> None:
        with pytest.raises(LocalError, match="event loop"):
            memory.space("a")

    asyncio.run(misuse())
    memory.close()
    memory.close()
    with pytest.raises(Closed):
        memory.space("a")


def test_status_tells_what_an_operator_needs(node: NodeProcess) -> None:
    with SyncMemory.connect(node.url) as memory:
        memory.space("a", "b").put("key", 1)
        status = memory.call("status", ())
    assert status.keys() >= {
        "alarms", "broken", "clients", "conflicts", "context", "digest", "digests",
        "halted", "keys", "lag", "listen", "members", "node", "peers", "queues", "region",
        "replica", "store", "uptime_s", "vector", "version",
    }  # fmt: skip
    assert status["members"] == {node.ready["replica"]: "here"}
    assert status["vector"][node.ready["replica"]] >= 1
    assert set(status["digests"]) == {"a/b", "crdtmem"}
    assert status["store"]["size_bytes"] > 0
    json.dumps(status)


# ------------------------------------------------------------------ nodes that answer oddly


@pytest.mark.parametrize(
    "answer",
    [
        (1, 9, None),
        (1, ERROR, "no error"),
        (1, "result", None),
        ("1", RESULT, None),
        (0, ERROR, ("malformed_frame", "what", "do", {})),
    ],
)
def test_a_node_that_answers_nonsense_ends_every_call(tmp_path: Path, answer: Any) -> None:
    """Whatever comes instead of an answer, no call is left waiting."""
    path = tmp_path / "odd.sock"
    limits = {name: getattr(DEFAULT_LIMITS, name) for name in Limits.__slots__}
    greeting = {"limits": limits, "region": "odd", "replica": 1}

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1 << 16)
        writer.write(frame_of_messages([encode_body((1, RESULT, greeting))]))
        await reader.read(1 << 16)
        number = 2 if answer[0] == 1 else answer[0]
        writer.write(frame_of_messages([encode_body((number, *answer[1:]))]))
        await reader.read(1 << 16)
        writer.close()

    async def scenario() -> None:
        server = await asyncio.start_unix_server(serve, path)
        client = await connect(f"unix://{path}", timeout_ms=5_000, retry=False)
        calls = [client.joined(), client.spaces()]
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(outcome, MalformedFrame) for outcome in outcomes), outcomes
        await client.close()
        server.close()

    asyncio.run(scenario())


def test_a_plain_call_passes_over_progress(node: NodeProcess) -> None:
    async def scenario() -> None:
        async with await connect(node.url) as client:
            for part in range(40):
                async with client.transaction() as opened:
                    keys = [f"{part}-{number}" for number in range(2_000)]
                    opened.put_many(("many",), dict.fromkeys(keys, part))
            assert (await client.call("verify", (True,)))["problems"] == ()

    asyncio.run(scenario())
