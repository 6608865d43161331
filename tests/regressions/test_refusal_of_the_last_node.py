"""What the last node that answered refused with is told, though it cannot be reached any more."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from crdtmem.asking import Request
from crdtmem.client import connect
from crdtmem.errors import ReplicaHalted
from tests.client.served import play, served


def test_a_refusal_is_told_though_its_node_is_gone(tmp_path: Path) -> None:
    """A write was refused by the one node that answered, which was then sought again.

    Harm: where the deadline came while it was sought, the caller heard ``Unreachable``: that the
    write may have been done, and not that this node is to write no more.
    """
    socket = tmp_path / "served.sock"

    def refuse(request: Request, _: Any) -> None:
        socket.unlink()
        request.set_exception(ReplicaHalted("evicted", hint="ask another node"))

    async def scenario() -> None:
        nobody = f"unix://{tmp_path}/nobody.sock"
        async with (
            served("unix", tmp_path, lambda _: {"commit": refuse}) as halted,
            await connect(halted.url, nobody, timeout_ms=300) as client,
        ):
            with pytest.raises(ReplicaHalted, match="evicted"):
                await client.session(timeout_ms=100).space("s").put("key", 1)

    play(scenario)
