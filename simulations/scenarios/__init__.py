"""The scenarios that ship with the simulator, in one table.

Each is one file, readable as prose, against the interface of ``simulations.stage``. A new
one is a file here and its name in the list below; ``python -m simulations list`` shows
it, and the tests play it, from then on.
"""

from __future__ import annotations

from typing import Final

from simulations.scenarios import (
    agents_move,
    blocked_datagrams,
    both_sides_forced,
    bridge_node,
    budget_under_partition,
    clock_storm,
    cloned_node,
    disk_misery,
    evicted_returns,
    five_hundred_nodes,
    flapping_link,
    gateway_lost,
    half_the_cluster_dies,
    hot_key,
    internet_scale,
    late_snapshot,
    mass_restart,
    mesh_month_offline,
    month_offline,
    one_way_wan,
    region_loss,
    restored_backup,
    rolling_upgrade,
    rotating_keys,
    slow_peer,
    thundering_rejoin,
)
from simulations.stage import Scenario

__all__ = ["SCENARIOS"]

_FILES: Final = (
    region_loss,
    month_offline,
    flapping_link,
    one_way_wan,
    rolling_upgrade,
    clock_storm,
    disk_misery,
    restored_backup,
    cloned_node,
    thundering_rejoin,
    hot_key,
    evicted_returns,
    both_sides_forced,
    slow_peer,
    bridge_node,
    half_the_cluster_dies,
    budget_under_partition,
    late_snapshot,
    agents_move,
    internet_scale,
    five_hundred_nodes,
    mass_restart,
    blocked_datagrams,
    rotating_keys,
    gateway_lost,
    mesh_month_offline,
)

SCENARIOS: Final[dict[str, Scenario]] = {
    scenario.name: scenario for scenario in map(Scenario.of, _FILES)
}
"""Every scenario by name."""
