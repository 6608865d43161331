"""The control socket under clients that are hostile, slow, silent or gone."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import stat
import struct
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crdtmem.client import connect
from crdtmem.control_connection import IN_FLIGHT_REQUESTS
from crdtmem.control_frames import (
    CONTROL_VERSION,
    ERROR,
    EVENT,
    MAGIC,
    RESULT,
    FrameDecoder,
    encode_body,
    frame,
    frame_of_messages,
)
from crdtmem.errors import FrameTooLarge, MalformedFrame
from tests.node.processes import NodeFailed, NodeProcess
from tests.node.raw import RawConnection
from tests.waiting import wait_until


def _commit(
    steps: Any,
    *,
    durability: str = "local",
    timeout_ms: int = 10,
    after: Any = None,
    trust: Any = 0,
) -> Any:
    return (durability, timeout_ms, after), ("", trust, None, None, steps)


def digest_of(node: NodeProcess) -> str:
    """Ask for the digest through a fresh connection: the node is alive, and unchanged or not."""
    with RawConnection(node.socket) as connection:
        connection.request(1, "status", ())
        _, kind, body = connection.answer()
        assert kind == RESULT
        return str(body["digest"])


# ------------------------------------------------------------------ what is no protocol


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "frame_too_large"),
        (b"\xff\xff\xff\xff", "frame_too_large"),
        (frame(b"\xc1"), "malformed_frame"),
        (frame(b""), "malformed_frame"),
        (frame(encode_body(5)), "malformed_frame"),
        (frame(encode_body([])), "malformed_frame"),
        (frame(encode_body([[1, "hello"]])), "malformed_frame"),
        (frame(encode_body([["1", "hello", []]])), "malformed_frame"),
        (frame(encode_body([[1, "status", []]])), "malformed_frame"),
        (frame(encode_body([[1, "hello", ["other-protocol", 1]]])), "malformed_frame"),
        (frame(encode_body([[-1, "hello", [MAGIC, 1]]])), "malformed_frame"),
        (frame(encode_body([[1, "hello", [MAGIC, 99]]])), "protocol_mismatch"),
        (frame(b"\x91" * 200_000), "malformed_frame"),
        (frame(b"\xdd\xff\xff\xff\xff"), "malformed_frame"),
    ],
)
def test_garbage_gets_one_clear_error_and_the_connection_is_closed(
    shared_node: NodeProcess, sent: bytes, code: str
) -> None:
    with RawConnection(shared_node.socket, greet=False) as connection:
        connection.send(sent)
        assert connection.refusal() == code
        assert connection.is_closed()


def test_garbage_after_a_greeting_too(shared_node: NodeProcess) -> None:
    with RawConnection(shared_node.socket) as connection:
        connection.send(frame(b"\xc1"))
        assert connection.refusal() == "malformed_frame"
        assert connection.is_closed()


@pytest.mark.parametrize(
    ("verb", "body"),
    [
        ("fly", ()),
        ("commit", ()),
        ("commit", _commit(5)),
        ("commit", _commit((), durability="nowhere")),
        ("commit", _commit((), timeout_ms=-1)),
        ("commit", _commit((), after=(1,))),
        ("commit", _commit((), trust="high")),
        ("commit", _commit(((0, ("a",), 1, b"\xc1", b"\x90"),))),
        ("commit", _commit(((0, ("a",), 10, b"\x90", b"\x90"),))),
        ("commit", _commit(((1, ("a",), 1, "k", "_remove", (), None),))),
        ("commit", _commit(((1, ("a",), 99, "k", "set", (1,), None),))),
        ("commit", _commit(((1, (), 1, "k", "set", (1,), None),))),
        ("read", ("a", 1, "k", None, 0)),
        ("read", (("a",), 99, "k", None, 0)),
        ("read", (("a",), 1, b"k", None, 0)),
        ("read", (("a",), 1, "k", (1, 2, 3), 0)),
        ("get", (("a",),)),
        ("get", ("a", ("k",))),
        ("get", ((), ("k",))),
        ("get", (({},), ("k",))),
        ("get", (("a",), "k")),
        ("get", (("a",), (b"k",))),
        ("get", (("a",), ({},))),
        ("get", (("a",), ("k",) * 10_001)),
        ("get", (("a",), ("k",), (1, 2, 3), 0)),
        ("get", (("a",), ("k",), None, "long")),
        ("get", (("a",), ("k",), (99, 99), 1)),
        ("keys", (("a",),)),
        ("spaces", (1,)),
        ("conflicts", ("a",)),
        ("wait", (None, 1)),
        ("wait", ((1, 5), "long")),
        ("subscribe", (5, 100, None)),
        ("subscribe", (None, 0, None)),
        ("subscribe", (None, 100)),
        ("subscribe", (None, 100, "c1.")),
        ("subscribe", (None, 100, (1, 2, 3))),
        ("export", ()),
        ("verify", (1,)),
        ("backup", ("relative/path",)),
        ("status", 7),
        ("cancel", "x"),
    ],
)
def test_a_wrong_request_is_refused_and_the_connection_stays(
    shared_node: NodeProcess, verb: str, body: Any
) -> None:
    with RawConnection(shared_node.socket) as connection:
        connection.request(7, verb, body)
        number, kind, answer = connection.answer()
        assert number == 7
        if verb == "cancel":
            assert (kind, answer) == (RESULT, False)
        else:
            assert kind == ERROR
            assert answer[0] in {"malformed_frame", "unknown_name", "invalid_value", "not_covered"}
        connection.request(8, "context", ())
        assert connection.answer()[:2] == (8, RESULT)


_VALID = [
    frame_of_messages([encode_body((1, "hello", (MAGIC, CONTROL_VERSION)))]),
    frame_of_messages(
        [
            encode_body((2, "commit", _commit(((1, ("a",), 1, "k", "set", (1,), None),)))),
            encode_body((3, "read", (("a",), 1, "k", None, 0))),
        ]
    ),
]


@given(data=st.data())
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_mutated_frames_never_harm_the_node(shared_node: NodeProcess, data: st.DataObject) -> None:
    stream = bytearray(b"".join(_VALID))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(stream) - 1))
        stream[at] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(stream)))
    with RawConnection(shared_node.socket, greet=False) as connection:
        with contextlib.suppress(BrokenPipeError):
            connection.send(bytes(stream[:cut]))
            connection.socket.shutdown(socket.SHUT_WR)
        assert connection.is_closed()
    with RawConnection(shared_node.socket) as connection:
        connection.request(1, "context", ())
        assert connection.answer()[1] == RESULT


@given(chunks=st.lists(st.binary(max_size=40), max_size=8), limit=st.integers(0, 64))
def test_the_decoder_keeps_no_more_than_it_was_fed_and_raises_only_its_errors(
    chunks: list[bytes], limit: int
) -> None:
    decoder = FrameDecoder(limit)
    fed = 0
    for chunk in chunks:
        decoder.feed(chunk)
        fed += len(chunk)
        try:
            while (received := decoder.next_frame()) is not None:
                assert received[0] <= limit
        except (FrameTooLarge, MalformedFrame):
            return
        assert decoder.buffered_bytes <= min(fed, limit + 4 + len(chunk))


# ------------------------------------------------------------------ pressure


def test_requests_are_pipelined_far_beyond_what_may_be_in_flight(shared_node: NodeProcess) -> None:
    count = 3 * IN_FLIGHT_REQUESTS
    space = ("pipelined",)
    with RawConnection(shared_node.socket) as connection:
        for number in range(count):
            step = (1, space, 6, "n", "increment", (1,), None)
            connection.request(number + 1, "commit", _commit((step,)))
        answered = {connection.answer()[0] for _ in range(count)}
        assert answered == set(range(1, count + 1))
        connection.request(0, "read", (space, 6, "n", None, 0))
        assert connection.answer()[2][0] == count


def test_a_client_that_does_not_read_costs_neither_memory_nor_others(node: NodeProcess) -> None:
    value = random.Random(5).randbytes(200_000)

    async def write() -> None:
        async with await connect(node.url) as client:
            await client.space("big").put("key", value)

    asyncio.run(write())
    process = psutil.Process(node.pid)
    before = process.memory_info().rss
    with RawConnection(node.socket) as greedy:
        greedy.socket.setblocking(False)
        asked = 0
        request = frame_of_messages([encode_body((1, "read", (("big",), 1, "key", None, 0)))])
        # 5,000 answers of 200 kB would take a gigabyte.
        with contextlib.suppress(BlockingIOError):
            while asked < 5_000:
                asked += greedy.socket.send(request * 10) // len(request)
        assert digest_of(node)
        grown = process.memory_info().rss - before
        assert grown < 60_000_000, f"{grown} bytes for a client that reads nothing"
        greedy.socket.setblocking(True)
        for _ in range(20):
            assert greedy.answer()[2][0] == value


def test_a_client_that_leaves_in_the_middle_takes_its_work_with_it(node: NodeProcess) -> None:
    with RawConnection(node.socket) as connection:
        connection.request(1, "subscribe", (None, 100, None))
        assert connection.answer()[:2] == (1, EVENT)
        connection.request(2, "wait", ((99, 99), 60_000))
        connection.send(struct.pack(">I", 1_000) + b"half a frame")
        with RawConnection(node.socket) as other:
            other.request(1, "status", ())
            assert other.answer()[2]["queues"]["subscriptions"] == 1

    def subscriptions() -> int:
        with RawConnection(node.socket) as other:
            other.request(1, "status", ())
            return int(other.answer()[2]["queues"]["subscriptions"])

    wait_until(lambda: subscriptions() == 0, "end of the subscription")


def test_what_streams_can_be_cancelled(shared_node: NodeProcess) -> None:
    with RawConnection(shared_node.socket) as connection:
        connection.request(5, "subscribe", (None, 100, None))
        assert connection.answer()[:2] == (5, EVENT)
        connection.request(6, "cancel", 5)
        assert connection.answer() == (6, RESULT, True)
        connection.request(7, "context", ())
        assert connection.answer()[0] == 7


def test_a_client_too_many_is_refused(node: NodeProcess) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(256):
            stack.enter_context(RawConnection(node.socket))
        with RawConnection(node.socket, greet=False) as late:
            assert late.refusal() == "overloaded"
            assert late.is_closed()
    wait_until(lambda: digest_of(node), "room again")


def test_an_answer_larger_than_a_frame_of_requests_arrives(shared_node: NodeProcess) -> None:
    chunk = random.Random(6).randbytes(1_000_000)

    async def scenario() -> None:
        async with await connect(shared_node.url) as client:
            log = client.space("large").log("entries")
            for _ in range(10):
                await log.append(chunk)
            assert await log.get() == [chunk] * 10

    asyncio.run(scenario())


# ------------------------------------------------------------------ the quick read


def _put(connection: RawConnection, space: Any, key: str, value: Any, options: Any = None) -> Any:
    step = (1, space, 1, key, "set", (value,), options)
    connection.request(1, "commit", _commit((step,)))
    number, kind, committed = connection.answer()
    assert (number, kind) == (1, RESULT)
    return committed[0]


def test_many_registers_are_read_at_once_each_as_it_is(shared_node: NodeProcess) -> None:
    space = ("quick",)
    blind = ((), False, None, None)
    with RawConnection(shared_node.socket) as connection:
        _put(connection, space, "plain", "value")
        _put(connection, space, "nested", {"b": [1, {"c": None}], "a": 2.5})
        _put(connection, space, "expired", "old", (None, False, 1, None))
        _put(connection, space, "lasting", "new", (None, False, 1 << 52, None))
        _put(connection, space, "contested", "first")
        context = _put(connection, space, "contested", "second", blind)
        connection.request(2, "read", (space, 1, "contested", None, 0))
        contested = connection.answer()[2]
        assert contested[2], "not contested"
        keys = ("contested", "nested", "absent", "expired", "plain", "lasting", "plain")
        expected = (
            contested[0], {"a": 2.5, "b": (1, {"c": None})}, None, None, "value", "new", "value",
        )  # fmt: skip
        connection.request(3, "get", (space, keys))
        assert connection.answer() == (3, RESULT, expected)
        connection.request(4, "get", (space, keys, context, 1_000))
        assert connection.answer() == (4, RESULT, expected)
        connection.request(5, "get", (space, ()))
        assert connection.answer() == (5, RESULT, ())
        connection.request(6, "get", (("quick", "elsewhere"), ("plain", "k")))
        assert connection.answer() == (6, RESULT, (None, None))


def test_a_quick_read_waits_for_what_it_demands_and_others_do_not(node: NodeProcess) -> None:
    space = ("quick",)
    with RawConnection(node.socket) as waiting, RawConnection(node.socket) as writing:
        origin, first = _put(writing, space, "k", 1)[:2]
        waiting.request(7, "get", (space, ("k",), (origin, first + 1), 20_000))
        waiting.request(8, "get", (space, ("k",)))
        assert waiting.answer() == (8, RESULT, (1,))
        _put(writing, space, "k", 2)
        assert waiting.answer() == (7, RESULT, (2,))


def test_an_answer_of_many_values_that_is_too_large_is_refused_before_it_is_made(
    node: NodeProcess,
) -> None:
    space = ("quick",)
    with RawConnection(node.socket) as connection:
        _put(connection, space, "large", b"x" * 1_000_000)
        process = psutil.Process(node.pid)
        before = process.memory_info().rss
        for number, count in ((2, 10_000), (3, 70)):
            connection.request(number, "get", (space, ("large",) * count))
            assert connection.answer()[1:2] == (ERROR,)
        assert process.memory_info().rss - before < 200_000_000
        connection.request(4, "get", (space, ("large",) * 60))
        assert len(connection.answer()[2]) == 60


def test_quick_and_slow_requests_of_one_frame_are_all_answered(shared_node: NodeProcess) -> None:
    space = ("mixed",)
    with RawConnection(shared_node.socket) as connection:
        messages = []
        for number in range(0, 300, 3):
            step = (1, space, 1, f"k{number}", "set", (number,), None)
            messages += [
                encode_body((number + 1, "get", (space, ("none",)))),
                encode_body((number + 2, "commit", _commit((step,)))),
                encode_body((number + 3, "fly", ())),
            ]
        sent = frame_of_messages(messages) + frame_of_messages(messages[:1])
        for at in range(0, len(sent), 1_000):
            connection.send(sent[at : at + 1_000])
        answers = [connection.answer() for _ in range(301)]
        kinds = {number: (kind, body) for number, kind, body in answers}
        assert set(kinds) == set(range(1, 301))
        for number in range(0, 300, 3):
            assert kinds[number + 1] == (RESULT, (None,))
            assert kinds[number + 2][0] == RESULT
            assert kinds[number + 3][1][0] == "unknown_name"


# ------------------------------------------------------------------ the path


def test_the_socket_is_its_owners_only(shared_node: NodeProcess) -> None:
    assert stat.S_IMODE(shared_node.socket.stat().st_mode) == 0o600


def test_a_stop_leaves_neither_socket_nor_lock(node: NodeProcess) -> None:
    assert node.stop() == 0
    assert not node.socket.exists()
    assert not node.socket.with_name("node.sock.lock").exists()


def test_what_a_killed_node_left_is_replaced(node: NodeProcess) -> None:
    node.kill()
    assert node.socket.exists()
    node.start()
    assert digest_of(node)


def test_a_file_that_is_no_socket_is_never_removed(tmp_path: Path) -> None:
    (tmp_path / "node.sock").write_text("precious")
    node = NodeProcess(tmp_path)
    with pytest.raises(NodeFailed, match="is no socket") as caught:
        node.start()
    assert caught.value.code == 2
    assert (tmp_path / "node.sock").read_text() == "precious"


def test_a_socket_that_another_program_serves_is_never_stolen(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(tmp_path / "node.sock"))
        other.listen()
        node = NodeProcess(tmp_path)
        with pytest.raises(NodeFailed, match="another node serves") as caught:
            node.start()
        assert caught.value.code == 2
        assert (tmp_path / "node.sock").is_socket()
