"""The table: joins staged in an overlay, against a model that is a set of dots per place."""

from __future__ import annotations

from itertools import count
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from crdtmem.batch import Segment
from crdtmem.columns import COLUMN_FROM, as_column
from crdtmem.crdt import DATATYPES, SHAPES
from crdtmem.digest import hash_dots
from crdtmem.entries import EMPTY, Siblings, Stamp, as_siblings, pack_dot
from crdtmem.joining import distances_over, is_fresh, join_bulk, join_slot, put_all
from crdtmem.table import Overlay, State

SPACE = ("s",)
REGISTER, SET = DATATYPES["register"].code, DATATYPES["set"].code
STAMP = Stamp(1, 1, 1)


def segment(
    first: int, names: list[Any], superseded: list[tuple[int, ...]], *, nested: bool, removal: bool
) -> Segment:
    """A segment as a decoder would give it: distances where possible, tuples elsewhere."""
    column: Any = []
    for index, dots in enumerate(superseded):
        own = len(dots) == 1 and dots[0] >> 64 == first >> 64
        column.append(first + index - dots[0] if own else (dots or 0))
    column = as_column(column)
    values = None if removal else tuple(f"v{n}" for n in range(len(names)))
    keys: Any = "key" if nested else tuple(names)
    fields = tuple(names) if nested else None
    datatype = SET if nested else REGISTER
    return Segment(SPACE, datatype, first, len(names), keys, fields, values, column, STAMP)


class Model:
    """Which dots are live in which place: the definition of the join."""

    def __init__(self) -> None:
        self.live: dict[Any, set[int]] = {}

    def join(self, first: int, names: list[Any], superseded: list[Any], *, removal: bool) -> None:
        for index, (name, dots) in enumerate(zip(names, superseded, strict=True)):
            place = self.live.setdefault(name, set())
            place.difference_update(dots)
            if not removal:
                place.add(first + index)

    def all_dots(self) -> list[int]:
        return [dot for dots in self.live.values() for dot in dots]


@st.composite
def histories(draw: st.DrawFn) -> list[tuple[int, list[str], list[tuple[int, ...]], bool, bool]]:
    """Segments of three replicas, each superseding dots that were live at some moment before.

    The last flag says whether the overlay is published after it.
    """
    sequences = {1: 1, 2: 1, 2**63: 1}
    known: dict[str, list[int]] = {}
    script = []
    for _ in range(draw(st.integers(1, 8))):
        replica = draw(st.sampled_from(sorted(sequences)))
        first = pack_dot(replica, sequences[replica])
        wide = draw(st.booleans())
        size = COLUMN_FROM + 2 if wide else draw(st.integers(1, 3))
        pool = [f"n{n}" for n in range(12)] if wide else ["n0", "n1", "x"]
        distinct = draw(st.booleans())
        names = draw(
            st.lists(st.sampled_from(pool), min_size=size, max_size=size, unique=distinct and wide)
        )
        removal = draw(st.integers(0, 3)) == 0
        superseded: list[tuple[int, ...]] = []
        for index, name in enumerate(names):
            held = known.setdefault(name, [])
            style = draw(st.integers(0, 3))
            chosen = held[-1:] if style < 2 else (held[-3:] if style == 2 else [])
            superseded.append(tuple(sorted(chosen)))
            if not removal:
                held.append(first + index)
        sequences[replica] += len(names)
        script.append((first, names, superseded, removal, draw(st.booleans())))
    return script


def entries_of(state: State, datatype: int) -> dict[Any, set[int]]:
    table = state.table(SPACE, datatype)
    return {
        (field if table.nested else key): {entry[0] for entry in as_siblings(slot)}
        for key, field, slot in table.places()
    }


@given(histories(), st.booleans())
def test_joins_are_those_of_the_model_whatever_the_path_through_the_code(
    script: list[Any], nested: bool
) -> None:
    state, model = State(SHAPES), Model()
    overlay = Overlay(state)
    datatype = SET if nested else REGISTER
    for first, names, superseded, removal, publish in script:
        overlay.join(segment(first, names, superseded, nested=nested, removal=removal))
        model.join(first, names, superseded, removal=removal)
        table = state.table(SPACE, datatype)
        for name, dots in model.live.items():
            place = ("key", name) if nested else (name, None)
            assert {entry[0] for entry in as_siblings(overlay.slot(table, *place))} == dots
        if publish:
            overlay.publish()
            overlay = Overlay(state)
    overlay.publish()
    live = {name: dots for name, dots in model.live.items() if dots}
    assert entries_of(state, datatype) == live
    assert state.digest() == hash_dots(model.all_dots())
    check_shape(state)
    if not nested:
        contested = set(state.table(SPACE, datatype).contested_keys())
        assert contested == {name for name, dots in live.items() if len(dots) > 1}


@given(histories(), st.booleans())
def test_joining_a_history_again_changes_nothing(script: list[Any], nested: bool) -> None:
    """A log may be replayed over a newer checkpoint: derived values are then made anew."""
    state = State(SHAPES)
    snapshots = []
    for _ in range(2):
        for first, names, superseded, removal, _ in script:
            overlay = Overlay(state)
            overlay.join(segment(first, names, superseded, nested=nested, removal=removal))
            overlay.publish()
        state.rebuild_derived()
        snapshots.append((entries_of(state, SET if nested else REGISTER), state.digest()))
    assert snapshots[0] == snapshots[1]


def check_shape(state: State) -> None:
    """No empty place is kept, siblings are sorted and at least two, all dots are distinct."""
    for table in state.tables.values():
        assert all(table.slots.values()) if table.nested else True
        for _, _, slot in table.places():
            assert slot is not EMPTY
            if isinstance(slot, Siblings):
                dots = [entry[0] for entry in slot]
                assert len(dots) > 1
                assert dots == sorted(set(dots))


@given(
    st.lists(st.integers(1, 6), unique=True, max_size=4),
    st.none() | st.integers(1, 8),
    st.sets(st.integers(1, 8)),
)
@example([1, 2], 1, {1})
def test_a_slot_loses_what_is_superseded_and_gains_the_entry_once(
    held: list[int], dot: int | None, gone: set[int]
) -> None:
    slot: Any = None
    for old in held:
        slot = join_slot(slot, (old, "old", STAMP), (), [])
    removed: list[int] = []
    entry = None if dot is None else (dot, "new", STAMP)
    joined = join_slot(slot, entry, gone, removed)
    dots = [found[0] for found in as_siblings(joined)]
    assert set(dots) == (set(held) - gone) | ({dot} if dot is not None else set())
    assert dots == sorted(dots)
    assert sorted(removed) == sorted(set(held) & gone)


def test_bulk_ways_change_nothing_where_they_do_not_apply() -> None:
    names, values = [f"n{n}" for n in range(10)], list(range(10))
    base: dict[Any, Any] = {"n3": (1, "old", STAMP)}
    over: dict[Any, Any] = {"other": (2, "staged", STAMP)}
    siblings = Siblings(((1, "a", STAMP), (2, "b", STAMP)))
    assert not is_fresh(over, base, names)
    assert not is_fresh({"n5": (3, 0, STAMP)}, {}, names)
    assert is_fresh(over, {}, names)
    assert not put_all(over, count(100), [*names[:-1], "n0"], values, STAMP)
    assert distances_over(over, base, [100], names) is None
    assert distances_over({"n3": (3, 0, STAMP)}, base, [100], ["n3"]) is None
    assert distances_over(over, {"n3": EMPTY}, [100], ["n3"]) is None
    assert distances_over(over, {"n3": siblings}, [100], ["n3"]) is None
    assert over == {"other": (2, "staged", STAMP)}
    assert distances_over(over, base, [100], ["n3"]) == [99]
    assert put_all(over, count(100), ["n3"], ["new"], STAMP)
    assert over["n3"] == (100, "new", STAMP)
    assert base["n3"] == (1, "old", STAMP)


@pytest.mark.parametrize("published", [False, True])
def test_a_column_is_joined_in_bulk_only_where_each_delta_saw_what_is_there(
    published: bool,
) -> None:
    names = [f"n{n}" for n in range(10)]
    base: dict[Any, Any] = {name: (dot, "old", STAMP) for dot, name in enumerate(names, 1)}
    before = dict(base)
    over = base if published else {}
    fitting = segment(100, names, [(dot,) for dot in range(1, 11)], nested=False, removal=False)
    for other in (
        segment(100, names, [()] * 10, nested=False, removal=False),
        segment(100, names, [(dot,) for dot in range(2, 12)], nested=False, removal=False),
        segment(100, names, [(dot,) for dot in range(1, 11)], nested=False, removal=True),
        segment(100, names, [(5, dot) for dot in range(1, 11)], nested=False, removal=False),
        segment(100, ["n0"] * 10, [(1,)] * 10, nested=False, removal=False),
    ):
        assert not join_bulk(over, base, other.keys, other)
        assert base == before
    assert join_bulk(over, base, names, fitting)
    assert over["n3"] == (103, "v3", STAMP)
    assert len(over) == 10


def test_an_overlay_that_is_dropped_leaves_no_trace() -> None:
    state = State(SHAPES)
    kept = Overlay(state)
    kept.join(segment(pack_dot(1, 1), ["a"], [()], nested=False, removal=False))
    kept.publish()
    before = entries_of(state, REGISTER), state.digest()
    dropped = Overlay(state)
    dropped.join(
        segment(pack_dot(1, 2), ["a", "b"], [(pack_dot(1, 1),), ()], nested=False, removal=False)
    )
    dropped.join(segment(pack_dot(1, 4), ["f"], [()], nested=True, removal=False))
    assert (entries_of(state, REGISTER), state.digest()) == before
    assert entries_of(state, SET) == {}
