"""Operation ids that this program makes itself are refused from clients.

Harm: a client that named its operation as a compensation is named made its replica believe
that it had settled what it owed: one increment, written through two nodes, counted twice.
"""

from __future__ import annotations

import pytest

from crdtmem.errors import InvalidValue
from crdtmem.memory import Memory
from crdtmem.rescue import RESCUE_PREFIX
from crdtmem.retries import RETRY_PREFIX
from tests.memories import fresh_url, with_memory
from tests.node.faces import FACES, open_face
from tests.node.processes import NodeProcess

RESERVED = [RETRY_PREFIX, RETRY_PREFIX + b"x" * 16, RESCUE_PREFIX + b"\0" * 16]


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> NodeProcess:
    return NodeProcess(tmp_path_factory.mktemp("reserved"), "--region=here", "--http=127.0.0.1:0")


@pytest.mark.parametrize("identity", RESERVED)
def test_a_reserved_id_is_refused_and_changes_nothing(identity: bytes) -> None:
    async def body(memory: Memory) -> None:
        before = await memory.joined()
        with pytest.raises(InvalidValue, match="reserved"):
            async with memory.transaction(operation_id=identity) as opened:
                opened.space("s").counter("n").increment(1)
        assert await memory.joined() == before

    with_memory(fresh_url(), body)


@pytest.mark.parametrize("identity", [b"retry", b"rescue", b"retr/", b"Retry/x", b"x/retry/"])
def test_ids_that_only_look_alike_are_the_clients_own(identity: bytes) -> None:
    async def body(memory: Memory) -> None:
        async with memory.transaction(operation_id=identity) as opened:
            opened.space("s").counter("n").increment(1)
        assert await memory.space("s").counter("n").get() == 1

    with_memory(fresh_url(), body)


@pytest.mark.parametrize("face", FACES)
def test_no_face_lets_one_through(face: str, node: NodeProcess) -> None:
    with node, open_face(face, node) as memory:
        with (
            pytest.raises(InvalidValue, match="reserved"),
            memory.transaction(operation_id=RETRY_PREFIX + b"1") as opened,
        ):
            opened.space("s").counter("n").increment(1)
        assert memory.space("s").counter("n").get() == 0
