"""Three clients that waited for what never came starved all others.

What waited for another node was counted as work that this one had in hand. So a few
connections, each with a thousand reads of a context that was not joined, or a minute of
writes that were to be durable in a region that was cut off, held all that the node took in,
though it had nothing to do: whoever came by HTTP was told to come back, for a day. So it was
with writes that referred to what was read elsewhere and had not come here.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import urllib.request
from pathlib import Path
from typing import Any

from crdtmem.control_frames import RESULT, encode_body, frame_of_messages
from tests.bench.service_overload import ask
from tests.node.processes import NodeProcess
from tests.node.raw import RawConnection
from tests.waiting import wait_until

_NEVER = [1 << 40, 1]
_DAY_MS = 24 * 3_600_000
_WRITE = ("", 0, None, None, ((1, ("team",), 1, "city", "set", ("Rome",), None),))
_OBSERVED = [1 << 40, 1]
_CORRECTION = (
    "", 0, None, None,
    ((1, ("team",), 1, "city", "set", ("Rome",), (_OBSERVED, False, None, None)),),
)  # fmt: skip
_WAITS = (
    ("commit", (("local", _DAY_MS, None), _CORRECTION)),
    ("commit", (("local", _DAY_MS, _NEVER), _WRITE)),
    ("wait", (_NEVER, _DAY_MS)),
    ("read", (("team",), 1, "city", _NEVER, _DAY_MS)),
    ("get", (("team",), ("city",), _NEVER, _DAY_MS)),
)


def _status(node: NodeProcess) -> dict[str, Any]:
    status: dict[str, Any] = asyncio.run(ask(node.socket, "status"))
    return status


def test_those_who_wait_for_others_take_nothing_from_those_who_do_not(tmp_path: Path) -> None:
    flags = ("--set=admission.in_flight_operations=4", "--http=127.0.0.1:0")
    with NodeProcess(tmp_path, *flags) as node, contextlib.ExitStack() as stack:
        for verb, body in _WAITS:
            connection = stack.enter_context(RawConnection(node.socket))
            asked = [encode_body((number, verb, body)) for number in range(1, 101)]
            connection.send(frame_of_messages(asked))
            connection.request(101, "context", ())
            assert connection.answer()[:2] == (101, RESULT)
        wait_until(lambda: _status(node)["queues"]["waiting"] == 500, "all of them wait")
        # Only the one that asks.
        assert _status(node)["admission"]["operations"] == 1
        with urllib.request.urlopen(f"{node.ready['http']}/v1/context", timeout=20) as answer:
            assert json.load(answer)["context"]
        stack.close()
        # What was to be written is, whoever has left; those who only waited are let go.
        wait_until(lambda: _status(node)["queues"]["waiting"] == 200, "no reader waits")
