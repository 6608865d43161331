"""What a simulated run can find out, as one tree of errors.

SimulationError
├── Violation               the system broke a promise; ``checker`` names it
│   ├── SafetyViolation     something happened that never may            (exit code 10)
│   └── LivenessViolation   something did not happen in time             (exit code 11)
├── MachineFailed           production code raised, or stopped for a defect (exit code 12)
├── NeverReached            a campaign missed what it must have reached  (exit code 13)
├── TimedOut                a campaign ended a seed that took too long   (exit code 14)
└── BadPlan                 a plan, trace or scenario that cannot be run (exit code 2)
"""

from __future__ import annotations

__all__ = [
    "BadPlan",
    "LivenessViolation",
    "MachineFailed",
    "NeverReached",
    "SafetyViolation",
    "SimulationError",
    "TimedOut",
    "Violation",
]


class SimulationError(Exception):
    """Anything that a simulation has to say; ``exit_code`` is what a command ends with."""

    exit_code = 1


class Violation(SimulationError):
    """A promise was broken."""

    def __init__(self, checker: str, message: str) -> None:
        super().__init__(f"{checker}: {message}")
        self.checker = checker
        self.message = message


class SafetyViolation(Violation):
    """Something happened that may never happen."""

    exit_code = 10


class LivenessViolation(Violation):
    """Something that must happen did not, within its bound."""

    exit_code = 11


class MachineFailed(SimulationError):
    """Production code raised where it may not: the node stopped for a defect."""

    exit_code = 12


class NeverReached(SimulationError):
    """A campaign never got to what it is there to reach."""

    exit_code = 13


class TimedOut(SimulationError):
    """A seed took longer, by the wall clock, than a campaign waits for any."""

    exit_code = 14


class BadPlan(SimulationError):
    """What was asked for cannot be run; says why."""

    exit_code = 2
