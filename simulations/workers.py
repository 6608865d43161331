"""Processes that work off items one at a time, and are ended where one takes too long.

Problem: one item that never ends (a world in which a single step loops for ever, or takes a
time that is quadratic in what a fault made huge) holds up all that come after it, and whoever
waits learns nothing. Nothing within a process can be trusted to end it: the loop may be in C.
And a pool of the standard library waits for ever for the answer of a worker that was killed.

Idea: each worker says when it is ready, is then given one item, and answers. The clock is
read on this side alone, from when an item was handed out: a worker that is late is killed,
one that died is known by the end of its pipe; either way its item comes back as ``Lost``, and
a fresh worker takes its place. Starting is not counted, so a short bound is one of the work.

Invariants: every item comes back exactly once; when the iterator ends, is closed or raises,
no worker is left; a worker dies with whoever started it, as soon as it is idle.
"""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any, Final, Generic, TypeVar

from simulations.errors import SimulationError

__all__ = ["Lost", "worked_off"]

Item = TypeVar("Item")
Answer = TypeVar("Answer")

_WORKER_ITEMS: Final = 400
"""After so many items a worker is replaced: whatever it had gathered is gone."""

_EXIT_S: Final = 5.0
"""How long a process may take to end once its pipe has: its exit code says why."""

# Fresh interpreters: a worker owes nothing to what its parent has imported or held open.
_CONTEXT: Final = multiprocessing.get_context("spawn")


@dataclass(frozen=True, slots=True)
class Lost:
    """Why an item has no answer: its worker was ``late`` and killed, or died by itself."""

    late: bool
    exit_code: int | None


class _Worker(Generic[Item]):
    """One process, which is busy with one item, or with none while it starts."""

    def __init__(self, work: Callable[[Item], Any]) -> None:
        self.pipe, theirs = _CONTEXT.Pipe()
        self._process = _CONTEXT.Process(target=_serve, args=(theirs, work), daemon=True)
        self._process.start()
        # The process has to hold the only other end, or its death would go unnoticed.
        theirs.close()
        self.taken = 0
        self.item: Item | None = None
        self._began_s = 0.0

    def hand(self, item: Item) -> None:
        """Give it an item, once it is ready for one."""
        self.item, self._began_s = item, time.monotonic()
        self.taken += 1
        # That it has died meanwhile is found out where its answer is awaited.
        with suppress(BrokenPipeError):
            self.pipe.send(item)

    def left_s(self, within_s: float) -> float | None:
        """Return how long it may still take; ``None`` while it has nothing to do."""
        if self.item is None:
            return None
        return max(0.0, self._began_s + within_s - time.monotonic())

    def end(self, grace_s: float = 0.0) -> int | None:
        """Kill it, unless it ends by itself within ``grace_s``; return its exit code."""
        self._process.join(grace_s)
        self._process.kill()
        self._process.join()
        self.pipe.close()
        return self._process.exitcode


def _serve(pipe: Connection, work: Callable[[Any], Any]) -> None:
    """Be a worker: say that all is imported, then answer item after item."""
    # Who interrupts a campaign interrupts all its processes; the first one ends the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    pipe.send(None)
    while True:
        try:
            item = pipe.recv()
        except EOFError:
            return
        answer = work(item)
        # Whoever asked may be gone: the next thing that is heard is the end of the pipe.
        with suppress(BrokenPipeError):
            pipe.send(answer)


def worked_off(
    work: Callable[[Item], Answer], items: Iterable[Item], *, jobs: int, within_s: float
) -> Iterator[tuple[Item, Answer | Lost]]:
    """Yield each item with its answer, as they come, from ``jobs`` processes at the most.

    ``work``, items and answers must be picklable, and no item ``None``. An item that takes
    longer than ``within_s`` seconds, or whose worker dies, comes with ``Lost``. Raises
    ``SimulationError`` when a worker dies before it was ready for anything.
    """
    waiting = deque(items)
    workers = [_Worker(work) for _ in range(min(jobs, len(waiting)))]
    try:
        while workers:
            for worker, said in _heard(workers, within_s):
                if worker.item is not None:
                    yield worker.item, said
                elif isinstance(said, Lost):
                    raise SimulationError(f"a worker could not start: it ended with {said}")
                worker.item = None
                is_spent = isinstance(said, Lost) or worker.taken >= _WORKER_ITEMS
                if waiting and not is_spent:
                    worker.hand(waiting.popleft())
                    continue
                worker.end()
                workers.remove(worker)
                if waiting:
                    workers.append(_Worker(work))
    finally:
        for worker in workers:
            worker.end()


def _heard(workers: Iterable[_Worker[Item]], within_s: float) -> list[tuple[_Worker[Item], Any]]:
    """Wait until some workers have answered, died, or been late; return what became of each."""
    bounds = [left for worker in workers if (left := worker.left_s(within_s)) is not None]
    ready = wait([worker.pipe for worker in workers], min(bounds, default=None))
    return [
        (worker, _outcome(worker, is_late=worker.pipe not in ready))
        for worker in workers
        if worker.pipe in ready or worker.left_s(within_s) == 0
    ]


def _outcome(worker: _Worker[Any], *, is_late: bool) -> Any:
    if not is_late:
        # Nothing came but the end of the pipe, or not all of an answer.
        with suppress(EOFError, OSError):
            return worker.pipe.recv()
    return Lost(is_late, worker.end(0.0 if is_late else _EXIT_S))
