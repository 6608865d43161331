"""Shrinking: the smallest plan that still fails in the same way.

Problem: a failure found with seven machines, twenty faults and five hundred steps says
little; the same failure with two machines, one fault and three steps nearly explains itself.

Idea: delta debugging. Whatever a plan lists (faults, steps, settings, machines) is left out
in ever smaller portions as long as the run still *fails alike*: with the same verdict by
the same checker. Then what is left is made milder: shorter faults, fewer pairs of machines,
fewer operations per step, less time. Every candidate is a real run, so the result is one
that was seen to fail. Leaving something out disturbs no other chance, because
each user of chance has a stream of its own (see ``kernel``).

Invariants: the result fails alike; each candidate is smaller by what it leaves out, so it ends;
it also ends when ``go_on`` says so.

Source: Zeller and Hildebrandt, "Simplifying and Isolating Failure-Inducing Input" (2002).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Final, TypeVar

from simulations.errors import BadPlan
from simulations.plan import Injection, Plan
from simulations.runner import Outcome, run
from simulations.steps import Step

__all__ = ["fails_alike", "shrink", "size_of"]

T = TypeVar("T")
Runner = Callable[[Plan], Outcome]

_LEAST_US: Final = 100_000


def size_of(plan: Plan) -> dict[str, int]:
    """Return how large a plan is, by what shrinking works on."""
    return {
        "machines": len(plan.machines),
        "injections": len(plan.injections),
        "steps": len(plan.steps),
        "settings": len(plan.config),
        "safety_us": plan.safety_us,
    }


def fails_alike(first: Outcome, second: Outcome) -> bool:
    """Tell whether two outcomes are the same failure: one verdict, by one checker."""
    return not first.passed and (first.verdict, first.checker) == (second.verdict, second.checker)


def shrink(
    plan: Plan,
    *,
    runner: Runner = run,
    go_on: Callable[[], bool] = lambda: True,
    tell: Callable[[Plan, int], None] | None = None,
) -> tuple[Plan, Outcome]:
    """Return the smallest plan found that fails as ``plan`` does, and its outcome.

    ``tell`` is called with each success, and how many runs it took so far. Raises
    ``BadPlan`` for a plan that does not fail.
    """
    outcome = runner(plan)
    if outcome.passed:
        raise BadPlan(f"seed {plan.seed} does not fail: there is nothing to shrink")
    return _Search(plan, outcome, runner, go_on, tell or _quietly).carry_out()


def _quietly(_: Plan, __: int) -> None:
    """Tell nobody."""


class _Search:
    """One search, and the best plan so far."""

    def __init__(
        self,
        plan: Plan,
        outcome: Outcome,
        runner: Runner,
        go_on: Callable[[], bool],
        tell: Callable[[Plan, int], None],
    ) -> None:
        self.best, self.outcome = plan, outcome
        self._runner, self._go_on, self._tell = runner, go_on, tell
        self._runs = 1

    def carry_out(self) -> tuple[Plan, Outcome]:
        """Go through all ways of shrinking until none helps any more."""
        before = None
        while before != self.best and self._go_on():
            before = self.best
            self._cut_time()
            self._reduce("injections", self.best.injections)
            self._reduce("steps", self.best.steps)
            self._drop_machines()
            self._reduce("config", tuple(self.best.config.items()), dict)
            self._reduce("workloads", self.best.workloads)
            self._soften()
        return self.best, self.outcome

    def _try(self, candidate: Plan) -> bool:
        """Run a smaller plan; keep it if it fails alike."""
        if candidate == self.best or not self._go_on():
            return False
        self._runs += 1
        outcome = self._runner(candidate)
        if not fails_alike(self.outcome, outcome):
            return False
        self.best, self.outcome = candidate, outcome
        self._tell(candidate, self._runs)
        return True

    def _reduce(
        self, name: str, items: Sequence[T], make: Callable[[Sequence[T]], Any] = tuple
    ) -> None:
        """Leave out portions of a list, halves first, single items last."""
        kept = list(items)
        portion = len(kept)
        while portion and kept:
            at = 0
            while at < len(kept):
                without = kept[:at] + kept[at + portion :]
                if self._try(_with(self.best, name, make(without))):
                    kept = without
                else:
                    at += portion
            portion //= 2

    def _cut_time(self) -> None:
        """End the safety phase sooner, and leave out what would come after it."""
        for divisor in (8, 4, 2, 1.5, 1.2):
            safety_us = max(_LEAST_US, int(self.best.safety_us / divisor))
            if self._try(_ended_at(self.best, safety_us)):
                return
        times = [step.at_us for step in self.best.steps]
        times += [injection.at_us for injection in self.best.injections]
        self._try(_ended_at(self.best, max(times, default=0) + _LEAST_US))

    def _drop_machines(self) -> None:
        for place in reversed(self.best.machines):
            if len(self.best.machines) > 1:
                self._try(_without(self.best, place.name))

    def _soften(self) -> None:
        """Make each fault milder, and each step smaller, one after another."""
        ways: dict[str, Callable[[Any], Iterator[Any]]] = {
            "injections": _milder,
            "steps": _smaller,
        }
        for name, milder in ways.items():
            for index in range(len(getattr(self.best, name))):
                is_softer = True
                while is_softer:
                    items: tuple[Any, ...] = getattr(self.best, name)
                    is_softer = any(
                        self._try(_with(self.best, name, _changed(items, index, item)))
                        for item in milder(items[index])
                    )


def _with(plan: Plan, name: str, value: Any) -> Plan:
    changed: dict[str, Any] = {name: value}
    return replace(plan, **changed)


def _changed(items: tuple[T, ...], index: int, item: T) -> tuple[T, ...]:
    return (*items[:index], item, *items[index + 1 :])


def _ended_at(plan: Plan, safety_us: int) -> Plan:
    return replace(
        plan,
        safety_us=min(safety_us, plan.safety_us),
        steps=tuple(step for step in plan.steps if step.at_us < safety_us),
        injections=tuple(item for item in plan.injections if item.at_us < safety_us),
    )


def _without(plan: Plan, name: str) -> Plan:
    """Return a plan without one machine, whose steps go to others."""
    names = [place.name for place in plan.machines]
    left = [other for other in names if other != name]

    def moved(step: Step) -> Step:
        home = names[step.machine % len(names)]
        number = left.index(home) if home in left else step.machine % len(left)
        return replace(step, machine=number)

    return replace(
        plan,
        machines=tuple(place for place in plan.machines if place.name != name),
        steps=tuple(moved(step) for step in plan.steps),
    )


def _milder(injection: Injection) -> Iterator[Injection]:
    """Yield milder forms of a fault: half as many pairs, half as long."""
    arguments = dict(injection.arguments)
    pairs = arguments.get("pairs", [])
    if len(pairs) > 1:
        middle = len(pairs) // 2
        for part in (pairs[:middle], pairs[middle:]):
            yield replace(injection, arguments={**arguments, "pairs": part})
    for name in ("for_us", "records", "times", "effects"):
        if arguments.get(name, 0) > 1:
            yield replace(injection, arguments={**arguments, name: arguments[name] // 2})


def _smaller(step: Step) -> Iterator[Step]:
    """Yield smaller forms of a step: half of its operations, no second attempts."""
    arguments = dict(step.arguments)
    operations = arguments.get("operations", [])
    if len(operations) > 1:
        middle = len(operations) // 2
        for part in (operations[:middle], operations[middle:]):
            yield replace(step, arguments={**arguments, "operations": part})
    if arguments.get("retries"):
        yield replace(step, arguments={**arguments, "retries": 0})
