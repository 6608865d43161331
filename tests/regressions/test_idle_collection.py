"""A node with something to collect, and a member that is away, woke every five seconds for ever.

Found by the scenario ``month_offline``: a month of virtual time took minutes, all of them
spent on looking at keys of which nothing new could be known.
"""

from __future__ import annotations

from crdtmem.crdt import DATATYPES
from crdtmem.transaction import Operation, Transaction
from simulations.world import World
from tests.simulations.ground import SPACE, Answer, world_of


def _world_with_a_removal_and_an_absentee() -> World:
    world = world_of(2)
    here, absent = world.machines.values()
    absent.stop()
    for operation in ("add", "remove"):
        transaction, answer = Transaction(author="ada"), Answer()
        code = DATATYPES["set_remove_wins"].code
        transaction.add(Operation(SPACE, code, "crew", operation, ("Bob",)))
        here.commit(transaction, answer)
        world.run(1)
        assert answer.ok
    return world


def test_a_node_that_waits_for_an_absent_member_sleeps() -> None:
    world = _world_with_a_removal_and_an_absentee()
    world.run(60)
    engine = world.machines["m0"].engine
    assert len(engine.collector) == 1
    assert engine.next_deadline_us() is None


def test_what_was_waited_for_is_collected_when_the_member_is_back() -> None:
    world = _world_with_a_removal_and_an_absentee()
    world.run(3_600)
    world.machines["m1"].start()
    world.run(60)
    assert world.converged()
    for machine in world.machines.values():
        assert not len(machine.engine.collector), machine.name
        table = machine.engine.state.find(SPACE, DATATYPES["set_remove_wins"].code)
        assert table is None or "crew" not in table.slots
