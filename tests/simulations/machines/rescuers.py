"""Rescue in virtual time: what ``crdtmem rescue`` does, on a simulated machine.

Problem: production's ``rescuing`` waits with asyncio, and there is none here.

Idea: the same few steps over the same pure parts: ``chains`` sorts out what the store has
set aside, ``rescue`` says what to write, ``Epoch.successor`` who may; the waiting is done
by the kernel.

Invariants: the quarantine is only read; refusals are returned, as an operator reads them.
"""

from __future__ import annotations

from typing import Any

from crdtmem.chains import Chain, sort_out
from crdtmem.errors import CrdtmemError
from crdtmem.replica import Committed
from crdtmem.transaction import Transaction
from simulations.node import Machine

__all__ = ["chains_of", "lost_on", "rescue_on"]

_ANSWER_S = 30.0


def chains_of(machine: Machine) -> list[Chain]:
    """Return what a machine's store has set aside."""
    engine, store = machine.engine, machine.store
    assert store is not None
    given_up = engine.membership.former_ids() | engine.epoch.settled.keys()
    return sort_out(store, given_up, engine.state.vector, engine.tips)


def lost_on(machine: Machine) -> list[tuple[int, str]]:
    """Return what is lost there and could be rescued: (origin, dot)."""
    state = machine.engine.state
    return [
        (chain.origin, write.dot)
        for chain in chains_of(machine)
        for write in chain.rescue.listing(state)
        if write.state == "lost" and not chain.unclear
    ]


def rescue_on(machine: Machine) -> list[str]:
    """Rescue all that one machine may; returns what it refused, in words."""
    refused: list[str] = []
    if not machine.up or machine.paused:
        return ["the node is down"]
    for chain in chains_of(machine):
        engine = machine.engine
        engine.epoch.stable_vector(engine.state.vector)
        lost = [w for w in chain.rescue.listing(engine.state) if w.state == "lost"]
        if chain.unclear or not lost:
            continue
        for transaction in chain.rescue.transactions:
            successor = chain.rescuer(machine.engine.epoch, transaction)
            if not chain.rescue.is_lost(transaction, machine.engine.state):
                continue
            if successor != machine.engine.replica_id:
                refused.append(f"{machine.name}: {successor} is to rescue {transaction.dot}")
                continue
            try:
                made = chain.rescue.rescue(transaction, machine.engine.state)
            except CrdtmemError as error:
                refused.append(f"{machine.name}: {transaction.dot}: {error}")
                continue
            if not _write_all(machine, made, refused):
                break
    return refused


def _write_all(machine: Machine, made: list[Transaction], refused: list[str]) -> bool:
    """Write the parts of one lost transaction; ``False`` if the machine takes no more now."""
    for transaction in made:
        committed, error = _commit(machine, transaction)
        if error is not None or committed is None:
            refused.append(f"{machine.name}: {error or 'no answer'}")
            return False
        if committed.repeated:
            break
    return True


def _commit(
    machine: Machine, transaction: Transaction
) -> tuple[Committed | None, CrdtmemError | None]:
    answers: list[tuple[Any, CrdtmemError | None]] = []
    wait_us = int(_ANSWER_S * 1e6)
    machine.commit(transaction, lambda *answer: answers.append(answer), wait_us=wait_us)
    world = machine.world
    end_us = world.kernel.now_us + 2 * wait_us
    while not answers and world.kernel.now_us < end_us and machine.up:
        world.run(0.01)
    return answers[0] if answers else (None, None)
