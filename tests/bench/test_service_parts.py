"""The parts of the service's bench: what counts answers, and what judges them."""

from __future__ import annotations

from pathlib import Path

import pytest

from crdtmem.control_frames import encode_body, frame_of_messages, payload_of_messages
from crdtmem.errors import ConfigError
from tests.bench import service_peers
from tests.bench.service_load import COUNTERS, Load, drive
from tests.bench.service_peers import Service
from tests.bench.service_requests import SPACE, VALUE, Loads, key_of
from tests.node.processes import NodeProcess
from tests.node.raw import RawConnection

_RIGHT = encode_body((1, 0, ["xxx"]))
_WRONG = encode_body((1, 1, ["code", "message", "hint", {}]))
_LOAD = Load(
    protocol="control",
    address="",
    greeting=b"",
    requests=[],
    operations=1,
    messages=1,
    clients=1,
    seconds=0.0,
    begins=b"\x93\x01\x00",
    message_bytes=len(_RIGHT),
)


def _websocket(payload: bytes) -> bytes:
    size = len(payload)
    if size < 126:
        return bytes((0x82, size)) + payload
    if size < 1 << 16:
        return b"\x82\x7e" + size.to_bytes(2, "big") + payload
    return b"\x82\x7f" + size.to_bytes(8, "big") + payload


def _http(status: bytes, body: bytes) -> bytes:
    length = str(len(body)).encode()
    return b"HTTP/1.1 " + status + b" X\r\nContent-Length: " + length + b"\r\n\r\n" + body


_STREAMS = {
    "control": (
        [frame_of_messages([_RIGHT]), frame_of_messages([_RIGHT] * 20)],
        frame_of_messages([_WRONG] * 3),
    ),
    "websocket": (
        [_websocket(payload_of_messages([_RIGHT] * count)) for count in (1, 12, 8)]
        + [_websocket(payload_of_messages([_RIGHT] * 9_000))],
        _websocket(payload_of_messages([_WRONG] * 3)),
    ),
    "http": (
        [_http(b"200", b"x" * size) for size in (0, 1, 1_000)],
        _http(b"429", b"wait") * 3,
    ),
}


@pytest.mark.parametrize("protocol", list(_STREAMS))
@pytest.mark.parametrize("step", [1, 7, 1 << 20])
def test_answers_are_counted_however_they_are_cut_and_wrong_ones_are_told(
    protocol: str, step: int
) -> None:
    right, wrong = _STREAMS[protocol]
    begins = b"HTTP/1.1 200 " if protocol == "http" else _LOAD.begins
    load = Load(**{**vars(_LOAD), "protocol": protocol, "begins": begins})
    counter = COUNTERS[protocol](load)
    stream = b"".join(right) + wrong
    counted = mistaken = 0
    for at in range(0, len(stream), step):
        found, bad = counter.count(stream[at : at + step])
        counted, mistaken = counted + found, mistaken + bad
    expected = {"control": 21, "websocket": 9_021, "http": 3}[protocol]
    assert (counted, mistaken) == (expected + 3, 3)


def test_a_load_crosses_to_the_process_that_carries_it_out() -> None:
    assert Load.from_json(_LOAD.to_json()) == _LOAD


def test_every_load_is_answered_and_rightly(tmp_path: Path) -> None:
    keys = 64
    with NodeProcess(tmp_path, "--region=here", "--http=127.0.0.1:0") as node:
        service = Service(node.pid, str(node.socket), node.ready["http"].removeprefix("http://"))
        loads = Loads(service, keys=keys, seconds=0.05)
        assert not drive(loads.writes(2)).errors
        with RawConnection(node.socket) as connection:
            connection.request(1, "get", (SPACE, [key_of(number) for number in range(keys)]))
            assert connection.answer()[2] == (VALUE,) * keys
        for load in (
            loads.reads(2),
            loads.single_reads(2),
            loads.single_writes(2),
            loads.frames_of_one(2),
            loads.websocket_reads(2),
            loads.http("PUT", 2),
            loads.http("GET", 2),
        ):
            seen = drive(load)
            assert seen.operations >= load.operations * load.clients
            assert not seen.errors
            assert 0 < seen.p50_ms <= seen.p99_ms
        wrong = Load(**{**vars(loads.reads(1)), "message_bytes": 7})
        assert drive(wrong).errors


def test_who_lacks_redis_is_told_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ConfigError, match="redis-server") as caught:
        service_peers.require_redis()
    assert "apt-get install" in caught.value.hint
