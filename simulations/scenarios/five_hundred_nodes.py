"""Five hundred nodes in fifty regions, ten in each.

All know one machine only, the first, and hear of the others through it. What must hold:
all of them become members of one cluster; what one writes reaches all, relayed by a node
that was never told to; nobody's bookkeeping grows with the square of the members faster
than a minute of wall time allows.
"""

from simulations.regions import REGIONS
from simulations.stage import Stage

__all__ = ["SIMULATOR_ONLY", "SLOW", "TITLE", "play"]

TITLE = "Five hundred nodes"
SIMULATOR_ONLY = "five hundred processes are too many for one machine"
SLOW = True


def play(stage: Stage) -> None:
    """Play it."""
    stage.settings(sync__relayed_us=600_000_000, sync__acknowledge_us=100_000)
    stage.regions(*REGIONS, machines=10)
    stage.start(topology="star")
    stage.say("five hundred machines are one cluster")
    for number, region in enumerate(REGIONS):
        if number % 10 == 0:
            stage.write(f"{region}-7", f"from {region}", number)
    took_s = stage.converge(within_s=120)
    stage.say(f"all five hundred agree after {took_s:.1f} s")
    for machine in stage.machines[::37]:
        known = stage.read(machine, "from eu-west")
        stage.expect(known == 0, f"{machine} has heard from eu-west")
