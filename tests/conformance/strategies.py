"""Which operations the laws draw from, per datatype: one line of ``OPERATIONS`` each."""

from __future__ import annotations

from typing import Any

import pycrdt
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from crdtmem.crdt import DATATYPES

__all__ = ["OPERATIONS", "Step", "schedules"]

Operation = tuple[Any, ...]
Step = tuple[Any, ...]

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.sampled_from([0.5, float("nan"), -0.0]),
    st.sampled_from(["", "a", "é"]),
    st.binary(max_size=2),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("ab"), inner),
    max_leaves=3,
)
ELEMENTS = st.sampled_from(["a", "b", "", 1, 1.0, True, None, b"a", [1, "x"], {"n": 1}])
AMOUNTS = st.integers(0, 5)
PATHS = st.sampled_from(["a", ["a"], ["a", "b"], ["a", "b", "c"], ["b"], ["ä", "b"]])


def _op(name: str, *arguments: SearchStrategy[Any]) -> SearchStrategy[Operation]:
    return st.tuples(st.just(name), *arguments)


def _edits() -> list[bytes]:
    """Return updates of a small document by three clients that saw each other's edits."""
    updates: list[bytes] = []
    documents: list[pycrdt.Doc[Any]] = [pycrdt.Doc(client_id=n) for n in (1, 2, 3)]
    for round_number in range(3):
        for document in documents:
            for update in updates:
                document.apply_update(update)
            before = document.get_state()
            text = document.get("text", type=pycrdt.Text)
            text.insert(round_number, "xyz"[round_number])
            if len(text) > 4:
                del text[0:2]
            document.get("map", type=pycrdt.Map)[f"n{round_number}"] = round_number
            updates.append(document.get_update(before))
    return updates


_SETS = st.one_of(
    _op("add", ELEMENTS),
    _op("remove", ELEMENTS),
    _op("discard", ELEMENTS),
    _op("update", st.lists(ELEMENTS, max_size=3)),
    _op("clear"),
    _op("delete"),
)
_COUNTS = (_op("increment", AMOUNTS), _op("increment", AMOUNTS), _op("delete"))
_REGISTERS = st.one_of(_op("set", VALUES), _op("set", VALUES), _op("delete"))

_MEMBERS: dict[str, SearchStrategy[Operation]] = {
    "register": _REGISTERS,
    "multi_value": _REGISTERS,
    "flag": st.one_of(_op("enable"), _op("disable"), _op("delete")),
    "flag_disable_wins": st.one_of(_op("enable"), _op("disable"), _op("delete")),
    "g_counter": st.one_of(*_COUNTS),
    "counter": st.one_of(*_COUNTS, _op("decrement", AMOUNTS), _op("reset")),
    "bounded_counter": st.one_of(
        _op("mint", AMOUNTS),
        _op("burn", AMOUNTS),
        _op("consume", AMOUNTS),
        _op("consume", AMOUNTS),
        _op("release", AMOUNTS),
        _op("transfer", AMOUNTS, st.sampled_from([1, 2, 3, f"{2:016x}"])),
        _op("delete"),
    ),
    "set": _SETS,
    "set_remove_wins": _SETS,
    "log": st.one_of(
        _op("append", VALUES),
        _op("append", VALUES),
        _op("extend", st.lists(VALUES, max_size=3)),
        _op("remove", st.lists(st.tuples(st.integers(1, 3), st.integers(1, 6)), max_size=2)),
        _op("delete"),
    ),
    "document": st.one_of(
        *[_op("update", st.sampled_from(_edits()))] * 3,
        _op("delete"),
    ),
}


def _applied(type_name: str) -> SearchStrategy[Operation]:
    return st.tuples(PATHS, _MEMBERS[type_name]).map(
        lambda drawn: ("apply", drawn[0], type_name, *drawn[1])
    )


OPERATIONS: dict[str, SearchStrategy[Operation]] = {
    **_MEMBERS,
    "map": st.one_of(
        _op("set", PATHS, VALUES),
        _op("set", PATHS, VALUES),
        _op("update", st.dictionaries(st.sampled_from("abc"), VALUES, max_size=3)),
        _op("delete", PATHS),
        _op("delete"),
        *[_applied(type_name) for type_name in sorted(_MEMBERS)],
    ),
}


# What a write stands on: what its replica holds, a fresh read of it, or an earlier read.
OBSERVED = st.sampled_from([None, None, "now", "old"])


def schedules(type_name: str, replicas: int = 3, length: int = 18) -> SearchStrategy[list[Step]]:
    """Return a strategy of schedules: writes, deliveries, reads, collections."""
    index = st.integers(0, replicas - 1)
    kinds: dict[str, tuple[int, SearchStrategy[Step]]] = {
        "write": (8, st.tuples(index, OPERATIONS[type_name], OBSERVED)),
        "deliver": (2, st.tuples(index, index)),
        "pull": (2, st.tuples(index, index)),
        "read": (1, st.tuples(index)),
    }
    if DATATYPES[type_name].collectible:
        kinds["acknowledge"] = (2, st.tuples(index))
        kinds["settle"] = (1, st.tuples())
        kinds["collect"] = (4, st.tuples(index))
    # `one_of` would drop repeated strategies, and with them the weights.
    weighted = [kind for kind, (weight, _) in kinds.items() for _ in range(weight)]
    step = st.sampled_from(weighted).flatmap(
        lambda kind: kinds[kind][1].map(lambda drawn: (kind, *drawn))
    )
    # Left to itself, `lists` draws mostly short ones, and short schedules have no interleavings.
    lengths = st.sampled_from([3, length // 2, length, length])
    return lengths.flatmap(lambda count: st.lists(step, min_size=count, max_size=count))
