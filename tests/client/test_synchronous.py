"""The client without ``await``: from threads, with time-outs, over nodes that are lost."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from crdtmem import connect_sync
from crdtmem.causality import Context
from crdtmem.errors import Closed, ConfigError, CrdtmemError, NotCovered, Unreachable
from crdtmem.synchronous import SyncMemory
from tests.client.places import pair_of_nodes
from tests.node.processes import NodeProcess
from tests.waiting import wait_until

SPACE = ("threads",)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    """One node for all tests that do not harm it."""
    with NodeProcess(tmp_path_factory.mktemp("node"), "--region=here") as started:
        yield started


def in_thread(call: Callable[[], object]) -> tuple[threading.Thread, list[BaseException]]:
    """Make a call in another thread, and keep what it raises."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            call()
        except CrdtmemError as error:
            raised.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread, raised


def test_threads_share_one_connection(node: NodeProcess) -> None:
    with connect_sync(node.url) as memory:
        counter = memory.space(*SPACE).counter("n")
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(lambda _: counter.increment(), range(200)))
        assert counter.get() == 200
        assert memory.get_many(SPACE, ["absent"]) == [None]
        assert memory.seen.vector


def test_threads_go_on_at_the_other_node(tmp_path: Path) -> None:
    def work(urls: tuple[str, str], kill: Callable[[], None]) -> int:
        with connect_sync(*urls) as memory:
            counter = memory.space(*SPACE).counter("n")
            done: list[int] = []

            def count(_: int) -> None:
                for _ in range(50):
                    counter.increment()
                    done.append(1)

            with ThreadPoolExecutor(4) as threads:
                counting = threads.map(count, range(4))
                wait_until(lambda: len(done) > 50, "increments")
                memory.wait_for(memory.seen)
                kill()
                list(counting)
            return int(counter.get())

    async def run() -> None:
        async with pair_of_nodes(tmp_path) as pair:
            urls = pair.a.url, pair.b.url

            # It is back soon: what only it holds has been seen.
            def kill() -> None:
                pair.a.kill()
                pair.a.start()

            assert await asyncio.to_thread(work, urls, kill) == 200

    asyncio.run(run())


def test_a_call_has_a_deadline(node: NodeProcess) -> None:
    with connect_sync(node.url, timeout_ms=5_000) as memory, pytest.raises(NotCovered):
        memory.wait_for(Context({7: 7}), timeout_ms=20)
    with pytest.raises(Unreachable):
        connect_sync(f"{node.url}.not", timeout_ms=50)
    with pytest.raises(ConfigError):
        connect_sync("gopher://node")


def test_a_feed_is_polled(node: NodeProcess) -> None:
    with connect_sync(node.url) as memory:
        feed = memory.changes(SPACE)
        assert feed.poll(10) is None
        memory.space(*SPACE).put("key", 1)
        assert feed.poll(20_000).key == "key"
        assert feed.poll(0) is None
        memory.space(*SPACE).put("other", 1)
        assert next(feed).key == "other"
        assert feed.cursor >= memory.seen
        feed.close()
        with pytest.raises(Closed):
            feed.poll(20_000)


def test_polling_an_export_skips_nothing(node: NodeProcess) -> None:
    with connect_sync(node.url) as memory:
        with memory.transaction() as opened:
            opened.put_many(("exported",), {f"{number:04}": number for number in range(2_000)})
        records = memory.export(("exported",))
        found = []
        for _ in range(100_000):
            record = records.poll(0)
            if record is not None:
                found.append(record)
            if len(found) == 2_000:
                break
        assert [record["key"] for record in found] == [f"{number:04}" for number in range(2_000)]
        assert records.poll(20_000) is None
        assert next(records, "end") == "end"


def open_embedded(_: str) -> SyncMemory:
    return SyncMemory.open("memory:", region="here", tune_gc=False)


@pytest.mark.parametrize("open_memory", [open_embedded, connect_sync])
def test_closing_ends_the_calls_of_other_threads(
    node: NodeProcess, open_memory: Callable[[str], Any]
) -> None:
    memory = open_memory(node.url)
    feed = memory.changes(SPACE)
    calls = [
        in_thread(lambda: next(feed)),
        in_thread(lambda: memory.wait_for(Context({5: 5}), timeout_ms=60_000)),
    ]
    # Two calls, and the change that the one waits for.
    wait_until(lambda: len(asyncio.all_tasks(memory._loop._loop)) >= 3, "calls")
    memory.close()
    for thread, raised in calls:
        thread.join(20)
        assert not thread.is_alive()
        assert [type(error) for error in raised] == [Closed]
