"""The workloads, in one table.

A new workload is a module of this package and one line here.
"""

from __future__ import annotations

from typing import Final

from simulations.workloads.base import Workload
from simulations.workloads.budgets import Budgets
from simulations.workloads.counters import Counters
from simulations.workloads.documents import Documents
from simulations.workloads.expiring import Expiring
from simulations.workloads.hot_key import HotKey
from simulations.workloads.large import Large
from simulations.workloads.logs import Logs
from simulations.workloads.maps import Maps
from simulations.workloads.policies import Policies
from simulations.workloads.registers import Registers
from simulations.workloads.replays import AgentRuns, Conversations, Editing
from simulations.workloads.sessions import Sessions
from simulations.workloads.sets import Sets
from simulations.workloads.transactions import Transactions
from simulations.workloads.trust import Trusted

__all__ = ["WORKLOADS", "Workload"]

_ALL: Final[tuple[Workload, ...]] = (
    Registers(),
    Counters(),
    Budgets(),
    Sets(),
    Maps(),
    Logs(),
    Documents(),
    Transactions(),
    Policies(),
    Trusted(),
    Sessions(),
    HotKey(),
    Expiring(),
    Large(),
    Conversations(),
    AgentRuns(),
    Editing(),
)

WORKLOADS: Final[dict[str, Workload]] = {workload.name: workload for workload in _ALL}
"""Every workload by name; those that ``need`` recordings come last."""
