"""Bytes sent to the HTTP API that did more than they should have.

Found by hostile clients (``tests/server/test_hostile_http.py``):

* a MessagePack timestamp was taken as a value, and stored as another one: a float;
* a few bodies that never ended held the whole budget of bytes, so that reads, and writes of
  a few bytes, were told to come back;
* a target that names another host was answered where the ``Host`` header named this one, though
  the target's is the one that counts (RFC 9112, 3.2.2);
* a line without a version, a command of some other protocol for all that is known, was answered;
* a body under a transfer coding besides ``chunked`` was read as if it had none.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from crdtmem.admission import SMALL_BYTES, Admission, Bounds
from crdtmem.client import connect
from crdtmem.control_frames import decode_body
from crdtmem.errors import InvalidValue, Overloaded
from tests.server.serving import Served, run

_CITY = "/v1/spaces/team/register/city"
_CODED = 'Transfer-Encoding: gzip, chunked\r\n\r\nb\r\n{"value":1}\r\n0\r\n\r\n'
_TIMESTAMP = b"\xd6\xff\x00\x00\x00\x01"


def test_a_timestamp_is_no_value_over_http(tmp_path: Path) -> None:
    async def scene(served: Served) -> None:
        kind = {"Content-Type": "application/msgpack"}
        answer = await served.ask("PUT", _CITY, headers=kind, data=b"\x81\xa5value" + _TIMESTAMP)
        assert (answer.status, answer.code) == (400, "invalid_value")
        assert not (await served.good("GET", _CITY))["exists"]

    run(tmp_path, scene)


def test_a_timestamp_is_no_value_over_a_socket(tmp_path: Path) -> None:
    async def scene(served: Served) -> None:
        step = (1, ("team",), 1, "city", "set", (decode_body(_TIMESTAMP),), None)
        client = await connect(served.node.readiness()["control"])
        with pytest.raises(InvalidValue):
            await client.call("commit", (("local", 10, None), ("", 0, None, None, (step,))))
        await client.close()

    run(tmp_path, scene)


def test_bodies_that_never_end_keep_out_no_small_request() -> None:
    admission = Admission(Bounds(in_flight_bytes=32 << 20))
    for _ in range(4):
        admission.share().ask(8 << 20)
    # Nothing was completed meanwhile, so that hardly anything is to be taken in.
    for second in (1, 2, 3):
        admission.sample(second * 1_000_000, 0)
    assert admission.size_bytes > 2 * admission.bytes_budget
    for size_bytes in (0, 100, SMALL_BYTES):
        admission.share().ask(size_bytes)
    with pytest.raises(Overloaded):
        admission.share().ask(SMALL_BYTES + 1)


@pytest.mark.parametrize(
    ("sent", "status", "code"),
    [
        (f"GET http://example.org{_CITY} HTTP/1.1\r\nHost: localhost\r\n\r\n", 421,
         "misdirected_request"),
        (f"GET {_CITY}\r\n\r\n", 400, "malformed_request"),
        (f"PUT {_CITY} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n" + _CODED,
         415,
         "unsupported_media_type"),
    ],
    ids=["another host", "no version", "coded"],
)  # fmt: skip
def test_what_was_answered_is_refused(sent: str, status: int, code: str, tmp_path: Path) -> None:
    async def scene(served: Served) -> None:
        wire = await served.wire()
        wire.send(sent.encode())
        found, _, body = await wire.answer()
        assert (found, json.loads(body)["code"]) == (status, code)
        await wire.close()
        assert not (await served.good("GET", _CITY))["exists"]

    run(tmp_path, scene)
