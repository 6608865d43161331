"""One request for many large keys took gigabytes, and everybody's turn for as long.

A socket's answer was bounded; what HTTP read in one request was only in the number of its
keys, so that four hundred times one megabyte were gathered and written as one text.
"""

from __future__ import annotations

from pathlib import Path

from crdtmem.control_frames import ANSWER_BYTES
from tests.server.serving import Served, run

_VALUE = "x" * 1_000_000


def test_reads_of_too_much_at_once_are_refused_before_all_is_at_hand(tmp_path: Path) -> None:
    async def scene(served: Served) -> None:
        await served.good("PUT", "/v1/spaces/team/register/large", {"value": _VALUE})
        large = {"space": ["team"], "key": "large"}
        most = ANSWER_BYTES // len(_VALUE)
        answer = await served.ask("POST", "/v1/reads", {"reads": [large] * (most + 1)})
        assert (answer.status, answer.code) == (413, "limit_exceeded")
        assert answer.value["hint"]
        answer = await served.ask("POST", "/v1/reads", {"reads": [large] * 8})
        assert answer.status == 200
        assert [one["value"] for one in answer.value["readings"]] == [_VALUE] * 8

    run(tmp_path, scene)
