"""What the machines write: every operation of every datatype, drawn from the laws' table.

Problem: a cluster is to be tried with the same operations as the laws of the datatypes,
but some arguments (a replica to transfer rights to, dots of a log) mean something only
on a real machine.

Idea: the strategies of the conformance suite are drawn from as they are, and turned into
what the simulator's clients take: rows of a ``write`` step, in which a log's ``remove``
says how many, and a transfer is a step of its own.

Invariants: every datatype in ``DATATYPES`` is drawn.
"""

from __future__ import annotations

from typing import Any, Final

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from crdtmem.crdt import DATATYPES
from tests.conformance.strategies import OPERATIONS

__all__ = ["ROWS", "SPACES", "Row"]

Row = list[Any]
"""``[space, datatype, key, operation, arguments, {"ttl_ms"}]``: see ``simulations.client``."""

SPACES: Final = (["work"], ["work", "deep"])

assert set(OPERATIONS) == set(DATATYPES), "a new datatype is drawn here too"

_KEYS: Final = st.sampled_from(["k", "k", "l"])
_SPACES: Final = st.sampled_from([SPACES[0], SPACES[0], SPACES[1]])
_TTL_MS: Final = st.sampled_from([None, None, None, 1, 800])


def _row(
    space: list[str], datatype: str, key: str, operation: tuple[Any, ...], ttl_ms: int | None
) -> Row:
    name, *arguments = operation
    if datatype == "log" and name == "remove":
        arguments = [len(arguments[0])]
    more = {} if ttl_ms is None else {"ttl_ms": ttl_ms}
    return [space, datatype, key, name, arguments, more]


ROWS: Final[SearchStrategy[Row]] = st.sampled_from(sorted(DATATYPES)).flatmap(
    lambda name: st.builds(_row, _SPACES, st.just(name), _KEYS, OPERATIONS[name], _TTL_MS)
)
