"""The workloads, in one table.

A new workload is a module of this package and one line here.
"""

from __future__ import annotations

from typing import Final

from simulations.workloads.base import Workload
from simulations.workloads.registers import Registers

__all__ = ["WORKLOADS", "Workload"]

_ALL: Final[tuple[Workload, ...]] = (Registers(),)

WORKLOADS: Final[dict[str, Workload]] = {workload.name: workload for workload in _ALL}
"""Every workload by name."""
