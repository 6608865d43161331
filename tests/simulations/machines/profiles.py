"""How long a machine is driven: a little in every run, for a long time in the slow one.

Problem: rule-based machines find more the longer they run, and nobody waits for a test
that takes an hour.

Idea: every machine is made into two test cases. The small one is derandomised, so that
a run that was green stays green until the code changes; the deep one is marked
``slow``, and prints what reproduces its failure. Who hunts sets ``CRDTMEM_DEEP`` in the
environment: it multiplies the number of examples, and has them drawn anew each time. The
small one does not shrink: a failing world is shrunk by the deep case, which may take its
time.

Invariants: both cases run the same rules; nothing is skipped in either.
"""

from __future__ import annotations

import os
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import RuleBasedStateMachine

__all__ = ["DEEP_TIMEOUT_S", "deep", "small"]

DEEP_TIMEOUT_S = 3_600
"""Wall-clock limit of one deep case, in seconds."""

_COMMON: dict[str, Any] = {
    "deadline": None,
    "print_blob": True,
    "suppress_health_check": list(HealthCheck),
}


def small(machine: type[RuleBasedStateMachine], *, examples: int, steps: int) -> Any:
    """Return the test case of every run: few examples, always the same."""
    phases = (Phase.explicit, Phase.generate)
    return _case(machine, "small", examples, steps, derandomize=True, database=None, phases=phases)


def deep(machine: type[RuleBasedStateMachine], *, examples: int, steps: int) -> Any:
    """Return the test case of the slow run: many long examples; drawn anew for who hunts."""
    hunting = os.environ.get("CRDTMEM_DEEP")
    more = {} if hunting else {"derandomize": True, "database": None}
    case = _case(machine, "deep", examples * int(hunting or "1"), steps, **more)
    return pytest.mark.timeout(DEEP_TIMEOUT_S)(pytest.mark.slow(case))


def _case(
    machine: type[RuleBasedStateMachine], depth: str, examples: int, steps: int, **more: Any
) -> Any:
    case: Any = machine.TestCase
    case.settings = settings(
        max_examples=examples, stateful_step_count=steps, **{**_COMMON, **more}
    )
    # Hypothesis keeps one TestCase per machine: each depth gets a class of its own.
    return type(f"Test{machine.__name__}_{depth}", (case,), {"settings": case.settings})
