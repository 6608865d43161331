"""Rescuing: from the records that a store set aside to writes that everybody joins.

Problem: what lies beyond a cut was acknowledged and may not be joined. An operator
must see it, choose, and have it written anew, once, without the node stopping.

Idea: the store's quarantine is read on its own thread and sorted out by ``chains``;
the pure rules are ``rescue``'s. Each lost transaction is committed through the engine's
ordinary queue, one after the other, because each may stand on the one before.

Invariants: the quarantine is only read; of each dot only the one successor writes; an
interrupted rescue can be repeated, and writes the rest.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any, Final

from crdtmem.chains import Chain, sort_out
from crdtmem.epoch import replica_text
from crdtmem.errors import HistoryGap, InvalidValue
from crdtmem.replica import Committed
from crdtmem.rescue import LostTransaction, LostWrite, Rescue
from crdtmem.runtime import Runtime
from crdtmem.transaction import Transaction

__all__ = ["find_chains", "lost_writes", "rescue_all"]

_COMMIT_S: Final = 60.0


async def find_chains(runtime: Runtime) -> list[Chain]:
    """Return what was set aside, by origin and history; raises ``StoreError``s.

    Origins that are members still are left out: their peers send all of that again.
    """
    engine = runtime.engine
    given_up = engine.membership.former_ids() | engine.epoch.settled.keys()
    vector, tips = engine.state.vector.copy(), dict(engine.tips)
    return await runtime.in_store(lambda: sort_out(runtime.store, given_up, vector, tips))


async def lost_writes(runtime: Runtime) -> list[LostWrite]:
    """Return every delta that was set aside, and what became of it.

    Its state may also be ``unclear``: see ``chains``.
    """
    state = runtime.engine.replica.state
    found: list[LostWrite] = []
    for chain in await find_chains(runtime):
        for write in chain.rescue.listing(state):
            unclear = chain.unclear and write.state == "lost"
            found.append(replace(write, state="unclear") if unclear else write)
    return found


async def rescue_all(runtime: Runtime, chosen: frozenset[str] | None) -> dict[str, Any]:
    """Write what was lost anew: the transactions that hold the chosen dots, or all.

    Returns how many were written, had been before, and which could not be, with the
    reason: another replica is the successor, or what an increment added cannot be told.
    Raises ``InvalidValue`` for a dot that was not lost, and where nothing was written
    because another replica is the successor.
    """
    chains = await find_chains(runtime)
    state = runtime.engine.replica.state
    unknown = set(chosen or ()) - {
        write.dot for chain in chains for write in chain.rescue.listing(state)
    }
    if unknown:
        raise InvalidValue(
            f"nothing was set aside under {', '.join(sorted(unknown))}",
            hint="`crdtmem rescue list` shows what was",
        )
    outcome: dict[str, Any] = {"written": 0, "already": 0, "failed": []}
    refused: InvalidValue | None = None
    for chain in chains:
        for lost in chain.rescue.transactions:
            if chain.unclear if chosen is None else not _dots(lost) & chosen:
                continue
            try:
                if chain.rescue.is_lost(lost, runtime.engine.replica.state):
                    _require_successor(runtime, chain, lost)
                written = await _rescue_one(runtime, chain.rescue, lost)
            except (HistoryGap, InvalidValue) as error:
                outcome["failed"].append({"dot": lost.dot, "reason": error.message})
                refused = error if isinstance(error, InvalidValue) else refused
                continue
            outcome["written" if written else "already"] += 1
    if refused is not None and not outcome["written"]:
        raise refused
    return outcome


def _dots(lost: LostTransaction) -> set[str]:
    origin = lost.dot.partition(":")[0]
    return {f"{origin}:{delta.dot & (1 << 64) - 1}" for part in lost.parts for delta in part}


def _require_successor(runtime: Runtime, chain: Chain, lost: LostTransaction) -> None:
    """Only one replica may rescue each dot, so that nothing is rescued twice."""
    engine = runtime.engine
    engine.epoch.stable_vector(engine.state.vector)
    successor, origin = chain.rescuer(engine.epoch, lost), replica_text(chain.origin)
    if successor == engine.replica_id:
        return
    if successor is None:
        raise InvalidValue(
            f"it is not certain yet who succeeds {origin}",
            hint="all members have to acknowledge this node's admission first; one that is gone "
            f"for good, as {origin} may be, is given up with `crdtmem evict`",
        )
    raise InvalidValue(
        f"{replica_text(successor)} is the one that may rescue what {origin} lost",
        hint="ask the node with that replica id (see `crdtmem status`), or give it up if it is "
        "gone for good",
    )


async def _rescue_one(runtime: Runtime, rescue: Rescue, lost: LostTransaction) -> bool:
    """Write one lost transaction; tells whether there was anything to write."""
    transactions = rescue.rescue(lost, runtime.engine.replica.state)
    for transaction in transactions:
        committed = await _commit(runtime, transaction)
        if committed.repeated:
            # Its client has been served elsewhere: the rest of it as well.
            return False
    return bool(transactions)


async def _commit(runtime: Runtime, transaction: Transaction) -> Committed:
    runtime.check_open()
    engine = runtime.engine
    ticket: asyncio.Future[Committed] = runtime.ticket()
    transaction.seal(engine.limits)
    now = runtime.now_us()
    deadline_us = now + int(_COMMIT_S * 1e6)
    runtime.apply(engine.submit(ticket, transaction, now, deadline_us=deadline_us))
    return await ticket
