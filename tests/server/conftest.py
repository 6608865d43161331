"""A node for hostile clients, which must come out of every test as it went in."""

from __future__ import annotations

from collections.abc import Iterator

import psutil
import pytest

from tests.node.processes import NodeProcess
from tests.server.hostile import (
    CONNECTIONS,
    GROWTH_BYTES,
    RECEIVE_MS,
    Wire,
    clients_of,
    length,
    put,
    serves,
)
from tests.waiting import wait_until


@pytest.fixture(scope="module")
def hostile_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    flags = (
        "--http=127.0.0.1:0",
        f"--set=http.receive_ms={RECEIVE_MS}",
        f"--set=http.connections={CONNECTIONS}",
    )
    with NodeProcess(tmp_path_factory.mktemp("hostile"), *flags) as started:
        with Wire(started) as wire:
            wire.send(put(length(b'{"value":"Rome"}'), b'{"value":"Rome"}'))
            assert wire.answer()[0] == 200
        yield started
        assert "unexpected" not in started.log()


@pytest.fixture
def node(hostile_node: NodeProcess) -> Iterator[NodeProcess]:
    """Hold the node to it that a test has cost it nothing."""
    node = hostile_node
    process = psutil.Process(node.pid)
    serves(node)
    wait_until(lambda: not clients_of(process), "connections that have ended")
    files, memory_bytes = process.num_fds(), process.memory_info().rss
    yield node
    wait_until(lambda: process.num_fds() <= files, "descriptors that were given back")
    serves(node)
    assert process.memory_info().rss - memory_bytes < GROWTH_BYTES
