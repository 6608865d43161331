"""A WebSocket whose other side breaks the rules: told why, and cut off."""

from __future__ import annotations

import contextlib
from typing import Final

import pytest

from tests.node.processes import NodeProcess
from tests.server.hostile import (
    MIB,
    Wire,
    get,
    serves,
)

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
    wire.send(get(b"/v1/socket", _UPGRADE + _KEY + more))
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
        piece = bytes(MIB)
        sent = wire.send(_frame(2, piece, last=False))
        for _ in range(63):
            sent = sent and wire.send(_frame(0, piece, last=False))
        assert not sent or _close_code(wire) == 1009
        assert wire.is_closed()


def test_tiny_pieces_without_end_cost_nothing_and_hold_nobody_up(node: NodeProcess) -> None:
    with _upgraded(node) as wire:
        flood = _frame(0, b"", last=False) * 20_000
        wire.send(_frame(2, b"", last=False))
        for _ in range(20):
            serves(node)
            if not wire.send(flood):
                break


def test_pings_without_end_are_answered_no_faster_than_they_are_read(node: NodeProcess) -> None:
    with _upgraded(node) as wire:
        wire.socket.settimeout(0.5)
        pings = _frame(9, b"p" * 125) * 1_000
        sent = 0
        with contextlib.suppress(TimeoutError, ConnectionError):
            while sent < 64 * MIB:
                sent += wire.socket.send(pings)
        assert sent < 64 * MIB, "the node reads on, though nobody takes its answers"
        serves(node)
