"""A frame whose length was harmed on the way swallowed all that came after it, for hours.

Found by the simulator (seed 2507): with one bit of a length flipped, the reader waited for up
to ``frame_bytes`` more; pings kept coming, so the stream passed for a living one, and the node
behind it learned nothing any more.
"""

from collections.abc import Callable

import pytest

from crdtmem.transaction import Transaction
from simulations.network import Stream
from simulations.node import Machine
from simulations.world import World


def _world() -> World:
    world = World(1)
    for region in ("eu-west", "us-east"):
        world.add(region)
    world.mesh()
    world.start()
    world.run(5)
    assert all(machine.replica.writable for machine in world.up())
    return world


def _put(machine: Machine, number: int) -> None:
    transaction = Transaction()
    transaction.put(("s",), 1, f"key {number}", number)
    machine.commit(transaction, lambda result, error: None)


def test_a_stream_whose_frame_never_ends_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    world = _world()
    reader, writer = world.machines["eu-west"], world.machines["us-east"]
    received: Callable[..., None] = reader.received
    harmed: list[int] = []

    def harm(stream: Stream, data: bytes) -> None:
        if not harmed:
            harmed.append(len(data))
            # Half a megabyte more than there is, and less than a frame may have.
            data = data[:1] + bytes((data[1] | 0x08,)) + data[2:]
        received(stream, data)

    monkeypatch.setattr(reader, "received", harm)
    _put(writer, 1)
    world.run(3)
    assert harmed
    assert not world.converged()
    for number in range(2, 40):
        _put(writer, number)
        world.run(1)
    world.run_until(world.converged, "convergence", within_s=30)


def test_a_large_frame_on_a_slow_link_is_awaited() -> None:
    world = _world()
    link = world.network.link("us-east", "eu-west")
    link.bytes_per_s = 20_000
    writer = world.machines["us-east"]
    transaction = Transaction()
    for number in range(4):
        # Of one transaction is made one frame, which takes three seconds.
        transaction.put(("s",), 1, f"key {number}", "x" * 15_000)
    writer.commit(transaction, lambda result, error: None)
    opened = world.reached.copy()
    world.run_until(world.converged, "convergence", within_s=60)
    assert world.reached == opened
