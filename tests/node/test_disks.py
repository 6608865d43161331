"""A node on a real disk that fills up: who writes is answered, who reads is served, it recovers."""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

import tests.store.processes  # noqa: F401 - it says what "mounts" are
from crdtmem.client import Client, connect
from crdtmem.errors import CrdtmemError, StoreError
from crdtmem.mending import PAUSE_MAXIMUM_US
from tests.capabilities import needs
from tests.node.processes import NodeProcess, crdtmem


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB."""
    needs("mounts")
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", str(disk)], check=True)
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


async def _fill(client: Client, acknowledged: list[int]) -> CrdtmemError:
    """Write until the node refuses."""
    space = client.session(timeout_ms=1_000).space("load")
    for number in range(10_000):
        try:
            await space.put(f"key-{number:06}", "x" * 5_000)
        except CrdtmemError as error:
            return error
        acknowledged.append(number)
    raise AssertionError("four megabytes hold fifty")


async def _broken(client: Client) -> dict[str, Any] | None:
    found: dict[str, Any] | None = (await client.call("status", ()))["broken"]
    return found


async def _use_the_full_disk(client: Client, node: NodeProcess, disk: Path) -> None:
    acknowledged: list[int] = []
    refusal = await _fill(client, acknowledged)
    assert isinstance(refusal, StoreError)
    assert "full" in refusal.message
    assert refusal.hint
    process = psutil.Process(node.pid)
    used_s = sum(process.cpu_times()[:2])
    for _ in range(3):
        # Whoever writes now is told at once, and reads are served.
        with pytest.raises(StoreError):
            await client.space("load").put("another", "x" * 50_000)
        assert await client.space("load").get("key-000000") == "x" * 5_000
        await asyncio.to_thread(process.cpu_percent, 1)
    busy_s = sum(process.cpu_times()[:2]) - used_s
    assert busy_s < 1, "it does not try all the time"
    shown = await asyncio.to_thread(crdtmem, "status", f"--node={node.url}")
    broken = await _broken(client)
    assert broken is not None
    assert broken["code"] == "store_full"
    assert broken["failures"] >= 1
    assert broken["since_us"] <= time.time() * 1e6
    assert "since" in shown.stdout
    (disk / "ballast").unlink()
    freed_s = time.monotonic()
    while True:
        try:
            await client.space("load").put("after", True)
            break
        except StoreError:
            assert time.monotonic() < freed_s + 2 * PAUSE_MAXIMUM_US / 1e6
    assert await _broken(client) is None
    keys = set(await client.space("load").keys())
    assert {f"key-{number:06}" for number in acknowledged} <= keys
    assert (await client.call("verify", (True,)))["problems"] == ()


def test_a_node_on_a_full_disk_answers_everyone_pauses_and_recovers(small_disk: Path) -> None:
    (small_disk / "ballast").write_bytes(b"x" * (2 << 20))
    with NodeProcess(small_disk, "--region=here") as node:

        async def scenario() -> None:
            async with await connect(node.url, retry=False) as client:
                await _use_the_full_disk(client, node, small_disk)

        asyncio.run(scenario())
        assert node.stop() == 0
