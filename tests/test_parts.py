"""Parts of long answers: bounded by number and by what they hold."""

from __future__ import annotations

from typing import Any

import msgpack
from hypothesis import given
from hypothesis import strategies as st

from crdtmem.parts import PART_BYTES, in_parts, weigh

plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 64) - 1) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(plain)
def test_the_weight_is_about_the_encoded_size(value: Any) -> None:
    """Never much less: a mistake on that side would be memory. Text is counted by character."""
    encoded = len(msgpack.packb(value))
    assert encoded <= 4 * weigh(value)
    assert weigh(value) <= 9 * encoded


@given(st.lists(st.binary(max_size=64)), st.integers(1, 7))
def test_parts_are_what_was_given_and_none_is_empty(items: list[bytes], most: int) -> None:
    parts = list(in_parts(items, most))
    assert [item for part in parts for item in part] == items
    assert all(0 < len(part) <= most for part in parts)


def test_large_items_make_short_parts() -> None:
    large = {"value": [b"x" * (PART_BYTES // 2)]}
    parts = list(in_parts([large] * 5, 500))
    assert [len(part) for part in parts] == [2, 2, 1]
    assert list(in_parts([large], 1)) == [[large]]
