"""Small packets that claimed large contents made memberlist allocate gigabytes: by the lengths in
their headers (#357), and by decompression (#362). Here nothing is compressed, and no length is
believed beyond what came."""

from __future__ import annotations

import struct
import tracemalloc
from collections.abc import Callable

import msgpack
import pytest

from gossip.config import LAN
from gossip.errors import Rejected
from gossip.frame_wire import decode_frame
from gossip.keyring import Keyring
from gossip.sealing import Seal
from gossip.stream_seal import StreamSeal
from gossip.wire import decode_packet

_MEBI = 1 << 20


def _peak(read: Callable[[bytes], object], data: bytes) -> int:
    """Return how many bytes were allocated at most while this was refused."""
    tracemalloc.start()
    try:
        with pytest.raises(Rejected):
            read(data)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def _claims(size: int) -> list[bytes]:
    """Return bytes of that size that claim far more, by every kind of header."""
    filler = bytes(size)
    claims = [
        header + length + filler
        for header in (b"\xdd", b"\xdf", b"\xdb", b"\xc6", b"\xc9")
        for length in (b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", struct.pack(">I", size))
    ]
    nested = [b"\xdc\x01\x00", b"\xdc\xff\xff", b"\x9f", b"\x91", b"\xdd\x00\x00\x01\x00"]
    claims += [(one * size)[:size] for one in nested]
    claims.append(b"\xdf" + struct.pack(">I", size // 2) + b"\x01" * size)
    return [claim[:size] for claim in claims]


def test_a_packets_headers_are_not_believed() -> None:
    for claim in _claims(1_200):
        assert _peak(decode_packet, claim) < 4 * _MEBI


def test_a_sealed_packets_headers_are_not_believed_either() -> None:
    sender = Seal("c", Keyring([b"k" * 32]), b"s" * 16)
    receiver = Seal("c", Keyring([b"k" * 32]), b"r" * 16)
    for claim in _claims(1_150):
        assert _peak(receiver.open, sender.seal(claim)) < 4 * _MEBI
    assert receiver.sessions == 0


def test_a_frames_headers_are_not_believed() -> None:
    size = LAN.frame_bytes
    # What came is held, taken apart and encoded again for comparison: thrice, and no more.
    for claim in _claims(size):
        assert _peak(decode_frame, claim) < 3 * size + 4 * _MEBI


def test_a_frames_lists_are_not_believed() -> None:
    entry = struct.Struct(">QQQBH")
    for packed in (
        entry.pack(1, 1, 0, 0, 65_535),
        b"".join(entry.pack(member, 1, 0, 0, 0) for member in range(1, 50_000)),
        bytes(_MEBI),
    ):
        for body in ((3, packed, b"", b""), (2, 5, packed, b""), (3, b"", packed, b"")):
            frame = msgpack.packb(["wide", 7, 1, 0, *body])
            assert _peak(decode_frame, frame) < 12 * _MEBI


def test_a_streams_lengths_are_not_believed() -> None:
    for length in (17, _MEBI, LAN.frame_bytes, 0xFFFF_FFFF):
        one = StreamSeal("c", Keyring([b"k" * 32]), b"1" * 16, initiator=True)
        other = StreamSeal("c", Keyring([b"k" * 32]), b"2" * 16, initiator=False)
        other.receive(one.hello())
        assert _peak(other.receive, struct.pack(">I", length) + bytes(1_000)) < _MEBI
        assert other.buffered == 0
