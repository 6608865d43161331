"""A feed that passes from the log to what is published, at the worst of moments."""

from __future__ import annotations

from tests.feed_worlds import played, small_feeds


def test_what_was_cut_off_after_a_feed_found_its_beginning_is_not_passed_over() -> None:
    """Harm: a change is told before what it builds on, because that has just left the log."""
    with small_feeds():
        reader = played("write", "cut", "elsewhere", "join", limit_batches=1)
    assert reader.gaps


def test_a_look_into_the_log_that_fails_does_not_count_as_its_end() -> None:
    """Harm: what was dropped before the queue was armed again is told after what builds on it."""
    with small_feeds():
        reader = played(
            *("write", "write", "read", "read", "write", "stumble", "read"),
            *("elsewhere", "join", "read"),
            limit_batches=1,
        )
    assert not reader.gaps
