"""What operators do to the nodes of a world, as the command line would do it.

Problem: evictions, checkpoints and the like are asked for by people, in any condition
of the node they ask.

Idea: one function per command, over a ``Machine``; each enters the node as any other
work does, so that a crash may fall into it.

Invariants: what a node refuses is returned, not raised: operators live with that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from crdtmem.checkpointing import Checkpointer
from crdtmem.effects import Effect
from crdtmem.errors import CrdtmemError, Overloaded
from simulations.node import Machine
from simulations.world import World

__all__ = ["cut_log", "evict", "evictions_pending", "finish_evictions", "found_anew", "rejoin"]


def evict(machine: Machine, replica: int, *, forced: bool = False) -> CrdtmemError | None:
    """Give up a member for good, as ``crdtmem evict`` does on a machine; returns why not."""
    executor = machine.executor
    if executor is None:
        return Overloaded("the node is down")
    refused = _ask(
        machine, lambda: executor.engine.evict(replica, executor.now_us(), forced=forced)
    )
    machine.world.note("evict", machine.name, f"{replica:016x}", int(refused is not None))
    machine.world.sometimes("an eviction refused" if refused else "an eviction proposed")
    return refused


def rejoin(machine: Machine) -> CrdtmemError | None:
    """Let a machine join those that gave it up, as ``crdtmem rejoin`` does; returns why not."""
    refused = _ask(machine, lambda: machine.engine.rejoin())
    machine.world.note("rejoin", machine.name, "", int(refused is not None))
    return refused


def _ask(machine: Machine, work: Callable[[], list[Effect]]) -> CrdtmemError | None:
    """Let a node carry out what an operator asks of it; returns the refusal."""
    executor = machine.executor
    if executor is None:
        return Overloaded("the node is down")
    refused: list[CrdtmemError] = []

    def ask() -> None:
        try:
            executor.check_open()
            executor.apply(work())
        except CrdtmemError as error:
            refused.append(error)

    machine.enter(ask)
    return refused[0] if refused else None


def evictions_pending(world: World) -> bool:
    """Tell whether somebody is being given up, and it is not over everywhere."""
    for machine in world.up():
        engine = machine.engine
        evictions, settled = engine.membership.evictions, engine.epoch.settled.keys()
        promised = {gone for word in evictions.promises.values() for gone in word.evicted}
        if not {proposal.victim for proposal in evictions.proposals} | promised <= settled:
            return True
    return False


def finish_evictions(world: World) -> None:
    """Give up every member that nobody is any more, and whom it takes to end an eviction.

    This is what the manual tells an operator to do when an eviction cannot be decided: the
    ids of lost disks and old lives are members that will never promise anything. All of
    them are forced, which is safe because it is done on one machine only: the first that is
    not itself being given up.
    """
    living = {machine.engine.replica_id for machine in world.up()}
    for machine in world.up():
        engine = machine.engine
        promises = engine.membership.evictions.promises.values()
        if any(engine.replica_id in word.evicted for word in promises):
            continue
        wanted = {gone for word in promises for gone in word.evicted}
        dead = engine.epoch.members - living
        for victim in sorted((wanted | dead) - engine.epoch.settled.keys() - {engine.replica_id}):
            evict(machine, victim, forced=True)
        return


def found_anew(world: World) -> None:
    """Where no member is left, let whoever holds most found the cluster anew.

    As ``crdtmem node --found`` does: ids that were given up one after another, each
    waiting for the next to admit it, leave nobody who could.
    """
    running = list(world.up())
    if not running or any(machine.replica.writable for machine in running):
        return

    def held(machine: Machine) -> tuple[int, str]:
        return sum(machine.engine.state.vector.values()), machine.name

    founder = max(running, key=held)
    world.sometimes("a cluster founded anew")
    founder.stop()
    founder.founds = True
    founder.start()
    founder.founds = False


def cut_log(machine: Machine) -> None:
    """Write a checkpoint and cut the whole sync log: who is away now will need a snapshot."""
    executor = machine.executor
    if executor is None or executor.broken is not None:
        return
    checkpointer = Checkpointer(executor, sync_log_bytes=0)
    machine.enter(lambda: executor.start(checkpointer.checkpoint(), _ended))


def _ended(_: Any, error: BaseException | None) -> None:
    """Raise what is no ordinary end: one that the store does not take is written another time."""
    if error is not None and not isinstance(error, CrdtmemError):
        raise error
