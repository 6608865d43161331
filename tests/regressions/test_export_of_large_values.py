"""An export, or a list of conflicts, of large values made parts that no client could take.

Parts were cut by number alone: five hundred values of a mebibyte each were one frame of
five hundred mebibytes, far beyond what a client accepts, and all in the node's memory.
"""

from __future__ import annotations

from pathlib import Path

from crdtmem.control_frames import EVENT, RESULT
from crdtmem.parts import PART_BYTES
from tests.bench.service_overload import commit_of
from tests.node.processes import NodeProcess
from tests.node.raw import RawConnection

VALUE_BYTES = 1024 * 1024 - 16


def test_an_export_of_large_values_comes_in_parts_that_a_client_takes(tmp_path: Path) -> None:
    with NodeProcess(tmp_path) as node, RawConnection(node.socket) as connection:
        for number in range(70):
            body = commit_of([f"k{number}"], b"x" * VALUE_BYTES)
            connection.request(number, "commit", body)
            assert connection.answer()[1] == RESULT
        connection.request(100, "export", (None,))
        seen = 0
        while True:
            _, kind, body = connection.answer()
            if kind != EVENT:
                break
            seen += len(body)
            assert sum(len(record["arguments"][0]) for record in body) < PART_BYTES + VALUE_BYTES
        assert (kind, body, seen) == (RESULT, 70, 70)
