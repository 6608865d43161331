"""Workers: every item comes back, whatever becomes of the process that had it."""

from __future__ import annotations

import multiprocessing
import os
import signal

import pytest

from simulations.errors import SimulationError
from simulations.workers import Lost, worked_off

PLENTY_S = 100.0


def _square(item: int) -> int:
    return item * item


def _own_id(item: int) -> int:
    return os.getpid()


def _dies_of_three(item: int) -> int:
    if item == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    if item == 4:
        raise ValueError(item)
    return -item


def _loops_at_one(item: int) -> int:
    while item == 1:
        pass
    return item


class _Unloadable:
    """Something that ends the process which unpacks it."""

    def __reduce__(self) -> tuple[object, tuple[int]]:
        return os._exit, (9,)

    def __call__(self, item: int) -> int:
        return item


@pytest.mark.parametrize("jobs", [1, 2, 50])
def test_every_item_comes_back_once(jobs: int) -> None:
    found = list(worked_off(_square, range(5), jobs=jobs, within_s=PLENTY_S))
    assert sorted(found) == [(item, item * item) for item in range(5)]
    assert not list(worked_off(_square, [], jobs=jobs, within_s=PLENTY_S))


def test_the_work_is_done_elsewhere_in_as_few_processes_as_asked_for() -> None:
    processes = {answer for _, answer in worked_off(_own_id, range(6), jobs=1, within_s=PLENTY_S)}
    assert len(processes) == 1
    assert os.getpid() not in processes


def test_a_spent_worker_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("simulations.workers._WORKER_ITEMS", 2)
    processes = [answer for _, answer in worked_off(_own_id, range(4), jobs=1, within_s=PLENTY_S)]
    assert len(set(processes)) == 2


def test_what_a_worker_died_of_is_lost_and_nothing_else() -> None:
    found = dict(worked_off(_dies_of_three, range(1, 7), jobs=1, within_s=PLENTY_S))
    assert found == {
        1: -1,
        2: -2,
        3: Lost(late=False, exit_code=-signal.SIGKILL),
        4: Lost(late=False, exit_code=1),
        5: -5,
        6: -6,
    }


def test_what_takes_too_long_is_ended_and_the_rest_goes_on() -> None:
    found = dict(worked_off(_loops_at_one, range(4), jobs=2, within_s=4.0))
    assert found == {0: 0, 1: Lost(late=True, exit_code=-signal.SIGKILL), 2: 2, 3: 3}


def test_no_worker_is_left_when_nobody_listens_any_more() -> None:
    before = set(multiprocessing.active_children())
    running = worked_off(_loops_at_one, range(20), jobs=2, within_s=PLENTY_S)
    assert next(iter(running)) == (0, 0)
    assert len(set(multiprocessing.active_children()) - before) == 2
    running.close()  # type: ignore[attr-defined]
    assert set(multiprocessing.active_children()) <= before


def test_workers_that_cannot_start_are_no_endless_attempt() -> None:
    with pytest.raises(SimulationError, match="could not start"):
        list(worked_off(_Unloadable(), range(3), jobs=1, within_s=PLENTY_S))
