"""Document updates: any order, any bytes, one value."""

from __future__ import annotations

import random
from typing import Any

import pycrdt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crdtmem.crdt.updates import (
    absorb,
    check_update,
    client_id,
    compact,
    materialise,
    plain_value,
)
from crdtmem.errors import InvalidValue


def edit(document: pycrdt.Doc[Any], generator: random.Random) -> bytes:
    """Make one random change of a text, a map or an array; return its update."""
    before = document.get_state()
    text = document.get("text", type=pycrdt.Text)
    members = document.get("map", type=pycrdt.Map)
    items = document.get("array", type=pycrdt.Array)
    kind = generator.randrange(5)
    if kind < 2 or (kind == 2 and not len(text)):
        text.insert(generator.randint(0, len(text)), generator.choice("abc") * 2)
    elif kind == 2:
        first = generator.randrange(len(text))
        del text[first : min(first + 2, len(text))]
    elif kind == 3:
        members[generator.choice("xy")] = generator.choice([1, pycrdt.Text("in"), [True, None]])
    elif len(items) and generator.random() < 0.4:
        del items[generator.randrange(len(items))]
    else:
        items.insert(generator.randint(0, len(items)), pycrdt.Map({"n": generator.random()}))
    return document.get_update(before)


def session(seed: int, edits: int = 12) -> tuple[list[bytes], dict[str, Any]]:
    """Return the updates of three people editing at once, and what they all end with."""
    generator = random.Random(seed)
    documents: list[pycrdt.Doc[Any]] = [pycrdt.Doc(client_id=number) for number in (1, 2, 3)]
    held: list[set[int]] = [set(), set(), set()]
    updates: list[bytes] = []
    for _ in range(edits):
        index, other = generator.randrange(3), generator.randrange(3)
        for number in sorted(held[other] - held[index]):
            documents[index].apply_update(updates[number])
        held[index] |= held[other]
        updates.append(edit(documents[index], generator))
        held[index].add(len(updates) - 1)
    # In the order in which they were made, nothing ever has to wait.
    everything: pycrdt.Doc[Any] = pycrdt.Doc()
    for update in updates:
        everything.apply_update(update)
    return updates, plain_value(everything)


SEEDS = st.integers(0, 2**32)


@settings(max_examples=60)
@given(seed=SEEDS, data=st.data())
def test_any_order_of_updates_gives_one_value(seed: int, data: st.DataObject) -> None:
    updates, expected = session(seed)
    shuffled = data.draw(st.permutations(updates))
    assert plain_value(materialise(shuffled)) == expected
    assert plain_value(materialise([*shuffled, *updates])) == expected


@settings(max_examples=60)
@given(seed=SEEDS, data=st.data())
def test_a_gap_hides_the_same_for_everyone_until_it_is_filled(
    seed: int, data: st.DataObject
) -> None:
    updates, expected = session(seed)
    some = data.draw(st.sets(st.sampled_from(range(len(updates))), min_size=1))
    part = [updates[number] for number in some]
    value = plain_value(materialise(part))
    assert plain_value(materialise(data.draw(st.permutations(part)))) == value
    rest = [update for update in updates if update not in part]
    assert plain_value(materialise([compact(part), *rest])) == expected


@settings(max_examples=60)
@given(seed=SEEDS, cut=st.integers(1, 12))
def test_compacting_a_beginning_changes_nothing_then_or_later(seed: int, cut: int) -> None:
    updates, expected = session(seed)
    beginning = compact(updates[:cut])
    assert plain_value(materialise([beginning])) == plain_value(materialise(updates[:cut]))
    assert plain_value(materialise([beginning, *updates[cut:]])) == expected
    # Two compactions at once overlap, and what they replaced may still be around.
    assert plain_value(materialise([beginning, compact(updates), updates[0]])) == expected


def test_compacting_drops_the_content_of_what_was_deleted() -> None:
    document: pycrdt.Doc[Any] = pycrdt.Doc(client_id=1)
    text = document.get("text", type=pycrdt.Text)
    text += "secret" * 100
    first = document.get_update()
    before = document.get_state()
    del text[0 : len(text)]
    second = document.get_update(before)
    merged = compact([first, second])
    assert b"secret" in first
    assert b"secret" not in merged
    assert len(merged) < 40


def test_absorbing_in_order_keeps_a_document_current() -> None:
    updates, expected = session(7)
    document: pycrdt.Doc[Any] = pycrdt.Doc()
    assert all(absorb(document, update) for update in updates)
    assert plain_value(document) == expected


def test_absorbing_says_when_an_update_has_to_wait() -> None:
    document: pycrdt.Doc[Any] = pycrdt.Doc(client_id=1)
    text = document.get("text", type=pycrdt.Text)
    text += "a"
    first, before = document.get_update(), document.get_state()
    text += "b"
    second, after = document.get_update(before), document.get_state()
    del text[1:2]
    third = document.get_update(after)
    late: pycrdt.Doc[Any] = pycrdt.Doc()
    # An insertion after something that is missing, and a deletion of something missing.
    assert not absorb(late, second)
    assert not absorb(pycrdt.Doc(), third)
    assert plain_value(materialise([second, first])) == {"text": "ab"}
    assert not absorb(late, b"no update")


def test_roots_are_told_apart_by_what_they_hold() -> None:
    document: pycrdt.Doc[Any] = pycrdt.Doc(client_id=1)
    document.get("text", type=pycrdt.Text).insert(0, "t")
    document.get("map", type=pycrdt.Map)["inner"] = pycrdt.Map({"deep": pycrdt.Text("x")})
    document.get("array", type=pycrdt.Array).extend(["text", 1, None, {"a": [1]}])
    document.get("xml", type=pycrdt.XmlFragment).children.append(pycrdt.XmlElement("p"))
    empty = document.get("empty", type=pycrdt.Text)
    empty.insert(0, "gone")
    empty.clear()
    assert plain_value(materialise([document.get_update()])) == {
        "array": ["text", 1.0, None, {"a": [1.0]}],
        "empty": None,
        "map": {"inner": {"deep": "x"}},
        "text": "t",
        "xml": "<p></p>",
    }


@pytest.mark.parametrize("data", ["text", None, 5, bytearray(b"\x00\x00"), b"", b"\x00", b"junk"])
def test_what_is_no_update_is_refused(data: Any) -> None:
    with pytest.raises(InvalidValue, match="update"):
        check_update(data)
    if type(data) is bytes:
        with pytest.raises(InvalidValue, match="update"):
            compact([data, b"\x00\x00"])


def test_an_empty_update_is_one() -> None:
    assert check_update(b"\x00\x00") == b"\x00\x00"
    assert plain_value(materialise([])) == plain_value(materialise([b"\x00\x00"])) == {}


@settings(max_examples=300)
@given(seed=st.integers(0, 30), data=st.data())
def test_damaged_bytes_are_refused_or_read_but_never_crash_a_reader(
    seed: int, data: st.DataObject
) -> None:
    """Invariant: a reader gets one value, whatever stands among the updates."""
    updates, expected = session(seed)
    damaged = bytearray(data.draw(st.sampled_from(updates)))
    for _ in range(data.draw(st.integers(1, 3))):
        position = data.draw(st.integers(0, len(damaged) - 1))
        damaged[position] = data.draw(st.integers(0, 255))
    del damaged[data.draw(st.integers(1, len(damaged))) :]
    held = [bytes(damaged), *updates]
    value = plain_value(materialise(held))
    assert plain_value(materialise(held)) == value
    try:
        check_update(bytes(damaged))
    except InvalidValue:
        assert value == expected


def test_client_ids_are_fresh_for_every_opening_and_fit_the_format() -> None:
    ids = {
        client_id(replica, document, session)
        for replica in (1, 2, 2**64 - 1)
        for document in (("a", "b"), ("ab", ""), ("", "ab"), ("ab",))
        for session in (1, 2)
    }
    assert len(ids) == 24
    assert all(0 < number < 2**53 for number in ids)
    # Fixed for ever: a document that is open when a node is upgraded keeps its id.
    assert client_id(1, ("a",), 1) == client_id(1, ("a",), 1)
    pycrdt.Doc(client_id=max(ids))
