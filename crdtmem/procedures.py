"""Procedures: what takes several turns, written from top to bottom.

Problem: a checkpoint, a retirement or a repair alternates between the machine and the
store; as callbacks, their order and their clean-up could not be read.

Idea: a procedure is a generator of *steps*, which says what it waits for and is sent
what came of it. Who carries it out, on which clock and thread, is the executor's.

Invariants: a step does nothing by itself; errors are thrown in where the step was
yielded, so ``try`` and ``finally`` mean what they always mean.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, TypeVar

__all__ = ["Hold", "InStore", "Pause", "Procedure", "Quiet", "Step"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class InStore:
    """A step: do blocking work with the store; the procedure gets its result, or its error."""

    work: Callable[[], Any]


@dataclass(frozen=True, slots=True)
class Pause:
    """A step: let time pass."""

    delay_us: int


@dataclass(frozen=True, slots=True)
class Quiet:
    """A step: hold back new flights until none is out, so that log and state agree.

    The procedure gets a ``Hold``, and gives it to ``Executor.release`` when it is done.
    """


Step = InStore | Pause | Quiet
Procedure = Generator[Step, Any, T]
"""What takes several turns: it yields steps, and is sent what comes of each."""


class Hold:
    """The right to have no flight out, from being granted until it is released."""

    __slots__ = ("granted",)

    def __init__(self, granted: Callable[[Hold], None]) -> None:
        self.granted = granted
