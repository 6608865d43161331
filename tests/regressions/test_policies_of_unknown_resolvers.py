"""A policy that named a resolver which nobody has was taken.

A slip of the pen in a resolver's name was answered as written, through every way in but the
command line; from then on all of the space's contested keys were read as unresolved, in every
region.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from crdtmem.crdt import DATATYPES
from crdtmem.errors import UnknownName
from crdtmem.memory import Memory
from crdtmem.policy import SYSTEM_SPACE, Policy, policy_key
from crdtmem.resolve import RESOLVERS
from crdtmem.transaction import Operation, Transaction
from tests.server.serving import Served, run

_LATER = Policy(resolver="of-tomorrow", trust_ordered=True)


@pytest.mark.parametrize("policy", [_LATER, Policy("latest", 99), Policy(resolver="")])
def test_a_resolver_that_is_unknown_is_refused_where_it_is_written(policy: Policy) -> None:
    async def scene() -> None:
        async with await Memory.open("memory:", tune_gc=False) as memory:
            with pytest.raises(UnknownName) as refused:
                await memory.space("team").set_policy(policy)
            for name, _ in RESOLVERS:
                assert name in refused.value.hint
            opened = memory.transaction()
            opened.space("team").put("city", "Rome")
            opened.space("team").set_policy(policy)
            with pytest.raises(UnknownName):
                await memory.commit(opened.transaction)
            assert await memory.space("team").get("city") is None
            await memory.space("team").set_policy(Policy("majority"))

    asyncio.run(scene())


def test_it_is_refused_over_http_too(tmp_path: Path) -> None:
    async def scene(served: Served) -> None:
        path = "/v1/spaces/team/policy"
        refused = await served.ask("PUT", path, {"resolver": "of-tomorrow"})
        assert (refused.status, refused.code) == (404, "unknown_name")
        assert "majority" in refused.value["hint"]
        assert (await served.good("GET", path))["is_default"]

    run(tmp_path, scene)


def test_one_that_a_later_version_wrote_is_obeyed_all_the_same() -> None:
    async def scene() -> None:
        async with await Memory.open("memory:", tune_gc=False) as memory:
            # As the engine is handed what another replica has written: past this one's gate.
            code = DATATYPES["register"].code
            transaction = Transaction()
            value = _LATER.as_value()
            transaction.add(Operation(SYSTEM_SPACE, code, policy_key(("team",)), "set", (value,)))
            transaction.seal(memory.limits)
            ticket = memory.runtime.ticket()
            now = memory.runtime.now_us()
            memory.runtime.queued(memory.engine.submit(ticket, transaction, now))
            await ticket
            assert memory.engine.replica.policy(("team",)) == _LATER
            await memory.space("team").put("city", "Rome")
            assert (await memory.space("team").register("city").read()).unknown_resolver

    asyncio.run(scene())
