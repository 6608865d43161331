"""Bytes that no client of HTTP would send, to a real node: refused clearly, and at no cost.

After every test the node must have its descriptors back, must not have grown, and must serve
others. Nothing here sleeps: what is to be cut off is waited for.
"""

from __future__ import annotations

import base64
import contextlib
import socket
import threading
from typing import Final

import pytest

from tests.node.processes import NodeProcess
from tests.server.hostile import (
    BODY,
    CHUNKED,
    CITY,
    CONNECTIONS,
    END,
    HOST,
    LIMIT_S,
    MIB,
    SMUGGLED,
    Wire,
    get,
    length,
    put,
    refused,
    serves,
    value_of,
)
from tests.waiting import wait_until

# ---------------------------------------------------------------------- smuggling

_TWO_MEANINGS: Final = {
    "length and chunks": put(length(BODY) + CHUNKED, END + SMUGGLED),
    "chunks and length": put(CHUNKED + length(BODY), END + SMUGGLED),
    "chunks twice": put(CHUNKED + CHUNKED, END + SMUGGLED),
    "a list of chunked": put(b"Transfer-Encoding: chunked, chunked\r\n", END + SMUGGLED),
    "chunked last but not only": put(b"Transfer-Encoding: chunked, identity\r\n", SMUGGLED),
    "identity": put(b"Transfer-Encoding: identity\r\n", SMUGGLED),
    "another coding": put(b"Transfer-Encoding: xchunked\r\n", SMUGGLED),
    "a space before the colon": put(b"Transfer-Encoding : chunked\r\n", END + SMUGGLED),
    "a control character": put(b"Transfer-Encoding:\x0bchunked\r\n", END + SMUGGLED),
    "a folded line": put(b"Transfer-Encoding:\r\n chunked\r\n", END + SMUGGLED),
    "two lengths": put(length(BODY) + b"Content-Length: 0\r\n", BODY + SMUGGLED),
    "one length twice": put(length(BODY) * 2, BODY + SMUGGLED),
    "a list of lengths": put(b"Content-Length: 11, 11\r\n", BODY + SMUGGLED),
    "a length with a sign": put(b"Content-Length: +11\r\n", BODY + SMUGGLED),
    "a length below nothing": put(b"Content-Length: -1\r\n", BODY + SMUGGLED),
    "a length of Python's": put(b"Content-Length: 1_1\r\n", BODY + SMUGGLED),
    "a length beyond any": put(b"Content-Length: " + b"9" * 5_000 + b"\r\n", SMUGGLED),
    "a chunk with a sign": put(CHUNKED, b"+b\r\n" + BODY + b"\r\n" + END + SMUGGLED),
    "a chunk in C": put(CHUNKED, b"0xb\r\n" + BODY + b"\r\n" + END + SMUGGLED),
    "a chunk below nothing": put(CHUNKED, b"-b\r\n" + BODY + b"\r\n" + END + SMUGGLED),
    "a chunk beyond any": put(CHUNKED, b"f" * 40 + b"\r\n" + BODY + SMUGGLED),
    "a chunk that goes on": put(CHUNKED, b"b\r\n" + BODY + b"xx" + END + SMUGGLED),
    "chunks without returns": put(CHUNKED, b"b\n" + BODY + b"\n0\n\n" + SMUGGLED),
    "lines without returns": get().replace(b"\r\n", b"\n") + SMUGGLED,
    "a return within a header": get(more=b"X-Author: a\rX-Trust: 7\r\n") + SMUGGLED,
    "a folded header": get(more=b"X-Author: a\r\n b\r\n") + SMUGGLED,
    "nothing within a header": get(more=b"X-Author: a\x00b\r\n") + SMUGGLED,
    "two hosts": get(more=b"Host: example.org\r\n") + SMUGGLED,
    "no host": get().replace(HOST, b"") + SMUGGLED,
}


@pytest.mark.parametrize("sent", _TWO_MEANINGS.values(), ids=_TWO_MEANINGS)
def test_what_could_be_read_in_two_ways_is_read_in_none(node: NodeProcess, sent: bytes) -> None:
    with Wire(node) as wire:
        wire.send(sent)
        assert wire.refusal() == (400, "malformed_request")
        assert wire.is_closed()


def test_trailers_are_no_headers(node: NodeProcess) -> None:
    trailers = b"X-Author: eve\r\nX-Trust: 7\r\nIdempotency-Key: mine\r\n"
    path = b"/v1/spaces/team/register/trailed"
    with Wire(node) as wire:
        for _ in range(2):
            body = b"b\r\n" + BODY + b"\r\n0\r\n" + trailers + b"\r\n"
            wire.send(put(CHUNKED, body, path))
            status, written = wire.answer()
            assert (status, written["repeated"]) == (200, False)
        wire.send(get(path + b"?siblings=true"))
        (sibling,) = wire.answer()[1]["siblings"]
        assert (sibling["author"], sibling["trust"]) == ("", 0)


@pytest.mark.parametrize("trailers", [b"X: " + b"a" * 200_000 + b"\r\n", b"X: a\r\n" * 10_000])
def test_trailers_are_bounded(node: NodeProcess, trailers: bytes) -> None:
    body = b"b\r\n" + BODY + b"\r\n0\r\n" + trailers + b"\r\n"
    with Wire(node) as wire:
        wire.send(put(CHUNKED, body, b"/v1/spaces/team/register/smuggled"))
        assert wire.refusal() == (400, "malformed_request")
        assert wire.is_closed()


@pytest.mark.parametrize(
    "garbage", [b"\x00\x01\x02\r\n\r\n", b"HELLO\r\n\r\n", b"\x16\x03\x01\x02\x00\r\n\r\n"]
)
def test_garbage_behind_a_request_is_cut_off(node: NodeProcess, garbage: bytes) -> None:
    with Wire(node) as wire:
        wire.send(get())
        assert wire.answer()[0] == 200
        wire.send(garbage, SMUGGLED)
        assert wire.refusal() == (400, "malformed_request")
        assert wire.is_closed()


# ---------------------------------------------------------------------- paths and text

_PATHS: Final = [
    (b"/v1/../v1/status", 404, "unknown_path"),
    (b"/v1/%2e%2e/v1/status", 404, "unknown_path"),
    (b"/v1/./status", 404, "unknown_path"),
    (b"/v1%2Fstatus", 404, "unknown_path"),
    (b"/v1\\status", 404, "unknown_path"),
    (b"//v1/status", 404, "unknown_path"),
    (b"/v1/status/", 404, "unknown_path"),
    (b"/v1/status;a=b", 404, "unknown_path"),
    (b"/v1/spaces/team/register/a/b", 404, "unknown_path"),
    (b"/v1/spaces//register/a", 404, "unknown_path"),
    (b"/v1/spaces/team/register/", 404, "unknown_path"),
    (b"/v1/spaces/,/register/a", 400, "malformed_path"),
    (b"/v1/spaces/a,/register/a", 400, "malformed_path"),
    (b"/v1/spaces/,a/register/a", 400, "malformed_path"),
    (b"/v1/spaces/" + b"a," * 8 + b"a/register/a", 400, "malformed_path"),
    (b"/v1/spaces/team/register/%", 400, "malformed_path"),
    (b"/v1/spaces/team/register/%f", 400, "malformed_path"),
    (b"/v1/spaces/team/register/%ff", 400, "malformed_path"),
    (b"/v1/spaces/team/register/%c0%ae", 400, "malformed_path"),
    (b"/v1/spaces/team/register/%ed%a0%80", 400, "malformed_path"),
    (b"/v1/spaces/%u002e/register/a", 400, "malformed_path"),
    (b"/v1/spaces/team/register/\xff", 400, "malformed_request"),
    (b"/v1/spaces/team/register/a\x00b", 400, "malformed_request"),
    (CITY + b"?siblings=\xff", 400, "malformed_request"),
    (CITY + b"?siblings=%ff", 400, "malformed_query"),
    (CITY + b"?" + b"&".join(b"a%d=1" % one for one in range(100)), 400, "malformed_query"),
    (b"/v1/conflicts?cursor=" + base64.urlsafe_b64encode(b"\x91" * 5_000), 400, "invalid_token"),
    (b"/v1/conflicts?cursor=" + base64.urlsafe_b64encode(b"\xdd\xff\xff\xff\xff"), 400,
     "invalid_token"),
    (b"/v1/conflicts?limit=" + b"9" * 5_000, 400, "invalid_value"),
    (b"http://example.org" + CITY, 421, "misdirected_request"),
    (b"http://localhost@example.org" + CITY, 421, "misdirected_request"),
    (b"file:///etc/passwd", 400, "malformed_request"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "status", "code"), _PATHS)
def test_a_path_that_plays_tricks_is_refused(
    node: NodeProcess, path: bytes, status: int, code: str
) -> None:
    assert refused(node, get(path)) == (status, code)


@pytest.mark.parametrize(
    "key", [b"..", b"..%2F..%2Fetc%2Fpasswd", b"%252e", b"a%2Fb", b"%00", b"{}"]
)
def test_what_looks_like_a_trick_is_a_key_like_any_other(node: NodeProcess, key: bytes) -> None:
    path = b"/v1/spaces/..%2F..%2Ftmp/register/" + key
    with Wire(node) as wire:
        wire.send(put(length(BODY), path=path), get(path))
        assert [wire.answer()[0] for _ in range(2)] == [200, 200]
    assert not list(node.folder.glob("**/passwd"))


_TEXTS: Final = [
    (put(b"X-Author: \xff\xfe\r\n" + length(BODY)), 400, "invalid_value"),
    (put(b"X-Trust: \xd9\xa3\r\n" + length(BODY)), 400, "invalid_value"),
    (get(more=b"X-Context: c1.\xff\r\n"), 400, "invalid_token"),
    (get(more=b"X-Context: c1." + base64.urlsafe_b64encode(b"\x91" * 9_000) + b"\r\n"), 400,
     "invalid_token"),
    (get(more=b"X-Context: c1." + base64.urlsafe_b64encode(b"\xdd\xff\xff\xff\xff") + b"\r\n"),
     400, "invalid_token"),
    (get(more=b"X-Timeout-Ms: " + b"9" * 5_000 + b"\r\n"), 400, "invalid_value"),
    (get(more=b"Origin: http://\xff\r\n"), 403, "foreign_origin"),
    (get().replace(b"localhost", b"\xff"), 421, "misdirected_request"),
    (get().replace(b"localhost", b"[::1"), 421, "misdirected_request"),
    (get().replace(b"localhost", b"localhost@example.org"), 421, "misdirected_request"),
    (put(length(BODY)).replace(b"application/json", b"\xff"), 415, "unsupported_media_type"),
    (put(length(b'{"value":"\xff"}'), b'{"value":"\xff"}'), 400, "invalid_value"),
    (put(length(b'{"value":"\\ud800"}'), b'{"value":"\\ud800"}'), 400, "invalid_value"),
    (put(length(b'{"\xff":1}'), b'{"\xff":1}'), 400, "invalid_value"),
    (put(b"Transfer-Encoding: gzip, chunked\r\n", b"b\r\n" + BODY + b"\r\n" + END), 415,
     "unsupported_media_type"),
    (put(b"Content-Encoding: gzip\r\n" + length(BODY)), 415, "unsupported_media_type"),
    (b"GET " + CITY + b"\r\n\r\n", 400, "malformed_request"),
    (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, "malformed_request"),
    (b"CONNECT example.org:80 HTTP/1.1\r\n" + HOST + b"\r\n", 404, "unknown_path"),
    (b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n", 404, "unknown_path"),
    (b"A" * 100_000 + b" / HTTP/1.1\r\n\r\n", 400, "malformed_request"),
    (get(more=b"".join(b"X-%d: a\r\n" % one for one in range(10_000))), 400, "malformed_request"),
]  # fmt: skip


@pytest.mark.parametrize(("sent", "status", "code"), _TEXTS)
def test_text_that_is_none_is_refused(
    node: NodeProcess, sent: bytes, status: int, code: str
) -> None:
    assert refused(node, sent) == (status, code)


# ---------------------------------------------------------------------- size and depth


def _deep(opening: bytes, closing: bytes, depth: int = 400_000) -> bytes:
    return b'{"value":' + opening * depth + b"1" + closing * depth + b"}"


@pytest.mark.parametrize(
    "body",
    [
        _deep(b"[", b"]"),
        _deep(b"[", b""),
        _deep(b'{"a":', b"}"),
        _deep(b'{"$dict":', b"}", 100),
        b'{"value":' + b"1" * 1_000_000 + b"}",
        b'{"value":1,' + b",".join(b'"f%d":1' % one for one in range(100_000)) + b"}",
        b'{"value":{"$bytes":' + b'"=' * 100_000 + b'"}}',
    ],
    ids=["arrays", "unclosed", "objects", "tagged", "digits", "fields", "base64"],
)
def test_json_that_would_cost_much_is_refused_at_once(node: NodeProcess, body: bytes) -> None:
    status, code = refused(node, put(length(body), body))
    assert status in (400, 413)
    assert code in ("invalid_value", "limit_exceeded")


@pytest.mark.parametrize(
    "body",
    [
        b"\x91" * 1_000_000,
        b"\x81\xa5value" + b"\x81\xa1a" * 300_000,
        b"\x81\xa5value\xdd\xff\xff\xff\xff",
        b"\x81\xa5value\xdf\xff\xff\xff\xff",
        b"\x81\xa5value\xc6\xff\xff\xff\xff",
        b"\x81\xa5value\xdb\xff\xff\xff\xff",
        b"\x81\xa5value\xc9\xff\xff\xff\xff\x01",
        b"\x81\xa5value\xc1",
        b"\x81\xa5value\xd6\xff\x00\x00\x00\x00",
        b"\x81\xa5value\xa1\xff",
        b"\x81\x91\x91\xc0\xc0",
        b"\x81\xc0\xc0",
        b"",
    ],
)
def test_msgpack_that_would_cost_much_is_refused_at_once(node: NodeProcess, body: bytes) -> None:
    sent = put(length(body), body).replace(b"application/json", b"application/msgpack")
    status, code = refused(node, sent)
    assert status in (400, 413)
    assert code in ("invalid_value", "limit_exceeded", "malformed_frame")


def test_a_body_of_single_bytes_costs_no_more_than_its_bytes(node: NodeProcess) -> None:
    value = b'{"value":"' + b"x" * 300_000 + b'"}'
    pieces = b"".join(b"1;a=%d\r\n%c\r\n" % (at, byte) for at, byte in enumerate(value))
    path = b"/v1/spaces/team/register/pieces"
    with Wire(node) as wire:
        wire.send(put(CHUNKED, pieces + END, path))
        assert wire.answer()[0] == 200
    assert len(value_of(node, b"pieces")) == 300_000


def _flood(wire: Wire, piece: bytes) -> threading.Thread:
    """Send a piece over and over, beside the test, until the node takes no more."""
    flood = threading.Thread(target=lambda: wait_until(lambda: not wire.send(piece), "refusal"))
    flood.start()
    return flood


def test_a_chunk_of_which_only_the_name_never_ends_is_cut_off(node: NodeProcess) -> None:
    with Wire(node) as wire:
        wire.send(put(CHUNKED, b"b;"))
        flood = threading.Thread(
            target=lambda: wait_until(lambda: not wire.send(b"a" * 65_536), "")
        )
        flood.start()
        assert wire.refusal()[0] in (400, 408)
        wire.socket.shutdown(socket.SHUT_RDWR)
        flood.join()


def test_bodies_that_are_too_large_hold_nobody_up(node: NodeProcess) -> None:
    wires = [Wire(node) for _ in range(8)]
    try:
        for wire in wires:
            wire.send(put(b"Content-Length: %d\r\n" % (1 << 40), b""))
        assert {wire.refusal() for wire in wires} == {(413, "body_too_large")}
        assert all(wire.is_closed() for wire in wires)
    finally:
        for wire in wires:
            wire.socket.close()
    with Wire(node) as wire:
        wire.send(put(CHUNKED, b""))
        chunk = b"100000\r\n" + b" " * MIB + b"\r\n"
        flood = _flood(wire, chunk)
        assert wire.refusal() == (413, "body_too_large")
        wire.socket.shutdown(socket.SHUT_RDWR)
        flood.join()


# ---------------------------------------------------------------------- slow, half and many


@pytest.mark.parametrize(
    ("begun", "drip"),
    [
        (b"GET / HTTP/1.1\r\nX-Slow: ", b"a"),
        (b"GET / HTTP/1.1\r\n", b"X: a\r\n"),
        (b"", b"\r\n"),
        (put(b"Content-Length: 1000000\r\n", b'{"value":"'), b"a"),
        (put(CHUNKED, b""), b"1\r\n \r\n"),
        (put(CHUNKED, b"b\r\n" + BODY + b"\r\n0\r\n"), b"X: a\r\n"),
    ],
    ids=["header", "headers", "lines", "body", "chunks", "trailers"],
)
def test_what_drips_is_cut_off_and_others_are_served_meanwhile(
    node: NodeProcess, begun: bytes, drip: bytes
) -> None:
    wires = [Wire(node) for _ in range(CONNECTIONS // 2)]
    try:
        for wire in wires:
            wire.send(begun)
            wire.socket.settimeout(0)
        left = list(wires)

        def drip_on() -> bool:
            serves(node)
            for wire in list(left):
                if not wire.send(drip) or _has_answer(wire):
                    left.remove(wire)
            return not left

        wait_until(drip_on, "end of what drips", timeout_s=LIMIT_S)
        said = []
        for wire in wires:
            wire.socket.settimeout(LIMIT_S)
            # What is said while more is sent may be lost on the way.
            with contextlib.suppress(ConnectionResetError, EOFError):
                said.append(wire.refusal()[0])
            assert wire.is_closed()
        # Too slow, too much, or more than there is room for.
        assert said
        assert set(said) <= {400, 408, 429}
    finally:
        for wire in wires:
            wire.socket.close()


def _has_answer(wire: Wire) -> bool:
    """Tell whether the node has answered, or closed."""
    try:
        wire.socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True
    return True


@pytest.mark.parametrize(
    ("sent", "statuses"),
    [
        (b"", []),
        (b"GET / HT", []),
        (get(), [200]),
        (get() * 3, [200, 200, 200]),
        (put(length(BODY), b'{"va', b"/v1/spaces/team/register/smuggled"), []),
        (put(CHUNKED, b"b\r\n" + BODY, b"/v1/spaces/team/register/smuggled"), []),
        (get(b"/v1/changes"), []),
    ],
)
def test_a_half_closed_connection_ends(node: NodeProcess, sent: bytes, statuses: list[int]) -> None:
    with Wire(node) as wire:
        wire.send(sent)
        answers = [wire.answer()[0] for _ in statuses]
        wire.socket.shutdown(socket.SHUT_WR)
        assert answers == statuses
        assert wire.is_closed()


def test_whoever_leaves_in_the_middle_leaves_nothing(node: NodeProcess) -> None:
    for sent in (b"G", get()[:-2], put(length(BODY), b"{"), get() * 500, get(b"/v1/changes")):
        for _ in range(10):
            with Wire(node) as wire:
                wire.send(sent)


def test_more_connections_than_there_may_be_are_told_so_and_are_served_later(
    node: NodeProcess,
) -> None:
    wires = [Wire(node) for _ in range(3 * CONNECTIONS)]
    try:
        answered = []
        for wire in wires:
            wire.send(get())
            try:
                answered.append(wire.answer()[0])
            except (ConnectionResetError, EOFError):
                answered.append(503)
        assert answered.count(200) == CONNECTIONS
        assert answered.count(503) == 2 * CONNECTIONS
    finally:
        for wire in wires:
            wire.socket.close()


def test_pipelined_requests_whose_answers_nobody_reads_are_bounded(node: NodeProcess) -> None:
    with Wire(node) as wire:
        wire.socket.settimeout(0.5)
        sent = 0
        with contextlib.suppress(TimeoutError):
            while sent < 64 * MIB:
                sent += wire.socket.send(get() * 1_000)
        assert sent < 64 * MIB, "the node reads on, though nobody takes its answers"
        serves(node)
