"""What each resolver shows, by example."""

from __future__ import annotations

from typing import Any

from crdtmem.entries import NO_METADATA, Entry, Stamp, pack_dot
from crdtmem.resolve import RESOLVERS


def sibling(
    replica: int,
    value: Any,
    *,
    at: int = 1,
    order: int = 1,
    author: str = "",
    trust: int = 0,
    confidence: Any = None,
) -> Entry:
    """Return one entry; ``at`` is its physical stamp."""
    metadata = NO_METADATA if confidence is None else {"c": confidence}
    stamp = Stamp(replica, order, at, author=author, trust=trust, metadata=metadata)
    return pack_dot(replica, 1), value, stamp


def shown(name: str, *entries: Entry) -> Any:
    """Return what the first version of a resolver shows."""
    return RESOLVERS[name, 1].resolve(entries)


def test_latest_goes_by_physical_stamp_then_order_then_dot() -> None:
    assert shown("latest", sibling(1, "a", at=2), sibling(2, "b", at=1, order=9)) == "a"
    assert shown("latest", sibling(1, "a", order=2), sibling(2, "b", order=1)) == "a"
    assert shown("latest", sibling(1, "a"), sibling(2, "b")) == "b"


def test_maximum_and_minimum_go_by_value_whatever_its_type() -> None:
    entries = (sibling(1, 3), sibling(2, "text"), sibling(3, None))
    assert shown("maximum", *entries) == "text"
    assert shown("minimum", *entries) is None
    assert repr(shown("maximum", sibling(1, 1.0), sibling(2, 1))) == "1.0"


def test_keep_all_shows_every_value_in_dot_order() -> None:
    assert shown("keep_all", sibling(2, "b"), sibling(1, "a")) == ("a", "b")


def test_union_of_lists_holds_each_item_once_in_order() -> None:
    assert shown("union", sibling(1, (3, 1)), sibling(2, (1, "x")), sibling(3, 2)) == (1, 2, 3, "x")


def test_union_of_maps_goes_name_by_name() -> None:
    left = sibling(1, {"tags": ("a",), "same": 1, "left": True})
    right = sibling(2, {"tags": ("b",), "same": 1})
    assert shown("union", left, right) == {"left": True, "same": 1, "tags": ("a", "b")}


def test_union_of_a_map_and_something_else_lists_both() -> None:
    assert shown("union", sibling(1, {"a": 1}), sibling(2, "x")) == ("x", {"a": 1})


def test_most_trusted_prefers_trust_over_time() -> None:
    assert shown("most_trusted", sibling(1, "sure", trust=2), sibling(2, "new", at=9)) == "sure"
    assert shown("most_trusted", sibling(1, "old"), sibling(2, "new", at=9)) == "new"


def test_most_confident_counts_a_missing_confidence_as_least() -> None:
    given = sibling(1, "given", confidence=0.1)
    assert shown("most_confident", given, sibling(2, "none", at=9)) == "given"
    assert shown("most_confident", given, sibling(2, "sure", confidence=1)) == "sure"
    for senseless in ("much", True, float("nan")):
        assert (
            shown("most_confident", given, sibling(2, "?", at=9, confidence=senseless)) == "given"
        )


def test_majority_counts_authors_not_entries() -> None:
    loud = [sibling(replica, "loud", author="ada", at=9) for replica in (1, 2, 3)]
    quiet = [sibling(4, "quiet", author="bob"), sibling(5, "quiet", author="cyd")]
    assert shown("majority", *loud, *quiet) == "quiet"
    assert shown("majority", sibling(1, "a"), sibling(2, "a"), sibling(3, "b", at=9)) == "a"
    assert shown("majority", sibling(1, "a"), sibling(2, "b", at=9)) == "b"


def test_majority_keeps_one_and_true_apart() -> None:
    entries = (sibling(1, 1), sibling(2, 1), sibling(3, True), sibling(4, 1.0))
    assert repr(shown("majority", *entries)) == "1"


def test_manual_shows_nothing_while_the_question_is_open() -> None:
    assert shown("manual", sibling(1, "a"), sibling(2, "b")) is None
    assert shown("manual", sibling(1, "a"), sibling(2, "a")) == "a"
    assert shown("manual", sibling(1, 1), sibling(2, True)) is None
    assert shown("manual", sibling(1, "decided")) == "decided"
