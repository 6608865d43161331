"""The trace hash says that two runs were the same, and only then."""

from __future__ import annotations

from simulations import trace as module
from simulations.trace import Record, Trace

Event = tuple[int, str, str, str, int]
EVENTS: list[Event] = [(n, "send", f"m{n % 3}", "m9", n * n) for n in range(5_000)]


def traced(events: list[Event], *, keep: bool = False) -> Trace:
    trace = Trace(keep=keep)
    for event in events:
        trace.note(*event)
    return trace


def test_equal_events_have_equal_hashes() -> None:
    assert traced(EVENTS).digest() == traced(EVENTS).digest()
    assert len(traced(EVENTS).digest()) == 32


def test_every_part_of_every_event_counts_and_so_does_their_order() -> None:
    first = EVENTS[:20]
    digests = {traced(first).digest()}
    time_us, kind, lane, other, number = first[7]
    for changed in (
        (time_us + 1, kind, lane, other, number),
        (time_us, "drop", lane, other, number),
        (time_us, kind, "elsewhere", other, number),
        (time_us, kind, lane, "", number),
        (time_us, kind, lane, other, number + 1),
    ):
        digests.add(traced([*first[:7], changed, *first[8:]]).digest())
    digests.add(traced([first[1], first[0], *first[2:]]).digest())
    digests.add(traced(first[:-1]).digest())
    assert len(digests) == 8


def test_keeping_events_changes_nothing() -> None:
    assert traced(EVENTS, keep=True).digest() == traced(EVENTS).digest()


def test_events_are_kept_oldest_first_as_records() -> None:
    records = traced(EVENTS, keep=True).records()
    assert records == [Record(*event) for event in EVENTS]
    assert (records[3].time_us, records[3].kind, records[3].lane) == (3, "send", "m0")


def test_nothing_is_kept_unless_it_was_asked_for() -> None:
    assert traced(EVENTS).records() == []


def test_of_very_many_the_newest_are_kept() -> None:
    trace = Trace(keep=True)
    assert trace.kept is not None
    assert trace.kept.maxlen == module._KEPT


def test_asking_for_the_hash_in_between_changes_nothing() -> None:
    asked = Trace()
    for number, event in enumerate(EVENTS):
        asked.note(*event)
        if number % 777 == 0:
            asked.digest()
    assert asked.digest() == traced(EVENTS).digest()
