"""What HTTP judged by itself, and otherwise than every other face of the node did.

Found by playing the scenarios of all faces over HTTP (``tests/node/test_faces.py``):

* an operation that a datatype lacks was an ``invalid_value``, elsewhere an ``unknown_name``;
* a transaction had a bound of its own, whatever the node's limits allowed.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.server.serving import Served, run

_LACKING = {"operation": "decrement"}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/spaces/team/g_counter/visits", _LACKING),
        ("/v1/transactions",
         {"operations": [
             {"space": ["team"], "datatype": "g_counter", "key": "visits", "do": _LACKING}]}),
        ("/v1/transactions",
         {"operations": [{"space": ["team"], "datatype": "tree", "key": "oak", "do": {}}]}),
    ],
)  # fmt: skip
def test_what_there_is_not_is_an_unknown_name(path: str, body: object, tmp_path: Path) -> None:
    async def scene(served: Served) -> None:
        answer = await served.ask("POST", path, body)
        assert (answer.status, answer.code) == (404, "unknown_name")

    run(tmp_path, scene)


@pytest.mark.parametrize(("bound", "status"), [(100, 413), (20_000, 200)])
def test_the_length_of_a_transaction_is_for_the_limits_to_judge(
    bound: int, status: int, tmp_path: Path
) -> None:
    async def scene(served: Served) -> None:
        one = {"space": ["team"], "datatype": "counter", "key": "visits", "do": {
            "operation": "increment"}}  # fmt: skip
        many = {"operations": [one] * 10_001}
        answer = await served.ask("POST", "/v1/transactions", many)
        assert answer.status == status, answer
        if status != 200:
            assert answer.code == "limit_exceeded"

    run(tmp_path, scene, limits__batch_deltas=bound)
