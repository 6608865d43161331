"""Datagrams are lost, late, doubled, reordered, cut off and harmed, each for itself."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from simulations.network import Link
from tests.simulations.wires import MS, Pair, flips


def test_a_datagram_arrives_late_with_its_sender_or_not_at_all() -> None:
    pair = Pair()
    pair.network.send_datagram("a", "b", b"hi")
    pair.run(10)
    assert pair.b.datagrams == [(10 * MS, "a", b"hi")]
    pair.b.accepts = False
    pair.network.send_datagram("a", "b", b"hi")
    pair.run(10)
    assert len(pair.b.datagrams) == 1


@pytest.mark.parametrize(
    "shut",
    [
        lambda link: setattr(link, "cut", True),
        lambda link: setattr(link, "datagrams", False),
        lambda link: setattr(link, "loss", 1.0),
        lambda link: setattr(link, "mtu_bytes", 99),
    ],
    ids=["cut", "streams only", "loss", "mtu"],
)
def test_a_datagram_that_does_not_pass_is_gone_for_good(shut: Callable[[Link], None]) -> None:
    pair = Pair()
    shut(pair.there)
    pair.network.send_datagram("a", "b", bytes(100))
    pair.run(50)
    pair.there.cut, pair.there.datagrams, pair.there.loss = False, True, 0.0
    pair.there.mtu_bytes = 1_500
    pair.network.flush()
    pair.run(5_000)
    assert pair.b.datagrams == []


def test_a_datagram_of_the_mtu_passes() -> None:
    pair = Pair()
    pair.network.send_datagram("a", "b", bytes(pair.there.mtu_bytes))
    pair.run(10)
    assert len(pair.b.datagrams) == 1


def test_a_cut_also_takes_the_datagrams_on_their_way() -> None:
    pair = Pair()
    pair.network.send_datagram("a", "b", b"on the way")
    pair.network.cut(["a"], ["b"], one_way=True)
    pair.run(1_000)
    assert pair.b.datagrams == []


def test_with_datagrams_only_streams_wait() -> None:
    pair = Pair()
    near, _ = pair.connect()
    pair.there.streams = False
    near.send(b"waits")
    pair.network.send_datagram("a", "b", b"passes")
    pair.run(1_000)
    assert (pair.b.heard, len(pair.b.datagrams)) == ([], 1)
    pair.there.streams = True
    pair.network.flush()
    pair.run(10)
    assert pair.b.text == b"waits"


def test_datagrams_are_lost_doubled_reordered_harmed_and_played_back() -> None:
    pair = Pair(seed=4)
    link = pair.there

    def sent(count: int) -> list[bytes]:
        before = len(pair.b.datagrams)
        for number in range(count):
            pair.network.send_datagram("a", "b", number.to_bytes(2, "big"))
            pair.run(1)
        pair.run(3_000)
        return [data for _, _, data in pair.b.datagrams[before:]]

    assert sent(100) == sorted(sent(100))
    link.loss = 0.3
    assert 40 < len(sent(100)) < 95
    link.loss, link.duplicate = 0.0, 0.3
    assert 110 < len(sent(100)) < 160
    link.duplicate, link.reorder = 0.0, 0.3
    mixed = sent(100)
    assert mixed != sorted(mixed)
    assert len(mixed) == 100
    link.reorder, link.corrupt = 0.0, 1.0
    harmed = sent(20)
    assert [flips(data, n.to_bytes(2, "big")) for n, data in enumerate(harmed)] == [1] * 20
    link.corrupt, link.replay = 0.0, 1.0
    assert len(sent(10)) == 20, "each comes again, much later"


def test_traffic_is_counted_and_traced() -> None:
    pair = Pair()
    near, _ = pair.connect()
    near.send(bytes(100))
    pair.network.send_datagram("a", "b", bytes(50))
    pair.run(10)
    assert (pair.network.sent_bytes, pair.network.messages) == (150, 2)
    assert [record.kind for record in pair.trace.records()] == ["connect", "bytes", "datagram"]
