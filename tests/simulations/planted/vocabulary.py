"""Planting a defect in production code, and taking it out again.

Problem: a simulator that finds nothing may be a simulator that sees nothing. Each rule of
kernel, sync and store has to be broken once, in the real code, and the harm has to be found;
and nothing of that may be left behind for the next test.

Idea: a mutation is a function that replaces attributes of production classes and modules
through ``Patches``, which remembers what was there. It breaks one rule in the plainest way,
mostly by wrapping what it replaces, so that it goes on breaking the rule when the code around
it changes. What it says about itself (the rule, who may catch it, how soon) is in a ``Mutation``.

Invariants: after ``Mutation.planted`` every attribute is the very object that it was; a
replaced attribute must exist, so a mutation whose target has been renamed fails loudly.

Mutation testing is DeMillo, Lipton & Sayward, "Hints on Test Data Selection" (1978).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

__all__ = ["Mutation", "Patches", "Plant"]


class Patches:
    """Attributes that were replaced, to be put back in reverse order."""

    def __init__(self) -> None:
        self._undo = ExitStack()
        self.replaced: list[tuple[Any, str, Any]] = []

    def replace(self, owner: Any, name: str, value: Any) -> Any:
        """Replace an attribute that ``owner`` itself has; returns what was there.

        Raises ``KeyError`` if it has none of that name.
        """
        before = vars(owner)[name]
        setattr(owner, name, value)
        self.replaced.append((owner, name, before))
        self._undo.callback(setattr, owner, name, before)
        return before

    def everywhere(self, owners: tuple[Any, ...], name: str, value: Any) -> Any:
        """Replace a name that several modules have imported; returns what the first had."""
        before = [self.replace(owner, name, value) for owner in owners]
        return before[0]

    @contextmanager
    def undoing(self) -> Iterator[Patches]:
        """Put everything back at the end of the block, however it ends."""
        with self._undo:
            yield self


Plant = Callable[[Patches], None]


@dataclass(frozen=True, slots=True)
class Mutation:
    """One planted defect.

    ``breaks`` says what is no longer as it must be; ``world`` names the recipe of ``worlds`` in
    which it is looked for. The first of ``catchers``, watching alone, must catch it within
    ``seeds`` seeds, and is known to with ``seed``.
    """

    plant: Plant
    breaks: str
    world: str
    catchers: tuple[str, ...]
    seed: int = 1
    seeds: int = 10

    @contextmanager
    def planted(self) -> Iterator[None]:
        """Break the rule for as long as the block lasts."""
        with Patches().undoing() as patches:
            self.plant(patches)
            yield
