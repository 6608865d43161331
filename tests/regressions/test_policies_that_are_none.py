"""What was no policy could be written where policies are.

Any value, of any datatype, was taken under a key that begins with ``policy:``. It was
replicated to every region; from then on the space's policy could be neither read nor changed
in part, and its quota bound nobody.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from crdtmem.crdt import DATATYPES
from crdtmem.errors import InvalidValue
from crdtmem.memory import Memory
from crdtmem.policy import SYSTEM_SPACE, Policy, policy_key
from crdtmem.transaction import Operation, Transaction

_KEY = policy_key(("team",))
_WHOLE = Policy(quota_keys=3).as_value()


@pytest.mark.parametrize(
    ("datatype", "key", "name", "arguments"),
    [
        ("register", _KEY, "set", (5,)),
        ("register", _KEY, "set", ({"resolver": 7},)),
        ("register", _KEY, "set", ({**_WHOLE, "quota_keys": "many"},)),
        ("register", "policy:garbage", "set", (_WHOLE,)),
        ("register", 'policy:["team" ]', "set", (_WHOLE,)),
        ("register", "policy:[1]", "set", (_WHOLE,)),
        ("register", "policy:[[]]", "set", (_WHOLE,)),
        ("register", "member:1", "set", (_WHOLE,)),
        ("set", _KEY, "add", (1,)),
        ("map", _KEY, "set", ("resolver", "latest")),
    ],
)
def test_what_is_no_policy_is_refused(
    datatype: str, key: str, name: str, arguments: tuple[Any, ...]
) -> None:
    async def scene() -> None:
        async with await Memory.open("memory:", tune_gc=False) as memory:
            transaction = Transaction()
            code = DATATYPES[datatype].code
            transaction.add(Operation(SYSTEM_SPACE, code, key, name, arguments))
            with pytest.raises(InvalidValue) as refused:
                await memory.commit(transaction)
            assert refused.value.hint
            assert await memory.keys(SYSTEM_SPACE, code, after="policy:") == []

    asyncio.run(scene())


def test_a_policy_is_written_and_taken_back() -> None:
    async def scene() -> None:
        async with await Memory.open("memory:", tune_gc=False) as memory:
            register = DATATYPES["register"].code
            for name, arguments, exists in (("set", (_WHOLE,), True), ("delete", (), False)):
                transaction = Transaction()
                transaction.add(Operation(SYSTEM_SPACE, register, _KEY, name, arguments))
                await memory.commit(transaction)
                reading = await memory.read(SYSTEM_SPACE, register, _KEY)
                assert reading.exists is exists

    asyncio.run(scene())
