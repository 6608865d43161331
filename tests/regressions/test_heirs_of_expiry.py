"""What an evicted member had written with an expiry was never removed.

Readers saw nothing of it, but every replica kept it for ever: its removal was its origin's
to write, and the heir that the module spoke of did not exist.
"""

from __future__ import annotations

from crdtmem.transaction import Operation, Options, Transaction
from simulations.operators import evict
from simulations.world import World
from tests.simulations.ground import REGISTER, SPACE, Answer, held, put_and_wait, world_of

_MEMBERS = 4


def _world(expires_in_us: int) -> tuple[World, int]:
    """Return a world of which one member, gone now, wrote something that expires; its id."""
    world = world_of(_MEMBERS)
    gone = max(world.up(), key=lambda machine: machine.engine.replica_id)
    answer, transaction = Answer(), Transaction()
    expires = Options(expires_at_us=gone.clock.now_us() + expires_in_us)
    transaction.add(Operation(SPACE, REGISTER, "brief", "set", (1,), expires))
    gone.commit(transaction, answer)
    world.run_until(lambda: answer.ok, "acknowledgement", within_s=10)
    put_and_wait(gone, [("lasting", 2)])
    world.run_until(world.converged, "convergence", within_s=30)
    # What all have acknowledged must be known before an eviction can be carried.
    world.run(3)
    replica = gone.engine.replica_id
    gone.crash()
    return world, replica


def _is_over(world: World, replica: int) -> bool:
    return all(replica in machine.engine.epoch.settled for machine in world.up())


def test_the_heir_removes_what_expires_after_the_eviction() -> None:
    world, replica = _world(60_000_000)
    operator = next(world.up())
    assert evict(operator, replica) is None
    world.run_until(lambda: _is_over(world, replica), "end of the eviction", within_s=30)
    assert all("brief" in held(machine) for machine in world.up()), "it has not expired yet"
    world.run_until(lambda: all("brief" not in held(m) for m in world.up()), "removal", within_s=90)
    assert all("lasting" in held(machine) for machine in world.up())


def test_the_heir_removes_what_had_expired_before() -> None:
    world, replica = _world(3_500_000)
    world.run(5)
    assert all("brief" in held(machine) for machine in world.up()), "only its origin may"
    assert evict(next(world.up()), replica) is None
    world.run_until(lambda: all("brief" not in held(m) for m in world.up()), "removal", within_s=60)


def test_an_heir_that_restarts_is_one_still() -> None:
    world, replica = _world(60_000_000)
    assert evict(next(world.up()), replica) is None
    world.run_until(lambda: _is_over(world, replica), "end of the eviction", within_s=30)
    for machine in list(world.up()):
        machine.crash()
        machine.start()
    world.run_until(
        lambda: all("brief" not in held(m) for m in world.up()), "removal", within_s=120
    )
