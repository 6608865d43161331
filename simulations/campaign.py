"""Campaigns: many seeds over all cores, and what they came to.

Problem: one seed says little; ten thousand take long, on more than one core, and whoever
waits wants to see how far it is. A campaign that passes has to show that it went where
trouble is: that no fault, and none of the rare paths, was left out by chance. And one world
that does not end, or takes an hour, may not hold up all the others.

Idea: worker processes (``workers``) take one seed after another. Each returns outcomes,
which are only counted unless they are failures. With ``twice``, every plan is run twice
in its worker, and unequal hashes are a failure of their own. A seed that takes longer than it
may is ended from outside, by the wall clock, which no world ever sees, and is a failure of
its own kind. At the end stands a summary.

Invariants: the summary of the same seeds is the same, times aside and what was ended for
them, however many processes ran them; a worker that dies fails the seed that it had.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from simulations.runner import Outcome, run
from simulations.sometimes import Coverage
from simulations.swarm import draw_plan
from simulations.workers import Lost, worked_off

__all__ = ["SEED_S", "Summary", "repeat_command", "run_campaign", "run_seed"]

SEED_S: Final = 600.0
"""How long a seed may take by the wall clock: some hundred times what most of them take."""


@dataclass(slots=True)
class Summary:
    """What a campaign came to; ``failures`` are whole outcomes, ``sometimes`` are counts."""

    first: int
    last: int
    runs: int = 0
    failures: list[Outcome] = field(default_factory=list)
    simulated_us: int = 0
    wall_seconds: float = 0.0
    events: int = 0
    bytes: int = 0
    slowest_converged_us: int = 0
    twice: bool = False
    coverage: Coverage = field(default_factory=Coverage)
    sometimes: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    alarms: Counter[str] = field(default_factory=Counter)
    calls: Counter[str] = field(default_factory=Counter)

    def add(self, outcome: Outcome) -> None:
        """Count one more run in."""
        self.runs += 1
        if not outcome.passed:
            self.failures.append(outcome)
        self.simulated_us += outcome.simulated_us
        self.events += outcome.events
        self.bytes += outcome.bytes
        self.slowest_converged_us = max(self.slowest_converged_us, outcome.converged_us)
        self.coverage.add(outcome.reached, outcome.injected)
        self.sometimes.update(outcome.reached)
        self.faults.update(outcome.injected)
        self.alarms.update(outcome.alarms)
        self.calls.update(outcome.calls)

    @property
    def never(self) -> list[str]:
        """The rare paths that these runs must have reached, and did not."""
        return self.coverage.missed

    @property
    def exit_code(self) -> int:
        """What a command ends with: the gravest failure's code, or that something was missed."""
        if self.failures:
            return min(outcome.exit_code for outcome in self.failures)
        return 13 if self.never else 0

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain data, for ``--json``."""
        return {
            "seeds": [self.first, self.last],
            "runs": self.runs,
            "twice": self.twice,
            "failures": [
                {
                    "seed": outcome.seed,
                    "verdict": outcome.verdict,
                    "checker": outcome.checker,
                    "message": outcome.message,
                    "repeat": repeat_command(outcome.seed),
                }
                for outcome in sorted(self.failures, key=lambda outcome: outcome.seed)
            ],
            "simulated_seconds": round(self.simulated_us / 1e6, 3),
            "wall_seconds": round(self.wall_seconds, 3),
            "events": self.events,
            "bytes": self.bytes,
            "slowest_convergence_seconds": round(self.slowest_converged_us / 1e6, 3),
            "calls": dict(sorted(self.calls.items())),
            "faults": dict(sorted(self.faults.items())),
            "alarms": dict(sorted(self.alarms.items())),
            "sometimes": dict(sorted(self.sometimes.items())),
            "never": self.never,
        }


def repeat_command(seed: int) -> str:
    """Return the one command that repeats a seed."""
    return f"python -m simulations run --seed {seed}"


def run_seed(seed: int, *, twice: bool = False) -> Outcome:
    """Run the plan of one seed, or run it twice and compare."""
    plan = draw_plan(seed)
    outcome = run(plan)
    if twice:
        again = run(draw_plan(seed))
        if outcome.trace_hash != again.trace_hash and outcome.passed:
            outcome.verdict, outcome.checker = "crash", "determinism"
            outcome.message = f"two runs, two traces: {outcome.trace_hash}, {again.trace_hash}"
    return outcome


def run_campaign(
    seeds: range,
    *,
    jobs: int | None = None,
    twice: bool = False,
    seed_s: float = SEED_S,
    progress: Callable[[Summary], None] | None = None,
    work: Callable[..., Outcome] = run_seed,
) -> Summary:
    """Run many seeds; ``progress`` is told after each. ``jobs``: all cores by default.

    A seed that takes longer than ``seed_s`` seconds is ended, and fails with ``timeout``;
    twice as long if it is run ``twice``. ``work`` runs one seed, as ``run_seed`` does.
    """
    summary = Summary(seeds.start, seeds.stop - 1, twice=twice)
    began_s = time.monotonic()
    within_s = seed_s * (2 if twice else 1)
    done = worked_off(
        partial(work, twice=twice), seeds, jobs=jobs or os.cpu_count() or 1, within_s=within_s
    )
    for seed, outcome in done:
        summary.add(_failed(seed, outcome, within_s) if isinstance(outcome, Lost) else outcome)
        summary.wall_seconds = time.monotonic() - began_s
        if progress is not None:
            progress(summary)
    summary.wall_seconds = time.monotonic() - began_s
    return summary


def _failed(seed: int, lost: Lost, within_s: float) -> Outcome:
    """Return the outcome of a seed whose worker has none to tell."""
    if lost.late:
        words = f"ended after {within_s:g} s of the wall clock; interrupt it to see where it is"
        return Outcome(seed, verdict="timeout", checker="wall clock", message=words)
    words = f"its process ended with {lost.exit_code} before it had an outcome"
    return Outcome(seed, verdict="crash", checker="worker", message=words)
