"""The kernel: order, time, chance, and events that are taken back."""

from __future__ import annotations

import pytest

from simulations.kernel import EPOCH_US, Kernel


def test_events_happen_by_time_then_in_the_order_in_which_they_were_asked_for() -> None:
    kernel = Kernel(1)
    seen: list[str] = []
    for name, delay_us in (("late", 20), ("first", 10), ("second", 10), ("now", 0)):
        kernel.after(delay_us, seen.append, name)
    kernel.run(EPOCH_US + 20)
    assert seen == ["now", "first", "second", "late"]
    assert kernel.events == 4


def test_the_clock_stands_at_each_event_and_then_where_it_was_to_run_until() -> None:
    kernel = Kernel(1)
    seen: list[int] = []
    kernel.after(7, lambda: seen.append(kernel.elapsed_us))
    kernel.run(EPOCH_US + 100)
    assert (seen, kernel.elapsed_us) == ([7], 100)


def test_what_is_due_later_waits() -> None:
    kernel = Kernel(1)
    seen: list[str] = []
    kernel.after(101, seen.append, "too early")
    kernel.run(EPOCH_US + 100)
    assert seen == []
    kernel.run(EPOCH_US + 101)
    assert seen == ["too early"]


def test_no_event_lies_in_the_past() -> None:
    kernel = Kernel(1)
    seen: list[int] = []
    kernel.run(EPOCH_US + 50)
    kernel.at(EPOCH_US, lambda: seen.append(kernel.elapsed_us))
    kernel.after(-5, lambda: seen.append(kernel.elapsed_us))
    kernel.run(EPOCH_US + 60)
    assert seen == [50, 50]


def test_an_event_that_is_cancelled_does_not_happen_nor_count() -> None:
    kernel = Kernel(1)
    seen: list[str] = []
    event = kernel.after(5, seen.append, "cancelled")
    kernel.after(5, seen.append, "kept")
    event.cancel()
    kernel.run(EPOCH_US + 10)
    event.cancel()
    assert (seen, kernel.events) == (["kept"], 1)


def test_what_an_event_asks_for_now_happens_after_what_is_due_now() -> None:
    kernel = Kernel(1)
    seen: list[str] = []

    def ask() -> None:
        kernel.after(0, seen.append, "asked for")

    kernel.after(5, ask)
    kernel.after(5, seen.append, "due")
    kernel.run(EPOCH_US + 5)
    assert seen == ["due", "asked for"]


def test_steps_go_one_event_at_a_time_until_there_is_none() -> None:
    kernel = Kernel(1)
    seen: list[int] = []
    kernel.after(3, seen.append, 1)
    kernel.after(4, seen.append, 2).cancel()
    kernel.after(9, seen.append, 3)
    went = [(kernel.step(), list(seen), kernel.elapsed_us) for _ in range(3)]
    assert went == [(True, [1], 3), (True, [1, 3], 9), (False, [1, 3], 9)]


def test_chance_belongs_to_a_seed_and_a_name() -> None:
    def draws(seed: int, name: str) -> list[float]:
        chance = Kernel(seed).random(name)
        return [chance.random() for _ in range(5)]

    assert draws(1, "link/a>b") == draws(1, "link/a>b")
    assert draws(1, "link/a>b") != draws(1, "link/b>a")
    assert draws(1, "link/a>b") != draws(2, "link/a>b")


def test_who_draws_more_does_not_change_what_others_draw() -> None:
    quiet, busy = Kernel(9), Kernel(9)
    for _ in range(100):
        busy.random("fault").random()
    assert quiet.random("load").random() == busy.random("load").random()


def test_the_first_draws_are_these_for_ever() -> None:
    # A plan that was kept names a seed: another way to seed would make it another plan.
    chance = Kernel(7).random("machine/a")
    assert [chance.randrange(1_000) for _ in range(4)] == [346, 695, 156, 267]


def test_an_error_in_an_event_reaches_who_runs_the_world() -> None:
    kernel = Kernel(1)

    def fail() -> None:
        raise ValueError("no number")

    kernel.after(1, fail)
    with pytest.raises(ValueError, match="no number"):
        kernel.run(EPOCH_US + 1)
