"""What happens to every cluster of this folder, as rules that its machines inherit.

Problem: who moves, who joins and who merely writes all live with the same network and the
same processes; said once for each, the rules drift apart.

Idea: a machine inherits from ``Network``, or from ``Processes``, where processes die and start
as well, and adds what it is about. Numbers of machines are taken modulo how many there are.

Invariants: every rule may be carried out in any condition of the cluster.
"""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from simulations.faults import clean_links
from tests.simulations.machines.cluster import Cluster

__all__ = ["MACHINES", "Network", "Processes"]

MACHINES = st.integers(0, 4)
"""A machine, by its number."""


class Network(RuleBasedStateMachine):
    """Machines are cut off, and all links are mended."""

    cluster: Cluster

    @rule(here=MACHINES)
    def isolate(self, here: int) -> None:
        """Let one machine reach nobody."""
        name = self.cluster.machine(here).name
        self.cluster.world.network.cut([name], list(self.cluster.world.machines))

    @rule()
    def heal(self) -> None:
        """Mend all links."""
        clean_links(self.cluster.world)


class Processes(Network):
    """And processes die, at once or between two effects, and are started."""

    @rule(index=MACHINES, silent=st.booleans())
    def crash(self, index: int, silent: bool) -> None:
        """Let one die; its peers are told, or not."""
        self.cluster.machine(index).crash(silent=silent)

    @rule(index=MACHINES, effects=st.integers(0, 12))
    def crash_between_effects(self, index: int, effects: int) -> None:
        """Let one die a few effects later."""
        machine = self.cluster.machine(index)
        if machine.up:
            machine.dies_after_effects = effects

    @rule(index=MACHINES)
    def start(self, index: int) -> None:
        """Start one, if it is down."""
        self.cluster.machine(index).start()
