"""Bytes that no client of HTTP would send, to a real node: refused clearly, and at no cost.

After every test the node must have its descriptors back, must not have grown, and must serve
others. Nothing here sleeps: what is to be cut off is waited for.
"""

from __future__ import annotations

import base64
import json
import socket
import threading
from collections.abc import Iterator
from typing import Any, Final, Self

import psutil
import pytest

from tests.node.processes import NodeProcess
from tests.waiting import wait_until

_RECEIVE_MS: Final = 1_500
_CONNECTIONS: Final = 60
_LIMIT_S: Final = 30.0
_GROWTH_BYTES: Final = 64 << 20
_MIB: Final = 1 << 20

_HOST: Final = b"Host: localhost\r\n"
_JSON: Final = b"Content-Type: application/json\r\n"
_CHUNKED: Final = b"Transfer-Encoding: chunked\r\n"
_CITY: Final = b"/v1/spaces/team/register/city"
_BODY: Final = b'{"value":1}'
_END: Final = b"0\r\n\r\n"


def _get(path: bytes = _CITY, more: bytes = b"") -> bytes:
    return b"GET " + path + b" HTTP/1.1\r\n" + _HOST + more + b"\r\n"


def _put(head: bytes, body: bytes = _BODY, path: bytes = _CITY) -> bytes:
    return b"PUT " + path + b" HTTP/1.1\r\n" + _HOST + _JSON + head + b"\r\n" + body


def _length(body: bytes) -> bytes:
    return b"Content-Length: %d\r\n" % len(body)


_SMUGGLED: Final = _put(_length(_BODY), path=b"/v1/spaces/team/register/smuggled")
"""A request that stands where no request may be found."""


class Wire:
    """A connection to a node, bytes, and no manners."""

    def __init__(self, node: NodeProcess) -> None:
        port = int(node.ready["http"].rpartition(":")[2])
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=_LIMIT_S)
        self._read = bytearray()

    def send(self, *pieces: bytes) -> bool:
        """Send bytes; tells whether the node was there to take them."""
        try:
            for piece in pieces:
                self.socket.sendall(piece)
        except (BrokenPipeError, ConnectionResetError):
            return False
        return True

    def answer(self) -> tuple[int, Any]:
        """Read one answer; ``EOFError`` where the node has closed."""
        head, _, _ = self.until(b"\r\n\r\n").partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines)
        length = int(headers.get("content-length", "0"))
        while len(self._read) < length:
            self._more()
        body = bytes(self._read[:length])
        del self._read[:length]
        status = int(first.split()[1])
        value: Any = json.loads(body) if body else None
        if status >= 400:
            assert headers["content-type"] == "application/problem+json", headers
            assert value["status"] == status
            assert value["detail"]
        return status, value

    def refusal(self) -> tuple[int, str]:
        """Read the status and the code of the problem that comes."""
        status, value = self.answer()
        assert status >= 400, value
        return status, value["code"]

    def exactly(self, count: int) -> bytes:
        """Read as many bytes; ``EOFError`` where the node has closed."""
        while len(self._read) < count:
            self._more()
        data = bytes(self._read[:count])
        del self._read[:count]
        return data

    def is_closed(self) -> bool:
        """Read until the node closes."""
        try:
            while self.socket.recv(1 << 16):
                pass
        except ConnectionResetError:
            pass
        return True

    def until(self, mark: bytes) -> bytes:
        """Read up to and with a mark."""
        while mark not in self._read:
            self._more()
        data, found, rest = bytes(self._read).partition(mark)
        self._read = bytearray(rest)
        return data + found

    def _more(self) -> None:
        data = self.socket.recv(1 << 16)
        if not data:
            raise EOFError
        self._read += data

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    flags = (
        "--http=127.0.0.1:0",
        f"--set=http.receive_ms={_RECEIVE_MS}",
        f"--set=http.connections={_CONNECTIONS}",
    )
    with NodeProcess(tmp_path_factory.mktemp("hostile"), *flags) as started:
        with Wire(started) as wire:
            wire.send(_put(_length(b'{"value":"Rome"}'), b'{"value":"Rome"}'))
            assert wire.answer()[0] == 200
        yield started
        assert "unexpected" not in started.log()


@pytest.fixture(autouse=True)
def _harmless(node: NodeProcess) -> Iterator[None]:
    """Hold the node to it that a test has cost it nothing."""
    process = psutil.Process(node.pid)
    _serves(node)
    wait_until(lambda: not _clients(process), "connections that have ended")
    files, memory_bytes = process.num_fds(), process.memory_info().rss
    yield
    _serves(node)
    wait_until(lambda: process.num_fds() <= files, "descriptors that were given back")
    assert process.memory_info().rss - memory_bytes < _GROWTH_BYTES


def _clients(process: psutil.Process) -> list[Any]:
    return [one for one in process.net_connections("tcp") if one.status != "LISTEN"]


def _value(node: NodeProcess, key: bytes) -> Any:
    with Wire(node) as wire:
        wire.send(_get(b"/v1/spaces/team/register/" + key))
        status, value = wire.answer()
        assert status == 200
        return value["value"]


def _serves(node: NodeProcess) -> None:
    """Fail unless the node serves somebody else."""
    assert _value(node, b"smuggled") is None


def _refused(node: NodeProcess, sent: bytes) -> tuple[int, str]:
    with Wire(node) as wire:
        wire.send(sent)
        return wire.refusal()


# ---------------------------------------------------------------------- smuggling

_TWO_MEANINGS: Final = {
    "length and chunks": _put(_length(_BODY) + _CHUNKED, _END + _SMUGGLED),
    "chunks and length": _put(_CHUNKED + _length(_BODY), _END + _SMUGGLED),
    "chunks twice": _put(_CHUNKED + _CHUNKED, _END + _SMUGGLED),
    "a list of chunked": _put(b"Transfer-Encoding: chunked, chunked\r\n", _END + _SMUGGLED),
    "chunked last but not only": _put(b"Transfer-Encoding: chunked, identity\r\n", _SMUGGLED),
    "identity": _put(b"Transfer-Encoding: identity\r\n", _SMUGGLED),
    "another coding": _put(b"Transfer-Encoding: xchunked\r\n", _SMUGGLED),
    "a space before the colon": _put(b"Transfer-Encoding : chunked\r\n", _END + _SMUGGLED),
    "a control character": _put(b"Transfer-Encoding:\x0bchunked\r\n", _END + _SMUGGLED),
    "a folded line": _put(b"Transfer-Encoding:\r\n chunked\r\n", _END + _SMUGGLED),
    "two lengths": _put(_length(_BODY) + b"Content-Length: 0\r\n", _BODY + _SMUGGLED),
    "one length twice": _put(_length(_BODY) * 2, _BODY + _SMUGGLED),
    "a list of lengths": _put(b"Content-Length: 11, 11\r\n", _BODY + _SMUGGLED),
    "a length with a sign": _put(b"Content-Length: +11\r\n", _BODY + _SMUGGLED),
    "a length below nothing": _put(b"Content-Length: -1\r\n", _BODY + _SMUGGLED),
    "a length of Python's": _put(b"Content-Length: 1_1\r\n", _BODY + _SMUGGLED),
    "a length beyond any": _put(b"Content-Length: " + b"9" * 5_000 + b"\r\n", _SMUGGLED),
    "a chunk with a sign": _put(_CHUNKED, b"+b\r\n" + _BODY + b"\r\n" + _END + _SMUGGLED),
    "a chunk in C": _put(_CHUNKED, b"0xb\r\n" + _BODY + b"\r\n" + _END + _SMUGGLED),
    "a chunk below nothing": _put(_CHUNKED, b"-b\r\n" + _BODY + b"\r\n" + _END + _SMUGGLED),
    "a chunk beyond any": _put(_CHUNKED, b"f" * 40 + b"\r\n" + _BODY + _SMUGGLED),
    "a chunk that goes on": _put(_CHUNKED, b"b\r\n" + _BODY + b"xx" + _END + _SMUGGLED),
    "chunks without returns": _put(_CHUNKED, b"b\n" + _BODY + b"\n0\n\n" + _SMUGGLED),
    "lines without returns": _get().replace(b"\r\n", b"\n") + _SMUGGLED,
    "a return within a header": _get(more=b"X-Author: a\rX-Trust: 7\r\n") + _SMUGGLED,
    "a folded header": _get(more=b"X-Author: a\r\n b\r\n") + _SMUGGLED,
    "nothing within a header": _get(more=b"X-Author: a\x00b\r\n") + _SMUGGLED,
    "two hosts": _get(more=b"Host: example.org\r\n") + _SMUGGLED,
    "no host": _get().replace(_HOST, b"") + _SMUGGLED,
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
            body = b"b\r\n" + _BODY + b"\r\n0\r\n" + trailers + b"\r\n"
            wire.send(_put(_CHUNKED, body, path))
            status, written = wire.answer()
            assert (status, written["repeated"]) == (200, False)
        wire.send(_get(path + b"?siblings=true"))
        (sibling,) = wire.answer()[1]["siblings"]
        assert (sibling["author"], sibling["trust"]) == ("", 0)


@pytest.mark.parametrize("trailers", [b"X: " + b"a" * 200_000 + b"\r\n", b"X: a\r\n" * 10_000])
def test_trailers_are_bounded(node: NodeProcess, trailers: bytes) -> None:
    body = b"b\r\n" + _BODY + b"\r\n0\r\n" + trailers + b"\r\n"
    with Wire(node) as wire:
        wire.send(_put(_CHUNKED, body, b"/v1/spaces/team/register/smuggled"))
        assert wire.refusal() == (400, "malformed_request")
        assert wire.is_closed()


@pytest.mark.parametrize(
    "garbage", [b"\x00\x01\x02\r\n\r\n", b"HELLO\r\n\r\n", b"\x16\x03\x01\x02\x00\r\n\r\n"]
)
def test_garbage_behind_a_request_is_cut_off(node: NodeProcess, garbage: bytes) -> None:
    with Wire(node) as wire:
        wire.send(_get())
        assert wire.answer()[0] == 200
        wire.send(garbage, _SMUGGLED)
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
    (_CITY + b"?siblings=\xff", 400, "malformed_request"),
    (_CITY + b"?siblings=%ff", 400, "malformed_query"),
    (_CITY + b"?" + b"&".join(b"a%d=1" % one for one in range(100)), 400, "malformed_query"),
    (b"/v1/conflicts?cursor=" + base64.urlsafe_b64encode(b"\x91" * 5_000), 400, "invalid_token"),
    (b"/v1/conflicts?cursor=" + base64.urlsafe_b64encode(b"\xdd\xff\xff\xff\xff"), 400,
     "invalid_token"),
    (b"/v1/conflicts?limit=" + b"9" * 5_000, 400, "invalid_value"),
    (b"http://example.org" + _CITY, 421, "misdirected_request"),
    (b"http://localhost@example.org" + _CITY, 421, "misdirected_request"),
    (b"file:///etc/passwd", 400, "malformed_request"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "status", "code"), _PATHS)
def test_a_path_that_plays_tricks_is_refused(
    node: NodeProcess, path: bytes, status: int, code: str
) -> None:
    assert _refused(node, _get(path)) == (status, code)


@pytest.mark.parametrize(
    "key", [b"..", b"..%2F..%2Fetc%2Fpasswd", b"%252e", b"a%2Fb", b"%00", b"{}"]
)
def test_what_looks_like_a_trick_is_a_key_like_any_other(node: NodeProcess, key: bytes) -> None:
    path = b"/v1/spaces/..%2F..%2Ftmp/register/" + key
    with Wire(node) as wire:
        wire.send(_put(_length(_BODY), path=path), _get(path))
        assert [wire.answer()[0] for _ in range(2)] == [200, 200]
    assert not list(node.folder.glob("**/passwd"))


_TEXTS: Final = [
    (_put(b"X-Author: \xff\xfe\r\n" + _length(_BODY)), 400, "invalid_value"),
    (_put(b"X-Trust: \xd9\xa3\r\n" + _length(_BODY)), 400, "invalid_value"),
    (_get(more=b"X-Context: c1.\xff\r\n"), 400, "invalid_token"),
    (_get(more=b"X-Context: c1." + base64.urlsafe_b64encode(b"\x91" * 9_000) + b"\r\n"), 400,
     "invalid_token"),
    (_get(more=b"X-Context: c1." + base64.urlsafe_b64encode(b"\xdd\xff\xff\xff\xff") + b"\r\n"),
     400, "invalid_token"),
    (_get(more=b"X-Timeout-Ms: " + b"9" * 5_000 + b"\r\n"), 400, "invalid_value"),
    (_get(more=b"Origin: http://\xff\r\n"), 403, "foreign_origin"),
    (_get().replace(b"localhost", b"\xff"), 421, "misdirected_request"),
    (_get().replace(b"localhost", b"[::1"), 421, "misdirected_request"),
    (_get().replace(b"localhost", b"localhost@example.org"), 421, "misdirected_request"),
    (_put(_length(_BODY)).replace(b"application/json", b"\xff"), 415, "unsupported_media_type"),
    (_put(_length(b'{"value":"\xff"}'), b'{"value":"\xff"}'), 400, "invalid_value"),
    (_put(_length(b'{"value":"\\ud800"}'), b'{"value":"\\ud800"}'), 400, "invalid_value"),
    (_put(_length(b'{"\xff":1}'), b'{"\xff":1}'), 400, "invalid_value"),
    (_put(b"Transfer-Encoding: gzip, chunked\r\n", b"b\r\n" + _BODY + b"\r\n" + _END), 415,
     "unsupported_media_type"),
    (_put(b"Content-Encoding: gzip\r\n" + _length(_BODY)), 415, "unsupported_media_type"),
    (b"GET " + _CITY + b"\r\n\r\n", 400, "malformed_request"),
    (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, "malformed_request"),
    (b"CONNECT example.org:80 HTTP/1.1\r\n" + _HOST + b"\r\n", 404, "unknown_path"),
    (b"OPTIONS * HTTP/1.1\r\n" + _HOST + b"\r\n", 404, "unknown_path"),
    (b"A" * 100_000 + b" / HTTP/1.1\r\n\r\n", 400, "malformed_request"),
    (_get(more=b"".join(b"X-%d: a\r\n" % one for one in range(10_000))), 400, "malformed_request"),
]  # fmt: skip


@pytest.mark.parametrize(("sent", "status", "code"), _TEXTS)
def test_text_that_is_none_is_refused(
    node: NodeProcess, sent: bytes, status: int, code: str
) -> None:
    assert _refused(node, sent) == (status, code)


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
    status, code = _refused(node, _put(_length(body), body))
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
    sent = _put(_length(body), body).replace(b"application/json", b"application/msgpack")
    status, code = _refused(node, sent)
    assert status in (400, 413)
    assert code in ("invalid_value", "limit_exceeded", "malformed_frame")


def test_a_body_of_single_bytes_costs_no_more_than_its_bytes(node: NodeProcess) -> None:
    value = b'{"value":"' + b"x" * 300_000 + b'"}'
    pieces = b"".join(b"1;a=%d\r\n%c\r\n" % (at, byte) for at, byte in enumerate(value))
    path = b"/v1/spaces/team/register/pieces"
    with Wire(node) as wire:
        wire.send(_put(_CHUNKED, pieces + _END, path))
        assert wire.answer()[0] == 200
    assert len(_value(node, b"pieces")) == 300_000


def _flood(wire: Wire, piece: bytes) -> threading.Thread:
    """Send a piece over and over, beside the test, until the node takes no more."""
    flood = threading.Thread(target=lambda: wait_until(lambda: not wire.send(piece), "refusal"))
    flood.start()
    return flood


def test_a_chunk_of_which_only_the_name_never_ends_is_cut_off(node: NodeProcess) -> None:
    with Wire(node) as wire:
        wire.send(_put(_CHUNKED, b"b;"))
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
            wire.send(_put(b"Content-Length: %d\r\n" % (1 << 40), b""))
        assert {wire.refusal() for wire in wires} == {(413, "body_too_large")}
        assert all(wire.is_closed() for wire in wires)
    finally:
        for wire in wires:
            wire.socket.close()
    with Wire(node) as wire:
        wire.send(_put(_CHUNKED, b""))
        chunk = b"100000\r\n" + b" " * _MIB + b"\r\n"
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
        (_put(b"Content-Length: 1000000\r\n", b'{"value":"'), b"a"),
        (_put(_CHUNKED, b""), b"1\r\n \r\n"),
        (_put(_CHUNKED, b"b\r\n" + _BODY + b"\r\n0\r\n"), b"X: a\r\n"),
    ],
    ids=["header", "headers", "lines", "body", "chunks", "trailers"],
)
def test_what_drips_is_cut_off_and_others_are_served_meanwhile(
    node: NodeProcess, begun: bytes, drip: bytes
) -> None:
    wires = [Wire(node) for _ in range(_CONNECTIONS // 2)]
    try:
        for wire in wires:
            wire.send(begun)
            wire.socket.settimeout(0)
        left = list(wires)

        def drip_on() -> bool:
            _serves(node)
            for wire in list(left):
                if not wire.send(drip) or _has_answer(wire):
                    left.remove(wire)
            return not left

        wait_until(drip_on, "end of what drips", timeout_s=_LIMIT_S)
        for wire in wires:
            wire.socket.settimeout(_LIMIT_S)
            try:
                # Too slow, too much, or more than there is room for: each is said.
                assert wire.refusal()[0] in (400, 408, 429)
            except (ConnectionResetError, EOFError):
                # It was said while more was sent, and was lost on the way.
                continue
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
        (_get(), [200]),
        (_get() * 3, [200, 200, 200]),
        (_put(_length(_BODY), b'{"va', b"/v1/spaces/team/register/smuggled"), []),
        (_put(_CHUNKED, b"b\r\n" + _BODY, b"/v1/spaces/team/register/smuggled"), []),
        (_get(b"/v1/changes"), []),
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
    for sent in (b"G", _get()[:-2], _put(_length(_BODY), b"{"), _get() * 500, _get(b"/v1/changes")):
        for _ in range(10):
            with Wire(node) as wire:
                wire.send(sent)


def test_more_connections_than_there_may_be_are_told_so_and_are_served_later(
    node: NodeProcess,
) -> None:
    wires = [Wire(node) for _ in range(3 * _CONNECTIONS)]
    try:
        answered = []
        for wire in wires:
            wire.send(_get())
            try:
                answered.append(wire.answer()[0])
            except (ConnectionResetError, EOFError):
                answered.append(503)
        assert answered.count(200) == _CONNECTIONS
        assert answered.count(503) == 2 * _CONNECTIONS
    finally:
        for wire in wires:
            wire.socket.close()


def test_pipelined_requests_whose_answers_nobody_reads_are_bounded(node: NodeProcess) -> None:
    with Wire(node) as wire:
        wire.socket.settimeout(0.5)
        sent = 0
        try:
            while sent < 64 * _MIB:
                sent += wire.socket.send(_get() * 1_000)
        except TimeoutError:
            pass
        assert sent < 64 * _MIB, "the node reads on, though nobody takes its answers"
        _serves(node)


# ---------------------------------------------------------------------- WebSocket

_KEY: Final = b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
_UPGRADE: Final = b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
_OFFER: Final = b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n"


def _frame(kind: int, payload: bytes, *, last: bool = True, flags: int = 0) -> bytes:
    """Return a frame of a client, masked by zeros."""
    size = len(payload)
    if size < 126:
        length = bytes([0x80 | size])
    elif size < 1 << 16:
        length = bytes([0x80 | 126]) + size.to_bytes(2)
    else:
        length = bytes([0x80 | 127]) + size.to_bytes(8)
    return bytes([(0x80 if last else 0) | flags | kind]) + length + bytes(4) + payload


def _upgraded(node: NodeProcess, more: bytes = b"") -> Wire:
    wire = Wire(node)
    wire.send(_get(b"/v1/socket", _UPGRADE + _KEY + more))
    head = wire.until(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 101"), head
    assert b"deflate" not in head.lower(), "compression, whose ratio is in the sender's hands"
    return wire


def _close_code(wire: Wire) -> int:
    """Read frames until the node says farewell, and return why."""
    while True:
        kind, length = wire.exactly(2)
        size = int.from_bytes(wire.exactly({126: 2, 127: 8}[length])) if length > 125 else length
        payload = wire.exactly(size)
        if kind & 0xF == 8:
            return int.from_bytes(payload[:2])


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        ([_frame(1, b"text")], 1001),
        ([_frame(1, b"\xff\xfe")], 1007),
        ([_frame(3, b"a kind that is none")], 1002),
        ([_frame(0, b"goes on with nothing")], 1002),
        ([_frame(2, b"a", last=False), _frame(2, b"b")], 1002),
        ([_frame(2, b"compressed", flags=0x40)], 1002),
        ([_frame(2, b"reserved", flags=0x10)], 1002),
        ([_frame(9, b"a" * 126)], 1002),
        ([_frame(9, b"in pieces", last=False)], 1002),
        ([_frame(8, b"\x00")], 1002),
        ([b"\x82\xff" + b"\x7f" + b"\xff" * 7 + bytes(4)], 1009),
        ([b"\x82\xff" + b"\xff" * 8 + bytes(4)], 1009),
        ([_frame(2, b"no message")], 1001),
    ],
)
def test_a_socket_that_breaks_the_rules_is_told_why_and_closed(
    node: NodeProcess, sent: list[bytes], code: int
) -> None:
    with _upgraded(node, _OFFER) as wire:
        wire.send(*sent)
        assert _close_code(wire) == code
        assert wire.is_closed()


def test_a_message_in_pieces_without_end_is_cut_off(node: NodeProcess) -> None:
    with _upgraded(node) as wire:
        piece = bytes(_MIB)
        sent = wire.send(_frame(2, piece, last=False))
        for _ in range(63):
            sent = sent and wire.send(_frame(0, piece, last=False))
        assert not sent or _close_code(wire) == 1009
        assert wire.is_closed()


def test_tiny_pieces_without_end_are_cut_off(node: NodeProcess) -> None:
    with _upgraded(node) as wire:
        flood = _frame(0, b"", last=False) * 50_000
        wire.send(_frame(2, b"", last=False))
        _serves(node)
        for _ in range(20):
            if not wire.send(flood):
                break


def test_pings_without_end_are_answered_no_faster_than_they_are_read(node: NodeProcess) -> None:
    with _upgraded(node) as wire:
        wire.socket.settimeout(0.5)
        pings = _frame(9, b"p" * 125) * 1_000
        sent = 0
        try:
            while sent < 64 * _MIB:
                sent += wire.socket.send(pings)
        except (TimeoutError, ConnectionError):
            pass
        _serves(node)
