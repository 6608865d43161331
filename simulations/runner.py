"""Running a plan: build, found, let everything go wrong, heal, converge, judge.

Problem: a run must end in one verdict that says what kind of thing went wrong, who found
it, and what happened on the way, so that two runs of one plan can be compared.

Idea: two phases, as TigerBeetle has them. In the *safety phase* clients work and faults
strike; nothing false may ever be seen. Then the world *heals*: links are clean, disks
work, all machines run; and in the *liveness phase* every caller must get an answer and
all nodes must converge, within a bound. After that all checkers have the last word.

Invariants: a plan that is run twice gives the same outcome, trace hash included; no
exception leaves ``run`` but ``BadPlan``; a run ends after ``MOST_EVENTS`` at the latest, as a
failure of liveness.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from simulations import chatter
from simulations.checkers import CHECKERS, watch
from simulations.checkers.base import is_maimed
from simulations.client import Clients
from simulations.errors import (
    BadPlan,
    LivenessViolation,
    MachineFailed,
    SafetyViolation,
    TimedOut,
    Violation,
)
from simulations.faults import FAULTS, heal_all
from simulations.founding import FOUNDING_S, await_gathering, await_members, found_by_mesh
from simulations.history import History
from simulations.operators import evictions_pending, finish_evictions, found_anew
from simulations.plan import Injection, Plan, build_world
from simulations.workloads import WORKLOADS
from simulations.world import SECOND, World

__all__ = [
    "FOUNDING_S",
    "MOST_EVENTS",
    "Outcome",
    "Run",
    "run",
]

MOST_EVENTS: Final = 1_000_000
"""The most that may happen in one run: a hundred times what plans of swarms come to.

A node that asks itself for something for ever, without time passing, ends here.
"""

_DETAILS: Final = 6_000
_PATIENCE_S: Final = 20.0
"""How long nodes get to end an eviction by themselves, before an operator steps in."""

_TENDING_S: Final = 10.0
_SETTLE_S: Final = 8.0
"""After convergence, for what nodes do of themselves: collection, comparison, checkpoints."""

_HEARING_S: Final = 3.0
"""Within this time a broadcast reaches a region in which nothing is wrong, nearly always."""

_REPAIR_S: Final = 60.0
"""Within this time what one replica lost must be restored to it: a few comparisons."""

_EXIT_CODES: Final = {
    "pass": 0,
    "safety": SafetyViolation.exit_code,
    "liveness": LivenessViolation.exit_code,
    "crash": MachineFailed.exit_code,
    "timeout": TimedOut.exit_code,
}


@dataclass(slots=True)
class Outcome:
    """What a run came to. ``verdict`` is pass, safety, liveness or crash.

    Campaigns have one more, timeout, for a seed that they ended from outside.

    ``simulated_us`` and ``events`` are how long the world existed and how much happened in
    it; ``converged_us`` how long it took after healing; ``bytes`` what was sent; ``reached``
    the rare paths and ``injected`` the faults, counted; ``calls`` counts them by outcome.
    """

    seed: int
    verdict: str = "pass"
    checker: str = ""
    message: str = ""
    trace_hash: str = ""
    simulated_us: int = 0
    converged_us: int = 0
    events: int = 0
    bytes: int = 0
    reached: dict[str, int] = field(default_factory=dict)
    injected: dict[str, int] = field(default_factory=dict)
    alarms: dict[str, int] = field(default_factory=dict)
    calls: dict[str, int] = field(default_factory=dict)
    details: str = ""

    @property
    def passed(self) -> bool:
        """Whether nothing was wrong."""
        return self.verdict == "pass"

    @property
    def exit_code(self) -> int:
        """What a command that ran it ends with."""
        return _EXIT_CODES[self.verdict]

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        return asdict(self)


class Run:
    """One run, which may also be taken phase by phase by those who want to look."""

    def __init__(
        self,
        plan: Plan,
        *,
        checkers: Iterable[str] | None = None,
        keep: bool = False,
        mutate: Callable[[World], None] | None = None,
        most_events: int = MOST_EVENTS,
    ) -> None:
        plan.check({"fault": FAULTS, "workload": WORKLOADS, "checker": CHECKERS})
        self.plan = plan
        self.world = build_world(plan, keep=keep)
        self.world.kernel.most_events = most_events
        self.history = History(self.world)
        self.clients = Clients(self.world, self.history)
        names = checkers if checkers is not None else plan.checkers or None
        self.checkers = watch(self.world, self.history, names)
        if mutate is not None:
            mutate(self.world)
        self.converged_us = 0
        self.injected: dict[str, int] = {}
        self.base_us = 0

    # ------------------------------------------------------------------ phases

    def found(self) -> None:
        """Start everything, and let it become one cluster."""
        world = self.world
        if self.plan.mesh:
            found_by_mesh(world)
        elif self.plan.topology == "mesh":
            world.start()
            self._await_members()
        else:
            # Who knows only others that are as new as itself founds a cluster with them.
            for machine in list(world.machines.values()):
                machine.start()
                self._await_members()
        self.base_us = world.kernel.now_us

    def _await_members(self) -> None:
        await_members(self.world)

    def schedule(self) -> None:
        """Put all steps and faults on the heap, relative to now."""
        kernel, plan = self.world.kernel, self.plan
        self.clients.schedule(plan.steps, self.base_us)
        if plan.mesh:
            chatter.schedule(self.world, self.base_us, plan.safety_us)
        for injection in plan.injections:
            kernel.at(self.base_us + injection.at_us, self._inject, injection)

    def _inject(self, injection: Injection) -> None:
        self.injected[injection.fault] = self.injected.get(injection.fault, 0) + 1
        self.world.note("fault", injection.fault)
        FAULTS[injection.fault].apply(self.world, injection.arguments)

    def safety(self, until_us: int | None = None) -> None:
        """Let the safety phase pass, or its beginning."""
        plan = self.plan
        end_us = plan.safety_us if until_us is None else min(until_us, plan.safety_us)
        self.world.kernel.run(self.base_us + end_us)

    def liveness(self) -> None:
        """Heal everything, and wait for answers and convergence."""
        world = self.world
        heal_all(world)
        began_us = world.kernel.now_us
        within_s = self.plan.liveness_us / SECOND
        world.after(_PATIENCE_S, self._tend)
        await_gathering(world)
        world.run_until(self._is_quiet, "convergence", within_s=within_s, step_s=0.5)
        self.converged_us = world.kernel.now_us - began_us
        finish_evictions(world)
        world.run(_SETTLE_S)
        world.run_until(self._is_quiet, "lasting convergence", within_s=_SETTLE_S * 4)
        world.run_until(self._is_whole, "repair of what was lost", within_s=_REPAIR_S)
        if world.mesh_kind:
            self._speak_last()
        world.finished()

    def _speak_last(self) -> None:
        """Let the mesh gather, and everybody speak."""
        await_gathering(self.world)
        for turn in range(chatter.LAST_WORDS):
            chatter.last_words(self.world, turn)
            self.world.run(_HEARING_S)

    def _tend(self) -> None:
        """Do what operators do when nodes wait for somebody who is gone for good, again and again.

        Only people can know that; until they say so, nodes are right to wait.
        """
        if self._is_quiet() and not evictions_pending(self.world):
            return
        if evictions_pending(self.world):
            finish_evictions(self.world)
        found_anew(self.world)
        self.world.after(_TENDING_S, self._tend)

    def _is_quiet(self) -> bool:
        machines = self.world.machines.values()
        return (
            all(machine.up and machine.replica.writable for machine in machines)
            and not self.history.waiting()
            and self.world.converged()
        )

    def _is_whole(self) -> bool:
        return not any(is_maimed(self.history, machine) for machine in self.world.up())

    # ------------------------------------------------------------------ verdict

    def play(self) -> Outcome:
        """Go through all phases; returns what came of it."""
        return self.judge(self._play)

    def _play(self) -> None:
        self.found()
        self.schedule()
        self.safety()
        self.liveness()

    def judge(self, work: Callable[[], None]) -> Outcome:
        """Do some of it, and turn what it raises into a verdict."""
        outcome = Outcome(self.plan.seed)
        try:
            work()
        except BadPlan:
            raise
        except Exception as fault:  # noqa: BLE001 - whatever it is, it is the verdict
            _blame(outcome, fault)
        self._fill(outcome)
        return outcome

    def _fill(self, outcome: Outcome) -> None:
        world = self.world
        outcome.trace_hash = world.trace.digest()
        outcome.simulated_us = world.kernel.elapsed_us
        outcome.converged_us = self.converged_us
        outcome.events = world.kernel.events
        outcome.bytes = world.network.sent_bytes
        outcome.reached = dict(sorted(world.reached.items()))
        outcome.injected = dict(sorted(self.injected.items()))
        outcome.alarms = dict(sorted(world.alarms.items()))
        for call in self.history.calls:
            outcome.calls[call.outcome] = outcome.calls.get(call.outcome, 0) + 1


def _blame(outcome: Outcome, fault: Exception) -> None:
    """Say what an exception means. A checker may have spoken from within a machine."""
    causes: list[BaseException] = [fault]
    while causes[-1].__cause__ is not None:
        causes.append(causes[-1].__cause__)
    outcome.details = "".join(traceback.format_exception(fault))[-_DETAILS:]
    for cause in causes:
        if isinstance(cause, Violation):
            is_safety = isinstance(cause, SafetyViolation)
            outcome.verdict = "safety" if is_safety else "liveness"
            outcome.checker, outcome.message = cause.checker, cause.message
            return
    outcome.verdict, outcome.checker = "crash", type(causes[-1]).__name__
    outcome.message = f"{fault!s:.300}"
    if len(causes) > 1:
        outcome.message += f": {causes[-1]!r:.300}"


def run(
    plan: Plan,
    *,
    checkers: Iterable[str] | None = None,
    keep: bool = False,
    mutate: Callable[[World], None] | None = None,
) -> Outcome:
    """Run a plan; returns its verdict. ``mutate`` is given the world before it starts.

    Raises ``BadPlan`` for a plan that names what there is not.
    """
    return Run(plan, checkers=checkers, keep=keep, mutate=mutate).play()
