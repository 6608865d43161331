"""What the demo is asked, and what it answers."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["DemoOptions", "DemoReport"]


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """``input``: a file of real events; ``keep``: leave the data, and say where."""

    input: Path | None = None
    seed: int = 0
    keep: bool = False


@dataclass(slots=True)
class DemoReport:
    """How it ended."""

    seed: int
    cut_region: str
    converged: bool = False
    acknowledged: int = 0
    lost: int = 0
    digests: dict[str, str] = field(default_factory=dict)
    members: dict[str, dict[str, str]] = field(default_factory=dict)
    """By region: how its node sees each node of the cluster, itself included."""
    conflict_list: list[dict[str, Any]] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    elapsed_s: float = 0.0
    data: str | None = None

    @property
    def passed(self) -> bool:
        """Whether all regions agree, and nothing that was acknowledged is missing."""
        return self.converged and not self.lost and not self.faults

    def as_value(self) -> dict[str, Any]:
        """Return the report as ``crdtmem demo --json`` prints it."""
        return {
            "converged": self.converged,
            "acknowledged": self.acknowledged,
            "lost": self.lost,
            "conflicts": len(self.conflict_list),
            "digests": self.digests,
            "members": self.members,
            "cut_region": self.cut_region,
            "seed": self.seed,
            "elapsed_s": round(self.elapsed_s, 2),
            "data": self.data,
            "faults": self.faults,
            "conflict_list": self.conflict_list,
        }
