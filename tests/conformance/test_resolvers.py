"""The laws that every resolver obeys, run over the table of resolvers."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crdtmem.codec import freeze, pack
from crdtmem.entries import NO_METADATA, Entry, Stamp, pack_dot
from crdtmem.resolve import DEFAULT_RESOLVER, RESOLVERS, Resolver, find_resolver
from tests.conformance.strategies import VALUES

EVERY_RESOLVER = pytest.mark.parametrize(
    "resolver", RESOLVERS.values(), ids=lambda resolver: f"{resolver.name}-{resolver.version}"
)


@st.composite
def siblings(draw: st.DrawFn) -> list[Entry]:
    """Return entries with distinct dots, and few distinct values and stamps: ties abound."""
    dots = draw(st.lists(st.tuples(st.integers(1, 3), st.integers(1, 3)), min_size=1, unique=True))
    values = draw(st.lists(VALUES, min_size=1, max_size=3))
    confidences = st.sampled_from([None, 0.5, 1, float("nan"), "much", True])
    entries: list[Entry] = []
    for replica, sequence in sorted(dots):
        confidence = draw(confidences)
        stamp = Stamp(
            replica,
            draw(st.integers(1, 2)),
            draw(st.integers(1, 2)),
            author=draw(st.sampled_from(["", "ada", "bob"])),
            trust=draw(st.integers(0, 1)),
            metadata=NO_METADATA if confidence is None else {"c": confidence},
        )
        value = freeze(draw(st.sampled_from(values)))
        entries.append((pack_dot(replica, sequence), value, stamp))
    return entries


@EVERY_RESOLVER
@settings(max_examples=100)
@given(data=st.data())
def test_the_order_of_siblings_does_not_matter(resolver: Resolver, data: st.DataObject) -> None:
    entries = data.draw(siblings())
    expected = resolver.resolve(tuple(entries))
    shuffled = data.draw(st.permutations(entries))
    assert pack(resolver.resolve(tuple(shuffled))) == pack(expected)


@EVERY_RESOLVER
@settings(max_examples=60)
@given(data=st.data())
def test_a_resolver_is_total_and_its_answer_is_frozen(
    resolver: Resolver, data: st.DataObject
) -> None:
    entries = tuple(data.draw(siblings()))
    before = copy.deepcopy([value for _, value, _ in entries])
    answer = resolver.resolve(entries)
    assert pack(freeze(answer)) == pack(answer)
    assert repr([value for _, value, _ in entries]) == repr(before)


@EVERY_RESOLVER
@settings(max_examples=40)
@given(value=VALUES)
def test_one_sibling_is_no_conflict(resolver: Resolver, value: Any) -> None:
    frozen = freeze(value)
    answer = resolver.resolve(((pack_dot(1, 1), frozen, Stamp(1, 1, 1)),))
    expected = (frozen,) if resolver.name == "keep_all" else frozen
    assert pack(answer) == pack(expected)


def test_the_table_knows_every_resolver_of_the_design() -> None:
    assert {name for name, _ in RESOLVERS} == {
        "latest",
        "keep_all",
        "maximum",
        "minimum",
        "union",
        "most_trusted",
        "most_confident",
        "majority",
        "manual",
    }
    assert DEFAULT_RESOLVER.name == "latest"
    for (name, version), resolver in RESOLVERS.items():
        assert find_resolver(name, version) is resolver
        assert resolver.description


def test_an_unknown_name_or_version_is_not_guessed_at() -> None:
    assert find_resolver("newest", 1) is None
    assert find_resolver("latest", 2) is None
