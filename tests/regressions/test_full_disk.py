"""A full disk was tried again every two milliseconds.

Reopening a store on a full disk may go well, and the next commit fails all the same: the
executor took it for mended, and what came from peers, which nobody refuses, was committed,
failed and was mended again at once, some hundred times a second for as long as it lasted.
"""

from __future__ import annotations

from crdtmem.mending import PAUSE_MAXIMUM_US
from tests.simulations.ground import held, put, world_of


def test_a_full_disk_is_tried_ever_more_seldom_while_peers_write() -> None:
    world = world_of(2)
    full, peer = world.machines.values()
    reopened: list[int] = []
    store = full.store
    assert store is not None
    reopen = store.reopen

    def counted() -> None:
        reopened.append(world.kernel.now_us)
        reopen()

    store.reopen = counted  # type: ignore[method-assign]
    full.device.faults.full = True
    answers = []
    for number in range(300):
        answers.append(put(peer, f"k{number}", number))
        world.run(0.1)
    assert all(answer.ok for answer in answers)
    assert 5 < len(reopened) < 20, "thirty seconds, and at most five between two attempts"
    assert len(held(full)) == 0
    assert full.executor is not None
    assert [alarm.name for alarm in full.executor.alarms].count("store") == 1
    full.device.faults.full = False
    world.run(PAUSE_MAXIMUM_US / 1e6 + 1)
    assert full.executor.broken is None
    assert full.executor.mender.trouble is None
    world.run(10)
    assert held(full) == held(peer)
    assert len(held(full)) == 300
